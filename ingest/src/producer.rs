//! A producer that waits when its queue is full, and counts what became of every message.

use crate::context;
use crate::error::{IngestError, explain, is_refusal};
use crate::profile::{Brokers, Role, config_for};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a full queue is left alone.
const FULL: Duration = Duration::from_millis(2);
/// How long one question to the broker may take before it is asked again: a refusal is looked for in between.
const CALL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    delivered: AtomicU64,
    delivered_bytes: AtomicU64,
    failed: AtomicU64,
    connected: AtomicBool,
    /// The first failure of a message, and what makes further sending pointless.
    first_failure: Mutex<Option<String>>,
    refused: Mutex<Option<String>>,
    /// The last word on brokers that do not answer.
    trouble: Mutex<Option<String>>,
}

/// What became of the messages so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Messages accepted by [`Producer::send`].
    pub sent: u64,
    /// Messages that the broker has acknowledged.
    pub delivered: u64,
    /// Bytes of their payloads.
    pub delivered_bytes: u64,
    /// Messages that will never be.
    pub failed: u64,
    /// Why the first of those failed.
    pub first_failure: Option<String>,
    /// What the producer waits for, in words.
    pub waits_for: Option<String>,
}

struct ProducerEvents(Arc<Counters>);

impl ClientContext for ProducerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let connected = self.0.connected.load(Ordering::Acquire);
        if code == RDKafkaErrorCode::Fatal || (is_refusal(code) && !connected) {
            set(&self.0.refused, format!("{} ({reason})", explain(code)));
        } else if matches!(
            code,
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
        ) {
            if lock(&self.0.trouble).replace(format!("{code} ({reason})")).is_none() {
                tracing::warn!("waiting for kafka: {code} ({reason})");
            }
        } else {
            tracing::debug!("kafka: {code}: {reason}");
        }
    }
}

impl ProducerContext for ProducerEvents {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                self.0.connected.store(true, Ordering::Release);
                self.0.delivered.fetch_add(1, Ordering::Relaxed);
                self.0.delivered_bytes.fetch_add(message.payload_len() as u64, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.0.failed.fetch_add(1, Ordering::Relaxed);
                set(&self.0.first_failure, error.to_string());
            }
        }
    }
}

fn lock(place: &Mutex<Option<String>>) -> std::sync::MutexGuard<'_, Option<String>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first word counts.
fn set(place: &Mutex<Option<String>>, what: String) {
    lock(place).get_or_insert(what);
}

/// Sends messages to one topic, idempotently: what is retried is not doubled. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<ThreadedProducer<ProducerEvents>>,
    topic: Arc<str>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("topic", &self.topic)
            .field("delivery", &self.delivery())
            .finish_non_exhaustive()
    }
}

impl Producer {
    /// Opens a producer. Returns at once, whether or not a broker answers: see [`Producer::ready`].
    ///
    /// # Errors
    /// A setting that cannot be used.
    pub fn open(
        brokers: &str,
        properties: &BTreeMap<String, String>,
        topic: &str,
    ) -> Result<Self, IngestError> {
        let config = config_for(&Brokers::parse(brokers)?, properties, Role::Producer)?;
        let counters = Arc::new(Counters::default());
        let inner = config
            .create_with_context(ProducerEvents(Arc::clone(&counters)))
            .map_err(IngestError::from_creation)?;
        Ok(Self { inner: Arc::new(inner), topic: topic.into(), counters })
    }

    /// Waits until a broker answers and the topic is there, at most this long; gives the number of its partitions.
    /// Blocks: call it from a blocking task.
    ///
    /// # Errors
    /// [`IngestError::Refused`] at once; [`IngestError::Unreachable`] when the time is over.
    pub fn ready(&self, timeout: Duration) -> Result<usize, IngestError> {
        self.wait(timeout, true)
    }

    /// Waits until a broker answers at all. Blocks.
    pub(crate) fn connected(&self, timeout: Duration) -> Result<(), IngestError> {
        self.wait(timeout, false).map(|_| ())
    }

    fn wait(&self, timeout: Duration, for_topic: bool) -> Result<usize, IngestError> {
        let until = Instant::now() + timeout;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            let trouble = match self.inner.client().fetch_metadata(Some(&self.topic), left.min(CALL)) {
                Ok(metadata) => {
                    self.counters.connected.store(true, Ordering::Release);
                    lock(&self.counters.trouble).take();
                    match metadata.topics().first().map(|t| (t.error(), t.partitions().len())) {
                        Some((None, partitions)) if partitions > 0 => return Ok(partitions),
                        _ if !for_topic => return Ok(0),
                        Some((Some(error), _)) => {
                            let code = RDKafkaErrorCode::from(error);
                            if is_refusal(code) {
                                return Err(IngestError::Refused(explain(code)));
                            }
                            format!("topic `{}`: {code}", self.topic)
                        }
                        _ => format!("topic `{}` does not exist", self.topic),
                    }
                }
                Err(e) => e.to_string(),
            };
            if left.is_zero() {
                return Err(IngestError::Unreachable(trouble));
            }
            std::thread::sleep(Duration::from_millis(200).min(left));
        }
    }

    /// Puts a message into the queue. An empty key is none; without a time the broker or this machine's clock gives one.
    /// `false` if the queue is full.
    fn try_send(&self, key: &[u8], payload: &[u8], ts_ms: Option<i64>) -> Result<bool, IngestError> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).payload(payload);
        if !key.is_empty() {
            record = record.key(key);
        }
        if let Some(ms) = ts_ms {
            record = record.timestamp(ms);
        }
        match self.inner.send(record) {
            Ok(()) => {
                self.counters.sent.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                self.check()?;
                Ok(false)
            }
            Err((error, _)) => {
                self.check()?;
                Err(match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::MessageSizeTooLarge) => IngestError::Property {
                        name: "message.max.bytes".into(),
                        reason: format!("a message of {} bytes is larger", payload.len()),
                    },
                    _ => IngestError::from_client(&format!("sending to `{}`", self.topic), &error),
                })
            }
        }
    }

    fn check(&self) -> Result<(), IngestError> {
        lock(&self.counters.refused).clone().map_or(Ok(()), |why| Err(IngestError::Refused(why)))
    }

    /// Sends a message; waits while the queue is full. Messages with the same key keep their order.
    ///
    /// # Errors
    /// The message cannot be sent at all. What fails later is counted in [`Producer::delivery`].
    pub async fn send(&self, key: &[u8], payload: &[u8], ts_ms: Option<i64>) -> Result<(), IngestError> {
        while !self.try_send(key, payload, ts_ms)? {
            tokio::time::sleep(FULL).await;
        }
        Ok(())
    }

    /// [`Producer::send`] for threads that may block.
    ///
    /// # Errors
    /// As for `send`.
    pub fn send_blocking(&self, key: &[u8], payload: &[u8], ts_ms: Option<i64>) -> Result<(), IngestError> {
        while !self.try_send(key, payload, ts_ms)? {
            std::thread::sleep(FULL);
        }
        Ok(())
    }

    /// Waits until every message is delivered or has failed, at most this long. Blocks.
    ///
    /// # Errors
    /// [`IngestError::Unreachable`] if messages are left, [`IngestError::Refused`] if the broker will not have them.
    pub fn flush(&self, timeout: Duration) -> Result<Delivery, IngestError> {
        let until = Instant::now() + timeout;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            match self.inner.flush(left.min(Duration::from_millis(200))) {
                Ok(()) => break,
                Err(_) if left.is_zero() => {
                    let waits = lock(&self.counters.trouble).clone().unwrap_or_default();
                    return Err(IngestError::Unreachable(format!(
                        "{} messages are not delivered yet {waits}",
                        self.inner.in_flight_count()
                    )));
                }
                Err(_) => {}
            }
        }
        // flush() returns when the queue is empty; the last reports are counted by the polling thread a moment later.
        loop {
            let delivery = self.delivery();
            if delivery.delivered + delivery.failed >= delivery.sent || Instant::now() >= until {
                return Ok(delivery);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What became of the messages so far.
    pub fn delivery(&self) -> Delivery {
        let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Delivery {
            sent: count(&self.counters.sent),
            delivered: count(&self.counters.delivered),
            delivered_bytes: count(&self.counters.delivered_bytes),
            failed: count(&self.counters.failed),
            first_failure: lock(&self.counters.first_failure).clone(),
            waits_for: lock(&self.counters.refused).clone().or_else(|| lock(&self.counters.trouble).clone()),
        }
    }
}
