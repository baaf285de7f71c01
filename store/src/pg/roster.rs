//! Who is silent: series with a model and without data, and the whole fleet.

use super::PgStore;
use super::events::event;
use super::migrate::try_lock_schedule;
use super::types::{RowExt, Us};
use crate::{Result, notices};
use deadpool_postgres::Transaction;
use fleetscore_schemas::time::{Interval, Timestamp};
use tokio_postgres::GenericClient;

/// The interval that is next, and the start of the one behind it.
struct Next {
    interval: Interval,
    behind: Timestamp,
}

async fn next(client: &impl GenericClient, schedule: &str) -> Result<Option<Next>> {
    // A full run scores the schedule's own series, all of them; one of them is over, and none is open.
    let full = "r.schedule = s.name AND r.state <> 'skipped' AND r.scope = 'all' AND NOT r.data_only
        AND r.series IS NOT DISTINCT FROM s.settings ->> 'series'";
    let sql = format!(
        "SELECT n.interval_start, n.interval_end, s.hop_us FROM schedule_data s CROSS JOIN LATERAL (
            SELECT r.interval_start, r.interval_end FROM run_data r
            WHERE {full} AND r.interval_start >= coalesce(s.roster_until, s.first_interval)
                AND r.interval_start < s.covered_until
            ORDER BY r.interval_start, r.opened_at LIMIT 1) n
        WHERE s.name = $1 AND NOT EXISTS (SELECT FROM run_data r WHERE {full} AND r.interval_start = n.interval_start
            AND r.state IN ('waiting', 'running'))"
    );
    let Some(row) = client.query_opt(&sql, &[&schedule]).await? else { return Ok(None) };
    let interval = Interval { start: row.time(0)?, end: row.time(1)? };
    let behind = interval.start.plus_us(row.at::<i64>(2)?.max(1));
    Ok(Some(Next { interval, behind }))
}

pub(super) async fn advance(store: &PgStore, schedule: &str, silence_us: Option<i64>) -> Result<bool> {
    let mut client = store.client().await?;
    if next(&**client, schedule).await?.is_none() {
        return Ok(false);
    }
    let tx = client.transaction().await?;
    // Not the schedule's row: plans go on while this writes. Another process is at it where the lock is taken.
    if !try_lock_schedule(&tx, "roster", schedule).await? {
        return Ok(false);
    }
    let Some(next) = next(&*tx, schedule).await? else { return Ok(false) };
    take(&tx, schedule, next.interval, silence_us).await?;
    let sql = "UPDATE schedule_data SET roster_until = $2 WHERE name = $1";
    tx.execute(sql, &[&schedule, &Us::from(next.behind)]).await?;
    tx.commit().await?;
    Ok(true)
}

async fn take(
    tx: &Transaction<'_>,
    schedule: &str,
    interval: Interval,
    silence_us: Option<i64>,
) -> Result<()> {
    let start = Us::from(interval.start);
    // One look-up by key for each open silence, and never a look at who has data: few are silent among a million.
    let end = "WITH ended AS (
            UPDATE silence_data s SET ended_at = $2 WHERE s.schedule = $1 AND s.ended_at IS NULL
                AND (SELECT p.status FROM prediction_data p WHERE p.schedule = $1 AND p.window_start = $2
                    AND p.series_id = s.series_id) <> 'no_data'
            RETURNING s.noticed_at)
        SELECT count(noticed_at) FROM ended";
    let statement = tx.prepare_cached(end).await?;
    let back: i64 = tx.query_one(&statement, &[&schedule, &start]).await?.at(0)?;
    let begin = "INSERT INTO silence_data (schedule, series_id, since)
        SELECT p.schedule, p.series_id, p.window_start FROM prediction_data p
        WHERE p.schedule = $1 AND p.window_start = $2 AND p.status = 'no_data'
            AND NOT EXISTS (SELECT FROM silence_data o
                WHERE o.schedule = $1 AND o.series_id = p.series_id AND o.ended_at IS NULL)";
    tx.execute(&tx.prepare_cached(begin).await?, &[&schedule, &start]).await?;
    if let Some(limit) = silence_us {
        let notice = "UPDATE silence_data SET noticed_at = clock_timestamp()
            WHERE schedule = $1 AND ended_at IS NULL AND noticed_at IS NULL AND since < $2";
        let before = Us::from(interval.end.plus_us(-limit));
        let noticed = tx.execute(&tx.prepare_cached(notice).await?, &[&schedule, &before]).await?;
        if noticed > 0 {
            let noticed = i64::try_from(noticed).unwrap_or(i64::MAX);
            let detail = notices::series_silent(noticed, limit, interval);
            event(tx, "series_silent", Some(schedule), Some(noticed), &detail).await?;
        }
    }
    if back > 0 {
        let detail = notices::series_back(back, interval);
        event(tx, "series_back", Some(schedule), Some(back), &detail).await?;
    }
    Ok(())
}

/// What is known of the newest pane.
struct Newest {
    pane: Option<Timestamp>,
    since: Option<Timestamp>,
    silent: bool,
    now: Timestamp,
}

impl Newest {
    async fn read(client: &impl GenericClient, lock: &str) -> Result<Self> {
        let sql = format!(
            "SELECT newest_pane, newest_at, fleet_silent, clock_timestamp() FROM setting_data {lock}"
        );
        let row = client.query_one(&sql, &[]).await?;
        Ok(Self {
            pane: row.maybe_time(0)?,
            since: row.maybe_time(1)?,
            silent: row.at(2)?,
            now: row.time(3)?,
        })
    }

    /// Since when this pane, or a newer one, is the newest, where that is nothing to note.
    fn known(&self, pane: Timestamp, silence_us: Option<i64>) -> Option<Timestamp> {
        let since = self.since.filter(|_| self.pane.is_some_and(|newest| pane <= newest))?;
        let late = silence_us.is_some_and(|limit| since.plus_us(limit) < self.now);
        (self.silent || !late).then_some(since)
    }
}

pub(super) async fn note_newest(
    store: &PgStore,
    pane: Timestamp,
    silence_us: Option<i64>,
) -> Result<Timestamp> {
    let mut client = store.client().await?;
    if let Some(since) = Newest::read(&**client, "").await?.known(pane, silence_us) {
        return Ok(since);
    }
    let tx = client.transaction().await?;
    let newest = Newest::read(&*tx, "FOR UPDATE").await?;
    let since = match (newest.known(pane, silence_us), newest.pane.zip(newest.since)) {
        (Some(since), _) => return Ok(since), // another process was here
        (None, Some((before, since))) if pane <= before => {
            let detail = notices::fleet_silent(before, since, silence_us.unwrap_or(0));
            event(&tx, "fleet_silent", None, None, &detail).await?;
            tx.execute("UPDATE setting_data SET fleet_silent = true", &[]).await?;
            since
        }
        (None, before) => {
            let sql = "UPDATE setting_data SET newest_pane = $1, newest_at = $2, fleet_silent = false";
            tx.execute(sql, &[&Us::from(pane), &Us::from(newest.now)]).await?;
            if let Some((_, since)) = before.filter(|_| newest.silent) {
                event(&tx, "fleet_back", None, None, &notices::fleet_back(pane, since)).await?;
            }
            newest.now
        }
    };
    tx.commit().await?;
    Ok(since)
}
