//! Runs that a person must help: they keep their place, or give way to a run with a set that can be had.

use super::hand_back;
use super::pauses::kept_after_us;
use crate::backoff::Backoff;
use crate::error::{Result, ScorerError};
use crate::models::misfit;
use crate::service::Shared;
use crate::shards::shard_cuts;
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_schemas::status::{RunCause, RunScope};
use fleetscore_store::{ModelSetRow, NewRun, Outcome, Plan, Retry, ScheduleSpec, Store, Task};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Whether a person can mend it without touching the run: credentials, rights, a file of the set that is damaged or gone,
/// a set for other features than the schedule has by now.
pub(super) fn mendable(e: &ScorerError) -> bool {
    match e {
        ScorerError::ModelSet { .. } | ScorerError::Misfit { .. } => true,
        ScorerError::Blob(_) | ScorerError::Store(_) => e.domain() == Domain::User,
        _ => false,
    }
}

/// Whether a person asked for the run, with this set: they are told that it cannot be had.
pub(super) fn asked_for(task: &Task) -> bool {
    matches!(task.cause, RunCause::Manual | RunCause::Retry)
}

/// What a person can mend does not cost the interval its predictions: the shard stays open with the error in its row and
/// is tried again, ever more rarely, and none of its retries is used up. Where the schedule scores with another model
/// set by now, the run gives way to one with that set.
pub(super) async fn keep(shared: &Shared, task: &Task, e: &ScorerError, shutdown: &CancellationToken) {
    // A set that is damaged and not the run's own is one that series are pinned to: another run would need it too.
    let own = match e {
        ScorerError::ModelSet { version, .. } | ScorerError::Misfit { version, .. } => {
            *version == task.model_set
        }
        _ => false,
    };
    let other = if own { other_set(shared, task).await.unwrap_or_default() } else { None };
    if let Some(version) = other {
        give_way(shared, task, e, version, shutdown).await;
        return;
    }
    let retry = Retry { after_us: kept_after_us(task.attempt), counts: false };
    hand_back(shared, task, &e.to_string(), Some(retry)).await;
    shared.trouble(&format!("scoring {}, tried again until it is mended", task.interval), e);
}

/// Ends the run, all of whose shards need what is not to be had, and opens one with this set in its place: in one
/// transaction, so that the interval is never without a run.
async fn give_way(shared: &Shared, task: &Task, e: &ScorerError, version: i64, shutdown: &CancellationToken) {
    let text = format!("{e}; scored with model set {version} instead, which is active now");
    tracing::warn!(run = %task.run_id, interval = %task.interval, "{text}");
    let mut backoff = Backoff::new();
    loop {
        match replace(shared, task, &text, version).await {
            // Fenced: it was over already, by another worker or by the same call whose answer was lost.
            Ok(Outcome::Done | Outcome::Fenced) => return,
            Err(e) => {
                shared.trouble("replacing a run", &e);
                if !e.is_transient() || !backoff.wait(shutdown).await {
                    let retry = Retry { after_us: kept_after_us(task.attempt), counts: false };
                    hand_back(shared, task, &text, Some(retry)).await;
                    return;
                }
            }
        }
    }
}

/// The set that a schedule scores with now: its own, else the active one.
pub(crate) async fn set_of(store: &dyn Store, spec: &ScheduleSpec) -> Result<Option<ModelSetRow>> {
    Ok(match spec.model_set {
        Some(version) => store.model_set(version).await?,
        None => store.active_model_set().await?,
    })
}

/// The set that the schedule scores with now, where it is not the run's and fits.
async fn other_set(shared: &Shared, task: &Task) -> Result<Option<i64>> {
    let spec = shared.spec(&task.schedule).await?;
    let Some(set) = set_of(&*shared.store, &spec).await? else { return Ok(None) };
    let fits = misfit(set.version, &set.features, &spec).is_none();
    Ok((fits && set.version != task.model_set).then_some(set.version))
}

/// The new run is of all its series, as an interval does not mix sets.
async fn replace(shared: &Shared, task: &Task, why: &str, version: i64) -> Result<Outcome> {
    let spec = shared.spec(&task.schedule).await?;
    let run = NewRun {
        run_id: Uuid::now_v7(),
        schedule: task.schedule.clone(),
        interval: task.interval,
        cause: RunCause::Rescore,
        model_set: Some(version),
        data_only: task.data_only,
        scope: RunScope::All,
        series: spec.series,
        cuts: shard_cuts(shared.store.last_series().await?, spec.shards),
        retry_of: None,
        note: None,
    };
    let end = vec![(task.run_id, why.to_owned())];
    Ok(shared.store.plan(&Plan { end, open: vec![run], ..Plan::default() }).await?)
}
