//! The loop around [`Core`]: takes events from the source, the store and the clock, and does what the core says.

use crate::clock::{Clock, Moment, Sleep, within};
use crate::core::{Action, Applied, Config, Core, Event, Offer};
use crate::engine::Engine;
use crate::error::AggregatorError;
use crate::judge::Prepared;
use crate::letters::{Bounds, Letters};
use crate::options::Options;
use crate::pending::Pending;
use crate::series::SeriesCache;
use crate::shared::{Handle, PartitionSnapshot, Shared, patiently};
use crate::tasks::{Committed, Jobs};
use fleetscore_schemas::reading::{ReadingBatch, TopicPartition};
use fleetscore_schemas::stream::{Command, GapKind, ReadingSource, SourceEvent};
use fleetscore_schemas::time::Timestamp;
use fleetscore_state::Rules;
use fleetscore_store::{Outcome, Store};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Figures for [`Handle::snapshot`] are gathered at most so often.
const PUBLISH_US: i64 = 100_000;
/// Batches looked at before other events get their turn.
const BATCHES_IN_A_ROW: usize = 8;
/// How often dead letters are looked at that are kept no longer.
const FORGET_EVERY_US: i64 = 3_600_000_000;
/// How long the source may take to leave the group.
const LEAVE: Duration = Duration::from_secs(5);

/// An aggregator, ready to run.
pub struct Service {
    options: Arc<Options>,
    store: Arc<dyn Store>,
    source: Box<dyn ReadingSource>,
    clock: Arc<dyn Clock>,
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Service {
    /// Checks the settings. The store must be migrated.
    ///
    /// # Errors
    /// [`AggregatorError::Setting`] naming the setting.
    pub fn new(
        options: Options,
        store: Arc<dyn Store>,
        source: Box<dyn ReadingSource>,
        clock: Arc<dyn Clock>,
        engine: Arc<dyn Engine>,
    ) -> Result<(Self, Handle), AggregatorError> {
        options.check()?;
        let shared = Arc::new(Shared::new(Arc::clone(&clock)));
        let handle = Handle { shared: Arc::clone(&shared) };
        Ok((Self { options: Arc::new(options), store, source, clock, engine, shared }, handle))
    }

    /// Runs until `shutdown`, which ends with a last checkpoint and with the group left.
    ///
    /// # Errors
    /// A user's mistake (another cluster, a gap under `on_offset_gap = "stop"`, other pane settings than the store's,
    /// whatever the source refuses), an internal error, or [`AggregatorError::ShutdownTimeout`]. Nothing is lost by
    /// any of them: what is not stored is read again. A store that does not answer is waited for.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AggregatorError> {
        let (store, shared, options) =
            (Arc::clone(&self.store), Arc::clone(&self.shared), Arc::clone(&self.options));
        let mut running = Running::new(self);
        let pinned = tokio::select! {
            biased;
            result = pin_settings(&*store, &shared, &options) => result.map(|()| true),
            () = shutdown.cancelled() => Ok(false),
        };
        let result = match pinned {
            Ok(true) => running.run(&shutdown).await,
            Ok(false) => {
                running.source.command(Command::Stop);
                Ok(())
            }
            Err(e) => Err(e),
        };
        if result.is_err() {
            running.source.command(Command::Stop);
        }
        let leave = async { while running.source.next().await.is_some() {} };
        if within(shared.clock(), LEAVE, leave).await.is_none() {
            tracing::warn!("the source did not leave the consumer group within {LEAVE:?}");
        }
        result
    }
}

/// A function of its own: the service, with its source, is not `Sync` and must not be borrowed over an await.
async fn pin_settings(store: &dyn Store, shared: &Shared, options: &Options) -> Result<(), AggregatorError> {
    let readiness = options.readiness();
    patiently(shared, "settings", || store.pin_panes(&options.panes))
        .await
        .map_err(|e| AggregatorError::store("recording how panes are made", e))?;
    patiently(shared, "settings", || store.put_readiness(&readiness))
        .await
        .map_err(|e| AggregatorError::store("recording what readiness is judged by", e))
}

/// Events of the source that are taken in order; assignments overtake them.
enum Queued {
    Batch(Box<ReadingBatch>),
    Prepared(Prepared),
    End { start: u64, source: TopicPartition, offset: i64 },
    Gap { start: u64, source: TopicPartition, wanted: i64, kind: GapKind },
}

/// What woke the loop.
enum Wake {
    Shutdown,
    Source(Option<SourceEvent>),
    Job(Result<crate::tasks::Done, AggregatorError>),
    Tick,
    More,
    Deadline,
}

/// Whether the front of the queue could be dealt with.
enum Progress {
    Done,
    Blocked,
}

struct Running {
    options: Arc<Options>,
    source: Box<dyn ReadingSource>,
    clock: Arc<dyn Clock>,
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
    core: Core,
    pending: Pending,
    letters: Letters,
    series: SeriesCache,
    queue: VecDeque<Queued>,
    jobs: Jobs,
    finished: bool,
    published_us: i64,
    retention_due_us: i64,
    forget_due_us: i64,
}

impl Running {
    fn new(service: Service) -> Self {
        let Service { options, store, source, clock, engine, shared } = service;
        let core = Core::new(Config {
            grid: options.panes.grid(),
            max_disorder_us: options.max_disorder_us,
            idle_timeout_us: options.idle_timeout_us,
            owner_ttl_us: options.owner_ttl_us,
            checkpoint_interval_us: options.checkpoint_interval_us,
            checkpoint_bytes: options.checkpoint_bytes,
            on_offset_gap: options.on_offset_gap,
        });
        let jobs =
            Jobs::new(Arc::clone(&store), Arc::clone(&shared), Arc::clone(&options), Arc::clone(&engine));
        let letters = Letters::new(Bounds {
            letters: u64::from(options.dead_letters_per_minute),
            bytes: options.dead_letter_bytes_per_minute,
        });
        let retention_due_us = clock.mono_us();
        Self {
            options,
            source,
            clock,
            engine,
            shared,
            core,
            pending: Pending::default(),
            letters,
            series: SeriesCache::default(),
            queue: VecDeque::new(),
            jobs,
            finished: false,
            published_us: i64::MIN / 2,
            retention_due_us,
            forget_due_us: retention_due_us,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), AggregatorError> {
        let clock = Arc::clone(&self.clock);
        let mut tick = clock.sleep(Duration::ZERO);
        let mut deadline: Option<Sleep> = None;
        self.publish();
        while !self.finished {
            let more = self.feed()?;
            // What waits in front of the queue for room may have it now.
            let more = self.compact().await? || more;
            self.publish();
            if self.finished {
                break;
            }
            // In a fixed order, so that a simulation can be repeated: what is rare comes first, and the source, which may
            // always have something, behind what must not wait for it. Every turn deals with some of the queue.
            let wake = tokio::select! {
                biased;
                () = shutdown.cancelled(), if deadline.is_none() => Wake::Shutdown,
                () = until(&mut deadline) => Wake::Deadline,
                done = self.jobs.next() => Wake::Job(done),
                () = &mut tick => Wake::Tick,
                event = self.source.next() => Wake::Source(event),
                () = std::future::ready(()), if more => Wake::More,
            };
            match wake {
                Wake::Shutdown => {
                    let wait = u64::try_from(self.options.shutdown_timeout_us).unwrap_or(0);
                    deadline = Some(clock.sleep(Duration::from_micros(wait)));
                    self.step(Event::Shutdown)?;
                }
                Wake::Source(Some(event)) => self.source_event(event)?,
                Wake::Source(None) => {
                    return Err(AggregatorError::internal(
                        "the source of readings ended without being told to",
                    ));
                }
                Wake::Job(done) => self.job_done(done?)?,
                Wake::Tick => {
                    tick = clock.sleep(TICK);
                    self.let_time_pass();
                    self.step(Event::Tick)?;
                    self.look_at_retention();
                }
                Wake::More => {}
                Wake::Deadline => {
                    let waiting =
                        self.shared.trouble().map_or_else(String::new, |t| format!(": waiting for {t}"));
                    return Err(AggregatorError::ShutdownTimeout { waiting });
                }
            }
        }
        Ok(())
    }

    fn now(&self) -> Moment {
        Moment::of(&*self.clock)
    }

    fn step(&mut self, event: Event) -> Result<(), AggregatorError> {
        let now = self.now();
        let actions = self.core.step(event, now);
        self.perform(actions)
    }

    fn perform(&mut self, actions: Vec<Action>) -> Result<(), AggregatorError> {
        for action in actions {
            match action {
                Action::Claim(request) => self.jobs.claim(request),
                Action::Tell(command) => self.source.command(command),
                Action::Cut(request) => {
                    let pending = std::mem::take(&mut self.pending);
                    self.jobs.commit(request, pending, self.letters.take());
                }
                Action::Beat { ticket, source, beats } => self.jobs.beat(ticket, source, beats),
                Action::Forget => {
                    self.pending = Pending::default();
                    self.letters.forget();
                    self.queue.clear();
                    self.series.clear();
                    self.jobs.abandon();
                }
                Action::DropQueue => {
                    self.queue.clear();
                    self.jobs.abandon_intern();
                }
                Action::Fail(error) => return Err(error),
                Action::Finish => self.finished = true,
            }
        }
        Ok(())
    }

    fn source_event(&mut self, event: SourceEvent) -> Result<(), AggregatorError> {
        match event {
            SourceEvent::Assigned { assignment, cluster, partitions, offsets } => {
                self.step(Event::Assigned { assignment, cluster, partitions, offsets })
            }
            SourceEvent::Revoked { assignment, lost } => self.step(Event::Revoked { assignment, lost }),
            SourceEvent::Batch(mut batch) => {
                // Noted even where the batch is void: the decoder names each key once.
                self.series.note(batch.decoder, &mut batch.new_series);
                self.queue.push_back(Queued::Batch(batch));
                Ok(())
            }
            SourceEvent::EndOfPartition { start, source, offset } => {
                self.queue.push_back(Queued::End { start, source, offset });
                Ok(())
            }
            SourceEvent::EndOffset { source, offset, asked_us } => {
                self.step(Event::EndOffset { source, offset, asked_us })
            }
            SourceEvent::OffsetGap { start, source, wanted, kind } => {
                self.queue.push_back(Queued::Gap { start, source, wanted, kind });
                Ok(())
            }
            SourceEvent::Failed { message } => Err(AggregatorError::Source { message }),
        }
    }

    fn job_done(&mut self, done: crate::tasks::Done) -> Result<(), AggregatorError> {
        use crate::tasks::Done;
        match done {
            Done::Claimed { ticket, claims } => self.step(Event::Claimed { ticket, claims }),
            Done::Committed(Committed { ticket, outcome, windows }) => {
                match outcome {
                    Outcome::Done => {
                        self.letters.stored();
                        self.shared.checkpoint_done(windows);
                    }
                    Outcome::Fenced => self.note_fence("a checkpoint"),
                }
                self.step(Event::Committed { ticket, outcome })
            }
            Done::Beaten { ticket, outcome } => {
                if outcome == Some(Outcome::Fenced) {
                    self.note_fence("a sign of life");
                }
                self.step(Event::Beaten { ticket, outcome })
            }
            Done::Interned { decoder, keys, ids } => {
                self.series.learn(decoder, &keys, &ids);
                Ok(())
            }
            Done::Floor(Some(floor)) => {
                if self.core.raise_floor(floor) {
                    self.jobs.retain(floor);
                } else {
                    self.retention_due_us = self.clock.mono_us() + 1_000_000;
                }
                Ok(())
            }
            Done::Floor(None) | Done::Retained | Done::Forgotten => Ok(()),
        }
    }

    fn note_fence(&self, what: &str) {
        tracing::warn!(
            "fenced by {what}: somebody else has claimed partitions; what is not stored is read again"
        );
        self.shared.update(|s| s.fences += 1);
    }

    // --- batches ----------------------------------------------------------------------------------------------------

    /// Deals with some of the queue; whether more could be done at once.
    fn feed(&mut self) -> Result<bool, AggregatorError> {
        for _ in 0..BATCHES_IN_A_ROW {
            let Some(front) = self.queue.pop_front() else { return Ok(false) };
            if matches!(self.take_in(front)?, Progress::Blocked) {
                return Ok(false);
            }
        }
        Ok(!self.queue.is_empty())
    }

    fn take_in(&mut self, queued: Queued) -> Result<Progress, AggregatorError> {
        match queued {
            Queued::End { start, source, offset } => {
                self.step(Event::EndOfPartition { start, source, offset })?;
            }
            Queued::Gap { start, source, wanted, kind } => {
                tracing::warn!(%source, wanted, ?kind, "the log is not what the position promises");
                self.step(Event::OffsetGap { start, source, wanted, kind })?;
            }
            Queued::Batch(batch) => match self.core.offer(&batch.source, batch.start, batch.from) {
                Offer::Void => {}
                Offer::Restart => {
                    let why = format!("{}: a batch begins at offset {}", batch.source, batch.from);
                    tracing::warn!("{why}, which is not the position: reading again from the positions");
                    let actions = self.core.restart(&why);
                    self.perform(actions)?;
                }
                Offer::Apply => {
                    let label = label(&batch);
                    if batch.to <= batch.from && !(batch.readings.is_empty() && batch.bad.is_empty()) {
                        return Err(AggregatorError::internal(format!(
                            "{label}: records, and no offset to move by"
                        )));
                    }
                    let keys = self.series.keys(batch.decoder);
                    let (engine, clock) = (&*self.engine, self.clock.now());
                    let prepared = guarded(&label, || Prepared::new(batch, engine, keys, clock))?;
                    return self.take_in(Queued::Prepared(prepared));
                }
            },
            Queued::Prepared(prepared) => return self.apply(prepared),
        }
        Ok(Progress::Done)
    }

    /// Judges the readings of a batch, once the ids of their series are known and there is room for them.
    fn apply(&mut self, prepared: Prepared) -> Result<Progress, AggregatorError> {
        let batch = &prepared.batch;
        if self.core.offer(&batch.source, batch.start, batch.from) != Offer::Apply {
            return Ok(Progress::Done);
        }
        let Some(part) = self.core.part(&batch.source) else { return Ok(Progress::Done) };
        let mut tide = part.tide;
        let rules = Rules {
            grid: self.options.panes.grid(),
            clock: prepared.clock.us(),
            max_disorder_us: self.options.max_disorder_us,
            max_future_skew_us: self.options.max_future_skew_us,
            allowed_lateness_us: Some(self.options.allowed_lateness_us),
            floor: part.floor.map(Timestamp::us),
        };
        let keys = self.series.keys(batch.decoder);
        // Asked once, and waited for: asking anew would break off the question under way, at every turn of the loop.
        if !self.jobs.is_interning() {
            let (unknown, names) = keys
                .unknown(batch.readings.series.values(), |i| prepared.may_count(i, &rules, tide))
                .map_err(|e| AggregatorError::internal(format!("{}: {e}", label(batch))))?;
            if !unknown.is_empty() {
                self.jobs.intern(batch.decoder, unknown, names);
            }
        }
        if self.jobs.is_interning() || !self.core.has_room() {
            self.queue.push_front(Queued::Prepared(prepared));
            return Ok(Progress::Blocked);
        }
        self.letters.at(self.clock.mono_us(), self.clock.now());
        let (pending, letters) = (&mut self.pending, &mut self.letters);
        let judged =
            guarded(&label(batch), || Ok(prepared.judge(keys, &rules, &mut tide, pending, letters)))?;
        self.shared.update(|s| {
            s.readings += judged.readings;
            s.late += judged.late;
            s.filtered += judged.filtered;
            for (code, n) in &judged.dead {
                *s.dead_letters.entry(*code).or_default() += n;
            }
        });
        let applied = Applied {
            source: batch.source.clone(),
            to: batch.to,
            last_broker_time: batch.last_broker_time,
            tide,
            raised: judged.raised,
            lowest_pane: judged.lowest_pane,
            bytes: self.pending.bytes() + self.letters.bytes(),
        };
        drop(prepared);
        self.step(Event::Applied(applied))?;
        Ok(Progress::Done)
    }

    /// Puts groups in the place of readings, if that is due; whether it was.
    async fn compact(&mut self) -> Result<bool, AggregatorError> {
        let (bound, fixed) = (self.options.checkpoint_bytes, self.engine.fixed_bytes());
        let due = self.pending.is_due(self.letters.bytes(), bound, fixed);
        if due {
            let pending = std::mem::take(&mut self.pending);
            self.pending = self.engine.compact(pending).await?;
            self.core.set_bytes(self.pending.bytes() + self.letters.bytes());
        }
        Ok(due)
    }

    // --- retention, figures -----------------------------------------------------------------------------------------

    fn let_time_pass(&mut self) {
        self.letters.at(self.clock.mono_us(), self.clock.now());
        if self.letters.has_news() {
            self.core.has_news(self.now());
        }
    }

    fn look_at_retention(&mut self) {
        let now = self.clock.mono_us();
        if let Some(kept_us) = self.options.dead_letter_retention_us
            && now >= self.forget_due_us
        {
            self.forget_due_us = now + FORGET_EVERY_US;
            self.jobs.forget_letters(kept_us);
        }
        if self.options.retention_us.is_some() && now >= self.retention_due_us && !self.jobs.is_retaining() {
            self.retention_due_us = now + self.options.owner_ttl_us; // as often as readiness may change by liveness
            self.jobs.find_floor();
        }
    }

    fn publish(&mut self) {
        let now = self.clock.mono_us();
        if now - self.published_us < PUBLISH_US && !self.finished {
            return;
        }
        self.published_us = now;
        let partitions = self
            .core
            .owned()
            .map(|(source, position, committed, watermark, end_offset)| PartitionSnapshot {
                source: source.clone(),
                position,
                committed,
                watermark,
                end_offset,
            })
            .collect();
        let waits_for = self.core.waits_for().map(str::to_owned);
        let pending_bytes = self.pending.bytes() + self.letters.bytes();
        let flood = self.letters.flood();
        self.shared.update(|s| {
            s.partitions = partitions;
            s.waits_for = waits_for;
            s.pending_bytes = pending_bytes;
            s.flood = flood;
        });
    }
}

async fn until(deadline: &mut Option<Sleep>) {
    match deadline {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

fn label(batch: &ReadingBatch) -> String {
    format!("{}, offsets {} to {}", batch.source, batch.from, batch.to)
}

/// A panic over a batch stops the service with the batch's name: its offsets are not committed, so nothing is lost.
fn guarded<T>(label: &str, work: impl FnOnce() -> Result<T, AggregatorError>) -> Result<T, AggregatorError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => Err(AggregatorError::internal(format!("{label}: {e}"))),
        Err(panic) => {
            let words = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            Err(AggregatorError::internal(format!("{label}: panic: {words}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::codes::{Classify, Domain};

    #[test]
    fn a_panic_over_a_batch_names_it() {
        let e = guarded::<()>("t[3], offsets 5 to 9", || panic!("poisoned")).unwrap_err();
        assert_eq!(e.domain(), Domain::Internal);
        assert!(e.to_string().contains("t[3], offsets 5 to 9") && e.to_string().contains("poisoned"), "{e}");
    }
}
