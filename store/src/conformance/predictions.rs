//! Windows as they are read for scoring, and predictions as they are replaced.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::status::RunState;

super::list![
    an_interval_says_whether_it_has_predictions,
    longer_windows_are_merged_exactly,
    hopping_windows_share_panes,
    a_commit_stores_predictions_and_ends_the_run,
    published_rows_are_in_byte_order,
    a_rerun_changes_nothing,
    only_rows_that_change_move,
    a_series_that_is_no_longer_there_vanishes,
    stale_series_are_counted_by_versions,
    a_longer_window_is_stale_when_any_pane_moved,
    a_failed_run_keeps_its_predictions,
    intervals_and_schedules_do_not_mix,
];

async fn longer_windows_are_merged_exactly(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let (a, b) = (s.series[0], s.series[1]);
    let mut numbers = Numbers(3);
    let mut readings: Vec<(Timestamp, f64)> = Vec::new();
    for minute in [0, 1, 3, 4, 5] {
        for _ in 0..3 {
            let us = numbers.below(60_000_000) as i64;
            // A large mean: a formula that subtracts squares would lose the deviation.
            let value = 1e9 + numbers.below(1000) as f64 / 7.0;
            s.commit(&[(minute, a, &[(us, value)])]).await;
            if minute < 5 {
                readings.push((at(minute).plus_us(us), value));
            }
        }
    }
    s.commit(&[(2, b, &[(7, 1.0)])]).await;
    let stored = windows(&*s.store, span(0, 5)).await;
    assert_eq!(stored.keys().copied().collect::<Vec<_>>(), [a.min(b), a.max(b)]);
    assert_eq!(stored[&a].version, 12, "the sum of its panes' versions");
    let n = readings.len() as f64;
    let mean = 1e9 + readings.iter().map(|r| r.1 - 1e9).sum::<f64>() / n;
    let m2: f64 = readings.iter().map(|r| (r.1 - mean) * (r.1 - mean)).sum();
    let deviation = (m2 / (n - 1.0)).sqrt();
    let stddev = stored[&a].values[3].unwrap();
    assert!((stddev - deviation).abs() <= 1e-8 * deviation, "{stddev} {deviation}");
    let by_time = |w: usize| stored[&a].values[w].unwrap();
    assert_eq!(by_time(6), readings.iter().min_by_key(|r| r.0).unwrap().1, "first");
    assert_eq!(by_time(7), readings.iter().max_by_key(|r| r.0).unwrap().1, "last");
    assert_eq!(by_time(4), readings.iter().map(|r| r.1).fold(f64::INFINITY, f64::min));
    assert_eq!(by_time(5), readings.iter().map(|r| r.1).fold(f64::NEG_INFINITY, f64::max));
    assert_eq!(by_time(1), n);
    assert_eq!(stored[&b], window_of(1, &partial(2, &[(7, 1.0)])));
}

async fn hopping_windows_share_panes(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    for minute in 0..6 {
        s.commit(&[(minute, a, &[(1, minute as f64)])]).await;
    }
    for start in -2..6 {
        let stored = windows(&*s.store, span(start, start + 3)).await;
        let wanted: Vec<f64> = (start.max(0)..(start + 3).min(6)).map(|m| m as f64).collect();
        let window = stored.get(&a).unwrap();
        assert_eq!(window.version, wanted.len() as i64);
        assert_eq!(window.values[2], Some(wanted.iter().sum()), "from minute {start}");
        assert_eq!((window.values[6], window.values[7]), (wanted.first().copied(), wanted.last().copied()));
    }
    assert!(windows(&*s.store, span(6, 9)).await.is_empty());
}

async fn a_commit_stores_predictions_and_ends_the_run(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let (a, b, c, d) = (s.series[0], s.series[1], s.series[2], s.series[3]);
    let before = store.now().await.unwrap();
    let task = task(store, "default", span(0, 1), 7).await;
    let scored = [(a, Some(0.25), 3), (b, Some(-1.0 / 3.0), 1), (c, None, 0), (d, Some(f64::NAN), 1)];
    let counts = counts_of(&scored);
    let rules = Rules { why: Some("1 of 4 models refused".to_owned()), ..Rules::default() };
    let commit = async || commit_batches(store, &task, vec![Ok(predictions(&scored))], &rules).await;
    let wanted = Committed::Done { counts, changed: true, ended: Some((RunState::Partial, counts)) };
    assert_eq!(commit().await.unwrap(), wanted);
    let rows = published(store, "default", span(0, 1)).await;
    let row = |device: &str, decision, status: &str, window_version| Row {
        device: device.into(),
        decision,
        status: status.into(),
        model_set: Some(7),
        window_version,
        run_id: task.run_id.to_string(),
        scored_at: rows[0].scored_at,
    };
    let wanted = [
        row("d0", Some(0.25), "scored", 3),
        row("d1", Some(-1.0 / 3.0), "scored", 1),
        row("d2", None, "no_data", 0),
        row("d3", None, "model_error", 1),
    ];
    assert_eq!(rows, wanted);
    assert!(before.0 <= rows[0].scored_at && rows[0].scored_at <= store.now().await.unwrap().0);
    let text = arrow_text(&batches(store.predictions("default", span(0, 1)).await).await);
    assert!(text.contains("model_") && text.contains("20.25"), "the model's name and the value: {text}");
    assert!(text.contains("10.01 … 14.18"), "what would have been normal: {text}");
    let run = run_row(store, task.run_id).await;
    assert_eq!((run.state, run.counts), (RunState::Partial, counts));
    assert!(
        run.error.is_some_and(|e| e.starts_with("1 models failed") && e.ends_with("1 of 4 models refused"))
    );
    assert!(run.started_at <= run.finished_at && run.finished_at.is_some());
    assert_eq!(commit().await.unwrap(), Committed::Fenced, "a retry after a lost answer");
    assert_eq!(published(store, "default", span(0, 1)).await, rows);
}

fn arrow_text(batches: &[RecordBatch]) -> String {
    batches.iter().map(|b| format!("{b:?}")).collect()
}

async fn published_rows_are_in_byte_order(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let devices = ["b", "a", "B", "é", "a b", "ab", "Z", "10", "9", "_"];
    let names: Vec<_> = devices.iter().map(|d| SeriesName::new(*d, "s")).collect();
    let mut ids = Vec::new();
    for name in names {
        // One by one: ids that are given together may be in the order of names already.
        ids.push(s.store.intern(&[name], 99).await.unwrap()[0].unwrap());
    }
    assert!(ids.is_sorted());
    let rows: Vec<Scored> = ids.iter().map(|id| (*id, Some(1.0), 1)).collect();
    score(&*s.store, "default", span(0, 1), &rows).await;
    let got: Vec<_> =
        published(&*s.store, "default", span(0, 1)).await.into_iter().map(|r| r.device).collect();
    let mut wanted = devices;
    wanted.sort_unstable();
    assert_eq!(got, wanted, "the same files from every store, whatever its locale");
}

async fn a_rerun_changes_nothing(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let rows = [(s.series[0], Some(0.1 + 0.2), 1), (s.series[1], Some(-0.5), 1), (s.series[2], None, 0)];
    score(store, "default", span(0, 1), &rows).await;
    let first = published(store, "default", span(0, 1)).await;
    let publication = store.claim_publication("p", LONG).await.unwrap().expect("something changed");
    assert_eq!(store.finish_publication(&publication).await.unwrap(), Outcome::Done);
    sleep_ms(3).await;
    let again = score(store, "default", span(0, 1), &rows).await;
    assert_eq!(published(store, "default", span(0, 1)).await, first, "rows keep their run and time");
    assert_eq!(store.claim_publication("p", LONG).await.unwrap(), None, "nothing is due");
    let run = run_row(store, again.run_id).await;
    assert_eq!(
        (run.state, run.counts.scored),
        (RunState::Succeeded, 2),
        "the run says what it found all the same"
    );
}

async fn only_rows_that_change_move(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let (a, b, c, d) = (s.series[0], s.series[1], s.series[2], s.series[3]);
    let rows = [(a, Some(0.5), 1), (b, Some(0.5), 1), (c, None, 0), (d, Some(0.5), 4)];
    let first = score(store, "default", span(0, 1), &rows).await;
    sleep_ms(3).await;
    // The smallest difference of a decision, a version alone, data for what had none.
    let rows = [(a, Some(0.5), 1), (b, Some(0.5 + f64::EPSILON), 1), (c, Some(1.0), 1), (d, Some(0.5), 5)];
    let second = score(store, "default", span(0, 1), &rows).await;
    let rows = published(store, "default", span(0, 1)).await;
    let runs: Vec<_> = rows.iter().map(|r| r.run_id.clone()).collect();
    let (old, new) = (first.run_id.to_string(), second.run_id.to_string());
    assert_eq!(runs, [old, new.clone(), new.clone(), new]);
    assert!(rows[0].scored_at < rows[1].scored_at);
    assert_eq!(
        (rows[1].decision, rows[2].decision, rows[3].window_version),
        (Some(0.5 + f64::EPSILON), Some(1.0), 5)
    );
    // Another model set is another prediction, though the numbers are the same.
    let task = task(store, "default", span(0, 1), 2).await;
    let same = [(a, Some(0.5), 1), (b, Some(0.5), 1), (c, Some(1.0), 1), (d, Some(0.5), 5)];
    assert!(is_done(&commit_rows(store, &task, &same).await.unwrap()));
    assert!(published(store, "default", span(0, 1)).await.iter().all(|r| r.model_set == Some(2)));
}

async fn a_series_that_is_no_longer_there_vanishes(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let (a, b) = (s.series[0], s.series[1]);
    score(store, "default", span(0, 1), &[(a, Some(0.5), 1), (b, Some(0.5), 1)]).await;
    let publication = store.claim_publication("p", LONG).await.unwrap().unwrap();
    assert_eq!(store.finish_publication(&publication).await.unwrap(), Outcome::Done);
    score(store, "default", span(0, 1), &[(b, Some(0.5), 1)]).await;
    let rows = published(store, "default", span(0, 1)).await;
    assert_eq!(rows.iter().map(|r| r.device.as_str()).collect::<Vec<_>>(), ["d1"]);
    assert!(store.claim_publication("p", LONG).await.unwrap().is_some(), "a row less is a change");
    score(store, "default", span(0, 1), &[]).await;
    assert!(published(store, "default", span(0, 1)).await.is_empty());
}

async fn stale_series_are_counted_by_versions(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let (a, b, c) = (s.series[0], s.series[1], s.series[2]);
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let interval = span(0, 1);
    let store = s.store.clone();
    let stale = async || store.stale_series("default", interval).await.unwrap();
    assert_eq!(stale().await, 0, "no data, no predictions");
    s.commit(&[(0, a, &[(1, 1.0)]), (0, b, &[(1, 1.0)]), (1, c, &[(1, 1.0)])]).await;
    assert_eq!(stale().await, 2, "a missing prediction counts as version 0");
    score(&*s.store, "default", interval, &[(a, Some(0.5), 1), (b, Some(0.5), 1), (c, None, 0)]).await;
    assert_eq!(stale().await, 0);
    s.commit(&[(0, a, &[(2, 1.0)])]).await;
    assert_eq!(stale().await, 1, "late readings");
    s.commit(&[(0, c, &[(2, 1.0)])]).await;
    assert_eq!(stale().await, 2, "late readings of a series that had none");
    s.commit(&[(1, b, &[(2, 1.0)])]).await;
    assert_eq!(stale().await, 2, "another interval's");
    score(&*s.store, "default", interval, &[(a, Some(0.5), 2), (b, Some(0.5), 1), (c, Some(0.5), 1)]).await;
    assert_eq!(stale().await, 0);
    // Scored from a snapshot that was already old when it was stored.
    score(&*s.store, "default", interval, &[(a, Some(0.5), 1), (b, Some(0.5), 1), (c, Some(0.5), 1)]).await;
    assert_eq!(stale().await, 1);
}

async fn a_longer_window_is_stale_when_any_pane_moved(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    s.store.put_schedule(&ScheduleSpec { hop_us: MINUTE, ..schedule("hopping", 3) }).await.unwrap();
    for minute in 0..3 {
        s.commit(&[(minute, a, &[(1, 1.0)])]).await;
    }
    for start in 0..3 {
        let version = windows(&*s.store, span(start, start + 3)).await[&a].version;
        score(&*s.store, "hopping", span(start, start + 3), &[(a, Some(0.5), version)]).await;
    }
    s.commit(&[(1, a, &[(2, 1.0)])]).await;
    for (start, stale) in [(0, 1), (1, 1), (2, 0)] {
        let got = s.store.stale_series("hopping", span(start, start + 3)).await.unwrap();
        assert_eq!(got, stale, "from minute {start}");
    }
}

async fn a_failed_run_keeps_its_predictions(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let task = task(&*s.store, "default", span(0, 1), 1).await;
    let batch = predictions(&[(s.series[0], Some(f64::NAN), 1)]);
    let rules = Rules { thresholds: Thresholds { error_threshold: 0, ..Thresholds::default() }, why: None };
    assert!(is_done(&commit_batches(&*s.store, &task, vec![Ok(batch)], &rules).await.unwrap()));
    assert_eq!(published(&*s.store, "default", span(0, 1)).await.len(), 1);
    assert_eq!(run_row(&*s.store, task.run_id).await.state, RunState::Failed);
    open_runs(&*s.store, vec![new_run("default", span(0, 1), Some(1))]).await;
}

async fn intervals_and_schedules_do_not_mix(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    s.store.put_schedule(&schedule("five", 5)).await.unwrap();
    let a = s.series[0];
    score(store, "default", span(0, 1), &[(a, Some(1.0), 1)]).await;
    score(store, "five", span(0, 5), &[(a, Some(2.0), 1)]).await;
    score(store, "default", span(1, 2), &[(a, Some(3.0), 1)]).await;
    score(store, "five", span(0, 5), &[(a, Some(4.0), 1)]).await;
    for (schedule, interval, decision) in
        [("default", span(0, 1), 1.0), ("five", span(0, 5), 4.0), ("default", span(1, 2), 3.0)]
    {
        let rows = published(store, schedule, interval).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].decision, Some(decision));
    }
    assert!(published(store, "five", span(5, 10)).await.is_empty());
}

async fn an_interval_says_whether_it_has_predictions(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    assert!(!store.has_predictions("default", span(0, 1)).await.unwrap());
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.5), 1)]).await;
    assert!(store.has_predictions("default", span(0, 1)).await.unwrap());
    assert!(!store.has_predictions("default", span(1, 2)).await.unwrap(), "another interval");
    assert!(!store.has_predictions("other", span(0, 1)).await.unwrap(), "another schedule");
    score(store, "default", span(0, 1), &[]).await;
    assert!(!store.has_predictions("default", span(0, 1)).await.unwrap(), "they were replaced by none");
}
