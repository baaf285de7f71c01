//! What a source can say of itself at any moment.

use crate::budget::Budget;
use fleetscore_schemas::reading::TopicPartition;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One partition that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSnapshot {
    /// The partition.
    pub source: TopicPartition,
    /// The offset that will be read next (read, not yet stored: the store's position is behind it).
    pub position: i64,
    /// One past the newest offset, as the broker last said.
    pub end_offset: Option<i64>,
    /// Messages between the two.
    pub lag: Option<i64>,
}

/// A source's statistics; counters run from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceSnapshot {
    /// Messages read (tombstones included).
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Readings decoded from them.
    pub readings: u64,
    /// Records among them that are none.
    pub bad_records: u64,
    /// Bytes read and not yet let go of by the aggregator.
    pub in_flight_bytes: usize,
    /// Their bound.
    pub max_in_flight_bytes: usize,
    /// The longest that a broker throttled this client lately, in ms: an Event Hubs namespace that throttles answers
    /// with nothing and no error, so this is the only sign of it.
    pub throttle_ms: u64,
    /// How often partitions were granted.
    pub assignments: u64,
    /// Positions that the log did not keep.
    pub offset_gaps: u64,
    /// The cluster's id, once it is known.
    pub cluster: Option<String>,
    /// Whether the group has granted an assignment (an empty one counts).
    pub assigned: bool,
    /// The partitions being read.
    pub partitions: Vec<PartitionSnapshot>,
    /// What the source waits for, in words; `None` while all is well.
    pub waits_for: Option<String>,
}

/// Counters and states shared by the threads of a source.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) readings: AtomicU64,
    pub(crate) bad_records: AtomicU64,
    pub(crate) throttle_ms: AtomicU64,
    pub(crate) assignments: AtomicU64,
    pub(crate) offset_gaps: AtomicU64,
    /// Whether a broker has ever answered: a refusal after that is not the user's mistake.
    pub(crate) connected: AtomicBool,
    /// A connection broke: what is behind it now may be another log.
    pub(crate) doubt: AtomicBool,
    /// Set when the source is to end.
    pub(crate) stopping: AtomicBool,
    /// The start whose batches are not void.
    pub(crate) current_start: AtomicU64,
    pub(crate) budget: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) cluster: Option<String>,
    pub(crate) assigned: bool,
    /// Position and end offset.
    pub(crate) partitions: BTreeMap<TopicPartition, (i64, Option<i64>)>,
    /// What the brokers do not do.
    pub(crate) waits_for_broker: Option<String>,
    /// Which topic is not there.
    pub(crate) waits_for_topic: Option<String>,
    /// Why the source cannot go on.
    pub(crate) refused: Option<String>,
}

impl Shared {
    pub(crate) fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            readings: AtomicU64::new(0),
            bad_records: AtomicU64::new(0),
            throttle_ms: AtomicU64::new(0),
            assignments: AtomicU64::new(0),
            offset_gaps: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            doubt: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            current_start: AtomicU64::new(0),
            budget,
            state: Mutex::new(State::default()),
        })
    }

    /// The state; a panic elsewhere leaves it usable, as every change to it is one assignment.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A broker has answered.
    pub(crate) fn answered(&self) {
        self.connected.store(true, Ordering::Release);
        let was = self.state().waits_for_broker.take();
        if was.is_some() {
            tracing::info!("kafka answers again");
        }
    }

    /// No broker answers. Said once in the log, and in every snapshot.
    pub(crate) fn waits_for_broker(&self, what: &str) {
        let mut state = self.state();
        if state.waits_for_broker.is_none() {
            tracing::warn!("waiting for kafka: {what}");
        }
        state.waits_for_broker = Some(what.to_string());
    }

    /// A topic is missing, or all are there again.
    pub(crate) fn waits_for_topic(&self, what: Option<String>) {
        let mut state = self.state();
        if let Some(what) = &what
            && state.waits_for_topic.as_ref() != Some(what)
        {
            tracing::warn!("waiting: {what}");
        }
        state.waits_for_topic = what;
    }

    /// The first refusal counts.
    pub(crate) fn refuse(&self, message: String) {
        self.state().refused.get_or_insert(message);
    }

    pub(crate) fn snapshot(&self) -> SourceSnapshot {
        let state = self.state();
        let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let waits: Vec<&str> = [&state.refused, &state.waits_for_broker, &state.waits_for_topic]
            .into_iter()
            .filter_map(|w| w.as_deref())
            .collect();
        SourceSnapshot {
            messages: count(&self.messages),
            bytes: count(&self.bytes),
            readings: count(&self.readings),
            bad_records: count(&self.bad_records),
            in_flight_bytes: self.budget.used(),
            max_in_flight_bytes: self.budget.limit(),
            throttle_ms: count(&self.throttle_ms),
            assignments: count(&self.assignments),
            offset_gaps: count(&self.offset_gaps),
            cluster: state.cluster.clone(),
            assigned: state.assigned,
            partitions: state
                .partitions
                .iter()
                .map(|(source, (position, end_offset))| PartitionSnapshot {
                    source: source.clone(),
                    position: *position,
                    end_offset: *end_offset,
                    lag: end_offset.map(|end| (end - position).max(0)),
                })
                .collect(),
            waits_for: (!waits.is_empty()).then(|| waits.join("; ")),
        }
    }
}
