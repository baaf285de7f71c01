//! Cutting an interval into pieces that are scored apart from each other: a few thousand windows with the models and pins
//! up to their last series. Nothing is copied.

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

/// Consecutive rows of one shard.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    /// Index of the shard in the set.
    pub(super) shard: usize,
    /// Its rows.
    pub(super) rows: Range<usize>,
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

/// How far the models of a set have been handed out.
pub(super) struct Cutter {
    job: Arc<Job>,
    shard: usize,
    row: usize,
    pin: usize,
    /// The last series with a window.
    last: Option<SeriesId>,
}

impl Cutter {
    pub(super) fn new(job: Arc<Job>) -> Self {
        Self { job, shard: 0, row: 0, pin: 0, last: None }
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

    /// Pieces of the models that no window came for.
    pub(super) fn finish(&mut self, out: &mut VecDeque<Piece>) {
        if self.job.data_only {
            return;
        }
        loop {
            let (models, border) = self.models(SeriesId::MAX);
            let pins = self.pins(border);
            if !models.is_empty() || !pins.is_empty() {
                out.push_back(Piece { windows: RecordBatch::new_empty(window_schema()), models, pins });
            }
            if border == SeriesId::MAX {
                return;
            }
        }
    }

    /// Takes models up to a series, at most [`ROWS`] of them; also up to which series they are all.
    fn models(&mut self, bound: SeriesId) -> (Vec<Span>, SeriesId) {
        let (mut spans, mut left) = (Vec::new(), ROWS);
        let shards = self.job.table.set.shards();
        while let Some(shard) = shards.get(self.shard) {
            let series = shard.series();
            let rest = &series[self.row..];
            let most = &rest[..left.min(rest.len())];
            let taken = most.partition_point(|s| *s <= bound);
            if taken > 0 {
                spans.push(Span { shard: self.shard, rows: self.row..self.row + taken });
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

    /// Takes pins up to a series.
    fn pins(&mut self, border: SeriesId) -> Range<usize> {
        let rest: &[Pin] = &self.job.table.pins[self.pin..];
        let from = self.pin;
        self.pin += rest.partition_point(|p| p.series <= border);
        from..self.pin
    }
}
