//! The store as one process reaches it: over a network that is slow, loses questions and answers, and goes on with what was
//! sent when the sender is dead.

use crate::process::Process;
use crate::time::{Instant, sleep};
use crate::world::{Fate, Step, World, lock};
use async_trait::async_trait;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::forward::Forward;
use fleetscore_store::{
    Advance, Checkpoint, Claim, Heartbeat, Outcome, PaneSettings, Progress, ReadinessSettings, Result, Store,
    StoreError,
};
use futures_executor::block_on;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// One process' connection.
#[derive(Debug)]
pub(crate) struct SimStore {
    /// The world with the store in it.
    world: Arc<World>,
    /// Whose connection this is.
    process: Arc<Process>,
    /// The newest checkpoint, and when it was sent first: what it says is of that time, however often it is sent again.
    newest: Mutex<(Vec<Advance>, Instant)>,
}

impl SimStore {
    pub(crate) fn new(world: Arc<World>, process: Arc<Process>) -> Self {
        Self { world, process, newest: Mutex::new((Vec::new(), Instant::now())) }
    }

    fn first_sent(&self, checkpoint: &Checkpoint) -> Instant {
        let mut newest = lock(&self.newest);
        if newest.0 != checkpoint.advances {
            *newest = (checkpoint.advances.clone(), Instant::now());
        }
        newest.1
    }

    /// Sends a call, and waits for what comes back. The server does its part in a task of its own.
    async fn remote<T, F>(&self, step: Step, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&World) -> Result<T> + Send + 'static,
    {
        self.process.running().await;
        let Fate { there, back, arrives, answered, kill } = self.world.fate(step);
        self.world.note(Step::Sent, self.process.id, step as u64);
        if kill == Some(0) {
            return self.die().await;
        }
        let (answer, wait) = oneshot::channel();
        let (world, id) = (Arc::clone(&self.world), self.process.id);
        tokio::spawn(async move {
            sleep(there).await;
            if !arrives || world.is_down() {
                world.note(Step::Dropped, id, step as u64);
                return;
            }
            // One thing at a time, whatever the store is made of: nothing else happens meanwhile.
            let result = call(&world);
            world.note(step, id, u64::from(result.is_ok()));
            sleep(back).await;
            if answered {
                let _ = answer.send(result); // whoever asked may be dead
            }
        });
        if kill == Some(1) {
            return self.die().await;
        }
        let answer = wait.await;
        self.process.running().await;
        // When an answer comes, most has gathered.
        self.world.must_be_bounded(&self.process);
        if kill == Some(2) {
            return self.die().await;
        }
        answer.unwrap_or_else(|_| Err(StoreError::Unavailable { message: "connection lost".into() }))
    }

    /// The process is killed here.
    async fn die<T>(&self) -> T {
        self.process.killed.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Forward for SimStore {
    fn inner(&self) -> &dyn Store {
        &*self.world.store
    }
    async fn pin_panes(&self, settings: &PaneSettings) -> Result<()> {
        let settings = settings.clone();
        self.remote(Step::Settings, move |w| block_on(w.store.pin_panes(&settings))).await
    }
    async fn put_readiness(&self, settings: &ReadinessSettings) -> Result<()> {
        let settings = *settings;
        self.remote(Step::Settings, move |w| block_on(w.store.put_readiness(&settings))).await
    }
    async fn progress(&self) -> Result<Progress> {
        self.remote(Step::Progress, |w| block_on(w.store.progress())).await
    }
    async fn add_partitions(&self, source: &str, partitions: &[(TopicPartition, i64)]) -> Result<()> {
        let (source, partitions) = (source.to_owned(), partitions.to_vec());
        self.remote(Step::AddPartitions, move |w| w.add_partitions(&source, &partitions)).await
    }
    async fn claim(&self, source: &str, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>> {
        let (source, owner, partitions) = (source.to_owned(), owner.to_owned(), partitions.to_vec());
        let process = Arc::clone(&self.process);
        let call = move |w: &World| {
            process.claims.fetch_add(1, SeqCst);
            block_on(w.store.claim(&source, &owner, &partitions))
        };
        self.remote(Step::Claim, call).await
    }
    async fn heartbeat(&self, source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome> {
        let (source, owner, beats) = (source.to_owned(), owner.to_owned(), beats.to_vec());
        let sent = Instant::now();
        self.remote(Step::Heartbeat, move |w| w.heartbeat(&source, &owner, &beats, sent)).await
    }
    async fn intern(&self, names: &[SeriesName], max_series: u32) -> Result<Vec<Option<SeriesId>>> {
        let names = names.to_vec();
        self.remote(Step::Intern, move |w| block_on(w.store.intern(&names, max_series))).await
    }
    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outcome> {
        let checkpoint = checkpoint.clone();
        let sent = self.first_sent(&checkpoint);
        let process = Arc::clone(&self.process);
        self.remote(Step::Checkpoint, move |w| w.checkpoint(&checkpoint, sent, &process)).await
    }
}
