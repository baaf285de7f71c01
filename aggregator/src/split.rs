//! Readings split by ranges of series, so that the groups of each part fit into the processor's cache, and no two parts have
//! one in common: all of the way from JSON to panes is half as fast again at a million series.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType, UInt64Type};
use arrow::error::ArrowError;
use fleetscore_aggregator_core::Pending;
use fleetscore_state::admit::split_key;

/// How many parts there are.
pub(crate) const PARTS: usize = 64;

/// The part of a series: ranges of 2^shift series, all beyond in the last.
#[inline(always)]
fn part_of(key: u64, shift: u32) -> usize {
    ((split_key(key).1 >> shift) as usize).min(PARTS - 1)
}

fn keys(batch: &RecordBatch) -> &[u64] {
    batch.column(0).as_primitive::<UInt64Type>().values()
}

/// The shift by which these readings come to all parts.
pub(crate) fn shift_for(rows: &[RecordBatch]) -> u32 {
    let greatest = rows.iter().flat_map(keys).map(|key| split_key(*key).1).max().unwrap_or(0);
    (u32::BITS - greatest.leading_zeros()).saturating_sub(PARTS.trailing_zeros())
}

/// Splits batches of readings (the columns of [`Pending::schema`]), which are dropped on the way.
///
/// # Errors
/// If Arrow refuses the columns.
pub(crate) fn split(rows: Vec<RecordBatch>, shift: u32) -> Result<Vec<Vec<RecordBatch>>, ArrowError> {
    let mut counts = [0; PARTS];
    rows.iter().flat_map(keys).for_each(|key| counts[part_of(*key, shift)] += 1);
    let mut all: Vec<Columns> = counts.iter().map(|n| Columns::with_capacity(*n)).collect();
    let mut parts: Vec<u8> = Vec::new();
    for batch in rows {
        let keys = keys(&batch);
        parts.clear();
        parts.extend(keys.iter().map(|key| part_of(*key, shift) as u8)); // there are 64
        // Column by column: a core can only write to so many places at a time.
        let ts = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
        let values = batch.column(2).as_primitive::<Float64Type>().values();
        parts.iter().zip(keys).for_each(|(p, key)| all[usize::from(*p)].keys.push(*key));
        parts.iter().zip(ts).for_each(|(p, ts)| all[usize::from(*p)].ts.push(*ts));
        parts.iter().zip(values).for_each(|(p, value)| all[usize::from(*p)].values.push(*value));
    }
    all.into_iter().map(|c| Ok(Pending::batches(c.keys, c.ts, c.values)?.collect())).collect()
}

struct Columns {
    keys: Vec<u64>,
    ts: Vec<i64>,
    values: Vec<f64>,
}

impl Columns {
    fn with_capacity(n: usize) -> Self {
        Self { keys: Vec::with_capacity(n), ts: Vec::with_capacity(n), values: Vec::with_capacity(n) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grouping::Grouping;
    use fleetscore_state::Admitted;
    use fleetscore_state::admit::group_key;
    use proptest::prelude::*;

    fn batches(series: &[u32]) -> Vec<RecordBatch> {
        let mut pending = Pending::default();
        for (i, series) in (0..).zip(series) {
            pending.push(&mut Admitted {
                keys: vec![group_key(i % 3, *series)],
                ts: vec![i],
                values: vec![i as f64],
                ..Admitted::default()
            });
        }
        pending.into_parts::<Grouping>().unwrap().0
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_part_whole_and_parts_are_ranges(
            series in prop::collection::vec(prop_oneof![0u32..100, any::<u32>()], 0..300),
            shift in prop::option::of(0u32..32),
        ) {
            let rows = batches(&series);
            let shift = shift.unwrap_or_else(|| shift_for(&rows));
            let parts = split(rows, shift).unwrap();
            prop_assert_eq!(parts.len(), PARTS);
            let mut seen = vec![false; series.len()];
            let mut above = None;
            for part in &parts {
                let mut greatest = above;
                for batch in part {
                    let (ts, values) = (batch.column(1).as_primitive::<TimestampMicrosecondType>(), batch.column(2).as_primitive::<Float64Type>());
                    for (i, key) in keys(batch).iter().enumerate() {
                        let row = ts.value(i) as usize;
                        prop_assert_eq!((split_key(*key), values.value(i)), ((row as i64 % 3, series[row]), row as f64));
                        prop_assert!(!std::mem::replace(&mut seen[row], true));
                        prop_assert!(above.is_none_or(|a| series[row] > a), "below a part before");
                        greatest = greatest.max(Some(series[row]));
                    }
                }
                above = greatest;
            }
            prop_assert!(seen.into_iter().all(|s| s));
        }
    }

    #[test]
    fn the_shift_uses_all_parts() {
        for (greatest, shift) in
            [(0, 0), (63, 0), (64, 1), (127, 1), (128, 2), (1_000_000, 14), (u32::MAX, 26)]
        {
            assert_eq!(shift_for(&batches(&[1, greatest])), shift, "{greatest}");
            assert!(part_of(u64::from(greatest), shift) < PARTS);
        }
    }
}
