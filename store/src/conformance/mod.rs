//! One suite of promises that every store passes.
//!
//! Each promise is one async function on a fresh, migrated, empty store; it panics where the store breaks it. A
//! `#[tokio::test]` runs them with [`run`], a harness of its own takes the list from [`promises`].
#![allow(clippy::unwrap_used)] // a broken promise is a panic

mod checkpoint;
mod commits;
mod concurrency;
mod dead_letters;
mod fixture;
mod lives;
mod merging;
mod model_sets;
mod plans;
mod positions;
mod predictions;
#[cfg(test)]
mod properties;
mod publication;
mod retention;
mod roster;
mod schedules;
mod series;
mod shards;
mod tasks;
mod views;

use crate::Store;
use futures::future::BoxFuture;
use std::sync::Arc;

/// Something every store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    /// What it says.
    pub name: &'static str,
    /// Panics where the store, which must be fresh and migrated, does not keep it.
    pub check: fn(Arc<dyn Store>) -> BoxFuture<'static, ()>,
}

macro_rules! list {
    ($($name:ident),+ $(,)?) => {
        pub(super) const PROMISES: &[crate::conformance::Promise] = &[$(crate::conformance::Promise {
            name: concat!(module_path!(), "::", stringify!($name)),
            check: |store| Box::pin($name(store)),
        }),+];
    };
}
use list;

/// The same call until it is not contended, for a second at most.
macro_rules! patiently {
    ($call:expr) => {{
        let mut attempts = 0;
        loop {
            match $call.await {
                Err(e) if attempts < 200 && fleetscore_schemas::codes::Classify::is_transient(&e) => {
                    attempts += 1;
                    crate::conformance::fixture::sleep_ms(5).await;
                }
                other => break other.unwrap(),
            }
        }
    }};
}
use patiently;

/// All promises.
pub fn promises() -> Vec<Promise> {
    let groups = [
        positions::PROMISES,
        checkpoint::PROMISES,
        merging::PROMISES,
        series::PROMISES,
        dead_letters::PROMISES,
        retention::PROMISES,
        plans::PROMISES,
        schedules::PROMISES,
        tasks::PROMISES,
        shards::PROMISES,
        lives::PROMISES,
        roster::PROMISES,
        predictions::PROMISES,
        commits::PROMISES,
        publication::PROMISES,
        model_sets::PROMISES,
        concurrency::PROMISES,
        views::PROMISES,
    ];
    let short = |p: &Promise| Promise {
        name: p.name.split_once("conformance::").map_or(p.name, |(_, name)| name),
        ..*p
    };
    groups.into_iter().flatten().map(short).collect()
}

/// Checks every promise whose name contains `filter`, each on a store of its own from `make`, one after the other.
/// Must run on a multi-thread runtime.
///
/// # Panics
/// Where a promise was broken, naming all that were; also where `filter` selects none.
pub async fn run(make: &(dyn Fn() -> BoxFuture<'static, Arc<dyn Store>> + Send + Sync), filter: &str) {
    let chosen: Vec<_> = promises().into_iter().filter(|p| p.name.contains(filter)).collect();
    assert!(!chosen.is_empty(), "no promise has `{filter}` in its name");
    let mut broken = Vec::new();
    for promise in &chosen {
        let store = make().await;
        // A task of its own, so that a panic ends this promise alone.
        if let Err(e) = tokio::spawn((promise.check)(store)).await {
            let why = e.try_into_panic().map_or_else(|e| e.to_string(), |p| panic_text(&*p));
            broken.push(format!("{}: {why}", promise.name));
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {} promises broken:\n{}",
        broken.len(),
        chosen.len(),
        broken.join("\n")
    );
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}
