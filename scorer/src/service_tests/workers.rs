//! Workers: outages, timeouts, drains, shards.

use super::*;

/// A store that can be away, or slow to give windows.
#[derive(Debug)]
pub(super) struct Flaky {
    inner: Arc<dyn Store>,
    pub(super) away: AtomicBool,
    /// Windows come after so many milliseconds.
    pub(super) slow_ms: AtomicU64,
    /// So many plans happen, and nobody hears of it.
    pub(super) lost_plans: AtomicU64,
    /// Of what a range asks beside tasks, every third call fails.
    pub(super) every_third_fails: AtomicBool,
    calls: AtomicU64,
}

impl Flaky {
    pub(super) async fn before(w: &World) -> Arc<Self> {
        let (away, slow_ms) = (AtomicBool::new(false), AtomicU64::new(0));
        let (lost_plans, calls) = (AtomicU64::new(0), AtomicU64::new(0));
        let every_third_fails = AtomicBool::new(false);
        Arc::new(Self { inner: w.store.clone(), away, slow_ms, lost_plans, every_third_fails, calls })
    }

    fn up(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable { message: "connection refused".into() }),
            false => Ok(()),
        }
    }

    fn now_and_then(&self) -> Result<(), StoreError> {
        let third = self.calls.fetch_add(1, Ordering::SeqCst) % 3 == 1;
        match self.every_third_fails.load(Ordering::SeqCst) && third {
            true => Err(StoreError::Unavailable { message: "connection refused".into() }),
            false => self.up(),
        }
    }
}

#[async_trait::async_trait]
impl Forward for Flaky {
    fn inner(&self) -> &dyn Store {
        &*self.inner
    }

    async fn pane_settings(&self) -> Result<Option<fleetscore_store::PaneSettings>, StoreError> {
        self.now_and_then()?;
        self.inner.pane_settings().await
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, StoreError> {
        self.now_and_then()?;
        self.inner.runs(filter).await
    }

    async fn plan(&self, plan: &Plan) -> Result<Outcome, StoreError> {
        self.up()?;
        let done = self.inner.plan(plan).await;
        let lost = self.lost_plans.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if lost.is_ok() {
            return Err(StoreError::Unavailable { message: "connection lost".into() });
        }
        done
    }

    async fn schedules(&self) -> Result<Vec<ScheduleRow>, StoreError> {
        self.up()?;
        self.inner.schedules().await
    }

    async fn progress(&self) -> Result<fleetscore_store::Progress, StoreError> {
        self.up()?;
        self.inner.progress().await
    }

    async fn claim_task(&self, claim: &TaskClaim) -> Result<Option<Task>, StoreError> {
        self.up()?;
        self.inner.claim_task(claim).await
    }

    async fn windows(
        &self,
        interval: Interval,
        selection: &fleetscore_store::Selection,
    ) -> Result<fleetscore_store::BatchStream<'_>, StoreError> {
        self.up()?;
        tokio::time::sleep(Duration::from_millis(self.slow_ms.load(Ordering::SeqCst))).await;
        self.inner.windows(interval, selection).await
    }

    async fn commit_predictions(
        &self,
        commit: fleetscore_store::PredictionCommit<'_>,
    ) -> Result<fleetscore_store::Committed, StoreError> {
        self.up()?;
        let done = self.inner.commit_predictions(commit).await;
        self.up()?; // it may have happened, and nobody heard of it
        done
    }

    async fn fail_task(&self, task: &Task, failure: &TaskFailure<'_>) -> Result<GivenBack, StoreError> {
        self.up()?;
        self.inner.fail_task(task, failure).await
    }

    async fn claim_publication(
        &self,
        worker: &str,
        lease_us: i64,
    ) -> Result<Option<Publication>, StoreError> {
        self.now_and_then()?;
        self.inner.claim_publication(worker, lease_us).await
    }

    async fn mark_stalled(&self) -> Result<u64, StoreError> {
        self.up()?;
        self.inner.mark_stalled().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for_and_said_so() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    let flaky = Flaky::before(&w).await;
    flaky.away.store(true, Ordering::SeqCst);
    let (service, handle) = Service::with_loader(options(&w, "a"), flaky.clone(), memory_blobs(), loader());
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    let waiting = async || {
        until("words", async || {
            handle.snapshot().trouble.is_some_and(|t| t.starts_with("waiting for SQL: "))
        })
        .await;
    };
    waiting().await; // at the start, and then again and again
    let mut minutes = 0;
    for _ in 0..3 {
        flaky.away.store(false, Ordering::SeqCst);
        let readings: Vec<_> = (minutes..minutes + 30).map(|m| (m, 1, 5.0)).collect();
        minutes += 30;
        w.send(0, &readings, Some(at(minutes)), false).await;
        until("some scores", async || handle.snapshot().predictions >= minutes as u64).await;
        flaky.away.store(true, Ordering::SeqCst);
        waiting().await;
    }
    flaky.away.store(false, Ordering::SeqCst);
    until("all intervals", async || w.runs("default").await.iter().filter(|r| r.2.is_final()).count() == 90)
        .await;
    until("calm", async || handle.snapshot().trouble.is_none()).await;
    assert!(w.runs("default").await.iter().all(|r| r.2 == RunState::Partial));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_takes_too_long_fails_with_words() {
    let spec = ScheduleSpec { timeout_us: 50_000, max_retries: 0, ..schedule("default", 1, 1, CatchUp::All) };
    let mut w = World::live(&[spec]).await;
    w.activate().await;
    let flaky = Flaky::before(&w).await;
    flaky.slow_ms.store(60_000, Ordering::SeqCst);
    w.send(0, &[(0, 1, 5.0)], Some(at(1)), false).await;
    w.look().await;
    let shared = Arc::new(Shared::new(flaky, memory_blobs(), options(&w, "a"), loader()));
    let id = w.store.runs(&RunFilter::default()).await.unwrap()[0].run_id;
    work(shared.clone(), Some(vec![id]), CancellationToken::new()).await;
    let run = w.store.runs(&RunFilter::default()).await.unwrap().remove(0);
    assert_eq!((run.state, run.error.as_deref()), (RunState::Failed, Some("timeout: not done after 50ms")));
    assert_eq!(Handle { shared }.snapshot().failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_hands_its_shard_back() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    let flaky = Flaky::before(&w).await;
    flaky.slow_ms.store(60_000, Ordering::SeqCst);
    w.send(0, &[(0, 1, 5.0), (1, 1, 5.0)], Some(at(2)), false).await;
    w.look().await;
    let mut one = options(&w, "a");
    one.parallel_tasks = 1;
    let shared = Arc::new(Shared::new(flaky.clone(), memory_blobs(), one, loader()));
    let stop = CancellationToken::new();
    let working = tokio::spawn(work(shared, None, stop.clone()));
    let tasks = async || {
        let runs = w.store.runs(&RunFilter::default()).await.unwrap();
        let mut all = Vec::new();
        for run in runs {
            all.extend(w.store.run_tasks(run.run_id).await.unwrap());
        }
        all
    };
    until("a claim", async || tasks().await.iter().any(|t| t.worker.is_some())).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(30), working).await.unwrap().unwrap();
    let tasks = tasks().await;
    assert!(
        tasks.iter().all(|t| t.state == TaskState::Open && t.tries == 0),
        "it counts as no try: {tasks:?}"
    );
    let touched: Vec<_> = tasks.iter().filter(|t| t.attempt > 0).collect();
    assert_eq!(touched.len(), 1, "and nothing new was begun");
    let events = w.store.run_events(touched[0].run_id).await.unwrap();
    let back = events.iter().find(|e| e.event == "handed_back").unwrap();
    assert!(back.detail.as_deref().is_some_and(|d| d.contains("told to stop")), "{back:?}");
    // Another process takes it at once.
    flaky.slow_ms.store(0, Ordering::SeqCst);
    w.score().await;
    assert!(w.runs("default").await.iter().all(|r| r.2 == RunState::Partial));
}

/// A loader that cannot fetch this set for as long as `away` holds, `after` so long each time.
fn away_from(set: i64, away: &Arc<AtomicBool>, after: Duration) -> Loader {
    let away = away.clone();
    Arc::new(move |version| match version == set && away.load(Ordering::SeqCst) {
        true => Box::pin(async move {
            tokio::time::sleep(after).await;
            Err(ScorerError::ModelSet { version, message: "blobs are away".into(), transient: true })
        }),
        false => loader()(version),
    })
}

async fn waits_for_blobs(handle: &Handle) {
    let said =
        async || handle.snapshot().trouble.is_some_and(|t| t.starts_with("waiting for blob storage: "));
    until("trouble", said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_fetch_models_leaves_the_shards_to_others() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    w.send(0, &[(0, 1, 5.0), (1, 1, 5.0), (2, 1, 5.0)], Some(at(3)), false).await;
    w.look().await;
    let away = Arc::new(AtomicBool::new(true));
    let cut_off = away_from(1, &away, Duration::ZERO);
    let cold = Arc::new(Shared::new(w.store.clone(), memory_blobs(), options(&w, "cold"), cut_off));
    let stop = CancellationToken::new();
    let workers: Vec<_> = (0..2).map(|_| tokio::spawn(work(cold.clone(), None, stop.clone()))).collect();
    let handle = Handle { shared: cold };
    waits_for_blobs(&handle).await;
    until("a run that says what it waits for", async || {
        let runs = w.store.runs(&RunFilter::default()).await.unwrap();
        runs.iter().any(|r| r.error.as_deref().is_some_and(|e| e.contains("blobs are away")))
    })
    .await;
    until("another one has scored all that there is", async || {
        w.score().await;
        w.runs("default").await.iter().all(|r| r.2 == RunState::Partial)
    })
    .await;
    // And this one goes on by itself.
    away.store(false, Ordering::SeqCst);
    w.send(0, &[(3, 1, 5.0)], Some(at(4)), false).await;
    w.look().await;
    until("its own run", async || handle.snapshot().intervals_scored == 1).await;
    until("calm", async || handle.snapshot().trouble.is_none()).await;
    stop.cancel();
    for worker in workers {
        worker.await.unwrap();
    }
    let runs = w.store.runs(&RunFilter::default()).await.unwrap();
    let over = |r: &RunRow| {
        r.state == RunState::Partial && r.error.as_deref().is_none_or(|e| !e.contains("blobs are away"))
    };
    assert!(runs.iter().all(over), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_cannot_be_fetched_keeps_no_other_waiting() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    assert_eq!((w.activate().await, w.activate().await), (1, 2));
    let away = Arc::new(AtomicBool::new(true));
    let without_1 = away_from(1, &away, Duration::ZERO);
    let shared = Arc::new(Shared::new(w.store.clone(), memory_blobs(), options(&w, "a"), without_1));
    let handle = Handle { shared: shared.clone() };
    let stop = CancellationToken::new();
    let worker = tokio::spawn(work(shared, None, stop.clone()));
    // A person has an old interval scored with the old set: the oldest run there is.
    let old = new_run(span(-9, -8), RunCause::Rescore, 1);
    let id = old.run_id;
    assert_eq!(w.store.plan(&Plan { open: vec![old], ..Plan::default() }).await.unwrap(), Outcome::Done);
    waits_for_blobs(&handle).await;
    for m in 0..5 {
        w.send(0, &[(m, 1, 5.0)], Some(at(m + 1)), false).await;
        w.look().await;
    }
    until("the live intervals", async || handle.snapshot().intervals_scored == 5).await;
    // The old run is ended: nobody waits for its set any more.
    let end = Plan { end: vec![(id, "not wanted any more".into())], ..Plan::default() };
    assert_eq!(w.store.plan(&end).await.unwrap(), Outcome::Done);
    w.send(0, &[(5, 1, 5.0)], Some(at(6)), false).await;
    w.look().await;
    until("the next one", async || handle.snapshot().intervals_scored == 6).await;
    stop.cancel();
    worker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_while_models_are_being_fetched() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    w.send(0, &[(0, 1, 5.0)], Some(at(1)), false).await;
    w.look().await;
    let hangs = away_from(1, &Arc::new(AtomicBool::new(true)), Duration::from_secs(600));
    let quick = Options { finish_us: 100_000, ..options(&w, "a") };
    let shared = Arc::new(Shared::new(w.store.clone(), memory_blobs(), quick, hangs));
    let stop = CancellationToken::new();
    let working = tokio::spawn(work(shared, None, stop.clone()));
    until("a claim", async || {
        let run = w.store.runs(&RunFilter::default()).await.unwrap().remove(0);
        w.store.run_tasks(run.run_id).await.unwrap().iter().any(|t| t.worker.is_some())
    })
    .await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), working).await.expect("it stops").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_come_to_what_one_comes_to_and_are_published_together() {
    let spec =
        |name: &str, shards| ScheduleSpec { shards: Some(shards), ..schedule(name, 1, 1, CatchUp::All) };
    let mut w = World::live(&[spec("default", 1), spec("three", 3)]).await;
    w.activate().await;
    let readings: Vec<_> = (1..=6).filter(|s| *s != 2).map(|s| (0, s, 10.0 * f64::from(s) - 5.0)).collect();
    w.send(0, &readings, Some(at(1)), false).await;
    let open = |name: &str, cuts: &[u32]| NewRun {
        schedule: name.into(),
        cuts: cuts.to_vec(),
        ..new_run(span(0, 1), RunCause::Manual, 1)
    };
    let runs = vec![open("default", &[]), open("three", &crate::shards::shard_cuts(6, Some(3)))];
    let ids: Vec<_> = runs.iter().map(|r| r.run_id).collect();
    assert_eq!(w.store.plan(&Plan { open: runs, ..Plan::default() }).await.unwrap(), Outcome::Done);
    // A publisher that comes while one shard of three is done finds nothing to publish.
    let claim = TaskClaim {
        worker: "other".into(),
        lease_us: 60_000_000,
        run_ids: Some(vec![ids[1]]),
        prefer: vec![2],
    };
    let held = w.store.claim_task(&claim).await.unwrap().unwrap();
    assert_eq!(held.shard, 2, "the preferred one");
    w.score().await;
    let due = async || {
        let mut due = Vec::new();
        while let Some(p) = w.store.claim_publication("p", 60_000_000).await.unwrap() {
            due.push(p.schedule);
        }
        due
    };
    assert_eq!(due().await, ["default"]);
    let retry = fleetscore_store::Retry { after_us: 0, counts: false };
    let failure = TaskFailure { error: "stopped", retry: Some(retry), rules: &Default::default() };
    assert_eq!(w.store.fail_task(&held, &failure).await.unwrap(), GivenBack::Open);
    w.score().await;
    assert_eq!(due().await, ["three"]);
    let rows = w.store.runs(&RunFilter::default()).await.unwrap();
    let of = |name: &str| rows.iter().find(|r| r.schedule == name).unwrap();
    let (one, three) = (of("default"), of("three"));
    assert_eq!((one.counts, one.state, three.shards_done), (three.counts, three.state, 3));
    assert!(three.phases.score_us > 0 && three.phases.read_us > 0, "{:?}", three.phases);
    let labels = async |name: &str| {
        let mut all = Vec::new();
        let mut batches = w.store.predictions(name, span(0, 1)).await.unwrap();
        while let Some(batch) = batches.try_next().await.unwrap() {
            let rows = crate::output::rows::rows(&batch);
            all.extend(
                rows.map(|r| (r.sensor.to_owned(), r.status.to_owned(), r.decision, r.window_version)),
            );
        }
        all
    };
    assert_eq!(labels("default").await, labels("three").await);
    assert_eq!(Handle { shared: w.shared.clone() }.snapshot().intervals_scored, 2, "runs, not shards");
}

#[tokio::test]
async fn a_process_would_rather_have_the_shards_it_scored_last() {
    let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
    w.activate().await;
    w.send(0, &[(0, 1, 5.0)], Some(at(1)), false).await;
    w.look().await;
    let claim = TaskClaim { worker: "x".into(), lease_us: 60_000_000, run_ids: None, prefer: vec![] };
    let task = w.store.claim_task(&claim).await.unwrap().unwrap();
    let stored = Stored { counts: RunCounts::default(), ended: None };
    for shard in (0..30).chain([20]) {
        w.shared.note_scored(&Task { shard, ..task.clone() }, &stored);
    }
    let warm = w.shared.warm();
    assert_eq!((warm.len(), &warm[..3]), (WARM, &[20, 29, 28][..]), "few, so that others have theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_over_gets_its_log() {
    let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
    w.activate().await;
    w.send(0, &[(0, 1, 5.0)], Some(at(1)), false).await;
    w.look().await;
    w.score().await;
    let never = CancellationToken::new();
    crate::janitor::round(&w.shared, &never).await;
    let run = w.store.runs(&RunFilter::default()).await.unwrap().remove(0);
    let path = run.log.clone().unwrap();
    assert_eq!(path, crate::runlog::path(&run));
    let text = String::from_utf8(w.shared.blobs.get(&path).await.unwrap().to_vec()).unwrap();
    for words in
        ["ended      partial", "series 1 to end, done, 1 try, scorer", "Why models failed", "started"]
    {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(w.store.unlogged_runs(9).await.unwrap().is_empty());
}

#[tokio::test]
async fn lost_workers_use_up_no_retry_and_a_deadly_shard_is_given_up() {
    // How many workers are lost first, whether the shard fails by itself then; how the run ends, and of what.
    let cases = [
        ("one is killed", 1, false, RunState::Partial, 2, "models"),
        ("twenty are killed, and the next one does it", 20, false, RunState::Partial, 21, "models"),
        ("five are killed, then it fails", 5, true, RunState::Failed, 5 + 3, "poison"),
        ("whoever works on it is killed", 22, false, RunState::Failed, 23, "its workers were lost 22 times"),
    ];
    for (name, lost, fails, state, attempts, words) in cases {
        let mut w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
        w.activate().await;
        w.send(0, &[(0, 1, 5.0)], Some(at(1)), false).await;
        let open = new_run(span(0, 1), RunCause::Manual, 1);
        let id = open.run_id;
        assert_eq!(w.store.plan(&Plan { open: vec![open], ..Plan::default() }).await.unwrap(), Outcome::Done);
        let claim = TaskClaim { worker: "x".into(), lease_us: 1000, run_ids: None, prefer: vec![] };
        for _ in 0..lost {
            assert!(w.store.claim_task(&claim).await.unwrap().is_some());
            w.pass(1);
        }
        let poisoned: Loader = Arc::new(|_| panic!("poison"));
        let loader = if fails { poisoned } else { loader() };
        let shared = Arc::new(Shared::new(w.store.clone(), memory_blobs(), options(&w, "a"), loader));
        for _ in 0..5 {
            work(shared.clone(), Some(vec![id]), CancellationToken::new()).await;
            w.pass(1);
        }
        let run = w.store.runs(&RunFilter::default()).await.unwrap().remove(0);
        assert_eq!((run.state, run.attempt), (state, attempts), "{name}: {run:?}");
        assert!(run.error.as_ref().is_some_and(|e| e.contains(words)), "{name}: {:?}", run.error);
        let failed = Handle { shared }.snapshot().failed;
        assert_eq!(failed, u64::from(state == RunState::Failed), "{name}");
    }
}

/// A store in which thinning takes for ever.
#[derive(Debug)]
struct Slow(Arc<dyn Store>);

#[async_trait::async_trait]
impl Forward for Slow {
    fn inner(&self) -> &dyn Store {
        &*self.0
    }

    async fn thin(&self, _: &str, _: fleetscore_store::Keep, _: usize) -> Result<u64, StoreError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn tidying_does_not_hold_up_the_end() {
    let spec =
        ScheduleSpec { keep: fleetscore_store::Keep::Changes, ..schedule("default", 1, 1, CatchUp::All) };
    let w = World::live(&[spec]).await;
    let store = Arc::new(Slow(w.store.clone()));
    let shared = Arc::new(Shared::new(store, memory_blobs(), options(&w, "a"), loader()));
    let stop = CancellationToken::new();
    let tidying = tokio::spawn(crate::janitor::tidy(shared, stop.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!tidying.is_finished());
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), tidying).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_may_go_on_for_as_long_as_it_is_set() {
    // How long a task may go on after the signal, and whether it is done by then.
    for (finish_us, done) in [(10_000, false), (30_000_000, true)] {
        let mut w = World::live(&[schedule("default", 1, 1, CatchUp::All)]).await;
        w.activate().await;
        let flaky = Flaky::before(&w).await;
        flaky.slow_ms.store(500, Ordering::SeqCst);
        w.send(0, &[(0, 1, 5.0)], Some(at(1)), false).await;
        w.look().await;
        let options = Options { finish_us, ..options(&w, "a") };
        let shared = Arc::new(Shared::new(flaky, memory_blobs(), options, loader()));
        let stop = CancellationToken::new();
        let working = tokio::spawn(work(shared, None, stop.clone()));
        let run = async || w.store.runs(&RunFilter::default()).await.unwrap().remove(0);
        until("a claim", async || run().await.started_at.is_some()).await;
        stop.cancel();
        working.await.unwrap();
        assert_eq!(run().await.state.is_final(), done, "{finish_us}");
    }
}
