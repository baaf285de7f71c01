//! Model import and training, schedules, runs, outputs.
//!
//! | module | decides or does |
//! | --- | --- |
//! | [`readiness`] | when an interval is ready (pure) |
//! | [`core`] | which runs are opened, which ranges are skipped (pure) |
//! | [`plan`] | scoring: windows joined with models, one function over columns |
//! | [`service`] | plans, scores and publishes for as long as the process lives |
//! | [`range`] | scores a range of intervals once and ends |
//! | [`diff`] | compares two model sets over a range of intervals |
//! | [`output`] | publication to blob storage |
//! | [`predict`] | scores rows of a file with models of files |
//! | [`models`], [`blobs`] | model sets and where they lie |

mod backoff;
pub mod blobs;
pub mod core;
pub mod diff;
pub mod error;
pub mod models;
pub mod output;
pub mod plan;
mod planner;
pub mod predict;
pub mod range;
pub mod readiness;
pub mod service;
mod sets;
#[cfg(test)]
mod testing;
mod worker;

pub use error::ScorerError;
