//! The grammar of JSON (RFC 8259) over bytes: white space, strings, numbers, and whole values that nobody wants.
//!
//! Nothing here recurses, so no nesting exhausts the stack. Two faults do not break the structure around them and are
//! only noted: nesting beyond the bound and escapes that stand for half a character.

use crate::number::Number;

/// Where the grammar was left, and what should have stood there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broken {
    /// Byte of the message.
    pub(crate) at: usize,
    /// What the grammar wanted.
    pub(crate) expected: &'static str,
}

/// The byte at `i`; past the end a NUL, which no production accepts.
#[inline(always)]
pub(crate) fn byte(b: &[u8], i: usize) -> u8 {
    if i < b.len() { b[i] } else { 0 }
}

/// The first byte at or after `i` that is not white space.
#[inline(always)]
pub(crate) fn skip_white(b: &[u8], mut i: usize) -> usize {
    while i < b.len() && is_white(b[i]) {
        i += 1;
    }
    i
}

/// White space of JSON.
#[inline(always)]
pub(crate) fn is_white(c: u8) -> bool {
    matches!(c, b' ' | b'\n' | b'\r' | b'\t')
}

/// Eight bytes from `i`, the first in the lowest place.
#[inline(always)]
pub(crate) fn word(b: &[u8], i: usize) -> Option<u64> {
    let eight = b.get(i..i.wrapping_add(8))?;
    Some(u64::from_le_bytes(eight.try_into().expect("eight bytes were asked for")))
}

/// So many bytes from `i`.
#[inline(always)]
pub(crate) fn chunk<const N: usize>(b: &[u8], i: usize) -> Option<&[u8; N]> {
    b.get(i..)?.first_chunk()
}

/// The one to seven digits that stand at `i`, each in a byte, the first in the lowest place, and how many they are; what is
/// above them is no digit. `None` of none, of more, and near the end of the bytes.
#[inline(always)]
pub(crate) fn digits(b: &[u8], i: usize) -> Option<(u64, u32)> {
    let x = word(b, i)? ^ 0x3030_3030_3030_3030;
    // Marks (in the high bit of each byte) what is no digit; the lowest mark is exact.
    let marks = (x.wrapping_add(0x7676_7676_7676_7676) | x) & 0x8080_8080_8080_8080;
    let count = marks.trailing_zeros() / 8;
    (1..8).contains(&count).then_some((x, count))
}

/// Eight digits, each in a byte, the first in the lowest place, as a number.
#[inline(always)]
pub(crate) fn eight_digits(x: u64) -> u64 {
    let pairs = (x.wrapping_mul(10).wrapping_add(x >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100).wrapping_add(pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000).wrapping_add(fours >> 32)) & 0xffff_ffff
}

/// Marks (in the high bit of each byte) a quote, a backslash or a control character; the lowest mark is exact.
#[inline(always)]
fn special(w: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |x: u64| x.wrapping_sub(ONES) & !x;
    let quote = zero(w ^ (ONES * b'"' as u64));
    let backslash = zero(w ^ (ONES * b'\\' as u64));
    let control = w.wrapping_sub(ONES * 0x20) & !w;
    (quote | backslash | control) & HIGH
}

/// What the scan of one record has noted, and the room it works in.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// Deepest level admitted; the record itself is level 1.
    max_depth: usize,
    /// The record is nested deeper.
    pub(crate) too_deep: bool,
    /// A `\uD800`..`\uDFFF` without its other half.
    pub(crate) lone_surrogate: bool,
    /// Closing brackets that are due.
    open: Vec<u8>,
}

impl Scanner {
    pub(crate) fn new(max_depth: usize) -> Self {
        Self { max_depth, too_deep: false, lone_surrogate: false, open: Vec::new() }
    }

    /// Forgets what the last record left.
    #[inline(always)]
    pub(crate) fn reset(&mut self) {
        self.too_deep = false;
        self.lone_surrogate = false;
    }

    /// Notes that something stands this deep.
    #[inline(always)]
    pub(crate) fn reach(&mut self, level: usize) {
        self.too_deep |= level > self.max_depth;
    }

    /// Scans a string whose opening quote stands before `i`. Gives the index of the closing quote and whether there
    /// were escapes.
    #[inline]
    pub(crate) fn string(&mut self, b: &[u8], mut i: usize) -> Result<(usize, bool), Broken> {
        let mut escaped = false;
        loop {
            while let Some(w) = word(b, i) {
                let marks = special(w);
                if marks != 0 {
                    i += marks.trailing_zeros() as usize / 8;
                    break;
                }
                i += 8;
            }
            match byte(b, i) {
                b'"' => return Ok((i, escaped)),
                b'\\' => {
                    escaped = true;
                    i = self.escape(b, i)?;
                }
                0..=0x1f if i >= b.len() => return Err(Broken { at: i, expected: "the end of a string" }),
                0..=0x1f => return Err(Broken { at: i, expected: "no bare control character in a string" }),
                _ => i += 1,
            }
        }
    }

    /// Checks the escape whose backslash stands at `i`; gives the index behind it.
    #[cold]
    fn escape(&mut self, b: &[u8], i: usize) -> Result<usize, Broken> {
        match byte(b, i + 1) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(i + 2),
            b'u' => {
                let unit = hex4(b, i + 2).ok_or(Broken { at: i, expected: "four hexadecimal digits" })?;
                match unit {
                    0xD800..=0xDBFF => match low_half(b, i + 6) {
                        Some(_) => return Ok(i + 12),
                        None => self.lone_surrogate = true,
                    },
                    0xDC00..=0xDFFF => self.lone_surrogate = true,
                    _ => {}
                }
                Ok(i + 6)
            }
            _ => Err(Broken { at: i, expected: "an escape that JSON knows" }),
        }
    }

    /// Scans one value of any kind that begins at `i`, inside `level` levels of nesting. Gives the index behind it.
    pub(crate) fn value(&mut self, b: &[u8], i: usize, level: usize) -> Result<usize, Broken> {
        match byte(b, i) {
            b'{' | b'[' => {
                let end = self.nested(b, i, level);
                self.open.clear();
                self.open.shrink_to(1 << 12);
                end
            }
            _ => self.scalar(b, i),
        }
    }

    /// Scans a string, a number or a literal.
    fn scalar(&mut self, b: &[u8], i: usize) -> Result<usize, Broken> {
        match byte(b, i) {
            b'"' => self.string(b, i + 1).map(|(close, _)| close + 1),
            b'-' | b'0'..=b'9' => Number::scan(b, i).map(|number| number.end as usize),
            b't' if b[i..].starts_with(b"true") => Ok(i + 4),
            b'f' if b[i..].starts_with(b"false") => Ok(i + 5),
            b'n' if b[i..].starts_with(b"null") => Ok(i + 4),
            _ => Err(Broken { at: i, expected: "a value" }),
        }
    }

    /// Scans an object or array with the brackets that are due on a heap-allocated stack: as deep as the message is
    /// long, so that what stands behind a record that is too deep still counts.
    fn nested(&mut self, b: &[u8], mut i: usize, level: usize) -> Result<usize, Broken> {
        loop {
            // A value is due at `i`.
            let opened = match byte(b, i) {
                b'{' => b'}',
                b'[' => b']',
                _ => 0,
            };
            if opened == 0 {
                i = self.scalar(b, i)?;
            } else {
                self.open.push(opened);
                self.reach(level + self.open.len());
                i = skip_white(b, i + 1);
                if byte(b, i) != opened {
                    if opened == b'}' {
                        i = self.key(b, i)?;
                    }
                    continue;
                }
                self.open.pop();
                i += 1;
            }
            // A value has ended before `i`.
            loop {
                let Some(&due) = self.open.last() else { return Ok(i) };
                i = skip_white(b, i);
                match byte(b, i) {
                    b',' => {
                        i = skip_white(b, i + 1);
                        if due == b'}' {
                            i = self.key(b, i)?;
                        }
                        break;
                    }
                    c if c == due => {
                        self.open.pop();
                        i += 1;
                    }
                    _ if due == b'}' => return Err(Broken { at: i, expected: "`,` or `}`" }),
                    _ => return Err(Broken { at: i, expected: "`,` or `]`" }),
                }
            }
        }
    }

    /// Scans a key and its colon; gives the index of the value.
    fn key(&mut self, b: &[u8], i: usize) -> Result<usize, Broken> {
        if byte(b, i) != b'"' {
            return Err(Broken { at: i, expected: "a key" });
        }
        let (close, _) = self.string(b, i + 1)?;
        colon(b, close + 1)
    }
}

/// Steps over the colon at or after `i` and the white space around it.
#[inline(always)]
pub(crate) fn colon(b: &[u8], mut i: usize) -> Result<usize, Broken> {
    if byte(b, i) != b':' {
        i = skip_white(b, i);
        if byte(b, i) != b':' {
            return Err(Broken { at: i, expected: "`:`" });
        }
    }
    Ok(skip_white(b, i + 1))
}

/// Four hexadecimal digits at `i`.
fn hex4(b: &[u8], i: usize) -> Option<u32> {
    let digits = b.get(i..i + 4)?;
    digits.iter().try_fold(0, |unit, &c| Some(unit << 4 | (c as char).to_digit(16)?))
}

/// The low half of a pair of surrogates, if its escape stands at `i`.
fn low_half(b: &[u8], i: usize) -> Option<u32> {
    if byte(b, i) != b'\\' || byte(b, i + 1) != b'u' {
        return None;
    }
    hex4(b, i + 2).filter(|unit| (0xDC00..=0xDFFF).contains(unit))
}

/// Appends the characters behind a string that [`Scanner::string`] has checked. A lone surrogate becomes U+FFFD: such
/// a record is refused, but its keys are still compared.
#[cold]
pub(crate) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < raw.len() {
        let plain = memchr::memchr(b'\\', &raw[i..]).map_or(raw.len(), |n| i + n);
        out.extend_from_slice(&raw[i..plain]);
        if plain == raw.len() {
            return;
        }
        i = plain + 2;
        let c = match byte(raw, plain + 1) {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = hex4(raw, plain + 2).unwrap_or(0xFFFD);
                i = plain + 6;
                let point = match (unit, low_half(raw, i)) {
                    (0xD800..=0xDBFF, Some(low)) => {
                        i += 6;
                        0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
                    }
                    _ => unit,
                };
                char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            c => c as char, // quote, backslash, slash
        };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}
