//! Which panes have data, found by probing: for stores without a cheaper way.

use crate::{Result, Store};
use fleetscore_schemas::time::{Interval, Timestamp};
use futures::TryStreamExt;

/// Starts of panes with data inside the range, by galloping: the step doubles over emptiness and halves where there is
/// something, so a gap of years costs some fifty probes.
pub(crate) async fn probe<S: Store + ?Sized>(
    store: &S,
    range: Interval,
    newest_first: bool,
    limit: usize,
) -> Result<Vec<Timestamp>> {
    let (Some(settings), Some((oldest, newest))) = (store.pane_settings().await?, store.pane_range().await?)
    else {
        return Ok(Vec::new());
    };
    let len = settings.interval_us;
    // A window that crosses the floor of retention reads as empty: probes must not.
    let floor = store.progress().await?.floor();
    let oldest = oldest.max(floor.unwrap_or(oldest));
    let (mut low, mut high) = (
        range.start.max(oldest).0.div_ceil_euclid(len),
        range.end.min(newest.plus_us(1)).0.div_ceil_euclid(len),
    );
    let (mut found, mut step) = (Vec::new(), 1_i64);
    while low < high && found.len() < limit {
        step = step.min(high - low);
        let (from, to) = if newest_first { (high - step, high) } else { (low, low + step) };
        let some =
            has_data(store, Interval { start: Timestamp(from * len), end: Timestamp(to * len) }).await?;
        if some && step > 1 {
            step /= 2;
            continue;
        }
        if some {
            found.push(Timestamp(from * len));
        } else {
            step = step.saturating_mul(2);
        }
        if newest_first {
            high = from;
        } else {
            low = to;
        }
    }
    Ok(found)
}

async fn has_data<S: Store + ?Sized>(store: &S, interval: Interval) -> Result<bool> {
    let mut windows = store.windows(interval, &crate::Selection::ALL).await?;
    while let Some(batch) = windows.try_next().await? {
        if batch.num_rows() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

trait DivCeil {
    fn div_ceil_euclid(self, by: i64) -> i64;
}

impl DivCeil for i64 {
    /// The quotient rounded up; `by` is positive.
    fn div_ceil_euclid(self, by: i64) -> i64 {
        self.div_euclid(by) + i64::from(self.rem_euclid(by) != 0)
    }
}
