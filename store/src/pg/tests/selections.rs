//! Selections of series, in the statements and beside them.

use super::*;
use crate::{Selection, SeriesRange};
use arrow::datatypes::UInt32Type;

async fn read(store: &PgStore, minutes: i64, selection: &Selection) -> Vec<SeriesId> {
    let interval = Interval { start: at(0), end: at(minutes) };
    let batches: Vec<RecordBatch> =
        store.windows(interval, selection).await.unwrap().try_collect().await.unwrap();
    batches.iter().flat_map(|b| b.column(0).as_primitive::<UInt32Type>().values().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_are_of_the_selection_however_many_series_it_names() {
    let Some(url) = server() else { return };
    let databases = Databases::new(&url, "selections");
    let mut stream = Stream::new(databases.store().await, 300).await;
    for minute in 0..3 {
        let some = (1..=300).filter(|id| minute != 1 || id % 2 == 0);
        let rows: Vec<_> = some.map(|id| (at(minute), id, Partial::of(at(minute), 1.0))).collect();
        stream.commit(&rows).await;
    }
    let ids = |step: usize, range: std::ops::Range<u32>| -> Vec<u32> { range.step_by(step).collect() };
    let part = SeriesRange { from: 50, until: Some(200) };
    // Few are named in the statement, many are looked for in what comes; all panes of a week are one branch.
    for minutes in [1, 2, 3, 60 * 24 * 7] {
        let cases = [
            (Selection::ALL, ids(1, 1..301)),
            (Selection::of(part), ids(1, 50..200)),
            (Selection::of(SeriesRange { from: 290, until: None }), ids(1, 290..301)),
            (Selection { range: part, ids: Some(vec![].into()) }, vec![]),
            (Selection { range: part, ids: Some(ids(70, 50..200).into()) }, ids(70, 50..200)),
            (Selection { range: part, ids: Some(ids(3, 50..200).into()) }, ids(3, 50..200)),
            (Selection { range: SeriesRange::ALL, ids: Some(vec![7, 900].into()) }, vec![7]),
        ];
        for (selection, wanted) in cases {
            assert_eq!(read(&stream.store, minutes, &selection).await, wanted, "{minutes} {selection:?}");
        }
    }
    databases.drop_all().await;
}
