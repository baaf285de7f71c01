//! What a run left undone, done again.

use super::plan::{Planning, cuts};
use super::{Range, RangeOptions, RangeProgress, RangeReport, SetChoice};
use crate::blobs::Blobs;
use crate::error::{Result, ScorerError};
use crate::models::misfit;
use crate::service::{Options, registry};
use crate::sets::Loader;
use crate::worker::set_of;
use fleetscore_schemas::status::{RunCause, RunScope, RunState, TaskState};
use fleetscore_store::{
    NewRun, Outcome, Plan, RunFilter, RunRow, ScheduleSpec, Selection, SeriesRange, Store,
};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What is repeated, and how.
#[derive(Debug, Clone)]
pub struct RetryOptions {
    /// The run.
    pub run_id: Uuid,
    /// Id of the run that repeats it. The same call made again finds by it what it has opened, and goes on with that.
    pub new_run: Uuid,
    /// Publish what is due at the end.
    pub publish: bool,
    /// Is told how far it has come.
    pub progress: Option<watch::Sender<RangeProgress>>,
    /// Worker and leases (its schedules and roles do not count here).
    pub scorer: Options,
}

/// Repeats what a run that is over left undone, in a run of its own: the shards that failed or were cancelled, with the
/// run's model set; where all are stored, the series whose model failed, with the set that the schedule scores with now.
///
/// # Errors
/// [`ScorerError::Usage`] naming `run`: there is no such run, it is not over, or there is nothing to repeat. Transient errors
/// of the store before the work begins, and at shutdown, come back as such; the same call, with the same `new_run`, may be
/// made again.
pub async fn retry_run(
    store: Arc<dyn Store>,
    blobs: Blobs,
    options: RetryOptions,
    shutdown: CancellationToken,
) -> Result<RangeReport> {
    let loader = registry(store.clone(), blobs.clone());
    retry_run_with(store, blobs, options, loader, shutdown).await
}

pub(crate) async fn retry_run_with(
    store: Arc<dyn Store>,
    blobs: Blobs,
    options: RetryOptions,
    loader: Loader,
    shutdown: CancellationToken,
) -> Result<RangeReport> {
    let run = find(&*store, options.run_id).await?;
    let schedules = store.schedules().await?;
    let schedule = schedules.into_iter().find(|s| s.spec.name == run.schedule);
    let schedule = schedule.ok_or_else(|| no(format!("its schedule `{}` is gone", run.schedule)))?;
    let model_set = match stored(&*store, options.new_run).await? {
        // Opened by this call before, whose answer was lost: it has taken the shards over.
        Some(opened) => opened.model_set,
        None => open(&*store, &run, &schedule.spec, options.new_run).await?,
    };
    let range = RangeOptions {
        schedule: run.schedule.clone(),
        from: run.interval.start,
        to: run.interval.end,
        model_set: SetChoice::Active,
        series: None,
        scope: RunScope::All,
        dry_run: false,
        publish: options.publish,
        progress: options.progress,
        scorer: options.scorer,
    };
    let mut planning = Planning::of(&range);
    if let Some(version) = model_set {
        planning.look_up(&*store, &schedule.spec, version).await?;
    }
    let mut range = Range::new(store, blobs, range, schedule, planning, loader, shutdown);
    range.work_off(options.new_run).await?;
    Ok(range.report)
}

fn no(message: impl Into<String>) -> ScorerError {
    ScorerError::usage("run", message)
}

async fn stored(store: &dyn Store, run_id: Uuid) -> Result<Option<RunRow>> {
    let filter = RunFilter { run_ids: Some(vec![run_id]), ..RunFilter::default() };
    Ok(store.runs(&filter).await?.pop())
}

/// Opens the run that repeats it; the set that it is fixed to.
async fn open(store: &dyn Store, run: &RunRow, spec: &ScheduleSpec, new_run: Uuid) -> Result<Option<i64>> {
    let new = match undone(store, run).await? {
        true => shards_of(store, run, spec).await?,
        false => failed_models(store, run, spec).await?,
    };
    let new = NewRun { run_id: new_run, ..new };
    let model_set = new.model_set;
    match store.plan(&Plan { open: vec![new], ..Plan::default() }).await? {
        Outcome::Done => Ok(model_set),
        Outcome::Fenced => Err(no(format!(
            "a later run of {} is open or has taken its shards over: wait for that one, or score the interval again with \
             `run`",
            run.interval
        ))),
    }
}

async fn find(store: &dyn Store, run_id: Uuid) -> Result<RunRow> {
    let run = stored(store, run_id).await?;
    let run = run.ok_or_else(|| no(format!("there is no run {run_id}")))?;
    match run.state {
        RunState::Waiting | RunState::Running => {
            Err(no(format!("run {run_id} is not over: it is {}", run.state)))
        }
        RunState::Skipped => Err(no(format!(
            "run {run_id} was skipped on purpose{}: score its intervals with `run --from … --to …`",
            run.error.as_ref().map_or(String::new(), |e| format!(" ({e})"))
        ))),
        _ => Ok(run),
    }
}

/// Whether shards of a run are left to be done, and its own still.
async fn undone(store: &dyn Store, run: &RunRow) -> Result<bool> {
    let tasks = store.run_tasks(run.run_id).await?;
    Ok(tasks.iter().any(|t| matches!(t.state, TaskState::Failed | TaskState::Cancelled)))
}

/// The run's shards again, as they were cut.
async fn shards_of(store: &dyn Store, run: &RunRow, spec: &ScheduleSpec) -> Result<NewRun> {
    let model_set = match run.model_set {
        Some(version) => version,
        None => set_now(store, spec).await?, // it was cancelled while it waited for one
    };
    Ok(NewRun {
        scope: run.scope,
        series: run.series.clone(),
        retry_of: Some(run.run_id),
        ..new_run(run, model_set)
    })
}

/// The series of the run's interval whose model failed.
async fn failed_models(store: &dyn Store, run: &RunRow, spec: &ScheduleSpec) -> Result<NewRun> {
    let failed = store.series_of(&run.schedule, run.interval, SeriesRange::ALL, RunScope::Failed).await?;
    if failed.is_empty() {
        let shards = if run.shards_done < run.shards {
            "a later run has taken over the shards that it left undone"
        } else {
            "all its shards are stored"
        };
        return Err(no(format!(
            "run {} left nothing to repeat: {shards}, and no model fails in {} now",
            run.run_id, run.interval
        )));
    }
    let model_set = set_now(store, spec).await?;
    let selection = Selection { range: SeriesRange::ALL, ids: Some(failed.into()) };
    Ok(NewRun {
        scope: RunScope::Failed,
        series: run.series.clone(),
        cuts: cuts(&selection, store.last_series().await?, spec),
        ..new_run(run, model_set)
    })
}

fn new_run(run: &RunRow, model_set: i64) -> NewRun {
    NewRun {
        run_id: Uuid::now_v7(),
        schedule: run.schedule.clone(),
        interval: run.interval,
        cause: RunCause::Retry,
        model_set: Some(model_set),
        data_only: run.data_only,
        scope: RunScope::All,
        series: None,
        cuts: Vec::new(),
        retry_of: None,
        note: None,
    }
}

/// The set that the schedule scores with now.
async fn set_now(store: &dyn Store, spec: &ScheduleSpec) -> Result<i64> {
    let set = set_of(store, spec).await?.ok_or_else(|| match spec.model_set {
        None => no(crate::core::NO_MODEL_SET),
        Some(version) => {
            no(format!("there is no model set {version}, which schedule `{}` scores with", spec.name))
        }
    })?;
    match misfit(set.version, &set.features, spec) {
        None => Ok(set.version),
        Some(why) => Err(no(why)),
    }
}
