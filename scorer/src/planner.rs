//! The planner's shell: gathers what [`crate::core`] needs, commits what it decides.

use crate::backoff::Backoff;
use crate::core::{ActiveSet, Answer, Answers, Decision, Facts, Limits, Planner, Question, Step};
use crate::error::ScorerError;
use crate::filters::Filters;
use fleetscore_schemas::status::{RunCause, RunScope, RunState};
use fleetscore_schemas::time::Interval;
use fleetscore_store::{Outcome, ReadinessSettings, Result, RunFilter, SeriesRange, Store};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How one look ended.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Runs opened or started: there is work.
    pub(crate) opened: usize,
    /// Look again at once.
    pub(crate) more: bool,
    /// Another planner committed first: look again soon.
    pub(crate) fenced: bool,
    /// What schedules wait for.
    pub(crate) waiting: Option<String>,
}

/// Looks at schedules and panes, one transaction a look.
pub(crate) struct Looker {
    store: Arc<dyn Store>,
    readiness: ReadinessSettings,
    planner: Planner,
    filters: Filters,
}

impl Looker {
    pub(crate) fn new(store: Arc<dyn Store>, readiness: ReadinessSettings, limits: Limits) -> Self {
        Self { store, readiness, planner: Planner::new(limits), filters: Filters::default() }
    }

    /// One look.
    pub(crate) async fn look(&mut self) -> Result<Looked> {
        let Some(facts) = self.facts().await? else {
            let waiting = Some("nothing has been aggregated yet".to_owned());
            return Ok(Looked { waiting, ..Looked::default() });
        };
        let decision = self.decide(&facts).await?;
        self.planner.looked(&decision);
        let mut looked =
            Looked { more: decision.more, waiting: decision.waiting.clone(), ..Looked::default() };
        if decision.is_empty() {
            return Ok(looked);
        }
        match self.store.plan(&decision.plan).await? {
            Outcome::Done => looked.opened = decision.plan.open.len() + decision.plan.start.len(),
            // Another planner was faster: what it left is decided anew.
            Outcome::Fenced => looked.fenced = true,
        }
        Ok(looked)
    }

    /// Progress is read before the log, and everything that is asked for later after it: a pane that is missing from
    /// an answer has its log row still to come.
    async fn facts(&self) -> Result<Option<Facts>> {
        let store = &self.store;
        let Some(settings) = store.pane_settings().await? else { return Ok(None) };
        let progress = store.progress().await?;
        let changed = store.changed_panes(self.planner.log_limit()).await?;
        let schedules = store.schedules().await?;
        let pane_range = store.pane_range().await?;
        let active = store.active_model_set().await?;
        Ok(Some(Facts {
            schedules,
            grid: settings.grid(),
            progress,
            readiness: self.readiness,
            pane_range,
            changed,
            active_set: active.map(|s| ActiveSet { version: s.version, features: s.features }),
        }))
    }

    async fn decide(&self, facts: &Facts) -> Result<Decision> {
        let mut answers = Answers::new();
        loop {
            match self.planner.step(facts, &answers, &mut Uuid::now_v7) {
                Step::Done(decision) => return Ok(decision),
                Step::Ask(questions) => {
                    for question in questions {
                        if answers.contains_key(&question) {
                            continue;
                        }
                        let answer = self.answer(&question).await?;
                        answers.insert(question, answer);
                    }
                }
            }
        }
    }

    async fn answer(&self, question: &Question) -> Result<Answer> {
        let store = &self.store;
        let waiting = || vec![RunState::Waiting];
        Ok(match question {
            Question::Panes { range, newest_first, limit } => {
                Answer::Panes(store.panes(*range, *newest_first, *limit).await?)
            }
            Question::Stale { schedule, series, interval } => {
                Answer::Stale(self.stale(schedule, series.as_deref(), *interval).await?)
            }
            Question::Runs { schedule, overlapping, open } => {
                let states = if *open { vec![RunState::Waiting, RunState::Running] } else { vec![] };
                let schedule = Some(schedule.clone());
                let overlapping = Some(*overlapping);
                let filter = RunFilter { schedule, states, overlapping, ..RunFilter::default() };
                Answer::Runs(store.runs(&filter).await?)
            }
            Question::Unfinished { schedule } => {
                let filter = RunFilter {
                    schedule: Some(schedule.clone()),
                    states: vec![RunState::Waiting, RunState::Running],
                    causes: vec![RunCause::Schedule, RunCause::CatchUp],
                    limit: 1,
                    ..RunFilter::default()
                };
                Answer::Runs(store.runs(&filter).await?)
            }
            Question::Rescores { schedule, since, limit } => {
                let filter = RunFilter {
                    schedule: Some(schedule.clone()),
                    causes: vec![RunCause::Rescore],
                    opened_since: Some(*since),
                    limit: *limit,
                    ..RunFilter::default()
                };
                Answer::Runs(store.runs(&filter).await?)
            }
            Question::Scored { schedule, interval } => {
                Answer::Scored(store.has_predictions(schedule, *interval).await?)
            }
            Question::Set(version) => {
                let set = store.model_set(*version).await?;
                Answer::Set(set.map(|s| ActiveSet { version: s.version, features: s.features }))
            }
            Question::LastSeries => Answer::LastSeries(store.last_series().await?),
            Question::Waiting { schedule, limit } => {
                let (schedule, limit) = (schedule.clone(), *limit);
                let filter = RunFilter { schedule, states: waiting(), limit, ..RunFilter::default() };
                Answer::Runs(store.runs(&filter).await?)
            }
        })
    }

    /// How many of the series that a filter names are stale.
    async fn stale(&self, schedule: &str, series: Option<&str>, interval: Interval) -> Result<u64> {
        let Some(text) = series else { return self.store.stale_series(schedule, interval).await };
        let named = match self.filters.ids(&*self.store, text).await {
            Ok(named) => named,
            Err(ScorerError::Store(e)) => return Err(e),
            // No expression: whoever scores the run says so.
            Err(_) => return self.store.stale_series(schedule, interval).await,
        };
        let stale = self.store.series_of(schedule, interval, SeriesRange::ALL, RunScope::Stale).await?;
        Ok(stale.iter().filter(|id| named.binary_search(id).is_ok()).count() as u64)
    }

    /// Looks at one schedule, which is paused, until nothing is left that its pause has passed over. Leaves all else to
    /// planners: the log of changed panes belongs to all schedules.
    async fn pass_over(&self, name: &str) -> Result<()> {
        let mut backoff = Backoff::new();
        let never = CancellationToken::new();
        loop {
            let Some(mut facts) = self.facts().await? else { return Ok(()) };
            facts.schedules.retain(|s| s.spec.name == name && s.pause.is_some());
            facts.changed.clear();
            let mut decision = self.decide(&facts).await?;
            decision.plan.start.clear();
            let passed = !decision.plan.skipped.is_empty() || !decision.plan.fires.is_empty();
            if !passed {
                return Ok(());
            }
            match self.store.plan(&decision.plan).await? {
                Outcome::Done => {}
                // A planner was faster: there may be nothing left.
                Outcome::Fenced => drop(backoff.wait(&never).await),
            }
        }
    }
}

/// Lets a paused schedule go on. What became ready while it was paused is passed over first, as a planner does: also where
/// none was running meanwhile, and judged by the settings that services have stored, not by the caller's own. False where it
/// is not paused.
///
/// # Errors
/// [`ScorerError::Usage`] where there is no such schedule. Errors of the store come back as such: the schedule stays paused,
/// and the same call may be made again.
pub async fn resume(store: Arc<dyn Store>, name: &str) -> crate::error::Result<bool> {
    let rows = store.schedules().await?;
    let row = rows.iter().find(|r| r.spec.name == name);
    let row = row.ok_or_else(|| ScorerError::usage("schedule", format!("there is no schedule `{name}`")))?;
    if row.pause.is_none() {
        return Ok(false);
    }
    let readiness = store.readiness().await?;
    Looker::new(store.clone(), readiness, Limits::default()).pass_over(name).await?;
    Ok(store.pause_schedule(name, None).await?)
}
