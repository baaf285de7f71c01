//! Two model sets over the same windows: which labels would change if one took the other's place. Nothing is written.
//!
//! An interval's windows are read once and scored by both sets; the two streams of predictions pass by in lockstep. In
//! memory are a few batches, counts for each interval and for each series with changes, and the first changes.

mod lockstep;
mod tee;

use crate::blobs::Blobs;
use crate::error::{Result, ScorerError};
use crate::models::{ModelSet, misfit};
use crate::plan::{Scored, ScoringTable, score};
use crate::range::intervals::{SCAN, check_range, grid_start, ready_ones, with_data};
use crate::readiness::{Readiness, readiness};
use crate::service::registry;
use crate::worker::stream_windows;
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::time::{Interval, PaneGrid, Timestamp, windows_covering};
use fleetscore_store::{ReadinessSettings, ScheduleRow, Store};
use lockstep::Lockstep;
use std::sync::Arc;
use tee::tee;

/// What is compared.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// The schedule whose windows and features count.
    pub schedule: String,
    /// The first interval's start; `None` = the newest ready interval with data, alone.
    pub from: Option<Timestamp>,
    /// Intervals start before this; `None` = to the newest one. Does not count without `from`.
    pub to: Option<Timestamp>,
    /// Versions of the two sets.
    pub sets: [i64; 2],
    /// How many changes, and how many series, are listed.
    pub limit: usize,
    /// When an interval is ready.
    pub readiness: ReadinessSettings,
}

/// What differs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiffReport {
    /// Intervals that were compared, ascending.
    pub intervals: Vec<IntervalDiff>,
    /// Series with changes, those with most first; as many as the limit allows.
    pub series: Vec<SeriesDiff>,
    /// How many series have changes.
    pub series_changed: usize,
    /// The first changes, by interval and series.
    pub changes: Vec<LabelDiff>,
    /// Intervals with data that are not ready, with what they wait for.
    pub unready: Vec<(Interval, String)>,
}

impl DiffReport {
    /// Number of rows whose label differs.
    pub fn changed(&self) -> u64 {
        self.intervals.iter().map(IntervalDiff::changed).sum()
    }

    /// Number of rows that were compared.
    pub fn rows(&self) -> u64 {
        self.intervals.iter().map(|i| i.rows).sum()
    }
}

/// Counts of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntervalDiff {
    /// The interval.
    pub interval: Interval,
    /// Windows that were scored by both.
    pub rows: u64,
    /// Anomalies by each set.
    pub anomalies: [u64; 2],
    /// Normal by the first, anomalies by the second.
    pub to_anomaly: u64,
    /// Anomalies by the first, normal by the second.
    pub to_normal: u64,
    /// Scored by one alone, or failed in another way.
    pub status: u64,
}

impl IntervalDiff {
    /// Number of rows whose label differs.
    pub fn changed(&self) -> u64 {
        self.to_anomaly + self.to_normal + self.status
    }
}

/// Counts of one series over all intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesDiff {
    /// The series.
    pub series: SeriesName,
    /// See [`IntervalDiff::to_anomaly`].
    pub to_anomaly: u64,
    /// See [`IntervalDiff::to_normal`].
    pub to_normal: u64,
    /// See [`IntervalDiff::status`].
    pub status: u64,
}

/// One label that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelDiff {
    /// The interval.
    pub interval: Interval,
    /// The series.
    pub series: SeriesName,
    /// The first feature's value.
    pub value: Option<f64>,
    /// What each set says.
    pub sides: [Side; 2],
}

/// What one set says of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// The status.
    pub status: String,
    /// 1 = anomaly.
    pub prediction: Option<i16>,
    /// The decision function.
    pub decision: Option<f64>,
    /// For models of one feature what the model calls normal, for others what an anomaly lacks.
    pub normal_range: Option<String>,
}

/// Compares two sets over a range of intervals, and tells of each interval as it is done. Pins are left aside: each set
/// scores every series that has a window.
///
/// # Errors
/// [`ScorerError::Usage`] naming the flag: no such schedule or set, a set for other features than the schedule's, an
/// unaligned or empty range; what the store says, and that a set cannot be loaded.
pub async fn diff(
    store: &Arc<dyn Store>,
    blobs: &Blobs,
    options: &DiffOptions,
    tell: &(dyn Fn(&IntervalDiff) + Sync),
) -> Result<DiffReport> {
    let schedule = store.schedules().await?.into_iter().find(|r| r.spec.name == options.schedule);
    let schedule = schedule.ok_or_else(|| {
        ScorerError::usage("schedule", format!("there is no schedule `{}`", options.schedule))
    })?;
    let [a, b] = options.sets;
    let sets = [load(store, blobs, a, &schedule).await?, load(store, blobs, b, &schedule).await?];
    let tables = [0, 1].map(|i| Arc::new(ScoringTable::new(sets[i].clone())));
    let features = &schedule.spec.features;
    let mut report = DiffReport::default();
    let Some(settings) = store.pane_settings().await? else { return Ok(report) };
    let mut lockstep = Lockstep::new(sets, options.limit);
    let mut range = Ranges { store: &**store, schedule: &schedule, options, grid: settings.grid() };
    let Some((mut cursor, to)) = range.bounds().await? else { return Ok(report) };
    loop {
        let spec = &schedule.spec;
        let batch = with_data(&**store, spec, cursor, to, range.grid).await?;
        let Some(last) = batch.last() else { break };
        cursor = last.start.plus_us(spec.hop_us);
        let edges = range.grid.edges;
        let unready = &mut report.unready;
        let ready = ready_ones(&**store, &schedule, &options.readiness, edges, batch, unready).await?;
        for interval in ready {
            let scored = Scored::all(features, true);
            let (left, right) = tee(stream_windows(store.clone(), interval, &scored));
            let sides = [score(&tables[0], &scored, left)?, score(&tables[1], &scored, right)?];
            let counts = lockstep.compare(interval, sides).await?;
            tell(&counts);
            report.intervals.push(counts);
        }
    }
    lockstep.finish(&**store, &mut report).await?;
    Ok(report)
}

async fn load(
    store: &Arc<dyn Store>,
    blobs: &Blobs,
    version: i64,
    schedule: &ScheduleRow,
) -> Result<Arc<ModelSet>> {
    let usage = |why: String| ScorerError::usage("models diff", why);
    let set = store.model_set(version).await?;
    let set = set.ok_or_else(|| usage(format!("there is no model set {version}")))?;
    if let Some(why) = misfit(version, &set.features, &schedule.spec) {
        return Err(usage(format!("{why}, or compare with `--schedule` one that has the set's features")));
    }
    Ok(Arc::new(registry(store.clone(), blobs.clone())(version).await?))
}

/// Which intervals are compared.
struct Ranges<'a> {
    store: &'a dyn Store,
    schedule: &'a ScheduleRow,
    options: &'a DiffOptions,
    grid: PaneGrid,
}

impl Ranges<'_> {
    /// Start of the first interval, and what all start before; `None` without data.
    async fn bounds(&mut self) -> Result<Option<(Timestamp, Timestamp)>> {
        let hop = self.schedule.spec.hop_us;
        let Some((oldest, newest)) = self.store.pane_range().await? else { return Ok(None) };
        let end = grid_start(newest.plus_us(1), hop);
        if let Some(from) = self.options.from {
            let to = self.options.to.unwrap_or(end.max(from.plus_us(hop)));
            check_range(self.schedule, from, to)?;
            return Ok(Some((from, to)));
        }
        let newest = self.newest_ready(oldest, newest).await?;
        Ok(newest.map(|start| (start, start.plus_us(hop))))
    }

    /// Start of the newest ready interval with data.
    async fn newest_ready(&self, oldest: Timestamp, newest: Timestamp) -> Result<Option<Timestamp>> {
        let spec = &self.schedule.spec;
        let progress = self.store.progress().await?;
        let floor = progress.floor().map(|f| grid_start(f, spec.hop_us));
        let (mut end, mut before) = (newest.plus_us(1), Timestamp(i64::MAX));
        loop {
            let range = Interval { start: oldest, end };
            let panes = self.store.panes(range, true, SCAN).await?;
            for pane in &panes {
                let mut held: Vec<Timestamp> =
                    windows_covering(*pane, self.grid.len_us, spec.window_us, spec.hop_us).collect();
                held.sort_unstable_by(|a, b| b.cmp(a));
                for start in held {
                    if start >= before {
                        continue; // a newer pane of the same window
                    }
                    before = start;
                    if floor.is_some_and(|floor| start < floor) {
                        return Ok(None);
                    }
                    let interval = Interval::starting(start, spec.window_us);
                    let covered = self.schedule.covered_until.is_some_and(|c| interval.end <= c);
                    let is = || readiness(&progress, &self.options.readiness, self.grid.edges, interval.end);
                    if covered || matches!(is(), Readiness::Ready { .. }) {
                        return Ok(Some(start));
                    }
                }
            }
            match panes.last() {
                Some(last) if panes.len() == SCAN => end = *last,
                _ => return Ok(None),
            }
        }
    }
}
