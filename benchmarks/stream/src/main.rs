//! `benchmarks/stream/run.sh`: from messages to windows, stage by stage.

mod bare;
mod checkpoint;
mod consume;
mod core;
mod decode;
mod fill;
mod flame;
mod kafka;
mod known;
mod messages;
mod panes;
mod peers;
mod tables;

use clap::{Parser, Subcommand};
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::command::{Common, ended};
use fleetscore_benchmarks::report::Report;
use std::process::ExitCode;

/// From messages to windows: what each stage takes, beside others that do the same work in the same run.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Messages to Arrow columns, one core.
    Decode(decode::Args),
    /// Messages to panes, one core, without a broker and a database.
    Panes(panes::Args),
    /// Kafka to windows committed in PostgreSQL and in SQLite, beside the bare client.
    Kafka(kafka::Args),
    /// Kafka to windows committed in PostgreSQL by number of series, where all of them are known.
    Known(known::Args),
    /// One checkpoint into PostgreSQL, beside a bare COPY and a plain statement.
    Checkpoint(checkpoint::Args),
    /// The bare client: what `kafka` runs beside.
    #[command(hide = true)]
    Bare(bare::Args),
}

fn main() -> ExitCode {
    fleetscore_aggregator::memory::share_pools();
    let args = Args::parse();
    ended("stream", run(&args))
}

fn run(args: &Args) -> Result<()> {
    let Common { pg_bin, json } = &args.common;
    let mut report = Report::new("The stream");
    match &args.what {
        What::Decode(args) => decode::run(args, &mut report)?,
        What::Panes(args) => panes::run(args, &mut report)?,
        What::Kafka(args) => kafka::run(args, pg_bin, &mut report)?,
        What::Known(args) => known::run(args, pg_bin, &mut report)?,
        What::Checkpoint(args) => checkpoint::run(args, pg_bin, &mut report)?,
        What::Bare(args) => return bare::run(args),
    }
    report.publish(json.as_deref())
}
