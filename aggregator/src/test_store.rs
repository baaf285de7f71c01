//! A store that now and then does not answer, before or after it has done what was asked.

use async_trait::async_trait;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::*;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug)]
pub(crate) struct FlakyStore<S> {
    pub(crate) inner: S,
    rng: Mutex<fastrand::Rng>,
    /// Of so many calls one fails, half of these after they were done; 0 = never.
    one_in: u32,
    /// How long it takes to make ids.
    pub(crate) interning: Duration,
}

impl<S: Store> FlakyStore<S> {
    pub(crate) fn new(inner: S, one_in: u32, seed: u64) -> Self {
        let rng = Mutex::new(fastrand::Rng::with_seed(seed));
        Self { inner, rng, one_in, interning: Duration::ZERO }
    }

    async fn flaky<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let dice = if self.one_in == 0 { 2 } else { self.rng.lock().unwrap().u32(..2 * self.one_in) };
        let lost = |m: &str| Err(StoreError::Unavailable { message: m.into() });
        match dice {
            0 => lost("connection lost before"),
            1 => {
                let _ = call.await;
                lost("connection lost after")
            }
            _ => call.await,
        }
    }
}

#[async_trait]
impl<S: Store> Store for FlakyStore<S> {
    fn kind(&self) -> StoreKind {
        self.inner.kind()
    }
    async fn migrate(&self) -> Result<()> {
        self.inner.migrate().await
    }
    async fn store_id(&self) -> Result<Uuid> {
        self.inner.store_id().await
    }
    async fn now(&self) -> Result<Timestamp> {
        self.inner.now().await
    }
    async fn pin_panes(&self, settings: &PaneSettings) -> Result<()> {
        self.inner.pin_panes(settings).await
    }
    async fn pane_settings(&self) -> Result<Option<PaneSettings>> {
        self.inner.pane_settings().await
    }
    async fn put_readiness(&self, settings: &ReadinessSettings) -> Result<()> {
        self.inner.put_readiness(settings).await
    }
    async fn add_partitions(&self, source: &str, partitions: &[(TopicPartition, i64)]) -> Result<()> {
        self.inner.add_partitions(source, partitions).await
    }
    async fn progress(&self) -> Result<Progress> {
        self.flaky(self.inner.progress()).await
    }
    async fn claim(&self, source: &str, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>> {
        self.flaky(self.inner.claim(source, owner, partitions)).await
    }
    async fn heartbeat(&self, source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome> {
        self.flaky(self.inner.heartbeat(source, owner, beats)).await
    }
    async fn intern(&self, names: &[SeriesName], max_series: u32) -> Result<Vec<Option<SeriesId>>> {
        // Before the ids are made: a call that is broken off meanwhile has done nothing.
        tokio::time::sleep(self.interning).await;
        self.flaky(self.inner.intern(names, max_series)).await
    }
    async fn lookup(&self, names: &[SeriesName]) -> Result<Vec<Option<SeriesId>>> {
        self.inner.lookup(names).await
    }
    async fn series(&self) -> Result<Vec<(SeriesId, SeriesName)>> {
        self.inner.series().await
    }
    async fn series_batches(&self) -> Result<BatchStream<'_>> {
        self.inner.series_batches().await
    }
    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outcome> {
        self.flaky(self.inner.checkpoint(checkpoint)).await
    }
    async fn retain_from(&self, floor: Timestamp) -> Result<u64> {
        self.inner.retain_from(floor).await
    }
    async fn pane_range(&self) -> Result<Option<(Timestamp, Timestamp)>> {
        self.inner.pane_range().await
    }
    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>> {
        self.inner.dead_letters(filter).await
    }
    async fn put_schedule(&self, spec: &ScheduleSpec) -> Result<()> {
        self.inner.put_schedule(spec).await
    }
    async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        self.inner.schedules().await
    }
    async fn changed_panes(&self, limit: usize) -> Result<Vec<ChangedPane>> {
        self.inner.changed_panes(limit).await
    }
    async fn plan(&self, plan: &Plan) -> Result<Outcome> {
        self.inner.plan(plan).await
    }
    async fn stale_series(&self, schedule: &str, interval: Interval) -> Result<u64> {
        self.inner.stale_series(schedule, interval).await
    }
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        self.inner.runs(filter).await
    }
    async fn claim_task(&self, claim: &TaskClaim) -> Result<Option<Task>> {
        self.inner.claim_task(claim).await
    }
    async fn renew_task(&self, task: &Task, lease_us: i64) -> Result<Outcome> {
        self.inner.renew_task(task, lease_us).await
    }
    async fn windows(&self, interval: Interval) -> Result<BatchStream<'_>> {
        self.inner.windows(interval).await
    }
    async fn commit_predictions(&self, commit: PredictionCommit<'_>) -> Result<Committed> {
        self.inner.commit_predictions(commit).await
    }
    async fn fail_task(&self, task: &Task, error: &str, give_up: bool) -> Result<Outcome> {
        self.inner.fail_task(task, error, give_up).await
    }
    async fn cancel_run(&self, run_id: Uuid) -> Result<bool> {
        self.inner.cancel_run(run_id).await
    }
    async fn claim_publication(&self, worker: &str, lease_us: i64) -> Result<Option<Publication>> {
        self.inner.claim_publication(worker, lease_us).await
    }
    async fn renew_publication(&self, publication: &Publication, lease_us: i64) -> Result<Outcome> {
        self.inner.renew_publication(publication, lease_us).await
    }
    async fn confirm_publication(&self, publication: &Publication) -> Result<Outcome> {
        self.inner.confirm_publication(publication).await
    }
    async fn raise_publication(&self, publication: &Publication, above: i64) -> Result<Option<Publication>> {
        self.inner.raise_publication(publication, above).await
    }
    async fn finish_publication(&self, publication: &Publication) -> Result<Outcome> {
        self.inner.finish_publication(publication).await
    }
    async fn predictions(&self, schedule: &str, interval: Interval) -> Result<BatchStream<'_>> {
        self.inner.predictions(schedule, interval).await
    }
    async fn reserve_model_set(&self) -> Result<i64> {
        self.inner.reserve_model_set().await
    }
    async fn add_model_set(
        &self,
        set: &ModelSetRow,
        failures: &[ModelFailure],
        activate: bool,
    ) -> Result<()> {
        self.inner.add_model_set(set, failures, activate).await
    }
    async fn active_model_set(&self) -> Result<Option<ModelSetRow>> {
        self.inner.active_model_set().await
    }
    async fn model_set(&self, version: i64) -> Result<Option<ModelSetRow>> {
        self.inner.model_set(version).await
    }
    async fn model_failures(&self, version: i64) -> Result<Vec<ModelFailure>> {
        self.inner.model_failures(version).await
    }
    async fn pin_models(&self, series: &[SeriesId], version: Option<i64>, by: &str) -> Result<()> {
        self.inner.pin_models(series, version, by).await
    }
    async fn model_pins(&self) -> Result<Vec<ModelPin>> {
        self.inner.model_pins().await
    }
    async fn model_sets(&self) -> Result<Vec<ModelSetRow>> {
        self.inner.model_sets().await
    }
    async fn activate_model_set(&self, version: i64) -> Result<()> {
        self.inner.activate_model_set(version).await
    }
    async fn rollback_model_set(&self, rollback: Rollback) -> Result<Outcome> {
        self.inner.rollback_model_set(rollback).await
    }
    async fn query(&self, sql: &str) -> Result<QueryResult> {
        self.inner.query(sql).await
    }
}
