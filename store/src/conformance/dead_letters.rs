//! Dead letters, their replay, and losses.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::codes::DeadLetterCode;

super::list![
    dead_letters_keep_their_bytes,
    dead_letters_are_found_by_what_they_are,
    a_replay_merges_and_marks_once,
    a_dead_letter_that_does_not_exist_cannot_be_replayed,
    the_oldest_dead_letters_are_forgotten,
    notices_are_stored_with_the_positions,
];

fn letter(offset: i64, code: DeadLetterCode, payload: Option<&[u8]>) -> DeadLetter {
    DeadLetter {
        partition: tp(0),
        offset,
        position: -1,
        code,
        detail: "field `ts` – no zone".into(),
        payload: payload.map(<[u8]>::to_vec),
        broker_time: None,
        count: 1,
        last_offset: None,
        sensors: vec!["load".into(), "a \"quoted\" one, ü".into()],
    }
}

async fn store_letters(s: &mut Stream, letters: Vec<DeadLetter>) -> Vec<DeadLetterRow> {
    let mut checkpoint = s.checkpoint(0, deltas(&[]));
    checkpoint.dead_letters = letters;
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    s.claims[0].next_offset += 1;
    s.store.dead_letters(&DeadLetterFilter::default()).await.unwrap()
}

async fn dead_letters_keep_their_bytes(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let all: Vec<u8> = (0..=255).collect();
    let big = vec![b'x'; 1_000_000];
    let mut letters = vec![
        letter(1, DeadLetterCode::NotUtf8, Some(&all)),
        letter(2, DeadLetterCode::Empty, Some(b"")),
        letter(3, DeadLetterCode::Tombstone, None),
        letter(4, DeadLetterCode::TooLarge, Some(&big)),
        letter(5, DeadLetterCode::Syntax, Some("{\"device\": \"ü\u{1F600}\"".as_bytes())),
    ];
    letters[0].position = 7;
    letters[0].broker_time = Some(Timestamp(1_767_225_600_123_456));
    letters.push(DeadLetter {
        count: 5000,
        last_offset: Some(9000),
        ..letter(6, DeadLetterCode::TooLate, None)
    });
    let rows = store_letters(&mut s, letters.clone()).await;
    assert_eq!(rows.len(), letters.len());
    assert!(rows.windows(2).all(|w| w[0].id < w[1].id), "ascending by id, in the order given");
    for (row, given) in rows.iter().zip(&letters) {
        assert_eq!(row.payload, given.payload, "offset {}", given.offset);
        assert_eq!(row.sensors, given.sensors, "offset {}", given.offset);
        assert_eq!(
            (row.offset, row.position, row.code.as_str()),
            (given.offset, given.position, given.code.as_str())
        );
        assert_eq!((&row.partition, &row.detail), (&given.partition, &given.detail));
        assert_eq!(
            (row.broker_time, row.count, row.last_offset),
            (given.broker_time, given.count, given.last_offset)
        );
        assert_eq!(row.replayed_at, None);
        assert!(row.recorded_at <= s.store.now().await.unwrap());
    }
}

async fn dead_letters_are_found_by_what_they_are(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let codes =
        [DeadLetterCode::Syntax, DeadLetterCode::TooLate, DeadLetterCode::Syntax, DeadLetterCode::BadValue];
    let letters = codes.iter().enumerate().map(|(i, c)| letter(i as i64, *c, Some(b"x"))).collect();
    let rows = store_letters(&mut s, letters).await;
    let mut replay = no_checkpoint(deltas(&[]));
    replay.replayed = vec![rows[2].id];
    assert_eq!(s.store.checkpoint(&replay).await.unwrap(), Outcome::Done);
    let all = DeadLetterFilter::default();
    let cases = [
        (all.clone(), vec![0, 1, 2, 3]),
        (DeadLetterFilter { code: Some("syntax".into()), ..all.clone() }, vec![0, 2]),
        (DeadLetterFilter { unreplayed: true, ..all.clone() }, vec![0, 1, 3]),
        (DeadLetterFilter { after_id: Some(rows[1].id), ..all.clone() }, vec![2, 3]),
        (DeadLetterFilter { limit: 2, ..all.clone() }, vec![0, 1]),
        (DeadLetterFilter { ids: Some(vec![rows[3].id, rows[0].id, -5]), ..all.clone() }, vec![0, 3]),
        (DeadLetterFilter { ids: Some(vec![]), ..all.clone() }, vec![]),
        (DeadLetterFilter { code: Some("syntax".into()), unreplayed: true, limit: 9, ..all }, vec![0]),
    ];
    for (filter, wanted) in cases {
        let got: Vec<_> = s.store.dead_letters(&filter).await.unwrap().iter().map(|d| d.offset).collect();
        assert_eq!(got, wanted, "{filter:?}");
    }
}

async fn a_replay_merges_and_marks_once(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    s.commit(&[(0, a, &[(1, 1.0)])]).await;
    let rows = store_letters(&mut s, vec![letter(0, DeadLetterCode::TooLate, Some(b"x")); 2]).await;
    let mut replay = no_checkpoint(deltas(&[(0, a, &[(2, 3.0)])]));
    replay.replayed = vec![rows[0].id];
    assert_eq!(s.store.checkpoint(&replay).await.unwrap(), Outcome::Done);
    let merged = window_of(2, &partial(0, &[(1, 1.0)]).merge(&partial(0, &[(2, 3.0)])));
    assert_eq!(windows(&*s.store, span(0, 1)).await[&a], merged);
    let after = s.store.dead_letters(&DeadLetterFilter::default()).await.unwrap();
    assert!(after[0].replayed_at.is_some() && after[1].replayed_at.is_none());
    // Again, and together with one that was not replayed yet: nothing of it happens.
    for ids in [vec![rows[0].id], vec![rows[1].id, rows[0].id]] {
        replay.replayed = ids;
        assert_eq!(s.store.checkpoint(&replay).await.unwrap(), Outcome::Fenced);
    }
    assert_eq!(windows(&*s.store, span(0, 1)).await[&a], merged);
    assert_eq!(s.store.dead_letters(&DeadLetterFilter::default()).await.unwrap(), after);
    assert_eq!(s.rows().await[0].next_offset, 2, "a replay moves no position");
}

async fn a_dead_letter_that_does_not_exist_cannot_be_replayed(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let mut replay = no_checkpoint(deltas(&[(0, s.series[0], &[(2, 3.0)])]));
    replay.replayed = vec![77];
    assert_eq!(s.store.checkpoint(&replay).await.unwrap(), Outcome::Fenced);
    assert!(windows(&*s.store, span(0, 1)).await.is_empty());
}

async fn the_oldest_dead_letters_are_forgotten(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let five = |from: i64| (from..from + 5).map(|o| letter(o, DeadLetterCode::Syntax, Some(b"x"))).collect();
    let rows = store_letters(&mut s, five(0)).await;
    let mut replay = no_checkpoint(deltas(&[]));
    replay.replayed = vec![rows[0].id];
    assert_eq!(s.store.checkpoint(&replay).await.unwrap(), Outcome::Done);
    // A clock of microseconds: the next ones are later.
    while s.store.now().await.unwrap() <= rows[4].recorded_at.plus_us(1_000) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let later = store_letters(&mut s, five(5)).await[5].recorded_at;
    assert_eq!(
        s.store.forget_dead_letters(rows[0].recorded_at, 99).await.unwrap(),
        0,
        "none was stored before"
    );
    assert_eq!(s.store.forget_dead_letters(later, 3).await.unwrap(), 3);
    let offsets = async || -> Vec<i64> {
        s.store.dead_letters(&DeadLetterFilter::default()).await.unwrap().iter().map(|d| d.offset).collect()
    };
    assert_eq!(offsets().await, [3, 4, 5, 6, 7, 8, 9], "the oldest first");
    assert_eq!(s.store.forget_dead_letters(later, 99).await.unwrap(), 2);
    assert_eq!(offsets().await, [5, 6, 7, 8, 9]);
    let end = s.store.now().await.unwrap().plus_us(1_000_000);
    assert_eq!(s.store.forget_dead_letters(end, 99).await.unwrap(), 5);
    assert_eq!(s.store.forget_dead_letters(end, 99).await.unwrap(), 0);
}

async fn notices_are_stored_with_the_positions(store: Arc<dyn Store>) {
    let s = stream(store, 1).await;
    let mut checkpoint = s.checkpoint(0, deltas(&[]));
    checkpoint.notices = vec![
        Notice { kind: "dead_letter_flood", detail: "more than it's \"bound\", ü".into() },
        Notice { kind: "dead_letter_flood_over", detail: "12 of them".into() },
    ];
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    let told = [("dead_letter_flood".to_owned(), None), ("dead_letter_flood_over".to_owned(), None)];
    assert_eq!(events(&*s.store).await, told);
    // The same again is fenced by its position: nothing is told twice.
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Fenced);
    assert_eq!(events(&*s.store).await.len(), 2);
    // One that moves no position is not, and comes again where its outcome is unknown.
    let to = checkpoint.advances[0].to;
    checkpoint.advances[0].from = to;
    checkpoint.notices.push(Notice { kind: "dead_letter_flood", detail: "another".into() });
    for _ in 0..2 {
        assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
        assert_eq!(events(&*s.store).await.len(), 3);
    }
}
