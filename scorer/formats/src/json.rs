//! Models as JSON: one object, an array of objects, or one object after the other (lines).

mod fields;

use crate::{Found, Refused, Why};
use bytes::Bytes;
use fields::Fields;
use serde::de::IgnoredAny;
use serde_json::error::Category;

/// The models of one file, one by one.
pub(crate) struct Models {
    bytes: Bytes,
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
    pub(crate) fn new(bytes: Bytes) -> Self {
        let pos = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let mut models = Self { bytes, pos, entry: 0, array: false, done: false, counted: (0, 0) };
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
        let mut values = serde_json::Deserializer::from_slice(&self.bytes[self.pos..]).into_iter::<T>();
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
        let e = match self.value::<Fields>() {
            Ok(fields) => return fields.numbers().found(entry),
            Err(e) => e,
        };
        let why = self.damaged(start, &e);
        // JSON, but not a model: the next one stands behind it.
        if e.classify() == Category::Data && self.value::<IgnoredAny>().is_ok() {
            return Err(Refused::at(entry, why));
        }
        // No JSON: the next one stands on the next line that begins one, if it is lines.
        let rest = &self.bytes[start..];
        match rest.windows(2).position(|w| w == b"\n{").filter(|_| !self.array) {
            Some(at) => self.pos = start + at + 1,
            None => self.done = true,
        }
        Err(Refused::at(entry, why))
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
