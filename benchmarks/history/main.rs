//! `benchmarks/history/run.sh`: how long a look at runs takes with thousands of them, and how they go.

use clap::Parser;
use fleetscore_benchmarks::command::{self, Common};
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};
use fleetscore_benchmarks::server::{Postgres, psql};
use fleetscore_benchmarks::{Result, child};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{RunFilter, StoreOptions};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Looks at a history of runs, on PostgreSQL and SQLite.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE")]
    fleetscore: PathBuf,
    /// Runs, each number with a store of its own.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    runs: Vec<u32>,
    /// Times that each look is taken.
    #[arg(long, default_value_t = 15)]
    repeats: u32,
    #[command(flatten)]
    common: Common,
}

/// Start of the first interval: 2026-01-01T00:00:00Z.
const START_S: i64 = 1_767_225_600;

/// Views as an operator asks them.
const VIEWS: &[(&str, &str)] = &[
    ("runs, the newest ten", "SELECT * FROM runs ORDER BY interval_start DESC LIMIT 10"),
    (
        "runs that failed, the newest ten",
        "SELECT * FROM runs WHERE state = 'failed' ORDER BY interval_start DESC LIMIT 10",
    ),
    ("runs by state", "SELECT state, count(*), sum(scored) FROM runs GROUP BY state"),
    ("fires not made", "SELECT * FROM fires WHERE NOT made ORDER BY recorded_at DESC LIMIT 10"),
    ("tasks that are not done", "SELECT * FROM run_tasks WHERE state <> 'done' LIMIT 10"),
    ("schedules", "SELECT * FROM schedules"),
    ("events", "SELECT * FROM events ORDER BY id DESC LIMIT 10"),
    ("silences that go on", "SELECT * FROM silences WHERE ended_at IS NULL LIMIT 10"),
];

fn main() -> ExitCode {
    command::main("history", run(Args::parse()))
}

async fn run(args: Args) -> Result<()> {
    let mut report = Report::new("A history of runs");
    let server = Postgres::start(&args.common.pg_bin)?;
    report.setting("server", server.description()?);
    report.setting(
        "looks",
        format!(
            "medians of {}, in milliseconds; the command as a process, the others on an open connection",
            args.repeats
        ),
    );
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    for kind in ["PostgreSQL", "SQLite"] {
        let mut columns: Vec<Vec<(String, f64)>> = Vec::new();
        for runs in &args.runs {
            let url = match kind {
                "PostgreSQL" => server.database(&format!("history_{runs}"))?,
                _ => format!("sqlite:{}", folder.path().join(format!("{runs}.db")).display()),
            };
            columns.push(looks(&args, &url, *runs).await?);
        }
        let headings: Vec<String> = args.runs.iter().map(|n| format!("{n} runs")).collect();
        let mut all = vec!["look"];
        all.extend(headings.iter().map(String::as_str));
        all.push("last / first");
        let mut table = Table::new(kind, &all);
        for (i, (what, first)) in columns[0].iter().enumerate() {
            let mut row = vec![Cell::from(what.clone())];
            row.extend(columns.iter().map(|c| Cell::number(c[i].1, 2)));
            row.push(Cell::number(columns.last().map(|c| c[i].1 / first), 2));
            table.row(row);
        }
        report.table(table);
        if let Some(at) = args.runs.iter().position(|n| *n == 10_000) {
            // The last row removes runs, and is no look.
            let looks = &columns[at][..columns[at].len() - 1];
            let slowest = looks.iter().map(|l| l.1).fold(0.0, f64::max);
            report.goal(Goal::at_most(format!("{kind}: every look at 10,000 runs, ms"), 100.0, slowest));
        }
    }
    report.publish(args.common.json.as_deref())
}

/// Milliseconds of each look at a store with so many runs.
async fn looks(args: &Args, url: &str, runs: u32) -> Result<Vec<(String, f64)>> {
    let store = fleetscore_store::open(url, &StoreOptions::default()).await?;
    store.migrate().await?;
    match url.strip_prefix("sqlite:") {
        Some(file) => sqlite3(file, &fill_sqlite(runs))?,
        None => drop(psql(url, &fill_postgres(runs))?),
    }
    let mut looks = Vec::new();
    let newest = RunFilter { limit: 20, ..RunFilter::default() };
    let failed =
        RunFilter { states: vec![RunState::Failed], schedule: Some("default".into()), ..newest.clone() };
    for (what, filter) in
        [("`runs list`, its statement", &newest), ("`runs list --state failed`, its statement", &failed)]
    {
        let mut times = Vec::new();
        for _ in 0..args.repeats {
            let begun = Instant::now();
            let found = store.runs(filter).await?.len();
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            if found != 20 {
                return Err(format!("{what}: {found} rows").into());
            }
        }
        looks.push((what.to_owned(), median(&times).unwrap_or_default()));
    }
    let mut times = Vec::new();
    for _ in 0..args.repeats {
        let mut command = Command::new(&args.fleetscore);
        command.args(["runs", "list", "--store", url]).current_dir(std::env::temp_dir());
        times.push(child::succeed(&mut command)?.seconds * 1e3);
    }
    looks.push(("`fleetscore runs list`, the process".to_owned(), median(&times).unwrap_or_default()));
    for (what, sql) in VIEWS {
        let mut times = Vec::new();
        for _ in 0..args.repeats {
            let begun = Instant::now();
            store.query(sql).await?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        looks.push(((*what).to_owned(), median(&times).unwrap_or_default()));
    }
    let begun = Instant::now();
    let far = Timestamp((START_S + 60 * i64::from(runs) * 2) * 1_000_000);
    let gone = store.forget_runs(far, far, 1000).await?;
    if gone != 1000.min(u64::from(runs)) {
        return Err(format!("retention removed {gone} runs").into());
    }
    looks.push(("retention removes 1,000 runs".to_owned(), begun.elapsed().as_secs_f64() * 1e3));
    Ok(looks)
}

/// Runs of a minute each, one in fifty failed, one in two hundred a skipped range, each with its shard and its events.
fn fill_postgres(runs: u32) -> String {
    format!(
        "INSERT INTO schedule_data (name, window_us, hop_us, settings) VALUES ('default', 60000000, 60000000, '{{}}');
         INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, opened_at,
            started_at, finished_at, shards, shards_done, note)
         SELECT gen_random_uuid(), 'default', t, t + interval '1 minute',
            CASE WHEN i % 200 = 0 THEN 'skipped' WHEN i % 50 = 1 THEN 'failed' ELSE 'succeeded' END,
            CASE WHEN i % 200 = 0 THEN 'gap' ELSE 'schedule' END, 1, 1000, t, t, t, 1, 1, 'a note'
         FROM (SELECT i, to_timestamp({START_S} + 60 * i) AS t FROM generate_series(1, {runs}) AS i) AS g;
         INSERT INTO run_task_data (schedule, interval_start, shard, interval_end, run_id, state, opened_at)
         SELECT schedule, interval_start, 0, interval_end, run_id, 'done', opened_at FROM run_data WHERE state <> 'skipped';
         INSERT INTO run_event_data (run_id, event) SELECT run_id, e FROM run_data, unnest(ARRAY['running', 'started', 'succeeded']) AS e;
         ANALYZE;"
    )
}

fn fill_sqlite(runs: u32) -> String {
    let start = START_S * 1_000_000;
    format!(
        "INSERT INTO schedule_data (name, window_us, hop_us, settings, created_at) VALUES ('default', 60000000, 60000000, '{{}}', 0);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {runs})
         INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, opened_at,
            started_at, finished_at, shards, shards_done, note)
         SELECT printf('%08x-0000-4000-8000-%012x', i, i), 'default', t, t + 60000000,
            CASE WHEN i % 200 = 0 THEN 'skipped' WHEN i % 50 = 1 THEN 'failed' ELSE 'succeeded' END,
            CASE WHEN i % 200 = 0 THEN 'gap' ELSE 'schedule' END, 1, 1000, t, t, t, 1, 1, 'a note'
         FROM (SELECT i, {start} + 60000000 * i AS t FROM n);
         INSERT INTO run_task_data (schedule, interval_start, shard, interval_end, run_id, state, opened_at, updated_at)
         SELECT schedule, interval_start, 0, interval_end, run_id, 'done', opened_at, opened_at FROM run_data WHERE state <> 'skipped';
         INSERT INTO run_event_data (run_id, at, event)
         SELECT run_id, opened_at, e.value FROM run_data, json_each('[\"running\", \"started\", \"succeeded\"]') AS e;"
    )
}

/// Runs a script by the stock client.
fn sqlite3(file: &str, script: &str) -> Result<()> {
    child::succeed(Command::new("sqlite3").args(["-batch", "-bail", file, script]))?;
    Ok(())
}
