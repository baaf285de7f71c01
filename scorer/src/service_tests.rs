use super::*;
use crate::range::{RangeOptions, run_range_with};
use crate::testing::*;
use fleetscore_store::{CatchUp, NewRun, Outcome, Plan, RunFilter, SqliteStore, TaskClaim};
use futures::TryStreamExt;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < Duration::from_secs(60), "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn options(w: &World, worker: &str) -> Options {
    Options { worker: worker.to_owned(), ..w.shared.options.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_plans_scores_and_publishes_until_it_is_told_to_stop() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    let blobs = memory_blobs();
    let (service, handle) = Service::with_loader(options(&w, "a"), w.store.clone(), blobs.clone(), loader());
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    let readings: Vec<_> = (0..20).map(|m| (m, 1, 5.0)).collect();
    w.send(0, &readings, Some(at(20)), false).await;
    until("runs that wait", async || w.runs("default").await.len() == 20).await;
    until("words", async || handle.snapshot().waiting.as_deref() == Some(crate::core::NO_MODEL_SET)).await;
    w.activate().await;
    until("20 publications", async || handle.snapshot().publications == 20).await;
    let s = handle.snapshot();
    assert_eq!((s.intervals_scored, s.predictions, s.anomalies, s.failed), (20, 80, 0, 0));
    assert_eq!(*handle.scored().borrow(), 20);
    assert_eq!(blobs.list("predictions").await.unwrap().len(), 60);
    // Late data: scored again and published again.
    w.send(0, &[(3, 1, 500.0)], Some(at(20)), false).await;
    until("a rescore", async || handle.snapshot().publications == 21).await;
    assert_eq!(handle.snapshot().anomalies, 1);
    stop.cancel();
    let began = Instant::now();
    running.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "it stops promptly");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_score_each_interval_once() {
    let mut w =
        World::new(&[schedule("default", 1, 1, CatchUp::All), schedule("five", 5, 5, CatchUp::All)], 1).await;
    w.activate().await;
    let stop = CancellationToken::new();
    let mut running = Vec::new();
    let mut handles = Vec::new();
    for name in ["a", "b", "c"] {
        let (service, handle) =
            Service::with_loader(options(&w, name), w.store.clone(), memory_blobs(), loader());
        running.push(tokio::spawn(service.run(stop.clone())));
        handles.push(handle);
    }
    let readings: Vec<_> = (0..100).map(|m| (m, 1, 5.0)).collect();
    w.send(0, &readings, Some(at(100)), false).await;
    let scored = || handles.iter().map(|h| h.snapshot().intervals_scored).sum::<u64>();
    until("120 intervals", async || scored() >= 120).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(scored(), 120);
    assert_eq!(w.store.runs(&RunFilter::default()).await.unwrap().len(), 120);
    stop.cancel();
    for r in running {
        r.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_run_is_given_up_and_does_not_stop_the_others() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    w.activate().await;
    // A run of a set that cannot be loaded, one whose loading panics, and then good ones.
    let poisoned: Loader = Arc::new(|version| match version {
        98 => panic!("poison"),
        99 => Box::pin(async {
            Err(ScorerError::ModelSet { version: 99, message: "a part is damaged".into(), transient: false })
        }),
        other => loader()(other),
    });
    let open = |m: i64, set| NewRun {
        run_id: uuid::Uuid::new_v4(),
        schedule: "default".into(),
        interval: span(m, m + 1),
        cause: fleetscore_schemas::status::RunCause::Manual,
        model_set: Some(set),
        data_only: false,
        note: None,
    };
    let plan = Plan { open: vec![open(-9, 99), open(-8, 98)], ..Plan::default() };
    assert_eq!(w.store.plan(&plan).await.unwrap(), Outcome::Done);
    let (service, handle) = Service::with_loader(options(&w, "a"), w.store.clone(), memory_blobs(), poisoned);
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    w.send(0, &[(0, 1, 1.0), (1, 1, 1.0)], Some(at(2)), false).await;
    until("all ends", async || handle.snapshot().failed == 2 && handle.snapshot().intervals_scored == 2)
        .await;
    let rows =
        w.store.runs(&RunFilter { states: vec![RunState::Failed], ..RunFilter::default() }).await.unwrap();
    assert!(rows.iter().all(|r| r.attempt == 3), "{rows:?}");
    let errors: Vec<_> = rows.iter().filter_map(|r| r.error.as_deref()).collect();
    assert!(errors[1].contains("a part is damaged") && errors[0].contains("panic"), "{errors:?}");
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_does_not_fit_stops_the_start() {
    let w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    let mut wrong = options(&w, "a");
    wrong.schedules = vec![schedule("default", 2, 2, CatchUp::All)];
    let (service, _) = Service::with_loader(wrong, w.store.clone(), memory_blobs(), loader());
    let error = service.run(CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.domain(), Domain::User, "{error}");
}

fn range(w: &World, from: i64, to: i64) -> RangeOptions {
    RangeOptions {
        schedule: "default".into(),
        from: at(from),
        to: at(to),
        model_set: None,
        dry_run: false,
        publish: true,
        scorer: options(w, "job"),
    }
}

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
    let report = go(&w, RangeOptions { model_set: Some(1), ..range(&w, 0, 8) }).await.unwrap();
    assert_eq!((report.model_set, version), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_waits_for_an_interval_that_another_worker_scores() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    w.activate().await;
    w.send(0, &[(0, 1, 15.0)], Some(at(1)), false).await;
    w.look().await;
    let claim = TaskClaim { worker: "other".into(), lease_us: 60_000_000, run_ids: None };
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
    assert_eq!(w.store.fail_task(&task, "enough", true).await.unwrap(), Outcome::Done);
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
    let left = NewRun {
        run_id: uuid::Uuid::now_v7(),
        schedule: "default".into(),
        interval: span(2, 3),
        cause: fleetscore_schemas::status::RunCause::Manual,
        model_set: Some(1),
        data_only: false,
        note: None,
    };
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
    let run = NewRun {
        run_id: uuid::Uuid::now_v7(),
        schedule: "default".into(),
        interval: span(0, 2),
        cause: fleetscore_schemas::status::RunCause::Manual,
        model_set: Some(1),
        data_only: false,
        note: None,
    };
    let plan = Plan { open: vec![run], ..Plan::default() };
    assert_eq!(w.store.plan(&plan).await.unwrap(), Outcome::Done);
    w.score().await;
    assert_eq!(w.runs("default").await[0].2, RunState::Skipped);
    assert_eq!(Handle { shared: w.shared.clone() }.snapshot(), Snapshot::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_cannot_be_read_is_waited_for_or_gives_way_to_another() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    let damaged = Arc::new(AtomicBool::new(true));
    let seen = damaged.clone();
    let unreadable: Loader = Arc::new(move |version| match version {
        1 if seen.load(Ordering::SeqCst) => Box::pin(async {
            Err(ScorerError::ModelSet { version: 1, message: "no right to read".into(), transient: false })
        }),
        99 => Box::pin(async {
            Err(ScorerError::ModelSet { version: 99, message: "damaged".into(), transient: false })
        }),
        other => loader()(other),
    });
    w.activate().await;
    w.send(0, &[(0, 1, 1.0), (1, 1, 1.0)], Some(at(2)), false).await;
    w.look().await;
    let (service, handle) =
        Service::with_loader(options(&w, "a"), w.store.clone(), memory_blobs(), unreadable);
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    until("five attempts", async || {
        let rows = w.store.runs(&RunFilter::default()).await.unwrap();
        rows.iter().map(|r| r.attempt).max() >= Some(5)
    })
    .await;
    let rows = w.store.runs(&RunFilter::default()).await.unwrap();
    assert!(rows.iter().all(|r| r.state == RunState::Running), "{rows:?}");
    assert!(rows.iter().any(|r| r.error.as_ref().is_some_and(|e| e.contains("no right to read"))));
    assert!(handle.snapshot().trouble.is_some_and(|t| t.contains("until it is mended")));
    // Mended: scored. (Both intervals: the older one was tried, the other waited.)
    damaged.store(false, Ordering::SeqCst);
    until("scores", async || handle.snapshot().intervals_scored == 2).await;
    // Another set is active: what is fixed to a damaged one is scored with that.
    let run = NewRun {
        run_id: uuid::Uuid::now_v7(),
        schedule: "default".into(),
        interval: span(0, 1),
        cause: fleetscore_schemas::status::RunCause::Rescore,
        model_set: Some(99),
        data_only: false,
        note: None,
    };
    let plan = Plan { open: vec![run], ..Plan::default() };
    assert_eq!(w.store.plan(&plan).await.unwrap(), Outcome::Done);
    until("a score with another set", async || handle.snapshot().intervals_scored == 3).await;
    assert_eq!(handle.snapshot().failed, 0);
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Series pinned to a set that cannot be had hold their runs up, and the runs say which pins: another active set would not
/// help.
#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_set_that_is_gone_is_named_with_its_pins() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    assert_eq!((w.activate().await, w.activate().await), (1, 2));
    w.store.pin_models(&[3], Some(1), "test").await.unwrap();
    let gone: Loader = Arc::new(|version| match version {
        1 => Box::pin(async {
            let message = "part-00000.arrow is missing".to_owned();
            Err(ScorerError::ModelSet { version: 1, message, transient: false })
        }),
        other => loader()(other),
    });
    w.send(0, &[(0, 1, 5.0), (0, 3, 5.0)], Some(at(1)), false).await;
    let (service, handle) = Service::with_loader(options(&w, "a"), w.store.clone(), memory_blobs(), gone);
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    let run = async || w.store.runs(&RunFilter::default()).await.unwrap().pop();
    let held_up = async |attempts: i64| {
        until("attempts", async || run().await.is_some_and(|r| r.attempt >= attempts)).await;
        let run = run().await.unwrap();
        let error = run.error.unwrap();
        assert!(
            error.contains("is missing (1 series are pinned to it") && error.contains("model_pins"),
            "{error}"
        );
        assert_eq!((run.state, run.model_set), (RunState::Running, Some(2)));
    };
    held_up(2).await;
    assert!(handle.snapshot().trouble.is_some_and(|t| t.contains("part-00000.arrow is missing")));
    w.activate().await;
    held_up(4).await;
    w.store.pin_models(&[3], None, "test").await.unwrap();
    until("a score", async || handle.snapshot().intervals_scored == 1).await;
    assert_eq!(w.store.runs(&RunFilter::default()).await.unwrap().len(), 1, "the same run");
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// A set for other features than its schedule's by now: the run says so, and gives way to one of a set that fits.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_set_does_not_fit_any_more_is_not_scored_by_it() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    let max: Loader = Arc::new(|version| {
        let loaded = loader()(version);
        Box::pin(async move {
            let set = loaded.await?;
            let features = vec![if version == 1 { Feature::Mean } else { Feature::Max }];
            Ok(crate::models::ModelSet::new(version, features, set.shards().to_vec()).unwrap())
        })
    });
    assert_eq!(w.activate().await, 1);
    w.send(0, &[(0, 1, 5.0), (0, 3, 5.0)], Some(at(1)), false).await;
    w.look().await;
    let changed = ScheduleSpec { features: vec![Feature::Max], ..schedule("default", 1, 1, CatchUp::All) };
    w.store.put_schedule(&changed).await.unwrap();
    let mut options = options(&w, "a");
    options.schedules = vec![changed];
    let (service, handle) = Service::with_loader(options, w.store.clone(), memory_blobs(), max.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    let all = RunFilter::default();
    until("words in the run", async || {
        let run = w.store.runs(&all).await.unwrap().remove(0);
        run.error
            .is_some_and(|e| e.contains("set 1 takes the features mean,") && e.contains("schedule is max"))
    })
    .await;
    assert!(handle.snapshot().trouble.is_some_and(|t| t.contains("takes the features mean")));
    // A person who asks for it is told at once.
    let go = run_range_with(w.store.clone(), memory_blobs(), range(&w, 0, 1), max, stop.clone());
    let error = go.await.unwrap_err();
    assert!(error.domain() == Domain::User && error.to_string().contains("`default` is max"), "{error}");

    // Series 3 stays with a set that does not fit: it alone fails, and the run says why.
    w.store.pin_models(&[3], Some(1), "test").await.unwrap();
    assert_eq!(w.activate_for(&["max"]).await, 2);
    until("a score with another set", async || handle.snapshot().intervals_scored == 1).await;
    let mut runs = w.store.runs(&all).await.unwrap();
    runs.sort_by_key(|r| r.model_set);
    assert_eq!(runs.iter().map(|r| r.state).collect::<Vec<_>>(), [RunState::Failed, RunState::Partial]);
    assert!(
        runs[0].error.as_ref().is_some_and(|e| e.contains("scored with model set 2 instead")),
        "{runs:?}"
    );
    let error = runs[1].error.as_ref().unwrap();
    assert!(error.contains("set 1 takes the features mean,") && error.contains("pinned"), "{error}");
    let counts = &runs[1].counts;
    assert_eq!((counts.scored, counts.model_error, counts.no_data), (1, 2, 1));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_change_while_runs_are_scored_and_no_interval_mixes_them() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    assert_eq!((w.activate().await, w.activate().await), (1, 2));
    w.store.pin_models(&[3], Some(1), "test").await.unwrap();
    let (service, handle) = Service::with_loader(options(&w, "a"), w.store.clone(), memory_blobs(), loader());
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    let (store, end) = (w.store.clone(), stop.clone());
    let changing = tokio::spawn(async move {
        let mut changes = 0;
        while !end.is_cancelled() {
            store.activate_model_set(1).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            store.activate_model_set(2).await.unwrap();
            let back = store.model_set_before().await.unwrap().unwrap();
            assert_eq!(store.rollback_model_set(back).await.unwrap(), Outcome::Done);
            tokio::time::sleep(Duration::from_millis(1)).await;
            store.activate_model_set(2).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            changes += 4;
        }
        changes
    });
    // Until both sets have scored something, which no clock promises.
    let mut minutes = 0;
    let all = RunFilter::default();
    let used = async |store: &Arc<dyn Store>| -> std::collections::BTreeSet<i64> {
        store.runs(&all).await.unwrap().iter().filter_map(|r| r.model_set).collect()
    };
    while minutes < 200 || used(&w.store).await.len() < 2 {
        assert!(minutes < 20_000, "one of the sets is never used");
        let readings: Vec<_> = (minutes..minutes + 10).flat_map(|m| [(m, 1, 15.0), (m, 3, 15.0)]).collect();
        minutes += 10;
        w.send(0, &readings, Some(at(minutes)), false).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("all intervals", async || handle.snapshot().intervals_scored == minutes as u64).await;
    stop.cancel();
    assert!(changing.await.unwrap() > 0);
    running.await.unwrap().unwrap();

    let runs = w.store.runs(&all).await.unwrap();
    assert_eq!(runs.len(), minutes as usize);
    for run in runs {
        assert_eq!(run.state, RunState::Partial, "scored, and never skipped: {run:?}");
        let set = run.model_set.unwrap();
        let mut batches = w.store.predictions("default", run.interval).await.unwrap();
        let mut rows = Vec::new();
        while let Some(batch) = batches.try_next().await.unwrap() {
            let of = crate::output::rows::rows(&batch);
            rows.extend(of.map(|r| (r.sensor.to_owned(), r.model_set, r.decision)));
        }
        let decided = |set: i64| Some(10.0 * set as f64 - 15.0);
        let expected = [
            ("s0001".to_owned(), Some(set), decided(set)),
            ("s0002".to_owned(), Some(set), None),
            ("s0003".to_owned(), Some(1), decided(1)), // pinned
            ("s0004".to_owned(), Some(set), None),
        ];
        assert_eq!(rows, expected, "{}", run.interval);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_intervals_flow_through_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.path().join("f.db")).unwrap());
    let clock = Arc::new(AtomicI64::new(0));
    let mut w = World::on(store, clock, &[schedule("default", 1, 1, CatchUp::All)], 1).await;
    w.activate().await;
    let count = 1000;
    let readings: Vec<_> = (0..count).flat_map(|m| (1..=4).map(move |s| (m, s, 5.0))).collect();
    w.send(0, &readings, Some(at(count)), false).await;
    let mut o = options(&w, "a");
    o.limits = Limits::default();
    let blobs = Blobs::open(&folder.path().join("blobs").display().to_string(), &Default::default()).unwrap();
    let (service, handle) = Service::with_loader(o, w.store.clone(), blobs, loader());
    let stop = CancellationToken::new();
    let began = Instant::now();
    let running = tokio::spawn(service.run(stop.clone()));
    until("scores", async || handle.snapshot().intervals_scored == count as u64).await;
    let scored = began.elapsed();
    until("publications", async || handle.snapshot().publications == count as u64).await;
    println!("{count} intervals scored in {scored:?}, published in {:?}", began.elapsed());
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// The reference's readings, models and results, where they are at hand.
fn reference() -> Option<std::path::PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference");
    let folder =
        std::env::var_os("FLEETSCORE_REFERENCE").map_or_else(|| beside.into(), std::path::PathBuf::from);
    let found = folder.join("sensor_data.csv").exists();
    if !found {
        println!("left out: {} is absent", folder.display());
    }
    found.then_some(folder)
}

fn minute_of(text: &str) -> i64 {
    let time = text.replace('T', " ").replace('Z', "");
    let time = chrono::NaiveDateTime::parse_from_str(&time, "%Y-%m-%d %H:%M:%S%.f").unwrap();
    (time.and_utc().timestamp_micros() - at(0).0).div_euclid(MINUTE)
}

/// Prediction and decision by (device, sensor, minute).
type Golden = std::collections::BTreeMap<(String, String, i64), (Option<i16>, f64)>;

#[tokio::test(flavor = "multi_thread")]
async fn predictions_equal_the_references_for_panes_and_for_windows_over_them() {
    let Some(folder) = reference() else { return };
    let data = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data.path().join("f.db")).unwrap());
    let specs = [schedule("default", 1, 1, CatchUp::All), schedule("five", 5, 5, CatchUp::All)];
    let mut w = World::on(store.clone(), Arc::default(), &specs, 1).await;
    let blobs = Blobs::open(&data.path().join("blobs").display().to_string(), &Default::default()).unwrap();
    let mut import = crate::models::ImportOptions::default();
    import.sources = vec![folder.join("models").display().to_string()];
    let report = crate::models::import(&*store, &blobs, &import).await.unwrap();
    assert_eq!(report.imported, 10);

    let mut file = ::csv::Reader::from_path(folder.join("sensor_data.csv")).unwrap();
    let rows: Vec<::csv::StringRecord> = file.records().map(Result::unwrap).collect();
    let names: Vec<_> = rows.iter().map(|r| fleetscore_schemas::SeriesName::new(&r[1], &r[2])).collect();
    let ids = store.intern(&names, 1000).await.unwrap();
    let readings: Vec<_> =
        rows.iter().zip(ids).map(|(r, id)| (minute_of(&r[0]), id.unwrap(), r[3].parse().unwrap())).collect();
    let last = readings.iter().map(|r| r.0).max().unwrap();
    w.send(0, &readings, Some(at(last + 10)), false).await;

    let mut o = options(&w, "a");
    o.limits = Limits::default();
    let (service, handle) = Service::new(o, store.clone(), blobs.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    for (name, file, window) in [
        ("default", "golden_window_predictions_60s.csv", 1),
        ("five", "golden_window_predictions_300s.csv", 5),
    ] {
        let mut reader = ::csv::Reader::from_path(folder.join(file)).unwrap();
        let golden: Golden = reader
            .records()
            .map(|r| {
                let r = r.unwrap();
                let key = (r[0].to_owned(), r[1].to_owned(), minute_of(&r[2]));
                (key, (Some(r[7].parse().unwrap()), r[8].parse().unwrap()))
            })
            .collect();
        let starts: std::collections::BTreeSet<i64> = golden.keys().map(|k| k.2).collect();
        let filter = RunFilter {
            schedule: Some(name.into()),
            states: vec![RunState::Succeeded],
            ..RunFilter::default()
        };
        until(name, async || store.runs(&filter).await.unwrap().len() == starts.len()).await;
        let mut got = Golden::new();
        for start in starts {
            let mut batches = store.predictions(name, span(start, start + window)).await.unwrap();
            while let Some(batch) = batches.try_next().await.unwrap() {
                for row in crate::output::rows::rows(&batch).filter(|r| r.status == "scored") {
                    let key = (row.device.to_owned(), row.sensor.to_owned(), start);
                    got.insert(key, (row.prediction, row.decision.unwrap()));
                }
            }
        }
        assert_eq!(got.len(), golden.len());
        for (key, (label, decision)) in &golden {
            let (l, d) = &got[key];
            assert_eq!(l, label, "{name} {key:?}");
            assert!((d - decision).abs() <= 1e-14, "{name} {key:?}: {d} is not {decision}");
        }
    }
    assert_eq!(handle.snapshot().failed, 0);
    stop.cancel();
    running.await.unwrap().unwrap();
}
