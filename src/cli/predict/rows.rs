//! Lines of the input in batches, and what they become in the output.

use crate::exit::Fail;
use crate::send::csv::places;
use fleetscore_schemas::status::PredictionStatus;
use fleetscore_schemas::window::Feature;
use fleetscore_scorer::predict::{self, EXPLAINED, ModelFiles};
use std::io::{Read, Write};

/// The first line of the output: the reference's columns, then ours.
pub(super) const HEADER: &[u8] = b"TS,Device,Sensor,Val,Prediction,decision,status,normal_range\n";

/// Lines of a batch.
const LINES: usize = 4096;
/// A batch of long lines ends earlier.
const BYTES: usize = 4 << 20;
/// Longest name of a device or sensor, in bytes.
const MAX_NAME: usize = 256;

/// A CSV file as batches of the fields that are wanted.
pub(super) struct Lines {
    reader: csv::Reader<Box<dyn Read + Send>>,
    record: csv::ByteRecord,
    /// Where ts, device, sensor and the features are.
    places: Vec<usize>,
    /// Columns that the header names.
    columns: usize,
    /// Whether lines end with a carriage return, which the reader takes for the end without the line feed after it.
    returns: bool,
}

impl Lines {
    pub(super) fn new(name: &str, input: Box<dyn Read + Send>, features: &[Feature]) -> Result<Self, Fail> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).buffer_capacity(1 << 16).from_reader(input);
        let headers = reader.headers().map_err(|e| Fail::user(format!("--csv: `{name}`: {e}")))?;
        let first;
        let mut wanted: Vec<&[&str]> = vec![&["ts", "timestamp", "window_start"], &["device"], &["sensor"]];
        match features {
            [one] => {
                // A column of the feature's own name before those that may stand for any.
                first = [one.as_str(), "value", "val"];
                wanted.push(&first);
                Ok(Self::with(places(name, headers, &wanted)?, reader))
            }
            several => {
                let names: Vec<[&str; 1]> = several.iter().map(|f| [f.as_str()]).collect();
                wanted.extend(names.iter().map(|n| n.as_slice()));
                Ok(Self::with(places(name, headers, &wanted)?, reader))
            }
        }
    }

    fn with(places: Vec<usize>, mut reader: csv::Reader<Box<dyn Read + Send>>) -> Self {
        let columns = reader.byte_headers().map_or(0, csv::ByteRecord::len);
        let returns = reader.position().line() == 1;
        Self { reader, record: csv::ByteRecord::new(), places, columns, returns }
    }

    /// Number of the line at which the present record starts. The reader's own is that of the end of the record before
    /// it: blank lines may lie between.
    fn line(&self) -> u64 {
        let before = self.record.position().map_or(0, csv::Position::line);
        let after = self.reader.position().line();
        let inside = match after - before {
            0 | 1 => 0,
            _ => self.record.as_slice().iter().filter(|b| **b == b'\n').count() as u64,
        };
        let end = after.saturating_sub(inside);
        if self.returns { end } else { before.max(end.saturating_sub(1)) }
    }

    /// The next lines; `None` at the end.
    pub(super) fn batch(&mut self) -> std::io::Result<Option<Batch>> {
        let mut batch = Batch::new(self.places.len(), self.columns);
        while batch.lines.len() < LINES && batch.text.len() < BYTES {
            if !self.reader.read_byte_record(&mut self.record).map_err(std::io::Error::from)? {
                break;
            }
            let line = self.line();
            batch.push(&self.record, &self.places, line);
        }
        Ok((!batch.lines.is_empty()).then_some(batch))
    }
}

/// Some lines: their fields one after the other.
pub(super) struct Batch {
    text: Vec<u8>,
    /// Where each field ends, line after line.
    ends: Vec<usize>,
    /// Fields taken of a line.
    taken: usize,
    /// Number in the file, and number of fields, of each line.
    lines: Vec<(u64, usize)>,
    /// Fields a line must have.
    columns: usize,
}

/// What a batch became.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Lines of the output.
    pub(super) text: Vec<u8>,
    pub(super) counts: Counts,
    /// Lines that could not be scored, with the reason.
    pub(super) bad: Vec<(u64, String)>,
    /// The first anomalies of models of several features: what they lack is still to be found.
    lacking: Vec<Lacking>,
}

/// An anomaly whose last cell is empty so far.
#[derive(Debug)]
struct Lacking {
    /// Where the cell is to be.
    at: usize,
    model: u32,
    /// Its features.
    x: Vec<f64>,
}

impl Answer {
    /// Fills in what anomalies lack, of at most so many of those that are left.
    pub(super) fn explain(&mut self, models: &ModelFiles, left: &mut usize) {
        self.lacking.truncate(*left);
        *left -= self.lacking.len();
        if self.lacking.is_empty() {
            return;
        }
        let (mut text, mut from) = (Vec::with_capacity(self.text.len() + 64 * self.lacking.len()), 0);
        for lacking in self.lacking.drain(..) {
            text.extend_from_slice(&self.text[from..lacking.at]);
            let found = models.nearest_normal(lacking.model, &lacking.x);
            cell(&mut text, found.unwrap_or_default().as_bytes());
            from = lacking.at;
        }
        text.extend_from_slice(&self.text[from..]);
        self.text = text;
    }
}

/// How many rows ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) scored: u64,
    pub(super) anomalies: u64,
    pub(super) no_model: u64,
    pub(super) model_error: u64,
    pub(super) input_invalid: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.scored += other.scored;
        self.anomalies += other.anomalies;
        self.no_model += other.no_model;
        self.model_error += other.model_error;
        self.input_invalid += other.input_invalid;
    }

    fn count(&mut self, status: PredictionStatus) {
        self.rows += 1;
        match status {
            PredictionStatus::Scored => self.scored += 1,
            PredictionStatus::NoModel | PredictionStatus::NoData => self.no_model += 1,
            PredictionStatus::ModelError => self.model_error += 1,
            PredictionStatus::InputInvalid => self.input_invalid += 1,
        }
    }
}

impl Batch {
    fn new(taken: usize, columns: usize) -> Self {
        let lines = Vec::with_capacity(LINES);
        Self { text: Vec::new(), ends: Vec::with_capacity(LINES * taken), taken, lines, columns }
    }

    fn push(&mut self, record: &csv::ByteRecord, places: &[usize], line: u64) {
        for place in places {
            self.text.extend_from_slice(record.get(*place).unwrap_or_default().trim_ascii());
            self.ends.push(self.text.len());
        }
        self.lines.push((line, record.len()));
    }

    fn field(&self, line: usize, field: usize) -> &[u8] {
        let at = line * self.taken + field;
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[from..self.ends[at]]
    }

    /// Scores the lines and writes them out.
    pub(super) fn score(&self, models: &ModelFiles) -> Answer {
        let n = self.lines.len();
        let mut answer = Answer { text: Vec::with_capacity(self.text.len() + n * 48), ..Answer::default() };
        let mut of = Vec::with_capacity(n);
        let mut inputs = vec![Vec::with_capacity(n); self.taken - 3];
        let mut valid = Vec::with_capacity(n);
        let mut key = Vec::new();
        for i in 0..n {
            predict::write_key(&mut key, self.field(i, 1), self.field(i, 2));
            of.push(models.find(&key));
            for (k, column) in inputs.iter_mut().enumerate() {
                column.push(number(self.field(i, 3 + k)).unwrap_or(f64::NAN));
            }
            let problem = self.problem(i, &inputs);
            valid.push(problem.is_none());
            answer.bad.extend(problem.map(|p| (self.lines[i].0, p)));
        }
        let mut decisions = Vec::new();
        models.decisions(&of, &inputs, &mut decisions);
        for i in 0..n {
            let status = models.status(valid[i], of[i], decisions[i]);
            answer.counts.count(status);
            self.write(i, &inputs, status, decisions[i], of[i], models, &mut answer);
        }
        answer
    }

    /// What is wrong with a line, if anything.
    fn problem(&self, line: usize, inputs: &[Vec<f64>]) -> Option<String> {
        let fields = self.lines[line].1;
        if fields != self.columns {
            return Some(format!("has {fields} fields, and the first line has {}", self.columns));
        }
        if let Some(k) = inputs.iter().position(|c| c[line].is_nan()) {
            let text = String::from_utf8_lossy(self.field(line, 3 + k));
            return Some(format!("`{}` is not a finite number", text.escape_debug()));
        }
        [("device", 1), ("sensor", 2)].into_iter().find_map(|(what, field)| {
            let name = self.field(line, field);
            let good = |s: &str| !s.is_empty() && s.len() <= MAX_NAME && !s.chars().any(char::is_control);
            (!std::str::from_utf8(name).is_ok_and(good)).then(|| {
                let text = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]);
                format!("`{}` is not the name of a {what}", text.escape_debug())
            })
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of one row")]
    fn write(
        &self,
        line: usize,
        inputs: &[Vec<f64>],
        status: PredictionStatus,
        decision: f64,
        model: u32,
        models: &ModelFiles,
        answer: &mut Answer,
    ) {
        let (out, value) = (&mut answer.text, inputs[0][line]);
        for field in 0..3 {
            cell(out, self.field(line, field));
            out.push(b',');
        }
        // Numbers with as many digits as they need to be read back the same; what is none, as it came.
        if value.is_nan() {
            cell(out, self.field(line, 3));
            out.push(b',');
        } else {
            write!(out, "{value:?},").expect("memory takes everything");
        }
        let mut range = None;
        if status == PredictionStatus::Scored {
            let label = predict::label(decision);
            answer.counts.anomalies += u64::from(label);
            range = (label == 1).then(|| models.normal_range(model)).flatten();
            write!(out, "{label},{decision:?},").expect("memory takes everything");
        } else {
            out.extend_from_slice(b",,");
        }
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b',');
        let anomaly = status == PredictionStatus::Scored && predict::label(decision) == 1;
        if anomaly && models.has_several_features() && answer.lacking.len() < EXPLAINED {
            let x = inputs.iter().map(|c| c[line]).collect();
            answer.lacking.push(Lacking { at: out.len(), model, x });
        }
        cell(out, range.unwrap_or_default().as_bytes());
        out.push(b'\n');
    }
}

fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse::<f64>().ok().filter(|v| v.is_finite())
}

/// A field of the output, in quotes where it needs them.
fn cell(out: &mut Vec<u8>, text: &[u8]) {
    if !text.iter().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r')) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for b in text {
        if *b == b'"' {
            out.push(b'"');
        }
        out.push(*b);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_scorer::predict::ModelSources;

    /// The models of the tests' data: rbf, one feature.
    fn models() -> ModelFiles {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models");
        let sources = ModelSources { paths: vec![folder.into()], ..ModelSources::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ModelFiles::load(&sources)).unwrap()
    }

    fn lines(text: &str, features: &[Feature]) -> Result<Lines, Fail> {
        Lines::new("a.csv", Box::new(std::io::Cursor::new(text.as_bytes().to_vec())), features)
    }

    fn predict(text: &str) -> (Vec<String>, Counts, Vec<(u64, String)>) {
        let models = models();
        let mut lines = lines(text, &[Feature::Mean]).unwrap_or_else(|e| panic!("{e}"));
        let (mut out, mut counts, mut bad) = (Vec::new(), Counts::default(), Vec::new());
        while let Some(batch) = lines.batch().unwrap() {
            let answer = batch.score(&models);
            out.extend(String::from_utf8(answer.text).unwrap().lines().map(str::to_owned));
            counts.add(&answer.counts);
            bad.extend(answer.bad);
        }
        (out, counts, bad)
    }

    #[test]
    fn a_column_of_the_features_own_name_comes_before_one_that_may_stand_for_any() {
        for header in ["ts,device,sensor,value,MEAN", "ts,device,sensor,val,mean"] {
            let (out, _, _) = predict(&format!("{header}\n1,press-9,temp,2,99\n"));
            assert_eq!(out, ["1,press-9,temp,99.0,,,no_model,"], "{header}");
        }
        let twice = lines("ts,device,sensor,mean,mean\n", &[Feature::Mean]).err().map(|e| e.to_string());
        assert!(twice.is_some_and(|e| e.contains("two columns `mean`")));
    }

    #[test]
    fn every_line_becomes_a_row_in_its_place_and_times_stay_as_they_are() {
        let text = "Value , SENSOR,Device,TS,more\n\
                    1e9, temp ,press-1,\"yesterday, about 5\",x\n\
                    12.5,temp,press-9,2026-01-01T00:00:00Z,x\n\
                    abc,temp,press-1,3,x\n\
                    1,temp\n\
                    1,temp,press-1,5,x,y\n\
                    \n\
                    -inf,temp,press-1,7,x\n\
                    1,,press-1,8,x\n\
                    1,t\tt,press-1,9,x\n";
        let (out, counts, bad) = predict(text);
        let starts = [
            "\"yesterday, about 5\",press-1,temp,1000000000.0,1,-",
            "2026-01-01T00:00:00Z,press-9,temp,12.5,,,no_model,",
            "3,press-1,temp,abc,,,input_invalid,",
            ",,temp,1.0,,,input_invalid,",
            "5,press-1,temp,1.0,,,input_invalid,",
            "7,press-1,temp,-inf,,,input_invalid,",
            "8,press-1,,1.0,,,input_invalid,",
            "9,press-1,t\tt,1.0,,,input_invalid,",
        ];
        assert_eq!(out.len(), starts.len());
        for (row, start) in out.iter().zip(starts) {
            assert!(row.starts_with(start), "{row} for {start}");
        }
        assert!(out[0].contains(",scored,") && out[0].contains(" … "), "{}", out[0]);
        let wanted = [
            (4, "`abc` is not a finite number"),
            (5, "has 2 fields, and the first line has 5"),
            (6, "has 6 fields, and the first line has 5"),
            (8, "`-inf` is not a finite number"),
            (9, "`` is not the name of a sensor"),
            (10, "`t\\tt` is not the name of a sensor"),
        ];
        assert_eq!(bad, wanted.map(|(line, why)| (line, why.to_owned())));
        let expected =
            Counts { rows: 8, scored: 1, anomalies: 1, no_model: 1, model_error: 0, input_invalid: 6 };
        assert_eq!(counts, expected);
    }

    #[test]
    fn anomalies_of_several_features_name_the_nearest_normal_values_up_to_a_bound() {
        // Normal where the mean is below 10; the other feature does not count.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("models.jsonl");
        let model = r#"{"device": "a", "sensor": "b", "features": ["mean", "stddev"], "kernel": "linear",
            "support_vectors": [[1.0, 0.0]], "dual_coef": [-1.0], "rho": -10.0}"#;
        std::fs::write(&file, model.replace('\n', " ")).unwrap();
        let features = vec![Feature::Mean, Feature::Stddev];
        let paths = vec![file.display().to_string()];
        let sources =
            ModelSources { paths: paths.clone(), features: features.clone(), ..ModelSources::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let models = runtime.block_on(ModelFiles::load(&sources)).unwrap();
        let mut text = String::from("ts,device,sensor,stddev,mean\n");
        for i in 0..3 * LINES {
            text.push_str(&format!("{i},a,b,2,{}\n", if i % 10 == 0 { 15.25 } else { 3.0 }));
        }
        let mut lines = lines(&text, &features).unwrap_or_else(|e| panic!("{e}"));
        let (mut out, mut left) = (Vec::new(), EXPLAINED);
        while let Some(batch) = lines.batch().unwrap() {
            let mut answer = batch.score(&models);
            answer.explain(&models, &mut left);
            out.extend_from_slice(&answer.text);
        }
        let rows: Vec<csv::StringRecord> = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(&out[..])
            .records()
            .map(Result::unwrap)
            .collect();
        assert_eq!(rows.len(), 3 * LINES);
        let mut anomalies = 0;
        for (i, row) in rows.iter().enumerate() {
            assert_eq!((row.len(), &row[0], &row[6]), (8, i.to_string().as_str(), "scored"));
            if i % 10 > 0 {
                assert_eq!((&row[3], &row[4], &row[7]), ("3.0", "0", ""));
                continue;
            }
            anomalies += 1;
            assert_eq!((&row[3], &row[4]), ("15.25", "1"));
            if anomalies > EXPLAINED {
                assert_eq!(&row[7], "", "the first ones alone");
                continue;
            }
            let (mean, stddev) = row[7].split_once(", ").unwrap();
            assert_eq!(stddev, "stddev 2 → none");
            let found: f64 = mean.strip_prefix("mean 15.25 → ").unwrap().parse().unwrap();
            assert!(found < 10.0 && found > 9.9, "{mean}");
        }
        assert!(anomalies > EXPLAINED && left == 0);

        // Models that say that they were made for other columns, as many of them, are refused.
        let other =
            ModelSources { paths, features: vec![Feature::Mean, Feature::Max], ..ModelSources::default() };
        let e = runtime.block_on(ModelFiles::load(&other)).unwrap_err().to_string();
        assert!(e.contains("mean, stddev") && e.contains("mean, max"), "{e}");
    }

    #[test]
    fn bad_lines_are_named_by_their_number_in_the_file() {
        let lines = [
            "ts,device,sensor,value",
            "1,a,b,x",
            "",
            "",
            "2,a,\"b\nc\",1",
            "3,a,b,x",
            "\"4\n\n\",a,b,x",
            "5,a,b,x",
        ];
        for (end, last) in [("\n", "\n"), ("\n", ""), ("\r\n", "\r\n"), ("\r\n", "")] {
            let (_, _, bad) = predict(&(lines.join(end) + last));
            let numbers: Vec<u64> = bad.iter().map(|(n, _)| *n).collect();
            assert_eq!(numbers, [2, 5, 7, 8, 11], "{end:?} {last:?}");
        }
    }

    #[test]
    fn batches_are_bounded_and_lose_nothing() {
        let rows = 2 * LINES + 7;
        let mut text = String::from("ts,device,sensor,value\n");
        for i in 0..rows {
            text.push_str(&format!("{i},press-1,temp,{}\n", i % 60));
        }
        let mut lines = lines(&text, &[Feature::Mean]).unwrap_or_else(|e| panic!("{e}"));
        let mut sizes = Vec::new();
        while let Some(batch) = lines.batch().unwrap() {
            sizes.push(batch.lines.len());
        }
        assert_eq!(sizes, [LINES, LINES, 7]);
        let (out, counts, bad) = predict(&text);
        assert_eq!((out.len(), counts.scored as usize, bad.len()), (rows, rows, 0));
        assert!(out.iter().enumerate().all(|(i, row)| row.starts_with(&format!("{i},press-1,temp,"))));
    }

    #[test]
    fn columns_are_named_by_what_the_models_take() {
        let header = "window_start,device,sensor,mean,stddev\n";
        assert!(lines(header, &[Feature::Mean]).is_ok());
        assert!(lines(header, &[Feature::Mean, Feature::Stddev]).is_ok());
        let error = |features: &[Feature]| lines(header, features).err().unwrap().to_string();
        assert!(error(&[Feature::Max]).contains("no column max or value or val"));
        assert!(error(&[Feature::Mean, Feature::Max]).contains("no column max"));
        assert!(lines("", &[Feature::Mean]).err().unwrap().to_string().contains("no first line"));
    }
}
