//! Cutting a selection of an interval's series into pieces that are scored apart from each other: a few thousand windows
//! with the models and pins up to their last series. Nothing is copied, and what lies beside the selection is not walked
//! over: a shard of twenty costs a twentieth, and a few series of a million cost a search each.

use super::rows::Job;
use super::{Pin, ScoreError};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::window::window_schema;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Most windows of a piece, and most models. Few in tests, where pieces end everywhere.
pub(super) const ROWS: usize = if cfg!(test) { 7 } else { 16_384 };

/// Rows of one shard of the pack; never none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    /// Index of the shard in the set.
    pub(super) shard: usize,
    /// Its rows.
    pub(super) rows: Rows,
}

/// Which rows, ascending.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rows {
    /// Consecutive ones.
    All(Range<usize>),
    /// These.
    These(Vec<u32>),
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::All(rows) => rows.len(),
            Self::These(rows) => rows.len(),
        }
    }

    /// The row at this place.
    pub(super) fn get(&self, i: usize) -> Option<usize> {
        match self {
            Self::All(rows) => (i < rows.len()).then(|| rows.start + i),
            Self::These(rows) => rows.get(i).map(|row| *row as usize),
        }
    }
}

/// What is scored at once. All series of a piece lie behind those of the piece before it.
#[derive(Debug)]
pub(super) struct Piece {
    /// Columns of [`window_schema`].
    pub(super) windows: RecordBatch,
    /// Models of the run's own set, ascending.
    pub(super) models: Vec<Span>,
    /// Pins of the table.
    pub(super) pins: Range<usize>,
}

/// How far the selected models of a set have been handed out.
pub(super) struct Cutter {
    job: Arc<Job>,
    shard: usize,
    row: usize,
    pin: usize,
    /// Of the selected ids, where there are some.
    id: usize,
    /// The last series with a window.
    last: Option<SeriesId>,
    /// The last series of the selection; `None` where it has none.
    end: Option<SeriesId>,
}

impl Cutter {
    pub(super) fn new(job: Arc<Job>) -> Self {
        let from = job.selection.range.from;
        let shards = job.table.set.shards();
        let shard = shards.partition_point(|s| s.series().last().is_some_and(|last| *last < from));
        let row = shards.get(shard).map_or(0, |s| s.series().partition_point(|s| *s < from));
        let pin = job.table.pins.partition_point(|p| p.series < from);
        let end = job.end();
        Self { job, shard, row, pin, id: 0, last: None, end }
    }

    /// Pieces of the next windows.
    pub(super) fn push(&mut self, batch: &RecordBatch, out: &mut VecDeque<Piece>) -> Result<(), ScoreError> {
        if batch.schema().fields() != window_schema().fields() {
            return Err(ScoreError::Plan("windows have other columns than expected".into()));
        }
        let mut from = 0;
        while from < batch.num_rows() {
            let chunk = batch.slice(from, ROWS.min(batch.num_rows() - from));
            from += chunk.num_rows();
            self.push_chunk(&chunk, out)?;
        }
        Ok(())
    }

    fn push_chunk(&mut self, windows: &RecordBatch, out: &mut VecDeque<Piece>) -> Result<(), ScoreError> {
        let series = windows.column(0).as_primitive::<UInt32Type>();
        let ids: &[SeriesId] = series.values();
        let ascends = ids.windows(2).all(|w| w[0] < w[1]);
        let Some((first, last)) = ids.first().copied().zip(ids.last().copied()) else { return Ok(()) };
        if series.null_count() > 0 || !ascends || self.last.is_some_and(|l| l >= first) {
            // The merge would drop rows without a word.
            return Err(ScoreError::Plan("windows do not ascend by series".into()));
        }
        if !self.selected(ids, first, last) {
            // Their predictions would replace nothing: each would be stored twice.
            return Err(ScoreError::Plan("windows of other series than the selected ones".into()));
        }
        self.last = Some(last);
        let mut from = 0;
        while from < ids.len() {
            let (models, border) = self.models(last);
            let to = from + ids[from..].partition_point(|s| *s <= border);
            let pins = self.pins(border);
            out.push_back(Piece { windows: windows.slice(from, to - from), models, pins });
            from = to;
        }
        Ok(())
    }

    fn selected(&self, ids: &[SeriesId], first: SeriesId, last: SeriesId) -> bool {
        let selection = &self.job.selection;
        selection.range.contains(first)
            && selection.range.contains(last)
            && (selection.ids.is_none() || ids.iter().all(|id| selection.contains(*id)))
    }

    /// Pieces of the models that no window came for.
    pub(super) fn finish(&mut self, out: &mut VecDeque<Piece>) {
        let Some(end) = self.end.filter(|_| !self.job.data_only) else { return };
        loop {
            let (models, border) = self.models(end);
            let pins = self.pins(border);
            if !models.is_empty() || !pins.is_empty() {
                out.push_back(Piece { windows: RecordBatch::new_empty(window_schema()), models, pins });
            }
            if border == end {
                return;
            }
        }
    }

    /// Takes models up to a series, at most [`ROWS`] of them; also up to which series they are all.
    fn models(&mut self, bound: SeriesId) -> (Vec<Span>, SeriesId) {
        match self.job.selection.ids.clone() {
            Some(ids) => self.models_of(&ids, bound),
            None => self.all_models(bound),
        }
    }

    fn all_models(&mut self, bound: SeriesId) -> (Vec<Span>, SeriesId) {
        let (mut spans, mut left) = (Vec::new(), ROWS);
        let shards = self.job.table.set.shards();
        while let Some(shard) = shards.get(self.shard) {
            let series = shard.series();
            let rest = &series[self.row..];
            let most = &rest[..left.min(rest.len())];
            let taken = most.partition_point(|s| *s <= bound);
            if taken > 0 {
                spans.push(Span { shard: self.shard, rows: Rows::All(self.row..self.row + taken) });
                self.row += taken;
                left -= taken;
            }
            if left == 0 {
                return (spans, series[self.row - 1]);
            }
            if self.row < series.len() {
                break;
            }
            (self.shard, self.row) = (self.shard + 1, 0);
        }
        (spans, bound)
    }

    /// The same of these series alone: looks at [`ROWS`] of them at most, each by a search from where the last one was.
    fn models_of(&mut self, ids: &[SeriesId], bound: SeriesId) -> (Vec<Span>, SeriesId) {
        let mut spans: Vec<Span> = Vec::new();
        let from = self.id;
        let shards = self.job.table.set.shards();
        while let Some(id) = ids.get(self.id).copied().filter(|id| *id <= bound) {
            if self.id - from == ROWS {
                return (spans, ids[self.id - 1]);
            }
            self.id += 1;
            let rest = &shards[self.shard.min(shards.len())..];
            let ahead = rest.partition_point(|s| s.series().last().is_some_and(|last| *last < id));
            if ahead > 0 {
                (self.shard, self.row) = (self.shard + ahead, 0);
            }
            let Some(shard) = shards.get(self.shard) else { continue };
            self.row += shard.series()[self.row..].partition_point(|s| *s < id);
            if shard.series().get(self.row) != Some(&id) {
                continue;
            }
            // A shard has at most as many rows as there are ids.
            let row = self.row as u32;
            match spans.last_mut() {
                Some(Span { shard, rows: Rows::These(rows) }) if *shard == self.shard => rows.push(row),
                _ => spans.push(Span { shard: self.shard, rows: Rows::These(vec![row]) }),
            }
        }
        (spans, bound)
    }

    /// Takes pins up to a series.
    fn pins(&mut self, border: SeriesId) -> Range<usize> {
        let rest: &[Pin] = &self.job.table.pins[self.pin..];
        let from = self.pin;
        self.pin += rest.partition_point(|p| p.series <= border);
        from..self.pin
    }
}
