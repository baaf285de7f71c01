//! Schedules, as configured and as they stand.

use super::migrate::{create_view, pane_settings};
use super::plan::parsed;
use super::stream::time;
use crate::settings::{fits_panes, same_schedule, schedule_name};
use crate::{ChangedPane, Missed, Pause, Result, ScheduleRow, ScheduleSpec, StoreError};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::time::Timestamp;
use rusqlite::{Connection, Transaction, params};
use uuid::Uuid;

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
    if stored.as_ref().is_none_or(|row| row.spec != *spec) {
        let settings = serde_json::to_string(spec).map_err(StoreError::internal)?;
        // The revision rises: a look that was begun before decided by what no longer holds.
        tx.execute(
            "INSERT INTO schedule_data (name, window_us, hop_us, settings, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, revision = revision + 1",
            params![spec.name, spec.window_us, spec.hop_us, settings, now.0],
        )?;
    }
    match (stored, panes) {
        (None, Some(panes)) => create_view(tx, spec, &panes),
        // A schedule that came before the panes gets its view from pin_panes.
        _ => Ok(()),
    }
}

pub(super) fn schedules(conn: &Connection) -> Result<Vec<ScheduleRow>> {
    let mut select = conn.prepare_cached(
        "SELECT settings, revision, first_interval, covered_until, pause_id, paused_at, paused_by, looked_at,
                missed_until, missed_newest, fired_at, released_until, roster_until, created_at
         FROM schedule_data ORDER BY name",
    )?;
    let mut rows = select.query([])?;
    let mut schedules = Vec::new();
    while let Some(r) = rows.next()? {
        let pause = match time(r, 5)? {
            None => None,
            Some(at) => Some(Pause { id: parsed(r, 4)?, at, by: r.get(6)? }),
        };
        let missed = time(r, 8)?.zip(time(r, 9)?);
        schedules.push(ScheduleRow {
            spec: serde_json::from_str(r.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)
                .map_err(StoreError::internal)?,
            revision: r.get(1)?,
            first_interval: time(r, 2)?,
            covered_until: time(r, 3)?,
            pause,
            looked_at: time(r, 7)?,
            missed: missed.map(|(until, newest_pane)| Missed { until, newest_pane }),
            fired_at: time(r, 10)?,
            released_until: time(r, 11)?,
            roster_until: time(r, 12)?,
            created_at: Timestamp(r.get(13)?),
        });
    }
    Ok(schedules)
}

pub(super) fn pause(tx: &Transaction<'_>, name: &str, by: Option<&str>, now: Timestamp) -> Result<bool> {
    // The revision rises: a plan that was made before must not open a run behind it.
    let changed = tx.execute(
        "UPDATE schedule_data SET revision = revision + 1, pause_id = ?2, paused_at = ?3, paused_by = ?4
         WHERE name = ?1 AND (paused_at IS NULL) = (?4 IS NOT NULL)",
        params![name, by.map(|_| Uuid::new_v4().to_string()), by.map(|_| now.0), by],
    )?;
    if changed == 0 {
        let sql = "SELECT EXISTS (SELECT 1 FROM schedule_data WHERE name = ?1)";
        let known: bool = tx.query_row(sql, [name], |r| r.get(0))?;
        if !known {
            return Err(StoreError::no_schedule(name));
        }
    }
    Ok(changed == 1)
}

pub(super) fn last_series(conn: &Connection) -> Result<SeriesId> {
    let sql = "SELECT coalesce(max(id), 0) FROM series_data";
    Ok(conn.prepare_cached(sql)?.query_row([], |r| r.get(0))?)
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
