//! The files models come in: pickle, joblib, ONNX, JSON and Parquet. Read, never executed.
//!
//! | module | does |
//! | --- | --- |
//! | `detect` | which of the formats a file is of |
//! | [`pickle`] | scikit-learn pickles and joblib files, opcode by opcode |
//! | `inflate` | compressed joblib files, bounded |
//! | `onnx` | the graph of an exported `OneClassSVM` |
//! | `json`, `table` | plain numbers: JSON, Parquet |
//! | `numbers` | from plain numbers to a model |
//! | `found` | a model as found, with the decisions that its exporter recorded |
//!
//! Input is hostile until shown otherwise: nothing in it is executed, nothing panics, and memory stays below a stated
//! multiple of the input ([`Limits`]).

mod detect;
mod error;
mod found;
mod inflate;
mod json;
mod numbers;
mod onnx;
pub mod pickle;
mod table;

pub use detect::{Format, detect, recognise};
pub use error::{FormatError, Refused, Why};
pub use found::{Found, TOLERANCE, TOLERANCE_SINGLE};
pub use onnx::OnnxError;
pub use pickle::PickleError;

use bytes::Bytes;

/// How large files may be. Memory beside the input itself stays below 300 bytes for each of at most
/// [`pickle::opcodes::MAX_OPCODES`] opcodes of a pickle, below 8 bytes for each byte of an ONNX file, and for JSON and
/// Parquet below 64 bytes for each byte of one model or one batch of them, which are handed out one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest file of one model (pickle, joblib, ONNX) in bytes, unpacked, and largest model within a JSON file: one of a
    /// hundred thousand support vectors is far smaller.
    pub max_bytes: usize,
    /// Largest file of many models (JSON, Parquet) in bytes.
    pub max_table_bytes: usize,
    /// A compressed joblib file unpacks to at most so many times its size, or to 1 MiB.
    pub max_inflation: usize,
    /// The values of a Parquet file take at most so many times its size as doubles, or 64 MiB.
    pub max_table_inflation: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: pickle::MAX_BYTES,
            max_table_bytes: 4 << 30,
            max_inflation: 100,
            max_table_inflation: 256,
        }
    }
}

/// All models of a file. Each entry that cannot be read is an `Err` beside its neighbours, with device and sensor where
/// they are known. The recorded decisions are not yet compared: see [`Found::verify`].
///
/// # Errors
/// [`FormatError`] where the file as a whole cannot be read.
pub fn read(bytes: &[u8], file_name: &str) -> Result<Vec<Result<Found, Refused>>, FormatError> {
    let (_, models) = open(Bytes::copy_from_slice(bytes), file_name, &Limits::default())?;
    Ok(models.collect())
}

/// The most memory that [`open`] and its models take for these bytes, beside them, beside the models that were handed out,
/// and beside a batch of them.
pub fn memory(bytes: &[u8], file_name: &str, limits: &Limits) -> usize {
    let one = bytes.len().min(limits.max_bytes);
    match detect(bytes, file_name) {
        Err(_) => 0,
        Ok(Format::Onnx) => 8 * one + (1 << 20),
        Ok(Format::Json) => 64 * one,
        Ok(Format::Parquet) => table::most(bytes.len(), limits),
        Ok(Format::Pickle | Format::Joblib) => {
            let unpacked = if detect::is_deflated(bytes) { inflate::most(one, limits) } else { 0 };
            let pickle = unpacked.max(one);
            unpacked + 300 * pickle.min(pickle::opcodes::MAX_OPCODES) + 16 * pickle
        }
    }
}

/// The models of a file one by one, as [`read`] gives them; of a large file few are in memory at once.
///
/// # Errors
/// As for [`read`].
pub fn open(bytes: Bytes, file_name: &str, limits: &Limits) -> Result<(Format, Models), FormatError> {
    let format = detect(&bytes, file_name)?;
    let limit = if format.holds_many() { limits.max_table_bytes } else { limits.max_bytes };
    if bytes.len() > limit {
        return Err(FormatError::TooLarge { limit });
    }
    let models = match format {
        Format::Pickle | Format::Joblib => {
            let unpacked = inflate::unpacked(&bytes, limits)?;
            let (model, features) = pickle::read(unpacked.as_deref().unwrap_or(&bytes))?;
            Inner::One(Box::new(Some(Found { features, ..Found::bare(model) })))
        }
        Format::Onnx => {
            let (model, features) = onnx::read(&bytes)?;
            let found = Found { features, single_precision: true, ..Found::bare(model) };
            Inner::One(Box::new(Some(found)))
        }
        Format::Json => Inner::Json(json::Models::new(bytes, limits.max_bytes)),
        Format::Parquet => Inner::Table(Box::new(table::Models::new(bytes, limits)?)),
    };
    Ok((format, Models(models)))
}

/// The models of a Parquet file, one row each, read batch by batch.
///
/// # Errors
/// [`FormatError`] where it is no Parquet file, or one of other columns.
pub fn read_parquet(
    bytes: Bytes,
) -> Result<impl Iterator<Item = Result<Found, Refused>> + Send + 'static, FormatError> {
    table::Models::new(bytes, &Limits::default())
}

/// The models of one file, see [`open`].
pub struct Models(Inner);

enum Inner {
    One(Box<Option<Found>>),
    Json(json::Models),
    Table(Box<table::Models>),
}

impl Iterator for Models {
    type Item = Result<Found, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Inner::One(found) => found.take().map(Ok),
            Inner::Json(models) => models.next(),
            Inner::Table(models) => models.next(),
        }
    }
}

#[cfg(test)]
mod tests;
