use super::*;
use crate::range::{
    RangeOptions, RangeProgress, RangeReport, RetryOptions, SetChoice, retry_run_with, run_range_with,
};
use crate::testing::*;
use fleetscore_schemas::status::{RunCause, RunScope, TaskState};
use fleetscore_schemas::window::Feature;
use fleetscore_store::forward::Forward;
use fleetscore_store::{
    CatchUp, NewRun, Outcome, Plan, RunFilter, RunRow, SqliteStore, StoreError, TaskClaim, TaskFailure,
};
use futures::TryStreamExt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

#[path = "service_tests/ranges.rs"]
mod ranges;
#[path = "service_tests/workers.rs"]
mod workers;

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
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    // A run of a set that cannot be loaded, one whose loading panics, and then good ones.
    let poisoned: Loader = Arc::new(|version| match version {
        98 => panic!("poison"),
        99 => Box::pin(async {
            Err(ScorerError::ModelSet { version: 99, message: "a part is damaged".into(), transient: false })
        }),
        other => loader()(other),
    });
    let open = |m: i64, set| new_run(span(m, m + 1), RunCause::Manual, set);
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
        model_set: SetChoice::Active,
        series: None,
        scope: RunScope::All,
        dry_run: false,
        publish: true,
        progress: None,
        scorer: options(w, "job"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_cannot_be_read_is_waited_for_or_gives_way_to_another() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
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
    let run = new_run(span(0, 1), RunCause::Rescore, 99);
    let plan = Plan { open: vec![run], ..Plan::default() };
    assert_eq!(w.store.plan(&plan).await.unwrap(), Outcome::Done);
    until("a score with another set", async || handle.snapshot().intervals_scored == 3).await;
    let rows = w.store.runs(&RunFilter::default()).await.unwrap();
    let gone = rows.iter().find(|r| r.model_set == Some(99)).unwrap();
    let instead = rows.iter().find(|r| r.interval == gone.interval && r.opened_at > gone.opened_at).unwrap();
    assert!(gone.error.as_ref().is_some_and(|e| e.contains("scored with model set 1 instead")), "{gone:?}");
    assert_eq!((gone.state, gone.finished_at), (RunState::Failed, Some(instead.opened_at)), "in one step");
    assert_eq!(handle.snapshot().failed, 0);
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Series pinned to a set that cannot be had hold their runs up, and the runs say which pins: another active set would not
/// help.
#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_set_that_is_gone_is_named_with_its_pins() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
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
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
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
    let sources = vec![folder.join("models").display().to_string()];
    let import = crate::models::ImportOptions { sources, ..Default::default() };
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
