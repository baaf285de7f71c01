//! What a schedule is, and what is known of what it did.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::status::{RunCause, RunState};
use fleetscore_schemas::window::Feature;

super::list![
    every_setting_comes_back,
    what_readiness_is_judged_by_comes_back,
    a_schedule_is_paused_and_goes_on,
    a_plan_from_before_a_pause_is_fenced,
    a_planner_that_looked_is_noted,
    what_was_missed_is_kept,
    fires_and_releases_never_fall,
    fires_are_kept_with_their_reason,
    a_skipped_range_grows,
    the_set_of_a_time_is_the_one_that_was_active,
];

/// Every field as no default has it.
fn unusual() -> ScheduleSpec {
    ScheduleSpec {
        name: "odd_one".into(),
        window_us: 3 * MINUTE,
        hop_us: MINUTE,
        features: vec![Feature::Stddev, Feature::Max, Feature::Mean],
        trigger: Trigger::Cron {
            expression: "0 */5 6-18 * * MON-FRI".into(),
            time_zone: "Europe/Berlin".into(),
        },
        enabled: false,
        series: Some(r"^d[0-9]+/(t|\u{fc}|'\\|%_)$".into()),
        model_set: Some(i64::MAX),
        catch_up: CatchUp::Latest,
        max_age_us: Some(1),
        max_runs: Some(u32::MAX),
        rescore_delay_us: None,
        rescores_per_minute: Some(0),
        thresholds: Thresholds {
            error_threshold: 7,
            mini_batch_error_threshold: 0,
            allowed_failed_percent: -1,
        },
        max_retries: 0,
        timeout_us: 1,
        stall_after_us: i64::MAX,
        shards: Some(64),
        silence_us: Some(5),
        keep: Keep::Anomalies,
        republish_gap_us: 0,
    }
}

async fn only(store: &dyn Store) -> ScheduleRow {
    let mut rows = store.schedules().await.unwrap();
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

async fn what_readiness_is_judged_by_comes_back(store: Arc<dyn Store>) {
    store.migrate().await.unwrap();
    assert_eq!(store.readiness().await.unwrap(), ReadinessSettings::default());
    for max_wait_us in [7, 8] {
        let settings = ReadinessSettings { max_disorder_us: 1, owner_ttl_us: 2, max_wait_us };
        store.put_readiness(&settings).await.unwrap();
        assert_eq!(store.readiness().await.unwrap(), settings);
    }
}

async fn every_setting_comes_back(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let other = ScheduleSpec {
        trigger: Trigger::Manual,
        enabled: true,
        rescore_delay_us: Some(i64::MAX),
        rescores_per_minute: None,
        max_age_us: None,
        max_runs: None,
        catch_up: CatchUp::None,
        shards: None,
        silence_us: None,
        keep: Keep::Changes,
        series: None,
        model_set: None,
        features: vec![],
        ..unusual()
    };
    for spec in
        [unusual(), other, ScheduleSpec { hop_us: MINUTE, ..ScheduleSpec::new("odd_one", 3 * MINUTE) }]
    {
        s.store.put_schedule(&spec).await.unwrap();
        assert_eq!(only(&*s.store).await.spec, spec);
    }
}

async fn a_schedule_is_paused_and_goes_on(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let pause = async |by| s.store.pause_schedule("default", by).await.unwrap();
    assert!(!pause(None).await, "it was not paused");
    assert_eq!(only(&*s.store).await.pause, None);
    let before = s.store.now().await.unwrap();
    assert!(pause(Some("ann")).await);
    let first = only(&*s.store).await.pause.unwrap();
    assert_eq!(first.by, "ann");
    assert!(first.at >= before);
    assert!(!pause(Some("bob")).await, "it is paused already");
    assert_eq!(only(&*s.store).await.pause.as_ref(), Some(&first));
    // What a restart configures does not wake it.
    s.store.put_schedule(&ScheduleSpec { max_retries: 9, ..schedule("default", 1) }).await.unwrap();
    assert_eq!(only(&*s.store).await.pause.as_ref(), Some(&first));
    assert!(pause(None).await);
    assert_eq!(only(&*s.store).await.pause, None);
    assert!(pause(Some("bob")).await);
    assert_ne!(only(&*s.store).await.pause.unwrap().id, first.id, "another pause");
    for by in [Some("ann"), None] {
        let unknown = s.store.pause_schedule("nobody", by).await;
        assert!(matches!(unknown, Err(StoreError::NotFound { .. })), "{unknown:?}");
    }
}

fn step(row: &ScheduleRow) -> ScheduleMove {
    ScheduleMove { name: row.spec.name.clone(), revision: row.revision, ..ScheduleMove::default() }
}

async fn moved(store: &dyn Store, change: impl FnOnce(&mut ScheduleMove)) -> ScheduleRow {
    let mut step = step(&only(store).await);
    change(&mut step);
    let plan = Plan { schedules: vec![step], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    only(store).await
}

async fn a_plan_from_before_a_pause_is_fenced(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    for by in [Some("ann"), None] {
        let plan = Plan {
            schedules: vec![step(&only(&*s.store).await)],
            open: vec![new_run("default", span(0, 1), Some(1))],
            ..Plan::default()
        };
        assert!(s.store.pause_schedule("default", by).await.unwrap());
        assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Fenced, "it was made for another state");
    }
    assert!(s.store.runs(&RunFilter::default()).await.unwrap().is_empty());
}

async fn a_planner_that_looked_is_noted(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    assert_eq!(only(&*s.store).await.looked_at, None);
    assert_eq!(moved(&*s.store, |_| {}).await.looked_at, None);
    let before = s.store.now().await.unwrap();
    let first = moved(&*s.store, |m| m.looked = true).await.looked_at.unwrap();
    assert!(first >= before, "by the store's clock");
    sleep_ms(3).await;
    assert_eq!(moved(&*s.store, |_| {}).await.looked_at, Some(first));
    assert!(moved(&*s.store, |m| m.looked = true).await.looked_at > Some(first));
}

async fn what_was_missed_is_kept(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    assert_eq!(only(&*s.store).await.missed, None);
    let missed = |until, newest| Some(Missed { until: at(until), newest_pane: at(newest) });
    assert_eq!(moved(&*s.store, |m| m.missed = missed(5, 9)).await.missed, missed(5, 9));
    assert_eq!(moved(&*s.store, |_| {}).await.missed, missed(5, 9));
    assert_eq!(moved(&*s.store, |m| m.missed = missed(3, 4)).await.missed, missed(3, 4), "the latest counts");
}

async fn fires_and_releases_never_fall(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    for (fired, released, wanted) in [
        (None, None, (None, None)),
        (Some(5), None, (Some(5), None)),
        (None, Some(4), (Some(5), Some(4))),
        (Some(3), Some(3), (Some(5), Some(4))),
        (Some(6), Some(7), (Some(6), Some(7))),
    ] {
        let row = moved(&*s.store, |m| {
            (m.fired_at, m.released_until) = (fired.map(at), released.map(at));
        })
        .await;
        assert_eq!((row.fired_at, row.released_until), (wanted.0.map(at), wanted.1.map(at)));
    }
}

async fn fires_are_kept_with_their_reason(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let fire = |minute, fires, reason: Option<&str>| Fire {
        schedule: "default".into(),
        at: at(minute),
        last: at(minute + fires - 1),
        fires,
        reason: reason.map(Into::into),
    };
    let missed = "missed: no scheduler was running";
    let plan = Plan { fires: vec![fire(9, 1, None), fire(2, 5, Some(missed))], ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    let told = |fires, reason: Option<&str>| ("default".to_owned(), fires, reason.map(str::to_owned));
    assert_eq!(fires(&*s.store).await, [told(5, Some(missed)), told(1, None)]);
    // Told anew it is the same fire.
    let plan = Plan { fires: vec![fire(9, 2, Some("paused"))], ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    assert_eq!(fires(&*s.store).await, [told(5, Some(missed)), told(2, Some("paused"))]);
    // A fence keeps fires out as well.
    let stale = ScheduleMove { revision: 99, ..step(&only(&*s.store).await) };
    let plan = Plan { schedules: vec![stale], fires: vec![fire(20, 1, None)], ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Fenced);
    assert_eq!(fires(&*s.store).await.len(), 2);
}

async fn a_skipped_range_grows(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    s.store.put_schedule(&schedule("other", 1)).await.unwrap();
    let skipped = |run_id, schedule: &str, range, note: &str| SkippedRange {
        run_id,
        schedule: schedule.into(),
        range,
        cause: RunCause::Paused,
        note: note.into(),
    };
    let id = Uuid::new_v4();
    let plan =
        async |skipped| s.store.plan(&Plan { skipped: vec![skipped], ..Plan::default() }).await.unwrap();
    assert_eq!(plan(skipped(id, "default", span(3, 4), "paused by ann")).await, Outcome::Done);
    assert_eq!(plan(skipped(id, "default", span(4, 9), "2 intervals, paused by ann")).await, Outcome::Done);
    let row = run_row(&*s.store, id).await;
    assert_eq!((row.state, row.cause, row.interval), (RunState::Skipped, RunCause::Paused, span(3, 9)));
    assert_eq!(row.error.as_deref(), Some("2 intervals, paused by ann"));
    assert_eq!(plan(skipped(id, "default", span(1, 5), "more")).await, Outcome::Done);
    assert_eq!(run_row(&*s.store, id).await.interval, span(1, 9), "it never becomes shorter");
    assert_eq!(plan(skipped(id, "other", span(9, 10), "")).await, Outcome::Fenced, "another schedule's");
    let run = open_runs(&*s.store, vec![new_run("default", span(20, 21), Some(1))]).await[0];
    assert_eq!(plan(skipped(run, "default", span(20, 30), "")).await, Outcome::Fenced, "that is a run");
    assert_eq!(run_row(&*s.store, run).await.interval, span(20, 21));
    // It is found where it reaches to, from far away.
    let filter = RunFilter { overlapping: Some(span(8, 9)), ..RunFilter::default() };
    assert_eq!(s.store.runs(&filter).await.unwrap()[0].run_id, id);
}

async fn the_set_of_a_time_is_the_one_that_was_active(store: Arc<dyn Store>) {
    let set = |version| ModelSetRow {
        version,
        path: format!("models/{version}-a"),
        active: false,
        models: 1,
        refused: 0,
        origin: "train".into(),
        checksum: "00".into(),
        features: vec!["mean".into()],
        trained_on: None,
        training_rows: None,
        note: None,
        created_by: "ann".into(),
        created_at: Timestamp(0),
    };
    let mut times = vec![store.now().await.unwrap()];
    let mut wanted = vec![None];
    sleep_ms(5).await;
    for version in 1..=3 {
        store.add_model_set(&set(version), &[], false).await.unwrap();
    }
    for (activate, active) in [(1, 1), (2, 2), (0, 1), (3, 3), (3, 3), (1, 1)] {
        match activate {
            0 => {
                let rollback = store.model_set_before().await.unwrap().unwrap();
                assert_eq!(store.rollback_model_set(rollback).await.unwrap(), Outcome::Done);
            }
            version => store.activate_model_set(version).await.unwrap(),
        }
        sleep_ms(5).await;
        times.push(store.now().await.unwrap());
        wanted.push(Some(active));
        sleep_ms(5).await;
    }
    for (time, wanted) in times.into_iter().zip(wanted) {
        assert_eq!(store.model_set_as_of(time).await.unwrap(), wanted, "at {time}");
    }
    assert_eq!(store.model_set_as_of(Timestamp(0)).await.unwrap(), None);
}
