//! Stored windows as training rows: every window of a range that has data, read in the order of time.

use super::{Gathered, Listed, Sample, TrainOptions};
use crate::models::{ModelError, Result};
use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{Float64Type, UInt32Type};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{Selection, Store, StoreError};
use futures::TryStreamExt;

/// Panes that are asked for in one question.
const PANES: usize = 4_096;

/// The windows of a range that have data. They are found by the panes that the store lists, one look-up in an index for
/// each and none for what lies between, so that neither the length of a range nor its rows cost anything here.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Windows that follow each other without a gap, ascending.
    runs: Vec<Interval>,
    count: u64,
}

impl Found {
    /// Asks for them once, so that every pass reads the same windows.
    pub(super) async fn find(store: &dyn Store, range: Interval, len_us: i64) -> Result<Self> {
        let mut found = Self::default();
        let mut rest = range;
        while rest.start < rest.end {
            let panes = store.panes(rest, false, PANES).await?;
            for pane in &panes {
                rest.start = found.add(*pane, len_us).max(rest.start);
            }
            if panes.len() < PANES {
                break;
            }
        }
        Ok(found)
    }

    /// Adds the window that a pane is in; its end.
    fn add(&mut self, pane: Timestamp, len_us: i64) -> Timestamp {
        let start = Timestamp(pane.0.div_euclid(len_us) * len_us);
        let window = Interval::starting(start, len_us);
        match self.runs.last_mut() {
            Some(run) if start < run.end => return run.end,
            Some(run) if start == run.end => run.end = window.end,
            _ => self.runs.push(window),
        }
        self.count += 1;
        window.end
    }

    /// Number of windows.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn starts(&self, len_us: i64) -> impl Iterator<Item = Timestamp> + '_ {
        let of = move |run: &Interval| (run.start.0..run.end.0).step_by(len_us.max(1) as usize);
        self.runs.iter().flat_map(of).map(Timestamp)
    }
}

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

/// The series that are asked for, ascending by id, before it is known how many windows there are.
pub(super) async fn series(store: &dyn Store, options: &TrainOptions) -> Result<Vec<Listed>> {
    let all = store.series().await?.into_iter().filter(|(_, name)| options.wants(name));
    let mut listed: Vec<Listed> = all.map(|(id, name)| Listed { key: id.into(), name, rows: 0 }).collect();
    listed.sort_by_key(|l| l.key);
    Ok(listed)
}

/// Reads these windows, for these series (ascending by id).
pub(super) async fn gather(
    store: &dyn Store,
    windows: &Found,
    options: &TrainOptions,
    listed: &[Listed],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Gathered> {
    let samples = listed.iter().map(|l| Sample::new(options.sampling, &l.name)).collect();
    let mut reading = Reading { options, listed, gathered: Gathered { samples } };
    progress(0);
    for (start, done) in windows.starts(options.window_us).zip(1..) {
        let mut batches =
            store.windows(Interval::starting(start, options.window_us), &Selection::ALL).await?;
        while let Some(batch) = batches.try_next().await? {
            reading.add(start, &batch)?;
        }
        progress(done);
    }
    Ok(reading.gathered)
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

#[cfg(test)]
mod tests {
    use super::super::counting::Counting;
    use super::super::{Sampling, export_training, train};
    use super::*;
    use crate::models::tests::{MINUTE, Place, START, train_options, wave, with_panes};

    /// A dense hour, and a few minutes eighty years later: the rows are read once, window by window, and what has
    /// none is never asked for.
    #[tokio::test]
    async fn only_windows_with_data_are_read_and_each_once_a_pass() {
        let p = Place::new().await;
        let later = START + 80 * 365 * 1440;
        let panes: Vec<i64> = (START..START + 60).chain([later, later + 7]).collect();
        with_panes(&p, &panes, 6, wave).await;
        let Place { dir: _dir, store, blobs } = p;
        let store = Counting::new(store);
        let size = Sample::bytes(Sampling::Even, 62, 1000, 1);
        for (len, passes) in [(MINUTE, 1), (MINUTE, 3), (20 * MINUTE, 1)] {
            let len_panes = len / MINUTE;
            let mut starts: Vec<i64> = panes.iter().map(|t| t.div_euclid(len_panes) * len).collect();
            starts.dedup();
            let options = TrainOptions {
                window_us: len,
                memory: size * 6 / passes,
                min_rows: 2,
                activate: false,
                ..train_options()
            };
            let report = train(&store, &blobs, &options).await.unwrap();
            assert_eq!(report.windows, 6 * starts.len() as u64);
            let read: Vec<Interval> = std::mem::take(&mut *store.read.lock().unwrap());
            let window = |start: &i64| Interval::starting(Timestamp(*start), len);
            let wanted: Vec<Interval> = starts.iter().map(window).collect();
            assert_eq!(read, wanted.repeat(passes), "{len} in {passes} passes");
            // Existence is asked of the panes alone, in one question where they are few.
            let listed = std::mem::take(&mut *store.listed.lock().unwrap());
            assert_eq!(listed, [(report.range.unwrap(), PANES)]);
        }
        let out = tempfile::tempdir().unwrap();
        export_training(&store, &train_options(), out.path().to_str().unwrap()).await.unwrap();
        assert_eq!((store.read.lock().unwrap().len(), store.listed.lock().unwrap().len()), (62, 1));
    }

    #[tokio::test]
    async fn panes_are_listed_in_pieces_that_end_between_windows() {
        let p = Place::new().await;
        // More than one question's worth; windows of 100 panes, one of which begins where the first question ends.
        let panes: Vec<i64> = (START..START + 10_000).filter(|m| m / 100 % 7 != 3).collect();
        with_panes(&p, &panes, 1, wave).await;
        let store = Counting::new(p.store);
        let range = Interval::starting(Timestamp(START * MINUTE), 10_000 * MINUTE);
        for len in [1, 100, 5_000, 10_000] {
            let found = Found::find(&store, range, len * MINUTE).await.unwrap();
            let starts: Vec<i64> = found.starts(len * MINUTE).map(|t| t.0 / MINUTE).collect();
            let mut wanted: Vec<i64> = panes.iter().map(|m| m / len * len).collect();
            wanted.dedup();
            assert_eq!((found.count(), &starts), (wanted.len() as u64, &wanted), "{len}");
            let listed = std::mem::take(&mut *store.listed.lock().unwrap());
            assert!(listed.len() <= 1 + panes.len() / PANES + 1, "{listed:?}");
        }
    }
}
