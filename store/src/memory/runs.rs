//! Runs, their tasks and what happened to them.

use super::{Event, State};
use crate::intake::FROZEN;
use crate::{
    GivenBack, Outcome, Phases, Rules, RunCounts, RunEvent, RunFilter, RunRow, RunTotals, SeriesRange, Task,
    TaskClaim, TaskFailure, TaskRow,
};
use fleetscore_schemas::status::{RunCause, RunScope, RunState, TaskState};
use fleetscore_schemas::time::{Interval, Timestamp};
use uuid::Uuid;

/// A run, with what was known when it was opened kept apart from what went wrong later.
#[derive(Debug, Clone)]
pub(super) struct RunEntry {
    pub(super) row: RunRow,
    /// Shown as the error where there is none.
    pub(super) note: Option<String>,
    /// Whether a shard that is done changed anything.
    pub(super) changed: bool,
}

/// One shard of one interval, with the fence that all its runs share.
#[derive(Debug, Clone)]
pub(super) struct TaskEntry {
    pub(super) run_id: Uuid,
    pub(super) range: SeriesRange,
    pub(super) state: TaskState,
    pub(super) attempt: i64,
    pub(super) tries: i64,
    pub(super) failures: i64,
    pub(super) worker: Option<String>,
    pub(super) lease_until: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) counts: RunCounts,
    pub(super) phases: Phases,
    pub(super) error: Option<String>,
    pub(super) updated_at: Timestamp,
}

impl TaskEntry {
    pub(super) fn new(
        run_id: Uuid,
        range: SeriesRange,
        state: TaskState,
        attempt: i64,
        now: Timestamp,
    ) -> Self {
        Self {
            run_id,
            range,
            state,
            attempt,
            tries: 0,
            failures: 0,
            worker: None,
            lease_until: None,
            not_before: None,
            counts: RunCounts::default(),
            phases: Phases::default(),
            error: None,
            updated_at: now,
        }
    }

    fn is_free(&self, now: Timestamp) -> bool {
        let over = |time: Option<Timestamp>| time.is_none_or(|time| time <= now);
        self.state == TaskState::Open && over(self.lease_until) && over(self.not_before)
    }
}

impl State {
    /// The shards of an interval, ascending.
    pub(super) fn interval_tasks(
        &self,
        schedule: &str,
        start: Timestamp,
    ) -> impl Iterator<Item = (i32, &TaskEntry)> {
        let key = |shard| (schedule.to_owned(), start, shard);
        self.tasks.range(key(0)..=key(i32::MAX)).map(|(key, task)| (key.2, task))
    }

    /// The tasks that belong to a run.
    pub(super) fn tasks_of(&mut self, run_id: Uuid) -> impl Iterator<Item = &mut TaskEntry> {
        let interval = self.runs.get(&run_id).map(|r| (r.row.schedule.clone(), r.row.interval.start));
        let (schedule, start) = interval.unwrap_or((String::new(), Timestamp(0)));
        let (from, to) = ((schedule.clone(), start, 0), (schedule, start, i32::MAX));
        self.tasks.range_mut(from..=to).map(|(_, task)| task).filter(move |task| task.run_id == run_id)
    }

    pub(super) fn note_run(
        &mut self,
        run_id: Uuid,
        event: &str,
        shard: Option<i32>,
        worker: Option<&str>,
        detail: Option<&str>,
        at: Timestamp,
    ) {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let event = RunEvent { at, event: event.into(), shard, worker: own(worker), detail: own(detail) };
        self.run_events.entry(run_id).or_default().push(event);
    }

    pub(super) fn run_rows(&self, filter: &RunFilter) -> Vec<RunRow> {
        let overlaps = |i: &Interval, with: &Interval| i.start < with.end && with.start < i.end;
        let mut rows: Vec<RunRow> = self
            .runs
            .values()
            .filter(|r| filter.schedule.as_ref().is_none_or(|s| *s == r.row.schedule))
            .filter(|r| filter.states.is_empty() || filter.states.contains(&r.row.state))
            .filter(|r| filter.causes.is_empty() || filter.causes.contains(&r.row.cause))
            .filter(|r| filter.run_ids.as_ref().is_none_or(|ids| ids.contains(&r.row.run_id)))
            .filter(|r| filter.overlapping.as_ref().is_none_or(|o| overlaps(&r.row.interval, o)))
            .filter(|r| filter.opened_since.is_none_or(|since| r.row.opened_at >= since))
            .map(RunEntry::shown)
            .collect();
        rows.sort_by_key(|r| std::cmp::Reverse((r.interval.start, r.opened_at, r.run_id)));
        if filter.limit > 0 {
            rows.truncate(filter.limit);
        }
        rows
    }

    pub(super) fn run_tasks(&self, run_id: Uuid) -> Vec<TaskRow> {
        let Some(run) = self.runs.get(&run_id) else { return Vec::new() };
        let row = |(shard, t): (i32, &TaskEntry)| TaskRow {
            run_id,
            shard,
            range: t.range,
            state: t.state,
            attempt: t.attempt,
            tries: t.tries,
            worker: t.worker.clone(),
            lease_until: t.lease_until,
            counts: t.counts,
            phases: t.phases,
            error: t.error.clone(),
            updated_at: t.updated_at,
        };
        let all = self.interval_tasks(&run.row.schedule, run.row.interval.start);
        all.filter(|(_, task)| task.run_id == run_id).map(row).collect()
    }

    // --- tasks ------------------------------------------------------------------------------------------------------

    pub(super) fn claim_task(&mut self, claim: &TaskClaim, now: Timestamp) -> Option<Task> {
        let wanted = |id: &Uuid| claim.run_ids.as_ref().is_none_or(|ids| ids.contains(id));
        let key = self.due.iter().filter(|(.., id)| wanted(id)).find_map(|(_, start, schedule, id)| {
            let free = |task: &TaskEntry| task.run_id == *id && task.is_free(now);
            let shards =
                self.interval_tasks(schedule, *start).filter(|(_, t)| free(t)).map(|(shard, _)| shard);
            let shard = shards.min_by_key(|shard| (!claim.prefer.contains(shard), *shard))?;
            Some((schedule.clone(), *start, shard))
        })?;
        let entry = self.tasks.get_mut(&key)?;
        let former = entry.lease_until.and(entry.worker.take());
        entry.attempt += 1;
        entry.tries += 1;
        entry.worker = Some(claim.worker.clone());
        entry.lease_until = Some(now.plus_us(claim.lease_us));
        entry.not_before = None;
        entry.updated_at = now;
        let (attempt, tries, failures, range) = (entry.attempt, entry.tries, entry.failures, entry.range);
        let row = &mut self.runs.get_mut(&entry.run_id)?.row;
        row.attempt += 1;
        row.stalled_at = None;
        let first = row.started_at.is_none();
        row.started_at = row.started_at.or(Some(now));
        let task = Task {
            run_id: row.run_id,
            schedule: key.0,
            interval: row.interval,
            shard: key.2,
            range,
            attempt,
            tries,
            failures,
            model_set: row.model_set?,
            data_only: row.data_only,
            scope: row.scope,
            series: row.series.clone(),
            cause: row.cause,
            worker: claim.worker.clone(),
        };
        if let Some(former) = former {
            let why = crate::notices::lease_lost(&task.worker);
            self.note_run(task.run_id, "lease_lost", Some(task.shard), Some(&former), Some(&why), now);
        }
        if first {
            self.note_run(task.run_id, "started", None, Some(&task.worker), None, now);
        }
        Some(task)
    }

    /// The task's entry, if this claim of it is still the newest and its run is not over.
    pub(super) fn held(&mut self, task: &Task) -> Option<&mut TaskEntry> {
        let running = self.runs.get(&task.run_id)?.row.state == RunState::Running;
        let entry = self.tasks.get_mut(&(task.schedule.clone(), task.interval.start, task.shard))?;
        let ours = entry.attempt == task.attempt && entry.run_id == task.run_id;
        (running && ours && entry.state == TaskState::Open).then_some(entry)
    }

    pub(super) fn renew_task(&mut self, task: &Task, lease_us: i64, now: Timestamp) -> Outcome {
        let Some(entry) = self.held(task) else { return Outcome::Fenced };
        entry.lease_until = Some(now.plus_us(lease_us));
        entry.updated_at = now;
        if let Some(run) = self.runs.get_mut(&task.run_id) {
            run.row.stalled_at = None;
        }
        Outcome::Done
    }

    pub(super) fn fail_task(&mut self, task: &Task, failure: &TaskFailure<'_>, now: Timestamp) -> GivenBack {
        let Some(entry) = self.held(task) else { return GivenBack::Fenced };
        entry.lease_until = None;
        entry.updated_at = now;
        let handed_back = failure.retry.is_some_and(crate::Retry::is_hand_back);
        match failure.retry {
            Some(retry) => {
                entry.not_before = (retry.after_us > 0).then(|| now.plus_us(retry.after_us));
                entry.tries -= i64::from(!retry.counts);
                entry.failures += i64::from(retry.counts);
            }
            None => entry.state = TaskState::Failed,
        }
        if !handed_back {
            entry.error = Some(failure.error.to_owned());
        }
        if let Some(run) = self.runs.get_mut(&task.run_id) {
            run.row.stalled_at = None;
            run.row.shards_failed += i64::from(failure.retry.is_none());
            if !handed_back {
                run.row.error = Some(failure.error.to_owned());
            }
        }
        let event = match failure.retry {
            None => "shard_failed",
            Some(_) if handed_back => "handed_back",
            Some(_) => "retrying",
        };
        let (shard, worker) = (Some(task.shard), Some(task.worker.as_str()));
        self.note_run(task.run_id, event, shard, worker, Some(failure.error), now);
        match failure.retry {
            Some(_) => GivenBack::Open,
            None => self
                .end_if_last(task.run_id, failure.rules, now)
                .map_or(GivenBack::Open, |e| GivenBack::Ended(e.0)),
        }
    }

    // --- ends -------------------------------------------------------------------------------------------------------

    /// Notes the end of a shard; how its run ended, where it was the last.
    pub(super) fn end_task(
        &mut self,
        task: &Task,
        counts: RunCounts,
        phases: Phases,
        changed: bool,
        rules: &Rules,
        now: Timestamp,
    ) -> Option<(RunState, RunCounts)> {
        let entry = self.held(task)?;
        entry.state = TaskState::Done;
        entry.lease_until = None;
        entry.updated_at = now;
        (entry.counts, entry.phases, entry.error) = (counts, phases, None);
        let run = self.runs.get_mut(&task.run_id)?;
        run.row.counts += counts;
        run.row.phases += phases;
        run.row.shards_done += 1;
        run.row.stalled_at = None;
        run.changed |= changed;
        self.end_if_last(task.run_id, rules, now)
    }

    /// Ends a run all of whose shards have ended.
    fn end_if_last(&mut self, run_id: Uuid, rules: &Rules, now: Timestamp) -> Option<(RunState, RunCounts)> {
        let row = &self.runs.get(&run_id)?.row;
        if row.shards_done + row.shards_failed < row.shards {
            return None;
        }
        let totals = RunTotals { counts: row.counts, shards: row.shards, shards_failed: row.shards_failed };
        let failed = self.tasks_of(run_id).filter(|task| task.state == TaskState::Failed);
        let newest = failed.max_by_key(|task| task.updated_at).and_then(|task| task.error.clone());
        let (state, error) = crate::verdict(&totals, rules, newest.as_deref());
        self.end_run(run_id, state, error, None, now);
        Some((state, totals.counts))
    }

    /// Ends an open run: nobody can claim it, its interval is free for another one, and what it changed is due.
    pub(super) fn end_run(
        &mut self,
        run_id: Uuid,
        state: RunState,
        error: Option<String>,
        by: Option<&str>,
        now: Timestamp,
    ) {
        if let Some((schedule, interval)) = self.close_run(run_id, state, error, by, now) {
            self.changed_interval(schedule, interval);
        }
    }

    /// The same, but for what is due: the interval, where the run changed it.
    pub(super) fn close_run(
        &mut self,
        run_id: Uuid,
        state: RunState,
        error: Option<String>,
        by: Option<&str>,
        now: Timestamp,
    ) -> Option<(String, Interval)> {
        let run = self.runs.get_mut(&run_id)?;
        run.row.state = state;
        run.row.error.clone_from(&error);
        run.row.finished_at = Some(now);
        run.row.stalled_at = None;
        let (schedule, interval, changed) = (run.row.schedule.clone(), run.row.interval, run.changed);
        self.due.remove(&due_key(&run.row));
        self.open.remove(&(schedule.clone(), interval.start));
        for task in self.tasks_of(run_id) {
            if matches!(task.state, TaskState::Open | TaskState::Waiting) {
                (task.state, task.lease_until, task.updated_at) = (TaskState::Cancelled, None, now);
            }
        }
        let detail = error.as_deref().filter(|_| state != RunState::Cancelled);
        self.note_run(run_id, state.as_str(), None, by, detail, now);
        changed.then_some((schedule, interval))
    }

    /// Ends the run of an interval below the floor of retention.
    pub(super) fn freeze(&mut self, run_id: Uuid, now: Timestamp) {
        self.end_run(run_id, RunState::Skipped, Some(FROZEN.to_owned()), None, now);
    }

    pub(super) fn cancel_run(&mut self, run_id: Uuid, by: &str, now: Timestamp) -> bool {
        let Some(row) = self.runs.get(&run_id).map(|r| &r.row).filter(|row| !row.state.is_final()) else {
            return false;
        };
        let error = row.error.clone();
        self.end_run(run_id, RunState::Cancelled, error, Some(by), now);
        true
    }

    // --- what is heard of runs --------------------------------------------------------------------------------------

    pub(super) fn mark_stalled(&mut self, now: Timestamp) -> u64 {
        let running: Vec<Uuid> = self.due.iter().map(|(.., id)| *id).collect();
        let mut marked = 0;
        for (place, id) in running.into_iter().enumerate() {
            let Some(run) = self.runs.get(&id).filter(|run| run.row.stalled_at.is_none()) else { continue };
            // Of those that nobody has begun, only the one that is next counts: the others wait their turn.
            if run.row.started_at.is_none() && place > 0 {
                continue;
            }
            let (schedule, opened) = (run.row.schedule.clone(), run.row.opened_at);
            let Some(after) = self.schedules.get(&schedule).map(|s| s.spec.stall_after_us) else { continue };
            let heard = self.tasks_of(id).map(|task| task.updated_at).max().unwrap_or(opened);
            if heard.plus_us(after) > now {
                continue;
            }
            let holders = self.tasks_of(id).filter(|t| t.state == TaskState::Open && t.lease_until.is_some());
            let holders = holders.filter_map(|task| task.worker.clone()).collect();
            let detail = crate::notices::stalled(heard, holders);
            if let Some(run) = self.runs.get_mut(&id) {
                run.row.stalled_at = Some(now);
            }
            self.note_run(id, "stalled", None, None, Some(&detail), now);
            let (kind, schedule) = ("run_stalled".to_owned(), Some(schedule));
            self.events.push(Event { at: now, kind, schedule, run_id: Some(id), series: None, detail });
            marked += 1;
        }
        marked
    }

    pub(super) fn unlogged_runs(&self, limit: usize) -> Vec<RunRow> {
        let unlogged =
            |r: &&RunEntry| r.row.state.is_final() && r.row.state != RunState::Skipped && r.row.log.is_none();
        let mut rows: Vec<RunRow> = self.runs.values().filter(unlogged).map(RunEntry::shown).collect();
        rows.sort_by_key(|r| (r.finished_at, r.run_id));
        rows.truncate(limit);
        rows
    }

    pub(super) fn log_run(&mut self, run_id: Uuid, path: &str) {
        if let Some(run) = self.runs.get_mut(&run_id) {
            run.row.log = Some(path.to_owned());
        }
    }

    pub(super) fn forget_runs(&mut self, finished: Timestamp, interval: Timestamp, limit: usize) -> u64 {
        let old = |r: &&RunEntry| {
            r.row.state.is_final()
                && r.row.finished_at.is_some_and(|at| at < finished)
                && r.row.interval.end <= interval
        };
        let mut ids: Vec<_> =
            self.runs.values().filter(old).map(|r| (r.row.finished_at, r.row.run_id)).collect();
        ids.sort_unstable();
        ids.truncate(limit);
        for (_, id) in &ids {
            self.run_events.remove(id);
            self.runs.remove(id);
        }
        let gone = |task: &TaskEntry| ids.iter().any(|(_, id)| *id == task.run_id);
        let attempt = self.tasks.values().filter(|task| gone(task)).map(|task| task.attempt).max();
        self.tasks.retain(|_, task| !gone(task));
        if let Some(attempt) = attempt {
            let (until, greatest) = self.forgotten.unwrap_or((interval, attempt));
            self.forgotten = Some((until.max(interval), greatest.max(attempt)));
        }
        // Fires and events are told by the clock, silences by the time of their intervals.
        let mut fires: Vec<_> = self.fires.iter().map(|(key, fire)| (fire.last, key.clone())).collect();
        fires.retain(|(last, _)| *last < finished);
        fires.sort_unstable();
        fires.truncate(limit);
        for (_, key) in &fires {
            self.fires.remove(key);
        }
        let (events, silences) = (self.events.len(), self.silences.len());
        let mut left = limit;
        self.events.retain(|event| event.at >= finished || !take(&mut left));
        let mut left = limit;
        self.silences.retain(|s| s.ended_at.is_none_or(|ended| ended > interval) || !take(&mut left));
        let gone = [ids.len(), fires.len(), events - self.events.len(), silences - self.silences.len()];
        gone.into_iter().max().unwrap_or(0) as u64
    }
}

/// One of those that are left, if any are.
fn take(left: &mut usize) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}

impl RunEntry {
    fn shown(&self) -> RunRow {
        RunRow { error: self.row.error.clone().or_else(|| self.note.clone()), ..self.row.clone() }
    }
}

pub(super) fn due_key(row: &RunRow) -> (Timestamp, Timestamp, String, Uuid) {
    (row.opened_at, row.interval.start, row.schedule.clone(), row.run_id)
}

pub(super) fn new_row(
    run_id: Uuid,
    schedule: &str,
    interval: Interval,
    cause: RunCause,
    now: Timestamp,
) -> RunRow {
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
        scope: RunScope::All,
        series: None,
        shards: 0,
        shards_done: 0,
        shards_failed: 0,
        phases: Phases::default(),
        retry_of: None,
        stalled_at: None,
        log: None,
    }
}
