//! The commit of a task: its predictions as they come, in place of what is stored, and the end of its shard.
//!
//! A shard of an interval is locked by an advisory lock of its own, not by the task's row: the lease is renewed, and
//! looked at by others, while rows stream in. The fence is asked first, and locked last. A process that was paused in the
//! middle of an older commit may hold the lock, rows, or keys of rows (also under other borders, where the interval was
//! cut anew since): it has lost the task, and is disconnected.

use super::PgStore;
use super::ends::{Ended, Share, end_shard, freeze, is_below};
use super::partitions::Parent;
use super::replace::{bounds, copy, merge};
use super::tasks::{TaskEnd, end_attempt};
use super::types::{RowExt, Us};
use super::watch::ending_former_holders;
use crate::intake::Intake;
use crate::{Committed, Phases, PredictionCommit, Result, Rules, Selection, SeriesRange, StoreError, Task};
use deadpool_postgres::{Object, Transaction};
use fleetscore_schemas::time::Timestamp;

pub(super) async fn commit(store: &PgStore, commit: PredictionCommit<'_>) -> Result<Committed> {
    let PredictionCommit { task, selection, predictions, phases, rules } = commit;
    let mut intake = Intake::new(predictions);
    // Before the transaction, and before a connection is held: it makes one of its own, as whoever reads the windows does.
    if intake.has_rows().await? {
        store.ensure(Parent::Predictions, &[task.interval.start]).await?;
    }
    let client = store.client().await?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.at(0)?;
    let mut held = Held { store, pid, client: Some(client) };
    let Some(client) = held.client.as_mut() else {
        return Err(StoreError::internal("a commit has a connection"));
    };
    let end = End { task, selection, phases, rules };
    let work = transact(store, client, &end, &mut intake);
    let done = ending_former_holders(store, pid, task, work).await;
    held.give_back();
    Ok(done?.unwrap_or(Committed::Fenced))
}

/// The connection of a commit. One that is broken off (a timeout, the end of the process) does not go back to the pool, where
/// whoever is next would wait behind what the server still does with it: that is ended.
struct Held<'a> {
    store: &'a PgStore,
    pid: i32,
    client: Option<Object>,
}

impl Held<'_> {
    fn give_back(&mut self) {
        drop(self.client.take());
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        drop(Object::take(client));
        let (connector, target, pid) = (self.store.connector.clone(), self.store.target.clone(), self.pid);
        // Closing the socket is not enough: a server that waits for a lock does not look at it.
        tokio::spawn(async move {
            let Ok(client) = connector.connect_once(&target).await else { return };
            if let Err(e) = client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await {
                tracing::debug!("the session of a commit that was broken off could not be ended: {e}");
            }
        });
    }
}

/// A commit without its rows.
struct End<'a> {
    task: &'a Task,
    selection: &'a Selection,
    phases: &'a (dyn Fn() -> Phases + Send + Sync),
    rules: &'a Rules,
}

async fn transact(
    store: &PgStore,
    client: &mut Object,
    end: &End<'_>,
    intake: &mut Intake<'_>,
) -> Result<Committed> {
    let End { task, selection, rules, .. } = *end;
    let tx = client.transaction().await?;
    lock_shard(&tx, task).await?;
    let Some(before) = ask(&tx, task, selection.range).await? else { return Ok(Committed::Fenced) };
    if !is_below(before.floor, task.interval) {
        let replaced = match before.any {
            true => merge(&tx, task, selection, intake).await,
            false => copy(&tx, task, selection, intake).await,
        };
        let changed = replaced.map_err(|e| store.forget_partitions(e))?;
        // Read after the windows: a floor that rises from here on has hidden none of them.
        let floor = tx.query_one("SELECT max(floor) FROM progress_data", &[]).await?.maybe_time(0)?;
        if !is_below(floor, task.interval) {
            let (counts, phases) = (intake.counts(), (end.phases)());
            if !end_attempt(&tx, task, TaskEnd::Done(counts, phases)).await? {
                return Ok(Committed::Fenced);
            }
            let share = Share { counts, phases, changed, failed: false };
            let ended = match end_shard(&tx, task, &share, rules).await? {
                Ended::Over => return Ok(Committed::Fenced),
                Ended::Open => None,
                Ended::Run(state, counts) => Some((state, counts)),
            };
            tx.commit().await?;
            return Ok(Committed::Done { counts, changed, ended });
        }
    }
    // What was written meanwhile goes.
    tx.rollback().await?;
    let tx = client.transaction().await?;
    if !freeze(&tx, task).await? {
        return Ok(Committed::Fenced);
    }
    tx.commit().await?;
    Ok(Committed::Frozen)
}

/// Waits until nobody else writes this shard, and may be idle for as long as a statement may take: between two chunks of a
/// merge this waits for rows, and large models give a chunk of them in more than the seconds that a session otherwise has.
/// It would be cut off, and tried again, for ever. A process that was paused in here is ended by who takes over from it.
async fn lock_shard(tx: &Transaction<'_>, task: &Task) -> Result<()> {
    let key = format!("predictions/{}/{}/{}", task.schedule, task.interval.start.0, task.shard);
    // Until the end of the transaction, as `SET LOCAL` is.
    let sql =
        "SELECT set_config('idle_in_transaction_session_timeout', '10min', true), pg_advisory_xact_lock(
        hashtextextended('fleetscore/' || current_schema() || '/' || $1::text, 0))";
    tx.execute(&tx.prepare_cached(sql).await?, &[&key]).await?;
    Ok(())
}

/// What there is before anything is written.
struct Before {
    floor: Option<Timestamp>,
    /// Whether the range has predictions.
    any: bool,
}

/// The fence, asked but not locked: `None` where this claim of the task is not the newest, or its run is over.
async fn ask(tx: &Transaction<'_>, task: &Task, range: SeriesRange) -> Result<Option<Before>> {
    let sql = "SELECT (SELECT max(floor) FROM progress_data),
            EXISTS (SELECT FROM prediction_data WHERE schedule = $1 AND window_start = $2
                AND series_id >= $6 AND series_id <= $7)
        FROM run_task_data
        WHERE schedule = $1 AND interval_start = $2 AND shard = $3 AND attempt = $4 AND run_id = $5 AND state = 'open'";
    let statement = tx.prepare_cached(sql).await?;
    let start = Us::from(task.interval.start);
    let (from, last) = bounds(range);
    let row = tx
        .query_opt(
            &statement,
            &[&task.schedule, &start, &task.shard, &task.attempt, &task.run_id, &from, &last],
        )
        .await?;
    row.map(|row| Ok(Before { floor: row.maybe_time(0)?, any: row.at(1)? })).transpose()
}
