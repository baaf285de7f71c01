//! Model sets: immutable, versioned bundles of one model per series.
//!
//! | module | does |
//! | --- | --- |
//! | `format` | models on their way into a set: collected, sorted, cut into shards |
//! | `registry` | adds sets |
//! | `open` | loads and verifies sets |
//! | `set` | a set in memory |
//! | `features` | whether a set fits schedules |
//! | `naming` | file names to series |
//! | [`import()`] | sets from files of models |
//! | [`train()`] | sets from stored windows or Parquet |

mod error;
mod features;
mod format;
mod import;
mod naming;
mod open;
mod registry;
mod set;
mod sources;
mod train;

pub use error::{ModelError, Result};
pub(crate) use features::{MEND, listed};
pub use features::{check_activation, misfit};
pub use fleetscore_pack::{Manifest, Part, SetFile, Shard};
pub use format::FORMAT;
pub(crate) use import::read_files;
pub use import::{ImportOptions, ImportReport, import};
pub use naming::{DEFAULT_PATTERN, Pattern};
pub use open::{VerifyReport, load, verify};
pub use registry::manifest;
pub use set::ModelSet;
pub use train::{
    ExportReport, Gamma, MAX_ITERATIONS, MAX_ROWS, Observer, Progress, Sampling, TrainOptions, TrainReport,
    export_training, train,
};

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

/// Ranges of values as text: `10.01 … 14.18`, several joined by `, `; `none` where no value is normal.
///
/// Bounds are rounded to five digits towards the inside, so that what the text calls normal is normal.
pub fn ranges_text(ranges: &[(f64, f64)]) -> String {
    let mut text = String::new();
    // A String takes whatever is written.
    let _ = crate::plan::write_ranges(&mut text, ranges.iter().copied());
    text
}

#[cfg(test)]
mod tests;
