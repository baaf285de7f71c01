//! A worker: claims a task (one shard of a run), scores it, commits it under the task's fence.

mod keep;
mod pauses;

pub(crate) use keep::set_of;

use crate::backoff::Backoff;
use crate::error::{Result, ScorerError};
use crate::filters::{Wanted, select};
use crate::leases::until_lost;
use crate::meter::Meter;
use crate::outages::What;
use crate::plan::{Predictions, ScoreError, Scored, ScoringTable, Windows, score};
use crate::service::Shared;
use fleetscore_schemas::codes::Classify;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::Interval;
use fleetscore_store::{
    Committed, GivenBack, PredictionCommit, Retry, Rules, RunCounts, ScheduleSpec, SourceError, Store,
    StoreError, Task, TaskClaim, TaskFailure,
};
use futures::{StreamExt, TryStreamExt};
use keep::{asked_for, keep, mendable};
use pauses::{fetch_after_us, retry_after_us};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What a task's row says of that.
const STOPPED: &str = "the worker was told to stop";

/// The first pause, and the longest, of a worker that only meets runs which a person must help, or models that cannot be
/// fetched: where a set cannot be read, every run has the same fault.
const HELPLESS: Duration = Duration::from_millis(50);
const LONGEST_HELPLESS: Duration = Duration::from_secs(5);

/// How a task ended.
#[derive(Debug)]
enum Ended {
    /// Its predictions are stored.
    Scored(Stored),
    /// Somebody else has it, or its run is over.
    Lost,
    Failed(ScorerError),
    /// Shutdown came first.
    GivenBack,
}

/// What was stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    /// What became of the task's models.
    pub(crate) counts: RunCounts,
    /// How its run ended, where this was the last shard, and what that came to.
    pub(crate) ended: Option<(RunState, RunCounts)>,
}

/// Claims and scores tasks until shutdown, or, given runs, until none of them can be claimed any more.
pub(crate) async fn work(shared: Arc<Shared>, runs: Option<Vec<Uuid>>, shutdown: CancellationToken) {
    let mut due = shared.due.subscribe();
    let mut backoff = Backoff::new();
    let mut helpless = HELPLESS;
    while !shutdown.is_cancelled() {
        // One asks for all of them: a process with nothing to do asks once a tick.
        let turn = tokio::select! {
            turn = shared.claiming.lock() => turn,
            () = shutdown.cancelled() => return,
        };
        due.borrow_and_update();
        let claim = TaskClaim {
            worker: shared.options.worker.clone(),
            lease_us: shared.options.lease_us,
            run_ids: runs.clone(),
            prefer: shared.warm(),
        };
        let asked = Instant::now();
        match shared.store.claim_task(&claim).await {
            Ok(Some(task)) => {
                drop(turn);
                shared.answered(What::Sql, asked);
                backoff.reset();
                if one_task(&shared, &task, runs.is_none(), &shutdown).await {
                    helpless = HELPLESS;
                    continue;
                }
                tokio::select! {
                    () = tokio::time::sleep(helpless) => {}
                    () = shutdown.cancelled() => {}
                }
                helpless = (helpless * 2).min(LONGEST_HELPLESS);
            }
            Ok(None) => {
                shared.answered(What::Sql, asked);
                if runs.is_some() {
                    return;
                }
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

/// So many workers more than it has retries may be lost while they work on a shard.
const LOSSES: i64 = 20;

/// Why a shard is not worked on: whoever does is killed, and so would the next ones be.
fn deadly(task: &Task, spec: &ScheduleSpec) -> Option<String> {
    let lost = task.tries - 1 - task.failures;
    (task.tries > i64::from(spec.max_retries) + LOSSES).then(|| {
        format!(
            "its workers were lost {lost} times (killed, or out of memory): give workers more memory, or the schedule more \
             `shards`, and then `runs retry`"
        )
    })
}

/// One task; a service is `patient`: it waits for what a person can mend, and for models. False where it has to.
async fn one_task(shared: &Arc<Shared>, task: &Task, patient: bool, shutdown: &CancellationToken) -> bool {
    // Of a store that is away the attempt speaks.
    if task.tries > LOSSES
        && let Ok(spec) = shared.spec(&task.schedule).await
        && let Some(why) = deadly(task, &spec)
    {
        tracing::error!(run = %task.run_id, interval = %task.interval, shard = task.shard, "given up: {why}");
        let given = hand_back(shared, task, &why, None).await;
        shared.note_given_up(task, &why, given);
        return true;
    }
    match attempt(shared, task, patient, shutdown).await {
        Ended::Scored(Stored { ended: Some((RunState::Skipped, _)), .. }) => {
            tracing::info!(run = %task.run_id, interval = %task.interval, "skipped: its predictions are frozen");
        }
        Ended::Scored(stored) => shared.note_scored(task, &stored),
        Ended::Lost => {
            tracing::info!(
                run = %task.run_id, interval = %task.interval, shard = task.shard,
                "another worker has this task now, or its run is over"
            );
        }
        Ended::GivenBack => {
            hand_back(shared, task, STOPPED, Some(Retry { after_us: 0, counts: false })).await;
        }
        // The models cannot be fetched just now. The shard rests and is anybody's then: another process may have them in
        // memory, or a way to the storage that this one lacks; and this one goes on with shards whose models it has.
        Ended::Failed(e) if patient && e.is_transient() => {
            let retry = Retry { after_us: fetch_after_us(task.attempt), counts: false };
            hand_back(shared, task, &e.to_string(), Some(retry)).await;
            return false;
        }
        Ended::Failed(e) if patient && mendable(&e) && !asked_for(task) => {
            keep(shared, task, &e, shutdown).await;
            return false;
        }
        Ended::Failed(e) => failed(shared, task, &e).await,
    }
    true
}

/// A failed attempt: again after a pause, or never again.
async fn failed(shared: &Shared, task: &Task, e: &ScorerError) {
    // Others that worked on it and were killed or stopped use up no retry.
    let failures = task.failures + 1;
    let again = failures <= i64::from(shared.known_spec(&task.schedule).max_retries);
    tracing::warn!(
        run = %task.run_id, schedule = task.schedule, interval = %task.interval, shard = task.shard,
        attempt = task.tries, give_up = !again, "scoring failed: {e}"
    );
    let retry = again.then(|| Retry { after_us: retry_after_us(failures), counts: true });
    let given = hand_back(shared, task, &e.to_string(), retry).await;
    shared.note_failed(task, e, given);
}

/// Gives a task back; `None` where that could not be told: its lease runs out by itself.
async fn hand_back(shared: &Shared, task: &Task, error: &str, retry: Option<Retry>) -> Option<GivenBack> {
    let thresholds = shared.known_spec(&task.schedule).thresholds;
    let rules = Rules { thresholds, why: shared.said("features") };
    for pause in [50, 200, 1000] {
        match shared.store.fail_task(task, &TaskFailure { error, retry, rules: &rules }).await {
            Ok(given) => return Some(given),
            Err(e) => {
                tracing::warn!(run = %task.run_id, shard = task.shard, "the task could not be given back: {e}");
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
    None
}

/// Scores a task while its lease is renewed; a panic is its failure.
async fn attempt(shared: &Arc<Shared>, task: &Task, patient: bool, shutdown: &CancellationToken) -> Ended {
    let mut scoring = tokio::spawn(score_and_commit(shared.clone(), task.clone(), patient));
    let ended = tokio::select! {
        joined = &mut scoring => return match joined {
            Ok(done) => finished(done),
            Err(e) => Ended::Failed(ScorerError::Internal(format!("scoring ended unexpectedly: {e}"))),
        },
        () = renew(shared, task) => Ended::Lost,
        () = async { shutdown.cancelled().await; tokio::time::sleep(shared.finish()).await } => Ended::GivenBack,
    };
    scoring.abort();
    // It may have ended by itself meanwhile: a lease is also refused when its run is over. Whether a commit that is
    // broken off has happened or not, the fence tells whoever comes next.
    scoring.await.map_or(ended, finished)
}

fn finished(done: Result<Option<Stored>>) -> Ended {
    match done {
        Ok(Some(stored)) => Ended::Scored(stored),
        Ok(None) => Ended::Lost,
        Err(e) => Ended::Failed(e),
    }
}

/// Renews the lease for as long as it is ours.
async fn renew(shared: &Shared, task: &Task) {
    let (store, lease_us) = (&*shared.store, shared.options.lease_us);
    let what = format!("shard {} of run {}", task.shard, task.run_id);
    until_lost(lease_us, &what, || store.renew_task(task, lease_us)).await;
}

/// Pauses before a run is tried again whose transaction met another one.
const MET: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(50)];

/// Scores and commits; transient errors are waited out for as long as the lease can be renewed, and do not count against
/// the time that an attempt may take. Whatever broke, the whole pipeline is made again: a stream is read once. Only for
/// models a patient service does not wait here, where it holds the shard. `None` = fenced.
async fn score_and_commit(shared: Arc<Shared>, task: Task, patient: bool) -> Result<Option<Stored>> {
    let mut backoff = Backoff::new();
    let mut met = MET.iter();
    let never = CancellationToken::new();
    loop {
        let asked = Instant::now();
        match in_time(&shared, &task).await {
            Ok(done) => {
                shared.answered(What::Sql, asked);
                return Ok(done);
            }
            Err(e) if e.is_transient() => {
                if let (ScorerError::Store(StoreError::Contended { .. }), Some(pause)) = (&e, met.next()) {
                    tokio::time::sleep(*pause).await;
                    continue;
                }
                shared.trouble("scoring", &e);
                if patient && matches!(e, ScorerError::ModelSet { .. }) {
                    return Err(e);
                }
                backoff.wait(&never).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// One attempt, broken off where it takes longer than the schedule allows. The schedule is read anew: another process may
/// have changed it.
async fn in_time(shared: &Arc<Shared>, task: &Task) -> Result<Option<Stored>> {
    let spec = shared.spec(&task.schedule).await?;
    let limit = Duration::from_micros(spec.timeout_us.max(1).unsigned_abs());
    match tokio::time::timeout(limit, score_once(shared, task, &spec)).await {
        Ok(done) => done,
        Err(_) => Err(ScorerError::Timeout { after: limit }),
    }
}

/// Windows are read, scored and stored at the same time, a few batches of each under way.
async fn score_once(shared: &Arc<Shared>, task: &Task, spec: &ScheduleSpec) -> Result<Option<Stored>> {
    let meter = Arc::new(Meter::default());
    let began = Instant::now();
    let table = shared.table(task.model_set).await?;
    meter.opened(began.elapsed());
    if let Some(message) = table.misfit(&spec.features) {
        return Err(ScorerError::Misfit { version: task.model_set, message });
    }
    let wanted = Wanted {
        schedule: spec,
        interval: task.interval,
        range: task.range,
        scope: task.scope,
        series: task.series.as_deref(),
    };
    let selection = select(&*shared.store, &shared.filters, wanted).await?;
    let scored = Scored {
        features: &spec.features,
        data_only: task.data_only,
        selection: selection.clone(),
        meter: meter.clone(),
    };
    let predictions = score_interval(shared, &table, task.interval, &scored)?;
    let commit = PredictionCommit {
        task,
        predictions: meter.written(predictions.map_err(SourceError::from)).boxed(),
        selection: &selection,
        phases: &|| meter.phases(),
        rules: &Rules { thresholds: spec.thresholds, why: table.pins_misfit(&spec.features) },
    };
    let committed = shared.store.commit_predictions(commit).await.map_err(from_source)?;
    Ok(match committed {
        Committed::Done { counts, ended, .. } => Some(Stored { counts, ended }),
        // Below the floor of retention windows read as empty, and the commit left the predictions as they are.
        Committed::Frozen => {
            let none = RunCounts::default();
            Some(Stored { counts: none, ended: Some((RunState::Skipped, none)) })
        }
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

/// The predictions of some series of an interval, on their way.
pub(crate) fn score_interval(
    shared: &Shared,
    table: &Arc<ScoringTable>,
    interval: Interval,
    scored: &Scored<'_>,
) -> Result<Predictions> {
    shared.say("features", table.pins_misfit(scored.features));
    Ok(score(table, scored, stream_windows(shared.store.clone(), interval, scored))?)
}

/// Windows of the selected series as a stream that owns its store: read by a task of its own, a few batches ahead.
pub(crate) fn stream_windows(store: Arc<dyn Store>, interval: Interval, scored: &Scored<'_>) -> Windows {
    let (send, receive) = mpsc::channel(4);
    let (selection, meter) = (scored.selection.clone(), scored.meter.clone());
    tokio::spawn(async move {
        let read = async {
            let mut asked = Instant::now();
            let mut windows = store.windows(interval, &selection).await?;
            loop {
                let batch = windows.try_next().await?;
                meter.read(asked.elapsed());
                let Some(batch) = batch else { break };
                if send.send(Ok(batch)).await.is_err() {
                    break; // nobody listens any more
                }
                asked = Instant::now();
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
