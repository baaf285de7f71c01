//! The decoder: what it keeps between batches, and the columns it fills.

use crate::names::{Found, Names};
use crate::options::DecodeOptions;
use crate::record::{Keys, Record, Slot, Text};
use crate::scan::Scanner;
use crate::straight::Layout;
use crate::time::Dates;
use arrow::array::{Float64Array, TimestampMicrosecondArray, UInt32Array};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::reading::{BadRecord, Messages, ReadingBatch, ReadingColumns, Span, TopicPartition};
use fleetscore_schemas::time::Timestamp;

/// The room that a message of more bytes has taken is not kept for the next one.
const KEPT_FOR_BYTES: usize = 1 << 20;

/// Turns messages into readings.
///
/// It keeps the series it has met: their keys are dense and keep their meaning as long as the decoder lives.
/// Of everything else, what the last records looked like is kept alone, to find the next ones sooner; no input leaves a
/// decoder in a bad state.
#[derive(Debug)]
pub struct Decoder {
    id: u32,
    pub(crate) options: DecodeOptions,
    pub(crate) keys: Keys,
    pub(crate) names: Names,
    pub(crate) dates: Dates,
    pub(crate) scanner: Scanner,
    pub(crate) record: Record,
    pub(crate) layout: Layout,
    /// Readings of the last batch, and the bytes they came in: there is room for as many of the next one's bytes at once, for
    /// columns that grow copy all that is there, again and again.
    last: (usize, usize),
    /// Readings that wait for the keys of their series.
    pub(crate) held: Vec<Held>,
    pub(crate) out: Output,
}

/// So many series are looked up at a time: more misses of the cache than a core has under way at once.
pub(crate) const AT_ONCE: usize = 32;

/// Some bytes of a batch's payload.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    start: usize,
    len: u32,
}

impl Place {
    /// `None` of what is longer than any name.
    #[inline(always)]
    pub(crate) fn of(start: usize, end: usize) -> Option<Self> {
        Some(Self { start, len: u32::try_from(end - start).ok()? })
    }

    #[inline(always)]
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start..self.start + self.len as usize
    }
}

/// A reading that lacks nothing but the key of its series.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) hash: u64,
    pub(crate) found: Found,
    pub(crate) device: Place,
    pub(crate) sensor: Place,
    pub(crate) ts: i64,
    pub(crate) value: f64,
    pub(crate) span: Span,
}

/// The columns of the batch in the making.
#[derive(Debug, Default)]
pub(crate) struct Output {
    series: Vec<u32>,
    ts: Vec<i64>,
    value: Vec<f64>,
    spans: Vec<Span>,
    pub(crate) bad: Vec<BadRecord>,
    pub(crate) new_series: Vec<(u32, SeriesName)>,
}

impl Output {
    #[inline(always)]
    pub(crate) fn push(&mut self, series: u32, ts: i64, value: f64, span: Span) {
        self.series.push(series);
        self.ts.push(ts);
        self.value.push(value);
        self.spans.push(span);
    }

    /// Takes back what came of the message of this index, the last one so far. New series stay: their keys are given.
    pub(crate) fn rewind(&mut self, message: u32) {
        let readings = self.spans.partition_point(|span| span.message < message);
        self.series.truncate(readings);
        self.ts.truncate(readings);
        self.value.truncate(readings);
        self.spans.truncate(readings);
        self.bad.truncate(self.bad.partition_point(|bad| bad.span.message < message));
    }

    /// Gives back what was reserved in vain: columns are counted by what is in them.
    fn cut(&mut self) {
        if self.spans.len() < self.spans.capacity() / 2 {
            self.series.shrink_to_fit();
            self.ts.shrink_to_fit();
            self.value.shrink_to_fit();
            self.spans.shrink_to_fit();
        }
    }

    fn reserve(&mut self, readings: usize) {
        self.series.reserve(readings);
        self.ts.reserve(readings);
        self.value.reserve(readings);
        self.spans.reserve(readings);
    }
}

/// The message in hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current<'b> {
    pub(crate) index: u32,
    /// Of all messages of the batch.
    pub(crate) payload: &'b [u8],
    /// Where this one begins there.
    pub(crate) start: usize,
    pub(crate) bytes: &'b [u8],
    pub(crate) broker_time: Option<Timestamp>,
}

impl Current<'_> {
    /// Some bytes of this message.
    pub(crate) fn span(&self, position: i32, start: usize, end: usize) -> Span {
        // Kafka bounds a message to less than 2^31 bytes.
        Span { message: self.index, position, start: start as u32, end: end as u32 }
    }

    /// All of it.
    pub(crate) fn all(&self) -> Span {
        self.span(-1, 0, self.bytes.len())
    }

    /// Where a part of this message stands in the payload of all; `None` for what does not stand there as it is.
    #[inline(always)]
    pub(crate) fn place(&self, part: &[u8]) -> Option<Place> {
        // Of another allocation it is further away than the payload is long.
        let start = (part.as_ptr() as usize).wrapping_sub(self.payload.as_ptr() as usize);
        (start < self.payload.len()).then_some(Place { start, len: part.len() as u32 })
    }

    #[inline(always)]
    pub(crate) fn record_is_utf8(&self, span: Span) -> bool {
        let record = &self.bytes[span.start as usize..span.end as usize];
        record.is_ascii() || std::str::from_utf8(record).is_ok()
    }
}

impl Dates {
    /// The time in a slot, in microseconds since the epoch, saturating; or what is wrong with it.
    #[inline(always)]
    pub(crate) fn time_of<'r>(
        &mut self,
        slot: Slot,
        text_bytes: impl Fn(Text) -> &'r [u8],
        b: &[u8],
        unit_exponent: i32,
    ) -> Result<i64, &'static str> {
        match slot {
            Slot::Text(text) => self.parse(text_bytes(text)),
            Slot::Number(number) => Ok(number.scaled_floor(b, unit_exponent)),
            _ => Err("is neither an RFC 3339 string nor a number"),
        }
    }
}

impl Decoder {
    /// A decoder that has met no series yet. `id` tells its keys from those of others: [`ReadingBatch::decoder`].
    pub fn new(id: u32, options: DecodeOptions) -> Self {
        Self {
            id,
            keys: Keys::new(&options.fields),
            names: Names::default(),
            dates: Dates::default(),
            scanner: Scanner::new(options.max_depth),
            record: Record::default(),
            layout: Layout::new(false),
            last: (0, 0),
            held: Vec::with_capacity(AT_ONCE),
            out: Output::default(),
            options,
        }
    }

    /// One that takes every record the general way: slower, and to the same result. For tests and measurements to compare with.
    #[doc(hidden)]
    pub fn general(id: u32, options: DecodeOptions) -> Self {
        Self { layout: Layout::new(true), ..Self::new(id, options) }
    }

    /// Decodes consecutive messages of one partition, fetched under `start`, that move its position from `from` to
    /// `to`. `tombstones` are the indices of the messages without a payload.
    ///
    /// Every message leaves at least one reading or one bad record; the table of outcomes is in the crate's
    /// documentation. The batch carries no permit.
    pub fn decode(
        &mut self,
        source: TopicPartition,
        start: u64,
        from: i64,
        to: i64,
        messages: Messages,
        tombstones: &[u32],
    ) -> ReadingBatch {
        let mut sorted = Vec::new();
        let tombstones = if tombstones.is_sorted() {
            tombstones
        } else {
            sorted.extend_from_slice(tombstones);
            sorted.sort_unstable();
            &sorted
        };
        let bytes = messages.payload.len();
        self.out.reserve(expected(self.last, bytes).max(messages.len()));
        for index in 0..messages.len() {
            let bytes = messages.message(index);
            let current = Current {
                index: index as u32,
                payload: &messages.payload,
                start: messages.ends[index] - bytes.len(),
                bytes,
                broker_time: messages.broker_times.get(index).copied().flatten(),
            };
            let tombstone = bytes.is_empty() && tombstones.binary_search(&current.index).is_ok();
            self.message(&current, tombstone);
            if bytes.len() > KEPT_FOR_BYTES {
                self.record.shrink();
            }
        }
        self.settle(&messages.payload);
        let mut out = std::mem::take(&mut self.out);
        out.cut();
        self.last = (out.spans.len(), bytes);
        ReadingBatch {
            source,
            start,
            from,
            to,
            last_broker_time: messages.broker_times.last().copied().flatten(),
            readings: ReadingColumns {
                series: UInt32Array::from(out.series),
                ts: TimestampMicrosecondArray::from(out.ts).with_timezone("UTC"),
                value: Float64Array::from(out.value),
                spans: out.spans,
            },
            bad: out.bad,
            messages,
            decoder: self.id,
            new_series: out.new_series,
            permit: None,
        }
    }
}

/// Bytes of the shortest reading of any use: a sensor of a wide object, `"s":1,`.
const SHORTEST: usize = 6;

/// How many readings so many bytes hold, if they are as those of the last batch were; of another partition, maybe.
fn expected((readings, of_bytes): (usize, usize), bytes: usize) -> usize {
    let as_before = readings as f64 / of_bytes.max(1) as f64 * bytes as f64;
    (as_before.ceil() as usize).min(bytes / SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_as_the_last_batch_was_and_never_absurd() {
        let cases = [
            ("nothing is known", (0, 0), 1 << 20, 0),
            ("as before", (100, 9000), 18_000, 200),
            ("fewer", (100, 9000), 900, 10),
            ("a wide message, then single ones", (9_000_000, 60 << 20), 90_000, 12_875),
            ("denser than anything", (1000, 1), 6000, 1000),
        ];
        for (name, last, bytes, room) in cases {
            assert_eq!(expected(last, bytes), room, "{name}");
        }
    }

    #[test]
    fn what_was_reserved_in_vain_is_given_back() {
        let values: Vec<String> = (0..10_000).map(|i| format!("\"{i}\":1")).collect();
        let wide =
            format!(r#"{{"device":"d","ts":"2026-01-01T00:00:00Z","values":{{{}}}}}"#, values.join(","));
        let single = r#"{"device":"d","sensor":"s","ts":"2026-01-01T00:00:00Z","value":1}"#;
        let mut decoder = Decoder::new(1, DecodeOptions::default());
        for (records, readings) in [(vec![wide.as_str()], 10_000), (vec![single; 100], 100)] {
            let mut messages = Messages::default();
            (0..).zip(&records).for_each(|(offset, record)| messages.push(offset, None, record.as_bytes()));
            let to = messages.len() as i64;
            let batch = decoder.decode(TopicPartition::new("t", 0), 1, 0, to, messages, &[]);
            assert_eq!(batch.readings.len(), readings);
            assert!(batch.readings.spans.capacity() <= 2 * readings, "{}", batch.readings.spans.capacity());
        }
    }
}
