//! The pack: a model set as Arrow columns, read without copying.
//!
//! A set is cut into shards; one shard is one Arrow IPC *file* of one record batch, uncompressed, its buffers aligned to
//! 64 bytes. Its columns are what [`fleetscore_kernel::Columns`] borrows, so a shard that is mapped into memory, or came
//! by one read, is scored where it lies. `docs/pack.md` describes the bytes.
//!
//! | module | does |
//! | --- | --- |
//! | `columns` | which columns a file has, once for writer and reader |
//! | `ipc` | the frame of a file: footer, messages, buffers, all bounds checked |
//! | `builder` | entries to the bytes of a shard |
//! | `shard` | bytes to a shard |
//! | `manifest` | what a set consists of |
//! | `checks` | rows of features with recorded decisions, in files of their own |

mod builder;
mod checks;
mod columns;
mod error;
mod ipc;
mod manifest;
mod pattern;
mod shard;

pub use builder::ShardBuilder;
pub use checks::{Checks, ChecksBuilder};
pub use error::PackError;
pub use manifest::{MAX_MANIFEST, Manifest, Part, SET_FORMAT, SetFile};
pub use shard::Shard;

/// Version of the layout of a shard and of a file of check vectors.
pub const FORMAT: u32 = 1;

/// Longest name of a device, sensor or model and longest pattern, in bytes.
pub const MAX_NAME: usize = 1024;

/// Longest reason for a refusal, in bytes; [`ShardBuilder::push`] cuts longer ones.
pub const MAX_REASON: usize = 16 << 10;

/// One series' model, or why it has none that works.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The series' id in the store that the set was made for.
    pub series: u32,
    /// The device's name.
    pub device: String,
    /// The sensor's name.
    pub sensor: String,
    /// The model's own name.
    pub model: String,
    /// The model, or why it was refused.
    pub outcome: Result<fleetscore_kernel::Model, String>,
    /// For a model of one feature: the intervals of values it calls normal, ascending.
    pub normal: Option<Vec<(f64, f64)>>,
    /// Number of rows it was trained on; 0 where that is not known.
    pub rows: u32,
}

#[cfg(test)]
mod tests;
