//! The store's promises on a real PostgreSQL; its own crate runs them in memory and on SQLite.

use fleetscore_harness::Servers;
use libtest_mimic::Trial;
use std::sync::Arc;

/// One trial for each promise.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    fleetscore_store::conformance::promises()
        .into_iter()
        .map(|promise| {
            let servers = servers.clone();
            Trial::test(format!("conformance::postgres::{}", promise.name), move || {
                let url = servers.postgres().database();
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                runtime.block_on(async {
                    let store = fleetscore_store::open(&url, &Default::default()).await?;
                    store.migrate().await?;
                    (promise.check)(store).await;
                    Ok::<(), fleetscore_store::StoreError>(())
                })?;
                Ok(())
            })
        })
        .collect()
}
