//! Stored windows as training rows: every window of a range, read in the order of time.

use super::{Gathered, Listed, Sample, TrainOptions};
use crate::models::{ModelError, Result};
use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{Float64Type, UInt32Type};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{Store, StoreError};
use futures::TryStreamExt;

/// A stretch of so many windows is asked for as one first: most of an old store's time may be empty.
const STRETCHES: [i64; 2] = [1 << 18, 1 << 9];

/// The whole windows, aligned to the epoch, that the options and the stored panes leave.
pub(super) async fn range(store: &dyn Store, options: &TrainOptions) -> Result<Interval> {
    let nothing = || ModelError::Usage("there are no windows to train on: aggregate readings first".into());
    let pane_us = store.pane_settings().await?.ok_or_else(nothing)?.interval_us;
    let len = options.window_us;
    if len <= 0 || len % pane_us != 0 {
        return Err(ModelError::Usage(format!(
            "a window of {} s is not a multiple of the store's pane of {} s",
            len / 1_000_000,
            pane_us / 1_000_000
        )));
    }
    let (oldest, newest) = store.pane_range().await?.ok_or_else(nothing)?;
    // The windows that contain the oldest and the newest pane.
    let first = oldest.0.div_euclid(len) * len;
    let end = newest.0.div_euclid(len) * len + len;
    let from = options.from.map_or(first, |t| first.max(-(-t.0).div_euclid(len) * len));
    let to = options.to.map_or(end, |t| end.min(t.0.div_euclid(len) * len));
    if from >= to {
        let stored = Interval { start: Timestamp(first), end: Timestamp(end) };
        return Err(ModelError::Usage(format!("no whole window lies in the range: the store has {stored}")));
    }
    Ok(Interval { start: Timestamp(from), end: Timestamp(to) })
}

/// The series that are asked for, ascending by id.
pub(super) async fn series(
    store: &dyn Store,
    range: Interval,
    options: &TrainOptions,
) -> Result<Vec<Listed>> {
    let rows = (range.len_us() / options.window_us) as u64;
    let all = store.series().await?.into_iter().filter(|(_, name)| options.wants(name));
    let mut listed: Vec<Listed> = all.map(|(id, name)| Listed { key: u64::from(id), name, rows }).collect();
    listed.sort_by_key(|l| l.key);
    Ok(listed)
}

/// Reads all windows of a range, for these series (ascending by id).
pub(super) async fn gather(
    store: &dyn Store,
    range: Interval,
    options: &TrainOptions,
    listed: &[Listed],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Gathered> {
    let samples = listed.iter().map(|l| Sample::new(options.sampling, &l.name)).collect();
    let mut reading = Reading { options, listed, gathered: Gathered { samples } };
    // Stretches still to be looked at, the earliest on top, with the level they are to be cut at.
    let mut stretches = vec![(range, 0)];
    while let Some((stretch, level)) = stretches.pop() {
        progress((stretch.start.0.abs_diff(range.start.0)) / options.window_us as u64);
        let windows = stretch.len_us() / options.window_us;
        // Only worth the question where the answer may save many.
        if windows > 8 && windows < range.len_us() / options.window_us && is_empty(store, stretch).await? {
            continue;
        }
        if let Some(size) = STRETCHES.get(level) {
            let pieces = (windows + size - 1) / size;
            let piece = |i: i64| {
                let start = stretch.start.plus_us(i * size * options.window_us);
                Interval { start, end: start.plus_us(size * options.window_us).min(stretch.end) }
            };
            stretches.extend((0..pieces).rev().map(|i| (piece(i), level + 1)));
            continue;
        }
        // One after the other.
        let mut start = stretch.start;
        while start < stretch.end {
            let window = Interval::starting(start, options.window_us);
            let mut batches = store.windows(window).await?;
            while let Some(batch) = batches.try_next().await? {
                reading.add(start, &batch)?;
            }
            start = window.end;
            progress((start.0.abs_diff(range.start.0)) / options.window_us as u64);
        }
    }
    Ok(reading.gathered)
}

async fn is_empty(store: &dyn Store, stretch: Interval) -> Result<bool> {
    let mut batches = store.windows(stretch).await?;
    while let Some(batch) = batches.try_next().await? {
        if batch.num_rows() > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Reading<'a> {
    options: &'a TrainOptions,
    listed: &'a [Listed],
    gathered: Gathered,
}

impl Reading<'_> {
    /// Adds the rows of one window, which are ascending by series as the list is.
    fn add(&mut self, start: Timestamp, batch: &RecordBatch) -> Result<()> {
        let missing = |name: &str| StoreError::internal(format!("windows come without the column {name}"));
        let series = batch.column_by_name("series").ok_or_else(|| missing("series"))?;
        let series = series.as_primitive::<UInt32Type>().values();
        let columns = self.options.features.iter().map(|f| {
            let column = batch.column_by_name(f.as_str()).ok_or_else(|| missing(f.as_str()))?;
            Ok(column.as_primitive::<Float64Type>())
        });
        let columns: Vec<&Float64Array> = columns.collect::<Result<_, StoreError>>()?;
        let mut row = vec![0.0; columns.len()];
        let mut next = 0;
        for (i, id) in series.iter().enumerate() {
            let Some(place) = self.place(*id, next) else { continue };
            next = place + 1;
            for (to, column) in row.iter_mut().zip(&columns) {
                *to = if column.is_null(i) { f64::NAN } else { column.value(i) };
            }
            if row.iter().all(|v| v.is_finite()) {
                self.gathered.samples[place].push(start.0, &row, self.options.max_rows);
            }
        }
        Ok(())
    }

    /// The place of a series in the list; mostly the next one.
    fn place(&self, id: SeriesId, next: usize) -> Option<usize> {
        let key = u64::from(id);
        if self.listed.get(next).is_some_and(|l| l.key == key) {
            return Some(next);
        }
        self.listed.binary_search_by_key(&key, |l| l.key).ok()
    }
}
