//! Fires of cron schedules, made or not. The clock starts at 10:40.

use super::standing_tests::{Do, Do::*, NOW, life};
use crate::testing::*;
use fleetscore_store::{CatchUp, ScheduleSpec, Trigger};

fn cron(expression: &str) -> Trigger {
    Trigger::Cron { expression: expression.into(), time_zone: "Europe/Berlin".into() }
}

fn every_ten_minutes(catch_up: CatchUp) -> ScheduleSpec {
    ScheduleSpec { trigger: cron("*/10 * * * *"), ..schedule("default", 1, 1, catch_up) }
}

/// Fires as `10 made`, `20-40 (3) missed: …`, in minutes after the start.
fn fires(w: &World) -> Vec<String> {
    let fires = w.fires.lock().unwrap();
    let minute = |t: fleetscore_schemas::time::Timestamp| (t.0 - at(NOW).0) / MINUTE;
    fires
        .iter()
        .map(|f| {
            let when = match f.fires {
                1 => minute(f.at).to_string(),
                n => format!("{}-{} ({n})", minute(f.at), minute(f.last)),
            };
            let reason = f.reason.clone().unwrap_or_else(|| "made".to_owned());
            let reason = reason.split(" since ").next().unwrap_or_default();
            format!("{when} {}", reason.split(" of cluster: its ").next().unwrap_or_default())
        })
        .collect()
}

/// Intervals as stretches: `0-10 schedule` are ten runs.
fn stretches(told: &[String]) -> Vec<String> {
    let mut out: Vec<(i64, i64, String)> = Vec::new();
    for row in told {
        let (when, what) = row.split_once(' ').unwrap();
        let (from, to) = match when.split_once('-') {
            Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
            None => (when.parse().unwrap(), when.parse::<i64>().unwrap() + 1),
        };
        match out.last_mut() {
            Some(last) if last.2 == what && last.1 == from => last.1 = to,
            _ => out.push((from, to, what.to_owned())),
        }
    }
    out.iter().map(|(from, to, what)| format!("{from}-{to} {what}")).collect()
}

const BUSY: &str = "the previous fire's runs are still open";

#[tokio::test]
async fn every_fire_is_made_or_says_why_not() {
    // name, what happens, fires, intervals
    #[rustfmt::skip]
    let cases: &[(&str, &[Do], &[&str], &[&str])] = &[
        ("making a schedule fires nothing", &[Ready(9)], &[], &[]),
        ("all that is ready at the fire", &[Ready(12)], &["10 made"], &["0-10 schedule"]),
        ("each fire what became ready since", &[Ready(10), Score, Ready(10), Score, Ready(5)],
            &["10 made", "20 made"], &["0-20 schedule"]),
        ("the previous runs are still open: the next fire takes all",
            &[Ready(20), Score, Ready(10)], &["10 made", "20 the previous fire's runs are still open", "30 made"],
            &["0-30 schedule"]),
        ("nothing was sent", &[Ready(10), Score, Silence(10), Ready(10)],
            &["10 made", "20 not ready: nothing was sent", "30 made"],
            &["0-10 schedule", "10-20 nothing was sent in this range", "20-30 schedule"]),
        ("nothing was ever sent", &[Lag(10)], &["10 not ready: nothing was sent yet"], &[]),
        ("the aggregator lags", &[Ready(10), Score, Lag(9), Lag(1)], &["10 made", "20 not ready: t/0"], &["0-10 schedule"]),
        ("paused over a fire: what it would have released is passed over",
            &[Ready(10), Score, Pause, Ready(10), Resume, Ready(10)], &["10 made", "20 paused by anna", "30 made"],
            &["0-10 schedule", "10-20 paused by anna", "20-30 schedule"]),
        ("paused over two fires: one range", &[Ready(10), Score, Pause, Ready(20), Resume, Ready(10)],
            &["10 made", "20 paused by anna", "30 paused by anna", "40 made"],
            &["0-10 schedule", "10-30 paused by anna", "30-40 schedule"]),
        ("paused between two fires: nothing is passed over",
            &[Ready(10), Score, Ready(2), Pause, Ready(5), Resume, Ready(3)], &["10 made", "20 made"], &["0-20 schedule"]),
        ("paused over a fire with no process running",
            &[Ready(10), Score, Down, Pause, Ready(12), Resume, Up, Ready(8)], &["10 made", "20 paused by anna", "30 made"],
            &["0-10 schedule", "10-22 paused by anna", "22-30 schedule"]),
        ("disabled over a fire",
            &[Ready(10), Score, Disable, Ready(10), Enable, Ready(10)], &["10 made", "20 the schedule is disabled", "30 made"],
            &["0-10 schedule", "10-20 the schedule is disabled", "20-30 schedule"]),
        ("down between two fires: nothing was missed",
            &[Ready(10), Score, Down, Ready(8), Up, Ready(2)], &["10 made", "20 made"], &["0-20 schedule"]),
        ("a late reading is scored again without a fire", &[Ready(10), Score, Late(3)], &["10 made"],
            &["0-4 schedule", "3-4 rescore", "4-10 schedule"]),
        ("a late reading before a fire needs none", &[Ready(5), Late(3), Ready(5)], &["10 made"], &["0-10 schedule"]),
    ];
    for catch_up in [CatchUp::All, CatchUp::Latest, CatchUp::None] {
        for (name, steps, made, intervals) in cases {
            let w = life(every_ten_minutes(catch_up), steps).await;
            assert_eq!(fires(&w), *made, "{name} ({catch_up:?})");
            assert_eq!(stretches(&w.told("default", NOW).await), *intervals, "{name} ({catch_up:?})");
            assert!(w.store.changed_panes(9).await.unwrap().is_empty(), "{name}: the log is dealt with");
        }
    }
    assert!(cases.iter().any(|c| c.2.iter().any(|f| f.ends_with(BUSY))));
}

#[tokio::test]
async fn fires_that_nobody_made_are_one_row_and_their_intervals_a_miss() {
    let steps: &[Do] = &[Ready(10), Score, Down, Ready(35), Up, Score, Ready(5)];
    let missed = |rows: &[&str]| {
        let all = [&["0-10 schedule"], rows, &["40-50 schedule"]].concat();
        all.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>()
    };
    // name, policy, max_age, max_runs, intervals; those of the time after the last missed fire wait for the next one.
    #[rustfmt::skip]
    let cases = [
        ("all", CatchUp::All, None, None, missed(&["10-40 catch_up"])),
        ("all within five minutes", CatchUp::All, Some(5), None,
            missed(&["10-39 ready for longer than max_age", "39-40 catch_up"])),
        ("at most four", CatchUp::All, None, Some(4), missed(&["10-36 beyond max_runs", "36-40 catch_up"])),
        ("latest", CatchUp::Latest, None, None,
            missed(&["10-39 ready before the schedule looked: catch_up is latest", "39-40 catch_up"])),
        ("none", CatchUp::None, None, None, missed(&["10-40 ready before the schedule looked: catch_up is none"])),
    ];
    for (name, catch_up, max_age, max_runs, intervals) in cases {
        let spec = ScheduleSpec {
            max_age_us: max_age.map(|m: i64| m * MINUTE),
            max_runs,
            ..every_ten_minutes(catch_up)
        };
        let w = life(spec, steps).await;
        let expected = ["10 made", "20-40 (3) missed: no scheduler was running", "50 made"];
        assert_eq!(fires(&w), expected, "{name}");
        assert_eq!(stretches(&w.told("default", NOW).await), intervals, "{name}");
    }
}

#[tokio::test]
async fn a_new_schedule_begins_by_its_policy_and_waits_for_its_first_fire() {
    let begun = ["0-5 ready before the schedule was made", "5-10 schedule"];
    for (catch_up, expected) in
        [(CatchUp::All, ["0-5 catch_up", "5-10 schedule"]), (CatchUp::Latest, begun), (CatchUp::None, begun)]
    {
        let mut w = World::new(&[], 1).await;
        w.activate().await;
        let readings: Vec<_> = (0..5).map(|m| (NOW + m, 1, 1.0)).collect();
        w.pass(5);
        w.send(0, &readings, Some(at(NOW + 5)), false).await;
        w.store.put_schedule(&every_ten_minutes(catch_up)).await.unwrap();
        w.look().await;
        assert!(fires(&w).is_empty());
        assert!(w.told("default", NOW).await.iter().all(|r| r.contains("before the schedule was made")));
        for m in 5..10 {
            w.pass(1);
            w.send(0, &[(NOW + m, 1, 1.0)], Some(at(NOW + m + 1)), false).await;
            w.look().await;
        }
        assert_eq!(fires(&w), ["10 made"]);
        assert_eq!(stretches(&w.told("default", NOW).await), expected, "{catch_up:?}");
    }
}

#[tokio::test]
async fn another_expression_makes_no_fires_of_the_past() {
    let mut w = life(
        ScheduleSpec { trigger: cron("0 0 1 1 *"), ..schedule("default", 1, 1, CatchUp::All) },
        &[Ready(35)],
    )
    .await;
    assert!(fires(&w).is_empty());
    w.store.put_schedule(&every_ten_minutes(CatchUp::All)).await.unwrap();
    w.look().await;
    assert!(fires(&w).is_empty(), "10, 20 and 30 are over");
    for m in 35..40 {
        w.pass(1);
        w.send(0, &[(NOW + m, 1, 1.0)], Some(at(NOW + m + 1)), false).await;
        w.look().await;
    }
    assert_eq!(fires(&w), ["40 made"]);
    // From intervals to cron, and what was scored before stays.
    let mut w = life(schedule("default", 1, 1, CatchUp::All), &[Ready(35)]).await;
    w.store.put_schedule(&every_ten_minutes(CatchUp::All)).await.unwrap();
    w.look().await;
    assert!(fires(&w).is_empty());
    assert_eq!(stretches(&w.told("default", NOW).await), ["0-35 schedule"]);
}

#[tokio::test]
async fn an_expression_that_cannot_be_read_is_said() {
    let spec = ScheduleSpec { trigger: cron("every day"), ..schedule("default", 1, 1, CatchUp::All) };
    let mut w = World::new(&[spec], 1).await;
    w.activate().await;
    w.send(0, &[(0, 1, 1.0)], Some(at(1)), false).await;
    let waiting = w.look().await.unwrap();
    assert!(waiting.contains("default: the cron expression `every day` has 2 fields"), "{waiting}");
    assert_eq!(w.told("default", NOW).await, Vec::<String>::new());
}
