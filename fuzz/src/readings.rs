//! What must hold for whatever a decoder is given: [`check`].
//!
//! An input is two letters of settings ([`Setting`]) and then messages, `\0` between them where the settings say so.

mod reference;

use arrow::array::Array;
use fleetscore_decode::{DecodeOptions, Decoder, FieldNames, TsUnit};
use fleetscore_schemas::reading::{BadRecord, Messages, ReadingBatch, Span, TopicPartition};
use fleetscore_schemas::time::Timestamp;
use std::collections::HashSet;

/// What a decoder adds to a message at most, in bytes for each of its bytes: two for `1,`, a dead letter with its detail.
const DECODED: usize = 80;

/// And what it allocates on the way: vectors that double exist twice for a moment.
const ALLOCATED: usize = 320;

/// The broker's times of messages: 2026-01-01T00:00:00Z, or what a producer says who counts that in seconds.
const BROKER_TIMES: [Timestamp; 2] = [Timestamp(1_767_225_600_000_000), Timestamp(1_767_225_600_000)];

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A reading: device, sensor, time, value.
pub type Row = (String, String, i64, f64);

/// How messages are read, out of the first two bytes of an input: letters from `0` on, so that seeds can be written.
pub struct Setting {
    options: DecodeOptions,
    broker_time: Option<Timestamp>,
    /// `\0` separates messages.
    several: bool,
    /// An empty message is a tombstone.
    tombstones: bool,
}

impl Setting {
    /// The settings and what follows them. `00` are the defaults.
    pub fn read(data: &[u8]) -> Option<(Self, &[u8])> {
        let [a, b, rest @ ..] = data else { return None };
        let (a, b) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
        let fields = match (a >> 4) & 3 {
            0 => FieldNames::default(),
            1 => named(["id", "s", "t", "v", "all"]),
            2 => named(["gerät \"1\"", "fühler\\", "\u{1f552}", "/", ""]),
            _ => named(["name", "name", "value", "value", "name"]),
        };
        let options = DecodeOptions {
            fields,
            ts_unit: [TsUnit::Ms, TsUnit::S, TsUnit::Us, TsUnit::Ns][usize::from(a & 3)],
            ts_from_broker: a & 4 != 0,
            max_series: if b & 8 != 0 { 2 } else { 2_000_000 },
            max_message_bytes: if b & 16 != 0 { 64 } else { 8 << 20 },
            max_depth: [64, 1, 2, 3][usize::from((b >> 1) & 3)],
        };
        let broker_time = (a & 8 == 0).then_some(BROKER_TIMES[usize::from(a >> 6 & 1)]);
        Some((Self { options, broker_time, several: b & 1 != 0, tombstones: b & 32 != 0 }, rest))
    }

    /// The same, without bounds that are the decoder's alone.
    pub fn admitting_all(mut self) -> Self {
        self.options.max_series = 2_000_000;
        self
    }

    pub(crate) fn messages<'d>(&self, data: &'d [u8]) -> Vec<&'d [u8]> {
        if self.several { data.split(|&c| c == 0).take(64).collect() } else { vec![data] }
    }

    fn batch(&self, decoder: &mut Decoder, payloads: &[(&[u8], Option<Timestamp>)]) -> ReadingBatch {
        let mut messages = Messages::default();
        for (offset, (payload, broker_time)) in (0..).zip(payloads) {
            messages.push(offset, *broker_time, payload);
        }
        let empty = (0..).zip(payloads).filter(|(_, (payload, _))| payload.is_empty()).map(|(i, _)| i);
        let tombstones: Vec<u32> = empty.filter(|_| self.tombstones).collect();
        let to = payloads.len() as i64;
        decoder.decode(TopicPartition::new("t", 0), 1, 0, to, messages, &tombstones)
    }

    fn timed<'d>(&self, payloads: &[&'d [u8]]) -> Vec<(&'d [u8], Option<Timestamp>)> {
        payloads.iter().map(|payload| (*payload, self.broker_time)).collect()
    }

    pub(crate) fn decode(&self, payloads: &[&[u8]]) -> Decoded {
        self.decode_timed(&self.timed(payloads))
    }

    /// Decodes messages with these times of the broker.
    pub(crate) fn decode_timed(&self, payloads: &[(&[u8], Option<Timestamp>)]) -> Decoded {
        Decoded::new(self.batch(&mut Decoder::new(7, self.options.clone()), payloads))
    }
}

fn named([device, sensor, ts, value, values]: [&str; 5]) -> FieldNames {
    let [device, sensor, ts, value, values] = [device, sensor, ts, value, values].map(str::to_owned);
    FieldNames { device, sensor, ts, value, values }
}

/// A batch of a decoder that knew no series before, with the names of its readings.
pub struct Decoded {
    pub(crate) batch: ReadingBatch,
    pub(crate) rows: Vec<(Span, Row)>,
}

impl Decoded {
    fn new(batch: ReadingBatch) -> Self {
        let r = &batch.readings;
        assert!(r.series.len() == r.len() && r.ts.len() == r.len() && r.value.len() == r.len());
        assert_eq!(r.series.null_count() + r.ts.null_count() + r.value.null_count(), 0);
        let rows = (0..r.len())
            .map(|i| {
                let (key, name) = &batch.new_series[r.series.value(i) as usize];
                assert_eq!(*key, r.series.value(i), "keys are dense");
                let row = (name.device.clone(), name.sensor.clone(), r.ts.value(i), r.value.value(i));
                (r.spans[i], row)
            })
            .collect();
        Self { batch, rows }
    }

    /// The readings of one record; they are in order, so that a long message takes no time.
    fn rows_in(&self, of: Span) -> impl Iterator<Item = &Row> {
        let from = self.rows.partition_point(|(span, _)| place(*span) < place(of));
        self.rows[from..].iter().take_while(move |(span, _)| *span == of).map(|(_, row)| row)
    }

    fn bad_in(&self, of: Span) -> impl Iterator<Item = &BadRecord> {
        let from = self.batch.bad.partition_point(|bad| place(bad.span) < place(of));
        self.batch.bad[from..].iter().take_while(move |bad| bad.span == of)
    }
}

pub(crate) fn place(span: Span) -> (u32, u32, u32, i32) {
    (span.message, span.start, span.end, span.position)
}

/// All that is to hold for one input.
pub fn check(data: &[u8]) {
    let Some((setting, data)) = Setting::read(data) else { return };
    let payloads = setting.messages(data);
    let decoded = crate::bounded(data.len(), ALLOCATED, crate::ALWAYS, || setting.decode(&payloads));
    let added = decoded.batch.decoded_bytes();
    assert!(added <= DECODED * (data.len() + payloads.len()) + 4096, "{added} bytes for an input of {}", data.len());
    values_keep_their_rules(&decoded);
    for message in 0..payloads.len() {
        nothing_is_lost(&decoded, message);
    }
    again_is_the_same(&setting, &payloads, &decoded);
    both_ways_are_the_same(&setting, &payloads);
    // Alone a message may have a series that was one too many among others; a wide record's refusal does not say so if
    // another sensor was refused before.
    if decoded.batch.new_series.len() < setting.options.max_series as usize {
        alone_is_the_same(&setting, &payloads, &decoded);
        records_alone_are_the_same(&setting, &decoded);
        for (message, payload) in payloads.iter().enumerate() {
            reference::compare(&setting, payload, &decoded, message as u32);
        }
    }
}

/// Names have 1 to 256 bytes without control characters, times lie in their range, values are finite and never −0; a
/// dead letter says why, and names sensors only where others of its record count.
fn values_keep_their_rules(decoded: &Decoded) {
    let name = |name: &str| (1..=256).contains(&name.len()) && !name.contains(char::is_control);
    for (span, (device, sensor, ts, value)) in &decoded.rows {
        assert!(name(device) && name(sensor), "{device:?} {sensor:?} of {span:?}");
        assert!(Timestamp(*ts).is_event_time(), "{ts} of {span:?}");
        assert!(value.abs() <= 1e100 && (*value != 0.0 || value.is_sign_positive()), "{value} of {span:?}");
    }
    for (i, bad) in decoded.batch.bad.iter().enumerate() {
        assert!(!bad.detail.is_empty() || i >= 10_000, "no reason for {:?}", bad.span);
        assert!(decoded.batch.bad[..i].last().is_none_or(|before| before.span != bad.span), "two dead letters for {:?}", bad.span);
        if decoded.rows_in(bad.span).next().is_some() {
            assert!(!bad.sensors.is_empty(), "{:?} counts in part, and its dead letter does not say which", bad.span);
        }
        let refused: HashSet<&String> = bad.sensors.iter().collect();
        for (_, sensor, ..) in decoded.rows_in(bad.span) {
            assert!(!refused.contains(sensor), "{sensor:?} counts and is refused");
        }
    }
}

/// Every byte of a message is in exactly one record, counted or refused, but for white space, the brackets and commas of
/// an array, and a byte order mark; records are in order and do not overlap; a record that is all of its message is its
/// only one.
fn nothing_is_lost(decoded: &Decoded, message: usize) {
    let bytes = decoded.batch.messages.message(message);
    let of_it = |span: &&Span| span.message as usize == message;
    let counted: Vec<Span> = decoded.batch.readings.spans.iter().filter(of_it).copied().collect();
    let refused: Vec<Span> = decoded.batch.bad.iter().map(|bad| &bad.span).filter(of_it).copied().collect();
    let key = |span: &Span| (span.start, span.end, span.position);
    assert!(counted.is_sorted_by_key(key) && refused.is_sorted_by_key(key), "records out of order");
    let mut spans = [counted, refused].concat();
    assert!(!spans.is_empty(), "a message without a trace");
    spans.sort_by_key(key);
    spans.dedup();
    let mut covered = 0;
    for (i, span) in spans.iter().enumerate() {
        assert!(span.start <= span.end && span.end as usize <= bytes.len(), "{span:?}");
        assert!(covered <= span.start as usize, "{span:?} overlaps");
        assert!(i == 0 || spans[i - 1].position < span.position, "{span:?} is out of order");
        assert!(span.position >= 0 || spans.len() == 1, "{span:?} is not all of it");
        assert!(is_structure(&bytes[covered..span.start as usize], covered == 0), "lost before {span:?}");
        covered = span.end as usize;
    }
    assert!(is_structure(&bytes[covered..], false), "lost behind {covered}");
}

/// Whether it begins as an array does.
fn is_array(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    bytes.iter().find(|c| !b" \t\r\n".contains(c)) == Some(&b'[')
}

fn is_structure(bytes: &[u8], first: bool) -> bool {
    let bytes = if first { bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes) } else { bytes };
    bytes.iter().all(|c| b" \t\r\n[],".contains(c))
}

/// Two batches have the same readings and dead letters.
fn same(a: &ReadingBatch, b: &ReadingBatch) {
    let (x, y) = (&a.readings, &b.readings);
    assert_eq!((&x.spans, &x.series, &x.ts, &x.value), (&y.spans, &y.series, &y.ts, &y.value));
    assert_eq!(a.bad, b.bad);
}

/// The same decoder gives the same for the same messages: nothing of the first time is left in it but its keys.
fn again_is_the_same(setting: &Setting, payloads: &[&[u8]], decoded: &Decoded) {
    let mut decoder = Decoder::new(7, setting.options.clone());
    let payloads = setting.timed(payloads);
    let first = setting.batch(&mut decoder, &payloads);
    let again = setting.batch(&mut decoder, &payloads);
    assert!(again.new_series.is_empty(), "a series is new twice");
    same(&first, &decoded.batch);
    same(&again, &decoded.batch);
}

/// A decoder that looks for records written as the last one was gives what one gives that takes each the general way: also
/// the second time, and where there is room behind the last message to look at.
fn both_ways_are_the_same(setting: &Setting, payloads: &[&[u8]]) {
    let payloads = setting.timed(&[payloads, &[&[b' '; 48]]].concat());
    let mut straight = Decoder::new(7, setting.options.clone());
    let mut general = Decoder::general(7, setting.options.clone());
    for _ in 0..2 {
        let (a, b) = (setting.batch(&mut straight, &payloads), setting.batch(&mut general, &payloads));
        same(&a, &b);
        assert_eq!(a.new_series, b.new_series);
    }
}

/// A message decoded alone gives what it gives among others.
fn alone_is_the_same(setting: &Setting, payloads: &[&[u8]], decoded: &Decoded) {
    if payloads.len() == 1 {
        return;
    }
    for (message, payload) in (0..).zip(payloads) {
        let alone = setting.decode(&[payload]);
        let moved = |span: Span| Span { message, ..span };
        let expected = decoded.rows.iter().filter(|(span, _)| span.message == message);
        assert!(alone.rows.iter().map(|(span, row)| (moved(*span), row)).eq(expected.map(|(span, row)| (*span, row))));
        let expected = decoded.batch.bad.iter().filter(|bad| bad.span.message == message);
        let told = |bad: &BadRecord| (moved(bad.span), bad.code, bad.sensors.clone());
        assert!(alone.batch.bad.iter().map(told).eq(expected.map(told)));
    }
}

/// The bytes of a record decoded alone, as a replay does, give what they gave in their message: the same readings, the
/// same refusal. Three kinds of dead letters may be read differently alone, for they were refused for where they stood:
/// an array as a line or an element (`wrong_type`), a byte order mark in the middle, and the remainder of an array that
/// broke (`syntax`).
fn records_alone_are_the_same(setting: &Setting, decoded: &Decoded) {
    let counted = decoded.batch.readings.spans.iter();
    let mut spans: Vec<Span> = counted.chain(decoded.batch.bad.iter().map(|bad| &bad.span)).copied().collect();
    spans.sort_by_key(|span| place(*span));
    spans.dedup();
    // All of a message was compared with itself; the first few stand for the others.
    for span in spans.into_iter().filter(|span| span.position >= 0).take(8) {
        let (payload, message) = (decoded.batch.messages.bytes(span), decoded.batch.messages.message(span.message as usize));
        let remainder = is_array(message) && span.end as usize == message.len();
        let placed = is_array(payload) || payload.starts_with(BYTE_ORDER_MARK) || remainder;
        if placed && decoded.bad_in(span).next().is_some() && decoded.rows_in(span).next().is_none() {
            continue;
        }
        let alone = setting.decode(&[payload]);
        assert!(decoded.rows_in(span).eq(alone.rows.iter().map(|(_, row)| row)), "{} alone", payload.escape_ascii());
        let told = |bad: &BadRecord| (bad.code, bad.sensors.clone());
        assert!(decoded.bad_in(span).map(told).eq(alone.batch.bad.iter().map(told)), "{} alone", payload.escape_ascii());
    }
}
