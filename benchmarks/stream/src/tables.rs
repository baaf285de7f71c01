//! What the consumptions of a topic come to: tables and goals.

use crate::consume::Run;
use crate::messages::Fleet;
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};

/// With fewer readings than this the last checkpoint, which comes up to a second after the last message, is what is measured:
/// no goal is judged.
pub(crate) const JUDGED_FROM: usize = 10_000_000;

/// Windows of a series that are open at a time: a pane, and the one before for as long as readings may be out of order.
const OPEN_WINDOWS: f64 = 2.0;

/// What the threads of the product do, by their names.
const STAGES: [(&str, &str); 7] = [
    ("rdk:broker", "librdkafka: sockets, checksums, records"),
    ("rdk:main", "librdkafka: its own affairs"),
    ("fleetscore-poll", "polling: batches of one partition"),
    ("fleetscore-deco", "decoding: JSON to columns"),
    ("tokio-rt-worker", "judging, grouping, the store's client"),
    ("sqlite-writer", "SQLite"),
    ("postgres", "PostgreSQL, all of its processes"),
];

/// One repetition.
pub(crate) struct Ours {
    /// The bare client.
    pub(crate) bare: Run,
    pub(crate) postgres: Run,
    pub(crate) sqlite: Run,
}

/// All consumptions of one topic.
pub(crate) struct Measured {
    pub(crate) fleet: Fleet,
    /// By repetition.
    pub(crate) ours: Vec<Ours>,
    /// By repetition, those asked for in their order.
    pub(crate) peers: Vec<Vec<Run>>,
}

impl Measured {
    /// Adds its tables and goals.
    pub(crate) fn report(&self, report: &mut Report) {
        self.rates(report);
        self.stages(report);
        self.beside_peers(report);
    }

    /// A figure of each repetition.
    fn each(&self, figure: impl Fn(&Ours) -> f64) -> Vec<f64> {
        self.ours.iter().map(figure).collect()
    }

    fn millions(&self, run: &Run) -> f64 {
        self.fleet.readings as f64 / run.seconds / 1e6
    }

    /// The goals are those of single readings and of 100 a message.
    fn is_judged(&self) -> bool {
        self.fleet.readings >= JUDGED_FROM && matches!(self.fleet.packed, 1 | 100)
    }

    /// But for those of more series, of 10,000.
    fn is_judged_alone(&self) -> bool {
        self.is_judged() && self.fleet.series == 10_000
    }

    fn rates(&self, report: &mut Report) {
        let Fleet { packed, series, readings, .. } = self.fleet;
        let mut table = Table::new(
            format!("Kafka, {series} series, {packed} readings per message"),
            &["to", "M readings/s", "least", "most", "/ bare", "processor s per million", "peak MB"],
        );
        let bare = middle(&self.each(|all| self.millions(&all.bare)));
        let kinds: [fn(&Ours) -> &Run; 3] = [|all| &all.bare, |all| &all.postgres, |all| &all.sqlite];
        for of in kinds {
            let rates = self.each(|all| self.millions(of(all)));
            let cpu = self.each(|all| of(all).cpu / readings as f64 * 1e6);
            let [shown, least, most] = Cell::spread(&rates, 2);
            table.row(vec![
                self.ours.first().map_or("", |all| &of(all).what).into(),
                shown,
                least,
                most,
                Cell::number(middle(&rates) / bare, 2),
                Cell::number(median(&cpu), 2),
                Cell::megabytes(self.ours.iter().filter_map(|all| of(all).peak_bytes).max()),
            ]);
        }
        report.table(table);
        let rate = middle(&self.each(|all| self.millions(&all.postgres)));
        match packed {
            _ if !self.is_judged_alone() => {}
            1 => {
                report.goal(Goal::at_least("single readings into PostgreSQL / bare client", 0.8, rate / bare))
            }
            _ => {
                let what = format!("{packed} per message into PostgreSQL, M readings/s");
                report.goal(Goal::at_least(what, 4.0, rate));
            }
        }
    }

    /// Where the time of a reading goes.
    fn stages(&self, report: &mut Report) {
        let Fleet { packed, series, readings, .. } = self.fleet;
        let mut table = Table::new(
            format!("Processor time of one reading, {series} series, {packed} per message, ns"),
            &["stage", "thread", "into PostgreSQL", "into SQLite"],
        );
        let ns = |of: fn(&Ours) -> &Run, name: &str| {
            let all: Vec<f64> =
                self.ours.iter().filter_map(|all| of(all).stages.get(name).copied()).collect();
            median(&all).map(|s| s * 1e9 / readings as f64)
        };
        let mut names: Vec<&str> = STAGES.iter().map(|(name, _)| *name).collect();
        let others =
            self.ours.iter().flat_map(|all| [&all.postgres, &all.sqlite]).flat_map(|run| run.stages.keys());
        for name in others {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        for name in names {
            let what = STAGES.iter().find(|(known, _)| *known == name).map_or("", |(_, what)| what);
            let (postgres, sqlite) = (ns(|all| &all.postgres, name), ns(|all| &all.sqlite, name));
            if postgres.unwrap_or(0.0) + sqlite.unwrap_or(0.0) >= 0.05 {
                table.row(vec![what.into(), name.into(), Cell::number(postgres, 1), Cell::number(sqlite, 1)]);
            }
        }
        report.table(table);
    }

    /// Ours into PostgreSQL beside the peers, in readings for each second of the processor.
    fn beside_peers(&self, report: &mut Report) {
        let Fleet { packed, readings, .. } = self.fleet;
        if self.peers.iter().all(Vec::is_empty) {
            return;
        }
        let mut table = Table::new(
            format!("Beside others, {packed} readings per message; without what it takes to start"),
            &[
                "what",
                "M readings/s",
                "readings per processor second",
                "ours / this",
                "least",
                "most",
                "processor s to start",
                "peak MB",
            ],
        );
        let mut row = |what: &str, runs: &[&Run], beside: &[f64]| {
            let each =
                |figure: &dyn Fn(&Run) -> f64| runs.iter().map(|run| figure(run)).collect::<Vec<f64>>();
            let [ratio, least, most] = Cell::spread(beside, 1);
            table.row(vec![
                what.into(),
                Cell::number(middle(&each(&|run| self.millions(run))), 2),
                Cell::number(middle(&each(&|run| readings as f64 / run.cpu)), 0),
                ratio,
                least,
                most,
                Cell::number(middle(&each(&|run| run.cpu_of_start)), 2),
                Cell::megabytes(runs.iter().filter_map(|run| run.peak_bytes).max()),
            ]);
        };
        let ours: Vec<&Run> = self.ours.iter().map(|all| &all.postgres).collect();
        row("fleetscore, PostgreSQL", &ours, &vec![1.0; ours.len()]);
        let goal = if packed == 1 { 5.0 } else { 20.0 };
        for n in 0..self.peers.first().map_or(0, Vec::len) {
            let runs: Vec<&Run> = self.peers.iter().map(|peers| &peers[n]).collect();
            // Of the same repetition: what else the machine does comes and goes.
            let beside: Vec<f64> = runs.iter().zip(&ours).map(|(this, ours)| this.cpu / ours.cpu).collect();
            row(&runs[0].what, &runs, &beside);
            if self.is_judged_alone() {
                let what =
                    format!("readings per processor second, {packed} per message, beside {}", runs[0].what);
                report.goal(Goal::at_least(what, goal, middle(&beside)));
            }
        }
        report.table(table);
    }
}

/// What more series take, of time and of memory, for the same number of readings: `all` has the same packing, by number of
/// series.
pub(crate) fn by_series(report: &mut Report, all: &[Measured]) {
    let [first, _, ..] = all else { return };
    let rate = |of: &Measured| middle(&of.each(|all| of.millions(&all.postgres)));
    let peak = |of: &Measured| {
        let peak = of.ours.iter().filter_map(|all| all.postgres.peak_bytes).max();
        peak.map_or(f64::NAN, |bytes| bytes as f64)
    };
    let (few, packed) = (first.fleet.series, first.fleet.packed);
    let mut table = Table::new(
        format!("Into PostgreSQL by number of series, {packed} readings per message"),
        &["series", "M readings/s", "first / this", "peak MB", "more bytes per series and open window"],
    );
    for of in all {
        let series = of.fleet.series;
        let slower = rate(first) / rate(of);
        let bytes = (peak(of) - peak(first)) / (f64::from(series - few) * OPEN_WINDOWS);
        table.row(vec![
            u64::from(series).into(),
            Cell::number(rate(of), 2),
            Cell::number(slower, 2),
            Cell::number(peak(of) / 1e6, 1),
            Cell::number(Some(bytes).filter(|_| series != few), 0),
        ]);
        if (few, series) == (1_000, 1_000_000) && of.is_judged() {
            let what = |what: &str| format!("{what}, {packed} per message");
            report.goal(Goal::at_most(what("readings/s of 1 k series / of 1 M series"), 2.0, slower));
            // Of more panes not all are open, and memory is what `checkpoint_bytes` allows.
            if of.fleet.panes as f64 <= OPEN_WINDOWS {
                let of = what("more bytes per series and open window, 1 M series");
                report.goal(Goal::at_most(of, 300.0, bytes));
            }
        }
    }
    report.table(table);
}

fn middle(figures: &[f64]) -> f64 {
    median(figures).unwrap_or(f64::NAN)
}
