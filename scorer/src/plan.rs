//! Scoring as a DataFusion plan: the windows of an interval, ascending by series, merged by position with the models of a
//! set, which ascend by series too. The only file of this crate that knows DataFusion.
//!
//! ```text
//! ScoreExec: merges, scores on all cores, keeps the order
//!   windows: streamed from the store
//! ```
//!
//! Memory: what is in flight is bounded by [`pieces::ROWS`] rows for each core, whatever the number of series; the models
//! themselves stay where the pack lies.

mod explain;
mod pieces;
mod rows;

pub(crate) use explain::{ROWS as EXPLAINED, write_nearest, write_ranges};

use crate::meter::Meter;
use crate::models::{MEND, ModelSet, listed};
use arrow::array::RecordBatch;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{DataFusionError, internal_err};
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::{
    EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion_physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion_physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::window::{Feature, prediction_schema, window_schema};
use fleetscore_store::{Selection, StoreError};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use pieces::{Cutter, Piece};
use rows::{Job, Part};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Windows of one interval on their way from the store: columns of [`window_schema`], ascending by series over all
/// batches.
pub type Windows = BoxStream<'static, Result<RecordBatch, StoreError>>;

/// Predictions of one interval: columns of [`prediction_schema`], ascending by series over all batches.
pub type Predictions = BoxStream<'static, Result<RecordBatch, ScoreError>>;

/// What a run scores with: a set, and for a few series another one. Cheap to make; it holds no copy of any model.
pub struct ScoringTable {
    set: Arc<ModelSet>,
    /// Ascending by series, one for each.
    pins: Vec<Pin>,
}

/// A series that is scored by another set than the run's own.
#[derive(Clone)]
struct Pin {
    series: SeriesId,
    set: Arc<ModelSet>,
    /// Index of the shard in the pinned set, and of the row in it; `None` where that set has no model for the series.
    found: Option<(usize, u32)>,
}

impl std::fmt::Debug for ScoringTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (version, models, pins) = (self.set.version, self.set.len(), self.pins.len());
        write!(f, "ScoringTable(set {version}, {models} entries, {pins} pins)")
    }
}

impl ScoringTable {
    /// Every series by this set.
    pub fn new(set: Arc<ModelSet>) -> Self {
        Self { set, pins: Vec::new() }
    }

    /// Every series by this set but the pinned ones, each by the set beside it; of several pins of one series the last
    /// counts, and a pin to the set itself is none. A series whose pinned set has no model for it becomes `no_model`.
    pub fn with_pins(set: Arc<ModelSet>, pins: Vec<(SeriesId, Arc<ModelSet>)>) -> Self {
        let mut pins = pins;
        pins.reverse(); // the sort keeps the order of equals: the last one comes first now
        pins.sort_by_key(|(series, _)| *series);
        pins.dedup_by_key(|(series, _)| *series);
        let pins = pins
            .into_iter()
            .filter(|(_, pinned)| pinned.version != set.version)
            .map(|(series, set)| Pin { series, found: find(&set, series), set })
            .collect();
        Self { set, pins }
    }

    /// The same with the pins of these series alone, which ascend.
    fn of(&self, ids: &[SeriesId]) -> Self {
        let pins = self.pins.iter().filter(|p| ids.binary_search(&p.series).is_ok()).cloned().collect();
        Self { set: self.set.clone(), pins }
    }

    /// Version of the set; pinned series have their own.
    pub fn version(&self) -> i64 {
        self.set.version
    }

    /// Pinned series whose set has no model for them, each with the version of that set.
    pub fn pinned_without_model(&self) -> impl Iterator<Item = (SeriesId, i64)> + '_ {
        self.pins.iter().filter(|p| p.found.is_none()).map(|p| (p.series, p.set.version))
    }

    /// Number of entries of the set, refused ones included.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether the set has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is wrong with scoring these features by the run's own set, in words; `None` where it takes them, in this order.
    pub fn misfit(&self, features: &[Feature]) -> Option<String> {
        unlike(&self.set, features).map(|text| format!("{text}: {MEND}"))
    }

    /// The same of the sets that series are pinned to.
    pub fn pins_misfit(&self, features: &[Feature]) -> Option<String> {
        let sets = self.pins.iter().filter(|p| p.set.features != features).map(|p| &p.set);
        let text = unlike(sets.min_by_key(|s| s.version)?, features)?;
        Some(format!("{text}: the series that are pinned to it become model_error, see the view model_pins"))
    }
}

/// Both lists, where they differ.
fn unlike(set: &ModelSet, features: &[Feature]) -> Option<String> {
    (set.features != features).then(|| {
        format!(
            "model set {} takes the features {}, and the setting `features` of the schedule is {}",
            set.version,
            listed(&set.features),
            listed(features)
        )
    })
}

/// Where a set holds a series' entry.
fn find(set: &ModelSet, series: SeriesId) -> Option<(usize, u32)> {
    let shards = set.shards();
    let shard = shards.partition_point(|s| s.series().last().is_some_and(|last| *last < series));
    let row = shards.get(shard)?.series().binary_search(&series).ok()?;
    Some((shard, u32::try_from(row).ok()?))
}

/// Why scoring failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The windows could not be read.
    #[error(transparent)]
    Store(StoreError),
    /// The plan failed: a bug of ours.
    #[error("scoring failed: {0}")]
    Plan(String),
}

impl From<DataFusionError> for ScoreError {
    fn from(e: DataFusionError) -> Self {
        match e {
            DataFusionError::External(inner) => match inner.downcast::<StoreError>() {
                Ok(e) => Self::Store(*e),
                Err(other) => match other.downcast::<Self>() {
                    Ok(e) => *e,
                    Err(other) => Self::Plan(other.to_string()),
                },
            },
            DataFusionError::Context(_, inner) => Self::from(*inner),
            other => Self::Plan(other.to_string()),
        }
    }
}

impl From<arrow::error::ArrowError> for ScoreError {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::Plan(e.to_string())
    }
}

/// What is scored.
#[derive(Debug, Clone)]
pub struct Scored<'a> {
    /// The inputs of models, in order.
    pub features: &'a [Feature],
    /// Rows for series with a window alone.
    pub data_only: bool,
    /// The series that rows are made for.
    pub selection: Selection,
    /// What is told how long it takes.
    pub meter: Arc<Meter>,
}

impl<'a> Scored<'a> {
    /// All series of an interval.
    pub fn all(features: &'a [Feature], data_only: bool) -> Self {
        Self { features, data_only, selection: Selection::ALL, meter: Arc::default() }
    }
}

/// Scores the selected series of one interval: each window and each model gives one row; with `data_only`, each window
/// alone. A selected series without either gets none. Batches are scored on all cores and come in the order of their
/// series; nothing is read before the stream is polled, and it must be polled within a Tokio runtime.
///
/// A set that takes other features than are given yields `model_error` for its series ([`ScoringTable::misfit`] and
/// [`ScoringTable::pins_misfit`] say so), also where there are as many of them.
///
/// # Errors
/// [`ScoreError::Plan`] without features; in the stream [`ScoreError::Store`] with the store's error where the windows
/// broke off, else [`ScoreError::Plan`] (also where there is a window of a series that is not selected).
pub fn score(
    table: &Arc<ScoringTable>,
    scored: &Scored<'_>,
    windows: Windows,
) -> Result<Predictions, ScoreError> {
    let plan = physical_plan(table, scored, windows)?;
    let out = plan.execute(0, Arc::new(TaskContext::default()))?;
    Ok(out.map_err(ScoreError::from).boxed())
}

fn physical_plan(
    table: &Arc<ScoringTable>,
    scored: &Scored<'_>,
    windows: Windows,
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    if scored.features.is_empty() {
        return internal_err!("a schedule has at least one feature");
    }
    let windows = windows.map_err(|e| DataFusionError::External(Box::new(e))).boxed();
    let once = Once { schema: window_schema(), stream: Mutex::new(Some(windows)) };
    let order = LexOrdering::new([by_series()]);
    let source =
        StreamingTableExec::try_new(window_schema(), vec![Arc::new(once)], None, order, false, None)?;
    let table = match &scored.selection.ids {
        Some(ids) => Arc::new(table.of(ids)),
        None => table.clone(),
    };
    let job = Job {
        table,
        features: scored.features.into(),
        data_only: scored.data_only,
        selection: scored.selection.clone(),
        meter: scored.meter.clone(),
    };
    Ok(Arc::new(ScoreExec::new(Arc::new(source), Arc::new(job))))
}

/// The column `series`, first in windows and in predictions, ascending.
fn by_series() -> PhysicalSortExpr {
    PhysicalSortExpr::new_default(Arc::new(Column::new("series", 0)))
}

/// A leaf of the plan that hands out a stream once.
struct Once {
    schema: arrow::datatypes::SchemaRef,
    stream: Mutex<Option<BoxStream<'static, Result<RecordBatch, DataFusionError>>>>,
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &arrow::datatypes::SchemaRef {
        &self.schema
    }

    fn execute(&self, _ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let taken = self.stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let stream = taken.unwrap_or_else(|| {
            stream::iter([internal_err!("a leaf of the scoring plan is executed once")]).boxed()
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream))
    }
}

/// The operator: windows in, predictions out, both ascending by series.
struct ScoreExec {
    windows: Arc<dyn ExecutionPlan>,
    job: Arc<Job>,
    properties: Arc<PlanProperties>,
}

impl ScoreExec {
    fn new(windows: Arc<dyn ExecutionPlan>, job: Arc<Job>) -> Self {
        let order = EquivalenceProperties::new_with_orderings(prediction_schema(), [[by_series()]]);
        let properties = PlanProperties::new(
            order,
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { windows, job, properties: Arc::new(properties) }
    }
}

impl std::fmt::Debug for ScoreExec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScoreExec({:?})", self.job.table)
    }
}

impl DisplayAs for ScoreExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScoreExec: set={}, data_only={}", self.job.table.version(), self.job.data_only)
    }
}

impl ExecutionPlan for ScoreExec {
    fn name(&self) -> &'static str {
        "ScoreExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.windows]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion, DataFusionError>,
    ) -> Result<TreeNodeRecursion, DataFusionError> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        match <[_; 1]>::try_from(children) {
            Ok([windows]) => Ok(Arc::new(Self::new(windows, self.job.clone()))),
            Err(other) => internal_err!("scoring has one input, and {} are given", other.len()),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        let windows = self.windows.execute(partition, context)?.map_err(ScoreError::from).boxed();
        let scored = scored(&self.job, windows).map_err(|e| DataFusionError::External(Box::new(e)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(prediction_schema(), scored)))
    }
}

type Batches = BoxStream<'static, Result<RecordBatch, ScoreError>>;

/// Cut into pieces, scored and explained on all cores, in order.
fn scored(job: &Arc<Job>, windows: Batches) -> Batches {
    // One more than can be worked on at once: while the consumer takes its time, nobody waits for it.
    let in_flight = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) + 1;
    let (score, explain) = (job.clone(), job.clone());
    let mut explained = 0;
    cut(job, windows)
        .map(move |piece| on_a_core(piece, score.clone(), |piece: Piece, job: &Job| job.score(&piece)))
        .buffered(in_flight)
        .map(move |part| {
            // In the order of series, so that it does not matter how the windows are cut into batches.
            part.map(|mut part| {
                part.explain_at_most(explain::ROWS - explained);
                explained += part.to_explain();
                part
            })
        })
        .map(move |part| {
            let job = explain.clone();
            async move {
                match part {
                    Ok(part) if part.to_explain() == 0 => part.finish(),
                    part => on_a_core(part, job, |part: Part, job: &Job| job.explain(part)).await,
                }
            }
        })
        .buffered(in_flight)
        .boxed()
}

/// Runs what computes for a while off the async threads.
async fn on_a_core<T: Send + 'static, U: Send + 'static>(
    input: Result<T, ScoreError>,
    job: Arc<Job>,
    work: impl FnOnce(T, &Job) -> Result<U, ScoreError> + Send + 'static,
) -> Result<U, ScoreError> {
    let input = input?;
    let done = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let done = work(input, &job);
        job.meter.scored(began.elapsed());
        done
    });
    let done = done.await;
    done.unwrap_or_else(|e| Err(ScoreError::Plan(e.to_string())))
}

/// The windows with the models that belong to them, and at the end the models that are left.
fn cut(job: &Arc<Job>, windows: Batches) -> BoxStream<'static, Result<Piece, ScoreError>> {
    struct State {
        windows: Option<Batches>,
        cutter: Cutter,
        ready: VecDeque<Piece>,
    }
    let state = State { windows: Some(windows), cutter: Cutter::new(job.clone()), ready: VecDeque::new() };
    stream::try_unfold(state, |mut s| async move {
        loop {
            if let Some(piece) = s.ready.pop_front() {
                return Ok(Some((piece, s)));
            }
            let Some(windows) = &mut s.windows else { return Ok(None) };
            match windows.try_next().await? {
                Some(batch) => s.cutter.push(&batch, &mut s.ready)?,
                None => {
                    s.windows = None;
                    s.cutter.finish(&mut s.ready);
                }
            }
        }
    })
    .boxed()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
