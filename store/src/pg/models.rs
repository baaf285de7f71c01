//! The registry of model sets.

use super::PgStore;
use super::migrate::{Lock, lock};
use super::types::{RowExt, Us, clean, us};
use crate::{ModelFailure, ModelPin, ModelSetRow, Outcome, Result, Rollback, StoreError};
use deadpool_postgres::Transaction;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use tokio_postgres::Row;

/// Failures of one statement.
const FAILURES_A_CALL: usize = 10_000;

pub(super) async fn reserve(store: &PgStore) -> Result<i64> {
    // A sequence never gives a number twice, whatever becomes of the transaction.
    store.client().await?.query_one("SELECT nextval('model_set_version')", &[]).await?.at(0)
}

pub(super) async fn add(
    store: &PgStore,
    set: &ModelSetRow,
    failures: &[ModelFailure],
    activate: bool,
) -> Result<()> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    lock(&tx, Lock::ModelSets).await?;
    let (from, to) = (us(set.trained_on.map(|i| i.start)), us(set.trained_on.map(|i| i.end)));
    let sql = "INSERT INTO model_set_data (version, path, models, refused, origin, checksum, trained_from, trained_to,
            created_by, features, training_rows, note)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (version) DO NOTHING";
    let created_by = clean(&set.created_by);
    let note = set.note.as_deref().map(clean);
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
                &set.features,
                &set.training_rows,
                &note.as_deref(),
            ],
        )
        .await?;
    if added == 0 {
        // The same call again, after its answer was lost; or a bug.
        let row = tx.query_one("SELECT path FROM model_set_data WHERE version = $1", &[&set.version]).await?;
        if row.at::<&str>(0)? != set.path {
            return Err(StoreError::internal(format!("model set {} exists already", set.version)));
        }
    } else {
        add_failures(&tx, set.version, failures).await?;
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

pub(super) async fn rollback(store: &PgStore, rollback: Rollback) -> Result<Outcome> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    lock(&tx, Lock::ModelSets).await?;
    let sql =
        "SELECT id, version FROM model_set_activation_data WHERE undone_at IS NULL ORDER BY id DESC LIMIT 2";
    let rows = tx.query(sql, &[]).await?;
    let [present, before] = rows.as_slice() else { return Ok(Outcome::Fenced) };
    if (Rollback { from: present.at(1)?, to: before.at(1)? }) != rollback {
        return Ok(Outcome::Fenced);
    }
    tx.execute(
        "UPDATE model_set_activation_data SET undone_at = clock_timestamp() WHERE id = $1",
        &[&present.at::<i64>(0)?],
    )
    .await?;
    tx.commit().await?;
    Ok(Outcome::Done)
}

const COLUMNS: &str =
    "version, path, active, models, refused, origin, checksum, trained_from, trained_to, created_by,
    created_at, features, training_rows, note";

pub(super) async fn read(store: &PgStore) -> Result<Vec<ModelSetRow>> {
    let sql = format!("SELECT {COLUMNS} FROM model_sets ORDER BY version DESC");
    store.client().await?.query(&sql, &[]).await?.iter().map(set).collect()
}

pub(super) async fn active(store: &PgStore) -> Result<Option<ModelSetRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM model_sets WHERE version = (SELECT a.version FROM model_set_activation_data a
            WHERE a.undone_at IS NULL ORDER BY a.id DESC LIMIT 1)"
    );
    let client = store.client().await?;
    let statement = client.prepare_cached(&sql).await?;
    client.query_opt(&statement, &[]).await?.as_ref().map(set).transpose()
}

pub(super) async fn as_of(store: &PgStore, time: Timestamp) -> Result<Option<i64>> {
    let sql = "SELECT version FROM model_set_activation_data
        WHERE activated_at <= $1 AND (undone_at IS NULL OR undone_at > $1) ORDER BY id DESC LIMIT 1";
    let row = store.client().await?.query_opt(sql, &[&Us::from(time)]).await?;
    row.map(|row| row.at(0)).transpose()
}

pub(super) async fn one(store: &PgStore, version: i64) -> Result<Option<ModelSetRow>> {
    let sql = format!("SELECT {COLUMNS} FROM model_sets WHERE version = $1");
    store.client().await?.query_opt(&sql, &[&version]).await?.as_ref().map(set).transpose()
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
        features: row.at(11)?,
        training_rows: row.at(12)?,
        note: row.at(13)?,
    })
}

// --- failures -------------------------------------------------------------------------------------------------------

async fn add_failures(tx: &Transaction<'_>, version: i64, failures: &[ModelFailure]) -> Result<()> {
    let mut number = 0_i64;
    for some in failures.chunks(FAILURES_A_CALL) {
        let name = |f: &dyn Fn(&SeriesName) -> &str| -> Vec<Option<String>> {
            some.iter().map(|x| x.series.as_ref().map(|n| clean(f(n)).into_owned())).collect()
        };
        let (devices, sensors) = (name(&|n| &n.device), name(&|n| &n.sensor));
        let sources: Vec<_> = some.iter().map(|f| clean(&f.source)).collect();
        let reasons: Vec<_> = some.iter().map(|f| clean(&f.reason)).collect();
        tx.execute(
            "INSERT INTO model_failure_data (version, number, device, sensor, source, reason)
             SELECT $1, $2 + a.i, a.device, a.sensor, a.source, a.reason
             FROM unnest($3::text[], $4::text[], $5::text[], $6::text[])
                WITH ORDINALITY AS a(device, sensor, source, reason, i)",
            &[&version, &number, &devices, &sensors, &sources, &reasons],
        )
        .await?;
        number += some.len() as i64;
    }
    Ok(())
}

pub(super) async fn failures(store: &PgStore, version: i64) -> Result<Vec<ModelFailure>> {
    let sql =
        "SELECT device, sensor, source, reason FROM model_failure_data WHERE version = $1 ORDER BY number";
    let rows = store.client().await?.query(sql, &[&version]).await?;
    rows.iter()
        .map(|r| {
            let (device, sensor): (Option<String>, Option<String>) = (r.at(0)?, r.at(1)?);
            let series = device.zip(sensor).map(|(device, sensor)| SeriesName { device, sensor });
            Ok(ModelFailure { series, source: r.at(2)?, reason: r.at(3)? })
        })
        .collect()
}

// --- pins -----------------------------------------------------------------------------------------------------------

pub(super) async fn pin(store: &PgStore, series: &[SeriesId], version: Option<i64>, by: &str) -> Result<()> {
    let mut client = store.client().await?;
    // An id beyond `integer` was never given out.
    let known = |id: &SeriesId| i32::try_from(*id).ok();
    let Some(version) = version else {
        let ids: Vec<i32> = series.iter().filter_map(known).collect();
        client.execute("DELETE FROM model_pin_data WHERE series_id = ANY($1)", &[&ids]).await?;
        return Ok(());
    };
    let missing = |what: String| Err(StoreError::NotFound { what });
    let mut ids = Vec::with_capacity(series.len());
    for id in series {
        let Some(known) = known(id) else { return missing(format!("series {id}")) };
        ids.push(known);
    }
    let tx = client.transaction().await?;
    lock(&tx, Lock::ModelSets).await?;
    if tx.query_opt("SELECT 1 FROM model_set_data WHERE version = $1", &[&version]).await?.is_none() {
        return missing(format!("model set {version}"));
    }
    let sql = "SELECT a.id FROM unnest($1::integer[]) AS a(id)
        WHERE NOT EXISTS (SELECT FROM series_data s WHERE s.id = a.id) LIMIT 1";
    if let Some(row) = tx.query_opt(sql, &[&ids]).await? {
        return missing(format!("series {}", row.at::<i32>(0)?));
    }
    tx.execute(
        "INSERT INTO model_pin_data (series_id, version, pinned_by) SELECT DISTINCT a.id, $2::bigint, $3::text
         FROM unnest($1::integer[]) AS a(id)
         ON CONFLICT (series_id) DO UPDATE SET version = excluded.version, pinned_by = excluded.pinned_by,
             pinned_at = excluded.pinned_at",
        &[&ids, &version, &&*clean(by)],
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn pins(store: &PgStore) -> Result<Vec<ModelPin>> {
    let sql = "SELECT series_id, version, pinned_by, pinned_at FROM model_pin_data ORDER BY series_id";
    let rows = store.client().await?.query(sql, &[]).await?;
    rows.iter()
        .map(|r| {
            Ok(ModelPin {
                series: r.at::<i32>(0)? as SeriesId, // positive as stored
                version: r.at(1)?,
                pinned_by: r.at(2)?,
                pinned_at: r.time(3)?,
            })
        })
        .collect()
}
