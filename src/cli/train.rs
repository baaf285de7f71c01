//! `models train` and `models export-training`: models from rows, and the rows themselves.

use super::Context;
use super::models_sets::fits;
use crate::exit::{Done, Fail, Outcome};
use crate::{logging, output};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::time::Timestamp;
use fleetscore_schemas::window::Feature;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models::{
    self, ExportReport, Gamma, MAX_ITERATIONS, Observer, Progress, Sampling, TrainOptions, TrainReport,
};
use fleetscore_settings::units;
use fleetscore_store::Store;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use regex::Regex;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Reasons of series without a model, and of warnings, that a person is shown.
const REASONS: usize = 10;
/// How often the log tells of progress.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Which rows.
#[derive(Debug, clap::Args)]
pub(super) struct Rows {
    /// Windows that start at this time or later.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    from: Option<Timestamp>,
    /// Windows that end at this time or earlier.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    to: Option<Timestamp>,
    /// Length of the windows [default: the pane].
    #[arg(long, value_name = "DURATION", value_parser = units::duration_us)]
    window: Option<i64>,
    /// What the models take as input.
    #[arg(long, value_delimiter = ',', default_value = "mean")]
    features: Vec<Feature>,
    /// Only series whose `device/sensor` matches.
    #[arg(long, value_name = "REGEX")]
    series: Option<Regex>,
    /// Of more windows, so many are taken of a series.
    #[arg(long, default_value_t = 1000)]
    max_rows: usize,
    /// Which ones: evenly spaced in time, or any with equal chance.
    #[arg(long, value_enum, default_value_t = Sample::Even)]
    sample: Sample,
    /// Seed of `--sample random`: the same one takes the same windows of a series.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Sample {
    Even,
    Random,
}

#[derive(Debug, clap::Args)]
pub(super) struct Train {
    #[command(flatten)]
    rows: Rows,
    /// Train on Parquet files, folders or blob URLs (columns device, sensor and the features) instead of windows.
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "window")]
    parquet: Vec<String>,
    /// Share of the training rows that may lie outside, above 0 and at most 1.
    #[arg(long, default_value_t = 0.01, value_parser = nu)]
    nu: f64,
    /// `scale`, `auto` or a number, as in scikit-learn.
    #[arg(long, default_value = "scale")]
    gamma: Gamma,
    /// Where the solver stops, as scikit-learn's `tol`; smaller is slower and nearer to the exact model.
    #[arg(long, default_value_t = 1e-3, value_parser = tolerance)]
    tolerance: f64,
    /// Steps of the solver after which a series' fit fails.
    #[arg(long, value_name = "STEPS", default_value_t = MAX_ITERATIONS)]
    max_iterations: u64,
    /// Series with fewer windows get no model.
    #[arg(long, default_value_t = 20)]
    min_rows: usize,
    /// Fits that run at once [default: one for each core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Begin anew where an earlier training with the same options was interrupted.
    #[arg(long)]
    restart: bool,
    /// Leave the active set as it is.
    #[arg(long)]
    no_activate: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    rows: Rows,
    /// The Parquet file to write, or a folder: a path or a blob URL.
    #[arg(long, value_name = "PATH")]
    out: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn nu(text: &str) -> Result<f64, String> {
    let good = |x: &f64| *x > 0.0 && *x <= 1.0;
    text.parse::<f64>()
        .ok()
        .filter(good)
        .ok_or_else(|| format!("`{text}` is not a number above 0 and at most 1"))
}

fn tolerance(text: &str) -> Result<f64, String> {
    let good = |x: &f64| *x > 0.0 && *x < 1.0;
    text.parse::<f64>().ok().filter(good).ok_or_else(|| format!("`{text}` is not a number between 0 and 1"))
}

impl Rows {
    async fn options(self, context: &Context, store: &dyn Store) -> Result<TrainOptions, Fail> {
        let pane_us = store.pane_settings().await?.map_or(context.config.interval_us, |p| p.interval_us);
        Ok(TrainOptions {
            from: self.from,
            to: self.to,
            features: self.features,
            series: self.series,
            max_rows: self.max_rows,
            sampling: match self.sample {
                Sample::Even => Sampling::Even,
                Sample::Random => Sampling::Random { seed: self.seed },
            },
            ..TrainOptions::new(self.window.unwrap_or(pane_us))
        })
    }
}

pub(super) async fn train(args: Train, context: &Context, store: &Arc<dyn Store>, blobs: &Blobs) -> Outcome {
    if !args.no_activate {
        // Before hours of work.
        let features: Vec<String> = args.rows.features.iter().map(ToString::to_string).collect();
        fits(store.as_ref(), &features).await?;
    }
    let display = Display::new();
    let defaults = args.rows.options(context, store.as_ref()).await?;
    let options = TrainOptions {
        parquet: args.parquet,
        nu: args.nu,
        gamma: args.gamma,
        tolerance: args.tolerance,
        max_iterations: args.max_iterations,
        min_rows: args.min_rows,
        parallelism: args.threads.map_or(defaults.parallelism, usize::from),
        restart: args.restart,
        max_series: context.config.max_series,
        activate: !args.no_activate,
        created_by: super::models::created_by(),
        observer: display.observer(),
        ..defaults
    };
    let report = context.shutdown.unless(Box::pin(models::train(store.as_ref(), blobs, &options))).await;
    let kept = display.end();
    // Wrong use ends before anything is kept, and what came to nothing says itself what becomes of it.
    use models::ModelError::{Failed, Usage};
    let broken = !matches!(report, Ok(Ok(_) | Err(Usage(_) | Failed(_))));
    if broken && kept > 0 {
        eprintln!("{kept} series are done and kept: the same command goes on from there");
    }
    let report = report??;
    if args.json {
        output::print(&train_json(&report, options.activate).to_string());
    } else {
        tell(&report, options.activate);
    }
    Ok(if report.failed.is_empty() { Done::All } else { Done::Partly })
}

fn train_json(report: &TrainReport, active: bool) -> serde_json::Value {
    let listed = |list: &[(SeriesName, String)]| {
        let one =
            |(s, why): &(SeriesName, String)| json!({"device": s.device, "sensor": s.sensor, "why": why});
        list.iter().map(one).collect::<Vec<_>>()
    };
    json!({
        "version": report.version,
        "trained": report.trained,
        "windows": report.windows,
        "from": report.range.map(|r| r.start.to_rfc3339()),
        "to": report.range.map(|r| r.end.to_rfc3339()),
        "failed": listed(&report.failed),
        "warnings": listed(&report.warnings),
        "resumed": report.resumed,
        "active": active,
    })
}

fn tell(report: &TrainReport, active: bool) {
    let TrainReport { version, trained, failed, warnings, .. } = report;
    for line in grouped("no model for", failed, &format!("fleetscore models failures {version}")) {
        eprintln!("{line}");
    }
    for line in grouped("warning:", warnings, "--json") {
        eprintln!("{line}");
    }
    let active = if active { "active" } else { "not active" };
    output::print(&format!(
        "model set {version}: {trained} models trained, {} series without; {active}",
        failed.len()
    ));
}

/// A line for each reason, the most frequent first, with one series that has it.
fn grouped(what: &str, list: &[(SeriesName, String)], all: &str) -> Vec<String> {
    let mut groups: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (at, (_, why)) in list.iter().enumerate() {
        groups.entry(kind(why)).or_insert((0, at)).0 += 1;
    }
    let mut groups: Vec<(usize, usize)> = groups.into_values().collect();
    groups.sort_by_key(|(count, first)| (std::cmp::Reverse(*count), *first));
    let line = |(count, first): &(usize, usize)| {
        let (series, why) = &list[*first];
        match count {
            1 => format!("{what} {series}: {why}"),
            _ => format!("{what} {count} series, {series} is one: {why}"),
        }
    };
    let mut lines: Vec<String> = groups.iter().take(REASONS).map(line).collect();
    if groups.len() > REASONS {
        let left: usize = groups[REASONS..].iter().map(|(count, _)| count).sum();
        lines.push(format!("{what} {left} more series, for other reasons"));
    }
    if lines.len() < list.len() {
        lines.push(format!("({all} lists all of them)"));
    }
    lines
}

/// A reason without its numbers, which differ from series to series.
fn kind(why: &str) -> String {
    let word = |w: &str| if w.contains(|c: char| c.is_ascii_digit()) { "#".to_owned() } else { w.to_owned() };
    why.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

pub(super) async fn export(args: Export, context: &Context, store: &Arc<dyn Store>) -> Outcome {
    let display = Display::new();
    let defaults = args.rows.options(context, store.as_ref()).await?;
    let options = TrainOptions { observer: display.observer(), ..defaults };
    let report = context.shutdown.unless(models::export_training(store.as_ref(), &options, &args.out)).await;
    display.end();
    let ExportReport { path, series, rows, windows, range } = report??;
    if args.json {
        let value = json!({
            "path": path,
            "series": series,
            "rows": rows,
            "windows": windows,
            "from": range.start.to_rfc3339(),
            "to": range.end.to_rfc3339(),
        });
        output::print(&value.to_string());
    } else {
        output::print(&format!("{rows} rows of {series} series are in {path}"));
    }
    Ok(Done::All)
}

/// How far it is: a bar on a terminal, now and then a line of the log elsewhere.
struct Display {
    bar: Option<(MultiProgress, ProgressBar)>,
    /// Series that a kill would not lose.
    kept: Arc<AtomicU64>,
}

impl Display {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            let style = ProgressStyle::with_template("{msg}  {wide_bar} {percent}%  {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = multi.add(ProgressBar::new(0).with_style(style));
            logging::set_picture(Some(multi.clone()));
            (multi, bar)
        });
        Self { bar, kept: Arc::default() }
    }

    fn observer(&self) -> Observer {
        let log = Mutex::new(Log { stage: 1, said: Instant::now() });
        let (bar, kept) = (self.bar.clone().map(|(_, bar)| bar), self.kept.clone());
        Observer::new(move |progress| {
            if let Progress::Kept { series } | Progress::Resumed { series, .. } = progress {
                kept.store(series, Ordering::Relaxed);
            }
            let Some((stage, text, at)) = words(&progress) else { return };
            let Some(bar) = &bar else {
                let due = log.lock().is_ok_and(|mut log| log.is_due(stage, at));
                if due {
                    tracing::info!("{text}");
                }
                return;
            };
            if stage == 0 {
                tracing::info!("{text}");
            } else if let Some((done, total)) = at {
                bar.set_length(total);
                bar.set_position(done);
            }
            bar.set_message(text);
        })
    }

    /// The series that are kept.
    fn end(self) -> u64 {
        logging::set_picture(None);
        if let Some((multi, bar)) = self.bar {
            bar.finish_and_clear();
            let _ = multi.clear();
        }
        self.kept.load(Ordering::Relaxed)
    }
}

struct Log {
    stage: usize,
    said: Instant,
}

impl Log {
    /// Whether a line is due: at each stage's end, and now and then in between.
    fn is_due(&mut self, stage: usize, at: Option<(u64, u64)>) -> bool {
        let ended = at.is_none_or(|(done, total)| done >= total) && stage != self.stage;
        if ended {
            self.stage = stage;
        }
        let due = ended || self.said.elapsed() >= LOG_EVERY;
        if due {
            self.said = Instant::now();
        }
        due
    }
}

/// A number for each stage, what to say, and how far it is; `None` where there is nothing to say.
fn words(progress: &Progress) -> Option<(usize, String, Option<(u64, u64)>)> {
    Some(match *progress {
        Progress::Resumed { began, series } => (
            0,
            format!(
                "going on with the training that began at {}: {series} series are done, and its range of windows \
                 stays (--restart begins anew)",
                output::time(began)
            ),
            None,
        ),
        Progress::Gathering { pass, passes, done, total } => {
            let of = if passes > 1 { format!(", pass {pass} of {passes}") } else { String::new() };
            (2 * pass + 1, format!("reading rows: {done} of {total}{of}"), Some((done, total)))
        }
        Progress::Fitting { done, total, failed } => (
            usize::MAX,
            format!("fitting: {done} of {total} series, {failed} without a model"),
            Some((done, total)),
        ),
        Progress::Kept { .. } => return None,
        Progress::Adding => (usize::MAX - 1, "writing the model set".to_owned(), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_of_each_end_once() {
        let mut log = Log { stage: 1, said: Instant::now() };
        assert!(!log.is_due(3, Some((1, 10))));
        assert!(log.is_due(3, Some((10, 10))));
        assert!(!log.is_due(3, Some((10, 10))));
        assert!(!log.is_due(usize::MAX, Some((5, 10))));
        assert!(log.is_due(usize::MAX, Some((10, 10))));
        assert!(log.is_due(usize::MAX - 1, None));
        log.said = Instant::now().checked_sub(LOG_EVERY).unwrap();
        assert!(log.is_due(3, Some((1, 10))));
    }

    #[test]
    fn reasons_are_told_once_with_the_number_of_their_series() {
        let series = |n: usize| SeriesName::new(format!("d{n}"), "s");
        let few = |n: usize| (series(n), format!("has {} windows, and at least 20 are wanted", n % 20));
        let mut list: Vec<(SeriesName, String)> = (0..500).map(few).collect();
        list.insert(0, (series(900), "the solver panicked: oh".into()));
        let lines = grouped("no model for", &list, "x");
        assert_eq!(
            lines,
            [
                "no model for 500 series, d0/s is one: has 0 windows, and at least 20 are wanted",
                "no model for d900/s: the solver panicked: oh",
                "(x lists all of them)",
            ]
        );
        // However many reasons there are.
        let word = |n: usize| char::from(b'a' + n as u8).to_string();
        let list: Vec<_> = (0..26).map(|n| (series(n), word(n))).collect();
        let lines = grouped("warning:", &list, "x");
        assert_eq!((lines.len(), lines[10].as_str()), (12, "warning: 16 more series, for other reasons"));
        assert_eq!(grouped("warning:", &list[..1], "x"), ["warning: d0/s: a"]);
        assert!(grouped("warning:", &[], "x").is_empty());
    }

    #[test]
    fn numbers_are_checked_where_they_are_read() {
        assert_eq!(tolerance("1e-7"), Ok(1e-7));
        assert_eq!(nu("1"), Ok(1.0));
        for bad in ["0", "1", "-1", "nan", ""] {
            assert!(tolerance(bad).is_err(), "{bad}");
        }
        for bad in ["0", "1.5", "-1", "nan", ""] {
            assert!(nu(bad).is_err(), "{bad}");
        }
    }
}
