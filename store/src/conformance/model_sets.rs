//! The registry of model sets.

use super::fixture::*;
use crate::*;
use std::collections::BTreeSet;

super::list![
    a_model_set_is_listed_as_it_was_added,
    one_model_set_is_active,
    rollback_goes_back_step_by_step,
    a_rollback_does_what_was_looked_at_or_nothing,
    a_version_is_reserved_once,
    adding_again_after_a_lost_answer_is_no_error,
    one_set_is_found_without_the_others,
    failures_are_kept_with_their_set,
    series_are_pinned_to_a_set,
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

/// One step back: the set that is active again.
async fn back(store: &dyn Store) -> Option<i64> {
    let rollback = store.model_set_before().await.unwrap()?;
    assert_eq!(store.rollback_model_set(rollback).await.unwrap(), Outcome::Done);
    assert_eq!(active(store).await, [rollback.to]);
    Some(rollback.to)
}

async fn rollback_goes_back_step_by_step(store: Arc<dyn Store>) {
    assert_eq!(back(&*store).await, None);
    store.add_model_set(&set(1), &[], true).await.unwrap();
    assert_eq!(back(&*store).await, None, "nothing was active before the first");
    assert_eq!(active(&*store).await, [1]);
    store.add_model_set(&set(2), &[], true).await.unwrap();
    store.add_model_set(&set(3), &[], true).await.unwrap();
    store.activate_model_set(3).await.unwrap();
    assert_eq!(store.model_set_before().await.unwrap(), Some(Rollback { from: 3, to: 2 }));
    assert_eq!(back(&*store).await, Some(2), "activating again was no step");
    store.add_model_set(&set(4), &[], true).await.unwrap();
    assert_eq!(back(&*store).await, Some(2), "3 was taken back");
    assert_eq!(back(&*store).await, Some(1));
    assert_eq!(back(&*store).await, None);
    assert_eq!(active(&*store).await, [1]);
}

async fn a_rollback_does_what_was_looked_at_or_nothing(store: Arc<dyn Store>) {
    let refused = async |from, to| {
        let before = active(&*store).await;
        assert_eq!(store.rollback_model_set(Rollback { from, to }).await.unwrap(), Outcome::Fenced);
        assert_eq!(active(&*store).await, before);
    };
    refused(2, 1).await;
    for version in 1..=3 {
        store.add_model_set(&set(version), &[], version < 3).await.unwrap();
    }
    let looked_at = store.model_set_before().await.unwrap().unwrap();
    assert_eq!(looked_at, Rollback { from: 2, to: 1 });
    refused(1, 2).await;
    refused(2, 3).await;
    // Another person activates a set meanwhile, or goes back first.
    store.activate_model_set(3).await.unwrap();
    refused(2, 1).await;
    refused(3, 1).await;
    assert_eq!(back(&*store).await, Some(2));
    assert_eq!(back(&*store).await, Some(1));
    refused(2, 1).await;
    // Of many at once, one does it.
    for version in [2, 3] {
        store.activate_model_set(version).await.unwrap();
    }
    let rollback = store.model_set_before().await.unwrap().unwrap();
    let both: Vec<_> = (0..6)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { super::patiently!(store.rollback_model_set(rollback)) })
        })
        .collect();
    let mut done = 0;
    for one in both {
        done += i32::from(one.await.unwrap() == Outcome::Done);
    }
    assert_eq!((done, active(&*store).await), (1, vec![2]));
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
    assert_eq!(store.model_set_before().await.unwrap(), None, "it was activated once");
    let other = ModelSetRow { path: "models/1-ffff".into(), ..set(1) };
    assert!(store.add_model_set(&other, &[], true).await.is_err(), "another set of the same number is");
    assert_eq!(store.model_sets().await.unwrap()[0].path, set(1).path);
}

async fn one_set_is_found_without_the_others(store: Arc<dyn Store>) {
    assert_eq!(store.active_model_set().await.unwrap(), None);
    for version in 1..=3 {
        store.add_model_set(&set(version), &[], false).await.unwrap();
    }
    assert_eq!(store.active_model_set().await.unwrap(), None);
    assert_eq!(store.model_set(9).await.unwrap(), None);
    for version in [2, 3, 1] {
        store.activate_model_set(version).await.unwrap();
        let listed = store.model_sets().await.unwrap();
        let active = listed.iter().find(|s| s.active).cloned();
        assert_eq!(active.as_ref().map(|s| s.version), Some(version));
        assert_eq!(store.active_model_set().await.unwrap(), active);
        for row in listed {
            assert_eq!(store.model_set(row.version).await.unwrap(), Some(row));
        }
    }
    assert_eq!(back(&*store).await, Some(3));
    assert_eq!(store.active_model_set().await.unwrap().map(|s| s.version), Some(3));
}

async fn failures_are_kept_with_their_set(store: Arc<dyn Store>) {
    let failure = |series: Option<(&str, &str)>, source: &str, reason: &str| ModelFailure {
        series: series.map(|(device, sensor)| SeriesName::new(device, sensor)),
        source: source.into(),
        reason: reason.into(),
    };
    let failures = vec![
        failure(Some(("z", "s")), "a/model_z_s.pkl", "an opcode that is not allowed"),
        failure(None, "a/readme.txt", "no model"),
        failure(Some(("a", "s")), "train", "3 rows, fewer than 10"),
        failure(Some(("a", "s")), "train", "3 rows, fewer than 10"),
    ];
    store.add_model_set(&set(1), &failures, true).await.unwrap();
    store.add_model_set(&set(2), &[], false).await.unwrap();
    assert_eq!(store.model_failures(1).await.unwrap(), failures, "in their order");
    store.add_model_set(&set(1), &failures, true).await.unwrap();
    assert_eq!(store.model_failures(1).await.unwrap(), failures, "again after a lost answer");
    assert!(store.model_failures(2).await.unwrap().is_empty());
    assert!(store.model_failures(9).await.unwrap().is_empty());
}

async fn series_are_pinned_to_a_set(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let store = &*s.store;
    for version in 1..=2 {
        store.add_model_set(&set(version), &[], true).await.unwrap();
    }
    let (a, b, c) = (s.series[0], s.series[1], s.series[2]);
    let now = store.now().await.unwrap();
    let pins = async || -> Vec<_> {
        let pins = store.model_pins().await.unwrap();
        assert!(pins.iter().all(|p| p.pinned_at >= now));
        pins.into_iter().map(|p| (p.series, p.version, p.pinned_by)).collect()
    };
    assert!(pins().await.is_empty());
    store.pin_models(&[c, a, a], Some(1), "ann").await.unwrap();
    assert_eq!(pins().await, [(a, 1, "ann".to_owned()), (c, 1, "ann".to_owned())]);
    store.pin_models(&[b, c], Some(2), "bob").await.unwrap();
    let three = [(a, 1, "ann".to_owned()), (b, 2, "bob".to_owned()), (c, 2, "bob".to_owned())];
    assert_eq!(pins().await, three);
    for (series, version) in [(vec![a], 9), (vec![a, 12_345], 2), (vec![a, u32::MAX], 2)] {
        let refused = store.pin_models(&series, Some(version), "eve").await;
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
        assert_eq!(pins().await, three, "all or nothing");
    }
    store.pin_models(&[a, b, 12_345], None, "bob").await.unwrap();
    assert_eq!(pins().await, [(c, 2, "bob".to_owned())]);
    assert_eq!(back(store).await, Some(1));
    assert_eq!(pins().await.len(), 1, "whichever set is active");
}
