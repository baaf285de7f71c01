//! Models as rows of a Parquet file, read batch by batch.

use crate::numbers::{Matrix, Numbers};
use crate::{FormatError, Found, Limits, Refused, Why};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{ArrowNativeType, DataType, Field, Float64Type, SchemaRef, UInt64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::ParquetMetaData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Rows of a batch: few enough that a batch of large models is small, too.
const BATCH_ROWS: usize = 1024;
/// Values that any file may have, as bytes of doubles.
const ALWAYS: usize = 64 << 20;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Texts,
    Number,
    Count,
    Numbers,
    Matrix,
}

/// The columns that are read; all but four may be missing.
const COLUMNS: [(&str, Kind); 17] = [
    ("device", Kind::Text),
    ("sensor", Kind::Text),
    ("name", Kind::Text),
    ("features", Kind::Texts),
    ("kernel", Kind::Text),
    ("gamma", Kind::Number),
    ("coef0", Kind::Number),
    ("degree", Kind::Number),
    ("mean", Kind::Numbers),
    ("scale", Kind::Numbers),
    ("support_vectors", Kind::Matrix),
    ("dual_coef", Kind::Numbers),
    ("rho", Kind::Number),
    ("intercept", Kind::Number),
    ("rows", Kind::Count),
    ("check_x", Kind::Matrix),
    ("check_decision", Kind::Numbers),
];

/// The models of one file, one by one.
pub(crate) struct Models {
    reader: ParquetRecordBatchReader,
    batch: Option<Batch>,
    /// The next row of the batch.
    row: usize,
    entry: u64,
    single_precision: bool,
    done: bool,
}

impl Models {
    /// Looks at the file's own description; no row is read yet.
    pub(crate) fn new(bytes: Bytes, limits: &Limits) -> Result<Self, FormatError> {
        let damaged =
            |e: &dyn std::fmt::Display| FormatError::Parquet(format!("is no sound Parquet file: {e}"));
        if bytes.len() > limits.max_table_bytes {
            return Err(FormatError::TooLarge { limit: limits.max_table_bytes });
        }
        let size = bytes.len();
        // What Arrow adds to a file's own types is not needed.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = contained(|| ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options));
        let builder = builder.map_err(|e| damaged(&e))?;
        within_reason(builder.metadata(), size, limits)?;
        let single_precision = check_columns(builder.schema())?;
        let reader = contained(|| builder.with_batch_size(BATCH_ROWS).build()).map_err(|e| damaged(&e))?;
        Ok(Self { reader, batch: None, row: 0, entry: 0, single_precision, done: false })
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, String> {
        match contained(|| self.reader.next().transpose())? {
            None => Ok(None),
            Some(batch) => Batch::of(&batch).map(Some),
        }
    }
}

/// Calls the library's reader, which panics where some kinds of damage meet it (fuzzing found two). What it was in the
/// middle of is not used after that.
fn contained<T, E: std::fmt::Display>(read: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            Err(format!("the reader gave up: {text}"))
        }
    }
}

impl Iterator for Models {
    type Item = Result<Found, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            if let Some(batch) = self.batch.as_ref().filter(|b| self.row < b.rows) {
                self.entry += 1;
                self.row += 1;
                return Some(batch.found(self.row - 1, self.entry, self.single_precision));
            }
            (self.batch, self.row) = (None, 0);
            match self.next_batch() {
                Ok(Some(batch)) => self.batch = Some(batch),
                Ok(None) => self.done = true,
                Err(e) => {
                    self.done = true;
                    let why = Why::Damaged(format!("and all rows behind it cannot be read: {e}"));
                    return Some(Err(Refused::at(self.entry + 1, why)));
                }
            }
        }
        None
    }
}

/// Refuses files that say of themselves that they hold far more than their size; encodings repeat a value for nothing.
fn within_reason(metadata: &ParquetMetaData, size: usize, limits: &Limits) -> Result<(), FormatError> {
    let limit = most(size, limits);
    let mut total: u64 = 0;
    for group in metadata.row_groups() {
        for column in group.columns() {
            let values = u64::try_from(column.num_values()).unwrap_or(u64::MAX).saturating_mul(8);
            let plain = u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX);
            total = total.saturating_add(values.max(plain));
        }
    }
    if total > limit as u64 {
        return Err(FormatError::Parquet(format!(
            "says that its values take {total} bytes, which is more than a file of {size} bytes may ({limit})"
        )));
    }
    Ok(())
}

/// The most bytes that the values of a file of this size may take as doubles.
pub(crate) fn most(size: usize, limits: &Limits) -> usize {
    size.saturating_mul(limits.max_table_inflation).max(ALWAYS)
}

/// Whether all columns are known and of a type that is read, and whether the support vectors are float32.
fn check_columns(schema: &SchemaRef) -> Result<bool, FormatError> {
    let mut single = false;
    for field in schema.fields() {
        let Some((name, kind)) = COLUMNS.iter().find(|(name, _)| name == field.name()) else {
            // What pandas makes of an index.
            if field.name().starts_with("__") {
                continue;
            }
            let known: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
            return Err(FormatError::Parquet(format!(
                "has a column `{}`: {} are known",
                short(field.name()),
                known.join(", ")
            )));
        };
        let (depth, of) = innermost(field.data_type());
        let fits = match kind {
            Kind::Text => depth == 0 && (is_text(of) || of.is_integer()),
            Kind::Texts => depth == 1 && is_text(of),
            Kind::Number => depth == 0 && (of.is_integer() || of.is_floating()),
            Kind::Count => depth == 0 && of.is_integer(),
            Kind::Numbers => depth == 1 && (of.is_integer() || of.is_floating()),
            Kind::Matrix => (depth == 1 || depth == 2) && (of.is_integer() || of.is_floating()),
        };
        // pyarrow's type of a column of nothing but None.
        if !fits && *of != DataType::Null {
            let what = format!("has a column `{name}` of type {}: {}", field.data_type(), kind.wanted());
            return Err(FormatError::Parquet(what));
        }
        single |= matches!(*name, "support_vectors" | "dual_coef") && *of == DataType::Float32;
    }
    for wanted in ["kernel", "support_vectors", "dual_coef"] {
        if schema.field_with_name(wanted).is_err() {
            return Err(FormatError::Parquet(format!("has no column `{wanted}`")));
        }
    }
    Ok(single)
}

impl Kind {
    fn wanted(self) -> &'static str {
        match self {
            Self::Text => "text is wanted",
            Self::Texts => "a list of texts is wanted",
            Self::Number => "a number is wanted",
            Self::Count => "a whole number is wanted",
            Self::Numbers => "a list of numbers is wanted",
            Self::Matrix => "a list of numbers, or of lists of them, is wanted",
        }
    }

    /// The type that a column of this kind is read as; a matrix of one list stays one list.
    fn target(self, depth: usize) -> DataType {
        let list = |of| DataType::List(Arc::new(Field::new("item", of, true)));
        match self {
            Self::Text => DataType::Utf8,
            Self::Texts => list(DataType::Utf8),
            Self::Number => DataType::Float64,
            Self::Count => DataType::UInt64,
            Self::Matrix if depth == 2 => list(list(DataType::Float64)),
            Self::Numbers | Self::Matrix => list(DataType::Float64),
        }
    }
}

fn is_text(of: &DataType) -> bool {
    match of {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// How many lists a type is, and of what.
fn innermost(mut of: &DataType) -> (usize, &DataType) {
    let mut depth = 0;
    while let DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) = of {
        of = f.data_type();
        depth += 1;
    }
    (depth, of)
}

fn short(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A batch, each column cast to what it is read as: [`COLUMNS`] in order.
struct Batch {
    rows: usize,
    columns: [Option<ArrayRef>; COLUMNS.len()],
}

impl Batch {
    fn of(batch: &RecordBatch) -> Result<Self, String> {
        let mut columns = [const { None }; COLUMNS.len()];
        for (to, (name, kind)) in columns.iter_mut().zip(COLUMNS) {
            let Some(column) = batch.column_by_name(name) else { continue };
            let (depth, of) = innermost(column.data_type());
            if *of == DataType::Null {
                continue;
            }
            *to = Some(cast(column, &kind.target(depth)).map_err(|e| format!("{name}: {e}"))?);
        }
        Ok(Self { rows: batch.num_rows(), columns })
    }

    /// A column where it has a value in this row.
    fn cell(&self, name: &'static str, row: usize) -> Option<&ArrayRef> {
        let at = COLUMNS.iter().position(|(n, _)| *n == name)?;
        self.columns[at].as_ref().filter(|c| c.is_valid(row))
    }

    fn text(&self, name: &'static str, row: usize) -> Option<String> {
        self.cell(name, row).map(|c| c.as_string::<i32>().value(row).to_owned())
    }

    fn number(&self, name: &'static str, row: usize) -> Option<f64> {
        self.cell(name, row).map(|c| c.as_primitive::<Float64Type>().value(row))
    }

    fn texts(&self, name: &'static str, row: usize) -> Option<Vec<String>> {
        let column = self.cell(name, row)?;
        let texts = column.as_list::<i32>().value(row);
        let texts: &StringArray = texts.as_string();
        Some(texts.iter().map(|t| t.unwrap_or_default().to_owned()).collect())
    }

    fn numbers(&self, name: &'static str, row: usize) -> Result<Option<Vec<f64>>, Why> {
        let Some(column) = self.cell(name, row) else { return Ok(None) };
        let list = column.as_list::<i32>();
        doubles(name, list.values(), range(list, row)).map(|values| Some(values.to_vec()))
    }

    fn matrix(&self, name: &'static str, row: usize) -> Result<Option<Matrix>, Why> {
        let Some(column) = self.cell(name, row) else { return Ok(None) };
        let list = column.as_list::<i32>();
        let outer = range(list, row);
        let Some(inner) = list.values().as_list_opt::<i32>() else {
            let data = doubles(name, list.values(), outer)?.to_vec();
            return Ok(Some(Matrix { data, rows: 0, width: None }));
        };
        let mut width = None;
        for i in outer.clone() {
            if inner.is_null(i) {
                return Err(Why::field(name, "has a row that is NULL"));
            }
            let len = range(inner, i).len();
            if *width.get_or_insert(len) != len {
                return Err(Why::field(name, "has rows of different lengths"));
            }
        }
        // Rows that are not NULL lie behind one another.
        let offsets = inner.value_offsets();
        let all = offsets[outer.start].as_usize()..offsets[outer.end].as_usize();
        let data = doubles(name, inner.values(), all)?.to_vec();
        Ok(Some(Matrix { data, rows: outer.len(), width: Some(width.unwrap_or(0)) }))
    }

    fn lists(&self, row: usize) -> Result<Numbers, Why> {
        Ok(Numbers {
            mean: self.numbers("mean", row)?,
            scale: self.numbers("scale", row)?,
            support_vectors: self.matrix("support_vectors", row)?,
            dual_coef: self.numbers("dual_coef", row)?,
            check_x: self.matrix("check_x", row)?,
            check_decision: self.numbers("check_decision", row)?,
            ..Numbers::default()
        })
    }

    fn found(&self, row: usize, entry: u64, single_precision: bool) -> Result<Found, Refused> {
        let (device, sensor, name) =
            (self.text("device", row), self.text("sensor", row), self.text("name", row));
        let lists = match self.lists(row) {
            Ok(lists) => lists,
            Err(why) => return Err(Refused { entry: Some(entry), device, sensor, name, why }),
        };
        let count = |c: &ArrayRef| c.as_primitive::<UInt64Type>().value(row);
        let numbers = Numbers {
            device,
            sensor,
            name,
            features: self.texts("features", row),
            kernel: self.text("kernel", row),
            gamma: self.number("gamma", row),
            coef0: self.number("coef0", row),
            degree: self.number("degree", row),
            rho: self.number("rho", row),
            intercept: self.number("intercept", row),
            rows: self.cell("rows", row).map(count),
            single_precision,
            ..lists
        };
        numbers.found(entry)
    }
}

/// Where a row's values lie in the list's values.
fn range(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = list.value_offsets();
    offsets[row].as_usize()..offsets[row + 1].as_usize()
}

fn doubles<'a>(
    name: &'static str,
    values: &'a ArrayRef,
    range: std::ops::Range<usize>,
) -> Result<&'a [f64], Why> {
    let values = values.as_primitive::<Float64Type>();
    if values.null_count() > 0 && range.clone().any(|i| values.is_null(i)) {
        return Err(Why::field(name, "has a NULL"));
    }
    Ok(&values.values()[range])
}
