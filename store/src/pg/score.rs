//! Predictions as they are read: for publication, and to see which are stale.

use super::PgStore;
use super::copy_out::{Reader, Snapshot, known};
use super::replace::bounds;
use super::types::{RowExt, Us, literal};
use crate::batch::{BATCH_ROWS, PublishedBuilder, PublishedRow};
use crate::{BatchStream, Result, SeriesRange, StoreError};
use arrow::array::RecordBatch;
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::Interval;
use futures::StreamExt;
use uuid::Uuid;

/// A partition of this size is worth an analysis before it is read.
const LARGE_BYTES: i64 = 8 << 20;

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

/// The series of a range whose window is another than the one that was scored, or whose model failed.
pub(super) async fn series_of(
    store: &PgStore,
    schedule: &str,
    interval: Interval,
    range: SeriesRange,
    scope: RunScope,
) -> Result<Vec<SeriesId>> {
    let sql = match scope {
        RunScope::All => return Ok(Vec::new()),
        RunScope::Stale => {
            "WITH w AS (
                SELECT series_id, sum(version)::bigint AS version FROM pane_data
                WHERE pane_start >= $2 AND pane_start < $3 AND series_id >= $4 AND series_id <= $5 GROUP BY series_id),
            q AS (
                SELECT series_id, window_version FROM prediction_data
                WHERE schedule = $1 AND window_start = $2 AND series_id >= $4 AND series_id <= $5)
            SELECT ARRAY(SELECT series_id FROM w FULL JOIN q USING (series_id)
                WHERE coalesce(w.version, 0) <> coalesce(q.window_version, 0)
                    AND $2 >= coalesce((SELECT max(floor) FROM progress_data), '-infinity')
                ORDER BY series_id)"
        }
        RunScope::Failed => {
            "SELECT ARRAY(SELECT series_id FROM prediction_data
                WHERE schedule = $1 AND window_start = $2 AND window_start < $3 AND status = 'model_error'
                    AND series_id >= $4 AND series_id <= $5
                ORDER BY series_id)"
        }
    };
    let (from, last) = bounds(range);
    let client = store.client().await?;
    let statement = client.prepare_cached(sql).await?;
    let (start, end) = (Us::from(interval.start), Us::from(interval.end));
    let row = client.query_one(&statement, &[&schedule, &start, &end, &from, &last]).await?;
    let ids: Vec<i32> = row.at(0)?;
    Ok(ids.into_iter().map(|id| id as SeriesId).collect()) // positive as stored
}

/// A text as a literal: COPY takes no parameters.
pub(super) async fn quoted(client: &impl tokio_postgres::GenericClient, text: &str) -> Result<String> {
    client.query_one("SELECT quote_literal($1)", &[&text]).await?.at(0)
}

pub(super) async fn has_predictions(store: &PgStore, schedule: &str, interval: Interval) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM prediction_data WHERE schedule = $1 AND window_start = $2)";
    let client = store.client().await?;
    let statement = client.prepare_cached(sql).await?;
    client.query_one(&statement, &[&schedule, &Us::from(interval.start)]).await?.at(0)
}

pub(super) async fn predictions<'a>(
    store: &'a PgStore,
    schedule: &str,
    interval: Interval,
) -> Result<BatchStream<'a>> {
    let rows = unless(store, schedule, interval, None).await?;
    rows.ok_or_else(|| StoreError::internal("rows were refused that nothing stands against"))
}

/// Predictions of an interval, unless a question about `$1`, the schedule, and `$2`, the interval's start, is answered
/// with yes in the same snapshot.
pub(super) async fn unless<'a>(
    store: &'a PgStore,
    schedule: &str,
    interval: Interval,
    question: Option<&str>,
) -> Result<Option<BatchStream<'a>>> {
    let client = store.client().await?;
    analyse(&client, schedule, interval).await?;
    let quoted = quoted(&**client, schedule).await?;
    let select = format!(
        "SELECT p.window_end, n.device, n.sensor, p.value, p.prediction, p.decision, p.status, p.model_set, p.model,
            p.window_version, p.run_id, p.scored_at, p.normal_range
        FROM prediction_data p JOIN series_data n ON n.id = p.series_id
        WHERE p.schedule = {quoted} AND p.window_start = {} ORDER BY n.device, n.sensor",
        literal(interval.start)
    );
    // The server's own `work_mem` is left alone: sorting a million of these rows in runs that fit into the processor's
    // cache and merging them took 1.5 s of its time, one great sort in 512 MB of memory 4 s.
    let reader = match question {
        None => Reader::new(client, &select).await?,
        Some(question) => {
            let snapshot = Snapshot::begin(client).await?;
            let start = Us::from(interval.start);
            if snapshot.client()?.query_one(question, &[&schedule, &start]).await?.at(0)? {
                snapshot.end().await?;
                return Ok(None);
            }
            Reader::of_snapshot(snapshot, &select).await?
        }
    };
    let state =
        Published { reader, schedule: schedule.to_owned(), interval, run: (Uuid::nil(), String::new()) };
    let batches = futures::stream::try_unfold(state, |mut state| async move {
        match state.batch().await? {
            Some(batch) => Ok::<_, StoreError>(Some((batch, state))),
            None => {
                state.reader.end().await?;
                Ok(None)
            }
        }
    });
    Ok(Some(batches.boxed()))
}

/// A large partition that was never analysed is taken for a few rows, which are looked up and sorted one by one; with
/// statistics a hash join and sorts in parallel take less than half of the time. Autovacuum comes to it, but not within
/// the minute in which a day's first interval is published.
async fn analyse(client: &tokio_postgres::Client, schedule: &str, interval: Interval) -> Result<()> {
    let sql = "SELECT p.tableoid::regclass::text FROM prediction_data p JOIN pg_class c ON c.oid = p.tableoid
        WHERE p.schedule = $1 AND p.window_start = $2 AND c.reltuples < 0 AND pg_relation_size(c.oid) > $3 LIMIT 1";
    let row = client.query_opt(sql, &[&schedule, &Us::from(interval.start), &LARGE_BYTES]).await?;
    if let Some(row) = row {
        let partition: &str = row.at(0)?;
        client.batch_execute(&format!("ANALYZE {partition} (schedule, window_start, series_id)")).await?;
    }
    Ok(())
}

struct Published {
    reader: Reader,
    schedule: String,
    interval: Interval,
    /// The run of the row before, with its text: neighbours mostly share it.
    run: (Uuid, String),
}

impl Published {
    async fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut builder = PublishedBuilder::new(&self.schedule, self.interval.start);
        let reader = &mut self.reader;
        while builder.len() < BATCH_ROWS && reader.next().await? {
            let run = Uuid::from_bytes(known(reader.bytes(10)?)?);
            if self.run.0 != run || self.run.1.is_empty() {
                self.run = (run, run.to_string());
            }
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
                run_id: &self.run.1,
                scored_at: known(reader.time(11)?)?,
                normal_range: reader.text(12)?,
            });
        }
        if builder.len() == 0 { Ok(None) } else { Ok(Some(builder.finish()?)) }
    }
}
