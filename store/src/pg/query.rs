//! A person's statement: one, reading, in the server's own dialect.

use super::PgStore;
use crate::{Cell, QueryResult, Result, StoreError};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

pub(super) async fn query(store: &PgStore, sql: &str) -> Result<QueryResult> {
    // A connection of its own, closed afterwards: a statement may change its session (`set_config`, advisory locks).
    let client = store
        .connector
        .connect_once(&store.target)
        .await
        .map_err(|e| StoreError::Unavailable { message: super::error::words(&e) })?;
    client.batch_execute("SET default_transaction_read_only = on; BEGIN READ ONLY").await?;
    read(&client, sql).await
}

async fn read(client: &Client, sql: &str) -> Result<QueryResult> {
    // The server prepares one statement only: whoever gives two is told so, and nothing has run.
    let statement = client.prepare(sql).await.map_err(of_query)?;
    if statement.columns().is_empty() {
        return Err(StoreError::Query {
            message: "only one statement that reads: SELECT, WITH, VALUES, TABLE, SHOW, EXPLAIN".into(),
        });
    }
    if !statement.params().is_empty() {
        return Err(StoreError::Query {
            message: "the statement has parameters ($1), and there are no values".into(),
        });
    }
    let columns = statement.columns().iter().map(|c| c.name().to_owned()).collect();
    let types: Vec<Type> = statement.columns().iter().map(|c| c.type_().clone()).collect();
    let mut rows = Vec::new();
    // As text: the server's own form of every type, numbers with all their digits.
    for message in client.simple_query(sql).await.map_err(of_query)? {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push(cells(&row, &types)?);
        }
    }
    Ok(QueryResult { columns, rows })
}

fn cells(row: &SimpleQueryRow, types: &[Type]) -> Result<Vec<Cell>> {
    (0..row.len())
        .map(|i| {
            let text = row.try_get(i).map_err(StoreError::internal)?;
            Ok(text.map_or(Cell::Null, |text| cell(text, types.get(i))))
        })
        .collect()
}

fn cell(text: &str, t: Option<&Type>) -> Cell {
    let typed = match t {
        Some(&Type::BOOL) => Some(Cell::Bool(text == "t")),
        Some(&Type::INT2 | &Type::INT4 | &Type::INT8 | &Type::OID) => text.parse().ok().map(Cell::Int),
        Some(&Type::FLOAT8) => text.parse().ok().map(Cell::Float),
        // A float4 has its own shortest digits: read as a double they would look like more than there are.
        Some(&Type::FLOAT4) => text.parse().ok().map(Cell::Float),
        _ => None,
    };
    typed.unwrap_or_else(|| Cell::Text(text.to_owned()))
}

/// What the server says of a statement is for the person who wrote it; a lost connection is not.
fn of_query(e: tokio_postgres::Error) -> StoreError {
    let Some(db) = e.as_db_error() else { return e.into() };
    let mut message = db.message().to_owned();
    for (label, text) in [("DETAIL", db.detail()), ("HINT", db.hint())] {
        if let Some(text) = text {
            message.push_str(&format!("\n{label}: {text}"));
        }
    }
    if db.code().code().starts_with("57P0") {
        return StoreError::Unavailable { message };
    }
    StoreError::Query { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_the_columns_type() {
        for (text, t, want) in [
            ("t", Type::BOOL, Cell::Bool(true)),
            ("-5", Type::INT8, Cell::Int(-5)),
            ("0.1", Type::FLOAT8, Cell::Float(0.1)),
            ("Infinity", Type::FLOAT8, Cell::Float(f64::INFINITY)),
            ("12.50", Type::NUMERIC, Cell::Text("12.50".into())),
            ("2018-08-28 23:00:05+00", Type::TIMESTAMPTZ, Cell::Text("2018-08-28 23:00:05+00".into())),
        ] {
            assert_eq!(cell(text, Some(&t)), want);
        }
    }
}
