//! One object as it stands in the message: which fields it has and where. Judging them comes after, so that an object
//! that breaks off leaves nothing behind.

use crate::number::Number;
use crate::options::FieldNames;
use crate::scan::{Broken, Scanner, byte, colon, skip_white, unescape, word};

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Device,
    Sensor,
    Ts,
    Value,
    Values,
    Unknown,
}

impl Field {
    const KNOWN: [Self; 5] = [Self::Device, Self::Sensor, Self::Ts, Self::Value, Self::Values];

    /// Its bit in [`Record::seen`].
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The keys of the fields, and the order in which they came last: the next record most likely has it too.
#[derive(Debug)]
pub(crate) struct Keys {
    patterns: [Pattern; 5],
    order: [Field; Keys::PREDICTED],
}

/// A key as its bytes stand in a message if nothing is escaped.
#[derive(Debug)]
struct Pattern {
    name: Vec<u8>,
    /// With its quotes.
    quoted: Vec<u8>,
    /// `quoted` as the low bytes of a word, if it has at most eight, and which bytes count.
    word: u64,
    mask: u64,
    /// The name can stand in a message as it is.
    plain: bool,
}

impl Pattern {
    fn new(name: &str) -> Self {
        let quoted = format!("\"{name}\"").into_bytes();
        let (mut word, mut mask) = ([0; 8], [0; 8]);
        if quoted.len() <= 8 {
            word[..quoted.len()].copy_from_slice(&quoted);
            mask[..quoted.len()].fill(0xff);
        }
        let plain = !name.bytes().any(|c| c < 0x20 || c == b'"' || c == b'\\');
        Self {
            name: name.as_bytes().to_vec(),
            quoted,
            word: u64::from_le_bytes(word),
            mask: u64::from_le_bytes(mask),
            plain,
        }
    }

    /// Whether this key stands at `i`.
    #[inline(always)]
    fn stands_at(&self, b: &[u8], i: usize) -> bool {
        match word(b, i) {
            Some(w) if self.mask != 0 => w & self.mask == self.word,
            _ => b[i..].starts_with(&self.quoted),
        }
    }
}

impl Keys {
    const PREDICTED: usize = 6;

    pub(crate) fn new(names: &FieldNames) -> Self {
        use Field::{Device, Sensor, Ts, Unknown, Value};
        let patterns = [&names.device, &names.sensor, &names.ts, &names.value, &names.values]
            .map(|name| Pattern::new(name));
        let mut keys = Self { patterns, order: [Unknown; Self::PREDICTED] };
        // What a key would be read as, so that a prediction changes nothing: of fields that share a name, the first one.
        for (n, field) in [Device, Sensor, Ts, Value].into_iter().enumerate() {
            keys.order[n] = keys.classify(&keys.patterns[field as usize].name);
        }
        keys
    }

    /// What a field is called.
    pub(crate) fn name(&self, field: Field) -> &str {
        self.patterns.get(field as usize).and_then(|p| std::str::from_utf8(&p.name).ok()).unwrap_or("?")
    }

    fn classify(&self, key: &[u8]) -> Field {
        Field::KNOWN.into_iter().find(|f| self.patterns[*f as usize].name == key).unwrap_or(Field::Unknown)
    }
}

/// Text without its escapes: in the message, or, if there were any, in the record's arena.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    start: u32,
    end: u32,
    in_arena: bool,
}

impl Text {
    /// Where it stands in the message, unless there were escapes.
    pub(crate) fn in_message(self) -> Option<(usize, usize)> {
        (!self.in_arena).then_some((self.start as usize, self.end as usize))
    }
}

/// What stands where a field's value is due.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot {
    /// A string.
    Text(Text),
    /// A number.
    Number(Number),
    /// `NaN`, `Infinity` or `-Infinity`: not JSON, but what several encoders write.
    NotFinite,
    /// Something else, in words.
    Other(&'static str),
}

impl Slot {
    /// In words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::NotFinite => "not finite",
            Self::Other(kind) => kind,
        }
    }
}

/// A sensor of a wide object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) sensor: Text,
    pub(crate) value: Slot,
}

/// The fields of one object. Slots are meaningful where their bit is in `seen`.
#[derive(Debug)]
pub(crate) struct Record {
    /// Its first byte, and the one behind its last.
    from: usize,
    to: usize,
    /// Bits of the fields that occurred.
    pub(crate) seen: u8,
    /// A key of a field occurred again.
    pub(crate) again: Option<Field>,
    pub(crate) device: Slot,
    pub(crate) sensor: Slot,
    pub(crate) ts: Slot,
    pub(crate) value: Slot,
    /// What `values` is, if it is no object.
    pub(crate) values: Option<&'static str>,
    /// What `values` holds.
    pub(crate) entries: Vec<Entry>,
    /// Keys that mean nothing.
    unknown: Vec<Text>,
    /// Strings whose escapes are resolved.
    arena: Vec<u8>,
    /// Room to look for duplicates in.
    table: Vec<u32>,
}

impl Default for Record {
    fn default() -> Self {
        let nothing = Slot::Other("nothing");
        Self {
            from: 0,
            to: 0,
            seen: 0,
            again: None,
            device: nothing,
            sensor: nothing,
            ts: nothing,
            value: nothing,
            values: None,
            entries: Vec::new(),
            unknown: Vec::new(),
            arena: Vec::new(),
            table: Vec::new(),
        }
    }
}

impl Record {
    /// Scans the object whose brace stands at `i`; gives the index behind it.
    #[inline]
    pub(crate) fn scan(
        &mut self,
        scanner: &mut Scanner,
        keys: &mut Keys,
        b: &[u8],
        mut i: usize,
    ) -> Result<usize, Broken> {
        self.reset();
        self.from = i;
        scanner.reset();
        scanner.reach(1);
        i = skip_white(b, i + 1);
        if byte(b, i) == b'}' {
            return Ok(i + 1);
        }
        let mut n = 0;
        loop {
            let predicted = keys.order[n.min(Keys::PREDICTED - 1)];
            let field = match keys.patterns.get(predicted as usize) {
                Some(pattern) if pattern.plain && i < b.len() && pattern.stands_at(b, i) => {
                    i += pattern.quoted.len();
                    predicted
                }
                _ => {
                    let (field, end) = self.key(scanner, keys, b, i)?;
                    if n < Keys::PREDICTED {
                        keys.order[n] = field;
                    }
                    i = end;
                    field
                }
            };
            n += 1;
            i = colon(b, i)?;
            if self.seen & field.bit() != 0 && field != Field::Unknown {
                self.again = Some(field);
            }
            self.seen |= field.bit();
            match field {
                Field::Device => (i, self.device) = self.slot(scanner, b, i, 1)?,
                Field::Sensor => (i, self.sensor) = self.slot(scanner, b, i, 1)?,
                Field::Ts => (i, self.ts) = self.slot(scanner, b, i, 1)?,
                Field::Value => (i, self.value) = self.measured(scanner, b, i, 1)?,
                Field::Values => i = self.values(scanner, b, i)?,
                Field::Unknown => i = scanner.value(b, i, 1)?,
            }
            i = skip_white(b, i);
            match byte(b, i) {
                b',' => i = skip_white(b, i + 1),
                b'}' => {
                    self.to = i + 1;
                    return Ok(i + 1);
                }
                _ => return Err(Broken { at: i, expected: "`,` or `}`" }),
            }
        }
    }

    /// Where the object just scanned stands; it has fields.
    pub(crate) fn range(&self) -> (usize, usize) {
        (self.from, self.to)
    }

    /// Gives back what a huge record has taken.
    #[cold]
    pub(crate) fn shrink(&mut self) {
        self.reset();
        self.entries.shrink_to_fit();
        self.unknown.shrink_to_fit();
        self.arena.shrink_to_fit();
        self.table = Vec::new();
    }

    #[inline(always)]
    fn reset(&mut self) {
        self.seen = 0;
        self.again = None;
        self.values = None;
        self.entries.clear();
        self.unknown.clear();
        self.arena.clear();
    }

    /// Scans a key that was not predicted.
    fn key(
        &mut self,
        scanner: &mut Scanner,
        keys: &Keys,
        b: &[u8],
        i: usize,
    ) -> Result<(Field, usize), Broken> {
        if byte(b, i) != b'"' {
            return Err(Broken { at: i, expected: "a key" });
        }
        let (text, end) = self.text(scanner, b, i)?;
        let field = keys.classify(self.bytes(b, text));
        if field == Field::Unknown {
            self.unknown.push(text);
        }
        Ok((field, end))
    }

    /// Scans the string whose quote stands at `i`.
    #[inline(always)]
    fn text(&mut self, scanner: &mut Scanner, b: &[u8], i: usize) -> Result<(Text, usize), Broken> {
        let (close, escaped) = scanner.string(b, i + 1)?;
        let text = if escaped {
            let start = self.arena.len() as u32;
            unescape(&b[i + 1..close], &mut self.arena);
            Text { start, end: self.arena.len() as u32, in_arena: true }
        } else {
            Text { start: i as u32 + 1, end: close as u32, in_arena: false }
        };
        Ok((text, close + 1))
    }

    /// Scans what stands as the value of a field.
    #[inline(always)]
    fn slot(
        &mut self,
        scanner: &mut Scanner,
        b: &[u8],
        i: usize,
        level: usize,
    ) -> Result<(usize, Slot), Broken> {
        match byte(b, i) {
            b'"' => {
                let (text, end) = self.text(scanner, b, i)?;
                Ok((end, Slot::Text(text)))
            }
            b'-' | b'0'..=b'9' => {
                let number = Number::scan(b, i)?;
                Ok((number.end as usize, Slot::Number(number)))
            }
            first => {
                let end = scanner.value(b, i, level)?;
                let kind = match first {
                    b'{' => "an object",
                    b'[' => "an array",
                    b'n' => "null",
                    _ => "a boolean",
                };
                Ok((end, Slot::Other(kind)))
            }
        }
    }

    /// The same where a number is due: there the names of what is not finite pass the scan, to be refused alone.
    #[inline(always)]
    fn measured(
        &mut self,
        scanner: &mut Scanner,
        b: &[u8],
        i: usize,
        level: usize,
    ) -> Result<(usize, Slot), Broken> {
        let c = byte(b, i);
        if (c.is_ascii_alphabetic() || c == b'-' && byte(b, i + 1).is_ascii_alphabetic())
            && let Some(end) = not_finite(b, i)
        {
            return Ok((end, Slot::NotFinite));
        }
        self.slot(scanner, b, i, level)
    }

    /// Scans `values`.
    fn values(&mut self, scanner: &mut Scanner, b: &[u8], i: usize) -> Result<usize, Broken> {
        if byte(b, i) != b'{' {
            let (end, slot) = self.slot(scanner, b, i, 1)?;
            self.values = Some(slot.kind());
            return Ok(end);
        }
        scanner.reach(2);
        let mut i = skip_white(b, i + 1);
        if byte(b, i) == b'}' {
            return Ok(i + 1);
        }
        loop {
            if byte(b, i) != b'"' {
                return Err(Broken { at: i, expected: "a key" });
            }
            let (sensor, end) = self.text(scanner, b, i)?;
            let (end, value) = self.measured(scanner, b, colon(b, end)?, 2)?;
            self.entries.push(Entry { sensor, value });
            i = skip_white(b, end);
            match byte(b, i) {
                b',' => i = skip_white(b, i + 1),
                b'}' => return Ok(i + 1),
                _ => return Err(Broken { at: i, expected: "`,` or `}`" }),
            }
        }
    }

    /// The bytes of a text.
    #[inline(always)]
    pub(crate) fn bytes<'r>(&'r self, b: &'r [u8], text: Text) -> &'r [u8] {
        let from = if text.in_arena { &self.arena } else { b };
        &from[text.start as usize..text.end as usize]
    }

    /// The bytes of a name: a string's, or an integer's as it is written.
    #[inline(always)]
    pub(crate) fn name<'r>(&'r self, b: &'r [u8], slot: Slot) -> Option<&'r [u8]> {
        match slot {
            Slot::Text(text) => Some(self.bytes(b, text)),
            Slot::Number(number) if number.integer => Some(number.text(b)),
            _ => None,
        }
    }

    /// Whether a key that means nothing occurs twice.
    #[inline(always)]
    pub(crate) fn unknown_again(&mut self, b: &[u8], hash: impl Fn(&[u8]) -> u64) -> bool {
        if self.unknown.len() < 2 {
            return false;
        }
        let mut table = std::mem::take(&mut self.table);
        let text = |k: usize| self.bytes(b, self.unknown[k]);
        let twin = first_twin(self.unknown.len(), text, hash, &mut table);
        self.table = table;
        twin.is_some()
    }

    /// The first sensor that `values` holds twice, if there is one.
    #[inline(always)]
    pub(crate) fn sensor_again(&mut self, b: &[u8], hash: impl Fn(&[u8]) -> u64) -> Option<usize> {
        if self.entries.len() < 2 {
            return None;
        }
        let mut table = std::mem::take(&mut self.table);
        let text = |k: usize| self.bytes(b, self.entries[k].sensor);
        let twin = first_twin(self.entries.len(), text, hash, &mut table);
        self.table = table;
        twin
    }
}

/// The first of `n` texts that occurred before. Linear: a message may hold a hundred thousand keys.
fn first_twin<'t>(
    n: usize,
    text: impl Fn(usize) -> &'t [u8],
    hash: impl Fn(&[u8]) -> u64,
    table: &mut Vec<u32>,
) -> Option<usize> {
    if n <= 8 {
        return (1..n).find(|&k| (0..k).any(|j| text(j) == text(k)));
    }
    let places = (2 * n).next_power_of_two();
    table.clear();
    table.resize(places, 0);
    (0..n).find(|&k| {
        let mut at = hash(text(k)) as usize & (places - 1);
        while table[at] != 0 {
            if text(table[at] as usize - 1) == text(k) {
                return true;
            }
            at = (at + 1) & (places - 1);
        }
        table[at] = k as u32 + 1;
        false
    })
}

/// The end of `NaN`, `Infinity` or `Inf` at `i`, in any case, with or without a minus.
#[cold]
fn not_finite(b: &[u8], i: usize) -> Option<usize> {
    let start = i + usize::from(byte(b, i) == b'-');
    let letters = b[start..].iter().take(9).take_while(|c| c.is_ascii_alphanumeric()).count();
    let token = &b[start..start + letters];
    let known = [&b"nan"[..], b"infinity", b"inf"].iter().any(|name| token.eq_ignore_ascii_case(name));
    known.then_some(start + letters)
}
