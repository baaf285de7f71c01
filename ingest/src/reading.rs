//! What is being read under one start: the trackers of its partitions, and the messages not yet handed on.

use crate::assignment::{End, Mark, Phase, Plan, Range, Tracker, Verdict};
use crate::batch_queue::{Content, Raw};
use crate::budget::{Budget, MESSAGE_OVERHEAD_BYTES, Permit};
use crate::decoding::{RawBatch, Work};
use crate::stats::Shared;
use fleetscore_schemas::reading::{Messages, TopicPartition};
use fleetscore_schemas::stream::{GapKind, SourceEvent, StartPosition};
use fleetscore_schemas::time::Timestamp;
use rdkafka::types::RDKafkaRespErr;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A partition's messages are handed on at the latest after this time…
const LINGER: Duration = Duration::from_millis(20);
/// … or when they have this size.
const BATCH_BYTES: usize = 1 << 20;

/// Consecutive messages of one partition, being collected.
struct Pending {
    mark: Mark,
    messages: Messages,
    tombstones: Vec<u32>,
    permit: Permit,
}

struct Partition {
    tracker: Tracker,
    /// The topic's name, as C wants it.
    topic: CString,
    pending: Option<Pending>,
    /// How many messages were handed on last, and their bytes: there is room for as many of the next ones at once, for
    /// vectors that grow copy all that is there, again and again.
    last: (usize, usize),
}

/// One start's reading.
pub(crate) struct Reading {
    pub(crate) start: u64,
    partitions: Vec<Partition>,
    by_source: HashMap<TopicPartition, usize>,
    /// librdkafka's own handle of a topic with the partition's number: spares looking at names for each message.
    by_key: HashMap<(usize, i32), usize>,
    /// Partitions with pending messages.
    touched: Vec<usize>,
    since: Option<Instant>,
    batch_messages: usize,
    budget: Arc<Budget>,
    /// Bytes that there is room for at once in each partition's messages: all together take no more than half of the budget,
    /// and the columns beside them.
    most_room: usize,
    /// What was said already of a partition: errors repeat with every fetch.
    told: HashSet<(usize, i32)>,
    /// Partitions with a record that cannot be read.
    stuck: HashSet<usize>,
    /// Whether the broker was asked for ranges and has not answered.
    pub(crate) asked: bool,
}

/// For an eighth more messages than these, within so many bytes.
fn room((messages, bytes): (usize, usize), most: usize) -> Messages {
    let more = |n: usize| n + n / 8;
    Messages::with_capacity(more(messages).min(most / MESSAGE_OVERHEAD_BYTES), more(bytes).min(most))
}

impl Reading {
    /// Positions of the whole assignment; none is fetched before it was compared with the log.
    pub(crate) fn new(
        start: u64,
        positions: &[StartPosition],
        batch_messages: usize,
        budget: Arc<Budget>,
    ) -> Self {
        let mut reading = Self {
            start,
            partitions: Vec::with_capacity(positions.len()),
            by_source: HashMap::new(),
            by_key: HashMap::new(),
            touched: Vec::new(),
            since: None,
            batch_messages,
            most_room: (budget.limit() / (2 * positions.len()).max(1)).min(BATCH_BYTES + BATCH_BYTES / 8),
            budget,
            told: HashSet::new(),
            stuck: HashSet::new(),
            asked: false,
        };
        for position in positions {
            let Ok(topic) = CString::new(position.source.topic.as_bytes()) else { continue };
            if reading.by_source.insert(position.source.clone(), reading.partitions.len()).is_none() {
                reading.partitions.push(Partition {
                    tracker: Tracker::new(position),
                    topic,
                    pending: None,
                    last: (0, 0),
                });
            }
        }
        reading
    }

    /// Partitions in this phase.
    pub(crate) fn in_phase(&self, phase: Phase) -> impl Iterator<Item = &Tracker> {
        self.partitions.iter().map(|p| &p.tracker).filter(move |t| t.phase == phase)
    }

    /// All partitions.
    pub(crate) fn trackers(&self) -> impl Iterator<Item = &Tracker> {
        self.partitions.iter().map(|p| &p.tracker)
    }

    /// Names of the partitions that are fetched, as C wants them.
    pub(crate) fn fetched(&self) -> impl Iterator<Item = (&CString, i32)> {
        self.partitions
            .iter()
            .filter(|p| p.tracker.phase == Phase::Fetching)
            .map(|p| (&p.topic, p.tracker.source.partition))
    }

    /// librdkafka's handles may change with every assignment.
    pub(crate) fn forget_handles(&mut self) {
        self.by_key.clear();
    }

    fn index_of(&mut self, raw: Raw<'_>) -> Option<usize> {
        if let Some(index) = self.by_key.get(&raw.key()) {
            return Some(*index);
        }
        let index = *self.by_source.get(&TopicPartition::new(raw.topic()?, raw.partition()))?;
        if matches!(raw.content(), Content::Message { .. }) {
            self.by_key.insert(raw.key(), index); // an event's handle may live no longer than the event
        }
        Some(index)
    }

    /// Takes messages and events in order. Returns the bytes that were taken.
    pub(crate) fn take<'b>(
        &mut self,
        batch: impl Iterator<Item = Raw<'b>>,
        shared: &Shared,
        out: &mut impl FnMut(Work),
    ) -> usize {
        let (mut messages, mut bytes) = (0, 0);
        let mut run = ((usize::MAX, i32::MIN), 0);
        for raw in batch {
            let key = raw.key();
            if key != run.0 {
                let Some(index) = self.index_of(raw) else { continue };
                run = (key, index);
            }
            let index = run.1;
            match raw.content() {
                Content::Message { payload, time_ms } => {
                    messages += 1;
                    bytes += payload.map_or(0, <[u8]>::len);
                    let time = time_ms.map(|ms| Timestamp(ms.saturating_mul(1000)));
                    self.message(index, raw.offset(), time, payload, shared, out);
                }
                Content::End => self.end(index, raw.offset(), out),
                Content::Error { code, text } => {
                    run = ((usize::MAX, i32::MIN), 0); // an event's handle may live no longer than the event
                    self.error(index, code, &text, shared, out);
                }
            }
        }
        shared.messages.fetch_add(messages, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        bytes
    }

    fn message(
        &mut self,
        index: usize,
        offset: i64,
        time: Option<Timestamp>,
        payload: Option<&[u8]>,
        shared: &Shared,
        out: &mut impl FnMut(Work),
    ) {
        let partition = &mut self.partitions[index];
        let mark = partition.tracker.mark();
        match partition.tracker.message(offset, time) {
            Verdict::Take => {
                if !self.stuck.is_empty() && self.stuck.remove(&index) {
                    shared.stuck(&partition.tracker.source, None);
                }
            }
            Verdict::Skip => return,
            Verdict::Replaced { found } => {
                let Range { earliest, latest } = partition.tracker.range;
                self.gap(index, GapKind::Replaced { found, earliest, latest }, shared, out);
                return;
            }
        }
        let pending = partition.pending.get_or_insert_with(|| {
            self.touched.push(index);
            Pending {
                mark,
                messages: room(partition.last, self.most_room),
                tombstones: Vec::new(),
                permit: self.budget.permit(),
            }
        });
        if payload.is_none() {
            // A batch is cut long before its messages cannot be counted in 32 bits.
            pending.tombstones.push(pending.messages.len() as u32);
        }
        let payload = payload.unwrap_or_default();
        pending.messages.push(offset, time, payload);
        pending.permit.grow(payload.len() + MESSAGE_OVERHEAD_BYTES);
        if pending.messages.len() >= self.batch_messages || pending.messages.payload.len() >= BATCH_BYTES {
            self.flush(index, out);
        }
        self.since.get_or_insert_with(Instant::now);
    }

    fn end(&mut self, index: usize, offset: i64, out: &mut impl FnMut(Work)) {
        match self.partitions[index].tracker.end(offset) {
            End::Reached => {
                self.flush(index, out);
                let source = self.partitions[index].tracker.source.clone();
                out(Work::Event(SourceEvent::EndOfPartition { start: self.start, source, offset }));
            }
            End::Shrunk => self.suspect_at(index),
            End::Ignored => {}
        }
    }

    fn error(
        &mut self,
        index: usize,
        code: RDKafkaRespErr,
        text: &str,
        shared: &Shared,
        out: &mut impl FnMut(Work),
    ) {
        use RDKafkaRespErr as E;
        match code {
            E::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET
            | E::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE
            | E::RD_KAFKA_RESP_ERR__LOG_TRUNCATION => {
                // What was read before is sound, and may not be there any more.
                self.flush(index, out);
                let tracker = &mut self.partitions[index].tracker;
                tracing::debug!(partition = %tracker.source, position = tracker.next, "{text}");
                if tracker.phase == Phase::Fetching {
                    tracker.phase = Phase::Suspect;
                }
            }
            // A wrong checksum, an unknown format: librdkafka would go on behind it.
            E::RD_KAFKA_RESP_ERR__BAD_MSG | E::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED => {
                self.flush(index, out);
                self.partitions[index].tracker.hold();
                self.stuck_at(index, text, shared);
            }
            // librdkafka asks for the same record again and again, and gets it: a person has to see to it.
            E::RD_KAFKA_RESP_ERR__BAD_COMPRESSION
            | E::RD_KAFKA_RESP_ERR_INVALID_MSG
            | E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE => self.stuck_at(index, text, shared),
            code => {
                if self.told.insert((index, code as i32)) {
                    tracing::warn!("fetching {}: {text}", self.partitions[index].tracker.source);
                }
            }
        }
    }

    fn stuck_at(&mut self, index: usize, text: &str, shared: &Shared) {
        self.stuck.insert(index);
        let Tracker { source, next, .. } = &self.partitions[index].tracker;
        let why = format!("{source} cannot be read on from offset {next} (of the batch there: {text})");
        shared.stuck(source, Some(why));
    }

    /// Records that could not be read are asked for again: what a connection did to them is over, and what a disk did
    /// may have been mended.
    pub(crate) fn try_held(&mut self) {
        for partition in self.partitions.iter_mut().filter(|p| p.tracker.phase == Phase::Held) {
            partition.tracker.phase = Phase::Suspect;
        }
    }

    /// The log of this partition is gone or has shrunk: nothing counts until the position was compared again.
    pub(crate) fn suspect(&mut self, source: &TopicPartition) {
        if let Some(index) = self.by_source.get(source).copied()
            && self.partitions[index].tracker.phase == Phase::Fetching
        {
            self.suspect_at(index);
        }
    }

    /// All logs may have been changed for others.
    pub(crate) fn suspect_all(&mut self) {
        for index in 0..self.partitions.len() {
            if self.partitions[index].tracker.phase == Phase::Fetching {
                self.suspect_at(index);
            }
        }
    }

    fn suspect_at(&mut self, index: usize) {
        let partition = &mut self.partitions[index];
        partition.tracker.phase = Phase::Suspect;
        if let Some(pending) = partition.pending.take() {
            partition.tracker.rewind(pending.mark); // may be the new log's
        }
    }

    /// What the broker has of partitions that wait for it. Returns whether any may be fetched now.
    pub(crate) fn compare(
        &mut self,
        ranges: &[(TopicPartition, Range)],
        shared: &Shared,
        out: &mut impl FnMut(Work),
    ) -> bool {
        let mut fetch = false;
        for (source, range) in ranges {
            let Some(index) = self.by_source.get(source).copied() else { continue };
            if self.partitions[index].tracker.phase != Phase::Suspect {
                continue;
            }
            match self.partitions[index].tracker.compare(*range) {
                Plan::Gap(kind) => self.gap(index, kind, shared, out),
                Plan::Fetch { .. } => fetch = true,
            }
        }
        fetch
    }

    fn gap(&mut self, index: usize, kind: GapKind, shared: &Shared, out: &mut impl FnMut(Work)) {
        self.flush(index, out);
        shared.offset_gaps.fetch_add(1, Ordering::Relaxed);
        let Tracker { source, next, .. } = &self.partitions[index].tracker;
        tracing::warn!("{source}: the position {next} is not in the log any more: {kind:?}");
        out(Work::Event(SourceEvent::OffsetGap {
            start: self.start,
            source: source.clone(),
            wanted: *next,
            kind,
        }));
    }

    /// Hands a partition's messages on.
    fn flush(&mut self, index: usize, out: &mut impl FnMut(Work)) {
        let partition = &mut self.partitions[index];
        let Some(mut pending) = partition.pending.take() else { return };
        partition.last = (pending.messages.len(), pending.messages.payload.len());
        // What waits for the decoder is counted by what it holds, so it should take no more.
        pending.messages.shrink_to_fit();
        let last = pending.messages.offsets.last().copied();
        self.touched.retain(|i| *i != index);
        out(Work::Raw(RawBatch {
            source: partition.tracker.source.clone(),
            start: self.start,
            from: pending.mark.next,
            to: last.map_or(pending.mark.next, |offset| offset + 1),
            messages: pending.messages,
            tombstones: pending.tombstones,
            permit: pending.permit,
        }));
    }

    /// Hands everything on if it is time, or `now` regardless of it.
    pub(crate) fn flush_all(&mut self, now: bool, out: &mut impl FnMut(Work)) {
        if !(now || self.since.is_some_and(|since| since.elapsed() >= LINGER)) {
            return;
        }
        for index in std::mem::take(&mut self.touched) {
            self.flush(index, out);
        }
        self.since = None;
    }
}
