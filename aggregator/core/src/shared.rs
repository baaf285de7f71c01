//! What a running aggregator says of itself, and how it waits for a store.

use crate::clock::{Clock, Sleep, SystemClock};
use backon::{ExponentialBuilder, Retryable, Sleeper};
use fleetscore_schemas::codes::{Classify, DeadLetterCode};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::StoreError;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// One owned partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSnapshot {
    /// The partition.
    pub source: TopicPartition,
    /// Offset after everything in memory.
    pub position: i64,
    /// Offset after everything in the store.
    pub committed: i64,
    /// The watermark.
    pub watermark: Option<Timestamp>,
    /// The broker's end offset as last seen.
    pub end_offset: Option<i64>,
}

/// What an aggregator has done since it started, and what it is doing. Counts are of what was read: after a fence,
/// readings are read, and counted here, a second time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Accepted readings.
    pub readings: u64,
    /// Of these, behind the watermark of their partition: merged all the same.
    pub late: u64,
    /// Readings that the row filter dropped.
    pub filtered: u64,
    /// Dead letters by code.
    pub dead_letters: BTreeMap<DeadLetterCode, u64>,
    /// A flood of them that goes on, in words.
    pub flood: Option<String>,
    /// Committed checkpoints.
    pub checkpoints: u64,
    /// Rows merged into panes by them.
    pub windows: u64,
    /// How often a claim was found to be somebody else's.
    pub fences: u64,
    /// Bytes of readings, partial aggregates and dead letters since the last checkpoint.
    pub pending_bytes: usize,
    /// Owned partitions.
    pub partitions: Vec<PartitionSnapshot>,
    /// What it waits for, in words; `None` while it works.
    pub waits_for: Option<String>,
}

/// A view of a running aggregator; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// How things stand; at most a fraction of a second old.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.shared.lock();
        let mut snapshot = state.snapshot.clone();
        if let Some(trouble) = state.troubles.values().next() {
            snapshot.waits_for = Some(trouble.clone());
        }
        snapshot
    }

    /// Number of committed checkpoints, as it rises.
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.shared.committed.subscribe()
    }
}

pub(crate) struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    committed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    snapshot: Snapshot,
    /// Calls that are being retried, with what they wait for.
    troubles: BTreeMap<&'static str, String>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock::new()))
    }
}

impl Shared {
    /// Nothing done yet; pauses are by this clock.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), committed: watch::Sender::new(0) }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers and texts for people: a panic elsewhere leaves them at worst a little old.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.lock().snapshot);
    }

    pub(crate) fn checkpoint_done(&self, windows: u64) {
        let mut state = self.lock();
        state.snapshot.checkpoints += 1;
        state.snapshot.windows += windows;
        let count = state.snapshot.checkpoints;
        drop(state);
        self.committed.send_replace(count);
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock().troubles.values().next().cloned()
    }
}

/// Notes what is waited for as long as it lives.
struct Trouble<'a>(&'a Shared, &'static str);

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        self.0.lock().troubles.remove(self.1);
    }
}

/// Pauses between retries by the clock that was passed in.
struct ByClock(Arc<dyn Clock>);

impl Sleeper for ByClock {
    type Sleep = Sleep;

    fn sleep(&self, pause: Duration) -> Sleep {
        self.0.sleep(pause)
    }
}

/// Calls until it succeeds or fails for good: the same call, unchanged, with growing pauses. What it waits for is told
/// once it begins to wait, and shown as long as it does.
pub(crate) async fn patiently<T, Fut>(
    shared: &Shared,
    what: &'static str,
    call: impl FnMut() -> Fut,
) -> Result<T, StoreError>
where
    Fut: Future<Output = Result<T, StoreError>>,
{
    let trouble = Trouble(shared, what);
    let mut away_since = None;
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times();
    let result = call
        .retry(pauses)
        .sleep(ByClock(Arc::clone(&shared.clock)))
        .when(StoreError::is_transient)
        .notify(|error, pause| {
            let text = format!("the store ({what}): {error}");
            // A collision of two transactions is over in a moment and no news.
            if !matches!(error, StoreError::Contended { .. }) || pause > Duration::from_secs(1) {
                let first = shared.lock().troubles.insert(what, text.clone()).is_none();
                if first {
                    tracing::warn!("waiting for {text}");
                    away_since = Some(shared.clock.mono_us());
                }
            }
            tracing::debug!(?pause, "{text}");
        })
        .await;
    drop(trouble);
    if let (Some(since), Ok(_)) = (away_since, &result) {
        tracing::info!(
            "the store ({what}) is back after {:.1} s",
            (shared.clock.mono_us() - since) as f64 / 1e6
        );
    }
    result
}
