//! `events`: what an operator should know: silences, stalls, and what came back.

use super::Context;
use super::views::{Row, limit, literal, select};
use crate::exit::{Done, Outcome};
use crate::{connect, output};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Of this schedule.
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// Of this kind: series_silent, series_back, fleet_silent, fleet_back, run_stalled, dead_letter_flood, dead_letter_flood_over …; may be repeated.
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// At most so many; 0 = all.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, context: &Context) -> Outcome {
    let store = connect::store(&context.config, &context.shutdown).await?;
    let rows = context.shutdown.unless(select(&*store, &statement(args))).await??;
    if args.json {
        output::print(&Value::from_iter(rows.iter().map(|r| as_json(&r))).to_string());
        return Ok(Done::All);
    }
    output::print(&output::table(&["at", "kind", "schedule", "detail"], rows.iter().map(|r| as_row(&r))));
    Ok(Done::All)
}

fn statement(args: &Args) -> String {
    let mut filters = Vec::new();
    filters.extend(args.schedule.as_deref().map(|s| format!("schedule = {}", literal(s))));
    if !args.kind.is_empty() {
        let kinds: Vec<String> = args.kind.iter().map(|k| literal(k)).collect();
        filters.push(format!("kind IN ({})", kinds.join(", ")));
    }
    let filter = if filters.is_empty() { String::new() } else { format!(" WHERE {}", filters.join(" AND ")) };
    format!(
        "SELECT id, at, kind, schedule, run_id, series, detail FROM events{filter} ORDER BY id DESC{}",
        limit(args.limit)
    )
}

fn as_row(r: &Row<'_>) -> Vec<String> {
    vec![
        output::time_or_dash(r.time("at")),
        r.text("kind").unwrap_or_default().to_owned(),
        r.text("schedule").unwrap_or("-").to_owned(),
        r.text("detail").unwrap_or_default().to_owned(),
    ]
}

fn as_json(r: &Row<'_>) -> Value {
    json!({
        "id": r.int("id"),
        "at": r.time_json("at"),
        "kind": r.text("kind"),
        "schedule": r.text("schedule"),
        "run_id": r.text("run_id"),
        "series": r.int("series"),
        "detail": r.text("detail"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::views::Rows;
    use super::*;
    use fleetscore_store::Cell;

    #[test]
    fn filters_become_conditions() {
        let args = |schedule: Option<&str>, kind: &[&str], limit| Args {
            schedule: schedule.map(str::to_owned),
            kind: kind.iter().map(|k| (*k).to_owned()).collect(),
            limit,
            json: false,
        };
        for (args, end) in [
            (args(None, &[], 0), "FROM events ORDER BY id DESC"),
            (args(Some("a"), &[], 5), "FROM events WHERE schedule = 'a' ORDER BY id DESC LIMIT 5"),
            (args(None, &["x", "y'"], 0), "FROM events WHERE kind IN ('x', 'y''') ORDER BY id DESC"),
            (
                args(Some("a"), &["x"], 1),
                "FROM events WHERE schedule = 'a' AND kind IN ('x') ORDER BY id DESC LIMIT 1",
            ),
        ] {
            let sql = statement(&args);
            assert!(sql.ends_with(end), "{sql}");
        }
    }

    #[test]
    fn an_event_is_shown_to_people_and_to_scripts() {
        let columns = ["id", "at", "kind", "schedule", "run_id", "series", "detail"];
        let cell = |text: &str| Cell::Text(text.to_owned());
        let cells = vec![
            Cell::Int(7),
            cell("2026-01-01T00:00:00.000000Z"),
            cell("fleet_silent"),
            Cell::Null,
            Cell::Null,
            Cell::Null,
            cell("nothing since"),
        ];
        let rows = Rows::of(&columns, vec![cells]);
        let row = rows.iter().next().unwrap();
        assert_eq!(as_row(&row), ["2026-01-01T00:00:00Z", "fleet_silent", "-", "nothing since"]);
        let value = as_json(&row);
        assert_eq!(
            (value["id"].as_i64(), value["at"].as_str()),
            (Some(7), Some("2026-01-01T00:00:00.000000Z"))
        );
        assert!(value["schedule"].is_null() && value["series"].is_null());
    }

    #[tokio::test]
    async fn the_statement_is_sql() {
        let (_folder, store) = super::super::views::empty().await;
        let args = Args { schedule: Some("it's".into()), kind: vec!["x".into()], limit: 3, json: false };
        assert_eq!(select(&*store, &statement(&args)).await.unwrap().iter().count(), 0);
    }
}
