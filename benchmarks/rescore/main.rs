//! `benchmarks/rescore/run.sh`: a day scored again with another model set, while a reader polls what is published.

use clap::Parser;
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::rescore::{self, Scenario};
use fleetscore_benchmarks::server::Postgres;
use fleetscore_benchmarks::workers::Site;
use fleetscore_benchmarks::{Result, child};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

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
    /// Folder of PostgreSQL's programs.
    #[arg(
        long,
        env = "FLEETSCORE_TEST_PG_BIN",
        default_value = "/usr/lib/postgresql/15/bin",
        value_name = "DIR"
    )]
    pg_bin: PathBuf,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new();
    match runtime.map_err(Into::into).and_then(|r| r.block_on(run(Args::parse()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("rescore: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let mut report = Report::new("A day scored again with another model set");
    let version = child::succeed(Command::new(&args.fleetscore).arg("--version"))?.stdout;
    report.setting("binary", format!("{} ({})", args.fleetscore.display(), version.trim()));
    let server = Postgres::start(&args.pg_bin)?;
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
    report.publish(args.json.as_deref())
}
