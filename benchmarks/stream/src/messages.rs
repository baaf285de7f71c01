//! A seeded fleet's messages, made before the clock starts, and what they must come to.

use clap::builder::RangedU64ValueParser;
use fleetscore_schemas::reading::Messages;
use fleetscore_schemas::time::Timestamp;
use std::io::Write;

/// 2026-01-01T00:00:00Z.
pub(crate) const START_US: i64 = 1_767_225_600_000_000;
/// Length of a pane.
pub(crate) const PANE_US: i64 = 60_000_000;
/// Readings of one partition are out of order by up to this.
pub(crate) const DISORDER_US: i64 = 5_000_000;
/// Messages of one batch: what one call of librdkafka gives at most.
const BATCH: usize = 4096;
const SENSORS: [&str; 4] = ["temp", "pressure", "humidity", "vibration"];

/// A flag that counts something of which there must be one.
pub(crate) fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// What is measured with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fleet {
    pub(crate) series: u32,
    pub(crate) readings: usize,
    /// Readings of one message; more than one stand in an array.
    pub(crate) packed: usize,
    pub(crate) partitions: usize,
    /// Event time that the readings span.
    pub(crate) panes: i64,
    pub(crate) seed: u64,
}

/// Consecutive messages of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) partition: usize,
    pub(crate) from: i64,
    pub(crate) messages: Messages,
}

/// What must come out, by counting while the messages are made. Values are multiples of 1/8, so sums are exact.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sums {
    pub(crate) readings: u64,
    pub(crate) sum: f64,
    /// Pairs of a series and a pane with a reading.
    pub(crate) windows: u64,
}

/// One reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) series: u32,
    pub(crate) ts_us: i64,
    pub(crate) value: f64,
}

impl Reading {
    /// Writes it as the wire has it, about 90 bytes.
    fn write(self, out: &mut Vec<u8>) {
        let (device, sensor) = (self.series / 4, SENSORS[self.series as usize % 4]);
        let ms = (self.ts_us - START_US) / 1000;
        let (second, ms) = (ms / 1000, ms % 1000);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let value = self.value;
        // Only a Vec is written to, which has room for all.
        let _ = write!(
            out,
            r#"{{"device":"dev-{device:06}","sensor":"{sensor}","ts":"2026-01-01T{hour:02}:{minute:02}:{second:02}.{ms:03}Z","value":{value}}}"#
        );
    }
}

impl Fleet {
    /// Readings in the order in which they are sent: series at random, time going on, out of order by up to
    /// [`DISORDER_US`].
    pub(crate) fn readings(self) -> impl Iterator<Item = Reading> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let span = self.panes * PANE_US - DISORDER_US;
        (0..self.readings).map(move |i| {
            let at = (i as f64 / self.readings as f64 * span as f64) as i64 + rng.i64(0..DISORDER_US);
            let ts_us = START_US + at / 1000 * 1000;
            Reading { series: rng.u32(..self.series), ts_us, value: f64::from(rng.u32(..8000)) / 8.0 }
        })
    }

    /// The partition of a series: that of its device.
    pub(crate) fn partition(self, series: u32) -> usize {
        series as usize / 4 % self.partitions
    }

    /// All messages in batches, and what they must come to.
    pub(crate) fn batches(self) -> (Vec<Batch>, Sums) {
        let made = self.warmed(First::Nothing);
        (made.batches, made.sums)
    }

    /// The same behind a first reading of each series, of value 0, so that all of them are known.
    pub(crate) fn warmed(self, first: First) -> Made {
        let before = i64::from(first == First::InAPaneBefore);
        let mut packer = Packer::new(self);
        let mut tally = Tally::new(Self { panes: self.panes + before, ..self });
        for series in 0..if first == First::Nothing { 0 } else { self.series } {
            let reading = Reading { series, ts_us: START_US, value: 0.0 };
            tally.add(reading);
            packer.add(reading);
        }
        let first = packer.take();
        for reading in self.readings() {
            let reading = Reading { ts_us: reading.ts_us + before * PANE_US, ..reading };
            tally.add(reading);
            packer.add(reading);
        }
        Made { first, batches: packer.take(), sums: tally.sums() }
    }
}

/// Where the first reading of each series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// There is none but what comes at random.
    Nothing,
    /// At the beginning of the first pane.
    InFirstPane,
    /// In a pane of its own, before all others.
    InAPaneBefore,
}

/// Messages of a fleet.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) first: Vec<Batch>,
    pub(crate) batches: Vec<Batch>,
    /// Of both.
    pub(crate) sums: Sums,
}

/// Packs readings into messages, and these into batches.
struct Packer {
    fleet: Fleet,
    open: Vec<Batch>,
    /// The message in the making of each partition, and its readings.
    packs: Vec<(Vec<u8>, usize)>,
    made: Vec<Batch>,
}

impl Packer {
    fn new(fleet: Fleet) -> Self {
        let open = (0..fleet.partitions)
            .map(|partition| Batch { partition, from: 0, messages: Messages::default() })
            .collect();
        Self { fleet, open, packs: vec![Default::default(); fleet.partitions], made: Vec::new() }
    }

    fn add(&mut self, reading: Reading) {
        let p = self.fleet.partition(reading.series);
        let (pack, held) = &mut self.packs[p];
        if self.fleet.packed > 1 {
            pack.push(if *held == 0 { b'[' } else { b',' });
        }
        reading.write(pack);
        *held += 1;
        if *held >= self.fleet.packed {
            self.end(p);
        }
    }

    /// Ends a partition's message; a full batch is done.
    fn end(&mut self, p: usize) {
        let ((pack, held), batch) = (&mut self.packs[p], &mut self.open[p]);
        if self.fleet.packed > 1 {
            pack.push(b']');
        }
        let next = batch.from + batch.messages.len() as i64;
        batch.messages.push(next, Some(Timestamp(START_US + next)), pack);
        pack.clear();
        *held = 0;
        if batch.messages.len() >= BATCH.div_ceil(self.fleet.packed) {
            self.next(p);
        }
    }

    fn next(&mut self, p: usize) {
        let batch = &mut self.open[p];
        let from = batch.from + batch.messages.len() as i64;
        let next = Batch { partition: p, from, messages: Messages::default() };
        self.made.push(std::mem::replace(batch, next));
    }

    /// All of it, unfinished messages and batches too.
    fn take(&mut self) -> Vec<Batch> {
        for p in 0..self.open.len() {
            if self.packs[p].1 > 0 {
                self.end(p);
            }
            if !self.open[p].messages.is_empty() {
                self.next(p);
            }
        }
        std::mem::take(&mut self.made)
    }
}

/// Counts readings and distinct windows.
pub(crate) struct Tally {
    sums: Sums,
    series: usize,
    seen: Vec<u64>,
}

impl Tally {
    pub(crate) fn new(fleet: Fleet) -> Self {
        let bits = fleet.series as usize * fleet.panes as usize;
        Self { sums: Sums::default(), series: fleet.series as usize, seen: vec![0; bits.div_ceil(64)] }
    }

    pub(crate) fn add(&mut self, reading: Reading) {
        let pane = (reading.ts_us - START_US) / PANE_US;
        let bit = pane as usize * self.series + reading.series as usize;
        self.seen[bit / 64] |= 1 << (bit % 64);
        self.sums.readings += 1;
        self.sums.sum += reading.value;
    }

    pub(crate) fn sums(&self) -> Sums {
        Sums { windows: self.seen.iter().map(|w| u64::from(w.count_ones())).sum(), ..self.sums }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_hold_what_was_counted() {
        for packed in [1, 100] {
            let fleet = Fleet { series: 50, readings: 30_000, packed, partitions: 3, panes: 4, seed: 1 };
            let (batches, sums) = fleet.batches();
            let (mut readings, mut total, mut next) = (0, 0.0, [0; 3]);
            for batch in &batches {
                assert_eq!(batch.from, next[batch.partition]);
                next[batch.partition] += batch.messages.len() as i64;
                for m in 0..batch.messages.len() {
                    let json: serde_json::Value = serde_json::from_slice(batch.messages.message(m)).unwrap();
                    let one = [json.clone()];
                    for reading in json.as_array().map_or(&one[..], Vec::as_slice) {
                        readings += 1;
                        total += reading["value"].as_f64().unwrap();
                    }
                }
            }
            assert_eq!((readings, total), (sums.readings, sums.sum));
            assert_eq!(sums.windows, 200, "600 readings of each series");
        }
    }
}
