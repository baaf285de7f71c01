//! Predictions as they are read: for publication, and to see which are stale.

use super::PgStore;
use super::copy_out::{Reader, known};
use super::types::{RowExt, Us, literal};
use crate::batch::{BATCH_ROWS, PublishedBuilder, PublishedRow};
use crate::{BatchStream, Result, StoreError};
use arrow::array::RecordBatch;
use fleetscore_schemas::time::Interval;
use futures::StreamExt;

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

/// A text as a literal: COPY takes no parameters.
pub(super) async fn quoted(client: &impl tokio_postgres::GenericClient, text: &str) -> Result<String> {
    client.query_one("SELECT quote_literal($1)", &[&text]).await?.at(0)
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
