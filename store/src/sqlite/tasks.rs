//! Tasks: claimed, renewed, given back, and the ends of runs.

use super::plan::{interval, parsed};
use super::runs::{counts, id_list, note_run, range};
use crate::intake::FROZEN;
use crate::notices::lease_lost;
use crate::{
    GivenBack, NewRun, Outcome, Phases, Result, Retry, Rules, RunCounts, RunTotals, Task, TaskClaim, verdict,
};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use uuid::Uuid;

/// The key of the oldest task that may be claimed; of its run's tasks rather one that is preferred.
fn due(conn: &Connection, claim: &TaskClaim, now: Timestamp) -> Result<Option<(String, i64, i32)>> {
    let prefer = if claim.prefer.is_empty() { "" } else { "shard NOT IN (SELECT value FROM json_each(?3))," };
    let mut select = conn.prepare_cached(&format!(
        "SELECT schedule, interval_start, shard FROM run_task_data
         WHERE state = 'open' AND (lease_until IS NULL OR lease_until <= ?1)
           AND (not_before IS NULL OR not_before <= ?1)
           AND (?2 IS NULL OR run_id IN (SELECT value FROM json_each(?2))) AND ?3 IS NOT NULL
         ORDER BY opened_at, interval_start, schedule, {prefer} shard LIMIT 1"
    ))?;
    let ids = claim.run_ids.as_deref().map(id_list);
    let prefer = format!("{:?}", claim.prefer); // integers: their list is JSON
    let key = select.query_row(params![now.0, ids, prefer], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)));
    Ok(key.optional()?)
}

/// Whether there is anything to claim.
pub(super) fn is_due(conn: &Connection, claim: &TaskClaim, now: Timestamp) -> Result<bool> {
    Ok(due(conn, claim, now)?.is_some())
}

pub(super) fn claim_task(tx: &Transaction<'_>, claim: &TaskClaim, now: Timestamp) -> Result<Option<Task>> {
    let Some((schedule, start, shard)) = due(tx, claim, now)? else { return Ok(None) };
    let former: Option<String> = tx
        .prepare_cached(
            "SELECT worker FROM run_task_data
             WHERE schedule = ?1 AND interval_start = ?2 AND shard = ?3 AND lease_until IS NOT NULL",
        )?
        .query_row(params![schedule, start, shard], |r| r.get(0))
        .optional()?
        .flatten();
    let (attempt, tries, failures, run_id, range) = tx
        .prepare_cached(
            "UPDATE run_task_data SET attempt = attempt + 1, tries = tries + 1, worker = ?4, lease_until = ?5,
                 not_before = NULL, updated_at = ?6
             WHERE schedule = ?1 AND interval_start = ?2 AND shard = ?3
             RETURNING attempt, tries, failures, run_id, series_from, series_until",
        )?
        .query_row(
            params![schedule, start, shard, claim.worker, now.plus_us(claim.lease_us).0, now.0],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get::<_, String>(3)?, range(r, 4)?)),
        )?;
    let (task, first) = tx
        .prepare_cached(
            "UPDATE run_data SET attempt = attempt + 1, started_at = coalesce(started_at, ?2), stalled_at = NULL
             WHERE run_id = ?1
             RETURNING run_id, interval_start, interval_end, model_set, data_only, scope, series, cause, attempt = 1",
        )?
        .query_row(params![run_id, now.0], |r| {
            let task = Task {
                run_id: parsed(r, 0)?,
                schedule,
                interval: interval(r, 1)?,
                shard,
                range,
                attempt,
                tries,
                failures,
                model_set: r.get(3)?,
                data_only: r.get(4)?,
                scope: parsed(r, 5)?,
                series: r.get(6)?,
                cause: parsed(r, 7)?,
                worker: claim.worker.clone(),
            };
            Ok((task, r.get::<_, bool>(8)?))
        })?;
    if let Some(former) = former {
        let why = lease_lost(&task.worker);
        note_run(tx, task.run_id, "lease_lost", Some(shard), Some(&former), Some(&why), now)?;
    }
    if first {
        note_run(tx, task.run_id, "started", None, Some(&task.worker), None, now)?;
    }
    Ok(Some(task))
}

/// The fence: this claim of the task is the newest, and its run is not over. Whoever holds it is heard of.
pub(super) fn hold(tx: &Transaction<'_>, task: &Task, now: Timestamp) -> Result<Outcome> {
    let held = tx
        .prepare_cached(
            "UPDATE run_task_data SET updated_at = ?6
             WHERE schedule = ?1 AND interval_start = ?2 AND shard = ?3 AND attempt = ?4 AND run_id = ?5
                 AND state = 'open'",
        )?
        .execute(params![
            task.schedule,
            task.interval.start.0,
            task.shard,
            task.attempt,
            task.run_id.to_string(),
            now.0,
        ])?;
    if held == 0 {
        return Ok(Outcome::Fenced);
    }
    tx.prepare_cached("UPDATE run_data SET stalled_at = NULL WHERE run_id = ?1 AND stalled_at IS NOT NULL")?
        .execute([task.run_id.to_string()])?;
    Ok(Outcome::Done)
}

pub(super) fn renew_task(
    tx: &Transaction<'_>,
    task: &Task,
    lease_us: i64,
    now: Timestamp,
) -> Result<Outcome> {
    if hold(tx, task, now)? == Outcome::Fenced {
        return Ok(Outcome::Fenced);
    }
    let sql = "UPDATE run_task_data SET lease_until = ?4 WHERE schedule = ?1 AND interval_start = ?2 AND shard = ?3";
    let until = now.plus_us(lease_us).0;
    tx.prepare_cached(sql)?.execute(params![task.schedule, task.interval.start.0, task.shard, until])?;
    Ok(Outcome::Done)
}

/// A failed attempt, as the writer takes it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) retry: Option<Retry>,
    pub(super) rules: Rules,
}

pub(super) fn fail_task(tx: &Transaction<'_>, task: &Task, f: &Failure, now: Timestamp) -> Result<GivenBack> {
    if hold(tx, task, now)? == Outcome::Fenced {
        return Ok(GivenBack::Fenced);
    }
    let handed_back = f.retry.is_some_and(Retry::is_hand_back);
    let uncounted = f.retry.is_some_and(|retry| !retry.counts);
    let pause = f.retry.map(|retry| retry.after_us).filter(|us| *us > 0);
    let error = Some(&f.error).filter(|_| !handed_back);
    tx.prepare_cached(
        "UPDATE run_task_data SET state = CASE WHEN ?4 THEN 'failed' ELSE state END, tries = tries - ?5,
             failures = failures + ?8, not_before = ?6, error = coalesce(?7, error), lease_until = NULL
         WHERE schedule = ?1 AND interval_start = ?2 AND shard = ?3",
    )?
    .execute(params![
        task.schedule,
        task.interval.start.0,
        task.shard,
        f.retry.is_none(),
        uncounted,
        pause.map(|us| now.plus_us(us).0),
        error,
        f.retry.is_some_and(|retry| retry.counts),
    ])?;
    tx.prepare_cached(
        "UPDATE run_data SET shards_failed = shards_failed + ?2, error = coalesce(?3, error) WHERE run_id = ?1",
    )?
    .execute(params![task.run_id.to_string(), f.retry.is_none(), error])?;
    let event = match f.retry {
        None => "shard_failed",
        Some(_) if handed_back => "handed_back",
        Some(_) => "retrying",
    };
    note_run(tx, task.run_id, event, Some(task.shard), Some(&task.worker), Some(&f.error), now)?;
    if f.retry.is_some() {
        return Ok(GivenBack::Open);
    }
    let ended = end_if_last(tx, task.run_id, &f.rules, now)?;
    Ok(ended.map_or(GivenBack::Open, |(state, _)| GivenBack::Ended(state)))
}

// --- ends -----------------------------------------------------------------------------------------------------------

/// Notes the end of a shard whose fence was passed; how its run ended, where it was the last.
pub(super) fn end_task(
    tx: &Transaction<'_>,
    task: &Task,
    (counts, phases): (&RunCounts, &Phases),
    changed: bool,
    rules: &Rules,
    now: Timestamp,
) -> Result<Option<(RunState, RunCounts)>> {
    let (c, p) = (counts, phases);
    tx.prepare_cached(
        "UPDATE run_task_data SET state = 'done', lease_until = NULL, error = NULL, updated_at = ?4, scored = ?5,
             anomalies = ?6, no_data = ?7, no_model = ?8, model_error = ?9, input_invalid = ?10, open_us = ?11,
             read_us = ?12, score_us = ?13, write_us = ?14
         WHERE schedule = ?1 AND interval_start = ?2 AND shard = ?3",
    )?
    .execute(params![
        task.schedule,
        task.interval.start.0,
        task.shard,
        now.0,
        c.scored,
        c.anomalies,
        c.no_data,
        c.no_model,
        c.model_error,
        c.input_invalid,
        p.open_us,
        p.read_us,
        p.score_us,
        p.write_us,
    ])?;
    tx.prepare_cached(
        "UPDATE run_data SET shards_done = shards_done + 1, changed = max(changed, ?2), scored = scored + ?3,
             anomalies = anomalies + ?4, no_data = no_data + ?5, no_model = no_model + ?6,
             model_error = model_error + ?7, input_invalid = input_invalid + ?8, open_us = open_us + ?9,
             read_us = read_us + ?10, score_us = score_us + ?11, write_us = write_us + ?12
         WHERE run_id = ?1",
    )?
    .execute(params![
        task.run_id.to_string(),
        changed,
        c.scored,
        c.anomalies,
        c.no_data,
        c.no_model,
        c.model_error,
        c.input_invalid,
        p.open_us,
        p.read_us,
        p.score_us,
        p.write_us,
    ])?;
    end_if_last(tx, task.run_id, rules, now)
}

/// Ends a run all of whose shards have ended.
fn end_if_last(
    tx: &Transaction<'_>,
    run_id: Uuid,
    rules: &Rules,
    now: Timestamp,
) -> Result<Option<(RunState, RunCounts)>> {
    let id = run_id.to_string();
    let sql = "SELECT shards, shards_done, shards_failed, scored, anomalies, no_data, no_model, model_error, input_invalid
               FROM run_data WHERE run_id = ?1";
    let (totals, done) = tx.prepare_cached(sql)?.query_row([&id], |r| {
        let totals = RunTotals { shards: r.get(0)?, shards_failed: r.get(2)?, counts: counts(r, 3)? };
        Ok((totals, r.get::<_, i64>(1)?))
    })?;
    if done + totals.shards_failed < totals.shards {
        return Ok(None);
    }
    let sql = "SELECT error FROM run_task_data WHERE run_id = ?1 AND state = 'failed' ORDER BY updated_at DESC LIMIT 1";
    let newest: Option<String> = tx.prepare_cached(sql)?.query_row([&id], |r| r.get(0)).optional()?.flatten();
    let (state, error) = verdict(&totals, rules, newest.as_deref());
    end_run(tx, run_id, state, error.as_deref(), None, now)?;
    Ok(Some((state, totals.counts)))
}

/// Ends an open run: nobody can claim it, its interval is free for another one, and what it changed is due.
fn end_run(
    tx: &Transaction<'_>,
    run_id: Uuid,
    state: RunState,
    error: Option<&str>,
    by: Option<&str>,
    now: Timestamp,
) -> Result<()> {
    match close_run(tx, run_id, state, error, by, now)? {
        Some((schedule, interval)) => make_due(tx, &schedule, interval),
        None => Ok(()),
    }
}

/// The interval is due for publication.
fn make_due(tx: &Transaction<'_>, schedule: &str, interval: Interval) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO publication_data (schedule, interval_start, interval_end, change) VALUES (?1, ?2, ?3, 1)
         ON CONFLICT DO UPDATE SET change = change + 1",
    )?
    .execute(params![schedule, interval.start.0, interval.end.0])?;
    Ok(())
}

/// Ends an open run, but for what is due: the interval, where the run changed it.
fn close_run(
    tx: &Transaction<'_>,
    run_id: Uuid,
    state: RunState,
    error: Option<&str>,
    by: Option<&str>,
    now: Timestamp,
) -> Result<Option<(String, Interval)>> {
    let id = run_id.to_string();
    let (schedule, interval, changed): (String, Interval, bool) = tx
        .prepare_cached(
            "UPDATE run_data SET state = ?2, error = ?3, finished_at = ?4, stalled_at = NULL WHERE run_id = ?1
             RETURNING schedule, interval_start, interval_end, changed",
        )?
        .query_row(params![id, state.as_str(), error, now.0], |r| Ok((r.get(0)?, interval(r, 1)?, r.get(3)?)))?;
    tx.prepare_cached(
        "UPDATE run_task_data SET state = 'cancelled', lease_until = NULL, updated_at = ?2
         WHERE run_id = ?1 AND state IN ('waiting', 'open')",
    )?
    .execute(params![id, now.0])?;
    let detail = error.filter(|_| state != RunState::Cancelled);
    note_run(tx, run_id, state.as_str(), None, by, detail, now)?;
    Ok(changed.then_some((schedule, interval)))
}

/// Ends open runs as failed before others open; the runs that take over what those changed, or `None` where one is over.
/// What nobody takes over is due.
pub(super) fn give_way(
    tx: &Transaction<'_>,
    ends: &[(Uuid, String)],
    open: &[NewRun],
    now: Timestamp,
) -> Result<Option<Vec<Uuid>>> {
    let sql = "SELECT EXISTS (SELECT 1 FROM run_data WHERE run_id = ?1 AND state IN ('waiting', 'running'))";
    let mut heirs = Vec::new();
    for (run_id, why) in ends {
        let is_open: bool = tx.prepare_cached(sql)?.query_row([run_id.to_string()], |r| r.get(0))?;
        if !is_open {
            return Ok(None);
        }
        let changed = close_run(tx, *run_id, RunState::Failed, Some(why), None, now)?;
        let Some((schedule, interval)) = changed else { continue };
        match open.iter().find(|run| run.schedule == schedule && run.interval.start == interval.start) {
            Some(heir) => heirs.push(heir.run_id),
            None => make_due(tx, &schedule, interval)?,
        }
    }
    Ok(Some(heirs))
}

/// Ends the run of an interval below the floor of retention.
pub(super) fn freeze(tx: &Transaction<'_>, run_id: Uuid, now: Timestamp) -> Result<()> {
    end_run(tx, run_id, RunState::Skipped, Some(FROZEN), None, now)
}

pub(super) fn cancel_run(tx: &Transaction<'_>, run_id: Uuid, by: &str, now: Timestamp) -> Result<bool> {
    let sql = "SELECT error FROM run_data WHERE run_id = ?1 AND state IN ('waiting', 'running')";
    let open: Option<Option<String>> = tx.query_row(sql, [run_id.to_string()], |r| r.get(0)).optional()?;
    let Some(error) = open else { return Ok(false) };
    end_run(tx, run_id, RunState::Cancelled, error.as_deref(), Some(by), now)?;
    Ok(true)
}
