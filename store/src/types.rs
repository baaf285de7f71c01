//! What goes into a store and comes out of it.

use arrow::array::RecordBatch;
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::status::{RunCause, RunState};
use fleetscore_schemas::time::{Edges, Interval, PaneGrid, Timestamp};
use fleetscore_schemas::window::Feature;
use fleetscore_schemas::{SeriesId, SeriesName};
use futures::stream::BoxStream;
use uuid::Uuid;

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
    /// The smallest enclosing record; `None` for an overflow row.
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

/// What a schedule does with intervals that were ready before it looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Score all of them.
    All,
    /// Score the newest of a stretch.
    Latest,
    /// Score none.
    None,
}

impl CatchUp {
    /// The stored name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Latest => "latest",
            Self::None => "none",
        }
    }
}

/// A schedule as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSpec {
    /// Its name: `[a-z][a-z0-9_]*`, at most 40 characters.
    pub name: String,
    /// Length of its window in microseconds, a multiple of the pane.
    pub window_us: i64,
    /// Distance of window starts in microseconds, a multiple of the pane.
    pub hop_us: i64,
    /// Input columns of its models.
    pub features: Vec<Feature>,
    /// What to do with the past.
    pub catch_up: CatchUp,
    /// The oldest readiness that is still scored, in microseconds; `None` = no bound.
    pub max_age_us: Option<i64>,
    /// How long after a change a stale interval is scored again.
    pub rescore_delay_us: i64,
    /// An interval is published again at most once in this time.
    pub republish_gap_us: i64,
}

/// A stored schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRow {
    /// What was configured last.
    pub spec: ScheduleSpec,
    /// Raised by every plan that touches it.
    pub revision: i64,
    /// Start of the first interval it scores; `None` until that is decided.
    pub first_interval: Option<Timestamp>,
    /// Every interval that starts before this has a run or lies in a skipped range.
    pub covered_until: Option<Timestamp>,
    /// When it was made, by the store's clock.
    pub created_at: Timestamp,
}

/// One row of the log of changed panes.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedPane {
    /// Its id; ascending in the order of commits of one process.
    pub id: i64,
    /// Start of the pane.
    pub pane_start: Timestamp,
    /// When it was logged, by the store's clock.
    pub changed_at: Timestamp,
}

/// A run to be opened.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// Its id.
    pub run_id: Uuid,
    /// The schedule.
    pub schedule: String,
    /// The interval.
    pub interval: Interval,
    /// Why.
    pub cause: RunCause,
    /// The model set it is fixed to; `None` opens it as waiting.
    pub model_set: Option<i64>,
    /// Whether rows are written only for series with data (an interval before the first, or inside a gap).
    pub data_only: bool,
    /// What it waits for, or what an operator should know (an ignored silent partition).
    pub note: Option<String>,
}

/// A range of intervals that gets no run.
#[derive(Debug, Clone, PartialEq)]
pub struct SkippedRange {
    /// Its id.
    pub run_id: Uuid,
    /// The schedule.
    pub schedule: String,
    /// From the first interval's start to the last interval's end.
    pub range: Interval,
    /// `gap`, or `catch_up` where a policy passed it over.
    pub cause: RunCause,
    /// Why.
    pub note: String,
}

/// A move of a schedule's horizon.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleMove {
    /// The schedule.
    pub name: String,
    /// Its revision when it was read: must still be this one.
    pub revision: i64,
    /// Set once.
    pub first_interval: Option<Timestamp>,
    /// Never lowered.
    pub covered_until: Option<Timestamp>,
}

/// One transaction of the planner: deletes the log rows it has dealt with and opens the runs they call for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Schedules that were looked at; each revision is checked and raised.
    pub schedules: Vec<ScheduleMove>,
    /// Rows of the log that are dealt with.
    pub seen: Vec<i64>,
    /// Runs to open, each with its tasks (one per shard).
    pub open: Vec<NewRun>,
    /// Ranges without runs.
    pub skipped: Vec<SkippedRange>,
    /// Waiting runs that may start now, with their model set.
    pub start: Vec<(Uuid, i64)>,
}

/// A stored run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// Its id.
    pub run_id: Uuid,
    /// The schedule.
    pub schedule: String,
    /// The interval (for a skipped range: all of it).
    pub interval: Interval,
    /// Where it stands.
    pub state: RunState,
    /// Why it was opened.
    pub cause: RunCause,
    /// The model set it is fixed to.
    pub model_set: Option<i64>,
    /// What became of its models.
    pub counts: RunCounts,
    /// Attempts so far.
    pub attempt: i64,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When a worker first took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What it waits for, what went wrong, or why it was skipped.
    pub error: Option<String>,
    /// Whether rows are written only for series with data.
    pub data_only: bool,
}

/// How many series ended with which status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct RunCounts {
    /// With a decision.
    pub scored: i64,
    /// Of these, anomalies.
    pub anomalies: i64,
    /// With a model, without data.
    pub no_data: i64,
    /// With data, without a model.
    pub no_model: i64,
    /// With a model that was refused or gave no number.
    pub model_error: i64,
    /// With a feature that is NULL or not finite.
    pub input_invalid: i64,
}

/// Which runs.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Of this schedule.
    pub schedule: Option<String>,
    /// In one of these states; empty = any.
    pub states: Vec<RunState>,
    /// These runs alone.
    pub run_ids: Option<Vec<Uuid>>,
    /// Whose interval overlaps this one.
    pub overlapping: Option<Interval>,
    /// At most so many; 0 = all.
    pub limit: usize,
}

/// A wish for work.
#[derive(Debug, Clone)]
pub struct TaskClaim {
    /// Who asks.
    pub worker: String,
    /// For how long, by the store's clock.
    pub lease_us: i64,
    /// Tasks of these runs alone (a manual run); `None` = any.
    pub run_ids: Option<Vec<Uuid>>,
}

/// A leased task: one shard of one interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The run.
    pub run_id: Uuid,
    /// The schedule.
    pub schedule: String,
    /// The interval.
    pub interval: Interval,
    /// The shard (0 while runs have one).
    pub shard: i32,
    /// The fence: raised by every claim, shared by all runs of the interval.
    pub attempt: i64,
    /// How often this run has been tried, this time included.
    pub run_attempt: i64,
    /// The model set the run is fixed to.
    pub model_set: i64,
    /// Whether rows are written only for series with data.
    pub data_only: bool,
    /// Who holds it.
    pub worker: String,
}

/// Why what was to be stored broke off before its end; handed through as it is.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Predictions of one interval, columns of [`fleetscore_schemas::window::prediction_schema`], ascending by series over
/// all batches.
pub type PredictionStream<'a> = BoxStream<'a, std::result::Result<RecordBatch, SourceError>>;

/// The end of a task: its predictions as they come, and how its run ends.
pub struct PredictionCommit<'a> {
    /// The task, with its fence.
    pub task: &'a Task,
    /// Predictions, ascending by series.
    pub predictions: PredictionStream<'a>,
    /// How the run ends and what its row says, from what became of the models. Predictions are stored in every case.
    pub verdict: &'a (dyn Fn(&RunCounts) -> (RunState, Option<String>) + Send + Sync),
}

impl std::fmt::Debug for PredictionCommit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PredictionCommit").field("task", &self.task).finish_non_exhaustive()
    }
}

/// What came of a commit of predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Committed {
    /// They are stored, and the run has ended.
    Done {
        /// What became of the models, counted from the rows.
        counts: RunCounts,
        /// How the run ended.
        state: RunState,
        /// Whether any row differs from what was stored: the interval is due for publication.
        changed: bool,
    },
    /// The interval lies below the floor of retention: predictions stay as they are, the run ended as skipped.
    Frozen,
    /// Somebody else owns it now: nothing was written.
    Fenced,
}

/// A leased publication of one interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// The schedule.
    pub schedule: String,
    /// The interval.
    pub interval: Interval,
    /// The fence: raised by every claim.
    pub fence: i64,
    /// Changes counted when it was claimed; later ones make it due again.
    pub change: i64,
    /// Who holds it.
    pub worker: String,
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
