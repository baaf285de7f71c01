//! What a decoder hands to the aggregator: consecutive messages of one partition as columns, and the records among
//! them that could not be read.

use crate::codes::DeadLetterCode;
use crate::{SeriesName, time::Timestamp};
use arrow::array::{Float64Array, TimestampMicrosecondArray, UInt32Array};
use std::any::Any;
use std::sync::Arc;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

impl TopicPartition {
    /// One partition of a topic.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// Where a record stands inside its batch: which message, which element of it, which bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Index into [`Messages`].
    pub message: u32,
    /// Element of an array or number of the line, counted from 0; −1 is the whole message.
    pub position: i32,
    /// First byte inside the message's payload.
    pub start: u32,
    /// One past the last byte inside the message's payload.
    pub end: u32,
}

/// The messages a batch was decoded from, kept until its readings are judged: a late reading still needs its bytes.
#[derive(Debug, Clone, Default)]
pub struct Messages {
    /// Payloads, one after the other.
    pub payload: Vec<u8>,
    /// One past the last byte of each message in `payload`.
    pub ends: Vec<usize>,
    /// Offset of each message; ascending, with gaps where the log was compacted or held transaction markers.
    pub offsets: Vec<i64>,
    /// The broker's timestamp of each message; `None` where it gave none.
    pub broker_times: Vec<Option<Timestamp>>,
}

impl Messages {
    /// None, with room for so many of so many bytes in all.
    pub fn with_capacity(messages: usize, bytes: usize) -> Self {
        Self {
            payload: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(messages),
            offsets: Vec::with_capacity(messages),
            broker_times: Vec::with_capacity(messages),
        }
    }

    /// Gives back what has grown ahead of need: vectors double, so up to half of them may be unused.
    pub fn shrink_to_fit(&mut self) {
        self.payload.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.offsets.shrink_to_fit();
        self.broker_times.shrink_to_fit();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds a message; a tombstone has an empty payload.
    pub fn push(&mut self, offset: i64, broker_time: Option<Timestamp>, payload: &[u8]) {
        self.payload.extend_from_slice(payload);
        self.ends.push(self.payload.len());
        self.offsets.push(offset);
        self.broker_times.push(broker_time);
    }

    /// The payload of message `i`.
    pub fn message(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.payload[start..self.ends[i]]
    }

    /// The bytes of one record.
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.message(span.message as usize)[span.start as usize..span.end as usize]
    }
}

/// A record that is not a reading.
#[derive(Debug, Clone, PartialEq)]
pub struct BadRecord {
    /// Where it stands.
    pub span: Span,
    /// Why it was refused.
    pub code: DeadLetterCode,
    /// What exactly, for a person; names fields and positions.
    pub detail: String,
    /// The refused sensors where the others of a wide object count; empty = the whole record is refused.
    pub sensors: Vec<String>,
    /// How many records this stands for. More than 1 in a flood alone: then it has no detail and names no sensors, and
    /// `span` goes from the first of them to the last, over whatever lies between.
    pub count: u64,
}

/// The readings of a batch, column by column; all columns have the same length, in offset order.
#[derive(Debug, Clone)]
pub struct ReadingColumns {
    /// The decoder's own key of the series, see [`ReadingBatch::new_series`]; no nulls.
    pub series: UInt32Array,
    /// Event time, microseconds UTC; no nulls. Checked to lie in 2000..2100.
    pub ts: TimestampMicrosecondArray,
    /// The value; finite, |v| ≤ 1e100, never −0; no nulls.
    pub value: Float64Array,
    /// Where each reading stands, for dead letters.
    pub spans: Vec<Span>,
}

impl ReadingColumns {
    /// Number of readings.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

/// Consecutive messages of one partition, decoded.
///
/// `from` is where the previous batch of the same start ended (or where the start was), `to` is one past the last
/// message: together they prove that nothing was skipped and nothing counts twice.
pub struct ReadingBatch {
    /// The partition.
    pub source: TopicPartition,
    /// The [`crate::stream::Command::Start`] under which it was fetched; batches of an earlier start are void.
    pub start: u64,
    /// Position before this batch.
    pub from: i64,
    /// Position after it: the offset to read next.
    pub to: i64,
    /// The broker's timestamp of the last message: checked at the next start to notice a re-created topic.
    pub last_broker_time: Option<Timestamp>,
    /// The readings.
    pub readings: ReadingColumns,
    /// The records that are none.
    pub bad: Vec<BadRecord>,
    /// The messages both refer to.
    pub messages: Messages,
    /// Which decoder's keys `readings.series` holds. Keys of one decoder are dense and never change their meaning.
    pub decoder: u32,
    /// Names behind the keys that occur for the first time in this batch. Must be noted even when the batch is void.
    pub new_series: Vec<(u32, SeriesName)>,
    /// Gives the bytes back to the source's budget when dropped.
    pub permit: Option<Box<dyn Any + Send>>,
}

impl ReadingBatch {
    /// Bytes that decoding has added to the messages: columns, spans and bad records.
    pub fn decoded_bytes(&self) -> usize {
        const READING: usize = size_of::<u32>() + size_of::<i64>() + size_of::<f64>() + size_of::<Span>();
        let bad = |b: &BadRecord| {
            let sensors: usize = b.sensors.iter().map(|s| size_of::<String>() + s.len()).sum();
            size_of::<BadRecord>() + b.detail.len() + sensors
        };
        self.readings.len() * READING + self.bad.iter().map(bad).sum::<usize>()
    }
}

impl std::fmt::Debug for ReadingBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadingBatch")
            .field("source", &self.source)
            .field("start", &self.start)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("readings", &self.readings.len())
            .field("bad", &self.bad.len())
            .finish_non_exhaustive()
    }
}
