//! Which intervals of a range have data, and which of them are ready.

use crate::error::{Result, ScorerError};
use crate::readiness::{Readiness, readiness};
use fleetscore_schemas::time::{Edges, Interval, PaneGrid, Timestamp, windows_covering};
use fleetscore_store::{ReadinessSettings, ScheduleRow, ScheduleSpec, Store};

/// Intervals that are looked at together.
const BATCH: usize = 256;
/// Panes that one statement gives.
pub(crate) const SCAN: usize = 2048;

/// The first start of an interval at or after this time.
pub(crate) fn grid_start(t: Timestamp, hop: i64) -> Timestamp {
    Timestamp((t.0 + hop - 1).div_euclid(hop) * hop)
}

/// Both ends are starts of intervals.
pub(crate) fn check_range(schedule: &ScheduleRow, from: Timestamp, to: Timestamp) -> Result<()> {
    let hop = schedule.spec.hop_us;
    for (flag, t) in [("from", from), ("to", to)] {
        if t.0.rem_euclid(hop) != 0 {
            let below = Timestamp(t.0.div_euclid(hop) * hop);
            let text = format!(
                "{t} is not the start of an interval of schedule `{}`; the nearest are {below} and {}",
                schedule.spec.name,
                below.plus_us(hop)
            );
            return Err(ScorerError::usage(flag, text));
        }
    }
    if from >= to {
        return Err(ScorerError::usage("to", format!("it must lie behind `from`, {from}")));
    }
    Ok(())
}

/// The next intervals with data that start in [from, to), ascending; a bounded number of them.
pub(crate) async fn with_data(
    store: &dyn Store,
    spec: &ScheduleSpec,
    from: Timestamp,
    to: Timestamp,
    grid: PaneGrid,
) -> Result<Vec<Interval>> {
    let (w, h) = (spec.window_us, spec.hop_us);
    // What the floor of retention cuts reads as empty, and its predictions are frozen.
    let floor = store.progress().await?.floor();
    let cursor = floor.map_or(from, |floor| from.max(grid_start(floor, h)));
    let mut starts: Vec<Timestamp> = Vec::new();
    let mut from = cursor;
    loop {
        let range = Interval { start: from, end: to.plus_us(w - h) };
        let panes = store.panes(range, false, SCAN).await?;
        for pane in &panes {
            let after = starts.last().map_or(cursor, |s| s.plus_us(h));
            let held = windows_covering(*pane, grid.len_us, w, h);
            starts.extend(held.filter(|s| *s >= after && *s < to));
            if starts.len() >= BATCH {
                starts.truncate(BATCH);
                break;
            }
        }
        match panes.last() {
            Some(last) if starts.len() < BATCH && panes.len() == SCAN => from = last.plus_us(1),
            _ => return Ok(starts.into_iter().map(|s| Interval::starting(s, w)).collect()),
        }
    }
}

/// The ready ones; the others are noted with what they wait for.
pub(crate) async fn ready_ones(
    store: &dyn Store,
    schedule: &ScheduleRow,
    settings: &ReadinessSettings,
    edges: Edges,
    intervals: Vec<Interval>,
    unready: &mut Vec<(Interval, String)>,
) -> Result<Vec<Interval>> {
    let progress = store.progress().await?;
    let mut ready = Vec::new();
    for interval in intervals {
        // Ready once is ready: quietness lapses with the aggregator that asserted it, what was scored does not.
        if schedule.covered_until.is_some_and(|covered| interval.end <= covered) {
            ready.push(interval);
            continue;
        }
        match readiness(&progress, settings, edges, interval.end) {
            Readiness::Ready { .. } => ready.push(interval),
            Readiness::NotReady { why } => unready.push((interval, why)),
        }
    }
    Ok(ready)
}
