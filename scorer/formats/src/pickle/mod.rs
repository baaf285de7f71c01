//! Reading scikit-learn models out of pickles without executing anything.
//!
//! A pickle is a program for a small stack machine, and Python's own reader lets it call any function. This one
//! ([`opcodes`]) only builds a tree of values: a global is a name from a short allow list ([`Global`]), and "calling" it
//! notes name and arguments. What the tree says is then read by [`numpy`] and [`sklearn`], which know the few shapes
//! that fitted models have. Everything else is refused with its name and byte offset.

pub mod numpy;
pub mod opcodes;
pub mod sklearn;

use fleetscore_kernel::Model;
pub use opcodes::{Global, Tree};

/// Largest pickle that is read, in bytes: a model of a hundred thousand support vectors is far smaller.
pub const MAX_BYTES: usize = 64 << 20;

/// Why a pickle is refused. The texts complete the sentence "model_1_1 …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It names something that is not a part of the models that can be imported. Nothing was executed.
    #[error(
        "names the global `{name}` at offset {at}, which is not on the list of what is read: nothing was executed"
    )]
    Global {
        /// Module and name.
        name: String,
        /// Offset of the opcode.
        at: usize,
    },
    /// The file ends in the middle.
    #[error("is cut short: {wanted} more bytes are wanted at offset {at}, and {left} are left")]
    Truncated {
        /// Where the reading stood.
        at: usize,
        /// How many bytes are needed there.
        wanted: usize,
        /// How many there are.
        left: usize,
    },
    /// It is not a pickle, or one that no Python writes.
    #[error("is not a well-formed pickle: {what} at offset {at}")]
    Malformed {
        /// What is wrong.
        what: String,
        /// Offset of the opcode.
        at: usize,
    },
    /// It is larger than any model.
    #[error("is larger than a model can be: more than {limit} {what} at offset {at}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many are read.
        limit: usize,
        /// Offset of the opcode.
        at: usize,
    },
    /// A file of another kind.
    #[error("{0}")]
    Format(String),
    /// It is a pickle, but not of a model that can be scored.
    #[error("`{attribute}` {what}")]
    Attribute {
        /// Class and attribute.
        attribute: String,
        /// What is wrong with it.
        what: String,
    },
}

impl PickleError {
    pub(crate) fn attribute(attribute: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Attribute { attribute: attribute.into(), what: what.into() }
    }
}

/// A model as a pickle has it, see [`read_model`], and what its training data called its features, if they had names.
///
/// # Errors
/// As for [`read_model`].
pub fn read(bytes: &[u8]) -> Result<(Model, Option<Vec<String>>), PickleError> {
    if let Some(kind) = other_format(bytes) {
        return Err(PickleError::Format(format!(
            "is {kind}, not a plain pickle: write it with pickle.dump(model, file) or joblib.dump(model, path)"
        )));
    }
    let tree = Tree::read(bytes)?;
    Ok((sklearn::model(&tree)?, sklearn::feature_names(&tree)))
}

/// Reads a fitted `OneClassSVM`, alone or behind a `StandardScaler` in a `Pipeline`, from a pickle of protocol 0 to 5
/// or an uncompressed joblib file.
///
/// # Errors
/// [`PickleError`] says why it is refused; hostile input can execute nothing, and takes less than 300 bytes of memory
/// for each of at most [`opcodes::MAX_OPCODES`] opcodes, and for the array being read twice what it takes as doubles
/// (sixteen times its size in the file, if it is one of bytes).
pub fn read_model(bytes: &[u8]) -> Result<Model, PickleError> {
    read(bytes).map(|(model, _)| model)
}

/// Files that people give for pickles, by their first bytes.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "compressed (gzip)"),
        (b"x\x01", "compressed (zlib)"),
        (b"x\x5e", "compressed (zlib)"),
        (b"x\x9c", "compressed (zlib)"),
        (b"x\xda", "compressed (zlib)"),
        (b"BZh", "compressed (bzip2)"),
        (b"\xfd7zXZ", "compressed (xz)"),
        (b"]\x00\x00", "compressed (lzma)"),
        (b"\x04\x22\x4d\x18", "compressed (lz4)"),
        (b"\x28\xb5\x2f\xfd", "compressed (zstandard)"),
        (b"PK\x03\x04", "a zip archive"),
        (b"PAR1", "a Parquet file"),
        (b"\x93NUMPY", "a NumPy array file"),
    ];
    MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests;
