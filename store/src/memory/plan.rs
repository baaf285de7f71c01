//! Schedules and the planner's transaction.

use super::State;
use super::runs::{RunEntry, TaskEntry, due_key, new_row};
use crate::{
    NewRun, Outcome, Pause, Plan, Result, RunRow, ScheduleMove, ScheduleRow, ScheduleSpec, SkippedRange,
    StoreError,
};
use fleetscore_schemas::status::{RunState, TaskState};
use fleetscore_schemas::time::Timestamp;
use std::collections::HashSet;
use uuid::Uuid;

impl State {
    pub(super) fn put_schedule(&mut self, spec: &ScheduleSpec, now: Timestamp) -> Result<()> {
        crate::settings::schedule_name(&spec.name)?;
        if let Some(panes) = &self.settings {
            crate::settings::fits_panes(spec, panes)?;
        }
        if let Some(stored) = self.schedules.get_mut(&spec.name) {
            crate::settings::same_schedule(&stored.spec, spec)?;
            if stored.spec != *spec {
                stored.spec = spec.clone();
                // A look that was begun before decided by what no longer holds.
                stored.revision += 1;
            }
            return Ok(());
        }
        let row = ScheduleRow::new(spec.clone(), now);
        self.schedules.insert(spec.name.clone(), row);
        Ok(())
    }

    pub(super) fn pause_schedule(&mut self, name: &str, by: Option<&str>, now: Timestamp) -> Result<bool> {
        let row = self.schedules.get_mut(name).ok_or_else(|| StoreError::no_schedule(name))?;
        if row.pause.is_some() == by.is_some() {
            return Ok(false);
        }
        row.pause = by.map(|by| Pause { id: Uuid::new_v4(), at: now, by: by.to_owned() });
        // A plan that was made before must not open a run behind it.
        row.revision += 1;
        Ok(true)
    }

    pub(super) fn plan(&mut self, plan: &Plan, now: Timestamp) -> Outcome {
        if !self.may_happen(plan) {
            return Outcome::Fenced;
        }
        for step in &plan.schedules {
            self.move_schedule(step, now);
        }
        for id in &plan.seen {
            self.changed.remove(id);
        }
        let mut changed = HashSet::new();
        for (id, why) in &plan.end {
            let ended = self.close_run(*id, RunState::Failed, Some(why.clone()), None, now);
            let Some((schedule, interval)) = ended else { continue };
            if plan.open.iter().any(|run| run.schedule == schedule && run.interval.start == interval.start) {
                changed.insert((schedule, interval.start));
            } else {
                self.changed_interval(schedule, interval);
            }
        }
        for run in &plan.open {
            self.open_run(run, changed.contains(&(run.schedule.clone(), run.interval.start)), now);
        }
        for range in &plan.skipped {
            self.skip(range, now);
        }
        for fire in &plan.fires {
            self.fires.insert((fire.schedule.clone(), fire.at), fire.clone());
        }
        for (id, model_set) in &plan.start {
            self.start(*id, *model_set, now);
        }
        Outcome::Done
    }

    fn may_happen(&self, plan: &Plan) -> bool {
        let moved =
            |m: &ScheduleMove| self.schedules.get(&m.name).is_none_or(|row| row.revision != m.revision);
        let mut ids = HashSet::new();
        let mut intervals = HashSet::new();
        let mut ending = HashSet::new();
        let is_open = |id: &Uuid| self.runs.get(id).is_some_and(|run| !run.row.state.is_final());
        let over = !plan.end.iter().all(|(id, _)| is_open(id) && ending.insert(*id));
        let taken = plan.open.iter().any(|run| {
            let key = (run.schedule.clone(), run.interval.start);
            let open = self.open.get(&key).is_some_and(|id| !ending.contains(id));
            open || !intervals.insert(key)
        });
        let reused =
            plan.open.iter().any(|run| self.runs.contains_key(&run.run_id) || !ids.insert(run.run_id));
        let nothing_left =
            plan.open.iter().any(|run| run.retry_of.is_some_and(|of| self.undone(run, of).is_empty()));
        // The id of a range may be stored: as a range of this schedule.
        let other = plan.skipped.iter().any(|s| {
            let stored = self.runs.get(&s.run_id).map(|r| &r.row);
            ids.contains(&s.run_id)
                || stored.is_some_and(|r| r.state != RunState::Skipped || r.schedule != s.schedule)
        });
        !(plan.schedules.iter().any(moved) || over || taken || reused || nothing_left || other)
    }

    fn move_schedule(&mut self, step: &ScheduleMove, now: Timestamp) {
        let Some(row) = self.schedules.get_mut(&step.name) else { return };
        row.revision += 1;
        row.first_interval = row.first_interval.or(step.first_interval);
        row.covered_until = row.covered_until.max(step.covered_until);
        row.looked_at = if step.looked { Some(now) } else { row.looked_at };
        row.missed = step.missed.or(row.missed);
        row.fired_at = row.fired_at.max(step.fired_at);
        row.released_until = row.released_until.max(step.released_until);
    }

    fn start(&mut self, id: Uuid, model_set: i64, now: Timestamp) {
        let Some(run) = self.runs.get_mut(&id).filter(|r| r.row.state == RunState::Waiting) else { return };
        run.row.state = RunState::Running;
        run.row.model_set = Some(model_set);
        run.note = None;
        self.due.insert(due_key(&run.row));
        for task in self.tasks_of(id) {
            (task.state, task.updated_at) = (TaskState::Open, now);
        }
        self.note_run(id, "running", None, None, None, now);
    }

    /// Shards of the interval's newest run that are not done, where that is this one.
    fn undone(&self, run: &NewRun, of: Uuid) -> Vec<i32> {
        let undone = |t: &TaskEntry| t.run_id == of && t.state != TaskState::Done;
        self.interval_tasks(&run.schedule, run.interval.start)
            .filter(|(_, task)| undone(task))
            .map(|(shard, _)| shard)
            .collect()
    }

    /// `changed`: a run that gives way to it has changed the interval.
    fn open_run(&mut self, run: &NewRun, changed: bool, now: Timestamp) {
        let shards = self.cut(run, now);
        let row = RunRow {
            state: if run.model_set.is_some() { RunState::Running } else { RunState::Waiting },
            model_set: run.model_set,
            data_only: run.data_only,
            scope: run.scope,
            series: run.series.clone(),
            shards: shards as i64,
            retry_of: run.retry_of,
            ..new_row(run.run_id, &run.schedule, run.interval, run.cause, now)
        };
        if row.state == RunState::Running {
            self.due.insert(due_key(&row));
        }
        let state = row.state;
        self.open.insert((run.schedule.clone(), run.interval.start), run.run_id);
        self.runs.insert(run.run_id, RunEntry { row, note: run.note.clone(), changed });
        self.note_run(run.run_id, state.as_str(), None, None, run.note.as_deref(), now);
    }

    /// Makes the interval's tasks this run's; how many.
    fn cut(&mut self, run: &NewRun, now: Timestamp) -> usize {
        let key = |shard: i32| (run.schedule.clone(), run.interval.start, shard);
        let state = if run.model_set.is_some() { TaskState::Open } else { TaskState::Waiting };
        // The greatest attempt of all: no claim of the old cut may have a number of the new one.
        let greatest = self.interval_tasks(&run.schedule, run.interval.start).map(|(_, t)| t.attempt).max();
        let forgotten = || self.forgotten.filter(|(until, _)| run.interval.end <= *until).map(|(_, a)| a);
        let attempt = greatest.or_else(forgotten).unwrap_or(0);
        if let Some(of) = run.retry_of {
            let shards = self.undone(run, of);
            for shard in &shards {
                if let Some(task) = self.tasks.get_mut(&key(*shard)) {
                    *task = TaskEntry::new(run.run_id, task.range, state, attempt, now);
                }
            }
            return shards.len();
        }
        let old: Vec<i32> =
            self.interval_tasks(&run.schedule, run.interval.start).map(|(shard, _)| shard).collect();
        for shard in old {
            self.tasks.remove(&key(shard));
        }
        let ranges = run.ranges();
        for (shard, range) in (0..).zip(&ranges) {
            self.tasks.insert(key(shard), TaskEntry::new(run.run_id, *range, state, attempt, now));
        }
        ranges.len()
    }

    fn skip(&mut self, range: &SkippedRange, now: Timestamp) {
        if let Some(stored) = self.runs.get_mut(&range.run_id) {
            let interval = &mut stored.row.interval;
            interval.start = interval.start.min(range.range.start);
            interval.end = interval.end.max(range.range.end);
            stored.row.finished_at = Some(now);
            stored.note = Some(range.note.clone());
            return;
        }
        let row = RunRow {
            state: RunState::Skipped,
            finished_at: Some(now),
            ..new_row(range.run_id, &range.schedule, range.range, range.cause, now)
        };
        let entry = RunEntry { row, note: Some(range.note.clone()), changed: false };
        self.runs.insert(range.run_id, entry);
        self.note_run(range.run_id, "skipped", None, None, Some(&range.note), now);
    }
}
