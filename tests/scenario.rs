//! What the tests have in common: a dataset through the pipeline, and the comparison of what the store then shows.

use crate::data::Dataset;
pub use fleetscore_harness::PATIENCE;
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::{Fleetscore, Service};
use fleetscore_harness::kafka::Message;
use fleetscore_harness::{Servers, wait_until};
use fleetscore_oracle::{Key, Prediction, Reading, Sums, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// A topic name of its own.
pub fn topic(test: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{test}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Golden windows of a file: every column as the reference computed it.
pub fn golden_windows(path: &Path) -> BTreeMap<Key, Window> {
    let mut reader = csv::Reader::from_path(path).expect("golden windows");
    let number = |s: &str| -> f64 { s.parse().expect("a number") };
    reader
        .records()
        .map(|r| {
            let r = r.expect("a CSV row");
            let start: i64 = r[4].parse().expect("milliseconds");
            let window = Window {
                count: r[5].parse().expect("a count"),
                sum: number(&r[6]),
                mean: number(&r[7]),
                min: number(&r[8]),
                max: number(&r[9]),
                stddev: (!r[10].is_empty()).then(|| number(&r[10])),
                first: number(&r[11]),
                last: number(&r[12]),
            };
            ((start * 1000, r[0].to_owned(), r[1].to_owned()), window)
        })
        .collect()
}

/// Golden predictions of windows.
pub fn golden_predictions(path: &Path) -> BTreeMap<Key, Prediction> {
    let mut reader = csv::Reader::from_path(path).expect("golden predictions");
    reader
        .records()
        .map(|r| {
            let r = r.expect("a CSV row");
            let start: i64 = r[4].parse().expect("milliseconds");
            let prediction = Prediction {
                label: r[7].parse().expect("a label"),
                decision: r[8].parse().expect("a decision"),
            };
            ((start * 1000, r[0].to_owned(), r[1].to_owned()), prediction)
        })
        .collect()
}

/// Fails unless a view of windows shows exactly these, within the oracle's tolerances.
pub fn assert_windows(database: &Database, view: &str, expected: &BTreeMap<Key, Window>) {
    assert_windows_and(database, view, expected, Sums::Rounded);
}

/// As [`assert_windows`], with sums that may differ or not.
pub fn assert_windows_and(database: &Database, view: &str, expected: &BTreeMap<Key, Window>, sums: Sums) {
    let columns: Vec<String> = ["sum", "mean", "min", "max", "stddev", "first", "last"]
        .map(|c| database.exact(&format!("\"{c}\"")))
        .into();
    let sql = format!(
        "SELECT {}, device, sensor, readings, {} FROM {view}",
        database.micros("window_start"),
        columns.join(", ")
    );
    let rows = database.rows(&sql).expect("the view answers");
    let mut seen = BTreeSet::new();
    for row in &rows {
        let key: Key = (row[0].parse().expect("a time"), row[1].clone(), row[2].clone());
        let f = |i: usize| row[i].parse::<f64>().unwrap_or_else(|_| panic!("{view}: {key:?}: `{}`", row[i]));
        let shown = Window {
            count: row[3].parse().unwrap_or_else(|_| panic!("{view}: {key:?}: `{}`", row[3])),
            sum: f(4),
            mean: f(5),
            min: f(6),
            max: f(7),
            stddev: (!row[8].is_empty()).then(|| f(8)),
            first: f(9),
            last: f(10),
        };
        let wanted = expected.get(&key).unwrap_or_else(|| panic!("{view}: {key:?} is not expected"));
        if let Some(what) = wanted.differs(&shown, sums) {
            panic!("{view}: {key:?}: {what}");
        }
        assert!(seen.insert(key.clone()), "{view}: {key:?} twice");
    }
    assert_eq!(seen.len(), expected.len(), "{view}: number of windows");
}

/// Fails unless a schedule's scored predictions are exactly these, within the oracle's tolerance of decisions, none is
/// stale, and every model without data in an interval that has data got its `no_data` row.
pub fn assert_predictions(
    database: &Database,
    schedule: &str,
    expected: &BTreeMap<Key, Prediction>,
    series_with_model: &BTreeSet<(String, String)>,
) {
    let sql = format!(
        "SELECT {}, device, sensor, status, prediction, {}, stale FROM predictions WHERE schedule = '{schedule}'",
        database.micros("window_start"),
        database.exact("decision")
    );
    let rows = database.rows(&sql).expect("the view answers");
    let intervals: BTreeSet<i64> = expected.keys().map(|k| k.0).collect();
    let mut scored = BTreeSet::new();
    let mut no_data = BTreeSet::new();
    for row in &rows {
        let key: Key = (row[0].parse().expect("a time"), row[1].clone(), row[2].clone());
        assert!(["f", "0"].contains(&row[6].as_str()), "{schedule}: {key:?} is stale");
        match row[3].as_str() {
            "scored" => {
                let want =
                    expected.get(&key).unwrap_or_else(|| panic!("{schedule}: {key:?} is not expected"));
                let shown = Prediction {
                    label: row[4].parse().expect("a label"),
                    decision: row[5].parse().expect("a decision"),
                };
                if let Some(what) = want.differs(&shown) {
                    panic!("{schedule}: {key:?}: {what}");
                }
                assert!(scored.insert(key.clone()), "{schedule}: {key:?} twice");
            }
            "no_data" => {
                assert_eq!((row[4].as_str(), row[5].as_str()), ("", ""), "{schedule}: {key:?}");
                assert!(no_data.insert(key.clone()), "{schedule}: {key:?} twice");
            }
            other => panic!("{schedule}: {key:?} is {other}"),
        }
    }
    assert_eq!(scored.len(), expected.len(), "{schedule}: number of predictions");
    let silent: BTreeSet<Key> = intervals
        .iter()
        .flat_map(|t| series_with_model.iter().map(|(d, s)| (*t, d.clone(), s.clone())))
        .filter(|key| !expected.contains_key(key))
        .collect();
    assert_eq!(no_data, silent, "{schedule}: models without data");
}

/// The messages of readings, one each, in the default wire format, keyed by device.
pub fn single_messages(readings: &[Reading]) -> Vec<Message> {
    readings
        .iter()
        .map(|r| Message { key: r.device.clone(), payload: Some(reading_json(r).into_bytes()) })
        .collect()
}

/// One reading in the default wire format.
pub fn reading_json(r: &Reading) -> String {
    format!(
        r#"{{"device": "{}", "sensor": "{}", "ts": "{}", "value": {}}}"#,
        r.device,
        r.sensor,
        rfc3339(r.ts_us),
        r.value
    )
}

/// RFC 3339 with microseconds.
pub fn rfc3339(us: i64) -> String {
    let t = chrono::DateTime::from_timestamp_micros(us).expect("a time of our own");
    t.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// Readings of each device in groups of up to `n`, in the order of the first of each group.
pub fn packed(readings: &[Reading], n: usize) -> Vec<Vec<Reading>> {
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<Reading>> = Vec::new();
    for r in readings {
        match open.get(r.device.as_str()).copied().filter(|i| groups[*i].len() < n) {
            Some(i) => groups[i].push(r.clone()),
            None => {
                open.insert(&r.device, groups.len());
                groups.push(vec![r.clone()]);
            }
        }
    }
    groups
}

/// Waits until the windows hold all readings, every interval with data is scored and nothing is stale.
pub fn wait_until_scored(
    service: &Service,
    database: &Database,
    readings: usize,
    schedules: &[(&str, usize)],
) {
    wait_until("all readings in windows", PATIENCE, || {
        service.assert_alive();
        let n = database.number("SELECT coalesce(sum(readings), 0) FROM windows")?;
        if n == readings as i64 { Ok(()) } else { Err(format!("{n} of {readings} readings")) }
    });
    for (schedule, scored) in schedules {
        wait_until(&format!("predictions of {schedule}"), PATIENCE, || {
            service.assert_alive();
            let row = database.rows(&format!(
                "SELECT count(*), coalesce(sum(CASE WHEN stale THEN 1 ELSE 0 END), 0) FROM predictions \
                 WHERE schedule = '{schedule}' AND status = 'scored'"
            ))?;
            if row[0] == [scored.to_string(), "0".to_owned()] {
                Ok(())
            } else {
                Err(format!("{row:?} of {scored}"))
            }
        });
        wait_until(&format!("the end of runs of {schedule}"), PATIENCE, || {
            let open = database.number(&format!(
                "SELECT count(*) FROM runs WHERE schedule = '{schedule}' AND state IN ('waiting', 'running')"
            ))?;
            if open == 0 { Ok(()) } else { Err(format!("{open} open")) }
        });
    }
}

/// A dataset's pipeline: its models imported, ready to start services.
pub fn pipeline(servers: &Servers, data: &Dataset, database: &Database, topic: &str) -> Fleetscore {
    let fleetscore = Fleetscore::new(servers, database, topic);
    fleetscore.run(&["models", "import", &data.models.display().to_string()]);
    fleetscore
}

/// The series a dataset has models for.
pub fn series_with_model(data: &Dataset) -> BTreeSet<(String, String)> {
    data.numbers.keys().cloned().collect()
}
