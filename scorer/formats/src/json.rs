//! Models as JSON: one object, an array of objects, or one object after the other (lines).

mod fields;

use crate::{Found, Refused, Why};
use bytes::Bytes;
use fields::Fields;
use serde::de::IgnoredAny;
use serde_json::error::Category;

/// A model that is damaged is read up to where its JSON ends, and the next one is looked for from its own second line on:
/// what stands between is read again. Files with bad lines do so for a few lines; one that does so for more than its size
/// was made to take for ever.
const READ_AGAIN: usize = 1;
/// What any file may have read again, in bytes.
const ALWAYS_AGAIN: usize = 1 << 20;

/// The models of one file, one by one.
pub(crate) struct Models {
    bytes: Bytes,
    /// The most bytes that one model may have.
    max_model: usize,
    /// Bytes that were read more than once.
    again: usize,
    /// The next byte.
    pos: usize,
    /// Entries handed out.
    entry: u64,
    /// Whether they are elements of one array.
    array: bool,
    done: bool,
    /// An offset and the number of lines before it: errors come in order, and counting anew would be quadratic.
    counted: (usize, usize),
}

impl Models {
    pub(crate) fn new(bytes: Bytes, max_model: usize) -> Self {
        let pos = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let mut models =
            Self { bytes, max_model, again: 0, pos, entry: 0, array: false, done: false, counted: (0, 0) };
        if models.peek() == Some(b'[') {
            models.array = true;
            models.pos += 1;
            if models.peek() == Some(b']') {
                models.pos += 1;
                models.array = false; // what follows may only be the end
            }
        }
        models
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.bytes[self.pos..];
        self.pos += rest.len() - rest.trim_ascii_start().len();
        self.bytes.get(self.pos).copied()
    }

    /// What is wrong, with its place in the file; `e` was met while reading from `start`.
    fn damaged(&mut self, start: usize, e: &serde_json::Error) -> Why {
        let (from, mut line) = if start >= self.counted.0 { self.counted } else { (0, 0) };
        line += self.bytes[from..start].iter().filter(|b| **b == b'\n').count();
        self.counted = (start, line);
        let text = e.to_string();
        let what = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
        Why::Damaged(format!("cannot be read: {what} (line {}, column {})", line + e.line(), e.column()))
    }

    /// Reads a value from `pos` on, which stands behind it afterwards if it is JSON at all.
    fn value<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, serde_json::Error> {
        let rest = &self.bytes[self.pos..];
        let rest = &rest[..rest.len().min(self.max_model)];
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<T>();
        let value = values.next();
        let end = self.pos + values.byte_offset();
        match value {
            Some(Ok(value)) => {
                self.pos = end;
                Ok(value)
            }
            Some(Err(e)) => Err(e),
            None => Err(serde::de::Error::custom("it ends here")),
        }
    }

    fn read_entry(&mut self) -> Result<Found, Refused> {
        let (start, entry) = (self.pos, self.entry);
        let mut e = match self.value::<Fields>() {
            Ok(fields) => return fields.numbers().found(entry),
            Err(e) => e,
        };
        let mut why = self.damaged(start, &e);
        // JSON, but not a model: the next one stands behind it.
        if e.classify() == Category::Data {
            match self.value::<IgnoredAny>() {
                Ok(_) => return Err(Refused::at(entry, why)),
                Err(damaged) => e = damaged,
            }
        }
        if e.is_eof() && self.bytes.len() - start > self.max_model {
            why = Why::Damaged(format!("is larger than a model may be ({} bytes)", self.max_model));
        }
        // No JSON: the next one stands on the next line that begins one, if it is lines.
        let reached = self.offset(start, &e);
        match memchr::memmem::find(&self.bytes[start..], b"\n{").filter(|_| !self.array) {
            Some(at) => self.pos = start + at + 1,
            None => self.done = true,
        }
        self.again += reached.saturating_sub(self.pos);
        if !self.done && self.again > self.bytes.len().saturating_mul(READ_AGAIN).max(ALWAYS_AGAIN) {
            self.done = true;
            why = Why::Damaged(format!("{why}, and so little before it can, that the rest is not looked at"));
        }
        Err(Refused::at(entry, why))
    }

    /// Where an error was met while reading from `start`.
    fn offset(&self, start: usize, e: &serde_json::Error) -> usize {
        let rest = &self.bytes[start..];
        let line = match e.line() {
            0 | 1 => 0,
            line => memchr::memchr_iter(b'\n', rest).nth(line - 2).map_or(rest.len(), |at| at + 1),
        };
        start + (line + e.column()).min(rest.len())
    }

    /// In an array: what stands behind an element.
    fn separator(&mut self) -> Result<(), Why> {
        match self.peek() {
            Some(b',') => {
                self.pos += 1;
                Ok(())
            }
            Some(b']') => {
                self.pos += 1;
                self.array = false;
                match self.peek() {
                    None => Ok(()),
                    Some(_) => Err(Why::Damaged(format!("goes on behind its array, at offset {}", self.pos))),
                }
            }
            _ => Err(Why::Damaged(format!("has neither `,` nor `]` at offset {}", self.pos))),
        }
    }
}

impl Iterator for Models {
    type Item = Result<Found, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || (self.peek().is_none() && !self.array) {
            return None;
        }
        self.entry += 1;
        if self.array && self.entry > 1 {
            if let Err(why) = self.separator() {
                self.done = true;
                return Some(Err(Refused::at(self.entry, why)));
            }
            if !self.array {
                self.done = true;
                return None;
            }
        }
        self.peek();
        Some(self.read_entry())
    }
}

#[cfg(test)]
mod tests;
