//! A process that was paused inside a transaction keeps its row locks. Whoever takes over from it ends its backend.

use super::PgStore;
use super::types::{RowExt, Us};
use crate::{Result, Task};
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// A lock that is held against us for longer is taken away.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The ends of the chains of waiting that lead away from backend `$1` over locks of rows and advisory ones: those that
/// wait for no lock themselves. Whoever locks a whole table (`VACUUM FULL`, a person) is left alone.
const BLOCKERS: &str = "WITH RECURSIVE b(pid) AS (
        SELECT $1::integer UNION SELECT unnest(pg_blocking_pids(b.pid)) FROM b
        WHERE EXISTS (SELECT FROM pg_locks l WHERE l.pid = b.pid AND NOT l.granted AND l.locktype <> 'relation'))
    SELECT a.pid, coalesce(a.xact_start, a.backend_start) FROM b JOIN pg_stat_activity a USING (pid)
    WHERE a.wait_event_type IS DISTINCT FROM 'Lock' AND a.pid <> $1";

/// Does `work`, statements of backend `pid` that lock rows, and ends every backend that blocks it for two seconds.
pub(super) async fn ending_blockers<T>(
    store: &PgStore,
    pid: i32,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        done = work => done,
        never = watch(store, pid, None) => match never {},
    }
}

/// The same for the end of a task: whoever blocks it has lost the task to it, or else it has lost the task itself. Then
/// nobody is disconnected, and the answer is `None`.
pub(super) async fn ending_former_holders<T>(
    store: &PgStore,
    pid: i32,
    task: &Task,
    work: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    let claim = Claim { task, lost: AtomicBool::new(false) };
    let done = tokio::select! {
        biased;
        done = work => done,
        never = watch(store, pid, Some(&claim)) => match never {},
    };
    match done {
        Err(_) if claim.lost.load(Ordering::Relaxed) => Ok(None),
        other => other.map(Some),
    }
}

/// A claim of a task that may have been lost.
struct Claim<'a> {
    task: &'a Task,
    lost: AtomicBool,
}

impl Claim<'_> {
    /// Whether it is still the newest, as far as it is known by now.
    async fn stands(&self, client: &Client) -> Result<bool, tokio_postgres::Error> {
        let sql = "SELECT 1 FROM run_task_data WHERE schedule = $1 AND interval_start = $2 AND shard = $3
            AND attempt = $4 AND run_id = $5 AND state = 'open'";
        let t = self.task;
        let start = Us::from(t.interval.start);
        let found = client.query_opt(sql, &[&t.schedule, &start, &t.shard, &t.attempt, &t.run_id]).await?;
        Ok(found.is_some())
    }
}

async fn watch(store: &PgStore, pid: i32, claim: Option<&Claim<'_>>) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(LOOK_EVERY * 2).await;
        // Beside the pool: all of its connections may be waiting for this very lock.
        let error = match store.connector.connect_once(&store.target).await {
            Ok(client) => end_blockers(&client, pid, claim).await,
            Err(e) => e,
        };
        tracing::warn!(error = %super::error::words(&error), "cannot look for who holds a lock");
    }
}

async fn end_blockers(client: &Client, pid: i32, claim: Option<&Claim<'_>>) -> tokio_postgres::Error {
    // A backend and its transaction: one that goes from one short transaction to the next is no blocker.
    let mut seen: HashMap<(i32, i64), Instant> = HashMap::new();
    loop {
        if let Err(e) = look(client, pid, claim, &mut seen).await {
            return e;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(
    client: &Client,
    pid: i32,
    claim: Option<&Claim<'_>>,
    seen: &mut HashMap<(i32, i64), Instant>,
) -> Result<(), tokio_postgres::Error> {
    let now = Instant::now();
    let found = client.query(BLOCKERS, &[&pid]).await?;
    let blockers: Vec<(i32, i64)> =
        found.iter().filter_map(|row| Some((row.at(0).ok()?, row.time(1).ok()?.0))).collect();
    seen.retain(|key, _| blockers.contains(key));
    for blocker in blockers {
        if now.duration_since(*seen.entry(blocker).or_insert(now)) < PATIENCE {
            continue;
        }
        seen.remove(&blocker);
        if let Some(claim) = claim
            && !claim.stands(client).await?
        {
            claim.lost.store(true, Ordering::Relaxed);
            client.execute("SELECT pg_cancel_backend($1)", &[&pid]).await?;
            return Ok(());
        }
        tracing::warn!(blocker = blocker.0, "disconnecting a session that has held a lock for too long");
        client.execute("SELECT pg_terminate_backend($1)", &[&blocker.0]).await?;
    }
    Ok(())
}
