//! The straight way through a record: between the strings and numbers of successive records stand the same bytes.
//!
//! A fleet's producers write `{"device":"`, `","sensor":"`, `","ts":"`, `","value":` and `}` a million times a second,
//! with nothing but a name, a time and a number between. A [`Layout`] is these five pieces as the last record had them. Where
//! they are there again, what lies between them is read at once: no key is looked at, and nothing is scanned twice. Where
//! anything differs (another key, an escape, a space, another way to write a time) the record goes the general way from its
//! beginning, which also finds out the next layout. So what is accepted is decided there alone: the same piece in the same
//! state of the grammar means the same, members that nobody asked for included. And pieces are UTF-8, for none is learned of
//! a record that is not; times and numbers are ASCII; names are looked at.
//!
//! Bytes are compared and searched sixteen at a time, so the last record of a payload mostly goes the general way.

use crate::decoder::{Current, Decoder, Held, Place};
use crate::names::Found;
use crate::number::Number;
use crate::record::{Record, Slot};
use crate::scan::chunk;
use fleetscore_schemas::reading::Span;
use fleetscore_schemas::time::Timestamp;

/// The longest piece.
const PIECE_BYTES: usize = 16 * CHUNKS;
const CHUNKS: usize = 4;

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
    bytes: [u128; CHUNKS],
    /// Ones where `bytes` count.
    mask: [u128; CHUNKS],
    len: usize,
}

impl Piece {
    const NONE: Self = Self { bytes: [0; CHUNKS], mask: [0; CHUNKS], len: 0 };

    fn new(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > PIECE_BYTES {
            return None;
        }
        let mut piece = Self { len: text.len(), ..Self::NONE };
        for (i, c) in text.iter().enumerate() {
            piece.bytes[i / 16] |= u128::from(*c) << (i % 16 * 8);
            piece.mask[i / 16] |= 0xff << (i % 16 * 8);
        }
        Some(piece)
    }

    /// The index behind it, if it stands at `i`.
    #[inline(always)]
    fn behind(&self, b: &[u8], i: usize) -> Option<usize> {
        let same = |at: usize| {
            let there = chunk::<16>(b, i + at * 16).map(|bytes| u128::from_le_bytes(*bytes));
            there.is_some_and(|there| there & self.mask[at] == self.bytes[at])
        };
        let there = same(0) && (self.len <= 16 || (1..self.len.div_ceil(16)).all(same));
        there.then_some(i + self.len)
    }
}

/// How the last record was written.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Every record goes the general way.
    off: bool,
    known: bool,
    pieces: [Piece; 5],
    parts: [Part; 4],
    /// The next record that goes the general way shows how records are written now.
    to_learn: bool,
    /// Records until the next attempt.
    pause: u32,
    /// The same should that fail too: it grows with each failure by more than a success takes off, for where records are
    /// written in several ways in turn, attempts are a waste.
    pub(crate) next_pause: u32,
    /// Attempts, those that came to a reading, and layouts that were learned.
    #[cfg(test)]
    pub(crate) tried: u64,
    #[cfg(test)]
    pub(crate) taken: u64,
    #[cfg(test)]
    pub(crate) learned: u64,
}

impl Layout {
    pub(crate) fn new(off: bool) -> Self {
        Self {
            off,
            known: false,
            pieces: [Piece::NONE; 5],
            parts: [Part::Value; 4],
            to_learn: false,
            pause: 0,
            next_pause: 0,
            #[cfg(test)]
            tried: 0,
            #[cfg(test)]
            taken: 0,
            #[cfg(test)]
            learned: 0,
        }
    }

    /// Whether the record just scanned should be learned.
    #[inline(always)]
    pub(crate) fn is_wanted(&self) -> bool {
        self.to_learn
    }

    /// Takes the layout of the record just scanned, which has the four fields, each once.
    #[cold]
    pub(crate) fn learn(&mut self, b: &[u8], record: &Record) {
        #[cfg(test)]
        (self.learned += 1);
        self.to_learn = false;
        self.known = self.take(b, record).is_some();
        if !self.known {
            self.put_off();
        }
    }

    fn take(&mut self, b: &[u8], record: &Record) -> Option<()> {
        let place = |slot: Slot, text: Option<Part>, number: Option<Part>| match slot {
            Slot::Text(at) => at.in_message().zip(text).map(|((start, end), part)| (start, end, part)),
            Slot::Number(n) => number.map(|part| (n.start as usize, n.end as usize, part)),
            _ => None,
        };
        let mut places = [
            place(record.device, Some(Part::Device), None)?,
            place(record.sensor, Some(Part::Sensor), None)?,
            place(record.ts, Some(Part::Time), Some(Part::Count))?,
            place(record.value, None, Some(Part::Value))?,
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
        self.to_learn = !self.off;
        self.known
    }

    #[inline(always)]
    fn succeeded(&mut self) {
        #[cfg(test)]
        (self.taken += 1);
        self.to_learn = false;
        self.next_pause = self.next_pause.saturating_sub(1);
    }

    #[cold]
    fn put_off(&mut self) {
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2 + 2).min(LONGEST_PAUSE);
    }
}

impl Decoder {
    /// Reads the record that begins at `i` of the message and ends before `limit`, if it is written as the last one was, and
    /// counts it with the span that is given for the index behind it; gives that index. Counts nothing otherwise. Where there is
    /// no such span, because something follows, the layout has been right all the same.
    #[inline]
    pub(crate) fn straight(
        &mut self,
        message: &Current<'_>,
        i: usize,
        limit: usize,
        span: impl FnOnce(usize) -> Option<Span>,
    ) -> Option<usize> {
        if !self.layout.begin() {
            return None;
        }
        match self.read_straight(message, message.start + i) {
            Some((held, end)) if end <= message.start + limit => {
                self.layout.succeeded();
                let end = end - message.start;
                let span = span(end)?;
                // In one go into its place: to hand it on by way of memory waits for what was written.
                self.hold(message, Held { span, ..held });
                Some(end)
            }
            _ => {
                self.layout.put_off();
                None
            }
        }
    }

    /// The same in the payload of all messages, which is read beyond the end of this one.
    #[inline(always)]
    fn read_straight(&mut self, message: &Current<'_>, mut i: usize) -> Option<(Held, usize)> {
        let b = message.payload;
        let nowhere = Place::default();
        let (span, found) = (message.all(), Found::NONE);
        let mut held = Held { hash: 0, found, device: nowhere, sensor: nowhere, ts: 0, value: 0.0, span };
        // By number: an iterator over the parts is a copy of them by way of memory.
        for n in 0..self.layout.parts.len() {
            i = self.layout.pieces[n].behind(b, i)?;
            match self.layout.parts[n] {
                Part::Device => (held.device, i) = text_at(b, i)?,
                Part::Sensor => (held.sensor, i) = text_at(b, i)?,
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
        let end = self.layout.pieces[4].behind(b, i)?;
        if !Timestamp(held.ts).is_event_time() {
            return None;
        }
        held.hash = self.names.hash_of(self.names.hash(&b[held.device.range()]), &b[held.sensor.range()]);
        Some((held, end))
    }
}

/// A plain string without its quotes, of which the first stands before `i`, and the index of the second; `None` if there is an
/// escape or a control character in it, it is not UTF-8, or it ends near the end of the payload.
#[inline(always)]
fn text_at(b: &[u8], start: usize) -> Option<(Place, usize)> {
    let (mut i, mut foreign) = (start, 0);
    loop {
        let (marks, high) = marks(chunk(b, i)?);
        if marks != 0 {
            // Of those before the first mark.
            foreign |= high & (marks - 1) & !marks;
            i += marks.trailing_zeros() as usize;
            break;
        }
        foreign |= high;
        i += 16;
    }
    if b[i] != b'"' || (foreign != 0 && !is_utf8(&b[start..i])) {
        return None;
    }
    Some((Place::of(start, i)?, i))
}

#[inline(never)]
fn is_utf8(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok()
}

/// A bit for each quote, backslash and control character, and one for each byte that is not ASCII.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn marks(chunk: &[u8; 16]) -> (u32, u32) {
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
        let marks = _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control));
        (marks as u32, _mm_movemask_epi8(x) as u32)
    }
}

/// A bit for each quote, backslash and control character, and one for each byte that is not ASCII.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn marks(chunk: &[u8; 16]) -> (u32, u32) {
    marks_anywhere(chunk)
}

/// The same on any processor.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[inline(always)]
fn marks_anywhere(chunk: &[u8; 16]) -> (u32, u32) {
    let bits = |is: fn(u8) -> bool| (0..16).fold(0, |bits, i| bits | u32::from(is(chunk[i])) << i);
    (bits(|c| c < 0x20 || c == b'"' || c == b'\\'), bits(|c| c >= 0x80))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn marks_are_the_same_on_any_processor(bytes in any::<[u8; 16]>(), few in prop::array::uniform16(b' '..b'^')) {
            for chunk in [bytes, few] {
                prop_assert_eq!(marks(&chunk), marks_anywhere(&chunk));
            }
        }

        #[test]
        fn a_piece_is_compared_to_its_end(text in prop::collection::vec(any::<u8>(), 1..=PIECE_BYTES), at in any::<prop::sample::Index>()) {
            let piece = Piece::new(&text).unwrap();
            let mut b = [&b"ab"[..], &text, &[7; PIECE_BYTES]].concat();
            prop_assert_eq!(piece.behind(&b, 2), Some(2 + text.len()));
            b[2 + at.index(text.len())] ^= 1;
            prop_assert_eq!(piece.behind(&b, 2), None);
        }
    }
}
