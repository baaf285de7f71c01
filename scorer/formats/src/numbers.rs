//! From the plain numbers of JSON and Parquet to a model.

use crate::{Found, Refused, Why};
use fleetscore_kernel::{Kernel, Model};

/// Rows of numbers, one after the other; or a flat list, whose rows are as long as the model has features.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Matrix {
    pub data: Vec<f64>,
    pub rows: usize,
    /// Length of each row; `None` for a flat list.
    pub width: Option<usize>,
}

/// The fields of one entry, as they are called in the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers {
    pub device: Option<String>,
    pub sensor: Option<String>,
    pub name: Option<String>,
    pub features: Option<Vec<String>>,
    pub kernel: Option<String>,
    pub gamma: Option<f64>,
    pub coef0: Option<f64>,
    pub degree: Option<f64>,
    pub mean: Option<Vec<f64>>,
    pub scale: Option<Vec<f64>>,
    pub support_vectors: Option<Matrix>,
    pub dual_coef: Option<Vec<f64>>,
    pub rho: Option<f64>,
    pub intercept: Option<f64>,
    pub rows: Option<u64>,
    pub check_x: Option<Matrix>,
    pub check_decision: Option<Vec<f64>>,
    pub single_precision: bool,
}

impl Numbers {
    /// The model of these fields.
    pub(crate) fn found(mut self, entry: u64) -> Result<Found, Refused> {
        let (device, sensor, name) = (self.device.take(), self.sensor.take(), self.name.take());
        match self.parts(&device, &sensor) {
            Ok((model, checks)) => Ok(Found {
                device,
                sensor,
                name,
                checks,
                features: self.features,
                rows: self.rows,
                single_precision: self.single_precision,
                entry: Some(entry),
                model,
            }),
            Err(why) => Err(Refused { entry: Some(entry), device, sensor, name, why }),
        }
    }

    fn parts(
        &mut self,
        device: &Option<String>,
        sensor: &Option<String>,
    ) -> Result<(Model, Vec<(Vec<f64>, f64)>), Why> {
        match (device, sensor) {
            (Some(_), None) => return Err(Why::field("sensor", "is missing, and `device` is given")),
            (None, Some(_)) => return Err(Why::field("device", "is missing, and `sensor` is given")),
            _ => {}
        }
        let model = self.model()?;
        if let Some(names) = &self.features
            && names.len() != model.features
        {
            let what = format!("names {}, and the model takes {}", names.len(), model.features);
            return Err(Why::field("features", what));
        }
        Ok((self.checks(&model)?, model)).map(|(checks, model)| (model, checks))
    }

    fn model(&mut self) -> Result<Model, Why> {
        let missing = |field: &'static str| move || Why::field(field, "is missing");
        let dual_coef = self.dual_coef.take().ok_or_else(missing("dual_coef"))?;
        let vectors = self.support_vectors.take().ok_or_else(missing("support_vectors"))?;
        let count = dual_coef.len();
        if count == 0 {
            return Err(Why::field("dual_coef", "is empty: there is no support vector"));
        }
        let features = match vectors.width {
            Some(width) if vectors.rows == count => width,
            Some(_) => {
                let what = format!("has {} rows, and there are {count} of `dual_coef`", vectors.rows);
                return Err(Why::field("support_vectors", what));
            }
            None if vectors.data.len().is_multiple_of(count) => vectors.data.len() / count,
            None => {
                let what = format!(
                    "has {} numbers, which are not rows for {count} of `dual_coef`",
                    vectors.data.len()
                );
                return Err(Why::field("support_vectors", what));
            }
        };
        let model = Model {
            features,
            mean: self.mean.take().unwrap_or_default(),
            scale: self.scale.take().unwrap_or_default(),
            kernel: self.kernel()?,
            support_vectors: vectors.data,
            dual_coef,
            rho: match (self.rho, self.intercept) {
                (Some(rho), None) => rho,
                (None, Some(intercept)) => -intercept,
                (None, None) => return Err(Why::field("rho", "is missing, and so is `intercept`")),
                (Some(_), Some(_)) => {
                    return Err(Why::field("rho", "is given beside `intercept`: one of them is wanted"));
                }
            },
        };
        model.validate().map_err(|e| Why::Model(e.to_string()))?;
        Ok(model)
    }

    fn kernel(&self) -> Result<Kernel, Why> {
        let gamma = || {
            self.gamma.ok_or_else(|| Why::field("gamma", "is missing: as fitted, `_gamma` in scikit-learn"))
        };
        let coef0 = self.coef0.unwrap_or(0.0);
        let name = self.kernel.as_deref().ok_or_else(|| Why::field("kernel", "is missing"))?;
        Ok(match name {
            "rbf" => Kernel::Rbf { gamma: gamma()? },
            "linear" => Kernel::Linear,
            "poly" => Kernel::Poly { gamma: gamma()?, coef0, degree: degree(self.degree.unwrap_or(3.0))? },
            "sigmoid" => Kernel::Sigmoid { gamma: gamma()?, coef0 },
            other => {
                let shown: String =
                    other.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
                let what = format!("is '{shown}': rbf, linear, poly and sigmoid are known");
                return Err(Why::field("kernel", what));
            }
        })
    }

    fn checks(&mut self, model: &Model) -> Result<Vec<(Vec<f64>, f64)>, Why> {
        let decisions = self.check_decision.take().unwrap_or_default();
        let x = self.check_x.take().unwrap_or_default();
        let n = model.features;
        if x.width.is_some_and(|width| width != n && x.rows > 0) || x.data.len() != decisions.len() * n {
            let what = format!(
                "has {} numbers in {}, and {} decisions of {n} features are recorded",
                x.data.len(),
                if x.width.is_some() { format!("{} rows", x.rows) } else { "a list".into() },
                decisions.len()
            );
            return Err(Why::field("check", what));
        }
        Ok(x.data.chunks_exact(n).map(<[f64]>::to_vec).zip(decisions).collect())
    }
}

/// A degree that came as any kind of number.
pub(crate) fn degree(degree: f64) -> Result<u32, Why> {
    if degree.fract() == 0.0 && (0.0..=1000.0).contains(&degree) {
        return Ok(degree as u32);
    }
    Err(Why::field("degree", format!("is {degree}, not a whole number up to 1000")))
}
