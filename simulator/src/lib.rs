//! A seeded fleet with labelled faults, for the demo, for `send --simulate` and for tests.
//!
//! Pure: no clock, no I/O. The same options give the same readings and the same labels on every machine, whatever the
//! steps in which [`Fleet::advance`] is called; only IEEE arithmetic is used, no function that differs between
//! mathematical libraries.
//!
//! A healthy series is a level of its own, a slow swing, by default once a day, and autoregressive noise that saturates at a band
//! around the level, as a controlled machine's does. All sensors of a device are read at the same instant, once per
//! period, with jitter.
//!
//! # What a model of means can see
//!
//! Sizes are in half-widths of the series' healthy band ([`Fleet::band`]).
//!
//! | kind | what happens | seen in the means of windows |
//! | --- | --- | --- |
//! | [`FaultKind::Spike`] | the value is 6–12 away | yes, in every window that the fault covers to about a fifth |
//! | [`FaultKind::Drift`] | the value moves away evenly, to 8–16 at the end | yes, but not in its first windows |
//! | [`FaultKind::Stuck`] | one value is repeated: in half the cases 3–6 away from the level, else the last healthy one | the first half of the cases; the others only in `stddev`, so a mean-only model finds about half |
//! | [`FaultKind::Silence`] | no readings | not as an anomaly: as `no_data` in windows that it covers wholly |
//! | [`FaultKind::Noise`] | white noise of standard deviation 12–24 is added | in part: a mean of *n* readings moves by that over √*n*; `stddev` shows it always |

mod fleet;
mod signal;

pub use fleet::Fleet;

/// What to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetOptions {
    /// How many devices.
    pub devices: u32,
    /// How many sensors each device has.
    pub sensors: u32,
    /// Decides everything random.
    pub seed: u64,
    /// Each series has one reading in each period of this length, in microseconds; at least 1.
    pub period_us: i64,
    /// Length of the slow swing of healthy values, in microseconds; a day by default. A model sees all of it only if
    /// it is trained on a whole turn.
    pub swing_us: i64,
    /// Event time of the beginning, in microseconds since the epoch.
    pub start_us: i64,
    /// No fault begins before this event time.
    pub faults_from_us: i64,
    /// Faults to expect per series in one minute of healthy event time; 0 for none.
    pub fault_rate: f64,
    /// Shortest and longest fault in microseconds. A fault lasts at least two periods, so that it has readings.
    pub fault_len_us: (i64, i64),
}

impl Default for FleetOptions {
    /// 100 series, a reading a second, an hour without faults from 2026-01-01 on, then about a fault a minute.
    fn default() -> Self {
        let start_us = 1_767_225_600_000_000;
        Self {
            devices: 20,
            sensors: 5,
            seed: 1,
            period_us: 1_000_000,
            swing_us: 86_400_000_000,
            start_us,
            faults_from_us: start_us + 3_600_000_000,
            fault_rate: 0.01,
            fault_len_us: (120_000_000, 360_000_000),
        }
    }
}

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimReading {
    /// Which series: device × sensors per device + sensor.
    pub series: u32,
    /// Event time, microseconds since the epoch; whole milliseconds unless the period is shorter than a tenth of a
    /// second.
    pub ts_us: i64,
    /// The value, rounded to three decimals.
    pub value: f64,
}

/// What is wrong with a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// A jump to a far level and back.
    Spike,
    /// Moving away, farther and farther.
    Drift,
    /// The same value again and again.
    Stuck,
    /// No readings.
    Silence,
    /// Wild noise around the healthy value.
    Noise,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Spike, Self::Drift, Self::Stuck, Self::Silence, Self::Noise];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spike => "spike",
            Self::Drift => "drift",
            Self::Stuck => "stuck",
            Self::Silence => "silence",
            Self::Noise => "noise",
        }
    }
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The label of a fault: readings of the series with `from_us <= ts < to_us` are faulty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which series.
    pub series: u32,
    /// What is wrong.
    pub kind: FaultKind,
    /// First faulty event time.
    pub from_us: i64,
    /// First event time that is healthy again.
    pub to_us: i64,
}
