//! A store that hands its calls on to another one, but for those it is about: for tests that count, hold up or break.

use crate::*;

macro_rules! forward {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty;)+) => {
        /// A store in front of another one. Every method hands the call on; whoever implements this names [`Forward::inner`]
        /// and the methods that do something else, and is a [`Store`] by that.
        #[async_trait]
        pub trait Forward: Send + Sync + std::fmt::Debug + 'static {
            /// The store behind it; asked for once by each call.
            fn inner(&self) -> &dyn Store;

            $(
                /// Hands the call on.
                async fn $name(&self, $($arg: $type),*) -> $out {
                    self.inner().$name($($arg),*).await
                }
            )+
        }

        #[async_trait]
        impl<F: Forward> Store for F {
            fn kind(&self) -> StoreKind {
                self.inner().kind()
            }

            $(
                async fn $name(&self, $($arg: $type),*) -> $out {
                    Forward::$name(self, $($arg),*).await
                }
            )+
        }
    };
}

forward! {
    fn migrate() -> Result<()>;
    fn store_id() -> Result<Uuid>;
    fn now() -> Result<Timestamp>;
    fn pin_panes(settings: &PaneSettings) -> Result<()>;
    fn pane_settings() -> Result<Option<PaneSettings>>;
    fn put_readiness(settings: &ReadinessSettings) -> Result<()>;
    fn readiness() -> Result<ReadinessSettings>;
    fn add_partitions(source: &str, partitions: &[(TopicPartition, i64)]) -> Result<()>;
    fn progress() -> Result<Progress>;
    fn claim(source: &str, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>>;
    fn heartbeat(source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome>;
    fn intern(names: &[SeriesName], max_series: u32) -> Result<Vec<Option<SeriesId>>>;
    fn lookup(names: &[SeriesName]) -> Result<Vec<Option<SeriesId>>>;
    fn series() -> Result<Vec<(SeriesId, SeriesName)>>;
    fn series_batches() -> Result<BatchStream<'_>>;
    fn checkpoint(checkpoint: &Checkpoint) -> Result<Outcome>;
    fn retain_from(floor: Timestamp) -> Result<u64>;
    fn pane_range() -> Result<Option<(Timestamp, Timestamp)>>;
    fn panes(range: Interval, newest_first: bool, limit: usize) -> Result<Vec<Timestamp>>;
    fn dead_letters(filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>>;
    fn forget_dead_letters(stored_before: Timestamp, limit: usize) -> Result<u64>;
    fn put_schedule(spec: &ScheduleSpec) -> Result<()>;
    fn schedules() -> Result<Vec<ScheduleRow>>;
    fn pause_schedule(name: &str, by: Option<&str>) -> Result<bool>;
    fn last_series() -> Result<SeriesId>;
    fn changed_panes(limit: usize) -> Result<Vec<ChangedPane>>;
    fn plan(plan: &Plan) -> Result<Outcome>;
    fn stale_series(schedule: &str, interval: Interval) -> Result<u64>;
    fn series_of(schedule: &str, interval: Interval, range: SeriesRange, scope: RunScope) -> Result<Vec<SeriesId>>;
    fn runs(filter: &RunFilter) -> Result<Vec<RunRow>>;
    fn run_events(run_id: Uuid) -> Result<Vec<RunEvent>>;
    fn run_tasks(run_id: Uuid) -> Result<Vec<TaskRow>>;
    fn run_failures(run_id: Uuid, limit: usize) -> Result<Vec<(String, i64)>>;
    fn claim_task(claim: &TaskClaim) -> Result<Option<Task>>;
    fn renew_task(task: &Task, lease_us: i64) -> Result<Outcome>;
    fn windows(interval: Interval, selection: &Selection) -> Result<BatchStream<'_>>;
    fn commit_predictions(commit: PredictionCommit<'_>) -> Result<Committed>;
    fn fail_task(task: &Task, failure: &TaskFailure<'_>) -> Result<GivenBack>;
    fn cancel_run(run_id: Uuid, by: &str) -> Result<bool>;
    fn mark_stalled() -> Result<u64>;
    fn unlogged_runs(limit: usize) -> Result<Vec<RunRow>>;
    fn log_run(run_id: Uuid, path: &str) -> Result<()>;
    fn forget_runs(finished_before: Timestamp, interval_before: Timestamp, limit: usize) -> Result<u64>;
    fn advance_roster(schedule: &str, silence_us: Option<i64>) -> Result<bool>;
    fn note_newest(pane: Timestamp, silence_us: Option<i64>) -> Result<Timestamp>;
    fn thin(schedule: &str, keep: Keep, limit: usize) -> Result<u64>;
    fn claim_publication(worker: &str, lease_us: i64) -> Result<Option<Publication>>;
    fn hasten_publications(schedule: &str, range: Interval) -> Result<()>;
    fn renew_publication(publication: &Publication, lease_us: i64) -> Result<Outcome>;
    fn confirm_publication(publication: &Publication) -> Result<Outcome>;
    fn raise_publication(publication: &Publication, above: i64) -> Result<Option<Publication>>;
    fn publication_rows(publication: &Publication) -> Result<Option<BatchStream<'_>>>;
    fn postpone_publication(publication: &Publication, after_us: i64) -> Result<Outcome>;
    fn finish_publication(publication: &Publication) -> Result<Outcome>;
    fn predictions(schedule: &str, interval: Interval) -> Result<BatchStream<'_>>;
    fn has_predictions(schedule: &str, interval: Interval) -> Result<bool>;
    fn reserve_model_set() -> Result<i64>;
    fn add_model_set(set: &ModelSetRow, failures: &[ModelFailure], activate: bool) -> Result<()>;
    fn model_sets() -> Result<Vec<ModelSetRow>>;
    fn active_model_set() -> Result<Option<ModelSetRow>>;
    fn model_set_as_of(time: Timestamp) -> Result<Option<i64>>;
    fn model_set(version: i64) -> Result<Option<ModelSetRow>>;
    fn model_failures(version: i64) -> Result<Vec<ModelFailure>>;
    fn pin_models(series: &[SeriesId], version: Option<i64>, by: &str) -> Result<()>;
    fn model_pins() -> Result<Vec<ModelPin>>;
    fn activate_model_set(version: i64) -> Result<()>;
    fn model_set_before() -> Result<Option<Rollback>>;
    fn rollback_model_set(rollback: Rollback) -> Result<Outcome>;
    fn query(sql: &str) -> Result<QueryResult>;
}
