//! How far what a store shows may be from what was computed here. Floating sums depend in their last bits on the order of
//! adding, and so do means, deviations and decisions; nothing else may differ at all.

use crate::model::Prediction;
use crate::windows::Window;

/// Of a sum and of a mean.
const SUM: f64 = 1e-14;
/// Of a standard deviation.
const STDDEV: f64 = 1e-11;
/// The deviation of a constant window is rounding noise: it is measured by this share of the size of its values.
const NOISE: f64 = 0.01;
/// Of a decision; not relative, as decisions near zero are differences of greater numbers.
const DECISION: f64 = 1e-14;

/// Whether sums and means may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// They may not: all values are small multiples of 1/8, say, whose sums are exact in any order.
    Exact,
    /// In their last bits.
    Rounded,
}

/// Whether two numbers are as near as a share of a size.
fn near(a: f64, b: f64, share: f64, size: f64) -> bool {
    (a - b).abs() <= share * size
}

impl Window {
    /// What a store shows otherwise than this window, if anything.
    pub fn differs(&self, shown: &Self, sums: Sums) -> Option<String> {
        let sum = |wanted: f64, shown: f64| match sums {
            Sums::Exact => wanted == shown,
            Sums::Rounded => near(wanted, shown, SUM, wanted.abs().max(shown.abs())),
        };
        let size = self.min.abs().max(self.max.abs());
        let stddev = match (self.stddev, shown.stddev) {
            (Some(a), Some(b)) => near(a, b, STDDEV, a.abs().max(b.abs()).max(size * NOISE)),
            (a, b) => a == b,
        };
        let columns = [
            ("readings", self.count == shown.count),
            ("sum", sum(self.sum, shown.sum)),
            ("mean", sum(self.mean, shown.mean)),
            ("min", self.min == shown.min),
            ("max", self.max == shown.max),
            ("stddev", stddev),
            ("first", self.first == shown.first),
            ("last", self.last == shown.last),
        ];
        let wrong: Vec<&str> = columns.iter().filter(|(_, equal)| !equal).map(|(name, _)| *name).collect();
        (!wrong.is_empty()).then(|| format!("{} of {shown:?}, not {self:?}", wrong.join(", ")))
    }
}

impl Prediction {
    /// What a store shows otherwise than this prediction, if anything.
    pub fn differs(&self, shown: &Self) -> Option<String> {
        let equal = self.label == shown.label && near(self.decision, shown.decision, DECISION, 1.0);
        (!equal).then(|| format!("{shown:?}, not {self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window {
        count: 4,
        sum: 8.0,
        mean: 2.0,
        min: 1.0,
        max: 3.0,
        stddev: Some(0.5),
        first: 1.0,
        last: 3.0,
    };

    #[test]
    fn columns_differ_beyond_their_tolerance_alone() {
        let with = |change: fn(&mut Window)| {
            let mut shown = WINDOW;
            change(&mut shown);
            shown
        };
        // What is changed, and whether it may be so where sums are exact and where they are rounded.
        let cases = [
            ("nothing", with(|_| {}), true, true),
            ("count", with(|w| w.count = 3), false, false),
            ("sum by a bit", with(|w| w.sum = w.sum.next_up()), false, true),
            ("sum by more", with(|w| w.sum += 1e-12), false, false),
            ("no sum", with(|w| w.sum = f64::NAN), false, false),
            ("mean by a bit", with(|w| w.mean = w.mean.next_down()), false, true),
            ("mean by more", with(|w| w.mean -= 1e-13), false, false),
            ("min by a bit", with(|w| w.min = w.min.next_up()), false, false),
            ("max by a bit", with(|w| w.max = w.max.next_up()), false, false),
            ("stddev by little", with(|w| w.stddev = Some(0.5 + 4e-12)), true, true),
            ("stddev by more", with(|w| w.stddev = Some(0.5 + 6e-12)), false, false),
            ("no stddev", with(|w| w.stddev = None), false, false),
            ("first by a bit", with(|w| w.first = w.first.next_up()), false, false),
            ("last by a bit", with(|w| w.last = w.last.next_up()), false, false),
        ];
        for (what, shown, exact, rounded) in cases {
            assert_eq!(WINDOW.differs(&shown, Sums::Exact).is_none(), exact, "{what}, exact");
            assert_eq!(WINDOW.differs(&shown, Sums::Rounded).is_none(), rounded, "{what}, rounded");
        }
        let told = WINDOW.differs(&with(|w| (w.min, w.last) = (0.0, 0.0)), Sums::Rounded);
        assert!(told.is_some_and(|t| t.starts_with("min, last of ")));
    }

    #[test]
    fn the_deviation_of_a_constant_window_is_noise_of_its_size() {
        let constant = Window { min: -1000.0, max: -1000.0, stddev: Some(0.0), ..WINDOW };
        let shown = |stddev| Window { stddev: Some(stddev), ..constant.clone() };
        assert_eq!(constant.differs(&shown(9e-11), Sums::Rounded), None);
        assert!(constant.differs(&shown(2e-10), Sums::Rounded).is_some());
    }

    #[test]
    fn decisions_differ_beyond_their_tolerance_alone() {
        let prediction = Prediction { label: 1, decision: -0.25 };
        let shown = |label, decision| Prediction { label, decision };
        assert_eq!(prediction.differs(&shown(1, -0.25 + 5e-15)), None);
        assert!(prediction.differs(&shown(1, -0.25 + 2e-14)).is_some());
        assert!(prediction.differs(&shown(0, -0.25)).is_some());
        assert!(prediction.differs(&shown(1, f64::NAN)).is_some());
    }
}
