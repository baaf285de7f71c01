//! Errors of model sets, with their class.

use crate::blobs::{BindError, BlobError};
use fleetscore_pack::PackError;
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_store::StoreError;

/// What work on model sets returns.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Why a model set could not be made, read or verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Blob storage failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A wrong setting or argument.
    #[error("{0}")]
    Usage(String),
    /// Files that cannot be imported: nothing was changed.
    #[error("{}", refused_text(.refused))]
    Refused {
        /// Each file with the reason, which completes the sentence that the path begins.
        refused: Vec<(String, String)>,
        /// What else was passed over, likewise.
        skipped: Vec<(String, String)>,
    },
    /// The work came to nothing: no model could be trained, or somebody else does it.
    #[error("{0}")]
    Failed(String),
    /// A stored set is not what was written.
    #[error(
        "model set {version} in `{path}` is damaged: {what}; activate another one, or import or train again"
    )]
    Damaged {
        /// Its version.
        version: i64,
        /// Its folder.
        path: String,
        /// What does not fit.
        what: String,
    },
    /// A bug of ours.
    #[error("internal error in model sets: {0}")]
    Internal(String),
}

impl From<BindError> for ModelError {
    fn from(e: BindError) -> Self {
        match e {
            BindError::Blob(e) => Self::Blob(e),
            BindError::Store(e) => Self::Store(e),
        }
    }
}

impl From<PackError> for ModelError {
    fn from(e: PackError) -> Self {
        match e {
            PackError::Internal(e) => Self::Internal(e.to_string()),
            e => Self::Usage(e.to_string()),
        }
    }
}

impl Classify for ModelError {
    fn domain(&self) -> Domain {
        match self {
            Self::Store(e) => e.domain(),
            Self::Blob(e) => e.domain(),
            Self::Usage(_) => Domain::User,
            // The command was right; the work on these files or rows came to nothing.
            Self::Refused { .. } | Self::Damaged { .. } | Self::Failed(_) => Domain::External,
            Self::Internal(_) => Domain::Internal,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Store(e) => e.is_transient(),
            Self::Blob(e) => e.is_transient(),
            _ => false,
        }
    }
}

/// All of them where they are few; a command prints the rest from the list.
fn refused_text(refused: &[(String, String)]) -> String {
    const SHOWN: usize = 10;
    let mut text = format!("{} of the files cannot be imported, and nothing was changed:", refused.len());
    for (path, reason) in refused.iter().take(SHOWN) {
        text.push_str(&format!("\n  {path} {reason}"));
    }
    if refused.len() > SHOWN {
        text.push_str(&format!("\n  … and {} more", refused.len() - SHOWN));
    }
    text
}
