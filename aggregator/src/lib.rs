//! Readings become panes: event time, watermarks and checkpoints, on DataFusion.
//!
//! | module | decides or does |
//! | --- | --- |
//! | `core`, `events` | who owns what, which batch counts, when a checkpoint is due: pure, `step(event) -> actions` |
//! | `time` | quietness, closing panes, the floor of retention: pure |
//! | `judge`, `plan_expr` | what becomes of a batch's readings: filter, value, lateness, skew |
//! | `plan`, `udaf` | the checkpoint's query over what is pending |
//! | `service`, `tasks`, `claims` | the loop that does what the core says |
//! | `replay` | dead letters that are read again |
//!
//! The invariant all of it serves: deltas commute, and positions move in the transaction that merges them. So a crash, a
//! fence or a rebalance loses memory alone, and what was lost is read again.

mod claims;
mod clock;
mod core;
mod error;
mod events;
mod judge;
mod letters;
mod options;
mod plan;
mod plan_expr;
mod replay;
mod series;
mod service;
mod shared;
mod tasks;
mod time;
mod udaf;

#[cfg(test)]
mod test_source;
#[cfg(test)]
mod test_store;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::AggregatorError;
pub use options::{OnOffsetGap, Options};
pub use replay::{ReplayReport, replay_dead_letters};
pub use service::Service;
pub use shared::{Handle, PartitionSnapshot, Snapshot};
