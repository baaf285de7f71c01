//! The decoder against messages whose content is known because it was written: seeded fleets in every shape, with every
//! kind of bad record. What the oracle of the end-to-end tests takes for granted about the wire format is shown here.

use fleetscore_decode::{DecodeOptions, Decoder};
use fleetscore_oracle::fleet::{Fleet, Message, Record, Shapes};
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::{Messages, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// A reading: position, first and last byte of its record, device, sensor, event time, value as bits.
type Row = (i32, usize, usize, String, String, i64, u64);
/// A bad record: position, code, bytes.
type Bad = (i32, String, Vec<u8>);

fn truth(message: &Message) -> (Vec<Row>, Vec<Bad>) {
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for record in &message.records {
        match record {
            Record::Reading { position, reading: r, span } => rows.push((
                *position,
                span.start,
                span.end,
                r.device.clone(),
                r.sensor.clone(),
                r.ts_us,
                r.value.to_bits(),
            )),
            Record::Bad { position, code, span } => {
                bad.push((*position, (*code).to_owned(), message.payload[span.clone()].to_vec()));
            }
        }
    }
    (rows, bad)
}

/// What a decoder makes of consecutive messages, one by one.
fn decoded(
    decoder: &mut Decoder,
    names: &mut BTreeMap<u32, (String, String)>,
    messages: &[Message],
) -> Vec<(Vec<Row>, Vec<Bad>)> {
    let mut input = Messages::default();
    let mut tombstones = Vec::new();
    for (k, message) in (0u32..).zip(messages) {
        input.push(i64::from(k), None, message.value().unwrap_or_default());
        if message.is_tombstone() {
            tombstones.push(k);
        }
    }
    let to = messages.len() as i64;
    let batch = decoder.decode(TopicPartition::new("t", 0), 1, 0, to, input, &tombstones);
    for (key, name) in &batch.new_series {
        names.insert(*key, (name.device.clone(), name.sensor.clone()));
    }
    let mut out = vec![(Vec::new(), Vec::new()); messages.len()];
    let columns = &batch.readings;
    for (k, span) in columns.spans.iter().enumerate() {
        let (device, sensor) = names[&columns.series.value(k)].clone();
        out[span.message as usize].0.push((
            span.position,
            span.start as usize,
            span.end as usize,
            device,
            sensor,
            columns.ts.value(k),
            columns.value.value(k).to_bits(),
        ));
    }
    for bad in &batch.bad {
        let bytes = batch.messages.bytes(bad.span).to_vec();
        out[bad.span.message as usize].1.push((bad.span.position, bad.code.as_str().to_owned(), bytes));
    }
    out
}

/// How many readings and which codes came of a fleet; fails where decoder and truth differ.
fn check(fleet: &Fleet) -> (usize, Vec<String>) {
    let mut decoder = Decoder::new(0, DecodeOptions::default());
    let mut names = BTreeMap::new();
    let (mut readings, mut codes) = (0, Vec::new());
    let messages: Vec<Message> = fleet.messages().collect();
    for batch in messages.chunks(37) {
        for (message, (rows, bad)) in batch.iter().zip(decoded(&mut decoder, &mut names, batch)) {
            let (true_rows, true_bad) = truth(message);
            let shown = || format!("seed {}: {}", fleet.seed, message.payload.escape_ascii());
            assert_eq!(rows, true_rows, "readings of {}", shown());
            assert_eq!(bad, true_bad, "bad records of {}", shown());
            readings += rows.len();
            codes.extend(bad.into_iter().map(|b| b.1));
        }
    }
    (readings, codes)
}

#[test]
fn every_reading_and_bad_record_of_a_fleet_is_found_where_it_was_written() {
    let shapes = [
        Shapes::Mixed,
        Shapes::Single,
        Shapes::Packed(5),
        Shapes::Lines(4),
        Shapes::Wide,
        Shapes::Packed(1),
        Shapes::Lines(1),
    ];
    let mut readings = 0;
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..700 {
        let fleet = Fleet {
            seed,
            shapes: shapes[seed as usize % shapes.len()],
            devices: 1 + (seed as u32 % 24),
            panes: 4,
            bad: [0.0, 0.05, 0.5, 1.0][seed as usize / 7 % 4],
            exact: seed % 3 == 0,
            ..Fleet::default()
        };
        let (n, letters) = check(&fleet);
        readings += n;
        for code in letters {
            *codes.entry(code).or_default() += 1;
        }
    }
    // What needs a size or a clock is shown elsewhere.
    let elsewhere = ["too_large", "future_skew", "too_late", "expression", "series_limit"];
    let expected: BTreeSet<&str> =
        DeadLetterCode::ALL.iter().map(|c| c.as_str()).filter(|c| !elsewhere.contains(c)).collect();
    assert_eq!(codes.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    assert!(readings > 200_000 && codes.values().all(|n| *n > 100), "{readings} readings, {codes:?}");
}
