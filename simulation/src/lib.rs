//! The aggregator's own loop under every fault, on a clock that stands still while anything can be done. One seed decides
//! the readings, the faults and the order of everything that happens; the same seed is the same course of events.
//!
//! Real are the service with its core, the decoder, and a store that passes the conformance suite. Simulated are time, the
//! broker with its group, and the network to the store.
//!
//! | module | is |
//! | --- | --- |
//! | `scenario` | what a seed decides |
//! | `world`, `log` | what all share: the topic, its group, the store, the order of events |
//! | `process`, `source`, `store` | one process: its life, its consumer, its connection to the store |
//! | `time` | the clock, and when it moves on |
//! | `run` | the course of events |
//! | `expected` | what the store must hold at its positions, by the oracle |
//! | `mutants` | mistakes made on purpose, each of which must be found |

pub mod mutants;

mod expected;
mod log;
mod process;
mod run;
mod scenario;
mod source;
mod store;
mod time;
mod world;

pub use process::SimClock;
pub use run::{Course, Parts, simulate};
