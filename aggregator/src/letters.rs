//! Dead letters since the last checkpoint, bounded.

use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::{ReadingBatch, Span, TopicPartition};
use fleetscore_store::DeadLetter;
use std::collections::BTreeMap;

/// Fixed part of what a dead letter takes in memory.
const OVERHEAD: usize = 160;

/// Dead letters, one by one up to a bound; beyond it one per partition and code stands for the others: counted, and
/// readable from Kafka by its range of offsets.
#[derive(Debug)]
pub(crate) struct Letters {
    max: usize,
    rows: Vec<DeadLetter>,
    overflow: BTreeMap<(TopicPartition, DeadLetterCode), DeadLetter>,
    bytes: usize,
}

impl Letters {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, rows: Vec::new(), overflow: BTreeMap::new(), bytes: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds one record of a batch; `sensors` of it did not count (none named: nothing of it did).
    pub(crate) fn push(
        &mut self,
        batch: &ReadingBatch,
        span: Span,
        (code, detail): (DeadLetterCode, String),
        sensors: Vec<String>,
    ) {
        let message = span.message as usize;
        let offset = batch.messages.offsets[message];
        if self.rows.len() >= self.max {
            let key = (batch.source.clone(), code);
            let row = self.overflow.entry(key).or_insert_with(|| {
                self.bytes += OVERHEAD;
                DeadLetter {
                    partition: batch.source.clone(),
                    offset,
                    position: -1,
                    code,
                    detail: "one row for the overflow of a checkpoint; its offsets can be read from Kafka"
                        .into(),
                    payload: None,
                    broker_time: batch.messages.broker_times[message],
                    count: 0,
                    last_offset: Some(offset),
                    sensors: Vec::new(),
                }
            });
            row.count += 1;
            row.offset = row.offset.min(offset);
            row.last_offset = row.last_offset.max(Some(offset));
            return;
        }
        let payload = batch.messages.bytes(span).to_vec();
        let named: usize = sensors.iter().map(|s| s.len() + size_of::<String>()).sum();
        self.bytes += OVERHEAD + detail.len() + payload.len() + named;
        self.rows.push(DeadLetter {
            partition: batch.source.clone(),
            offset,
            position: span.position,
            code,
            detail,
            payload: Some(payload),
            broker_time: batch.messages.broker_times[message],
            count: 1,
            last_offset: None,
            sensors,
        });
    }

    /// Takes all out, ordered by partition, offset and position.
    pub(crate) fn take(&mut self) -> Vec<DeadLetter> {
        self.bytes = 0;
        let mut all = std::mem::take(&mut self.rows);
        all.extend(std::mem::take(&mut self.overflow).into_values());
        all.sort_by(|a, b| (&a.partition, a.offset, a.position).cmp(&(&b.partition, b.offset, b.position)));
        all
    }
}
