//! The planner's transaction.

use super::runs::note_run;
use super::tasks::give_way;
use crate::{Fire, NewRun, Outcome, Plan, Result, ScheduleMove, SkippedRange};
use fleetscore_schemas::status::{RunState, TaskState};
use fleetscore_schemas::time::{Interval, Timestamp};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use std::str::FromStr;
use uuid::Uuid;

/// Parses the text of a column.
pub(super) fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

/// The interval in two columns.
pub(super) fn interval(row: &Row<'_>, column: usize) -> rusqlite::Result<Interval> {
    Ok(Interval { start: Timestamp(row.get(column)?), end: Timestamp(row.get(column + 1)?) })
}

pub(super) fn us(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::us)
}

pub(super) fn plan(tx: &Transaction<'_>, plan: &Plan, now: Timestamp) -> Result<Outcome> {
    for step in &plan.schedules {
        if !move_schedule(tx, step, now)? {
            return Ok(Outcome::Fenced);
        }
    }
    let Some(heirs) = give_way(tx, &plan.end, &plan.open, now)? else { return Ok(Outcome::Fenced) };
    for run in &plan.open {
        if !open(tx, run, heirs.contains(&run.run_id), now)? {
            return Ok(Outcome::Fenced);
        }
    }
    for range in &plan.skipped {
        if !skip(tx, range, now)? {
            return Ok(Outcome::Fenced);
        }
    }
    for one in &plan.fires {
        fire(tx, one, now)?;
    }
    for (run, model_set) in &plan.start {
        start(tx, *run, *model_set, now)?;
    }
    let mut seen = tx.prepare_cached("DELETE FROM changed_pane_data WHERE id = ?1")?;
    for id in &plan.seen {
        seen.execute([id])?;
    }
    Ok(Outcome::Done)
}

/// False where the revision is no longer the one that was read.
fn move_schedule(tx: &Transaction<'_>, step: &ScheduleMove, now: Timestamp) -> Result<bool> {
    // max() of a NULL is NULL.
    let moved = tx
        .prepare_cached(
            "UPDATE schedule_data SET revision = revision + 1, first_interval = coalesce(first_interval, ?3),
                 covered_until = coalesce(max(covered_until, ?4), covered_until, ?4),
                 looked_at = coalesce(?5, looked_at),
                 missed_until = coalesce(?6, missed_until), missed_newest = coalesce(?7, missed_newest),
                 fired_at = coalesce(max(fired_at, ?8), fired_at, ?8),
                 released_until = coalesce(max(released_until, ?9), released_until, ?9)
             WHERE name = ?1 AND revision = ?2",
        )?
        .execute(params![
            step.name,
            step.revision,
            us(step.first_interval),
            us(step.covered_until),
            step.looked.then_some(now.0),
            step.missed.map(|m| m.until.0),
            step.missed.map(|m| m.newest_pane.0),
            us(step.fired_at),
            us(step.released_until),
        ])?;
    Ok(moved == 1)
}

/// Opens a run with its tasks, `changed` where one that gave way to it had changed its interval; false where its id or its interval is taken, or nothing is left to repeat.
fn open(tx: &Transaction<'_>, run: &NewRun, changed: bool, now: Timestamp) -> Result<bool> {
    let state = if run.model_set.is_some() { RunState::Running } else { RunState::Waiting };
    // Both keys may be in the way: the run's id, and the one open run of the interval.
    let inserted = tx
        .prepare_cached(
            "INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, model_set, opened_at,
                 note, data_only, scope, series, retry_of, changed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            run.run_id.to_string(),
            run.schedule,
            run.interval.start.0,
            run.interval.end.0,
            state.as_str(),
            run.cause.as_str(),
            run.model_set,
            now.0,
            run.note,
            run.data_only,
            run.scope.as_str(),
            run.series,
            run.retry_of.map(|id| id.to_string()),
            changed,
        ])?;
    if inserted == 0 {
        return Ok(false);
    }
    let task = if state == RunState::Running { TaskState::Open } else { TaskState::Waiting };
    let shards = match run.retry_of {
        Some(of) => retake(tx, run, of, task, now)?,
        None => cut(tx, run, task, now)?,
    };
    let id = run.run_id.to_string();
    tx.prepare_cached("UPDATE run_data SET shards = ?2 WHERE run_id = ?1")?
        .execute(params![id, shards as i64])?;
    note_run(tx, run.run_id, state.as_str(), None, None, run.note.as_deref(), now)?;
    Ok(shards > 0)
}

/// The greatest attempt that the interval has had: no claim of an old cut may have a number of the new one.
fn greatest_attempt(tx: &Transaction<'_>, run: &NewRun) -> Result<i64> {
    let sql = "SELECT coalesce(
            (SELECT max(attempt) FROM run_task_data WHERE schedule = ?1 AND interval_start = ?2),
            (SELECT forgotten_attempt FROM setting_data WHERE forgotten_until >= ?3), 0)";
    let key = params![run.schedule, run.interval.start.0, run.interval.end.0];
    Ok(tx.prepare_cached(sql)?.query_row(key, |r| r.get(0))?)
}

/// One task for each range, in place of what the interval had; how many.
fn cut(tx: &Transaction<'_>, run: &NewRun, state: TaskState, now: Timestamp) -> Result<usize> {
    let attempt = greatest_attempt(tx, run)?;
    tx.prepare_cached("DELETE FROM run_task_data WHERE schedule = ?1 AND interval_start = ?2")?
        .execute(params![run.schedule, run.interval.start.0])?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO run_task_data (schedule, interval_start, shard, interval_end, run_id, state, series_from,
             series_until, attempt, opened_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)",
    )?;
    let ranges = run.ranges();
    for (shard, range) in (0_i32..).zip(&ranges) {
        insert.execute(params![
            run.schedule,
            run.interval.start.0,
            shard,
            run.interval.end.0,
            run.run_id.to_string(),
            state.as_str(),
            range.from,
            range.until,
            attempt,
            now.0,
        ])?;
    }
    Ok(ranges.len())
}

/// What a run left undone becomes the new run's, as it was cut; how many shards.
fn retake(tx: &Transaction<'_>, run: &NewRun, of: Uuid, state: TaskState, now: Timestamp) -> Result<usize> {
    let attempt = greatest_attempt(tx, run)?;
    let sql = "UPDATE run_task_data SET run_id = ?3, state = ?4, attempt = ?5, opened_at = ?6, updated_at = ?6, tries = 0, failures = 0,
             worker = NULL, lease_until = NULL, not_before = NULL, error = NULL, scored = 0, anomalies = 0,
             no_data = 0, no_model = 0, model_error = 0, input_invalid = 0, open_us = 0, read_us = 0, score_us = 0,
             write_us = 0
         WHERE schedule = ?1 AND interval_start = ?2 AND run_id = ?7 AND state <> 'done'";
    Ok(tx.prepare_cached(sql)?.execute(params![
        run.schedule,
        run.interval.start.0,
        run.run_id.to_string(),
        state.as_str(),
        attempt,
        now.0,
        of.to_string(),
    ])?)
}

/// A new range, or a stored one that becomes longer; false where the id is something else's.
fn skip(tx: &Transaction<'_>, s: &SkippedRange, now: Timestamp) -> Result<bool> {
    let id = s.run_id.to_string();
    let (start, end) = (s.range.start.0, s.range.end.0);
    let new = tx
        .prepare_cached(
            "INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, opened_at, finished_at,
                 note)
             VALUES (?1, ?2, ?3, ?4, 'skipped', ?5, ?6, ?6, ?7)
             ON CONFLICT (run_id) DO UPDATE SET interval_start = min(interval_start, excluded.interval_start),
                 interval_end = max(interval_end, excluded.interval_end), note = excluded.note,
                 finished_at = excluded.finished_at
             WHERE state = 'skipped' AND schedule = excluded.schedule
             RETURNING NOT EXISTS (SELECT 1 FROM run_event_data e WHERE e.run_id = ?1)",
        )?
        .query_row(params![id, s.schedule, start, end, s.cause.as_str(), now.0, s.note], |r| r.get(0))
        .optional()?;
    match new {
        None => return Ok(false),
        Some(true) => note_run(tx, s.run_id, "skipped", None, None, Some(&s.note), now)?,
        Some(false) => {}
    }
    Ok(true)
}

fn fire(tx: &Transaction<'_>, fire: &Fire, now: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO fire_data (schedule, fire_at, last_fire_at, fires, reason, recorded_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET last_fire_at = excluded.last_fire_at, fires = excluded.fires,
             reason = excluded.reason, recorded_at = excluded.recorded_at",
    )?
    .execute(params![fire.schedule, fire.at.0, fire.last.0, fire.fires, fire.reason, now.0])?;
    Ok(())
}

/// A waiting run may go on; one that is no longer waiting stays as it is.
fn start(tx: &Transaction<'_>, run: Uuid, model_set: i64, now: Timestamp) -> Result<()> {
    let id = run.to_string();
    let started = tx
        .prepare_cached(
            "UPDATE run_data SET state = 'running', model_set = ?2, note = NULL
             WHERE run_id = ?1 AND state = 'waiting'",
        )?
        .execute(params![id, model_set])?;
    if started == 1 {
        tx.prepare_cached("UPDATE run_task_data SET state = 'open', updated_at = ?2 WHERE run_id = ?1")?
            .execute(params![id, now.0])?;
        note_run(tx, run, "running", None, None, None, now)?;
    }
    Ok(())
}
