//! Predictions as they stream into a store.

use super::fixture::*;
use crate::*;
use arrow::array::{ArrayRef, Int64Array};
use fleetscore_schemas::codes::Classify;
use fleetscore_schemas::status::RunState;
use futures::StreamExt;
use std::collections::BTreeMap;

super::list![
    a_commit_comes_in_batches,
    a_run_ends_when_its_last_row_is_there,
    a_stream_that_breaks_off_leaves_nothing,
    series_that_do_not_ascend_are_refused,
    a_claim_in_the_middle_fences_or_finds_nothing,
    a_lease_is_renewed_in_the_middle,
    a_floor_that_rises_in_the_middle_freezes,
    a_pinned_row_carries_its_own_set,
    any_rows_replace_any_rows,
    predictions_come_in_batches_by_name,
];

type Part = std::result::Result<RecordBatch, SourceError>;

/// Commits one batch, does something without waiting for it, and commits another a moment later.
async fn interrupted<F>(
    store: &dyn Store,
    task: &Task,
    [first, second]: [&[Scored]; 2],
    meanwhile: impl FnOnce() -> F + Send,
) -> Committed
where
    F: Future<Output = ()> + Send + 'static,
{
    let begin = futures::stream::iter([Ok(predictions(first))]);
    let rest = futures::stream::once(async {
        tokio::spawn(meanwhile());
        sleep_ms(300).await;
        Ok(predictions(second))
    });
    let predictions = begin.chain(rest).boxed();
    let (selection, rules) = (&Selection::of(task.range), &Rules::default());
    let commit = PredictionCommit { task, selection, predictions, phases: &Phases::default, rules };
    store.commit_predictions(commit).await.unwrap()
}

async fn a_commit_comes_in_batches(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let rows: Vec<Scored> = vec![
        (s.series[0], Some(0.5), 1),
        (s.series[1], Some(-0.5), 1),
        (s.series[2], None, 0),
        (s.series[3], Some(1.0), 2),
        (s.series[4], Some(-1.0), 1),
    ];
    let parts = || -> Vec<Part> {
        let part = |rows: &[Scored]| Ok(predictions(rows));
        vec![part(&[]), part(&rows[..2]), part(&[]), part(&rows[2..3]), part(&rows[3..]), part(&[])]
    };
    let first = task(store, "default", span(0, 1), 1).await;
    assert_eq!(commit_batches(store, &first, parts(), &Rules::default()).await.unwrap(), done(&rows, true));
    let stored = published(store, "default", span(0, 1)).await;
    let decisions: Vec<_> = stored.iter().map(|r| r.decision).collect();
    assert_eq!(decisions, rows.iter().map(|r| r.1).collect::<Vec<_>>());
    sleep_ms(3).await;
    let again = task(store, "default", span(0, 1), 1).await;
    assert_eq!(commit_batches(store, &again, parts(), &Rules::default()).await.unwrap(), done(&rows, false));
    assert_eq!(published(store, "default", span(0, 1)).await, stored, "rows keep their run and time");
    let run = run_row(store, again.run_id).await;
    assert_eq!((run.state, run.counts), (RunState::Succeeded, counts_of(&rows)));
}

async fn a_run_ends_when_its_last_row_is_there(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let (first, second) = ([(s.series[0], Some(0.5), 1)], [(s.series[1], Some(-0.5), 1)]);
    let task = task(store, "default", span(0, 1), 1).await;
    let begun = store.now().await.unwrap();
    let committed = interrupted(store, &task, [&first, &second], || async {}).await;
    assert_eq!(committed, done(&[first, second].concat(), true));
    let finished = run_row(store, task.run_id).await.finished_at.unwrap();
    // The second batch comes 300 ms after the first.
    assert!(finished >= begun.plus_us(290_000), "from {begun} to {finished}");
}

async fn a_stream_that_breaks_off_leaves_nothing(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let (a, b) = (s.series[0], s.series[1]);
    let broken = async |task: &Task, why: SourceError| {
        let parts = vec![Ok(predictions(&[(a, Some(7.0), 9)])), Err(why), Ok(predictions(&[(b, None, 0)]))];
        commit_batches(store, task, parts, &Rules::default()).await
    };
    // Into nothing, and over what is stored.
    for rows in [vec![], vec![(a, Some(0.5), 1), (b, Some(0.25), 1)]] {
        let before = published(store, "default", span(0, 1)).await;
        let due = store.claim_publication("p", LONG).await.unwrap();
        let task = task(store, "default", span(0, 1), 1).await;
        let claimed = run_row(store, task.run_id).await;
        let error = broken(&task, "no more windows".into()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Source(e) if e.to_string() == "no more windows"), "{error}");
        assert!(!error.is_transient());
        assert_eq!(published(store, "default", span(0, 1)).await, before);
        assert_eq!(run_row(store, task.run_id).await, claimed);
        let lost = StoreError::Unavailable { message: "gone".into() };
        assert!(broken(&task, Box::new(lost)).await.unwrap_err().is_transient(), "judged as what it is");
        assert_eq!(store.renew_task(&task, LONG).await.unwrap(), Outcome::Done, "it is still ours");
        assert!(is_done(&commit_rows(store, &task, &rows).await.unwrap()));
        if let Some(due) = due {
            assert_eq!(store.finish_publication(&due).await.unwrap(), Outcome::Done);
        }
    }
    assert_eq!(published(store, "default", span(0, 1)).await.len(), 2);
}

async fn series_that_do_not_ascend_are_refused(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let task = task(store, "default", span(0, 1), 1).await;
    let (a, b) = (s.series[0], s.series[1]);
    for rows in [[b, a], [a, a]] {
        let parts = rows.iter().map(|id| Ok(predictions(&[(*id, Some(0.5), 1)]))).collect();
        let error = commit_batches(store, &task, parts, &Rules::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Internal { .. }), "{error}");
    }
    assert!(published(store, "default", span(0, 1)).await.is_empty());
}

async fn a_claim_in_the_middle_fences_or_finds_nothing(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let (a, b) = (s.series[0], s.series[1]);
    let old = [(a, Some(0.5), 1), (b, Some(0.5), 1)];
    score(&*s.store, "default", span(0, 1), &old).await;
    let before = published(&*s.store, "default", span(0, 1)).await;
    open_runs(&*s.store, vec![new_run("default", span(0, 1), Some(2))]).await;
    let task = claim_any(&*s.store, 1).await.unwrap();
    sleep_ms(3).await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let other = s.store.clone();
    let claim = || async move {
        let claim = TaskClaim { worker: "other".into(), ..wish(LONG) };
        tell.send(super::patiently!(other.claim_task(&claim))).unwrap();
    };
    let rows = [(a, Some(1.0), 2), (b, Some(1.0), 2)];
    let committed = interrupted(&*s.store, &task, [&rows[..1], &rows[1..]], claim).await;
    let after = published(&*s.store, "default", span(0, 1)).await;
    match told.await.unwrap() {
        Some(other) => {
            assert_eq!((committed, after), (Committed::Fenced, before));
            assert!(is_done(&commit_rows(&*s.store, &other, &rows).await.unwrap()));
        }
        None => {
            assert_eq!(committed, done(&rows, true));
            assert!(after.iter().all(|r| r.decision == Some(1.0)));
        }
    }
}

async fn a_lease_is_renewed_in_the_middle(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let task = task(&*s.store, "default", span(0, 1), 1).await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let (other, mine) = (s.store.clone(), task.clone());
    let renew = || async move {
        tell.send(super::patiently!(other.renew_task(&mine, LONG))).unwrap();
    };
    let rows = [(s.series[0], Some(1.0), 2), (s.series[1], Some(1.0), 2)];
    let committed = interrupted(&*s.store, &task, [&rows[..1], &rows[1..]], renew).await;
    assert_eq!(committed, done(&rows, true));
    let renewed = told.await.unwrap();
    // Another process on a SQLite file waits for the commit, and finds that the run is over.
    assert!(renewed == Outcome::Done || s.store.kind() == StoreKind::Sqlite);
}

async fn a_floor_that_rises_in_the_middle_freezes(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let (a, b) = (s.series[0], s.series[1]);
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    s.commit(&[(0, a, &[(1, 1.0)]), (0, b, &[(1, 1.0)]), (5, b, &[(1, 1.0)])]).await;
    let old = [(a, Some(0.5), 1), (b, Some(0.5), 1)];
    // Over what is stored, and into nothing.
    for (interval, stored) in [(span(0, 1), &old[..]), (span(1, 2), &[])] {
        score(&*s.store, "default", interval, stored).await;
        let before = published(&*s.store, "default", interval).await;
        let task = task(&*s.store, "default", interval, 2).await;
        let other = s.store.clone();
        let raise = || async move {
            super::patiently!(other.retain_from(interval.end));
        };
        let rows = [(a, Some(1.0), 2), (b, None, 0)];
        let committed = interrupted(&*s.store, &task, [&rows[..1], &rows[1..]], raise).await;
        let run = run_row(&*s.store, task.run_id).await;
        if committed == Committed::Frozen {
            assert_eq!(published(&*s.store, "default", interval).await, before);
            assert_eq!((run.state, run.counts), (RunState::Skipped, RunCounts::default()));
        } else {
            // Where there is one writer it cannot rise in the middle.
            assert_eq!((committed, s.store.kind()), (done(&rows, true), StoreKind::Sqlite));
            assert_eq!(run.state, RunState::Succeeded);
        }
        for _ in 0..200 {
            if s.rows().await[0].floor == Some(interval.end) {
                break;
            }
            sleep_ms(10).await;
        }
    }
}

fn with_sets(rows: &[Scored], sets: &[Option<i64>]) -> RecordBatch {
    let batch = predictions(rows);
    let mut columns = batch.columns().to_vec();
    let at = batch.schema().index_of("model_set").unwrap();
    columns[at] = Arc::new(Int64Array::from(sets.to_vec())) as ArrayRef;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

async fn a_pinned_row_carries_its_own_set(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let rows = [(s.series[0], Some(0.5), 1), (s.series[1], Some(0.5), 1), (s.series[2], None, 0)];
    let sets = async || -> Vec<_> {
        published(store, "default", span(0, 1)).await.iter().map(|r| r.model_set).collect()
    };
    // The run's own set may be named or not: it is the same row.
    for (given, stored, changed) in [
        ([None, Some(3), None], [7, 3, 7], true),
        ([Some(7), Some(3), Some(7)], [7, 3, 7], false),
        ([None, Some(4), None], [7, 4, 7], true),
        ([None, None, None], [7, 7, 7], true),
    ] {
        let task = task(store, "default", span(0, 1), 7).await;
        let parts = vec![Ok(with_sets(&rows, &given))];
        assert_eq!(
            commit_batches(store, &task, parts, &Rules::default()).await.unwrap(),
            done(&rows, changed)
        );
        assert_eq!(sets().await, stored.map(Some));
    }
}

/// Rounds of random rows in random batches, over and between what is stored, against a map.
async fn any_rows_replace_any_rows(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let names: Vec<_> = (0..700).map(|i| SeriesName::new(format!("n{i:04}"), "s")).collect();
    let ids: Vec<SeriesId> =
        s.store.intern(&names, 1000).await.unwrap().into_iter().map(Option::unwrap).collect();
    let mut numbers = Numbers(11);
    let mut wanted: BTreeMap<SeriesId, (Scored, String)> = BTreeMap::new();
    for round in 0..14 {
        // Of a hundred: how many series have a row, and how many rows have a new value.
        let (dense, moving) = [(100, 0), (100, 100), (50, 10), (5, 50), (95, 3), (0, 0)][round % 6];
        let mut rows: Vec<Scored> = Vec::new();
        for id in &ids {
            if numbers.below(100) < dense {
                let old = wanted.get(id).map(|(row, _)| *row).filter(|_| numbers.below(100) >= moving);
                let decision = Some(numbers.below(1000) as f64 - 500.0).filter(|_| numbers.below(10) > 0);
                rows.push(old.unwrap_or((*id, decision, numbers.below(9) as i64)));
            }
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(rest.len().min(1 + numbers.below(200) as usize));
            parts.push(Ok(predictions(part)));
            rest = tail;
        }
        let task = task(store, "default", span(0, 1), 1).await;
        let next: BTreeMap<_, _> = rows
            .iter()
            .map(|row| {
                let run = wanted.get(&row.0).filter(|(old, _)| old == row).map(|(_, run)| run.clone());
                (row.0, (*row, run.unwrap_or_else(|| task.run_id.to_string())))
            })
            .collect();
        let committed = commit_batches(store, &task, parts, &Rules::default()).await.unwrap();
        assert_eq!(committed, done(&rows, next != wanted), "round {round}");
        wanted = next;
        let got: Vec<_> = published(store, "default", span(0, 1)).await;
        // Names ascend as their ids do.
        let got: Vec<_> = got.into_iter().map(|r| (r.decision, r.window_version, r.run_id)).collect();
        let expected: Vec<_> =
            wanted.values().map(|((_, d, version), run)| (*d, *version, run.clone())).collect();
        assert_eq!(got, expected, "round {round}");
    }
}

async fn predictions_come_in_batches_by_name(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    // Ids and names in different orders.
    let name = |i: usize| SeriesName::new(format!("n{:05}", (i * 7919) % 9000), "s");
    let mut ids = Vec::new();
    for part in (0..9000).map(name).collect::<Vec<_>>().chunks(900) {
        ids.extend(store.intern(part, 10_000).await.unwrap().into_iter().map(Option::unwrap));
    }
    ids.sort_unstable();
    let rows: Vec<Scored> = ids.iter().map(|id| (*id, Some(0.5), 1)).collect();
    score(store, "default", span(0, 1), &rows).await;
    let read = batches(store.predictions("default", span(0, 1)).await).await;
    let sizes: Vec<_> = read.iter().map(RecordBatch::num_rows).collect();
    assert!(sizes.len() > 1 && sizes.iter().all(|n| *n <= 8192), "{sizes:?}");
    let devices: Vec<_> =
        published(store, "default", span(0, 1)).await.into_iter().map(|r| r.device).collect();
    assert_eq!(devices.len(), 9000);
    assert!(devices.is_sorted());
    // A reader that goes away in the middle holds nothing up.
    let mut abandoned = store.predictions("default", span(0, 1)).await.unwrap();
    assert!(abandoned.next().await.is_some());
    drop(abandoned);
    score(store, "default", span(0, 1), &rows[..1]).await;
    assert_eq!(published(store, "default", span(0, 1)).await.len(), 1);
}
