use super::*;
use futures::FutureExt;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let number = Arc::new(AtomicUsize::new(0));
    let make = move || {
        let path = root.join(format!("a folder/{}.db", number.fetch_add(1, Ordering::Relaxed)));
        async move {
            let store = SqliteStore::open(&path).unwrap();
            store.migrate().await.unwrap();
            Arc::new(store) as Arc<dyn Store>
        }
        .boxed()
    };
    crate::conformance::run(&make, "").await;
}
