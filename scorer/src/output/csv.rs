//! Predictions as CSV: first the five columns of the reference pipeline, then the rest.

use super::rows::{Row, rows};
use arrow::array::RecordBatch;
use fleetscore_schemas::time::Timestamp;

/// The header. `TS` is the start of the window, UTC.
pub const HEADER: [&str; 14] = [
    "TS",
    "Device",
    "Sensor",
    "Val",
    "Prediction",
    "decision",
    "status",
    "model_set",
    "model",
    "window_end",
    "window_version",
    "run_id",
    "scored_at",
    "normal_range",
];

/// The file: `TS` and `window_end` as `2018-08-28 23:00:05.000`, floats with as many digits as they need to be read back
/// the same, an empty cell for NULL. The same rows give the same bytes.
///
/// # Errors
/// None for well-formed batches: writing goes to memory.
pub fn encode(batches: &[RecordBatch]) -> Result<Vec<u8>, ::csv::Error> {
    let mut out = ::csv::Writer::from_writer(Vec::new());
    out.write_record(HEADER)?;
    for row in batches.iter().flat_map(rows) {
        out.write_record(&record(&row))?;
    }
    out.into_inner().map_err(|e| ::csv::Error::from(e.into_error()))
}

fn record(row: &Row<'_>) -> [String; 14] {
    let float = |v: Option<f64>| v.map(|v| format!("{v:?}")).unwrap_or_default();
    let integer = |v: Option<i64>| v.map(|v| v.to_string()).unwrap_or_default();
    [
        milliseconds(row.window_start),
        row.device.to_owned(),
        row.sensor.to_owned(),
        float(row.value),
        integer(row.prediction.map(i64::from)),
        float(row.decision),
        row.status.to_owned(),
        integer(row.model_set),
        row.model.unwrap_or_default().to_owned(),
        milliseconds(row.window_end),
        row.window_version.to_string(),
        row.run_id.to_owned(),
        row.scored_at.to_rfc3339(),
        row.normal_range.unwrap_or_default().to_owned(),
    ]
}

/// As the reference pipeline writes times.
fn milliseconds(t: Timestamp) -> String {
    match t.to_datetime() {
        Some(t) => t.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        None => t.to_rfc3339(),
    }
}
