//! A process that was paused inside a transaction keeps its row locks. Whoever takes over from it ends its backend.

use super::PgStore;
use super::types::RowExt;
use crate::Result;
use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// A lock that is held against us for longer is taken away.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The ends of the chains of waiting that lead away from backend `$1`: those that wait for no lock themselves.
const BLOCKERS: &str = "WITH RECURSIVE b(pid) AS (
        SELECT unnest(pg_blocking_pids($1)) UNION SELECT unnest(pg_blocking_pids(b.pid)) FROM b)
    SELECT a.pid FROM b JOIN pg_stat_activity a USING (pid)
    WHERE a.wait_event_type IS DISTINCT FROM 'Lock' AND a.pid <> $1";

/// Does `work`, a statement of backend `pid` that locks rows, and ends every backend that blocks it for two seconds.
pub(super) async fn ending_blockers<T>(
    store: &PgStore,
    pid: i32,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        done = work => done,
        never = watch(store, pid) => match never {},
    }
}

async fn watch(store: &PgStore, pid: i32) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(LOOK_EVERY * 2).await;
        // Beside the pool: all of its connections may be waiting for this very lock.
        let error = match store.connector.connect_once(&store.target).await {
            Ok(client) => end_blockers(&client, pid).await,
            Err(e) => e,
        };
        tracing::warn!(error = %super::error::words(&error), "cannot look for who holds a lock");
    }
}

async fn end_blockers(client: &Client, pid: i32) -> tokio_postgres::Error {
    let mut seen: HashMap<i32, Instant> = HashMap::new();
    loop {
        let now = Instant::now();
        let found = match client.query(BLOCKERS, &[&pid]).await {
            Ok(rows) => rows,
            Err(e) => return e,
        };
        let pids: Vec<i32> = found.iter().filter_map(|row| row.at(0).ok()).collect();
        seen.retain(|pid, _| pids.contains(pid));
        for blocker in pids {
            if now.duration_since(*seen.entry(blocker).or_insert(now)) < PATIENCE {
                continue;
            }
            tracing::warn!(blocker, "disconnecting a session that has held a lock for too long");
            if let Err(e) = client.execute("SELECT pg_terminate_backend($1)", &[&blocker]).await {
                return e;
            }
            seen.remove(&blocker);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
