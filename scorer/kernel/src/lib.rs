//! The decision function of one-class support vector machines, over rows of features.
//!
//! The arithmetic is libsvm's, step by step in f64 (Chang and Lin, "LIBSVM: a library for support vector machines",
//! 2011, equation 8), and written once, over eight lanes (`lanes.rs`): of rows of one model or of several, and of support
//! vectors where a model has many of them and few rows (`sums.rs`). It is compiled for several sets of instructions
//! ([`Path`]) that all give the same bits, however rows come together, so that scoring again on another machine changes
//! no row. Rows whose decision is exactly 0 exist and are anomalies, so nothing here may be fused or computed in f32.

mod batch;
mod columns;
mod exp;
mod intervals;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_x86;
mod nearest;
mod path;
mod sums;
mod table;

pub use columns::{Columns, ModelColumns, NO_MODEL, kind};
pub use intervals::normal_intervals;
pub use nearest::nearest_normal;
pub use path::{PATH_VARIABLE, Path};
pub use table::ModelTable;

use sums::One;

/// Most features a model may have.
pub const MAX_FEATURES: usize = 4096;

/// A kernel function k(x, v) of scikit-learn's `OneClassSVM`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kernel {
    /// exp(−γ·‖x − v‖²)
    Rbf {
        /// γ
        gamma: f64,
    },
    /// x·v
    Linear,
    /// (γ·x·v + c)^degree
    Poly {
        /// γ
        gamma: f64,
        /// c
        coef0: f64,
        /// The exponent.
        degree: u32,
    },
    /// tanh(γ·x·v + c)
    Sigmoid {
        /// γ
        gamma: f64,
        /// c
        coef0: f64,
    },
}

/// A one-class support vector machine, with the scaling of its inputs.
///
/// decision(x) = Σᵢ coefᵢ · k((x − mean) / scale, svᵢ) − ρ; normal only if it is > 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Number of features, at least 1.
    pub features: usize,
    /// Subtracted from each feature; empty = nothing.
    pub mean: Vec<f64>,
    /// Divides each feature after that; empty = nothing.
    pub scale: Vec<f64>,
    /// The kernel.
    pub kernel: Kernel,
    /// Support vectors, row after row: `dual_coef.len() × features`.
    pub support_vectors: Vec<f64>,
    /// One coefficient for each support vector.
    pub dual_coef: Vec<f64>,
    /// ρ = −intercept.
    pub rho: f64,
}

/// Whether a decision calls the row an anomaly: normal only if it is > 0, so 0 and NaN are anomalies.
#[inline]
pub fn is_anomaly(decision: f64) -> bool {
    !(decision > 0.0)
}

/// Why a model cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(String);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

impl Model {
    /// Checks everything the decision function relies on.
    ///
    /// # Errors
    /// [`Invalid`] names the field: no features, lengths that do not fit together, a number that is not finite, a scale
    /// of 0, a γ that is not positive.
    pub fn validate(&self) -> Result<(), Invalid> {
        let bad = |what: String| Err(Invalid(what));
        let n = self.features;
        if n == 0 || n > MAX_FEATURES {
            return bad(format!("features is {n}: between 1 and {MAX_FEATURES} are supported"));
        }
        for (name, column) in [("mean", &self.mean), ("scale", &self.scale)] {
            if !column.is_empty() && column.len() != n {
                return bad(format!("{name} has {} values for {n} features", column.len()));
            }
        }
        if self.dual_coef.is_empty() {
            return bad("there is no support vector".into());
        }
        let wanted = self.dual_coef.len().checked_mul(n);
        if wanted != Some(self.support_vectors.len()) {
            let (sv, coef) = (self.support_vectors.len(), self.dual_coef.len());
            return bad(format!(
                "{sv} numbers of support vectors are not {coef} coefficients × {n} features"
            ));
        }
        let columns = [
            ("mean", &self.mean),
            ("scale", &self.scale),
            ("support_vectors", &self.support_vectors),
            ("dual_coef", &self.dual_coef),
        ];
        for (name, column) in columns {
            if let Some(at) = column.iter().position(|v| !v.is_finite()) {
                return bad(format!("{name}[{at}] is {}", column[at]));
            }
        }
        if let Some(at) = self.scale.iter().position(|v| *v == 0.0) {
            return bad(format!("scale[{at}] is 0"));
        }
        if !self.rho.is_finite() {
            return bad(format!("rho is {}", self.rho));
        }
        self.kernel.validate()
    }

    /// The decision for one row of features: > 0 is normal, see [`is_anomaly`].
    ///
    /// # Panics
    /// If `x` has another length than `features`.
    pub fn decision(&self, x: &[f64]) -> f64 {
        assert_eq!(x.len(), self.features, "a row has one value for each feature");
        let mut small = [&x[..0]; 16];
        let mut large = Vec::new();
        let inputs: &mut [&[f64]] = if x.len() <= small.len() {
            &mut small[..x.len()]
        } else {
            large.resize(x.len(), &x[..0]);
            &mut large
        };
        for (to, x) in inputs.iter_mut().zip(x) {
            *to = std::slice::from_ref(x);
        }
        batch::decision(Path::detected(), &self.one(), inputs)
    }

    /// The decisions for many rows, given as one column for each feature; bit for bit those of [`Model::decision`].
    ///
    /// # Panics
    /// If there are not as many columns as features, or `out` or a column has another length than the others.
    pub fn decisions(&self, inputs: &[&[f64]], out: &mut [f64]) {
        assert_eq!(inputs.len(), self.features, "one column for each feature");
        assert!(inputs.iter().all(|c| c.len() == out.len()), "columns are as long as there are rows");
        batch::decisions_of(Path::detected(), &self.one(), inputs, out);
    }

    fn one(&self) -> One<'_> {
        One {
            kernel: self.kernel,
            mean: &self.mean,
            scale: &self.scale,
            rho: self.rho,
            support_vectors: &self.support_vectors,
            dual_coef: &self.dual_coef,
        }
    }
}

impl Kernel {
    fn validate(self) -> Result<(), Invalid> {
        let positive = |gamma: f64| {
            if gamma.is_finite() && gamma > 0.0 {
                Ok(())
            } else {
                Err(Invalid(format!("gamma is {gamma}: it must be a positive number")))
            }
        };
        let finite = |coef0: f64| {
            if coef0.is_finite() { Ok(()) } else { Err(Invalid(format!("coef0 is {coef0}"))) }
        };
        match self {
            Self::Rbf { gamma } => positive(gamma),
            Self::Linear => Ok(()),
            Self::Poly { gamma, coef0, .. } | Self::Sigmoid { gamma, coef0 } => {
                positive(gamma)?;
                finite(coef0)
            }
        }
    }
}

#[cfg(test)]
mod exp_tests;
#[cfg(test)]
mod intervals_tests;
#[cfg(test)]
mod nearest_tests;
#[cfg(test)]
mod path_tests;
#[cfg(test)]
mod tests;
