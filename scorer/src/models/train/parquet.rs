//! Training rows from Parquet: `device`, `sensor` and a column for each feature, as `models export-training` writes them.
//!
//! Files are read twice, in columns and batches: once for the series and their numbers of rows, which say how many
//! series fit into memory, and once for each pass. A file in blob storage is copied to an unnamed temporary file first.

use super::{Gathered, Listed, Sample, TrainOptions};
use crate::blobs::{BlobError, Blobs};
use crate::models::registry::blocking;
use crate::models::{ModelError, Result};
use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, PrimitiveArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::time::{Interval, Timestamp};
use futures::TryStreamExt;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Rows of a batch that is read.
const BATCH_ROWS: usize = 16_384;
/// Folders below folders that are followed.
const MAX_DEPTH: usize = 8;
/// Bytes of a series' device or sensor, as readings may have them.
const MAX_NAME: usize = 256;
const TICK: Duration = Duration::from_millis(250);

/// The files, open.
#[derive(Debug, Clone)]
pub(super) struct Files(Arc<[Opened]>);

#[derive(Debug)]
struct Opened {
    /// As it is shown.
    path: String,
    /// What changes when the file does.
    state: String,
    file: File,
    rows: u64,
}

/// What a first look found.
pub(super) struct Scan {
    /// Ascending by name; the key is the place.
    pub(super) listed: Vec<Listed>,
    /// From the first start to the last end of a window, where the files say.
    pub(super) range: Option<Interval>,
}

impl Files {
    /// Opens files, folders (what ends in `.parquet`, by name) and the same in blob storage.
    pub(super) async fn open(sources: &[String]) -> Result<Self> {
        let mut files = Vec::new();
        for source in sources {
            let local =
                source.strip_prefix("file://").or_else(|| (!source.contains("://")).then_some(source));
            match local {
                Some(path) => local_files(Path::new(path), &mut files)?,
                None => blob_files(source, &mut files).await?,
            }
        }
        if files.is_empty() {
            return Err(ModelError::Usage(format!("no .parquet file is in {}", sources.join(", "))));
        }
        Ok(Self(files.into()))
    }

    /// Says whether these are the same files with the same content as at another time.
    pub(super) fn fingerprint(&self) -> String {
        self.0.iter().map(|f| format!("{}\0{}\0", f.path, f.state)).collect()
    }

    /// Rows of all files.
    pub(super) fn rows(&self) -> u64 {
        self.0.iter().map(|f| f.rows).sum()
    }

    /// The series in the files that are asked for, with the number of their rows.
    pub(super) async fn scan(&self, options: &Arc<TrainOptions>) -> Result<Scan> {
        let (files, options) = (self.clone(), options.clone());
        blocking(move || {
            let mut series = Names::default();
            let (mut rows, mut range): (Vec<u64>, Option<Interval>) = (Vec::new(), None);
            for file in files.0.iter() {
                file.read(&options, false, |batch| {
                    for row in 0..batch.len() {
                        if !batch.is_wanted(row, &options) {
                            continue;
                        }
                        let (at, new) = batch.series(row, &mut series)?;
                        if new {
                            rows.push(0);
                        }
                        rows[at] += 1;
                        if let Some(window) = batch.window(row)
                            && options.wants(&series.names[at])
                        {
                            range = Some(range.map_or(window, |r| Interval {
                                start: r.start.min(window.start),
                                end: r.end.max(window.end),
                            }));
                        }
                    }
                    Ok(())
                })?;
            }
            let mut listed: Vec<Listed> = series
                .names
                .into_iter()
                .zip(rows)
                .filter(|(name, _)| options.wants(name))
                .map(|(name, rows)| Listed { key: 0, name, rows })
                .collect();
            listed.sort_by(|a, b| a.name.cmp(&b.name));
            for (key, l) in (0..).zip(&mut listed) {
                l.key = key;
            }
            Ok(Scan { listed, range })
        })
        .await
    }

    /// Reads all rows of these series.
    pub(super) async fn gather(
        &self,
        options: &Arc<TrainOptions>,
        listed: &[Listed],
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Gathered> {
        let names: Vec<SeriesName> = listed.iter().map(|l| l.name.clone()).collect();
        let (files, options, done) = (self.clone(), options.clone(), Arc::new(AtomicU64::new(0)));
        let told = done.clone();
        let mut work = std::pin::pin!(blocking(move || files.gather_now(&options, names, &told)));
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                gathered = &mut work => return gathered,
                _ = tick.tick() => progress(done.load(Ordering::Relaxed)),
            }
        }
    }

    fn gather_now(
        &self,
        options: &TrainOptions,
        names: Vec<SeriesName>,
        done: &AtomicU64,
    ) -> Result<Gathered> {
        let wanted = names.len();
        let mut samples: Vec<Sample> = names.iter().map(|n| Sample::new(options.sampling, n)).collect();
        let mut series = Names::of(names);
        let mut place = 0i64;
        for file in self.0.iter() {
            file.read(options, true, |batch| {
                let mut values = vec![0.0; options.features.len()];
                for row in 0..batch.len() {
                    place += 1;
                    if !batch.is_wanted(row, options) {
                        continue;
                    }
                    let (at, _) = batch.series(row, &mut series)?;
                    // Those of other passes come behind.
                    if at < wanted && batch.features(row, &mut values) {
                        let key = batch.window(row).map_or(place, |w| w.start.0);
                        samples[at].push(key, &values, options.max_rows);
                    }
                }
                done.fetch_add(batch.len() as u64, Ordering::Relaxed);
                Ok(())
            })?;
        }
        Ok(Gathered { samples })
    }
}

/// Series by name, each looked up without allocating.
#[derive(Default)]
struct Names {
    names: Vec<SeriesName>,
    places: HashMap<String, usize>,
    /// The last one: rows mostly come by series.
    last: usize,
    scratch: String,
}

impl Names {
    fn of(names: Vec<SeriesName>) -> Self {
        // Names have no control characters.
        let places =
            names.iter().enumerate().map(|(i, n)| (format!("{}\0{}", n.device, n.sensor), i)).collect();
        Self { names, places, last: 0, scratch: String::new() }
    }

    /// Its place, and whether it is new.
    fn place(&mut self, device: &str, sensor: &str) -> Result<(usize, bool), String> {
        if self.names.get(self.last).is_some_and(|n| n.device == device && n.sensor == sensor) {
            return Ok((self.last, false));
        }
        self.scratch.clear();
        self.scratch.push_str(device);
        self.scratch.push('\0');
        self.scratch.push_str(sensor);
        if let Some(at) = self.places.get(&self.scratch) {
            self.last = *at;
            return Ok((*at, false));
        }
        for (what, text) in [("device", device), ("sensor", sensor)] {
            if text.is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
                return Err(format!(
                    "{what} {text:?} is not 1 to {MAX_NAME} bytes without control characters"
                ));
            }
        }
        self.last = self.names.len();
        self.places.insert(self.scratch.clone(), self.last);
        self.names.push(SeriesName::new(device, sensor));
        Ok((self.last, true))
    }
}

type Times = PrimitiveArray<TimestampMicrosecondType>;

/// The columns of a batch that are of interest.
struct Columns {
    device: StringArray,
    sensor: StringArray,
    window: Option<(Times, Times)>,
    features: Vec<Float64Array>,
}

impl Columns {
    fn len(&self) -> usize {
        self.device.len()
    }

    fn series(&self, row: usize, names: &mut Names) -> Result<(usize, bool), String> {
        if self.device.is_null(row) || self.sensor.is_null(row) {
            return Err("has a row without device or sensor".into());
        }
        names
            .place(self.device.value(row), self.sensor.value(row))
            .map_err(|e| format!("has a row whose {e}"))
    }

    fn window(&self, row: usize) -> Option<Interval> {
        let (starts, ends) = self.window.as_ref()?;
        let whole = starts.is_valid(row) && ends.is_valid(row);
        whole.then(|| Interval { start: Timestamp(starts.value(row)), end: Timestamp(ends.value(row)) })
    }

    fn is_wanted(&self, row: usize, options: &TrainOptions) -> bool {
        if options.from.is_none() && options.to.is_none() {
            return true;
        }
        self.window(row).is_some_and(|w| {
            options.from.is_none_or(|t| w.start >= t) && options.to.is_none_or(|t| w.end <= t)
        })
    }

    /// Whether all of them have a finite value.
    fn features(&self, row: usize, values: &mut [f64]) -> bool {
        for (to, column) in values.iter_mut().zip(&self.features) {
            *to = if column.is_null(row) { f64::NAN } else { column.value(row) };
        }
        values.iter().all(|v| v.is_finite())
    }
}

impl Opened {
    fn new(path: String, state: String, file: File) -> Result<Self> {
        let rows = builder(&file, &path)?.metadata().file_metadata().num_rows().max(0) as u64;
        Ok(Self { path, state, file, rows })
    }

    /// Gives every batch to `each`, which may complain of it.
    fn read(
        &self,
        options: &TrainOptions,
        features: bool,
        mut each: impl FnMut(Columns) -> Result<(), String>,
    ) -> Result<()> {
        let path = &self.path;
        let bad = |e: String| ModelError::Usage(format!("`{path}` {e}"));
        let builder = builder(&self.file, path)?;
        let schema = builder.schema().clone();
        let mut wanted = vec!["device", "sensor"];
        if features {
            wanted.extend(options.features.iter().map(|f| f.as_str()));
        }
        if let Some(missing) = wanted.iter().find(|n| schema.index_of(n).is_err()) {
            let found: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(bad(format!(
                "has no column `{missing}`: device, sensor and the features are wanted, it has {}",
                found.join(", ")
            )));
        }
        let windows = ["window_start", "window_end"];
        let has_windows = windows.iter().all(|n| schema.index_of(n).is_ok());
        if has_windows {
            wanted.extend(windows);
        } else if options.from.is_some() || options.to.is_some() {
            return Err(bad(
                "has no columns `window_start` and `window_end`: a range (`--from`, `--to`) needs \
                them"
                    .into(),
            ));
        }
        let roots: Vec<usize> = wanted.iter().filter_map(|n| schema.index_of(n).ok()).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let unreadable = |e: &dyn std::fmt::Display| bad(format!("cannot be read: {e}"));
        let reader: ParquetRecordBatchReader =
            builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|e| unreadable(&e))?;
        for batch in reader {
            let batch = batch.map_err(|e| unreadable(&e))?;
            each(columns(&batch, options, features, has_windows).map_err(bad)?).map_err(bad)?;
        }
        Ok(())
    }
}

fn builder(file: &File, path: &str) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let bad = |e: &dyn std::fmt::Display| ModelError::Usage(format!("`{path}` cannot be read: {e}"));
    // Offsets are given with every read, so that copies of a handle do not disturb each other.
    let file = file.try_clone().map_err(|e| bad(&e))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| bad(&e))?;
    Ok(builder)
}

fn columns(
    batch: &RecordBatch,
    options: &TrainOptions,
    features: bool,
    windows: bool,
) -> Result<Columns, String> {
    let column = |name: &str, to: &DataType| -> Result<ArrayRef, String> {
        let found = batch.column_by_name(name).ok_or_else(|| format!("has a batch without `{name}`"))?;
        cast(found, to).map_err(|e| format!("has a column `{name}` of {}: {e}", found.data_type()))
    };
    let text = |name: &str| Ok::<_, String>(column(name, &DataType::Utf8)?.as_string::<i32>().clone());
    let time = |name: &str| {
        let times = column(name, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))?;
        Ok::<_, String>(times.as_primitive::<TimestampMicrosecondType>().clone())
    };
    let numbers = options.features.iter().filter(|_| features);
    Ok(Columns {
        device: text("device")?,
        sensor: text("sensor")?,
        window: if windows { Some((time("window_start")?, time("window_end")?)) } else { None },
        features: numbers
            .map(|f| Ok(column(f.as_str(), &DataType::Float64)?.as_primitive::<Float64Type>().clone()))
            .collect::<Result<_, String>>()?,
    })
}

fn local_files(path: &Path, files: &mut Vec<Opened>) -> Result<()> {
    let refused = |path: &Path, e: std::io::Error| {
        ModelError::Usage(format!("`{}` cannot be read: {e}", path.display()))
    };
    let open = |path: &Path| -> Result<Opened> {
        let meta = std::fs::metadata(path).map_err(|e| refused(path, e))?;
        if !meta.is_file() {
            return Err(ModelError::Usage(format!("`{}` is not a regular file", path.display())));
        }
        let file = File::open(path).map_err(|e| refused(path, e))?;
        Opened::new(path.display().to_string(), format!("{} {:?}", meta.len(), meta.modified().ok()), file)
    };
    if !std::fs::metadata(path).map_err(|e| refused(path, e))?.is_dir() {
        files.push(open(path)?);
        return Ok(());
    }
    let (mut folders, mut found): (Vec<(PathBuf, usize)>, Vec<PathBuf>) = (vec![(path.into(), 0)], vec![]);
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| refused(&folder, e))? {
            let path = entry.map_err(|e| refused(&folder, e))?.path();
            if is_hidden(&path.to_string_lossy()) {
                continue;
            }
            if path.is_dir() {
                if depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                }
            } else if is_parquet(&path.to_string_lossy()) {
                found.push(path);
            }
        }
    }
    found.sort();
    for path in found {
        files.push(open(&path)?);
    }
    Ok(())
}

fn is_parquet(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".parquet")
}

fn is_hidden(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with('.'))
}

async fn blob_files(url: &str, files: &mut Vec<Opened>) -> Result<()> {
    // Not the setting `blobs`, but the source that was given.
    let named = |e: BlobError| match e {
        BlobError::Setting { message } => ModelError::Usage(format!("source `{url}`: {message}")),
        e => e.into(),
    };
    let base = url.trim_end_matches('/');
    let root = Blobs::open(base, &BTreeMap::new()).map_err(named)?;
    let listed = root.list("").await.map_err(named)?;
    if !listed.is_empty() {
        for object in listed.iter().filter(|l| is_parquet(&l.name) && !is_hidden(&l.name)) {
            files.push(fetch(&root, &object.name, format!("{base}/{}", object.name)).await.map_err(named)??);
        }
        return Ok(());
    }
    let Some((folder, name)) = base.rsplit_once('/').filter(|(folder, _)| !folder.ends_with('/')) else {
        return Err(ModelError::Usage(format!("source `{url}` is empty")));
    };
    let root = Blobs::open(folder, &BTreeMap::new()).map_err(named)?;
    files.push(fetch(&root, name, url.to_owned()).await.map_err(named)??);
    Ok(())
}

/// Copies an object to a temporary file, piece by piece.
async fn fetch(root: &Blobs, name: &str, path: String) -> Result<Result<Opened>, BlobError> {
    let got = root.store.get_opts(&root.path(name), object_store::GetOptions::default()).await;
    let got = match got {
        Err(object_store::Error::NotFound { .. }) => {
            return Ok(Err(ModelError::Usage(format!("source `{path}` is empty or does not exist"))));
        }
        got => got.map_err(|e| root.error(name, e))?,
    };
    let state = format!("{} {:?} {}", got.meta.size, got.meta.e_tag, got.meta.last_modified);
    let local = |e: std::io::Error| {
        ModelError::Usage(format!(
            "`{path}` cannot be copied to a temporary file (set TMPDIR to a place with \
            room): {e}"
        ))
    };
    let mut file = match tempfile::tempfile() {
        Ok(file) => file,
        Err(e) => return Ok(Err(local(e))),
    };
    let mut pieces = got.into_stream();
    while let Some(piece) = pieces.try_next().await.map_err(|e| root.error(name, e))? {
        if let Err(e) = file.write_all(&piece) {
            return Ok(Err(local(e)));
        }
    }
    Ok(Opened::new(path, state, file))
}
