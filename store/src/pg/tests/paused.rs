//! Processes that are paused (SIGSTOP, a frozen machine) in the middle of a transaction: their locks are taken away from
//! whoever goes on, and never by whoever has lost its work.

use super::*;
use crate::{GivenBack, Rules, ScheduleMove, Selection, SourceError, TaskFailure};
use fleetscore_schemas::status::RunScope;

/// A run of the first minute, cut in front of these series.
fn new_run(cuts: &[SeriesId]) -> NewRun {
    NewRun {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        interval: Interval { start: at(0), end: at(1) },
        cause: RunCause::Schedule,
        model_set: Some(1),
        data_only: false,
        scope: RunScope::All,
        series: None,
        cuts: cuts.to_vec(),
        retry_of: None,
        note: None,
    }
}

/// Opens it; its tasks, each leased for ten minutes.
async fn tasks_of(store: &PgStore, run: NewRun) -> Vec<Task> {
    let shards = run.cuts.len() + 1;
    assert_eq!(store.plan(&Plan { open: vec![run], ..Plan::default() }).await.unwrap(), Outcome::Done);
    let mut tasks = Vec::new();
    for _ in 0..shards {
        tasks.push(store.claim_task(&claim_of(600_000_000)).await.unwrap().unwrap());
    }
    tasks
}

fn rows(ids: std::ops::Range<u32>, version: i64) -> RecordBatch {
    let from = ids.start as usize - 1;
    predictions(ids.end - 1, version).slice(from, ids.len())
}

async fn commit(store: &PgStore, task: &Task, batches: Vec<(u64, RecordBatch)>) -> Result<Committed> {
    let predictions = futures::stream::iter(batches).then(|(after_ms, batch)| async move {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        Ok::<_, SourceError>(batch)
    });
    let selection = Selection::of(task.range);
    let commit = PredictionCommit {
        task,
        predictions: predictions.boxed(),
        selection: &selection,
        phases: &crate::Phases::default,
        rules: &Rules::default(),
    };
    store.commit_predictions(commit).await
}

fn is_done(committed: &Result<Committed>) -> bool {
    matches!(committed, Ok(Committed::Done { .. }))
}

async fn versions(store: &PgStore) -> Vec<Vec<Cell>> {
    let sql = "SELECT series_id, window_version FROM prediction_data ORDER BY series_id";
    store.query(sql).await.unwrap().rows
}

fn cells(ids: std::ops::Range<i64>, version: i64) -> Vec<Vec<Cell>> {
    ids.map(|id| vec![Cell::Int(id), Cell::Int(version)]).collect()
}

async fn is_gone(session: &tokio_postgres::Client) -> bool {
    session.batch_execute("COMMIT").await.is_err()
}

/// A store, eight series, and a second session on the same server.
async fn fixture(databases: &Databases) -> (Arc<PgStore>, tokio_postgres::Client) {
    let stream = Stream::new(databases.store().await, 8).await;
    stream.store.put_schedule(&ScheduleSpec::new("default", MINUTE)).await.unwrap();
    let paused = raw(&stream.store).await;
    (stream.store, paused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_a_runs_row_holds_up_no_claim_no_commit_and_no_failure() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "paused_run");
    let (store, _) = fixture(&databases).await;
    let run = new_run(&[3, 5, 7]);
    assert_eq!(store.plan(&Plan { open: vec![run], ..Plan::default() }).await.unwrap(), Outcome::Done);
    let hold = async || {
        let paused = raw(&store).await;
        paused.batch_execute("BEGIN; UPDATE run_data SET attempt = attempt").await.unwrap();
        paused
    };
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let paused = if tasks.is_empty() { Some(hold().await) } else { None };
        let started = Instant::now();
        tasks.push(store.claim_task(&claim_of(600_000_000)).await.unwrap().expect("a shard is due"));
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        if let Some(paused) = paused {
            assert!(is_gone(&paused).await);
        }
    }
    let paused = hold().await;
    assert!(is_done(&commit(&store, &tasks[0], vec![(0, rows(1..3, 1))]).await));
    assert!(is_gone(&paused).await);
    let paused = hold().await;
    let failure = TaskFailure { error: "no answer", retry: None, rules: &Rules::default() };
    assert_eq!(store.fail_task(&tasks[1], &failure).await.unwrap(), GivenBack::Open);
    assert!(is_gone(&paused).await);
    let paused = hold().await;
    assert!(store.cancel_run(tasks[0].run_id, "somebody").await.unwrap());
    assert!(is_gone(&paused).await);
    assert_eq!(commit(&store, &tasks[2], vec![(0, rows(5..7, 1))]).await.unwrap(), Committed::Fenced);
    assert_eq!(versions(&store).await, cells(1..3, 1), "what was done stays");
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_paused_commit_under_other_borders_give_way() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "paused_rows");
    let (store, paused) = fixture(&databases).await;
    let tasks = tasks_of(&store, new_run(&[5])).await;
    assert!(is_done(&commit(&store, &tasks[0], vec![(0, rows(1..5, 1))]).await));
    // The second shard is paused in the middle: it has written rows, and nothing of it is committed.
    let insert = "BEGIN; INSERT INTO prediction_data (schedule, window_start, series_id, window_end, status,
            window_version, run_id)
        SELECT 'default', '2026-01-01 00:00Z', id, '2026-01-01 00:01Z', 'scored', 9, gen_random_uuid()
        FROM generate_series(5, 8) AS id; DELETE FROM prediction_data WHERE series_id = 2";
    paused.batch_execute(insert).await.unwrap();
    assert!(store.cancel_run(tasks[0].run_id, "somebody").await.unwrap());
    // The interval is cut anew: shards that meet its new keys, and the row it has removed.
    let next = tasks_of(&store, new_run(&[4, 7])).await;
    assert!(next.iter().all(|t| t.attempt > tasks[1].attempt));
    for (task, ids) in next.iter().zip([1..4, 4..7, 7..9]) {
        let started = Instant::now();
        let committed = commit(&store, task, vec![(0, rows(ids, 2))]).await;
        assert!(is_done(&committed), "{committed:?}");
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
    assert!(is_gone(&paused).await);
    assert_eq!(versions(&store).await, cells(1..9, 2));
    assert_eq!(commit(&store, &tasks[1], vec![(0, rows(5..9, 3))]).await.unwrap(), Committed::Fenced);
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_wakes_up_late_is_fenced_and_disconnects_nobody() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "woken");
    let (store, _) = fixture(&databases).await;
    let run = new_run(&[]);
    assert_eq!(store.plan(&Plan { open: vec![run], ..Plan::default() }).await.unwrap(), Outcome::Done);
    let late = store.claim_task(&claim_of(0)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let task = store.claim_task(&claim_of(600_000_000)).await.unwrap().unwrap();
    let (other, mine) = (store.clone(), task.clone());
    let slow = tokio::spawn(async move {
        let batches = vec![(0, rows(1..4, 1)), (3000, rows(4..6, 1)), (3000, rows(6..9, 1))];
        commit(&other, &mine, batches).await
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    // It waits for the lock of the shard, far longer than anybody is waited for.
    assert_eq!(commit(&store, &late, vec![(0, rows(1..9, 7))]).await.unwrap(), Committed::Fenced);
    let committed = slow.await.unwrap();
    assert!(is_done(&committed), "{committed:?}");
    assert_eq!(versions(&store).await, cells(1..9, 1));
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planner_that_is_paused_holds_up_no_other() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "paused_plan");
    let (store, paused) = fixture(&databases).await;
    paused.batch_execute("BEGIN; UPDATE schedule_data SET revision = revision + 1").await.unwrap();
    let step = ScheduleMove { name: "default".into(), looked: true, ..ScheduleMove::default() };
    let plan = Plan { schedules: vec![step], open: vec![new_run(&[])], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    assert!(is_gone(&paused).await);
    // A claimer that was paused before it had leased anything.
    let paused = raw(&store).await;
    paused.batch_execute("BEGIN; SELECT 1 FROM run_task_data FOR UPDATE").await.unwrap();
    assert!(store.claim_task(&claim_of(600_000_000)).await.unwrap().is_some());
    assert!(is_gone(&paused).await);
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_as_a_whole_is_waited_for() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "locked_table");
    let (store, person) = fixture(&databases).await;
    let task = tasks_of(&store, new_run(&[])).await.remove(0);
    person.batch_execute("BEGIN; LOCK TABLE run_data IN SHARE MODE").await.unwrap();
    let other = store.clone();
    let committing = tokio::spawn(async move { commit(&other, &task, vec![(0, rows(1..9, 1))]).await });
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(!committing.is_finished());
    person.batch_execute("COMMIT").await.expect("nobody has disconnected a person");
    assert!(is_done(&committing.await.unwrap()));
    databases.drop_all().await;
}

#[ignore = "waits for longer than a session may be idle"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scoring_may_be_slow_in_the_middle_of_a_merge() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "slow");
    let (store, _) = fixture(&databases).await;
    let first = tasks_of(&store, new_run(&[])).await.remove(0);
    assert!(is_done(&commit(&store, &first, vec![(0, rows(1..129, 1))]).await));
    let second = tasks_of(&store, new_run(&[])).await.remove(0);
    let slow = vec![(0, rows(1..65, 2)), (0, rows(65..129, 2)), (23_000, rows(129..193, 2))];
    let committed = commit(&store, &second, slow).await;
    assert!(is_done(&committed), "{committed:?}");
    assert_eq!(versions(&store).await, cells(1..193, 2));
    databases.drop_all().await;
}

/// A commit that is broken off (by a timeout) while the server waits for a lock leaves no session behind, and its connection
/// does not come back to the pool, where the next call would wait behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_broken_off_leaves_nothing() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "broken_off");
    let (store, person) = fixture(&databases).await;
    let task = tasks_of(&store, new_run(&[])).await.remove(0);
    assert!(is_done(&commit(&store, &task, vec![(0, rows(1..5, 1))]).await));
    person.batch_execute("BEGIN; LOCK TABLE prediction_data IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let task = tasks_of(&store, new_run(&[])).await.remove(0);
    let broken =
        tokio::time::timeout(Duration::from_millis(500), commit(&store, &task, vec![(0, rows(1..5, 2))]));
    assert!(broken.await.is_err(), "it waits for the table");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let mut left = 1;
    for _ in 0..50 {
        left = person.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0);
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(left, 0, "sessions that still wait");
    for _ in 0..20 {
        tokio::time::timeout(Duration::from_secs(2), store.now()).await.expect("the pool is free").unwrap();
    }
    person.batch_execute("COMMIT").await.unwrap();
    assert!(is_done(&commit(&store, &task, vec![(0, rows(1..5, 2))]).await), "still its holder's");
}
