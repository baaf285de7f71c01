//! Cases for the planner, on the store in memory.

use crate::testing::*;
use fleetscore_schemas::status::RunCause::{self, *};
use fleetscore_schemas::status::RunState::{self, *};
use fleetscore_schemas::window::Feature;
use fleetscore_store::{CatchUp, RunFilter, ScheduleSpec};
use futures::TryStreamExt;
use proptest::prelude::*;
use std::collections::BTreeSet;

type Run = (i64, i64, RunState, RunCause, bool);

fn run(start: i64, state: RunState, cause: RunCause) -> Run {
    (start, start + 1, state, cause, false)
}

async fn plain(catch_up: CatchUp) -> World {
    let w = World::new(&[schedule("default", 1, 1, catch_up)], 1).await;
    w.activate().await;
    w
}

#[tokio::test]
async fn nothing_is_opened_before_it_is_ready() {
    let mut w = plain(CatchUp::All).await;
    assert!(w.look().await.is_none_or(|why| why.contains("nothing")), "no data at all");
    w.send(0, &[(0, 1, 1.0)], None, false).await;
    assert!(w.look().await.unwrap().contains("no reading yet"));
    assert_eq!(w.runs("default").await, []);
    w.send(0, &[(1, 1, 1.0)], Some(at(1)), false).await;
    assert!(w.look().await.unwrap().contains("its watermark is at"));
    assert_eq!(w.runs("default").await, [run(0, Running, Schedule)]);
    w.look().await;
    assert_eq!(w.runs("default").await.len(), 1, "one run for each interval");
    w.send(0, &[], Some(at(2)), false).await;
    w.look().await;
    assert_eq!(w.runs("default").await, [run(0, Running, Schedule), run(1, Running, Schedule)]);
    w.score().await;
    assert!(w.runs("default").await.iter().all(|r| r.2 == Partial), "series 4 has a refused model");
    assert!(w.store.changed_panes(99).await.unwrap().is_empty(), "the log is dealt with");
}

#[tokio::test]
async fn the_last_window_of_a_quiet_fleet_is_scored_and_then_nothing() {
    let mut w = plain(CatchUp::All).await;
    w.send(0, &[(0, 1, 1.0), (1, 1, 1.0)], Some(at(1)), true).await;
    w.look().await;
    assert_eq!(w.runs("default").await.len(), 2);
    w.score().await;
    for _ in 0..5 {
        w.pass(60);
        w.send(0, &[], Some(at(1)), true).await;
        w.look().await;
    }
    assert_eq!(w.runs("default").await.len(), 2, "a dead fleet writes nothing");
}

#[tokio::test]
async fn years_without_data_are_one_row() {
    let mut w = plain(CatchUp::All).await;
    w.look().await;
    let years = -8 * 365 * 24 * 60;
    w.send(0, &[(years, 1, 1.0), (years + 1, 2, 1.0)], Some(at(years + 2)), false).await;
    w.look().await;
    assert_eq!(w.runs("default").await.len(), 2);
    w.send(0, &[(0, 1, 1.0), (3, 1, 1.0)], Some(at(4)), false).await;
    let began = std::time::Instant::now();
    w.look().await;
    assert!(began.elapsed().as_millis() < 2000, "no loop over empty intervals: {:?}", began.elapsed());
    let gap = |from, to| (from, to, Skipped, Gap, false);
    assert_eq!(
        w.runs("default").await,
        [
            run(years, Running, Schedule),
            run(years + 1, Running, Schedule),
            gap(years + 2, 0),
            run(0, Running, Schedule),
            gap(1, 3),
            run(3, Running, Schedule),
        ]
    );
}

#[tokio::test]
async fn late_data_call_for_a_rescore_after_the_delay() {
    let mut spec = schedule("default", 1, 1, CatchUp::All);
    spec.rescore_delay_us = Some(MINUTE / 2);
    let mut w = World::new(&[spec], 1).await;
    w.activate().await;
    w.send(0, &[(0, 1, 1.0)], Some(at(5)), false).await;
    w.look().await;
    // While the run is open the row stays in the log.
    w.send(0, &[(0, 1, 2.0)], Some(at(5)), false).await;
    w.look().await;
    assert_eq!(w.store.changed_panes(9).await.unwrap().len(), 1);
    w.score().await; // it was read with the late reading in it
    w.pass(1);
    w.look().await;
    assert_eq!(w.runs("default").await.len(), 1, "not stale: nothing to do");
    assert!(w.store.changed_panes(9).await.unwrap().is_empty());
    // Three late checkpoints for one pane: one rescore, after the delay.
    for series in [1, 2, 3] {
        w.send(0, &[(0, series, 3.0)], Some(at(5)), false).await;
    }
    w.look().await;
    assert_eq!(w.runs("default").await.len(), 1, "the delay has not passed");
    assert_eq!(w.store.changed_panes(9).await.unwrap().len(), 3);
    w.pass(1);
    w.look().await;
    assert_eq!(w.runs("default").await[1], run(0, Running, Rescore));
    assert!(w.store.changed_panes(9).await.unwrap().is_empty(), "rows for one pane are dealt with once");
    w.score().await;
    assert_eq!(w.store.stale_series("default", span(0, 1)).await.unwrap(), 0);
}

#[tokio::test]
async fn late_data_in_a_gap_or_before_the_first_get_a_run_of_their_own() {
    let mut w = plain(CatchUp::All).await;
    w.look().await;
    w.send(0, &[(5, 1, 1.0), (9, 1, 1.0)], Some(at(10)), false).await;
    w.look().await;
    w.score().await;
    w.send(0, &[(7, 2, 1.0), (2, 3, 1.0)], Some(at(10)), false).await;
    w.look().await;
    w.score().await;
    let of = |m: i64, cause, only| (m, m + 1, if only { Succeeded } else { Partial }, cause, only);
    let all = w.runs("default").await;
    assert_eq!(
        all,
        [
            of(2, CatchUp, true),
            of(5, Schedule, false),
            (6, 9, Skipped, Gap, false),
            of(7, CatchUp, true),
            of(9, Schedule, false),
        ]
    );
    let batches: Vec<_> =
        w.store.predictions("default", span(7, 8)).await.unwrap().try_collect().await.unwrap();
    let rows: usize = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
    assert_eq!(rows, 1, "rows only for series with data");
    // A rescore of such an interval keeps to that.
    w.send(0, &[(7, 1, 1.0)], Some(at(10)), false).await;
    w.look().await;
    w.score().await;
    assert_eq!(w.runs("default").await[4], of(7, Rescore, true));
}

#[tokio::test]
async fn without_a_model_set_runs_wait() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    let readings: Vec<_> = (0..20).map(|m| (m, 1, 1.0)).collect();
    w.send(0, &readings, Some(at(20)), false).await;
    assert_eq!(w.look().await.as_deref(), Some(super::NO_MODEL_SET));
    let runs = w.runs("default").await;
    assert_eq!(runs.len(), 20);
    assert!(runs.iter().all(|r| r.2 == Waiting));
    let rows = w.store.runs(&RunFilter::default()).await.unwrap();
    assert!(rows.iter().all(|r| r.error.as_deref() == Some(super::NO_MODEL_SET)));
    // Late data for a run that waits need nothing more.
    w.send(0, &[(3, 2, 1.0)], Some(at(20)), false).await;
    w.look().await;
    assert!(w.store.changed_panes(9).await.unwrap().is_empty());
    let version = w.activate().await;
    w.look().await;
    let rows = w.store.runs(&RunFilter::default()).await.unwrap();
    assert!(rows.iter().all(|r| r.state == Running && r.model_set == Some(version)));
    w.score().await;
    assert_eq!(w.store.stale_series("default", span(3, 4)).await.unwrap(), 0);
}

#[tokio::test]
async fn runs_wait_for_a_set_that_has_their_schedules_features() {
    let max = ScheduleSpec { features: vec![Feature::Max], ..schedule("other", 1, 1, CatchUp::All) };
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All), max], 1).await;
    // As many features as the one has, and as the other has: names count.
    let first = w.activate_for(&["min"]).await;
    let readings: Vec<_> = (0..20).map(|m| (m, 1, 1.0)).collect();
    w.send(0, &readings, Some(at(20)), false).await;
    let waiting = w.look().await.unwrap();
    assert!(waiting.contains("takes the features min, and the setting `features` of"), "{waiting}");
    let all = RunFilter::default();
    let rows = w.store.runs(&all).await.unwrap();
    assert_eq!(rows.len(), 40);
    for row in rows {
        let wanted = if row.schedule == "other" { "`other` is max" } else { "`default` is mean" };
        assert_eq!((row.state, row.model_set), (Waiting, None));
        let error = row.error.unwrap();
        assert!(
            error.contains(&format!("set {first} takes the features min")) && error.contains(wanted),
            "{error}"
        );
    }
    // Those that go on waiting do not hide the ones that can start, though they are more than are looked at at once.
    for (features, running, n, wanted) in
        [(&["mean"][..], "default", 20, "`other`"), (&["max"], "other", 21, "`default`")]
    {
        let version = w.activate_for(features).await;
        let waiting = w.look().await.unwrap();
        assert!(waiting.contains(wanted), "{waiting}");
        let started = w.store.runs(&all).await.unwrap();
        let started = started.iter().filter(|r| r.model_set == Some(version));
        let started: Vec<_> = started.map(|r| (r.schedule.as_str(), r.state)).collect();
        assert_eq!(started, vec![(running, Running); n]);
        w.send(0, &[(20 + version, 1, 1.0)], Some(at(21 + version)), false).await;
        w.look().await;
        let runs = w.runs(running).await;
        assert_eq!(runs.last().unwrap().2, Running, "and a new one starts at once");
    }
}

#[tokio::test]
async fn hopping_windows_are_covered_one_by_one() {
    let mut w = World::new(&[schedule("hop", 4, 2, CatchUp::All)], 1).await;
    w.activate().await;
    w.look().await;
    w.send(0, &[(5, 1, 1.0), (20, 1, 1.0)], Some(at(24)), false).await;
    w.look().await;
    let of = |from: i64| (from, from + 4, Running, Schedule, false);
    // Minute 5 lies in [2,6) and [4,8), minute 20 in [18,22) and [20,24); [6..] to [16..] hold nothing.
    let gap = (6, 20, Skipped, Gap, false);
    assert_eq!(w.runs("hop").await, [of(2), of(4), gap, of(18), of(20)]);
    w.score().await;
    // Late data inside the gap: all windows that hold them and have no run.
    w.send(0, &[(9, 1, 1.0)], Some(at(24)), false).await;
    w.look().await;
    let late: Vec<_> = w.runs("hop").await.into_iter().filter(|r| r.3 == CatchUp).map(|r| r.0).collect();
    assert_eq!(late, [6, 8]);
    // Late data in a window that was scored and one that was not.
    w.score().await;
    w.send(0, &[(4, 1, 1.0)], Some(at(24)), false).await;
    w.look().await;
    let again: Vec<_> = w.runs("hop").await.into_iter().filter(|r| r.3 == Rescore).map(|r| r.0).collect();
    assert_eq!(again, [2, 4]);
}

#[tokio::test]
async fn a_hop_longer_than_the_window_leaves_panes_out() {
    let mut w = World::new(&[schedule("sparse", 1, 5, CatchUp::All)], 1).await;
    w.activate().await;
    let readings: Vec<_> = (2..17).map(|m| (m, 1, 1.0)).collect();
    w.send(0, &readings, Some(at(17)), false).await;
    w.look().await;
    let starts: Vec<_> = w.runs("sparse").await.iter().map(|r| (r.0, r.2)).collect();
    assert_eq!(starts, [(5, Running), (10, Running), (15, Running)]);
    w.score().await;
    w.send(0, &[(7, 1, 1.0)], Some(at(17)), false).await;
    w.look().await;
    assert_eq!(w.runs("sparse").await.len(), 3);
    assert!(w.store.changed_panes(9).await.unwrap().is_empty());
}

#[tokio::test]
async fn policies_pass_over_what_was_ready_before_they_looked() {
    let readings: Vec<_> = [0, 1, 2, 5, 6, 9].map(|m| (m, 1, 1.0)).to_vec();
    let skipped = |from, to| (from, to, Skipped, CatchUp, false);
    let cases: [(CatchUp, Vec<Run>, Vec<Run>); 3] = [
        (
            CatchUp::All,
            [0, 1, 2].map(|m| run(m, Running, CatchUp)).to_vec(),
            vec![(3, 5, Skipped, Gap, false), run(5, Running, CatchUp)],
        ),
        (CatchUp::Latest, vec![skipped(0, 10)], vec![]),
        (CatchUp::None, vec![skipped(0, 10)], vec![]),
    ];
    for (policy, first, then) in cases {
        let mut w = plain(policy).await;
        w.send(0, &readings, Some(at(30)), false).await;
        w.look().await;
        let runs = w.runs("default").await;
        let expected: Vec<_> = first.iter().chain(&then).copied().collect();
        assert_eq!(runs[..expected.len()], expected, "{policy:?}");
        w.score().await;
        // What becomes ready while the schedule looks is scored by every policy.
        w.send(0, &[(30, 1, 1.0), (31, 1, 1.0)], Some(at(32)), false).await;
        w.look().await;
        let last = w.runs("default").await;
        assert_eq!(last[last.len() - 2..], [run(30, Running, Schedule), run(31, Running, Schedule)]);
        w.score().await;
        // After a pause: a stretch of which `latest` scores the newest.
        w.pass(60);
        w.restart();
        w.send(0, &[(40, 1, 1.0), (41, 1, 1.0), (45, 1, 1.0)], Some(at(60)), false).await;
        w.look().await;
        let all = w.runs("default").await;
        let after: Vec<_> = all.iter().filter(|r| r.0 >= 32).copied().collect();
        let gap = |from, to| (from, to, Skipped, Gap, false);
        let expected: Vec<Run> = match policy {
            CatchUp::All => vec![
                gap(32, 40),
                run(40, Running, CatchUp),
                run(41, Running, CatchUp),
                gap(42, 45),
                run(45, Running, CatchUp),
            ],
            CatchUp::Latest => vec![skipped(32, 42), gap(42, 45), run(45, Running, CatchUp)],
            CatchUp::None => vec![skipped(32, 46)],
        };
        assert_eq!(after, expected, "{policy:?}");
        // What was passed over stays skipped.
        w.score().await;
        let before = w.runs("default").await.len();
        w.send(0, &[(1, 2, 1.0), (-3, 2, 1.0), (41, 2, 1.0), (45, 2, 1.0)], Some(at(60)), false).await;
        w.look().await;
        let late = w.runs("default").await.len() - before;
        assert_eq!(late, [4, 1, 0][policy as usize], "{policy:?}");
        assert!(w.store.changed_panes(9).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn max_age_passes_over_what_has_been_ready_for_too_long() {
    let mut spec = schedule("default", 1, 1, CatchUp::All);
    spec.max_age_us = Some(30 * MINUTE);
    let mut w = World::new(&[spec], 1).await;
    w.activate().await;
    let now = 1_000_000; // the store's clock, in minutes
    let readings: Vec<_> = [now - 90, now - 80, now - 20, now - 10].map(|m| (m, 1, 1.0)).to_vec();
    w.send(0, &readings, Some(at(now)), false).await;
    w.look().await;
    let expected = [
        (now - 90, now - 79, Skipped, CatchUp, false),
        (now - 79, now - 20, Skipped, Gap, false),
        run(now - 20, Running, CatchUp),
        (now - 19, now - 10, Skipped, Gap, false),
        run(now - 10, Running, CatchUp),
    ];
    assert_eq!(w.runs("default").await, expected);
    // Old data that become ready while the schedule looks are young.
    let mut spec = schedule("default", 1, 1, CatchUp::All);
    spec.max_age_us = Some(30 * MINUTE);
    let mut w = World::new(&[spec], 1).await;
    w.activate().await;
    w.look().await;
    w.send(0, &[(0, 1, 1.0), (1, 1, 1.0)], Some(at(2)), false).await;
    w.look().await;
    assert_eq!(w.runs("default").await, [run(0, Running, Schedule), run(1, Running, Schedule)]);
}

#[tokio::test]
async fn a_schedule_made_later_finds_its_past() {
    let mut w = plain(CatchUp::All).await;
    let readings: Vec<_> = (0..12).map(|m| (m, 1, 1.0)).collect();
    w.send(0, &readings, Some(at(12)), false).await;
    w.look().await;
    w.score().await;
    assert!(w.store.changed_panes(9).await.unwrap().is_empty());
    w.store.put_schedule(&schedule("five", 5, 5, CatchUp::All)).await.unwrap();
    w.look().await;
    let starts: Vec<_> = w.runs("five").await.iter().map(|r| r.0).collect();
    assert_eq!(starts, [0, 5], "the third is not ready");
}

#[tokio::test]
async fn an_interval_with_a_persons_run_is_left_to_it() {
    let mut w = plain(CatchUp::All).await;
    w.look().await;
    w.send(0, &[(0, 1, 1.0), (1, 1, 1.0)], Some(at(2)), false).await;
    let manual = fleetscore_store::NewRun {
        run_id: uuid::Uuid::new_v4(),
        schedule: "default".into(),
        interval: span(1, 2),
        cause: Manual,
        model_set: Some(1),
        data_only: false,
        scope: fleetscore_schemas::status::RunScope::All,
        series: None,
        cuts: Vec::new(),
        retry_of: None,
        note: None,
    };
    let plan = fleetscore_store::Plan { open: vec![manual], ..Default::default() };
    assert_eq!(w.store.plan(&plan).await.unwrap(), fleetscore_store::Outcome::Done);
    w.look().await;
    assert_eq!(w.runs("default").await, [run(0, Running, Schedule), run(1, Running, Manual)]);
    w.pass(1);
    w.score().await;
    w.look().await;
    assert_eq!(w.runs("default").await[2], run(1, Running, Schedule));
}

#[tokio::test]
async fn what_retention_took_is_not_scored() {
    let mut w = plain(CatchUp::All).await;
    w.send(0, &[(0, 1, 1.0)], Some(at(1)), false).await;
    w.look().await;
    w.score().await;
    w.send(0, &[(3, 1, 1.0), (8, 1, 1.0)], Some(at(20)), false).await;
    w.store.retain_from(at(6)).await.unwrap();
    w.look().await;
    let runs = w.runs("default").await;
    assert_eq!(
        runs[1..],
        [(1, 6, Skipped, CatchUp, false), (6, 8, Skipped, Gap, false), run(8, Running, Schedule)]
    );
}

#[tokio::test]
async fn a_run_names_who_was_not_waited_for() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 2).await;
    w.activate().await;
    w.look().await;
    w.pass(11);
    w.send(0, &[(0, 1, 1.0)], Some(at(1)), false).await;
    w.look().await;
    let run = w.store.runs(&RunFilter::default()).await.unwrap().remove(0);
    let note = "not waited for, as nobody has owned it for longer than max_wait: t/1 of cluster";
    assert_eq!((run.state, run.error.as_deref()), (Running, Some(note)));
}

/// What may happen in a random life.
#[derive(Debug, Clone)]
enum Event {
    Send { partition: usize, readings: Vec<(i64, u32)>, ahead: i64 },
    Look,
    Score,
    Restart,
    Pass,
}

fn event() -> impl Strategy<Value = Event> {
    let reading = (prop_oneof![0_i64..40, 0_i64..40, 100_000_i64..100_010], 1_u32..5);
    prop_oneof![
        4 => (0_usize..2, prop::collection::vec(reading, 0..6), 0_i64..8)
            .prop_map(|(partition, readings, ahead)| Event::Send { partition, readings, ahead }),
        3 => Just(Event::Look),
        2 => Just(Event::Score),
        1 => Just(Event::Restart),
        1 => Just(Event::Pass),
    ]
}

async fn random_life(specs: &[ScheduleSpec], events: Vec<Event>) {
    let mut w = World::new(specs, 2).await;
    let mut watermarks = [0_i64; 2];
    let mut panes = BTreeSet::new();
    let late_set = events.len().is_multiple_of(2);
    if !late_set {
        w.activate().await;
    }
    for e in events {
        match e {
            Event::Send { partition, readings, ahead } => {
                watermarks[partition] += ahead;
                panes.extend(readings.iter().map(|r| r.0));
                let readings: Vec<_> = readings.into_iter().map(|(m, s)| (m, s, 1.0)).collect();
                w.send(partition, &readings, Some(at(watermarks[partition])), false).await;
            }
            Event::Look => drop(w.look().await),
            Event::Score => w.score().await,
            Event::Restart => w.restart(),
            Event::Pass => w.pass(2),
        }
    }
    if late_set {
        w.activate().await;
    }
    // The end: everything is quiet, and nobody hurries.
    for p in 0..2 {
        w.send(p, &[], Some(at(100_100)), false).await;
    }
    for _ in 0..8 {
        w.look().await;
        w.score().await;
        w.pass(2);
    }
    assert!(w.store.changed_panes(99).await.unwrap().is_empty(), "the log is empty in the end");
    for spec in specs {
        let (window, hop) = (spec.window_us / MINUTE, spec.hop_us / MINUTE);
        let held: BTreeSet<i64> = panes
            .iter()
            .flat_map(|p| {
                fleetscore_schemas::time::windows_covering(at(*p), MINUTE, spec.window_us, spec.hop_us)
            })
            .map(|s| (s.0 - at(0).0) / MINUTE)
            .collect();
        let runs = w.runs(&spec.name).await;
        for start in &held {
            let of: Vec<_> =
                runs.iter().filter(|r| r.0 == *start && r.1 == start + window && r.2 != Skipped).collect();
            assert!(!of.is_empty(), "{}: {start} has data and no run: {runs:?}", spec.name);
            assert!(of.iter().all(|r| matches!(r.2, Succeeded | Partial)), "{of:?}");
            let scheduled = of.iter().filter(|r| matches!(r.3, Schedule | CatchUp)).count();
            assert_eq!(scheduled, 1, "{}: {start} was opened {scheduled} times: {of:?}", spec.name);
            let stale = w.store.stale_series(&spec.name, span(*start, start + window)).await.unwrap();
            assert_eq!(stale, 0, "{}: {start} is stale", spec.name);
        }
        for r in &runs {
            assert!(r.2 == Skipped || held.contains(&r.0), "a run without data: {r:?}");
            assert!(r.2 != Skipped || r.3 == Gap, "{r:?}");
        }
        // Skipped ranges do not overlap and are no more than there are stretches of data.
        let gaps: Vec<_> = runs.iter().filter(|r| r.2 == Skipped).collect();
        assert!(gaps.windows(2).all(|g| g[0].1 - window + hop <= g[1].0), "{gaps:?}");
        assert!(gaps.len() <= held.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn in_the_end_every_interval_with_data_is_scored_and_none_is_stale(
        events in prop::collection::vec(event(), 0..40),
    ) {
        let specs = [
            schedule("default", 1, 1, CatchUp::All),
            schedule("five", 5, 5, CatchUp::All),
            schedule("hop", 4, 2, CatchUp::All),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(random_life(&specs, events));
    }
}
