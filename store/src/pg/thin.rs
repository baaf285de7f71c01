//! Fewer predictions below the floor of retention, once they are published.

use super::PgStore;
use super::ends::is_below;
use super::migrate::try_lock_schedule;
use super::types::{RowExt, Us};
use crate::{Keep, Result};
use deadpool_postgres::Transaction;
use fleetscore_schemas::time::{Interval, Timestamp};

pub(super) async fn thin(store: &PgStore, schedule: &str, keep: Keep, limit: usize) -> Result<u64> {
    if keep == Keep::All {
        return Ok(0);
    }
    let mut client = store.client().await?;
    let mut removed = 0;
    for _ in 0..limit {
        let tx = client.transaction().await?;
        if !try_lock_schedule(&tx, "thin", schedule).await? {
            break; // another process is at it
        }
        let Some(start) = next(&tx, schedule).await? else { break };
        removed += interval(&tx, schedule, start, keep).await?;
        let sql = "UPDATE schedule_data SET thinned_until = $2, thinned_to = $3 WHERE name = $1";
        tx.execute(sql, &[&schedule, &Us::from(start.plus_us(1)), &keep.as_str()]).await?;
        tx.commit().await?;
    }
    Ok(removed)
}

/// The oldest interval that is not thinned, if it lies below the floor and is published. One that is not yet holds up
/// those behind it: each is passed once.
async fn next(tx: &Transaction<'_>, schedule: &str) -> Result<Option<Timestamp>> {
    // Locked against what would make it due; and a run that is open may be about to.
    let sql =
        "SELECT p.interval_start, p.change <= p.published_change, (SELECT max(floor) FROM progress_data)
        FROM publication_data p JOIN schedule_data s ON s.name = p.schedule
        WHERE p.schedule = $1 AND p.interval_start >= coalesce(s.thinned_until, '-infinity')
        ORDER BY p.interval_start LIMIT 1 FOR UPDATE OF p";
    let Some(row) = tx.query_opt(sql, &[&schedule]).await? else { return Ok(None) };
    let start = row.time(0)?;
    if !row.at::<bool>(1)? || !is_below(row.maybe_time(2)?, Interval { start, end: start }) {
        return Ok(None);
    }
    let open = "SELECT 1 FROM run_data
        WHERE schedule = $1 AND interval_start = $2 AND state IN ('waiting', 'running')";
    let open = tx.query_opt(open, &[&schedule, &Us::from(start)]).await?;
    Ok(open.is_none().then_some(start))
}

async fn interval(tx: &Transaction<'_>, schedule: &str, start: Timestamp, keep: Keep) -> Result<u64> {
    let start = Us::from(start);
    if keep == Keep::Anomalies {
        let sql = "DELETE FROM prediction_data
            WHERE schedule = $1 AND window_start = $2 AND prediction IS DISTINCT FROM 1";
        return Ok(tx.execute(sql, &[&schedule, &start]).await?);
    }
    // What was thinned otherwise says nothing of the interval before.
    let stale = "DELETE FROM thin_state_data t USING schedule_data s
        WHERE t.schedule = $1 AND s.name = $1 AND s.thinned_to <> $2";
    tx.execute(stale, &[&schedule, &keep.as_str()]).await?;
    let sql = "DELETE FROM prediction_data p USING thin_state_data t
        WHERE p.schedule = $1 AND p.window_start = $2 AND t.schedule = $1 AND t.series_id = p.series_id
            AND t.status = p.status AND t.prediction IS NOT DISTINCT FROM p.prediction";
    let removed = tx.execute(sql, &[&schedule, &start]).await?;
    let sql = "INSERT INTO thin_state_data (schedule, series_id, status, prediction)
        SELECT schedule, series_id, status, prediction FROM prediction_data WHERE schedule = $1 AND window_start = $2
        ON CONFLICT (schedule, series_id) DO UPDATE SET status = excluded.status, prediction = excluded.prediction";
    tx.execute(sql, &[&schedule, &start]).await?;
    Ok(removed)
}
