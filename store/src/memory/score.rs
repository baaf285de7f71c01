//! Predictions, their publication, and model sets.

use super::State;
use crate::batch::{PublishedBuilder, PublishedRow};
use crate::intake::{FROZEN, Prediction};
use crate::{
    Committed, ModelFailure, ModelPin, ModelSetRow, Outcome, Publication, Result, RunCounts, StoreError, Task,
};
use arrow::array::RecordBatch;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::{PredictionStatus, RunState};
use fleetscore_schemas::time::{Interval, Timestamp};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What was predicted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PredictionRow {
    series: SeriesId,
    value: Option<f64>,
    prediction: Option<i16>,
    decision: Option<f64>,
    status: PredictionStatus,
    model: Option<String>,
    window_version: i64,
    normal_range: Option<String>,
    model_set: Option<i64>,
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
    row: PredictionRow,
    window_end: Timestamp,
    run_id: Uuid,
    scored_at: Timestamp,
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
}

impl State {
    /// 0 where the interval crosses the floor: its predictions are frozen.
    pub(super) fn stale_series(&self, schedule: &str, interval: Interval) -> u64 {
        if self.floor().is_some_and(|floor| interval.start < floor) {
            return 0;
        }
        let none = BTreeMap::new();
        let stored = self.predictions.get(&(schedule.to_owned(), interval.start)).unwrap_or(&none);
        let windows = self.merged(interval);
        let scored_from = |series: &SeriesId| stored.get(series).map_or(0, |p| p.row.window_version);
        let moved = windows.iter().filter(|(series, (_, version))| scored_from(series) != *version).count();
        let gone =
            stored.iter().filter(|(s, p)| p.row.window_version != 0 && !windows.contains_key(s)).count();
        (moved + gone) as u64
    }

    pub(super) fn commit_predictions(
        &mut self,
        task: &Task,
        rows: Vec<PredictionRow>,
        counts: RunCounts,
        verdict: &(dyn Fn(&RunCounts) -> (RunState, Option<String>) + Send + Sync),
        now: Timestamp,
    ) -> Committed {
        if self.held(task).is_none() {
            return Committed::Fenced;
        }
        if self.floor().is_some_and(|floor| task.interval.start < floor) {
            let error = Some(FROZEN.to_owned());
            self.end_scored(task, RunCounts::default(), RunState::Skipped, error, now);
            return Committed::Frozen;
        }
        let changed = self.replace(task, rows, now);
        if changed {
            let key = (task.interval.start, task.schedule.clone());
            self.publications
                .entry(key)
                .or_insert(PublicationEntry {
                    interval: task.interval,
                    fence: 0,
                    change: 0,
                    published: 0,
                    published_at: None,
                    lease_until: None,
                })
                .change += 1;
        }
        let (state, error) = verdict(&counts);
        self.end_scored(task, counts, state, error, now);
        Committed::Done { counts, state, changed }
    }

    /// Makes the interval's predictions these; whether any row changed.
    fn replace(&mut self, task: &Task, rows: Vec<PredictionRow>, now: Timestamp) -> bool {
        let stored = self.predictions.entry((task.schedule.clone(), task.interval.start)).or_default();
        let mut before = std::mem::take(stored);
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

    fn end_scored(
        &mut self,
        task: &Task,
        counts: RunCounts,
        state: RunState,
        error: Option<String>,
        now: Timestamp,
    ) {
        self.end_run(task.run_id, state, now);
        if let Some(run) = self.runs.get_mut(&task.run_id) {
            run.row.counts = counts;
            run.row.error = error;
        }
    }

    pub(super) fn claim_publication(
        &mut self,
        worker: &str,
        lease_us: i64,
        now: Timestamp,
    ) -> Option<Publication> {
        let schedules = &self.schedules;
        let gap = |name: &str| schedules.get(name).map_or(0, |s| s.spec.republish_gap_us);
        let ((_, schedule), entry) = self.publications.iter_mut().find(|((_, schedule), p)| {
            p.change > p.published
                && p.published_at.is_none_or(|at| at.plus_us(gap(schedule)) <= now)
                && p.lease_until.is_none_or(|until| until <= now)
        })?;
        entry.fence += 1;
        entry.lease_until = Some(now.plus_us(lease_us));
        Some(Publication {
            schedule: schedule.clone(),
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

    pub(super) fn add_model_set(
        &mut self,
        set: &ModelSetRow,
        failures: &[ModelFailure],
        activate: bool,
        now: Timestamp,
    ) -> Result<()> {
        if let Some(stored) = self.model_sets.get(&set.version) {
            if stored.path != set.path {
                return Err(StoreError::internal(format!("model set {} exists already", set.version)));
            }
            // The same call again, after its answer was lost.
            return if activate { self.activate(set.version) } else { Ok(()) };
        }
        self.model_sets.insert(set.version, ModelSetRow { active: false, created_at: now, ..set.clone() });
        self.model_failures.insert(set.version, failures.to_vec());
        self.last_model_set = self.last_model_set.max(set.version);
        if activate { self.activate(set.version) } else { Ok(()) }
    }

    pub(super) fn activate(&mut self, version: i64) -> Result<()> {
        if !self.model_sets.contains_key(&version) {
            return Err(StoreError::NotFound { what: format!("model set {version}") });
        }
        // Activating the active set again must not make rollback a step to itself.
        if self.activations.last() != Some(&version) {
            self.activations.push(version);
        }
        Ok(())
    }

    /// The set as it is listed.
    pub(super) fn model_set(&self, version: i64) -> Option<ModelSetRow> {
        let active = self.activations.last() == Some(&version);
        self.model_sets.get(&version).map(|set| ModelSetRow { active, ..set.clone() })
    }

    pub(super) fn pin_models(
        &mut self,
        series: &[SeriesId],
        version: Option<i64>,
        by: &str,
        now: Timestamp,
    ) -> Result<()> {
        let Some(version) = version else {
            series.iter().for_each(|id| {
                self.model_pins.remove(id);
            });
            return Ok(());
        };
        if !self.model_sets.contains_key(&version) {
            return Err(StoreError::NotFound { what: format!("model set {version}") });
        }
        if let Some(id) = series.iter().find(|id| **id == 0 || **id as usize > self.names.len()) {
            return Err(StoreError::NotFound { what: format!("series {id}") });
        }
        for id in series {
            let pin = ModelPin { series: *id, version, pinned_by: by.to_owned(), pinned_at: now };
            self.model_pins.insert(*id, pin);
        }
        Ok(())
    }
}
