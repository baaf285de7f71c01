//! A schedule's way forward: over panes that hold data, from where it has come to as far as intervals are ready.

use super::{Before, Look, Moved, Question, first_start, floor_start, starts_from};
use fleetscore_schemas::status::RunCause;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{CatchUp, ScheduleRow, SkippedRange};

impl Look<'_> {
    /// Opens what has become ready, skips what a policy passes over and what holds nothing. The default where answers
    /// are missing.
    pub(super) fn forward(&mut self, schedule: &ScheduleRow) -> Moved {
        let Some((oldest, newest)) = self.facts.pane_range else { return Moved::default() };
        let Some(until) = self.horizon.until else {
            self.note_waiting(schedule, Timestamp(i64::MAX));
            return Moved::default();
        };
        let (w, pane) = (schedule.spec.window_us, self.facts.grid.len_us);
        let began = schedule.covered_until.or(schedule.first_interval);
        let mut way = Way {
            cursor: began.unwrap_or_else(|| first_start(schedule, pane, oldest)),
            first: schedule.first_interval,
            moved: Moved::default(),
        };
        self.leave_to_retention(schedule, &mut way);
        if self.pass_over(schedule, &mut way).is_none() {
            return Moved::default();
        }
        // Windows that end by the horizon hold panes that start before it; nothing starts after the newest pane.
        let end = until.min(newest.plus_us(1));
        if way.cursor < end && way.cursor.plus_us(w) <= until {
            let range = Interval { start: way.cursor, end };
            let limit = self.limits.scan;
            let Some(panes) = self.ask_panes(range, false, limit) else { return Moved::default() };
            if self.open_ready(schedule, &mut way, panes, until).is_none() {
                return Moved::default();
            }
            self.out.more |= panes.len() >= limit && way.moved.covered_until.is_some();
        }
        if way.cursor <= newest && way.cursor.plus_us(w) > until {
            self.note_waiting(schedule, way.cursor.plus_us(w));
        }
        way.moved
    }

    /// Opens the windows of these panes in order, with one row for each stretch of windows that hold none.
    fn open_ready(
        &mut self,
        schedule: &ScheduleRow,
        way: &mut Way,
        panes: &[Timestamp],
        until: Timestamp,
    ) -> Option<()> {
        let (w, h, pane) = (schedule.spec.window_us, schedule.spec.hop_us, self.facts.grid.len_us);
        let mut starts: Vec<Timestamp> = Vec::new();
        'panes: for p in panes {
            let from = starts.last().map_or(way.cursor, |s| s.plus_us(h));
            for s in starts_from(schedule, pane, *p, from) {
                if s.plus_us(w) > until {
                    self.note_waiting(schedule, s.plus_us(w));
                    break 'panes;
                }
                if starts.len() >= self.budget {
                    self.out.more = true;
                    break 'panes;
                }
                starts.push(s);
            }
        }
        let (Some(first), Some(last)) = (starts.first(), starts.last()) else { return Some(()) };
        // An interval has one open run: where a person's run is under way, the schedule comes after it.
        let busy = self.ask_runs(Question::Runs {
            schedule: schedule.spec.name.clone(),
            overlapping: Interval { start: *first, end: last.plus_us(w) },
            open: true,
        })?;
        let before = self.before;
        for s in starts {
            let interval = Interval::starting(s, w);
            if busy.iter().any(|r| r.interval == interval) {
                break;
            }
            if s > way.cursor && way.first.is_some() {
                let range = Interval { start: way.cursor, end: s.plus_us(w - h) };
                self.skip(schedule, range, RunCause::Gap, "nothing was sent in this range");
            }
            let cause = match before {
                Some(b) if b.holds(schedule, s) => RunCause::CatchUp,
                _ => RunCause::Schedule,
            };
            self.open(schedule, interval, cause, false);
            if way.first.is_none() {
                way.first = Some(s);
                way.moved.first_interval = Some(s);
            }
            way.cursor = s.plus_us(h);
            way.moved.covered_until = Some(way.cursor);
        }
        Some(())
    }

    /// Windows that cross the floor of retention are hidden: nothing can be scored there any more.
    fn leave_to_retention(&mut self, schedule: &ScheduleRow, way: &mut Way) {
        let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
        let Some(floor) = self.floor().filter(|floor| *floor > way.cursor) else { return };
        let next = floor_start(schedule, floor.0.saturating_add(h - 1));
        if way.first.is_some() {
            let range = Interval { start: way.cursor, end: next.plus_us(w - h) };
            self.skip(
                schedule,
                range,
                RunCause::CatchUp,
                "below the floor of retention before it was scored",
            );
            way.moved.covered_until = Some(next);
        }
        way.cursor = next;
    }

    /// What the policy passes over: one row up to the last window with data in it, and the way goes on behind.
    fn pass_over(&mut self, schedule: &ScheduleRow, way: &mut Way) -> Option<()> {
        let Some(before) = self.before else { return Some(()) };
        let (w, h, pane) = (schedule.spec.window_us, schedule.spec.hop_us, self.facts.grid.len_us);
        // The last window that was ready before the first look.
        let last_before = before.last_start(schedule);
        if last_before < way.cursor {
            return Some(());
        }
        let new = schedule.first_interval.is_none() && schedule.covered_until.is_none();
        let (mut passed, mut note) = match schedule.spec.catch_up {
            CatchUp::All => (None, ""),
            // A new schedule with this policy begins with what becomes ready after its creation.
            CatchUp::Latest if new => (Some(last_before), PASSED_NEW),
            CatchUp::None => (Some(last_before), if new { PASSED_NEW } else { PASSED_NONE }),
            CatchUp::Latest => {
                let range = Interval { start: way.cursor, end: last_before.plus_us(w) };
                let newest = self.newest_start(schedule, range, last_before)?;
                (newest.map(|s| s.plus_us(-h)), PASSED_LATEST)
            }
        };
        if let Some(aged) = self.too_old(schedule, way.cursor, last_before)?
            && passed.is_none_or(|p| p < aged)
        {
            (passed, note) = (Some(aged), PASSED_AGE);
        }
        let Some(passed) = passed.filter(|p| *p >= way.cursor) else { return Some(()) };
        let range = Interval { start: way.cursor, end: passed.plus_us(w) };
        // Without data in it, it is a gap like any other.
        let Some(last) = self.ask_panes(range, true, 1)?.first().copied() else { return Some(()) };
        let last = starts_from(schedule, pane, last, way.cursor).take_while(|s| *s <= passed).last();
        let last = last.unwrap_or(passed);
        let range = Interval { start: way.cursor, end: last.plus_us(w) };
        self.skip(schedule, range, RunCause::CatchUp, note);
        let next = last.plus_us(h);
        if way.first.is_none() {
            let first = if schedule.spec.catch_up == CatchUp::All { way.cursor } else { next };
            way.first = Some(first);
            way.moved.first_interval = Some(first);
        }
        way.cursor = next;
        way.moved.covered_until = Some(next);
        Some(())
    }

    /// The newest window with data that starts in the range, at or before `last`.
    fn newest_start(
        &mut self,
        schedule: &ScheduleRow,
        mut range: Interval,
        last: Timestamp,
    ) -> Option<Option<Timestamp>> {
        let (w, pane) = (schedule.spec.window_us, self.facts.grid.len_us);
        while range.start < range.end {
            let Some(newest) = self.ask_panes(range, true, 1)?.first().copied() else { return Some(None) };
            let held = starts_from(schedule, pane, newest, range.start).take_while(|s| *s <= last).last();
            if held.is_some() {
                return Some(held);
            }
            // Between two windows of a hop longer than they are: on to the window before.
            let end = floor_start(schedule, newest.0).plus_us(w);
            range.end = end.min(newest);
        }
        Some(None)
    }

    /// The last window that became ready longer than `max_age` ago, as far as that can be known: not before the clock
    /// passed its end by `max_disorder`, and not before the schedule opened its newest run.
    fn too_old(
        &mut self,
        schedule: &ScheduleRow,
        cursor: Timestamp,
        last_before: Timestamp,
    ) -> Option<Option<Timestamp>> {
        let Some(max_age) = schedule.spec.max_age_us else { return Some(None) };
        let limit = self.facts.progress.now.plus_us(-max_age);
        let settings = &self.facts.readiness;
        let latest = limit.0.saturating_sub(1 + settings.max_disorder_us + schedule.spec.window_us);
        let aged = floor_start(schedule, latest).min(last_before);
        if aged < cursor {
            return Some(None);
        }
        let name = schedule.spec.name.clone();
        let newest = self.ask_runs(Question::NewestRun { schedule: name })?;
        let still_ready = newest.iter().any(|r| r.opened_at >= limit);
        Some((!still_ready).then_some(aged))
    }

    fn skip(&mut self, schedule: &ScheduleRow, range: Interval, cause: RunCause, note: &str) {
        let run_id = (self.new_id)();
        let (schedule, note) = (schedule.spec.name.clone(), note.to_owned());
        self.out.plan.skipped.push(SkippedRange { run_id, schedule, range, cause, note });
    }

    fn note_waiting(&mut self, schedule: &ScheduleRow, end: Timestamp) {
        if let Some(why) = self.horizon.why_not(end) {
            let why = format!("{}: {why}", schedule.spec.name);
            self.out.waiting.get_or_insert(why);
        }
    }
}

const PASSED_NEW: &str = "ready before the schedule was made";
const PASSED_NONE: &str = "ready before the schedule looked: catch_up is none";
const PASSED_LATEST: &str = "ready before the schedule looked: catch_up is latest";
const PASSED_AGE: &str = "ready for longer than max_age";

/// Where a schedule has come to in this look.
struct Way {
    /// The next window to be decided starts here.
    cursor: Timestamp,
    first: Option<Timestamp>,
    moved: Moved,
}

impl Before {
    /// The last window that was ready and could hold data.
    fn last_start(&self, schedule: &ScheduleRow) -> Timestamp {
        let ready = self.until.0.saturating_sub(schedule.spec.window_us);
        floor_start(schedule, ready.min(self.newest_pane.0))
    }

    /// Whether the window that starts here was ready then.
    fn holds(&self, schedule: &ScheduleRow, start: Timestamp) -> bool {
        start <= self.last_start(schedule)
    }
}
