//! The decoding thread: raw messages to columns, in the order in which the polling thread gave them.

use crate::budget::Permit;
use crate::stats::Shared;
use fleetscore_decode::Decoder;
use fleetscore_schemas::reading::{Messages, TopicPartition};
use fleetscore_schemas::stream::SourceEvent;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Between two looks at whether there is room for what is decoded next.
const WAIT: Duration = Duration::from_millis(2);

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
/// budget: there is never more in it than bytes may be in flight. What is decoded counts too, and is waited for: the
/// aggregator lets go of it without hearing anything further from here.
pub(crate) fn run(
    work: &Receiver<Work>,
    mut decoder: Decoder,
    shared: &Arc<Shared>,
    out: &UnboundedSender<SourceEvent>,
) {
    for work in work {
        let event = match work {
            Work::Event(event) => event,
            Work::Raw(mut raw) => {
                let is_void = || raw.start != shared.current_start.load(Ordering::Acquire);
                while !shared.budget.may_decode() && !is_void() && !shared.stopping() && !out.is_closed() {
                    std::thread::sleep(WAIT);
                }
                if is_void() {
                    continue; // a later start has been given meanwhile
                }
                let mut batch =
                    decoder.decode(raw.source, raw.start, raw.from, raw.to, raw.messages, &raw.tombstones);
                raw.permit.grow_decoded(batch.decoded_bytes());
                batch.permit = Some(Box::new(raw.permit));
                shared.readings.fetch_add(batch.readings.len() as u64, Ordering::Relaxed);
                let bad = batch.bad.iter().map(|b| b.count).sum();
                shared.bad_records.fetch_add(bad, Ordering::Relaxed);
                SourceEvent::Batch(Box::new(batch))
            }
        };
        if out.send(event).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use fleetscore_decode::DecodeOptions;
    use std::time::Instant;

    #[test]
    fn what_is_decoded_counts_and_is_waited_for() {
        let budget = Budget::new(1 << 20);
        let shared = Shared::new(Arc::clone(&budget));
        let (work, received) = std::sync::mpsc::channel();
        let (out, mut events) = tokio::sync::mpsc::unbounded_channel();
        for offset in 0..3 {
            let mut messages = Messages::default();
            messages.push(offset, None, &b"0\n".repeat(50_000));
            let mut permit = budget.permit();
            permit.grow(100_000);
            let source = TopicPartition::new("t", 0);
            let (from, to, tombstones) = (offset, offset + 1, Vec::new());
            let raw = RawBatch { source, start: 0, from, to, messages, tombstones, permit };
            work.send(Work::Raw(raw)).expect("a receiver");
        }
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || run(&received, Decoder::new(1, DecodeOptions::default()), &shared, &out)
        });
        // Each has 50,000 bad records, larger than the whole limit: it gets through, alone.
        let first = events.blocking_recv().expect("a batch");
        assert!(matches!(&first, SourceEvent::Batch(b) if b.bad.len() == 50_000));
        assert!(budget.used() > 50_000 * size_of::<fleetscore_schemas::reading::BadRecord>());
        std::thread::sleep(WAIT * 10);
        assert!(events.try_recv().is_err(), "the second waits until the first is let go of");
        drop(first);
        let second = events.blocking_recv().expect("a batch");
        shared.stopping.store(true, Ordering::Release);
        let begun = Instant::now();
        drop(work);
        drop(events.blocking_recv().expect("no wait at the end"));
        drop(second);
        thread.join().expect("no panic");
        assert!(begun.elapsed().as_secs() < 20);
        assert_eq!(budget.used(), 0);
    }
}
