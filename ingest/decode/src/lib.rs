//! JSON readings to Arrow columns, with every bad record isolated.
//!
//! A [`Decoder`] takes messages of Kafka and gives a
//! [`ReadingBatch`](fleetscore_schemas::reading::ReadingBatch): columns of readings, and a dead letter for each record
//! that is none. Nothing vanishes: a message leaves at least one reading or one dead letter.
//!
#![doc = include_str!("../../../docs/readings.md")]
//!
//! # Bounds
//!
//! Beyond 10,000 dead letters in one batch their details are left out, and beyond 65,536 one
//! [`BadRecord`](fleetscore_schemas::reading::BadRecord) with a count stands for all of a message with the same code: what
//! decoding makes of a message is bounded by six times its size, and some megabytes.

mod decoder;
mod judge;
mod names;
mod number;
mod options;
mod record;
mod scan;
mod shape;
mod straight;
mod time;

#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use options::{DecodeOptions, FieldNames, TsUnit};
