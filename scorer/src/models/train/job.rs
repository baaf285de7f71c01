//! What a long training leaves behind as it goes: one immutable object for each chunk of series that is done, so that
//! the same command goes on where a killed one ended.
//!
//! ```text
//! models/training/<job>/job.json            what it is, and the range of windows it began with
//! models/training/<job>/chunk-00000.parquet the first chunk: series by series a model, or why there is none
//! ```
//!
//! `<job>` is a digest of everything that decides the result: options, source, store, version of the program. Chunks
//! follow each other in the order of the source; each says behind which series it begins and with which it ends.
//! Numbers are stored as f64, so a resumed training gives the bits that an unbroken one gives.

use super::TrainOptions;
use super::fits::Fit;
use crate::blobs::{BlobError, Blobs};
use crate::models::registry::blocking;
use crate::models::{ModelError, Result};
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
use fleetscore_schemas::time::{Interval, Timestamp};
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Version of the layout.
const FORMAT: u32 = 1;
/// A job without a fixed range is not gone on with after so long: the windows of its time are not the newest any more.
const MAX_AGE_US: i64 = 24 * 3600 * 1_000_000;
/// Where a chunk begins and ends, in its file's metadata.
const SPAN: &str = "fleetscore.span";

/// What `job.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    format: u32,
    began_us: i64,
    /// Start and end in microseconds, where windows of a store are trained on.
    range_us: Option<(i64, i64)>,
}

/// A training that can be gone on with.
#[derive(Debug)]
pub(super) struct Job {
    blobs: Blobs,
    folder: String,
    /// When it began, by the store's clock.
    pub(super) began: Timestamp,
    /// The windows it is about, which stay the same when newer ones arrive.
    pub(super) range: Option<Interval>,
    /// Finished chunks.
    chunks: usize,
    /// The last series of the last chunk.
    last: Option<u64>,
    /// Series with a model or a failure in these chunks.
    pub(super) fits: u64,
    /// Those of them without a model.
    pub(super) failed: u64,
}

/// Everything that decides what a training gives, as a name of a folder.
pub(super) fn name(options: &TrainOptions, source: &str, store: &str) -> String {
    let o = options;
    let text = format!(
        "{FORMAT} {} {store} {source} {:?} {:?} {} {:?} {} {} {} {} {} {} {} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        o.from,
        o.to,
        o.window_us,
        o.features,
        o.nu.to_bits(),
        o.gamma,
        o.tolerance.to_bits(),
        o.max_iterations,
        o.min_rows,
        o.max_rows,
        o.standardise,
        o.sampling,
        o.series.as_ref().map(regex::Regex::as_str),
    );
    Sha256::digest(text.as_bytes())[..8].iter().map(|b| format!("{b:02x}")).collect()
}

impl Job {
    /// Finds the job of this name and what of it is done, or begins it.
    pub(super) async fn open(
        blobs: &Blobs,
        name: &str,
        now: Timestamp,
        range: Option<Interval>,
        options: &TrainOptions,
    ) -> Result<Self> {
        let mut job = Self {
            blobs: blobs.clone(),
            folder: format!("models/training/{name}"),
            began: now,
            range,
            chunks: 0,
            last: None,
            fits: 0,
            failed: 0,
        };
        if options.restart {
            job.remove().await?;
        }
        let about = About { format: FORMAT, began_us: now.0, range_us: range.map(|r| (r.start.0, r.end.0)) };
        let object = format!("{}/job.json", job.folder);
        let found = blobs.get_opt(&object).await?.map(|b| serde_json::from_slice::<About>(&b));
        match found {
            Some(Ok(found)) if found.format == FORMAT && fresh(&found, &about) => {
                job.began = Timestamp(found.began_us);
                job.range = found.range_us.map(|(s, e)| Interval { start: Timestamp(s), end: Timestamp(e) });
                job.count().await?;
            }
            found => {
                if found.is_some() {
                    job.remove().await?;
                }
                let bytes = serde_json::to_vec(&about).map_err(|e| ModelError::Internal(e.to_string()))?;
                if !blobs.put_create(&object, bytes.into()).await? {
                    return Err(at_once());
                }
            }
        }
        Ok(job)
    }

    /// Looks at the chunks that are there; what is behind one that cannot be read is of no use.
    async fn count(&mut self) -> Result<()> {
        let mut useless = None;
        for object in self.blobs.list(&self.folder).await? {
            if !object.name.contains("/chunk-") {
                continue;
            }
            let whole = match useless {
                Some(()) => None,
                None => self.read(self.chunks).await?.filter(|c| c.after == self.last),
            };
            match whole {
                Some(chunk) if object.name == self.object(self.chunks) => {
                    self.took(&chunk);
                }
                _ => {
                    useless = Some(());
                    let path = self.blobs.path(&object.name);
                    self.blobs.store.delete(&path).await.map_err(|e| self.blobs.error(&object.name, e))?;
                }
            }
        }
        Ok(())
    }

    fn took(&mut self, chunk: &Chunk) {
        self.chunks += 1;
        self.last = Some(chunk.upto);
        self.fits += chunk.fits.len() as u64;
        self.failed += chunk.fits.iter().filter(|f| f.outcome.is_err()).count() as u64;
    }

    /// The last series that is done with, by its place in the source's order.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// Finished chunks.
    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Keeps the next chunk: the fits of all series behind the last one, up to this one.
    pub(super) async fn keep(&mut self, fits: Vec<Fit>, upto: u64) -> Result<()> {
        let chunk = Arc::new(Chunk { after: self.last, upto, fits });
        let encoding = chunk.clone();
        let bytes =
            blocking(move || encoding.encode().map_err(|e| ModelError::Internal(e.to_string()))).await?;
        match self.blobs.put_immutable(&self.object(self.chunks), bytes).await {
            Err(BlobError::Exists { .. }) => return Err(at_once()),
            put => put?,
        }
        self.took(&chunk);
        Ok(())
    }

    /// The fits of one finished chunk.
    pub(super) async fn fits(&self, chunk: usize) -> Result<Vec<Fit>> {
        Ok(self.read(chunk).await?.ok_or_else(at_once)?.fits)
    }

    /// Removes all that was kept.
    pub(super) async fn remove(&self) -> Result<()> {
        // The description goes last: without it, the rest would be in the way of a new beginning.
        let mut objects = self.blobs.list(&self.folder).await?;
        objects.sort_by_key(|o| o.name.ends_with("/job.json"));
        for object in objects {
            match self.blobs.store.delete(&self.blobs.path(&object.name)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(self.blobs.error(&object.name, e).into()),
            }
        }
        Ok(())
    }

    fn object(&self, chunk: usize) -> String {
        format!("{}/chunk-{chunk:05}.parquet", self.folder)
    }

    /// `None` where it is missing or cannot be read.
    async fn read(&self, chunk: usize) -> Result<Option<Chunk>> {
        let object = self.object(chunk);
        let Some(bytes) = self.blobs.get_opt(&object).await? else { return Ok(None) };
        match blocking(move || Ok(Chunk::decode(bytes))).await? {
            Ok(chunk) => Ok(Some(chunk)),
            Err(e) => {
                tracing::warn!("`{object}` of an earlier training cannot be read and is made again: {e}");
                Ok(None)
            }
        }
    }
}

fn fresh(found: &About, now: &About) -> bool {
    found.range_us == now.range_us || now.began_us.saturating_sub(found.began_us) < MAX_AGE_US
}

fn at_once() -> ModelError {
    ModelError::Usage(
        "a training with the same options runs or has just ended: see `fleetscore models list`, and try again".into(),
    )
}

/// A chunk of series that are done.
#[derive(Debug, Clone, PartialEq)]
struct Chunk {
    after: Option<u64>,
    upto: u64,
    fits: Vec<Fit>,
}

impl Chunk {
    fn encode(&self) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
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

    fn decode(bytes: Bytes) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
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
