//! How many readings a second one core decodes, beside serde_json on the same messages in the same run.
//!
//! `cargo run -p fleetscore-decode --example decode_speed [readings in millions]`
//!
//! Ours ends in columns: names interned, times read. serde_json only parses, into structs that borrow their strings
//! from the message: what any decoder on top of it would still add is left out. Both are timed in seconds of the
//! processor where Linux says them, so that a busy machine does not decide.

use fleetscore_decode::{DecodeOptions, Decoder};
use fleetscore_schemas::reading::{Messages, TopicPartition};
use fleetscore_schemas::time::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

const START_S: i64 = 1_767_225_600;
const BATCH: usize = 4096;

#[derive(Deserialize)]
#[allow(dead_code)] // parsed, not used
struct Narrow<'a> {
    device: &'a str,
    sensor: &'a str,
    ts: &'a str,
    value: f64,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Wide<'a> {
    device: &'a str,
    ts: &'a str,
    #[serde(borrow)]
    values: BTreeMap<&'a str, f64>,
}

/// Processor time of this thread in seconds; on other systems the time that has passed.
fn seconds(since: Instant) -> f64 {
    let on_processor = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    match on_processor.as_deref().and_then(|text| text.split(' ').next()?.parse::<f64>().ok()) {
        Some(ns) => ns / 1e9,
        None => since.elapsed().as_secs_f64(),
    }
}

/// The messages of one shape; `n` readings over `series` series in an order without locality.
fn messages(shape: &str, n: usize, series: usize) -> Vec<Vec<u8>> {
    let record = |i: usize| {
        let s = i.wrapping_mul(2_654_435_761) % series;
        let (device, sensor) = (s / 5, ["temperature", "pressure", "vibration", "current", "speed"][s % 5]);
        let (second, ms, value) = (i / 1000, i % 1000, (i * 7919 % 100_000) as f64 / 1000.0);
        let ts =
            chrono::DateTime::from_timestamp(START_S + second as i64, ms as u32 * 1_000_000).expect("a time");
        let ts = ts.format("%Y-%m-%dT%H:%M:%S%.3fZ");
        (format!("press-{device:05}"), sensor, ts.to_string(), value)
    };
    let narrow = |i: usize| {
        let (device, sensor, ts, value) = record(i);
        format!(r#"{{"device":"{device}","sensor":"{sensor}","ts":"{ts}","value":{value}}}"#)
    };
    match shape {
        "single" => (0..n).map(|i| narrow(i).into_bytes()).collect(),
        "other key order" => (0..n)
            .map(|i| {
                let (device, sensor, ts, value) = record(i);
                let reading = match i % 3 {
                    0 => format!(r#"{{ "value": {value}, "ts": "{ts}", "sensor": "{sensor}", "device": "{device}" }}"#),
                    1 => format!(r#"{{ "ts": "{ts}", "unit": "K", "device": "{device}", "sensor": "{sensor}", "value": {value} }}"#),
                    _ => format!(r#"{{ "device": "{device}", "value": {value}, "sensor": "{sensor}", "ts": "{ts}" }}"#),
                };
                reading.into_bytes()
            })
            .collect(),
        "array of 50" => (0..n / 50)
            .map(|m| format!("[{}]", (0..50).map(|i| narrow(m * 50 + i)).collect::<Vec<_>>().join(",")).into_bytes())
            .collect(),
        "lines of 50" => (0..n / 50)
            .map(|m| (0..50).map(|i| narrow(m * 50 + i) + "\n").collect::<String>().into_bytes())
            .collect(),
        _ => (0..n / 20)
            .map(|m| {
                let (device, _, ts, value) = record(m);
                let values: Vec<_> = (0..20).map(|k| format!("\"sensor{k}\":{value}")).collect();
                format!(r#"{{"device":"{device}","ts":"{ts}","values":{{{}}}}}"#, values.join(",")).into_bytes()
            })
            .collect(),
    }
}

fn ours(since: Instant, payloads: &[Vec<u8>], decoder: &mut Decoder) -> (usize, f64) {
    let batches: Vec<Messages> = payloads
        .chunks(BATCH)
        .map(|chunk| {
            let mut messages = Messages::default();
            chunk.iter().for_each(|payload| messages.push(0, Some(Timestamp(0)), payload));
            messages
        })
        .collect();
    let begin = seconds(since);
    let mut readings = 0;
    for messages in batches {
        let batch = decoder.decode(TopicPartition::new("t", 0), 1, 0, 1, messages, &[]);
        assert!(batch.bad.is_empty(), "{:?}", batch.bad[0]);
        readings += black_box(&batch).readings.len();
    }
    (readings, seconds(since) - begin)
}

fn theirs(since: Instant, shape: &str, payloads: &[Vec<u8>]) -> (usize, f64) {
    let begin = seconds(since);
    let mut readings = 0;
    for payload in payloads {
        readings += match shape {
            "single" | "other key order" => {
                black_box(serde_json::from_slice::<Narrow<'_>>(payload).expect("a reading"));
                1
            }
            "array of 50" => {
                black_box(serde_json::from_slice::<Vec<Narrow<'_>>>(payload).expect("readings")).len()
            }
            "lines of 50" => {
                let lines = serde_json::Deserializer::from_slice(payload).into_iter::<Narrow<'_>>();
                lines.fold(0, |n, reading| {
                    black_box(reading.expect("a reading"));
                    n + 1
                })
            }
            _ => black_box(serde_json::from_slice::<Wide<'_>>(payload).expect("a wide reading")).values.len(),
        };
    }
    (readings, seconds(since) - begin)
}

fn main() {
    let millions: f64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.5);
    let since = Instant::now();
    let n = (millions * 1e6) as usize;
    println!("M readings/s on one core, best of 3 with a warm dictionary");
    println!(
        "{:<18} {:>9} {:>8} {:>12} {:>12} {:>7}",
        "shape", "series", "ours", "general way", "serde_json", "ratio"
    );
    for series in [1_000, 10_000, 100_000] {
        for shape in ["single", "other key order", "array of 50", "lines of 50", "wide of 20"] {
            let payloads = messages(shape, n, series);
            let mut decoder = Decoder::new(0, DecodeOptions::default());
            let mut general = Decoder::general(0, DecodeOptions::default());
            let (mut our_best, mut general_best, mut their_best) = (0f64, 0f64, 0f64);
            for round in 0..4 {
                let (a, our_time) = ours(since, &payloads, &mut decoder);
                let (b, general_time) = ours(since, &payloads, &mut general);
                let (c, their_time) = theirs(since, shape, &payloads);
                assert!(a == b && b == c, "all count the same readings");
                if round > 0 {
                    our_best = our_best.max(a as f64 / our_time / 1e6);
                    general_best = general_best.max(b as f64 / general_time / 1e6);
                    their_best = their_best.max(c as f64 / their_time / 1e6);
                }
            }
            println!(
                "{shape:<18} {series:>9} {our_best:>8.2} {general_best:>12.2} {their_best:>12.2} {:>6.1}x",
                our_best / their_best
            );
        }
    }
}
