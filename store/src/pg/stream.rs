//! Positions, claims, signs of life, and the ids of series.

use super::PgStore;
use super::copy::copy_in;
use super::copy_out::{Reader, known};
use super::migrate::{Lock, lock};
use super::types::{RowExt, Us, series_id, us};
use super::watch::ending_blockers;
use crate::batch::{BATCH_ROWS, SeriesBuilder};
use crate::{BatchStream, Claim, Heartbeat, Outcome, Progress, ProgressRow, Result, StoreError};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::{SeriesId, SeriesName};
use futures::StreamExt;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio_postgres::{GenericClient, Row, Transaction};

pub(super) async fn add_partitions(
    store: &PgStore,
    source: &str,
    partitions: &[(TopicPartition, i64)],
) -> Result<()> {
    let (topics, numbers) = columns(partitions.iter().map(|(p, _)| p));
    let offsets: Vec<i64> = partitions.iter().map(|(_, offset)| *offset).collect();
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    // A new row has the floor of the others; nobody may raise it in between.
    lock(&tx, Lock::Floor).await?;
    tx.execute(
        "INSERT INTO progress_data (source, topic, kafka_partition, next_offset, floor)
         SELECT $1, a.topic, a.part, a.next, (SELECT max(floor) FROM progress_data)
         FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS a(topic, part, next)
         ORDER BY a.topic, a.part ON CONFLICT DO NOTHING",
        &[&source, &topics, &numbers, &offsets],
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Topics and numbers of partitions, as array parameters.
pub(super) fn columns<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> (Vec<&'a str>, Vec<i32>) {
    partitions.map(|p| (&*p.topic, p.partition)).unzip()
}

pub(super) async fn progress(store: &PgStore) -> Result<Progress> {
    // One statement, so the clock and the rows are of one snapshot; one row without a source stands for no rows.
    let sql = "SELECT clock_timestamp(), p.source, p.topic, p.kafka_partition, p.next_offset, p.end_offset, p.watermark,
            p.quiet_at, p.floor, p.epoch, p.owner, p.owner_seen_at, p.created_at
        FROM (SELECT 1) one LEFT JOIN progress_data p ON true ORDER BY p.source, p.topic, p.kafka_partition";
    let client = store.client().await?;
    let statement = client.prepare_cached(sql).await?;
    let rows = client.query(&statement, &[]).await?;
    let now = rows.first().ok_or_else(|| StoreError::internal("an outer join gave no row"))?.time(0)?;
    let mut topics: HashMap<String, Arc<str>> = HashMap::new();
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(source) = row.at::<Option<String>>(1)? {
            let topic: &str = row.at(2)?;
            let topic = topics.entry(topic.to_owned()).or_insert_with(|| topic.into()).clone();
            found.push(progress_row(row, source, topic)?);
        }
    }
    Ok(Progress { now, rows: found })
}

fn progress_row(row: &Row, source: String, topic: Arc<str>) -> Result<ProgressRow> {
    Ok(ProgressRow {
        source,
        partition: TopicPartition { topic, partition: row.at(3)? },
        next_offset: row.at(4)?,
        end_offset: row.at(5)?,
        watermark: row.maybe_time(6)?,
        quiet_at: row.maybe_time(7)?,
        floor: row.maybe_time(8)?,
        epoch: row.at(9)?,
        owner: row.at(10)?,
        owner_seen_at: row.maybe_time(11)?,
        created_at: row.time(12)?,
    })
}

/// A progress row as it is under our lock.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) next_offset: i64,
    pub(super) epoch: i64,
    pub(super) floor: Option<fleetscore_schemas::time::Timestamp>,
}

/// Locks rows in key order; those without a row are absent from the answer.
pub(super) async fn lock_rows(
    tx: &deadpool_postgres::Transaction<'_>,
    source: &str,
    partitions: impl Iterator<Item = &TopicPartition>,
) -> Result<HashMap<TopicPartition, Locked>> {
    let (topics, numbers) = columns(partitions);
    let sql = "SELECT p.topic, p.kafka_partition, p.next_offset, p.epoch, p.floor FROM progress_data p
        WHERE p.source = $1
            AND (p.topic, p.kafka_partition) IN (SELECT * FROM unnest($2::text[] COLLATE \"C\", $3::integer[]))
        ORDER BY p.topic, p.kafka_partition FOR UPDATE OF p";
    let statement = tx.prepare_cached(sql).await?;
    let rows = tx.query(&statement, &[&source, &topics, &numbers]).await?;
    let mut locked = HashMap::with_capacity(rows.len());
    for row in &rows {
        let key = TopicPartition::new(row.at::<&str>(0)?, row.at(1)?);
        locked.insert(key, Locked { next_offset: row.at(2)?, epoch: row.at(3)?, floor: row.maybe_time(4)? });
    }
    Ok(locked)
}

pub(super) async fn claim(
    store: &PgStore,
    source: &str,
    owner: &str,
    partitions: &[TopicPartition],
) -> Result<Vec<Claim>> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    let pid: i32 = tx.query_one("SELECT pg_backend_pid()", &[]).await?.at(0)?;
    let locked = ending_blockers(store, pid, lock_rows(&tx, source, partitions.iter())).await?;
    if let Some(missing) = partitions.iter().find(|p| !locked.contains_key(p)) {
        return Err(StoreError::NotFound { what: format!("position of {missing} in cluster `{source}`") });
    }
    let (topics, numbers) = columns(partitions.iter());
    // What the former owner asserted of quietness is not the new owner's word.
    let sql = "UPDATE progress_data p SET epoch = p.epoch + 1, owner = $4, owner_seen_at = clock_timestamp(),
            quiet_at = NULL, updated_at = clock_timestamp()
        FROM unnest($2::text[], $3::integer[]) AS a(topic, part)
        WHERE p.source = $1 AND p.topic = a.topic AND p.kafka_partition = a.part
        RETURNING p.topic, p.kafka_partition, p.next_offset, p.epoch, p.watermark, p.floor, p.last_broker_time";
    let rows = tx.query(sql, &[&source, &topics, &numbers, &owner]).await?;
    let mut claims = HashMap::with_capacity(rows.len());
    for row in &rows {
        let partition = TopicPartition::new(row.at::<&str>(0)?, row.at(1)?);
        let claim = Claim {
            partition: partition.clone(),
            next_offset: row.at(2)?,
            epoch: row.at(3)?,
            watermark: row.maybe_time(4)?,
            floor: row.maybe_time(5)?,
            last_broker_time: row.maybe_time(6)?,
        };
        claims.insert(partition, claim);
    }
    tx.commit().await?;
    Ok(partitions.iter().filter_map(|p| claims.remove(p)).collect())
}

pub(super) async fn heartbeat(
    store: &PgStore,
    source: &str,
    owner: &str,
    beats: &[Heartbeat],
) -> Result<Outcome> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    let locked = lock_rows(&tx, source, beats.iter().map(|b| &b.partition)).await?;
    if beats.iter().any(|b| locked.get(&b.partition).is_none_or(|row| row.epoch != b.epoch)) {
        return Ok(Outcome::Fenced);
    }
    let (topics, numbers) = columns(beats.iter().map(|b| &b.partition));
    let quiet: Vec<Option<Us>> = beats.iter().map(|b| us(b.quiet_at)).collect();
    let ends: Vec<Option<i64>> = beats.iter().map(|b| b.end_offset).collect();
    let sql = "UPDATE progress_data p SET owner = $2, owner_seen_at = clock_timestamp(), updated_at = clock_timestamp(),
            quiet_at = a.quiet_at, end_offset = coalesce(a.end_offset, p.end_offset)
        FROM unnest($3::text[], $4::integer[], $5::timestamptz[], $6::bigint[]) AS a(topic, part, quiet_at, end_offset)
        WHERE p.source = $1 AND p.topic = a.topic AND p.kafka_partition = a.part";
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, &[&source, &owner, &topics, &numbers, &quiet, &ends]).await?;
    tx.commit().await?;
    Ok(Outcome::Done)
}

pub(super) async fn lookup(
    client: &impl GenericClient,
    names: &[SeriesName],
) -> Result<Vec<Option<SeriesId>>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let devices: Vec<&str> = names.iter().map(|n| n.device.as_str()).collect();
    let sensors: Vec<&str> = names.iter().map(|n| n.sensor.as_str()).collect();
    // A subquery is one look-up in the key for each name, whatever the planner thinks of their number; a join may read
    // all series for each call. One array comes back instead of a row for each name.
    let sql = "SELECT ARRAY(
            SELECT (SELECT s.id FROM series_data s WHERE s.device = a.device AND s.sensor = a.sensor)
            FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS a(device, sensor, i) ORDER BY a.i)";
    let ids: Vec<Option<i32>> = client.query_one(sql, &[&devices, &sensors]).await?.at(0)?;
    if ids.len() != names.len() {
        return Err(StoreError::internal(format!("{} ids came for {} names", ids.len(), names.len())));
    }
    Ok(ids.into_iter().map(|id| id.map(|id| id as SeriesId)).collect()) // positive as stored
}

/// The highest id; 0 before the first. No row is ever deleted, so it is also the number of series.
pub(super) async fn last_series(client: &impl GenericClient) -> Result<i32> {
    client.query_one("SELECT coalesce(max(id), 0) FROM series_data", &[]).await?.at(0)
}

pub(super) async fn intern(
    store: &PgStore,
    names: &[SeriesName],
    max_series: u32,
) -> Result<Vec<Option<SeriesId>>> {
    let mut client = store.client().await?;
    let seen = last_series(&**client).await?;
    let mut ids = lookup(&**client, names).await?;
    if ids.iter().all(Option::is_some) {
        return Ok(ids);
    }
    let tx = client.transaction().await?;
    // One at a time: ids are dense and the bound holds for all processes together.
    lock(&tx, Lock::Intern).await?;
    let last = last_series(&*tx).await?;
    if last != seen {
        // Others were here between the look and the lock.
        ids = lookup(&*tx, names).await?;
    }
    let new: BTreeSet<&SeriesName> =
        names.iter().zip(&ids).filter(|(_, id)| id.is_none()).map(|(n, _)| n).collect();
    let limit = i32::try_from(max_series).unwrap_or(i32::MAX);
    let room = usize::try_from(limit.saturating_sub(last)).unwrap_or(0);
    // Ids are positive, and end well below what this type holds.
    let new: HashMap<&SeriesName, SeriesId> =
        new.into_iter().take(room).zip(last.unsigned_abs() + 1..).collect();
    insert_series(&tx, &new).await?;
    tx.commit().await?;
    for (id, name) in ids.iter_mut().zip(names).filter(|(id, _)| id.is_none()) {
        *id = new.get(name).copied();
    }
    Ok(ids)
}

async fn insert_series(tx: &Transaction<'_>, new: &HashMap<&SeriesName, SeriesId>) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    // In the order of ids, which is that of names: neighbours in both indexes.
    let mut rows: Vec<(SeriesId, &SeriesName)> = new.iter().map(|(name, id)| (*id, *name)).collect();
    rows.sort_unstable_by_key(|row| row.0);
    let statement = "COPY series_data (id, device, sensor) FROM STDIN (FORMAT binary)";
    copy_in(tx, statement, 0..rows.len(), |out, i| {
        let (id, name) = rows[i];
        out.row(3);
        out.int4(series_id(id)?);
        out.bytes(name.device.as_bytes())?;
        out.bytes(name.sensor.as_bytes())
    })
    .await?;
    Ok(())
}

pub(super) async fn series(store: &PgStore) -> Result<Vec<(SeriesId, SeriesName)>> {
    let client = store.client().await?;
    let rows = client.query("SELECT id, device, sensor FROM series_data ORDER BY id", &[]).await?;
    rows.iter()
        .map(|r| Ok((r.at::<i32>(0)? as SeriesId, SeriesName::new(r.at::<String>(1)?, r.at::<String>(2)?))))
        .collect()
}

pub(super) async fn series_batches(store: &PgStore) -> Result<BatchStream<'_>> {
    let select = "SELECT id, device, sensor FROM series_data ORDER BY id";
    let reader = Reader::new(store.client().await?, select).await?;
    let state = (reader, SeriesBuilder::default());
    Ok(futures::stream::try_unfold(state, |(mut reader, mut builder)| async move {
        while builder.len() < BATCH_ROWS && reader.next().await? {
            let id = known(reader.int4(0)?)? as SeriesId; // positive as stored
            builder.push(id, known(reader.text(1)?)?, known(reader.text(2)?)?);
        }
        if builder.len() == 0 {
            return Ok(None);
        }
        Ok::<_, StoreError>(Some((builder.finish()?, (reader, builder))))
    })
    .boxed())
}
