//! Leases on tasks.

use super::PgStore;
use super::types::{RowExt, Us, clean};
use super::watch::ending_blockers;
use crate::{Outcome, Phases, Result, RunCounts, SeriesRange, StoreError, Task, TaskClaim};
use deadpool_postgres::{GenericClient, Transaction};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::time::Interval;
use tokio_postgres::Row;

/// What makes a task due, and one of those that are asked for: `$1` are certain runs.
fn due(claim: &TaskClaim) -> String {
    // No condition that may count or not: a plan that is made once must find the index either way.
    let asked = if claim.run_ids.is_some() { "t.run_id = ANY($1::uuid[])" } else { "$1::uuid[] IS NULL" };
    format!(
        "t.state = 'open' AND {asked} AND (t.lease_until IS NULL OR t.lease_until <= clock_timestamp())
            AND (t.not_before IS NULL OR t.not_before <= clock_timestamp())"
    )
}

/// The order in which tasks are claimed, which is that of an index.
const ORDER: &str = "ORDER BY t.opened_at, t.interval_start, t.schedule, t.shard";

/// One task, by its key.
type Key = (String, Us, i32);

/// Claims a task, one statement: who finds nothing to do has nothing to undo. First choice is the shard that is liked best,
/// one of `$4`, of the oldest run; second, where others are just claiming all of those, the oldest that is free. With a
/// key that task alone, `$5` to `$7`. The last column says whether a task is due that somebody has locked.
fn lease_sql(claim: &TaskClaim, key: bool) -> String {
    let due = due(claim);
    let tasks = "SELECT t.schedule, t.interval_start, t.shard, t.worker, t.lease_until FROM run_task_data t";
    let choice = match key {
        true => format!(
            "chosen AS ({tasks} WHERE t.schedule = $5 AND t.interval_start = $6 AND t.shard = $7 AND {due}
                AND $4::integer[] IS NOT NULL FOR UPDATE OF t)"
        ),
        false => format!(
            "oldest AS MATERIALIZED ({tasks} WHERE {due} {ORDER} LIMIT 1),
            liked AS (
                {tasks} JOIN oldest o ON t.schedule = o.schedule AND t.interval_start = o.interval_start
                WHERE {due} ORDER BY t.shard <> ALL($4::integer[]), t.shard LIMIT 1 FOR UPDATE OF t SKIP LOCKED),
            free AS (
                {tasks} WHERE {due} AND NOT EXISTS (SELECT FROM liked) {ORDER} LIMIT 1 FOR UPDATE OF t SKIP LOCKED),
            chosen AS (SELECT * FROM liked UNION ALL SELECT * FROM free
                WHERE $5::text IS NULL AND $6::timestamptz IS NULL AND $7::integer IS NULL)"
        ),
    };
    format!(
        "WITH {choice},
        leased AS (
            UPDATE run_task_data t SET attempt = t.attempt + 1, tries = t.tries + 1, worker = $2, not_before = NULL,
                lease_until = clock_timestamp() + $3::bigint * interval '1 microsecond', updated_at = clock_timestamp()
            FROM chosen d WHERE t.schedule = d.schedule AND t.interval_start = d.interval_start AND t.shard = d.shard
            RETURNING t.run_id, t.schedule, t.shard, t.attempt, t.tries, t.failures, t.series_from, t.series_until),
        run AS (
            UPDATE run_data r SET attempt = r.attempt + 1, started_at = coalesce(r.started_at, clock_timestamp()),
                stalled_at = NULL
            FROM leased l WHERE r.run_id = l.run_id AND r.state = 'running'
            RETURNING r.run_id, r.interval_start, r.interval_end, r.model_set, r.data_only, r.scope, r.series, r.cause,
                r.attempt),
        begun AS (
            INSERT INTO run_event_data (run_id, event, worker)
            SELECT run_id, 'started', $2 FROM run WHERE attempt = 1),
        lost AS (
            INSERT INTO run_event_data (run_id, event, shard, worker, detail)
            SELECT l.run_id, 'lease_lost', l.shard, d.worker, $8
            FROM leased l CROSS JOIN chosen d WHERE d.lease_until IS NOT NULL)
        SELECT l.run_id, l.schedule, l.shard, l.attempt, l.tries, l.series_from, l.series_until,
            r.interval_start, r.interval_end, r.model_set, r.data_only, r.scope, r.series, r.cause,
            CASE WHEN l.run_id IS NULL THEN EXISTS (SELECT FROM run_task_data t WHERE {due}) ELSE false END,
            l.failures
        FROM (SELECT 1) one LEFT JOIN leased l ON true LEFT JOIN run r ON true"
    )
}

pub(super) async fn claim(store: &PgStore, claim: &TaskClaim) -> Result<Option<Task>> {
    let mut client = store.client().await?;
    let sql = format!("SELECT EXISTS (SELECT FROM run_task_data t WHERE {}), pg_backend_pid()", due(claim));
    let row = client.query_one(&client.prepare_cached(&sql).await?, &[&claim.run_ids]).await?;
    if !row.at::<bool>(0)? {
        return Ok(None);
    }
    let pid: i32 = row.at(1)?;
    // The run's row may be held by a process that was paused while it ended another shard.
    let (task, locked) = ending_blockers(store, pid, lease(&client, claim, None)).await?;
    if task.is_some() || !locked {
        return Ok(task);
    }
    let tx = client.transaction().await?;
    let Some(key) = take_over(store, &tx, pid, claim).await? else { return Ok(None) };
    let (task, _) = ending_blockers(store, pid, lease(&tx, claim, Some(key))).await?;
    tx.commit().await?;
    Ok(task)
}

/// A task that is due while somebody sits in a transaction over it is passed over by a claim. Whoever still holds that
/// lock after two seconds is disconnected.
async fn take_over(
    store: &PgStore,
    tx: &Transaction<'_>,
    pid: i32,
    claim: &TaskClaim,
) -> Result<Option<Key>> {
    let due = due(claim);
    let locked = format!(
        "SELECT t.schedule, t.interval_start, t.shard FROM run_task_data t WHERE {due} {ORDER} LIMIT 1"
    );
    let Some(row) = tx.query_opt(&tx.prepare_cached(&locked).await?, &[&claim.run_ids]).await? else {
        return Ok(None);
    };
    let key: Key = (row.at(0)?, row.at(1)?, row.at(2)?);
    let lock = async {
        let sql = format!(
            "SELECT 1 FROM run_task_data t
            WHERE t.schedule = $2 AND t.interval_start = $3 AND t.shard = $4 AND {due} FOR UPDATE"
        );
        Ok(tx.query_opt(&sql, &[&claim.run_ids, &key.0, &key.1, &key.2]).await?.is_some())
    };
    Ok(ending_blockers(store, pid, lock).await?.then_some(key))
}

/// The leased task, and whether there is one that is due and locked.
async fn lease(
    client: &impl GenericClient,
    claim: &TaskClaim,
    key: Option<Key>,
) -> Result<(Option<Task>, bool)> {
    let statement = client.prepare_cached(&lease_sql(claim, key.is_some())).await?;
    let (schedule, start, shard) = key.map_or((None, None, None), |k| (Some(k.0), Some(k.1), Some(k.2)));
    let worker = clean(&claim.worker);
    let lost = crate::notices::lease_lost(&worker);
    let row = client
        .query_one(
            &statement,
            &[&claim.run_ids, &&*worker, &claim.lease_us, &claim.prefer, &schedule, &start, &shard, &lost],
        )
        .await?;
    let locked = row.at(14)?;
    let Some(run_id) = row.at::<Option<uuid::Uuid>>(0)? else { return Ok((None, locked)) };
    if row.at::<Option<Us>>(7)?.is_none() {
        return Err(StoreError::internal(format!("run {run_id} has an open task and is over")));
    }
    let task = Task {
        run_id,
        schedule: row.at(1)?,
        interval: Interval { start: row.time(7)?, end: row.time(8)? },
        shard: row.at(2)?,
        range: range(&row, 5)?,
        attempt: row.at(3)?,
        tries: row.at(4)?,
        failures: row.at(15)?,
        model_set: row
            .at::<Option<i64>>(9)?
            .ok_or_else(|| StoreError::internal("a running run has no model set"))?,
        data_only: row.at(10)?,
        scope: row.at::<&str>(11)?.parse().map_err(StoreError::internal)?,
        series: row.at(12)?,
        cause: row.at::<&str>(13)?.parse().map_err(StoreError::internal)?,
        worker: claim.worker.clone(),
    };
    Ok((Some(task), locked))
}

/// The series of a shard, from two columns.
pub(super) fn range(row: &Row, at: usize) -> Result<SeriesRange> {
    let until: Option<i32> = row.at(at + 1)?;
    let id = |id: i32| id as SeriesId; // not negative, as stored
    Ok(SeriesRange { from: id(row.at(at)?), until: until.map(id) })
}

pub(super) async fn renew(store: &PgStore, task: &Task, lease_us: i64) -> Result<Outcome> {
    // The run's row is touched only where it was said to be stalled.
    let sql = "WITH renewed AS (
            UPDATE run_task_data SET lease_until = clock_timestamp() + $6::bigint * interval '1 microsecond',
                updated_at = clock_timestamp()
            WHERE schedule = $1 AND interval_start = $2 AND shard = $3 AND attempt = $4 AND run_id = $5 AND state = 'open'
            RETURNING run_id),
        heard AS (
            UPDATE run_data r SET stalled_at = NULL FROM renewed t
            WHERE r.run_id = t.run_id AND r.stalled_at IS NOT NULL)
        SELECT count(*) FROM renewed";
    let client = store.client().await?;
    let statement = client.prepare_cached(sql).await?;
    let start = Us::from(task.interval.start);
    let row = client
        .query_one(&statement, &[&task.schedule, &start, &task.shard, &task.attempt, &task.run_id, &lease_us])
        .await?;
    let n: i64 = row.at(0)?;
    Ok(if n == 1 { Outcome::Done } else { Outcome::Fenced })
}

/// How an attempt at a task ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum TaskEnd<'a> {
    /// Its predictions are stored.
    Done(RunCounts, Phases),
    /// Its retries ran out.
    Failed(&'a str),
    /// It is tried again after a pause.
    Again(&'a str, crate::Retry),
}

/// The fence of everything a worker does: true if this claim of the task is still the newest and its run is not over;
/// the attempt has ended then. The row stays locked.
pub(super) async fn end_attempt(tx: &Transaction<'_>, task: &Task, end: TaskEnd<'_>) -> Result<bool> {
    let sql = "UPDATE run_task_data SET state = $6, lease_until = NULL, updated_at = clock_timestamp(),
            error = CASE WHEN $9::bigint > 0 THEN error ELSE $7 END,
            not_before = clock_timestamp() + $8::bigint * interval '1 microsecond', tries = tries - $9::bigint,
            failures = failures + $20::bigint,
            scored = $10, anomalies = $11, no_data = $12, no_model = $13, model_error = $14, input_invalid = $15,
            open_us = $16, read_us = $17, score_us = $18, write_us = $19
        WHERE schedule = $1 AND interval_start = $2 AND shard = $3 AND attempt = $4 AND run_id = $5 AND state = 'open'";
    let (mut c, mut p) = (RunCounts::default(), Phases::default());
    let counted = matches!(end, TaskEnd::Again(_, retry) if retry.counts);
    let (state, error, pause, untried) = match end {
        TaskEnd::Done(counts, phases) => {
            (c, p) = (counts, phases);
            ("done", None, None, 0_i64)
        }
        TaskEnd::Failed(error) => ("failed", Some(error), None, 0),
        TaskEnd::Again(error, retry) => ("open", Some(error), Some(retry.after_us), i64::from(!retry.counts)),
    };
    let error = error.map(clean);
    let start = Us::from(task.interval.start);
    let statement = tx.prepare_cached(sql).await?;
    let n = tx
        .execute(
            &statement,
            &[
                &task.schedule,
                &start,
                &task.shard,
                &task.attempt,
                &task.run_id,
                &state,
                &error.as_deref(),
                &pause,
                &untried,
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
                &i64::from(counted),
            ],
        )
        .await?;
    Ok(n == 1)
}
