//! A worker: claims a task, scores it, commits it under the task's fence.

use crate::backoff::Backoff;
use crate::error::{Result, ScorerError};
use crate::models::misfit;
use crate::plan::{Predictions, ScoreError, ScoringTable, Windows, score};
use crate::service::Shared;
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_schemas::status::{RunCause, RunState};
use fleetscore_schemas::time::Interval;
use fleetscore_schemas::window::Feature;
use fleetscore_store::{
    Committed, NewRun, Outcome, Plan, PredictionCommit, RunCounts, RunFilter, ScheduleRow, SourceError,
    Store, StoreError, Task, TaskClaim,
};
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a task may go on after shutdown was asked for, before it is given back.
const FINISH: Duration = Duration::from_secs(5);

/// The first pause, and the longest, before a run is tried again that waits for a person to mend what it needs.
const KEPT_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a task ended.
#[derive(Debug)]
enum Ended {
    /// Its predictions are stored.
    Scored(RunCounts, RunState),
    /// Somebody else has it, or its run is over.
    Lost,
    Failed(ScorerError),
    /// Shutdown came first.
    GivenBack,
}

/// Claims and scores tasks until shutdown, or, given runs, until none of them can be claimed any more.
pub(crate) async fn work(shared: Arc<Shared>, runs: Option<Vec<Uuid>>, shutdown: CancellationToken) {
    let mut due = shared.due.subscribe();
    let mut backoff = Backoff::new();
    let claim = TaskClaim {
        worker: shared.options.worker.clone(),
        lease_us: shared.options.lease_us,
        run_ids: runs.clone(),
    };
    while !shutdown.is_cancelled() {
        due.borrow_and_update();
        match shared.store.claim_task(&claim).await {
            Ok(Some(task)) => {
                backoff.reset();
                one_task(&shared, task, runs.is_none(), &shutdown).await;
            }
            Ok(None) if runs.is_some() => return,
            Ok(None) => {
                backoff.reset();
                tokio::select! {
                    _ = due.changed() => {}
                    () = tokio::time::sleep(shared.tick()) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            Err(e) => {
                shared.trouble("claiming a task", &e.into());
                backoff.wait(&shutdown).await;
            }
        }
    }
}

/// One task; a service is `patient`: what a person can mend it waits for.
async fn one_task(shared: &Arc<Shared>, task: Task, patient: bool, shutdown: &CancellationToken) {
    let ended = attempt(shared, &task, shutdown).await;
    match ended {
        Ended::Scored(_, RunState::Skipped) => {
            tracing::info!(run = %task.run_id, interval = %task.interval, "skipped: its predictions are frozen");
        }
        Ended::Scored(counts, state) => shared.note_scored(&task, counts, state),
        Ended::Lost => {
            tracing::info!(run = %task.run_id, interval = %task.interval, "another worker has this task now");
        }
        Ended::GivenBack => give_back(shared, &task, "given back at shutdown", false).await,
        Ended::Failed(e) if patient && mendable(&e) && !manual(shared, &task).await => {
            keep(shared, &task, &e, shutdown).await;
        }
        Ended::Failed(e) => {
            let give_up = task.run_attempt >= shared.options.max_attempts;
            tracing::warn!(
                run = %task.run_id, schedule = task.schedule, interval = %task.interval,
                attempt = task.run_attempt, give_up, "scoring failed: {e}"
            );
            give_back(shared, &task, &e.to_string(), give_up).await;
            shared.note_failed(&task, &e, give_up);
            if !give_up {
                // The oldest task is claimed first: let others have a turn before this one comes again.
                let pause = Duration::from_millis(50 << task.run_attempt.clamp(0, 6));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }
}

/// Whether a person can mend it without touching the run: credentials, rights, a file of the set that is damaged or gone,
/// a set for other features than the schedule has by now.
fn mendable(e: &ScorerError) -> bool {
    match e {
        ScorerError::ModelSet { .. } | ScorerError::Misfit { .. } => true,
        ScorerError::Blob(_) | ScorerError::Store(_) => e.domain() == Domain::User,
        _ => false,
    }
}

/// Whether a person asked for the run, with this set: they are told that it cannot be had.
async fn manual(shared: &Shared, task: &Task) -> bool {
    let filter = RunFilter { run_ids: Some(vec![task.run_id]), ..RunFilter::default() };
    match shared.store.runs(&filter).await {
        Ok(rows) => rows.iter().any(|r| r.cause == RunCause::Manual),
        Err(_) => false,
    }
}

/// What a person can mend does not cost the interval its predictions: the run stays open with the error in its row and
/// is tried again, ever more rarely. Where another model set has been activated since, the run gives way to one with
/// that set. (Between the two steps the interval has no open run: a process killed there leaves it to `run`.)
async fn keep(shared: &Shared, task: &Task, e: &ScorerError, shutdown: &CancellationToken) {
    // A set that is damaged and not the run's own is one that series are pinned to: another run would need it too.
    let own = match e {
        ScorerError::ModelSet { version, .. } | ScorerError::Misfit { version, .. } => {
            *version == task.model_set
        }
        _ => false,
    };
    let other = if own { other_set(shared, task).await.unwrap_or_default() } else { None };
    if let Some(version) = other {
        let text = format!("{e}; scored with model set {version} instead, which is active now");
        tracing::warn!(run = %task.run_id, interval = %task.interval, "{text}");
        give_back(shared, task, &text, true).await;
        replace(shared, task, version, shutdown).await;
        return;
    }
    give_back(shared, task, &e.to_string(), false).await;
    shared.trouble(&format!("scoring {}, tried again until it is mended", task.interval), e);
    let pause = KEPT_PAUSE.saturating_mul(1 << task.run_attempt.clamp(0, 16)).min(LONGEST_PAUSE);
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = shutdown.cancelled() => {}
    }
}

/// The set that is active now, where it is not the run's own and fits the schedule.
async fn other_set(shared: &Shared, task: &Task) -> Result<Option<i64>> {
    let Some(active) = shared.store.active_model_set().await? else { return Ok(None) };
    let schedules = shared.store.schedules().await?;
    let fits = |s: &ScheduleRow| misfit(active.version, &active.features, &s.spec).is_none();
    let fits = schedules.iter().find(|s| s.spec.name == task.schedule).is_some_and(fits);
    Ok((fits && active.version != task.model_set).then_some(active.version))
}

/// Opens a run with this set in place of one that ended.
async fn replace(shared: &Shared, task: &Task, version: i64, shutdown: &CancellationToken) {
    let mut backoff = Backoff::new();
    let run = NewRun {
        run_id: Uuid::now_v7(),
        schedule: task.schedule.clone(),
        interval: task.interval,
        cause: RunCause::Rescore,
        model_set: Some(version),
        data_only: task.data_only,
        note: None,
    };
    let plan = Plan { open: vec![run], ..Plan::default() };
    loop {
        match shared.store.plan(&plan).await {
            // Fenced: it has an open run already.
            Ok(Outcome::Done | Outcome::Fenced) => return,
            Err(e) => {
                shared.trouble("opening a run", &e.into());
                if !backoff.wait(shutdown).await {
                    return;
                }
            }
        }
    }
}

async fn give_back(shared: &Shared, task: &Task, error: &str, give_up: bool) {
    // A few tries; after that the lease runs out by itself.
    for pause in [50, 200, 1000] {
        match shared.store.fail_task(task, error, give_up).await {
            Ok(Outcome::Done | Outcome::Fenced) => return,
            Err(e) => {
                tracing::warn!(run = %task.run_id, "the task could not be given back: {e}");
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
}

/// Scores a task while its lease is renewed; a panic is its failure.
async fn attempt(shared: &Arc<Shared>, task: &Task, shutdown: &CancellationToken) -> Ended {
    let mut scoring = tokio::spawn(score_and_commit(shared.clone(), task.clone()));
    let ended = tokio::select! {
        joined = &mut scoring => return match joined {
            Ok(done) => finished(done),
            Err(e) => Ended::Failed(ScorerError::Internal(format!("scoring ended unexpectedly: {e}"))),
        },
        () = renew(shared, task) => Ended::Lost,
        () = async { shutdown.cancelled().await; tokio::time::sleep(FINISH).await } => Ended::GivenBack,
    };
    scoring.abort();
    // It may have ended by itself meanwhile: a lease is also refused when its run is over. Whether a commit that is
    // broken off has happened or not, the fence tells whoever comes next.
    scoring.await.map_or(ended, finished)
}

fn finished(done: Result<Option<(RunCounts, RunState)>>) -> Ended {
    match done {
        Ok(Some((counts, state))) => Ended::Scored(counts, state),
        Ok(None) => Ended::Lost,
        Err(e) => Ended::Failed(e),
    }
}

/// Renews the lease for as long as it is ours.
async fn renew(shared: &Shared, task: &Task) {
    let third = Duration::from_micros(shared.options.lease_us.max(3).unsigned_abs() / 3);
    let mut pause = third;
    loop {
        tokio::time::sleep(pause).await;
        match shared.store.renew_task(task, shared.options.lease_us).await {
            Ok(Outcome::Done) => pause = third,
            Ok(Outcome::Fenced) => return,
            Err(e) => {
                tracing::warn!(run = %task.run_id, "the lease could not be renewed: {e}");
                pause = third.min(Duration::from_secs(1));
            }
        }
    }
}

/// Pauses before a run is tried again whose transaction met another one.
const MET: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(50)];

/// Scores and commits; transient errors are waited out for as long as the lease can be renewed. Whatever broke, the whole
/// pipeline is made again: a stream is read once. `None` = fenced.
async fn score_and_commit(shared: Arc<Shared>, task: Task) -> Result<Option<(RunCounts, RunState)>> {
    let mut backoff = Backoff::new();
    let mut met = MET.iter();
    let never = CancellationToken::new();
    loop {
        match score_once(&shared, &task).await {
            Ok(done) => return Ok(done),
            Err(e) if e.is_transient() => {
                if let (ScorerError::Store(StoreError::Contended { .. }), Some(pause)) = (&e, met.next()) {
                    tokio::time::sleep(*pause).await;
                    continue;
                }
                shared.trouble("scoring", &e);
                backoff.wait(&never).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Windows are read, scored and stored at the same time, a few batches of each under way.
async fn score_once(shared: &Arc<Shared>, task: &Task) -> Result<Option<(RunCounts, RunState)>> {
    let features = shared.features(&task.schedule).await?;
    let table = shared.table(task.model_set).await?;
    if let Some(message) = table.misfit(&features) {
        return Err(ScorerError::Misfit { version: task.model_set, message });
    }
    if !lease_for_commit(shared, task, table.len()).await? {
        return Ok(None);
    }
    let predictions = score_interval(shared, &table, &features, task.interval, task.data_only)?;
    let threshold = shared.options.error_threshold;
    let pins_misfit = table.pins_misfit(&features);
    let commit = PredictionCommit {
        task,
        predictions: predictions.map_err(SourceError::from).boxed(),
        verdict: &move |counts| verdict(counts, threshold, pins_misfit.as_deref()),
    };
    Ok(match shared.store.commit_predictions(commit).await.map_err(from_source)? {
        Committed::Done { counts, state, .. } => Some((counts, state)),
        // Below the floor of retention windows read as empty, and the commit left the predictions as they are.
        Committed::Frozen => Some((RunCounts::default(), RunState::Skipped)),
        Committed::Fenced => None,
    })
}

/// What broke a commit off: where that was the source of the predictions, its own error.
fn from_source(e: StoreError) -> ScorerError {
    match e {
        StoreError::Source(e) => match e.downcast::<ScoreError>() {
            Ok(e) => (*e).into(),
            Err(e) => ScorerError::Internal(e.to_string()),
        },
        e => e.into(),
    }
}

/// From so many models on, a lease is made longer before the commit: so much for each model.
const LARGE: usize = 200_000;
const LEASE_US_A_MODEL: i64 = 60;

/// While a commit is under way its transaction holds the task's row, and no renewal gets through; so the lease of a large
/// run is extended first by what its commit may take (a minute for a million models, several times what it takes). False
/// = fenced.
async fn lease_for_commit(shared: &Shared, task: &Task, models: usize) -> Result<bool> {
    if models < LARGE {
        return Ok(true);
    }
    let more = LEASE_US_A_MODEL.saturating_mul(i64::try_from(models).unwrap_or(i64::MAX));
    let lease_us = shared.options.lease_us.saturating_add(more);
    Ok(shared.store.renew_task(task, lease_us).await? == Outcome::Done)
}

/// The predictions of one interval, on their way.
pub(crate) fn score_interval(
    shared: &Shared,
    table: &Arc<ScoringTable>,
    features: &[Feature],
    interval: Interval,
    data_only: bool,
) -> Result<Predictions> {
    shared.say("features", table.pins_misfit(features));
    Ok(score(table, features, data_only, stream_windows(shared.store.clone(), interval))?)
}

/// How a run with these counts ends, and what its row says; `why` is what is known to make models fail.
fn verdict(counts: &RunCounts, threshold: i64, why: Option<&str>) -> (RunState, Option<String>) {
    let failed = counts.model_error;
    if failed == 0 {
        return (RunState::Succeeded, None);
    }
    let why = why.map_or(String::new(), |why| format!("; {why}"));
    if threshold >= 0 && failed > threshold {
        let text = format!("{failed} models failed, more than error_threshold = {threshold}{why}");
        return (RunState::Failed, Some(text));
    }
    let text = format!("{failed} models failed: see status model_error in predictions{why}");
    (RunState::Partial, Some(text))
}

/// Windows of an interval as a stream that owns its store: read by a task of its own, a few batches ahead.
pub(crate) fn stream_windows(store: Arc<dyn Store>, interval: Interval) -> Windows {
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(async move {
        let read = async {
            let mut windows = store.windows(interval).await?;
            while let Some(batch) = windows.try_next().await? {
                if send.send(Ok(batch)).await.is_err() {
                    break; // nobody listens any more
                }
            }
            Ok(())
        };
        if let Err(e) = read.await {
            // If nobody listens any more, nobody misses the error.
            send.send(Err(e)).await.ok();
        }
    });
    futures::stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_fail_a_run_and_single_models_do_not() {
        let counts = |model_error| RunCounts { scored: 5, model_error, ..RunCounts::default() };
        for (failed, threshold, state) in [
            (0, 0, RunState::Succeeded),
            (0, -1, RunState::Succeeded),
            (1, 0, RunState::Failed),
            (1, 1, RunState::Partial),
            (2, 1, RunState::Failed),
            (100, -1, RunState::Partial),
        ] {
            let (got, error) = verdict(&counts(failed), threshold, None);
            assert_eq!(got, state, "{failed} failed, threshold {threshold}");
            assert_eq!(error.is_some(), failed > 0);
        }
    }
}
