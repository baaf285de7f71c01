//! The planner: which runs are opened, which ranges are skipped, which rows of the log are dealt with. Pure: it reads no
//! clock and no store. What it needs beyond the [`Facts`] of a look it asks for ([`Step::Ask`]), and is then called
//! again with the answers.
//!
//! A schedule goes *forward* over panes that hold data (never over empty intervals): [`forward`]. Changes of what is
//! behind it come by the log of changed panes: [`late`].

mod forward;
mod late;
#[cfg(test)]
mod tests;

pub(crate) use late::data_only;

use crate::models::misfit;
use crate::readiness::Horizon;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, PaneGrid, Timestamp, US_PER_S};
use fleetscore_store::{
    ChangedPane, NewRun, Plan, Progress, ReadinessSettings, RunRow, ScheduleMove, ScheduleRow,
};
use std::collections::HashMap;
use uuid::Uuid;

/// A look that lies further back than this says nothing about when an interval became ready.
const LOOK_GAP_US: i64 = 60 * US_PER_S;

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

/// What is known of the active model set.
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
    /// The run with the newest interval.
    NewestRun {
        /// The schedule.
        schedule: String,
    },
    /// Runs that wait for a model set.
    Waiting {
        /// Those of one schedule, or all.
        schedule: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// [`fleetscore_store::Store::stale_series`].
    Stale {
        /// The schedule.
        schedule: String,
        /// The interval.
        interval: Interval,
    },
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
}

/// What has been asked and answered in this look.
pub type Answers = HashMap<Question, Answer>;

/// What comes next in a look.
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
}

impl Decision {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        let p = &self.plan;
        p.seen.is_empty()
            && p.open.is_empty()
            && p.skipped.is_empty()
            && p.start.is_empty()
            && p.schedules.iter().all(|s| s.first_interval.is_none() && s.covered_until.is_none())
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

/// What the planner remembers between looks, and its bounds.
#[derive(Debug, Clone)]
pub struct Planner {
    limits: Limits,
    late: usize,
    last_look: Option<Timestamp>,
    before: Option<Before>,
}

/// What was there at the first look (or the first after a pause): intervals up to here count as ready before it.
#[derive(Debug, Clone, Copy)]
struct Before {
    /// The horizon of readiness.
    until: Timestamp,
    /// Start of the newest pane.
    newest_pane: Timestamp,
}

impl Planner {
    /// A planner that has not looked yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, late: limits.late, last_look: None, before: None }
    }

    /// How many rows of the log are to be read for the next look.
    pub fn log_limit(&self) -> usize {
        self.late.saturating_mul(16)
    }

    /// Begins a look: notes when it was, and what was ready before if the look before it lies too far back.
    pub fn look(&mut self, facts: &Facts) {
        let now = facts.progress.now;
        if self.last_look.is_none_or(|last| now.0.saturating_sub(last.0) > LOOK_GAP_US) {
            let horizon = Horizon::of(&facts.progress, &facts.readiness, facts.grid.edges);
            self.before = match (horizon.until, facts.pane_range) {
                (Some(until), Some((_, newest_pane))) => Some(Before { until, newest_pane }),
                _ => None,
            };
        }
        self.last_look = Some(now);
    }

    /// Notes how a look ended, to widen the next one where most of the log's head can only be left as it is.
    pub fn looked(&mut self, decision: &Decision) {
        let (considered, dealt) = decision.late;
        self.late = if decision.truncated && dealt * 2 < considered {
            (self.late * 2).min(1 << 16)
        } else {
            self.limits.late
        };
    }

    /// One step of a look. `new_id` makes ids of runs.
    pub fn step(&self, facts: &Facts, answers: &Answers, new_id: &mut dyn FnMut() -> Uuid) -> Step {
        let horizon = Horizon::of(&facts.progress, &facts.readiness, facts.grid.edges);
        let mut look = Look {
            facts,
            answers,
            horizon,
            before: self.before,
            limits: self.limits,
            new_id,
            asked: Vec::new(),
            budget: self.limits.open,
            out: Decision::default(),
        };
        for schedule in &facts.schedules {
            let moved = look.forward(schedule);
            look.out.plan.schedules.push(ScheduleMove {
                name: schedule.spec.name.clone(),
                revision: schedule.revision,
                first_interval: moved.first_interval,
                covered_until: moved.covered_until,
            });
        }
        look.late(self.late);
        look.out.truncated |= facts.changed.len() >= self.log_limit();
        look.out.more |= look.out.truncated && !look.out.plan.seen.is_empty();
        look.start_waiting();
        if look.asked.is_empty() {
            return Step::Done(look.out);
        }
        look.asked.dedup();
        Step::Ask(look.asked)
    }
}

/// How far a schedule moved in a look.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    first_interval: Option<Timestamp>,
    covered_until: Option<Timestamp>,
}

/// A look under way.
struct Look<'a> {
    facts: &'a Facts,
    answers: &'a Answers,
    horizon: Horizon,
    before: Option<Before>,
    limits: Limits,
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

    fn ask_stale(&mut self, schedule: &str, interval: Interval) -> Option<u64> {
        match self.ask(Question::Stale { schedule: schedule.to_owned(), interval })? {
            Answer::Stale(n) => Some(*n),
            _ => None,
        }
    }

    /// The floor of retention.
    fn floor(&self) -> Option<Timestamp> {
        self.facts.progress.floor()
    }

    /// The set that runs of a schedule are fixed to now, or why they wait.
    fn set_for(&self, schedule: &ScheduleRow) -> Result<i64, String> {
        let set = self.facts.active_set.as_ref().ok_or_else(|| NO_MODEL_SET.to_owned())?;
        match misfit(set.version, &set.features, &schedule.spec) {
            None => Ok(set.version),
            Some(why) => Err(why),
        }
    }

    /// A run of an interval that is ready, fixed to the active model set; waiting where there is none that fits.
    fn open(
        &mut self,
        schedule: &ScheduleRow,
        interval: Interval,
        cause: fleetscore_schemas::status::RunCause,
        data_only: bool,
    ) {
        let ignored = self.horizon.ignored(interval.end);
        let mut notes = Vec::new();
        let model_set = self.set_for(schedule).map_err(|why| notes.push(why)).ok();
        if !ignored.is_empty() {
            notes.push(format!(
                "not waited for, as nobody has owned it for longer than max_wait: {}",
                ignored.join(", ")
            ));
        }
        let run = NewRun {
            run_id: (self.new_id)(),
            schedule: schedule.spec.name.clone(),
            interval,
            cause,
            model_set,
            data_only,
            note: (!notes.is_empty()).then(|| notes.join("; ")),
        };
        self.out.plan.open.push(run);
        self.budget = self.budget.saturating_sub(1);
        if self.budget == 0 {
            self.out.more = true;
        }
    }

    /// Runs that wait for a model set start when there is one that fits their schedule.
    fn start_waiting(&mut self) {
        let facts = self.facts;
        let Some(active) = &facts.active_set else {
            if !self.out.plan.open.is_empty() || self.out.waiting.is_none() && facts.pane_range.is_some() {
                self.out.waiting = Some(NO_MODEL_SET.to_owned());
            }
            return;
        };
        let (fits, others): (Vec<_>, Vec<_>) = facts.schedules.iter().partition(|s| self.set_for(s).is_ok());
        if facts.pane_range.is_some()
            && let Some(Err(why)) = others.first().map(|s| self.set_for(s))
        {
            // Before what solves itself: this a person must mend.
            self.out.waiting = Some(why);
        }
        if others.is_empty() {
            self.start_these(None, active.version);
        } else {
            // One by one, or those that go on waiting would hide the ones that can start.
            for schedule in fits {
                self.start_these(Some(schedule.spec.name.clone()), active.version);
            }
        }
    }

    fn start_these(&mut self, schedule: Option<String>, version: i64) {
        let limit = self.limits.open;
        let Some(waiting) = self.ask_runs(Question::Waiting { schedule, limit }) else { return };
        let due = waiting.iter().filter(|r| r.state == RunState::Waiting);
        self.out.plan.start.extend(due.map(|r| (r.run_id, version)));
        self.out.more |= waiting.len() >= limit;
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
