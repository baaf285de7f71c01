//! The store in SQLite.
/// The store in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore;
