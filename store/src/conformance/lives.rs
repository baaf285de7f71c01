//! What happens to runs over time, and what is kept of it.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::status::{RunCause, RunScope};

super::list![
    every_step_of_a_run_is_an_event,
    a_lost_lease_is_an_event,
    a_waiting_run_says_when_it_went_on,
    runs_are_found_by_cause_and_age,
    stale_series_are_named_and_scored_alone,
    a_window_that_is_gone_is_stale,
    failed_series_are_named,
    failures_are_grouped_by_their_reason,
    a_silent_run_is_stalled_once_until_it_goes_on,
    runs_without_a_log_are_listed_until_they_have_one,
    old_runs_are_forgotten_and_their_predictions_stay,
    a_forgotten_interval_still_has_its_fence,
    predictions_are_thinned_below_the_floor,
    thinning_to_changes_goes_on_where_it_stopped,
    old_fires_go_a_few_at_a_time,
];

async fn default_schedule(s: &Stream) {
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
}

async fn every_step_of_a_run_is_an_event(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let mut run = new_run("default", span(0, 1), Some(1));
    run.cuts = vec![s.series[2]];
    run.note = Some("readings[3] is silent and was left out".into());
    let before = s.store.now().await.unwrap();
    open_runs(&*s.store, vec![run.clone()]).await;
    let (first, second) = (
        claim_any(&*s.store, LONG).await.unwrap(),
        s.store.claim_task(&TaskClaim { worker: "v".into(), ..wish(LONG) }).await.unwrap().unwrap(),
    );
    assert_eq!(fail(&*s.store, &second, "no answer", false).await, GivenBack::Open);
    let second = claim_any(&*s.store, LONG).await.unwrap();
    assert_eq!(fail(&*s.store, &second, "no answer again", true).await, GivenBack::Open);
    assert!(is_done(&commit_rows(&*s.store, &first, &[(s.series[0], Some(0.5), 1)]).await.unwrap()));
    let events = s.store.run_events(run.run_id).await.unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|e| (e.event.as_str(), e.shard, e.worker.as_deref(), e.detail.as_deref()))
        .collect();
    assert_eq!(told[0], ("running", None, None, run.note.as_deref()));
    assert_eq!(told[1], ("started", None, Some("w"), None), "once, by whoever was first");
    assert_eq!(told[2], ("retrying", Some(1), Some("v"), Some("no answer")));
    assert_eq!(told[3], ("shard_failed", Some(1), Some("w"), Some("no answer again")));
    assert_eq!((told[4].0, told[4].1), ("partial", None));
    assert!(told[4].3.is_some_and(|why| why.contains("1 of 2 shards failed")), "{told:?}");
    assert_eq!(told.len(), 5);
    assert!(events[0].at >= before && events.windows(2).all(|w| w[0].at <= w[1].at));
    assert!(s.store.run_events(Uuid::new_v4()).await.unwrap().is_empty());
}

async fn a_lost_lease_is_an_event(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let run = new_run("default", span(0, 1), Some(1));
    open_runs(&*s.store, vec![run.clone()]).await;
    s.store.claim_task(&TaskClaim { worker: "killed".into(), ..wish(0) }).await.unwrap().unwrap();
    sleep_ms(5).await;
    let task = claim_any(&*s.store, LONG).await.expect("its lease ran out");
    let lost = async || {
        let events = s.store.run_events(run.run_id).await.unwrap();
        events.into_iter().filter(|e| e.event == "lease_lost").collect::<Vec<_>>()
    };
    let events = lost().await;
    assert_eq!((events.len(), events[0].shard, events[0].worker.as_deref()), (1, Some(0), Some("killed")));
    assert!(events[0].detail.as_deref().is_some_and(|d| d.ends_with("taken over by w")), "{events:?}");
    assert_eq!(fail(&*s.store, &task, "no answer", false).await, GivenBack::Open);
    claim_any(&*s.store, LONG).await.unwrap();
    assert_eq!(lost().await.len(), 1, "what was given back was not lost");
}

async fn a_waiting_run_says_when_it_went_on(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let mut run = new_run("default", span(0, 1), None);
    run.note = Some("no model set is active".into());
    open_runs(&*s.store, vec![run.clone()]).await;
    for _ in 0..2 {
        let plan = Plan { start: vec![(run.run_id, 3)], ..Plan::default() };
        assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    }
    let events = s.store.run_events(run.run_id).await.unwrap();
    assert_eq!(events.iter().map(|e| e.event.as_str()).collect::<Vec<_>>(), ["waiting", "running"]);
    assert_eq!(events[0].detail, run.note);
}

async fn runs_are_found_by_cause_and_age(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let causes = [RunCause::Schedule, RunCause::Rescore, RunCause::Manual, RunCause::Rescore];
    let mut ids = vec![];
    let mut opened = vec![];
    for (minute, cause) in (0..).zip(causes) {
        let mut run = NewRun { cause, ..new_run("default", span(minute, minute + 1), Some(1)) };
        run.scope = if cause == RunCause::Rescore { RunScope::Stale } else { RunScope::All };
        run.series = (minute == 2).then(|| "d1/.*".to_owned());
        ids.extend(open_runs(&*s.store, vec![run.clone()]).await);
        let row = run_row(&*s.store, run.run_id).await;
        assert_eq!((row.cause, row.scope, row.series), (cause, run.scope, run.series.clone()));
        opened.push(row.opened_at);
        let task = claim_any(&*s.store, LONG).await.unwrap();
        assert_eq!(
            (task.cause, task.scope, task.series),
            (cause, run.scope, run.series),
            "the worker is told"
        );
        sleep_ms(3).await;
    }
    let all = RunFilter::default();
    let found = async |filter: RunFilter| {
        let rows = s.store.runs(&filter).await.unwrap();
        rows.iter().map(|r| ids.iter().position(|id| *id == r.run_id).unwrap()).collect::<Vec<_>>()
    };
    let rescores = vec![RunCause::Rescore];
    assert_eq!(found(RunFilter { causes: rescores.clone(), ..all.clone() }).await, [3, 1]);
    let two = vec![RunCause::Rescore, RunCause::Manual];
    assert_eq!(found(RunFilter { causes: two, ..all.clone() }).await, [3, 2, 1]);
    assert_eq!(found(RunFilter { opened_since: Some(opened[2]), ..all.clone() }).await, [3, 2]);
    let both = RunFilter { causes: rescores, opened_since: Some(opened[2]), ..all.clone() };
    assert_eq!(found(RunFilter { schedule: Some("default".into()), ..both }).await, [3]);
    assert_eq!(found(RunFilter { causes: vec![RunCause::Gap], ..all }).await, [0; 0]);
}

async fn stale_series_are_named_and_scored_alone(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    default_schedule(&s).await;
    let ids = s.series.clone();
    let one: &[(i64, f64)] = &[(1, 1.0)];
    s.commit(&[(0, ids[0], one), (0, ids[1], one), (0, ids[3], one)]).await;
    let interval = span(0, 1);
    let store = s.store.clone();
    let of = async |scope, range| store.series_of("default", interval, range, scope).await.unwrap();
    assert_eq!(of(RunScope::Stale, SeriesRange::ALL).await, [ids[0], ids[1], ids[3]], "never scored");
    assert!(of(RunScope::All, SeriesRange::ALL).await.is_empty(), "needs no list");
    let first: Vec<Scored> =
        ids.iter().enumerate().map(|(i, id)| (*id, Some(1.0), [1, 1, 0, 1, 0][i])).collect();
    score(&*s.store, "default", interval, &first).await;
    assert!(of(RunScope::Stale, SeriesRange::ALL).await.is_empty());
    s.commit(&[(0, ids[1], one), (0, ids[3], one), (0, ids[4], one)]).await;
    assert_eq!(of(RunScope::Stale, SeriesRange::ALL).await, [ids[1], ids[3], ids[4]]);
    let cut = SeriesRange::cut(&[ids[3], ids[4]]);
    assert_eq!(of(RunScope::Stale, cut[0]).await, [ids[1]]);
    assert_eq!(of(RunScope::Stale, cut[1]).await, [ids[3]]);
    assert_eq!(of(RunScope::Stale, cut[2]).await, [ids[4]]);
    // A run over the stale ones of one shard, of which one has no model any more.
    let run = NewRun { scope: RunScope::Stale, ..new_run("default", interval, Some(1)) };
    open_runs(&*s.store, vec![run]).await;
    let task = claim_any(&*s.store, LONG).await.unwrap();
    let selection = Selection { range: task.range, ids: Some(vec![ids[1], ids[3]].into()) };
    let rows = [(ids[3], Some(2.0), 2)];
    let commit = PredictionCommit {
        task: &task,
        selection: &selection,
        predictions: Box::pin(futures::stream::iter(vec![Ok(predictions(&rows))])),
        phases: &Phases::default,
        rules: &Rules::default(),
    };
    assert_eq!(s.store.commit_predictions(commit).await.unwrap(), done(&rows, true));
    let stored: Vec<_> =
        published(&*s.store, "default", interval).await.into_iter().map(|r| (r.device, r.decision)).collect();
    let row = |device: &str, decision| (device.to_owned(), Some(decision));
    assert_eq!(stored, [row("d0", 1.0), row("d2", 1.0), row("d3", 2.0), row("d4", 1.0)]);
    assert_eq!(of(RunScope::Stale, SeriesRange::ALL).await, [ids[1], ids[4]]);
}

async fn a_window_that_is_gone_is_stale(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let (a, b) = (s.series[0], s.series[1]);
    // Scored from windows that are not there (any more).
    score(&*s.store, "default", span(0, 1), &[(a, Some(0.5), 3), (b, None, 0)]).await;
    let stale = s.store.series_of("default", span(0, 1), SeriesRange::ALL, RunScope::Stale).await.unwrap();
    assert_eq!(stale, [a]);
    assert_eq!(s.store.stale_series("default", span(0, 1)).await.unwrap(), 1);
}

async fn failed_series_are_named(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let ids = &s.series;
    let bad = Some(f64::NAN);
    let rows = [(ids[0], bad, 1), (ids[1], Some(0.5), 1), (ids[2], bad, 1), (ids[4], bad, 1)];
    score(&*s.store, "default", span(0, 1), &rows).await;
    let of = async |range| s.store.series_of("default", span(0, 1), range, RunScope::Failed).await.unwrap();
    assert_eq!(of(SeriesRange::ALL).await, [ids[0], ids[2], ids[4]]);
    assert_eq!(of(SeriesRange { from: ids[1], until: Some(ids[4]) }).await, [ids[2]]);
    let other = s.store.series_of("default", span(1, 2), SeriesRange::ALL, RunScope::Failed).await.unwrap();
    assert!(other.is_empty());
}

async fn failures_are_grouped_by_their_reason(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let refused = |i: usize, reason: &str| ModelFailure {
        series: Some(SeriesName::new(format!("d{i}"), "s")),
        source: format!("model_d{i}_s.pkl"),
        reason: reason.into(),
    };
    let failures = [refused(0, "an old version"), refused(1, "no tree"), refused(3, "an old version")];
    let set = ModelSetRow {
        version: 1,
        path: "models/1-a".into(),
        active: false,
        models: 2,
        refused: 3,
        origin: "import".into(),
        checksum: "00".into(),
        features: vec!["mean".into()],
        trained_on: None,
        training_rows: None,
        note: None,
        created_by: "ann".into(),
        created_at: Timestamp(0),
    };
    s.store.add_model_set(&set, &failures, true).await.unwrap();
    let bad = Some(f64::NAN);
    let ids = &s.series;
    let rows =
        [(ids[0], bad, 1), (ids[1], bad, 1), (ids[2], bad, 1), (ids[3], bad, 1), (ids[4], Some(0.5), 1)];
    let run = score(&*s.store, "default", span(0, 1), &rows).await.run_id;
    let got = s.store.run_failures(run, 9).await.unwrap();
    assert_eq!(got.len(), 3, "{got:?}");
    assert_eq!(got[0], ("an old version".to_owned(), 2));
    assert!(got.contains(&("no tree".to_owned(), 1)));
    assert!(got[1..].iter().any(|(reason, n)| reason.contains("number") && *n == 1), "{got:?}");
    assert_eq!(s.store.run_failures(run, 1).await.unwrap(), got[..1]);
    assert!(s.store.run_failures(Uuid::new_v4(), 9).await.unwrap().is_empty());
}

async fn a_silent_run_is_stalled_once_until_it_goes_on(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let patience = ScheduleSpec { stall_after_us: 200_000, ..schedule("default", 1) };
    s.store.put_schedule(&patience).await.unwrap();
    let mut run = new_run("default", span(0, 1), Some(1));
    run.cuts = vec![s.series[2]];
    open_runs(&*s.store, vec![run.clone(), new_run("default", span(1, 2), None)]).await;
    let stalled = async || run_row(&*s.store, run.run_id).await.stalled_at;
    assert_eq!(s.store.mark_stalled().await.unwrap(), 0);
    sleep_ms(250).await;
    assert_eq!(s.store.mark_stalled().await.unwrap(), 1, "what waits for a model set is not stalled");
    assert_eq!(s.store.mark_stalled().await.unwrap(), 0, "once");
    assert!(stalled().await.is_some());
    let task = claim_any(&*s.store, LONG).await.unwrap();
    assert_eq!(stalled().await, None, "it goes on");
    sleep_ms(250).await;
    assert_eq!(s.store.mark_stalled().await.unwrap(), 1);
    assert_eq!(s.store.renew_task(&task, LONG).await.unwrap(), Outcome::Done);
    assert_eq!(stalled().await, None, "a worker that renews its lease is alive");
    assert_eq!(s.store.mark_stalled().await.unwrap(), 0);
    let told: Vec<_> = s.store.run_events(run.run_id).await.unwrap();
    let told: Vec<_> =
        told.iter().filter(|e| e.event == "stalled").map(|e| e.detail.clone().unwrap()).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].contains("nobody claims") && told[1].contains("held by w"), "{told:?}");
    let events = events(&*s.store).await;
    assert_eq!(events, [("run_stalled".to_owned(), None), ("run_stalled".to_owned(), None)]);
    sleep_ms(250).await;
    s.store.cancel_run(run.run_id, "ann").await.unwrap();
    assert_eq!(s.store.mark_stalled().await.unwrap(), 0, "it is over");
}

async fn runs_without_a_log_are_listed_until_they_have_one(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let mut ids = vec![];
    for minute in [5, 3] {
        ids.push(score(&*s.store, "default", span(minute, minute + 1), &[]).await.run_id);
        sleep_ms(3).await;
    }
    ids.extend(open_runs(&*s.store, vec![new_run("default", span(7, 8), Some(1))]).await);
    let gap = SkippedRange {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        range: span(9, 20),
        cause: RunCause::Gap,
        note: "no readings".into(),
    };
    let plan = Plan { skipped: vec![gap], ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    let listed = async |limit| -> Vec<Uuid> {
        s.store.unlogged_runs(limit).await.unwrap().iter().map(|r| r.run_id).collect()
    };
    assert_eq!(listed(9).await, ids[..2], "in the order in which they ended; neither open ones nor ranges");
    s.store.cancel_run(ids[2], "ann").await.unwrap();
    assert_eq!(listed(9).await, ids);
    assert_eq!(listed(1).await, ids[..1]);
    s.store.log_run(ids[0], "runs/default/a.log").await.unwrap();
    assert_eq!(listed(9).await, ids[1..]);
    assert_eq!(run_row(&*s.store, ids[0]).await.log.as_deref(), Some("runs/default/a.log"));
}

async fn old_runs_are_forgotten_and_their_predictions_stay(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let mut ids = vec![];
    for minute in 0..4 {
        let rows = [(s.series[0], Some(0.5), 1)];
        ids.push(score(&*s.store, "default", span(minute, minute + 1), &rows).await.run_id);
        sleep_ms(3).await;
    }
    ids.extend(open_runs(&*s.store, vec![new_run("default", span(0, 1), None)]).await);
    let last = run_row(&*s.store, ids[3]).await.finished_at.unwrap();
    let far = at(1_000_000);
    let forget =
        async |finished, interval, limit| s.store.forget_runs(finished, interval, limit).await.unwrap();
    assert_eq!(forget(Timestamp(0), far, 9).await, 0, "none ended so early");
    assert_eq!(forget(last, at(0), 9).await, 0, "no interval is so old");
    assert_eq!(forget(last, at(2), 1).await, 1);
    assert_eq!(forget(last, at(2), 9).await, 1, "an interval that ends there belongs to it");
    assert_eq!(forget(last, at(2), 9).await, 0);
    let left: Vec<_> = s.store.runs(&RunFilter::default()).await.unwrap().iter().map(|r| r.run_id).collect();
    assert_eq!(left, [ids[3], ids[2], ids[4]], "an open run stays, however old its interval");
    for id in &ids[..2] {
        assert!(s.store.run_events(*id).await.unwrap().is_empty());
        assert!(s.store.run_tasks(*id).await.unwrap().is_empty());
    }
    assert_eq!(s.store.run_tasks(ids[4]).await.unwrap().len(), 1, "a later run's tasks stay");
    assert_eq!(s.store.run_events(ids[2]).await.unwrap().len(), 3);
    for minute in 0..4 {
        assert_eq!(
            published(&*s.store, "default", span(minute, minute + 1)).await.len(),
            1,
            "minute {minute}"
        );
    }
    assert_eq!(forget(last.plus_us(1), at(4), 9).await, 2);
}

async fn a_forgotten_interval_still_has_its_fence(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let mut highest = 0;
    for _ in 0..4 {
        highest = score(&*s.store, "default", span(0, 1), &[]).await.attempt;
    }
    let old = score(&*s.store, "default", span(0, 1), &[]).await;
    assert!(old.attempt > highest);
    let later = s.store.now().await.unwrap().plus_us(1_000_000);
    assert_eq!(s.store.forget_runs(later, at(1), 99).await.unwrap(), 5);
    let new = task(&*s.store, "default", span(0, 1), 1).await;
    assert!(new.attempt > old.attempt, "{} after {}", new.attempt, old.attempt);
    assert_eq!(commit_rows(&*s.store, &old, &[]).await.unwrap(), Committed::Fenced);
    assert!(is_done(&commit_rows(&*s.store, &new, &[]).await.unwrap()));
}

/// Predictions of minutes 0..n: series 0 is an anomaly in minute 2, series 1 has no data in 3 and 4, series 2 is the same
/// all along.
async fn history(s: &Stream, minutes: std::ops::Range<i64>) {
    for minute in minutes {
        let a = if minute == 2 { -0.5 } else { 0.5 };
        let b = (!(3..=4).contains(&minute)).then_some(0.5 + minute as f64);
        let rows = [
            (s.series[0], Some(a), 1),
            (s.series[1], b, 1),
            (s.series[2], Some(1.0 / (1 + minute) as f64), 1),
        ];
        score(&*s.store, "default", span(minute, minute + 1), &rows).await;
    }
}

async fn publish_all(s: &Stream) {
    while let Some(p) = s.store.claim_publication("p", LONG).await.unwrap() {
        assert_eq!(s.store.finish_publication(&p).await.unwrap(), Outcome::Done);
    }
}

/// Devices that have a prediction, by minute.
async fn left(s: &Stream, minutes: std::ops::Range<i64>) -> Vec<Vec<String>> {
    let mut left = vec![];
    for minute in minutes {
        let rows = published(&*s.store, "default", span(minute, minute + 1)).await;
        left.push(rows.into_iter().map(|r| r.device).collect());
    }
    left
}

async fn predictions_are_thinned_below_the_floor(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    history(&s, 0..4).await;
    let thin = async |keep, limit| s.store.thin("default", keep, limit).await.unwrap();
    publish_all(&s).await;
    assert_eq!(thin(Keep::Anomalies, 99).await, 0, "there is no floor");
    s.store.retain_from(at(3)).await.unwrap();
    assert_eq!(thin(Keep::All, 99).await, 0);
    assert_eq!(thin(Keep::Anomalies, 2).await, 6, "two intervals");
    assert_eq!(thin(Keep::Anomalies, 99).await, 2);
    let all = vec!["d0", "d1", "d2"];
    assert_eq!(left(&s, 0..4).await, [vec![], vec![], vec!["d0"], all], "nothing above the floor");
    assert_eq!(thin(Keep::Anomalies, 99).await, 0, "once");
    // What is not published must be read once more.
    let other = schedule("other", 1);
    s.store.put_schedule(&other).await.unwrap();
    for minute in [4, 5] {
        score(&*s.store, "other", span(minute, minute + 1), &[(s.series[0], Some(0.5), 1)]).await;
    }
    s.store.retain_from(at(9)).await.unwrap();
    let first = s.store.claim_publication("p", LONG).await.unwrap().unwrap();
    let second = s.store.claim_publication("p", LONG).await.unwrap().unwrap();
    assert_eq!(s.store.thin("other", Keep::Anomalies, 99).await.unwrap(), 0);
    assert_eq!(s.store.finish_publication(&second).await.unwrap(), Outcome::Done);
    assert_eq!(s.store.thin("other", Keep::Anomalies, 99).await.unwrap(), 0, "the one before comes first");
    assert_eq!(s.store.finish_publication(&first).await.unwrap(), Outcome::Done);
    assert_eq!(s.store.thin("other", Keep::Anomalies, 99).await.unwrap(), 2);
}

async fn thinning_to_changes_goes_on_where_it_stopped(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    history(&s, 0..7).await;
    publish_all(&s).await;
    s.store.retain_from(at(6)).await.unwrap();
    let mut removed = 0;
    for _ in 0..6 {
        // An interval at a time: what the one before was is known though it is thinned.
        removed += s.store.thin("default", Keep::Changes, 1).await.unwrap();
    }
    let wanted: [&[&str]; 7] =
        [&["d0", "d1", "d2"], &[], &["d0"], &["d0", "d1"], &[], &["d1"], &["d0", "d1", "d2"]];
    assert_eq!(
        left(&s, 0..7).await,
        wanted,
        "a label or a status that differs is kept, a value that differs is not"
    );
    assert_eq!(removed, 18 - 7);
    assert_eq!(s.store.thin("default", Keep::Changes, 99).await.unwrap(), 0);
}

async fn old_fires_go_a_few_at_a_time(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    default_schedule(&s).await;
    let fire = |minute| Fire {
        schedule: "default".into(),
        at: at(minute),
        last: at(minute + 1),
        fires: 1,
        reason: Some(minute.to_string()),
    };
    let plan = Plan { fires: (0..6).map(fire).collect(), ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    score(&*s.store, "default", span(0, 1), &[]).await;
    let mut left = vec![];
    for limit in [2, 99, 99] {
        let gone = s.store.forget_runs(at(5), at(0), limit).await.unwrap();
        let rest = fires(&*s.store).await;
        left.push((gone, rest.first().and_then(|f| f.2.clone()).unwrap(), rest.len()));
    }
    let first = |minute: &str| minute.to_owned();
    let wanted = [(2, first("2"), 4), (2, first("4"), 2), (0, first("4"), 2)];
    assert_eq!(left, wanted, "the oldest first; fewer than asked for says that nothing is left");
}
