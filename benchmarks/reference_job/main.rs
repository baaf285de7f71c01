//! `benchmarks/reference_job/run.sh`: the reference's own job, CSV in and CSV out, by its structure (one Python process
//! for each model, two at a time) and by one process of ours.

use clap::Parser;
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};
use fleetscore_benchmarks::{Result, child};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Instant;

/// Times our job is done for each time of the scripts'.
const OURS_A_ROUND: usize = 10;

/// The reference's job: scripts against `fleetscore predict`.
#[derive(Debug, Parser)]
struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE")]
    fleetscore: PathBuf,
    /// Python with scikit-learn and pandas.
    #[arg(long, value_name = "FILE")]
    python: PathBuf,
    /// Folder of score.py and make.py.
    #[arg(long, value_name = "DIR")]
    scripts: PathBuf,
    /// Folder of the reference's own models and sensor_data.csv; left out where it is absent.
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Processes of Python at a time.
    #[arg(long, default_value_t = 2)]
    at_a_time: usize,
    /// Rounds: the scripts once, ours ten times.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Makes models and readings.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Models and the readings they are to score.
struct Job {
    name: &'static str,
    models: Vec<PathBuf>,
    csv: PathBuf,
}

/// Rows of one series in the order of the file: time, value, label.
type Rows = BTreeMap<(String, String), Vec<(String, f64, u8)>>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("reference_job: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    let made = folder.path().join("made");
    std::fs::create_dir(&made)?;
    child::succeed(
        Command::new(&args.python).arg(args.scripts.join("make.py")).arg(&made).arg(args.seed.to_string()),
    )?;
    let mut jobs = vec![Job::of("15 models by a seed", &made)?];
    match args.reference.as_deref().filter(|dir| dir.join("models").is_dir()) {
        Some(dir) => jobs.push(Job::of("the reference's ten models", dir)?),
        None => eprintln!("reference_job: the reference's own data are not here; they are left out"),
    }
    let mut report = Report::new("The reference's own job");
    let versions = "import platform, sklearn, pandas; print('Python', platform.python_version() + ', scikit-learn', sklearn.__version__ + ', pandas', pandas.__version__)";
    let python = child::succeed(Command::new(&args.python).args(["-c", versions]))?.stdout;
    let ours = child::succeed(Command::new(&args.fleetscore).arg("--version"))?.stdout;
    report.setting(
        "scripts",
        format!("{}, one process for each model, {} at a time", python.trim(), args.at_a_time),
    );
    report.setting(
        "ours",
        format!("`fleetscore predict`, one process: {} ({})", args.fleetscore.display(), ours.trim()),
    );
    report.setting(
        "repeats",
        format!(
            "{} of the scripts, {} of ours in turn, after one round untimed; medians",
            args.repeats,
            args.repeats * OURS_A_ROUND
        ),
    );
    let mut table = Table::new(
        "CSV in, CSV out",
        &[
            "job",
            "models",
            "rows",
            "anomalies",
            "labels that differ",
            "scripts s",
            "ours s",
            "ours least s",
            "ours most s",
            "ours peak MB",
            "scripts / ours",
        ],
    );
    for job in &jobs {
        let ratio = measure(args, job, folder.path(), &mut table)?;
        report.goal(Goal::at_least(format!("{}, times faster", job.name), 100.0, ratio));
    }
    report.table(table);
    report.publish(args.json.as_deref())
}

impl Job {
    fn of(name: &'static str, folder: &Path) -> Result<Self> {
        let dir = folder.join("models");
        let mut models: Vec<PathBuf> = std::fs::read_dir(&dir)
            .map_err(|e| format!("{}: {e}", dir.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        models.sort();
        Ok(Self { name, models, csv: folder.join("sensor_data.csv") })
    }
}

/// Both ways, compared; adds a row and returns how many times faster ours is.
fn measure(args: &Args, job: &Job, folder: &Path, table: &mut Table) -> Result<f64> {
    let (theirs_out, ours_out) = (folder.join("theirs"), folder.join("ours.csv"));
    let (mut theirs_s, mut ours_s, mut peak) = (Vec::new(), Vec::new(), None);
    // In turn, so that a machine that is busy for a while slows both; the first round is not counted.
    for round in 0..=args.repeats {
        let _ = std::fs::remove_dir_all(&theirs_out);
        std::fs::create_dir(&theirs_out)?;
        let seconds = scripts(args, job, &theirs_out)?;
        if round > 0 {
            theirs_s.push(seconds);
        }
        for _ in 0..OURS_A_ROUND {
            let _ = std::fs::remove_file(&ours_out);
            let mut command = Command::new(&args.fleetscore);
            command.arg("predict").arg("--models").args(&job.models);
            let ended = child::succeed(command.arg("--csv").arg(&job.csv).arg("--out").arg(&ours_out))?;
            peak = peak.max(ended.memory.peak_bytes);
            if round > 0 {
                ours_s.push(ended.seconds);
            }
        }
    }
    let (rows, anomalies, differ) = compare(job, &theirs_out, &ours_out)?;
    if differ > 0 {
        return Err(format!("{}: {differ} of {rows} labels differ", job.name).into());
    }
    let seconds = |values: &[f64]| median(values).unwrap_or(f64::NAN);
    let ratio = seconds(&theirs_s) / seconds(&ours_s);
    table.row(vec![
        job.name.into(),
        Cell::Count(job.models.len() as u64),
        Cell::Count(rows),
        Cell::Count(anomalies),
        Cell::Count(differ),
        Cell::number(seconds(&theirs_s), 2),
        Cell::number(seconds(&ours_s), 4),
        Cell::number(ours_s.iter().copied().reduce(f64::min), 4),
        Cell::number(ours_s.iter().copied().reduce(f64::max), 4),
        Cell::megabytes(peak),
        Cell::number(ratio, 0),
    ]);
    Ok(ratio)
}

/// One process for each model, so many at a time; returns the seconds of all.
fn scripts(args: &Args, job: &Job, out: &Path) -> Result<f64> {
    let waiting = Mutex::new(job.models.iter());
    let next = || waiting.lock().ok().and_then(|mut models| models.next());
    let start = Instant::now();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..args.at_a_time)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(model) = next() {
                        let name = model.file_name().ok_or("a model without a name")?;
                        let mut command = Command::new(&args.python);
                        command.arg(args.scripts.join("score.py")).arg(model).arg(&job.csv);
                        child::succeed(command.arg(out.join(name).with_extension("csv")))?;
                    }
                    Ok(())
                })
            })
            .collect();
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(|_| "a thread panicked")?)
    })?;
    Ok(start.elapsed().as_secs_f64())
}

/// Rows, anomalies, and labels that differ; times and values must be the same in the same order.
fn compare(job: &Job, theirs: &Path, ours: &Path) -> Result<(u64, u64, u64)> {
    let mut scripts = Rows::new();
    for model in &job.models {
        let name = model.file_name().ok_or("a model without a name")?;
        read(&theirs.join(name).with_extension("csv"), &mut scripts)?;
    }
    let mut predicted = Rows::new();
    read(ours, &mut predicted)?;
    let input = std::fs::read_to_string(&job.csv)?.lines().skip(1).filter(|l| !l.is_empty()).count();
    let count = |rows: &Rows| rows.values().map(Vec::len).sum::<usize>();
    if count(&scripts) != input || count(&predicted) != input {
        let (a, b) = (count(&scripts), count(&predicted));
        return Err(format!("{}: {input} rows in, {a} out of the scripts, {b} out of ours", job.name).into());
    }
    let (mut anomalies, mut differ) = (0, 0);
    for (series, theirs) in &scripts {
        let ours = predicted.get(series).map(Vec::as_slice).unwrap_or_default();
        if theirs.len() != ours.len() {
            return Err(
                format!("{}: rows of {series:?}: {} and {}", job.name, theirs.len(), ours.len()).into()
            );
        }
        for (a, b) in theirs.iter().zip(ours) {
            if (&a.0, a.1) != (&b.0, b.1) {
                return Err(format!("{}: {series:?}: {a:?} and {b:?}", job.name).into());
            }
            anomalies += u64::from(a.2);
            differ += u64::from(a.2 != b.2);
        }
    }
    Ok((input as u64, anomalies, differ))
}

/// Adds the rows of a CSV file that begins with TS,Device,Sensor,Val,Prediction.
fn read(path: &Path, rows: &mut Rows) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [ts, device, sensor, value, label, ..] = cells[..] else {
            return Err(format!("{}: `{line}` is too short", path.display()).into());
        };
        let row = (ts.to_owned(), value.parse()?, label.parse()?);
        rows.entry((device.to_owned(), sensor.to_owned())).or_default().push(row);
    }
    Ok(())
}
