use super::*;
use crate::letters::Bounds;
use crate::{Options, PlainEngine};
use arrow::array::{Float64Array, TimestampMicrosecondArray, UInt32Array};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::reading::{Messages, ReadingColumns, TopicPartition};
use fleetscore_schemas::time::{Edges, PaneGrid};
use fleetscore_state::admit::REFUSED_SERIES;
use fleetscore_store::PaneSettings;

const S: i64 = 1_000_000;
const CLOCK: i64 = 1_535_500_800 * S;

/// Wide records of so many sensors each, at these times.
fn wide(times: &[i64], sensors: u32) -> ReadingBatch {
    let mut messages = Messages::default();
    let (mut series, mut ts, mut spans) = (vec![], vec![], vec![]);
    for (message, at) in (0u32..).zip(times) {
        messages.push(i64::from(message), None, b"{}");
        series.extend(0..sensors);
        ts.extend((0..sensors).map(|_| *at));
        spans.extend((0..sensors).map(|_| Span { message, position: -1, start: 0, end: 2 }));
    }
    ReadingBatch {
        source: TopicPartition::new("t", 0),
        start: 0,
        from: 0,
        to: times.len() as i64,
        last_broker_time: None,
        readings: ReadingColumns {
            value: Float64Array::from(vec![1.0; ts.len()]),
            series: UInt32Array::from(series),
            ts: TimestampMicrosecondArray::from(ts),
            spans,
        },
        bad: vec![],
        messages,
        decoder: 0,
        new_series: vec![],
        permit: None,
    }
}

fn rules() -> Rules {
    Rules {
        grid: PaneGrid { len_us: S, edges: Edges::Start },
        clock: CLOCK,
        max_disorder_us: 10 * S,
        max_future_skew_us: 10 * S,
        allowed_lateness_us: Some(60 * S),
        floor: None,
    }
}

fn prepared(batch: ReadingBatch) -> Prepared {
    let panes = PaneSettings {
        interval_us: S,
        edges: Edges::Start,
        filter: String::new(),
        value: String::new(),
        ts_unit: "ms".into(),
    };
    let engine = PlainEngine::new(&Options::new("a", panes)).unwrap();
    Prepared::new(Box::new(batch), &engine, &Keys::default(), Timestamp(CLOCK)).unwrap()
}

#[test]
fn refused_readings_of_a_record_share_a_dead_letter_per_code() {
    let sensors = 1000;
    // Of the first, every other series is one too many; two are of the future, one is too late.
    let names = (0..sensors).map(|s| (s, SeriesName::new("d", format!("s{s}")))).collect();
    let ids = (0..sensors).map(|s| if s % 2 == 0 { s } else { REFUSED_SERIES }).collect();
    let keys = Keys { names, ids };
    let prepared = prepared(wide(&[CLOCK, CLOCK + 11 * S, CLOCK + 12 * S, CLOCK - 71 * S], sensors));
    let (mut pending, mut letters) =
        (Pending::default(), Letters::new(Bounds { letters: 10_000, bytes: 1 << 20 }));
    let judged = prepared.judge(&keys, &rules(), &mut Tide::default(), &mut pending, &mut letters);
    assert_eq!(judged.readings, 500);
    let (rows, _) = letters.take();
    let seen: Vec<_> = rows.iter().map(|l| (l.offset, l.code, l.count, l.sensors.len())).collect();
    let want = [
        (0, DeadLetterCode::SeriesLimit, 1, 500),
        (1, DeadLetterCode::FutureSkew, 1, 1000),
        (2, DeadLetterCode::FutureSkew, 1, 1000),
        (3, DeadLetterCode::TooLate, 1, 1000),
    ];
    assert_eq!(seen, want);
    assert_eq!(rows[0].sensors[..2], ["s1", "s3"]);
    assert!(rows[1].detail.ends_with(", and 999 more"), "{}", rows[1].detail);
    assert_eq!(judged.dead.values().sum::<u64>(), 4, "counted as they are stored");
}

#[test]
fn what_is_refused_in_any_case_needs_no_id() {
    let times = [CLOCK, CLOCK + 11 * S, CLOCK - 65 * S, CLOCK - 71 * S];
    let prepared = prepared(wide(&times, 1));
    let may_count = |rules: &Rules, tide| -> Vec<bool> {
        (0..times.len()).map(|i| prepared.may_count(i, rules, tide)).collect()
    };
    let tide = Tide { watermark: None, greatest: Some(CLOCK) };
    assert_eq!(may_count(&rules(), tide), [true, false, true, false], "skew and lateness");
    assert_eq!(may_count(&rules(), Tide::default()), [true, false, true, true], "no watermark yet");
    let floor = Rules { floor: Some(CLOCK - 64 * S), ..rules() };
    assert_eq!(may_count(&floor, Tide::default()), [true, false, false, false]);
}
