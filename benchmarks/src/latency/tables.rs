//! The results as a report.

use super::{CHECKPOINT_S, LOOK_EVERY, Measured};
use crate::live::{DISORDER_S, PACKED, PANE_S};
use crate::report::{Cell, Goal, Report, Table, quantile};

/// The load whose way into SQL has a goal, in percent …
const GOAL_AT: f64 = 50.0;
/// … and the goal for 99 of a hundred messages, in seconds.
const GOAL_S: f64 = 2.0;

/// How long things took, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// How many.
    pub samples: u64,
    /// Half take no longer.
    pub p50_s: Option<f64>,
    /// Nine of ten take no longer.
    pub p90_s: Option<f64>,
    /// All but one of a hundred take no longer.
    pub p99_s: Option<f64>,
    /// The longest.
    pub most_s: Option<f64>,
}

impl Spread {
    /// Of these.
    pub fn of(seconds: &[f64]) -> Self {
        let at = |share| quantile(seconds, share);
        let samples = seconds.len() as u64;
        Self { samples, p50_s: at(0.5), p90_s: at(0.9), p99_s: at(0.99), most_s: at(1.0) }
    }

    fn cells(&self) -> Vec<Cell> {
        let number = |s: Option<f64>| Cell::number(s, 2);
        vec![
            self.samples.into(),
            number(self.p50_s),
            number(self.p90_s),
            number(self.p99_s),
            number(self.most_s),
        ]
    }
}

/// The results of all loads as a report.
pub fn report(report: &mut Report, measured: &[Measured]) {
    let Some(first) = measured.first() else { return };
    let load = &first.scenario.load;
    report.setting(
        "load",
        format!(
            "{} series in {} partitions for {:.0} s each, messages of {PACKED}, panes of {PANE_S} s",
            load.series(),
            load.partitions,
            first.scenario.seconds
        ),
    );
    report.setting(
        "settings",
        format!(
            "checkpoint_interval = {CHECKPOINT_S}s, max_disorder = {DISORDER_S}s, a schedule for each pane"
        ),
    );
    report.setting(
        "samples",
        format!("a message of each partition every 50 ms; SQL is looked at every {LOOK_EVERY:?}"),
    );
    report.setting("seed", load.seed.to_string());
    let mut table =
        Table::new("Latency", &["load", "from … to", "samples", "median s", "p90 s", "p99 s", "most s"]);
    let mut results = Table::new(
        "Result",
        &[
            "load",
            "readings/s due",
            "readings/s sent",
            "readings",
            "late",
            "windows",
            "predictions",
            "dead letters",
            "differences",
        ],
    );
    for m in measured {
        let name = format!("{} %", m.scenario.percent);
        for (what, seconds) in [
            ("arrival → commit", &m.committed_s),
            ("arrival → prediction", &m.scored_s),
            ("window closed → prediction", &m.closed_s),
        ] {
            let mut row = vec![name.clone().into(), what.into()];
            row.extend(Spread::of(seconds).cells());
            table.row(row);
        }
        let c = &m.compared;
        let counts = [m.readings.0, m.readings.1, c.windows, c.predictions, c.letters, c.differences];
        // Fewer than are due where the producer finds no core.
        let rates = [m.scenario.rate, m.sent_a_second].map(|rate| Cell::Number(rate, 0));
        results.row([name.into()].into_iter().chain(rates).chain(counts.map(Cell::Count)).collect());
    }
    report.table(table);
    report.table(results);
    for m in measured.iter().filter(|m| m.scenario.percent == GOAL_AT) {
        let p99 = quantile(&m.committed_s, 0.99).unwrap_or(f64::INFINITY);
        report.goal(Goal::at_most(format!("arrival → commit at {GOAL_AT} %, p99 in s"), GOAL_S, p99));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_of_many_and_of_none() {
        let seconds: Vec<f64> = (1..=1000).map(f64::from).collect();
        let spread = Spread::of(&seconds);
        assert_eq!((spread.samples, spread.p50_s, spread.p90_s), (1000, Some(500.0), Some(900.0)));
        assert_eq!((spread.p99_s, spread.most_s), (Some(990.0), Some(1000.0)));
        assert_eq!(Spread::of(&[]), Spread::default());
    }
}
