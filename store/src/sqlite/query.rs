//! A user's statement: one, and it only reads.

use super::connect::connect;
use crate::{Cell, QueryResult, Result, StoreError};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, InterruptHandle, OpenFlags};
use std::path::Path;

/// Interrupts the statement when the asker goes away.
struct Interrupt(InterruptHandle);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

pub(super) async fn query(path: &Path, sql: &str) -> Result<QueryResult> {
    let (path, sql) = (path.to_owned(), sql.to_owned());
    // A connection of its own, read-only twice over: what a statement may change in it is gone afterwards.
    let open = move || -> Result<Connection> {
        let conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.execute_batch("PRAGMA query_only = ON")?;
        Ok(conn)
    };
    let gone = |e: tokio::task::JoinError| StoreError::internal(format!("a query of SQLite ended: {e}"));
    let conn = tokio::task::spawn_blocking(open).await.map_err(gone)??;
    let _interrupt = Interrupt(conn.get_interrupt_handle());
    tokio::task::spawn_blocking(move || select(&conn, &sql)).await.map_err(gone)?
}

fn refused(message: impl std::fmt::Display) -> StoreError {
    StoreError::Query { message: message.to_string() }
}

fn select(conn: &Connection, sql: &str) -> Result<QueryResult> {
    // What else has columns and "only reads" by SQLite's count (PRAGMA, ATTACH) changes how the connection works.
    const READING: [&str; 4] = ["select", "with", "values", "explain"];
    let first = first_word(sql).to_ascii_lowercase();
    if !READING.contains(&first.as_str()) {
        return Err(refused(format!("only a statement that reads is allowed: {}", READING.join(", "))));
    }
    let mut statement = match conn.prepare(sql) {
        Err(rusqlite::Error::MultipleStatement) => return Err(refused("one statement at a time")),
        other => other.map_err(refused)?,
    };
    if !statement.readonly() || statement.column_count() == 0 {
        return Err(refused("only a statement that reads is allowed"));
    }
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut rows = statement.query([]).map_err(refused)?;
    let mut result = QueryResult { columns, rows: Vec::new() };
    while let Some(row) = rows.next().map_err(refused)? {
        let cells = (0..result.columns.len()).map(|i| row.get_ref(i).map(cell).map_err(refused));
        let cells = cells.collect::<Result<Vec<_>>>()?;
        result.rows.push(cells);
    }
    Ok(result)
}

/// The first word behind white space and comments.
fn first_word(sql: &str) -> &str {
    let mut rest = sql.trim_start();
    loop {
        rest = match (rest.strip_prefix("--"), rest.strip_prefix("/*")) {
            (Some(line), _) => line.split_once('\n').map_or("", |(_, rest)| rest),
            (_, Some(block)) => block.split_once("*/").map_or("", |(_, rest)| rest),
            _ => break,
        }
        .trim_start();
    }
    rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("")
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(i) => Cell::Int(i),
        ValueRef::Real(f) => Cell::Float(f),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cell::Text(text.to_owned()),
            Err(_) => Cell::Text(bytes.iter().map(|b| format!("{b:02x}")).collect()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::first_word;

    #[test]
    fn comments_do_not_hide_the_first_word() {
        for (sql, wanted) in [
            ("SELECT 1", "SELECT"),
            ("  \n\tselect(1)", "select"),
            ("-- a comment\nWITH x AS (SELECT 1) SELECT 1", "WITH"),
            ("/* a */ /* b */ -- c\n PRAGMA x", "PRAGMA"),
            ("-- only a comment", ""),
            ("/* open", ""),
            ("", ""),
            ("é", ""),
        ] {
            assert_eq!(first_word(sql), wanted, "{sql}");
        }
    }
}
