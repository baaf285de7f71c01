//! Event-time panes on DataFusion, watermarks, checkpoints.

mod clock;
mod error;
mod options;
mod plan;
mod plan_expr;
mod udaf;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::AggregatorError;
pub use options::{OnOffsetGap, Options};
