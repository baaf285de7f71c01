//! Waiting between attempts.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Doubles from a tenth of a second up to ten, with a little chance in it so that processes do not march in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Waits; false if shutdown came first.
    pub(crate) async fn wait(&mut self, shutdown: &CancellationToken) -> bool {
        let chance = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
        let time = self.next.mul_f64(0.75 + 0.5 * chance);
        self.next = (self.next * 2).min(LONGEST);
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = shutdown.cancelled() => false,
        }
    }
}
