//! Where the series of an interval are cut into shards: ids are dense, so equal ranges of ids are equal work.

use fleetscore_schemas::SeriesId;

/// Series of a shard where nobody said otherwise: a second or so of scoring, and a part of a pack that stays in memory.
const SERIES: u32 = 50_000;
/// Most shards where nobody said otherwise.
const MOST: u32 = 64;

/// The first series of each shard but the first, ascending, where ids go from 1 to `last_series`: as many shards as are
/// asked for, else one for each 50,000 series, at most 64; never more than there are series.
pub(crate) fn shard_cuts(last_series: SeriesId, shards: Option<u32>) -> Vec<SeriesId> {
    let shards = shards.unwrap_or_else(|| shard_count(last_series)).clamp(1, last_series.max(1));
    let cut = |i: u32| 1 + u64::from(i) * u64::from(last_series) / u64::from(shards);
    // A cut lies within 1 ..= last_series.
    (1..shards).filter_map(|i| SeriesId::try_from(cut(i)).ok()).collect()
}

/// The cuts of a run over so many selected series of the fleet, or over all of them: a few are not worth a transaction for each
/// shard of the fleet, however many are asked for.
pub(crate) fn cuts_of(last_series: SeriesId, shards: Option<u32>, selected: Option<u64>) -> Vec<SeriesId> {
    let Some(selected) = selected else { return shard_cuts(last_series, shards) };
    let enough = shard_count(u32::try_from(selected).unwrap_or(u32::MAX));
    shard_cuts(last_series, Some(shards.map_or(enough, |shards| shards.min(enough))))
}

/// How many shards so many series are worth.
fn shard_count(series: u32) -> u32 {
    series.div_ceil(SERIES).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_store::SeriesRange;

    #[test]
    fn shards_are_even_and_hold_every_series_once() {
        // name, last series, asked for, shards
        let cases = [
            ("no series yet", 0, None, 1),
            ("no series yet, four asked for", 0, Some(4), 1),
            ("a small fleet is one shard", 1_000, None, 1),
            ("as many as one shard takes", 50_000, None, 1),
            ("one more", 50_001, None, 2),
            ("a million", 1_000_000, None, 20),
            ("more than the most shards take", 100_000_000, None, 64),
            ("the greatest id there is", u32::MAX, None, 64),
            ("more shards than series", 3, Some(8), 3),
            ("none asked for is one", 1_000, Some(0), 1),
            ("four asked for", 1_000, Some(4), 4),
            ("more asked for than we would make", 1_000_000, Some(200), 200),
        ];
        for (name, last, asked, shards) in cases {
            let cuts = shard_cuts(last, asked);
            assert_eq!(cuts.len() + 1, shards, "{name}");
            assert!(cuts.windows(2).all(|w| w[0] < w[1]), "{name}: {cuts:?}");
            let ranges = SeriesRange::cut(&cuts);
            let sizes: Vec<u32> =
                ranges.iter().map(|r| r.until.unwrap_or(last.saturating_add(1)) - r.from.max(1)).collect();
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(most - least <= 1, "{name}: {sizes:?}");
        }
        assert_eq!(shard_cuts(10, Some(2)), [6]);
    }
}
