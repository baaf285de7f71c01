//! Model import and training, schedules, runs, outputs.

pub mod core;
pub mod models;
mod normal;
pub mod plan;
pub mod readiness;
