//! Judges the readings of a batch in offset order and lays out the accepted ones as columns.

use fleetscore_schemas::time::PaneGrid;
use std::ops::Range;

/// How far event time has come in one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tide {
    /// No reading at or before this time is expected; `None` before the first reading.
    pub watermark: Option<i64>,
    /// The greatest event time that was accepted (or dropped by the filter).
    pub greatest: Option<i64>,
}

impl Tide {
    /// After a claim: the watermark is known, the reading that made it is not.
    pub fn resumed(watermark: Option<i64>, max_disorder_us: i64) -> Self {
        Self { watermark, greatest: watermark.map(|w| w.saturating_add(max_disorder_us)) }
    }

    /// The watermark by this clock: min(greatest event time, clock) − disorder, never lower than it was.
    #[inline]
    pub fn at(&mut self, clock: i64, max_disorder_us: i64) -> Option<i64> {
        if let Some(greatest) = self.greatest {
            let reached = greatest.min(clock).saturating_sub(max_disorder_us);
            self.watermark = Some(self.watermark.map_or(reached, |w| w.max(reached)));
        }
        self.watermark
    }
}

/// What readings are judged by; times in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The panes.
    pub grid: PaneGrid,
    /// The consumer's clock.
    pub clock: i64,
    /// How far readings may be out of order.
    pub max_disorder_us: i64,
    /// Further ahead of the clock than this is refused.
    pub max_future_skew_us: i64,
    /// Further behind the watermark than this is refused; `None` = never.
    pub allowed_lateness_us: Option<i64>,
    /// Readings in panes that end at or before this time are refused.
    pub floor: Option<i64>,
}

impl Rules {
    /// No later time is accepted.
    fn horizon(&self) -> i64 {
        self.clock.saturating_add(self.max_future_skew_us)
    }

    /// The first pane whose readings are accepted.
    fn lowest_pane(&self) -> i64 {
        self.floor.map_or(i64::MIN, |floor| floor.div_euclid(self.grid.len_us))
    }
}

/// Why a reading was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Ahead of the clock.
    FutureSkew,
    /// Behind the watermark by more than the allowed lateness; the watermark it was judged by.
    TooLate(i64),
    /// Below the floor of retention.
    BelowFloor,
    /// The row filter or the value expression gave no admissible result.
    Expression,
    /// Its series would be one more than `max_series`.
    SeriesLimit,
}

/// What the user's expressions made of one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// Passed the filter, with an admissible value.
    Keep,
    /// Dropped by the filter.
    Filtered,
    /// An expression failed.
    Failed,
}

/// The id that stands for a series that was refused.
pub const REFUSED_SERIES: u32 = u32::MAX;

/// The id that stands for a series whose id was not asked for yet.
pub const UNKNOWN_SERIES: u32 = u32::MAX - 1;

/// The readings of a batch, in offset order; columns of one length.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The decoder's key of each reading's series.
    pub keys: &'a [u32],
    /// Id of the series behind each key; [`REFUSED_SERIES`] where there is none.
    pub ids: &'a [u32],
    /// Event times.
    pub ts: &'a [i64],
    /// Values after the value expression.
    pub values: &'a [f64],
    /// What the expressions said; `None` where there are none.
    pub fates: Option<&'a [Fate]>,
}

/// Accepted readings as columns, and the refused ones.
#[derive(Debug, Default, PartialEq)]
pub struct Admitted {
    /// Key of the group: number of the pane << 32 | series.
    pub keys: Vec<u64>,
    /// Event times.
    pub ts: Vec<i64>,
    /// Values.
    pub values: Vec<f64>,
    /// Index of each refused reading, with the reason.
    pub refused: Vec<(u32, Refusal)>,
    /// Accepted readings that were behind the watermark.
    pub late: u64,
    /// Readings that the filter dropped.
    pub filtered: u64,
    /// Whether a reading raised the watermark (or will, once the clock has come so far).
    pub raised: bool,
    /// The lowest number of a pane with an accepted reading.
    pub lowest_pane: Option<i64>,
}

impl Admitted {
    /// Nothing, with room for so many accepted readings.
    pub fn with_capacity(readings: usize) -> Self {
        Self {
            keys: Vec::with_capacity(readings),
            ts: Vec::with_capacity(readings),
            values: Vec::with_capacity(readings),
            ..Self::default()
        }
    }
}

/// Number of the pane and series in one key: panes of at least a second number below 2³² until 2106, and keys sort by
/// (pane, series).
#[inline]
pub const fn group_key(pane: i64, series: u32) -> u64 {
    ((pane as u64) << 32) | series as u64
}

/// The number of the pane and the series of a key.
#[inline]
pub const fn split_key(key: u64) -> (i64, u32) {
    ((key >> 32) as i64, key as u32)
}

/// Whether any of these keys has no id yet: the quick look before a batch, nearly always false.
pub fn any_unknown(keys: &[u32], ids: &[u32]) -> bool {
    // Over all keys without an early end, so that the loop is a gather and an OR.
    keys.iter().fold(false, |any, key| any | ids.get(*key as usize).is_none_or(|id| *id == UNKNOWN_SERIES))
}

/// Readings that are judged together where that comes to the same: few enough that event time hardly moves among them.
const BLOCK: usize = 512;

/// Judges readings in offset order, each against the watermark that those before it have raised: skew, lateness, floor,
/// expressions, series. Dead letters do not raise the watermark, filtered rows do.
///
/// Accepted readings are appended to `out`, whose counters are added to.
///
/// # Panics
/// If the columns differ in length, or the id of an acceptable reading is [`UNKNOWN_SERIES`]: the caller's bug.
pub fn admit(rows: Rows<'_>, rules: &Rules, tide: &mut Tide, out: &mut Admitted) {
    let n = rows.ts.len();
    assert!(rows.keys.len() == n && rows.values.len() == n, "columns of one length");
    assert!(rows.fates.is_none_or(|f| f.len() == n), "columns of one length");
    tide.at(rules.clock, rules.max_disorder_us);
    for from in (0..n).step_by(BLOCK) {
        let block = from..n.min(from + BLOCK);
        if !all_at_once(rows, block.clone(), rules, tide, out) {
            one_by_one(rows, block, rules, tide, out);
        }
    }
}

/// Accepts a block of readings in one pane of which not one can be refused, late or filtered, whatever those before it have
/// done to the watermark; or does nothing, and says so. Loops over one column at a time, which compilers vectorise.
fn all_at_once(
    rows: Rows<'_>,
    block: Range<usize>,
    rules: &Rules,
    tide: &mut Tide,
    out: &mut Admitted,
) -> bool {
    if rows.fates.is_some() {
        return false;
    }
    let ts = &rows.ts[block.clone()];
    let (least, greatest) =
        ts.iter().fold((i64::MAX, i64::MIN), |(least, most), ts| (least.min(*ts), most.max(*ts)));
    let mut after = *tide;
    let raised = tide.greatest.is_none_or(|g| greatest > g);
    after.greatest = Some(tide.greatest.map_or(greatest, |g| g.max(greatest)));
    let late = after.at(rules.clock, rules.max_disorder_us).is_some_and(|watermark| least < watermark);
    if late || greatest > rules.horizon() {
        return false;
    }
    let pane = rules.grid.index_of(least);
    if pane < rules.lowest_pane() || pane != rules.grid.index_of(greatest) {
        return false;
    }
    let (before, mut greatest_id) = (out.keys.len(), 0);
    out.keys.extend(rows.keys[block.clone()].iter().map(|key| {
        let id = rows.ids.get(*key as usize).copied().unwrap_or(REFUSED_SERIES);
        greatest_id = id.max(greatest_id);
        group_key(pane, id)
    }));
    if greatest_id >= UNKNOWN_SERIES {
        out.keys.truncate(before);
        return false;
    }
    out.ts.extend_from_slice(ts);
    out.values.extend_from_slice(&rows.values[block]);
    out.raised |= raised;
    out.lowest_pane = Some(out.lowest_pane.map_or(pane, |p| p.min(pane)));
    *tide = after;
    true
}

fn one_by_one(rows: Rows<'_>, block: Range<usize>, rules: &Rules, tide: &mut Tide, out: &mut Admitted) {
    let (horizon, lowest_pane) = (rules.horizon(), rules.lowest_pane());
    // The pane of the reading before: most readings fall into the same one, and a division costs more than the rest.
    let (mut pane, mut pane_from, mut pane_to) = (0, 1, 0);
    for i in block {
        let ts = rows.ts[i];
        if ts > horizon {
            out.refused.push((i as u32, Refusal::FutureSkew));
            continue;
        }
        if let (Some(w), Some(lateness)) = (tide.watermark, rules.allowed_lateness_us)
            && ts < w.saturating_sub(lateness)
        {
            out.refused.push((i as u32, Refusal::TooLate(w)));
            continue;
        }
        if ts < pane_from || ts > pane_to {
            pane = rules.grid.index_of(ts);
            let start = pane * rules.grid.len_us;
            // Both ends are inside whatever the edges are; the boundary itself is computed.
            (pane_from, pane_to) = (start + 1, start + rules.grid.len_us - 1);
        }
        if pane < lowest_pane {
            out.refused.push((i as u32, Refusal::BelowFloor));
            continue;
        }
        let fate = rows.fates.map_or(Fate::Keep, |f| f[i]);
        if fate == Fate::Failed {
            out.refused.push((i as u32, Refusal::Expression));
            continue;
        }
        let id = rows.ids.get(rows.keys[i] as usize).copied().unwrap_or(REFUSED_SERIES);
        if fate == Fate::Keep && id == REFUSED_SERIES {
            out.refused.push((i as u32, Refusal::SeriesLimit));
            continue;
        }
        assert!(fate != Fate::Keep || id != UNKNOWN_SERIES, "ids are asked for before readings are judged");
        let late = tide.watermark.is_some_and(|w| ts < w);
        if tide.greatest.is_none_or(|g| ts > g) {
            tide.greatest = Some(ts);
            tide.at(rules.clock, rules.max_disorder_us);
            out.raised = true;
        }
        if fate == Fate::Filtered {
            out.filtered += 1;
            continue;
        }
        out.late += u64::from(late);
        out.lowest_pane = Some(out.lowest_pane.map_or(pane, |p| p.min(pane)));
        out.keys.push(group_key(pane, id));
        out.ts.push(ts);
        out.values.push(rows.values[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::time::Edges;
    use proptest::prelude::*;

    const GRID: PaneGrid = PaneGrid { len_us: 1_000_000, edges: Edges::Start };

    fn rules() -> Rules {
        Rules {
            grid: GRID,
            clock: 100_000_000,
            max_disorder_us: 2_000_000,
            max_future_skew_us: 5_000_000,
            allowed_lateness_us: Some(10_000_000),
            floor: None,
        }
    }

    fn run(ts: &[i64], fates: Option<&[Fate]>, rules: &Rules, tide: &mut Tide) -> Admitted {
        let mut out = Admitted::default();
        let keys = vec![0; ts.len()];
        let values = vec![1.0; ts.len()];
        admit(Rows { keys: &keys, ids: &[7], ts, values: &values, fates }, rules, tide, &mut out);
        out
    }

    #[test]
    fn each_reading_is_judged_by_those_before_it() {
        let mut tide = Tide::default();
        // 50 s sets the watermark to 48 s; 47 s is late, 37 s is too late; before 50 s nothing is late.
        let out =
            run(&[20_000_000, 50_000_000, 47_000_000, 37_999_999, 38_000_000], None, &rules(), &mut tide);
        assert_eq!(out.refused, [(3, Refusal::TooLate(48_000_000))]);
        assert_eq!((out.keys.len(), out.late), (4, 2));
        assert_eq!(tide, Tide { watermark: Some(48_000_000), greatest: Some(50_000_000) });
        // A second look at the same readings: the first is too late now.
        let out = run(&[20_000_000], None, &rules(), &mut tide);
        assert_eq!(out.refused, [(0, Refusal::TooLate(48_000_000))]);
        assert!(!out.raised);
    }

    #[test]
    fn the_watermark_waits_for_the_clock() {
        let mut tide = Tide::default();
        let out = run(&[104_000_000, 105_000_001], None, &rules(), &mut tide);
        assert_eq!(out.refused, [(1, Refusal::FutureSkew)], "ahead of the clock by more than the skew");
        assert_eq!(tide.watermark, Some(98_000_000), "min(104, 100) - 2");
        assert_eq!(tide.at(103_000_000, 2_000_000), Some(101_000_000));
        assert_eq!(tide.at(110_000_000, 2_000_000), Some(102_000_000), "no further than the reading");
        assert_eq!(tide.at(50_000_000, 2_000_000), Some(102_000_000), "never back");
    }

    #[test]
    fn filtered_rows_raise_the_watermark_and_dead_letters_do_not() {
        let mut tide = Tide::default();
        let out = run(&[60_000_000], Some(&[Fate::Failed]), &rules(), &mut tide);
        assert_eq!((out.refused.len(), out.raised, tide.watermark), (1, false, None));
        let out = run(&[60_000_000], Some(&[Fate::Filtered]), &rules(), &mut tide);
        assert_eq!((out.filtered, out.raised, tide.watermark), (1, true, Some(58_000_000)));
        assert!(out.keys.is_empty());
        let mut out = Admitted::default();
        let rows = Rows {
            keys: &[0, 3],
            ids: &[REFUSED_SERIES],
            ts: &[70_000_000; 2],
            values: &[1.0; 2],
            fates: None,
        };
        admit(rows, &rules(), &mut tide, &mut out);
        assert_eq!(out.refused, [(0, Refusal::SeriesLimit), (1, Refusal::SeriesLimit)]);
        assert_eq!(tide.greatest, Some(60_000_000));
    }

    #[test]
    fn unknown_ids_are_noticed() {
        assert!(!any_unknown(&[0, 1, 0], &[7, REFUSED_SERIES]));
        assert!(any_unknown(&[0, 1, 0], &[7, UNKNOWN_SERIES]));
        assert!(any_unknown(&[2], &[7, 8]), "beyond the end");
    }

    #[test]
    fn the_floor_cuts_whole_panes() {
        for (edges, first_kept) in [(Edges::Start, 30_000_000), (Edges::End, 30_000_001)] {
            let rules = Rules { grid: PaneGrid { edges, ..GRID }, floor: Some(30_000_000), ..rules() };
            let out = run(&[first_kept - 1, first_kept], None, &rules, &mut Tide::default());
            assert_eq!(out.refused, [(0, Refusal::BelowFloor)], "{edges:?}");
            assert_eq!(out.lowest_pane, Some(30), "{edges:?}");
        }
    }

    #[test]
    fn blocks_without_anything_odd_are_judged_at_once() {
        let ts: Vec<i64> = (0..40).map(|i| 95_000_000 + i * 20_000).collect();
        let (keys, ids, values) = (vec![0; 40], [7], vec![1.0; 40]);
        let rows = Rows { keys: &keys, ids: &ids, ts: &ts, values: &values, fates: None };
        let mut tide = Tide { watermark: Some(94_000_000), greatest: Some(96_000_000) };
        let mut out = Admitted::default();
        assert!(all_at_once(rows, 0..40, &rules(), &mut tide, &mut out));
        assert!(!out.raised && out.keys == vec![group_key(95, 7); 40]);
        let later: Vec<i64> = ts.iter().map(|ts| ts + 2_000_000).collect();
        assert!(all_at_once(Rows { ts: &later, ..rows }, 0..40, &rules(), &mut tide, &mut out));
        assert!(out.raised && out.lowest_pane == Some(95) && out.ts.len() == 80);
        assert_eq!(tide, Tide { watermark: Some(95_780_000), greatest: Some(97_780_000) });
        assert!(!all_at_once(rows, 0..40, &rules(), &mut tide, &mut out), "late by now");
    }

    proptest! {
        #[test]
        fn readings_that_are_judged_together_fare_as_one_by_one(
            steps in prop::collection::vec((-3_000_000i64..3_000_000, 0u32..40), 0..3000),
            step in prop_oneof![Just(0i64), 0i64..200],
            odd in prop_oneof![Just(0u32), Just(1), Just(40)],
            refused_from in prop_oneof![Just(0usize), 0usize..3000],
            filtered in prop::option::of(any::<u8>()),
            lateness in prop::option::of(0i64..5_000_000),
            floor in prop::option::of(90_000_000i64..100_000_000),
            max_disorder_us in prop_oneof![Just(0i64), 0i64..8_000_000],
            watermark in prop::option::of(90_000_000i64..100_000_000),
        ) {
            let mut base = 95_000_000;
            let mut ts = Vec::new();
            for (jitter, series) in &steps {
                base += step;
                ts.push(base + if *series < odd { *jitter } else { 0 });
            }
            // From some reading on every tenth is of a series that is refused or has no id.
            let keys: Vec<u32> = (steps.iter().enumerate())
                .map(|(i, (_, series))| if refused_from > 0 && i >= refused_from { *series } else { series % 36 })
                .collect();
            let ids: Vec<u32> = (0..38).map(|key| if key < 37 { key + 100 } else { REFUSED_SERIES }).collect();
            let values: Vec<f64> = ts.iter().map(|t| *t as f64).collect();
            let fates: Option<Vec<Fate>> = filtered.map(|seed| {
                let of = |key: &u32| if (key + u32::from(seed)).is_multiple_of(7) { Fate::Filtered } else { Fate::Keep };
                keys.iter().map(of).collect()
            });
            let rows = Rows { keys: &keys, ids: &ids, ts: &ts, values: &values, fates: fates.as_deref() };
            let rules = Rules { allowed_lateness_us: lateness, floor, max_disorder_us, ..rules() };
            let tide = Tide::resumed(watermark, max_disorder_us);
            let (mut tides, mut outs) = ([tide; 2], [Admitted::default(), Admitted::default()]);
            admit(rows, &rules, &mut tides[0], &mut outs[0]);
            tides[1].at(rules.clock, rules.max_disorder_us);
            one_by_one(rows, 0..ts.len(), &rules, &mut tides[1], &mut outs[1]);
            prop_assert_eq!(tides[0], tides[1]);
            prop_assert_eq!(&outs[0], &outs[1]);
        }

        #[test]
        fn keys_hold_the_pane_of_each_reading(
            ts in prop::collection::vec(prop_oneof![0i64..5_000_000, (0i64..5).prop_map(|s| s * 1_000_000)], 1..50),
            end in any::<bool>(),
        ) {
            let edges = if end { Edges::End } else { Edges::Start };
            let ts: Vec<i64> = ts.iter().map(|t| t + 90_000_000).collect();
            let rules = Rules { grid: PaneGrid { edges, ..GRID }, allowed_lateness_us: None, ..rules() };
            let out = run(&ts, None, &rules, &mut Tide::default());
            prop_assert_eq!(out.keys.len(), ts.len());
            for (key, ts) in out.keys.iter().zip(&ts) {
                prop_assert_eq!(split_key(*key), (rules.grid.index_of(*ts), 7));
            }
        }
    }
}
