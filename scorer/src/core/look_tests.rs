//! Planners without a leader, and what policies make of an outage.

use crate::testing::*;
use fleetscore_schemas::status::RunCause::{CatchUp as Caught, Schedule};
use fleetscore_schemas::status::RunState::*;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::forward::Forward;
use fleetscore_store::{CatchUp, MemoryStore, Result, ScheduleSpec, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// The store's clock at the start, in minutes: data arrive in real time.
const NOW: i64 = 1_000_000;

/// A schedule that has scored the interval before `NOW`, with a planner that looked a moment ago.
async fn scored_up_to_now(spec: ScheduleSpec) -> World {
    let mut w = World::new(&[spec], 1).await;
    w.activate().await;
    w.look().await;
    w.send(0, &[(NOW - 1, 1, 1.0)], Some(at(NOW)), false).await;
    w.look().await;
    w.score().await;
    w
}

/// So many minutes pass in which intervals become ready and no planner looks; data come for `minutes` of them.
async fn outage(w: &mut World, from: i64, minutes: i64, with_data: std::ops::Range<i64>) {
    w.pass(minutes);
    let readings: Vec<_> = with_data.map(|m| (NOW + m, 1, 1.0)).collect();
    w.send(0, &readings, Some(at(NOW + from + minutes)), false).await;
}

fn minutes(of: std::ops::Range<i64>, cause: &str) -> Vec<String> {
    of.map(|m| format!("{m} {cause}")).collect()
}

struct Case {
    name: &'static str,
    catch_up: CatchUp,
    max_age: Option<i64>,
    max_runs: Option<u32>,
    /// Minutes of the outage with data.
    data: std::ops::Range<i64>,
    skipped: Option<(i64, i64, &'static str)>,
    caught_up: std::ops::Range<i64>,
}

const AGE: &str = "ready for longer than max_age";
const RUNS: &str = "beyond max_runs";
const LATEST: &str = "ready before the schedule looked: catch_up is latest";
const NONE: &str = "ready before the schedule looked: catch_up is none";

#[rustfmt::skip]
fn outages() -> Vec<Case> {
    let case = |name, catch_up, max_age, max_runs, data, skipped, caught_up| {
        Case { name, catch_up, max_age, max_runs, data, skipped, caught_up }
    };
    use CatchUp::{All, Latest, None as Nothing};
    vec![
        case("all: every missed interval is scored", All, None, None, 0..50, None, 0..50),
        case("latest: the newest one", Latest, None, None, 0..50, Some((0, 49, LATEST)), 49..50),
        case("none: not one", Nothing, None, None, 0..50, Some((0, 50, NONE)), 50..50),
        case("all, within 20 minutes of readiness", All, Some(20), None, 0..50, Some((0, 29, AGE)), 29..50),
        case("all, a bound longer than the outage", All, Some(60), None, 0..50, None, 0..50),
        case("all, a bound as long as the outage: somebody looked just then", All, Some(50), None, 0..50, None, 0..50),
        case("latest, within 20 minutes", Latest, Some(20), None, 0..50, Some((0, 49, LATEST)), 49..50),
        case("latest, and the newest is too old", Latest, Some(20), None, 0..11, Some((0, 11, AGE)), 11..11),
        case("none, within 20 minutes", Nothing, Some(20), None, 0..50, Some((0, 50, NONE)), 50..50),
        case("at most ten", All, None, Some(10), 0..50, Some((0, 40, RUNS)), 40..50),
        case("at most ten, five missed", All, None, Some(10), 45..50, None, 45..50),
        case("at most as many as were missed", All, None, Some(50), 0..50, None, 0..50),
        case("at most more than were missed", All, None, Some(100), 0..50, None, 0..50),
        case("at most one is the latest", All, None, Some(1), 0..50, Some((0, 49, RUNS)), 49..50),
        case("at most nothing", All, None, Some(0), 0..50, Some((0, 50, RUNS)), 50..50),
        case("at most ten, within 20 minutes: the number is less", All, Some(20), Some(10), 0..50, Some((0, 40, RUNS)), 40..50),
        case("at most thirty, within 20 minutes: the age is less", All, Some(20), Some(30), 0..50, Some((0, 29, AGE)), 29..50),
        case("latest, at most ten", Latest, None, Some(10), 0..50, Some((0, 49, LATEST)), 49..50),
        case("none, at most ten", Nothing, None, Some(10), 0..50, Some((0, 50, NONE)), 50..50),
    ]
}

/// Rows of a case from minute 0 on, the interval after the outage included.
fn expected(case: &Case) -> Vec<String> {
    let mut rows: Vec<String> = case.skipped.iter().map(|(a, b, why)| format!("{a}-{b} {why}")).collect();
    let dealt = case.skipped.map_or(0, |s| s.1).max(case.caught_up.end);
    if case.caught_up.start > case.skipped.map_or(0, |s| s.1) {
        rows.push(format!("0-{} nothing was sent in this range", case.caught_up.start));
    }
    rows.extend(minutes(case.caught_up.clone(), "catch_up"));
    if dealt < 50 {
        rows.push(format!("{dealt}-50 nothing was sent in this range"));
    }
    rows.push("50 schedule".to_owned());
    rows
}

fn spec(case: &Case) -> ScheduleSpec {
    ScheduleSpec {
        max_age_us: case.max_age.map(|m| m * MINUTE),
        max_runs: case.max_runs,
        ..schedule("default", 1, 1, case.catch_up)
    }
}

async fn seam(w: &mut World) -> Vec<String> {
    // The first interval after the outage becomes ready while somebody looks.
    w.send(0, &[(NOW + 50, 1, 1.0)], Some(at(NOW + 51)), false).await;
    w.look().await;
    w.score().await;
    w.look().await;
    assert!(w.store.changed_panes(99).await.unwrap().is_empty());
    w.told("default", NOW).await.split_off(1)
}

#[tokio::test]
async fn after_an_outage_of_fifty_intervals() {
    for case in outages() {
        let mut w = scored_up_to_now(spec(&case)).await;
        outage(&mut w, 0, 50, case.data.clone()).await;
        w.restart();
        w.look().await;
        assert_eq!(seam(&mut w).await, expected(&case), "{}", case.name);
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_catch_up_changes_nothing() {
    for case in outages() {
        let mut w = scored_up_to_now(spec(&case)).await;
        outage(&mut w, 0, 50, case.data.clone()).await;
        for second in 0..20 {
            w.restart();
            w.look_once().await;
            w.pass_us(1_000_000);
            // A moment may be long, as long as it is not an outage.
            if second % 7 == 3 {
                w.pass_us(45_000_000);
            }
        }
        w.look().await;
        assert_eq!(seam(&mut w).await, expected(&case), "{}", case.name);
    }
}

#[tokio::test]
async fn a_second_outage_in_the_middle_of_a_catch_up() {
    // Name, policy, at most, what comes of ten intervals of which five were opened before the second one.
    let of = |name, catch_up, max_runs, rows: Vec<String>| (name, catch_up, max_runs, rows);
    let cases = [
        of("all: the rest and the new ones", CatchUp::All, None, minutes(0..20, "catch_up")),
        of(
            "at most nine: of the first outage four are left, of both together the newest nine",
            CatchUp::All,
            Some(9),
            [
                vec![format!("0-1 {RUNS}")],
                minutes(1..6, "catch_up"),
                vec![format!("6-11 {RUNS}")],
                minutes(11..20, "catch_up"),
            ]
            .concat(),
        ),
        of(
            "latest: of each the newest",
            CatchUp::Latest,
            None,
            vec![
                format!("0-9 {LATEST}"),
                "9 catch_up".into(),
                format!("10-19 {LATEST}"),
                "19 catch_up".into(),
            ],
        ),
        of("none", CatchUp::None, None, vec![format!("0-10 {NONE}"), format!("10-20 {NONE}")]),
    ];
    for (name, catch_up, max_runs, rows) in cases {
        let mut w = scored_up_to_now(ScheduleSpec { max_runs, ..schedule("default", 1, 1, catch_up) }).await;
        outage(&mut w, 0, 10, 0..10).await;
        w.restart();
        w.look_once().await;
        outage(&mut w, 10, 10, 10..20).await;
        w.restart();
        w.look().await;
        assert_eq!(w.told("default", NOW).await.split_off(1), rows, "{name}");
    }
}

#[tokio::test]
async fn a_second_process_misses_nothing_that_the_first_one_saw() {
    for catch_up in [CatchUp::All, CatchUp::Latest, CatchUp::None] {
        let mut w = scored_up_to_now(schedule("default", 1, 1, catch_up)).await;
        for m in 0..5 {
            w.pass(1);
            w.send(0, &[(NOW + m, 1, 1.0)], Some(at(NOW + m + 1)), false).await;
            // Each of them starts when the interval is ready already, while another one looks.
            w.restart();
            w.look().await;
        }
        let rows = w.told("default", NOW).await.split_off(1);
        assert_eq!(rows, minutes(0..5, "schedule"), "{catch_up:?}");
    }
}

#[tokio::test]
async fn whoever_looks_says_so_every_ten_seconds() {
    let mut w = scored_up_to_now(schedule("default", 1, 1, CatchUp::All)).await;
    w.pass_us(10_000_000);
    w.look().await;
    let before = w.row("default").await;
    assert_eq!(before.looked_at, Some(w.store.now().await.unwrap()));
    for _ in 0..60 {
        w.pass_us(1_000_000);
        w.look().await;
    }
    let after = w.row("default").await;
    assert_eq!(after.revision - before.revision, 6, "an idle minute is six transactions");
    assert_eq!(after.looked_at.unwrap().0 - before.looked_at.unwrap().0, MINUTE);
    assert_eq!(after.missed, before.missed, "nothing was missed");
}

#[tokio::test]
async fn at_most_so_many_of_windows_that_overlap_or_are_long() {
    // name, window, hop, at most, minutes of an outage with data, (from, to) of what is skipped, first of what is caught up
    #[rustfmt::skip]
    let cases = [
        ("windows of five minutes", 5, 5, 2, 0..40, (0, 30), vec![30, 35]),
        ("windows that overlap", 4, 2, 3, 0..40, (-2, 34), vec![32, 34, 36]),
        ("windows with room between them", 1, 5, 2, 0..40, (0, 26), vec![30, 35]),
        ("data in few of them", 5, 5, 1, 12..13, (0, 0), vec![10]),
    ];
    for (name, window, hop, max_runs, data, skipped, caught) in cases {
        let spec =
            ScheduleSpec { max_runs: Some(max_runs), ..schedule("default", window, hop, CatchUp::All) };
        let mut w = World::new(&[spec], 1).await;
        w.activate().await;
        let readings: Vec<_> = data.map(|m| (NOW + m, 1, 1.0)).collect();
        w.send(0, &readings, Some(at(NOW + 40)), false).await;
        w.look().await;
        let runs = w.runs("default").await;
        let of = |state| {
            let rows = runs.iter().filter(move |r| r.2 == state);
            rows.map(|r| (r.0 - NOW, r.1 - NOW, r.3)).collect::<Vec<_>>()
        };
        let range: Vec<_> =
            (skipped.0 < skipped.1).then_some((skipped.0, skipped.1, Caught)).into_iter().collect();
        let gaps = |rows: Vec<(i64, i64, _)>| rows.into_iter().filter(|r| r.2 == Caught).collect::<Vec<_>>();
        assert_eq!(gaps(of(Skipped)), range, "{name}");
        assert_eq!(
            of(Running),
            caught.iter().map(|s| (*s, s + window, Caught)).collect::<Vec<_>>(),
            "{name}"
        );
        assert!(runs.iter().all(|r| r.3 != Schedule), "{name}");
    }
}

/// A store of so many series that looking for stale ones takes a second.
#[derive(Debug)]
struct Large {
    inner: MemoryStore,
    clock: Arc<AtomicI64>,
    asked: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl Forward for Large {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }

    async fn stale_series(&self, schedule: &str, interval: Interval) -> Result<u64> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.clock.fetch_add(1_000_000, Ordering::SeqCst);
        self.inner.stale_series(schedule, interval).await
    }
}

/// A world on such a store, and how often it was asked for stale series.
async fn large(spec: ScheduleSpec) -> (World, Arc<AtomicUsize>) {
    let clock = Arc::new(AtomicI64::new(at(NOW).0));
    let (told, asked) = (clock.clone(), Arc::new(AtomicUsize::new(0)));
    let inner = MemoryStore::with_clock(Arc::new(move || Timestamp(told.load(Ordering::SeqCst))));
    let store = Large { inner, clock: clock.clone(), asked: asked.clone() };
    let mut w = World::on(Arc::new(store), clock, &[spec], 1).await;
    w.widen();
    w.activate().await;
    w.look().await;
    (w, asked)
}

#[tokio::test]
async fn late_readings_of_a_large_fleet_do_not_hold_up_what_is_ready_now() {
    // What the late readings are for, and what becomes of their intervals.
    for stale in [true, false] {
        let (mut w, asked) = large(schedule("default", 1, 1, CatchUp::None)).await;
        let old: Vec<_> = (NOW - 100..NOW).map(|m| (m, 1, 1.0)).collect();
        for chunk in old.chunks(5) {
            w.send(0, chunk, Some(at(chunk[4].0 + 1)), false).await;
            w.look().await;
        }
        let late: Vec<_> = old.iter().map(|(m, ..)| (*m, 2, 1.0)).collect();
        match stale {
            true => {
                w.score().await;
                w.send(0, &late, Some(at(NOW)), false).await;
            }
            // The runs read them: nothing is stale.
            false => {
                w.send(0, &late, Some(at(NOW)), false).await;
                w.score().await;
            }
        }
        let mut looks = 0;
        for minute in 0..60 {
            w.pass_us(100_000);
            w.send(0, &[(NOW + minute, 1, 1.0)], Some(at(NOW + minute + 1)), false).await;
            let before = asked.swap(0, Ordering::SeqCst);
            assert!(before <= 4 * looks, "{before} questions in {looks} looks");
            looks = 1;
            let looked = w.look_at().await;
            let told = w.told("default", NOW + minute).await;
            assert!(told.contains(&"0 schedule".to_owned()), "opened in the same look: {told:?}");
            let (began, beats) = (w.store.now().await.unwrap(), w.row("default").await.looked_at.unwrap());
            assert!(began.0 - beats.0 < 10_000_000, "every look says so");
            if !looked.more {
                break;
            }
        }
        w.look().await;
        w.score().await;
        w.look().await;
        assert!(w.store.changed_panes(9999).await.unwrap().is_empty(), "stale: {stale}");
        let told = w.told("default", NOW).await;
        assert_eq!(told.iter().filter(|t| t.ends_with("rescore")).count(), if stale { 100 } else { 0 });
        assert!(!told.iter().any(|t| t.contains("looked")), "nothing was missed: {told:?}");
    }
}

#[tokio::test]
async fn a_late_reading_in_many_windows_is_dealt_with_in_turns() {
    let spec = schedule("default", 60, 1, CatchUp::All);
    let (mut w, asked) = large(spec).await;
    let old: Vec<_> = (NOW..NOW + 90).map(|m| (m, 1, 1.0)).collect();
    w.send(0, &old, Some(at(NOW + 90)), false).await;
    w.look().await;
    w.score().await;
    w.look().await;
    asked.store(0, Ordering::SeqCst);
    w.send(0, &[(NOW + 30, 2, 1.0)], Some(at(NOW + 90)), false).await;
    w.look().await;
    w.score().await;
    w.look().await;
    assert!(w.store.changed_panes(9999).await.unwrap().is_empty());
    let told = w.told("default", NOW).await;
    let again = told.iter().filter(|t| t.ends_with("rescore")).count();
    assert!(again > 20, "{told:?}");
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked <= 2 * again + 8, "once for each window, and once when it was scored: {asked} for {again}");
}
