//! The floor of retention.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::status::RunState;

super::list![
    the_floor_rises_on_all_rows_and_never_falls,
    panes_below_the_floor_go_with_their_log_rows,
    windows_that_cross_the_floor_are_hidden,
    predictions_below_the_floor_are_frozen,
    a_run_that_comes_too_late_leaves_frozen_predictions,
];

async fn the_floor_rises_on_all_rows_and_never_falls(store: Arc<dyn Store>) {
    let s = stream(store, 2).await;
    s.store.add_partitions("other", &[(tp(0), 0)]).await.unwrap();
    s.store.retain_from(at(5)).await.unwrap();
    s.store.retain_from(at(3)).await.unwrap();
    assert!(s.rows().await.iter().all(|r| r.floor == Some(at(5))), "{:?}", s.rows().await);
    s.store.add_partitions(SOURCE, &[(tp(2), 0)]).await.unwrap();
    assert!(s.rows().await.iter().all(|r| r.floor == Some(at(5))), "a partition added later too");
    let claim = s.store.claim(SOURCE, "owner", &[tp(2)]).await.unwrap().remove(0);
    assert_eq!(claim.floor, Some(at(5)));
}

async fn panes_below_the_floor_go_with_their_log_rows(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    for minute in [0, 1, 2, 3, 2000] {
        s.commit(&[(minute, a, &[(1, 1.0)])]).await;
    }
    assert!(s.store.retain_from(at(2)).await.unwrap() > 0);
    assert_eq!(
        s.store.pane_range().await.unwrap(),
        Some((at(2), at(2000))),
        "one that ends at the floor goes"
    );
    let log: Vec<_> = s.store.changed_panes(9).await.unwrap().iter().map(|c| c.pane_start).collect();
    assert_eq!(log, [at(2), at(3), at(2000)]);
    assert_eq!(s.store.retain_from(at(2)).await.unwrap(), 0, "nothing is left to remove");
    assert_eq!(windows(&*s.store, span(2, 3)).await.len(), 1);
    assert!(windows(&*s.store, span(1, 2)).await.is_empty());
}

async fn windows_that_cross_the_floor_are_hidden(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    for minute in 0..10 {
        s.commit(&[(minute, a, &[(1, 1.0)])]).await;
    }
    s.store.retain_from(at(3)).await.unwrap();
    assert!(windows(&*s.store, span(0, 5)).await.is_empty(), "half a window would be a wrong one");
    assert_eq!(windows(&*s.store, span(3, 5)).await.len(), 1);
    assert_eq!(windows(&*s.store, span(5, 10)).await[&a].version, 5);
}

async fn predictions_below_the_floor_are_frozen(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    for minute in 0..3 {
        s.commit(&[(minute, a, &[(1, 1.0)])]).await;
        score(&*s.store, "default", span(minute, minute + 1), &[(a, Some(1.0), 1)]).await;
    }
    s.store.retain_from(at(2)).await.unwrap();
    for minute in 0..3 {
        let interval = span(minute, minute + 1);
        assert_eq!(published(&*s.store, "default", interval).await.len(), 1);
        assert_eq!(s.store.stale_series("default", interval).await.unwrap(), 0, "minute {minute}");
    }
}

async fn a_run_that_comes_too_late_leaves_frozen_predictions(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    for minute in 0..3 {
        s.commit(&[(minute, a, &[(1, 1.0)])]).await;
        score(&*s.store, "default", span(minute, minute + 1), &[(a, Some(1.0), 1)]).await;
    }
    let before = published(&*s.store, "default", span(1, 2)).await;
    // Opened before the floor rose, scored after it: all it sees is an empty window.
    let task = task(&*s.store, "default", span(1, 2), 7).await;
    s.store.retain_from(at(2)).await.unwrap();
    let rows = [(a, None, 0)];
    assert_eq!(commit_rows(&*s.store, &task, &rows).await.unwrap(), Committed::Frozen);
    assert_eq!(published(&*s.store, "default", span(1, 2)).await, before);
    let run = run_row(&*s.store, task.run_id).await;
    assert_eq!((run.state, run.counts), (RunState::Skipped, RunCounts::default()));
    assert!(run.error.is_some_and(|e| e.contains("frozen")));
    assert_eq!(commit_rows(&*s.store, &task, &rows).await.unwrap(), Committed::Fenced, "it is over");
}
