//! A quick look at the kernel's speed on every path of this machine; `benchmarks/kernel` compares it with others.

use std::hint::black_box;
use std::time::Instant;

use fleetscore_kernel::{Kernel, Model, ModelColumns, Path, normal_intervals};

fn model(vectors: usize, features: usize, seed: usize) -> Model {
    let number = |i: usize| ((i + seed) as f64 * 0.618).sin() * 2.0;
    Model {
        features,
        mean: vec![10.0; features],
        scale: vec![2.0; features],
        kernel: Kernel::Rbf { gamma: 0.3 },
        support_vectors: (0..vectors * features).map(number).collect(),
        dual_coef: (0..vectors).map(|i| 0.01 + 0.001 * (i % 9) as f64).collect(),
        rho: 0.02,
    }
}

/// Least seconds of seven runs.
fn least(mut f: impl FnMut()) -> f64 {
    (0..7).fold(f64::INFINITY, |least, _| {
        let start = Instant::now();
        f();
        least.min(start.elapsed().as_secs_f64())
    })
}

fn main() {
    let paths = Path::available();
    for features in [1, 5] {
        for vectors in [1, 2, 11, 15, 16, 24, 51, 201, 1000] {
            let model = model(vectors, features, 0);
            let mut columns = ModelColumns::new(features);
            columns.push(Some(&model)).expect("the model is valid");
            let rows = 1_000_000 / vectors.max(4);
            let inputs: Vec<Vec<f64>> = (0..features)
                .map(|f| (0..rows).map(|i| 10.0 + ((i + f) as f64).sin() * 5.0).collect())
                .collect();
            let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
            let (of_row, mut out) = (vec![0; rows], vec![0.0; rows]);
            print!("{features} features {vectors:>5} vectors, ns:");
            for path in &paths {
                let s =
                    least(|| columns.columns().decisions_on(*path, &of_row, &inputs, black_box(&mut out)));
                print!("  {} {:.3}", path.name(), s * 1e9 / (rows * vectors) as f64);
            }
            println!();
        }
    }
    let mut columns = ModelColumns::new(1);
    let models: Vec<Model> = (0..1000).map(|i| model(2, 1, i)).collect();
    for i in 0..1_000_000 {
        columns.push(Some(&models[i % 1000])).expect("the model is valid");
    }
    let columns = columns.columns();
    let of_row: Vec<u32> = (0..1_000_000).collect();
    let input: Vec<f64> = (0..1_000_000).map(|i| 10.0 + f64::from(i).sin() * 5.0).collect();
    let mut out = vec![0.0; of_row.len()];
    for path in &paths {
        let s = least(|| columns.decisions_on(*path, &of_row, &[&input], black_box(&mut out)));
        println!("1 M two-vector models, one row each: {} {:.1} ms", path.name(), s * 1e3);
    }
    println!("validate: {:.1} ms", least(|| columns.validate().expect("they are valid")) * 1e3);
    let s = least(|| models.iter().for_each(|m| drop(black_box(normal_intervals(m)))));
    println!("normal_intervals of two vectors: {:.1} µs", s * 1e6 / models.len() as f64);
    let s = least(|| models.iter().for_each(|m| assert!(black_box(m.decision(&[9.5])).is_finite())));
    println!("Model::decision of two vectors: {:.1} ns", s * 1e9 / models.len() as f64);
    for vectors in [1000, 10_000, 100_000] {
        let many = model(vectors, 1, 7);
        let s = least(|| assert!(normal_intervals(&many).is_some()));
        println!("normal_intervals of {vectors} vectors: {:.1} ms", s * 1e3);
    }
    for path in paths {
        let x: Vec<f64> = (0..100_000).map(|i| f64::from(i) * -1e-3).collect();
        let mut y = vec![0.0; x.len()];
        let exp = least(|| path.exp(&x, black_box(&mut y))) * 1e4;
        let tanh = least(|| path.tanh(&x, black_box(&mut y))) * 1e4;
        println!("{}: exp {exp:.2} ns, tanh {tanh:.2} ns", path.name());
    }
}
