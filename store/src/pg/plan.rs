//! The planner's transaction, and runs as they are read.

use super::PgStore;
use super::schedules::{apply_move, maybe_clean, schedule_moves};
use super::types::{RowExt, Us, clean, us};
use crate::{
    ChangedPane, NewRun, Outcome, Plan, Result, RunCounts, RunFilter, RunRow, SkippedRange, StoreError,
};
use deadpool_postgres::Transaction;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::Interval;
use std::collections::HashSet;
use tokio_postgres::Row;
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
    if !plan.open.iter().all(|r| intervals.insert((&r.schedule, r.interval.start))) {
        return Ok(Outcome::Fenced);
    }
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    for step in schedule_moves(&plan.schedules) {
        if !apply_move(&tx, step).await? {
            return Ok(Outcome::Fenced);
        }
    }
    if !plan.seen.is_empty() {
        tx.execute("DELETE FROM changed_pane_data WHERE id = ANY($1)", &[&plan.seen]).await?;
    }
    if !open_runs(&tx, &plan.open).await? || !skip(&tx, &plan.skipped).await? {
        return Ok(Outcome::Fenced);
    }
    start(&tx, &plan.start).await?;
    tx.commit().await?;
    Ok(Outcome::Done)
}

/// False where an interval has an open run already, or an id is taken.
async fn open_runs(tx: &Transaction<'_>, runs: &[NewRun]) -> Result<bool> {
    if runs.is_empty() {
        return Ok(true);
    }
    // In key order: tasks are locked in it.
    let mut runs: Vec<&NewRun> = runs.iter().collect();
    runs.sort_by_key(|r| (&r.schedule, r.interval.start));
    let ids: Vec<Uuid> = runs.iter().map(|r| r.run_id).collect();
    let schedules: Vec<&str> = runs.iter().map(|r| r.schedule.as_str()).collect();
    let starts: Vec<Us> = runs.iter().map(|r| r.interval.start.into()).collect();
    let ends: Vec<Us> = runs.iter().map(|r| r.interval.end.into()).collect();
    let causes: Vec<&str> = runs.iter().map(|r| r.cause.as_str()).collect();
    let sets: Vec<Option<i64>> = runs.iter().map(|r| r.model_set).collect();
    let data_only: Vec<bool> = runs.iter().map(|r| r.data_only).collect();
    let notes: Vec<Option<String>> = runs.iter().map(|r| maybe_clean(r.note.as_ref())).collect();
    let sql = "INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, model_set, data_only,
            note, opened_at)
        SELECT a.id, a.schedule, a.first, a.last, CASE WHEN a.set IS NULL THEN 'waiting' ELSE 'running' END, a.cause,
            a.set, a.data_only, a.note, now()
        FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[], $7::boolean[],
            $8::text[]) AS a(id, schedule, first, last, cause, set, data_only, note)
        ON CONFLICT DO NOTHING";
    let statement = tx.prepare_cached(sql).await?;
    let opened = tx
        .execute(&statement, &[&ids, &schedules, &starts, &ends, &causes, &sets, &data_only, &notes])
        .await?;
    if opened != runs.len() as u64 {
        return Ok(false);
    }
    // The attempt goes on rising over all runs of an interval.
    let sql = "INSERT INTO run_task_data AS t (schedule, interval_start, shard, interval_end, run_id, state, opened_at)
        SELECT a.schedule, a.first, 0, a.last, a.id, CASE WHEN a.set IS NULL THEN 'waiting' ELSE 'open' END, now()
        FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[])
            AS a(id, schedule, first, last, set)
        ON CONFLICT (schedule, interval_start, shard) DO UPDATE SET run_id = excluded.run_id, state = excluded.state,
            interval_end = excluded.interval_end, opened_at = excluded.opened_at, worker = NULL, lease_until = NULL,
            updated_at = clock_timestamp()";
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, &[&ids, &schedules, &starts, &ends, &sets]).await?;
    Ok(true)
}

async fn skip(tx: &Transaction<'_>, ranges: &[SkippedRange]) -> Result<bool> {
    for range in ranges {
        let sql = "INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, note, opened_at,
                finished_at)
            VALUES ($1, $2, $3, $4, 'skipped', $5, $6, now(), now()) ON CONFLICT DO NOTHING";
        let (start, end) = (Us::from(range.range.start), Us::from(range.range.end));
        let note = clean(&range.note);
        let n = tx
            .execute(sql, &[&range.run_id, &range.schedule, &start, &end, &range.cause.as_str(), &&*note])
            .await?;
        if n != 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waiting runs may go on; one that is no longer waiting stays as it is.
async fn start(tx: &Transaction<'_>, runs: &[(Uuid, i64)]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let (ids, sets): (Vec<Uuid>, Vec<i64>) = runs.iter().copied().unzip();
    let tasks = "UPDATE run_task_data t SET state = 'open', updated_at = clock_timestamp()
        WHERE t.run_id = ANY($1) AND t.state = 'waiting'";
    tx.execute(tasks, &[&ids]).await?;
    let sql = "UPDATE run_data r SET state = 'running', model_set = a.set, note = NULL
        FROM unnest($1::uuid[], $2::bigint[]) AS a(id, set) WHERE r.run_id = a.id AND r.state = 'waiting'";
    tx.execute(sql, &[&ids, &sets]).await?;
    Ok(())
}

pub(super) async fn runs(store: &PgStore, filter: &RunFilter) -> Result<Vec<RunRow>> {
    let sql = "SELECT run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, anomalies, no_data,
            no_model, model_error, input_invalid, attempt, opened_at, started_at, finished_at, coalesce(error, note),
            data_only
        FROM run_data
        WHERE ($1::text IS NULL OR schedule = $1) AND ($2::text[] IS NULL OR state = ANY($2))
            AND ($3::uuid[] IS NULL OR run_id = ANY($3))
            AND ($4::timestamptz IS NULL OR interval_start < $4) AND ($5::timestamptz IS NULL OR interval_end > $5)
        ORDER BY interval_start DESC, opened_at DESC, run_id DESC LIMIT $6";
    let states: Option<Vec<&str>> =
        (!filter.states.is_empty()).then(|| filter.states.iter().map(|s| s.as_str()).collect());
    let (before, after) = (us(filter.overlapping.map(|o| o.end)), us(filter.overlapping.map(|o| o.start)));
    let limit = (filter.limit > 0).then(|| i64::try_from(filter.limit).unwrap_or(i64::MAX));
    let client = store.client().await?;
    // Not a kept statement: which of the conditions count decides which index is right.
    let rows =
        client.query(sql, &[&filter.schedule, &states, &filter.run_ids, &before, &after, &limit]).await?;
    rows.iter().map(run).collect()
}

fn run(row: &Row) -> Result<RunRow> {
    let state: RunState = row.at::<&str>(4)?.parse().map_err(StoreError::internal)?;
    Ok(RunRow {
        run_id: row.at(0)?,
        schedule: row.at(1)?,
        interval: Interval { start: row.time(2)?, end: row.time(3)? },
        state,
        cause: row.at::<&str>(5)?.parse().map_err(StoreError::internal)?,
        model_set: row.at(6)?,
        counts: RunCounts {
            scored: row.at(7)?,
            anomalies: row.at(8)?,
            no_data: row.at(9)?,
            no_model: row.at(10)?,
            model_error: row.at(11)?,
            input_invalid: row.at(12)?,
        },
        attempt: row.at(13)?,
        opened_at: row.time(14)?,
        started_at: row.maybe_time(15)?,
        finished_at: row.maybe_time(16)?,
        error: row.at(17)?,
        data_only: row.at(18)?,
    })
}
