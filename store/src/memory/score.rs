//! Predictions, and their publication.

use super::State;
use crate::batch::{PublishedBuilder, PublishedRow};
use crate::intake::Prediction;
use crate::{
    Committed, Outcome, Phases, Publication, Result, Rules, RunCounts, Selection, SeriesRange, StoreError,
    Task,
};
use arrow::array::RecordBatch;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::{PredictionStatus, RunScope};
use fleetscore_schemas::time::{Interval, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What was predicted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PredictionRow {
    series: SeriesId,
    value: Option<f64>,
    pub(super) prediction: Option<i16>,
    decision: Option<f64>,
    pub(super) status: PredictionStatus,
    model: Option<String>,
    window_version: i64,
    normal_range: Option<String>,
    pub(super) model_set: Option<i64>,
}

impl PredictionRow {
    pub(super) fn new(p: &Prediction<'_>) -> Result<Self> {
        Ok(Self {
            series: p.series,
            value: p.value,
            prediction: p.prediction,
            decision: p.decision,
            status: p.status.parse().map_err(StoreError::internal)?,
            model: p.model.map(Into::into),
            window_version: p.window_version,
            normal_range: p.normal_range.map(Into::into),
            model_set: p.model_set,
        })
    }
}

/// The current prediction of one series in one interval.
#[derive(Debug, Clone)]
pub(super) struct StoredPrediction {
    pub(super) row: PredictionRow,
    window_end: Timestamp,
    pub(super) run_id: Uuid,
    pub(super) scored_at: Timestamp,
}

/// How far the publication of one interval is behind.
#[derive(Debug, Clone)]
pub(super) struct PublicationEntry {
    interval: Interval,
    fence: i64,
    /// Commits that changed something.
    change: i64,
    /// The last of them that is published.
    published: i64,
    published_at: Option<Timestamp>,
    lease_until: Option<Timestamp>,
    /// Postponed.
    not_before: Option<Timestamp>,
}

/// What a commit brings.
#[derive(Debug)]
pub(super) struct Commit<'a> {
    pub(super) task: &'a Task,
    pub(super) selection: &'a Selection,
    pub(super) rows: Vec<PredictionRow>,
    pub(super) counts: RunCounts,
    pub(super) phases: Phases,
    pub(super) rules: &'a Rules,
}

impl State {
    /// 0 where the interval crosses the floor: its predictions are frozen.
    pub(super) fn stale_series(&self, schedule: &str, interval: Interval) -> u64 {
        self.stale(schedule, interval).len() as u64
    }

    pub(super) fn series_of(
        &self,
        schedule: &str,
        interval: Interval,
        range: SeriesRange,
        scope: RunScope,
    ) -> Vec<SeriesId> {
        let mut series = match scope {
            RunScope::All => Vec::new(),
            RunScope::Stale => self.stale(schedule, interval),
            RunScope::Failed => {
                let rows = self.predictions.get(&(schedule.to_owned(), interval.start));
                let failed = rows.into_iter().flatten();
                failed
                    .filter(|(_, p)| p.row.status == PredictionStatus::ModelError)
                    .map(|(s, _)| *s)
                    .collect()
            }
        };
        series.retain(|id| range.contains(*id));
        series
    }

    fn stale(&self, schedule: &str, interval: Interval) -> Vec<SeriesId> {
        if self.floor().is_some_and(|floor| interval.start < floor) {
            return Vec::new();
        }
        let none = BTreeMap::new();
        let stored = self.predictions.get(&(schedule.to_owned(), interval.start)).unwrap_or(&none);
        let windows = self.merged(interval);
        let scored_from = |series: &SeriesId| stored.get(series).map_or(0, |p| p.row.window_version);
        let moved = windows.iter().filter(|(series, (_, version))| scored_from(series) != *version);
        let gone = stored.iter().filter(|(s, p)| p.row.window_version != 0 && !windows.contains_key(s));
        let series: BTreeSet<_> = moved.map(|(s, _)| *s).chain(gone.map(|(s, _)| *s)).collect();
        series.into_iter().collect()
    }

    pub(super) fn commit_predictions(&mut self, commit: Commit<'_>, now: Timestamp) -> Committed {
        let Commit { task, selection, rows, counts, phases, rules } = commit;
        if self.held(task).is_none() {
            return Committed::Fenced;
        }
        if self.floor().is_some_and(|floor| task.interval.start < floor) {
            self.freeze(task.run_id, now);
            return Committed::Frozen;
        }
        let changed = self.replace(task, selection, rows, now);
        let ended = self.end_task(task, counts, phases, changed, rules, now);
        Committed::Done { counts, changed, ended }
    }

    /// Makes the predictions of the selection these; whether any row changed.
    fn replace(
        &mut self,
        task: &Task,
        selection: &Selection,
        rows: Vec<PredictionRow>,
        now: Timestamp,
    ) -> bool {
        let stored = self.predictions.entry((task.schedule.clone(), task.interval.start)).or_default();
        let mut before: BTreeMap<_, _> =
            stored.extract_if(.., |series, _| selection.contains(*series)).collect();
        let mut changed = false;
        for mut row in rows {
            row.model_set = row.model_set.or(Some(task.model_set));
            let same = before
                .remove(&row.series)
                .filter(|old| old.row == row && old.window_end == task.interval.end);
            changed |= same.is_none();
            let kept = same.unwrap_or(StoredPrediction {
                row,
                window_end: task.interval.end,
                run_id: task.run_id,
                scored_at: now,
            });
            stored.insert(kept.row.series, kept);
        }
        changed || !before.is_empty()
    }

    // --- publication ------------------------------------------------------------------------------------------------

    /// The interval is due.
    pub(super) fn changed_interval(&mut self, schedule: String, interval: Interval) {
        let new = PublicationEntry {
            interval,
            fence: 0,
            change: 0,
            published: 0,
            published_at: None,
            lease_until: None,
            not_before: None,
        };
        self.publications.entry((interval.start, schedule)).or_insert(new).change += 1;
    }

    /// Whether all that is stored of an interval is published.
    pub(super) fn is_published(&self, schedule: &str, start: Timestamp) -> bool {
        let entry = self.publications.get(&(start, schedule.to_owned()));
        entry.is_some_and(|p| p.published >= p.change)
    }

    /// Whether a run of the interval has stored some of its shards, changed, and not all.
    pub(super) fn is_half_done(&self, schedule: &str, start: Timestamp) -> bool {
        let open = self.open.get(&(schedule.to_owned(), start));
        open.and_then(|id| self.runs.get(id)).is_some_and(|run| run.changed)
    }

    pub(super) fn hasten_publications(&mut self, schedule: &str, range: Interval) {
        let all = self.publications.range_mut((range.start, String::new())..(range.end, String::new()));
        for (_, entry) in all.filter(|((_, name), p)| name == schedule && p.change > p.published) {
            entry.published_at = None;
        }
    }

    pub(super) fn claim_publication(
        &mut self,
        worker: &str,
        lease_us: i64,
        now: Timestamp,
    ) -> Option<Publication> {
        let gap = |name: &str| self.schedules.get(name).map_or(0, |s| s.spec.republish_gap_us);
        let is_due = |schedule: &str, p: &PublicationEntry| {
            p.change > p.published
                && p.published_at.is_none_or(|at| at.plus_us(gap(schedule)) <= now)
                && p.lease_until.is_none_or(|until| until <= now)
                && p.not_before.is_none_or(|time| time <= now)
                && !self.is_half_done(schedule, p.interval.start)
        };
        let key = self.publications.iter().find(|((_, schedule), p)| is_due(schedule, p))?.0.clone();
        let entry = self.publications.get_mut(&key)?;
        entry.fence += 1;
        entry.not_before = None;
        entry.lease_until = Some(now.plus_us(lease_us));
        Some(Publication {
            schedule: key.1,
            interval: entry.interval,
            fence: entry.fence,
            change: entry.change,
            worker: worker.to_owned(),
        })
    }

    fn published_entry(&mut self, p: &Publication) -> Option<&mut PublicationEntry> {
        self.publications.get_mut(&(p.interval.start, p.schedule.clone())).filter(|e| e.fence == p.fence)
    }

    pub(super) fn renew_publication(
        &mut self,
        publication: &Publication,
        lease_us: i64,
        now: Timestamp,
    ) -> Outcome {
        // Published, it has no lease any more.
        match self.published_entry(publication).filter(|e| e.lease_until.is_some()) {
            None => Outcome::Fenced,
            Some(entry) => {
                entry.lease_until = Some(now.plus_us(lease_us));
                Outcome::Done
            }
        }
    }

    pub(super) fn confirm_publication(&mut self, publication: &Publication) -> Outcome {
        if self.published_entry(publication).is_some() { Outcome::Done } else { Outcome::Fenced }
    }

    pub(super) fn raise_publication(&mut self, publication: &Publication, above: i64) -> Option<Publication> {
        let entry = self.published_entry(publication)?;
        entry.fence = entry.fence.max(above) + 1;
        Some(Publication { fence: entry.fence, ..publication.clone() })
    }

    pub(super) fn postpone_publication(
        &mut self,
        publication: &Publication,
        after_us: i64,
        now: Timestamp,
    ) -> Outcome {
        let Some(entry) = self.published_entry(publication) else { return Outcome::Fenced };
        entry.lease_until = None;
        entry.not_before = Some(now.plus_us(after_us));
        Outcome::Done
    }

    pub(super) fn finish_publication(&mut self, publication: &Publication, now: Timestamp) -> Outcome {
        let Some(entry) = self.published_entry(publication) else { return Outcome::Fenced };
        entry.published = entry.published.max(publication.change);
        entry.published_at = Some(now);
        entry.lease_until = None;
        Outcome::Done
    }

    /// In batches of so many rows.
    pub(super) fn published(
        &self,
        schedule: &str,
        interval: Interval,
        batch: usize,
    ) -> Result<Vec<RecordBatch>> {
        let Some(stored) = self.predictions.get(&(schedule.to_owned(), interval.start)) else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::with_capacity(stored.len());
        for p in stored.values() {
            let name = self.names.get((p.row.series as usize).wrapping_sub(1)).ok_or_else(|| {
                StoreError::internal(format!("a prediction names the unknown series {}", p.row.series))
            })?;
            rows.push((name, p));
        }
        rows.sort_by_key(|(name, _)| *name);
        let mut batches = Vec::new();
        for part in rows.chunks(batch) {
            let mut builder = PublishedBuilder::new(schedule, interval.start);
            for (name, p) in part {
                builder.push(&PublishedRow {
                    window_end: p.window_end,
                    device: &name.device,
                    sensor: &name.sensor,
                    value: p.row.value,
                    prediction: p.row.prediction,
                    decision: p.row.decision,
                    status: p.row.status.as_str(),
                    model_set: p.row.model_set,
                    model: p.row.model.as_deref(),
                    window_version: p.row.window_version,
                    run_id: &p.run_id.to_string(),
                    scored_at: p.scored_at,
                    normal_range: p.row.normal_range.as_deref(),
                });
            }
            batches.push(builder.finish()?);
        }
        Ok(batches)
    }
}
