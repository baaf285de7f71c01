//! Readings of a simulated fleet, one after the other, for ever or for a stretch of event time.

use super::csv::Reading;
use super::pace::Pace;
use fleetscore_schemas::time::{Timestamp, US_PER_S};
use fleetscore_simulator::{Fleet, FleetOptions, SimReading};

/// Event time is made in steps of this length.
const STEP_US: i64 = US_PER_S;
/// How far back an endless simulation begins that runs faster than the clock.
const CATCH_UP_US: i64 = 3600 * US_PER_S;

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// First event time.
    pub(crate) start: Timestamp,
    /// One past the last; `None` = for ever.
    pub(crate) end: Option<Timestamp>,
    /// How fast.
    pub(crate) pace: Pace,
}

/// Where event time begins and ends: never ahead of the clock.
///
/// With a length and no speed it ends now and is sent as fast as it goes; with a speed it ends when the clock does;
/// without a length it catches up with the clock and goes on in real time.
pub(crate) fn plan(now: Timestamp, duration_us: Option<i64>, speed: Option<f64>, rate: Option<f64>) -> Plan {
    let (start, end, speed) = match (duration_us, speed) {
        (Some(d), None) => (now.plus_us(-d), Some(now), None),
        (Some(d), Some(x)) => {
            // It takes d / x; what of d that is longer than that lies in the past.
            let back = (d as f64 * (1.0 - 1.0 / x)).max(0.0) as i64;
            let start = now.plus_us(-back);
            (start, Some(start.plus_us(d)), Some(x))
        }
        (None, x) => {
            let x = x.unwrap_or(1.0);
            let start = if x > 1.0 { now.plus_us(-CATCH_UP_US) } else { now };
            (start, None, Some(x))
        }
    };
    Plan { start, end, pace: Pace { rate, speed, clock: Some(now) } }
}

/// Readings of the fleet in time order.
pub(crate) struct Simulated {
    fleet: Fleet,
    next: Timestamp,
    end: Option<Timestamp>,
    buffer: Vec<SimReading>,
    at: usize,
}

impl Simulated {
    pub(crate) fn new(options: FleetOptions, end: Option<Timestamp>) -> Self {
        let next = Timestamp(options.start_us);
        Self { fleet: Fleet::new(options), next, end, buffer: Vec::new(), at: 0 }
    }

    /// Faults injected so far.
    pub(crate) fn faults(&self) -> usize {
        self.fleet.faults().len()
    }
}

impl Iterator for Simulated {
    type Item = Reading;

    fn next(&mut self) -> Option<Reading> {
        while self.at == self.buffer.len() {
            if self.end.is_some_and(|end| self.next >= end) {
                return None;
            }
            self.next = self.next.plus_us(STEP_US).min(self.end.unwrap_or(Timestamp::END_EVENT));
            self.buffer.clear();
            self.at = 0;
            self.fleet.advance(self.next.0, &mut self.buffer);
        }
        let r = self.buffer[self.at];
        self.at += 1;
        Some(reading(&self.fleet, &r))
    }
}

/// A simulated reading under its names.
pub(crate) fn reading(fleet: &Fleet, r: &SimReading) -> Reading {
    Reading {
        device: fleet.device(r.series),
        sensor: fleet.sensor(r.series).to_owned(),
        ts: Timestamp(r.ts_us),
        value: r.value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_time_is_never_ahead_of_the_clock() {
        let now = Timestamp(1_000_000 * US_PER_S);
        let minute = 60 * US_PER_S;
        for (duration, speed, start_back, len) in [
            (Some(10 * minute), None, 10 * minute, Some(10 * minute)),
            (Some(10 * minute), Some(1.0), 0, Some(10 * minute)),
            (Some(10 * minute), Some(10.0), 9 * minute, Some(10 * minute)),
            (None, None, 0, None),
            (None, Some(60.0), 60 * minute, None),
        ] {
            let p = plan(now, duration, speed, None);
            assert_eq!(now.0 - p.start.0, start_back, "{duration:?} {speed:?}");
            assert_eq!(p.end.map(|e| e.0 - p.start.0), len);
            for s in [0, 1, 60, 3600] {
                let elapsed = std::time::Duration::from_secs(s);
                let clock = now.plus_us(s as i64 * US_PER_S);
                let end = p.end.unwrap_or(Timestamp::END_EVENT);
                assert!(
                    p.pace.event_time(p.start, elapsed).min(end) <= clock,
                    "{duration:?} {speed:?} after {s} s"
                );
            }
        }
    }
}
