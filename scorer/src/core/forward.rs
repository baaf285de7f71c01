//! A schedule's way forward: over panes that hold data, from where it has come to as far as intervals are ready.

use super::open::Opening;
use super::pass::Standing;
use super::{HEARTBEAT_US, Look, Question, first_start, floor_start, starts_from};
use fleetscore_schemas::status::RunCause;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{Missed, ScheduleMove, ScheduleRow, Trigger};

/// Where a schedule has come to in this look.
pub(super) struct Way {
    /// The next window to be decided starts here.
    pub(super) cursor: Timestamp,
    pub(super) first: Option<Timestamp>,
    /// What was ready when a planner came back.
    pub(super) missed: Option<Missed>,
    pub(super) moved: ScheduleMove,
}

/// As far as data and readiness go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Intervals that end by here are ready.
    pub(super) until: Timestamp,
    /// Start of the newest pane.
    pub(super) newest: Timestamp,
}

impl Reach {
    /// The start of the last window that is ready and can hold data.
    pub(super) fn last_start(&self, schedule: &ScheduleRow) -> Timestamp {
        let ready = self.until.0.saturating_sub(schedule.spec.window_us);
        floor_start(schedule, ready.min(self.newest.0))
    }
}

/// Whether the window that starts here was ready when a planner came back.
fn holds(missed: &Missed, schedule: &ScheduleRow, start: Timestamp) -> bool {
    let reach = Reach { until: missed.until, newest: missed.newest_pane };
    start <= reach.last_start(schedule)
}

impl Look<'_> {
    /// Opens what has become ready, skips what a policy passes over and what holds nothing.
    pub(super) fn forward(&mut self, schedule: &ScheduleRow) -> ScheduleMove {
        let moved = ScheduleMove {
            name: schedule.spec.name.clone(),
            revision: schedule.revision,
            ..ScheduleMove::default()
        };
        let mut way = Way {
            cursor: Timestamp(i64::MIN),
            first: schedule.first_interval,
            missed: schedule.missed,
            moved,
        };
        // A person's alone. That nobody looks at it makes a miss of what is ready when that changes.
        if schedule.spec.trigger != Trigger::Manual {
            let since = |at: Timestamp| self.now().0.saturating_sub(at.0);
            way.moved.looked = schedule.looked_at.is_none_or(|at| since(at) >= HEARTBEAT_US);
            // `None`: an answer is missing, and this step is not the last one.
            self.go(schedule, &mut way);
        }
        way.moved
    }

    fn go(&mut self, schedule: &ScheduleRow, way: &mut Way) -> Option<()> {
        let due = self.due(schedule);
        let standing = Standing::of(schedule);
        let Some((oldest, newest)) = self.facts.pane_range else {
            self.nothing_to_release(schedule, way, due, standing.as_ref(), "nothing was sent yet");
            return Some(());
        };
        let Some(until) = self.horizon.until else {
            self.note_waiting(schedule, Timestamp(i64::MAX));
            self.nothing_to_release(schedule, way, due, standing.as_ref(), "nothing has been aggregated");
            return Some(());
        };
        let reach = Reach { until, newest };
        let began = schedule.covered_until.or(schedule.first_interval);
        way.cursor = began.unwrap_or_else(|| first_start(schedule, self.facts.grid.len_us, oldest));
        self.leave_to_retention(schedule, way);
        if standing.is_none() {
            self.note_missed(schedule, way, due, reach);
            self.pass_over(schedule, way)?;
        }
        let until = self.released(schedule, way, due, standing.as_ref(), reach)?.min(until);
        match standing {
            Some(standing) => self.stand(schedule, way, &standing, Reach { until, newest }),
            None => self.open_until(schedule, way, Reach { until, newest }),
        }
    }

    /// Opens what is ready and released.
    fn open_until(&mut self, schedule: &ScheduleRow, way: &mut Way, reach: Reach) -> Option<()> {
        let w = schedule.spec.window_us;
        // Windows that end by the horizon hold panes that start before it; nothing starts after the newest pane.
        let end = reach.until.min(reach.newest.plus_us(1));
        if way.cursor < end && way.cursor.plus_us(w) <= reach.until {
            let range = Interval { start: way.cursor, end };
            let limit = self.limits.scan;
            let panes = self.ask_panes(range, false, limit)?;
            let from = way.cursor;
            self.open_ready(schedule, way, panes, reach.until)?;
            self.out.more |= panes.len() >= limit && way.cursor > from;
        }
        if way.cursor <= reach.newest && way.cursor.plus_us(w) > reach.until {
            self.note_waiting(schedule, way.cursor.plus_us(w));
        }
        Some(())
    }

    /// Opens the windows of these panes in order, with one row for each stretch of windows that hold none.
    fn open_ready(
        &mut self,
        schedule: &ScheduleRow,
        way: &mut Way,
        panes: &[Timestamp],
        until: Timestamp,
    ) -> Option<()> {
        let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
        let starts = self.ready_starts(schedule, way.cursor, panes, until);
        let (Some(first), Some(last)) = (starts.first(), starts.last()) else { return Some(()) };
        // An interval has one open run: where a person's run is under way, the schedule comes after it.
        let busy = self.ask_runs(Question::Runs {
            schedule: schedule.spec.name.clone(),
            overlapping: Interval { start: *first, end: last.plus_us(w) },
            open: true,
        })?;
        for s in starts {
            let interval = Interval::starting(s, w);
            if busy.iter().any(|r| r.interval == interval) {
                break;
            }
            if s > way.cursor && way.first.is_some() {
                let range = Interval { start: way.cursor, end: s.plus_us(w - h) };
                self.skip(schedule, None, range, RunCause::Gap, "nothing was sent in this range");
            }
            let cause = match &way.missed {
                Some(missed) if holds(missed, schedule, s) => RunCause::CatchUp,
                _ => RunCause::Schedule,
            };
            self.open(schedule, Opening { interval, cause, data_only: false, stale: None });
            if way.first.is_none() {
                way.first = Some(s);
                way.moved.first_interval = Some(s);
            }
            way.cursor = s.plus_us(h);
            way.moved.covered_until = Some(way.cursor);
        }
        Some(())
    }

    /// Starts of the windows that hold these panes, as many as may be opened in this look.
    fn ready_starts(
        &mut self,
        schedule: &ScheduleRow,
        cursor: Timestamp,
        panes: &[Timestamp],
        until: Timestamp,
    ) -> Vec<Timestamp> {
        let (w, h, pane) = (schedule.spec.window_us, schedule.spec.hop_us, self.facts.grid.len_us);
        let mut starts: Vec<Timestamp> = Vec::new();
        for p in panes {
            let from = starts.last().map_or(cursor, |s| s.plus_us(h));
            for s in starts_from(schedule, pane, *p, from) {
                if s.plus_us(w) > until {
                    self.note_waiting(schedule, s.plus_us(w));
                    return starts;
                }
                if starts.len() >= self.budget {
                    self.out.more = true;
                    return starts;
                }
                starts.push(s);
            }
        }
        starts
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
                None,
                range,
                RunCause::CatchUp,
                "below the floor of retention before it was scored",
            );
            way.moved.covered_until = Some(next);
        }
        way.cursor = next;
    }

    /// What an interval with this end waits for, if it is not ready.
    pub(super) fn note_waiting(&mut self, schedule: &ScheduleRow, end: Timestamp) {
        if let Some(why) = self.horizon.why_not(end) {
            let why = format!("{}: {why}", schedule.spec.name);
            self.out.waiting.get_or_insert(why);
        }
    }
}
