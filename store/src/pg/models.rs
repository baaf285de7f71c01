//! The registry of model sets.

use super::PgStore;
use super::migrate::{Lock, lock};
use super::types::{RowExt, clean, us};
use crate::{ModelSetRow, Result, StoreError};
use deadpool_postgres::Transaction;
use fleetscore_schemas::time::Interval;
use tokio_postgres::Row;

pub(super) async fn reserve(store: &PgStore) -> Result<i64> {
    // A sequence never gives a number twice, whatever becomes of the transaction.
    store.client().await?.query_one("SELECT nextval('model_set_version')", &[]).await?.at(0)
}

pub(super) async fn add(store: &PgStore, set: &ModelSetRow, activate: bool) -> Result<()> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    lock(&tx, Lock::ModelSets).await?;
    let (from, to) = (us(set.trained_on.map(|i| i.start)), us(set.trained_on.map(|i| i.end)));
    let sql = "INSERT INTO model_set_data (version, path, models, refused, origin, checksum, trained_from, trained_to,
            created_by)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (version) DO NOTHING";
    let created_by = clean(&set.created_by);
    let added = tx
        .execute(
            sql,
            &[
                &set.version,
                &set.path,
                &set.models,
                &set.refused,
                &set.origin,
                &set.checksum,
                &from,
                &to,
                &&*created_by,
            ],
        )
        .await?;
    if added == 0 {
        // The same call again, after its answer was lost; or a bug.
        let row = tx.query_one("SELECT path FROM model_set_data WHERE version = $1", &[&set.version]).await?;
        if row.at::<&str>(0)? != set.path {
            return Err(StoreError::internal(format!("model set {} exists already", set.version)));
        }
    }
    // A version that was not reserved here (a copied store) is not given again.
    tx.execute(
        "SELECT setval('model_set_version', $1) FROM model_set_version WHERE last_value < $1",
        &[&set.version],
    )
    .await?;
    if activate {
        make_active(&tx, set.version).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn make_active(tx: &Transaction<'_>, version: i64) -> Result<()> {
    if tx.query_opt("SELECT 1 FROM model_set_data WHERE version = $1", &[&version]).await?.is_none() {
        return Err(StoreError::NotFound { what: format!("model set {version}") });
    }
    // Activating the active set again must not make rollback a step to itself.
    let sql = "INSERT INTO model_set_activation_data (version)
        SELECT $1 WHERE $1 IS DISTINCT FROM (
            SELECT a.version FROM model_set_activation_data a WHERE a.undone_at IS NULL ORDER BY a.id DESC LIMIT 1)";
    tx.execute(sql, &[&version]).await?;
    Ok(())
}

pub(super) async fn activate(store: &PgStore, version: i64) -> Result<()> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    lock(&tx, Lock::ModelSets).await?;
    make_active(&tx, version).await?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn rollback(store: &PgStore) -> Result<Option<i64>> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    lock(&tx, Lock::ModelSets).await?;
    let sql =
        "SELECT id, version FROM model_set_activation_data WHERE undone_at IS NULL ORDER BY id DESC LIMIT 2";
    let rows = tx.query(sql, &[]).await?;
    let [present, before] = rows.as_slice() else { return Ok(None) };
    tx.execute(
        "UPDATE model_set_activation_data SET undone_at = clock_timestamp() WHERE id = $1",
        &[&present.at::<i64>(0)?],
    )
    .await?;
    let version = before.at(1)?;
    tx.commit().await?;
    Ok(Some(version))
}

pub(super) async fn read(store: &PgStore) -> Result<Vec<ModelSetRow>> {
    let sql = "SELECT version, path, active, models, refused, origin, checksum, trained_from, trained_to, created_by,
        created_at FROM model_sets ORDER BY version DESC";
    store.client().await?.query(sql, &[]).await?.iter().map(set).collect()
}

fn set(row: &Row) -> Result<ModelSetRow> {
    let trained = row.maybe_time(7)?.zip(row.maybe_time(8)?);
    Ok(ModelSetRow {
        version: row.at(0)?,
        path: row.at(1)?,
        active: row.at(2)?,
        models: row.at(3)?,
        refused: row.at(4)?,
        origin: row.at(5)?,
        checksum: row.at(6)?,
        trained_on: trained.map(|(start, end)| Interval { start, end }),
        created_by: row.at(9)?,
        created_at: row.time(10)?,
    })
}
