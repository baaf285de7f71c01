//! What must come out: an independent computation of windows, dead letters and predictions, and a seeded fleet to
//! compute it for.
//!
//! Nothing here imports anything of ours, so that it cannot repeat our mistakes. [`fleet`] writes messages and knows,
//! because it wrote them, which readings each holds and which records must be refused; [`expect`] says what of that a
//! store must show in the end. Everything is plain: rows, two passes, no merging.

mod compare;
pub mod expect;
pub mod fleet;
mod model;
mod windows;

pub use compare::Sums;
pub use model::{ModelNumbers, Prediction, model_lines, predictions, reference_numbers};
pub use windows::{Edges, Key, Reading, Window, windows};
