//! Rows of predictions in place of what is stored: copied straight in where there is nothing, else compared and merged.

use super::copy::{Rows, Writer};
use super::copy_out::{Reader, known};
use super::score::quoted;
use super::types::{Tid, Us, clean, literal, series_id};
use crate::intake::{Columns, Intake, Prediction};
use crate::{Result, Selection, SeriesRange, StoreError, Task};
use arrow::array::RecordBatch;
use deadpool_postgres::Transaction;
use fleetscore_schemas::SeriesId;

/// Rows that are compared with what is stored at once; few in tests, so that they see the borders.
const CHUNK_ROWS: usize = if cfg!(test) { 64 } else { 16_384 };
/// Stored rows that are read at once.
const STORED_ROWS: usize = 4 * CHUNK_ROWS;
/// Up to so many series are named in a statement; beyond, the stretch they lie in is read.
const NAMED: usize = if cfg!(test) { 16 } else { 2048 };

/// What all rows of a commit share goes first, then [`put`].
const COPY: &str =
    "COPY prediction_data (schedule, window_start, window_end, run_id, series_id, value, prediction,
    decision, status, model_set, model, window_version, normal_range) FROM STDIN (FORMAT binary)";
const FIELDS: i16 = 13;

/// A row's beginning: what all rows of a commit share.
fn shared(task: &Task) -> Result<Vec<u8>> {
    let mut out = Rows::default();
    out.row(FIELDS);
    out.bytes(task.schedule.as_bytes())?;
    out.time(task.interval.start.0);
    out.time(task.interval.end.0);
    out.bytes(task.run_id.as_bytes())?;
    Ok(out.bytes_so_far().to_vec())
}

/// The fields of one row from `series_id` on.
fn put(out: &mut Rows, task: &Task, row: &Prediction<'_>) -> Result<()> {
    out.int4(series_id(row.series)?);
    out.maybe(row.value, Rows::float8);
    out.maybe(row.prediction, Rows::int2);
    out.maybe(row.decision, Rows::float8);
    out.bytes(row.status.as_bytes())?;
    out.int8(row.model_set.unwrap_or(task.model_set));
    text(out, row.model)?;
    out.int8(row.window_version);
    text(out, row.normal_range)
}

fn text(out: &mut Rows, text: Option<&str>) -> Result<()> {
    match text {
        Some(text) => out.bytes(clean(text).as_bytes()),
        None => {
            out.null();
            Ok(())
        }
    }
}

/// The first and the last id of a range, as they are stored.
pub(super) fn bounds(range: SeriesRange) -> (i32, i32) {
    // No id of a series is beyond `integer`: a bound out there is as good as none.
    let id = |id: SeriesId| i32::try_from(id).unwrap_or(i32::MAX);
    (id(range.from), range.until.map_or(i32::MAX, |until| id(until).saturating_sub(1)))
}

/// What is committed must be of the selection: a row outside would be another shard's.
fn within(selection: &Selection, columns: &Columns<'_>) -> Result<()> {
    let series = columns.series.values();
    match series.iter().find(|id| !selection.contains(**id)) {
        None => Ok(()),
        Some(id) => Err(StoreError::internal(format!("a prediction of series {id} is not of its task"))),
    }
}

/// Where the selection has no predictions: straight through; whether there were any rows.
pub(super) async fn copy(
    tx: &Transaction<'_>,
    task: &Task,
    selection: &Selection,
    intake: &mut Intake<'_>,
) -> Result<bool> {
    if !intake.has_rows().await? {
        return Ok(false);
    }
    let shared = shared(task)?;
    let mut writer = Writer::new(tx, COPY).await?;
    'rows: while let Some(batch) = intake.next().await? {
        let columns = Columns::new(&batch)?;
        within(selection, &columns)?;
        for i in 0..batch.num_rows() {
            writer.rows().raw(&shared);
            put(writer.rows(), task, &columns.row(i))?;
            if !writer.flush().await {
                break 'rows;
            }
        }
    }
    writer.finish().await?;
    Ok(true)
}

/// Makes the predictions of the selection these rows; whether anything changed.
///
/// Both sides ascend by series and are compared chunk by chunk, as the bytes in which they travel: a statement that
/// upserts would lock, and so rewrite, even the rows that it leaves as they are. What changed is deleted and copied in
/// anew, which costs a fraction of an upsert.
pub(super) async fn merge(
    tx: &Transaction<'_>,
    task: &Task,
    selection: &Selection,
    intake: &mut Intake<'_>,
) -> Result<bool> {
    let (from, last) = bounds(selection.range);
    let mut merge = Merge {
        tx,
        task,
        selection,
        schedule: quoted(&**tx, &task.schedule).await?,
        shared: shared(task)?,
        end: {
            let mut end = Rows::default();
            end.time(task.interval.end.0);
            end.bytes_so_far().to_vec()
        },
        below: from.saturating_sub(1),
        last,
        changed: false,
    };
    while let Some(chunk) = intake.chunk(CHUNK_ROWS).await? {
        merge.chunk(Some(&chunk)).await?;
    }
    merge.chunk(None).await?;
    Ok(merge.changed)
}

/// Bytes of a stored row before its series: the number of fields, and the row's place.
const BEFORE_SERIES: usize = 2 + 4 + 6;

struct Merge<'a> {
    tx: &'a Transaction<'a>,
    task: &'a Task,
    selection: &'a Selection,
    /// The schedule's name as a literal.
    schedule: String,
    /// See [`shared`].
    shared: Vec<u8>,
    /// The last field of a stored row that is as it would be written now.
    end: Vec<u8>,
    /// Series up to this one are dealt with.
    below: i32,
    /// The last series there is to deal with.
    last: i32,
    changed: bool,
}

/// What a stretch of series comes to.
#[derive(Default)]
struct Difference {
    /// Places of stored rows that go, or make room for others.
    gone: Vec<Tid>,
    /// Rows that are new or not as they are stored.
    rows: Rows,
    /// The last stored series that was read, and how many were.
    last: i32,
    read: usize,
}

impl Merge<'_> {
    /// Replaces the stretch of series up to the chunk's last; `None` is all that are left.
    async fn chunk(&mut self, chunk: Option<&RecordBatch>) -> Result<()> {
        let columns = chunk.map(Columns::new).transpose()?;
        columns.as_ref().map_or(Ok(()), |c| within(self.selection, c))?;
        let last = columns.as_ref().and_then(|c| c.series.values().last().copied());
        let upper = last.map_or(Ok(self.last), series_id)?;
        let mut from = 0;
        loop {
            let mut found = Difference::default();
            from = self.compare(columns.as_ref(), from, upper, &mut found).await?;
            let full = found.read == STORED_ROWS;
            let end = if full { found.last } else { upper };
            self.apply(found).await?;
            self.below = end;
            if !full {
                return Ok(());
            }
        }
    }

    /// Reads what is stored and compares; returns the first row that is not dealt with.
    async fn compare(
        &self,
        columns: Option<&Columns<'_>>,
        mut at: usize,
        upper: i32,
        found: &mut Difference,
    ) -> Result<usize> {
        let rows = columns.map_or(0, |c| c.series.len());
        let series = |at: usize| columns.filter(|_| at < rows).map(|c| c.series.value(at));
        let ids = self.selection.ids.as_deref().map(|ids| stretch(ids, self.below, upper));
        if ids.is_some_and(<[SeriesId]>::is_empty) {
            return Ok(rows);
        }
        let named = ids.filter(|ids| ids.len() <= NAMED).map(|ids| {
            let ids: Vec<String> = ids.iter().map(SeriesId::to_string).collect();
            format!(" AND series_id = ANY ('{{{}}}'::integer[])", ids.join(","))
        });
        let select = format!(
            "SELECT ctid, series_id, value, prediction, decision, status, model_set, model, window_version,
                normal_range, window_end
            FROM prediction_data WHERE schedule = {} AND window_start = {} AND series_id > {} AND series_id <= {upper}{}
            ORDER BY series_id LIMIT {STORED_ROWS}",
            self.schedule,
            literal(self.task.interval.start),
            self.below,
            named.unwrap_or_default(),
        );
        let mut stored = Reader::within(self.tx, &select).await?;
        while stored.next().await? {
            found.read += 1;
            found.last = known(stored.int4(1)?)?;
            let place = Tid(known(stored.bytes(0)?)?);
            let id = found.last.unsigned_abs(); // positive as stored
            if ids.is_some_and(|ids| ids.binary_search(&id).is_err()) {
                continue;
            }
            while series(at).is_some_and(|new| new < id) {
                self.put_new(columns, at, found)?;
                at += 1;
            }
            if series(at) != Some(id) {
                found.gone.push(place);
                continue;
            }
            let (before, start) = (found.rows.bytes_so_far().len(), self.shared.len());
            self.put_new(columns, at, found)?;
            at += 1;
            let fields = stored.row()[BEFORE_SERIES..].strip_suffix(&self.end[..]);
            if fields == Some(&found.rows.bytes_so_far()[before + start..]) {
                found.rows.truncate(before);
            } else {
                found.gone.push(place);
            }
        }
        if found.read < STORED_ROWS {
            for i in at..rows {
                self.put_new(columns, i, found)?;
            }
            at = rows;
        }
        Ok(at)
    }

    fn put_new(&self, columns: Option<&Columns<'_>>, i: usize, found: &mut Difference) -> Result<()> {
        let Some(columns) = columns else { return Ok(()) };
        found.rows.raw(&self.shared);
        put(&mut found.rows, self.task, &columns.row(i))
    }

    /// Writes what the stretch comes to.
    async fn apply(&mut self, found: Difference) -> Result<()> {
        let start = Us::from(self.task.interval.start);
        if !found.gone.is_empty() {
            // By their places, which were read a moment ago in this transaction: by their keys a planner without
            // statistics reads far more than these. The interval and its rows are ours alone.
            let sql =
                "DELETE FROM prediction_data WHERE schedule = $1 AND window_start = $2 AND ctid = ANY($3)";
            let statement = self.tx.prepare_cached(sql).await?;
            let deleted = self.tx.execute(&statement, &[&self.task.schedule, &start, &found.gone]).await?;
            if deleted != found.gone.len() as u64 {
                let message =
                    "predictions were changed by somebody else in the middle of a commit".to_owned();
                return Err(StoreError::Contended { message });
            }
        }
        let rows = found.rows.bytes_so_far();
        if !rows.is_empty() {
            let mut writer = Writer::new(self.tx, COPY).await?;
            writer.rows().raw(rows);
            writer.finish().await?;
        }
        self.changed |= !found.gone.is_empty() || !rows.is_empty();
        Ok(())
    }
}

/// The ids above `below`, up to `upper`.
fn stretch(ids: &[SeriesId], below: i32, upper: i32) -> &[SeriesId] {
    let behind = |end: i32| ids.partition_point(|id| i64::from(*id) <= i64::from(end));
    let (from, to) = (behind(below), behind(upper));
    &ids[from..to.max(from)]
}
