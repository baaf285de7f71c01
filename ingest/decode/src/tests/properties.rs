//! What holds for any message: readings survive every way of writing them, validity is serde_json's, and nothing
//! panics, leaks from one message into another or vanishes.

use super::*;
use crate::FieldNames;
use proptest::prelude::*;
use serde::de::IgnoredAny;

/// Choices of a renderer, drawn from a seed (SplitMix64), so that a failing case shrinks to readings, not to text.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    /// White space; without newlines if it stands in a line.
    fn white(&mut self, in_line: bool) -> &'static str {
        match self.roll(6) {
            0 => " ",
            1 => "\t ",
            2 if !in_line => "\r\n  ",
            3 if !in_line => "\n",
            _ => "",
        }
    }

    /// A string with some characters escaped that need not be.
    fn string(&mut self, text: &str) -> String {
        let mut out = String::from('"');
        let often = *self.pick(&[1, 3, 1000]);
        for c in text.chars() {
            if c < ' ' || c == '"' || c == '\\' || self.roll(often) == 0 && often < 1000 {
                match c {
                    '"' | '\\' | '/' if self.roll(2) == 0 => out.extend(['\\', c]),
                    '\n' if self.roll(2) == 0 => out.push_str("\\n"),
                    _ => {
                        for unit in c.encode_utf16(&mut [0; 2]) {
                            let upper = self.roll(2) == 0;
                            out += &if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
                        }
                    }
                }
            } else {
                out.push(c);
            }
        }
        out + "\""
    }

    fn name(&mut self, name: &str) -> String {
        let integer = name.parse::<i64>().is_ok_and(|n| n.to_string() == name);
        if integer && self.roll(2) == 0 { name.to_owned() } else { self.string(name) }
    }

    fn ts(&mut self, us: i64) -> String {
        if self.roll(3) == 0 {
            return format!("{}.{:03}", us / 1000, us % 1000);
        }
        let minutes = self.roll(1440) as i64 * if self.roll(2) == 0 { 1 } else { -1 };
        let local =
            chrono::DateTime::from_timestamp_micros(us + minutes * 60_000_000).expect("a time of ours");
        let t = self.pick(&["T", "t", " "]);
        let text = local.format(&format!("%Y-%m-%d{t}%H:%M:%S%.6f")).to_string();
        let beyond = self.pick(&["", "0", "9", "000", "999999999"]);
        let zone = match minutes {
            0 => "Z".to_owned(),
            m => format!("{}{:02}:{:02}", if m < 0 { '-' } else { '+' }, m.abs() / 60, m.abs() % 60),
        };
        self.string(&format!("{text}{beyond}{zone}"))
    }

    fn value(&mut self, v: f64) -> String {
        match self.roll(3) {
            0 => format!("{v:e}"),
            1 => format!("{v:?}").replace("e", "E"),
            _ => format!("{v}"),
        }
    }

    /// An object of these members, in any order, with some that mean nothing.
    fn object(&mut self, mut members: Vec<String>, in_line: bool) -> String {
        for (key, value) in
            [("unit", "\"K\""), ("x", "{\"value\":[null,1e-7]}"), ("", "true"), ("Device", "0")]
        {
            if self.roll(6) == 0 {
                members.push(format!("{}:{value}", self.string(key)));
            }
        }
        if self.roll(2) == 0 {
            for k in (1..members.len()).rev() {
                let other = self.roll(k + 1);
                members.swap(k, other);
            }
        }
        let mut out = format!("{{{}", self.white(in_line));
        for (k, member) in members.iter().enumerate() {
            out += if k == 0 { "" } else { "," };
            out += self.white(in_line);
            out += member;
            out += self.white(in_line);
        }
        out + "}"
    }

    fn member(&mut self, key: &str, value: &str, in_line: bool) -> String {
        let key = if self.roll(5) == 0 { self.string(key) } else { format!("\"{key}\"") };
        format!("{key}{}:{}{value}", self.white(in_line), self.white(in_line))
    }

    fn narrow(&mut self, (device, sensor, us, v): &Row, in_line: bool) -> String {
        let members = [
            ("device", self.name(device)),
            ("sensor", self.name(sensor)),
            ("ts", self.ts(*us)),
            ("value", self.value(*v)),
        ];
        let members = members.map(|(key, value)| self.member(key, &value, in_line)).into();
        self.object(members, in_line)
    }

    /// Readings of one device and time with different sensors.
    fn wide(&mut self, rows: &[Row], in_line: bool) -> String {
        let values: Vec<_> = rows
            .iter()
            .map(|(_, sensor, _, v)| format!("{}:{}", self.string(sensor), self.value(*v)))
            .collect();
        let values = format!("{{{}}}", values.join(&format!(",{}", self.white(in_line))));
        let members = [("device", self.name(&rows[0].0)), ("ts", self.ts(rows[0].2)), ("values", values)];
        let members = members.map(|(key, value)| self.member(key, &value, in_line)).into();
        self.object(members, in_line)
    }

    /// One record or a wide one, for each group.
    fn records(&mut self, groups: &[Vec<Row>], in_line: bool) -> Vec<String> {
        groups
            .iter()
            .map(|group| match &group[..] {
                [one] if self.roll(2) == 0 => self.narrow(one, in_line),
                several => self.wide(several, in_line),
            })
            .collect()
    }

    /// Messages that hold these groups in this order.
    fn messages(&mut self, groups: &[Vec<Row>], shape: usize) -> Vec<String> {
        match shape {
            0 => {
                let records = self.records(groups, false);
                records.iter().map(|r| format!("{}{r}{}", self.white(false), self.white(false))).collect()
            }
            1 => {
                let records = self.records(groups, false);
                let mut out = String::from("[");
                for (k, record) in records.iter().enumerate() {
                    let comma = if k == 0 { "" } else { "," };
                    out += &format!("{comma}{}{record}{}", self.white(false), self.white(false));
                }
                vec![out + "]" + self.white(false)]
            }
            _ => {
                let records = self.records(groups, true);
                let newline = *self.pick(&["\n", "\r\n", "\n\n", " \n\t\r\n"]);
                let last = if self.roll(2) == 0 { newline } else { "" };
                vec![records.join(newline) + last]
            }
        }
    }

    /// Spoils a message here and there.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const BYTES: &[u8] =
            b"{}[]\",:\\\n\r \t0123456789.-+eEtruefalsnNaIu\x00\x1f\x7f\x80\xff\xc3\xa9\xef\xbb\xbf";
        for _ in 0..=self.roll(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.roll(bytes.len());
            let end = (at + 1 + self.roll(20)).min(bytes.len());
            match self.roll(7) {
                0 => bytes[at] = *self.pick(BYTES),
                1 => bytes.insert(at, *self.pick(BYTES)),
                2 => drop(bytes.remove(at)),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let copy = bytes[at..end].to_vec();
                    let to = self.roll(bytes.len());
                    bytes.splice(to..to, copy);
                }
                5 => bytes.truncate(at),
                _ => {
                    let token = *self.pick(&[
                        "null",
                        "NaN",
                        "-Infinity",
                        "\\ud800",
                        "[[",
                        "{}",
                        "\"value\":1,",
                        "\n",
                        "1e999",
                        "[]",
                        "]\n{",
                    ]);
                    bytes.splice(at..at, token.bytes());
                }
            }
        }
    }
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,6}-[0-9]{2}",
        "-?[1-9][0-9]{0,8}",
        "[ -~]{1,12}",
        "\\PC{1,12}",
        Just("device".to_owned()),
        Just("x".repeat(256)),
    ]
}

/// Records: groups of readings with one device, one time and distinct sensors.
fn groups() -> impl Strategy<Value = Vec<Vec<Row>>> {
    let value = prop_oneof![
        -1e3..1e3,
        any::<i32>().prop_map(|n| f64::from(n) / 1e3),
        -1e100..1e100,
        any::<f32>().prop_map(f64::from)
    ];
    let value = value.prop_filter("a value", |v: &f64| v.abs() <= 1e100).prop_map(|v| v + 0.0);
    let ts = prop_oneof![
        Timestamp::MIN_EVENT.us()..Timestamp::END_EVENT.us(),
        (0..1000i64).prop_map(|s| NEW_YEAR + s * 1_000_000)
    ];
    let group = (names(), ts, prop::collection::btree_map(names(), value, 1..12)).prop_map(
        |(device, ts, sensors)| {
            sensors.into_iter().map(|(sensor, v)| (device.clone(), sensor, ts, v)).collect::<Vec<_>>()
        },
    );
    prop::collection::vec(group, 1..8)
}

fn decode_all(payloads: &[&[u8]]) -> (ReadingBatch, Vec<(Span, Row)>) {
    let batch = batch_of(&mut Decoder::new(0, DecodeOptions::default()), payloads);
    let rows = rows(&batch, &mut BTreeMap::new());
    (batch, rows)
}

/// Nothing vanishes: what no reading and no dead letter covers is white space, the brackets and commas of an array,
/// and a byte order mark. Records do not overlap.
fn check_coverage(batch: &ReadingBatch) -> Result<(), TestCaseError> {
    for m in 0..batch.messages.len() {
        let bytes = batch.messages.message(m);
        let spans = batch.readings.spans.iter().chain(batch.bad.iter().map(|bad| &bad.span));
        let mut spans: Vec<_> = spans.filter(|span| span.message as usize == m).copied().collect();
        prop_assert!(!spans.is_empty(), "a message without a trace: {}", bytes.escape_ascii());
        spans.sort_by_key(|span| (span.start, span.end, span.position));
        spans.dedup();
        let mut covered = 0;
        for span in &spans {
            prop_assert!(span.start <= span.end && span.end as usize <= bytes.len(), "{span:?}");
            prop_assert!(covered <= span.start as usize, "{span:?} overlaps in {}", bytes.escape_ascii());
            let between = &bytes[covered..span.start as usize];
            prop_assert!(is_structure(between, covered == 0), "{} lost", between.escape_ascii());
            prop_assert!(span.position >= 0 || spans.len() == 1, "{span:?} is not all of it");
            covered = span.end as usize;
        }
        prop_assert!(is_structure(&bytes[covered..], false), "{} lost", bytes[covered..].escape_ascii());
    }
    Ok(())
}

fn is_structure(bytes: &[u8], first: bool) -> bool {
    let bytes = if first { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes) } else { bytes };
    bytes.iter().all(|c| b" \t\r\n[],".contains(c))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn readings_survive_every_way_of_writing_them(groups in groups(), shape in 0usize..3, seed in any::<u64>()) {
        let messages = Dice(seed).messages(&groups, shape);
        let payloads: Vec<_> = messages.iter().map(|m| m.as_bytes()).collect();
        let (batch, decoded) = decode_all(&payloads);
        prop_assert!(batch.bad.is_empty(), "{:?} in {messages:?}", batch.bad[0]);
        let mut decoded: Vec<_> = decoded.into_iter().map(|(_, row)| row).collect();
        let mut expected = groups.concat();
        // Within one wide record the order of the sensors is free.
        let order = |a: &Row, b: &Row| (a.2, &a.0, &a.1).cmp(&(b.2, &b.0, &b.1)).then(a.3.total_cmp(&b.3));
        decoded.sort_by(order);
        expected.sort_by(order);
        prop_assert_eq!(decoded, expected);
        check_coverage(&batch)?;
    }

    #[test]
    fn positions_and_bytes_are_those_of_the_record(groups in groups(), seed in any::<u64>()) {
        let mut dice = Dice(seed);
        let records = dice.records(&groups, true);
        let (array, lines) = (format!("[{}]", records.join(" ,\n")), records.join("\r\n"));
        let (batch, decoded) = decode_all(&[array.as_bytes(), lines.as_bytes()]);
        for (span, row) in decoded {
            let (single, position) = (lines.lines().count() == 1 && span.message == 1, span.position);
            let record = if single { 0 } else { position as usize };
            prop_assert_eq!(position == -1, single);
            prop_assert_eq!(batch.messages.bytes(span), records[record].as_bytes());
            prop_assert!(groups[record].contains(&row));
        }
    }

    #[test]
    fn validity_is_that_of_serde_json(groups in groups(), shape in 0usize..2, seed in any::<u64>(), spoil in any::<bool>()) {
        let mut dice = Dice(seed);
        for message in dice.messages(&groups, shape) {
            let mut message = message.into_bytes();
            if spoil {
                dice.mutate(&mut message);
            }
            // With several lines, what is no JSON as a whole may be lines.
            message.retain(|c| *c != b'\n');
            let Ok(text) = std::str::from_utf8(&message) else { continue };
            let (batch, _) = decode_all(&[&message]);
            let syntax = batch.bad.iter().find(|bad| bad.code == DeadLetterCode::Syntax);
            if serde_json::from_str::<serde_json::Value>(text).is_ok() {
                prop_assert!(syntax.is_none(), "{:?} in {text}", syntax);
            }
            if serde_json::from_str::<IgnoredAny>(text).is_err() && !text.starts_with('\u{feff}') {
                prop_assert!(!batch.bad.is_empty(), "accepted: {text}");
            }
        }
    }

    #[test]
    fn readings_are_those_of_serde_json(groups in groups(), shape in 0usize..3, seed in any::<u64>()) {
        let mut dice = Dice(seed);
        let mut values = Vec::new();
        let messages = dice.messages(&groups, shape);
        for message in &messages {
            for value in serde_json::Deserializer::from_str(message).into_iter::<serde_json::Value>() {
                let value = value.map_err(|e| TestCaseError::fail(e.to_string()))?;
                for record in value.as_array().unwrap_or(&vec![value.clone()]) {
                    match record.get("values").and_then(|v| v.as_object()) {
                        Some(wide) => values.extend(wide.values().filter_map(serde_json::Value::as_f64)),
                        None => values.extend(record["value"].as_f64()),
                    }
                }
            }
        }
        let payloads: Vec<_> = messages.iter().map(|m| m.as_bytes()).collect();
        let mut ours: Vec<_> = decode_all(&payloads).1.into_iter().map(|(_, row)| row.3).collect();
        ours.sort_by(f64::total_cmp);
        values.iter_mut().for_each(|v| *v += 0.0);
        values.sort_by(f64::total_cmp);
        prop_assert_eq!(ours, values);
    }

    #[test]
    fn a_spoiled_message_loses_nothing_and_touches_no_other(
        groups in groups(), shape in 0usize..3, seed in any::<u64>(),
    ) {
        let mut dice = Dice(seed);
        let mut messages: Vec<_> = dice.messages(&groups, shape).into_iter().map(String::into_bytes).collect();
        let spoiled = dice.roll(messages.len());
        dice.mutate(&mut messages[spoiled]);
        let payloads: Vec<_> = messages.iter().map(|m| &m[..]).collect();
        let (batch, decoded) = decode_all(&payloads);
        check_coverage(&batch)?;
        // Alone, each message decodes to the same.
        for (m, payload) in payloads.iter().enumerate() {
            let (alone, alone_decoded) = decode_all(&[payload]);
            let here: Vec<_> = decoded.iter().filter(|(span, _)| span.message as usize == m).map(|(_, row)| row).collect();
            prop_assert_eq!(here, alone_decoded.iter().map(|(_, row)| row).collect::<Vec<_>>());
            let here = batch.bad.iter().filter(|bad| bad.span.message as usize == m).map(|bad| (bad.code, bad.span.start, bad.span.end, bad.span.position));
            prop_assert!(here.eq(alone.bad.iter().map(|bad| (bad.code, bad.span.start, bad.span.end, bad.span.position))));
        }
        for (_, (device, sensor, ts, v)) in decoded {
            prop_assert!((1..=256).contains(&device.len()) && (1..=256).contains(&sensor.len()));
            prop_assert!(Timestamp(ts).is_event_time() && v.abs() <= 1e100 && (v != 0.0 || v.is_sign_positive()));
        }
    }

    #[test]
    fn a_bad_line_spoils_itself_alone(
        groups in groups(), seed in any::<u64>(), at in any::<prop::sample::Index>(), bytes in any::<Option<Vec<u8>>>(),
    ) {
        let mut dice = Dice(seed);
        let mut lines: Vec<Vec<u8>> = dice.records(&groups, true).into_iter().map(String::into_bytes).collect();
        let good = lines.len();
        let mut bad = bytes.unwrap_or_else(|| {
            let mut line = lines[0].clone();
            dice.mutate(&mut line);
            line
        });
        bad.retain(|c| !b"\r\n".contains(c));
        // Two good neighbours make it a message of lines beyond doubt, whatever stands in the bad one.
        lines.extend([lines[0].clone(), lines[0].clone()]);
        let at = at.index(good);
        lines.insert(at, bad.clone());
        let message = lines.join(&b'\n');
        prop_assume!(serde_json::from_slice::<IgnoredAny>(&message).is_err());
        let (batch, decoded) = decode_all(&[&message]);
        check_coverage(&batch)?;
        let expected = groups.concat().len() + 2 * groups[0].len();
        let others = decoded.iter().filter(|(span, _)| span.position as usize != at).count();
        prop_assert_eq!(others, expected, "{}", message.escape_ascii());
        for record in &batch.bad {
            prop_assert_eq!((record.span.position as usize, batch.messages.bytes(record.span)), (at, &bad[..]));
        }
    }

    #[test]
    fn any_bytes_are_survived(
        payloads in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "[\\[\\]{}\",:\\\\0-9a-z \n\r.eE+-]{0,60}".prop_map(String::into_bytes),
            "(\\{\"(device|sensor|ts|value|values|x)\":(1|\"a\"|\\{\"a\":1\\}|\\[|\\]|NaN|\n)?,?\\}?){0,5}".prop_map(String::into_bytes),
        ], 1..4),
        max_depth in 0usize..4,
        max_series in 0u32..3,
        field in "[a-z\"]{0,2}",
    ) {
        let payloads: Vec<_> = payloads.iter().map(|p| &p[..]).collect();
        check_coverage(&decode_all(&payloads).0)?;
        let fields = FieldNames { value: field.clone(), sensor: field, ..FieldNames::default() };
        let options = DecodeOptions { max_depth, max_series, fields, max_message_bytes: 50, ..DecodeOptions::default() };
        check_coverage(&batch_of(&mut Decoder::new(0, options), &payloads))?;
    }
}
