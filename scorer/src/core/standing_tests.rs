//! Pauses, schedules that are disabled, and outages around them.

use crate::testing::*;
use fleetscore_store::{CatchUp, ScheduleSpec};

pub(super) const NOW: i64 = 1_000_000;

/// What happens to a schedule.
#[derive(Debug, Clone, Copy)]
pub(super) enum Do {
    /// So many intervals become ready, one a minute.
    Ready(i64),
    /// So many minutes pass without a reading.
    Silence(i64),
    /// So many minutes pass in which the aggregator does not get on.
    Lag(i64),
    /// A person pauses it.
    Pause,
    /// A person lets it go on.
    Resume,
    /// It is switched off in the settings.
    Disable,
    /// And on.
    Enable,
    /// No planner looks from now on.
    Down,
    /// A planner looks again.
    Up,
    /// All that is open is scored.
    Score,
    /// A reading for this minute arrives late.
    Late(i64),
}
use Do::*;

pub(super) async fn life(spec: ScheduleSpec, steps: &[Do]) -> World {
    let mut w = World::new(std::slice::from_ref(&spec), 1).await;
    w.activate().await;
    w.look().await;
    let (mut up, mut next) = (true, 0);
    let disabled = ScheduleSpec { enabled: false, ..spec.clone() };
    for step in steps {
        match step {
            Ready(n) => {
                for _ in 0..*n {
                    w.pass(1);
                    w.send(0, &[(NOW + next, 1, 1.0)], Some(at(NOW + next + 1)), false).await;
                    next += 1;
                    if up {
                        w.look().await;
                    }
                }
            }
            Silence(n) => {
                for _ in 0..*n {
                    w.pass(1);
                    next += 1;
                    w.send(0, &[], Some(at(NOW + next)), false).await;
                    if up {
                        w.look().await;
                    }
                }
            }
            Lag(n) => {
                for _ in 0..*n {
                    w.pass(1);
                    if up {
                        w.look().await;
                    }
                }
            }
            Pause => assert!(w.store.pause_schedule("default", Some("anna")).await.unwrap()),
            Resume => {
                assert!(crate::resume(w.store.clone(), "default").await.unwrap());
            }
            Disable => w.store.put_schedule(&disabled).await.unwrap(),
            Enable => w.store.put_schedule(&spec).await.unwrap(),
            Down => up = false,
            Up => {
                up = true;
                w.restart();
            }
            Score => w.score().await,
            Late(m) => w.send(0, &[(NOW + m, 2, 2.0)], Some(at(NOW + next)), false).await,
        }
        if up {
            w.look().await;
        }
    }
    w
}

const PAUSED: &str = "paused by anna";

#[tokio::test]
async fn a_pause_is_no_miss_and_is_never_filled() {
    // The same whatever the policy: name, what happens, what becomes of the intervals.
    #[rustfmt::skip]
    let cases: &[(&str, &[Do], &[&str])] = &[
        ("paused for ten intervals, resumed: they stay skipped, the eleventh is scored",
            &[Ready(1), Pause, Ready(10), Resume, Ready(1)], &["0 schedule", "1-11 paused by anna", "11 schedule"]),
        ("a pause in which nothing becomes ready leaves no row",
            &[Ready(1), Pause, Resume, Ready(1)], &["0 schedule", "1 schedule"]),
        ("still paused: one row that grows",
            &[Ready(1), Pause, Ready(3)], &["0 schedule", "1-4 paused by anna"]),
        ("paused twice: two rows",
            &[Ready(1), Pause, Ready(2), Resume, Pause, Ready(2), Resume, Ready(1)],
            &["0 schedule", "1-3 paused by anna", "3-5 paused by anna", "5 schedule"]),
        ("silence in a pause is part of it",
            &[Ready(1), Pause, Ready(1), Silence(5), Ready(1), Resume, Ready(1)],
            &["0 schedule", "1-8 paused by anna", "8 schedule"]),
        ("silence at its end is a gap when data come",
            &[Ready(1), Pause, Ready(2), Silence(5), Resume, Ready(1)],
            &["0 schedule", "1-3 paused by anna", "3-8 nothing was sent in this range", "8 schedule"]),
        ("paused before it ever ran",
            &[Pause, Ready(3), Resume, Ready(1)], &["0-3 paused by anna", "3 schedule"]),
        ("paused while the scheduler was down: all that is left is passed over",
            &[Ready(1), Down, Ready(5), Pause, Ready(5), Up, Resume, Ready(1)],
            &["0 schedule", "1-11 paused by anna", "11 schedule"]),
        ("down while paused: the pause goes on",
            &[Ready(1), Pause, Ready(2), Down, Ready(3), Up, Ready(1), Resume, Ready(1)],
            &["0 schedule", "1-7 paused by anna", "7 schedule"]),
        ("paused and resumed with no process running",
            &[Ready(1), Down, Pause, Ready(10), Resume, Up, Ready(1)],
            &["0 schedule", "1-11 paused by anna", "11 schedule"]),
        ("disabled for ten intervals", &[Ready(1), Disable, Ready(10), Enable, Ready(1)],
            &["0 schedule", "1-11 the schedule is disabled", "11 schedule"]),
        ("disabled from the start, then on",
            &[Disable, Ready(3), Enable, Ready(1)], &["0-3 the schedule is disabled", "3 schedule"]),
        ("disabled twice: two rows",
            &[Disable, Ready(2), Enable, Ready(1), Disable, Ready(2), Enable, Ready(1)],
            &["0-2 the schedule is disabled", "2 schedule", "3-5 the schedule is disabled", "5 schedule"]),
        ("paused, then disabled, then resumed, then on",
            &[Ready(1), Pause, Ready(3), Disable, Ready(3), Resume, Ready(3), Enable, Ready(1)],
            &["0 schedule", "1-7 paused by anna", "7-10 the schedule is disabled", "10 schedule"]),
        ("disabled, then paused, then on, then resumed",
            &[Ready(1), Disable, Ready(3), Pause, Ready(3), Enable, Ready(3), Resume, Ready(1)],
            &["0 schedule", "1-4 the schedule is disabled", "4-10 paused by anna", "10 schedule"]),
        ("disabled while the scheduler was down, and still when it came back",
            &[Ready(1), Down, Disable, Ready(5), Up, Enable, Ready(1)],
            &["0 schedule", "1-6 the schedule is disabled", "6 schedule"]),
        ("a late reading for what a pause passed over: it stays skipped",
            &[Ready(1), Score, Pause, Ready(3), Resume, Late(2), Ready(1)],
            &["0 schedule", "1-4 paused by anna", "4 schedule"]),
        ("a late reading during a pause: scored again by nobody, also not after it",
            &[Ready(2), Score, Pause, Late(0), Ready(1), Resume, Ready(1)],
            &["0 schedule", "1 schedule", "2-3 paused by anna", "3 schedule"]),
        ("but for a later change",
            &[Ready(2), Score, Pause, Late(0), Resume, Late(0), Ready(1)],
            &["0 schedule", "0 rescore", "1 schedule", "2 schedule"]),
    ];
    for catch_up in [CatchUp::All, CatchUp::Latest, CatchUp::None] {
        for max_age_us in [None, Some(5 * MINUTE)] {
            let spec = ScheduleSpec { max_age_us, ..schedule("default", 1, 1, catch_up) };
            for (name, steps, rows) in cases {
                let w = life(spec.clone(), steps).await;
                assert_eq!(w.told("default", NOW).await, *rows, "{name} ({catch_up:?}, {max_age_us:?})");
                assert!(w.store.changed_panes(9).await.unwrap().is_empty(), "{name}: the log is dealt with");
            }
        }
    }
}

#[tokio::test]
async fn an_outage_beside_a_pause_is_a_miss() {
    let latest = "ready before the schedule looked: catch_up is latest";
    let none = "ready before the schedule looked: catch_up is none";
    let age = "ready for longer than max_age";
    let before: &[Do] = &[Ready(1), Down, Pause, Ready(3), Resume, Ready(10), Up, Ready(1)];
    let after: &[Do] = &[Ready(1), Pause, Ready(3), Resume, Down, Ready(10), Up, Ready(1)];
    let unseen: &[Do] = &[Ready(1), Pause, Ready(3), Resume, Down, Disable, Ready(10), Enable, Up, Ready(1)];
    let runs = |from, to| (from..to).map(|m| format!("{m} catch_up")).collect::<Vec<_>>();
    // name, policy, max_age, what becomes of minutes 4 to 13
    let cases = [
        ("all", CatchUp::All, None, runs(4, 14)),
        (
            "all within five minutes",
            CatchUp::All,
            Some(5),
            [vec![format!("4-8 {age}")], runs(8, 14)].concat(),
        ),
        ("latest", CatchUp::Latest, None, [vec![format!("4-13 {latest}")], runs(13, 14)].concat()),
        ("none", CatchUp::None, None, vec![format!("4-14 {none}")]),
    ];
    for (steps, what) in [
        (before, "paused and resumed in the outage"),
        (after, "paused before it"),
        (unseen, "disabled and on again in the outage: nobody saw it"),
    ] {
        for (name, catch_up, max_age, rows) in &cases {
            let max_age_us = max_age.map(|m: i64| m * MINUTE);
            let w = life(ScheduleSpec { max_age_us, ..schedule("default", 1, 1, *catch_up) }, steps).await;
            let head = vec!["0 schedule".to_owned(), format!("1-4 {PAUSED}")];
            let expected = [head, rows.clone(), vec!["14 schedule".to_owned()]].concat();
            assert_eq!(w.told("default", NOW).await, expected, "{what}: {name}");
        }
    }
}

#[tokio::test]
async fn a_pause_says_who_and_holds_up_nobody_else() {
    let specs = [schedule("default", 1, 1, CatchUp::All), schedule("other", 1, 1, CatchUp::All)];
    let mut w = World::new(&specs, 1).await;
    w.activate().await;
    w.look().await;
    w.store.pause_schedule("default", Some("anna")).await.unwrap();
    w.send(0, &[(0, 1, 1.0), (1, 1, 1.0)], Some(at(2)), false).await;
    let waiting = w.look().await.unwrap();
    assert!(waiting.starts_with("default: paused by anna since 2027-"), "{waiting}");
    assert_eq!(w.told("default", 0).await, [format!("0-2 {PAUSED}")]);
    assert_eq!(w.told("other", 0).await, ["0 schedule", "1 schedule"]);
    w.score().await;
    // A late reading: one schedule has it scored again, the paused one does not.
    w.send(0, &[(0, 2, 1.0)], Some(at(2)), false).await;
    w.look().await;
    assert_eq!(w.told("other", 0).await, ["0 schedule", "0 rescore", "1 schedule"]);
    // Resuming leaves the others, and the log, to planners.
    w.score().await;
    w.send(0, &[(2, 1, 1.0), (0, 3, 1.0)], Some(at(3)), false).await;
    assert!(crate::resume(w.store.clone(), "default").await.unwrap());
    assert_eq!(w.told("default", 0).await, [format!("0-3 {PAUSED}")]);
    assert_eq!(w.told("other", 0).await.len(), 3);
    assert!(!w.store.changed_panes(9).await.unwrap().is_empty());
    assert!(!crate::resume(w.store.clone(), "default").await.unwrap(), "not paused");
    let error = crate::resume(w.store.clone(), "nobody").await.unwrap_err();
    assert!(error.to_string().contains("there is no schedule `nobody`"), "{error}");
}

#[tokio::test]
async fn a_schedule_that_is_persons_alone_opens_nothing() {
    let spec = ScheduleSpec {
        trigger: fleetscore_store::Trigger::Manual,
        ..schedule("default", 1, 1, CatchUp::All)
    };
    let w = life(spec, &[Ready(3), Late(0)]).await;
    assert_eq!(w.told("default", NOW).await, Vec::<String>::new());
    assert!(w.store.changed_panes(9).await.unwrap().is_empty(), "the log does not wait for it");
    let row = w.row("default").await;
    assert_eq!((row.looked_at, row.covered_until), (None, None));
    // When that changes, what is there was missed.
    w.store.put_schedule(&schedule("default", 1, 1, CatchUp::Latest)).await.unwrap();
    let mut w = w;
    w.look().await;
    assert_eq!(w.told("default", NOW).await, ["0-3 ready before the schedule was made"]);
}

#[tokio::test]
async fn resuming_passes_over_what_the_services_hold_ready_and_no_more() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 2).await;
    w.activate().await;
    w.look().await;
    w.store.pause_schedule("default", Some("anna")).await.unwrap();
    // One partition is behind: it is silent, and waited for as long as the services say.
    w.send(1, &[(0, 2, 1.0)], Some(at(1)), false).await;
    w.pass(5);
    w.send(0, &[(0, 1, 1.0), (1, 1, 1.0)], Some(at(2)), false).await;
    assert!(crate::resume(w.store.clone(), "default").await.unwrap());
    assert_eq!(w.told("default", 0).await, [format!("0-1 {PAUSED}")]);
    // With a shorter wait the same would have been ready.
    w.store.pause_schedule("default", Some("anna")).await.unwrap();
    let stored = fleetscore_store::ReadinessSettings { max_wait_us: MINUTE, ..readiness() };
    w.store.put_readiness(&stored).await.unwrap();
    assert!(crate::resume(w.store.clone(), "default").await.unwrap());
    assert_eq!(w.told("default", 0).await.len(), 2, "minute 1 as well");
}
