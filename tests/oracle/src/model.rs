//! Models as plain numbers, and what they say of windows.

use crate::windows::{Key, Window};
use std::collections::BTreeMap;

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

/// A file of these models as plain JSON, one a line, as `models import` takes it (`models.jsonl`). Each brings two
/// check vectors, so that an import that reads a number wrongly refuses the model.
pub fn model_lines(models: &BTreeMap<(String, String), ModelNumbers>) -> String {
    let mut out = String::new();
    for ((device, sensor), m) in models {
        let checks = [m.mean, m.mean + 1.5 * m.scale];
        let line = serde_json::json!({
            "device": device, "sensor": sensor, "kernel": "rbf", "gamma": m.gamma,
            "mean": [m.mean], "scale": [m.scale],
            "support_vectors": m.vectors.iter().map(|v| [*v]).collect::<Vec<_>>(),
            "dual_coef": m.coefficients, "rho": m.rho,
            "check": { "x": checks.map(|x| [x]), "decision": checks.map(|x| m.decision(x)) },
        });
        out += &line.to_string();
        out.push('\n');
    }
    out
}
