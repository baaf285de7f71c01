//! Scoring a range of intervals once: backfill, re-score, and what cron calls.

pub(crate) mod compare;
pub(crate) mod intervals;

use crate::blobs::Blobs;
use crate::core::data_only;
use crate::error::{Result, ScorerError};
use crate::models::misfit;
use crate::readiness::Horizon;
use crate::service::{Options, Shared, publish_one, registry};
use crate::sets::Loader;
use crate::worker::{score_interval, work};
use compare::{Change, compare, named};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::status::{RunCause, RunState};
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{NewRun, Outcome, Plan, RunCounts, RunFilter, RunRow, ScheduleRow, Store, StoreError};
use intervals::{check_range, ready_ones, with_data};
use std::sync::Arc;
use std::time::Duration;
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
    /// The model set; `None` = the active one.
    pub model_set: Option<i64>,
    /// Change nothing, say what would change.
    pub dry_run: bool,
    /// Publish what is due at the end.
    pub publish: bool,
    /// Worker, leases, attempts, threshold, readiness (its schedules and roles do not count here).
    pub scorer: Options,
}

/// What became of a range. Intervals without any reading are not in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RangeReport {
    /// The model set.
    pub model_set: i64,
    /// Intervals that were (or would be) scored, ascending.
    pub intervals: Vec<RangeInterval>,
    /// Intervals with data that are not ready, with what they wait for.
    pub unready: Vec<(Interval, String)>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

impl RangeReport {
    /// Whether the work as a whole failed: a run failed or was cancelled.
    pub fn failed(&self) -> bool {
        let bad = |s: &Option<RunState>| matches!(s, Some(RunState::Failed | RunState::Cancelled));
        self.intervals.iter().any(|i| bad(&i.state))
    }

    /// Whether something is missing within what is tolerated: models that failed, or intervals that are not ready.
    pub fn partly(&self) -> bool {
        !self.unready.is_empty() || self.intervals.iter().any(|i| i.state == Some(RunState::Partial))
    }
}

/// One interval of a range.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeInterval {
    /// The interval.
    pub interval: Interval,
    /// Its run; `None` in a dry run.
    pub run_id: Option<Uuid>,
    /// How the run ended; `None` in a dry run.
    pub state: Option<RunState>,
    /// What became of its models.
    pub counts: RunCounts,
    /// In a dry run: the rows that would change.
    pub changes: Vec<LabelChange>,
    /// What went wrong.
    pub error: Option<String>,
}

/// A row whose label or status would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelChange {
    /// The series.
    pub series: SeriesName,
    /// Status and prediction now; `None` = no row.
    pub before: Option<(String, Option<i16>)>,
    /// Status and prediction then; `None` = the row would go.
    pub after: Option<(String, Option<i16>)>,
}

/// How often runs of other workers are looked at.
const POLL: Duration = Duration::from_millis(200);

/// Scores the intervals of the schedule that start in `[from, to)` and hold data, whatever was scored before: a rerun
/// with the same windows and models changes nothing. An interval that is being scored by another worker is waited for
/// and then scored; a run that its worker left is ended here first. At shutdown, runs that have not begun are cancelled.
///
/// # Errors
/// [`ScorerError::Usage`] naming the flag: unaligned or empty range, unknown schedule or model set, no active set, one for
/// other features than the schedule's.
/// Transient errors of the store while runs are opened come back as such; the same call may be made again.
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
    let model_set = choose_set(store.as_ref(), options.model_set, &schedule).await?;
    let shared = Arc::new(Shared::new(store.clone(), blobs, options.scorer.clone(), loader));
    let mut range = Range { shared, schedule, options, model_set, shutdown, report: RangeReport::default() };
    range.report.model_set = model_set;
    range.run().await?;
    Ok(range.report)
}

async fn choose_set(store: &dyn Store, wanted: Option<i64>, schedule: &ScheduleRow) -> Result<i64> {
    let found = match wanted {
        Some(version) => store.model_set(version).await?,
        None => store.active_model_set().await?,
    };
    let none = || match wanted {
        Some(version) => format!("there is no model set {version}"),
        None => crate::core::NO_MODEL_SET.to_owned(),
    };
    let set = found.ok_or_else(|| ScorerError::usage("model-set", none()))?;
    match misfit(set.version, &set.features, &schedule.spec) {
        None => Ok(set.version),
        Some(why) => Err(ScorerError::usage("model-set", why)),
    }
}

struct Range {
    shared: Arc<Shared>,
    schedule: ScheduleRow,
    options: RangeOptions,
    model_set: i64,
    shutdown: CancellationToken,
    report: RangeReport,
}

impl Range {
    async fn run(&mut self) -> Result<()> {
        let store = self.shared.store.clone();
        let Some(settings) = store.pane_settings().await? else { return Ok(()) };
        // Of a dry run, one for each interval of the report.
        let mut changes: Vec<Vec<Change>> = Vec::new();
        let mut cursor = self.options.from;
        while cursor < self.options.to && !self.shutdown.is_cancelled() {
            let spec = &self.schedule.spec;
            let batch = with_data(&*store, spec, cursor, self.options.to, settings.grid()).await?;
            let Some(last) = batch.last() else { break };
            cursor = last.start.plus_us(self.schedule.spec.hop_us);
            let (edges, unready) = (settings.grid().edges, &mut self.report.unready);
            let judge = &self.options.scorer.readiness;
            let ready = ready_ones(&*store, &self.schedule, judge, edges, batch, unready).await?;
            if self.options.dry_run {
                for interval in ready {
                    changes.push(self.compare(interval).await?);
                }
            } else if !ready.is_empty() {
                self.score(ready).await?;
            }
        }
        for (interval, changes) in self.report.intervals.iter_mut().zip(named(&*store, changes).await?) {
            interval.changes = changes;
        }
        if self.options.publish && !self.options.dry_run {
            self.publish().await?;
        }
        self.report.stopped = self.shutdown.is_cancelled();
        self.report.intervals.sort_by_key(|i| i.interval);
        Ok(())
    }

    /// Opens a run for each interval, works on them, and waits for those that others work on.
    async fn score(&mut self, mut intervals: Vec<Interval>) -> Result<()> {
        let mut opened: Vec<Uuid> = Vec::new();
        loop {
            let runs = self.overlapping(&intervals).await?;
            let busy = |i: &Interval| runs.iter().any(|r| r.interval == *i && !r.state.is_final());
            let (wait, free): (Vec<_>, Vec<_>) = intervals.into_iter().partition(busy);
            intervals = wait;
            let others = self.unfinished(&intervals, &runs).await?;
            if !free.is_empty() {
                match self.open(&free, &runs).await? {
                    Some(ids) => opened.extend(ids),
                    None => intervals.extend(free), // somebody was faster
                }
            }
            self.work_on(&[opened.as_slice(), &others].concat()).await;
            if self.shutdown.is_cancelled() {
                break;
            }
            if intervals.is_empty() && self.open_ones(&opened).await?.is_empty() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
        for id in self.open_ones(&opened).await? {
            self.shared.store.cancel_run(id).await?;
        }
        let filter = RunFilter { run_ids: Some(opened), ..RunFilter::default() };
        let rows = self.shared.store.runs(&filter).await?;
        self.report.intervals.extend(rows.into_iter().map(|r| RangeInterval {
            interval: r.interval,
            run_id: Some(r.run_id),
            state: Some(r.state),
            counts: r.counts,
            changes: Vec::new(),
            error: r.error,
        }));
        Ok(())
    }

    /// Runs that others left or have under way in these intervals. Whoever opened them may be gone, so they are worked
    /// on too: a task that somebody works on is not given out. What waits for a model set starts with ours.
    async fn unfinished(&self, intervals: &[Interval], runs: &[RunRow]) -> Result<Vec<Uuid>> {
        let open = || runs.iter().filter(|r| intervals.contains(&r.interval) && !r.state.is_final());
        let waiting = open().filter(|r| r.state == RunState::Waiting);
        let start: Vec<_> = waiting.map(|r| (r.run_id, self.model_set)).collect();
        if !start.is_empty() {
            // Fenced: somebody started or cancelled one; the next turn sees it.
            let _: Outcome = self.shared.store.plan(&Plan { start, ..Plan::default() }).await?;
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
    async fn open(&self, intervals: &[Interval], runs: &[RunRow]) -> Result<Option<Vec<Uuid>>> {
        let progress = self.shared.store.progress().await?;
        let settings = self.shared.store.pane_settings().await?;
        let edges = settings.map(|s| s.edges).unwrap_or_default();
        let horizon = Horizon::of(&progress, &self.options.scorer.readiness, edges);
        let open: Vec<NewRun> = intervals
            .iter()
            .map(|interval| {
                let ignored = horizon.ignored(interval.end);
                NewRun {
                    run_id: Uuid::now_v7(),
                    schedule: self.schedule.spec.name.clone(),
                    interval: *interval,
                    cause: RunCause::Manual,
                    model_set: Some(self.model_set),
                    data_only: data_only(&self.schedule, *interval, runs),
                    note: (!ignored.is_empty()).then(|| format!("not waited for: {}", ignored.join(", "))),
                }
            })
            .collect();
        let ids = open.iter().map(|r| r.run_id).collect();
        match self.shared.store.plan(&Plan { open, ..Plan::default() }).await? {
            Outcome::Done => Ok(Some(ids)),
            Outcome::Fenced => Ok(None),
        }
    }

    /// Claims what can be claimed of these runs and scores it.
    async fn work_on(&self, runs: &[Uuid]) {
        if runs.is_empty() {
            return;
        }
        let mut workers = JoinSet::new();
        for _ in 0..self.options.scorer.parallel_tasks.max(1) {
            workers.spawn(work(self.shared.clone(), Some(runs.to_vec()), self.shutdown.clone()));
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(e) = ended {
                tracing::error!("a worker ended unexpectedly: {e}");
            }
        }
    }

    /// Those of our runs that are not over.
    async fn open_ones(&self, runs: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let filter = RunFilter {
            run_ids: Some(runs.to_vec()),
            states: vec![RunState::Waiting, RunState::Running],
            ..RunFilter::default()
        };
        Ok(self.shared.store.runs(&filter).await?.into_iter().map(|r| r.run_id).collect())
    }

    /// What scoring the interval now would change; its row of the report gets the changes when they have names.
    async fn compare(&mut self, interval: Interval) -> Result<Vec<Change>> {
        let runs = self.overlapping(&[interval]).await?;
        let data_only = data_only(&self.schedule, interval, &runs);
        let schedule = &self.schedule.spec.name;
        let features = self.shared.features(schedule).await?;
        let table = self.shared.table(self.model_set).await?;
        let scored = score_interval(&self.shared, &table, &features, interval, data_only)?;
        let (counts, changes) = compare(&*self.shared.store, schedule, interval, scored).await?;
        let row = RangeInterval { interval, run_id: None, state: None, counts, changes: vec![], error: None };
        self.report.intervals.push(row);
        Ok(changes)
    }

    /// Publishes what is due, of whichever schedule.
    async fn publish(&self) -> Result<()> {
        let options = &self.options.scorer;
        while !self.shutdown.is_cancelled() {
            let due = self.shared.store.claim_publication(&options.worker, options.lease_us).await?;
            let Some(publication) = due else { break };
            publish_one(&self.shared, &publication, &self.shutdown).await;
        }
        Ok(())
    }
}
