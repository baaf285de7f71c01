//! Cases worked out by hand.

use super::*;
use crate::windows::Reading;

const S: i64 = 1_000_000;
/// 2026-01-01T00:00:00Z
const T: i64 = 1_767_225_600 * S;

fn rules(edges: Edges) -> Rules {
    Rules {
        pane_us: 60 * S,
        edges,
        max_disorder_us: 10 * S,
        allowed_lateness_us: 100 * S,
        future_us: T + 3600 * S,
    }
}

/// A record of readings of device `d` at so many seconds behind [`T`]; its payload is `payload[span]`.
fn record(position: i32, span: std::ops::Range<usize>, seconds: i64, sensors: &[(&str, f64)]) -> Vec<Record> {
    let reading = |(sensor, value): &(&str, f64)| {
        let reading =
            Reading { ts_us: T + seconds * S, device: "d".into(), sensor: (*sensor).into(), value: *value };
        Record::Reading { position, reading, span: span.clone() }
    };
    sensors.iter().map(reading).collect()
}

fn message(payload: &str, records: Vec<Record>) -> Message {
    Message { key: "d".into(), partition: 0, payload: payload.into(), records }
}

fn single(seconds: i64, value: f64) -> Message {
    let payload = format!("{seconds}={value}");
    let records = record(-1, 0..payload.len(), seconds, &[("s", value)]);
    message(&payload, records)
}

fn letters(oracle: &Oracle) -> Vec<(u32, i64, i32, &str, &str)> {
    let text = |l| std::str::from_utf8(l).expect("text");
    let letters = oracle.letters().iter();
    letters.map(|l| (l.partition, l.offset, l.position, l.code.as_str(), text(&l.payload))).collect()
}

#[test]
fn a_reading_is_too_late_by_what_came_before_it_in_its_partition() {
    let mut oracle = Oracle::new(rules(Edges::Start));
    assert_eq!(oracle.watermark(0), None);
    // The first one is never late. Then the watermark is at 500 − 10 = 490, and 390 is the border.
    for (offset, seconds) in [(0, -1000), (1, 500), (2, 390), (3, 389), (5, 495), (6, 491), (9, 489)] {
        oracle.take(0, offset, &single(seconds, 1.0));
    }
    assert_eq!(letters(&oracle), [(0, 3, -1, "too_late", "389=1")]);
    assert_eq!((oracle.watermark(0), oracle.readings(), oracle.late()), (Some(T + 490 * S), 6, 2));
    // Another partition has a watermark of its own.
    oracle.take(1, 0, &single(0, 1.0));
    assert_eq!(letters(&oracle).len(), 1);
    assert_eq!(oracle.watermark(1), Some(T - 10 * S));
    let counts: Vec<_> = oracle.windows().iter().map(|(k, w)| ((k.0 - T) / S, w.count)).collect();
    assert_eq!(counts, [(-1020, 1), (0, 1), (360, 1), (480, 4)]);
}

#[test]
fn what_is_ahead_of_the_clock_is_refused_and_raises_nothing() {
    let mut oracle = Oracle::new(rules(Edges::Start));
    for (offset, seconds) in [(0, 0), (1, 3601), (2, -100), (3, 3600), (4, 3489)] {
        oracle.take(7, offset, &single(seconds, 2.0));
    }
    assert_eq!(letters(&oracle), [(7, 1, -1, "future_skew", "3601=2"), (7, 4, -1, "too_late", "3489=2")]);
    assert_eq!(oracle.readings(), 3);
}

#[test]
fn a_record_leaves_one_letter_for_each_code() {
    let mut oracle = Oracle::new(rules(Edges::Start));
    oracle.take(0, 0, &single(1000, 1.0));
    // [wide too late, with a bad sensor; wide good; narrow too late; stray bytes]
    let mut records = record(0, 1..5, 0, &[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
    records.push(Record::Bad { position: 0, code: "bad_value", span: 1..5 });
    records.extend(record(1, 6..10, 950, &[("a", 1.0), ("b", 2.0)]));
    records.extend(record(2, 11..15, 0, &[("a", 9.0)]));
    records.push(Record::Bad { position: 3, code: "syntax", span: 15..16 });
    oracle.take(0, 1, &message("[AAAA,BBBB,CCCC;", records));
    let expected = [
        (0, 1, 0, "too_late", "AAAA"),
        (0, 1, 0, "bad_value", "AAAA"),
        (0, 1, 2, "too_late", "CCCC"),
        (0, 1, 3, "syntax", ";"),
    ];
    assert_eq!(letters(&oracle), expected);
    assert_eq!((oracle.readings(), oracle.late()), (3, 2));
}

#[test]
fn windows_are_those_of_all_readings_by_both_edges() {
    let values = [(60, 4.0), (60, -1.0), (0, 2.0), (59, 0.5), (120, 8.0), (60, 2.5)];
    for (edges, expected) in [
        // start, count, sum, min, max, first, last; of readings at one time the smaller value is first
        (
            Edges::Start,
            vec![
                (0, 2, 2.5, 0.5, 2.0, 2.0, 0.5),
                (60, 3, 5.5, -1.0, 4.0, -1.0, 4.0),
                (120, 1, 8.0, 8.0, 8.0, 8.0, 8.0),
            ],
        ),
        (
            Edges::End,
            vec![
                (-60, 1, 2.0, 2.0, 2.0, 2.0, 2.0),
                (0, 4, 6.0, -1.0, 4.0, 0.5, 4.0),
                (60, 1, 8.0, 8.0, 8.0, 8.0, 8.0),
            ],
        ),
    ] {
        let mut oracle = Oracle::new(rules(edges));
        let mut readings = Vec::new();
        for (offset, (seconds, value)) in (0..).zip(values) {
            oracle.take(0, offset, &single(seconds, value));
            readings.push(Reading { ts_us: T + seconds * S, device: "d".into(), sensor: "s".into(), value });
        }
        let windows = oracle.windows();
        let found: Vec<_> = windows
            .iter()
            .map(|(k, w)| ((k.0 - T) / S, w.count, w.sum, w.min, w.max, w.first, w.last))
            .collect();
        assert_eq!(found, expected, "{edges:?}");
        assert_eq!(windows, crate::windows(&readings, 60 * S, 60 * S, edges));
    }
    let mut oracle = Oracle::new(rules(Edges::Start));
    for value in [1.0, 2.0, 4.0, 5.0] {
        oracle.take(0, 0, &single(0, value));
    }
    let window = oracle.windows().into_values().next().unwrap();
    assert_eq!((window.mean, window.stddev), (3.0, Some((10.0f64 / 3.0).sqrt())));
    oracle.take(0, 1, &single(60, 1.0));
    assert_eq!(oracle.windows().into_values().next_back().unwrap().stddev, None);
}

#[test]
fn settled_panes_are_given_away_once() {
    let mut oracle = Oracle::new(rules(Edges::Start));
    for seconds in [0, 59, 60, 119, 120] {
        oracle.take(0, seconds, &single(seconds, 1.0));
    }
    let all = oracle.windows();
    assert!(oracle.settle(T + 59 * S).is_empty(), "no pane ends by then");
    let mut parts = oracle.settle(T + 60 * S);
    assert_eq!(parts.len(), 1);
    parts.extend(oracle.settle(T + 179 * S));
    assert_eq!(parts.len(), 2);
    parts.extend(oracle.windows());
    assert_eq!(parts, all);
    let late = std::panic::catch_unwind(move || oracle.take(0, 9, &single(119, 1.0)));
    assert!(late.is_err(), "a reading of a pane that is gone would be lost");
}
