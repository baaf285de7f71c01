//! `benchmarks/latency/run.sh`: from arrival to SQL and to the prediction, at shares of the greatest rate.

use clap::Parser;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::command::{Live, ended};
use fleetscore_benchmarks::latency::{Scenario, Spread, measure, report};
use fleetscore_benchmarks::live::Site;
use fleetscore_benchmarks::report::Report;
use fleetscore_harness::Servers;
use std::process::ExitCode;

/// End-to-end latency at shares of the greatest rate.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    live: Live,
    /// How long messages are samples, for each load.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// The same in minutes.
    #[arg(long, conflicts_with = "seconds")]
    minutes: Option<f64>,
    /// Percent of the greatest rate.
    #[arg(long, value_delimiter = ',', default_value = "10,50,90")]
    loads: Vec<f64>,
}

fn main() -> ExitCode {
    ended("latency", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut out = Report::new("Latency");
    out.binary(&args.live.fleetscore)?;
    let servers = Servers::new(&args.live.fleetscore.canonicalize()?);
    let load = args.live.load();
    let site = Site::start(&servers);
    let most = args.live.greatest_rate(&site, &servers, &mut out)?;
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
    out.publish(args.live.json.as_deref())
}
