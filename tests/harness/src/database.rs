//! Asks a store through its own stock client: `psql` or `sqlite3`. What users can see is what is tested.

use crate::Servers;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A store under test.
#[derive(Debug, Clone)]
pub enum Database {
    /// A database of the PostgreSQL server.
    Postgres {
        /// Its URL.
        url: String,
    },
    /// A SQLite file.
    Sqlite {
        /// Its path.
        file: PathBuf,
    },
}

impl Database {
    /// A new, empty PostgreSQL database.
    pub fn postgres(servers: &Servers) -> Self {
        Self::Postgres { url: servers.postgres().database() }
    }

    /// A SQLite file that does not exist yet.
    pub fn sqlite(servers: &Servers) -> Self {
        Self::Sqlite { file: servers.folder("sqlite").join("fleetscore.db") }
    }

    /// The setting `store`.
    pub fn setting(&self) -> String {
        match self {
            Self::Postgres { url } => url.clone(),
            Self::Sqlite { file } => format!("sqlite:{}", file.display()),
        }
    }

    /// Rows of a statement as text; NULL is empty.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let mut command = match self {
            Self::Postgres { url } => {
                let mut c = Command::new("psql");
                c.args(["-qX", "-v", "ON_ERROR_STOP=1", "--csv", "-t"]).arg(url).env("PGTZ", "UTC");
                c
            }
            Self::Sqlite { file } => {
                let mut c = Command::new("sqlite3");
                // By standard input: an argument may not begin with a comment.
                c.args(["-batch", "-bail", "-csv", "-cmd", ".timeout 10000", "-readonly"]).arg(file);
                c
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut input = child.stdin.take().expect("piped");
        input
            .write_all(sql.as_bytes())
            .and_then(|()| input.write_all(b"\n;\n"))
            .map_err(|e| e.to_string())?;
        drop(input);
        let out = child.wait_with_output().map_err(|e| e.to_string())?;
        if !out.status.success() {
            return Err(format!("{sql}: {}", String::from_utf8_lossy(&out.stderr)));
        }
        csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(&out.stdout[..])
            .records()
            .map(|r| r.map(|r| r.iter().map(str::to_owned).collect()).map_err(|e| e.to_string()))
            .collect()
    }

    /// The first cell of a statement as an integer.
    pub fn number(&self, sql: &str) -> Result<i64, String> {
        let rows = self.rows(sql)?;
        let cell = rows.first().and_then(|r| r.first()).ok_or_else(|| format!("{sql}: no row"))?;
        cell.parse().map_err(|e| format!("{sql}: `{cell}`: {e}"))
    }

    /// Waits until a statement's first cell is this number.
    pub fn wait_for(&self, sql: &str, wanted: i64, at_most: std::time::Duration) {
        crate::wait_until(&format!("{wanted} from `{sql}`"), at_most, || match self.number(sql)? {
            n if n == wanted => Ok(()),
            n => Err(format!("{n}")),
        });
    }

    /// An expression that prints a float with all its digits.
    pub fn exact(&self, column: &str) -> String {
        match self {
            Self::Postgres { .. } => format!("{column}::text"),
            Self::Sqlite { .. } => {
                format!("CASE WHEN {column} IS NULL THEN NULL ELSE printf('%!.17g', {column}) END")
            }
        }
    }

    /// An expression that prints a time as microseconds since the epoch.
    pub fn micros(&self, column: &str) -> String {
        match self {
            Self::Postgres { .. } => format!("(extract(epoch FROM {column}) * 1000000)::bigint"),
            Self::Sqlite { .. } => format!(
                "(CAST(strftime('%s', {column}) AS INTEGER) * 1000000 + CAST(substr({column}, 21, 6) AS INTEGER))"
            ),
        }
    }
}
