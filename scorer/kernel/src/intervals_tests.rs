//! What the intervals promise, for small models and for very large ones.

use proptest::prelude::*;

use super::intervals::intervals_within;
use super::tests::bell;
use super::*;

/// Bounds are normal, their outer neighbours are not, and a fine scan finds nothing else.
fn check_intervals(m: &Model, wanted: usize) -> Vec<(f64, f64)> {
    let found = normal_intervals(m).expect("they are known");
    assert_eq!(found.len(), wanted, "{found:?}");
    let normal = |x: f64| !is_anomaly(m.decision(&[x]));
    for (a, b) in &found {
        assert!(a <= b);
        if a.is_finite() {
            assert!(normal(*a) && !normal(a.next_down()), "lower bound {a}");
        }
        if b.is_finite() {
            assert!(normal(*b) && !normal(b.next_up()), "upper bound {b}");
        }
    }
    for i in -20_000..20_000 {
        let x = f64::from(i) * 0.01;
        let inside = found.iter().any(|(a, b)| (*a..=*b).contains(&x));
        assert_eq!(inside, normal(x), "{x}");
    }
    found
}

#[test]
fn normal_ranges_of_bells() {
    // Σ = exp(−γd²) ≥ ρ up to d = √(−ln ρ / γ).
    let one = check_intervals(&bell(&[3.0], &[1.0], 0.25, 0.5), 1);
    let d = (-(0.5f64.ln()) / 0.25).sqrt();
    assert!((one[0].0 - (3.0 - d)).abs() < 1e-12 && (one[0].1 - (3.0 + d)).abs() < 1e-12);
    // Two far apart: two ranges; near each other: one.
    check_intervals(&bell(&[-20.0, 20.0], &[1.0, 1.0], 0.5, 0.2), 2);
    check_intervals(&bell(&[-1.0, 1.0], &[1.0, 1.0], 0.5, 0.2), 1);
    // Everything is an anomaly: the peak only touches 0.
    check_intervals(&bell(&[2.0], &[0.5], 0.1, 0.5), 0);
    // ρ < 0: everything is normal.
    assert_eq!(check_intervals(&bell(&[0.0], &[1.0], 0.1, -0.5), 1), [(f64::NEG_INFINITY, f64::INFINITY)]);
}

#[test]
fn normal_ranges_of_other_kernels_and_of_scaled_models() {
    let linear = Model { kernel: Kernel::Linear, ..bell(&[2.0], &[1.0], 0.0, 3.0) };
    let found = check_intervals(&linear, 1);
    assert!((found[0].0 - 1.5).abs() < 1e-9 && found[0].1 == f64::INFINITY, "{found:?}");
    let square = Model {
        kernel: Kernel::Poly { gamma: 1.0, coef0: 0.0, degree: 2 },
        ..bell(&[1.0], &[1.0], 0.0, 4.0)
    };
    let found = check_intervals(&square, 2);
    assert!((found[0].1 + 2.0).abs() < 1e-9 && (found[1].0 - 2.0).abs() < 1e-9, "{found:?}");
    let scaled = Model { mean: vec![100.0], scale: vec![4.0], ..bell(&[0.0], &[1.0], 0.25, 0.5) };
    let d = 4.0 * (-(0.5f64.ln()) / 0.25).sqrt();
    let found = check_intervals(&scaled, 1);
    assert!((found[0].0 - (100.0 - d)).abs() < 1e-9 && (found[0].1 - (100.0 + d)).abs() < 1e-9);
    assert_eq!(normal_intervals(&Model { features: 2, ..bell(&[1.0, 2.0], &[1.0], 0.1, 0.5) }), None);
}

#[test]
fn a_gap_between_bells_is_not_normal_however_wide_the_model_is() {
    // Apart by two and a half widths, of a hundred thousand in all.
    let found = normal_intervals(&bell(&[0.0, 2.5, 1e5], &[1.0; 3], 1.0, 0.5)).expect("they are known");
    assert_eq!(found.len(), 3, "{found:?}");
    // So far out that doubles are further apart than the kernel is wide.
    let far = 1e20f64;
    assert_eq!(normal_intervals(&bell(&[far], &[1.0], 1.0, 0.5)), Some(vec![(far, far)]));
    let found = normal_intervals(&bell(&[far, -far, 0.0], &[1.0; 3], 1.0, -0.5)).expect("they are known");
    assert_eq!(found, [(f64::NEG_INFINITY, f64::INFINITY)]);
    let mirrored = Model { scale: vec![-2.0], mean: vec![1.0], ..bell(&[3.0], &[1.0], 0.25, 0.5) };
    check_intervals(&mirrored, 1);
}

/// So many that every sample times every vector would take hours.
const VERY_MANY: usize = 100_000;

/// What this model asks for is eight thousand bytes a vector: refused before anything is allocated. With all vectors of
/// a file it would be four gigabytes.
#[test]
fn bells_that_hardly_die_down_are_not_followed_for_ever() {
    let vectors: Vec<f64> = (0..VERY_MANY).map(|i| i as f64 * 100.0).collect();
    let m = bell(&vectors, &vec![1.0; VERY_MANY], 1.0, 1e-300);
    assert_eq!(normal_intervals(&m), None);
    // Of few vectors they are known.
    for n in [1, 10, 60, 63, 64, 100] {
        let m = bell(&vectors[..n], &vec![1.0; n], 1.0, 1e-300);
        assert_eq!(normal_intervals(&m).expect("they are known").len(), n);
        let m = bell(&vectors[..n], &vec![1.0; n], 1.0, 0.0);
        assert_eq!(normal_intervals(&m).map(|found| found.len()), Some(n));
    }
}

#[test]
fn very_many_vectors_far_apart_give_an_interval_each() {
    let vectors: Vec<f64> = (0..VERY_MANY).map(|i| (i * 7919 % VERY_MANY) as f64).collect();
    let m = bell(&vectors, &vec![1.0; VERY_MANY], 100.0, 0.5);
    let found = normal_intervals(&m).expect("they are known");
    assert_eq!(found.len(), VERY_MANY);
    let d = (2f64.ln() / 100.0).sqrt();
    for (i, (a, b)) in found.iter().enumerate() {
        assert!((a - (i as f64 - d)).abs() < 1e-8 && (b - (i as f64 + d)).abs() < 1e-8, "{i}: {a} {b}");
    }
    let normal = |x: f64| !is_anomaly(m.decision(&[x]));
    for (a, b) in found.iter().step_by(9973) {
        assert!(normal(*a) && normal(*b) && !normal(a.next_down()) && !normal(b.next_up()));
    }
}

#[test]
fn very_many_vectors_close_together_give_one_interval() {
    let vectors: Vec<f64> =
        (0..VERY_MANY).map(|i| (i * 7919 % VERY_MANY) as f64 / VERY_MANY as f64).collect();
    let coefs = vec![1.0 / VERY_MANY as f64; VERY_MANY];
    let m = bell(&vectors, &coefs, 1.0, 0.6);
    let found = normal_intervals(&m).expect("they are known");
    let [(a, b)] = found[..] else { panic!("{found:?}") };
    let normal = |x: f64| !is_anomaly(m.decision(&[x]));
    assert!(normal(a) && normal(b) && !normal(a.next_down()) && !normal(b.next_up()), "{a} {b}");
    // For the other kernels, too.
    for kernel in [
        Kernel::Linear,
        Kernel::Poly { gamma: 1.0, coef0: 0.0, degree: 2 },
        Kernel::Sigmoid { gamma: 1.0, coef0: 0.0 },
    ] {
        let m = Model { kernel, rho: 0.3, ..m.clone() };
        let found = normal_intervals(&m).expect("they are known");
        assert_eq!(found.len(), if matches!(kernel, Kernel::Poly { .. }) { 2 } else { 1 }, "{found:?}");
        let start = found[found.len() - 1].0;
        let normal = |x: f64| !is_anomaly(m.decision(&[x]));
        assert!(normal(start) && !normal(start.next_down()), "{start}");
    }
}

#[test]
fn what_takes_too_long_is_not_known() {
    // With ρ = 0 a bell has to be followed until it is exactly 0, and none meets another.
    let vectors: Vec<f64> = (0..VERY_MANY).map(|i| i as f64 * 100.0).collect();
    assert_eq!(normal_intervals(&bell(&vectors, &vec![1.0; VERY_MANY], 1.0, 0.0)), None);
    // However little may be looked at: not known, or right.
    let coefs: Vec<f64> = (0..100).map(|i| if i % 2 == 0 { 1.0 } else { -0.9 }).collect();
    let vectors: Vec<f64> = (0..100).map(|i| f64::from(i * 37 % 100)).collect();
    let m = bell(&vectors, &coefs, 1.0, 0.01);
    let all = check_intervals(&m, 50);
    let found: Vec<_> = (0..24).map(|limit| intervals_within(&m, 1 << limit)).collect();
    let known = found.iter().filter(|f| f.is_some()).count();
    assert!((1..24).contains(&known) && found.is_sorted_by_key(Option::is_some), "{known}");
    assert!(found.into_iter().flatten().all(|f| f == all));
}

fn kernels() -> impl Strategy<Value = Kernel> {
    let gamma = (-8.0..6.0f64).prop_map(f64::exp2);
    prop_oneof![
        4 => gamma.clone().prop_map(|gamma| Kernel::Rbf { gamma }),
        1 => Just(Kernel::Linear),
        1 => (0.1..2.0f64, -2.0..2.0f64, 0..4u32)
            .prop_map(|(gamma, coef0, degree)| Kernel::Poly { gamma, coef0, degree }),
        1 => (0.1..2.0f64, -2.0..2.0f64).prop_map(|(gamma, coef0)| Kernel::Sigmoid { gamma, coef0 }),
    ]
}

/// What the sum's terms can amount to at a scaled value.
fn size(m: &Model, x: f64) -> f64 {
    let largest = |v: f64| match m.kernel {
        Kernel::Rbf { .. } | Kernel::Sigmoid { .. } => 1.0,
        Kernel::Linear => (x * v).abs(),
        Kernel::Poly { gamma, coef0, degree } => (gamma * (x * v).abs() + coef0.abs()).powi(degree as i32),
    };
    m.support_vectors.iter().zip(&m.dual_coef).map(|(v, c)| c.abs() * largest(*v)).sum()
}

prop_compose! {
    fn models()(
        kernel in kernels(),
        vectors in prop::collection::vec((-1.0..1.0f64, -0.3..1.0f64), 1..300),
        spread in (-2.0..9.0f64).prop_map(f64::exp2),
        scale in prop_oneof![Just(vec![]), (0.2..5.0f64).prop_map(|s| vec![s]), Just(vec![-1.5])],
        mean in prop_oneof![Just(vec![]), (-50.0..50.0f64).prop_map(|m| vec![m])],
        rho in -0.5..2.0f64,
    ) -> Model {
        let (v, dual_coef): (Vec<f64>, Vec<f64>) = vectors.into_iter().unzip();
        let support_vectors = v.into_iter().map(|v| v * spread).collect();
        // As steep over the span, however long it is.
        let mut kernel = kernel;
        if let Kernel::Poly { gamma, .. } | Kernel::Sigmoid { gamma, .. } = &mut kernel {
            *gamma /= spread * spread;
        }
        Model { features: 1, mean, scale, kernel, support_vectors, dual_coef, rho }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn intervals_say_what_the_decision_function_says(m in models()) {
        let found = normal_intervals(&m).expect("they are known");
        let normal = |x: f64| !is_anomaly(m.decision(&[x]));
        prop_assert!(found.windows(2).all(|w| w[0].1 < w[1].0), "{:?}", found);
        for (a, b) in &found {
            prop_assert!(a <= b);
            prop_assert!(a.is_infinite() || normal(*a) && !normal(a.next_down()), "lower bound {}", a);
            prop_assert!(b.is_infinite() || normal(*b) && !normal(b.next_up()), "upper bound {}", b);
        }
        // A grid of another step than the search has, over three spans.
        let (mean, scale) = (m.mean.first().unwrap_or(&0.0), m.scale.first().unwrap_or(&1.0));
        let most = m.support_vectors.iter().fold(0.01f64, |most, v| most.max(v.abs()));
        for i in -5_000..=5_000 {
            let x = f64::from(i) * 3.003e-4 * most * scale + mean;
            let inside = found.iter().any(|(a, b)| (*a..=*b).contains(&x));
            // Between two samples the sign may be another where the sum is near 0.
            let decision = m.decision(&[x]);
            let missable = inside == normal(x) || decision.abs() <= 1e-3 * size(&m, (x - mean) / scale);
            prop_assert!(missable, "{}: {}", x, decision);
        }
    }
}
