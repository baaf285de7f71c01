//! Model sets from files of models: all of them or, if asked, those that work.

mod read;

use super::format::{Models, Stored};
use super::naming::is_name;
use super::registry::{self, NewSet};
use super::sources::{self, Listed};
use super::{DEFAULT_PATTERN, ModelError, Result};
use crate::blobs::Blobs;
use fleetscore_formats::Format;
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::window::Feature;
use fleetscore_store::{ModelFailure, Store};
use read::{Candidate, Expected, FromFile};
use std::collections::BTreeMap;

/// What to import, and how.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Files, folders (followed downwards), or blob URLs of either.
    pub sources: Vec<String>,
    /// Files that list such sources: one on each line, or CSV with the header `path,device,sensor`, which says what
    /// series a file is for. Paths are relative to the list's folder.
    pub lists: Vec<String>,
    /// How file names are made of device and sensor, see [`super::Pattern`]; the formats' endings are dropped first. What a
    /// file or a list says of itself goes before it.
    pub pattern: String,
    /// Keep models that are refused as entries that yield `model_error`, instead of refusing all.
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
            lists: vec![],
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
    /// What was refused, with the reason (only with `allow_partial`): files, and entries of a file of many as
    /// `path#entry`, counted from 1.
    pub refused: Vec<(String, String)>,
    /// Files in folders that are not models of any series, with the reason.
    pub skipped: Vec<(String, String)>,
    /// How many of the imported models came with float32 numbers.
    pub single_precision: usize,
    /// Number of imported models by the format of their file.
    pub formats: BTreeMap<Format, usize>,
}

/// Imports models as a new set. Nothing is written before all files are read and judged.
///
/// # Errors
/// [`ModelError::Refused`] with everything that cannot be imported (without `allow_partial`), or where nothing can; then
/// nothing is changed, and the active set stays the active one.
pub async fn import(store: &dyn Store, blobs: &Blobs, options: &ImportOptions) -> Result<ImportReport> {
    let expected = Expected::new(&options.pattern, &options.features)?;
    if options.features.is_empty() {
        return Err(ModelError::Usage("setting `features`: at least one is needed".into()));
    }
    let mut listed: Vec<Listed> = sources::expand(&options.sources, &options.blob_options)
        .await?
        .into_iter()
        .map(|source| Listed { source, series: None })
        .collect();
    for list in &options.lists {
        listed.extend(sources::expand_list(list, &options.blob_options).await?);
    }
    let files = read::read_all(listed, expected).await?;
    let (entries, mut report) = one_a_series(files);
    let imported = report.imported;
    if !report.refused.is_empty() && (imported == 0 || !options.allow_partial) {
        return Err(ModelError::Refused { refused: report.refused });
    }
    if imported == 0 {
        let named: Vec<&str> = options.sources.iter().chain(&options.lists).map(String::as_str).collect();
        let hint = format!("no file with a name like `{}` in {}", options.pattern, named.join(", "));
        return Err(ModelError::Usage(format!("there is no model to import: {hint}")));
    }
    let failure = |(source, reason): &(String, String)| ModelFailure {
        series: None,
        source: source.clone(),
        reason: reason.clone(),
    };
    let new = NewSet {
        entries: entries.into(),
        failures: report.refused.iter().map(failure).collect(),
        features: options.features.clone(),
        pattern: options.pattern.clone(),
        origin: "import",
        created_by: options.created_by.clone(),
        trained_on: None,
        max_series: options.max_series,
        activate: options.activate,
        ..NewSet::default()
    };
    report.version = registry::add(store, blobs, new).await?;
    Ok(report)
}

/// What the files of these sources give, by the rules of [`import()`], in order: not yet one model a series.
pub(crate) async fn read_files(
    paths: &[String],
    pattern: &str,
    features: &[Feature],
) -> Result<Vec<FromFile>> {
    let expected = Expected::new(pattern, features)?;
    let sources = sources::expand(paths, &BTreeMap::new()).await?;
    read::read_all(sources.into_iter().map(|source| Listed { source, series: None }).collect(), expected)
        .await
}

/// One entry for each series, in their order; several models for one are refused, all of them.
fn one_a_series(files: Vec<FromFile>) -> (Models, ImportReport) {
    let mut report = ImportReport {
        version: 0,
        imported: 0,
        refused: vec![],
        skipped: vec![],
        single_precision: 0,
        formats: BTreeMap::new(),
    };
    let mut candidates: Vec<(usize, Candidate)> =
        Vec::with_capacity(files.iter().map(|f| f.candidates.len()).sum());
    let mut places: Vec<(String, Option<Format>)> = Vec::with_capacity(files.len());
    for (i, file) in files.into_iter().enumerate() {
        report.refused.extend(file.refused);
        report.skipped.extend(file.skipped);
        candidates.extend(file.candidates.into_iter().map(|c| (i, c)));
        places.push((file.path, file.format));
    }
    // Stable: files stay in order, and so do their entries.
    candidates.sort_by(|a, b| a.1.stored.name.cmp(&b.1.stored.name));
    let place = |(file, candidate): &(usize, Candidate)| candidate.place(&places[*file].0);
    let mut entries = Models::default();
    let mut rest = candidates.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut twice = Vec::new();
        while let Some(next) = rest.next_if(|next| next.1.stored.name == first.1.stored.name) {
            twice.push(next);
        }
        if let Some(second) = twice.first() {
            let name = first.1.stored.name.clone();
            let reason = |other: &(usize, Candidate)| format!("is for {name}, and so is {}", place(other));
            let why = format!("{} {}", place(&first), reason(second));
            report.refused.push((place(&first), reason(second)));
            report.refused.extend(twice.iter().map(|one| (place(one), reason(&first))));
            entries.push(Stored::new(name, first.1.stored.model, Err(why)));
            continue;
        }
        match &first.1.stored.outcome {
            Err(reason) => report.refused.push((place(&first), reason.clone())),
            Ok(_) => {
                report.imported += 1;
                report.single_precision += usize::from(first.1.single_precision);
                if let Some(format) = places[first.0].1 {
                    *report.formats.entry(format).or_default() += 1;
                }
            }
        }
        entries.push(first.1.stored);
    }
    (entries, report)
}

/// A series' name out of a file or list, if it can be one.
pub(super) fn series_name(device: &str, sensor: &str) -> std::result::Result<SeriesName, String> {
    for (what, name) in [("device", device), ("sensor", sensor)] {
        if !is_name(name) {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
            return Err(format!(
                "`{shown}` is no name of a {what}: 1 to 256 bytes without control characters"
            ));
        }
    }
    Ok(SeriesName::new(device, sensor))
}
