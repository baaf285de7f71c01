//! The mergeable partial aggregate of one series in one pane, as columns.
//!
//! Deltas commute: `count` and `sum` add, `m2` (the sum of squared deviations) merges by the parallel-variance formula
//! of Chan, Golub and LeVeque, `min` and `max` are themselves, and `first`/`last` order by `(ts, value)` so that ties do
//! not depend on arrival. Floating sums depend on the order in their last bits, nothing else does.

use crate::SeriesId;
use crate::time::Timestamp;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::{Arc, LazyLock};

/// Names of the columns of a delta, in order.
pub mod columns {
    /// `UInt32`: [`crate::SeriesId`].
    pub const SERIES: &str = "series";
    /// `Timestamp(us, UTC)`: start of the pane.
    pub const PANE_START: &str = "pane_start";
    /// `Int64`: number of readings, at least 1.
    pub const COUNT: &str = "count";
    /// `Float64`: their sum.
    pub const SUM: &str = "sum";
    /// `Float64`: sum of squared deviations from the mean.
    pub const M2: &str = "m2";
    /// `Float64`: the least value.
    pub const MIN: &str = "min";
    /// `Float64`: the greatest value.
    pub const MAX: &str = "max";
    /// `Timestamp(us, UTC)`: event time of the first reading by (ts, value).
    pub const FIRST_TS: &str = "first_ts";
    /// `Float64`: its value.
    pub const FIRST: &str = "first";
    /// `Timestamp(us, UTC)`: event time of the last reading by (ts, value).
    pub const LAST_TS: &str = "last_ts";
    /// `Float64`: its value.
    pub const LAST: &str = "last";
}

/// The Arrow type of event times.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Schema of a batch of deltas: one row per (pane, series), sorted by (pane, series) where it is handed to a store; no
/// nulls.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let f = |name: &str, t: DataType| Field::new(name, t, false);
        Arc::new(Schema::new(vec![
            f(columns::SERIES, DataType::UInt32),
            f(columns::PANE_START, timestamp_type()),
            f(columns::COUNT, DataType::Int64),
            f(columns::SUM, DataType::Float64),
            f(columns::M2, DataType::Float64),
            f(columns::MIN, DataType::Float64),
            f(columns::MAX, DataType::Float64),
            f(columns::FIRST_TS, timestamp_type()),
            f(columns::FIRST, DataType::Float64),
            f(columns::LAST_TS, timestamp_type()),
            f(columns::LAST, DataType::Float64),
        ]))
    });
    SCHEMA.clone()
}

/// One delta as a row: the reference form of the merge rules. Hot paths work on columns and must agree with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Partial {
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
    /// First reading by (ts, value).
    pub first: (Timestamp, f64),
    /// Last reading by (ts, value).
    pub last: (Timestamp, f64),
}

impl Partial {
    /// The aggregate of a single reading.
    pub const fn of(ts: Timestamp, value: f64) -> Self {
        Self { count: 1, sum: value, m2: 0.0, min: value, max: value, first: (ts, value), last: (ts, value) }
    }

    /// The aggregate of both sets of readings.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let (na, nb) = (self.count as f64, other.count as f64);
        let d = other.sum / nb - self.sum / na;
        let earlier = |a: (Timestamp, f64), b: (Timestamp, f64)| a.0 < b.0 || (a.0 == b.0 && a.1 <= b.1);
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            // Chan, Golub, LeVeque 1979: M2 = M2a + M2b + d² · na·nb / (na + nb)
            m2: self.m2 + other.m2 + d * d * (na * nb / (na + nb)),
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            first: if earlier(self.first, other.first) { self.first } else { other.first },
            last: if earlier(self.last, other.last) { other.last } else { self.last },
        }
    }

    /// sum / count.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// The sample's standard deviation; `None` for one reading.
    pub fn stddev(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.m2 / (self.count - 1) as f64).sqrt())
    }
}

/// Key of a stored pane row: panes before series, the order in which rows are locked.
pub type PaneKey = (Timestamp, SeriesId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_in_any_order_gives_the_same_but_for_rounding() {
        let readings = [(5, 2.5), (1, -3.0), (5, 2.0), (9, 8.25), (1, -4.0)];
        let all = |order: &[usize]| {
            order
                .iter()
                .map(|i| Partial::of(Timestamp(readings[*i].0), readings[*i].1))
                .reduce(|a, b| a.merge(&b))
        };
        let (a, b) = (all(&[0, 1, 2, 3, 4]).unwrap(), all(&[4, 2, 0, 3, 1]).unwrap());
        assert_eq!((a.count, a.min, a.max, a.first, a.last), (b.count, b.min, b.max, b.first, b.last));
        assert_eq!(a.first, (Timestamp(1), -4.0));
        assert_eq!(a.last, (Timestamp(9), 8.25));
        assert!((a.sum - 5.75).abs() < 1e-12 && (a.sum - b.sum).abs() < 1e-12);
        let mean = 5.75 / 5.0;
        let m2: f64 = readings.iter().map(|(_, v)| (v - mean) * (v - mean)).sum();
        assert!((a.m2 - m2).abs() < 1e-9 && (b.m2 - m2).abs() < 1e-9);
    }
}
