//! Late readings: what is scored again, when, how much of it, and with which set.

use crate::testing::*;
use fleetscore_schemas::status::RunCause::{self, Rescore, Schedule};
use fleetscore_schemas::status::{RunScope, RunState};
use fleetscore_schemas::window::Feature;
use fleetscore_store::{CatchUp, GivenBack, Rules, RunFilter, ScheduleSpec, TaskClaim, TaskFailure};

const SECOND: i64 = 1_000_000;

/// A world in which minutes 0 to `n` were scored with set 1, and set 2 is active since.
async fn scored(spec: ScheduleSpec, n: i64) -> World {
    let mut w = World::new(&[spec], 1).await;
    w.activate().await;
    w.look().await;
    let readings: Vec<_> = (0..n).map(|m| (m, 1, 1.0)).collect();
    w.send(0, &readings, Some(at(n)), false).await;
    w.look().await;
    w.score().await;
    w.activate().await;
    w
}

fn plain() -> ScheduleSpec {
    schedule("default", 1, 1, CatchUp::All)
}

async fn late(w: &mut World, minute: i64, series: u32) {
    let newest = w.store.pane_range().await.unwrap().map_or(at(0), |r| r.1.plus_us(MINUTE));
    w.send(0, &[(minute, series, 2.0)], Some(newest), false).await;
}

/// Runs of a minute after its first, oldest first.
async fn again(w: &World, minute: i64) -> Vec<(RunCause, RunScope, Option<i64>, bool)> {
    let filter = RunFilter { overlapping: Some(span(minute, minute + 1)), ..RunFilter::default() };
    let mut rows = w.store.runs(&filter).await.unwrap();
    rows.retain(|r| r.state != RunState::Skipped);
    rows.sort_by_key(|r| (r.opened_at, r.run_id));
    rows.iter().skip(1).map(|r| (r.cause, r.scope, r.model_set, r.data_only)).collect()
}

async fn log(w: &World) -> usize {
    w.store.changed_panes(9999).await.unwrap().len()
}

const STALE: (RunCause, RunScope, Option<i64>, bool) = (Rescore, RunScope::Stale, Some(1), false);
const FULL: (RunCause, RunScope, Option<i64>, bool) = (Rescore, RunScope::All, Some(2), false);

#[tokio::test]
async fn a_late_reading_for_a_scored_interval() {
    let mut w = scored(plain(), 3).await;
    late(&mut w, 1, 2).await;
    w.look().await;
    assert_eq!(again(&w, 1).await, [STALE], "the stale series alone, with the set of the others");
    assert_eq!(log(&w).await, 0);
    assert!(again(&w, 0).await.is_empty() && again(&w, 2).await.is_empty());
    // A run under way: the row stays until it is over, whatever it read.
    late(&mut w, 1, 3).await;
    w.look().await;
    assert_eq!((again(&w, 1).await.len(), log(&w).await), (1, 1));
    w.score().await;
    w.look().await;
    w.score().await;
    w.look().await;
    assert_eq!(log(&w).await, 0);
    assert_eq!(w.store.stale_series("default", span(1, 2)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_series_without_a_prediction() {
    let mut w = scored(plain(), 2).await;
    late(&mut w, 1, 5).await;
    w.look().await;
    assert_eq!(again(&w, 1).await, [STALE], "one that has no model as well: it gets its row");
    w.score().await;
    assert_eq!(w.store.stale_series("default", span(1, 2)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_late_reading_of_a_series_that_the_schedule_does_not_score() {
    let mut w = scored(ScheduleSpec { series: Some("s000[12]$".into()), ..plain() }, 2).await;
    late(&mut w, 1, 3).await;
    w.look().await;
    assert_eq!((again(&w, 1).await.len(), log(&w).await), (0, 0));
    late(&mut w, 1, 2).await;
    w.look().await;
    assert_eq!(again(&w, 1).await, [STALE]);
}

#[tokio::test]
async fn late_readings_within_the_delay_are_one_run() {
    let mut w = scored(ScheduleSpec { rescore_delay_us: Some(MINUTE), ..plain() }, 2).await;
    late(&mut w, 1, 1).await;
    w.pass_us(40 * SECOND);
    late(&mut w, 1, 2).await;
    w.look().await;
    w.pass_us(19 * SECOND);
    w.look().await;
    assert_eq!((again(&w, 1).await.len(), log(&w).await), (0, 2), "the delay counts from the oldest reading");
    w.pass_us(SECOND);
    w.look().await;
    assert_eq!((again(&w, 1).await, log(&w).await), (vec![STALE], 0));
    // A trickle cannot put it off for ever.
    w.score().await;
    for _ in 0..4 {
        late(&mut w, 1, 3).await;
        w.look().await;
        w.pass_us(20 * SECOND);
    }
    assert_eq!(again(&w, 1).await.len(), 2);
}

#[tokio::test]
async fn panes_of_one_window_are_one_run_counted_from_the_oldest() {
    let spec = ScheduleSpec { rescore_delay_us: Some(MINUTE), ..schedule("default", 5, 5, CatchUp::All) };
    let mut w = scored(spec, 5).await;
    late(&mut w, 3, 2).await;
    w.pass_us(30 * SECOND);
    late(&mut w, 1, 2).await;
    w.pass_us(30 * SECOND);
    w.look().await;
    let runs = w.runs("default").await;
    assert_eq!(runs.iter().filter(|r| r.3 == Rescore).count(), 1);
    assert_eq!(log(&w).await, 0, "both panes are read by it");
}

#[tokio::test]
async fn never_by_itself() {
    let mut w = scored(ScheduleSpec { rescore_delay_us: None, ..plain() }, 2).await;
    late(&mut w, 1, 2).await;
    w.look().await;
    assert_eq!((again(&w, 1).await.len(), log(&w).await), (0, 0));
    assert_eq!(w.store.stale_series("default", span(1, 2)).await.unwrap(), 1, "and it stays visible");
}

#[tokio::test]
async fn below_the_floor_nothing_is_scored_again() {
    let mut w = scored(plain(), 4).await;
    late(&mut w, 1, 2).await;
    late(&mut w, 3, 2).await;
    w.store.retain_from(at(2)).await.unwrap();
    w.look().await;
    assert_eq!((again(&w, 1).await.len(), again(&w, 3).await), (0, vec![STALE]));
    assert_eq!(log(&w).await, 0);
}

#[tokio::test]
async fn an_interval_that_was_never_scored_needs_a_full_run() {
    // How the run of minute 0 ended.
    for how in ["its run failed", "its run was cancelled"] {
        let mut w = World::new(&[plain()], 1).await;
        w.activate().await;
        w.send(0, &[(0, 1, 1.0)], Some(at(1)), false).await;
        w.look().await;
        let claim = TaskClaim { worker: "w".into(), lease_us: MINUTE, run_ids: None, prefer: vec![] };
        let task = w.store.claim_task(&claim).await.unwrap().unwrap();
        if how.ends_with("failed") {
            let failure = TaskFailure { error: "no answer", retry: None, rules: &Rules::default() };
            let ended = w.store.fail_task(&task, &failure).await.unwrap();
            assert_eq!(ended, GivenBack::Ended(RunState::Failed));
        } else {
            assert!(w.store.cancel_run(task.run_id, "anna").await.unwrap());
        }
        w.activate().await;
        w.look().await;
        assert_eq!(again(&w, 0).await, [], "{how}: that alone is no reason to try again");
        late(&mut w, 0, 2).await;
        w.look().await;
        assert_eq!(again(&w, 0).await, [FULL], "{how}");
    }
}

#[tokio::test]
async fn a_set_that_no_longer_fits_is_not_used_again() {
    let mut w = scored(plain(), 2).await;
    let changed = ScheduleSpec { features: vec![Feature::Max], ..plain() };
    w.store.put_schedule(&changed).await.unwrap();
    let version = w.activate_for(&["max"]).await;
    late(&mut w, 1, 2).await;
    w.look().await;
    assert_eq!(again(&w, 1).await, [(Rescore, RunScope::All, Some(version), false)]);
}

#[tokio::test]
async fn a_device_back_after_hours_is_scored_again_at_its_budget_a_minute() {
    let spec = ScheduleSpec { rescores_per_minute: Some(20), ..plain() };
    let mut w = scored(spec, 150).await;
    let readings: Vec<_> = (0..150).map(|m| (m, 2, 2.0)).collect();
    w.send(0, &readings, Some(at(150)), false).await;
    let rescored = async |w: &World| w.runs("default").await.iter().filter(|r| r.3 == Rescore).count();
    for minute in 1..=8 {
        for _ in 0..6 {
            w.look().await;
            // Another process has the same budget.
            w.restart();
            w.look().await;
            assert!(rescored(&w).await <= minute * 20);
            w.pass_us(10 * SECOND);
        }
        w.score().await;
        assert_eq!(rescored(&w).await, (minute * 20).min(150), "minute {minute}");
        if minute == 1 {
            assert!(
                again(&w, 19).await == [STALE] && again(&w, 20).await.is_empty(),
                "the oldest change first"
            );
            let waiting = w.look().await.unwrap();
            assert!(waiting.contains("rescores_per_minute is 20"), "{waiting}");
        }
    }
    assert_eq!(log(&w).await, 0);
}

#[tokio::test]
async fn late_readings_for_intervals_older_than_all_others() {
    let gone = |cause, scope, data_only| (cause, scope, Some(2), data_only);
    // policy, runs of an interval before the first
    for (catch_up, runs) in [
        (CatchUp::All, vec![gone(RunCause::CatchUp, RunScope::All, true)]),
        (CatchUp::Latest, vec![]),
        (CatchUp::None, vec![]),
    ] {
        let mut w = scored(schedule("default", 1, 1, catch_up), 4).await;
        late(&mut w, -100, 2).await;
        w.look().await;
        let filter = RunFilter { overlapping: Some(span(-100, -99)), ..RunFilter::default() };
        let rows = w.store.runs(&filter).await.unwrap();
        let found: Vec<_> = rows.iter().map(|r| (r.cause, r.scope, r.model_set, r.data_only)).collect();
        assert_eq!(found, runs, "{catch_up:?}");
        assert_eq!(log(&w).await, 0);
    }
}

#[tokio::test]
async fn runs_are_forgotten_but_predictions_are_not() {
    for catch_up in [CatchUp::All, CatchUp::Latest, CatchUp::None] {
        let mut w = scored(schedule("default", 1, 1, catch_up), 4).await;
        w.send(0, &[(9, 1, 1.0)], Some(at(10)), false).await;
        w.look().await;
        w.score().await;
        w.pass(1);
        let now = w.store.now().await.unwrap();
        assert_eq!(w.store.forget_runs(now, at(9), 99).await.unwrap(), 5, "four runs and a gap");
        late(&mut w, 1, 2).await;
        late(&mut w, 6, 2).await;
        w.look().await;
        let rows = w.runs("default").await;
        let of = |minute: i64| rows.iter().filter(|r| r.0 == minute).map(|r| (r.3, r.4)).collect::<Vec<_>>();
        assert_eq!(of(1), [(Rescore, false)], "{catch_up:?}: it was scored");
        let never = if catch_up == CatchUp::All { vec![(RunCause::CatchUp, true)] } else { vec![] };
        assert_eq!(of(6), never, "{catch_up:?}: it was not");
        assert_eq!(log(&w).await, 0);
        w.score().await;
        assert_eq!(w.store.stale_series("default", span(1, 2)).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_schedule_with_a_set_of_its_own_waits_for_nobodys_activation() {
    let specs = [
        ScheduleSpec { model_set: Some(2), ..schedule("own", 1, 1, CatchUp::All) },
        plain(),
        ScheduleSpec {
            model_set: Some(3),
            features: vec![Feature::Max],
            ..schedule("wrong", 1, 1, CatchUp::All)
        },
    ];
    let mut w = World::new(&specs, 1).await;
    w.send(0, &[(0, 1, 1.0)], Some(at(1)), false).await;
    w.look().await;
    let state = async |w: &World, name: &str| {
        let filter = RunFilter { schedule: Some(name.into()), ..RunFilter::default() };
        let row = w.store.runs(&filter).await.unwrap().remove(0);
        (row.state, row.model_set, row.error.unwrap_or_default())
    };
    let (waiting, _, why) = state(&w, "own").await;
    assert!(
        waiting == RunState::Waiting && why.contains("there is no model set 2, which the setting"),
        "{why}"
    );
    // Sets 1 to 3; the first two are not for it.
    for version in 1..=3 {
        assert_eq!(w.activate().await, version);
        w.look().await;
    }
    assert_eq!(state(&w, "own").await.1, Some(2), "whatever is active");
    assert_eq!(state(&w, "default").await.1, Some(1));
    let (waiting, _, why) = state(&w, "wrong").await;
    assert!(waiting == RunState::Waiting && why.contains("there is no model set 3"), "{why}");
    let said = w.look().await.unwrap();
    assert!(said.contains("model set 3 takes the features mean, and the setting `features`"), "{said}");
    w.send(0, &[(1, 1, 1.0)], Some(at(2)), false).await;
    w.look().await;
    assert_eq!(state(&w, "own").await.1, Some(2));
    assert_eq!(state(&w, "default").await.1, Some(3));
}

#[tokio::test]
async fn every_run_is_cut_and_a_few_stale_series_are_one_shard() {
    let spec = ScheduleSpec { shards: Some(3), series: Some("^d/".into()), ..plain() };
    let mut w = scored(spec, 1).await;
    late(&mut w, 0, 2).await;
    w.look().await;
    let mut rows = w.store.runs(&RunFilter::default()).await.unwrap();
    rows.sort_by_key(|r| (r.opened_at, r.run_id));
    let found: Vec<_> = rows.iter().map(|r| (r.cause, r.shards, r.series.as_deref())).collect();
    assert_eq!(found, [(Schedule, 3, Some("^d/")), (Rescore, 1, Some("^d/"))]);
}
