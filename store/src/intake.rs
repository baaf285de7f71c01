//! Predictions on their way into a store: columns with their types, checked and counted as they pass.

use crate::batch::{f64s, i16s, i64s, texts, u32s};
use crate::{PredictionStream, Result, RunCounts, StoreError};
use arrow::array::{Array, Float64Array, Int16Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::PredictionStatus;
use futures::StreamExt;

/// What the row of a run below the floor of retention says: windows there read as empty, so its rows would say
/// `no_data` of what was scored once. The run ends, and the predictions stay as they are.
pub(crate) const FROZEN: &str = "below the floor of retention: its predictions are frozen";

/// Columns of a batch of [`fleetscore_schemas::window::prediction_schema`].
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    pub(crate) series: &'a UInt32Array,
    pub(crate) value: &'a Float64Array,
    pub(crate) prediction: &'a Int16Array,
    pub(crate) decision: &'a Float64Array,
    pub(crate) status: &'a StringArray,
    pub(crate) model: &'a StringArray,
    pub(crate) window_version: &'a Int64Array,
    pub(crate) normal_range: &'a StringArray,
    pub(crate) model_set: &'a Int64Array,
}

/// The value of a column that may be NULL.
macro_rules! cell {
    ($array:expr, $i:expr) => {
        $array.is_valid($i).then(|| $array.value($i))
    };
}

/// One row, borrowed from its columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Prediction<'a> {
    pub(crate) series: SeriesId,
    pub(crate) value: Option<f64>,
    pub(crate) prediction: Option<i16>,
    pub(crate) decision: Option<f64>,
    pub(crate) status: &'a str,
    pub(crate) model: Option<&'a str>,
    pub(crate) window_version: i64,
    pub(crate) normal_range: Option<&'a str>,
    pub(crate) model_set: Option<i64>,
}

impl<'a> Columns<'a> {
    /// # Errors
    /// [`StoreError::Internal`] where a column is absent, has another type, or holds a NULL that it must not.
    pub(crate) fn new(batch: &'a RecordBatch) -> Result<Self> {
        let columns = Self {
            series: u32s(batch, "series")?,
            value: f64s(batch, "value")?,
            prediction: i16s(batch, "prediction")?,
            decision: f64s(batch, "decision")?,
            status: texts(batch, "status")?,
            model: texts(batch, "model")?,
            window_version: i64s(batch, "window_version")?,
            normal_range: texts(batch, "normal_range")?,
            model_set: i64s(batch, "model_set")?,
        };
        let nulls =
            columns.series.null_count() + columns.status.null_count() + columns.window_version.null_count();
        if nulls > 0 {
            return Err(StoreError::internal("a prediction lacks its series, its status or its version"));
        }
        Ok(columns)
    }

    pub(crate) fn row(&self, i: usize) -> Prediction<'a> {
        Prediction {
            series: self.series.value(i),
            value: cell!(self.value, i),
            prediction: cell!(self.prediction, i),
            decision: cell!(self.decision, i),
            status: self.status.value(i),
            model: cell!(self.model, i),
            window_version: self.window_version.value(i),
            normal_range: cell!(self.normal_range, i),
            model_set: cell!(self.model_set, i),
        }
    }

    fn count(&self, counts: &mut RunCounts) -> Result<()> {
        for i in 0..self.series.len() {
            match self.status.value(i).parse().map_err(StoreError::internal)? {
                PredictionStatus::Scored => {
                    counts.scored += 1;
                    counts.anomalies += i64::from(cell!(self.prediction, i) == Some(1));
                }
                PredictionStatus::NoData => counts.no_data += 1,
                PredictionStatus::NoModel => counts.no_model += 1,
                PredictionStatus::ModelError => counts.model_error += 1,
                PredictionStatus::InputInvalid => counts.input_invalid += 1,
            }
        }
        Ok(())
    }
}

/// The stream of a commit: every batch is checked, and counted, before it is handed on.
pub(crate) struct Intake<'a> {
    stream: PredictionStream<'a>,
    last: Option<SeriesId>,
    counts: RunCounts,
    /// What was taken from the stream and not handed on yet.
    ahead: Option<RecordBatch>,
}

impl<'a> Intake<'a> {
    pub(crate) fn new(stream: PredictionStream<'a>) -> Self {
        Self { stream, last: None, counts: RunCounts::default(), ahead: None }
    }

    /// What became of the models of the rows so far.
    pub(crate) fn counts(&self) -> RunCounts {
        self.counts
    }

    /// Whether there are any rows; waits for the first.
    #[cfg(feature = "servers")]
    pub(crate) async fn has_rows(&mut self) -> Result<bool> {
        if self.ahead.is_none() {
            self.ahead = self.take().await?;
        }
        Ok(self.ahead.is_some())
    }

    /// The next batch, which has rows; `None` at the end.
    ///
    /// # Errors
    /// [`StoreError::Source`] where the stream broke off, [`StoreError::Internal`] where the columns are not those of
    /// predictions or series do not ascend.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        match self.ahead.take() {
            Some(batch) => Ok(Some(batch)),
            None => self.take().await,
        }
    }

    /// The next `rows` rows as one batch; fewer at the end.
    ///
    /// # Errors
    /// Those of [`Intake::next`].
    #[cfg(feature = "servers")]
    pub(crate) async fn chunk(&mut self, rows: usize) -> Result<Option<RecordBatch>> {
        let mut parts = Vec::new();
        let mut have = 0;
        while have < rows {
            let Some(batch) = self.next().await? else { break };
            let fit = batch.num_rows().min(rows - have);
            if fit < batch.num_rows() {
                self.ahead = Some(batch.slice(fit, batch.num_rows() - fit));
            }
            parts.push(batch.slice(0, fit));
            have += fit;
        }
        match parts.len() {
            0 | 1 => Ok(parts.pop()),
            _ => Ok(Some(arrow::compute::concat_batches(&parts[0].schema(), &parts)?)),
        }
    }

    async fn take(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let Some(batch) = self.stream.next().await else { return Ok(None) };
            let batch = batch.map_err(StoreError::Source)?;
            if batch.num_rows() == 0 {
                continue;
            }
            let columns = Columns::new(&batch)?;
            let series = columns.series.values();
            let mut last = self.last;
            for id in series {
                if last.is_some_and(|last| last >= *id) {
                    return Err(StoreError::internal(format!("predictions do not ascend by series at {id}")));
                }
                last = Some(*id);
            }
            self.last = last;
            columns.count(&mut self.counts)?;
            return Ok(Some(batch));
        }
    }
}
