//! A store that remembers what it was asked for.

use async_trait::async_trait;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::*;
use std::sync::Mutex;

#[derive(Debug)]
pub(super) struct Counting {
    pub(super) inner: MemoryStore,
    /// Windows that were read.
    pub(super) read: Mutex<Vec<Interval>>,
    /// Questions which panes there are, by their range and limit.
    pub(super) listed: Mutex<Vec<(Interval, usize)>>,
}

impl Counting {
    pub(super) fn new(inner: MemoryStore) -> Self {
        Self { inner, read: Mutex::default(), listed: Mutex::default() }
    }
}

#[async_trait]
impl fleetscore_store::forward::Forward for Counting {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }
    async fn windows(&self, interval: Interval, selection: &Selection) -> Result<BatchStream<'_>> {
        self.read.lock().unwrap().push(interval);
        self.inner.windows(interval, selection).await
    }
    async fn panes(&self, range: Interval, newest_first: bool, limit: usize) -> Result<Vec<Timestamp>> {
        self.listed.lock().unwrap().push((range, limit));
        self.inner.panes(range, newest_first, limit).await
    }
}
