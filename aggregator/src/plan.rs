//! What has passed since the last checkpoint is a table of DataFusion; a checkpoint is one query over it.
//!
//! ```text
//! rows (key, ts, value), split by ranges of series ──► AggregateExec, part by part on every core ─┐
//!                                                                                                 ├─► deltas
//! partial states of earlier rows, in the same parts ──► AggregateExec over both ──────────────────┘
//! ```
//!
//! The pane of a row is not `date_bin` in the plan: computed beside the decoder's columns and packed with the series
//! into one `u64` key, grouping is three to five times faster than with `date_bin` and two columns, which took 50–70 %
//! of the query. The physical plans are made once and kept: planning the query from SQL text costs thirty times a run
//! over a thousand rows. Parts share no key, so each is grouped once and for all, and nothing is merged behind it.

use crate::split::{PARTS, shift_for, split};
use crate::udaf::PartialOf;
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion_common::{DataFusionError, Result as DfResult};
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_expr::AggregateUDF;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::col;
use datafusion_physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion_physical_plan::memory::MemoryStream;
use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion_physical_plan::{ExecutionPlan, execution_plan::reset_plan_states};
use fleetscore_aggregator_core::{AggregatorError, Pending, States};
use fleetscore_schemas::time::PaneGrid;
use fleetscore_state::accumulate::{Sorted, deltas_of};
use fleetscore_state::state_type;
use futures::TryStreamExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Fewer rows are not worth being split.
const SPLIT_ROWS: usize = 1 << 16;

/// The kept plans.
#[derive(Debug)]
pub(crate) struct Plans {
    grid: PaneGrid,
    /// Few rows to states, in one part.
    few: Query,
    /// Rows to states, part by part.
    rows: Query,
    /// States to states.
    states: Query,
}

impl Plans {
    pub(crate) fn new(grid: PaneGrid, cores: usize) -> Result<Self, AggregatorError> {
        let query = |mode, input: &SchemaRef, parts| {
            Query::new(mode, input, parts, cores.max(1)).map_err(AggregatorError::internal)
        };
        let states: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("key", DataType::UInt64, false),
            Field::new("partial[state]", state_type(), false),
        ]));
        Ok(Self {
            grid,
            few: query(AggregateMode::SinglePartitioned, &Pending::schema(), 1)?,
            rows: query(AggregateMode::SinglePartitioned, &Pending::schema(), PARTS)?,
            states: query(AggregateMode::FinalPartitioned, &states, PARTS)?,
        })
    }

    /// The deltas of what is pending: columns of [`fleetscore_schemas::delta::schema`], sorted by (pane, series).
    pub(crate) async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError> {
        let (rows, states) = pending.into_batches();
        let few =
            states.parts.is_empty() && rows.iter().map(RecordBatch::num_rows).sum::<usize>() < SPLIT_ROWS;
        let parts = match few {
            true => self.few.run(vec![rows], sorted).await?,
            false => self.grouped(rows, states, sorted).await?.0,
        };
        let grid = self.grid;
        on_its_own(move || deltas_of(&parts, grid).map_err(AggregatorError::internal)).await
    }

    /// Puts partial states in the place of readings.
    pub(crate) async fn compact(&self, pending: Pending) -> Result<Pending, AggregatorError> {
        let (rows, states) = pending.into_batches();
        let (parts, shift) = self.grouped(rows, states, Ok).await?;
        Ok(Pending::of_states(States { parts, shift }))
    }

    /// All of it in parts, each through `finish` on the thread that has grouped it; and the shift of the parts.
    async fn grouped<T: Send + 'static>(
        &self,
        rows: Vec<RecordBatch>,
        states: States,
        finish: fn(Vec<RecordBatch>) -> Result<T, AggregatorError>,
    ) -> Result<(Vec<T>, u32), AggregatorError> {
        let earlier = !states.parts.is_empty();
        let split = on_its_own(move || {
            let shift = if earlier { states.shift } else { shift_for(&rows) };
            let parts = split(rows, shift).map_err(AggregatorError::internal)?;
            Ok((parts, states.parts, shift))
        });
        let (rows, states, shift) = split.await?;
        if !earlier {
            return Ok((self.rows.run(rows, finish).await?, shift));
        }
        let fresh = self.rows.run(rows, Ok).await?;
        let both = states.into_iter().zip(fresh).map(|(old, new)| [old, new].concat()).collect();
        Ok((self.states.run(both, finish).await?, shift))
    }
}

fn sorted(groups: Vec<RecordBatch>) -> Result<Sorted, AggregatorError> {
    let mut keys: Vec<u64> = Vec::with_capacity(groups.iter().map(RecordBatch::num_rows).sum());
    groups
        .iter()
        .for_each(|batch| keys.extend_from_slice(batch.column(0).as_primitive::<UInt64Type>().values()));
    let states: Vec<ArrayRef> = groups.iter().map(|batch| batch.column(1).clone()).collect();
    Sorted::of(&keys, &states).map_err(AggregatorError::internal)
}

/// Computes off the async workers: for up to seconds, and heartbeats and events must go on.
async fn on_its_own<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AggregatorError> + Send + 'static,
) -> Result<T, AggregatorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(AggregatorError::internal(format!("the query over pending readings panicked: {e}"))),
    }
}

/// A physical plan over a table that is filled anew for every run: one partition for each part.
#[derive(Debug)]
struct Query {
    cells: Vec<Arc<Cell>>,
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    cores: usize,
    /// One run at a time: the cells are the plan's.
    running: Arc<tokio::sync::Mutex<()>>,
}

impl Query {
    fn new(mode: AggregateMode, input: &SchemaRef, parts: usize, cores: usize) -> DfResult<Self> {
        let cells: Vec<Arc<Cell>> = (0..parts).map(|_| Cell::new(input.clone())).collect();
        let partitions = cells.iter().map(|c| Arc::clone(c) as Arc<dyn PartitionStream>).collect();
        let table = Arc::new(StreamingTableExec::try_new(input.clone(), partitions, None, [], false, None)?);
        let udaf = Arc::new(AggregateUDF::new_from_impl(PartialOf::new()));
        let rows = Pending::schema();
        let aggregate = AggregateExprBuilder::new(udaf, vec![col("ts", &rows)?, col("value", &rows)?])
            .schema(rows.clone())
            .alias("partial")
            .build()?;
        let key = PhysicalGroupBy::new_single(vec![(col("key", input)?, "key".to_owned())]);
        let aggregates = vec![Arc::new(aggregate)];
        let plan = Arc::new(AggregateExec::try_new(mode, key, aggregates, vec![None], table, rows)?);
        Ok(Self { cells, plan, context: Arc::default(), cores: cores.min(parts), running: Arc::default() })
    }

    /// Groups the batches of each part, and puts each part's groups through `finish`; every core takes part after part.
    async fn run<T: Send + 'static>(
        &self,
        parts: Vec<Vec<RecordBatch>>,
        finish: fn(Vec<RecordBatch>) -> Result<T, AggregatorError>,
    ) -> Result<Vec<T>, AggregatorError> {
        let one_at_a_time = Arc::new(Arc::clone(&self.running).lock_owned().await);
        // A run that failed may have left something behind.
        self.cells.iter().for_each(|cell| cell.lock().clear());
        for (cell, batches) in self.cells.iter().zip(parts) {
            for batch in batches {
                // The names of states are the plan's own.
                let batch = RecordBatch::try_new(cell.schema.clone(), batch.columns().to_vec());
                cell.put(batch.map_err(AggregatorError::internal)?);
            }
        }
        let plan = reset_plan_states(Arc::clone(&self.plan)).map_err(AggregatorError::internal)?;
        let next = Arc::new(AtomicUsize::new(0));
        let work = || {
            let (plan, context, next) = (Arc::clone(&plan), Arc::clone(&self.context), Arc::clone(&next));
            // Held to the end of the query even if nobody waits for it any more: the cells are its own so long.
            let (held, total, runtime) =
                (Arc::clone(&one_at_a_time), self.cells.len(), tokio::runtime::Handle::current());
            on_its_own(move || {
                let _held = held;
                let mut done = Vec::new();
                loop {
                    let part = next.fetch_add(1, Ordering::Relaxed);
                    if part >= total {
                        return Ok(done);
                    }
                    let groups = plan
                        .execute(part, Arc::clone(&context))
                        .and_then(|stream| runtime.block_on(stream.try_collect()))
                        .map_err(|e| {
                            AggregatorError::internal(format!("the query over pending readings failed: {e}"))
                        })?;
                    done.push((part, finish(groups)?));
                }
            })
        };
        let all = futures::future::try_join_all((0..self.cores).map(|_| work())).await?;
        let mut all: Vec<(usize, T)> = all.into_iter().flatten().collect();
        all.sort_unstable_by_key(|(part, _)| *part);
        Ok(all.into_iter().map(|(_, done)| done).collect())
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
