//! Model sets.

use super::stream::time;
use crate::{ModelSetRow, Result, StoreError};
use fleetscore_schemas::time::{Interval, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

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

pub(super) fn add(tx: &Transaction<'_>, set: &ModelSetRow, activate_it: bool, now: Timestamp) -> Result<()> {
    let inserted = tx.execute(
        "INSERT INTO model_set_data (version, path, models, refused, origin, checksum, trained_from, trained_to,
             created_by, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
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
        ],
    )?;
    if inserted == 0 {
        // The same call again, after its answer was lost? A set's path is like no other's.
        let sql = "SELECT path FROM model_set_data WHERE version = ?1";
        let path: String = tx.query_row(sql, [set.version], |r| r.get(0))?;
        if path != set.path {
            return Err(StoreError::internal(format!("model set {} exists already", set.version)));
        }
    }
    if activate_it { activate(tx, set.version, now) } else { Ok(()) }
}

pub(super) fn list(conn: &Connection) -> Result<Vec<ModelSetRow>> {
    let mut select = conn.prepare_cached(&format!(
        "SELECT version, path, version IS ({ACTIVE}), models, refused, origin, checksum, trained_from, trained_to,
                created_by, created_at
         FROM model_set_data ORDER BY version DESC"
    ))?;
    let rows = select.query_map([], |r| {
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
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn active(conn: &Connection) -> Result<Option<i64>> {
    Ok(conn.query_row(ACTIVE, [], |r| r.get(0)).optional()?)
}

pub(super) fn activate(tx: &Transaction<'_>, version: i64, now: Timestamp) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM model_set_data WHERE version = ?1)";
    if !tx.query_row(sql, [version], |r| r.get::<_, bool>(0))? {
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

pub(super) fn rollback(tx: &Transaction<'_>, now: Timestamp) -> Result<Option<i64>> {
    let sql = "SELECT count(*) FROM model_set_activation_data WHERE undone_at IS NULL";
    if tx.query_row(sql, [], |r| r.get::<_, i64>(0))? < 2 {
        return Ok(None);
    }
    tx.execute(
        "UPDATE model_set_activation_data SET undone_at = ?1
         WHERE id = (SELECT max(id) FROM model_set_activation_data WHERE undone_at IS NULL)",
        [now.0],
    )?;
    active(tx)
}
