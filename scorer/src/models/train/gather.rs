//! Windows of a range gathered per series, in bounded memory: evenly spaced rows of each.

use super::TrainOptions;
use crate::models::Result;
use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{Float64Type, UInt32Type};
use fleetscore_schemas::time::Interval;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::{Store, StoreError};
use futures::TryStreamExt;

/// A stretch of so many windows is asked for as one first: most of an old store's time may be empty.
const STRETCHES: [i64; 2] = [1 << 18, 1 << 9];

/// Evenly spaced rows of one series, in the order of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// Row after row.
    kept: Vec<f64>,
    /// Each `1 << shift`-th row is kept.
    shift: u32,
    seen: u64,
}

impl Sample {
    /// Adds the next row; between `max` and twice as many are kept.
    fn push(&mut self, row: &[f64], max: usize) {
        if self.seen.trailing_zeros() >= self.shift || self.seen == 0 {
            if self.kept.len() == 2 * max * row.len() {
                let width = row.len();
                let mut i = 0;
                // Every second row goes: those whose number is not a multiple of the doubled step.
                self.kept.retain(|_| {
                    i += 1;
                    ((i - 1) / width) % 2 == 0
                });
                self.shift += 1;
            }
            if self.seen.trailing_zeros() >= self.shift || self.seen == 0 {
                self.kept.extend_from_slice(row);
            }
        }
        self.seen += 1;
    }

    /// All that was kept, for a fit to at most `max` rows.
    pub(crate) fn finish(self, max: usize) -> Rows {
        Rows { values: self.kept, max }
    }
}

/// A series' rows for one fit.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    values: Vec<f64>,
    max: usize,
}

impl Rows {
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Row after row: all, or evenly spaced ones with the first and the last among them.
    pub(crate) fn select(&self, width: usize) -> Vec<f64> {
        let rows = self.values.len() / width;
        if rows <= self.max {
            return self.values.clone();
        }
        let last = (self.max - 1).max(1);
        let picked = (0..self.max).flat_map(|i| {
            let row = i * (rows - 1) / last;
            &self.values[row * width..(row + 1) * width]
        });
        picked.copied().collect()
    }
}

/// What was gathered.
pub(crate) struct Gathered {
    /// One for each series asked for, in that order.
    pub samples: Vec<Sample>,
    /// Windows that were added.
    pub windows: u64,
}

/// Reads all windows of a range, for these series (ascending by id).
pub(crate) async fn gather(
    store: &dyn Store,
    options: &TrainOptions,
    range: Interval,
    names: &[(SeriesId, SeriesName)],
) -> Result<Gathered> {
    let mut gathered = Gathered { samples: vec![Sample::default(); names.len()], windows: 0 };
    let place_of = |id: SeriesId| names.binary_search_by_key(&id, |(id, _)| *id).ok();
    // Stretches still to be looked at, the earliest on top, with the level they are to be cut at.
    let mut stretches = vec![(range, 0)];
    while let Some((stretch, level)) = stretches.pop() {
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
        read_each(store, options, stretch, place_of, &mut gathered).await?;
    }
    Ok(gathered)
}

/// Reads the windows of one stretch, one after the other.
async fn read_each(
    store: &dyn Store,
    options: &TrainOptions,
    stretch: Interval,
    place_of: impl Fn(SeriesId) -> Option<usize> + Copy,
    gathered: &mut Gathered,
) -> Result<()> {
    let mut start = stretch.start;
    while start < stretch.end {
        let window = Interval::starting(start, options.window_us);
        let mut batches = store.windows(window).await?;
        while let Some(batch) = batches.try_next().await? {
            add(gathered, &batch, options, place_of)?;
        }
        start = window.end;
    }
    Ok(())
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

fn add(
    gathered: &mut Gathered,
    batch: &RecordBatch,
    options: &TrainOptions,
    place_of: impl Fn(SeriesId) -> Option<usize>,
) -> Result<()> {
    let missing = |name: &str| StoreError::internal(format!("windows come without the column {name}"));
    let series = batch.column_by_name("series").ok_or_else(|| missing("series"))?;
    let series = series.as_primitive::<UInt32Type>().values();
    let columns = options.features.iter().map(|f| {
        let column = batch.column_by_name(f.as_str()).ok_or_else(|| missing(f.as_str()))?;
        Ok(column.as_primitive::<Float64Type>())
    });
    let columns: Vec<&Float64Array> = columns.collect::<Result<_, StoreError>>()?;
    let mut row = vec![0.0; columns.len()];
    for (i, id) in series.iter().enumerate() {
        let Some(place) = place_of(*id) else { continue };
        for (to, column) in row.iter_mut().zip(&columns) {
            *to = if column.is_null(i) { f64::NAN } else { column.value(i) };
        }
        if row.iter().all(|v| v.is_finite()) {
            gathered.samples[place].push(&row, options.max_rows);
            gathered.windows += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_evenly_spaced_and_bounded() {
        for (n, max) in [(0, 5), (1, 5), (5, 5), (9, 5), (10, 5), (11, 5), (1000, 7), (100_000, 100)] {
            let mut sample = Sample::default();
            for i in 0..n {
                sample.push(&[i as f64, -(i as f64)], max);
                assert!(sample.kept.len() <= 4 * max);
            }
            assert_eq!(sample.seen, n);
            let values = sample.finish(max).select(2);
            assert_eq!(values.len(), 2 * (n as usize).min(max), "{n} of at most {max}");
            let firsts: Vec<f64> = values.chunks_exact(2).map(|r| r[0]).collect();
            assert!(values.chunks_exact(2).all(|r| r[0] == -r[1]));
            if n > 0 {
                assert_eq!(firsts[0], 0.0);
                let steps: Vec<f64> = firsts.windows(2).map(|w| w[1] - w[0]).collect();
                let (low, high) = steps.iter().fold((f64::MAX, 0.0f64), |(l, h), s| (l.min(*s), h.max(*s)));
                assert!(steps.is_empty() || (low > 0.0 && high <= 2.0 * low), "{low} {high}");
                // The end of the range is there too, to within two steps.
                assert!(n as f64 - 1.0 - firsts[firsts.len() - 1] <= 2.0 * high.max(0.5), "{n} {max}");
            }
        }
    }
}
