//! A store that remembers what it was asked for.

use async_trait::async_trait;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::*;
use std::sync::Mutex;
use uuid::Uuid;

#[derive(Debug)]
pub(super) struct Counting {
    pub(super) inner: MemoryStore,
    /// Windows that were read.
    pub(super) read: Mutex<Vec<Interval>>,
    /// Questions which panes there are, by their range and limit.
    pub(super) listed: Mutex<Vec<(Interval, usize)>>,
}

impl Counting {
    pub(super) fn new(inner: MemoryStore) -> Self {
        Self { inner, read: Mutex::default(), listed: Mutex::default() }
    }
}

macro_rules! forward {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty;)+) => {
        #[async_trait]
        impl Store for Counting {
            fn kind(&self) -> StoreKind {
                self.inner.kind()
            }
            async fn windows(&self, interval: Interval) -> Result<BatchStream<'_>> {
                self.read.lock().unwrap().push(interval);
                self.inner.windows(interval).await
            }
            async fn panes(&self, range: Interval, newest_first: bool, limit: usize) -> Result<Vec<Timestamp>> {
                self.listed.lock().unwrap().push((range, limit));
                self.inner.panes(range, newest_first, limit).await
            }
            async fn series_batches(&self) -> Result<BatchStream<'_>> {
                self.inner.series_batches().await
            }
            async fn predictions(&self, schedule: &str, interval: Interval) -> Result<BatchStream<'_>> {
                self.inner.predictions(schedule, interval).await
            }
            $(async fn $name(&self, $($arg: $type),*) -> Result<$out> {
                self.inner.$name($($arg),*).await
            })+
        }
    };
}
forward! {
    fn migrate() -> ();
    fn store_id() -> Uuid;
    fn now() -> Timestamp;
    fn pin_panes(settings: &PaneSettings) -> ();
    fn pane_settings() -> Option<PaneSettings>;
    fn put_readiness(settings: &ReadinessSettings) -> ();
    fn add_partitions(source: &str, partitions: &[(TopicPartition, i64)]) -> ();
    fn progress() -> Progress;
    fn claim(source: &str, owner: &str, partitions: &[TopicPartition]) -> Vec<Claim>;
    fn heartbeat(source: &str, owner: &str, beats: &[Heartbeat]) -> Outcome;
    fn intern(names: &[SeriesName], max_series: u32) -> Vec<Option<SeriesId>>;
    fn lookup(names: &[SeriesName]) -> Vec<Option<SeriesId>>;
    fn series() -> Vec<(SeriesId, SeriesName)>;
    fn checkpoint(checkpoint: &Checkpoint) -> Outcome;
    fn retain_from(floor: Timestamp) -> u64;
    fn pane_range() -> Option<(Timestamp, Timestamp)>;
    fn dead_letters(filter: &DeadLetterFilter) -> Vec<DeadLetterRow>;
    fn put_schedule(spec: &ScheduleSpec) -> ();
    fn schedules() -> Vec<ScheduleRow>;
    fn changed_panes(limit: usize) -> Vec<ChangedPane>;
    fn plan(plan: &Plan) -> Outcome;
    fn stale_series(schedule: &str, interval: Interval) -> u64;
    fn runs(filter: &RunFilter) -> Vec<RunRow>;
    fn claim_task(claim: &TaskClaim) -> Option<Task>;
    fn renew_task(task: &Task, lease_us: i64) -> Outcome;
    fn commit_predictions(commit: PredictionCommit<'_>) -> Committed;
    fn fail_task(task: &Task, error: &str, give_up: bool) -> Outcome;
    fn cancel_run(run_id: Uuid) -> bool;
    fn claim_publication(worker: &str, lease_us: i64) -> Option<Publication>;
    fn renew_publication(publication: &Publication, lease_us: i64) -> Outcome;
    fn confirm_publication(publication: &Publication) -> Outcome;
    fn raise_publication(publication: &Publication, above: i64) -> Option<Publication>;
    fn finish_publication(publication: &Publication) -> Outcome;
    fn reserve_model_set() -> i64;
    fn add_model_set(set: &ModelSetRow, failures: &[ModelFailure], activate: bool) -> ();
    fn model_sets() -> Vec<ModelSetRow>;
    fn active_model_set() -> Option<ModelSetRow>;
    fn model_set(version: i64) -> Option<ModelSetRow>;
    fn model_failures(version: i64) -> Vec<ModelFailure>;
    fn pin_models(series: &[SeriesId], version: Option<i64>, by: &str) -> ();
    fn model_pins() -> Vec<ModelPin>;
    fn activate_model_set(version: i64) -> ();
    fn rollback_model_set(rollback: Rollback) -> Outcome;
    fn query(sql: &str) -> QueryResult;
}
