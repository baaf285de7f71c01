//! What can be wrong with a pack.

/// Why a pack cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Entries do not come in ascending order of their series, each at most once.
    #[error("series {series} comes after series {after}: a pack has one entry for each series, ascending")]
    Order {
        /// The entry's series.
        series: u32,
        /// The one before it.
        after: u32,
    },
    /// A model that cannot be scored, or takes other features than the set.
    #[error("the model of series {series}: {why}")]
    Model {
        /// Its series.
        series: u32,
        /// What is wrong with it.
        why: fleetscore_kernel::Invalid,
    },
    /// Text that is too long, or a pattern with a placeholder twice.
    #[error("{what} `{text}…` cannot be stored: {why}")]
    Text {
        /// Which text: `device`, `sensor`, `model`, `pattern`.
        what: &'static str,
        /// How it begins.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// More than one shard holds: cut the set into more of them.
    #[error("a shard cannot hold {0}: cut the set into more shards")]
    TooLarge(String),
    /// The columns could not be written; a bug of ours.
    #[error("the columns do not fit together: {0}")]
    Internal(#[from] arrow::error::ArrowError),
    /// It was written by a newer program.
    #[error("it has the format {found}, this program knows {known}: use a newer fleetscore")]
    Newer {
        /// Its format.
        found: u32,
        /// [`crate::FORMAT`].
        known: u32,
    },
    /// It was written by an older program, in a format that is not read any more.
    #[error("it has the format {found}, and this program reads {known}: import or train again")]
    Older {
        /// Its format.
        found: u32,
        /// [`crate::SET_FORMAT`].
        known: u32,
    },
    /// The bytes are not those of a pack: cut short, changed, or of something else.
    #[error("it is not a good pack: {0}")]
    Damaged(String),
}

/// [`PackError::Damaged`] with this text.
pub(crate) fn damaged<T>(what: impl Into<String>) -> Result<T, PackError> {
    Err(PackError::Damaged(what.into()))
}
