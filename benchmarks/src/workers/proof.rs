//! What is true of every interval in the end, row by row.

use super::{Site, interval};
use crate::Result;
use crate::fleet::Fleet;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Int16Type, Int64Type, TimestampMicrosecondType};
use fleetscore_schemas::status::{RunState, TaskState};
use fleetscore_schemas::time::Interval;
use fleetscore_schemas::window::published_schema;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::{RunFilter, RunRow, Store, TaskRow};
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};

/// How far a decision may lie from plain arithmetic: `exp` of another library, an ulp or two of numbers up to one.
const TOLERANCE: f64 = 1e-14;

/// What was checked, all of it without a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proved {
    /// Intervals.
    pub intervals: u64,
    /// Rows in SQL.
    pub rows: u64,
    /// Shards.
    pub shards: u64,
    /// Rows in Parquet.
    pub published: u64,
}

/// Proves it of each interval.
pub(super) async fn prove(site: &Site, store: &dyn Store, fleet: &Fleet, intervals: u32) -> Result<Proved> {
    let runs = store.runs(&RunFilter::default()).await?;
    let ids: HashMap<SeriesName, SeriesId> =
        store.series().await?.into_iter().map(|(id, n)| (n, id)).collect();
    let numbers: HashMap<SeriesName, u32> = (0..fleet.models).map(|i| (fleet.name(i), i)).collect();
    let mut proved = Proved::default();
    for pane in 0..intervals {
        let interval = interval(pane);
        let wrong = |what: String| format!("{interval}: {what}");
        let run = one_run(&runs, interval).map_err(wrong)?;
        let tasks = store.run_tasks(run.run_id).await?;
        if tasks.is_empty() || tasks.iter().any(|t| t.state != TaskState::Done) {
            return Err(wrong(format!("not all shards are done: {tasks:?}")).into());
        }
        let batches: Vec<RecordBatch> = store.predictions("default", interval).await?.try_collect().await?;
        let rows = concat_batches(&published_schema(), &batches)?;
        rows_are_right(&rows, fleet, pane, &numbers, run).map_err(wrong)?;
        one_commit_each(&rows, &ids, &tasks).map_err(wrong)?;
        proved.published += published_is_the_same(site, interval, &rows).map_err(|e| wrong(e.to_string()))?;
        proved.intervals += 1;
        proved.rows += rows.num_rows() as u64;
        proved.shards += tasks.len() as u64;
    }
    Ok(proved)
}

fn one_run(runs: &[RunRow], interval: Interval) -> std::result::Result<&RunRow, String> {
    let of: Vec<&RunRow> = runs.iter().filter(|r| r.interval == interval).collect();
    match of[..] {
        [run] if run.state == RunState::Succeeded => Ok(run),
        [run] => Err(format!("its run ended as {}: {:?}", run.state, run.error)),
        _ => Err(format!("it has {} runs", of.len())),
    }
}

/// One row for each series, as plain arithmetic has it.
fn rows_are_right(
    rows: &RecordBatch,
    fleet: &Fleet,
    pane: u32,
    numbers: &HashMap<SeriesName, u32>,
    run: &RunRow,
) -> std::result::Result<(), String> {
    let (device, sensor) = (text(rows, "device"), text(rows, "sensor"));
    let (status, by) = (text(rows, "status"), text(rows, "run_id"));
    let decision = column(rows, "decision").as_primitive::<Float64Type>().clone();
    let label = column(rows, "prediction").as_primitive::<Int16Type>().clone();
    let set = column(rows, "model_set").as_primitive::<Int64Type>().clone();
    let run_id = run.run_id.to_string();
    let mut seen = vec![false; fleet.models as usize];
    for i in 0..rows.num_rows() {
        let name = SeriesName::new(device.value(i), sensor.value(i));
        let number = *numbers.get(&name).ok_or_else(|| format!("{name} is nobody's series"))?;
        if std::mem::replace(&mut seen[number as usize], true) {
            return Err(format!("{name} is there twice"));
        }
        let wanted = fleet.decision(number, pane);
        let fits = status.value(i) == "scored"
            && (decision.value(i) - wanted).abs() <= TOLERANCE
            && label.value(i) == i16::from(wanted <= 0.0)
            && run.model_set == Some(set.value(i))
            && by.value(i) == run_id;
        if !fits {
            let (status, got) = (status.value(i), decision.value(i));
            return Err(format!("{name}: {status}, {got} for {wanted}, run {}", by.value(i)));
        }
    }
    match seen.iter().filter(|s| !**s).count() {
        0 => Ok(()),
        n => Err(format!("{n} series have no prediction")),
    }
}

/// Rows of a shard were written by one transaction, and by no other.
fn one_commit_each(
    rows: &RecordBatch,
    ids: &HashMap<SeriesName, SeriesId>,
    tasks: &[TaskRow],
) -> std::result::Result<(), String> {
    let (device, sensor) = (text(rows, "device"), text(rows, "sensor"));
    let scored_at = column(rows, "scored_at").as_primitive::<TimestampMicrosecondType>().clone();
    let mut commits: BTreeMap<i32, i64> = BTreeMap::new();
    for i in 0..rows.num_rows() {
        let name = SeriesName::new(device.value(i), sensor.value(i));
        let id = *ids.get(&name).ok_or_else(|| format!("{name} has no id"))?;
        let task =
            tasks.iter().find(|t| t.range.contains(id)).ok_or_else(|| format!("{name} has no shard"))?;
        let at = *commits.entry(task.shard).or_insert(scored_at.value(i));
        if at != scored_at.value(i) {
            return Err(format!(
                "shard {} was written by two commits, {at} and {}",
                task.shard,
                scored_at.value(i)
            ));
        }
    }
    match commits.len() == tasks.len() {
        true => Ok(()),
        false => Err(format!("{} of {} shards have rows", commits.len(), tasks.len())),
    }
}

/// The folder of the interval holds these rows; how many.
fn published_is_the_same(site: &Site, interval: Interval, rows: &RecordBatch) -> Result<u64> {
    let start = interval.start.to_datetime().ok_or("a time")?.format("%Y%m%dT%H%M%SZ");
    let folder = site.folder.join(format!("blobs/predictions/schedule=default/interval={start}"));
    let success: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("_SUCCESS.json"))?)?;
    for object in success["objects"].as_array().ok_or("_SUCCESS.json names no objects")? {
        let name = object["name"].as_str().ok_or("an object without a name")?;
        let bytes = std::fs::read(folder.join(name))?;
        let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        if object["sha256"] != *sum {
            return Err(format!("{name} has another checksum than _SUCCESS.json says").into());
        }
    }
    if success["counts"]["rows"] != rows.num_rows() {
        return Err(format!("_SUCCESS.json counts {}", success["counts"]).into());
    }
    let file = std::fs::File::open(folder.join("predictions.parquet"))?;
    let read: Vec<RecordBatch> =
        ParquetRecordBatchReaderBuilder::try_new(file)?.build()?.collect::<std::result::Result<_, _>>()?;
    let published = concat_batches(&read.first().ok_or("an empty file")?.schema(), &read)?;
    for field in published_schema().fields() {
        if column(&published, field.name()) != column(rows, field.name()) {
            return Err(format!("column {} of the published file is not that of SQL", field.name()).into());
        }
    }
    Ok(published.num_rows() as u64)
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> &'a arrow::array::ArrayRef {
    rows.column_by_name(name).expect("a column of the published schema")
}

fn text<'a>(rows: &'a RecordBatch, name: &str) -> &'a arrow::array::StringArray {
    column(rows, name).as_string::<i32>()
}
