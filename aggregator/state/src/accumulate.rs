//! Partial aggregates of many groups, filled from columns.

use crate::admit::split_key;
use crate::merge::Slot;
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StructArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use fleetscore_schemas::delta::{self, columns};
use fleetscore_schemas::time::PaneGrid;
use std::sync::{Arc, LazyLock};

/// Fields of a state, as they stand in [`delta::schema`]: everything but the key.
pub fn state_fields() -> Fields {
    static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
        delta::schema()
            .fields()
            .iter()
            .filter(|f| ![columns::SERIES, columns::PANE_START].contains(&f.name().as_str()))
            .cloned()
            .collect::<Vec<Arc<Field>>>()
            .into()
    });
    FIELDS.clone()
}

/// The Arrow type of a state: a struct of [`state_fields`].
pub fn state_type() -> DataType {
    DataType::Struct(state_fields())
}

/// One aggregate per group; groups are numbered densely from 0.
#[derive(Debug, Default)]
pub struct Partials {
    slots: Vec<Slot>,
}

impl Partials {
    /// Number of groups.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes allocated.
    pub fn size(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// The aggregates, by group.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Adds readings: `groups[i]` is the group of reading `i`, below `total`. `keep` drops readings where it is false.
    ///
    /// # Panics
    /// If the columns differ in length or a group is not below `total`: the caller's bug.
    pub fn update(
        &mut self,
        ts: &[i64],
        values: &[f64],
        groups: &[usize],
        keep: Option<&dyn Fn(usize) -> bool>,
        total: usize,
    ) {
        assert!(ts.len() == values.len() && ts.len() == groups.len(), "columns of one length");
        self.grow(total);
        match keep {
            None => {
                for ((ts, value), group) in ts.iter().zip(values).zip(groups) {
                    self.slots[*group].add(*ts, *value);
                }
            }
            Some(keep) => {
                for i in (0..ts.len()).filter(|i| keep(*i)) {
                    self.slots[groups[i]].add(ts[i], values[i]);
                }
            }
        }
    }

    /// Merges states, a struct of [`state_fields`]: `groups[i]` is the group of state `i`, below `total`.
    ///
    /// # Errors
    /// If the column is not such a struct.
    ///
    /// # Panics
    /// If the columns differ in length or a group is not below `total`: the caller's bug.
    pub fn merge(&mut self, states: &dyn Array, groups: &[usize], total: usize) -> Result<(), ArrowError> {
        let columns = StateColumns::of(states)?;
        assert_eq!(states.len(), groups.len(), "columns of one length");
        self.grow(total);
        for (i, group) in groups.iter().enumerate() {
            self.slots[*group].merge(&columns.slot(i));
        }
        Ok(())
    }

    /// Takes out the first `n` groups as a struct of [`state_fields`]; the others move down to 0.
    pub fn take(&mut self, n: usize) -> ArrayRef {
        let slots = if n >= self.slots.len() {
            std::mem::take(&mut self.slots)
        } else {
            let rest = self.slots.split_off(n);
            std::mem::replace(&mut self.slots, rest)
        };
        Arc::new(to_struct(&slots))
    }

    fn grow(&mut self, total: usize) {
        if self.slots.len() < total {
            self.slots.resize(total, Slot::default());
        }
    }
}

/// States of single readings: what [`Partials::update`] would hold if every reading were a group of its own.
pub fn states_of(ts: &[i64], values: &[f64]) -> ArrayRef {
    let slots: Vec<Slot> = ts.iter().zip(values).map(|(ts, v)| Slot::of(*ts, *v)).collect();
    Arc::new(to_struct(&slots))
}

/// Groups in ascending order of their keys, with their states: see [`deltas_of`].
#[derive(Debug)]
pub struct Sorted {
    keys: Vec<u64>,
    states: StructArray,
}

impl Sorted {
    /// Sorts groups; `states` are columns of states, one after the other, as many as there are keys.
    ///
    /// # Errors
    /// If a column is not one of states.
    pub fn of(keys: &[u64], states: &[ArrayRef]) -> Result<Self, ArrowError> {
        let mut slots: Vec<Slot> = Vec::with_capacity(keys.len());
        for column in states {
            let columns = StateColumns::of(column)?;
            slots.extend((0..column.len()).map(|i| columns.slot(i)));
        }
        if slots.len() != keys.len() {
            let what = format!("{} keys, {} states", keys.len(), slots.len());
            return Err(ArrowError::InvalidArgumentError(what));
        }
        let mut order: Vec<(u64, u32)> = keys.iter().enumerate().map(|(i, k)| (*k, i as u32)).collect();
        order.sort_unstable();
        let sorted: Vec<Slot> = order.iter().map(|(_, i)| slots[*i as usize]).collect();
        Ok(Self { keys: order.into_iter().map(|(key, _)| key).collect(), states: to_struct(&sorted) })
    }
}

/// Deltas of groups (see [`crate::admit::group_key`]): columns of [`delta::schema`], sorted by (pane, series). The series of
/// each part are above those of the parts before it, so that nothing is left to compare.
///
/// # Errors
/// If Arrow refuses the columns.
pub fn deltas_of(parts: &[Sorted], grid: PaneGrid) -> Result<RecordBatch, ArrowError> {
    let total = parts.iter().map(|part| part.keys.len()).sum();
    let (mut series, mut starts) = (Vec::with_capacity(total), Vec::with_capacity(total));
    // Stretches of a part that go one behind the other: (part, from, to).
    let mut stretches: Vec<(usize, usize, usize)> = Vec::new();
    let mut done = vec![0; parts.len()];
    let next_pane = |done: &[usize]| {
        let panes = parts.iter().zip(done).filter_map(|(part, at)| part.keys.get(*at));
        panes.map(|key| split_key(*key).0).min()
    };
    while let Some(pane) = next_pane(&done) {
        let start = grid.start_of(pane).us();
        for (p, part) in parts.iter().enumerate() {
            let from = done[p];
            let to = from + part.keys[from..].partition_point(|key| split_key(*key).0 <= pane);
            series.extend(part.keys[from..to].iter().map(|key| split_key(*key).1));
            starts.resize(series.len(), start);
            stretches.push((p, from, to));
            done[p] = to;
        }
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from(series)),
        Arc::new(TimestampMicrosecondArray::from(starts).with_timezone("UTC")),
    ];
    let columns_of = parts.iter().map(|part| StateColumns::of(&part.states)).collect::<Result<_, _>>()?;
    let all = Joined { columns: columns_of, stretches, total };
    let float = |values: Vec<f64>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    let time =
        |us: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(us).with_timezone("UTC")) };
    columns.extend([
        Arc::new(Int64Array::from(all.column(|c| c.count))) as ArrayRef,
        float(all.column(|c| c.sum)),
        float(all.column(|c| c.m2)),
        float(all.column(|c| c.min)),
        float(all.column(|c| c.max)),
        time(all.column(|c| c.first_ts)),
        float(all.column(|c| c.first)),
        time(all.column(|c| c.last_ts)),
        float(all.column(|c| c.last)),
    ]);
    RecordBatch::try_new(delta::schema(), columns)
}

/// Columns of several parts, stretch by stretch: (part, from, to).
struct Joined<'c> {
    columns: Vec<StateColumns<'c>>,
    stretches: Vec<(usize, usize, usize)>,
    total: usize,
}

impl<'c> Joined<'c> {
    fn column<T: Copy + 'c>(&self, of: impl Fn(&StateColumns<'c>) -> &'c [T]) -> Vec<T> {
        let mut all = Vec::with_capacity(self.total);
        for (part, from, to) in &self.stretches {
            all.extend_from_slice(&of(&self.columns[*part])[*from..*to]);
        }
        all
    }
}

fn to_struct(slots: &[Slot]) -> StructArray {
    let float = |f: fn(&Slot) -> f64| -> ArrayRef { Arc::new(slots.iter().map(f).collect::<Float64Array>()) };
    let time = |f: fn(&Slot) -> i64| -> ArrayRef {
        let us: Vec<i64> = slots.iter().map(f).collect();
        Arc::new(TimestampMicrosecondArray::from(us).with_timezone("UTC"))
    };
    StructArray::new(
        state_fields(),
        vec![
            Arc::new(slots.iter().map(|s| s.count).collect::<Int64Array>()),
            float(|s| s.sum),
            float(|s| s.m2),
            float(|s| s.min),
            float(|s| s.max),
            time(|s| s.first_ts),
            float(|s| s.first),
            time(|s| s.last_ts),
            float(|s| s.last),
        ],
        None,
    )
}

/// The columns of a struct of states as slices.
struct StateColumns<'a> {
    count: &'a [i64],
    sum: &'a [f64],
    m2: &'a [f64],
    min: &'a [f64],
    max: &'a [f64],
    first_ts: &'a [i64],
    first: &'a [f64],
    last_ts: &'a [i64],
    last: &'a [f64],
}

impl<'a> StateColumns<'a> {
    fn of(states: &'a dyn Array) -> Result<Self, ArrowError> {
        if *states.data_type() != state_type() || states.null_count() > 0 {
            return Err(ArrowError::SchemaError(format!("not a column of states: {}", states.data_type())));
        }
        let s = states.as_struct();
        let float = |i: usize| -> &'a [f64] { s.column(i).as_primitive::<Float64Type>().values() };
        let time =
            |i: usize| -> &'a [i64] { s.column(i).as_primitive::<TimestampMicrosecondType>().values() };
        Ok(Self {
            count: s.column(0).as_primitive::<Int64Type>().values(),
            sum: float(1),
            m2: float(2),
            min: float(3),
            max: float(4),
            first_ts: time(5),
            first: float(6),
            last_ts: time(7),
            last: float(8),
        })
    }

    #[inline]
    fn slot(&self, i: usize) -> Slot {
        Slot {
            count: self.count[i],
            sum: self.sum[i],
            m2: self.m2[i],
            min: self.min[i],
            max: self.max[i],
            first_ts: self.first_ts[i],
            first: self.first[i],
            last_ts: self.last_ts[i],
            last: self.last[i],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::delta::Partial;
    use fleetscore_schemas::time::Timestamp;
    use proptest::prelude::*;

    #[test]
    fn fields_are_the_deltas_without_their_key() {
        let names: Vec<_> = state_fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["count", "sum", "m2", "min", "max", "first_ts", "first", "last_ts", "last"]);
    }

    #[test]
    fn taking_the_first_groups_moves_the_others_down() {
        let mut p = Partials::default();
        p.update(&[1, 2, 3], &[1.0, 2.0, 3.0], &[0, 1, 2], None, 3);
        let taken = p.take(2);
        assert_eq!(taken.len(), 2);
        assert_eq!(p.slots(), [Slot::of(3, 3.0)]);
        assert_eq!(p.take(5).len(), 1);
        assert!(p.is_empty());
    }

    #[test]
    fn states_of_another_type_are_refused() {
        let mut p = Partials::default();
        assert!(p.merge(&Int64Array::from(vec![1]), &[0], 1).is_err());
    }

    proptest! {
        #[test]
        fn columns_agree_with_rows_however_they_are_split(
            rows in prop::collection::vec((0usize..5, 0i64..8, -1e3..1e3f64), 1..60),
            cut in 0usize..60,
        ) {
            let cut = cut.min(rows.len());
            let mut want: Vec<Option<Partial>> = vec![None; 5];
            for (g, ts, v) in &rows {
                let one = Partial::of(Timestamp(*ts), *v);
                want[*g] = Some(want[*g].map_or(one, |p| p.merge(&one)));
            }
            let fill = |rows: &[(usize, i64, f64)]| {
                let mut p = Partials::default();
                let ts: Vec<i64> = rows.iter().map(|r| r.1).collect();
                let values: Vec<f64> = rows.iter().map(|r| r.2).collect();
                let groups: Vec<usize> = rows.iter().map(|r| r.0).collect();
                p.update(&ts, &values, &groups, None, 5);
                p
            };
            let whole = fill(&rows);
            for (slot, want) in whole.slots().iter().zip(&want) {
                prop_assert_eq!(&slot.to_partial(), want);
            }
            let mut parts = fill(&rows[..cut]);
            let mut other = fill(&rows[cut..]);
            let states = other.take(5);
            parts.merge(&states, &[0, 1, 2, 3, 4], 5).unwrap();
            for (slot, want) in parts.slots().iter().zip(&want) {
                let (Some(got), Some(want)) = (slot.to_partial(), want) else {
                    prop_assert_eq!(slot.to_partial().is_none(), want.is_none());
                    continue;
                };
                prop_assert_eq!(
                    (got.count, got.min, got.max, got.first, got.last),
                    (want.count, want.min, want.max, want.first, want.last)
                );
                prop_assert!((got.sum - want.sum).abs() <= 1e-9 * (1.0 + want.sum.abs()));
                prop_assert!((got.m2 - want.m2).abs() <= 1e-6 * (1.0 + want.m2.abs()));
            }
        }
    }
}
