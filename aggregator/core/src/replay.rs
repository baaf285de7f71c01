//! Dead letters that are read again: merged into their panes and marked, in one transaction, never through Kafka.

use crate::clock::Clock;
use crate::engine::Engine;
use crate::error::AggregatorError;
use crate::judge::Prepared;
use crate::options::Options;
use crate::pending::Pending;
use crate::series::SeriesCache;
use crate::shared::{Shared, patiently};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter;
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::delta;
use fleetscore_schemas::reading::ReadingBatch;
use fleetscore_schemas::time::Timestamp;
use fleetscore_state::{Rules, Tide};
use fleetscore_store::{Checkpoint, DeadLetterRow, Outcome, Store, StoreError};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What became of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Ids of dead letters whose readings are in their panes now (or were dropped by the row filter).
    pub replayed: Vec<i64>,
    /// Readings merged.
    pub readings: u64,
    /// Readings that the row filter dropped.
    pub filtered: u64,
    /// Dead letters that still cannot be counted: the first reason of each. They stay as they are.
    pub refused: Vec<(i64, DeadLetterCode, String)>,
}

/// Replays dead letters: message `i` of the batch is the payload of `letters[i]`, decoded with the present settings by a
/// decoder of its own.
///
/// Of a wide object only the sensors that its dead letter names are read again: the others have counted. A dead letter
/// is replayed as a whole or not at all, so that replaying what is left of it later cannot count a reading twice. Readings are judged by the input rules, the clock, the floor of retention and the expressions, not by
/// lateness.
///
/// # Errors
/// [`AggregatorError::ReplayedMeanwhile`] where somebody else was faster (nothing is written), a wrong setting, or a
/// store that refuses; a store that does not answer is waited for.
pub async fn replay_dead_letters(
    options: &Options,
    store: &dyn Store,
    clock: &dyn Clock,
    engine: &dyn Engine,
    letters: &[DeadLetterRow],
    batch: ReadingBatch,
) -> Result<ReplayReport, AggregatorError> {
    options.check()?;
    if letters.len() != batch.messages.len() {
        return Err(AggregatorError::internal("a replay needs one dead letter per message"));
    }
    let shared = Shared::default();
    patiently(&shared, "settings", || store.pin_panes(&options.panes)).await.map_err(failed)?;
    let progress = patiently(&shared, "positions", || store.progress()).await.map_err(failed)?;
    let rules = Rules {
        grid: options.panes.grid(),
        clock: clock.now().us(),
        max_disorder_us: options.max_disorder_us,
        max_future_skew_us: options.max_future_skew_us,
        allowed_lateness_us: None,
        floor: progress.floor().map(Timestamp::us),
    };
    let mut batch = uncounted(batch, letters).map_err(AggregatorError::internal)?;
    let mut series = SeriesCache::default();
    series.note(batch.decoder, &mut batch.new_series);
    let decoder = batch.decoder;

    // First pass: which dead letters can be counted as a whole.
    let mut refused: BTreeMap<u32, (DeadLetterCode, String)> = BTreeMap::new();
    for bad in &batch.bad {
        refused.entry(bad.span.message).or_insert_with(|| (bad.code, bad.detail.clone()));
    }
    let found: HashSet<u32> = batch.readings.spans.iter().map(|s| s.message).collect();
    for (message, letter) in (0..).zip(letters) {
        if !letter.sensors.is_empty() && !found.contains(&message) {
            let why =
                format!("no reading of {} is in it with the present settings", letter.sensors.join(", "));
            refused.entry(message).or_insert((DeadLetterCode::MissingField, why));
        }
    }
    let mut prepared = Prepared::new(Box::new(batch), engine, series.keys(decoder), Timestamp(rules.clock))?;
    let keys = prepared.batch.readings.series.values().to_vec();
    let (unknown, names) = series
        .keys(decoder)
        .unknown(&keys, |i| prepared.may_count(i, &rules, Tide::default()))
        .map_err(AggregatorError::internal)?;
    let answer = patiently(&shared, "ids of series", || store.intern(&names, options.max_series));
    series.learn(decoder, &unknown, &answer.await.map_err(failed)?);
    let known = &series.keys(decoder).ids;
    let first = prepared.admit(known, &rules, &mut Tide::default());
    for (i, refusal) in &first.refused {
        let message = prepared.batch.readings.spans[*i as usize].message;
        refused.entry(message).or_insert_with(|| prepared.explain(*i, *refusal, &rules));
    }

    // Second pass: the readings of those alone.
    if !refused.is_empty() {
        let keep: Vec<bool> =
            prepared.batch.readings.spans.iter().map(|s| !refused.contains_key(&s.message)).collect();
        let batch = without(*prepared.batch, &keep).map_err(AggregatorError::internal)?;
        prepared = Prepared::new(Box::new(batch), engine, series.keys(decoder), Timestamp(rules.clock))?;
    }
    let mut admitted = prepared.admit(&series.keys(decoder).ids, &rules, &mut Tide::default());
    let mut report = ReplayReport {
        readings: admitted.keys.len() as u64,
        filtered: admitted.filtered,
        ..ReplayReport::default()
    };
    for (i, letter) in letters.iter().enumerate() {
        match refused.remove(&(i as u32)) {
            Some((code, detail)) => report.refused.push((letter.id, code, detail)),
            None => report.replayed.push(letter.id),
        }
    }
    if !report.replayed.is_empty() {
        let mut pending = Pending::default();
        pending.push(&mut admitted);
        commit(options, store, engine, &shared, pending, report.replayed.clone()).await?;
    }
    Ok(report)
}

async fn commit(
    options: &Options,
    store: &dyn Store,
    engine: &dyn Engine,
    shared: &Shared,
    pending: Pending,
    replayed: Vec<i64>,
) -> Result<(), AggregatorError> {
    let deltas = if pending.is_empty() {
        RecordBatch::new_empty(delta::schema())
    } else {
        engine.deltas(pending).await?
    };
    let checkpoint = Checkpoint {
        source: String::new(),
        owner: options.owner.clone(),
        advances: Vec::new(),
        deltas,
        dead_letters: Vec::new(),
        losses: Vec::new(),
        replayed,
        notices: Vec::new(),
    };
    match patiently(shared, "a checkpoint", || store.checkpoint(&checkpoint)).await.map_err(failed)? {
        Outcome::Done => Ok(()),
        Outcome::Fenced => Err(AggregatorError::ReplayedMeanwhile),
    }
}

fn failed(error: StoreError) -> AggregatorError {
    AggregatorError::store("replaying dead letters", error)
}

/// The batch without what has counted already: readings and faults of sensors that a dead letter does not name.
fn uncounted(
    mut batch: ReadingBatch,
    letters: &[DeadLetterRow],
) -> Result<ReadingBatch, arrow::error::ArrowError> {
    let named = |message: u32, sensor: &str| {
        let sensors = &letters[message as usize].sensors;
        sensors.is_empty() || sensors.iter().any(|s| s == sensor)
    };
    batch.bad.retain(|bad| {
        bad.sensors.is_empty() || bad.sensors.iter().any(|sensor| named(bad.span.message, sensor))
    });
    let sensors: HashMap<u32, &str> =
        batch.new_series.iter().map(|(key, name)| (*key, name.sensor.as_str())).collect();
    let keep: Vec<bool> = batch
        .readings
        .spans
        .iter()
        .zip(batch.readings.series.values())
        .map(|(span, key)| sensors.get(key).is_none_or(|sensor| named(span.message, sensor)))
        .collect();
    without(batch, &keep)
}

/// The batch with the marked readings alone.
fn without(mut batch: ReadingBatch, keep: &[bool]) -> Result<ReadingBatch, arrow::error::ArrowError> {
    use arrow::array::AsArray;
    let mask = BooleanArray::from(keep.to_vec());
    let r = &mut batch.readings;
    r.series = filter(&r.series, &mask)?.as_primitive().clone();
    r.ts = filter(&r.ts, &mask)?.as_primitive().clone();
    r.value = filter(&r.value, &mask)?.as_primitive().clone();
    let mut kept = keep.iter();
    r.spans.retain(|_| kept.next().copied().unwrap_or(false));
    Ok(batch)
}
