//! `schedules fires`: what was passed over and why, and fires that were made.

use super::super::Context;
use super::super::views::{Row, limit, literal, select};
use super::find;
use crate::exit::{Done, Outcome};
use crate::output;
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::Store;
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Of this schedule [default: all].
    name: Option<String>,
    /// Only what was not made.
    #[arg(long)]
    missed: bool,
    /// At most so many; 0 = all.
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

pub(super) async fn run(args: &Args, as_objects: bool, context: &Context, store: &dyn Store) -> Outcome {
    if let Some(name) = &args.name {
        find(name, store).await?;
    }
    let rows = context.shutdown.unless(select(store, &statement(args))).await??;
    if as_objects {
        output::print(&Value::from_iter(rows.iter().map(|r| as_json(&r))).to_string());
        return Ok(Done::All);
    }
    let headings = ["schedule", "what", "made", "recorded", "reason"];
    output::print(&output::table(&headings, rows.iter().map(|r| as_row(&r))));
    Ok(Done::All)
}

fn statement(args: &Args) -> String {
    let mut filters = Vec::new();
    filters.extend(args.name.as_deref().map(|name| format!("schedule = {}", literal(name))));
    filters.extend(args.missed.then(|| "reason IS NOT NULL".to_owned()));
    let filter = if filters.is_empty() { String::new() } else { format!(" WHERE {}", filters.join(" AND ")) };
    format!(
        "SELECT schedule, fire_at, last_fire_at, fires, made, reason, recorded_at, interval_start, interval_end \
         FROM fires{filter} ORDER BY recorded_at DESC, fire_at DESC, interval_start DESC{}",
        limit(args.limit)
    )
}

fn range(from: Option<Timestamp>, to: Option<Timestamp>) -> String {
    format!("{} .. {}", output::time_or_dash(from), output::time_or_dash(to))
}

/// A fire, several of them, or a range of intervals.
fn what(r: &Row<'_>) -> String {
    match (r.time("fire_at"), r.int("fires").unwrap_or(1)) {
        (Some(at), 1) => output::time(at),
        (Some(at), n) => format!("{n} fires, {}", range(Some(at), r.time("last_fire_at"))),
        (None, _) => format!("intervals {}", range(r.time("interval_start"), r.time("interval_end"))),
    }
}

fn as_row(r: &Row<'_>) -> Vec<String> {
    vec![
        r.text("schedule").unwrap_or_default().to_owned(),
        what(r),
        if r.flag("made") { "yes" } else { "no" }.to_owned(),
        output::time_or_dash(r.time("recorded_at")),
        r.text("reason").unwrap_or_default().to_owned(),
    ]
}

fn as_json(r: &Row<'_>) -> Value {
    json!({
        "schedule": r.text("schedule"),
        "fire_at": r.time_json("fire_at"),
        "last_fire_at": r.time_json("last_fire_at"),
        "fires": r.int("fires"),
        "made": r.flag("made"),
        "reason": r.text("reason"),
        "recorded_at": r.time_json("recorded_at"),
        "interval_start": r.time_json("interval_start"),
        "interval_end": r.time_json("interval_end"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::views::Rows;
    use super::*;
    use fleetscore_store::Cell;

    #[test]
    fn a_fire_several_of_them_and_a_range_are_told_apart() {
        let columns = [
            "schedule",
            "fire_at",
            "last_fire_at",
            "fires",
            "made",
            "reason",
            "recorded_at",
            "interval_start",
            "interval_end",
        ];
        let text = |t: &str| Cell::Text(t.to_owned());
        let at = |hour: u32| text(&format!("2026-01-01 {hour:02}:00:00+00"));
        let rows = Rows::of(
            &columns,
            vec![
                vec![
                    text("h"),
                    at(1),
                    at(1),
                    Cell::Int(1),
                    Cell::Bool(true),
                    Cell::Null,
                    at(1),
                    Cell::Null,
                    Cell::Null,
                ],
                vec![
                    text("h"),
                    at(2),
                    at(5),
                    Cell::Int(4),
                    Cell::Int(0),
                    text("paused"),
                    at(5),
                    Cell::Null,
                    Cell::Null,
                ],
                vec![
                    text("d"),
                    Cell::Null,
                    Cell::Null,
                    Cell::Null,
                    Cell::Int(0),
                    text("no data"),
                    at(9),
                    at(6),
                    at(8),
                ],
            ],
        );
        let got: Vec<Vec<String>> = rows.iter().map(|r| as_row(&r)).collect();
        assert_eq!(got[0], ["h", "2026-01-01T01:00:00Z", "yes", "2026-01-01T01:00:00Z", ""]);
        assert_eq!(got[1][1..3], ["4 fires, 2026-01-01T02:00:00Z .. 2026-01-01T05:00:00Z", "no"]);
        assert_eq!(got[2][1], "intervals 2026-01-01T06:00:00Z .. 2026-01-01T08:00:00Z");
        let values: Vec<Value> = rows.iter().map(|r| as_json(&r)).collect();
        assert_eq!((values[0]["made"].as_bool(), values[1]["made"].as_bool()), (Some(true), Some(false)));
        assert_eq!(values[1]["last_fire_at"], "2026-01-01T05:00:00.000000Z");
        assert!(values[2]["fire_at"].is_null());
    }

    #[test]
    fn filters_become_conditions() {
        let args = |name: Option<&str>, missed, limit| Args { name: name.map(str::to_owned), missed, limit };
        for (args, part) in [
            (args(None, false, 20), "FROM fires ORDER BY"),
            (args(Some("a"), false, 20), "FROM fires WHERE schedule = 'a' ORDER BY"),
            (args(Some("a"), true, 20), "WHERE schedule = 'a' AND reason IS NOT NULL ORDER BY"),
            (args(None, true, 7), "interval_start DESC LIMIT 7"),
        ] {
            let sql = statement(&args);
            assert!(sql.contains(part), "{sql}");
        }
        assert!(!statement(&args(None, false, 0)).contains("LIMIT"));
    }

    #[tokio::test]
    async fn the_statement_is_sql() {
        let (_folder, store) = super::super::super::views::empty().await;
        let args = Args { name: Some("it's".into()), missed: true, limit: 3 };
        assert_eq!(select(&*store, &statement(&args)).await.unwrap().iter().count(), 0);
    }
}
