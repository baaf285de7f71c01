//! A pipeline at a steady rate for a long time: what must stay flat does, and the result is exact.

mod plot;
mod sample;
mod verdict;

pub use sample::{Held, Percentiles, Sample};
pub use verdict::{Series, Verdict};

use crate::Result;
use crate::live::compare::{Compared, compare};
use crate::live::latency::{Latencies, Since};
use crate::live::producer::Producer;
use crate::live::{Load, Site, now_us};
use crate::report::{Cell, Goal, Report, Table};
use fleetscore_harness::{PATIENCE, Servers};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often positions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// This share of the run warms caches and allocators up.
const WARM_UP: f64 = 0.1;
/// Windows are new if they were added in the time of so many samples: shorter, a window table's pages come in too few steps.
const NEW_WINDOWS_IN: usize = 12;
const MB: f64 = 1e6;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The fleet.
    pub load: Load,
    /// Readings a second.
    pub rate: f64,
    /// How long.
    pub seconds: u64,
    /// Seconds between samples.
    pub sample_seconds: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// In the order of time.
    pub samples: Vec<Sample>,
    /// What each process may hold, in bytes.
    pub bounds: Vec<(&'static str, u64)>,
    /// Readings in all, and how many of them were late.
    pub readings: (u64, u64),
    /// The result.
    pub compared: Compared,
}

/// Runs it.
///
/// # Errors
/// A process ended, memory passed its bound, the result is not the oracle's.
pub fn measure(site: &Site, servers: &Servers, scenario: &Scenario) -> Result<Measured> {
    let mut pipeline = site.pipeline(servers, "soak", &scenario.load)?;
    let fleet = scenario.load.fleet(scenario.rate, now_us());
    let producer = Producer::start(&pipeline.bootstrap, &pipeline.topic, fleet, Some(1.0), None)?;
    let (began, mut latencies, mut samples) = (Instant::now(), Latencies::new(Since::Sent), Vec::new());
    let mut next = scenario.sample_seconds;
    while began.elapsed() < Duration::from_secs(scenario.seconds) {
        std::thread::sleep(LOOK_EVERY);
        pipeline.alive()?;
        if producer.ended() {
            break;
        }
        let positions = pipeline.positions()?;
        let in_sql = latencies.look(&positions, &producer);
        latencies.look_at_runs(&mut pipeline.sql)?;
        if began.elapsed().as_secs() < next {
            continue;
        }
        next += scenario.sample_seconds;
        let seconds = began.elapsed().as_secs_f64();
        let sample = Sample::take(&mut pipeline, &producer, &mut latencies, seconds, in_sql)?;
        for (process, held) in pipeline.processes.iter().zip(&sample.held) {
            if held.1.peak_bytes > process.bound_bytes {
                let (peak, bound) = (held.1.peak_bytes, process.bound_bytes);
                return Err(format!("{} held {peak} of {bound} bytes", process.role).into());
            }
        }
        eprintln!("{}", sample.line());
        samples.push(sample);
    }
    let sent = producer.stop()?;
    pipeline.settle(&sent, PATIENCE)?;
    pipeline.stop();
    let measured = Measured {
        samples,
        bounds: pipeline.processes.iter().map(|p| (p.role, p.bound_bytes)).collect(),
        readings: (sent.readings, sent.late),
        compared: compare(&mut pipeline.sql, &sent, &pipeline.models)?,
    };
    measured.compared.exact()?;
    Ok(measured)
}

impl Measured {
    /// What must stay flat, with how much it may grow over the run.
    pub fn series(&self) -> Vec<Series> {
        let of = |name: &str, relative: f64, absolute: f64, value: &dyn Fn(&Sample) -> Option<f64>| Series {
            name: name.to_owned(),
            points: self.samples.iter().filter_map(|s| Some((s.seconds, value(s)?))).collect(),
            relative,
            absolute,
        };
        let mut all = Vec::new();
        for (i, (role, _)) in self.bounds.iter().enumerate() {
            let held = move |s: &Sample| s.held[i].1;
            all.extend([
                of(&format!("{role} resident MB"), 0.05, 4.0, &|s| Some(held(s).rss_bytes as f64 / MB)),
                of(&format!("{role} anonymous MB"), 0.05, 4.0, &|s| {
                    Some(held(s).anonymous_bytes as f64 / MB)
                }),
                of(&format!("{role} handles"), 0.0, 2.0, &|s| Some(held(s).handles as f64)),
                of(&format!("{role} threads"), 0.0, 2.0, &|s| Some(held(s).threads as f64)),
            ]);
        }
        let of_new = |name: &str, bytes: fn(&Sample) -> u64| Series {
            name: name.to_owned(),
            points: verdict::of_new(
                &self.samples.iter().map(|s| (s.seconds, s.windows, bytes(s))).collect::<Vec<_>>(),
                (self.samples.len() / 4).clamp(1, NEW_WINDOWS_IN),
            ),
            relative: 0.1,
            absolute: 1.0,
        };
        let per_window = |bytes: u64, s: &Sample| (s.windows > 0).then(|| bytes as f64 / s.windows as f64);
        all.extend([
            of("windows bytes/window", 0.1, 1.0, &|s| per_window(s.windows_bytes, s)),
            of("all of SQL bytes/window", 0.1, 1.0, &|s| per_window(s.database_bytes, s)),
            of_new("windows bytes/new window", |s| s.windows_bytes),
            of_new("all of SQL bytes/new window", |s| s.database_bytes),
            of("sent to SQL p50 s", 0.25, 1.0, &|s| s.to_sql.p50_s),
            of("sent to SQL p99 s", 0.25, 1.0, &|s| s.to_sql.p99_s),
            of("sent to prediction p50 s", 0.25, 1.0, &|s| s.to_score.p50_s),
            of("sent to prediction p99 s", 0.25, 1.0, &|s| s.to_score.p99_s),
        ]);
        all
    }

    /// Writes plots and samples into a folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn plot(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let all = self.series();
        let of = |what: &str| -> Vec<&Series> { all.iter().filter(|s| s.name.ends_with(what)).collect() };
        let memory: Vec<&Series> = [of("resident MB"), of("anonymous MB")].concat();
        let handles: Vec<&Series> = [of("handles"), of("threads")].concat();
        plot::draw(&folder.join("memory.svg"), "Memory of the processes", "MB", &memory)?;
        plot::draw(&folder.join("handles.svg"), "File descriptors and threads", "count", &handles)?;
        plot::draw(&folder.join("sql.svg"), "SQL for each window", "bytes", &of("bytes/window"))?;
        plot::draw(
            &folder.join("latency.svg"),
            "From sending a reading",
            "seconds",
            &[of("p50 s"), of("p99 s")].concat(),
        )?;
        Ok(std::fs::write(folder.join("samples.csv"), sample::csv(&self.samples))?)
    }
}

/// The results as a report; whether all is flat.
pub fn report(report: &mut Report, scenario: &Scenario, m: &Measured) -> bool {
    let load = &scenario.load;
    report.setting(
        "load",
        format!(
            "{:.0} readings/s of {} series in {} partitions for {} s, messages of 100, panes of {} s",
            scenario.rate,
            load.series(),
            load.partitions,
            scenario.seconds,
            crate::live::PANE_S
        ),
    );
    report.setting(
        "settings",
        "checkpoint_bytes = 64MiB, checkpoint_interval = 5s, nothing is removed (retention = \"off\")",
    );
    report.setting("seed", load.seed.to_string());
    let mut table =
        Table::new("Result", &["readings", "late", "windows", "predictions", "dead letters", "differences"]);
    let c = &m.compared;
    let counts = [m.readings.0, m.readings.1, c.windows, c.predictions, c.letters, c.differences];
    table.row(counts.into_iter().map(Cell::Count).collect());
    report.table(table);

    let mut table = Table::new(
        format!("Flat? The first {:.0} % of the run warm up and are left out", WARM_UP * 100.0),
        &["figure", "first third", "last third", "growth by slope", "allowed", "flat"],
    );
    let mut flat = true;
    for series in m.series() {
        let verdict = series.verdict(scenario.seconds as f64 * WARM_UP);
        let number = |f: fn(&Verdict) -> f64| Cell::number(verdict.as_ref().map(f), 2);
        let good = verdict.is_some_and(|v| v.flat());
        flat &= good;
        table.row(vec![
            series.name.clone().into(),
            number(|v| v.first),
            number(|v| v.last),
            number(|v| v.growth),
            number(|v| v.allowed),
            if good { "yes" } else { "NO" }.into(),
        ]);
    }
    report.table(table);
    let mut table = Table::new("Bounds", &["process", "peak MB", "bound MB"]);
    for (i, (role, bound)) in m.bounds.iter().enumerate() {
        let peak = m.samples.iter().map(|s| s.held[i].1.peak_bytes).max();
        table.row(vec![(*role).into(), Cell::megabytes(peak), Cell::megabytes(*bound)]);
    }
    report.table(table);
    let lag = m.samples.iter().map(|s| s.lag_s).fold(0.0, f64::max);
    // A producer that finds no processor sends less than is due.
    let sent = m.samples.last().map_or(0.0, |s| s.readings as f64 / s.seconds.max(1.0));
    report.goal(Goal::at_least("readings sent / due", 0.95, sent / scenario.rate));
    report.goal(Goal::at_most("seconds of readings sent and not in SQL, most", 30.0, lag));
    report.goal(Goal::at_most("figures that grow", 0.0, if flat { 0.0 } else { 1.0 }));
    report.goal(Goal::at_most("differences from the oracle", 0.0, c.differences as f64));
    flat
}
