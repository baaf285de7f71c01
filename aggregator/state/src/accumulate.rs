//! Partial aggregates of many groups, filled from columns.

use crate::admit::split_key;
use crate::merge::Slot;
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StructArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::{concat, take};
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

/// Groups that lie together: what is allocated at once.
const CHUNK: usize = 256;

/// One aggregate per group; groups are numbered densely from 0.
///
/// In chunks that stay where they are: nothing is copied, and next to nothing held in reserve, where groups become more.
#[derive(Debug, Default)]
pub struct Partials {
    chunks: Vec<Box<[Slot; CHUNK]>>,
    len: usize,
}

impl Partials {
    /// Number of groups.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes allocated.
    pub fn size(&self) -> usize {
        self.chunks.len() * size_of::<[Slot; CHUNK]>() + self.chunks.capacity() * size_of::<usize>()
    }

    /// The aggregates, by group.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
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
                    self.slot(*group).add(*ts, *value);
                }
            }
            Some(keep) => {
                for i in (0..ts.len()).filter(|i| keep(*i)) {
                    self.slot(groups[i]).add(ts[i], values[i]);
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
            self.slot(*group).merge(&columns.slot(i));
        }
        Ok(())
    }

    /// Takes out the first `n` groups as a struct of [`state_fields`]; the others move down to 0.
    pub fn take(&mut self, n: usize) -> ArrayRef {
        let n = n.min(self.len);
        let taken = to_struct(n, || self.slots());
        let mut rest = Self::default();
        rest.grow(self.len - n);
        for (to, from) in self.slots().skip(n).enumerate() {
            *rest.slot(to) = *from;
        }
        *self = rest;
        Arc::new(taken)
    }

    #[inline(always)]
    fn slot(&mut self, group: usize) -> &mut Slot {
        &mut self.chunks[group / CHUNK][group % CHUNK]
    }

    fn grow(&mut self, total: usize) {
        self.len = self.len.max(total);
        while self.chunks.len() * CHUNK < total {
            self.chunks.push(Box::new([Slot::default(); CHUNK]));
        }
    }
}

/// States of single readings: what [`Partials::update`] would hold if every reading were a group of its own.
pub fn states_of(ts: &[i64], values: &[f64]) -> ArrayRef {
    let slots: Vec<Slot> = ts.iter().zip(values).map(|(ts, v)| Slot::of(*ts, *v)).collect();
    Arc::new(to_struct(slots.len(), || slots.iter()))
}

/// Groups in ascending order of their keys, with their states: see [`deltas_of`].
#[derive(Debug)]
pub struct Sorted {
    keys: Vec<u64>,
    /// Those of a state.
    columns: Vec<ArrayRef>,
}

impl Sorted {
    /// Sorts groups; `states` is a column of states, as many as there are keys.
    ///
    /// # Errors
    /// If it is not.
    pub fn of(keys: &[u64], states: &dyn Array) -> Result<Self, ArrowError> {
        StateColumns::of(states)?;
        if states.len() != keys.len() {
            let what = format!("{} keys, {} states", keys.len(), states.len());
            return Err(ArrowError::InvalidArgumentError(what));
        }
        let mut order: Vec<(u64, u32)> = keys.iter().enumerate().map(|(i, k)| (*k, i as u32)).collect();
        order.sort_unstable();
        let (keys, order): (Vec<u64>, Vec<u32>) = order.into_iter().unzip();
        let sorted = take(states, &UInt32Array::from(order), None)?;
        Ok(Self { keys, columns: sorted.as_struct().columns().to_vec() })
    }
}

/// Deltas of groups (see [`crate::admit::group_key`]): columns of [`delta::schema`], sorted by (pane, series). The series of
/// each part are above those of the parts before it, so that nothing is left to compare.
///
/// # Errors
/// If Arrow refuses the columns.
pub fn deltas_of(parts: Vec<Sorted>, grid: PaneGrid) -> Result<RecordBatch, ArrowError> {
    let total = parts.iter().map(|part| part.keys.len()).sum();
    if total == 0 {
        return Ok(RecordBatch::new_empty(delta::schema()));
    }
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
    // Column by column, each of which is dropped when it is joined: all of it is there once, not twice.
    let mut parts: Vec<_> = parts.into_iter().map(|part| part.columns.into_iter()).collect();
    for _ in state_fields().iter() {
        let column: Vec<ArrayRef> = parts.iter_mut().filter_map(Iterator::next).collect();
        let slices: Vec<ArrayRef> =
            stretches.iter().map(|(part, from, to)| column[*part].slice(*from, to - from)).collect();
        columns.push(concat(&slices.iter().map(|slice| &**slice).collect::<Vec<_>>())?);
    }
    RecordBatch::try_new(delta::schema(), columns)
}

/// The first `n` of these aggregates as columns.
fn to_struct<'s, I: Iterator<Item = &'s Slot>>(n: usize, slots: impl Fn() -> I) -> StructArray {
    fn column<'s, T>(n: usize, slots: impl Iterator<Item = &'s Slot>, of: fn(&Slot) -> T) -> Vec<T> {
        let mut all = Vec::with_capacity(n);
        all.extend(slots.take(n).map(of));
        all
    }
    let float = |of: fn(&Slot) -> f64| -> ArrayRef { Arc::new(Float64Array::from(column(n, slots(), of))) };
    let time = |of: fn(&Slot) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(column(n, slots(), of)).with_timezone("UTC"))
    };
    StructArray::new(
        state_fields(),
        vec![
            Arc::new(Int64Array::from(column(n, slots(), |s| s.count))),
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
        assert!(p.slots().eq(&[Slot::of(3, 3.0)]));
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
            for (slot, want) in whole.slots().zip(&want) {
                prop_assert_eq!(&slot.to_partial(), want);
            }
            let mut parts = fill(&rows[..cut]);
            let mut other = fill(&rows[cut..]);
            let states = other.take(5);
            parts.merge(&states, &[0, 1, 2, 3, 4], 5).unwrap();
            for (slot, want) in parts.slots().zip(&want) {
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
