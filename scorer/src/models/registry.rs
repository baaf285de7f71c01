//! Adding model sets, and what a set says of itself.

use super::features::{check_activation, names};
use super::format::{FORMAT, MANIFEST, Models, Sorted};
use super::open::{damaged, file};
use super::{ModelError, Result};
use crate::blobs::Blobs;
use fleetscore_pack::{Manifest, PackError, Part, SetFile};
use fleetscore_schemas::time::Interval;
use fleetscore_schemas::window::Feature;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::{ModelFailure, ModelSetRow, Store};
use futures::{StreamExt, TryStreamExt};
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// Series that are interned or looked up in one call.
pub(super) const NAMES_A_CALL: usize = 10_000;

/// Shards that are made at once: while one is put, the next is computed on all cores.
const SHARDS_AT_ONCE: usize = 2;

/// A set about to be added.
#[derive(Debug, Default)]
pub(crate) struct NewSet {
    /// In any order, at most one for each series.
    pub entries: Models,
    /// What was to be a model and became none, to be kept beside the set.
    pub failures: Vec<ModelFailure>,
    pub features: Vec<Feature>,
    /// How models are named: names that it yields are not stored.
    pub pattern: String,
    pub origin: &'static str,
    pub created_by: String,
    pub trained_on: Option<Interval>,
    pub note: Option<String>,
    pub max_series: u32,
    pub activate: bool,
}

/// Writes a set's files, the manifest last, and adds its row: nobody sees it before it is complete. Whether it is still to
/// be added is asked when everything else is done.
pub(crate) async fn add(
    store: &dyn Store,
    blobs: &Blobs,
    new: NewSet,
    still: impl Future<Output = Result<()>> + Send,
) -> Result<i64> {
    if let Some(problem) = new.entries.problem(new.features.len()) {
        return Err(ModelError::Usage(problem));
    }
    let features = names(&new.features);
    if new.activate {
        check_activation(store, &features).await?;
    }
    blobs.bind(store).await?;
    let ids = intern(store, &new).await?;
    let order = in_order(&new.entries, &ids)?;
    let version = store.reserve_model_set().await?;
    let path = format!("models/{version}-{}", &Uuid::new_v4().simple().to_string()[..12]);
    let refused = new.entries.refused();
    let models = new.entries.len() - refused;
    let training_rows = new.entries.training_rows();
    let sorted =
        Sorted { models: new.entries, order, features: new.features.len(), pattern: new.pattern.clone() };
    let parts = put_parts(blobs, &path, sorted).await?;
    let created_at = store.now().await?;
    let manifest = Manifest {
        format: FORMAT,
        version,
        origin: new.origin.into(),
        created_by: new.created_by.clone(),
        created_at: created_at.to_rfc3339(),
        features,
        pattern: new.pattern,
        models: models as u64,
        refused: refused as u64,
        trained_on: new.trained_on.map(|i| (i.start.to_rfc3339(), i.end.to_rfc3339())),
        training_rows,
        parts,
    };
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(|e| ModelError::Internal(e.to_string()))?;
    let checksum = Manifest::checksum(&bytes);
    blobs.put_immutable(&format!("{path}/{MANIFEST}"), bytes.into()).await?;
    let row = ModelSetRow {
        version,
        path,
        active: new.activate,
        models: models as i64,
        refused: refused as i64,
        origin: new.origin.into(),
        checksum,
        features: manifest.features,
        trained_on: new.trained_on,
        training_rows: training_rows.map(|rows| rows as i64),
        note: new.note,
        created_by: new.created_by,
        created_at,
    };
    still.await?;
    store.add_model_set(&row, &new.failures, new.activate).await?;
    Ok(version)
}

/// Series with the index of their entry, ascending.
fn in_order(models: &Models, ids: &[SeriesId]) -> Result<Vec<(u32, u32)>> {
    let mut order: Vec<(u32, u32)> = ids.iter().enumerate().map(|(i, id)| (*id, i as u32)).collect();
    order.sort_unstable();
    match order.windows(2).find(|w| w[0].0 == w[1].0) {
        Some(twice) => {
            let name = models.name(twice[0].1 as usize);
            Err(ModelError::Usage(format!("{name} has two models: a set has one for each series")))
        }
        None => Ok(order),
    }
}

/// Makes and puts all shards and their check vectors.
async fn put_parts(blobs: &Blobs, path: &str, sorted: Sorted) -> Result<Vec<Part>> {
    let sorted = Arc::new(sorted);
    let put = |(i, range): (usize, Range<usize>)| {
        let sorted = sorted.clone();
        async move {
            let rows = range.len();
            let series = (sorted.order[range.start].0, sorted.order[range.end - 1].0);
            let built = blocking(move || Ok(sorted.build(range, cores())?)).await?;
            let checks = match built.checks {
                Some((rows, bytes)) => {
                    Some(put_file(blobs, path, format!("checks-{i:05}.arrow"), rows, bytes).await?)
                }
                None => None,
            };
            let file = put_file(blobs, path, format!("part-{i:05}.arrow"), rows, built.shard).await?;
            Ok::<_, ModelError>(Part { file, series, checks })
        }
    };
    let cuts = sorted.cuts();
    futures::stream::iter(cuts.into_iter().enumerate()).map(put).buffered(SHARDS_AT_ONCE).try_collect().await
}

async fn put_file(
    blobs: &Blobs,
    path: &str,
    name: String,
    rows: usize,
    bytes: bytes::Bytes,
) -> Result<SetFile> {
    let of = bytes.clone();
    let file = blocking(move || Ok(SetFile::of(name, rows, &of))).await?;
    blobs.put_immutable(&format!("{path}/{}", file.name), bytes).await?;
    Ok(file)
}

/// Gives every series of a new set its id, in the order of its entries; refuses before any is made where they are too
/// many.
async fn intern(store: &dyn Store, new: &NewSet) -> Result<Vec<SeriesId>> {
    let count = new.entries.len();
    let too_many = || {
        ModelError::Usage(format!(
            "setting `max_series`: the models' series would be more than the {} that are allowed",
            new.max_series
        ))
    };
    let mut found = Vec::with_capacity(count);
    for start in (0..count).step_by(NAMES_A_CALL) {
        let names = new.entries.names(start..(start + NAMES_A_CALL).min(count));
        found.extend(store.lookup(&names).await?);
    }
    let unknown: Vec<usize> = (0..count).filter(|i| found[*i].is_none()).collect();
    if !unknown.is_empty() && series_count(store).await? + unknown.len() > new.max_series as usize {
        return Err(too_many());
    }
    for chunk in unknown.chunks(NAMES_A_CALL) {
        let names: Vec<SeriesName> = chunk.iter().map(|i| new.entries.name(*i)).collect();
        for (i, id) in chunk.iter().zip(store.intern(&names, new.max_series).await?) {
            found[*i] = id;
        }
    }
    found.into_iter().map(|id| id.ok_or_else(too_many)).collect()
}

async fn series_count(store: &dyn Store) -> Result<usize> {
    let mut batches = store.series_batches().await?;
    let mut count = 0;
    while let Some(batch) = batches.try_next().await? {
        count += batch.num_rows();
    }
    Ok(count)
}

/// What a set says of itself, checked against its row: byte by byte, as the row keeps the checksum.
///
/// # Errors
/// [`ModelError::Damaged`] where it is missing or is not what was written, [`ModelError::Usage`] where it has a format of
/// another version of this program.
pub async fn manifest(blobs: &Blobs, row: &ModelSetRow) -> Result<Manifest> {
    let bytes = file(blobs, row, MANIFEST).await?;
    let parsed = Manifest::parse(&bytes);
    // Whose checksum may be made by another rule.
    if let Err(e @ (PackError::Newer { .. } | PackError::Older { .. })) = parsed {
        return Err(ModelError::Usage(format!("model set {}: {e}", row.version)));
    }
    let (found, recorded) = (Manifest::checksum(&bytes), &row.checksum);
    if found != *recorded {
        return Err(damaged(row, format!("the checksum of {MANIFEST} is {found}, recorded is {recorded}")));
    }
    let manifest = parsed.map_err(|e| match e {
        PackError::Damaged(what) => damaged(row, what),
        e => damaged(row, e.to_string()),
    })?;
    if manifest.version != row.version {
        return Err(damaged(row, format!("{MANIFEST} is that of version {}", manifest.version)));
    }
    if manifest.features != row.features {
        let (found, recorded) = (manifest.features.join(", "), row.features.join(", "));
        return Err(damaged(row, format!("{MANIFEST} names the features {found}, its row {recorded}")));
    }
    Ok(manifest)
}

/// Threads that computing is spread over.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Runs something that computes for a while off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => Err(ModelError::Internal(e.to_string())),
    }
}
