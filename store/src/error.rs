//! Errors of a store, with their class.

use crate::SourceError;
use fleetscore_schemas::codes::{Classify, Domain};

/// What a store returns.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a store could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The server or the file cannot be reached or used just now: the same call may succeed later.
    #[error("store is unavailable: {message}")]
    Unavailable {
        /// What happened.
        message: String,
    },
    /// Two transactions met (serialisation failure, deadlock, busy file): the same call may succeed at once.
    #[error("store is contended: {message}")]
    Contended {
        /// What happened.
        message: String,
    },
    /// A setting is wrong: the URL, the credentials, the database's name, a certificate.
    #[error("setting `{setting}`: {message}")]
    Setting {
        /// The setting to change.
        setting: String,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// The store was made with other settings.
    #[error("{what} is `{stored}` in the store, and `{wanted}` is asked for: {hint}")]
    SettingsDiffer {
        /// The setting.
        what: String,
        /// What the store was made with.
        stored: String,
        /// What is asked for now.
        wanted: String,
        /// How to go on.
        hint: String,
    },
    /// An object with one of our names exists and is not ours.
    #[error("`{object}` exists already and was not made by fleetscore: choose another schema or database")]
    Foreign {
        /// The object.
        object: String,
    },
    /// The schema of the store is newer than this program.
    #[error("the store's schema is version {found}, this program knows {known}: use a newer fleetscore")]
    TooNew {
        /// Version in the store.
        found: i64,
        /// Newest version this program knows.
        known: i64,
    },
    /// There is no such row.
    #[error("there is no {what}")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// What was to be stored broke off before its end: nothing of it was written.
    #[error("what was to be stored broke off: {0}")]
    Source(#[source] SourceError),
    /// A user's statement failed.
    #[error("{message}")]
    Query {
        /// The database's words.
        message: String,
    },
    /// The database refused our data or statement: a bug of ours, reported and not retried for ever.
    #[error("internal error in the store: {message}")]
    Internal {
        /// What happened, with the SQLSTATE where there is one.
        message: String,
    },
}

impl StoreError {
    /// A bug of ours.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::Internal { message: message.to_string() }
    }

    pub(crate) fn no_schedule(name: &str) -> Self {
        Self::NotFound { what: format!("schedule `{name}`") }
    }
}

impl Classify for StoreError {
    fn domain(&self) -> Domain {
        match self {
            Self::Unavailable { .. } | Self::Contended { .. } => Domain::External,
            Self::Internal { .. } => Domain::Internal,
            // What is read from a store while another is written is judged as itself.
            Self::Source(e) => e.downcast_ref::<Self>().map_or(Domain::Internal, Self::domain),
            _ => Domain::User,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Contended { .. } => true,
            Self::Source(e) => e.downcast_ref::<Self>().is_some_and(Self::is_transient),
            _ => false,
        }
    }
}

impl From<arrow::error::ArrowError> for StoreError {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::internal(e)
    }
}
