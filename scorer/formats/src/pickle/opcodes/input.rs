//! How the stack machine reads its input: counted bytes, lines, numbers, escapes.

use super::{Machine, Node, Result, Value};
use crate::pickle::PickleError;

impl<'a> Machine<'a> {
    pub(super) fn malformed(&self, what: impl Into<String>) -> PickleError {
        PickleError::Malformed { what: what.into(), at: self.at }
    }

    pub(super) fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let left = self.input.len() - self.pos;
        if n > left {
            return Err(PickleError::Truncated { at: self.pos, wanted: n, left });
        }
        let bytes = &self.input[self.pos..self.pos + n];
        self.pos += n;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// Bytes behind their length of 1, 4 or 8 bytes.
    pub(super) fn counted_bytes(&mut self, width: usize) -> Result<&'a [u8]> {
        let mut length = [0; 8];
        length[..width].copy_from_slice(self.bytes(width)?);
        self.bytes(usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX))
    }

    pub(super) fn counted(&mut self, width: usize) -> Result<Value<'a>> {
        Ok(Value::Bytes(self.counted_bytes(width)?))
    }

    pub(super) fn utf8(&mut self, width: usize) -> Result<Value<'a>> {
        let bytes = self.counted_bytes(width)?;
        std::str::from_utf8(bytes).map(Value::Text).map_err(|_| self.malformed("a text that is not UTF-8"))
    }

    /// A two's-complement little-endian number of `n` bytes.
    pub(super) fn long(&mut self, n: u64) -> Result<Value<'a>> {
        let bytes = self.bytes(usize::try_from(n).unwrap_or(usize::MAX))?;
        if bytes.len() > 8 {
            return Ok(Value::HugeInt);
        }
        let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    /// Up to the next line feed, which is dropped.
    pub(super) fn raw_line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.input[self.pos..];
        match rest.iter().position(|b| *b == b'\n') {
            Some(end) => {
                self.pos += end + 1;
                Ok(&rest[..end])
            }
            None => Err(PickleError::Truncated { at: self.input.len(), wanted: 1, left: 0 }),
        }
    }

    pub(super) fn line(&mut self) -> Result<&'a str> {
        let line = self.raw_line()?;
        std::str::from_utf8(line).map_err(|_| self.malformed("a line that is not UTF-8"))
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        let line = self.line()?;
        line.trim().parse().map_err(|_| self.malformed(format!("{what} of `{}`", shown(line))))
    }

    pub(super) fn int_line(&mut self) -> Result<Value<'a>> {
        Ok(match self.line()? {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            line => self.parsed_int(line)?,
        })
    }

    pub(super) fn long_line(&mut self) -> Result<Value<'a>> {
        let line = self.line()?;
        self.parsed_int(line.strip_suffix('L').unwrap_or(line))
    }

    pub(super) fn parsed_int(&self, line: &str) -> Result<Value<'a>> {
        let digits = line.trim().trim_start_matches(['-', '+']);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.malformed(format!("an INT of `{}`", shown(line))));
        }
        Ok(line.trim().parse().map_or(Value::HugeInt, Value::Int))
    }

    /// The repr of an 8-bit string of Python 2.
    pub(super) fn quoted_line(&mut self) -> Result<Value<'a>> {
        let line = self.raw_line()?.trim_ascii();
        let inner = match line {
            [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
            _ => return Err(self.malformed("a STRING without quotes")),
        };
        let mut bytes = Vec::with_capacity(inner.len());
        let mut rest = inner;
        while let [first, tail @ ..] = rest {
            rest = tail;
            if *first != b'\\' {
                bytes.push(*first);
                continue;
            }
            let (byte, used) =
                escape(rest).ok_or_else(|| self.malformed("a STRING with an unknown escape"))?;
            bytes.push(byte);
            rest = &rest[used..];
        }
        Ok(self.owned(Node::Bytes(bytes)))
    }

    /// Raw-unicode-escape: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
    pub(super) fn escaped_line(&mut self) -> Result<Value<'a>> {
        let line = self.raw_line()?;
        let mut text = String::with_capacity(line.len());
        let mut i = 0;
        while let Some(byte) = line.get(i) {
            let digits = match (byte, line.get(i + 1)) {
                (b'\\', Some(b'u')) => 4,
                (b'\\', Some(b'U')) => 8,
                _ => {
                    text.push(char::from(*byte));
                    i += 1;
                    continue;
                }
            };
            let hex = line.get(i + 2..i + 2 + digits).and_then(|h| std::str::from_utf8(h).ok());
            let code = hex.and_then(|h| u32::from_str_radix(h, 16).ok()).and_then(char::from_u32);
            text.push(code.ok_or_else(|| self.malformed("a UNICODE with a bad escape"))?);
            i += 2 + digits;
        }
        Ok(self.owned(Node::Text(text)))
    }

    pub(super) fn owned(&mut self, node: Node<'a>) -> Value<'a> {
        self.tree.nodes.push(node);
        Value::Node(self.tree.nodes.len() - 1)
    }
}

/// One escape of a Python 2 string behind its backslash: the byte, and how many bytes it took.
fn escape(rest: &[u8]) -> Option<(u8, usize)> {
    Some(match rest {
        [b'n', ..] => (b'\n', 1),
        [b'r', ..] => (b'\r', 1),
        [b't', ..] => (b'\t', 1),
        [c @ (b'\\' | b'\'' | b'"'), ..] => (*c, 1),
        [b'x', high, low, ..] => {
            let digit = |b: u8| char::from(b).to_digit(16);
            ((digit(*high)? * 16 + digit(*low)?) as u8, 3)
        }
        _ => return None,
    })
}

/// A name as it may stand in a message: short, without control characters.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}
