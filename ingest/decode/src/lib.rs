//! JSON readings to Arrow columns, with every bad record isolated.

mod decoder;
mod judge;
mod names;
mod number;
mod options;
mod record;
mod scan;
mod shape;
mod time;

pub use decoder::Decoder;
pub use options::{DecodeOptions, FieldNames, TsUnit};
