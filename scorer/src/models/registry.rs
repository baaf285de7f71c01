//! Adding, loading and verifying model sets.

use super::format::{self, FORMAT, MANIFEST, Manifest, Part, Stored};
use super::{Entry, ModelError, ModelSet, Result};
use crate::blobs::{BlobError, Blobs};
use bytes::Bytes;
use fleetscore_schemas::time::Interval;
use fleetscore_schemas::window::Feature;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::{ModelSetRow, Store};
use uuid::Uuid;

/// Series that are interned or looked up in one call.
const NAMES_A_CALL: usize = 10_000;

/// A set about to be added.
pub(crate) struct NewSet {
    /// In any order, at most one for each series.
    pub entries: Vec<Stored>,
    pub features: Vec<Feature>,
    pub origin: &'static str,
    pub created_by: String,
    pub trained_on: Option<Interval>,
    pub max_series: u32,
    pub activate: bool,
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyReport {
    /// What the set says of itself.
    pub manifest: Manifest,
    /// Number of models whose check rows were scored again.
    pub scored: usize,
    /// What differs; empty for a good set.
    pub problems: Vec<String>,
}

/// Writes a set's files, the manifest last, and adds its row: nobody sees it before it is complete.
pub(crate) async fn add(store: &dyn Store, blobs: &Blobs, mut new: NewSet) -> Result<i64> {
    blobs.bind(store).await?;
    intern(store, &new).await?;
    let version = store.reserve_model_set().await?;
    let path = format!("models/{version}-{}", &Uuid::new_v4().simple().to_string()[..12]);
    new.entries.sort_by(|a, b| a.name.cmp(&b.name));
    let refused = new.entries.iter().filter(|e| e.outcome.is_err()).count();
    let models = new.entries.len() - refused;
    let mut parts = Vec::new();
    let mut rest = new.entries;
    let mut start = 0;
    for (i, end) in format::part_ends(&rest).into_iter().enumerate() {
        let tail = rest.split_off(end - start);
        let (entries, rows) = (std::mem::replace(&mut rest, tail), (end - start) as u64);
        start = end;
        let bytes =
            blocking(move || format::encode(&entries).map_err(|e| ModelError::Internal(e.to_string())))
                .await?;
        let name = format!("part-{i:05}.parquet");
        parts.push(Part {
            rows,
            bytes: bytes.len() as u64,
            sha256: format::digest(&bytes),
            name: name.clone(),
        });
        blobs.put_immutable(&format!("{path}/{name}"), bytes).await?;
    }
    let created_at = store.now().await?;
    let manifest = Manifest {
        format: FORMAT,
        version,
        origin: new.origin.into(),
        created_by: new.created_by.clone(),
        created_at: created_at.to_rfc3339(),
        features: new.features.iter().map(ToString::to_string).collect(),
        models: models as u64,
        refused: refused as u64,
        checksum: format::checksum(&parts),
        trained_on: new.trained_on.map(|i| (i.start.to_rfc3339(), i.end.to_rfc3339())),
        parts,
    };
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(|e| ModelError::Internal(e.to_string()))?;
    blobs.put_immutable(&format!("{path}/{MANIFEST}"), bytes.into()).await?;
    let row = ModelSetRow {
        version,
        path,
        active: new.activate,
        models: models as i64,
        refused: refused as i64,
        origin: new.origin.into(),
        checksum: manifest.checksum,
        features: manifest.features,
        trained_on: new.trained_on,
        training_rows: None,
        note: None,
        created_by: new.created_by,
        created_at,
    };
    store.add_model_set(&row, &[], new.activate).await?;
    Ok(version)
}

/// Gives every series of a new set its id; refuses before any is made where they are too many.
async fn intern(store: &dyn Store, new: &NewSet) -> Result<()> {
    let names: Vec<SeriesName> = new.entries.iter().map(|e| e.name.clone()).collect();
    let too_many = || {
        ModelError::Usage(format!(
            "setting `max_series`: the models' series would be more than the {} that are allowed",
            new.max_series
        ))
    };
    let mut unknown = Vec::new();
    for chunk in names.chunks(NAMES_A_CALL) {
        let ids = store.lookup(chunk).await?;
        unknown.extend(chunk.iter().zip(ids).filter(|(_, id)| id.is_none()).map(|(name, _)| name.clone()));
    }
    if unknown.is_empty() {
        return Ok(());
    }
    if store.series().await?.len() + unknown.len() > new.max_series as usize {
        return Err(too_many());
    }
    for chunk in unknown.chunks(NAMES_A_CALL) {
        if store.intern(chunk, new.max_series).await?.contains(&None) {
            return Err(too_many());
        }
    }
    Ok(())
}

/// Loads a set, verifying its checksums.
///
/// # Errors
/// [`ModelError::Damaged`] where a file is missing or is not what was written.
pub async fn load(blobs: &Blobs, store: &dyn Store, row: &ModelSetRow) -> Result<ModelSet> {
    let (_, stored) = read(blobs, row).await?;
    let names: Vec<SeriesName> = stored.iter().map(|e| e.name.clone()).collect();
    let ids = ids(store, &names).await?;
    let mut entries: Vec<Entry> = stored
        .into_iter()
        .zip(ids)
        .map(|(e, series)| Entry {
            series,
            name: e.name,
            model: e.model,
            outcome: e.outcome,
            normal: e.normal,
        })
        .collect();
    entries.sort_by_key(|e| e.series);
    if let Some(twice) = entries.windows(2).find(|w| w[0].series == w[1].series) {
        return Err(damaged(row, format!("{} has two models", twice[0].name)));
    }
    Ok(ModelSet { version: row.version, entries })
}

/// Ids of a stored set's series. They were made before the set; a store restored from an older backup may have lost
/// some, which then get new ones.
async fn ids(store: &dyn Store, names: &[SeriesName]) -> Result<Vec<SeriesId>> {
    let mut all = Vec::with_capacity(names.len());
    for chunk in names.chunks(NAMES_A_CALL) {
        let mut ids = store.lookup(chunk).await?;
        if ids.contains(&None) {
            ids = store.intern(chunk, u32::MAX).await?;
        }
        for id in ids {
            all.push(id.ok_or_else(|| ModelError::Internal("a series got no id without a limit".into()))?);
        }
    }
    Ok(all)
}

/// What a set says of itself, checked against its row.
///
/// # Errors
/// [`ModelError::Damaged`] where it is missing or does not fit.
pub async fn manifest(blobs: &Blobs, row: &ModelSetRow) -> Result<Manifest> {
    let bytes = file(blobs, row, MANIFEST).await?;
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|e| damaged(row, format!("{MANIFEST} cannot be read: {e}")))?;
    if manifest.format > FORMAT {
        let (found, known) = (manifest.format, FORMAT);
        return Err(ModelError::Usage(format!(
            "model set {} has the format {found}, this program knows {known}: use a newer fleetscore",
            row.version
        )));
    }
    if manifest.version != row.version {
        return Err(damaged(row, format!("{MANIFEST} is that of version {}", manifest.version)));
    }
    let found = format::checksum(&manifest.parts);
    if found != row.checksum || found != manifest.checksum {
        return Err(damaged(row, format!("the checksum is {found}, recorded is {}", row.checksum)));
    }
    Ok(manifest)
}

/// Reads a set again, compares every checksum and scores its check rows.
///
/// # Errors
/// What keeps it from being read at all (services, a missing manifest); everything else is in the report.
pub async fn verify(blobs: &Blobs, row: &ModelSetRow) -> Result<VerifyReport> {
    let manifest = manifest(blobs, row).await?;
    let (mut scored, mut problems) = (0, Vec::new());
    let (mut models, mut refused) = (0, 0);
    for part in &manifest.parts {
        let entries = match read_part(blobs, row, part).await {
            Ok(entries) => entries,
            Err(ModelError::Damaged { what, .. }) => {
                problems.push(what);
                continue;
            }
            Err(e) => return Err(e),
        };
        for entry in &entries {
            let Ok(model) = &entry.outcome else {
                refused += 1;
                continue;
            };
            models += 1;
            scored += 1;
            for (x, wanted) in &entry.checks {
                let found = model.decision(x);
                // The same machine gives the same bits; another's exp may differ in the last one.
                let size: f64 = model.dual_coef.iter().map(|c| c.abs()).sum::<f64>() + model.rho.abs();
                if (found - wanted).abs() > 1e-12 * size.max(wanted.abs()) {
                    problems.push(format!("{}: scores {found} for {x:?}, recorded is {wanted}", entry.name));
                }
            }
        }
    }
    if problems.is_empty() && (models, refused) != (row.models, row.refused) {
        problems.push(format!(
            "it has {models} models and {refused} refused ones, its row says {} and {}",
            row.models, row.refused
        ));
    }
    Ok(VerifyReport { manifest, scored, problems })
}

async fn read(blobs: &Blobs, row: &ModelSetRow) -> Result<(Manifest, Vec<Stored>)> {
    let manifest = manifest(blobs, row).await?;
    let mut all = Vec::new();
    for part in &manifest.parts {
        all.extend(read_part(blobs, row, part).await?);
    }
    Ok((manifest, all))
}

async fn read_part(blobs: &Blobs, row: &ModelSetRow, part: &Part) -> Result<Vec<Stored>> {
    let bytes = file(blobs, row, &part.name).await?;
    let (name, sha256, rows) = (part.name.clone(), part.sha256.clone(), part.rows);
    let decoded = blocking(move || {
        Ok((|| {
            let found = format::digest(&bytes);
            if found != sha256 {
                return Err(format!("the checksum of {name} is {found}, recorded is {sha256}"));
            }
            let entries = format::decode(bytes).map_err(|e| format!("{name} cannot be read: {e}"))?;
            if entries.len() as u64 != rows {
                return Err(format!("{name} has {} rows, recorded are {rows}", entries.len()));
            }
            Ok(entries)
        })())
    });
    decoded.await?.map_err(|what| damaged(row, what))
}

async fn file(blobs: &Blobs, row: &ModelSetRow, name: &str) -> Result<Bytes> {
    blobs.get(&format!("{}/{name}", row.path)).await.map_err(|e| match e {
        BlobError::NotFound { .. } => damaged(row, format!("{name} is missing")),
        e => e.into(),
    })
}

fn damaged(row: &ModelSetRow, what: String) -> ModelError {
    ModelError::Damaged { version: row.version, path: row.path.clone(), what }
}

/// Runs something that computes for a while off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => Err(ModelError::Internal(e.to_string())),
    }
}
