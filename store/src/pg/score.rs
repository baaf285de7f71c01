//! Windows as they are read for scoring, and predictions as they are written and published.

use super::PgStore;
use super::copy::{CopyError, Reader, copy_in, known};
use super::partitions::Parent;
use super::tasks::hold;
use super::types::{RowExt, Us, clean, literal, series_id};
use crate::batch::{FROZEN, PredictionRow, PublishedBuilder, PublishedRow, WindowBuilder, collected, counts};
use crate::{BatchStream, Committed, PredictionCommit, Result, RunCounts, StoreError, Task};
use arrow::array::RecordBatch;
use deadpool_postgres::Transaction;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::delta::Partial;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use futures::StreamExt;
use std::borrow::Cow;

/// Rows of a batch that is read.
pub(super) const BATCH_ROWS: usize = 8192;
/// Up to so many panes of a window are merged from streams in series order; beyond, the server sorts.
const MAX_BRANCHES: i64 = 64;
/// Rows of one statement that upserts.
const UPSERT_ROWS: usize = 16_384;

pub(super) async fn windows(store: &PgStore, interval: Interval) -> Result<BatchStream<'_>> {
    let client = store.client().await?;
    let row = client
        .query_one("SELECT (SELECT pane_us FROM setting_data), (SELECT max(floor) FROM progress_data)", &[])
        .await?;
    let (pane_us, floor): (Option<i64>, Option<Timestamp>) = (row.at(0)?, row.maybe_time(1)?);
    // A window that crosses the floor is hidden: a part of it may be gone.
    if floor.is_some_and(|floor| interval.start < floor) {
        return Ok(futures::stream::empty().boxed());
    }
    let reader = Reader::new(client, &select_panes(interval, pane_us.unwrap_or(interval.len_us()))).await?;
    let state = Merging { reader, series: None, panes: Vec::new(), ended: false };
    Ok(futures::stream::try_unfold(state, |mut state| async move {
        let batch = state.batch().await?;
        Ok::<_, StoreError>(batch.map(|b| (b, state)))
    })
    .boxed())
}

/// Panes of an interval, ascending by series. One branch per pane lets the server merge index scans instead of sorting.
fn select_panes(interval: Interval, pane_us: i64) -> String {
    let columns = "SELECT series_id, version, count, sum, m2, min, max, first_ts, first_value, last_ts, last_value, pane_start
        FROM pane_data WHERE pane_start";
    let panes = if pane_us > 0 { interval.len_us() / pane_us } else { i64::MAX };
    if (1..=MAX_BRANCHES).contains(&panes) && interval.start.0 % pane_us == 0 {
        let branches: Vec<String> = (0..panes)
            .map(|i| format!("{columns} = {}", literal(interval.start.plus_us(i * pane_us))))
            .collect();
        return format!("{} ORDER BY series_id", branches.join(" UNION ALL "));
    }
    let (start, end) = (literal(interval.start), literal(interval.end));
    format!("{columns} >= {start} AND pane_start < {end} ORDER BY series_id")
}

/// Merges the panes of a series.
struct Merging {
    reader: Reader,
    series: Option<SeriesId>,
    /// Of this series, in the order in which they came.
    panes: Vec<(Timestamp, i64, Partial)>,
    ended: bool,
}

impl Merging {
    async fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut builder = WindowBuilder::default();
        while !self.ended && builder.len() < BATCH_ROWS {
            if !self.reader.next().await? {
                self.ended = true;
                self.flush(&mut builder);
                break;
            }
            let series = known(self.reader.int4(0)?)? as SeriesId; // positive as stored
            if self.series != Some(series) {
                self.flush(&mut builder);
                self.series = Some(series);
            }
            self.panes.push(pane(&self.reader)?);
        }
        if builder.len() == 0 { Ok(None) } else { Ok(Some(builder.finish()?)) }
    }

    /// Merged in the order of panes, always: the last bits of a sum must not differ between two readings.
    fn flush(&mut self, builder: &mut WindowBuilder) {
        self.panes.sort_unstable_by_key(|p| p.0);
        let merged =
            self.panes.drain(..).map(|(_, v, p)| (v, p)).reduce(|(v, p), (w, q)| (v + w, p.merge(&q)));
        if let (Some(series), Some((version, partial))) = (self.series, merged) {
            builder.push(series, version, &partial);
        }
    }
}

fn pane(row: &Reader) -> Result<(Timestamp, i64, Partial)> {
    let partial = Partial {
        count: known(row.int8(2)?)?,
        sum: known(row.float8(3)?)?,
        m2: known(row.float8(4)?)?,
        min: known(row.float8(5)?)?,
        max: known(row.float8(6)?)?,
        first: (known(row.time(7)?)?, known(row.float8(8)?)?),
        last: (known(row.time(9)?)?, known(row.float8(10)?)?),
    };
    Ok((known(row.time(11)?)?, known(row.int8(1)?)?, partial))
}

pub(super) async fn stale_series(store: &PgStore, schedule: &str, interval: Interval) -> Result<u64> {
    let sql = "WITH w AS (
            SELECT series_id, sum(version)::bigint AS version FROM pane_data
            WHERE pane_start >= $2 AND pane_start < $3 GROUP BY series_id),
        q AS (SELECT series_id, window_version FROM prediction_data WHERE schedule = $1 AND window_start = $2)
        SELECT count(*) FROM w FULL JOIN q USING (series_id)
        WHERE coalesce(w.version, 0) <> coalesce(q.window_version, 0)
            AND $2 >= coalesce((SELECT max(floor) FROM progress_data), '-infinity')";
    let client = store.client().await?;
    let statement = client.prepare_cached(sql).await?;
    let row = client
        .query_one(&statement, &[&schedule, &Us::from(interval.start), &Us::from(interval.end)])
        .await?;
    Ok(row.at::<i64>(0)?.unsigned_abs())
}

pub(super) async fn commit(store: &PgStore, commit: PredictionCommit<'_>) -> Result<Committed> {
    let task = commit.task;
    let rows = collected(commit.predictions).await?;
    let counts = counts(&rows);
    if !rows.is_empty() {
        store.ensure(Parent::Predictions, &[task.interval.start]).await?;
    }
    let mut client = store.client().await?;
    let mut tx = client.transaction().await?;
    if !hold(&tx, task, true).await? {
        return Ok(Committed::Fenced);
    }
    let statement = tx.prepare_cached("SELECT max(floor) FROM progress_data").await?;
    // Read after the windows: a floor that rises from here on has hidden none of them.
    let floor = tx.query_one(&statement, &[]).await?.maybe_time(0)?;
    if floor.is_some_and(|floor| task.interval.start < floor) {
        if !end_run(&tx, task, &RunCounts::default(), RunState::Skipped, Some(FROZEN)).await? {
            return Ok(Committed::Fenced);
        }
        tx.commit().await?;
        return Ok(Committed::Frozen);
    }
    let (state, error) = (commit.verdict)(&counts);
    if !end_run(&tx, task, &counts, state, error.as_deref()).await? {
        return Ok(Committed::Fenced);
    }
    let changed = match replace(&mut tx, task, &rows).await {
        Err(e) => return Err(store.forget_partitions(e)),
        Ok(changed) => changed,
    };
    if changed {
        let sql = "INSERT INTO publication_data AS p (schedule, interval_start, interval_end, change)
            VALUES ($1, $2, $3, 1) ON CONFLICT (schedule, interval_start) DO UPDATE SET change = p.change + 1";
        let statement = tx.prepare_cached(sql).await?;
        let (start, end) = (Us::from(task.interval.start), Us::from(task.interval.end));
        tx.execute(&statement, &[&task.schedule, &start, &end]).await?;
    }
    tx.commit().await?;
    Ok(Committed::Done { counts, state, changed })
}

async fn end_run(
    tx: &Transaction<'_>,
    task: &Task,
    c: &RunCounts,
    state: RunState,
    error: Option<&str>,
) -> Result<bool> {
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

/// Makes the interval's predictions these rows; whether anything changed.
///
/// What is stored is read and compared here: a statement that upserts locks, and so rewrites, even the rows it leaves
/// as they are.
async fn replace(tx: &mut Transaction<'_>, task: &Task, rows: &[PredictionRow]) -> Result<bool> {
    let start = Us::from(task.interval.start);
    let sql = "SELECT EXISTS (SELECT FROM prediction_data WHERE schedule = $1 AND window_start = $2)";
    let statement = tx.prepare_cached(sql).await?;
    if !tx.query_one(&statement, &[&task.schedule, &start]).await?.at::<bool>(0)? {
        // The task's row is locked, so nobody else writes this interval.
        copy_predictions(tx, task, rows).await?;
        return Ok(!rows.is_empty());
    }
    let Difference { removed, changed } = difference(tx, task, rows).await?;
    if !removed.is_empty() {
        let sql =
            "DELETE FROM prediction_data WHERE schedule = $1 AND window_start = $2 AND series_id = ANY($3)";
        tx.execute(sql, &[&task.schedule, &start, &removed]).await?;
    }
    for rows in changed.chunks(UPSERT_ROWS) {
        upsert(tx, task, rows).await?;
    }
    Ok(!removed.is_empty() || !changed.is_empty())
}

struct Difference<'a> {
    /// Series that are stored and no longer there.
    removed: Vec<i32>,
    /// Rows that are new, or not as they are stored.
    changed: Vec<&'a PredictionRow>,
}

/// Both sides ascend by series.
async fn difference<'a>(
    tx: &Transaction<'_>,
    task: &Task,
    rows: &'a [PredictionRow],
) -> Result<Difference<'a>> {
    let select = format!(
        "SELECT series_id, value, prediction, decision, status, model, window_version, normal_range, model_set, window_end
        FROM prediction_data WHERE schedule = {} AND window_start = {} ORDER BY series_id",
        quoted(&**tx, &task.schedule).await?,
        literal(task.interval.start)
    );
    let mut stored = Reader::within(tx, &select).await?;
    let mut found = Difference { removed: Vec::new(), changed: Vec::new() };
    let mut rest = rows.iter().peekable();
    while stored.next().await? {
        let id = known(stored.int4(0)?)?;
        let series = id as SeriesId; // positive as stored
        while let Some(new) = rest.next_if(|r| r.series < series) {
            found.changed.push(new);
        }
        match rest.next_if(|r| r.series == series) {
            None => found.removed.push(id),
            Some(row) if !is_stored(&stored, task, row)? => found.changed.push(row),
            Some(_) => {}
        }
    }
    found.changed.extend(rest);
    Ok(found)
}

fn is_stored(stored: &Reader, task: &Task, row: &PredictionRow) -> Result<bool> {
    Ok(stored.float8(1)? == row.value
        && stored.int2(2)? == row.prediction
        && stored.float8(3)? == row.decision
        && stored.text(4)? == Some(row.status.as_str())
        && stored.text(5)? == row.model.as_deref().map(clean).as_deref()
        && stored.int8(6)? == Some(row.window_version)
        && stored.text(7)? == row.normal_range.as_deref().map(clean).as_deref()
        && stored.int8(8)? == row.model_set.or(Some(task.model_set))
        && stored.time(9)? == Some(task.interval.end))
}

/// A text as a literal: COPY takes no parameters.
async fn quoted(client: &impl tokio_postgres::GenericClient, text: &str) -> Result<String> {
    client.query_one("SELECT quote_literal($1)", &[&text]).await?.at(0)
}

async fn copy_predictions(
    tx: &Transaction<'_>,
    task: &Task,
    rows: &[PredictionRow],
) -> Result<(), CopyError> {
    if rows.is_empty() {
        return Ok(());
    }
    let statement =
        "COPY prediction_data (schedule, window_start, series_id, window_end, value, prediction, decision,
        status, model_set, model, window_version, normal_range, run_id) FROM STDIN (FORMAT binary)";
    copy_in(tx, statement, 0..rows.len(), |out, i| {
        let row = &rows[i];
        out.row(13);
        out.bytes(task.schedule.as_bytes())?;
        out.time(task.interval.start.0);
        out.int4(series_id(row.series)?);
        out.time(task.interval.end.0);
        out.maybe(row.value, super::copy::Rows::float8);
        out.maybe(row.prediction, super::copy::Rows::int2);
        out.maybe(row.decision, super::copy::Rows::float8);
        out.bytes(row.status.as_str().as_bytes())?;
        out.int8(row.model_set.unwrap_or(task.model_set));
        out.maybe_bytes(row.model.as_deref().map(clean).as_deref().map(str::as_bytes))?;
        out.int8(row.window_version);
        out.maybe_bytes(row.normal_range.as_deref().map(clean).as_deref().map(str::as_bytes))?;
        out.bytes(task.run_id.as_bytes())
    })
    .await?;
    Ok(())
}

async fn upsert(tx: &Transaction<'_>, task: &Task, rows: &[&PredictionRow]) -> Result<()> {
    let sql = "INSERT INTO prediction_data AS p (schedule, window_start, window_end, model_set, run_id, series_id, value,
            prediction, decision, status, model, window_version, normal_range)
        SELECT $1, $2, $3, coalesce(a.model_set, $4), $5, a.series_id, a.value, a.prediction, a.decision, a.status, a.model,
            a.window_version, a.normal_range
        FROM unnest($6::integer[], $7::float8[], $8::smallint[], $9::float8[], $10::text[], $11::text[], $12::bigint[],
            $13::text[], $14::bigint[])
            AS a(series_id, value, prediction, decision, status, model, window_version, normal_range, model_set)
        ON CONFLICT (schedule, window_start, series_id) DO UPDATE SET window_end = excluded.window_end,
            value = excluded.value, prediction = excluded.prediction, decision = excluded.decision,
            status = excluded.status, model_set = excluded.model_set, model = excluded.model,
            window_version = excluded.window_version, normal_range = excluded.normal_range,
            run_id = excluded.run_id, scored_at = excluded.scored_at";
    let statement = tx.prepare_cached(sql).await?;
    let (start, end) = (Us::from(task.interval.start), Us::from(task.interval.end));
    let series: Vec<i32> = rows.iter().map(|r| series_id(r.series)).collect::<Result<_>>()?;
    let values: Vec<Option<f64>> = rows.iter().map(|r| r.value).collect();
    let predictions: Vec<Option<i16>> = rows.iter().map(|r| r.prediction).collect();
    let decisions: Vec<Option<f64>> = rows.iter().map(|r| r.decision).collect();
    let statuses: Vec<&str> = rows.iter().map(|r| r.status.as_str()).collect();
    let models: Vec<Option<Cow<'_, str>>> = rows.iter().map(|r| r.model.as_deref().map(clean)).collect();
    let versions: Vec<i64> = rows.iter().map(|r| r.window_version).collect();
    let ranges: Vec<Option<Cow<'_, str>>> =
        rows.iter().map(|r| r.normal_range.as_deref().map(clean)).collect();
    let sets: Vec<Option<i64>> = rows.iter().map(|r| r.model_set).collect();
    tx.execute(
        &statement,
        &[
            &task.schedule,
            &start,
            &end,
            &task.model_set,
            &task.run_id,
            &series,
            &values,
            &predictions,
            &decisions,
            &statuses,
            &models,
            &versions,
            &ranges,
            &sets,
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn predictions<'a>(
    store: &'a PgStore,
    schedule: &str,
    interval: Interval,
) -> Result<BatchStream<'a>> {
    let client = store.client().await?;
    let quoted = quoted(&**client, schedule).await?;
    let select = format!(
        "SELECT p.window_end, n.device, n.sensor, p.value, p.prediction, p.decision, p.status, p.model_set, p.model,
            p.window_version, p.run_id::text, p.scored_at, p.normal_range
        FROM prediction_data p JOIN series_data n ON n.id = p.series_id
        WHERE p.schedule = {quoted} AND p.window_start = {} ORDER BY n.device, n.sensor",
        literal(interval.start)
    );
    let state = (Reader::new(client, &select).await?, schedule.to_owned());
    Ok(futures::stream::try_unfold(state, move |(mut reader, schedule)| async move {
        let batch = published(&mut reader, &schedule, interval).await?;
        Ok::<_, StoreError>(batch.map(|b| (b, (reader, schedule))))
    })
    .boxed())
}

async fn published(reader: &mut Reader, schedule: &str, interval: Interval) -> Result<Option<RecordBatch>> {
    let mut builder = PublishedBuilder::new(schedule, interval.start);
    let mut rows = 0;
    while rows < BATCH_ROWS && reader.next().await? {
        builder.push(&PublishedRow {
            window_end: known(reader.time(0)?)?,
            device: known(reader.text(1)?)?,
            sensor: known(reader.text(2)?)?,
            value: reader.float8(3)?,
            prediction: reader.int2(4)?,
            decision: reader.float8(5)?,
            status: known(reader.text(6)?)?,
            model_set: reader.int8(7)?,
            model: reader.text(8)?,
            window_version: known(reader.int8(9)?)?,
            run_id: known(reader.text(10)?)?,
            scored_at: known(reader.time(11)?)?,
            normal_range: reader.text(12)?,
        });
        rows += 1;
    }
    if rows == 0 { Ok(None) } else { Ok(Some(builder.finish()?)) }
}
