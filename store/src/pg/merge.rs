//! The checkpoint: positions under their fence, and the merge of deltas into panes.
//!
//! New rows cost a fifth of rewritten ones, so panes without any row take a plain COPY; the others, and those where
//! another process is inserting the same keys right now, take the statement that merges.

use super::copy::{CopyError, copy_in};
use super::error::is_state;
use super::events::told_once;
use super::migrate::Lock;
use super::partitions::Parent;
use super::stream::{columns, lock_rows};
use super::types::{RowExt, Us, clean, series_id, us};
use super::{PgStore, letters};
use crate::{Checkpoint, Outcome, Result, StoreError};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType, UInt32Type};
use deadpool_postgres::Transaction;
use fleetscore_schemas::delta;
use fleetscore_schemas::time::Timestamp;
use std::collections::HashSet;
use std::ops::Range;
use tokio_postgres::error::SqlState;

/// Rows merged by one statement: bounds its memory on both sides.
const MERGE_ROWS: usize = 16_384;
/// Where new and known panes alternate more often, all rows are merged: keys must stay in order over both ways.
const MAX_STRETCHES: usize = 16;

const COPY_PANES: &str =
    "COPY pane_data (pane_start, series_id, count, sum, m2, min, max, first_ts, first_value, last_ts,
    last_value) FROM STDIN (FORMAT binary)";

/// The parallel-variance formula of Chan, Golub and LeVeque, in the order of operations of
/// [`delta::Partial::merge`]; `fleetscore_square` and `fleetscore_mean` stand for operators that refuse underflow.
const MERGE_PANES: &str = "INSERT INTO pane_data AS p (pane_start, series_id, count, sum, m2, min, max, first_ts,
        first_value, last_ts, last_value)
    SELECT * FROM unnest($1::timestamptz[], $2::integer[], $3::bigint[], $4::float8[], $5::float8[], $6::float8[],
        $7::float8[], $8::timestamptz[], $9::float8[], $10::timestamptz[], $11::float8[])
    ON CONFLICT (pane_start, series_id) DO UPDATE SET
        count = p.count + excluded.count,
        sum = p.sum + excluded.sum,
        m2 = p.m2 + excluded.m2
            + fleetscore_square(fleetscore_mean(excluded.sum, excluded.count) - fleetscore_mean(p.sum, p.count))
            * (p.count::float8 * excluded.count::float8 / (p.count + excluded.count)::float8),
        min = least(p.min, excluded.min),
        max = greatest(p.max, excluded.max),
        first_ts = least(p.first_ts, excluded.first_ts),
        first_value = CASE WHEN (p.first_ts, p.first_value) <= (excluded.first_ts, excluded.first_value)
            THEN p.first_value ELSE excluded.first_value END,
        last_ts = greatest(p.last_ts, excluded.last_ts),
        last_value = CASE WHEN (excluded.last_ts, excluded.last_value) <= (p.last_ts, p.last_value)
            THEN p.last_value ELSE excluded.last_value END,
        version = p.version + 1";

pub(super) async fn checkpoint(store: &PgStore, checkpoint: &Checkpoint) -> Result<Outcome> {
    let deltas = Deltas::new(&checkpoint.deltas)?;
    let panes = deltas.panes();
    let starts: Vec<Timestamp> = panes.iter().map(|(start, _)| *start).collect();
    store.ensure(Parent::Panes, &starts).await?;
    let mut client = store.client().await?;
    let mut tx = client.transaction().await?;
    if !advance(&tx, checkpoint).await? || !above_floor(&tx, checkpoint, &starts).await? {
        return Ok(Outcome::Fenced);
    }
    let merged = match merge(&mut tx, &deltas, &panes).await {
        Err(e) => Err(store.forget_partitions(e)),
        done => done,
    };
    merged?;
    if !starts.is_empty() {
        let starts: Vec<Us> = starts.iter().copied().map(Us::from).collect();
        let statement = tx
            .prepare_cached("INSERT INTO changed_pane_data (pane_start) SELECT unnest($1::timestamptz[])")
            .await?;
        tx.execute(&statement, &[&starts]).await?;
    }
    letters::write(&tx, &checkpoint.dead_letters).await?;
    losses(&tx, checkpoint).await?;
    for notice in &checkpoint.notices {
        told_once(&tx, notice).await?;
    }
    if !letters::mark_replayed(&tx, &checkpoint.replayed).await? {
        return Ok(Outcome::Fenced);
    }
    tx.commit().await?;
    Ok(Outcome::Done)
}

/// Moves the positions; false where one is not what the checkpoint goes out from.
async fn advance(tx: &Transaction<'_>, checkpoint: &Checkpoint) -> Result<bool> {
    let moves = &checkpoint.advances;
    if moves.is_empty() {
        return Ok(true);
    }
    let locked = lock_rows(tx, &checkpoint.source, moves.iter().map(|a| &a.partition)).await?;
    // None is below every floor.
    let fenced = |a: &crate::Advance| {
        locked
            .get(&a.partition)
            .is_none_or(|row| row.epoch != a.epoch || row.next_offset != a.from || row.floor > a.floor)
    };
    if moves.iter().any(fenced) {
        return Ok(false);
    }
    let (topics, numbers) = columns(moves.iter().map(|a| &a.partition));
    let (from, to): (Vec<i64>, Vec<i64>) = moves.iter().map(|a| (a.from, a.to)).unzip();
    let epochs: Vec<i64> = moves.iter().map(|a| a.epoch).collect();
    let ends: Vec<Option<i64>> = moves.iter().map(|a| a.end_offset).collect();
    let times = |f: fn(&crate::Advance) -> Option<Timestamp>| -> Vec<Option<Us>> {
        moves.iter().map(|a| us(f(a))).collect()
    };
    let (watermarks, broker, quiet) =
        (times(|a| a.watermark), times(|a| a.last_broker_time), times(|a| a.quiet_at));
    let sql = "UPDATE progress_data p SET next_offset = a.to_offset, watermark = greatest(p.watermark, a.watermark),
            last_broker_time = CASE WHEN a.to_offset = a.from_offset THEN coalesce(a.broker, p.last_broker_time)
                ELSE a.broker END,
            end_offset = coalesce(a.end_offset, p.end_offset), quiet_at = a.quiet_at, owner = $2,
            owner_seen_at = clock_timestamp(), updated_at = clock_timestamp()
        FROM unnest($3::text[], $4::integer[], $5::bigint[], $6::bigint[], $7::bigint[], $8::timestamptz[],
            $9::timestamptz[], $10::bigint[], $11::timestamptz[])
            AS a(topic, part, epoch, from_offset, to_offset, watermark, broker, end_offset, quiet_at)
        WHERE p.source = $1 AND p.topic = a.topic AND p.kafka_partition = a.part
            AND p.epoch = a.epoch AND p.next_offset = a.from_offset";
    let statement = tx.prepare_cached(sql).await?;
    let moved = tx
        .execute(
            &statement,
            &[
                &checkpoint.source,
                &checkpoint.owner,
                &topics,
                &numbers,
                &epochs,
                &from,
                &to,
                &watermarks,
                &broker,
                &ends,
                &quiet,
            ],
        )
        .await?;
    Ok(moved == moves.len() as u64)
}

/// A checkpoint that moves no position (a replay) judged by no floor: none of its panes may lie below the present one,
/// which nobody raises until the transaction ends.
async fn above_floor(tx: &Transaction<'_>, checkpoint: &Checkpoint, starts: &[Timestamp]) -> Result<bool> {
    let (true, Some(oldest)) = (checkpoint.advances.is_empty(), starts.first()) else { return Ok(true) };
    let lock = "SELECT pg_advisory_xact_lock_shared(hashtext('fleetscore/' || current_schema()), $1)";
    tx.execute(lock, &[&(Lock::Floor as i32)]).await?;
    let sql = "SELECT $1::timestamptz + (SELECT coalesce(pane_us, 0) FROM setting_data) * interval '1 microsecond' <= max(floor)
        FROM progress_data";
    let below: Option<bool> = tx.query_one(sql, &[&Us::from(*oldest)]).await?.at(0)?;
    Ok(below != Some(true))
}

async fn losses(tx: &Transaction<'_>, checkpoint: &Checkpoint) -> Result<()> {
    for loss in &checkpoint.losses {
        let sql =
            "INSERT INTO loss_event_data (source, topic, kafka_partition, from_offset, to_offset, detail)
            VALUES ($1, $2, $3, $4, $5, $6)";
        let (topic, detail) = (&*loss.partition.topic, clean(&loss.detail));
        tx.execute(
            sql,
            &[&checkpoint.source, &topic, &loss.partition.partition, &loss.from, &loss.to, &&*detail],
        )
        .await?;
    }
    Ok(())
}

/// Columns of a batch of deltas.
struct Deltas<'a> {
    series: &'a [u32],
    pane: &'a [i64],
    count: &'a [i64],
    sum: &'a [f64],
    m2: &'a [f64],
    min: &'a [f64],
    max: &'a [f64],
    first_ts: &'a [i64],
    first: &'a [f64],
    last_ts: &'a [i64],
    last: &'a [f64],
}

impl<'a> Deltas<'a> {
    fn new(batch: &'a RecordBatch) -> Result<Self> {
        use delta::columns as c;
        let column = |name: &str| {
            batch.column_by_name(name).filter(|a| a.null_count() == 0).ok_or_else(|| {
                StoreError::internal(format!("the deltas' column `{name}` is absent or has NULLs"))
            })
        };
        let bad =
            |name: &str| StoreError::internal(format!("the deltas' column `{name}` has the wrong type"));
        let times = |name: &str| {
            let array = column(name)?.as_primitive_opt::<TimestampMicrosecondType>();
            Ok::<_, StoreError>(&array.ok_or_else(|| bad(name))?.values()[..])
        };
        let floats = |name: &str| {
            let array = column(name)?.as_primitive_opt::<Float64Type>();
            Ok::<_, StoreError>(&array.ok_or_else(|| bad(name))?.values()[..])
        };
        let series =
            column(c::SERIES)?.as_primitive_opt::<UInt32Type>().ok_or_else(|| bad(c::SERIES))?.values();
        let count = column(c::COUNT)?.as_primitive_opt::<Int64Type>().ok_or_else(|| bad(c::COUNT))?.values();
        let deltas = Self {
            series,
            pane: times(c::PANE_START)?,
            count,
            sum: floats(c::SUM)?,
            m2: floats(c::M2)?,
            min: floats(c::MIN)?,
            max: floats(c::MAX)?,
            first_ts: times(c::FIRST_TS)?,
            first: floats(c::FIRST)?,
            last_ts: times(c::LAST_TS)?,
            last: floats(c::LAST)?,
        };
        // The order in which rows are locked; a key that occurs twice would be one merge and two versions.
        let sorted = (1..deltas.series.len())
            .all(|i| (deltas.pane[i - 1], deltas.series[i - 1]) < (deltas.pane[i], deltas.series[i]));
        if sorted { Ok(deltas) } else { Err(StoreError::internal("deltas are not sorted by (pane, series)")) }
    }

    /// Each pane with its rows, ascending.
    fn panes(&self) -> Vec<(Timestamp, Range<usize>)> {
        let mut panes: Vec<(Timestamp, Range<usize>)> = Vec::new();
        for (i, start) in self.pane.iter().enumerate() {
            match panes.last_mut() {
                Some((last, rows)) if last.0 == *start => rows.end = i + 1,
                _ => panes.push((Timestamp(*start), i..i + 1)),
            }
        }
        panes
    }
}

/// Consecutive rows whose panes are all new, or all known.
#[derive(Debug, PartialEq)]
struct Stretch {
    new: bool,
    rows: Range<usize>,
}

/// Cuts the rows into stretches; one stretch of merging where there would be too many.
fn stretches(panes: &[(Timestamp, Range<usize>)], is_new: impl Fn(Timestamp) -> bool) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = Vec::new();
    for (start, rows) in panes {
        let new = is_new(*start);
        match out.last_mut() {
            Some(last) if last.new == new => last.rows.end = rows.end,
            _ => out.push(Stretch { new, rows: rows.clone() }),
        }
    }
    if out.len() > MAX_STRETCHES {
        let end = out.last().map_or(0, |s| s.rows.end);
        out = vec![Stretch { new: false, rows: 0..end }];
    }
    out
}

async fn merge(
    tx: &mut Transaction<'_>,
    deltas: &Deltas<'_>,
    panes: &[(Timestamp, Range<usize>)],
) -> Result<()> {
    if panes.is_empty() {
        return Ok(());
    }
    let starts: Vec<Us> = panes.iter().map(|(start, _)| Us::from(*start)).collect();
    let known = "SELECT NULL::timestamptz, coalesce(max(id), 0) FROM series_data
        UNION ALL SELECT a.start, 0 FROM unnest($1::timestamptz[]) AS a(start)
        WHERE EXISTS (SELECT FROM pane_data p WHERE p.pane_start = a.start)";
    let statement = tx.prepare_cached(known).await?;
    let mut old = HashSet::new();
    let mut last_series = 0;
    for row in tx.query(&statement, &[&starts]).await? {
        last_series = last_series.max(row.at::<i32>(1)?);
        old.extend(row.maybe_time(0)?);
    }
    if let Some(id) = deltas.series.iter().find(|id| **id == 0 || i64::from(**id) > i64::from(last_series)) {
        return Err(StoreError::internal(format!("there is no series {id}")));
    }
    for stretch in stretches(panes, |start| !old.contains(&start)) {
        if !(stretch.new && copy_panes(tx, deltas, stretch.rows.clone()).await?) {
            merge_panes(tx, deltas, stretch.rows).await?;
        }
    }
    Ok(())
}

/// False, and nothing written, where another process has inserted one of the keys meanwhile.
async fn copy_panes(tx: &mut Transaction<'_>, d: &Deltas<'_>, rows: Range<usize>) -> Result<bool> {
    let point = tx.transaction().await?; // a savepoint
    let copied = copy_in(&point, COPY_PANES, rows, |out, i| {
        out.row(11);
        out.time(d.pane[i]);
        out.int4(series_id(d.series[i])?);
        out.int8(d.count[i]);
        for v in [d.sum[i], d.m2[i], d.min[i], d.max[i]] {
            out.float8(v);
        }
        out.time(d.first_ts[i]);
        out.float8(d.first[i]);
        out.time(d.last_ts[i]);
        out.float8(d.last[i]);
        Ok(())
    })
    .await;
    match copied {
        Ok(_) => {
            point.commit().await?;
            Ok(true)
        }
        Err(CopyError::Server(e)) if is_state(&e, &SqlState::UNIQUE_VIOLATION) => {
            point.rollback().await?;
            Ok(false)
        }
        Err(e) => Err(e.into()),
    }
}

async fn merge_panes(tx: &Transaction<'_>, d: &Deltas<'_>, rows: Range<usize>) -> Result<()> {
    let statement = tx.prepare_cached(MERGE_PANES).await?;
    let mut from = rows.start;
    while from < rows.end {
        let part = from..(from + MERGE_ROWS).min(rows.end);
        from = part.end;
        let times = |v: &[i64]| -> Vec<Us> { v[part.clone()].iter().copied().map(Us).collect() };
        let series: Vec<i32> =
            d.series[part.clone()].iter().copied().map(series_id).collect::<Result<_>>()?;
        let (pane, first_ts, last_ts) = (times(d.pane), times(d.first_ts), times(d.last_ts));
        tx.execute(
            &statement,
            &[
                &pane,
                &series,
                &&d.count[part.clone()],
                &&d.sum[part.clone()],
                &&d.m2[part.clone()],
                &&d.min[part.clone()],
                &&d.max[part.clone()],
                &first_ts,
                &&d.first[part.clone()],
                &last_ts,
                &&d.last[part.clone()],
            ],
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_keep_the_order_of_keys() {
        let panes: Vec<(Timestamp, Range<usize>)> =
            (0..6).map(|i| (Timestamp(i), i as usize * 10..(i as usize + 1) * 10)).collect();
        let s = |new, rows| Stretch { new, rows };
        assert_eq!(stretches(&panes, |_| true), [s(true, 0..60)]);
        assert_eq!(stretches(&panes, |t| t.0 >= 2), [s(false, 0..20), s(true, 20..60)]);
        assert_eq!(stretches(&[], |_| true), []);
        let many: Vec<(Timestamp, Range<usize>)> =
            (0..40).map(|i| (Timestamp(i), i as usize..i as usize + 1)).collect();
        assert_eq!(stretches(&many, |t| t.0 % 2 == 0), [s(false, 0..40)]);
    }
}
