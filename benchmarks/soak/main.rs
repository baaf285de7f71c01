//! `benchmarks/soak/run.sh`: half of the greatest rate for half an hour.

use clap::Parser;
use fleetscore_benchmarks::live::{Load, Site, rate};
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::soak::{Scenario, measure, report};
use fleetscore_benchmarks::{Result, command};
use fleetscore_harness::Servers;
use std::path::PathBuf;
use std::process::ExitCode;

/// A pipeline at half of the greatest rate for a long time.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE", default_value = "fleetscore")]
    fleetscore: PathBuf,
    /// Makes the readings.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Seconds between samples.
    #[arg(long, default_value_t = 10)]
    sample: u64,
    /// Share of the greatest rate.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// The greatest rate in readings a second; measured first where it is not given.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds for which the rate is measured.
    #[arg(long, default_value_t = 30)]
    rate_seconds: u64,
    /// Devices, of five sensors each.
    #[arg(long, default_value_t = 400)]
    devices: u32,
    /// Folder for plots and samples.
    #[arg(long, value_name = "DIR", default_value = "docs/soak")]
    plots: PathBuf,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    command::ended("soak", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut out = Report::new("Soak");
    out.binary(&args.fleetscore)?;
    let servers = Servers::new(&args.fleetscore.canonicalize()?);
    let load = Load { seed: args.seed, partitions: 4, devices: args.devices, sensors: 5 };
    let site = Site::start(&servers);
    let most = match args.rate {
        Some(rate) => rate,
        None => rate::measure(&site, &servers, &load, 100_000.0, args.rate_seconds)?.readings_a_second,
    };
    out.setting(
        "greatest rate",
        format!("{most:.0} readings/s committed, measured with a backlog, all on the same cores"),
    );
    let scenario = Scenario {
        load,
        rate: most * args.share,
        seconds: (args.minutes * 60.0) as u64,
        sample_seconds: args.sample,
    };
    let measured = measure(&site, &servers, &scenario).inspect_err(|_| servers.keep())?;
    measured.plot(&args.plots)?;
    let flat = report(&mut out, &scenario, &measured);
    drop(site);
    servers.stop();
    out.publish(args.json.as_deref())?;
    if flat { Ok(()) } else { Err("not all is flat".into()) }
}
