//! A source of readings in memory, and a store that fails now and then.

use arrow::array::{Float64Array, TimestampMicrosecondArray, UInt32Array};
use async_trait::async_trait;
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::{BadRecord, Messages, ReadingBatch, ReadingColumns, Span, TopicPartition};
use fleetscore_schemas::stream::{Command, PartitionOffsets, ReadingSource, SourceEvent, StartPosition};
use fleetscore_schemas::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One message: readings (series, ts, value), then one bad record if asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) readings: Vec<(u32, i64, f64)>,
    pub(crate) bad: bool,
}

/// The log of a topic: by partition, by offset; `None` is an offset without a record.
pub(crate) type Log = Arc<Mutex<Vec<Vec<Option<Message>>>>>;

pub(crate) fn partition(p: usize) -> TopicPartition {
    TopicPartition::new("t", p as i32)
}

/// What a test tells a source to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Grant these partitions (after giving up the present ones in good order).
    Grant(Vec<usize>),
    /// The group has given them away already.
    Lose,
    /// Emit stale and doubled batches too.
    Misbehave,
}

#[derive(Debug, Default)]
struct Inbox {
    commands: VecDeque<Command>,
    orders: VecDeque<Order>,
}

/// The handle of a test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remote(Arc<Mutex<Inbox>>);

impl Remote {
    pub(crate) fn order(&self, order: Order) {
        self.0.lock().unwrap().orders.push_back(order);
    }
}

pub(crate) struct LogSource {
    log: Log,
    cluster: String,
    remote: Remote,
    rng: fastrand::Rng,
    assignment: u64,
    granted: Vec<usize>,
    waiting_release: Option<(u64, Vec<usize>)>,
    start: u64,
    positions: BTreeMap<usize, i64>,
    ended: BTreeSet<usize>,
    named: BTreeSet<u32>,
    misbehave: bool,
    stopped: bool,
    out: VecDeque<SourceEvent>,
}

impl LogSource {
    pub(crate) fn new(log: Log, cluster: &str, seed: u64) -> (Self, Remote) {
        let remote = Remote::default();
        let source = Self {
            log,
            cluster: cluster.into(),
            remote: remote.clone(),
            rng: fastrand::Rng::with_seed(seed),
            assignment: 0,
            granted: Vec::new(),
            waiting_release: None,
            start: 0,
            positions: BTreeMap::new(),
            ended: BTreeSet::new(),
            named: BTreeSet::new(),
            misbehave: false,
            stopped: false,
            out: VecDeque::new(),
        };
        (source, remote)
    }

    fn grant(&mut self, partitions: Vec<usize>) {
        self.assignment += 1;
        self.positions.clear();
        self.granted = partitions;
        let log = self.log.lock().unwrap();
        let offsets = (0..log.len())
            .map(|p| PartitionOffsets {
                source: partition(p),
                earliest: 0,
                latest: log[p].len() as i64,
                initial: 0,
            })
            .collect();
        self.out.push_back(SourceEvent::Assigned {
            assignment: self.assignment,
            cluster: self.cluster.clone(),
            partitions: self.granted.iter().map(|p| partition(*p)).collect(),
            offsets,
        });
    }

    fn obey(&mut self) {
        loop {
            let mut inbox = self.remote.0.lock().unwrap();
            let command = inbox.commands.pop_front();
            let order = if command.is_none() && self.waiting_release.is_none() {
                inbox.orders.pop_front()
            } else {
                None
            };
            drop(inbox);
            match (command, order) {
                (Some(Command::Start { assignment, start, positions }), _) => {
                    if assignment == self.assignment && self.waiting_release.is_none() {
                        self.start = start;
                        self.ended.clear();
                        self.positions = positions
                            .iter()
                            .map(|s: &StartPosition| (s.source.partition as usize, s.next_offset))
                            .collect();
                    }
                }
                (Some(Command::Released { assignment }), _) => {
                    if let Some((_, next)) = self.waiting_release.take_if(|(a, _)| *a == assignment) {
                        self.grant(next);
                    }
                }
                (Some(Command::Stop), _) => self.stopped = true,
                (Some(Command::CommitGroup { .. }), _) => {}
                (None, Some(Order::Grant(next))) => {
                    if self.assignment == 0 || self.granted.is_empty() {
                        self.grant(next);
                    } else {
                        let assignment = self.assignment;
                        self.positions.clear();
                        self.waiting_release = Some((assignment, next));
                        self.out.push_back(SourceEvent::Revoked { assignment, lost: false });
                    }
                }
                (None, Some(Order::Lose)) => {
                    self.positions.clear();
                    self.granted.clear();
                    self.out.push_back(SourceEvent::Revoked { assignment: self.assignment, lost: true });
                }
                (None, Some(Order::Misbehave)) => self.misbehave = true,
                (None, None) => return,
            }
        }
    }

    fn produce(&mut self) {
        let candidates: Vec<usize> = self.positions.keys().copied().collect();
        if candidates.is_empty() {
            return;
        }
        let p = candidates[self.rng.usize(..candidates.len())];
        let from = self.positions[&p];
        let end = self.log.lock().unwrap()[p].len() as i64;
        self.out.push_back(SourceEvent::EndOffset { source: partition(p), offset: end, asked_us: i64::MAX });
        if from >= end {
            if self.ended.insert(p) {
                self.out.push_back(SourceEvent::EndOfPartition {
                    start: self.start,
                    source: partition(p),
                    offset: end,
                });
            }
            return;
        }
        self.ended.remove(&p);
        let to = (from + self.rng.i64(1..=7)).min(end);
        if self.misbehave && self.rng.u8(..8) == 0 {
            // Something fetched before, and something that leaves a hole.
            let old = (from - self.rng.i64(1..=5)).max(0);
            if old < from {
                let start = if self.rng.bool() { self.start } else { self.start.saturating_sub(1) };
                let batch = self.batch(p, start, old, from);
                self.out.push_back(SourceEvent::Batch(batch));
            } else if to < end {
                let batch = self.batch(p, self.start, from + 1, to + 1);
                self.out.push_back(SourceEvent::Batch(batch));
            }
        }
        let batch = self.batch(p, self.start, from, to);
        self.positions.insert(p, to);
        self.out.push_back(SourceEvent::Batch(batch));
    }

    fn batch(&mut self, p: usize, start: u64, from: i64, to: i64) -> Box<ReadingBatch> {
        let log = self.log.lock().unwrap();
        let mut messages = Messages::default();
        let (mut series, mut ts, mut value, mut spans, mut bad, mut new) =
            (vec![], vec![], vec![], vec![], vec![], vec![]);
        let mut last_broker_time = None;
        for offset in from..to {
            let Some(message) = &log[p][offset as usize] else { continue };
            let text = format!("p{p}o{offset}");
            let at = messages.len() as u32;
            let span = |position| Span { message: at, position, start: 0, end: text.len() as u32 };
            last_broker_time = Some(Timestamp(1_600_000_000_000_000 + offset));
            messages.push(offset, last_broker_time, text.as_bytes());
            for (i, (s, t, v)) in message.readings.iter().enumerate() {
                if self.named.insert(*s) {
                    new.push((*s, SeriesName::new(format!("d{s}"), "temp")));
                }
                series.push(*s);
                ts.push(*t);
                value.push(*v);
                spans.push(span(i as i32));
            }
            if message.bad {
                bad.push(BadRecord {
                    count: 1,
                    span: span(message.readings.len() as i32),
                    code: DeadLetterCode::BadValue,
                    detail: "no number".into(),
                    sensors: vec![],
                });
            }
        }
        Box::new(ReadingBatch {
            source: partition(p),
            start,
            from,
            to,
            last_broker_time,
            readings: ReadingColumns {
                series: UInt32Array::from(series),
                ts: TimestampMicrosecondArray::from(ts),
                value: Float64Array::from(value),
                spans,
            },
            bad,
            messages,
            decoder: 1,
            new_series: new,
            permit: None,
        })
    }
}

#[async_trait]
impl ReadingSource for LogSource {
    async fn next(&mut self) -> Option<SourceEvent> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Some(event);
            }
            self.obey();
            if self.stopped {
                return None;
            }
            self.produce();
            if self.out.is_empty() || self.rng.u8(..4) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    fn command(&self, command: Command) {
        self.remote.0.lock().unwrap().commands.push_back(command);
    }
}
