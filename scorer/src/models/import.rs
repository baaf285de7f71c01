//! Model sets from scikit-learn pickles: all of them or, if asked, those that work.

use super::format::Stored;
use super::naming::Pattern;
use super::registry::{self, NewSet, blocking};
use super::sources::{self, Source};
use super::{DEFAULT_PATTERN, ModelError, Result};
use crate::blobs::Blobs;
use crate::pickle;
use fleetscore_kernel::Model;
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::window::Feature;
use fleetscore_store::Store;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;

/// Files that are read at once.
const READ_AHEAD: usize = 16;

/// What to import, and how.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Files, folders (followed downwards), or blob URLs of either.
    pub sources: Vec<String>,
    /// How file names are made of device and sensor, see [`Pattern`]; `.pkl`, `.pickle` and `.joblib` are dropped
    /// first.
    pub pattern: String,
    /// Keep files that cannot be read as entries that yield `model_error`, instead of refusing all.
    pub allow_partial: bool,
    /// Make the new set the active one.
    pub activate: bool,
    /// The window columns that the models take, in order.
    pub features: Vec<Feature>,
    /// The most series the store may have.
    pub max_series: u32,
    /// Who imports.
    pub created_by: String,
    /// Options for blob URLs among the sources, see [`Blobs::open`].
    pub blob_options: BTreeMap<String, String>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            sources: vec![],
            pattern: DEFAULT_PATTERN.into(),
            allow_partial: false,
            activate: true,
            features: vec![Feature::Mean],
            max_series: 2_000_000,
            created_by: String::new(),
            blob_options: BTreeMap::new(),
        }
    }
}

/// What became of an import.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportReport {
    /// Version of the new set.
    pub version: i64,
    /// Number of models that work.
    pub imported: usize,
    /// Files that were refused, with the reason (only with `allow_partial`).
    pub refused: Vec<(String, String)>,
    /// Files in folders whose names are not of the pattern.
    pub skipped: Vec<String>,
}

/// A file whose name says which series it is for.
struct Candidate {
    series: SeriesName,
    model: String,
    source: Source,
    outcome: std::result::Result<Model, String>,
}

/// Imports models as a new set. Nothing is written before all files are read and judged.
///
/// # Errors
/// [`ModelError::Refused`] with every file that cannot be imported (without `allow_partial`), or where none can;
/// then nothing is changed, and the active set stays the active one.
pub async fn import(store: &dyn Store, blobs: &Blobs, options: &ImportOptions) -> Result<ImportReport> {
    let pattern = Pattern::new(&options.pattern).map_err(ModelError::Usage)?;
    if options.features.is_empty() {
        return Err(ModelError::Usage("setting `features`: at least one is needed".into()));
    }
    let sources = sources::expand(&options.sources, &options.blob_options).await?;
    let (mut named, mut refused, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        match pattern.series(&source.file_name) {
            Some((series, model)) => named.push((series, model, source)),
            None if source.explicit => {
                refused.push((
                    source.path,
                    format!("has a name that is not of the pattern `{}`", options.pattern),
                ));
            }
            None => skipped.push(source.path),
        }
    }
    let candidates = read_all(named, &options.features).await?;
    let entries = one_a_series(candidates, &mut refused);
    let imported = entries.iter().filter(|e| e.outcome.is_ok()).count();
    if !refused.is_empty() && (imported == 0 || !options.allow_partial) {
        return Err(ModelError::Refused { refused });
    }
    if imported == 0 {
        let hint =
            format!("no file with a name like `{}` in {}", options.pattern, options.sources.join(", "));
        return Err(ModelError::Usage(format!("there is no model to import: {hint}")));
    }
    let new = NewSet {
        entries: blocking(move || {
            Ok(entries.into_iter().map(|e| Stored::new(e.series, e.model, e.outcome)).collect())
        })
        .await?,
        features: options.features.clone(),
        pattern: options.pattern.clone(),
        origin: "import",
        created_by: options.created_by.clone(),
        trained_on: None,
        max_series: options.max_series,
        activate: options.activate,
        ..NewSet::default()
    };
    let version = registry::add(store, blobs, new).await?;
    Ok(ImportReport { version, imported, refused, skipped })
}

async fn read_all(named: Vec<(SeriesName, String, Source)>, features: &[Feature]) -> Result<Vec<Candidate>> {
    let wanted = features.len();
    let names = features.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    futures::stream::iter(named)
        .map(|(series, model, source)| {
            let names = names.clone();
            async move {
                let outcome = match source.read().await? {
                    Ok(bytes) => {
                        blocking(move || Ok(pickle::read_model(&bytes).map_err(|e| e.to_string()))).await?
                    }
                    Err(reason) => Err(reason),
                };
                let outcome = outcome.and_then(|m| {
                    let takes = m.features;
                    if takes == wanted {
                        return Ok(m);
                    }
                    Err(format!("takes {takes} features, and {wanted} are given ({names})"))
                });
                Ok::<_, ModelError>(Candidate { series, model, source, outcome })
            }
        })
        .buffered(READ_AHEAD)
        .try_collect()
        .await
}

/// One entry for each series; several files for one are refused, all of them.
fn one_a_series(mut candidates: Vec<Candidate>, refused: &mut Vec<(String, String)>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| a.series.cmp(&b.series)); // stable: files stay in order
    let mut entries: Vec<Candidate> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        if let Some(last) = entries.last_mut().filter(|last| last.series == candidate.series) {
            let reason = |other: &str| format!("is for {}, and so is {other}", candidate.series);
            refused.push((candidate.source.path.clone(), reason(&last.source.path)));
            if last.outcome.is_ok() {
                refused.push((last.source.path.clone(), reason(&candidate.source.path)));
            }
            last.outcome = Err(format!("{} {}", candidate.source.path, reason(&last.source.path)));
            continue;
        }
        if let Err(reason) = &candidate.outcome {
            refused.push((candidate.source.path.clone(), reason.clone()));
        }
        entries.push(candidate);
    }
    entries
}
