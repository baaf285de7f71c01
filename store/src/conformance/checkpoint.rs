//! The transaction everything rests on.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::codes::DeadLetterCode;

super::list![
    a_checkpoint_moves_positions_and_merges,
    a_wrong_position_stores_nothing_at_all,
    a_former_owner_is_fenced,
    an_unknown_partition_is_fenced,
    the_same_checkpoint_counts_once,
    a_floor_above_the_one_judged_by_fences,
    panes_with_data_are_listed_from_either_end,
    a_watermark_never_falls,
    a_checkpoint_says_what_the_owner_knows,
    each_changed_pane_is_logged_once_per_checkpoint,
    positions_move_without_readings,
];

async fn a_checkpoint_moves_positions_and_merges(store: Arc<dyn Store>) {
    let mut s = stream(store, 2).await;
    let (a, b) = (s.series[0], s.series[1]);
    s.commit(&[(0, a, &[(1, 1.5), (2, 2.5)]), (0, b, &[(0, 0.1)]), (1, a, &[(5, 9.0)])]).await;
    s.commit(&[(0, a, &[(0, 7.25)])]).await;
    let rows = s.rows().await;
    assert_eq!((rows[0].next_offset, rows[1].next_offset), (2, 0));
    let stored = windows(&*s.store, span(0, 1)).await;
    let merged = partial(0, &[(1, 1.5), (2, 2.5)]).merge(&partial(0, &[(0, 7.25)]));
    assert_eq!(stored[&a], window_of(2, &merged), "a merge adds one to the version");
    assert_eq!(stored[&b], window_of(1, &partial(0, &[(0, 0.1)])));
    assert_eq!(stored[&b].values[3], None, "one reading has no standard deviation");
    assert_eq!(stored.len(), 2);
    assert_eq!(windows(&*s.store, span(1, 2)).await.len(), 1);
    assert_eq!(windows(&*s.store, span(2, 3)).await.len(), 0);
    assert_eq!(s.store.pane_range().await.unwrap(), Some((at(0), at(1))));
}

fn letter() -> DeadLetter {
    DeadLetter {
        partition: tp(0),
        offset: 0,
        position: -1,
        code: DeadLetterCode::Syntax,
        detail: "not JSON".into(),
        payload: Some(b"{".to_vec()),
        broker_time: None,
        count: 1,
        last_offset: None,
        sensors: vec![],
    }
}

/// Everything a checkpoint writes, to see that nothing of it was.
async fn everything(s: &Stream) -> String {
    let letters = s.store.dead_letters(&DeadLetterFilter::default()).await.unwrap();
    let changed = s.store.changed_panes(100).await.unwrap();
    let windows = windows(&*s.store, span(0, 9)).await;
    format!("{:?} {letters:?} {changed:?} {windows:?}", s.rows().await)
}

async fn a_wrong_position_stores_nothing_at_all(store: Arc<dyn Store>) {
    let mut s = stream(store, 2).await;
    let a = s.series[0];
    s.commit(&[(0, a, &[(1, 1.0)])]).await;
    let mut first = no_checkpoint(deltas(&[]));
    first.dead_letters = vec![letter()];
    assert_eq!(s.store.checkpoint(&first).await.unwrap(), Outcome::Done);
    let id = s.store.dead_letters(&DeadLetterFilter::default()).await.unwrap()[0].id;

    let mut checkpoint = s.checkpoint(0, deltas(&[(0, a, &[(2, 2.0)]), (3, a, &[(0, 4.0)])]));
    checkpoint.advances.push(Advance { from: 1, to: 2, ..s.checkpoint(1, deltas(&[])).advances[0].clone() });
    checkpoint.dead_letters = vec![letter()];
    checkpoint.replayed = vec![id];
    checkpoint.losses = vec![Loss { partition: tp(0), from: 0, to: 1, detail: "gone".into() }];
    let before = everything(&s).await;
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Fenced);
    assert_eq!(everything(&s).await, before);
    // The other order of partitions: the wrong one first.
    checkpoint.advances.reverse();
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Fenced);
    assert_eq!(everything(&s).await, before);
    // With the position corrected all of it happens.
    checkpoint.advances[0].from = 0;
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    assert_ne!(everything(&s).await, before);
}

async fn a_former_owner_is_fenced(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let paused = s.checkpoint(0, deltas(&[(0, s.series[0], &[(1, 1.0)])]));
    let claim = s.store.claim(SOURCE, "second", &[tp(0)]).await.unwrap().remove(0);
    assert_eq!(s.store.checkpoint(&paused).await.unwrap(), Outcome::Fenced);
    assert!(windows(&*s.store, span(0, 1)).await.is_empty());
    let mut own = paused.clone();
    own.advances[0].epoch = claim.epoch;
    assert_eq!(s.store.checkpoint(&own).await.unwrap(), Outcome::Done);
    let mut ahead = s.checkpoint(0, deltas(&[]));
    (ahead.advances[0].epoch, ahead.advances[0].from, ahead.advances[0].to) = (claim.epoch + 1, 1, 2);
    assert_eq!(s.store.checkpoint(&ahead).await.unwrap(), Outcome::Fenced, "an epoch nobody was given");
}

async fn an_unknown_partition_is_fenced(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let mut checkpoint = s.checkpoint(0, deltas(&[(0, s.series[0], &[(1, 1.0)])]));
    let other = Advance { partition: tp(8), ..checkpoint.advances[0].clone() };
    checkpoint.advances.push(other);
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Fenced);
    checkpoint.advances.truncate(1);
    checkpoint.source = "another cluster".into();
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Fenced);
    assert!(windows(&*s.store, span(0, 1)).await.is_empty());
}

async fn the_same_checkpoint_counts_once(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let checkpoint = s.checkpoint(0, deltas(&[(0, s.series[0], &[(1, 1.0)])]));
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    assert_eq!(
        s.store.checkpoint(&checkpoint).await.unwrap(),
        Outcome::Fenced,
        "a retry after a lost answer"
    );
    let stored = windows(&*s.store, span(0, 1)).await;
    assert_eq!(stored[&s.series[0]], window_of(1, &partial(0, &[(1, 1.0)])));
}

async fn a_floor_above_the_one_judged_by_fences(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    s.store.retain_from(at(5)).await.unwrap();
    let mut checkpoint = s.checkpoint(0, deltas(&[(2, s.series[0], &[(1, 1.0)])]));
    for judged in [None, Some(at(4))] {
        checkpoint.advances[0].floor = judged;
        assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Fenced, "{judged:?}");
    }
    assert_eq!(s.rows().await[0].next_offset, 0);
    assert_eq!(s.store.pane_range().await.unwrap(), None);
    checkpoint.advances[0].floor = Some(at(5));
    checkpoint.deltas = deltas(&[(6, s.series[0], &[(1, 1.0)])]);
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
}

async fn panes_with_data_are_listed_from_either_end(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let (a, b) = (s.series[0], s.series[1]);
    // Decades apart, and two series in one pane.
    let years = 10 * 365 * 24 * 60;
    s.commit(&[(0, a, &[(1, 1.0)]), (0, b, &[(1, 1.0)]), (1, b, &[(1, 1.0)]), (7, a, &[(1, 1.0)])]).await;
    s.commit(&[(years, a, &[(1, 1.0)]), (years + 1, b, &[(1, 1.0)])]).await;
    let all = [0, 1, 7, years, years + 1].map(at).to_vec();
    let back: Vec<_> = all.iter().rev().copied().collect();
    let cases: &[(i64, i64, usize, &[usize])] = &[
        (0, years + 2, 99, &[0, 1, 2, 3, 4]),
        (-5, years + 99, 99, &[0, 1, 2, 3, 4]),
        (1, years + 1, 99, &[1, 2, 3]),
        (1, years + 1, 2, &[1, 2]),
        (2, 7, 99, &[]),
        (8, years, 99, &[]),
        (7, 7, 99, &[]),
        (0, 99, 0, &[]),
    ];
    for (from, to, limit, found) in cases {
        let expected: Vec<_> = found.iter().map(|i| all[*i]).collect();
        let range = span(*from, *to);
        assert_eq!(s.store.panes(range, false, *limit).await.unwrap(), expected, "{from}..{to}");
        assert_eq!(crate::panes::probe(&*s.store, range, false, *limit).await.unwrap(), expected, "probed");
    }
    let last = span(0, years + 2);
    assert_eq!(s.store.panes(last, true, 3).await.unwrap(), back[..3]);
    assert_eq!(s.store.panes(span(0, years), true, 1).await.unwrap(), [at(7)]);
    assert_eq!(crate::panes::probe(&*s.store, last, true, 9).await.unwrap(), back);
}

async fn a_watermark_never_falls(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let steps = [
        (Some(at(5)), Some(at(5))),
        (Some(at(3)), Some(at(5))),
        (None, Some(at(5))),
        (Some(at(6)), Some(at(6))),
    ];
    for (offset, (given, wanted)) in steps.into_iter().enumerate() {
        let mut checkpoint = s.checkpoint(0, deltas(&[]));
        let advance = &mut checkpoint.advances[0];
        (advance.from, advance.to, advance.watermark) = (offset as i64, offset as i64 + 1, given);
        assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
        assert_eq!(s.rows().await[0].watermark, wanted, "after {given:?}");
    }
}

async fn a_checkpoint_says_what_the_owner_knows(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let broker_time = async || {
        // Under the epoch of a claim of its own, as a restart would read it.
        let claim = s.store.claim(SOURCE, "owner", &[tp(0)]).await.unwrap().remove(0);
        (claim.epoch, claim.last_broker_time)
    };
    let mut checkpoint = s.checkpoint(0, deltas(&[]));
    // (from, to, broker's time given, end offset given, quiet given) and what is stored then.
    let steps = [
        ((0, 3, Some(at(1)), Some(9), Some(at(2))), (Some(at(1)), Some(9), Some(at(2)))),
        ((3, 3, None, None, None), (Some(at(1)), Some(9), None)),
        ((3, 4, None, Some(8), None), (None, Some(8), None)),
        ((4, 5, Some(at(7)), None, Some(at(8))), (Some(at(7)), Some(8), Some(at(8)))),
    ];
    let mut epoch = s.claims[0].epoch;
    for (given, wanted) in steps {
        let advance = &mut checkpoint.advances[0];
        advance.epoch = epoch;
        (advance.from, advance.to) = (given.0, given.1);
        (advance.last_broker_time, advance.end_offset, advance.quiet_at) = (given.2, given.3, given.4);
        assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done, "{given:?}");
        let row = s.rows().await.remove(0);
        assert_eq!((row.end_offset, row.quiet_at), (wanted.1, wanted.2), "{given:?}");
        assert!(row.owner_seen_at.is_some());
        let (next, time) = broker_time().await;
        assert_eq!(time, wanted.0, "{given:?}");
        epoch = next;
    }
}

async fn each_changed_pane_is_logged_once_per_checkpoint(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let (a, b) = (s.series[0], s.series[1]);
    s.commit(&[(4, a, &[(1, 1.0)]), (2, a, &[(1, 1.0)]), (2, b, &[(1, 1.0)])]).await;
    s.commit(&[(2, b, &[(2, 1.0)])]).await;
    let log = s.store.changed_panes(100).await.unwrap();
    let panes: Vec<_> = log.iter().map(|c| c.pane_start).collect();
    let mut first = panes[..2].to_vec();
    first.sort();
    assert_eq!(first, [at(2), at(4)]);
    assert_eq!(panes[2..], [at(2)], "a pane that changes again is logged again");
    assert!(log.windows(2).all(|w| w[0].id < w[1].id && w[0].changed_at <= w[1].changed_at));
    assert_eq!(s.store.changed_panes(2).await.unwrap(), log[..2], "oldest first");
}

async fn positions_move_without_readings(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    s.commit(&[]).await;
    assert_eq!(s.rows().await[0].next_offset, 1);
    assert!(s.store.changed_panes(9).await.unwrap().is_empty());
    assert_eq!(s.store.pane_range().await.unwrap(), None);
}
