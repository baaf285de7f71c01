//! Two streams of predictions side by side, and what is kept of their differences.

use super::{DiffReport, IntervalDiff, LabelDiff, SeriesDiff, Side};
use crate::error::Result;
use crate::models::{ModelSet, ranges_text};
use crate::plan::{Predictions, ScoreError};
use crate::range::compare::names;
use arrow::array::{Array, AsArray, Float64Array, Int16Array, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int16Type, UInt32Type};
use fleetscore_schemas::time::Interval;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::Store;
use futures::TryStreamExt;
use std::collections::HashMap;
use std::sync::Arc;

/// What is known so far.
pub(super) struct Lockstep {
    sets: [Arc<ModelSet>; 2],
    limit: usize,
    /// `to_anomaly, to_normal, status` of each series with changes.
    series: HashMap<SeriesId, [u64; 3]>,
    /// The first changes, their series by id.
    changes: Vec<(SeriesId, LabelDiff)>,
}

/// One of the two streams: the rest of its present batch.
struct Cursor {
    stream: Predictions,
    rest: Option<RecordBatch>,
}

impl Cursor {
    /// The rest of the present batch; the next batch after it. `None` at the end.
    async fn rest(&mut self) -> Result<Option<RecordBatch>, ScoreError> {
        loop {
            match self.rest.take().filter(|b| b.num_rows() > 0) {
                Some(batch) => return Ok(Some(batch)),
                None => match self.stream.try_next().await? {
                    Some(batch) => self.rest = Some(batch),
                    None => return Ok(None),
                },
            }
        }
    }
}

/// The columns that are compared.
struct Labels<'a> {
    value: &'a Float64Array,
    prediction: &'a Int16Array,
    decision: &'a Float64Array,
    status: &'a StringArray,
    normal: &'a StringArray,
}

impl<'a> Labels<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        Self {
            value: batch.column(1).as_primitive::<Float64Type>(),
            prediction: batch.column(2).as_primitive::<Int16Type>(),
            decision: batch.column(3).as_primitive::<Float64Type>(),
            status: batch.column(4).as_string(),
            normal: batch.column(7).as_string(),
        }
    }

    fn prediction(&self, row: usize) -> Option<i16> {
        self.prediction.is_valid(row).then(|| self.prediction.value(row))
    }

    fn side(&self, row: usize, set: &ModelSet, series: SeriesId) -> Side {
        let text = |c: &StringArray| c.is_valid(row).then(|| c.value(row).to_owned());
        let of_model = set.get(series).and_then(|(shard, at)| shard.normal(at)).map(|(from, to)| {
            let ranges: Vec<(f64, f64)> = from.iter().copied().zip(to.iter().copied()).collect();
            ranges_text(&ranges)
        });
        Side {
            status: self.status.value(row).to_owned(),
            prediction: self.prediction(row),
            decision: self.decision.is_valid(row).then(|| self.decision.value(row)),
            normal_range: of_model.or_else(|| text(self.normal)),
        }
    }
}

impl Lockstep {
    pub(super) fn new(sets: [Arc<ModelSet>; 2], limit: usize) -> Self {
        Self { sets, limit, series: HashMap::new(), changes: Vec::new() }
    }

    /// Compares the two predictions of every window of an interval.
    pub(super) async fn compare(
        &mut self,
        interval: Interval,
        sides: [Predictions; 2],
    ) -> Result<IntervalDiff> {
        let mut counts =
            IntervalDiff { interval, rows: 0, anomalies: [0; 2], to_anomaly: 0, to_normal: 0, status: 0 };
        let [mut a, mut b] = sides.map(|stream| Cursor { stream, rest: None });
        loop {
            let (left, right) = (a.rest().await?, b.rest().await?);
            let (Some(left), Some(right)) = (&left, &right) else {
                if left.is_some() || right.is_some() {
                    return Err(apart(interval));
                }
                return Ok(counts);
            };
            let n = left.num_rows().min(right.num_rows());
            self.rows(&left.slice(0, n), &right.slice(0, n), &mut counts)?;
            a.rest = Some(left.slice(n, left.num_rows() - n));
            b.rest = Some(right.slice(n, right.num_rows() - n));
        }
    }

    fn rows(&mut self, left: &RecordBatch, right: &RecordBatch, counts: &mut IntervalDiff) -> Result<()> {
        let series = left.column(0).as_primitive::<UInt32Type>().values();
        if series != right.column(0).as_primitive::<UInt32Type>().values() {
            return Err(apart(counts.interval));
        }
        let (a, b) = (Labels::of(left), Labels::of(right));
        counts.rows += series.len() as u64;
        for (row, series) in series.iter().enumerate() {
            let labels = (a.prediction(row), b.prediction(row));
            counts.anomalies[0] += u64::from(labels.0 == Some(1));
            counts.anomalies[1] += u64::from(labels.1 == Some(1));
            let kind = match labels {
                (Some(0), Some(1)) => 0,
                (Some(1), Some(0)) => 1,
                (a, b) if a != b => 2,
                _ if a.status.value(row) != b.status.value(row) => 2,
                _ => continue,
            };
            *[&mut counts.to_anomaly, &mut counts.to_normal, &mut counts.status][kind] += 1;
            self.series.entry(*series).or_default()[kind] += 1;
            if self.changes.len() < self.limit {
                let value = a.value.is_valid(row).then(|| a.value.value(row));
                let sides = [a.side(row, &self.sets[0], *series), b.side(row, &self.sets[1], *series)];
                let unnamed = SeriesName::new("", "");
                self.changes
                    .push((*series, LabelDiff { interval: counts.interval, series: unnamed, value, sides }));
            }
        }
        Ok(())
    }

    /// Puts what was found into the report, under the names of its series.
    pub(super) async fn finish(self, store: &dyn Store, report: &mut DiffReport) -> Result<()> {
        report.series_changed = self.series.len();
        let mut most: Vec<(SeriesId, [u64; 3])> = self.series.into_iter().collect();
        most.sort_unstable_by_key(|(id, n)| (std::cmp::Reverse(n.iter().sum::<u64>()), *id));
        most.truncate(self.limit);
        let mut wanted: Vec<SeriesId> =
            most.iter().map(|(id, _)| *id).chain(self.changes.iter().map(|(id, _)| *id)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let names: HashMap<SeriesId, SeriesName> = names(store, &wanted).await?.into_iter().collect();
        // A scored series has a row for ever.
        let name = |id: &SeriesId| names.get(id).cloned().unwrap_or_else(|| SeriesName::new("?", "?"));
        report.series = most
            .iter()
            .map(|(id, [to_anomaly, to_normal, status])| SeriesDiff {
                series: name(id),
                to_anomaly: *to_anomaly,
                to_normal: *to_normal,
                status: *status,
            })
            .collect();
        report.changes =
            self.changes.into_iter().map(|(id, change)| LabelDiff { series: name(&id), ..change }).collect();
        Ok(())
    }
}

/// Both score the same windows, so this cannot be.
fn apart(interval: Interval) -> crate::error::ScorerError {
    ScoreError::Plan(format!("two sets gave rows for different windows of {interval}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Entry;
    use arrow::array::{ArrayRef, Int64Array, UInt32Array};
    use fleetscore_kernel::{Kernel, Model};
    use fleetscore_schemas::time::Timestamp;
    use fleetscore_schemas::window::{Feature, prediction_schema};
    use futures::StreamExt;
    use proptest::prelude::*;

    fn set(version: i64) -> Arc<ModelSet> {
        let model = Model {
            features: 1,
            mean: vec![],
            scale: vec![],
            kernel: Kernel::Linear,
            support_vectors: vec![1.0],
            dual_coef: vec![1.0],
            rho: version as f64,
        };
        let entry = Entry {
            series: 1,
            name: SeriesName::new("d", "1"),
            model: "m".into(),
            outcome: Ok(model),
            normal: Some(vec![(version as f64, f64::INFINITY)]),
        };
        Arc::new(ModelSet::from_entries(version, vec![Feature::Mean], vec![entry]).unwrap())
    }

    /// Labels of series 1, 2, 3, …: `Some(0)`, `Some(1)`, or a status without a label.
    fn batches(labels: &[Result<i16, &str>], sizes: &[usize]) -> Predictions {
        let mut batches = Vec::new();
        let mut start = 0;
        for size in sizes.iter().copied().chain([usize::MAX]) {
            let end = start + size.min(labels.len() - start);
            let part = &labels[start..end];
            let n = part.len();
            let status = part.iter().map(|l| l.as_ref().err().copied().unwrap_or("scored"));
            let decision = part.iter().map(|l| l.as_ref().ok().map(|l| 0.5 - f64::from(*l)));
            let columns: Vec<ArrayRef> = vec![
                Arc::new(UInt32Array::from_iter_values(start as u32 + 1..end as u32 + 1)),
                Arc::new(Float64Array::from(vec![7.0; n])),
                Arc::new(Int16Array::from_iter(part.iter().map(|l| l.as_ref().ok().copied()))),
                Arc::new(Float64Array::from_iter(decision)),
                Arc::new(StringArray::from_iter_values(status)),
                Arc::new(StringArray::from(vec![Some("m"); n])),
                Arc::new(Int64Array::from(vec![1; n])),
                Arc::new(StringArray::from(vec![None::<&str>; n])),
                Arc::new(Int64Array::from(vec![None; n])),
            ];
            batches.push(Ok(RecordBatch::try_new(prediction_schema(), columns).unwrap()));
            start = end;
        }
        futures::stream::iter(batches).boxed()
    }

    fn interval() -> Interval {
        Interval::starting(Timestamp(0), 60_000_000)
    }

    #[tokio::test]
    async fn changes_are_counted_and_the_first_kept_with_both_sides() {
        let mut lockstep = Lockstep::new([set(1), set(2)], 2);
        let a = [Ok(0), Ok(1), Err("no_model"), Ok(1), Err("no_model"), Ok(1)];
        let b = [Ok(1), Ok(0), Ok(0), Ok(1), Err("model_error"), Ok(1)];
        let counts =
            lockstep.compare(interval(), [batches(&a, &[1, 0, 3]), batches(&b, &[4])]).await.unwrap();
        let wanted = IntervalDiff {
            interval: interval(),
            rows: 6,
            anomalies: [3, 3],
            to_anomaly: 1,
            to_normal: 1,
            status: 2,
        };
        assert_eq!((counts, counts.changed()), (wanted, 4));
        assert_eq!(lockstep.series.len(), 4);
        let [(1, first), (2, _)] = &lockstep.changes[..] else { panic!("{:?}", lockstep.changes) };
        assert_eq!(first.value, Some(7.0));
        let [left, right] = &first.sides;
        assert_eq!(
            (left.prediction, left.decision, left.normal_range.as_deref()),
            (Some(0), Some(0.5), Some("1 … ∞"))
        );
        assert_eq!((right.prediction, right.normal_range.as_deref()), (Some(1), Some("2 … ∞")));
    }

    #[tokio::test]
    async fn streams_for_different_windows_are_a_fault() {
        let rows = [Ok(0), Ok(1)];
        for (a, b) in [(&rows[..], &rows[..1]), (&rows[..0], &rows[..])] {
            let mut lockstep = Lockstep::new([set(1), set(2)], 2);
            let compared = lockstep.compare(interval(), [batches(a, &[]), batches(b, &[])]).await;
            assert!(compared.unwrap_err().to_string().contains("different windows"));
        }
    }

    proptest! {
        #[test]
        fn how_the_rows_are_cut_into_batches_does_not_matter(
            labels in prop::collection::vec((0..3i16, 0..3i16), 0..40),
            cuts in prop::array::uniform2(prop::collection::vec(0usize..9, 0..8)),
        ) {
            let label = |l: i16| if l == 2 { Err("no_model") } else { Ok(l) };
            let a: Vec<_> = labels.iter().map(|l| label(l.0)).collect();
            let b: Vec<_> = labels.iter().map(|l| label(l.1)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut lockstep = Lockstep::new([set(1), set(2)], 1000);
            let sides = [batches(&a, &cuts[0]), batches(&b, &cuts[1])];
            let counts = runtime.block_on(lockstep.compare(interval(), sides)).unwrap();
            let changed: Vec<u32> = labels.iter().zip(1..).filter(|(l, _)| l.0 != l.1).map(|(_, s)| s).collect();
            prop_assert_eq!(counts.rows as usize, labels.len());
            prop_assert_eq!(counts.changed() as usize, changed.len());
            prop_assert_eq!(lockstep.changes.iter().map(|(s, _)| *s).collect::<Vec<_>>(), changed);
        }
    }
}
