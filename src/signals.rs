//! SIGINT and SIGTERM: the first asks for a clean end, a second SIGINT ends at once.

use crate::exit::{Done, Fail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;

/// Asks a command to end, and remembers why.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown {
    token: CancellationToken,
    interrupted: Arc<AtomicBool>,
}

impl Shutdown {
    /// Listens to both signals from now on.
    ///
    /// # Errors
    /// Where the handlers cannot be set.
    pub(crate) fn listen() -> Result<Self, Fail> {
        use tokio::signal::unix::{SignalKind, signal};
        let set = |kind| signal(kind).map_err(|e| Fail::work(format!("signals cannot be listened to: {e}")));
        let (mut int, mut term) = (set(SignalKind::interrupt())?, set(SignalKind::terminate())?);
        let this = Self { token: CancellationToken::new(), interrupted: Arc::default() };
        let mine = this.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = int.recv() => {
                        if mine.interrupted.swap(true, Ordering::SeqCst) {
                            std::process::exit(130);
                        }
                        if !mine.token.is_cancelled() {
                            tracing::info!("SIGINT: ending cleanly; once more to end at once");
                        }
                    }
                    _ = term.recv() => tracing::info!("SIGTERM: ending cleanly"),
                }
                mine.token.cancel();
            }
        });
        Ok(this)
    }

    /// Cancelled when the command is to end.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// How a command ends that did all it was asked to, or was stopped.
    pub(crate) fn done(&self) -> Done {
        if self.interrupted.load(Ordering::SeqCst) { Done::Interrupted } else { Done::All }
    }

    /// Waits for work that is not to outlive a signal.
    ///
    /// # Errors
    /// [`Stopped`] where the signal came first.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(Stopped),
            value = work => Ok(value),
        }
    }
}

/// A signal came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;
