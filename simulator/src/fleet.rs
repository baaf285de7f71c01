//! The fleet: devices that are read together, in the order of event time.

use crate::signal::{SENSORS, Signal};
use crate::{Fault, FleetOptions, SimReading};
use fastrand::Rng;

const DEVICES: [&str; 5] = ["press", "pump", "mill", "fan", "robot"];
/// Part of a period within which a device's readings lie at random; the rest is its own fixed place.
const JITTER: f64 = 0.2;

/// One device: its next instant, and its sensors.
#[derive(Debug)]
struct Device {
    /// Which period comes next.
    period: i64,
    /// Its place in every period, without jitter: microseconds.
    place_us: i64,
    /// Event time of the next readings.
    next_us: i64,
    rng: Rng,
    signals: Vec<Signal>,
}

/// A seeded fleet. It stands at an event time, and [`Self::advance`] moves it on.
#[derive(Debug)]
pub struct Fleet {
    options: FleetOptions,
    sensor_names: Vec<String>,
    devices: Vec<Device>,
    faults: Vec<Fault>,
    now_us: i64,
}

impl Fleet {
    /// A fleet that stands just before its beginning.
    pub fn new(mut options: FleetOptions) -> Self {
        options.period_us = options.period_us.max(1);
        let mut rng = Rng::with_seed(options.seed);
        let devices = (0..options.devices).map(|d| {
            let mut rng = rng.fork();
            let place_us = (options.period_us as f64 * (1.0 - JITTER) * rng.f64()) as i64;
            let series = |sensor| d * options.sensors + sensor;
            let signals = (0..options.sensors)
                .map(|sensor| Signal::new(&options, series(sensor), sensor, &mut rng))
                .collect();
            let mut device = Device { period: 0, place_us, next_us: 0, rng, signals };
            device.next_us = device.instant(&options);
            device
        });
        Self {
            devices: devices.collect(),
            sensor_names: (0..options.sensors as usize).map(sensor_name).collect(),
            faults: Vec::new(),
            now_us: options.start_us.saturating_sub(1),
            options,
        }
    }

    /// Number of series; they are counted from 0.
    pub fn series(&self) -> u32 {
        self.options.devices * self.options.sensors
    }

    /// Name of the device of a series, such as `press-07`.
    pub fn device(&self, series: u32) -> String {
        let device = (series / self.options.sensors.max(1)) as usize;
        format!("{}-{:02}", DEVICES[device % DEVICES.len()], device / DEVICES.len() + 1)
    }

    /// Name of the sensor of a series, such as `temperature`.
    ///
    /// # Panics
    /// If there is no such series.
    pub fn sensor(&self, series: u32) -> &str {
        assert!(series < self.series(), "series {series} of {}", self.series());
        &self.sensor_names[(series % self.options.sensors) as usize]
    }

    /// Usual level of a series, and how far at most a healthy value strays from it.
    ///
    /// # Panics
    /// If there is no such series.
    pub fn band(&self, series: u32) -> (f64, f64) {
        assert!(series < self.series(), "series {series} of {}", self.series());
        let (device, sensor) = (series / self.options.sensors, series % self.options.sensors);
        self.devices[device as usize].signals[sensor as usize].band()
    }

    /// The event time that the fleet has reached, in microseconds since the epoch.
    pub fn now_us(&self) -> i64 {
        self.now_us
    }

    /// Moves on to `until_us` and appends the readings of the time between, `until_us` included, ordered by time and
    /// series. Does nothing if the fleet is there already.
    pub fn advance(&mut self, until_us: i64, out: &mut Vec<SimReading>) {
        if until_us <= self.now_us {
            return;
        }
        let (first_reading, first_fault) = (out.len(), self.faults.len());
        for device in &mut self.devices {
            while device.next_us <= until_us {
                let ts_us = device.next_us;
                for signal in &mut device.signals {
                    if let Some(value) = signal.read(&self.options, ts_us, &mut self.faults) {
                        out.push(SimReading { series: signal.series(), ts_us, value });
                    }
                }
                device.period += 1;
                device.next_us = device.instant(&self.options);
            }
            for signal in &mut device.signals {
                signal.settle(&self.options, until_us, &mut self.faults);
            }
        }
        out[first_reading..].sort_by_key(|r| (r.ts_us, r.series));
        self.faults[first_fault..].sort_by_key(|f| (f.from_us, f.series));
        self.now_us = until_us;
    }

    /// Labels of the faults that have begun by now, ordered by their beginning.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl Device {
    /// When the device is read in its next period.
    fn instant(&mut self, options: &FleetOptions) -> i64 {
        let jitter = (options.period_us as f64 * JITTER * self.rng.f64()) as i64;
        let begin = options.start_us.saturating_add(self.period.saturating_mul(options.period_us));
        let ts_us = begin.saturating_add(self.place_us + jitter);
        // Whole milliseconds keep messages short; a period keeps its one reading all the same.
        if options.period_us >= 100_000 { (ts_us - ts_us.rem_euclid(1000)).max(begin) } else { ts_us }
    }
}

fn sensor_name(sensor: usize) -> String {
    let name = SENSORS[sensor % SENSORS.len()].0;
    match sensor / SENSORS.len() {
        0 => name.to_owned(),
        n => format!("{name}-{}", n + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultKind;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const MINUTE: i64 = 60_000_000;

    fn options() -> FleetOptions {
        let defaults = FleetOptions::default();
        FleetOptions {
            devices: 4,
            faults_from_us: defaults.start_us + 10 * MINUTE,
            fault_rate: 0.05,
            ..defaults
        }
    }

    fn run(options: FleetOptions, minutes: i64) -> (Fleet, Vec<SimReading>) {
        let until = options.start_us + minutes * MINUTE;
        let mut fleet = Fleet::new(options);
        let mut out = Vec::new();
        fleet.advance(until, &mut out);
        (fleet, out)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_steps_do_not_matter(seed in any::<u64>(), steps in prop::collection::vec(0i64..3 * MINUTE, 1..40)) {
            let options = FleetOptions { seed, period_us: 5_000_000, ..options() };
            let mut fleet = Fleet::new(options.clone());
            let mut stepped = Vec::new();
            let mut now = options.start_us;
            for step in steps {
                now += step;
                fleet.advance(now, &mut stepped);
                prop_assert_eq!(fleet.now_us(), now);
            }
            let mut whole_fleet = Fleet::new(options.clone());
            let mut whole = Vec::new();
            whole_fleet.advance(now, &mut whole);
            prop_assert_eq!(&stepped, &whole);
            prop_assert_eq!(fleet.faults(), whole_fleet.faults());
            prop_assert!(whole.is_sorted_by_key(|r| (r.ts_us, r.series)));
        }

        #[test]
        fn odd_options_are_survived(
            devices in 0u32..3, sensors in 0u32..13, period_us in -5i64..2_000_000, rate in -1.0..100.0f64,
            len in (-10i64..MINUTE, -10i64..MINUTE),
        ) {
            let mut fleet = Fleet::new(FleetOptions {
                devices, sensors, period_us, fault_rate: rate, fault_len_us: len, faults_from_us: 0, ..options()
            });
            let mut out = Vec::new();
            fleet.advance(options().start_us + 20_000, &mut out);
            prop_assert!(out.iter().all(|r| r.series < fleet.series() && r.value.is_finite()));
        }
    }

    #[test]
    fn the_seed_decides() {
        let (a, readings_a) = run(options(), 60);
        let (b, readings_b) = run(options(), 60);
        let (_, readings_c) = run(FleetOptions { seed: 2, ..options() }, 60);
        assert_eq!(readings_a, readings_b);
        assert_eq!(a.faults(), b.faults());
        assert_ne!(readings_a, readings_c);
    }

    #[test]
    fn a_first_reading_is_pinned() {
        // Recorded runs stay comparable only while the numbers of a seed stay what they are.
        let (fleet, readings) = run(FleetOptions::default(), 1);
        let first = readings[0];
        let name = format!("{}/{}", fleet.device(first.series), fleet.sensor(first.series));
        assert_eq!((name.as_str(), first.ts_us, first.value), PINNED);
    }

    const PINNED: (&str, i64, f64) = ("mill-01/temperature", 1_767_225_600_149_000, 63.159);

    #[test]
    fn every_series_has_one_reading_in_every_period_and_devices_read_together() {
        let options = FleetOptions { fault_rate: 0.0, ..options() };
        let (fleet, readings) = run(options.clone(), 10);
        assert_eq!(readings.len(), 4 * 5 * 600);
        let mut periods = BTreeSet::new();
        let mut instants: BTreeMap<(u32, i64), i64> = BTreeMap::new();
        for r in &readings {
            let period = (r.ts_us - options.start_us) / options.period_us;
            assert!(periods.insert((r.series, period)), "{r:?}");
            assert_eq!(*instants.entry((r.series / 5, period)).or_insert(r.ts_us), r.ts_us, "{r:?}");
            assert_eq!(r.ts_us % 1000, 0);
            assert_eq!((r.value * 1e3).round() / 1e3, r.value);
        }
        assert!(fleet.faults().is_empty());
    }

    #[test]
    fn faults_change_their_own_readings_alone() {
        let (fleet, readings) = run(options(), 240);
        let (_, healthy) = run(FleetOptions { fault_rate: 0.0, ..options() }, 240);
        let healthy: BTreeMap<_, _> = healthy.iter().map(|r| ((r.series, r.ts_us), r.value)).collect();
        let seen: BTreeMap<_, _> = readings.iter().map(|r| ((r.series, r.ts_us), r.value)).collect();
        let label = |series, ts| {
            fleet.faults().iter().find(|f| f.series == series && f.from_us <= ts && ts < f.to_us)
        };
        let mut kinds: BTreeMap<FaultKind, (usize, usize)> = BTreeMap::new();
        for (&(series, ts), &value) in &healthy {
            let found = seen.get(&(series, ts));
            match label(series, ts) {
                None => assert_eq!(found, Some(&value), "series {series} at {ts} is healthy"),
                Some(fault) => {
                    let (all, far) = kinds.entry(fault.kind).or_default();
                    *all += 1;
                    let (level, band) = fleet.band(series);
                    *far += usize::from(found.is_some_and(|v| (v - level).abs() > band));
                    assert_eq!(found.is_none(), fault.kind == FaultKind::Silence, "{fault:?} at {ts}");
                }
            }
        }
        assert!(healthy.iter().all(|((series, _), v)| {
            let (level, band) = fleet.band(*series);
            (v - level).abs() <= band
        }));
        assert_eq!(kinds.len(), 5, "{kinds:?}");
        let share = |kind| kinds[&kind].1 as f64 / kinds[&kind].0 as f64;
        assert_eq!(share(FaultKind::Spike), 1.0);
        assert!(share(FaultKind::Drift) > 0.7, "{kinds:?}");
        assert!(share(FaultKind::Noise) > 0.8, "{kinds:?}");
        assert!((0.2..0.8).contains(&share(FaultKind::Stuck)), "{kinds:?}");
    }

    #[test]
    fn labels_are_ordered_apart_and_as_many_as_the_rate_says() {
        let (fleet, _) = run(FleetOptions { period_us: 10_000_000, ..options() }, 2000);
        assert!(fleet.faults().is_sorted_by_key(|f| (f.from_us, f.series)));
        let mut ends: BTreeMap<u32, i64> = BTreeMap::new();
        for f in fleet.faults() {
            let len = f.to_us - f.from_us;
            assert!((120_000_000..=360_000_000).contains(&len), "{f:?}");
            assert!(f.from_us >= options().faults_from_us);
            assert!(ends.insert(f.series, f.to_us).is_none_or(|end| end < f.from_us), "{f:?}");
        }
        // 20 minutes of health and 4 of fault on average: 20 series × 1990 / 24.4.
        assert!((1400..1900).contains(&fleet.faults().len()), "{}", fleet.faults().len());
    }

    #[test]
    fn names_are_unique() {
        let fleet = Fleet::new(FleetOptions { devices: 300, sensors: 23, ..options() });
        let names: BTreeSet<_> =
            (0..fleet.series()).map(|s| (fleet.device(s), fleet.sensor(s).to_owned())).collect();
        assert_eq!(names.len(), 300 * 23);
        assert_eq!((fleet.device(0).as_str(), fleet.sensor(0)), ("press-01", "temperature"));
        assert_eq!(fleet.sensor(13), "current-2");
    }
}
