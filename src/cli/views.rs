//! Rows of the views that users query, for commands that show the same: one SQL for PostgreSQL and SQLite.

use crate::exit::Fail;
use chrono::{DateTime, Utc};
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{Cell, QueryResult, Store};
use serde_json::{Value, json};

/// What a statement gave.
#[derive(Debug)]
pub(super) struct Rows(QueryResult);

/// One row, its cells by the names of columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    columns: &'a [String],
    cells: &'a [Cell],
}

/// One statement over the views.
///
/// # Errors
/// What the store says; the one in memory has no SQL.
pub(super) async fn select(store: &dyn Store, sql: &str) -> Result<Rows, Fail> {
    Ok(Rows(store.query(sql).await?))
}

/// A text as a literal of SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The end of a statement that gives at most so many rows; 0 = all.
pub(super) fn limit(rows: usize) -> String {
    if rows == 0 { String::new() } else { format!(" LIMIT {rows}") }
}

impl Rows {
    pub(super) fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.0.rows.iter().map(|cells| Row { columns: &self.0.columns, cells })
    }

    #[cfg(test)]
    pub(super) fn of(columns: &[&str], rows: Vec<Vec<Cell>>) -> Self {
        Self(QueryResult { columns: columns.iter().map(|c| (*c).to_owned()).collect(), rows })
    }
}

impl<'a> Row<'a> {
    fn cell(&self, column: &str) -> &'a Cell {
        let at = self.columns.iter().position(|c| c == column);
        at.and_then(|i| self.cells.get(i)).unwrap_or(&Cell::Null)
    }

    pub(super) fn text(&self, column: &str) -> Option<&'a str> {
        match self.cell(column) {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, column: &str) -> Option<i64> {
        match self.cell(column) {
            Cell::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// SQLite has numbers for truth.
    pub(super) fn flag(&self, column: &str) -> bool {
        matches!(self.cell(column), Cell::Bool(true) | Cell::Int(1))
    }

    pub(super) fn time(&self, column: &str) -> Option<Timestamp> {
        self.text(column).and_then(time)
    }

    /// A time as all commands give it to scripts.
    pub(super) fn time_json(&self, column: &str) -> Value {
        json!(self.time(column).map(Timestamp::to_rfc3339))
    }
}

/// RFC 3339 as SQLite holds it, or PostgreSQL's `2026-01-01 00:00:00.5+00`.
fn time(text: &str) -> Option<Timestamp> {
    let parsed = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"));
    parsed.ok().map(|t| t.with_timezone(&Utc).into())
}

/// A SQLite store without any rows, and the folder it is in.
#[cfg(test)]
pub(super) async fn empty() -> (tempfile::TempDir, std::sync::Arc<dyn Store>) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("a.db").display());
    let store = fleetscore_store::open(&url, &fleetscore_store::StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    (folder, store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_statements_of_the_documentation_are_sql() {
        let (_folder, store) = empty().await;
        let pages = [include_str!("../../docs/schedules.md"), include_str!("../../README.md")];
        let blocks = pages.iter().flat_map(|page| page.split("```sql\n").skip(1));
        let statements: Vec<&str> = blocks
            .filter_map(|block| block.split("```").next())
            .flat_map(|block| block.split(';').map(str::trim).filter(|s| !s.is_empty()))
            .collect();
        assert!(statements.len() > 10, "{statements:?}");
        for statement in statements {
            select(&*store, statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
    }

    #[test]
    fn times_of_both_databases_are_the_same() {
        let t = Timestamp(1_767_225_600_500_000);
        for text in ["2026-01-01T00:00:00.500000Z", "2026-01-01 00:00:00.5+00", "2026-01-01 05:30:00.5+05:30"]
        {
            assert_eq!(time(text), Some(t), "{text}");
        }
        assert_eq!(time("2026-01-01 00:00:00+00"), Some(Timestamp(1_767_225_600_000_000)));
        assert_eq!(time("infinity"), None);
    }

    #[test]
    fn cells_are_found_by_name_and_what_is_missing_is_nothing() {
        let rows = Rows::of(
            &["a", "made"],
            vec![vec![Cell::Int(3), Cell::Int(1)], vec![Cell::Null, Cell::Bool(true)]],
        );
        let rows: Vec<Row<'_>> = rows.iter().collect();
        assert_eq!((rows[0].int("a"), rows[0].flag("made"), rows[0].text("a")), (Some(3), true, None));
        assert_eq!((rows[1].int("a"), rows[1].flag("made"), rows[1].int("b")), (None, true, None));
    }

    #[test]
    fn a_quote_in_a_name_stays_in_the_name() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!((limit(0), limit(5)), (String::new(), " LIMIT 5".to_owned()));
    }
}
