//! What the promises are made from: a clock face, a claimed stream, runs and predictions.

pub(super) use std::sync::Arc;

use crate::*;
use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int16Array, Int64Array, StringArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::datatypes::{Float64Type, Int64Type, UInt32Type};
use fleetscore_schemas::delta::{self, Partial};
use fleetscore_schemas::status::{RunCause, RunScope, RunState};
use fleetscore_schemas::time::Edges;
use fleetscore_schemas::window::prediction_schema;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;

/// One minute: the pane of most promises.
pub(super) const MINUTE: i64 = 60_000_000;
/// A lease that does not run out while a promise is checked.
pub(super) const LONG: i64 = 600_000_000;
pub(super) const SOURCE: &str = "cluster-1";

/// So many minutes after 2026-01-01T00:00:00Z.
pub(super) fn at(minute: i64) -> Timestamp {
    Timestamp(1_767_225_600_000_000 + minute * MINUTE)
}

/// The interval from one minute to another.
pub(super) fn span(from: i64, to: i64) -> Interval {
    Interval { start: at(from), end: at(to) }
}

pub(super) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("readings", partition)
}

pub(super) fn panes() -> PaneSettings {
    PaneSettings {
        interval_us: MINUTE,
        edges: Edges::Start,
        filter: String::new(),
        value: String::new(),
        ts_unit: "ms".into(),
    }
}

pub(super) fn readiness() -> ReadinessSettings {
    ReadinessSettings { max_disorder_us: 10_000_000, owner_ttl_us: 30_000_000, max_wait_us: LONG }
}

/// A delta for tests: (pane in minutes, series, readings as (microseconds into the pane, value)).
pub(super) type Delta<'a> = (i64, SeriesId, &'a [(i64, f64)]);

pub(super) fn partial(minute: i64, readings: &[(i64, f64)]) -> Partial {
    let one = |(us, v): &(i64, f64)| Partial::of(at(minute).plus_us(*us), *v);
    readings.iter().map(one).reduce(|a, b| a.merge(&b)).unwrap()
}

pub(super) fn deltas(rows: &[Delta<'_>]) -> RecordBatch {
    let mut rows: Vec<_> = rows.iter().map(|(m, s, r)| ((at(*m), *s), partial(*m, r))).collect();
    rows.sort_by_key(|(key, _)| *key);
    batch_of(&rows)
}

pub(super) fn batch_of(rows: &[(delta::PaneKey, Partial)]) -> RecordBatch {
    let times = |f: &dyn Fn(&(delta::PaneKey, Partial)) -> Timestamp| -> ArrayRef {
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| f(r).0)).with_timezone("UTC"),
        )
    };
    let floats = |f: &dyn Fn(&Partial) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| f(&r.1))))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.0.1))),
        times(&|r| r.0.0),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1.count))),
        floats(&|p| p.sum),
        floats(&|p| p.m2),
        floats(&|p| p.min),
        floats(&|p| p.max),
        times(&|r| r.1.first.0),
        floats(&|p| p.first.1),
        times(&|r| r.1.last.0),
        floats(&|p| p.last.1),
    ];
    RecordBatch::try_new(delta::schema(), columns).unwrap()
}

/// A claimed stream of some partitions and the names of some series.
pub(super) struct Stream {
    pub(super) store: Arc<dyn Store>,
    pub(super) claims: Vec<Claim>,
    pub(super) series: Vec<SeriesId>,
}

/// Pins panes of a minute, claims partitions 0..n, interns d0/s .. d4/s.
pub(super) async fn stream(store: Arc<dyn Store>, partitions: i32) -> Stream {
    store.pin_panes(&panes()).await.unwrap();
    store.put_readiness(&readiness()).await.unwrap();
    let all: Vec<_> = (0..partitions).map(tp).collect();
    let rows: Vec<_> = all.iter().map(|p| (p.clone(), 0)).collect();
    store.add_partitions(SOURCE, &rows).await.unwrap();
    let claims = store.claim(SOURCE, "owner", &all).await.unwrap();
    let names: Vec<_> = (0..5).map(|i| SeriesName::new(format!("d{i}"), "s")).collect();
    let series = store.intern(&names, 1000).await.unwrap().into_iter().map(Option::unwrap).collect();
    Stream { store, claims, series }
}

impl Stream {
    /// A checkpoint that moves partition `i` by one message.
    pub(super) fn checkpoint(&self, i: usize, deltas: RecordBatch) -> Checkpoint {
        let claim = &self.claims[i];
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
        Checkpoint { advances: vec![advance], ..no_checkpoint(deltas) }
    }

    /// Commits deltas as the next message of partition 0, and stands behind it.
    pub(super) async fn commit(&mut self, rows: &[Delta<'_>]) {
        let checkpoint = self.checkpoint(0, deltas(rows));
        assert_eq!(self.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
        self.claims[0].next_offset += 1;
    }

    pub(super) async fn rows(&self) -> Vec<ProgressRow> {
        self.store.progress().await.unwrap().rows
    }
}

/// A checkpoint that moves nothing.
pub(super) fn no_checkpoint(deltas: RecordBatch) -> Checkpoint {
    Checkpoint {
        source: SOURCE.into(),
        owner: "owner".into(),
        advances: vec![],
        deltas,
        dead_letters: vec![],
        losses: vec![],
        replayed: vec![],
        notices: Vec::new(),
    }
}

/// One window as it is read for scoring.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) version: i64,
    /// In the order of [`Feature::ALL`].
    pub(super) values: [Option<f64>; 8],
}

pub(super) fn window_of(version: i64, p: &Partial) -> Window {
    let values = [
        Some(p.mean()),
        Some(p.count as f64),
        Some(p.sum),
        p.stddev(),
        Some(p.min),
        Some(p.max),
        Some(p.first.1),
        Some(p.last.1),
    ];
    Window { version, values }
}

/// Windows of an interval; checks the columns and that series ascend.
pub(super) async fn windows(store: &dyn Store, interval: Interval) -> BTreeMap<SeriesId, Window> {
    windows_in(store, interval, &Selection::ALL).await
}

pub(super) async fn windows_in(
    store: &dyn Store,
    interval: Interval,
    selection: &Selection,
) -> BTreeMap<SeriesId, Window> {
    let batches: Vec<RecordBatch> =
        store.windows(interval, selection).await.unwrap().try_collect().await.unwrap();
    let mut rows = BTreeMap::new();
    for batch in batches {
        assert_eq!(batch.schema(), fleetscore_schemas::window::window_schema());
        let series = batch.column(0).as_primitive::<UInt32Type>();
        let version = batch.column(1).as_primitive::<Int64Type>();
        for i in 0..batch.num_rows() {
            let id = series.value(i);
            let before: Option<&SeriesId> = rows.last_key_value().map(|(k, _): (_, &Window)| k);
            assert!(before.is_none_or(|k| *k < id), "windows ascend by series, once each");
            let values = std::array::from_fn(|c| {
                let column = batch.column(c + 2).as_primitive::<Float64Type>();
                arrow::array::Array::is_valid(column, i).then(|| column.value(i))
            });
            rows.insert(id, Window { version: version.value(i), values });
        }
    }
    rows
}

pub(super) fn schedule(name: &str, minutes: i64) -> ScheduleSpec {
    let spec = ScheduleSpec::new(name, minutes * MINUTE);
    ScheduleSpec { rescore_delay_us: Some(0), republish_gap_us: 0, ..spec }
}

pub(super) fn new_run(schedule: &str, interval: Interval, model_set: Option<i64>) -> NewRun {
    NewRun {
        run_id: Uuid::new_v4(),
        schedule: schedule.into(),
        interval,
        cause: RunCause::Schedule,
        model_set,
        data_only: false,
        scope: RunScope::All,
        series: None,
        cuts: vec![],
        retry_of: None,
        note: None,
    }
}

/// Opens runs and returns their ids.
pub(super) async fn open_runs(store: &dyn Store, runs: Vec<NewRun>) -> Vec<Uuid> {
    let ids = runs.iter().map(|r| r.run_id).collect();
    let plan = Plan { open: runs, ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    ids
}

/// A wish of worker `w` for any task.
pub(super) fn wish(lease_us: i64) -> TaskClaim {
    TaskClaim { worker: "w".into(), lease_us, run_ids: None, prefer: vec![] }
}

pub(super) async fn claim_any(store: &dyn Store, lease_us: i64) -> Option<Task> {
    store.claim_task(&wish(lease_us)).await.unwrap()
}

/// Gives a task back: due again at once and counted, or failed for good.
pub(super) async fn fail(store: &dyn Store, task: &Task, error: &str, give_up: bool) -> GivenBack {
    let retry = (!give_up).then_some(Retry { after_us: 0, counts: true });
    store.fail_task(task, &TaskFailure { error, retry, rules: &Rules::default() }).await.unwrap()
}

/// Opens one run of an interval and claims its task.
pub(super) async fn task(store: &dyn Store, schedule: &str, interval: Interval, model_set: i64) -> Task {
    let ids = open_runs(store, vec![new_run(schedule, interval, Some(model_set))]).await;
    let claim = TaskClaim { run_ids: Some(ids), ..wish(LONG) };
    store.claim_task(&claim).await.unwrap().expect("a run just opened is due")
}

pub(super) async fn run_row(store: &dyn Store, id: Uuid) -> RunRow {
    let filter = RunFilter { run_ids: Some(vec![id]), ..RunFilter::default() };
    let mut rows = store.runs(&filter).await.unwrap();
    assert_eq!(rows.len(), 1, "run {id}");
    rows.remove(0)
}

/// A prediction: series, decision (anomaly unless positive; `None` is a window that is missing, NaN a model that failed),
/// window version.
pub(super) type Scored = (SeriesId, Option<f64>, i64);

fn decision(row: &Scored) -> Option<f64> {
    row.1.filter(|d| !d.is_nan())
}

pub(super) fn predictions(rows: &[Scored]) -> RecordBatch {
    let decided = |f: &dyn Fn(f64) -> f64| -> ArrayRef {
        Arc::new(rows.iter().map(|r| decision(r).map(f)).collect::<Float64Array>())
    };
    let anomaly = |r: &Scored| decision(r).map(|d| i16::from(d <= 0.0));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.0))),
        decided(&|d| d + 20.0),
        Arc::new(rows.iter().map(anomaly).collect::<Int16Array>()),
        decided(&|d| d),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| match r.1 {
            None => "no_data",
            Some(d) if d.is_nan() => "model_error",
            Some(_) => "scored",
        }))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| format!("model_{}", r.0)))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2))),
        Arc::new(
            rows.iter().map(|r| (anomaly(r) == Some(1)).then_some("10.01 … 14.18")).collect::<StringArray>(),
        ),
        Arc::new(Int64Array::from(vec![None; rows.len()])),
    ];
    RecordBatch::try_new(prediction_schema(), columns).unwrap()
}

/// What became of the models of these rows.
pub(super) fn counts_of(rows: &[Scored]) -> RunCounts {
    let count = |f: &dyn Fn(&Scored) -> bool| rows.iter().filter(|r| f(r)).count() as i64;
    RunCounts {
        scored: count(&|r| decision(r).is_some()),
        model_error: count(&|r| r.1.is_some_and(f64::is_nan)),
        anomalies: count(&|r| r.1.is_some_and(|d| d <= 0.0)),
        no_data: count(&|r| r.1.is_none()),
        ..RunCounts::default()
    }
}

/// Commits batches as they are.
pub(super) async fn commit_batches(
    store: &dyn Store,
    task: &Task,
    batches: Vec<std::result::Result<RecordBatch, SourceError>>,
    rules: &Rules,
) -> Result<Committed> {
    let predictions = futures::stream::iter(batches).boxed();
    let selection = &Selection::of(task.range);
    let commit = PredictionCommit { task, selection, predictions, phases: &Phases::default, rules };
    store.commit_predictions(commit).await
}

/// Commits rows as the end of a run that succeeded.
pub(super) async fn commit_rows(store: &dyn Store, task: &Task, rows: &[Scored]) -> Result<Committed> {
    commit_batches(store, task, vec![Ok(predictions(rows))], &Rules::default()).await
}

/// What a commit comes to that is neither frozen nor fenced.
pub(super) fn done(rows: &[Scored], changed: bool) -> Committed {
    Committed::Done { counts: counts_of(rows), changed, ended: Some((RunState::Succeeded, counts_of(rows))) }
}

pub(super) fn is_done(committed: &Committed) -> bool {
    matches!(committed, Committed::Done { .. })
}

/// Scores an interval: a run of its own, these predictions.
pub(super) async fn score(store: &dyn Store, schedule: &str, interval: Interval, rows: &[Scored]) -> Task {
    let task = task(store, schedule, interval, 1).await;
    let committed = commit_rows(store, &task, rows).await.unwrap();
    assert!(is_done(&committed), "{committed:?}");
    task
}

/// One row of the published predictions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) device: String,
    pub(super) decision: Option<f64>,
    pub(super) status: String,
    pub(super) model_set: Option<i64>,
    pub(super) window_version: i64,
    pub(super) run_id: String,
    pub(super) scored_at: i64,
}

/// All batches of a stream.
pub(super) async fn batches(stream: Result<BatchStream<'_>>) -> Vec<RecordBatch> {
    stream.unwrap().try_collect().await.unwrap()
}

pub(super) async fn published(store: &dyn Store, schedule: &str, interval: Interval) -> Vec<Row> {
    use arrow::array::Array;
    use arrow::datatypes::TimestampMicrosecondType as Micros;
    let mut rows = Vec::new();
    for b in batches(store.predictions(schedule, interval).await).await {
        assert_eq!(b.schema(), fleetscore_schemas::window::published_schema());
        let column = |name: &str| b.column_by_name(name).unwrap();
        let text = |name: &str, i: usize| column(name).as_string::<i32>().value(i).to_owned();
        let (decision, set) = (
            column("decision").as_primitive::<Float64Type>(),
            column("model_set").as_primitive::<Int64Type>(),
        );
        for i in 0..b.num_rows() {
            assert_eq!(text("schedule", i), schedule);
            assert_eq!(column("window_start").as_primitive::<Micros>().value(i), interval.start.0);
            assert_eq!(column("window_end").as_primitive::<Micros>().value(i), interval.end.0);
            rows.push(Row {
                device: text("device", i),
                decision: decision.is_valid(i).then(|| decision.value(i)),
                status: text("status", i),
                model_set: set.is_valid(i).then(|| set.value(i)),
                window_version: column("window_version").as_primitive::<Int64Type>().value(i),
                run_id: text("run_id", i),
                scored_at: column("scored_at").as_primitive::<Micros>().value(i),
            });
        }
    }
    rows
}

/// The store in memory, which has no views to ask.
fn memory(store: &dyn Store) -> Option<&MemoryStore> {
    (store as &dyn std::any::Any).downcast_ref()
}

/// Kinds of events with their number of series, oldest first.
pub(super) async fn events(store: &dyn Store) -> Vec<(String, Option<i64>)> {
    if let Some(memory) = memory(store) {
        return memory.events().into_iter().map(|e| (e.kind, e.series)).collect();
    }
    let rows = store.query("SELECT kind, series FROM events ORDER BY id").await.unwrap().rows;
    rows.into_iter().map(|mut row| (text(row.remove(0)), int(&row[0]))).collect()
}

/// Silences by device and beginning: the device, whether it was noticed, whether it is over.
pub(super) async fn silences(store: &dyn Store) -> Vec<(String, bool, bool)> {
    if let Some(memory) = memory(store) {
        let mut silences = memory.silences();
        silences.sort_by_key(|s| (s.series, s.since));
        let told = |s: &Silence| (s.noticed_at.is_some(), s.ended_at.is_some());
        return silences.iter().map(|s| (format!("d{}", s.series - 1), told(s).0, told(s).1)).collect();
    }
    let sql = "SELECT device, CASE WHEN noticed_at IS NULL THEN 0 ELSE 1 END,
                   CASE WHEN ended_at IS NULL THEN 0 ELSE 1 END
               FROM silences ORDER BY device, since";
    let rows = store.query(sql).await.unwrap().rows;
    rows.into_iter().map(|r| (text(r[0].clone()), int(&r[1]) == Some(1), int(&r[2]) == Some(1))).collect()
}

/// Fires by schedule and time, without skipped ranges: how many each stands for, and why it was not made.
pub(super) async fn fires(store: &dyn Store) -> Vec<(String, i64, Option<String>)> {
    if let Some(memory) = memory(store) {
        return memory.fires().into_iter().map(|f| (f.schedule, f.fires, f.reason)).collect();
    }
    let sql = "SELECT schedule, fires, reason, made FROM fires WHERE fire_at IS NOT NULL ORDER BY schedule, fire_at";
    let rows = store.query(sql).await.unwrap().rows;
    let fire = |mut row: Vec<Cell>| {
        let made = matches!(row[3], Cell::Bool(true) | Cell::Int(1));
        assert_eq!(made, row[2] == Cell::Null);
        let reason = Some(row.remove(2)).filter(|cell| *cell != Cell::Null).map(text);
        (text(row.remove(0)), int(&row[0]).unwrap(), reason)
    };
    rows.into_iter().map(fire).collect()
}

fn text(cell: Cell) -> String {
    match cell {
        Cell::Text(text) => text,
        other => panic!("{other:?} is no text"),
    }
}

fn int(cell: &Cell) -> Option<i64> {
    match cell {
        Cell::Null => None,
        Cell::Int(i) => Some(*i),
        other => panic!("{other:?} is no integer"),
    }
}

pub(super) async fn sleep_ms(ms: u64) {
    tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
}

/// A deterministic stream of numbers (SplitMix64), so that a failure can be repeated.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
