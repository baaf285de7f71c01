//! Objects of the schema: versioned, under a lock, all in the first schema of `search_path`.

use super::PgStore;
use super::types::RowExt;
use crate::{Result, StoreError};
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

/// Migrations by version, each applied once and never edited after a release.
const MIGRATIONS: &[(i64, &str)] = &[(1, include_str!("../../../schemas/migrations/pg/0001_init.sql"))];

/// Relations the first migration makes: one of them without our marker beside it is somebody else's.
const NAMES: &[&str] = &[
    "setting_data",
    "series_data",
    "progress_data",
    "pane_data",
    "pane_index_data",
    "changed_pane_data",
    "dead_letter_data",
    "loss_event_data",
    "schedule_data",
    "run_data",
    "run_task_data",
    "prediction_data",
    "publication_data",
    "model_set_version",
    "model_set_data",
    "model_set_activation_data",
    "ready_until",
    "windows",
    "predictions",
    "anomalies",
    "dead_letters",
    "loss_events",
    "progress",
    "schedules",
    "runs",
    "run_tasks",
    "publications",
    "model_sets",
    "model_failure_data",
    "model_failures",
    "model_pin_data",
    "model_pins",
    "fire_data",
    "fires",
    "run_event_data",
    "run_events",
    "thin_state_data",
    "silence_data",
    "silences",
    "event_data",
    "events",
];

/// Advisory locks, each taken together with the schema's name, so that stores in one database do not meet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    Migrate = 1,
    Partitions = 2,
    Intern = 3,
    Floor = 4,
    Retention = 5,
    ModelSets = 6,
}

/// Takes a lock until the transaction ends.
pub(super) async fn lock(tx: &Transaction<'_>, lock: Lock) -> Result<()> {
    let sql = "SELECT pg_advisory_xact_lock(hashtext('fleetscore/' || current_schema()), $1)";
    tx.execute(sql, &[&(lock as i32)]).await?;
    Ok(())
}

/// Takes a lock of one schedule until the transaction ends; false where another session has it.
pub(super) async fn try_lock_schedule(tx: &Transaction<'_>, what: &str, schedule: &str) -> Result<bool> {
    let sql = "SELECT pg_try_advisory_xact_lock(
        hashtextextended('fleetscore/' || current_schema() || '/' || $1::text || '/' || $2::text, 0))";
    tx.query_one(sql, &[&what, &schedule]).await?.at(0)
}

pub(super) async fn migrate(store: &PgStore) -> Result<()> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    let schema: Option<String> = tx.query_one("SELECT current_schema()::text", &[]).await?.at(0)?;
    let Some(schema) = schema else {
        return Err(StoreError::Setting {
            setting: "store".into(),
            message: "no schema of the role's search_path exists: create one".into(),
        });
    };
    lock(&tx, Lock::Migrate).await?;
    let known = MIGRATIONS.last().map_or(0, |m| m.0);
    let found = stored_version(&tx, &schema).await?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for (version, sql) in MIGRATIONS.iter().filter(|m| m.0 > found) {
        tx.batch_execute(sql).await.map_err(|e| not_ours(e, &schema))?;
        tx.execute(
            "UPDATE fleetscore_meta SET value = $1 WHERE key = 'schema_version'",
            &[&version.to_string()],
        )
        .await?;
        tracing::info!(schema, version, "migrated the store");
    }
    tx.commit().await?;
    Ok(())
}

/// 0 where nothing of ours is there.
async fn stored_version(tx: &Transaction<'_>, schema: &str) -> Result<i64> {
    let relations = "SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND relname = ANY($2) ORDER BY relname LIMIT 1";
    let foreign = |name: String| StoreError::Foreign { object: format!("{schema}.{name}") };
    if tx.query_opt(relations, &[&schema, &["fleetscore_meta"].as_slice()]).await?.is_none() {
        return match tx.query_opt(relations, &[&schema, &NAMES]).await? {
            Some(row) => Err(foreign(row.at(0)?)),
            None => Ok(0),
        };
    }
    // A table of that name which is not ours may lack the columns: find out without an error.
    let columns: i64 = tx
        .query_one(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = format('%I.fleetscore_meta', $1::text)::regclass
             AND attname IN ('key', 'value') AND atttypid = 'text'::regtype",
            &[&schema],
        )
        .await?
        .at(0)?;
    if columns != 2 {
        return Err(foreign("fleetscore_meta".into()));
    }
    let meta =
        "SELECT max(value) FILTER (WHERE key = 'made_by'), max(value) FILTER (WHERE key = 'schema_version')
        FROM fleetscore_meta";
    let row = tx.query_one(meta, &[]).await?;
    let (made_by, version): (Option<&str>, Option<&str>) = (row.at(0)?, row.at(1)?);
    match (made_by, version.and_then(|v| v.parse().ok())) {
        (Some("fleetscore"), Some(version)) => Ok(version),
        _ => Err(foreign("fleetscore_meta".into())),
    }
}

/// What is left to collide although no relation did: a type or a function.
fn not_ours(e: tokio_postgres::Error, schema: &str) -> StoreError {
    let taken = [SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT, SqlState::DUPLICATE_FUNCTION];
    match e.as_db_error() {
        Some(db) if taken.contains(db.code()) => {
            let object = db.message().split('"').nth(1).unwrap_or(db.message()).to_owned();
            StoreError::Foreign { object: format!("{schema}.{object}") }
        }
        _ => e.into(),
    }
}

pub(super) async fn store_id(store: &PgStore) -> Result<Uuid> {
    let client = store.client().await?;
    let row = client.query_one("SELECT value FROM fleetscore_meta WHERE key = 'store_id'", &[]).await?;
    row.at::<&str>(0)?.parse().map_err(StoreError::internal)
}
