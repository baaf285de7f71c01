//! Ranges: scored now, dry runs, sets of the time, what was left undone.

use super::workers::Flaky;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_scored_once_and_a_rerun_changes_nothing() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    let stop = CancellationToken::new();
    let blobs = memory_blobs();
    let go = async |w: &World, o: RangeOptions| {
        run_range_with(w.store.clone(), blobs.clone(), o, loader(), stop.clone()).await
    };
    w.send(0, &[(0, 1, 15.0), (1, 1, 5.0), (7, 1, 5.0), (9, 1, 5.0)], Some(at(8)), false).await;
    let error = go(&w, range(&w, 0, 10)).await.unwrap_err();
    assert!(error.to_string().contains("no model set"), "{error}");
    w.activate().await;
    let mut unaligned = range(&w, 0, 10);
    unaligned.from = at(0).plus_us(1);
    let error = go(&w, unaligned).await.unwrap_err();
    assert!(error.to_string().starts_with("`from`:") && error.domain() == Domain::User, "{error}");
    // A dry run says what would be and changes nothing.
    let report = go(&w, RangeOptions { dry_run: true, ..range(&w, 0, 10) }).await.unwrap();
    assert_eq!(report.intervals.len(), 3);
    assert_eq!(report.intervals[0].changes.len(), 4, "no row yet, four then");
    assert!(w.runs("default").await.is_empty());
    let report = go(&w, range(&w, 0, 10)).await.unwrap();
    let of: Vec<_> =
        report.intervals.iter().map(|i| (i.interval, i.state, i.counts.scored, i.counts.anomalies)).collect();
    let partial = Some(RunState::Partial);
    assert_eq!(of, [(span(0, 1), partial, 1, 1), (span(1, 2), partial, 1, 0), (span(7, 8), partial, 1, 0)]);
    assert_eq!(report.unready.len(), 1);
    assert!(report.partly() && !report.failed() && report.unready[0].1.contains("watermark"));
    assert_eq!(blobs.list("predictions").await.unwrap().len(), 9);
    let stored = async || -> Vec<arrow::array::RecordBatch> {
        w.store.predictions("default", span(0, 1)).await.unwrap().try_collect().await.unwrap()
    };
    let before = stored().await;
    go(&w, range(&w, 0, 8)).await.unwrap();
    assert_eq!(stored().await, before);
    // Another set: 15 is normal there.
    let version = w.activate().await;
    let report = go(&w, RangeOptions { dry_run: true, ..range(&w, 0, 8) }).await.unwrap();
    let changed: Vec<_> = report.intervals.iter().map(|i| i.changes.len()).collect();
    assert_eq!(changed, [1, 0, 0]);
    assert_eq!(report.intervals[0].changes[0].after, Some(("scored".to_owned(), Some(0))));
    let report = RangeOptions { model_set: SetChoice::Version(1), ..range(&w, 0, 8) };
    let report = go(&w, report).await.unwrap();
    assert!(report.intervals.iter().all(|i| i.model_set == Some(1)) && version == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_waits_for_an_interval_that_another_worker_scores() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    w.activate().await;
    w.send(0, &[(0, 1, 15.0)], Some(at(1)), false).await;
    w.look().await;
    let claim = TaskClaim { worker: "other".into(), lease_us: 60_000_000, run_ids: None, prefer: vec![] };
    let task = w.store.claim_task(&claim).await.unwrap().unwrap();
    let job = tokio::spawn(run_range_with(
        w.store.clone(),
        memory_blobs(),
        range(&w, 0, 1),
        loader(),
        CancellationToken::new(),
    ));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!job.is_finished());
    let failure = TaskFailure { error: "enough", retry: None, rules: &Default::default() };
    let given = w.store.fail_task(&task, &failure).await.unwrap();
    assert_eq!(given, GivenBack::Ended(RunState::Failed));
    let report = job.await.unwrap().unwrap();
    assert_eq!(report.intervals[0].state, Some(RunState::Partial));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_ends_runs_that_nobody_works_on() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    w.send(0, &[(0, 1, 15.0), (1, 1, 15.0)], Some(at(2)), false).await;
    // Before there is a set: these wait. What a killed process left runs, and nobody holds it.
    w.look().await;
    w.activate().await;
    w.send(0, &[(2, 1, 15.0)], Some(at(3)), false).await;
    let left = new_run(span(2, 3), RunCause::Manual, 1);
    let plan = Plan { open: vec![left], ..Plan::default() };
    assert_eq!(w.store.plan(&plan).await.unwrap(), Outcome::Done);
    let stop = CancellationToken::new();
    let job = run_range_with(w.store.clone(), memory_blobs(), range(&w, 0, 3), loader(), stop);
    let report = tokio::time::timeout(Duration::from_secs(30), job).await.unwrap().unwrap();
    assert_eq!(report.intervals.len(), 3);
    assert!(w.runs("default").await.iter().all(|r| r.2.is_final()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_leaves_out_what_the_floor_of_retention_cuts() {
    let mut w = World::new(&[schedule("default", 2, 2, CatchUp::All)], 1).await;
    w.activate().await;
    let readings: Vec<_> = (0..8).map(|m| (m, 1, 5.0)).collect();
    w.send(0, &readings, Some(at(8)), false).await;
    w.store.retain_from(at(3)).await.unwrap();
    let stop = CancellationToken::new();
    let report =
        run_range_with(w.store.clone(), memory_blobs(), range(&w, 0, 8), loader(), stop).await.unwrap();
    let intervals: Vec<_> = report.intervals.iter().map(|i| i.interval).collect();
    assert_eq!(intervals, [span(4, 6), span(6, 8)]);
    // Opened all the same, such a run is skipped and does not count as scored.
    let run = new_run(span(0, 2), RunCause::Manual, 1);
    let plan = Plan { open: vec![run], ..Plan::default() };
    assert_eq!(w.store.plan(&plan).await.unwrap(), Outcome::Done);
    w.score().await;
    assert_eq!(w.runs("default").await[0].2, RunState::Skipped);
    assert_eq!(Handle { shared: w.shared.clone() }.snapshot(), Snapshot::default());
}

/// Labels of the stored rows of some intervals, by minute and sensor.
type Labels = std::collections::BTreeMap<(i64, String), (String, Option<i16>)>;

async fn labels(w: &World, minutes: std::ops::Range<i64>) -> Labels {
    let mut all = Labels::new();
    for m in minutes {
        let mut batches = w.store.predictions("default", span(m, m + 1)).await.unwrap();
        while let Some(batch) = batches.try_next().await.unwrap() {
            let rows = crate::output::rows::rows(&batch);
            all.extend(rows.map(|r| ((m, r.sensor.to_owned()), (r.status.to_owned(), r.prediction))));
        }
    }
    all
}

/// What a dry run says becomes of labels.
fn applied(mut labels: Labels, report: &RangeReport) -> Labels {
    for i in &report.intervals {
        let minute = (i.interval.start.0 - at(0).0) / MINUTE;
        for change in &i.changes {
            let key = (minute, change.series.sensor.clone());
            assert_eq!(labels.get(&key), change.before.as_ref(), "{key:?}");
            match &change.after {
                Some(after) => drop(labels.insert(key, after.clone())),
                None => drop(labels.remove(&key)),
            }
        }
    }
    labels
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_and_the_run_agree_label_for_label() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    let blobs = memory_blobs();
    let readings: Vec<_> =
        (0..6).flat_map(|m| (1..=5).map(move |s| (m, s, 6.0 * f64::from(s) - m as f64))).collect();
    w.send(0, &readings, Some(at(6)), false).await;
    let go = async |w: &World, o: RangeOptions| {
        run_range_with(w.store.clone(), blobs.clone(), o, loader(), CancellationToken::new()).await.unwrap()
    };
    go(&w, range(&w, 0, 6)).await;
    w.activate().await;
    // Late readings: one for a series with a model, one for one without.
    w.send(0, &[(2, 1, 90.0), (2, 6, 90.0), (4, 3, -500.0)], Some(at(6)), false).await;
    let of = |o: RangeOptions, set, series: Option<&str>, scope| RangeOptions {
        model_set: set,
        series: series.map(str::to_owned),
        scope,
        ..o
    };
    // name, set, filter, scope, intervals, the sets they are scored with
    let cases = [
        ("stale ones of some series", SetChoice::Active, Some("s000[16]$"), RunScope::Stale, 1, 1),
        ("stale ones, with the set their interval has", SetChoice::Active, None, RunScope::Stale, 1, 1),
        ("nothing is stale any more", SetChoice::Active, None, RunScope::Stale, 0, 0),
        ("those that failed, with the new set", SetChoice::Active, None, RunScope::Failed, 6, 2),
        ("some series, with the new set", SetChoice::Active, Some("s000[12]$"), RunScope::All, 6, 2),
        ("all, with the new set", SetChoice::Active, None, RunScope::All, 6, 2),
        ("some, with the old one", SetChoice::Version(1), Some("d/s000[345]"), RunScope::All, 6, 1),
        ("none", SetChoice::Active, Some("nobody"), RunScope::All, 0, 0),
    ];
    for (name, set, series, scope, intervals, version) in cases {
        let before = labels(&w, 0..6).await;
        let options = || of(range(&w, 0, 6), set, series, scope);
        let dry = go(&w, RangeOptions { dry_run: true, ..options() }).await;
        assert_eq!(labels(&w, 0..6).await, before, "{name}: it changes nothing");
        let real = go(&w, options()).await;
        assert_eq!(labels(&w, 0..6).await, applied(before, &dry), "{name}");
        let brief = |r: &RangeReport| -> Vec<_> {
            r.intervals.iter().map(|i| (i.interval, i.model_set, i.counts)).collect()
        };
        assert_eq!(brief(&dry), brief(&real), "{name}");
        assert_eq!(real.intervals.len(), intervals, "{name}");
        assert!(real.intervals.iter().all(|i| i.model_set == Some(version)), "{name}");
        assert_eq!(
            w.store.runs(&RunFilter::default()).await.unwrap().iter().filter(|r| !r.state.is_final()).count(),
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_scored_with_the_sets_of_its_time_and_says_what_they_had_seen() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    // Readings of a day ago; sets are activated now.
    w.send(
        0,
        &[(0, 1, 5.0), (1, 1, 5.0), (1_000_001, 1, 5.0), (1_000_009, 1, 5.0)],
        Some(at(1_000_010)),
        false,
    )
    .await;
    assert_eq!(w.activate().await, 1);
    w.pass(5);
    assert_eq!(w.activate_trained(Some(span(0, 1_000_009))).await, 2);
    let progress = watch::Sender::new(RangeProgress::new());
    let options = RangeOptions {
        model_set: SetChoice::AsOfInterval,
        progress: Some(progress.clone()),
        ..range(&w, 0, 1_000_010)
    };
    for dry_run in [true, false] {
        let options = RangeOptions { dry_run, ..options.clone() };
        let report =
            run_range_with(w.store.clone(), memory_blobs(), options, loader(), CancellationToken::new());
        let report = report.await.unwrap();
        let sets: Vec<_> = report.intervals.iter().map(|i| (i.interval, i.model_set)).collect();
        let (old, new) = (span(1_000_001, 1_000_002), span(1_000_009, 1_000_010));
        assert_eq!(sets, [(old, Some(1)), (new, Some(2))]);
        let without: Vec<_> = report.without_set.iter().map(|(i, _)| *i).collect();
        assert_eq!(without, [span(0, 1), span(1, 2)]);
        assert!(
            report.without_set[0].1.contains("no model set was active at 2026-01-01T00:01"),
            "{report:?}"
        );
        assert!(report.partly() && report.warnings().is_empty());
    }
    let told = *progress.borrow();
    assert_eq!((told.intervals_done, told.intervals_total), (4, 4));
    assert!(told.rows >= 8);
    let options = RangeOptions { model_set: SetChoice::Version(2), dry_run: true, ..options };
    let report = run_range_with(w.store.clone(), memory_blobs(), options, loader(), CancellationToken::new());
    let warnings = report.await.unwrap().warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("model set 2 was trained on data up to"), "{warnings:?}");
    assert!(warnings[0].contains("in 3 intervals from 2026-01-01T00:00"), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_left_undone_is_repeated_and_nothing_else() {
    let mut w =
        World::live(&[ScheduleSpec { max_retries: 0, ..schedule("default", 1, 1, CatchUp::All) }]).await;
    w.activate().await;
    let readings: Vec<_> = (0..3).flat_map(|m| [(m, 1, 5.0), (m, 3, 5.0)]).collect();
    w.send(0, &readings, Some(at(3)), false).await;
    let open = NewRun { cuts: vec![3], ..new_run(span(0, 1), RunCause::Manual, 1) };
    let id = open.run_id;
    assert_eq!(w.store.plan(&Plan { open: vec![open], ..Plan::default() }).await.unwrap(), Outcome::Done);
    let claim = TaskClaim { worker: "x".into(), lease_us: 60_000_000, run_ids: None, prefer: vec![1] };
    let task = w.store.claim_task(&claim).await.unwrap().unwrap();
    let retry = async |id: uuid::Uuid| {
        let options = RetryOptions {
            run_id: id,
            new_run: uuid::Uuid::now_v7(),
            publish: true,
            progress: None,
            scorer: options(&w, "job"),
        };
        let (store, blobs) = (w.store.clone(), memory_blobs());
        retry_run_with(store, blobs, options, loader(), CancellationToken::new()).await
    };
    let refused = async |id: uuid::Uuid, words: &str| {
        let error = retry(id).await.unwrap_err();
        assert!(error.domain() == Domain::User && error.to_string().contains(words), "{words}: {error}");
    };
    refused(id, "is not over: it is running").await;
    refused(uuid::Uuid::now_v7(), "there is no run").await;
    let failure = TaskFailure { error: "gone", retry: None, rules: &Default::default() };
    assert_eq!(w.store.fail_task(&task, &failure).await.unwrap(), GivenBack::Open);
    w.score().await;
    let run = async |id: uuid::Uuid| -> RunRow {
        let filter = RunFilter { run_ids: Some(vec![id]), ..RunFilter::default() };
        w.store.runs(&filter).await.unwrap().remove(0)
    };
    let half = run(id).await;
    assert_eq!((half.state, half.shards_done, half.shards_failed), (RunState::Partial, 1, 1));
    // Its failed shard, series 3 and 4, with the same set although another one is active.
    w.activate().await;
    let report = retry(id).await.unwrap();
    let again = run(report.intervals[0].run_id.unwrap()).await;
    assert_eq!((again.cause, again.retry_of, again.model_set), (RunCause::Retry, Some(id), Some(1)));
    assert_eq!((again.counts.scored, again.counts.model_error, again.counts.no_data), (1, 1, 0));
    assert_eq!(labels(&w, 0..1).await.len(), 4);
    // All shards are stored: the model that failed, with the set that is active now.
    let report = retry(again.run_id).await.unwrap();
    let models = run(report.intervals[0].run_id.unwrap()).await;
    assert_eq!((models.scope, models.model_set, models.counts.rows()), (RunScope::Failed, Some(2), 1));
    // A run whose models are all right has nothing.
    let good = NewRun { series: Some("s000[123]$".into()), ..new_run(span(1, 2), RunCause::Manual, 1) };
    let good_id = good.run_id;
    assert_eq!(w.store.plan(&Plan { open: vec![good], ..Plan::default() }).await.unwrap(), Outcome::Done);
    w.score().await;
    assert_eq!(run(good_id).await.state, RunState::Succeeded);
    refused(good_id, "left nothing to repeat").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_whose_answers_are_lost_goes_on_with_the_run_it_has_opened() {
    // The answer to what is lost.
    for lost in ["opening", "reading the rows at the end"] {
        let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
        w.activate().await;
        w.send(0, &[(0, 1, 5.0)], Some(at(1)), false).await;
        let open = new_run(span(0, 1), RunCause::Manual, 1);
        let id = open.run_id;
        assert_eq!(w.store.plan(&Plan { open: vec![open], ..Plan::default() }).await.unwrap(), Outcome::Done);
        assert!(w.store.cancel_run(id, "anna").await.unwrap());
        let flaky = Flaky::before(&w).await;
        let options = RetryOptions {
            run_id: id,
            new_run: uuid::Uuid::now_v7(),
            publish: true,
            progress: None,
            scorer: options(&w, "job"),
        };
        let go = async || {
            let (store, blobs, options) = (flaky.clone(), memory_blobs(), options.clone());
            retry_run_with(store, blobs, options, loader(), CancellationToken::new()).await
        };
        match lost {
            "opening" => {
                flaky.lost_plans.store(1, Ordering::SeqCst);
                assert!(go().await.unwrap_err().is_transient());
            }
            _ => flaky.every_third_fails.store(true, Ordering::SeqCst),
        }
        let report = loop {
            match go().await {
                Ok(report) => break report,
                Err(e) => assert!(e.is_transient(), "{lost}: {e}"),
            }
        };
        let found: Vec<_> = report.intervals.iter().map(|i| (i.run_id, i.state)).collect();
        assert_eq!(found, [(Some(options.new_run), Some(RunState::Partial))], "{lost}");
        assert_eq!(w.store.runs(&RunFilter::default()).await.unwrap().len(), 2, "{lost}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_waits_for_a_store_that_is_away_and_loses_nothing() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    let readings: Vec<_> = (0..3).map(|m| (m, 1, 5.0)).collect();
    w.send(0, &readings, Some(at(3)), false).await;
    let flaky = Flaky::before(&w).await;
    for dry_run in [true, false] {
        flaky.every_third_fails.store(true, Ordering::SeqCst);
        flaky.lost_plans.store(1, Ordering::SeqCst);
        let (options, stop) = (RangeOptions { dry_run, ..range(&w, 0, 3) }, CancellationToken::new());
        let report = run_range_with(flaky.clone(), memory_blobs(), options, loader(), stop).await.unwrap();
        let intervals: Vec<_> = report.intervals.iter().map(|i| i.interval).collect();
        assert_eq!(intervals, [span(0, 1), span(1, 2), span(2, 3)], "dry run: {dry_run}");
        assert!(report.unready.is_empty() && !report.failed());
    }
    assert_eq!(w.runs("default").await.len(), 3, "each interval once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_stopped_leaves_what_others_work_on() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    let readings: Vec<_> = (0..3).map(|m| (m, 1, 5.0)).collect();
    w.send(0, &readings, Some(at(3)), false).await;
    let flaky = Flaky::before(&w).await;
    flaky.slow_ms.store(60_000, Ordering::SeqCst);
    let mut options = range(&w, 0, 3);
    options.scorer.parallel_tasks = 1;
    let stop = CancellationToken::new();
    let job = tokio::spawn(run_range_with(flaky.clone(), memory_blobs(), options, loader(), stop.clone()));
    let started = async || {
        let runs = w.store.runs(&RunFilter::default()).await.unwrap();
        runs.iter().filter(|r| r.started_at.is_some()).count()
    };
    until("a claim", async || started().await == 1).await;
    let claim = TaskClaim { worker: "other".into(), lease_us: 60_000_000, run_ids: None, prefer: vec![] };
    let theirs = w.store.claim_task(&claim).await.unwrap().unwrap();
    stop.cancel();
    let report = job.await.unwrap().unwrap();
    assert!(report.stopped);
    let states: Vec<_> = w.runs("default").await.iter().map(|r| r.2).collect();
    assert_eq!(states, [RunState::Running, RunState::Running, RunState::Cancelled]);
    assert_eq!(w.store.renew_task(&theirs, 60_000_000).await.unwrap(), Outcome::Done, "they go on");
    let again = w.store.claim_task(&claim).await.unwrap().unwrap();
    assert_eq!((again.interval, again.tries), (span(0, 1), 1), "handed back at once, and no try is used up");
}
