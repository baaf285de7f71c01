//! Which series a task scores: those of its shard that a regular expression names and its scope means.
//!
//! Ids of series never change their names, so a regular expression is matched against each name once: what was found is
//! kept for as long as no series has come, and a pass over the names serves every expression that is in use.

use crate::error::{Result, ScorerError};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::Interval;
use fleetscore_store::{ScheduleSpec, Selection, SeriesRange, Store};
use futures::TryStreamExt;
use regex::Regex;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Expressions whose series are kept.
const KEPT: usize = 32;

/// What expressions name, of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    /// Most recently used last.
    kept: Arc<Mutex<VecDeque<Kept>>>,
    /// Held by whoever reads names.
    reading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Clone)]
struct Kept {
    regex: Regex,
    /// Names of all series up to this one were matched.
    last: SeriesId,
    ids: Arc<[SeriesId]>,
}

/// A regular expression over `device/sensor`, as a setting.
pub(crate) fn parse(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|e| {
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        ScorerError::usage(
            "series",
            format!("`{text}` is no regular expression over `device/sensor`: {reason}"),
        )
    })
}

impl Filters {
    /// Ids of the series whose `device/sensor` matches, ascending. Reads the names where a series has come since they were
    /// last read, else nothing but the number of series; whoever knows enough does not wait for a reader.
    pub(crate) async fn ids(&self, store: &dyn Store, text: &str) -> Result<Arc<[SeriesId]>> {
        // Before the names: a series that comes meanwhile is found, or looked for again.
        let last = store.last_series().await?;
        if let Some(ids) = self.known(text, last) {
            return Ok(ids);
        }
        let regex = parse(text)?;
        // One reads, for all.
        let _reading = self.reading.lock().await;
        if let Some(ids) = self.known(text, last) {
            return Ok(ids);
        }
        let mut due = self.due(regex, last);
        read(store, last, &mut due).await?;
        self.keep(due);
        Ok(self.known(text, last).unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // Nothing behind this lock is left half-changed by a panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this expression names of the series up to the last, if their names were read.
    fn known(&self, text: &str, last: SeriesId) -> Option<Arc<[SeriesId]>> {
        let mut kept = self.lock();
        let at = kept.iter().position(|k| k.regex.as_str() == text && k.last >= last)?;
        let known = kept.remove(at)?;
        let ids = known.ids.clone();
        kept.push_back(known);
        Some(ids)
    }

    /// All expressions in use that have not seen the names of all series, this one among them.
    fn due(&self, regex: Regex, last: SeriesId) -> Vec<Kept> {
        let kept = self.lock();
        let mut due: Vec<Kept> = kept.iter().filter(|k| k.last < last).cloned().collect();
        if due.iter().all(|k| k.regex.as_str() != regex.as_str()) {
            due.push(Kept { regex, last: 0, ids: Arc::default() });
        }
        due
    }

    fn keep(&self, read: Vec<Kept>) {
        let mut kept = self.lock();
        for one in read {
            match kept.iter_mut().find(|k| k.regex.as_str() == one.regex.as_str()) {
                Some(before) => *before = one,
                None => kept.push_back(one),
            }
        }
        while kept.len() > KEPT {
            kept.pop_front();
        }
    }
}

/// Matches the names that these expressions have not seen.
async fn read(store: &dyn Store, last: SeriesId, due: &mut [Kept]) -> Result<()> {
    let mut found: Vec<Vec<SeriesId>> = due.iter().map(|k| k.ids.to_vec()).collect();
    let mut greatest = last;
    let mut batches = store.series_batches().await?;
    while let Some(batch) = batches.try_next().await? {
        let series = batch.column(0).as_primitive::<UInt32Type>().values();
        for (kept, ids) in due.iter().zip(&mut found) {
            // Ascending: what was seen before comes first.
            let new = series.partition_point(|id| *id <= kept.last);
            matching(&kept.regex, &batch.slice(new, batch.num_rows() - new), ids);
        }
        greatest = greatest.max(series.last().copied().unwrap_or(0));
    }
    for (kept, ids) in due.iter_mut().zip(found) {
        (kept.last, kept.ids) = (greatest, ids.into());
    }
    Ok(())
}

fn matching(regex: &Regex, batch: &RecordBatch, ids: &mut Vec<SeriesId>) {
    let series = batch.column(0).as_primitive::<UInt32Type>();
    let (devices, sensors) = (batch.column(1).as_string::<i32>(), batch.column(2).as_string::<i32>());
    let mut name = String::new();
    for i in 0..batch.num_rows() {
        name.clear();
        // Writing to a string cannot fail.
        write!(name, "{}/{}", devices.value(i), sensors.value(i)).ok();
        if regex.is_match(&name) {
            ids.push(series.value(i));
        }
    }
}

/// What a run scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) schedule: &'a ScheduleSpec,
    pub(crate) interval: Interval,
    pub(crate) range: SeriesRange,
    pub(crate) scope: RunScope,
    /// The run's own filter, beside the schedule's.
    pub(crate) series: Option<&'a str>,
}

/// The series of a range that the schedule's filter, the run's filter and its scope mean, as they are now.
pub(crate) async fn select(store: &dyn Store, filters: &Filters, wanted: Wanted<'_>) -> Result<Selection> {
    let Wanted { schedule, interval, range, scope, series } = wanted;
    let own = schedule.series.as_deref();
    let mut lists: Vec<Arc<[SeriesId]>> = Vec::new();
    for text in own.into_iter().chain(series.filter(|s| Some(*s) != own)) {
        lists.push(filters.ids(store, text).await?);
    }
    if scope != RunScope::All {
        lists.push(store.series_of(&schedule.name, interval, range, scope).await?.into());
    }
    Ok(narrowed(range, &lists))
}

/// What all these lists have, which ascend, of a range.
fn narrowed(range: SeriesRange, lists: &[Arc<[SeriesId]>]) -> Selection {
    let mut lists: Vec<&[SeriesId]> = lists.iter().map(|l| &l[..]).collect();
    lists.sort_by_key(|l| l.len());
    let Some((shortest, others)) = lists.split_first() else { return Selection::of(range) };
    let from = shortest.partition_point(|id| *id < range.from);
    let until = range.until.map_or(shortest.len(), |until| shortest.partition_point(|id| *id < until));
    let within = shortest.get(from..until).unwrap_or_default();
    let all = |id: &&SeriesId| others.iter().all(|l| l.binary_search(id).is_ok());
    Selection { range, ids: Some(within.iter().filter(all).copied().collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use fleetscore_store::CatchUp;

    #[test]
    fn a_filter_and_a_scope_leave_what_both_mean() {
        let range = |from, until| SeriesRange { from, until };
        let list = |ids: &[SeriesId]| -> Arc<[SeriesId]> { ids.into() };
        let (odd, stale) = (list(&[1, 3, 5, 7, 9]), list(&[2, 3, 4, 7]));
        let all = range(0, None);
        // name, range, lists, ids
        #[allow(clippy::type_complexity)]
        let cases: [(&str, SeriesRange, Vec<Arc<[SeriesId]>>, Option<&[SeriesId]>); 8] = [
            ("neither filter nor scope", range(3, Some(6)), vec![], None),
            ("a filter", all, vec![odd.clone()], Some(&[1, 3, 5, 7, 9])),
            ("a filter, of one shard", range(3, Some(7)), vec![odd.clone()], Some(&[3, 5])),
            ("a filter, of the last shard", range(6, None), vec![odd.clone()], Some(&[7, 9])),
            ("a filter that names none of the shard", range(10, None), vec![odd.clone()], Some(&[])),
            ("a filter and stale ones", all, vec![odd.clone(), stale.clone()], Some(&[3, 7])),
            ("the other way round", range(4, None), vec![stale, odd.clone()], Some(&[7])),
            ("nothing is stale", all, vec![odd, list(&[])], Some(&[])),
        ];
        for (name, range, lists, ids) in cases {
            let got = narrowed(range, &lists);
            assert_eq!((got.range, got.ids.as_deref()), (range, ids), "{name}");
        }
    }

    #[test]
    fn an_expression_that_is_none_says_why() {
        let error = parse("d[").unwrap_err().to_string();
        assert!(
            error.starts_with("`series`: `d[` is no regular expression") && error.contains("unclosed"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn names_are_matched_once_until_a_series_comes() {
        let w = World::new(&[schedule("default", 1, 1, CatchUp::All)], 1).await;
        let filters = Filters::default();
        let ids = async |text: &str| filters.ids(&*w.store, text).await.unwrap();
        let some = ids("s000[25]$").await;
        assert_eq!(&some[..], [2, 5]);
        assert!(Arc::ptr_eq(&some, &ids("s000[25]$").await), "nothing was read");
        assert_eq!(&ids("^d/").await[..], [1, 2, 3, 4, 5, 6]);
        assert!(ids("nothing").await.is_empty());
        let more = [fleetscore_schemas::SeriesName::new("e", "s0002")];
        assert_eq!(w.store.intern(&more, 100).await.unwrap(), [Some(7)]);
        assert_eq!(&ids("s000[25]$").await[..], [2, 5, 7]);
        assert_eq!(&ids("^d/").await[..], [1, 2, 3, 4, 5, 6]);
        assert!(filters.ids(&*w.store, "(").await.is_err());
        // Whoever knows enough does not wait for somebody who reads.
        let _reading = filters.reading.lock().await;
        assert_eq!(&ids("s000[25]$").await[..], [2, 5, 7]);
    }
}
