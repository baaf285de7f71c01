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

impl crate::forward::Forward for Alternating {
    fn inner(&self) -> &dyn Store {
        self.next()
    }
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
    ScheduleSpec::new(name, seconds * 1_000_000)
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
        let mut stream = store.windows(interval, &crate::Selection::ALL).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        assert!(first.num_rows() < names.len(), "more than one batch");
        open.push(stream);
    }
    assert_eq!(store.series().await.unwrap().len(), names.len(), "other readers get their turn");
    drop(open);
    use futures::TryStreamExt;
    let all: Vec<RecordBatch> =
        store.windows(interval, &crate::Selection::ALL).await.unwrap().try_collect().await.unwrap();
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

/// A schedule, and series with a prediction each in the minutes 0..n; all published and below the floor.
async fn frozen(store: &SqliteStore, minutes: i64, series: i64) {
    store.put_schedule(&spec("default", 60)).await.unwrap();
    let fill = format!(
        "WITH RECURSIVE m(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM m WHERE n + 1 < {minutes})
         INSERT INTO publication_data (schedule, interval_start, interval_end, change, published_change)
         SELECT 'default', n * 60000000, (n + 1) * 60000000, 1, 1 FROM m;
         WITH RECURSIVE i(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM i WHERE id < {series})
         INSERT INTO series_data (id, device, sensor) SELECT id, 'd' || id, 's' FROM i;
         INSERT INTO prediction_data (schedule, window_start, window_end, series_id, prediction, status, window_version,
             run_id, scored_at)
         SELECT 'default', interval_start, interval_end, id, (interval_start / 60000000) % 2, 'scored', 1, 'r', 0
         FROM publication_data, series_data;"
    );
    store.writer.commit(move |tx| Ok(tx.execute_batch(&fill)?)).await.unwrap();
    store.add_partitions("c", &[(TopicPartition::new("t", 0), 0)]).await.unwrap();
    store.retain_from(Timestamp(minutes * 60_000_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_behind_does_not_set_thinning_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let (store, other) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    store.migrate().await.unwrap();
    frozen(&store, 4, 5).await;
    // It has taken the first interval, and is paused in the middle of it.
    let keep = Keep::Changes;
    let begin = move |tx: &Transaction<'_>| thin::begin(tx, "default", keep);
    let (start, series) = other.writer.commit(begin).await.unwrap().unwrap();
    assert_eq!((start, series), (Timestamp(0), 5));
    for _ in 0..4 {
        assert_eq!(store.thin("default", keep, 1).await.unwrap(), 0, "every label is another");
    }
    let state = "SELECT thinned_until, (SELECT count(*) FROM prediction_data) FROM schedule_data";
    let before = store.query(state).await.unwrap().rows;
    assert_eq!(before, [[crate::Cell::Int(180_000_001), crate::Cell::Int(20)]]);
    let late = move |tx: &Transaction<'_>| thin::chunk(tx, "default", start, 0, keep);
    assert_eq!(other.writer.commit(late).await.unwrap(), None, "the interval is done");
    let end = move |tx: &Transaction<'_>| thin::end(tx, "default", start, keep);
    other.writer.commit(end).await.unwrap();
    assert_eq!(store.query(state).await.unwrap().rows, before);
    let last = "SELECT DISTINCT window_start FROM thin_state_data";
    assert_eq!(store.query(last).await.unwrap().rows, [[crate::Cell::Int(180_000_000)]]);
}

/// The prediction of series 1, which has no data.
fn one_silent_series() -> RecordBatch {
    use arrow::array::{ArrayRef, Int64Array, StringArray, UInt32Array, new_null_array};
    let schema = fleetscore_schemas::window::prediction_schema();
    let column = |field: &arrow::datatypes::FieldRef| -> ArrayRef {
        match field.name().as_str() {
            "series" => Arc::new(UInt32Array::from(vec![1])),
            "status" => Arc::new(StringArray::from(vec!["no_data"])),
            "window_version" => Arc::new(Int64Array::from(vec![0])),
            _ => new_null_array(field.data_type(), 1),
        }
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_renews_its_own_shard_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("s.db")).unwrap());
    store.migrate().await.unwrap();
    store.put_schedule(&spec("default", 60)).await.unwrap();
    store.intern(&[SeriesName::new("d", "s")], 9).await.unwrap();
    let run = crate::NewRun {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        interval: Interval::starting(Timestamp(0), 60_000_000),
        cause: fleetscore_schemas::status::RunCause::Schedule,
        model_set: Some(1),
        data_only: false,
        scope: RunScope::All,
        series: None,
        cuts: vec![3],
        retry_of: None,
        note: None,
    };
    let plan = Plan { open: vec![run.clone()], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    let claim = TaskClaim { worker: "w".into(), lease_us: 60_000_000, run_ids: None, prefer: vec![] };
    let first = store.claim_task(&claim).await.unwrap().unwrap();
    let second = store.claim_task(&claim).await.unwrap().unwrap();
    assert_eq!(first.attempt, second.attempt);
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let (writing, task) = (store.clone(), first.clone());
    let commit = tokio::spawn(async move {
        let held = futures::stream::once(async move {
            released.await.unwrap();
            Err::<RecordBatch, crate::SourceError>("that was all".into())
        });
        let predictions = futures::StreamExt::chain(futures::stream::iter([Ok(one_silent_series())]), held);
        let commit = PredictionCommit {
            task: &task,
            selection: &Selection::of(task.range),
            predictions: Box::pin(predictions),
            phases: &crate::Phases::default,
            rules: &crate::Rules::default(),
        };
        writing.commit_predictions(commit).await
    });
    while store.committing.get().is_empty() {
        assert!(!commit.is_finished());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(store.renew_task(&first, 60_000_000).await.unwrap(), Outcome::Done, "it needs no renewal");
    let renewal = store.renew_task(&second, 600_000_000);
    tokio::pin!(renewal);
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut renewal).await;
    assert!(early.is_err(), "the other shard's waits for the writer");
    release.send(()).unwrap();
    assert!(commit.await.unwrap().is_err());
    assert_eq!(renewal.await.unwrap(), Outcome::Done);
    let lease = store.run_tasks(run.run_id).await.unwrap()[1].lease_until.unwrap();
    assert!(lease > clock().plus_us(500_000_000), "and is as long as it was asked for");
}
