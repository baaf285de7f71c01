//! The hot loops of aggregation, apart from DataFusion so that they are optimised in a debug build too.
//!
//! | module | does |
//! | --- | --- |
//! | [`slot`] | the partial aggregate of one group, as it lies in memory |
//! | [`accumulate`] | many of them, filled from columns by dense group index |
//! | [`admit`] | judges the readings of a batch in offset order and lays out the accepted ones as columns |

pub mod accumulate;
pub mod admit;
pub mod slot;

pub use accumulate::{Partials, state_fields, state_type};
pub use admit::{Admitted, Fate, Refusal, Rows, Rules, Tide, admit};
pub use slot::Slot;
