//! Model sets.

use super::State;
use crate::notices::NO_NUMBER;
use crate::{ModelFailure, ModelPin, ModelSetRow, Outcome, Result, Rollback, StoreError};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::PredictionStatus;
use fleetscore_schemas::time::Timestamp;
use std::cmp::Reverse;
use std::collections::HashMap;
use uuid::Uuid;

/// One activation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activation {
    version: i64,
    at: Timestamp,
    undone_at: Option<Timestamp>,
}

impl State {
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
            return if activate { self.activate(set.version, now) } else { Ok(()) };
        }
        self.model_sets.insert(set.version, ModelSetRow { active: false, created_at: now, ..set.clone() });
        self.model_failures.insert(set.version, failures.to_vec());
        self.last_model_set = self.last_model_set.max(set.version);
        if activate { self.activate(set.version, now) } else { Ok(()) }
    }

    /// Activations that stand, the active one last.
    fn standing(&self) -> impl DoubleEndedIterator<Item = &Activation> {
        self.activations.iter().filter(|a| a.undone_at.is_none())
    }

    pub(super) fn active_version(&self) -> Option<i64> {
        self.standing().next_back().map(|a| a.version)
    }

    pub(super) fn model_set_as_of(&self, time: Timestamp) -> Option<i64> {
        let stood = |a: &&Activation| a.at <= time && a.undone_at.is_none_or(|undone| undone > time);
        self.activations.iter().rfind(stood).map(|a| a.version)
    }

    pub(super) fn model_set_before(&self) -> Option<Rollback> {
        let mut newest = self.standing().rev();
        newest.next().zip(newest.next()).map(|(from, to)| Rollback { from: from.version, to: to.version })
    }

    pub(super) fn rollback(&mut self, rollback: Rollback, now: Timestamp) -> Outcome {
        if self.model_set_before() != Some(rollback) {
            return Outcome::Fenced;
        }
        if let Some(active) = self.activations.iter_mut().rfind(|a| a.undone_at.is_none()) {
            active.undone_at = Some(now);
        }
        Outcome::Done
    }

    /// Of the run's interval, of what stood when it ended.
    pub(super) fn run_failures(&self, run_id: Uuid, limit: usize) -> Vec<(String, i64)> {
        let Some(run) = self.runs.get(&run_id).map(|r| &r.row) else { return Vec::new() };
        let stood = |at: Timestamp| run.finished_at.is_none_or(|end| at <= end);
        let rows = self.predictions.get(&(run.schedule.clone(), run.interval.start));
        let mut reasons: HashMap<&str, i64> = HashMap::new();
        for (series, p) in rows.into_iter().flatten() {
            if p.row.status == PredictionStatus::ModelError && (p.run_id == run_id || stood(p.scored_at)) {
                *reasons.entry(self.refusal(*series, p.row.model_set).unwrap_or(NO_NUMBER)).or_default() += 1;
            }
        }
        let mut reasons: Vec<_> = reasons.into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect();
        reasons.sort_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        reasons.truncate(limit);
        reasons
    }

    /// Why the set refused the model of a series.
    fn refusal(&self, series: SeriesId, set: Option<i64>) -> Option<&str> {
        let name = self.names.get((series as usize).wrapping_sub(1))?;
        let failures = self.model_failures.get(&set?)?;
        failures.iter().find(|f| f.series.as_ref() == Some(name)).map(|f| f.reason.as_str())
    }

    pub(super) fn activate(&mut self, version: i64, now: Timestamp) -> Result<()> {
        if !self.model_sets.contains_key(&version) {
            return Err(StoreError::NotFound { what: format!("model set {version}") });
        }
        // Activating the active set again must not make rollback a step to itself.
        if self.active_version() != Some(version) {
            self.activations.push(Activation { version, at: now, undone_at: None });
        }
        Ok(())
    }

    /// The set as it is listed.
    pub(super) fn model_set(&self, version: i64) -> Option<ModelSetRow> {
        let active = self.active_version() == Some(version);
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
