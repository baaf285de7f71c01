//! Model sets from files of models: all of them or, if asked, those that work.

mod budget;
mod read;

use super::features::{check_activation, names};
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
use read::{Candidates, Expected, FromFile};
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImportReport {
    /// Version of the new set.
    pub version: i64,
    /// Number of models that work.
    pub imported: usize,
    /// What was refused, with the reason (only with `allow_partial`): files, and entries of a file of many as
    /// `path#entry`, counted from 1.
    pub refused: Vec<(String, String)>,
    /// Files in folders that are plainly no models, hidden ones, and files that were named twice, with the reason.
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
    let expected = Expected::new(&options.pattern, &options.features, options.max_series as usize)?;
    if options.features.is_empty() {
        return Err(ModelError::Usage("setting `features`: at least one is needed".into()));
    }
    if options.activate {
        // Before anything is read.
        check_activation(store, &names(&options.features)).await?;
    }
    let mut listed: Vec<Listed> = sources::expand(&options.sources, &options.blob_options)
        .await?
        .into_iter()
        .map(|source| Listed { source, series: None })
        .collect();
    for list in &options.lists {
        listed.extend(sources::expand_list(list, &options.blob_options).await?);
    }
    let mut all = All::default();
    read::read_all(listed, expected.clone(), |file| all.add(file, &expected)).await?;
    let (entries, mut report, of) = all.one_a_series();
    let imported = report.imported;
    if !report.refused.is_empty() && (imported == 0 || !options.allow_partial) {
        return Err(ModelError::Refused { refused: report.refused, skipped: report.skipped });
    }
    if imported == 0 {
        let named: Vec<&str> = options.sources.iter().chain(&options.lists).map(String::as_str).collect();
        let hint = format!("no file with a name like `{}` in {}", options.pattern, named.join(", "));
        return Err(ModelError::Usage(format!("there is no model to import: {hint}")));
    }
    let failure = |((source, reason), series): (&(String, String), &Option<SeriesName>)| ModelFailure {
        series: series.clone(),
        source: source.clone(),
        reason: reason.clone(),
    };
    let new = NewSet {
        entries,
        failures: report.refused.iter().zip(&of).map(failure).collect(),
        features: options.features.clone(),
        pattern: options.pattern.clone(),
        origin: "import",
        created_by: options.created_by.clone(),
        trained_on: None,
        max_series: options.max_series,
        activate: options.activate,
        ..NewSet::default()
    };
    report.version = registry::add(store, blobs, new, std::future::ready(Ok(()))).await?;
    Ok(report)
}

/// What the files of these sources give, by the rules of [`import()`], in order: not yet one model a series.
pub(crate) async fn read_files(
    paths: &[String],
    pattern: &str,
    features: &[Feature],
) -> Result<Vec<FromFile>> {
    let expected = Expected::new(pattern, features, usize::MAX)?;
    let sources = sources::expand(paths, &BTreeMap::new()).await?;
    let listed = sources.into_iter().map(|source| Listed { source, series: None }).collect();
    let mut files = Vec::new();
    let add = |file| {
        files.push(file);
        Ok(())
    };
    read::read_all(listed, expected, add).await?;
    Ok(files)
}

/// What all files gave.
#[derive(Default)]
struct All {
    candidates: Candidates,
    /// The file of each candidate.
    files: Vec<u32>,
    paths: Vec<(String, Option<Format>)>,
    refused: Vec<(String, String)>,
    skipped: Vec<(String, String)>,
}

impl All {
    fn add(&mut self, file: FromFile, expected: &Expected) -> Result<()> {
        let at = self.paths.len() as u32;
        self.refused.extend(file.refused);
        self.skipped.extend(file.skipped);
        let count = file.candidates.len();
        if self.files.len() + count > expected.max_models {
            return Err(expected.too_many());
        }
        self.files.resize(self.files.len() + count, at);
        if self.candidates.len() == 0 {
            self.candidates = file.candidates;
        } else {
            file.candidates.iter().for_each(|one| self.candidates.push(one));
        }
        self.paths.push((file.path, file.format));
        Ok(())
    }

    /// Where a candidate stands.
    fn place(&self, i: u32) -> String {
        let path = &self.paths[self.files[i as usize] as usize].0;
        match self.candidates.places[i as usize].0 {
            0 => path.clone(),
            entry => format!("{path}#{entry}"),
        }
    }

    /// One entry for each series; several models for one are refused, all of them. Beside it, the series of everything that
    /// is refused, where it has one.
    fn one_a_series(mut self) -> (Models, ImportReport, Vec<Option<SeriesName>>) {
        let mut report = ImportReport {
            version: 0,
            imported: 0,
            refused: std::mem::take(&mut self.refused),
            skipped: std::mem::take(&mut self.skipped),
            single_precision: 0,
            formats: BTreeMap::new(),
        };
        let mut of = vec![None; report.refused.len()];
        let models = &self.candidates.models;
        let mut order: Vec<u32> = (0..models.len() as u32).collect();
        // Stable: files stay in order, and so do their entries.
        order.sort_by_key(|i| models.key(*i as usize));
        let mut twice: BTreeMap<u32, Option<String>> = BTreeMap::new();
        for same in order.chunk_by(|a, b| models.key(*a as usize) == models.key(*b as usize)) {
            let first = same[0];
            if let Some(second) = same.get(1) {
                let name = models.name(first as usize);
                let reason = |other: u32| format!("is for {name}, and so is {}", self.place(other));
                twice.insert(first, Some(format!("{} {}", self.place(first), reason(*second))));
                report.refused.push((self.place(first), reason(*second)));
                for one in &same[1..] {
                    twice.insert(*one, None);
                    report.refused.push((self.place(*one), reason(first)));
                }
                of.resize(report.refused.len(), Some(name));
            } else if let Some(reason) = models.refusal(first as usize) {
                report.refused.push((self.place(first), reason.to_owned()));
                of.push(Some(models.name(first as usize)));
            } else {
                report.imported += 1;
                report.single_precision += usize::from(self.candidates.places[first as usize].1);
                if let Some(format) = self.paths[self.files[first as usize] as usize].1 {
                    *report.formats.entry(format).or_default() += 1;
                }
            }
        }
        if twice.is_empty() {
            return (self.candidates.models, report, of);
        }
        let mut entries = Models::default();
        for i in 0..models.len() {
            match twice.get(&(i as u32)) {
                None => entries.push(models.stored(i)),
                Some(None) => {}
                Some(Some(why)) => {
                    let name = models.stored(i).model;
                    entries.push(Stored::new(models.name(i), name, Err(why.clone())));
                }
            }
        }
        (entries, report, of)
    }
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
