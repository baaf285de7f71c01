//! Who is silent, of the series and of the fleet.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::status::{RunCause, RunScope};

super::list![
    silence_begins_and_ends_with_an_interval,
    the_roster_goes_interval_by_interval,
    a_rescore_does_not_disturb_the_roster,
    long_silence_is_an_event_with_its_number,
    a_range_without_runs_is_passed,
    a_silent_fleet_is_an_event_once,
];

/// A schedule that is to score minutes `0..covered`.
async fn covering(store: Arc<dyn Store>, covered: i64) -> Stream {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    cover(&s, covered).await;
    s
}

async fn cover(s: &Stream, covered: i64) {
    let row = s.store.schedules().await.unwrap().remove(0);
    let step = ScheduleMove {
        name: "default".into(),
        revision: row.revision,
        first_interval: Some(at(0)),
        covered_until: Some(at(covered)),
        ..ScheduleMove::default()
    };
    let plan = Plan { schedules: vec![step], ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
}

/// Rows in which these series (by number) are silent, of the first three.
fn silent(s: &Stream, silent: &[usize]) -> Vec<Scored> {
    (0..3)
        .map(|i| (s.series[i], (!silent.contains(&i)).then_some(0.5), i64::from(!silent.contains(&i))))
        .collect()
}

async fn minute(s: &Stream, minute: i64, quiet: &[usize]) {
    score(&*s.store, "default", span(minute, minute + 1), &silent(s, quiet)).await;
}

async fn advance(s: &Stream) -> bool {
    s.store.advance_roster("default", Some(90_000_000)).await.unwrap()
}

async fn until(s: &Stream) -> Option<Timestamp> {
    s.store.schedules().await.unwrap().remove(0).roster_until
}

fn told(device: &str, noticed: bool, over: bool) -> (String, bool, bool) {
    (device.to_owned(), noticed, over)
}

async fn silence_begins_and_ends_with_an_interval(store: Arc<dyn Store>) {
    let s = covering(store, 4).await;
    assert!(!advance(&s).await, "nothing was scored yet");
    assert!(!s.store.advance_roster("nobody", None).await.unwrap());
    minute(&s, 0, &[1]).await;
    assert!(advance(&s).await);
    assert_eq!(until(&s).await, Some(at(1)));
    assert_eq!(silences(&*s.store).await, [told("d1", false, false)]);
    minute(&s, 1, &[1, 2]).await;
    assert!(advance(&s).await);
    assert_eq!(silences(&*s.store).await.len(), 2, "one that goes on is one");
    minute(&s, 2, &[2]).await;
    minute(&s, 3, &[1, 2]).await;
    assert!(advance(&s).await && advance(&s).await && !advance(&s).await);
    let all = silences(&*s.store).await;
    assert_eq!(all[0], told("d1", true, true), "the first of it is over");
    assert_eq!((all[1].0.as_str(), all[1].2), ("d1", false), "and it is silent again");
    assert_eq!((all[2].0.as_str(), all[2].2, all.len()), ("d2", false, 3));
}

async fn the_roster_goes_interval_by_interval(store: Arc<dyn Store>) {
    let s = covering(store, 3).await;
    let open = [0, 1, 2].map(|m| new_run("default", span(m, m + 1), Some(1)));
    let ids = open_runs(&*s.store, open.to_vec()).await;
    let finish = async |i: usize, quiet: &[usize]| {
        let claim = TaskClaim { run_ids: Some(vec![ids[i]]), ..wish(LONG) };
        let task = s.store.claim_task(&claim).await.unwrap().unwrap();
        assert!(is_done(&commit_rows(&*s.store, &task, &silent(&s, quiet)).await.unwrap()));
    };
    finish(1, &[0]).await;
    assert!(!advance(&s).await, "the one before is not over");
    finish(2, &[]).await;
    assert!(!advance(&s).await);
    finish(0, &[]).await;
    for minute in 1..4 {
        assert!(advance(&s).await);
        assert_eq!(until(&s).await, Some(at(minute)));
    }
    assert!(!advance(&s).await);
    assert_eq!(silences(&*s.store).await, [told("d0", false, true)], "it ended where it ended in time");
}

async fn a_rescore_does_not_disturb_the_roster(store: Arc<dyn Store>) {
    let s = covering(store, 3).await;
    minute(&s, 0, &[1]).await;
    minute(&s, 1, &[1]).await;
    assert!(advance(&s).await && advance(&s).await);
    let before = silences(&*s.store).await;
    // Late readings of a silent series, in an interval that is in the roster.
    let again = NewRun {
        scope: RunScope::Stale,
        cause: RunCause::Rescore,
        ..new_run("default", span(0, 1), Some(1))
    };
    open_runs(&*s.store, vec![again]).await;
    assert!(!advance(&s).await);
    let task = claim_any(&*s.store, LONG).await.unwrap();
    assert!(is_done(&commit_rows(&*s.store, &task, &silent(&s, &[])).await.unwrap()));
    assert!(!advance(&s).await);
    assert_eq!((silences(&*s.store).await, until(&s).await), (before, Some(at(2))));
    // An open re-score of an interval that is to come does not hold it up; its full run does.
    minute(&s, 2, &[]).await;
    let stale = NewRun { scope: RunScope::Stale, ..new_run("default", span(2, 3), Some(1)) };
    open_runs(&*s.store, vec![stale]).await;
    assert!(advance(&s).await);
    assert_eq!(silences(&*s.store).await, [told("d1", true, true)]);
}

async fn long_silence_is_an_event_with_its_number(store: Arc<dyn Store>) {
    let s = covering(store, 9).await;
    let named = |kind: &str, n| (kind.to_owned(), Some(n));
    minute(&s, 0, &[0, 1]).await;
    assert!(advance(&s).await);
    assert!(events(&*s.store).await.is_empty(), "a minute is no longer than a minute and a half");
    minute(&s, 1, &[0, 1, 2]).await;
    assert!(advance(&s).await);
    let mut wanted = vec![named("series_silent", 2)];
    assert_eq!(events(&*s.store).await, wanted, "one for all of them");
    minute(&s, 2, &[0, 2]).await;
    assert!(advance(&s).await);
    let mut got = events(&*s.store).await.split_off(1);
    got.sort();
    assert_eq!(got, [named("series_back", 1), named("series_silent", 1)]);
    wanted = events(&*s.store).await;
    minute(&s, 3, &[0, 1, 2]).await;
    assert!(advance(&s).await);
    assert_eq!(events(&*s.store).await, wanted, "said once");
    minute(&s, 4, &[]).await;
    assert!(advance(&s).await);
    wanted.push(named("series_back", 2));
    assert_eq!(events(&*s.store).await, wanted, "who was silent for a moment is not said to be back");
    // Without a limit there are silences and no events.
    for quiet in 5..8 {
        minute(&s, quiet, &[0]).await;
        assert!(s.store.advance_roster("default", None).await.unwrap());
    }
    assert_eq!(events(&*s.store).await, wanted);
    assert_eq!(silences(&*s.store).await[1], told("d0", false, false));
}

async fn a_range_without_runs_is_passed(store: Arc<dyn Store>) {
    let s = covering(store, 8).await;
    minute(&s, 0, &[1]).await;
    let gap = SkippedRange {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        range: span(1, 7),
        cause: RunCause::Gap,
        note: "no readings".into(),
    };
    assert_eq!(s.store.plan(&Plan { skipped: vec![gap], ..Plan::default() }).await.unwrap(), Outcome::Done);
    minute(&s, 7, &[1]).await;
    assert!(advance(&s).await && advance(&s).await && !advance(&s).await);
    assert_eq!(until(&s).await, Some(at(8)));
    assert_eq!(silences(&*s.store).await, [told("d1", true, false)], "silent all along");
}

async fn a_silent_fleet_is_an_event_once(store: Arc<dyn Store>) {
    let limit = Some(200_000);
    let s = stream(store, 1).await;
    let note = async |minute| s.store.note_newest(at(minute), limit).await.unwrap();
    let kinds = async || events(&*s.store).await.into_iter().map(|e| e.0).collect::<Vec<_>>();
    let before = s.store.now().await.unwrap();
    let since = note(5).await;
    assert!(before <= since && since <= s.store.now().await.unwrap(), "by the store's clock");
    sleep_ms(20).await;
    assert_eq!(note(5).await, since);
    assert_eq!(note(4).await, since, "an older one is nothing new");
    assert!(kinds().await.is_empty());
    sleep_ms(250).await;
    assert_eq!(s.store.note_newest(at(5), None).await.unwrap(), since);
    assert!(kinds().await.is_empty(), "without a limit nobody minds");
    for _ in 0..2 {
        assert_eq!(note(5).await, since);
    }
    assert_eq!(kinds().await, ["fleet_silent"]);
    assert!(note(6).await > since);
    assert!(note(7).await > since);
    assert_eq!(kinds().await, ["fleet_silent", "fleet_back"]);
}
