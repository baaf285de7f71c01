//! Clocks are passed in, so that time is a test's to decide.

use fleetscore_schemas::time::Timestamp;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

/// Wall time, which people set and which may jump, and time that only goes on.
pub trait Clock: Send + Sync + 'static {
    /// Wall time, UTC.
    fn now(&self) -> Timestamp;
    /// Microseconds since some fixed moment; never goes back. Timeouts are measured by it.
    fn mono_us(&self) -> i64;
    /// Waits so long.
    fn sleep(&self, length: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(length))
    }
}

/// A time that is waited for.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What `work` comes to, or `None` where it takes longer.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    length: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(length) => None,
    }
}

/// Both times at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) wall: Timestamp,
    pub(crate) mono_us: i64,
}

impl Moment {
    pub(crate) fn of(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), mono_us: clock.mono_us() }
    }
}

/// The machine's clocks; monotonic time is [`fleetscore_schemas::time::mono_us`], which sources of readings go by too.
#[derive(Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clocks.
    pub fn new() -> Self {
        Self
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        chrono::Utc::now().into()
    }

    fn mono_us(&self) -> i64 {
        fleetscore_schemas::time::mono_us()
    }
}

/// A clock that stands until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, i64)>,
}

impl ManualClock {
    /// A clock that shows this time.
    pub fn new(now: Timestamp) -> Self {
        Self { state: Mutex::new((now, 0)) }
    }

    /// Moves both times on.
    pub fn advance_us(&self, us: i64) {
        let mut state = self.lock();
        *state = (state.0.plus_us(us), state.1 + us.max(0));
    }

    /// Sets wall time alone, as an operator might.
    pub fn set_wall(&self, now: Timestamp) {
        self.lock().0 = now;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Timestamp, i64)> {
        // The state is two integers: a panic elsewhere cannot have left it half written.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().0
    }

    fn mono_us(&self) -> i64 {
        self.lock().1
    }
}
