//! Model sets: immutable, versioned bundles of one model per series.

use fleetscore_kernel::Model;
use fleetscore_schemas::{SeriesId, SeriesName};

/// One series' model in a set, or why there is none that works.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The series' id in the store.
    pub series: SeriesId,
    /// The series' name.
    pub name: SeriesName,
    /// The model's name, by default that of its file.
    pub model: String,
    /// The model, or why it was refused (its rows become `model_error`).
    pub outcome: Result<Model, String>,
    /// For a model of one feature: the intervals of values it calls normal, ascending.
    pub normal: Option<Vec<(f64, f64)>>,
}

/// A model set in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSet {
    /// Its version in the registry.
    pub version: i64,
    /// Ascending by series; at most one entry for each.
    pub entries: Vec<Entry>,
}
