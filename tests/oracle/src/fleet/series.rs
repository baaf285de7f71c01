//! What a fleet is made of: names, levels, models. All of it follows from the seed and a series' numbers.

use super::Fleet;
use super::write::Value;
use crate::model::ModelNumbers;
use fastrand::Rng;

/// A number that depends on all of these and looks like chance (SplitMix64).
pub(super) fn mix(seed: u64, salt: u64, a: u64, b: u64) -> u64 {
    let mut z = seed ^ salt.wrapping_mul(0xd6e8_feb8_6659_fd93);
    for part in [a, b] {
        z = z.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
    }
    z
}

/// The same as a share of one.
pub(super) fn share(seed: u64, salt: u64, a: u64, b: u64) -> f64 {
    (mix(seed, salt, a, b) >> 11) as f64 / (1u64 << 53) as f64
}

/// What a device is called.
pub(super) fn device_name(device: u32) -> String {
    match device % 8 {
        1 if device % 16 == 9 => format!("-{device}"),
        1 => format!("{}", 1000 + u64::from(device)),
        3 => format!("gerät-{device}"),
        5 => format!("泵 {device}/µ"),
        7 => format!("pump 😀 \"{device}\""),
        _ => format!("d-{device}"),
    }
}

/// What a sensor is called.
pub(super) fn sensor_name(sensor: u32) -> String {
    match sensor {
        0 => "temp".into(),
        1 => "Öldruck".into(),
        2 => "2".into(),
        3 => "vibration/x".into(),
        4 => "value".into(),
        _ => format!("s{sensor}"),
    }
}

/// What a series measures: values lie within `spread` of `level`, but for stretches that are off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signal {
    level: f64,
    spread: f64,
}

impl Signal {
    pub(super) fn of(fleet: &Fleet, device: u32, sensor: u32) -> Self {
        let draw = |salt| share(fleet.seed, salt, u64::from(device), u64::from(sensor));
        if fleet.exact {
            let level = (draw(1) * 8000.0).floor() - 2000.0;
            return Self { level: level / 8.0, spread: (8.0 + (draw(2) * 56.0).floor()) / 8.0 };
        }
        // One size and one sign in each series: no sum cancels, so sums of any order agree to their last bits.
        let size = [1e-6, 0.1, 20.0, 1000.0, 1e9][(draw(1) * 5.0) as usize];
        let sign = if draw(3) < 0.25 { -1.0 } else { 1.0 };
        let level: f64 = sign * size * (1.0 + draw(2));
        Self { level, spread: level.abs() * 0.05 }
    }

    /// A value; `off` is the anomaly that a model should see.
    pub(super) fn draw(self, exact: bool, off: bool, rng: &mut Rng) -> Value {
        let away = if off { 3.0 * self.spread } else { 0.0 };
        if exact {
            let spread = (self.spread * 8.0) as i64;
            let middle = ((self.level + away) * 8.0) as i64;
            return Value::Eighths(middle + rng.i64(-spread..=spread));
        }
        Value::Float(self.level + away + self.spread * (2.0 * rng.f64() - 1.0))
    }

    /// A model that calls what is near the level normal.
    pub(super) fn model(self, fleet: &Fleet, device: u32, sensor: u32) -> ModelNumbers {
        let draw = |salt| share(fleet.seed, salt, u64::from(device), u64::from(sensor));
        ModelNumbers {
            mean: self.level,
            scale: self.spread,
            gamma: 1.0 + draw(4),
            vectors: vec![-0.6 - 0.1 * draw(5), 0.05, 0.6 + 0.1 * draw(6)],
            coefficients: vec![0.5, 0.25, 0.5],
            rho: 0.6 + 0.05 * draw(7),
        }
    }
}
