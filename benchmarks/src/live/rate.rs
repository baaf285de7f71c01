//! The greatest rate at which readings come into SQL on this machine: producer, broker, database, aggregation and scoring
//! share its cores, and there is always a backlog.

use super::producer::Producer;
use super::{Load, Site};
use crate::Result;
use fleetscore_harness::Servers;
use std::time::{Duration, Instant};

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Readings a second that were committed.
    pub readings_a_second: f64,
    /// The stretch in seconds.
    pub seconds: f64,
    /// Readings in the stretch.
    pub readings: u64,
}

/// Measures it over about `seconds`, with a fleet that says `guess` readings in a second of event time.
///
/// # Errors
/// A process has ended, the broker refused a message, nothing was committed.
pub fn measure(site: &Site, servers: &Servers, load: &Load, guess: f64, seconds: u64) -> Result<Rate> {
    let mut pipeline = site.pipeline(servers, "rate", load)?;
    let fleet = load.fleet(guess, super::now_us() - 4 * 3_600_000_000);
    let backlog = (guess * 20.0 / f64::from(super::PACKED)) as u64 + 8;
    let producer = Producer::start(&pipeline.bootstrap, &pipeline.topic, fleet, None, Some(backlog))?;
    // (seconds, messages in SQL) at each commit.
    let mut commits: Vec<(f64, u64)> = Vec::new();
    let (began, warm_up) = (Instant::now(), Duration::from_secs(seconds / 3));
    while began.elapsed() < warm_up + Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(50));
        pipeline.alive()?;
        if producer.ended() {
            break;
        }
        let in_sql: i64 = pipeline.positions()?.iter().map(|(_, next)| next).sum();
        let in_sql = in_sql.unsigned_abs();
        producer.in_sql(in_sql);
        if began.elapsed() >= warm_up && commits.last().is_none_or(|(_, last)| *last != in_sql) {
            commits.push((began.elapsed().as_secs_f64(), in_sql));
        }
    }
    let (messages, readings) = producer.sent();
    producer.stop()?;
    pipeline.stop();
    // The first is whatever was there when the stretch began, the second a commit.
    let [_, first, .., last] = commits[..] else { return Err("there were fewer than three commits".into()) };
    let (seconds, committed) = (last.0 - first.0, (last.1 - first.1) as f64);
    let readings = committed * readings as f64 / messages as f64;
    Ok(Rate { readings_a_second: readings / seconds, seconds, readings: readings as u64 })
}
