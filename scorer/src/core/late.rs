//! What lies behind a schedule: the log of changed panes calls for re-scores, and for runs where there was nothing.
//!
//! A row stays in the log for as long as something is to be done for it: its interval has a run under way, the delay that
//! gathers late readings has not passed (it counts from the oldest of them), or the minute's budget of re-scores is spent.

use super::open::Opening;
use super::pass::Standing;
use super::{Look, Question};
use crate::models::misfit;
use fleetscore_schemas::status::{RunCause, RunScope, RunState};
use fleetscore_schemas::time::{Interval, Timestamp, US_PER_S, windows_covering};
use fleetscore_store::{CatchUp, RunRow, ScheduleRow, ScheduleSpec, Trigger};
use std::collections::BTreeMap;

/// Re-scores are counted over so long.
const BUDGET_US: i64 = 60 * US_PER_S;

/// What is to become of a log row, for one window of one schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing more to do for it.
    Dealt,
    /// It stays in the log.
    Stays,
}

/// A changed pane: its rows count once, by the oldest of them.
struct Changed {
    ids: Vec<i64>,
    since: Timestamp,
}

impl<'a> Look<'a> {
    /// Deals with the head of the log, at most `limit` distinct panes behind any schedule.
    pub(super) fn late(&mut self, limit: usize) {
        let mut panes: BTreeMap<Timestamp, Changed> = BTreeMap::new();
        for row in &self.facts.changed {
            let pane = panes.entry(row.pane_start).or_insert(Changed { ids: vec![], since: row.changed_at });
            pane.ids.push(row.id);
            pane.since = pane.since.min(row.changed_at);
        }
        // In the order of the log: what has waited longest comes first.
        let mut panes: Vec<(Timestamp, Changed)> = panes.into_iter().collect();
        panes.sort_by_key(|(_, c)| c.ids.iter().min().copied());

        let facts = self.facts;
        let mut behind: Vec<(Timestamp, Changed)> = Vec::new();
        for (pane, changed) in panes {
            // A window that no schedule has come to yet is read when it is opened: the row says nothing more.
            if facts.schedules.iter().all(|s| self.windows_behind(s, pane).is_empty()) {
                self.out.plan.seen.extend(changed.ids);
            } else if behind.len() < limit {
                behind.push((pane, changed));
            } else {
                self.out.truncated = true;
            }
        }
        let Some(mut histories) = self.histories(&behind) else { return };
        self.out.late = (behind.len(), 0);
        for (pane, changed) in behind {
            let mut all = Verdict::Dealt;
            for (schedule, history) in facts.schedules.iter().zip(&mut histories) {
                for start in self.windows_behind(schedule, pane) {
                    let interval = Interval::starting(start, schedule.spec.window_us);
                    if self.judge(schedule, interval, &changed, history) == Verdict::Stays {
                        all = Verdict::Stays;
                    }
                }
            }
            if all == Verdict::Dealt {
                self.out.plan.seen.extend(changed.ids);
                self.out.late.1 += 1;
            }
        }
    }

    /// Starts of the schedule's windows that hold this pane and that it has passed already. None where it stands still or
    /// is a person's alone: its predictions stay stale until a person, or a later change, has them scored again.
    fn windows_behind(&self, schedule: &ScheduleRow, pane: Timestamp) -> Vec<Timestamp> {
        if Standing::of(schedule).is_some() || schedule.spec.trigger == Trigger::Manual {
            return Vec::new();
        }
        let Some(cursor) = schedule.covered_until.or(schedule.first_interval) else { return Vec::new() };
        let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
        windows_covering(pane, self.facts.grid.len_us, w, h).take_while(|s| *s < cursor).collect()
    }

    /// Past and open runs around the changed panes, for each schedule; one question for each cluster of windows.
    fn histories(&mut self, behind: &[(Timestamp, Changed)]) -> Option<Vec<History<'a>>> {
        let facts = self.facts;
        let mut all = Some(Vec::new());
        for schedule in &facts.schedules {
            let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
            let mut starts: Vec<Timestamp> =
                behind.iter().flat_map(|(pane, _)| self.windows_behind(schedule, *pane)).collect();
            starts.sort_unstable();
            starts.dedup();
            let mut clusters: Vec<Interval> = Vec::new();
            for s in starts {
                match clusters.last_mut() {
                    Some(c) if s <= c.end.plus_us(h.saturating_mul(CLUSTER_HOPS)) => c.end = s.plus_us(w),
                    _ => clusters.push(Interval::starting(s, w)),
                }
            }
            let mut history = History::default();
            for overlapping in clusters {
                let name = schedule.spec.name.clone();
                match self.ask_runs(Question::Runs { schedule: name, overlapping, open: false }) {
                    Some(runs) => runs.iter().for_each(|r| history.add(r)),
                    None => all = None,
                }
            }
            if let Some(all) = &mut all {
                all.push(history);
            }
        }
        all
    }

    fn judge(
        &mut self,
        schedule: &ScheduleRow,
        interval: Interval,
        changed: &Changed,
        history: &mut History<'a>,
    ) -> Verdict {
        // Hidden, and its predictions frozen.
        if self.floor().is_some_and(|floor| interval.start < floor) {
            return Verdict::Dealt;
        }
        // Opened in this look for another pane of the window: it is read after that.
        let opened = &self.out.plan.open;
        if opened.iter().any(|r| r.interval == interval && r.schedule == schedule.spec.name) {
            return Verdict::Dealt;
        }
        let past = history.of(interval);
        if let Some(open) = past.iter().find(|r| !r.state.is_final()) {
            // Not read before it starts, and it starts after this row was seen.
            let reads_it = open.state == RunState::Waiting && reads_all(open, &schedule.spec);
            return if reads_it { Verdict::Dealt } else { Verdict::Stays };
        }
        if !self.horizon.is_ready(interval.end) {
            return Verdict::Stays;
        }
        if self.is_settled(schedule, interval, changed) {
            return self.settle(schedule, interval, changed);
        }
        if !past.is_empty() {
            return self.rescore(schedule, interval, changed, history);
        }
        // Its runs may be forgotten; its predictions are not.
        if self.budget <= history.asked {
            self.out.more = true;
            return Verdict::Stays;
        }
        if !self.may_ask(schedule, interval) {
            return Verdict::Stays;
        }
        match self.ask_scored(&schedule.spec.name, interval) {
            None => {
                history.asked += 1;
                Verdict::Stays
            }
            Some(true) => self.rescore(schedule, interval, changed, history),
            Some(false) => self.first_run(schedule, interval, changed, history),
        }
    }

    /// An interval that was never scored, behind where its schedule stands.
    fn first_run(
        &mut self,
        schedule: &ScheduleRow,
        interval: Interval,
        changed: &Changed,
        history: &History<'a>,
    ) -> Verdict {
        let early = schedule.first_interval.is_some_and(|f| interval.start < f);
        // What a policy passed over stays skipped.
        if schedule.spec.catch_up != CatchUp::All || !early && history.passed_over(interval) {
            return self.settle(schedule, interval, changed);
        }
        self.open(schedule, Opening { interval, cause: RunCause::CatchUp, data_only: true, stale: None });
        Verdict::Dealt
    }

    /// An interval that was scored, or was to be.
    fn rescore(
        &mut self,
        schedule: &ScheduleRow,
        interval: Interval,
        changed: &Changed,
        history: &mut History<'a>,
    ) -> Verdict {
        let Some(delay) = schedule.spec.rescore_delay_us else { return Verdict::Dealt };
        if self.now() < changed.since.plus_us(delay) {
            return Verdict::Stays;
        }
        match self.rescores_left(schedule) {
            None => return Verdict::Stays,
            Some(left) if left <= history.asked => {
                self.note_budget(schedule);
                return Verdict::Stays;
            }
            Some(_) => {}
        }
        if self.budget <= history.asked {
            self.out.more = true;
            return Verdict::Stays;
        }
        if !self.may_ask(schedule, interval) {
            return Verdict::Stays;
        }
        let stale = match self.ask_stale(schedule, interval) {
            None => {
                history.asked += 1;
                return Verdict::Stays;
            }
            Some(0) => return self.settle(schedule, interval, changed),
            Some(stale) => stale,
        };
        let past = history.of(interval);
        // Late data must not mix sets within an interval: the set that it was scored with counts.
        let set = match set_of(past, &schedule.spec) {
            None => None,
            Some(version) => match self.ask_set(version) {
                None => return Verdict::Stays,
                Some(set) => {
                    let fits =
                        |s: &&super::ActiveSet| misfit(s.version, &s.features, &schedule.spec).is_none();
                    set.filter(fits).map(|s| s.version)
                }
            },
        };
        let data_only = newest(past).map_or_else(
            || schedule.spec.catch_up == CatchUp::All && before_first(schedule, interval),
            |run| run.data_only,
        );
        let opening =
            Opening { interval, cause: RunCause::Rescore, data_only, stale: set.map(|s| (stale, s)) };
        self.open(schedule, opening);
        Verdict::Dealt
    }

    /// Whether an earlier look, which had read all these rows, found nothing to do.
    fn is_settled(&self, schedule: &ScheduleRow, interval: Interval, changed: &Changed) -> bool {
        let known = self.settled.get(&(schedule.spec.name.clone(), interval));
        known.is_some_and(|ids| changed.ids.iter().all(|id| ids.contains(id)))
    }

    /// Nothing is to be done for the interval. Its rows may stay for other windows of the pane: it is not asked about again.
    fn settle(&mut self, schedule: &ScheduleRow, interval: Interval, changed: &Changed) -> Verdict {
        let settled = self.out.settled.entry((schedule.spec.name.clone(), interval)).or_default();
        settled.extend(&changed.ids);
        Verdict::Dealt
    }

    /// How many re-scores of this schedule may still be opened, over all processes.
    fn rescores_left(&mut self, schedule: &ScheduleRow) -> Option<usize> {
        let Some(budget) = schedule.spec.rescores_per_minute else { return Some(usize::MAX) };
        let (budget, name) = (budget as usize, &schedule.spec.name);
        let here =
            self.out.plan.open.iter().filter(|r| r.cause == RunCause::Rescore && r.schedule == *name).count();
        let since = self.now().plus_us(1 - BUDGET_US);
        let question = Question::Rescores { schedule: name.clone(), since, limit: budget.max(1) };
        let opened = self.ask_runs(question)?.len();
        Some(budget.saturating_sub(opened + here))
    }

    fn note_budget(&mut self, schedule: &ScheduleRow) {
        if let (None, Some(budget)) = (&self.out.waiting, schedule.spec.rescores_per_minute) {
            let name = &schedule.spec.name;
            self.out.waiting = Some(format!(
                "{name}: more intervals have late readings than are scored again in a minute: \
                 rescores_per_minute is {budget}"
            ));
        }
    }
}

fn before_first(schedule: &ScheduleRow, interval: Interval) -> bool {
    schedule.first_interval.is_some_and(|first| interval.start < first)
}

/// Whether a run that has not begun will read every series of its interval that may be stale.
fn reads_all(run: &RunRow, spec: &ScheduleSpec) -> bool {
    let all = matches!(run.scope, RunScope::All | RunScope::Stale);
    all && run.retry_of.is_none() && all_series(run, spec)
}

fn all_series(run: &RunRow, spec: &ScheduleSpec) -> bool {
    run.series.is_none() || run.series == spec.series
}

/// The run that was opened last.
fn newest<'a>(past: &[&'a RunRow]) -> Option<&'a RunRow> {
    past.iter().copied().max_by_key(|r| (r.opened_at, r.run_id))
}

/// The set that an interval was scored with, by its newest full run; `None` where not all of its shards were ever stored:
/// it needs a full run.
pub(crate) fn set_of(past: &[&RunRow], spec: &ScheduleSpec) -> Option<i64> {
    let ended = |r: &RunRow| matches!(r.state, RunState::Succeeded | RunState::Partial | RunState::Failed);
    let full: Vec<&RunRow> = past
        .iter()
        .copied()
        .filter(|r| r.scope == RunScope::All && r.retry_of.is_none() && all_series(r, spec))
        .filter(|r| ended(r) && r.model_set.is_some())
        .collect();
    let run = newest(&full)?;
    let stored = |r: &RunRow| r.shards_done == r.shards;
    // What it left undone, a retry may have done.
    let retried = past.iter().any(|r| {
        r.retry_of.is_some() && ended(r) && stored(r) && (r.opened_at, r.run_id) > (run.opened_at, run.run_id)
    });
    (stored(run) || retried).then_some(run.model_set)?
}

/// Whether a run of this interval that nobody planned yet has rows only for series with data, given the runs that
/// overlap it: as its newest run had, else if it lies before the first interval or inside a gap.
pub(crate) fn data_only(schedule: &ScheduleRow, interval: Interval, runs: &[RunRow]) -> bool {
    let mut history = History::default();
    runs.iter().for_each(|r| history.add(r));
    if let Some(past) = newest(history.of(interval)) {
        return past.data_only;
    }
    let early = before_first(schedule, interval);
    let all = schedule.spec.catch_up == CatchUp::All;
    early && all || history.gaps.iter().any(|g| g.start <= interval.start && interval.end <= g.end)
}

/// Windows at most so many hops apart are asked for together.
const CLUSTER_HOPS: i64 = 64;

/// Runs of some windows of a schedule.
#[derive(Default)]
struct History<'a> {
    runs: BTreeMap<Interval, Vec<&'a RunRow>>,
    /// Ranges that a policy, or a pause, passed over.
    passed: Vec<Interval>,
    /// Ranges without data.
    gaps: Vec<Interval>,
    /// Questions of this step that may each end in a run: no more are asked than may be opened.
    asked: usize,
}

impl<'a> History<'a> {
    fn add(&mut self, run: &'a RunRow) {
        match (run.state, run.cause) {
            (RunState::Skipped, RunCause::Gap) => self.gaps.push(run.interval),
            (RunState::Skipped, _) => self.passed.push(run.interval),
            _ => self.runs.entry(run.interval).or_default().push(run),
        }
    }

    fn of(&self, interval: Interval) -> &[&'a RunRow] {
        self.runs.get(&interval).map_or(&[], Vec::as_slice)
    }

    fn passed_over(&self, interval: Interval) -> bool {
        self.passed.iter().any(|p| p.start <= interval.start && interval.end <= p.end)
    }
}
