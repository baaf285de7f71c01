//! How the program ends: one place decides the status.

use crate::signals::Stopped;
use fleetscore_schemas::codes::{Classify, Domain};
use std::io::Write;
use std::process::ExitCode;

/// A command that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// All of it: 0. Also a service told to stop by SIGTERM.
    All,
    /// Some failed within the thresholds, or were skipped: 3.
    Partly,
    /// Stopped by SIGINT, cleanly: 130.
    Interrupted,
}

/// A command that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fail {
    /// Wrong use, configuration or rights: 2.
    User(String),
    /// The work failed, or the shutdown passed its timeout: 1.
    Work(String),
    /// A signal came first: 130 after SIGINT; after SIGTERM 0 for a service, 1 for other work.
    Stopped,
}

impl Fail {
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::User(message.into())
    }

    pub(crate) fn work(message: impl Into<String>) -> Self {
        Self::Work(message.into())
    }
}

impl std::fmt::Display for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(m) | Self::Work(m) => f.write_str(m),
            Self::Stopped => f.write_str("stopped by a signal"),
        }
    }
}

impl From<Stopped> for Fail {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl<E: Classify + std::fmt::Display> From<E> for Fail {
    fn from(e: E) -> Self {
        match e.domain() {
            Domain::User => Self::User(e.to_string()),
            Domain::External => Self::Work(e.to_string()),
            Domain::Internal => Self::Work(format!("{e} (this is a fault of fleetscore: please report it)")),
        }
    }
}

/// What a command returns.
pub(crate) type Outcome = Result<Done, Fail>;

/// The status of an outcome.
pub(crate) fn status(outcome: &Outcome) -> u8 {
    match outcome {
        Ok(Done::All) => 0,
        Err(Fail::Work(_)) => 1,
        Err(Fail::User(_)) => 2,
        Ok(Done::Partly) => 3,
        Ok(Done::Interrupted) | Err(Fail::Stopped) => 130,
    }
}

/// Prints what failed and gives the status.
pub(crate) fn report(outcome: &Outcome) -> ExitCode {
    if let Err(fail) = outcome {
        // Where nobody reads it any more, the status still says so.
        let _ = writeln!(std::io::stderr(), "error: {fail}");
    }
    ExitCode::from(status(outcome))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_store::StoreError;

    #[test]
    fn every_ending_has_its_status() {
        let setting = StoreError::Setting { setting: "store".into(), message: "wrong password".into() };
        let away = StoreError::Unavailable { message: "connection refused".into() };
        for (outcome, expected) in [
            (Ok(Done::All), 0),
            (Err(Fail::work("x")), 1),
            (Err(Fail::from(away)), 1),
            (Err(Fail::from(StoreError::internal("x"))), 1),
            (Err(Fail::user("x")), 2),
            (Err(Fail::from(setting)), 2),
            (Ok(Done::Partly), 3),
            (Ok(Done::Interrupted), 130),
        ] {
            assert_eq!(status(&outcome), expected, "{outcome:?}");
        }
    }
}
