//! A thousand malformed records of many kinds among good ones: every good reading counts, every bad record is a dead
//! letter with its exact bytes, and the process never restarts.

use crate::data::{Dataset, reference, seeded};
use crate::scenario::{assert_windows, pipeline, reading_json, rfc3339, topic, wait_until_scored};
use fleetscore_harness::database::Database;
use fleetscore_harness::kafka::Message;
use fleetscore_harness::{Servers, Test};
use fleetscore_oracle::{self as oracle, Edges, Reading};
use libtest_mimic::Trial;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    [false, true]
        .into_iter()
        .map(|sqlite| {
            let servers = servers.clone();
            let name = if sqlite { "bad_lines::sqlite" } else { "bad_lines::postgres" };
            Trial::test(name, move || bad_lines(&servers, &reference().unwrap_or_else(seeded), sqlite))
        })
        .collect()
}

/// Kinds of bad records, none with a line break: (payload, code).
fn kinds(good: &Reading) -> Vec<(Vec<u8>, &'static str)> {
    let (d, s, ts) = (&good.device, &good.sensor, rfc3339(good.ts_us));
    let text = |s: String| s.into_bytes();
    let long = "x".repeat(257);
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let mut not_utf8 = format!(r#"{{"device": "{d}", "sensor": ""#).into_bytes();
    not_utf8.extend_from_slice(b"\xff\xfe");
    not_utf8.extend_from_slice(format!(r#"", "ts": "{ts}", "value": 1}}"#).as_bytes());
    let value =
        |v: &str| text(format!(r#"{{"device": "{d}", "sensor": "{s}", "ts": "{ts}", "value": {v}}}"#));
    let time = |t: &str| text(format!(r#"{{"device": "{d}", "sensor": "{s}", "ts": {t}, "value": 1}}"#));
    let device = |n: &str| text(format!(r#"{{"device": {n}, "sensor": "{s}", "ts": "{ts}", "value": 1}}"#));
    vec![
        (text("not json".into()), "syntax"),
        (text(format!(r#"{{"device": "{d}", "sensor": "{s}", "ts": "{ts}", "value": 1"#)), "syntax"),
        (text(format!(r#"{{"device": "{d}" "sensor": "{s}"}}"#)), "syntax"),
        (value("1}}"), "syntax"),
        (value("01"), "syntax"),
        (text(format!(r#"{{device: "{d}", "sensor": "{s}", "ts": "{ts}", "value": 1}}"#)), "syntax"),
        (text(r#""a text""#.into()), "wrong_type"),
        (text("42".into()), "wrong_type"),
        (text("null".into()), "wrong_type"),
        (text(format!(r#"{{"sensor": "{s}", "ts": "{ts}", "value": 1}}"#)), "missing_field"),
        (text(format!(r#"{{"device": "{d}", "ts": "{ts}", "value": 1}}"#)), "missing_field"),
        (text(format!(r#"{{"device": "{d}", "sensor": "{s}", "value": 1}}"#)), "missing_field"),
        (text(format!(r#"{{"device": "{d}", "sensor": "{s}", "ts": "{ts}"}}"#)), "missing_field"),
        (
            text(format!(
                r#"{{"device": "{d}", "device": "{d}", "sensor": "{s}", "ts": "{ts}", "value": 1}}"#
            )),
            "duplicate_key",
        ),
        (
            text(format!(
                r#"{{"device": "{d}", "sensor": "{s}", "ts": "{ts}", "value": 1, "values": {{"a": 1}}}}"#
            )),
            "duplicate_key",
        ),
        (value(r#""1""#), "bad_value"),
        (value("null"), "bad_value"),
        (value("true"), "bad_value"),
        (value("NaN"), "bad_value"),
        (value("Infinity"), "bad_value"),
        (value("1e101"), "bad_value"),
        (value("-1e999"), "bad_value"),
        (time("\"2018-08-28T23:00:05\""), "bad_time"),
        (time("\"2018-02-30T23:00:05Z\""), "bad_time"),
        (time("\"yesterday\""), "bad_time"),
        (time("\"1535497205000\""), "bad_time"),
        (time("\"1999-12-31T23:59:59Z\""), "ts_range"),
        (time("\"2100-01-01T00:00:00Z\""), "ts_range"),
        (time("4102444800001"), "ts_range"),
        (
            time(&format!("\"{}\"", rfc3339(chrono::Utc::now().timestamp_micros() + 3_600_000_000))),
            "future_skew",
        ),
        (device("\"\""), "bad_name"),
        (device(&format!("\"{long}\"")), "bad_name"),
        (device(r#""a\u0001b""#), "bad_name"),
        (device("1.5"), "bad_name"),
        (not_utf8, "not_utf8"),
        (
            text(format!(
                r#"{{"device": "{d}", "sensor": "{s}", "ts": "{ts}", "value": 1, "more": {deep}}}"#
            )),
            "too_deep",
        ),
    ]
}

/// (code, position, payload bytes in hex) with how often it occurs.
type Letters = BTreeMap<(String, i64, String), usize>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

/// Messages with the readings and about a thousand bad records: alone, among lines, among elements of an array.
fn messages(readings: &[Reading]) -> (Vec<Message>, Letters) {
    let mut messages = Vec::new();
    let mut letters = Letters::new();
    let mut random = fastrand::Rng::with_seed(3);
    let mut note = |code: &str, position: i64, bytes: &[u8]| {
        *letters.entry((code.to_owned(), position, hex(bytes))).or_default() += 1;
    };
    for (i, chunk) in readings.chunks(3).enumerate() {
        let key = chunk[0].device.clone();
        let kinds = kinds(&chunk[0]);
        let (bad, code) = &kinds[i % kinds.len()];
        let good: Vec<Vec<u8>> = chunk.iter().map(|r| reading_json(r).into_bytes()).collect();
        let place = random.usize(0..=good.len());
        // Broken structure spoils the rest of an array: there it may stand only at the end.
        let in_array = !["syntax", "not_utf8", "too_deep"].contains(code)
            && !bad.ends_with(b"NaN}")
            && !bad.ends_with(b"Infinity}");
        let mut records = good;
        match i % 3 {
            0 => {
                note(code, -1, bad);
                messages.push(Message { key: key.clone(), payload: Some(bad.clone()) });
                messages.extend(records.into_iter().map(|p| Message { key: key.clone(), payload: Some(p) }));
            }
            1 if in_array => {
                records.insert(place, bad.clone());
                note(code, place as i64, bad);
                let array = [b"[".as_slice(), &records.join(b", ".as_slice()), b"]"].concat();
                messages.push(Message { key, payload: Some(array) });
            }
            _ => {
                records.insert(place, bad.clone());
                note(code, place as i64, bad);
                messages.push(Message { key, payload: Some(records.join(b"\n".as_slice())) });
            }
        }
    }
    // Whole messages without content, and one broken off in the middle of an array.
    let first = reading_json(&readings[0]);
    note("tombstone", -1, b"");
    messages.push(Message { key: "k".into(), payload: None });
    for blank in [b"".as_slice(), b"  \n "] {
        note("empty", -1, blank);
        messages.push(Message { key: "k".into(), payload: Some(blank.to_vec()) });
    }
    note("syntax", 1, br#"{"device": "d", "sen"#);
    messages.push(Message {
        key: readings[0].device.clone(),
        payload: Some(format!(r#"[{first}, {{"device": "d", "sen"#).into_bytes()),
    });
    (messages, letters)
}

fn bad_lines(servers: &Servers, data: &Dataset, sqlite: bool) -> Test {
    let database = if sqlite { Database::sqlite(servers) } else { Database::postgres(servers) };
    let topic = topic("bad");
    servers.kafka().create_topic(&topic, 3);
    let fleetscore = pipeline(servers, data, &database, &topic);
    let mut readings: Vec<Reading> = data.readings[..3100.min(data.readings.len())].to_vec();
    let (messages, expected) = messages(&readings);
    let kinds: std::collections::BTreeSet<&str> = expected.keys().map(|k| k.2.as_str()).collect();
    assert!(expected.values().sum::<usize>() >= 1000 && kinds.len() >= 25, "{} kinds", kinds.len());
    readings.push(readings[0].clone()); // the good element before the break
    let up = fleetscore.start(&["up"]);
    servers.kafka().send(&topic, &messages);
    let windows = oracle::windows(&readings, 60_000_000, 60_000_000, Edges::Start);
    let predictions = oracle::predictions(&windows, &data.numbers);
    wait_until_scored(&up, &database, readings.len(), &[("default", predictions.len())]);
    database.wait_for(
        "SELECT count(*) FROM dead_letters",
        expected.values().sum::<usize>() as i64,
        crate::scenario::PATIENCE,
    );
    up.assert_alive();
    up.stop();
    assert_windows(&database, "windows", &windows);
    let bytes = match &database {
        Database::Postgres { .. } => "upper(encode(payload, 'hex'))",
        Database::Sqlite { .. } => "hex(payload)",
    };
    let mut found = Letters::new();
    for row in database.rows(&format!("SELECT code, position, {bytes}, topic FROM dead_letters"))? {
        assert_eq!(row[3], topic);
        *found.entry((row[0].clone(), row[1].parse()?, row[2].clone())).or_default() += 1;
    }
    for (letter, n) in &expected {
        let readable: Vec<u8> = (0..letter.2.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&letter.2[i..i + 2], 16).unwrap_or(0))
            .collect();
        let shown = String::from_utf8_lossy(&readable[..readable.len().min(200)]).into_owned();
        assert_eq!(found.get(letter), Some(n), "{} at {}: {shown}", letter.0, letter.1);
    }
    assert_eq!(found.len(), expected.len());
    Ok(())
}
