//! Model sets: immutable, versioned bundles of one model per series.
//!
//! | module | does |
//! | --- | --- |
//! | `format` | the files of a set: manifest and Parquet parts |
//! | `registry` | adds, loads and verifies sets |
//! | `naming` | file names to series |
//! | [`import()`] | sets from files of models |
//! | [`train()`] | sets from stored windows |

mod error;
mod format;
mod import;
mod naming;
mod registry;
mod sources;
mod train;

pub use error::{ModelError, Result};
pub use format::{FORMAT, Manifest, Part};
pub(crate) use import::read_files;
pub use import::{ImportOptions, ImportReport, import};
pub use naming::{DEFAULT_PATTERN, Pattern};
pub use registry::{VerifyReport, load, manifest, verify};
pub use train::{Gamma, MAX_ROWS, TrainOptions, TrainReport, train};

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
    pub outcome: std::result::Result<Model, String>,
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

/// Ranges of values as text: `10.01 … 14.18`, several joined by `, `; `none` where no value is normal.
///
/// Bounds are rounded to five digits towards the inside, so that what the text calls normal is normal.
pub fn ranges_text(ranges: &[(f64, f64)]) -> String {
    let side = |v: f64, up: bool| -> String {
        if v.is_infinite() {
            return if v > 0.0 { "∞" } else { "−∞" }.into();
        }
        let digits = 4 - if v == 0.0 { 0 } else { v.abs().log10().floor() as i32 };
        let unit = 10f64.powi(digits);
        let scaled = if up { (v * unit).ceil() } else { (v * unit).floor() };
        let rounded = scaled / unit;
        if rounded.is_finite() && (-12..=9).contains(&-digits) {
            format!("{rounded}")
        } else {
            format!("{v:e}")
        }
    };
    if ranges.is_empty() {
        return "none".into();
    }
    ranges
        .iter()
        .map(|(low, high)| {
            let (a, b) = (side(*low, true), side(*high, false));
            // A range narrower than the rounding: as it is.
            if low.is_finite() && high.is_finite() && a.parse::<f64>().ok() > b.parse::<f64>().ok() {
                return format!("{low} … {high}");
            }
            format!("{a} … {b}")
        })
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
