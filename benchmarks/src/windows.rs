//! Puts windows into a store as an aggregator would: claim, intern, checkpoint.

use crate::Result;
use crate::fleet::Fleet;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use fleetscore_schemas::time::{Edges, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName, delta, reading::TopicPartition};
use fleetscore_store::{
    Advance, Checkpoint, Claim, Outcome, PaneSettings, ReadinessSettings, Store, StoreOptions,
};
use std::sync::Arc;

/// Name of the cluster and of the owner.
const SOURCE: &str = "benchmark";

/// Names looked up at once.
const NAMES: usize = 100_000;

/// An aggregator without Kafka: one claimed partition, and the ids of some series.
pub struct Filler {
    store: Arc<dyn Store>,
    fleet: Fleet,
    interval_us: i64,
    claim: Claim,
    /// (id, number in the fleet), ascending by id: the order in which a store takes them.
    series: Vec<(SeriesId, u32)>,
}

impl Filler {
    /// Opens a store, makes its tables and its panes' settings, and finds or makes the fleet's first `series` series.
    ///
    /// # Errors
    /// The store's own.
    pub async fn open(url: &str, fleet: Fleet, series: u32, interval_us: i64) -> Result<Self> {
        let store = fleetscore_store::open(url, &StoreOptions::default()).await?;
        store.migrate().await?;
        store
            .pin_panes(&PaneSettings {
                interval_us,
                edges: Edges::Start,
                filter: String::new(),
                value: String::new(),
                ts_unit: "ms".into(),
            })
            .await?;
        store
            .put_readiness(&ReadinessSettings {
                max_disorder_us: 10_000_000,
                owner_ttl_us: 30_000_000,
                max_wait_us: 600_000_000,
            })
            .await?;
        let partition = TopicPartition::new("readings", 0);
        store.add_partitions(SOURCE, &[(partition.clone(), 0)]).await?;
        let claim = store.claim(SOURCE, SOURCE, &[partition]).await?.pop().ok_or("the claim is empty")?;
        let series = intern(&*store, &fleet, series).await?;
        Ok(Self { store, fleet, interval_us, claim, series })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Commits one window for each series, those of pane number `pane` of the fleet, in the pane that starts here; the
    /// watermark then stands at `watermark`, and never goes back. Returns the seconds of the checkpoint.
    ///
    /// # Errors
    /// The store's own; another aggregator at work on the same store.
    pub async fn put(&mut self, start: Timestamp, pane: u32, watermark: Timestamp) -> Result<f64> {
        let deltas = self.deltas(start, pane)?;
        let advance = Advance {
            partition: self.claim.partition.clone(),
            epoch: self.claim.epoch,
            from: self.claim.next_offset,
            to: self.claim.next_offset + 1,
            watermark: Some(watermark),
            last_broker_time: None,
            end_offset: None,
            quiet_at: None,
            floor: self.claim.floor,
        };
        let checkpoint = Checkpoint {
            source: SOURCE.into(),
            owner: SOURCE.into(),
            advances: vec![advance],
            deltas,
            dead_letters: vec![],
            losses: vec![],
            replayed: vec![],
            notices: Vec::new(),
        };
        let begun = std::time::Instant::now();
        match self.store.checkpoint(&checkpoint).await? {
            Outcome::Done => self.claim.next_offset += 1,
            Outcome::Fenced => return Err("the benchmark's partition was claimed by another process".into()),
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    fn deltas(&self, start: Timestamp, pane: u32) -> Result<RecordBatch> {
        let n = self.series.len();
        let windows: Vec<_> = self.series.iter().map(|(_, i)| self.fleet.window(*i, pane)).collect();
        let floats = |f: &dyn Fn(&crate::fleet::Window) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(windows.iter().map(f)))
        };
        let times = |t: Timestamp| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_value(t.0, n).with_timezone("UTC"))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(self.series.iter().map(|(id, _)| *id))),
            times(start),
            Arc::new(Int64Array::from_iter_values(windows.iter().map(|w| w.count))),
            floats(&|w| w.sum),
            floats(&|w| w.stddev * w.stddev * (w.count - 1) as f64),
            floats(&|w| w.mean() - 1.5 * w.stddev),
            floats(&|w| w.mean() + 1.5 * w.stddev),
            times(start.plus_us(self.interval_us / 60)),
            floats(&|w| w.mean() - 0.5 * w.stddev),
            times(start.plus_us(self.interval_us / 60 * 56)),
            floats(&|w| w.mean() + 0.5 * w.stddev),
        ];
        Ok(RecordBatch::try_new(delta::schema(), columns)?)
    }
}

async fn intern(store: &dyn Store, fleet: &Fleet, series: u32) -> Result<Vec<(SeriesId, u32)>> {
    let mut ids = Vec::with_capacity(series as usize);
    let all: Vec<u32> = (0..series).collect();
    for chunk in all.chunks(NAMES) {
        let names: Vec<SeriesName> = chunk.iter().map(|i| fleet.name(*i)).collect();
        for (id, i) in store.intern(&names, u32::MAX).await?.into_iter().zip(chunk) {
            ids.push((id.ok_or("a series has no id")?, *i));
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, Int64Type};
    use fleetscore_schemas::time::Interval;
    use futures::TryStreamExt;

    #[tokio::test]
    async fn windows_are_stored_as_an_aggregator_would_store_them() {
        let (fleet, minute, start) = (Fleet::new(700, 3), 60_000_000, Timestamp(1_767_225_600_000_000));
        let mut filler = Filler::open("memory:", fleet, fleet.models, minute).await.unwrap();
        let end = start.plus_us(2 * minute);
        filler.put(start, 0, end).await.unwrap();
        filler.put(start.plus_us(minute), 1, end).await.unwrap();
        let progress = filler.store().progress().await.unwrap();
        assert_eq!((progress.rows[0].watermark, progress.rows[0].next_offset), (Some(end), 2));
        for pane in 0..2 {
            let interval = Interval::starting(start.plus_us(i64::from(pane) * minute), minute);
            let batches: Vec<RecordBatch> = filler
                .store()
                .windows(interval, &fleetscore_store::Selection::ALL)
                .await
                .unwrap()
                .try_collect()
                .await
                .unwrap();
            let mut row = 0;
            for batch in batches {
                let column = |name: &str| batch.column_by_name(name).unwrap();
                let (mean, stddev) = (
                    column("mean").as_primitive::<Float64Type>(),
                    column("stddev").as_primitive::<Float64Type>(),
                );
                let version = column("version").as_primitive::<Int64Type>();
                for i in 0..batch.num_rows() {
                    let window = fleet.window(filler.series[row].1, pane as u32);
                    assert_eq!(mean.value(i), window.mean());
                    assert!((stddev.value(i) - window.stddev).abs() < 1e-12);
                    assert_eq!(version.value(i), 1);
                    row += 1;
                }
            }
            assert_eq!(row, 700);
        }
    }
}
