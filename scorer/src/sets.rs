//! Model sets laid out for scoring, loaded once for each version.

use crate::error::Result;
use crate::models::ModelSet;
use crate::plan::ScoringTable;
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Loads a set by its version.
pub(crate) type Loader = Arc<dyn Fn(i64) -> BoxFuture<'static, Result<ModelSet>> + Send + Sync>;

/// How many sets stay in memory: the active one, the one before it, and one that a person asked for.
const KEPT: usize = 3;

/// The sets in memory, most recently used last.
pub(crate) struct Sets {
    loader: Loader,
    kept: Mutex<VecDeque<Arc<ScoringTable>>>,
}

impl Sets {
    pub(crate) fn new(loader: Loader) -> Self {
        Self { loader, kept: Mutex::new(VecDeque::new()) }
    }

    /// The table of a set. Tasks that need the same one wait for one load.
    pub(crate) async fn get(&self, version: i64) -> Result<Arc<ScoringTable>> {
        let mut kept = self.kept.lock().await;
        if let Some(at) = kept.iter().position(|t| t.version() == version)
            && let Some(table) = kept.remove(at)
        {
            kept.push_back(table.clone());
            return Ok(table);
        }
        let set = (self.loader)(version).await?;
        tracing::info!(version, entries = set.len(), bytes = set.memory(), "loaded a model set");
        let table = Arc::new(ScoringTable::new(Arc::new(set)));
        kept.push_back(table.clone());
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(table)
    }
}
