//! A member of the consumer group with the product's decoder: fetches, buffers, is late to notice what the group decided,
//! and now and then hands on what is void.

use crate::log::{SESSION, Word, broker_time, partition};
use crate::process::Process;
use crate::scenario::Scenario;
use crate::time::{Instant, sleep};
use crate::world::{Step, World};
use async_trait::async_trait;
use fleetscore_aggregator_core::Clock;
use fleetscore_decode::{DecodeOptions, Decoder};
use fleetscore_schemas::reading::{Messages, ReadingBatch};
use fleetscore_schemas::stream::{Command, GapKind, ReadingSource, SourceEvent, StartPosition};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A member asks its coordinator so often; until then it does not know.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Messages of one batch, at most.
const BATCH: i64 = 12;

/// A source of readings.
pub(crate) struct SimSource {
    world: Arc<World>,
    process: Arc<Process>,
    rng: fastrand::Rng,
    decoder: Decoder,
    inbox: Mutex<VecDeque<Command>>,
    out: VecDeque<SourceEvent>,
    heartbeat_due: Instant,
    assignment: u64,
    /// Whether the aggregator was told of it and has not released it.
    granted: Option<Vec<usize>>,
    /// Released at the latest then.
    releasing: Option<Instant>,
    start: u64,
    positions: BTreeMap<usize, i64>,
    /// Partitions whose end was told, and at which offset.
    ended: BTreeMap<usize, i64>,
    /// Partitions that are not read until the next start.
    gapped: BTreeSet<usize>,
    /// Whether it hands on stale and doubled batches too.
    misbehaves: bool,
    /// Whether it is slower than the producer, so that there is something behind it when records are deleted.
    lags: bool,
    stopped: bool,
}

impl SimSource {
    /// Joins the group.
    pub(crate) fn new(world: Arc<World>, process: Arc<Process>, seed: u64, scenario: &Scenario) -> Self {
        let id = process.id;
        world.topic().group.join(id);
        Self {
            world,
            process,
            rng: fastrand::Rng::with_seed(seed),
            decoder: Decoder::new(u32::try_from(id).unwrap_or(u32::MAX), DecodeOptions::default()),
            inbox: Mutex::default(),
            out: VecDeque::new(),
            heartbeat_due: Instant::now(),
            assignment: 0,
            granted: None,
            releasing: None,
            start: 0,
            positions: BTreeMap::new(),
            ended: BTreeMap::new(),
            gapped: BTreeSet::new(),
            misbehaves: scenario.misbehaves,
            lags: scenario.lags,
            stopped: false,
        }
    }

    fn obey(&mut self) {
        loop {
            let command = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match command {
                None => return,
                Some(Command::Start { assignment, start, positions }) => {
                    if assignment == self.assignment && self.granted.is_some() && self.releasing.is_none() {
                        self.begin(start, &positions);
                    }
                }
                Some(Command::Released { assignment }) => {
                    if assignment == self.assignment && self.releasing.is_some() {
                        self.released();
                    }
                }
                Some(Command::CommitGroup { .. }) => {}
                Some(Command::Stop) => {
                    self.stopped = true;
                    self.world.topic().group.leave(self.process.id);
                }
            }
        }
    }

    fn begin(&mut self, start: u64, positions: &[StartPosition]) {
        self.start = start;
        self.ended.clear();
        self.gapped.clear();
        self.positions.clear();
        for position in positions {
            let p = position.source.partition as usize;
            self.positions.insert(p, position.next_offset);
            // A position never claims a record before it that was not there.
            if let Some(expected) = position.expect_broker_time {
                let topic = self.world.topic();
                let records = &topic.log.partitions[p].records[..position.next_offset as usize];
                let before = records.iter().rposition(Option::is_some);
                let real = before.map(|offset| broker_time(offset as i64));
                drop(topic);
                if real != Some(expected) {
                    self.world.fail(format!(
                        "{}: start at {} expects a record of {expected} before it, and there is {real:?}",
                        position.source, position.next_offset
                    ));
                }
            }
        }
        self.world.note(Step::Start, self.process.id, positions.len() as u64);
    }

    fn released(&mut self) {
        self.releasing = None;
        self.granted = None;
        self.positions.clear();
        self.world.note(Step::Released, self.process.id, self.assignment);
        self.world.topic().group.join(self.process.id);
    }

    fn revoke(&mut self, lost: bool) {
        self.world.note(if lost { Step::Lost } else { Step::Revoked }, self.process.id, self.assignment);
        self.positions.clear();
        match self.granted {
            Some(_) => {
                self.out.push_back(SourceEvent::Revoked { assignment: self.assignment, lost });
                self.releasing = Some(Instant::now() + SESSION / 3);
            }
            None => self.world.topic().group.join(self.process.id),
        }
    }

    /// What the coordinator says; rarely asked, so that much is done in ignorance of it.
    fn ask_coordinator(&mut self) {
        if self.releasing.is_some_and(|until| Instant::now() >= until) {
            self.released();
        }
        if Instant::now() < self.heartbeat_due {
            return;
        }
        self.heartbeat_due = Instant::now() + HEARTBEAT.mul_f64(0.5 + self.rng.f64());
        let mut topic = self.world.topic();
        let partitions = topic.log.partitions.len();
        let word = topic.group.heartbeat(self.process.id, partitions);
        drop(topic);
        match word {
            Word::Steady => {}
            _ if self.releasing.is_some() => {}
            Word::Rejoin => self.revoke(false),
            Word::Unknown => self.revoke(true),
            Word::Granted(granted) => {
                self.assignment += 1;
                self.world.note(
                    Step::Granted,
                    self.process.id,
                    granted.iter().fold(0, |bits, p| bits | 1 << p),
                );
                let offsets = self.world.topic().log.offsets();
                self.positions.clear();
                self.granted = Some(granted.clone());
                self.out.push_back(SourceEvent::Assigned {
                    assignment: self.assignment,
                    cluster: "cluster".into(),
                    partitions: granted.into_iter().map(partition).collect(),
                    offsets,
                });
            }
        }
    }

    fn fetch(&mut self) {
        let candidates: Vec<usize> =
            self.positions.keys().copied().filter(|p| !self.gapped.contains(p)).collect();
        if candidates.is_empty() {
            return;
        }
        let p = candidates[self.rng.usize(..candidates.len())];
        let from = self.positions[&p];
        let topic = self.world.topic();
        let (earliest, end) = (topic.log.partitions[p].earliest, topic.log.partitions[p].end());
        drop(topic);
        self.out.push_back(SourceEvent::EndOffset {
            source: partition(p),
            offset: end,
            asked_us: self.process.clock.mono_us(),
        });
        if from < earliest {
            self.gapped.insert(p);
            let kind = GapKind::OutOfRange { earliest, latest: end };
            self.out.push_back(SourceEvent::OffsetGap {
                start: self.start,
                source: partition(p),
                wanted: from,
                kind,
            });
            return;
        }
        if from >= end {
            if self.ended.insert(p, end) != Some(end) {
                self.out.push_back(SourceEvent::EndOfPartition {
                    start: self.start,
                    source: partition(p),
                    offset: end,
                });
            }
            return;
        }
        let most = if self.lags { 2 } else { BATCH };
        let to = (from + self.rng.i64(1..=most)).min(end);
        if self.misbehaves && self.rng.u8(..8) == 0 {
            self.misbehave(p, from, to, end);
        }
        let batch = self.batch(p, self.start, from, to);
        self.positions.insert(p, to);
        self.out.push_back(SourceEvent::Batch(batch));
    }

    /// Something that was fetched before, or something that leaves a hole.
    fn misbehave(&mut self, p: usize, from: i64, to: i64, end: i64) {
        let old = from - self.rng.i64(1..=5);
        let earliest = self.world.topic().log.partitions[p].earliest;
        if old >= earliest {
            let start = if self.rng.bool() { self.start } else { self.start.saturating_sub(1) };
            let batch = self.batch(p, start, old, from);
            self.out.push_back(SourceEvent::Batch(batch));
        } else if to < end {
            let batch = self.batch(p, self.start, from + 1, to + 1);
            self.out.push_back(SourceEvent::Batch(batch));
        }
    }

    fn batch(&mut self, p: usize, start: u64, from: i64, to: i64) -> Box<ReadingBatch> {
        let topic = self.world.topic();
        let (mut messages, mut tombstones) = (Messages::default(), Vec::new());
        for offset in from..to {
            if let Some(message) = &topic.log.partitions[p].records[offset as usize] {
                if message.is_tombstone() {
                    tombstones.push(messages.len() as u32);
                }
                messages.push(offset, Some(broker_time(offset)), &message.payload);
            }
        }
        drop(topic);
        // Offsets behind the last record of a batch belong to the next one, as in librdkafka; an empty fetch moves on.
        self.world.note(Step::Batch, self.process.id, p as u64);
        let batch = self.decoder.decode(partition(p), start, from, to, messages, &tombstones);
        self.process.is_handed(&batch);
        Box::new(batch)
    }
}

#[async_trait]
impl ReadingSource for SimSource {
    async fn next(&mut self) -> Option<SourceEvent> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Some(event);
            }
            self.obey();
            if self.stopped {
                return None;
            }
            self.ask_coordinator();
            if self.granted.is_some() && self.releasing.is_none() {
                self.fetch();
            }
            if self.out.is_empty() || self.lags || self.rng.u8(..4) == 0 {
                let most = if self.lags { 300 } else { 80 };
                sleep(Duration::from_millis(self.rng.u64(5..most))).await;
            }
        }
    }

    fn command(&self, command: Command) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
    }
}
