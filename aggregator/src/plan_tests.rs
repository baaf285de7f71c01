use super::*;
use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType, UInt32Type};
use fleetscore_aggregator_core::Groups;
use fleetscore_schemas::delta::{PaneKey, Partial};
use fleetscore_schemas::time::{Edges, Timestamp};
use fleetscore_state::Admitted;
use fleetscore_state::admit::group_key;
use proptest::prelude::*;
use std::collections::BTreeMap;

const GRID: PaneGrid = PaneGrid { len_us: 5_000_000, edges: Edges::Start };

/// Deltas as rows, in the order in which they stand.
pub(crate) fn rows_of(deltas: &RecordBatch) -> Vec<(PaneKey, Partial)> {
    let time = |i: usize| deltas.column(i).as_primitive::<TimestampMicrosecondType>();
    let float = |i: usize| deltas.column(i).as_primitive::<Float64Type>();
    let series = deltas.column(0).as_primitive::<UInt32Type>();
    let count = deltas.column(2).as_primitive::<Int64Type>();
    (0..deltas.num_rows())
        .map(|i| {
            let partial = Partial {
                count: count.value(i),
                sum: float(3).value(i),
                m2: float(4).value(i),
                min: float(5).value(i),
                max: float(6).value(i),
                first: (Timestamp(time(7).value(i)), float(8).value(i)),
                last: (Timestamp(time(9).value(i)), float(10).value(i)),
            };
            ((Timestamp(time(1).value(i)), series.value(i)), partial)
        })
        .collect()
}

fn push(pending: &mut Pending, rows: &[(u32, i64, f64)]) {
    let mut admitted = Admitted {
        keys: rows.iter().map(|r| group_key(GRID.index_of(r.1), r.0)).collect(),
        ts: rows.iter().map(|r| r.1).collect(),
        values: rows.iter().map(|r| r.2).collect(),
        ..Admitted::default()
    };
    pending.push(&mut admitted);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

fn check(rows: &[(u32, i64, f64)], deltas: &RecordBatch) -> Result<(), TestCaseError> {
    let mut want: BTreeMap<PaneKey, Partial> = BTreeMap::new();
    for (series, ts, v) in rows {
        let one = Partial::of(Timestamp(*ts), *v);
        let key = (GRID.pane_of(Timestamp(*ts)).start, *series);
        want.entry(key).and_modify(|p| *p = p.merge(&one)).or_insert(one);
    }
    let got = rows_of(deltas);
    prop_assert_eq!(
        got.iter().map(|(k, _)| *k).collect::<Vec<_>>(),
        want.keys().copied().collect::<Vec<_>>(),
        "one row per key, in order"
    );
    for ((_, g), w) in got.iter().zip(want.values()) {
        prop_assert_eq!((g.count, g.min, g.max, g.first, g.last), (w.count, w.min, w.max, w.first, w.last));
        prop_assert!((g.sum - w.sum).abs() <= 1e-9 * (1.0 + w.sum.abs()));
        prop_assert!((g.m2 - w.m2).abs() <= 1e-6 * (1.0 + w.m2.abs()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_query_agrees_with_the_row_form_however_rows_are_split_and_compacted(
        rows in prop::collection::vec((prop_oneof![0u32..6, 0u32..500], 1_000_000_000i64..1_030_000_000, -1e3..1e3f64), 0..400),
        compact_at in prop::collection::btree_set(0usize..400, 0..4),
        cores in 1usize..4,
        split_rows in prop_oneof![Just(SPLIT_ROWS), 0usize..100],
    ) {
        let plans = Plans { split_rows, ..Plans::new(GRID, cores).unwrap() };
        runtime().block_on(async {
            // The plans are kept: a second run must not see anything of the first.
            for _ in 0..2 {
                let mut pending = Pending::default();
                for (i, chunk) in rows.chunks(7).enumerate() {
                    push(&mut pending, chunk);
                    if compact_at.range(i * 7..(i + 1) * 7).next().is_some() {
                        pending = plans.compact(pending).await.unwrap();
                        prop_assert_eq!(pending.row_bytes(), 0);
                    }
                }
                prop_assert_eq!(pending.is_empty(), rows.is_empty());
                let deltas = plans.deltas(pending).await.unwrap();
                check(&rows, &deltas)?;
            }
            Ok(())
        })?;
    }
}

#[test]
fn more_series_than_when_the_query_was_begun_come_to_its_last_part() {
    let rows: Vec<(u32, i64, f64)> =
        (0..220_000u32).map(|i| (i % 180_000, 2_000_000_000, f64::from(i))).collect();
    let (early, late) = rows.split_at(140_000);
    let plans = Plans::new(GRID, 1).unwrap();
    let mut pending = Pending::default();
    push(&mut pending, early);
    let mut pending = runtime().block_on(plans.compact(pending)).unwrap();
    assert!((140_000 * 72..140_000 * 150).contains(&pending.bytes()), "{}", pending.bytes());
    push(&mut pending, late);
    let deltas = runtime().block_on(plans.deltas(pending)).unwrap();
    check(&rows, &deltas).unwrap();
}

#[tokio::test]
async fn a_part_takes_in_all_it_is_given_however_small_its_batches_are() {
    // Within a task, and not on a thread of its own, DataFusion's streams pause after some hundred batches.
    let query = Query::new(1).unwrap();
    let mut grouping = query.begin(0).unwrap();
    let rows: Vec<(u32, i64, f64)> = (0..1000u32).map(|i| (i, 2_000_000_000, f64::from(i))).collect();
    let batches = |rows: &[(u32, i64, f64)]| -> Vec<RecordBatch> {
        let one = |row| {
            let mut pending = Pending::default();
            push(&mut pending, std::slice::from_ref(row));
            pending.into_parts::<Grouping>().unwrap().0
        };
        rows.iter().flat_map(one).collect()
    };
    let (early, late) = (batches(&rows[..600]), batches(&rows[600..]));
    let part = grouping.parts.pop().unwrap();
    let part = on_its_own(move || part.take_in(early)).await.unwrap();
    let taken = grouping.bytes();
    assert!(taken >= 600 * 72, "{taken}");
    let sorted = on_its_own(move || part.finish(late)).await.unwrap();
    check(&rows, &deltas_of(vec![sorted], GRID).unwrap()).unwrap();
}
