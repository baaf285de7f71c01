//! What has passed since the last checkpoint is a table of DataFusion; a checkpoint is one query over it.
//!
//! ```text
//! rows (key, ts, value) ──► AggregateExec Partial, one per core ─┐
//!                                                                ├─ union ─► AggregateExec Final ──► deltas
//! partial states of earlier rows ────────────────────────────────┘           (PartialReduce: states again)
//! ```
//!
//! The pane of a row is not `date_bin` in the plan: computed beside the decoder's columns and packed with the series
//! into one `u64` key, grouping is three to five times faster than with `date_bin` and two columns, which took 50–70 %
//! of the query. The physical plans are made once and kept: planning the query from SQL text costs thirty times a run
//! over a thousand rows.

use crate::udaf::PartialOf;
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion_common::{DataFusionError, Result as DfResult};
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_expr::AggregateUDF;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::col;
use datafusion_physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion_physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion_physical_plan::memory::MemoryStream;
use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion_physical_plan::union::UnionExec;
use datafusion_physical_plan::{ExecutionPlan, collect, execution_plan::reset_plan_states};
use fleetscore_aggregator_core::{AggregatorError, Pending};
use fleetscore_schemas::time::PaneGrid;
use fleetscore_state::accumulate::deltas_of;
use std::sync::{Arc, Mutex};

/// The two kept plans.
#[derive(Debug)]
pub(crate) struct Plans {
    grid: PaneGrid,
    checkpoint: Query,
    compact: Query,
}

impl Plans {
    pub(crate) fn new(grid: PaneGrid, cores: usize) -> Result<Self, AggregatorError> {
        let query = |mode| Query::new(mode, cores.max(1)).map_err(AggregatorError::internal);
        Ok(Self {
            grid,
            checkpoint: query(AggregateMode::Final)?,
            compact: query(AggregateMode::PartialReduce)?,
        })
    }

    /// The deltas of what is pending: columns of [`fleetscore_schemas::delta::schema`], sorted by (pane, series).
    pub(crate) async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError> {
        let batches = self.checkpoint.run(pending).await?;
        let mut keys: Vec<u64> = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
        let mut states: Vec<ArrayRef> = Vec::with_capacity(batches.len());
        for batch in &batches {
            keys.extend_from_slice(batch.column(0).as_primitive::<UInt64Type>().values());
            states.push(batch.column(1).clone());
        }
        deltas_of(&keys, &states, self.grid).map_err(AggregatorError::internal)
    }

    /// Puts partial states in the place of readings.
    pub(crate) async fn compact(&self, pending: Pending) -> Result<Pending, AggregatorError> {
        Ok(Pending::of_states(self.compact.run(pending).await?))
    }
}

/// A physical plan over a table that is filled anew for every run.
#[derive(Debug)]
struct Query {
    rows: Vec<Arc<Cell>>,
    states: Arc<Cell>,
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    /// One run at a time: the cells are the plan's.
    running: Arc<tokio::sync::Mutex<()>>,
}

impl Query {
    fn new(mode: AggregateMode, cores: usize) -> DfResult<Self> {
        let table = |cells: &[Arc<Cell>], schema: &SchemaRef| -> DfResult<Arc<dyn ExecutionPlan>> {
            let partitions = cells.iter().map(|c| Arc::clone(c) as Arc<dyn PartitionStream>).collect();
            Ok(Arc::new(StreamingTableExec::try_new(schema.clone(), partitions, None, [], false, None)?))
        };
        let schema = Pending::schema();
        let rows: Vec<Arc<Cell>> = (0..cores).map(|_| Cell::new(schema.clone())).collect();
        let udaf = Arc::new(AggregateUDF::new_from_impl(PartialOf::new()));
        let aggregate = Arc::new(
            AggregateExprBuilder::new(udaf, vec![col("ts", &schema)?, col("value", &schema)?])
                .schema(schema.clone())
                .alias("partial")
                .build()?,
        );
        let step = |mode, input: Arc<dyn ExecutionPlan>| -> DfResult<Arc<dyn ExecutionPlan>> {
            let key = PhysicalGroupBy::new_single(vec![(col("key", &input.schema())?, "key".to_owned())]);
            let aggregates = vec![Arc::clone(&aggregate)];
            Ok(Arc::new(AggregateExec::try_new(mode, key, aggregates, vec![None], input, schema.clone())?))
        };
        let partial = step(AggregateMode::Partial, table(&rows, &schema)?)?;
        let states = Cell::new(partial.schema());
        let earlier = table(&[Arc::clone(&states)], &partial.schema())?;
        let all = UnionExec::try_new(vec![partial, earlier])?;
        let plan = step(mode, Arc::new(CoalescePartitionsExec::new(all)))?;
        Ok(Self { rows, states, plan, context: Arc::default(), running: Arc::default() })
    }

    async fn run(&self, pending: Pending) -> Result<Vec<RecordBatch>, AggregatorError> {
        let one_at_a_time = Arc::clone(&self.running).lock_owned().await;
        let (rows, states) = pending.into_batches();
        // A run that failed may have left something behind.
        self.rows.iter().chain([&self.states]).for_each(|cell| cell.lock().clear());
        for (i, batch) in rows.into_iter().enumerate() {
            self.rows[i % self.rows.len()].put(batch);
        }
        for batch in states {
            // Output of a query is one large batch or several; the states' names are the plan's own.
            let batch = RecordBatch::try_new(self.states.schema.clone(), batch.columns().to_vec())
                .map_err(AggregatorError::internal)?;
            self.states.put(batch);
        }
        let plan = reset_plan_states(Arc::clone(&self.plan)).map_err(AggregatorError::internal)?;
        let context = Arc::clone(&self.context);
        // Off the async workers: a query computes for up to seconds, and heartbeats and events must go on.
        let runtime = tokio::runtime::Handle::current();
        let run = move || {
            // Held to the end of the query even if nobody waits for it any more: the cells are its own so long.
            let _one_at_a_time = one_at_a_time;
            runtime.block_on(collect(plan, context))
        };
        let result = tokio::task::spawn_blocking(run).await;
        match result {
            Ok(Ok(batches)) => Ok(batches),
            Ok(Err(e)) => {
                Err(AggregatorError::internal(format!("the query over pending readings failed: {e}")))
            }
            Err(e) => {
                Err(AggregatorError::internal(format!("the query over pending readings panicked: {e}")))
            }
        }
    }
}

/// One partition of the table: filled before a run, emptied by it.
#[derive(Debug)]
struct Cell {
    schema: SchemaRef,
    batches: Mutex<Vec<RecordBatch>>,
}

impl Cell {
    fn new(schema: SchemaRef) -> Arc<Self> {
        Arc::new(Self { schema, batches: Mutex::default() })
    }

    fn put(&self, batch: RecordBatch) {
        self.lock().push(batch);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<RecordBatch>> {
        // Pushes and takes leave the vector whole whatever happens around them.
        self.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl PartitionStream for Cell {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = std::mem::take(&mut *self.lock());
        match MemoryStream::try_new(batches, Arc::clone(&self.schema), None) {
            Ok(stream) => Box::pin(stream),
            Err(e) => Box::pin(failed(Arc::clone(&self.schema), e)),
        }
    }
}

fn failed(
    schema: SchemaRef,
    error: DataFusionError,
) -> datafusion_physical_plan::stream::RecordBatchStreamAdapter<
    futures::stream::Once<futures::future::Ready<DfResult<RecordBatch>>>,
> {
    let once = futures::stream::once(futures::future::ready(Err(error)));
    datafusion_physical_plan::stream::RecordBatchStreamAdapter::new(schema, once)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
