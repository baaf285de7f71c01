//! What has passed since the last checkpoint is a table of DataFusion; a checkpoint is one query over it.
//!
//! ```text
//! rows (key, ts, value), split by ranges of series ──► AggregateExec, part by part on every core ──► deltas
//! ```
//!
//! The query is begun before its table is complete: whenever there are enough rows it takes them in, and they need no
//! memory any more. See [`Grouping`].
//!
//! The pane of a row is not `date_bin` in the plan: computed beside the decoder's columns and packed with the series
//! into one `u64` key, grouping is three to five times faster than with `date_bin` and two columns, which took 50–70 %
//! of the query. The physical plans are made once and kept: planning the query from SQL text costs thirty times a run
//! over a thousand rows. Parts share no key, so each is grouped once and for all, and nothing is merged behind it.

use crate::grouping::{Grouping, Query, lock};
use crate::split::{PARTS, shift_for, split};
use arrow::array::RecordBatch;
use fleetscore_aggregator_core::{AggregatorError, Pending};
use fleetscore_schemas::time::PaneGrid;
use fleetscore_state::accumulate::deltas_of;
use std::sync::{Arc, Mutex};

/// Fewer rows are not worth being split: a part takes 40 KiB before it has groups.
const SPLIT_ROWS: usize = 1 << 17;

/// What a query takes, in one part and with hardly any groups: most of it are the groups' numbers for the rows of a batch.
pub(crate) const FIXED_BYTES: usize = 96 << 10;

/// The kept plans.
#[derive(Debug)]
pub(crate) struct Plans {
    grid: PaneGrid,
    cores: usize,
    /// From so many rows on they are split; tests have other ideas of it.
    split_rows: usize,
    queries: Arc<Queries>,
}

#[derive(Debug)]
struct Queries {
    /// Few rows, in one part.
    few: Query,
    /// Part by part.
    parts: Query,
}

impl Plans {
    pub(crate) fn new(grid: PaneGrid, cores: usize) -> Result<Self, AggregatorError> {
        let query = |parts| Query::new(parts).map_err(AggregatorError::internal);
        let queries = Arc::new(Queries { few: query(1)?, parts: query(PARTS)? });
        Ok(Self { grid, cores: cores.max(1), split_rows: SPLIT_ROWS, queries })
    }

    /// The deltas of what is pending: columns of [`fleetscore_schemas::delta::schema`], sorted by (pane, series).
    pub(crate) async fn deltas(&self, pending: Pending) -> Result<RecordBatch, AggregatorError> {
        let (grouping, rows) = self.begun(pending).await?;
        let parts = grouping.parts.into_iter().zip(rows).collect();
        let sorted = on_cores(self.cores, parts, |(part, rows)| part.finish(rows)).await?;
        let grid = self.grid;
        on_its_own(move || deltas_of(sorted, grid).map_err(AggregatorError::internal)).await
    }

    /// Puts groups in the place of readings.
    pub(crate) async fn compact(&self, pending: Pending) -> Result<Pending, AggregatorError> {
        let (mut grouping, rows) = self.begun(pending).await?;
        let parts = grouping.parts.into_iter().zip(rows).collect();
        grouping.parts = on_cores(self.cores, parts, |(part, rows)| part.take_in(rows)).await?;
        Ok(Pending::of_groups(Box::new(grouping)))
    }

    /// The query that these groups stand in, or a new one, and the rows for each of its parts.
    async fn begun(&self, pending: Pending) -> Result<(Grouping, Vec<Vec<RecordBatch>>), AggregatorError> {
        let (queries, split_rows) = (Arc::clone(&self.queries), self.split_rows);
        on_its_own(move || {
            let (rows, earlier) = pending.into_parts::<Grouping>()?;
            let grouping = match earlier {
                Some(grouping) => grouping,
                None if rows.iter().map(RecordBatch::num_rows).sum::<usize>() < split_rows => {
                    queries.few.begin(0).map_err(AggregatorError::internal)?
                }
                None => queries.parts.begin(shift_for(&rows)).map_err(AggregatorError::internal)?,
            };
            let rows = match grouping.parts.len() {
                1 => vec![rows],
                _ => split(rows, grouping.shift).map_err(AggregatorError::internal)?,
            };
            Ok((grouping, rows))
        })
        .await
    }
}

/// Computes off the async workers: for up to seconds, and heartbeats and events must go on.
async fn on_its_own<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AggregatorError> + Send + 'static,
) -> Result<T, AggregatorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(AggregatorError::internal(format!("the query over pending readings panicked: {e}"))),
    }
}

/// Works on each of these; every core takes one after the other.
async fn on_cores<T: Send + 'static, R: Send + 'static>(
    cores: usize,
    items: Vec<T>,
    work: fn(T) -> Result<R, AggregatorError>,
) -> Result<Vec<R>, AggregatorError> {
    let cores = cores.min(items.len());
    let todo = Arc::new(Mutex::new(items.into_iter().enumerate()));
    let one_core = || {
        let todo = Arc::clone(&todo);
        on_its_own(move || {
            let mut done = Vec::new();
            let next = || lock(&todo).next(); // not held over the work
            while let Some((at, item)) = next() {
                done.push((at, work(item)?));
            }
            Ok(done)
        })
    };
    let all = futures::future::try_join_all((0..cores).map(|_| one_core())).await?;
    let mut all: Vec<(usize, R)> = all.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, done)| done).collect())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
