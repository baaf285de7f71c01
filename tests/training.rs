//! A training that is killed is gone on with and gives the set that an unbroken one gives; so do the exported rows.

use crate::scenario::topic;
use fleetscore_benchmarks::fleet::Fleet;
use fleetscore_benchmarks::windows::Filler;
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::Fleetscore;
use fleetscore_harness::{Servers, Test, wait_until};
use fleetscore_schemas::time::Timestamp;
use libtest_mimic::Trial;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Five chunks of series, of this many windows each.
const SERIES: u32 = 5_000;
const WINDOWS: u32 = 60;
const MINUTE: i64 = 60_000_000;
const START: i64 = 25_000_000 * MINUTE;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let (on_postgres, on_sqlite) = (servers.clone(), servers.clone());
    vec![
        Trial::test("training::killed_postgres", move || {
            killed(&on_postgres, &Database::postgres(&on_postgres))
        }),
        Trial::test("training::killed_sqlite", move || killed(&on_sqlite, &Database::sqlite(&on_sqlite))),
    ]
}

/// Files of a folder and of those below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect();
    all.sort();
    all
}

fn killed(servers: &Servers, database: &Database) -> Test {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut filler = Filler::open(&database.setting(), Fleet::new(SERIES, 1), SERIES, MINUTE).await?;
        for pane in 0..WINDOWS {
            let start = Timestamp(START + i64::from(pane) * MINUTE);
            filler.put(start, pane, start.plus_us(MINUTE)).await?;
        }
        Ok::<_, fleetscore_benchmarks::Failure>(())
    })?;
    let fleetscore = Fleetscore::new(servers, database, &topic("training"));
    let models = fleetscore.folder.join("blobs/models");
    let command = ["models", "train", "--nu", "0.1", "--tolerance", "1e-7", "--json"];
    let json = |args: &[&str]| -> Result<serde_json::Value, serde_json::Error> {
        serde_json::from_str(&fleetscore.run(&[&command[..], args].concat()))
    };
    // The set's own checksum covers its version and its time too: the parts' say that the models are the same.
    let parts = |version: &serde_json::Value| -> Result<serde_json::Value, Box<dyn std::error::Error>> {
        let sql = format!("SELECT path FROM model_sets WHERE version = {version}");
        let path = database.rows(&sql)?.swap_remove(0).swap_remove(0);
        let manifest = std::fs::read(fleetscore.folder.join("blobs").join(path).join("manifest.json"))?;
        let parts = serde_json::from_slice::<serde_json::Value>(&manifest)?["parts"].take();
        assert!(parts.as_array().is_some_and(|parts| !parts.is_empty()), "{parts}");
        Ok(parts)
    };

    let service = fleetscore.start(&[&command[..], &["--threads", "1"]].concat());
    wait_until("a second finished chunk", Duration::from_secs(120), || {
        service.assert_alive();
        let done = files(&models.join("training"))
            .iter()
            .any(|f| f.to_string_lossy().ends_with("-chunk-00000001.parquet"));
        if done { Ok(()) } else { Err("not yet".into()) }
    });
    service.kill();
    assert_eq!(database.number("SELECT count(*) FROM model_sets")?, 0, "no set is half there");

    let resumed = json(&[])?;
    let done = resumed["resumed"].as_u64().ok_or("no number of resumed series")?;
    assert!((2_000..u64::from(SERIES)).contains(&done), "{done} were done");
    assert_eq!(resumed["trained"], SERIES);
    assert_eq!(resumed["windows"], SERIES * WINDOWS);
    assert_eq!(files(&models.join("training")), Vec::<PathBuf>::new(), "nothing is left behind");

    let whole = json(&[])?;
    assert_eq!((&whole["resumed"], &whole["trained"]), (&0.into(), &SERIES.into()));
    assert_eq!(parts(&whole["version"])?, parts(&resumed["version"])?);

    let rows = fleetscore.folder.join("rows.parquet").display().to_string();
    let export = fleetscore.run(&["models", "export-training", "--out", &rows, "--json"]);
    let export: serde_json::Value = serde_json::from_str(&export)?;
    assert_eq!((&export["rows"], &export["series"]), (&(SERIES * WINDOWS).into(), &SERIES.into()));
    let from_file = json(&["--parquet", &rows])?;
    assert_eq!(from_file["from"], whole["from"]);
    assert_eq!(parts(&from_file["version"])?, parts(&whole["version"])?);
    Ok(())
}
