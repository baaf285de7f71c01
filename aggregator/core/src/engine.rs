//! What is computed from readings: the user's row expressions, and the aggregates of a checkpoint.

use crate::error::AggregatorError;
use crate::options::Options;
use crate::pending::{GROUP_BYTES, Groups, Pending};
use crate::series::SeriesNames;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType, UInt64Type};
use async_trait::async_trait;
use fleetscore_schemas::reading::ReadingColumns;
use fleetscore_schemas::time::PaneGrid;
use fleetscore_state::{Fate, Partials, accumulate::Sorted, accumulate::deltas_of};
use std::collections::BTreeMap;

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
        names: &SeriesNames,
    ) -> Result<Option<Evaluated>, AggregatorError>;

    /// The deltas of what is pending: columns of [`fleetscore_schemas::delta::schema`], sorted by (pane, series).
    async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError>;

    /// What groups take however few they are: no fewer bytes of readings are worth being grouped before a checkpoint.
    fn fixed_bytes(&self) -> usize {
        0
    }

    /// Puts groups in the place of readings.
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

/// By key, in one table.
#[derive(Debug, Default)]
struct PlainGroups {
    groups: BTreeMap<u64, usize>,
    partials: Partials,
}

impl Groups for PlainGroups {
    fn bytes(&self) -> usize {
        self.groups.len() * GROUP_BYTES
    }
}

/// All of what is pending.
fn grouped(pending: Pending) -> Result<PlainGroups, AggregatorError> {
    let (rows, earlier) = pending.into_parts::<PlainGroups>()?;
    let mut all = earlier.unwrap_or_default();
    for batch in &rows {
        let of: Vec<usize> = (batch.column(0).as_primitive::<UInt64Type>().values().iter())
            .map(|key| {
                let next = all.groups.len();
                *all.groups.entry(*key).or_insert(next)
            })
            .collect();
        let ts = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
        let values = batch.column(2).as_primitive::<Float64Type>().values();
        all.partials.update(ts, values, &of, all.groups.len());
    }
    Ok(all)
}

#[async_trait]
impl Engine for PlainEngine {
    fn evaluate(
        &self,
        _readings: &ReadingColumns,
        _names: &SeriesNames,
    ) -> Result<Option<Evaluated>, AggregatorError> {
        Ok(None)
    }

    async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError> {
        let PlainGroups { groups, mut partials } = grouped(pending)?;
        let mut keys = vec![0; groups.len()];
        for (key, group) in groups {
            keys[group] = key;
        }
        let sorted = Sorted::of(&keys, &partials.take()).map_err(AggregatorError::internal)?;
        deltas_of(vec![sorted], self.grid).map_err(AggregatorError::internal)
    }

    async fn compact(&self, pending: Pending) -> Result<Pending, AggregatorError> {
        Ok(Pending::of_groups(Box::new(grouped(pending)?)))
    }
}
