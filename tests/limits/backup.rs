//! A store from a backup that is older than the topic and the blobs: it comes to the same end.

use super::*;
use crate::data::{Dataset, seeded};
use crate::scenario::{pipeline, single_messages, topic};
use fleetscore_harness::kafka::Message;
use fleetscore_harness::setup_variable;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Copies a store while it is in use.
fn copy(servers: &Servers, database: &Database) -> Database {
    match database {
        Database::Sqlite { file } => {
            let copy = servers.folder("backup").join("fleetscore.db");
            let made = Command::new("sqlite3")
                .args(["-cmd", ".timeout 10000"])
                .arg(file)
                .arg(format!(".backup '{}'", copy.display()))
                .output()
                .expect("sqlite3 starts");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            Database::Sqlite { file: copy }
        }
        Database::Postgres { url } => {
            let dump = PathBuf::from(setup_variable("FLEETSCORE_TEST_PG_BIN")).join("pg_dump");
            let mut dump =
                Command::new(dump).arg(url).stdout(Stdio::piped()).spawn().expect("pg_dump starts");
            let new = Database::postgres(servers);
            let Database::Postgres { url } = &new else { unreachable!("made so") };
            let restored = Command::new("psql")
                .args(["-qX", "-v", "ON_ERROR_STOP=1", "--single-transaction"])
                .arg(url)
                .stdin(dump.stdout.take().expect("piped"))
                .output()
                .expect("psql starts");
            assert!(dump.wait().is_ok_and(|s| s.success()), "pg_dump");
            assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
            new
        }
    }
}

/// What users see of a store, but for its own numbers and clocks.
#[derive(Debug, PartialEq)]
struct Seen {
    windows: Vec<Vec<String>>,
    predictions: Vec<Vec<String>>,
    letters: Vec<Vec<String>>,
    losses: i64,
}

fn seen(database: &Database) -> Result<Seen, String> {
    let payload = match database {
        Database::Postgres { .. } => "encode(payload, 'hex')",
        Database::Sqlite { .. } => "lower(hex(payload))",
    };
    Ok(Seen {
        windows: database.rows(&format!(
            "SELECT window_start, device, sensor, readings, {}, {}, {} FROM windows ORDER BY 1, 2, 3",
            database.exact("min"),
            database.exact("max"),
            database.exact("last"),
        ))?,
        predictions: database.rows(
            "SELECT window_start, device, sensor, status, prediction, model_set, stale \
             FROM predictions ORDER BY 1, 2, 3",
        )?,
        letters: database.rows(&format!(
            "SELECT kafka_partition, kafka_offset, position, code, {payload} FROM dead_letters ORDER BY 1, 2, 3, 4"
        ))?,
        losses: database.number("SELECT count(*) FROM loss_events")?,
    })
}

/// Published intervals: what the files say of each series, and the fence.
fn published(folder: &Path) -> BTreeMap<String, (Vec<Vec<String>>, i64)> {
    let root = folder.join("blobs/predictions/schedule=default");
    let mut found = BTreeMap::new();
    for interval in std::fs::read_dir(&root).expect("something is published") {
        let path = interval.expect("an entry").path();
        if path.is_file() {
            continue; // the locks of a file system that has no conditional writes
        }
        let success = std::fs::read(path.join("_SUCCESS.json")).expect("a complete interval");
        let success: serde_json::Value = serde_json::from_slice(&success).expect("JSON");
        let mut reader = csv::Reader::from_path(path.join("predictions.csv")).expect("predictions.csv");
        let rows =
            reader.records().map(|r| r.expect("a row").iter().take(5).map(str::to_owned).collect()).collect();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        found.insert(name, (rows, success["fence"].as_i64().expect("a fence")));
    }
    found
}

fn wait_until_done(service: &Service, database: &Database, data: &Dataset, n: usize, letters: i64) {
    wait_for_readings(service, database, n);
    database.wait_for("SELECT count(*) FROM dead_letters", letters, PATIENCE);
    let windows = oracle::windows(&data.readings[..n], MINUTE, MINUTE, Edges::Start);
    let scored = oracle::predictions(&windows, &data.numbers).len();
    database.wait_for(
        "SELECT count(*) FROM predictions WHERE status = 'scored' AND NOT stale",
        scored as i64,
        PATIENCE,
    );
    database.wait_for("SELECT count(*) FROM runs WHERE state IN ('waiting', 'running')", 0, PATIENCE);
    database.wait_for("SELECT count(*) FROM publications WHERE due", 0, PATIENCE);
}

fn bad(n: usize) -> Vec<Message> {
    (0..n).map(|i| Message { key: i.to_string(), payload: Some(format!("bad {i}").into_bytes()) }).collect()
}

pub(super) fn restored(servers: &Servers, database: Database) -> Test {
    let data = seeded();
    let topic = topic("backup");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 3);
    let fleetscore = pipeline(servers, &data, &database, &topic).config(
        "[schedules.default]\nrescore_delay = \"1s\"\nrescores_per_minute = \"off\"\nrepublish_gap = \"0s\"\n",
    );
    let (all, part) = (data.readings.len(), data.readings.len() / 3);
    let up = fleetscore.start(&["up"]);
    kafka.send(&topic, &bad(5));
    kafka.send(&topic, &single_messages(&data.readings[..part]));
    wait_for_readings(&up, &database, part);
    kafka.send(&topic, &single_messages(&data.readings[part..2 * part]));
    // In the middle of the work.
    let backup = copy(servers, &database);
    kafka.send(&topic, &bad(5));
    kafka.send(&topic, &single_messages(&data.readings[2 * part..]));
    wait_until_done(&up, &database, &data, all, 10);
    // Its folder is newer than the backup, and so is every blob.
    let models = data.models.display().to_string();
    fleetscore.run(&["models", "import", "--no-activate", &models]);
    up.stop();
    let (first, first_blobs) = (seen(&database)?, published(&fleetscore.folder));

    let fleetscore = fleetscore.with("--store", &backup.setting());
    let up = fleetscore.start(&["up"]);
    wait_until_done(&up, &backup, &data, all, 10);
    fleetscore.run(&["models", "import", "--no-activate", &models]);
    fleetscore.run(&["models", "verify"]);
    up.stop();
    assert_exact(&backup, &data.readings);
    assert_eq!(seen(&backup)?, first);
    assert_eq!(first.losses, 0);
    assert_eq!(backup.number("SELECT max(version) FROM model_sets")?, 2);
    let folders = std::fs::read_dir(fleetscore.folder.join("blobs/models"))?
        .filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with("2-")))
        .count();
    assert_eq!(folders, 2, "the same number, a folder each");

    let blobs = published(&fleetscore.folder);
    assert_eq!(blobs.keys().collect::<Vec<_>>(), first_blobs.keys().collect::<Vec<_>>());
    for (interval, (rows, fence)) in &blobs {
        let (before, fence_before) = &first_blobs[interval];
        assert_eq!(rows, before, "{interval}");
        assert!(fence >= fence_before, "{interval}: fence {fence} after {fence_before}");
    }
    Ok(())
}
