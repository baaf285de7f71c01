//! A fleet of models made by a seed: each one its own numbers, and the plain arithmetic that says what it decides.

use fleetscore_schemas::SeriesName;

/// Sensors of each device.
const SENSORS: [&str; 5] = ["temperature", "pressure", "vibration", "humidity", "current"];

/// One window in so many is an anomaly.
const ANOMALY_ONE_IN: f64 = 50.0;

/// So many models, each of two support vectors, as the reference's are: an rbf kernel behind a scaler, one feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fleet {
    /// Number of series, each with its own model.
    pub models: u32,
    /// Another seed makes other numbers.
    pub seed: u64,
    /// Added to every ρ: a second set of the same models that decides differently by exactly this.
    pub moved_rho: f64,
}

/// The numbers of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TwoVectors {
    /// Mean of the scaler.
    pub mean: f64,
    /// Scale of the scaler.
    pub scale: f64,
    /// γ of the kernel.
    pub gamma: f64,
    /// Support vectors, in scaled units.
    pub vectors: [f64; 2],
    /// Their dual coefficients.
    pub coef: [f64; 2],
    /// ρ, the negative intercept.
    pub rho: f64,
}

impl TwoVectors {
    /// Σ coef·exp(−γ·((v − mean)/scale − vector)²) − ρ: an anomaly unless positive.
    pub fn decision(&self, value: f64) -> f64 {
        let x = (value - self.mean) / self.scale;
        let term = |i: usize| {
            let d = x - self.vectors[i];
            self.coef[i] * (-self.gamma * (d * d)).exp()
        };
        term(0) + term(1) - self.rho
    }
}

/// What the readings of one window add up to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Number of readings.
    pub count: i64,
    /// Their sum.
    pub sum: f64,
    /// Their sample's standard deviation.
    pub stddev: f64,
}

impl Window {
    /// The mean: what the models are asked about.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

impl Fleet {
    /// So many models by this seed.
    pub const fn new(models: u32, seed: u64) -> Self {
        Self { models, seed, moved_rho: 0.0 }
    }

    /// The series of model `i`.
    pub fn name(&self, i: u32) -> SeriesName {
        let sensors = SENSORS.len() as u32;
        SeriesName::new(format!("device-{:06}", i / sensors), SENSORS[(i % sensors) as usize])
    }

    /// Number `k` of model `i`, uniform in [0, 1): SplitMix64 of both, so that any model can be made alone.
    fn unit(&self, i: u32, k: u64) -> f64 {
        let mut z = self
            .seed
            .wrapping_add((u64::from(i) << 20 | k).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&self, i: u32, k: u64, from: f64, to: f64) -> f64 {
        from + (to - from) * self.unit(i, k)
    }

    /// Model `i`. Calls everything within one scale of its mean normal, and nothing beyond four.
    pub fn model(&self, i: u32) -> TwoVectors {
        let first = self.between(i, 3, 0.4, 0.6);
        TwoVectors {
            mean: self.between(i, 0, 10.0, 60.0),
            scale: self.between(i, 1, 0.5, 3.0),
            gamma: self.between(i, 2, 0.2, 0.4),
            vectors: [self.between(i, 4, -1.25, -1.15), self.between(i, 5, 1.05, 1.15)],
            coef: [first, 1.0 - first],
            rho: self.between(i, 6, 0.28, 0.32) + self.moved_rho,
        }
    }

    /// The window of series `i` in pane number `pane`: twelve readings, one window in fifty an anomaly.
    pub fn window(&self, i: u32, pane: u32) -> Window {
        let model = self.model(i);
        let k = 16 + u64::from(pane) * 4;
        let x = if self.unit(i, k) < 1.0 / ANOMALY_ONE_IN {
            self.between(i, k + 1, 4.5, 6.0) * if self.unit(i, k + 2) < 0.5 { -1.0 } else { 1.0 }
        } else {
            self.between(i, k + 1, -0.9, 0.9)
        };
        Window { count: 12, sum: 12.0 * (model.mean + model.scale * x), stddev: 0.1 * model.scale }
    }

    /// What model `i` decides about its window in that pane.
    pub fn decision(&self, i: u32, pane: u32) -> f64 {
        self.model(i).decision(self.window(i, pane).mean())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn models_are_distinct_and_decide_clearly() {
        let fleet = Fleet::new(20_000, 7);
        let (mut numbers, mut names, mut anomalies) = (HashSet::new(), HashSet::new(), 0);
        for i in 0..fleet.models {
            let model = fleet.model(i);
            assert!(numbers.insert(model.mean.to_bits()), "model {i} is like another");
            assert!(names.insert(fleet.name(i)), "series {i} twice");
            assert!((model.coef[0] + model.coef[1] - 1.0).abs() < 1e-15);
            let decision = fleet.decision(i, 3);
            // Far from the border, so that no rounding can turn a label.
            assert!(decision.abs() > 1e-3, "model {i}: {decision}");
            anomalies += u32::from(decision <= 0.0);
        }
        assert!((300..500).contains(&anomalies), "{anomalies} of 20,000, one in fifty expected");
        let moved = Fleet { moved_rho: 0.01, ..fleet };
        assert!((fleet.decision(5, 0) - moved.decision(5, 0) - 0.01).abs() < 1e-12);
    }
}
