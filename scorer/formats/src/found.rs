//! A model as found in a file, and whether it decides as its exporter said.

use crate::{Refused, Why};
use fleetscore_kernel::{Kernel, Model};

/// How far a decision may be from the recorded one, relative to Σ|coefᵢ·kᵢ| + |ρ|: two libraries sum in different orders
/// and have different exponentials.
pub const TOLERANCE: f64 = 1e-9;
/// The same where the numbers of the model were float32 in the file.
pub const TOLERANCE_SINGLE: f64 = 1e-4;

/// One model as found in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The device it is for, if the file says so.
    pub device: Option<String>,
    /// The sensor it is for, if the file says so.
    pub sensor: Option<String>,
    /// The model's own name, if the file gives one.
    pub name: Option<String>,
    /// The numbers; valid.
    pub model: Model,
    /// Rows of features with the decisions the exporter recorded.
    pub checks: Vec<(Vec<f64>, f64)>,
    /// Names of its input columns, in order: of pickles and ONNX files what the training data called them.
    pub features: Option<Vec<String>>,
    /// How many rows it was trained on, if the file says so.
    pub rows: Option<u64>,
    /// Whether its numbers came as float32.
    pub single_precision: bool,
    /// Its place in a file of many, from 1.
    pub entry: Option<u64>,
}

impl Found {
    pub(crate) fn bare(model: Model) -> Self {
        Self {
            device: None,
            sensor: None,
            name: None,
            model,
            checks: vec![],
            features: None,
            rows: None,
            single_precision: false,
            entry: None,
        }
    }

    /// Whether the recorded decisions come out, within [`TOLERANCE`] (of float32 numbers: [`TOLERANCE_SINGLE`]) relative
    /// to Σ|coefᵢ| + |ρ|; where the kernel is not bounded by 1 (linear, poly), to Σ|coefᵢ|·kᵢ + |ρ| if that is more, with
    /// kᵢ what the kernel is at most for features of this size.
    ///
    /// # Errors
    /// [`Why::Check`] with the first row that does not, both decisions and the tolerance.
    pub fn verify(&self) -> Result<(), Refused> {
        let relative = if self.single_precision { TOLERANCE_SINGLE } else { TOLERANCE };
        for (row, (x, recorded)) in self.checks.iter().enumerate() {
            let ours = if x.len() == self.model.features { self.model.decision(x) } else { f64::NAN };
            let tolerance = relative * magnitude(&self.model, x);
            // Not `>`: a NaN on either side is a refusal.
            if !((ours - recorded).abs() <= tolerance) {
                let single = self.single_precision;
                let why = Why::Check { row, ours, recorded: *recorded, tolerance, single };
                return Err(Refused {
                    entry: self.entry,
                    device: self.device.clone(),
                    sensor: self.sensor.clone(),
                    name: self.name.clone(),
                    why,
                });
            }
        }
        Ok(())
    }
}

/// What a decision's rounding errors are relative to.
fn magnitude(model: &Model, x: &[f64]) -> f64 {
    let sum: f64 = model.dual_coef.iter().map(|c| c.abs()).sum();
    let bound: fn(f64, Kernel) -> f64 = match model.kernel {
        Kernel::Rbf { .. } | Kernel::Sigmoid { .. } => return sum + model.rho.abs(),
        _ => |dot, kernel| match kernel {
            Kernel::Poly { gamma, coef0, degree } => (gamma * dot + coef0.abs()).powf(f64::from(degree)),
            _ => dot,
        },
    };
    let scaled = |(i, x): (usize, &f64)| {
        let mean = model.mean.get(i).copied().unwrap_or(0.0);
        ((x.abs() + mean.abs()) / model.scale.get(i).copied().unwrap_or(1.0)).abs()
    };
    let scaled: Vec<f64> = x.iter().enumerate().map(scaled).collect();
    let terms = model.support_vectors.chunks_exact(model.features).zip(&model.dual_coef).map(|(v, coef)| {
        let dot: f64 = v.iter().zip(&scaled).map(|(v, x)| v.abs() * x).sum();
        coef.abs() * bound(dot, model.kernel)
    });
    let terms: f64 = terms.sum();
    // An overflow must not make everything right.
    let terms = if terms.is_finite() { terms } else { sum };
    terms.max(sum) + model.rho.abs()
}
