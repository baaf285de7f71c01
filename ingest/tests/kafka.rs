//! The consumer against a real Apache Kafka: what the embedded broker cannot show.
//!
//! `FLEETSCORE_TEST_KAFKA=127.0.0.1:9092 cargo test -p fleetscore -p fleetscore-ingest --test kafka -- --ignored`, and for
//! the refusals `FLEETSCORE_TEST_KAFKA_TLS=127.0.0.1:9094` (SASL_SSL, PLAIN), `FLEETSCORE_TEST_KAFKA_CA` (a file),
//! `FLEETSCORE_TEST_KAFKA_USER`, `FLEETSCORE_TEST_KAFKA_PASSWORD`.

#![allow(clippy::unwrap_used, reason = "a test")]

use fleetscore_ingest::admin::{Created, create_topic};
use fleetscore_ingest::{IngestError, KafkaOptions, KafkaSource, Producer, SourceHandle, StartAt};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::stream::{
    Command, GapKind, PartitionOffsets, ReadingSource, SourceEvent, StartPosition,
};
use fleetscore_schemas::time::Timestamp;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// The broker's time of message 0; message i comes i ms later. An hour ago: a broker deletes what is older than its
/// retention by these times.
fn t0_ms() -> i64 {
    static T0: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *T0.get_or_init(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_millis() as i64 - 3_600_000
    })
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn kafka() -> String {
    setting("FLEETSCORE_TEST_KAFKA")
}

/// A topic of its own for each test and run.
async fn topic(name: &str, partitions: i32) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let topic = format!("ingest-{name}-{}", now.as_micros());
    let created = create_topic(&kafka(), &BTreeMap::new(), &topic, partitions).await.unwrap();
    assert_eq!(created, Created::Created);
    topic
}

fn admin() -> AdminClient<rdkafka::client::DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", kafka()).create().unwrap()
}

fn options(topic: &str) -> KafkaOptions {
    let mut options = KafkaOptions::new(kafka(), vec![topic.into()], format!("group-{topic}"));
    options.properties.insert("session.timeout.ms".into(), "6000".into());
    options
}

fn produce(topic: &str, t0_ms: i64, range: std::ops::Range<i64>) {
    let producer = Producer::open(&kafka(), &BTreeMap::new(), topic).unwrap();
    producer.ready(PATIENCE).unwrap();
    for i in range {
        let payload = format!(r#"{{"device":"d{}","sensor":"s","ts":{},"value":{i}}}"#, i % 7, t0_ms + i);
        let key = format!("d{}", i % 7);
        producer.send_blocking(key.as_bytes(), payload.as_bytes(), Some(t0_ms + i)).unwrap();
    }
    let delivery = producer.flush(PATIENCE).unwrap();
    assert_eq!((delivery.delivered, delivery.failed), (delivery.sent, 0));
}

struct Member {
    source: KafkaSource,
    handle: SourceHandle,
}

impl Member {
    fn open(options: KafkaOptions) -> Self {
        let (source, handle) = KafkaSource::open(options).unwrap();
        Self { source, handle }
    }

    async fn next(&mut self) -> SourceEvent {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.source.next())
                .await
                .unwrap_or_else(|_| panic!("no event; {:?}", self.handle.snapshot()))
                .expect("the source goes on");
            if !matches!(event, SourceEvent::EndOffset { .. }) {
                return event;
            }
        }
    }

    async fn assigned(&mut self) -> (u64, Vec<TopicPartition>, Vec<PartitionOffsets>, String) {
        match self.next().await {
            SourceEvent::Assigned { assignment, cluster, partitions, offsets } => {
                (assignment, partitions, offsets, cluster)
            }
            other => panic!("{other:?}"),
        }
    }

    fn start(&self, assignment: u64, start: u64, positions: &[(TopicPartition, i64, Option<i64>)]) {
        let positions = positions
            .iter()
            .map(|(source, next_offset, ms)| StartPosition {
                source: source.clone(),
                next_offset: *next_offset,
                expect_broker_time: ms.map(|ms| Timestamp(ms * 1000)),
            })
            .collect();
        self.source.command(Command::Start { assignment, start, positions });
    }

    /// Values read until all these partitions have ended, and where each ended.
    async fn read(&mut self, partitions: &[TopicPartition]) -> (Vec<i64>, BTreeMap<TopicPartition, i64>) {
        let (mut values, mut ends) = (Vec::new(), BTreeMap::new());
        while ends.len() < partitions.len() {
            match self.next().await {
                SourceEvent::Batch(batch) => {
                    values.extend(batch.readings.value.values().iter().map(|v| *v as i64));
                }
                SourceEvent::EndOfPartition { source, offset, .. } => {
                    ends.insert(source, offset);
                }
                other => panic!("{other:?}"),
            }
        }
        values.sort_unstable();
        (values, ends)
    }

    async fn stop(mut self) {
        self.source.command(Command::Stop);
        let stopped = async { while self.source.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, stopped).await.expect("the source stops");
    }
}

#[tokio::test]
#[ignore = "needs FLEETSCORE_TEST_KAFKA"]
async fn a_topic_is_read_whole_and_by_time() {
    let topic = topic("whole", 3).await;
    assert_eq!(
        create_topic(&kafka(), &BTreeMap::new(), &topic, 3).await.unwrap(),
        Created::Existed { partitions: 3 }
    );
    produce(&topic, t0_ms(), 0..5000);
    let mut member = Member::open(options(&topic));
    let (assignment, partitions, _, cluster) = member.assigned().await;
    assert!(!cluster.is_empty());
    let all: Vec<_> = partitions.iter().map(|p| (p.clone(), 0, None)).collect();
    member.start(assignment, 1, &all);
    let (values, ends) = member.read(&partitions).await;
    assert_eq!(values, (0..5000).collect::<Vec<_>>());
    member.source.command(Command::CommitGroup { positions: ends.into_iter().collect() });
    member.stop().await;

    let mut by_time = options(&topic);
    by_time.start = StartAt::Time(Timestamp((t0_ms() + 4000) * 1000 - 999));
    let mut member = Member::open(by_time);
    let (assignment, partitions, offsets, again) = member.assigned().await;
    assert_eq!(again, cluster);
    let from: Vec<_> = offsets.iter().map(|o| (o.source.clone(), o.initial, None)).collect();
    member.start(assignment, 1, &from);
    assert_eq!(member.read(&partitions).await.0, (4000..5000).collect::<Vec<_>>());
    member.stop().await;

    let mut behind = options(&topic);
    behind.start = StartAt::Time(Timestamp((t0_ms() + 3_000_000) * 1000));
    let mut member = Member::open(behind);
    let (.., offsets, _) = member.assigned().await;
    assert!(offsets.iter().all(|o| o.initial == o.latest), "{offsets:?}");
    member.stop().await;
}

#[tokio::test]
#[ignore = "needs FLEETSCORE_TEST_KAFKA"]
async fn transactions_leave_gaps_and_the_end_is_behind_their_markers() {
    let topic = topic("txn", 1).await;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka())
        .set("transactional.id", format!("txn-{topic}"))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for (round, commit) in [true, false, true, false].into_iter().enumerate() {
        producer.begin_transaction().unwrap();
        for i in 0..10 {
            let payload =
                format!(r#"{{"device":"d","sensor":"s","ts":{},"value":{}}}"#, t0_ms(), round * 10 + i);
            producer
                .send(BaseRecord::<(), str>::to(&topic).payload(&payload).timestamp(t0_ms() + i as i64))
                .map_err(|e| e.0)
                .unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        if commit {
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            producer.abort_transaction(PATIENCE).unwrap();
        }
    }
    let mut member = Member::open(options(&topic));
    let (assignment, partitions, offsets, _) = member.assigned().await;
    assert_eq!(offsets[0].latest, 44);
    member.start(assignment, 1, &[(partitions[0].clone(), 0, None)]);
    let (values, ends) = member.read(&partitions).await;
    assert_eq!(values, (0..10).chain(20..30).collect::<Vec<_>>());
    assert_eq!(ends[&partitions[0]], 44, "past the aborted messages and the last marker");
    // The record before 44 is a marker: nothing to compare with, and no gap.
    member.start(assignment, 2, &[(partitions[0].clone(), 44, Some(t0_ms() + 9))]);
    assert!(member.read(&partitions).await.0.is_empty());
    member.stop().await;
}

#[tokio::test]
#[ignore = "needs FLEETSCORE_TEST_KAFKA"]
async fn a_second_member_shares_and_one_that_is_dropped_gives_back() {
    let topic = topic("share", 4).await;
    produce(&topic, t0_ms(), 0..2000);
    let mut first = Member::open(options(&topic));
    let (assignment, partitions, ..) = first.assigned().await;
    let all: Vec<_> = partitions.iter().map(|p| (p.clone(), 0, None)).collect();
    first.start(assignment, 1, &all);
    assert_eq!(first.read(&partitions).await.0.len(), 2000);
    // The second one joins while the first has not even been told to start again: it must not hold up the group.
    let mut second = Member::open(options(&topic));
    let since = Instant::now();
    match first.next().await {
        SourceEvent::Revoked { assignment: a, lost: false } => assert_eq!(a, assignment),
        other => panic!("{other:?}"),
    }
    first.source.command(Command::Released { assignment });
    let ((a1, p1, ..), (_, p2, ..)) = tokio::join!(first.assigned(), second.assigned());
    assert_eq!((p1.len(), p2.len()), (2, 2));
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    // Neither has been started, and the second one goes: the first hears of it all the same.
    drop(second);
    match first.next().await {
        SourceEvent::Revoked { assignment: a, .. } => assert_eq!(a, a1),
        other => panic!("{other:?}"),
    }
    first.source.command(Command::Released { assignment: a1 });
    assert_eq!(first.assigned().await.1.len(), 4);
    first.stop().await;
}

#[tokio::test]
#[ignore = "needs FLEETSCORE_TEST_KAFKA"]
async fn added_partitions_come_with_the_next_assignment() {
    let topic = topic("grows", 2).await;
    let mut options = options(&topic);
    options.properties.insert("topic.metadata.refresh.interval.ms".into(), "1000".into());
    options.start = StartAt::Latest;
    let mut member = Member::open(options);
    let (assignment, partitions, ..) = member.assigned().await;
    let all: Vec<_> = partitions.iter().map(|p| (p.clone(), 0, None)).collect();
    member.start(assignment, 1, &all);
    member.read(&partitions).await;
    let more = rdkafka::admin::NewPartitions::new(&topic, 5);
    admin().create_partitions([&more], &AdminOptions::new()).await.unwrap();
    produce(&topic, t0_ms(), 0..100);
    let mut seen = 0;
    let (assignment, offsets) = loop {
        match member.next().await {
            SourceEvent::Batch(batch) => seen += batch.readings.len(),
            SourceEvent::EndOfPartition { .. } => {}
            SourceEvent::Revoked { assignment, .. } => {
                member.source.command(Command::Released { assignment })
            }
            SourceEvent::Assigned { assignment, partitions, offsets, .. } => {
                assert_eq!(partitions.len(), 5);
                break (assignment, offsets);
            }
            other => panic!("{other:?}"),
        }
    };
    // Whoever keeps positions begins at the oldest offset of what was added, whatever `start` says.
    let from: Vec<_> = offsets
        .iter()
        .map(|o| (o.source.clone(), if o.source.partition < 2 { o.latest } else { o.earliest }, None))
        .collect();
    member.start(assignment, 2, &from);
    let added: Vec<_> = offsets.iter().map(|o| o.source.clone()).collect();
    let (values, _) = member.read(&added).await;
    assert_eq!(seen + values.len(), 100);
    assert!(!values.is_empty());
    member.stop().await;
}

#[tokio::test]
#[ignore = "needs FLEETSCORE_TEST_KAFKA"]
async fn records_deleted_under_the_reader_are_a_gap() {
    let topic = topic("deleted", 1).await;
    produce(&topic, t0_ms(), 0..100);
    let mut before = rdkafka::TopicPartitionList::new();
    before.add_partition_offset(&topic, 0, rdkafka::Offset::Offset(50)).unwrap();
    admin().delete_records(&before, &AdminOptions::new()).await.unwrap();
    let mut member = Member::open(options(&topic));
    let (assignment, partitions, offsets, _) = member.assigned().await;
    assert_eq!((offsets[0].earliest, offsets[0].initial), (50, 50));
    member.start(assignment, 1, &[(partitions[0].clone(), 20, Some(t0_ms() + 19))]);
    match member.next().await {
        SourceEvent::OffsetGap { wanted: 20, kind, .. } => {
            assert_eq!(kind, GapKind::OutOfRange { earliest: 50, latest: 100 });
        }
        other => panic!("{other:?}"),
    }
    member.start(assignment, 2, &[(partitions[0].clone(), 50, Some(t0_ms() + 49))]);
    assert_eq!(member.read(&partitions).await.0, (50..100).collect::<Vec<_>>());
    member.stop().await;
}

#[tokio::test]
#[ignore = "needs FLEETSCORE_TEST_KAFKA"]
async fn a_topic_deleted_and_made_again_under_the_reader_is_a_gap() {
    let topic = topic("anew", 1).await;
    produce(&topic, t0_ms(), 0..10);
    let mut member = Member::open(options(&topic));
    let (assignment, partitions, ..) = member.assigned().await;
    member.start(assignment, 1, &[(partitions[0].clone(), 0, None)]);
    member.read(&partitions).await;
    admin().delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(member.handle.snapshot().waits_for.is_some_and(|w| w.contains(&topic)));
    create_topic(&kafka(), &BTreeMap::new(), &topic, 1).await.unwrap();
    produce(&topic, t0_ms() + 1_000_000, 0..50);
    let mut start = 1;
    loop {
        match member.next().await {
            SourceEvent::OffsetGap { wanted: 10, kind: GapKind::Replaced { found, .. }, .. } => {
                assert_eq!(found, Some(Timestamp((t0_ms() + 1_000_009) * 1000)));
                break;
            }
            // Seen while the new topic was still empty: the same news.
            SourceEvent::OffsetGap { wanted: 10, kind: GapKind::OutOfRange { .. }, .. } => break,
            SourceEvent::Revoked { assignment, .. } => {
                member.source.command(Command::Released { assignment })
            }
            SourceEvent::Assigned { assignment, partitions, .. } if !partitions.is_empty() => {
                start += 1;
                member.start(assignment, start, &[(partitions[0].clone(), 10, Some(t0_ms() + 9))]);
            }
            SourceEvent::Assigned { .. } | SourceEvent::EndOfPartition { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    member.stop().await;
}

#[tokio::test]
#[ignore = "needs FLEETSCORE_TEST_KAFKA_TLS"]
async fn refused_credentials_and_unknown_authorities_end_the_source() {
    let (user, password) = (setting("FLEETSCORE_TEST_KAFKA_USER"), setting("FLEETSCORE_TEST_KAFKA_PASSWORD"));
    let ca = setting("FLEETSCORE_TEST_KAFKA_CA");
    let base = |extra: &[(&str, &str)]| {
        let mut options = KafkaOptions::new(setting("FLEETSCORE_TEST_KAFKA_TLS"), vec!["t".into()], "g");
        let all = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanisms", "PLAIN"),
            ("sasl.username", user.as_str()),
        ];
        for (name, value) in all.iter().chain(extra) {
            options.properties.insert(name.to_string(), value.to_string());
        }
        options
    };
    for (extra, word) in [
        ([("sasl.password", "hush-wrong"), ("ssl.ca.location", ca.as_str())], "credentials"),
        ([("sasl.password", password.as_str()), ("ssl.ca.location", "probe")], "TLS"),
    ] {
        let options = base(&extra);
        let properties = options.properties.clone();
        let mut member = Member::open(options);
        let since = Instant::now();
        match member.next().await {
            SourceEvent::Failed { message } => {
                assert!(message.starts_with("kafka: ") && message.contains(word), "{message}");
                assert!(!message.contains("hush"), "{message}");
                eprintln!("{message} after {:?}", since.elapsed());
            }
            other => panic!("{other:?}"),
        }
        assert!(member.source.next().await.is_none());
        let producer = Producer::open(&setting("FLEETSCORE_TEST_KAFKA_TLS"), &properties, "t").unwrap();
        let error = producer.ready(PATIENCE).unwrap_err();
        assert!(matches!(error, IngestError::Refused(_)), "{error}");
        let error =
            create_topic(&setting("FLEETSCORE_TEST_KAFKA_TLS"), &properties, "t", 1).await.unwrap_err();
        assert!(matches!(error, IngestError::Refused(_)), "{error}");
    }
    // And the right ones get in: all that is missing is the topic.
    let member = Member::open(base(&[("sasl.password", &password), ("ssl.ca.location", &ca)]));
    let deadline = Instant::now() + PATIENCE;
    while !member.handle.snapshot().waits_for.is_some_and(|w| w.contains("`t` does not exist")) {
        assert!(Instant::now() < deadline, "{:?}", member.handle.snapshot());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    member.stop().await;
}
