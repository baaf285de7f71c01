//! The scorer for as long as a process lives: it looks at the schedules, works on tasks and publishes intervals.

use crate::backoff::Backoff;
use crate::blobs::Blobs;
use crate::core::Limits;
use crate::error::{Result, ScorerError};
use crate::output::publish::{Published, publish};
use crate::plan::ScoringTable;
use crate::planner::Looker;
use crate::sets::{Loader, Sets};
use crate::worker::work;
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, US_PER_S};
use fleetscore_schemas::window::Feature;
use fleetscore_store::{Publication, ReadinessSettings, RunCounts, ScheduleSpec, Store, Task};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
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
    /// More models than this failing in one interval fail its run; −1 = none does.
    pub error_threshold: i64,
    /// Attempts after which a run is given up.
    pub max_attempts: i64,
    /// Tasks scored, and intervals published, at once.
    pub parallel_tasks: usize,
    /// What this process does.
    pub roles: Roles,
    /// Bounds of one look of the planner.
    pub limits: Limits,
    /// Number of checkpoints committed in this process: each is a reason to look at once.
    pub committed: Option<watch::Receiver<u64>>,
}

impl Options {
    /// All roles, with defaults: leases of a minute, a look every second, three attempts, two tasks at once, no
    /// threshold.
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
            error_threshold: -1,
            max_attempts: 3,
            parallel_tasks: 2,
            roles: Roles::ALL,
            limits: Limits::default(),
            committed: None,
        }
    }
}

/// What a scorer has done since it started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Runs whose predictions this process stored.
    pub intervals_scored: u64,
    /// Their rows.
    pub predictions: u64,
    /// Of these, anomalies.
    pub anomalies: u64,
    /// Runs this process gave up, or that passed the threshold.
    pub failed: u64,
    /// The interval stored last, with its schedule.
    pub last_interval: Option<(String, Interval)>,
    /// What became of its models.
    pub last_counts: RunCounts,
    /// What schedules wait for, in words.
    pub waiting: Option<String>,
    /// Intervals this process published.
    pub publications: u64,
    /// The newest fault that is waited out or was recorded, in words; cleared by the next success.
    pub trouble: Option<String>,
}

/// What the parts of a scorer share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) blobs: Blobs,
    pub(crate) options: Options,
    pub(crate) sets: Sets,
    /// Counts up when runs were opened: workers look at once.
    pub(crate) due: watch::Sender<u64>,
    /// Counts up when an interval was scored.
    scored: watch::Sender<u64>,
    /// What was last said of sets and pins that do not fit: not repeated for every interval.
    misfits: Mutex<HashMap<&'static str, String>>,
    snapshot: Mutex<Snapshot>,
}

impl Shared {
    pub(crate) fn new(store: Arc<dyn Store>, blobs: Blobs, options: Options, loader: Loader) -> Self {
        Self {
            store,
            blobs,
            options,
            sets: Sets::new(loader),
            due: watch::Sender::new(0),
            scored: watch::Sender::new(0),
            misfits: Mutex::default(),
            snapshot: Mutex::default(),
        }
    }

    pub(crate) fn tick(&self) -> Duration {
        Duration::from_micros(self.options.tick_us.max(1000).unsigned_abs())
    }

    /// Features of a schedule as they are now: another process may have changed them.
    pub(crate) async fn features(&self, schedule: &str) -> Result<Arc<[Feature]>> {
        let rows = self.store.schedules().await?;
        let row = rows.into_iter().find(|r| r.spec.name == schedule);
        let row = row.ok_or_else(|| ScorerError::usage("schedule", format!("there is no `{schedule}`")))?;
        Ok(row.spec.features.into())
    }

    /// What a run of this set scores with, the pins as they are now.
    pub(crate) async fn table(&self, model_set: i64) -> Result<Arc<ScoringTable>> {
        let mut pins = self.store.model_pins().await?;
        pins.retain(|p| p.version != model_set);
        let mut versions: Vec<i64> = pins.iter().map(|p| p.version).collect();
        versions.sort_unstable();
        versions.dedup();
        versions.insert(0, model_set);
        let sets = self.sets.get(&versions).await.map_err(|e| match e {
            ScorerError::ModelSet { version, message, transient } if version != model_set => {
                let pinned = pins.iter().filter(|p| p.version == version).count();
                let message = format!(
                    "{message} ({pinned} series are pinned to it, see the view model_pins: mend it, or unpin them)"
                );
                ScorerError::ModelSet { version, message, transient }
            }
            e => e,
        })?;
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

    /// A fault that is waited out.
    pub(crate) fn trouble(&self, doing: &str, e: &ScorerError) {
        let text = format!("{doing}: {e}");
        let mut snapshot = locked(&self.snapshot);
        if snapshot.trouble.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            snapshot.trouble = Some(text);
        }
    }

    pub(crate) fn note_scored(&self, task: &Task, counts: RunCounts, state: RunState) {
        let rows =
            counts.scored + counts.no_data + counts.no_model + counts.model_error + counts.input_invalid;
        {
            let mut s = locked(&self.snapshot);
            s.intervals_scored += 1;
            s.failed += u64::from(state == RunState::Failed);
            s.predictions += rows.unsigned_abs();
            s.anomalies += counts.anomalies.unsigned_abs();
            s.last_interval = Some((task.schedule.clone(), task.interval));
            s.last_counts = counts;
            s.trouble = None;
        }
        self.scored.send_modify(|n| *n += 1);
    }

    pub(crate) fn note_failed(&self, task: &Task, e: &ScorerError, give_up: bool) {
        let mut s = locked(&self.snapshot);
        s.failed += u64::from(give_up);
        s.trouble = Some(format!("run {} of {}: {e}", task.run_id, task.interval));
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

/// Makes or checks the schedules; false if shutdown came first.
async fn prepare(shared: &Arc<Shared>, shutdown: &CancellationToken) -> Result<bool> {
    let mut backoff = Backoff::new();
    loop {
        let done = async {
            // A schedule's view is made of panes: their length must be known first.
            if shared.store.pane_settings().await?.is_none() {
                return Ok(false);
            }
            shared.store.put_readiness(&shared.options.readiness).await?;
            for spec in &shared.options.schedules {
                shared.store.put_schedule(spec).await?;
            }
            Ok::<_, ScorerError>(true)
        };
        match done.await {
            Ok(true) => return Ok(true),
            Ok(false) => {
                locked(&shared.snapshot).waiting = Some("nothing has been aggregated yet".to_owned());
                tokio::select! {
                    () = tokio::time::sleep(shared.tick().min(Duration::from_millis(200))) => {}
                    () = shutdown.cancelled() => return Ok(false),
                }
            }
            Err(e) if e.is_transient() => {
                shared.trouble("preparing schedules", &e);
                if !backoff.wait(shutdown).await {
                    return Ok(false);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// Looks at the schedules whenever something was committed, and every tick.
async fn look_on(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut looker = Looker::new(shared.store.clone(), shared.options.readiness, shared.options.limits);
    let mut committed = shared.options.committed.clone();
    let mut backoff = Backoff::new();
    while !shutdown.is_cancelled() {
        match looker.look().await {
            Ok(looked) => {
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

/// How long a publication may go on after shutdown was asked for.
const FINISH: Duration = Duration::from_secs(5);

/// Publishes what is due, and then waits for the next scored interval.
async fn publish_on(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut scored = shared.scored.subscribe();
    let mut backoff = Backoff::new();
    while !shutdown.is_cancelled() {
        scored.borrow_and_update();
        match shared.store.claim_publication(&shared.options.worker, shared.options.lease_us).await {
            Ok(Some(publication)) => {
                backoff.reset();
                let ended = async {
                    shutdown.cancelled().await;
                    tokio::time::sleep(FINISH).await
                };
                tokio::select! {
                    () = publish_one(&shared, &publication, &shutdown) => {}
                    () = ended => return,
                }
            }
            Ok(None) => {
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
        match publish(shared.store.as_ref(), &shared.blobs, &mut publication, lease_us).await {
            Ok(Published::Done { .. }) => {
                locked(&shared.snapshot).publications += 1;
                return;
            }
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
