//! Between columns and rows: what the embedded stores read from the batches they are given, and build from their rows.

use crate::{Result, StoreError};
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, Int16Array, Int16Builder, Int64Array,
    Int64Builder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
    TimestampMicrosecondBuilder, UInt32Array, UInt32Builder,
};
use arrow::datatypes::{Float64Type, Int16Type, Int64Type, TimestampMicrosecondType, UInt32Type};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::delta::{self, PaneKey, Partial};
use fleetscore_schemas::time::Timestamp;
use fleetscore_schemas::window::{published_schema, series_schema, window_schema};
use std::sync::Arc;

/// Rows of a batch that is read.
pub(crate) const BATCH_ROWS: usize = 8192;

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch
        .column_by_name(name)
        .ok_or_else(|| StoreError::internal(format!("a batch lacks the column `{name}`")))
}

fn wrong_type(name: &str, array: &dyn Array) -> StoreError {
    StoreError::internal(format!("the column `{name}` has the type {}", array.data_type()))
}

macro_rules! typed {
    ($fn:ident, $array:ty, $arrow:ty) => {
        pub(crate) fn $fn<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a $array> {
            let array = column(batch, name)?;
            array.as_primitive_opt::<$arrow>().ok_or_else(|| wrong_type(name, array))
        }
    };
}
typed!(u32s, UInt32Array, UInt32Type);
typed!(i64s, Int64Array, Int64Type);
typed!(i16s, Int16Array, Int16Type);
typed!(f64s, Float64Array, Float64Type);
typed!(times, TimestampMicrosecondArray, TimestampMicrosecondType);

pub(crate) fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    let array = column(batch, name)?;
    array.as_string_opt::<i32>().ok_or_else(|| wrong_type(name, array))
}

/// Calls `f` with every row of a batch of deltas, in its order.
///
/// # Errors
/// [`StoreError::Internal`] where the columns are not those of [`delta::schema`], or a key is not behind the one
/// before it: a key that occurs twice would be one merge and two versions.
pub(crate) fn for_each_delta(
    batch: &RecordBatch,
    mut f: impl FnMut(PaneKey, &Partial) -> Result<()>,
) -> Result<()> {
    use delta::columns as c;
    let (series, pane) = (u32s(batch, c::SERIES)?.values(), times(batch, c::PANE_START)?.values());
    let (count, sum, m2) = (i64s(batch, c::COUNT)?, f64s(batch, c::SUM)?, f64s(batch, c::M2)?);
    let (min, max) = (f64s(batch, c::MIN)?, f64s(batch, c::MAX)?);
    let (first_ts, first) = (times(batch, c::FIRST_TS)?, f64s(batch, c::FIRST)?);
    let (last_ts, last) = (times(batch, c::LAST_TS)?, f64s(batch, c::LAST)?);
    let mut before: Option<PaneKey> = None;
    for i in 0..batch.num_rows() {
        let key = (Timestamp(pane[i]), series[i]);
        if before.is_some_and(|b| b >= key) {
            return Err(StoreError::internal(format!("deltas are not sorted at {} series {}", key.0, key.1)));
        }
        before = Some(key);
        let partial = Partial {
            count: count.value(i),
            sum: sum.value(i),
            m2: m2.value(i),
            min: min.value(i),
            max: max.value(i),
            first: (Timestamp(first_ts.value(i)), first.value(i)),
            last: (Timestamp(last_ts.value(i)), last.value(i)),
        };
        f(key, &partial)?;
    }
    Ok(())
}

/// Builds batches of [`window_schema`].
#[derive(Debug, Default)]
pub(crate) struct WindowBuilder {
    series: UInt32Builder,
    version: Int64Builder,
    columns: [Float64Builder; 8],
}

impl WindowBuilder {
    /// Adds the window of one series.
    pub(crate) fn push(&mut self, series: SeriesId, version: i64, p: &Partial) {
        self.series.append_value(series);
        self.version.append_value(version);
        let row = [
            Some(p.mean()),
            Some(p.count as f64),
            Some(p.sum),
            p.stddev(),
            Some(p.min),
            Some(p.max),
            Some(p.first.1),
            Some(p.last.1),
        ];
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.append_option(value);
        }
    }

    /// How many rows it holds.
    pub(crate) fn len(&self) -> usize {
        arrow::array::ArrayBuilder::len(&self.series)
    }

    /// The rows so far; empties the builder.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.series.finish()), Arc::new(self.version.finish())];
        arrays.extend(self.columns.iter_mut().map(|c| Arc::new(c.finish()) as ArrayRef));
        Ok(RecordBatch::try_new(window_schema(), arrays)?)
    }
}

/// Builds batches of [`series_schema`].
#[derive(Debug, Default)]
pub(crate) struct SeriesBuilder {
    ids: UInt32Builder,
    devices: StringBuilder,
    sensors: StringBuilder,
}

impl SeriesBuilder {
    pub(crate) fn push(&mut self, id: SeriesId, device: &str, sensor: &str) {
        self.ids.append_value(id);
        self.devices.append_value(device);
        self.sensors.append_value(sensor);
    }

    /// How many rows it holds.
    pub(crate) fn len(&self) -> usize {
        arrow::array::ArrayBuilder::len(&self.ids)
    }

    /// The rows so far; empties the builder.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.ids.finish()),
            Arc::new(self.devices.finish()),
            Arc::new(self.sensors.finish()),
        ];
        Ok(RecordBatch::try_new(series_schema(), arrays)?)
    }
}

/// One row of [`published_schema`], without what all rows of an interval share.
#[derive(Debug, Clone)]
pub(crate) struct PublishedRow<'a> {
    pub(crate) window_end: Timestamp,
    pub(crate) device: &'a str,
    pub(crate) sensor: &'a str,
    pub(crate) value: Option<f64>,
    pub(crate) prediction: Option<i16>,
    pub(crate) decision: Option<f64>,
    pub(crate) status: &'a str,
    pub(crate) model_set: Option<i64>,
    pub(crate) model: Option<&'a str>,
    pub(crate) window_version: i64,
    pub(crate) run_id: &'a str,
    pub(crate) scored_at: Timestamp,
    pub(crate) normal_range: Option<&'a str>,
}

/// Builds batches of [`published_schema`].
#[derive(Debug)]
pub(crate) struct PublishedBuilder {
    schedule: String,
    window_start: Timestamp,
    schedules: StringBuilder,
    starts: TimestampMicrosecondBuilder,
    ends: TimestampMicrosecondBuilder,
    devices: StringBuilder,
    sensors: StringBuilder,
    values: Float64Builder,
    predictions: Int16Builder,
    decisions: Float64Builder,
    statuses: StringBuilder,
    model_sets: Int64Builder,
    models: StringBuilder,
    versions: Int64Builder,
    run_ids: StringBuilder,
    scored: TimestampMicrosecondBuilder,
    ranges: StringBuilder,
}

impl PublishedBuilder {
    pub(crate) fn new(schedule: &str, window_start: Timestamp) -> Self {
        let time = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
        Self {
            schedule: schedule.to_owned(),
            window_start,
            schedules: StringBuilder::new(),
            starts: time(),
            ends: time(),
            devices: StringBuilder::new(),
            sensors: StringBuilder::new(),
            values: Float64Builder::new(),
            predictions: Int16Builder::new(),
            decisions: Float64Builder::new(),
            statuses: StringBuilder::new(),
            model_sets: Int64Builder::new(),
            models: StringBuilder::new(),
            versions: Int64Builder::new(),
            run_ids: StringBuilder::new(),
            scored: time(),
            ranges: StringBuilder::new(),
        }
    }

    pub(crate) fn push(&mut self, row: &PublishedRow<'_>) {
        self.schedules.append_value(&self.schedule);
        self.starts.append_value(self.window_start.0);
        self.ends.append_value(row.window_end.0);
        self.devices.append_value(row.device);
        self.sensors.append_value(row.sensor);
        self.values.append_option(row.value);
        self.predictions.append_option(row.prediction);
        self.decisions.append_option(row.decision);
        self.statuses.append_value(row.status);
        self.model_sets.append_option(row.model_set);
        self.models.append_option(row.model);
        self.versions.append_value(row.window_version);
        self.run_ids.append_value(row.run_id);
        self.scored.append_value(row.scored_at.0);
        self.ranges.append_option(row.normal_range);
    }

    /// How many rows it holds.
    #[cfg(feature = "servers")]
    pub(crate) fn len(&self) -> usize {
        arrow::array::ArrayBuilder::len(&self.schedules)
    }

    /// The rows so far; empties the builder.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.schedules.finish()),
            Arc::new(self.starts.finish()),
            Arc::new(self.ends.finish()),
            Arc::new(self.devices.finish()),
            Arc::new(self.sensors.finish()),
            Arc::new(self.values.finish()),
            Arc::new(self.predictions.finish()),
            Arc::new(self.decisions.finish()),
            Arc::new(self.statuses.finish()),
            Arc::new(self.model_sets.finish()),
            Arc::new(self.models.finish()),
            Arc::new(self.versions.finish()),
            Arc::new(self.run_ids.finish()),
            Arc::new(self.scored.finish()),
            Arc::new(self.ranges.finish()),
        ];
        Ok(RecordBatch::try_new(published_schema(), arrays)?)
    }
}
