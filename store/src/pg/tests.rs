//! Against a real server: set `FLEETSCORE_TEST_POSTGRES` to the URL of one where databases may be created, such as
//! `postgres://postgres@127.0.0.1:5432/postgres`. Without it these tests say that they were left out.

use super::*;
use crate::conformance;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_postgres::NoTls;

const VARIABLE: &str = "FLEETSCORE_TEST_POSTGRES";

fn server() -> Option<String> {
    let url = std::env::var(VARIABLE).ok();
    if url.is_none() {
        eprintln!("left out: {VARIABLE} is not set");
    }
    url
}

async fn admin(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Databases of one test, dropped by [`Databases::drop_all`].
#[derive(Clone)]
struct Databases {
    url: String,
    prefix: String,
    made: Arc<AtomicUsize>,
}

impl Databases {
    fn new(url: &str, test: &str) -> Self {
        let prefix = format!("fleetscore_test_{}_{test}", std::process::id());
        Self { url: url.to_owned(), prefix, made: Arc::default() }
    }

    /// The URL of a new, empty database.
    async fn make(&self) -> String {
        let name = format!("{}_{}", self.prefix, self.made.fetch_add(1, Ordering::Relaxed));
        admin(&self.url)
            .await
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .unwrap();
        let (base, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let server = base.rsplit_once('/').unwrap().0;
        format!("{server}/{name}?{query}")
    }

    async fn store(&self) -> Arc<PgStore> {
        let store = PgStore::connect(&self.make().await, &StoreOptions::default()).await.unwrap();
        store.migrate().await.unwrap();
        Arc::new(store)
    }

    async fn drop_all(self) {
        let client = admin(&self.url).await;
        for i in 0..self.made.load(Ordering::Relaxed) {
            let _ = client.batch_execute(&format!("DROP DATABASE {}_{i} WITH (FORCE)", self.prefix)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_every_promise() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "promises");
    let of = databases.clone();
    let make = move || -> BoxFuture<'static, Arc<dyn Store>> {
        let of = of.clone();
        Box::pin(async move { of.store().await as Arc<dyn Store> })
    };
    let filter = std::env::var("FLEETSCORE_PROMISE").unwrap_or_default();
    conformance::run(&make, &filter).await;
    databases.drop_all().await;
}
