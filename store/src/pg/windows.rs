//! Windows as they are read for scoring.

use super::PgStore;
use super::copy_out::{Reader, Shape, Step, known};
use super::replace::bounds;
use super::types::{PG_EPOCH_US, RowExt, literal};
use crate::batch::{BATCH_ROWS, WindowBuilder};
use crate::{BatchStream, Result, Selection, StoreError};
use arrow::array::RecordBatch;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::delta::Partial;
use fleetscore_schemas::time::{Interval, Timestamp};
use futures::StreamExt;
use std::sync::Arc;

/// Up to so many panes of a window are merged from streams in series order; beyond, the server sorts.
const MAX_BRANCHES: i64 = 64;
/// Up to so many series, times panes, are named in the statement; beyond, the stretch they lie in is read.
const NAMED: i64 = if cfg!(test) { 16 } else { 4096 };
/// What is read of a pane, in the order of [`Field`].
const COLUMNS: &str =
    "series_id, version, count, sum, m2, min, max, first_value, last_value, first_ts, last_ts, pane_start";
/// Their widths in bytes.
const WIDTHS: [u8; 12] = [4, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8];

pub(super) async fn windows<'a>(
    store: &'a PgStore,
    interval: Interval,
    selection: &Selection,
) -> Result<BatchStream<'a>> {
    if selection.ids.as_ref().is_some_and(|ids| ids.is_empty()) {
        return Ok(futures::stream::empty().boxed());
    }
    let client = store.client().await?;
    let row = client
        .query_one("SELECT (SELECT pane_us FROM setting_data), (SELECT max(floor) FROM progress_data)", &[])
        .await?;
    let (pane_us, floor): (Option<i64>, Option<Timestamp>) = (row.at(0)?, row.maybe_time(1)?);
    // A window that crosses the floor is hidden: a part of it may be gone.
    if floor.is_some_and(|floor| interval.start < floor) {
        return Ok(futures::stream::empty().boxed());
    }
    let pane_us = pane_us.unwrap_or(interval.len_us());
    let (which, wanted) = which(selection, interval.len_us() / pane_us.max(1));
    let reader = Reader::new(client, &select_panes(interval, pane_us, &which)).await?;
    let state = Merging {
        reader,
        shape: Shape::of(&WIDTHS),
        wanted,
        single: interval.len_us() == pane_us,
        series: None,
        panes: Vec::new(),
        ended: false,
    };
    Ok(futures::stream::try_unfold(state, |mut state| async move {
        let batch = if state.single { state.single_panes().await? } else { state.batch().await? };
        Ok::<_, StoreError>(batch.map(|b| (b, state)))
    })
    .boxed())
}

/// The condition that selects series, and those that it leaves to be looked for in what comes.
fn which(selection: &Selection, panes: i64) -> (String, Option<Arc<[SeriesId]>>) {
    let Some(ids) = &selection.ids else {
        let (from, last) = bounds(selection.range);
        let below = |last| format!(" AND series_id <= {last}");
        let above = |from| format!(" AND series_id >= {from}");
        let from = if from > 0 { above(from) } else { String::new() };
        return (from + &selection.range.until.map(|_| below(last)).unwrap_or_default(), None);
    };
    if i64::try_from(ids.len()).unwrap_or(i64::MAX).saturating_mul(panes.min(MAX_BRANCHES)) <= NAMED {
        let names: Vec<String> = ids.iter().map(SeriesId::to_string).collect();
        return (format!(" AND series_id = ANY ('{{{}}}'::integer[])", names.join(",")), None);
    }
    let (first, last) = (ids.first().copied().unwrap_or(0), ids.last().copied().unwrap_or(0));
    (format!(" AND series_id >= {first} AND series_id <= {last}"), Some(ids.clone()))
}

/// Panes of an interval, ascending by series. One branch per pane lets the server merge index scans instead of sorting.
fn select_panes(interval: Interval, pane_us: i64, which: &str) -> String {
    let select = format!("SELECT {COLUMNS} FROM pane_data WHERE pane_start");
    let panes = if pane_us > 0 { interval.len_us() / pane_us } else { i64::MAX };
    if (1..=MAX_BRANCHES).contains(&panes) && interval.start.0 % pane_us == 0 {
        let branches: Vec<String> = (0..panes)
            .map(|i| format!("{select} = {}{which}", literal(interval.start.plus_us(i * pane_us))))
            .collect();
        return format!("{} ORDER BY series_id", branches.join(" UNION ALL "));
    }
    let (start, end) = (literal(interval.start), literal(interval.end));
    format!("{select} >= {start} AND pane_start < {end}{which} ORDER BY series_id")
}

/// A stored pane of one series.
struct Pane {
    series: SeriesId,
    start: Timestamp,
    version: i64,
    partial: Partial,
}

/// Merges the panes of a series.
struct Merging {
    reader: Reader,
    shape: Shape,
    /// Of what comes only these series, which ascend.
    wanted: Option<Arc<[SeriesId]>>,
    /// A window is one pane.
    single: bool,
    series: Option<SeriesId>,
    /// Of this series, in the order in which they came.
    panes: Vec<(Timestamp, i64, Partial)>,
    ended: bool,
}

impl Merging {
    /// The next pane of a series that is wanted.
    async fn next(&mut self) -> Result<Option<Pane>> {
        loop {
            let pane = self.any().await?;
            match (&pane, &self.wanted) {
                (Some(pane), Some(ids)) if ids.binary_search(&pane.series).is_err() => {}
                _ => return Ok(pane),
            }
        }
    }

    async fn any(&mut self) -> Result<Option<Pane>> {
        match self.reader.step(Some(&self.shape)).await? {
            Step::End => Ok(None),
            Step::Shaped => Ok(Some(shaped(self.reader.row(), &self.shape))),
            // Columns without NULLs and of fixed widths: any other row says what is wrong with it.
            Step::Row => pane(&self.reader).map(Some),
        }
    }

    /// Windows of one pane each.
    async fn single_panes(&mut self) -> Result<Option<RecordBatch>> {
        let mut builder = WindowBuilder::default();
        while !self.ended && builder.len() < BATCH_ROWS {
            match self.next().await? {
                Some(pane) => builder.push(pane.series, pane.version, &pane.partial),
                None => self.ended = true,
            }
        }
        if builder.len() == 0 { Ok(None) } else { Ok(Some(builder.finish()?)) }
    }

    async fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut builder = WindowBuilder::default();
        while !self.ended && builder.len() < BATCH_ROWS {
            let Some(pane) = self.next().await? else {
                self.ended = true;
                self.flush(&mut builder);
                break;
            };
            if self.series != Some(pane.series) {
                self.flush(&mut builder);
                self.series = Some(pane.series);
            }
            self.panes.push((pane.start, pane.version, pane.partial));
        }
        if builder.len() == 0 { Ok(None) } else { Ok(Some(builder.finish()?)) }
    }

    /// Merged in the order of panes, always: the last bits of a sum must not differ between two readings.
    fn flush(&mut self, builder: &mut WindowBuilder) {
        self.panes.sort_unstable_by_key(|p| p.0);
        let merged =
            self.panes.drain(..).map(|(_, v, p)| (v, p)).reduce(|(v, p), (w, q)| (v + w, p.merge(&q)));
        if let (Some(series), Some((version, partial))) = (self.series, merged) {
            builder.push(series, version, &partial);
        }
    }
}

/// The pane in a row of the usual shape.
fn shaped(row: &[u8], shape: &Shape) -> Pane {
    let eight = |field: usize| -> [u8; 8] {
        row[shape.offset(field)..][..8].try_into().expect("eight bytes were taken")
    };
    let (long, float) = (|i| i64::from_be_bytes(eight(i)), |i| f64::from_be_bytes(eight(i)));
    let time = |i| Timestamp(long(i).saturating_add(PG_EPOCH_US));
    let series: [u8; 4] = row[shape.offset(0)..][..4].try_into().expect("four bytes were taken");
    let partial = Partial {
        count: long(2),
        sum: float(3),
        m2: float(4),
        min: float(5),
        max: float(6),
        first: (time(9), float(7)),
        last: (time(10), float(8)),
    };
    Pane { series: SeriesId::from_be_bytes(series), start: time(11), version: long(1), partial }
}

fn pane(row: &Reader) -> Result<Pane> {
    let partial = Partial {
        count: known(row.int8(2)?)?,
        sum: known(row.float8(3)?)?,
        m2: known(row.float8(4)?)?,
        min: known(row.float8(5)?)?,
        max: known(row.float8(6)?)?,
        first: (known(row.time(9)?)?, known(row.float8(7)?)?),
        last: (known(row.time(10)?)?, known(row.float8(8)?)?),
    };
    let series = known(row.int4(0)?)? as SeriesId; // positive as stored
    Ok(Pane { series, start: known(row.time(11)?)?, version: known(row.int8(1)?)?, partial })
}
