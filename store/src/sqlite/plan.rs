//! Schedules, runs and tasks.

use super::migrate::{create_view, pane_settings};
use super::stream::time;
use crate::settings::{fits_panes, same_schedule, schedule_name};
use crate::{
    CatchUp, ChangedPane, NewRun, Outcome, Plan, Result, RunCounts, RunFilter, RunRow, ScheduleRow,
    ScheduleSpec, StoreError, Task, TaskClaim,
};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use rusqlite::types::{Type, Value};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter};
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

fn us(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::us)
}

// --- schedules ------------------------------------------------------------------------------------------------------

pub(super) fn put_schedule(tx: &Transaction<'_>, spec: &ScheduleSpec, now: Timestamp) -> Result<()> {
    schedule_name(&spec.name)?;
    let panes = pane_settings(tx)?;
    if let Some(panes) = &panes {
        fits_panes(spec, panes)?;
    }
    let stored = schedules(tx)?.into_iter().find(|row| row.spec.name == spec.name);
    if let Some(stored) = &stored {
        same_schedule(&stored.spec, spec)?;
    }
    let features: Vec<_> = spec.features.iter().map(|f| f.as_str()).collect();
    tx.execute(
        "INSERT INTO schedule_data (name, window_us, hop_us, features, catch_up, max_age_us, rescore_delay_us,
             republish_gap_us, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (name) DO UPDATE SET features = excluded.features, catch_up = excluded.catch_up,
             max_age_us = excluded.max_age_us, rescore_delay_us = excluded.rescore_delay_us,
             republish_gap_us = excluded.republish_gap_us",
        params![
            spec.name,
            spec.window_us,
            spec.hop_us,
            features.join(","),
            spec.catch_up.as_str(),
            spec.max_age_us,
            spec.rescore_delay_us,
            spec.republish_gap_us,
            now.0,
        ],
    )?;
    match (stored, panes) {
        (None, Some(panes)) => create_view(tx, spec, &panes),
        // A schedule that came before the panes gets its view from pin_panes.
        _ => Ok(()),
    }
}

pub(super) fn schedules(conn: &Connection) -> Result<Vec<ScheduleRow>> {
    let mut select = conn.prepare_cached(
        "SELECT name, window_us, hop_us, features, catch_up, max_age_us, rescore_delay_us, republish_gap_us, revision,
                first_interval, covered_until, created_at
         FROM schedule_data ORDER BY name",
    )?;
    let mut rows = select.query([])?;
    let mut schedules = Vec::new();
    while let Some(r) = rows.next()? {
        let features: String = r.get(3)?;
        let features = features.split(',').filter(|f| !f.is_empty()).map(str::parse);
        let catch_up: String = r.get(4)?;
        let spec = ScheduleSpec {
            name: r.get(0)?,
            window_us: r.get(1)?,
            hop_us: r.get(2)?,
            features: features.collect::<std::result::Result<_, _>>().map_err(StoreError::internal)?,
            catch_up: [CatchUp::All, CatchUp::Latest, CatchUp::None]
                .into_iter()
                .find(|c| c.as_str() == catch_up)
                .ok_or_else(|| StoreError::internal(format!("`{catch_up}` is no catch_up")))?,
            max_age_us: r.get(5)?,
            rescore_delay_us: r.get(6)?,
            republish_gap_us: r.get(7)?,
        };
        schedules.push(ScheduleRow {
            spec,
            revision: r.get(8)?,
            first_interval: time(r, 9)?,
            covered_until: time(r, 10)?,
            created_at: Timestamp(r.get(11)?),
        });
    }
    Ok(schedules)
}

pub(super) fn changed_panes(conn: &Connection, limit: usize) -> Result<Vec<ChangedPane>> {
    let mut select =
        conn.prepare_cached("SELECT id, pane_start, changed_at FROM changed_pane_data ORDER BY id LIMIT ?1")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = select.query_map([limit], |r| {
        let (pane_start, changed_at) = (Timestamp(r.get(1)?), Timestamp(r.get(2)?));
        Ok(ChangedPane { id: r.get(0)?, pane_start, changed_at })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

// --- the planner's transaction --------------------------------------------------------------------------------------

pub(super) fn plan(tx: &Transaction<'_>, plan: &Plan, now: Timestamp) -> Result<Outcome> {
    let mut step = tx.prepare_cached(
        "UPDATE schedule_data SET revision = revision + 1, first_interval = coalesce(first_interval, ?3),
             covered_until = CASE WHEN covered_until IS NULL OR covered_until < ?4 THEN ?4 ELSE covered_until END
         WHERE name = ?1 AND revision = ?2",
    )?;
    for s in &plan.schedules {
        if step.execute(params![s.name, s.revision, us(s.first_interval), us(s.covered_until)])? == 0 {
            return Ok(Outcome::Fenced);
        }
    }
    for run in &plan.open {
        if !open(tx, run, now)? {
            return Ok(Outcome::Fenced);
        }
    }
    let mut skip = tx.prepare_cached(
        "INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, opened_at, finished_at, note)
         VALUES (?1, ?2, ?3, ?4, 'skipped', ?5, ?6, ?6, ?7) ON CONFLICT DO NOTHING",
    )?;
    for s in &plan.skipped {
        let (start, end) = (s.range.start.0, s.range.end.0);
        let row = params![s.run_id.to_string(), s.schedule, start, end, s.cause.as_str(), now.0, s.note];
        if skip.execute(row)? == 0 {
            return Ok(Outcome::Fenced);
        }
    }
    let mut start = tx.prepare_cached(
        "UPDATE run_data SET state = 'running', model_set = ?2, note = NULL WHERE run_id = ?1 AND state = 'waiting'",
    )?;
    let mut release =
        tx.prepare_cached("UPDATE run_task_data SET state = 'open', updated_at = ?2 WHERE run_id = ?1")?;
    for (run, model_set) in &plan.start {
        let id = run.to_string();
        if start.execute(params![id, model_set])? == 1 {
            release.execute(params![id, now.0])?;
        }
    }
    let mut seen = tx.prepare_cached("DELETE FROM changed_pane_data WHERE id = ?1")?;
    for id in &plan.seen {
        seen.execute([id])?;
    }
    Ok(Outcome::Done)
}

/// Opens a run with its task; false where its id or its interval is taken.
fn open(tx: &Transaction<'_>, run: &NewRun, now: Timestamp) -> Result<bool> {
    let id = run.run_id.to_string();
    let (start, end) = (run.interval.start.0, run.interval.end.0);
    let (state, task) =
        if run.model_set.is_some() { (RunState::Running, "open") } else { (RunState::Waiting, "waiting") };
    // Both keys may be in the way: the run's id, and the one open run of the interval.
    let inserted = tx
        .prepare_cached(
            "INSERT INTO run_data (run_id, schedule, interval_start, interval_end, state, cause, model_set, opened_at,
                 note, data_only)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            id,
            run.schedule,
            start,
            end,
            state.as_str(),
            run.cause.as_str(),
            run.model_set,
            now.0,
            run.note,
            run.data_only,
        ])?;
    if inserted == 0 {
        return Ok(false);
    }
    tx.prepare_cached(
        "INSERT INTO run_task_data (schedule, interval_start, shard, interval_end, run_id, state, opened_at, updated_at)
         VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?6)
         ON CONFLICT DO UPDATE SET interval_end = excluded.interval_end, run_id = excluded.run_id,
             state = excluded.state, opened_at = excluded.opened_at, updated_at = excluded.updated_at,
             worker = NULL, lease_until = NULL",
    )?
    .execute(params![run.schedule, start, end, id, task, now.0])?;
    Ok(true)
}

// --- runs -----------------------------------------------------------------------------------------------------------

const RUN_COLUMNS: &str = "run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, anomalies, \
    no_data, no_model, model_error, input_invalid, attempt, opened_at, started_at, finished_at, \
    coalesce(error, note), data_only";

/// Only the clauses that are asked for, so that each question finds its index: ids the key, open states the index of
/// open runs, a range of time the intervals that can reach into it.
pub(super) fn runs(conn: &Connection, filter: &RunFilter) -> Result<Vec<RunRow>> {
    let mut clauses = vec!["true".to_owned()];
    let mut values: Vec<Value> = Vec::new();
    let mut parameter = |value: Value| {
        values.push(value);
        format!("?{}", values.len())
    };
    if let Some(schedule) = &filter.schedule {
        clauses.push(format!("schedule = {}", parameter(schedule.clone().into())));
    }
    if !filter.states.is_empty() {
        // Our own names, in the text so that the planner sees that a partial index holds them.
        let names: Vec<_> = filter.states.iter().map(|s| format!("'{s}'")).collect();
        clauses.push(format!("state IN ({})", names.join(", ")));
        if filter.states.iter().all(|s| !s.is_final()) {
            clauses.push("state IN ('waiting', 'running')".to_owned());
        }
    }
    if let Some(ids) = &filter.run_ids {
        clauses.push(format!("run_id IN (SELECT value FROM json_each({}))", parameter(id_list(ids).into())));
    }
    let mut branches = vec![("", String::new())];
    if let Some(range) = filter.overlapping {
        let (start, end) = (parameter(range.start.0.into()), parameter(range.end.0.into()));
        clauses.push(format!("interval_end > {start} AND interval_start < {end}"));
        // An interval is no longer than the longest window; only a skipped range may reach in from far away.
        let near = format!("{start} - (SELECT coalesce(max(window_us), 0) FROM schedule_data)");
        branches = vec![
            ("", format!(" AND interval_start > {near}")),
            // Skipped ranges are few; without statistics the planner would walk all older intervals for them.
            (" INDEXED BY run_data_skipped", format!(" AND state = 'skipped' AND interval_start <= {near}")),
        ];
    }
    let common = clauses.join(" AND ");
    let select = |(index, branch): &(&str, String)| {
        format!("SELECT {RUN_COLUMNS} FROM run_data{index} WHERE {common}{branch}")
    };
    let mut sql = branches.iter().map(select).collect::<Vec<_>>().join(" UNION ALL ");
    sql += " ORDER BY interval_start DESC, opened_at DESC";
    if filter.limit > 0 {
        sql += &format!(" LIMIT {}", filter.limit);
    }
    let mut select = conn.prepare_cached(&sql)?;
    let rows = select.query_map(params_from_iter(values), run_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Ids as a JSON list.
fn id_list(ids: &[Uuid]) -> String {
    let texts: Vec<_> = ids.iter().map(Uuid::to_string).collect();
    format!("{texts:?}") // hexadecimal digits and dashes: nothing to escape
}

fn run_row(r: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        run_id: parsed(r, 0)?,
        schedule: r.get(1)?,
        interval: interval(r, 2)?,
        state: parsed(r, 4)?,
        cause: parsed(r, 5)?,
        model_set: r.get(6)?,
        counts: RunCounts {
            scored: r.get(7)?,
            anomalies: r.get(8)?,
            no_data: r.get(9)?,
            no_model: r.get(10)?,
            model_error: r.get(11)?,
            input_invalid: r.get(12)?,
        },
        attempt: r.get(13)?,
        opened_at: Timestamp(r.get(14)?),
        started_at: time(r, 15)?,
        finished_at: time(r, 16)?,
        error: r.get(17)?,
        data_only: r.get(18)?,
    })
}

pub(super) fn cancel_run(tx: &Transaction<'_>, run_id: Uuid, now: Timestamp) -> Result<bool> {
    let id = run_id.to_string();
    let ended = tx.execute(
        "UPDATE run_data SET state = 'cancelled', finished_at = ?2
         WHERE run_id = ?1 AND state IN ('waiting', 'running')",
        params![id, now.0],
    )?;
    if ended == 1 {
        tx.execute(
            "UPDATE run_task_data SET state = 'done', worker = NULL, lease_until = NULL, updated_at = ?2
             WHERE run_id = ?1",
            params![id, now.0],
        )?;
    }
    Ok(ended == 1)
}

// --- tasks ----------------------------------------------------------------------------------------------------------

/// The key of the oldest task that may be claimed.
fn due(conn: &Connection, claim: &TaskClaim, now: Timestamp) -> Result<Option<(String, i64, i32)>> {
    let mut select = conn.prepare_cached(
        "SELECT schedule, interval_start, shard FROM run_task_data
         WHERE state = 'open' AND (lease_until IS NULL OR lease_until <= ?1)
           AND (?2 IS NULL OR run_id IN (SELECT value FROM json_each(?2)))
         ORDER BY opened_at, interval_start, schedule, shard LIMIT 1",
    )?;
    let ids = claim.run_ids.as_deref().map(id_list);
    let key = select.query_row(params![now.0, ids], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)));
    Ok(key.optional()?)
}

/// Whether there is anything to claim.
pub(super) fn is_due(conn: &Connection, claim: &TaskClaim, now: Timestamp) -> Result<bool> {
    Ok(due(conn, claim, now)?.is_some())
}

pub(super) fn claim_task(tx: &Transaction<'_>, claim: &TaskClaim, now: Timestamp) -> Result<Option<Task>> {
    let Some((schedule, start, shard)) = due(tx, claim, now)? else { return Ok(None) };
    let (attempt, run_id) = tx
        .prepare_cached(
            "UPDATE run_task_data SET attempt = attempt + 1, worker = ?4, lease_until = ?5, updated_at = ?6
             WHERE schedule = ?1 AND interval_start = ?2 AND shard = ?3 RETURNING attempt, run_id",
        )?
        .query_row(
            params![schedule, start, shard, claim.worker, now.plus_us(claim.lease_us).0, now.0],
            |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)),
        )?;
    let task = tx
        .prepare_cached(
            "UPDATE run_data SET attempt = attempt + 1, started_at = coalesce(started_at, ?2) WHERE run_id = ?1
             RETURNING run_id, interval_start, interval_end, attempt, model_set, data_only",
        )?
        .query_row(params![run_id, now.0], |r| {
            Ok(Task {
                run_id: parsed(r, 0)?,
                schedule,
                interval: interval(r, 1)?,
                shard,
                attempt,
                run_attempt: r.get(3)?,
                model_set: r.get(4)?,
                data_only: r.get(5)?,
                worker: claim.worker.clone(),
            })
        })?;
    Ok(Some(task))
}

pub(super) fn renew_task(
    tx: &Transaction<'_>,
    task: &Task,
    lease_us: i64,
    now: Timestamp,
) -> Result<Outcome> {
    set_task(tx, task, "open", Some(&task.worker), Some(now.plus_us(lease_us)), now)
}

/// Writes the task's row under the fence: this claim is the newest, and its run is not over.
pub(super) fn set_task(
    tx: &Transaction<'_>,
    task: &Task,
    state: &str,
    worker: Option<&str>,
    lease_until: Option<Timestamp>,
    now: Timestamp,
) -> Result<Outcome> {
    let mut update = tx.prepare_cached(
        "UPDATE run_task_data SET state = ?6, worker = ?7, lease_until = ?8, updated_at = ?9
         WHERE schedule = ?1 AND interval_start = ?2 AND shard = ?3 AND attempt = ?4 AND run_id = ?5 AND state = 'open'",
    )?;
    let written = update.execute(params![
        task.schedule,
        task.interval.start.0,
        task.shard,
        task.attempt,
        task.run_id.to_string(),
        state,
        worker,
        us(lease_until),
        now.0,
    ])?;
    Ok(if written == 1 { Outcome::Done } else { Outcome::Fenced })
}

pub(super) fn fail_task(
    tx: &Transaction<'_>,
    task: &Task,
    error: &str,
    give_up: bool,
    now: Timestamp,
) -> Result<Outcome> {
    let state = if give_up { "done" } else { "open" };
    if set_task(tx, task, state, None, None, now)? == Outcome::Fenced {
        return Ok(Outcome::Fenced);
    }
    tx.execute(
        "UPDATE run_data SET error = ?2, state = CASE WHEN ?3 THEN 'failed' ELSE state END,
             finished_at = CASE WHEN ?3 THEN ?4 END
         WHERE run_id = ?1",
        params![task.run_id.to_string(), error, give_up, now.0],
    )?;
    Ok(Outcome::Done)
}
