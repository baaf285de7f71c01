//! The straight way gives what the general one gives, for whatever differs from one record to the next.

use super::*;
use crate::TsUnit;
use crate::number::Number;
use crate::time::Dates;
use proptest::prelude::*;

/// Behind the last record: so near the end of a payload the straight way is not taken.
const ROOM: &[u8] = &[b' '; 48];

/// How a producer writes its records.
#[derive(Debug, Clone)]
struct Style {
    /// What stands before the first member, between key and value, between members, behind the last.
    glue: [&'static str; 4],
    order: [usize; 4],
    /// A member that means nothing.
    extra: &'static str,
}

impl Style {
    fn write(&self, texts: &[String; 4]) -> String {
        let [open, colon, comma, close] = self.glue;
        let key = |field: usize| ["device", "sensor", "ts", "value"][field];
        let members = self.order.map(|field| format!("\"{}\"{colon}{}", key(field), texts[field]));
        format!("{{{open}{}{}{close}}}", members.join(comma), self.extra)
    }
}

fn styles() -> impl Strategy<Value = Style> {
    let glue = prop_oneof![
        3 => Just(["", ":", ",", ""]),
        1 => Just([" ", ": ", ", ", " "]),
        1 => Just(["\t", " : ", " ,\t ", ""]),
    ];
    let extra = prop_oneof![
        4 => Just(""),
        1 => Just(",\"unit\":\"\\u00b0C\""),
        1 => Just(",\"a\":1,\"a\":2"),
        1 => Just(",\"a key that is much longer than any piece between two fields of a record can be\":0"),
    ];
    let order = Just([0, 1, 2, 3]).prop_shuffle();
    (glue, order, extra).prop_map(|(glue, order, extra)| Style { glue, order, extra })
}

/// Device, sensor, time and value as they are written: mostly the usual way.
fn texts() -> impl Strategy<Value = [String; 4]> {
    let name = || {
        prop_oneof![
            8 => "\"[a-z]{1,9}-[0-9]{1,9}\"",
            2 => "\"[a-z ü☃]{14,40}\"",
            1 => "\"[ -~]{0,20}\"",
            1 => "\"\\PC{0,6}\"",
            1 => "-?[0-9]{1,3}(\\.5)?",
            1 => Just("\"x\",\"sensor\":\"y\"".to_owned()),
            1 => Just("\"tab\tinside\"".to_owned()),
            1 => Just("null".to_owned()),
        ]
    };
    let ts = prop_oneof![
        8 => "\"2026-0[1-3]-[0-2][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z\"",
        2 => "\"2026-01-0[1-9][Tt ]2[0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,3})?(Z|z|\\+0[01]:00)\"",
        2 => "17[67][0-9]{10,11}(\\.[0-9])?",
        1 => "\"[ -~]{15,30}\"",
    ];
    let value = prop_oneof![
        8 => "-?[0-9]{1,5}(\\.[0-9]{1,4})?",
        2 => "-?[0-9]{0,20}(\\.[0-9]{0,20})?([eE]-?[0-9]{1,3})?",
        1 => Just("NaN".to_owned()),
        1 => Just("-0".to_owned()),
        1 => "[ -~]{0,6}",
    ];
    (name(), name(), ts, value).prop_map(|(device, sensor, ts, value)| [device, sensor, ts, value])
}

/// All of it by both ways: twice, so that the second time begins with what the first has learned.
fn compare(options: &DecodeOptions, payloads: &[&[u8]]) -> Result<u64, TestCaseError> {
    let payloads = [payloads, &[ROOM]].concat();
    let mut straight = Decoder::new(7, options.clone());
    let mut general = Decoder::general(7, options.clone());
    for _ in 0..2 {
        let (a, b) = (batch_of(&mut straight, &payloads), batch_of(&mut general, &payloads));
        let (x, y) = (&a.readings, &b.readings);
        prop_assert_eq!((&x.spans, &x.series, &x.ts), (&y.spans, &y.series, &y.ts));
        let bits = |batch: &ReadingBatch| -> Vec<u64> {
            batch.readings.value.values().iter().map(|v| v.to_bits()).collect()
        };
        prop_assert_eq!(bits(&a), bits(&b));
        prop_assert_eq!(&a.bad, &b.bad);
        prop_assert_eq!(&a.new_series, &b.new_series);
    }
    assert_eq!(general.layout.taken, 0);
    Ok(straight.layout.taken)
}

/// Settings that records are judged by.
fn options() -> impl Strategy<Value = DecodeOptions> {
    let unit = prop_oneof![Just(TsUnit::Ms), Just(TsUnit::S), Just(TsUnit::Us)];
    let (series, bytes) = (prop_oneof![Just(3), Just(1000)], prop_oneof![1 => Just(120), 3 => Just(1 << 20)]);
    (unit, any::<bool>(), series, bytes, 0usize..3).prop_map(
        |(ts_unit, ts_from_broker, max_series, max_message_bytes, max_depth)| DecodeOptions {
            ts_unit,
            ts_from_broker,
            max_series,
            max_message_bytes,
            max_depth,
            ..DecodeOptions::default()
        },
    )
}

/// Messages of these records: one each, an array, lines, lines of another system.
fn messages(records: &[String], shape: usize) -> Vec<Vec<u8>> {
    match shape {
        0 => records.iter().map(|record| record.clone().into_bytes()).collect(),
        1 => vec![format!("[{}]", records.join(",")).into_bytes()],
        2 => vec![records.join("\n").into_bytes()],
        _ => vec![(records.join("\r\n") + "\r\n").into_bytes()],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn both_ways_come_to_the_same(
        style in styles(), other in styles(), all in prop::collection::vec((texts(), 0..10), 1..40), shape in 0usize..4,
        spoil in prop::option::of((any::<prop::sample::Index>(), any::<u8>())), options in options(), marked in any::<bool>(),
    ) {
        let records: Vec<String> =
            all.iter().map(|(texts, of)| if *of == 0 { other.write(texts) } else { style.write(texts) }).collect();
        let mut messages = messages(&records, shape);
        if let Some((at, byte)) = spoil {
            let message = at.index(messages.len());
            let byte_at = at.index(messages[message].len());
            messages[message][byte_at] = byte;
        }
        if marked {
            messages.iter_mut().for_each(|message| drop(message.splice(..0, *b"\xef\xbb\xbf")));
        }
        let payloads: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        compare(&options, &payloads)?;
    }

    #[test]
    fn usual_records_go_the_straight_way(
        style in styles().prop_filter("short", |s| s.extra.len() < 16 && !s.extra.contains("\"a\"")),
        all in prop::collection::vec(("[a-z]{1,40}", "[a-z]{1,40}", 0i64..99_999_999, -99_999i32..99_999), 2..40),
        shape in 0usize..4, counted in any::<bool>(),
    ) {
        let records: Vec<String> = all.iter().map(|(device, sensor, ms, value)| {
            let us = NEW_YEAR + ms * 1000;
            let text = chrono::DateTime::from_timestamp_micros(us).unwrap().format("%Y-%m-%dT%H:%M:%S%.3fZ");
            let ts = if counted { (us / 1000).to_string() } else { format!("\"{text}\"") };
            style.write(&[format!("\"{device}\""), format!("\"{sensor}\""), ts, (f64::from(*value) / 100.0).to_string()])
        }).collect();
        let messages = messages(&records, shape);
        let payloads: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let taken = compare(&DecodeOptions::default(), &payloads)?;
        // The first one of lines is read as if it were all of the message, and then again.
        prop_assert!(taken >= 2 * all.len() as u64 - 1, "{taken}: not all but the first, {}", records[0]);
    }

    #[test]
    fn a_quick_number_is_the_general_one(text in "-?[0-9]{0,9}(\\.[0-9]{0,9})?([eE][+-]?[0-9]{1,2})?[,} .x-]") {
        let padded = format!("{text}                ");
        let b = padded.as_bytes();
        if let Some((v, end)) = Number::quick(b, 0) {
            let number = Number::scan(b, 0).map_err(|_| TestCaseError::fail("no number"))?;
            prop_assert_eq!(end, number.end as usize);
            prop_assert_eq!(Some(v.to_bits()), number.value(b).map(f64::to_bits));
        }
    }

    #[test]
    fn the_usual_number_is_quick(whole in 0u32..10_000_000, fraction in "(\\.[0-9]{1,7})?", minus in "-?") {
        let text = format!("{minus}{whole}{fraction}");
        let found = Number::quick(format!("{text},        ").as_bytes(), 0);
        prop_assert_eq!(found, Some((text.parse::<f64>().unwrap() + 0.0, text.len())));
    }

    #[test]
    fn a_quick_time_is_the_general_one(
        text in "20[0-9]{2}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,9})?(Z|z|\\+0[01]:00|)",
        usual in "2026-02-1[0-9]T1[0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,7}(Z|\\+00:00)|Z)",
    ) {
        let mut dates = Dates::default();
        let quick = |dates: &mut Dates, text: &str| dates.quick(format!("{text}\"{text}").as_bytes(), 0);
        if let Some((us, end)) = quick(&mut dates, &text) {
            prop_assert_eq!((Ok(us), end), (Dates::default().parse(text.as_bytes()), text.len()));
        }
        prop_assert_eq!(quick(&mut dates, &usual), Dates::default().parse(usual.as_bytes()).ok().map(|us| (us, usual.len())));
    }
}

#[test]
fn a_name_that_looks_like_the_next_piece_is_no_name() {
    let first = r#"{"device":"a\"b","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1}"#;
    let usual = r#"{"device":"a","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1}"#;
    // The bytes between the quotes of the pieces would be the known name of the first record.
    let broken = r#"{"device":"a"b","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1}"#;
    let payloads = [first, usual, usual, broken, usual].map(str::as_bytes);
    let taken = compare(&DecodeOptions::default(), &payloads).unwrap();
    assert!(taken >= 3, "{taken} of the usual ones");
}

#[test]
fn records_of_many_shapes_are_tried_now_and_then() {
    let written = |i: usize| {
        let spaces = " ".repeat(i % 7);
        format!(r#"{{{spaces}"device":"d","sensor":"s","ts":"2026-01-01T00:00:00Z","value":{i}}}"#)
    };
    let all: Vec<String> = (0..1000).map(written).collect();
    let payloads: Vec<&[u8]> = all.iter().map(String::as_bytes).collect();
    let mut decoder = Decoder::new(7, DecodeOptions::default());
    assert_eq!(batch_of(&mut decoder, &payloads).readings.len(), 1000);
    assert!(decoder.layout.tried < 100, "{} attempts", decoder.layout.tried);
    // So are those that have no layout at all, and those of two layouts in turn.
    let long = format!(
        r#"{{"device":"d","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1,"unit":"{}"}}"#,
        "x".repeat(70)
    );
    let [a, b] = [0, 1].map(written);
    let in_turn = [&a, &b, &a, &b];
    let in_pairs = [&a, &a, &b, &b];
    for all in [[&long; 4], in_turn, in_pairs] {
        let mut decoder = Decoder::new(7, DecodeOptions::default());
        let payloads: Vec<&[u8]> = all.iter().map(|text| text.as_bytes()).collect::<Vec<_>>().repeat(250);
        assert_eq!(batch_of(&mut decoder, &payloads).readings.len(), 1000);
        assert!(decoder.layout.tried < 250, "{} attempts: {all:?}", decoder.layout.tried);
        assert!(decoder.layout.learned < 250, "{} times learned: {all:?}", decoder.layout.learned);
    }
    // Once they are alike, the straight way is found again.
    let usual = written(0);
    let payloads = vec![usual.as_bytes(); 200];
    batch_of(&mut decoder, &payloads);
    assert!(decoder.layout.taken > 100, "{} of 200", decoder.layout.taken);
}

#[test]
fn names_of_any_letters_go_the_straight_way_and_no_broken_one_does() {
    // Letters of two bytes, before, across and behind the border between two looks at sixteen bytes.
    let name = |at: usize, letter: &[u8]| [&b"x".repeat(at)[..], letter, b"yz"].concat();
    let record = |device: &[u8]| {
        let rest = br#"","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1}"#;
        [br#"{"device":""#, device, rest].concat()
    };
    for at in 0..40 {
        let good = [record(b"plain"), record(&name(at, "ü".as_bytes())), record(&name(at, "☃".as_bytes()))];
        let payloads: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
        assert_eq!(compare(&DecodeOptions::default(), &payloads).unwrap(), 5, "all but the first, at {at}");
        for broken in [&b"\xc3"[..], b"\xff", b"\xbc\xc3", b"\xe2\x98"] {
            let broken = record(&name(at, broken));
            let payloads = [&good[0], &good[1], &broken, &good[1]].map(|p| &p[..]);
            compare(&DecodeOptions::default(), &payloads).unwrap();
            let batch = batch_of(&mut Decoder::new(7, DecodeOptions::default()), &payloads);
            assert_eq!((batch.readings.len(), batch.bad[0].code), (3, DeadLetterCode::NotUtf8));
        }
    }
}

#[test]
fn elements_that_are_no_objects_are_no_failures_of_the_layout() {
    let usual = r#"{"device":"d","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1}"#;
    let array = format!("[{}]", vec![format!("{usual},null,7,\"x\""); 100].join(","));
    let taken = compare(&DecodeOptions::default(), &[array.as_bytes()]).unwrap();
    assert_eq!(taken, 199, "all objects but the first");
}

#[test]
fn nothing_that_is_not_utf8_is_learned() {
    let record = |member: &[u8]| {
        let rest = br#""device":"d","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1}"#;
        [b"{", member, &rest[..]].concat()
    };
    for member in [&b"\"unit\":\"\xff\","[..], b"\"un\xc3it\":1,", b"\"unit\":[\"\xe2\x98\"],"] {
        let (broken, good) = (record(member), record("\"unit\":\"☃\",".as_bytes()));
        let joined =
            |glue: &[u8], ends: [&[u8]; 2]| [ends[0], &vec![&broken[..]; 20].join(glue), ends[1]].concat();
        for message in [broken.clone(), joined(b",", [b"[", b"]"]), joined(b"\n", [b"", b"\n"])] {
            let payloads = vec![&message[..]; 20];
            assert_eq!(compare(&DecodeOptions::default(), &payloads).unwrap(), 0);
            let batch = batch_of(&mut Decoder::new(7, DecodeOptions::default()), &payloads);
            assert!(batch.readings.is_empty());
            assert!(!batch.bad.is_empty() && batch.bad.iter().all(|bad| bad.code == DeadLetterCode::NotUtf8));
        }
        let in_turn: Vec<&[u8]> = [&good[..], &good, &broken, &broken, &good].repeat(20);
        assert!(compare(&DecodeOptions::default(), &in_turn).unwrap() > 0);
        let batch = batch_of(&mut Decoder::new(7, DecodeOptions::default()), &in_turn);
        assert_eq!((batch.readings.len(), batch.bad.len()), (60, 40));
    }
}
