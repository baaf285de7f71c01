//! Loading and verifying model sets.

use super::registry::{NAMES_A_CALL, blocking, cores, manifest};
use super::{ModelError, ModelSet, Result, set};
use crate::blobs::{BlobError, Blobs};
use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use bytes::Bytes;
use fleetscore_kernel::Columns;
use fleetscore_pack::{Checks, Manifest, PackError, Part, SetFile, Shard};
use fleetscore_schemas::window::Feature;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_store::{ModelSetRow, Store};
use futures::{StreamExt, TryStreamExt};

/// Up to so many entries, their names are looked up; for more, all series of the store are read once.
const LOOKED_UP: usize = 50_000;

/// Check rows that are scored at once.
const CHECKED_AT_ONCE: usize = 8192;

/// Problems that a report names; more are counted.
const PROBLEMS: usize = 1000;

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

/// Loads a set, verifying its checksums and its series' ids. Files of a local blob root are mapped into memory, others
/// fetched whole; all cores work on them.
///
/// # Errors
/// [`ModelError::Damaged`] where a file is missing or is not what was written.
pub async fn load(blobs: &Blobs, store: &dyn Store, row: &ModelSetRow) -> Result<ModelSet> {
    let manifest = manifest(blobs, row).await?;
    let unknown =
        |e: String| ModelError::Usage(format!("model set {}: {e}: use a newer fleetscore", row.version));
    let features: Result<Vec<Feature>> =
        manifest.features.iter().map(|f| f.parse().map_err(unknown)).collect();
    let shards: Vec<Shard> = futures::stream::iter(manifest.parts.clone())
        .map(|part| shard(blobs, row, part))
        .buffered(cores())
        .try_collect()
        .await?;
    let shards = match same_ids(store, &shards).await? {
        true => shards,
        false => with_new_ids(store, row, &manifest, shards).await?,
    };
    ModelSet::new(row.version, features?, shards).map_err(|e| damaged(row, e.to_string()))
}

/// Whether all series still have the ids that they had when the set was written. They have, unless the store was
/// restored from an older backup and learnt them again in another order.
async fn same_ids(store: &dyn Store, shards: &[Shard]) -> Result<bool> {
    let mut rows = Rows { shards, row: 0 };
    let count: usize = shards.iter().map(Shard::len).sum();
    if count <= LOOKED_UP {
        loop {
            let chunk: Vec<(&Shard, usize)> = rows.by_ref().take(NAMES_A_CALL).collect();
            if chunk.is_empty() {
                return Ok(true);
            }
            let names: Vec<SeriesName> = chunk.iter().map(|(s, row)| name(s, *row)).collect();
            let ids = store.lookup(&names).await?;
            if chunk.iter().zip(ids).any(|((s, row), id)| id != Some(s.series()[*row])) {
                return Ok(false);
            }
        }
    }
    // Both ascend by id.
    let mut wanted = rows.peekable();
    let mut batches = store.series_batches().await?;
    while let Some(batch) = batches.try_next().await? {
        let ids = batch.column(0).as_primitive::<UInt32Type>();
        let (devices, sensors) = (batch.column(1).as_string::<i32>(), batch.column(2).as_string::<i32>());
        for (i, id) in ids.values().iter().enumerate() {
            if let Some((s, row)) = wanted.next_if(|(s, row)| s.series()[*row] <= *id)
                && (s.series()[row] != *id
                    || s.device(row) != devices.value(i)
                    || s.sensor(row) != sensors.value(i))
            {
                return Ok(false);
            }
        }
    }
    Ok(wanted.next().is_none())
}

/// All rows of some shards, in order.
struct Rows<'a> {
    shards: &'a [Shard],
    row: usize,
}

impl<'a> Iterator for Rows<'a> {
    type Item = (&'a Shard, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let (first, others) = self.shards.split_first()?;
        if self.row < first.len() {
            self.row += 1;
            return Some((first, self.row - 1));
        }
        (self.shards, self.row) = (others, 0);
        self.next()
    }
}

/// The shards again, with the ids that the store has for their names; it learns those that it does not know.
async fn with_new_ids(
    store: &dyn Store,
    row: &ModelSetRow,
    manifest: &Manifest,
    shards: Vec<Shard>,
) -> Result<Vec<Shard>> {
    tracing::warn!(
        version = row.version,
        "the series of this model set have other ids in the store than when it was written (a restored backup?): its \
         models are assigned to series by name, in memory"
    );
    let rows: Vec<(u32, u32)> =
        (0_u32..).zip(&shards).flat_map(|(i, s)| (0..s.len() as u32).map(move |row| (i, row))).collect();
    let mut order: Vec<(SeriesId, (u32, u32))> = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(NAMES_A_CALL) {
        let names: Vec<SeriesName> =
            chunk.iter().map(|(s, row)| name(&shards[*s as usize], *row as usize)).collect();
        let mut ids = store.lookup(&names).await?;
        if ids.contains(&None) {
            ids = store.intern(&names, u32::MAX).await?;
        }
        for (at, id) in chunk.iter().zip(ids) {
            let id = id.ok_or_else(|| ModelError::Internal("a series got no id without a limit".into()))?;
            order.push((id, *at));
        }
    }
    order.sort_unstable();
    if let Some(twice) = order.windows(2).find(|w| w[0].0 == w[1].0) {
        let (s, at) = twice[0].1;
        let name = name(&shards[s as usize], at as usize);
        return Err(damaged(row, format!("{name} has two models")));
    }
    let (features, pattern) = (manifest.features.len(), manifest.pattern.clone());
    let packed = blocking(move || {
        let entries = order.into_iter().map(|(series, (s, at))| fleetscore_pack::Entry {
            series,
            ..shards[s as usize].entry(at as usize)
        });
        Ok(set::pack(features, &pattern, entries))
    });
    packed.await?.map_err(|e| damaged(row, e.to_string()))
}

fn name(shard: &Shard, row: usize) -> SeriesName {
    SeriesName::new(shard.device(row), shard.sensor(row))
}

/// One shard, checked against what the manifest says of it.
async fn shard(blobs: &Blobs, row: &ModelSetRow, part: Part) -> Result<Shard> {
    let bytes = file(blobs, row, &part.file.name).await?;
    let opened = blocking(move || Ok(open(&part, bytes)));
    opened.await?.map_err(|what| damaged(row, what))
}

fn open(part: &Part, bytes: Bytes) -> Result<Shard, String> {
    let SetFile { name, rows, .. } = &part.file;
    part.file.verify(&bytes).map_err(text)?;
    let shard = Shard::open(bytes).map_err(|e| format!("{name}: {e}"))?;
    let series = shard.series().first().copied().zip(shard.series().last().copied());
    if shard.len() as u64 != *rows || series != Some(part.series) {
        let found = shard.len();
        return Err(format!("{name} has {found} rows for other series than the {rows} recorded"));
    }
    Ok(shard)
}

/// Reads a set again, compares every checksum and scores its check rows, on all cores; as many shards are in memory as
/// there are cores.
///
/// # Errors
/// What keeps it from being read at all (services, a missing manifest); everything else is in the report.
pub async fn verify(blobs: &Blobs, row: &ModelSetRow) -> Result<VerifyReport> {
    let manifest = manifest(blobs, row).await?;
    let mut parts = futures::stream::iter(manifest.parts.clone())
        .map(|part| verify_part(blobs, row, part))
        .buffered(cores());
    let mut all = Verified::default();
    while let Some(found) = parts.next().await {
        let found = found?;
        all.scored += found.scored;
        all.models += found.models;
        all.refused += found.refused;
        all.problems.extend(found.problems);
    }
    drop(parts);
    let (models, refused) = (all.models, all.refused);
    if all.problems.is_empty() && (models, refused) != (row.models, row.refused) {
        all.problems.push(format!(
            "it has {models} models and {refused} refused ones, its row says {} and {}",
            row.models, row.refused
        ));
    }
    if all.problems.len() > PROBLEMS {
        let more = all.problems.len() - PROBLEMS;
        all.problems.truncate(PROBLEMS);
        all.problems.push(format!("and {more} more"));
    }
    Ok(VerifyReport { manifest, scored: all.scored, problems: all.problems })
}

/// What was found in one part.
#[derive(Default)]
struct Verified {
    scored: usize,
    models: i64,
    refused: i64,
    problems: Vec<String>,
}

async fn verify_part(blobs: &Blobs, row: &ModelSetRow, part: Part) -> Result<Verified> {
    let problem = |what: String| Verified { problems: vec![what], ..Verified::default() };
    let shard = match shard(blobs, row, part.clone()).await {
        Ok(shard) => shard,
        Err(ModelError::Damaged { what, .. }) => return Ok(problem(what)),
        Err(e) => return Err(e),
    };
    let checks = match &part.checks {
        None => None,
        Some(of) => match file(blobs, row, &of.name).await {
            Ok(bytes) => Some((of.clone(), bytes)),
            Err(ModelError::Damaged { what, .. }) => return Ok(problem(what)),
            Err(e) => return Err(e),
        },
    };
    blocking(move || {
        let refused = (0..shard.len()).filter(|row| shard.refused(*row).is_some()).count();
        let mut found = Verified {
            models: (shard.len() - refused) as i64,
            refused: refused as i64,
            ..Verified::default()
        };
        if let Some((of, bytes)) = checks {
            match score_checks(&shard, &of, bytes) {
                Ok((scored, problems)) => (found.scored, found.problems) = (scored, problems),
                Err(what) => found.problems.push(what),
            }
        }
        Ok(found)
    })
    .await
}

/// Scores check rows again: how many models there were, and which decisions differ.
fn score_checks(shard: &Shard, of: &SetFile, bytes: Bytes) -> Result<(usize, Vec<String>), String> {
    of.verify(&bytes).map_err(text)?;
    let checks = Checks::open(bytes).map_err(|e| format!("{}: {e}", of.name))?;
    let (columns, f) = (shard.columns(), shard.features());
    let outside = |at: &u32| shard.len() <= *at as usize;
    if checks.features() != f || checks.len() as u64 != of.rows || checks.entries().iter().any(outside) {
        return Err(format!("{} is not for the models of its part", of.name));
    }
    let (mut scored, mut last, mut problems) = (0, None, Vec::new());
    for start in (0..checks.len()).step_by(CHECKED_AT_ONCE) {
        let rows = start..(start + CHECKED_AT_ONCE).min(checks.len());
        let models = &checks.entries()[rows.clone()];
        let input = &checks.inputs()[rows.start * f..rows.end * f];
        let inputs: Vec<Vec<f64>> =
            (0..f).map(|k| input.iter().skip(k).step_by(f).copied().collect()).collect();
        let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
        let mut decisions = vec![0.0; rows.len()];
        columns.decisions(models, &inputs, &mut decisions);
        for (i, (at, found)) in models.iter().zip(decisions).enumerate() {
            let (at, wanted) = (*at as usize, checks.decisions()[start + i]);
            scored += usize::from(last != Some(at));
            last = Some(at);
            // The same machine gives the same bits; a newer kernel's exp may differ in the last one. A NaN differs.
            let near = (found - wanted).abs() <= 1e-12 * size(&columns, at).max(wanted.abs());
            if !near && problems.len() <= PROBLEMS {
                let x: Vec<f64> = inputs.iter().map(|c| c[i]).collect();
                let name = name(shard, at);
                problems.push(format!("{name}: scores {found} for {x:?}, recorded is {wanted}"));
            }
        }
    }
    Ok((scored, problems))
}

/// Σ|coef| + |ρ|: what a decision's rounding errors are in proportion to.
fn size(columns: &Columns<'_>, at: usize) -> f64 {
    let vectors = columns.offsets[at] as usize..columns.offsets[at + 1] as usize;
    columns.dual_coef[vectors].iter().map(|c| c.abs()).sum::<f64>() + columns.rho[at].abs()
}

/// The text of what is wrong with a file, whose name is in it.
fn text(e: PackError) -> String {
    match e {
        PackError::Damaged(what) => what,
        e => e.to_string(),
    }
}

pub(super) async fn file(blobs: &Blobs, row: &ModelSetRow, name: &str) -> Result<Bytes> {
    blobs.map(&format!("{}/{name}", row.path)).await.map_err(|e| match e {
        BlobError::NotFound { .. } => damaged(row, format!("{name} is missing")),
        e => e.into(),
    })
}

pub(super) fn damaged(row: &ModelSetRow, what: String) -> ModelError {
    ModelError::Damaged { version: row.version, path: row.path.clone(), what }
}
