//! The store in a SQLite file: one writer on a thread of its own, readers beside it, several processes on one file.
//!
//! | module | holds |
//! | --- | --- |
//! | `connect` | connections, the writer's queue, what SQLite's errors mean |
//! | `migrate` | the schema, and the views of schedules |
//! | `stream` | positions, claims, series, dead letters, retention |
//! | `merge` | the checkpoint |
//! | `schedules` | schedules |
//! | `plan` | the planner's transaction |
//! | `runs` | runs as they are read, their events, what is kept of them |
//! | `tasks` | tasks, and the ends of runs |
//! | `roster` | who is silent |
//! | `thin` | fewer predictions below the floor |
//! | `read` | windows, merged from panes |
//! | `commit` | predictions as they are written |
//! | `score` | predictions as they are read, and their publication |
//! | `registry` | model sets |
//! | `query` | a user's statement |

mod commit;
mod connect;
mod merge;
mod migrate;
mod plan;
mod query;
mod read;
mod registry;
mod roster;
mod runs;
mod schedules;
mod score;
mod stream;
mod tasks;
mod thin;

use crate::intake::Intake;
use crate::{
    BatchStream, ChangedPane, Checkpoint, Claim, Committed, DeadLetterFilter, DeadLetterRow, GivenBack,
    Heartbeat, Keep, ModelFailure, ModelPin, ModelSetRow, Outcome, PaneSettings, Plan, PredictionCommit,
    Progress, Publication, QueryResult, ReadinessSettings, Result, Rollback, RunEvent, RunFilter, RunRow,
    ScheduleRow, ScheduleSpec, Selection, SeriesRange, Store, StoreKind, Task, TaskClaim, TaskFailure,
    TaskRow,
};
use async_trait::async_trait;
use connect::{Readers, Writer};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use rusqlite::{Connection, Transaction};
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Batches of predictions that wait for the writer.
const BATCHES_AHEAD: usize = 2;

/// The store in a SQLite file.
///
/// Several processes may open the same file. One that finds another's transaction in its way waits for it, and says
/// [`crate::StoreError::Contended`] when that takes too long.
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    readers: Arc<Readers>,
    committing: Arc<Committing>,
}

/// A claim of a task: run, shard and attempt. Shards of a run have attempts of the same numbers.
type Claimed = (Uuid, i32, i64);

fn claimed(task: &Task) -> Claimed {
    (task.run_id, task.shard, task.attempt)
}

/// Tasks whose commit this process is in the middle of. The transaction holds the whole file, so
/// that nobody can claim such a task: its lease needs no renewal, which would have to wait behind the commit.
#[derive(Default)]
struct Committing(Mutex<HashSet<Claimed>>);

impl Committing {
    fn get(&self) -> MutexGuard<'_, HashSet<Claimed>> {
        // Every write is one call of a set: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the task while `f` runs.
    fn during<T>(&self, task: &Task, f: impl FnOnce() -> T) -> T {
        let key = claimed(task);
        self.get().insert(key);
        let done = std::panic::catch_unwind(AssertUnwindSafe(f));
        self.get().remove(&key);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl SqliteStore {
    /// Opens the file, and creates it with its folder where it is missing. The schema is [`Store::migrate`]'s business.
    ///
    /// # Errors
    /// [`crate::StoreError::Setting`] naming `store` where the path cannot be used or is not a SQLite database.
    pub fn open(path: &Path) -> Result<SqliteStore> {
        connect::create_folder(path)?;
        let writer = Writer::start(path)?;
        let readers = Arc::new(Readers::new(path));
        Ok(Self { path: path.to_owned(), writer, readers, committing: Arc::default() })
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The store's clock is the machine's: all processes on one file share it.
fn clock() -> Timestamp {
    Timestamp::from(chrono::Utc::now())
}

#[async_trait]
impl Store for SqliteStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Sqlite
    }

    async fn migrate(&self) -> Result<()> {
        self.writer.run(migrate::migrate).await
    }

    async fn store_id(&self) -> Result<Uuid> {
        self.readers.run(migrate::store_id).await
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(clock())
    }

    async fn pin_panes(&self, settings: &PaneSettings) -> Result<()> {
        let settings = settings.clone();
        self.writer.commit(move |tx| migrate::pin_panes(tx, &settings)).await
    }

    async fn pane_settings(&self) -> Result<Option<PaneSettings>> {
        self.readers.run(migrate::pane_settings).await
    }

    async fn put_readiness(&self, settings: &ReadinessSettings) -> Result<()> {
        let settings = *settings;
        self.writer.commit(move |tx| migrate::put_readiness(tx, &settings)).await
    }

    async fn readiness(&self) -> Result<ReadinessSettings> {
        self.readers.run(migrate::readiness).await
    }

    async fn add_partitions(&self, source: &str, partitions: &[(TopicPartition, i64)]) -> Result<()> {
        let (source, partitions) = (source.to_owned(), partitions.to_vec());
        self.writer.commit(move |tx| stream::add_partitions(tx, &source, &partitions, clock())).await
    }

    async fn progress(&self) -> Result<Progress> {
        self.readers.run(|conn| Ok(Progress { now: clock(), rows: stream::progress(conn)? })).await
    }

    async fn claim(&self, source: &str, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>> {
        let (source, owner, partitions) = (source.to_owned(), owner.to_owned(), partitions.to_vec());
        self.writer.commit(move |tx| stream::claim(tx, &source, &owner, &partitions, clock())).await
    }

    async fn heartbeat(&self, source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome> {
        let (source, owner, beats) = (source.to_owned(), owner.to_owned(), beats.to_vec());
        self.writer.fenced(move |tx| stream::heartbeat(tx, &source, &owner, &beats, clock())).await
    }

    async fn intern(&self, names: &[SeriesName], max_series: u32) -> Result<Vec<Option<SeriesId>>> {
        let known = self.lookup(names).await?;
        if known.iter().all(Option::is_some) {
            return Ok(known);
        }
        let names = names.to_vec();
        self.writer.commit(move |tx| stream::intern(tx, &names, max_series)).await
    }

    async fn lookup(&self, names: &[SeriesName]) -> Result<Vec<Option<SeriesId>>> {
        let names = names.to_vec();
        self.readers.run(move |conn| stream::lookup(conn, &names)).await
    }

    async fn series(&self) -> Result<Vec<(SeriesId, SeriesName)>> {
        self.readers.run(stream::series).await
    }

    async fn series_batches(&self) -> Result<BatchStream<'_>> {
        Ok(read::streamed(self.readers.clone(), stream::send_series))
    }

    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outcome> {
        let checkpoint = checkpoint.clone(); // columns are shared, not copied
        self.writer.fenced(move |tx| merge::checkpoint(tx, &checkpoint, clock())).await
    }

    async fn retain_from(&self, floor: Timestamp) -> Result<u64> {
        stream::retain_from(&self.writer, floor).await
    }

    async fn pane_range(&self) -> Result<Option<(Timestamp, Timestamp)>> {
        self.readers.run(read::pane_range).await
    }

    async fn panes(&self, range: Interval, newest_first: bool, limit: usize) -> Result<Vec<Timestamp>> {
        self.readers.run(move |conn| read::panes(conn, range, newest_first, limit)).await
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>> {
        let filter = filter.clone();
        self.readers.run(move |conn| stream::dead_letters(conn, &filter)).await
    }

    async fn forget_dead_letters(&self, stored_before: Timestamp, limit: usize) -> Result<u64> {
        let mut forgotten = 0;
        loop {
            let chunk = runs::FORGET_CHUNK.min(limit - forgotten);
            let forget = move |tx: &Transaction<'_>| stream::forget_dead_letters(tx, stored_before, chunk);
            let some = self.writer.commit(forget).await?;
            forgotten += some;
            if some < chunk || forgotten >= limit {
                return Ok(forgotten as u64);
            }
        }
    }

    async fn put_schedule(&self, spec: &ScheduleSpec) -> Result<()> {
        let spec = spec.clone();
        self.writer.commit(move |tx| schedules::put_schedule(tx, &spec, clock())).await
    }

    async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        self.readers.run(schedules::schedules).await
    }

    async fn pause_schedule(&self, name: &str, by: Option<&str>) -> Result<bool> {
        let (name, by) = (name.to_owned(), by.map(str::to_owned));
        self.writer.commit(move |tx| schedules::pause(tx, &name, by.as_deref(), clock())).await
    }

    async fn last_series(&self) -> Result<SeriesId> {
        self.readers.run(schedules::last_series).await
    }

    async fn changed_panes(&self, limit: usize) -> Result<Vec<ChangedPane>> {
        self.readers.run(move |conn| schedules::changed_panes(conn, limit)).await
    }

    async fn plan(&self, plan: &Plan) -> Result<Outcome> {
        let plan = plan.clone();
        self.writer.fenced(move |tx| plan::plan(tx, &plan, clock())).await
    }

    async fn stale_series(&self, schedule: &str, interval: Interval) -> Result<u64> {
        let schedule = schedule.to_owned();
        self.readers.run(move |conn| score::stale_series(conn, &schedule, interval)).await
    }

    async fn series_of(
        &self,
        schedule: &str,
        interval: Interval,
        range: SeriesRange,
        scope: RunScope,
    ) -> Result<Vec<SeriesId>> {
        let schedule = schedule.to_owned();
        self.readers.run(move |conn| score::series_of(conn, &schedule, interval, range, scope)).await
    }

    async fn run_events(&self, run_id: Uuid) -> Result<Vec<RunEvent>> {
        self.readers.run(move |conn| runs::run_events(conn, run_id)).await
    }

    async fn run_tasks(&self, run_id: Uuid) -> Result<Vec<TaskRow>> {
        self.readers.run(move |conn| runs::run_tasks(conn, run_id)).await
    }

    async fn run_failures(&self, run_id: Uuid, limit: usize) -> Result<Vec<(String, i64)>> {
        self.readers.run(move |conn| runs::run_failures(conn, run_id, limit)).await
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        let filter = filter.clone();
        self.readers.run(move |conn| runs::runs(conn, &filter)).await
    }

    async fn claim_task(&self, claim: &TaskClaim) -> Result<Option<Task>> {
        let claim = claim.clone();
        // Most askers find nothing: they do not queue for the writer.
        let due = claim.clone();
        if !self.readers.run(move |conn| tasks::is_due(conn, &due, clock())).await? {
            return Ok(None);
        }
        self.writer.commit(move |tx| tasks::claim_task(tx, &claim, clock())).await
    }

    async fn renew_task(&self, task: &Task, lease_us: i64) -> Result<Outcome> {
        if self.committing.get().contains(&claimed(task)) {
            return Ok(Outcome::Done);
        }
        let task = task.clone();
        self.writer.fenced(move |tx| tasks::renew_task(tx, &task, lease_us, clock())).await
    }

    async fn windows(&self, interval: Interval, selection: &Selection) -> Result<BatchStream<'_>> {
        Ok(read::windows(self.readers.clone(), interval, selection.clone()))
    }

    async fn commit_predictions(&self, commit: PredictionCommit<'_>) -> Result<Committed> {
        let mut intake = Intake::new(commit.predictions);
        // What the first batch takes does not hold up the writer.
        intake.has_rows().await?;
        let (to, items) = mpsc::channel(BATCHES_AHEAD);
        let (selection, rules) = (commit.selection.clone(), commit.rules.clone());
        let write = commit::Commit { task: commit.task.clone(), selection, rules };
        let committing = self.committing.clone();
        let stored = self.writer.run(move |conn| {
            let job = |tx: &Transaction<'_>| {
                committing.during(&write.task, || commit::commit_predictions(tx, &write, items, clock))
            };
            connect::transaction(conn, job, |committed| *committed != Committed::Fenced)
        });
        let sent = async move {
            while let Some(batch) = intake.next().await? {
                if to.send(commit::Item::Batch(batch)).await.is_err() {
                    return Ok(()); // the writer has its reasons, and answers with them
                }
            }
            let end = commit::End { counts: intake.counts(), phases: (commit.phases)() };
            let _ = to.send(commit::Item::End(end)).await; // as above
            Ok(())
        };
        let (sent, stored): (Result<()>, _) = futures::join!(sent, stored);
        sent?;
        stored
    }

    async fn fail_task(&self, task: &Task, failure: &TaskFailure<'_>) -> Result<GivenBack> {
        let task = task.clone();
        let TaskFailure { error, retry, rules } = failure;
        let failure = tasks::Failure { error: (*error).to_owned(), retry: *retry, rules: (*rules).clone() };
        self.writer.commit(move |tx| tasks::fail_task(tx, &task, &failure, clock())).await
    }

    async fn cancel_run(&self, run_id: Uuid, by: &str) -> Result<bool> {
        let by = by.to_owned();
        self.writer.commit(move |tx| tasks::cancel_run(tx, run_id, &by, clock())).await
    }

    async fn mark_stalled(&self) -> Result<u64> {
        // Mostly there is none: that does not queue for the writer.
        if !self.readers.run(|conn| runs::any_stalled(conn, clock())).await? {
            return Ok(0);
        }
        self.writer.commit(|tx| runs::mark_stalled(tx, clock())).await
    }

    async fn unlogged_runs(&self, limit: usize) -> Result<Vec<RunRow>> {
        self.readers.run(move |conn| runs::unlogged_runs(conn, limit)).await
    }

    async fn log_run(&self, run_id: Uuid, path: &str) -> Result<()> {
        let path = path.to_owned();
        self.writer.commit(move |tx| runs::log_run(tx, run_id, &path)).await
    }

    async fn forget_runs(
        &self,
        finished_before: Timestamp,
        interval_before: Timestamp,
        limit: usize,
    ) -> Result<u64> {
        let mut forgotten = 0;
        loop {
            let chunk = runs::FORGET_CHUNK.min(limit - forgotten);
            let forget =
                move |tx: &Transaction<'_>| runs::forget_runs(tx, finished_before, interval_before, chunk);
            let some = usize::try_from(self.writer.commit(forget).await?).unwrap_or(usize::MAX);
            forgotten += some;
            if some < chunk || forgotten >= limit {
                return Ok(forgotten as u64);
            }
        }
    }

    async fn advance_roster(&self, schedule: &str, silence_us: Option<i64>) -> Result<bool> {
        let schedule = schedule.to_owned();
        let name = schedule.clone();
        if self.readers.run(move |conn| roster::next(conn, &name)).await?.is_none() {
            return Ok(false);
        }
        self.writer.commit(move |tx| roster::advance(tx, &schedule, silence_us, clock())).await
    }

    async fn note_newest(&self, pane: Timestamp, silence_us: Option<i64>) -> Result<Timestamp> {
        let newest = self.readers.run(roster::Newest::read).await?;
        if let Some(since) = newest.known(pane, silence_us, clock()) {
            return Ok(since);
        }
        self.writer.commit(move |tx| roster::note_newest(tx, pane, silence_us, clock())).await
    }

    async fn thin(&self, schedule: &str, keep: Keep, limit: usize) -> Result<u64> {
        thin::thin(&self.writer, schedule, keep, limit).await
    }

    async fn claim_publication(&self, worker: &str, lease_us: i64) -> Result<Option<Publication>> {
        let worker = worker.to_owned();
        if !self.readers.run(|conn| score::is_due(conn, clock())).await? {
            return Ok(None);
        }
        self.writer.commit(move |tx| score::claim_publication(tx, &worker, lease_us, clock())).await
    }

    async fn hasten_publications(&self, schedule: &str, range: Interval) -> Result<()> {
        let schedule = schedule.to_owned();
        self.writer.commit(move |tx| score::hasten_publications(tx, &schedule, range)).await
    }

    async fn renew_publication(&self, publication: &Publication, lease_us: i64) -> Result<Outcome> {
        let publication = publication.clone();
        self.writer.fenced(move |tx| score::renew_publication(tx, &publication, lease_us, clock())).await
    }

    async fn confirm_publication(&self, publication: &Publication) -> Result<Outcome> {
        let publication = publication.clone();
        self.readers.run(move |conn| score::confirm_publication(conn, &publication)).await
    }

    async fn raise_publication(&self, publication: &Publication, above: i64) -> Result<Option<Publication>> {
        let publication = publication.clone();
        self.writer.commit(move |tx| score::raise_publication(tx, &publication, above)).await
    }

    async fn publication_rows(&self, publication: &Publication) -> Result<Option<BatchStream<'_>>> {
        let (p, q) = (publication.clone(), publication.clone());
        let begin = move |conn: &Connection| Ok(!score::is_half_done(conn, &p)?);
        let read =
            move |conn: &Connection, to: &_| score::send_predictions(conn, &q.schedule, q.interval, to);
        read::streamed_if(self.readers.clone(), begin, read).await
    }

    async fn postpone_publication(&self, publication: &Publication, after_us: i64) -> Result<Outcome> {
        let publication = publication.clone();
        self.writer.fenced(move |tx| score::postpone_publication(tx, &publication, after_us, clock())).await
    }

    async fn finish_publication(&self, publication: &Publication) -> Result<Outcome> {
        let publication = publication.clone();
        self.writer.fenced(move |tx| score::finish_publication(tx, &publication, clock())).await
    }

    async fn predictions(&self, schedule: &str, interval: Interval) -> Result<BatchStream<'_>> {
        let schedule = schedule.to_owned();
        let read = move |conn: &Connection, to: &_| score::send_predictions(conn, &schedule, interval, to);
        Ok(read::streamed(self.readers.clone(), read))
    }

    async fn has_predictions(&self, schedule: &str, interval: Interval) -> Result<bool> {
        let schedule = schedule.to_owned();
        self.readers.run(move |conn| score::has_predictions(conn, &schedule, interval)).await
    }

    async fn reserve_model_set(&self) -> Result<i64> {
        self.writer.durable(registry::reserve).await
    }

    async fn add_model_set(
        &self,
        set: &ModelSetRow,
        failures: &[ModelFailure],
        activate: bool,
    ) -> Result<()> {
        let (set, failures) = (set.clone(), failures.to_vec());
        self.writer.durable(move |tx| registry::add(tx, &set, &failures, activate, clock())).await
    }

    async fn model_sets(&self) -> Result<Vec<ModelSetRow>> {
        self.readers.run(registry::list).await
    }

    async fn active_model_set(&self) -> Result<Option<ModelSetRow>> {
        self.readers.run(registry::active_set).await
    }

    async fn model_set_as_of(&self, time: Timestamp) -> Result<Option<i64>> {
        self.readers.run(move |conn| registry::as_of(conn, time)).await
    }

    async fn model_set(&self, version: i64) -> Result<Option<ModelSetRow>> {
        self.readers.run(move |conn| registry::one(conn, version)).await
    }

    async fn model_failures(&self, version: i64) -> Result<Vec<ModelFailure>> {
        self.readers.run(move |conn| registry::failures(conn, version)).await
    }

    async fn pin_models(&self, series: &[SeriesId], version: Option<i64>, by: &str) -> Result<()> {
        let (series, by) = (series.to_vec(), by.to_owned());
        self.writer.durable(move |tx| registry::pin(tx, &series, version, &by, clock())).await
    }

    async fn model_pins(&self) -> Result<Vec<ModelPin>> {
        self.readers.run(registry::pins).await
    }

    async fn activate_model_set(&self, version: i64) -> Result<()> {
        self.writer.durable(move |tx| registry::activate(tx, version, clock())).await
    }

    async fn rollback_model_set(&self, rollback: Rollback) -> Result<Outcome> {
        self.writer.durable(move |tx| registry::rollback(tx, rollback, clock())).await
    }

    async fn query(&self, sql: &str) -> Result<QueryResult> {
        query::query(&self.path, sql).await
    }
}

#[cfg(test)]
mod tests;
