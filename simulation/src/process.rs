//! A process: it can be stopped, woken and killed at any await, and its clock may jump.

use crate::time::{Instant, sleep};
use fleetscore_aggregator_core::{Clock, Handle, Sleep};
use fleetscore_schemas::reading::ReadingBatch;
use fleetscore_schemas::time::Timestamp;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;

const MINUTE_US: i64 = 60_000_000;
/// What a record comes to at most besides its own bytes: a dead letter that says in up to 200 bytes what is wrong with it.
const LETTER_BYTES: usize = 160 + 200;

/// One life of a process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number among all that ever were.
    pub(crate) id: u64,
    stopped: AtomicBool,
    woken: Notify,
    waker: Mutex<Option<Waker>>,
    /// Somebody wants it killed now.
    pub(crate) killed: Notify,
    /// The clock of its machine.
    pub(crate) clock: Arc<SimClock>,
    /// When its life began, by that clock.
    began_us: i64,
    handle: OnceLock<Handle>,
    /// What the largest batch may come to that it was handed.
    largest: AtomicUsize,
    /// How often it has claimed.
    pub(crate) claims: AtomicU64,
    /// Dead letters that it has had kept one by one.
    pub(crate) letters: AtomicU64,
}

impl Process {
    /// A process that runs.
    pub(crate) fn new(id: u64, clock: Arc<SimClock>) -> Self {
        Self {
            id,
            began_us: clock.mono_us(),
            clock,
            handle: OnceLock::new(),
            largest: AtomicUsize::new(0),
            claims: AtomicU64::new(0),
            letters: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            woken: Notify::new(),
            waker: Mutex::new(None),
            killed: Notify::new(),
        }
    }

    /// SIGSTOP and SIGCONT.
    pub(crate) fn set_stopped(&self, stopped: bool) {
        self.stopped.store(stopped, SeqCst);
        if !stopped {
            self.woken.notify_waiters();
            if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
                waker.wake();
            }
        }
    }

    /// It runs, and says of itself what this tells.
    pub(crate) fn runs(&self, handle: Handle) {
        let _ = self.handle.set(handle); // a life begins once
    }

    /// It is handed a batch.
    pub(crate) fn is_handed(&self, batch: &ReadingBatch) {
        let records = batch.readings.len() + batch.bad.len();
        self.largest.fetch_max(batch.messages.payload.len() + records * LETTER_BYTES, SeqCst);
    }

    /// Bytes that it says wait for a checkpoint, and those that one batch may have added to them.
    pub(crate) fn holds(&self) -> (usize, usize) {
        let bytes = self.handle.get().map_or(0, |h| h.snapshot().pending_bytes);
        (bytes, self.largest.load(SeqCst))
    }

    /// In how many minutes of its clock it has lived.
    pub(crate) fn minutes(&self) -> u64 {
        let minute = |us: i64| us.div_euclid(MINUTE_US);
        (minute(self.clock.mono_us()) - minute(self.began_us) + 1).unsigned_abs()
    }

    /// Whether it is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    /// Waits while the process is stopped: what its threads do.
    pub(crate) async fn running(&self) {
        while self.is_stopped() {
            self.woken.notified().await;
        }
    }
}

/// A future that makes no progress while its process is stopped.
pub(crate) struct Stoppable<F> {
    /// Whose.
    pub(crate) process: Arc<Process>,
    /// What.
    pub(crate) inner: Pin<Box<F>>,
}

impl<F: Future> Future for Stoppable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.process.is_stopped() {
            *self.process.waker.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(context.waker().clone());
            return Poll::Pending;
        }
        self.inner.as_mut().poll(context)
    }
}

/// A machine's clock on the simulation's time: monotonic time is exact, wall time is off by what somebody set.
#[derive(Debug)]
pub struct SimClock {
    began: Instant,
    wall_us: AtomicI64,
}

impl SimClock {
    /// A clock that shows this time now.
    pub fn new(wall: Timestamp) -> Self {
        Self { began: Instant::now(), wall_us: AtomicI64::new(wall.us()) }
    }

    /// Sets it to what would have been this time when it was made.
    pub fn set_us(&self, wall_us: i64) {
        self.wall_us.store(wall_us, SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall_us.load(SeqCst) + self.mono_us())
    }

    fn sleep(&self, length: Duration) -> Sleep {
        Box::pin(sleep(length))
    }

    fn mono_us(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}
