//! What lies behind a schedule: the log of changed panes calls for re-scores, and for runs where there was nothing.

use super::{Look, Question};
use fleetscore_schemas::status::{RunCause, RunState};
use fleetscore_schemas::time::{Interval, Timestamp, windows_covering};
use fleetscore_store::{CatchUp, RunRow, ScheduleRow};
use std::collections::BTreeMap;

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

impl Look<'_> {
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
        let Some(histories) = self.histories(&behind) else { return };
        self.out.late = (behind.len(), 0);
        for (pane, changed) in behind {
            let mut all = Verdict::Dealt;
            for (schedule, history) in facts.schedules.iter().zip(&histories) {
                for start in self.windows_behind(schedule, pane) {
                    let interval = Interval::starting(start, schedule.spec.window_us);
                    if self.judge(schedule, interval, changed.since, history) == Verdict::Stays {
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

    /// Starts of the schedule's windows that hold this pane and that it has passed already.
    fn windows_behind(&self, schedule: &ScheduleRow, pane: Timestamp) -> Vec<Timestamp> {
        let Some(cursor) = schedule.covered_until.or(schedule.first_interval) else { return Vec::new() };
        let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
        windows_covering(pane, self.facts.grid.len_us, w, h).take_while(|s| *s < cursor).collect()
    }

    /// Past and open runs around the changed panes, for each schedule; one question for each cluster of windows.
    fn histories(&mut self, behind: &[(Timestamp, Changed)]) -> Option<Vec<History>> {
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
        since: Timestamp,
        history: &History,
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
        let past = history.runs.get(&interval);
        match past {
            // Not read before it starts, and it starts after this row was seen.
            Some(p) if p.waiting => return Verdict::Dealt,
            Some(p) if p.running => return Verdict::Stays,
            _ => {}
        }
        let data_only = match past {
            Some(past) => past.data_only,
            None => {
                let all = schedule.spec.catch_up == CatchUp::All;
                let early = schedule.first_interval.is_some_and(|f| interval.start < f);
                // What a policy passed over stays skipped.
                if !all || !early && history.passed_over(interval) {
                    return Verdict::Dealt;
                }
                true
            }
        };
        if !self.horizon.is_ready(interval.end) {
            return Verdict::Stays;
        }
        let cause = if past.is_some() {
            let due = since.plus_us(schedule.spec.rescore_delay_us);
            if self.facts.progress.now < due {
                return Verdict::Stays;
            }
            match self.ask_stale(&schedule.spec.name, interval) {
                None => return Verdict::Stays,
                Some(0) => return Verdict::Dealt,
                Some(_) => RunCause::Rescore,
            }
        } else {
            RunCause::CatchUp
        };
        if self.budget == 0 {
            self.out.more = true;
            return Verdict::Stays;
        }
        self.open(schedule, interval, cause, data_only);
        Verdict::Dealt
    }
}

/// Whether a run of this interval that nobody planned yet has rows only for series with data, given the runs that
/// overlap it: as its newest run had, else if it lies before the first interval or inside a gap.
pub(crate) fn data_only(schedule: &ScheduleRow, interval: Interval, runs: &[RunRow]) -> bool {
    let mut history = History::default();
    runs.iter().for_each(|r| history.add(r));
    if let Some(past) = history.runs.get(&interval) {
        return past.data_only;
    }
    let early = schedule.first_interval.is_some_and(|first| interval.start < first);
    let all = schedule.spec.catch_up == CatchUp::All;
    early && all || history.gaps.iter().any(|g| g.start <= interval.start && interval.end <= g.end)
}

/// Windows at most so many hops apart are asked for together.
const CLUSTER_HOPS: i64 = 64;

/// Runs of some windows.
#[derive(Default)]
struct History {
    runs: BTreeMap<Interval, Past>,
    /// Ranges that a policy passed over.
    passed: Vec<Interval>,
    /// Ranges without data.
    gaps: Vec<Interval>,
}

/// Runs of one window.
struct Past {
    waiting: bool,
    running: bool,
    newest: Timestamp,
    data_only: bool,
}

impl History {
    fn add(&mut self, run: &RunRow) {
        if run.state == RunState::Skipped {
            match run.cause {
                RunCause::Gap => self.gaps.push(run.interval),
                _ => self.passed.push(run.interval),
            }
            return;
        }
        let newest = run.opened_at;
        let past = self.runs.entry(run.interval).or_insert(Past {
            waiting: false,
            running: false,
            newest,
            data_only: run.data_only,
        });
        past.waiting |= run.state == RunState::Waiting;
        past.running |= run.state == RunState::Running;
        if newest > past.newest {
            (past.newest, past.data_only) = (newest, run.data_only);
        }
    }

    fn passed_over(&self, interval: Interval) -> bool {
        self.passed.iter().any(|p| p.start <= interval.start && interval.end <= p.end)
    }
}
