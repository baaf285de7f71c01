//! Replay with the user's expressions.

use crate::ManualClock;
use crate::{AggregatorError, Options, replay_dead_letters};
use arrow::array::{Float64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::{BadRecord, Messages, ReadingBatch, ReadingColumns, Span, TopicPartition};
use fleetscore_schemas::time::{Edges, Timestamp};
use fleetscore_schemas::{SeriesName, delta};
use fleetscore_store::{
    Checkpoint, DeadLetter, DeadLetterFilter, DeadLetterRow, MemoryStore, Outcome, PaneSettings, Store,
};
use futures::StreamExt;

const S: i64 = 1_000_000;
const T0: i64 = 1_535_500_800 * S;

fn options(filter: &str) -> Options {
    let panes = PaneSettings {
        interval_us: 60 * S,
        edges: Edges::Start,
        filter: filter.into(),
        value: String::new(),
        ts_unit: "ms".into(),
    };
    Options::new("replay", panes)
}

/// Dead letters of four messages, as they were stored.
async fn store_with_letters() -> (MemoryStore, Vec<DeadLetterRow>) {
    let store = MemoryStore::new();
    store.migrate().await.unwrap();
    let letter = |offset| DeadLetter {
        partition: TopicPartition::new("t", 0),
        offset,
        position: -1,
        code: DeadLetterCode::Expression,
        detail: String::new(),
        payload: Some(b"x".to_vec()),
        broker_time: None,
        count: 1,
        last_offset: None,
        sensors: vec![],
    };
    let checkpoint = Checkpoint {
        source: "c".into(),
        owner: "a".into(),
        advances: Vec::new(),
        deltas: RecordBatch::new_empty(delta::schema()),
        dead_letters: (0..4).map(letter).collect(),
        losses: Vec::new(),
        replayed: Vec::new(),
        notices: Vec::new(),
    };
    assert_eq!(store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    let rows =
        store.dead_letters(&DeadLetterFilter { limit: 10, ..DeadLetterFilter::default() }).await.unwrap();
    (store, rows)
}

/// Message 0: two good readings. 1: a good one and a bad record. 2: one good, one of another century. 3: dropped by the
/// filter.
fn batch() -> ReadingBatch {
    let mut messages = Messages::default();
    for offset in 0..4 {
        messages.push(offset, None, b"x");
    }
    let span = |message, position| Span { message, position, start: 0, end: 1 };
    let rows = [
        (0, 0, T0, 1.0),
        (0, 1, T0 + S, 2.0),
        (1, 0, T0, 4.0),
        (2, 0, T0, 8.0),
        (2, 0, 4_000_000_000 * S, 16.0),
        (3, 2, T0, 32.0),
    ];
    ReadingBatch {
        source: TopicPartition::new("t", 0),
        start: 0,
        from: 0,
        to: 4,
        last_broker_time: None,
        readings: ReadingColumns {
            series: UInt32Array::from(rows.map(|r| r.1).to_vec()),
            ts: TimestampMicrosecondArray::from(rows.map(|r| r.2).to_vec()),
            value: Float64Array::from(rows.map(|r| r.3).to_vec()),
            spans: rows.iter().map(|r| span(r.0, 0)).collect(),
        },
        bad: vec![BadRecord {
            count: 1,
            span: span(1, 1),
            code: DeadLetterCode::BadValue,
            detail: "no number".into(),
            sensors: vec![],
        }],
        messages,
        decoder: 9,
        new_series: (0..3).map(|k| (k, SeriesName::new(format!("d{k}"), "temp"))).collect(),
        permit: None,
    }
}

#[tokio::test]
async fn a_dead_letter_is_replayed_whole_or_not_at_all_and_only_once() {
    let (store, letters) = store_with_letters().await;
    let ids: Vec<i64> = letters.iter().map(|l| l.id).collect();
    // Long after the readings: lateness does not matter to a replay, and the clock's skew guard still does.
    let clock = ManualClock::new(Timestamp(T0 + 400 * 86_400 * S));
    let options = options("device <> 'd2'");
    let report = replay_dead_letters(&options, &store, &clock, &letters, batch()).await.unwrap();
    assert_eq!(report.replayed, [ids[0], ids[3]]);
    assert_eq!((report.readings, report.filtered), (2, 1));
    let refused: Vec<_> = report.refused.iter().map(|(id, code, _)| (*id, *code)).collect();
    assert_eq!(refused, [(ids[1], DeadLetterCode::BadValue), (ids[2], DeadLetterCode::FutureSkew)]);
    let pane = options.panes.grid().pane_of(Timestamp(T0));
    let rows = |batches: Vec<fleetscore_store::Result<RecordBatch>>| -> usize {
        batches.into_iter().map(|b| b.unwrap().num_rows()).sum()
    };
    assert_eq!(
        rows(store.windows(pane, &fleetscore_store::Selection::ALL).await.unwrap().collect().await),
        2,
        "d0 and d1"
    );
    // Once more: those that were replayed are replayed, so nothing of this call may happen.
    let e = replay_dead_letters(&options, &store, &clock, &letters, batch()).await.unwrap_err();
    assert!(matches!(e, AggregatorError::ReplayedMeanwhile), "{e}");
    let unreplayed = DeadLetterFilter { unreplayed: true, limit: 10, ..DeadLetterFilter::default() };
    assert_eq!(store.dead_letters(&unreplayed).await.unwrap().len(), 2);
}

#[tokio::test]
async fn sensors_of_a_record_that_counted_before_are_not_counted_again() {
    let (store, mut letters) = store_with_letters().await;
    let clock = ManualClock::new(Timestamp(T0 + 400 * 86_400 * S));
    // Of message 0 only `load` was refused; `temp` has counted. A fault of a sensor that is not named is old news.
    letters[0].sensors = vec!["load".into()];
    letters[1].sensors = vec!["load".into()];
    let mut batch = batch();
    batch.new_series[1].1.sensor = "load".into();
    batch.bad[0].sensors = vec!["rpm".into()];
    let report = replay_dead_letters(&options(""), &store, &clock, &letters[..], batch).await.unwrap();
    assert_eq!(report.replayed, [letters[0].id, letters[3].id]);
    assert_eq!(report.readings, 2, "the load of message 0, and message 3");
    let refused: Vec<i64> = report.refused.iter().map(|r| r.0).collect();
    assert_eq!(refused, [letters[1].id, letters[2].id], "no load is in message 1");
}
