//! A seeded fleet: its messages, and what is in each by construction.
//!
//! | share | what it does |
//! | --- | --- |
//! | `late` | readings behind the watermark of their partition by up to three quarters of the allowed lateness (64 panes at most): they count |
//! | `too_late` | readings behind it by the allowed lateness and at least two panes more: they do not |
//! | `fast_clock` | readings in the year 2090 |
//! | `slow_clock` | devices whose readings all come behind by a constant: late ones, that count |
//! | `silent` | series that say nothing for a stretch of three panes |
//! | `burst` | rounds of a series in which 16 to 48 readings more come with the same time and different values |
//! | `bad` | records that must be refused, of every kind, in place of good ones |
//!
//! Beyond that: each device has one partition, but one of eight sends each record to any; all other readings are at
//! most `max_disorder_us` out of order in their partition; now and then one stands exactly on the edge of a pane; one
//! round in eight has no reading of a series, and one in eight two, half of those at the same time. Event times are whole
//! milliseconds; numeric ones are milliseconds.

mod bad;
mod messages;
mod pack;
mod series;
mod write;

use crate::model::ModelNumbers;
use crate::windows::Reading;
pub use messages::Messages;
use series::{Signal, device_name, sensor_name};
use std::collections::BTreeMap;
use std::ops::Range;

/// In what shapes records are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shapes {
    /// One object in each message.
    Single,
    /// Arrays of so many.
    Packed(u32),
    /// So many lines.
    Lines(u32),
    /// One object in each message that holds all sensors of a device.
    Wide,
    /// All of it.
    Mixed,
}

/// A fleet to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// Decides everything random.
    pub seed: u64,
    /// How many partitions there are.
    pub partitions: u32,
    /// How many devices.
    pub devices: u32,
    /// How many sensors each device has.
    pub sensors: u32,
    /// Length of a pane in microseconds.
    pub pane_us: i64,
    /// Event time of the beginning.
    pub start_us: i64,
    /// How many panes the readings span, late ones aside.
    pub panes: u32,
    /// Readings of each series in each pane, on average.
    pub readings_per_pane: u32,
    /// How far readings of a partition are out of order, in microseconds.
    pub max_disorder_us: i64,
    /// What decides between `late` and `too_late`, in microseconds.
    pub allowed_lateness_us: i64,
    /// Share of readings.
    pub late: f64,
    /// Share of readings.
    pub too_late: f64,
    /// Share of readings.
    pub fast_clock: f64,
    /// Share of devices.
    pub slow_clock: f64,
    /// Share of a series' stretches.
    pub silent: f64,
    /// Share of a series' rounds.
    pub burst: f64,
    /// Share of records; 1 leaves few good ones.
    pub bad: f64,
    /// In what shapes records are sent.
    pub shapes: Shapes,
    /// Values are multiples of 1/8, so that sums are exact in any order.
    pub exact: bool,
}

impl Default for Fleet {
    /// Some of everything: 12 series over ten minutes from 2026-01-01 on, in panes of a minute.
    fn default() -> Self {
        Self {
            seed: 1,
            partitions: 3,
            devices: 4,
            sensors: 3,
            pane_us: 60_000_000,
            start_us: 1_767_225_600_000_000,
            panes: 10,
            readings_per_pane: 6,
            max_disorder_us: 10_000_000,
            allowed_lateness_us: 600_000_000,
            late: 0.03,
            too_late: 0.01,
            fast_clock: 0.005,
            slow_clock: 0.2,
            silent: 0.1,
            burst: 0.005,
            bad: 0.03,
            shapes: Shapes::Mixed,
            exact: true,
        }
    }
}

/// A message to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its key: the device of its first record.
    pub key: String,
    /// The partition to send it to.
    pub partition: u32,
    /// Its bytes; none for a tombstone as well, see [`Message::value`].
    pub payload: Vec<u8>,
    /// What is in it.
    pub records: Vec<Record>,
}

impl Message {
    /// What to hand to a producer: `None` for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        (!self.is_tombstone()).then_some(&self.payload)
    }

    /// Whether the message has no payload, which is not the same as an empty one.
    pub fn is_tombstone(&self) -> bool {
        matches!(self.records[..], [Record::Bad { code: "tombstone", .. }])
    }
}

/// Something in a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A reading that the decoder must find. A wide object leaves several with one position and span.
    Reading {
        /// Element of an array or number of the line; −1 is the whole message.
        position: i32,
        /// What it says.
        reading: Reading,
        /// The bytes of its record: what a dead letter takes, should the reading be refused for its time.
        span: Range<usize>,
    },
    /// Something that the decoder must refuse.
    Bad {
        /// The same.
        position: i32,
        /// The code of its dead letter.
        code: &'static str,
        /// The bytes that its dead letter takes.
        span: Range<usize>,
    },
}

impl Fleet {
    /// All messages in the order of sending, made one after the other. The same fleet gives the same messages.
    pub fn messages(&self) -> Messages {
        Messages::of(self)
    }

    /// All series, whether or not they come to say something.
    pub fn series(&self) -> impl Iterator<Item = (String, String)> {
        let sensors = self.sensors;
        (0..self.devices).flat_map(move |d| (0..sensors).map(move |s| (device_name(d), sensor_name(s))))
    }

    /// Models for these series: every seventh has none, and for each sixteen devices there is one model of a device
    /// that never says anything.
    pub fn models(&self) -> BTreeMap<(String, String), ModelNumbers> {
        let mut models = BTreeMap::new();
        for device in 0..self.devices {
            for sensor in 0..self.sensors {
                if (device * self.sensors + sensor) % 7 != 5 {
                    let numbers = Signal::of(self, device, sensor).model(self, device, sensor);
                    models.insert((device_name(device), sensor_name(sensor)), numbers);
                }
            }
        }
        for ghost in 0..self.devices.div_ceil(16) {
            let numbers = Signal::of(self, u32::MAX - ghost, 0).model(self, u32::MAX - ghost, 0);
            models.insert((format!("ghost-{ghost}"), sensor_name(0)), numbers);
        }
        models
    }
}

#[cfg(test)]
#[path = "fleet/tests.rs"]
mod tests;
