//! Which values a model of one feature calls normal.

use std::borrow::Cow;

use crate::lanes::LANES;
use crate::sums::MANY;
use crate::{Kernel, Model, is_anomaly};

/// Samples in one width 1/√γ of a radial kernel. Between two of them a sum of bells turns by no more than a thousandth
/// of Σ|coef|.
const SAMPLES_A_WIDTH: f64 = 16.0;
/// Samples over the span of the support vectors, and of these themselves, for the other kernels.
const SAMPLES: usize = 512;
const VECTORS: usize = 1024;
/// How far past the outermost support vectors a kernel without decay is followed, in spans.
const FAR: f64 = 1e6;
/// exp(−γd²) is exactly 0 from γd² = 745.2 on.
const NOTHING: f64 = 746.0;
/// Models of fewer support vectors are not taken apart.
const APART: usize = 64;

/// Kernel values that may be looked at: for each model, more for each of its support vectors, and the most for any.
const A_MODEL: u64 = 1 << 23;
const A_VECTOR: u64 = 1 << 14;
const MOST: u64 = 1 << 33;
/// Samples that may be held: for each model, more for each of its support vectors, and the most for any (128 MiB).
const HELD: u64 = 1 << 17;
const HELD_A_VECTOR: u64 = 1 << 7;
const MOST_HELD: u64 = 1 << 24;

/// The closed intervals of values that a model of one feature calls normal, ascending; bounds may be infinite. Empty for
/// a model that calls everything an anomaly; `None` where they are not known: for a model of more than one feature, and
/// where finding them takes too long.
///
/// Found by sampling the decision function and narrowing each change of sign down to neighbouring doubles: every finite
/// bound is itself normal, and the next double outwards is not. A radial kernel is sampled sixteen times in a width 1/√γ
/// and at a support vector in each sixteenth, wherever the bells' sum can exceed |ρ|; what that misses, a decision
/// between two samples with another sign than theirs, is within a thousandth of Σ|coef| of 0. The other kernels are
/// sampled at 512 places over three spans of the support vectors, at most 1024 of these, and in growing steps up to a
/// million spans from their ends and from 0.
///
/// The work is linear in the number n of support vectors, as bells that have died down to 0 are left out: at most
/// 2²³ + 2¹⁴·n kernel values (a file of 64 MiB holds four million vectors: a minute with AVX-512), and 2³³ for one model
/// (seven seconds), after which the intervals count as not known. Memory is 1 MiB and 1 KiB for each support vector at
/// the most, never more than 128 MiB.
pub fn normal_intervals(model: &Model) -> Option<Vec<(f64, f64)>> {
    let vectors = model.dual_coef.len() as u64;
    intervals_within(model, MOST.min(A_MODEL + A_VECTOR.saturating_mul(vectors)))
}

/// The same with so many kernel values that may be looked at.
pub(crate) fn intervals_within(model: &Model, limit: u64) -> Option<Vec<(f64, f64)>> {
    let vectors = model.dual_coef.len();
    if model.features != 1 || vectors == 0 || model.support_vectors.len() != vectors {
        return None;
    }
    Search { model, sorted: Vec::new(), left: limit }.intervals()
}

/// The intervals of a model in the making.
struct Search<'a> {
    model: &'a Model,
    /// The support vectors of a model that is taken apart, ascending, each with its place in the model.
    sorted: Vec<(f64, u32)>,
    /// Kernel values that may still be looked at.
    left: u64,
}

impl<'a> Search<'a> {
    fn intervals(&mut self) -> Option<Vec<(f64, f64)>> {
        let model = self.model;
        if matches!(model.kernel, Kernel::Rbf { .. }) {
            self.sorted = model.support_vectors.iter().copied().zip(0..).collect();
            self.sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        }
        let samples = self.samples()?;
        let mut found: Vec<(f64, f64)> = Vec::new();
        // Whether the interval that the previous sample lies in is still open.
        let mut open = false;
        let mut at = 0;
        while at < samples.len() {
            let (from, to) = self.stretch(&samples, at);
            let part = self.part(samples[from], samples[to - 1]);
            let mut decisions = vec![0.0; to - from];
            self.decide(&part, &samples[from..to], &mut decisions)?;
            for i in at..to {
                let normal = !is_anomaly(decisions[i - from]);
                if normal == open {
                    continue;
                }
                open = normal;
                let known = if i > from { &*part } else { model };
                if !normal {
                    let end = self.last_normal(known, samples[i - 1], samples[i])?;
                    if let Some(last) = found.last_mut() {
                        last.1 = end;
                    }
                    continue;
                }
                let start = match i {
                    0 => f64::NEG_INFINITY,
                    _ => self.last_normal(known, samples[i], samples[i - 1])?,
                };
                // To its end, if there is one: out there bells have died down, and the other kernels were followed as
                // far as makes sense.
                found.push((start, f64::INFINITY));
            }
            at = to;
        }
        Some(found)
    }

    /// The decisions of a part of the model, as long as they may be looked at.
    fn decide(&mut self, part: &Model, x: &[f64], out: &mut [f64]) -> Option<()> {
        let work = (x.len() as u64).saturating_mul(part.dual_coef.len() as u64);
        self.left = self.left.checked_sub(work)?;
        part.decisions(&[x], out);
        Some(())
    }

    /// The samples `from..to` that are looked at together: from `at` on and, if that is near enough, the one before.
    fn stretch(&self, samples: &[f64], at: usize) -> (usize, usize) {
        if !self.is_taken_apart() {
            return (0, samples.len());
        }
        let near = |a: f64, b: f64| (self.scaled(a) - self.scaled(b)).abs() <= self.vanishing();
        let from = if at > 0 && near(samples[at - 1], samples[at]) { at - 1 } else { at };
        let more = samples[at + 1..].partition_point(|x| near(samples[from], *x));
        (from, at + 1 + more)
    }

    fn is_taken_apart(&self) -> bool {
        self.sorted.len() >= APART
    }

    /// How far from a support vector its bell is exactly 0.
    fn vanishing(&self) -> f64 {
        match self.model.kernel {
            Kernel::Rbf { gamma } => (NOTHING / gamma).sqrt(),
            _ => f64::INFINITY,
        }
    }

    /// What the model is between two values: the support vectors whose bells reach there, each in the one of the eight
    /// sums that it belongs to and in their order, so that decisions are the model's to the bit.
    fn part(&self, a: f64, b: f64) -> Cow<'a, Model> {
        let (a, b, reach) = (self.scaled(a), self.scaled(b), self.vanishing());
        let from = self.sorted.partition_point(|(v, _)| *v < a.min(b) - reach);
        let to = self.sorted.partition_point(|(v, _)| *v <= a.max(b) + reach);
        if !self.is_taken_apart() || to - from == self.sorted.len() {
            return Cow::Borrowed(self.model);
        }
        let mut sums: [Vec<u32>; LANES] = Default::default();
        for (_, i) in &self.sorted[from..to] {
            sums[*i as usize % LANES].push(*i);
        }
        let longest = sums.iter().map(Vec::len).fold(MANY.div_ceil(LANES), usize::max);
        // Filled up with coefficients of 0, which add nothing.
        let (mut support_vectors, mut dual_coef) = (vec![0.0; longest * LANES], vec![0.0; longest * LANES]);
        for (lane, places) in sums.iter_mut().enumerate() {
            places.sort_unstable();
            for (row, i) in places.iter().enumerate() {
                support_vectors[row * LANES + lane] = self.model.support_vectors[*i as usize];
                dual_coef[row * LANES + lane] = self.model.dual_coef[*i as usize];
            }
        }
        let (mean, scale) = (self.model.mean.clone(), self.model.scale.clone());
        let (features, kernel, rho) = (1, self.model.kernel, self.model.rho);
        Cow::Owned(Model { features, mean, scale, kernel, support_vectors, dual_coef, rho })
    }

    /// The normal double next to a change of sign between `inside` (normal) and `outside` (not normal).
    ///
    /// Eight doubles at a time, evenly spaced among those between the two: what is left shrinks nine-fold, whatever
    /// their magnitudes, so 21 rounds are the most.
    fn last_normal(&mut self, part: &Model, inside: f64, outside: f64) -> Option<f64> {
        let (mut inside, mut outside) = (rank(inside), rank(outside));
        while inside.abs_diff(outside) > 1 {
            // The distance itself may not fit into 64 bits; what lies between the two does.
            let (from, gap) = (i128::from(inside), i128::from(outside) - i128::from(inside));
            let ranks: [i64; 8] = std::array::from_fn(|i| (from + gap * (i as i128 + 1) / 9) as i64);
            let values = ranks.map(of_rank);
            let mut decisions = [0.0; 8];
            self.decide(part, &values, &mut decisions)?;
            match decisions.into_iter().position(is_anomaly) {
                Some(0) => outside = ranks[0],
                Some(i) => (inside, outside) = (ranks[i - 1], ranks[i]),
                None => inside = ranks[7],
            }
        }
        Some(of_rank(inside))
    }

    /// A value on the scale of the support vectors, as the decision function sees it.
    fn scaled(&self, x: f64) -> f64 {
        let (mean, scale) = self.scaling();
        (x - mean) / scale
    }

    fn scaling(&self) -> (f64, f64) {
        let of = |column: &[f64], empty: f64| column.first().copied().unwrap_or(empty);
        (of(&self.model.mean, 0.0), of(&self.model.scale, 1.0))
    }

    /// The values to look at, ascending.
    fn samples(&self) -> Option<Vec<f64>> {
        let mut points = match self.model.kernel {
            Kernel::Rbf { gamma } => self.of_bells(gamma)?,
            _ => self.of_others(),
        };
        let (mean, scale) = self.scaling();
        for x in &mut points {
            *x = *x * scale + mean;
        }
        if matches!(self.model.kernel, Kernel::Rbf { .. }) {
            // Where every bell has died down, whatever rounding did to the other samples.
            points.extend([f64::MIN, f64::MAX]);
        }
        points.retain(|x| x.is_finite());
        points.sort_unstable_by(f64::total_cmp);
        points.dedup();
        Some(points)
    }

    /// On the scale of the support vectors, for a radial kernel: all around them, as far as the sum can exceed |ρ|.
    fn of_bells(&self, gamma: f64) -> Option<Vec<f64>> {
        let (reach, width) = (reach(self.model, gamma), 1.0 / gamma.sqrt());
        let step = width / SAMPLES_A_WIDTH;
        // No finer than there are doubles.
        let finest = |low: f64, high: f64| step.max(low.abs().max(high.abs()) * f64::EPSILON);
        let groups = || Groups { rest: &self.sorted, reach };
        let vectors = self.sorted.len() as u64;
        let held = MOST_HELD.min(HELD + HELD_A_VECTOR * vectors) as f64;
        let steps: f64 = groups().map(|(low, high, _)| ((high - low) / finest(low, high)).ceil() + 1.0).sum();
        // A NaN is too many, too.
        let few = steps <= held && steps * MANY as f64 <= self.left as f64;
        if !few {
            return None;
        }
        let mut points = Vec::with_capacity(steps as usize + self.sorted.len() + 2);
        for (low, high, group) in groups() {
            let step = finest(low, high);
            let steps = ((high - low) / step).ceil() as usize;
            points.extend((0..=steps).map(|i| low + step * i as f64));
            let mut cell = f64::NEG_INFINITY;
            for (v, _) in group {
                let of = ((v - low) / step).floor();
                if of > cell {
                    points.push(*v);
                    cell = of;
                }
            }
        }
        Some(points)
    }

    /// The same for the other kernels: over the support vectors, at some of them, and far out.
    fn of_others(&self) -> Vec<f64> {
        let mut points = self.model.support_vectors.clone();
        points.sort_unstable_by(f64::total_cmp);
        let (low, high) = (points[0], points[points.len() - 1]);
        let span = (high - low).max(low.abs()).max(high.abs()).max(1.0);
        if points.len() > VECTORS {
            let last = points.len() - 1;
            points = (0..VECTORS).map(|i| points[i * last / (VECTORS - 1)]).collect();
        }
        let mut step = span / FAR;
        while step < span * FAR {
            // Around 0 these kernels can be as steep as their vectors are long.
            points.extend([-step, step, low - step, high + step]);
            step *= 1.25;
        }
        let (from, to) = (low - span, high + span);
        let step = (to - from) / SAMPLES as f64;
        points.extend((0..=SAMPLES).map(|i| from + step * i as f64));
        points
    }
}

/// Support vectors whose reaches meet, from the lowest on: where they begin and end to be felt, and themselves.
struct Groups<'a> {
    rest: &'a [(f64, u32)],
    reach: f64,
}

impl<'a> Iterator for Groups<'a> {
    type Item = (f64, f64, &'a [(f64, u32)]);

    fn next(&mut self) -> Option<Self::Item> {
        let (first, _) = self.rest.first()?;
        let far = |w: &[(f64, u32)]| w[1].0 - self.reach > w[0].0 + self.reach;
        let n = self.rest.windows(2).position(far).map_or(self.rest.len(), |last| last + 1);
        let (group, others) = self.rest.split_at(n);
        self.rest = others;
        Some((first - self.reach, group[n - 1].0 + self.reach, group))
    }
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

/// How far from the nearest support vector a sum of bells can still exceed |ρ|: there Σ |coefᵢ|·exp(−γd²) < |ρ|.
fn reach(model: &Model, gamma: f64) -> f64 {
    let total: f64 = model.dual_coef.iter().map(|c| c.abs()).sum();
    // With ρ = 0 all of the far field is on one side: 40/√γ away every term is below 1e-690, which is 0.
    let ratio = if model.rho.abs() > 0.0 { (total / model.rho.abs()).ln().max(0.0) } else { 1600.0 };
    ratio.sqrt().min(40.0) * 1.01 / gamma.sqrt() + 1e-6 / gamma.sqrt()
}
