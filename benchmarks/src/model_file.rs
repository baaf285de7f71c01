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

/// Models written at once.
const CHUNK: u32 = 65_536;

/// Writes all models, one row each, with one check row: a value and the decision about it. Returns the file's bytes.
///
/// # Errors
/// The file cannot be written.
pub fn write_parquet(path: &Path, fleet: &Fleet) -> Result<u64> {
    let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(CHUNK as usize))
        .build();
    let schema = batch(fleet, 0, 0)?.schema();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties))?;
    let mut from = 0;
    while from < fleet.models {
        let to = fleet.models.min(from.saturating_add(CHUNK));
        writer.write(&batch(fleet, from, to)?)?;
        from = to;
    }
    writer.close()?;
    Ok(std::fs::metadata(path)?.len())
}

/// Models `from..to`.
fn batch(fleet: &Fleet, from: u32, to: u32) -> Result<RecordBatch> {
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
        ("mean", list(models.iter().map(|m| [m.mean]))),
        ("scale", list(models.iter().map(|m| [m.scale]))),
        ("support_vectors", nested(models.iter().map(|m| m.vectors))),
        ("dual_coef", list(models.iter().map(|m| m.coef))),
        ("rho", number(|m| m.rho)),
        ("rows", Arc::new(UInt32Array::from_iter_values(models.iter().map(|_| 300)))),
        ("check_x", nested(checked.iter().map(|x| [*x]))),
        ("check_decision", list(decided.map(|d| [d]))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// `list<double>`: one list a model.
fn list<const N: usize>(rows: impl Iterator<Item = [f64; N]>) -> ArrayRef {
    let mut lists = ListBuilder::new(Float64Builder::new());
    for row in rows {
        lists.values().append_slice(&row);
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// `list<list<double>>`: rows of one number each.
fn nested<const N: usize>(rows: impl Iterator<Item = [f64; N]>) -> ArrayRef {
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
