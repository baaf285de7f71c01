//! Runs, their tasks and what is published of them.

use arrow::array::RecordBatch;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::{RunCause, RunScope, RunState, TaskState};
use fleetscore_schemas::time::{Interval, Timestamp};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// Series by their ids: `[from, until)`; without `until` to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesRange {
    /// The first.
    pub from: SeriesId,
    /// The one behind the last.
    pub until: Option<SeriesId>,
}

impl SeriesRange {
    /// All series.
    pub const ALL: Self = Self { from: 0, until: None };

    /// The ranges between these cuts, which ascend: one more than there are cuts.
    pub fn cut(cuts: &[SeriesId]) -> Vec<Self> {
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().map(Some).chain([None]);
        starts.zip(ends).map(|(from, until)| Self { from, until }).collect()
    }

    /// Whether it holds this series.
    pub fn contains(&self, series: SeriesId) -> bool {
        self.from <= series && self.until.is_none_or(|until| series < until)
    }
}

/// Some series of an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Of these ids.
    pub range: SeriesRange,
    /// These alone, ascending, all within the range; `None` = all of the range.
    pub ids: Option<Arc<[SeriesId]>>,
}

impl Selection {
    /// All series.
    pub const ALL: Self = Self { range: SeriesRange::ALL, ids: None };

    /// All series of a range.
    pub const fn of(range: SeriesRange) -> Self {
        Self { range, ids: None }
    }

    /// Whether it holds this series.
    pub fn contains(&self, series: SeriesId) -> bool {
        self.range.contains(series) && self.ids.as_ref().is_none_or(|ids| ids.binary_search(&series).is_ok())
    }
}

/// What a run may fail of before it counts as failed, under the names and with the meaning of Azure ML's parallel jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// More models than this failing in an interval fail its run; −1 = none does.
    pub error_threshold: i64,
    /// More shards than this failing (after their retries) fail the run; −1 = none does.
    pub mini_batch_error_threshold: i64,
    /// More than this percentage of shards failing fails the run; −1 = none does.
    pub allowed_failed_percent: i64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { error_threshold: -1, mini_batch_error_threshold: -1, allowed_failed_percent: 100 }
    }
}

/// How many series ended with which status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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

impl RunCounts {
    /// Rows of any status.
    pub const fn rows(&self) -> i64 {
        self.scored + self.no_data + self.no_model + self.model_error + self.input_invalid
    }
}

impl std::ops::AddAssign for RunCounts {
    fn add_assign(&mut self, other: Self) {
        self.scored += other.scored;
        self.anomalies += other.anomalies;
        self.no_data += other.no_data;
        self.no_model += other.no_model;
        self.model_error += other.model_error;
        self.input_invalid += other.input_invalid;
    }
}

/// How long the parts of the work took, in microseconds, added up over shards. They overlap: windows are read, scored
/// and written at the same time, so each is the time in which that part was what was worked on or waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Phases {
    /// Opening the model set.
    pub open_us: i64,
    /// Waiting for windows from SQL.
    pub read_us: i64,
    /// Scoring, in the time of one core.
    pub score_us: i64,
    /// From the first prediction to the commit, less the waits for predictions.
    pub write_us: i64,
}

impl std::ops::AddAssign for Phases {
    fn add_assign(&mut self, other: Self) {
        self.open_us += other.open_us;
        self.read_us += other.read_us;
        self.score_us += other.score_us;
        self.write_us += other.write_us;
    }
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
    /// What became of its models, over the shards that are done.
    pub counts: RunCounts,
    /// Attempts so far, over all shards.
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
    /// Which of its series are scored.
    pub scope: RunScope,
    /// A regular expression over `device/sensor`; `None` = all series.
    pub series: Option<String>,
    /// Its shards (0 for a skipped range).
    pub shards: i64,
    /// Of these, how many are stored.
    pub shards_done: i64,
    /// Of these, how many have failed for good.
    pub shards_failed: i64,
    /// Where the time went.
    pub phases: Phases,
    /// The run whose undone shards it repeats.
    pub retry_of: Option<Uuid>,
    /// Since when nothing was heard of it; `None` where it goes on.
    pub stalled_at: Option<Timestamp>,
    /// Where its log is in blob storage.
    pub log: Option<String>,
}

/// A step in the life of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEvent {
    /// When, by the store's clock.
    pub at: Timestamp,
    /// What it came to: `waiting`, `running`, `started`, `retrying`, `stalled`, `succeeded`, …
    pub event: String,
    /// The shard, where it is about one.
    pub shard: Option<i32>,
    /// Who.
    pub worker: Option<String>,
    /// Why.
    pub detail: Option<String>,
}

/// A stored task: one shard of the newest run of an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// The run it belongs to.
    pub run_id: Uuid,
    /// The shard.
    pub shard: i32,
    /// Its series.
    pub range: SeriesRange,
    /// Where it stands.
    pub state: TaskState,
    /// The fence.
    pub attempt: i64,
    /// How often this run has tried it.
    pub tries: i64,
    /// Who holds it, or held it last.
    pub worker: Option<String>,
    /// Until when it is leased.
    pub lease_until: Option<Timestamp>,
    /// What became of its models.
    pub counts: RunCounts,
    /// Where the time went.
    pub phases: Phases,
    /// What went wrong last.
    pub error: Option<String>,
    /// When it was touched last.
    pub updated_at: Timestamp,
}

/// Which runs.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Of this schedule.
    pub schedule: Option<String>,
    /// In one of these states; empty = any.
    pub states: Vec<RunState>,
    /// For one of these causes; empty = any.
    pub causes: Vec<RunCause>,
    /// These runs alone.
    pub run_ids: Option<Vec<Uuid>>,
    /// Whose interval overlaps this one.
    pub overlapping: Option<Interval>,
    /// Opened at or after this time.
    pub opened_since: Option<Timestamp>,
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
    /// Of the oldest run's tasks rather one of these shards: the asker has their models warm.
    pub prefer: Vec<i32>,
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
    /// The shard.
    pub shard: i32,
    /// Its series.
    pub range: SeriesRange,
    /// The fence: raised by every claim, shared by all runs of the interval.
    pub attempt: i64,
    /// How often this run has tried this task, this time included.
    pub tries: i64,
    /// How many of these tries have failed. The others lost their lease: whoever worked on them was killed or stopped.
    pub failures: i64,
    /// The model set the run is fixed to.
    pub model_set: i64,
    /// Whether rows are written only for series with data.
    pub data_only: bool,
    /// Which of its series are scored.
    pub scope: RunScope,
    /// A regular expression over `device/sensor`; `None` = all series.
    pub series: Option<String>,
    /// Why the run was opened.
    pub cause: RunCause,
    /// Who holds it.
    pub worker: String,
}

/// Why what was to be stored broke off before its end; handed through as it is.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Predictions of one interval, columns of [`fleetscore_schemas::window::prediction_schema`], ascending by series over
/// all batches.
pub type PredictionStream<'a> = BoxStream<'a, std::result::Result<RecordBatch, SourceError>>;

/// What decides how a run ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// What it may fail of.
    pub thresholds: Thresholds,
    /// What is known to make models fail: said where some do.
    pub why: Option<String>,
}

/// What a run has come to when its last shard ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTotals {
    /// What became of its models.
    pub counts: RunCounts,
    /// Its shards.
    pub shards: i64,
    /// Of these, how many have failed for good.
    pub shards_failed: i64,
}

/// The end of a task: its predictions as they come.
pub struct PredictionCommit<'a> {
    /// The task, with its fence.
    pub task: &'a Task,
    /// The series whose predictions are replaced.
    pub selection: &'a Selection,
    /// Predictions, ascending by series, all of the selection.
    pub predictions: PredictionStream<'a>,
    /// Where the time went; asked at the stream's end.
    pub phases: &'a (dyn Fn() -> Phases + Send + Sync),
    /// How the run ends where this was its last shard.
    pub rules: &'a Rules,
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
    /// They are stored.
    Done {
        /// What became of the models, counted from the rows.
        counts: RunCounts,
        /// Whether any row differs from what was stored.
        changed: bool,
        /// How the run ended, where this was its last shard: with what it came to over all shards.
        ended: Option<(RunState, RunCounts)>,
    },
    /// The interval lies below the floor of retention: predictions stay as they are, the run ended as skipped.
    Frozen,
    /// Somebody else owns it now: nothing was written.
    Fenced,
}

/// A failed attempt at a task.
#[derive(Debug, Clone)]
pub struct TaskFailure<'a> {
    /// What went wrong.
    pub error: &'a str,
    /// How it goes on; `None` = the shard has failed for good.
    pub retry: Option<Retry>,
    /// How the run ends where this was its last shard.
    pub rules: &'a Rules,
}

/// How a task goes on after a failed attempt. One that does not count and needs no pause was no failure: it is handed back,
/// and its error is an event, not the run's; with a pause, what is waited for is the run's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Not before so much time has passed, in microseconds.
    pub after_us: i64,
    /// Whether the attempt counts as one of the run's tries: not where the worker was told to stop, a person must help, or the models
    /// cannot be fetched just now.
    pub counts: bool,
}

impl Retry {
    /// Whether nothing went wrong: the worker was told to stop.
    pub const fn is_hand_back(self) -> bool {
        !self.counts && self.after_us <= 0
    }
}

/// What came of giving a task back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum GivenBack {
    /// Its run goes on.
    Open,
    /// It was the run's last shard.
    Ended(RunState),
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
