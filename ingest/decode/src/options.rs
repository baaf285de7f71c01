//! What a user can set.

use serde::{Deserialize, Serialize};

/// What the fields of a reading are called in the JSON of this fleet.
///
/// The names should differ from each other; where two are equal, the first in the order of this struct has the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldNames {
    /// Who measured.
    pub device: String,
    /// What was measured.
    pub sensor: String,
    /// When.
    pub ts: String,
    /// The measured number.
    pub value: String,
    /// The object of a wide record: one number per sensor.
    pub values: String,
}

impl Default for FieldNames {
    fn default() -> Self {
        Self {
            device: "device".into(),
            sensor: "sensor".into(),
            ts: "ts".into(),
            value: "value".into(),
            values: "values".into(),
        }
    }
}

/// What a time counts that is given as a number since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TsUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    #[default]
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TsUnit {
    /// The name used in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S => "s",
            Self::Ms => "ms",
            Self::Us => "us",
            Self::Ns => "ns",
        }
    }

    /// One unit is ten to the power of this many microseconds.
    pub(crate) const fn exponent(self) -> i32 {
        match self {
            Self::S => 6,
            Self::Ms => 3,
            Self::Us => 0,
            Self::Ns => -3,
        }
    }
}

/// How messages are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeOptions {
    /// What the fields are called.
    pub fields: FieldNames,
    /// What numeric times count.
    pub ts_unit: TsUnit,
    /// Whether a record without a time has the broker's timestamp of its message.
    pub ts_from_broker: bool,
    /// How many series (devices' sensors) this decoder admits; further ones are dead letters `series_limit`.
    pub max_series: u32,
    /// Larger messages are dead letters `too_large`, in bytes.
    pub max_message_bytes: usize,
    /// Records nested deeper are dead letters `too_deep`; the record itself is level 1.
    pub max_depth: usize,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            fields: FieldNames::default(),
            ts_unit: TsUnit::default(),
            ts_from_broker: false,
            max_series: 2_000_000,
            max_message_bytes: 8 << 20,
            max_depth: 64,
        }
    }
}
