//! Deltas commute: in any order, split in any way, the panes are the same.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::delta::{PaneKey, Partial};
use std::collections::{BTreeMap, BTreeSet};

super::list![
    deltas_in_any_order_split_in_any_way_make_the_same_panes,
    numbers_are_stored_bit_by_bit,
    ties_in_time_are_settled_by_the_value,
    many_rows_in_one_checkpoint_are_one_transaction,
];

/// A reading with the key of its pane.
pub(super) type Arriving = (PaneKey, Timestamp, f64);

async fn deltas_in_any_order_split_in_any_way_make_the_same_panes(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let mut numbers = Numbers(7);
    // Readings of five series in four panes; few different times, so that ties are common.
    let mut arriving: Vec<Arriving> = (0..900)
        .map(|_| {
            let (minute, series) = (numbers.below(4) as i64, s.series[numbers.below(5) as usize]);
            let ts = at(minute).plus_us(numbers.below(40) as i64 * 1_000_000);
            let value = (numbers.below(2_000_001) as f64 - 1e6) / 997.0;
            ((at(minute), series), ts, value)
        })
        .collect();
    // They arrive shuffled, cut into checkpoints of random length.
    for i in (1..arriving.len()).rev() {
        arriving.swap(i, numbers.below(i as u64 + 1) as usize);
    }
    let cuts: Vec<_> = (0..40).map(|_| 1 + numbers.below(120) as usize).collect();
    arrive(&mut s, &arriving, &cuts).await;
}

/// Commits readings in the order in which they arrive, cut into checkpoints of these lengths (the last one takes the
/// rest), and compares the panes with a direct computation.
pub(super) async fn arrive(s: &mut Stream, arriving: &[Arriving], cuts: &[usize]) {
    let mut whole: BTreeMap<PaneKey, Vec<(Timestamp, f64)>> = BTreeMap::new();
    for (key, ts, value) in arriving {
        whole.entry(*key).or_default().push((*ts, *value));
    }
    let mut rest = arriving;
    let mut cuts = cuts.iter().copied();
    let mut merges: BTreeMap<PaneKey, i64> = BTreeMap::new();
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
        rest = after;
        let mut groups: BTreeMap<PaneKey, Partial> = BTreeMap::new();
        for (key, ts, value) in batch {
            let one = Partial::of(*ts, *value);
            groups.entry(*key).and_modify(|p| *p = p.merge(&one)).or_insert(one);
        }
        groups.keys().for_each(|key| *merges.entry(*key).or_default() += 1);
        let rows: Vec<_> = groups.into_iter().collect();
        let checkpoint = s.checkpoint(0, batch_of(&rows));
        assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
        s.claims[0].next_offset += 1;
    }
    let panes: BTreeSet<Timestamp> = whole.keys().map(|key| key.0).collect();
    for pane in panes {
        let stored = windows(&*s.store, Interval::starting(pane, MINUTE)).await;
        assert_eq!(stored.len(), whole.keys().filter(|key| key.0 == pane).count());
        for (key, readings) in whole.iter().filter(|(key, _)| key.0 == pane) {
            let window = &stored[&key.1];
            assert_eq!(window.version, merges[key]);
            assert_close(window, readings);
        }
    }
    // All of it as one long window, merged when read.
    let (first, last) = s.store.pane_range().await.unwrap().unwrap();
    let long = windows(&*s.store, Interval { start: first, end: last.plus_us(MINUTE) }).await;
    for (series, window) in &long {
        let of_series = whole.iter().filter(|(key, _)| key.1 == *series);
        let readings: Vec<_> = of_series.flat_map(|(_, readings)| readings.iter().copied()).collect();
        assert_close(window, &readings);
    }
}

/// Compares with a direct computation over all readings of the window.
pub(super) fn assert_close(window: &Window, readings: &[(Timestamp, f64)]) {
    let n = readings.len() as f64;
    let values = || readings.iter().map(|r| r.1);
    let by_time = |a: &&(Timestamp, f64), b: &&(Timestamp, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
    let mean = values().sum::<f64>() / n;
    let deviation = (values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0)).sqrt();
    let scale = values().map(f64::abs).sum::<f64>();
    let [got_mean, count, sum, stddev, min, max, first, last] = window.values;
    assert_eq!(count, Some(n));
    assert_eq!(min, Some(values().fold(f64::INFINITY, f64::min)));
    assert_eq!(max, Some(values().fold(f64::NEG_INFINITY, f64::max)));
    assert_eq!(first, readings.iter().min_by(by_time).map(|r| r.1));
    assert_eq!(last, readings.iter().max_by(by_time).map(|r| r.1));
    assert!((sum.unwrap() - values().sum::<f64>()).abs() <= 1e-14 * scale, "{sum:?}");
    assert!((got_mean.unwrap() - mean).abs() <= 1e-14 * scale / n, "{got_mean:?}");
    match stddev {
        None => assert_eq!(readings.len(), 1),
        Some(s) => assert!((s - deviation).abs() <= 1e-11 * deviation.max(scale / n), "{s} {deviation}"),
    }
}

async fn numbers_are_stored_bit_by_bit(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let values = [
        0.1 + 0.2,
        1.0 / 3.0,
        5e-324,
        1e100,
        -1e100,
        123_456_789.123_456_78,
        f64::MIN_POSITIVE,
        1e15 + 0.3,
        0.0,
    ];
    for (minute, value) in values.iter().enumerate() {
        s.commit(&[(minute as i64, s.series[0], &[(59_999_999, *value)])]).await;
    }
    for (minute, value) in values.iter().enumerate() {
        let stored = windows(&*s.store, span(minute as i64, minute as i64 + 1)).await;
        let got: Vec<_> = stored[&s.series[0]].values.iter().map(|v| v.map(f64::to_bits)).collect();
        let bits = Some(value.to_bits());
        let one = Some(1f64.to_bits());
        assert_eq!(got, [bits, one, bits, None, bits, bits, bits, bits], "{value:e}");
    }
    // Wide apart in size and in time.
    let early = Timestamp::MIN_EVENT;
    let late = Timestamp(Timestamp::END_EVENT.0 - MINUTE);
    let spread = Partial::of(early, 1e100).merge(&Partial::of(early.plus_us(1), -1e100));
    let rows = [((early, s.series[1]), spread), ((late, s.series[1]), Partial::of(late, 1.0))];
    let checkpoint = s.checkpoint(0, batch_of(&rows));
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    assert_eq!(s.store.pane_range().await.unwrap(), Some((early, late)));
    let stored = windows(&*s.store, Interval::starting(early, MINUTE)).await;
    assert_eq!(stored[&s.series[1]], window_of(1, &spread));
}

async fn ties_in_time_are_settled_by_the_value(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    for value in [5.0, 3.0, 9.0, 4.0] {
        s.commit(&[(0, a, &[(10, value)])]).await;
    }
    let window = &windows(&*s.store, span(0, 1)).await[&a];
    assert_eq!((window.values[6], window.values[7]), (Some(3.0), Some(9.0)));
}

async fn many_rows_in_one_checkpoint_are_one_transaction(store: Arc<dyn Store>) {
    let mut s = stream(store, 1).await;
    let names: Vec<_> = (0..6000).map(|i| SeriesName::new(format!("many{i:05}"), "s")).collect();
    let ids: Vec<_> =
        s.store.intern(&names, 100_000).await.unwrap().into_iter().map(Option::unwrap).collect();
    let mut rows: Vec<_> = Vec::new();
    for minute in 0..3 {
        rows.extend(ids.iter().map(|id| ((at(minute), *id), partial(minute, &[(1, f64::from(*id))]))));
    }
    rows.sort_by_key(|r| r.0);
    for version in 1..=2 {
        let checkpoint = s.checkpoint(0, batch_of(&rows));
        assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
        s.claims[0].next_offset += 1;
        let stored = windows(&*s.store, span(0, 3)).await;
        assert_eq!(stored.len(), ids.len());
        assert!(stored.values().all(|w| w.version == 3 * version), "the sum of the panes' versions");
        assert!(stored.iter().all(|(id, w)| w.values[0] == Some(f64::from(*id))));
        assert_eq!(s.store.panes(span(0, 9), false, 99).await.unwrap(), [at(0), at(1), at(2)]);
        assert_eq!(s.store.panes(span(1, 9), false, 1).await.unwrap(), [at(1)]);
    }
    assert_eq!(s.store.changed_panes(100).await.unwrap().len(), 6);
}
