//! How good the demo's detection is, against the labels of the faults it injected.
//!
//! A fault counts once an interval that it fills, or the last one it touches, is scored. It is found if its series has
//! an anomaly in an interval that overlaps it; silence also by `no_data`. An anomaly is right if it overlaps a fault.
//! So recall = found / injected, precision = right anomalies / anomalies.

use fleetscore_schemas::time::Timestamp;
use fleetscore_simulator::{Fault, FaultKind};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What was said of the series of one interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scored {
    /// Series with `prediction = 1`.
    pub(crate) anomalies: HashSet<u32>,
    /// Series with `status = 'no_data'`.
    pub(crate) no_data: HashSet<u32>,
}

/// Scored intervals of equal length, by start.
#[derive(Debug, Clone)]
pub(crate) struct Quality {
    interval_us: i64,
    scored: BTreeMap<Timestamp, Scored>,
}

/// Found of injected, or right of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ratio {
    pub(crate) part: usize,
    pub(crate) of: usize,
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.of == 0 {
            return f.write_str("-");
        }
        write!(f, "{:.0} % ({} of {})", 100.0 * self.part as f64 / self.of as f64, self.part, self.of)
    }
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) intervals: usize,
    pub(crate) recall: Ratio,
    pub(crate) precision: Ratio,
    /// Recall of each kind of fault that was injected.
    pub(crate) kinds: BTreeMap<&'static str, Ratio>,
}

impl Quality {
    pub(crate) fn new(interval_us: i64) -> Self {
        Self { interval_us, scored: BTreeMap::new() }
    }

    /// Notes an interval; one that was scored again takes its former place.
    pub(crate) fn note(&mut self, start: Timestamp, scored: Scored) {
        self.scored.insert(start, scored);
    }

    /// Number of scored intervals.
    pub(crate) fn intervals(&self) -> usize {
        self.scored.len()
    }

    /// Starts of the intervals that overlap a fault.
    fn overlapping(&self, fault: &Fault) -> std::ops::Range<Timestamp> {
        let first = fault.from_us.div_euclid(self.interval_us) * self.interval_us;
        Timestamp(first)..Timestamp(fault.to_us.max(fault.from_us + 1))
    }

    fn counts(&self, fault: &Fault) -> bool {
        let range = self.overlapping(fault);
        let last = Timestamp((range.end.0 - 1).div_euclid(self.interval_us) * self.interval_us);
        let fills = |s: Timestamp| s.0 >= fault.from_us && s.0 + self.interval_us <= fault.to_us;
        self.scored.contains_key(&last) || self.scored.range(range).any(|(s, _)| fills(*s))
    }

    fn found(&self, fault: &Fault) -> bool {
        self.scored.range(self.overlapping(fault)).any(|(_, s)| {
            s.anomalies.contains(&fault.series)
                || (fault.kind == FaultKind::Silence && s.no_data.contains(&fault.series))
        })
    }

    /// The summary over everything noted so far.
    pub(crate) fn summary(&self, faults: &[Fault]) -> Summary {
        let mut out = Summary { intervals: self.scored.len(), ..Summary::default() };
        let mut by_series: HashMap<u32, Vec<&Fault>> = HashMap::new();
        for fault in faults {
            by_series.entry(fault.series).or_default().push(fault);
            if self.counts(fault) {
                let found = usize::from(self.found(fault));
                for ratio in [&mut out.recall, out.kinds.entry(fault.kind.as_str()).or_default()] {
                    ratio.of += 1;
                    ratio.part += found;
                }
            }
        }
        for (start, scored) in &self.scored {
            for series in &scored.anomalies {
                let of_series = by_series.get(series).map_or(&[][..], Vec::as_slice);
                out.precision.of += 1;
                out.precision.part +=
                    usize::from(of_series.iter().any(|f| self.overlapping(f).contains(start)));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(series: u32, kind: FaultKind, from_us: i64, to_us: i64) -> Fault {
        Fault { series, kind, from_us, to_us }
    }

    fn scored(anomalies: &[u32], no_data: &[u32]) -> Scored {
        Scored { anomalies: anomalies.iter().copied().collect(), no_data: no_data.iter().copied().collect() }
    }

    #[test]
    fn found_right_and_neither() {
        let mut q = Quality::new(10);
        q.note(Timestamp(0), scored(&[1, 9], &[]));
        q.note(Timestamp(10), scored(&[2], &[3]));
        q.note(Timestamp(20), scored(&[1], &[]));
        let faults = [
            fault(1, FaultKind::Spike, 3, 5), // found in its interval; the anomaly of 20 is not its
            fault(2, FaultKind::Drift, 5, 25), // found in the middle
            fault(3, FaultKind::Silence, 10, 20), // found by no_data
            fault(4, FaultKind::Stuck, 10, 20), // not found
            fault(5, FaultKind::Noise, 28, 45), // its last interval is not scored yet, none is filled
            fault(2, FaultKind::Noise, 100, 110), // not scored at all
        ];
        let s = q.summary(&faults);
        assert_eq!(s.recall, Ratio { part: 3, of: 4 });
        assert_eq!(s.precision, Ratio { part: 2, of: 4 }, "of 1@0, 9@0, 2@10, 1@20");
        assert_eq!(s.kinds["silence"], Ratio { part: 1, of: 1 });
        assert_eq!(s.kinds["stuck"], Ratio { part: 0, of: 1 });
        assert!(!s.kinds.contains_key("noise"));
        assert_eq!(s.intervals, 3);
        assert_eq!(Ratio::default().to_string(), "-");
        assert_eq!(s.recall.to_string(), "75 % (3 of 4)");
    }

    #[test]
    fn an_interval_scored_again_counts_once() {
        let mut q = Quality::new(10);
        q.note(Timestamp(0), scored(&[7], &[]));
        q.note(Timestamp(0), scored(&[], &[]));
        assert_eq!(q.summary(&[]).precision, Ratio::default());
        assert_eq!(q.intervals(), 1);
    }

    #[test]
    fn silence_is_not_found_as_no_data_of_another_kind() {
        let mut q = Quality::new(10);
        q.note(Timestamp(0), scored(&[], &[1]));
        assert_eq!(q.summary(&[fault(1, FaultKind::Drift, 0, 10)]).recall, Ratio { part: 0, of: 1 });
        assert_eq!(q.summary(&[fault(1, FaultKind::Silence, 0, 10)]).recall, Ratio { part: 1, of: 1 });
    }
}
