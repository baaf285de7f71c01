//! `benchmarks/latency/run.sh`: from arrival to SQL and to the prediction, at shares of the greatest rate.

use clap::Parser;
use fleetscore_benchmarks::latency::{Scenario, Spread, measure, report};
use fleetscore_benchmarks::live::{Load, Site, rate};
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::{Result, command};
use fleetscore_harness::Servers;
use std::path::PathBuf;
use std::process::ExitCode;

/// End-to-end latency at shares of the greatest rate.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE", default_value = "fleetscore")]
    fleetscore: PathBuf,
    /// Makes the readings.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long messages are samples, for each load.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// The same in minutes.
    #[arg(long, conflicts_with = "seconds")]
    minutes: Option<f64>,
    /// Percent of the greatest rate.
    #[arg(long, value_delimiter = ',', default_value = "10,50,90")]
    loads: Vec<f64>,
    /// The greatest rate in readings a second; measured first where it is not given.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds for which the rate is measured.
    #[arg(long, default_value_t = 30)]
    rate_seconds: u64,
    /// Devices, of five sensors each.
    #[arg(long, default_value_t = 400)]
    devices: u32,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    command::ended("latency", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut out = Report::new("Latency");
    out.binary(&args.fleetscore)?;
    let servers = Servers::new(&args.fleetscore.canonicalize()?);
    let load = Load { seed: args.seed, partitions: 4, devices: args.devices, sensors: 5 };
    let site = Site::start(&servers);
    let (most, how) = match args.rate {
        Some(rate) => (rate, "given"),
        None => (
            rate::measure(&site, &servers, &load, 100_000.0, args.rate_seconds)?.readings_a_second,
            "committed, measured with a backlog, all on the same cores",
        ),
    };
    out.setting("greatest rate", format!("{most:.0} readings/s, {how}"));
    let seconds = args.minutes.map_or(args.seconds, |minutes| minutes * 60.0);
    let mut measured = Vec::new();
    for percent in &args.loads {
        let scenario = Scenario { load, percent: *percent, rate: most * percent / 100.0, seconds };
        let one = measure(&site, &servers, &scenario).inspect_err(|_| servers.keep())?;
        eprintln!("{percent} % of {most:.0} readings/s: to SQL {:?}", Spread::of(&one.committed_s));
        measured.push(one);
    }
    report(&mut out, &measured);
    drop(site);
    servers.stop();
    out.publish(args.json.as_deref())
}
