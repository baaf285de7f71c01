//! Time that moves on only when nothing else can be done: the runtime calls [`idle`] before it would wait, and the next
//! timer fires at once. One for each thread, as each simulation has one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::{Add, AddAssign, Sub};
use std::task::{Poll, Waker};
use std::time::Duration;

/// A moment of the thread's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        TIME.with_borrow(|time| Self(time.now))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now() - self
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, length: Duration) -> Self {
        Self(self.0 + length)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, length: Duration) {
        self.0 += length;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, other: Self) -> Duration {
        self.0.saturating_sub(other.0)
    }
}

#[derive(Debug, Default)]
struct Time {
    now: Duration,
    /// By moment, and by the order in which they were set.
    timers: BTreeMap<(Duration, u64), Waker>,
    set: u64,
    /// Work that really takes time, on other threads: while there is any, time stands still.
    at_work: usize,
}

thread_local! {
    static TIME: RefCell<Time> = RefCell::default();
}

/// Begins at zero, without a timer.
pub(crate) fn begin() {
    // The former timers are dropped outside: a waker may come back here.
    drop(TIME.take());
}

/// Moves on to the next timer. Called when no task can go on.
pub(crate) fn idle() {
    let next = TIME.with_borrow_mut(|time| {
        let next = if time.at_work == 0 { time.timers.pop_first() } else { None };
        next.map(|((at, _), waker)| {
            time.now = at.max(time.now);
            waker
        })
    });
    if let Some(waker) = next {
        waker.wake();
    }
}

/// Waits until then.
pub(crate) async fn sleep_until(at: Instant) {
    let mut timer = Timer(None);
    poll_fn(|context| {
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        TIME.with_borrow_mut(|time| {
            let key = *timer.0.get_or_insert_with(|| {
                time.set += 1;
                (at.0, time.set)
            });
            time.timers.insert(key, context.waker().clone());
        });
        Poll::Pending
    })
    .await;
}

/// Waits so long.
pub(crate) async fn sleep(length: Duration) {
    sleep_until(Instant::now() + length).await;
}

/// A timer that is not waited for any more is none.
struct Timer(Option<(Duration, u64)>);

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            let waker = TIME.with_borrow_mut(|time| time.timers.remove(&key));
            drop(waker);
        }
    }
}

/// While it lives, time stands still: other threads are at work.
pub(crate) struct AtWork;

impl AtWork {
    pub(crate) fn begin() -> Self {
        TIME.with_borrow_mut(|time| time.at_work += 1);
        Self
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        TIME.with_borrow_mut(|time| time.at_work -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[test]
    fn timers_fire_in_their_order_and_those_that_are_dropped_do_not() {
        begin();
        let runtime =
            tokio::runtime::Builder::new_current_thread().on_thread_park(idle).build().expect("a runtime");
        let order: Rc<RefCell<Vec<u64>>> = Rc::default();
        let tasks = tokio::task::LocalSet::new();
        for seconds in [30, 10, 3_600, 20] {
            let order = Rc::clone(&order);
            tasks.spawn_local(async move {
                tokio::select! {
                    biased;
                    () = sleep(Duration::from_secs(seconds)) => order.borrow_mut().push(seconds),
                    () = sleep(Duration::from_secs(1_000)) => order.borrow_mut().push(0),
                }
            });
        }
        runtime.block_on(tasks);
        assert_eq!(*order.borrow(), [10, 20, 30, 0]);
        assert_eq!(Instant::now(), Instant(Duration::from_secs(1_000)));
    }
}
