//! Small forms of benchmarks whose counts, labels and decisions are checked against plain arithmetic; times are printed and
//! judge nothing.
//!
//! `million`: import from Parquet, windows, run and publication of some thousand models. `workers`: four processes that are
//! killed and stopped past their leases at random. `rescore`: another model set over what is published, under a reader.
//! `outages`: the broker is killed for some seconds at a steady rate. `soak` and `latency`: some seconds of each.

use fleetscore_benchmarks::fleet::Fleet;
use fleetscore_benchmarks::live::{self, Load};
use fleetscore_benchmarks::million::{Scenario, measure};
use fleetscore_benchmarks::workers::{Site, faults};
use fleetscore_benchmarks::{latency, outages, rescore, soak};
use fleetscore_harness::database::Database;
use fleetscore_harness::{PATIENCE, Servers, Test};
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
        Trial::test("benchmarks::workers_under_faults", {
            let servers = servers.clone();
            move || workers_under_faults(&servers)
        }),
        Trial::test("benchmarks::rescore_under_a_reader", {
            let servers = servers.clone();
            move || rescore_under_a_reader(&servers)
        }),
        Trial::test("benchmarks::outage_of_kafka", {
            let servers = servers.clone();
            move || outage_of_kafka(&servers)
        }),
        Trial::test("benchmarks::soak", {
            let servers = servers.clone();
            move || soak_some_seconds(&servers)
        }),
        Trial::test("benchmarks::latency", {
            let servers = servers.clone();
            move || latency_of_some_seconds(&servers)
        }),
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

fn site(servers: &Servers, name: &str, shards: u32, lease: &str) -> Site {
    Site {
        fleetscore: PathBuf::from(env!("CARGO_BIN_EXE_fleetscore")),
        store: Database::postgres(servers).setting(),
        folder: servers.folder(name),
        shards,
        lease: lease.to_owned(),
    }
}

/// Every interval once, by four workers of which one is always dead, asleep or late.
fn workers_under_faults(servers: &Servers) -> Test {
    let scenario = faults::Scenario {
        site: site(servers, "workers", 4, "1s"),
        series: 600,
        intervals: 24,
        workers: 4,
        faults: 16,
        fault_every: 0.6,
        stop_seconds: 1.5,
        seed: u64::from(std::process::id()),
    };
    eprintln!("benchmarks::workers_under_faults: seed {}", scenario.seed);
    let measured = tokio::runtime::Runtime::new()?.block_on(faults::measure(&scenario))?;
    assert!(measured.kills + measured.stops >= scenario.faults);
    let proved = measured.proved;
    assert_eq!((proved.intervals, proved.shards), (24, 24 * 4));
    assert_eq!((proved.rows, proved.published), (24 * 600, 24 * 600));
    eprintln!("{measured:?}");
    Ok(())
}

/// Dry run, run and arithmetic agree; a reader sees every interval whole.
fn rescore_under_a_reader(servers: &Servers) -> Test {
    let scenario =
        rescore::Scenario { site: site(servers, "rescore", 3, "30s"), series: 400, intervals: 16, seed: 1 };
    let measured = tokio::runtime::Runtime::new()?.block_on(rescore::measure(&scenario))?;
    assert!(measured.changes > 0 && measured.polls > 1);
    eprintln!("{measured:?}");
    Ok(())
}

/// A fleet of 200 series.
const LIVE: Load = Load { seed: 1, partitions: 2, devices: 40, sensors: 5 };

/// Held back while the broker is away, and all there in the end; memory within its bound, health and log say so.
fn outage_of_kafka(servers: &Servers) -> Test {
    let scenario = outages::Scenario {
        load: LIVE,
        rate: 2_000.0,
        seconds: 8,
        lead_seconds: 4,
        // How soon is for the long form to judge.
        notice_seconds: PATIENCE.as_secs_f64(),
    };
    let mut site = live::Site::start(servers);
    let measured = outages::measure(&mut site, servers, &scenario, live::Server::Kafka)?;
    assert!(measured.readings > 0 && measured.compared.differences == 0);
    eprintln!("{measured:?}");
    Ok(())
}

/// The oracle agrees, samples and plots are made; whether they are flat takes longer to tell.
fn soak_some_seconds(servers: &Servers) -> Test {
    let scenario = soak::Scenario { load: LIVE, rate: 2_000.0, seconds: 15, sample_seconds: 1 };
    let measured = soak::measure(&live::Site::shared(servers), servers, &scenario)?;
    assert!(measured.samples.len() > 5 && measured.compared.differences == 0);
    assert!(measured.samples.iter().any(|s| s.to_sql.p99_s.is_some()), "no latency was measured");
    let folder = servers.folder("plots");
    measured.plot(&folder)?;
    assert_eq!(std::fs::read_dir(&folder)?.count(), 5, "four plots and the samples");
    eprintln!("{:?}", measured.compared);
    Ok(())
}

/// Every message of the stretch arrives in SQL and has its window scored, and the oracle agrees; how soon is for the long
/// form to judge.
fn latency_of_some_seconds(servers: &Servers) -> Test {
    let scenario = latency::Scenario { load: LIVE, percent: 50.0, rate: 2_000.0, seconds: 5.0 };
    let measured = latency::measure(&live::Site::shared(servers), servers, &scenario)?;
    assert!(!measured.committed_s.is_empty() && measured.committed_s.len() == measured.scored_s.len());
    assert!(!measured.closed_s.is_empty() && measured.compared.differences == 0);
    eprintln!("{:?}", latency::Spread::of(&measured.committed_s));
    Ok(())
}
