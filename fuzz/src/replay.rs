//! What must hold for dead letters that are read again, whatever is in them: [`check`].
//!
//! An input is as for [`crate::readings`], with one letter more before it: the settings of the replay. Every record of its
//! messages becomes a dead letter in a store in memory, whether it was refused or counted (as a late one would be). Some of
//! them are replayed, then all that are left, then all.

use crate::readings::{Decoded, Row, Setting};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, UInt32Type};
use fleetscore_aggregator_core::{AggregatorError, ManualClock, Options, PlainEngine, ReplayReport, replay_dead_letters};
use fleetscore_schemas::codes::DeadLetterCode as Code;
use fleetscore_schemas::delta;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::{Edges, Timestamp};
use fleetscore_store::{
    Checkpoint, DeadLetter, DeadLetterFilter, DeadLetterRow, MemoryStore, Outcome, PaneSettings, Selection, Store,
};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use tokio::runtime::{Builder, Runtime};

/// The replay's clock, 2027: what is further ahead stays a dead letter.
const CLOCK: Timestamp = Timestamp(1_798_761_600_000_000);

/// At most so many records of one input.
const MOST: usize = 200;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime of one thread"));

/// All that is to hold for one input.
pub fn check(data: &[u8]) {
    let [now, rest @ ..] = data else { return };
    let Some((then, messages)) = Setting::read(rest) else { return };
    let first = then.decode(&then.messages(messages));
    let letters = letters_of(&first);
    if letters.is_empty() || letters.len() > MOST {
        return;
    }
    // The settings may have changed since: most often they have not.
    let now = now.wrapping_sub(b'0');
    let mut settings = rest[..2].to_vec();
    settings[0] = settings[0].wrapping_add(now & 0x37);
    let Some((setting, _)) = Setting::read(&settings) else { return };
    RUNTIME.block_on(replays(&setting.admitting_all(), letters, usize::from(now >> 6) + 1));
}

/// Dead letters of every record, as the aggregator would store them.
fn letters_of(decoded: &Decoded) -> Vec<DeadLetter> {
    let counted = decoded.batch.readings.spans.iter().map(|span| (*span, Code::TooLate, Vec::new()));
    let refused = decoded.batch.bad.iter().map(|bad| (bad.span, bad.code, bad.sensors.clone()));
    let mut seen = BTreeSet::new();
    // One that counts in part has a letter that names the rest; without it, it is one of all its readings.
    let all = refused.chain(counted).filter(|(span, ..)| seen.insert(crate::readings::place(*span)));
    all.map(|(span, code, sensors)| DeadLetter {
        partition: TopicPartition::new("t", 0),
        offset: span.message.into(),
        position: span.position,
        code,
        detail: String::new(),
        payload: Some(decoded.batch.messages.bytes(span).to_vec()),
        broker_time: decoded.batch.messages.broker_times[span.message as usize],
        count: 1,
        last_offset: None,
        sensors,
    })
    .collect()
}

fn options() -> Options {
    let panes = PaneSettings {
        interval_us: 60_000_000,
        edges: Edges::Start,
        filter: String::new(),
        value: String::new(),
        ts_unit: "ms".into(),
    };
    Options::new("replay", panes)
}

async fn replays(setting: &Setting, letters: Vec<DeadLetter>, every: usize) {
    let store = MemoryStore::new();
    store.migrate().await.expect("a store in memory");
    let stored = Checkpoint {
        source: "c".into(),
        owner: "a".into(),
        advances: Vec::new(),
        deltas: RecordBatch::new_empty(delta::schema()),
        dead_letters: letters,
        losses: Vec::new(),
        notices: Vec::new(),
        replayed: Vec::new(),
    };
    assert_eq!(store.checkpoint(&stored).await.expect("a store in memory"), Outcome::Done);
    let all = unreplayed(&store).await;
    let some: Vec<_> = all.iter().step_by(every).cloned().collect();
    let mut counted = Vec::new();
    let report = replay(setting, &store, &some).await.expect("nobody else is there");
    counted.extend(whole_or_not(setting, &some, &report));
    windows_hold(&store, &counted).await;

    let left = unreplayed(&store).await;
    let is_left = |letter: &DeadLetterRow| left.iter().any(|l| l.id == letter.id);
    assert!(all.iter().all(|letter| is_left(letter) != report.replayed.contains(&letter.id)));
    if !left.is_empty() {
        let report = replay(setting, &store, &left).await.expect("nobody else is there");
        counted.extend(whole_or_not(setting, &left, &report));
        windows_hold(&store, &counted).await;
    }
    // All of them once more: not one counts again.
    match replay(setting, &store, &all).await {
        Ok(report) => assert!(report.replayed.is_empty() && report.readings == 0, "{report:?}"),
        Err(e) => assert!(matches!(e, AggregatorError::ReplayedMeanwhile), "{e}"),
    }
    windows_hold(&store, &counted).await;
}

async fn unreplayed(store: &MemoryStore) -> Vec<DeadLetterRow> {
    let filter = DeadLetterFilter { unreplayed: true, limit: MOST, ..DeadLetterFilter::default() };
    store.dead_letters(&filter).await.expect("a store in memory")
}

async fn replay(setting: &Setting, store: &MemoryStore, letters: &[DeadLetterRow]) -> Result<ReplayReport, AggregatorError> {
    let payloads: Vec<_> = letters.iter().map(|l| (l.payload.as_deref().unwrap_or_default(), l.broker_time)).collect();
    let batch = setting.decode_timed(&payloads).batch;
    let options = options();
    let engine = PlainEngine::new(&options)?;
    replay_dead_letters(&options, store, &ManualClock::new(CLOCK), &engine, letters, batch).await
}

/// A dead letter counts with all its readings (of a wide record: those that it names), or stays with a reason. Gives the
/// readings that count.
fn whole_or_not(setting: &Setting, letters: &[DeadLetterRow], report: &ReplayReport) -> Vec<Row> {
    let mut ids: Vec<i64> = report.replayed.iter().copied().chain(report.refused.iter().map(|r| r.0)).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(letters.iter().map(|l| l.id)), "each letter has one outcome");
    let latest = CLOCK.us() + options().max_future_skew_us;
    let mut counted = Vec::new();
    for letter in letters {
        let alone = setting.decode_timed(&[(letter.payload.as_deref().unwrap_or_default(), letter.broker_time)]);
        let named = |sensor: &String| letter.sensors.is_empty() || letter.sensors.contains(sensor);
        let rows: Vec<Row> = alone.rows.into_iter().map(|(_, row)| row).filter(|row| named(&row.1)).collect();
        let bad = alone.batch.bad.iter().any(|bad| bad.sensors.is_empty() || bad.sensors.iter().any(named));
        let good = !bad && !rows.is_empty() && rows.iter().all(|row| row.2 <= latest);
        assert_eq!(good, report.replayed.contains(&letter.id), "{letter:?}");
        if good {
            counted.extend(rows);
        }
    }
    assert_eq!(report.readings, counted.len() as u64);
    assert_eq!(report.filtered, 0);
    counted
}

/// The windows of the store are those of these readings: counts exactly, sums but for rounding.
async fn windows_hold(store: &MemoryStore, counted: &[Row]) {
    let grid = options().panes.grid();
    let names: BTreeMap<u32, (String, String)> =
        store.series().await.expect("a store in memory").into_iter().map(|(id, name)| (id, (name.device, name.sensor))).collect();
    let mut expected: BTreeMap<_, BTreeMap<(String, String), (i64, f64, f64)>> = BTreeMap::new();
    for (device, sensor, ts, value) in counted {
        let pane = grid.pane_of(Timestamp(*ts));
        let window = expected.entry((pane.start, pane.end)).or_default().entry((device.clone(), sensor.clone())).or_default();
        *window = (window.0 + 1, window.1 + value, window.2 + value.abs());
    }
    for ((start, _), windows) in &mut expected {
        let batches: Vec<_> =
            store.windows(grid.pane_of(*start), &Selection::ALL).await.expect("a store in memory").collect().await;
        for batch in batches {
            let batch = batch.expect("a store in memory");
            let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("{name} in {:?}", batch.schema()));
            let series = column("series").as_primitive::<UInt32Type>();
            let sums = column("sum").as_primitive::<Float64Type>();
            let readings = arrow::compute::cast(column("readings"), &arrow::datatypes::DataType::Int64).expect("a number");
            let readings = readings.as_primitive::<arrow::datatypes::Int64Type>();
            for i in 0..batch.num_rows() {
                let name = &names[&series.value(i)];
                let (n, sum, size) = windows.remove(name).unwrap_or_else(|| panic!("a window of {name:?} too many"));
                assert_eq!(readings.value(i), n, "readings of {name:?}");
                assert!((sums.value(i) - sum).abs() <= 1e-9 * size + 1e-300, "{} and not {sum} of {name:?}", sums.value(i));
            }
        }
        assert!(windows.is_empty(), "missing windows: {windows:?}");
    }
}
