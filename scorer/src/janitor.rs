//! What is done beside scoring, every few seconds and by whoever is there: runs that stand still are marked, runs that
//! are over get their log, the roster goes on, what need not be kept goes.

use crate::error::Result;
use crate::outages::What;
use crate::output::sweep::sweep;
use crate::runlog::{self, RunLog};
use crate::service::Shared;
use fleetscore_schemas::codes::Classify;
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{Keep, RunRow};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;

/// Ticks of the service between two rounds.
const TICKS: u32 = 10;
/// Between two looks for files that dead processes left.
const SWEEP: Duration = Duration::from_secs(3600);
/// Logs that are written, and runs that are removed, at once.
const BATCH: usize = 100;
/// Turns of one part of a round: the others have theirs.
const TURNS: usize = 100;

/// Rounds until shutdown.
pub(crate) async fn tidy(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut swept: Option<Instant> = None;
    while !shutdown.is_cancelled() {
        if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            swept = Some(Instant::now());
            sweep_root(&shared, &shutdown).await;
        }
        round(&shared, &shutdown).await;
        tokio::select! {
            () = tokio::time::sleep(shared.tick() * TICKS) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// One round. What fails is said and left to the next one.
pub(crate) async fn round(shared: &Shared, shutdown: &CancellationToken) {
    let asked = Instant::now();
    let parts: [(&'static str, BoxFuture<'_, Result<()>>); 5] = [
        ("looking for runs that stand still", Box::pin(mark_stalled(shared))),
        ("writing logs of runs", Box::pin(write_logs(shared, shutdown))),
        ("noting who is silent", Box::pin(roster(shared, shutdown))),
        ("thinning old predictions", Box::pin(thin(shared, shutdown))),
        ("removing old runs", Box::pin(forget(shared, shutdown))),
    ];
    for (doing, part) in parts {
        // What a part has left undone the next process does: it must not hold up the end of this one.
        let done = tokio::select! {
            done = part => done,
            () = shutdown.cancelled() => return,
        };
        match done {
            Ok(()) => shared.say(doing, None),
            Err(e) if e.is_transient() => {
                shared.trouble(doing, &e);
                if What::of(&e) == Some(What::Sql) {
                    return; // the other parts would say the same
                }
            }
            Err(e) => shared.say(doing, Some(format!("{doing}: {e}"))),
        }
    }
    shared.answered(What::Sql, asked);
}

async fn mark_stalled(shared: &Shared) -> Result<()> {
    let marked = shared.store.mark_stalled().await?;
    if marked > 0 {
        tracing::warn!(
            runs = marked,
            "nothing was heard of these runs for long: see `stalled_at` in the view runs"
        );
    }
    Ok(())
}

/// Writes the logs of all runs that are over and have none.
pub(crate) async fn write_logs(shared: &Shared, shutdown: &CancellationToken) -> Result<()> {
    loop {
        let runs = shared.store.unlogged_runs(BATCH).await?;
        for run in &runs {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            write_log(shared, run).await?;
        }
        if runs.len() < BATCH {
            return Ok(());
        }
    }
}

async fn write_log(shared: &Shared, run: &RunRow) -> Result<()> {
    let store = &shared.store;
    let events = store.run_events(run.run_id).await?;
    let tasks = store.run_tasks(run.run_id).await?;
    let failures = match run.counts.model_error {
        0 => Vec::new(),
        _ => store.run_failures(run.run_id, runlog::FAILURES).await?,
    };
    let log = RunLog { run, events: &events, tasks: &tasks, failures: &failures };
    let (path, asked) = (runlog::path(run), Instant::now());
    // False: another process wrote it, or we did and could not note it.
    let _: bool = shared.blobs.put_create(&path, log.text().into()).await?;
    shared.answered(What::Blobs, asked);
    Ok(store.log_run(run.run_id, &path).await?)
}

async fn roster(shared: &Shared, shutdown: &CancellationToken) -> Result<()> {
    let store = &shared.store;
    for schedule in store.schedules().await? {
        let mut turns = 0..TURNS;
        while store.advance_roster(&schedule.spec.name, schedule.spec.silence_us).await? {
            if shutdown.is_cancelled() || turns.next().is_none() {
                break;
            }
        }
    }
    if let Some((_, newest)) = store.pane_range().await? {
        store.note_newest(newest, shared.options.fleet_silence_us).await?;
    }
    Ok(())
}

async fn thin(shared: &Shared, shutdown: &CancellationToken) -> Result<()> {
    for schedule in shared.store.schedules().await? {
        let spec = schedule.spec;
        // One interval a call: of many series it is a long one. Where nothing goes from it, something may from those behind.
        let mut turns = 0..TURNS * BATCH;
        while spec.keep != Keep::All && !shutdown.is_cancelled() && turns.next().is_some() {
            let store = &shared.store;
            if store.thin(&spec.name, spec.keep, 1).await? == 0
                && store.thin(&spec.name, spec.keep, BATCH).await? == 0
            {
                break;
            }
        }
    }
    Ok(())
}

async fn forget(shared: &Shared, shutdown: &CancellationToken) -> Result<()> {
    let Some(retention_us) = shared.options.run_retention_us else { return Ok(()) };
    let store = &shared.store;
    let Some((_, newest)) = store.pane_range().await? else { return Ok(()) };
    let schedules = store.schedules().await?;
    let window = schedules.iter().map(|s| s.spec.window_us).max().unwrap_or(0);
    let finished_before = store.now().await?.plus_us(retention_us.saturating_neg());
    let interval_before = out_of_reach(newest, shared.options.lateness_us, window);
    for _ in 0..TURNS {
        let forgotten = store.forget_runs(finished_before, interval_before, BATCH).await?;
        if forgotten < BATCH as u64 || shutdown.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// No reading that is still taken changes an interval that ends by here: nobody will ask how it was scored before.
fn out_of_reach(newest_pane: Timestamp, lateness_us: i64, longest_window_us: i64) -> Timestamp {
    Timestamp(newest_pane.0.saturating_sub(lateness_us).saturating_sub(longest_window_us))
}

async fn sweep_root(shared: &Shared, shutdown: &CancellationToken) {
    let Some(root) = shared.blobs.local_root().map(std::path::Path::to_path_buf) else { return };
    let sweeping = tokio::task::spawn_blocking(move || sweep(&root, SystemTime::now()));
    let swept = tokio::select! {
        swept = sweeping => swept,
        () = shutdown.cancelled() => return,
    };
    match swept {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "removed what puts that never finished had left in the blob root"),
        Err(e) => tracing::warn!("looking for files that dead processes left ended unexpectedly: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::time::US_PER_S;

    #[test]
    fn only_runs_that_no_reading_reaches_are_forgotten() {
        let t = |s: i64| Timestamp(s * US_PER_S);
        assert_eq!(out_of_reach(t(1000), 100 * US_PER_S, 60 * US_PER_S), t(840));
        assert_eq!(out_of_reach(Timestamp(i64::MIN + 1), i64::MAX, 1), Timestamp(i64::MIN));
    }
}
