//! Scoring one piece: merge by series, decisions in one pass over columns, then what they mean.

use super::pieces::{Piece, Rows};
use super::{ScoreError, ScoringTable, explain};
use crate::meter::Meter;
use crate::models::ModelSet;
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Builder, Int16Builder, Int64Builder, RecordBatch, StringArray,
    StringBuilder, UInt32Array,
};
use arrow::datatypes::{Float64Type, Int64Type, UInt32Type};
use fleetscore_kernel::{NO_MODEL, kind};
use fleetscore_pack::Shard;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::PredictionStatus;
use fleetscore_schemas::window::{Feature, prediction_schema};
use fleetscore_store::Selection;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// A row without a window.
const NO_WINDOW: u32 = u32::MAX;
/// No models at all.
const NO_ROWS: Rows = Rows::All(0..0);
/// Column of `normal_range` in [`prediction_schema`].
const NORMAL_RANGE: usize = 7;

/// What all pieces of an interval share.
pub(super) struct Job {
    pub(super) table: Arc<ScoringTable>,
    pub(super) features: Arc<[Feature]>,
    /// Rows for series with a window alone.
    pub(super) data_only: bool,
    /// The series that rows are made for; its pins are in the table, and no others where it names ids.
    pub(super) selection: Selection,
    /// Where the time goes.
    pub(super) meter: Arc<Meter>,
}

/// A scored piece; what its anomalies lack may still have to be found.
pub(super) struct Part {
    batch: RecordBatch,
    /// Anomalies of models of several features, ascending; `normal_range` is NULL so far.
    anomalies: Vec<Anomaly>,
}

/// An anomaly that an explanation is due for.
pub(super) struct Anomaly {
    /// Its row.
    row: usize,
    /// The model.
    shard: Shard,
    model: u32,
    /// Its features.
    x: Vec<f64>,
}

impl Part {
    /// Leaves it at the first so many explanations.
    pub(super) fn explain_at_most(&mut self, n: usize) {
        self.anomalies.truncate(n);
    }

    /// How many explanations are due.
    pub(super) fn to_explain(&self) -> usize {
        self.anomalies.len()
    }

    /// The rows as they are.
    pub(super) fn finish(self) -> Result<RecordBatch, ScoreError> {
        Ok(self.batch)
    }
}

impl Job {
    /// The last series of the selection; `None` where it has none.
    pub(super) fn end(&self) -> Option<SeriesId> {
        match &self.selection.ids {
            Some(ids) => ids.last().copied(),
            None => match self.selection.range.until {
                Some(until) if until <= self.selection.range.from => None,
                Some(until) => Some(until - 1),
                None => Some(SeriesId::MAX),
            },
        }
    }

    /// Scores a piece.
    pub(super) fn score(&self, piece: &Piece) -> Result<Part, ScoreError> {
        let merged = Merged::of(self, piece);
        let inputs = Inputs::of(&self.features, &piece.windows, &merged);
        let decisions = self.decisions(&merged, &inputs);
        self.part(piece, &merged, &inputs, &decisions)
    }

    /// Finds what the anomalies of a part lack.
    pub(super) fn explain(&self, part: Part) -> Result<RecordBatch, ScoreError> {
        let mut normal = StringBuilder::new();
        let mut due = part.anomalies.iter().peekable();
        for row in 0..part.batch.num_rows() {
            let Some(anomaly) = due.next_if(|a| a.row == row) else {
                normal.append_null();
                continue;
            };
            match anomaly.shard.columns().model(anomaly.model as usize) {
                Some(model) => {
                    explain::write_nearest(&mut normal, &self.features, &model, &anomaly.x)
                        .map_err(|e| ScoreError::Plan(e.to_string()))?;
                    normal.append_value("");
                }
                None => normal.append_null(),
            }
        }
        let mut columns = part.batch.columns().to_vec();
        columns[NORMAL_RANGE] = Arc::new(normal.finish());
        Ok(RecordBatch::try_new(prediction_schema(), columns)?)
    }

    /// One for each row, NaN where there is none.
    fn decisions(&self, merged: &Merged, inputs: &Inputs<'_>) -> Vec<f64> {
        let mut decisions = vec![f64::NAN; merged.len()];
        let models: Vec<u32> =
            (0..merged.len()).map(|i| if inputs.valid[i] { merged.model[i] } else { NO_MODEL }).collect();
        // As many features are not the same ones. (All shards of a set take as many as it names.)
        let takes = |set: &ModelSet| set.features[..] == self.features[..];
        let shards = self.table.set.shards();
        for section in merged.sections.iter().filter(|_| takes(&self.table.set)) {
            let rows = section.rows.clone();
            let columns: Vec<&[f64]> = inputs.columns.iter().map(|c| &c[rows.clone()]).collect();
            let shard = &shards[section.shard];
            shard.columns().decisions(&models[rows.clone()], &columns, &mut decisions[rows]);
        }
        for (row, pin) in &merged.pinned {
            let pin = &self.table.pins[*pin];
            let Some((shard, model)) = pin.found else { continue };
            if takes(&pin.set) && inputs.valid[*row] {
                let shard = &pin.set.shards()[shard];
                let columns: Vec<&[f64]> = inputs.columns.iter().map(|c| &c[*row..=*row]).collect();
                shard.columns().decisions(&[model], &columns, &mut decisions[*row..=*row]);
            }
        }
        decisions
    }

    /// What the decisions mean.
    fn part(
        &self,
        piece: &Piece,
        merged: &Merged,
        inputs: &Inputs<'_>,
        decisions: &[f64],
    ) -> Result<Part, ScoreError> {
        let n = merged.len();
        let versions = piece.windows.column(1).as_primitive::<Int64Type>();
        let mut out = Columns::with_capacity(n);
        let mut anomalies = Vec::new();
        let (mut sections, mut pinned) = (merged.sections.iter().peekable(), merged.pinned.iter().peekable());
        for i in 0..n {
            while sections.next_if(|s| s.rows.end <= i).is_some() {}
            let pin = pinned.next_if(|(row, _)| *row == i).map(|(_, pin)| &self.table.pins[*pin]);
            let entry = match pin {
                Some(pin) => pin.found.map(|(shard, row)| (&pin.set.shards()[shard], row)),
                None if merged.model[i] == NO_MODEL => None,
                None => sections.peek().map(|s| (&self.table.set.shards()[s.shard], merged.model[i])),
            };
            let has_window = merged.window[i] != NO_WINDOW;
            let d = decisions[i];
            let status = match entry {
                None => PredictionStatus::NoModel,
                Some((shard, row)) if shard.columns().kinds[row as usize] == kind::NONE => {
                    PredictionStatus::ModelError
                }
                Some(_) if !has_window => PredictionStatus::NoData,
                Some(_) if !inputs.valid[i] => PredictionStatus::InputInvalid,
                Some(_) if !d.is_finite() => PredictionStatus::ModelError,
                Some(_) => PredictionStatus::Scored,
            };
            let scored = status == PredictionStatus::Scored;
            let anomaly = scored && fleetscore_kernel::is_anomaly(d);
            let value = inputs.columns[0][i];
            out.value.append_option(value.is_finite().then_some(value));
            out.prediction.append_option(scored.then_some(i16::from(anomaly)));
            out.decision.append_option(scored.then_some(d));
            out.status.append_value(status.as_str());
            out.version.append_value(if has_window { versions.value(merged.window[i] as usize) } else { 0 });
            out.model_set.append_option(pin.map(|p| p.set.version));
            let Some((shard, row)) = entry else {
                out.model.append_null();
                out.normal.append_null();
                continue;
            };
            shard
                .write_model_name(row as usize, &mut out.model)
                .map_err(|e| ScoreError::Plan(e.to_string()))?;
            out.model.append_value("");
            match shard.normal(row as usize) {
                Some((from, to)) if anomaly => {
                    explain::write_ranges(&mut out.normal, from.iter().copied().zip(to.iter().copied()))
                        .map_err(|e| ScoreError::Plan(e.to_string()))?;
                    out.normal.append_value("");
                }
                _ => out.normal.append_null(),
            }
            if anomaly && self.features.len() > 1 && anomalies.len() < explain::ROWS {
                let x = inputs.columns.iter().map(|c| c[i]).collect();
                anomalies.push(Anomaly { row: i, shard: shard.clone(), model: row, x });
            }
        }
        Ok(Part { batch: out.finish(merged)?, anomalies })
    }
}

/// Columns of predictions that are filled row by row.
struct Columns {
    value: Float64Builder,
    prediction: Int16Builder,
    decision: Float64Builder,
    status: StringBuilder,
    model: StringBuilder,
    version: Int64Builder,
    normal: StringBuilder,
    model_set: Int64Builder,
}

impl Columns {
    fn with_capacity(n: usize) -> Self {
        Self {
            value: Float64Builder::with_capacity(n),
            prediction: Int16Builder::with_capacity(n),
            decision: Float64Builder::with_capacity(n),
            status: StringBuilder::with_capacity(n, n * 8),
            model: StringBuilder::with_capacity(n, n * 24),
            version: Int64Builder::with_capacity(n),
            normal: StringBuilder::with_capacity(n, 0),
            model_set: Int64Builder::with_capacity(n),
        }
    }

    fn finish(mut self, merged: &Merged) -> Result<RecordBatch, ScoreError> {
        let normal: StringArray = self.normal.finish();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(merged.series.clone())),
            Arc::new(self.value.finish()),
            Arc::new(self.prediction.finish()),
            Arc::new(self.decision.finish()),
            Arc::new(self.status.finish()),
            Arc::new(self.model.finish()),
            Arc::new(self.version.finish()),
            Arc::new(normal),
            Arc::new(self.model_set.finish()),
        ];
        Ok(RecordBatch::try_new(prediction_schema(), columns)?)
    }
}

/// Windows, models and pins of a piece side by side: one entry for each row that comes out.
#[derive(Default)]
struct Merged {
    /// Ascending.
    series: Vec<SeriesId>,
    /// Row of the window, or [`NO_WINDOW`].
    window: Vec<u32>,
    /// Row in the section's shard, or [`NO_MODEL`] (for a pinned series too).
    model: Vec<u32>,
    /// Which rows' models lie in which shard, ascending.
    sections: Vec<Section>,
    /// Rows of pinned series, each with the index of its pin, ascending.
    pinned: Vec<(usize, usize)>,
}

struct Section {
    shard: usize,
    rows: Range<usize>,
}

impl Merged {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn of(job: &Job, piece: &Piece) -> Self {
        let windows: &[SeriesId] = piece.windows.column(0).as_primitive::<UInt32Type>().values();
        let models: usize = piece.models.iter().map(|s| s.rows.len()).sum();
        let rows = if job.data_only { windows.len() } else { windows.len().max(models) };
        let mut merged = Self {
            series: Vec::with_capacity(rows),
            window: Vec::with_capacity(rows),
            model: Vec::with_capacity(rows),
            ..Self::default()
        };
        let mut at = At { window: 0, pin: piece.pins.start };
        for span in &piece.models {
            let from = merged.len();
            let shard = job.table.set.shards()[span.shard].series();
            let Some(last) = span.rows.get(span.rows.len().wrapping_sub(1)).map(|row| shard[row]) else {
                continue; // spans are not empty
            };
            let end = At {
                window: at.window + windows[at.window..].partition_point(|s| *s <= last),
                pin: at.pin + job.table.pins[at.pin..piece.pins.end].partition_point(|p| p.series <= last),
            };
            merged.section(job, windows, &at, &end, shard, &span.rows);
            merged.sections.push(Section { shard: span.shard, rows: from..merged.len() });
            at = end;
        }
        merged.section(job, windows, &at, &At { window: windows.len(), pin: piece.pins.end }, &[], &NO_ROWS);
        merged
    }

    /// Merges the windows and pins between two places with models that all lie in one shard.
    fn section(
        &mut self,
        job: &Job,
        windows: &[SeriesId],
        from: &At,
        to: &At,
        shard: &[SeriesId],
        rows: &Rows,
    ) {
        // Wider than any series: behind all of them.
        const NONE: u64 = u64::MAX;
        let (mut w, mut m, mut p) = (from.window, 0, from.pin);
        loop {
            let window = if w < to.window { u64::from(windows[w]) } else { NONE };
            let row = rows.get(m);
            let model = row.map_or(NONE, |row| u64::from(shard[row]));
            let pin = if p < to.pin { u64::from(job.table.pins[p].series) } else { NONE };
            let next = window.min(model).min(pin);
            let Ok(series) = SeriesId::try_from(next) else { return };
            let wanted = if pin == next { job.table.pins[p].found.is_some() } else { true };
            if window == next || wanted && !job.data_only {
                if pin == next {
                    self.pinned.push((self.series.len(), p));
                }
                self.series.push(series);
                self.window.push(if window == next { w as u32 } else { NO_WINDOW });
                let own = model == next && pin != next;
                self.model.push(row.filter(|_| own).map_or(NO_MODEL, |row| row as u32));
            }
            w += usize::from(window == next);
            m += usize::from(model == next);
            p += usize::from(pin == next);
        }
    }
}

/// How far a merge has come.
struct At {
    window: usize,
    pin: usize,
}

/// Features of the rows.
struct Inputs<'a> {
    /// One for each feature; NaN where there is no window or the feature is NULL.
    columns: Vec<Cow<'a, [f64]>>,
    /// Whether all features of a row are finite numbers.
    valid: Vec<bool>,
}

impl<'a> Inputs<'a> {
    fn of(features: &[Feature], windows: &'a RecordBatch, merged: &Merged) -> Self {
        // Each row has its window: nothing needs to be moved.
        let straight = merged.len() == windows.num_rows() && !merged.window.contains(&NO_WINDOW);
        let columns: Vec<Cow<'a, [f64]>> = features
            .iter()
            .map(|f| {
                // Behind series and version: window_schema() has them in the order of Feature::ALL.
                let at = 2 + Feature::ALL.iter().position(|g| g == f).unwrap_or_default();
                let column = windows.column(at).as_primitive::<Float64Type>();
                let values: &'a [f64] = column.values();
                if straight && column.null_count() == 0 {
                    return Cow::Borrowed(values);
                }
                let gathered = merged.window.iter().map(|w| match *w {
                    NO_WINDOW => f64::NAN,
                    w if column.is_null(w as usize) => f64::NAN,
                    w => values[w as usize],
                });
                Cow::Owned(gathered.collect())
            })
            .collect();
        let valid = (0..merged.len()).map(|i| columns.iter().all(|c| c[i].is_finite())).collect();
        Self { columns, valid }
    }
}
