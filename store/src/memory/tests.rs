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
