//! Event time: microseconds UTC, panes aligned to the epoch, and the two conventions for their edges.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::LazyLock;
use std::time::Instant;

/// Microseconds in one second.
pub const US_PER_S: i64 = 1_000_000;

/// Microseconds since this process first asked; never goes back.
pub fn mono_us() -> i64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    i64::try_from(BEGAN.elapsed().as_micros()).unwrap_or(i64::MAX)
}

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// 2000-01-01T00:00:00Z, the earliest event time that is accepted.
    pub const MIN_EVENT: Self = Self(946_684_800 * US_PER_S);
    /// 2100-01-01T00:00:00Z; event times are before it.
    pub const END_EVENT: Self = Self(4_102_444_800 * US_PER_S);

    /// Microseconds since the epoch.
    pub const fn us(self) -> i64 {
        self.0
    }

    /// This much later (or earlier, if negative); stays inside the range of `i64`.
    pub const fn plus_us(self, us: i64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Whether event times may have this value.
    pub fn is_event_time(self) -> bool {
        Self::MIN_EVENT <= self && self < Self::END_EVENT
    }

    /// Fixed-width RFC 3339 with microseconds and `Z`: sorts as text, as SQLite's views need.
    pub fn to_rfc3339(self) -> String {
        match self.to_datetime() {
            Some(t) => t.to_rfc3339_opts(SecondsFormat::Micros, true),
            None => format!("{} us since the epoch", self.0),
        }
    }

    /// As `chrono`'s type, where it can hold the value.
    pub fn to_datetime(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.0)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(t: DateTime<Utc>) -> Self {
        Self(t.timestamp_micros())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// Which edge belongs to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edges {
    /// `[start, end)`: a reading on the boundary belongs to the window that starts there.
    #[default]
    Start,
    /// `(start, end]`: it belongs to the window that ends there, as in Azure Stream Analytics.
    End,
}

impl Edges {
    /// The name used in settings and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End => "end",
        }
    }
}

/// A span of event time, from `start` to `end`; which edge is inside is the grid's [`Edges`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interval {
    /// Where it starts.
    pub start: Timestamp,
    /// Where it ends.
    pub end: Timestamp,
}

impl Interval {
    /// An interval that starts here and has this length.
    pub const fn starting(start: Timestamp, len_us: i64) -> Self {
        Self { start, end: start.plus_us(len_us) }
    }

    /// Its length in microseconds.
    pub const fn len_us(self) -> i64 {
        self.end.0 - self.start.0
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} .. {}", self.start, self.end)
    }
}

/// The tumbling panes of a store: one length, aligned to the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaneGrid {
    /// Length of a pane in microseconds; whole seconds, at least one.
    pub len_us: i64,
    /// Which edge belongs to a pane.
    pub edges: Edges,
}

impl PaneGrid {
    /// Number of the pane, counted from the epoch, that an event time falls into.
    ///
    /// Panes of at least a second number below 2³² until 2106, so a pane and a series fit one `u64` key.
    #[inline]
    pub const fn index_of(self, ts_us: i64) -> i64 {
        match self.edges {
            Edges::Start => ts_us.div_euclid(self.len_us),
            Edges::End => (ts_us - 1).div_euclid(self.len_us),
        }
    }

    /// Where the pane with this number starts.
    #[inline]
    pub const fn start_of(self, index: i64) -> Timestamp {
        Timestamp(index * self.len_us)
    }

    /// The pane that an event time falls into.
    pub const fn pane_of(self, ts: Timestamp) -> Interval {
        Interval::starting(self.start_of(self.index_of(ts.0)), self.len_us)
    }

    /// Whether a watermark has passed the end of a pane or window: no reading at or before the watermark's time is
    /// expected any more, so with `(start, end]` the watermark must lie strictly behind the end.
    pub const fn passed(self, watermark: Timestamp, end: Timestamp) -> bool {
        match self.edges {
            Edges::Start => watermark.0 >= end.0,
            Edges::End => watermark.0 > end.0,
        }
    }
}

/// Starts of the windows of length `window_us`, one every `hop_us` (both multiples of the pane, aligned to the epoch),
/// that contain the pane starting at `pane_start`; ascending.
pub fn windows_covering(
    pane_start: Timestamp,
    pane_us: i64,
    window_us: i64,
    hop_us: i64,
) -> impl Iterator<Item = Timestamp> {
    // Window [s, s + window) contains pane [p, p + pane) if s <= p and p + pane <= s + window.
    let last = pane_start.0.div_euclid(hop_us) * hop_us;
    let lowest = pane_start.0 + pane_us - window_us;
    let first = -(-lowest).div_euclid(hop_us) * hop_us; // rounded up to the hop
    (0..).map(move |i| first + i * hop_us).take_while(move |s| *s <= last).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_belongs_to_one_pane_by_the_edges() {
        let start = PaneGrid { len_us: 60 * US_PER_S, edges: Edges::Start };
        let end = PaneGrid { edges: Edges::End, ..start };
        let minute = 60 * US_PER_S;
        for (ts, by_start, by_end) in
            [(minute - 1, 0, 0), (minute, 1, 0), (minute + 1, 1, 1), (0, 0, -1), (2 * minute, 2, 1)]
        {
            assert_eq!(start.index_of(ts), by_start, "start, {ts}");
            assert_eq!(end.index_of(ts), by_end, "end, {ts}");
        }
    }

    #[test]
    fn a_pane_is_in_window_over_hop_windows() {
        let (pane, m) = (60 * US_PER_S, 60 * US_PER_S);
        let starts = |p: i64, w: i64, h: i64| -> Vec<i64> {
            windows_covering(Timestamp(p * m), pane, w * m, h * m).map(|t| t.0 / m).collect()
        };
        assert_eq!(starts(7, 1, 1), [7]);
        assert_eq!(starts(7, 5, 5), [5]);
        assert_eq!(starts(5, 5, 5), [5]);
        assert_eq!(starts(9, 5, 5), [5]);
        assert_eq!(starts(7, 5, 1), [3, 4, 5, 6, 7]);
        assert_eq!(starts(7, 4, 2), [4, 6]);
        assert_eq!(starts(3, 1, 2), Vec::<i64>::new(), "a hop longer than the window leaves panes out");
    }

    #[test]
    fn text_has_a_fixed_width() {
        assert_eq!(Timestamp(0).to_rfc3339(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp(1_535_497_205_000_000).to_rfc3339(), "2018-08-28T23:00:05.000000Z");
    }
}
