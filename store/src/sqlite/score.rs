//! Predictions as they are read, and their publication.

use super::plan::interval as interval_at;
use super::read::Batches;
use super::stream::floor;
use crate::batch::{BATCH_ROWS, PublishedBuilder, PublishedRow};
use crate::{Outcome, Publication, Result, SeriesRange};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::{Interval, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

pub(super) fn stale_series(conn: &Connection, schedule: &str, interval: Interval) -> Result<u64> {
    Ok(stale(conn, schedule, interval, SeriesRange::ALL)?.len() as u64)
}

pub(super) fn series_of(
    conn: &Connection,
    schedule: &str,
    interval: Interval,
    range: SeriesRange,
    scope: RunScope,
) -> Result<Vec<SeriesId>> {
    match scope {
        RunScope::All => Ok(Vec::new()),
        RunScope::Stale => stale(conn, schedule, interval, range),
        RunScope::Failed => {
            let mut select = conn.prepare_cached(
                "SELECT series_id FROM prediction_data
                 WHERE schedule = ?1 AND window_start = ?2 AND status = 'model_error' AND status <> 'scored'
                     AND series_id >= ?3 AND (?4 IS NULL OR series_id < ?4)
                 ORDER BY series_id",
            )?;
            let key = params![schedule, interval.start.0, range.from, range.until];
            let rows = select.query_map(key, |r| r.get(0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        }
    }
}

/// Compares the present versions of an interval with those its predictions were made from, series by series; both
/// sides come in the order of their keys. None where the interval crosses the floor: its predictions are frozen.
fn stale(conn: &Connection, schedule: &str, interval: Interval, range: SeriesRange) -> Result<Vec<SeriesId>> {
    if floor(conn)?.is_some_and(|floor| interval.start < floor) {
        return Ok(Vec::new());
    }
    let version = |r: &Row<'_>| Ok((r.get::<_, SeriesId>(0)?, r.get::<_, i64>(1)?));
    let present: Vec<(SeriesId, i64)> = conn
        .prepare_cached(
            "SELECT series_id, sum(version) FROM pane_data WHERE pane_start >= ?1 AND pane_start < ?2
                 AND series_id >= ?3 AND (?4 IS NULL OR series_id < ?4)
             GROUP BY series_id ORDER BY series_id",
        )?
        .query_map(params![interval.start.0, interval.end.0, range.from, range.until], version)?
        .collect::<rusqlite::Result<_>>()?;
    let scored: Vec<(SeriesId, i64)> = conn
        .prepare_cached(
            "SELECT series_id, window_version FROM prediction_data WHERE schedule = ?1 AND window_start = ?2
                 AND series_id >= ?3 AND (?4 IS NULL OR series_id < ?4)
             ORDER BY series_id",
        )?
        .query_map(params![schedule, interval.start.0, range.from, range.until], version)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(differences(&present, &scored))
}

/// Keys whose values differ; a missing one counts as 0. Both sides ascend.
fn differences(a: &[(SeriesId, i64)], b: &[(SeriesId, i64)]) -> Vec<SeriesId> {
    let (mut i, mut j, mut different) = (0, 0, Vec::new());
    while let Some(key) = a.get(i).into_iter().chain(b.get(j)).map(|x| x.0).min() {
        let take = |side: Option<&(SeriesId, i64)>| side.filter(|x| x.0 == key).map(|x| x.1);
        let (x, y) = (take(a.get(i)), take(b.get(j)));
        i += usize::from(x.is_some());
        j += usize::from(y.is_some());
        if x.unwrap_or(0) != y.unwrap_or(0) {
            different.push(key);
        }
    }
    different
}

pub(super) fn has_predictions(conn: &Connection, schedule: &str, interval: Interval) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM prediction_data WHERE schedule = ?1 AND window_start = ?2)";
    Ok(conn.prepare_cached(sql)?.query_row(params![schedule, interval.start.0], |r| r.get(0))?)
}

/// Rows of one interval, by device and sensor.
pub(super) fn send_predictions(
    conn: &Connection,
    schedule: &str,
    interval: Interval,
    to: &Batches,
) -> Result<()> {
    // Text compares byte by byte: the same order in every store.
    let mut select = conn.prepare_cached(
        "SELECT p.window_end, n.device, n.sensor, p.value, p.prediction, p.decision, p.status, p.model_set, p.model,
                p.window_version, p.run_id, p.scored_at, p.normal_range
         FROM prediction_data p JOIN series_data n ON n.id = p.series_id
         WHERE p.schedule = ?1 AND p.window_start = ?2 ORDER BY n.device, n.sensor",
    )?;
    let mut rows = select.query(params![schedule, interval.start.0])?;
    let mut builder = PublishedBuilder::new(schedule, interval.start);
    while let Some(r) = rows.next()? {
        let text = |column| r.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        let maybe = |column| r.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
        builder.push(&PublishedRow {
            window_end: Timestamp(r.get(0)?),
            device: text(1)?,
            sensor: text(2)?,
            value: r.get(3)?,
            prediction: r.get(4)?,
            decision: r.get(5)?,
            status: text(6)?,
            model_set: r.get(7)?,
            model: maybe(8)?,
            window_version: r.get(9)?,
            run_id: text(10)?,
            scored_at: Timestamp(r.get(11)?),
            normal_range: maybe(12)?,
        });
        if builder.len() == BATCH_ROWS && to.blocking_send(builder.finish()).is_err() {
            return Ok(());
        }
    }
    if builder.len() > 0 {
        let _ = to.blocking_send(builder.finish()); // nobody may be listening any more
    }
    Ok(())
}

// --- publication ----------------------------------------------------------------------------------------------------

/// The oldest interval that may be claimed.
fn due(conn: &Connection, now: Timestamp) -> Result<Option<(String, i64)>> {
    let mut select = conn.prepare_cached(
        "SELECT p.schedule, p.interval_start
         FROM publication_data p LEFT JOIN schedule_data s ON s.name = p.schedule
         WHERE p.change > p.published_change AND (p.lease_until IS NULL OR p.lease_until <= ?1)
           AND (p.not_before IS NULL OR p.not_before <= ?1)
           AND (p.published_at IS NULL
               OR p.published_at + coalesce(json_extract(s.settings, '$.republish_gap_us'), 0) <= ?1)
           AND NOT EXISTS (SELECT 1 FROM run_data r WHERE r.schedule = p.schedule
               AND r.interval_start = p.interval_start AND r.state IN ('waiting', 'running') AND r.changed)
         ORDER BY p.interval_start, p.schedule LIMIT 1",
    )?;
    Ok(select.query_row([now.0], |r| Ok((r.get(0)?, r.get(1)?))).optional()?)
}

/// Whether there is anything to publish.
pub(super) fn is_due(conn: &Connection, now: Timestamp) -> Result<bool> {
    Ok(due(conn, now)?.is_some())
}

pub(super) fn claim_publication(
    tx: &Transaction<'_>,
    worker: &str,
    lease_us: i64,
    now: Timestamp,
) -> Result<Option<Publication>> {
    let Some((schedule, start)) = due(tx, now)? else { return Ok(None) };
    let publication = tx
        .prepare_cached(
            "UPDATE publication_data SET fence = fence + 1, worker = ?3, lease_until = ?4, not_before = NULL
             WHERE schedule = ?1 AND interval_start = ?2 RETURNING interval_start, interval_end, fence, change",
        )?
        .query_row(params![schedule, start, worker, now.plus_us(lease_us).0], |r| {
            Ok(Publication {
                interval: interval_at(r, 0)?,
                fence: r.get(2)?,
                change: r.get(3)?,
                worker: worker.to_owned(),
                schedule: schedule.clone(),
            })
        })?;
    Ok(Some(publication))
}

pub(super) fn hasten_publications(tx: &Transaction<'_>, schedule: &str, range: Interval) -> Result<()> {
    tx.execute(
        "UPDATE publication_data SET published_at = NULL
         WHERE schedule = ?1 AND interval_start >= ?2 AND interval_start < ?3 AND change > published_change",
        params![schedule, range.start.0, range.end.0],
    )?;
    Ok(())
}

pub(super) fn renew_publication(
    tx: &Transaction<'_>,
    p: &Publication,
    lease_us: i64,
    now: Timestamp,
) -> Result<Outcome> {
    // Published, it has no lease any more.
    let written = tx.execute(
        "UPDATE publication_data SET lease_until = ?4
         WHERE schedule = ?1 AND interval_start = ?2 AND fence = ?3 AND lease_until IS NOT NULL",
        params![p.schedule, p.interval.start.0, p.fence, now.plus_us(lease_us).0],
    )?;
    Ok(if written == 1 { Outcome::Done } else { Outcome::Fenced })
}

pub(super) fn confirm_publication(conn: &Connection, p: &Publication) -> Result<Outcome> {
    let sql = "SELECT EXISTS (SELECT 1 FROM publication_data
                   WHERE schedule = ?1 AND interval_start = ?2 AND fence = ?3)";
    let ours: bool = conn
        .prepare_cached(sql)?
        .query_row(params![p.schedule, p.interval.start.0, p.fence], |r| r.get(0))?;
    Ok(if ours { Outcome::Done } else { Outcome::Fenced })
}

pub(super) fn raise_publication(
    tx: &Transaction<'_>,
    p: &Publication,
    above: i64,
) -> Result<Option<Publication>> {
    let fence = tx
        .query_row(
            "UPDATE publication_data SET fence = max(fence, ?4) + 1
             WHERE schedule = ?1 AND interval_start = ?2 AND fence = ?3 RETURNING fence",
            params![p.schedule, p.interval.start.0, p.fence, above],
            |r| r.get(0),
        )
        .optional()?;
    Ok(fence.map(|fence| Publication { fence, ..p.clone() }))
}

/// Whether a run of the interval has stored some of its shards, changed, and not all.
pub(super) fn is_half_done(conn: &Connection, p: &Publication) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM run_data
                   WHERE schedule = ?1 AND interval_start = ?2 AND state IN ('waiting', 'running') AND changed)";
    Ok(conn.prepare_cached(sql)?.query_row(params![p.schedule, p.interval.start.0], |r| r.get(0))?)
}

pub(super) fn postpone_publication(
    tx: &Transaction<'_>,
    p: &Publication,
    after_us: i64,
    now: Timestamp,
) -> Result<Outcome> {
    let written = tx.execute(
        "UPDATE publication_data SET worker = NULL, lease_until = NULL, not_before = ?4
         WHERE schedule = ?1 AND interval_start = ?2 AND fence = ?3",
        params![p.schedule, p.interval.start.0, p.fence, now.plus_us(after_us).0],
    )?;
    Ok(if written == 1 { Outcome::Done } else { Outcome::Fenced })
}

pub(super) fn finish_publication(tx: &Transaction<'_>, p: &Publication, now: Timestamp) -> Result<Outcome> {
    let written = tx.execute(
        "UPDATE publication_data SET published_change = max(published_change, ?4), published_at = ?5, worker = NULL,
             lease_until = NULL
         WHERE schedule = ?1 AND interval_start = ?2 AND fence = ?3",
        params![p.schedule, p.interval.start.0, p.fence, p.change, now.0],
    )?;
    Ok(if written == 1 { Outcome::Done } else { Outcome::Fenced })
}

#[cfg(test)]
mod tests {
    use super::differences;

    #[test]
    fn keys_of_one_side_count_unless_they_are_zero() {
        for (a, b, wanted) in [
            (&[][..], &[][..], &[][..]),
            (&[(1, 1), (2, 2)], &[(1, 1), (2, 2)], &[]),
            (&[(1, 1), (2, 3)], &[(1, 1), (2, 2)], &[2]),
            (&[(1, 1), (3, 1)], &[(2, 0), (3, 1)], &[1]),
            (&[(2, 1)], &[(1, 1), (3, 4)], &[1, 2, 3]),
            (&[], &[(1, 0), (2, 0)], &[]),
            (&[(5, 1), (6, 1)], &[], &[5, 6]),
        ] {
            assert_eq!(differences(a, b), wanted, "{a:?} {b:?}");
        }
    }
}
