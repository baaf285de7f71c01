//! From a URL to a store.

use crate::{MemoryStore, PgStore, Result, SqliteStore, Store, StoreError};
use std::sync::Arc;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Connections in the pool (PostgreSQL); at least four are made room for.
    pub connections: usize,
    /// Name shown to the server.
    pub application: String,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { connections: 8, application: "fleetscore".to_owned() }
    }
}

/// Opens `postgres://…`, `sqlite:PATH` or `memory:`; nothing is created but the SQLite file's folder. A server is asked
/// once: whoever wants to wait for one calls again after a transient error.
///
/// # Errors
/// [`StoreError::Setting`] naming `store` where the URL is wrong; [`StoreError::Unavailable`] where a server does not
/// answer.
pub async fn open(url: &str, options: &StoreOptions) -> Result<Arc<dyn Store>> {
    let wrong = |message: &str| StoreError::Setting { setting: "store".into(), message: message.into() };
    match url.split_once(':') {
        Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
            Ok(Arc::new(PgStore::connect(url, options).await?))
        }
        Some(("sqlite", path)) => {
            // `sqlite:///abs` and `sqlite://rel` are common spellings of `sqlite:/abs` and `sqlite:rel`.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(wrong("`sqlite:` needs the path of a file, as in sqlite:./fleetscore.db"));
            }
            // Opening makes a folder and a file, and waits for locks.
            let path = std::path::PathBuf::from(path);
            let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&path)).await;
            Ok(Arc::new(opened.map_err(StoreError::internal)??))
        }
        Some(("memory", "")) => Ok(Arc::new(MemoryStore::new())),
        // The URL is not repeated: it may hold a password.
        _ => Err(wrong("is not of the form postgres://user@host/database, sqlite:PATH or memory:")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::codes::Classify;

    #[tokio::test]
    async fn a_url_decides() {
        let options = StoreOptions::default();
        for url in ["", "mysql://u:secret@h/db", "postgres:db", "sqlite:", "memory:x"] {
            let e = open(url, &options).await.err().unwrap();
            assert!(matches!(&e, StoreError::Setting { setting, .. } if setting == "store"), "{url}: {e}");
            assert!(!e.to_string().contains("secret"));
        }
        assert!(open("memory:", &options).await.is_ok());
        // Nobody listens on port 1.
        let e = open("postgres://u@127.0.0.1:1/db", &options).await.err().unwrap();
        assert!(e.is_transient(), "{e}");
    }
}
