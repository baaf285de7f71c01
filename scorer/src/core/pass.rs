//! What a schedule passes over: by its policies what was ready while nobody looked, and what becomes ready while it stands
//! still. One row for each range, and it stays skipped.

use super::forward::{Reach, Way};
use super::{Look, Question, floor_start, starts_from};
use fleetscore_cron::Due;
use fleetscore_schemas::status::{RunCause, RunState};
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{CatchUp, Missed, ScheduleRow, Trigger};
use uuid::Uuid;

const PASSED_NEW: &str = "ready before the schedule was made";
const PASSED_NONE: &str = "ready before the schedule looked: catch_up is none";
const PASSED_LATEST: &str = "ready before the schedule looked: catch_up is latest";
const PASSED_AGE: &str = "ready for longer than max_age";
const PASSED_RUNS: &str = "beyond max_runs";
/// Why a schedule that is off in its settings does nothing.
pub(super) const DISABLED: &str = "the schedule is disabled";

/// Why a schedule stands still.
pub(super) struct Standing {
    /// Id of the row that says what it passes over; where there is none, it is the row behind which it stands.
    id: Option<Uuid>,
    pub(super) note: String,
}

impl Standing {
    /// A person's pause, else its settings.
    pub(super) fn of(schedule: &ScheduleRow) -> Option<Self> {
        if let Some(pause) = &schedule.pause {
            let note = format!("paused by {} since {}", pause.by, pause.at);
            return Some(Self { id: Some(pause.id), note });
        }
        (!schedule.spec.enabled).then(|| Self { id: None, note: DISABLED.to_owned() })
    }
}

impl Look<'_> {
    /// Where nobody has looked for a while, what is ready now was missed. With cron it is what a fire would have released
    /// that nobody made; a new schedule has missed all that was ready before it.
    pub(super) fn note_missed(
        &mut self,
        schedule: &ScheduleRow,
        way: &mut Way,
        due: Option<Due>,
        reach: Reach,
    ) {
        if !self.nobody_looked(schedule) {
            return;
        }
        let new = schedule.first_interval.is_none() && schedule.covered_until.is_none();
        let ready = reach.last_start(schedule).plus_us(schedule.spec.window_us);
        let until = match (&schedule.spec.trigger, due) {
            (Trigger::Cron { .. }, Some(due)) if !new => ready.min(due.last),
            (Trigger::Cron { .. }, None) if !new => return,
            _ => ready,
        };
        if until.plus_us(-schedule.spec.window_us) < way.cursor {
            return;
        }
        // Of an outage before this one something may be left.
        let before = schedule.missed;
        let missed = Missed {
            until: before.map_or(until, |b| b.until.max(until)),
            newest_pane: before.map_or(reach.newest, |b| b.newest_pane.max(reach.newest)),
        };
        way.missed = Some(missed);
        way.moved.missed = Some(missed);
    }

    /// What the policies pass over of what was missed: one row up to the last window with data in it, and the way goes on
    /// behind.
    pub(super) fn pass_over(&mut self, schedule: &ScheduleRow, way: &mut Way) -> Option<()> {
        let Some(missed) = way.missed else { return Some(()) };
        let reach = Reach { until: missed.until, newest: missed.newest_pane };
        let last = reach.last_start(schedule);
        if last < way.cursor {
            return Some(());
        }
        let new = schedule.first_interval.is_none() && schedule.covered_until.is_none();
        let mut passed: Option<(Timestamp, &str)> = match schedule.spec.catch_up {
            // A new schedule with such a policy begins with what becomes ready after its creation.
            CatchUp::Latest | CatchUp::None if new => Some((last, PASSED_NEW)),
            CatchUp::None => Some((last, PASSED_NONE)),
            CatchUp::Latest => {
                self.before_newest(schedule, way.cursor, last, 1)?.map(|passed| (passed, PASSED_LATEST))
            }
            CatchUp::All => None,
        };
        let aged = self.too_old(schedule, last).map(|aged| (aged, PASSED_AGE));
        let beyond = match (schedule.spec.catch_up, schedule.spec.max_runs) {
            (CatchUp::All, Some(n)) => {
                self.before_newest(schedule, way.cursor, last, n)?.map(|passed| (passed, PASSED_RUNS))
            }
            _ => None,
        };
        for other in [aged, beyond].into_iter().flatten() {
            // The one that reaches furthest says why.
            if passed.is_none_or(|(until, _)| until < other.0) {
                passed = Some(other);
            }
        }
        match passed {
            Some((passed, note)) => self.pass(schedule, way, passed, RunCause::CatchUp, None, note),
            None => Some(()),
        }
    }

    /// While a schedule stands still, what is ready (with cron: released) is passed over, in one row that grows.
    pub(super) fn stand(
        &mut self,
        schedule: &ScheduleRow,
        way: &mut Way,
        standing: &Standing,
        reach: Reach,
    ) -> Option<()> {
        let last = reach.last_start(schedule);
        if last < way.cursor || self.last_with_data(schedule, way.cursor, last)?.is_none() {
            return Some(());
        }
        let id = match standing.id {
            Some(id) => Some(id),
            None => self.row_before(schedule, way.cursor, &standing.note)?,
        };
        self.pass(schedule, way, last, RunCause::Paused, id, &standing.note)
    }

    /// The row of this note that ends where the cursor stands.
    fn row_before(&mut self, schedule: &ScheduleRow, cursor: Timestamp, note: &str) -> Option<Option<Uuid>> {
        let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
        let before = self.ask_runs(Question::Runs {
            schedule: schedule.spec.name.clone(),
            overlapping: Interval { start: cursor.plus_us(-h), end: cursor },
            open: false,
        })?;
        let grows = before.iter().find(|r| {
            r.state == RunState::Skipped
                && r.cause == RunCause::Paused
                && r.error.as_deref() == Some(note)
                && r.interval.end == cursor.plus_us(w - h)
        });
        Some(grows.map(|r| r.run_id))
    }

    /// One row from the cursor to the last window with data at or before `passed`; the way goes on behind it. Without
    /// data it is a gap like any other.
    fn pass(
        &mut self,
        schedule: &ScheduleRow,
        way: &mut Way,
        passed: Timestamp,
        cause: RunCause,
        id: Option<Uuid>,
        note: &str,
    ) -> Option<()> {
        if passed < way.cursor {
            return Some(());
        }
        let Some(last) = self.last_with_data(schedule, way.cursor, passed)? else { return Some(()) };
        let range = Interval { start: way.cursor, end: last.plus_us(schedule.spec.window_us) };
        self.skip(schedule, id, range, cause, note);
        let next = last.plus_us(schedule.spec.hop_us);
        if way.first.is_none() {
            let first = if schedule.spec.catch_up == CatchUp::All { way.cursor } else { next };
            way.first = Some(first);
            way.moved.first_interval = Some(first);
        }
        way.cursor = next;
        way.moved.covered_until = Some(next);
        Some(())
    }

    /// The last window with data that starts in `[cursor, passed]`; `passed` itself where they lie between windows.
    pub(super) fn last_with_data(
        &mut self,
        schedule: &ScheduleRow,
        cursor: Timestamp,
        passed: Timestamp,
    ) -> Option<Option<Timestamp>> {
        let range = Interval { start: cursor, end: passed.plus_us(schedule.spec.window_us) };
        let Some(pane) = self.ask_panes(range, true, 1)?.first().copied() else { return Some(None) };
        let held = starts_from(schedule, self.facts.grid.len_us, pane, cursor).take_while(|s| *s <= passed);
        Some(Some(held.last().unwrap_or(passed)))
    }

    /// The window before the `n` newest ones with data that start in `[cursor, last]`; `None` where there are no more than
    /// so many.
    fn before_newest(
        &mut self,
        schedule: &ScheduleRow,
        cursor: Timestamp,
        last: Timestamp,
        n: u32,
    ) -> Option<Option<Timestamp>> {
        let (w, h, pane) = (schedule.spec.window_us, schedule.spec.hop_us, self.facts.grid.len_us);
        let limit = self.limits.scan.min(n as usize);
        // All windows from here on are counted.
        let mut counted = last.plus_us(h);
        let mut end = last.plus_us(w);
        let mut left = n;
        if left == 0 {
            return Some(Some(last));
        }
        while cursor < end {
            let panes = self.ask_panes(Interval { start: cursor, end }, true, limit)?;
            for p in panes {
                let held: Vec<Timestamp> =
                    starts_from(schedule, pane, *p, cursor).take_while(|s| *s < counted).collect();
                for s in held.into_iter().rev() {
                    counted = s;
                    left -= 1;
                    if left == 0 {
                        return Some(Some(s.plus_us(-h)));
                    }
                }
            }
            let Some(lowest) = panes.last().filter(|_| panes.len() >= limit) else { return Some(None) };
            // The windows before the counted ones hold nothing at or after the lowest pane.
            end = (*lowest).min(counted.plus_us(w - h));
        }
        Some(None)
    }

    /// The last window that became ready longer than `max_age` ago, as far as that can be known: not before the clock
    /// passed its end by `max_disorder`, and not before somebody looked.
    fn too_old(&self, schedule: &ScheduleRow, last: Timestamp) -> Option<Timestamp> {
        let limit = self.now().plus_us(-schedule.spec.max_age_us?);
        if !self.nobody_looked(schedule) || schedule.looked_at.is_some_and(|at| at >= limit) {
            return None;
        }
        let settings = &self.facts.readiness;
        let latest = limit.0.saturating_sub(1 + settings.max_disorder_us + schedule.spec.window_us);
        Some(floor_start(schedule, latest).min(last))
    }

    /// A pause is said where nothing else is waited for.
    pub(super) fn note_paused(&mut self) {
        if self.out.waiting.is_some() {
            return;
        }
        let paused = self.facts.schedules.iter().filter(|s| s.pause.is_some());
        let mut said = paused.filter_map(|s| Some(format!("{}: {}", s.spec.name, Standing::of(s)?.note)));
        self.out.waiting = said.next();
    }
}
