//! The seam between a source of readings (Kafka) and the aggregator: events one way, commands the other.
//!
//! The source owns the group membership and the bytes; the aggregator owns the positions. The source never fetches
//! before it is told where to start, and every start covers its whole assignment.

use crate::reading::{ReadingBatch, TopicPartition};
use crate::time::Timestamp;

/// What a source knows of one partition of a subscribed topic when it is granted partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// The partition (granted to this member or not).
    pub source: TopicPartition,
    /// The oldest offset the broker still has.
    pub earliest: i64,
    /// One past the newest offset.
    pub latest: i64,
    /// Where the setting `start` points to: a concrete offset.
    pub initial: i64,
}

/// Where to begin reading one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPosition {
    /// The partition.
    pub source: TopicPartition,
    /// The first offset that counts.
    pub next_offset: i64,
    /// The broker's timestamp of the record before `next_offset`, if it is known: the source reads that record first
    /// and answers [`SourceEvent::OffsetGap`] where it finds another (the topic was made anew).
    pub expect_broker_time: Option<Timestamp>,
}

/// How the log of a partition differs from what the store's position promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GapKind {
    /// The position is older than the oldest record, or behind the newest: `earliest..latest` is what there is.
    OutOfRange {
        /// The oldest offset there is.
        earliest: i64,
        /// One past the newest.
        latest: i64,
    },
    /// The record before the position is not the one that was read: the topic was deleted and made again.
    Replaced {
        /// The broker's time of the record that stands there now.
        found: Option<Timestamp>,
        /// The oldest offset there is.
        earliest: i64,
        /// One past the newest.
        latest: i64,
    },
}

/// What a source tells the aggregator, in order.
#[derive(Debug)]
pub enum SourceEvent {
    /// The group granted these partitions: the complete assignment, possibly empty. Nothing is fetched until
    /// [`Command::Start`].
    Assigned {
        /// Identifies this assignment.
        assignment: u64,
        /// The cluster's id: positions of another cluster mean nothing here.
        cluster: String,
        /// The granted partitions.
        partitions: Vec<TopicPartition>,
        /// All partitions of the subscribed topics, with their offsets.
        offsets: Vec<PartitionOffsets>,
    },
    /// The whole assignment is about to be given up. The source waits for [`Command::Released`], at most a third of
    /// the session timeout.
    Revoked {
        /// The assignment that ends.
        assignment: u64,
        /// Whether the group has already given the partitions to others: a checkpoint would be fenced.
        lost: bool,
    },
    /// Messages, decoded.
    Batch(Box<ReadingBatch>),
    /// The reader stands at the end of a partition: the position may move to `offset` (past transaction markers).
    EndOfPartition {
        /// Under which start.
        start: u64,
        /// The partition.
        source: TopicPartition,
        /// The offset that will be read next.
        offset: i64,
    },
    /// The broker's end offset of a partition, as last seen (for lag, and for quietness).
    EndOffset {
        /// The partition.
        source: TopicPartition,
        /// One past the newest offset.
        offset: i64,
        /// When the broker was asked ([`crate::time::mono_us`], or the clock that stands for it): the event may have
        /// waited for long since, in a process that was stopped. In the future: now.
        asked_us: i64,
    },
    /// The log is not what the position promises. Nothing is fetched from this partition until the next start.
    OffsetGap {
        /// Under which start.
        start: u64,
        /// The partition.
        source: TopicPartition,
        /// The position that was asked for.
        wanted: i64,
        /// What there is instead.
        kind: GapKind,
    },
    /// The source cannot go on and no retry will help (refused credentials, no such setting). It ends after this.
    Failed {
        /// What a person can do about it; names the setting.
        message: String,
    },
}

/// What the aggregator tells a source. Sending never blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Read from these positions: always the whole assignment. Everything fetched under an earlier start is void.
    Start {
        /// The assignment this answers; ignored if it has ended meanwhile.
        assignment: u64,
        /// Number of this start; each is higher than the one before.
        start: u64,
        /// All partitions of the assignment.
        positions: Vec<StartPosition>,
    },
    /// The memory of a revoked assignment is stored or dropped: go on with the rebalance.
    Released {
        /// The assignment.
        assignment: u64,
    },
    /// Tell the group how far the store is (for lag tools alone).
    CommitGroup {
        /// Committed positions.
        positions: Vec<(TopicPartition, i64)>,
    },
    /// Leave the group and end.
    Stop,
}

/// A source of readings.
///
/// `next` is cancel-safe: it may be dropped at any await and called again without losing an event.
#[async_trait::async_trait]
pub trait ReadingSource: Send {
    /// The next event; `None` after [`Command::Stop`] or [`SourceEvent::Failed`].
    async fn next(&mut self) -> Option<SourceEvent>;
    /// Gives a command; never blocks.
    fn command(&self, command: Command);
}
