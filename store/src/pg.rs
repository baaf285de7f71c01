//! The store in PostgreSQL.
/// The store in PostgreSQL.
#[derive(Debug)]
pub struct PgStore;
