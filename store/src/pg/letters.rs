//! Dead letters.

use super::PgStore;
use super::copy::copy_in;
use super::types::{RowExt, Us, clean};
use crate::letters::{sensors, sensors_text};
use crate::{DeadLetter, DeadLetterFilter, DeadLetterRow, Result};
use deadpool_postgres::Transaction;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::Timestamp;
use std::collections::BTreeSet;
use tokio_postgres::Row;

pub(super) async fn write(tx: &Transaction<'_>, letters: &[DeadLetter]) -> Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let statement =
        "COPY dead_letter_data (topic, kafka_partition, kafka_offset, position, code, detail, payload,
        broker_time, count, last_offset, sensors) FROM STDIN (FORMAT binary)";
    copy_in(tx, statement, 0..letters.len(), |out, i| {
        let letter = &letters[i];
        out.row(11);
        out.bytes(letter.partition.topic.as_bytes())?;
        out.int4(letter.partition.partition);
        out.int8(letter.offset);
        out.int4(letter.position);
        out.bytes(letter.code.as_str().as_bytes())?;
        out.bytes(clean(&letter.detail).as_bytes())?;
        out.maybe_bytes(letter.payload.as_deref())?;
        out.maybe(letter.broker_time, |out, t| out.time(t.0));
        out.int8(letter.count);
        out.maybe(letter.last_offset, super::copy::Rows::int8);
        out.maybe_bytes(sensors_text(&letter.sensors).as_deref().map(str::as_bytes))?;
        Ok(())
    })
    .await?;
    Ok(())
}

/// False where one of them is replayed already, or is not there.
pub(super) async fn mark_replayed(tx: &Transaction<'_>, ids: &[i64]) -> Result<bool> {
    if ids.is_empty() {
        return Ok(true);
    }
    let ids: Vec<i64> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let sql = "UPDATE dead_letter_data SET replayed_at = clock_timestamp() WHERE id = ANY($1) AND replayed_at IS NULL";
    Ok(tx.execute(sql, &[&ids]).await? == ids.len() as u64)
}

/// Ids rise with the time of storing, but for transactions that overlapped: the oldest rows are the first ones.
pub(super) async fn forget(store: &PgStore, stored_before: Timestamp, limit: usize) -> Result<u64> {
    let sql = "DELETE FROM dead_letter_data WHERE id IN (
            SELECT id FROM (SELECT id, recorded_at FROM dead_letter_data ORDER BY id LIMIT $2) AS oldest
            WHERE recorded_at < $1)";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(store.client().await?.execute(sql, &[&Us::from(stored_before), &limit]).await?)
}

pub(super) async fn read(store: &PgStore, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>> {
    let sql = "SELECT id, topic, kafka_partition, kafka_offset, position, code, detail, payload, broker_time, count,
            last_offset, recorded_at, replayed_at, sensors
        FROM dead_letter_data
        WHERE ($1::bigint[] IS NULL OR id = ANY($1)) AND ($2::text IS NULL OR code = $2)
            AND (NOT $3 OR replayed_at IS NULL) AND id > $4
        ORDER BY id LIMIT $5";
    let limit = (filter.limit > 0).then(|| i64::try_from(filter.limit).unwrap_or(i64::MAX));
    let after = filter.after_id.unwrap_or(i64::MIN);
    let client = store.client().await?;
    let rows = client.query(sql, &[&filter.ids, &filter.code, &filter.unreplayed, &after, &limit]).await?;
    rows.iter().map(letter).collect()
}

fn letter(row: &Row) -> Result<DeadLetterRow> {
    Ok(DeadLetterRow {
        id: row.at(0)?,
        partition: TopicPartition::new(row.at::<&str>(1)?, row.at(2)?),
        offset: row.at(3)?,
        position: row.at(4)?,
        code: row.at(5)?,
        detail: row.at(6)?,
        payload: row.at(7)?,
        broker_time: row.maybe_time(8)?,
        count: row.at(9)?,
        last_offset: row.at(10)?,
        recorded_at: row.time(11)?,
        replayed_at: row.maybe_time(12)?,
        sensors: sensors(row.at(13)?)?,
    })
}
