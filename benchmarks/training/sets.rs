//! Data sets by a seed: what sensors give, and what solvers find hard.

use serde::Serialize;

/// Kinds of data.
pub(crate) const KINDS: [&str; 8] =
    ["normal", "bimodal", "sine", "rounded", "offset 1e5", "heavy tail", "drift", "five features"];
const NUS: [f64; 5] = [0.01, 0.05, 0.1, 0.2, 0.5];
pub(crate) const ROWS: [usize; 5] = [50, 200, 500, 1000, 2000];
pub(crate) const TOLERANCES: [f64; 2] = [1e-3, 1e-7];
/// Points beside the rows at which decisions are compared.
const POINTS: usize = 1_000;

/// One data set, and how it is fitted.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Set {
    pub(crate) kind: &'static str,
    pub(crate) features: usize,
    pub(crate) nu: f64,
    pub(crate) tolerance: f64,
    /// Row after row.
    #[serde(skip)]
    pub(crate) rows: Vec<f64>,
    /// A grid a little wider than the rows; points of more features are drawn within it.
    #[serde(skip)]
    pub(crate) points: Vec<f64>,
}

impl Set {
    pub(crate) fn count(&self) -> usize {
        self.rows.len() / self.features
    }
}

/// So many sets: kinds, ν, rows and tolerances in turn, so that each meets each.
pub(crate) fn sets(count: usize, seed: u64) -> Vec<Set> {
    (0..count)
        .map(|i| {
            let (kind, round) = (KINDS[i % 8], i / 8);
            let rows = ROWS[(round / 5 + i) % 5];
            let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(i as u64));
            let features = if kind == "five features" { 5 } else { 1 };
            let rows = rows_of(kind, rows, &mut random);
            let points = points(&rows, features, &mut random);
            Set { kind, features, nu: NUS[round % 5], tolerance: TOLERANCES[(round / 5) % 2], rows, points }
        })
        .collect()
}

fn rows_of(kind: &str, count: usize, random: &mut fastrand::Rng) -> Vec<f64> {
    let width = if kind == "five features" { 5 } else { 1 };
    (0..count * width)
        .map(|i| {
            let noise = normal(random);
            let part = i as f64 / count as f64;
            match kind {
                "normal" => 20.0 + 3.0 * noise,
                "bimodal" => [10.0, 30.0][usize::from(random.bool())] + noise,
                "sine" => 50.0 + 10.0 * (part * 40.0).sin() + noise,
                "rounded" => (20.0 + 2.0 * noise).round(),
                "offset 1e5" => 1e5 + noise,
                "heavy tail" => noise / normal(random).abs().max(0.05),
                "drift" => 5.0 * part + 0.2 * noise,
                // Of quite different sizes.
                _ => 10f64.powi((i % 5) as i32 - 2) * (1.0 + noise),
            }
        })
        .collect()
}

/// Box and Muller's.
fn normal(random: &mut fastrand::Rng) -> f64 {
    (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos()
}

fn points(rows: &[f64], features: usize, random: &mut fastrand::Rng) -> Vec<f64> {
    let range = |f: usize| {
        let column = rows.iter().skip(f).step_by(features);
        let (low, high) = column.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        (low - 0.5 * (high - low), high + 0.5 * (high - low))
    };
    let ranges: Vec<(f64, f64)> = (0..features).map(range).collect();
    (0..POINTS)
        .flat_map(|i| {
            let at = if features == 1 { Some(i as f64 / (POINTS - 1) as f64) } else { None };
            ranges
                .iter()
                .map(|(low, high)| low + (high - low) * at.unwrap_or_else(|| random.f64()))
                .collect::<Vec<_>>()
        })
        .collect()
}
