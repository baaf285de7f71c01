//! Readings and their windows.

use std::collections::BTreeMap;

/// One reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Event time, microseconds since the epoch.
    pub ts_us: i64,
    /// The device.
    pub device: String,
    /// The sensor.
    pub sensor: String,
    /// The value.
    pub value: f64,
}

/// (window start in microseconds, device, sensor)
pub type Key = (i64, String, String);

/// One window of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Number of readings.
    pub count: i64,
    /// Sum of values.
    pub sum: f64,
    /// sum / count
    pub mean: f64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// The sample's standard deviation.
    pub stddev: Option<f64>,
    /// First value by (ts, value).
    pub first: f64,
    /// Last value by (ts, value).
    pub last: f64,
}

/// Which edge belongs to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edges {
    /// `[start, end)`
    Start,
    /// `(start, end]`
    End,
}

/// All windows of one length that have readings.
pub fn windows(readings: &[Reading], len_us: i64, hop_us: i64, edges: Edges) -> BTreeMap<Key, Window> {
    let mut groups: BTreeMap<Key, Vec<(i64, f64)>> = BTreeMap::new();
    for r in readings {
        for start in starts(r.ts_us, len_us, hop_us, edges) {
            groups.entry((start, r.device.clone(), r.sensor.clone())).or_default().push((r.ts_us, r.value));
        }
    }
    groups.into_iter().map(|(key, values)| (key, window(values))).collect()
}

/// Where the windows start that hold this time, the newest first.
pub(crate) fn starts(ts_us: i64, len_us: i64, hop_us: i64, edges: Edges) -> impl Iterator<Item = i64> {
    // The newest window that may hold the reading starts at the last multiple of the hop before it.
    let mut newest = ts_us.div_euclid(hop_us) * hop_us;
    if edges == Edges::End && newest == ts_us {
        newest -= hop_us;
    }
    let inside = move |start: &i64| match edges {
        Edges::Start => *start <= ts_us && ts_us < start + len_us,
        Edges::End => *start < ts_us && ts_us <= start + len_us,
    };
    (0..).map(move |k| newest - k * hop_us).take_while(inside)
}

/// The window of these (ts, value).
pub(crate) fn window(mut values: Vec<(i64, f64)>) -> Window {
    values.sort_by(|a, b| a.partial_cmp(b).expect("readings are finite"));
    let n = values.len() as f64;
    let sum: f64 = values.iter().map(|v| v.1).sum();
    let mean = sum / n;
    let squares: f64 = values.iter().map(|v| (v.1 - mean).powi(2)).sum();
    Window {
        count: values.len() as i64,
        sum,
        mean,
        min: values.iter().map(|v| v.1).fold(f64::INFINITY, f64::min),
        max: values.iter().map(|v| v.1).fold(f64::NEG_INFINITY, f64::max),
        stddev: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
        first: values[0].1,
        last: values[values.len() - 1].1,
    }
}
