//! Scoring a range of intervals once: backfill, re-score, and what cron calls.

pub(crate) mod compare;
pub(crate) mod intervals;
mod patience;
mod plan;
mod report;
mod retry;

pub use report::{LabelChange, RangeInterval, RangeProgress, RangeReport};
#[cfg(test)]
pub(crate) use retry::retry_run_with;
pub use retry::{RetryOptions, retry_run};

use crate::blobs::Blobs;
use crate::error::{Result, ScorerError};
use crate::janitor::write_logs;
use crate::plan::Scored;
use crate::readiness::Horizon;
use crate::service::{Handle, Options, Shared, publish_one, registry};
use crate::sets::Loader;
use crate::worker::{score_interval, work};
use compare::{Change, compare, named};
use fleetscore_schemas::status::{RunCause, RunScope, RunState};
use fleetscore_schemas::time::{Edges, Interval, PaneGrid, Timestamp};
use fleetscore_store::{NewRun, Outcome, Plan, RunFilter, RunRow, ScheduleRow, Store, StoreError};
use intervals::{check_range, ready_ones, with_data};
use patience::{Patience, steadily};
use plan::{Planned, Planning, cuts};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Which intervals are scored, and how.
#[derive(Debug, Clone)]
pub struct RangeOptions {
    /// The schedule whose windows and features count.
    pub schedule: String,
    /// The first interval's start; a start of the schedule's intervals.
    pub from: Timestamp,
    /// Intervals start before this; a start of the schedule's intervals too.
    pub to: Timestamp,
    /// The model set.
    pub model_set: SetChoice,
    /// A regular expression over `device/sensor`: of the schedule's series these alone; `None` = all.
    pub series: Option<String>,
    /// Which of them: all, those whose window has changed since, or those whose model failed.
    pub scope: RunScope,
    /// Change nothing, say what would change.
    pub dry_run: bool,
    /// Publish what is due at the end.
    pub publish: bool,
    /// Is told how far it has come.
    pub progress: Option<watch::Sender<RangeProgress>>,
    /// Worker, leases, readiness (its schedules and roles do not count here).
    pub scorer: Options,
}

/// Which model set the intervals of a range are scored with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetChoice {
    /// The schedule's own where it has one, else the active one; for stale series alone the one that their interval was
    /// scored with, so that no interval mixes sets (an interval that never was is then scored as a whole).
    Active,
    /// This one.
    Version(i64),
    /// For each interval the one that was active when it ended.
    AsOfInterval,
}

/// How often runs of other workers are looked at.
const POLL: Duration = Duration::from_millis(200);

/// Intervals whose runs are open at once.
const CHUNK: usize = 256;

/// Scores the intervals of the schedule that start in `[from, to)` and hold data, whatever was scored before: a rerun
/// with the same windows and models changes nothing. An interval that is being scored by another worker is waited for
/// and then scored; a run that its worker left is ended here first. A service that is away is waited for, with what was
/// done till then. At shutdown this process hands its shards back and cancels those of its runs that nobody has started;
/// the others stay open: for whoever works on them, for services, or for the next call over the range.
///
/// # Errors
/// [`ScorerError::Usage`] naming the flag: unaligned or empty range, unknown schedule or model set, no active set, one for
/// other features than the schedule's, an expression that is none.
/// Transient errors of the store before the first interval, and at shutdown, come back as such; the same call may be made
/// again.
pub async fn run_range(
    store: Arc<dyn Store>,
    blobs: Blobs,
    options: RangeOptions,
    shutdown: CancellationToken,
) -> Result<RangeReport> {
    let loader = registry(store.clone(), blobs.clone());
    run_range_with(store, blobs, options, loader, shutdown).await
}

pub(crate) async fn run_range_with(
    store: Arc<dyn Store>,
    blobs: Blobs,
    options: RangeOptions,
    loader: Loader,
    shutdown: CancellationToken,
) -> Result<RangeReport> {
    let rows = store.schedules().await?;
    let schedule = rows.into_iter().find(|r| r.spec.name == options.schedule).ok_or_else(|| {
        ScorerError::usage("schedule", format!("there is no schedule `{}`", options.schedule))
    })?;
    check_range(&schedule, options.from, options.to)?;
    let planning = Planning::new(&*store, &schedule, &options).await?;
    let mut range = Range::new(store, blobs, options, schedule, planning, loader, shutdown);
    range.run().await?;
    Ok(range.report)
}

struct Range {
    shared: Arc<Shared>,
    schedule: ScheduleRow,
    options: RangeOptions,
    planning: Planning,
    shutdown: CancellationToken,
    progress: RangeProgress,
    report: RangeReport,
}

impl Range {
    fn new(
        store: Arc<dyn Store>,
        blobs: Blobs,
        options: RangeOptions,
        schedule: ScheduleRow,
        planning: Planning,
        loader: Loader,
        shutdown: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared::new(store, blobs, options.scorer.clone(), loader));
        let (progress, report) = (RangeProgress::new(), RangeReport::default());
        Self { shared, schedule, options, planning, shutdown, progress, report }
    }

    async fn run(&mut self) -> Result<()> {
        let store = self.shared.store.clone();
        self.tell();
        let Some(settings) = steadily!(self, store.pane_settings().await)? else { return Ok(()) };
        // Of a dry run, one for each interval of the report.
        let mut changes: Vec<Vec<Change>> = Vec::new();
        let all = steadily!(self, self.with_data(settings.grid()).await)?;
        self.progress.intervals_total = all.len();
        self.tell();
        for chunk in all.chunks(CHUNK) {
            if self.shutdown.is_cancelled() {
                break;
            }
            let edges = settings.grid().edges;
            let ready = steadily!(self, self.ready_of(chunk, edges).await)?;
            let done = self.progress.intervals_done + chunk.len();
            if self.options.dry_run {
                for interval in ready {
                    changes.extend(steadily!(self, self.compare(interval).await)?);
                    if self.shutdown.is_cancelled() {
                        break;
                    }
                }
            } else {
                self.score(ready, Vec::new()).await?;
            }
            self.progress.intervals_done = done;
            self.tell();
        }
        let named = steadily!(self, named(&*store, changes.clone()).await)?;
        for (interval, changes) in self.report.intervals.iter_mut().zip(named) {
            interval.changes = changes;
        }
        self.finish().await
    }

    /// Of one run that is open.
    async fn work_off(&mut self, run_id: Uuid) -> Result<()> {
        self.progress.intervals_total = 1;
        self.tell();
        self.score(Vec::new(), vec![run_id]).await?;
        self.progress.intervals_done = 1;
        self.tell();
        self.finish().await
    }

    /// All of the range, ascending.
    async fn with_data(&self, grid: PaneGrid) -> Result<Vec<Interval>> {
        let (mut all, mut cursor) = (Vec::new(), self.options.from);
        while cursor < self.options.to && !self.shutdown.is_cancelled() {
            let spec = &self.schedule.spec;
            let batch = with_data(&*self.shared.store, spec, cursor, self.options.to, grid).await?;
            let Some(last) = batch.last() else { break };
            cursor = last.start.plus_us(spec.hop_us);
            all.extend(batch);
        }
        Ok(all)
    }

    /// Those of them that are ready.
    async fn ready_of(&mut self, chunk: &[Interval], edges: Edges) -> Result<Vec<Interval>> {
        let (store, judge) = (&*self.shared.store, &self.options.scorer.readiness);
        let mut unready = Vec::new();
        let ready = ready_ones(store, &self.schedule, judge, edges, chunk.to_vec(), &mut unready).await?;
        self.report.unready.extend(unready);
        Ok(ready)
    }

    /// Publishes, and sorts the report.
    async fn finish(&mut self) -> Result<()> {
        if !self.options.dry_run {
            if self.options.publish {
                self.publish().await?;
            }
            if let Err(e) = write_logs(&self.shared, &self.shutdown).await {
                // A service writes them later.
                tracing::debug!("logs of runs are left to a service: {e}");
            }
        }
        self.report.stopped = self.shutdown.is_cancelled();
        self.report.intervals.sort_by_key(|i| i.interval);
        Ok(())
    }

    fn tell(&self) {
        if let Some(progress) = &self.options.progress {
            progress.send_replace(self.progress);
        }
    }

    /// Opens a run for each interval, works on them and on these, and waits for those that others work on.
    async fn score(&mut self, mut intervals: Vec<Interval>, mut opened: Vec<Uuid>) -> Result<()> {
        loop {
            let runs = steadily!(self, self.overlapping(&intervals).await)?;
            let busy = |i: &Interval| runs.iter().any(|r| r.interval == *i && !r.state.is_final());
            let (wait, free): (Vec<_>, Vec<_>) = intervals.into_iter().partition(busy);
            intervals = wait;
            let others = steadily!(self, self.unfinished(&intervals, &runs).await)?;
            match self.open(&free, &runs).await? {
                Some(ids) => opened.extend(ids),
                None => intervals.extend(free), // somebody was faster
            }
            self.work_on(&[opened.as_slice(), &others].concat()).await;
            if self.shutdown.is_cancelled() {
                break;
            }
            if intervals.is_empty() && steadily!(self, self.open_ones(&opened).await)?.is_empty() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
        // At shutdown. What somebody has started is theirs, or whoever comes next takes it up.
        for run in steadily!(self, self.open_ones(&opened).await)? {
            if run.started_at.is_none() {
                let (store, by) = (&self.shared.store, &self.options.scorer.worker);
                steadily!(self, store.cancel_run(run.run_id, by).await)?;
            }
        }
        let filter = RunFilter { run_ids: Some(opened), ..RunFilter::default() };
        let rows = steadily!(self, self.shared.store.runs(&filter).await)?;
        self.report.intervals.extend(rows.into_iter().map(|r| RangeInterval {
            interval: r.interval,
            run_id: Some(r.run_id),
            state: Some(r.state),
            model_set: r.model_set,
            trained_until: self.planning.trained_until(r.model_set, r.interval),
            counts: r.counts,
            changes: Vec::new(),
            error: r.error,
        }));
        Ok(())
    }

    /// Runs that others left or have under way in these intervals. Whoever opened them may be gone, so they are worked
    /// on too: a task that somebody works on is not given out. What waits for a model set starts with ours; where the
    /// schedule has a set of its own and ours is another, what waits for that gives way, and says so.
    async fn unfinished(&mut self, intervals: &[Interval], runs: &[RunRow]) -> Result<Vec<Uuid>> {
        let open = || runs.iter().filter(|r| intervals.contains(&r.interval) && !r.state.is_final());
        let mut plan = Plan::default();
        for run in open().filter(|r| r.state == RunState::Waiting) {
            let (store, spec) = (&*self.shared.store, &self.schedule.spec);
            if let Ok((set, _)) = self.planning.set_for(store, spec, run.interval, runs).await? {
                match spec.model_set.filter(|own| *own != set) {
                    None => plan.start.push((run.run_id, set)),
                    Some(own) => {
                        let why = format!(
                            "gave way to a run with model set {set} that was asked for; it waited for {own}"
                        );
                        plan.end.push((run.run_id, why));
                    }
                }
            }
        }
        if plan != Plan::default() {
            // Fenced: somebody started or cancelled one; the next turn sees it.
            let _: Outcome = self.shared.store.plan(&plan).await?;
        }
        Ok(open().map(|r| r.run_id).collect())
    }

    /// Runs around these intervals, in any state.
    async fn overlapping(&self, intervals: &[Interval]) -> Result<Vec<RunRow>> {
        let (Some(first), Some(last)) = (intervals.iter().min(), intervals.iter().max()) else {
            return Ok(Vec::new());
        };
        let filter = RunFilter {
            schedule: Some(self.schedule.spec.name.clone()),
            overlapping: Some(Interval { start: first.start, end: last.end }),
            ..RunFilter::default()
        };
        Ok(self.shared.store.runs(&filter).await?)
    }

    /// Opens manual runs; `None` if one of the intervals has an open run by now.
    async fn open(&mut self, intervals: &[Interval], runs: &[RunRow]) -> Result<Option<Vec<Uuid>>> {
        let (mut planned, mut without) = (Vec::new(), Vec::new());
        for interval in intervals {
            let plan =
                steadily!(self, self.planning.plan(&self.shared, &self.schedule, *interval, runs).await)?;
            match plan {
                Ok(one) => planned.extend(one),
                Err(why) => without.push((*interval, why)),
            }
        }
        if !planned.is_empty() {
            let open = steadily!(self, self.new_runs(&planned).await)?;
            let Some(ids) = self.commit(open).await? else { return Ok(None) };
            self.report.without_set.extend(without);
            return Ok(Some(ids));
        }
        self.report.without_set.extend(without);
        Ok(Some(Vec::new()))
    }

    /// Opens these; `None` where one of the intervals has an open run.
    async fn commit(&self, open: Vec<NewRun>) -> Result<Option<Vec<Uuid>>> {
        let ids: Vec<Uuid> = open.iter().map(|r| r.run_id).collect();
        let plan = Plan { open, ..Plan::default() };
        let outcome = steadily!(self, self.shared.store.plan(&plan).await)?;
        if outcome == Outcome::Done {
            return Ok(Some(ids));
        }
        // It may have happened before, and the answer was lost: all of them are there, or none.
        let filter = RunFilter { run_ids: Some(ids.clone()), ..RunFilter::default() };
        let ours = steadily!(self, self.shared.store.runs(&filter).await)?;
        Ok((!ours.is_empty()).then_some(ids))
    }

    async fn new_runs(&self, planned: &[Planned]) -> Result<Vec<NewRun>> {
        let store = &self.shared.store;
        let progress = store.progress().await?;
        let edges = store.pane_settings().await?.map(|s| s.edges).unwrap_or_default();
        let horizon = Horizon::of(&progress, &self.options.scorer.readiness, edges);
        let last_series = store.last_series().await?;
        let spec = &self.schedule.spec;
        let new = |p: &Planned| {
            let ignored = horizon.ignored(p.interval.end);
            NewRun {
                run_id: Uuid::now_v7(),
                schedule: spec.name.clone(),
                interval: p.interval,
                cause: RunCause::Manual,
                model_set: Some(p.model_set),
                data_only: p.data_only,
                scope: p.scope,
                series: self.planning.series.clone().or_else(|| spec.series.clone()),
                cuts: cuts(&p.selection, last_series, spec),
                retry_of: None,
                note: (!ignored.is_empty()).then(|| format!("not waited for: {}", ignored.join(", "))),
            }
        };
        Ok(planned.iter().map(new).collect())
    }

    /// Claims what can be claimed of these runs and scores it.
    async fn work_on(&mut self, runs: &[Uuid]) {
        if runs.is_empty() {
            return;
        }
        let handle = Handle::of(self.shared.clone());
        let (mut scored, began, before) = (handle.scored(), handle.snapshot(), self.progress);
        let mut workers = JoinSet::new();
        for _ in 0..self.options.scorer.parallel_tasks.max(1) {
            workers.spawn(work(self.shared.clone(), Some(runs.to_vec()), self.shutdown.clone()));
        }
        loop {
            let ended = tokio::select! {
                ended = workers.join_next() => ended,
                Ok(()) = scored.changed() => {
                    let now = handle.snapshot();
                    let done = (now.intervals_scored - began.intervals_scored) as usize;
                    let total = self.progress.intervals_total;
                    self.progress.intervals_done = (before.intervals_done + done).min(total);
                    self.progress.rows = before.rows + now.predictions - began.predictions;
                    self.tell();
                    continue;
                }
            };
            match ended {
                None => break,
                Some(Ok(())) => {}
                Some(Err(e)) => tracing::error!("a worker ended unexpectedly: {e}"),
            }
        }
        self.progress.rows = before.rows + handle.snapshot().predictions - began.predictions;
    }

    /// Those of our runs that are not over.
    async fn open_ones(&self, runs: &[Uuid]) -> Result<Vec<RunRow>, StoreError> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let filter = RunFilter {
            run_ids: Some(runs.to_vec()),
            states: vec![RunState::Waiting, RunState::Running],
            ..RunFilter::default()
        };
        self.shared.store.runs(&filter).await
    }

    /// What scoring the interval now would change; its row of the report gets the changes when they have names. `None`
    /// where it would not be scored.
    async fn compare(&mut self, interval: Interval) -> Result<Option<Vec<Change>>> {
        let runs = self.overlapping(&[interval]).await?;
        let planned = match self.planning.plan(&self.shared, &self.schedule, interval, &runs).await? {
            Ok(Some(planned)) => planned,
            Ok(None) => return Ok(None),
            Err(why) => {
                self.report.without_set.push((interval, why));
                return Ok(None);
            }
        };
        let spec = self.shared.spec(&self.schedule.spec.name).await?;
        let table = self.shared.table(planned.model_set).await?;
        let scored =
            Scored { selection: planned.selection.clone(), ..Scored::all(&spec.features, planned.data_only) };
        let predictions = score_interval(&self.shared, &table, interval, &scored)?;
        let (store, selection) = (&*self.shared.store, &planned.selection);
        let (counts, changes) = compare(store, &spec.name, interval, selection, predictions).await?;
        self.progress.intervals_done += 1;
        self.progress.rows += counts.rows().unsigned_abs();
        self.tell();
        self.report.intervals.push(RangeInterval {
            interval,
            run_id: None,
            state: None,
            model_set: Some(planned.model_set),
            trained_until: self.planning.trained_until(Some(planned.model_set), interval),
            counts,
            changes: vec![],
            error: None,
        });
        Ok(Some(changes))
    }

    /// Publishes what is due, of whichever schedule; what was changed here does not wait for `republish_gap`.
    async fn publish(&self) -> Result<()> {
        let options = &self.options.scorer;
        let range = Interval { start: self.options.from, end: self.options.to };
        self.shared.store.hasten_publications(&self.schedule.spec.name, range).await?;
        while !self.shutdown.is_cancelled() {
            let (store, lease_us) = (&self.shared.store, options.lease_us);
            let due = steadily!(self, store.claim_publication(&options.worker, lease_us).await)?;
            let Some(publication) = due else { break };
            publish_one(&self.shared, &publication, &self.shutdown).await;
        }
        Ok(())
    }
}
