//! `benchmarks/outages/run.sh`: Kafka, PostgreSQL and blob storage are away for a while each, at full rate.

use clap::Parser;
use fleetscore_benchmarks::live::{Load, Server, Site, rate};
use fleetscore_benchmarks::outages::{NOTICE_SECONDS, Scenario, measure, report};
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::{Result, command};
use fleetscore_harness::Servers;
use std::path::PathBuf;
use std::process::ExitCode;

/// Each server in turn is away while readings go on coming at full rate.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE", default_value = "fleetscore")]
    fleetscore: PathBuf,
    /// Makes the readings.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which servers, in this order.
    #[arg(long, value_delimiter = ',', default_value = "kafka,postgres,blobs", value_parser = server)]
    servers: Vec<Server>,
    /// How long each is away.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// How long readings come before that.
    #[arg(long, default_value_t = 20)]
    lead: u64,
    /// Readings a second; measured first where it is not given.
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

fn server(name: &str) -> std::result::Result<Server, String> {
    match name {
        "kafka" => Ok(Server::Kafka),
        "postgres" => Ok(Server::Postgres),
        "blobs" => Ok(Server::Blobs),
        _ => Err("kafka, postgres or blobs".into()),
    }
}

fn main() -> ExitCode {
    command::ended("outages", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut out = Report::new("Outages at full rate");
    out.binary(&args.fleetscore)?;
    let servers = Servers::new(&args.fleetscore.canonicalize()?);
    let load = Load { seed: args.seed, partitions: 4, devices: args.devices, sensors: 5 };
    let mut site = Site::start(&servers);
    let rate = match args.rate {
        Some(rate) => rate,
        None => {
            let rate = rate::measure(&site, &servers, &load, 100_000.0, args.rate_seconds)?;
            out.setting(
                "greatest rate",
                format!(
                    "{:.0} readings/s committed, measured over {:.1} s with a backlog, producer and servers on the same cores",
                    rate.readings_a_second, rate.seconds
                ),
            );
            eprintln!("{rate:?}");
            rate.readings_a_second
        }
    };
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
    out.publish(args.json.as_deref())
}
