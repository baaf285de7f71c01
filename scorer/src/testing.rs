//! What tests of this crate are made from: a store in memory on a clock that is set by hand, a stream of checkpoints into
//! it, and model sets without a registry.

use crate::blobs::Blobs;
use crate::core::Limits;
use crate::error::ScorerError;
use crate::models::{Entry, ModelSet};
use crate::planner::{Looked, Looker};
use crate::service::{Options, Shared};
use crate::sets::Loader;
use crate::worker::work;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use fleetscore_kernel::{Kernel, Model};
use fleetscore_schemas::delta::{self, Partial};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::status::{RunCause, RunScope, RunState};
use fleetscore_schemas::time::{Edges, Interval, Timestamp};
use fleetscore_schemas::window::Feature;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::*;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

pub(crate) const MINUTE: i64 = 60_000_000;
const SOURCE: &str = "cluster";

/// So many minutes after 2026-01-01T00:00:00Z.
pub(crate) fn at(minute: i64) -> Timestamp {
    Timestamp(1_767_225_600_000_000 + minute * MINUTE)
}

pub(crate) fn span(from: i64, to: i64) -> Interval {
    Interval { start: at(from), end: at(to) }
}

pub(crate) fn readiness() -> ReadinessSettings {
    ReadinessSettings { max_disorder_us: 10_000_000, owner_ttl_us: 30_000_000, max_wait_us: 10 * MINUTE }
}

/// A schedule in minutes, with no delays.
pub(crate) fn schedule(name: &str, window: i64, hop: i64, catch_up: CatchUp) -> ScheduleSpec {
    ScheduleSpec {
        hop_us: hop * MINUTE,
        catch_up,
        rescore_delay_us: Some(0),
        rescores_per_minute: None,
        republish_gap_us: 0,
        ..ScheduleSpec::new(name, window * MINUTE)
    }
}

/// Normal below `limit`: decision = limit − x.
pub(crate) fn below(limit: f64) -> Model {
    Model {
        features: 1,
        mean: vec![],
        scale: vec![],
        kernel: Kernel::Linear,
        support_vectors: vec![1.0],
        dual_coef: vec![-1.0],
        rho: -limit,
    }
}

/// A run of all series in one shard.
pub(crate) fn new_run(interval: Interval, cause: RunCause, model_set: i64) -> NewRun {
    NewRun {
        run_id: uuid::Uuid::now_v7(),
        schedule: "default".into(),
        interval,
        cause,
        model_set: Some(model_set),
        data_only: false,
        scope: RunScope::All,
        series: None,
        cuts: Vec::new(),
        retry_of: None,
        note: None,
    }
}

/// Every set has a model for series 1 to 4: normal below 10 times its version; that of 4 was refused.
pub(crate) fn loader() -> Loader {
    Arc::new(|version| {
        let entry = move |series: SeriesId| Entry {
            series,
            name: name(series),
            model: format!("model_{series}"),
            outcome: if series == 4 { Err("refused".into()) } else { Ok(below(10.0 * version as f64)) },
            normal: Some(vec![(f64::NEG_INFINITY, 10.0 * version as f64)]),
        };
        let set = ModelSet::from_entries(version, vec![Feature::Mean], (1..=4).map(entry).collect());
        Box::pin(async move { set.map_err(|e| ScorerError::Internal(e.to_string())) })
    })
}

/// Series are named so that their ids count from 1.
pub(crate) fn name(series: SeriesId) -> SeriesName {
    SeriesName::new("d", format!("s{series:04}"))
}

pub(crate) fn memory_blobs() -> Blobs {
    Blobs::on(Arc::new(InMemory::new()), Path::default())
}

/// A store that remembers the fires it was told of.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn Store>,
    fires: Arc<Mutex<Vec<Fire>>>,
}

#[async_trait::async_trait]
impl fleetscore_store::forward::Forward for Noting {
    fn inner(&self) -> &dyn Store {
        &*self.inner
    }
    async fn plan(&self, plan: &Plan) -> Result<Outcome> {
        let outcome = self.inner.plan(plan).await?;
        if outcome == Outcome::Done {
            self.fires.lock().unwrap().extend(plan.fires.iter().cloned());
        }
        Ok(outcome)
    }
}

/// A store with a stream into it, and a planner over it.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    /// Fires of cron schedules, in the order of their plans.
    pub(crate) fires: Arc<Mutex<Vec<Fire>>>,
    clock: Arc<AtomicI64>,
    claims: Vec<Claim>,
    looker: Looker,
    pub(crate) shared: Arc<Shared>,
}

impl World {
    /// A store in memory with four series, all partitions claimed, no model set.
    pub(crate) async fn new(schedules: &[ScheduleSpec], partitions: i32) -> Self {
        let clock = Arc::new(AtomicI64::new(at(1_000_000).0));
        let told = clock.clone();
        let store = MemoryStore::with_clock(Arc::new(move || Timestamp(told.load(Ordering::SeqCst))));
        Self::on(Arc::new(store), clock, schedules, partitions).await
    }

    /// The same on a clock that goes by itself: pauses pass.
    pub(crate) async fn live(schedules: &[ScheduleSpec]) -> Self {
        Self::on(Arc::new(MemoryStore::new()), Arc::default(), schedules, 1).await
    }

    /// The same on any store.
    pub(crate) async fn on(
        store: Arc<dyn Store>,
        clock: Arc<AtomicI64>,
        schedules: &[ScheduleSpec],
        partitions: i32,
    ) -> Self {
        let fires = Arc::new(Mutex::default());
        let store: Arc<dyn Store> = Arc::new(Noting { inner: store, fires: fires.clone() });
        store.migrate().await.unwrap();
        let panes = PaneSettings {
            interval_us: MINUTE,
            edges: Edges::Start,
            filter: String::new(),
            value: String::new(),
            ts_unit: "ms".into(),
        };
        store.pin_panes(&panes).await.unwrap();
        store.put_readiness(&readiness()).await.unwrap();
        for spec in schedules {
            store.put_schedule(spec).await.unwrap();
        }
        let names: Vec<_> = (1..=6).map(name).collect();
        let ids = store.intern(&names, 1000).await.unwrap();
        assert_eq!(ids, (1..=6).map(Some).collect::<Vec<_>>());
        let all: Vec<_> = (0..partitions).map(|p| TopicPartition::new("t", p)).collect();
        let rows: Vec<_> = all.iter().map(|p| (p.clone(), 0)).collect();
        store.add_partitions(SOURCE, &rows).await.unwrap();
        let claims = store.claim(SOURCE, "aggregator", &all).await.unwrap();
        let mut options = Options::new(schedules.to_vec(), readiness(), "scorer");
        options.tick_us = 20_000;
        options.finish_us = 200_000;
        options.limits = small_limits();
        let shared = Arc::new(Shared::new(store.clone(), memory_blobs(), options, loader()));
        let looker = Looker::new(store.clone(), readiness(), small_limits());
        Self { store, fires, clock, claims, looker, shared }
    }

    /// Another planner, as after a restart or in another process.
    pub(crate) fn restart(&mut self) {
        self.looker = Looker::new(self.store.clone(), readiness(), small_limits());
    }

    pub(crate) fn pass(&self, minutes: i64) {
        self.pass_us(minutes * MINUTE);
    }

    pub(crate) fn pass_us(&self, us: i64) {
        self.clock.fetch_add(us, Ordering::SeqCst);
    }

    /// One reading for each (minute, series, value) through a partition, whose watermark comes to `watermark`.
    pub(crate) async fn send(
        &mut self,
        partition: usize,
        readings: &[(i64, SeriesId, f64)],
        watermark: Option<Timestamp>,
        quiet: bool,
    ) {
        let mut panes: BTreeMap<(Timestamp, SeriesId), Partial> = BTreeMap::new();
        for (minute, series, value) in readings {
            let one = Partial::of(at(*minute), *value);
            panes.entry((at(*minute), *series)).and_modify(|p| *p = p.merge(&one)).or_insert(one);
        }
        let now = self.store.now().await.unwrap();
        let claim = &mut self.claims[partition];
        let advance = Advance {
            partition: claim.partition.clone(),
            epoch: claim.epoch,
            from: claim.next_offset,
            to: claim.next_offset + 1,
            watermark,
            last_broker_time: None,
            end_offset: None,
            quiet_at: quiet.then_some(now),
            floor: None,
        };
        claim.next_offset += 1;
        let checkpoint = Checkpoint {
            source: SOURCE.into(),
            owner: "aggregator".into(),
            advances: vec![advance],
            deltas: batch(&panes),
            dead_letters: vec![],
            losses: vec![],
            replayed: vec![],
            notices: Vec::new(),
        };
        assert_eq!(self.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    }

    /// From now on a planner with the bounds of a service.
    pub(crate) fn widen(&mut self) {
        self.looker = Looker::new(self.store.clone(), readiness(), Limits::default());
    }

    /// One look.
    pub(crate) async fn look_at(&mut self) -> Looked {
        self.looker.look().await.unwrap()
    }

    /// One look; what it opened or started.
    pub(crate) async fn look_once(&mut self) -> usize {
        self.looker.look().await.unwrap().opened
    }

    /// The stored row of a schedule.
    pub(crate) async fn row(&self, schedule: &str) -> ScheduleRow {
        let rows = self.store.schedules().await.unwrap();
        rows.into_iter().find(|r| r.spec.name == schedule).unwrap()
    }

    /// Looks until there is nothing more to do at once.
    pub(crate) async fn look(&mut self) -> Option<String> {
        for _ in 0..2000 {
            let looked = self.looker.look().await.unwrap();
            assert!(!looked.fenced, "nobody else plans");
            if !looked.more {
                return looked.waiting;
            }
        }
        panic!("the planner does not come to rest");
    }

    /// Scores every run that is open.
    pub(crate) async fn score(&self) {
        let filter = RunFilter { states: vec![RunState::Running], ..RunFilter::default() };
        let ids = self.store.runs(&filter).await.unwrap().iter().map(|r| r.run_id).collect();
        work(self.shared.clone(), Some(ids), CancellationToken::new()).await;
    }

    pub(crate) async fn activate(&self) -> i64 {
        self.activate_for(&["mean"]).await
    }

    /// Adds a set for these features and makes it the active one.
    pub(crate) async fn activate_for(&self, features: &[&str]) -> i64 {
        self.activate_row(features, None).await
    }

    /// Adds a set that was trained on this range and makes it the active one.
    pub(crate) async fn activate_trained(&self, trained_on: Option<Interval>) -> i64 {
        self.activate_row(&["mean"], trained_on).await
    }

    async fn activate_row(&self, features: &[&str], trained_on: Option<Interval>) -> i64 {
        let version = self.store.reserve_model_set().await.unwrap();
        let set = ModelSetRow {
            version,
            path: format!("models/{version}-test"),
            active: true,
            models: 3,
            refused: 1,
            origin: "import".into(),
            checksum: String::new(),
            features: features.iter().map(|f| (*f).to_owned()).collect(),
            trained_on,
            training_rows: None,
            note: None,
            created_by: "test".into(),
            created_at: Timestamp(0),
        };
        self.store.add_model_set(&set, &[], true).await.unwrap();
        version
    }

    /// What became of a schedule's intervals, oldest first, in words: `7 schedule` is a run of the interval that starts in
    /// minute 7 after `origin`, `3-5 …` are skipped ones with the reason.
    pub(crate) async fn told(&self, schedule: &str, origin: i64) -> Vec<String> {
        let filter = RunFilter { schedule: Some(schedule.into()), ..RunFilter::default() };
        let mut rows = self.store.runs(&filter).await.unwrap();
        rows.sort_by_key(|r| (r.interval.start, r.opened_at, r.run_id));
        let minute = |t: Timestamp| (t.0 - at(origin).0) / MINUTE;
        rows.iter()
            .map(|r| match r.state {
                RunState::Skipped => {
                    let why = r.error.clone().unwrap_or_default();
                    let why = why.split(" since ").next().unwrap_or_default();
                    format!("{}-{} {why}", minute(r.interval.start), minute(r.interval.end))
                }
                _ => format!("{} {}", minute(r.interval.start), r.cause),
            })
            .collect()
    }

    /// Runs of a schedule, oldest interval first, as (from, to, state, cause, data_only) in minutes.
    pub(crate) async fn runs(&self, schedule: &str) -> Vec<(i64, i64, RunState, RunCause, bool)> {
        let filter = RunFilter { schedule: Some(schedule.into()), ..RunFilter::default() };
        let mut rows = self.store.runs(&filter).await.unwrap();
        rows.sort_by_key(|r| (r.interval.start, r.opened_at, r.run_id));
        let minute = |t: Timestamp| (t.0 - at(0).0) / MINUTE;
        rows.iter()
            .map(|r| (minute(r.interval.start), minute(r.interval.end), r.state, r.cause, r.data_only))
            .collect()
    }
}

pub(crate) fn small_limits() -> Limits {
    Limits { open: 7, scan: 5, late: 3 }
}

fn batch(panes: &BTreeMap<(Timestamp, SeriesId), Partial>) -> RecordBatch {
    let times = |f: &dyn Fn((&(Timestamp, SeriesId), &Partial)) -> Timestamp| -> ArrayRef {
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(panes.iter().map(|p| f(p).0)).with_timezone("UTC"),
        )
    };
    let floats = |f: &dyn Fn(&Partial) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(panes.values().map(f)))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(panes.keys().map(|k| k.1))),
        times(&|p| p.0.0),
        Arc::new(Int64Array::from_iter_values(panes.values().map(|p| p.count))),
        floats(&|p| p.sum),
        floats(&|p| p.m2),
        floats(&|p| p.min),
        floats(&|p| p.max),
        times(&|p| p.1.first.0),
        floats(&|p| p.first.1),
        times(&|p| p.1.last.0),
        floats(&|p| p.last.1),
    ];
    RecordBatch::try_new(delta::schema(), columns).unwrap()
}
