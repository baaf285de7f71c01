//! Every path against the definition and against every other, whatever the model and the rows.

use proptest::prelude::*;

use super::*;

/// One row by the definition, in a double's range of rounding: the sum's terms, and the decision.
fn by_definition(m: &Model, x: &[f64]) -> (f64, f64) {
    let scaled: Vec<f64> = (0..x.len())
        .map(|i| {
            let centred = x[i] - m.mean.get(i).copied().unwrap_or(0.0);
            centred / m.scale.get(i).copied().unwrap_or(1.0)
        })
        .collect();
    let (mut size, mut sum) = (m.rho.abs(), 0.0);
    for (v, coef) in m.support_vectors.chunks_exact(x.len()).zip(&m.dual_coef) {
        let dot: f64 = scaled.iter().zip(v).map(|(a, b)| a * b).sum();
        let dot_size: f64 = scaled.iter().zip(v).map(|(a, b)| (a * b).abs()).sum();
        let (value, reach) = match m.kernel {
            Kernel::Rbf { gamma } => {
                let square: f64 = scaled.iter().zip(v).map(|(a, b)| (a - b) * (a - b)).sum();
                ((-gamma * square).exp(), 1.0)
            }
            Kernel::Linear => (dot, dot_size),
            Kernel::Poly { gamma, coef0, degree } => {
                let power = degree as i32;
                ((gamma * dot + coef0).powi(power), (gamma * dot_size + coef0.abs()).powi(power))
            }
            Kernel::Sigmoid { gamma, coef0 } => {
                ((gamma * dot + coef0).tanh(), 1.0 + gamma * dot_size + coef0.abs())
            }
        };
        sum += coef * value;
        size += (coef * reach).abs();
    }
    (size, sum - m.rho)
}

fn kernels() -> impl Strategy<Value = Kernel> {
    let gamma = (-12.0..3.0f64).prop_map(f64::exp2);
    prop_oneof![
        3 => gamma.clone().prop_map(|gamma| Kernel::Rbf { gamma }),
        1 => Just(Kernel::Linear),
        1 => (gamma.clone(), -2.0..2.0f64, 0..6u32)
            .prop_map(|(gamma, coef0, degree)| Kernel::Poly { gamma, coef0, degree }),
        1 => (gamma, -2.0..2.0f64).prop_map(|(gamma, coef0)| Kernel::Sigmoid { gamma, coef0 }),
    ]
}

fn vectors() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..8usize, 3 => 8..40usize, 2 => 40..300usize, 1 => 300..1500usize]
}

fn any_model(features: usize) -> impl Strategy<Value = Model> {
    (kernels(), vectors(), any::<[bool; 2]>()).prop_flat_map(move |(kernel, n, [centred, scaled])| {
        let mean = prop::collection::vec(-50.0..50.0f64, if centred { features } else { 0 });
        let scale = prop::collection::vec(0.2..5.0f64, if scaled { features } else { 0 });
        let vectors = prop::collection::vec(-3.0..3.0f64, n * features);
        let coefs = prop::collection::vec(-0.2..1.0f64, n);
        (mean, scale, vectors, coefs, -1.0..3.0f64).prop_map(
            move |(mean, scale, support_vectors, dual_coef, rho)| Model {
                features,
                mean,
                scale,
                kernel,
                support_vectors,
                dual_coef,
                rho,
            },
        )
    })
}

/// A value of a row; now and then none that can be scored.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        30 => -60.0..60.0f64,
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(f64::NEG_INFINITY),
        1 => Just(-0.0),
        1 => Just(1e200),
    ]
}

#[derive(Debug)]
struct Case {
    models: Vec<Option<Model>>,
    of_row: Vec<u32>,
    columns: Vec<Vec<f64>>,
}

fn cases() -> impl Strategy<Value = Case> {
    (1..10usize, 0..40usize).prop_flat_map(|(features, rows)| {
        let models = prop::collection::vec(prop::option::weighted(0.9, any_model(features)), 1..6);
        // Runs of a model, and models in turn.
        let of_row = prop::collection::vec((any::<prop::sample::Index>(), 1..12usize, 0..8u8), rows);
        let columns = prop::collection::vec(prop::collection::vec(value(), rows), features);
        (models, of_row, columns).prop_map(move |(models, picks, columns)| {
            let of_row = picks.iter().flat_map(|(index, run, none)| {
                let m = if *none == 0 { NO_MODEL } else { index.index(models.len()) as u32 };
                std::iter::repeat_n(m, if *none < 4 { 1 } else { *run })
            });
            let of_row = of_row.take(rows).collect();
            Case { models, of_row, columns }
        })
    })
}

fn bits(out: &[f64]) -> Vec<u64> {
    // Which NaN it is depends on the operands' order, which the compiler chooses.
    out.iter().map(|x| if x.is_nan() { 0x7ff8 << 48 } else { x.to_bits() }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn paths_agree_with_each_other_and_the_definition(case in cases()) {
        let features = case.columns.len();
        let mut columns = ModelColumns::new(features);
        for m in &case.models {
            columns.push(m.as_ref()).expect("the model is valid");
        }
        let columns = columns.columns();
        prop_assert_eq!(columns.validate(), Ok(()));
        let inputs: Vec<&[f64]> = case.columns.iter().map(Vec::as_slice).collect();
        let rows = case.of_row.len();
        let mut wanted = vec![7.0; rows];
        columns.decisions_on(Path::Portable, &case.of_row, &inputs, &mut wanted);
        for (i, (m, found)) in case.of_row.iter().zip(&wanted).enumerate() {
            let model = if *m == NO_MODEL { None } else { case.models[*m as usize].as_ref() };
            let Some(model) = model else {
                prop_assert!(found.is_nan());
                continue;
            };
            let row: Vec<f64> = case.columns.iter().map(|c| c[i]).collect();
            let (size, decision) = by_definition(model, &row);
            prop_assert_eq!(found.is_nan(), decision.is_nan(), "row {}: {} {}", i, found, decision);
            let close = *found == decision || !((found - decision).abs() > 1e-13 * size);
            prop_assert!(close, "row {}: {} is not {}", i, found, decision);
            prop_assert_eq!(bits(&[model.decision(&row)]), bits(&[*found]), "row {} alone", i);
        }
        for path in Path::available() {
            let mut out = vec![7.0; rows];
            columns.decisions_on(path, &case.of_row, &inputs, &mut out);
            prop_assert_eq!(bits(&out), bits(&wanted), "{}", path.name());
            for m in 0..case.models.len() as u32 {
                columns.decisions_of_on(path, m, &inputs, &mut out);
                for i in (0..rows).filter(|i| case.of_row[*i] == m) {
                    prop_assert_eq!(bits(&out[i..=i]), bits(&wanted[i..=i]), "{} of {}", path.name(), m);
                }
            }
        }
    }
}

/// Numbers at and near the ends of what a double can be.
fn odd() -> impl Strategy<Value = f64> {
    let tiny = f64::MIN_POSITIVE;
    let some = [0.0, 5e-324, 1e-310, tiny, tiny.next_down(), 1e-160, 0.5, 1.0, 27.3, 1e160, 1e300, f64::MAX];
    (prop::sample::select(some.to_vec()), any::<bool>()).prop_map(|(x, minus)| if minus { -x } else { x })
}

fn odd_value() -> impl Strategy<Value = f64> {
    prop_oneof![5 => odd(), 1 => prop::sample::select(vec![f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY])]
}

fn odd_model(features: usize) -> impl Strategy<Value = Model> {
    let gamma = || odd().prop_map(|g| if g == 0.0 { f64::MAX } else { g.abs() });
    let degree = prop::sample::select(vec![0, 1, 2, 31, 1_000, 1 << 31, u32::MAX]);
    let kernel = prop_oneof![
        3 => gamma().prop_map(|gamma| Kernel::Rbf { gamma }),
        1 => Just(Kernel::Linear),
        1 => (gamma(), odd(), degree).prop_map(|(gamma, coef0, degree)| Kernel::Poly { gamma, coef0, degree }),
        1 => (gamma(), odd()).prop_map(|(gamma, coef0)| Kernel::Sigmoid { gamma, coef0 }),
    ];
    let numbers = |n: usize| prop::collection::vec(odd(), n);
    let scale = prop::collection::vec(odd().prop_map(|s| if s == 0.0 { 1.0 } else { s }), features);
    (1..60usize, kernel, numbers(features), scale, odd()).prop_flat_map(
        move |(n, kernel, mean, scale, rho)| {
            (numbers(n * features), numbers(n)).prop_map(move |(support_vectors, dual_coef)| Model {
                features,
                mean: mean.clone(),
                scale: scale.clone(),
                kernel,
                support_vectors,
                dual_coef,
                rho,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn paths_agree_at_the_ends_of_what_a_double_can_be(
        (models, columns) in (1..7usize).prop_flat_map(|features| {
            let column = prop::collection::vec(odd_value(), 30);
            (prop::collection::vec(odd_model(features), 1..4), prop::collection::vec(column, features))
        }),
    ) {
        let mut owned = ModelColumns::new(columns.len());
        for m in &models {
            owned.push(Some(m)).expect("the model is valid");
        }
        let inputs: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
        // Runs that fill eight lanes, runs that do not, and models in turn.
        let of_row: Vec<u32> = (0..30).map(|i| if i < 19 { 0 } else { i } % models.len() as u32).collect();
        let mut wanted = vec![7.0; 30];
        owned.columns().decisions_on(Path::Portable, &of_row, &inputs, &mut wanted);
        for path in Path::available() {
            let mut out = vec![7.0; 30];
            owned.columns().decisions_on(path, &of_row, &inputs, &mut out);
            prop_assert_eq!(bits(&out), bits(&wanted), "{}", path.name());
        }
        for i in 0..30 {
            let row: Vec<f64> = columns.iter().map(|c| c[i]).collect();
            let alone = models[of_row[i] as usize].decision(&row);
            prop_assert_eq!(bits(&[alone]), bits(&wanted[i..=i]), "row {} alone", i);
            if row.iter().any(|x| x.is_nan()) {
                let model = &models[of_row[i] as usize];
                // x⁰ = 1 whatever x is.
                let constant = matches!(model.kernel, Kernel::Poly { degree: 0, .. });
                prop_assert!(constant || alone.is_nan(), "row {}: {} of a NaN", i, alone);
            }
        }
    }
}

#[test]
fn columns_that_need_not_start_at_0_and_bad_ones() {
    let mut owned = ModelColumns::new(1);
    for (n, m) in [3, 20, 1].into_iter().enumerate() {
        let support_vectors = (0..m).map(|i| f64::from(i) * 0.1 + n as f64).collect();
        let model = Model {
            features: 1,
            mean: vec![],
            scale: vec![],
            kernel: Kernel::Rbf { gamma: 0.5 },
            support_vectors,
            dual_coef: vec![0.1; m as usize],
            rho: 0.05,
        };
        owned.push(Some(&model)).expect("the model is valid");
    }
    let all = owned.columns();
    let mut whole = [0.0; 3];
    all.decisions(&[0, 1, 2], &[&[0.3; 3]], &mut whole);
    let part = Columns {
        kinds: &all.kinds[1..],
        gamma: &all.gamma[1..],
        coef0: &[],
        degree: &[],
        mean: &all.mean[1..],
        scale: &all.scale[1..],
        rho: &all.rho[1..],
        offsets: &all.offsets[1..],
        ..all
    };
    assert_eq!(part.validate(), Ok(()));
    let mut out = [0.0; 2];
    part.decisions(&[0, 1], &[&[0.3; 2]], &mut out);
    assert_eq!(out, whole[1..]);

    let nan = [0.5, f64::NAN, 0.5];
    let error = |c: Columns<'_>| c.validate().expect_err("it is not valid").to_string();
    assert_eq!(error(Columns { rho: &nan, ..all }), "entry 1: rho is NaN");
    assert_eq!(error(Columns { scale: &[1.0, 1.0, 0.0], ..all }), "entry 2: scale[0] is 0");
    assert_eq!(
        error(Columns { gamma: &[0.5, 0.5, -1.0], ..all }),
        "entry 2: gamma is -1: it must be a positive number"
    );
    assert_eq!(error(Columns { kinds: &[1, 9, 1], ..all }), "entry 1: the kernel 9 is not known");
    assert!(
        error(Columns { offsets: &[0, 3, 3, 24], ..all }).contains("entry 1: there is no support vector")
    );
    assert!(error(Columns { offsets: &[0, 3, 2, 24], ..all }).contains("ascend"));
    assert!(error(Columns { offsets: &[0, 3, 23, 25], ..all }).contains("ascend"));
    assert!(error(Columns { features: 2, ..all }).contains("mean has 3 values"));
    // What belongs to no model may be anything.
    let none = Columns { kinds: &[1, 0, 1], rho: &nan, ..all };
    assert_eq!(none.validate(), Ok(()));
}

#[test]
fn a_path_is_asked_for_by_name() {
    assert_eq!(Path::available().last(), Some(&Path::Portable));
    for path in Path::ALL {
        assert_eq!(path.is_available(), Path::available().contains(&path));
        assert!(["avx512", "avx2", "portable"].contains(&path.name()));
    }
    assert!(Path::detected().is_available());
}
