//! Messages into a topic.

use crate::messages::Batch;
use fleetscore_benchmarks::Result;
use fleetscore_harness::kafka::{Kafka, enqueue};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::time::{Duration, Instant};

/// Of each topic.
pub(crate) const PARTITIONS: usize = 8;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The longest that a broker keeps a transaction open, unless it is told otherwise.
const TRANSACTION_MS: &str = "900000";

/// A producer.
pub(crate) struct Filler {
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Filler {
    /// A producer; with the name of a transaction one whose messages are seen once it is committed.
    pub(crate) fn new(kafka: &Kafka, transaction: Option<&str>) -> Result<Self> {
        let mut config = kafka.config();
        config
            .set("linger.ms", "50")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.kbytes", "500000")
            .set("queue.buffering.max.messages", "2000000");
        if let Some(name) = transaction {
            config.set("transactional.id", name).set("transaction.timeout.ms", TRANSACTION_MS);
        }
        let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
        if transaction.is_some() {
            producer.init_transactions(PATIENCE)?;
            producer.begin_transaction()?;
        }
        Ok(Self { producer })
    }

    /// Sends all messages. Returns how many there are.
    pub(crate) fn send(&self, topic: &str, batches: &[Batch]) -> Result<u64> {
        let (begun, mut sent) = (Instant::now(), 0);
        for batch in batches {
            for m in 0..batch.messages.len() {
                let payload = batch.messages.message(m);
                // The device, as it stands in the message: some of the others need it as the key.
                let key = payload.split(|c| *c == b'"').nth(3).unwrap_or_default();
                let key = std::str::from_utf8(key)?;
                let record =
                    BaseRecord::to(topic).partition(batch.partition as i32).key(key).payload(payload);
                enqueue(&self.producer, record)?;
                sent += 1;
            }
        }
        self.producer.flush(PATIENCE)?;
        eprintln!("{sent} messages sent in {:.1} s", begun.elapsed().as_secs_f64());
        Ok(sent)
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// If there is none, or the broker does not commit it.
    pub(crate) fn commit(&self) -> Result<()> {
        Ok(self.producer.commit_transaction(PATIENCE)?)
    }
}
