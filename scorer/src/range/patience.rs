//! Steps of a range: one that meets a service which is away is made again, and what was done before it is kept.

use crate::backoff::Backoff;
use crate::error::{Result, ScorerError};
use crate::outages::What;
use crate::service::Shared;
use fleetscore_schemas::codes::Classify;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// What one step has waited for.
pub(super) struct Patience {
    backoff: Backoff,
    asked: Instant,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::new(), asked: Instant::now() }
    }

    /// What a step came to; `None` after a pause, where it is to be made again. At shutdown its fault is what it came to.
    pub(super) async fn done<T, E: Into<ScorerError>>(
        &mut self,
        shared: &Shared,
        shutdown: &CancellationToken,
        result: Result<T, E>,
    ) -> Option<Result<T>> {
        let e: ScorerError = match result {
            Ok(value) => {
                shared.answered(What::Sql, self.asked);
                return Some(Ok(value));
            }
            Err(e) => e.into(),
        };
        if !e.is_transient() {
            return Some(Err(e));
        }
        shared.trouble("scoring a range", &e);
        if !self.backoff.wait(shutdown).await {
            return Some(Err(e));
        }
        self.asked = Instant::now();
        None
    }
}

/// A step of a range, again for as long as a service is away.
macro_rules! steadily {
    ($range:expr, $step:expr) => {{
        let mut patience = Patience::new();
        loop {
            let result = $step;
            if let Some(done) = patience.done(&$range.shared, &$range.shutdown, result).await {
                break done;
            }
        }
    }};
}
pub(super) use steadily;
