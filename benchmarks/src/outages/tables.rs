//! The results as a report.

use super::{AFTERWARDS, Measured, Scenario};
use crate::report::{Cell, Goal, Report, Table};

/// The results as a report.
pub fn report(report: &mut Report, scenario: &Scenario, all: &[Measured]) {
    let load = &scenario.load;
    report.setting(
        "load",
        format!(
            "{:.0} readings/s of {} series in {} partitions, messages of 100, panes of {} s; {:.0} % of that once the server is back",
            scenario.rate,
            load.series(),
            load.partitions,
            crate::live::PANE_S,
            AFTERWARDS * 100.0
        ),
    );
    report.setting(
        "settings",
        "checkpoint_bytes = 64MiB, in_flight_bytes = 64MiB, checkpoint_interval = 5s, one broker",
    );
    report.setting("seed", load.seed.to_string());
    report.table(outages(all));
    report.table(memory_and_health(all));
    report.table(said(all));
    let processes = || all.iter().flat_map(|m| &m.processes);
    let worst = processes().map(|p| p.peak_bytes as f64 / p.bound_bytes as f64);
    report.goal(Goal::at_most("peak memory / bound", 1.0, worst.fold(0.0, f64::max)));
    let noticed = processes().filter(|p| p.concerned).filter_map(|p| p.noticed_s);
    report.goal(Goal::at_most(
        "seconds until `/readyz` says so",
        scenario.notice_seconds,
        noticed.fold(0.0, f64::max),
    ));
    let differences: u64 = all.iter().map(|m| m.compared.differences).sum();
    report.goal(Goal::at_most("differences from the oracle", 0.0, differences as f64));
}

fn outages(all: &[Measured]) -> Table {
    let mut table = Table::new(
        "Outages",
        &[
            "server",
            "away s",
            "readings meanwhile",
            "caught up after s",
            "readings in all",
            "late",
            "windows",
            "predictions",
            "dead letters",
            "differences",
        ],
    );
    for m in all {
        let c = &m.compared;
        table.row(vec![
            m.server.name().into(),
            Cell::number(m.away_s, 1),
            m.readings.into(),
            Cell::number(m.catch_up_s, 1),
            m.all.0.into(),
            m.all.1.into(),
            c.windows.into(),
            c.predictions.into(),
            c.letters.into(),
            c.differences.into(),
        ]);
    }
    table
}

fn memory_and_health(all: &[Measured]) -> Table {
    let mut table = Table::new(
        "Memory and health",
        &[
            "server away",
            "process",
            "at start MB",
            "peak MB",
            "bound MB",
            "not ready after s",
            "of answers then",
            "ready s after the return",
        ],
    );
    for (m, p) in all.iter().flat_map(|m| m.processes.iter().map(move |p| (m, p))) {
        table.row(vec![
            m.server.name().into(),
            p.role.into(),
            Cell::megabytes(p.base_bytes),
            Cell::megabytes(p.peak_bytes),
            Cell::megabytes(p.bound_bytes),
            Cell::number(p.noticed_s, 1),
            p.said.as_ref().map_or(Cell::Missing, |_| Cell::from(format!("{:.0} %", p.unready * 100.0))),
            if p.said.is_some() { Cell::number(p.ready_again_s, 1) } else { Cell::Missing },
        ]);
    }
    table
}

fn said(all: &[Measured]) -> Table {
    let mut table = Table::new("What they said", &["server away", "process", "/readyz", "at last", "log"]);
    for (m, p) in
        all.iter().flat_map(|m| m.processes.iter().map(move |p| (m, p))).filter(|(_, p)| p.concerned)
    {
        let [said, last] = [&p.said, &p.said_last].map(|said| said.clone().unwrap_or_default());
        let log = p.log.join(" / ");
        table.row(vec![m.server.name().into(), p.role.into(), said.into(), last.into(), log.into()]);
    }
    table
}
