//! What holds when several ask at once.

use super::fixture::*;
use crate::*;
use std::collections::BTreeSet;

super::list![
    of_many_claimers_the_last_one_commits,
    checkpoints_of_two_partitions_meet_in_one_pane,
    of_many_planners_one_is_heard,
    many_workers_share_the_tasks,
    many_publishers_share_the_intervals,
];

async fn of_many_claimers_the_last_one_commits(store: Arc<dyn Store>) {
    let s = stream(store, 2).await;
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let store = s.store.clone();
            // In both orders: a store that locks in the order asked for would deadlock.
            let asked = if i % 2 == 0 { [tp(0), tp(1)] } else { [tp(1), tp(0)] };
            tokio::spawn(async move { super::patiently!(store.claim(SOURCE, "o", &asked)) })
        })
        .collect();
    let mut claims = Vec::new();
    for task in tasks {
        claims.push(task.await.unwrap().into_iter().find(|c| c.partition == tp(0)).unwrap());
    }
    let epochs: BTreeSet<_> = claims.iter().map(|c| c.epoch).collect();
    assert_eq!(epochs.len(), 8, "no two claims have one epoch");
    for claim in claims {
        let mut checkpoint = s.checkpoint(0, deltas(&[(0, s.series[0], &[(1, 1.0)])]));
        checkpoint.advances[0].epoch = claim.epoch;
        let wanted = if Some(&claim.epoch) == epochs.last() { Outcome::Done } else { Outcome::Fenced };
        assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), wanted);
    }
}

async fn checkpoints_of_two_partitions_meet_in_one_pane(store: Arc<dyn Store>) {
    let s = stream(store, 4).await;
    const EACH: i64 = 12;
    const READINGS: &[(i64, f64)] = &[(1, 1.0), (2, 2.0)];
    let tasks: Vec<_> = (0..4)
        .map(|i| {
            let store = s.store.clone();
            let rows: Vec<Delta<'_>> = s.series.iter().map(|id| (0, *id, READINGS)).collect();
            let mut checkpoint = s.checkpoint(i, deltas(&rows));
            tokio::spawn(async move {
                for offset in 0..EACH {
                    (checkpoint.advances[0].from, checkpoint.advances[0].to) = (offset, offset + 1);
                    let outcome = super::patiently!(store.checkpoint(&checkpoint));
                    assert_eq!(outcome, Outcome::Done);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stored = windows(&*s.store, span(0, 1)).await;
    assert_eq!(stored.len(), 5);
    for window in stored.values() {
        assert_eq!((window.version, window.values[1]), (4 * EACH, Some(8.0 * EACH as f64)));
        assert_eq!(window.values[2], Some(12.0 * EACH as f64));
    }
}

async fn of_many_planners_one_is_heard(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let row = s.store.schedules().await.unwrap().remove(0);
    let step = ScheduleMove {
        name: "default".into(),
        revision: row.revision,
        covered_until: Some(at(1)),
        ..ScheduleMove::default()
    };
    let tasks: Vec<_> = (0..6)
        .map(|i| {
            let store = s.store.clone();
            let open = vec![new_run("default", span(i, i + 1), Some(1))];
            let plan = Plan { schedules: vec![step.clone()], open, ..Plan::default() };
            tokio::spawn(async move { super::patiently!(store.plan(&plan)) })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += usize::from(task.await.unwrap() == Outcome::Done);
    }
    assert_eq!(done, 1);
    assert_eq!(s.store.runs(&RunFilter::default()).await.unwrap().len(), 1);
    // Without a schedule to fence them, the interval itself lets one through.
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let store = s.store.clone();
            let plan = Plan { open: vec![new_run("default", span(50, 51), Some(1))], ..Plan::default() };
            tokio::spawn(async move { super::patiently!(store.plan(&plan)) })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += usize::from(task.await.unwrap() == Outcome::Done);
    }
    assert_eq!(done, 1);
}

async fn many_workers_share_the_tasks(store: Arc<dyn Store>) {
    stream(store.clone(), 1).await;
    store.put_schedule(&schedule("default", 1)).await.unwrap();
    open_runs(&*store, (0..30).map(|m| new_run("default", span(m, m + 1), Some(1))).collect()).await;
    let workers: Vec<_> = (0..6)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                let claim = TaskClaim { worker: format!("w{i}"), ..wish(LONG) };
                let mut mine = Vec::new();
                while let Some(task) = super::patiently!(store.claim_task(&claim)) {
                    let committed = super::patiently!(commit_rows(&*store, &task, &[]));
                    assert_eq!(committed, done(&[], false), "nobody else has it");
                    mine.push(task.run_id);
                }
                mine
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (30, 30));
}

async fn many_publishers_share_the_intervals(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    for minute in 0..10 {
        score(&*s.store, "default", span(minute, minute + 1), &[(s.series[0], Some(0.5), 1)]).await;
    }
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let store = s.store.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                while let Some(p) = super::patiently!(store.claim_publication("p", LONG)) {
                    mine.push(p.interval.start);
                }
                mine
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (10, 10));
}
