//! The commit of a task: its predictions as they come, in place of what is stored, and the end of its run.

use super::stream::floor;
use super::tasks::{end_task, freeze, hold};
use crate::intake::{Columns, Prediction};
use crate::{Committed, Outcome, Phases, Result, Rules, RunCounts, Selection, StoreError, Task};
use arrow::array::RecordBatch;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::time::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Row, Transaction, params};
use tokio::sync::mpsc;

/// Stored rows that are compared at once; few in tests, so that they see the borders.
const STORED_ROWS: usize = if cfg!(test) { 100 } else { 65_536 };

/// What comes to the writer. A stream that ends without [`Item::End`] was broken off.
#[derive(Debug)]
pub(super) enum Item {
    /// Rows.
    Batch(RecordBatch),
    /// There are no more.
    End(End),
}

/// What the task comes to.
#[derive(Debug)]
pub(super) struct End {
    pub(super) counts: RunCounts,
    pub(super) phases: Phases,
}

/// What a commit is about.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) task: Task,
    pub(super) selection: Selection,
    pub(super) rules: Rules,
}

/// Writes what comes until its end; nothing is kept of what has none. The floor of retention cannot rise meanwhile:
/// there is one writer.
pub(super) fn commit_predictions(
    tx: &Transaction<'_>,
    commit: &Commit,
    mut items: mpsc::Receiver<Item>,
    clock: impl Fn() -> Timestamp,
) -> Result<Committed> {
    let (task, now) = (&commit.task, clock());
    if hold(tx, task, now)? == Outcome::Fenced {
        return Ok(Committed::Fenced);
    }
    if floor(tx)?.is_some_and(|floor| task.interval.start < floor) {
        freeze(tx, task.run_id, now)?;
        return Ok(Committed::Frozen);
    }
    let mut replace = Replace::new(tx, commit, now)?;
    let end = loop {
        match items.blocking_recv() {
            Some(Item::Batch(batch)) => replace.batch(Some(&batch))?,
            Some(Item::End(end)) => break end,
            None => return Err(StoreError::internal("a commit of predictions was broken off")),
        }
    };
    replace.batch(None)?;
    let changed = replace.changed;
    // The rows may have been long in coming.
    let ended = end_task(tx, task, (&end.counts, &end.phases), changed, &commit.rules, clock())?;
    Ok(Committed::Done { counts: end.counts, changed, ended })
}

/// Makes the predictions of the selection those that come, stretch by stretch of series; both sides ascend by series.
/// Rows that would not change are not written.
struct Replace<'a> {
    task: &'a Task,
    selection: &'a Selection,
    stored: CachedStatement<'a>,
    delete: CachedStatement<'a>,
    insert: CachedStatement<'a>,
    update: CachedStatement<'a>,
    /// Whether the interval had predictions.
    any: bool,
    /// Series up to this one are dealt with.
    below: i64,
    changed: bool,
}

impl<'a> Replace<'a> {
    fn new(tx: &'a Transaction<'_>, commit: &'a Commit, now: Timestamp) -> Result<Self> {
        let Commit { task, selection, .. } = commit;
        let start = task.interval.start.0;
        let sql = "SELECT EXISTS (SELECT 1 FROM prediction_data WHERE schedule = ?1 AND window_start = ?2)";
        let any = tx.prepare_cached(sql)?.query_row(params![task.schedule, start], |r| r.get(0))?;
        // Where series are named, each is looked up: they may be few among very many.
        let from = match selection.ids {
            None => "prediction_data WHERE ?6 IS NULL AND",
            Some(_) => "json_each(?6) CROSS JOIN prediction_data ON series_id = json_each.value WHERE",
        };
        let stored = tx.prepare_cached(&format!(
            "SELECT series_id, prediction_data.value, prediction, decision, status, model_set, model, window_version,
                    normal_range, window_end
             FROM {from} schedule = ?1 AND window_start = ?2 AND series_id > ?3 AND series_id <= ?4
             ORDER BY series_id LIMIT ?5"
        ))?;
        let delete = tx.prepare_cached(
            "DELETE FROM prediction_data WHERE schedule = ?1 AND window_start = ?2 AND series_id = ?3",
        )?;
        // Not `INSERT OR REPLACE`: that opens a savepoint for every row.
        let mut insert = tx.prepare_cached(
            "INSERT INTO prediction_data (schedule, window_start, window_end, run_id, scored_at, series_id, value,
                 prediction, decision, status, model_set, model, window_version, normal_range)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?;
        let mut update = tx.prepare_cached(
            "UPDATE prediction_data SET window_end = ?3, run_id = ?4, scored_at = ?5, value = ?7, prediction = ?8,
                 decision = ?9, status = ?10, model_set = ?11, model = ?12, window_version = ?13, normal_range = ?14
             WHERE schedule = ?1 AND window_start = ?2 AND series_id = ?6",
        )?;
        let run_id = task.run_id.to_string();
        for put in [&mut insert, &mut update] {
            // What all rows share stays bound.
            put.raw_bind_parameter(1, task.schedule.as_str())?;
            put.raw_bind_parameter(2, start)?;
            put.raw_bind_parameter(3, task.interval.end.0)?;
            put.raw_bind_parameter(4, run_id.as_str())?;
            put.raw_bind_parameter(5, now.0)?;
        }
        let below = i64::from(selection.range.from) - 1;
        Ok(Self { task, selection, stored, delete, insert, update, any, below, changed: false })
    }

    /// Replaces the stretch of series up to the batch's last; `None` is all that are left.
    fn batch(&mut self, batch: Option<&RecordBatch>) -> Result<()> {
        let columns = batch.map(Columns::new).transpose()?;
        let rows = batch.map_or(0, RecordBatch::num_rows);
        let row = |i: usize| columns.as_ref().filter(|_| i < rows).map(|c| c.row(i));
        let upper = columns.as_ref().and_then(|c| c.series.values().last().copied());
        let last = self.selection.range.until.map_or(i64::MAX, |until| i64::from(until) - 1);
        let upper = upper.map_or(last, i64::from);
        let mut at = 0;
        while self.any {
            let found = self.compare(&row, &mut at, upper)?;
            self.changed |= !found.gone.is_empty();
            for id in &found.gone {
                let key = params![self.task.schedule, self.task.interval.start.0, id];
                self.delete.execute(key)?;
            }
            for (at, stored) in found.changed {
                if let Some(new) = row(at) {
                    self.put(&new, stored)?;
                }
            }
            match found.read_to {
                Some(last) => self.below = last,
                None => break,
            }
        }
        while let Some(new) = row(at) {
            self.put(&new, false)?;
            at += 1;
        }
        self.below = upper;
        Ok(())
    }

    /// Reads what is stored and compares it with the rows from `at` on, which moves.
    fn compare<'r>(
        &mut self,
        row: &impl Fn(usize) -> Option<Prediction<'r>>,
        at: &mut usize,
        upper: i64,
    ) -> Result<Difference> {
        let (task, limit) = (self.task, STORED_ROWS as i64);
        let ids = self.named(upper);
        let key = params![task.schedule, task.interval.start.0, self.below, upper, limit, ids];
        let mut stored = self.stored.query(key)?;
        let mut found = Difference::default();
        let (mut read, mut last) = (0, 0);
        while let Some(old) = stored.next()? {
            read += 1;
            let id: SeriesId = old.get(0)?;
            last = i64::from(id);
            while row(*at).is_some_and(|new| new.series < id) {
                found.changed.push((*at, false));
                *at += 1;
            }
            match row(*at).filter(|new| new.series == id) {
                None => found.gone.push(id),
                Some(new) => {
                    if !is_stored(old, task, &new)? {
                        found.changed.push((*at, true));
                    }
                    *at += 1;
                }
            }
        }
        found.read_to = (read == STORED_ROWS).then_some(last);
        Ok(found)
    }

    /// The series that are named in the stretch up to this one, as a JSON list.
    fn named(&self, upper: i64) -> Option<String> {
        let ids = self.selection.ids.as_ref()?;
        let from = ids.partition_point(|id| i64::from(*id) <= self.below);
        let to = ids.partition_point(|id| i64::from(*id) <= upper);
        Some(format!("{:?}", ids.get(from..to).unwrap_or_default()))
    }

    fn put(&mut self, row: &Prediction<'_>, stored: bool) -> Result<()> {
        self.changed = true;
        let put = if stored { &mut self.update } else { &mut self.insert };
        put.raw_bind_parameter(6, row.series)?;
        put.raw_bind_parameter(7, row.value)?;
        put.raw_bind_parameter(8, row.prediction)?;
        put.raw_bind_parameter(9, row.decision)?;
        put.raw_bind_parameter(10, row.status)?;
        put.raw_bind_parameter(11, row.model_set.unwrap_or(self.task.model_set))?;
        put.raw_bind_parameter(12, row.model)?;
        put.raw_bind_parameter(13, row.window_version)?;
        put.raw_bind_parameter(14, row.normal_range)?;
        put.raw_execute()?;
        Ok(())
    }
}

/// What a stretch of series comes to.
#[derive(Debug, Default)]
struct Difference {
    /// Series that are stored and no longer there.
    gone: Vec<SeriesId>,
    /// Rows that are new or not as they are stored, and whether they are stored.
    changed: Vec<(usize, bool)>,
    /// The last stored series that was read, where there may be more behind it.
    read_to: Option<i64>,
}

/// Whether the row is stored as it would be written.
fn is_stored(old: &Row<'_>, task: &Task, new: &Prediction<'_>) -> Result<bool> {
    let text = |column, new: Option<&str>| -> rusqlite::Result<bool> {
        Ok(match old.get_ref(column)? {
            ValueRef::Text(old) => new.is_some_and(|new| new.as_bytes() == old),
            ValueRef::Null => new.is_none(),
            _ => false,
        })
    };
    Ok(old.get::<_, Option<f64>>(1)? == new.value
        && old.get::<_, Option<i16>>(2)? == new.prediction
        && old.get::<_, Option<f64>>(3)? == new.decision
        && text(4, Some(new.status))?
        && old.get::<_, Option<i64>>(5)? == new.model_set.or(Some(task.model_set))
        && text(6, new.model)?
        && old.get::<_, i64>(7)? == new.window_version
        && text(8, new.normal_range)?
        && old.get::<_, i64>(9)? == task.interval.end.0)
}
