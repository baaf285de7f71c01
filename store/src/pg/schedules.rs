//! Settings, schedules, and the views of windows that are not the pane.

use super::PgStore;
use super::types::{RowExt, clean, us};
use crate::settings::{fits_panes, same_panes, same_schedule, schedule_name};
use crate::{Missed, PaneSettings, Pause, ReadinessSettings, Result, ScheduleRow, ScheduleSpec, StoreError};
use fleetscore_schemas::time::Edges;
use tokio_postgres::{GenericClient, Row, Transaction};

pub(super) async fn pane_settings(client: &impl GenericClient) -> Result<Option<PaneSettings>> {
    let row =
        client.query_one("SELECT pane_us, edges, filter, value, ts_unit FROM setting_data", &[]).await?;
    let Some(interval_us) = row.at::<Option<i64>>(0)? else { return Ok(None) };
    let edges = match row.at::<&str>(1)? {
        "end" => Edges::End,
        _ => Edges::Start,
    };
    let (filter, value, ts_unit) = (row.at(2)?, row.at(3)?, row.at(4)?);
    Ok(Some(PaneSettings { interval_us, edges, filter, value, ts_unit }))
}

pub(super) async fn pin_panes(store: &PgStore, settings: &PaneSettings) -> Result<()> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    tx.query_one("SELECT 1 FROM setting_data FOR UPDATE", &[]).await?;
    if let Some(stored) = pane_settings(&*tx).await? {
        return same_panes(&stored, settings);
    }
    let existing = rows(&*tx).await?;
    for schedule in &existing {
        fits_panes(&schedule.spec, settings)?;
    }
    tx.execute(
        "UPDATE setting_data SET pane_us = $1, edges = $2, filter = $3, value = $4, ts_unit = $5",
        &[
            &settings.interval_us,
            &settings.edges.as_str(),
            &settings.filter,
            &settings.value,
            &settings.ts_unit,
        ],
    )
    .await?;
    for schedule in &existing {
        ensure_view(&tx, &schedule.spec, settings.interval_us).await?;
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn put_readiness(store: &PgStore, s: &ReadinessSettings) -> Result<()> {
    let sql = "UPDATE setting_data SET max_disorder_us = $1, owner_ttl_us = $2, max_wait_us = $3
        WHERE (max_disorder_us, owner_ttl_us, max_wait_us) IS DISTINCT FROM ($1, $2, $3)";
    store.client().await?.execute(sql, &[&s.max_disorder_us, &s.owner_ttl_us, &s.max_wait_us]).await?;
    Ok(())
}

pub(super) async fn readiness(store: &PgStore) -> Result<ReadinessSettings> {
    let sql = "SELECT max_disorder_us, owner_ttl_us, max_wait_us FROM setting_data";
    let row = store.client().await?.query_one(sql, &[]).await?;
    Ok(ReadinessSettings { max_disorder_us: row.at(0)?, owner_ttl_us: row.at(1)?, max_wait_us: row.at(2)? })
}

pub(super) async fn put(store: &PgStore, spec: &ScheduleSpec) -> Result<()> {
    schedule_name(&spec.name)?;
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    // The same row that pinning the panes locks: one of the two sees the other.
    tx.query_one("SELECT 1 FROM setting_data FOR UPDATE", &[]).await?;
    let panes = pane_settings(&*tx).await?;
    if let Some(panes) = &panes {
        fits_panes(spec, panes)?;
    }
    let stored = rows(&*tx).await?.into_iter().find(|s| s.spec.name == spec.name);
    if let Some(stored) = &stored {
        same_schedule(&stored.spec, spec)?;
    }
    if stored.is_none_or(|s| s.spec != *spec) {
        let settings = serde_json::to_string(spec).map_err(StoreError::internal)?;
        // The revision rises: a look that was begun before decided by what no longer holds.
        let sql = "INSERT INTO schedule_data AS s (name, window_us, hop_us, settings)
            VALUES ($1, $2, $3, $4::text::jsonb)
            ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, revision = s.revision + 1";
        tx.execute(sql, &[&spec.name, &spec.window_us, &spec.hop_us, &settings]).await?;
    }
    if let Some(panes) = panes {
        ensure_view(&tx, spec, panes.interval_us).await?;
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn read(store: &PgStore) -> Result<Vec<ScheduleRow>> {
    rows(&**store.client().await?).await
}

async fn rows(client: &impl GenericClient) -> Result<Vec<ScheduleRow>> {
    let sql = "SELECT name, window_us, hop_us, settings::text, revision, first_interval, covered_until, pause_id, paused_at,
            paused_by, looked_at, missed_until, missed_newest, fired_at, released_until, roster_until, created_at
        FROM schedule_data ORDER BY name";
    client.query(sql, &[]).await?.iter().map(schedule).collect()
}

fn schedule(row: &Row) -> Result<ScheduleRow> {
    let stored: ScheduleSpec = serde_json::from_str(row.at(3)?).map_err(StoreError::internal)?;
    let pause = match (row.at::<Option<uuid::Uuid>>(7)?, row.maybe_time(8)?) {
        (Some(id), Some(at)) => Some(Pause { id, at, by: row.at(9)? }),
        _ => None,
    };
    let missed = row.maybe_time(11)?.zip(row.maybe_time(12)?);
    Ok(ScheduleRow {
        spec: ScheduleSpec { name: row.at(0)?, window_us: row.at(1)?, hop_us: row.at(2)?, ..stored },
        revision: row.at(4)?,
        first_interval: row.maybe_time(5)?,
        covered_until: row.maybe_time(6)?,
        pause,
        looked_at: row.maybe_time(10)?,
        missed: missed.map(|(until, newest_pane)| Missed { until, newest_pane }),
        fired_at: row.maybe_time(13)?,
        released_until: row.maybe_time(14)?,
        roster_until: row.maybe_time(15)?,
        created_at: row.time(16)?,
    })
}

/// The view `windows_<name>`, where the schedule's window is not the pane and the view is not there yet.
async fn ensure_view(tx: &Transaction<'_>, spec: &ScheduleSpec, pane_us: i64) -> Result<()> {
    if spec.window_us == pane_us && spec.hop_us == pane_us {
        return Ok(());
    }
    let made: bool =
        tx.query_one("SELECT has_view FROM schedule_data WHERE name = $1", &[&spec.name]).await?.at(0)?;
    if made {
        return Ok(());
    }
    let view = format!("windows_{}", spec.name);
    let taken = "SELECT 1 FROM pg_class WHERE relname = $1 AND relnamespace = current_schema()::regnamespace";
    if tx.query_opt(taken, &[&view]).await?.is_some() {
        return Err(StoreError::Foreign { object: view });
    }
    tx.batch_execute(&view_sql(&view, spec, pane_us)).await?;
    tx.execute("UPDATE schedule_data SET has_view = true WHERE name = $1", &[&spec.name]).await?;
    Ok(())
}

/// Windows are merged from panes, one range of panes per window: a filter on `window_start` reaches the list of starts,
/// which comes from the index of panes and not from the panes themselves. The deviation is exact: squares around the
/// window's own mean.
fn view_sql(view: &str, spec: &ScheduleSpec, pane_us: i64) -> String {
    // Only digits and a checked name are put into the text.
    let span = |us: i64| format!("interval '{us} microseconds'");
    let (window, hop, pane) = (span(spec.window_us), span(spec.hop_us), span(pane_us));
    let up_to_hop = span(pane_us - spec.window_us + spec.hop_us - 1);
    let epoch = "timestamptz '1970-01-01 00:00:00+00'";
    format!(
        "CREATE VIEW {view} AS
        SELECT w.window_start, w.window_start + {window} AS window_end, n.device, n.sensor,
            m.readings, m.sum, m.mean,
            CASE WHEN m.readings > 1 THEN sqrt(fleetscore_mean((
                SELECT sum(u.m2 + u.n * fleetscore_square(fleetscore_mean(u.s, u.n) - m.mean))
                FROM unnest(m.ns, m.sums, m.m2s) AS u(n, s, m2)), m.readings - 1)) END AS stddev,
            m.min, m.max, m.first, m.last, m.version,
            coalesce(w.window_start + {window} <= (SELECT until FROM ready_until), false) AS ready
        FROM (
            SELECT DISTINCT g.window_start
            FROM pane_index_data i, generate_series(date_bin({hop}, i.pane_start + {up_to_hop}, {epoch}),
                date_bin({hop}, i.pane_start, {epoch}), {hop}) AS g(window_start)
        ) w
        CROSS JOIN LATERAL (
            SELECT p.series_id, sum(p.count)::bigint AS readings, sum(p.sum) AS sum,
                fleetscore_mean(sum(p.sum), sum(p.count)::bigint) AS mean, min(p.min) AS min, max(p.max) AS max,
                (array_agg(p.first_value ORDER BY p.first_ts, p.first_value))[1] AS first,
                (array_agg(p.last_value ORDER BY p.last_ts DESC, p.last_value DESC))[1] AS last,
                sum(p.version)::bigint AS version,
                array_agg(p.count) AS ns, array_agg(p.sum) AS sums, array_agg(p.m2) AS m2s
            FROM pane_data p
            WHERE p.pane_start >= w.window_start AND p.pane_start <= w.window_start + ({window} - {pane})
            GROUP BY p.series_id
        ) m
        JOIN series_data n ON n.id = m.series_id
        WHERE w.window_start >= coalesce((SELECT max(floor) FROM progress_data), '-infinity')"
    )
}

/// For notes and errors that hold foreign text.
pub(super) fn maybe_clean(text: Option<&String>) -> Option<String> {
    text.map(|t| clean(t).into_owned())
}

/// Moves in the order in which their rows are locked.
pub(super) fn schedule_moves(moves: &[crate::ScheduleMove]) -> Vec<&crate::ScheduleMove> {
    let mut sorted: Vec<_> = moves.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

/// Applies one move; false if the revision is another.
pub(super) async fn apply_move(tx: &Transaction<'_>, step: &crate::ScheduleMove) -> Result<bool> {
    let sql =
        "UPDATE schedule_data SET revision = revision + 1, first_interval = coalesce(first_interval, $3),
            covered_until = greatest(covered_until, $4),
            looked_at = CASE WHEN $5 THEN clock_timestamp() ELSE looked_at END,
            missed_until = coalesce($6, missed_until), missed_newest = coalesce($7, missed_newest),
            fired_at = greatest(fired_at, $8), released_until = greatest(released_until, $9)
        WHERE name = $1 AND revision = $2";
    let missed = step.missed.map(|m| (m.until, m.newest_pane)).unzip();
    let n = tx
        .execute(
            sql,
            &[
                &step.name,
                &step.revision,
                &us(step.first_interval),
                &us(step.covered_until),
                &step.looked,
                &us(missed.0),
                &us(missed.1),
                &us(step.fired_at),
                &us(step.released_until),
            ],
        )
        .await?;
    Ok(n == 1)
}

/// The revision rises: who decided before the pause decides anew.
pub(super) async fn pause(store: &PgStore, name: &str, by: Option<&str>) -> Result<bool> {
    let sql = "UPDATE schedule_data SET pause_id = $2::uuid, paused_by = $3, revision = revision + 1,
            paused_at = CASE WHEN $2::uuid IS NOT NULL THEN clock_timestamp() END
        WHERE name = $1 AND (pause_id IS NULL) = ($2::uuid IS NOT NULL)";
    let client = store.client().await?;
    let id = by.map(|_| uuid::Uuid::new_v4());
    let by = by.map(clean);
    if client.execute(sql, &[&name, &id, &by.as_deref()]).await? == 1 {
        return Ok(true);
    }
    match client.query_opt("SELECT 1 FROM schedule_data WHERE name = $1", &[&name]).await? {
        Some(_) => Ok(false),
        None => Err(StoreError::no_schedule(name)),
    }
}
