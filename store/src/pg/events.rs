//! What happened to runs, and what an operator should know: rows that are written in the transaction that made them true.

use super::types::clean;
use crate::{Notice, Result};
use deadpool_postgres::Transaction;
use uuid::Uuid;

/// A step in the life of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) run_id: Uuid,
    pub(super) event: &'a str,
    pub(super) shard: Option<i32>,
    pub(super) worker: Option<&'a str>,
    pub(super) detail: Option<&'a str>,
}

/// Records a step of a run.
pub(super) async fn step(tx: &Transaction<'_>, step: Step<'_>) -> Result<()> {
    let sql = "INSERT INTO run_event_data (run_id, event, shard, worker, detail) VALUES ($1, $2, $3, $4, $5)";
    let statement = tx.prepare_cached(sql).await?;
    let detail = step.detail.map(clean);
    let worker = step.worker.map(clean);
    tx.execute(&statement, &[&step.run_id, &step.event, &step.shard, &worker.as_deref(), &detail.as_deref()])
        .await?;
    Ok(())
}

/// Records a notice that is not there yet: a checkpoint that moves no position may come again after an unknown outcome.
pub(super) async fn told_once(tx: &Transaction<'_>, notice: &Notice) -> Result<()> {
    let sql = "INSERT INTO event_data (kind, detail)
        SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM event_data WHERE kind = $1 AND detail = $2)";
    tx.execute(sql, &[&notice.kind, &&*clean(&notice.detail)]).await?;
    Ok(())
}

/// Records what an operator should know of a schedule, or of the fleet.
pub(super) async fn event(
    tx: &Transaction<'_>,
    kind: &str,
    schedule: Option<&str>,
    series: Option<i64>,
    detail: &str,
) -> Result<()> {
    let sql = "INSERT INTO event_data (kind, schedule, series, detail) VALUES ($1, $2, $3, $4)";
    tx.execute(sql, &[&kind, &schedule, &series, &&*clean(detail)]).await?;
    Ok(())
}
