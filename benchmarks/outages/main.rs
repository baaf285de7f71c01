//! `benchmarks/outages/run.sh`: Kafka, PostgreSQL and blob storage are away for a while each, at full rate.

use clap::Parser;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::command::{Live, ended};
use fleetscore_benchmarks::live::{Server, Site};
use fleetscore_benchmarks::outages::{NOTICE_SECONDS, Scenario, measure, report};
use fleetscore_benchmarks::report::Report;
use fleetscore_harness::Servers;
use std::process::ExitCode;

/// Each server in turn is away while readings go on coming at full rate.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    live: Live,
    /// Which servers, in this order.
    #[arg(long, value_delimiter = ',', default_value = "kafka,postgres,blobs", value_parser = server)]
    servers: Vec<Server>,
    /// How long each is away.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// How long readings come before that.
    #[arg(long, default_value_t = 20)]
    lead: u64,
}

fn server(name: &str) -> std::result::Result<Server, String> {
    match name {
        "kafka" => Ok(Server::Kafka),
        "postgres" => Ok(Server::Postgres),
        "blobs" => Ok(Server::Blobs),
        _ => Err("kafka, postgres or blobs".into()),
    }
}

fn main() -> ExitCode {
    ended("outages", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut out = Report::new("Outages at full rate");
    out.binary(&args.live.fleetscore)?;
    let servers = Servers::new(&args.live.fleetscore.canonicalize()?);
    let load = args.live.load();
    let mut site = Site::start(&servers);
    let rate = args.live.greatest_rate(&site, &servers, &mut out)?;
    let scenario = Scenario {
        load,
        rate,
        seconds: args.seconds,
        lead_seconds: args.lead,
        notice_seconds: NOTICE_SECONDS,
    };
    let mut all = Vec::new();
    for server in &args.servers {
        let measured = measure(&mut site, &servers, &scenario, *server).inspect_err(|_| servers.keep())?;
        eprintln!("{measured:?}");
        all.push(measured);
    }
    report(&mut out, &scenario, &all);
    drop(site);
    servers.stop();
    out.publish(args.live.json.as_deref())
}
