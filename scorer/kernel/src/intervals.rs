//! Which values a model of one feature calls normal.

use crate::{Kernel, Model, is_anomaly};

/// Points the decision function is looked at between the outermost support vectors' reach; more where the kernel is
/// narrow, at most [`MAX_SAMPLES`].
const MIN_SAMPLES: usize = 128;
const MAX_SAMPLES: usize = 4096;
/// Samples in one width 1/√γ of the kernel: a sum of such bells hardly turns within a sixteenth of it.
const SAMPLES_A_WIDTH: f64 = 16.0;
/// How far past the outermost support vectors a kernel without decay is followed, in spans.
const FAR: f64 = 1e6;

/// The closed intervals of values that a model of one feature calls normal, ascending; bounds may be infinite.
///
/// Found by sampling the decision function over the reach of the support vectors and narrowing each change of sign
/// down to neighbouring doubles: every finite bound is itself normal, and the next double outwards is not. An interval
/// narrower than the sampling may be missed; each support vector is one of the samples. Empty for a model that calls
/// everything an anomaly and for models of more than one feature.
pub fn normal_intervals(model: &Model) -> Vec<(f64, f64)> {
    if model.features != 1 || model.dual_coef.is_empty() {
        return Vec::new();
    }
    let mean = model.mean.first().copied().unwrap_or(0.0);
    let scale = model.scale.first().copied().unwrap_or(1.0);
    let mut samples: Vec<f64> = samples(model).into_iter().map(|x| x * scale + mean).collect();
    samples.retain(|x| x.is_finite());
    samples.sort_by(f64::total_cmp);
    samples.dedup();
    let mut decisions = vec![0.0; samples.len()];
    model.decisions(&[&samples], &mut decisions);
    let mut found: Vec<(f64, f64)> = Vec::new();
    // Whether the interval that the previous sample lies in is still open.
    let mut open = false;
    let mut previous = f64::NEG_INFINITY;
    for (i, (x, decision)) in samples.into_iter().zip(decisions).enumerate() {
        match (open, !is_anomaly(decision)) {
            (false, true) => {
                let start = if i == 0 { f64::NEG_INFINITY } else { last_normal(model, x, previous) };
                found.push((start, x));
                open = true;
            }
            (true, false) => {
                if let Some(last) = found.last_mut() {
                    last.1 = last_normal(model, previous, x);
                }
                open = false;
            }
            _ => {}
        }
        previous = x;
    }
    if let (true, Some(last)) = (open, found.last_mut()) {
        // Bells have died down out there, and the other kernels were followed as far as makes sense.
        last.1 = f64::INFINITY;
    }
    found
}

/// The normal double next to a change of sign between `inside` (normal) and `outside` (not normal).
///
/// Eight doubles at a time, evenly spaced among those between the two: what is left shrinks nine-fold, whatever their
/// magnitudes, so 21 rounds are the most.
fn last_normal(model: &Model, inside: f64, outside: f64) -> f64 {
    let (mut inside, mut outside) = (rank(inside), rank(outside));
    while inside.abs_diff(outside) > 1 {
        let gap = i128::from(outside) - i128::from(inside);
        let ranks: [i64; 8] = std::array::from_fn(|i| inside + (gap * (i as i128 + 1) / 9) as i64);
        let values = ranks.map(of_rank);
        let mut decisions = [0.0; 8];
        model.decisions(&[&values], &mut decisions);
        match decisions.into_iter().position(is_anomaly) {
            Some(0) => outside = ranks[0],
            Some(i) => (inside, outside) = (ranks[i - 1], ranks[i]),
            None => inside = ranks[7],
        }
    }
    of_rank(inside)
}

/// Place of a double among all of them: neighbours differ by 1.
fn rank(x: f64) -> i64 {
    let bits = x.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// The double at a place.
fn of_rank(rank: i64) -> f64 {
    f64::from_bits((rank ^ (((rank >> 63) as u64) >> 1) as i64) as u64)
}

/// Points to look at, on the scale of the support vectors.
fn samples(model: &Model) -> Vec<f64> {
    let vectors = &model.support_vectors;
    let (low, high) =
        vectors.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    let mut points = vectors.clone();
    let (from, to, count) = match model.kernel {
        Kernel::Rbf { gamma } => {
            let reach = reach(model, gamma);
            let (from, to) = (low - reach, high + reach);
            let widths = (to - from) * gamma.sqrt() * SAMPLES_A_WIDTH;
            (from, to, (widths as usize).clamp(MIN_SAMPLES, MAX_SAMPLES))
        }
        _ => {
            let span = (high - low).max(low.abs()).max(high.abs()).max(1.0);
            let mut step = span / 16.0;
            while step < span * FAR {
                points.extend([low - step, high + step]);
                step *= 1.25;
            }
            (low - span, high + span, MIN_SAMPLES * 4)
        }
    };
    let step = (to - from) / count as f64;
    points.extend((0..=count).map(|i| from + step * i as f64));
    points
}

/// How far from the outermost support vector a sum of bells can still exceed ρ: there Σ coefᵢ·exp(−γd²) < ρ.
fn reach(model: &Model, gamma: f64) -> f64 {
    let total: f64 = model.dual_coef.iter().map(|c| c.abs()).sum();
    // With ρ ≤ 0 all of the far field is on one side: 40/√γ away every term is below 1e-690, which is 0.
    let ratio = if model.rho.abs() > 0.0 { (total / model.rho.abs()).ln().max(0.0) } else { 1600.0 };
    ratio.sqrt().min(40.0) * 1.01 / gamma.sqrt() + 1e-6 / gamma.sqrt()
}
