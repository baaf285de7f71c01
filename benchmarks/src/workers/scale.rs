//! How much more several workers score than one, what they leave when there are none, and what they cost when there is
//! nothing to do.

use super::{PANE_US, Site, interval, progress};
use crate::child::Service;
use crate::fleet::Fleet;
use crate::model_file::write_parquet_of;
use crate::report::{Cell, Report, Table};
use crate::windows::Filler;
use crate::{Result, server};
use fleetscore_harness::process::cpu_time;
use fleetscore_schemas::status::RunState;
use fleetscore_store::{RunFilter, Store};
use std::time::{Duration, Instant};

/// What is done.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where.
    pub site: Site,
    /// Series, each with a model and a window in every interval.
    pub series: u32,
    /// Support vectors of each model: enough of them, and scoring is what takes the time.
    pub vectors: usize,
    /// Intervals: more than can be scored in the time.
    pub intervals: u32,
    /// Workers, one stage after the other.
    pub stages: Vec<usize>,
    /// Seconds of each stage.
    pub seconds: f64,
    /// Seconds for which idle workers are watched; 0 leaves it out.
    pub idle_seconds: f64,
    /// Makes models and windows.
    pub seed: u64,
}

/// One number of workers for a while.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// How many.
    pub workers: usize,
    /// For how long.
    pub seconds: f64,
    /// Intervals scored meanwhile.
    pub intervals: usize,
    /// Seconds of a core that the workers used.
    pub cpu_seconds: f64,
    /// Seconds of a core that the database's processes used.
    pub database_cpu_seconds: f64,
}

/// Workers with nothing to do.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// How many.
    pub workers: usize,
    /// Seconds of a core that they used in a minute, all together.
    pub cpu_seconds_a_minute: f64,
    /// The database's transactions in a minute (a statement outside a transaction counts as one).
    pub transactions_a_minute: f64,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Stage by stage.
    pub stages: Vec<Stage>,
    /// Idle workers.
    pub idle: Vec<Idle>,
    /// Predictions made, all of them counted.
    pub rows: u64,
}

/// Runs it all.
///
/// # Errors
/// A process could not be started; an interval was lost or scored twice; a worker did not end when it was told to.
pub async fn measure(scenario: &Scenario) -> Result<Measured> {
    let (site, fleet) = (&scenario.site, Fleet::new(scenario.series, scenario.seed));
    site.configure()?;
    let file = site.folder.join("models.parquet");
    write_parquet_of(&file, &fleet, scenario.vectors)?;
    site.import(&file, scenario.series)?;
    let mut filler = Filler::open(&site.store, fleet, scenario.series, PANE_US).await?;
    let store = filler.store().clone();
    for pane in 0..scenario.intervals {
        // All become ready at once, with the last of them.
        let last = pane + 1 == scenario.intervals;
        let watermark = interval(if last { pane + 1 } else { 0 }).start;
        filler.put(interval(pane).start, pane, watermark).await?;
    }
    let mut stages = Vec::new();
    let mut starts = 0;
    for workers in &scenario.stages {
        stages.push(stage(scenario, &*store, *workers, &mut starts).await?);
    }
    let mut crew = start(site, scenario.stages.iter().copied().max().unwrap_or(1), &mut starts)?;
    // A signal before a process has begun to listen to it ends it as any other.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    while progress(&*store).await?.0 < scenario.intervals as usize {
        if begun.elapsed() > Duration::from_secs(900) {
            return Err("the rest is not scored after a quarter of an hour".into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Their logs are work too: an idle worker has none left.
    while site.number("SELECT count(*) FROM runs WHERE log IS NULL;")? > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    end(&mut crew)?;
    let rows = prove(scenario, &*store).await?;
    let mut idle = Vec::new();
    if scenario.idle_seconds > 0.0 {
        for workers in [1, 4] {
            idle.push(watch_idle(scenario, workers, &mut starts).await?);
        }
    }
    Ok(Measured { stages, idle, rows })
}

fn start(site: &Site, workers: usize, starts: &mut usize) -> Result<Vec<Service>> {
    let first = *starts;
    *starts += workers;
    (0..workers).map(|n| site.worker(n, first + n)).collect()
}

/// Tells them to end: they finish or hand back what they have under way.
fn end(crew: &mut Vec<Service>) -> Result<()> {
    for worker in crew.iter_mut() {
        worker.signal(libc::SIGTERM);
    }
    for mut worker in crew.drain(..) {
        if !worker.stop().is_some_and(|status| status.success()) {
            return Err("a worker did not end well after SIGTERM".into());
        }
    }
    Ok(())
}

async fn stage(scenario: &Scenario, store: &dyn Store, workers: usize, starts: &mut usize) -> Result<Stage> {
    let mut crew = start(&scenario.site, workers, starts)?;
    // What a process needs to start is not what a stage is about.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, begun) = (progress(store).await?.0, Instant::now());
    let (ours, database) = (cpu_of(&crew), cpu_of_postgres());
    tokio::time::sleep(Duration::from_secs_f64(scenario.seconds)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let after = progress(store).await?.0;
    let (cpu_seconds, database_cpu_seconds) = (cpu_of(&crew) - ours, cpu_of_postgres() - database);
    end(&mut crew)?;
    Ok(Stage { workers, seconds, intervals: after - before, cpu_seconds, database_cpu_seconds })
}

async fn watch_idle(scenario: &Scenario, workers: usize, starts: &mut usize) -> Result<Idle> {
    let mut crew = start(&scenario.site, workers, starts)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (cpu, transactions, begun) = (cpu_of(&crew), transactions(&scenario.site)?, Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(scenario.idle_seconds)).await;
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let used = cpu_of(&crew) - cpu;
    // Sessions report what they did when they have been idle for a second, or end.
    end(&mut crew)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let done = transactions_since(&scenario.site, transactions)?;
    Ok(Idle { workers, cpu_seconds_a_minute: used / minutes, transactions_a_minute: done / minutes })
}

fn transactions(site: &Site) -> Result<f64> {
    let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database();";
    Ok(server::psql(&site.store, sql)?.trim().parse::<f64>()?)
}

fn transactions_since(site: &Site, before: f64) -> Result<f64> {
    Ok(transactions(site)? - before)
}

/// Seconds of a core that these processes have used; 0 for those that ended.
fn cpu_of(crew: &[Service]) -> f64 {
    crew.iter().filter_map(|w| cpu_time(w.id())).sum::<Duration>().as_secs_f64()
}

/// Seconds of a core that processes named `postgres` have used on this machine.
fn cpu_of_postgres() -> f64 {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0.0 };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "postgres")
    })
    .filter_map(cpu_time)
    .sum::<Duration>()
    .as_secs_f64()
}

/// Each interval has one run that succeeded and all of its rows.
async fn prove(scenario: &Scenario, store: &dyn Store) -> Result<u64> {
    let runs = store.runs(&RunFilter::default()).await?;
    let good = runs.iter().filter(|r| r.state == RunState::Succeeded).count();
    if runs.len() != scenario.intervals as usize || good != runs.len() {
        return Err(
            format!("{} runs for {} intervals, {good} succeeded", runs.len(), scenario.intervals).into()
        );
    }
    let wanted = u64::from(scenario.series) * u64::from(scenario.intervals);
    match scenario.site.number("SELECT count(*) FROM prediction_data WHERE status = 'scored';")? {
        n if n == wanted => Ok(n),
        n => Err(format!("{n} predictions for {wanted}").into()),
    }
}

/// Adds the tables.
pub fn report(report: &mut Report, scenario: &Scenario, m: &Measured) {
    report.setting(
        "work",
        format!(
            "{} intervals of {} series, models of {} support vectors, {} shards a run; all ready before the first worker starts",
            scenario.intervals, scenario.series, scenario.vectors, scenario.site.shards
        ),
    );
    report.setting(
        "proved",
        format!("each interval has one run that succeeded; {} predictions, none missing", m.rows),
    );
    let mut table = Table::new(
        "Workers come and go",
        &[
            "workers",
            "seconds",
            "intervals",
            "intervals/s",
            "rows/s",
            "/ first stage",
            "workers' cores",
            "database's cores",
        ],
    );
    let rate = |s: &Stage| s.intervals as f64 / s.seconds;
    let first = m.stages.first().map_or(1.0, rate);
    for s in &m.stages {
        table.row(vec![
            Cell::Count(s.workers as u64),
            Cell::number(s.seconds, 1),
            Cell::Count(s.intervals as u64),
            Cell::number(rate(s), 2),
            Cell::number(rate(s) * f64::from(scenario.series), 0),
            Cell::number(rate(s) / first, 2),
            Cell::number(s.cpu_seconds / s.seconds, 2),
            Cell::number(s.database_cpu_seconds / s.seconds, 2),
        ]);
    }
    report.table(table);
    let mut table =
        Table::new("Nothing to do", &["workers", "their CPU seconds a minute", "transactions a minute"]);
    for i in &m.idle {
        table.row(vec![
            Cell::Count(i.workers as u64),
            Cell::number(i.cpu_seconds_a_minute, 2),
            Cell::number(i.transactions_a_minute, 0),
        ]);
    }
    report.table(table);
}
