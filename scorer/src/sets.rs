//! Model sets in memory, loaded once for each version.

use crate::error::Result;
use crate::models::ModelSet;
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Loads a set by its version.
pub(crate) type Loader = Arc<dyn Fn(i64) -> BoxFuture<'static, Result<ModelSet>> + Send + Sync>;

/// How many sets stay in memory beside those that series are pinned to: the active one, the one before it, and one that a
/// person asked for.
const KEPT: usize = 3;

/// The sets in memory, most recently used last.
pub(crate) struct Sets {
    loader: Loader,
    kept: Mutex<VecDeque<Arc<ModelSet>>>,
}

impl Sets {
    pub(crate) fn new(loader: Loader) -> Self {
        Self { loader, kept: Mutex::new(VecDeque::new()) }
    }

    /// A run's own set and those that series are pinned to, in the order of these versions, which differ from each other;
    /// and whether any was loaded. Tasks that need the same one wait for one load.
    pub(crate) async fn get(&self, versions: &[i64]) -> Result<(Vec<Arc<ModelSet>>, bool)> {
        let mut kept = self.kept.lock().await;
        let mut loaded = false;
        let mut all = Vec::with_capacity(versions.len());
        for version in versions {
            let at = kept.iter().position(|set| set.version == *version);
            let set = match at.and_then(|at| kept.remove(at)) {
                Some(set) => set,
                None => {
                    let set = Arc::new((self.loader)(*version).await?);
                    loaded = true;
                    tracing::info!(version, entries = set.len(), bytes = set.memory(), "loaded a model set");
                    set
                }
            };
            kept.push_back(set.clone());
            all.push(set);
        }
        let keep = KEPT + versions.len().saturating_sub(1);
        while kept.len() > keep {
            kept.pop_front();
        }
        Ok((all, loaded))
    }
}
