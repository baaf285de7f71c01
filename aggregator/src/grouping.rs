//! A query over pending readings that is under way: it takes in rows as they come, and gives its groups at the end.

use crate::udaf::PartialOf;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion_common::{DataFusionError, Result as DfResult, internal_err};
use datafusion_execution::config::SessionConfig;
use datafusion_execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion_execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion_execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_expr::AggregateUDF;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::col;
use datafusion_physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion_physical_plan::{ExecutionPlan, execution_plan::reset_plan_states};
use fleetscore_aggregator_core::{AggregatorError, Groups, Pending};
use fleetscore_state::accumulate::Sorted;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

/// Groups of a part come in one batch, however many there are.
const ONE_BATCH: usize = 1 << 30;

/// A physical plan over a table that is filled anew for every run: one partition for each part.
#[derive(Debug)]
pub(crate) struct Query {
    cells: Vec<Arc<Cell>>,
    plan: Arc<dyn ExecutionPlan>,
    config: SessionConfig,
    runtime: RuntimeEnv,
    /// One begins at a time: the cells are the plan's.
    beginning: Mutex<()>,
}

/// A run of the plan: an `AggregateExec` for each part, which holds the groups of the rows that it was given.
pub(crate) struct Grouping {
    /// By which rows are split, where there is more than one part.
    pub(crate) shift: u32,
    /// Without a key in common.
    pub(crate) parts: Vec<Part>,
    /// What DataFusion has reserved for these groups. Nothing is refused: the bound is kept by checkpoints.
    memory: Arc<dyn MemoryPool>,
}

/// One part of a run.
pub(crate) struct Part {
    rows: Sender<RecordBatch>,
    groups: SendableRecordBatchStream,
}

impl Query {
    pub(crate) fn new(parts: usize) -> DfResult<Self> {
        let rows = Pending::schema();
        let cells: Vec<Arc<Cell>> =
            (0..parts).map(|_| Arc::new(Cell { schema: rows.clone(), input: Mutex::default() })).collect();
        let partitions = cells.iter().map(|c| Arc::clone(c) as Arc<dyn PartitionStream>).collect();
        let table = Arc::new(StreamingTableExec::try_new(rows.clone(), partitions, None, [], false, None)?);
        let udaf = Arc::new(AggregateUDF::new_from_impl(PartialOf::new()));
        let aggregate = AggregateExprBuilder::new(udaf, vec![col("ts", &rows)?, col("value", &rows)?])
            .schema(rows.clone())
            .alias("partial")
            .build()?;
        let key = PhysicalGroupBy::new_single(vec![(col("key", &rows)?, "key".to_owned())]);
        let (mode, aggregates) = (AggregateMode::SinglePartitioned, vec![Arc::new(aggregate)]);
        let plan = Arc::new(AggregateExec::try_new(mode, key, aggregates, vec![None], table, rows)?);
        let config = SessionConfig::new().with_batch_size(ONE_BATCH);
        // What does not fit into memory is a checkpoint, never a file.
        let no_files = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime = RuntimeEnvBuilder::new().with_disk_manager_builder(no_files).build()?;
        Ok(Self { cells, plan, config, runtime, beginning: Mutex::default() })
    }

    /// Begins a run over nothing yet.
    pub(crate) fn begin(&self, shift: u32) -> DfResult<Grouping> {
        let _one_at_a_time = lock(&self.beginning);
        let memory: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let context = Arc::new(self.context(&memory));
        let plan = reset_plan_states(Arc::clone(&self.plan))?;
        let part = |(at, cell): (usize, &Arc<Cell>)| {
            let (rows, input) = mpsc::channel();
            *lock(&cell.input) = Some(input);
            Ok(Part { rows, groups: plan.execute(at, Arc::clone(&context))? })
        };
        let parts = self.cells.iter().enumerate().map(part).collect::<DfResult<_>>()?;
        Ok(Grouping { shift, parts, memory })
    }

    fn context(&self, memory: &Arc<dyn MemoryPool>) -> TaskContext {
        let runtime = RuntimeEnv { memory_pool: Arc::clone(memory), ..self.runtime.clone() };
        let (scalar, higher, aggregate, window) = Default::default();
        let (session, config) = ("checkpoint".to_owned(), self.config.clone());
        TaskContext::new(None, session, config, scalar, higher, aggregate, window, Arc::new(runtime))
    }
}

impl Groups for Grouping {
    fn bytes(&self) -> usize {
        self.memory.reserved()
    }
}

impl std::fmt::Debug for Grouping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grouping").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Part {
    /// Groups these rows too, on this thread.
    pub(crate) fn take_in(mut self, rows: Vec<RecordBatch>) -> Result<Self, AggregatorError> {
        self.send(rows)?;
        // Asked for groups, the plan takes in rows for as long as there are any: on threads for blocking work, where tokio does
        // not make it pause (else what is left is taken in next time).
        match self.groups.next().now_or_never() {
            None => Ok(self),
            Some(Some(Err(e))) => Err(failed(&e)),
            Some(_) => {
                Err(AggregatorError::internal("the query over pending readings ended before they did"))
            }
        }
    }

    /// Groups these rows too, on this thread, and sorts all groups.
    pub(crate) fn finish(self, rows: Vec<RecordBatch>) -> Result<Sorted, AggregatorError> {
        self.send(rows)?;
        let Self { rows, groups } = self;
        drop(rows);
        let schema = groups.schema();
        let groups: Vec<RecordBatch> = (groups.try_collect().now_or_never())
            .ok_or_else(|| AggregatorError::internal("the query over pending readings waits for more"))?
            .map_err(|e| failed(&e))?;
        let groups = concat_batches(&schema, &groups).map_err(AggregatorError::internal)?;
        let keys = groups.column(0).as_primitive::<UInt64Type>().values();
        Sorted::of(keys, groups.column(1)).map_err(AggregatorError::internal)
    }

    fn send(&self, rows: Vec<RecordBatch>) -> Result<(), AggregatorError> {
        let gone = |_| AggregatorError::internal("the query over pending readings takes no more");
        rows.into_iter().try_for_each(|batch| self.rows.send(batch)).map_err(gone)
    }
}

fn failed(e: &DataFusionError) -> AggregatorError {
    AggregatorError::internal(format!("the query over pending readings failed: {e}"))
}

/// One partition of the table.
#[derive(Debug)]
struct Cell {
    schema: SchemaRef,
    /// Put here before a run begins.
    input: Mutex<Option<Receiver<RecordBatch>>>,
}

impl PartitionStream for Cell {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let Some(input) = lock(&self.input).take() else {
            let error = internal_err!("a run begins without an input");
            return Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([error])));
        };
        // Nobody is woken: whoever has sent something asks again.
        let rows = stream::poll_fn(move |_| match input.try_recv() {
            Ok(batch) => Poll::Ready(Some(Ok(batch))),
            Err(TryRecvError::Empty) => Poll::Pending,
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is put there and taken out is whole whatever happens around it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
