//! PostgreSQL and blob storage stop in the middle of the work and come back: runs go on by themselves, say what they waited
//! for, and the end is exact.
//!
//! `FLEETSCORE_TEST_OUTAGE_S=60` makes each outage a minute long.

use crate::scenario::PATIENCE;
use fleetscore_benchmarks::fleet::Fleet;
use fleetscore_benchmarks::model_file::write_parquet;
use fleetscore_benchmarks::windows::Filler;
use fleetscore_harness::azurite::Azurite;
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::{Fleetscore, Service};
use fleetscore_harness::postgres::Postgres;
use fleetscore_harness::{Servers, Test, wait_until};
use fleetscore_schemas::time::Timestamp;
use libtest_mimic::Trial;
use std::sync::Arc;
use std::time::Duration;

const SERIES: u32 = 400;
const MINUTE: i64 = 60_000_000;
/// 2026-01-01T00:00:00Z
const START: Timestamp = Timestamp(1_767_225_600_000_000);

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let servers = servers.clone();
    vec![Trial::test("outages::of_sql_and_blobs", move || of_sql_and_blobs(&servers))]
}

fn length() -> Duration {
    let seconds = std::env::var("FLEETSCORE_TEST_OUTAGE_S").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// Puts windows of these panes in, as an aggregator would.
fn put(database: &Database, panes: std::ops::Range<u32>) -> Test {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut filler = Filler::open(&database.setting(), Fleet::new(SERIES, 1), SERIES, MINUTE).await?;
        for pane in panes {
            let start = START.plus_us(i64::from(pane) * MINUTE);
            filler.put(start, pane, start.plus_us(MINUTE)).await?;
        }
        Ok(())
    })
}

fn scored(database: &Database) -> Result<i64, String> {
    database.number("SELECT count(*) FROM runs WHERE state = 'succeeded'")
}

fn of_sql_and_blobs(servers: &Servers) -> Test {
    let (pg_folder, blob_folder) = (servers.folder("postgres"), servers.folder("azurite"));
    let postgres = Postgres::start(&pg_folder);
    let azurite = Azurite::start_on_disk(&blob_folder);
    let database = Database::Postgres { url: postgres.database() };
    let container = azurite.container();
    let mut fleetscore = Fleetscore::new(servers, &database, "unused")
        .with("--blobs", &format!("az://{container}/fleet"))
        .config("[schedules.default]\nshards = 3\nrepublish_gap = \"0s\"\n");
    for (name, value) in azurite.environment() {
        fleetscore = fleetscore.env(&name, &value);
    }
    let models = fleetscore.folder.join("models.parquet");
    write_parquet(&models, &Fleet::new(SERIES, 1))?;
    fleetscore.run(&["models", "import", &models.display().to_string()]);
    put(&database, 0..8)?;
    let workers = [fleetscore.start(&["score"]), fleetscore.start(&["score"])];
    wait_until("the first scored interval", PATIENCE, || match scored(&database)? {
        0 => Err("none".to_owned()),
        n => Ok(n),
    });

    let down = postgres.crash();
    std::thread::sleep(length());
    workers.iter().for_each(Service::assert_alive);
    let _postgres = down.start();
    put(&database, 8..12)?;
    database.wait_for("SELECT count(*) FROM runs WHERE state = 'succeeded'", 12, PATIENCE);

    let down = azurite.stop();
    put(&database, 12..20)?;
    database.wait_for("SELECT count(*) FROM runs WHERE state = 'succeeded'", 20, PATIENCE);
    std::thread::sleep(length());
    workers.iter().for_each(Service::assert_alive);
    assert!(
        database.number("SELECT count(*) FROM publications WHERE due")? > 0,
        "nothing was to be published"
    );
    let _azurite = down.start();
    database.wait_for("SELECT count(*) FROM publications WHERE due", 0, PATIENCE);

    for worker in &workers {
        worker.stop();
    }
    let said: String = workers.iter().map(|w| w.process.output()).collect();
    for what in
        ["waiting for SQL", "SQL is back after", "waiting for blob storage", "blob storage is back after"]
    {
        assert!(said.contains(what), "no word of `{what}` in\n{said}");
    }
    exact(&database, 20)
}

/// One prediction for each series and interval, with the decision of plain arithmetic, from runs that succeeded.
fn exact(database: &Database, intervals: u32) -> Test {
    let rows = database.rows(&format!(
        "SELECT {}, device, sensor, {}, prediction FROM predictions WHERE status = 'scored' AND NOT stale",
        database.micros("window_start"),
        database.exact("decision")
    ))?;
    let fleet = Fleet::new(SERIES, 1);
    let mut wanted = std::collections::HashMap::new();
    for pane in 0..intervals {
        for i in 0..SERIES {
            let name = fleet.name(i);
            wanted.insert(
                (START.0 + i64::from(pane) * MINUTE, name.device, name.sensor),
                fleet.decision(i, pane),
            );
        }
    }
    assert_eq!(rows.len(), wanted.len());
    for row in rows {
        let key = (row[0].parse()?, row[1].clone(), row[2].clone());
        let decision: f64 = row[3].parse()?;
        let expected =
            wanted.remove(&key).unwrap_or_else(|| panic!("{key:?} is not expected, or there twice"));
        assert!((decision - expected).abs() <= 1e-14, "{key:?}: {decision} for {expected}");
        assert_eq!(row[4], if expected <= 0.0 { "1" } else { "0" }, "{key:?}");
    }
    let other = database.number("SELECT count(*) FROM runs WHERE state <> 'succeeded'")?;
    assert_eq!(other, 0, "runs that did not succeed");
    Ok(())
}
