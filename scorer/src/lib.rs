//! Model import and training, schedules, runs, outputs.

pub mod blobs;
pub mod models;
pub mod pickle;
