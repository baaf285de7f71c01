//! Settings, schedules, and the views of windows that are not the pane.

use super::PgStore;
use super::types::{RowExt, clean, us};
use crate::settings::{fits_panes, same_panes, same_schedule, schedule_name};
use crate::{CatchUp, PaneSettings, ReadinessSettings, Result, ScheduleRow, ScheduleSpec, StoreError};
use fleetscore_schemas::time::Edges;
use fleetscore_schemas::window::Feature;
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
    let features: Vec<&str> = spec.features.iter().map(|f| f.as_str()).collect();
    match &stored {
        Some(stored) => same_schedule(&stored.spec, spec)?,
        None => {
            tx.execute(
                "INSERT INTO schedule_data (name, window_us, hop_us, features, catch_up, rescore_delay_us, republish_gap_us)
                 VALUES ($1, $2, $3, '{}', '', 0, 0)",
                &[&spec.name, &spec.window_us, &spec.hop_us],
            )
            .await?;
        }
    }
    if stored.is_none_or(|s| s.spec != *spec) {
        tx.execute(
            "UPDATE schedule_data SET features = $2, catch_up = $3, max_age_us = $4, rescore_delay_us = $5,
                republish_gap_us = $6 WHERE name = $1",
            &[
                &spec.name,
                &features,
                &spec.catch_up.as_str(),
                &spec.max_age_us,
                &spec.rescore_delay_us,
                &spec.republish_gap_us,
            ],
        )
        .await?;
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
    let sql =
        "SELECT name, window_us, hop_us, features, catch_up, max_age_us, rescore_delay_us, republish_gap_us,
        revision, first_interval, covered_until, created_at FROM schedule_data ORDER BY name";
    client.query(sql, &[]).await?.iter().map(schedule).collect()
}

fn schedule(row: &Row) -> Result<ScheduleRow> {
    let features: Vec<&str> = row.at(3)?;
    let features: Result<Vec<Feature>, String> = features.into_iter().map(str::parse).collect();
    let catch_up = match row.at::<&str>(4)? {
        "all" => CatchUp::All,
        "latest" => CatchUp::Latest,
        "none" => CatchUp::None,
        other => {
            return Err(StoreError::internal(format!("catch_up `{other}` is not one this version knows")));
        }
    };
    Ok(ScheduleRow {
        spec: ScheduleSpec {
            name: row.at(0)?,
            window_us: row.at(1)?,
            hop_us: row.at(2)?,
            features: features.map_err(StoreError::internal)?,
            catch_up,
            max_age_us: row.at(5)?,
            rescore_delay_us: row.at(6)?,
            republish_gap_us: row.at(7)?,
        },
        revision: row.at(8)?,
        first_interval: row.maybe_time(9)?,
        covered_until: row.maybe_time(10)?,
        created_at: row.time(11)?,
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
        covered_until = greatest(covered_until, $4) WHERE name = $1 AND revision = $2";
    let n = tx
        .execute(sql, &[&step.name, &step.revision, &us(step.first_interval), &us(step.covered_until)])
        .await?;
    Ok(n == 1)
}
