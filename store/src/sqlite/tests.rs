use super::*;
use crate::StoreError;
use arrow::array::RecordBatch;
use fleetscore_schemas::codes::Classify;
use futures::FutureExt;
use rusqlite::Connection;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let number = Arc::new(AtomicUsize::new(0));
    let make = move || {
        let path = root.join(format!("a folder/{}.db", number.fetch_add(1, Ordering::Relaxed)));
        async move {
            let store = SqliteStore::open(&path).unwrap();
            store.migrate().await.unwrap();
            Arc::new(store) as Arc<dyn Store>
        }
        .boxed()
    };
    crate::conformance::run(&make, "").await;
}

/// Reads through one handle and writes through another, as two processes on one file do.
#[derive(Debug)]
struct Alternating(Vec<SqliteStore>, AtomicUsize);

impl Alternating {
    fn next(&self) -> &SqliteStore {
        &self.0[self.1.fetch_add(1, Ordering::Relaxed) % self.0.len()]
    }
}

macro_rules! forward {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty;)+) => {
        #[async_trait]
        impl Store for Alternating {
            fn kind(&self) -> StoreKind {
                StoreKind::Sqlite
            }
            async fn windows(&self, interval: Interval) -> Result<BatchStream<'_>> {
                self.next().windows(interval).await
            }
            async fn series_batches(&self) -> Result<BatchStream<'_>> {
                self.next().series_batches().await
            }
            async fn predictions(&self, schedule: &str, interval: Interval) -> Result<BatchStream<'_>> {
                self.next().predictions(schedule, interval).await
            }
            $(async fn $name(&self, $($arg: $type),*) -> Result<$out> {
                self.next().$name($($arg),*).await
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

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_its_promises_to_several_on_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let number = Arc::new(AtomicUsize::new(0));
    let make = move || {
        let path = root.join(format!("{}.db", number.fetch_add(1, Ordering::Relaxed)));
        async move {
            let stores: Vec<_> = (0..3).map(|_| SqliteStore::open(&path).unwrap()).collect();
            let store = Alternating(stores, AtomicUsize::new(0));
            store.migrate().await.unwrap();
            Arc::new(store) as Arc<dyn Store>
        }
        .boxed()
    };
    crate::conformance::run(&make, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_migrate_at_once_and_agree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move {
                let store = SqliteStore::open(&path)?;
                while let Err(e) = store.migrate().await {
                    assert!(e.is_transient(), "{e}");
                }
                store.store_id().await
            })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap().unwrap());
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("CREATE TABLE runs (x)", "runs"),
        ("CREATE TABLE Windows (x)", "windows"),
        ("CREATE VIEW pane_data AS SELECT 1", "pane_data"),
        ("CREATE TABLE fleetscore_meta (id)", "fleetscore_meta"),
        ("CREATE TABLE t (x); CREATE INDEX run_data_open ON t (x)", "run_data_open"),
    ];
    for (i, (sql, wanted)) in cases.into_iter().enumerate() {
        let path = folder.path().join(format!("{i}.db"));
        let theirs = Connection::open(&path).unwrap();
        theirs.execute_batch(sql).unwrap();
        let before = std::fs::read(&path).unwrap();
        let store = SqliteStore::open(&path).unwrap();
        match store.migrate().await {
            Err(StoreError::Foreign { object }) => assert_eq!(object, wanted, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
        assert!(std::fs::read(&path).unwrap() == before, "{sql}: the file was changed");
    }
    // Their other tables are no hindrance.
    let path = folder.path().join("shared.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let store = SqliteStore::open(&path).unwrap();
    store.migrate().await.unwrap();
    // A view of theirs in the place of a schedule's.
    Connection::open(&path).unwrap().execute_batch("CREATE VIEW windows_five AS SELECT 1").unwrap();
    let (panes, spec) = (settings(60), spec("five", 300));
    store.pin_panes(&panes).await.unwrap();
    let refused = store.put_schedule(&spec).await;
    assert!(
        matches!(&refused, Err(StoreError::Foreign { object }) if object == "windows_five"),
        "{refused:?}"
    );
    assert!(store.schedules().await.unwrap().is_empty());
}

fn settings(seconds: i64) -> PaneSettings {
    PaneSettings {
        interval_us: seconds * 1_000_000,
        edges: fleetscore_schemas::time::Edges::Start,
        filter: String::new(),
        value: String::new(),
        ts_unit: "ms".into(),
    }
}

fn spec(name: &str, seconds: i64) -> ScheduleSpec {
    ScheduleSpec {
        name: name.into(),
        window_us: seconds * 1_000_000,
        hop_us: seconds * 1_000_000,
        features: vec![],
        catch_up: crate::CatchUp::All,
        max_age_us: None,
        rescore_delay_us: 0,
        republish_gap_us: 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    SqliteStore::open(&path).unwrap().migrate().await.unwrap();
    let newer = "UPDATE fleetscore_meta SET value = '99' WHERE key = 'schema_version'";
    Connection::open(&path).unwrap().execute_batch(newer).unwrap();
    let refused = SqliteStore::open(&path).unwrap().migrate().await;
    assert!(matches!(refused, Err(StoreError::TooNew { found: 99, .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_store_is_the_settings_fault() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "this is not a database, but it is long enough to look like one".repeat(40))
        .unwrap();
    for path in [text.clone(), folder.path().to_owned(), text.join("below/a/file.db")] {
        match SqliteStore::open(&path) {
            Err(e @ StoreError::Setting { .. }) => {
                assert!(e.to_string().contains("`store`") && !e.is_transient(), "{e}");
            }
            other => panic!("{}: {other:?}", path.display()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_writer_is_one_callers_misfortune() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("s.db")).unwrap();
    store.migrate().await.unwrap();
    let lost: Result<()> = store
        .writer
        .commit(|tx| {
            tx.execute_batch("DELETE FROM fleetscore_meta")?;
            panic!("a bug")
        })
        .await;
    assert!(matches!(lost, Err(StoreError::Internal { .. })), "{lost:?}");
    store.store_id().await.expect("rolled back");
    assert_eq!(store.reserve_model_set().await.unwrap(), 1, "and the writer goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_another_process_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let store = SqliteStore::open(&path).unwrap();
    store.migrate().await.unwrap();
    let theirs = Connection::open(&path).unwrap();
    theirs.execute_batch("BEGIN IMMEDIATE; UPDATE setting_data SET max_wait_us = 1;").unwrap();
    assert_eq!(store.pane_settings().await.unwrap(), None, "readers do not wait");
    let write = store.reserve_model_set();
    tokio::pin!(write);
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut write).await;
    assert!(early.is_err(), "there can be one writer");
    theirs.execute_batch("COMMIT").unwrap();
    assert_eq!(write.await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_on_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("s.db")).unwrap();
    store.migrate().await.unwrap();
    let names: Vec<_> = (0..60_000).map(|i| SeriesName::new(format!("d{i}"), "s")).collect();
    store.intern(&names, 100_000).await.unwrap();
    let fill = "INSERT INTO pane_data SELECT 60000000, id, 1, 1, 0, 1, 1, 60000000, 1, 60000000, 1, NULL, 1 FROM series_data";
    store.writer.commit(move |tx| Ok(tx.execute(fill, [])?)).await.unwrap();
    let interval = Interval::starting(Timestamp(60_000_000), 60_000_000);
    let mut open = Vec::new();
    for _ in 0..20 {
        use futures::StreamExt;
        let mut stream = store.windows(interval).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        assert!(first.num_rows() < names.len(), "more than one batch");
        open.push(stream);
    }
    assert_eq!(store.series().await.unwrap().len(), names.len(), "other readers get their turn");
    drop(open);
    use futures::TryStreamExt;
    let all: Vec<RecordBatch> = store.windows(interval).await.unwrap().try_collect().await.unwrap();
    assert_eq!(all.iter().map(RecordBatch::num_rows).sum::<usize>(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_nothing_it_was_told_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let store = SqliteStore::open(&path).unwrap();
    store.migrate().await.unwrap();
    let version = store.reserve_model_set().await.unwrap();
    store.intern(&[SeriesName::new("d", "s")], 9).await.unwrap();
    // What a killed process leaves on the disk: the file and its log, nothing closed, no index of the log.
    let left = folder.path().join("left.db");
    for suffix in ["", "-wal"] {
        let from = folder.path().join(format!("s.db{suffix}"));
        std::fs::copy(from, folder.path().join(format!("left.db{suffix}"))).unwrap();
    }
    let after = SqliteStore::open(&left).unwrap();
    after.migrate().await.unwrap();
    assert_eq!(after.store_id().await.unwrap(), store.store_id().await.unwrap());
    assert_eq!(after.series().await.unwrap().len(), 1);
    assert!(after.reserve_model_set().await.unwrap() > version);
    let rows = after.query("SELECT device FROM series_data").await.unwrap().rows;
    assert_eq!(rows, [[crate::Cell::Text("d".into())]]);
}
