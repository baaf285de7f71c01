//! Time partitions: one per day of event time, attached before a transaction needs them, dropped by retention.

use super::PgStore;
use super::migrate::{Lock, lock};
use super::types::{RowExt, Us, literal};
use crate::{Result, StoreError};
use chrono::{Datelike, NaiveDate};
use fleetscore_schemas::time::{Interval, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_postgres::{GenericClient, Transaction};

const DAY_US: i64 = 86_400 * 1_000_000;
/// Beyond so many partitions a new one takes in the whole free stretch of its year: event times that are scattered over
/// a century must not become a table each.
const MAX_DAILY: usize = 800;
/// Partitions made in one transaction: each takes several locks of a shared table.
const MADE_AT_ONCE: usize = 32;
/// Remembered panes of the index; more are forgotten all at once.
const MAX_KNOWN_PANES: usize = 200_000;

/// The partitioned tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    Panes,
    Predictions,
}

impl Parent {
    const fn table(self) -> &'static str {
        match self {
            Self::Panes => "pane_data",
            Self::Predictions => "prediction_data",
        }
    }
}

/// What this process has seen to exist.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<KnownInner>);

#[derive(Debug, Default)]
struct KnownInner {
    panes: Ranges,
    predictions: Ranges,
    /// Rows of `pane_index_data`.
    index: HashSet<Timestamp>,
}

impl Known {
    fn get(&self) -> MutexGuard<'_, KnownInner> {
        // Every write is one call of a map: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownInner {
    fn ranges(&mut self, parent: Parent) -> &mut Ranges {
        match parent {
            Parent::Panes => &mut self.panes,
            Parent::Predictions => &mut self.predictions,
        }
    }
}

/// Bounds of partitions: lower to upper, in microseconds.
#[derive(Debug, Default, Clone, PartialEq)]
struct Ranges(BTreeMap<i64, i64>);

impl Ranges {
    fn covers(&self, t: Timestamp) -> bool {
        self.0.range(..=t.0).next_back().is_some_and(|(_, upper)| t.0 < *upper)
    }

    fn overlaps(&self, lower: i64, upper: i64) -> bool {
        self.0.range(..upper).next_back().is_some_and(|(_, end)| *end > lower)
    }

    /// The bounds of a new partition for `t`, which none covers: its day, or what is free of its year.
    fn around(&self, t: Timestamp) -> Option<(i64, i64)> {
        if self.0.len() < MAX_DAILY {
            let day = t.0.div_euclid(DAY_US) * DAY_US;
            // A wider one may have taken a part of nothing: bounds are whole days.
            return Some((day, day + DAY_US));
        }
        let year = t.to_datetime()?.year();
        let start = |year| {
            Some(NaiveDate::from_ymd_opt(year, 1, 1)?.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
        };
        let before = self.0.range(..=t.0).next_back().map_or(i64::MIN, |(_, upper)| *upper);
        let after = self.0.range(t.0..).next().map_or(i64::MAX, |(lower, _)| *lower);
        Some((before.max(start(year)?), after.min(start(year + 1)?)))
    }
}

impl PgStore {
    /// Attaches what partitions these times need, and lists the panes, in transactions of their own.
    pub(super) async fn ensure(&self, parent: Parent, starts: &[Timestamp]) -> Result<()> {
        let (missing, unlisted): (Vec<Timestamp>, Vec<Us>) = {
            let mut known = self.known.get();
            let ranges = known.ranges(parent);
            let missing = starts.iter().copied().filter(|t| !ranges.covers(*t)).collect();
            let listed = |t: &&Timestamp| parent == Parent::Panes && !known.index.contains(t);
            (missing, starts.iter().filter(listed).copied().map(Us::from).collect())
        };
        if !missing.is_empty() {
            self.attach(parent, missing).await?;
        }
        if !unlisted.is_empty() {
            let sql = "INSERT INTO pane_index_data SELECT unnest($1::timestamptz[]) ON CONFLICT DO NOTHING";
            self.client().await?.execute(sql, &[&unlisted]).await?;
            let mut known = self.known.get();
            if known.index.len() + unlisted.len() > MAX_KNOWN_PANES {
                known.index.clear();
            }
            known.index.extend(unlisted.into_iter().map(Timestamp::from));
        }
        Ok(())
    }

    async fn attach(&self, parent: Parent, missing: Vec<Timestamp>) -> Result<()> {
        let mut client = self.client().await?;
        let mut rest: BTreeSet<Timestamp> = missing.into_iter().collect();
        while !rest.is_empty() {
            let tx = client.transaction().await?;
            lock(&tx, Lock::Partitions).await?;
            let mut ranges = read_ranges(&*tx, parent, false).await?;
            let leaving = read_ranges(&*tx, parent, true).await?;
            let mut made = 0;
            while let Some(t) = rest.first().copied() {
                if !ranges.covers(t) {
                    if made == MADE_AT_ONCE {
                        break;
                    }
                    let (lower, upper) = ranges
                        .around(t)
                        .ok_or_else(|| StoreError::internal(format!("{t} is beyond the calendar")))?;
                    if leaving.overlaps(lower, upper) {
                        let message = format!("a partition of {} for {t} is being detached", parent.table());
                        return Err(StoreError::Contended { message });
                    }
                    make(&tx, parent, lower, upper).await?;
                    ranges.0.insert(lower, upper);
                    made += 1;
                }
                rest.pop_first();
            }
            tx.commit().await?;
            *self.known.get().ranges(parent) = ranges;
        }
        Ok(())
    }

    /// A partition that was thought to exist is gone (dropped by another process, or by hand): the next attempt looks
    /// again.
    pub(super) fn forget_partitions(&self, e: StoreError) -> StoreError {
        match e {
            // Messages come in the server's language; no other constraint of these tables has this state.
            StoreError::Internal { message } if message.ends_with("[SQLSTATE 23514]") => {
                *self.known.get() = KnownInner::default();
                StoreError::Contended { message }
            }
            other => other,
        }
    }
}

/// Of the attached partitions, or of those that a detachment is on the way with: these hold no rows of ours any more,
/// and yet none that overlaps can be attached.
async fn read_ranges(client: &impl GenericClient, parent: Parent, leaving: bool) -> Result<Ranges> {
    // Bounds are printed in the session's time zone, UTC.
    let sql = "SELECT b.bound[1]::timestamptz, b.bound[2]::timestamptz FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \\('([^']+)'\\) TO \\('([^']+)'\\)$$) AS b(bound)
        WHERE i.inhparent = $1::text::regclass AND i.inhdetachpending = $2 AND b.bound IS NOT NULL";
    let rows = client.query(sql, &[&parent.table(), &leaving]).await?;
    let ranges: Result<BTreeMap<i64, i64>> = rows.iter().map(|r| Ok((r.time(0)?.0, r.time(1)?.0))).collect();
    Ok(Ranges(ranges?))
}

/// Made beside the table and attached: unlike `CREATE TABLE … PARTITION OF` this lets readers and writers of the other
/// partitions go on.
async fn make(tx: &Transaction<'_>, parent: Parent, lower: i64, upper: i64) -> Result<()> {
    let (table, name) = (parent.table(), partition_name(parent, lower, upper));
    let (from, to) = (literal(Timestamp(lower)), literal(Timestamp(upper)));
    let taken = "SELECT relkind = 'r' AND NOT relispartition FROM pg_class
        WHERE relname = $1 AND relnamespace = current_schema()::regnamespace";
    if let Some(row) = tx.query_opt(taken, &[&name]).await? {
        // Retention detached it and will drop it: `drop_detached` takes what it finds so.
        if parent == Parent::Panes && row.at::<bool>(0)? {
            return Err(StoreError::Contended { message: format!("{name} is being dropped") });
        }
        return Err(StoreError::Foreign { object: name });
    }
    tx.batch_execute(&format!(
        "CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES);
         ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
    ))
    .await?;
    Ok(())
}

fn partition_name(parent: Parent, lower: i64, upper: i64) -> String {
    let day =
        |us: i64| Timestamp(us).to_datetime().map(|t| t.format("%Y%m%d").to_string()).unwrap_or_default();
    if upper - lower == DAY_US {
        format!("{}_{}", parent.table(), day(lower))
    } else {
        format!("{}_{}_{}", parent.table(), day(lower), day(upper))
    }
}

pub(super) async fn pane_range(store: &PgStore) -> Result<Option<(Timestamp, Timestamp)>> {
    // The index may list a pane whose checkpoint did not come to be.
    let one = |order: &str| {
        format!(
            "(SELECT i.pane_start FROM pane_index_data i
              WHERE EXISTS (SELECT FROM pane_data p WHERE p.pane_start = i.pane_start)
              ORDER BY i.pane_start {order} LIMIT 1)"
        )
    };
    let sql = format!("SELECT {}, {}", one("ASC"), one("DESC"));
    let client = store.client().await?;
    let row = client.query_one(&client.prepare_cached(&sql).await?, &[]).await?;
    Ok(row.maybe_time(0)?.zip(row.maybe_time(1)?))
}

pub(super) async fn panes(
    store: &PgStore,
    range: Interval,
    newest_first: bool,
    limit: usize,
) -> Result<Vec<Timestamp>> {
    let order = if newest_first { "DESC" } else { "ASC" };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT i.pane_start FROM pane_index_data i
          WHERE i.pane_start >= $1 AND i.pane_start < $2
            AND EXISTS (SELECT FROM pane_data p WHERE p.pane_start = i.pane_start)
          ORDER BY i.pane_start {order} LIMIT $3"
    );
    let client = store.client().await?;
    let rows = client
        .query(&client.prepare_cached(&sql).await?, &[&Us::from(range.start), &Us::from(range.end), &limit])
        .await?;
    rows.iter().map(|row| row.time(0)).collect()
}

pub(super) async fn retain_from(store: &PgStore, floor: Timestamp) -> Result<u64> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    lock(&tx, Lock::Floor).await?;
    tx.execute("SELECT 1 FROM progress_data ORDER BY source, topic, kafka_partition FOR UPDATE", &[]).await?;
    tx.execute(
        "UPDATE progress_data SET floor = $1, updated_at = clock_timestamp() WHERE floor IS NULL OR floor < $1",
        &[&Us::from(floor)],
    )
    .await?;
    let row = tx.query_one("SELECT pane_us FROM setting_data", &[]).await?;
    let Some(pane_us) = row.at::<Option<i64>>(0)? else {
        tx.commit().await?;
        return Ok(0);
    };
    tx.commit().await?;
    // From here on every checkpoint that judged by a lower floor is fenced. Panes that start before `keep` end at or
    // before the floor.
    let keep = floor.plus_us(1 - pane_us);
    let held = "SELECT pg_try_advisory_lock(hashtext('fleetscore/' || current_schema()), $1)";
    if !client.query_one(held, &[&(Lock::Retention as i32)]).await?.at::<bool>(0)? {
        return Ok(0); // another process is at it
    }
    let removed = remove_below(&client, keep).await;
    // Unless it is given back, the lock goes with the connection.
    let freed = "SELECT pg_advisory_unlock(hashtext('fleetscore/' || current_schema()), $1)";
    if removed.is_err() || client.execute(freed, &[&(Lock::Retention as i32)]).await.is_err() {
        drop(deadpool_postgres::Object::take(client));
    }
    store.known.get().panes = Ranges::default();
    removed
}

/// Whole partitions by detaching them while others read and write; the rest row by row.
async fn remove_below(client: &tokio_postgres::Client, keep: Timestamp) -> Result<u64> {
    client.batch_execute("SET statement_timeout = '5min'").await?;
    finish_detaching(client).await?;
    let mut removed = 0;
    for (lower, upper) in read_ranges(client, Parent::Panes, false).await?.0 {
        if upper > keep.0 {
            continue;
        }
        let name = partition_name(Parent::Panes, lower, upper);
        let rows: i64 = client.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await?.at(0)?;
        client.batch_execute(&format!("ALTER TABLE pane_data DETACH PARTITION {name} CONCURRENTLY")).await?;
        client.batch_execute(&format!("DROP TABLE {name}")).await?;
        removed += rows.unsigned_abs();
    }
    drop_detached(client, keep).await?;
    let keep = Us::from(keep);
    removed += client.execute("DELETE FROM pane_data WHERE pane_start < $1", &[&keep]).await?;
    client.execute("DELETE FROM pane_index_data WHERE pane_start < $1", &[&keep]).await?;
    client.execute("DELETE FROM changed_pane_data WHERE pane_start < $1", &[&keep]).await?;
    client.batch_execute("SET statement_timeout = '10min'").await?;
    Ok(removed)
}

/// A detachment that was interrupted must be ended before another one can begin.
async fn finish_detaching(client: &tokio_postgres::Client) -> Result<()> {
    let sql = "SELECT i.inhrelid::regclass::text FROM pg_inherits i
        WHERE i.inhparent = 'pane_data'::regclass AND i.inhdetachpending";
    for row in client.query(sql, &[]).await? {
        let name: &str = row.at(0)?;
        client.batch_execute(&format!("ALTER TABLE pane_data DETACH PARTITION {name} FINALIZE")).await?;
    }
    Ok(())
}

/// What was detached by a process that ended before it dropped it.
async fn drop_detached(client: &tokio_postgres::Client, keep: Timestamp) -> Result<()> {
    let sql = "SELECT c.relname::text FROM pg_class c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
            AND c.relname ~ '^pane_data_[0-9]{8}(_[0-9]{8})?$' AND right(c.relname::text, 8) < $1";
    let day = keep.to_datetime().map(|t| t.format("%Y%m%d").to_string()).unwrap_or_default();
    for row in client.query(sql, &[&day]).await? {
        client.batch_execute(&format!("DROP TABLE {}", row.at::<&str>(0)?)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(y: i32, m: u32, d: u32) -> i64 {
        NaiveDate::from_ymd_opt(y, m, d).unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_micros()
    }

    #[test]
    fn a_day_has_a_partition_of_its_own() {
        let ranges = Ranges::default();
        let t = Timestamp(day(2018, 8, 28) + 5);
        assert!(!ranges.covers(t));
        assert_eq!(ranges.around(t), Some((day(2018, 8, 28), day(2018, 8, 29))));
        assert_eq!(partition_name(Parent::Panes, day(2018, 8, 28), day(2018, 8, 29)), "pane_data_20180828");
    }

    #[test]
    fn scattered_times_share_what_is_free_of_a_year() {
        let mut ranges = Ranges::default();
        for i in 0..MAX_DAILY as i64 {
            let lower = day(2000, 1, 1) + 2 * i * DAY_US;
            ranges.0.insert(lower, lower + DAY_US);
        }
        let t = Timestamp(day(2060, 5, 5));
        assert_eq!(ranges.around(t), Some((day(2060, 1, 1), day(2061, 1, 1))));
        assert_eq!(
            partition_name(Parent::Panes, day(2060, 1, 1), day(2061, 1, 1)),
            "pane_data_20600101_20610101"
        );
        // Between two days, exactly the gap; and never over the neighbours.
        let gap = Timestamp(day(2000, 1, 2));
        assert_eq!(ranges.around(gap), Some((day(2000, 1, 2), day(2000, 1, 3))));
        ranges.0.insert(day(2060, 1, 1), day(2061, 1, 1));
        assert!(ranges.covers(t) && !ranges.covers(Timestamp(day(2061, 1, 1))));
    }
}
