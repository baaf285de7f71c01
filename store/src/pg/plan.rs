//! The planner's transaction.

use super::PgStore;
use super::ends::give_way;
use super::schedules::{apply_move, maybe_clean, schedule_moves};
use super::types::{RowExt, Us, clean};
use super::watch::ending_blockers;
use crate::{ChangedPane, Fire, NewRun, Outcome, Plan, Result, SkippedRange};
use deadpool_postgres::Transaction;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::time::Timestamp;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

pub(super) async fn changed_panes(store: &PgStore, limit: usize) -> Result<Vec<ChangedPane>> {
    let client = store.client().await?;
    let sql = "SELECT id, pane_start, changed_at FROM changed_pane_data ORDER BY id LIMIT $1";
    let statement = client.prepare_cached(sql).await?;
    let rows = client.query(&statement, &[&i64::try_from(limit).unwrap_or(i64::MAX)]).await?;
    rows.iter()
        .map(|r| Ok(ChangedPane { id: r.at(0)?, pane_start: r.time(1)?, changed_at: r.time(2)? }))
        .collect()
}

pub(super) async fn apply(store: &PgStore, plan: &Plan) -> Result<Outcome> {
    // Two runs for one interval within a plan would meet in the index of open runs, but only as a lost row.
    let mut intervals = HashSet::new();
    let mut ids = HashSet::new();
    if !plan.open.iter().all(|r| intervals.insert((&r.schedule, r.interval.start)))
        || !plan.open.iter().all(|r| ids.insert(r.run_id))
        || plan.skipped.iter().any(|s| ids.contains(&s.run_id))
    {
        return Ok(Outcome::Fenced);
    }
    let mut client = store.client().await?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.at(0)?;
    let tx = client.transaction().await?;
    // A planner that was paused in the middle of this holds up no other.
    if !ending_blockers(store, pid, write(&tx, plan)).await? {
        return Ok(Outcome::Fenced);
    }
    tx.commit().await?;
    Ok(Outcome::Done)
}

/// False where the plan is fenced.
async fn write(tx: &Transaction<'_>, plan: &Plan) -> Result<bool> {
    for step in schedule_moves(&plan.schedules) {
        if !apply_move(tx, step).await? {
            return Ok(false);
        }
    }
    if !plan.seen.is_empty() {
        tx.execute("DELETE FROM changed_pane_data WHERE id = ANY($1)", &[&plan.seen]).await?;
    }
    let Some(heirs) = give_way(tx, &plan.end, &plan.open).await? else { return Ok(false) };
    if !open_runs(tx, &plan.open).await? || !skip(tx, &plan.skipped).await? {
        return Ok(false);
    }
    if !heirs.is_empty() {
        // The interval becomes due when they end.
        tx.execute("UPDATE run_data SET changed = true WHERE run_id = ANY($1)", &[&heirs]).await?;
    }
    fire(tx, &plan.fires).await?;
    start(tx, &plan.start).await?;
    Ok(true)
}

/// False where an interval has an open run already, an id is taken, or there is nothing to repeat.
async fn open_runs(tx: &Transaction<'_>, runs: &[NewRun]) -> Result<bool> {
    if runs.is_empty() {
        return Ok(true);
    }
    // In key order: tasks are locked in it.
    let mut runs: Vec<&NewRun> = runs.iter().collect();
    runs.sort_by_key(|r| (&r.schedule, r.interval.start));
    if !insert_runs(tx, &runs).await? {
        return Ok(false);
    }
    let cut: Vec<&NewRun> = runs.iter().copied().filter(|r| r.retry_of.is_none()).collect();
    cut_tasks(tx, &cut).await?;
    for run in runs {
        if let Some(former) = run.retry_of
            && !retake(tx, run, former).await?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn insert_runs(tx: &Transaction<'_>, runs: &[&NewRun]) -> Result<bool> {
    let ids: Vec<Uuid> = runs.iter().map(|r| r.run_id).collect();
    let schedules: Vec<&str> = runs.iter().map(|r| r.schedule.as_str()).collect();
    let starts: Vec<Us> = runs.iter().map(|r| r.interval.start.into()).collect();
    let ends: Vec<Us> = runs.iter().map(|r| r.interval.end.into()).collect();
    let causes: Vec<&str> = runs.iter().map(|r| r.cause.as_str()).collect();
    let sets: Vec<Option<i64>> = runs.iter().map(|r| r.model_set).collect();
    let data_only: Vec<bool> = runs.iter().map(|r| r.data_only).collect();
    let notes: Vec<Option<String>> = runs.iter().map(|r| maybe_clean(r.note.as_ref())).collect();
    let scopes: Vec<&str> = runs.iter().map(|r| r.scope.as_str()).collect();
    let series: Vec<Option<String>> = runs.iter().map(|r| maybe_clean(r.series.as_ref())).collect();
    let shards: Vec<i32> = runs.iter().map(|r| count(r.cuts.len() + 1)).collect();
    let former: Vec<Option<Uuid>> = runs.iter().map(|r| r.retry_of).collect();
    let sql = "WITH opened AS (
            INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, model_set, data_only,
                note, scope, series, shards, retry_of, opened_at)
            SELECT a.id, a.schedule, a.first, a.last, CASE WHEN a.set IS NULL THEN 'waiting' ELSE 'running' END, a.cause,
                a.set, a.data_only, a.note, a.scope, a.series, a.shards, a.former, now()
            FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[],
                    $7::boolean[], $8::text[], $9::text[], $10::text[], $11::integer[], $12::uuid[])
                AS a(id, schedule, first, last, cause, set, data_only, note, scope, series, shards, former)
            ON CONFLICT DO NOTHING RETURNING run_id, state, note)
        INSERT INTO run_event_data (run_id, event, detail) SELECT run_id, state, note FROM opened";
    let statement = tx.prepare_cached(sql).await?;
    let opened = tx
        .execute(
            &statement,
            &[
                &ids, &schedules, &starts, &ends, &causes, &sets, &data_only, &notes, &scopes, &series,
                &shards, &former,
            ],
        )
        .await?;
    Ok(opened == runs.len() as u64)
}

/// A number that is bounded by what fits into a plan.
fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// One task for each range, in place of what the interval had; attempts go on above all of those.
async fn cut_tasks(tx: &Transaction<'_>, runs: &[&NewRun]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let schedules: Vec<&str> = runs.iter().map(|r| r.schedule.as_str()).collect();
    let starts: Vec<Us> = runs.iter().map(|r| r.interval.start.into()).collect();
    let sql = "DELETE FROM run_task_data t USING unnest($1::text[], $2::timestamptz[]) AS a(schedule, first)
        WHERE t.schedule = a.schedule AND t.interval_start = a.first
        RETURNING t.schedule, t.interval_start, t.attempt";
    let mut attempts: HashMap<(String, Timestamp), i64> = HashMap::new();
    for row in tx.query(&tx.prepare_cached(sql).await?, &[&schedules, &starts]).await? {
        let attempt = attempts.entry((row.at(0)?, row.time(1)?)).or_default();
        *attempt = (*attempt).max(row.at(2)?);
    }
    let row = tx.query_one("SELECT forgotten_until, forgotten_attempt FROM setting_data", &[]).await?;
    let forgotten = row.maybe_time(0)?.zip(row.at(1)?);
    let id = |id: SeriesId| i32::try_from(id).unwrap_or(i32::MAX);
    let mut of: Vec<Uuid> = Vec::new();
    let mut shards: Vec<i32> = Vec::new();
    let (mut from, mut until): (Vec<i32>, Vec<Option<i32>>) = (Vec::new(), Vec::new());
    let mut above: Vec<i64> = Vec::new();
    for run in runs {
        let found = attempts.get(&(run.schedule.clone(), run.interval.start)).copied();
        let gone = || forgotten.filter(|(until, _)| run.interval.end <= *until).map(|(_, attempt)| attempt);
        let attempt = found.or_else(gone).unwrap_or(0);
        for (shard, range) in run.ranges().into_iter().enumerate() {
            of.push(run.run_id);
            shards.push(count(shard));
            from.push(id(range.from));
            until.push(range.until.map(id));
            above.push(attempt);
        }
    }
    let sql = "INSERT INTO run_task_data (schedule, interval_start, shard, interval_end, run_id, state, series_from,
            series_until, attempt, opened_at)
        SELECT r.schedule, r.interval_start, a.shard, r.interval_end, r.run_id,
            CASE r.state WHEN 'waiting' THEN 'waiting' ELSE 'open' END, a.first, a.last, a.attempt, r.opened_at
        FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::bigint[])
            AS a(run_id, shard, first, last, attempt)
        JOIN run_data r ON r.run_id = a.run_id";
    tx.execute(&tx.prepare_cached(sql).await?, &[&of, &shards, &from, &until, &above]).await?;
    Ok(())
}

/// What a run left undone becomes a new run's, as it was cut; false where that is nothing.
async fn retake(tx: &Transaction<'_>, run: &NewRun, former: Uuid) -> Result<bool> {
    let sql = "UPDATE run_task_data t SET run_id = r.run_id, interval_end = r.interval_end, opened_at = r.opened_at,
            state = CASE r.state WHEN 'waiting' THEN 'waiting' ELSE 'open' END, tries = 0, failures = 0, worker = NULL,
            lease_until = NULL, not_before = NULL, error = NULL, updated_at = clock_timestamp(), scored = 0,
            anomalies = 0, no_data = 0, no_model = 0, model_error = 0, input_invalid = 0, open_us = 0, read_us = 0,
            score_us = 0, write_us = 0,
            attempt = (SELECT max(o.attempt) FROM run_task_data o
                WHERE o.schedule = t.schedule AND o.interval_start = t.interval_start)
        FROM run_data r
        WHERE r.run_id = $1 AND t.schedule = r.schedule AND t.interval_start = r.interval_start AND t.run_id = $2
            AND t.state <> 'done'";
    let shards =
        count(usize::try_from(tx.execute(sql, &[&run.run_id, &former]).await?).unwrap_or(usize::MAX));
    tx.execute("UPDATE run_data SET shards = $2 WHERE run_id = $1", &[&run.run_id, &shards]).await?;
    Ok(shards > 0)
}

/// New ranges, and stored ones that become longer; false where an id is something else's.
async fn skip(tx: &Transaction<'_>, ranges: &[SkippedRange]) -> Result<bool> {
    let sql = "INSERT INTO run_data AS r (run_id, schedule, interval_start, interval_end, state, cause, note, opened_at,
            finished_at)
        VALUES ($1, $2, $3, $4, 'skipped', $5, $6, now(), now())
        ON CONFLICT (run_id) DO UPDATE SET interval_start = least(r.interval_start, excluded.interval_start),
            interval_end = greatest(r.interval_end, excluded.interval_end), note = excluded.note,
            finished_at = excluded.finished_at
        WHERE r.state = 'skipped' AND r.schedule = excluded.schedule
        RETURNING xmax = 0";
    for range in ranges {
        let (start, end) = (Us::from(range.range.start), Us::from(range.range.end));
        let note = clean(&range.note);
        let cause = range.cause.as_str();
        let row = tx
            .query_opt(
                &tx.prepare_cached(sql).await?,
                &[&range.run_id, &range.schedule, &start, &end, &cause, &&*note],
            )
            .await?;
        let Some(row) = row else { return Ok(false) };
        if row.at(0)? {
            let sql = "INSERT INTO run_event_data (run_id, event, detail) VALUES ($1, 'skipped', $2)";
            tx.execute(sql, &[&range.run_id, &&*note]).await?;
        }
    }
    Ok(true)
}

async fn fire(tx: &Transaction<'_>, fires: &[Fire]) -> Result<()> {
    let sql =
        "INSERT INTO fire_data (schedule, fire_at, last_fire_at, fires, reason) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (schedule, fire_at) DO UPDATE SET last_fire_at = excluded.last_fire_at,
            fires = excluded.fires, reason = excluded.reason, recorded_at = excluded.recorded_at";
    for fire in fires {
        let (at, last) = (Us::from(fire.at), Us::from(fire.last));
        let reason = maybe_clean(fire.reason.as_ref());
        tx.execute(&tx.prepare_cached(sql).await?, &[&fire.schedule, &at, &last, &fire.fires, &reason])
            .await?;
    }
    Ok(())
}

/// Waiting runs may go on; one that is no longer waiting stays as it is.
async fn start(tx: &Transaction<'_>, runs: &[(Uuid, i64)]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let (ids, sets): (Vec<Uuid>, Vec<i64>) = runs.iter().copied().unzip();
    // In the order of their key, as everywhere; then the runs.
    let tasks = "WITH locked AS MATERIALIZED (
            SELECT schedule, interval_start, shard FROM run_task_data
            WHERE run_id = ANY($1) AND state = 'waiting' ORDER BY schedule, interval_start, shard FOR UPDATE)
        UPDATE run_task_data t SET state = 'open', updated_at = clock_timestamp() FROM locked l
        WHERE t.schedule = l.schedule AND t.interval_start = l.interval_start AND t.shard = l.shard";
    tx.execute(tasks, &[&ids]).await?;
    let sql = "WITH started AS (
            UPDATE run_data r SET state = 'running', model_set = a.set, note = NULL
            FROM unnest($1::uuid[], $2::bigint[]) AS a(id, set) WHERE r.run_id = a.id AND r.state = 'waiting'
            RETURNING r.run_id, a.set)
        INSERT INTO run_event_data (run_id, event, detail) SELECT run_id, 'running', NULL FROM started";
    tx.execute(sql, &[&ids, &sets]).await?;
    Ok(())
}
