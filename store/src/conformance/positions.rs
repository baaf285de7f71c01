//! Identity, settings, positions, claims and signs of life.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::time::Edges;

super::list![
    the_store_has_one_identity,
    pane_settings_are_decided_by_the_first_call,
    a_partition_gets_one_row_that_stays,
    the_same_partition_of_two_clusters_is_two_rows,
    a_claim_raises_the_epoch_and_returns_what_is_stored,
    a_claim_of_an_unknown_partition_claims_nothing,
    a_claim_ends_the_former_owners_quiet,
    a_heartbeat_is_fenced_as_a_whole,
    a_heartbeat_says_what_the_owner_knows,
];

async fn the_store_has_one_identity(store: Arc<dyn Store>) {
    let id = store.store_id().await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.store_id().await.unwrap(), id);
    assert!(!id.is_nil());
    let (a, b) = (store.now().await.unwrap(), store.now().await.unwrap());
    assert!(a <= b && a.is_event_time(), "{a} {b}");
}

async fn pane_settings_are_decided_by_the_first_call(store: Arc<dyn Store>) {
    assert_eq!(store.pane_settings().await.unwrap(), None);
    let first = PaneSettings { filter: "sensor <> 'x''y'".into(), value: "value * 2".into(), ..panes() };
    store.pin_panes(&first).await.unwrap();
    store.pin_panes(&first).await.unwrap();
    let others = [
        ("interval", PaneSettings { interval_us: 5_000_000, ..first.clone() }),
        ("edges", PaneSettings { edges: Edges::End, ..first.clone() }),
        ("readings.where", PaneSettings { filter: String::new(), ..first.clone() }),
        ("readings.value", PaneSettings { value: "value".into(), ..first.clone() }),
        ("readings.ts_unit", PaneSettings { ts_unit: "s".into(), ..first.clone() }),
    ];
    for (setting, other) in others {
        match store.pin_panes(&other).await {
            Err(StoreError::SettingsDiffer { what, hint, .. }) => {
                assert!(what.contains(setting.trim_start_matches("readings.")), "{what} for {setting}");
                assert!(!hint.is_empty());
            }
            other => panic!("{setting}: {other:?}"),
        }
    }
    assert_eq!(store.pane_settings().await.unwrap(), Some(first));
}

async fn a_partition_gets_one_row_that_stays(store: Arc<dyn Store>) {
    store.add_partitions(SOURCE, &[(tp(1), 7), (tp(0), 5)]).await.unwrap();
    store.add_partitions(SOURCE, &[(tp(0), 99), (tp(2), 1)]).await.unwrap();
    let progress = store.progress().await.unwrap();
    let offsets: Vec<_> = progress.rows.iter().map(|r| (r.partition.clone(), r.next_offset)).collect();
    assert_eq!(offsets, [(tp(0), 5), (tp(1), 7), (tp(2), 1)]);
    for row in &progress.rows {
        assert_eq!(row.source, SOURCE);
        assert_eq!((row.watermark, row.quiet_at, row.floor, row.end_offset), (None, None, None, None));
        assert_eq!((row.owner.as_ref(), row.owner_seen_at), (None, None));
        assert!(row.created_at <= progress.now && row.created_at > progress.now.plus_us(-LONG));
    }
}

async fn the_same_partition_of_two_clusters_is_two_rows(store: Arc<dyn Store>) {
    store.add_partitions("b", &[(tp(0), 5)]).await.unwrap();
    store.add_partitions("a", &[(TopicPartition::new("zzz", 0), 1), (tp(10), 2), (tp(9), 3)]).await.unwrap();
    store.claim("b", "owner", &[tp(0)]).await.unwrap();
    let rows = store.progress().await.unwrap().rows;
    let keys: Vec<_> = rows.iter().map(|r| (r.source.as_str(), r.partition.to_string())).collect();
    let wanted = [("a", "readings[9]"), ("a", "readings[10]"), ("a", "zzz[0]"), ("b", "readings[0]")];
    assert_eq!(keys, wanted.map(|(s, p)| (s, p.to_owned())), "in the order of source, topic, number");
    assert!(rows.iter().all(|r| (r.owner.is_some()) == (r.source == "b")));
    assert!(matches!(store.claim("c", "owner", &[tp(0)]).await, Err(StoreError::NotFound { .. })));
}

async fn a_claim_raises_the_epoch_and_returns_what_is_stored(store: Arc<dyn Store>) {
    let s = stream(store, 3).await;
    let mut checkpoint = s.checkpoint(1, deltas(&[]));
    checkpoint.advances[0].watermark = Some(at(3));
    checkpoint.advances[0].last_broker_time = Some(at(4));
    checkpoint.advances[0].to = 44;
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    let claims = s.store.claim(SOURCE, "second", &[tp(2), tp(1)]).await.unwrap();
    assert_eq!(claims[0].partition, tp(2), "answers in the order asked");
    assert_eq!((claims[0].next_offset, claims[0].watermark, claims[0].last_broker_time), (0, None, None));
    assert_eq!(claims[1].partition, tp(1));
    assert_eq!((claims[1].next_offset, claims[1].watermark), (44, Some(at(3))));
    assert_eq!(claims[1].last_broker_time, Some(at(4)));
    assert!(claims[0].epoch > s.claims[2].epoch && claims[1].epoch > s.claims[1].epoch);
    let rows = s.rows().await;
    assert_eq!(rows[0].owner.as_deref(), Some("owner"));
    assert_eq!(rows[0].epoch, s.claims[0].epoch, "a partition that was not asked for stays as it is");
    assert_eq!(rows[1].owner.as_deref(), Some("second"));
    assert_eq!(rows[1].epoch, claims[1].epoch);
    assert!(rows[1].owner_seen_at.is_some());
}

async fn a_claim_of_an_unknown_partition_claims_nothing(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let refused = s.store.claim(SOURCE, "second", &[tp(0), tp(9)]).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    assert_eq!(s.rows().await[0].epoch, s.claims[0].epoch);
    assert_eq!(s.rows().await[0].owner.as_deref(), Some("owner"));
}

fn beat(claim: &Claim, quiet_at: Option<Timestamp>, end_offset: Option<i64>) -> Heartbeat {
    Heartbeat { partition: claim.partition.clone(), epoch: claim.epoch, quiet_at, end_offset }
}

async fn a_claim_ends_the_former_owners_quiet(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let beats = [beat(&s.claims[0], Some(at(1)), None)];
    assert_eq!(s.store.heartbeat(SOURCE, "owner", &beats).await.unwrap(), Outcome::Done);
    s.store.claim(SOURCE, "second", &[tp(0)]).await.unwrap();
    assert_eq!(s.rows().await[0].quiet_at, None, "the new owner has not said so");
}

async fn a_heartbeat_is_fenced_as_a_whole(store: Arc<dyn Store>) {
    let s = stream(store, 2).await;
    s.store.claim(SOURCE, "second", &[tp(1)]).await.unwrap();
    let before = s.rows().await;
    let beats: Vec<_> = s.claims.iter().map(|c| beat(c, Some(at(1)), Some(7))).collect();
    sleep_ms(2).await;
    assert_eq!(s.store.heartbeat(SOURCE, "owner", &beats).await.unwrap(), Outcome::Fenced);
    assert_eq!(s.rows().await, before, "not even the partition that is still held");
}

async fn a_heartbeat_says_what_the_owner_knows(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let seen = s.rows().await[0].owner_seen_at;
    sleep_ms(5).await;
    let first = [beat(&s.claims[0], Some(at(1)), Some(7))];
    assert_eq!(s.store.heartbeat(SOURCE, "owner", &first).await.unwrap(), Outcome::Done);
    let row = s.rows().await.remove(0);
    assert_eq!((row.quiet_at, row.end_offset, row.next_offset), (Some(at(1)), Some(7), 0));
    assert!(row.owner_seen_at > seen, "it lives");
    let second = [beat(&s.claims[0], None, None)];
    assert_eq!(s.store.heartbeat(SOURCE, "owner", &second).await.unwrap(), Outcome::Done);
    let row = s.rows().await.remove(0);
    assert_eq!((row.quiet_at, row.end_offset), (None, Some(7)), "quiet is cleared, the end offset stays");
}
