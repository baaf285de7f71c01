//! The checkpoint: one transaction that moves positions under the fence and merges what was read for it.

use crate::batch::for_each_delta;
use crate::{Checkpoint, Outcome, Result};
use arrow::array::RecordBatch;
use fleetscore_schemas::delta::{PaneKey, Partial};
use fleetscore_schemas::time::Timestamp;
use rusqlite::{OptionalExtension, Row, Statement, Transaction, params};
use std::collections::BTreeSet;

pub(super) fn checkpoint(tx: &Transaction<'_>, checkpoint: &Checkpoint, now: Timestamp) -> Result<Outcome> {
    if !advance(tx, checkpoint, now)? || !mark_replayed(tx, &checkpoint.replayed, now)? {
        return Ok(Outcome::Fenced);
    }
    merge(tx, &checkpoint.deltas, now)?;
    store_dead_letters(tx, checkpoint, now)?;
    let mut loss = tx.prepare_cached(
        "INSERT INTO loss_event_data (source, topic, kafka_partition, from_offset, to_offset, detail, recorded_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for l in &checkpoint.losses {
        let p = &l.partition;
        loss.execute(params![checkpoint.source, &*p.topic, p.partition, l.from, l.to, l.detail, now.0])?;
    }
    for notice in &checkpoint.notices {
        // One that moves no position may come again after an unknown outcome.
        tx.execute(
            "INSERT INTO event_data (at, kind, detail)
             SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM event_data WHERE kind = ?2 AND detail = ?3)",
            params![now.0, notice.kind, notice.detail],
        )?;
    }
    Ok(Outcome::Done)
}

/// Moves the positions; false where one is not where it should be, is claimed by somebody else, or has a floor above
/// the one that was judged by (NULL compares with nothing: a row without a floor passes, a judgement without one does
/// not).
fn advance(tx: &Transaction<'_>, checkpoint: &Checkpoint, now: Timestamp) -> Result<bool> {
    let mut update = tx.prepare_cached(
        "UPDATE progress_data SET
             next_offset = ?6,
             watermark = CASE WHEN watermark IS NULL OR watermark < ?7 THEN ?7 ELSE watermark END,
             last_broker_time =
                 CASE WHEN ?8 IS NOT NULL THEN ?8 WHEN next_offset = ?6 THEN last_broker_time END,
             end_offset = coalesce(?9, end_offset),
             quiet_at = ?10,
             owner = ?12, owner_seen_at = ?13, updated_at = ?13
         WHERE source = ?1 AND topic = ?2 AND kafka_partition = ?3 AND epoch = ?4 AND next_offset = ?5
           AND (floor IS NULL OR floor <= ?11)",
    )?;
    let us = |t: Option<Timestamp>| t.map(Timestamp::us);
    for a in &checkpoint.advances {
        let moved = update.execute(params![
            checkpoint.source,
            &*a.partition.topic,
            a.partition.partition,
            a.epoch,
            a.from,
            a.to,
            us(a.watermark),
            us(a.last_broker_time),
            a.end_offset,
            us(a.quiet_at),
            us(a.floor),
            checkpoint.owner,
            now.0,
        ])?;
        if moved == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// False where a dead letter does not exist or was replayed before.
fn mark_replayed(tx: &Transaction<'_>, ids: &[i64], now: Timestamp) -> Result<bool> {
    let mut update = tx.prepare_cached(
        "UPDATE dead_letter_data SET replayed_at = ?2 WHERE id = ?1 AND replayed_at IS NULL",
    )?;
    for id in ids.iter().collect::<BTreeSet<_>>() {
        if update.execute([*id, now.0])? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Columns of a partial aggregate in `pane_data`, as [`partial`] reads them.
pub(super) const PARTIAL: &str = "count, sum, m2, min, max, first_ts, first_value, last_ts, last_value";

/// Reads [`PARTIAL`] from a row, beginning at column `at`.
pub(super) fn partial(row: &Row<'_>, at: usize) -> rusqlite::Result<Partial> {
    let ts = |column| row.get(column).map(Timestamp);
    Ok(Partial {
        count: row.get(at)?,
        sum: row.get(at + 1)?,
        m2: row.get(at + 2)?,
        min: row.get(at + 3)?,
        max: row.get(at + 4)?,
        first: (ts(at + 5)?, row.get(at + 6)?),
        last: (ts(at + 7)?, row.get(at + 8)?),
    })
}

/// Writes one pane through a statement whose first twelve parameters are its key, [`PARTIAL`] and `stddev`.
fn write(statement: &mut Statement<'_>, (pane, series): PaneKey, p: &Partial) -> rusqlite::Result<usize> {
    statement.execute(params![
        pane.0,
        series,
        p.count,
        p.sum,
        p.m2,
        p.min,
        p.max,
        p.first.0.0,
        p.first.1,
        p.last.0.0,
        p.last.1,
        p.stddev(),
    ])
}

/// Merges into the stored row, or writes a new one; whether there was one.
fn update_or_insert(
    select: &mut Statement<'_>,
    update: &mut Statement<'_>,
    insert: &mut Statement<'_>,
    key: PaneKey,
    delta: &Partial,
) -> Result<bool> {
    let stored = select.query_row(params![key.0.0, key.1], |r| partial(r, 0)).optional()?;
    match &stored {
        Some(stored) => write(update, key, &stored.merge(delta))?,
        None => write(insert, key, delta)?,
    };
    Ok(stored.is_some())
}

/// Nearly every row of a checkpoint is new, so it is inserted first; only where the pane is there already it is read,
/// merged in Rust (bit by bit as everywhere) and written back. The rows come sorted by the table's key: both go along
/// the tree.
fn merge(tx: &Transaction<'_>, deltas: &RecordBatch, now: Timestamp) -> Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO pane_data (pane_start, series_id, count, sum, m2, min, max, first_ts, first_value, last_ts,
             last_value, stddev, version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 1) ON CONFLICT DO NOTHING",
    )?;
    let mut select = tx.prepare_cached(&format!(
        "SELECT {PARTIAL} FROM pane_data WHERE pane_start = ?1 AND series_id = ?2"
    ))?;
    let mut update = tx.prepare_cached(
        "UPDATE pane_data SET count = ?3, sum = ?4, m2 = ?5, min = ?6, max = ?7, first_ts = ?8, first_value = ?9,
             last_ts = ?10, last_value = ?11, stddev = ?12, version = version + 1
         WHERE pane_start = ?1 AND series_id = ?2",
    )?;
    let mut log =
        tx.prepare_cached("INSERT INTO changed_pane_data (pane_start, changed_at) VALUES (?1, ?2)")?;
    let mut logged = None;
    // Whether the row before was there already: a late pane is late for most of its series.
    let mut late = false;
    for_each_delta(deltas, |key, delta| {
        late = if late {
            update_or_insert(&mut select, &mut update, &mut insert, key, delta)?
        } else {
            let new = write(&mut insert, key, delta)? == 1;
            if !new {
                update_or_insert(&mut select, &mut update, &mut insert, key, delta)?;
            }
            !new
        };
        if logged != Some(key.0) {
            logged = Some(key.0);
            log.execute([key.0.0, now.0])?;
        }
        Ok(())
    })
}

fn store_dead_letters(tx: &Transaction<'_>, checkpoint: &Checkpoint, now: Timestamp) -> Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO dead_letter_data (topic, kafka_partition, kafka_offset, position, code, detail, payload,
             broker_time, recorded_at, count, last_offset, sensors)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    for d in &checkpoint.dead_letters {
        insert.execute(params![
            &*d.partition.topic,
            d.partition.partition,
            d.offset,
            d.position,
            d.code.as_str(),
            d.detail,
            d.payload,
            d.broker_time.map(Timestamp::us),
            now.0,
            d.count,
            d.last_offset,
            crate::letters::sensors_text(&d.sensors),
        ])?;
    }
    Ok(())
}
