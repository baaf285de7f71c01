//! One series: its healthy value, and what a fault makes of it.

use crate::{Fault, FaultKind, FleetOptions};
use fastrand::Rng;

const MINUTE_US: f64 = 60e6;
/// How long the noise remembers.
const NOISE_MEMORY_US: f64 = 60e6;
/// Parts of the band that the slow swing and the noise between successive readings take.
const SWING: f64 = 0.15;
const WHITE: f64 = 0.1;

/// Name, usual level and healthy band of a kind of sensor.
pub(crate) const SENSORS: [(&str, f64, f64); 10] = [
    ("temperature", 60.0, 1.5),
    ("pressure", 6.0, 0.12),
    ("vibration", 2.5, 0.1),
    ("current", 14.0, 0.5),
    ("speed", 1480.0, 9.0),
    ("humidity", 45.0, 1.2),
    ("flow", 32.0, 0.8),
    ("torque", 210.0, 4.0),
    ("voltage", 400.0, 2.5),
    ("level", 75.0, 2.0),
];

/// A fault with what it does exactly.
#[derive(Debug, Clone, Copy)]
struct Plan {
    fault: Fault,
    /// Signed, in half-widths of the band.
    size: f64,
    /// [`FaultKind::Stuck`]: at a level of its own, not at the last value.
    off_level: bool,
    labelled: bool,
}

/// One series.
#[derive(Debug)]
pub(crate) struct Signal {
    series: u32,
    level: f64,
    band: f64,
    /// Part of a turn by which the swing is shifted.
    phase: f64,
    /// Weight of the noise's past.
    memory: f64,
    noise: f64,
    last: f64,
    value_rng: Rng,
    fault_rng: Rng,
    next: Option<Plan>,
}

impl Signal {
    pub(crate) fn new(options: &FleetOptions, series: u32, sensor: u32, rng: &mut Rng) -> Self {
        let (_, usual, band) = SENSORS[sensor as usize % SENSORS.len()];
        let level = round3(usual * (0.85 + 0.3 * rng.f64()));
        let band = band * (0.8 + 0.4 * rng.f64());
        let phase = rng.f64();
        let mut value_rng = rng.fork();
        let mut signal = Self {
            series,
            level,
            band,
            phase,
            memory: NOISE_MEMORY_US / (NOISE_MEMORY_US + options.period_us as f64),
            noise: unit_noise(&mut value_rng),
            last: level,
            value_rng,
            fault_rng: rng.fork(),
            next: None,
        };
        signal.next = signal.plan(options, options.faults_from_us.max(options.start_us));
        signal
    }

    pub(crate) fn series(&self) -> u32 {
        self.series
    }

    /// Usual level, and how far a healthy value strays from it.
    pub(crate) fn band(&self) -> (f64, f64) {
        (self.level, self.band * (1.0 + SWING + 2.0 * WHITE))
    }

    /// The reading at `ts_us`, if there is one. Labels of faults that have begun by then go to `labels`.
    pub(crate) fn read(
        &mut self,
        options: &FleetOptions,
        ts_us: i64,
        labels: &mut Vec<Fault>,
    ) -> Option<f64> {
        let healthy = self.healthy(options, ts_us);
        self.settle(options, ts_us, labels);
        let value = match self.next {
            Some(plan) if plan.fault.from_us <= ts_us => self.faulty(&plan, healthy, ts_us)?,
            _ => {
                self.last = healthy;
                healthy
            }
        };
        Some(round3(value))
    }

    /// Labels what has begun by `now_us` and plans what follows on what has ended.
    pub(crate) fn settle(&mut self, options: &FleetOptions, now_us: i64, labels: &mut Vec<Fault>) {
        while let Some(plan) = &mut self.next
            && plan.fault.from_us <= now_us
        {
            if !plan.labelled {
                plan.labelled = true;
                labels.push(plan.fault);
            }
            if plan.fault.to_us > now_us {
                return;
            }
            let ended = plan.fault.to_us;
            self.next = self.plan(options, ended);
        }
    }

    /// The value of a healthy machine. Draws the same numbers whether a fault covers it or not.
    fn healthy(&mut self, options: &FleetOptions, ts_us: i64) -> f64 {
        let fresh = unit_noise(&mut self.value_rng);
        self.noise = self.memory * self.noise + (1.0 - self.memory * self.memory).sqrt() * fresh;
        let held = self.noise / (1.0 + self.noise * self.noise).sqrt();
        let white = 2.0 * self.value_rng.f64() - 1.0;
        let length = options.swing_us.max(1);
        let turn = ts_us.rem_euclid(length) as f64 / length as f64;
        let swing = sine(turn + self.phase);
        self.level + self.band * (held + SWING * swing + WHITE * white)
    }

    fn faulty(&mut self, plan: &Plan, healthy: f64, ts_us: i64) -> Option<f64> {
        let Fault { kind, from_us, to_us, .. } = plan.fault;
        let size = plan.size * self.band;
        match kind {
            FaultKind::Spike => Some(healthy + size),
            FaultKind::Drift => Some(healthy + size * (ts_us - from_us) as f64 / (to_us - from_us) as f64),
            FaultKind::Stuck if plan.off_level => Some(self.level + size),
            FaultKind::Stuck => Some(self.last),
            FaultKind::Silence => None,
            FaultKind::Noise => Some(healthy + size * unit_noise(&mut self.fault_rng)),
        }
    }

    /// The first fault that begins after `after_us`. The gap is even between none and twice the mean.
    fn plan(&mut self, options: &FleetOptions, after_us: i64) -> Option<Plan> {
        if options.fault_rate <= 0.0 || !options.fault_rate.is_finite() {
            return None;
        }
        let rng = &mut self.fault_rng;
        let recovery = 2 * options.period_us;
        let gap = (2.0 * rng.f64() * MINUTE_US / options.fault_rate) as i64;
        let from_us = after_us.checked_add(recovery)?.checked_add(gap)?;
        let (shortest, longest) = options.fault_len_us;
        let shortest = shortest.min(longest).max(2 * options.period_us);
        let len = rng.i64(shortest..=longest.max(options.fault_len_us.0).max(shortest));
        let kind = FaultKind::ALL[rng.usize(..FaultKind::ALL.len())];
        let (least, most) = match kind {
            FaultKind::Spike => (6.0, 12.0),
            FaultKind::Drift => (8.0, 16.0),
            FaultKind::Stuck => (3.0, 6.0),
            FaultKind::Silence | FaultKind::Noise => (12.0, 24.0),
        };
        let size = (least + (most - least) * rng.f64()) * if rng.bool() { 1.0 } else { -1.0 };
        let off_level = rng.bool();
        let fault = Fault { series: self.series, kind, from_us, to_us: from_us.checked_add(len)? };
        Some(Plan { fault, size, off_level, labelled: false })
    }
}

/// Noise of mean 0 and variance 1: the sum of four even draws (Irwin and Hall), within ±3.5.
fn unit_noise(rng: &mut Rng) -> f64 {
    let sum = rng.f64() + rng.f64() + rng.f64() + rng.f64();
    (sum - 2.0) * 3f64.sqrt()
}

/// A sine by Bhaskara's formula, of an argument in turns: within 0.2 %, and the same on every machine.
fn sine(turns: f64) -> f64 {
    let half = 2.0 * (turns - turns.floor());
    let (x, sign) = if half < 1.0 { (half, 1.0) } else { (half - 1.0, -1.0) };
    let p = x * (1.0 - x);
    sign * 16.0 * p / (5.0 - 4.0 * p)
}

/// Three decimals are what a sensor gives, and keep messages short.
fn round3(v: f64) -> f64 {
    (v * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sine_is_one() {
        for i in -100..100 {
            let turns = f64::from(i) / 37.0;
            assert!((sine(turns) - (turns * std::f64::consts::TAU).sin()).abs() < 0.002, "{turns}");
        }
    }

    #[test]
    fn the_noise_has_mean_0_and_variance_1() {
        let mut rng = Rng::with_seed(5);
        let draws: Vec<f64> = (0..100_000).map(|_| unit_noise(&mut rng)).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
