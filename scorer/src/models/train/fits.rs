//! Fits of many series at once.

use super::sample::Sample;
use super::{Listed, TrainOptions};
use crate::models::Result;
use crate::models::registry::blocking;
use fleetscore_fit::{FitOptions, Fitted};
use fleetscore_kernel::Model;
use fleetscore_schemas::SeriesName;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How often progress is told while fits run.
const TICK: Duration = Duration::from_millis(250);

/// What became of one series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fit {
    /// Its place in the source's order.
    pub(super) key: u64,
    pub(super) name: SeriesName,
    /// Windows that were looked at.
    pub(super) seen: u64,
    /// Rows that the model was fitted to.
    pub(super) rows: u32,
    /// The model with what there is to say about it, or why there is none.
    pub(super) outcome: std::result::Result<(Model, Option<String>), String>,
}

/// Fits all of them, on as many threads as the options say; the result is in the order of the jobs. A series without
/// any row is left out: it is none of this training's business.
///
/// Where the future is dropped, the fits that run now end and no other begins.
pub(super) async fn fit_all(
    jobs: Vec<(Listed, Sample)>,
    options: &Arc<TrainOptions>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Vec<Fit>> {
    let state = Arc::new(State::default());
    let _stop = StopOnDrop(state.clone());
    let (working, options) = (state.clone(), options.clone());
    let mut fits = std::pin::pin!(blocking(move || Ok(on_threads(jobs, &options, &working))));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            fits = &mut fits => return fits,
            _ = tick.tick() => {
                progress(state.done.load(Ordering::Relaxed), state.failed.load(Ordering::Relaxed));
            }
        }
    }
}

#[derive(Default)]
struct State {
    next: AtomicUsize,
    done: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

struct StopOnDrop(Arc<State>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn on_threads(jobs: Vec<(Listed, Sample)>, options: &TrainOptions, state: &State) -> Vec<Fit> {
    let most = jobs.iter().map(|(_, s)| s.seen().min(options.max_rows as u64)).max().unwrap_or(0) as usize;
    // Each fit that runs holds a kernel matrix.
    let matrices = options.memory / (most * most * size_of::<f64>()).max(1);
    let threads = options.parallelism.min(matrices).min(jobs.len()).max(1);
    let jobs: Vec<_> = jobs.into_iter().map(|job| std::sync::Mutex::new(Some(job))).collect();
    let work = || {
        let mut fits = Vec::new();
        while !state.stop.load(Ordering::Relaxed) {
            let at = state.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else { break };
            // Taken, so that its rows are freed with it.
            let Some((listed, sample)) = job.lock().ok().and_then(|mut job| job.take()) else { continue };
            let fit = one(listed, sample, options);
            let failed = fit.as_ref().is_some_and(|f| f.outcome.is_err());
            state.done.fetch_add(1, Ordering::Relaxed);
            state.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
            fits.extend(fit.map(|f| (at, f)));
        }
        fits
    };
    let mut fits = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut fits = work();
        for other in others {
            match other.join() {
                Ok(more) => fits.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        fits
    });
    fits.sort_by_key(|(at, _)| *at);
    fits.into_iter().map(|(_, fit)| fit).collect()
}

fn one(listed: Listed, sample: Sample, options: &TrainOptions) -> Option<Fit> {
    let seen = sample.seen();
    if seen == 0 {
        return None;
    }
    let width = options.features.len();
    let rows = sample.finish(options.max_rows, width);
    let count = rows.keys.len();
    let outcome = if count < options.min_rows {
        Err(format!("has {count} windows, and at least {} are wanted", options.min_rows))
    } else {
        let TrainOptions { nu, gamma, tolerance, standardise, max_iterations, .. } = *options;
        let options = FitOptions { nu, gamma, tolerance, standardise, max_iterations };
        let fitted = fleetscore_fit::fit(&rows.values, width, &options);
        fitted.map(|Fitted { model, warning, .. }| (model, warning)).map_err(|e| e.to_string())
    };
    Some(Fit { key: listed.key, name: listed.name, seen, rows: count as u32, outcome })
}
