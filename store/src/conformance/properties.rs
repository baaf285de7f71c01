//! Random readings, random orders, random cuts: the panes are those of a direct computation.

use super::fixture::*;
use super::merging::{Arriving, arrive};
use crate::*;
use proptest::prelude::*;

/// Readings as (minute, series, microseconds into the pane, value), and lengths of checkpoints. Times and values
/// repeat often, and values lie far from zero as well as around it.
fn cases() -> impl Strategy<Value = (Vec<(i64, usize, i64, f64)>, Vec<usize>)> {
    let value = prop_oneof![
        (-50i32..50).prop_map(f64::from),
        -1e6..1e6,
        (0u32..1000).prop_map(|i| 1e9 + f64::from(i) / 7.0),
        Just(0.0),
    ];
    let reading = (0i64..4, 0usize..3, prop_oneof![0i64..5, 0i64..60_000_000], value);
    (prop::collection::vec(reading, 1..120), prop::collection::vec(1usize..40, 0..30))
}

async fn check(store: Arc<dyn Store>, readings: &[(i64, usize, i64, f64)], cuts: &[usize]) {
    let mut s = stream(store, 1).await;
    let arriving: Vec<Arriving> = readings
        .iter()
        .map(|(minute, series, us, value)| {
            ((at(*minute), s.series[*series]), at(*minute).plus_us(*us), *value)
        })
        .collect();
    arrive(&mut s, &arriving, cuts).await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn in_memory((readings, cuts) in cases()) {
        runtime().block_on(check(Arc::new(MemoryStore::new()), &readings, &cuts));
    }
}

proptest! {
    // A file each: fewer of them.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn in_sqlite((readings, cuts) in cases()) {
        let folder = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let store = SqliteStore::open(&folder.path().join("s.db")).unwrap();
            store.migrate().await.unwrap();
            check(Arc::new(store), &readings, &cuts).await;
        });
    }
}
