//! From a message being sent to its readings being in SQL, and to its window being scored.

use crate::Result;
use crate::live::producer::Probe;
use crate::live::sql::Sql;
use crate::live::{now_us, producer::Producer};
use crate::report::quantile;
use std::collections::{BTreeMap, VecDeque};

/// Messages under way, and how long those took that have arrived.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// By partition, in the order of sending.
    to_sql: BTreeMap<u32, VecDeque<Probe>>,
    /// By the start of their pane.
    to_score: BTreeMap<i64, Vec<Probe>>,
    committed_s: Vec<f64>,
    scored_s: Vec<f64>,
    /// Runs that ended after this were not seen yet.
    runs_since_us: i64,
}

/// Seconds of one stretch: median and 99th percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Percentiles {
    /// Half take no longer.
    pub p50_s: Option<f64>,
    /// All but one of a hundred take no longer.
    pub p99_s: Option<f64>,
}

impl Percentiles {
    fn of(seconds: &mut Vec<f64>) -> Self {
        let seconds = std::mem::take(seconds);
        Self { p50_s: quantile(&seconds, 0.5), p99_s: quantile(&seconds, 0.99) }
    }
}

impl Latencies {
    /// Looks at positions; the number of messages in SQL.
    pub(super) fn look(&mut self, positions: &[(u32, i64)], producer: &Producer) -> i64 {
        for probe in producer.probes() {
            self.to_sql.entry(probe.partition).or_default().push_back(probe);
            self.to_score.entry(probe.pane_us).or_default().push(probe);
        }
        let now = now_us();
        for (partition, next) in positions {
            let Some(waiting) = self.to_sql.get_mut(partition) else { continue };
            while let Some(probe) = waiting.pop_front_if(|p| p.offset < *next) {
                self.committed_s.push((now - probe.sent_us) as f64 / 1e6);
            }
        }
        positions.iter().map(|(_, next)| next).sum()
    }

    /// Looks at first runs that have ended since the last look.
    pub(super) fn look_at_runs(&mut self, sql: &mut Sql) -> Result<()> {
        let rows = sql.rows(&format!(
            "SELECT (extract(epoch FROM interval_start) * 1000000)::bigint, \
             (extract(epoch FROM finished_at) * 1000000)::bigint FROM runs \
             WHERE cause IN ('schedule', 'catch_up') AND state IN ('succeeded', 'partial') \
             AND finished_at > to_timestamp({}::float8 / 1000000)",
            self.runs_since_us
        ))?;
        for row in rows {
            let (pane_us, finished_us): (i64, i64) = (row.get(0), row.get(1));
            let probes = self.to_score.remove(&pane_us).unwrap_or_default();
            self.scored_s.extend(probes.iter().map(|p| (finished_us - p.sent_us) as f64 / 1e6));
            self.runs_since_us = self.runs_since_us.max(finished_us);
        }
        Ok(())
    }

    /// What arrived since the last call: in SQL, and scored.
    pub(super) fn take(&mut self) -> (Percentiles, Percentiles) {
        (Percentiles::of(&mut self.committed_s), Percentiles::of(&mut self.scored_s))
    }
}
