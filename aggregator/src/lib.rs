//! Readings become panes: event time, watermarks and checkpoints, on DataFusion.
//!
//! What is decided and the loop that does it are `fleetscore-aggregator-core`, in `core/`. Here is what DataFusion computes
//! for it:
//!
//! | module | does |
//! | --- | --- |
//! | `plan_expr` | the user's row filter and value expression over a batch |
//! | `plan`, `grouping`, `split`, `udaf` | the checkpoint's query over what is pending |
//! | `memory` | what the allocator keeps of what is freed |

pub mod memory;

mod grouping;
mod plan;
mod plan_expr;
mod split;
mod udaf;

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod simulated_tests;
#[cfg(test)]
mod test_source;
#[cfg(test)]
mod test_store;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use fleetscore_aggregator_core::{Engine, Evaluated, Pending, SeriesNames};
use fleetscore_schemas::reading::{ReadingBatch, ReadingColumns};
use fleetscore_schemas::stream::ReadingSource;
use fleetscore_store::{DeadLetterRow, Store};
use plan::Plans;
use plan_expr::RowExpressions;
use std::sync::Arc;

pub use fleetscore_aggregator_core::{
    AggregatorError, Clock, Handle, ManualClock, OnOffsetGap, Options, PartitionSnapshot, ReplayReport,
    Service, Snapshot, SystemClock,
};

/// More cores than this do not make a checkpoint's query faster: its final step is one.
const MAX_CORES: usize = 4;

/// Expressions and aggregates by DataFusion.
#[derive(Debug)]
pub struct DataFusionEngine {
    expressions: RowExpressions,
    plans: Plans,
}

impl DataFusionEngine {
    /// Plans the row filter, the value expression and the checkpoint's query.
    ///
    /// # Errors
    /// [`AggregatorError::Setting`] naming `readings.where` or `readings.value`.
    pub fn new(options: &Options) -> Result<Self, AggregatorError> {
        let expressions = RowExpressions::plan(&options.panes.filter, &options.panes.value)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_CORES);
        Ok(Self { expressions, plans: Plans::new(options.panes.grid(), cores)? })
    }
}

#[async_trait]
impl Engine for DataFusionEngine {
    fn evaluate(
        &self,
        readings: &ReadingColumns,
        names: &SeriesNames,
    ) -> Result<Option<Evaluated>, AggregatorError> {
        if self.expressions.is_identity() {
            return Ok(None);
        }
        self.expressions.evaluate(&readings.series, &readings.ts, &readings.value, names).map(Some)
    }

    async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError> {
        self.plans.deltas(pending).await
    }

    fn fixed_bytes(&self) -> usize {
        plan::FIXED_BYTES
    }

    async fn compact(&self, pending: Pending) -> Result<Pending, AggregatorError> {
        self.plans.compact(pending).await
    }
}

/// An aggregator on DataFusion, ready to run. The store must be migrated.
///
/// # Errors
/// [`AggregatorError::Setting`] naming the setting; `readings.where` and `readings.value` for the expressions.
pub fn service(
    options: Options,
    store: Arc<dyn Store>,
    source: Box<dyn ReadingSource>,
    clock: Arc<dyn Clock>,
) -> Result<(Service, Handle), AggregatorError> {
    let engine = Arc::new(DataFusionEngine::new(&options)?);
    Service::new(options, store, source, clock, engine)
}

/// Replays dead letters through DataFusion's expressions: see [`fleetscore_aggregator_core::replay_dead_letters`].
///
/// # Errors
/// As there.
pub async fn replay_dead_letters(
    options: &Options,
    store: &dyn Store,
    clock: &dyn Clock,
    letters: &[DeadLetterRow],
    batch: ReadingBatch,
) -> Result<ReplayReport, AggregatorError> {
    let engine = DataFusionEngine::new(options)?;
    fleetscore_aggregator_core::replay_dead_letters(options, store, clock, &engine, letters, batch).await
}
