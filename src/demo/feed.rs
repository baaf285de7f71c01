//! The demo's producer: the training stretch as fast as it is consumed, then event time at the demo's speed until it
//! meets the clock, then real time.

use crate::exit::Fail;
use crate::send::pace::Pace;
use crate::send::{pack, simulate};
use fleetscore_ingest::Producer;
use fleetscore_schemas::time::{Timestamp, US_PER_S};
use fleetscore_simulator::{Fault, Fleet, SimReading};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Readings sent and not yet consumed, at most: the embedded broker keeps 5 MiB of a partition, and drops what is
/// older. 20,000 readings are below 2 MB even if all were of one partition.
const AHEAD: u64 = 20_000;
/// How often event time moves.
const TICK: Duration = Duration::from_millis(50);

/// What the rest of the demo sees of the producer.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    /// Readings sent.
    pub(crate) sent: AtomicU64,
    /// Where event time stands, microseconds.
    pub(crate) event_us: AtomicI64,
    faults: Mutex<Vec<Fault>>,
}

impl Feed {
    /// Labels of the faults that have begun.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// What is to be sent, and how fast.
pub(crate) struct Feeder<C> {
    pub(crate) fleet: Fleet,
    pub(crate) producer: Producer,
    /// Up to here as fast as it is consumed.
    pub(crate) fast_until: Timestamp,
    /// Seconds of event time a second after that.
    pub(crate) speed: f64,
    /// How many readings were consumed so far.
    pub(crate) consumed: C,
    pub(crate) fields: [String; 5],
}

impl<C: Fn() -> u64 + Send> Feeder<C> {
    /// Sends until dropped.
    ///
    /// # Errors
    /// Where a message cannot be sent.
    pub(crate) async fn run(mut self, feed: &Feed) -> Result<(), Fail> {
        // Steps small enough that the bound on what is ahead holds.
        let series = i64::from(self.fleet.series().max(1));
        let step_us = (10 * US_PER_S).min(60 * US_PER_S * 100 / series).max(US_PER_S / 10);
        let mut at = Timestamp(self.fleet.now_us());
        while at < self.fast_until {
            at = at.plus_us(step_us).min(self.fast_until);
            self.send_until(at, feed).await?;
        }
        let (started, clock) = (Instant::now(), chrono::Utc::now().into());
        let pace = Pace { rate: None, speed: Some(self.speed), clock: Some(clock) };
        loop {
            tokio::time::sleep(TICK).await;
            let target = pace.event_time(self.fast_until, started.elapsed());
            while at < target {
                at = at.plus_us(step_us).min(target);
                self.send_until(at, feed).await?;
            }
        }
    }

    async fn send_until(&mut self, until: Timestamp, feed: &Feed) -> Result<(), Fail> {
        let mut readings: Vec<SimReading> = Vec::new();
        self.fleet.advance(until.0, &mut readings);
        for r in &readings {
            // A look at what was consumed is cheap, but not for every reading.
            if feed.sent.load(Ordering::Relaxed).is_multiple_of(256) {
                while feed.sent.load(Ordering::Relaxed) >= (self.consumed)() + AHEAD {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            let reading = simulate::reading(&self.fleet, r);
            let payload = pack::single(&self.fields, &reading);
            self.producer.send(reading.device.as_bytes(), payload.as_bytes(), None).await?;
            feed.sent.fetch_add(1, Ordering::Relaxed);
        }
        feed.event_us.store(until.0, Ordering::Relaxed);
        let faults = self.fleet.faults();
        let mut seen = feed.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = seen.len();
        seen.extend_from_slice(&faults[known..]);
        Ok(())
    }
}
