//! What the stages of fleetscore agree on: event time, reading batches, partial aggregates, codes, states, and the
//! shape of what is stored. Nothing in here does I/O and nothing reads a clock.
//!
//! | module | decides |
//! | --- | --- |
//! | [`time`] | timestamps, panes, intervals, edge conventions |
//! | [`reading`] | what a decoder hands to the aggregator: columns, spans, bad records |
//! | [`stream`] | events of a source of readings, and the commands it obeys |
//! | [`delta`] | the mergeable partial aggregate, one row per (series, pane) |
//! | [`window`] | columns of stored windows and of predictions |
//! | [`codes`] | stable codes of dead letters and errors |
//! | [`status`] | states and causes of runs, statuses of predictions |

pub mod codes;
pub mod delta;
pub mod reading;
pub mod status;
pub mod stream;
pub mod time;
pub mod window;

/// Dense id of a series (one device's one sensor) in the store. Ids are never reused.
pub type SeriesId = u32;

/// The name of a series: a device and one of its sensors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct SeriesName {
    /// The device, 1–256 bytes without control characters.
    pub device: String,
    /// The sensor, 1–256 bytes without control characters.
    pub sensor: String,
}

impl SeriesName {
    /// A name from its two parts; the input rules are the decoder's business.
    pub fn new(device: impl Into<String>, sensor: impl Into<String>) -> Self {
        Self { device: device.into(), sensor: sensor.into() }
    }
}

impl std::fmt::Display for SeriesName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.device, self.sensor)
    }
}
