//! What one interval costs in the store: windows read, predictions written and read back, each beside the bare way to
//! move the same rows in the same run.
//!
//! ```text
//! cargo run --release -p fleetscore-store --example scoring_io -- 1000000 sqlite:/tmp/scoring_io.db
//! cargo run --release -p fleetscore-store --example scoring_io -- 1000000 postgres://postgres@127.0.0.1:5432/scratch
//! ```
//!
//! The database must be empty; it is left filled. Bare is, on PostgreSQL, a binary COPY of the same rows whose bytes are
//! dropped or lie in memory; on SQLite a statement that is stepped through, or one insert per row from memory.
#![allow(clippy::unwrap_used)] // a measurement

use arrow::array::{
    ArrayRef, Float64Array, Int16Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array,
};
use bytes::{Bytes, BytesMut};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::delta;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::status::{RunCause, RunScope};
use fleetscore_schemas::time::{Edges, Interval, Timestamp};
use fleetscore_schemas::window::prediction_schema;
use fleetscore_store::*;
use futures::{SinkExt, StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

const MINUTE: i64 = 60_000_000;
const BATCH: usize = 8192;

fn interval() -> Interval {
    let start = Timestamp(1_767_225_600_000_000);
    Interval { start, end: start.plus_us(MINUTE) }
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let rows: u32 = args.next().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let url = args.next().unwrap_or_else(|| "sqlite:scoring_io.db".into());
    let store = open(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    println!("{rows} series, {url}");
    fill(&*store, rows).await;

    let started = Instant::now();
    let read = drain(store.windows(interval(), &Selection::ALL).await.unwrap()).await;
    assert_eq!(read, rows as usize);
    let windows = report("windows()", started, None);
    let bare = Bare::new(&url).await;
    let bare_read = timed(bare.read_windows()).await;
    println!("    bare {bare_read:.2} s, ratio {:.2}", windows / bare_read);

    let new = commit(&*store, rows, 1, true).await;
    let first = report_s("commit_predictions(), new", new);
    let bare_write = bare.write_predictions(rows).await;
    let ratio = |s: f64| println!("    bare {bare_write:.2} s, ratio {:.2}", s / bare_write);
    ratio(first);
    ratio(report_s("commit_predictions(), unchanged", commit(&*store, rows, 1, false).await));
    ratio(report_s("commit_predictions(), one in a hundred changed", commit(&*store, rows, 101, true).await));
    ratio(report_s("commit_predictions(), all changed", commit(&*store, rows, 2, true).await));

    let started = Instant::now();
    let read = drain(store.predictions("default", interval()).await.unwrap()).await;
    assert_eq!(read, rows as usize);
    let published = report("predictions()", started, None);
    let bare_read = timed(bare.read_predictions()).await;
    println!("    bare, unsorted and without names {bare_read:.2} s, ratio {:.2}", published / bare_read);

    let started = Instant::now();
    assert_eq!(drain(store.series_batches().await.unwrap()).await, rows as usize);
    report("series_batches()", started, None);
    let started = Instant::now();
    let names: Vec<_> = (0..rows).map(name).collect();
    for part in names.chunks(50_000) {
        assert!(store.lookup(part).await.unwrap().iter().all(Option::is_some));
    }
    report("lookup() of all names", started, Some(rows));
}

fn report(what: &str, started: Instant, per: Option<u32>) -> f64 {
    let s = started.elapsed().as_secs_f64();
    match per {
        Some(rows) => println!("{what}: {s:.2} s, {:.2} µs each", s * 1e6 / f64::from(rows)),
        None => println!("{what}: {s:.2} s"),
    }
    s
}

fn report_s(what: &str, s: f64) -> f64 {
    println!("{what}: {s:.2} s");
    s
}

async fn timed(work: impl Future<Output = ()>) -> f64 {
    let started = Instant::now();
    work.await;
    started.elapsed().as_secs_f64()
}

async fn drain(mut stream: BatchStream<'_>) -> usize {
    let mut rows = 0;
    while let Some(batch) = stream.try_next().await.unwrap() {
        rows += batch.num_rows();
    }
    rows
}

/// Ids and names in different orders, as they are where devices come and go.
fn name(i: u32) -> SeriesName {
    let j = u64::from(i) * 7_919_317 % 10_000_019;
    SeriesName::new(format!("device-{j:08}"), "temperature")
}

async fn fill(store: &dyn Store, rows: u32) {
    let settings = PaneSettings {
        interval_us: MINUTE,
        edges: Edges::Start,
        filter: String::new(),
        value: String::new(),
        ts_unit: "ms".into(),
    };
    store.pin_panes(&settings).await.unwrap();
    let schedule = ScheduleSpec {
        name: "default".into(),
        window_us: MINUTE,
        hop_us: MINUTE,
        republish_gap_us: 0,
        ..ScheduleSpec::default()
    };
    store.put_schedule(&schedule).await.unwrap();
    let partition = TopicPartition::new("readings", 0);
    store.add_partitions("c", &[(partition.clone(), 0)]).await.unwrap();
    let claim = store.claim("c", "o", &[partition]).await.unwrap().remove(0);
    let started = Instant::now();
    let names: Vec<_> = (0..rows).map(name).collect();
    for part in names.chunks(50_000) {
        store.intern(part, u32::MAX).await.unwrap();
    }
    report("intern()", started, Some(rows));
    let advance = Advance {
        partition: claim.partition.clone(),
        epoch: claim.epoch,
        from: claim.next_offset,
        to: claim.next_offset + 1,
        watermark: None,
        last_broker_time: None,
        end_offset: None,
        quiet_at: None,
        floor: claim.floor,
    };
    let checkpoint = Checkpoint {
        source: "c".into(),
        owner: "o".into(),
        advances: vec![advance],
        deltas: deltas(rows),
        dead_letters: vec![],
        losses: vec![],
        replayed: vec![],
        notices: Vec::new(),
    };
    let started = Instant::now();
    assert_eq!(store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    report("checkpoint()", started, None);
}

fn deltas(rows: u32) -> RecordBatch {
    let n = rows as usize;
    let times = |us: i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![interval().start.0 + us; n]).with_timezone("UTC"))
    };
    let floats = |k: f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values((0..rows).map(|i| f64::from(i).sin().abs() * k)))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(1..=rows)),
        times(0),
        Arc::new(Int64Array::from(vec![6; n])),
        floats(72.0),
        floats(1.0),
        floats(10.0),
        floats(14.0),
        times(1_000_000),
        floats(11.0),
        times(51_000_000),
        floats(13.0),
    ];
    RecordBatch::try_new(delta::schema(), columns).unwrap()
}

/// Predictions as a scorer makes them, batch by batch. A series' value moves with `version` where it divides.
fn predictions(from: u32, to: u32, version: u32) -> RecordBatch {
    let ids = || from..to;
    let moved = |i: u32| version == 2 || (version > 100 && i.is_multiple_of(version - 1));
    let anomaly = |i: u32| i.is_multiple_of(200);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(ids())),
        Arc::new(Float64Array::from_iter_values(ids().map(|i| f64::from(i).sin() + 12.0))),
        Arc::new(Int16Array::from_iter_values(ids().map(|i| i16::from(anomaly(i))))),
        Arc::new(Float64Array::from_iter_values(
            ids().map(|i| f64::from(i).cos() + f64::from(u8::from(moved(i)))),
        )),
        Arc::new(StringArray::from_iter_values(ids().map(|_| "scored"))),
        Arc::new(StringArray::from_iter_values(ids().map(|i| format!("model_device-{i:08}_temperature")))),
        Arc::new(Int64Array::from_iter_values(ids().map(|i| 1 + i64::from(moved(i))))),
        Arc::new(ids().map(|i| anomaly(i).then_some("10.01 … 14.18")).collect::<StringArray>()),
        Arc::new(Int64Array::from(vec![None; ids().len()])),
    ];
    RecordBatch::try_new(prediction_schema(), columns).unwrap()
}

async fn commit(store: &dyn Store, rows: u32, version: u32, changes: bool) -> f64 {
    let run = NewRun {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        interval: interval(),
        cause: RunCause::Schedule,
        model_set: Some(1),
        data_only: false,
        scope: RunScope::All,
        series: None,
        cuts: vec![],
        retry_of: None,
        note: None,
    };
    let plan = Plan { open: vec![run], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    let claim = TaskClaim { worker: "w".into(), lease_us: 600_000_000, run_ids: None, prefer: vec![] };
    let task = store.claim_task(&claim).await.unwrap().unwrap();
    // Made before: what a scorer costs is not this measurement's.
    let batches: Vec<_> = (1..=rows)
        .step_by(BATCH)
        .map(|from| Ok(predictions(from, (from + BATCH as u32).min(rows + 1), version)))
        .collect();
    let started = Instant::now();
    let predictions = futures::stream::iter(batches).boxed();
    let (selection, rules) = (&Selection::ALL, &Rules::default());
    let commit = PredictionCommit { task: &task, selection, predictions, phases: &Phases::default, rules };
    let committed = store.commit_predictions(commit).await.unwrap();
    let s = started.elapsed().as_secs_f64();
    let Committed::Done { counts, changed, .. } = committed else { panic!("{committed:?}") };
    assert_eq!((counts.scored, changed), (i64::from(rows), changes));
    s
}

/// The same rows without the store.
enum Bare {
    Postgres(tokio_postgres::Client),
    Sqlite(std::path::PathBuf),
}

const PANES: &str =
    "series_id, version, count, sum, m2, min, max, first_value, last_value, first_ts, last_ts, pane_start";

impl Bare {
    async fn new(url: &str) -> Self {
        match url.strip_prefix("sqlite:") {
            Some(path) => Self::Sqlite(path.into()),
            None => {
                let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                Self::Postgres(client)
            }
        }
    }

    async fn read_windows(&self) {
        self.read(&format!("SELECT {PANES} FROM pane_data ORDER BY series_id")).await;
    }

    async fn read_predictions(&self) {
        self.read("SELECT * FROM prediction_data").await;
    }

    async fn read(&self, select: &str) {
        match self {
            Self::Postgres(client) => {
                drop(out(client, select, false).await);
            }
            Self::Sqlite(path) => step(path, select),
        }
    }

    /// All rows of the interval into a table of the same shape; only the writing counts.
    async fn write_predictions(&self, rows: u32) -> f64 {
        match self {
            Self::Postgres(client) => {
                client.batch_execute("CREATE TABLE bare (LIKE prediction_data INCLUDING ALL)").await.unwrap();
                let bytes = out(client, "SELECT * FROM prediction_data ORDER BY series_id", true).await;
                let started = Instant::now();
                let sink = client.copy_in::<_, Bytes>("COPY bare FROM STDIN (FORMAT binary)").await.unwrap();
                let mut sink = std::pin::pin!(sink);
                let mut rest = bytes;
                while !rest.is_empty() {
                    let part = rest.split_to(rest.len().min(128 << 10));
                    sink.send(part).await.unwrap();
                }
                assert_eq!(sink.finish().await.unwrap(), u64::from(rows));
                let s = started.elapsed().as_secs_f64();
                client.batch_execute("DROP TABLE bare").await.unwrap();
                s
            }
            Self::Sqlite(path) => insert(path, rows),
        }
    }
}

async fn out(client: &tokio_postgres::Client, select: &str, keep: bool) -> Bytes {
    let sql = format!("COPY ({select}) TO STDOUT (FORMAT binary)");
    let mut stream = std::pin::pin!(client.copy_out(&sql).await.unwrap());
    let mut all = BytesMut::new();
    while let Some(bytes) = stream.try_next().await.unwrap() {
        if keep {
            all.extend_from_slice(&bytes);
        }
    }
    all.freeze()
}

fn step(path: &std::path::Path, select: &str) {
    let conn = rusqlite::Connection::open(path).unwrap();
    let mut statement = conn.prepare(select).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        for i in 0..columns {
            std::hint::black_box(row.get_ref(i).unwrap());
        }
    }
}

fn insert(path: &std::path::Path, rows: u32) -> f64 {
    let mut conn = rusqlite::Connection::open(path).unwrap();
    conn.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536").unwrap();
    let sql: String = conn
        .query_row("SELECT sql FROM sqlite_schema WHERE name = 'prediction_data'", [], |r| r.get(0))
        .unwrap();
    conn.execute_batch(&sql.replace("TABLE prediction_data", "TABLE bare")).unwrap();
    let run = Uuid::new_v4().to_string();
    let models: Vec<_> = (1..=rows).map(|i| format!("model_device-{i:08}_temperature")).collect();
    let started = Instant::now();
    let tx = conn.transaction().unwrap();
    {
        let mut put = tx
            .prepare("INSERT INTO bare VALUES ('default', ?1, ?2, ?3, ?4, 0, ?5, 'scored', 1, ?6, 1, NULL, ?7, ?8)")
            .unwrap();
        for (id, model) in (1..=rows).zip(&models) {
            let i = interval();
            let (value, decision) = (f64::from(id).sin() + 12.0, f64::from(id).cos());
            let row = rusqlite::params![i.start.0, id, i.end.0, value, decision, model, run, i.end.0];
            put.execute(row).unwrap();
        }
    }
    tx.commit().unwrap();
    let s = started.elapsed().as_secs_f64();
    conn.execute_batch("DROP TABLE bare").unwrap();
    s
}
