//! Publishing one interval, under the fence that SQL holds.
//!
//! For each object: read its version, confirm the fence in SQL, then one conditional put on that version. A publisher that
//! was overtaken either fails the confirmation, or its put meets a version that it did not read. A local folder has no
//! versions: there the three steps happen under a file lock, and the put is a rename.
//!
//! The lease is renewed for as long as there is something to do, so that an interval may take longer than it; whoever finds
//! it lost stops at once.
//!
//! The interval streams from one snapshot into two temporary files at once, each encoded by a thread of its own; what is
//! put is a map of the file. So the process holds a few batches and one row group, whatever the number of series.

use super::rows::{Counts, Summary};
use super::scratch::{Body, Scratch};
use super::{csv, parquet};
use crate::blobs::{BlobError, Blobs};
use crate::leases::until_lost;
use ::parquet::errors::ParquetError;
use arrow::array::RecordBatch;
use bytes::Bytes;
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{Outcome, Publication, Store, StoreError};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as ObjectError, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// The object that says what is published, written last.
pub const SUCCESS: &str = "_SUCCESS.json";
/// The predictions as Parquet.
pub const PARQUET: &str = "predictions.parquet";
/// The predictions as CSV.
pub const CSV: &str = "predictions.csv";

/// How an attempt to publish ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Published {
    /// Everything is in place, under this fence.
    Done {
        /// The fence.
        fence: i64,
        /// Rows published.
        rows: u64,
    },
    /// A run has stored some of the interval's shards and not all: it is due again a little later.
    Postponed,
    /// Another publisher has taken the interval over.
    Fenced,
}

/// After which time an interval is looked at again that a run has half done.
const POSTPONED_US: i64 = 2_000_000;

/// How the copying of an interval ended.
enum Copied {
    /// All objects are in place; the rows they hold.
    Done(u64),
    HalfScored,
    Fenced,
}

/// Why an interval could not be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Blob storage failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The lock file of a local folder could not be used.
    #[error("the lock file `{path}` cannot be used: {message}")]
    Lock {
        /// The file.
        path: String,
        /// What the system said.
        message: String,
    },
    /// A temporary file could not be written.
    #[error(
        "the folder `{path}` cannot hold the temporary files of a publication: {message}; make room, or set TMPDIR \
         where `blobs` is no local folder"
    )]
    Scratch {
        /// The folder.
        path: String,
        /// What the system said.
        message: String,
    },
    /// Others kept changing the object: the same call may succeed later.
    #[error("the object `{name}` kept changing under the publisher")]
    Contended {
        /// Its name below the root.
        name: String,
    },
    /// The rows could not be written as a file: a bug of ours.
    #[error("predictions could not be encoded: {0}")]
    Encode(String),
}

impl Classify for PublishError {
    fn domain(&self) -> Domain {
        match self {
            Self::Store(e) => e.domain(),
            Self::Blob(e) => e.domain(),
            Self::Lock { .. } | Self::Scratch { .. } => Domain::User,
            Self::Contended { .. } => Domain::External,
            Self::Encode(_) => Domain::Internal,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Store(e) => e.is_transient(),
            Self::Blob(e) => e.is_transient(),
            Self::Contended { .. } => true,
            Self::Lock { .. } | Self::Scratch { .. } | Self::Encode(_) => false,
        }
    }
}

/// What `_SUCCESS.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Success {
    /// Version of this format: 1.
    pub format: u32,
    /// The schedule.
    pub schedule: String,
    /// Start of the interval, RFC 3339.
    pub interval_start: String,
    /// End of the interval, RFC 3339.
    pub interval_end: String,
    /// The fence that it was published under.
    pub fence: i64,
    /// Versions of the model sets in it.
    pub model_sets: Vec<i64>,
    /// What the rows add up to.
    pub counts: Counts,
    /// The other objects of the folder.
    pub objects: Vec<Object>,
}

/// One published object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name in the folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
}

/// The folder of one interval, without a slash at its end.
pub fn folder(schedule: &str, start: Timestamp) -> String {
    let start = match start.to_datetime() {
        Some(t) => t.format("%Y%m%dT%H%M%SZ").to_string(),
        None => start.0.to_string(),
    };
    format!("predictions/schedule={schedule}/interval={start}")
}

/// Publishes the interval's current predictions, and renews the lease for so long meanwhile. Done again under the same
/// claim it does no harm; where the folder was published under a higher fence, the publication gets one above that.
///
/// # Errors
/// Transient ones ([`Classify::is_transient`]) are worth another call with the same publication.
pub async fn publish(
    store: &dyn Store,
    blobs: &Blobs,
    publication: &mut Publication,
    lease_us: i64,
) -> Result<Published, PublishError> {
    let folder = folder(&publication.schedule, publication.interval.start);
    if let Some(found) = found_fence(blobs, &folder).await?
        && found > publication.fence
    {
        // The store was restored from a backup: what lies there was published under a later fence.
        match store.raise_publication(publication, found).await? {
            Some(raised) => *publication = raised,
            None => return Ok(Published::Fenced),
        }
    }
    let publication = &*publication;
    let copied = tokio::select! {
        copied = copy(store, blobs, publication, &folder) => copied?,
        () = lost(store, publication, lease_us) => Copied::Fenced,
    };
    let rows = match copied {
        Copied::Done(rows) => rows,
        Copied::Fenced => return Ok(Published::Fenced),
        Copied::HalfScored => {
            return Ok(match store.postpone_publication(publication, POSTPONED_US).await? {
                Outcome::Done => Published::Postponed,
                Outcome::Fenced => Published::Fenced,
            });
        }
    };
    match store.finish_publication(publication).await? {
        Outcome::Done => Ok(Published::Done { fence: publication.fence, rows }),
        Outcome::Fenced => Ok(Published::Fenced),
    }
}

/// Renews the lease until it is lost. A publication that failed and is tried again renews it only where it works on for
/// a while: what one process cannot do is left to another.
async fn lost(store: &dyn Store, publication: &Publication, lease_us: i64) {
    let what = format!("the publication of {}", publication.interval);
    until_lost(lease_us, &what, || store.renew_publication(publication, lease_us)).await;
}

/// Puts all objects.
async fn copy(
    store: &dyn Store,
    blobs: &Blobs,
    publication: &Publication,
    folder: &str,
) -> Result<Copied, PublishError> {
    let scratch = blobs.local_root().map_or_else(std::env::temp_dir, std::path::Path::to_path_buf);
    let Some((summary, files)) = write_files(store, publication, &scratch).await? else {
        return Ok(Copied::HalfScored);
    };
    let success = success(publication, &summary, &files)?;
    let files = files.into_iter().map(|(name, body)| (name, body.bytes));
    for (name, bytes) in files.chain([(SUCCESS, success)]) {
        let name = format!("{folder}/{name}");
        if put(store, blobs, publication, &name, bytes).await? == Outcome::Fenced {
            return Ok(Copied::Fenced);
        }
    }
    Ok(Copied::Done(summary.counts.rows))
}

/// Batches between the store and each encoder.
const AHEAD: usize = 4;

/// A file of the folder, by its name there.
type Named = (&'static str, Body);

/// Both files of the interval as it is now, from one snapshot; `None` while a run has it half done.
async fn write_files(
    store: &dyn Store,
    publication: &Publication,
    scratch: &std::path::Path,
) -> Result<Option<(Summary, [Named; 2])>, PublishError> {
    let Some(mut batches) = store.publication_rows(publication).await? else { return Ok(None) };
    let (to_parquet, parquet_rows) = mpsc::channel(AHEAD);
    let (to_csv, csv_rows) = mpsc::channel(AHEAD);
    let folder = scratch.to_owned();
    let parquet = tokio::task::spawn_blocking(move || write_parquet(&folder, parquet_rows));
    let folder = scratch.to_owned();
    let csv = tokio::task::spawn_blocking(move || write_csv(&folder, csv_rows));
    while let Some(batch) = batches.try_next().await? {
        let (a, b) = tokio::join!(to_parquet.send(batch.clone()), to_csv.send(batch));
        if a.is_err() || b.is_err() {
            break; // one of them gave up: it says why
        }
    }
    drop((to_parquet, to_csv, batches));
    let failed = |e: tokio::task::JoinError| PublishError::Encode(e.to_string());
    let parquet = parquet.await.map_err(failed)?.map_err(|e| e.at(scratch))?;
    let (csv, summary) = csv.await.map_err(failed)?.map_err(|e| e.at(scratch))?;
    Ok(Some((summary, [(PARQUET, parquet), (CSV, csv)])))
}

fn write_parquet(
    folder: &std::path::Path,
    mut rows: mpsc::Receiver<RecordBatch>,
) -> Result<Body, EncodeError> {
    let mut encoder = parquet::Encoder::new(Scratch::new(folder)?)?;
    while let Some(batch) = rows.blocking_recv() {
        encoder.write(&batch)?;
    }
    Ok(encoder.finish()?.finish()?)
}

fn write_csv(
    folder: &std::path::Path,
    mut rows: mpsc::Receiver<RecordBatch>,
) -> Result<(Body, Summary), EncodeError> {
    let mut encoder = csv::Encoder::new(Scratch::new(folder)?)?;
    let mut summary = Summary::default();
    while let Some(batch) = rows.blocking_recv() {
        encoder.write(&batch)?;
        summary.add(&batch);
    }
    Ok((encoder.into_inner().finish()?, summary))
}

/// Why an encoder gave up.
enum EncodeError {
    Io(std::io::Error),
    Parquet(ParquetError),
}

impl From<std::io::Error> for EncodeError {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<ParquetError> for EncodeError {
    fn from(e: ParquetError) -> Self {
        match e {
            ParquetError::External(inner) => match inner.downcast() {
                Ok(e) => Self::Io(*e),
                Err(inner) => Self::Parquet(ParquetError::External(inner)),
            },
            e => Self::Parquet(e),
        }
    }
}

impl EncodeError {
    fn at(self, scratch: &std::path::Path) -> PublishError {
        match self {
            Self::Io(e) => {
                PublishError::Scratch { path: scratch.display().to_string(), message: e.to_string() }
            }
            Self::Parquet(e) => PublishError::Encode(e.to_string()),
        }
    }
}

/// What is said of the files when they are in place.
fn success(publication: &Publication, summary: &Summary, files: &[Named]) -> Result<Bytes, PublishError> {
    let object = |(name, body): &Named| Object {
        name: (*name).to_owned(),
        size: body.bytes.len() as u64,
        sha256: body.sha256.clone(),
    };
    let success = Success {
        format: 1,
        schedule: publication.schedule.clone(),
        interval_start: publication.interval.start.to_rfc3339(),
        interval_end: publication.interval.end.to_rfc3339(),
        fence: publication.fence,
        model_sets: summary.model_sets.iter().copied().collect(),
        counts: summary.counts.clone(),
        objects: files.iter().map(object).collect(),
    };
    let mut text = serde_json::to_vec_pretty(&success).map_err(|e| PublishError::Encode(e.to_string()))?;
    text.push(b'\n');
    Ok(text.into())
}

/// The fence of what lies in the folder; `None` where nothing complete does.
async fn found_fence(blobs: &Blobs, folder: &str) -> Result<Option<i64>, PublishError> {
    let found = blobs.get_opt(&format!("{folder}/{SUCCESS}")).await?;
    Ok(found.and_then(|bytes| Some(serde_json::from_slice::<Success>(&bytes).ok()?.fence)))
}

/// One object: version, fence, conditional put.
async fn put(
    store: &dyn Store,
    blobs: &Blobs,
    publication: &Publication,
    name: &str,
    bytes: Bytes,
) -> Result<Outcome, PublishError> {
    match blobs.local_root() {
        Some(root) => {
            let lock = root.join("predictions").join(format!("schedule={}", publication.schedule));
            put_local(store, blobs, publication, name, bytes, lock.join(".publish.lock")).await
        }
        None => put_conditional(store, blobs, publication, name, bytes).await,
    }
}

// One request for each object, also a large one: a condition on the version goes with a put alone. What object_store has
// for uploads in parts takes none (`PutMultipartOptions`), and a staged upload that is then renamed would need a
// conditional copy, which Azure and S3 do not have either. How long a put may take grows with its size instead (`crate::blobs`);
// services take 5 GB at once, some forty million predictions.

/// How often a put is tried again after the object had changed in between.
const PUT_ATTEMPTS: usize = 10;

async fn put_conditional(
    store: &dyn Store,
    blobs: &Blobs,
    publication: &Publication,
    name: &str,
    bytes: Bytes,
) -> Result<Outcome, PublishError> {
    let path = blobs.path(name);
    for _ in 0..PUT_ATTEMPTS {
        let mode = match version(blobs, name, &path).await? {
            Some(version) => PutMode::Update(version),
            None => PutMode::Create,
        };
        if store.confirm_publication(publication).await? == Outcome::Fenced {
            return Ok(Outcome::Fenced);
        }
        match blobs.store.put_opts(&path, bytes.clone().into(), PutOptions::from(mode)).await {
            Ok(_) => return Ok(Outcome::Done),
            // Somebody was faster; whether by right, the fence will say.
            Err(
                ObjectError::AlreadyExists { .. }
                | ObjectError::Precondition { .. }
                | ObjectError::NotFound { .. },
            ) => {}
            Err(e) => return Err(blobs.error(name, e).into()),
        }
    }
    Err(PublishError::Contended { name: name.to_owned() })
}

async fn version(blobs: &Blobs, name: &str, path: &Path) -> Result<Option<UpdateVersion>, PublishError> {
    match blobs.store.head(path).await {
        Ok(meta) => Ok(Some(UpdateVersion { e_tag: meta.e_tag, version: meta.version })),
        Err(e) => match blobs.error(name, e) {
            BlobError::NotFound { .. } => Ok(None),
            e => Err(e.into()),
        },
    }
}

/// In a local folder nobody else puts while the lock is held, so the confirmed fence is still ours at the rename.
async fn put_local(
    store: &dyn Store,
    blobs: &Blobs,
    publication: &Publication,
    name: &str,
    bytes: Bytes,
    lock: PathBuf,
) -> Result<Outcome, PublishError> {
    let failed = |e: &dyn std::fmt::Display| PublishError::Lock {
        path: lock.display().to_string(),
        message: e.to_string(),
    };
    let path = lock.clone();
    let locked = tokio::task::spawn_blocking(move || locked_file(&path)).await.map_err(|e| failed(&e))?;
    let held = locked.map_err(|e| failed(&e))?;
    if store.confirm_publication(publication).await? == Outcome::Fenced {
        return Ok(Outcome::Fenced);
    }
    // Written beside it and renamed over it. Nothing breaks that off, and the lock is held until it is done: a publisher
    // that is stopped here must not rename over what the next one has put.
    let (store, path) = (blobs.store.clone(), blobs.path(name));
    let put = tokio::spawn(async move {
        let put = store.put_opts(&path, bytes.into(), PutOptions::from(PutMode::Overwrite)).await;
        drop(held);
        put
    });
    put.await.map_err(|e| failed(&e))?.map_err(|e| blobs.error(name, e))?;
    Ok(Outcome::Done)
}

/// The lock file, locked until it is dropped.
fn locked_file(path: &std::path::Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
