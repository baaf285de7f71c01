//! A million models with one row each.

use std::hint::black_box;

use fleetscore_kernel::{Columns, Kernel, Model, ModelColumns, normal_intervals};

use crate::{Failure, repeated, wall_clock};

/// Seconds of each repetition.
pub(crate) struct Fleet {
    pub(crate) models: usize,
    /// Threads, and how long scoring took on them.
    pub(crate) scored: Vec<(usize, Vec<f64>)>,
    /// Checking all columns before the first use.
    pub(crate) validated: Vec<f64>,
    /// What a hundredth of the models calls normal.
    pub(crate) explained: Vec<f64>,
}

fn model(random: &mut fastrand::Rng) -> Model {
    let mut between = |low: f64, high: f64| low + (high - low) * random.f64();
    let (a, b) = (between(-2.0, 0.0), between(0.0, 2.0));
    let coef = between(0.01, 0.02);
    Model {
        features: 1,
        mean: vec![between(5.0, 50.0)],
        scale: vec![between(0.5, 5.0)],
        kernel: Kernel::Rbf { gamma: between(0.01, 1.0) },
        support_vectors: vec![a, b],
        dual_coef: vec![coef, coef],
        rho: coef * between(0.5, 1.5),
    }
}

/// Models of two support vectors, all different, one row each.
pub(crate) fn measure(models: usize, repetitions: usize) -> Result<Fleet, Failure> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut owned = ModelColumns::new(1);
    let mut some = Vec::new();
    let mut input = Vec::with_capacity(models);
    for i in 0..models {
        let model = model(&mut random);
        input.push(model.mean[0] + model.scale[0] * (random.f64() - 0.5) * 4.0);
        owned.push(Some(&model))?;
        if i % 100 == 0 {
            some.push(model);
        }
    }
    let columns = owned.columns();
    let of_row: Vec<u32> = (0..models as u32).collect();
    let mut scored = Vec::new();
    for threads in [1, 2] {
        let mut out = vec![f64::NAN; models];
        let seconds = repeated(wall_clock, repetitions, || {
            on_threads(threads, &columns, &of_row, &input, black_box(&mut out))
        });
        for (i, model) in some.iter().enumerate() {
            if out[i * 100].to_bits() != model.decision(&[input[i * 100]]).to_bits() {
                return Err(format!("the decision of model {} is another alone", i * 100).into());
            }
        }
        let found = out.iter().filter(|d| d.is_finite()).count();
        if found != models {
            return Err(format!("{found} decisions for {models} rows").into());
        }
        scored.push((threads, seconds));
    }
    columns.validate()?;
    let validated = repeated(wall_clock, repetitions, || drop(black_box(columns.validate())));
    let explained =
        repeated(wall_clock, 3, || some.iter().for_each(|m| drop(black_box(normal_intervals(m)))));
    Ok(Fleet { models, scored, validated, explained })
}

fn on_threads(threads: usize, columns: &Columns<'_>, of_row: &[u32], input: &[f64], out: &mut [f64]) {
    if threads == 1 {
        return columns.decisions(of_row, &[input], out);
    }
    let share = of_row.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for ((of_row, input), out) in of_row.chunks(share).zip(input.chunks(share)).zip(out.chunks_mut(share))
        {
            scope.spawn(move || columns.decisions(of_row, &[input], out));
        }
    });
}
