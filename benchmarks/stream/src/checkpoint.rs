//! One checkpoint of many windows into PostgreSQL, all of them new and then all of them changed, beside what PostgreSQL takes
//! for the same rows by a bare COPY and by one plain statement.

use crate::messages::{PANE_US, START_US};
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::bare;
use fleetscore_benchmarks::fleet::Fleet;
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};
use fleetscore_benchmarks::server::{Postgres, psql};
use fleetscore_benchmarks::windows::Filler;
use fleetscore_schemas::time::Timestamp;
use std::path::Path;

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Windows of one checkpoint, each of another series.
    #[arg(long, default_value_t = 1_000_000)]
    series: u32,
    /// Repetitions, each in a pane of its own; medians are shown.
    #[arg(long, default_value_t = 3)]
    repeats: u32,
}

/// Measures and reports.
pub(crate) fn run(args: &Args, pg_bin: &Path, report: &mut Report) -> Result<()> {
    let postgres = Postgres::start(pg_bin)?;
    report.setting("server", postgres.description()?);
    report.setting("windows", args.series.to_string());
    let url = postgres.database("checkpoint")?;
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut new, mut changed, mut copy, mut upsert) = (vec![], vec![], vec![], vec![]);
    let fleet = Fleet::new(args.series, 1);
    let mut filler = runtime.block_on(Filler::open(&url, fleet, args.series, PANE_US))?;
    for repeat in 0..args.repeats {
        let start = Timestamp(START_US + i64::from(repeat) * PANE_US);
        let end = start.plus_us(PANE_US);
        new.push(runtime.block_on(filler.put(start, repeat, end))?);
        let bare = bare::merge(&url, start, folder.path())?;
        copy.push(bare.copy);
        upsert.push(bare.upsert);
        changed.push(runtime.block_on(filler.put(start, repeat, end))?);
        let wrong = "SELECT count(*) FILTER (WHERE version <> 2 OR readings % 2 = 1) FROM windows";
        let rows = format!("SELECT count(*) FROM windows WHERE window_start = '{}'", start.to_rfc3339());
        let said = [psql(&url, &format!("{wrong};"))?, psql(&url, &format!("{rows};"))?];
        if said.each_ref().map(|s| s.trim().to_owned()) != ["0".to_owned(), args.series.to_string()] {
            return Err(format!("the windows are not what was put in: {said:?}").into());
        }
    }
    let mut table =
        Table::new("A checkpoint into PostgreSQL, s", &["what", "median", "least", "most", "ours / this"]);
    let middle = |all: &[f64]| median(all).unwrap_or(f64::NAN);
    let rows = [
        ("all windows new", &new, &new),
        ("a bare COPY of them", &copy, &new),
        ("all windows changed", &changed, &changed),
        ("one plain ON CONFLICT DO UPDATE", &upsert, &changed),
    ];
    for (what, all, ours) in rows {
        let [shown, least, most] = Cell::spread(all, 2);
        table.row(vec![what.into(), shown, least, most, Cell::number(middle(ours) / middle(all), 2)]);
    }
    report.table(table);
    report.goal(Goal::at_most("new windows / a bare COPY", 1.5, middle(&new) / middle(&copy)));
    report.goal(Goal::at_most(
        "changed windows / one ON CONFLICT DO UPDATE",
        0.5,
        middle(&changed) / middle(&upsert),
    ));
    Ok(())
}
