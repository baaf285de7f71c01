//! Calls of the store that run beside the loop, one of each kind at a time.

use crate::claims;
use crate::clock::within;
use crate::core::{ClaimRequest, CutRequest};
use crate::engine::Engine;
use crate::error::AggregatorError;
use crate::options::Options;
use crate::pending::Pending;
use crate::shared::{Shared, patiently};
use crate::time::{ready_horizon, retention_floor};
use arrow::array::RecordBatch;
use fleetscore_schemas::codes::Classify;
use fleetscore_schemas::time::Timestamp;
use fleetscore_schemas::{SeriesId, SeriesName, delta};
use fleetscore_store::{Checkpoint, Claim, DeadLetter, Heartbeat, Notice, Outcome, Store, StoreError};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// A heartbeat that takes longer has failed.
const BEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// Names in one call.
const INTERN_AT_ONCE: usize = 20_000;
/// Dead letters that are forgotten in one call.
const FORGET_AT_ONCE: usize = 10_000;

/// What a call came to.
#[derive(Debug)]
pub(crate) enum Done {
    Claimed { ticket: u64, claims: Vec<Claim> },
    Committed(Committed),
    Beaten { ticket: u64, outcome: Option<Outcome> },
    Interned { decoder: u32, keys: Vec<u32>, ids: Vec<Option<SeriesId>> },
    Floor(Option<Timestamp>),
    Retained,
    Forgotten,
}

/// The end of a checkpoint.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) ticket: u64,
    pub(crate) outcome: Outcome,
    pub(crate) windows: u64,
}

type Answer = Result<Done, AggregatorError>;
type Job = Option<AbortOnDropHandle<Answer>>;

/// Calls under way.
pub(crate) struct Jobs {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    options: Arc<Options>,
    engine: Arc<dyn Engine>,
    claim: Job,
    commit: Job,
    beat: Job,
    intern: Job,
    retention: Job,
    forgetting: Job,
}

impl Jobs {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        shared: Arc<Shared>,
        options: Arc<Options>,
        engine: Arc<dyn Engine>,
    ) -> Self {
        let (claim, commit, beat, intern, retention, forgetting) = (None, None, None, None, None, None);
        Self { store, shared, options, engine, claim, commit, beat, intern, retention, forgetting }
    }

    /// The next call that ends. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Answer {
        let Self { claim, commit, beat, intern, retention, forgetting, .. } = self;
        tokio::select! {
            biased;
            done = ended(claim) => done,
            done = ended(commit) => done,
            done = ended(beat) => done,
            done = ended(intern) => done,
            done = ended(retention) => done,
            done = ended(forgetting) => done,
        }
    }

    /// Drops what belongs to the present claims. A checkpoint that happens all the same is answered by the fence.
    pub(crate) fn abandon(&mut self) {
        self.claim = None;
        self.commit = None;
        self.beat = None;
        self.intern = None;
    }

    pub(crate) fn abandon_intern(&mut self) {
        self.intern = None;
    }

    pub(crate) fn is_interning(&self) -> bool {
        self.intern.is_some()
    }

    pub(crate) fn is_retaining(&self) -> bool {
        self.retention.is_some()
    }

    pub(crate) fn claim(&mut self, request: ClaimRequest) {
        let (store, shared, options) = self.parts();
        self.claim = spawn(async move {
            let claims =
                claims::claim(&*store, &shared, &options.owner, options.on_offset_gap, &request).await?;
            Ok(Done::Claimed { ticket: request.ticket, claims })
        });
    }

    pub(crate) fn commit(
        &mut self,
        cut: CutRequest,
        pending: Pending,
        (dead_letters, notices): (Vec<DeadLetter>, Vec<Notice>),
    ) {
        let (store, shared, options) = self.parts();
        let engine = Arc::clone(&self.engine);
        self.commit = spawn(async move {
            let range = ranges(&cut);
            let deltas = if pending.is_empty() {
                RecordBatch::new_empty(delta::schema())
            } else {
                let named = |e| AggregatorError::internal(format!("checkpoint of {range}: {e}"));
                engine.deltas(pending).await.map_err(named)?
            };
            let windows = deltas.num_rows() as u64;
            let checkpoint = Checkpoint {
                source: cut.source,
                owner: options.owner.clone(),
                advances: cut.advances,
                deltas,
                dead_letters,
                losses: cut.losses,
                replayed: Vec::new(),
                notices,
            };
            // Unchanged until it is answered: whether an unknown attempt had happened, the fence says.
            let outcome = patiently(&shared, "a checkpoint", || store.checkpoint(&checkpoint))
                .await
                .map_err(|e| AggregatorError::store(format!("checkpoint of {range}"), e))?;
            Ok(Done::Committed(Committed { ticket: cut.ticket, outcome, windows }))
        });
    }

    pub(crate) fn beat(&mut self, ticket: u64, source: String, beats: Vec<Heartbeat>) {
        let (store, shared, options) = self.parts();
        self.beat = spawn(async move {
            let call = store.heartbeat(&source, &options.owner, &beats);
            let outcome = match within(shared.clock(), BEAT_TIMEOUT, call).await {
                Some(Ok(outcome)) => Some(outcome),
                Some(Err(e)) if !e.is_transient() => return Err(AggregatorError::store("a sign of life", e)),
                Some(Err(e)) => {
                    tracing::debug!("a sign of life could not be stored: {e}");
                    None
                }
                None => None,
            };
            Ok(Done::Beaten { ticket, outcome })
        });
    }

    pub(crate) fn intern(&mut self, decoder: u32, keys: Vec<u32>, names: Vec<SeriesName>) {
        let (store, shared, options) = self.parts();
        self.intern = spawn(async move {
            let mut ids = Vec::with_capacity(names.len());
            for some in names.chunks(INTERN_AT_ONCE) {
                let answer = patiently(&shared, "ids of series", || store.intern(some, options.max_series))
                    .await
                    .map_err(|e| AggregatorError::store("asking for ids of series", e))?;
                if answer.len() != some.len() {
                    return Err(AggregatorError::internal("the store named fewer ids than it was asked for"));
                }
                ids.extend(answer);
            }
            Ok(Done::Interned { decoder, keys, ids })
        });
    }

    /// Looks for the floor that retention calls for.
    pub(crate) fn find_floor(&mut self) {
        let (store, _, options) = self.parts();
        self.retention = spawn(async move {
            match floor(&*store, &options).await {
                Ok(floor) => Ok(Done::Floor(floor)),
                Err(e) if e.is_transient() => Ok(Done::Floor(None)),
                Err(e) => Err(AggregatorError::store("retention", e)),
            }
        });
    }

    /// Raises the floor and deletes what lies below it.
    pub(crate) fn retain(&mut self, floor: Timestamp) {
        let (store, shared, _) = self.parts();
        self.retention = spawn(async move {
            let removed = patiently(&shared, "retention", || store.retain_from(floor))
                .await
                .map_err(|e| AggregatorError::store("retention", e))?;
            tracing::info!(%floor, removed, "panes below the floor of retention are deleted");
            Ok(Done::Retained)
        });
    }

    /// Deletes dead letters that were stored longer ago than this.
    pub(crate) fn forget_letters(&mut self, kept_us: i64) {
        if self.forgetting.is_some() {
            return;
        }
        let (store, ..) = self.parts();
        self.forgetting = spawn(async move {
            match forget_letters(&*store, kept_us).await {
                // Nothing that aggregating would have to wait for, or end over.
                Err(e) => {
                    tracing::warn!("dead_letter_retention: dead letters are deleted later: {e}");
                    Ok(Done::Forgotten)
                }
                Ok(0) => Ok(Done::Forgotten),
                Ok(n) => {
                    tracing::info!("{n} dead letters older than dead_letter_retention are deleted");
                    Ok(Done::Forgotten)
                }
            }
        });
    }

    fn parts(&self) -> (Arc<dyn Store>, Arc<Shared>, Arc<Options>) {
        (Arc::clone(&self.store), Arc::clone(&self.shared), Arc::clone(&self.options))
    }
}

async fn forget_letters(store: &dyn Store, kept_us: i64) -> Result<u64, StoreError> {
    let before = store.now().await?.plus_us(-kept_us);
    let mut gone = 0;
    loop {
        let some = store.forget_dead_letters(before, FORGET_AT_ONCE).await?;
        gone += some;
        if some < FORGET_AT_ONCE as u64 {
            return Ok(gone);
        }
    }
}

async fn floor(store: &dyn Store, options: &Options) -> Result<Option<Timestamp>, StoreError> {
    let Some(retention_us) = options.retention_us else { return Ok(None) };
    let progress = store.progress().await?;
    let Some((_, newest)) = store.pane_range().await? else { return Ok(None) };
    let longest = store.schedules().await?.iter().map(|s| s.spec.window_us).max().unwrap_or(0);
    let grid = options.panes.grid();
    let Some(horizon) = ready_horizon(&progress, &options.readiness(), grid, Some(newest)) else {
        return Ok(None);
    };
    let longest = longest.max(options.panes.interval_us);
    let floor = retention_floor(horizon, retention_us, options.allowed_lateness_us, longest, grid);
    let raised = progress.rows.iter().any(|r| r.floor.is_none_or(|f| f < floor));
    Ok(raised.then_some(floor))
}

fn spawn(work: impl Future<Output = Answer> + Send + 'static) -> Job {
    Some(AbortOnDropHandle::new(tokio::spawn(work)))
}

async fn ended(job: &mut Job) -> Answer {
    let Some(running) = job else { return std::future::pending().await };
    let result = running.await;
    *job = None;
    match result {
        Ok(answer) => answer,
        Err(e) => Err(AggregatorError::internal(format!("a call of the store panicked: {e}"))),
    }
}

/// What a checkpoint covers, for an error.
fn ranges(cut: &CutRequest) -> String {
    const SHOWN: usize = 8;
    let mut text = String::new();
    for advance in cut.advances.iter().take(SHOWN) {
        let comma = if text.is_empty() { "" } else { ", " };
        text += &format!("{comma}{} offsets {} to {}", advance.partition, advance.from, advance.to);
    }
    if cut.advances.len() > SHOWN {
        text += &format!(" and {} partitions more", cut.advances.len() - SHOWN);
    }
    text
}
