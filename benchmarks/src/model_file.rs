//! A fleet's models as one Parquet file of plain numbers, as anybody's training code would write them.

use crate::Result;
use crate::fleet::{Fleet, TwoVectors};
use arrow::array::{
    ArrayRef, Float64Array, Float64Builder, ListBuilder, RecordBatch, StringArray, UInt32Array,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Numbers of support vectors written at once, over all models.
const VECTORS: usize = 1 << 18;

/// Models written at once.
const CHUNK: u32 = 65_536;

/// Writes all models, one row each, with one check row: a value and the decision about it. Returns the file's bytes.
///
/// # Errors
/// The file cannot be written.
pub fn write_parquet(path: &Path, fleet: &Fleet) -> Result<u64> {
    write_parquet_of(path, fleet, 2)
}

/// The same with models of so many support vectors, an even number: each of the two as often, with its part of the
/// coefficient, so that they decide alike.
///
/// # Errors
/// The file cannot be written.
pub fn write_parquet_of(path: &Path, fleet: &Fleet, vectors: usize) -> Result<u64> {
    let half = (vectors / 2).max(1);
    let chunk = u32::try_from(VECTORS / half).unwrap_or(CHUNK).clamp(1, CHUNK);
    let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(chunk as usize))
        .build();
    let schema = batch(fleet, 0, 0, half)?.schema();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties))?;
    let mut from = 0;
    while from < fleet.models {
        let to = fleet.models.min(from.saturating_add(chunk));
        writer.write(&batch(fleet, from, to, half)?)?;
        from = to;
    }
    writer.close()?;
    Ok(std::fs::metadata(path)?.len())
}

/// Models `from..to`, each of its two support vectors so often.
fn batch(fleet: &Fleet, from: u32, to: u32, half: usize) -> Result<RecordBatch> {
    let models: Vec<TwoVectors> = (from..to).map(|i| fleet.model(i)).collect();
    let names: Vec<_> = (from..to).map(|i| fleet.name(i)).collect();
    // The value that is checked lies a fifth of a scale above the mean.
    let checked: Vec<f64> = models.iter().map(|m| m.mean + 0.2 * m.scale).collect();
    let decided = models.iter().zip(&checked).map(|(m, x)| m.decision(*x));
    let number = |f: fn(&TwoVectors) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(models.iter().map(f)))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("device", Arc::new(StringArray::from_iter_values(names.iter().map(|n| &n.device)))),
        ("sensor", Arc::new(StringArray::from_iter_values(names.iter().map(|n| &n.sensor)))),
        ("kernel", Arc::new(StringArray::from_iter_values(models.iter().map(|_| "rbf")))),
        ("gamma", number(|m| m.gamma)),
        ("mean", list(models.iter().map(|m| vec![m.mean]))),
        ("scale", list(models.iter().map(|m| vec![m.scale]))),
        ("support_vectors", nested(models.iter().map(|m| m.vectors.repeat(half)))),
        ("dual_coef", list(models.iter().map(|m| m.coef.map(|c| c / half as f64).repeat(half)))),
        ("rho", number(|m| m.rho)),
        ("rows", Arc::new(UInt32Array::from_iter_values(models.iter().map(|_| 300)))),
        ("check_x", nested(checked.iter().map(|x| vec![*x]))),
        ("check_decision", list(decided.map(|d| vec![d]))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// `list<double>`: one list a model.
fn list(rows: impl Iterator<Item = Vec<f64>>) -> ArrayRef {
    let mut lists = ListBuilder::new(Float64Builder::new());
    for row in rows {
        lists.values().append_slice(&row);
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// `list<list<double>>`: rows of one number each.
fn nested(rows: impl Iterator<Item = Vec<f64>>) -> ArrayRef {
    let mut lists = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
    for row in rows {
        for x in row {
            lists.values().values().append_value(x);
            lists.values().append(true);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}
