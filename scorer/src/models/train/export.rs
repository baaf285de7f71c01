//! Training rows as Parquet, for scikit-learn and others: the rows that a training with the same options gets.

use super::sample::Rows;
use super::{ModelError, Result, Source, TrainOptions, pass_end, passes, windows};
use crate::blobs::{BlobError, Blobs};
use crate::models::registry::blocking;
use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringBuilder, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::time::Interval;
use fleetscore_store::Store;
use object_store::{ObjectStoreExt, WriteMultipart};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Rows of a batch that is encoded, of a row group, and the uncompressed bytes of one at most.
const BATCH_ROWS: usize = 32_768;
const GROUP_ROWS: usize = 1 << 20;
const GROUP_BYTES: usize = 32 << 20;
/// Parts of an upload on their way at once.
const UPLOADS: usize = 4;
/// The file's name where a folder is given.
const FILE: &str = "training.parquet";

/// What was exported.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportReport {
    /// Where it is.
    pub path: String,
    /// Series with at least one row.
    pub series: u64,
    /// Rows.
    pub rows: u64,
    /// Windows that were looked at, all series together.
    pub windows: u64,
    /// From the first window's start to the last one's end.
    pub range: Interval,
}

/// Writes the rows that [`super::train`] with the same options fits to one Parquet file (zstd): `device`, `sensor`,
/// `window_start`, `window_end` and the features, series by series in the order of time. Series with fewer than
/// `min_rows` rows are among them: what is too few is for the reader to say. A file that is there is replaced.
///
/// Memory is that of a training's gathering, and some 100 MB for encoding.
///
/// # Errors
/// [`ModelError::Usage`] for options that make no sense, a store without windows in the range or a place that cannot be
/// written.
pub async fn export_training(store: &dyn Store, options: &TrainOptions, out: &str) -> Result<ExportReport> {
    options.check_rows()?;
    if !options.parquet.is_empty() {
        return Err(ModelError::Usage("rows are exported from stored windows, not from files".into()));
    }
    let options = Arc::new(options.clone());
    let range = windows::range(store, &options).await?;
    let mut listed = windows::series(store, &options).await?;
    let source = Source::windows(store, range, &options, &mut listed).await?;
    let (root, name) = place(out)?;
    let mut writer = Some(Writer::new(&options).map_err(internal)?);
    let upload =
        root.store.put_multipart(&root.path(&name)).await.map_err(|e| named(out, root.error(&name, e)))?;
    let mut upload = Upload { parts: Some(WriteMultipart::new(upload)), out, root: &root, name: &name };
    let mut report =
        ExportReport { path: format!("{}/{name}", root.url()), series: 0, rows: 0, windows: 0, range };
    let passes = passes(&listed, &options);
    for pass in 1..=passes {
        let rest = listed.split_off(pass_end(&listed, &options));
        let gathered = match source.gather(&options, &listed, (pass, passes)).await {
            Ok(gathered) => gathered,
            Err(e) => return Err(upload.abort(e).await),
        };
        let mut samples = std::mem::replace(&mut listed, rest).into_iter().zip(gathered.samples);
        loop {
            // A batch at a time, so that what is encoded can leave.
            let (mut some, mut rows) = (Vec::new(), 0);
            for (listed, sample) in samples.by_ref() {
                report.windows += sample.seen();
                let taken = sample.finish(options.max_rows, options.features.len());
                rows += taken.keys.len();
                if !taken.keys.is_empty() {
                    some.push((listed.name, taken));
                }
                if rows >= BATCH_ROWS {
                    break;
                }
            }
            if some.is_empty() {
                break;
            }
            report.series += some.len() as u64;
            report.rows += rows as u64;
            let Some(mut taken) = writer.take() else { break };
            let written = blocking(move || {
                let bytes = taken.write(&some).map_err(internal)?;
                Ok((taken, bytes))
            });
            match written.await {
                Ok((back, bytes)) => {
                    writer = Some(back);
                    upload.put(bytes).await?;
                }
                Err(e) => return Err(upload.abort(e).await),
            }
        }
    }
    if report.rows == 0 {
        let e = ModelError::Usage(format!("no series has windows in {range}: nothing was written"));
        return Err(upload.abort(e).await);
    }
    if let Some(writer) = writer {
        match blocking(move || writer.inner.into_inner().map_err(internal)).await {
            Ok(bytes) => upload.put(bytes.into()).await?,
            Err(e) => return Err(upload.abort(e).await),
        }
    }
    upload.finish().await?;
    Ok(report)
}

/// The root and the name below it; a folder gets the usual name.
fn place(out: &str) -> Result<(Blobs, String)> {
    let is_url = out.contains("://");
    let is_folder = out.ends_with('/') || (!is_url && Path::new(out).is_dir());
    let whole = if is_folder { format!("{}/{FILE}", out.trim_end_matches('/')) } else { out.to_owned() };
    let (folder, name) = match whole.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => (".", whole.as_str()),
    };
    if name.is_empty() || (is_url && folder.ends_with('/')) {
        return Err(ModelError::Usage(format!(
            "`{out}` names no file: give a path or URL that ends with one"
        )));
    }
    let root = Blobs::open(folder, &BTreeMap::new()).map_err(|e| named(out, e))?;
    Ok((root, name.to_owned()))
}

/// Not the setting `blobs`, but the place that was given.
fn named(out: &str, e: BlobError) -> ModelError {
    match e {
        BlobError::Setting { message } => ModelError::Usage(format!("`{out}` cannot be written: {message}")),
        e => e.into(),
    }
}

fn internal(e: ParquetError) -> ModelError {
    ModelError::Internal(format!("training rows cannot be encoded: {e}"))
}

/// What leaves in parts; an upload that fails leaves no file.
struct Upload<'a> {
    parts: Option<WriteMultipart>,
    out: &'a str,
    root: &'a Blobs,
    name: &'a str,
}

impl Upload<'_> {
    fn error(&self, e: object_store::Error) -> ModelError {
        named(self.out, self.root.error(self.name, e))
    }

    async fn put(&mut self, bytes: Bytes) -> Result<()> {
        let Some(parts) = &mut self.parts else { return Ok(()) };
        if let Err(e) = parts.wait_for_capacity(UPLOADS).await {
            let e = self.error(e);
            return Err(self.abort(e).await);
        }
        parts.put(bytes);
        Ok(())
    }

    /// Gives the error back.
    async fn abort(&mut self, e: ModelError) -> ModelError {
        if let Some(parts) = self.parts.take()
            && let Err(left) = parts.abort().await
        {
            tracing::warn!("parts of `{}` may be left behind: {left}", self.out);
        }
        e
    }

    async fn finish(mut self) -> Result<()> {
        if let Some(parts) = self.parts.take() {
            parts.finish().await.map_err(|e| self.error(e))?;
        }
        Ok(())
    }
}

struct Writer {
    inner: ArrowWriter<Vec<u8>>,
    schema: SchemaRef,
    window_us: i64,
}

impl Writer {
    fn new(options: &TrainOptions) -> Result<Self, ParquetError> {
        let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut fields = vec![
            Field::new("device", DataType::Utf8, false),
            Field::new("sensor", DataType::Utf8, false),
            Field::new("window_start", time(), false),
            Field::new("window_end", time(), false),
        ];
        fields.extend(options.features.iter().map(|f| Field::new(f.as_str(), DataType::Float64, false)));
        let schema = Arc::new(Schema::new(fields));
        let properties = WriterProperties::builder()
            .set_created_by("fleetscore".to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .build();
        let inner = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
        Ok(Self { inner, schema, window_us: options.window_us })
    }

    /// Adds the rows of these series; the bytes that are ready to leave.
    fn write(&mut self, series: &[(SeriesName, Rows)]) -> Result<Bytes, ParquetError> {
        let rows: usize = series.iter().map(|(_, r)| r.keys.len()).sum();
        let width = self.schema.fields().len() - 4;
        let text = |of: &dyn Fn(&SeriesName) -> &str| -> ArrayRef {
            let mut builder = StringBuilder::with_capacity(rows, rows * 8);
            for (name, taken) in series {
                taken.keys.iter().for_each(|_| builder.append_value(of(name)));
            }
            Arc::new(builder.finish())
        };
        let time = |shift: i64| -> ArrayRef {
            let keys = series.iter().flat_map(|(_, r)| &r.keys).map(|k| k + shift);
            Arc::new(TimestampMicrosecondArray::from_iter_values(keys).with_timezone("UTC"))
        };
        let mut columns = vec![text(&|n| &n.device), text(&|n| &n.sensor), time(0), time(self.window_us)];
        columns.extend((0..width).map(|f| -> ArrayRef {
            let values = series.iter().flat_map(|(_, r)| r.values.iter().skip(f).step_by(width).copied());
            Arc::new(Float64Array::from_iter_values(values))
        }));
        self.inner.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
        Ok(std::mem::take(self.inner.inner_mut()).into())
    }
}
