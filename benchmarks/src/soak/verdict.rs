//! Whether a figure grows: by a slope that single samples do not move, and by its first and last third.

use crate::report::median;

/// One figure over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is, with its unit.
    pub name: String,
    /// (seconds, value)
    pub points: Vec<(f64, f64)>,
    /// It may grow by this share of its median over the whole run …
    pub relative: f64,
    /// … or by this much, whichever is more.
    pub absolute: f64,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Median of the first third.
    pub first: f64,
    /// Median of the last third.
    pub last: f64,
    /// By how much it grows from the first sample to the last, by the median of the slopes of all pairs (Theil and Sen).
    pub growth: f64,
    /// By how much it may.
    pub allowed: f64,
}

impl Verdict {
    /// Whether neither the slope nor the thirds grow by more than is allowed.
    pub fn flat(&self) -> bool {
        self.growth.max(self.last - self.first) <= self.allowed
    }
}

impl Series {
    /// Judges the samples after a time; `None` where there are too few.
    pub fn verdict(&self, after_s: f64) -> Option<Verdict> {
        let points: Vec<(f64, f64)> = self.points.iter().copied().filter(|(t, _)| *t >= after_s).collect();
        let (begin, end) = (points.first()?.0, points.last()?.0);
        let third = (end - begin) / 3.0;
        let values = |from: f64, to: f64| -> Vec<f64> {
            points.iter().filter(|(t, _)| (from..=to).contains(t)).map(|(_, v)| *v).collect()
        };
        let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
        for (i, (t, v)) in points.iter().enumerate() {
            slopes.extend(points[..i].iter().filter(|(u, _)| u < t).map(|(u, w)| (v - w) / (t - u)));
        }
        Some(Verdict {
            first: median(&values(begin, begin + third))?,
            last: median(&values(end - third, end))?,
            growth: median(&slopes)? * (end - begin),
            allowed: (median(&values(begin, end))? * self.relative).max(self.absolute),
        })
    }
}

/// Bytes for each thing that was added within so many samples, of (seconds, things, bytes of all): what all take on average
/// hides for long that the newest take more.
pub(super) fn of_new(samples: &[(f64, u64, u64)], within: usize) -> Vec<(f64, f64)> {
    let added = samples.iter().zip(samples.iter().skip(within));
    let each = |((_, n, bytes), (seconds, m, more)): (&(f64, u64, u64), &(f64, u64, u64))| {
        let things = m.checked_sub(*n).filter(|n| *n > 0)?;
        Some((*seconds, (*more as f64 - *bytes as f64) / things as f64))
    };
    added.filter_map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(value: impl Fn(f64) -> f64) -> Series {
        let points = (0..180).map(|i| (f64::from(i) * 10.0, value(f64::from(i)))).collect();
        Series { name: "figure".into(), points, relative: 0.05, absolute: 1.0 }
    }

    #[test]
    fn what_grows_is_found_and_what_swings_is_not() {
        let flat = |s: Series| s.verdict(180.0).map(|v| v.flat());
        assert_eq!(flat(series(|i| 100.0 + (i * 0.7).sin() * 30.0)), Some(true));
        assert_eq!(flat(series(|i| 100.0 - i)), Some(true), "what falls is no leak");
        assert_eq!(flat(series(|i| 100.0 + i * 0.1)), Some(false), "16 over the run");
        assert_eq!(flat(series(|i| if i < 60.0 { 100.0 } else { 110.0 })), Some(false), "a step stays");
        assert_eq!(flat(series(|i| if i as u32 % 30 == 7 { 900.0 } else { 100.0 })), Some(true), "outliers");
        assert_eq!(flat(series(|i| if i < 15.0 { i } else { 100.0 })), Some(true), "warming up is left out");
        assert_eq!(Series { points: vec![(1.0, 1.0)], ..series(|_| 0.0) }.verdict(0.0), None);
    }

    #[test]
    fn that_new_ones_take_more_is_found_before_the_average_says_it() {
        // A hundred a sample of 200 bytes each, in the last third of the run of 230.
        let bytes = |i: u64| 100 * (200 * i + 30 * i.saturating_sub(115));
        let samples: Vec<_> = (1..180).map(|i| (i as f64 * 10.0, 100 * i, bytes(i))).collect();
        let judged =
            |points| Series { points, relative: 0.1, ..series(|_| 0.0) }.verdict(180.0).map(|v| v.flat());
        assert_eq!(judged(samples.iter().map(|(t, n, b)| (*t, *b as f64 / *n as f64)).collect()), Some(true));
        assert_eq!(judged(of_new(&samples, 12)), Some(false));
        assert_eq!(
            of_new(&[(1.0, 5, 10), (2.0, 5, 30), (3.0, 6, 40)], 1),
            [(3.0, 10.0)],
            "nothing was added"
        );
    }
}
