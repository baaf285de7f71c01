//! States and causes of runs, and statuses of predictions: closed sets whose names are stored and documented.

use serde::{Deserialize, Serialize};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All of them, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownName;
            fn from_str(s: &str) -> Result<Self, UnknownName> {
                match s {
                    $($text => Ok(Self::$variant),)+
                    other => Err(UnknownName { name: other.to_owned(), known: &[$($text),+] }),
                }
            }
        }
    };
}

/// A stored name that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is none of {}", known.join(", "))]
pub struct UnknownName {
    name: String,
    known: &'static [&'static str],
}

named! {
    /// What became of one model in one interval.
    PredictionStatus {
        /// The decision function gave a number.
        Scored = "scored",
        /// The series has a model and sent nothing in this interval.
        NoData = "no_data",
        /// The series sent data and has no model.
        NoModel = "no_model",
        /// The model was refused at import or gave no finite number.
        ModelError = "model_error",
        /// A feature of the window is NULL or not finite (say the stddev of one reading).
        InputInvalid = "input_invalid",
    }
}

named! {
    /// Where a run stands.
    RunState {
        /// Opened, but something must come first (no active model set).
        Waiting = "waiting",
        /// Ready to be claimed, or being scored.
        Running = "running",
        /// Every expected row is stored.
        Succeeded = "succeeded",
        /// Stored, with failed models within the threshold.
        Partial = "partial",
        /// The failures passed a threshold, or no shard was stored.
        Failed = "failed",
        /// A person stopped it.
        Cancelled = "cancelled",
        /// Never scored, on purpose: the row says why and for which range.
        Skipped = "skipped",
    }
}

impl RunState {
    /// Whether nothing more will happen to a run in this state.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

named! {
    /// Why a run was opened.
    RunCause {
        /// Its interval became ready.
        Schedule = "schedule",
        /// Its interval was ready before the schedule looked.
        CatchUp = "catch_up",
        /// A person or a job asked.
        Manual = "manual",
        /// Late readings made its predictions stale.
        Rescore = "rescore",
        /// Nothing was sent in this range.
        Gap = "gap",
        /// A person asked for what another run left undone.
        Retry = "retry",
        /// The schedule stood still while this range became ready.
        Paused = "paused",
    }
}

named! {
    /// Which series of an interval a run scores.
    RunScope {
        /// All of them.
        All = "all",
        /// Those whose window has changed since they were scored.
        Stale = "stale",
        /// Those whose model failed.
        Failed = "failed",
    }
}

named! {
    /// Where one shard of a run stands.
    TaskState {
        /// Its run waits.
        Waiting = "waiting",
        /// To be claimed, or leased.
        Open = "open",
        /// Its predictions are stored.
        Done = "done",
        /// Its retries ran out.
        Failed = "failed",
        /// Its run was cancelled, or skipped, before it was done.
        Cancelled = "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for s in PredictionStatus::ALL {
            assert_eq!(s.as_str().parse::<PredictionStatus>().unwrap(), *s);
        }
        for s in RunState::ALL {
            assert_eq!(s.as_str().parse::<RunState>().unwrap(), *s);
        }
        for s in RunCause::ALL {
            assert_eq!(s.as_str().parse::<RunCause>().unwrap(), *s);
        }
        for s in RunScope::ALL {
            assert_eq!(s.as_str().parse::<RunScope>().unwrap(), *s);
        }
        for s in TaskState::ALL {
            assert_eq!(s.as_str().parse::<TaskState>().unwrap(), *s);
        }
        assert!("done".parse::<RunState>().is_err());
    }
}
