//! A small form of `benchmarks/million`: import from Parquet, windows, run and publication of some thousand models. Counts
//! and decisions are checked against plain arithmetic; times are printed and judge nothing.

use crate::harness::database::Database;
use crate::harness::{Servers, Test};
use fleetscore_benchmarks::fleet::Fleet;
use fleetscore_benchmarks::million::{Scenario, measure};
use libtest_mimic::Trial;
use std::path::PathBuf;
use std::sync::Arc;

/// Models of the small form.
const MODELS: u32 = 2_000;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let (on_postgres, on_sqlite) = (servers.clone(), servers.clone());
    vec![
        Trial::test("benchmarks::million_postgres", move || {
            million(&on_postgres, &Database::postgres(&on_postgres))
        }),
        Trial::test("benchmarks::million_sqlite", move || million(&on_sqlite, &Database::sqlite(&on_sqlite))),
    ]
}

fn million(servers: &Servers, database: &Database) -> Test {
    let scenario = Scenario {
        fleetscore: PathBuf::from(env!("CARGO_BIN_EXE_fleetscore")),
        store: database.setting(),
        folder: servers.folder("million"),
        fleet: Fleet::new(MODELS, 1),
        repeats: 2,
    };
    let measured = tokio::runtime::Runtime::new()?.block_on(measure(&scenario))?;
    assert_eq!((measured.models, measured.runs.len()), (MODELS, 2));
    assert!(measured.set_bytes > 0 && measured.file_bytes > 0);
    // The same rows by a bare COPY, where the store has one.
    assert_eq!(measured.bare.len(), if matches!(database, Database::Postgres { .. }) { 2 } else { 0 });
    for run in &measured.runs {
        assert!(0.0 < run.in_sql && run.in_sql <= run.published, "{run:?}");
        eprintln!(
            "{MODELS} models: in SQL after {:.3} s, published after {:.3} s, the process took {:.3} s",
            run.in_sql, run.published, run.process
        );
    }
    Ok(())
}
