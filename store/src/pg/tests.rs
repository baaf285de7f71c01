//! Against a real server: set `FLEETSCORE_TEST_POSTGRES` to the URL of one where databases may be created, such as
//! `postgres://postgres@127.0.0.1:5432/postgres`. Without it these tests say that they were left out.

mod paused;
mod selections;

use super::*;
use crate::{Advance, Cell, NewRun, conformance};
use arrow::array::RecordBatch;
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, TimestampMicrosecondArray, UInt32Array};
use arrow::datatypes::Float64Type;
use fleetscore_schemas::delta::{self, Partial};
use fleetscore_schemas::status::RunCause;
use fleetscore_schemas::time::Edges;
use fleetscore_schemas::window::prediction_schema;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio_postgres::NoTls;

const VARIABLE: &str = "FLEETSCORE_TEST_POSTGRES";

fn server() -> Option<String> {
    let url = std::env::var(VARIABLE).ok();
    if url.is_none() {
        eprintln!("left out: {VARIABLE} is not set");
    }
    url
}

async fn admin(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Databases of one test, dropped by [`Databases::drop_all`].
#[derive(Clone)]
struct Databases {
    url: String,
    prefix: String,
    made: Arc<AtomicUsize>,
}

impl Databases {
    fn new(url: &str, test: &str) -> Self {
        let prefix = format!("fleetscore_test_{}_{test}", std::process::id());
        Self { url: url.to_owned(), prefix, made: Arc::default() }
    }

    /// The URL of a new, empty database.
    async fn make(&self) -> String {
        let name = format!("{}_{}", self.prefix, self.made.fetch_add(1, Ordering::Relaxed));
        admin(&self.url)
            .await
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .unwrap();
        let (base, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let server = base.rsplit_once('/').unwrap().0;
        format!("{server}/{name}?{query}")
    }

    async fn store(&self) -> Arc<PgStore> {
        let store = PgStore::connect(&self.make().await, &StoreOptions::default()).await.unwrap();
        store.migrate().await.unwrap();
        Arc::new(store)
    }

    async fn drop_all(self) {
        let client = admin(&self.url).await;
        for i in 0..self.made.load(Ordering::Relaxed) {
            let _ = client.batch_execute(&format!("DROP DATABASE {}_{i} WITH (FORCE)", self.prefix)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_every_promise() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "promises");
    let of = databases.clone();
    let make = move || -> BoxFuture<'static, Arc<dyn Store>> {
        let of = of.clone();
        Box::pin(async move { of.store().await as Arc<dyn Store> })
    };
    let filter = std::env::var("FLEETSCORE_PROMISE").unwrap_or_default();
    conformance::run(&make, &filter).await;
    databases.drop_all().await;
}

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 86_400_000_000;
const SOURCE: &str = "cluster-1";

/// So many minutes after 2026-01-01T00:00:00Z.
fn at(minute: i64) -> Timestamp {
    Timestamp(1_767_225_600_000_000 + minute * MINUTE)
}

fn tp() -> TopicPartition {
    TopicPartition::new("readings", 0)
}

fn deltas(rows: &[(Timestamp, SeriesId, Partial)]) -> RecordBatch {
    let times = |f: &dyn Fn(&(Timestamp, SeriesId, Partial)) -> Timestamp| -> ArrayRef {
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| f(r).0)).with_timezone("UTC"),
        )
    };
    let floats = |f: &dyn Fn(&Partial) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| f(&r.2))))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.1))),
        times(&|r| r.0),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2.count))),
        floats(&|p| p.sum),
        floats(&|p| p.m2),
        floats(&|p| p.min),
        floats(&|p| p.max),
        times(&|r| r.2.first.0),
        floats(&|p| p.first.1),
        times(&|r| r.2.last.0),
        floats(&|p| p.last.1),
    ];
    RecordBatch::try_new(delta::schema(), columns).unwrap()
}

/// A claimed partition of a store with panes of a minute and some series.
struct Stream {
    store: Arc<PgStore>,
    claim: Claim,
}

impl Stream {
    async fn new(store: Arc<PgStore>, series: usize) -> Self {
        let panes = PaneSettings {
            interval_us: MINUTE,
            edges: Edges::Start,
            filter: String::new(),
            value: String::new(),
            ts_unit: "ms".into(),
        };
        store.pin_panes(&panes).await.unwrap();
        store.add_partitions(SOURCE, &[(tp(), 0)]).await.unwrap();
        let names: Vec<_> = (0..series).map(|i| SeriesName::new(format!("d{i:07}"), "s")).collect();
        store.intern(&names, 10_000_000).await.unwrap();
        let claim = store.claim(SOURCE, "owner", &[tp()]).await.unwrap().remove(0);
        Self { store, claim }
    }

    fn checkpoint(&self, deltas: RecordBatch) -> Checkpoint {
        let (from, epoch, floor) = (self.claim.next_offset, self.claim.epoch, self.claim.floor);
        Checkpoint {
            source: SOURCE.into(),
            owner: "owner".into(),
            advances: vec![Advance {
                partition: tp(),
                epoch,
                from,
                to: from + 1,
                watermark: None,
                last_broker_time: None,
                end_offset: None,
                quiet_at: None,
                floor,
            }],
            deltas,
            dead_letters: vec![],
            losses: vec![],
            replayed: vec![],
            notices: Vec::new(),
        }
    }

    async fn commit(&mut self, rows: &[(Timestamp, SeriesId, Partial)]) {
        let checkpoint = self.checkpoint(deltas(rows));
        assert_eq!(self.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
        self.claim.next_offset += 1;
    }
}

async fn raw(store: &PgStore) -> tokio_postgres::Client {
    store.connector.connect_once(&store.target).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_paused_inside_its_transaction_is_disconnected_by_the_next() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "paused_owner");
    let stream = Stream::new(databases.store().await, 1).await;
    let paused = raw(&stream.store).await;
    paused.batch_execute("BEGIN; UPDATE progress_data SET next_offset = 99").await.unwrap();
    // One that waits for the paused one, and is no cause of it, stays connected.
    let waiting = raw(&stream.store).await;
    let waiter =
        tokio::spawn(async move { waiting.batch_execute("UPDATE progress_data SET end_offset = 5").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    let claims = stream.store.claim(SOURCE, "next", &[tp()]).await.unwrap();
    let took = started.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!((claims[0].next_offset, claims[0].epoch), (0, stream.claim.epoch + 1));
    assert!(paused.batch_execute("COMMIT").await.is_err(), "the paused session is gone");
    waiter.await.unwrap().expect("the one that waited has gone on");
    let late = stream.checkpoint(deltas(&[(at(0), 1, Partial::of(at(0), 1.0))]));
    assert_eq!(stream.store.checkpoint(&late).await.unwrap(), Outcome::Fenced);
    databases.drop_all().await;
}

fn claim_of(lease_us: i64) -> TaskClaim {
    TaskClaim { worker: "w".into(), lease_us, run_ids: None, prefer: vec![] }
}

async fn open_run(store: &PgStore) {
    let run = NewRun {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        interval: Interval { start: at(0), end: at(1) },
        cause: RunCause::Schedule,
        model_set: Some(1),
        data_only: false,
        scope: fleetscore_schemas::status::RunScope::All,
        series: None,
        cuts: vec![],
        retry_of: None,
        note: None,
    };
    assert_eq!(store.plan(&Plan { open: vec![run], ..Plan::default() }).await.unwrap(), Outcome::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_paused_inside_its_commit_loses_the_task_when_its_lease_is_over() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "paused_worker");
    let stream = Stream::new(databases.store().await, 1).await;
    let store = &stream.store;
    open_run(store).await;
    let task = store.claim_task(&claim_of(3_000_000)).await.unwrap().unwrap();
    let paused = raw(store).await;
    paused.batch_execute("BEGIN; UPDATE run_task_data SET state = 'done'").await.unwrap();
    let started = Instant::now();
    assert_eq!(store.claim_task(&claim_of(3_000_000)).await.unwrap(), None);
    assert!(started.elapsed() < Duration::from_secs(1), "an unexpired lease is not waited for");
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let next = store.claim_task(&claim_of(60_000_000)).await.unwrap().expect("it was taken over");
    assert_eq!((next.attempt, next.run_id), (task.attempt + 1, task.run_id));
    assert!(paused.batch_execute("COMMIT").await.is_err());
    assert_eq!(store.renew_task(&task, 1).await.unwrap(), Outcome::Fenced);
    assert_eq!(store.renew_task(&next, 60_000_000).await.unwrap(), Outcome::Done);
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_meets_another_process_key_falls_back_to_merging() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "race");
    let mut stream = Stream::new(databases.store().await, 3).await;
    stream.commit(&[(at(0), 1, Partial::of(at(0), 1.0))]).await; // the day's partition is there
    let other = raw(&stream.store).await;
    other
        .batch_execute(
            "BEGIN; INSERT INTO pane_data SELECT '2026-01-01 00:01Z', 2, 1, 7, 0, 7, 7, '2026-01-01 00:01:30Z', 7,
             '2026-01-01 00:01:30Z', 7",
        )
        .await
        .unwrap();
    let rows: Vec<_> = (1..=3).map(|id| (at(1), id, Partial::of(at(1).plus_us(5), 3.0))).collect();
    let checkpoint = stream.checkpoint(deltas(&rows));
    let store = stream.store.clone();
    let merging = tokio::spawn(async move { store.checkpoint(&checkpoint).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!merging.is_finished(), "it waits for the key");
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(merging.await.unwrap().unwrap(), Outcome::Done);
    let got = stream
        .store
        .query("SELECT readings, sum, first, last, version FROM windows WHERE window_start = '2026-01-01 00:01Z' ORDER BY device")
        .await
        .unwrap();
    let plain = vec![Cell::Int(1), Cell::Float(3.0), Cell::Float(3.0), Cell::Float(3.0), Cell::Int(1)];
    let merged = vec![Cell::Int(2), Cell::Float(10.0), Cell::Float(3.0), Cell::Float(7.0), Cell::Int(2)];
    assert_eq!(got.rows, [plain.clone(), merged, plain]);
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_smallest_and_the_largest_values_break_no_view() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "extremes");
    let mut stream = Stream::new(databases.store().await, 3).await;
    let spec = ScheduleSpec { hop_us: MINUTE, ..ScheduleSpec::new("two", 2 * MINUTE) };
    stream.store.put_schedule(&spec).await.unwrap();
    let series = [[5e-324, 1e-323], [1e100, -1e100], [1e-200, 3e-200]];
    for round in 0..3 {
        let mut rows = Vec::new();
        for minute in 0..3 {
            for (id, values) in (1..).zip(series) {
                let one = Partial::of(at(minute).plus_us(round), values[0]);
                let two = one.merge(&Partial::of(at(minute).plus_us(round + 9), values[1]));
                rows.push((at(minute), id, two.merge(&one)));
            }
        }
        stream.commit(&rows).await;
    }
    for view in ["windows", "windows_two"] {
        let got = stream
            .store
            .query(&format!("SELECT mean, stddev, readings FROM {view} ORDER BY device"))
            .await
            .unwrap();
        assert!(got.rows.iter().all(|r| !r.contains(&Cell::Null)), "{got:?}");
        assert_eq!(got.rows.len(), if view == "windows" { 9 } else { 12 });
    }
    let interval = Interval { start: at(0), end: at(2) };
    let batches: Vec<_> =
        stream.store.windows(interval, &crate::Selection::ALL).await.unwrap().try_collect().await.unwrap();
    let max = batches[0].column_by_name("max").unwrap().as_primitive::<Float64Type>().values().to_vec();
    assert_eq!(max, [1e-323, 1e100, 3e-200]);
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_have_partitions_and_retention_drops_whole_ones() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "days");
    let mut stream = Stream::new(databases.store().await, 1).await;
    // 2018 and today in one checkpoint, and a hundred days between.
    let mut starts: Vec<Timestamp> = (0..100).map(|i| Timestamp(at(0).0 - (3000 - 27 * i) * DAY)).collect();
    starts.extend([at(0), at(1), at(60 * 24)]);
    let rows: Vec<_> = starts.iter().map(|t| (*t, 1, Partial::of(*t, 1.0))).collect();
    stream.commit(&rows).await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'pane_data'::regclass";
    let count = async |store: &PgStore, sql: &str| store.query(sql).await.unwrap().rows[0][0].clone();
    assert_eq!(count(&stream.store, partitions).await, Cell::Int(102));
    assert_eq!(stream.store.pane_range().await.unwrap(), Some((starts[0], at(60 * 24))));
    // A reader in the middle of the old data does not stand in the way for ever, nor is it cut short.
    assert_eq!(stream.store.retain_from(at(1)).await.unwrap(), 101);
    assert_eq!(count(&stream.store, partitions).await, Cell::Int(2));
    assert_eq!(count(&stream.store, "SELECT count(*) FROM windows").await, Cell::Int(2));
    assert_eq!(stream.store.pane_range().await.unwrap(), Some((at(1), at(60 * 24))));
    assert_eq!(
        count(&stream.store, "SELECT count(*) FROM pg_class WHERE relname ~ '^pane_data_' AND relkind = 'r'")
            .await,
        Cell::Int(2)
    );
    // Who judged by the old floor is fenced; who claims again goes on, also on a day whose partition was dropped and
    // is remembered by another process.
    let rows = [(at(2), 1, Partial::of(at(2), 1.0))];
    assert_eq!(stream.store.checkpoint(&stream.checkpoint(deltas(&rows))).await.unwrap(), Outcome::Fenced);
    stream.claim = stream.store.claim(SOURCE, "owner", &[tp()]).await.unwrap().remove(0);
    assert_eq!(stream.claim.floor, Some(at(1)));
    stream.commit(&rows).await;
    raw(&stream.store).await.batch_execute("DROP TABLE pane_data_20260102").await.unwrap();
    let rows = [(at(60 * 24 + 1), 1, Partial::of(at(60 * 24 + 1), 1.0))];
    let checkpoint = stream.checkpoint(deltas(&rows));
    let e = stream.store.checkpoint(&checkpoint).await.unwrap_err();
    assert!(matches!(e, StoreError::Contended { .. }), "{e:?}");
    assert_eq!(stream.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_stops_the_migration() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "foreign");
    for (sql, object) in [
        ("CREATE TABLE windows (x int)", "public.windows"),
        ("CREATE VIEW runs AS SELECT 1 AS x", "public.runs"),
        ("CREATE TABLE fleetscore_meta (x int)", "public.fleetscore_meta"),
        ("CREATE TABLE fleetscore_meta (key text, value text)", "public.fleetscore_meta"),
        ("CREATE TYPE progress AS ENUM ('a')", "public.progress"),
    ] {
        let url = databases.make().await;
        admin(&url).await.batch_execute(sql).await.unwrap();
        let store = PgStore::connect(&url, &StoreOptions::default()).await.unwrap();
        match store.migrate().await.unwrap_err() {
            StoreError::Foreign { object: found } => assert_eq!(found, object, "{sql}"),
            e => panic!("{sql}: {e:?}"),
        }
    }
    // In a schema of its own beside them all is well, twice, and by two at once.
    let url = databases.make().await;
    admin(&url).await.batch_execute("CREATE TABLE windows (x int); CREATE SCHEMA fleet").await.unwrap();
    let url = format!("{url}&options=-c%20search_path%3Dfleet,public");
    let options = StoreOptions::default();
    let (a, b) = tokio::join!(PgStore::connect(&url, &options), PgStore::connect(&url, &options));
    let (a, b) = (a.unwrap(), b.unwrap());
    let (x, y) = tokio::join!(a.migrate(), b.migrate());
    x.unwrap();
    y.unwrap();
    assert_eq!(a.store_id().await.unwrap(), b.store_id().await.unwrap());
    raw(&a)
        .await
        .batch_execute("UPDATE fleetscore_meta SET value = '99' WHERE key = 'schema_version'")
        .await
        .unwrap();
    assert!(matches!(a.migrate().await, Err(StoreError::TooNew { found: 99, .. })));
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_of_a_person_reads_once_and_leaves_nothing_behind() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "query");
    let store = databases.store().await;
    for sql in [
        "SELECT 1; SELECT 2",
        "SELECT 1; COMMIT; DELETE FROM series_data",
        "DELETE FROM series_data RETURNING id",
        "WITH d AS (DELETE FROM series_data RETURNING id) SELECT * FROM d",
        "CREATE TABLE t (x int)",
        "COMMIT",
        "SET default_transaction_read_only = off",
        "SELECT nextval('model_set_version')",
        "SELECT $1::int",
        "SELEC",
        "",
    ] {
        assert!(matches!(store.query(sql).await, Err(StoreError::Query { .. })), "{sql}");
    }
    store.query("SELECT set_config('search_path', 'pg_catalog', false), pg_advisory_lock(5)").await.unwrap();
    let got = store
        .query("SELECT current_setting('search_path') <> 'pg_catalog' AS same, 0.1::float8 + 0.2 AS f, NULL AS n, 5 AS i, 1.50 AS d")
        .await
        .unwrap();
    assert_eq!(got.columns, ["same", "f", "n", "i", "d"]);
    let want =
        [Cell::Bool(true), Cell::Float(0.1 + 0.2), Cell::Null, Cell::Int(5), Cell::Text("1.50".into())];
    assert_eq!(got.rows, [want]);
    databases.drop_all().await;
}

#[tokio::test]
async fn a_missing_database_is_a_wrong_setting() {
    let Some(url) = server() else { return };
    let base = url.split('?').next().unwrap().rsplit_once('/').unwrap().0.to_owned();
    let e =
        PgStore::connect(&format!("{base}/no_such_database"), &StoreOptions::default()).await.unwrap_err();
    assert!(matches!(&e, StoreError::Setting { setting, .. } if setting == "store"), "{e:?}");
    let e = PgStore::connect(
        &format!("{base}/no_such_database?sslmode=verify-ca&sslrootcert=/no/such"),
        &StoreOptions::default(),
    )
    .await
    .unwrap_err();
    assert!(e.to_string().contains("/no/such"), "{e}");
}

/// `FLEETSCORE_TEST_POSTGRES_TLS`: URL of a server with `ssl = on` and a certificate for `localhost` alone, with the
/// authority's PEM as `sslrootcert`; `FLEETSCORE_TEST_POSTGRES_OTHER_CA`: the PEM of an authority that did not sign it.
#[tokio::test]
async fn every_sslmode_does_what_libpq_does() {
    let (Ok(url), Ok(other)) =
        (std::env::var("FLEETSCORE_TEST_POSTGRES_TLS"), std::env::var("FLEETSCORE_TEST_POSTGRES_OTHER_CA"))
    else {
        eprintln!("left out: FLEETSCORE_TEST_POSTGRES_TLS and FLEETSCORE_TEST_POSTGRES_OTHER_CA are not set");
        return;
    };
    let (base, query) = url.split_once('?').unwrap();
    let ca = query.split('&').find_map(|p| p.strip_prefix("sslrootcert=")).unwrap();
    let (by_name, by_ip) = (base.to_owned(), base.replace("localhost", "127.0.0.1"));
    let plain = Ok(false);
    let (tls, refused) = (Ok(true), Err(()));
    for (server, parameters, want) in [
        (&by_name, "sslmode=disable".to_owned(), plain),
        (&by_name, "sslmode=allow".to_owned(), plain),
        (&by_name, "sslmode=prefer".to_owned(), tls),
        (&by_name, String::new(), tls),
        (&by_name, "sslmode=require".to_owned(), tls),
        (&by_ip, "sslmode=require".to_owned(), tls),
        (&by_name, format!("sslmode=require&sslrootcert={other}"), refused),
        (&by_ip, format!("sslmode=require&sslrootcert={ca}"), tls),
        (&by_ip, format!("sslmode=verify-ca&sslrootcert={ca}"), tls),
        (&by_name, format!("sslmode=verify-ca&sslrootcert={other}"), refused),
        (&by_name, "sslmode=verify-ca".to_owned(), refused),
        (&by_name, format!("sslmode=verify-full&sslrootcert={ca}"), tls),
        (&by_ip, format!("sslmode=verify-full&sslrootcert={ca}"), refused),
        (&by_name, format!("sslmode=verify-full&sslrootcert={other}"), refused),
    ] {
        let url = format!("{server}?{parameters}");
        let got = match PgStore::connect(&url, &StoreOptions::default()).await {
            Ok(store) => {
                let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                Ok(store.query(sql).await.unwrap().rows[0][0] == Cell::Bool(true))
            }
            Err(StoreError::Setting { setting, .. }) if setting == "store" => Err(()),
            Err(e) => panic!("{url}: {e:?}"),
        };
        assert_eq!(got, want, "{url}");
    }
}

/// How long the write and read paths take; run it with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn paths_of_many_rows() {
    let Some(url) = server() else { return };
    let rows: u32 =
        std::env::var("FLEETSCORE_TEST_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let databases = Databases::new(&url, "bulk");
    let started = Instant::now();
    let mut stream = Stream::new(databases.store().await, rows as usize).await;
    eprintln!("{rows} series interned: {:?}", started.elapsed());
    let of = |t: Timestamp| -> Vec<_> {
        (1..=rows).map(|id| (t, id, Partial::of(t.plus_us(i64::from(id)), f64::from(id)))).collect()
    };
    for (what, minute) in [("new pane", 0), ("another new pane", 1), ("all rows there", 1)] {
        let checkpoint = stream.checkpoint(deltas(&of(at(minute))));
        let started = Instant::now();
        assert_eq!(stream.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
        stream.claim.next_offset += 1;
        eprintln!("checkpoint, {what}: {:?}", started.elapsed());
    }
    for end in [1, 2, 5] {
        let started = Instant::now();
        let interval = Interval { start: at(0), end: at(end) };
        let batches: Vec<RecordBatch> = stream
            .store
            .windows(interval, &crate::Selection::ALL)
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows as usize);
        eprintln!("windows of {end} panes: {:?}", started.elapsed());
    }
    for (what, version) in [("new", 1), ("unchanged", 1), ("all changed", 2)] {
        open_run(&stream.store).await;
        let task = stream.store.claim_task(&claim_of(600_000_000)).await.unwrap().unwrap();
        let batch = predictions(rows, version);
        let started = Instant::now();
        let commit = PredictionCommit {
            task: &task,
            predictions: futures::stream::iter([Ok(batch)]).boxed(),
            selection: &crate::Selection::ALL,
            phases: &crate::Phases::default,
            rules: &crate::Rules::default(),
        };
        let committed = stream.store.commit_predictions(commit).await.unwrap();
        assert!(matches!(committed, Committed::Done { .. }), "{committed:?}");
        eprintln!("predictions, {what}: {:?}", started.elapsed());
    }
    let interval = Interval { start: at(0), end: at(1) };
    let started = Instant::now();
    let read: Vec<RecordBatch> =
        stream.store.predictions("default", interval).await.unwrap().try_collect().await.unwrap();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), rows as usize);
    eprintln!("predictions read: {:?}", started.elapsed());
    for sql in [
        "SELECT count(*) FILTER (WHERE stale) FROM predictions",
        "SELECT count(*) FILTER (WHERE ready) FROM windows",
    ] {
        let started = Instant::now();
        stream.store.query(sql).await.unwrap();
        eprintln!("{sql}: {:?}", started.elapsed());
    }
    databases.drop_all().await;
}

fn predictions(rows: u32, version: i64) -> RecordBatch {
    let n = rows as usize;
    let text = |t: &str| -> ArrayRef { Arc::new(arrow::array::StringArray::from(vec![t; n])) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(1..=rows)),
        Arc::new(Float64Array::from(vec![1.5; n])),
        Arc::new(arrow::array::Int16Array::from(vec![0; n])),
        Arc::new(Float64Array::from(vec![0.25; n])),
        text("scored"),
        text("model_d_s"),
        Arc::new(Int64Array::from(vec![version; n])),
        Arc::new(arrow::array::StringArray::from(vec![None::<&str>; n])),
        Arc::new(Int64Array::from(vec![None; n])),
    ];
    RecordBatch::try_new(prediction_schema(), columns).unwrap()
}
