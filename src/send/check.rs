//! `send --check`: what would become of a file's records, without Kafka.

use crate::exit::{Done, Fail, Outcome};
use crate::input;
use crate::output;
use fleetscore_decode::{DecodeOptions, Decoder};
use fleetscore_schemas::reading::{Messages, TopicPartition};
use fleetscore_schemas::time::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;

/// A record that would be a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bad {
    /// Line of the file, counted from 1; the message is the line.
    line: usize,
    position: i32,
    code: &'static str,
    detail: String,
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Checked {
    messages: usize,
    readings: usize,
    bad: Vec<Bad>,
}

/// Checks a file (`-` is standard input) and prints what is wrong with it.
///
/// # Errors
/// A user error where the file cannot be read; a failure where no reading is good.
pub(crate) fn run(path: &Path, options: DecodeOptions, now: Timestamp) -> Outcome {
    let name = path.display();
    let bytes = input::read("--check", path)?;
    let checked = check(&bytes, options, now);
    if !checked.bad.is_empty() {
        let rows = checked
            .bad
            .iter()
            .map(|b| vec![b.line.to_string(), b.position.to_string(), b.code.to_owned(), b.detail.clone()]);
        output::print(&output::table(&["line", "position", "code", "detail"], rows));
    }
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    for b in &checked.bad {
        *codes.entry(b.code).or_default() += 1;
    }
    let codes: Vec<String> = codes.iter().map(|(code, n)| format!("{code} {n}")).collect();
    let bad = if codes.is_empty() { String::new() } else { format!(" ({})", codes.join(", ")) };
    let Checked { messages, readings, .. } = checked;
    output::print(&format!(
        "{messages} messages: {readings} readings, {} bad records{bad}",
        checked.bad.len()
    ));
    match (checked.bad.is_empty(), readings) {
        (true, _) => Ok(Done::All),
        (false, 0) => Err(Fail::work(format!("no record of `{name}` is a reading"))),
        (false, _) => Ok(Done::Partly),
    }
}

/// Each line is a message, as `kcat -P -l` sends it, now; a file that is one JSON document over several lines is one.
fn check(bytes: &[u8], options: DecodeOptions, now: Timestamp) -> Checked {
    let mut messages = Messages::default();
    let mut lines = Vec::new();
    if is_document(bytes) {
        messages.push(0, Some(now), bytes);
        lines.push(1);
    } else {
        for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.is_empty() {
                messages.push(i64::try_from(lines.len()).unwrap_or(i64::MAX), Some(now), line);
                lines.push(i + 1);
            }
        }
    }
    let to = i64::try_from(messages.len()).unwrap_or(i64::MAX);
    let mut decoder = Decoder::new(0, options);
    let batch = decoder.decode(TopicPartition::new("check", 0), 0, 0, to, messages, &[]);
    let bad = batch.bad.iter().map(|b| Bad {
        line: lines[b.span.message as usize],
        position: b.span.position,
        code: b.code.as_str(),
        detail: b.detail.clone(),
    });
    Checked { messages: lines.len(), readings: batch.readings.len(), bad: bad.collect() }
}

/// Whether it is one document, or its first line leaves one open. Should that be a broken line and others come behind it, they
/// are lines of this message, to the same result.
fn is_document(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let first = bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty());
    let is_open = |line: &[u8]| match line {
        [b'{', .., last] => *last != b'}',
        [b'[', .., last] => *last != b']',
        [b'{' | b'['] => true,
        _ => false,
    };
    first.is_some_and(is_open) || serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01T00:00:00Z.
    const NOW: Timestamp = Timestamp(1_767_225_600_000_000);
    const GOOD: &str = r#"{"device":"d","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1}"#;

    #[test]
    fn lines_are_messages_and_a_document_is_one() {
        let bad = r#"{"device":"d","sensor":"s","ts":"2026-01-01T00:00:00Z","value":"1"}"#;
        let lines = format!("{GOOD}\n\n{bad}\r\n[{GOOD},{bad}]\n");
        let checked = check(lines.as_bytes(), DecodeOptions::default(), NOW);
        assert_eq!((checked.messages, checked.readings), (3, 2));
        let found: Vec<_> = checked.bad.iter().map(|b| (b.line, b.position, b.code)).collect();
        assert_eq!(found, [(3, -1, "bad_value"), (4, 1, "bad_value")]);
        let document = format!("[\n{GOOD},\n{GOOD}\n]\n");
        let checked = check(document.as_bytes(), DecodeOptions::default(), NOW);
        assert_eq!((checked.messages, checked.readings, checked.bad.len()), (1, 2, 0));
        // As the product reads them: with a byte order mark, or with what JSON has no word for.
        for (document, codes) in [
            (format!("\u{feff}{{\n{}\n", &GOOD[1..]), vec![]),
            (format!("{{\n{}\n", &GOOD[1..].replace("\"value\":1", "\"value\":NaN")), vec!["bad_value"]),
            (format!("{{\"device\":\n{GOOD}\n"), vec!["syntax"]),
        ] {
            let checked = check(document.as_bytes(), DecodeOptions::default(), NOW);
            let found: Vec<_> = checked.bad.iter().map(|b| b.code).collect();
            assert_eq!((checked.messages, found), (1, codes), "{document}");
        }
    }

    #[test]
    fn a_record_without_a_time_has_that_of_its_message_where_the_settings_say_so() {
        let no_time = br#"{"device":"d","sensor":"s","value":1}"#;
        for (ts_from_broker, readings) in [(true, 1), (false, 0)] {
            let options = DecodeOptions { ts_from_broker, ..DecodeOptions::default() };
            assert_eq!(check(no_time, options, NOW).readings, readings);
        }
    }
}
