//! What a store must show when messages have been taken in: each reading is judged by itself, in offset order, and kept
//! as a row.

use crate::fleet::{Message, Record};
use crate::windows::{Edges, Key, Window, starts, window};
use std::collections::{BTreeMap, HashMap};

/// What readings are judged by; times in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Length of a pane.
    pub pane_us: i64,
    /// Which edge belongs to it.
    pub edges: Edges,
    /// How far readings may be out of order within a partition.
    pub max_disorder_us: i64,
    /// Readings further behind the watermark than this are dead letters `too_late`.
    pub allowed_lateness_us: i64,
    /// Readings later than this event time are dead letters `future_skew`. The real border moves with the consumer's
    /// clock, so no reading should lie near it.
    pub future_us: i64,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Letter {
    /// The partition.
    pub partition: u32,
    /// Offset of its message.
    pub offset: i64,
    /// Element of an array or number of the line; −1 is the whole message.
    pub position: i32,
    /// Why it was refused.
    pub code: String,
    /// The bytes of the smallest record around it.
    pub payload: Vec<u8>,
}

/// (ts, value)
type Rows = Vec<(i64, f64)>;

/// Takes the messages of each partition in the order of their offsets, each once, and says what must come of them.
///
/// The watermark of a partition is the greatest event time accepted from it less the disorder: messages are expected to
/// be older than the consumer's clock.
#[derive(Debug, Clone)]
pub struct Oracle {
    rules: Rules,
    /// Greatest accepted event time of each partition.
    greatest: BTreeMap<u32, i64>,
    /// Numbers of the series by device and sensor, and the other way round.
    numbers: HashMap<String, HashMap<String, u32>>,
    series: Vec<(String, String)>,
    /// Rows of each pane: by its start, then by the number of the series.
    panes: BTreeMap<i64, Vec<Rows>>,
    letters: Vec<Letter>,
    readings: u64,
    late: u64,
    /// Panes that end at or before this are given away.
    settled_us: Option<i64>,
}

impl Oracle {
    /// An oracle that has seen nothing.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            greatest: BTreeMap::new(),
            numbers: HashMap::new(),
            series: Vec::new(),
            panes: BTreeMap::new(),
            letters: Vec::new(),
            readings: 0,
            late: 0,
            settled_us: None,
        }
    }

    /// Takes the next message of a partition.
    ///
    /// # Panics
    /// If a reading counts in a pane that [`Oracle::settle`] has given away.
    pub fn take(&mut self, partition: u32, offset: i64, message: &Message) {
        // Of one record and code there is one letter, however many of its sensors are refused.
        let mut refused: Option<(i32, &'static str)> = None;
        for record in &message.records {
            let (position, code, span) = match record {
                Record::Bad { position, code, span } => (*position, *code, span),
                Record::Reading { position, reading, span } => {
                    let Some(code) = self.judge(partition, reading.ts_us) else {
                        self.keep(reading.ts_us, &reading.device, &reading.sensor, reading.value);
                        continue;
                    };
                    if refused.replace((*position, code)) == Some((*position, code)) {
                        continue;
                    }
                    (*position, code, span)
                }
            };
            let payload = message.payload[span.clone()].to_vec();
            self.letters.push(Letter { partition, offset, position, code: code.to_owned(), payload });
        }
    }

    /// Why a reading of this time is refused; one that is not raises the watermark.
    fn judge(&mut self, partition: u32, ts_us: i64) -> Option<&'static str> {
        if ts_us > self.rules.future_us {
            return Some("future_skew");
        }
        let watermark = self.watermark(partition);
        if watermark.is_some_and(|w| ts_us < w.saturating_sub(self.rules.allowed_lateness_us)) {
            return Some("too_late");
        }
        self.late += u64::from(watermark.is_some_and(|w| ts_us < w));
        let greatest = self.greatest.entry(partition).or_insert(ts_us);
        *greatest = ts_us.max(*greatest);
        None
    }

    fn keep(&mut self, ts_us: i64, device: &str, sensor: &str, value: f64) {
        let known = self.numbers.get(device).and_then(|sensors| sensors.get(sensor)).copied();
        let number = known.unwrap_or_else(|| {
            let number = u32::try_from(self.series.len()).expect("fewer than 2³² series");
            self.series.push((device.to_owned(), sensor.to_owned()));
            self.numbers.entry(device.to_owned()).or_default().insert(sensor.to_owned(), number);
            number
        });
        let pane_us = self.rules.pane_us;
        for start in starts(ts_us, pane_us, pane_us, self.rules.edges) {
            assert!(
                self.settled_us.is_none_or(|settled| start + pane_us > settled),
                "a reading at {ts_us} counts in a pane that was given away"
            );
            let pane = self.panes.entry(start).or_default();
            if pane.len() <= number as usize {
                pane.resize(number as usize + 1, Rows::new());
            }
            pane[number as usize].push((ts_us, value));
        }
        self.readings += 1;
    }

    /// The windows of all panes.
    pub fn windows(&self) -> BTreeMap<Key, Window> {
        self.panes.iter().flat_map(|(start, rows)| self.of_pane(*start, rows.clone())).collect()
    }

    /// The windows of panes that end at or before this time; their rows are given up, so that a long run does not
    /// hold them all. Only for times that no reading can fall behind any more.
    pub fn settle(&mut self, until_us: i64) -> BTreeMap<Key, Window> {
        let open = self.panes.split_off(&(until_us - self.rules.pane_us + 1));
        let settled = std::mem::replace(&mut self.panes, open);
        self.settled_us = Some(self.settled_us.map_or(until_us, |s| s.max(until_us)));
        settled.into_iter().flat_map(|(start, rows)| self.of_pane(start, rows)).collect()
    }

    fn of_pane(&self, start: i64, rows: Vec<Rows>) -> impl Iterator<Item = (Key, Window)> {
        self.series.iter().zip(rows).filter(|(_, rows)| !rows.is_empty()).map(move |(series, rows)| {
            let (device, sensor) = series.clone();
            ((start, device, sensor), window(rows))
        })
    }

    /// The dead letters, in the order in which their messages were taken.
    pub fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// The watermark of a partition; `None` before its first accepted reading.
    pub fn watermark(&self, partition: u32) -> Option<i64> {
        self.greatest.get(&partition).map(|g| g.saturating_sub(self.rules.max_disorder_us))
    }

    /// How many readings count.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// How many of them were behind the watermark when they came.
    pub fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
#[path = "expect_tests.rs"]
mod tests;
