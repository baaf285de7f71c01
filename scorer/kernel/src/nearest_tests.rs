//! What the nearest normal value promises.

use proptest::prelude::*;

use super::*;

fn bell(features: usize, support_vectors: Vec<f64>, kernel: Kernel, rho: f64) -> Model {
    let dual_coef = vec![1.0; support_vectors.len() / features];
    Model { features, mean: vec![], scale: vec![], kernel, support_vectors, dual_coef, rho }
}

fn nearest_normal(m: &Model, row: &[f64]) -> Vec<Option<f64>> {
    super::nearest_normal(m, row).expect("the model is small")
}

#[test]
fn very_large_models_are_not_looked_along() {
    let row = |features| vec![9.0; features];
    let of = |features: usize, n: usize| {
        let vectors = (0..features * n).map(|i| (i % 7) as f64 * 0.1).collect();
        bell(features, vectors, Kernel::Rbf { gamma: 0.1 }, 0.5)
    };
    // 96 looks along each of 4,096 features, each over eight million numbers: hours.
    assert_eq!(super::nearest_normal(&of(4096, 2000), &row(4096)), None);
    assert_eq!(super::nearest_normal(&of(5, 14_000), &row(5)), None);
    assert!(super::nearest_normal(&of(5, 13_900), &row(5)).is_some_and(|f| f.len() == 5));
}

#[test]
fn one_bell_is_left_where_its_border_is() {
    // exp(−γd²) = ρ at d = √(−ln ρ / γ).
    let m = bell(1, vec![3.0], Kernel::Rbf { gamma: 0.25 }, 0.5);
    let d = (-(0.5f64.ln()) / 0.25).sqrt();
    for (x, wanted) in [(9.0, 3.0 + d), (100.0, 3.0 + d), (-5.0, 3.0 - d), (-1e300, 3.0 - d)] {
        let found = nearest_normal(&m, &[x]);
        assert!((found[0].expect("there is one") - wanted).abs() < 1e-3, "{x}: {found:?} is not {wanted}");
    }
    assert_eq!(nearest_normal(&m, &[3.0]), [None], "a normal row needs no advice");
    assert_eq!(nearest_normal(&m, &[f64::NAN]), [None]);
    let nothing = bell(1, vec![3.0], Kernel::Rbf { gamma: 0.25 }, 1.5);
    assert_eq!(nearest_normal(&nothing, &[9.0]), [None]);
}

#[test]
fn between_two_bells_the_nearer_one_is_named() {
    let m = bell(1, vec![-6.0, 6.0], Kernel::Rbf { gamma: 0.5 }, 0.3);
    let (left, right) = (nearest_normal(&m, &[-1.0])[0], nearest_normal(&m, &[1.0])[0]);
    assert!(left.is_some_and(|x| (-6.0..-3.0).contains(&x)), "{left:?}");
    assert!(right.is_some_and(|x| (x + left.unwrap_or(f64::NAN)).abs() < 1e-9), "{right:?}");
}

#[test]
fn each_feature_is_moved_alone() {
    let m = bell(2, vec![0.0, 0.0], Kernel::Rbf { gamma: 1.0 }, 0.5);
    let radius = 2f64.ln().sqrt();
    let found = nearest_normal(&m, &[0.5, 3.0]);
    assert_eq!(found[0], None, "no value of the first helps");
    let wanted = (radius * radius - 0.25).sqrt();
    assert!(found[1].is_some_and(|x| (x - wanted).abs() < 1e-3), "{found:?} {wanted}");
    let line = bell(2, vec![1.0, 2.0], Kernel::Linear, 6.0);
    let found = nearest_normal(&line, &[1.0, 1.0]);
    assert!(found[0].is_some_and(|x| x > 4.0 && x < 4.01), "{found:?}");
    assert!(found[1].is_some_and(|x| x > 2.5 && x < 2.51), "{found:?}");
}

proptest! {
    #[test]
    fn what_is_named_is_normal(
        (features, numbers) in (1..4usize).prop_flat_map(|f| (Just(f), prop::collection::vec(-3.0..3.0f64, f * 3))),
        rho in 0.1..1.5f64,
        x in prop::collection::vec(-8.0..8.0f64, 3),
        which in 0..4usize,
    ) {
        let kernel = [
            Kernel::Rbf { gamma: 0.4 },
            Kernel::Linear,
            Kernel::Poly { gamma: 0.5, coef0: 0.1, degree: 3 },
            Kernel::Sigmoid { gamma: 0.2, coef0: 0.1 },
        ][which];
        let m = bell(features, numbers, kernel, rho);
        let row = &x[..features];
        let found = nearest_normal(&m, row);
        prop_assert_eq!(&found, &nearest_normal(&m, row));
        for (k, value) in found.iter().enumerate() {
            prop_assert!(value.is_none() || is_anomaly(m.decision(row)));
            if let Some(value) = value {
                let mut moved = row.to_vec();
                moved[k] = *value;
                prop_assert!(!is_anomaly(m.decision(&moved)));
            }
        }
    }
}
