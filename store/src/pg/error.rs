//! From PostgreSQL's errors to ours.

use crate::StoreError;
use deadpool_postgres::PoolError;
use std::error::Error as _;
use std::io;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// An error with the whole chain of its causes.
pub(super) fn words(e: &Error) -> String {
    if let Some(db) = e.as_db_error() {
        let detail = db.detail().map(|d| format!(" ({d})")).unwrap_or_default();
        return format!("{}{detail} [SQLSTATE {}]", db.message(), db.code().code());
    }
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl From<Error> for StoreError {
    fn from(e: Error) -> Self {
        let message = words(&e);
        match e.code() {
            Some(code) => of_state(code, message),
            // No word from the server: the connection broke, or never came to be.
            None if e.is_closed() || find::<io::Error>(&e).is_some() => Self::Unavailable { message },
            None => Self::Internal { message },
        }
    }
}

impl From<PoolError> for StoreError {
    fn from(e: PoolError) -> Self {
        match e {
            // The first connection worked, so this is the server's trouble or a person's at the server: it is waited
            // out, whatever it is.
            PoolError::Backend(e) => Self::Unavailable { message: words(&e) },
            PoolError::Timeout(_) => {
                Self::Unavailable { message: "no connection of the pool became free in time".into() }
            }
            e => Self::internal(e),
        }
    }
}

fn of_state(code: &SqlState, message: String) -> StoreError {
    let class = &code.code()[..2];
    match code.code() {
        // Serialisation failure, deadlock, lock timeout, object in use.
        "40001" | "40P01" | "55P03" | "55006" => StoreError::Contended { message },
        // Cancelled by a timeout, idle in transaction for too long, a standby that was asked to write.
        "57014" | "25P03" | "25006" => StoreError::Unavailable { message },
        "42501" => StoreError::Setting {
            setting: "store".into(),
            message: format!("{message}: grant the role what it needs (CREATE and USAGE on the schema)"),
        },
        _ if matches!(class, "08" | "53" | "58") || code.code().starts_with("57P0") => {
            StoreError::Unavailable { message }
        }
        _ => StoreError::Internal { message },
    }
}

/// What a refused or failed first connection means.
pub(super) fn at_start(e: &Error, server: &str) -> StoreError {
    let message = format!("{server}: {}", words(e));
    let setting = |message: String| StoreError::Setting { setting: "store".into(), message };
    if let Some(code) = e.code() {
        return match code.code() {
            "28P01" | "28000" => {
                setting(format!("{message}: check user, password and the server's pg_hba.conf"))
            }
            "3D000" => setting(format!("{message}: create the database or name another one")),
            "42501" => setting(message),
            "22023" | "42704" => setting(format!("{message}: check `options` in the URL")),
            // Anything else the server says before a session exists is its own state: starting up, too many clients.
            _ => match of_state(code, message) {
                StoreError::Internal { message } => StoreError::Unavailable { message },
                other => other,
            },
        };
    }
    if let Some(tls) = find_tls(e) {
        return match tls {
            rustls::Error::InvalidCertificate(_) => setting(format!(
                "{message}: check `sslmode` and `sslrootcert` in the URL, and the server's certificate"
            )),
            rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_) => {
                setting(format!("{message}: the server refuses this kind of TLS"))
            }
            _ => StoreError::Unavailable { message },
        };
    }
    let text = e.to_string();
    if text.contains("does not support TLS") || words(e).contains("does not support TLS") {
        return setting(format!("{message}: the server has no TLS (ssl = off); use another `sslmode`"));
    }
    if text.starts_with("invalid configuration") || text.starts_with("authentication error") {
        return setting(format!("{message}: the password may be in the URL or in PGPASSWORD"));
    }
    StoreError::Unavailable { message }
}

/// The first cause of this type.
fn find<T: std::error::Error + 'static>(e: &Error) -> Option<&T> {
    let mut source = e.source();
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref::<T>() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

fn find_tls(e: &Error) -> Option<&rustls::Error> {
    // tokio-rustls wraps rustls' errors into io errors, whose `source` passes over the wrapped error itself.
    find::<rustls::Error>(e).or_else(|| find::<io::Error>(e)?.get_ref()?.downcast_ref())
}

/// The SQLSTATE is this one.
pub(super) fn is_state(e: &Error, state: &SqlState) -> bool {
    e.code() == Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::codes::{Classify, Domain};

    #[test]
    fn states_have_their_class() {
        for (code, domain, transient) in [
            ("40001", Domain::External, true),
            ("40P01", Domain::External, true),
            ("55P03", Domain::External, true),
            ("08006", Domain::External, true),
            ("57P01", Domain::External, true),
            ("57P03", Domain::External, true),
            ("53300", Domain::External, true),
            ("53100", Domain::External, true),
            ("22003", Domain::Internal, false),
            ("23505", Domain::Internal, false),
            ("54000", Domain::Internal, false),
            ("42601", Domain::Internal, false),
            ("42501", Domain::User, false),
        ] {
            let e = of_state(&SqlState::from_code(code), code.to_owned());
            assert_eq!((e.domain(), e.is_transient()), (domain, transient), "{code}");
        }
    }
}
