//! The straight way through a record: between the strings and numbers of successive records stand the same bytes.
//!
//! A fleet's producers write `{"device":"`, `","sensor":"`, `","ts":"`, `","value":` and `}` a million times a second,
//! with nothing but a name, a time and a number between. A [`Shape`] is these five pieces as the last record had them. Where
//! they are there again, what lies between them is read at once: no key is looked at, and nothing is scanned twice. Where
//! anything differs (another key, an escape, a space, another way to write a time) the record goes the general way from its
//! beginning, which also finds out the next shape. So what is accepted is decided there alone: the same piece behind the same
//! grammar means the same.

use crate::decoder::{Current, Decoder, Held, Place};
use crate::number::Number;
use crate::record::{Record, Slot};
use crate::scan::chunk;
use fleetscore_schemas::time::Timestamp;

/// The longest piece.
const PIECE_BYTES: usize = 32;

/// Records that go the general way between two attempts, at most.
const LONGEST_PAUSE: u32 = 64;

/// What stands between two pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Device,
    Sensor,
    /// A time as a string.
    Time,
    /// A time as a number.
    Count,
    Value,
}

/// Bytes that come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Zero behind its length.
    bytes: [[u8; 16]; 2],
    /// Ones where `bytes` count.
    mask: [u128; 2],
    len: usize,
}

impl Piece {
    const NONE: Self = Self { bytes: [[0; 16]; 2], mask: [0; 2], len: 0 };

    fn new(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > PIECE_BYTES {
            return None;
        }
        let (mut bytes, mut mask) = ([[0; 16]; 2], [[0; 16]; 2]);
        for (i, c) in text.iter().enumerate() {
            (bytes[i / 16][i % 16], mask[i / 16][i % 16]) = (*c, 0xff);
        }
        Some(Self { bytes, mask: mask.map(u128::from_le_bytes), len: text.len() })
    }

    /// The index behind it, if it stands at `i`.
    #[inline(always)]
    fn behind(&self, b: &[u8], i: usize) -> Option<usize> {
        let same = |at: usize| {
            let there = u128::from_le_bytes(*chunk::<16>(b, i + at * 16)?);
            Some(there & self.mask[at] == u128::from_le_bytes(self.bytes[at]))
        };
        let there = same(0)? && (self.len <= 16 || same(1)?);
        there.then_some(i + self.len)
    }
}

/// How the last record was written.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Every record goes the general way.
    off: bool,
    known: bool,
    pieces: [Piece; 5],
    parts: [Part; 4],
    /// The last record was tried, in vain.
    failed: bool,
    /// Records until the next attempt, and how many it will be should that fail too: where every record is written in
    /// another way, attempts are a waste.
    pause: u32,
    next_pause: u32,
    /// Attempts, and those that came to a reading.
    #[cfg(test)]
    pub(crate) tried: u64,
    #[cfg(test)]
    pub(crate) taken: u64,
}

impl Shape {
    pub(crate) fn new(off: bool) -> Self {
        Self {
            off,
            known: false,
            pieces: [Piece::NONE; 5],
            parts: [Part::Value; 4],
            failed: false,
            pause: 0,
            next_pause: 0,
            #[cfg(test)]
            tried: 0,
            #[cfg(test)]
            taken: 0,
        }
    }

    /// Whether the record just scanned should be learned.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.failed
    }

    /// Takes the shape of the record just scanned, which has the four fields and nothing else.
    #[cold]
    pub(crate) fn learn(&mut self, b: &[u8], record: &Record) {
        self.failed = false;
        self.known = self.take(b, record).is_some();
    }

    fn take(&mut self, b: &[u8], record: &Record) -> Option<()> {
        let place = |slot: Slot, text: Part, number: Option<Part>| match slot {
            Slot::Text(text_at) => text_at.in_message().map(|(start, end)| (start, end, text)),
            Slot::Number(n) => number.map(|part| (n.start as usize, n.end as usize, part)),
            _ => None,
        };
        let mut places = [
            place(record.device, Part::Device, None)?,
            place(record.sensor, Part::Sensor, None)?,
            place(record.ts, Part::Time, Some(Part::Count))?,
            place(record.value, Part::Value, Some(Part::Value))?,
        ];
        places.sort_unstable_by_key(|(start, _, _)| *start);
        let (from, to) = record.range();
        let mut at = from;
        for (n, (start, end, part)) in places.into_iter().enumerate() {
            self.pieces[n] = Piece::new(b.get(at..start)?)?;
            self.parts[n] = part;
            at = end;
        }
        self.pieces[4] = Piece::new(b.get(at..to)?)?;
        Some(())
    }

    /// Whether to try the next record.
    #[inline(always)]
    fn begin(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        #[cfg(test)]
        (self.tried += u64::from(self.known));
        self.failed = !self.off;
        self.known
    }

    #[inline(always)]
    fn succeeded(&mut self) {
        #[cfg(test)]
        (self.taken += 1);
        self.failed = false;
        self.next_pause = 0;
    }

    #[cold]
    fn put_off(&mut self) {
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2 + 1).min(LONGEST_PAUSE);
    }
}

impl Decoder {
    /// Reads the record that begins at `i` of the message and ends before `limit`, if it is written as the last one was;
    /// gives the reading, as if it were the whole message, and the index behind it. Leaves nothing behind otherwise.
    #[inline]
    pub(crate) fn straight(
        &mut self,
        message: &Current<'_>,
        i: usize,
        limit: usize,
    ) -> Option<(Held, usize)> {
        if !message.utf8 || !self.shape.begin() {
            return None;
        }
        match self.read_straight(message, message.start + i) {
            Some((held, end)) if end <= message.start + limit => {
                self.shape.succeeded();
                Some((held, end - message.start))
            }
            _ => {
                self.shape.put_off();
                None
            }
        }
    }

    /// The same in the payload of all messages, which is read beyond the end of this one.
    #[inline(always)]
    fn read_straight(&mut self, message: &Current<'_>, mut i: usize) -> Option<(Held, usize)> {
        let b = message.payload;
        let nowhere = Place::default();
        let mut held =
            Held { hash: 0, device: nowhere, sensor: nowhere, ts: 0, value: 0.0, span: message.all() };
        for (piece, part) in self.shape.pieces.iter().zip(self.shape.parts) {
            i = piece.behind(b, i)?;
            match part {
                Part::Device => {
                    held.device = Place::of(i, string_end(b, i)?);
                    i = held.device.range().end;
                }
                Part::Sensor => {
                    held.sensor = Place::of(i, string_end(b, i)?);
                    i = held.sensor.range().end;
                }
                Part::Time => (held.ts, i) = self.dates.quick(b, i)?,
                Part::Count => {
                    let number = Number::scan(message.bytes, i.wrapping_sub(message.start)).ok()?;
                    held.ts = number.scaled_floor(message.bytes, self.options.ts_unit.exponent());
                    i = message.start + number.end as usize;
                }
                Part::Value => {
                    (held.value, i) = match Number::quick(b, i) {
                        Some(found) => found,
                        None => {
                            let number = Number::scan(message.bytes, i.wrapping_sub(message.start)).ok()?;
                            (number.value(message.bytes)?, message.start + number.end as usize)
                        }
                    }
                }
            }
        }
        let end = self.shape.pieces[4].behind(b, i)?;
        if !Timestamp(held.ts).is_event_time() {
            return None;
        }
        held.hash = self.names.hash_of(self.names.hash(&b[held.device.range()]), &b[held.sensor.range()]);
        Some((held, end))
    }
}

/// The quote that ends the plain string that begins at `i`; `None` if there is an escape or a control character in it, or it
/// ends near the end of the payload.
#[inline(always)]
fn string_end(b: &[u8], mut i: usize) -> Option<usize> {
    loop {
        let marks = special(chunk(b, i)?);
        if marks != 0 {
            i += marks.trailing_zeros() as usize;
            return (b[i] == b'"').then_some(i);
        }
        i += 16;
    }
}

/// A bit for each quote, backslash and control character.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn special(chunk: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let all = u128::from_le_bytes(*chunk);
    // SAFETY: SSE2 is part of every processor of this architecture, and none of these takes a pointer.
    unsafe {
        let x = _mm_set_epi64x((all >> 64) as i64, all as i64);
        let quote = _mm_cmpeq_epi8(x, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(x, _mm_set1_epi8(b'\\' as i8));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1f)), x);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control)) as u32
    }
}

/// A bit for each quote, backslash and control character.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn special(chunk: &[u8; 16]) -> u32 {
    let is_special = |c: u8| u32::from(c < 0x20 || c == b'"' || c == b'\\');
    (0..16).fold(0, |marks, i| marks | is_special(chunk[i]) << i)
}
