//! Fitting one-class support vector machines: scaling as scikit-learn's `StandardScaler`, the solver of linfa-svm, the
//! result as the kernel's numbers.
//!
//! | module | does |
//! | --- | --- |
//! | `scaling` | mean and deviation of each feature, γ |
//! | `solver` | linfa-svm, with its steps limited and its panics caught |
//! | `stepped` | the float that counts the solver's steps |
//!
//! **Bounds of one fit.** Memory: the solver holds the dense kernel matrix, 8 bytes for each pair of rows, so 8 MB for
//! 1,000 rows and 200 MB for [`MAX_ROWS`]; all else is linear. Time: the matrix once, then at most
//! [`FitOptions::max_iterations`] steps, each linear in the rows.
//!
//! A crate of its own, because the solver is generic and so is compiled, and optimised, where it is called.

mod scaling;
mod solver;
mod stepped;

use fleetscore_kernel::{Invalid, Kernel, Model, is_anomaly};
use scaling::{gamma, standardise};

/// Most rows of one fit: the kernel matrix is dense, 8 bytes a pair.
pub const MAX_ROWS: usize = 5_000;

/// Steps after which a fit is given up where nothing else is said.
///
/// Fits of 50 to 2,000 rows take some hundred steps, with a tolerance of 1e-7 at times 80,000, rarely more (`benchmarks/training`). A
/// step costs about 10 ns a row, so that this many take some seconds for 1,000 rows and half a minute for
/// [`MAX_ROWS`].
pub const MAX_ITERATIONS: u64 = 200_000;

/// γ of the radial basis function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gamma {
    /// 1 / (features · variance of all inputs after scaling); 1 where they do not vary.
    Scale,
    /// 1 / features.
    Auto,
    /// This one.
    Value(f64),
}

impl std::str::FromStr for Gamma {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "scale" => Ok(Self::Scale),
            "auto" => Ok(Self::Auto),
            _ => match s.parse() {
                Ok(v) if v > 0.0 && f64::is_finite(v) => Ok(Self::Value(v)),
                _ => Err(format!("gamma is `{s}`: scale, auto or a positive number")),
            },
        }
    }
}

impl std::fmt::Display for Gamma {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scale => f.write_str("scale"),
            Self::Auto => f.write_str("auto"),
            Self::Value(v) => write!(f, "{v}"),
        }
    }
}

/// How to fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// ν: the share of the training rows that may be called anomalies, in (0, 1].
    pub nu: f64,
    /// γ.
    pub gamma: Gamma,
    /// Where the solver stops, as scikit-learn's `tol`.
    pub tolerance: f64,
    /// Scale inputs to mean 0 and deviation 1.
    pub standardise: bool,
    /// Most steps of the solver; a fit that needs more fails.
    pub max_iterations: u64,
}

impl Default for FitOptions {
    /// ν 0.01, γ `scale`, tolerance 0.001, scaled inputs, [`MAX_ITERATIONS`].
    fn default() -> Self {
        Self {
            nu: 0.01,
            gamma: Gamma::Scale,
            tolerance: 1e-3,
            standardise: true,
            max_iterations: MAX_ITERATIONS,
        }
    }
}

/// Why rows could not be fitted; the text completes "no model: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// Too few, too many, or not whole rows.
    #[error("{values} values are not between 2 and {MAX_ROWS} whole rows of {features} features")]
    Rows {
        /// Numbers that were given.
        values: usize,
        /// Numbers of one row.
        features: usize,
    },
    /// A value that is NaN or infinite.
    #[error("feature {feature} of row {row} is not finite")]
    NotFinite {
        /// Row, from 0.
        row: usize,
        /// Feature, from 0.
        feature: usize,
    },
    /// An option outside of its range.
    #[error("{0}")]
    Option(String),
    /// The solver did not converge.
    #[error(
        "the solver has not converged after {steps} steps: raise the tolerance or nu, give it fewer rows, or allow more \
         steps (--max-iterations)"
    )]
    OutOfSteps {
        /// The limit.
        steps: u64,
    },
    /// The solver panicked.
    #[error("the solver panicked: {0}")]
    Panicked(String),
    /// The solver refused.
    #[error("the solver refused the rows: {0}")]
    Solver(String),
    /// Numbers came out that cannot score.
    #[error("the fit gave no usable model: {0}")]
    Unusable(String),
}

impl From<Invalid> for FitError {
    fn from(e: Invalid) -> Self {
        Self::Unusable(e.to_string())
    }
}

/// A model, and what there is to say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// The model.
    pub model: Model,
    /// Why it may not be what one would wish for, and what to change.
    pub warning: Option<String>,
    /// ρ as the solver left it, before the border was set.
    pub solver_rho: f64,
    /// Steps that the solver took.
    pub steps: u64,
    /// Training rows that the model calls anomalies.
    pub outside: usize,
}

/// Fits a model with a radial basis function to rows of features, given row after row.
///
/// After the solver, ρ is set so that at most ⌊ν·n⌋ of the training rows are outside: ν bounds that share
/// (Schölkopf et al. 2001, proposition 3), but a solver that stops at a tolerance leaves the rows on the border, with
/// small ν often most of them, on either side of it by chance. Only a row so far from all support vectors that its sum
/// is 0 is outside whatever ν says, for else everything would be inside.
///
/// # Errors
/// [`FitError`]: what went wrong. A panic of the solver is caught, and its steps are limited.
pub fn fit(values: &[f64], features: usize, options: &FitOptions) -> Result<Fitted, FitError> {
    check(values, features, options)?;
    let mut scaled = values.to_vec();
    let (mean, scale) =
        if options.standardise { standardise(&mut scaled, features) } else { (vec![], vec![]) };
    let gamma = gamma(options.gamma, &scaled, features);
    let solution = solver::solve(scaled.clone(), features, gamma, options)?;
    // As linfa has it: what is less is 0 but for rounding.
    let used = |alpha: f64| alpha.abs() > 100.0 * f64::EPSILON;
    let vectors = solution.alpha.iter().zip(scaled.chunks_exact(features)).filter(|(a, _)| used(**a));
    let mut model = Model {
        features,
        mean,
        scale,
        kernel: Kernel::Rbf { gamma },
        support_vectors: vectors.flat_map(|(_, row)| row.iter().copied()).collect(),
        dual_coef: solution.alpha.iter().copied().filter(|a| used(*a)).collect(),
        rho: solution.rho,
    };
    model.validate()?;
    let sums = set_border(&mut model, values, options.nu);
    let outside = sums.iter().filter(|sum| is_anomaly(**sum - model.rho)).count();
    let warning = warning(&sums, outside, options);
    Ok(Fitted { model, warning, solver_rho: solution.rho, steps: solution.steps, outside })
}

fn check(values: &[f64], features: usize, options: &FitOptions) -> Result<(), FitError> {
    let rows = values.len() / features.max(1);
    if features == 0 || !(2..=MAX_ROWS).contains(&rows) || values.len() != rows * features {
        return Err(FitError::Rows { values: values.len(), features });
    }
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(FitError::NotFinite { row: at / features, feature: at % features });
    }
    if !(options.nu > 0.0 && options.nu <= 1.0) {
        return Err(FitError::Option(format!("nu is {}: it must be in (0, 1]", options.nu)));
    }
    if !(options.tolerance > 0.0 && options.tolerance.is_finite()) {
        return Err(FitError::Option(format!("tolerance is {}: it must be positive", options.tolerance)));
    }
    match options.gamma {
        Gamma::Value(v) if !(v > 0.0 && v.is_finite()) => {
            Err(FitError::Option(format!("gamma is {v}: it must be positive")))
        }
        _ => Ok(()),
    }
}

/// Sets ρ so that at most ⌊ν·n⌋ training rows are outside; the sums of all rows (decisions without ρ), ascending.
fn set_border(model: &mut Model, rows: &[f64], nu: f64) -> Vec<f64> {
    model.rho = 0.0;
    let mut sums: Vec<f64> = rows.chunks_exact(model.features).map(|x| model.decision(x)).collect();
    sums.sort_by(f64::total_cmp);
    let allowed = ((nu * sums.len() as f64).floor() as usize).min(sums.len() - 1);
    let border = sums[allowed];
    // Rows on the border itself must come out above 0 in spite of rounding.
    model.rho = border - border.abs() * 1e-9;
    sums
}

/// Whether the model is one to be doubted, and what would give a better one.
fn warning(sums: &[f64], outside: usize, options: &FitOptions) -> Option<String> {
    let rows = sums.len();
    let (lowest, highest) = (sums[0], sums[rows - 1]);
    let FitOptions { nu, tolerance, .. } = *options;
    if highest - lowest <= 1e-6 * highest.abs() {
        return Some(
            "the data hardly vary: whatever differs from them is an anomaly; more rows, or a wider \
            range, show what is normal"
                .into(),
        );
    }
    let lost = sums.partition_point(|sum| *sum <= 0.0);
    if lost as f64 > nu * rows as f64 {
        return Some(format!(
            "{lost} of its {rows} training rows are too far from the others to be told from anything else, and are \
             anomalies: lower --gamma, or raise --nu"
        ));
    }
    if 2 * outside > rows {
        return Some(format!(
            "{outside} of its {rows} training rows are anomalies to it, as nu = {nu} allows: lower --nu"
        ));
    }
    // The solver compares differences of these sums with the tolerance. Where all are near it, it stops at once, and
    // the first rows of the data are the model.
    if nu < 1.0 && tolerance > 0.01 * highest {
        return Some(format!(
            "nu × rows = {:.2e} is too near the tolerance {tolerance:e} for the solver to tell rows apart, its \
             first rows are the model: raise --nu, train on more rows, or lower --tolerance to {:.0e}",
            nu * rows as f64,
            1e-3 * highest
        ));
    }
    None
}

#[cfg(test)]
mod tests;
