//! Positions, claims, series, dead letters and retention.

use super::connect::Writer;
use super::migrate::pane_settings;
use super::read::Batches;
use crate::batch::{BATCH_ROWS, SeriesBuilder};
use crate::{Claim, DeadLetterFilter, DeadLetterRow, Heartbeat, Outcome, ProgressRow, Result, StoreError};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::Timestamp;
use fleetscore_schemas::{SeriesId, SeriesName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::collections::BTreeSet;

/// Panes that retention removes in one transaction: other writers wait for no longer than these take.
const RETAIN_CHUNK: i64 = 20_000;

/// A time that may be missing.
pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

/// The floor of retention.
pub(super) fn floor(conn: &Connection) -> Result<Option<Timestamp>> {
    let sql = "SELECT max(floor) FROM progress_data";
    Ok(conn.prepare_cached(sql)?.query_row([], |r| time(r, 0))?)
}

pub(super) fn add_partitions(
    tx: &Transaction<'_>,
    source: &str,
    partitions: &[(TopicPartition, i64)],
    now: Timestamp,
) -> Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO progress_data (source, topic, kafka_partition, next_offset, floor, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, (SELECT max(floor) FROM progress_data), ?5, ?5) ON CONFLICT DO NOTHING",
    )?;
    for (partition, offset) in partitions {
        insert.execute(params![source, &*partition.topic, partition.partition, offset, now.0])?;
    }
    Ok(())
}

pub(super) fn progress(conn: &Connection) -> Result<Vec<ProgressRow>> {
    let mut select = conn.prepare_cached(
        "SELECT source, topic, kafka_partition, next_offset, end_offset, watermark, quiet_at, floor, epoch, owner,
                owner_seen_at, created_at
         FROM progress_data ORDER BY source, topic, kafka_partition",
    )?;
    let rows = select.query_map([], |r| {
        Ok(ProgressRow {
            source: r.get(0)?,
            partition: TopicPartition::new(r.get::<_, String>(1)?, r.get(2)?),
            next_offset: r.get(3)?,
            end_offset: r.get(4)?,
            watermark: time(r, 5)?,
            quiet_at: time(r, 6)?,
            floor: time(r, 7)?,
            epoch: r.get(8)?,
            owner: r.get(9)?,
            owner_seen_at: time(r, 10)?,
            created_at: Timestamp(r.get(11)?),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn claim(
    tx: &Transaction<'_>,
    source: &str,
    owner: &str,
    partitions: &[TopicPartition],
    now: Timestamp,
) -> Result<Vec<Claim>> {
    // What the former owner asserted (quiet_at) is not the new owner's word.
    let mut update = tx.prepare_cached(
        "UPDATE progress_data
         SET epoch = epoch + 1, owner = ?4, owner_seen_at = ?5, updated_at = ?5, quiet_at = NULL
         WHERE source = ?1 AND topic = ?2 AND kafka_partition = ?3
         RETURNING next_offset, epoch, watermark, floor, last_broker_time",
    )?;
    let mut claims = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let key = params![source, &*partition.topic, partition.partition, owner, now.0];
        let claim = update.query_row(key, |r| {
            Ok(Claim {
                partition: partition.clone(),
                next_offset: r.get(0)?,
                epoch: r.get(1)?,
                watermark: time(r, 2)?,
                floor: time(r, 3)?,
                last_broker_time: time(r, 4)?,
            })
        });
        claims.push(claim.optional()?.ok_or_else(|| StoreError::NotFound {
            what: format!("position of {partition} in cluster `{source}`"),
        })?);
    }
    Ok(claims)
}

pub(super) fn heartbeat(
    tx: &Transaction<'_>,
    source: &str,
    owner: &str,
    beats: &[Heartbeat],
    now: Timestamp,
) -> Result<Outcome> {
    let mut update = tx.prepare_cached(
        "UPDATE progress_data
         SET owner = ?5, owner_seen_at = ?6, updated_at = ?6, quiet_at = ?7, end_offset = coalesce(?8, end_offset)
         WHERE source = ?1 AND topic = ?2 AND kafka_partition = ?3 AND epoch = ?4",
    )?;
    for beat in beats {
        let p = &beat.partition;
        let quiet = beat.quiet_at.map(Timestamp::us);
        let row = params![source, &*p.topic, p.partition, beat.epoch, owner, now.0, quiet, beat.end_offset];
        if update.execute(row)? == 0 {
            return Ok(Outcome::Fenced);
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn lookup(conn: &Connection, names: &[SeriesName]) -> Result<Vec<Option<SeriesId>>> {
    let mut select = conn.prepare_cached("SELECT id FROM series_data WHERE device = ?1 AND sensor = ?2")?;
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        ids.push(select.query_row([&name.device, &name.sensor], |r| r.get(0)).optional()?);
    }
    Ok(ids)
}

pub(super) fn intern(
    tx: &Transaction<'_>,
    names: &[SeriesName],
    max_series: u32,
) -> Result<Vec<Option<SeriesId>>> {
    let known = lookup(tx, names)?;
    let new: BTreeSet<_> = names.iter().zip(&known).filter(|(_, id)| id.is_none()).map(|(n, _)| n).collect();
    let stored: i64 = tx.query_row("SELECT count(*) FROM series_data", [], |r| r.get(0))?;
    let room = usize::try_from(i64::from(max_series) - stored).unwrap_or(0);
    let mut insert = tx.prepare_cached("INSERT INTO series_data (device, sensor) VALUES (?1, ?2)")?;
    for name in new.into_iter().take(room) {
        insert.execute([&name.device, &name.sensor])?;
    }
    lookup(tx, names)
}

pub(super) fn series(conn: &Connection) -> Result<Vec<(SeriesId, SeriesName)>> {
    let mut select = conn.prepare_cached("SELECT id, device, sensor FROM series_data ORDER BY id")?;
    let rows =
        select.query_map([], |r| Ok((r.get(0)?, SeriesName { device: r.get(1)?, sensor: r.get(2)? })))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn send_series(conn: &Connection, to: &Batches) -> Result<()> {
    let mut builder = SeriesBuilder::default();
    let mut select = conn.prepare_cached("SELECT id, device, sensor FROM series_data ORDER BY id")?;
    let mut rows = select.query([])?;
    while let Some(r) = rows.next()? {
        let text = |column| r.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        builder.push(r.get(0)?, text(1)?, text(2)?);
        if builder.len() == BATCH_ROWS && to.blocking_send(builder.finish()).is_err() {
            return Ok(());
        }
    }
    if builder.len() > 0 {
        let _ = to.blocking_send(builder.finish()); // nobody may be listening any more
    }
    Ok(())
}

/// Ids rise with the time of storing: the oldest rows are the first ones.
pub(super) fn forget_dead_letters(tx: &Transaction<'_>, before: Timestamp, limit: usize) -> Result<usize> {
    let sql = "DELETE FROM dead_letter_data WHERE id IN (
            SELECT id FROM (SELECT id, recorded_at FROM dead_letter_data ORDER BY id LIMIT ?2)
            WHERE recorded_at < ?1)";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(tx.prepare_cached(sql)?.execute([before.0, limit])?)
}

pub(super) fn dead_letters(conn: &Connection, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>> {
    let mut select = conn.prepare_cached(
        "SELECT id, topic, kafka_partition, kafka_offset, position, code, detail, payload, broker_time, count,
                last_offset, recorded_at, replayed_at, sensors
         FROM dead_letter_data
         WHERE (?1 IS NULL OR id IN (SELECT value FROM json_each(?1))) AND (?2 IS NULL OR code = ?2)
           AND (?3 = 0 OR replayed_at IS NULL) AND id > ?4
         ORDER BY id LIMIT ?5",
    )?;
    let ids = filter.ids.as_ref().map(|ids| format!("{ids:?}")); // integers: their list is JSON
    let limit = if filter.limit == 0 { -1 } else { i64::try_from(filter.limit).unwrap_or(-1) };
    let after = filter.after_id.unwrap_or(i64::MIN);
    let rows = select.query_map(params![ids, filter.code, filter.unreplayed, after, limit], |r| {
        let row = DeadLetterRow {
            id: r.get(0)?,
            partition: TopicPartition::new(r.get::<_, String>(1)?, r.get(2)?),
            offset: r.get(3)?,
            position: r.get(4)?,
            code: r.get(5)?,
            detail: r.get(6)?,
            payload: r.get(7)?,
            broker_time: time(r, 8)?,
            count: r.get(9)?,
            last_offset: r.get(10)?,
            recorded_at: Timestamp(r.get(11)?),
            replayed_at: time(r, 12)?,
            sensors: Vec::new(),
        };
        Ok((row, r.get::<_, Option<String>>(13)?))
    })?;
    let with_sensors = |found: rusqlite::Result<(DeadLetterRow, Option<String>)>| {
        let (row, text) = found?;
        Ok(DeadLetterRow { sensors: crate::letters::sensors(text.as_deref())?, ..row })
    };
    rows.map(with_sensors).collect()
}

/// First the floor, in a transaction of its own: from then on no checkpoint adds what is removed here, and views hide
/// it. Then the panes in chunks, so that checkpoints get their turn in between.
pub(super) async fn retain_from(writer: &Writer, floor: Timestamp) -> Result<u64> {
    let raise = move |tx: &Transaction<'_>| -> Result<Option<i64>> {
        tx.execute(
            "UPDATE progress_data SET floor = ?1, updated_at = ?2 WHERE floor IS NULL OR floor < ?1",
            [floor.0, super::clock().0],
        )?;
        let Some(panes) = pane_settings(tx)? else { return Ok(None) };
        // The first pane that ends behind the floor.
        let keep = floor.0 + 1 - panes.interval_us;
        tx.execute("DELETE FROM changed_pane_data WHERE pane_start < ?1", [keep])?;
        Ok(Some(keep))
    };
    let Some(keep) = writer.commit(raise).await? else { return Ok(0) };
    let mut removed = 0;
    loop {
        let chunk = move |tx: &Transaction<'_>| -> Result<usize> {
            let sql = "DELETE FROM pane_data WHERE (pane_start, series_id) IN
                           (SELECT pane_start, series_id FROM pane_data WHERE pane_start < ?1 LIMIT ?2)";
            Ok(tx.prepare_cached(sql)?.execute([keep, RETAIN_CHUNK])?)
        };
        match writer.commit(chunk).await? {
            0 => return Ok(removed),
            rows => removed += rows as u64,
        }
    }
}
