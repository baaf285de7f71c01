//! Opening what lies outside, and waiting for what does not answer.

use crate::exit::Fail;
use crate::signals::{Shutdown, Stopped};
use fleetscore_schemas::codes::Classify;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_settings::{Config, mask};
use fleetscore_store::{Store, StoreOptions};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a wait is spoken of again.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Calls until it succeeds, fails for good, or a signal comes. What it waits for is said at once, then rarely.
///
/// # Errors
/// The first error that no retry will mend; [`Fail::Stopped`] at a signal.
pub(crate) async fn patiently<T, E, W>(
    what: &str,
    shutdown: &Shutdown,
    mut call: impl FnMut() -> W,
) -> Result<T, Fail>
where
    E: Classify + Display,
    W: Future<Output = Result<T, E>>,
{
    wait_for(what, shutdown, || shutdown.unless(call())).await
}

/// The same for work that looks at the signal itself and cleans up behind it: it is not broken off. Errors after the
/// signal are not waited out.
///
/// # Errors
/// The first error that no retry will mend; [`Fail::Stopped`] where a signal came and it could not end cleanly.
pub(crate) async fn to_its_end<T, E, W>(
    what: &str,
    shutdown: &Shutdown,
    mut call: impl FnMut() -> W,
) -> Result<T, Fail>
where
    E: Classify + Display,
    W: Future<Output = Result<T, E>>,
{
    wait_for(what, shutdown, || {
        let work = call();
        async move { Ok(work.await) }
    })
    .await
}

async fn wait_for<T, E, W>(what: &str, shutdown: &Shutdown, mut call: impl FnMut() -> W) -> Result<T, Fail>
where
    E: Classify + Display,
    W: Future<Output = Result<Result<T, E>, Stopped>>,
{
    let mut pause = FIRST_PAUSE;
    let mut said: Option<Instant> = None;
    loop {
        let e = match call().await? {
            Ok(value) => {
                if said.is_some() {
                    tracing::info!("{what} answers");
                }
                return Ok(value);
            }
            Err(e) if !e.is_transient() => return Err(e.into()),
            Err(e) => e,
        };
        if said.is_none_or(|t| t.elapsed() >= SAY_AGAIN) {
            tracing::warn!("waiting for {what}: {e}");
            said = Some(Instant::now());
        }
        shutdown.unless(tokio::time::sleep(pause)).await?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The configured store, migrated.
///
/// # Errors
/// What is wrong with the setting; [`Fail::Stopped`] at a signal.
pub(crate) async fn store(config: &Config, shutdown: &Shutdown) -> Result<Arc<dyn Store>, Fail> {
    let what = format!("the store at {}", mask::text(&config.store));
    let options = StoreOptions::default();
    let store = patiently(&what, shutdown, || fleetscore_store::open(&config.store, &options)).await?;
    patiently(&what, shutdown, || store.migrate()).await?;
    Ok(store)
}

/// The configured blobs, bound to the store: another store's root is refused.
///
/// # Errors
/// What is wrong with the setting; [`Fail::Stopped`] at a signal.
pub(crate) async fn blobs(config: &Config, store: &dyn Store, shutdown: &Shutdown) -> Result<Blobs, Fail> {
    let blobs = Blobs::open(&config.blobs, &BTreeMap::new())?;
    let what = format!("blob storage at {}", mask::text(&config.blobs));
    patiently(&what, shutdown, || blobs.bind(store)).await?;
    Ok(blobs)
}
