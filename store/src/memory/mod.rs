//! The store in memory: plain maps behind one lock. It is the reference of what the trait promises, and the store of
//! simulations, whose clock it may be given.

mod models;
mod plan;
mod roster;
mod runs;
mod score;
mod stream;

use crate::batch::{BATCH_ROWS, SeriesBuilder};
use crate::intake::{Columns, Intake};
use crate::{
    BatchStream, ChangedPane, Checkpoint, Claim, Committed, DeadLetterFilter, DeadLetterRow, Fire, GivenBack,
    Heartbeat, Keep, Loss, ModelFailure, ModelPin, ModelSetRow, Outcome, PaneSettings, Plan,
    PredictionCommit, Progress, ProgressRow, Publication, QueryResult, ReadinessSettings, Result, Rollback,
    RunEvent, RunFilter, RunRow, ScheduleRow, ScheduleSpec, Selection, SeriesRange, Store, StoreError,
    StoreKind, Task, TaskClaim, TaskFailure, TaskRow,
};
use async_trait::async_trait;
use fleetscore_schemas::delta::{PaneKey, Partial};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::status::{PredictionStatus, RunScope};
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use futures::StreamExt;
use models::Activation;
use runs::{RunEntry, TaskEntry};
use score::{Commit, PredictionRow, PublicationEntry, StoredPrediction};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// What tells the store's time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The store in memory, for simulation and tests. It forgets everything when dropped.
pub struct MemoryStore {
    clock: Clock,
    state: Mutex<State>,
}

impl MemoryStore {
    /// An empty store on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(|| Timestamp::from(chrono::Utc::now())))
    }

    /// An empty store on a clock of the caller's.
    pub fn with_clock(clock: Clock) -> Self {
        Self { clock, state: Mutex::new(State::default()) }
    }

    /// A panic of another task cannot leave the maps between two states that matter: every method checks first and
    /// writes afterwards.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> Timestamp {
        (self.clock)()
    }

    /// Losses recorded by checkpoints, oldest first: what the SQL stores show as `loss_events`.
    pub fn losses(&self) -> Vec<Loss> {
        self.state().losses.clone()
    }

    /// What an operator should know, oldest first: what the SQL stores show as `events`.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// Silences of series in the order of their beginning: what the SQL stores show as `silences`.
    pub fn silences(&self) -> Vec<Silence> {
        self.state().silences.clone()
    }

    /// Fires by schedule and time: what the SQL stores show as `fires`, without skipped ranges.
    pub fn fires(&self) -> Vec<Fire> {
        self.state().fires.values().cloned().collect()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("MemoryStore")
            .field("series", &state.names.len())
            .field("panes", &state.panes.len())
            .finish_non_exhaustive()
    }
}

/// What an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, by the store's clock.
    pub at: Timestamp,
    /// `series_silent`, `series_back`, `fleet_silent`, `fleet_back`, `run_stalled`, or a kind of [`crate::Notice`].
    pub kind: String,
    /// The schedule, where it is about one.
    pub schedule: Option<String>,
    /// The run, where it is about one.
    pub run_id: Option<Uuid>,
    /// How many series, where it is about some.
    pub series: Option<i64>,
    /// What exactly.
    pub detail: String,
}

/// A time in which a series with a model sent nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// The schedule in whose intervals.
    pub schedule: String,
    /// The series.
    pub series: SeriesId,
    /// Start of the first interval without data.
    pub since: Timestamp,
    /// When it was found to last longer than the limit.
    pub noticed_at: Option<Timestamp>,
    /// Start of the first interval with data again.
    pub ended_at: Option<Timestamp>,
}

/// One stored pane of one series.
#[derive(Debug, Clone, Copy)]
struct Pane {
    partial: Partial,
    version: i64,
}

#[derive(Debug)]
struct State {
    store_id: Uuid,
    settings: Option<PaneSettings>,
    readiness: Option<ReadinessSettings>,
    progress: BTreeMap<(String, TopicPartition), ProgressRow>,
    /// The broker's time of the record before each position.
    broker_times: BTreeMap<(String, TopicPartition), Timestamp>,
    ids: HashMap<SeriesName, SeriesId>,
    /// Names by id − 1.
    names: Vec<SeriesName>,
    panes: BTreeMap<PaneKey, Pane>,
    changed: BTreeMap<i64, ChangedPane>,
    last_changed: i64,
    dead_letters: BTreeMap<i64, DeadLetterRow>,
    /// Ids are not used again when rows are forgotten.
    last_dead_letter: i64,
    losses: Vec<Loss>,
    schedules: BTreeMap<String, ScheduleRow>,
    fires: BTreeMap<(String, Timestamp), Fire>,
    runs: HashMap<Uuid, RunEntry>,
    run_events: HashMap<Uuid, Vec<RunEvent>>,
    events: Vec<Event>,
    /// Waiting or running runs by (schedule, interval start).
    open: HashMap<(String, Timestamp), Uuid>,
    /// Running runs in the order in which they are claimed: (opened at, interval start, schedule).
    due: BTreeSet<(Timestamp, Timestamp, String, Uuid)>,
    /// Tasks by (schedule, interval start, shard).
    tasks: BTreeMap<(String, Timestamp, i32), TaskEntry>,
    /// Of intervals that end by this time tasks were forgotten, with attempts up to this one.
    forgotten: Option<(Timestamp, i64)>,
    silences: Vec<Silence>,
    /// Start of the newest pane, and since when it is.
    newest: Option<(Timestamp, Timestamp)>,
    fleet_silent: bool,
    /// Intervals that start before this are thinned, by schedule; and what was kept.
    thinned: HashMap<String, (Timestamp, Keep)>,
    /// What each series was last, as far as a schedule is thinned to changes.
    thin_states: HashMap<String, HashMap<SeriesId, (PredictionStatus, Option<i16>)>>,
    predictions: BTreeMap<(String, Timestamp), BTreeMap<SeriesId, StoredPrediction>>,
    /// Publications by (interval start, schedule).
    publications: BTreeMap<(Timestamp, String), PublicationEntry>,
    model_sets: BTreeMap<i64, ModelSetRow>,
    model_failures: BTreeMap<i64, Vec<ModelFailure>>,
    model_pins: BTreeMap<SeriesId, ModelPin>,
    last_model_set: i64,
    /// Oldest first.
    activations: Vec<Activation>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            store_id: Uuid::new_v4(),
            settings: None,
            readiness: None,
            progress: BTreeMap::new(),
            broker_times: BTreeMap::new(),
            ids: HashMap::new(),
            names: Vec::new(),
            panes: BTreeMap::new(),
            changed: BTreeMap::new(),
            last_changed: 0,
            dead_letters: BTreeMap::new(),
            last_dead_letter: 0,
            losses: Vec::new(),
            schedules: BTreeMap::new(),
            fires: BTreeMap::new(),
            runs: HashMap::new(),
            run_events: HashMap::new(),
            events: Vec::new(),
            open: HashMap::new(),
            due: BTreeSet::new(),
            tasks: BTreeMap::new(),
            forgotten: None,
            silences: Vec::new(),
            newest: None,
            fleet_silent: false,
            thinned: HashMap::new(),
            thin_states: HashMap::new(),
            predictions: BTreeMap::new(),
            publications: BTreeMap::new(),
            model_sets: BTreeMap::new(),
            model_failures: BTreeMap::new(),
            model_pins: BTreeMap::new(),
            last_model_set: 0,
            activations: Vec::new(),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }

    async fn migrate(&self) -> Result<()> {
        Ok(())
    }

    async fn store_id(&self) -> Result<Uuid> {
        Ok(self.state().store_id)
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(self.clock())
    }

    async fn pin_panes(&self, settings: &PaneSettings) -> Result<()> {
        self.state().pin_panes(settings)
    }

    async fn pane_settings(&self) -> Result<Option<PaneSettings>> {
        Ok(self.state().settings.clone())
    }

    async fn put_readiness(&self, settings: &ReadinessSettings) -> Result<()> {
        self.state().readiness = Some(*settings);
        Ok(())
    }

    async fn readiness(&self) -> Result<ReadinessSettings> {
        Ok(self.state().readiness.unwrap_or_default())
    }

    async fn add_partitions(&self, source: &str, partitions: &[(TopicPartition, i64)]) -> Result<()> {
        let now = self.clock();
        self.state().add_partitions(source, partitions, now);
        Ok(())
    }

    async fn progress(&self) -> Result<Progress> {
        let now = self.clock();
        Ok(Progress { now, rows: self.state().progress.values().cloned().collect() })
    }

    async fn claim(&self, source: &str, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>> {
        let now = self.clock();
        self.state().claim(source, owner, partitions, now)
    }

    async fn heartbeat(&self, source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome> {
        let now = self.clock();
        Ok(self.state().heartbeat(source, owner, beats, now))
    }

    async fn intern(&self, names: &[SeriesName], max_series: u32) -> Result<Vec<Option<SeriesId>>> {
        Ok(self.state().intern(names, max_series))
    }

    async fn lookup(&self, names: &[SeriesName]) -> Result<Vec<Option<SeriesId>>> {
        let state = self.state();
        Ok(names.iter().map(|n| state.ids.get(n).copied()).collect())
    }

    async fn series(&self) -> Result<Vec<(SeriesId, SeriesName)>> {
        Ok((1..).zip(self.state().names.iter().cloned()).collect())
    }

    async fn series_batches(&self) -> Result<BatchStream<'_>> {
        let mut batches = Vec::new();
        let mut builder = SeriesBuilder::default();
        for (id, name) in (1..).zip(&self.state().names) {
            builder.push(id, &name.device, &name.sensor);
            if builder.len() == BATCH_ROWS {
                batches.push(builder.finish());
            }
        }
        if builder.len() > 0 {
            batches.push(builder.finish());
        }
        Ok(futures::stream::iter(batches).boxed())
    }

    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outcome> {
        let now = self.clock();
        self.state().checkpoint(checkpoint, now)
    }

    async fn retain_from(&self, floor: Timestamp) -> Result<u64> {
        Ok(self.state().retain_from(floor))
    }

    async fn pane_range(&self) -> Result<Option<(Timestamp, Timestamp)>> {
        let state = self.state();
        Ok(state.panes.first_key_value().zip(state.panes.last_key_value()).map(|((a, _), (b, _))| (a.0, b.0)))
    }

    async fn panes(&self, range: Interval, newest_first: bool, limit: usize) -> Result<Vec<Timestamp>> {
        let state = self.state();
        let (mut from, mut to) = (range.start, range.end);
        let mut found = Vec::new();
        while found.len() < limit && from < to {
            let mut keys = state.panes.range((from, 0)..(to, 0)).map(|(key, _)| key.0);
            let Some(pane) = (if newest_first { keys.next_back() } else { keys.next() }) else { break };
            found.push(pane);
            if newest_first { to = pane } else { from = pane.plus_us(1) }
        }
        Ok(found)
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>> {
        Ok(self.state().dead_letters(filter))
    }

    async fn forget_dead_letters(&self, stored_before: Timestamp, limit: usize) -> Result<u64> {
        Ok(self.state().forget_dead_letters(stored_before, limit))
    }

    async fn put_schedule(&self, spec: &ScheduleSpec) -> Result<()> {
        let now = self.clock();
        self.state().put_schedule(spec, now)
    }

    async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        Ok(self.state().schedules.values().cloned().collect())
    }

    async fn pause_schedule(&self, name: &str, by: Option<&str>) -> Result<bool> {
        let now = self.clock();
        self.state().pause_schedule(name, by, now)
    }

    async fn last_series(&self) -> Result<SeriesId> {
        // No more than max_series, which is an u32.
        Ok(self.state().names.len() as SeriesId)
    }

    async fn changed_panes(&self, limit: usize) -> Result<Vec<ChangedPane>> {
        Ok(self.state().changed.values().take(limit).cloned().collect())
    }

    async fn plan(&self, plan: &Plan) -> Result<Outcome> {
        let now = self.clock();
        Ok(self.state().plan(plan, now))
    }

    async fn stale_series(&self, schedule: &str, interval: Interval) -> Result<u64> {
        Ok(self.state().stale_series(schedule, interval))
    }

    async fn series_of(
        &self,
        schedule: &str,
        interval: Interval,
        range: SeriesRange,
        scope: RunScope,
    ) -> Result<Vec<SeriesId>> {
        Ok(self.state().series_of(schedule, interval, range, scope))
    }

    async fn run_events(&self, run_id: Uuid) -> Result<Vec<RunEvent>> {
        Ok(self.state().run_events.get(&run_id).cloned().unwrap_or_default())
    }

    async fn run_tasks(&self, run_id: Uuid) -> Result<Vec<TaskRow>> {
        Ok(self.state().run_tasks(run_id))
    }

    async fn run_failures(&self, run_id: Uuid, limit: usize) -> Result<Vec<(String, i64)>> {
        Ok(self.state().run_failures(run_id, limit))
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        Ok(self.state().run_rows(filter))
    }

    async fn claim_task(&self, claim: &TaskClaim) -> Result<Option<Task>> {
        let now = self.clock();
        Ok(self.state().claim_task(claim, now))
    }

    async fn renew_task(&self, task: &Task, lease_us: i64) -> Result<Outcome> {
        let now = self.clock();
        Ok(self.state().renew_task(task, lease_us, now))
    }

    async fn windows(&self, interval: Interval, selection: &Selection) -> Result<BatchStream<'_>> {
        let batches = self.state().windows(interval, selection)?;
        Ok(futures::stream::iter(batches.into_iter().map(Ok)).boxed())
    }

    async fn commit_predictions(&self, commit: PredictionCommit<'_>) -> Result<Committed> {
        let mut intake = Intake::new(commit.predictions);
        let mut rows = Vec::new();
        while let Some(batch) = intake.next().await? {
            let columns = Columns::new(&batch)?;
            for i in 0..batch.num_rows() {
                rows.push(PredictionRow::new(&columns.row(i))?);
            }
        }
        let (counts, phases, now) = (intake.counts(), (commit.phases)(), self.clock());
        let PredictionCommit { task, selection, rules, .. } = commit;
        let commit = Commit { task, selection, rows, counts, phases, rules };
        Ok(self.state().commit_predictions(commit, now))
    }

    async fn fail_task(&self, task: &Task, failure: &TaskFailure<'_>) -> Result<GivenBack> {
        let now = self.clock();
        Ok(self.state().fail_task(task, failure, now))
    }

    async fn cancel_run(&self, run_id: Uuid, by: &str) -> Result<bool> {
        let now = self.clock();
        Ok(self.state().cancel_run(run_id, by, now))
    }

    async fn mark_stalled(&self) -> Result<u64> {
        let now = self.clock();
        Ok(self.state().mark_stalled(now))
    }

    async fn unlogged_runs(&self, limit: usize) -> Result<Vec<RunRow>> {
        Ok(self.state().unlogged_runs(limit))
    }

    async fn log_run(&self, run_id: Uuid, path: &str) -> Result<()> {
        self.state().log_run(run_id, path);
        Ok(())
    }

    async fn forget_runs(
        &self,
        finished_before: Timestamp,
        interval_before: Timestamp,
        limit: usize,
    ) -> Result<u64> {
        Ok(self.state().forget_runs(finished_before, interval_before, limit))
    }

    async fn advance_roster(&self, schedule: &str, silence_us: Option<i64>) -> Result<bool> {
        let now = self.clock();
        Ok(self.state().advance_roster(schedule, silence_us, now))
    }

    async fn note_newest(&self, pane: Timestamp, silence_us: Option<i64>) -> Result<Timestamp> {
        let now = self.clock();
        Ok(self.state().note_newest(pane, silence_us, now))
    }

    async fn thin(&self, schedule: &str, keep: Keep, limit: usize) -> Result<u64> {
        Ok(self.state().thin(schedule, keep, limit))
    }

    async fn claim_publication(&self, worker: &str, lease_us: i64) -> Result<Option<Publication>> {
        let now = self.clock();
        Ok(self.state().claim_publication(worker, lease_us, now))
    }

    async fn hasten_publications(&self, schedule: &str, range: Interval) -> Result<()> {
        self.state().hasten_publications(schedule, range);
        Ok(())
    }

    async fn renew_publication(&self, publication: &Publication, lease_us: i64) -> Result<Outcome> {
        let now = self.clock();
        Ok(self.state().renew_publication(publication, lease_us, now))
    }

    async fn confirm_publication(&self, publication: &Publication) -> Result<Outcome> {
        Ok(self.state().confirm_publication(publication))
    }

    async fn raise_publication(&self, publication: &Publication, above: i64) -> Result<Option<Publication>> {
        Ok(self.state().raise_publication(publication, above))
    }

    async fn publication_rows(&self, publication: &Publication) -> Result<Option<BatchStream<'_>>> {
        let batches = {
            let state = self.state();
            if state.is_half_done(&publication.schedule, publication.interval.start) {
                return Ok(None);
            }
            state.published(&publication.schedule, publication.interval, BATCH_ROWS)?
        };
        Ok(Some(futures::stream::iter(batches.into_iter().map(Ok)).boxed()))
    }

    async fn postpone_publication(&self, publication: &Publication, after_us: i64) -> Result<Outcome> {
        let now = self.clock();
        Ok(self.state().postpone_publication(publication, after_us, now))
    }

    async fn finish_publication(&self, publication: &Publication) -> Result<Outcome> {
        let now = self.clock();
        Ok(self.state().finish_publication(publication, now))
    }

    async fn predictions(&self, schedule: &str, interval: Interval) -> Result<BatchStream<'_>> {
        let batches = self.state().published(schedule, interval, BATCH_ROWS)?;
        Ok(futures::stream::iter(batches.into_iter().map(Ok)).boxed())
    }

    async fn has_predictions(&self, schedule: &str, interval: Interval) -> Result<bool> {
        let state = self.state();
        let rows = state.predictions.get(&(schedule.to_owned(), interval.start));
        Ok(rows.is_some_and(|rows| !rows.is_empty()))
    }

    async fn reserve_model_set(&self) -> Result<i64> {
        let mut state = self.state();
        state.last_model_set += 1;
        Ok(state.last_model_set)
    }

    async fn add_model_set(
        &self,
        set: &ModelSetRow,
        failures: &[ModelFailure],
        activate: bool,
    ) -> Result<()> {
        let now = self.clock();
        self.state().add_model_set(set, failures, activate, now)
    }

    async fn model_sets(&self) -> Result<Vec<ModelSetRow>> {
        let state = self.state();
        Ok(state.model_sets.keys().rev().filter_map(|version| state.model_set(*version)).collect())
    }

    async fn active_model_set(&self) -> Result<Option<ModelSetRow>> {
        let state = self.state();
        Ok(state.active_version().and_then(|version| state.model_set(version)))
    }

    async fn model_set_as_of(&self, time: Timestamp) -> Result<Option<i64>> {
        Ok(self.state().model_set_as_of(time))
    }

    async fn model_set(&self, version: i64) -> Result<Option<ModelSetRow>> {
        Ok(self.state().model_set(version))
    }

    async fn model_failures(&self, version: i64) -> Result<Vec<ModelFailure>> {
        Ok(self.state().model_failures.get(&version).cloned().unwrap_or_default())
    }

    async fn pin_models(&self, series: &[SeriesId], version: Option<i64>, by: &str) -> Result<()> {
        let now = self.clock();
        self.state().pin_models(series, version, by, now)
    }

    async fn model_pins(&self) -> Result<Vec<ModelPin>> {
        Ok(self.state().model_pins.values().cloned().collect())
    }

    async fn activate_model_set(&self, version: i64) -> Result<()> {
        let now = self.clock();
        self.state().activate(version, now)
    }

    async fn model_set_before(&self) -> Result<Option<Rollback>> {
        Ok(self.state().model_set_before())
    }

    async fn rollback_model_set(&self, rollback: Rollback) -> Result<Outcome> {
        let now = self.clock();
        Ok(self.state().rollback(rollback, now))
    }

    async fn query(&self, _sql: &str) -> Result<QueryResult> {
        Err(StoreError::Query {
            message: "the store in memory has no SQL: use sqlite:PATH or postgres://…".into(),
        })
    }
}

#[cfg(test)]
mod tests;
