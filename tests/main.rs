//! End-to-end tests: the built binary against a real Apache Kafka, PostgreSQL and Azurite.
//!
//! `make e2e` fetches the servers and runs this; `ARGS="golden"` filters by name, `ARGS="--list"` lists. The servers
//! are started once, on free ports, and stopped when the tests are over, also when they fail.

#![allow(unreachable_pub, reason = "nothing is exported: `pub` marks what the modules share")]

mod bad_lines;
mod benchmarks;
mod blobs;
mod chaos;
mod conformance;
mod data;
mod golden;
mod kill;
mod late;
mod limits;
mod models;
mod outages;
mod pickles;
mod readme_sql;
mod restart;
mod scenario;
mod schedules;
mod training;

use fleetscore_harness::Servers;
use libtest_mimic::{Arguments, Trial};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Every trial runs processes of its own; two at a time keep two cores busy without making them wait.
    args.test_threads.get_or_insert(2);
    // Another build may be put to the test: an optimised one, or that of an image.
    let binary = std::env::var_os("FLEETSCORE_TEST_BINARY").map(PathBuf::from);
    let built = PathBuf::from(env!("CARGO_BIN_EXE_fleetscore"));
    let servers = Arc::new(Servers::new(&binary.unwrap_or(built)));
    let mut trials: Vec<Trial> = Vec::new();
    for module in [
        golden::trials,
        late::trials,
        limits::trials,
        kill::trials,
        restart::trials,
        schedules::trials,
        outages::trials,
        chaos::trials,
        bad_lines::trials,
        blobs::trials,
        pickles::trials,
        models::trials,
        readme_sql::trials,
        benchmarks::trials,
        training::trials,
        conformance::trials,
    ] {
        trials.extend(module(&servers));
    }
    if !args.list {
        match data::reference_folder() {
            Some(folder) => eprintln!("comparing with the reference data in {}", folder.display()),
            None => eprintln!(
                "NOTE: the reference data are not here: the comparison with the reference's golden results is left out; \
                 windows and predictions are proved on seeded data against an independent computation"
            ),
        }
    }
    // Nothing run is nothing shown: a mistyped filter is no success.
    let chosen = |name: &str| args.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    if !args.list && !trials.iter().any(|trial| chosen(trial.name())) {
        eprintln!("no test is called `{}`; ARGS=--list shows all", args.filter.unwrap_or_default());
        return ExitCode::FAILURE;
    }
    let conclusion = libtest_mimic::run(&args, trials);
    servers.stop();
    conclusion.exit_code()
}
