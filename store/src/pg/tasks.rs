//! Leases on tasks.

use super::PgStore;
use super::types::{RowExt, Us, clean};
use super::watch::ending_blockers;
use crate::{Outcome, Result, StoreError, Task, TaskClaim};
use deadpool_postgres::Transaction;
use fleetscore_schemas::time::Interval;
use tokio_postgres::Row;
use uuid::Uuid;

/// A task that is due, in the order of their opening; `$1` restricts it to some runs.
const DUE: &str = "SELECT t.schedule, t.interval_start, t.shard FROM run_task_data t
    WHERE t.state = 'open' AND ($1::uuid[] IS NULL OR t.run_id = ANY($1))
        AND (t.lease_until IS NULL OR t.lease_until <= clock_timestamp())
    ORDER BY t.opened_at, t.interval_start, t.schedule, t.shard LIMIT 1 FOR UPDATE OF t SKIP LOCKED";

pub(super) async fn claim(store: &PgStore, claim: &TaskClaim) -> Result<Option<Task>> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    let statement = tx.prepare_cached(DUE).await?;
    let row = match tx.query_opt(&statement, &[&claim.run_ids]).await? {
        Some(row) => Some(row),
        None => take_over(store, &tx, claim).await?,
    };
    let Some(row) = row else { return Ok(None) };
    let task = lease(&tx, claim, &row).await?;
    tx.commit().await?;
    Ok(task)
}

/// A task whose lease ran out while its holder sits in a transaction is locked, and passed over above. Whoever still
/// holds that lock after two seconds is disconnected.
async fn take_over(store: &PgStore, tx: &Transaction<'_>, claim: &TaskClaim) -> Result<Option<Row>> {
    let expired = "SELECT t.schedule, t.interval_start, t.shard FROM run_task_data t
        WHERE t.state = 'open' AND ($1::uuid[] IS NULL OR t.run_id = ANY($1)) AND t.lease_until <= clock_timestamp()
        ORDER BY t.opened_at, t.interval_start, t.schedule, t.shard LIMIT 1";
    let Some(row) = tx.query_opt(&tx.prepare_cached(expired).await?, &[&claim.run_ids]).await? else {
        return Ok(None);
    };
    let (schedule, start, shard): (&str, Us, i32) = (row.at(0)?, row.at(1)?, row.at(2)?);
    let pid: i32 = tx.query_one("SELECT pg_backend_pid()", &[]).await?.at(0)?;
    let lock = async {
        let sql = "SELECT t.schedule, t.interval_start, t.shard FROM run_task_data t
            WHERE t.schedule = $1 AND t.interval_start = $2 AND t.shard = $3
                AND t.state = 'open' AND t.lease_until <= clock_timestamp() FOR UPDATE";
        Ok(tx.query_opt(sql, &[&schedule, &start, &shard]).await?)
    };
    ending_blockers(store, pid, lock).await
}

async fn lease(tx: &Transaction<'_>, claim: &TaskClaim, row: &Row) -> Result<Option<Task>> {
    let (schedule, start, shard): (&str, Us, i32) = (row.at(0)?, row.at(1)?, row.at(2)?);
    let sql = "UPDATE run_task_data SET attempt = attempt + 1, worker = $4,
            lease_until = clock_timestamp() + $5::bigint * interval '1 microsecond', updated_at = clock_timestamp()
        WHERE schedule = $1 AND interval_start = $2 AND shard = $3 RETURNING run_id, attempt";
    let statement = tx.prepare_cached(sql).await?;
    let row = tx.query_one(&statement, &[&schedule, &start, &shard, &claim.worker, &claim.lease_us]).await?;
    let (run_id, attempt): (Uuid, i64) = (row.at(0)?, row.at(1)?);
    let sql = "UPDATE run_data SET attempt = attempt + 1, started_at = coalesce(started_at, clock_timestamp())
        WHERE run_id = $1 AND state = 'running' RETURNING interval_start, interval_end, attempt, model_set, data_only";
    let statement = tx.prepare_cached(sql).await?;
    let Some(row) = tx.query_opt(&statement, &[&run_id]).await? else {
        return Err(StoreError::internal(format!("run {run_id} has an open task and is over")));
    };
    Ok(Some(Task {
        run_id,
        schedule: schedule.to_owned(),
        interval: Interval { start: row.time(0)?, end: row.time(1)? },
        shard,
        attempt,
        run_attempt: row.at(2)?,
        model_set: row
            .at::<Option<i64>>(3)?
            .ok_or_else(|| StoreError::internal("a running run has no model set"))?,
        data_only: row.at(4)?,
        worker: claim.worker.clone(),
    }))
}

pub(super) async fn renew(store: &PgStore, task: &Task, lease_us: i64) -> Result<Outcome> {
    let sql = "UPDATE run_task_data SET lease_until = clock_timestamp() + $6::bigint * interval '1 microsecond',
            updated_at = clock_timestamp()
        WHERE schedule = $1 AND interval_start = $2 AND shard = $3 AND attempt = $4 AND run_id = $5 AND state = 'open'";
    let client = store.client().await?;
    let statement = client.prepare_cached(sql).await?;
    let start = Us::from(task.interval.start);
    let n = client
        .execute(&statement, &[&task.schedule, &start, &task.shard, &task.attempt, &task.run_id, &lease_us])
        .await?;
    Ok(if n == 1 { Outcome::Done } else { Outcome::Fenced })
}

/// The fence of everything a worker does: true if this claim of the task is still the newest and its run is not over.
/// The row is locked, so that it stays so; `done` closes the task.
pub(super) async fn hold(tx: &Transaction<'_>, task: &Task, done: bool) -> Result<bool> {
    let sql = "UPDATE run_task_data SET state = CASE WHEN $6 THEN 'done' ELSE state END, lease_until = NULL,
            worker = CASE WHEN $6 THEN worker END, updated_at = clock_timestamp()
        WHERE schedule = $1 AND interval_start = $2 AND shard = $3 AND attempt = $4 AND run_id = $5 AND state = 'open'";
    let statement = tx.prepare_cached(sql).await?;
    let start = Us::from(task.interval.start);
    let n = tx
        .execute(&statement, &[&task.schedule, &start, &task.shard, &task.attempt, &task.run_id, &done])
        .await?;
    Ok(n == 1)
}

pub(super) async fn fail(store: &PgStore, task: &Task, error: &str, give_up: bool) -> Result<Outcome> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    if !hold(&tx, task, give_up).await? {
        return Ok(Outcome::Fenced);
    }
    let sql = "UPDATE run_data SET error = $2, state = CASE WHEN $3 THEN 'failed' ELSE state END,
        finished_at = CASE WHEN $3 THEN clock_timestamp() END WHERE run_id = $1 AND state = 'running'";
    if tx.execute(sql, &[&task.run_id, &&*clean(error), &give_up]).await? != 1 {
        return Ok(Outcome::Fenced);
    }
    tx.commit().await?;
    Ok(Outcome::Done)
}

pub(super) async fn cancel(store: &PgStore, run_id: Uuid) -> Result<bool> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    // Tasks before runs, as everywhere.
    let sql = "UPDATE run_task_data SET state = 'done', lease_until = NULL, updated_at = clock_timestamp()
        WHERE run_id = $1 AND state IN ('open', 'waiting')";
    tx.execute(sql, &[&run_id]).await?;
    let sql = "UPDATE run_data SET state = 'cancelled', finished_at = clock_timestamp()
        WHERE run_id = $1 AND state IN ('waiting', 'running')";
    let n = tx.execute(sql, &[&run_id]).await?;
    if n == 1 {
        tx.commit().await?;
    }
    Ok(n == 1)
}
