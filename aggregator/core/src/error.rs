//! Why the aggregator stops.

use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_store::StoreError;

/// Why the aggregator stops, or could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AggregatorError {
    /// A setting is wrong.
    #[error("setting `{setting}`: {message}")]
    Setting {
        /// The setting to change.
        setting: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The store's positions of this topic belong to another cluster.
    #[error(
        "topic `{topic}` has positions of cluster `{stored}` in the store, and this is cluster `{found}`: its offsets \
         mean something else. Point `kafka` at the former cluster, use another `store`, or read the topic anew with \
         `on_offset_gap = \"continue\"`"
    )]
    OtherCluster {
        /// The topic.
        topic: String,
        /// The cluster whose positions are stored.
        stored: String,
        /// The cluster that answers.
        found: String,
    },
    /// The log of a partition is not what its stored position promises.
    #[error(
        "{partition}: offset {wanted} is where reading should go on, but {detail}. To go on with what there is \
         (readings may be missing, and a row in `loss_events` will say so), set `on_offset_gap = \"continue\"`"
    )]
    OffsetGap {
        /// The partition.
        partition: TopicPartition,
        /// The stored position.
        wanted: i64,
        /// What there is instead.
        detail: String,
    },
    /// The source of readings cannot go on; the message names the setting.
    #[error("{message}")]
    Source {
        /// What a person can do about it.
        message: String,
    },
    /// The store refused for good.
    #[error("{context}: {error}")]
    Store {
        /// What was being done; for a checkpoint, the partitions and offsets it covers.
        context: String,
        /// Why.
        #[source]
        error: StoreError,
    },
    /// A dead letter was replayed by somebody else meanwhile; nothing was written.
    #[error("some of these dead letters have been replayed meanwhile: list them again")]
    ReplayedMeanwhile,
    /// The last checkpoint did not happen in time; its readings will be read again.
    #[error(
        "shutdown passed `shutdown_timeout` before the last checkpoint was stored{waiting}; nothing is lost: its \
         readings are read again at the next start"
    )]
    ShutdownTimeout {
        /// What it waited for, in words (with a leading colon), or nothing.
        waiting: String,
    },
    /// A bug of ours.
    #[error("internal error in the aggregator: {message}")]
    Internal {
        /// What happened, with topic, partition and offsets where they are known.
        message: String,
    },
}

impl AggregatorError {
    /// A bug of ours, in words.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::Internal { message: message.to_string() }
    }

    pub(crate) fn store(context: impl Into<String>, error: StoreError) -> Self {
        Self::Store { context: context.into(), error }
    }
}

impl Classify for AggregatorError {
    fn domain(&self) -> Domain {
        match self {
            Self::Store { error, .. } => error.domain(),
            Self::ShutdownTimeout { .. } => Domain::External,
            Self::Internal { .. } => Domain::Internal,
            _ => Domain::User,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Store { error, .. } => error.is_transient(),
            Self::ReplayedMeanwhile | Self::ShutdownTimeout { .. } => true,
            _ => false,
        }
    }
}
