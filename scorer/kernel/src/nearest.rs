//! How far a row is from what its model calls normal, feature by feature.

use crate::{Kernel, Model, is_anomaly};

/// Values looked at along a feature, evenly spaced over the reach.
const GRID: usize = 48;
/// Rounds of nine-fold narrowing that follow: all on one side of the row, or half of them on each.
const ROUNDS: usize = 6;
/// Values looked at in a round, between the bracket's ends.
const STEPS: usize = 8;
/// Most steps over a feature of a support vector that a row may take: some 30 ms.
const MOST: usize = 1 << 25;
/// How far past the outermost support vectors a feature is followed, in widths 1/√γ of a radial kernel: there a bell is
/// down to exp(−16).
const WIDTHS: f64 = 4.0;
/// The same for the other kernels, in spans of the support vectors.
const SPANS: f64 = 4.0;

/// For a row that the model calls an anomaly: along each feature, with the others held, the nearest value found that the
/// model calls normal.
///
/// `None` where there is none within reach, where the row is normal, and where it holds a NaN. The reach is the range of
/// the feature's support vectors, on the model's scale, widened on both sides by 4/√γ (radial kernel) or by four spans
/// of the support vectors and as far as the row's own value (the others). At most 96 decisions a feature: 48 values over
/// the reach, then six rounds of nine-fold narrowing towards the row, three on each side where both have a candidate; so
/// the value is normal, and within a 729th of a forty-seventh of the reach of the border it stands for. A normal stretch
/// narrower than the grid may be missed.
///
/// Nothing is looked for, and the whole is `None`, where that would take more than 2²⁵ steps over a feature of a support
/// vector: with n vectors of f features where 96·n·f² is larger (14,000 vectors of 5 features, 3,500 of 10).
///
/// # Panics
/// If `row` has another length than the model has features.
pub fn nearest_normal(model: &Model, row: &[f64]) -> Option<Vec<Option<f64>>> {
    assert_eq!(row.len(), model.features, "a row has one value for each feature");
    let looks = (GRID + ROUNDS * STEPS).saturating_mul(row.len());
    if looks.saturating_mul(model.support_vectors.len()) > MOST {
        return None;
    }
    let nothing = vec![None; row.len()];
    if row.iter().any(|x| x.is_nan()) || !is_anomaly(model.decision(row)) {
        return Some(nothing);
    }
    let mut looks = Looks { model, columns: row.iter().map(|x| vec![*x; GRID]).collect(), out: [0.0; GRID] };
    Some((0..row.len()).map(|k| looks.along(k, row[k])).collect())
}

/// Rows that differ from the given one in a single feature.
struct Looks<'a> {
    model: &'a Model,
    /// For each feature, the row's own value over and over.
    columns: Vec<Vec<f64>>,
    out: [f64; GRID],
}

impl Looks<'_> {
    /// Whether each value of feature `k` is normal; at most [`GRID`] values.
    fn normal(
        &mut self,
        k: usize,
        values: &[f64],
    ) -> impl DoubleEndedIterator<Item = bool> + ExactSizeIterator {
        let n = values.len();
        let columns: Vec<&[f64]> =
            self.columns.iter().enumerate().map(|(i, c)| if i == k { values } else { &c[..n] }).collect();
        self.model.decisions(&columns, &mut self.out[..n]);
        self.out[..n].iter().map(|d| !is_anomaly(*d))
    }

    fn along(&mut self, k: usize, own: f64) -> Option<f64> {
        let (low, high) = reach(self.model, k, own);
        if !(low.is_finite() && high.is_finite() && low < high) {
            return None;
        }
        let step = (high - low) / (GRID - 1) as f64;
        let grid: Vec<f64> = (0..GRID).map(|i| low + step * i as f64).collect();
        let normal: Vec<bool> = self.normal(k, &grid).collect();
        // The first normal value on each side, and the one before it on the way there.
        let below = (0..GRID)
            .rev()
            .find(|i| normal[*i] && grid[*i] <= own)
            .map(|i| (grid[i], grid.get(i + 1).map_or(own, |next| next.min(own))));
        let above = (0..GRID)
            .find(|i| normal[*i] && grid[*i] > own)
            .map(|i| (grid[i], i.checked_sub(1).map_or(own, |before| grid[before].max(own))));
        let rounds = if below.is_some() && above.is_some() { ROUNDS / 2 } else { ROUNDS };
        let sides =
            [below, above].map(|b| b.map(|(inside, outside)| self.narrow(k, inside, outside, rounds)));
        sides.into_iter().flatten().min_by(|a, b| (a - own).abs().total_cmp(&(b - own).abs()))
    }

    /// A normal value next to the last change of sign on the way from `outside`, which is not normal, to `inside`.
    fn narrow(&mut self, k: usize, mut inside: f64, mut outside: f64, rounds: usize) -> f64 {
        for _ in 0..rounds {
            let step = (outside - inside) / (STEPS + 1) as f64;
            let values: [f64; STEPS] = std::array::from_fn(|i| inside + step * (i + 1) as f64);
            // How far normality goes on from the inner end.
            let on = self.normal(k, &values).take_while(|n| *n).count();
            outside = values.get(on).copied().unwrap_or(outside);
            inside = if on > 0 { values[on - 1] } else { inside };
        }
        inside
    }
}

/// The range of a feature's values that is looked at.
fn reach(model: &Model, k: usize, own: f64) -> (f64, f64) {
    let mean = model.mean.get(k).copied().unwrap_or(0.0);
    let scale = model.scale.get(k).copied().unwrap_or(1.0);
    let vectors = model.support_vectors.iter().skip(k).step_by(model.features);
    let (low, high) = vectors.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    let margin = match model.kernel {
        Kernel::Rbf { gamma } => WIDTHS / gamma.sqrt(),
        _ => SPANS * (high - low).max(low.abs()).max(high.abs()).max(1.0),
    };
    let ends = [(low - margin) * scale + mean, (high + margin) * scale + mean];
    let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    // The row's own value bounds nothing for a radial kernel: past the margin there is nothing to find.
    match model.kernel {
        Kernel::Rbf { .. } => (low, high),
        _ => (low.min(own), high.max(own)),
    }
}
