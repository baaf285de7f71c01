//! Figures of our own beside others' in the same run: what the benchmarks have in common. See README.md.
//!
//! A benchmark drives the built binary as a process, checks what it counted and decided against plain arithmetic, and
//! prints a [`report::Report`]. Only what was measured in one run is ever divided by one another.

pub mod activation;
pub mod bare;
pub mod child;
pub mod command;
pub mod fleet;
pub mod latency;
pub mod live;
pub mod million;
pub mod model_file;
pub mod outages;
pub mod report;
pub mod rescore;
pub mod server;
pub mod soak;
pub mod windows;
pub mod workers;

/// Why a benchmark could not be run, or what it found wrong: a sentence for the person who runs it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the steps of a benchmark return.
pub type Result<T> = std::result::Result<T, Failure>;
