//! `benchmarks/million/run.sh`: one window for each of 10 k, 100 k and 1 M models, PostgreSQL and SQLite.

use clap::{Parser, ValueEnum};
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::command::{self, Common};
use fleetscore_benchmarks::fleet::Fleet;
use fleetscore_benchmarks::million::{self, Measured, Scenario};
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::server::Postgres;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One window for each of N models: windows in SQL to predictions in SQL, Parquet and CSV.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE")]
    fleetscore: PathBuf,
    /// Numbers of models.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    models: Vec<u32>,
    /// Stores.
    #[arg(long, value_delimiter = ',', default_value = "postgres,sqlite")]
    store: Vec<Kind>,
    /// Intervals scored for each number of models; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    repeats: u32,
    /// Makes the models and the windows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Postgres,
    Sqlite,
}

fn main() -> ExitCode {
    command::main("million", run(Args::parse()))
}

async fn run(args: Args) -> Result<()> {
    let mut report = Report::new("A million models");
    report.binary(&args.fleetscore)?;
    report.setting("repeats", format!("{} intervals each, medians; memory is the highest", args.repeats));
    report.setting(
        "in SQL, published",
        "from the run's start (before the model set is opened) to the commit, and to `_SUCCESS.json`",
    );
    report.setting("process", "from its start to its end: connecting and looking for intervals included");
    let mut models = args.models.clone();
    models.sort_unstable();
    for kind in &args.store {
        let server = match kind {
            Kind::Postgres => Some(Postgres::start(&args.common.pg_bin)?),
            Kind::Sqlite => None,
        };
        if let Some(server) = &server {
            report.setting("server", server.description()?);
        }
        let mut measured = Vec::new();
        for n in &models {
            eprintln!("{kind:?}: {n} models");
            measured.push(one(&args, server.as_ref(), *n).await?);
        }
        let name = if server.is_some() { "PostgreSQL" } else { "SQLite" };
        million::report(&mut report, name, &measured);
    }
    report.publish(args.common.json.as_deref())
}

async fn one(args: &Args, server: Option<&Postgres>, models: u32) -> Result<Measured> {
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    let database = format!("fleet_{models}");
    let store = match server {
        Some(server) => server.database(&database)?,
        None => sqlite(folder.path()),
    };
    let scenario = Scenario {
        fleetscore: args.fleetscore.canonicalize()?,
        store,
        folder: folder.path().to_owned(),
        fleet: Fleet::new(models, args.seed),
        repeats: args.repeats,
    };
    let measured = million::measure(&scenario).await?;
    if let Some(server) = server {
        server.drop_database(&database)?;
    }
    Ok(measured)
}

fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("fleetscore.db").display())
}
