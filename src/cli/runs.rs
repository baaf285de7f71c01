//! `runs`: what was scored, what is open, what failed.

use super::Context;
use crate::config::units;
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, output};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{RunFilter, RunRow, Store};
use serde_json::json;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(flatten)]
    list: List,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Runs, newest interval first.
    List(List),
    /// One run.
    Show {
        /// Its id.
        run_id: Uuid,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End an open run.
    Cancel {
        /// Its id.
        run_id: Uuid,
    },
}

#[derive(Debug, clap::Args)]
struct List {
    /// Of this schedule.
    #[arg(long)]
    schedule: Option<String>,
    /// In this state; may be repeated.
    #[arg(long, value_name = "STATE")]
    state: Vec<RunState>,
    /// Whose interval ends after this time.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    from: Option<Timestamp>,
    /// Whose interval starts before this time.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    to: Option<Timestamp>,
    /// At most so many; 0 = all.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Outcome {
    let store = connect::store(&context.config, &context.shutdown).await?;
    match args.command.unwrap_or(Command::List(args.list)) {
        Command::List(list_args) => list(&list_args, &*store).await,
        Command::Show { run_id, json } => show(run_id, json, &*store).await,
        Command::Cancel { run_id } => cancel(run_id, &*store).await,
    }
}

async fn list(args: &List, store: &dyn Store) -> Outcome {
    let overlapping = (args.from.is_some() || args.to.is_some()).then(|| Interval {
        start: args.from.unwrap_or(Timestamp::MIN_EVENT),
        end: args.to.unwrap_or(Timestamp::END_EVENT),
    });
    let filter = RunFilter {
        schedule: args.schedule.clone(),
        states: args.state.clone(),
        run_ids: None,
        overlapping,
        limit: args.limit,
    };
    let runs = store.runs(&filter).await?;
    if args.json {
        output::print(&serde_json::Value::from_iter(runs.iter().map(as_json)).to_string());
    } else {
        let headings = [
            "run",
            "schedule",
            "interval",
            "end",
            "state",
            "cause",
            "set",
            "scored",
            "anomalies",
            "other",
            "note",
        ];
        output::print(&output::table(&headings, runs.iter().map(as_row)));
    }
    Ok(Done::All)
}

async fn find(run_id: Uuid, store: &dyn Store) -> Result<RunRow, Fail> {
    let filter = RunFilter { run_ids: Some(vec![run_id]), ..RunFilter::default() };
    store.runs(&filter).await?.pop().ok_or_else(|| Fail::user(format!("there is no run {run_id}")))
}

async fn show(run_id: Uuid, as_object: bool, store: &dyn Store) -> Outcome {
    let value = as_json(&find(run_id, store).await?);
    if as_object {
        output::print(&value.to_string());
    } else if let Some(fields) = value.as_object() {
        let rows = fields
            .iter()
            .map(|(k, v)| vec![k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned)]);
        output::print(&output::table(&["field", "value"], rows));
    }
    Ok(Done::All)
}

async fn cancel(run_id: Uuid, store: &dyn Store) -> Outcome {
    let run = find(run_id, store).await?;
    if store.cancel_run(run_id).await? {
        output::print(&format!("cancelled: {} {}", run.schedule, run.interval));
        return Ok(Done::All);
    }
    Err(Fail::user(format!("run {run_id} is over already: {}", run.state)))
}

fn as_row(r: &RunRow) -> Vec<String> {
    let c = r.counts;
    let other = [
        ("no_data", c.no_data),
        ("no_model", c.no_model),
        ("model_error", c.model_error),
        ("input_invalid", c.input_invalid),
    ];
    let other: Vec<String> =
        other.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    vec![
        r.run_id.to_string(),
        r.schedule.clone(),
        output::time(r.interval.start),
        output::time(r.interval.end),
        r.state.to_string(),
        r.cause.to_string(),
        r.model_set.map_or("-".to_owned(), |v| v.to_string()),
        c.scored.to_string(),
        c.anomalies.to_string(),
        if other.is_empty() { "-".to_owned() } else { other.join(" ") },
        r.error.clone().unwrap_or_default(),
    ]
}

pub(super) fn as_json(r: &RunRow) -> serde_json::Value {
    json!({
        "run_id": r.run_id.to_string(),
        "schedule": r.schedule,
        "interval_start": r.interval.start.to_rfc3339(),
        "interval_end": r.interval.end.to_rfc3339(),
        "state": r.state,
        "cause": r.cause,
        "model_set": r.model_set,
        "scored": r.counts.scored,
        "anomalies": r.counts.anomalies,
        "no_data": r.counts.no_data,
        "no_model": r.counts.no_model,
        "model_error": r.counts.model_error,
        "input_invalid": r.counts.input_invalid,
        "attempt": r.attempt,
        "data_only": r.data_only,
        "opened_at": r.opened_at.to_rfc3339(),
        "started_at": r.started_at.map(|t| t.to_rfc3339()),
        "finished_at": r.finished_at.map(|t| t.to_rfc3339()),
        "error": r.error,
    })
}
