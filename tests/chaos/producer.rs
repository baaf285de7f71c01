//! Sends the fleet's messages over the time that the faults take; reads them back at the end.

use super::site::{PRODUCER, Site};
use crate::scenario::PATIENCE;
use fleetscore_harness::kafka::enqueue;
use fleetscore_oracle::fleet::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A header that says which message it is: payloads may be alike.
const NUMBER: &str = "n";

/// Counts what the brokers have confirmed.
#[derive(Default)]
struct Deliveries {
    confirmed: AtomicU64,
    refused: AtomicU64,
}

#[derive(Clone, Default)]
struct Context(Arc<Deliveries>);

impl ClientContext for Context {
    // Brokers come and go: librdkafka's complaints are no news.
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.0.confirmed } else { &self.0.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A producer at work.
pub struct Sender {
    producer: ThreadedProducer<Context>,
    context: Context,
    sent: u64,
}

impl Sender {
    pub fn new(site: &Site) -> Self {
        let context = Context::default();
        let producer = site
            .cluster
            .plain(PRODUCER)
            .config()
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("message.timeout.ms", "0") // for as long as it takes
            .set("socket.timeout.ms", "8000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("retry.backoff.max.ms", "500")
            .create_with_context(context.clone())
            .expect("a producer");
        Self { producer, context, sent: 0 }
    }

    /// Sends all messages, evenly over so long.
    pub fn send(&mut self, topic: &str, messages: &[Message], over: Duration) -> Result<(), String> {
        let begun = Instant::now();
        for (n, message) in messages.iter().enumerate() {
            let due = over.mul_f64(n as f64 / messages.len() as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            let number = n.to_string();
            let header = Header { key: NUMBER, value: Some(&number) };
            let mut record = BaseRecord::to(topic)
                .key(message.key.as_str())
                .partition(message.partition as i32)
                .headers(OwnedHeaders::new().insert(header));
            if let Some(payload) = message.value() {
                record = record.payload(payload);
            }
            enqueue(&self.producer, record)
                .map_err(|e| format!("the producer gave up at message {n}: {e}"))?;
            self.sent += 1;
        }
        Ok(())
    }

    /// Waits until all that was sent is confirmed.
    pub fn finish(&self, at_most: Duration) -> Result<u64, String> {
        let flushed = self.producer.flush(at_most);
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (confirmed, refused) = (of(&self.context.0.confirmed), of(&self.context.0.refused));
        match flushed {
            Ok(()) if confirmed == self.sent && refused == 0 => Ok(confirmed),
            other => {
                Err(format!("{confirmed} of {} messages are stored, {refused} refused: {other:?}", self.sent))
            }
        }
    }
}

/// A message of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    pub partition: u32,
    pub offset: i64,
    /// Which of the sent messages it is.
    pub number: usize,
}

fn consumer(site: &Site) -> BaseConsumer {
    let mut config = site.cluster.plain(PRODUCER).config();
    config.set("group.id", "reader").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.create().expect("a consumer")
}

/// End offsets of all partitions.
pub fn end_offsets(site: &Site, partitions: u32) -> Result<Vec<i64>, String> {
    let consumer = consumer(site);
    let ask = |p| consumer.fetch_watermarks(&site.topic, p as i32, Duration::from_secs(10)).map(|w| w.1);
    (0..partitions).map(ask).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// Everything in the topic, by a plain consumer, in the order of each partition.
pub fn read_back(site: &Site, ends: &[i64], sent: &[Message]) -> Result<Vec<Stored>, String> {
    let consumer = consumer(site);
    let mut list = TopicPartitionList::new();
    for partition in 0..ends.len() {
        list.add_partition_offset(&site.topic, partition as i32, Offset::Beginning)
            .map_err(|e| e.to_string())?;
    }
    consumer.assign(&list).map_err(|e| e.to_string())?;
    let (mut stored, begun, mut at_end) = (Vec::new(), Instant::now(), BTreeSet::new());
    while at_end.len() < ends.len() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{} messages read back in {PATIENCE:?}, not all", stored.len()));
        }
        let message = match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                at_end.insert(partition);
                continue;
            }
            // Nothing yet, or something that passes.
            Some(Err(_)) | None => continue,
        };
        let header = message.headers().and_then(|h| h.iter().find(|h| h.key == NUMBER)?.value);
        let number = header.and_then(|v| std::str::from_utf8(v).ok()?.parse::<usize>().ok());
        let number =
            number.filter(|n| *n < sent.len()).ok_or("a message in the topic that was never sent")?;
        if message.payload() != sent[number].value() {
            return Err(format!("message {number} came back with another payload"));
        }
        stored.push(Stored { partition: message.partition() as u32, offset: message.offset(), number });
    }
    stored.sort_unstable();
    Ok(stored)
}
