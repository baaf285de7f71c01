//! Model sets fitted to stored windows: one one-class support vector machine per series, by linfa-svm.

mod gather;

use super::format::Stored;
use super::registry::{self, NewSet, blocking};
use super::{DEFAULT_PATTERN, ModelError, Result};
use crate::blobs::Blobs;
use fleetscore_fit::{FitOptions, Fitted};
pub use fleetscore_fit::{Gamma, MAX_ROWS};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::window::Feature;
use fleetscore_store::Store;
use futures::StreamExt;
use regex::Regex;

/// What to train on, and how.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Windows that start before are left out; `None` = from the oldest.
    pub from: Option<Timestamp>,
    /// Windows that end after are left out; `None` = to the newest.
    pub to: Option<Timestamp>,
    /// Length of a window in microseconds, a multiple of the pane: that of the schedule the models are for.
    pub window_us: i64,
    /// The window columns that the models take, in order. A window where one is NULL is left out.
    pub features: Vec<Feature>,
    /// ν: the share of the training windows that may be called anomalies, in (0, 1].
    pub nu: f64,
    /// γ.
    pub gamma: Gamma,
    /// Where the solver stops, as scikit-learn's `tol`.
    pub tolerance: f64,
    /// A series with fewer windows gets no model.
    pub min_rows: usize,
    /// Of more windows than this, so many are taken, evenly spaced in time; at most [`MAX_ROWS`].
    pub max_rows: usize,
    /// Scale inputs to mean 0 and deviation 1, as scikit-learn's `StandardScaler`.
    pub standardise: bool,
    /// Only series whose `device/sensor` matches.
    pub series: Option<Regex>,
    /// Fits that run at once.
    pub parallelism: usize,
    /// Memory for gathered windows, in bytes; more series than fit in are gathered in several passes.
    pub memory: usize,
    /// Make the new set the active one.
    pub activate: bool,
    /// Who trains.
    pub created_by: String,
}

impl TrainOptions {
    /// What the command uses where nothing else is given, for windows of this length.
    pub fn new(window_us: i64) -> Self {
        Self {
            from: None,
            to: None,
            window_us,
            features: vec![Feature::Mean],
            nu: 0.01,
            gamma: Gamma::Scale,
            tolerance: 1e-3,
            min_rows: 20,
            max_rows: 1_000,
            standardise: true,
            series: None,
            parallelism: std::thread::available_parallelism().map_or(2, usize::from),
            memory: 512 << 20,
            activate: true,
            created_by: String::new(),
        }
    }

    fn check(&self) -> Result<()> {
        let bad = |message: String| Err(ModelError::Usage(message));
        if self.features.is_empty() {
            return bad("setting `features`: at least one is needed".into());
        }
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
        Ok(())
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
    /// From the first window's start to the last one's end.
    pub range: Interval,
    /// Series without a model, with the reason; they get `no_model`.
    pub failed: Vec<(SeriesName, String)>,
    /// Series whose model is not what one would wish for, with the reason.
    pub warnings: Vec<(SeriesName, String)>,
}

/// Fits a model to each series' windows in a range and adds them as a new set. A series that cannot be fitted does not
/// keep the others from it.
///
/// # Errors
/// [`ModelError::Usage`] for options that make no sense, a store without windows in the range, or where no series could
/// be fitted: then nothing is changed.
pub async fn train(store: &dyn Store, blobs: &Blobs, options: &TrainOptions) -> Result<TrainReport> {
    options.check()?;
    let range = range(store, options).await?;
    let wanted: Vec<_> = store
        .series()
        .await?
        .into_iter()
        .filter(|(_, name)| options.series.as_ref().is_none_or(|r| r.is_match(&name.to_string())))
        .collect();
    let bytes_a_series = 2 * options.max_rows * options.features.len() * size_of::<f64>();
    let series_a_pass = (options.memory / bytes_a_series).max(1);
    let (mut entries, mut failed, mut warnings, mut windows) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for names in wanted.chunks(series_a_pass) {
        let gathered = gather::gather(store, options, range, names).await?;
        windows += gathered.windows;
        let jobs = names.iter().zip(gathered.samples).filter_map(|((_, name), sample)| {
            let rows = sample.finish(options.max_rows);
            // A series without any window in the range is none of this training's business.
            (!rows.is_empty()).then(|| (name.clone(), rows))
        });
        let fits = futures::stream::iter(jobs).map(|(name, rows)| {
            let options = options.clone();
            blocking(move || Ok((name, fit(&rows, &options))))
        });
        let mut fits = fits.buffered(options.parallelism.max(1));
        while let Some(result) = fits.next().await {
            match result? {
                (name, Ok(fitted)) => {
                    warnings.extend(fitted.warning.map(|w| (name.clone(), w)));
                    entries.push((name, fitted.model));
                }
                (name, Err(reason)) => failed.push((name, reason)),
            }
        }
    }
    if entries.is_empty() {
        let why = failed.first().map_or_else(
            || "no series has windows there".to_owned(),
            |(name, reason)| format!("{} series failed, the first is {name}: {reason}", failed.len()),
        );
        return Err(ModelError::Usage(format!("no model could be trained on {range}: {why}")));
    }
    let trained = entries.len();
    let stored = blocking(move || {
        let entry = |(name, model): (SeriesName, _)| {
            let model_name = format!("model_{}_{}", name.device, name.sensor);
            Stored::new(name, model_name, Ok(model))
        };
        Ok(entries.into_iter().map(entry).collect())
    });
    let new = NewSet {
        entries: stored.await?,
        features: options.features.clone(),
        pattern: DEFAULT_PATTERN.into(),
        origin: "train",
        created_by: options.created_by.clone(),
        trained_on: Some(range),
        max_series: u32::MAX,
        activate: options.activate,
        ..NewSet::default()
    };
    let version = registry::add(store, blobs, new).await?;
    Ok(TrainReport { version, trained, windows, range, failed, warnings })
}

fn fit(rows: &gather::Rows, options: &TrainOptions) -> std::result::Result<Fitted, String> {
    let width = options.features.len();
    let values = rows.select(width);
    let count = values.len() / width;
    if count < options.min_rows {
        return Err(format!("has {count} windows, and at least {} are wanted", options.min_rows));
    }
    let TrainOptions { nu, gamma, tolerance, standardise, .. } = *options;
    fleetscore_fit::fit(&values, width, &FitOptions { nu, gamma, tolerance, standardise })
}

/// The whole windows, aligned to the epoch, that the options and the stored panes leave.
async fn range(store: &dyn Store, options: &TrainOptions) -> Result<Interval> {
    let nothing = || ModelError::Usage("there are no windows to train on: aggregate readings first".into());
    let pane_us = store.pane_settings().await?.ok_or_else(nothing)?.interval_us;
    let len = options.window_us;
    if len <= 0 || len % pane_us != 0 {
        return Err(ModelError::Usage(format!(
            "a window of {} s is not a multiple of the store's pane of {} s",
            len / 1_000_000,
            pane_us / 1_000_000
        )));
    }
    let (oldest, newest) = store.pane_range().await?.ok_or_else(nothing)?;
    // The windows that contain the oldest and the newest pane.
    let first = oldest.0.div_euclid(len) * len;
    let end = newest.0.div_euclid(len) * len + len;
    let from = options.from.map_or(first, |t| first.max(-(-t.0).div_euclid(len) * len));
    let to = options.to.map_or(end, |t| end.min(t.0.div_euclid(len) * len));
    if from >= to {
        let stored = Interval { start: Timestamp(first), end: Timestamp(end) };
        return Err(ModelError::Usage(format!("no whole window lies in the range: the store has {stored}")));
    }
    Ok(Interval { start: Timestamp(from), end: Timestamp(to) })
}
