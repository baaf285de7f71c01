//! How fast messages come out of librdkafka: one by one, in batches as this crate reads them, and decoded.
//!
//! `cargo run -p fleetscore -p fleetscore-ingest --example consume_speed -- [BROKERS] [MILLIONS]`; without brokers an
//! embedded one is used, and less is read, as it keeps 5 MiB per partition.

use fleetscore_ingest::{EmbeddedBroker, KafkaOptions, KafkaSource, Producer};
use fleetscore_schemas::stream::{Command, ReadingSource, SourceEvent, StartPosition};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next();
    let embedded = match &brokers {
        None => Some(EmbeddedBroker::start("127.0.0.1:0".parse()?)?),
        Some(_) => None,
    };
    let bootstrap = match &embedded {
        Some(broker) => broker.bootstrap().to_string(),
        None => brokers.unwrap_or_default(),
    };
    let count: u64 = match arguments.next() {
        Some(millions) => (millions.parse::<f64>()? * 1e6) as u64,
        None => 1_000_000,
    };
    let topic = format!("speed-{}", std::process::id());
    match &embedded {
        Some(broker) => broker.create_topic(&topic, PARTITIONS)?,
        None => {
            fleetscore_ingest::admin::create_topic(&bootstrap, &BTreeMap::new(), &topic, PARTITIONS).await?;
        }
    }
    let producer = Producer::open(&bootstrap, &BTreeMap::new(), &topic)?;
    let since = Instant::now();
    for i in 0..count {
        let device = i % 10_000;
        let payload = format!(
            r#"{{"device":"d{device}","sensor":"temp","ts":"2026-01-01T00:{:02}:{:02}.{:03}Z","value":{}.5}}"#,
            i / 60_000 % 60,
            i / 1000 % 60,
            i % 1000,
            i % 97
        );
        producer.send(&device.to_le_bytes(), payload.as_bytes(), None).await?;
    }
    let delivery = tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(60))).await??;
    println!("produced {} messages: {}", delivery.delivered, rate(delivery.delivered, since));

    one_by_one(&bootstrap, &topic, count)?;
    ours(&bootstrap, &topic, count).await?;
    one_by_one(&bootstrap, &topic, count)?;
    ours(&bootstrap, &topic, count).await?;
    Ok(())
}

fn rate(count: u64, since: Instant) -> String {
    format!("{:.2} M/s", count as f64 / since.elapsed().as_secs_f64() / 1e6)
}

fn one_by_one(bootstrap: &str, topic: &str, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("group.id", "speed-one").create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Offset(0))?;
    }
    consumer.assign(&all)?;
    let (mut read, mut bytes, mut since) = (0, 0, Instant::now());
    while read < count {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            if read == 0 {
                since = Instant::now();
            }
            bytes += message?.payload().map_or(0, <[u8]>::len);
            read += 1;
        }
    }
    println!("BaseConsumer::poll, bytes counted: {} ({bytes} bytes)", rate(read, since));
    Ok(())
}

async fn ours(bootstrap: &str, topic: &str, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let options = KafkaOptions::new(bootstrap, vec![topic.into()], format!("speed-{:?}", Instant::now()));
    let (mut source, handle) = KafkaSource::open(options)?;
    let (mut read, mut batches, mut since) = (0, 0, Instant::now());
    while read < count {
        match source.next().await.ok_or("the source has ended")? {
            SourceEvent::Assigned { assignment, partitions, .. } => {
                let positions = partitions
                    .into_iter()
                    .map(|source| StartPosition { source, next_offset: 0, expect_broker_time: None })
                    .collect();
                source.command(Command::Start { assignment, start: 1, positions });
            }
            SourceEvent::Batch(batch) => {
                if read == 0 {
                    since = Instant::now();
                }
                read += batch.readings.len() as u64;
                batches += 1;
            }
            SourceEvent::Failed { message } => return Err(message.into()),
            _ => {}
        }
    }
    let bytes = handle.snapshot().bytes;
    println!("KafkaSource, decoded into columns: {} ({bytes} bytes, {batches} batches)", rate(read, since));
    source.command(Command::Stop);
    while source.next().await.is_some() {}
    Ok(())
}
