//! Columns of stored windows as they are read for scoring, of predictions as they are written, and of predictions as
//! they are published.

use crate::delta::timestamp_type;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};

/// A column of a window that a model may take as its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// sum / readings.
    Mean,
    /// Number of readings.
    Readings,
    /// Sum of values.
    Sum,
    /// The sample's standard deviation; NULL for one reading.
    Stddev,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// First value by (ts, value).
    First,
    /// Last value by (ts, value).
    Last,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Mean, Self::Readings, Self::Sum, Self::Stddev, Self::Min, Self::Max, Self::First, Self::Last];

    /// Its name: the column of the view `windows`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Readings => "readings",
            Self::Sum => "sum",
            Self::Stddev => "stddev",
            Self::Min => "min",
            Self::Max => "max",
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

impl std::str::FromStr for Feature {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|f| f.as_str() == s).ok_or_else(|| {
            format!("`{s}` is no feature; known are {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

impl std::fmt::Display for Feature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

fn field(name: &str, t: DataType, nullable: bool) -> Field {
    Field::new(name, t, nullable)
}

/// Schema of windows read for scoring: one row per series with data, ascending by `series`.
///
/// `series: UInt32, version: Int64` and then every [`Feature`] in the order of [`Feature::ALL`] as `Float64`
/// (`readings` too); only `stddev` is nullable. `version` is the sum of the versions of the panes.
pub fn window_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let mut fields =
            vec![field("series", DataType::UInt32, false), field("version", DataType::Int64, false)];
        fields.extend(
            Feature::ALL.iter().map(|f| field(f.as_str(), DataType::Float64, matches!(f, Feature::Stddev))),
        );
        Arc::new(Schema::new(fields))
    });
    SCHEMA.clone()
}

/// Schema of predictions of one interval as the scorer hands them to the store, ascending by `series`.
///
/// `value` is the first feature; `prediction` (0, or 1 = anomaly) and `decision` are NULL unless `status` is
/// `scored`; `model` is the model's name, NULL for `no_model`; `window_version` is 0 where there is no window;
/// `model_set` is the set that scored a pinned series, NULL for the run's own.
pub fn prediction_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            field("series", DataType::UInt32, false),
            field("value", DataType::Float64, true),
            field("prediction", DataType::Int16, true),
            field("decision", DataType::Float64, true),
            field("status", DataType::Utf8, false),
            field("model", DataType::Utf8, true),
            field("window_version", DataType::Int64, false),
            // The range of values the model calls normal, as text such as `10.01 … 14.18`; only for anomalies.
            field("normal_range", DataType::Utf8, true),
            // The set that scored a pinned series; NULL is the run's own.
            field("model_set", DataType::Int64, true),
        ]))
    });
    SCHEMA.clone()
}

/// Schema of predictions as they are read back for publication: the view `predictions` of one interval, ordered by
/// device and sensor.
pub fn published_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            field("schedule", DataType::Utf8, false),
            field("window_start", timestamp_type(), false),
            field("window_end", timestamp_type(), false),
            field("device", DataType::Utf8, false),
            field("sensor", DataType::Utf8, false),
            field("value", DataType::Float64, true),
            field("prediction", DataType::Int16, true),
            field("decision", DataType::Float64, true),
            field("status", DataType::Utf8, false),
            field("model_set", DataType::Int64, true),
            field("model", DataType::Utf8, true),
            field("window_version", DataType::Int64, false),
            field("run_id", DataType::Utf8, false),
            field("scored_at", timestamp_type(), false),
            field("normal_range", DataType::Utf8, true),
        ]))
    });
    SCHEMA.clone()
}

/// Schema of the names of all series, ascending by `id`.
pub fn series_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            field("id", DataType::UInt32, false),
            field("device", DataType::Utf8, false),
            field("sensor", DataType::Utf8, false),
        ]))
    });
    SCHEMA.clone()
}
