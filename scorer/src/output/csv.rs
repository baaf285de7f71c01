//! Predictions as CSV: first the five columns of the reference pipeline, then the rest.

use super::rows::{Row, rows};
use arrow::array::RecordBatch;
use fleetscore_schemas::time::Timestamp;
use std::io::{Result, Write};

/// The header. `TS` is the start of the window, UTC.
pub const HEADER: [&str; 14] = [
    "TS",
    "Device",
    "Sensor",
    "Val",
    "Prediction",
    "decision",
    "status",
    "model_set",
    "model",
    "window_end",
    "window_version",
    "run_id",
    "scored_at",
    "normal_range",
];

/// The file as it grows: `TS` and `window_end` as `2018-08-28 23:00:05.000`, floats with as many digits as they need to be
/// read back the same, an empty cell for NULL, quotes only where a cell needs them (RFC 4180, lines end in `\n`). The
/// same rows give the same bytes.
#[derive(Debug)]
pub struct Encoder<W: Write> {
    out: W,
    /// Lines of one batch: written at once.
    lines: Vec<u8>,
    start: Said,
    end: Said,
    scored_at: Said,
}

impl<W: Write> Encoder<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> Result<Self> {
        out.write_all(HEADER.join(",").as_bytes())?;
        out.write_all(b"\n")?;
        let said = |of: fn(Timestamp) -> String| Said { of, last: None };
        let (start, end) = (said(milliseconds), said(milliseconds));
        Ok(Self { out, lines: Vec::new(), start, end, scored_at: said(Timestamp::to_rfc3339) })
    }

    /// Writes a batch with the columns of [`fleetscore_schemas::window::published_schema`].
    ///
    /// # Errors
    /// Those of `out`.
    ///
    /// # Panics
    /// If the batch has other columns.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.lines.clear();
        for row in rows(batch) {
            self.line(&row)?;
        }
        self.out.write_all(&self.lines)
    }

    /// Gives back what was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn line(&mut self, row: &Row<'_>) -> Result<()> {
        let to = &mut self.lines;
        to.extend_from_slice(self.start.say(row.window_start));
        cell(to, row.device);
        cell(to, row.sensor);
        float(to, row.value)?;
        integer(to, row.prediction.map(i64::from))?;
        float(to, row.decision)?;
        cell(to, row.status);
        integer(to, row.model_set)?;
        cell(to, row.model.unwrap_or_default());
        to.push(b',');
        to.extend_from_slice(self.end.say(row.window_end));
        integer(to, Some(row.window_version))?;
        cell(to, row.run_id);
        to.push(b',');
        to.extend_from_slice(self.scored_at.say(row.scored_at));
        cell(to, row.normal_range.unwrap_or_default());
        to.push(b'\n');
        Ok(())
    }
}

/// A comma and a text, in quotes where it has one of the characters that structure the file.
fn cell(to: &mut Vec<u8>, text: &str) {
    to.push(b',');
    if !text.bytes().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r')) {
        to.extend_from_slice(text.as_bytes());
        return;
    }
    to.push(b'"');
    for part in text.split_inclusive('"') {
        to.extend_from_slice(part.as_bytes());
        if part.ends_with('"') {
            to.push(b'"');
        }
    }
    to.push(b'"');
}

fn float(to: &mut Vec<u8>, v: Option<f64>) -> Result<()> {
    match v {
        Some(v) => write!(to, ",{v:?}"),
        None => {
            to.push(b',');
            Ok(())
        }
    }
}

fn integer(to: &mut Vec<u8>, v: Option<i64>) -> Result<()> {
    match v {
        Some(v) => write!(to, ",{v}"),
        None => {
            to.push(b',');
            Ok(())
        }
    }
}

/// A time as text, kept for as long as the same one comes: nearly all rows of an interval share theirs.
#[derive(Debug)]
struct Said {
    of: fn(Timestamp) -> String,
    last: Option<(Timestamp, String)>,
}

impl Said {
    fn say(&mut self, t: Timestamp) -> &[u8] {
        if self.last.as_ref().is_none_or(|(last, _)| *last != t) {
            self.last = Some((t, (self.of)(t)));
        }
        self.last.as_ref().map_or(&[], |(_, text)| text.as_bytes())
    }
}

/// As the reference pipeline writes times.
fn milliseconds(t: Timestamp) -> String {
    match t.to_datetime() {
        Some(t) => t.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        None => t.to_rfc3339(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cells_are_what_the_csv_crate_writes(texts in prop::collection::vec("[a-c,\"\n\r ;é]{0,6}", 2..5)) {
            let mut ours = Vec::new();
            texts.iter().for_each(|t| cell(&mut ours, t));
            ours.push(b'\n');
            let mut theirs = ::csv::Writer::from_writer(Vec::new());
            theirs.write_record(&texts).unwrap();
            prop_assert_eq!(&ours[1..], theirs.into_inner().unwrap());
        }
    }
}
