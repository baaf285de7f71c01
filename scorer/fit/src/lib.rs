//! Fitting one-class support vector machines: scaling as scikit-learn's `StandardScaler`, the solver of linfa-svm, the
//! result as the kernel's numbers.
//!
//! A crate of its own, because the solver is generic and so is compiled, and optimised, where it is called.

use fleetscore_kernel::{Kernel, Model};
use linfa::dataset::{DatasetBase, Pr};
use linfa::traits::Fit;
use linfa_svm::Svm;
use ndarray::{Array1, Array2};

/// Most rows of one fit: the kernel matrix is dense, 8 bytes a pair, and a fit's time cannot be bounded otherwise.
pub const MAX_ROWS: usize = 5_000;

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
}

/// A model, and what there is to say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// The model.
    pub model: Model,
    /// Why it may not be what one would wish for.
    pub warning: Option<String>,
}

/// Fits a model with a radial basis function to rows of features, given row after row.
///
/// After the solver, ρ is set so that at most ⌊ν·n⌋ of the training rows are outside: ν bounds that share
/// (Schölkopf et al. 2001, proposition 3), but a solver that stops at a tolerance leaves the rows on the border, with
/// small ν often most of them, on either side of it by chance.
///
/// # Errors
/// What went wrong; a panic of the solver is caught.
pub fn fit(values: &[f64], features: usize, options: &FitOptions) -> Result<Fitted, String> {
    let rows = values.len() / features.max(1);
    if features == 0 || !(2..=MAX_ROWS).contains(&rows) || values.len() != rows * features {
        return Err(format!("{rows} rows cannot be fitted: between 2 and {MAX_ROWS} are wanted"));
    }
    if values.iter().any(|v| !v.is_finite()) {
        return Err("a value is not finite".into());
    }
    if !(options.nu > 0.0 && options.nu <= 1.0 && options.tolerance > 0.0) {
        return Err(format!("nu is {} and the tolerance {}", options.nu, options.tolerance));
    }
    std::panic::catch_unwind(|| solve(values, features, options)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        Err(format!("the solver panicked: {text}"))
    })
}

fn solve(rows: &[f64], features: usize, options: &FitOptions) -> Result<Fitted, String> {
    let count = rows.len() / features;
    let mut values = rows.to_vec();
    let (mean, scale) =
        if options.standardise { standardise(&mut values, features) } else { (vec![], vec![]) };
    let gamma = gamma(options.gamma, &values, features);
    let records = Array2::from_shape_vec((count, features), values).map_err(|e| e.to_string())?;
    let svm: Svm<f64, bool> = Svm::<f64, Pr>::params()
        .nu_weight(options.nu)
        .gaussian_kernel(1.0 / gamma)
        .eps(options.tolerance)
        .fit(&DatasetBase::new(records.clone(), Array1::<()>::from_elem(count, ())))
        .map_err(|e| e.to_string())?;
    // The solver's alpha has one number for each row; most are 0.
    let used = |alpha: f64| alpha.abs() > 100.0 * f64::EPSILON;
    let vectors = svm.alpha.iter().zip(records.outer_iter()).filter(|(a, _)| used(**a));
    let mut model = Model {
        features,
        mean,
        scale,
        kernel: Kernel::Rbf { gamma },
        support_vectors: vectors.flat_map(|(_, row)| row.to_vec()).collect(),
        dual_coef: svm.alpha.iter().copied().filter(|a| used(*a)).collect(),
        rho: svm.rho,
    };
    model.validate().map_err(|e| format!("the fit gave no usable model: {e}"))?;
    let gave_up = svm.to_string().starts_with("Reached maximal");
    let varies = set_border(&mut model, rows, options.nu);
    let warning = match (varies, gave_up) {
        (false, _) => Some("the data hardly vary: whatever differs from them is an anomaly".to_owned()),
        (true, true) => Some("the solver gave up before it reached the tolerance".to_owned()),
        (true, false) => None,
    };
    Ok(Fitted { model, warning })
}

/// Sets ρ so that at most ⌊ν·n⌋ training rows are outside; false if all rows score nearly the same.
fn set_border(model: &mut Model, rows: &[f64], nu: f64) -> bool {
    model.rho = 0.0;
    let mut sums: Vec<f64> = rows.chunks_exact(model.features).map(|x| model.decision(x)).collect();
    sums.sort_by(f64::total_cmp);
    let allowed = ((nu * sums.len() as f64).floor() as usize).min(sums.len() - 1);
    let (border, lowest, highest) = (sums[allowed], sums[0], sums[sums.len() - 1]);
    // Rows on the border itself must come out above 0 in spite of rounding.
    model.rho = border - border.abs() * 1e-9;
    highest - lowest > 1e-6 * highest.abs()
}

/// Scales columns to mean 0 and (population) deviation 1; a column that does not vary keeps its scale.
fn standardise(values: &mut [f64], width: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (values.len() / width) as f64;
    let (mut means, mut scales) = (Vec::with_capacity(width), Vec::with_capacity(width));
    for f in 0..width {
        let column = || values.iter().skip(f).step_by(width);
        let (mean, variance) = moments(column(), rows);
        let scale = if variance == 0.0 { 1.0 } else { variance.sqrt() };
        for v in values.iter_mut().skip(f).step_by(width) {
            *v = (*v - mean) / scale;
        }
        means.push(mean);
        scales.push(scale);
    }
    (means, scales)
}

/// Mean and population variance; a variance that is rounding noise of the mean is 0, as scikit-learn has it
/// (`sklearn.utils.extmath`, `_is_constant_feature`).
fn moments<'a>(values: impl Iterator<Item = &'a f64> + Clone, count: f64) -> (f64, f64) {
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    let noise = count * f64::EPSILON * variance + (count * mean * f64::EPSILON).powi(2);
    (mean, if variance <= noise { 0.0 } else { variance })
}

fn gamma(gamma: Gamma, values: &[f64], features: usize) -> f64 {
    match gamma {
        Gamma::Value(v) => v,
        Gamma::Auto => 1.0 / features as f64,
        Gamma::Scale => match moments(values.iter(), values.len() as f64) {
            // What scaling leaves of a constant is noise around 0, of no width to speak of.
            (_, variance) if variance > 1e-25 => 1.0 / (features as f64 * variance),
            _ => 1.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_kernel::is_anomaly;

    const OPTIONS: FitOptions =
        FitOptions { nu: 0.05, gamma: Gamma::Scale, tolerance: 1e-3, standardise: true };

    /// A bell-shaped, seedless sample: sums of a low-discrepancy sequence.
    fn bell(n: usize) -> Vec<f64> {
        let part = |i: usize, a: f64| (i as f64 * a).fract() - 0.5;
        (0..n)
            .map(|i| {
                20.0 + 3.0
                    * (part(i, 0.754_877_666_246_693)
                        + part(i, 0.569_840_290_998_053_2)
                        + part(i, 0.618_033_988_749_895)
                        + part(i, 0.414_213_562_373_095))
            })
            .collect()
    }

    #[test]
    fn a_fit_keeps_nu_and_calls_far_values_anomalies() {
        for nu in [0.01, 0.05, 0.2] {
            let values = bell(400);
            let model = fit(&values, 1, &FitOptions { nu, ..OPTIONS }).unwrap().model;
            let outside = values.iter().filter(|v| is_anomaly(model.decision(&[**v]))).count() as f64;
            assert!(outside <= nu * 400.0 && outside >= nu * 400.0 - 2.0, "{outside} at {nu}");
            assert!(!is_anomaly(model.decision(&[20.0])), "{model:?}");
            for far in [0.0, 10.0, 30.0, 1e6, -1e6] {
                assert!(is_anomaly(model.decision(&[far])), "{far} at {nu}");
            }
            let total: f64 = model.dual_coef.iter().sum();
            assert!((total - nu * 400.0).abs() < 1e-6, "Σα = ν·n: {total}");
        }
    }

    #[test]
    fn our_numbers_are_the_solvers() {
        let values = bell(200);
        let o = FitOptions { standardise: false, gamma: Gamma::Value(0.5), ..OPTIONS };
        let model = fit(&values, 1, &o).unwrap().model;
        let records = Array2::from_shape_vec((200, 1), values.clone()).unwrap();
        let svm: Svm<f64, bool> = Svm::<f64, Pr>::params()
            .nu_weight(o.nu)
            .gaussian_kernel(2.0)
            .eps(o.tolerance)
            .fit(&DatasetBase::new(records.clone(), Array1::<()>::from_elem(200, ())))
            .unwrap();
        for row in records.outer_iter() {
            let (ours, theirs) = (model.decision(&[row[0]]) + model.rho, svm.weighted_sum(&row));
            assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
        }
        // The border was moved by no more than what the tolerance leaves open.
        assert!((model.rho - svm.rho).abs() < 10.0 * o.tolerance, "{} {}", model.rho, svm.rho);
    }

    #[test]
    fn data_that_do_not_vary_are_normal_and_warned_about() {
        for value in [7.25, 0.1, 1e9, 0.0] {
            let fitted = fit(&[value; 100], 1, &OPTIONS).unwrap();
            assert!(!is_anomaly(fitted.model.decision(&[value])), "{value}: {fitted:?}");
            assert!(is_anomaly(fitted.model.decision(&[value + 10.0])), "{value}");
            assert!(fitted.warning.as_ref().is_some_and(|w| w.contains("hardly vary")), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_fitted_is_an_error() {
        for values in [vec![], vec![1.0], vec![0.0; MAX_ROWS + 1], vec![1.0, f64::NAN]] {
            assert!(fit(&values, 1, &OPTIONS).is_err());
        }
        assert!(fit(&[1.0, 2.0, 3.0], 2, &OPTIONS).is_err());
        assert!(fit(&bell(50), 0, &OPTIONS).is_err());
        assert!(fit(&bell(50), 1, &FitOptions { nu: f64::NAN, ..OPTIONS }).is_err());
    }

    #[test]
    fn scaling_is_that_of_a_standard_scaler() {
        let mut values = vec![1.0, 10.0, 2.0, 10.0, 3.0, 10.0, 6.0, 10.0];
        let (mean, scale) = standardise(&mut values, 2);
        assert_eq!(mean, [3.0, 10.0]);
        assert_eq!(scale, [3.5f64.sqrt(), 1.0]);
        assert!((values[0] + 2.0 / 3.5f64.sqrt()).abs() < 1e-15 && values[1] == 0.0);
        assert_eq!(gamma(Gamma::Auto, &values, 2), 0.5);
        assert!((gamma(Gamma::Scale, &[-1.0, 1.0, -1.0, 1.0], 1) - 1.0).abs() < 1e-15);
        assert_eq!(gamma(Gamma::Scale, &[0.0; 4], 2), 1.0);
    }

    #[test]
    fn gamma_is_read_from_text() {
        assert_eq!("scale".parse(), Ok(Gamma::Scale));
        assert_eq!("auto".parse(), Ok(Gamma::Auto));
        assert_eq!("0.25".parse(), Ok(Gamma::Value(0.25)));
        for bad in ["", "0", "-1", "nan", "inf", "x"] {
            assert!(bad.parse::<Gamma>().is_err(), "{bad}");
        }
    }
}
