//! Model import and training, schedules, runs, outputs.

pub mod models;
