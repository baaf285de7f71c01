//! `benchmarks/rescore/run.sh`: a day scored again with another model set, while a reader polls what is published.

use clap::Parser;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::command::{self, Common};
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::rescore::{self, Scenario};
use fleetscore_benchmarks::server::Postgres;
use fleetscore_benchmarks::workers::Site;
use std::path::PathBuf;
use std::process::ExitCode;

/// A day of intervals scored again with another model set, on PostgreSQL.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE")]
    fleetscore: PathBuf,
    /// Series.
    #[arg(long, default_value_t = 10_000)]
    series: u32,
    /// Intervals of a minute.
    #[arg(long, default_value_t = 1_440)]
    intervals: u32,
    /// Shards of each run.
    #[arg(long, default_value_t = 2)]
    shards: u32,
    /// Makes the models and the windows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    command::main("rescore", run(Args::parse()))
}

async fn run(args: Args) -> Result<()> {
    let mut report = Report::new("A day scored again with another model set");
    report.binary(&args.fleetscore)?;
    let server = Postgres::start(&args.common.pg_bin)?;
    report.setting("server", server.description()?);
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    let site = Site {
        fleetscore: args.fleetscore.canonicalize()?,
        store: server.database("fleet")?,
        folder: folder.path().to_owned(),
        shards: args.shards,
        lease: "30s".into(),
    };
    let scenario = Scenario { site, series: args.series, intervals: args.intervals, seed: args.seed };
    let measured = rescore::measure(&scenario).await?;
    rescore::report(&mut report, &scenario, &measured);
    report.publish(args.common.json.as_deref())
}
