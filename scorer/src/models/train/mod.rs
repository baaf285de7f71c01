//! Model sets fitted to rows of features: one one-class support vector machine per series, by linfa-svm.
//!
//! | module | does |
//! | --- | --- |
//! | `windows` | rows from the store's windows |
//! | `parquet` | rows from Parquet files |
//! | `sample` | which rows of a series a fit gets |
//! | `fits` | many series at once, on all cores |
//! | `job`, `chunk` | what is kept of a long training, so that it can be gone on with |
//! | `export` | the same rows as Parquet, for other trainers |
//!
//! **Memory.** Rows are gathered for as many series at once as fit into [`TrainOptions::memory`], by an upper bound that
//! is known beforehand: a series has at most one row for each window of the range that has data, and of more than
//! `max_rows` it keeps at most twice as many. More series are gathered in several passes, each of which reads these
//! windows once: 512 MiB hold 120,000 series of 200 rows of one feature, or 13,000 of 2,000 rows and more. Cost is therefore
//! linear in the windows, times the passes. Fits that run at once hold a kernel matrix each and stay within the same
//! limit.

mod chunk;
#[cfg(test)]
mod counting;
mod export;
mod fits;
mod job;
mod parquet;
mod sample;
mod windows;

use super::features::{check_activation, names};
use super::format::{Models, Stored};
use super::registry::{self, NewSet, blocking};
use super::{DEFAULT_PATTERN, ModelError, Result};
use crate::blobs::Blobs;
pub use export::{ExportReport, export_training};
use fits::Fit;
pub use fleetscore_fit::{Gamma, MAX_ITERATIONS, MAX_ROWS};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::window::Feature;
use fleetscore_store::{ModelFailure, Store};
use job::Job;
use regex::Regex;
use sample::Sample;
pub use sample::Sampling;
use std::sync::Arc;
use windows::Found;

/// Series of one chunk at most…
const CHUNK_SERIES: usize = 1_000;
/// …and about so much work, in pairs of rows: what a kill costs is some seconds.
const CHUNK_PAIRS: u64 = 200_000_000;

/// What to train on, and how.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Windows that start before are left out; `None` = from the oldest.
    pub from: Option<Timestamp>,
    /// Windows that end after are left out; `None` = to the newest.
    pub to: Option<Timestamp>,
    /// Length of a window in microseconds, a multiple of the pane: that of the schedule the models are for. Of no
    /// meaning with `parquet`.
    pub window_us: i64,
    /// Train on these files, folders or blob URLs of Parquet instead of the store's windows: columns `device`,
    /// `sensor` and one for each feature; `window_start` and `window_end` where a range is asked for.
    pub parquet: Vec<String>,
    /// The window columns that the models take, in order. A window where one is NULL is left out.
    pub features: Vec<Feature>,
    /// ν: the share of the training windows that may be called anomalies, in (0, 1].
    pub nu: f64,
    /// γ.
    pub gamma: Gamma,
    /// Where the solver stops, as scikit-learn's `tol`.
    pub tolerance: f64,
    /// Steps of the solver after which a series' fit fails.
    pub max_iterations: u64,
    /// A series with fewer windows gets no model.
    pub min_rows: usize,
    /// Of more windows than this, so many are taken as `sampling` says; at most [`MAX_ROWS`] for a training.
    pub max_rows: usize,
    /// Which windows are taken where a series has more than `max_rows`.
    pub sampling: Sampling,
    /// Scale inputs to mean 0 and deviation 1, as scikit-learn's `StandardScaler`.
    pub standardise: bool,
    /// Only series whose `device/sensor` matches.
    pub series: Option<Regex>,
    /// Fits that run at once.
    pub parallelism: usize,
    /// Memory for gathered windows, in bytes; more series than fit in are gathered in several passes.
    pub memory: usize,
    /// Series that are kept at once, for a training to go on after a kill; one with fewer series starts anew.
    pub chunk: usize,
    /// Begin anew, even if an earlier training with these options did not end.
    pub restart: bool,
    /// Most series the store may have, where files name new ones.
    pub max_series: u32,
    /// Make the new set the active one.
    pub activate: bool,
    /// Who trains.
    pub created_by: String,
    /// Is told how it goes.
    pub observer: Observer,
}

/// How a training goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// An earlier one is gone on with.
    Resumed {
        /// When it began.
        began: Timestamp,
        /// Series that are done.
        series: u64,
    },
    /// Rows are read.
    Gathering {
        /// Which pass, from 1.
        pass: usize,
        /// Of so many.
        passes: usize,
        /// Windows (of all series at once) or rows of files that were read.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// Models are fitted.
    Fitting {
        /// Series that are done, also in an earlier run of this training.
        done: u64,
        /// Series there are; those without a row in the range are among them until they are passed.
        total: u64,
        /// Series without a model so far.
        failed: u64,
    },
    /// What is done is kept: a kill from here on loses none of it.
    Kept {
        /// Series that are done.
        series: u64,
    },
    /// All are fitted; the set is written.
    Adding,
}

/// Somebody who is told of progress, a few times a second.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl Observer {
    /// From a function that returns at once.
    pub fn new(tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    fn tell(&self, progress: Progress) {
        if let Some(tell) = &self.0 {
            tell(progress);
        }
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Observer(some)" } else { "Observer(none)" })
    }
}

impl TrainOptions {
    /// What the command uses where nothing else is given, for windows of this length.
    pub fn new(window_us: i64) -> Self {
        Self {
            from: None,
            to: None,
            window_us,
            parquet: Vec::new(),
            features: vec![Feature::Mean],
            nu: 0.01,
            gamma: Gamma::Scale,
            tolerance: 1e-3,
            max_iterations: MAX_ITERATIONS,
            min_rows: 20,
            max_rows: 1_000,
            sampling: Sampling::Even,
            standardise: true,
            series: None,
            parallelism: std::thread::available_parallelism().map_or(2, usize::from),
            memory: 512 << 20,
            chunk: CHUNK_SERIES,
            restart: false,
            max_series: u32::MAX,
            activate: true,
            created_by: String::new(),
            observer: Observer::default(),
        }
    }

    fn check(&self) -> Result<()> {
        let bad = |message: String| Err(ModelError::Usage(message));
        if !(self.nu > 0.0 && self.nu <= 1.0) {
            return bad(format!("nu is {}: it must be in (0, 1]", self.nu));
        }
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            return bad(format!("tolerance is {}: it must be between 0 and 1", self.tolerance));
        }
        if let Gamma::Value(v) = self.gamma
            && !(v > 0.0 && v.is_finite())
        {
            return bad(format!("gamma is {v}: it must be a positive number"));
        }
        if self.max_rows > MAX_ROWS || self.min_rows < 2 || self.min_rows > self.max_rows {
            return bad(format!(
                "min_rows is {} and max_rows {}: 2 ≤ min_rows ≤ max_rows ≤ {MAX_ROWS}",
                self.min_rows, self.max_rows
            ));
        }
        self.check_rows()
    }

    /// What an export needs too.
    fn check_rows(&self) -> Result<()> {
        let bad = |message: &str| Err(ModelError::Usage(message.into()));
        if self.features.is_empty() {
            return bad("setting `features`: at least one is needed");
        }
        if self.features.iter().enumerate().any(|(i, f)| self.features[..i].contains(f)) {
            return bad("setting `features`: one is named twice");
        }
        if self.max_rows == 0 {
            return bad("max_rows is 0: at least one is needed");
        }
        Ok(())
    }

    fn wants(&self, name: &SeriesName) -> bool {
        self.series.as_ref().is_none_or(|r| r.is_match(&name.to_string()))
    }
}

impl std::fmt::Display for TrainOptions {
    /// What decides about the models, in a line: it is kept with the set.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { nu, gamma, tolerance, min_rows, max_rows, .. } = self;
        write!(f, "nu {nu}, gamma {gamma}, tolerance {tolerance:e}, {min_rows} to {max_rows} rows")?;
        match self.sampling {
            Sampling::Even => f.write_str(", evenly spaced")?,
            Sampling::Random { seed } => write!(f, ", random by seed {seed}")?,
        }
        match &self.parquet[..] {
            [] => write!(f, ", windows of {} s", self.window_us as f64 / 1e6),
            [one] => write!(f, ", of `{one}`"),
            [first, ..] => write!(f, ", of `{first}` and {} more", self.parquet.len() - 1),
        }
    }
}

/// What became of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainReport {
    /// Version of the new set.
    pub version: i64,
    /// Number of models.
    pub trained: usize,
    /// Windows that were looked at, all series together.
    pub windows: u64,
    /// From the first window's start to the last one's end; `None` for files that do not say.
    pub range: Option<Interval>,
    /// Series without a model, with the reason; they get `no_model`.
    pub failed: Vec<(SeriesName, String)>,
    /// Series whose model is not what one would wish for, with the reason.
    pub warnings: Vec<(SeriesName, String)>,
    /// Series that an earlier run of this training had done.
    pub resumed: u64,
}

/// A series of the source.
#[derive(Debug, Clone)]
struct Listed {
    /// Its place in the source's order: its id, or its place by name in files.
    key: u64,
    name: SeriesName,
    /// Rows it has at most.
    rows: u64,
}

/// What one pass gathered.
struct Gathered {
    /// One for each series of the pass, in its order.
    samples: Vec<Sample>,
}

/// Where the rows come from.
enum Source<'a> {
    Windows(&'a dyn Store, Found),
    Parquet(parquet::Files),
}

impl<'a> Source<'a> {
    /// The windows of a range, which say how many rows these series have at most.
    async fn windows(
        store: &'a dyn Store,
        range: Interval,
        options: &TrainOptions,
        listed: &mut [Listed],
    ) -> Result<Self> {
        let found = Found::find(store, range, options.window_us).await?;
        listed.iter_mut().for_each(|l| l.rows = found.count());
        Ok(Self::Windows(store, found))
    }

    async fn gather(
        &self,
        options: &Arc<TrainOptions>,
        listed: &[Listed],
        pass: (usize, usize),
    ) -> Result<Gathered> {
        let total = match self {
            Self::Windows(_, found) => found.count(),
            Self::Parquet(files) => files.rows(),
        };
        let progress = |done: u64| {
            let (pass, passes) = pass;
            options.observer.tell(Progress::Gathering { pass, passes, done, total });
        };
        match self {
            Self::Windows(store, found) => windows::gather(*store, found, options, listed, &progress).await,
            Self::Parquet(files) => files.gather(options, listed, &progress).await,
        }
    }
}

/// How many of these series are gathered at once: as many as fit into memory, at least one.
fn pass_end(listed: &[Listed], options: &TrainOptions) -> usize {
    let mut used = 0;
    let size = |l: &Listed| Sample::bytes(options.sampling, l.rows, options.max_rows, options.features.len());
    let fits = listed.iter().take_while(|l| {
        used += size(l);
        used <= options.memory
    });
    fits.count().clamp(1, listed.len().max(1))
}

/// Passes that these series take.
fn passes(mut listed: &[Listed], options: &TrainOptions) -> usize {
    let mut passes = 0;
    while !listed.is_empty() {
        listed = &listed[pass_end(listed, options)..];
        passes += 1;
    }
    passes
}

/// Fits a model to each series' windows in a range, or to its rows in Parquet files, and adds them as a new set. A
/// series that cannot be fitted does not keep the others from it.
///
/// A training of more series than [`TrainOptions::chunk`] keeps what is done in blob storage below `models/training`,
/// and a later call with the same options goes on from there, with the range that the first one began with (for a
/// day, where the options leave the range open). The folder is gone when the set is there. How many threads fit, and
/// whether it was interrupted, changes no bit of the result. A second call with the same options, while a first one
/// runs, takes over from it: the first one ends with an error.
///
/// A series is fitted to its windows as they are when its turn comes, in an unbroken training as in a resumed one:
/// where late readings or retention change windows of the range meanwhile, series that are done stay as they are.
///
/// # Errors
/// [`ModelError::Usage`] for options that make no sense, a store without windows in the range, files that cannot be
/// read, or where no series could be fitted: then nothing is changed.
pub async fn train(store: &dyn Store, blobs: &Blobs, options: &TrainOptions) -> Result<TrainReport> {
    options.check()?;
    let options = &Arc::new(options.clone());
    if options.activate {
        // Before hours of work.
        check_activation(store, &names(&options.features)).await?;
    }
    let (mut source, mut listed, mut range, fingerprint) = if options.parquet.is_empty() {
        let range = windows::range(store, options).await?;
        let listed = windows::series(store, options).await?;
        (Source::Windows(store, Found::default()), listed, Some(range), "windows".to_owned())
    } else {
        let files = parquet::Files::open(&options.parquet).await?;
        let parquet::Scan { listed, range } = files.scan(options).await?;
        let fingerprint = files.fingerprint();
        (Source::Parquet(files), listed, range, fingerprint)
    };
    let mut training = Training { options, job: None, kept: Vec::new(), total: listed.len() as u64 };
    if listed.len() > options.chunk.max(1) {
        blobs.bind(store).await?;
        let what = job::what(options, &fingerprint, &store.store_id().await?.to_string());
        let job = Job::open(blobs, what, store.now().await?, range, options.restart).await?;
        // The windows it began with.
        range = job.range();
        training.job = Some(job);
    }
    if let (Source::Windows(store, _), Some(range)) = (&source, range) {
        source = Source::windows(*store, range, options, &mut listed).await?;
    }
    let resumed = training.resume(&mut listed);
    training.run(&source, listed).await?;
    options.observer.tell(Progress::Adding);
    training.add(store, blobs, range, resumed).await
}

/// A training as it goes.
struct Training<'a> {
    options: &'a Arc<TrainOptions>,
    /// Where chunks are kept, of a training that has several.
    job: Option<Job>,
    /// The fits of one that has not.
    kept: Vec<Fit>,
    total: u64,
}

impl Training<'_> {
    /// Takes away what an earlier run did; the number of its series.
    fn resume(&mut self, listed: &mut Vec<Listed>) -> u64 {
        let Some(job) = &self.job else { return 0 };
        self.total = listed.len() as u64;
        let Some(last) = job.last() else { return 0 };
        listed.retain(|l| l.key > last);
        let series = self.total - listed.len() as u64;
        self.options.observer.tell(Progress::Resumed { began: job.began(), series });
        series
    }

    /// Gathers and fits all series, pass by pass and chunk by chunk.
    async fn run(&mut self, source: &Source<'_>, mut listed: Vec<Listed>) -> Result<()> {
        let passes = passes(&listed, self.options);
        for pass in 1..=passes {
            let rest = listed.split_off(pass_end(&listed, self.options));
            let gathered = source.gather(self.options, &listed, (pass, passes)).await?;
            let mut jobs: Vec<(Listed, Sample)> =
                std::mem::replace(&mut listed, rest).into_iter().zip(gathered.samples).collect();
            while !jobs.is_empty() {
                let behind = jobs.split_off(chunk_end(&jobs, self.options));
                let left = (behind.len() + listed.len()) as u64;
                self.fit(std::mem::replace(&mut jobs, behind), left).await?;
            }
        }
        Ok(())
    }

    /// Fits one chunk; `left` series come after it.
    async fn fit(&mut self, jobs: Vec<(Listed, Sample)>, left: u64) -> Result<()> {
        let Some(upto) = jobs.last().map(|(l, _)| l.key) else { return Ok(()) };
        let total = self.total;
        let (before, failed) = (total - left - jobs.len() as u64, self.failed());
        let observer = self.options.observer.clone();
        let tell = move |done: u64, more: u64| {
            observer.tell(Progress::Fitting { done: before + done, total, failed: failed + more });
        };
        let fits = fits::fit_all(jobs, self.options, &tell).await?;
        match &mut self.job {
            Some(job) => {
                job.keep(fits, upto).await?;
                self.options.observer.tell(Progress::Kept { series: total - left });
            }
            None => self.kept.extend(fits),
        }
        self.options.observer.tell(Progress::Fitting { done: total - left, total, failed: self.failed() });
        Ok(())
    }

    fn failed(&self) -> u64 {
        let here = || self.kept.iter().filter(|f| f.outcome.is_err()).count() as u64;
        self.job.as_ref().map_or_else(here, |job| job.failed)
    }

    /// Makes the set of all chunks.
    async fn add(
        mut self,
        store: &dyn Store,
        blobs: &Blobs,
        range: Option<Interval>,
        resumed: u64,
    ) -> Result<TrainReport> {
        let mut all = Assembled::default();
        match &self.job {
            Some(job) => {
                for chunk in 0..job.chunks() {
                    all = all.with(job.fits(chunk).await?).await?;
                }
            }
            None => all = all.with(std::mem::take(&mut self.kept)).await?,
        }
        let Assembled { entries, failed, warnings, windows } = all;
        let trained = entries.len();
        let added = if trained == 0 {
            Err(nothing_trained(range, &failed))
        } else {
            let failure = |(series, reason): &(SeriesName, String)| ModelFailure {
                series: Some(series.clone()),
                source: "train".into(),
                reason: reason.clone(),
            };
            let new = NewSet {
                entries,
                failures: failed.iter().map(failure).collect(),
                features: self.options.features.clone(),
                pattern: DEFAULT_PATTERN.into(),
                origin: "train",
                created_by: self.options.created_by.clone(),
                trained_on: range,
                note: Some(self.options.to_string()),
                max_series: self.options.max_series,
                activate: self.options.activate,
            };
            let still_ours = async {
                match &self.job {
                    Some(job) => job.confirm().await,
                    None => Ok(()),
                }
            };
            registry::add(store, blobs, new, still_ours).await
        };
        // A store that did not answer is no reason to fit everything again.
        if let Some(job) = &self.job
            && (added.is_ok() || trained == 0)
            && let Err(e) = job.remove().await
        {
            tracing::warn!("what was kept of the training could not be removed: {e}");
        }
        Ok(TrainReport { version: added?, trained, windows, range, failed, warnings, resumed })
    }
}

/// Where a chunk of these ends.
fn chunk_end(jobs: &[(Listed, Sample)], options: &TrainOptions) -> usize {
    let mut pairs = 0;
    let fits = jobs.iter().take(options.chunk.max(1)).take_while(|(_, sample)| {
        let open = pairs < CHUNK_PAIRS;
        pairs += sample.seen().min(options.max_rows as u64).pow(2);
        open
    });
    fits.count()
}

fn nothing_trained(range: Option<Interval>, failed: &[(SeriesName, String)]) -> ModelError {
    let why = failed.first().map_or_else(
        || "no series has windows there".to_owned(),
        |(name, reason)| format!("{} series failed, the first is {name}: {reason}", failed.len()),
    );
    let on = range.map_or_else(|| "these files".to_owned(), |range| range.to_string());
    ModelError::Failed(format!("no model could be trained on {on}: {why}"))
}

/// Fits as a set takes them.
#[derive(Default)]
struct Assembled {
    entries: Models,
    failed: Vec<(SeriesName, String)>,
    warnings: Vec<(SeriesName, String)>,
    windows: u64,
}

impl Assembled {
    /// With these too.
    async fn with(mut self, fits: Vec<Fit>) -> Result<Self> {
        blocking(move || {
            for Fit { name, seen, rows, outcome, .. } in fits {
                self.windows += seen;
                match outcome {
                    Ok((model, warning)) => {
                        self.warnings.extend(warning.map(|w| (name.clone(), w)));
                        let model_name = format!("model_{}_{}", name.device, name.sensor);
                        self.entries.push(Stored { rows, ..Stored::new(name, model_name, Ok(model)) });
                    }
                    Err(reason) => self.failed.push((name, reason)),
                }
            }
            Ok(self)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
