//! What is published of one interval: its current predictions, and what they add up to.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int16Type, Int64Type, TimestampMicrosecondType};
use fleetscore_schemas::status::PredictionStatus;
use fleetscore_schemas::time::Timestamp;
use fleetscore_schemas::window::published_schema;
use std::collections::BTreeSet;

/// One row of [`published_schema`], borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// Start of the window.
    pub window_start: Timestamp,
    /// End of the window.
    pub window_end: Timestamp,
    /// The device.
    pub device: &'a str,
    /// The sensor.
    pub sensor: &'a str,
    /// The first feature.
    pub value: Option<f64>,
    /// 1 = anomaly.
    pub prediction: Option<i16>,
    /// The decision function.
    pub decision: Option<f64>,
    /// What became of the model.
    pub status: &'a str,
    /// Version of the model set.
    pub model_set: Option<i64>,
    /// The model's name.
    pub model: Option<&'a str>,
    /// Version of the window it was made from.
    pub window_version: i64,
    /// The run that wrote it.
    pub run_id: &'a str,
    /// When.
    pub scored_at: Timestamp,
    /// For an anomaly: what would have been normal, in words.
    pub normal_range: Option<&'a str>,
}

/// Rows of a batch with the columns of [`published_schema`].
///
/// # Panics
/// If the batch has other columns.
pub fn rows(batch: &RecordBatch) -> impl Iterator<Item = Row<'_>> {
    assert_eq!(batch.schema().fields(), published_schema().fields(), "columns of published predictions");
    let time = |c: usize| batch.column(c).as_primitive::<TimestampMicrosecondType>();
    let text = |c: usize| batch.column(c).as_string::<i32>();
    let float = |c: usize| batch.column(c).as_primitive::<Float64Type>();
    let long = |c: usize| batch.column(c).as_primitive::<Int64Type>();
    let (start, end, scored_at) = (time(1), time(2), time(13));
    let (device, sensor, status, model, run_id) = (text(3), text(4), text(8), text(10), text(12));
    let normal_range = text(14);
    let (value, decision) = (float(5), float(7));
    let prediction = batch.column(6).as_primitive::<Int16Type>();
    let (model_set, version) = (long(9), long(11));
    (0..batch.num_rows()).map(move |i| Row {
        window_start: Timestamp(start.value(i)),
        window_end: Timestamp(end.value(i)),
        device: device.value(i),
        sensor: sensor.value(i),
        value: value.is_valid(i).then(|| value.value(i)),
        prediction: prediction.is_valid(i).then(|| prediction.value(i)),
        decision: decision.is_valid(i).then(|| decision.value(i)),
        status: status.value(i),
        model_set: model_set.is_valid(i).then(|| model_set.value(i)),
        model: model.is_valid(i).then(|| model.value(i)),
        window_version: version.value(i),
        run_id: run_id.value(i),
        scored_at: Timestamp(scored_at.value(i)),
        normal_range: normal_range.is_valid(i).then(|| normal_range.value(i)),
    })
}

/// What published rows add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// All rows.
    pub rows: u64,
    /// With a decision.
    pub scored: u64,
    /// Of these, anomalies.
    pub anomalies: u64,
    /// With a model, without data.
    pub no_data: u64,
    /// With data, without a model.
    pub no_model: u64,
    /// With a model that was refused or gave no number.
    pub model_error: u64,
    /// With a feature that is NULL or not finite.
    pub input_invalid: u64,
}

/// What rows add up to, batch by batch.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// How many rows ended with which status.
    pub counts: Counts,
    /// Versions of the model sets that made them.
    pub model_sets: BTreeSet<i64>,
}

impl Summary {
    /// Adds a batch with the columns of [`published_schema`].
    ///
    /// # Panics
    /// If the batch has other columns.
    pub fn add(&mut self, batch: &RecordBatch) {
        let counts = &mut self.counts;
        for row in rows(batch) {
            counts.rows += 1;
            if let Some(set) = row.model_set
                && !self.model_sets.contains(&set)
            {
                self.model_sets.insert(set);
            }
            match row.status.parse() {
                Ok(PredictionStatus::Scored) => {
                    counts.scored += 1;
                    counts.anomalies += u64::from(row.prediction == Some(1));
                }
                Ok(PredictionStatus::NoData) => counts.no_data += 1,
                Ok(PredictionStatus::NoModel) => counts.no_model += 1,
                Ok(PredictionStatus::ModelError) => counts.model_error += 1,
                Ok(PredictionStatus::InputInvalid) => counts.input_invalid += 1,
                Err(_) => {} // a status of a newer version: in `rows` alone
            }
        }
    }
}
