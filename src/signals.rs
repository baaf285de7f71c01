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
                        mine.end("SIGINT: ending cleanly; once more to end at once");
                    }
                    _ = term.recv() => mine.end("SIGTERM: ending cleanly"),
                }
            }
        });
        Ok(this)
    }

    /// Ends first and talks after: a log that breaks must not keep a process alive.
    fn end(&self, words: &str) {
        if !self.token.is_cancelled() {
            self.token.cancel();
            tracing::info!("{words}");
        }
    }

    /// One that no signal reaches.
    #[cfg(test)]
    pub(crate) fn deaf() -> Self {
        Self { token: CancellationToken::new(), interrupted: Arc::default() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::{self, LogFormat};
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    const CHILD: &str = "TEST_OF_SIGNALS_IS_THE_CHILD";

    /// The test starts itself again as a process whose standard error nobody reads.
    #[test]
    fn a_signal_ends_a_process_whose_log_nobody_reads() {
        if std::env::var_os(CHILD).is_some() {
            return ends_at_its_own_signal();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "signals::tests::a_signal_ends_a_process_whose_log_nobody_reads",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stderr.take());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    fn ends_at_its_own_signal() {
        // The end of input says that the reader of the log is gone.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        logging::start(LogFormat::Text, "info");
        let ended = tokio::runtime::Runtime::new().unwrap().block_on(async {
            let shutdown = Shutdown::listen().unwrap();
            let me = std::process::id().to_string();
            assert!(Command::new("kill").args(["-TERM", &me]).status().unwrap().success());
            tokio::time::timeout(Duration::from_secs(10), shutdown.token().cancelled()).await
        });
        tracing::info!("nobody reads this");
        let _ = crate::exit::report(&Err(Fail::work("nor this")));
        assert!(ended.is_ok(), "SIGTERM did not end it");
    }
}
