//! What is computed from readings: the user's row expressions, and the aggregates of a checkpoint.

use crate::error::AggregatorError;
use crate::options::Options;
use crate::pending::{Pending, States};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{Field, Float64Type, Schema, TimestampMicrosecondType, UInt64Type};
use async_trait::async_trait;
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::reading::ReadingColumns;
use fleetscore_schemas::time::PaneGrid;
use fleetscore_state::{Fate, Partials, accumulate::Sorted, accumulate::deltas_of, state_type};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What became of the readings of a batch.
#[derive(Debug, Default)]
pub struct Evaluated {
    /// One per reading.
    pub fates: Vec<Fate>,
    /// Values after the value expression; meaningless where the fate is not [`Fate::Keep`].
    pub values: Vec<f64>,
    /// Why a reading failed, for a person: (its index, the reason), ascending.
    pub reasons: Vec<(u32, String)>,
}

/// What computes: DataFusion in the product, [`PlainEngine`] in simulations.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The row filter and the value expression over the readings of a batch; `names` by the decoder's key. `None`:
    /// there are no expressions.
    fn evaluate(
        &self,
        readings: &ReadingColumns,
        names: &[Option<SeriesName>],
    ) -> Result<Option<Evaluated>, AggregatorError>;

    /// The deltas of what is pending: columns of [`fleetscore_schemas::delta::schema`], sorted by (pane, series).
    async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError>;

    /// Puts partial states in the place of readings.
    async fn compact(&self, pending: Pending) -> Result<Pending, AggregatorError>;
}

/// Groups and merges on the thread that asks, without expressions: for simulations and fuzzing, where the work is tiny and
/// nothing may depend on a scheduler.
#[derive(Debug)]
pub struct PlainEngine {
    grid: PaneGrid,
}

impl PlainEngine {
    /// For panes like these.
    ///
    /// # Errors
    /// [`AggregatorError::Setting`] where the settings have expressions.
    pub fn new(options: &Options) -> Result<Self, AggregatorError> {
        for (setting, text) in
            [("readings.where", &options.panes.filter), ("readings.value", &options.panes.value)]
        {
            if !text.is_empty() {
                return Err(AggregatorError::Setting {
                    setting,
                    message: "the plain engine has no expressions".into(),
                });
            }
        }
        Ok(Self { grid: options.panes.grid() })
    }
}

/// Keys in ascending order, and the state of each.
fn grouped(pending: Pending) -> Result<(Vec<u64>, ArrayRef), AggregatorError> {
    let (rows, states) = pending.into_batches();
    let mut groups: BTreeMap<u64, usize> = BTreeMap::new();
    let mut partials = Partials::default();
    let mut group_of = |keys: &[u64]| -> (Vec<usize>, usize) {
        let of: Vec<usize> = keys
            .iter()
            .map(|key| {
                let next = groups.len();
                *groups.entry(*key).or_insert(next)
            })
            .collect();
        (of, groups.len())
    };
    for batch in states.parts.iter().flatten() {
        let (of, total) = group_of(batch.column(0).as_primitive::<UInt64Type>().values());
        partials.merge(batch.column(1), &of, total).map_err(AggregatorError::internal)?;
    }
    for batch in &rows {
        let (of, total) = group_of(batch.column(0).as_primitive::<UInt64Type>().values());
        let ts = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
        let values = batch.column(2).as_primitive::<Float64Type>().values();
        partials.update(ts, values, &of, None, total);
    }
    let mut keys = vec![0; groups.len()];
    for (key, group) in groups {
        keys[group] = key;
    }
    Ok((keys, partials.take(usize::MAX)))
}

#[async_trait]
impl Engine for PlainEngine {
    fn evaluate(
        &self,
        _readings: &ReadingColumns,
        _names: &[Option<SeriesName>],
    ) -> Result<Option<Evaluated>, AggregatorError> {
        Ok(None)
    }

    async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError> {
        let (keys, states) = grouped(pending)?;
        let sorted = Sorted::of(&keys, &[states]).map_err(AggregatorError::internal)?;
        deltas_of(&[sorted], self.grid).map_err(AggregatorError::internal)
    }

    async fn compact(&self, pending: Pending) -> Result<Pending, AggregatorError> {
        let (keys, states) = grouped(pending)?;
        let schema = Schema::new(vec![
            Field::new("key", arrow::datatypes::DataType::UInt64, false),
            Field::new("partial", state_type(), false),
        ]);
        debug_assert_eq!(keys.len(), states.len());
        let columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(keys)), states];
        let batch = RecordBatch::try_new(Arc::new(schema), columns).map_err(AggregatorError::internal)?;
        Ok(Pending::of_states(States { parts: vec![vec![batch]], shift: 0 }))
    }
}
