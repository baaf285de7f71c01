//! Partial aggregates of many groups, filled from columns.

use crate::admit::split_key;
use crate::slot::Slot;
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, PrimitiveArray, RecordBatch, StructArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Fields, Float64Type, Int64Type, TimestampMicrosecondType,
};
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

    /// Adds readings: `groups[i]` is the group of reading `i`, below `total`.
    ///
    /// # Panics
    /// If the columns differ in length or (in a debug build, else now and then) a group is not below `total`: the caller's
    /// bug.
    pub fn update(&mut self, ts: &[i64], values: &[f64], groups: &[usize], total: usize) {
        assert!(ts.len() == values.len() && ts.len() == groups.len(), "columns of one length");
        self.grow(total);
        for ((ts, value), group) in ts.iter().zip(values).zip(groups) {
            self.slot(*group).add(*ts, *value);
        }
    }

    /// Takes all groups out, as a struct of [`state_fields`].
    pub fn take(&mut self) -> ArrayRef {
        Arc::new(to_struct(&std::mem::take(self)))
    }

    #[inline(always)]
    fn slot(&mut self, group: usize) -> &mut Slot {
        debug_assert!(group < self.len, "groups are below the total");
        &mut self.chunks[group / CHUNK][group % CHUNK]
    }

    fn grow(&mut self, total: usize) {
        self.len = self.len.max(total);
        while self.chunks.len() * CHUNK < total {
            self.chunks.push(Box::new([Slot::default(); CHUNK]));
        }
    }
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
        if *states.data_type() != state_type() || states.null_count() > 0 || states.len() != keys.len() {
            let what = format!("not {} states: {} of {}", keys.len(), states.len(), states.data_type());
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
            if to > from {
                stretches.push((p, from, to));
            }
            done[p] = to;
        }
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from(series)),
        Arc::new(TimestampMicrosecondArray::from(starts).with_timezone("UTC")),
    ];
    // Column by column, each of which is dropped when it is joined: all of it is there once, not twice.
    let mut parts: Vec<_> = parts.into_iter().map(|part| part.columns.into_iter()).collect();
    for field in &state_fields() {
        let column: Vec<ArrayRef> = parts.iter_mut().filter_map(Iterator::next).collect();
        columns.push(match field.data_type() {
            DataType::Int64 => Arc::new(joined::<Int64Type>(&column, &stretches)),
            DataType::Float64 => Arc::new(joined::<Float64Type>(&column, &stretches)),
            _ => Arc::new(joined::<TimestampMicrosecondType>(&column, &stretches).with_timezone("UTC")),
        });
    }
    RecordBatch::try_new(delta::schema(), columns)
}

/// One column of all parts, stretch by stretch. Not by Arrow's `concat`: where panes are many, a stretch may be one group, and
/// an array for each of them would take many times the memory of the groups.
fn joined<T: ArrowPrimitiveType>(
    column: &[ArrayRef],
    stretches: &[(usize, usize, usize)],
) -> PrimitiveArray<T> {
    let parts: Vec<&[T::Native]> = column.iter().map(|part| &part.as_primitive::<T>().values()[..]).collect();
    let mut all = Vec::with_capacity(stretches.iter().map(|(_, from, to)| to - from).sum());
    stretches.iter().for_each(|(part, from, to)| all.extend_from_slice(&parts[*part][*from..*to]));
    PrimitiveArray::new(all.into(), None)
}

fn to_struct(partials: &Partials) -> StructArray {
    fn column<T>(partials: &Partials, of: fn(&Slot) -> T) -> Vec<T> {
        let mut all = Vec::with_capacity(partials.len());
        all.extend(partials.slots().map(of));
        all
    }
    let float = |of| -> ArrayRef { Arc::new(Float64Array::from(column(partials, of))) };
    let time = |of| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(column(partials, of)).with_timezone("UTC"))
    };
    StructArray::new(
        state_fields(),
        vec![
            Arc::new(Int64Array::from(column(partials, |s| s.count))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::group_key;
    use arrow::datatypes::UInt32Type;
    use fleetscore_schemas::delta::Partial;
    use fleetscore_schemas::time::{Edges, Timestamp};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn fields_are_the_deltas_without_their_key() {
        let names: Vec<_> = state_fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["count", "sum", "m2", "min", "max", "first_ts", "first", "last_ts", "last"]);
    }

    #[test]
    fn what_is_no_column_of_states_is_refused() {
        assert!(Sorted::of(&[1], &Int64Array::from(vec![1])).is_err());
        assert!(Sorted::of(&[1], &Partials::default().take()).is_err(), "one key, no state");
    }

    proptest! {
        #[test]
        fn columns_agree_with_rows(
            rows in prop::collection::vec((0usize..700, 0i64..8, -1e3..1e3f64), 0..2000),
        ) {
            let mut want: Vec<Option<Partial>> = vec![None; 700];
            for (g, ts, v) in &rows {
                let one = Partial::of(Timestamp(*ts), *v);
                want[*g] = Some(want[*g].map_or(one, |p| p.merge(&one)));
            }
            let ts: Vec<i64> = rows.iter().map(|r| r.1).collect();
            let values: Vec<f64> = rows.iter().map(|r| r.2).collect();
            let groups: Vec<usize> = rows.iter().map(|r| r.0).collect();
            let mut p = Partials::default();
            // Groups become more as rows come.
            let mut total = 0;
            for i in 0..rows.len() {
                total = total.max(groups[i] + 1);
                p.update(&ts[i..=i], &values[i..=i], &groups[i..=i], total);
            }
            prop_assert_eq!(p.len(), total);
            for (slot, want) in p.slots().zip(&want) {
                prop_assert_eq!(&slot.to_partial(), want);
            }
            let states = p.take();
            prop_assert!(p.is_empty() && states.len() == total);
        }

        #[test]
        fn deltas_are_all_groups_of_all_parts_by_pane_and_series(
            groups in prop::collection::btree_set((0i64..6, 0u32..40), 0..100),
            parts in 1usize..5,
            turn in 0usize..100,
        ) {
            let mut of_parts: Vec<(Vec<u64>, Partials)> = Vec::new();
            of_parts.resize_with(parts, Default::default);
            let mut shuffled: Vec<_> = groups.iter().copied().collect();
            shuffled.rotate_left(turn.min(groups.len()));
            for (pane, series) in shuffled {
                let (keys, partials) = &mut of_parts[series as usize * parts / 40];
                keys.push(group_key(pane, series));
                let (ts, value) = (pane * 10 + 1, f64::from(series));
                partials.update(&[ts, ts + 1], &[value, value + 1.0], &[keys.len() - 1; 2], keys.len());
            }
            let sorted: Vec<Sorted> =
                of_parts.into_iter().map(|(keys, mut partials)| Sorted::of(&keys, &partials.take()).unwrap()).collect();
            let grid = PaneGrid { len_us: 10, edges: Edges::Start };
            let deltas = deltas_of(sorted, grid).unwrap();
            let times = |name: &str| {
                deltas.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().values().to_vec()
            };
            let floats = |name: &str| {
                deltas.column_by_name(name).unwrap().as_primitive::<Float64Type>().values().to_vec()
            };
            let series = deltas.column_by_name(columns::SERIES).unwrap().as_primitive::<UInt32Type>().values().to_vec();
            let got: BTreeSet<(i64, u32)> =
                times(columns::PANE_START).iter().map(|start| start / 10).zip(series.iter().copied()).collect();
            prop_assert_eq!(&got, &groups);
            let keys: Vec<_> = times(columns::PANE_START).into_iter().zip(series.iter().copied()).collect();
            prop_assert!(keys.is_sorted() && keys.len() == groups.len());
            for (i, (start, series)) in keys.into_iter().enumerate() {
                let value = f64::from(series);
                prop_assert_eq!((times("first_ts")[i], times("last_ts")[i]), (start + 1, start + 2));
                prop_assert_eq!((floats("first")[i], floats("last")[i], floats("sum")[i]), (value, value + 1.0, 2.0 * value + 1.0));
                prop_assert_eq!((floats("min")[i], floats("max")[i], floats("m2")[i]), (value, value + 1.0, 0.5));
            }
        }
    }
}
