//! Runs as they are read, watched, and forgotten.

use super::PgStore;
use super::tasks::range;
use super::types::{RowExt, Us, us};
use crate::notices;
use crate::{Phases, Result, RunCounts, RunEvent, RunFilter, RunRow, StoreError, TaskRow};
use deadpool_postgres::Object;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

const COLUMNS: &str = "run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, anomalies, no_data,
    no_model, model_error, input_invalid, attempt, opened_at, started_at, finished_at, coalesce(error, note), data_only,
    scope, series, shards, shards_done, shards_failed, open_us, read_us, score_us, write_us, retry_of, stalled_at, log";

/// Conditions with their values: only those that are asked for, so that each question finds its own index.
#[derive(Default)]
struct Conditions<'a> {
    texts: Vec<String>,
    values: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Conditions<'a> {
    /// `text` with `$` for the value.
    fn push(&mut self, text: &str, value: &'a (dyn ToSql + Sync)) {
        self.values.push(value);
        self.texts.push(text.replace('$', &format!("${}", self.values.len())));
    }
}

/// States as they stand in a statement: names of ours, so that the planner sees which index of some states is enough.
fn listed(names: impl Iterator<Item = &'static str>) -> String {
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

pub(super) async fn runs(store: &PgStore, filter: &RunFilter) -> Result<Vec<RunRow>> {
    let (before, after) = (us(filter.overlapping.map(|o| o.end)), us(filter.overlapping.map(|o| o.start)));
    let since = us(filter.opened_since);
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let mut of = Conditions::default();
    if let Some(schedule) = &filter.schedule {
        of.push("schedule = $", schedule);
    }
    if let Some(ids) = &filter.run_ids {
        of.push("run_id = ANY($)", ids);
    }
    if let (Some(before), Some(after)) = (&before, &after) {
        of.push("interval_start < $", before);
        of.push("interval_end > $", after);
    }
    let after_at = of.values.len();
    if let Some(since) = &since {
        of.push("opened_at >= $", since);
    }
    if !filter.states.is_empty() {
        of.texts.push(format!("state IN ({})", listed(filter.states.iter().map(|s| s.as_str()))));
    }
    if !filter.causes.is_empty() {
        of.texts.push(format!("cause IN ({})", listed(filter.causes.iter().map(|c| c.as_str()))));
    }
    let conditions =
        if of.texts.is_empty() { String::new() } else { format!("WHERE {}", of.texts.join(" AND ")) };
    let mut from = format!("run_data {conditions}");
    if after.is_some() {
        // Only ranges that were skipped are longer than a window: no other run that begins long before overlaps.
        let near = format!(
            "interval_start > ${after_at}::timestamptz
                - (SELECT coalesce(max(window_us), 0) FROM schedule_data) * interval '1 microsecond'"
        );
        from = format!(
            "(SELECT * FROM run_data {conditions} AND state <> 'skipped' AND {near}
            UNION ALL SELECT * FROM run_data {conditions} AND state = 'skipped') r"
        );
    }
    let mut sql =
        format!("SELECT {COLUMNS} FROM {from} ORDER BY interval_start DESC, opened_at DESC, run_id DESC");
    if filter.limit > 0 {
        of.values.push(&limit);
        sql = format!("{sql} LIMIT ${}", of.values.len());
    }
    let client = store.client().await?;
    client.query(&sql, &of.values).await?.iter().map(run).collect()
}

pub(super) fn counts(row: &Row, at: usize) -> Result<RunCounts> {
    Ok(RunCounts {
        scored: row.at(at)?,
        anomalies: row.at(at + 1)?,
        no_data: row.at(at + 2)?,
        no_model: row.at(at + 3)?,
        model_error: row.at(at + 4)?,
        input_invalid: row.at(at + 5)?,
    })
}

fn phases(row: &Row, at: usize) -> Result<Phases> {
    Ok(Phases {
        open_us: row.at(at)?,
        read_us: row.at(at + 1)?,
        score_us: row.at(at + 2)?,
        write_us: row.at(at + 3)?,
    })
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
        counts: counts(row, 7)?,
        attempt: row.at(13)?,
        opened_at: row.time(14)?,
        started_at: row.maybe_time(15)?,
        finished_at: row.maybe_time(16)?,
        error: row.at(17)?,
        data_only: row.at(18)?,
        scope: row.at::<&str>(19)?.parse().map_err(StoreError::internal)?,
        series: row.at(20)?,
        shards: row.at::<i32>(21)?.into(),
        shards_done: row.at::<i32>(22)?.into(),
        shards_failed: row.at::<i32>(23)?.into(),
        phases: phases(row, 24)?,
        retry_of: row.at(28)?,
        stalled_at: row.maybe_time(29)?,
        log: row.at(30)?,
    })
}

pub(super) async fn run_events(store: &PgStore, run_id: Uuid) -> Result<Vec<RunEvent>> {
    let sql = "SELECT at, event, shard, worker, detail FROM run_event_data WHERE run_id = $1 ORDER BY id";
    let rows = store.client().await?.query(sql, &[&run_id]).await?;
    rows.iter()
        .map(|r| {
            Ok(RunEvent {
                at: r.time(0)?,
                event: r.at(1)?,
                shard: r.at(2)?,
                worker: r.at(3)?,
                detail: r.at(4)?,
            })
        })
        .collect()
}

pub(super) async fn run_tasks(store: &PgStore, run_id: Uuid) -> Result<Vec<TaskRow>> {
    let sql = "SELECT run_id, shard, series_from, series_until, state, attempt, tries, worker, lease_until, scored,
            anomalies, no_data, no_model, model_error, input_invalid, open_us, read_us, score_us, write_us, error,
            updated_at
        FROM run_task_data WHERE run_id = $1 ORDER BY shard";
    let rows = store.client().await?.query(sql, &[&run_id]).await?;
    rows.iter().map(task).collect()
}

fn task(row: &Row) -> Result<TaskRow> {
    Ok(TaskRow {
        run_id: row.at(0)?,
        shard: row.at(1)?,
        range: range(row, 2)?,
        state: row.at::<&str>(4)?.parse().map_err(StoreError::internal)?,
        attempt: row.at(5)?,
        tries: row.at(6)?,
        worker: row.at(7)?,
        lease_until: row.maybe_time(8)?,
        counts: counts(row, 9)?,
        phases: phases(row, 15)?,
        error: row.at(19)?,
        updated_at: row.time(20)?,
    })
}

/// The reasons are those of the interval's predictions that stood when the run ended: a row that would not change keeps the
/// run before.
pub(super) async fn run_failures(store: &PgStore, run_id: Uuid, limit: usize) -> Result<Vec<(String, i64)>> {
    let sql = "SELECT coalesce((
                SELECT f.reason FROM model_failure_data f
                WHERE f.version = p.model_set AND f.device = n.device AND f.sensor = n.sensor
                ORDER BY f.number LIMIT 1), $3) AS reason, count(*)
        FROM run_data r
        JOIN prediction_data p ON p.schedule = r.schedule AND p.window_start = r.interval_start
        JOIN series_data n ON n.id = p.series_id
        WHERE r.run_id = $1 AND p.status = 'model_error'
            AND (p.run_id = r.run_id OR r.finished_at IS NULL OR p.scored_at <= r.finished_at)
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = store.client().await?.query(sql, &[&run_id, &limit, &notices::NO_NUMBER]).await?;
    rows.iter().map(|r| Ok((r.at(0)?, r.at(1)?))).collect()
}

/// A run is heard of when one of its tasks is touched: opened, claimed, renewed, given back, done. Of those that nobody has
/// begun, only the one that is next counts: the others wait their turn.
pub(super) async fn mark_stalled(store: &PgStore) -> Result<u64> {
    let sql = "WITH open AS (
            SELECT run_id, schedule, started_at, stalled_at,
                row_number() OVER (ORDER BY opened_at, interval_start, schedule) AS place
            FROM run_data WHERE state = 'running')
        SELECT o.run_id, o.schedule, t.heard, t.holders
        FROM open o JOIN schedule_data s ON s.name = o.schedule
        CROSS JOIN LATERAL (
            SELECT max(t.updated_at) AS heard,
                array_agg(t.worker) FILTER (WHERE t.state = 'open' AND t.lease_until IS NOT NULL) AS holders
            FROM run_task_data t WHERE t.run_id = o.run_id) t
        WHERE o.stalled_at IS NULL AND (o.started_at IS NOT NULL OR o.place = 1)
            AND t.heard + (s.settings ->> 'stall_after_us')::bigint * interval '1 microsecond' <= clock_timestamp()
        ORDER BY o.place";
    let mut client = store.client().await?;
    let found = client.query(&client.prepare_cached(sql).await?, &[]).await?;
    let mut marked = 0;
    for row in &found {
        let holders: Option<Vec<Option<String>>> = row.at(3)?;
        let detail = notices::stalled(row.time(2)?, holders.into_iter().flatten().flatten().collect());
        marked += u64::from(mark(&mut client, row.at(0)?, row.at(1)?, &detail).await?);
    }
    Ok(marked)
}

/// False where it is over, or another process marked it.
async fn mark(client: &mut Object, run_id: Uuid, schedule: &str, detail: &str) -> Result<bool> {
    let sql = "WITH marked AS (
            UPDATE run_data SET stalled_at = clock_timestamp()
            WHERE run_id = (SELECT run_id FROM run_data WHERE run_id = $1 AND state = 'running' AND stalled_at IS NULL
                FOR UPDATE SKIP LOCKED)
            RETURNING run_id),
        step AS (INSERT INTO run_event_data (run_id, event, detail) SELECT run_id, 'stalled', $3 FROM marked)
        INSERT INTO event_data (kind, schedule, run_id, detail)
        SELECT 'run_stalled', $2, run_id, $3 FROM marked";
    Ok(client.execute(&client.prepare_cached(sql).await?, &[&run_id, &schedule, &detail]).await? == 1)
}

pub(super) async fn unlogged_runs(store: &PgStore, limit: usize) -> Result<Vec<RunRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM run_data
        WHERE log IS NULL AND state IN ('succeeded', 'partial', 'failed', 'cancelled')
        ORDER BY finished_at, run_id LIMIT $1"
    );
    let client = store.client().await?;
    let statement = client.prepare_cached(&sql).await?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    client.query(&statement, &[&limit]).await?.iter().map(run).collect()
}

pub(super) async fn log_run(store: &PgStore, run_id: Uuid, path: &str) -> Result<()> {
    let sql = "UPDATE run_data SET log = $2 WHERE run_id = $1";
    store.client().await?.execute(sql, &[&run_id, &path]).await?;
    Ok(())
}

pub(super) async fn forget_runs(
    store: &PgStore,
    finished_before: Timestamp,
    interval_before: Timestamp,
    limit: usize,
) -> Result<u64> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let (finished, interval) = (Us::from(finished_before), Us::from(interval_before));
    let sql = "SELECT run_id FROM run_data WHERE finished_at < $1 AND interval_end <= $2
        ORDER BY finished_at, run_id LIMIT $3";
    let rows = tx.query(sql, &[&finished, &interval, &limit]).await?;
    let ids: Vec<Uuid> = rows.iter().map(|r| r.at(0)).collect::<Result<_>>()?;
    // Tasks before runs, as everywhere. Should an interval have another run one day, its attempts go on above these.
    let sql = "WITH gone AS (DELETE FROM run_task_data WHERE run_id = ANY($1) RETURNING attempt)
        UPDATE setting_data SET forgotten_until = greatest(forgotten_until, $2),
            forgotten_attempt = greatest(forgotten_attempt, (SELECT max(attempt) FROM gone))
        WHERE EXISTS (SELECT FROM gone)";
    tx.execute(sql, &[&ids, &interval]).await?;
    tx.execute("DELETE FROM run_event_data WHERE run_id = ANY($1)", &[&ids]).await?;
    let removed = tx.execute("DELETE FROM run_data WHERE run_id = ANY($1)", &[&ids]).await?;
    let mut most = removed;
    // Fires and events are told by the clock, silences by the time of their intervals.
    for (table, time, before) in [
        ("fire_data", "last_fire_at", finished),
        ("event_data", "at", finished),
        ("silence_data", "ended_at", Us(interval.0.saturating_add(1))),
    ] {
        // Two processes may be at it: what the other one has locked is its to remove.
        let sql = format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {time} < $1
                ORDER BY {time} LIMIT $2 FOR UPDATE SKIP LOCKED))"
        );
        most = most.max(tx.execute(&tx.prepare_cached(&sql).await?, &[&before, &limit]).await?);
    }
    tx.commit().await?;
    Ok(most)
}
