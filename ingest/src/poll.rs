//! The polling thread: group membership, fetching, and the hand-shake with the aggregator.

use crate::assignment::Phase;
use crate::batch_queue::BatchQueue;
use crate::context::{Context, GroupChange};
use crate::decoding::Work;
use crate::lookup::{Answer, Request};
use crate::reading::Reading;
use crate::stats::Shared;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::stream::{Command, SourceEvent, StartPosition};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for messages: bounds how late a command or a rebalance is noticed.
const WAIT: Duration = Duration::from_millis(25);
/// How often forwarding is set again (see [`crate::batch_queue`]) and statistics are brought up to date.
const TEND: Duration = Duration::from_millis(250);
/// How often end offsets are asked for.
const ENDS: Duration = Duration::from_secs(1);
/// How often a record that could not be read is asked for again. Every time, all partitions begin to fetch anew.
const HELD: Duration = Duration::from_secs(5);
/// Events of librdkafka served per round.
const EVENTS: usize = 32;
/// How long leaving the group may take before the client is closed all the same.
const LEAVE: Duration = Duration::from_secs(1);

/// Where this member stands in its group.
#[derive(Debug)]
enum Group {
    /// No assignment.
    Out,
    /// These partitions are granted. `announced` once the aggregator knows.
    Granted { assignment: u64, partitions: Vec<TopicPartition>, announced: bool },
    /// The aggregator was told to let go, and has until then.
    Revoking { assignment: u64, until: Instant },
}

pub(crate) struct Poller {
    pub(crate) consumer: Arc<BaseConsumer<Context>>,
    pub(crate) queue: BatchQueue,
    pub(crate) commands: Receiver<Command>,
    pub(crate) requests: Sender<Request>,
    pub(crate) answers: Receiver<Answer>,
    pub(crate) work: Sender<Work>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) lookup: JoinHandle<()>,
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) release_timeout: Duration,
    pub(crate) batch_messages: usize,
    pub(crate) state: PollState,
}

/// What changes while the loop runs.
pub(crate) struct PollState {
    group: Group,
    reading: Option<Reading>,
    /// Number of the newest assignment.
    assignment: u64,
    /// Bytes of a message, roughly.
    average: usize,
    tended: Instant,
    asked_ends: Instant,
    tried_held: Instant,
}

impl PollState {
    /// Messages are taken to be large until some were seen: a sixteenth of the budget.
    pub(crate) fn new(now: Instant, budget: usize) -> Self {
        Self {
            group: Group::Out,
            reading: None,
            assignment: 0,
            average: (budget / 16).max(1024),
            tended: now,
            asked_ends: now,
            tried_held: now,
        }
    }
}

/// Why the loop ends.
enum Finish {
    Stop,
    Failed(String),
}

impl Poller {
    /// Runs until it is told to stop or cannot go on, then leaves the group.
    pub(crate) fn run(mut self) {
        self.ask(Request::Topics);
        let finish = loop {
            if let Err(finish) = self.round() {
                break finish;
            }
        };
        if let Finish::Failed(message) = finish {
            tracing::error!("{message}");
            self.emit(SourceEvent::Failed { message });
        }
        self.leave();
    }

    fn round(&mut self) -> Result<(), Finish> {
        let refused = self.shared.state().refused.clone();
        if let Some(message) = refused {
            return Err(Finish::Failed(message));
        }
        self.obey()?;
        while let Ok(answer) = self.answers.try_recv() {
            self.answered(answer)?;
        }
        self.serve(Duration::ZERO)?;
        if self.shared.doubt.swap(false, Ordering::AcqRel)
            && let Some(reading) = self.state.reading.as_mut()
        {
            // librdkafka goes on at the same offset behind a new connection, even where another topic of the same name
            // or another cluster answers. It waits a little before it connects again, so nothing was fetched from
            // there yet.
            reading.suspect_all();
            self.ask_ranges();
        }
        while let Some(change) = self.consumer.context().next_change() {
            self.changed(change);
        }
        if let Group::Revoking { assignment, until } = self.state.group
            && Instant::now() >= until
        {
            tracing::warn!(
                assignment,
                "the assignment was not released in time; going on with the rebalance"
            );
            self.release();
        }
        self.fetch()?;
        self.tend();
        Ok(())
    }

    /// Commands of the aggregator.
    fn obey(&mut self) -> Result<(), Finish> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Start { assignment, start, positions }) => {
                    self.start(assignment, start, &positions)?;
                }
                Ok(Command::Released { assignment }) => {
                    if matches!(self.state.group, Group::Revoking { assignment: a, .. } if a == assignment) {
                        self.release();
                    }
                }
                Ok(Command::CommitGroup { positions }) => self.commit_group(&positions),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Err(Finish::Stop),
                Err(TryRecvError::Empty) => return Ok(()),
            }
        }
    }

    fn start(&mut self, assignment: u64, start: u64, positions: &[StartPosition]) -> Result<(), Finish> {
        let Group::Granted { assignment: current, partitions, announced: true } = &self.state.group else {
            return Ok(()); // the assignment has ended meanwhile
        };
        if *current != assignment {
            return Ok(());
        }
        let granted: BTreeSet<&TopicPartition> = partitions.iter().collect();
        let positions: Vec<StartPosition> =
            positions.iter().filter(|p| granted.contains(&p.source)).cloned().collect();
        for missing in granted.iter().filter(|g| !positions.iter().any(|p| p.source == ***g)) {
            tracing::error!(start, "no position to start {missing} from: it is not read");
        }
        // From here on nothing of an earlier start is handed on: what is pending goes with `reading`, what is queued in
        // librdkafka is outdated by assign(), what waits for decoding by the number.
        self.shared.current_start.store(start, Ordering::Release);
        self.state.reading =
            Some(Reading::new(start, &positions, self.batch_messages, Arc::clone(&self.shared.budget)));
        self.shared.state().stuck.clear();
        self.assign(&TopicPartitionList::new())?;
        self.publish_positions();
        self.ask_ranges();
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> Result<(), Finish> {
        match answer {
            Answer::Topics => {
                let topics: Vec<&str> = self.topics.iter().map(|t| &**t).collect();
                self.consumer.subscribe(&topics).map_err(|e| Finish::Failed(format!("topic: {e}")))?;
            }
            Answer::Offsets { assignment, cluster, offsets } => {
                let Group::Granted { assignment: current, partitions, announced } = &mut self.state.group
                else {
                    return Ok(());
                };
                if *current != assignment || *announced {
                    return Ok(());
                }
                *announced = true;
                let partitions = partitions.clone();
                self.shared.state().cluster = Some(cluster.clone());
                tracing::info!(assignment, partitions = partitions.len(), "partitions granted");
                self.emit(SourceEvent::Assigned { assignment, cluster, partitions, offsets });
            }
            Answer::Ranges { start, ranges } => {
                let Some(reading) = self.state.reading.as_mut().filter(|r| r.start == start) else {
                    return Ok(());
                };
                reading.asked = false;
                let work = &self.work;
                if reading.compare(&ranges, &self.shared, &mut |w| send(work, w)) {
                    self.assign_all()?;
                }
            }
            Answer::Ends { start, ends, asked_us, suspect } => {
                let Some(reading) = self.state.reading.as_mut().filter(|r| r.start == start) else {
                    return Ok(());
                };
                for source in &suspect {
                    tracing::warn!("{source}: the log is gone or ends before what was read");
                    reading.suspect(source);
                }
                {
                    let mut state = self.shared.state();
                    for (source, end) in &ends {
                        if let Some((_, known)) = state.partitions.get_mut(source) {
                            *known = Some(*end);
                        }
                    }
                }
                for (source, offset) in ends {
                    self.emit(SourceEvent::EndOffset { source, offset, asked_us });
                }
                self.ask_ranges();
            }
        }
        Ok(())
    }

    /// Fetches every partition that may be fetched, from where it stands.
    fn assign_all(&mut self) -> Result<(), Finish> {
        let Some(reading) = self.state.reading.as_mut() else { return Ok(()) };
        let work = &self.work;
        reading.flush_all(true, &mut |w| send(work, w));
        reading.forget_handles();
        let mut list = TopicPartitionList::new();
        for tracker in reading.in_phase(Phase::Fetching) {
            list.add_partition_offset(
                &tracker.source.topic,
                tracker.source.partition,
                Offset::Offset(tracker.fetch_from()),
            )
            .map_err(|e| Finish::Failed(format!("kafka client: no offset for {}: {e}", tracker.source)))?;
        }
        // Before assign(): a queue forwarded by us is left alone when librdkafka starts to fetch.
        self.forward();
        self.assign(&list)?;
        self.forward();
        Ok(())
    }

    fn assign(&self, list: &TopicPartitionList) -> Result<(), Finish> {
        self.consumer
            .assign(list)
            .map_err(|e| Finish::Failed(format!("kafka client: librdkafka refuses an assignment: {e}")))
    }

    fn forward(&self) {
        if let Some(reading) = &self.state.reading {
            for (topic, partition) in reading.fetched() {
                self.queue.forward(topic, partition);
            }
        }
    }

    /// Serves librdkafka's events: rebalances, errors, logs, commits.
    fn serve(&mut self, wait: Duration) -> Result<(), Finish> {
        let mut wait = wait;
        for _ in 0..EVENTS {
            match self.consumer.poll(wait) {
                None | Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Err(Finish::Failed(format!("kafka: the client cannot go on: {code}")));
                }
                Some(Err(e)) => tracing::debug!("kafka: {e}"),
                Some(Ok(_)) => {
                    // Nothing should come this way while every queue is forwarded. Whether it was passed by a later
                    // message already is not known, so start again from what is stored.
                    self.start_over("a message came past its queue");
                }
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Has the aggregator drop its memory and claim again.
    fn start_over(&mut self, why: &str) {
        let Group::Granted { assignment, partitions, announced: true } = &self.state.group else { return };
        tracing::error!("starting over from the stored positions: {why}");
        let (assignment, partitions) = (*assignment, partitions.clone());
        self.state.reading = None;
        self.emit(SourceEvent::Revoked { assignment, lost: true });
        if let Err(e) = self.consumer.assign(&TopicPartitionList::new()) {
            tracing::error!("librdkafka refuses an empty assignment: {e}");
        }
        self.changed(GroupChange::Granted(partitions));
    }

    fn changed(&mut self, change: GroupChange) {
        match change {
            GroupChange::Granted(partitions) => {
                self.state.assignment += 1;
                self.state.reading = None;
                let assignment = self.state.assignment;
                self.state.group = Group::Granted { assignment, partitions, announced: false };
                self.shared.assignments.fetch_add(1, Ordering::Relaxed);
                self.shared.state().assigned = true;
                self.publish_positions();
                self.ask(Request::Offsets { assignment });
            }
            GroupChange::Revoked { lost } => {
                let announced = match &self.state.group {
                    Group::Granted { assignment, announced: true, .. } => Some(*assignment),
                    _ => None,
                };
                if let Some(mut reading) = self.state.reading.take()
                    && !lost
                {
                    let work = &self.work;
                    reading.flush_all(true, &mut |w| send(work, w));
                }
                self.shared.state().assigned = false;
                self.publish_positions();
                match announced {
                    Some(assignment) => {
                        if lost {
                            tracing::warn!(
                                assignment,
                                "fenced by the consumer group: it has not heard of this process for longer than the \
                                 session and gives its partitions to others; what is not stored is dropped here"
                            );
                        } else {
                            tracing::info!(assignment, "partitions revoked");
                        }
                        self.emit(SourceEvent::Revoked { assignment, lost });
                        let until = Instant::now() + self.release_timeout;
                        self.state.group = Group::Revoking { assignment, until };
                    }
                    None => self.release(),
                }
            }
        }
    }

    /// Lets the rebalance go on.
    fn release(&mut self) {
        self.state.group = Group::Out;
        if let Err(e) = self.consumer.unassign() {
            tracing::error!("librdkafka refuses to unassign: {e}");
        }
    }

    fn commit_group(&self, positions: &[(TopicPartition, i64)]) {
        if !matches!(self.state.group, Group::Granted { .. } | Group::Revoking { .. }) || positions.is_empty()
        {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (source, offset) in positions {
            if let Err(e) =
                list.add_partition_offset(&source.topic, source.partition, Offset::Offset(*offset))
            {
                tracing::debug!("no offset to commit for {source}: {e}");
            }
        }
        if let Err(e) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!("the group's offsets, which only lag tools read, were not committed: {e}");
        }
    }

    fn fetch(&mut self) -> Result<(), Finish> {
        let at_most = self.shared.budget.messages(self.state.average, self.batch_messages);
        let work = &self.work;
        let Some(reading) = self.state.reading.as_mut() else { return self.serve(WAIT) };
        if at_most == 0 {
            // The budget is spent: what is fetched waits in librdkafka's queue, which is bounded too. Polling goes on.
            reading.flush_all(true, &mut |w| send(work, w));
            return self.serve(WAIT);
        }
        let batch = self.queue.poll(WAIT, at_most);
        let read = batch.len();
        let bytes = reading.take(batch.iter(), &self.shared, &mut |w| send(work, w));
        drop(batch);
        if let Some(average) = bytes.checked_div(read) {
            // Quick to rise, slow to fall: the bound on bytes must hold when messages grow.
            self.state.average = average.max(self.state.average - self.state.average / 8);
        }
        // A short batch means that the reader has caught up.
        reading.flush_all(read < at_most, &mut |w| send(work, w));
        if reading.in_phase(Phase::Suspect).next().is_some() {
            self.ask_ranges();
        }
        Ok(())
    }

    /// Things to do now and then.
    fn tend(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.state.tended) >= TEND {
            self.state.tended = now;
            self.forward();
            self.publish_positions();
        }
        if now.duration_since(self.state.tried_held) >= HELD {
            self.state.tried_held = now;
            if let Some(reading) = self.state.reading.as_mut() {
                reading.try_held();
            }
        }
        if now.duration_since(self.state.asked_ends) >= ENDS {
            self.state.asked_ends = now;
            let (start, partitions) = match &self.state.reading {
                Some(reading) => (
                    reading.start,
                    reading
                        .trackers()
                        .filter(|t| t.phase != Phase::Gap)
                        .map(|t| (t.source.clone(), t.next))
                        .collect(),
                ),
                None => (0, Vec::new()),
            };
            // Also without partitions: a topic that was deleted took them away, and nobody else looks after it.
            self.ask(Request::Ends { start, partitions });
        }
    }

    /// Asks what the broker has of the partitions that must be compared with it.
    fn ask_ranges(&mut self) {
        let Some(reading) = self.state.reading.as_mut() else { return };
        let partitions: Vec<_> = reading.in_phase(Phase::Suspect).map(|t| t.source.clone()).collect();
        if partitions.is_empty() || std::mem::replace(&mut reading.asked, true) {
            return;
        }
        let start = reading.start;
        self.ask(Request::Ranges { start, partitions });
    }

    fn publish_positions(&self) {
        let mut state = self.shared.state();
        let mut known = std::mem::take(&mut state.partitions);
        if self.state.reading.is_none() {
            state.stuck.clear();
        }
        if let Some(reading) = &self.state.reading {
            state.partitions = reading
                .trackers()
                .map(|t| {
                    let end = known.remove(&t.source).and_then(|(_, end)| end);
                    (t.source.clone(), (t.next, end))
                })
                .collect();
        }
    }

    fn ask(&self, request: Request) {
        if self.requests.send(request).is_err() {
            self.shared.refuse("kafka client: the look-up thread has ended; this is a bug".into());
        }
    }

    fn emit(&self, event: SourceEvent) {
        send(&self.work, Work::Event(event));
    }

    /// Leaves the group and ends the other threads, the decoding one last: its end is the end of the source.
    fn leave(self) {
        self.shared.stopping.store(true, Ordering::Release);
        let Self { consumer, queue, requests, answers, lookup, work, state, .. } = self;
        drop(state);
        drop((requests, answers));
        consumer.unsubscribe();
        // Others should not wait for a look-up that is still under way, so the group is left before it has ended.
        let until = Instant::now() + LEAVE;
        while Instant::now() < until && !lookup.is_finished() {
            consumer.poll(WAIT);
        }
        if lookup.join().is_err() {
            tracing::error!("the look-up thread panicked");
        }
        drop(queue);
        drop(consumer); // closes the client
        drop(work);
    }
}

/// Nobody listens any more when the source was dropped, which is noticed as a closed command channel, or the decoding thread has
/// panicked, which the source notices and refuses to go on.
fn send(work: &Sender<Work>, item: Work) {
    if work.send(item).is_err() {
        tracing::trace!("nobody listens any more");
    }
}
