//! `predict`: a CSV file scored with models straight from their files; the reference's own job as one process.
//!
//! Lines are read on one thread and scored on the others in batches that are dealt out in turn and collected in turn,
//! so the output keeps the order of the input and only a bounded number of batches is in memory.

mod rows;

use crate::exit::{Done, Fail, Outcome};
use crate::input;
use crate::output;
use fleetscore_schemas::window::Feature;
use fleetscore_scorer::predict::{EXPLAINED, ModelFiles, ModelSources};
use rows::{Answer, Batch, Counts, HEADER, Lines};
use serde_json::json;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bad lines and refused models that a person is shown one by one.
const SHOWN: usize = 20;
/// Threads that read models.
const FILE_THREADS: usize = 4;
/// Batches that wait for a thread, and as many that wait to be written.
const QUEUE: usize = 2;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Models: files, folders or blob URLs, as `models import` takes them.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    models: Vec<String>,
    /// How a file's name (without extension) tells its series; split at the last `_` where that is not clear.
    #[arg(long, default_value = "model_{device}_{sensor}")]
    pattern: String,
    /// A file with columns ts, timestamp or window_start, device, sensor, and the features (a single one may be called value
    /// or val), in any case and order; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    csv: PathBuf,
    /// The file to write, with columns TS, Device, Sensor, Val, Prediction (1 = anomaly), decision, status,
    /// normal_range; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What the models take as input, in their order: columns of the file; a single one may be called value or val.
    #[arg(long, value_delimiter = ',', default_value = "mean")]
    features: Vec<Feature>,
    /// Print what was done as JSON (to standard error where the rows go to standard output).
    #[arg(long)]
    json: bool,
}

/// Reads, scores, writes, and says what happened: 3 where lines or models were bad and the others are scored.
pub(super) fn run(args: &Args) -> Outcome {
    let lines =
        Lines::new(&args.csv.display().to_string(), input::open("--csv", &args.csv)?, &args.features)?;
    let models = load(args)?;
    let mut out = Output::create(&args.out)?;
    let (mut summary, mut to_explain) = (Summary::default(), EXPLAINED);
    let scored = match out.write(HEADER) {
        Ok(()) => pipeline(&models, lines, |mut answer| {
            // Here, where answers come in the order of their lines: which ones are explained is no matter of chance.
            answer.explain(&models, &mut to_explain);
            summary.take(answer, &mut out)
        }),
        Err(e) => Err(e),
    };
    match scored.and_then(|()| out.finish()) {
        Ok(()) => Ok(summary.report(args, &models)),
        // The reader of a pipe has seen enough.
        Err(Stop::Write(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(Done::All),
        Err(Stop::Write(e)) => Err(Fail::work(format!("--out: `{}`: {e}", args.out.display()))),
        Err(Stop::Read(e)) => Err(Fail::work(format!("--csv: `{}`: {e}", args.csv.display()))),
    }
}

fn load(args: &Args) -> Result<ModelFiles, Fail> {
    let sources = ModelSources {
        paths: args.models.clone(),
        pattern: args.pattern.clone(),
        features: args.features.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(FILE_THREADS) // a thread costs more than a small file
        .enable_all()
        .build()
        .map_err(|e| Fail::work(format!("no threads to run on: {e}")))?;
    Ok(runtime.block_on(ModelFiles::load(&sources))?)
}

/// Why the work ended early.
#[derive(Debug)]
enum Stop {
    Read(std::io::Error),
    Write(std::io::Error),
}

/// Scores all lines on all cores and hands the answers to `take` in the order of the input.
fn pipeline(
    models: &ModelFiles,
    lines: Lines,
    mut take: impl FnMut(Answer) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (to_worker, batches) = sync_channel::<Batch>(QUEUE);
            let (to_writer, answers) = sync_channel::<Answer>(QUEUE);
            scope.spawn(move || work(models, &batches, &to_writer));
            inputs.push(to_worker);
            outputs.push(answers);
        }
        let reader = scope.spawn(move || deal(lines, &inputs));
        // In turn, as they were dealt: the first that has no more ends all.
        for answers in outputs.iter().cycle() {
            let Ok(answer) = answers.recv() else { break };
            take(answer)?; // an error drops the channels, and every thread ends
        }
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read.map_err(Stop::Read)
    })
}

/// Deals batches of lines out in turn, to the end of the file or of those who take them.
fn deal(mut lines: Lines, workers: &[SyncSender<Batch>]) -> std::io::Result<()> {
    for worker in workers.iter().cycle() {
        let Some(batch) = lines.batch()? else { break };
        if worker.send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

fn work(models: &ModelFiles, batches: &Receiver<Batch>, to_writer: &SyncSender<Answer>) {
    while let Ok(batch) = batches.recv() {
        if to_writer.send(batch.score(models)).is_err() {
            break;
        }
    }
}

/// Where the rows go: a file appears under its name when it is complete, and nothing is left of one that failed.
struct Output {
    writer: Box<dyn Write>,
    /// The incomplete file and its name when it is complete.
    rename: Option<(PathBuf, PathBuf)>,
}

impl Output {
    fn create(path: &Path) -> Result<Self, Fail> {
        let fail = |e| Fail::user(format!("--out: `{}` cannot be written: {e}", path.display()));
        if path == Path::new("-") {
            return Ok(Self { writer: Box::new(std::io::stdout()), rename: None });
        }
        // What is there and no file (a pipe, /dev/null) is written to.
        if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            let file = File::options().write(true).open(path).map_err(fail)?;
            return Ok(Self { writer: Box::new(file), rename: None });
        }
        let mut incomplete = path.as_os_str().to_owned();
        incomplete.push(format!(".{}.incomplete", std::process::id()));
        let incomplete = PathBuf::from(incomplete);
        let file = File::create(&incomplete).map_err(fail)?;
        Ok(Self { writer: Box::new(file), rename: Some((incomplete, path.to_owned())) })
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Stop> {
        self.writer.write_all(text).map_err(Stop::Write)
    }

    fn finish(&mut self) -> Result<(), Stop> {
        self.writer.flush().map_err(Stop::Write)?;
        if let Some((from, to)) = &self.rename {
            std::fs::rename(from, to).map_err(Stop::Write)?;
            self.rename = None;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((incomplete, _)) = self.rename.take() {
            let _ = std::fs::remove_file(incomplete);
        }
    }
}

/// What became of all lines.
#[derive(Debug, Default)]
struct Summary {
    counts: Counts,
    /// The first bad lines.
    bad: Vec<(u64, String)>,
    bad_lines: u64,
}

impl Summary {
    fn take(&mut self, answer: Answer, out: &mut Output) -> Result<(), Stop> {
        self.counts.add(&answer.counts);
        self.bad_lines += answer.bad.len() as u64;
        let room = SHOWN.saturating_sub(self.bad.len());
        self.bad.extend(answer.bad.into_iter().take(room));
        out.write(&answer.text)
    }

    fn report(&self, args: &Args, models: &ModelFiles) -> Done {
        let csv = args.csv.display();
        let done = if self.bad_lines == 0 && models.refused.is_empty() { Done::All } else { Done::Partly };
        let text = if args.json {
            self.json(models).to_string()
        } else {
            for (path, why) in models.refused.iter().take(SHOWN) {
                eprintln!("refused: {path} {why}");
            }
            more(models.refused.len() as u64, "models");
            for (line, why) in &self.bad {
                eprintln!("bad line: `{csv}` line {line}: {why}");
            }
            more(self.bad_lines, "lines");
            self.words(models)
        };
        if args.out == Path::new("-") {
            eprintln!("{text}");
        } else {
            output::print(&text);
        }
        done
    }

    fn json(&self, models: &ModelFiles) -> serde_json::Value {
        let refused: Vec<_> =
            models.refused.iter().map(|(path, why)| json!({"path": path, "why": why})).collect();
        let bad: Vec<_> = self.bad.iter().map(|(line, why)| json!({"line": line, "why": why})).collect();
        let c = &self.counts;
        json!({
            "models": models.models,
            "refused": refused,
            "skipped": models.skipped,
            "rows": c.rows,
            "scored": c.scored,
            "anomalies": c.anomalies,
            "no_model": c.no_model,
            "model_error": c.model_error,
            "input_invalid": c.input_invalid,
            "bad_lines": self.bad_lines,
            "first_bad_lines": bad,
        })
    }

    fn words(&self, models: &ModelFiles) -> String {
        let c = &self.counts;
        let mut text = format!(
            "{} rows, {} scored with {} models: {} anomalies",
            c.rows, c.scored, models.models, c.anomalies
        );
        for (n, what) in [
            (c.no_model, "without a model"),
            (c.model_error, "with a model that failed"),
            (c.input_invalid, "bad"),
        ] {
            if n > 0 {
                text.push_str(&format!(", {n} {what}"));
            }
        }
        text
    }
}

fn more(all: u64, what: &str) {
    if all > SHOWN as u64 {
        eprintln!("… and {} more {what}", all - SHOWN as u64);
    }
}
