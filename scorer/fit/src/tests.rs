//! Fits as a whole.

use super::*;
use fleetscore_kernel::is_anomaly;
use linfa::dataset::{DatasetBase, Pr};
use linfa::traits::Fit;
use linfa_svm::Svm;
use ndarray::{Array1, Array2};
use proptest::prelude::*;

pub(crate) const OPTIONS: FitOptions = FitOptions {
    nu: 0.05,
    gamma: Gamma::Scale,
    tolerance: 1e-3,
    standardise: true,
    max_iterations: MAX_ITERATIONS,
};

/// A bell-shaped, seedless sample: sums of a low-discrepancy sequence.
pub(crate) fn bell(n: usize) -> Vec<f64> {
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
        let fitted = fit(&values, 1, &FitOptions { nu, ..OPTIONS }).unwrap();
        let model = fitted.model;
        let outside = values.iter().filter(|v| is_anomaly(model.decision(&[**v]))).count();
        assert_eq!(fitted.outside, outside);
        let outside = outside as f64;
        assert!(outside <= nu * 400.0 && outside >= nu * 400.0 - 2.0, "{outside} at {nu}");
        assert_eq!(fitted.warning, None);
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
    let fitted = fit(&values, 1, &o).unwrap();
    let model = fitted.model;
    let records = Array2::from_shape_vec((200, 1), values.clone()).unwrap();
    let svm: Svm<f64, bool> = Svm::<f64, Pr>::params()
        .nu_weight(o.nu)
        .gaussian_kernel(2.0)
        .eps(o.tolerance)
        .fit(&DatasetBase::new(records.clone(), Array1::<()>::from_elem(200, ())))
        .unwrap();
    assert_eq!(fitted.solver_rho, svm.rho);
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
fn a_fit_that_the_tolerance_decides_is_warned_about_and_the_advice_helps() {
    let values = bell(200);
    let small = FitOptions { nu: 1e-6, ..OPTIONS };
    let warned = fit(&values, 1, &small).unwrap();
    let text = warned.warning.unwrap();
    assert_eq!(warned.steps, 0, "the solver stopped at once");
    assert!(text.contains("--nu") && text.contains("--tolerance to"), "{text}");
    // As the text says.
    let tolerance = text.rsplit(' ').next().unwrap().parse().unwrap();
    let better = fit(&values, 1, &FitOptions { tolerance, ..small }).unwrap();
    assert_eq!(better.warning, None);
    assert!(better.steps > 0);
    // Even so, the rows it was fitted to are normal.
    assert_eq!((warned.outside, better.outside), (0, 0));
}

#[test]
fn a_model_that_calls_most_rows_anomalies_is_warned_about() {
    let fitted = fit(&bell(100), 1, &FitOptions { nu: 0.8, ..OPTIONS }).unwrap();
    assert!(fitted.outside > 50);
    assert!(fitted.warning.unwrap().contains("lower --nu"));
    assert_eq!(fit(&bell(100), 1, &FitOptions { nu: 0.4, ..OPTIONS }).unwrap().warning, None);
}

#[test]
fn rows_out_of_reach_of_all_others_are_anomalies_and_warned_about() {
    let mut values = bell(50);
    values.push(1e6);
    let options = FitOptions { standardise: false, gamma: Gamma::Value(1.0), nu: 0.01, ..OPTIONS };
    // The solver takes its first row for the only support vector where the far one comes last.
    let fitted = fit(&values, 1, &FitOptions { tolerance: 0.9, ..options }).unwrap();
    assert!(is_anomaly(fitted.model.decision(&[1e6])));
    assert!(fitted.outside > 0 && fitted.warning.unwrap().contains("lower --gamma"));
}

#[test]
fn what_cannot_be_fitted_is_an_error() {
    for values in [vec![], vec![1.0], vec![0.0; MAX_ROWS + 1]] {
        assert!(matches!(fit(&values, 1, &OPTIONS), Err(FitError::Rows { .. })));
    }
    assert_eq!(fit(&[1.0, 2.0, 3.0, f64::NAN], 2, &OPTIONS), Err(FitError::NotFinite { row: 1, feature: 1 }));
    assert!(fit(&[1.0, 2.0, 3.0], 2, &OPTIONS).is_err());
    assert!(fit(&bell(50), 0, &OPTIONS).is_err());
    for bad in [
        FitOptions { nu: f64::NAN, ..OPTIONS },
        FitOptions { nu: 1.5, ..OPTIONS },
        FitOptions { tolerance: 0.0, ..OPTIONS },
        FitOptions { tolerance: f64::INFINITY, ..OPTIONS },
        FitOptions { gamma: Gamma::Value(-1.0), ..OPTIONS },
    ] {
        assert!(matches!(fit(&bell(50), 1, &bad), Err(FitError::Option(_))), "{bad:?}");
    }
}

#[test]
fn a_fit_that_needs_too_many_steps_fails_with_a_reason() {
    let options = FitOptions { tolerance: 1e-9, max_iterations: 20, ..OPTIONS };
    let e = fit(&bell(300), 1, &options).unwrap_err();
    assert_eq!(e, FitError::OutOfSteps { steps: 20 });
    assert!(e.to_string().contains("20 steps") && e.to_string().contains("tolerance"), "{e}");
    // A tolerance below what f64 resolves is never reached: the limit is what ends it.
    let never = FitOptions { tolerance: f64::MIN_POSITIVE, max_iterations: 3_000, ..OPTIONS };
    assert_eq!(fit(&bell(300), 1, &never), Err(FitError::OutOfSteps { steps: 3_000 }));
}

#[test]
fn gamma_is_read_from_text_and_written() {
    assert_eq!("scale".parse(), Ok(Gamma::Scale));
    assert_eq!("auto".parse(), Ok(Gamma::Auto));
    assert_eq!("0.25".parse(), Ok(Gamma::Value(0.25)));
    for bad in ["", "0", "-1", "nan", "inf", "x"] {
        assert!(bad.parse::<Gamma>().is_err(), "{bad}");
    }
    for gamma in [Gamma::Scale, Gamma::Auto, Gamma::Value(0.1 + 0.2)] {
        assert_eq!(gamma.to_string().parse(), Ok(gamma));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever finite numbers come: a usable model that keeps ν, or an error; never a panic, never for long.
    #[test]
    fn every_fit_ends(
        rows in prop::collection::vec(prop::array::uniform2(any::<f64>().prop_filter("finite", |v| v.is_finite())), 2..40),
        plain in prop::collection::vec(prop::array::uniform2(-100i32..100), 2..60),
        wild: bool,
        nu in 1e-6..=1.0f64,
        tolerance in prop::sample::select(vec![1e-12, 1e-7, 1e-3, 0.5]),
        gamma in prop::sample::select(vec![Gamma::Scale, Gamma::Auto, Gamma::Value(1e-300), Gamma::Value(1e300)]),
        standardise: bool,
    ) {
        let values: Vec<f64> = if wild {
            rows.into_iter().flatten().collect()
        } else {
            plain.into_iter().flatten().map(f64::from).collect()
        };
        let options = FitOptions { nu, gamma, tolerance, standardise, max_iterations: 2_000 };
        match fit(&values, 2, &options) {
            Ok(fitted) => {
                prop_assert!(fitted.model.validate().is_ok());
                prop_assert!(fitted.steps <= 2_000);
                let lost = fitted.warning.is_some_and(|w| w.contains("lower --gamma"));
                prop_assert!(lost || fitted.outside as f64 <= nu * (values.len() / 2) as f64);
            }
            Err(FitError::OutOfSteps { .. } | FitError::Unusable(_)) => {}
            Err(e) => prop_assert!(false, "{}", e),
        }
    }
}
