//! What scoring an interval again would change: the new predictions and the stored ones in lockstep.
//!
//! New predictions come ascending by series, stored ones by name; so the stored ones are reduced to a label of eight bytes
//! each, sorted by series, and the new ones pass by. Memory is eight bytes for each stored row, and the changes.

use super::LabelChange;
use crate::error::Result;
use crate::output::rows;
use crate::plan::Predictions;
use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Int16Type, UInt32Type};
use fleetscore_schemas::status::PredictionStatus;
use fleetscore_schemas::time::Interval;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::{RunCounts, Selection, Store};
use futures::TryStreamExt;

/// Status and prediction of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    /// Index among the [`Statuses`].
    status: u8,
    /// −1 where it is NULL.
    prediction: i8,
}

/// Names of statuses, also such as only a newer version knows.
#[derive(Debug, Default)]
struct Statuses(Vec<String>);

impl Statuses {
    fn label(&mut self, status: &str, prediction: Option<i16>) -> Label {
        let at = self.0.iter().position(|s| s == status).unwrap_or_else(|| {
            self.0.push(status.to_owned());
            self.0.len() - 1
        });
        let prediction = prediction.and_then(|p| i8::try_from(p).ok()).unwrap_or(-1);
        // The statuses are a handful.
        Label { status: u8::try_from(at).unwrap_or(u8::MAX), prediction }
    }

    fn words(&self, label: Label) -> (String, Option<i16>) {
        let status = self.0.get(usize::from(label.status)).cloned().unwrap_or_default();
        (status, (label.prediction >= 0).then_some(i16::from(label.prediction)))
    }
}

/// A label in words.
type Words = (String, Option<i16>);

/// A row that would change, its series by id.
#[derive(Debug, Clone)]
pub(super) struct Change {
    series: SeriesId,
    before: Option<Words>,
    after: Option<Words>,
}

/// Compares new predictions of some series of an interval with their stored ones; also what the new ones add up to.
pub(super) async fn compare(
    store: &dyn Store,
    schedule: &str,
    interval: Interval,
    selection: &Selection,
    mut scored: Predictions,
) -> Result<(RunCounts, Vec<Change>)> {
    let mut statuses = Statuses::default();
    let stored = stored(store, schedule, interval, selection, &mut statuses).await?;
    let mut stored = stored.into_iter().peekable();
    let (mut counts, mut changes) = (RunCounts::default(), Vec::new());
    while let Some(batch) = scored.try_next().await? {
        for (series, status, prediction) in labels(&batch) {
            count(&mut counts, status, prediction);
            while let Some((gone, label)) = stored.next_if(|(s, _)| *s < series) {
                changes.push(Change { series: gone, before: Some(statuses.words(label)), after: None });
            }
            let before = stored.next_if(|(s, _)| *s == series).map(|(_, label)| label);
            let after = statuses.label(status, prediction);
            if before != Some(after) {
                let (before, after) = (before.map(|b| statuses.words(b)), Some(statuses.words(after)));
                changes.push(Change { series, before, after });
            }
        }
    }
    changes.extend(stored.map(|(series, label)| Change {
        series,
        before: Some(statuses.words(label)),
        after: None,
    }));
    Ok((counts, changes))
}

/// Labels of the stored rows of some series, ascending by series.
async fn stored(
    store: &dyn Store,
    schedule: &str,
    interval: Interval,
    selection: &Selection,
    statuses: &mut Statuses,
) -> Result<Vec<(SeriesId, Label)>> {
    let mut batches = store.predictions(schedule, interval).await?;
    let mut all = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let names: Vec<SeriesName> =
            rows::rows(&batch).map(|r| SeriesName::new(r.device, r.sensor)).collect();
        let ids = store.lookup(&names).await?;
        for (row, id) in rows::rows(&batch).zip(ids) {
            // A stored row's series exists.
            all.extend(
                id.filter(|id| selection.contains(*id))
                    .map(|id| (id, statuses.label(row.status, row.prediction))),
            );
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Changes with the names of their series, ordered by them; the names of all intervals' changes are read in one pass.
pub(super) async fn named(store: &dyn Store, changes: Vec<Vec<Change>>) -> Result<Vec<Vec<LabelChange>>> {
    let mut wanted: Vec<SeriesId> = changes.iter().flatten().map(|c| c.series).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let names = names(store, &wanted).await?;
    let mut all = Vec::with_capacity(changes.len());
    for changes in changes {
        let mut named: Vec<LabelChange> = changes
            .into_iter()
            .filter_map(|c| {
                let at = names.binary_search_by_key(&c.series, |(id, _)| *id).ok()?;
                Some(LabelChange { series: names[at].1.clone(), before: c.before, after: c.after })
            })
            .collect();
        named.sort_by(|a, b| a.series.cmp(&b.series));
        all.push(named);
    }
    Ok(all)
}

/// Names of these series, ascending by id as they are.
pub(crate) async fn names(store: &dyn Store, wanted: &[SeriesId]) -> Result<Vec<(SeriesId, SeriesName)>> {
    let mut found = Vec::with_capacity(wanted.len());
    if wanted.is_empty() {
        return Ok(found);
    }
    let mut wanted = wanted.iter().copied().peekable();
    let mut batches = store.series_batches().await?;
    while let Some(batch) = batches.try_next().await? {
        let text = |c: usize| -> &StringArray { batch.column(c).as_string::<i32>() };
        let (device, sensor) = (text(1), text(2));
        for (i, id) in batch.column(0).as_primitive::<UInt32Type>().values().iter().enumerate() {
            while wanted.next_if(|w| w < id).is_some() {}
            if wanted.next_if_eq(id).is_some() {
                found.push((*id, SeriesName::new(device.value(i), sensor.value(i))));
            }
        }
        if wanted.peek().is_none() {
            break;
        }
    }
    Ok(found)
}

/// Series with their labels, of a batch of predictions as the scorer makes them.
fn labels(batch: &RecordBatch) -> impl Iterator<Item = (SeriesId, &str, Option<i16>)> {
    let series = batch.column(0).as_primitive::<UInt32Type>();
    let prediction = batch.column(2).as_primitive::<Int16Type>();
    let status = batch.column(4).as_string::<i32>();
    (0..batch.num_rows())
        .map(move |i| (series.value(i), status.value(i), prediction.is_valid(i).then(|| prediction.value(i))))
}

fn count(counts: &mut RunCounts, status: &str, prediction: Option<i16>) {
    match status.parse() {
        Ok(PredictionStatus::Scored) => {
            counts.scored += 1;
            counts.anomalies += i64::from(prediction == Some(1));
        }
        Ok(PredictionStatus::NoData) => counts.no_data += 1,
        Ok(PredictionStatus::NoModel) => counts.no_model += 1,
        Ok(PredictionStatus::InputInvalid) => counts.input_invalid += 1,
        Ok(PredictionStatus::ModelError) | Err(_) => counts.model_error += 1,
    }
}
