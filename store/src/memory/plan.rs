//! Schedules, runs and tasks.

use super::State;
use crate::{
    NewRun, Outcome, Plan, Result, RunCounts, RunFilter, RunRow, ScheduleRow, ScheduleSpec, Task, TaskClaim,
};
use fleetscore_schemas::status::{RunCause, RunState};
use fleetscore_schemas::time::{Interval, Timestamp};
use std::collections::HashSet;
use uuid::Uuid;

/// A run, with what was known when it was opened kept apart from what went wrong later.
#[derive(Debug, Clone)]
pub(super) struct RunEntry {
    pub(super) row: RunRow,
    /// Shown as the error where there is none.
    pub(super) note: Option<String>,
}

/// The fence of one shard of one interval, shared by all its runs.
#[derive(Debug, Clone)]
pub(super) struct TaskEntry {
    pub(super) attempt: i64,
    pub(super) run_id: Uuid,
    /// Who works on it, and until when.
    pub(super) lease: Option<(String, Timestamp)>,
}

impl State {
    pub(super) fn put_schedule(&mut self, spec: &ScheduleSpec, now: Timestamp) -> Result<()> {
        crate::settings::schedule_name(&spec.name)?;
        if let Some(panes) = &self.settings {
            crate::settings::fits_panes(spec, panes)?;
        }
        if let Some(stored) = self.schedules.get_mut(&spec.name) {
            crate::settings::same_schedule(&stored.spec, spec)?;
            stored.spec = spec.clone();
            return Ok(());
        }
        let row = ScheduleRow {
            spec: spec.clone(),
            revision: 0,
            first_interval: None,
            covered_until: None,
            created_at: now,
        };
        self.schedules.insert(spec.name.clone(), row);
        Ok(())
    }

    pub(super) fn plan(&mut self, plan: &Plan, now: Timestamp) -> Outcome {
        let moved = |m: &crate::ScheduleMove| {
            self.schedules.get(&m.name).is_none_or(|row| row.revision != m.revision)
        };
        let mut ids = HashSet::new();
        let mut intervals = HashSet::new();
        let taken = plan.open.iter().any(|run| {
            let key = (run.schedule.clone(), run.interval.start);
            self.open.contains_key(&key) || !intervals.insert(key)
        });
        let new_ids = plan.open.iter().map(|r| r.run_id).chain(plan.skipped.iter().map(|s| s.run_id));
        let reused = new_ids.into_iter().any(|id| self.runs.contains_key(&id) || !ids.insert(id));
        if plan.schedules.iter().any(moved) || taken || reused {
            return Outcome::Fenced;
        }
        for step in &plan.schedules {
            let Some(row) = self.schedules.get_mut(&step.name) else { continue };
            row.revision += 1;
            row.first_interval = row.first_interval.or(step.first_interval);
            row.covered_until = row.covered_until.max(step.covered_until);
        }
        for id in &plan.seen {
            self.changed.remove(id);
        }
        for run in &plan.open {
            self.open_run(run, now);
        }
        for range in &plan.skipped {
            let row = RunRow {
                state: RunState::Skipped,
                error: None,
                finished_at: Some(now),
                ..new_row(range.run_id, &range.schedule, range.range, range.cause, now)
            };
            self.runs.insert(range.run_id, RunEntry { row, note: Some(range.note.clone()) });
        }
        for (id, model_set) in &plan.start {
            if let Some(run) = self.runs.get_mut(id).filter(|r| r.row.state == RunState::Waiting) {
                run.row.state = RunState::Running;
                run.row.model_set = Some(*model_set);
                run.note = None;
                self.due.insert(due_key(&run.row));
            }
        }
        Outcome::Done
    }

    fn open_run(&mut self, run: &NewRun, now: Timestamp) {
        let row = RunRow {
            state: if run.model_set.is_some() { RunState::Running } else { RunState::Waiting },
            model_set: run.model_set,
            data_only: run.data_only,
            ..new_row(run.run_id, &run.schedule, run.interval, run.cause, now)
        };
        let key = (run.schedule.clone(), run.interval.start);
        if row.state == RunState::Running {
            self.due.insert(due_key(&row));
        }
        self.tasks
            .entry((key.0.clone(), key.1, 0))
            .and_modify(|task| {
                task.run_id = run.run_id;
                task.lease = None;
            })
            .or_insert(TaskEntry { attempt: 0, run_id: run.run_id, lease: None });
        self.open.insert(key, run.run_id);
        self.runs.insert(run.run_id, RunEntry { row, note: run.note.clone() });
    }

    pub(super) fn run_rows(&self, filter: &RunFilter) -> Vec<RunRow> {
        let overlaps = |i: &Interval, with: &Interval| i.start < with.end && with.start < i.end;
        let mut rows: Vec<RunRow> = self
            .runs
            .values()
            .filter(|r| filter.schedule.as_ref().is_none_or(|s| *s == r.row.schedule))
            .filter(|r| filter.states.is_empty() || filter.states.contains(&r.row.state))
            .filter(|r| filter.run_ids.as_ref().is_none_or(|ids| ids.contains(&r.row.run_id)))
            .filter(|r| filter.overlapping.as_ref().is_none_or(|o| overlaps(&r.row.interval, o)))
            .map(|r| RunRow { error: r.row.error.clone().or_else(|| r.note.clone()), ..r.row.clone() })
            .collect();
        rows.sort_by_key(|r| std::cmp::Reverse((r.interval.start, r.opened_at, r.run_id)));
        if filter.limit > 0 {
            rows.truncate(filter.limit);
        }
        rows
    }

    pub(super) fn claim_task(&mut self, claim: &TaskClaim, now: Timestamp) -> Option<Task> {
        let wanted = |id: &Uuid| claim.run_ids.as_ref().is_none_or(|ids| ids.contains(id));
        let key = self.due.iter().find_map(|(_, start, schedule, id)| {
            let key = (schedule.clone(), *start, 0);
            let free = self.tasks.get(&key)?.lease.as_ref().is_none_or(|(_, until)| *until <= now);
            (free && wanted(id)).then_some(key)
        })?;
        let entry = self.tasks.get_mut(&key)?;
        entry.attempt += 1;
        entry.lease = Some((claim.worker.clone(), now.plus_us(claim.lease_us)));
        let attempt = entry.attempt;
        let row = &mut self.runs.get_mut(&entry.run_id)?.row;
        row.attempt += 1;
        row.started_at = row.started_at.or(Some(now));
        Some(Task {
            run_id: row.run_id,
            schedule: key.0,
            interval: row.interval,
            shard: key.2,
            attempt,
            run_attempt: row.attempt,
            model_set: row.model_set?,
            data_only: row.data_only,
            worker: claim.worker.clone(),
        })
    }

    /// The task's entry, if this claim of it is still the newest and its run is not over.
    pub(super) fn held(&mut self, task: &Task) -> Option<&mut TaskEntry> {
        let running = self.runs.get(&task.run_id)?.row.state == RunState::Running;
        let entry = self.tasks.get_mut(&(task.schedule.clone(), task.interval.start, task.shard))?;
        (running && entry.attempt == task.attempt && entry.run_id == task.run_id).then_some(entry)
    }

    pub(super) fn renew_task(&mut self, task: &Task, lease_us: i64, now: Timestamp) -> Outcome {
        match self.held(task) {
            None => Outcome::Fenced,
            Some(entry) => {
                entry.lease = Some((task.worker.clone(), now.plus_us(lease_us)));
                Outcome::Done
            }
        }
    }

    pub(super) fn fail_task(&mut self, task: &Task, error: &str, give_up: bool, now: Timestamp) -> Outcome {
        let Some(entry) = self.held(task) else { return Outcome::Fenced };
        entry.lease = None;
        if give_up {
            self.end_run(task.run_id, RunState::Failed, now);
        }
        if let Some(run) = self.runs.get_mut(&task.run_id) {
            run.row.error = Some(error.to_owned());
        }
        Outcome::Done
    }

    pub(super) fn cancel_run(&mut self, run_id: Uuid, now: Timestamp) -> bool {
        let open = self.runs.get(&run_id).is_some_and(|r| !r.row.state.is_final());
        if open {
            self.end_run(run_id, RunState::Cancelled, now);
        }
        open
    }

    /// Ends an open run: nobody can claim it and its interval is free for another one.
    pub(super) fn end_run(&mut self, run_id: Uuid, state: RunState, now: Timestamp) {
        let Some(run) = self.runs.get_mut(&run_id) else { return };
        run.row.state = state;
        run.row.finished_at = Some(now);
        self.due.remove(&due_key(&run.row));
        let key = (run.row.schedule.clone(), run.row.interval.start);
        self.open.remove(&key);
        if let Some(task) = self.tasks.get_mut(&(key.0, key.1, 0)) {
            task.lease = None;
        }
    }
}

fn due_key(row: &RunRow) -> (Timestamp, Timestamp, String, Uuid) {
    (row.opened_at, row.interval.start, row.schedule.clone(), row.run_id)
}

fn new_row(run_id: Uuid, schedule: &str, interval: Interval, cause: RunCause, now: Timestamp) -> RunRow {
    RunRow {
        run_id,
        schedule: schedule.to_owned(),
        interval,
        state: RunState::Waiting,
        cause,
        model_set: None,
        counts: RunCounts::default(),
        attempt: 0,
        opened_at: now,
        started_at: None,
        finished_at: None,
        error: None,
        data_only: false,
    }
}
