//! The registry of model sets.

use super::fixture::*;
use crate::*;
use std::collections::BTreeSet;

super::list![
    a_model_set_is_listed_as_it_was_added,
    one_model_set_is_active,
    rollback_goes_back_step_by_step,
    a_version_is_reserved_once,
    adding_again_after_a_lost_answer_is_no_error,
];

fn set(version: i64) -> ModelSetRow {
    ModelSetRow {
        version,
        path: format!("models/{version}-a1b2"),
        active: false,
        models: 20,
        refused: 1,
        origin: "import".into(),
        checksum: "00ff".into(),
        features: vec!["mean".into(), "stddev".into()],
        trained_on: (version % 2 == 0).then(|| span(0, 60)),
        training_rows: (version % 2 == 0).then_some(60),
        note: (version % 2 == 1).then(|| "a \u{1f600} set".into()),
        created_by: "someone".into(),
        created_at: Timestamp(0),
    }
}

async fn active(store: &dyn Store) -> Vec<i64> {
    store.model_sets().await.unwrap().iter().filter(|s| s.active).map(|s| s.version).collect()
}

async fn a_model_set_is_listed_as_it_was_added(store: Arc<dyn Store>) {
    assert!(store.model_sets().await.unwrap().is_empty());
    let (first, second) =
        (store.reserve_model_set().await.unwrap(), store.reserve_model_set().await.unwrap());
    assert!(second > first);
    let now = store.now().await.unwrap();
    store.add_model_set(&set(first), &[], false).await.unwrap();
    store.add_model_set(&set(second), &[], true).await.unwrap();
    let rows = store.model_sets().await.unwrap();
    assert_eq!(rows.iter().map(|r| r.version).collect::<Vec<_>>(), [second, first], "newest first");
    for row in rows {
        assert!(row.created_at >= now, "by the store's clock");
        let given =
            ModelSetRow { created_at: row.created_at, active: row.version == second, ..set(row.version) };
        assert_eq!(row, given);
    }
}

async fn one_model_set_is_active(store: Arc<dyn Store>) {
    for version in 1..=3 {
        store.add_model_set(&set(version), &[], false).await.unwrap();
        assert!(active(&*store).await.is_empty(), "adding does not activate");
    }
    for version in [2, 3, 3, 1] {
        store.activate_model_set(version).await.unwrap();
        assert_eq!(active(&*store).await, [version]);
    }
    let refused = store.activate_model_set(9).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    assert_eq!(active(&*store).await, [1]);
}

async fn rollback_goes_back_step_by_step(store: Arc<dyn Store>) {
    assert_eq!(store.rollback_model_set().await.unwrap(), None);
    store.add_model_set(&set(1), &[], true).await.unwrap();
    assert_eq!(store.rollback_model_set().await.unwrap(), None, "nothing was active before the first");
    assert_eq!(active(&*store).await, [1]);
    store.add_model_set(&set(2), &[], true).await.unwrap();
    store.add_model_set(&set(3), &[], true).await.unwrap();
    store.activate_model_set(3).await.unwrap();
    assert_eq!(store.model_set_before().await.unwrap(), Some(2));
    assert_eq!(store.rollback_model_set().await.unwrap(), Some(2), "activating again was no step");
    assert_eq!(active(&*store).await, [2]);
    store.add_model_set(&set(4), &[], true).await.unwrap();
    assert_eq!(store.rollback_model_set().await.unwrap(), Some(2), "3 was taken back");
    assert_eq!(store.rollback_model_set().await.unwrap(), Some(1));
    assert_eq!(store.model_set_before().await.unwrap(), None);
    assert_eq!(store.rollback_model_set().await.unwrap(), None);
    assert_eq!(active(&*store).await, [1]);
}

async fn a_version_is_reserved_once(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..12)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { super::patiently!(store.reserve_model_set()) })
        })
        .collect();
    let mut versions = BTreeSet::new();
    for task in tasks {
        assert!(versions.insert(task.await.unwrap()));
    }
    assert!(versions.first().is_some_and(|v| *v > 0));
    // A restored folder may bring a set of its own number.
    let last = versions.last().unwrap() + 5;
    store.add_model_set(&set(last), &[], true).await.unwrap();
    assert!(store.reserve_model_set().await.unwrap() > last, "never the number of a set that exists");
}

async fn adding_again_after_a_lost_answer_is_no_error(store: Arc<dyn Store>) {
    store.add_model_set(&set(1), &[], true).await.unwrap();
    store.add_model_set(&set(1), &[], true).await.unwrap();
    assert_eq!(store.model_sets().await.unwrap().len(), 1);
    assert_eq!(store.rollback_model_set().await.unwrap(), None, "it was activated once");
    let other = ModelSetRow { path: "models/1-ffff".into(), ..set(1) };
    assert!(store.add_model_set(&other, &[], true).await.is_err(), "another set of the same number is");
    assert_eq!(store.model_sets().await.unwrap()[0].path, set(1).path);
}
