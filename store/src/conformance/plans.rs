//! Schedules and the planner's transaction.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::status::{RunCause, RunState, TaskState};
use fleetscore_schemas::window::Feature;

super::list![
    a_schedule_keeps_its_window,
    a_schedules_name_is_checked,
    a_schedule_may_come_before_the_panes_are_known,
    a_plan_is_fenced_by_the_revision,
    the_first_interval_is_set_once_and_coverage_never_falls,
    a_plan_opens_runs_and_writes_what_it_skips,
    an_interval_has_one_open_run,
    a_plan_deletes_the_log_rows_it_saw_and_no_others,
    a_run_is_opened_once,
    waiting_runs_start_with_a_model_set,
    runs_are_found_by_what_they_are,
    an_open_run_can_be_cancelled,
    a_changed_setting_fences_a_look_that_was_begun_before,
    a_run_gives_way_to_another_and_nothing_of_its_half_is_published,
    a_run_that_gives_way_to_none_is_as_a_cancelled_one,
    a_run_that_is_over_gives_no_way,
];

async fn only(store: &dyn Store) -> ScheduleRow {
    let mut rows = store.schedules().await.unwrap();
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

async fn a_schedule_keeps_its_window(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    let spec = schedule("default", 1);
    store.put_schedule(&spec).await.unwrap();
    store.put_schedule(&spec).await.unwrap();
    let tuned = ScheduleSpec {
        features: vec![Feature::Stddev, Feature::Mean],
        catch_up: CatchUp::Latest,
        max_age_us: Some(7),
        rescore_delay_us: Some(8),
        republish_gap_us: 9,
        ..spec.clone()
    };
    store.put_schedule(&tuned).await.unwrap();
    let row = only(&*store).await;
    assert_eq!(row.spec, tuned, "what may change is what was configured last");
    assert_eq!((row.first_interval, row.covered_until), (None, None));
    for other in [
        ScheduleSpec { window_us: 5 * MINUTE, ..spec.clone() },
        ScheduleSpec { hop_us: 5 * MINUTE, ..spec.clone() },
    ] {
        let refused = store.put_schedule(&other).await;
        assert!(matches!(refused, Err(StoreError::SettingsDiffer { .. })), "{refused:?}");
    }
    assert_eq!(only(&*store).await, row);
    store.put_schedule(&ScheduleSpec { hop_us: MINUTE, ..schedule("hopping", 5) }).await.unwrap();
    store.put_schedule(&schedule("alarm_2", 2)).await.unwrap();
    let names: Vec<_> = store.schedules().await.unwrap().into_iter().map(|r| r.spec.name).collect();
    assert_eq!(names, ["alarm_2", "default", "hopping"]);
}

async fn a_schedules_name_is_checked(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    let long = "x".repeat(41);
    for name in ["", "Default", "1st", "a-b", "a b", "a\"b", "ü", long.as_str()] {
        let refused = store.put_schedule(&schedule(name, 5)).await;
        assert!(matches!(refused, Err(StoreError::Setting { .. })), "{name}: {refused:?}");
    }
    let refused = store.put_schedule(&ScheduleSpec { window_us: 90_000_000, ..schedule("odd", 1) }).await;
    assert!(matches!(refused, Err(StoreError::Setting { .. })), "not a multiple of the pane: {refused:?}");
    assert!(store.schedules().await.unwrap().is_empty());
    store.put_schedule(&schedule(&"x".repeat(40), 5)).await.unwrap();
}

async fn a_schedule_may_come_before_the_panes_are_known(store: Arc<dyn Store>) {
    // A scorer that starts before the first aggregator.
    store.put_schedule(&schedule("five", 5)).await.unwrap();
    let mut s = stream(store, 1).await;
    s.commit(&[(0, s.series[0], &[(1, 1.0)])]).await;
    s.store.put_schedule(&schedule("five", 5)).await.unwrap();
    if s.store.kind() != StoreKind::Memory {
        let rows = s.store.query("SELECT readings FROM windows_five").await.unwrap().rows;
        assert_eq!(rows, [[Cell::Int(1)]]);
    }
}

fn step(row: &ScheduleRow, first: Option<i64>, covered: Option<i64>) -> ScheduleMove {
    ScheduleMove {
        name: row.spec.name.clone(),
        revision: row.revision,
        first_interval: first.map(at),
        covered_until: covered.map(at),
        ..ScheduleMove::default()
    }
}

async fn a_plan_is_fenced_by_the_revision(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    s.commit(&[(0, s.series[0], &[(1, 1.0)])]).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    s.store.put_schedule(&schedule("other", 1)).await.unwrap();
    let rows = s.store.schedules().await.unwrap();
    let log = s.store.changed_panes(9).await.unwrap();
    let plan = Plan {
        schedules: vec![step(&rows[0], Some(0), Some(1)), step(&rows[1], None, Some(1))],
        seen: log.iter().map(|c| c.id).collect(),
        open: vec![new_run("default", span(0, 1), None)],
        ..Plan::default()
    };
    let mut stale = plan.clone();
    stale.schedules[1].revision += 1;
    stale.skipped = vec![skipped(span(5, 9))];
    assert_eq!(s.store.plan(&stale).await.unwrap(), Outcome::Fenced);
    assert_eq!(s.store.schedules().await.unwrap(), rows, "nothing was written");
    assert_eq!(s.store.changed_panes(9).await.unwrap(), log);
    assert!(s.store.runs(&RunFilter::default()).await.unwrap().is_empty());
    stale.schedules[1] = ScheduleMove { name: "unknown".into(), ..stale.schedules[1].clone() };
    assert_eq!(s.store.plan(&stale).await.unwrap(), Outcome::Fenced);

    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    let after = s.store.schedules().await.unwrap();
    assert!(after.iter().zip(&rows).all(|(a, b)| a.revision > b.revision));
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Fenced, "a retry after a lost answer");
    assert_eq!(s.store.runs(&RunFilter::default()).await.unwrap().len(), 1);
}

async fn the_first_interval_is_set_once_and_coverage_never_falls(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
    let steps = [
        (None, None, None, None),
        (Some(5), Some(5), Some(5), Some(5)),
        (Some(3), Some(4), Some(5), Some(5)),
        (None, Some(9), Some(5), Some(9)),
        (Some(9), None, Some(5), Some(9)),
    ];
    for (first, covered, wanted_first, wanted_covered) in steps {
        let plan = Plan { schedules: vec![step(&only(&*store).await, first, covered)], ..Plan::default() };
        assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
        let row = only(&*store).await;
        assert_eq!((row.first_interval, row.covered_until), (wanted_first.map(at), wanted_covered.map(at)));
    }
}

fn skipped(range: Interval) -> SkippedRange {
    SkippedRange {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        range,
        cause: RunCause::Gap,
        note: "no readings".into(),
    }
}

async fn a_plan_opens_runs_and_writes_what_it_skips(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
    let gap = skipped(span(2, 500_000));
    let mut waiting = new_run("default", span(0, 1), None);
    waiting.note = Some("no model set is active".into());
    let mut running = new_run("default", span(1, 2), Some(3));
    (running.cause, running.data_only) = (RunCause::CatchUp, true);
    let plan =
        Plan { open: vec![waiting.clone(), running.clone()], skipped: vec![gap.clone()], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    let row = run_row(&*store, waiting.run_id).await;
    assert_eq!((row.state, row.model_set, row.cause), (RunState::Waiting, None, RunCause::Schedule));
    assert_eq!(row.error, waiting.note, "it says what it waits for");
    assert_eq!((row.started_at, row.finished_at, row.attempt), (None, None, 0));
    assert_eq!((row.interval, row.schedule.as_str()), (span(0, 1), "default"));
    let row = run_row(&*store, running.run_id).await;
    assert_eq!((row.state, row.model_set, row.cause), (RunState::Running, Some(3), RunCause::CatchUp));
    assert!(row.data_only && row.error.is_none());
    let row = run_row(&*store, gap.run_id).await;
    assert_eq!((row.state, row.cause, row.interval), (RunState::Skipped, RunCause::Gap, gap.range));
    assert_eq!(row.error.as_deref(), Some("no readings"));
    assert_eq!(row.counts, RunCounts::default());
}

async fn an_interval_has_one_open_run(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
    store.put_schedule(&schedule("other", 1)).await.unwrap();
    let first = open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await[0];
    for open in [
        vec![new_run("default", span(0, 1), Some(1))],
        vec![new_run("default", span(0, 1), None)],
        vec![new_run("default", span(1, 2), Some(1)), new_run("default", span(0, 1), Some(1))],
        vec![new_run("default", span(3, 4), Some(1)), new_run("default", span(3, 4), Some(1))],
    ] {
        let plan = Plan { open, ..Plan::default() };
        assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Fenced);
    }
    assert_eq!(store.runs(&RunFilter::default()).await.unwrap().len(), 1);
    open_runs(&*store, vec![new_run("other", span(0, 1), Some(1))]).await;
    // When it is over there may be another.
    assert!(store.cancel_run(first, "ann").await.unwrap());
    open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await;
}

async fn a_plan_deletes_the_log_rows_it_saw_and_no_others(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    for minute in [3, 1, 2] {
        s.commit(&[(minute, s.series[0], &[(1, 1.0)])]).await;
    }
    let log = s.store.changed_panes(9).await.unwrap();
    let plan = Plan { seen: vec![log[0].id, log[2].id], ..Plan::default() };
    s.commit(&[(3, s.series[0], &[(2, 1.0)])]).await;
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    let rest = s.store.changed_panes(9).await.unwrap();
    assert_eq!(rest[0], log[1]);
    assert_eq!(rest.iter().map(|c| c.pane_start).collect::<Vec<_>>(), [at(1), at(3)]);
    assert!(
        rest[1].id > log[2].id,
        "an id is never given twice: a late plan would delete what it did not see"
    );
    assert_eq!(
        s.store.plan(&Plan { seen: rest.iter().map(|c| c.id).collect(), ..Plan::default() }).await.unwrap(),
        Outcome::Done
    );
    s.commit(&[(7, s.series[0], &[(2, 1.0)])]).await;
    let last = s.store.changed_panes(9).await.unwrap();
    assert!(last.len() == 1 && last[0].id > rest[1].id, "not even when the log was empty");
}

async fn a_run_is_opened_once(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
    let run = new_run("default", span(0, 1), Some(1));
    let plan = Plan { open: vec![run.clone()], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    assert!(store.cancel_run(run.run_id, "ann").await.unwrap());
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Fenced, "its id is known, though it is over");
    assert_eq!(run_row(&*store, run.run_id).await.state, RunState::Cancelled);
}

async fn waiting_runs_start_with_a_model_set(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
    let mut waiting = new_run("default", span(0, 1), None);
    waiting.note = Some("no model set is active".into());
    let cancelled = new_run("default", span(1, 2), None);
    open_runs(&*store, vec![waiting.clone(), cancelled.clone()]).await;
    assert!(claim_any(&*store, LONG).await.is_none(), "nothing may be claimed while it waits");
    assert!(store.cancel_run(cancelled.run_id, "ann").await.unwrap());
    let plan = Plan { start: vec![(waiting.run_id, 4), (cancelled.run_id, 4)], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    let row = run_row(&*store, waiting.run_id).await;
    assert_eq!((row.state, row.model_set, row.error), (RunState::Running, Some(4), None));
    assert_eq!(
        run_row(&*store, cancelled.run_id).await.state,
        RunState::Cancelled,
        "what is over stays over"
    );
    let task = claim_any(&*store, LONG).await.unwrap();
    assert_eq!((task.run_id, task.model_set), (waiting.run_id, 4));
    // A set that becomes active later does not move a run that is fixed to one.
    let plan = Plan { start: vec![(waiting.run_id, 9)], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    assert_eq!(run_row(&*store, waiting.run_id).await.model_set, Some(4));
}

async fn runs_are_found_by_what_they_are(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
    store.put_schedule(&schedule("five", 5)).await.unwrap();
    let runs = vec![
        new_run("default", span(0, 1), Some(1)),
        new_run("default", span(1, 2), None),
        new_run("five", span(0, 5), Some(1)),
        new_run("default", span(7, 8), Some(1)),
    ];
    let ids = open_runs(&*store, runs).await;
    assert!(store.cancel_run(ids[3], "ann").await.unwrap());
    let all = RunFilter::default();
    let cases = [
        (all.clone(), vec![3, 1, 0, 2]),
        (RunFilter { schedule: Some("default".into()), ..all.clone() }, vec![3, 1, 0]),
        (RunFilter { states: vec![RunState::Waiting, RunState::Cancelled], ..all.clone() }, vec![3, 1]),
        (RunFilter { run_ids: Some(vec![ids[2], ids[1], Uuid::new_v4()]), ..all.clone() }, vec![1, 2]),
        (RunFilter { run_ids: Some(vec![]), ..all.clone() }, vec![]),
        (RunFilter { overlapping: Some(span(1, 2)), ..all.clone() }, vec![1, 2]),
        (RunFilter { overlapping: Some(span(5, 7)), ..all.clone() }, vec![]),
        (RunFilter { limit: 2, ..all.clone() }, vec![3, 1]),
        (RunFilter { schedule: Some("nobody".into()), ..all }, vec![]),
    ];
    for (filter, wanted) in cases {
        let rows = store.runs(&filter).await.unwrap();
        assert!(rows.windows(2).all(|w| w[0].interval.start >= w[1].interval.start), "newest interval first");
        let mut got: Vec<_> =
            rows.iter().map(|r| ids.iter().position(|id| *id == r.run_id).unwrap()).collect();
        let mut wanted = wanted;
        got.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(got, wanted, "{filter:?}");
    }
}

async fn an_open_run_can_be_cancelled(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let store = s.store.clone();
    s.commit(&[(0, s.series[0], &[(1, 1.0)])]).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
    let task = task(&*store, "default", span(0, 1), 1).await;
    assert!(store.cancel_run(task.run_id, "ann").await.unwrap());
    assert!(!store.cancel_run(task.run_id, "ann").await.unwrap(), "it is over");
    assert!(!store.cancel_run(Uuid::new_v4(), "ann").await.unwrap());
    let row = run_row(&*store, task.run_id).await;
    assert!(row.state == RunState::Cancelled && row.finished_at.is_some());
    // Whoever works on it finds out.
    assert_eq!(store.renew_task(&task, LONG).await.unwrap(), Outcome::Fenced);
    let rows = [(s.series[0], Some(1.0), 1)];
    assert_eq!(commit_rows(&*store, &task, &rows).await.unwrap(), Committed::Fenced);
    assert_eq!(fail(&*store, &task, "late", true).await, GivenBack::Fenced);
    assert_eq!(run_row(&*store, task.run_id).await, row);
    assert!(published(&*store, "default", span(0, 1)).await.is_empty());
    assert!(claim_any(&*store, LONG).await.is_none());
    // Also when the interval has a new run that nobody has claimed yet.
    let next = open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await[0];
    assert_eq!(commit_rows(&*store, &task, &rows).await.unwrap(), Committed::Fenced);
    assert_eq!(store.renew_task(&task, LONG).await.unwrap(), Outcome::Fenced);
    assert_eq!(fail(&*store, &task, "late", true).await, GivenBack::Fenced);
    assert_eq!(run_row(&*store, task.run_id).await, row);
    assert_eq!(claim_any(&*store, LONG).await.unwrap().run_id, next, "no lease is left on it");
}

async fn a_changed_setting_fences_a_look_that_was_begun_before(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    let spec = schedule("default", 1);
    store.put_schedule(&spec).await.unwrap();
    let begun = only(&*store).await;
    store.put_schedule(&spec).await.unwrap();
    assert_eq!(only(&*store).await.revision, begun.revision, "nothing is another");
    store.put_schedule(&ScheduleSpec { enabled: false, ..spec.clone() }).await.unwrap();
    assert!(only(&*store).await.revision > begun.revision);
    let plan = Plan {
        schedules: vec![step(&begun, None, Some(1))],
        open: vec![new_run("default", span(0, 1), Some(1))],
        ..Plan::default()
    };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Fenced, "it was decided by other settings");
    let now = only(&*store).await;
    store.put_schedule(&ScheduleSpec { enabled: false, ..spec }).await.unwrap();
    assert_eq!(only(&*store).await, now);
}

/// A run of two shards whose first is stored, with both of its tasks and the rows.
async fn half_a_run(s: &Stream, interval: Interval) -> (NewRun, [Task; 2], [Scored; 2]) {
    let run = NewRun { cuts: vec![s.series[2]], ..new_run("default", interval, Some(1)) };
    open_runs(&*s.store, vec![run.clone()]).await;
    let claim = TaskClaim { run_ids: Some(vec![run.run_id]), ..wish(LONG) };
    let first = s.store.claim_task(&claim).await.unwrap().unwrap();
    let second = s.store.claim_task(&claim).await.unwrap().unwrap();
    let rows = [(s.series[0], Some(0.5), 1), (s.series[1], Some(0.5), 1)];
    assert!(is_done(&commit_rows(&*s.store, &first, &rows).await.unwrap()));
    (run, [first, second], rows)
}

const WAY: &str = "gives way to a full run";

async fn a_run_gives_way_to_another_and_nothing_of_its_half_is_published(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let (old, [_, second], rows) = half_a_run(&s, span(0, 1)).await;
    let other = open_runs(&*s.store, vec![new_run("default", span(1, 2), None)]).await[0];
    let new = new_run("default", span(0, 1), Some(1));
    let end = vec![(other, WAY.to_owned()), (old.run_id, WAY.to_owned())];
    let open = vec![new_run("default", span(1, 2), None), new.clone()];
    let plan = Plan { open, end, ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    for id in [old.run_id, other] {
        let row = run_row(&*s.store, id).await;
        assert_eq!((row.state, row.error.as_deref()), (RunState::Failed, Some(WAY)));
        assert!(row.finished_at.is_some());
        let last = s.store.run_events(id).await.unwrap().pop().unwrap();
        assert_eq!((last.event.as_str(), last.detail.as_deref()), ("failed", Some(WAY)));
        assert!(s.store.run_tasks(id).await.unwrap().is_empty(), "they are the new run's");
    }
    assert_eq!(commit_rows(&*s.store, &second, &[]).await.unwrap(), Committed::Fenced);
    assert_eq!(s.store.claim_publication("p", LONG).await.unwrap(), None, "half of it is stored");
    // The new run finds all as it is: what is published is what the old one changed.
    let task = claim_any(&*s.store, LONG).await.unwrap();
    assert_eq!((task.run_id, task.tries), (new.run_id, 1));
    assert_eq!(commit_rows(&*s.store, &task, &rows).await.unwrap(), done(&rows, false));
    let due = s.store.claim_publication("p", LONG).await.unwrap().expect("due with the end of the new run");
    assert_eq!(due.interval, span(0, 1));
    assert_eq!(s.store.finish_publication(&due).await.unwrap(), Outcome::Done);
    assert_eq!(s.store.claim_publication("p", LONG).await.unwrap(), None, "once");
}

async fn a_run_that_gives_way_to_none_is_as_a_cancelled_one(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let (run, [_, second], _) = half_a_run(&s, span(0, 1)).await;
    // Another interval's run takes nothing over.
    let plan = Plan {
        open: vec![new_run("default", span(1, 2), None)],
        end: vec![(run.run_id, WAY.into())],
        ..Plan::default()
    };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    let tasks = s.store.run_tasks(run.run_id).await.unwrap();
    assert_eq!(tasks.iter().map(|t| t.state).collect::<Vec<_>>(), [TaskState::Done, TaskState::Cancelled]);
    assert_eq!(s.store.renew_task(&second, LONG).await.unwrap(), Outcome::Fenced);
    assert!(s.store.claim_publication("p", LONG).await.unwrap().is_some(), "what it changed is due");
    // What it left undone may be repeated, and that by whom it gives way to.
    let (run, [first, second], _) = half_a_run(&s, span(5, 6)).await;
    let again = NewRun { retry_of: Some(run.run_id), ..new_run("default", span(5, 6), Some(1)) };
    let (open, end) = (vec![again.clone()], vec![(run.run_id, WAY.into())]);
    assert_eq!(s.store.plan(&Plan { open, end, ..Plan::default() }).await.unwrap(), Outcome::Done);
    let task = claim_any(&*s.store, LONG).await.unwrap();
    assert_eq!((task.run_id, task.shard), (again.run_id, second.shard));
    assert_ne!(task.shard, first.shard);
    assert!(is_done(&commit_rows(&*s.store, &task, &[]).await.unwrap()));
    assert_eq!(s.store.claim_publication("p", LONG).await.unwrap().unwrap().interval, span(5, 6));
}

async fn a_run_that_is_over_gives_no_way(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let over = score(&*s.store, "default", span(0, 1), &[]).await.run_id;
    let open = open_runs(&*s.store, vec![new_run("default", span(1, 2), Some(1))]).await[0];
    let before = run_row(&*s.store, over).await;
    for ids in [vec![over], vec![Uuid::new_v4()], vec![open, over], vec![open, open]] {
        let end = ids.iter().map(|id| (*id, WAY.to_owned())).collect();
        let new = new_run("default", span(3, 4), Some(1));
        let plan = Plan { end, open: vec![new], ..Plan::default() };
        assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Fenced, "{ids:?}");
    }
    assert_eq!(run_row(&*s.store, over).await, before);
    assert_eq!(run_row(&*s.store, open).await.state, RunState::Running);
    assert_eq!(s.store.runs(&RunFilter::default()).await.unwrap().len(), 2, "nothing was opened");
}
