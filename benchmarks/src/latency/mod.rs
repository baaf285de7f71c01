//! How long a reading that the broker has acknowledged takes into SQL, and to the prediction of its window, at shares of
//! the greatest rate.

mod tables;

pub use tables::{Spread, report};

use crate::Result;
use crate::live::compare::{Compared, compare};
use crate::live::latency::{Latencies, Since, Way};
use crate::live::producer::Producer;
use crate::live::{DISORDER_S, Load, PANE_S, Pipeline, Site, now_us};
use fleetscore_harness::{PATIENCE, Servers};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The setting `checkpoint_interval`, in seconds.
pub const CHECKPOINT_S: u64 = 1;
/// How often positions are looked at, which is how much too long a way into SQL may be measured.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often ends of runs are looked at: they have their own times, so that nothing depends on it.
const RUNS_EVERY: Duration = Duration::from_millis(250);
/// Readings come for so long before the first sample: more than a pane, so that a window has been scored.
const WARM_UP: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The fleet.
    pub load: Load,
    /// Percent of the greatest rate, for the report alone.
    pub percent: f64,
    /// Readings a second.
    pub rate: f64,
    /// How long messages are samples.
    pub seconds: f64,
}

/// What came of it, in seconds.
#[derive(Debug, Clone)]
pub struct Measured {
    /// What was measured.
    pub scenario: Scenario,
    /// From the broker's word for a message to its offset in SQL.
    pub committed_s: Vec<f64>,
    /// From there to the end of the run of its window.
    pub scored_s: Vec<f64>,
    /// From the moment at which all was sent that a window waits for to the end of its run: one for each window.
    pub closed_s: Vec<f64>,
    /// Readings in all, and how many of them were late.
    pub readings: (u64, u64),
    /// Readings that were sent in a second of the stretch.
    pub sent_a_second: f64,
    /// The result.
    pub compared: Compared,
}

struct Watch<'a> {
    pipeline: &'a mut Pipeline,
    producer: &'a Producer,
    latencies: Latencies,
    runs_at: Instant,
    closes: Closes,
}

/// When the readings that were sent had passed the end of a pane and the disorder that is waited for.
#[derive(Debug)]
struct Closes {
    next_pane_us: i64,
    /// The clock, by the start of the pane.
    passed: BTreeMap<i64, i64>,
}

impl Closes {
    const fn new(first_pane_us: i64) -> Self {
        Self { next_pane_us: first_pane_us, passed: BTreeMap::new() }
    }

    /// All up to this event time has been sent.
    fn sent(&mut self, event_us: i64, now_us: i64) {
        let pane_us = i64::from(PANE_S) * 1_000_000;
        while event_us >= self.next_pane_us + pane_us + DISORDER_S * 1_000_000 {
            self.passed.insert(self.next_pane_us, now_us);
            self.next_pane_us += pane_us;
        }
    }

    /// Seconds from there to the end of the run of each window.
    fn to_ends(&self, scored: &[Way]) -> Vec<f64> {
        let ends: BTreeMap<i64, i64> = scored.iter().map(|w| (w.pane_us, w.to_us)).collect();
        ends.iter()
            .filter_map(|(pane_us, end_us)| Some((end_us - self.passed.get(pane_us)?) as f64 / 1e6))
            .collect()
    }
}

impl Watch<'_> {
    fn tick(&mut self) -> Result<()> {
        std::thread::sleep(LOOK_EVERY);
        self.pipeline.alive()?;
        if self.producer.ended() {
            return Err("the producer has ended".into());
        }
        self.closes.sent(self.producer.event_us(), now_us());
        let positions = self.pipeline.positions()?;
        self.latencies.look(&positions, self.producer);
        if self.runs_at.elapsed() >= RUNS_EVERY {
            self.runs_at = Instant::now();
            self.latencies.look_at_runs(&mut self.pipeline.sql)?;
        }
        Ok(())
    }

    fn for_at_least(&mut self, time: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.tick()?;
        }
        Ok(())
    }

    /// Readings go on coming until the last sample has arrived, or the slowest ones would be missing.
    fn until_all_arrived(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let (not_in_sql, not_scored) = self.latencies.under_way();
            if not_in_sql + not_scored == 0 {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!(
                    "{not_in_sql} messages are not in SQL and {not_scored} not scored {PATIENCE:?} after the last of them"
                )
                .into());
            }
            self.tick()?;
        }
    }
}

/// Measures one load, with a topic, a database and processes of its own.
///
/// # Errors
/// A process ended, samples did not arrive, the result is not the oracle's.
pub fn measure(site: &Site, servers: &Servers, scenario: &Scenario) -> Result<Measured> {
    let mut pipeline = site.pipeline_with(servers, "latency", &scenario.load, CHECKPOINT_S)?;
    let fleet = scenario.load.fleet(scenario.rate, now_us());
    let closes = Closes::new(fleet.start_us);
    let producer = Producer::start(&pipeline.bootstrap, &pipeline.topic, fleet, Some(1.0), None)?;
    let latencies = Latencies::new(Since::Acknowledged);
    let mut watch =
        Watch { pipeline: &mut pipeline, producer: &producer, latencies, runs_at: Instant::now(), closes };
    watch.for_at_least(WARM_UP)?;
    watch.latencies.forget(&producer);
    let (began, (_, before)) = (Instant::now(), producer.sent());
    watch.for_at_least(Duration::from_secs_f64(scenario.seconds))?;
    watch.latencies.close(&producer);
    let sent_a_second = (producer.sent().1 - before) as f64 / began.elapsed().as_secs_f64();
    watch.until_all_arrived()?;
    let (committed, scored) = watch.latencies.take();
    let closed_s = watch.closes.to_ends(&scored);
    let sent = producer.stop()?;
    pipeline.settle(&sent, PATIENCE)?;
    pipeline.stop();
    let seconds = |ways: &[Way]| ways.iter().map(Way::seconds).collect();
    let measured = Measured {
        scenario: *scenario,
        committed_s: seconds(&committed),
        scored_s: seconds(&scored),
        closed_s,
        readings: (sent.readings, sent.late),
        sent_a_second,
        compared: compare(&mut pipeline.sql, &sent, &pipeline.models)?,
    };
    measured.compared.exact()?;
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_once_and_from_its_close() {
        let mut closes = Closes::new(20_000_000);
        closes.sent(31_999_999, 1_000_000);
        closes.sent(32_000_000, 2_000_000);
        closes.sent(52_000_000, 4_000_000);
        let way = |pane_us: i64, to_us: i64| Way { from_us: 0, to_us, pane_us };
        let scored = [way(20_000_000, 3_500_000), way(20_000_000, 3_500_000), way(40_000_000, 4_500_000)];
        assert_eq!(closes.to_ends(&scored), [1.5, 0.5]);
        assert_eq!(closes.to_ends(&[way(50_000_000, 9_000_000)]), [0.0; 0], "sent, but not beyond its end");
    }
}
