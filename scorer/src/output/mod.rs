//! Publication of predictions to blob storage: one folder for each interval, three objects, each replaced whole.

pub mod csv;
pub mod parquet;
pub mod publish;
pub mod rows;
mod scratch;
pub(crate) mod sweep;
