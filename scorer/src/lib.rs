//! Model import and training, schedules, runs, outputs.
//!
//! | module | decides or does |
//! | --- | --- |
//! | [`readiness`] | when an interval is ready (pure) |
//! | [`core`] | which runs are opened, which ranges are skipped, which fires are made (pure) |
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
mod filters;
mod janitor;
mod leases;
pub mod meter;
pub mod models;
mod outages;
pub mod output;
pub mod plan;
mod planner;
pub mod predict;
mod prepare;
pub mod range;
pub mod readiness;
mod runlog;
pub mod service;
mod sets;
mod shards;
#[cfg(test)]
mod testing;
mod worker;

pub use error::ScorerError;
pub use planner::resume;
