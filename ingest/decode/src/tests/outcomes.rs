//! Tables of odd and bad input with the exact outcome.

use super::*;
use fleetscore_schemas::codes::DeadLetterCode::{self as Code, *};

const TS: &str = "2026-01-01T00:00:00Z";

/// A good record of sensor `s` with this value.
pub(super) fn good(value: &str) -> String {
    format!(r#"{{"device":"d","sensor":"s","ts":"{TS}","value":{value}}}"#)
}

/// A record with this text in place of one field's value.
pub(super) fn with(field: &str, text: &str) -> String {
    let mut fields =
        [("device", "\"d\""), ("sensor", "\"s\""), ("ts", "\"2026-01-01T00:00:00Z\""), ("value", "1")];
    for (name, value) in &mut fields {
        if *name == field {
            *value = text;
        }
    }
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// A good record with more in it.
fn and(more: &str) -> String {
    format!(r#"{{"device":"d","sensor":"s","ts":"{TS}","value":1,{more}}}"#)
}

pub(super) fn wide(values: &str) -> String {
    format!(r#"{{"device":"d","ts":"{TS}","values":{values}}}"#)
}

/// Records that are refused for what they say, not for how they are written.
fn refused_records() -> Vec<(String, Code)> {
    let long = format!("\"{}\"", "x".repeat(257));
    let far = format!("1{}", "0".repeat(101));
    let mut table: Vec<(String, Code)> = Vec::new();
    for text in ["\"\"", "null", "true", "1.5", "1e3", "1.0", "{}", "[]", "[\"d\"]", &long] {
        table.push((with("device", text), BadName));
        table.push((with("sensor", text), BadName));
    }
    for text in [r#""a\u0000""#, r#""a\n""#, r#""\u007f""#, r#""\u0085""#, "\"\u{7f}\"", "\"a\u{9f}\""] {
        table.push((with("device", text), BadName));
        table.push((with("sensor", text), BadName));
    }
    let mut values =
        vec!["\"21.5\"", "\"\"", "true", "false", "null", "{}", "[]", "[1]", "1e101", "-1e101", "1e400"];
    values.extend(["NaN", "nan", "-NaN", "Infinity", "-Infinity", "inf", "-inf", "INF", &far]);
    for text in values {
        table.push((with("value", text), BadValue));
    }
    for text in [
        "\"2026-01-01T00:00:00\"",
        "\"2026-01-01 00:00:00.000\"",
        "\"2026-01-01\"",
        "\"2026-02-29T00:00:00Z\"",
        "\"2026-13-01T00:00:00Z\"",
        "\"2026-01-01T24:00:00Z\"",
        "\"2026-01-01T00:00:60Z\"",
        "\"2026-01-01T00:00:00+0100\"",
        "\"2026-01-01T00:00:00 Z\"",
        "\"1767225600000\"",
        "\"\"",
        "\"now\"",
        "null",
        "true",
        "[]",
        "{}",
    ] {
        table.push((with("ts", text), BadTime));
    }
    for text in [
        "\"1999-12-31T23:59:59.999999Z\"",
        "\"2100-01-01T00:00:00Z\"",
        "\"0001-01-01T00:00:00Z\"",
        "\"9999-12-31T23:59:59Z\"",
        "\"2000-01-01T00:00:00+00:01\"",
        "0",
        "-1",
        "1767225600",
        "946684799999.999",
        "4102444800000",
        "1e300",
        "-1e300",
        "99999999999999999999999999",
        "1e-300",
    ] {
        table.push((with("ts", text), TsRange));
    }
    table.extend([
        (r#"{}"#.to_owned(), MissingField),
        (r#"{"x":1}"#.to_owned(), MissingField),
        (format!(r#"{{"sensor":"s","ts":"{TS}","value":1}}"#), MissingField),
        (format!(r#"{{"device":"d","ts":"{TS}","value":1}}"#), MissingField),
        (r#"{"device":"d","sensor":"s","value":1}"#.to_owned(), MissingField),
        (format!(r#"{{"device":"d","sensor":"s","ts":"{TS}"}}"#), MissingField),
        (format!(r#"{{"Device":"d","sensor":"s","ts":"{TS}","value":1}}"#), MissingField),
        (format!(r#"{{"ts":"{TS}","values":{{"a":1}}}}"#), MissingField),
        (wide("{}"), MissingField),
        (wide("null"), WrongType),
        (wide("[1,2]"), WrongType),
        (wide("1"), WrongType),
        (wide("\"x\""), WrongType),
        (wide(r#"{"a":1,"a":2}"#), DuplicateKey),
        (wide(r#"{"a":1,"b":3,"\u0061":2}"#), DuplicateKey),
        (wide(r#"{"a":1,"b":3}, "value": 1"#), DuplicateKey),
        (and("\"value\":1"), DuplicateKey),
        (and("\"value\":2"), DuplicateKey),
        (and("\"device\":null"), DuplicateKey),
        (and(r#""\u0064evice":"d""#), DuplicateKey),
        (and(r#""x":1,"x":2"#), DuplicateKey),
        (and(r#""x":1,"y":1,"\u0078":2"#), DuplicateKey),
        (and(r#""values":{"a":1}"#), DuplicateKey),
        (and(r#""x":"\ud800""#), Syntax),
        (and(r#""x":"\udc00\ud800""#), Syntax),
        (and(r#""\ud834":1"#), Syntax),
        (with("device", r#""\ud83d\u0041""#), Syntax),
        (with("value", &format!("{}1{}", "[".repeat(64), "]".repeat(64))), TooDeep),
        (and(&format!("\"x\":{}{}", "[".repeat(64), "]".repeat(64))), TooDeep),
        (and(&format!("\"x\":{}1{}", "{\"a\":".repeat(64), "}".repeat(64))), TooDeep),
        (format!("{}{}", "[".repeat(65), "]".repeat(65)), TooDeep),
        ("1".to_owned(), WrongType),
        ("-1.5e3".to_owned(), WrongType),
        ("\"text\"".to_owned(), WrongType),
        ("null".to_owned(), WrongType),
        ("true".to_owned(), WrongType),
        ("false".to_owned(), WrongType),
    ]);
    table
}

/// Texts that are not JSON; none is white space, holds a newline or begins with a bracket.
fn broken_records() -> Vec<String> {
    let mut table: Vec<String> = [
        "{",
        "}",
        "{\"",
        "{\"device\"",
        "{\"device\":",
        "{\"device\":\"d\"",
        "{\"device\":\"d\",",
        "{\"device\":\"d\",}",
        "{,}",
        "{1:2}",
        "{device:\"d\"}",
        "{'device':'d'}",
        "{\"device\" \"d\"}",
        "{\"device\":\"d\";\"sensor\":\"s\"}",
        "not json",
        "nul",
        "tru",
        "\"open",
        ",",
        ":",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "NaN",
        "Infinity",
        "{\u{feff}}",
        "a,b,c",
        "<reading/>",
        "\\",
        "\u{0}",
        "//comment",
    ]
    .map(str::to_owned)
    .into();
    for text in
        ["01", "1.", ".5", "+1", "1e", "0x10", "1_000", "tru", "nul", "Nan0", "NaNs", "--1", "'1'", "1,5", ""]
    {
        table.push(with("value", text));
    }
    for text in [
        "NaN",
        "Infinity",
        "undefined",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u12\"",
        "\"a\tb\"",
        "\"\u{0}\"",
        "'d'",
    ] {
        table.push(with("device", text));
    }
    for more in
        ["\"x\":NaN", "\"x\":[1,]", "\"x\":{\"a\"}", "\"x\":[1}", "\"x\":01", "\"x\":tru", "x", "\"x\":[,1]"]
    {
        table.push(and(more));
    }
    table.push(format!("{}{}", good("1"), good("2")));
    table.push(format!("{},{}", good("1"), good("2")));
    table.push(format!("{}x", good("1")));
    table.push(format!("{}}}", good("1")));
    table.push(good("1")[..40].to_owned());
    table.push(wide("{\"a\":1,}"));
    table.push(wide("{\"a\"}"));
    table.push(wide("{1:2}"));
    table
}

pub(super) fn value_row(value: f64) -> Row {
    ("d".into(), "s".into(), NEW_YEAR, value)
}

#[test]
fn a_refused_record_spoils_no_other_in_any_shape() {
    let table = refused_records();
    assert!(table.len() >= 100);
    for (record, code) in table {
        let bad = |position| vec![(code, position, record.clone().into_bytes())];
        // A message that begins with a bracket is an array itself.
        if !record.starts_with('[') {
            assert_eq!(decode(&record), (vec![], bad(-1)), "alone: {record}");
        }
        let both = vec![value_row(1.0), value_row(2.0)];
        let array = format!("[{}, {record} ,{}]", good("1"), good("2"));
        assert_eq!(decode(array), (both.clone(), bad(1)), "in an array: {record}");
        let lines = format!("{}\n{record}\n{}\n", good("1"), good("2"));
        assert_eq!(decode(lines), (both.clone(), bad(1)), "among lines: {record}");
        let lines = format!("{record}\r\n{}\r\n\r\n{}", good("1"), good("2"));
        assert_eq!(decode(lines), (both, bad(0)), "first of lines: {record}");
    }
}

/// In the order of the table in the crate's documentation: a fault is the code whatever of those below it is there too.
#[test]
fn of_several_faults_the_first_in_the_table_is_the_code() {
    let nameless = (BadName, r#""device":"""#.to_owned());
    let timeless = (BadTime, r#""ts":"now""#.to_owned());
    let of_values = |code, values: &str| (code, format!("\"values\":{values}"));
    let kinds = [
        (
            "\"value\":1",
            vec![
                (TooDeep, format!("\"deep\":{}{}", "[".repeat(64), "]".repeat(64))),
                (Syntax, r#""half":"\ud800""#.to_owned()),
                (DuplicateKey, r#""x":1,"x":2"#.to_owned()),
                (MissingField, String::new()),
                nameless.clone(),
                timeless.clone(),
                (BadValue, "\"value\":null".to_owned()),
            ],
        ),
        (
            "\"values\":{\"a\":1}",
            vec![of_values(DuplicateKey, r#"{"a":1,"a":2}"#), nameless.clone(), timeless.clone()],
        ),
        ("\"values\":{\"a\":1}", vec![of_values(MissingField, "{}"), nameless.clone(), timeless.clone()]),
        ("\"values\":{\"a\":1}", vec![nameless, timeless, of_values(WrongType, "null")]),
    ];
    for (good_value, faults) in kinds {
        for first in 0..faults.len() {
            let (codes, mut members): (Vec<_>, Vec<_>) = faults[first..].iter().cloned().unzip();
            for member in
                ["\"device\":\"d\"", "\"sensor\":\"s\"", "\"ts\":\"2026-01-01T00:00:00Z\"", good_value]
            {
                let key = &member[..=member.find(':').unwrap()];
                // A member that is missing is a fault without a text.
                let absent = members.contains(&String::new()) && key == "\"sensor\":";
                if !absent && !members.iter().any(|fault| fault.starts_with(key)) {
                    members.push(member.to_owned());
                }
            }
            members.retain(|member| !member.is_empty());
            let record = format!("{{{}}}", members.join(","));
            let bad = vec![(codes[0], -1, record.clone().into_bytes())];
            assert_eq!(decode(&record), (vec![], bad), "{record}");
        }
    }
}

/// An array that turns out to be lines is decoded again, and takes back what it gave, and nothing of the messages before it.
#[test]
fn what_waits_for_its_key_survives_an_array_that_is_lines() {
    let (a, b) = (good("1"), good("2"));
    // One breaks behind a good element, one is whole.
    let lines = [format!("[{a}\n{b}\n[\n{a}\n"), format!("[{a},{a}]\n{b}\n[\n{a}\n")];
    let array = format!("[{a},{a}]");
    // Readings before and behind, fewer and more than are looked up at once.
    for (around, lines) in [0, 1, 3, 100].into_iter().flat_map(|n| lines.iter().map(move |lines| (n, lines)))
    {
        let here = around as u32 + 2;
        let mut payloads = vec![array.as_bytes(); around];
        payloads.extend([b"oops", a.as_bytes(), lines.as_bytes()]);
        payloads.extend(vec![array.as_bytes(); around]);
        let mut decoder = Decoder::new(0, DecodeOptions::default());
        let batch = batch_of(&mut decoder, &payloads);

        let found = rows(&batch, &mut BTreeMap::new());
        let found: Vec<_> = found.iter().map(|(span, row)| (span.message, span.position, row.3)).collect();
        let arrays = |messages: std::ops::Range<u32>| messages.flat_map(|m| [(m, 0, 1.0), (m, 1, 1.0)]);
        let mut expected: Vec<_> = arrays(0..around as u32).collect();
        expected.extend([(here - 1, -1, 1.0), (here, 1, 2.0), (here, 3, 1.0)]);
        expected.extend(arrays(here + 1..here + 1 + around as u32));
        assert_eq!(found, expected, "{around} messages around");

        let bad: Vec<_> = batch.bad.iter().map(|bad| (bad.span.message, bad.span.position)).collect();
        assert_eq!(bad, [(here - 2, -1), (here, 0), (here, 2)], "{around} messages around");
    }
}

#[test]
fn a_broken_record_takes_its_line_or_the_remainder_of_its_array() {
    let table = broken_records();
    assert!(table.len() >= 60);
    for record in table {
        let bad = |position, bytes: &str| vec![(Syntax, position, bytes.as_bytes().to_vec())];
        assert_eq!(decode(&record), (vec![], bad(-1, &record)), "alone: {record}");
        assert_eq!(
            decode(format!("\n {record} \r\n")),
            (vec![], bad(-1, &format!("\n {record} \r\n"))),
            "alone with white space: {record}"
        );
        let both = vec![value_row(1.0), value_row(2.0)];
        for (lines, position) in [
            (format!("{}\n{record}\n{}\n", good("1"), good("2")), 1),
            (format!("{record}\n{}\n{}", good("1"), good("2")), 0),
            (format!("\r\n{}\r\n{}\r\n{record}", good("1"), good("2")), 3),
        ] {
            assert_eq!(decode(&lines), (both.clone(), bad(position, &record)), "lines: {lines}");
        }
    }
}

#[test]
fn lines_that_begin_with_a_bracket_are_lines_all_the_same() {
    for (line, code) in [
        ("[", Syntax),
        ("[1", Syntax),
        ("[1,2", Syntax),
        ("[}", Syntax),
        ("[{\"device\":\"d\"", Syntax),
        ("[]", WrongType),
        ("[1,2]", WrongType),
        ("[[[]]]", WrongType),
        ("]", Syntax),
        ("] ,", Syntax),
    ] {
        for (lines, position) in [
            (format!("{}\n{line}\n{}\n", good("1"), good("2")), 1),
            (format!("{}\r\n{}\r\n{line}\r\n", good("1"), good("2")), 2),
            (format!("{line}\n{}\n{}\n", good("1"), good("2")), 0),
        ] {
            let bad = vec![(code, position, line.as_bytes().to_vec())];
            assert_eq!(decode(&lines), (vec![value_row(1.0), value_row(2.0)], bad), "{lines}");
        }
    }
}

#[test]
fn an_array_that_breaks_leaves_its_beginning_and_one_remainder() {
    let (a, b) = (good("1"), good("2"));
    for (message, readings, position, remainder) in [
        ("[".to_owned(), 0, 0, "[".to_owned()),
        ("[ ,".to_owned(), 0, 0, ",".to_owned()),
        ("[1".to_owned(), 0, 1, String::new()),
        (format!("[{a}"), 1, 1, String::new()),
        (format!("[{a} \n"), 1, 1, " \n".to_owned()),
        (format!("[{a},"), 1, 1, ",".to_owned()),
        (format!("[{a},]"), 1, 1, "]".to_owned()),
        (format!("[{a},,{b}]"), 1, 1, format!(",{b}]")),
        (format!("[{a} {b}]"), 1, 1, format!("{b}]")),
        (format!("[{a};{b}]"), 1, 1, format!(";{b}]")),
        (format!("[{a},{b}}}"), 2, 2, "}".to_owned()),
        (format!("[{a},{b}] {a}"), 2, 2, a.clone()),
        (format!("[{a}]]"), 1, 1, "]".to_owned()),
        (format!("[{a},{{\"device\":\"d\",{b}]"), 1, 1, format!("{{\"device\":\"d\",{b}]")),
        (format!("[{a},{b}, {}", &a[..50]), 2, 2, a[..50].to_owned()),
        (format!("[\n{a},\n{b},\n{}\n", &a[..50]), 2, 2, format!("{}\n", &a[..50])),
        (format!("[\n{a},\n{b}\n"), 2, 2, "\n".to_owned()),
        (format!("[\n{a}\n,{b}\n;"), 2, 2, ";".to_owned()),
        (format!("[{a}]\n[{b}]\n"), 1, 1, format!("[{b}]\n")),
    ] {
        let (rows, bad) = decode(&message);
        let ones = message.starts_with("[1") as usize;
        assert_eq!(rows.len(), readings, "{message}");
        assert_eq!(bad.len(), 1 + ones, "{message}");
        assert_eq!(bad[ones], (Syntax, position, remainder.into_bytes()), "{message}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(decode(&deep), (vec![], vec![(TooDeep, 0, deep.as_bytes()[1..].to_vec())]));
    let deep = format!("{{\"x\":{}", "[{\"a\":".repeat(100_000));
    assert_eq!(decode(&deep), (vec![], vec![(TooDeep, -1, deep.into_bytes())]));
}

#[test]
fn every_code_is_on_the_page_of_rules() {
    let page = include_str!("../../../../docs/readings.md");
    for code in Code::ALL {
        assert!(page.contains(&format!("| `{code}` |")), "docs/readings.md lacks {code}");
    }
}

#[test]
fn a_time_out_of_range_is_told_as_it_is_written() {
    for (ts, detail) in [
        ("1767225600", "`ts` is 1767225600 (ms), 1970-01-21T10:53:45.600000Z, outside 2000..2100"),
        ("\"1999-12-31T23:59:59Z\"", "`ts` is 1999-12-31T23:59:59.000000Z, outside 2000..2100"),
        ("1e300", "`ts` is 1e300 (ms), outside 2000..2100"),
        (&"9".repeat(60), "`ts` is 99999999999999999999999999999999… (ms), outside 2000..2100"),
    ] {
        let mut decoder = Decoder::new(0, DecodeOptions::default());
        let batch = batch_of(&mut decoder, &[with("ts", ts).as_bytes()]);
        assert_eq!((batch.bad[0].code, batch.bad[0].detail.as_str()), (TsRange, detail));
    }
}

#[test]
fn whole_messages() {
    for (message, code) in [
        (&b""[..], Empty),
        (b" \t\r\n\n", Empty),
        (b"\xef\xbb\xbf", Empty),
        (b"\xef\xbb\xbf \n", Empty),
        (b"[]", MissingField),
        (b" [ ] ", MissingField),
        (b"\xff", NotUtf8),
        (b"\xef\xbb", NotUtf8),
        (b"\xff\xfe{\0}\0", NotUtf8),
        (b"\x80{}", NotUtf8),
        (b"{}\x80", NotUtf8),
        (b"{\"device\":\"\xc3\x28\"}", NotUtf8),
        (b"{\"x\":\"\xed\xa0\x80\"}", NotUtf8),
        (b"{\"x\":\"\xc0\x80\"}", NotUtf8),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", Syntax),
        (b"{\n \"device\": \"d\",\n \"sensor\": oops\n}\n", Syntax),
        (b"{\n \"device\": \"d\"\n}\n{\n \"device\": \"d\"\n}\n", Syntax),
        (b"1 2", Syntax),
        (b"\"a\" \"b\"", Syntax),
    ] {
        assert_eq!(
            decode(message),
            (vec![], vec![(code, -1, message.to_vec())]),
            "{:?}",
            message.escape_ascii()
        );
    }
    let large = good("1") + &" ".repeat(8 << 20);
    assert_eq!(decode(&large), (vec![], vec![(TooLarge, -1, large.as_bytes().to_vec())]));
    let large = good("1") + &" ".repeat((8 << 20) - good("1").len());
    assert_eq!(decode(&large).0.len(), 1);
}

#[test]
fn accepted_in_unusual_ways() {
    let row = |device: &str, sensor: &str, us: i64, v: f64| (device.to_owned(), sensor.to_owned(), us, v);
    let long = "x".repeat(256);
    let deep = format!("{}{}", "[".repeat(63), "]".repeat(63));
    for (message, expected) in [
        (format!("\u{feff}{}", good("1")), row("d", "s", NEW_YEAR, 1.0)),
        (format!("\u{feff}[{}]", good("1")), row("d", "s", NEW_YEAR, 1.0)),
        (format!(" \r\n\t{} \n\n", good("1")), row("d", "s", NEW_YEAR, 1.0)),
        (good("-0"), row("d", "s", NEW_YEAR, 0.0)),
        (good("-0.0e5"), row("d", "s", NEW_YEAR, 0.0)),
        (good("1E2"), row("d", "s", NEW_YEAR, 100.0)),
        (good("1e100"), row("d", "s", NEW_YEAR, 1e100)),
        (good("1e-400"), row("d", "s", NEW_YEAR, 0.0)),
        (good("0.1000000000000000055511151231257827"), row("d", "s", NEW_YEAR, 0.1)),
        (with("device", "7"), row("7", "s", NEW_YEAR, 1.0)),
        (with("device", "-0"), row("-0", "s", NEW_YEAR, 1.0)),
        (
            with("sensor", "123456789012345678901234567890"),
            row("d", "123456789012345678901234567890", NEW_YEAR, 1.0),
        ),
        (with("device", &format!("\"{long}\"")), row(&long, "s", NEW_YEAR, 1.0)),
        (with("device", r#""\u00fc \ud83d\ude00\"\\\/""#), row("ü 😀\"\\/", "s", NEW_YEAR, 1.0)),
        (with("device", "\"ü 😀\""), row("ü 😀", "s", NEW_YEAR, 1.0)),
        (with("ts", "1767225600000"), row("d", "s", NEW_YEAR, 1.0)),
        (with("ts", "1767225600000.0019"), row("d", "s", NEW_YEAR + 1, 1.0)),
        (with("ts", "1.7672256e12"), row("d", "s", NEW_YEAR, 1.0)),
        (with("ts", "\"2026-01-01 01:00:00.0000019+01:00\""), row("d", "s", NEW_YEAR + 1, 1.0)),
        (with("ts", r#""2026\u002d01-01T00:00:00Z""#), row("d", "s", NEW_YEAR, 1.0)),
        (with("ts", "\"2000-01-01T00:00:00Z\""), row("d", "s", Timestamp::MIN_EVENT.us(), 1.0)),
        (with("ts", "\"2099-12-31T23:59:59.999999Z\""), row("d", "s", Timestamp::END_EVENT.us() - 1, 1.0)),
        (
            and(r#""x":{"a":1,"a":2,"device":[{"device":null}]},"y":[1e999,"\n",true,null]"#),
            row("d", "s", NEW_YEAR, 1.0),
        ),
        (and(&format!("\"x\":{deep}")), row("d", "s", NEW_YEAR, 1.0)),
        (
            format!(
                "{{\r\n  \"ts\": \"{TS}\",\n\t\"value\" : 1 , \"sensor\": \"s\", \"\\u0064evice\":\"d\"\n}}\n"
            ),
            row("d", "s", NEW_YEAR, 1.0),
        ),
        (wide(r#"{"s":1}"#), row("d", "s", NEW_YEAR, 1.0)),
        (wide(r#"{"s":1}, "sensor":[]"#), row("d", "s", NEW_YEAR, 1.0)),
        (format!("[{}]", wide(r#"{"\u0073":1}"#)), row("d", "s", NEW_YEAR, 1.0)),
    ] {
        assert_eq!(decode(&message), (vec![expected], vec![]), "{message}");
    }
}

#[test]
fn a_wide_record_loses_its_bad_sensors_alone() {
    let many: Vec<_> =
        (0..40).map(|k| format!("\"s{k}\":{}", if k % 2 == 0 { "1" } else { "null" })).collect();
    let even: Vec<_> = (0..40).step_by(2).map(|k| format!("s{k}")).collect();
    for (values, good, code) in [
        (r#"{"a":1,"b":null,"c":3}"#.to_owned(), vec!["a", "c"], BadValue),
        (r#"{"a":NaN,"b":2,"c":-Infinity}"#.to_owned(), vec!["b"], BadValue),
        (r#"{"":1,"b":"x","c":3}"#.to_owned(), vec!["c"], BadName),
        (r#"{"a":"1","b":"2"}"#.to_owned(), vec![], BadValue),
        (format!("{{{}}}", many.join(",")), even.iter().map(String::as_str).collect(), BadValue),
    ] {
        let record = wide(&values);
        for (message, position) in
            [(record.clone(), -1), (format!("[{record}]"), 0), (format!("\n{record}\n\n{record}"), 1)]
        {
            let (rows, bad) = decode(&message);
            let times = bad.len();
            assert_eq!(bad[0], (code, position, record.clone().into_bytes()), "{message}");
            assert_eq!(times, if position == 1 { 2 } else { 1 }, "{message}");
            let sensors: Vec<_> = rows.iter().map(|(_, sensor, ..)| sensor.as_str()).collect();
            assert_eq!(sensors, good.repeat(times), "{message}");
        }
    }
    let mut decoder = Decoder::new(0, DecodeOptions::default());
    let batch = batch_of(&mut decoder, &[wide(r#"{"a":1,"b":null,"c":{}}"#).as_bytes()]);
    assert_eq!(
        batch.bad[0].detail,
        "2 of 3 sensors refused, the others count: `values`[\"b\"]: bad_value, is null, not a number; \
         `values`[\"c\"]: bad_value, is an object, not a number"
    );
    let twins: Vec<_> = (0..50).map(|k| format!("\"s{}\":1", k % 49)).collect();
    let twins = wide(&format!("{{{}}}", twins.join(",")));
    assert_eq!(decode(&twins), (vec![], vec![(DuplicateKey, -1, twins.into_bytes())]));
}

#[test]
fn bytes_that_are_no_characters_spoil_their_record_alone() {
    let mut message = Vec::new();
    for line in
        [good("1").as_bytes(), b"{\"device\":\"\xff\",\"x\":oops", good("2").as_bytes(), b"\xfe", b"\xc3"]
    {
        message.extend_from_slice(line);
        message.push(b'\n');
    }
    let (rows, bad) = decode(&message);
    assert_eq!(rows, [value_row(1.0), value_row(2.0)]);
    assert_eq!(
        bad,
        [
            (NotUtf8, 1, b"{\"device\":\"\xff\",\"x\":oops".to_vec()),
            (NotUtf8, 3, b"\xfe".to_vec()),
            (NotUtf8, 4, b"\xc3".to_vec())
        ]
    );
    let element = [b"{\"device\":\"\xff\"}".to_vec(), b"\"\xe2\x82\"".to_vec()];
    let (first, last) = (good("1"), good("2"));
    let array = [b"[", first.as_bytes(), b",", &element[0], b",", &element[1], b" , ", last.as_bytes(), b"]"];
    let (rows, bad) = decode(array.concat());
    assert_eq!(rows, [value_row(1.0), value_row(2.0)]);
    assert_eq!(bad, [(NotUtf8, 1, element[0].clone()), (NotUtf8, 2, element[1].clone())]);
    let array = [b"[", good("1").as_bytes(), b",\xff]"].concat();
    assert_eq!(decode(array), (vec![value_row(1.0)], vec![(NotUtf8, 1, b"\xff]".to_vec())]));
    // A character cut by the border of two messages is not made whole by their neighbourhood.
    let mut decoder = Decoder::new(0, DecodeOptions::default());
    let batch = batch_of(&mut decoder, &[b"\"\xc3", b"\xbc\"", good("1").as_bytes()]);
    assert_eq!(batch.bad.iter().map(|bad| bad.code).collect::<Vec<_>>(), [NotUtf8, NotUtf8]);
    assert_eq!(batch.readings.len(), 1);
}
