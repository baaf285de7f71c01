//! Which runs a range opens: an interval's model set, scope and series. The same for a dry run.

use super::{RangeOptions, SetChoice};
use crate::core::{data_only, set_of};
use crate::error::{Result, ScorerError};
use crate::filters::{Wanted, select};
use crate::models::misfit;
use crate::service::Shared;
use crate::shards::cuts_of;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{ModelSetRow, RunRow, ScheduleRow, ScheduleSpec, Selection, SeriesRange, Store};
use std::collections::HashMap;

/// One interval to be scored.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) interval: Interval,
    pub(super) model_set: i64,
    pub(super) scope: RunScope,
    pub(super) data_only: bool,
    /// Its series as they are now.
    pub(super) selection: Selection,
}

/// Chooses sets and series. Sets are looked up once.
pub(super) struct Planning {
    choice: SetChoice,
    pub(super) scope: RunScope,
    /// The run's filter; the schedule's counts beside it.
    pub(super) series: Option<String>,
    /// What is known of a set, or why it cannot score the schedule's windows.
    sets: HashMap<i64, Result<Option<Timestamp>, String>>,
}

impl Planning {
    /// # Errors
    /// [`ScorerError::Usage`] where the choice itself cannot be had.
    pub(super) async fn new(
        store: &dyn Store,
        schedule: &ScheduleRow,
        options: &RangeOptions,
    ) -> Result<Self> {
        if let Some(text) = &options.series {
            crate::filters::parse(text)?;
        }
        let mut planning = Self::of(options);
        // What each interval decides for itself is told of each.
        let each = match options.model_set {
            SetChoice::AsOfInterval => true,
            SetChoice::Active => options.scope == RunScope::Stale,
            SetChoice::Version(_) => false,
        };
        if !each {
            let chosen = planning.usual(store, &schedule.spec).await?;
            chosen.map_err(|why| ScorerError::usage("model-set", why))?;
        }
        Ok(planning)
    }

    /// By these options, which are not checked.
    pub(super) fn of(options: &RangeOptions) -> Self {
        let series = options.series.clone();
        Self { choice: options.model_set, scope: options.scope, series, sets: HashMap::new() }
    }

    /// Notes what is known of a set.
    pub(super) async fn look_up(
        &mut self,
        store: &dyn Store,
        spec: &ScheduleSpec,
        version: i64,
    ) -> Result<()> {
        self.usable(store, spec, version).await.map(drop)
    }

    /// The set that does not depend on the interval.
    async fn usual(&mut self, store: &dyn Store, spec: &ScheduleSpec) -> Result<Result<i64, String>> {
        let version = match (self.choice, spec.model_set) {
            (SetChoice::Version(version), _) => Some(version),
            (_, Some(own)) => Some(own),
            _ => store.active_model_set().await?.map(|s| s.version),
        };
        match version {
            Some(version) => self.usable(store, spec, version).await,
            None => Ok(Err(crate::core::NO_MODEL_SET.to_owned())),
        }
    }

    /// The set, where there is one of this version that fits.
    #[allow(clippy::map_entry, reason = "the store is asked between the look and the insertion")]
    async fn usable(
        &mut self,
        store: &dyn Store,
        spec: &ScheduleSpec,
        version: i64,
    ) -> Result<Result<i64, String>> {
        if !self.sets.contains_key(&version) {
            let known = match store.model_set(version).await? {
                None => Err(format!("there is no model set {version}")),
                Some(ModelSetRow { features, trained_on, .. }) => match misfit(version, &features, spec) {
                    Some(why) => Err(why),
                    None => Ok(trained_on.map(|t| t.end)),
                },
            };
            self.sets.insert(version, known);
        }
        Ok(match self.sets.get(&version) {
            Some(Err(why)) => Err(why.clone()),
            _ => Ok(version),
        })
    }

    /// The set and the scope of an interval, given the runs around it; else why it has none.
    pub(super) async fn set_for(
        &mut self,
        store: &dyn Store,
        spec: &ScheduleSpec,
        interval: Interval,
        runs: &[RunRow],
    ) -> Result<Result<(i64, RunScope), String>> {
        let scope = self.scope;
        let (version, scope) = match self.choice {
            SetChoice::AsOfInterval => match store.model_set_as_of(interval.end).await? {
                Some(version) => (version, scope),
                None => return Ok(Err(format!("no model set was active at {}", interval.end))),
            },
            // Late data must not mix sets within an interval.
            SetChoice::Active if scope == RunScope::Stale => match scored_with(runs, interval, spec) {
                Some(version) => (version, scope),
                None => return Ok(self.usual(store, spec).await?.map(|version| (version, RunScope::All))),
            },
            _ => return Ok(self.usual(store, spec).await?.map(|version| (version, scope))),
        };
        Ok(self.usable(store, spec, version).await?.map(|version| (version, scope)))
    }

    /// The end of what a set was trained on, where that lies behind the interval's start.
    pub(super) fn trained_until(&self, version: Option<i64>, interval: Interval) -> Option<Timestamp> {
        let known = self.sets.get(&version?)?;
        (*known.as_ref().ok()?).filter(|end| *end > interval.start)
    }

    /// What an interval's run scores, with what; `Ok(None)` where none of its series is meant.
    pub(super) async fn plan(
        &mut self,
        shared: &Shared,
        schedule: &ScheduleRow,
        interval: Interval,
        runs: &[RunRow],
    ) -> Result<Result<Option<Planned>, String>> {
        let (model_set, scope) = match self.set_for(&*shared.store, &schedule.spec, interval, runs).await? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let wanted = Wanted {
            schedule: &schedule.spec,
            interval,
            range: SeriesRange::ALL,
            scope,
            series: self.series.as_deref(),
        };
        let selection = select(&*shared.store, &shared.filters, wanted).await?;
        if selection.ids.as_ref().is_some_and(|ids| ids.is_empty()) {
            return Ok(Ok(None));
        }
        let data_only = data_only(schedule, interval, runs);
        Ok(Ok(Some(Planned { interval, model_set, scope, data_only, selection })))
    }
}

/// The set that an interval was scored with, of runs that overlap it.
fn scored_with(runs: &[RunRow], interval: Interval, spec: &ScheduleSpec) -> Option<i64> {
    let past: Vec<&RunRow> = runs.iter().filter(|r| r.interval == interval).collect();
    set_of(&past, spec)
}

/// Where a run over this selection is cut.
pub(super) fn cuts(selection: &Selection, last_series: SeriesId, spec: &ScheduleSpec) -> Vec<SeriesId> {
    cuts_of(last_series, spec.shards, selection.ids.as_ref().map(|ids| ids.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, schedule, span};
    use fleetscore_schemas::status::{RunCause, RunState};
    use fleetscore_store::{CatchUp, Phases, RunCounts};
    use uuid::Uuid;

    fn run(opened: i64, state: RunState, set: Option<i64>) -> RunRow {
        RunRow {
            run_id: Uuid::from_u128(opened as u128),
            schedule: "default".into(),
            interval: span(0, 1),
            state,
            cause: RunCause::Schedule,
            model_set: set,
            counts: RunCounts::default(),
            attempt: 1,
            opened_at: at(opened),
            started_at: None,
            finished_at: None,
            error: None,
            data_only: false,
            scope: RunScope::All,
            series: None,
            shards: 2,
            shards_done: 2,
            shards_failed: 0,
            phases: Phases::default(),
            retry_of: None,
            stalled_at: None,
            log: None,
        }
    }

    #[test]
    fn an_interval_was_scored_with_the_set_of_its_newest_whole_run() {
        use RunState::{Cancelled, Failed, Partial, Running, Succeeded};
        let half = |r: RunRow| RunRow { shards_done: 1, shards_failed: 1, ..r };
        let stale = |r: RunRow| RunRow { scope: RunScope::Stale, ..r };
        let some = |r: RunRow| RunRow { series: Some("^d/".into()), ..r };
        let retry = |r: RunRow| RunRow { retry_of: Some(Uuid::from_u128(1)), ..r };
        let elsewhere = |r: RunRow| RunRow { interval: span(1, 2), ..r };
        let cases = [
            ("never scored", vec![], None),
            ("scored once", vec![run(1, Succeeded, Some(4))], Some(4)),
            ("scored again", vec![run(1, Succeeded, Some(4)), run(2, Partial, Some(5))], Some(5)),
            ("in any order", vec![run(2, Partial, Some(5)), run(1, Succeeded, Some(4))], Some(5)),
            ("beyond a threshold, but stored", vec![run(1, Failed, Some(4))], Some(4)),
            ("cancelled", vec![run(1, Cancelled, Some(4))], None),
            ("under way", vec![run(1, Succeeded, Some(4)), run(2, Running, Some(5))], Some(4)),
            (
                "its stale series since",
                vec![run(1, Succeeded, Some(4)), stale(run(2, Succeeded, Some(5)))],
                Some(4),
            ),
            (
                "some series since",
                vec![run(1, Succeeded, Some(4)), some(run(2, Succeeded, Some(5)))],
                Some(4),
            ),
            ("half of it", vec![half(run(1, Partial, Some(4)))], None),
            (
                "half of it and then the rest",
                vec![half(run(1, Partial, Some(4))), retry(run(2, Succeeded, Some(4)))],
                Some(4),
            ),
            (
                "half of it twice",
                vec![half(run(1, Partial, Some(4))), half(retry(run(2, Partial, Some(4))))],
                None,
            ),
            ("another interval", vec![elsewhere(run(1, Succeeded, Some(4)))], None),
            ("without a set", vec![run(1, Succeeded, None)], None),
        ];
        let spec = schedule("default", 1, 1, CatchUp::All);
        for (name, runs, set) in cases {
            assert_eq!(scored_with(&runs, span(0, 1), &spec), set, "{name}");
        }
        let own = ScheduleSpec { series: Some("^d/".into()), ..spec };
        assert_eq!(scored_with(&[some(run(1, Succeeded, Some(4)))], span(0, 1), &own), Some(4));
    }

    #[test]
    fn a_few_series_are_one_shard() {
        let spec = schedule("default", 1, 1, CatchUp::All);
        let four = ScheduleSpec { shards: Some(4), ..spec.clone() };
        let ids = |n: u32| Selection { range: SeriesRange::ALL, ids: Some((1..=n).collect()) };
        let shards = |s: &Selection, spec: &ScheduleSpec| cuts(s, 1_000_000, spec).len() + 1;
        assert_eq!((shards(&Selection::ALL, &spec), shards(&Selection::ALL, &four)), (20, 4));
        assert_eq!((shards(&ids(3), &spec), shards(&ids(3), &four)), (1, 1));
        assert_eq!((shards(&ids(300_000), &spec), shards(&ids(300_000), &four)), (6, 4));
    }
}
