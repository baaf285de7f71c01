use super::*;
use futures::FutureExt;

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise() {
    let make = || async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }.boxed();
    crate::conformance::run(&make, "").await;
}

#[tokio::test]
async fn it_says_that_queries_need_sql() {
    let store = MemoryStore::new();
    let error = store.query("SELECT 1").await.unwrap_err();
    assert!(matches!(&error, StoreError::Query { message } if message.contains("SQL")), "{error}");
}

#[tokio::test]
async fn its_clock_is_the_one_it_was_given() {
    let store = MemoryStore::with_clock(Arc::new(|| Timestamp(42)));
    assert_eq!(store.now().await.unwrap(), Timestamp(42));
}

#[tokio::test]
async fn leases_pauses_and_stalls_go_by_its_clock() {
    use crate::{NewRun, Plan, Retry, Rules, RunFilter, ScheduleSpec, TaskClaim, TaskFailure};
    use fleetscore_schemas::status::{RunCause, RunScope};
    use std::sync::atomic::{AtomicI64, Ordering};
    const S: i64 = 1_000_000;
    let time = Arc::new(AtomicI64::new(0));
    let hand = time.clone();
    let store = MemoryStore::with_clock(Arc::new(move || Timestamp(hand.load(Ordering::Relaxed))));
    let set = |s: i64| time.store(s * S, Ordering::Relaxed);
    store
        .put_schedule(&ScheduleSpec { stall_after_us: 100 * S, ..ScheduleSpec::new("default", 60 * S) })
        .await
        .unwrap();
    let run = NewRun {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        interval: Interval::starting(Timestamp(0), 60 * S),
        cause: RunCause::Schedule,
        model_set: Some(1),
        data_only: false,
        scope: RunScope::All,
        series: None,
        cuts: vec![],
        retry_of: None,
        note: None,
    };
    let plan = Plan { open: vec![run], ..Plan::default() };
    assert_eq!(store.plan(&plan).await.unwrap(), Outcome::Done);
    let wish = TaskClaim { worker: "w".into(), lease_us: 30 * S, run_ids: None, prefer: vec![] };
    let claim = async || store.claim_task(&wish).await.unwrap();
    let first = claim().await.unwrap();
    set(29);
    assert!(claim().await.is_none(), "leased to the second");
    set(30);
    let second = claim().await.unwrap();
    assert_eq!((first.tries, second.tries), (1, 2));
    let retry = Some(Retry { after_us: 10 * S, counts: true });
    let failure = TaskFailure { error: "no answer", retry, rules: &Rules::default() };
    assert_eq!(store.fail_task(&second, &failure).await.unwrap(), GivenBack::Open);
    set(39);
    assert!(claim().await.is_none(), "it has its pause");
    assert_eq!(store.mark_stalled().await.unwrap(), 0);
    set(130);
    assert_eq!(store.mark_stalled().await.unwrap(), 1, "as long as its schedule says");
    assert_eq!(store.runs(&RunFilter::default()).await.unwrap()[0].stalled_at, Some(Timestamp(130 * S)));
    assert_eq!(store.events()[0].at, Timestamp(130 * S));
    assert!(claim().await.is_some());
}
