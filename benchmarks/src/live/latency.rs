//! From a message being sent, or acknowledged by the broker, to its readings being in SQL, and to its window being scored.

use super::now_us;
use super::producer::{Probe, Producer};
use super::sql::Sql;
use crate::Result;
use std::collections::{BTreeMap, VecDeque};

/// A run's end is by the clock of its transaction, so one that ended earlier may be seen later; by no more than this.
const OVERLAP_US: i64 = 10_000_000;

/// When a message's way begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// When it was handed to the client.
    Sent,
    /// When the broker had acknowledged it.
    Acknowledged,
}

/// How long a message took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// Its beginning, by the clock.
    pub from_us: i64,
    /// Its end.
    pub to_us: i64,
    /// Where the pane of one of its readings, which was not late, begins.
    pub pane_us: i64,
}

impl Way {
    /// From the beginning to the end.
    pub(crate) fn seconds(&self) -> f64 {
        (self.to_us - self.from_us) as f64 / 1e6
    }
}

/// Messages under way, and how long those took that have arrived.
#[derive(Debug)]
pub(crate) struct Latencies {
    since: Since,
    /// Messages that are sent from now on are no samples.
    closed: bool,
    /// By partition, in the order of sending.
    to_sql: BTreeMap<u32, VecDeque<Probe>>,
    /// By the start of their pane.
    to_score: BTreeMap<i64, Vec<Probe>>,
    committed: Vec<Way>,
    scored: Vec<Way>,
    /// The latest end of a run that was seen.
    runs_until_us: i64,
}

impl Latencies {
    /// Of no message yet.
    pub(crate) const fn new(since: Since) -> Self {
        Self {
            since,
            closed: false,
            to_sql: BTreeMap::new(),
            to_score: BTreeMap::new(),
            committed: Vec::new(),
            scored: Vec::new(),
            runs_until_us: 0,
        }
    }

    /// What was sent so far is no sample, wherever it is.
    pub(crate) fn forget(&mut self, producer: &Producer) {
        producer.probes();
        *self = Self { runs_until_us: self.runs_until_us, ..Self::new(self.since) };
    }

    /// What is sent from now on is no sample.
    pub(crate) fn close(&mut self, producer: &Producer) {
        self.admit(producer);
        self.closed = true;
    }

    /// How many samples are not in SQL, and how many not scored.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        (self.to_sql.values().map(VecDeque::len).sum(), self.to_score.values().map(Vec::len).sum())
    }

    fn admit(&mut self, producer: &Producer) {
        for probe in producer.probes().into_iter().filter(|_| !self.closed) {
            self.to_sql.entry(probe.partition).or_default().push_back(probe.clone());
            self.to_score.entry(probe.pane_us).or_default().push(probe);
        }
    }

    fn way(&self, probe: &Probe, to_us: i64) -> Way {
        let acknowledged_us = probe.acknowledged_us().filter(|_| self.since == Since::Acknowledged);
        // The client's thread may have the broker's word yet to pass on: it is too long then rather than too short.
        Way { from_us: acknowledged_us.unwrap_or(probe.sent_us), to_us, pane_us: probe.pane_us }
    }

    /// Looks at positions, which were asked for just now; the number of messages in SQL.
    pub(crate) fn look(&mut self, positions: &[(u32, i64)], producer: &Producer) -> i64 {
        self.admit(producer);
        let now = now_us();
        for (partition, next) in positions {
            while let Some(waiting) = self.to_sql.get_mut(partition)
                && let Some(probe) = waiting.pop_front_if(|p| p.offset < *next)
            {
                self.committed.push(self.way(&probe, now));
            }
        }
        positions.iter().map(|(_, next)| next).sum()
    }

    /// Looks at first runs that have ended since the last look.
    pub(crate) fn look_at_runs(&mut self, sql: &mut Sql) -> Result<()> {
        let rows = sql.rows(&format!(
            "SELECT (extract(epoch FROM interval_start) * 1000000)::bigint, \
             (extract(epoch FROM finished_at) * 1000000)::bigint FROM runs \
             WHERE cause IN ('schedule', 'catch_up') AND state IN ('succeeded', 'partial') \
             AND finished_at > to_timestamp({}::float8 / 1000000)",
            (self.runs_until_us - OVERLAP_US).max(0)
        ))?;
        for row in rows {
            let (pane_us, finished_us): (i64, i64) = (row.get(0), row.get(1));
            for probe in self.to_score.remove(&pane_us).unwrap_or_default() {
                self.scored.push(self.way(&probe, finished_us));
            }
            self.runs_until_us = self.runs_until_us.max(finished_us);
        }
        Ok(())
    }

    /// What arrived since the last call: in SQL, and scored.
    pub(crate) fn take(&mut self) -> (Vec<Way>, Vec<Way>) {
        (std::mem::take(&mut self.committed), std::mem::take(&mut self.scored))
    }
}
