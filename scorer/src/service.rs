//! The scorer for as long as a process lives: it looks at the schedules, works on tasks and publishes intervals.

use crate::backoff::Backoff;
use crate::blobs::Blobs;
use crate::core::Limits;
use crate::error::{Result, ScorerError};
use crate::filters::Filters;
use crate::janitor::tidy;
use crate::outages::{Outages, What};
use crate::output::publish::{Published, publish};
use crate::plan::ScoringTable;
use crate::planner::Looker;
use crate::prepare::prepare;
use crate::sets::{Loader, Sets};
use crate::worker::{Stored, work};
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, US_PER_S};
use fleetscore_store::{
    GivenBack, Publication, ReadinessSettings, RunCounts, ScheduleRow, ScheduleSpec, Store, Task,
};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a scorer does; several processes may share the roles in any way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Look at schedules and open runs.
    pub plan: bool,
    /// Score.
    pub work: bool,
    /// Publish to blob storage.
    pub publish: bool,
}

impl Roles {
    /// All of them.
    pub const ALL: Self = Self { plan: true, work: true, publish: true };
}

/// How a scorer is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Schedules to make or check at start; others in the store are served as well.
    pub schedules: Vec<ScheduleSpec>,
    /// What readiness is judged by.
    pub readiness: ReadinessSettings,
    /// Name of this process in leases.
    pub worker: String,
    /// How long a claimed task is held without a sign of life.
    pub lease_us: i64,
    /// How often schedules are looked at where nothing wakes the scorer.
    pub tick_us: i64,
    /// How long what is under way may go on after shutdown was asked for, before it is handed back.
    pub finish_us: i64,
    /// Tasks scored, and intervals published, at once.
    pub parallel_tasks: usize,
    /// What this process does.
    pub roles: Roles,
    /// Bounds of one look of the planner.
    pub limits: Limits,
    /// How late a reading may come: runs of intervals that it can change are not forgotten.
    pub lateness_us: i64,
    /// How long runs are kept after they ended; `None` = for ever.
    pub run_retention_us: Option<i64>,
    /// A fleet of which nothing comes for longer is an event; `None` = never.
    pub fleet_silence_us: Option<i64>,
    /// Number of checkpoints committed in this process: each is a reason to look at once.
    pub committed: Option<watch::Receiver<u64>>,
}

impl Options {
    /// All roles, with defaults: leases of a minute, a look every second, five seconds for the end, two tasks at once, runs kept for ever.
    pub fn new(
        schedules: Vec<ScheduleSpec>,
        readiness: ReadinessSettings,
        worker: impl Into<String>,
    ) -> Self {
        Self {
            schedules,
            readiness,
            worker: worker.into(),
            lease_us: 60 * US_PER_S,
            tick_us: US_PER_S,
            finish_us: 5 * US_PER_S,
            parallel_tasks: 2,
            roles: Roles::ALL,
            limits: Limits::default(),
            lateness_us: 0,
            run_retention_us: None,
            fleet_silence_us: None,
            committed: None,
        }
    }
}

/// What a scorer has done since it started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Runs that ended with what this process stored: those whose last shard it was.
    pub intervals_scored: u64,
    /// Rows that it stored, of whichever shards.
    pub predictions: u64,
    /// Of these, anomalies.
    pub anomalies: u64,
    /// Runs that ended as failed with a shard of this process: it gave one up, or they passed a threshold.
    pub failed: u64,
    /// The interval that was done last, with its schedule.
    pub last_interval: Option<(String, Interval)>,
    /// What became of its models, over all shards.
    pub last_counts: RunCounts,
    /// What schedules wait for, in words.
    pub waiting: Option<String>,
    /// Intervals this process published.
    pub publications: u64,
    /// What is waited for because it is away, or the newest fault that was recorded, in words; cleared when it is back, and
    /// by the next success.
    pub trouble: Option<String>,
}

/// What the parts of a scorer share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) blobs: Blobs,
    pub(crate) options: Options,
    pub(crate) sets: Sets,
    /// What regular expressions over series name.
    pub(crate) filters: Filters,
    /// Counts up when runs were opened: workers look at once.
    pub(crate) due: watch::Sender<u64>,
    /// Counts up when an interval was scored.
    pub(crate) scored: watch::Sender<u64>,
    /// Held by whoever asks for a task, until there is one.
    pub(crate) claiming: tokio::sync::Mutex<()>,
    /// The same for publications.
    publishing: tokio::sync::Mutex<()>,
    /// What was last said of sets and pins that do not fit: not repeated for every interval.
    misfits: Mutex<HashMap<&'static str, String>>,
    /// Schedules as they were read last: what a failed task is judged by while SQL is away.
    specs: Mutex<HashMap<String, ScheduleSpec>>,
    /// Shards that this process scored last: their models are in memory.
    warm: Mutex<VecDeque<i32>>,
    outages: Mutex<Outages>,
    snapshot: Mutex<Snapshot>,
}

/// Shards that a process claims rather than others. Few, so that several processes come to share the shards of a run
/// out instead of all having seen all.
const WARM: usize = 16;

impl Shared {
    pub(crate) fn new(store: Arc<dyn Store>, blobs: Blobs, options: Options, loader: Loader) -> Self {
        Self {
            store,
            blobs,
            options,
            sets: Sets::new(loader),
            filters: Filters::default(),
            due: watch::Sender::new(0),
            scored: watch::Sender::new(0),
            claiming: tokio::sync::Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
            misfits: Mutex::default(),
            specs: Mutex::default(),
            warm: Mutex::default(),
            outages: Mutex::default(),
            snapshot: Mutex::default(),
        }
    }

    pub(crate) fn tick(&self) -> Duration {
        Duration::from_micros(self.options.tick_us.max(1000).unsigned_abs())
    }

    /// How long what is under way may go on after shutdown was asked for.
    pub(crate) fn finish(&self) -> Duration {
        Duration::from_micros(self.options.finish_us.max(0).unsigned_abs())
    }

    /// A schedule as it is now: another process may have changed it.
    pub(crate) async fn spec(&self, schedule: &str) -> Result<ScheduleSpec> {
        let rows = self.store.schedules().await?;
        let found = rows.into_iter().find(|r| r.spec.name == schedule);
        let ScheduleRow { spec, .. } =
            found.ok_or_else(|| ScorerError::usage("schedule", format!("there is no `{schedule}`")))?;
        locked(&self.specs).insert(schedule.to_owned(), spec.clone());
        Ok(spec)
    }

    /// A schedule as it was read last; the defaults where it never was.
    pub(crate) fn known_spec(&self, schedule: &str) -> ScheduleSpec {
        locked(&self.specs).get(schedule).cloned().unwrap_or_default()
    }

    /// Shards that this process would rather have, those scored last first.
    pub(crate) fn warm(&self) -> Vec<i32> {
        locked(&self.warm).iter().copied().collect()
    }

    /// What a run of this set scores with, the pins as they are now.
    pub(crate) async fn table(&self, model_set: i64) -> Result<Arc<ScoringTable>> {
        let mut pins = self.store.model_pins().await?;
        pins.retain(|p| p.version != model_set);
        let mut versions: Vec<i64> = pins.iter().map(|p| p.version).collect();
        versions.sort_unstable();
        versions.dedup();
        versions.insert(0, model_set);
        let asked = Instant::now();
        let (sets, loaded) = self.sets.get(&versions).await.map_err(|e| match e {
            ScorerError::ModelSet { version, message, transient } if version != model_set => {
                let pinned = pins.iter().filter(|p| p.version == version).count();
                let message = format!(
                    "{message} ({pinned} series are pinned to it, see the view model_pins: mend it, or unpin them)"
                );
                ScorerError::ModelSet { version, message, transient }
            }
            e => e,
        })?;
        if loaded {
            self.answered(What::Blobs, asked);
        }
        let of = |version: i64| sets.iter().find(|s| s.version == version).cloned();
        let pins = pins.iter().filter_map(|p| Some((p.series, of(p.version)?))).collect();
        let own = of(model_set).ok_or_else(|| ScorerError::Internal("a loader gave another set".into()))?;
        let table = ScoringTable::with_pins(own, pins);
        let without: Vec<_> = table.pinned_without_model().collect();
        let misfit = without.first().map(|(series, version)| {
            format!(
                "{} pinned series have no model in the set they are pinned to and become no_model, the first is \
                 series {series} (set {version}): see the view model_pins",
                without.len()
            )
        });
        self.say("pins", misfit);
        Ok(Arc::new(table))
    }

    /// What there is to wait for, in words.
    pub(crate) fn wait_for(&self, what: &str) {
        locked(&self.snapshot).waiting = Some(what.to_owned());
    }

    /// Warns of something that every run meets again, once for as long as it stays the same.
    pub(crate) fn say(&self, what: &'static str, text: Option<String>) {
        let mut said = locked(&self.misfits);
        match text {
            Some(text) if said.get(what) != Some(&text) => {
                tracing::warn!("{text}");
                said.insert(what, text);
            }
            Some(_) => {}
            None => {
                said.remove(what);
            }
        }
    }

    /// What was said last of this.
    pub(crate) fn said(&self, what: &'static str) -> Option<String> {
        locked(&self.misfits).get(what).cloned()
    }

    /// A fault that is waited out. Of a service that is away one line says what for, whoever meets it.
    pub(crate) fn trouble(&self, doing: &str, e: &ScorerError) {
        let (text, first) = match What::of(e) {
            Some(what) => {
                let first = locked(&self.outages).gone(what, Instant::now());
                (format!("waiting for {}: {doing}: {e}", what.name()), first)
            }
            None => (format!("{doing}: {e}"), true),
        };
        let mut snapshot = locked(&self.snapshot);
        if first && snapshot.trouble.as_ref() != Some(&text) {
            tracing::warn!("{text}");
        }
        snapshot.trouble = Some(text);
    }

    /// A service has answered what was asked at this time: where it was away, one line says for how long.
    pub(crate) fn answered(&self, what: What, asked: Instant) {
        let mut outages = locked(&self.outages);
        let Some(away) = outages.back(what, asked, Instant::now()) else { return };
        let none = outages.none();
        drop(outages);
        let away = humantime::format_duration(Duration::from_millis(away.as_millis() as u64));
        tracing::info!("{} is back after {away}: the scorer goes on", what.name());
        if none {
            locked(&self.snapshot).trouble = None;
        }
    }

    /// A shard was stored.
    pub(crate) fn note_scored(&self, task: &Task, stored: &Stored) {
        {
            let mut warm = locked(&self.warm);
            warm.retain(|shard| *shard != task.shard);
            warm.push_front(task.shard);
            warm.truncate(WARM);
        }
        let calm = locked(&self.outages).none();
        {
            let mut s = locked(&self.snapshot);
            s.predictions += stored.counts.rows().unsigned_abs();
            s.anomalies += stored.counts.anomalies.unsigned_abs();
            if calm {
                s.trouble = None;
            }
            if let Some((state, counts)) = stored.ended {
                s.intervals_scored += 1;
                s.failed += u64::from(state == RunState::Failed);
                s.last_interval = Some((task.schedule.clone(), task.interval));
                s.last_counts = counts;
            }
        }
        if stored.ended.is_some() {
            self.scored.send_modify(|n| *n += 1);
        }
    }

    /// An attempt failed; `given` is what came of giving the task back.
    pub(crate) fn note_failed(&self, task: &Task, e: &ScorerError, given: Option<GivenBack>) {
        self.note_given_up(task, &e.to_string(), given);
    }

    /// The same, in words.
    pub(crate) fn note_given_up(&self, task: &Task, e: &str, given: Option<GivenBack>) {
        {
            let mut s = locked(&self.snapshot);
            s.failed += u64::from(given == Some(GivenBack::Ended(RunState::Failed)));
            s.trouble = Some(format!("run {} of {}: {e}", task.run_id, task.interval));
        }
        if let Some(GivenBack::Ended(_)) = given {
            self.scored.send_modify(|n| *n += 1); // its other shards may be due for publication
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing behind these locks is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A scorer, ready to run.
pub struct Service {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({})", self.shared.options.worker)
    }
}

/// What others see of a running scorer. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({})", self.shared.options.worker)
    }
}

impl Handle {
    /// Of a scorer that runs without a service.
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What the scorer has done so far.
    pub fn snapshot(&self) -> Snapshot {
        locked(&self.shared.snapshot).clone()
    }

    /// Number of intervals scored by this process, whenever it changes.
    pub fn scored(&self) -> watch::Receiver<u64> {
        self.shared.scored.subscribe()
    }
}

impl Service {
    /// A scorer over this store and this root; nothing is contacted yet.
    pub fn new(options: Options, store: Arc<dyn Store>, blobs: Blobs) -> (Self, Handle) {
        let loader = registry(store.clone(), blobs.clone());
        Self::with_loader(options, store, blobs, loader)
    }

    pub(crate) fn with_loader(
        options: Options,
        store: Arc<dyn Store>,
        blobs: Blobs,
        loader: Loader,
    ) -> (Self, Handle) {
        let shared = Arc::new(Shared::new(store, blobs, options, loader));
        (Self { shared: shared.clone() }, Handle { shared })
    }

    /// Works until shutdown. Transient faults are waited out; what is wrong with one run is recorded in its row.
    ///
    /// # Errors
    /// A user's mistake in the schedules (another window than the stored one, no multiple of the pane), or a part of
    /// the scorer that ended in a panic.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let shared = self.shared;
        if !prepare(&shared, &shutdown).await? {
            return Ok(());
        }
        let stop = shutdown.child_token();
        let mut parts: JoinSet<()> = JoinSet::new();
        let tasks = shared.options.parallel_tasks.max(1);
        if shared.options.roles.plan {
            parts.spawn(look_on(shared.clone(), stop.clone()));
        }
        if shared.options.roles.plan || shared.options.roles.publish {
            parts.spawn(tidy(shared.clone(), stop.clone()));
        }
        if shared.options.roles.work {
            for _ in 0..tasks {
                parts.spawn(work(shared.clone(), None, stop.clone()));
            }
        }
        if shared.options.roles.publish {
            for _ in 0..tasks {
                parts.spawn(publish_on(shared.clone(), stop.clone()));
            }
        }
        let mut result = Ok(());
        while let Some(joined) = parts.join_next().await {
            if let Err(e) = joined
                && result.is_ok()
            {
                stop.cancel();
                result = Err(ScorerError::Internal(format!("a part of the scorer ended unexpectedly: {e}")));
            }
        }
        result
    }
}

/// Loads sets from the registry.
pub(crate) fn registry(store: Arc<dyn Store>, blobs: Blobs) -> Loader {
    Arc::new(move |version| {
        let (store, blobs) = (store.clone(), blobs.clone());
        Box::pin(async move {
            let row = store.model_set(version).await?;
            let row = row.ok_or_else(|| ScorerError::ModelSet {
                version,
                message: "it is not in the registry".to_owned(),
                transient: false,
            })?;
            crate::models::load(&blobs, store.as_ref(), &row).await.map_err(|e| ScorerError::ModelSet {
                version,
                message: e.to_string(),
                transient: e.is_transient(),
            })
        })
    })
}

/// Looks at the schedules whenever something was committed, and every tick.
async fn look_on(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut looker = Looker::new(shared.store.clone(), shared.options.readiness, shared.options.limits);
    let mut committed = shared.options.committed.clone();
    let mut backoff = Backoff::new();
    while !shutdown.is_cancelled() {
        let asked = Instant::now();
        match looker.look().await {
            Ok(looked) => {
                shared.answered(What::Sql, asked);
                locked(&shared.snapshot).waiting = looked.waiting;
                if looked.opened > 0 {
                    shared.due.send_modify(|n| *n += 1);
                }
                if looked.fenced {
                    backoff.wait(&shutdown).await;
                    continue;
                }
                backoff.reset();
                if looked.more {
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            Err(e) => {
                shared.trouble("planning", &e.into());
                backoff.wait(&shutdown).await;
                continue;
            }
        }
        let woken = async {
            // Without a watch, or once its sender is gone, the tick alone wakes us.
            let changed = match &mut committed {
                Some(watch) => watch.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep(shared.tick()) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Publishes what is due, and then waits for the next scored interval.
async fn publish_on(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut scored = shared.scored.subscribe();
    let mut backoff = Backoff::new();
    while !shutdown.is_cancelled() {
        let turn = tokio::select! {
            turn = shared.publishing.lock() => turn,
            () = shutdown.cancelled() => return,
        };
        scored.borrow_and_update();
        let asked = Instant::now();
        match shared.store.claim_publication(&shared.options.worker, shared.options.lease_us).await {
            Ok(Some(publication)) => {
                drop(turn);
                shared.answered(What::Sql, asked);
                backoff.reset();
                let ended = async {
                    shutdown.cancelled().await;
                    tokio::time::sleep(shared.finish()).await
                };
                tokio::select! {
                    () = publish_one(&shared, &publication, &shutdown) => {}
                    () = ended => return,
                }
            }
            Ok(None) => {
                shared.answered(What::Sql, asked);
                backoff.reset();
                tokio::select! {
                    _ = scored.changed() => {}
                    () = tokio::time::sleep(shared.tick()) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            Err(e) => {
                shared.trouble("claiming a publication", &e.into());
                backoff.wait(&shutdown).await;
            }
        }
    }
}

/// Publishes one interval, waiting transient faults out for as long as it is ours.
pub(crate) async fn publish_one(shared: &Shared, publication: &Publication, shutdown: &CancellationToken) {
    let mut backoff = Backoff::new();
    let mut publication = publication.clone();
    let lease_us = shared.options.lease_us;
    loop {
        let asked = Instant::now();
        match publish(shared.store.as_ref(), &shared.blobs, &mut publication, lease_us).await {
            Ok(Published::Done { .. }) => {
                shared.answered(What::Sql, asked);
                shared.answered(What::Blobs, asked);
                locked(&shared.snapshot).publications += 1;
                return;
            }
            // The run that is under way makes it due again.
            Ok(Published::Postponed) => return,
            Ok(Published::Fenced) => {
                tracing::info!(interval = %publication.interval, "another publisher has this interval now");
                return;
            }
            Err(e) => {
                // What a person can mend is waited for as well; a bug of ours is left to the next holder of the lease.
                let again = e.is_transient() || e.domain() == Domain::User;
                shared.trouble("publishing", &e.into());
                if !backoff.wait(shutdown).await || !again {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
