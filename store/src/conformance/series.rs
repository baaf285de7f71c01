//! Series and their ids.

use super::fixture::*;
use crate::*;
use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use std::collections::BTreeSet;

super::list![
    an_id_belongs_to_one_name_for_ever,
    no_more_series_than_allowed,
    names_are_compared_byte_by_byte,
    concurrent_interning_agrees,
    concurrent_interning_respects_the_bound,
    names_come_in_batches,
];

fn names(range: std::ops::Range<i32>) -> Vec<SeriesName> {
    range.map(|i| SeriesName::new(format!("device-{i:03}"), "temp")).collect()
}

async fn an_id_belongs_to_one_name_for_ever(store: Arc<dyn Store>) {
    let mut asked = names(0..20);
    asked.reverse();
    asked.push(asked[3].clone());
    assert_eq!(store.lookup(&asked).await.unwrap(), vec![None; 21]);
    let ids = store.intern(&asked, 100).await.unwrap();
    assert_eq!(ids[3], ids[20], "a name given twice is one series");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 20);
    assert_eq!(store.intern(&asked, 100).await.unwrap(), ids);
    assert_eq!(store.lookup(&asked).await.unwrap(), ids);
    let listed = store.series().await.unwrap();
    assert_eq!(listed.len(), 20);
    assert!(listed.windows(2).all(|w| w[0].0 < w[1].0), "ascending by id");
    for (name, id) in asked.iter().zip(&ids) {
        assert!(listed.contains(&(id.unwrap(), name.clone())));
    }
    assert!(store.intern(&[], 100).await.unwrap().is_empty());
}

async fn no_more_series_than_allowed(store: Arc<dyn Store>) {
    let first = store.intern(&names(0..3), 5).await.unwrap();
    let more = store.intern(&names(0..9), 5).await.unwrap();
    assert_eq!(more[..3], first);
    assert_eq!(more.iter().flatten().count(), 5);
    assert_eq!(store.series().await.unwrap().len(), 5);
    assert_eq!(store.intern(&names(0..9), 5).await.unwrap(), more, "the bound answers the same again");
    assert!(store.intern(&names(0..9), 9).await.unwrap().iter().all(Option::is_some));
    assert_eq!(store.intern(&names(0..3), 1).await.unwrap(), first, "a lower bound takes nothing away");
}

async fn names_are_compared_byte_by_byte(store: Arc<dyn Store>) {
    let long = "ü".repeat(128);
    let pairs = [
        ("a", "b c"),
        ("a b", "c"),
        ("A", "b c"),
        ("a ", "b c"),
        ("a", "B c"),
        ("é", "x"),
        ("e\u{301}", "x"),
        ("'; DROP TABLE x; --", "\"q\""),
        ("%_\\", "$1"),
        (long.as_str(), long.as_str()),
        ("1", "1"),
        ("1.0", "1"),
    ];
    let asked: Vec<_> = pairs.iter().map(|(d, s)| SeriesName::new(*d, *s)).collect();
    let ids: Vec<_> = store.intern(&asked, 100).await.unwrap().into_iter().map(Option::unwrap).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), pairs.len());
    let listed = store.series().await.unwrap();
    assert!(ids.iter().zip(&asked).all(|(id, name)| listed.contains(&(*id, name.clone()))));
}

/// The same call until it is not contended.
async fn intern(store: Arc<dyn Store>, names: Vec<SeriesName>, max: u32) -> Vec<Option<SeriesId>> {
    super::patiently!(store.intern(&names, max))
}

async fn concurrent_interning_agrees(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let mut asked = names(i * 5..i * 5 + 60);
            if i % 2 == 1 {
                asked.reverse();
            }
            let store = store.clone();
            tokio::spawn(async move { (asked.clone(), intern(store, asked, 1000).await) })
        })
        .collect();
    for task in tasks {
        let (asked, ids) = task.await.unwrap();
        assert!(ids.iter().all(Option::is_some));
        assert_eq!(store.lookup(&asked).await.unwrap(), ids);
    }
    assert_eq!(store.series().await.unwrap().len(), 95);
}

async fn concurrent_interning_respects_the_bound(store: Arc<dyn Store>) {
    let tasks: Vec<_> =
        (0..6).map(|i| tokio::spawn(intern(store.clone(), names(i * 10..i * 10 + 10), 25))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.series().await.unwrap().len(), 25);
    // And a stream that starts on a full store still finds its own.
    assert_eq!(store.intern(&names(0..60), 25).await.unwrap().iter().flatten().count(), 25);
}

async fn names_come_in_batches(store: Arc<dyn Store>) {
    assert!(batches(store.series_batches().await).await.iter().all(|b| b.num_rows() == 0));
    let names: Vec<_> =
        (0..9000).map(|i| SeriesName::new(format!("d{}", i / 3), format!("s{}", i % 3))).collect();
    store.intern(&names, 9000).await.unwrap();
    let mut got = Vec::new();
    for batch in batches(store.series_batches().await).await {
        assert_eq!(batch.schema(), fleetscore_schemas::window::series_schema());
        assert!((1..=8192).contains(&batch.num_rows()));
        let (ids, devices, sensors) = (batch.column(0), batch.column(1), batch.column(2));
        let (devices, sensors) = (devices.as_string::<i32>(), sensors.as_string::<i32>());
        let ids = ids.as_primitive::<UInt32Type>().values();
        got.extend(
            ids.iter().enumerate().map(|(i, id)| (*id, SeriesName::new(devices.value(i), sensors.value(i)))),
        );
    }
    assert_eq!(got, store.series().await.unwrap());
    assert_eq!(got.len(), 9000);
}
