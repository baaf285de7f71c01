//! The solver of linfa-svm, contained: its steps are limited and its panics caught.

use crate::stepped::{OutOfSteps, Stepped, limited};
use crate::{FitError, FitOptions};
use linfa::dataset::{DatasetBase, Pr};
use linfa::traits::Fit;
use linfa_svm::Svm;
use ndarray::{Array1, Array2};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the solver found.
pub(crate) struct Solution {
    /// One number for each row; most are 0.
    pub(crate) alpha: Vec<f64>,
    pub(crate) rho: f64,
    pub(crate) steps: u64,
}

/// Solves for rows of scaled values.
pub(crate) fn solve(
    values: Vec<f64>,
    features: usize,
    gamma: f64,
    options: &FitOptions,
) -> Result<Solution, FitError> {
    let count = values.len() / features;
    let values: Vec<Stepped> = values.into_iter().map(Stepped).collect();
    let records =
        Array2::from_shape_vec((count, features), values).map_err(|e| FitError::Solver(e.to_string()))?;
    let data = DatasetBase::new(records, Array1::<()>::from_elem(count, ()));
    let (svm, steps) = contained(options.max_iterations, || {
        Svm::<Stepped, Pr>::params()
            .nu_weight(Stepped(options.nu))
            .gaussian_kernel(Stepped(1.0 / gamma))
            .eps(Stepped(options.tolerance))
            .fit(&data)
    })?;
    let svm: Svm<Stepped, bool> = svm.map_err(|e| FitError::Solver(e.to_string()))?;
    Ok(Solution { alpha: svm.alpha.iter().map(|a| a.0).collect(), rho: svm.rho.0, steps })
}

/// Runs a fit with at most so many steps; a panic is an error. Nothing of a fit outlives it, so that what a panic leaves
/// half done is never seen.
fn contained<T>(steps: u64, fit: impl FnOnce() -> T) -> Result<(T, u64), FitError> {
    catch_unwind(AssertUnwindSafe(|| limited(steps, fit))).map_err(|panic| {
        if panic.is::<OutOfSteps>() {
            return FitError::OutOfSteps { steps };
        }
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        FitError::Panicked(text.unwrap_or("without a message").to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{OPTIONS, bell};

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let index = 7;
        let e = contained(5, || [1, 2, 3][std::hint::black_box(index)]).unwrap_err();
        assert!(e.to_string().contains("index out of bounds"), "{e}");
        let e = contained(5, || std::panic::panic_any(5)).unwrap_err();
        assert!(matches!(e, FitError::Panicked(_)), "{e}");
        // The thread goes on as before.
        assert!(solve(bell(30), 1, 1.0, &OPTIONS).is_ok());
    }

    #[test]
    fn the_limit_is_met_to_the_step() {
        for (tolerance, nu) in [(1e-3, 0.05), (1e-7, 0.05), (1e-7, 0.3)] {
            let options = FitOptions { tolerance, nu, ..OPTIONS };
            let whole = solve(bell(300), 1, 0.5, &options).unwrap();
            assert!(whole.steps > 5, "{}", whole.steps);
            let just = FitOptions { max_iterations: whole.steps, ..options };
            let again = solve(bell(300), 1, 0.5, &just).unwrap();
            assert_eq!((again.steps, again.rho.to_bits()), (whole.steps, whole.rho.to_bits()));
            for less in [whole.steps - 1, whole.steps / 2, 0] {
                let e = solve(bell(300), 1, 0.5, &FitOptions { max_iterations: less, ..options });
                assert!(matches!(e, Err(FitError::OutOfSteps { steps }) if steps == less), "{less}");
            }
        }
    }

    #[test]
    fn counting_changes_nothing_and_counts_as_the_solver() {
        for (rows, nu, tolerance) in [(20, 0.5, 1e-3), (150, 0.01, 1e-7), (400, 0.1, 1e-5)] {
            let options = FitOptions { nu, tolerance, ..OPTIONS };
            let ours = solve(bell(rows), 1, 0.7, &options).unwrap();
            let records = Array2::from_shape_vec((rows, 1), bell(rows)).unwrap();
            let plain: Svm<f64, bool> = Svm::<f64, Pr>::params()
                .nu_weight(nu)
                .gaussian_kernel(1.0 / 0.7)
                .eps(tolerance)
                .fit(&DatasetBase::new(records, Array1::<()>::from_elem(rows, ())))
                .unwrap();
            assert_eq!(ours.alpha, plain.alpha);
            assert_eq!(ours.rho, plain.rho);
            let told = format!("Exited after {} iterations", ours.steps);
            assert!(plain.to_string().starts_with(&told), "{told}: {plain}");
        }
    }
}
