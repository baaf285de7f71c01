//! `roster`: who should have sent and did not, and who sends and has no model.

use super::Context;
use super::schedules::of_names;
use super::views::{Row, Rows, limit, literal, select};
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, output};
use fleetscore_schemas::status::{PredictionStatus, RunState};
use fleetscore_schemas::time::Interval;
use fleetscore_store::{RunFilter, Store};
use serde_json::{Value, json};

/// Series that are listed on a terminal.
const ROWS: usize = 50;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Of this schedule [default: all].
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// List the series that have a model and were silent.
    #[arg(long)]
    silent: bool,
    /// List the series that sent and have no model.
    #[arg(long)]
    unmodelled: bool,
    /// At most so many series of a list; 0 = all [default: 50 on a terminal, else all].
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One schedule's newest interval, by what became of its series.
#[derive(Debug, Default)]
struct Roster {
    schedule: String,
    /// `None` before the first was scored.
    interval: Option<Interval>,
    counts: Vec<(PredictionStatus, i64)>,
    silent: Option<Vec<Entry>>,
    unmodelled: Option<Vec<Entry>>,
}

/// A series of a list.
#[derive(Debug, PartialEq)]
struct Entry {
    device: String,
    sensor: String,
    /// When its silence began, as the roster knows it.
    since: Option<fleetscore_schemas::time::Timestamp>,
    /// Whether the silence was long enough for an event.
    noticed: bool,
}

pub(super) async fn run(args: &Args, context: &Context) -> Outcome {
    let store = connect::store(&context.config, &context.shutdown).await?;
    let mut names: Vec<String> = store.schedules().await?.into_iter().map(|s| s.spec.name).collect();
    if let Some(wanted) = &args.schedule {
        if !names.contains(wanted) {
            return Err(Fail::user(of_names(wanted, &names)));
        }
        names.retain(|n| n == wanted);
    }
    let mut rosters = Vec::new();
    for name in names {
        rosters.push(context.shutdown.unless(roster(name, args, &*store)).await??);
    }
    if args.json {
        output::print(&Value::from_iter(rosters.iter().map(as_json)).to_string());
        return Ok(Done::All);
    }
    let headings = ["schedule", "interval", "scored", "no_data", "no_model", "model_error", "input_invalid"];
    output::print(&output::table(&headings, rosters.iter().map(as_row)));
    for roster in &rosters {
        list(roster, "silent", roster.silent.as_deref());
        list(roster, "without a model", roster.unmodelled.as_deref());
    }
    Ok(Done::All)
}

fn list(roster: &Roster, what: &str, entries: Option<&[Entry]>) {
    let Some(entries) = entries else { return };
    output::print(&format!("\n{}, {what}: {}", roster.schedule, entries.len()));
    if !entries.is_empty() {
        output::print(&output::table(&["series", "silent since", ""], entries.iter().map(entry_row)));
    }
}

async fn roster(schedule: String, args: &Args, store: &dyn Store) -> Result<Roster, Fail> {
    let filter = RunFilter {
        schedule: Some(schedule.clone()),
        states: vec![RunState::Succeeded, RunState::Partial],
        limit: 1,
        ..RunFilter::default()
    };
    let newest = store.runs(&filter).await?.pop();
    let Some(interval) = newest.map(|run| run.interval) else {
        return Ok(Roster { schedule, ..Roster::default() });
    };
    let counts = counts(&select(store, &count_statement(&schedule, interval)).await?);
    let rows = output::limit(args.limit, ROWS);
    let mut roster = Roster { schedule, interval: Some(interval), counts, ..Roster::default() };
    for (asked, status, list) in [
        (args.silent, PredictionStatus::NoData, &mut roster.silent),
        (args.unmodelled, PredictionStatus::NoModel, &mut roster.unmodelled),
    ] {
        if asked {
            let sql = list_statement(&roster.schedule, interval, status, rows);
            *list = Some(select(store, &sql).await?.iter().map(|r| entry(&r)).collect());
        }
    }
    Ok(roster)
}

fn count_statement(schedule: &str, interval: Interval) -> String {
    format!(
        "SELECT status, count(*) AS series FROM predictions WHERE {} GROUP BY status",
        of(schedule, interval)
    )
}

fn of(schedule: &str, interval: Interval) -> String {
    let start = literal(&interval.start.to_rfc3339());
    format!("schedule = {} AND window_start = {start}", literal(schedule))
}

fn list_statement(schedule: &str, interval: Interval, status: PredictionStatus, rows: usize) -> String {
    let of = of(schedule, interval);
    let rows = limit(if rows == usize::MAX { 0 } else { rows });
    format!(
        "SELECT p.device, p.sensor, s.since, s.noticed_at FROM (SELECT schedule, device, sensor FROM predictions \
         WHERE {of} AND status = {} ORDER BY device, sensor{rows}) p \
         LEFT JOIN silences s ON s.schedule = p.schedule AND s.device = p.device AND s.sensor = p.sensor \
         AND s.ended_at IS NULL ORDER BY p.device, p.sensor",
        literal(status.as_str())
    )
}

fn counts(rows: &Rows) -> Vec<(PredictionStatus, i64)> {
    let of = |status: PredictionStatus| {
        let row = rows.iter().find(|r| r.text("status") == Some(status.as_str()));
        (status, row.and_then(|r| r.int("series")).unwrap_or(0))
    };
    PredictionStatus::ALL.iter().map(|s| of(*s)).collect()
}

fn entry(r: &Row<'_>) -> Entry {
    let text = |column: &str| r.text(column).unwrap_or_default().to_owned();
    Entry {
        device: text("device"),
        sensor: text("sensor"),
        since: r.time("since"),
        noticed: r.time("noticed_at").is_some(),
    }
}

fn entry_row(e: &Entry) -> Vec<String> {
    let noticed = if e.noticed { "longer than `silence`" } else { "" };
    vec![format!("{}/{}", e.device, e.sensor), output::time_or_dash(e.since), noticed.to_owned()]
}

fn as_row(r: &Roster) -> Vec<String> {
    let mut row = vec![r.schedule.clone(), output::time_or_dash(r.interval.map(|i| i.start))];
    let count = |status: &PredictionStatus| r.counts.iter().find(|(s, _)| s == status).map(|(_, n)| *n);
    row.extend(PredictionStatus::ALL.iter().map(|s| count(s).map_or("-".to_owned(), |n| n.to_string())));
    row
}

fn as_json(r: &Roster) -> Value {
    let list = |entries: &Vec<Entry>| {
        Value::from_iter(entries.iter().map(|e| {
            json!({
                "device": e.device,
                "sensor": e.sensor,
                "silent_since": e.since.map(|t| t.to_rfc3339()),
                "noticed": e.noticed,
            })
        }))
    };
    let mut value = json!({
        "schedule": r.schedule,
        "interval_start": r.interval.map(|i| i.start.to_rfc3339()),
        "interval_end": r.interval.map(|i| i.end.to_rfc3339()),
    });
    for (status, n) in &r.counts {
        value[status.as_str()] = json!(n);
    }
    for (name, entries) in [("silent", &r.silent), ("unmodelled", &r.unmodelled)] {
        if let Some(entries) = entries {
            value[name] = list(entries);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::time::Timestamp;
    use fleetscore_store::Cell;

    fn text(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }

    fn example() -> Roster {
        let rows = Rows::of(
            &["status", "series"],
            vec![vec![text("scored"), Cell::Int(90)], vec![text("no_data"), Cell::Int(2)]],
        );
        let interval = Interval::starting(Timestamp(1_767_225_600_000_000), 60_000_000);
        Roster {
            schedule: "default".into(),
            interval: Some(interval),
            counts: counts(&rows),
            ..Roster::default()
        }
    }

    #[test]
    fn counts_are_there_for_every_status_also_where_it_has_no_row() {
        assert_eq!(as_row(&example()), ["default", "2026-01-01T00:00:00Z", "90", "2", "0", "0", "0"]);
        let value = as_json(&example());
        assert_eq!((value["no_data"].as_i64(), value["no_model"].as_i64()), (Some(2), Some(0)));
        assert!(value.get("silent").is_none(), "a list that nobody asked for is not there");
        let nothing = Roster { schedule: "new".into(), ..Roster::default() };
        assert_eq!(as_row(&nothing), ["new", "-", "-", "-", "-", "-", "-"]);
        assert!(as_json(&nothing)["interval_start"].is_null());
    }

    #[test]
    fn a_list_has_each_series_with_the_beginning_of_its_silence() {
        let columns = ["device", "sensor", "since", "noticed_at"];
        let since = "2026-01-01 00:00:00+00";
        let rows = Rows::of(
            &columns,
            vec![
                vec![text("a"), text("x"), text(since), text(since)],
                vec![text("b"), text("y"), Cell::Null, Cell::Null],
            ],
        );
        let entries: Vec<Entry> = rows.iter().map(|r| entry(&r)).collect();
        assert_eq!(entry_row(&entries[0]), ["a/x", "2026-01-01T00:00:00Z", "longer than `silence`"]);
        assert_eq!(entry_row(&entries[1]), ["b/y", "-", ""]);
        let value = as_json(&Roster { silent: Some(entries), ..example() });
        assert_eq!(value["silent"][0]["silent_since"], "2026-01-01T00:00:00.000000Z");
        assert_eq!(value["silent"][1]["noticed"], false);
    }

    #[test]
    fn a_list_is_cut_before_it_is_joined() {
        let interval = example().interval.unwrap();
        let sql = list_statement("it's", interval, PredictionStatus::NoData, 5);
        assert!(sql.contains("schedule = 'it''s' AND window_start = '2026-01-01T00:00:00.000000Z'"), "{sql}");
        assert!(sql.contains("status = 'no_data' ORDER BY device, sensor LIMIT 5) p"), "{sql}");
        let all = list_statement("s", interval, PredictionStatus::NoModel, usize::MAX);
        assert!(all.contains("status = 'no_model' ORDER BY device, sensor) p"), "{all}");
    }

    #[tokio::test]
    async fn the_statements_are_sql() {
        let (_folder, store) = super::super::views::empty().await;
        let interval = example().interval.unwrap();
        for sql in [
            count_statement("it's", interval),
            list_statement("it's", interval, PredictionStatus::NoData, 5),
            list_statement("it's", interval, PredictionStatus::NoModel, usize::MAX),
        ] {
            let rows = select(&*store, &sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            assert_eq!(rows.iter().count(), 0);
        }
    }
}
