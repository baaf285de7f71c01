//! The whole pipeline on real input, through a real Kafka, equals the golden results: every store, pane length, wire
//! form and order of arrival.

use crate::data::{Dataset, datasets, reference, reference_folder, seeded};
use crate::scenario::{
    assert_predictions, assert_windows, golden_predictions, golden_windows, packed, pipeline, reading_json,
    rfc3339, series_with_model, single_messages, topic, wait_until_scored,
};
use fleetscore_harness::database::Database;
use fleetscore_harness::kafka::Message;
use fleetscore_harness::{Servers, Test};
use fleetscore_oracle::{self as oracle, Edges, Key, Prediction, Reading, Window};
use libtest_mimic::Trial;
use std::collections::BTreeMap;
use std::sync::Arc;

const SECOND: i64 = 1_000_000;

type Expected = (BTreeMap<Key, Window>, BTreeMap<Key, Prediction>);

/// What windows of this length must be: the golden files where they are the reference's, the oracle's otherwise.
pub fn expected(data: &Dataset, seconds: i64) -> Expected {
    let (windows, predictions) = computed(data, seconds, seconds, Edges::Start);
    if data.name != "reference" {
        return (windows, predictions);
    }
    let folder = reference_folder().expect("the reference dataset comes from there");
    let golden = golden_windows(&folder.join(format!("golden_windows_{seconds}s.csv")));
    assert_eq!(golden.len(), windows.len(), "the oracle agrees with the reference");
    let file = folder.join(format!("golden_window_predictions_{seconds}s.csv"));
    if file.exists() {
        (golden, golden_predictions(&file))
    } else {
        (golden, golden_5s_predictions(&predictions))
    }
}

/// The golden predictions of single readings are those of 5 s windows: the readings lie on a 5 s grid.
fn golden_5s_predictions(computed: &BTreeMap<Key, Prediction>) -> BTreeMap<Key, Prediction> {
    let file = reference_folder().expect("the reference is here").join("golden_predictions.csv");
    let mut reader = csv::Reader::from_path(file).expect("golden predictions");
    let golden: BTreeMap<Key, Prediction> = reader
        .records()
        .map(|r| {
            let r = r.expect("a CSV row");
            let ts = chrono::NaiveDateTime::parse_from_str(&r[0], "%Y-%m-%d %H:%M:%S%.f").expect("a time");
            let prediction = Prediction {
                label: r[4].parse().expect("a label"),
                decision: r[5].parse().expect("a decision"),
            };
            ((ts.and_utc().timestamp_micros(), r[1].to_owned(), r[2].to_owned()), prediction)
        })
        .collect();
    assert_eq!(golden.len(), computed.len(), "one reading in every 5 s window");
    golden
}

fn computed(data: &Dataset, window_s: i64, hop_s: i64, edges: Edges) -> Expected {
    let windows = oracle::windows(&data.readings, window_s * SECOND, hop_s * SECOND, edges);
    let predictions = oracle::predictions(&windows, &data.numbers);
    (windows, predictions)
}

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: String, test: Box<dyn FnOnce(&Servers) -> Test + Send>| {
        let servers = servers.clone();
        trials.push(Trial::test(format!("golden::{name}"), move || test(&servers)));
    };
    for data in datasets() {
        for sqlite in [false, true] {
            let store = if sqlite { "sqlite" } else { "postgres" };
            let (d, n) = (data.clone(), data.name);
            add(format!("{n}::{store}_60s_and_5m_schedule"), Box::new(move |s| minutes(s, &d, sqlite)));
            let d = data.clone();
            add(format!("{n}::{store}_300s_panes"), Box::new(move |s| panes(s, &d, sqlite, 300)));
            let d = data.clone();
            add(format!("{n}::{store}_5s_panes"), Box::new(move |s| panes(s, &d, sqlite, 5)));
        }
    }
    // Wire forms and orders need no golden file of their own: the reference's data where they are here, ours elsewhere.
    let data = reference().unwrap_or_else(seeded);
    for (form, sqlite) in [("array_of_50", false), ("lines", true), ("wide", false), ("shuffled", true)] {
        let d = data.clone();
        add(format!("{}::form_{form}", d.name), Box::new(move |s| form_of(s, &d, sqlite, form)));
    }
    let d = data.clone();
    add(format!("{}::edges_end_and_hopping", d.name), Box::new(move |s| end_edges_and_hops(s, &d)));
    trials
}

fn database(servers: &Servers, sqlite: bool) -> Database {
    if sqlite { Database::sqlite(servers) } else { Database::postgres(servers) }
}

fn minutes(servers: &Servers, data: &Dataset, sqlite: bool) -> Test {
    let database = database(servers, sqlite);
    let topic = topic("golden");
    let fleetscore = pipeline(servers, data, &database, &topic).config("[schedules.five]\nwindow = \"5m\"\n");
    fleetscore.run(&["send", "--csv", &data.csv.display().to_string(), "--create-topic", "4"]);
    let up = fleetscore.start(&["up"]);
    let (minute, five) = (expected(data, 60), expected(data, 300));
    wait_until_scored(
        &up,
        &database,
        data.readings.len(),
        &[("default", minute.1.len()), ("five", five.1.len())],
    );
    up.stop();
    assert_windows(&database, "windows", &minute.0);
    assert_windows(&database, "windows_five", &five.0);
    assert_predictions(&database, "default", &minute.1, &series_with_model(data));
    assert_predictions(&database, "five", &five.1, &series_with_model(data));
    Ok(())
}

fn panes(servers: &Servers, data: &Dataset, sqlite: bool, seconds: i64) -> Test {
    let database = database(servers, sqlite);
    let topic = topic("golden");
    let fleetscore = pipeline(servers, data, &database, &topic).with("--interval", &format!("{seconds}s"));
    fleetscore.run(&["send", "--csv", &data.csv.display().to_string(), "--create-topic", "3"]);
    let up = fleetscore.start(&["up"]);
    let (windows, predictions) = expected(data, seconds);
    wait_until_scored(&up, &database, data.readings.len(), &[("default", predictions.len())]);
    up.stop();
    assert_windows(&database, "windows", &windows);
    assert_predictions(&database, "default", &predictions, &series_with_model(data));
    Ok(())
}

/// One device's readings in one wire form.
fn messages(readings: &[Reading], form: &str) -> Vec<Message> {
    let text =
        |key: &str, payload: String| Message { key: key.to_owned(), payload: Some(payload.into_bytes()) };
    let joined = |group: &[Reading], by: &str| group.iter().map(reading_json).collect::<Vec<_>>().join(by);
    match form {
        "array_of_50" => packed(readings, 50)
            .iter()
            .map(|group| text(&group[0].device, format!("[{}]", joined(group, ", "))))
            .collect(),
        "lines" => {
            packed(readings, 20).iter().map(|group| text(&group[0].device, joined(group, "\n"))).collect()
        }
        "wide" => {
            let mut wide: Vec<(i64, &str, Vec<&Reading>)> = Vec::new();
            for r in readings {
                match wide.iter_mut().rev().take(8).find(|w| w.0 == r.ts_us && w.1 == r.device) {
                    Some(w) => w.2.push(r),
                    None => wide.push((r.ts_us, &r.device, vec![r])),
                }
            }
            wide.iter()
                .map(|(ts, device, group)| {
                    let values: Vec<String> =
                        group.iter().map(|r| format!("\"{}\": {}", r.sensor, r.value)).collect();
                    text(
                        device,
                        format!(
                            r#"{{"device": "{device}", "ts": "{}", "values": {{{}}}}}"#,
                            rfc3339(*ts),
                            values.join(", ")
                        ),
                    )
                })
                .collect()
        }
        "shuffled" => single_messages(&shuffled(readings, 10 * SECOND)),
        other => panic!("no form {other}"),
    }
}

/// Out of order by at most `disorder`: sorted by a time that is moved by a random part of it.
fn shuffled(readings: &[Reading], disorder: i64) -> Vec<Reading> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut moved: Vec<(i64, Reading)> =
        readings.iter().map(|r| (r.ts_us + random.i64(0..disorder), r.clone())).collect();
    moved.sort_by_key(|(t, _)| *t);
    assert!(moved.windows(2).any(|w| w[0].1.ts_us > w[1].1.ts_us), "something is out of order");
    moved.into_iter().map(|(_, r)| r).collect()
}

fn form_of(servers: &Servers, data: &Dataset, sqlite: bool, form: &str) -> Test {
    let database = database(servers, sqlite);
    let topic = topic(form);
    servers.kafka().create_topic(&topic, 4);
    // Packed messages of several devices in one partition are out of order by more than max_disorder: they merge late.
    let fleetscore =
        pipeline(servers, data, &database, &topic).config("[schedules.default]\nrescore_delay = \"1s\"\n");
    let up = fleetscore.start(&["up"]);
    servers.kafka().send(&topic, &messages(&data.readings, form));
    let (windows, predictions) = expected(data, 60);
    wait_until_scored(&up, &database, data.readings.len(), &[("default", predictions.len())]);
    up.stop();
    assert_eq!(database.number("SELECT count(*) FROM dead_letters")?, 0);
    assert_windows(&database, "windows", &windows);
    assert_predictions(&database, "default", &predictions, &series_with_model(data));
    Ok(())
}

fn end_edges_and_hops(servers: &Servers, data: &Dataset) -> Test {
    let database = database(servers, false);
    let topic = topic("edges");
    let fleetscore = pipeline(servers, data, &database, &topic)
        .with("--edges", "end")
        .config("[schedules.hopping]\nwindow = \"4m\"\nhop = \"2m\"\n");
    fleetscore.run(&["send", "--csv", &data.csv.display().to_string(), "--create-topic", "2"]);
    let up = fleetscore.start(&["up"]);
    let minute = computed(data, 60, 60, Edges::End);
    let hopping = computed(data, 240, 120, Edges::End);
    wait_until_scored(
        &up,
        &database,
        data.readings.len(),
        &[("default", minute.1.len()), ("hopping", hopping.1.len())],
    );
    up.stop();
    assert_windows(&database, "windows", &minute.0);
    assert_windows(&database, "windows_hopping", &hopping.0);
    assert_predictions(&database, "default", &minute.1, &series_with_model(data));
    assert_predictions(&database, "hopping", &hopping.1, &series_with_model(data));
    Ok(())
}
