//! When a reading is due: so many a second, so much event time a second, never ahead of the clock where that is asked.

use fleetscore_schemas::time::Timestamp;
use std::time::Duration;

/// How fast readings are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pace {
    /// Readings a second.
    pub(crate) rate: Option<f64>,
    /// Seconds of event time a second.
    pub(crate) speed: Option<f64>,
    /// The clock when sending began: event time never passes the clock (a simulation that meets it goes on in real
    /// time).
    pub(crate) clock: Option<Timestamp>,
}

impl Pace {
    /// How long after the beginning a reading is due: the `index`-th (from 0), where the first was of `first`.
    pub(crate) fn due(&self, index: u64, first: Timestamp, ts: Timestamp) -> Duration {
        let mut seconds: f64 = 0.0;
        if let Some(rate) = self.rate {
            seconds = seconds.max(index as f64 / rate);
        }
        if let Some(speed) = self.speed {
            seconds = seconds.max((ts.0 - first.0) as f64 / 1e6 / speed);
        }
        if let Some(clock) = self.clock {
            seconds = seconds.max((ts.0 - clock.0) as f64 / 1e6);
        }
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
    }

    /// Where event time stands so long after the beginning, if `first` was sent at once: the inverse of
    /// [`Pace::due`] for `speed` and `clock`.
    pub(crate) fn event_time(&self, first: Timestamp, elapsed: Duration) -> Timestamp {
        let s = elapsed.as_secs_f64();
        let by_speed = self.speed.map(|x| first.plus_us((s * x * 1e6) as i64));
        let by_clock = self.clock.map(|c| c.plus_us((s * 1e6) as i64));
        match (by_speed, by_clock) {
            (Some(a), Some(b)) => a.min(b),
            (Some(t), None) | (None, Some(t)) => t,
            (None, None) => Timestamp(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    #[test]
    fn cases() {
        let first = Timestamp(1_000 * S);
        let at = |s: i64| Timestamp((1_000 + s) * S);
        let clock = Some(at(100));
        for (pace, index, ts, due_ms) in [
            (Pace::default(), 10, at(50), 0),
            (Pace { rate: Some(10.0), ..Pace::default() }, 5, at(50), 500),
            (Pace { speed: Some(10.0), ..Pace::default() }, 5, at(50), 5_000),
            (Pace { speed: Some(10.0), ..Pace::default() }, 5, at(-50), 0),
            (Pace { rate: Some(1.0), speed: Some(10.0), clock: None }, 5, at(20), 5_000),
            // Ten times as fast until the clock is met: 100 s behind, met after 100 / 9 s.
            (Pace { speed: Some(10.0), clock, rate: None }, 0, at(100), 10_000),
            (Pace { speed: Some(10.0), clock, rate: None }, 0, at(200), 100_000),
        ] {
            assert_eq!(pace.due(index, first, ts).as_millis(), due_ms, "{pace:?}");
        }
    }

    #[test]
    fn event_time_is_the_inverse() {
        let first = Timestamp(1_000 * S);
        for pace in [
            Pace { speed: Some(60.0), clock: Some(Timestamp(4_600 * S)), rate: None },
            Pace { speed: Some(1.0), clock: None, rate: None },
        ] {
            for s in [1, 30, 61, 90] {
                let t = pace.event_time(first, Duration::from_secs(s));
                let due = pace.due(0, first, t);
                assert!(
                    due.abs_diff(Duration::from_secs(s)) < Duration::from_millis(1),
                    "{pace:?} {s} {due:?}"
                );
            }
        }
    }
}
