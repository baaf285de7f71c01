//! Leases on publications, and their rows.

use super::PgStore;
use super::types::{RowExt, Us, clean};
use crate::{BatchStream, Outcome, Publication, Result};
use fleetscore_schemas::time::Interval;

/// A run has stored some of its shards and not all: what it changed becomes due when it ends.
const HALF: &str =
    "EXISTS (SELECT FROM run_data r WHERE r.schedule = d.schedule AND r.interval_start = d.interval_start
    AND r.state IN ('waiting', 'running') AND r.changed)";

pub(super) async fn claim(store: &PgStore, worker: &str, lease_us: i64) -> Result<Option<Publication>> {
    let sql = format!(
        "WITH due AS (
            SELECT d.schedule, d.interval_start FROM publication_data d LEFT JOIN schedule_data s ON s.name = d.schedule
            WHERE d.change > d.published_change
                AND (d.lease_until IS NULL OR d.lease_until <= clock_timestamp())
                AND (d.not_before IS NULL OR d.not_before <= clock_timestamp())
                AND (d.published_at IS NULL OR d.published_at
                    + coalesce((s.settings ->> 'republish_gap_us')::bigint, 0) * interval '1 microsecond' <= clock_timestamp())
                AND NOT {HALF}
            ORDER BY d.interval_start, d.schedule LIMIT 1 FOR UPDATE OF d SKIP LOCKED
        )
        UPDATE publication_data p SET fence = p.fence + 1, worker = $1, not_before = NULL,
            lease_until = clock_timestamp() + $2::bigint * interval '1 microsecond'
        FROM due WHERE p.schedule = due.schedule AND p.interval_start = due.interval_start
        RETURNING p.schedule, p.interval_start, p.interval_end, p.fence, p.change"
    );
    let client = store.client().await?;
    let statement = client.prepare_cached(&sql).await?;
    let Some(row) = client.query_opt(&statement, &[&&*clean(worker), &lease_us]).await? else {
        return Ok(None);
    };
    Ok(Some(Publication {
        schedule: row.at(0)?,
        interval: Interval { start: row.time(1)?, end: row.time(2)? },
        fence: row.at(3)?,
        change: row.at(4)?,
        worker: worker.to_owned(),
    }))
}

/// One statement that changes the publication `$1`, `$2` while its fence is `$3`.
async fn change(store: &PgStore, p: &Publication, set: &str, value: &i64) -> Result<Outcome> {
    let sql = format!(
        "UPDATE publication_data SET {set} WHERE schedule = $1 AND interval_start = $2 AND fence = $3"
    );
    let client = store.client().await?;
    let statement = client.prepare_cached(&sql).await?;
    let start = Us::from(p.interval.start);
    let n = client.execute(&statement, &[&p.schedule, &start, &p.fence, value]).await?;
    Ok(if n == 1 { Outcome::Done } else { Outcome::Fenced })
}

pub(super) async fn hasten(store: &PgStore, schedule: &str, range: Interval) -> Result<()> {
    let sql = "UPDATE publication_data SET published_at = NULL
        WHERE schedule = $1 AND interval_start >= $2 AND interval_start < $3 AND change > published_change";
    let client = store.client().await?;
    client.execute(sql, &[&schedule, &Us::from(range.start), &Us::from(range.end)]).await?;
    Ok(())
}

pub(super) async fn renew(store: &PgStore, p: &Publication, lease_us: i64) -> Result<Outcome> {
    // Published, it has no lease any more.
    let sql =
        "UPDATE publication_data SET lease_until = clock_timestamp() + $4::bigint * interval '1 microsecond'
        WHERE schedule = $1 AND interval_start = $2 AND fence = $3 AND lease_until IS NOT NULL";
    let client = store.client().await?;
    let statement = client.prepare_cached(sql).await?;
    let n =
        client.execute(&statement, &[&p.schedule, &Us::from(p.interval.start), &p.fence, &lease_us]).await?;
    Ok(if n == 1 { Outcome::Done } else { Outcome::Fenced })
}

pub(super) async fn confirm(store: &PgStore, p: &Publication) -> Result<Outcome> {
    let sql = "SELECT 1 FROM publication_data WHERE schedule = $1 AND interval_start = $2 AND fence = $3";
    let client = store.client().await?;
    let statement = client.prepare_cached(sql).await?;
    let held = client.query_opt(&statement, &[&p.schedule, &Us::from(p.interval.start), &p.fence]).await?;
    Ok(if held.is_some() { Outcome::Done } else { Outcome::Fenced })
}

pub(super) async fn raise(store: &PgStore, p: &Publication, above: i64) -> Result<Option<Publication>> {
    let sql = "UPDATE publication_data SET fence = greatest(fence, $4) + 1
        WHERE schedule = $1 AND interval_start = $2 AND fence = $3 RETURNING fence";
    let client = store.client().await?;
    let row = client.query_opt(sql, &[&p.schedule, &Us::from(p.interval.start), &p.fence, &above]).await?;
    row.map(|row| Ok(Publication { fence: row.at(0)?, ..p.clone() })).transpose()
}

/// Whether a run is half done and the rows are of one snapshot.
pub(super) async fn rows<'a>(store: &'a PgStore, p: &Publication) -> Result<Option<BatchStream<'a>>> {
    let half =
        format!("SELECT {HALF} FROM (SELECT $1::text, $2::timestamptz) AS d(schedule, interval_start)");
    super::score::unless(store, &p.schedule, p.interval, Some(&half)).await
}

pub(super) async fn postpone(store: &PgStore, p: &Publication, after_us: i64) -> Result<Outcome> {
    let set = "not_before = clock_timestamp() + $4::bigint * interval '1 microsecond', lease_until = NULL, worker = NULL";
    change(store, p, set, &after_us).await
}

pub(super) async fn finish(store: &PgStore, p: &Publication) -> Result<Outcome> {
    let set = "published_change = greatest(published_change, $4), published_at = clock_timestamp(), lease_until = NULL,
        worker = NULL";
    change(store, p, set, &p.change).await
}
