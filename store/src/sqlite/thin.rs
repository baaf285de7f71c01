//! Fewer predictions below the floor of retention, once they are published.

use super::connect::Writer;
use super::stream::floor;
use crate::{Keep, Result};
use fleetscore_schemas::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// Series that are thinned in one transaction: other writers wait for no longer than these take. Few in tests, so that
/// they see the borders.
const CHUNK: i64 = if cfg!(test) { 2 } else { 50_000 };

pub(super) async fn thin(writer: &Writer, schedule: &str, keep: Keep, limit: usize) -> Result<u64> {
    let mut removed = 0;
    for _ in 0..if keep == Keep::All { 0 } else { limit } {
        let name = schedule.to_owned();
        let Some((start, series)) = writer.commit(move |tx| begin(tx, &name, keep)).await? else { break };
        for from in (0..=series).step_by(usize::try_from(CHUNK).unwrap_or(1)) {
            let name = schedule.to_owned();
            match writer.commit(move |tx| chunk(tx, &name, start, from, keep)).await? {
                Some(some) => removed += some,
                None => break, // another process is ahead
            }
        }
        let name = schedule.to_owned();
        writer.commit(move |tx| end(tx, &name, start, keep)).await?;
    }
    Ok(removed)
}

/// The interval that is next, and the greatest series.
pub(super) fn begin(tx: &Transaction<'_>, schedule: &str, keep: Keep) -> Result<Option<(Timestamp, i64)>> {
    let Some(start) = next(tx, schedule)? else { return Ok(None) };
    // What was thinned otherwise says nothing of the interval before.
    tx.execute(
        "DELETE FROM thin_state_data WHERE schedule = ?1 AND EXISTS (
             SELECT 1 FROM schedule_data s WHERE s.name = ?1 AND s.thinned_to <> ?2)",
        params![schedule, keep.as_str()],
    )?;
    let series = tx.query_row("SELECT coalesce(max(id), 0) FROM series_data", [], |r| r.get(0))?;
    Ok(Some((start, series)))
}

/// The oldest interval that is not thinned, if it lies below the floor, is published, and no run of it is open. One that is
/// not yet holds up those behind it: each is passed once.
fn next(conn: &Connection, schedule: &str) -> Result<Option<Timestamp>> {
    let sql = "SELECT p.interval_start, p.change <= p.published_change AND NOT EXISTS (
            SELECT 1 FROM run_data r WHERE r.schedule = p.schedule AND r.interval_start = p.interval_start
                AND r.state IN ('waiting', 'running'))
        FROM publication_data p JOIN schedule_data s ON s.name = p.schedule
        WHERE p.schedule = ?1 AND p.interval_start >= coalesce(s.thinned_until, -9000000000000000000)
        ORDER BY p.interval_start LIMIT 1";
    let found = conn.prepare_cached(sql)?.query_row([schedule], |r| Ok((Timestamp(r.get(0)?), r.get(1)?)));
    let Some((start, free)) = found.optional()? else { return Ok(None) };
    let below = floor(conn)?.is_some_and(|floor| start < floor);
    Ok((free && below).then_some(start))
}

/// Whether the interval is still the next. Several processes may be at it on one file: for one that was paused meanwhile
/// it may be done, and those behind it too.
fn is_next(tx: &Transaction<'_>, schedule: &str, start: Timestamp) -> Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM schedule_data WHERE name = ?1 AND coalesce(thinned_until, ?2) <= ?2)";
    Ok(tx.prepare_cached(sql)?.query_row(params![schedule, start.0], |r| r.get(0))?)
}

/// Thins a stretch of series; `None` where the interval is done. The same stretch again, after a process was killed or by
/// another one, changes nothing.
pub(super) fn chunk(
    tx: &Transaction<'_>,
    schedule: &str,
    start: Timestamp,
    from: i64,
    keep: Keep,
) -> Result<Option<u64>> {
    if !is_next(tx, schedule, start)? {
        return Ok(None);
    }
    let stretch = params![schedule, start.0, from, from + CHUNK];
    let of = "schedule = ?1 AND window_start = ?2 AND series_id >= ?3 AND series_id < ?4";
    if keep == Keep::Anomalies {
        let sql = format!("DELETE FROM prediction_data WHERE {of} AND prediction IS NOT 1");
        return Ok(Some(tx.prepare_cached(&sql)?.execute(stretch)? as u64));
    }
    let sql = format!(
        "DELETE FROM prediction_data WHERE {of} AND EXISTS (SELECT 1 FROM thin_state_data t
             WHERE t.schedule = ?1 AND t.series_id = prediction_data.series_id AND t.window_start <> ?2
                 AND t.status = prediction_data.status AND t.prediction IS prediction_data.prediction)"
    );
    let removed = tx.prepare_cached(&sql)?.execute(stretch)?;
    let sql = format!(
        "INSERT OR REPLACE INTO thin_state_data (schedule, series_id, status, prediction, window_start)
         SELECT schedule, series_id, status, prediction, window_start FROM prediction_data WHERE {of}"
    );
    tx.prepare_cached(&sql)?.execute(stretch)?;
    Ok(Some(removed as u64))
}

/// The interval is done.
pub(super) fn end(tx: &Transaction<'_>, schedule: &str, start: Timestamp, keep: Keep) -> Result<()> {
    if !is_next(tx, schedule, start)? {
        return Ok(());
    }
    let sql = "UPDATE schedule_data SET thinned_until = ?2, thinned_to = ?3 WHERE name = ?1";
    tx.execute(sql, params![schedule, start.0 + 1, keep.as_str()])?;
    Ok(())
}
