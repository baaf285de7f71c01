//! `benchmarks/workers/run.sh`: several `score` processes on one PostgreSQL, under faults and in growing and falling number.

use clap::{Parser, Subcommand};
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::command::{self, Common};
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::server::Postgres;
use fleetscore_benchmarks::workers::{Site, faults, scale};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Several worker processes on one PostgreSQL.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, global = true, env = "FLEETSCORE_BIN", value_name = "FILE", default_value = "fleetscore")]
    fleetscore: PathBuf,
    /// Makes the models, the windows and the faults.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// Shards of each run.
    #[arg(long, global = true, default_value_t = 4)]
    shards: u32,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Random `kill -9` and `SIGSTOP` past a lease; everything is checked in the end.
    Faults {
        /// Series.
        #[arg(long, default_value_t = 20_000)]
        series: u32,
        /// Intervals.
        #[arg(long, default_value_t = 200)]
        intervals: u32,
        /// Workers.
        #[arg(long, default_value_t = 4)]
        workers: usize,
        /// Faults, at least.
        #[arg(long, default_value_t = 120)]
        faults: u64,
        /// Seconds between two of them, on average.
        #[arg(long, default_value_t = 0.2)]
        every: f64,
    },
    /// Throughput of 1, 4, 0 and 2 workers with large models, and what idle ones cost.
    Scale {
        /// Series.
        #[arg(long, default_value_t = 1_000)]
        series: u32,
        /// Support vectors of each model.
        #[arg(long, default_value_t = 20_000)]
        vectors: usize,
        /// Intervals.
        #[arg(long, default_value_t = 3_000)]
        intervals: u32,
        /// Workers of each stage.
        #[arg(long, value_delimiter = ',', default_value = "1,4,0,2")]
        stages: Vec<usize>,
        /// Seconds of each stage.
        #[arg(long, default_value_t = 20.0)]
        seconds: f64,
        /// Seconds for which idle workers are watched.
        #[arg(long, default_value_t = 60.0)]
        idle: f64,
    },
}

fn main() -> ExitCode {
    command::main("workers", run(Args::parse()))
}

async fn run(args: Args) -> Result<()> {
    let name = match args.what {
        What::Faults { .. } => "Workers under faults",
        What::Scale { .. } => "Workers come and go",
    };
    let mut report = Report::new(name);
    report.binary(&args.fleetscore)?;
    let server = Postgres::start(&args.common.pg_bin)?;
    report.setting("server", server.description()?);
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    let store = server.database("fleet")?;
    measure(&args, folder.path(), store, &mut report).await.inspect_err(|_| keep_logs(folder.path()))?;
    report.publish(args.common.json.as_deref())
}

async fn measure(args: &Args, folder: &Path, store: String, report: &mut Report) -> Result<()> {
    let site = |lease: &str| -> Result<Site> {
        Ok(Site {
            fleetscore: args.fleetscore.canonicalize()?,
            store: store.clone(),
            folder: folder.to_owned(),
            shards: args.shards,
            lease: lease.to_owned(),
        })
    };
    match &args.what {
        What::Faults { series, intervals, workers, faults: least, every } => {
            let scenario = faults::Scenario {
                site: site("1s")?,
                series: *series,
                intervals: *intervals,
                workers: *workers,
                faults: *least,
                fault_every: *every,
                stop_seconds: 1.2,
                seed: args.seed,
            };
            faults::report(report, &scenario, &faults::measure(&scenario).await?);
        }
        What::Scale { series, vectors, intervals, stages, seconds, idle } => {
            let scenario = scale::Scenario {
                site: site("30s")?,
                series: *series,
                vectors: *vectors,
                intervals: *intervals,
                stages: stages.clone(),
                seconds: *seconds,
                idle_seconds: *idle,
                seed: args.seed,
            };
            scale::report(report, &scenario, &scale::measure(&scenario).await?);
        }
    }
    Ok(())
}

/// The end of each worker's log: the folder goes.
fn keep_logs(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "log"))
    {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        eprintln!("--- {}", path.display());
        tail.iter().rev().for_each(|line| eprintln!("{line}"));
    }
}
