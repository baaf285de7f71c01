//! The store in PostgreSQL (14 or newer): tokio-postgres behind a pool, TLS by rustls.
//!
//! | module | does |
//! | --- | --- |
//! | [`url`], [`tls`] | the connection string, and libpq's `sslmode`s on rustls |
//! | [`migrate`], [`schedules`] | objects of the schema, and the views of longer windows |
//! | [`stream`], [`merge`], [`partitions`] | claims, the checkpoint, time partitions and retention |
//! | [`plan`], [`runs`], [`tasks`], [`ends`], [`events`] | runs as they are opened, read, leased, and ended |
//! | [`windows`], [`commit`], [`replace`], [`score`] | windows as they are read, predictions as they are written and read |
//! | [`publish`], [`models`], [`roster`], [`thin`] | publications, model sets, who is silent, what is thinned |
//! | [`copy`], [`copy_out`] | binary COPY in both directions |
//! | [`watch`] | ends a backend that has blocked one of our row locks for too long |
//!
//! Lock order: progress rows in key order, then panes in (pane, series) order; tasks before runs.

mod commit;
mod copy;
mod copy_out;
mod ends;
mod error;
mod events;
mod letters;
mod merge;
mod migrate;
mod models;
mod partitions;
mod plan;
mod publish;
mod query;
mod replace;
mod roster;
mod runs;
mod schedules;
mod score;
mod stream;
mod tasks;
mod thin;
mod tls;
mod types;
mod url;
mod watch;
mod windows;

#[cfg(test)]
mod tests;

use crate::{
    BatchStream, ChangedPane, Checkpoint, Claim, Committed, DeadLetterFilter, DeadLetterRow, GivenBack,
    Heartbeat, Keep, ModelFailure, ModelPin, ModelSetRow, Outcome, PaneSettings, Plan, PredictionCommit,
    Progress, Publication, QueryResult, ReadinessSettings, Result, Rollback, RunEvent, RunFilter, RunRow,
    ScheduleRow, ScheduleSpec, Selection, SeriesRange, Store, StoreError, StoreKind, StoreOptions, Task,
    TaskClaim, TaskFailure, TaskRow,
};
use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use std::time::Duration;
use types::{RowExt, Us};
use uuid::Uuid;

/// Fewer connections than this and a reader of windows could wait for a writer that waits for it.
const MIN_CONNECTIONS: usize = 4;
/// How long a call waits for a connection of the pool.
const POOL_WAIT: Duration = Duration::from_secs(30);
/// `date_bin`, `DETACH PARTITION … CONCURRENTLY` and SQL-standard function bodies came with 14.
const MIN_SERVER_VERSION: i32 = 140_000;

/// The store in PostgreSQL.
pub struct PgStore {
    pool: Pool,
    target: url::Target,
    connector: tls::Connector,
    known: partitions::Known,
}

impl std::fmt::Debug for PgStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The configuration holds the password.
        f.debug_struct("PgStore").field("server", &self.target.name).finish_non_exhaustive()
    }
}

impl PgStore {
    /// Connects once, to see that it works, and makes the pool. `url` is a `postgres://` or `postgresql://` connection
    /// string with libpq's parameters, `sslmode` and `sslrootcert` among them; the password may come from
    /// `PGPASSWORD` instead.
    ///
    /// # Errors
    /// [`StoreError::Setting`] naming `store` where the string, the credentials, the database or a certificate is
    /// wrong; [`StoreError::Unavailable`] where the server does not answer.
    pub async fn connect(url: &str, options: &StoreOptions) -> Result<Self> {
        let target = url::Target::parse(url, &options.application)?;
        let connector = tls::Connector::new(&target.tls)?;
        let client = connector.connect_once(&target).await.map_err(|e| error::at_start(&e, &target.name))?;
        let version =
            client.query_one("SHOW server_version_num", &[]).await?.at::<&str>(0)?.parse().unwrap_or(0);
        if version < MIN_SERVER_VERSION {
            return Err(StoreError::Setting {
                setting: "store".into(),
                message: format!(
                    "the server {} is PostgreSQL {}; 14 is the oldest that works",
                    target.name,
                    version / 10_000
                ),
            });
        }
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(target.config.clone(), connector.clone(), config);
        let pool = Pool::builder(manager)
            .max_size(options.connections.max(MIN_CONNECTIONS))
            .timeouts(Timeouts { wait: Some(POOL_WAIT), create: None, recycle: None })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(StoreError::internal)?;
        Ok(Self { pool, target, connector, known: partitions::Known::default() })
    }

    async fn client(&self) -> Result<Object> {
        Ok(self.pool.get().await?)
    }
}

#[async_trait]
impl Store for PgStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Postgres
    }

    async fn migrate(&self) -> Result<()> {
        migrate::migrate(self).await
    }

    async fn store_id(&self) -> Result<Uuid> {
        migrate::store_id(self).await
    }

    async fn now(&self) -> Result<Timestamp> {
        let row = self.client().await?.query_one("SELECT clock_timestamp()", &[]).await?;
        Ok(row.at::<Us>(0)?.into())
    }

    async fn pin_panes(&self, settings: &PaneSettings) -> Result<()> {
        schedules::pin_panes(self, settings).await
    }

    async fn pane_settings(&self) -> Result<Option<PaneSettings>> {
        schedules::pane_settings(&**self.client().await?).await
    }

    async fn put_readiness(&self, settings: &ReadinessSettings) -> Result<()> {
        schedules::put_readiness(self, settings).await
    }

    async fn readiness(&self) -> Result<ReadinessSettings> {
        schedules::readiness(self).await
    }

    async fn add_partitions(&self, source: &str, partitions: &[(TopicPartition, i64)]) -> Result<()> {
        stream::add_partitions(self, source, partitions).await
    }

    async fn progress(&self) -> Result<Progress> {
        stream::progress(self).await
    }

    async fn claim(&self, source: &str, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>> {
        stream::claim(self, source, owner, partitions).await
    }

    async fn heartbeat(&self, source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome> {
        stream::heartbeat(self, source, owner, beats).await
    }

    async fn intern(&self, names: &[SeriesName], max_series: u32) -> Result<Vec<Option<SeriesId>>> {
        stream::intern(self, names, max_series).await
    }

    async fn lookup(&self, names: &[SeriesName]) -> Result<Vec<Option<SeriesId>>> {
        stream::lookup(&**self.client().await?, names).await
    }

    async fn series(&self) -> Result<Vec<(SeriesId, SeriesName)>> {
        stream::series(self).await
    }

    async fn series_batches(&self) -> Result<BatchStream<'_>> {
        stream::series_batches(self).await
    }

    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outcome> {
        merge::checkpoint(self, checkpoint).await
    }

    async fn retain_from(&self, floor: Timestamp) -> Result<u64> {
        partitions::retain_from(self, floor).await
    }

    async fn pane_range(&self) -> Result<Option<(Timestamp, Timestamp)>> {
        partitions::pane_range(self).await
    }

    async fn panes(&self, range: Interval, newest_first: bool, limit: usize) -> Result<Vec<Timestamp>> {
        partitions::panes(self, range, newest_first, limit).await
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetterRow>> {
        letters::read(self, filter).await
    }

    async fn forget_dead_letters(&self, stored_before: Timestamp, limit: usize) -> Result<u64> {
        letters::forget(self, stored_before, limit).await
    }

    async fn put_schedule(&self, spec: &ScheduleSpec) -> Result<()> {
        schedules::put(self, spec).await
    }

    async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        schedules::read(self).await
    }

    async fn pause_schedule(&self, name: &str, by: Option<&str>) -> Result<bool> {
        schedules::pause(self, name, by).await
    }

    async fn last_series(&self) -> Result<SeriesId> {
        Ok(stream::last_series(&**self.client().await?).await? as SeriesId) // positive as stored
    }

    async fn changed_panes(&self, limit: usize) -> Result<Vec<ChangedPane>> {
        plan::changed_panes(self, limit).await
    }

    async fn plan(&self, plan: &Plan) -> Result<Outcome> {
        plan::apply(self, plan).await
    }

    async fn stale_series(&self, schedule: &str, interval: Interval) -> Result<u64> {
        score::stale_series(self, schedule, interval).await
    }

    async fn series_of(
        &self,
        schedule: &str,
        interval: Interval,
        range: SeriesRange,
        scope: RunScope,
    ) -> Result<Vec<SeriesId>> {
        score::series_of(self, schedule, interval, range, scope).await
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        runs::runs(self, filter).await
    }

    async fn run_events(&self, run_id: Uuid) -> Result<Vec<RunEvent>> {
        runs::run_events(self, run_id).await
    }

    async fn run_tasks(&self, run_id: Uuid) -> Result<Vec<TaskRow>> {
        runs::run_tasks(self, run_id).await
    }

    async fn run_failures(&self, run_id: Uuid, limit: usize) -> Result<Vec<(String, i64)>> {
        runs::run_failures(self, run_id, limit).await
    }

    async fn claim_task(&self, claim: &TaskClaim) -> Result<Option<Task>> {
        tasks::claim(self, claim).await
    }

    async fn renew_task(&self, task: &Task, lease_us: i64) -> Result<Outcome> {
        tasks::renew(self, task, lease_us).await
    }

    async fn windows(&self, interval: Interval, selection: &Selection) -> Result<BatchStream<'_>> {
        windows::windows(self, interval, selection).await
    }

    async fn commit_predictions(&self, commit: PredictionCommit<'_>) -> Result<Committed> {
        commit::commit(self, commit).await
    }

    async fn fail_task(&self, task: &Task, failure: &TaskFailure<'_>) -> Result<GivenBack> {
        ends::fail(self, task, failure).await
    }

    async fn cancel_run(&self, run_id: Uuid, by: &str) -> Result<bool> {
        ends::cancel(self, run_id, by).await
    }

    async fn mark_stalled(&self) -> Result<u64> {
        runs::mark_stalled(self).await
    }

    async fn unlogged_runs(&self, limit: usize) -> Result<Vec<RunRow>> {
        runs::unlogged_runs(self, limit).await
    }

    async fn log_run(&self, run_id: Uuid, path: &str) -> Result<()> {
        runs::log_run(self, run_id, path).await
    }

    async fn forget_runs(
        &self,
        finished_before: Timestamp,
        interval_before: Timestamp,
        limit: usize,
    ) -> Result<u64> {
        runs::forget_runs(self, finished_before, interval_before, limit).await
    }

    async fn claim_publication(&self, worker: &str, lease_us: i64) -> Result<Option<Publication>> {
        publish::claim(self, worker, lease_us).await
    }

    async fn hasten_publications(&self, schedule: &str, range: Interval) -> Result<()> {
        publish::hasten(self, schedule, range).await
    }

    async fn renew_publication(&self, publication: &Publication, lease_us: i64) -> Result<Outcome> {
        publish::renew(self, publication, lease_us).await
    }

    async fn confirm_publication(&self, publication: &Publication) -> Result<Outcome> {
        publish::confirm(self, publication).await
    }

    async fn raise_publication(&self, publication: &Publication, above: i64) -> Result<Option<Publication>> {
        publish::raise(self, publication, above).await
    }

    async fn advance_roster(&self, schedule: &str, silence_us: Option<i64>) -> Result<bool> {
        roster::advance(self, schedule, silence_us).await
    }

    async fn note_newest(&self, pane: Timestamp, silence_us: Option<i64>) -> Result<Timestamp> {
        roster::note_newest(self, pane, silence_us).await
    }

    async fn thin(&self, schedule: &str, keep: Keep, limit: usize) -> Result<u64> {
        thin::thin(self, schedule, keep, limit).await
    }

    async fn publication_rows(&self, publication: &Publication) -> Result<Option<BatchStream<'_>>> {
        publish::rows(self, publication).await
    }

    async fn postpone_publication(&self, publication: &Publication, after_us: i64) -> Result<Outcome> {
        publish::postpone(self, publication, after_us).await
    }

    async fn finish_publication(&self, publication: &Publication) -> Result<Outcome> {
        publish::finish(self, publication).await
    }

    async fn predictions(&self, schedule: &str, interval: Interval) -> Result<BatchStream<'_>> {
        score::predictions(self, schedule, interval).await
    }

    async fn has_predictions(&self, schedule: &str, interval: Interval) -> Result<bool> {
        score::has_predictions(self, schedule, interval).await
    }

    async fn reserve_model_set(&self) -> Result<i64> {
        models::reserve(self).await
    }

    async fn add_model_set(
        &self,
        set: &ModelSetRow,
        failures: &[ModelFailure],
        activate: bool,
    ) -> Result<()> {
        models::add(self, set, failures, activate).await
    }

    async fn model_sets(&self) -> Result<Vec<ModelSetRow>> {
        models::read(self).await
    }

    async fn active_model_set(&self) -> Result<Option<ModelSetRow>> {
        models::active(self).await
    }

    async fn model_set_as_of(&self, time: Timestamp) -> Result<Option<i64>> {
        models::as_of(self, time).await
    }

    async fn model_set(&self, version: i64) -> Result<Option<ModelSetRow>> {
        models::one(self, version).await
    }

    async fn model_failures(&self, version: i64) -> Result<Vec<ModelFailure>> {
        models::failures(self, version).await
    }

    async fn pin_models(&self, series: &[SeriesId], version: Option<i64>, by: &str) -> Result<()> {
        models::pin(self, series, version, by).await
    }

    async fn model_pins(&self) -> Result<Vec<ModelPin>> {
        models::pins(self).await
    }

    async fn activate_model_set(&self, version: i64) -> Result<()> {
        models::activate(self, version).await
    }

    async fn rollback_model_set(&self, rollback: Rollback) -> Result<Outcome> {
        models::rollback(self, rollback).await
    }

    async fn query(&self, sql: &str) -> Result<QueryResult> {
        query::query(self, sql).await
    }
}
