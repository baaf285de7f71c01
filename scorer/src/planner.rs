//! The planner's shell: gathers what [`crate::core`] needs, commits what it decides.

use crate::core::{ActiveSet, Answer, Answers, Decision, Facts, Limits, Planner, Question, Step};
use fleetscore_schemas::status::RunState;
use fleetscore_store::{Outcome, ReadinessSettings, Result, RunFilter, Store};
use std::sync::Arc;
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
}

impl Looker {
    pub(crate) fn new(store: Arc<dyn Store>, readiness: ReadinessSettings, limits: Limits) -> Self {
        Self { store, readiness, planner: Planner::new(limits) }
    }

    /// One look.
    pub(crate) async fn look(&mut self) -> Result<Looked> {
        let Some(facts) = self.facts().await? else {
            let waiting = Some("nothing has been aggregated yet".to_owned());
            return Ok(Looked { waiting, ..Looked::default() });
        };
        self.planner.look(&facts);
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
            Question::Stale { schedule, interval } => {
                Answer::Stale(store.stale_series(schedule, *interval).await?)
            }
            Question::Runs { schedule, overlapping, open } => {
                let states = if *open { vec![RunState::Waiting, RunState::Running] } else { vec![] };
                let schedule = Some(schedule.clone());
                let overlapping = Some(*overlapping);
                let filter = RunFilter { schedule, states, overlapping, ..RunFilter::default() };
                Answer::Runs(store.runs(&filter).await?)
            }
            Question::NewestRun { schedule } => {
                let schedule = Some(schedule.clone());
                Answer::Runs(store.runs(&RunFilter { schedule, limit: 1, ..RunFilter::default() }).await?)
            }
            Question::Waiting { schedule, limit } => {
                let (schedule, limit) = (schedule.clone(), *limit);
                let filter = RunFilter { schedule, states: waiting(), limit, ..RunFilter::default() };
                Answer::Runs(store.runs(&filter).await?)
            }
        })
    }
}
