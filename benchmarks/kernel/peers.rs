//! The same models in the hands of others.

use std::path::Path;
use std::process::Command;

use fleetscore_kernel::Kernel;
use linfa::traits::Predict;
use linfa_svm::Svm;
use ndarray::{Array1, Array2};
use serde_json::{Value, json};

use crate::report::Line;
use crate::{Case, Failure};

/// A model of linfa-svm and rows as it takes them.
pub(crate) struct Linfa {
    svm: Svm<f64, bool>,
    rows: Array2<f64>,
}

impl Linfa {
    /// Reading its own JSON is the only way to give it numbers: its fields are private.
    pub(crate) fn new(case: &Case) -> Result<Self, Failure> {
        let m = &case.model;
        let Kernel::Rbf { gamma } = m.kernel else { return Err("only radial kernels are compared".into()) };
        let vectors = json!({ "v": 1, "dim": [m.dual_coef.len(), m.features], "data": m.support_vectors });
        let svm = serde_json::from_value(json!({
            "alpha": m.dual_coef, "rho": m.rho, "r": null, "exit_reason": "ReachedThreshold", "iterations": 1,
            "obj": 0.0, "kernel_method": { "Gaussian": 1.0 / gamma },
            "sep_hyperplane": { "WeightedCombination": vectors }, "probability_coeffs": null, "phantom": null,
        }))?;
        let rows = Array2::from_shape_fn((case.rows(), m.features), |(i, k)| case.columns[k][i]);
        Ok(Self { svm, rows })
    }

    /// Whether each row is normal.
    pub(crate) fn predict(&self) -> Vec<bool> {
        let normal: Array1<bool> = self.svm.predict(&self.rows);
        normal.to_vec()
    }

    /// How many rows' decisions are compared.
    pub(crate) fn some(&self) -> usize {
        self.rows.nrows().min(1000)
    }

    /// Their decisions.
    pub(crate) fn decisions(&self) -> Vec<f64> {
        let rows = self.rows.rows().into_iter().take(self.some());
        rows.map(|row| self.svm.weighted_sum(&row) - self.svm.rho).collect()
    }
}

/// Runs scikit-learn and onnxruntime on all cases, adds their times to the lines, and returns their versions.
pub(crate) fn python(
    python: &Path,
    script: &Path,
    cases: &[Case],
    decisions: &[Vec<f64>],
    repetitions: usize,
    lines: &mut [Line],
) -> Result<Vec<(String, String)>, Failure> {
    let folder = std::env::temp_dir().join(format!("fleetscore-kernel-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let found = in_folder(&folder, python, script, cases, decisions, repetitions, lines);
    std::fs::remove_dir_all(&folder)?;
    found
}

fn in_folder(
    folder: &Path,
    python: &Path,
    script: &Path,
    cases: &[Case],
    decisions: &[Vec<f64>],
    repetitions: usize,
    lines: &mut [Line],
) -> Result<Vec<(String, String)>, Failure> {
    for case in cases {
        write(folder, case)?;
    }
    let status = Command::new(python).arg(script).arg(folder).arg(repetitions.to_string()).status()?;
    if !status.success() {
        return Err(format!("{} ended with {status}", script.display()).into());
    }
    let times: Value = serde_json::from_slice(&std::fs::read(folder.join("times.peers"))?)?;
    for ((case, ours), line) in cases.iter().zip(decisions).zip(lines) {
        // onnxruntime computes in f32.
        for (key, label, allowed) in [("onnx", "onnxruntime", 1e-4), ("sklearn", "scikit-learn", 1e-12)] {
            let difference = case.difference(ours, &read(&folder.join(format!("{}.{key}", case.name)))?)?;
            if difference > allowed {
                return Err(format!("{}: {label} differs by {difference:e}", case.name).into());
            }
            let seconds: Vec<f64> = serde_json::from_value(times["cases"][&case.name][key].clone())?;
            line.add(label, &seconds);
        }
    }
    let versions: std::collections::BTreeMap<String, String> =
        serde_json::from_value(times["versions"].clone())?;
    Ok(versions.into_iter().collect())
}

fn write(folder: &Path, case: &Case) -> Result<(), Failure> {
    let Kernel::Rbf { gamma } = case.model.kernel else {
        return Err("only radial kernels are compared".into());
    };
    let bytes = |numbers: &[f64]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let rows: Vec<f64> =
        (0..case.rows()).flat_map(|i| case.columns.iter().map(move |column| column[i])).collect();
    let about = json!({ "features": case.model.features, "gamma": gamma, "rho": case.model.rho });
    let file = |what: &str| folder.join(format!("{}.{what}", case.name));
    std::fs::write(file("vectors"), bytes(&case.model.support_vectors))?;
    std::fs::write(file("coefs"), bytes(&case.model.dual_coef))?;
    std::fs::write(file("rows"), bytes(&rows))?;
    std::fs::write(file("json"), serde_json::to_vec(&about)?)?;
    Ok(())
}

fn read(file: &Path) -> Result<Vec<f64>, Failure> {
    let bytes = std::fs::read(file)?;
    let (numbers, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(format!("{} is cut off", file.display()).into());
    }
    Ok(numbers.iter().map(|n| f64::from_le_bytes(*n)).collect())
}
