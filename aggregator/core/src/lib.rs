//! Readings become panes: event time, watermarks and checkpoints. All of it but what DataFusion computes, which stands
//! behind [`Engine`]; so it builds in a minute, and the simulation runs the loop of the product a thousand times a second.
//!
//! | module | decides or does |
//! | --- | --- |
//! | `core`, `events` | who owns what, which batch counts, when a checkpoint is due: pure, `step(event) -> actions` |
//! | `time` | quietness, closing panes, the floor of retention: pure |
//! | `judge`, `letters` | what becomes of a batch's readings: filter, value, lateness, skew, dead letters |
//! | `engine`, `pending` | what has passed since the last checkpoint, and what is computed from it |
//! | `service`, `tasks`, `claims` | the loop that does what the core says |
//! | `replay` | dead letters that are read again |
//!
//! The invariant all of it serves: deltas commute, and positions move in the transaction that merges them. So a crash, a
//! fence or a rebalance loses memory alone, and what was lost is read again.

mod claims;
mod clock;
mod core;
mod engine;
mod error;
mod events;
mod judge;
mod letters;
mod options;
mod pending;
mod replay;
mod series;
mod service;
mod shared;
mod tasks;
mod time;

pub use clock::{Clock, ManualClock, Sleep, SystemClock};
pub use engine::{Engine, Evaluated, PlainEngine};
pub use error::AggregatorError;
pub use options::{OnOffsetGap, Options};
pub use pending::{Groups, Pending};
pub use replay::{ReplayReport, replay_dead_letters};
pub use series::SeriesNames;
pub use service::Service;
pub use shared::{Handle, PartitionSnapshot, Snapshot};
