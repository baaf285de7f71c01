//! Pure decisions about time: quietness, closing panes, and how far back panes are kept. The watermark itself is
//! [`fleetscore_state::Tide`], because it moves with every reading.

use fleetscore_schemas::time::{PaneGrid, Timestamp};
use fleetscore_store::{Progress, ReadinessSettings};
use std::collections::VecDeque;

/// End offsets of one partition as the broker gave them, long enough to know the one of `idle_timeout` ago.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndOffsets {
    /// (monotonic time, offset): the offset may have held from then until the next entry.
    seen: VecDeque<(i64, i64)>,
    /// When the broker last gave one, be it the same.
    heard_at: Option<i64>,
}

/// So many entries cover one `idle_timeout`.
const RESOLUTION: i64 = 64;
/// The broker is asked about once a second; an answer may be this late before it counts as missing.
const HEARING_SLACK_US: i64 = 3_000_000;

impl EndOffsets {
    /// Notes what the broker said when it was asked at this time; an older answer than the last one says nothing new.
    pub(crate) fn observe(&mut self, mono_us: i64, offset: i64, idle_timeout_us: i64) {
        if self.heard_at.is_some_and(|heard| mono_us < heard) {
            return;
        }
        // A new offset may have been there ever since the broker was last heard: after a pause of this process (a
        // suspended machine, a stopped process) that is long ago, and nobody was reading.
        let since = self.heard_at.replace(mono_us).unwrap_or(mono_us);
        let entries = self.seen.len();
        match self.seen.back_mut() {
            Some((_, last)) if *last == offset => return,
            // Entries close together become one, with the earlier time and the later offset. That asks for more than
            // the truth (an offset seen later than the time it is held against), so it never makes quiet too early.
            Some((before, last)) if entries > 1 && since - *before < idle_timeout_us / RESOLUTION => {
                *last = offset;
                return;
            }
            _ => self.seen.push_back((since, offset)),
        }
        // The first entry must be the newest one that is old enough; everything before it is of no more use.
        while self.seen.get(1).is_some_and(|(since, _)| *since <= mono_us - idle_timeout_us) {
            self.seen.pop_front();
        }
    }

    /// The end offset as the broker gave it at or before this time; `None` if it was not heard since.
    pub(crate) fn at(&self, mono_us: i64) -> Option<i64> {
        self.heard_at.filter(|heard| *heard >= mono_us.saturating_sub(HEARING_SLACK_US))?;
        self.seen.iter().rev().find(|(since, _)| *since <= mono_us).map(|(_, offset)| *offset)
    }

    /// The newest one.
    pub(crate) fn latest(&self) -> Option<i64> {
        self.seen.back().map(|(_, offset)| *offset)
    }
}

/// Whether a partition is quiet: no reading has raised its watermark for `idle_timeout`, and the position (the
/// committed one, or the one the same transaction commits) covers the end offset that the broker gave `idle_timeout`
/// earlier. A throttled or lagging partition does not cover it; an end offset that is not known is not covered.
pub(crate) fn is_quiet(
    mono_us: i64,
    raised_at_us: i64,
    position: i64,
    ends: &EndOffsets,
    idle_timeout_us: i64,
) -> bool {
    let then = mono_us.saturating_sub(idle_timeout_us);
    raised_at_us <= then && ends.at(then).is_some_and(|end| position >= end)
}

/// How many panes lie completely behind a watermark, counted from the epoch: it has closed a pane when this rises.
pub(crate) fn closed_panes(grid: PaneGrid, watermark_us: i64) -> i64 {
    // start: end ≤ w; end: end < w. Both are the number of the pane that the watermark itself would fall into.
    grid.index_of(watermark_us)
}

/// The end of the newest pane of which progress alone proves that it is ready (never later than what the scheduler
/// finds; earlier is harmless): what retention counts back from.
pub(crate) fn ready_horizon(
    progress: &Progress,
    readiness: &ReadinessSettings,
    grid: PaneGrid,
    newest_pane: Option<Timestamp>,
) -> Option<Timestamp> {
    let newest_end = newest_pane?.plus_us(grid.len_us);
    let mut horizon = newest_end;
    for row in &progress.rows {
        let seen = row.owner_seen_at.unwrap_or(row.created_at);
        let silent_us = progress.now.us() - seen.us();
        if silent_us > readiness.max_wait_us {
            continue;
        }
        let quiet = row.owner_seen_at.is_some() && silent_us <= readiness.owner_ttl_us;
        let by_quiet = row.quiet_at.filter(|_| quiet).map(|q| q.plus_us(-readiness.max_disorder_us));
        // An interval is ready when either has passed its end; no statement at all holds everything back.
        let reached = by_quiet.max(row.watermark)?;
        horizon = horizon.min(Timestamp(closed_panes(grid, reached.us()) * grid.len_us));
    }
    Some(horizon)
}

/// The floor that retention calls for: counted back from the newest ready interval, on a coarse step so that raising
/// it (which fences everybody once) stays rare. Keeps at least the allowed lateness and the longest window.
pub(crate) fn retention_floor(
    horizon: Timestamp,
    retention_us: i64,
    allowed_lateness_us: i64,
    longest_window_us: i64,
    grid: PaneGrid,
) -> Timestamp {
    let keep = retention_us.max(allowed_lateness_us.saturating_add(longest_window_us));
    let step = (keep / 100 / grid.len_us).max(1) * grid.len_us;
    Timestamp(horizon.us().saturating_sub(keep).div_euclid(step) * step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::reading::TopicPartition;
    use fleetscore_schemas::time::Edges;
    use fleetscore_store::ProgressRow;

    const S: i64 = 1_000_000;
    const IDLE: i64 = 30 * S;

    /// The broker is heard every second from the first change on, until `until`.
    fn heard(changes: &[(i64, i64)], until: i64) -> EndOffsets {
        let mut ends = EndOffsets::default();
        let mut offset = None;
        for second in 0..=until {
            offset = changes.iter().find(|(at, _)| *at == second).map(|(_, o)| *o).or(offset);
            if let Some(offset) = offset {
                ends.observe(second * S, offset, IDLE);
            }
        }
        ends
    }

    #[test]
    fn quiet_needs_stillness_and_a_position_that_covers_the_old_end() {
        // (changes of the end, raised at, position, now) -> quiet
        type Case = (&'static str, &'static [(i64, i64)], i64, i64, i64, bool);
        let cases: &[Case] = &[
            ("nothing known of the end", &[], 0, 0, 40, false),
            ("never had data", &[(0, 0)], 0, 0, 30, true),
            ("not yet", &[(0, 0)], 0, 0, 29, false),
            ("a reading raised it", &[(0, 5)], 10, 5, 39, false),
            ("and then none", &[(0, 5)], 10, 5, 40, true),
            ("lagging: the old end is not reached", &[(0, 100)], 0, 99, 60, false),
            ("caught up to the end of then, more came since", &[(0, 100), (35, 200)], 0, 100, 60, true),
            ("what came is old enough by now", &[(0, 100), (35, 200)], 0, 100, 65, false),
            ("the end was first seen later than idle_timeout ago", &[(20, 0)], 0, 0, 45, false),
        ];
        for (what, changes, raised, position, now, want) in cases {
            let ends = heard(changes, *now);
            assert_eq!(is_quiet(now * S, raised * S, *position, &ends, IDLE), *want, "{what}");
        }
    }

    #[test]
    fn a_broker_that_is_not_heard_makes_nothing_quiet() {
        let mut ends = heard(&[(0, 100)], 60);
        assert!(is_quiet(60 * S, 0, 100, &ends, IDLE));
        assert!(is_quiet(92 * S, 0, 100, &ends, IDLE), "an answer may be a little late");
        assert!(!is_quiet(95 * S, 0, 100, &ends, IDLE), "unreachable, or we were stopped");
        // Awake again: what the broker has now may have been there all the time.
        ends.observe(300 * S, 5_000, IDLE);
        assert!(!is_quiet(300 * S, 0, 100, &ends, IDLE));
        assert!(!is_quiet(300 * S, 0, 4_999, &ends, IDLE) && is_quiet(300 * S, 0, 5_000, &ends, IDLE));
    }

    #[test]
    fn end_offsets_stay_few_and_never_too_low() {
        let mut ends = EndOffsets::default();
        let mut truth = Vec::new();
        for i in 0..10_000i64 {
            let at = i * S / 10;
            ends.observe(at, i, IDLE);
            truth.push((at, i));
            if i > 400 {
                let then = at - IDLE;
                let exact = truth.iter().rev().find(|(t, _)| *t <= then).unwrap().1;
                let kept = ends.at(then).unwrap();
                assert!(kept >= exact && kept <= exact + 12, "{kept} for {exact}");
            }
        }
        assert!(ends.seen.len() <= RESOLUTION as usize + 4, "{}", ends.seen.len());
        assert_eq!(ends.latest(), Some(9_999));
    }

    #[test]
    fn a_pane_closes_by_the_edges() {
        let start = PaneGrid { len_us: 60 * S, edges: Edges::Start };
        let end = PaneGrid { edges: Edges::End, ..start };
        for (w, by_start, by_end) in [(59 * S, 0, 0), (60 * S, 1, 0), (60 * S + 1, 1, 1), (121 * S, 2, 2)] {
            assert_eq!((closed_panes(start, w), closed_panes(end, w)), (by_start, by_end), "{w}");
            for (grid, closed) in [(start, by_start), (end, by_end)] {
                let passed = (0..5).filter(|i| grid.passed(Timestamp(w), grid.start_of(i + 1))).count();
                assert_eq!(passed as i64, closed, "{grid:?} {w}");
            }
        }
    }

    fn row(watermark: Option<i64>, quiet_at: Option<i64>, seen: Option<i64>) -> ProgressRow {
        ProgressRow {
            source: "c".into(),
            partition: TopicPartition::new("t", 0),
            next_offset: 0,
            end_offset: None,
            watermark: watermark.map(|s| Timestamp(s * S)),
            quiet_at: quiet_at.map(|s| Timestamp(s * S)),
            floor: None,
            epoch: 1,
            owner: None,
            owner_seen_at: seen.map(|s| Timestamp(s * S)),
            created_at: Timestamp(0),
        }
    }

    #[test]
    fn the_horizon_is_held_back_by_whoever_holds_back_readiness() {
        let grid = PaneGrid { len_us: 60 * S, edges: Edges::Start };
        let settings =
            ReadinessSettings { max_disorder_us: 10 * S, owner_ttl_us: 30 * S, max_wait_us: 600 * S };
        let now = 10_000;
        let horizon = |rows: Vec<ProgressRow>, newest: Option<i64>| {
            let progress = Progress { now: Timestamp(now * S), rows };
            ready_horizon(&progress, &settings, grid, newest.map(|s| Timestamp(s * S))).map(|t| t.us() / S)
        };
        let live = Some(now - 5);
        assert_eq!(horizon(vec![], None), None, "no data");
        assert_eq!(horizon(vec![row(Some(605), None, live)], Some(600)), Some(600), "the watermark's pane");
        assert_eq!(horizon(vec![row(Some(9_999), None, live)], Some(600)), Some(660), "the newest pane");
        assert_eq!(horizon(vec![row(Some(605), Some(9_990), live)], Some(600)), Some(660), "quiet");
        assert_eq!(
            horizon(vec![row(Some(605), Some(9_990), Some(9_900))], Some(600)),
            Some(600),
            "quiet, then silent"
        );
        assert_eq!(
            horizon(vec![row(None, None, live), row(Some(605), None, live)], Some(600)),
            None,
            "unknown"
        );
        assert_eq!(
            horizon(vec![row(None, None, Some(100)), row(Some(9_000), None, live)], Some(600)),
            Some(660)
        );
    }

    #[test]
    fn the_floor_keeps_lateness_and_the_longest_window() {
        let grid = PaneGrid { len_us: 60 * S, edges: Edges::Start };
        let floor = |retention, lateness, window| {
            retention_floor(Timestamp(100_000 * S), retention * S, lateness * S, window * S, grid).us() / S
        };
        // 40,000 s are kept at least, and at most one step of 1 % more.
        for (retention, lateness, window) in [(40_000, 0, 60), (10, 40_000 - 60, 60), (10, 0, 40_000)] {
            let floor = floor(retention, lateness, window);
            assert!(floor <= 60_000 && floor > 60_000 - 400, "{floor}");
            assert_eq!(floor % 60, 0, "on a pane's edge");
        }
        assert_eq!(floor(60, 0, 60), 99_900, "short ones step by the pane");
    }
}
