//! The user's row filter and value expression: SQL over `device, sensor, ts, value`, planned once, evaluated per batch.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{
    DFSchema, DFSchemaRef, DataFusionError, Result as DfResult, TableReference, plan_err,
};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{
    AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF,
};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::parser::DFParser;
use datafusion_sql::planner::{PlannerContext, SqlToRel};
use fleetscore_aggregator_core::{AggregatorError, Evaluated, SeriesNames};
use fleetscore_state::Fate;
use std::collections::HashMap;
use std::sync::Arc;

/// Greatest admissible |value|.
const MAX_VALUE: f64 = 1e100;
/// Longest error text kept with a dead letter.
const MAX_DETAIL: usize = 400;

/// A planned filter and value expression.
#[derive(Debug)]
pub(crate) struct RowExpressions {
    filter: Option<Compiled>,
    value: Option<Compiled>,
    schema: SchemaRef,
    wants_device: bool,
    wants_sensor: bool,
}

#[derive(Debug)]
struct Compiled {
    name: &'static str,
    expr: Arc<dyn PhysicalExpr>,
}

fn fail(evaluated: &mut Evaluated, i: usize, reason: String) {
    evaluated.fates[i] = Fate::Failed;
    evaluated.reasons.push((i as u32, reason));
}

impl RowExpressions {
    /// Plans both; an empty text is none.
    ///
    /// # Errors
    /// [`AggregatorError::Setting`] naming `readings.where` or `readings.value`.
    pub(crate) fn plan(filter: &str, value: &str) -> Result<Self, AggregatorError> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("device", DataType::Utf8, false),
            Field::new("sensor", DataType::Utf8, false),
            // An offset instead of a zone's name, which needs a database of zones in arrow.
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), false),
            Field::new("value", DataType::Float64, false),
        ]));
        let mut planned =
            Self { filter: None, value: None, schema, wants_device: false, wants_sensor: false };
        planned.filter =
            planned.compile("readings.where", filter, |expr, schema| match expr.get_type(schema)? {
                DataType::Boolean => Ok(expr),
                other => plan_err!("must be true or false for a reading, and is of type {other}"),
            })?;
        planned.value =
            planned.compile("readings.value", value, |expr, schema| match expr.get_type(schema)? {
                t if t.is_numeric() => expr.cast_to(&DataType::Float64, schema),
                other => plan_err!("must be a number, and is of type {other}"),
            })?;
        Ok(planned)
    }

    fn compile(
        &mut self,
        setting: &'static str,
        sql: &str,
        typed: impl Fn(Expr, &DFSchema) -> DfResult<Expr>,
    ) -> Result<Option<Compiled>, AggregatorError> {
        if sql.trim().is_empty() {
            return Ok(None);
        }
        let plan = || -> DfResult<(Arc<dyn PhysicalExpr>, Expr)> {
            let schema: DFSchemaRef = Arc::new(DFSchema::try_from(self.schema.as_ref().clone())?);
            let functions = Functions::new();
            let parsed = DFParser::parse_sql_into_expr(sql)?;
            let planner = SqlToRel::new(&functions);
            let expr = planner.sql_to_expr_with_alias(parsed, &schema, &mut PlannerContext::new())?;
            let expr = expr.unalias();
            refuse_what_is_no_row_expression(&expr)?;
            let context = SimplifyContext::builder().with_schema(Arc::clone(&schema)).build();
            let simplifier = ExprSimplifier::new(context);
            let expr = typed(simplifier.coerce(expr, &schema)?, &schema)?;
            let expr = simplifier.simplify(simplifier.coerce(expr, &schema)?)?;
            let context = PhysicalPlanningContext::default();
            Ok((create_physical_expr(&expr, &schema, &ExecutionProps::new(), &context)?, expr))
        };
        let (physical, logical) = plan().map_err(|e| AggregatorError::Setting {
            setting,
            message: format!(
                "`{sql}` cannot be evaluated for a reading (columns: device, sensor, ts, value): {}",
                e.strip_backtrace()
            ),
        })?;
        let columns = logical.column_refs();
        self.wants_device |= columns.iter().any(|c| c.name == "device");
        self.wants_sensor |= columns.iter().any(|c| c.name == "sensor");
        Ok(Some(Compiled { name: setting, expr: physical }))
    }

    /// Whether readings pass unchanged.
    pub(crate) fn is_identity(&self) -> bool {
        self.filter.is_none() && self.value.is_none()
    }

    /// Evaluates both for the readings of a batch; `names[key]` is the series behind a decoder's key.
    pub(crate) fn evaluate(
        &self,
        keys: &UInt32Array,
        ts: &TimestampMicrosecondArray,
        value: &Float64Array,
        names: &SeriesNames,
    ) -> Result<Evaluated, AggregatorError> {
        let n = value.len();
        let mut out =
            Evaluated { fates: vec![Fate::Keep; n], values: value.values().to_vec(), reasons: Vec::new() };
        if n == 0 || self.is_identity() {
            return Ok(out);
        }
        let batch = self.batch(keys, ts, value, names).map_err(AggregatorError::internal)?;
        // Only readings that pass the filter reach the value expression: `value > 0` protects `ln(value)`.
        let mut passing: Vec<usize> = (0..n).collect();
        let mut rest = batch;
        if let Some(filter) = &self.filter {
            let mut mask = vec![false; n];
            for (i, verdict) in booleans(filter, &rest).into_iter().enumerate() {
                match verdict {
                    Ok(true) => mask[i] = true,
                    Ok(false) => out.fates[i] = Fate::Filtered,
                    Err(reason) => fail(&mut out, i, reason),
                }
            }
            passing.retain(|i| mask[*i]);
            rest =
                filter_record_batch(&rest, &BooleanArray::from(mask)).map_err(AggregatorError::internal)?;
        }
        if let Some(expression) = &self.value {
            for (result, i) in floats(expression, &rest).into_iter().zip(&passing) {
                match result {
                    Ok(v) => out.values[*i] = v,
                    Err(reason) => fail(&mut out, *i, reason),
                }
            }
        }
        out.reasons.sort_by_key(|(i, _)| *i);
        Ok(out)
    }

    fn batch(
        &self,
        keys: &UInt32Array,
        ts: &TimestampMicrosecondArray,
        value: &Float64Array,
        names: &SeriesNames,
    ) -> Result<RecordBatch, String> {
        // Texts are made only where an expression refers to them; nobody looks at the others.
        let text =
            |wanted: bool, part: for<'n> fn((&'n str, &'n str)) -> &'n str| -> Result<ArrayRef, String> {
                if !wanted {
                    let empty = vec![0i32; value.len() + 1];
                    let offsets = arrow::buffer::OffsetBuffer::new(ScalarBuffer::from(empty));
                    return Ok(Arc::new(StringArray::new(offsets, arrow::buffer::Buffer::from(&[]), None)));
                }
                let texts: Result<Vec<&str>, String> =
                    keys.values().iter().map(|key| names.named(*key).map(part)).collect();
                Ok(Arc::new(StringArray::from(texts?)))
            };
        let columns: Vec<ArrayRef> = vec![
            text(self.wants_device, |(device, _)| device)?,
            text(self.wants_sensor, |(_, sensor)| sensor)?,
            Arc::new(TimestampMicrosecondArray::new(ts.values().clone(), None).with_timezone("+00:00")),
            Arc::new(value.clone()),
        ];
        let options = RecordBatchOptions::new().with_row_count(Some(value.len()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(|e| e.to_string())
    }
}

impl Compiled {
    fn over(&self, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
        self.expr.evaluate(batch)?.into_array(batch.num_rows())
    }

    /// One array for all rows, or one result per row where the batch as a whole fails.
    fn rows<T>(
        &self,
        batch: &RecordBatch,
        read: impl Fn(&ArrayRef, usize) -> Result<T, String>,
    ) -> Vec<Result<T, String>> {
        if batch.num_rows() == 0 {
            return Vec::new();
        }
        if let Ok(array) = self.over(batch) {
            return (0..batch.num_rows()).map(|i| read(&array, i)).collect();
        }
        (0..batch.num_rows())
            .map(|i| match self.over(&batch.slice(i, 1)) {
                Ok(array) => read(&array, 0),
                Err(e) => {
                    let mut text = format!("{}: {}", self.name, e.strip_backtrace());
                    if let Some((end, _)) = text.char_indices().nth(MAX_DETAIL) {
                        text.truncate(end);
                    }
                    Err(text)
                }
            })
            .collect()
    }
}

fn booleans(filter: &Compiled, batch: &RecordBatch) -> Vec<Result<bool, String>> {
    filter.rows(batch, |array, i| {
        let array = array.as_boolean();
        if array.is_null(i) { Err(format!("{} gave NULL", filter.name)) } else { Ok(array.value(i)) }
    })
}

fn floats(expression: &Compiled, batch: &RecordBatch) -> Vec<Result<f64, String>> {
    expression.rows(batch, |array, i| {
        let array = array.as_primitive::<Float64Type>();
        if array.is_null(i) {
            return Err(format!("{} gave NULL", expression.name));
        }
        let v = array.value(i);
        if !v.is_finite() || v.abs() > MAX_VALUE {
            return Err(format!("{} gave {v}, which is no finite number up to 1e100", expression.name));
        }
        Ok(if v == 0.0 { 0.0 } else { v }) // −0 counts as 0
    })
}

fn refuse_what_is_no_row_expression(expr: &Expr) -> DfResult<()> {
    let mut refusal = None;
    expr.apply(|node| {
        let why = match node {
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                Some("it has a subquery".to_owned())
            }
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => Some("it aggregates".to_owned()),
            Expr::Placeholder(p) => Some(format!("it has a placeholder, {}", p.id)),
            Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => {
                Some(format!(
                    "`{}()` gives something else at another time, and readings may be read again",
                    f.func.name()
                ))
            }
            _ => None,
        };
        refusal = why;
        Ok(if refusal.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match refusal {
        Some(why) => plan_err!("{why}"),
        None => Ok(()),
    }
}

/// What SQL text may refer to: functions of one row, no tables.
struct Functions {
    options: ConfigOptions,
    scalars: HashMap<String, Arc<ScalarUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
}

impl Functions {
    fn new() -> Self {
        use datafusion_functions as f;
        let all = [
            f::core::functions(),
            f::datetime::functions(),
            f::math::functions(),
            f::regex::functions(),
            f::string::functions(),
        ];
        let mut scalars = HashMap::new();
        for function in all.into_iter().flatten() {
            for alias in function.aliases() {
                scalars.insert(alias.clone(), Arc::clone(&function));
            }
            scalars.insert(function.name().to_owned(), function);
        }
        Self {
            options: ConfigOptions::default(),
            scalars,
            planners: vec![
                Arc::new(f::core::planner::CoreFunctionPlanner::default()),
                Arc::new(f::datetime::planner::DatetimeFunctionPlanner),
            ],
        }
    }
}

impl ContextProvider for Functions {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        plan_err!("there is no table `{name}`: an expression sees one reading alone")
    }
    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }
    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned()
    }
    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }
    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }
    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }
    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }
    fn options(&self) -> &ConfigOptions {
        &self.options
    }
    fn udf_names(&self) -> Vec<String> {
        self.scalars.keys().cloned().collect()
    }
    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }
    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }
    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
#[path = "plan_expr_tests.rs"]
mod tests;
