//! Why a file, or one entry of it, is refused. The texts complete a sentence that begins with the path.

use crate::{OnnxError, PickleError};

/// Why a file as a whole cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A pickle or joblib file that is refused.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// An ONNX file that is refused.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A Parquet file that is damaged or of other columns.
    #[error("{0}")]
    Parquet(String),
    /// It is larger than such a file may be.
    #[error("is larger than {limit} bytes")]
    TooLarge {
        /// The most that is read.
        limit: usize,
    },
    /// A compressed file that is damaged.
    #[error("is a damaged compressed file: {0}")]
    Inflate(String),
    /// A compressed file that unpacks to more than a model can be.
    #[error("unpacks to more than {limit} bytes, which a model of {packed} packed bytes cannot be")]
    Bomb {
        /// The most that is unpacked.
        limit: usize,
        /// Its size.
        packed: usize,
    },
    /// A file of a kind that is known and not read.
    #[error(
        "is {kind}: write it with joblib.dump(model, path, compress=(\"zlib\", 3)), joblib.dump(model, path) or \
         pickle.dump(model, file)"
    )]
    Other {
        /// What it is.
        kind: &'static str,
    },
    /// Something that is read, but not compressed.
    #[error("is compressed {kind}: unpack it first")]
    Packed {
        /// What is in it.
        kind: &'static str,
    },
}

/// Why one entry of a file is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// Its place in a file of many, from 1.
    pub entry: Option<u64>,
    /// Its device, where the file names one.
    pub device: Option<String>,
    /// Its sensor, where the file names one.
    pub sensor: Option<String>,
    /// Its name, where the file gives one.
    pub name: Option<String>,
    /// What is wrong.
    pub why: Why,
}

impl Refused {
    pub(crate) fn at(entry: u64, why: Why) -> Self {
        Self { entry: Some(entry), device: None, sensor: None, name: None, why }
    }
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// A field is missing or wrong.
    #[error("`{field}` {what}")]
    Field {
        /// The field, as the file calls it.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The fields are fine, but not together.
    #[error("cannot be scored: {0}")]
    Model(String),
    /// It cannot be read from here on.
    #[error("{0}")]
    Damaged(String),
    /// A recorded decision does not come out.
    #[error(
        "does not decide as its exporter recorded: check row {row} gives {ours}, and {recorded} is recorded, which is \
         further off than {tolerance:e}{}", if *.single { " (its numbers are float32)" } else { "" }
    )]
    Check {
        /// The check row, from 0.
        row: usize,
        /// The decision of the model as read.
        ours: f64,
        /// What the file says.
        recorded: f64,
        /// How far off it may be.
        tolerance: f64,
        /// Whether its numbers came as float32.
        single: bool,
    },
}

impl Why {
    pub(crate) fn field(field: &'static str, what: impl Into<String>) -> Self {
        Self::Field { field, what: what.into() }
    }
}
