//! The whole service on the store in memory: what ends up in panes equals a direct computation, exactly once.

use crate::test_source::{Log, LogSource, Message, Order, Remote, partition};
use crate::test_store::FlakyStore;
use crate::{AggregatorError, Handle, OnOffsetGap, Options, SystemClock, service};
use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, UInt32Type};
use fleetscore_schemas::codes::{Classify, DeadLetterCode, Domain};
use fleetscore_schemas::delta::Partial;
use fleetscore_schemas::time::{Edges, PaneGrid, Timestamp};
use fleetscore_store::{DeadLetterFilter, MemoryStore, PaneSettings, Store};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const S: i64 = 1_000_000;
const T0: i64 = 1_535_500_800 * S;
const LIMIT: Duration = Duration::from_secs(60);

fn options(owner: &str) -> Options {
    let panes = PaneSettings {
        interval_us: 5 * S,
        edges: Edges::Start,
        filter: String::new(),
        value: String::new(),
        ts_unit: "ms".into(),
    };
    Options {
        checkpoint_interval_us: 30_000,
        idle_timeout_us: 200_000,
        owner_ttl_us: 3 * S,
        ..Options::new(owner, panes)
    }
}

/// Readings of five minutes, somewhat out of order, with a bad record and a hole in the log here and there.
fn log(partitions: usize, messages: usize, seed: u64) -> Log {
    let mut rng = fastrand::Rng::with_seed(seed);
    let log = (0..partitions)
        .map(|_| {
            (0..messages)
                .map(|i| {
                    if rng.u8(..20) == 0 {
                        return None;
                    }
                    let base = T0 + i as i64 * 300 * S / messages as i64;
                    let readings = (0..rng.usize(..4))
                        .map(|_| {
                            (rng.u32(..8), base + rng.i64(-8 * S..8 * S), f64::from(rng.i32(-999..999)) / 8.0)
                        })
                        .collect();
                    Some(Message { readings, bad: rng.u8(..10) == 0 })
                })
                .collect()
        })
        .collect();
    Arc::new(Mutex::new(log))
}

struct Running {
    handle: Handle,
    remote: Remote,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AggregatorError>>,
}

impl Running {
    fn start(store: Arc<dyn Store>, log: &Log, options: Options, seed: u64) -> Self {
        Self::on_cluster(store, log, options, seed, "c")
    }

    fn on_cluster(store: Arc<dyn Store>, log: &Log, options: Options, seed: u64, cluster: &str) -> Self {
        let (source, remote) = LogSource::new(Arc::clone(log), cluster, seed);
        let clock = Arc::new(SystemClock::new());
        let (service, handle) = service(options, store, Box::new(source), clock).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(service.run(stop.clone()));
        Self { handle, remote, stop, task }
    }

    async fn end(self) -> Result<(), AggregatorError> {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.expect("it ends").expect("no panic")
    }
}

/// Waits until all of the log is committed.
async fn caught_up(store: &dyn Store, log: &Log) {
    let ends: Vec<i64> = log.lock().unwrap().iter().map(|p| p.len() as i64).collect();
    let begun = Instant::now();
    loop {
        if let Ok(progress) = store.progress().await {
            let done = |(p, end): (usize, &i64)| {
                progress.rows.iter().any(|r| r.partition == partition(p) && r.next_offset == *end)
            };
            if ends.iter().enumerate().all(done) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "stuck: {:#?}", progress.rows);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

type Panes = BTreeMap<(i64, String), Partial>;

fn expected(log: &Log, grid: PaneGrid) -> Panes {
    let mut panes = Panes::new();
    for (series, ts, v) in log.lock().unwrap().iter().flatten().flatten().flat_map(|m| m.readings.clone()) {
        let key = (grid.pane_of(Timestamp(ts)).start.us(), format!("d{series}"));
        let one = Partial::of(Timestamp(ts), v);
        panes.entry(key).and_modify(|p| *p = p.merge(&one)).or_insert(one);
    }
    panes
}

/// Panes of the store equal the direct computation; the number of merges (versions) is free.
async fn check(store: &dyn Store, log: &Log) {
    let grid = PaneGrid { len_us: 5 * S, edges: Edges::Start };
    let want = expected(log, grid);
    let names: BTreeMap<u32, String> =
        store.series().await.unwrap().into_iter().map(|(id, n)| (id, n.device)).collect();
    let (oldest, newest) = store.pane_range().await.unwrap().unwrap();
    let mut seen = 0;
    let mut start = oldest;
    while start <= newest {
        let batches: Vec<_> = store
            .windows(grid.pane_of(start), &fleetscore_store::Selection::ALL)
            .await
            .unwrap()
            .collect()
            .await;
        for batch in batches {
            let batch = batch.unwrap();
            let series = batch.column(0).as_primitive::<UInt32Type>();
            let column = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Float64Type>();
            for i in 0..batch.num_rows() {
                let key = (start.us(), names[&series.value(i)].clone());
                let want = want.get(&key).unwrap_or_else(|| panic!("{key:?} has no readings"));
                let get = |name: &str| column(name).value(i);
                assert_eq!(get("readings"), want.count as f64, "{key:?}");
                assert_eq!(
                    (get("min"), get("max"), get("first"), get("last")),
                    (want.min, want.max, want.first.1, want.last.1),
                    "{key:?}"
                );
                assert!((get("sum") - want.sum).abs() <= 1e-9 * (1.0 + want.sum.abs()), "{key:?}");
                seen += 1;
            }
        }
        start = start.plus_us(grid.len_us);
    }
    assert_eq!(seen, want.len(), "every pane with readings");
    let letters = store
        .dead_letters(&DeadLetterFilter { limit: 100_000, ..DeadLetterFilter::default() })
        .await
        .unwrap();
    let got: Vec<(i32, i64, i32)> =
        letters.iter().map(|d| (d.partition.partition, d.offset, d.position)).collect();
    let mut unique = got.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(got.len(), unique.len(), "every bad record once");
    let mut bad = Vec::new();
    for (p, messages) in log.lock().unwrap().iter().enumerate() {
        for (offset, message) in messages.iter().enumerate() {
            if let Some(m) = message.as_ref().filter(|m| m.bad) {
                bad.push((p as i32, offset as i64, m.readings.len() as i32));
            }
        }
    }
    assert_eq!(unique, bad);
    for letter in &letters {
        let text = format!("p{}o{}", letter.partition.partition, letter.offset);
        assert_eq!(letter.payload.as_deref(), Some(text.as_bytes()));
    }
}

async fn store(one_in: u32, seed: u64) -> Arc<FlakyStore<MemoryStore>> {
    let inner = MemoryStore::new();
    inner.migrate().await.unwrap();
    Arc::new(FlakyStore::new(inner, one_in, seed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_take_longer_than_a_turn_of_the_loop_are_waited_for() {
    let inner = MemoryStore::new();
    inner.migrate().await.unwrap();
    let mut store = FlakyStore::new(inner, 0, 1);
    store.interning = Duration::from_millis(300);
    let (store, log) = (Arc::new(store), log(1, 50, 1));
    let running = Running::start(store.clone(), &log, options("a"), 1);
    running.remote.order(Order::Grant(vec![0]));
    caught_up(&*store, &log).await;
    check(&*store, &log).await;
    running.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_counts_once_and_the_end_is_quiet() {
    let (store, log) = (store(0, 1).await, log(3, 400, 1));
    let running = Running::start(store.clone(), &log, options("a"), 1);
    running.remote.order(Order::Grant(vec![0, 1, 2]));
    let mut committed = running.handle.committed();
    caught_up(&*store, &log).await;
    assert!(*committed.borrow_and_update() > 0);
    let begun = Instant::now();
    while !store.progress().await.unwrap().rows.iter().all(|r| r.quiet_at.is_some()) {
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "quiet at idle_timeout, not at the next regular sign of life"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let snapshot = running.handle.snapshot();
    running.end().await.unwrap();
    check(&*store, &log).await;
    let total: i64 = expected(&log, options("a").panes.grid()).values().map(|p| p.count).sum();
    assert_eq!(snapshot.readings as i64, total);
    assert!(
        snapshot.windows > 0 && snapshot.partitions.len() == 3 && snapshot.waits_for.is_none(),
        "{snapshot:?}"
    );
    for row in store.progress().await.unwrap().rows {
        assert_eq!((row.watermark.is_some(), row.end_offset), (true, Some(row.next_offset)));
    }
    // A second start on the same store goes on where the first ended.
    for partition in log.lock().unwrap().iter_mut() {
        partition.push(Some(Message { readings: vec![(3, T0 + 320 * S, 1.5), (9, T0, -2.0)], bad: true }));
    }
    let running = Running::start(store.clone(), &log, options("b"), 2);
    running.remote.order(Order::Grant(vec![0, 1, 2]));
    caught_up(&*store, &log).await;
    let snapshot = running.handle.snapshot();
    running.end().await.unwrap();
    assert_eq!((snapshot.readings, snapshot.late), (6, 3), "late readings merge");
    check(&*store, &log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thieves_lost_connections_and_stale_batches_change_nothing() {
    for seed in 0..3 {
        let (store, log) = (store(6, seed).await, log(4, 1200, seed));
        let running = Running::start(store.clone(), &log, options("a"), seed);
        running.remote.order(Order::Misbehave);
        running.remote.order(Order::Grant(vec![0, 1, 2, 3]));
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(rng.u64(20..250))).await;
            // Somebody else takes a partition over and never commits.
            let _ = store.inner.claim("c", "thief", &[partition(rng.usize(..4))]).await;
        }
        caught_up(&*store, &log).await;
        running.end().await.unwrap();
        check(&*store, &log).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_between_processes_in_good_order_and_in_bad() {
    for seed in 0..2 {
        let (store, log) = (store(12, seed).await, log(4, 3000, seed + 10));
        let a = Running::start(store.clone(), &log, options("a"), seed);
        let b = Running::start(store.clone(), &log, options("b"), seed + 50);
        a.remote.order(Order::Grant(vec![0, 1, 2, 3]));
        let pause = || tokio::time::sleep(Duration::from_millis(60));
        pause().await;
        a.remote.order(Order::Grant(vec![0, 1]));
        b.remote.order(Order::Grant(vec![2, 3]));
        pause().await;
        b.remote.order(Order::Lose);
        a.remote.order(Order::Grant(vec![0, 1, 2, 3]));
        pause().await;
        // b believes to own all, as a process that slept through its session does; then both get told.
        b.remote.order(Order::Grant(vec![0, 1, 2, 3]));
        pause().await;
        b.remote.order(Order::Grant(vec![3]));
        a.remote.order(Order::Grant(vec![0, 1, 2]));
        caught_up(&*store, &log).await;
        a.end().await.unwrap();
        b.end().await.unwrap();
        check(&*store, &log).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_bound_compacts_and_commits_more_often() {
    let (store, log) = (store(0, 1).await, log(1, 30_000, 5));
    let options = Options { checkpoint_bytes: 1 << 20, checkpoint_interval_us: 3600 * S, ..options("a") };
    // No watermark closes a pane here before the end: everything hangs on the bound.
    let options = Options { max_disorder_us: 3600 * S, ..options };
    let running = Running::start(store.clone(), &log, options, 1);
    running.remote.order(Order::Grant(vec![0]));
    let begun = Instant::now();
    while running.handle.snapshot().partitions.first().is_none_or(|p| p.position < 30_000) {
        assert!(running.handle.snapshot().pending_bytes < 2 << 20);
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.end().await.unwrap();
    check(&*store, &log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_limits_and_floods() {
    let (store, log) = (store(0, 1).await, Log::default());
    let readings = (0..40u32).map(|i| (i % 4, T0 + i64::from(i) * S, f64::from(i))).collect();
    log.lock().unwrap().push(vec![
        Some(Message { readings, bad: false }),
        Some(Message { readings: vec![(0, T0 + 40 * S, 7.0)], bad: true }),
    ]);
    let mut options = Options { max_series: 2, dead_letters_per_minute: 5, ..options("a") };
    options.panes.filter = "device <> 'd3'".into();
    options.panes.value = "100 / cast(value as bigint)".into();
    let running = Running::start(store.clone(), &log, options, 1);
    running.remote.order(Order::Grant(vec![0]));
    caught_up(&*store, &log).await;
    let snapshot = running.handle.snapshot();
    running.end().await.unwrap();
    // d3 is filtered, d2 is one series too many, value 0 divides by zero.
    assert_eq!((snapshot.filtered, snapshot.readings), (10, 9 + 10 + 1));
    let dead: BTreeMap<_, _> =
        [(DeadLetterCode::SeriesLimit, 10), (DeadLetterCode::Expression, 1), (DeadLetterCode::BadValue, 1)]
            .into();
    assert_eq!(snapshot.dead_letters, dead);
    let rows =
        store.dead_letters(&DeadLetterFilter { limit: 100, ..DeadLetterFilter::default() }).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.count).sum::<i64>(), 12);
    assert!(rows.len() < 12 && rows.iter().any(|r| r.count > 1 && r.payload.is_none()), "{rows:?}");
    let expression = rows.iter().find(|r| r.code == "expression").unwrap();
    assert!(expression.detail.contains("readings.value"), "{expression:?}");
    let watermark = store.progress().await.unwrap().rows[0].watermark;
    assert_eq!(
        watermark,
        Some(Timestamp(T0 + 30 * S)),
        "of the last good reading, 40 s, less 10 s of disorder"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_of_the_user_stop_the_service() {
    let (store, log) = (store(0, 1).await, log(1, 10, 1));
    let running = Running::start(store.clone(), &log, options("a"), 1);
    running.remote.order(Order::Grant(vec![0]));
    caught_up(&*store, &log).await;
    running.end().await.unwrap();
    // Another cluster with the same topic.
    let other = Running::on_cluster(store.clone(), &log, options("a"), 1, "another");
    other.remote.order(Order::Grant(vec![0]));
    let e = other.task.await.unwrap().unwrap_err();
    assert!(matches!(e, AggregatorError::OtherCluster { .. }) && e.domain() == Domain::User, "{e}");
    let other_options = Options { on_offset_gap: OnOffsetGap::Continue, ..options("a") };
    let other = Running::on_cluster(store.clone(), &log, other_options, 1, "another");
    other.remote.order(Order::Grant(vec![0]));
    let begun = Instant::now();
    while !store.progress().await.unwrap().rows.iter().any(|r| r.source == "another" && r.next_offset == 10) {
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    other.end().await.unwrap();
    // Panes of another length.
    let mut wrong = options("a");
    wrong.panes.interval_us = 60 * S;
    let e = Running::start(store.clone(), &log, wrong, 1).task.await.unwrap().unwrap_err();
    assert_eq!(e.domain(), Domain::User, "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_panes_are_deleted_and_nobody_is_fenced_by_it() {
    let (store, log) = (store(0, 1).await, log(2, 400, 8));
    let options = Options {
        retention_us: Some(60 * S),
        allowed_lateness_us: 30 * S,
        owner_ttl_us: 300_000,
        ..options("a")
    };
    let running = Running::start(store.clone(), &log, options, 1);
    running.remote.order(Order::Grant(vec![0, 1]));
    caught_up(&*store, &log).await;
    let begun = Instant::now();
    // When all is quiet, everything up to the newest pane is ready: the floor lies a minute before its end.
    let newest = loop {
        let (oldest, newest) = store.pane_range().await.unwrap().unwrap();
        if oldest.us() == newest.us() + 5 * S - 60 * S {
            break newest;
        }
        assert!(begun.elapsed() < LIMIT, "{oldest} {newest}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // What lies below the floor is a dead letter now, whatever the lateness; nobody was fenced by all this.
    log.lock().unwrap()[0].push(Some(Message { readings: vec![(1, newest.us() - 70 * S, 1.0)], bad: false }));
    caught_up(&*store, &log).await;
    let snapshot = running.handle.snapshot();
    running.end().await.unwrap();
    assert_eq!((snapshot.fences, snapshot.dead_letters.get(&DeadLetterCode::TooLate)), (0, Some(&1)));
}
