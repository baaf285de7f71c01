//! Fires of cron schedules: each lets the schedule go on to what is ready, or is a row that says why not.

use super::forward::{Reach, Way};
use super::pass::Standing;
use super::{LOOK_GAP_US, Look, Question};
use fleetscore_cron::{self as cron, Due};
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{Fire, ScheduleRow, Trigger};

/// Why a fire opened nothing: nobody was there.
const MISSED: &str = "missed: no scheduler was running";
/// Why a fire opened nothing: what the one before opened is not over.
const BUSY: &str = "the previous fire's runs are still open";

/// The time up to which fires have been dealt with. The schedule's creation is none; nor is a time of an expression that
/// was another one while somebody looked.
fn dealt_until(schedule: &ScheduleRow) -> Timestamp {
    // A look takes a moment from the reading of the clock to its commit: fires in between are still to come.
    let looked = schedule.looked_at.map(|at| at.plus_us(-LOOK_GAP_US));
    schedule
        .created_at
        .max(schedule.fired_at.unwrap_or(schedule.created_at))
        .max(looked.unwrap_or(schedule.created_at))
}

impl Look<'_> {
    /// Fires that are to be made or accounted for now.
    pub(super) fn due(&mut self, schedule: &ScheduleRow) -> Option<Due> {
        let Trigger::Cron { expression, time_zone } = &schedule.spec.trigger else { return None };
        match cron::due(expression, time_zone, dealt_until(schedule), self.now()) {
            Ok(due) => due,
            Err(e) => {
                let why = format!("{}: {e}", schedule.spec.name);
                self.out.waiting.get_or_insert(why);
                None
            }
        }
    }

    /// Fires where nothing can be ready.
    pub(super) fn nothing_to_release(
        &mut self,
        schedule: &ScheduleRow,
        way: &mut Way,
        due: Option<Due>,
        standing: Option<&Standing>,
        why: &str,
    ) {
        let Some(due) = due else { return };
        let reason = match standing {
            Some(standing) => standing.note.clone(),
            None if self.nobody_looked(schedule) => MISSED.to_owned(),
            None => format!("not ready: {why}"),
        };
        self.fire(schedule, way, due, Some(reason));
    }

    /// Up to which end intervals may be opened (or, where the schedule stands still, passed over): always where it has
    /// no fires, else what fires have released, the ones due now included.
    pub(super) fn released(
        &mut self,
        schedule: &ScheduleRow,
        way: &mut Way,
        due: Option<Due>,
        standing: Option<&Standing>,
        reach: Reach,
    ) -> Option<Timestamp> {
        if !matches!(schedule.spec.trigger, Trigger::Cron { .. }) {
            return Some(Timestamp(i64::MAX));
        }
        let before = schedule.released_until.unwrap_or(Timestamp(i64::MIN));
        let Some(due) = due else { return Some(before) };
        let last = reach.last_start(schedule);
        let ready = (last >= way.cursor).then(|| last.plus_us(schedule.spec.window_us));
        let (reason, release) = if let Some(standing) = standing {
            (Some(standing.note.clone()), ready)
        } else if self.nobody_looked(schedule) {
            (Some(MISSED.to_owned()), way.missed.map(|m| m.until))
        } else if self.unfinished(schedule)? {
            (Some(BUSY.to_owned()), None)
        } else {
            match self.not_ready(schedule, way, last)? {
                Some(why) => (Some(format!("not ready: {why}")), None),
                None => (None, ready),
            }
        };
        self.fire(schedule, way, due, reason);
        way.moved.released_until = release.filter(|r| *r > before);
        Some(release.map_or(before, |r| r.max(before)))
    }

    fn fire(&mut self, schedule: &ScheduleRow, way: &mut Way, due: Due, reason: Option<String>) {
        way.moved.fired_at = Some(due.last);
        self.out.plan.fires.push(Fire {
            schedule: schedule.spec.name.clone(),
            at: due.first,
            last: due.last,
            fires: due.fires,
            reason,
        });
    }

    /// Whether something that the schedule opened is not over.
    fn unfinished(&mut self, schedule: &ScheduleRow) -> Option<bool> {
        let open = self.ask_runs(Question::Unfinished { schedule: schedule.spec.name.clone() })?;
        Some(!open.is_empty())
    }

    /// Why there is nothing to open; `None` if there is.
    fn not_ready(&mut self, schedule: &ScheduleRow, way: &Way, last: Timestamp) -> Option<Option<String>> {
        if last < way.cursor {
            let why = self.horizon.why_not(way.cursor.plus_us(schedule.spec.window_us));
            return Some(Some(why.unwrap_or_else(|| format!("nothing was sent since {}", way.cursor))));
        }
        let data = self.last_with_data(schedule, way.cursor, last)?;
        Some(data.is_none().then(|| format!("nothing was sent since {}", way.cursor)))
    }
}
