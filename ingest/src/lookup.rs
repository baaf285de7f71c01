//! The look-up thread: metadata and offsets. librdkafka answers these by blocking calls, which the polling thread must
//! not make.

use crate::assignment::Range;
use crate::consumer::StartAt;
use crate::context::Context;
use crate::error::{explain, is_refusal};
use crate::stats::Shared;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::stream::PartitionOffsets;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How long one question to the broker may take. Event Hubs answers slowly while it throttles.
const CALL: Duration = Duration::from_secs(5);
/// The same until a broker has answered once: connecting goes on behind it, and a refusal should end the source soon.
const FIRST_CALL: Duration = Duration::from_millis(500);
/// The same, where one partition of many is asked for.
const CALL_EACH: Duration = Duration::from_secs(1);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(500);
/// How often the full metadata is asked for while a topic is missing, so that the group learns of its return.
const REFRESH: Duration = Duration::from_secs(2);

/// What the polling thread wants to know.
#[derive(Debug)]
pub(crate) enum Request {
    /// Are the topics there? Asked before joining the group; answered when they all are.
    Topics,
    /// All offsets of all partitions, for an assignment.
    Offsets { assignment: u64 },
    /// What the broker has of these partitions, before they are fetched.
    Ranges { start: u64, partitions: Vec<TopicPartition> },
    /// The end offsets of these partitions, which stand at these positions. Asked once, not again.
    Ends { start: u64, partitions: Vec<(TopicPartition, i64)> },
}

/// What the broker said.
#[derive(Debug)]
pub(crate) enum Answer {
    Topics,
    Offsets {
        assignment: u64,
        cluster: String,
        offsets: Vec<PartitionOffsets>,
    },
    /// Partitions that did not answer are left out.
    Ranges {
        start: u64,
        ranges: Vec<(TopicPartition, Range)>,
    },
    Ends {
        start: u64,
        /// End offset of each partition that was answered.
        ends: Vec<(TopicPartition, i64)>,
        /// When the broker was asked for them.
        asked_us: i64,
        /// Partitions whose log is gone, or ends before the position that was asked with.
        suspect: Vec<TopicPartition>,
    },
}

/// Why there is no answer.
#[derive(Debug)]
enum Trouble {
    /// The topic is not there.
    Missing(String),
    /// The broker is not there, or not ready.
    Later(String),
    /// The broker will never answer this client.
    Refused(String),
}

pub(crate) struct Lookup {
    pub(crate) consumer: Arc<BaseConsumer<Context>>,
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) start_at: StartAt,
    /// The cluster's id where it is known better than by asking.
    pub(crate) cluster: Option<String>,
    /// Stands in for an id that the cluster does not tell.
    pub(crate) bootstrap: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) requests: Receiver<Request>,
    pub(crate) answers: Sender<Answer>,
    /// Whether a topic was there once and is missing now, and when the full metadata was last asked for because of it.
    pub(crate) missing: Cell<bool>,
    pub(crate) refreshed: Cell<Option<Instant>>,
}

impl Lookup {
    /// Runs until the polling thread has ended.
    pub(crate) fn run(self) {
        let mut waiting = VecDeque::new();
        while let Some(request) = self.next(&mut waiting) {
            loop {
                match self.answer(&request) {
                    Ok(answer) => {
                        if self.answers.send(answer).is_err() {
                            return;
                        }
                        break;
                    }
                    Err(trouble) => self.tell(trouble),
                }
                self.refresh();
                if matches!(request, Request::Ends { .. }) || !self.pause(&mut waiting) {
                    break; // ends are asked for again soon; anything else only if nothing newer is wanted
                }
            }
            if self.shared.stopping() {
                return;
            }
            self.refresh();
        }
    }

    fn next(&self, waiting: &mut VecDeque<Request>) -> Option<Request> {
        waiting.extend(self.requests.try_iter());
        // Only the newest question of a kind that comes with every assignment or start is still of interest.
        if let Some(newest) = waiting.iter().rposition(|r| !matches!(r, Request::Ends { .. })) {
            waiting.drain(..newest);
            waiting.retain({
                let mut first = true;
                move |r| std::mem::take(&mut first) || !matches!(r, Request::Ends { .. })
            });
        } else {
            // Ends are asked for once a second, and partitions without a leader take longer to answer.
            waiting.drain(..waiting.len().saturating_sub(1));
        }
        match waiting.pop_front() {
            Some(request) => Some(request),
            None => self.requests.recv().ok(),
        }
    }

    /// Waits a little. `false` if the question at hand is no longer of interest.
    fn pause(&self, waiting: &mut VecDeque<Request>) -> bool {
        let until = Instant::now() + RETRY;
        loop {
            if self.shared.stopping() {
                return false;
            }
            match self.requests.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(request) => {
                    let newer = !matches!(request, Request::Ends { .. });
                    // They come once a second; one is enough when this question has been answered at last.
                    waiting.retain(|w| newer || !matches!(w, Request::Ends { .. }));
                    waiting.push_back(request);
                    if newer {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Says what is waited for.
    fn tell(&self, trouble: Trouble) {
        match trouble {
            Trouble::Missing(topic) => {
                self.shared.answered();
                self.shared.waits_for_topic(Some(format!(
                    "the topic `{topic}` does not exist (create it, or change `topic`)"
                )));
                self.missing.set(true);
            }
            Trouble::Later(why) => self.shared.waits_for_broker(&why),
            // Once a broker has answered, a right that is missing may be given back.
            Trouble::Refused(why) if self.shared.connected.load(Ordering::Acquire) => {
                self.shared.waits_for_broker(&why);
            }
            Trouble::Refused(why) => self.shared.refuse(format!("kafka: {why}")),
        }
    }

    fn call(&self) -> Duration {
        if self.shared.connected.load(Ordering::Acquire) { CALL } else { FIRST_CALL }
    }

    /// While a topic is missing the full metadata is asked for now and then: unlike that of one topic, it makes the
    /// group look at its subscription again.
    fn refresh(&self) {
        if !self.missing.get() || self.refreshed.get().is_some_and(|at| at.elapsed() < REFRESH) {
            return;
        }
        self.refresh_now();
    }

    fn refresh_now(&self) {
        self.refreshed.set(Some(Instant::now()));
        if let Err(e) = self.consumer.fetch_metadata(None, self.call()) {
            tracing::debug!("metadata: {e}");
        }
    }

    fn answer(&self, request: &Request) -> Result<Answer, Trouble> {
        let answer = match request {
            Request::Topics => {
                for topic in &self.topics {
                    self.partitions(topic)?;
                }
                self.found();
                Answer::Topics
            }
            Request::Offsets { assignment } => self.offsets(*assignment)?,
            Request::Ranges { start, partitions } => self.ranges(*start, partitions)?,
            Request::Ends { start, partitions } => self.ends(*start, partitions)?,
        };
        self.shared.answered();
        Ok(answer)
    }

    /// All topics are there.
    fn found(&self) {
        if self.missing.replace(false) {
            // Once more, as the group may not have seen it yet.
            self.refresh_now();
        }
        self.shared.waits_for_topic(None);
    }

    fn look_for_topics(&self) -> Result<(), Trouble> {
        let mut all = true;
        for topic in &self.topics {
            match self.partitions(topic) {
                Err(missing @ Trouble::Missing(_)) => {
                    self.tell(missing);
                    all = false;
                }
                other => {
                    other?;
                }
            }
        }
        if all {
            self.found();
        }
        Ok(())
    }

    fn partitions(&self, topic: &Arc<str>) -> Result<Vec<i32>, Trouble> {
        let metadata =
            self.consumer.fetch_metadata(Some(topic), self.call()).map_err(|e| trouble(topic, &e))?;
        let Some(found) = metadata.topics().first() else { return Err(Trouble::Missing(topic.to_string())) };
        if let Some(error) = found.error() {
            return Err(trouble_of(topic, RDKafkaErrorCode::from(error)));
        }
        if found.partitions().is_empty() {
            return Err(Trouble::Missing(topic.to_string()));
        }
        Ok(found.partitions().iter().map(|p| p.id()).collect())
    }

    /// Offsets of partitions of one topic: the oldest, one past the newest, or the first at or after a time.
    fn list(&self, topic: &Arc<str>, partitions: &[i32], at: Offset) -> Result<BTreeMap<i32, i64>, Trouble> {
        let mut query = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            query.add_partition_offset(topic, *partition, at).map_err(|e| trouble(topic, &e))?;
        }
        // The protocol knows the log's ends as times −2 and −1, which are librdkafka's BEGINNING and END.
        let found = self.consumer.offsets_for_times(query, self.call()).map_err(|e| trouble(topic, &e))?;
        let mut offsets = BTreeMap::new();
        for element in found.elements() {
            element.error().map_err(|e| trouble(topic, &e))?;
            match element.offset() {
                Offset::Offset(offset) => {
                    offsets.insert(element.partition(), offset);
                }
                Offset::End => {} // no message at or after that time
                other => {
                    return Err(Trouble::Later(format!(
                        "no offset of {topic}[{}] yet ({other:?})",
                        element.partition()
                    )));
                }
            }
        }
        Ok(offsets)
    }

    fn range(&self, topic: &Arc<str>, partitions: &[i32]) -> Result<BTreeMap<i32, Range>, Trouble> {
        let earliest = self.list(topic, partitions, Offset::Beginning)?;
        let latest = self.list(topic, partitions, Offset::End)?;
        let incomplete = || Trouble::Later(format!("not all offsets of `{topic}` are known yet"));
        partitions
            .iter()
            .map(|p| {
                let range = Range {
                    earliest: *earliest.get(p).ok_or_else(incomplete)?,
                    latest: *latest.get(p).ok_or_else(incomplete)?,
                };
                Ok((*p, range))
            })
            .collect()
    }

    /// [`Self::range`] one by one, for those partitions that answer.
    fn range_each(&self, topic: &Arc<str>, partitions: &[i32]) -> BTreeMap<i32, Range> {
        let mut found = BTreeMap::new();
        for partition in partitions {
            if self.shared.stopping() {
                break;
            }
            match self.consumer.fetch_watermarks(topic, *partition, CALL_EACH) {
                Ok((earliest, latest)) => {
                    found.insert(*partition, Range { earliest, latest });
                }
                Err(e) => tracing::debug!("offsets of {topic}[{partition}]: {e}"),
            }
        }
        found
    }

    fn offsets(&self, assignment: u64) -> Result<Answer, Trouble> {
        let mut offsets = Vec::new();
        let mut missing = None;
        for topic in &self.topics {
            // All were there before the group was joined. One that has gone since does not hold up the others.
            let partitions = match self.partitions(topic) {
                Err(Trouble::Missing(topic)) => {
                    missing = Some(Trouble::Missing(topic));
                    continue;
                }
                other => other?,
            };
            let ranges = self.range(topic, &partitions)?;
            let by_time = match &self.start_at {
                StartAt::Time(t) => {
                    // Rounded up to the broker's milliseconds: nothing before the time is read.
                    let ms = t.us().div_euclid(1000) + i64::from(t.us().rem_euclid(1000) != 0);
                    self.list(topic, &partitions, Offset::Offset(ms.max(0)))?
                }
                StartAt::Earliest | StartAt::Latest => BTreeMap::new(),
            };
            for (partition, Range { earliest, latest }) in ranges {
                let initial = match self.start_at {
                    StartAt::Earliest => earliest,
                    StartAt::Latest => latest,
                    StartAt::Time(_) => by_time.get(&partition).copied().unwrap_or(latest),
                };
                let source = TopicPartition::new(Arc::clone(topic), partition);
                offsets.push(PartitionOffsets { source, earliest, latest, initial });
            }
        }
        let cluster = self.cluster_id()?;
        match missing {
            Some(missing) if offsets.is_empty() => return Err(missing),
            Some(missing) => self.tell(missing),
            None => self.found(),
        }
        Ok(Answer::Offsets { assignment, cluster, offsets })
    }

    fn cluster_id(&self) -> Result<String, Trouble> {
        if let Some(known) = &self.cluster {
            return Ok(known.clone());
        }
        let asked = self.consumer.client().fetch_cluster_id(self.call()).filter(|id| !id.is_empty());
        // A cluster that tells none (very old ones, some compatible servers) goes by its address.
        Ok(asked.unwrap_or_else(|| self.bootstrap.clone()))
    }

    fn ranges(&self, start: u64, partitions: &[TopicPartition]) -> Result<Answer, Trouble> {
        let mut ranges = Vec::with_capacity(partitions.len());
        for (topic, numbers) in by_topic(partitions.iter()) {
            let found = match self.range(&topic, &numbers) {
                Err(missing @ Trouble::Missing(_)) => {
                    self.tell(missing); // asked for again by the polling thread
                    continue;
                }
                // Perhaps only some partitions have no leader: they do not hold up the others.
                Err(trouble @ Trouble::Later(_)) => {
                    let found = self.range_each(&topic, &numbers);
                    if found.is_empty() {
                        return Err(trouble);
                    }
                    self.tell(trouble);
                    found
                }
                other => other?,
            };
            for (partition, range) in found {
                ranges.push((TopicPartition::new(Arc::clone(&topic), partition), range));
            }
        }
        Ok(Answer::Ranges { start, ranges })
    }

    fn ends(&self, start: u64, partitions: &[(TopicPartition, i64)]) -> Result<Answer, Trouble> {
        if partitions.is_empty() {
            // Asked by a member without partitions, to hear whether a broker answers and the topics are there.
            self.look_for_topics()?;
        }
        let asked_us = fleetscore_schemas::time::mono_us();
        let positions: BTreeMap<&TopicPartition, i64> = partitions.iter().map(|(p, n)| (p, *n)).collect();
        let (mut ends, mut suspect) = (Vec::new(), Vec::new());
        for (topic, numbers) in by_topic(partitions.iter().map(|(p, _)| p)) {
            let source = |partition| TopicPartition::new(Arc::clone(&topic), partition);
            let found = match self.list(&topic, &numbers, Offset::End) {
                Err(missing @ Trouble::Missing(_)) => {
                    self.tell(missing);
                    suspect.extend(numbers.into_iter().map(source));
                    continue;
                }
                // As with ranges: partitions without a leader do not hold up the others.
                Err(trouble @ Trouble::Later(_)) => {
                    let found = self.range_each(&topic, &numbers);
                    if found.is_empty() {
                        return Err(trouble);
                    }
                    self.tell(trouble);
                    found.into_iter().map(|(partition, range)| (partition, range.latest)).collect()
                }
                other => other?,
            };
            for (partition, end) in found {
                let source = source(partition);
                if positions.get(&source).is_some_and(|position| end < *position) {
                    suspect.push(source.clone());
                }
                ends.push((source, end));
            }
        }
        Ok(Answer::Ends { start, ends, asked_us, suspect })
    }
}

fn by_topic<'p>(partitions: impl Iterator<Item = &'p TopicPartition>) -> BTreeMap<Arc<str>, Vec<i32>> {
    let mut topics: BTreeMap<Arc<str>, BTreeSet<i32>> = BTreeMap::new();
    for p in partitions {
        topics.entry(Arc::clone(&p.topic)).or_default().insert(p.partition);
    }
    topics.into_iter().map(|(topic, numbers)| (topic, numbers.into_iter().collect())).collect()
}

fn trouble(topic: &str, error: &KafkaError) -> Trouble {
    match error.rdkafka_error_code() {
        Some(code) => trouble_of(topic, code),
        None => Trouble::Later(error.to_string()),
    }
}

fn trouble_of(topic: &str, code: RDKafkaErrorCode) -> Trouble {
    use RDKafkaErrorCode as C;
    match code {
        C::UnknownTopicOrPartition | C::UnknownTopicId | C::UnknownTopic | C::UnknownPartition => {
            Trouble::Missing(topic.to_string())
        }
        // The connection's own refusals come as errors of the client, with the broker's words.
        C::TopicAuthorizationFailed | C::ClusterAuthorizationFailed | C::InvalidTopic if is_refusal(code) => {
            Trouble::Refused(format!("topic `{topic}`: {}", explain(code)))
        }
        _ => Trouble::Later(format!("{code}, asked for topic `{topic}`")),
    }
}
