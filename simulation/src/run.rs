//! The course of events: readings come in, things go wrong; then they stop going wrong, and all must be there, once.

use crate::log::{Partition, partition};
use crate::mutants::{Mistaken, Mutant};
use crate::process::{Process, SimClock, Stoppable};
use crate::scenario::{Bounds, CLOCK_US, Scenario};
use crate::source::SimSource;
use crate::store::SimStore;
use crate::time::{self, AtWork, Instant, sleep, sleep_until};
use crate::world::{Step, World};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use fleetscore_aggregator_core::{
    AggregatorError, Clock, Engine, Evaluated, Options, Pending, PlainEngine, SeriesNames, Service,
};
use fleetscore_oracle::fleet::Message;
use fleetscore_schemas::reading::ReadingColumns;
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{MemoryStore, Store};
use futures_executor::block_on;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longer than anything may take once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(600);
const DAY_US: i64 = 86_400_000_000;

/// The parts that may be exchanged.
pub struct Parts {
    /// Makes an empty store, on a clock if it takes one.
    pub store: Box<dyn Fn(Arc<SimClock>) -> Arc<dyn Store> + Send + Sync>,
    /// Makes what computes.
    pub engine: Box<dyn Fn(&Options) -> Result<Arc<dyn Engine>, AggregatorError> + Send + Sync>,
}

impl Parts {
    /// The store in memory and the plain engine.
    pub fn light() -> Self {
        Self {
            store: Box::new(|clock| Arc::new(MemoryStore::with_clock(Arc::new(move || clock.now())))),
            engine: Box::new(|options| Ok(Arc::new(PlainEngine::new(options)?))),
        }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// How a simulation went.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// Two of the same number went the same way.
    pub interleaving: u64,
    /// How many things happened.
    pub steps: u64,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Messages in the log.
    pub messages: u64,
    /// Checkpoints that happened.
    pub checkpoints: u64,
    /// Checkpoints that found another claim.
    pub fences: u64,
    /// What was not as it must be.
    pub failure: Option<String>,
    /// What happened, line by line, where that was asked for.
    pub trace: Vec<String>,
}

/// Runs the course of events of a seed.
///
/// # Panics
/// If there can be no runtime.
pub fn simulate(seed: u64, mutant: Option<Mutant>, parts: &Parts, traced: bool) -> Course {
    // Pauses between retries are taken from the thread's own dice.
    fastrand::seed(seed);
    time::begin();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(time::idle)
        .build()
        .expect("a runtime without a thread and without I/O needs nothing");
    runtime.block_on(run(seed, mutant, parts, traced))
}

/// The place of one process: it lives there again and again.
struct Place {
    number: usize,
    clock: Arc<SimClock>,
    life: Mutex<Option<(Arc<Process>, CancellationToken)>>,
}

impl Place {
    fn life(&self) -> MutexGuard<'_, Option<(Arc<Process>, CancellationToken)>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Simulation<'a> {
    seed: u64,
    scenario: Scenario,
    parts: &'a Parts,
    world: Arc<World>,
    rng: fastrand::Rng,
    faults: BTreeMap<&'static str, u64>,
    store_clock: Arc<SimClock>,
}

async fn run(seed: u64, mutant: Option<Mutant>, parts: &Parts, traced: bool) -> Course {
    let mut scenario = Scenario::of(seed);
    let store_clock = Arc::new(SimClock::new(Timestamp(CLOCK_US)));
    let mut store = (parts.store)(Arc::clone(&store_clock));
    if let Err(e) = store.migrate().await {
        return Course { failure: Some(format!("the store: {e}")), ..Course::default() };
    }
    if let Some(mutant) = mutant {
        let dice = Mutex::new(fastrand::Rng::with_seed(seed));
        store = Arc::new(Mistaken { inner: store, mutant, dice });
    }
    let world = Arc::new(World::new(store, seed, &scenario, mutant, traced));
    // The world judges by the bounds that it was made with.
    let bounds = &mut scenario.bounds;
    match mutant {
        Some(Mutant::EndlessMemory) => bounds.checkpoint_bytes = Bounds::NONE.checkpoint_bytes,
        Some(Mutant::EndlessLetters) => bounds.dead_letters_per_minute = Bounds::NONE.dead_letters_per_minute,
        _ => {}
    }
    let rng = fastrand::Rng::with_seed(seed ^ 0xfa_17);
    let mut simulation = Simulation {
        seed,
        scenario,
        parts,
        world: Arc::clone(&world),
        rng,
        faults: BTreeMap::new(),
        store_clock,
    };
    simulation.course().await;
    let (interleaving, steps) = world.interleaving();
    let (checkpoints, fences) = world.counts();
    let messages = world.topic().log.partitions.iter().map(|p| p.records.len() as u64).sum();
    Course {
        interleaving,
        steps,
        faults: simulation.faults,
        messages,
        checkpoints,
        fences,
        failure: world.failure(),
        trace: world.lines(),
    }
}

impl Simulation<'_> {
    async fn course(&mut self) {
        let messages: Vec<Message> = self.scenario.fleet.messages().collect();
        let begun = self.scenario.fleet.partitions as usize - usize::from(self.scenario.grows);
        self.world.topic().log.partitions.extend((0..begun).map(|_| Partition::default()));
        let places: Vec<Arc<Place>> = (0..self.scenario.processes)
            .map(|number| {
                let clock = Arc::new(SimClock::new(Timestamp(CLOCK_US)));
                Arc::new(Place { number, clock, life: Mutex::new(None) })
            })
            .collect();
        let (ids, closing) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
        let mut lives = Vec::new();
        for place in &places {
            match self.lives(Arc::clone(place), Arc::clone(&ids), Arc::clone(&closing)) {
                Ok(task) => lives.push(task),
                Err(e) => return self.world.fail(format!("no service: {e}")),
            }
        }
        let producer = tokio::spawn(produce(
            Arc::clone(&self.world),
            messages,
            self.scenario.clone(),
            fastrand::Rng::with_seed(self.seed ^ 0x9a9a),
        ));
        let ends = Instant::now() + self.scenario.production;
        while Instant::now() < ends && self.world.failure().is_none() {
            let gap = self.scenario.fault_every.mul_f64(0.1 + 1.8 * self.rng.f64());
            sleep(gap.min(ends - Instant::now())).await;
            self.fault(&places).await;
        }
        if let Err(e) = producer.await {
            return self.world.fail(format!("the producer: {e}"));
        }
        self.calm_down(&places);
        self.wait_until("all of the log is committed, and every partition is quiet", all_is_committed).await;
        closing.store(true, SeqCst);
        for place in &places {
            if let Some((_, stop)) = &*place.life() {
                stop.cancel();
            }
        }
        for life in lives {
            if let Err(e) = life.await {
                self.world.fail(format!("a supervisor: {e}"));
            }
        }
        if self.world.failure().is_none() {
            self.world.look(true);
        }
    }

    fn calm_down(&self, places: &[Arc<Place>]) {
        self.world.calm();
        for place in places {
            if let Some((process, _)) = &*place.life() {
                process.set_stopped(false);
            }
        }
    }

    async fn wait_until(&self, what: &str, done: fn(&World) -> bool) {
        let ends = Instant::now() + PATIENCE;
        while self.world.failure().is_none() && !done(&self.world) {
            if Instant::now() > ends {
                let rows = block_on(self.world.store.progress()).map(|p| p.rows);
                self.world.fail(format!("after {PATIENCE:?} it is not so that {what}: {rows:?}"));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// One thing goes wrong.
    async fn fault(&mut self, places: &[Arc<Place>]) {
        let place = &places[self.rng.usize(..places.len())];
        let life = place.life().clone();
        let name = match (self.rng.u8(..12), life) {
            (0..=2, Some((process, _))) => {
                process.killed.notify_one();
                "kill"
            }
            (3..=5, Some((process, _))) => {
                self.stop_for_a_while(&process);
                "stop and wake"
            }
            (6, Some((_, stop))) => {
                self.world.note(Step::Asked, place.number as u64, 0);
                stop.cancel();
                "graceful end"
            }
            (7, _) => {
                let by = self.rng.i64(-20 * DAY_US..20 * DAY_US);
                let clock = if self.rng.bool() { &place.clock } else { &self.store_clock };
                clock.set_us(CLOCK_US + by);
                self.world.note(Step::Jump, place.number as u64, 0);
                "clock set"
            }
            (8, _) => {
                self.outage();
                "store down"
            }
            (9, _) => {
                self.world.topic().group.start_over(0);
                self.world.note(Step::Rebalanced, 0, 0);
                "rebalance"
            }
            (10, _) if self.scenario.deletes => {
                self.delete_records();
                "records deleted"
            }
            (11, Some((process, _))) => {
                // Killed while it sleeps.
                process.set_stopped(true);
                sleep(Duration::from_millis(self.rng.u64(10..2_000))).await;
                process.killed.notify_one();
                "kill while stopped"
            }
            _ => return,
        };
        *self.faults.entry(name).or_default() += 1;
    }

    fn stop_for_a_while(&mut self, process: &Arc<Process>) {
        // Half of them for longer than a session: others are granted its partitions meanwhile.
        let pause = if self.rng.bool() { self.rng.u64(10..1_000) } else { self.rng.u64(3_000..9_000) };
        process.set_stopped(true);
        self.world.note(Step::Stopped, process.id, 0);
        let (process, world) = (Arc::clone(process), Arc::clone(&self.world));
        tokio::spawn(async move {
            sleep(Duration::from_millis(pause)).await;
            world.note(Step::Woken, process.id, 0);
            process.set_stopped(false);
        });
    }

    fn outage(&mut self) {
        self.world.set_down(true);
        self.world.note(Step::Down, 0, 0);
        let (world, length) = (Arc::clone(&self.world), self.rng.u64(100..6_000));
        tokio::spawn(async move {
            sleep(Duration::from_millis(length)).await;
            world.note(Step::Up, 0, 0);
            world.set_down(false);
        });
    }

    /// The broker deletes the older part of a partition, read or not.
    fn delete_records(&mut self) {
        let mut topic = self.world.topic();
        let count = topic.log.partitions.len();
        let partition = &mut topic.log.partitions[self.rng.usize(..count)];
        partition.earliest = self.rng.i64(partition.earliest..=partition.end());
        drop(topic);
        self.world.note(Step::Deleted, 0, 0);
    }

    /// The lives of a process, one after the other.
    fn lives(
        &self,
        place: Arc<Place>,
        ids: Arc<AtomicU64>,
        closing: Arc<AtomicBool>,
    ) -> Result<tokio::task::JoinHandle<()>, AggregatorError> {
        let world = Arc::clone(&self.world);
        let scenario = self.scenario.clone();
        let engine: Arc<dyn Engine> = Arc::new(Working((self.parts.engine)(&scenario.options("engine"))?));
        let mut rng = fastrand::Rng::with_seed(self.seed ^ (0x11fe + place.number as u64));
        Ok(tokio::spawn(async move {
            while !closing.load(SeqCst) && world.failure().is_none() {
                let process = Arc::new(Process::new(ids.fetch_add(1, SeqCst), Arc::clone(&place.clock)));
                let store = Arc::new(SimStore::new(Arc::clone(&world), Arc::clone(&process)));
                let source = SimSource::new(Arc::clone(&world), Arc::clone(&process), rng.u64(..), &scenario);
                let options = scenario.options(&format!("p{}", process.id));
                let clock: Arc<dyn Clock> = place.clock.clone();
                let made = Service::new(options, store, Box::new(source), clock, Arc::clone(&engine));
                let service = match made {
                    Ok((service, handle)) => {
                        process.runs(handle);
                        service
                    }
                    Err(e) => return world.fail(format!("no service: {e}")),
                };
                world.note(Step::Born, process.id, place.number as u64);
                let stop = CancellationToken::new();
                *place.life() = Some((Arc::clone(&process), stop.clone()));
                live(&world, &process, service, stop).await;
                *place.life() = None;
                if !closing.load(SeqCst) {
                    sleep(Duration::from_millis(rng.u64(20..1_500))).await;
                }
            }
        }))
    }
}

/// An engine whose work takes no time here, however long it really takes.
struct Working(Arc<dyn Engine>);

#[async_trait]
impl Engine for Working {
    fn evaluate(
        &self,
        readings: &ReadingColumns,
        names: &SeriesNames,
    ) -> Result<Option<Evaluated>, AggregatorError> {
        self.0.evaluate(readings, names)
    }

    async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError> {
        let _at_work = AtWork::begin();
        self.0.deltas(pending).await
    }

    fn fixed_bytes(&self) -> usize {
        self.0.fixed_bytes()
    }

    async fn compact(&self, pending: Pending) -> Result<Pending, AggregatorError> {
        let _at_work = AtWork::begin();
        self.0.compact(pending).await
    }
}

/// One life, to its end or until somebody kills it.
async fn live(world: &Arc<World>, process: &Arc<Process>, service: Service, stop: CancellationToken) {
    let running = Stoppable { process: Arc::clone(process), inner: Box::pin(service.run(stop)) };
    let mut task = tokio::spawn(running);
    tokio::select! {
        biased;
        () = process.killed.notified() => {
            world.note(Step::Killed, process.id, 0);
            task.abort();
            let _ = task.await; // dropped wherever it was waiting
        }
        ended = &mut task => match ended {
            // Asked to end while the store was down for longer than it may wait: nothing is lost by that.
            Ok(Ok(()) | Err(AggregatorError::ShutdownTimeout { .. })) => {}
            Ok(Err(e)) => world.fail(format!("process {} ended: {e}", process.id)),
            Err(e) => world.fail(format!("process {} panicked: {e}", process.id)),
        },
    }
}

/// Sends the readings, in bursts and pauses.
async fn produce(world: Arc<World>, messages: Vec<Message>, scenario: Scenario, mut rng: fastrand::Rng) {
    let pause = scenario.production.div_f64(messages.len().max(1) as f64);
    let mut kept_back: Vec<Message> = Vec::new();
    let half = messages.len() / 2;
    let mut due = Instant::now();
    for (i, message) in messages.into_iter().enumerate() {
        due += pause.mul_f64(2.0 * rng.f64());
        if rng.u8(..4) == 0 {
            sleep_until(due).await;
        }
        if i == half && (world.topic().log.partitions.len() as u32) < scenario.fleet.partitions {
            world.topic().log.partitions.push(Partition::default());
            world.topic().group.start_over(0);
            world.note(Step::Grown, 0, 0);
            for message in kept_back.drain(..) {
                append(&world, message, &scenario, &mut rng);
            }
        }
        if message.partition as usize >= world.topic().log.partitions.len() {
            kept_back.push(message);
        } else {
            append(&world, message, &scenario, &mut rng);
        }
    }
}

fn append(world: &World, message: Message, scenario: &Scenario, rng: &mut fastrand::Rng) {
    let mut topic = world.topic();
    let log = &mut topic.log.partitions[message.partition as usize];
    if scenario.holes != 0 && rng.u32(..scenario.holes) == 0 {
        log.append(None);
    }
    log.append(Some(Arc::new(message)));
}

fn all_is_committed(world: &World) -> bool {
    let Ok(progress) = block_on(world.store.progress()) else { return false };
    let topic = world.topic();
    topic.log.partitions.iter().enumerate().all(|(p, log)| {
        progress.rows.iter().any(|row| {
            row.partition == partition(p) && row.next_offset == log.end() && row.quiet_at.is_some()
        })
    })
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
