//! What a source can say of itself at any moment.

use crate::budget::Budget;
use fleetscore_schemas::reading::TopicPartition;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// librdkafka asks again within seconds: an answer that was not accepted for so long is one no more.
const REFUSED_FOR: Duration = Duration::from_secs(60);

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
    /// An answer of a broker that librdkafka did not accept, and when: it asks for it again.
    pub(crate) refused_answer: Option<(String, Instant)>,
    /// Partitions that go no further, and why.
    pub(crate) stuck: BTreeMap<TopicPartition, String>,
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

    /// librdkafka has not accepted an answer of a broker.
    pub(crate) fn refused_answer(&self, why: &str, at: Instant) {
        let mut state = self.state();
        if state.refused_answer.as_ref().is_none_or(|(_, before)| at.duration_since(*before) > REFUSED_FOR) {
            tracing::warn!("waiting for kafka: an answer of a broker is not accepted: {why}");
        }
        state.refused_answer = Some((why.to_owned(), at));
    }

    /// A partition goes no further, or does so again.
    pub(crate) fn stuck(&self, source: &TopicPartition, why: Option<String>) {
        let mut state = self.state();
        match why {
            Some(why) => {
                if !state.stuck.contains_key(source) {
                    tracing::warn!("waiting: {why}");
                }
                state.stuck.insert(source.clone(), why);
            }
            None => {
                if state.stuck.remove(source).is_some() {
                    tracing::info!("{source} is read again");
                }
            }
        }
    }

    /// The first refusal counts.
    pub(crate) fn refuse(&self, message: String) {
        self.state().refused.get_or_insert(message);
    }

    pub(crate) fn snapshot(&self) -> SourceSnapshot {
        let state = self.state();
        let refused_answer =
            state.refused_answer.as_ref().filter(|(_, at)| at.elapsed() <= REFUSED_FOR).map(|(why, _)| why);
        let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let waits: Vec<&str> = [&state.refused, &state.waits_for_broker, &state.waits_for_topic]
            .into_iter()
            .filter_map(|w| w.as_deref())
            .chain(refused_answer.map(String::as_str))
            .chain(state.stuck.values().next().map(String::as_str))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_no_further_is_said_until_it_does() {
        let shared = Shared::new(Budget::new(1));
        let said = || shared.snapshot().waits_for;
        assert_eq!(said(), None);
        let one = TopicPartition::new("t", 1);
        shared.stuck(&one, Some("offset 7 of t[1]".into()));
        shared.waits_for_topic(Some("no topic".into()));
        assert_eq!(said().as_deref(), Some("no topic; offset 7 of t[1]"));
        shared.waits_for_topic(None);
        shared.stuck(&one, None);
        assert_eq!(said(), None);

        let now = Instant::now();
        shared.refused_answer("too large", now);
        assert_eq!(said().as_deref(), Some("too large"));
        shared.answered();
        assert_eq!(said().as_deref(), Some("too large"), "that other questions are answered changes nothing");
        if let Some(long_ago) = now.checked_sub(REFUSED_FOR * 2) {
            shared.refused_answer("too large", long_ago);
            assert_eq!(said(), None);
        }
    }
}
