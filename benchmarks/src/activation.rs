//! Two model sets that take turns while a worker scores: what each interval was scored with, and how soon.

use crate::child::{Memory, Service, succeed};
use crate::fleet::Fleet;
use crate::million::bytes_below;
use crate::model_file::write_parquet;
use crate::report::{Cell, Report, Table, median, quantile};
use crate::windows::Filler;
use crate::{Result, server};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{RunFilter, RunRow, Store};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Length of a pane: the worker scores one a second.
const PANE_US: i64 = 1_000_000;

/// Start of the first pane: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000);

/// By how much the second set's ρ lie higher: a single row of the wrong set moves an interval's sum by this.
const MOVED_RHO: f64 = 0.01;

/// How far the sum of an interval's decisions may lie from plain arithmetic, for each row.
const TOLERANCE: f64 = 1e-12;

/// Longer than a worker needs for what is still open.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The binary.
    pub fleetscore: PathBuf,
    /// URL of an empty PostgreSQL database.
    pub store: String,
    /// An empty folder: `data_dir`, blobs, files of models, the worker's log.
    pub folder: PathBuf,
    /// Models of each set.
    pub models: u32,
    /// Series that have a window in every interval.
    pub scored_series: u32,
    /// Intervals, one a second.
    pub intervals: u32,
    /// Seconds between two changes of the active set.
    pub every: f64,
    /// Makes models and windows.
    pub seed: u64,
}

/// One change of the active set.
#[derive(Debug, Clone, Copy)]
struct Switch {
    at: Timestamp,
    version: i64,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Bytes of each set in blob storage.
    pub set_bytes: u64,
    /// Seconds of `models import` of each.
    pub import_seconds: Vec<f64>,
    /// Seconds of each `models activate` and `models rollback`, as processes.
    pub command_seconds: Vec<f64>,
    /// Seconds from each change in SQL to the end of the first interval scored with the set.
    pub latency: Vec<f64>,
    /// Seconds of each run, those that opened a set left out.
    pub scoring: Vec<f64>,
    /// Seconds from an interval's windows being in SQL to its predictions being there, in the order of intervals.
    pub intervals: Vec<f64>,
    /// Seconds of the very first run, which opens the first set and has rows for all of its models.
    pub first: f64,
    /// Seconds of the first run with the second set, which opens it.
    pub opening: f64,
    /// Intervals scored with the first and with the second set.
    pub by_set: [u64; 2],
    /// The worker's memory.
    pub memory: Memory,
}

impl Scenario {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.fleetscore);
        command.args(args).arg("--store").arg(&self.store).arg("--data-dir").arg(&self.folder);
        command.arg("--blobs").arg(format!("file://{}", self.folder.join("blobs").display()));
        command.args(["--interval", "1s"]).current_dir(&self.folder);
        command
    }

    /// Whether only some series have windows: then the intervals are late ones, which have rows for these alone.
    const fn late(&self) -> bool {
        self.scored_series < self.models
    }

    fn start_of(&self, pane: u32) -> Timestamp {
        START.plus_us(PANE_US * i64::from(pane))
    }

    /// Models of the set with this number: 0 or 1.
    fn fleet(&self, set: usize) -> Fleet {
        Fleet { moved_rho: if set == 0 { 0.0 } else { MOVED_RHO }, ..Fleet::new(self.models, self.seed) }
    }

    fn import(&self, set: usize) -> Result<(i64, f64)> {
        let file = self.folder.join("models.parquet");
        write_parquet(&file, &self.fleet(set))?;
        let mut command = self.command(&["models", "import", "--json"]);
        if set > 0 {
            command.arg("--no-activate");
        }
        let ended = succeed(command.arg(&file))?;
        std::fs::remove_file(&file)?;
        let report: serde_json::Value = serde_json::from_str(&ended.stdout)?;
        if report["imported"].as_u64() != Some(self.models.into()) {
            return Err(format!("{} models were to be imported: {}", self.models, ended.stdout).into());
        }
        Ok((report["version"].as_i64().ok_or("the import says no version")?, ended.seconds))
    }
}

/// Runs it all, and proves by SQL and plain arithmetic that no interval mixes two sets and none is skipped.
///
/// # Errors
/// A process failed; an interval is missing, mixed, or not what plain arithmetic says; a set was never used.
pub async fn measure(scenario: &Scenario) -> Result<Measured> {
    let (first, first_s) = scenario.import(0)?;
    let (second, second_s) = scenario.import(1)?;
    let set_bytes = bytes_below(&scenario.folder.join("blobs").join("models"))? / 2;
    let mut filler =
        Filler::open(&scenario.store, scenario.fleet(0), scenario.scored_series, PANE_US).await?;
    // A schedule begins with the first interval that it finds. What comes before that, later, has rows for series with
    // data alone: so the first interval is put behind all others, or before them.
    let (warm_up, panes) = match scenario.late() {
        true => (scenario.intervals, 0..scenario.intervals),
        false => (0, 1..scenario.intervals + 1),
    };
    let watermark = scenario.start_of(scenario.intervals + 1);
    let config = scenario.folder.join("fleetscore.toml");
    std::fs::write(&config, "[schedules.default]\nrescore_delay = \"0s\"\n")?;
    let log = scenario.folder.join("score.log");
    let mut command = scenario.command(&["score"]);
    command.env("FLEETSCORE_CONFIG", &config);
    let mut worker = Service::start(command, &log, libc::SIGTERM)?;
    let outcome = drive(scenario, &mut filler, &mut worker, warm_up, panes, watermark).await;
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let Driven { command_seconds, put_at, memory } = outcome.map_err(|e| format!("{e}\n{}", said()))?;
    if !worker.stop().is_some_and(|status| status.success()) {
        return Err(format!("the worker did not end well:\n{}", said()).into());
    }
    let runs = runs(&**filler.store()).await?;
    let by_set = prove(scenario, &**filler.store(), &runs, [first, second]).await?;
    let switches = switches(scenario, first)?;
    let seconds_with = |set: i64| -> Result<Vec<f64>> {
        runs.iter().filter(|r| r.model_set == Some(set)).map(seconds_of).collect()
    };
    // The first run with a set opens it; both sets were used, as was proved.
    let (with_first, with_second) = (seconds_with(first)?, seconds_with(second)?);
    let scoring = [&with_first[1..], &with_second[1..]].concat();
    let finished: BTreeMap<Timestamp, Timestamp> =
        runs.iter().filter_map(|r| Some((r.interval.start, r.finished_at?))).collect();
    let intervals =
        put_at.iter().filter_map(|(start, put)| Some(seconds(*put, *finished.get(start)?))).collect();
    Ok(Measured {
        set_bytes,
        import_seconds: vec![first_s, second_s],
        command_seconds,
        latency: latencies(&runs, &switches),
        scoring,
        intervals,
        first: with_first[0],
        opening: with_second[0],
        by_set,
        memory,
    })
}

/// What the time of scoring left behind.
struct Driven {
    command_seconds: Vec<f64>,
    put_at: Vec<(Timestamp, Timestamp)>,
    memory: Memory,
}

/// Puts an interval a second while sets take turns, until all is scored.
async fn drive(
    scenario: &Scenario,
    filler: &mut Filler,
    worker: &mut Service,
    warm_up: u32,
    panes: std::ops::Range<u32>,
    watermark: Timestamp,
) -> Result<Driven> {
    let store = filler.store().clone();
    filler.put(scenario.start_of(warm_up), warm_up, watermark).await?;
    until_scored(&*store, worker, 1).await?;
    let second = store.model_sets().await?.iter().map(|s| s.version).max().ok_or("no model set")?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let turns = tokio::task::spawn_blocking({
        let scenario = scenario.clone();
        move || take_turns(&scenario, second, &stopped)
    });
    let (mut put_at, mut memory) = (Vec::new(), Memory::default());
    let mut second_hand = tokio::time::interval(Duration::from_secs(1));
    let mut putting = Ok(());
    for pane in panes {
        second_hand.tick().await;
        let start = scenario.start_of(pane);
        putting = match filler.put(start, pane, watermark).await {
            Ok(_) => store.now().await.map(|now| put_at.push((start, now))).map_err(Into::into),
            Err(e) => Err(e),
        };
        memory.look(worker.id());
        if putting.is_err() {
            break;
        }
    }
    // The thread that changes sets ends before anything is judged.
    stop.send_replace(true);
    let command_seconds = turns.await??;
    putting?;
    until_scored(&*store, worker, scenario.intervals as usize + 1).await?;
    memory.look(worker.id());
    Ok(Driven { command_seconds, put_at, memory })
}

/// `models activate` of the second set and `models rollback`, in turn; returns the seconds of each.
fn take_turns(
    scenario: &Scenario,
    second: i64,
    stopped: &tokio::sync::watch::Receiver<bool>,
) -> Result<Vec<f64>> {
    let (mut took, mut next) = (Vec::new(), Instant::now());
    while !*stopped.borrow() {
        if Instant::now() < next {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        next += Duration::from_secs_f64(scenario.every);
        let mut command = match took.len() % 2 {
            0 => scenario.command(&["models", "activate", &second.to_string()]),
            _ => scenario.command(&["models", "rollback"]),
        };
        took.push(succeed(&mut command)?.seconds);
    }
    Ok(took)
}

/// Runs of the schedule in the order in which they were opened.
async fn runs(store: &dyn Store) -> Result<Vec<RunRow>> {
    let mut runs = store.runs(&RunFilter::default()).await?;
    runs.sort_by_key(|r| (r.opened_at, r.interval));
    Ok(runs)
}

async fn until_scored(store: &dyn Store, worker: &mut Service, wanted: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let rows = runs(store).await?;
        let open = |r: &&RunRow| matches!(r.state, RunState::Waiting | RunState::Running);
        if rows.len() >= wanted && rows.iter().filter(open).count() == 0 {
            return Ok(());
        }
        if let Some(status) = worker.ended() {
            return Err(format!("the worker ended with {status}").into());
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("{} of {wanted} intervals have a run after {PATIENCE:?}", rows.len()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    (to.us() - from.us()) as f64 / 1e6
}

fn seconds_of(run: &RunRow) -> Result<f64> {
    let (Some(started), Some(finished)) = (run.started_at, run.finished_at) else {
        return Err(format!("the run of {} has no start or no end", run.interval).into());
    };
    Ok(seconds(started, finished))
}

/// That every interval has one run which succeeded, and rows of that run's set alone: by the column `model_set`, and by
/// the sum of all decisions, which one row of the other set would move by [`MOVED_RHO`]. Returns intervals by set.
async fn prove(scenario: &Scenario, store: &dyn Store, runs: &[RunRow], sets: [i64; 2]) -> Result<[u64; 2]> {
    let mut by_start: BTreeMap<i64, i64> = BTreeMap::new();
    for run in runs {
        let set = run.model_set.filter(|_| run.state == RunState::Succeeded);
        let set = set.ok_or_else(|| format!("the run of {} ended as {}", run.interval, run.state))?;
        if by_start.insert(run.interval.start.us(), set).is_some() {
            return Err(format!("{} was scored twice", run.interval).into());
        }
    }
    let sql = "SELECT (extract(epoch FROM window_start) * 1000000)::bigint, count(*), count(DISTINCT model_set), \
               min(model_set), sum(decision) FROM predictions WHERE status = 'scored' GROUP BY window_start";
    let mut intervals = [0, 0];
    let rows = store.query(sql).await?.rows;
    for row in &rows {
        use fleetscore_store::Cell::{Float, Int};
        let [Int(start), Int(count), Int(distinct), Int(set), Float(sum)] = row[..] else {
            return Err(format!("an unexpected row: {row:?}").into());
        };
        let at = Timestamp(start);
        if count != i64::from(scenario.scored_series) || distinct != 1 || by_start.get(&start) != Some(&set) {
            return Err(format!("{at}: {count} rows of {distinct} sets, the first of set {set}").into());
        }
        let which =
            sets.iter().position(|s| *s == set).ok_or_else(|| format!("{at}: set {set} is unknown"))?;
        let (fleet, pane) = (scenario.fleet(which), u32::try_from((start - START.us()) / PANE_US)?);
        let wanted: f64 = (0..scenario.scored_series).map(|i| fleet.decision(i, pane)).sum();
        if (sum - wanted).abs() > TOLERANCE * f64::from(scenario.scored_series) {
            return Err(format!("{at}: decisions of set {set} add up to {sum}, not {wanted}").into());
        }
        intervals[which] += 1;
    }
    if rows.len() != scenario.intervals as usize + 1 || by_start.len() != rows.len() {
        let (runs, wanted) = (by_start.len(), scenario.intervals + 1);
        return Err(format!("{} intervals with rows and {runs} runs for {wanted}", rows.len()).into());
    }
    if intervals.contains(&0) {
        return Err(format!("one of the sets scored nothing: {intervals:?}; try more intervals").into());
    }
    Ok(intervals)
}

/// Every change of the active set after the first, from the store's history.
fn switches(scenario: &Scenario, first: i64) -> Result<Vec<Switch>> {
    let sql = "SELECT (extract(epoch FROM activated_at) * 1000000)::bigint, version, \
               (extract(epoch FROM undone_at) * 1000000)::bigint FROM model_set_activation_data ORDER BY id;";
    let mut switches = Vec::new();
    for line in server::psql(&scenario.store, sql)?.lines().skip(1) {
        let cells: Vec<&str> = line.split('|').collect();
        let [activated, version, undone] = cells[..] else { return Err(format!("psql: {line}").into()) };
        switches.push(Switch { at: Timestamp(activated.parse()?), version: version.parse()? });
        if !undone.is_empty() {
            switches.push(Switch { at: Timestamp(undone.parse()?), version: first });
        }
    }
    switches.sort_by_key(|s| s.at);
    Ok(switches)
}

/// From each change to the end of the first run that was opened after it with its set; a change that was over before
/// an interval came has none.
fn latencies(runs: &[RunRow], switches: &[Switch]) -> Vec<f64> {
    let end = |i: usize| switches.get(i + 1).map_or(Timestamp(i64::MAX), |next| next.at);
    let first = |(i, s): (usize, &Switch)| {
        let run = runs
            .iter()
            .find(|r| r.model_set == Some(s.version) && s.at <= r.opened_at && r.opened_at < end(i))?;
        Some(seconds(s.at, run.finished_at?))
    };
    switches.iter().enumerate().filter_map(first).collect()
}

/// Adds the table of what was measured.
pub fn report(report: &mut Report, scenario: &Scenario, m: &Measured) {
    report
        .setting("sets", format!("two of {} models; ρ of the second higher by {MOVED_RHO}", scenario.models));
    let rows = if scenario.late() {
        "late ones, which have rows for series with data alone"
    } else {
        "every model has a window in each"
    };
    report.setting(
        "intervals",
        format!("{}, one a second, {} windows each: {rows}", scenario.intervals, scenario.scored_series),
    );
    report.setting(
        "proved",
        "every interval has one run that succeeded and all of its rows, from that run's set alone (SQL, and the sum of \
         all decisions against plain arithmetic); none was skipped, scored twice or failed",
    );
    let mut table = Table::new(
        "A worker scores every second while sets take turns",
        &["what", "n", "median", "p99", "most"],
    );
    let mut row = |what: &str, values: &[f64], decimals: usize| {
        table.row(vec![
            what.into(),
            Cell::Count(values.len() as u64),
            Cell::number(median(values), decimals),
            Cell::number(quantile(values, 0.99), decimals),
            Cell::number(values.iter().copied().reduce(f64::max), decimals),
        ]);
    };
    row("import of a set s", &m.import_seconds, 2);
    row("`models activate` or `rollback`, the process s", &m.command_seconds, 3);
    row("first run of all: opens a set, rows for all its models s", &[m.first], 3);
    row("first run with the second set: opens it s", &[m.opening], 3);
    row("run with a set that was open s", &m.scoring, 3);
    row("windows in SQL to predictions in SQL s", &m.intervals, 3);
    row("set changed in SQL to first interval scored with it s", &m.latency, 3);
    report.table(table);
    let mut size = Table::new(
        "Size",
        &["models", "set MB", "intervals by set 1", "intervals by set 2", "worker's peak MB"],
    );
    size.row(vec![
        Cell::Count(scenario.models.into()),
        Cell::megabytes(m.set_bytes),
        Cell::Count(m.by_set[0]),
        Cell::Count(m.by_set[1]),
        Cell::megabytes(m.memory.peak_bytes),
    ]);
    report.table(size);
}
