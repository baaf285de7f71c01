//! A process: it can be stopped, woken and killed at any await, and its clock may jump.

use crate::time::{Instant, sleep};
use fleetscore_aggregator_core::{Clock, Sleep};
use fleetscore_schemas::time::Timestamp;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;

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
}

impl Process {
    /// A process that runs.
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
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
    pub(crate) process: std::sync::Arc<Process>,
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
