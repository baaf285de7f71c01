//! What can go wrong in scheduling and scoring.

use crate::blobs::{BindError, BlobError};
use crate::output::publish::PublishError;
use crate::plan::ScoreError;
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_store::StoreError;
use std::time::Duration;

/// What the scorer returns.
pub type Result<T, E = ScorerError> = std::result::Result<T, E>;

/// Why the scorer could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScorerError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Blob storage failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A publication failed.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A flag or setting is wrong.
    #[error("`{what}`: {message}")]
    Usage {
        /// The flag or setting.
        what: String,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// A model set could not be loaded.
    #[error("model set {version} cannot be loaded: {message}")]
    ModelSet {
        /// Its version.
        version: i64,
        /// What happened.
        message: String,
        /// Whether trying again can help.
        transient: bool,
    },
    /// A run's model set is for other features than its schedule's.
    #[error("{message}")]
    Misfit {
        /// The set's version.
        version: i64,
        /// Both lists, and what to do.
        message: String,
    },
    /// An attempt at a shard took longer than the schedule's `timeout`.
    #[error("timeout: not done after {}", humantime::format_duration(*after))]
    Timeout {
        /// The setting.
        after: Duration,
    },
    /// A bug of ours.
    #[error("internal error in the scorer: {0}")]
    Internal(String),
}

impl ScorerError {
    pub(crate) fn usage(what: &str, message: impl Into<String>) -> Self {
        Self::Usage { what: what.to_owned(), message: message.into() }
    }
}

impl From<ScoreError> for ScorerError {
    fn from(e: ScoreError) -> Self {
        match e {
            ScoreError::Store(e) => Self::Store(e),
            ScoreError::Plan(text) => Self::Internal(text),
        }
    }
}

impl From<BindError> for ScorerError {
    fn from(e: BindError) -> Self {
        match e {
            BindError::Blob(e) => Self::Blob(e),
            BindError::Store(e) => Self::Store(e),
        }
    }
}

impl Classify for ScorerError {
    fn domain(&self) -> Domain {
        match self {
            Self::Store(e) => e.domain(),
            Self::Blob(e) => e.domain(),
            Self::Publish(e) => e.domain(),
            Self::Usage { .. } | Self::Misfit { .. } => Domain::User,
            Self::ModelSet { .. } | Self::Timeout { .. } => Domain::External,
            Self::Internal(_) => Domain::Internal,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Store(e) => e.is_transient(),
            Self::Blob(e) => e.is_transient(),
            Self::Publish(e) => e.is_transient(),
            Self::ModelSet { transient, .. } => *transient,
            // Another attempt is the schedule's `max_retries`' matter.
            Self::Usage { .. } | Self::Misfit { .. } | Self::Timeout { .. } | Self::Internal(_) => false,
        }
    }
}
