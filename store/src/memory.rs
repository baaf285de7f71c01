//! The store in memory.
/// The store in memory, for simulation and tests.
#[derive(Debug, Default)]
pub struct MemoryStore;
