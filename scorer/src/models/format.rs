//! The files of a model set: `manifest.json`, written last, and Parquet parts with one row for each model.
//!
//! Numbers are stored as f64, so that a model is after loading what it was, to the bit. A part also holds a few rows of
//! features with their decisions, to notice a set that no longer scores as it did.

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, ListBuilder, RecordBatch, StringArray,
    UInt32Array,
};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, UInt32Type};
use bytes::Bytes;
use fleetscore_kernel::{Kernel, Model, normal_intervals};
use fleetscore_schemas::SeriesName;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};

/// Version of the layout of a set's files.
pub const FORMAT: u32 = 1;

/// Name of the manifest in a set's folder.
pub(crate) const MANIFEST: &str = "manifest.json";

/// A part holds at most so many models…
const PART_ROWS: usize = 65_536;
/// …and about so many numbers.
const PART_NUMBERS: usize = 4 << 20;

/// What a set consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] it was written with.
    pub format: u32,
    /// Version of the set.
    pub version: i64,
    /// `import` or `train`.
    pub origin: String,
    /// Who made it.
    pub created_by: String,
    /// When, RFC 3339 by the store's clock.
    pub created_at: String,
    /// The input columns of its models, in order.
    pub features: Vec<String>,
    /// Number of usable models.
    pub models: u64,
    /// Number of entries that were refused.
    pub refused: u64,
    /// SHA-256 over names and digests of the parts, hex.
    pub checksum: String,
    /// Start and end of the windows it was trained on, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<(String, String)>,
    /// The parts.
    pub parts: Vec<Part>,
}

/// One part of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its file in the set's folder.
    pub name: String,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

/// One model as stored: an [`crate::models::Entry`] without the store's id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub name: SeriesName,
    pub model: String,
    pub outcome: Result<Model, String>,
    pub normal: Option<Vec<(f64, f64)>>,
    /// Rows of features with their decisions.
    pub checks: Vec<(Vec<f64>, f64)>,
    /// Number of rows it was trained on; 0 where that is not known.
    pub rows: u32,
}

impl Stored {
    /// With what is derived from the model: normal intervals and check rows.
    pub(crate) fn new(name: SeriesName, model: String, outcome: Result<Model, String>) -> Self {
        let (normal, checks) = match &outcome {
            Ok(m) => ((m.features == 1).then(|| normal_intervals(m)), checks(m)),
            Err(_) => (None, vec![]),
        };
        Self { name, model, outcome, normal, checks, rows: 0 }
    }
}

/// Two rows near what the model was trained on.
fn checks(model: &Model) -> Vec<(Vec<f64>, f64)> {
    let row = |vector: &[f64]| -> Vec<f64> {
        let back = |i: usize| {
            let scale = model.scale.get(i).copied().unwrap_or(1.0);
            vector[i] * scale + model.mean.get(i).copied().unwrap_or(0.0)
        };
        (0..model.features).map(back).collect()
    };
    let half: Vec<f64> = model.support_vectors[..model.features].iter().map(|v| v * 0.5).collect();
    [row(&half), row(&model.support_vectors[..model.features])]
        .into_iter()
        .map(|x| {
            let decision = model.decision(&x);
            (x, decision)
        })
        .filter(|(_, d)| d.is_finite())
        .collect()
}

/// SHA-256, hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The checksum of all parts.
pub(crate) fn checksum(parts: &[Part]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(format!("{} {}\n", part.name, part.sha256));
    }
    hex(&sha.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where to cut entries into parts.
pub(crate) fn part_ends(entries: &[Stored]) -> Vec<usize> {
    let (mut ends, mut rows, mut numbers) = (Vec::new(), 0, 0);
    for (i, entry) in entries.iter().enumerate() {
        let size = entry.outcome.as_ref().map_or(0, |m| m.support_vectors.len() + m.dual_coef.len());
        if rows == PART_ROWS || (rows > 0 && numbers + size > PART_NUMBERS) {
            ends.push(i);
            (rows, numbers) = (0, 0);
        }
        rows += 1;
        numbers += size;
    }
    if rows > 0 {
        ends.push(entries.len());
    }
    ends
}

fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Float64, true)));
        let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        let number = |name: &str| Field::new(name, DataType::Float64, true);
        let numbers = |name: &str| Field::new(name, list.clone(), true);
        Arc::new(Schema::new(vec![
            text("device", false),
            text("sensor", false),
            text("model", false),
            text("refused", true),
            Field::new("features", DataType::UInt32, true),
            numbers("mean"),
            numbers("scale"),
            text("kernel", true),
            number("gamma"),
            number("coef0"),
            Field::new("degree", DataType::UInt32, true),
            numbers("support_vectors"),
            numbers("dual_coef"),
            number("rho"),
            numbers("normal_from"),
            numbers("normal_to"),
            numbers("check_rows"),
            numbers("check_decisions"),
        ]))
    });
    SCHEMA.clone()
}

/// Writes one part.
pub(crate) fn encode(entries: &[Stored]) -> parquet::errors::Result<Bytes> {
    let model = |e: &Stored| e.outcome.as_ref().ok().cloned();
    let models: Vec<Option<Model>> = entries.iter().map(model).collect();
    let lists = |of: &dyn Fn(&Model) -> Vec<f64>| numbers(models.iter().map(|m| m.as_ref().map(of)));
    let kernels: Vec<Option<Columns>> =
        models.iter().map(|m| m.as_ref().map(|m| columns(m.kernel))).collect();
    let text = |of: &dyn Fn(&Stored) -> Option<String>| -> ArrayRef {
        Arc::new(entries.iter().map(of).collect::<StringArray>())
    };
    let side = |of: &dyn Fn(&(f64, f64)) -> f64| {
        numbers(entries.iter().map(|e| e.normal.as_ref().map(|n| n.iter().map(of).collect())))
    };
    let checks = |of: &dyn Fn(&(Vec<f64>, f64)) -> Vec<f64>| {
        numbers(entries.iter().map(|e| Some(e.checks.iter().flat_map(of).collect())))
    };
    let arrays: Vec<ArrayRef> = vec![
        text(&|e| Some(e.name.device.clone())),
        text(&|e| Some(e.name.sensor.clone())),
        text(&|e| Some(e.model.clone())),
        text(&|e| e.outcome.as_ref().err().cloned()),
        Arc::new(models.iter().map(|m| m.as_ref().map(|m| m.features as u32)).collect::<UInt32Array>()),
        lists(&|m| m.mean.clone()),
        lists(&|m| m.scale.clone()),
        Arc::new(kernels.iter().map(|k| k.as_ref().map(|k| k.name)).collect::<StringArray>()),
        Arc::new(kernels.iter().map(|k| k.as_ref()?.gamma).collect::<Float64Array>()),
        Arc::new(kernels.iter().map(|k| k.as_ref()?.coef0).collect::<Float64Array>()),
        Arc::new(kernels.iter().map(|k| k.as_ref()?.degree).collect::<UInt32Array>()),
        lists(&|m| m.support_vectors.clone()),
        lists(&|m| m.dual_coef.clone()),
        Arc::new(models.iter().map(|m| m.as_ref().map(|m| m.rho)).collect::<Float64Array>()),
        side(&|n| n.0),
        side(&|n| n.1),
        checks(&|c| c.0.clone()),
        checks(&|c| vec![c.1]),
    ];
    let batch = RecordBatch::try_new(schema(), arrays)?;
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(out.into())
}

fn numbers(rows: impl Iterator<Item = Option<Vec<f64>>>) -> ArrayRef {
    let mut builder = ListBuilder::new(Float64Builder::new());
    for row in rows {
        if let Some(row) = &row {
            builder.values().append_slice(row);
        }
        builder.append(row.is_some());
    }
    Arc::new(builder.finish())
}

struct Columns {
    name: &'static str,
    gamma: Option<f64>,
    coef0: Option<f64>,
    degree: Option<u32>,
}

fn columns(kernel: Kernel) -> Columns {
    let (name, gamma, coef0, degree) = match kernel {
        Kernel::Rbf { gamma } => ("rbf", Some(gamma), None, None),
        Kernel::Linear => ("linear", None, None, None),
        Kernel::Poly { gamma, coef0, degree } => ("poly", Some(gamma), Some(coef0), Some(degree)),
        Kernel::Sigmoid { gamma, coef0 } => ("sigmoid", Some(gamma), Some(coef0), None),
    };
    Columns { name, gamma, coef0, degree }
}

/// Reads one part; every model in it is valid.
///
/// # Errors
/// What is wrong, for a message.
pub(crate) fn decode(bytes: Bytes) -> Result<Vec<Stored>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
    if reader.schema().fields() != schema().fields() {
        return Err("it has other columns than this version of fleetscore writes".into());
    }
    let reader = reader.build().map_err(|e| e.to_string())?;
    let mut entries = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| e.to_string())?;
        let columns = Reader { batch: &batch };
        for row in 0..batch.num_rows() {
            entries.push(columns.entry(row)?);
        }
    }
    Ok(entries)
}

/// Cells of a batch of [`schema`], whose types are checked.
struct Reader<'a> {
    batch: &'a RecordBatch,
}

impl Reader<'_> {
    fn column(&self, name: &str) -> Result<&ArrayRef, String> {
        self.batch.column_by_name(name).ok_or_else(|| format!("column {name} is missing"))
    }

    fn text(&self, name: &str, row: usize) -> Result<Option<String>, String> {
        let column = self.column(name)?.as_string::<i32>();
        Ok(column.is_valid(row).then(|| column.value(row).to_owned()))
    }

    fn number(&self, name: &str, row: usize) -> Result<f64, String> {
        let column = self.column(name)?.as_primitive::<Float64Type>();
        if column.is_null(row) {
            Err(format!("{name} of row {row} is missing"))
        } else {
            Ok(column.value(row))
        }
    }

    fn integer(&self, name: &str, row: usize) -> Result<u32, String> {
        let column = self.column(name)?.as_primitive::<UInt32Type>();
        if column.is_null(row) {
            Err(format!("{name} of row {row} is missing"))
        } else {
            Ok(column.value(row))
        }
    }

    fn numbers(&self, name: &str, row: usize) -> Result<Option<Vec<f64>>, String> {
        let column = self.column(name)?.as_list::<i32>();
        if column.is_null(row) {
            return Ok(None);
        }
        let values = column.value(row);
        let values = values.as_primitive::<Float64Type>();
        if values.null_count() > 0 {
            return Err(format!("{name} of row {row} has a NULL"));
        }
        Ok(Some(values.values().to_vec()))
    }

    fn required(&self, name: &str, row: usize) -> Result<String, String> {
        self.text(name, row)?.ok_or_else(|| format!("{name} of row {row} is missing"))
    }

    fn entry(&self, row: usize) -> Result<Stored, String> {
        let list =
            |name: &str| -> Result<Vec<f64>, String> { Ok(self.numbers(name, row)?.unwrap_or_default()) };
        let outcome = match self.text("refused", row)? {
            Some(reason) => Err(reason),
            None => Ok(self.model(row)?),
        };
        let normal = match (self.numbers("normal_from", row)?, self.numbers("normal_to", row)?) {
            (Some(from), Some(to)) if from.len() == to.len() => Some(from.into_iter().zip(to).collect()),
            (None, None) => None,
            _ => return Err(format!("normal ranges of row {row} do not fit together")),
        };
        let (rows, decisions) = (list("check_rows")?, list("check_decisions")?);
        let features = outcome.as_ref().map_or(1, |m| m.features);
        if rows.len() != decisions.len() * features {
            return Err(format!("check rows of row {row} do not fit together"));
        }
        let checks = rows.chunks_exact(features).map(<[f64]>::to_vec).zip(decisions).collect();
        let name = SeriesName::new(self.required("device", row)?, self.required("sensor", row)?);
        Ok(Stored { name, model: self.required("model", row)?, outcome, normal, checks, rows: 0 })
    }

    fn model(&self, row: usize) -> Result<Model, String> {
        let list =
            |name: &str| -> Result<Vec<f64>, String> { Ok(self.numbers(name, row)?.unwrap_or_default()) };
        let gamma = || self.number("gamma", row);
        let coef0 = || self.number("coef0", row);
        let kernel = match self.required("kernel", row)?.as_str() {
            "rbf" => Kernel::Rbf { gamma: gamma()? },
            "linear" => Kernel::Linear,
            "poly" => Kernel::Poly { gamma: gamma()?, coef0: coef0()?, degree: self.integer("degree", row)? },
            "sigmoid" => Kernel::Sigmoid { gamma: gamma()?, coef0: coef0()? },
            other => return Err(format!("kernel of row {row} is `{other}`")),
        };
        let model = Model {
            features: self.integer("features", row)? as usize,
            mean: list("mean")?,
            scale: list("scale")?,
            kernel,
            support_vectors: list("support_vectors")?,
            dual_coef: list("dual_coef")?,
            rho: self.number("rho", row)?,
        };
        model.validate().map_err(|e| format!("row {row}: {e}"))?;
        Ok(model)
    }
}
