//! A message in the making: where each record stands, and what a decoder makes of it when something breaks.

use super::{Message, Record};
use crate::windows::Reading;
use fastrand::Rng;
use std::ops::Range;

/// How a message holds its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One record.
    Single,
    /// `[record, …]`, over several lines if it is pretty.
    Array { pretty: bool },
    /// `record\nrecord\n…`
    Lines { crlf: bool },
}

/// A message that is not sent yet.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) form: Form,
    /// How many records it takes.
    capacity: u32,
    key: String,
    payload: Vec<u8>,
    records: Vec<Record>,
    /// How many records it has.
    pub(super) count: u32,
    /// Element or line that comes next.
    position: i32,
    /// Where the record in the making begins.
    begin: usize,
    /// An array that broke: index and first byte of what cannot be told apart any more.
    pub(super) broken: Option<(i32, usize)>,
}

impl Open {
    pub(super) fn new(form: Form, capacity: u32, key: &str, rng: &mut Rng) -> Self {
        let mut payload = Vec::with_capacity(128 * capacity.min(64) as usize);
        if rng.u8(..64) == 0 {
            payload.extend_from_slice(b"\xef\xbb\xbf"); // byte order mark
        }
        if rng.u8(..32) == 0 && !matches!(form, Form::Lines { .. }) {
            payload.extend_from_slice(b" ");
        }
        match form {
            Form::Array { pretty: true } => payload.extend_from_slice(b"[\n  "),
            Form::Array { pretty: false } => payload.push(b'['),
            _ => {}
        }
        let records = Vec::with_capacity(capacity.min(64) as usize);
        Self {
            form,
            capacity,
            key: key.into(),
            payload,
            records,
            count: 0,
            position: 0,
            begin: 0,
            broken: None,
        }
    }

    fn line_break(&mut self, crlf: bool) {
        self.payload.extend_from_slice(if crlf { b"\r\n" } else { b"\n" });
    }

    /// Writes the next record, and says what it holds by [`Open::reading`] and [`Open::bad`] after that.
    pub(super) fn write(&mut self, rng: &mut Rng, record: impl FnOnce(&mut Vec<u8>, &mut Rng)) {
        self.separate(rng);
        record(&mut self.payload, rng);
    }

    /// Writes what stands before the next record.
    fn separate(&mut self, rng: &mut Rng) {
        if self.count > 0 {
            match self.form {
                Form::Single => {}
                Form::Array { pretty: true } => self.payload.extend_from_slice(b",\n  "),
                Form::Array { pretty: false } => {
                    self.payload.extend_from_slice(if rng.u8(..8) == 0 { b" , " } else { b"," });
                }
                Form::Lines { crlf } => self.line_break(crlf),
            }
            self.position += 1;
        }
        if let Form::Lines { crlf } = self.form
            && rng.u8(..32) == 0
        {
            // A blank line is passed over, but counted.
            self.payload.extend_from_slice(if rng.bool() { b" \t" } else { b"" });
            self.line_break(crlf);
            self.position += 1;
        }
        // A line's white space and the mark before it are part of it; an element's are not.
        self.begin = if self.position == 0 && matches!(self.form, Form::Lines { .. }) {
            0
        } else {
            self.payload.len()
        };
        if matches!(self.form, Form::Lines { .. }) && rng.u8(..32) == 0 {
            self.payload.push(b' ');
        }
        self.count += 1;
    }

    fn span(&self) -> Range<usize> {
        self.begin..self.payload.len()
    }

    /// The record holds this reading. Says whether it counts: in what is left of a broken array nothing does.
    pub(super) fn reading(&mut self, reading: Reading) -> bool {
        if self.broken.is_some() {
            return false;
        }
        self.records.push(Record::Reading { position: self.position, reading, span: self.span() });
        true
    }

    /// The record is refused.
    pub(super) fn bad(&mut self, code: &'static str) {
        if self.broken.is_none() {
            self.records.push(Record::Bad { position: self.position, code, span: self.span() });
        }
    }

    /// The record that was written last breaks the array.
    pub(super) fn breaks(&mut self) {
        self.broken = Some((self.position, self.begin));
    }

    /// Stray bytes behind the record that was written last break the array.
    pub(super) fn stray(&mut self, rng: &mut Rng) {
        self.broken = Some((self.position + 1, self.payload.len()));
        self.payload.extend_from_slice(rng.choice([&b";"[..], b"}", b"x", b"{}"]).unwrap_or_default());
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= self.capacity
    }

    /// Ends an array that has a record in one of the ways that leave a remainder.
    pub(super) fn break_end(mut self, partition: u32, rng: &mut Rng) -> Message {
        let end = self.payload.len();
        let (text, remainder): (&[u8], _) = match rng.u8(..6) {
            0 => (b"", end), // its bracket is missing, and nothing else
            // Where nothing but white space follows, the remainder begins behind the last element.
            4 => (b" \r\n", end),
            5 => (b" , ", end),
            1 => (b",]", end + 1),
            2 => (b"}", end),
            _ => (b"] x", end + 2),
        };
        self.payload.extend_from_slice(text);
        let span = remainder..self.payload.len();
        self.records.push(Record::Bad { position: self.position + 1, code: "syntax", span });
        self.into_message(partition)
    }

    /// Ends the message.
    pub(super) fn close(mut self, partition: u32, rng: &mut Rng) -> Message {
        match self.form {
            Form::Single => {
                let more: &[u8] = if rng.u8(..16) == 0 { b" \r\n" } else { b"" };
                self.payload.extend_from_slice(more);
            }
            Form::Array { pretty } => {
                self.payload.extend_from_slice(if pretty { b"\n]\n" } else { b"]" });
                if let Some((position, begin)) = self.broken {
                    let span = begin..self.payload.len();
                    self.records.push(Record::Bad { position, code: "syntax", span });
                }
            }
            Form::Lines { crlf } => {
                if rng.bool() {
                    self.line_break(crlf);
                }
            }
        }
        let one_line = self.count == 1 && matches!(self.form, Form::Lines { .. });
        if one_line || self.form == Form::Single {
            // A message with one record is that record.
            let all = 0..self.payload.len();
            for record in &mut self.records {
                let (Record::Reading { position, span, .. } | Record::Bad { position, span, .. }) = record;
                (*position, *span) = (-1, all.clone());
            }
        }
        self.into_message(partition)
    }

    fn into_message(self, partition: u32) -> Message {
        Message { key: self.key, partition, payload: self.payload, records: self.records }
    }
}
