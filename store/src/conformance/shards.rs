//! Runs of several shards.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::status::{RunState, TaskState};

super::list![
    a_run_is_cut_into_its_shards,
    a_shard_replaces_its_own_series_alone,
    a_run_ends_with_its_last_shard,
    the_last_shard_judges_the_run,
    counts_and_phases_add_up,
    an_interval_is_cut_anew_and_attempts_rise,
    the_old_cut_is_fenced,
    a_worker_is_given_the_shard_it_has_warm,
    a_failed_shard_waits_and_is_tried_again,
    what_is_handed_back_is_no_try,
    a_cancelled_run_keeps_what_is_done,
    nothing_is_due_before_the_run_ends,
    a_half_done_interval_is_not_read_for_publication,
    a_publication_can_be_postponed,
    a_frozen_shard_ends_its_run,
    a_retry_takes_what_was_left_undone,
    a_retry_of_nothing_is_fenced,
    windows_of_some_series,
    many_workers_share_the_shards,
];

/// A schedule, and a run of the first minute that is cut at these of the five series.
async fn cut_run(s: &Stream, cuts: &[usize]) -> NewRun {
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let run = sharded(s, span(0, 1), cuts);
    open_runs(&*s.store, vec![run.clone()]).await;
    run
}

fn sharded(s: &Stream, interval: Interval, cuts: &[usize]) -> NewRun {
    let cuts = cuts.iter().map(|i| s.series[*i]).collect();
    NewRun { cuts, ..new_run("default", interval, Some(1)) }
}

async fn claim(store: &dyn Store) -> Task {
    claim_any(store, LONG).await.expect("a shard is due")
}

/// Rows of these of the five series, all with one decision.
fn rows(s: &Stream, series: std::ops::Range<usize>, decision: f64) -> Vec<Scored> {
    s.series[series].iter().map(|id| (*id, Some(decision), 1)).collect()
}

async fn decisions(s: &Stream) -> Vec<f64> {
    published(&*s.store, "default", span(0, 1)).await.iter().filter_map(|row| row.decision).collect()
}

async fn a_run_is_cut_into_its_shards(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    assert_eq!(s.store.last_series().await.unwrap(), s.series[4]);
    let run = cut_run(&s, &[1, 3]).await;
    let row = run_row(&*s.store, run.run_id).await;
    assert_eq!((row.shards, row.shards_done, row.shards_failed), (3, 0, 0));
    let ranges = SeriesRange::cut(&[s.series[1], s.series[3]]);
    let tasks = s.store.run_tasks(run.run_id).await.unwrap();
    assert_eq!(
        tasks.iter().map(|t| (t.shard, t.range)).collect::<Vec<_>>(),
        (0..).zip(ranges.clone()).collect::<Vec<_>>()
    );
    assert!(tasks.iter().all(|t| t.state == TaskState::Open && t.tries == 0 && t.worker.is_none()));
    for (shard, range) in (0..).zip(ranges) {
        let task = claim(&*s.store).await;
        assert_eq!((task.shard, task.range, task.tries, task.run_id), (shard, range, 1, run.run_id));
    }
    assert_eq!(claim_any(&*s.store, LONG).await, None, "every shard is leased once");
    assert_eq!(run_row(&*s.store, run.run_id).await.attempt, 3, "attempts over all shards");
    let tasks = s.store.run_tasks(run.run_id).await.unwrap();
    assert!(tasks.iter().all(|t| t.worker.as_deref() == Some("w") && t.lease_until.is_some()));
    assert!(s.store.run_tasks(Uuid::new_v4()).await.unwrap().is_empty());
}

async fn a_shard_replaces_its_own_series_alone(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    score(&*s.store, "default", span(0, 1), &rows(&s, 0..5, 1.0)).await;
    open_runs(&*s.store, vec![sharded(&s, span(0, 1), &[1, 3])]).await;
    let (_first, middle) = (claim(&*s.store).await, claim(&*s.store).await);
    // One of its two series is gone.
    let new = rows(&s, 1..2, 2.0);
    let counts = counts_of(&new);
    let wanted = Committed::Done { counts, changed: true, ended: None };
    assert_eq!(commit_rows(&*s.store, &middle, &new).await.unwrap(), wanted);
    assert_eq!(decisions(&s).await, [1.0, 2.0, 1.0, 1.0]);
    let task = s.store.run_tasks(middle.run_id).await.unwrap().remove(1);
    assert_eq!((task.state, task.counts, task.lease_until), (TaskState::Done, counts, None));
    assert_eq!(commit_rows(&*s.store, &middle, &new).await.unwrap(), Committed::Fenced, "it is done");
}

async fn a_run_ends_with_its_last_shard(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let run = cut_run(&s, &[2]).await;
    let (first, last) = (claim(&*s.store).await, claim(&*s.store).await);
    assert!(is_done(&commit_rows(&*s.store, &last, &rows(&s, 2..5, 0.5)).await.unwrap()));
    let row = run_row(&*s.store, run.run_id).await;
    assert_eq!((row.state, row.shards_done, row.finished_at), (RunState::Running, 1, None));
    assert_eq!(row.counts.scored, 3, "what is done so far");
    assert_eq!(claim_any(&*s.store, LONG).await, None, "what is done is not claimed");
    let committed = commit_rows(&*s.store, &first, &rows(&s, 0..2, -0.5)).await.unwrap();
    let all = RunCounts { scored: 5, anomalies: 2, ..RunCounts::default() };
    let counts = RunCounts { scored: 2, anomalies: 2, ..RunCounts::default() };
    assert_eq!(committed, Committed::Done { counts, changed: true, ended: Some((RunState::Succeeded, all)) });
    let row = run_row(&*s.store, run.run_id).await;
    assert_eq!((row.state, row.shards_done, row.counts), (RunState::Succeeded, 2, all));
    assert!(row.finished_at.is_some());
    // The interval is free for another run.
    open_runs(&*s.store, vec![sharded(&s, span(0, 1), &[2])]).await;
}

async fn the_last_shard_judges_the_run(store: Arc<dyn Store>) {
    use RunState::{Failed, Partial, Succeeded};
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let any = Thresholds::default();
    let few = Thresholds { mini_batch_error_threshold: 1, ..any };
    let models = Thresholds { error_threshold: 0, ..any };
    // What becomes of each shard: stored, stored with a failed model, failed.
    let cases = [
        ("all stored", "sss", any, Succeeded, ""),
        ("a model failed", "sms", any, Partial, "1 models failed"),
        ("a model failed and none may", "mss", models, Failed, "error_threshold"),
        ("one shard failed", "sfs", any, Partial, "1 of 3 shards failed; the last: no answer 1"),
        ("one of three failed in the end", "ssf", few, Partial, "no answer 2"),
        ("more than may", "ffs", few, Failed, "mini_batch_error_threshold"),
        ("the last one tips it", "sff", few, Failed, "no answer 2"),
        ("all failed", "fff", any, Failed, "all 3 shards failed; the last: no answer 2"),
    ];
    for (minute, (name, shards, thresholds, state, error)) in (0..).zip(cases) {
        let rules = Rules { thresholds, why: None };
        let run = sharded(&s, span(minute, minute + 1), &[1, 3]);
        open_runs(&*s.store, vec![run.clone()]).await;
        let (mut ended, mut totals) = (None, RunCounts::default());
        for (shard, what) in shards.chars().enumerate() {
            assert_eq!(ended, None, "{name}: not before its last shard");
            let task = claim(&*s.store).await;
            sleep_ms(2).await; // the newest failure is told by its time
            if what == 'f' {
                let failure =
                    TaskFailure { error: &format!("no answer {shard}"), retry: None, rules: &rules };
                match s.store.fail_task(&task, &failure).await.unwrap() {
                    GivenBack::Ended(state) => ended = Some(state),
                    other => assert_eq!(other, GivenBack::Open, "{name}"),
                }
                continue;
            }
            let decision = if what == 'm' { f64::NAN } else { 0.5 };
            let rows = [(task.range.from.max(1), Some(decision), 1)];
            totals += counts_of(&rows);
            match commit_batches(&*s.store, &task, vec![Ok(predictions(&rows))], &rules).await.unwrap() {
                Committed::Done { ended: Some((state, counts)), .. } => {
                    assert_eq!(counts, totals, "{name}: over all shards");
                    ended = Some(state);
                }
                other => assert!(is_done(&other), "{name}: {other:?}"),
            }
        }
        assert_eq!(ended, Some(state), "{name}");
        let row = run_row(&*s.store, run.run_id).await;
        assert_eq!((row.state, row.counts), (state, totals), "{name}");
        let failed = shards.matches('f').count() as i64;
        assert_eq!((row.shards_done, row.shards_failed), (3 - failed, failed), "{name}");
        assert_eq!(row.error.is_some(), state != Succeeded, "{name}: {row:?}");
        assert!(row.error.unwrap_or_default().contains(error), "{name}");
    }
}

async fn counts_and_phases_add_up(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let run = cut_run(&s, &[2]).await;
    let mut total = (RunCounts::default(), Phases::default());
    for (part, us) in [(rows(&s, 0..2, 0.5), 1_000_000), (vec![(s.series[2], None, 0)], 250)] {
        let task = claim(&*s.store).await;
        let phases = Phases { open_us: us, read_us: 2 * us, score_us: 3 * us, write_us: 4 * us };
        let batches = futures::stream::iter(vec![Ok(predictions(&part))]);
        let commit = PredictionCommit {
            task: &task,
            selection: &Selection::of(task.range),
            predictions: Box::pin(batches),
            phases: &move || phases,
            rules: &Rules::default(),
        };
        assert!(is_done(&s.store.commit_predictions(commit).await.unwrap()));
        let row = s.store.run_tasks(run.run_id).await.unwrap().remove(task.shard as usize);
        assert_eq!((row.counts, row.phases), (counts_of(&part), phases));
        total.0 += counts_of(&part);
        total.1 += phases;
        let row = run_row(&*s.store, run.run_id).await;
        assert_eq!((row.counts, row.phases), total);
    }
}

async fn an_interval_is_cut_anew_and_attempts_rise(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let mut highest = 0;
    for cuts in [&[][..], &[1, 2, 3], &[2], &[], &[1, 4]] {
        let run = sharded(&s, span(0, 1), cuts);
        open_runs(&*s.store, vec![run.clone()]).await;
        let tasks = s.store.run_tasks(run.run_id).await.unwrap();
        assert_eq!(tasks.len(), cuts.len() + 1, "as many tasks as shards, whatever was before");
        let before = highest;
        for shard in 0..=cuts.len() {
            // The last shard is taken over twice.
            for _ in 0..if shard == cuts.len() { 3 } else { 1 } {
                let task = claim_any(&*s.store, 0).await.unwrap();
                sleep_ms(2).await;
                assert!(
                    task.attempt > before,
                    "{} is above all attempts of earlier cuts, {before}",
                    task.attempt
                );
                highest = highest.max(task.attempt);
            }
        }
        while let Some(task) = claim_any(&*s.store, LONG).await {
            highest = highest.max(task.attempt);
            assert!(is_done(&commit_rows(&*s.store, &task, &[]).await.unwrap()));
        }
        assert_eq!(run_row(&*s.store, run.run_id).await.state, RunState::Succeeded);
    }
}

async fn the_old_cut_is_fenced(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let run = cut_run(&s, &[2]).await;
    let (a, b) = (claim(&*s.store).await, claim(&*s.store).await);
    assert!(s.store.cancel_run(run.run_id, "ann").await.unwrap());
    for cuts in [&[3][..], &[], &[1, 2]] {
        let next = sharded(&s, span(0, 1), cuts);
        open_runs(&*s.store, vec![next.clone()]).await;
        assert!(s.store.run_tasks(run.run_id).await.unwrap().is_empty(), "they are the new run's");
        for old in [&a, &b] {
            let new = rows(&s, 0..5, 9.0);
            assert_eq!(commit_rows(&*s.store, old, &new).await.unwrap(), Committed::Fenced);
            assert_eq!(s.store.renew_task(old, LONG).await.unwrap(), Outcome::Fenced);
            assert_eq!(fail(&*s.store, old, "late", true).await, GivenBack::Fenced);
        }
        assert!(decisions(&s).await.is_empty());
        assert!(s.store.cancel_run(next.run_id, "ann").await.unwrap());
    }
}

async fn a_worker_is_given_the_shard_it_has_warm(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    cut_run(&s, &[1, 2, 3, 4]).await;
    sleep_ms(2).await;
    open_runs(&*s.store, vec![sharded(&s, span(1, 2), &[1, 2, 3, 4])]).await;
    let ask = async |prefer: &[i32]| {
        let wish = TaskClaim { prefer: prefer.to_vec(), ..wish(LONG) };
        let task = s.store.claim_task(&wish).await.unwrap().unwrap();
        (task.interval.start, task.shard)
    };
    assert_eq!(ask(&[3]).await, (at(0), 3));
    assert_eq!(ask(&[3, 2]).await, (at(0), 2), "what is left of what it would rather have");
    assert_eq!(ask(&[3, 77]).await, (at(0), 0), "the oldest run comes first, warm or not");
    assert_eq!(ask(&[]).await, (at(0), 1));
    assert_eq!(ask(&[1]).await, (at(0), 4));
    assert_eq!(ask(&[1]).await, (at(1), 1));
}

async fn a_failed_shard_waits_and_is_tried_again(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let run = cut_run(&s, &[2]).await;
    let first = claim(&*s.store).await;
    let give_back = async |task: &Task, after_us: i64| {
        let retry = Some(Retry { after_us, counts: true });
        let rules = Rules::default();
        s.store.fail_task(task, &TaskFailure { error: "no answer", retry, rules: &rules }).await.unwrap()
    };
    assert_eq!(give_back(&first, 300_000).await, GivenBack::Open);
    let task = s.store.run_tasks(run.run_id).await.unwrap().remove(0);
    assert_eq!((task.state, task.tries, task.error.as_deref()), (TaskState::Open, 1, Some("no answer")));
    let second = claim(&*s.store).await;
    assert_eq!(second.shard, 1, "the other shard need not wait");
    assert_eq!(claim_any(&*s.store, LONG).await, None, "it has its pause");
    sleep_ms(350).await;
    let again = claim(&*s.store).await;
    assert_eq!((again.shard, again.tries), (0, 2));
    assert!(again.attempt > first.attempt);
    assert_eq!(give_back(&again, 0).await, GivenBack::Open);
    assert_eq!(claim(&*s.store).await.tries, 3, "without a pause at once");
    // A lease that ran out is a try as well.
    assert_eq!(s.store.renew_task(&second, 0).await.unwrap(), Outcome::Done);
    sleep_ms(5).await;
    assert_eq!(claim(&*s.store).await.tries, 2);
}

async fn what_is_handed_back_is_no_try(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let run = cut_run(&s, &[]).await;
    for _ in 0..3 {
        let task = claim(&*s.store).await;
        assert_eq!(task.tries, 1);
        let retry = Some(Retry { after_us: 0, counts: false });
        let failure = TaskFailure { error: "the worker stops", retry, rules: &Rules::default() };
        assert_eq!(s.store.fail_task(&task, &failure).await.unwrap(), GivenBack::Open);
    }
    let row = run_row(&*s.store, run.run_id).await;
    assert_eq!((row.attempt, row.error), (3, None), "nothing went wrong");
    let events = s.store.run_events(run.run_id).await.unwrap();
    let handed: Vec<_> = events.iter().filter(|e| e.event == "handed_back").collect();
    assert_eq!(handed.len(), 3);
    assert_eq!((handed[0].shard, handed[0].worker.as_deref()), (Some(0), Some("w")));
    // One that waits for a person is no try either, and says what it waits for.
    let task = claim(&*s.store).await;
    let retry = Some(Retry { after_us: 1000, counts: false });
    let failure = TaskFailure { error: "no right to read", retry, rules: &Rules::default() };
    assert_eq!(s.store.fail_task(&task, &failure).await.unwrap(), GivenBack::Open);
    let row = run_row(&*s.store, run.run_id).await;
    assert_eq!((row.state, row.error.as_deref()), (RunState::Running, Some("no right to read")));
    let last = s.store.run_events(run.run_id).await.unwrap().pop().unwrap();
    assert_eq!((last.event.as_str(), last.detail.as_deref()), ("retrying", Some("no right to read")));
    sleep_ms(20).await;
    assert_eq!(claim(&*s.store).await.tries, 1);
}

async fn a_cancelled_run_keeps_what_is_done(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let run = cut_run(&s, &[1, 3]).await;
    let (first, second) = (claim(&*s.store).await, claim(&*s.store).await);
    assert!(is_done(&commit_rows(&*s.store, &first, &rows(&s, 0..1, 0.5)).await.unwrap()));
    assert!(s.store.cancel_run(run.run_id, "ann").await.unwrap());
    assert_eq!(commit_rows(&*s.store, &second, &rows(&s, 1..3, 0.5)).await.unwrap(), Committed::Fenced);
    assert_eq!(decisions(&s).await, [0.5]);
    let row = run_row(&*s.store, run.run_id).await;
    assert_eq!((row.state, row.shards_done, row.counts.scored), (RunState::Cancelled, 1, 1));
    let states: Vec<_> = s.store.run_tasks(run.run_id).await.unwrap().iter().map(|t| t.state).collect();
    assert_eq!(states, [TaskState::Done, TaskState::Cancelled, TaskState::Cancelled]);
    let last = s.store.run_events(run.run_id).await.unwrap().pop().unwrap();
    assert_eq!((last.event.as_str(), last.worker.as_deref()), ("cancelled", Some("ann")));
    let due = s.store.claim_publication("p", LONG).await.unwrap().expect("what is done is valid");
    assert_eq!(batches(s.store.publication_rows(&due).await.map(Option::unwrap)).await[0].num_rows(), 1);
    // A run of which nothing was done changes nothing.
    let run = sharded(&s, span(4, 5), &[1]);
    open_runs(&*s.store, vec![run.clone()]).await;
    assert!(s.store.cancel_run(run.run_id, "ann").await.unwrap());
    assert_eq!(s.store.claim_publication("p", LONG).await.unwrap(), None);
}

async fn nothing_is_due_before_the_run_ends(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    cut_run(&s, &[2]).await;
    let (first, last) = (claim(&*s.store).await, claim(&*s.store).await);
    assert!(is_done(&commit_rows(&*s.store, &first, &rows(&s, 0..2, 0.5)).await.unwrap()));
    assert_eq!(s.store.claim_publication("p", LONG).await.unwrap(), None, "half of it is stored");
    // The last shard changes nothing itself.
    assert_eq!(fail(&*s.store, &last, "no answer", true).await, GivenBack::Ended(RunState::Partial));
    let due = s.store.claim_publication("p", LONG).await.unwrap().expect("the run is over");
    assert_eq!(s.store.finish_publication(&due).await.unwrap(), Outcome::Done);
    // Nothing of the next run differs.
    open_runs(&*s.store, vec![sharded(&s, span(0, 1), &[2])]).await;
    let (first, last) = (claim(&*s.store).await, claim(&*s.store).await);
    assert!(is_done(&commit_rows(&*s.store, &last, &[]).await.unwrap()));
    assert!(is_done(&commit_rows(&*s.store, &first, &rows(&s, 0..2, 0.5)).await.unwrap()));
    assert_eq!(s.store.claim_publication("p", LONG).await.unwrap(), None);
}

async fn a_half_done_interval_is_not_read_for_publication(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    score(&*s.store, "default", span(0, 1), &rows(&s, 0..5, 1.0)).await;
    let due = s.store.claim_publication("p", LONG).await.unwrap().unwrap();
    let read = async || {
        let rows = s.store.publication_rows(&due).await.unwrap()?;
        Some(batches(Ok(rows)).await.iter().map(|b| b.num_rows()).sum::<usize>())
    };
    open_runs(&*s.store, vec![sharded(&s, span(0, 1), &[2])]).await;
    assert_eq!(read().await, Some(5), "nothing of the new run is stored yet");
    let (first, last) = (claim(&*s.store).await, claim(&*s.store).await);
    assert!(is_done(&commit_rows(&*s.store, &first, &rows(&s, 0..2, 1.0)).await.unwrap()));
    assert_eq!(read().await, Some(5), "nothing differs");
    s.store.cancel_run(first.run_id, "ann").await.unwrap();
    assert_eq!(commit_rows(&*s.store, &last, &[]).await.unwrap(), Committed::Fenced);
    open_runs(&*s.store, vec![sharded(&s, span(0, 1), &[2])]).await;
    let (first, last) = (claim(&*s.store).await, claim(&*s.store).await);
    assert!(is_done(&commit_rows(&*s.store, &first, &rows(&s, 0..2, 2.0)).await.unwrap()));
    assert_eq!(read().await, None, "half of the one and half of the other");
    assert!(is_done(&commit_rows(&*s.store, &last, &rows(&s, 2..5, 2.0)).await.unwrap()));
    assert_eq!(read().await, Some(5));
}

async fn a_publication_can_be_postponed(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    for minute in 0..2 {
        score(&*s.store, "default", span(minute, minute + 1), &rows(&s, 0..1, 1.0)).await;
    }
    let first = s.store.claim_publication("p", LONG).await.unwrap().unwrap();
    assert_eq!(s.store.postpone_publication(&first, 300_000).await.unwrap(), Outcome::Done);
    let second = s.store.claim_publication("p", LONG).await.unwrap().unwrap();
    assert_eq!(second.interval, span(1, 2), "the other one need not wait");
    assert_eq!(s.store.claim_publication("p", LONG).await.unwrap(), None);
    sleep_ms(350).await;
    let again = s.store.claim_publication("q", LONG).await.unwrap().unwrap();
    assert_eq!(again.interval, first.interval);
    assert!(again.fence > first.fence);
    assert_eq!(s.store.postpone_publication(&first, LONG).await.unwrap(), Outcome::Fenced);
    assert_eq!(s.store.finish_publication(&again).await.unwrap(), Outcome::Done);
}

async fn a_frozen_shard_ends_its_run(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    s.commit(&[(0, s.series[0], &[(1, 1.0)]), (5, s.series[0], &[(1, 1.0)])]).await;
    let run = cut_run(&s, &[1, 2]).await;
    let tasks = [claim(&*s.store).await, claim(&*s.store).await, claim(&*s.store).await];
    assert!(is_done(&commit_rows(&*s.store, &tasks[0], &rows(&s, 0..1, 0.5)).await.unwrap()));
    s.store.retain_from(at(2)).await.unwrap();
    assert_eq!(commit_rows(&*s.store, &tasks[1], &rows(&s, 1..2, 0.5)).await.unwrap(), Committed::Frozen);
    assert_eq!(commit_rows(&*s.store, &tasks[2], &rows(&s, 2..3, 0.5)).await.unwrap(), Committed::Fenced);
    assert_eq!(decisions(&s).await, [0.5]);
    let row = run_row(&*s.store, run.run_id).await;
    assert_eq!((row.state, row.counts.scored), (RunState::Skipped, 1));
    let states: Vec<_> = s.store.run_tasks(run.run_id).await.unwrap().iter().map(|t| t.state).collect();
    assert_eq!(states, [TaskState::Done, TaskState::Cancelled, TaskState::Cancelled]);
    assert!(s.store.claim_publication("p", LONG).await.unwrap().is_some(), "what was done before is valid");
}

async fn a_retry_takes_what_was_left_undone(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let run = cut_run(&s, &[1, 2, 3]).await;
    let mut attempts = vec![];
    for shard in 0..4 {
        let task = claim(&*s.store).await;
        attempts.push(task.attempt);
        if shard % 2 == 0 {
            let part = rows(&s, shard..shard + 1, 1.0);
            assert!(is_done(&commit_rows(&*s.store, &task, &part).await.unwrap()));
        } else {
            let _ = fail(&*s.store, &task, "no answer", true).await;
        }
    }
    assert_eq!(run_row(&*s.store, run.run_id).await.state, RunState::Partial);
    // Cuts do not count: shards stay as they were.
    let again = NewRun { retry_of: Some(run.run_id), ..sharded(&s, span(0, 1), &[4]) };
    open_runs(&*s.store, vec![again.clone()]).await;
    let row = run_row(&*s.store, again.run_id).await;
    assert_eq!((row.shards, row.retry_of), (2, Some(run.run_id)));
    let left: Vec<_> = s.store.run_tasks(run.run_id).await.unwrap().iter().map(|t| t.shard).collect();
    assert_eq!(left, [0, 2], "what is done stays the first run's");
    let (x, y) = (claim(&*s.store).await, claim(&*s.store).await);
    assert_eq!((x.shard, y.shard, x.tries), (1, 3, 1));
    assert!(x.attempt > attempts[1] && y.attempt > attempts[3]);
    assert_eq!(x.range, SeriesRange { from: s.series[1], until: Some(s.series[2]) });
    assert!(is_done(&commit_rows(&*s.store, &x, &rows(&s, 1..2, 2.0)).await.unwrap()));
    let done = commit_rows(&*s.store, &y, &rows(&s, 3..5, 2.0)).await.unwrap();
    let all = RunCounts { scored: 3, ..RunCounts::default() };
    assert!(
        matches!(done, Committed::Done { ended: Some((RunState::Succeeded, c)), .. } if c == all),
        "{done:?}"
    );
    assert_eq!(decisions(&s).await, [1.0, 2.0, 1.0, 2.0, 2.0]);
    // A whole run afterwards takes all of them again.
    let whole = sharded(&s, span(0, 1), &[]);
    open_runs(&*s.store, vec![whole.clone()]).await;
    assert_eq!(s.store.run_tasks(whole.run_id).await.unwrap().len(), 1);
}

async fn a_retry_of_nothing_is_fenced(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let retry = async |of: Uuid, minute: i64| {
        let run = NewRun { retry_of: Some(of), ..sharded(&s, span(minute, minute + 1), &[]) };
        s.store.plan(&Plan { open: vec![run], ..Plan::default() }).await.unwrap()
    };
    assert_eq!(retry(Uuid::new_v4(), 0).await, Outcome::Fenced, "nobody knows it");
    let done = score(&*s.store, "default", span(0, 1), &rows(&s, 0..1, 1.0)).await;
    assert_eq!(retry(done.run_id, 0).await, Outcome::Fenced, "all of it is done");
    let failed = task(&*s.store, "default", span(1, 2), 1).await;
    assert_eq!(fail(&*s.store, &failed, "no answer", true).await, GivenBack::Ended(RunState::Failed));
    assert_eq!(retry(failed.run_id, 2).await, Outcome::Fenced, "of another interval");
    score(&*s.store, "default", span(1, 2), &rows(&s, 0..1, 1.0)).await;
    assert_eq!(retry(failed.run_id, 1).await, Outcome::Fenced, "a later run has done it");
    assert_eq!(s.store.runs(&RunFilter::default()).await.unwrap().len(), 3);
    let cancelled = sharded(&s, span(3, 4), &[2]);
    open_runs(&*s.store, vec![cancelled.clone()]).await;
    s.store.cancel_run(cancelled.run_id, "ann").await.unwrap();
    assert_eq!(retry(cancelled.run_id, 3).await, Outcome::Done, "what was cancelled is undone");
}

async fn windows_of_some_series(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    for minute in 0..2 {
        let one: &[(i64, f64)] = &[(1, 1.0)];
        let rows: Vec<Delta<'_>> = s.series.iter().take(4).map(|id| (minute, *id, one)).collect();
        s.commit(&rows).await;
    }
    let (a, b, d, e) = (s.series[0], s.series[1], s.series[3], s.series[4]);
    let of = |from, until| SeriesRange { from, until };
    type Ids<'a> = &'a [SeriesId];
    let cases: &[(SeriesRange, Option<Ids<'_>>, Ids<'_>)] = &[
        (SeriesRange::ALL, None, &s.series[..4]),
        (of(0, Some(b)), None, &s.series[..1]),
        (of(b, Some(d)), None, &s.series[1..3]),
        (of(d, None), None, &s.series[3..4]),
        (of(e, None), None, &[]),
        (of(b, Some(b)), None, &[]),
        (SeriesRange::ALL, Some(&[]), &[]),
        (SeriesRange::ALL, Some(&[a, d, e, 99]), &[a, d]),
        (of(b, None), Some(&[b, d]), &[b, d]),
    ];
    for interval in [span(0, 1), span(0, 2)] {
        for (range, ids, wanted) in cases {
            let selection = Selection { range: *range, ids: ids.map(Arc::from) };
            let got = windows_in(&*s.store, interval, &selection).await;
            assert_eq!(got.keys().copied().collect::<Vec<_>>(), *wanted, "{selection:?}");
            let all = windows(&*s.store, interval).await;
            assert!(got.iter().all(|(id, window)| all[id] == *window));
        }
    }
}

async fn many_workers_share_the_shards(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let cuts = [1, 2, 3, 4];
    let runs: Vec<_> = (0..6).map(|minute| sharded(&s, span(minute, minute + 1), &cuts)).collect();
    let ids = open_runs(&*s.store, runs).await;
    let workers: Vec<_> = (0..4)
        .map(|i| {
            let (store, prefer) = (s.store.clone(), vec![i]);
            tokio::spawn(async move {
                let wish = TaskClaim { worker: format!("w{i}"), prefer, ..wish(LONG) };
                let mut ended = Vec::new();
                while let Some(task) = super::patiently!(store.claim_task(&wish)) {
                    let rows = [(task.range.from.max(1), Some(0.5), 1)];
                    let committed = super::patiently!(commit_rows(&*store, &task, &rows));
                    match committed {
                        Committed::Done { ended: Some(_), .. } => ended.push(task.run_id),
                        other => assert!(is_done(&other), "{other:?}"),
                    }
                }
                ended
            })
        })
        .collect();
    let mut ended = Vec::new();
    for worker in workers {
        ended.extend(worker.await.unwrap());
    }
    let mut wanted = ids.clone();
    ended.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(ended, wanted, "each run ended once");
    for id in ids {
        let row = run_row(&*s.store, id).await;
        assert_eq!((row.state, row.counts.scored, row.shards_done), (RunState::Succeeded, 5, 5));
    }
}
