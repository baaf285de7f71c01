//! Windows as they are read for scoring: merged from panes, streamed in the order of their series.

use super::connect::Readers;
use super::merge::{PARTIAL, partial};
use super::migrate::pane_settings;
use super::stream::{floor, time};
use crate::batch::{BATCH_ROWS, WindowBuilder};
use crate::{BatchStream, Result, Selection, SeriesRange, StoreError};
use arrow::array::RecordBatch;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::delta::Partial;
use fleetscore_schemas::time::{Interval, Timestamp};
use futures::StreamExt;
use rusqlite::{Connection, params};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

pub(super) fn pane_range(conn: &Connection) -> Result<Option<(Timestamp, Timestamp)>> {
    // Two look-ups at the ends of the key; one min() and max() would read all of it.
    let sql = "SELECT (SELECT min(pane_start) FROM pane_data), (SELECT max(pane_start) FROM pane_data)";
    let (oldest, newest) = conn.prepare_cached(sql)?.query_row([], |r| Ok((time(r, 0)?, time(r, 1)?)))?;
    Ok(oldest.zip(newest))
}

/// Distinct pane starts by one look-up in the key for each: reading the rows of a pane would cost all its series.
pub(super) fn panes(
    conn: &Connection,
    range: Interval,
    newest_first: bool,
    limit: usize,
) -> Result<Vec<Timestamp>> {
    let sql = if newest_first {
        "WITH RECURSIVE p(t) AS (
            SELECT (SELECT max(pane_start) FROM pane_data WHERE pane_start >= ?1 AND pane_start < ?2)
            UNION ALL
            SELECT (SELECT max(pane_start) FROM pane_data WHERE pane_start >= ?1 AND pane_start < p.t)
            FROM p WHERE p.t IS NOT NULL LIMIT ?3)
         SELECT t FROM p WHERE t IS NOT NULL"
    } else {
        "WITH RECURSIVE p(t) AS (
            SELECT (SELECT min(pane_start) FROM pane_data WHERE pane_start >= ?1 AND pane_start < ?2)
            UNION ALL
            SELECT (SELECT min(pane_start) FROM pane_data WHERE pane_start > p.t AND pane_start < ?2)
            FROM p WHERE p.t IS NOT NULL LIMIT ?3)
         SELECT t FROM p WHERE t IS NOT NULL"
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map((range.start.0, range.end.0, limit), |r| Ok(Timestamp(r.get(0)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn windows(
    readers: Arc<Readers>,
    interval: Interval,
    selection: Selection,
) -> BatchStream<'static> {
    streamed(readers, move |conn, to| send_windows(conn, interval, &selection, to))
}

/// Panes of the selection's series. Pane by pane where some are selected, each by its key; without a selection all that
/// lies in the interval.
fn panes_of(selection: &Selection, one_pane: bool) -> String {
    let range = "d.series_id >= ?3 AND (?4 IS NULL OR d.series_id < ?4)";
    let starts = "WITH RECURSIVE p(t) AS (
            SELECT (SELECT min(pane_start) FROM pane_data WHERE pane_start >= ?1 AND pane_start < ?2)
            UNION ALL
            SELECT (SELECT min(pane_start) FROM pane_data WHERE pane_start > p.t AND pane_start < ?2)
            FROM p WHERE p.t IS NOT NULL)";
    let columns = format!("SELECT d.series_id, d.version, {PARTIAL}");
    let tail = "ORDER BY d.series_id, d.pane_start";
    match &selection.ids {
        Some(_) => format!(
            "{starts} {columns} FROM p CROSS JOIN json_each(?5) j
             CROSS JOIN pane_data d ON d.pane_start = p.t AND d.series_id = j.value WHERE {range} {tail}"
        ),
        // In the order of the key.
        None if one_pane => format!(
            "{columns} FROM pane_data d
             WHERE d.pane_start = ?1 AND ?2 > ?1 AND {range} AND ?5 IS NULL ORDER BY d.series_id"
        ),
        None if selection.range != SeriesRange::ALL => format!(
            "{starts} {columns} FROM p CROSS JOIN pane_data d ON d.pane_start = p.t
             WHERE {range} AND ?5 IS NULL {tail}"
        ),
        // Sorted by SQLite, on disk where they are many.
        None => format!(
            "{columns} FROM pane_data d
             WHERE d.pane_start >= ?1 AND d.pane_start < ?2 AND {range} AND ?5 IS NULL {tail}"
        ),
    }
}

/// Reads in one snapshot on the blocking pool, a batch or two ahead of the consumer; ends when the consumer is gone.
pub(super) fn streamed(
    readers: Arc<Readers>,
    read: impl FnOnce(&Connection, &Batches) -> Result<()> + Send + 'static,
) -> BatchStream<'static> {
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        if let Err(e) = readers.snapshot(|conn| read(conn, &sender)) {
            let _ = sender.blocking_send(Err(e)); // nobody may be listening any more
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) })
        .boxed()
}

/// The same, if `begin` says so in the snapshot that is read.
pub(super) async fn streamed_if(
    readers: Arc<Readers>,
    begin: impl FnOnce(&Connection) -> Result<bool> + Send + 'static,
    read: impl FnOnce(&Connection, &Batches) -> Result<()> + Send + 'static,
) -> Result<Option<BatchStream<'static>>> {
    let (tell, told) = oneshot::channel();
    let stream = streamed(readers, move |conn, to| {
        let begun = begin(conn);
        let goes_on = matches!(begun, Ok(true));
        // Nobody may be listening any more.
        if tell.send(begun).is_err() || !goes_on {
            return Ok(());
        }
        read(conn, to)
    });
    match told.await {
        Ok(begun) => Ok(begun?.then_some(stream)),
        // It broke off before: the stream says why.
        Err(_) => Ok(Some(stream)),
    }
}

/// Where batches that are read go.
pub(super) type Batches = mpsc::Sender<Result<RecordBatch, StoreError>>;

fn send_windows(conn: &Connection, interval: Interval, selection: &Selection, to: &Batches) -> Result<()> {
    if floor(conn)?.is_some_and(|floor| interval.start < floor) {
        return Ok(()); // half a window would be a wrong one
    }
    let mut builder = WindowBuilder::default();
    let mut window: Option<(SeriesId, i64, Partial)> = None;
    let pane_us = pane_settings(conn)?.map(|panes| panes.interval_us);
    let one_pane = pane_us == Some(interval.end.0 - interval.start.0);
    let mut select = conn.prepare_cached(&panes_of(selection, one_pane))?;
    let SeriesRange { from, until } = selection.range;
    let ids = selection.ids.as_ref().map(|ids| format!("{ids:?}")); // integers: their list is JSON
    let mut rows = select.query(params![interval.start.0, interval.end.0, from, until, ids])?;
    while let Some(row) = rows.next()? {
        let (series, version, next) = (row.get(0)?, row.get::<_, i64>(1)?, partial(row, 2)?);
        window = Some(match window {
            Some((id, versions, merged)) if id == series => (id, versions + version, merged.merge(&next)),
            before => {
                if let Some((id, versions, merged)) = before {
                    builder.push(id, versions, &merged);
                }
                if builder.len() == BATCH_ROWS && to.blocking_send(builder.finish()).is_err() {
                    return Ok(());
                }
                (series, version, next)
            }
        });
    }
    if let Some((id, versions, merged)) = window {
        builder.push(id, versions, &merged);
        let _ = to.blocking_send(builder.finish()); // nobody may be listening any more
    }
    Ok(())
}
