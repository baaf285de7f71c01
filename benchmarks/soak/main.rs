//! `benchmarks/soak/run.sh`: half of the greatest rate for half an hour.

use clap::Parser;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::command::{Live, ended};
use fleetscore_benchmarks::live::Site;
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::soak::{Scenario, measure, report};
use fleetscore_harness::Servers;
use std::path::PathBuf;
use std::process::ExitCode;

/// A pipeline at half of the greatest rate for a long time.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    live: Live,
    /// How long.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Seconds between samples.
    #[arg(long, default_value_t = 10)]
    sample: u64,
    /// Share of the greatest rate.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// Folder for plots and samples.
    #[arg(long, value_name = "DIR", default_value = "docs/soak")]
    plots: PathBuf,
}

fn main() -> ExitCode {
    ended("soak", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut out = Report::new("Soak");
    out.binary(&args.live.fleetscore)?;
    let servers = Servers::new(&args.live.fleetscore.canonicalize()?);
    let load = args.live.load();
    let site = Site::start(&servers);
    let most = args.live.greatest_rate(&site, &servers, &mut out)?;
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
    out.publish(args.live.json.as_deref())?;
    if flat { Ok(()) } else { Err("not all is flat".into()) }
}
