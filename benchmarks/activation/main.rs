//! `benchmarks/activation/run.sh`: two sets of a million models take turns while a worker scores every second.

use clap::Parser;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::activation::{self, Scenario};
use fleetscore_benchmarks::command::{self, Common};
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::server::Postgres;
use std::path::PathBuf;
use std::process::ExitCode;

/// Activation and rollback of large model sets under a worker that scores every second, on PostgreSQL.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE")]
    fleetscore: PathBuf,
    /// Models of each set.
    #[arg(long, default_value_t = 1_000_000)]
    models: u32,
    /// Series with a window in every interval. Fewer than models, so that an interval of a large set fits into a second:
    /// the intervals are then late ones, which have rows for these series alone.
    #[arg(long, default_value_t = 10_000)]
    scored_series: u32,
    /// Intervals, one a second.
    #[arg(long, default_value_t = 60)]
    intervals: u32,
    /// Seconds between two changes of the active set.
    #[arg(long, default_value_t = 5.0)]
    every: f64,
    /// Makes the models and the windows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    command::main("activation", run(Args::parse()))
}

async fn run(args: Args) -> Result<()> {
    let mut report = Report::new("Activation and rollback under load");
    report.binary(&args.fleetscore)?;
    let server = Postgres::start(&args.common.pg_bin)?;
    report.setting("server", server.description()?);
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    let scenario = Scenario {
        fleetscore: args.fleetscore.canonicalize()?,
        store: server.database("fleet")?,
        folder: folder.path().to_owned(),
        models: args.models,
        scored_series: args.scored_series.min(args.models),
        intervals: args.intervals,
        every: args.every,
        seed: args.seed,
    };
    let measured = activation::measure(&scenario).await?;
    activation::report(&mut report, &scenario, &measured);
    report.publish(args.common.json.as_deref())
}
