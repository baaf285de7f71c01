//! Runs as they are read, and what is kept of them.

use super::plan::{interval, parsed};
use super::stream::time;
use crate::notices::{self, NO_NUMBER};
use crate::{Phases, Result, RunCounts, RunEvent, RunFilter, RunRow, SeriesRange, TaskRow};
use fleetscore_schemas::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, Transaction, params, params_from_iter};
use uuid::Uuid;

const RUN_COLUMNS: &str = "run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, anomalies, \
    no_data, no_model, model_error, input_invalid, attempt, opened_at, started_at, finished_at, \
    coalesce(error, note), data_only, scope, series, shards, shards_done, shards_failed, open_us, read_us, score_us, \
    write_us, retry_of, stalled_at, log";

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
    if !filter.causes.is_empty() {
        let names: Vec<_> = filter.causes.iter().map(|c| format!("cause = '{c}'")).collect();
        clauses.push(format!("({})", names.join(" OR ")));
    }
    if let Some(since) = filter.opened_since {
        clauses.push(format!("opened_at >= {}", parameter(since.0.into())));
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
pub(super) fn id_list(ids: &[Uuid]) -> String {
    let texts: Vec<_> = ids.iter().map(Uuid::to_string).collect();
    format!("{texts:?}") // hexadecimal digits and dashes: nothing to escape
}

/// Six columns of counts.
pub(super) fn counts(r: &Row<'_>, at: usize) -> rusqlite::Result<RunCounts> {
    Ok(RunCounts {
        scored: r.get(at)?,
        anomalies: r.get(at + 1)?,
        no_data: r.get(at + 2)?,
        no_model: r.get(at + 3)?,
        model_error: r.get(at + 4)?,
        input_invalid: r.get(at + 5)?,
    })
}

/// Four columns of times.
fn phases(r: &Row<'_>, at: usize) -> rusqlite::Result<Phases> {
    Ok(Phases {
        open_us: r.get(at)?,
        read_us: r.get(at + 1)?,
        score_us: r.get(at + 2)?,
        write_us: r.get(at + 3)?,
    })
}

/// A range in two columns.
pub(super) fn range(r: &Row<'_>, at: usize) -> rusqlite::Result<SeriesRange> {
    Ok(SeriesRange { from: r.get(at)?, until: r.get(at + 1)? })
}

fn run_row(r: &Row<'_>) -> rusqlite::Result<RunRow> {
    let retry_of = match r.get_ref(28)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(parsed(r, 28)?),
    };
    Ok(RunRow {
        run_id: parsed(r, 0)?,
        schedule: r.get(1)?,
        interval: interval(r, 2)?,
        state: parsed(r, 4)?,
        cause: parsed(r, 5)?,
        model_set: r.get(6)?,
        counts: counts(r, 7)?,
        attempt: r.get(13)?,
        opened_at: Timestamp(r.get(14)?),
        started_at: time(r, 15)?,
        finished_at: time(r, 16)?,
        error: r.get(17)?,
        data_only: r.get(18)?,
        scope: parsed(r, 19)?,
        series: r.get(20)?,
        shards: r.get(21)?,
        shards_done: r.get(22)?,
        shards_failed: r.get(23)?,
        phases: phases(r, 24)?,
        retry_of,
        stalled_at: time(r, 29)?,
        log: r.get(30)?,
    })
}

// --- events and tasks -----------------------------------------------------------------------------------------------

/// Writes a step of a run.
pub(super) fn note_run(
    tx: &Transaction<'_>,
    run_id: Uuid,
    event: &str,
    shard: Option<i32>,
    worker: Option<&str>,
    detail: Option<&str>,
    at: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO run_event_data (run_id, at, event, shard, worker, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    tx.prepare_cached(sql)?.execute(params![run_id.to_string(), at.0, event, shard, worker, detail])?;
    Ok(())
}

pub(super) fn run_events(conn: &Connection, run_id: Uuid) -> Result<Vec<RunEvent>> {
    let sql = "SELECT at, event, shard, worker, detail FROM run_event_data WHERE run_id = ?1 ORDER BY id";
    let mut select = conn.prepare_cached(sql)?;
    let rows = select.query_map([run_id.to_string()], |r| {
        let at = Timestamp(r.get(0)?);
        Ok(RunEvent { at, event: r.get(1)?, shard: r.get(2)?, worker: r.get(3)?, detail: r.get(4)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn run_tasks(conn: &Connection, run_id: Uuid) -> Result<Vec<TaskRow>> {
    let mut select = conn.prepare_cached(
        "SELECT shard, series_from, series_until, state, attempt, tries, worker, lease_until, scored, anomalies, no_data,
                no_model, model_error, input_invalid, open_us, read_us, score_us, write_us, error, updated_at
         FROM run_task_data WHERE run_id = ?1 ORDER BY shard",
    )?;
    let rows = select.query_map([run_id.to_string()], |r| {
        Ok(TaskRow {
            run_id,
            shard: r.get(0)?,
            range: range(r, 1)?,
            state: parsed(r, 3)?,
            attempt: r.get(4)?,
            tries: r.get(5)?,
            worker: r.get(6)?,
            lease_until: time(r, 7)?,
            counts: counts(r, 8)?,
            phases: phases(r, 14)?,
            error: r.get(18)?,
            updated_at: Timestamp(r.get(19)?),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The reasons are those of the interval's predictions that stood when the run ended: a row that would not change keeps
/// the run before.
pub(super) fn run_failures(conn: &Connection, run_id: Uuid, limit: usize) -> Result<Vec<(String, i64)>> {
    let mut select = conn.prepare_cached(
        "SELECT coalesce((
                SELECT f.reason FROM model_failure_data f
                WHERE f.version = p.model_set AND f.device = n.device AND f.sensor = n.sensor
                ORDER BY f.number LIMIT 1), ?3) AS reason, count(*)
         FROM run_data r
             CROSS JOIN prediction_data p ON p.schedule = r.schedule AND p.window_start = r.interval_start
             CROSS JOIN series_data n ON n.id = p.series_id
         WHERE r.run_id = ?1 AND p.status = 'model_error' AND p.status <> 'scored'
             AND (p.run_id = r.run_id OR r.finished_at IS NULL OR p.scored_at <= r.finished_at)
         GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows =
        select.query_map(params![run_id.to_string(), limit, NO_NUMBER], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

// --- what is heard of runs ------------------------------------------------------------------------------------------

/// A run that is to be marked as stalled.
#[derive(Debug)]
struct Stalled {
    run_id: Uuid,
    schedule: String,
    detail: String,
}

/// A run is heard of when one of its tasks is touched: opened, claimed, renewed, given back, done. Of those that nobody
/// has begun, only the one that is next counts: the others wait their turn.
fn stalled(conn: &Connection, now: Timestamp) -> Result<Vec<Stalled>> {
    let mut select = conn.prepare_cached(
        "WITH open AS (
            SELECT run_id, schedule, started_at, stalled_at,
                row_number() OVER (ORDER BY opened_at, interval_start, schedule) AS place
            FROM run_data WHERE state = 'running' AND state IN ('waiting', 'running'))
         SELECT o.run_id, o.schedule,
             (SELECT max(updated_at) FROM run_task_data t WHERE t.run_id = o.run_id) AS heard,
             (SELECT json_group_array(worker) FROM run_task_data t
                 WHERE t.run_id = o.run_id AND t.state = 'open' AND t.lease_until IS NOT NULL)
         FROM open o JOIN schedule_data s ON s.name = o.schedule
         WHERE o.stalled_at IS NULL AND (o.started_at IS NOT NULL OR o.place = 1)
             AND heard <= ?1 - json_extract(s.settings, '$.stall_after_us')
         ORDER BY o.place",
    )?;
    let rows = select.query_map([now.0], |r| {
        let holders = serde_json::from_str(r.get_ref(3)?.as_str()?).unwrap_or_default();
        let detail = notices::stalled(Timestamp(r.get(2)?), holders);
        Ok(Stalled { run_id: parsed(r, 0)?, schedule: r.get(1)?, detail })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn any_stalled(conn: &Connection, now: Timestamp) -> Result<bool> {
    Ok(!stalled(conn, now)?.is_empty())
}

pub(super) fn mark_stalled(tx: &Transaction<'_>, now: Timestamp) -> Result<u64> {
    let runs = stalled(tx, now)?;
    for Stalled { run_id, schedule, detail } in &runs {
        let id = run_id.to_string();
        tx.prepare_cached("UPDATE run_data SET stalled_at = ?2 WHERE run_id = ?1")?
            .execute(params![id, now.0])?;
        note_run(tx, *run_id, "stalled", None, None, Some(detail), now)?;
        let about = About { schedule: Some(schedule), run_id: Some(*run_id), series: None };
        note_event(tx, "run_stalled", &about, detail, now)?;
    }
    Ok(runs.len() as u64)
}

/// What an event is about.
#[derive(Debug, Default)]
pub(super) struct About<'a> {
    pub(super) schedule: Option<&'a str>,
    pub(super) run_id: Option<Uuid>,
    pub(super) series: Option<i64>,
}

/// Writes what an operator should know.
pub(super) fn note_event(
    tx: &Transaction<'_>,
    kind: &str,
    about: &About<'_>,
    detail: &str,
    at: Timestamp,
) -> Result<()> {
    let sql =
        "INSERT INTO event_data (at, kind, schedule, run_id, series, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let run = about.run_id.map(|id| id.to_string());
    tx.prepare_cached(sql)?.execute(params![at.0, kind, about.schedule, run, about.series, detail])?;
    Ok(())
}

// --- logs, and the end of history -----------------------------------------------------------------------------------

pub(super) fn unlogged_runs(conn: &Connection, limit: usize) -> Result<Vec<RunRow>> {
    let mut select = conn.prepare_cached(&format!(
        "SELECT {RUN_COLUMNS} FROM run_data
         WHERE log IS NULL AND state IN ('succeeded', 'partial', 'failed', 'cancelled')
         ORDER BY finished_at, run_id LIMIT ?1"
    ))?;
    let rows = select.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], run_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn log_run(tx: &Transaction<'_>, run_id: Uuid, path: &str) -> Result<()> {
    tx.execute("UPDATE run_data SET log = ?2 WHERE run_id = ?1", params![run_id.to_string(), path])?;
    Ok(())
}

/// Runs, and as many fires, events and silences, that are removed in one transaction, each run with up to as many tasks as it has shards: other writers wait for no
/// longer than these take.
pub(super) const FORGET_CHUNK: usize = 500;

pub(super) fn forget_runs(
    tx: &Transaction<'_>,
    finished: Timestamp,
    interval: Timestamp,
    limit: usize,
) -> Result<u64> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let ids: Vec<String> = tx
        .prepare_cached(
            "SELECT run_id FROM run_data WHERE finished_at < ?1 AND interval_end <= ?2
             ORDER BY finished_at, run_id LIMIT ?3",
        )?
        .query_map([finished.0, interval.0, limit], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let list = format!("{ids:?}"); // hexadecimal digits and dashes: nothing to escape
    // Should an interval have another run one day, its attempts go on above these.
    let sql = "SELECT max(attempt) FROM run_task_data WHERE run_id IN (SELECT value FROM json_each(?1))";
    let attempt: Option<i64> = tx.prepare_cached(sql)?.query_row([&list], |r| r.get(0))?;
    if let Some(attempt) = attempt {
        tx.execute(
            "UPDATE setting_data SET forgotten_until = max(coalesce(forgotten_until, ?1), ?1),
                 forgotten_attempt = max(coalesce(forgotten_attempt, ?2), ?2)",
            [interval.0, attempt],
        )?;
    }
    for table in ["run_task_data", "run_event_data", "run_data"] {
        let sql = format!("DELETE FROM {table} WHERE run_id IN (SELECT value FROM json_each(?1))");
        tx.prepare_cached(&sql)?.execute([&list])?;
    }
    // Fires and events are told by the clock, silences by the time of their intervals.
    let mut most = ids.len();
    for (table, key, time, before) in [
        ("fire_data", "schedule, fire_at", "last_fire_at", finished.0),
        ("event_data", "id", "at", finished.0),
        ("silence_data", "series_id, schedule, since", "ended_at", interval.0.saturating_add(1)),
    ] {
        let sql = format!(
            "DELETE FROM {table} WHERE ({key}) IN (
                 SELECT {key} FROM {table} WHERE {time} < ?1 ORDER BY {time} LIMIT ?2)"
        );
        most = most.max(tx.prepare_cached(&sql)?.execute([before, limit])?);
    }
    Ok(most as u64)
}
