//! What settings, bounds and a batch's own numbers make of messages.

use super::outcomes::{good, value_row, wide, with};
use super::*;
use crate::{FieldNames, TsUnit};
use fleetscore_schemas::codes::DeadLetterCode::*;

#[test]
fn the_settings_are_obeyed() {
    let fields = FieldNames {
        device: "a \"quoted\\name\"".into(),
        sensor: "überlanger Sensorname".into(),
        ts: "t".into(),
        value: "".into(),
        values: "vals".into(),
    };
    let options = DecodeOptions { fields, ts_unit: TsUnit::S, ..DecodeOptions::default() };
    let expected = (vec![value_row(1.5)], vec![]);
    for message in [
        r#"{"a \"quoted\\name\"":"d","überlanger Sensorname":"s","t":1767225600,"":1.5}"#,
        r#"{"":1.5,"t":1767225600.0000009,"\u00fcberlanger Sensorname":"s","a \"quoted\\name\"":"d"}"#,
        r#"{"t":1767225600,"vals":{"s":1.5},"a \"quoted\\name\"":"d"}"#,
    ] {
        assert_eq!(decode_with(options.clone(), message.as_bytes()), expected, "{message}");
    }
    let (rows, bad) = decode_with(options, good("1").as_bytes());
    assert!(rows.is_empty() && bad[0].0 == MissingField);

    for (unit, number) in [
        (TsUnit::S, "1767225600.0000015"),
        (TsUnit::Ms, "1767225600000.0015"),
        (TsUnit::Us, "1767225600000001.5"),
        (TsUnit::Ns, "1767225600000001500"),
    ] {
        let options = DecodeOptions { ts_unit: unit, ..DecodeOptions::default() };
        let (rows, _) = decode_with(options, with("ts", number).as_bytes());
        assert_eq!(rows[0].2, NEW_YEAR + 1, "{unit:?}");
    }

    let options = DecodeOptions { max_depth: 1, ..DecodeOptions::default() };
    assert_eq!(decode_with(options.clone(), good("1").as_bytes()).0.len(), 1);
    assert_eq!(decode_with(options, wide("{\"s\":1}").as_bytes()).1[0].0, TooDeep);
}

#[test]
fn the_brokers_time_counts_only_where_it_is_asked_for() {
    let no_ts = br#"{"device":"d","sensor":"s","value":1}"#;
    let options = DecodeOptions { ts_from_broker: true, ..DecodeOptions::default() };
    let decode = |time: Option<i64>, payload: &[u8]| {
        let mut messages = Messages::default();
        messages.push(5, time.map(Timestamp), payload);
        let batch =
            Decoder::new(0, options.clone()).decode(TopicPartition::new("t", 3), 9, 4, 6, messages, &[]);
        (rows(&batch, &mut BTreeMap::new()), batch.bad.first().map(|bad| bad.code))
    };
    assert_eq!(decode(Some(NEW_YEAR), no_ts).0[0].1, value_row(1.0));
    assert_eq!(
        decode(Some(NEW_YEAR + 5), good("1").as_bytes()).0[0].1,
        value_row(1.0),
        "its own time goes first"
    );
    assert_eq!(decode(None, no_ts).1, Some(MissingField));
    assert_eq!(decode(Some(0), no_ts).1, Some(TsRange));
    assert_eq!(decode(Some(NEW_YEAR), with("ts", "null").as_bytes()).1, Some(BadTime));
    let wide = br#"{"device":"d","values":{"s":1}}"#;
    assert_eq!(decode(Some(NEW_YEAR), wide).0[0].1, value_row(1.0));
}

#[test]
fn a_time_of_the_broker_out_of_range_is_not_looked_for_in_the_record() {
    let options = DecodeOptions { ts_from_broker: true, ..DecodeOptions::default() };
    let mut messages = Messages::default();
    // What is remembered of a long record with a number as its time stands beyond the end of the short one without.
    let long =
        format!(r#"{{"x":"{}","device":"d","sensor":"s","ts":1767225600000,"value":1}}"#, "y".repeat(100));
    messages.push(0, Some(Timestamp(0)), long.as_bytes());
    messages.push(1, Some(Timestamp(0)), br#"{"device":"d","sensor":"s","value":1}"#);
    let batch = Decoder::new(0, options).decode(TopicPartition::new("t", 0), 1, 0, 2, messages, &[]);
    assert_eq!(batch.readings.len(), 1);
    let found: Vec<_> = batch.bad.iter().map(|bad| (bad.code, bad.detail.as_str())).collect();
    let detail = "`ts` is absent, and the broker's time of the message 1970-01-01T00:00:00.000000Z, outside 2000..2100";
    assert_eq!(found, [(TsRange, detail)]);
}

#[test]
fn the_limit_of_series_refuses_new_ones_alone() {
    let mut decoder = Decoder::new(3, DecodeOptions { max_series: 2, ..DecodeOptions::default() });
    let mut names = BTreeMap::new();
    let second = with("sensor", "\"t\"");
    let batch =
        batch_of(&mut decoder, &[with("ts", "0").as_bytes(), good("1").as_bytes(), second.as_bytes()]);
    assert_eq!(batch.new_series.len(), 2, "a refused record has no series");
    assert_eq!((rows(&batch, &mut names).len(), batch.decoder), (2, 3));
    let third = with("sensor", "\"u\"");
    let of_both = wide(r#"{"u":1,"t":2}"#);
    let batch = batch_of(&mut decoder, &[third.as_bytes(), good("3").as_bytes(), of_both.as_bytes()]);
    assert!(batch.new_series.is_empty());
    let values: Vec<_> = rows(&batch, &mut names).into_iter().map(|(_, row)| (row.1, row.3)).collect();
    assert_eq!(values, [("s".to_owned(), 3.0), ("t".to_owned(), 2.0)]);
    let bad: Vec<_> = batch.bad.iter().map(|bad| (bad.code, bad.span.message)).collect();
    assert_eq!(bad, [(SeriesLimit, 0), (SeriesLimit, 2)]);
}

#[test]
fn a_flood_is_counted_in_full() {
    let message = format!("[{}{}]", "1,".repeat(100_000), good("1"));
    let mut decoder = Decoder::new(0, DecodeOptions::default());
    let broken = format!("1\nx\n{}", "1\n".repeat(1000));
    let batch = batch_of(&mut decoder, &[message.as_bytes(), broken.as_bytes(), message.as_bytes()]);
    assert_eq!(batch.readings.len(), 2);
    let (one_by_one, beyond) = batch.bad.split_at(1 << 16);
    assert!(one_by_one.iter().enumerate().all(|(k, bad)| {
        (bad.span.position as usize, bad.span.message, bad.code, bad.count) == (k, 0, WrongType, 1)
    }));
    assert_eq!(batch.bad.iter().filter(|bad| !bad.detail.is_empty()).count(), 10_000);
    let found: Vec<_> = beyond
        .iter()
        .map(|bad| (bad.span.message, bad.code, bad.span.position, bad.span.start, bad.span.end, bad.count))
        .collect();
    let rest = 100_000 - (1 << 16);
    assert_eq!(
        found,
        [
            (0, WrongType, 1 << 16, 1 + (2 << 16), 200_000, rest),
            (1, WrongType, 0, 0, 2003, 1001),
            (1, Syntax, 1, 2, 3, 1),
            (2, WrongType, 0, 1, 200_000, 100_000),
        ]
    );
}

#[test]
fn a_flood_that_is_read_again_as_lines_is_counted_once() {
    // An array over several lines that breaks: what was refused in it is taken back.
    let message = format!("[{}1\n{}\n", "1,".repeat(100_000), good("1"));
    let batch = batch_of(&mut Decoder::new(0, DecodeOptions::default()), &[message.as_bytes()]);
    assert_eq!((batch.bad.len(), batch.readings.len()), (1, 1));
    assert_eq!(batch.bad[0].count, 1);
}

#[test]
fn a_batch_says_what_it_was_given() {
    let mut messages = Messages::default();
    messages.push(10, Some(Timestamp(5)), b"");
    messages.push(12, None, b"");
    messages.push(13, Some(Timestamp(7)), good("1").as_bytes());
    messages.push(20, Some(Timestamp(6)), b"");
    let source = TopicPartition::new("readings", 4);
    let batch = Decoder::new(1, DecodeOptions::default()).decode(source.clone(), 3, 9, 21, messages, &[3, 0]);
    assert_eq!((batch.source, batch.start, batch.from, batch.to), (source, 3, 9, 21));
    assert_eq!(batch.last_broker_time, Some(Timestamp(6)));
    assert!(batch.permit.is_none());
    assert_eq!(
        batch.readings.spans,
        [Span { message: 2, position: -1, start: 0, end: good("1").len() as u32 }]
    );
    let bad: Vec<_> = batch.bad.iter().map(|bad| (bad.code, bad.span.message)).collect();
    assert_eq!(bad, [(Tombstone, 0), (Empty, 1), (Tombstone, 3)]);
}
