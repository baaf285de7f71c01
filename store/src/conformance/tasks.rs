//! Tasks, leases and attempts.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::status::{RunCause, RunScope, RunState};

super::list![
    tasks_are_claimed_oldest_first_once_each,
    a_claim_may_ask_for_certain_runs,
    an_expired_lease_is_taken_over_and_its_holder_fenced,
    a_renewed_lease_holds,
    a_failed_attempt_gives_the_task_back,
    giving_up_ends_the_run,
    attempts_rise_over_all_runs_of_an_interval,
    a_run_that_is_over_is_not_claimed,
    failures_are_told_apart_from_lost_leases,
];

/// A lease that has run out at once.
const GONE: i64 = 0;

async fn scheduled(store: &Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
}

async fn tasks_are_claimed_oldest_first_once_each(store: Arc<dyn Store>) {
    scheduled(&store).await;
    assert!(claim_any(&*store, LONG).await.is_none());
    let mut runs: Vec<_> =
        [5, 3, 4].into_iter().map(|m| new_run("default", span(m, m + 1), Some(m))).collect();
    runs[0].data_only = true;
    open_runs(&*store, runs.clone()).await;
    for minute in 3..6 {
        let task = claim_any(&*store, LONG).await.expect("three tasks are due");
        let run = runs.iter().find(|r| r.interval.start == at(minute)).unwrap();
        let wanted = Task {
            run_id: run.run_id,
            schedule: "default".into(),
            interval: span(minute, minute + 1),
            shard: 0,
            range: SeriesRange::ALL,
            attempt: task.attempt,
            tries: 1,
            failures: 0,
            model_set: minute,
            data_only: minute == 5,
            scope: RunScope::All,
            series: None,
            cause: RunCause::Schedule,
            worker: "w".into(),
        };
        assert_eq!(task, wanted);
        let row = run_row(&*store, task.run_id).await;
        assert!(row.started_at.is_some() && row.attempt == 1 && row.state == RunState::Running);
    }
    assert!(claim_any(&*store, LONG).await.is_none(), "all are leased");
}

async fn a_claim_may_ask_for_certain_runs(store: Arc<dyn Store>) {
    scheduled(&store).await;
    let runs = (0..3).map(|m| new_run("default", span(m, m + 1), Some(1))).collect();
    let ids = open_runs(&*store, runs).await;
    let ask = async |ids: Vec<Uuid>| {
        let claim = TaskClaim { run_ids: Some(ids), ..wish(LONG) };
        store.claim_task(&claim).await.unwrap().map(|t| t.run_id)
    };
    assert_eq!(ask(vec![]).await, None);
    assert_eq!(ask(vec![Uuid::new_v4()]).await, None);
    assert_eq!(ask(vec![ids[2]]).await, Some(ids[2]));
    assert_eq!(ask(vec![ids[2]]).await, None);
    assert_eq!(ask(vec![ids[1], ids[2]]).await, Some(ids[1]));
}

async fn an_expired_lease_is_taken_over_and_its_holder_fenced(store: Arc<dyn Store>) {
    scheduled(&store).await;
    open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await;
    let paused = claim_any(&*store, GONE).await.unwrap();
    sleep_ms(5).await;
    let task = claim_any(&*store, LONG).await.expect("the lease ran out");
    assert!(task.attempt > paused.attempt && task.tries == 2 && task.run_id == paused.run_id);
    let started = run_row(&*store, task.run_id).await.started_at;
    assert_eq!(store.renew_task(&paused, LONG).await.unwrap(), Outcome::Fenced);
    assert_eq!(fail(&*store, &paused, "late", true).await, GivenBack::Fenced);
    assert_eq!(commit_rows(&*store, &paused, &[]).await.unwrap(), Committed::Fenced);
    let row = run_row(&*store, task.run_id).await;
    assert_eq!((row.state, row.error, row.started_at), (RunState::Running, None, started));
    assert!(is_done(&commit_rows(&*store, &task, &[]).await.unwrap()));
}

async fn a_renewed_lease_holds(store: Arc<dyn Store>) {
    scheduled(&store).await;
    open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await;
    let task = claim_any(&*store, GONE).await.unwrap();
    sleep_ms(5).await;
    assert_eq!(store.renew_task(&task, LONG).await.unwrap(), Outcome::Done, "run out, but nobody took it");
    assert!(claim_any(&*store, LONG).await.is_none());
    assert_eq!(store.renew_task(&task, GONE).await.unwrap(), Outcome::Done);
    sleep_ms(5).await;
    assert!(claim_any(&*store, LONG).await.is_some(), "a lease is as long as it was renewed for");
}

async fn a_failed_attempt_gives_the_task_back(store: Arc<dyn Store>) {
    scheduled(&store).await;
    let mut run = new_run("default", span(0, 1), Some(1));
    run.note = Some("readings[3] is silent and was left out".into());
    open_runs(&*store, vec![run.clone()]).await;
    let first = claim_any(&*store, LONG).await.unwrap();
    assert_eq!(fail(&*store, &first, "blobs do not answer", false).await, GivenBack::Open);
    let row = run_row(&*store, run.run_id).await;
    assert_eq!((row.state, row.finished_at), (RunState::Running, None));
    assert!(row.error.unwrap().contains("blobs do not answer"));
    let second = claim_any(&*store, LONG).await.expect("due again at once");
    assert!(second.attempt > first.attempt && second.tries == 2);
    assert!(is_done(&commit_rows(&*store, &second, &[]).await.unwrap()));
    let row = run_row(&*store, run.run_id).await;
    assert_eq!(row.error, run.note, "what was overcome is gone, what an operator should know stays");
    assert_eq!((row.state, row.attempt), (RunState::Succeeded, 2));
}

async fn giving_up_ends_the_run(store: Arc<dyn Store>) {
    scheduled(&store).await;
    open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await;
    let task = claim_any(&*store, LONG).await.unwrap();
    assert_eq!(
        fail(&*store, &task, "model set 1 cannot be read", true).await,
        GivenBack::Ended(RunState::Failed)
    );
    let row = run_row(&*store, task.run_id).await;
    assert_eq!((row.state, row.error.as_deref()), (RunState::Failed, Some("model set 1 cannot be read")));
    assert!(row.finished_at.is_some());
    assert!(claim_any(&*store, LONG).await.is_none());
    assert_eq!(store.renew_task(&task, LONG).await.unwrap(), Outcome::Fenced);
    open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await;
}

async fn attempts_rise_over_all_runs_of_an_interval(store: Arc<dyn Store>) {
    scheduled(&store).await;
    let first = task(&*store, "default", span(0, 1), 1).await;
    assert!(is_done(&commit_rows(&*store, &first, &[]).await.unwrap()));
    let second = task(&*store, "default", span(0, 1), 2).await;
    assert!(second.attempt > first.attempt, "the fence of an interval never falls");
    assert_eq!((second.tries, second.model_set), (1, 2));
    assert_eq!(commit_rows(&*store, &first, &[]).await.unwrap(), Committed::Fenced);
    // The fence of the second with the first run's id is nobody's.
    let mixed = Task { run_id: first.run_id, ..second.clone() };
    assert_eq!(commit_rows(&*store, &mixed, &[]).await.unwrap(), Committed::Fenced);
    assert!(is_done(&commit_rows(&*store, &second, &[]).await.unwrap()));
}

async fn a_run_that_is_over_is_not_claimed(store: Arc<dyn Store>) {
    scheduled(&store).await;
    let ids = open_runs(&*store, (0..2).map(|m| new_run("default", span(m, m + 1), Some(1))).collect()).await;
    assert!(store.cancel_run(ids[0], "ann").await.unwrap());
    let task = claim_any(&*store, GONE).await.unwrap();
    assert_eq!(task.run_id, ids[1]);
    assert!(is_done(&commit_rows(&*store, &task, &[]).await.unwrap()));
    sleep_ms(5).await;
    assert!(claim_any(&*store, LONG).await.is_none());
    assert_eq!(commit_rows(&*store, &task, &[]).await.unwrap(), Committed::Fenced, "ended once");
}

async fn failures_are_told_apart_from_lost_leases(store: Arc<dyn Store>) {
    scheduled(&store).await;
    let run = open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await[0];
    let next = async |lease_us| {
        sleep_ms(5).await;
        let task = claim_any(&*store, lease_us).await.unwrap();
        ((task.tries, task.failures), task)
    };
    let (so_far, _killed) = next(GONE).await;
    assert_eq!(so_far, (1, 0));
    let (so_far, task) = next(LONG).await;
    assert_eq!(so_far, (2, 0), "whoever was killed has not failed");
    assert_eq!(fail(&*store, &task, "no answer", false).await, GivenBack::Open);
    let (so_far, task) = next(LONG).await;
    assert_eq!(so_far, (3, 1));
    let stop = Some(Retry { after_us: 0, counts: false });
    let stop = TaskFailure { error: "told to stop", retry: stop, rules: &Rules::default() };
    assert_eq!(store.fail_task(&task, &stop).await.unwrap(), GivenBack::Open);
    let (so_far, task) = next(LONG).await;
    assert_eq!(so_far, (3, 1), "what is handed back counts for neither");
    assert_eq!(fail(&*store, &task, "no answer", true).await, GivenBack::Ended(RunState::Failed));
    // Another run counts its own, whether it repeats the first or is cut anew.
    let again = NewRun { retry_of: Some(run), ..new_run("default", span(0, 1), Some(1)) };
    open_runs(&*store, vec![again]).await;
    let (so_far, task) = next(LONG).await;
    assert_eq!(so_far, (1, 0));
    assert_eq!(fail(&*store, &task, "no answer", false).await, GivenBack::Open);
    let (so_far, task) = next(LONG).await;
    assert_eq!(so_far, (2, 1));
    assert!(store.cancel_run(task.run_id, "ann").await.unwrap());
    open_runs(&*store, vec![new_run("default", span(0, 1), Some(1))]).await;
    assert_eq!(next(LONG).await.0, (1, 0));
}
