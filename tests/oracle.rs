//! An independent computation of windows and predictions: plain rows, two passes, no merging. It imports nothing of
//! ours, so that it cannot repeat our mistakes.

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
        // The newest window that may hold the reading starts at the last multiple of the hop before it.
        let mut start = r.ts_us.div_euclid(hop_us) * hop_us;
        if edges == Edges::End && start == r.ts_us {
            start -= hop_us;
        }
        let inside = |start: i64| match edges {
            Edges::Start => start <= r.ts_us && r.ts_us < start + len_us,
            Edges::End => start < r.ts_us && r.ts_us <= start + len_us,
        };
        while inside(start) {
            groups.entry((start, r.device.clone(), r.sensor.clone())).or_default().push((r.ts_us, r.value));
            start -= hop_us;
        }
    }
    groups.into_iter().map(|(key, values)| (key, window(values))).collect()
}

fn window(mut values: Vec<(i64, f64)>) -> Window {
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

/// The numbers of one model with one feature and an rbf kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelNumbers {
    /// Subtracted from the value.
    pub mean: f64,
    /// Divides it after that.
    pub scale: f64,
    /// γ
    pub gamma: f64,
    /// Support vectors.
    pub vectors: Vec<f64>,
    /// Their coefficients.
    pub coefficients: Vec<f64>,
    /// ρ
    pub rho: f64,
}

impl ModelNumbers {
    /// Σ coef·exp(−γ·(x − sv)²) − ρ with x = (value − mean) / scale
    pub fn decision(&self, value: f64) -> f64 {
        let x = (value - self.mean) / self.scale;
        let sum: f64 = self
            .vectors
            .iter()
            .zip(&self.coefficients)
            .map(|(sv, coef)| coef * (-self.gamma * (x - sv) * (x - sv)).exp())
            .sum();
        sum - self.rho
    }
}

/// A prediction: 1 is an anomaly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// 0 or 1.
    pub label: i64,
    /// The decision function.
    pub decision: f64,
}

/// Predictions of each window's mean, for series with a model.
pub fn predictions(
    windows: &BTreeMap<Key, Window>,
    models: &BTreeMap<(String, String), ModelNumbers>,
) -> BTreeMap<Key, Prediction> {
    windows
        .iter()
        .filter_map(|(key, window)| {
            let decision = models.get(&(key.1.clone(), key.2.clone()))?.decision(window.mean);
            Some((key.clone(), Prediction { label: i64::from(decision <= 0.0), decision }))
        })
        .collect()
}

/// The numbers of the reference's models, from its `models.json`.
pub fn reference_numbers(json: &serde_json::Value) -> BTreeMap<(String, String), ModelNumbers> {
    let floats = |v: &serde_json::Value| -> Vec<f64> {
        v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
    };
    let models = json["models"].as_array().expect("a list of models");
    models
        .iter()
        .map(|m| {
            let svm = &m["svm"];
            let numbers = ModelNumbers {
                mean: floats(&m["scaler"]["mean"])[0],
                scale: floats(&m["scaler"]["scale"])[0],
                gamma: svm["gamma"].as_f64().expect("gamma"),
                vectors: svm["support_vectors"]
                    .as_array()
                    .expect("support vectors")
                    .iter()
                    .map(|v| floats(v)[0])
                    .collect(),
                coefficients: floats(&svm["dual_coefs"]),
                rho: svm["rho"]
                    .as_f64()
                    .unwrap_or_else(|| -svm["intercept"].as_f64().expect("rho or intercept")),
            };
            ((m["device"].to_string(), m["sensor"].to_string()), numbers)
        })
        .collect()
}
