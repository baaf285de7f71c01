//! The planner: which runs are opened, which ranges are skipped, which fires are made, which rows of the log are dealt with.
//! Pure: it reads no clock and no store. What it needs beyond the [`Facts`] of a look it asks for ([`Step::Ask`]), and is
//! then called again with the answers.
//!
//! A schedule goes *forward* over panes that hold data (never over empty intervals): [`forward`]. What was ready while
//! nobody looked, or while it stood still, is passed over by its policies: [`pass`]. With cron its fires let it go on:
//! [`fires`]. Changes of what is behind it come by the log of changed panes: [`late`].
//!
//! There is no leader: planners of all processes look, and what one of them must know of the others is in the schedule's
//! row ([`ScheduleRow::looked_at`], [`ScheduleRow::missed`]).

#[cfg(test)]
mod fire_tests;
mod fires;
mod forward;
mod late;
#[cfg(test)]
mod look_tests;
mod open;
mod pass;
#[cfg(test)]
mod stale_tests;
#[cfg(test)]
mod standing_tests;
#[cfg(test)]
mod tests;

pub(crate) use late::{data_only, set_of};

use crate::readiness::Horizon;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::RunCause;
use fleetscore_schemas::time::{Interval, PaneGrid, Timestamp, US_PER_S};
use fleetscore_store::{
    ChangedPane, Plan, Progress, ReadinessSettings, RunRow, ScheduleRow, SkippedRange, Trigger,
};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Where no planner has looked for longer than this, nobody knows when an interval became ready.
const LOOK_GAP_US: i64 = 60 * US_PER_S;
/// How often the row says that somebody looks.
const HEARTBEAT_US: i64 = 10 * US_PER_S;
/// Late intervals asked about in one look: each may cost a pass over the fleet, and what is ready now is committed only
/// when the look ends.
const LATE_ASKED: usize = 4;

/// What every look begins with.
#[derive(Debug, Clone)]
pub struct Facts {
    /// All schedules.
    pub schedules: Vec<ScheduleRow>,
    /// The panes' grid.
    pub grid: PaneGrid,
    /// Positions and watermarks, with the store's clock. Must be read before `changed`.
    pub progress: Progress,
    /// What readiness is judged by.
    pub readiness: ReadinessSettings,
    /// Starts of the oldest and the newest pane.
    pub pane_range: Option<(Timestamp, Timestamp)>,
    /// The head of the log of changed panes, at most [`Planner::log_limit`] rows.
    pub changed: Vec<ChangedPane>,
    /// The active model set.
    pub active_set: Option<ActiveSet>,
}

/// What is known of a model set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveSet {
    /// Its version.
    pub version: i64,
    /// The window columns that its models take, in order.
    pub features: Vec<String>,
}

/// What the planner asks the store for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// [`fleetscore_store::Store::panes`].
    Panes {
        /// Where panes start.
        range: Interval,
        /// From the newest back.
        newest_first: bool,
        /// At most so many.
        limit: usize,
    },
    /// Runs of a schedule that overlap a range, in any state or in the open ones.
    Runs {
        /// The schedule.
        schedule: String,
        /// The range.
        overlapping: Interval,
        /// Waiting and running ones alone.
        open: bool,
    },
    /// Open runs that the schedule opened by itself, at most one.
    Unfinished {
        /// The schedule.
        schedule: String,
    },
    /// Re-scores that were opened since, whether or not they are over.
    Rescores {
        /// The schedule.
        schedule: String,
        /// By the store's clock.
        since: Timestamp,
        /// At most so many.
        limit: usize,
    },
    /// Runs that wait for a model set.
    Waiting {
        /// Those of one schedule, or all.
        schedule: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// [`fleetscore_store::Store::stale_series`], of the series that the schedule scores.
    Stale {
        /// The schedule.
        schedule: String,
        /// Its filter of series.
        series: Option<String>,
        /// The interval.
        interval: Interval,
    },
    /// Whether the interval has any prediction.
    Scored {
        /// The schedule.
        schedule: String,
        /// The interval.
        interval: Interval,
    },
    /// [`fleetscore_store::Store::model_set`].
    Set(i64),
    /// [`fleetscore_store::Store::last_series`].
    LastSeries,
}

/// What the store says.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Question::Panes`].
    Panes(Vec<Timestamp>),
    /// To the questions for runs.
    Runs(Vec<RunRow>),
    /// To [`Question::Stale`].
    Stale(u64),
    /// To [`Question::Scored`].
    Scored(bool),
    /// To [`Question::Set`].
    Set(Option<ActiveSet>),
    /// To [`Question::LastSeries`].
    LastSeries(SeriesId),
}

/// What has been asked and answered in this look.
pub type Answers = HashMap<Question, Answer>;

/// What comes next in a look.
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Answer these and call again.
    Ask(Vec<Question>),
    /// Commit this.
    Done(Decision),
}

/// What a look decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// The transaction; [`Decision::is_empty`] = nothing to commit.
    pub plan: Plan,
    /// There is more to do at once.
    pub more: bool,
    /// What schedules wait for, in words.
    pub waiting: Option<String>,
    /// How many distinct late panes were considered, and how many of them were dealt with.
    pub late: (usize, usize),
    /// Whether late panes or log rows were left out for their number.
    pub truncated: bool,
    /// Late intervals for which nothing is to be done, while their log rows stay for others.
    settled: Settled,
}

/// Of a window of a schedule, the log rows for which nothing is to be done: asked about once they were read.
type Settled = HashMap<(String, Interval), HashSet<i64>>;

impl Decision {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        let p = &self.plan;
        p.seen.is_empty()
            && p.open.is_empty()
            && p.skipped.is_empty()
            && p.fires.is_empty()
            && p.start.is_empty()
            && p.schedules.iter().all(|s| {
                !s.looked
                    && s.first_interval.is_none()
                    && s.covered_until.is_none()
                    && s.missed.is_none()
                    && s.fired_at.is_none()
                    && s.released_until.is_none()
            })
    }
}

/// Bounds of one look.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Runs opened in one transaction.
    pub open: usize,
    /// Panes read ahead for one schedule.
    pub scan: usize,
    /// Distinct late panes considered; grows while most of them can only be left.
    pub late: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { open: 256, scan: 512, late: 256 }
    }
}

/// What the planner remembers between looks, and its bounds. Nothing that a decision depends on: a look of another process
/// is as good, only that it asks again what this one knows.
#[derive(Debug, Clone)]
pub struct Planner {
    limits: Limits,
    late: usize,
    settled: Settled,
}

impl Planner {
    /// A planner that has not looked yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, late: limits.late, settled: Settled::new() }
    }

    /// How many rows of the log are to be read for the next look.
    pub fn log_limit(&self) -> usize {
        self.late.saturating_mul(16)
    }

    /// Notes how a look ended, to widen the next one where most of the log's head can only be left as it is.
    pub fn looked(&mut self, decision: &Decision) {
        let (considered, dealt) = decision.late;
        self.late = if decision.truncated && dealt * 2 < considered {
            (self.late * 2).min(1 << 16)
        } else {
            self.limits.late
        };
        self.settled.clone_from(&decision.settled);
    }

    /// One step of a look. `new_id` makes ids of runs.
    pub fn step(&self, facts: &Facts, answers: &Answers, new_id: &mut dyn FnMut() -> Uuid) -> Step {
        let horizon = Horizon::of(&facts.progress, &facts.readiness, facts.grid.edges);
        let mut look = Look {
            facts,
            answers,
            horizon,
            limits: self.limits,
            settled: &self.settled,
            new_id,
            asked: Vec::new(),
            budget: self.limits.open,
            out: Decision::default(),
        };
        for schedule in &facts.schedules {
            let moved = look.forward(schedule);
            look.out.plan.schedules.push(moved);
        }
        look.late(self.late);
        look.out.truncated |= facts.changed.len() >= self.log_limit();
        look.out.more |= look.out.truncated && !look.out.plan.seen.is_empty();
        look.start_waiting();
        look.note_paused();
        if look.asked.is_empty() {
            look.beat();
            return Step::Done(look.out);
        }
        look.asked.dedup();
        Step::Ask(look.asked)
    }
}

/// A look under way.
struct Look<'a> {
    facts: &'a Facts,
    answers: &'a Answers,
    horizon: Horizon,
    limits: Limits,
    settled: &'a Settled,
    new_id: &'a mut dyn FnMut() -> Uuid,
    asked: Vec<Question>,
    budget: usize,
    out: Decision,
}

impl<'a> Look<'a> {
    /// The answer, or `None` and the question is noted.
    fn ask(&mut self, question: Question) -> Option<&'a Answer> {
        let answer = self.answers.get(&question);
        if answer.is_none() {
            self.asked.push(question);
        }
        answer
    }

    fn ask_panes(&mut self, range: Interval, newest_first: bool, limit: usize) -> Option<&'a [Timestamp]> {
        match self.ask(Question::Panes { range, newest_first, limit })? {
            Answer::Panes(panes) => Some(panes),
            _ => None,
        }
    }

    fn ask_runs(&mut self, question: Question) -> Option<&'a [RunRow]> {
        match self.ask(question)? {
            Answer::Runs(runs) => Some(runs),
            _ => None,
        }
    }

    fn ask_stale(&mut self, schedule: &ScheduleRow, interval: Interval) -> Option<u64> {
        let (schedule, series) = (schedule.spec.name.clone(), schedule.spec.series.clone());
        match self.ask(Question::Stale { schedule, series, interval })? {
            Answer::Stale(n) => Some(*n),
            _ => None,
        }
    }

    fn ask_scored(&mut self, schedule: &str, interval: Interval) -> Option<bool> {
        match self.ask(Question::Scored { schedule: schedule.to_owned(), interval })? {
            Answer::Scored(any) => Some(*any),
            _ => None,
        }
    }

    /// Whether this late interval may be asked about in this look; the others have the next one.
    fn may_ask(&mut self, schedule: &ScheduleRow, interval: Interval) -> bool {
        let of = |question: &Question| match question {
            Question::Stale { schedule, interval, .. } | Question::Scored { schedule, interval } => {
                Some((schedule.clone(), *interval))
            }
            _ => None,
        };
        let asked: HashSet<_> = self.answers.keys().chain(&self.asked).filter_map(of).collect();
        let may = asked.len() < LATE_ASKED || asked.contains(&(schedule.spec.name.clone(), interval));
        self.out.more |= !may;
        may
    }

    /// Whatever is committed also says that somebody looks.
    fn beat(&mut self) {
        if self.out.is_empty() {
            return;
        }
        for (schedule, moved) in self.facts.schedules.iter().zip(&mut self.out.plan.schedules) {
            moved.looked |= schedule.spec.trigger != Trigger::Manual;
        }
    }

    /// A model set, as the registry has it; without a question where it is the active one.
    fn ask_set(&mut self, version: i64) -> Option<Option<&'a ActiveSet>> {
        let facts = self.facts;
        if let Some(active) = facts.active_set.as_ref().filter(|a| a.version == version) {
            return Some(Some(active));
        }
        match self.ask(Question::Set(version))? {
            Answer::Set(set) => Some(set.as_ref()),
            _ => None,
        }
    }

    /// The floor of retention.
    fn floor(&self) -> Option<Timestamp> {
        self.facts.progress.floor()
    }

    /// The store's clock.
    fn now(&self) -> Timestamp {
        self.facts.progress.now
    }

    /// Whether no planner, of whichever process, has looked at this schedule for a while.
    fn nobody_looked(&self, schedule: &ScheduleRow) -> bool {
        let since = |at: Timestamp| self.now().0.saturating_sub(at.0);
        schedule.looked_at.is_none_or(|at| since(at) > LOOK_GAP_US)
    }

    fn skip(
        &mut self,
        schedule: &ScheduleRow,
        id: Option<Uuid>,
        range: Interval,
        cause: RunCause,
        note: &str,
    ) {
        let run_id = id.unwrap_or_else(|| (self.new_id)());
        let (schedule, note) = (schedule.spec.name.clone(), note.to_owned());
        self.out.plan.skipped.push(SkippedRange { run_id, schedule, range, cause, note });
    }
}

/// Why a run waits while no model set is active.
pub const NO_MODEL_SET: &str = "no model set is active: import or train one";

/// Starts of a schedule's windows that hold this pane and start at or after `from`, ascending.
fn starts_from(
    schedule: &ScheduleRow,
    pane_us: i64,
    pane: Timestamp,
    from: Timestamp,
) -> impl Iterator<Item = Timestamp> {
    let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
    let all = fleetscore_schemas::time::windows_covering(pane, pane_us, w, h);
    all.filter(move |s| *s >= from)
}

/// The first start of a window, on the hop's grid, at or after which every window that holds this pane starts.
fn first_start(schedule: &ScheduleRow, pane_us: i64, pane: Timestamp) -> Timestamp {
    let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
    Timestamp(-(-(pane.0 + pane_us - w)).div_euclid(h) * h)
}

/// The last start on the hop's grid at or before this time.
fn floor_start(schedule: &ScheduleRow, t: i64) -> Timestamp {
    let h = schedule.spec.hop_us;
    Timestamp(t.div_euclid(h).saturating_mul(h))
}
