//! Model sets.

use super::stream::time;
use crate::{ModelFailure, ModelPin, ModelSetRow, Outcome, Result, Rollback, StoreError};
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use rusqlite::{Connection, OptionalExtension, Params, Transaction, params};

/// The set of the newest activation that was not undone.
const ACTIVE: &str =
    "SELECT version FROM model_set_activation_data WHERE undone_at IS NULL ORDER BY id DESC LIMIT 1";

pub(super) fn reserve(tx: &Transaction<'_>) -> Result<i64> {
    // Also above any set that was added under a number of its own.
    let sql = "UPDATE fleetscore_meta
               SET value = max(CAST(value AS INTEGER), (SELECT coalesce(max(version), 0) FROM model_set_data)) + 1
               WHERE key = 'last_model_set' RETURNING CAST(value AS INTEGER)";
    Ok(tx.query_row(sql, [], |r| r.get(0))?)
}

pub(super) fn add(
    tx: &Transaction<'_>,
    set: &ModelSetRow,
    failures: &[ModelFailure],
    activate_it: bool,
    now: Timestamp,
) -> Result<()> {
    let inserted = tx.execute(
        "INSERT INTO model_set_data (version, path, models, refused, origin, checksum, trained_from, trained_to,
             created_by, created_at, features, training_rows, note)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT DO NOTHING",
        params![
            set.version,
            set.path,
            set.models,
            set.refused,
            set.origin,
            set.checksum,
            set.trained_on.map(|i| i.start.0),
            set.trained_on.map(|i| i.end.0),
            set.created_by,
            now.0,
            set.features.join(","),
            set.training_rows,
            set.note,
        ],
    )?;
    if inserted == 0 {
        // The same call again, after its answer was lost? A set's path is like no other's.
        let sql = "SELECT path FROM model_set_data WHERE version = ?1";
        let path: String = tx.query_row(sql, [set.version], |r| r.get(0))?;
        if path != set.path {
            return Err(StoreError::internal(format!("model set {} exists already", set.version)));
        }
    } else {
        add_failures(tx, set.version, failures)?;
    }
    if activate_it { activate(tx, set.version, now) } else { Ok(()) }
}

/// Model sets for which `condition` holds, newest first.
fn sets(conn: &Connection, condition: &str, parameters: impl Params) -> Result<Vec<ModelSetRow>> {
    let mut select = conn.prepare_cached(&format!(
        "SELECT version, path, version IS ({ACTIVE}), models, refused, origin, checksum, trained_from, trained_to,
                created_by, created_at, features, training_rows, note
         FROM model_set_data WHERE {condition} ORDER BY version DESC"
    ))?;
    let rows = select.query_map(parameters, |r| {
        Ok(ModelSetRow {
            version: r.get(0)?,
            path: r.get(1)?,
            active: r.get(2)?,
            models: r.get(3)?,
            refused: r.get(4)?,
            origin: r.get(5)?,
            checksum: r.get(6)?,
            trained_on: time(r, 7)?.zip(time(r, 8)?).map(|(start, end)| Interval { start, end }),
            created_by: r.get(9)?,
            created_at: Timestamp(r.get(10)?),
            features: r.get::<_, String>(11)?.split(',').filter(|f| !f.is_empty()).map(Into::into).collect(),
            training_rows: r.get(12)?,
            note: r.get(13)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn list(conn: &Connection) -> Result<Vec<ModelSetRow>> {
    sets(conn, "true", [])
}

pub(super) fn active_set(conn: &Connection) -> Result<Option<ModelSetRow>> {
    Ok(sets(conn, &format!("version = ({ACTIVE})"), [])?.pop())
}

pub(super) fn one(conn: &Connection, version: i64) -> Result<Option<ModelSetRow>> {
    Ok(sets(conn, "version = ?1", [version])?.pop())
}

fn exists(conn: &Connection, version: i64) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM model_set_data WHERE version = ?1)";
    Ok(conn.prepare_cached(sql)?.query_row([version], |r| r.get(0))?)
}

fn active(conn: &Connection) -> Result<Option<i64>> {
    Ok(conn.query_row(ACTIVE, [], |r| r.get(0)).optional()?)
}

pub(super) fn activate(tx: &Transaction<'_>, version: i64, now: Timestamp) -> Result<()> {
    if !exists(tx, version)? {
        return Err(StoreError::NotFound { what: format!("model set {version}") });
    }
    // Activating the active set again must not make rollback a step to itself.
    if active(tx)? != Some(version) {
        tx.execute(
            "INSERT INTO model_set_activation_data (version, activated_at) VALUES (?1, ?2)",
            [version, now.0],
        )?;
    }
    Ok(())
}

pub(super) fn rollback(tx: &Transaction<'_>, rollback: Rollback, now: Timestamp) -> Result<Outcome> {
    let sql =
        "SELECT version FROM model_set_activation_data WHERE undone_at IS NULL ORDER BY id DESC LIMIT 2";
    let newest: Vec<i64> =
        tx.prepare_cached(sql)?.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    if newest != [rollback.from, rollback.to] {
        return Ok(Outcome::Fenced);
    }
    tx.execute(
        "UPDATE model_set_activation_data SET undone_at = ?1
         WHERE id = (SELECT max(id) FROM model_set_activation_data WHERE undone_at IS NULL)",
        [now.0],
    )?;
    Ok(Outcome::Done)
}

pub(super) fn as_of(conn: &Connection, time: Timestamp) -> Result<Option<i64>> {
    let sql = "SELECT version FROM model_set_activation_data
               WHERE activated_at <= ?1 AND (undone_at IS NULL OR undone_at > ?1) ORDER BY id DESC LIMIT 1";
    Ok(conn.prepare_cached(sql)?.query_row([time.0], |r| r.get(0)).optional()?)
}

// --- failures -------------------------------------------------------------------------------------------------------

fn add_failures(tx: &Transaction<'_>, version: i64, failures: &[ModelFailure]) -> Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO model_failure_data (version, number, device, sensor, source, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (number, f) in (1_i64..).zip(failures) {
        let name = f.series.as_ref();
        let (device, sensor) = (name.map(|n| &n.device), name.map(|n| &n.sensor));
        insert.execute(params![version, number, device, sensor, f.source, f.reason])?;
    }
    Ok(())
}

pub(super) fn failures(conn: &Connection, version: i64) -> Result<Vec<ModelFailure>> {
    let sql =
        "SELECT device, sensor, source, reason FROM model_failure_data WHERE version = ?1 ORDER BY number";
    let mut select = conn.prepare_cached(sql)?;
    let rows = select.query_map([version], |r| {
        let (device, sensor): (Option<String>, Option<String>) = (r.get(0)?, r.get(1)?);
        let series = device.zip(sensor).map(|(device, sensor)| SeriesName { device, sensor });
        Ok(ModelFailure { series, source: r.get(2)?, reason: r.get(3)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

// --- pins -----------------------------------------------------------------------------------------------------------

pub(super) fn pin(
    tx: &Transaction<'_>,
    series: &[SeriesId],
    version: Option<i64>,
    by: &str,
    now: Timestamp,
) -> Result<()> {
    let Some(version) = version else {
        let mut delete = tx.prepare_cached("DELETE FROM model_pin_data WHERE series_id = ?1")?;
        for id in series {
            delete.execute([id])?;
        }
        return Ok(());
    };
    if !exists(tx, version)? {
        return Err(StoreError::NotFound { what: format!("model set {version}") });
    }
    let mut insert = tx.prepare_cached(
        "INSERT INTO model_pin_data (series_id, version, pinned_by, pinned_at)
         SELECT id, ?2, ?3, ?4 FROM series_data WHERE id = ?1
         ON CONFLICT DO UPDATE SET version = excluded.version, pinned_by = excluded.pinned_by,
             pinned_at = excluded.pinned_at",
    )?;
    for id in series {
        if insert.execute(params![id, version, by, now.0])? == 0 {
            return Err(StoreError::NotFound { what: format!("series {id}") });
        }
    }
    Ok(())
}

pub(super) fn pins(conn: &Connection) -> Result<Vec<ModelPin>> {
    let sql = "SELECT series_id, version, pinned_by, pinned_at FROM model_pin_data ORDER BY series_id";
    let mut select = conn.prepare_cached(sql)?;
    let rows = select.query_map([], |r| {
        let pinned_at = Timestamp(r.get(3)?);
        Ok(ModelPin { series: r.get(0)?, version: r.get(1)?, pinned_by: r.get(2)?, pinned_at })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
