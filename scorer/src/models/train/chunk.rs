//! Fits of some series as Parquet. Numbers are stored as f64, so that they come back to the bit.

use super::fits::Fit;
use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, ListArray, ListBuilder, RecordBatch, StringArray,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{Float64Type, UInt32Type, UInt64Type};
use bytes::Bytes;
use fleetscore_kernel::{Kernel, Model};
use fleetscore_schemas::SeriesName;
use std::sync::Arc;

/// Where a chunk begins and ends, in its file's metadata.
const SPAN: &str = "fleetscore.span";

/// A chunk of series that are done.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chunk {
    /// The series before its first; `None` = it begins with the first of all.
    pub(super) after: Option<u64>,
    /// Its last series.
    pub(super) upto: u64,
    /// Those of them that have rows.
    pub(super) fits: Vec<Fit>,
}

impl Chunk {
    pub(super) fn encode(&self) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let fits = &self.fits;
        let model = |f: &Fit| f.outcome.as_ref().ok().map(|(m, _)| m.clone());
        let models: Vec<Option<Model>> = fits.iter().map(model).collect();
        let lists = |of: &dyn Fn(&Model) -> &[f64]| -> ArrayRef {
            let mut builder = ListBuilder::new(Float64Builder::new());
            for m in &models {
                builder.values().append_slice(m.as_ref().map_or(&[], of));
                builder.append(m.is_some());
            }
            Arc::new(builder.finish())
        };
        let gamma = |m: &Model| match m.kernel {
            Kernel::Rbf { gamma } => Some(gamma),
            _ => None,
        };
        let number = |of: &dyn Fn(&Model) -> Option<f64>| -> ArrayRef {
            Arc::new(Float64Array::from_iter(models.iter().map(|m| m.as_ref().and_then(of))))
        };
        let features = models.iter().map(|m| m.as_ref().map(|m| m.features as u32));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("key", Arc::new(UInt64Array::from_iter_values(fits.iter().map(|f| f.key)))),
            ("device", Arc::new(StringArray::from_iter_values(fits.iter().map(|f| &f.name.device)))),
            ("sensor", Arc::new(StringArray::from_iter_values(fits.iter().map(|f| &f.name.sensor)))),
            ("seen", Arc::new(UInt64Array::from_iter_values(fits.iter().map(|f| f.seen)))),
            ("rows", Arc::new(UInt32Array::from_iter_values(fits.iter().map(|f| f.rows)))),
            ("failure", Arc::new(StringArray::from_iter(fits.iter().map(|f| f.outcome.as_ref().err())))),
            (
                "warning",
                Arc::new(StringArray::from_iter(
                    fits.iter().map(|f| f.outcome.as_ref().ok().and_then(|(_, warning)| warning.as_ref())),
                )),
            ),
            ("features", Arc::new(UInt32Array::from_iter(features))),
            ("gamma", number(&gamma)),
            ("rho", number(&|m| Some(m.rho))),
            ("mean", lists(&|m| &m.mean)),
            ("scale", lists(&|m| &m.scale)),
            ("support_vectors", lists(&|m| &m.support_vectors)),
            ("dual_coef", lists(&|m| &m.dual_coef)),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_key_value_metadata(Some(vec![KeyValue::new(
                SPAN.to_owned(),
                serde_json::to_string(&(self.after, self.upto))?,
            )]))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        Ok(writer.into_inner()?.into())
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        let metadata = reader.metadata().file_metadata().key_value_metadata();
        let span =
            metadata.and_then(|all| all.iter().find(|kv| kv.key == SPAN)).and_then(|kv| kv.value.as_ref());
        let (after, upto) = serde_json::from_str(span.ok_or("it does not say which series it is about")?)?;
        let mut fits = Vec::new();
        for batch in reader.build()? {
            decode_batch(&batch?, &mut fits)?;
        }
        Ok(Self { after, upto, fits })
    }
}

fn decode_batch(
    batch: &RecordBatch,
    fits: &mut Vec<Fit>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"));
    let wrong = |name: &str| format!("its column {name} is of another type");
    let text = |name: &str| column(name)?.as_string_opt::<i32>().ok_or_else(|| wrong(name));
    let whole = |name: &str| column(name)?.as_primitive_opt::<UInt64Type>().ok_or_else(|| wrong(name));
    let number = |name: &str| column(name)?.as_primitive_opt::<Float64Type>().ok_or_else(|| wrong(name));
    let lists = |name: &str| column(name)?.as_list_opt::<i32>().ok_or_else(|| wrong(name));
    let (key, seen) = (whole("key")?, whole("seen")?);
    let (device, sensor) = (text("device")?, text("sensor")?);
    let (failure, warning) = (text("failure")?, text("warning")?);
    let small = |name: &str| column(name)?.as_primitive_opt::<UInt32Type>().ok_or_else(|| wrong(name));
    let (rows, features) = (small("rows")?, small("features")?);
    let (gamma, rho) = (number("gamma")?, number("rho")?);
    let (mean, scale) = (lists("mean")?, lists("scale")?);
    let (vectors, coefficients) = (lists("support_vectors")?, lists("dual_coef")?);
    let list = |column: &ListArray, i: usize| -> Vec<f64> {
        let values = column.value(i);
        values.as_primitive_opt::<Float64Type>().map(|v| v.values().to_vec()).unwrap_or_default()
    };
    for i in 0..batch.num_rows() {
        let outcome = if failure.is_valid(i) {
            Err(failure.value(i).to_owned())
        } else {
            let model = Model {
                features: features.value(i) as usize,
                mean: list(mean, i),
                scale: list(scale, i),
                kernel: Kernel::Rbf { gamma: gamma.value(i) },
                support_vectors: list(vectors, i),
                dual_coef: list(coefficients, i),
                rho: rho.value(i),
            };
            model.validate().map_err(|e| e.to_string())?;
            Ok((model, warning.is_valid(i).then(|| warning.value(i).to_owned())))
        };
        let name = SeriesName::new(device.value(i), sensor.value(i));
        fits.push(Fit { key: key.value(i), name, seen: seen.value(i), rows: rows.value(i), outcome });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_after_reading_what_it_was() {
        let model = |vectors: Vec<f64>, mean: Vec<f64>| Model {
            features: 2,
            scale: vec![1.0 / 3.0; mean.len()],
            mean,
            kernel: Kernel::Rbf { gamma: 0.1 + 0.2 },
            dual_coef: vec![f64::MIN_POSITIVE; vectors.len() / 2],
            support_vectors: vectors,
            rho: -1e-300,
        };
        let fit =
            |key, outcome| Fit { key, name: SeriesName::new("dé", "s"), seen: key * 2, rows: 7, outcome };
        let fits = vec![
            fit(3, Ok((model(vec![1.5, -0.0, 1e308, 3.0], vec![]), None))),
            fit(5, Err("has 1 windows".into())),
            fit(1 << 40, Ok((model(vec![0.1, 0.2], vec![5.0, 6.0]), Some("hardly vary".into())))),
        ];
        for fits in [fits, vec![]] {
            for after in [None, Some(0), Some(u64::MAX)] {
                let chunk = Chunk { after, upto: 1 << 41, fits: fits.clone() };
                let bytes = chunk.encode().unwrap();
                assert_eq!(Chunk::decode(bytes.clone()).unwrap(), chunk);
                for cut in [0, 4, bytes.len() / 2, bytes.len() - 1] {
                    assert!(Chunk::decode(bytes.slice(..cut)).is_err());
                }
            }
        }
    }
}
