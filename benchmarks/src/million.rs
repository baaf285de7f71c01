//! One window for each of N models: Parquet of plain numbers → model set → windows in SQL → predictions in SQL →
//! Parquet and CSV in blob storage, by the built binary, checked against plain arithmetic.

use crate::bare::{self, Bare};
use crate::child::{Memory, succeed};
use crate::fleet::Fleet;
use crate::model_file::write_parquet;
use crate::report::{Cell, Goal, Report, Table, median};
use crate::windows::Filler;
use crate::{Result, child};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{Cell as SqlCell, RunCounts, RunFilter, Store};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Length of a pane in microseconds: the binary's default interval.
const PANE_US: i64 = 60_000_000;

/// Decisions looked at one by one; labels are counted over all of them.
const SAMPLE: u32 = 1000;

/// How far a decision may lie from plain arithmetic: `exp` of another library, an ulp or two of numbers up to one.
const TOLERANCE: f64 = 1e-14;

/// Start of the first pane: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The binary.
    pub fleetscore: PathBuf,
    /// Its setting `store`: an empty PostgreSQL database or a SQLite file that does not exist yet.
    pub store: String,
    /// An empty folder: `data_dir`, blobs and the file of models.
    pub folder: PathBuf,
    /// The models.
    pub fleet: Fleet,
    /// Intervals scored, each of its own windows and by its own process.
    pub repeats: u32,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Number of models, and of windows in each interval.
    pub models: u32,
    /// Bytes of the Parquet file of models.
    pub file_bytes: u64,
    /// Seconds of `models import`, as a process.
    pub import_seconds: f64,
    /// Its memory.
    pub import_memory: Memory,
    /// Bytes of the model set as it lies in blob storage.
    pub set_bytes: u64,
    /// Median seconds of the checkpoint that put one interval's windows into SQL.
    pub fill_seconds: f64,
    /// One for each interval.
    pub runs: Vec<Scored>,
    /// PostgreSQL's own time for the rows of each interval; empty for SQLite.
    pub bare: Vec<Bare>,
}

/// One interval, scored and published by `fleetscore run`.
#[derive(Debug, Clone, Copy)]
pub struct Scored {
    /// Seconds from the run's start (its task is claimed, the model set not yet opened) until its predictions are
    /// committed, by the store's clock.
    pub in_sql: f64,
    /// Seconds from the run's start until `_SUCCESS.json` lies in blob storage.
    pub published: f64,
    /// Seconds of the whole process, from its start to its end.
    pub process: f64,
    /// Its memory.
    pub memory: Memory,
}

/// Runs it all. Every count and a sample of decisions are checked.
///
/// # Errors
/// A process failed, or what it counted or decided is not what plain arithmetic says.
pub async fn measure(scenario: &Scenario) -> Result<Measured> {
    let fleet = scenario.fleet;
    let file = scenario.folder.join("models.parquet");
    let file_bytes = write_parquet(&file, &fleet)?;
    let import = succeed(scenario.command(&["models", "import", "--json"]).arg(&file))?;
    let report: serde_json::Value = serde_json::from_str(&import.stdout)?;
    same("imported models", report["imported"].as_u64(), Some(u64::from(fleet.models)))?;
    std::fs::remove_file(&file)?;

    let mut filler = Filler::open(&scenario.store, fleet, fleet.models, PANE_US).await?;
    let watermark = START.plus_us(PANE_US * i64::from(scenario.repeats));
    let (mut fills, mut runs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for pane in 0..scenario.repeats {
        fills.push(filler.put(interval(pane).start, pane, watermark).await?);
    }
    for pane in 0..scenario.repeats {
        runs.push(scenario.score(&**filler.store(), pane).await?);
    }
    if scenario.store.starts_with("postgres") {
        for pane in 0..scenario.repeats {
            bare.push(bare::measure(&scenario.store, interval(pane).start, &scenario.folder)?);
        }
    }
    Ok(Measured {
        models: fleet.models,
        file_bytes,
        import_seconds: import.seconds,
        import_memory: import.memory,
        set_bytes: bytes_below(&scenario.folder.join("blobs").join("models"))?,
        fill_seconds: median(&fills).ok_or("nothing was repeated")?,
        runs,
        bare,
    })
}

fn interval(pane: u32) -> Interval {
    Interval::starting(START.plus_us(PANE_US * i64::from(pane)), PANE_US)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}").into()) }
}

impl Scenario {
    /// The binary against this store and folder.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.fleetscore);
        command.args(args).arg("--store").arg(&self.store).arg("--data-dir").arg(&self.folder);
        command.arg("--blobs").arg(format!("file://{}", self.folder.join("blobs").display()));
        command.current_dir(&self.folder);
        command
    }

    async fn score(&self, store: &dyn Store, pane: u32) -> Result<Scored> {
        let interval = interval(pane);
        let (from, to) = (interval.start.to_rfc3339(), interval.end.to_rfc3339());
        let ended = child::succeed(&mut self.command(&["run", "--from", &from, "--to", &to]))?;
        let filter = RunFilter { overlapping: Some(interval), ..RunFilter::default() };
        let runs = store.runs(&filter).await?;
        let [run] = &runs[..] else { return Err(format!("{} runs of {interval}", runs.len()).into()) };
        same("state of the run", run.state, RunState::Succeeded)?;
        same("counts of the run", run.counts, self.expected(pane))?;
        let started = run.started_at.ok_or("the run has no start")?;
        let finished = run.finished_at.ok_or("the run has no end")?;
        self.check_decisions(store, pane).await?;
        let published = self.check_published(interval, &run.counts)?;
        let seconds = |t: Timestamp| (t.us() - started.us()) as f64 / 1e6;
        Ok(Scored {
            in_sql: seconds(finished),
            published: seconds(published),
            process: ended.seconds,
            memory: ended.memory,
        })
    }

    /// What the run's row must say: every label, by plain arithmetic.
    fn expected(&self, pane: u32) -> RunCounts {
        let anomalies = (0..self.fleet.models).filter(|i| self.fleet.decision(*i, pane) <= 0.0).count();
        RunCounts {
            scored: i64::from(self.fleet.models),
            anomalies: anomalies as i64,
            ..RunCounts::default()
        }
    }

    /// Value, label and decision of a sample, evenly over the fleet.
    async fn check_decisions(&self, store: &dyn Store, pane: u32) -> Result<()> {
        let step = (self.fleet.models / SAMPLE).max(1);
        let sample: HashMap<(String, String), u32> = (0..self.fleet.models)
            .step_by(step as usize)
            .map(|i| (self.fleet.name(i), i))
            .map(|(name, i)| ((name.device, name.sensor), i))
            .collect();
        let devices: Vec<String> = sample.keys().map(|(device, _)| format!("'{device}'")).collect();
        let sql = format!(
            "SELECT device, sensor, value, decision, prediction, stale FROM predictions \
             WHERE schedule = 'default' AND window_start = '{}' AND device IN ({})",
            interval(pane).start.to_rfc3339(),
            devices.join(", ")
        );
        let mut seen = 0;
        for row in store.query(&sql).await?.rows {
            let [SqlCell::Text(device), SqlCell::Text(sensor), value, decision, prediction, stale] = &row[..]
            else {
                return Err(format!("an unexpected row: {row:?}").into());
            };
            let Some(i) = sample.get(&(device.clone(), sensor.clone())) else { continue };
            let (mean, wanted) = (self.fleet.window(*i, pane).mean(), self.fleet.decision(*i, pane));
            same(&format!("value of {device}/{sensor}"), value, &SqlCell::Float(mean))?;
            same(&format!("label of {device}/{sensor}"), prediction, &SqlCell::Int((wanted <= 0.0).into()))?;
            let close = matches!(decision, SqlCell::Float(d) if (d - wanted).abs() <= TOLERANCE);
            let fresh = matches!(stale, SqlCell::Bool(false) | SqlCell::Int(0));
            if !close || !fresh {
                return Err(format!("{device}/{sensor}: {row:?} where {wanted:e} was expected").into());
            }
            seen += 1;
        }
        same("predictions of the sample", seen, sample.len())
    }

    /// That the interval is published whole; returns when that was.
    fn check_published(&self, interval: Interval, counts: &RunCounts) -> Result<Timestamp> {
        let at = interval.start.to_datetime().ok_or("a time of our own")?;
        let folder = self
            .folder
            .join("blobs/predictions/schedule=default")
            .join(format!("interval={}", at.format("%Y%m%dT%H%M%SZ")));
        let success: serde_json::Value = serde_json::from_slice(&read(&folder.join("_SUCCESS.json"))?)?;
        same("published rows", success["counts"]["rows"].as_i64(), Some(counts.scored))?;
        same("published anomalies", success["counts"]["anomalies"].as_i64(), Some(counts.anomalies))?;
        let csv = folder.join("predictions.csv");
        let file = File::open(&csv).map_err(|e| format!("{}: {e}", csv.display()))?;
        let (mut rows, mut labels) = (0, 0);
        for line in BufReader::new(file).lines().skip(1) {
            rows += 1;
            // The reference's columns come first: TS,Device,Sensor,Val,Prediction.
            labels += i64::from(line?.split(',').nth(4) == Some("1"));
        }
        same("lines of the CSV", rows, counts.scored)?;
        same("anomalies in the CSV", labels, counts.anomalies)?;
        same("head of the Parquet file", &read(&folder.join("predictions.parquet"))?[..4], b"PAR1")?;
        let written = std::fs::metadata(folder.join("_SUCCESS.json"))?.modified()?;
        let us = written.duration_since(std::time::UNIX_EPOCH)?.as_micros();
        Ok(Timestamp(i64::try_from(us)?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()).into())
}

/// Bytes of all files below a folder.
pub fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { bytes_below(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}

impl Measured {
    /// The middle of what was repeated.
    pub fn median(&self, f: impl Fn(&Scored) -> f64) -> f64 {
        median(&self.runs.iter().map(f).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }

    /// The most memory a process that scored held.
    pub fn peak_bytes(&self) -> Option<u64> {
        self.runs.iter().filter_map(|r| r.memory.peak_bytes).max()
    }

    fn bare(&self, f: impl Fn(&Bare) -> f64) -> Option<f64> {
        median(&self.bare.iter().map(f).collect::<Vec<_>>())
    }
}

/// Adds the tables of one store, ascending by models, and on PostgreSQL the goals of a million.
pub fn report(report: &mut Report, store: &str, measured: &[Measured]) {
    report.table(imports(store, measured));
    report.table(runs(store, measured));
    if measured.iter().any(|m| !m.bare.is_empty()) {
        report.table(beside_bare(store, measured));
        if let Some(m) = measured.iter().find(|m| m.models == 1_000_000) {
            report.goal(Goal::at_most("1 M models, seconds until in SQL", 8.0, m.median(|r| r.in_sql)));
            report.goal(Goal::at_most(
                "1 M models, seconds until published",
                12.0,
                m.median(|r| r.published),
            ));
            if let Some(peak) = m.peak_bytes() {
                report.goal(Goal::at_most("1 M models, GB of memory", 1.0, peak as f64 / 1e9));
            }
        }
    }
}

fn imports(store: &str, measured: &[Measured]) -> Table {
    let mut table = Table::new(
        format!("{store}: import of one Parquet file, and the set it makes"),
        &[
            "models",
            "file MB",
            "import s",
            "models/s",
            "peak MB",
            "set MB",
            "bytes a model",
            "windows into SQL s",
        ],
    );
    for m in measured {
        table.row(vec![
            Cell::Count(m.models.into()),
            Cell::megabytes(m.file_bytes),
            Cell::number(m.import_seconds, 2),
            Cell::number(f64::from(m.models) / m.import_seconds, 0),
            Cell::megabytes(m.import_memory.peak_bytes),
            Cell::megabytes(m.set_bytes),
            Cell::number(m.set_bytes as f64 / f64::from(m.models), 0),
            Cell::number(m.fill_seconds, 2),
        ]);
    }
    table
}

fn runs(store: &str, measured: &[Measured]) -> Table {
    let mut table = Table::new(
        format!("{store}: one window for each model, `fleetscore run`"),
        &[
            "models",
            "in SQL s",
            "published s",
            "process s",
            "rows/s into SQL",
            "peak MB",
            "without files MB",
            "s per million",
            "s per row / of the first line",
        ],
    );
    let cost = |m: &Measured| m.median(|r| r.in_sql) / f64::from(m.models);
    for m in measured {
        let in_sql = m.median(|r| r.in_sql);
        table.row(vec![
            Cell::Count(m.models.into()),
            Cell::number(in_sql, 2),
            Cell::number(m.median(|r| r.published), 2),
            Cell::number(m.median(|r| r.process), 2),
            Cell::number(f64::from(m.models) / in_sql, 0),
            Cell::megabytes(m.peak_bytes()),
            Cell::megabytes(m.runs.iter().filter_map(|r| r.memory.anonymous_bytes).max()),
            Cell::number(cost(m) * 1e6, 2),
            Cell::number(cost(m) / cost(&measured[0]), 2),
        ]);
    }
    table
}

fn beside_bare(store: &str, measured: &[Measured]) -> Table {
    let mut table = Table::new(
        format!("{store}: beside the bare COPY of the same rows"),
        &["models", "COPY windows out s", "COPY predictions in s", "both s", "in SQL s", "in SQL / bare"],
    );
    for m in measured {
        let Some(both) = m.bare(Bare::seconds) else { continue };
        let in_sql = m.median(|r| r.in_sql);
        table.row(vec![
            Cell::Count(m.models.into()),
            Cell::number(m.bare(|b| b.windows_out), 2),
            Cell::number(m.bare(|b| b.predictions_in), 2),
            Cell::number(both, 2),
            Cell::number(in_sql, 2),
            Cell::number(in_sql / both, 2),
        ]);
    }
    table
}
