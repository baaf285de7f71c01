//! What is waited for while a service is away, and for how long it was: said once when it goes and once when it is back,
//! however many loops run into it.

use crate::error::ScorerError;
use crate::output::publish::PublishError;
use fleetscore_schemas::codes::Classify;
use fleetscore_store::StoreError;
use std::time::{Duration, Instant};

/// A service that may be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Sql,
    Blobs,
}

impl What {
    pub(crate) const ALL: [Self; 2] = [Self::Sql, Self::Blobs];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sql => "SQL",
            Self::Blobs => "blob storage",
        }
    }

    /// Which service an error says is away; `None` for any other fault, also such as a next try solves (two
    /// transactions that met).
    pub(crate) fn of(e: &ScorerError) -> Option<Self> {
        match e {
            ScorerError::Store(e) | ScorerError::Publish(PublishError::Store(e)) => {
                let met = matches!(e, StoreError::Contended { .. });
                (e.is_transient() && !met).then_some(Self::Sql)
            }
            ScorerError::Blob(e) | ScorerError::Publish(PublishError::Blob(e)) => {
                e.is_transient().then_some(Self::Blobs)
            }
            ScorerError::ModelSet { transient: true, .. } => Some(Self::Blobs),
            _ => None,
        }
    }
}

/// Since when each is away.
#[derive(Debug, Default)]
pub(crate) struct Outages([Option<Instant>; What::ALL.len()]);

impl Outages {
    fn since(&mut self, what: What) -> &mut Option<Instant> {
        let [sql, blobs] = &mut self.0;
        match what {
            What::Sql => sql,
            What::Blobs => blobs,
        }
    }

    /// It did not answer; true where it did before.
    pub(crate) fn gone(&mut self, what: What, now: Instant) -> bool {
        let since = self.since(what);
        let first = since.is_none();
        since.get_or_insert(now);
        first
    }

    /// It has answered what was asked at `asked`: for how long it was away, where it was. An answer to something that was
    /// asked before it went says nothing.
    pub(crate) fn back(&mut self, what: What, asked: Instant, now: Instant) -> Option<Duration> {
        let since = self.since(what);
        let away = since.filter(|since| *since <= asked)?;
        *since = None;
        Some(now.duration_since(away))
    }

    /// Whether nothing is away.
    pub(crate) fn none(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::BlobError;

    #[test]
    fn an_outage_is_said_once_and_once_when_it_is_over() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut o = Outages::default();
        assert_eq!(o.back(What::Sql, at(0), at(1)), None, "it was never away");
        assert!(o.gone(What::Sql, at(10)), "the first loop runs into it");
        assert!(!o.gone(What::Sql, at(11)) && !o.gone(What::Sql, at(12)), "the others too");
        assert!(o.gone(What::Blobs, at(12)), "another service is another matter");
        assert_eq!(o.back(What::Sql, at(9), at(13)), None, "asked before it went, answered late");
        assert_eq!(o.back(What::Sql, at(70), at(71)), Some(Duration::from_secs(61)));
        assert_eq!(o.back(What::Sql, at(70), at(71)), None, "said once");
        assert!(!o.none());
        assert_eq!(o.back(What::Blobs, at(20), at(20)), Some(Duration::from_secs(8)));
        assert!(o.none());
        assert!(o.gone(What::Sql, at(80)), "it goes again");
    }

    #[test]
    fn an_error_says_which_service_is_away() {
        let text = || "x".to_owned();
        let cases: [(&str, ScorerError, Option<What>); 8] = [
            ("SQL does not answer", StoreError::Unavailable { message: text() }.into(), Some(What::Sql)),
            ("two transactions met", StoreError::Contended { message: text() }.into(), None),
            ("a wrong password", StoreError::Setting { setting: text(), message: text() }.into(), None),
            ("blobs do not answer", BlobError::Unavailable { message: text() }.into(), Some(What::Blobs)),
            ("blobs refuse", BlobError::Setting { message: text() }.into(), None),
            (
                "blobs do not answer a publisher",
                PublishError::Blob(BlobError::Unavailable { message: text() }).into(),
                Some(What::Blobs),
            ),
            (
                "a set cannot be fetched just now",
                ScorerError::ModelSet { version: 1, message: text(), transient: true },
                Some(What::Blobs),
            ),
            (
                "a set is damaged",
                ScorerError::ModelSet { version: 1, message: text(), transient: false },
                None,
            ),
        ];
        for (name, e, what) in cases {
            assert_eq!(What::of(&e), what, "{name}");
        }
    }
}
