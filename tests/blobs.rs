//! Predictions in Azure blobs (Azurite) equal those in SQL, to every reader; a rerun changes nothing.

use crate::data::{Dataset, reference, seeded};
use crate::scenario::{PATIENCE, rfc3339, topic, wait_until_scored};
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::Fleetscore;
use fleetscore_harness::{Servers, Test, setup_variable, wait_until};
use fleetscore_oracle::{self as oracle, Edges};
use libtest_mimic::Trial;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let servers = servers.clone();
    vec![Trial::test("blobs::equal_sql", move || equal_sql(&servers, &reference().unwrap_or_else(seeded)))]
}

/// Objects of the container: path → (e-tag, bytes).
pub fn download(environment: &[(String, String)], container: &str) -> BTreeMap<String, (String, Vec<u8>)> {
    use futures::TryStreamExt;
    let url = environment
        .iter()
        .find(|(k, _)| k == "AZURITE_BLOB_STORAGE_URL")
        .expect("set by the harness")
        .1
        .clone();
    let store = MicrosoftAzureBuilder::new()
        .with_endpoint(format!("{url}/{}", fleetscore_harness::azurite::ACCOUNT))
        .with_allow_http(true)
        .with_account(fleetscore_harness::azurite::ACCOUNT)
        .with_access_key(fleetscore_harness::azurite::KEY)
        .with_container_name(container)
        .build()
        .expect("a client of the emulator");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut objects = BTreeMap::new();
        for meta in store.list(None).try_collect::<Vec<_>>().await.expect("the container lists") {
            let bytes = store
                .get(&meta.location)
                .await
                .expect("the object is there")
                .bytes()
                .await
                .expect("its bytes");
            objects.insert(meta.location.to_string(), (meta.e_tag.unwrap_or_default(), bytes.to_vec()));
        }
        objects
    })
}

/// Reads published files by another program; one line a row.
pub fn read_by(how: &str, folder: &Path, files: &[String]) -> BTreeSet<String> {
    let out = Command::new(setup_variable("FLEETSCORE_TEST_PYTHON"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_published.py"))
        .arg(how)
        .args(files)
        .current_dir(folder)
        .output()
        .expect("python starts");
    assert!(out.status.success(), "{how}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

/// Rows in SQL in the form `read_published.py` prints.
pub fn in_sql(database: &Database) -> BTreeSet<String> {
    let sql = format!(
        "SELECT {}, device, sensor, {}, prediction, {}, status FROM predictions",
        database.micros("window_start"),
        database.exact("value"),
        database.exact("decision")
    );
    let number = |s: &str| s.parse::<f64>().map(|x| format!("{x:?}")).unwrap_or_default();
    let rows = database.rows(&sql).expect("the view answers");
    rows.iter()
        .map(|r| {
            let cells = [&r[0], &r[1], &r[2], &number(&r[3]), &r[4], &number(&r[5]), &r[6]];
            cells.map(String::as_str).join("|")
        })
        .collect()
}

/// As Rust prints floats: Python writes `1e-05` where Rust writes `1e-5`.
pub fn normalised(rows: BTreeSet<String>) -> BTreeSet<String> {
    rows.into_iter()
        .map(|row| {
            let mut cells: Vec<String> = row.split('|').map(str::to_owned).collect();
            for i in [3, 5] {
                if let Ok(x) = cells[i].parse::<f64>() {
                    cells[i] = format!("{x:?}");
                }
            }
            cells.join("|")
        })
        .collect()
}

fn equal_sql(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::postgres(servers);
    let azurite = servers.azurite();
    let (topic, container) = (topic("blobs"), azurite.container());
    let mut fleetscore =
        Fleetscore::new(servers, &database, &topic).with("--blobs", &format!("az://{container}/fleet"));
    for (name, value) in azurite.environment() {
        fleetscore = fleetscore.env(&name, &value);
    }
    fleetscore.run(&["models", "import", &data.models.display().to_string()]);
    fleetscore.run(&["send", "--csv", &data.csv.display().to_string(), "--create-topic", "2"]);
    let up = fleetscore.start(&["up"]);
    let windows = oracle::windows(&data.readings, 60_000_000, 60_000_000, Edges::Start);
    let intervals: BTreeSet<i64> = windows.keys().map(|k| k.0).collect();
    wait_until_scored(
        &up,
        &database,
        data.readings.len(),
        &[("default", oracle::predictions(&windows, &data.numbers).len())],
    );
    let environment = azurite.environment();
    let objects = wait_until("every interval's _SUCCESS.json", PATIENCE, || {
        let objects = download(&environment, &container);
        let done = objects.keys().filter(|k| k.ends_with("_SUCCESS.json")).count();
        if done == intervals.len() { Ok(objects) } else { Err(format!("{done} of {}", intervals.len())) }
    });
    up.stop();

    let folder = servers.folder("published");
    let (mut parquet, mut plain) = (Vec::new(), Vec::new());
    for (path, (_, bytes)) in &objects {
        let file = path.replace('/', "_");
        if path.ends_with("predictions.parquet") {
            parquet.push(file.clone());
        } else if path.ends_with("predictions.csv") {
            plain.push(file.clone());
        }
        std::fs::write(folder.join(file), bytes)?;
    }
    assert_eq!((parquet.len(), plain.len()), (intervals.len(), intervals.len()));
    let sql = in_sql(&database);
    assert!(sql.len() > 100);
    for (how, files) in [("pyarrow", &parquet), ("datafusion", &parquet), ("csv", &plain)] {
        assert_eq!(normalised(read_by(how, &folder, files)), sql, "read by {how}");
    }
    let first = intervals.iter().next().expect("an interval");
    let name = chrono::DateTime::from_timestamp_micros(*first).expect("a time").format("%Y%m%dT%H%M%SZ");
    let success = format!("fleet/predictions/schedule=default/interval={name}/_SUCCESS.json");
    let json: serde_json::Value = serde_json::from_slice(&objects[&success].1)?;
    assert!(json.to_string().contains("predictions.parquet"), "{json}");

    // A rerun of everything changes nothing: not a row, not an object.
    let rows = "SELECT schedule, window_start, device, sensor, value, prediction, decision, status, model_set, model, \
                window_version, run_id, scored_at FROM predictions ORDER BY 1, 2, 3, 4";
    let before = database.rows(rows)?;
    let (from, to) = (rfc3339(*first), rfc3339(intervals.iter().last().expect("one") + 60_000_000));
    fleetscore.run(&["run", "--from", &from, "--to", &to]);
    assert_eq!(database.rows(rows)?, before, "rows of a rerun");
    let up = fleetscore.start(&["up"]);
    std::thread::sleep(std::time::Duration::from_secs(5));
    up.stop();
    let after = download(&environment, &container);
    for (path, (tag, _)) in &objects {
        if path.contains("/predictions/") {
            assert_eq!(after.get(path).map(|o| &o.0), Some(tag), "{path} was written again");
        }
    }
    let wrong = fleetscore.fail(&["run", "--from", "2018-08-28T23:00:01Z", "--to", &to], 2);
    assert!(wrong.contains("interval") || wrong.contains("align"), "{wrong}");
    Ok(())
}
