//! The consumer against the embedded broker: assignment, positions, gaps, ends, back-pressure, rebalances.

#![allow(clippy::unwrap_used, reason = "a test")]

use fleetscore_ingest::{EmbeddedBroker, KafkaOptions, KafkaSource, Producer, SourceHandle, StartAt};
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::{ReadingBatch, TopicPartition};
use fleetscore_schemas::stream::{
    Command, GapKind, PartitionOffsets, ReadingSource, SourceEvent, StartPosition,
};
use fleetscore_schemas::time::Timestamp;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TOPIC: &str = "readings";
/// Milliseconds of 2026-01-01T00:00:00Z: the broker's time of message 0; message i comes i ms later.
const T0_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(30);

fn broker(partitions: i32) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start("127.0.0.1:0".parse().unwrap()).unwrap();
    broker.create_topic(TOPIC, partitions).unwrap();
    broker
}

fn options(broker: &EmbeddedBroker, group: &str) -> KafkaOptions {
    let mut options = KafkaOptions::new(broker.bootstrap(), vec![TOPIC.into()], group);
    options.cluster = Some(broker.cluster_id().into());
    options.properties.insert("session.timeout.ms".into(), "6000".into());
    options.properties.insert("heartbeat.interval.ms".into(), "200".into());
    options
}

/// Sends payloads in order; the keyless ones of one partition topics keep it.
fn produce<'p>(broker: &EmbeddedBroker, payloads: impl IntoIterator<Item = (&'p str, String)>) {
    produce_at(broker, T0_MS, payloads);
}

fn produce_at<'p>(
    broker: &EmbeddedBroker,
    t0_ms: i64,
    payloads: impl IntoIterator<Item = (&'p str, String)>,
) {
    let producer = Producer::open(broker.bootstrap(), &BTreeMap::new(), TOPIC).unwrap();
    producer.ready(PATIENCE).unwrap();
    for (i, (key, payload)) in payloads.into_iter().enumerate() {
        producer.send_blocking(key.as_bytes(), payload.as_bytes(), Some(t0_ms + i as i64)).unwrap();
    }
    let delivery = producer.flush(PATIENCE).unwrap();
    assert_eq!((delivery.failed, delivery.delivered), (0, delivery.sent), "{delivery:?}");
}

fn reading(device: &str, i: usize) -> String {
    format!(r#"{{"device":"{device}","sensor":"temp","ts":"2026-01-01T00:00:00.{:06}Z","value":{i}}}"#, i)
}

/// What an aggregator would know, and the events that were not asked for.
struct Member {
    source: KafkaSource,
    handle: SourceHandle,
    ends: BTreeMap<TopicPartition, i64>,
}

impl Member {
    fn open(options: KafkaOptions) -> Self {
        let (source, handle) = KafkaSource::open(options).unwrap();
        Self { source, handle, ends: BTreeMap::new() }
    }

    /// The next event that is no end offset.
    async fn next(&mut self) -> SourceEvent {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.source.next())
                .await
                .unwrap_or_else(|_| panic!("no event; {:?}", self.handle.snapshot()))
                .expect("the source goes on");
            match event {
                SourceEvent::EndOffset { source, offset, .. } => {
                    self.ends.insert(source, offset);
                }
                event => return event,
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

    fn start(&self, assignment: u64, start: u64, positions: &[(TopicPartition, i64, Option<Timestamp>)]) {
        let positions = positions
            .iter()
            .map(|(source, next_offset, expect_broker_time)| StartPosition {
                source: source.clone(),
                next_offset: *next_offset,
                expect_broker_time: *expect_broker_time,
            })
            .collect();
        self.source.command(Command::Start { assignment, start, positions });
    }

    /// Batches until every partition's end is reached; checks that they follow each other.
    async fn read_to_the_ends(
        &mut self,
        start: u64,
        mut next: BTreeMap<TopicPartition, i64>,
    ) -> Vec<ReadingBatch> {
        let mut open: Vec<TopicPartition> = next.keys().cloned().collect();
        let mut batches = Vec::new();
        while !open.is_empty() {
            match self.next().await {
                SourceEvent::Batch(batch) => {
                    assert_eq!(batch.start, start);
                    assert_eq!(batch.from, next[&batch.source], "{batch:?}");
                    assert_eq!(batch.to, batch.messages.offsets.last().unwrap() + 1);
                    next.insert(batch.source.clone(), batch.to);
                    batches.push(*batch);
                }
                SourceEvent::EndOfPartition { start: s, source, offset } => {
                    assert_eq!(s, start);
                    assert_eq!(offset, next[&source], "the end comes after the messages before it");
                    open.retain(|p| *p != source);
                }
                other => panic!("{other:?}"),
            }
        }
        batches
    }

    async fn stop(mut self) {
        self.source.command(Command::Stop);
        let stopped = async { while self.source.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, stopped).await.expect("the source stops");
    }
}

type Granted = (u64, Vec<TopicPartition>, Vec<PartitionOffsets>);

/// Follows rebalances until both members have an assignment. (The mock refuses a member that is late with its second
/// request, which then joins once more.)
async fn settle(first: &mut Member, second: &mut Member) -> (Granted, Granted) {
    let mut granted: [Option<Granted>; 2] = [None, None];
    loop {
        granted = match granted {
            [Some(one), Some(two)] => return (one, two),
            not_yet => not_yet,
        };
        let (who, event) = tokio::select! {
            event = first.next() => (0, event),
            event = second.next() => (1, event),
        };
        match event {
            SourceEvent::Assigned { assignment, partitions, offsets, .. } => {
                granted[who] = Some((assignment, partitions, offsets));
            }
            SourceEvent::Revoked { assignment, .. } => {
                granted[who] = None;
                let member = if who == 0 { &first } else { &second };
                member.source.command(Command::Released { assignment });
            }
            other => panic!("{other:?}"),
        }
    }
}

fn p0() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

#[tokio::test]
async fn everything_is_read_once_from_the_given_positions_on() {
    let broker = broker(4);
    produce(&broker, (0..1000).map(|i| (["a", "b", "c", "d", "e", "f"][i % 6], reading("d", i))));
    let mut member = Member::open(options(&broker, "g"));
    let (assignment, partitions, offsets, cluster) = member.assigned().await;
    assert_eq!(cluster, broker.cluster_id());
    assert_eq!(partitions.len(), 4);
    assert_eq!(offsets.len(), 4);
    assert_eq!(offsets.iter().map(|o| o.latest).sum::<i64>(), 1000);
    assert!(offsets.iter().all(|o| o.earliest == 0 && o.initial == 0), "{offsets:?}");

    let all: Vec<_> = partitions.iter().map(|p| (p.clone(), 0, None)).collect();
    member.start(assignment, 1, &all);
    let from = all.iter().map(|(p, n, _)| (p.clone(), *n)).collect();
    let batches = member.read_to_the_ends(1, from).await;
    let mut values: Vec<i64> =
        batches.iter().flat_map(|b| b.readings.value.values().iter().map(|v| *v as i64)).collect();
    values.sort_unstable();
    assert_eq!(values, (0..1000).collect::<Vec<i64>>());
    assert!(member.handle.snapshot().in_flight_bytes > 0, "the batches are still held");
    drop(batches);

    // Again in the same assignment, from elsewhere: everything of the earlier start is void.
    let half: Vec<_> = offsets.iter().map(|o| (o.source.clone(), o.latest / 2, None)).collect();
    member.start(assignment, 2, &half);
    let from = half.iter().map(|(p, n, _)| (p.clone(), *n)).collect();
    let batches = member.read_to_the_ends(2, from).await;
    let wanted: i64 = offsets.iter().map(|o| o.latest - o.latest / 2).sum();
    assert_eq!(batches.iter().map(|b| b.readings.len() as i64).sum::<i64>(), wanted);

    // The end offsets come by themselves, and the statistics agree.
    let deadline = Instant::now() + PATIENCE;
    while member.ends.len() < 4 {
        assert!(Instant::now() < deadline);
        let _ = tokio::time::timeout(Duration::from_millis(200), member.next()).await;
    }
    assert!(offsets.iter().all(|o| member.ends[&o.source] == o.latest));
    let snapshot = member.handle.snapshot();
    assert_eq!(snapshot.readings, 1000 + wanted as u64);
    assert!(snapshot.partitions.iter().all(|p| p.lag == Some(0)), "{snapshot:?}");
    assert_eq!(snapshot.waits_for, None);
    drop(batches);
    assert_eq!(member.handle.snapshot().in_flight_bytes, 0);
    member.stop().await;
}

#[tokio::test]
async fn latest_begins_behind_what_is_there_and_later_messages_follow() {
    let broker = broker(1);
    produce(&broker, (0..10).map(|i| ("k", reading("d", i))));
    let mut o = options(&broker, "g");
    o.start = StartAt::Latest;
    let mut member = Member::open(o);
    let (assignment, _, offsets, _) = member.assigned().await;
    assert_eq!((offsets[0].initial, offsets[0].latest), (10, 10));
    member.start(assignment, 1, &[(p0(), 10, None)]);
    assert!(member.read_to_the_ends(1, BTreeMap::from([(p0(), 10)])).await.is_empty());
    produce(&broker, (10..15).map(|i| ("k", reading("d", i))));
    let mut got = 0;
    while got < 5 {
        match member.next().await {
            SourceEvent::Batch(batch) => {
                assert_eq!(batch.from, 10 + got);
                got += batch.readings.len() as i64;
            }
            SourceEvent::EndOfPartition { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    member.stop().await;
}

#[tokio::test]
async fn the_record_before_the_position_tells_a_topic_made_anew() {
    let broker = broker(1);
    produce(&broker, (0..10).map(|i| ("k", reading("d", i))));
    let time = |i: i64| Some(Timestamp((T0_MS + i) * 1000));
    let mut member = Member::open(options(&broker, "g"));
    let (assignment, ..) = member.assigned().await;

    // The right record: nothing before the position is handed on.
    member.start(assignment, 1, &[(p0(), 6, time(5))]);
    let batches = member.read_to_the_ends(1, BTreeMap::from([(p0(), 6)])).await;
    assert_eq!(batches.iter().flat_map(|b| b.messages.offsets.clone()).collect::<Vec<_>>(), [6, 7, 8, 9]);
    assert_eq!(batches.last().unwrap().last_broker_time, time(9));

    // At the very end, where only the record before the position is there.
    member.start(assignment, 2, &[(p0(), 10, time(9))]);
    assert!(member.read_to_the_ends(2, BTreeMap::from([(p0(), 10)])).await.is_empty());

    // Another record.
    member.start(assignment, 3, &[(p0(), 6, time(4))]);
    match member.next().await {
        SourceEvent::OffsetGap { start: 3, source, wanted: 6, kind } => {
            assert_eq!(source, p0());
            assert_eq!(kind, GapKind::Replaced { found: time(5), earliest: 0, latest: 10 });
        }
        other => panic!("{other:?}"),
    }
    // Nothing comes from it until the next start.
    assert!(tokio::time::timeout(Duration::from_millis(800), member.next()).await.is_err());

    // Behind the end.
    member.start(assignment, 4, &[(p0(), 11, None)]);
    match member.next().await {
        SourceEvent::OffsetGap { start: 4, wanted: 11, kind, .. } => {
            assert_eq!(kind, GapKind::OutOfRange { earliest: 0, latest: 10 });
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(member.handle.snapshot().offset_gaps, 2);
    member.start(assignment, 5, &[(p0(), 0, None)]);
    let batches = member.read_to_the_ends(5, BTreeMap::from([(p0(), 0)])).await;
    assert_eq!(batches.iter().map(|b| b.readings.len()).sum::<usize>(), 10);
    member.stop().await;
}

#[tokio::test]
async fn what_the_broker_has_dropped_is_a_gap() {
    // A partition of the embedded broker keeps its newest 5 MiB.
    let broker = broker(1);
    let long = "x".repeat(100_000);
    produce(
        &broker,
        (0..100).map(|i| {
            ("k", format!(r#"{{"device":"d","sensor":"s","ts":{T0_MS},"value":{i},"note":"{long}"}}"#))
        }),
    );
    let mut member = Member::open(options(&broker, "g"));
    let (assignment, _, offsets, _) = member.assigned().await;
    let earliest = offsets[0].earliest;
    assert!(earliest > 0 && offsets[0].initial == earliest, "{offsets:?}");
    member.start(assignment, 1, &[(p0(), 3, None)]);
    match member.next().await {
        SourceEvent::OffsetGap { wanted: 3, kind, .. } => {
            assert_eq!(kind, GapKind::OutOfRange { earliest, latest: 100 });
        }
        other => panic!("{other:?}"),
    }
    // The record before the oldest one is gone, so it cannot be compared; that is no gap.
    member.start(assignment, 2, &[(p0(), earliest, Some(Timestamp(1)))]);
    let batches = member.read_to_the_ends(2, BTreeMap::from([(p0(), earliest)])).await;
    assert_eq!(batches.iter().map(|b| b.readings.len() as i64).sum::<i64>(), 100 - earliest);
    drop(batches);

    // Dropped while the reader waits for its budget: noticed when it goes on.
    let mut o = options(&broker, "g2");
    o.max_in_flight_bytes = 300_000;
    o.properties.insert("queued.max.messages.kbytes".into(), "200".into());
    o.properties.insert("fetch.max.bytes".into(), "200000".into());
    o.properties.insert("fetch.message.max.bytes".into(), "200000".into());
    o.properties.insert("message.max.bytes".into(), "200000".into());
    let mut slow = Member::open(o);
    let (assignment, ..) = slow.assigned().await;
    slow.start(assignment, 1, &[(p0(), earliest, None)]);
    let mut held = Vec::new();
    let mut position = earliest;
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), slow.next()).await {
        match event {
            SourceEvent::Batch(batch) => {
                position = batch.to;
                held.push(batch);
            }
            other => panic!("{other:?}"),
        }
    }
    produce(
        &broker,
        (0..100).map(|i| {
            ("k", format!(r#"{{"device":"d","sensor":"s","ts":{T0_MS},"value":{i},"note":"{long}"}}"#))
        }),
    );
    drop(held);
    loop {
        match slow.next().await {
            SourceEvent::Batch(batch) => {
                assert_eq!(batch.from, position);
                position = batch.to;
            }
            SourceEvent::OffsetGap { wanted, kind: GapKind::OutOfRange { earliest, latest }, .. } => {
                assert_eq!(wanted, position);
                assert!(earliest > position && latest == 200, "{earliest}..{latest}, at {position}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    slow.stop().await;
    member.stop().await;
}

#[tokio::test]
async fn bad_records_keep_their_place_and_tombstones_count() {
    let broker = broker(1);
    let payloads = [
        reading("d", 0),
        "{".into(),
        String::new(),
        format!("[{},{},{}]", reading("d", 1), r#"{"device":"d"}"#, reading("d", 2)),
        "\u{feff}nonsense".into(),
        reading("d", 3),
    ];
    produce(&broker, payloads.iter().map(|p| ("k", p.clone())));
    // A tombstone has no payload at all, which only librdkafka's own producer can say.
    let tombstone: rdkafka::producer::BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", broker.bootstrap()).create().unwrap();
    tombstone
        .send(rdkafka::producer::BaseRecord::<[u8], [u8]>::to(TOPIC).key(b"k"))
        .map_err(|e| e.0)
        .unwrap();
    rdkafka::producer::Producer::flush(&tombstone, PATIENCE).unwrap();

    let mut member = Member::open(options(&broker, "g"));
    let (assignment, ..) = member.assigned().await;
    member.start(assignment, 1, &[(p0(), 0, None)]);
    let batches = member.read_to_the_ends(1, BTreeMap::from([(p0(), 0)])).await;
    let values: Vec<f64> = batches.iter().flat_map(|b| b.readings.value.values().to_vec()).collect();
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0]);
    let bad: Vec<(i64, i32, DeadLetterCode, Vec<u8>)> = batches
        .iter()
        .flat_map(|b| {
            b.bad.iter().map(|r| {
                let offset = b.messages.offsets[r.span.message as usize];
                (offset, r.span.position, r.code, b.messages.bytes(r.span).to_vec())
            })
        })
        .collect();
    assert_eq!(
        bad,
        [
            (1, -1, DeadLetterCode::Syntax, b"{".to_vec()),
            (2, -1, DeadLetterCode::Empty, vec![]),
            (3, 1, DeadLetterCode::MissingField, br#"{"device":"d"}"#.to_vec()),
            (4, -1, DeadLetterCode::Syntax, payloads[4].as_bytes().to_vec()),
            (6, -1, DeadLetterCode::Tombstone, vec![]),
        ]
    );
    let snapshot = member.handle.snapshot();
    assert_eq!((snapshot.messages, snapshot.readings, snapshot.bad_records), (7, 4, 5));
    member.stop().await;
}

#[tokio::test]
async fn reading_rests_while_the_budget_is_spent_and_membership_does_not() {
    let broker = broker(2);
    let pad = "y".repeat(900);
    let payload =
        |i: usize| format!(r#"{{"device":"d","sensor":"s","ts":{T0_MS},"value":{i},"note":"{pad}"}}"#);
    produce(&broker, (0..4000).map(|i| (["a", "b", "c", "d"][i % 4], payload(i))));
    let mut o = options(&broker, "g");
    o.max_in_flight_bytes = 200_000;
    o.properties.insert("max.poll.interval.ms".into(), "6000".into());
    let mut member = Member::open(o);
    let (assignment, partitions, ..) = member.assigned().await;
    let all: Vec<_> = partitions.iter().map(|p| (p.clone(), 0, None)).collect();
    member.start(assignment, 1, &all);

    // Batches are held for longer than the poll interval: no more comes, and the member is not thrown out.
    let mut held = Vec::new();
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(8), member.next()).await {
        match event {
            SourceEvent::Batch(batch) => held.push(batch),
            other => panic!("{other:?}"),
        }
    }
    let in_flight = member.handle.snapshot().in_flight_bytes;
    assert!((200_000..600_000).contains(&in_flight), "{in_flight}");
    let mut read: usize = held.iter().map(|b| b.readings.len()).sum();
    assert!(read < 1000, "{read}");
    drop(held);
    let mut ends = 0;
    while ends < 2 {
        match member.next().await {
            SourceEvent::Batch(batch) => read += batch.readings.len(),
            SourceEvent::EndOfPartition { .. } => ends += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read, 4000);
    assert_eq!(member.handle.snapshot().in_flight_bytes, 0);
    member.stop().await;
}

#[tokio::test]
async fn a_second_member_takes_its_share_after_the_first_has_let_go() {
    let broker = broker(4);
    produce(&broker, (0..400).map(|i| (["a", "b", "c", "d", "e", "f"][i % 6], reading("d", i))));
    let mut first = Member::open(options(&broker, "g"));
    let (assignment, partitions, offsets, _) = first.assigned().await;
    assert_eq!(partitions.len(), 4);
    let latest: BTreeMap<TopicPartition, i64> =
        offsets.iter().map(|o| (o.source.clone(), o.latest)).collect();
    let all: Vec<_> = partitions.iter().map(|p| (p.clone(), 0, None)).collect();
    first.start(assignment, 1, &all);
    first.read_to_the_ends(1, all.iter().map(|(p, n, _)| (p.clone(), *n)).collect()).await;
    first.source.command(Command::CommitGroup { positions: latest.clone().into_iter().collect() });

    let mut second = Member::open(options(&broker, "g"));
    match first.next().await {
        SourceEvent::Revoked { assignment: a, lost: false } => assert_eq!(a, assignment),
        other => panic!("{other:?}"),
    }
    // A start for an assignment that has ended is ignored.
    first.start(assignment, 2, &all);
    first.source.command(Command::Released { assignment });

    let ((a1, p1, _), (a2, p2, o2)) = settle(&mut first, &mut second).await;
    assert!(a1 > assignment);
    assert_eq!((p1.len(), p2.len()), (2, 2));
    assert_eq!(o2.len(), 4, "offsets come for all partitions, granted or not");
    let mut both: Vec<_> = p1.iter().chain(&p2).cloned().collect();
    both.sort();
    assert_eq!(
        both,
        partitions.iter().cloned().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );

    let from = |ps: &[TopicPartition]| ps.iter().map(|p| (p.clone(), 0, None)).collect::<Vec<_>>();
    let zero = |ps: &[TopicPartition]| ps.iter().map(|p| (p.clone(), 0)).collect();
    first.start(a1, 3, &from(&p1));
    second.start(a2, 1, &from(&p2));
    let (b1, b2) = tokio::join!(first.read_to_the_ends(3, zero(&p1)), second.read_to_the_ends(1, zero(&p2)));
    let read = |bs: &[ReadingBatch]| bs.iter().map(|b| b.readings.len()).sum::<usize>();
    assert_eq!(read(&b1) + read(&b2), 400);

    // The second one leaves, and the first one takes over without waiting for a session to expire.
    let left = Instant::now();
    second.stop().await;
    match first.next().await {
        SourceEvent::Revoked { assignment: a, lost: false } => assert_eq!(a, a1),
        other => panic!("{other:?}"),
    }
    assert!(left.elapsed() < Duration::from_secs(3), "{:?}", left.elapsed());
    first.source.command(Command::Released { assignment: a1 });
    let (_, p, ..) = first.assigned().await;
    assert_eq!(p.len(), 4);
    first.stop().await;
}

#[tokio::test]
async fn a_revoke_goes_on_without_an_answer() {
    let broker = broker(2);
    let mut first = Member::open(options(&broker, "g"));
    let (assignment, ..) = first.assigned().await;
    let mut second = Member::open(options(&broker, "g"));
    match first.next().await {
        SourceEvent::Revoked { assignment: a, .. } => assert_eq!(a, assignment),
        other => panic!("{other:?}"),
    }
    let (one, two) = settle(&mut first, &mut second).await;
    assert_eq!((one.1.len(), two.1.len()), (1, 1));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_missing_topic_is_waited_for_and_named() {
    let broker = EmbeddedBroker::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut member = Member::open(options(&broker, "g"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let waits = member.handle.snapshot().waits_for;
        if waits.as_ref().is_some_and(|w| w.contains("`readings` does not exist")) {
            break;
        }
        assert!(Instant::now() < deadline, "{waits:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.create_topic(TOPIC, 3).unwrap();
    assert_eq!(member.assigned().await.1.len(), 3);
    assert_eq!(member.handle.snapshot().waits_for, None);
    member.stop().await;
}

#[tokio::test]
async fn an_unreachable_broker_is_waited_for_and_found_later() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut member = Member::open(KafkaOptions::new(address.to_string(), vec![TOPIC.into()], "g"));
    let deadline = Instant::now() + PATIENCE;
    while member.handle.snapshot().waits_for.is_none() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let broker = EmbeddedBroker::start(address).unwrap();
    broker.create_topic(TOPIC, 1).unwrap();
    assert_eq!(member.assigned().await.1, [p0()]);
    assert_eq!(member.handle.snapshot().waits_for, None);
    member.stop().await;

    // And one that never comes does not keep the source from stopping.
    let member = Member::open(KafkaOptions::new("127.0.0.1:1", vec![TOPIC.into()], "g"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stopping = Instant::now();
    member.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(8), "{:?}", stopping.elapsed());
}

#[tokio::test]
async fn a_broker_that_goes_away_and_comes_back_empty_is_a_gap() {
    let first = broker(1);
    let address = first.address();
    produce(&first, (0..10).map(|i| ("k", reading("d", i))));
    let mut member = Member::open(options(&first, "g"));
    let (assignment, ..) = member.assigned().await;
    member.start(assignment, 1, &[(p0(), 0, None)]);
    member.read_to_the_ends(1, BTreeMap::from([(p0(), 0)])).await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = EmbeddedBroker::start(address).unwrap();
    second.create_topic(TOPIC, 1).unwrap();
    produce_at(&second, T0_MS + 50_000, (0..20).map(|i| ("k", reading("e", i))));
    // Either the group's membership is found lost first, or the log is: no message of the new one may pass as the old
    // one's eleventh.
    let mut starts = 1;
    loop {
        match member.next().await {
            SourceEvent::OffsetGap { wanted: 10, kind: GapKind::Replaced { found, .. }, .. } => {
                assert_eq!(found, Some(Timestamp((T0_MS + 50_009) * 1000)));
                break;
            }
            // Looked at before the new one's messages were there.
            SourceEvent::OffsetGap {
                wanted: 10,
                kind: GapKind::OutOfRange { earliest: 0, latest: 0..10 },
                ..
            } => break,
            SourceEvent::Revoked { assignment, .. } => {
                member.source.command(Command::Released { assignment });
            }
            SourceEvent::Assigned { assignment, .. } => {
                starts += 1;
                member.start(assignment, starts, &[(p0(), 10, Some(Timestamp((T0_MS + 9) * 1000)))]);
            }
            SourceEvent::EndOfPartition { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    member.stop().await;
}
