use super::*;
use crate::testing::*;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use fleetscore_schemas::status::RunCause;
use fleetscore_schemas::window::published_schema;
use fleetscore_store::{
    CatchUp, Cell, GivenBack, NewRun, Plan, Retry, Rules, SqliteStore, TaskClaim, TaskFailure,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// No test takes that long.
const LEASE_US: i64 = 600_000_000;

async fn publish(store: &dyn Store, blobs: &Blobs, p: &Publication) -> Result<Published, PublishError> {
    super::publish(store, blobs, &mut p.clone(), LEASE_US).await
}

/// A world with one interval scored and due.
async fn due() -> (World, Publication) {
    due_in(World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await).await
}

async fn due_in(mut w: World) -> (World, Publication) {
    w.activate().await;
    w.send(0, &[(0, 1, 12.5), (0, 2, 1.0), (0, 4, 2.0), (0, 5, 0.1 + 0.2)], Some(at(1)), false).await;
    w.look().await;
    w.score().await;
    let publication = w.store.claim_publication("p1", 60_000_000).await.unwrap().unwrap();
    (w, publication)
}

const FOLDER: &str = "predictions/schedule=default/interval=20260101T000000Z";

async fn text(blobs: &Blobs, name: &str) -> String {
    String::from_utf8(blobs.get(&format!("{FOLDER}/{name}")).await.unwrap().to_vec()).unwrap()
}

fn local() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&format!("file://{}", folder.path().display()), &BTreeMap::new()).unwrap();
    (folder, blobs)
}

#[tokio::test]
async fn three_objects_say_the_same() {
    for (_folder, blobs) in [
        {
            let (f, b) = local();
            (Some(f), b)
        },
        (None, memory_blobs()),
    ] {
        let (w, publication) = due().await;
        let done = publish(&*w.store, &blobs, &publication).await.unwrap();
        assert_eq!(done, Published::Done { fence: 1, rows: 5 });
        let csv = text(&blobs, CSV).await;
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], HEADER_LINE);
        let cell = |line: usize, column: usize| lines[line].split(',').nth(column).unwrap();
        let first: Vec<&str> = lines[1].split(',').take(11).collect();
        let expected = [
            "2026-01-01 00:00:00.000",
            "d",
            "s0001",
            "12.5",
            "1",
            "-2.5",
            "scored",
            "1",
            "model_1",
            "2026-01-01 00:01:00.000",
            "1",
        ];
        assert_eq!(first, expected);
        assert_eq!((cell(1, 13), cell(2, 13)), ("−∞ … 10", ""), "what would have been normal, of anomalies");
        assert_eq!((cell(3, 3), cell(3, 4), cell(3, 5), cell(3, 6)), ("", "", "", "no_data"));
        assert_eq!((cell(4, 6), cell(5, 6), cell(5, 8)), ("model_error", "no_model", ""));
        assert_eq!(cell(5, 3), "0.30000000000000004", "as many digits as it needs");

        let parquet = blobs.get(&format!("{FOLDER}/{PARQUET}")).await.unwrap();
        let reader =
            ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(parquet.clone());
        let batches: Vec<RecordBatch> = reader.unwrap().build().unwrap().map(Result::unwrap).collect();
        assert_eq!(batches[0].schema().fields(), published_schema().fields());
        assert_eq!(batches[0].column(7).as_primitive::<Float64Type>().value(0), -2.5);
        assert_eq!(batches[0].column(14).as_string::<i32>().value(0), "−∞ … 10");

        let success: Success = serde_json::from_str(&text(&blobs, SUCCESS).await).unwrap();
        assert_eq!((success.fence, success.counts.rows, success.counts.anomalies), (1, 5, 1));
        assert_eq!(
            (success.model_sets, success.interval_start.as_str()),
            (vec![1], "2026-01-01T00:00:00.000000Z")
        );
        for object in &success.objects {
            let bytes = blobs.get(&format!("{FOLDER}/{}", object.name)).await.unwrap();
            assert_eq!(object.size, bytes.len() as u64);
            let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(object.sha256, sum);
        }
        assert!(w.store.claim_publication("p1", 1).await.unwrap().is_none(), "nothing is due any more");
    }
}

const HEADER_LINE: &str = "TS,Device,Sensor,Val,Prediction,decision,status,model_set,model,window_end,\
                           window_version,run_id,scored_at,normal_range";

#[tokio::test]
async fn a_republished_interval_is_replaced_whole_and_the_same_rows_give_the_same_bytes() {
    for (_folder, blobs) in [
        {
            let (f, b) = local();
            (Some(f), b)
        },
        (None, memory_blobs()),
    ] {
        let (mut w, publication) = due().await;
        publish(&*w.store, &blobs, &publication).await.unwrap();
        let before = (text(&blobs, CSV).await, blobs.get(&format!("{FOLDER}/{PARQUET}")).await.unwrap());
        // A rerun changes nothing, so nothing is due; a late reading does.
        w.send(0, &[(0, 2, 30.0)], Some(at(1)), false).await;
        w.look().await;
        w.score().await;
        let again = w.store.claim_publication("p2", 60_000_000).await.unwrap().unwrap();
        assert_eq!(publish(&*w.store, &blobs, &again).await.unwrap(), Published::Done { fence: 2, rows: 5 });
        let after = text(&blobs, CSV).await;
        let changed: Vec<_> = before.0.lines().zip(after.lines()).filter(|(a, b)| a != b).collect();
        assert_eq!(changed.len(), 1, "the other rows keep their run and time");
        assert!(changed[0].1.contains(",s0002,15.5,1,"), "{changed:?}");
        // The same again under a later fence.
        let raised = w.store.raise_publication(&again, 7).await.unwrap().unwrap();
        let bytes = blobs.get(&format!("{FOLDER}/{PARQUET}")).await.unwrap();
        assert_ne!(bytes, before.1);
        publish(&*w.store, &blobs, &raised).await.unwrap();
        assert_eq!(text(&blobs, CSV).await, after);
        assert_eq!(blobs.get(&format!("{FOLDER}/{PARQUET}")).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn an_overtaken_publisher_writes_nothing() {
    for (_folder, blobs) in [
        {
            let (f, b) = local();
            (Some(f), b)
        },
        (None, memory_blobs()),
    ] {
        let (w, old) = due().await;
        let new = w.store.raise_publication(&old, 0).await.unwrap().unwrap();
        assert_eq!(publish(&*w.store, &blobs, &old).await.unwrap(), Published::Fenced);
        assert!(blobs.list("predictions").await.unwrap().iter().all(|o| o.name.ends_with("lock")));
        assert!(matches!(publish(&*w.store, &blobs, &new).await.unwrap(), Published::Done { .. }));
        assert_eq!(publish(&*w.store, &blobs, &old).await.unwrap(), Published::Fenced);
    }
}

#[tokio::test]
async fn a_put_on_a_version_that_has_moved_does_not_happen() {
    // What protects the moment between the confirmation and the put, in which another publisher may take over.
    let (w, old) = due().await;
    let blobs = memory_blobs();
    publish(&*w.store, &blobs, &old).await.unwrap();
    let name = format!("{FOLDER}/{CSV}");
    let path = blobs.path(&name);
    let read = version(&blobs, &name, &path).await.unwrap().unwrap();
    blobs.store.put(&path, "newer".into()).await.unwrap();
    let put = blobs.store.put_opts(&path, "older".into(), PutOptions::from(PutMode::Update(read))).await;
    assert!(matches!(put, Err(ObjectError::Precondition { .. })), "{put:?}");
    assert_eq!(text(&blobs, CSV).await, "newer");
}

#[tokio::test]
async fn a_higher_fence_in_the_folder_raises_ours() {
    let (w, publication) = due().await;
    let blobs = memory_blobs();
    let later = Publication { fence: 41, ..publication.clone() };
    let found = success(&later, &Summary::default(), &[]).unwrap();
    blobs.put_create(&format!("{FOLDER}/{SUCCESS}"), found).await.unwrap();
    let mut raised = publication.clone();
    let done = super::publish(&*w.store, &blobs, &mut raised, LEASE_US).await.unwrap();
    assert_eq!(done, Published::Done { fence: 42, rows: 5 });
    assert_eq!(raised, Publication { fence: 42, ..publication }, "a next try knows it");
    let success: Success = serde_json::from_str(&text(&blobs, SUCCESS).await).unwrap();
    assert_eq!(success.fence, 42);
}

#[tokio::test]
async fn an_interval_that_a_run_has_half_done_is_published_when_it_ends() {
    let (mut w, publication) = due().await;
    let blobs = memory_blobs();
    w.send(0, &[(0, 1, 99.0), (0, 5, 99.0)], Some(at(1)), false).await;
    let halves = NewRun { cuts: vec![4], ..new_run(span(0, 1), RunCause::Manual, 1) };
    let plan = Plan { open: vec![halves], ..Plan::default() };
    assert_eq!(w.store.plan(&plan).await.unwrap(), Outcome::Done);
    let claim = TaskClaim { worker: "x".into(), lease_us: 60_000_000, run_ids: None, prefer: vec![1] };
    let held = w.store.claim_task(&claim).await.unwrap().unwrap();
    w.score().await; // the first half
    assert_eq!(publish(&*w.store, &blobs, &publication).await.unwrap(), Published::Postponed);
    assert!(blobs.list("predictions").await.unwrap().is_empty(), "nobody sees the half");
    w.pass(1);
    let again = w.store.claim_publication("p1", 60_000_000).await.unwrap();
    if let Some(again) = again {
        assert_eq!(publish(&*w.store, &blobs, &again).await.unwrap(), Published::Postponed);
    }
    let retry = Some(Retry { after_us: 0, counts: false });
    let failure = TaskFailure { error: "stopped", retry, rules: &Rules::default() };
    assert_eq!(w.store.fail_task(&held, &failure).await.unwrap(), GivenBack::Open);
    w.score().await;
    w.pass(1);
    let whole = w.store.claim_publication("p1", 60_000_000).await.unwrap().unwrap();
    assert!(matches!(publish(&*w.store, &blobs, &whole).await.unwrap(), Published::Done { rows: 5, .. }));
    let csv = text(&blobs, CSV).await;
    assert_eq!(csv.lines().filter(|l| l.contains(",55.75,") || l.contains(",49.65")).count(), 2, "{csv}");
}

#[tokio::test]
async fn two_publishers_in_one_folder_leave_one_whole_result() {
    let (folder, blobs) = local();
    let (w, first) = due().await;
    let second = w.store.raise_publication(&first, 0).await.unwrap().unwrap();
    let (a, b) = tokio::join!(publish(&*w.store, &blobs, &first), publish(&*w.store, &blobs, &second));
    assert_eq!(a.unwrap(), Published::Fenced);
    assert_eq!(b.unwrap(), Published::Done { fence: 2, rows: 5 });
    let success: Success = serde_json::from_str(&text(&blobs, SUCCESS).await).unwrap();
    assert_eq!(success.fence, 2);
    drop(folder);
}

/// A publisher in a local folder whose lock the test holds, with a lease of a tenth of a second in SQLite; and the lock.
async fn held_up() -> (tempfile::TempDir, World, Blobs, Publication, File) {
    let (folder, blobs) = local();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.path().join("f.db")).unwrap());
    let schedules = [schedule("default", 1, 1, CatchUp::All)];
    let (w, publication) = due_in(World::on(store, Arc::default(), &schedules, 1).await).await;
    let lock = folder.path().join("predictions/schedule=default/.publish.lock");
    let lock = locked_file(&lock).unwrap();
    assert_eq!(w.store.renew_publication(&publication, SHORT_US).await.unwrap(), Outcome::Done);
    (folder, w, blobs, publication, lock)
}

const SHORT_US: i64 = 100_000;

/// When the lease of the only publication runs out.
async fn lease(store: &dyn Store) -> Cell {
    store.query("SELECT lease_until FROM publication_data").await.unwrap().rows[0][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_for_as_long_as_there_is_something_to_do() {
    let (_folder, w, blobs, publication, lock) = held_up().await;
    let (store, mut ours) = (w.store.clone(), publication.clone());
    let publishing = tokio::spawn(async move { super::publish(&*store, &blobs, &mut ours, SHORT_US).await });
    let mut before = lease(&*w.store).await;
    let renewed = async {
        for _ in 0..5 {
            let last = before.clone();
            while before == last {
                assert!(!publishing.is_finished(), "it waits for the lock");
                tokio::time::sleep(Duration::from_millis(1)).await;
                before = lease(&*w.store).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.expect("five renewals");
    drop(lock);
    assert_eq!(publishing.await.unwrap().unwrap(), Published::Done { fence: 1, rows: 5 });
    assert_eq!(lease(&*w.store).await, Cell::Null, "and nobody holds it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_lost_its_lease_stops_at_once() {
    let (_folder, w, blobs, publication, lock) = held_up().await;
    let (store, root, mut ours) = (w.store.clone(), blobs.clone(), publication.clone());
    let publishing = tokio::spawn(async move { super::publish(&*store, &root, &mut ours, SHORT_US).await });
    let taken = w.store.raise_publication(&publication, 0).await.unwrap().unwrap();
    // While the lock that it waits for is still held.
    let ended = tokio::time::timeout(Duration::from_secs(60), publishing).await.expect("it stops");
    assert_eq!(ended.unwrap().unwrap(), Published::Fenced);
    assert!(blobs.list("predictions").await.unwrap().iter().all(|o| o.name.ends_with("lock")));
    drop(lock);
    assert_eq!(publish(&*w.store, &blobs, &taken).await.unwrap(), Published::Done { fence: 2, rows: 5 });
}
