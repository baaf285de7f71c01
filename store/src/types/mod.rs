//! What goes into a store and comes out of it.

mod runs;
mod schedules;

pub use runs::*;
pub use schedules::*;

use arrow::array::RecordBatch;
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::{Edges, Interval, PaneGrid, Timestamp, US_PER_S};
use fleetscore_schemas::{SeriesId, SeriesName};

/// Which implementation a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// PostgreSQL.
    Postgres,
    /// SQLite, in a file.
    Sqlite,
    /// In memory, for simulation.
    Memory,
}

/// Whether a fenced write happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It is stored.
    Done,
    /// Somebody else owns it now: nothing was written.
    Fenced,
}

/// How panes are made; recorded by the first claim, the same ever after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaneSettings {
    /// Length of a pane in microseconds.
    pub interval_us: i64,
    /// Which edge belongs to a pane.
    pub edges: Edges,
    /// SQL of the row filter; empty for none.
    pub filter: String,
    /// SQL of the value expression; empty for the value itself.
    pub value: String,
    /// Unit of numeric times: `s`, `ms`, `us` or `ns`.
    pub ts_unit: String,
}

impl PaneSettings {
    /// The panes' grid.
    pub const fn grid(&self) -> PaneGrid {
        PaneGrid { len_us: self.interval_us, edges: self.edges }
    }
}

/// What readiness is judged by; stored so that the views' column `ready` says the same as the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadinessSettings {
    /// How far readings of one partition may be out of order, in microseconds.
    pub max_disorder_us: i64,
    /// An owner not seen for longer is silent.
    pub owner_ttl_us: i64,
    /// A silent owner holds intervals back for so long, then not until its partition is claimed again.
    pub max_wait_us: i64,
}

impl Default for ReadinessSettings {
    fn default() -> Self {
        Self { max_disorder_us: 10 * US_PER_S, owner_ttl_us: 30 * US_PER_S, max_wait_us: 600 * US_PER_S }
    }
}

/// All progress rows, with the store's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The store's clock.
    pub now: Timestamp,
    /// One row per (source, topic, partition), in that order.
    pub rows: Vec<ProgressRow>,
}

impl Progress {
    /// The floor of retention: the highest of all rows; `None` where nothing was removed yet.
    pub fn floor(&self) -> Option<Timestamp> {
        self.rows.iter().filter_map(|r| r.floor).max()
    }
}

/// Where one partition stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressRow {
    /// Id of the cluster.
    pub source: String,
    /// The partition.
    pub partition: TopicPartition,
    /// The offset to read next.
    pub next_offset: i64,
    /// The broker's end offset as last seen.
    pub end_offset: Option<i64>,
    /// No reading at or before this time is expected; `None` before the first reading.
    pub watermark: Option<Timestamp>,
    /// The owner's clock when it last asserted that the partition is quiet; `None` while it is not.
    pub quiet_at: Option<Timestamp>,
    /// Readings below are refused.
    pub floor: Option<Timestamp>,
    /// Raised by every claim.
    pub epoch: i64,
    /// The process that claimed it last.
    pub owner: Option<String>,
    /// When that process last said that it lives, by the store's clock.
    pub owner_seen_at: Option<Timestamp>,
    /// When the row was made, by the store's clock.
    pub created_at: Timestamp,
}

/// What a claim returns for one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset to read next.
    pub next_offset: i64,
    /// The fence of everything done under this claim.
    pub epoch: i64,
    /// The watermark reached so far.
    pub watermark: Option<Timestamp>,
    /// The floor of retention to judge by.
    pub floor: Option<Timestamp>,
    /// The broker's time of the record before `next_offset`, to notice a re-created topic.
    pub last_broker_time: Option<Timestamp>,
}

/// A sign of life for one claimed partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// The partition.
    pub partition: TopicPartition,
    /// The claim's epoch.
    pub epoch: i64,
    /// The owner's clock if it asserts quietness; `None` clears it.
    pub quiet_at: Option<Timestamp>,
    /// The broker's end offset as last seen; `None` leaves the stored one.
    pub end_offset: Option<i64>,
}

/// The move of one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    /// The partition.
    pub partition: TopicPartition,
    /// The claim's epoch.
    pub epoch: i64,
    /// The position before: must be the stored one.
    pub from: i64,
    /// The position after.
    pub to: i64,
    /// The watermark after; never lower than the stored one is kept.
    pub watermark: Option<Timestamp>,
    /// The broker's time of the record before `to`; `None` leaves the stored one if `to == from`, else clears it.
    pub last_broker_time: Option<Timestamp>,
    /// The broker's end offset as last seen; `None` leaves the stored one.
    pub end_offset: Option<i64>,
    /// The owner's clock if it asserts quietness; `None` clears it.
    pub quiet_at: Option<Timestamp>,
    /// The floor the readings were judged by; a higher stored one fences.
    pub floor: Option<Timestamp>,
}

/// One transaction of the aggregator.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Id of the cluster.
    pub source: String,
    /// The process that commits.
    pub owner: String,
    /// Moves of positions; may be empty for a replay of dead letters.
    pub advances: Vec<Advance>,
    /// Deltas, columns of [`fleetscore_schemas::delta::schema`], sorted by (pane_start, series), one row per key.
    pub deltas: RecordBatch,
    /// Bad records.
    pub dead_letters: Vec<DeadLetter>,
    /// Records that were passed over because the broker no longer has them.
    pub losses: Vec<Loss>,
    /// Dead letters whose readings are in `deltas`: marked as replayed.
    pub replayed: Vec<i64>,
    /// What an operator should know: rows of the view `events`.
    pub notices: Vec<Notice>,
}

/// What an operator should know of the stream. Its text says when it was: the same text is the same notice, told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What kind of event it is: `dead_letter_flood` or `dead_letter_flood_over`.
    pub kind: &'static str,
    /// What exactly.
    pub detail: String,
}

/// A record that was not counted.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The partition it came from.
    pub partition: TopicPartition,
    /// Its offset (for an overflow row: the first).
    pub offset: i64,
    /// Element inside the message; −1 is the whole message.
    pub position: i32,
    /// Why.
    pub code: DeadLetterCode,
    /// What exactly.
    pub detail: String,
    /// The smallest enclosing record; `None` for an overflow row, and where it is too large to be kept.
    pub payload: Option<Vec<u8>>,
    /// The broker's time.
    pub broker_time: Option<Timestamp>,
    /// 1; more where one row stands for a flood.
    pub count: i64,
    /// The last offset an overflow row stands for.
    pub last_offset: Option<i64>,
    /// The sensors of the record that did not count; empty = none of the record did.
    pub sensors: Vec<String>,
}

/// A stored dead letter.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetterRow {
    /// Its id.
    pub id: i64,
    /// Topic and partition.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// Element inside the message.
    pub position: i32,
    /// The stable code.
    pub code: String,
    /// What exactly.
    pub detail: String,
    /// The bytes.
    pub payload: Option<Vec<u8>>,
    /// The broker's time.
    pub broker_time: Option<Timestamp>,
    /// How many records this row stands for.
    pub count: i64,
    /// The last offset of an overflow row.
    pub last_offset: Option<i64>,
    /// The sensors of the record that did not count; empty = none of the record did.
    pub sensors: Vec<String>,
    /// When it was stored.
    pub recorded_at: Timestamp,
    /// When it was replayed.
    pub replayed_at: Option<Timestamp>,
}

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    /// These ids alone.
    pub ids: Option<Vec<i64>>,
    /// This code alone.
    pub code: Option<String>,
    /// Only those not yet replayed.
    pub unreplayed: bool,
    /// Only ids above this.
    pub after_id: Option<i64>,
    /// At most so many; 0 = all.
    pub limit: usize,
}

/// Records that were lost before they could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// The partition.
    pub partition: TopicPartition,
    /// First missing offset.
    pub from: i64,
    /// One past the last missing offset.
    pub to: i64,
    /// How it was noticed.
    pub detail: String,
}

/// A model set in the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSetRow {
    /// Its version.
    pub version: i64,
    /// Its folder under the blob root: `models/<version>-<random>`.
    pub path: String,
    /// Whether it is the active one (ignored by [`crate::Store::add_model_set`]).
    pub active: bool,
    /// Number of usable models.
    pub models: i64,
    /// Number of refused models kept as entries that yield `model_error`.
    pub refused: i64,
    /// Where it came from: `import`, `train`.
    pub origin: String,
    /// SHA-256 of its manifest, which has those of its parts; hex.
    pub checksum: String,
    /// Window columns its models take, in their order.
    pub features: Vec<String>,
    /// The range of windows it was trained on, where that is known.
    pub trained_on: Option<Interval>,
    /// Number of windows it was trained on, where that is known.
    pub training_rows: Option<i64>,
    /// What its maker wants to be remembered.
    pub note: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When, by the store's clock (set by the store).
    pub created_at: Timestamp,
}

/// A step back to the set that was active before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollback {
    /// The set that is active.
    pub from: i64,
    /// The set that was active before it.
    pub to: i64,
}

/// A model that was refused at import or could not be trained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelFailure {
    /// The series it is for, where that is known.
    pub series: Option<SeriesName>,
    /// Where it came from: a file, a row, `train`.
    pub source: String,
    /// Why.
    pub reason: String,
}

/// A series that is scored by one set whichever is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPin {
    /// The series.
    pub series: SeriesId,
    /// The set.
    pub version: i64,
    /// Who pinned it.
    pub pinned_by: String,
    /// When, by the store's clock.
    pub pinned_at: Timestamp,
}

/// One value of a query's result.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// NULL.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number, printed with as many digits as it needs.
    Float(f64),
    /// Everything else, in the database's own text form.
    Text(String),
}

/// Rows of a user's statement.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryResult {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<Cell>>,
}
