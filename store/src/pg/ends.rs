//! The ends of shards, and of runs: each shard adds what it came to to its run's row, and the last one ends the run.
//!
//! Rows are locked as everywhere: tasks by their shard, then the run.

use super::PgStore;
use super::events::{Step, step};
use super::runs::counts;
use super::tasks::{TaskEnd, end_attempt};
use super::types::{RowExt, Us, clean};
use super::watch::{ending_blockers, ending_former_holders};
use crate::intake::FROZEN;
use crate::{GivenBack, NewRun, Phases, Result, Rules, RunCounts, RunTotals, Task, TaskFailure};
use deadpool_postgres::Transaction;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

/// What a shard adds to its run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) counts: RunCounts,
    pub(super) phases: Phases,
    /// Whether any row is another than before.
    pub(super) changed: bool,
    /// It has failed for good, and adds nothing else.
    pub(super) failed: bool,
}

/// A run's row with the share of a shard in it.
struct Sum {
    totals: RunTotals,
    done: i64,
    changed: bool,
}

/// Adds a shard to its run, whose row stays locked; `None` where that is over.
async fn add(tx: &Transaction<'_>, task: &Task, share: &Share) -> Result<Option<Sum>> {
    let sql = "UPDATE run_data SET scored = scored + $2, anomalies = anomalies + $3, no_data = no_data + $4,
            no_model = no_model + $5, model_error = model_error + $6, input_invalid = input_invalid + $7,
            open_us = open_us + $8, read_us = read_us + $9, score_us = score_us + $10, write_us = write_us + $11,
            changed = changed OR $12, shards_failed = shards_failed + CASE WHEN $13 THEN 1 ELSE 0 END,
            shards_done = shards_done + CASE WHEN $13 THEN 0 ELSE 1 END, stalled_at = NULL
        WHERE run_id = $1 AND state = 'running'
        RETURNING scored, anomalies, no_data, no_model, model_error, input_invalid, shards, shards_failed, shards_done,
            changed";
    let statement = tx.prepare_cached(sql).await?;
    let (c, p) = (&share.counts, &share.phases);
    let row = tx
        .query_opt(
            &statement,
            &[
                &task.run_id,
                &c.scored,
                &c.anomalies,
                &c.no_data,
                &c.no_model,
                &c.model_error,
                &c.input_invalid,
                &p.open_us,
                &p.read_us,
                &p.score_us,
                &p.write_us,
                &share.changed,
                &share.failed,
            ],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let counts = counts(&row, 0)?;
    let shards = row.at::<i32>(6)?.into();
    let totals = RunTotals { counts, shards, shards_failed: row.at::<i32>(7)?.into() };
    Ok(Some(Sum { totals, done: row.at::<i32>(8)?.into(), changed: row.at(9)? }))
}

/// How a shard's end went.
pub(super) enum Ended {
    /// The run is over already: nothing of this may be kept.
    Over,
    /// Other shards are left.
    Open,
    /// It was the last one.
    Run(RunState, RunCounts),
}

/// Adds a shard to its run, and ends that where it was the last one.
pub(super) async fn end_shard(
    tx: &Transaction<'_>,
    task: &Task,
    share: &Share,
    rules: &Rules,
) -> Result<Ended> {
    let Some(sum) = add(tx, task, share).await? else { return Ok(Ended::Over) };
    if sum.done + sum.totals.shards_failed < sum.totals.shards {
        return Ok(Ended::Open);
    }
    let error = match sum.totals.shards_failed {
        0 => None,
        _ => newest_failure(tx, task.run_id).await?,
    };
    let (state, text) = crate::verdict(&sum.totals, rules, error.as_deref());
    let run =
        Run { run_id: task.run_id, schedule: &task.schedule, interval: task.interval, changed: sum.changed };
    end_run(tx, &run, state, text.as_deref(), None).await?;
    Ok(Ended::Run(state, sum.totals.counts))
}

async fn newest_failure(tx: &Transaction<'_>, run_id: Uuid) -> Result<Option<String>> {
    let sql = "SELECT error FROM run_task_data WHERE run_id = $1 AND state = 'failed'
        ORDER BY updated_at DESC, shard DESC LIMIT 1";
    let row = tx.query_opt(sql, &[&run_id]).await?;
    Ok(row.map(|row| row.at(0)).transpose()?.flatten())
}

/// A run that ends.
struct Run<'a> {
    run_id: Uuid,
    schedule: &'a str,
    interval: Interval,
    /// Whether any of its shards that are done changed a row.
    changed: bool,
}

/// The end of a run, whose row is locked: its state, the event, and what it changed becomes due for publication.
async fn end_run(
    tx: &Transaction<'_>,
    run: &Run<'_>,
    state: RunState,
    error: Option<&str>,
    by: Option<&str>,
) -> Result<()> {
    let sql = "UPDATE run_data SET state = $2, error = $3, finished_at = clock_timestamp(), stalled_at = NULL
        WHERE run_id = $1";
    let statement = tx.prepare_cached(sql).await?;
    let text = error.map(clean);
    tx.execute(&statement, &[&run.run_id, &state.as_str(), &text.as_deref()]).await?;
    step(tx, Step { run_id: run.run_id, event: state.as_str(), shard: None, worker: by, detail: error })
        .await?;
    if run.changed {
        make_due(tx, run.schedule, run.interval).await?;
    }
    Ok(())
}

/// The interval is due for publication.
async fn make_due(tx: &Transaction<'_>, schedule: &str, interval: Interval) -> Result<()> {
    let sql = "INSERT INTO publication_data AS p (schedule, interval_start, interval_end, change)
        VALUES ($1, $2, $3, 1) ON CONFLICT (schedule, interval_start) DO UPDATE SET change = p.change + 1";
    let statement = tx.prepare_cached(sql).await?;
    let (start, end) = (Us::from(interval.start), Us::from(interval.end));
    tx.execute(&statement, &[&schedule, &start, &end]).await?;
    Ok(())
}

/// Ends the run of a task as skipped: its interval lies below the floor of retention. False where the fence stands
/// against it.
pub(super) async fn freeze(tx: &Transaction<'_>, task: &Task) -> Result<bool> {
    // All of the run's tasks in their order, so that two shards which find the same do not wait for each other.
    let sql = "SELECT shard, attempt, state FROM run_task_data
        WHERE schedule = $1 AND interval_start = $2 AND run_id = $3 ORDER BY shard FOR UPDATE";
    let start = Us::from(task.interval.start);
    let rows = tx.query(sql, &[&task.schedule, &start, &task.run_id]).await?;
    let mut held = false;
    for row in &rows {
        let (shard, attempt): (i32, i64) = (row.at(0)?, row.at(1)?);
        held |= shard == task.shard && attempt == task.attempt && row.at::<&str>(2)? == "open";
    }
    Ok(held && end_open(tx, task.run_id, RunState::Skipped, Some(FROZEN), None).await?)
}

/// Ends open runs as failed before others open; the runs that take over what those changed, or `None` where one is over.
/// What nobody takes over is due.
pub(super) async fn give_way(
    tx: &Transaction<'_>,
    ends: &[(Uuid, String)],
    open: &[NewRun],
) -> Result<Option<Vec<Uuid>>> {
    let mut heirs = Vec::new();
    if ends.is_empty() {
        return Ok(Some(heirs));
    }
    let ids: Vec<Uuid> = ends.iter().map(|(id, _)| *id).collect();
    let sql = "SELECT 1 FROM run_task_data WHERE run_id = ANY($1) ORDER BY schedule, interval_start, shard FOR UPDATE";
    tx.execute(sql, &[&ids]).await?;
    for (run_id, why) in ends {
        let Some(row) = stop(tx, *run_id).await? else { return Ok(None) };
        let mut run = stopped(*run_id, &row)?;
        let takes_over =
            |new: &&NewRun| new.schedule == run.schedule && new.interval.start == run.interval.start;
        if let Some(heir) = open.iter().find(takes_over).filter(|_| run.changed) {
            heirs.push(heir.run_id);
            run.changed = false;
        }
        end_run(tx, &run, RunState::Failed, Some(why), None).await?;
    }
    Ok(Some(heirs))
}

/// Ends an open run before its shards are done; false if it is over.
async fn end_open(
    tx: &Transaction<'_>,
    run_id: Uuid,
    state: RunState,
    error: Option<&str>,
    by: Option<&str>,
) -> Result<bool> {
    let Some(row) = stop(tx, run_id).await? else { return Ok(false) };
    let error = error.or(row.at(4)?);
    end_run(tx, &stopped(run_id, &row)?, state, error, by).await?;
    Ok(true)
}

/// Nobody can claim the run's tasks any more; its row, locked, if it is open.
async fn stop(tx: &Transaction<'_>, run_id: Uuid) -> Result<Option<Row>> {
    let sql = "UPDATE run_task_data SET state = 'cancelled', lease_until = NULL, not_before = NULL,
            updated_at = clock_timestamp()
        WHERE run_id = $1 AND state IN ('open', 'waiting')";
    tx.execute(sql, &[&run_id]).await?;
    let sql = "SELECT schedule, interval_start, interval_end, changed, error FROM run_data
        WHERE run_id = $1 AND state IN ('waiting', 'running') FOR UPDATE";
    Ok(tx.query_opt(sql, &[&run_id]).await?)
}

/// The run of a row of [`stop`].
fn stopped(run_id: Uuid, row: &Row) -> Result<Run<'_>> {
    let interval = Interval { start: row.time(1)?, end: row.time(2)? };
    Ok(Run { run_id, schedule: row.at(0)?, interval, changed: row.at(3)? })
}

pub(super) async fn cancel(store: &PgStore, run_id: Uuid, by: &str) -> Result<bool> {
    let mut client = store.client().await?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.at(0)?;
    let tx = client.transaction().await?;
    let work = async {
        let sql = "SELECT 1 FROM run_task_data WHERE run_id = $1 ORDER BY shard FOR UPDATE";
        tx.execute(sql, &[&run_id]).await?;
        end_open(&tx, run_id, RunState::Cancelled, None, Some(by)).await
    };
    let done = ending_blockers(store, pid, work).await?;
    if done {
        tx.commit().await?;
    }
    Ok(done)
}

pub(super) async fn fail(store: &PgStore, task: &Task, failure: &TaskFailure<'_>) -> Result<GivenBack> {
    let mut client = store.client().await?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.at(0)?;
    let tx = client.transaction().await?;
    let back = ending_former_holders(store, pid, task, give_back(&tx, task, failure)).await?;
    let back = back.unwrap_or(GivenBack::Fenced);
    if back != GivenBack::Fenced {
        tx.commit().await?;
    }
    Ok(back)
}

async fn give_back(tx: &Transaction<'_>, task: &Task, failure: &TaskFailure<'_>) -> Result<GivenBack> {
    let end = failure.retry.map_or(TaskEnd::Failed(failure.error), |r| TaskEnd::Again(failure.error, r));
    if !end_attempt(tx, task, end).await? {
        return Ok(GivenBack::Fenced);
    }
    let event = match failure.retry {
        None => "shard_failed",
        Some(retry) if retry.is_hand_back() => "handed_back",
        Some(_) => "retrying",
    };
    let (shard, worker) = (Some(task.shard), Some(task.worker.as_str()));
    step(tx, Step { run_id: task.run_id, event, shard, worker, detail: Some(failure.error) }).await?;
    match failure.retry {
        None => {
            let share = Share { failed: true, ..Share::default() };
            return Ok(match end_shard(tx, task, &share, failure.rules).await? {
                Ended::Over => GivenBack::Fenced,
                Ended::Open => {
                    say(tx, task, failure.error).await?;
                    GivenBack::Open
                }
                Ended::Run(state, _) => GivenBack::Ended(state),
            });
        }
        // Said until it is overcome; that a worker was told to stop is no error.
        Some(retry) if retry.is_hand_back() => go_on(tx, task).await?,
        Some(_) => say(tx, task, failure.error).await?,
    }
    Ok(GivenBack::Open)
}

/// What went wrong last, while the run is open.
async fn say(tx: &Transaction<'_>, task: &Task, error: &str) -> Result<()> {
    let sql = "UPDATE run_data SET error = $2, stalled_at = NULL WHERE run_id = $1 AND state = 'running'";
    tx.execute(sql, &[&task.run_id, &&*clean(error)]).await?;
    Ok(())
}

async fn go_on(tx: &Transaction<'_>, task: &Task) -> Result<()> {
    let sql = "UPDATE run_data SET stalled_at = NULL WHERE run_id = $1 AND stalled_at IS NOT NULL";
    tx.execute(sql, &[&task.run_id]).await?;
    Ok(())
}

/// Whether an interval lies below a floor of retention, or crosses it.
pub(super) fn is_below(floor: Option<Timestamp>, interval: Interval) -> bool {
    floor.is_some_and(|floor| interval.start < floor)
}
