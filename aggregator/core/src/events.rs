//! What the core is told, and what it answers.

use crate::error::AggregatorError;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::stream::{Command, GapKind, PartitionOffsets};
use fleetscore_schemas::time::Timestamp;
use fleetscore_state::Tide;
use fleetscore_store::{Advance, Claim, Heartbeat, Loss, Outcome};

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Assigned {
        assignment: u64,
        cluster: String,
        partitions: Vec<TopicPartition>,
        offsets: Vec<PartitionOffsets>,
    },
    Revoked {
        assignment: u64,
        lost: bool,
    },
    Applied(Applied),
    EndOfPartition {
        start: u64,
        source: TopicPartition,
        offset: i64,
    },
    EndOffset {
        source: TopicPartition,
        offset: i64,
        /// When the broker was asked.
        asked_us: i64,
    },
    OffsetGap {
        start: u64,
        source: TopicPartition,
        wanted: i64,
        kind: GapKind,
    },
    Claimed {
        ticket: u64,
        claims: Vec<Claim>,
    },
    Committed {
        ticket: u64,
        outcome: Outcome,
    },
    /// `None`: the store could not be asked.
    Beaten {
        ticket: u64,
        outcome: Option<Outcome>,
    },
    Tick,
    Shutdown,
}

/// A batch whose readings are in the service's memory now.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) source: TopicPartition,
    pub(crate) to: i64,
    pub(crate) last_broker_time: Option<Timestamp>,
    pub(crate) tide: Tide,
    pub(crate) raised: bool,
    pub(crate) lowest_pane: Option<i64>,
    /// Bytes in memory, everything since the last cut.
    pub(crate) bytes: usize,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Make rows for new partitions, and take over the granted ones.
    Claim(ClaimRequest),
    /// Tell the source.
    Tell(Command),
    /// Take everything in memory and commit it with this.
    Cut(CutRequest),
    /// Say that we live.
    Beat { ticket: u64, source: String, beats: Vec<Heartbeat> },
    /// Drop all memory (readings, dead letters, batches not yet looked at, ids of series) and all work under way.
    Forget,
    /// Drop batches not yet looked at: they are void.
    DropQueue,
    /// Stop for this reason.
    Fail(AggregatorError),
    /// All is stored and the source was told to end.
    Finish,
}

/// See [`Action::Claim`].
#[derive(Debug, Clone)]
pub(crate) struct ClaimRequest {
    pub(crate) ticket: u64,
    pub(crate) cluster: String,
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) offsets: Vec<PartitionOffsets>,
}

/// See [`Action::Cut`].
#[derive(Debug)]
pub(crate) struct CutRequest {
    pub(crate) ticket: u64,
    pub(crate) source: String,
    pub(crate) advances: Vec<Advance>,
    pub(crate) losses: Vec<Loss>,
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is the next one: judge its readings.
    Apply,
    /// It belongs to an earlier start or a partition that is not ours.
    Void,
    /// Its partition must be read from its position again: [`crate::core::Core::restart`].
    Restart,
}
