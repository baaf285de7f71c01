//! What the decoder does with whole messages.

mod options;
mod outcomes;
mod properties;
mod straight;

use crate::{DecodeOptions, Decoder};
use arrow::array::Array;
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::{Messages, ReadingBatch, Span, TopicPartition};
use fleetscore_schemas::time::Timestamp;
use std::collections::BTreeMap;

/// 2026-01-01T00:00:00Z.
const NEW_YEAR: i64 = 1_767_225_600_000_000;

/// A reading with its names: device, sensor, time, value.
type Row = (String, String, i64, f64);

/// A bad record: code, position, bytes.
type Bad = (DeadLetterCode, i32, Vec<u8>);

fn batch_of(decoder: &mut Decoder, payloads: &[&[u8]]) -> ReadingBatch {
    let mut messages = Messages::default();
    for (offset, payload) in payloads.iter().enumerate() {
        messages.push(offset as i64, Some(Timestamp(NEW_YEAR)), payload);
    }
    let to = payloads.len() as i64;
    decoder.decode(TopicPartition::new("t", 0), 1, 0, to, messages, &[])
}

fn rows(batch: &ReadingBatch, names: &mut BTreeMap<u32, (String, String)>) -> Vec<(Span, Row)> {
    let r = &batch.readings;
    assert!(r.series.len() == r.len() && r.ts.len() == r.len() && r.value.len() == r.len());
    assert_eq!(r.series.null_count() + r.ts.null_count() + r.value.null_count(), 0);
    for (key, name) in &batch.new_series {
        assert_eq!(*key as usize, names.len(), "keys are dense");
        names.insert(*key, (name.device.clone(), name.sensor.clone()));
    }
    (0..r.len())
        .map(|i| {
            let (device, sensor) = names[&r.series.value(i)].clone();
            (r.spans[i], (device, sensor, r.ts.value(i), r.value.value(i)))
        })
        .collect()
}

/// Decodes one message with a decoder of its own.
fn decode_with(options: DecodeOptions, payload: &[u8]) -> (Vec<Row>, Vec<Bad>) {
    let mut decoder = Decoder::new(7, options);
    let batch = batch_of(&mut decoder, &[payload]);
    let readings = rows(&batch, &mut BTreeMap::new()).into_iter().map(|(_, row)| row).collect();
    let bad = batch
        .bad
        .iter()
        .map(|bad| (bad.code, bad.span.position, batch.messages.bytes(bad.span).to_vec()))
        .collect();
    assert!(batch.bad.iter().all(|bad| !bad.detail.is_empty()));
    (readings, bad)
}

fn decode(payload: impl AsRef<[u8]>) -> (Vec<Row>, Vec<Bad>) {
    decode_with(DecodeOptions::default(), payload.as_ref())
}
