//! A store that now and then does not answer, before or after it has done what was asked.

use async_trait::async_trait;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::*;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct FlakyStore<S> {
    pub(crate) inner: S,
    rng: Mutex<fastrand::Rng>,
    /// Of so many calls one fails, half of these after they were done; 0 = never.
    one_in: u32,
    /// How long it takes to make ids.
    pub(crate) interning: Duration,
}

impl<S: Store> FlakyStore<S> {
    pub(crate) fn new(inner: S, one_in: u32, seed: u64) -> Self {
        let rng = Mutex::new(fastrand::Rng::with_seed(seed));
        Self { inner, rng, one_in, interning: Duration::ZERO }
    }

    async fn flaky<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let dice = if self.one_in == 0 { 2 } else { self.rng.lock().unwrap().u32(..2 * self.one_in) };
        let lost = |m: &str| Err(StoreError::Unavailable { message: m.into() });
        match dice {
            0 => lost("connection lost before"),
            1 => {
                let _ = call.await;
                lost("connection lost after")
            }
            _ => call.await,
        }
    }
}

#[async_trait]
impl<S: Store> fleetscore_store::forward::Forward for FlakyStore<S> {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }
    async fn progress(&self) -> Result<Progress> {
        self.flaky(self.inner.progress()).await
    }
    async fn claim(&self, source: &str, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>> {
        self.flaky(self.inner.claim(source, owner, partitions)).await
    }
    async fn heartbeat(&self, source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome> {
        self.flaky(self.inner.heartbeat(source, owner, beats)).await
    }
    async fn intern(&self, names: &[SeriesName], max_series: u32) -> Result<Vec<Option<SeriesId>>> {
        // Before the ids are made: a call that is broken off meanwhile has done nothing.
        tokio::time::sleep(self.interning).await;
        self.flaky(self.inner.intern(names, max_series)).await
    }
    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outcome> {
        self.flaky(self.inner.checkpoint(checkpoint)).await
    }
}
