//! The store: positions, panes, dead letters, schedules, runs, predictions and model sets behind one trait, on
//! PostgreSQL, on SQLite and in memory.
//!
//! SQL is the truth. Two kinds of transaction carry the guarantees of the whole system: the [`Checkpoint`], which moves
//! positions and merges partial aggregates under the fence of the claim's epoch, and the commit of a task's
//! predictions under the fence of the task's attempt. Everything else is bookkeeping around them.
//!
//! [`conformance`] is one suite of promises that every implementation passes.

mod batch;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
#[cfg(any(test, feature = "conformance"))]
pub mod forward;
mod intake;
#[cfg(feature = "servers")]
mod letters;
mod memory;
mod notices;
#[cfg(feature = "servers")]
mod open;
mod panes;
#[cfg(feature = "servers")]
mod pg;
mod settings;
#[cfg(feature = "servers")]
mod sqlite;
mod types;
mod verdict;

pub use error::{Result, StoreError};
pub use memory::{Clock, Event, MemoryStore, Silence};
#[cfg(feature = "servers")]
pub use open::{StoreOptions, open};
#[cfg(feature = "servers")]
pub use pg::PgStore;
#[cfg(feature = "servers")]
pub use sqlite::SqliteStore;
pub use types::*;
pub use verdict::verdict;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use futures::stream::BoxStream;
use uuid::Uuid;

/// Batches in the order of their key, read from one snapshot.
pub type BatchStream<'a> = BoxStream<'a, Result<RecordBatch>>;

/// What every store can do. All methods may be called from any number of tasks and processes at once.
///
/// Transient faults (a lost connection, a serialisation failure, a deadlock) come back as errors for which
/// [`fleetscore_schemas::codes::Classify::is_transient`] holds; the caller retries the same call unchanged, and the
/// fences answer whether it had happened.
#[async_trait]
pub trait Store: std::any::Any + Send + Sync + std::fmt::Debug {
    /// Which implementation this is.
    fn kind(&self) -> StoreKind;

    // --- life ---------------------------------------------------------------------------------------------------

    /// Creates what is missing, under a lock; a no-op where all is there.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] where an object with one of our names is not ours.
    async fn migrate(&self) -> Result<()>;

    /// The store's identity, made once by the first [`Store::migrate`].
    async fn store_id(&self) -> Result<Uuid>;

    /// The store's own clock: leases and liveness are judged by it alone.
    async fn now(&self) -> Result<Timestamp>;

    // --- the stream ---------------------------------------------------------------------------------------------

    /// Records how panes are made; the first call decides.
    ///
    /// # Errors
    /// [`StoreError::SettingsDiffer`] where the store's panes were made with other settings.
    async fn pin_panes(&self, settings: &PaneSettings) -> Result<()>;

    /// How panes are made; `None` before the first [`Store::pin_panes`].
    async fn pane_settings(&self) -> Result<Option<PaneSettings>>;

    /// Records what readiness is judged by, for the column `ready` of the views; the latest call wins.
    async fn put_readiness(&self, settings: &ReadinessSettings) -> Result<()>;

    /// What [`Store::put_readiness`] recorded last; the defaults of the settings before the first call.
    async fn readiness(&self) -> Result<ReadinessSettings>;

    /// Makes a progress row with a concrete offset for each partition that has none; existing rows stay as they are. A
    /// new row starts with the floor of retention of the others.
    async fn add_partitions(&self, source: &str, partitions: &[(TopicPartition, i64)]) -> Result<()>;

    /// All progress rows with the store's clock, from one snapshot: everything readiness is decided from.
    async fn progress(&self) -> Result<Progress>;

    /// Takes over partitions: raises each row's epoch, so that whoever owned it before is fenced; a former owner's
    /// quietness ends. Answers in the order of `partitions`; none is claimed where one has no row. A former owner that
    /// holds the row's lock for longer than two seconds is disconnected (PostgreSQL).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a partition without a row.
    async fn claim(&self, source: &str, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>>;

    /// Says that the owner lives, and what it knows of quietness and end offsets. Writes only rows whose epoch is
    /// still the claim's; fewer rows than given = `Fenced` (and nothing is written).
    async fn heartbeat(&self, source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome>;

    /// Ids of series, made where there are none, committed before this returns. `None` where the name would be one
    /// more than `max_series`. Answers in the order of `names`.
    async fn intern(&self, names: &[SeriesName], max_series: u32) -> Result<Vec<Option<SeriesId>>>;

    /// Ids of series that exist already, in the order of `names`.
    async fn lookup(&self, names: &[SeriesName]) -> Result<Vec<Option<SeriesId>>>;

    /// Names of all series, ascending by id.
    async fn series(&self) -> Result<Vec<(SeriesId, SeriesName)>>;

    /// The same as columns of [`fleetscore_schemas::window::series_schema`], ascending by id, from one snapshot.
    async fn series_batches(&self) -> Result<BatchStream<'_>>;

    /// The transaction everything rests on: moves positions under the fence, merges deltas, logs the changed panes,
    /// stores dead letters, losses and notices, marks replayed dead letters. All or nothing.
    ///
    /// `Fenced` if any position or epoch is not the expected one, any floor is higher than the one judged by, or any
    /// dead letter to be marked as replayed was replayed already.
    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outcome>;

    /// Raises the floor of retention on all progress rows, deletes panes that end at or before it together with
    /// unneeded log rows. Returns how many panes' worth of time partitions or rows were removed.
    async fn retain_from(&self, floor: Timestamp) -> Result<u64>;

    /// The oldest and the newest stored pane's start; `None` without data.
    async fn pane_range(&self) -> Result<Option<(Timestamp, Timestamp)>>;

    /// Starts of panes with data that lie in `[range.start, range.end)`, at most `limit`: ascending, or from the newest
    /// back. Must not cost more for a range that is mostly empty, however long it is, nor for panes of many series: this
    /// is how to ask whether a range has any windows.
    ///
    /// This default probes with [`Store::windows`]; a store with an index does it in one statement.
    async fn panes(&self, range: Interval, newest_first: bool, limit: usize) -> Result<Vec<Timestamp>> {
        panes::probe(self, range, newest_first, limit).await
    }

    // --- dead letters -------------------------------------------------------------------------------------------

    /// Dead letters that match, ascending by id.
    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>>;

    /// Removes dead letters, the oldest first, that were stored before this time, replayed or not: at most `limit`; how many
    /// went. Fewer than `limit` says that none is left, but for such as were stored behind one of a clock that was ahead: they
    /// go when it does.
    async fn forget_dead_letters(&self, stored_before: Timestamp, limit: usize) -> Result<u64>;

    // --- schedules and runs -------------------------------------------------------------------------------------

    /// Creates a schedule (with its view `windows_<name>` where its window is not the pane), or checks that the stored
    /// one is the same.
    ///
    /// # Errors
    /// [`StoreError::SettingsDiffer`] where the stored schedule has another window or hop.
    async fn put_schedule(&self, spec: &ScheduleSpec) -> Result<()>;

    /// All schedules by name.
    async fn schedules(&self) -> Result<Vec<ScheduleRow>>;

    /// Pauses a schedule in somebody's name, or lets it go on; false where it is so already.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is no such schedule.
    async fn pause_schedule(&self, name: &str, by: Option<&str>) -> Result<bool>;

    /// The greatest id of a series, 0 without any: ids count from 1 and none is left out.
    async fn last_series(&self) -> Result<SeriesId>;

    /// The log of changed panes, oldest first: a queue without a cursor.
    async fn changed_panes(&self, limit: usize) -> Result<Vec<ChangedPane>>;

    /// One transaction of the planner: see [`Plan`]. `Fenced` where a schedule's revision is no longer the expected
    /// one or an interval has an open run already: read again and decide anew.
    ///
    /// A run opens with one task for each of its ranges, in place of the interval's tasks from earlier runs; attempts go on
    /// rising over all of them. With `retry_of` the tasks of that run which are not done become the new run's, as they
    /// were cut; `Fenced` where it has none.
    async fn plan(&self, plan: &Plan) -> Result<Outcome>;

    /// Number of series in the interval whose newest window version differs from the one their prediction was made
    /// from (a missing prediction counts as version 0).
    async fn stale_series(&self, schedule: &str, interval: Interval) -> Result<u64>;

    /// The series of an interval that a scope means, ascending, of one range: those that [`Store::stale_series`] counts, or
    /// those whose prediction has the status `model_error`. Empty for [`RunScope::All`], which needs no list.
    async fn series_of(
        &self,
        schedule: &str,
        interval: Interval,
        range: SeriesRange,
        scope: RunScope,
    ) -> Result<Vec<SeriesId>>;

    /// Runs that match, newest interval first.
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>>;

    /// What happened to a run, oldest first. Every change of its state is here, with its time and cause, written in the
    /// transaction that made it.
    async fn run_events(&self, run_id: Uuid) -> Result<Vec<RunEvent>>;

    /// The tasks of a run, by shard; none where a later run of the interval has taken them over.
    async fn run_tasks(&self, run_id: Uuid) -> Result<Vec<TaskRow>>;

    /// Why models failed in a run's predictions, most frequent first, at most `limit` reasons: the reason that was recorded
    /// when the set was made, or that the decision was no number, with the number of series.
    async fn run_failures(&self, run_id: Uuid, limit: usize) -> Result<Vec<(String, i64)>>;

    /// Takes the oldest task that is due (its run is running, nobody holds an unexpired lease, and no pause after a
    /// failure is left): raises its attempt and leases it by the store's clock. A former holder that blocks the row in a transaction for longer than two
    /// seconds is disconnected (PostgreSQL).
    async fn claim_task(&self, claim: &TaskClaim) -> Result<Option<Task>>;

    /// Extends a lease. `Fenced` when somebody else has claimed the task, or its run is over.
    async fn renew_task(&self, task: &Task, lease_us: i64) -> Result<Outcome>;

    /// Windows of one interval: one row per selected series with data, merged from panes, ascending by series; the columns of
    /// [`fleetscore_schemas::window::window_schema`].
    async fn windows(&self, interval: Interval, selection: &Selection) -> Result<BatchStream<'_>>;

    /// Replaces the interval's predictions of the selected series by these, as they come, and ends the task, in one
    /// transaction whose first statement is the fence; never the whole interval in memory. A row that would not change
    /// keeps its run and time. A stored row carries the model set of its prediction, or the task's where that is NULL.
    /// The last task of a run ends it as [`verdict`] says; if any row of any of its tasks changed, the interval becomes
    /// due for publication then, and not before: what is published never shows a run half done.
    ///
    /// The floor of retention is judged after the stream's end, so that windows may be read while this writes.
    ///
    /// # Errors
    /// [`StoreError::Source`] with the stream's own error where that broke off: nothing is written, and the task is
    /// still its holder's.
    async fn commit_predictions(&self, commit: PredictionCommit<'_>) -> Result<Committed>;

    /// Gives a task back after a failed attempt: open again, or failed for good, which ends its run where it was the last.
    async fn fail_task(&self, task: &Task, failure: &TaskFailure<'_>) -> Result<GivenBack>;

    /// Ends an open run as cancelled; false if it was over or does not exist. Shards that are done stay stored.
    async fn cancel_run(&self, run_id: Uuid, by: &str) -> Result<bool>;

    /// Marks the runs of which nothing was heard for as long as their schedule's `stall_after_us`, each once until it goes
    /// on: `stalled_at`, an event of the run that says whether nobody claims its tasks or who holds them, and an event
    /// `run_stalled`. How many it marked.
    async fn mark_stalled(&self) -> Result<u64>;

    /// Runs that are over and have no log in blob storage yet, oldest first. Skipped ranges have none.
    async fn unlogged_runs(&self, limit: usize) -> Result<Vec<RunRow>>;

    /// Notes where the log of a run is.
    async fn log_run(&self, run_id: Uuid, path: &str) -> Result<()>;

    /// Removes at most `limit` runs that ended before `finished_before` and whose interval ends at or before
    /// `interval_before`, with their events and tasks. Fires and events of the fleet from before `finished_before` go too,
    /// and silences that ended by `interval_before`, at most `limit` of each. How many went of what there were most: fewer
    /// than `limit` says that nothing is left. Predictions stay.
    async fn forget_runs(
        &self,
        finished_before: Timestamp,
        interval_before: Timestamp,
        limit: usize,
    ) -> Result<u64>;

    // --- the roster ---------------------------------------------------------------------------------------------

    /// Takes the schedule's next interval into the roster, if all before it are and its full run is over: series that have
    /// a model and were silent in it are silent since its start unless they were before; those with data are not any
    /// more. Whoever is silent for longer than `silence_us` becomes part of an event `series_silent` (one for each
    /// interval, with their number), and of `series_back` when it ends. True if an interval was taken.
    async fn advance_roster(&self, schedule: &str, silence_us: Option<i64>) -> Result<bool>;

    /// Says which pane is the newest; since when it is, by the store's clock. A fleet of which nothing comes for longer than
    /// `silence_us` is an event `fleet_silent`, once; `fleet_back` when something comes again.
    async fn note_newest(&self, pane: Timestamp, silence_us: Option<i64>) -> Result<Timestamp>;

    /// Removes predictions of intervals below the floor of retention that are published, but for those that `keep` says,
    /// at most of `limit` intervals; how many rows. Intervals are thinned once.
    async fn thin(&self, schedule: &str, keep: Keep, limit: usize) -> Result<u64>;

    // --- publication --------------------------------------------------------------------------------------------

    /// Takes the oldest interval that is due for publication and was not published within `republish_gap_us` (an
    /// interval never published is due at once); raises its fence and leases it.
    async fn claim_publication(&self, worker: &str, lease_us: i64) -> Result<Option<Publication>>;

    /// Makes what is due of a schedule in these intervals due at once, whenever it was published last: a person waits for it.
    async fn hasten_publications(&self, schedule: &str, range: Interval) -> Result<()>;

    /// Extends a publication's lease, by the store's clock. `Fenced` when somebody else has claimed the interval, or it
    /// is published.
    async fn renew_publication(&self, publication: &Publication, lease_us: i64) -> Result<Outcome>;

    /// Whether this publisher still holds the interval: asked before every put.
    async fn confirm_publication(&self, publication: &Publication) -> Result<Outcome>;

    /// Raises the fence above one that was found in a blob (a restored backup); the new publication, or `None` if it
    /// is no longer ours.
    async fn raise_publication(&self, publication: &Publication, above: i64) -> Result<Option<Publication>>;

    /// The rows of a publication, as [`Store::predictions`] has them; `None` where a run of the interval has stored some of
    /// its shards and not all: the interval becomes due when that run ends.
    async fn publication_rows(&self, publication: &Publication) -> Result<Option<BatchStream<'_>>>;

    /// Gives a publication back: it is due again, but not before this time has passed.
    async fn postpone_publication(&self, publication: &Publication, after_us: i64) -> Result<Outcome>;

    /// Notes that the snapshot read at or after the claim is published.
    async fn finish_publication(&self, publication: &Publication) -> Result<Outcome>;

    /// Current predictions of one interval from one snapshot, ordered by device and sensor, in batches of at most
    /// 8192 rows; the columns of [`fleetscore_schemas::window::published_schema`].
    async fn predictions(&self, schedule: &str, interval: Interval) -> Result<BatchStream<'_>>;

    /// Whether an interval has any predictions: one look-up, however many there are.
    async fn has_predictions(&self, schedule: &str, interval: Interval) -> Result<bool>;

    // --- model sets ---------------------------------------------------------------------------------------------

    /// A new version number, never given twice.
    async fn reserve_model_set(&self) -> Result<i64>;

    /// Adds a complete model set with what was refused on the way, and activates it in the same transaction if asked.
    /// The same call again, after its answer was lost, does nothing.
    async fn add_model_set(&self, set: &ModelSetRow, failures: &[ModelFailure], activate: bool)
    -> Result<()>;

    /// All model sets, newest first.
    async fn model_sets(&self) -> Result<Vec<ModelSetRow>>;

    /// The active model set. One look-up: asked for before every run.
    async fn active_model_set(&self) -> Result<Option<ModelSetRow>>;

    /// The version that was active at this time; `None` where none was.
    async fn model_set_as_of(&self, time: Timestamp) -> Result<Option<i64>>;

    /// The model set of this version.
    async fn model_set(&self, version: i64) -> Result<Option<ModelSetRow>>;

    /// What was refused when the set was made, in the order in which it was given.
    async fn model_failures(&self, version: i64) -> Result<Vec<ModelFailure>>;

    /// Pins series to a set, in place of what they are pinned to; `None` unpins them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a set or a series that does not exist: nothing is pinned.
    async fn pin_models(&self, series: &[SeriesId], version: Option<i64>, by: &str) -> Result<()>;

    /// All pins, ascending by series.
    async fn model_pins(&self) -> Result<Vec<ModelPin>>;

    /// Makes a set the active one. One update.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is no such set.
    async fn activate_model_set(&self, version: i64) -> Result<()>;

    /// What a rollback would do now; `None` where no set was active before the present one.
    async fn model_set_before(&self) -> Result<Option<Rollback>> {
        let sql =
            "SELECT version FROM model_set_activation_data WHERE undone_at IS NULL ORDER BY id DESC LIMIT 2";
        let found = self.query(sql).await?;
        let version = |row: usize| match found.rows.get(row).and_then(|row| row.first()) {
            Some(Cell::Int(version)) => Some(*version),
            _ => None,
        };
        Ok(version(0).zip(version(1)).map(|(from, to)| Rollback { from, to }))
    }

    /// Activates the set that was active before the present one, if these are still the two; else `Fenced`, and nothing
    /// changes: whoever looked at a set first activates that one or none. What was rolled back is forgotten, so that a
    /// second rollback goes one step further back.
    async fn rollback_model_set(&self, rollback: Rollback) -> Result<Outcome>;

    // --- people -------------------------------------------------------------------------------------------------

    /// One read-only statement in the store's own dialect.
    ///
    /// # Errors
    /// [`StoreError::Query`] with the database's message; also for anything but one reading statement.
    async fn query(&self, sql: &str) -> Result<QueryResult>;
}
