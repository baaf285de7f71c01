//! Holding what is leased in SQL: a task, a publication.

use fleetscore_store::{Outcome, Result};
use std::time::Duration;

/// Renews a lease of this length for as long as it is ours; the first time when a third of it has passed. Returns when it is
/// lost.
pub(crate) async fn until_lost<F>(lease_us: i64, what: &str, mut renew: impl FnMut() -> F)
where
    F: Future<Output = Result<Outcome>>,
{
    let third = Duration::from_micros(lease_us.max(3).unsigned_abs() / 3);
    let mut pause = third;
    loop {
        tokio::time::sleep(pause).await;
        match renew().await {
            Ok(Outcome::Done) => pause = third,
            Ok(Outcome::Fenced) => return,
            Err(e) => {
                tracing::debug!("the lease of {what} could not be renewed: {e}");
                pause = third.min(Duration::from_secs(1));
            }
        }
    }
}
