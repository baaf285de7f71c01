//! The partial aggregate of one group.

use fleetscore_schemas::delta::Partial;
use fleetscore_schemas::time::Timestamp;

/// One group's aggregate. All fields of a group lie together: groups come in random order, and one group is two cache
/// lines instead of nine.
///
/// Agrees with [`Partial`] to the last bit; a count of 0 is the empty aggregate, which `Partial` cannot express.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Slot {
    /// Number of readings.
    pub count: i64,
    /// Their sum.
    pub sum: f64,
    /// Sum of squared deviations from the mean.
    pub m2: f64,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// Event time of the first reading by (ts, value), in microseconds.
    pub first_ts: i64,
    /// Its value.
    pub first: f64,
    /// Event time of the last reading by (ts, value), in microseconds.
    pub last_ts: i64,
    /// Its value.
    pub last: f64,
}

impl Slot {
    /// The aggregate of a single reading.
    #[inline]
    pub const fn of(ts: i64, value: f64) -> Self {
        Self {
            count: 1,
            sum: value,
            m2: 0.0,
            min: value,
            max: value,
            first_ts: ts,
            first: value,
            last_ts: ts,
            last: value,
        }
    }

    /// Adds one reading.
    #[inline]
    pub fn add(&mut self, ts: i64, value: f64) {
        if self.count == 0 {
            *self = Self::of(ts, value);
            return;
        }
        let n = self.count as f64;
        let d = value - self.sum / n;
        self.count += 1;
        self.sum += value;
        self.m2 += d * d * (n / (n + 1.0));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if !earlier((self.first_ts, self.first), (ts, value)) {
            (self.first_ts, self.first) = (ts, value);
        }
        if earlier((self.last_ts, self.last), (ts, value)) {
            (self.last_ts, self.last) = (ts, value);
        }
    }

    /// As the row form of the merge rules; `None` if it is empty.
    pub fn to_partial(&self) -> Option<Partial> {
        (self.count > 0).then_some(Partial {
            count: self.count,
            sum: self.sum,
            m2: self.m2,
            min: self.min,
            max: self.max,
            first: (Timestamp(self.first_ts), self.first),
            last: (Timestamp(self.last_ts), self.last),
        })
    }
}

#[inline]
fn earlier(a: (i64, f64), b: (i64, f64)) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 <= b.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading() -> impl Strategy<Value = (i64, f64)> {
        // Few distinct times and values, so that ties are common.
        (0i64..6, prop_oneof![(-4i32..4).prop_map(f64::from), -1e6..1e6f64])
    }

    proptest! {
        #[test]
        fn adding_agrees_with_the_row_form(rows in prop::collection::vec(reading(), 0..20)) {
            let mut slot = Slot::default();
            let mut partial: Option<Partial> = None;
            for (ts, v) in &rows {
                slot.add(*ts, *v);
                let one = Partial::of(Timestamp(*ts), *v);
                partial = Some(partial.map_or(one, |p| p.merge(&one)));
            }
            prop_assert_eq!(slot.to_partial(), partial);
        }
    }
}
