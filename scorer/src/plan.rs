//! Scoring as a DataFusion plan: windows (a stream, ascending by series) joined with the model table by series, then
//! one scoring function over columns. The only file of this crate that knows DataFusion.
//!
//! ```text
//! Projection: score(series, version, feature…, series of the model, row in the table)
//!   SortMergeJoin: full (left where rows are wanted only for series with data)
//!     windows            streamed from the store
//!     models             kept in memory, shared by all runs of a set
//! ```

use crate::models::{ModelSet, ranges_text};
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, Int16Builder, Int64Builder, RecordBatch,
    StringBuilder, StructArray, UInt32Array, UInt32Builder, new_null_array,
};
use arrow::compute::{SortOptions, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, UInt32Type};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DataFusionError, JoinType, NullEquality, internal_err};
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::joins::SortMergeJoinExec;
use datafusion_physical_plan::projection::ProjectionExec;
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
use fleetscore_kernel::{ModelTable, NO_MODEL};
use fleetscore_schemas::status::PredictionStatus;
use fleetscore_schemas::window::{Feature, prediction_schema, window_schema};
use fleetscore_store::{RunCounts, StoreError};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::{Arc, Mutex};

/// Windows of one interval on their way from the store.
pub type Windows = BoxStream<'static, Result<RecordBatch, StoreError>>;

/// A model set laid out for scoring; made once for each version and shared by its runs.
pub struct ScoringTable {
    version: i64,
    /// `series: UInt32, row: UInt32`, ascending by series.
    index: RecordBatch,
    rows: Vec<Row>,
    models: ModelTable,
}

struct Row {
    name: String,
    /// Index in the model table; `NO_MODEL` for a refused model.
    model: u32,
    /// What the model calls normal, in words.
    normal: Option<String>,
}

impl std::fmt::Debug for ScoringTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScoringTable(set {}, {} entries)", self.version, self.rows.len())
    }
}

impl ScoringTable {
    /// Lays out a set. Entries whose model breaks the kernel's rules count as refused.
    pub fn new(set: &ModelSet) -> Self {
        let mut models = ModelTable::default();
        let rows: Vec<Row> = set
            .entries
            .iter()
            .map(|e| Row {
                name: e.model.clone(),
                model: match &e.outcome {
                    Ok(m) if m.validate().is_ok() => models.push(m),
                    _ => NO_MODEL,
                },
                normal: e.normal.as_deref().map(ranges_text),
            })
            .collect();
        let series = UInt32Array::from_iter_values(set.entries.iter().map(|e| e.series));
        let row = UInt32Array::from_iter_values(0..rows.len() as u32);
        let index = RecordBatch::try_new(index_schema(), vec![Arc::new(series), Arc::new(row)])
            .expect("two UInt32 columns of one length");
        Self { version: set.version, index, rows, models }
    }

    /// The set's version.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Number of entries, refused ones included.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the set has no entries.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Predictions of one interval.
#[derive(Debug, Clone)]
pub struct Scored {
    /// Columns of [`prediction_schema`], ascending by series.
    pub batches: Vec<RecordBatch>,
    /// How many series ended with which status.
    pub counts: RunCounts,
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
                Err(other) => Self::Plan(other.to_string()),
            },
            DataFusionError::Context(_, inner) => Self::from(*inner),
            other => Self::Plan(other.to_string()),
        }
    }
}

/// Scores one interval: each window and each model of the set gives one row; with `data_only`, each window alone.
///
/// # Errors
/// [`ScoreError::Store`] with the store's error if the windows broke off, else [`ScoreError::Plan`].
pub async fn score(
    table: &Arc<ScoringTable>,
    features: &[Feature],
    data_only: bool,
    windows: Windows,
) -> Result<Scored, ScoreError> {
    let plan = physical_plan(table, features, data_only, windows)?;
    let mut out = plan.execute(0, Arc::new(TaskContext::default()))?;
    let mut batches = Vec::new();
    while let Some(batch) = out.try_next().await? {
        if batch.num_rows() > 0 {
            batches.push(RecordBatch::from(batch.column(0).as_struct()));
        }
    }
    let batches = ascending(batches)?;
    let counts = batches.iter().map(count).fold(RunCounts::default(), add);
    Ok(Scored { batches, counts })
}

fn physical_plan(
    table: &Arc<ScoringTable>,
    features: &[Feature],
    data_only: bool,
    windows: Windows,
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    if features.is_empty() {
        return internal_err!("a schedule has at least one feature");
    }
    let windows = windows.map_err(|e| DataFusionError::External(Box::new(e))).boxed();
    let models = stream::iter([Ok(table.index.clone())]).boxed();
    let left = source(window_schema(), windows)?;
    let right = source(index_schema(), models)?;
    let series = |column| Arc::new(Column::new("series", column)) as Arc<dyn PhysicalExpr>;
    let join = SortMergeJoinExec::try_new(
        left,
        right,
        vec![(series(0), series(0))],
        None,
        if data_only { JoinType::Left } else { JoinType::Full },
        vec![SortOptions::default()],
        NullEquality::NullEqualsNothing,
    )?;
    let wide = window_schema().fields().len();
    let column = |name: &str, at| Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>;
    let mut args = vec![column("series", 0), column("version", 1)];
    for f in features {
        let at = 2 + Feature::ALL.iter().position(|g| g == f).expect("ALL holds every feature");
        args.push(column(f.as_str(), at));
    }
    args.extend([column("series", wide), column("row", wide + 1)]);
    let udf = ScalarUDF::new_from_impl(Score {
        table: table.clone(),
        signature: Signature::variadic_any(Volatility::Immutable),
    });
    let call: Arc<dyn PhysicalExpr> = Arc::new(ScalarFunctionExpr::new(
        "score",
        Arc::new(udf),
        args,
        Arc::new(Field::new("score", prediction_type(), false)),
        Arc::new(ConfigOptions::default()),
    ));
    Ok(Arc::new(ProjectionExec::try_new([(call, "prediction".to_owned())], Arc::new(join))?))
}

/// A leaf of the plan that hands out a stream once.
struct Once {
    schema: SchemaRef,
    stream: Mutex<Option<BoxStream<'static, Result<RecordBatch, DataFusionError>>>>,
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
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

fn source(
    schema: SchemaRef,
    stream: BoxStream<'static, Result<RecordBatch, DataFusionError>>,
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let once = Once { schema: schema.clone(), stream: Mutex::new(Some(stream)) };
    Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(once)], None, [], false, None)?))
}

fn index_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("series", DataType::UInt32, false),
        Field::new("row", DataType::UInt32, false),
    ]))
}

fn prediction_type() -> DataType {
    DataType::Struct(prediction_schema().fields().clone())
}

/// `score(series, version, feature…, series of the model, row)`: one struct of [`prediction_schema`] for each row.
#[derive(Debug)]
struct Score {
    table: Arc<ScoringTable>,
    signature: Signature,
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table)
    }
}

impl Eq for Score {}

impl std::hash::Hash for Score {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.table.version.hash(state);
    }
}

impl ScalarUDFImpl for Score {
    fn name(&self) -> &str {
        "score"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(prediction_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [series, version, features @ .., model_series, row] = arrays.as_slice() else {
            return internal_err!("score takes at least five columns");
        };
        let features: Vec<&Float64Array> = features.iter().map(|f| f.as_primitive::<Float64Type>()).collect();
        let columns = Input {
            series: series.as_primitive::<UInt32Type>(),
            version: version.as_primitive::<Int64Type>(),
            features,
            model_series: model_series.as_primitive::<UInt32Type>(),
            row: row.as_primitive::<UInt32Type>(),
        };
        let out = score_columns(&self.table, &columns)?;
        Ok(ColumnarValue::Array(Arc::new(out)))
    }
}

/// Columns of the join.
struct Input<'a> {
    series: &'a UInt32Array,
    version: &'a arrow::array::Int64Array,
    features: Vec<&'a Float64Array>,
    model_series: &'a UInt32Array,
    row: &'a UInt32Array,
}

impl Input<'_> {
    /// Whether all features of a row are finite numbers.
    fn is_valid(&self, i: usize) -> bool {
        self.features.iter().all(|f| f.is_valid(i) && f.value(i).is_finite())
    }
}

fn score_columns(table: &ScoringTable, input: &Input<'_>) -> Result<StructArray, DataFusionError> {
    let n = input.series.len();
    // First the decisions of all rows that can have one, in one pass over columns …
    let models: Vec<u32> = (0..n)
        .map(|i| {
            if input.row.is_valid(i) && input.series.is_valid(i) && input.is_valid(i) {
                table.rows[input.row.value(i) as usize].model
            } else {
                NO_MODEL
            }
        })
        .collect();
    let columns: Vec<&[f64]> = input.features.iter().map(|f| &f.values()[..]).collect();
    let mut decisions = vec![f64::NAN; n];
    table.models.decisions(&models, &columns, &mut decisions);

    // … then what they mean.
    let mut series = UInt32Builder::with_capacity(n);
    let mut value = Float64Builder::with_capacity(n);
    let mut prediction = Int16Builder::with_capacity(n);
    let mut decision = Float64Builder::with_capacity(n);
    let mut status = StringBuilder::with_capacity(n, n * 8);
    let mut model = StringBuilder::with_capacity(n, n * 16);
    let mut version = Int64Builder::with_capacity(n);
    let mut normal = StringBuilder::new();
    for i in 0..n {
        let has_window = input.series.is_valid(i);
        let row = input.row.is_valid(i).then(|| &table.rows[input.row.value(i) as usize]);
        series.append_value(if has_window { input.series.value(i) } else { input.model_series.value(i) });
        version.append_value(if has_window { input.version.value(i) } else { 0 });
        let first = input.features[0];
        value.append_option(
            (has_window && first.is_valid(i)).then(|| first.value(i)).filter(|v| v.is_finite()),
        );
        let d = decisions[i];
        let of = match row {
            None => PredictionStatus::NoModel,
            Some(row) if row.model == NO_MODEL => PredictionStatus::ModelError,
            Some(_) if !has_window => PredictionStatus::NoData,
            Some(_) if !input.is_valid(i) => PredictionStatus::InputInvalid,
            Some(_) if !d.is_finite() => PredictionStatus::ModelError,
            Some(_) => PredictionStatus::Scored,
        };
        let scored = of == PredictionStatus::Scored;
        let anomaly = scored && fleetscore_kernel::is_anomaly(d);
        prediction.append_option(scored.then_some(i16::from(anomaly)));
        decision.append_option(scored.then_some(d));
        status.append_value(of.as_str());
        model.append_option(row.map(|r| r.name.as_str()));
        normal.append_option(row.filter(|_| anomaly).and_then(|r| r.normal.as_deref()));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(series.finish()),
        Arc::new(value.finish()),
        Arc::new(prediction.finish()),
        Arc::new(decision.finish()),
        Arc::new(status.finish()),
        Arc::new(model.finish()),
        Arc::new(version.finish()),
        Arc::new(normal.finish()),
        new_null_array(&DataType::Int64, n), // every row by the run's own set
    ];
    Ok(StructArray::try_new(prediction_schema().fields().clone(), columns, None)?)
}

/// The join hands out its rows in the order of its key; should an operator ever not, they are sorted here, because the
/// store relies on it.
fn ascending(batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, ScoreError> {
    let mut last = None;
    let sorted = batches.iter().all(|b| {
        b.column(0).as_primitive::<UInt32Type>().values().iter().all(|s| {
            let up = last.is_none_or(|l| l < *s);
            last = Some(*s);
            up
        })
    });
    if sorted {
        return Ok(batches);
    }
    let sort = || -> Result<RecordBatch, arrow::error::ArrowError> {
        let all = arrow::compute::concat_batches(&prediction_schema(), &batches)?;
        take_record_batch(&all, &sort_to_indices(all.column(0), None, None)?)
    };
    Ok(vec![sort().map_err(|e| ScoreError::Plan(e.to_string()))?])
}

/// Column of `status` in [`prediction_schema`].
const STATUS: usize = 4;
/// Column of `prediction`.
const PREDICTION: usize = 2;

fn count(batch: &RecordBatch) -> RunCounts {
    let mut c = RunCounts::default();
    let prediction = batch.column(PREDICTION).as_primitive::<arrow::datatypes::Int16Type>();
    for (i, status) in batch.column(STATUS).as_string::<i32>().iter().enumerate() {
        match status.and_then(|s| s.parse().ok()) {
            Some(PredictionStatus::Scored) => {
                c.scored += 1;
                c.anomalies += i64::from(prediction.value(i));
            }
            Some(PredictionStatus::NoData) => c.no_data += 1,
            Some(PredictionStatus::NoModel) => c.no_model += 1,
            Some(PredictionStatus::InputInvalid) => c.input_invalid += 1,
            Some(PredictionStatus::ModelError) | None => c.model_error += 1,
        }
    }
    c
}

fn add(a: RunCounts, b: RunCounts) -> RunCounts {
    RunCounts {
        scored: a.scored + b.scored,
        anomalies: a.anomalies + b.anomalies,
        no_data: a.no_data + b.no_data,
        no_model: a.no_model + b.no_model,
        model_error: a.model_error + b.model_error,
        input_invalid: a.input_invalid + b.input_invalid,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
