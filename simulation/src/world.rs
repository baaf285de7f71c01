//! What all processes share: the topic, the store, the network, and a record of what happened in which order.

use crate::expected::Expected;
use crate::log::{Group, Log};
use crate::mutants::{Mutant, excused};
use crate::process::Process;
use crate::scenario::{Bounds, Scenario};
use crate::time::Instant;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_store::{Checkpoint, DeadLetter, Heartbeat, Loss, Outcome, Result, Store, StoreError};
use futures_executor::block_on;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens. Calls of the store are noted when the server does them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// A call is sent.
    Sent,
    /// A call was lost on its way.
    Dropped,
    /// Settings are recorded.
    Settings,
    /// Positions are read.
    Progress,
    /// Partitions get positions.
    AddPartitions,
    /// Partitions are claimed.
    Claim,
    /// A sign of life.
    Heartbeat,
    /// Ids of series are made.
    Intern,
    /// A checkpoint.
    Checkpoint,
    /// A checkpoint that found another claim.
    Fenced,
    /// A member was granted partitions.
    Granted,
    /// A member must give up what it has.
    Revoked,
    /// A member was taken to be dead.
    Lost,
    /// A member has given up what it had.
    Released,
    /// Reading begins.
    Start,
    /// Messages are handed on.
    Batch,
    /// A process begins.
    Born,
    /// A process is killed.
    Killed,
    /// A process is asked to end.
    Asked,
    /// A process is stopped.
    Stopped,
    /// A process is woken.
    Woken,
    /// A clock is set.
    Jump,
    /// The store cannot be reached.
    Down,
    /// It can again.
    Up,
    /// Old records are deleted.
    Deleted,
    /// The topic gains a partition.
    Grown,
    /// The group deals out its partitions anew.
    Rebalanced,
}

/// An end offset that was heard so long ago still counts, see `fleetscore_aggregator_core`.
const HEARING_SLACK: Duration = Duration::from_secs(3);
/// Thousands of times what happens in a course of events.
const MOST_STEPS: u64 = 1_000_000;

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    /// How long it takes to the server.
    pub(crate) there: Duration,
    /// How long the answer takes.
    pub(crate) back: Duration,
    /// Whether the server gets it.
    pub(crate) arrives: bool,
    /// Whether the answer gets back.
    pub(crate) answered: bool,
    /// The caller is killed: 0 before it is sent, 1 while it is under way, 2 when the answer is there.
    pub(crate) kill: Option<u8>,
}

/// How often things go wrong: one in so many calls, 0 = never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Odds {
    /// Calls and answers that are lost.
    pub(crate) lost: u32,
    /// Calls over which the caller is killed.
    pub(crate) kill: u32,
    /// Answers and questions that take seconds.
    pub(crate) slow: u32,
}

/// The topic and its group.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    /// Its records.
    pub(crate) log: Log,
    /// Who reads it.
    pub(crate) group: Group,
}

/// A record of what happened.
#[derive(Debug)]
struct Trace {
    hasher: DefaultHasher,
    steps: u64,
    /// Kept where it is asked for.
    lines: Option<Vec<String>>,
    began: Instant,
}

/// What was committed so far, as the store answered.
#[derive(Debug, Default)]
struct Books {
    /// Readings in committed deltas.
    readings: i64,
    /// Committed dead letters.
    letters: i64,
    /// Ranges that were passed over.
    losses: Vec<Loss>,
    /// Checkpoints that happened.
    checkpoints: u64,
    /// Checkpoints and signs of life that found another claim.
    fences: u64,
    failure: Option<String>,
}

/// What all processes share.
pub(crate) struct World {
    /// The store itself.
    pub(crate) store: Arc<dyn Store>,
    topic: Mutex<Topic>,
    rng: Mutex<fastrand::Rng>,
    odds: Mutex<Odds>,
    /// [`Mutant::Excuses`].
    excuses: bool,
    idle_timeout: Duration,
    bounds: Bounds,
    down: AtomicBool,
    trace: Mutex<Trace>,
    books: Mutex<Books>,
    expected: Mutex<Expected>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("store", &self.store).finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // All on one thread; after a panic the simulation is over anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world around a store.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        seed: u64,
        scenario: &Scenario,
        mutant: Option<Mutant>,
        traced: bool,
    ) -> Self {
        let trace = Trace {
            hasher: DefaultHasher::new(),
            steps: 0,
            lines: traced.then(Vec::new),
            began: Instant::now(),
        };
        Self {
            store,
            topic: Mutex::default(),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            odds: Mutex::new(scenario.odds),
            excuses: mutant == Some(Mutant::Excuses),
            idle_timeout: Duration::from_micros(scenario.idle_timeout_us.unsigned_abs()),
            bounds: scenario.bounds,
            down: AtomicBool::new(false),
            trace: Mutex::new(trace),
            books: Mutex::default(),
            expected: Mutex::new(Expected::new(scenario.rules(), scenario.keeps_letters())),
        }
    }

    /// The topic.
    pub(crate) fn topic(&self) -> MutexGuard<'_, Topic> {
        lock(&self.topic)
    }

    /// Notes what happened; `who` and `what` are part of the order.
    pub(crate) fn note(&self, step: Step, who: u64, what: u64) {
        let mut trace = lock(&self.trace);
        (step, who, what).hash(&mut trace.hasher);
        trace.steps += 1;
        let endless = trace.steps == MOST_STEPS;
        let at = trace.began.elapsed();
        if let Some(lines) = &mut trace.lines {
            lines.push(format!("{:9.3}s  p{who} {step:?} {what}", at.as_secs_f64()));
        }
        drop(trace);
        if endless {
            self.fail(format!("{MOST_STEPS} things have happened: it goes round in circles"));
        }
    }

    /// The order of everything that happened, in one number, and how much it was.
    pub(crate) fn interleaving(&self) -> (u64, u64) {
        let trace = lock(&self.trace);
        (trace.hasher.finish(), trace.steps)
    }

    /// What was noted, where it was kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.trace).lines.take().unwrap_or_default()
    }

    /// What becomes of the next call.
    pub(crate) fn fate(&self, step: Step) -> Fate {
        let odds = *lock(&self.odds);
        let mut rng = lock(&self.rng);
        let mut one_in = |n: u32| n != 0 && rng.u32(..n) == 0;
        let (lost, unanswered) = (one_in(odds.lost), one_in(odds.lost));
        // Of the calls that matter most, three times as often.
        let kill = one_in(if step == Step::Checkpoint { odds.kill.div_ceil(3) } else { odds.kill });
        let slow = one_in(odds.slow);
        let mut wait = || Duration::from_micros(rng.u64(200..if slow { 8_000_000 } else { 30_000 }));
        let (there, back) = (wait(), wait());
        let kill = kill.then(|| rng.u8(..3));
        Fate { there, back, arrives: !lost, answered: !unanswered, kill }
    }

    /// From now on nothing goes wrong any more.
    pub(crate) fn calm(&self) {
        *lock(&self.odds) = Odds::default();
        self.set_down(false);
    }

    /// Nobody reaches the store, or everybody again.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, SeqCst);
    }

    /// Whether nobody reaches the store.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(SeqCst)
    }

    /// Something is not as it must be.
    pub(crate) fn fail(&self, what: String) {
        lock(&self.books).failure.get_or_insert(what);
    }

    /// What is not as it must be.
    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.books).failure.clone()
    }

    /// Checkpoints that happened, and fences.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let books = lock(&self.books);
        (books.checkpoints, books.fences)
    }

    /// The server's part of making positions.
    pub(crate) fn add_partitions(&self, source: &str, partitions: &[(TopicPartition, i64)]) -> Result<()> {
        let is_new = block_on(self.store.progress())?.rows.is_empty();
        block_on(self.store.add_partitions(source, partitions))?;
        // A topic that is new to the store begins where its log does: what was deleted before was nobody's. Of a partition
        // that comes later nothing may be passed over in silence.
        for (partition, offset) in partitions.iter().filter(|_| is_new) {
            self.must_be_deleted(partition, *offset);
            let (partition, detail) = (partition.clone(), "before the start".to_owned());
            lock(&self.books).losses.push(Loss { partition, from: 0, to: *offset, detail });
        }
        Ok(())
    }

    /// What is passed over is what the log does not have.
    fn must_be_deleted(&self, partition: &TopicPartition, before: i64) {
        let earliest = self.topic().log.partitions[partition.partition as usize].earliest;
        if before > earliest {
            self.fail(format!(
                "{partition}: all before {before} is said to be lost, and the log begins at {earliest}"
            ));
        }
    }

    /// The server's part of a sign of life.
    pub(crate) fn heartbeat(
        &self,
        source: &str,
        owner: &str,
        beats: &[Heartbeat],
        sent: Instant,
    ) -> Result<Outcome> {
        let outcome = block_on(self.store.heartbeat(source, owner, beats))?;
        if outcome == Outcome::Done {
            let quiet = beats.iter().filter(|b| b.quiet_at.is_some());
            self.must_be_quiet(quiet.map(|b| &b.partition), sent)?;
        }
        Ok(outcome)
    }

    /// Who says that a partition is quiet has committed all that was in it `idle_timeout` before (and what the broker was
    /// late to tell).
    fn must_be_quiet<'p>(
        &self,
        partitions: impl Iterator<Item = &'p TopicPartition>,
        sent: Instant,
    ) -> Result<()> {
        let mut partitions = partitions.peekable();
        if partitions.peek().is_none() {
            return Ok(());
        }
        let progress = block_on(self.store.progress())?;
        let topic = self.topic();
        for partition in partitions {
            let long = self.idle_timeout + HEARING_SLACK;
            let end = topic.log.partitions[partition.partition as usize].end_before(sent, long);
            let position = progress.rows.iter().find(|r| r.partition == *partition).map(|r| r.next_offset);
            if position.is_none_or(|position| position < end) {
                self.fail(format!(
                    "{partition} is said to be quiet at {position:?}, and {end} offsets had long been there"
                ));
            }
        }
        Ok(())
    }

    /// Of dead letters so many are kept one by one in a minute of a process's clock. Where it does not know that they are
    /// stored already, it claims again, reads them again, and has as many more.
    fn must_be_few(&self, letters: &[DeadLetter], by: &Process) {
        let more = letters.iter().filter(|l| l.last_offset.is_none()).count() as u64;
        let kept = by.letters.fetch_add(more, SeqCst) + more;
        let (minutes, claims) = (by.minutes(), by.claims.load(SeqCst));
        let most = (minutes + claims.saturating_sub(1)) * u64::from(self.bounds.dead_letters_per_minute);
        if kept > most {
            let id = by.id;
            self.fail(format!(
                "process {id} has kept {kept} dead letters of {most}, in {minutes} minutes, {claims} claims"
            ));
        }
    }

    /// A process keeps within its bound of memory, but for its last batch.
    pub(crate) fn must_be_bounded(&self, process: &Process) {
        let ((bytes, batch), bound) = (process.holds(), self.bounds.checkpoint_bytes);
        if bytes > bound + batch {
            let id = process.id;
            self.fail(format!(
                "process {id} holds {bytes} bytes, and may hold {bound} and {batch} of a batch"
            ));
        }
    }

    /// The server's part of a checkpoint, and a look at what it has left.
    pub(crate) fn checkpoint(&self, checkpoint: &Checkpoint, sent: Instant, by: &Process) -> Result<Outcome> {
        let excused = (self.excuses && lock(&self.rng).u8(..16) == 0).then(|| excused(checkpoint));
        let checkpoint = excused.as_ref().unwrap_or(checkpoint);
        let result = block_on(self.store.checkpoint(checkpoint));
        match &result {
            Ok(Outcome::Done) => {
                for loss in &checkpoint.losses {
                    self.must_be_deleted(&loss.partition, loss.to);
                }
                let quiet = checkpoint.advances.iter().filter(|a| a.quiet_at.is_some());
                self.must_be_quiet(quiet.map(|a| &a.partition), sent)?;
                self.must_be_few(&checkpoint.dead_letters, by);
                let counts = checkpoint
                    .deltas
                    .column_by_name(fleetscore_schemas::delta::columns::COUNT)
                    .and_then(|c| c.as_any().downcast_ref::<arrow::array::Int64Array>());
                let mut books = lock(&self.books);
                books.readings += counts.map_or(0, |c| c.values().iter().sum::<i64>());
                books.letters += checkpoint.dead_letters.iter().map(|l| l.count).sum::<i64>();
                books.losses.extend(checkpoint.losses.iter().cloned());
                books.checkpoints += 1;
                let thorough = books.checkpoints.is_multiple_of(32);
                drop(books);
                self.look(thorough);
            }
            Ok(Outcome::Fenced) => {
                lock(&self.books).fences += 1;
                self.note(Step::Fenced, 0, 0);
            }
            Err(StoreError::Unavailable { .. } | StoreError::Contended { .. }) => {}
            Err(e) => self.fail(format!("a checkpoint was refused: {e}")),
        }
        result
    }

    /// Compares the store with what it must hold at its positions.
    pub(crate) fn look(&self, thorough: bool) {
        let books = lock(&self.books);
        let (committed, losses) = ((books.readings, books.letters), books.losses.clone());
        drop(books);
        let mut expected = lock(&self.expected);
        let seen = expected.sums(self, &losses, committed);
        let seen = if thorough { seen.and_then(|()| expected.everything(self, &losses)) } else { seen };
        if let Err(what) = seen {
            self.fail(what);
        }
    }
}
