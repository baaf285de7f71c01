//! The decoding thread: raw messages to columns, in the order in which the polling thread gave them.

use crate::budget::Permit;
use crate::stats::Shared;
use fleetscore_decode::Decoder;
use fleetscore_schemas::reading::{Messages, TopicPartition};
use fleetscore_schemas::stream::SourceEvent;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use tokio::sync::mpsc::UnboundedSender;

/// Consecutive messages of one partition, as read.
pub(crate) struct RawBatch {
    pub(crate) source: TopicPartition,
    pub(crate) start: u64,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) messages: Messages,
    pub(crate) tombstones: Vec<u32>,
    pub(crate) permit: Permit,
}

/// What the polling thread hands on.
pub(crate) enum Work {
    Raw(RawBatch),
    Event(SourceEvent),
}

/// Runs until the polling thread has ended or nobody listens any more. The channel between them is bounded by the
/// budget: there is never more in it than bytes may be in flight.
pub(crate) fn run(
    work: &Receiver<Work>,
    mut decoder: Decoder,
    shared: &Arc<Shared>,
    out: &UnboundedSender<SourceEvent>,
) {
    for work in work {
        let event = match work {
            Work::Event(event) => event,
            Work::Raw(raw) => {
                if raw.start != shared.current_start.load(Ordering::Acquire) {
                    continue; // void: a later start has been given meanwhile
                }
                let mut batch =
                    decoder.decode(raw.source, raw.start, raw.from, raw.to, raw.messages, &raw.tombstones);
                batch.permit = Some(Box::new(raw.permit));
                shared.readings.fetch_add(batch.readings.len() as u64, Ordering::Relaxed);
                shared.bad_records.fetch_add(batch.bad.len() as u64, Ordering::Relaxed);
                SourceEvent::Batch(Box::new(batch))
            }
        };
        if out.send(event).is_err() {
            return;
        }
    }
}
