use super::*;

/// No library, no shortcuts: the definition for one row.
fn by_definition(m: &Model, x: &[f64]) -> f64 {
    let scaled: Vec<f64> = (0..x.len())
        .map(|i| {
            let c = if m.mean.is_empty() { x[i] } else { x[i] - m.mean[i] };
            if m.scale.is_empty() { c } else { c / m.scale[i] }
        })
        .collect();
    let mut sum = 0.0;
    for (j, coef) in m.dual_coef.iter().enumerate() {
        let v = &m.support_vectors[j * x.len()..(j + 1) * x.len()];
        let inner: f64 = scaled.iter().zip(v).map(|(a, b)| a * b).sum();
        sum += coef
            * match m.kernel {
                Kernel::Rbf { gamma } => {
                    let d: f64 = scaled.iter().zip(v).map(|(a, b)| (a - b).powi(2)).sum();
                    (-gamma * d).exp()
                }
                Kernel::Linear => inner,
                Kernel::Poly { gamma, coef0, degree } => (gamma * inner + coef0).powi(degree as i32),
                Kernel::Sigmoid { gamma, coef0 } => (gamma * inner + coef0).tanh(),
            };
    }
    sum - m.rho
}

fn model(kernel: Kernel, features: usize) -> Model {
    let vectors = 5;
    Model {
        features,
        mean: (0..features).map(|i| 10.0 + i as f64).collect(),
        scale: (0..features).map(|i| 1.5 + 0.25 * i as f64).collect(),
        kernel,
        support_vectors: (0..vectors * features).map(|i| ((i * 37 % 11) as f64 - 5.0) / 3.0).collect(),
        dual_coef: (0..vectors).map(|i| 0.1 + 0.05 * i as f64).collect(),
        rho: 0.35,
    }
}

pub(crate) fn bell(support_vectors: &[f64], dual_coef: &[f64], gamma: f64, rho: f64) -> Model {
    Model {
        features: 1,
        mean: vec![],
        scale: vec![],
        kernel: Kernel::Rbf { gamma },
        support_vectors: support_vectors.to_vec(),
        dual_coef: dual_coef.to_vec(),
        rho,
    }
}

const KERNELS: [Kernel; 4] = [
    Kernel::Rbf { gamma: 0.3 },
    Kernel::Linear,
    Kernel::Poly { gamma: 0.5, coef0: 1.0, degree: 3 },
    Kernel::Sigmoid { gamma: 0.2, coef0: -0.1 },
];

#[test]
fn every_kernel_agrees_with_its_definition_and_with_the_batch() {
    for features in [1, 2, 9] {
        let models: Vec<Model> = KERNELS.iter().map(|k| model(*k, features)).collect();
        let table = ModelTable::new(&models);
        assert_eq!(table.len(), 4);
        let rows = 60;
        let columns: Vec<Vec<f64>> = (0..features)
            .map(|f| (0..rows).map(|i| 8.0 + ((i * 13 + f * 7) % 29) as f64 / 5.0).collect())
            .collect();
        let slices: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
        let of_row: Vec<u32> = (0..rows as u32).map(|i| if i % 5 == 4 { NO_MODEL } else { i % 5 }).collect();
        let mut out = vec![0.0; rows];
        table.decisions(&of_row, &slices, &mut out);
        for i in 0..rows {
            let x: Vec<f64> = columns.iter().map(|c| c[i]).collect();
            if of_row[i] == NO_MODEL {
                assert!(out[i].is_nan());
                continue;
            }
            let m = &models[of_row[i] as usize];
            assert_eq!(out[i].to_bits(), m.decision(&x).to_bits(), "{:?} row {i}", m.kernel);
            let wanted = by_definition(m, &x);
            assert!((out[i] - wanted).abs() <= 1e-13 * wanted.abs().max(1.0), "{:?} {wanted}", m.kernel);
        }
    }
}

#[test]
fn a_model_for_other_features_gives_no_number() {
    let table = ModelTable::new(&[model(Kernel::Linear, 2)]);
    let mut out = [1.0];
    table.decisions(&[0], &[&[3.0]], &mut out);
    assert!(out[0].is_nan());
}

#[test]
fn zero_and_nan_are_anomalies() {
    assert!(is_anomaly(0.0) && is_anomaly(-0.0) && is_anomaly(f64::NAN) && is_anomaly(-1e-300));
    assert!(!is_anomaly(5e-324));
    // One support vector with coefficient ρ: its own place is exactly 0.
    assert!(is_anomaly(bell(&[2.0], &[0.5], 0.1, 0.5).decision(&[2.0])));
}

#[test]
fn powers_are_those_of_repeated_multiplication() {
    for e in 0..20 {
        let kernel = Kernel::Poly { gamma: 1.0, coef0: 0.0, degree: e };
        let power = Model { kernel, ..bell(&[1.0], &[1.0], 0.0, 0.0) };
        assert_eq!(power.decision(&[2.0]), f64::from(1 << e));
        assert_eq!(power.decision(&[-3.0]), (-3i64).pow(e) as f64);
    }
}

#[test]
fn what_cannot_be_scored_is_named() {
    let good = || model(Kernel::Rbf { gamma: 0.5 }, 2);
    assert_eq!(good().validate(), Ok(()));
    let cases: Vec<(&str, Model)> = vec![
        ("features", Model { features: 0, ..good() }),
        ("features", Model { features: usize::MAX, ..good() }),
        ("mean", Model { mean: vec![1.0], ..good() }),
        ("mean[1]", Model { mean: vec![1.0, f64::NAN], ..good() }),
        ("scale", Model { scale: vec![1.0; 3], ..good() }),
        ("scale[0] is 0", Model { scale: vec![0.0, 1.0], ..good() }),
        ("no support vector", Model { dual_coef: vec![], support_vectors: vec![], ..good() }),
        ("support vectors", Model { support_vectors: vec![0.0; 9], ..good() }),
        (
            "support_vectors[3]",
            Model { support_vectors: [vec![0.0; 3], vec![f64::INFINITY; 7]].concat(), ..good() },
        ),
        ("dual_coef[0]", Model { dual_coef: vec![f64::NAN; 5], ..good() }),
        ("rho", Model { rho: f64::NAN, ..good() }),
        ("gamma", Model { kernel: Kernel::Rbf { gamma: 0.0 }, ..good() }),
        ("coef0", Model { kernel: Kernel::Sigmoid { gamma: 1.0, coef0: f64::NAN }, ..good() }),
    ];
    for (named, m) in cases {
        let e = m.validate().expect_err(named).to_string();
        assert!(e.contains(named), "{e} does not name {named}");
    }
}
