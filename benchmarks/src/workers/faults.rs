//! Workers that are killed and stopped past their leases at random, while intervals come in: every interval must end as
//! plain arithmetic says, once.

use super::proof::{Proved, prove};
use super::{PANE_US, Site, fleet, interval, progress};
use crate::child::Service;
use crate::model_file::write_parquet;
use crate::report::{Cell, Report, Table};
use crate::windows::Filler;
use crate::{Result, server};
use fleetscore_store::Store;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longer than the workers need for what is still open.
const PATIENCE: Duration = Duration::from_secs(900);

/// What is done.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where.
    pub site: Site,
    /// Series, each with a model and a window in every interval.
    pub series: u32,
    /// Intervals.
    pub intervals: u32,
    /// Worker processes.
    pub workers: usize,
    /// Kills and stops, at least.
    pub faults: u64,
    /// Seconds between two faults, on average.
    pub fault_every: f64,
    /// A stop lasts so many seconds at least: longer than a lease.
    pub stop_seconds: f64,
    /// Makes models, windows and faults.
    pub seed: u64,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// `kill -9`.
    pub kills: u64,
    /// `SIGSTOP` past a lease.
    pub stops: u64,
    /// Of both, how many while runs were open.
    pub in_work: u64,
    /// Claims of a task beyond its first: leases that ran out, and attempts that were given back.
    pub claims_again: u64,
    /// Times that a worker found its task taken by another.
    pub fenced: u64,
    /// Seconds from the first interval's windows to the last publication.
    pub seconds: f64,
    /// What was checked.
    pub proved: Proved,
}

/// The workers and what is done to them.
struct Crew<'a> {
    scenario: &'a Scenario,
    workers: Vec<Mutex<Service>>,
    starts: AtomicU64,
    kills: AtomicU64,
    stops: AtomicU64,
    in_work: AtomicU64,
    working: AtomicBool,
    done: AtomicBool,
}

impl Crew<'_> {
    fn faults(&self) -> u64 {
        self.kills.load(SeqCst) + self.stops.load(SeqCst)
    }

    /// Kills and stops until all is done and there were enough of them.
    fn torment<'scope>(&'scope self, scope: &'scope std::thread::Scope<'scope, '_>) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.scenario.seed);
        while !self.done.load(SeqCst) || self.faults() < self.scenario.faults {
            std::thread::sleep(Duration::from_secs_f64(random.f64() * 2.0 * self.scenario.fault_every));
            let number = random.usize(..self.workers.len());
            let kill = random.bool();
            let pause = Duration::from_secs_f64(self.scenario.stop_seconds * (1.0 + random.f64()));
            // Whoever is stopped already is left alone.
            let Ok(mut worker) = self.workers[number].try_lock() else { continue };
            if self.working.load(SeqCst) {
                self.in_work.fetch_add(1, SeqCst);
            }
            if kill {
                worker.kill();
                self.kills.fetch_add(1, SeqCst);
                let start = self.starts.fetch_add(1, SeqCst) as usize;
                *worker = self.scenario.site.worker(number, start)?;
            } else {
                drop(worker);
                self.stops.fetch_add(1, SeqCst);
                // Stops of several workers overlap; all of them may sleep at once.
                scope.spawn(move || self.sleep(number, pause));
            }
        }
        Ok(())
    }

    /// Stops a worker and wakes it; it is held meanwhile, so that nothing else is done to it.
    fn sleep(&self, number: usize, pause: Duration) {
        let mut worker = self.workers[number].lock().unwrap_or_else(PoisonError::into_inner);
        worker.signal(libc::SIGSTOP);
        std::thread::sleep(pause);
        worker.signal(libc::SIGCONT);
    }
}

/// Runs it all.
///
/// # Errors
/// A process could not be started; something is not as plain arithmetic says.
pub async fn measure(scenario: &Scenario) -> Result<Measured> {
    let (site, fleet) = (&scenario.site, fleet(scenario.series, scenario.seed));
    site.configure()?;
    let file = site.folder.join("models.parquet");
    write_parquet(&file, &fleet)?;
    site.import(&file, scenario.series)?;
    let mut filler = Filler::open(&site.store, fleet, scenario.series, PANE_US).await?;
    let store = filler.store().clone();
    let workers: Result<Vec<_>> = (0..scenario.workers).map(|n| Ok(Mutex::new(site.worker(n, n)?))).collect();
    let crew = Crew {
        scenario,
        workers: workers?,
        starts: AtomicU64::new(scenario.workers as u64),
        kills: AtomicU64::new(0),
        stops: AtomicU64::new(0),
        in_work: AtomicU64::new(0),
        working: AtomicBool::new(false),
        done: AtomicBool::new(false),
    };
    let begun = Instant::now();
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| -> Result<()> {
        let tormentor = scope.spawn(|| crew.torment(scope));
        let driven = tokio::task::block_in_place(|| {
            runtime.block_on(drive(scenario, &mut filler, &*store, &crew, begun))
        });
        crew.done.store(true, SeqCst);
        let tormented = tormentor.join().map_err(|_| "the thread of faults panicked")?;
        driven.and(tormented)
    })?;
    // The last faults came when all was done; whatever they left open ends now.
    until_done(scenario, &*store, begun).await?;
    let seconds = begun.elapsed().as_secs_f64();
    for worker in &crew.workers {
        let mut worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
        if !worker.stop().is_some_and(|status| status.success()) {
            return Err("a worker did not end well after SIGTERM".into());
        }
    }
    let proved = prove(site, &*store, &fleet, scenario.intervals).await?;
    Ok(Measured {
        kills: crew.kills.load(SeqCst),
        stops: crew.stops.load(SeqCst),
        in_work: crew.in_work.load(SeqCst),
        claims_again: site.number("SELECT coalesce(sum(attempt - 1), 0) FROM run_tasks;")?,
        fenced: site.said("another worker has this task now")?,
        seconds,
        proved,
    })
}

/// Puts the intervals in over the time that the faults take, and waits until all are scored.
async fn drive(
    scenario: &Scenario,
    filler: &mut Filler,
    store: &dyn Store,
    crew: &Crew<'_>,
    begun: Instant,
) -> Result<()> {
    let all = scenario.faults as f64 * scenario.fault_every;
    for pane in 0..scenario.intervals {
        let due = all * f64::from(pane) / f64::from(scenario.intervals);
        tokio::time::sleep(Duration::from_secs_f64((due - begun.elapsed().as_secs_f64()).max(0.0))).await;
        filler.put(interval(pane).start, pane, interval(pane).end).await?;
        crew.working.store(true, SeqCst);
    }
    until_done(scenario, store, begun).await?;
    crew.working.store(false, SeqCst);
    Ok(())
}

/// Waits until every interval has a run that is over, and is published.
async fn until_done(scenario: &Scenario, store: &dyn Store, begun: Instant) -> Result<()> {
    loop {
        let (over, open) = progress(store).await?;
        let due = server::psql(&scenario.site.store, "SELECT count(*) FROM publications WHERE due;")?;
        if over >= scenario.intervals as usize && open == 0 && due.trim() == "0" {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let due = due.trim();
            return Err(format!(
                "after {PATIENCE:?} {over} of {} runs are over, {open} open, {due} publications due",
                scenario.intervals
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Adds the table of what was done and checked.
pub fn report(report: &mut Report, scenario: &Scenario, m: &Measured) {
    report.setting(
        "work",
        format!(
            "{} intervals of {} series in {} shards each, {} workers, leases of {}",
            scenario.intervals, scenario.series, scenario.site.shards, scenario.workers, scenario.site.lease
        ),
    );
    report.setting("seed", scenario.seed.to_string());
    let mut faults = Table::new("Faults", &["what", "n"]);
    for (what, n) in [
        ("`kill -9` of a worker, which is started again", m.kills),
        ("SIGSTOP of a worker for longer than a lease, then SIGCONT", m.stops),
        ("of these while runs were open", m.in_work),
        ("claims of a task beyond its first", m.claims_again),
        ("times that a woken worker found its task taken", m.fenced),
    ] {
        faults.row(vec![what.into(), Cell::Count(n)]);
    }
    report.table(faults);
    let mut checked = Table::new("Checked after it", &["what", "n", "wrong"]);
    let p = &m.proved;
    for (what, n) in [
        ("intervals with one run, which succeeded, and all its shards done", p.intervals),
        (
            "predictions in SQL: one for each interval and series, label and decision by plain arithmetic",
            p.rows,
        ),
        ("shards whose rows come from one commit of the task's last attempt", p.shards),
        (
            "rows of published Parquet files equal to SQL, checksums and counts of `_SUCCESS.json` with them",
            p.published,
        ),
    ] {
        checked.row(vec![what.into(), Cell::Count(n), Cell::Count(0)]);
    }
    report.table(checked);
    report.setting("seconds", format!("{:.1} from the first interval to the last publication", m.seconds));
}
