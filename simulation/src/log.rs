//! The log of a topic, and the group that shares its partitions.

use crate::time::Instant;
use fleetscore_oracle::fleet::Message;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::stream::PartitionOffsets;
use fleetscore_schemas::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The one topic.
pub(crate) const TOPIC: &str = "readings";
/// A member that is not heard for so long is no member any more.
pub(crate) const SESSION: Duration = Duration::from_secs(3);

/// One partition of the topic.
pub(crate) fn partition(number: usize) -> TopicPartition {
    TopicPartition::new(TOPIC, number as i32)
}

/// One partition's records.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    /// By offset; `None` is an offset without a record: a transaction's marker, a compacted record.
    pub(crate) records: Vec<Option<Arc<Message>>>,
    /// When each offset came to be.
    appended: Vec<Instant>,
    /// Everything before is deleted.
    pub(crate) earliest: i64,
}

impl Partition {
    /// Adds an offset.
    pub(crate) fn append(&mut self, record: Option<Arc<Message>>) {
        self.records.push(record);
        self.appended.push(Instant::now());
    }

    /// One past the newest offset so long before a time.
    pub(crate) fn end_before(&self, time: Instant, long: Duration) -> i64 {
        self.appended.partition_point(|appended| *appended + long <= time) as i64
    }

    /// One past the newest offset.
    pub(crate) fn end(&self) -> i64 {
        self.records.len() as i64
    }
}

/// The broker's time of the record at an offset.
pub(crate) fn broker_time(offset: i64) -> Timestamp {
    Timestamp(1_767_000_000_000_000 + offset * 1_000)
}

/// The topic.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// By number.
    pub(crate) partitions: Vec<Partition>,
}

impl Log {
    /// All partitions with their offsets, as a broker tells them.
    pub(crate) fn offsets(&self) -> Vec<PartitionOffsets> {
        self.partitions
            .iter()
            .enumerate()
            .map(|(p, log)| PartitionOffsets {
                source: partition(p),
                earliest: log.earliest,
                latest: log.end(),
                initial: log.earliest,
            })
            .collect()
    }
}

/// What a member learns when it asks its coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing new.
    Steady,
    /// Somebody has come or gone: give up what you have, and join again.
    Rejoin,
    /// You have these from now on.
    Granted(Vec<usize>),
    /// You were silent for too long; others have your partitions.
    Unknown,
}

#[derive(Debug)]
struct Member {
    seen: Instant,
    /// Whether it has joined the generation in the making.
    joined: bool,
    /// What it was granted and has not been told yet.
    news: Option<Vec<usize>>,
}

/// The coordinator of a consumer group, eager: every rebalance takes everything from everybody first.
#[derive(Debug, Default)]
pub(crate) struct Group {
    members: BTreeMap<u64, Member>,
    rebalancing: bool,
}

impl Group {
    /// A member joins, or joins again after it has given up what it had.
    pub(crate) fn join(&mut self, id: u64) {
        let known = self.members.get(&id).is_some_and(|m| !m.joined && self.rebalancing);
        self.members.insert(id, Member { seen: Instant::now(), joined: true, news: None });
        if !known {
            self.start_over(id);
        }
    }

    /// A member leaves in good order.
    pub(crate) fn leave(&mut self, id: u64) {
        if self.members.remove(&id).is_some() {
            self.start_over(0);
        }
    }

    /// Everybody joins again, but for one who just has.
    pub(crate) fn start_over(&mut self, joined: u64) {
        self.rebalancing = true;
        for (id, member) in &mut self.members {
            member.joined = *id == joined;
            member.news = None;
        }
    }

    /// A member shows that it lives, and asks.
    pub(crate) fn heartbeat(&mut self, id: u64, partitions: usize) -> Word {
        self.expire();
        let Some(member) = self.members.get_mut(&id) else { return Word::Unknown };
        member.seen = Instant::now();
        if self.rebalancing {
            if !member.joined {
                return Word::Rejoin;
            }
            self.settle(partitions);
        }
        match self.members.get_mut(&id).and_then(|m| m.news.take()) {
            Some(granted) => Word::Granted(granted),
            None => Word::Steady,
        }
    }

    /// Members that were silent for too long are out.
    fn expire(&mut self) {
        let before = self.members.len();
        self.members.retain(|_, m| m.seen.elapsed() < SESSION);
        if self.members.len() != before {
            self.start_over(0);
        }
    }

    /// When everybody has joined, partitions are dealt out in ranges.
    fn settle(&mut self, partitions: usize) {
        if !self.members.values().all(|m| m.joined) {
            return;
        }
        self.rebalancing = false;
        let count = self.members.len();
        for (i, member) in self.members.values_mut().enumerate() {
            member.news = Some((i * partitions / count..(i + 1) * partitions / count).collect());
        }
    }
}
