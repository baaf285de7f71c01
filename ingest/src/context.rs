//! What librdkafka calls back: rebalances, errors, logs, statistics.

use crate::error::{explain, is_refusal};
use crate::stats::Shared;
use fleetscore_schemas::reading::TopicPartition;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A change of the group's mind, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GroupChange {
    /// These partitions are granted: the whole assignment.
    Granted(Vec<TopicPartition>),
    /// The whole assignment is to be given up; `unassign()` is awaited.
    Revoked {
        /// Whether others may have the partitions already.
        lost: bool,
    },
}

/// The consumer's side of librdkafka's callbacks. All run inside `poll`, on the polling thread.
pub(crate) struct Context {
    shared: Arc<Shared>,
    changes: Mutex<VecDeque<GroupChange>>,
}

impl Context {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, changes: Mutex::default() }
    }

    /// The next change that has not been dealt with.
    pub(crate) fn next_change(&self) -> Option<GroupChange> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn change(&self, change: GroupChange) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push_back(change);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, tpl: &mut TopicPartitionList) {
        match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS if !self.shared.stopping() => {
                // Answered at once with nothing: until it is, librdkafka does not act on further rebalances. Where to
                // read from comes later, with the next assign().
                if let Err(e) = consumer.assign(&TopicPartitionList::new()) {
                    tracing::error!("librdkafka refuses an empty assignment: {e}");
                }
                self.change(GroupChange::Granted(
                    tpl.elements().iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect(),
                ));
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS if !self.shared.stopping() => {
                self.change(GroupChange::Revoked { lost: consumer.assignment_lost() });
            }
            _ => {
                if let Err(e) = consumer.unassign() {
                    tracing::debug!("unassigning: {e}");
                }
            }
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(e) = result {
            tracing::debug!("the group's offsets, which only lag tools read, were not committed: {e}");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Some(ms) = throttle_ms(statistics) {
            self.shared.throttle_ms.store(ms, Ordering::Relaxed);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        match judge(code, self.shared.connected.load(Ordering::Acquire)) {
            Judgement::Refused => self.shared.refuse(format!("kafka: {} ({reason})", explain(code))),
            Judgement::WaitsForBroker => {
                self.shared.doubt.store(true, Ordering::Release);
                self.shared.waits_for_broker(&format!("{code} ({reason})"));
            }
            Judgement::AnswerRefused => {
                self.shared.doubt.store(true, Ordering::Release);
                self.shared.refused_answer(reason, Instant::now());
            }
            Judgement::Passing => tracing::debug!("kafka: {code}: {reason}"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// A user's mistake: nothing is gained by asking again.
    Refused,
    /// Nobody answers, which may change.
    WaitsForBroker,
    /// A broker's answer is not accepted, and will not be when it is asked for again.
    AnswerRefused,
    /// librdkafka deals with it.
    Passing,
}

/// What an error of the whole client means. librdkafka itself retries everything for ever; a refusal counts as the
/// user's mistake only until a broker has answered once.
fn judge(code: RDKafkaErrorCode, connected: bool) -> Judgement {
    use RDKafkaErrorCode as C;
    match code {
        code if is_refusal(code) && !connected => Judgement::Refused,
        // These come from the group's coordinator, after a broker has answered.
        C::GroupAuthorizationFailed | C::InvalidGroupId | C::InvalidSessionTimeout => Judgement::Refused,
        C::Authentication | C::SaslAuthenticationFailed | C::SSL => Judgement::WaitsForBroker,
        C::AllBrokersDown | C::BrokerTransportFailure | C::Resolve => Judgement::WaitsForBroker,
        // An answer that librdkafka does not accept, such as one above a `receive.message.max.bytes` of the user's: it drops
        // the connection and asks for the same again.
        C::BadMessage => Judgement::AnswerRefused,
        _ => Judgement::Passing,
    }
}

/// librdkafka's log lines. What it says of failing connections ("FAIL") comes as an error too, and is told from there.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel as L;
    match level {
        _ if matches!(facility, "FAIL" | "ERROR") => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        L::Emerg | L::Alert | L::Critical | L::Error => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        L::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        L::Notice | L::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
        L::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// The longest throttling by any broker in the interval that librdkafka's statistics cover.
fn throttle_ms(statistics: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Statistics {
        #[serde(default)]
        brokers: HashMap<String, Broker>,
    }
    #[derive(Deserialize)]
    struct Broker {
        #[serde(default)]
        throttle: Window,
    }
    #[derive(Deserialize, Default)]
    struct Window {
        #[serde(default)]
        max: i64,
    }
    let statistics: Statistics = serde_json::from_slice(statistics).ok()?;
    let longest = statistics.brokers.values().map(|b| b.throttle.max).max().unwrap_or(0);
    Some(u64::try_from(longest).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_final_only_before_the_first_answer() {
        use RDKafkaErrorCode as C;
        for (code, connected, judgement) in [
            (C::AllBrokersDown, false, Judgement::WaitsForBroker),
            (C::BrokerTransportFailure, false, Judgement::WaitsForBroker),
            (C::Authentication, false, Judgement::Refused),
            (C::Authentication, true, Judgement::WaitsForBroker),
            (C::SSL, false, Judgement::Refused),
            (C::SSL, true, Judgement::WaitsForBroker),
            (C::GroupAuthorizationFailed, true, Judgement::Refused),
            (C::UnknownTopicOrPartition, false, Judgement::Passing),
            (C::BadMessage, true, Judgement::AnswerRefused),
            (C::PollExceeded, true, Judgement::Passing),
        ] {
            assert_eq!(judge(code, connected), judgement, "{code:?}, connected: {connected}");
        }
    }

    #[test]
    fn the_longest_throttling_is_found() {
        let text = br#"{"name":"x","brokers":{"a":{"throttle":{"max":12,"sum":20}},"b":{"throttle":{"max":90}},"c":{}}}"#;
        assert_eq!(throttle_ms(text), Some(90));
        assert_eq!(throttle_ms(b"{}"), Some(0));
        assert_eq!(throttle_ms(b"no json"), None);
    }
}
