//! Opening runs, and starting those that waited for a model set.

use super::{Answer, Look, NO_MODEL_SET, Question};
use crate::models::misfit;
use crate::shards::cuts_of;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::{RunCause, RunScope, RunState};
use fleetscore_schemas::time::Interval;
use fleetscore_store::{NewRun, ScheduleRow, Trigger};

/// How a run is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) interval: Interval,
    pub(super) cause: RunCause,
    pub(super) data_only: bool,
    /// Of how many stale series alone, with the set that the others were scored with.
    pub(super) stale: Option<(u64, i64)>,
}

impl Look<'_> {
    /// The set that full runs of a schedule are fixed to now, or why they wait: its own one or the active one. `None` where
    /// an answer is missing.
    pub(super) fn set_for(&mut self, schedule: &ScheduleRow) -> Option<Result<i64, String>> {
        let facts = self.facts;
        let set = match schedule.spec.model_set {
            None => facts.active_set.as_ref().ok_or_else(|| NO_MODEL_SET.to_owned()),
            Some(own) => self.ask_set(own)?.ok_or_else(|| {
                format!(
                    "there is no model set {own}, which the setting `model_set` of the schedule `{}` names: import it, \
                     or change the setting",
                    schedule.spec.name
                )
            }),
        };
        Some(set.and_then(|set| match misfit(set.version, &set.features, &schedule.spec) {
            None => Ok(set.version),
            Some(why) => Err(why),
        }))
    }

    /// Opens a run of an interval that is ready, with its set fixed; waiting where there is none that fits.
    pub(super) fn open(&mut self, schedule: &ScheduleRow, opening: Opening) {
        let Opening { interval, cause, data_only, stale } = opening;
        let ignored = self.horizon.ignored(interval.end);
        let mut notes = Vec::new();
        let (scope, model_set) = match stale {
            Some((_, set)) => (RunScope::Stale, Some(set)),
            // Without an answer this step is not the last one.
            None => match self.set_for(schedule).transpose() {
                Ok(set) => (RunScope::All, set),
                Err(why) => {
                    notes.push(why);
                    (RunScope::All, None)
                }
            },
        };
        if !ignored.is_empty() {
            notes.push(format!(
                "not waited for, as nobody has owned it for longer than max_wait: {}",
                ignored.join(", ")
            ));
        }
        let cuts = self.cuts(schedule, stale.map(|(n, _)| n));
        self.out.plan.open.push(NewRun {
            run_id: (self.new_id)(),
            schedule: schedule.spec.name.clone(),
            interval,
            cause,
            model_set,
            data_only,
            scope,
            series: schedule.spec.series.clone(),
            cuts,
            retry_of: None,
            note: (!notes.is_empty()).then(|| notes.join("; ")),
        });
        self.budget = self.budget.saturating_sub(1);
        if self.budget == 0 {
            self.out.more = true;
        }
    }

    /// Cuts of a run over all series, or over so many of them that are stale.
    fn cuts(&mut self, schedule: &ScheduleRow, stale: Option<u64>) -> Vec<SeriesId> {
        let Some(Answer::LastSeries(last)) = self.ask(Question::LastSeries) else { return Vec::new() };
        cuts_of(*last, schedule.spec.shards, stale)
    }

    /// Runs that wait for a model set start when there is one that fits their schedule.
    pub(super) fn start_waiting(&mut self) {
        self.note_sets();
        let limit = self.limits.open;
        let Some(waiting) = self.ask_runs(Question::Waiting { schedule: None, limit }) else { return };
        let facts = self.facts;
        let all = waiting.len() < limit;
        for schedule in &facts.schedules {
            let name = &schedule.spec.name;
            if all && !waiting.iter().any(|r| r.schedule == *name) {
                continue;
            }
            match self.set_for(schedule) {
                None => {}
                Some(Err(why))
                    if schedule.spec.model_set.is_some() && waiting.iter().any(|r| r.schedule == *name) =>
                {
                    self.out.waiting = Some(why);
                }
                Some(Err(_)) => {}
                Some(Ok(version)) if all => self.start_these(name, waiting, version),
                // One by one, or those that go on waiting would hide the ones that can start.
                Some(Ok(version)) => {
                    let question = Question::Waiting { schedule: Some(name.clone()), limit };
                    if let Some(own) = self.ask_runs(question) {
                        self.start_these(name, own, version);
                        self.out.more |= own.len() >= limit;
                    }
                }
            }
        }
    }

    fn start_these(&mut self, schedule: &str, waiting: &[fleetscore_store::RunRow], version: i64) {
        let due = waiting.iter().filter(|r| r.state == RunState::Waiting && r.schedule == schedule);
        self.out.plan.start.extend(due.map(|r| (r.run_id, version)));
    }

    /// What a person must mend is said before what solves itself.
    fn note_sets(&mut self) {
        let facts = self.facts;
        let follows = |s: &&ScheduleRow| {
            s.spec.model_set.is_none() && s.spec.enabled && s.spec.trigger != Trigger::Manual
        };
        let mut followers = facts.schedules.iter().filter(follows).peekable();
        if followers.peek().is_none() || facts.pane_range.is_none() {
            return;
        }
        match &facts.active_set {
            None if !self.out.plan.open.is_empty() || self.out.waiting.is_none() => {
                self.out.waiting = Some(NO_MODEL_SET.to_owned());
            }
            None => {}
            Some(set) => {
                let why = followers.find_map(|s| misfit(set.version, &set.features, &s.spec));
                if why.is_some() {
                    self.out.waiting = why;
                }
            }
        }
    }
}
