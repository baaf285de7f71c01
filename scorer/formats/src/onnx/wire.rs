//! The wire format of protocol buffers, borrowed from the input: fields one by one, nothing copied.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

use super::{OnnxError, Result};

/// Bytes of a message with their place in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub bytes: &'a [u8],
    /// Offset of its first byte.
    pub at: usize,
}

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub number: u64,
    pub value: Value<'a>,
    /// Offset of its key.
    pub at: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Message(Message<'a>),
    Fixed32([u8; 4]),
}

impl<'a> Message<'a> {
    pub(super) fn fields(self) -> Fields<'a> {
        Fields { message: self, pos: 0 }
    }

    pub(super) fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes).map_err(|_| self.malformed("a text that is not UTF-8"))
    }

    pub(super) fn malformed(self, what: impl Into<String>) -> OnnxError {
        OnnxError::Malformed { what: what.into(), at: self.at }
    }
}

impl<'a> Field<'a> {
    fn malformed(&self, what: &str) -> OnnxError {
        OnnxError::Malformed { what: format!("{what} in field {}", self.number), at: self.at }
    }

    pub(super) fn message(self) -> Result<Message<'a>> {
        match self.value {
            Value::Message(message) => Ok(message),
            _ => Err(self.malformed("a number instead of bytes")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str> {
        self.message()?.text()
    }

    pub(super) fn integer(self) -> Result<i64> {
        match self.value {
            Value::Varint(v) => Ok(v as i64),
            _ => Err(self.malformed("something else than a whole number")),
        }
    }

    /// How many floats (of 4 bytes) or doubles (of 8) this is, packed or one of them, with their bytes.
    fn reals(&self, size: usize) -> Result<&[u8]> {
        match &self.value {
            Value::Fixed32(bytes) if size == 4 => Ok(bytes),
            Value::Fixed64(bytes) if size == 8 => Ok(bytes),
            Value::Message(m) if m.bytes.len().is_multiple_of(size) => Ok(m.bytes),
            _ => Err(self.malformed(&format!("something else than float{} numbers", 8 * size))),
        }
    }

    /// Whole numbers, packed or one of them, at most `limit` in all.
    pub(super) fn integers(self, to: &mut Vec<i64>, limit: usize) -> Result<()> {
        match self.value {
            Value::Varint(v) => to.push(v as i64),
            Value::Message(m) => {
                let mut pos = 0;
                while pos < m.bytes.len() && to.len() <= limit {
                    to.push(varint(m, &mut pos)? as i64);
                }
            }
            _ => return Err(self.malformed("something else than whole numbers")),
        }
        if to.len() > limit {
            return Err(self.malformed("too many whole numbers"));
        }
        Ok(())
    }
}

fn varint(message: Message<'_>, pos: &mut usize) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some(byte) = message.bytes.get(*pos) else {
            return Err(OnnxError::Malformed {
                what: "a number that is cut short".into(),
                at: message.at + *pos,
            });
        };
        *pos += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(OnnxError::Malformed { what: "a number of more than ten bytes".into(), at: message.at + *pos })
}

/// The fields of a message, in the order of the file; ends at the first error.
pub(super) struct Fields<'a> {
    message: Message<'a>,
    pos: usize,
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<Field<'a>> {
        let at = self.message.at + self.pos;
        let key = varint(self.message, &mut self.pos)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(self.message, &mut self.pos)?),
            1 => Value::Fixed64(self.array(at)?),
            2 => {
                let length = varint(self.message, &mut self.pos)?;
                let at = self.message.at + self.pos;
                Value::Message(Message { bytes: self.take(length, at)?, at })
            }
            5 => Value::Fixed32(self.array(at)?),
            kind => {
                return Err(OnnxError::Malformed { what: format!("a field of the unknown kind {kind}"), at });
            }
        };
        Ok(Field { number: key >> 3, value, at })
    }

    fn take(&mut self, length: u64, at: usize) -> Result<&'a [u8]> {
        let rest = &self.message.bytes[self.pos..];
        match usize::try_from(length).ok().and_then(|n| rest.get(..n)) {
            Some(bytes) => {
                self.pos += bytes.len();
                Ok(bytes)
            }
            None => Err(OnnxError::Truncated { at, wanted: length, left: rest.len() }),
        }
    }

    fn array<const N: usize>(&mut self, at: usize) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, at)?);
        Ok(array)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.pos >= self.message.bytes.len() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.pos = self.message.bytes.len();
        }
        Some(field)
    }
}

/// Real numbers of a message that were counted: a list of the wrong length is refused before it takes any memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers<'a> {
    of: Message<'a>,
    stored: Stored,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
enum Stored {
    /// In fields of these numbers, of floats and of doubles.
    Fields(u64, u64),
    /// One after the other, of so many bytes each.
    Raw(usize),
}

impl<'a> Numbers<'a> {
    /// The floats in the fields `single` and the doubles in the fields `double` of a message; no field has the number 0.
    pub(super) fn count(of: Message<'a>, single: u64, double: u64) -> Result<Self> {
        let mut len = 0;
        for field in of.fields() {
            let field = field?;
            if let Some(size) = size(&field, single, double) {
                len += field.reals(size)?.len() / size;
            }
        }
        Ok(Self { of, stored: Stored::Fields(single, double), len })
    }

    /// All of a message, whose length is a multiple of `size`.
    pub(super) fn raw(of: Message<'a>, size: usize) -> Self {
        Self { of, stored: Stored::Raw(size), len: of.bytes.len() / size }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The numbers, in as much memory as they need.
    pub(super) fn decoded(&self) -> Result<Vec<f64>> {
        let mut values = Vec::with_capacity(self.len);
        match self.stored {
            Stored::Raw(size) => decode(self.of.bytes, size, &mut values),
            Stored::Fields(single, double) => {
                for field in self.of.fields() {
                    let field = field?;
                    if let Some(size) = size(&field, single, double) {
                        decode(field.reals(size)?, size, &mut values);
                    }
                }
            }
        }
        Ok(values)
    }
}

fn size(field: &Field<'_>, single: u64, double: u64) -> Option<usize> {
    match field.number {
        0 => None,
        n if n == single => Some(4),
        n if n == double => Some(8),
        _ => None,
    }
}

fn decode(bytes: &[u8], size: usize, to: &mut Vec<f64>) {
    if size == 4 {
        to.extend(bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))));
    } else {
        to.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)));
    }
}
