//! The commit of a task: its predictions as they come, in place of what is stored, and the end of its run.
//!
//! The interval is locked by its own advisory lock, not by the task's row: the lease is renewed, and looked at by
//! others, while rows stream in. The fence is asked first, and locked last.

use super::PgStore;
use super::copy::{Rows, Writer};
use super::copy_out::{Reader, known};
use super::partitions::Parent;
use super::score::quoted;
use super::tasks::hold;
use super::types::{RowExt, Tid, Us, clean, literal, series_id};
use super::watch::ending_blockers;
use crate::intake::{Columns, FROZEN, Intake, Prediction};
use crate::{Committed, PredictionCommit, Result, RunCounts, StoreError, Task};
use arrow::array::RecordBatch;
use deadpool_postgres::Transaction;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};

/// Rows that are compared with what is stored at once; few in tests, so that they see the borders.
const CHUNK_ROWS: usize = if cfg!(test) { 64 } else { 16_384 };
/// Stored rows that are read at once.
const STORED_ROWS: usize = 4 * CHUNK_ROWS;

pub(super) async fn commit(store: &PgStore, commit: PredictionCommit<'_>) -> Result<Committed> {
    let task = commit.task;
    let mut intake = Intake::new(commit.predictions);
    // Before the transaction: it makes one of its own.
    if intake.has_rows().await? {
        store.ensure(Parent::Predictions, &[task.interval.start]).await?;
    }
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    lock_interval(store, &tx, task).await?;
    let Some(before) = ask(&tx, task).await? else { return Ok(Committed::Fenced) };
    if !is_below(before.floor, task.interval) {
        let replaced = match before.any {
            true => merge(&tx, task, &mut intake).await,
            false => copy(&tx, task, &mut intake).await,
        };
        let changed = replaced.map_err(|e| store.forget_partitions(e))?;
        // Read after the windows: a floor that rises from here on has hidden none of them.
        let floor = tx.query_one("SELECT max(floor) FROM progress_data", &[]).await?.maybe_time(0)?;
        if !is_below(floor, task.interval) {
            let counts = intake.counts();
            let (state, error) = (commit.verdict)(&counts);
            if !end(&tx, task, &counts, state, error.as_deref()).await? {
                return Ok(Committed::Fenced);
            }
            if changed {
                make_due(&tx, task).await?;
            }
            tx.commit().await?;
            return Ok(Committed::Done { counts, state, changed });
        }
    }
    // What was written meanwhile goes.
    tx.rollback().await?;
    let tx = client.transaction().await?;
    if !end(&tx, task, &RunCounts::default(), RunState::Skipped, Some(FROZEN)).await? {
        return Ok(Committed::Fenced);
    }
    tx.commit().await?;
    Ok(Committed::Frozen)
}

/// Waits until nobody else writes this interval; whoever holds it for two seconds has lost the lease to us, and is
/// disconnected.
async fn lock_interval(store: &PgStore, tx: &Transaction<'_>, task: &Task) -> Result<()> {
    let key = format!("predictions/{}/{}", task.schedule, task.interval.start.0);
    let name = "hashtextextended('fleetscore/' || current_schema() || '/' || $1::text, 0)";
    let statement = tx.prepare_cached(&format!("SELECT pg_try_advisory_xact_lock({name})")).await?;
    if tx.query_one(&statement, &[&key]).await?.at(0)? {
        return Ok(());
    }
    let pid: i32 = tx.query_one("SELECT pg_backend_pid()", &[]).await?.at(0)?;
    let lock = async {
        tx.execute(&format!("SELECT pg_advisory_xact_lock({name})"), &[&key]).await?;
        Ok(())
    };
    ending_blockers(store, pid, lock).await
}

/// What there is before anything is written.
struct Before {
    floor: Option<Timestamp>,
    /// Whether the interval has predictions.
    any: bool,
}

/// The fence, asked but not locked: `None` where this claim of the task is not the newest, or its run is over.
async fn ask(tx: &Transaction<'_>, task: &Task) -> Result<Option<Before>> {
    let sql = "SELECT (SELECT max(floor) FROM progress_data),
            EXISTS (SELECT FROM prediction_data WHERE schedule = $1 AND window_start = $2)
        FROM run_task_data
        WHERE schedule = $1 AND interval_start = $2 AND shard = $3 AND attempt = $4 AND run_id = $5 AND state = 'open'";
    let statement = tx.prepare_cached(sql).await?;
    let start = Us::from(task.interval.start);
    let row =
        tx.query_opt(&statement, &[&task.schedule, &start, &task.shard, &task.attempt, &task.run_id]).await?;
    row.map(|row| Ok(Before { floor: row.maybe_time(0)?, any: row.at(1)? })).transpose()
}

fn is_below(floor: Option<Timestamp>, interval: Interval) -> bool {
    floor.is_some_and(|floor| interval.start < floor)
}

/// Closes the task and its run; false where the fence stands against it.
async fn end(
    tx: &Transaction<'_>,
    task: &Task,
    c: &RunCounts,
    state: RunState,
    error: Option<&str>,
) -> Result<bool> {
    if !hold(tx, task, true).await? {
        return Ok(false);
    }
    let sql = "UPDATE run_data SET state = $2, error = $3, scored = $4, anomalies = $5, no_data = $6, no_model = $7,
            model_error = $8, input_invalid = $9, finished_at = clock_timestamp()
        WHERE run_id = $1 AND state = 'running'";
    let statement = tx.prepare_cached(sql).await?;
    let error = error.map(clean);
    let n = tx
        .execute(
            &statement,
            &[
                &task.run_id,
                &state.as_str(),
                &error.as_deref(),
                &c.scored,
                &c.anomalies,
                &c.no_data,
                &c.no_model,
                &c.model_error,
                &c.input_invalid,
            ],
        )
        .await?;
    Ok(n == 1)
}

/// The interval is due for publication.
async fn make_due(tx: &Transaction<'_>, task: &Task) -> Result<()> {
    let sql = "INSERT INTO publication_data AS p (schedule, interval_start, interval_end, change)
        VALUES ($1, $2, $3, 1) ON CONFLICT (schedule, interval_start) DO UPDATE SET change = p.change + 1";
    let statement = tx.prepare_cached(sql).await?;
    let (start, end) = (Us::from(task.interval.start), Us::from(task.interval.end));
    tx.execute(&statement, &[&task.schedule, &start, &end]).await?;
    Ok(())
}

// --- rows -----------------------------------------------------------------------------------------------------------

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

/// Into an interval without predictions: straight through; whether there were any rows.
async fn copy(tx: &Transaction<'_>, task: &Task, intake: &mut Intake<'_>) -> Result<bool> {
    if !intake.has_rows().await? {
        return Ok(false);
    }
    let shared = shared(task)?;
    let mut writer = Writer::new(tx, COPY).await?;
    'rows: while let Some(batch) = intake.next().await? {
        let columns = Columns::new(&batch)?;
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

/// Makes the interval's predictions these rows; whether anything changed.
///
/// Both sides ascend by series and are compared chunk by chunk, as the bytes in which they travel: a statement that
/// upserts would lock, and so rewrite, even the rows that it leaves as they are. What changed is deleted and copied in
/// anew, which costs a fraction of an upsert.
async fn merge(tx: &Transaction<'_>, task: &Task, intake: &mut Intake<'_>) -> Result<bool> {
    let mut merge = Merge {
        tx,
        task,
        schedule: quoted(&**tx, &task.schedule).await?,
        shared: shared(task)?,
        end: {
            let mut end = Rows::default();
            end.time(task.interval.end.0);
            end.bytes_so_far().to_vec()
        },
        below: 0,
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
    /// The schedule's name as a literal.
    schedule: String,
    /// See [`shared`].
    shared: Vec<u8>,
    /// The last field of a stored row that is as it would be written now.
    end: Vec<u8>,
    /// Series up to this one are dealt with.
    below: i32,
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
        let last = columns.as_ref().and_then(|c| c.series.values().last().copied());
        let upper = last.map_or(Ok(i32::MAX), series_id)?;
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
        let select = format!(
            "SELECT ctid, series_id, value, prediction, decision, status, model_set, model, window_version,
                normal_range, window_end
            FROM prediction_data WHERE schedule = {} AND window_start = {} AND series_id > {} AND series_id <= {upper}
            ORDER BY series_id LIMIT {STORED_ROWS}",
            self.schedule,
            literal(self.task.interval.start),
            self.below,
        );
        let mut stored = Reader::within(self.tx, &select).await?;
        let rows = columns.map_or(0, |c| c.series.len());
        let series = |at: usize| columns.filter(|_| at < rows).map(|c| c.series.value(at));
        while stored.next().await? {
            found.read += 1;
            found.last = known(stored.int4(1)?)?;
            let place = Tid(known(stored.bytes(0)?)?);
            let id = found.last.unsigned_abs(); // positive as stored
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
