//! The four shapes of a message: one object, an array, lines, and what is none of them.
//!
//! A message begins as what its first character says. Only where that fails are its lines looked at, so the usual
//! message is passed over once.

use crate::decoder::{Current, Decoder};
use crate::scan::{Broken, byte, is_white, skip_white};
use fleetscore_schemas::codes::DeadLetterCode as Code;
use fleetscore_schemas::reading::Span;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How far an array was good.
enum ArrayEnd {
    /// To its bracket, before `end`; white space follows.
    Whole { elements: i32 },
    /// It broke: `span` is the remainder.
    Broken { span: Span, broken: Broken },
    /// Its bracket stands before `closed`, and then comes more.
    More { span: Span, closed: usize },
}

impl Decoder {
    /// Decodes one message.
    #[inline]
    pub(crate) fn message(&mut self, message: &Current<'_>, tombstone: bool) {
        let b = message.bytes;
        if b.len() > self.options.max_message_bytes {
            let why = format!("{} bytes, more than {}", b.len(), self.options.max_message_bytes);
            return self.refuse(message, message.all(), (Code::TooLarge, why));
        }
        let begin = if b.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let i = skip_white(b, begin);
        match byte(b, i) {
            b'{' => self.object_message(message, i),
            b'[' => self.array_message(message, i),
            _ if i == b.len() => {
                let reason = if tombstone {
                    (Code::Tombstone, "the message has no payload".into())
                } else {
                    (Code::Empty, "the payload is empty or white space".into())
                };
                self.refuse(message, message.all(), reason);
            }
            _ => self.other_message(message, i),
        }
    }

    /// A message that begins with an object.
    #[inline]
    fn object_message(&mut self, message: &Current<'_>, i: usize) {
        let b = message.bytes;
        if self.straight_alone(message, b, i, message.all()) {
            return;
        }
        let scanned = self.record.scan(&mut self.scanner, &mut self.keys, b, i);
        match scanned {
            Ok(end) if skip_white(b, end) == b.len() => self.finish(b, message, message.all()),
            Ok(end) => {
                if are_lines(b, i, end) {
                    self.lines(message);
                } else {
                    let at = skip_white(b, end);
                    self.broken(message, message.all(), Broken { at, expected: "the end of the message" });
                }
            }
            Err(broken) => {
                if are_lines(b, i, broken.at) {
                    self.lines(message);
                } else {
                    self.broken(message, message.all(), broken);
                }
            }
        }
    }

    /// Counts the record at `i` if it goes the straight way and nothing comes behind it in `b`, the message up to some place;
    /// whether it does.
    #[inline(always)]
    fn straight_alone(&mut self, message: &Current<'_>, b: &[u8], i: usize, span: Span) -> bool {
        self.straight(message, i, b.len(), |end| (skip_white(b, end) == b.len()).then_some(span)).is_some()
    }

    /// A message that begins with neither brace nor bracket.
    #[cold]
    fn other_message(&mut self, message: &Current<'_>, i: usize) {
        let b = message.bytes;
        let end = self.no_object(b, i);
        match end {
            Ok(end) if skip_white(b, end) == b.len() => self.wrong_type(message, message.all(), i),
            Ok(end) if !are_lines(b, i, end) => {
                let at = skip_white(b, end);
                self.broken(message, message.all(), Broken { at, expected: "the end of the message" });
            }
            Err(broken) if !are_lines(b, i, broken.at) => self.broken(message, message.all(), broken),
            _ => self.lines(message),
        }
    }

    /// A message that begins with an array.
    fn array_message(&mut self, message: &Current<'_>, i: usize) {
        let b = message.bytes;
        match self.array(message, i) {
            ArrayEnd::Whole { elements: 0 } => {
                self.refuse(message, message.all(), (Code::MissingField, "the array is empty".into()));
            }
            ArrayEnd::Whole { .. } => {}
            ArrayEnd::Broken { span, broken } => {
                if has_line_of_its_own(b, i) {
                    self.take_back(message);
                    self.lines(message);
                } else {
                    self.broken(message, span, broken);
                }
            }
            ArrayEnd::More { span, closed } => {
                let newline = memchr::memchr(b'\n', &b[i..]).map_or(b.len(), |n| i + n);
                if closed <= newline && has_line_of_its_own(b, i) {
                    self.take_back(message);
                    self.lines(message);
                } else {
                    // What the last element left behind concerns that element alone.
                    self.scanner.reset();
                    let broken = Broken { at: span.start as usize, expected: "the end of the message" };
                    self.broken(message, span, broken);
                }
            }
        }
    }

    /// Takes back what was made of a message so far.
    #[cold]
    fn take_back(&mut self, message: &Current<'_>) {
        self.settle(message.payload);
        self.out.rewind(message.index);
    }

    /// Decodes the elements of the array whose bracket stands at `open`, as far as it is good.
    fn array(&mut self, message: &Current<'_>, open: usize) -> ArrayEnd {
        let b = message.bytes;
        let mut position = 0;
        let mut i = skip_white(b, open + 1);
        // Where the remainder begins should nothing but white space be left.
        let mut rest = open;
        if byte(b, i) == b']' {
            i += 1;
        } else {
            loop {
                let begin = i;
                // What is no object is no failure of the layout.
                let straight = if byte(b, begin) == b'{' {
                    self.straight(message, begin, b.len(), |end| Some(message.span(position, begin, end)))
                } else {
                    None
                };
                let end = match straight.map_or_else(|| self.element(message, begin, position), Ok) {
                    Ok(end) => end,
                    Err(broken) => {
                        let start = if begin == b.len() { rest } else { begin };
                        return ArrayEnd::Broken { span: message.span(position, start, b.len()), broken };
                    }
                };
                position = position.saturating_add(1);
                rest = end;
                i = skip_white(b, end);
                match byte(b, i) {
                    b',' => i = skip_white(b, i + 1),
                    b']' => {
                        i += 1;
                        break;
                    }
                    _ => {
                        self.scanner.reset();
                        let start = if i == b.len() { rest } else { i };
                        let broken = Broken { at: i, expected: "`,` or `]`" };
                        return ArrayEnd::Broken { span: message.span(position, start, b.len()), broken };
                    }
                }
            }
        }
        let closed = i;
        i = skip_white(b, i);
        if i == b.len() {
            return ArrayEnd::Whole { elements: position };
        }
        ArrayEnd::More { span: message.span(position, i, b.len()), closed }
    }

    /// Decodes the element of an array that begins at `begin`, the general way; gives the index behind it.
    #[inline]
    fn element(&mut self, message: &Current<'_>, begin: usize, position: i32) -> Result<usize, Broken> {
        let b = message.bytes;
        if byte(b, begin) == b'{' {
            let end = self.record.scan(&mut self.scanner, &mut self.keys, b, begin)?;
            self.finish(b, message, message.span(position, begin, end));
            Ok(end)
        } else {
            let end = self.no_object(b, begin)?;
            self.wrong_type(message, message.span(position, begin, end), begin);
            Ok(end)
        }
    }

    /// Decodes each line by itself. Blank lines are counted and passed over.
    fn lines(&mut self, message: &Current<'_>) {
        let b = message.bytes;
        let (mut number, mut begin) = (0i32, 0);
        while begin < b.len() {
            let newline = memchr::memchr(b'\n', &b[begin..]).map_or(b.len(), |n| begin + n);
            let end = if newline > begin && b[newline - 1] == b'\r' { newline - 1 } else { newline };
            self.line(message, &b[..end], message.span(number, begin, end));
            number = number.saturating_add(1);
            begin = newline + 1;
        }
    }

    /// Decodes one line: `b` is the message up to its end.
    #[inline]
    fn line(&mut self, message: &Current<'_>, b: &[u8], span: Span) {
        let begin = span.start as usize;
        let begin = if begin == 0 && b.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { begin };
        let i = skip_white(b, begin);
        if i == b.len() {
            return;
        }
        let object = b[i] == b'{';
        if object && self.straight_alone(message, b, i, span) {
            return;
        }
        let end = if object {
            self.record.scan(&mut self.scanner, &mut self.keys, b, i)
        } else {
            self.no_object(b, i)
        };
        match end {
            Ok(end) if skip_white(b, end) < b.len() => {
                let at = skip_white(b, end);
                self.broken(message, span, Broken { at, expected: "the end of the line" });
            }
            Ok(_) if object => self.finish(b, message, span),
            Ok(_) => self.wrong_type(message, span, i),
            Err(broken) => self.broken(message, span, broken),
        }
    }

    /// Scans a record that is no object.
    fn no_object(&mut self, b: &[u8], i: usize) -> Result<usize, Broken> {
        self.scanner.reset();
        self.scanner.value(b, i, 0)
    }

    /// Refuses a record that is JSON, but no object; it begins at `i`.
    #[cold]
    fn wrong_type(&mut self, message: &Current<'_>, span: Span, i: usize) {
        let reason = self.whole(message, span).err().unwrap_or_else(|| {
            let kind = match byte(message.bytes, i) {
                b'[' => "an array",
                b'"' => "a string",
                b't' | b'f' => "a boolean",
                b'n' => "null",
                _ => "a number",
            };
            (Code::WrongType, format!("the record is {kind}, not an object"))
        });
        self.refuse(message, span, reason);
    }

    /// Refuses what is not JSON.
    #[cold]
    fn broken(&mut self, message: &Current<'_>, span: Span, broken: Broken) {
        let reason = self.whole(message, span).err().unwrap_or_else(|| {
            let Broken { at, expected } = broken;
            (Code::Syntax, format!("expected {expected} at byte {at} of the message"))
        });
        self.refuse(message, span, reason);
    }
}

/// Whether a message that is not one JSON value is lines. Its first value begins at `i` and ends or breaks at `at`.
///
/// It is, if there is more than one line with something in it, and either what the first one begins is decided on it
/// (complete or broken, so it stands by itself), or it is left open but another line is an object by itself. What
/// remains is a value over several lines that breaks somewhere.
#[cold]
fn are_lines(b: &[u8], i: usize, at: usize) -> bool {
    let Some(newline) = memchr::memchr(b'\n', &b[i..]).map(|n| i + n) else { return false };
    skip_white(b, newline) < b.len() && (at <= newline || b[i..].split(|&c| c == b'\n').any(is_braced))
}

/// Whether one of the lines from `i` on is an object by itself and cannot be an element of an array that goes over
/// several lines: no comma or bracket ties it to the line before or the one after.
#[cold]
fn has_line_of_its_own(b: &[u8], i: usize) -> bool {
    let mut lines =
        b[i..].split(|&c| c == b'\n').filter(|line| line.iter().any(|&c| !is_white(c))).peekable();
    let mut before = b',';
    while let Some(line) = lines.next() {
        let after = lines.peek().and_then(|next| next.iter().find(|c| !is_white(**c)));
        let tied = matches!(before, b',' | b'[' | b'{' | b':') || matches!(after, Some(b',' | b']' | b'}'));
        if !tied && is_braced(line) {
            return true;
        }
        before = line.iter().rfind(|c| !is_white(**c)).copied().unwrap_or(b',');
    }
    false
}

/// Whether a line begins with a brace and ends with one.
fn is_braced(line: &[u8]) -> bool {
    let mut inked = line.iter().filter(|c| !is_white(**c));
    inked.next() == Some(&b'{') && inked.next_back() == Some(&b'}')
}
