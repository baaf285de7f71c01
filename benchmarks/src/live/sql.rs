//! A connection to PostgreSQL that is made anew after an outage.

use crate::Result;
use std::time::Duration;
use tokio_postgres::{Client, NoTls, Row};

/// How long a statement may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// One connection, for one thread.
pub struct Sql {
    url: String,
    runtime: tokio::runtime::Runtime,
    client: Option<Client>,
}

impl std::fmt::Debug for Sql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sql").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Sql {
    /// Not connected yet.
    ///
    /// # Errors
    /// There are no threads.
    pub fn new(url: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { url: url.to_owned(), runtime, client: None })
    }

    /// Rows of a statement.
    ///
    /// # Errors
    /// The server does not answer; the next call connects again.
    pub fn rows(&mut self, sql: &str) -> Result<Vec<Row>> {
        let Self { url, runtime, client } = self;
        let result = runtime.block_on(async {
            if client.as_ref().is_none_or(Client::is_closed) {
                let (new, connection) = tokio_postgres::connect(url, NoTls).await?;
                tokio::spawn(connection);
                // Compiling the view `predictions` takes longer than reading it.
                new.batch_execute("SET jit = off").await?;
                *client = Some(new);
            }
            let Some(client) = client.as_ref() else { return Ok(Vec::new()) };
            tokio::time::timeout(PATIENCE, client.query(sql, &[]))
                .await
                .map_err(|_| format!("no answer within {PATIENCE:?}: {sql}"))?
                .map_err(|e| format!("{sql}: {e}: {:?}", e.as_db_error()).into())
        });
        if result.is_err() {
            self.client = None;
        }
        result
    }

    /// The first cell, an integer.
    ///
    /// # Errors
    /// The server does not answer, or with no row.
    pub fn number(&mut self, sql: &str) -> Result<i64> {
        let rows = self.rows(sql)?;
        let row = rows.first().ok_or_else(|| format!("{sql}: no row"))?;
        Ok(row.try_get(0)?)
    }
}
