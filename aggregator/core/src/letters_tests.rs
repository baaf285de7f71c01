use super::*;
use arrow::array::{Float64Array, TimestampMicrosecondArray, UInt32Array};
use fleetscore_schemas::reading::{Messages, ReadingColumns};

const SECOND: i64 = 1_000_000;

/// A batch of one message of so many bytes at an offset.
fn batch(partition: i32, offset: i64, bytes: usize) -> ReadingBatch {
    let mut messages = Messages::default();
    messages.push(offset, None, &vec![b'x'; bytes]);
    ReadingBatch {
        source: TopicPartition::new("t", partition),
        start: 1,
        from: offset,
        to: offset + 1,
        last_broker_time: None,
        readings: ReadingColumns {
            series: UInt32Array::from(Vec::<u32>::new()),
            ts: TimestampMicrosecondArray::from(Vec::<i64>::new()).with_timezone("UTC"),
            value: Float64Array::from(Vec::<f64>::new()),
            spans: Vec::new(),
        },
        bad: Vec::new(),
        messages,
        decoder: 1,
        new_series: Vec::new(),
        permit: None,
    }
}

fn push(letters: &mut Letters, partition: i32, offset: i64, bytes: usize, count: u64) {
    let span = Span { message: 0, position: -1, start: 0, end: bytes as u32 };
    let refused = Refused { span, code: DeadLetterCode::Syntax, detail: "why", sensors: &[], count };
    letters.push(&batch(partition, offset, bytes), &refused);
}

/// (partition, offset, last offset, count, bytes kept)
type Row = (i32, i64, Option<i64>, i64, Option<usize>);

fn rows(letters: &[DeadLetter]) -> Vec<Row> {
    let row = |d: &DeadLetter| {
        (d.partition.partition, d.offset, d.last_offset, d.count, d.payload.as_ref().map(Vec::len))
    };
    letters.iter().map(row).collect()
}

fn at(letters: &mut Letters, seconds: i64) {
    letters.at(seconds * SECOND, Timestamp(1_767_225_600_000_000 + seconds * SECOND));
}

fn bounded(letters: u64, bytes: usize) -> Letters {
    let mut bounded = Letters::new(Bounds { letters, bytes });
    at(&mut bounded, 0);
    bounded
}

#[test]
fn a_flood_counts_once_what_is_read_again() {
    let mut letters = bounded(0, 1 << 20);
    push(&mut letters, 0, 0, 9, 1);
    letters.take();
    letters.stored();
    push(&mut letters, 0, 1, 9, 1);
    letters.take();
    push(&mut letters, 0, 2, 9, 1);
    letters.forget();
    for offset in 1..3 {
        push(&mut letters, 0, offset, 9, 1);
    }
    let said = letters.flood().expect("it goes on");
    assert!(said.contains(": 3, of which 3 "), "{said}");
}

#[test]
fn so_many_a_minute_are_kept_and_the_others_counted() {
    let mut letters = bounded(2, 1 << 20);
    for offset in 0..5 {
        push(&mut letters, 0, offset, 10, 1);
    }
    push(&mut letters, 1, 7, 10, 1);
    let (taken, _) = letters.take();
    assert_eq!(
        rows(&taken),
        [
            (0, 0, None, 1, Some(10)),
            (0, 1, None, 1, Some(10)),
            (0, 2, Some(4), 3, None),
            (1, 7, Some(7), 1, None)
        ]
    );
    letters.stored();
    assert_eq!(letters.bytes(), 0);
    // Another checkpoint of the same minute, then another minute.
    push(&mut letters, 0, 5, 10, 1);
    at(&mut letters, 60);
    push(&mut letters, 0, 6, 10, 1);
    assert_eq!(rows(&letters.take().0), [(0, 5, Some(5), 1, None), (0, 6, None, 1, Some(10))]);
}

#[test]
fn bytes_are_bounded_too() {
    let mut letters = bounded(100, 1000);
    for (offset, bytes) in [(0, 500), (1, 500), (2, 100), (3, 900)] {
        push(&mut letters, 0, offset, bytes, 1);
    }
    let sizes = [(0, 0, None, 1, Some(500)), (0, 1, Some(3), 2, None), (0, 2, None, 1, Some(100))];
    assert_eq!(rows(&letters.take().0), sizes);
}

#[test]
fn a_large_record_is_kept_without_its_bytes() {
    let mut letters = bounded(100, 10_000);
    push(&mut letters, 0, 3, KEPT_BYTES + 1, 1);
    assert!(letters.bytes() < 1000);
    let (taken, _) = letters.take();
    assert_eq!(rows(&taken), [(0, 3, None, 1, None)]);
    assert!(taken[0].detail.contains("1048577 bytes"), "{}", taken[0].detail);
}

#[test]
fn what_stands_for_several_is_never_kept_as_one() {
    let mut letters = bounded(100, 10_000);
    push(&mut letters, 0, 3, 10, 5000);
    assert_eq!(rows(&letters.take().0), [(0, 3, Some(3), 5000, None)]);
}

#[test]
fn what_is_dropped_before_it_is_stored_uses_up_nothing() {
    let mut letters = bounded(2, 1 << 20);
    push(&mut letters, 0, 0, 10, 1);
    letters.take();
    push(&mut letters, 0, 1, 10, 1);
    letters.forget();
    // Read again, and the same once more, now stored.
    push(&mut letters, 0, 0, 10, 1);
    push(&mut letters, 0, 1, 10, 1);
    assert_eq!(rows(&letters.take().0), [(0, 0, None, 1, Some(10)), (0, 1, None, 1, Some(10))]);
    letters.stored();
    letters.forget();
    push(&mut letters, 0, 2, 10, 1);
    assert_eq!(rows(&letters.take().0), [(0, 2, Some(2), 1, None)]);
}

#[test]
fn a_flood_is_told_at_its_begin_and_at_its_end() {
    let mut letters = bounded(2, 1 << 20);
    let kinds = |notices: Vec<Notice>| notices.into_iter().map(|n| n.kind).collect::<Vec<_>>();
    for offset in 0..2 {
        push(&mut letters, 0, offset, 10, 1);
    }
    assert!(!letters.has_news() && letters.flood().is_none());
    for offset in 2..9 {
        push(&mut letters, 0, offset, 10, 1);
    }
    assert!(letters.has_news());
    assert_eq!(kinds(letters.take().1), ["dead_letter_flood"]);
    // Fenced: it is told with the next one; its seven letters are read again, or by another.
    letters.forget();
    assert_eq!(kinds(letters.take().1), ["dead_letter_flood"]);
    letters.stored();
    // It goes on in the next minute, pauses for less than a whole one, and goes on.
    for second in [61, 150] {
        at(&mut letters, second);
        for offset in 0..3 {
            push(&mut letters, 0, second + offset, 10, 1);
        }
        assert_eq!(kinds(letters.take().1), [""; 0], "{second}");
        letters.stored();
    }
    assert!(letters.flood().is_some_and(|words| words.contains(": 6, of which 2")), "{:?}", letters.flood());
    at(&mut letters, 239);
    assert!(letters.flood().is_some());
    at(&mut letters, 240);
    assert!(letters.flood().is_none() && letters.has_news());
    let notices = letters.take().1;
    assert!(notices[0].detail.contains("6 dead letters"), "{notices:?}");
    assert_eq!(kinds(notices), ["dead_letter_flood_over"]);
}
