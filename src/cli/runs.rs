//! `runs`: what was scored, what is open, what failed, and trying that again.

mod show;

use super::Context;
use super::models::created_by;
use super::run::{Asked, ended, to_its_end};
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, output, wire};
use fleetscore_schemas::status::{RunCause, RunScope, RunState};
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_scorer::range::{RetryOptions, retry_run};
use fleetscore_settings::units;
use fleetscore_store::{Phases, RunFilter, RunRow, Store};
use serde_json::{Value, json};
use std::sync::Arc;
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
    /// One run: what happened to it, its shards, why models failed, where its log is.
    Show(One),
    /// End an open run. Shards that are done stay stored.
    Cancel(One),
    /// Score only what a run left undone: shards that failed or were cancelled, else series whose model failed.
    Retry(One),
}

#[derive(Debug, clap::Args)]
struct One {
    /// Its id.
    run_id: Uuid,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Of this schedule.
    #[arg(long)]
    schedule: Option<String>,
    /// In this state; may be repeated.
    #[arg(long, value_name = "STATE")]
    state: Vec<RunState>,
    /// For this cause; may be repeated.
    #[arg(long, value_name = "CAUSE")]
    cause: Vec<RunCause>,
    /// Whose interval ends after this time.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    from: Option<Timestamp>,
    /// Whose interval starts before this time.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    to: Option<Timestamp>,
    /// Opened at or after this time.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    opened_since: Option<Timestamp>,
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
        Command::Show(one) => show::run(one.run_id, one.json, context, &*store).await,
        Command::Cancel(one) => cancel(&one, &*store).await,
        Command::Retry(one) => retry(&one, context, &store).await,
    }
}

async fn list(args: &List, store: &dyn Store) -> Outcome {
    let runs = store.runs(&filter(args)).await?;
    if args.json {
        output::print(&Value::from_iter(runs.iter().map(as_json)).to_string());
    } else {
        output::print(&listed(&runs));
    }
    Ok(Done::All)
}

fn filter(args: &List) -> RunFilter {
    let overlapping = (args.from.is_some() || args.to.is_some()).then(|| Interval {
        start: args.from.unwrap_or(Timestamp::MIN_EVENT),
        end: args.to.unwrap_or(Timestamp::END_EVENT),
    });
    RunFilter {
        schedule: args.schedule.clone(),
        states: args.state.clone(),
        causes: args.cause.clone(),
        overlapping,
        opened_since: args.opened_since,
        limit: args.limit,
        ..RunFilter::default()
    }
}

/// Runs as a table.
pub(super) fn listed(runs: &[RunRow]) -> String {
    let headings = [
        "run",
        "schedule",
        "interval",
        "end",
        "state",
        "cause",
        "set",
        "shards",
        "scored",
        "anomalies",
        "other",
        "note",
    ];
    output::table(&headings, runs.iter().map(as_row))
}

async fn find(run_id: Uuid, store: &dyn Store) -> Result<RunRow, Fail> {
    let filter = RunFilter { run_ids: Some(vec![run_id]), ..RunFilter::default() };
    store.runs(&filter).await?.pop().ok_or_else(|| Fail::user(format!("there is no run {run_id}")))
}

async fn cancel(one: &One, store: &dyn Store) -> Outcome {
    let run = find(one.run_id, store).await?;
    if !store.cancel_run(one.run_id, &created_by()).await? {
        let now = find(one.run_id, store).await?;
        return Err(Fail::user(format!("run {} is over already: {}", one.run_id, now.state)));
    }
    let now = find(one.run_id, store).await?;
    if one.json {
        output::print(&as_json(&now).to_string());
    } else {
        let done = match now.shards_done {
            0 => String::new(),
            n => format!("; {n} of {} shards were done and stay stored", now.shards),
        };
        output::print(&format!("cancelled: {} {}{done}", run.schedule, run.interval));
    }
    Ok(Done::All)
}

/// Opens a run over what is undone, and works on it together with whoever else is there.
async fn retry(one: &One, context: &Context, store: &Arc<dyn Store>) -> Outcome {
    let (config, shutdown) = (&context.config, &context.shutdown);
    let blobs = connect::blobs(config, &**store, shutdown).await?;
    // Chosen once: a call that is made again finds the run that it has opened.
    let new_run = Uuid::now_v7();
    let report = to_its_end(context, |progress| {
        let options = RetryOptions {
            run_id: one.run_id,
            new_run,
            publish: true,
            progress: Some(progress),
            scorer: wire::scorer(config, wire::process_name(), None),
        };
        retry_run(Arc::clone(store), blobs.clone(), options, shutdown.token().clone())
    })
    .await?;
    ended(&report, &Asked { dry_run: false, scope: RunScope::All, series: None }, one.json)
}

/// Statuses other than scored, where there are any.
fn other(r: &RunRow) -> String {
    let c = r.counts;
    let other = [
        ("no_data", c.no_data),
        ("no_model", c.no_model),
        ("model_error", c.model_error),
        ("input_invalid", c.input_invalid),
    ];
    let other: Vec<String> =
        other.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    if other.is_empty() { "-".to_owned() } else { other.join(" ") }
}

/// How many shards are stored, and how many failed.
fn shards(r: &RunRow) -> String {
    match (r.shards, r.shards_failed) {
        (0, _) => "-".to_owned(),
        (all, 0) => format!("{}/{all}", r.shards_done),
        (all, failed) => format!("{}/{all}, {failed} failed", r.shards_done),
    }
}

/// What an operator should know beside the numbers.
fn note(r: &RunRow) -> String {
    let scope = match (r.scope, r.series.as_deref()) {
        (RunScope::All, None) => None,
        (RunScope::All, Some(series)) => Some(format!("only {series}")),
        (scope, None) => Some(format!("only {scope} series")),
        (scope, Some(series)) => Some(format!("only {scope} series of {series}")),
    };
    let stalled = r.stalled_at.map(|t| format!("stalled since {}", output::time(t)));
    let parts = [stalled, scope, r.error.clone()];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn as_row(r: &RunRow) -> Vec<String> {
    vec![
        r.run_id.to_string(),
        r.schedule.clone(),
        output::time(r.interval.start),
        output::time(r.interval.end),
        r.state.to_string(),
        r.cause.to_string(),
        r.model_set.map_or("-".to_owned(), |v| v.to_string()),
        shards(r),
        r.counts.scored.to_string(),
        r.counts.anomalies.to_string(),
        other(r),
        note(r),
    ]
}

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// Phases under the names of the views.
fn phases_json(p: &Phases) -> Value {
    json!({
        "open_s": seconds(p.open_us),
        "read_s": seconds(p.read_us),
        "score_s": seconds(p.score_us),
        "write_s": seconds(p.write_us),
    })
}

pub(super) fn as_json(r: &RunRow) -> Value {
    let time = |t: Option<Timestamp>| t.map(Timestamp::to_rfc3339);
    let mut value = json!({
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
        "scope": r.scope,
        "series": r.series,
        "shards": r.shards,
        "shards_done": r.shards_done,
        "shards_failed": r.shards_failed,
        "retry_of": r.retry_of.map(|id| id.to_string()),
        "opened_at": r.opened_at.to_rfc3339(),
        "started_at": time(r.started_at),
        "finished_at": time(r.finished_at),
        "stalled_at": time(r.stalled_at),
        "error": r.error,
        "log": r.log,
    });
    if let (Some(all), Value::Object(phases)) = (value.as_object_mut(), phases_json(&r.phases)) {
        all.extend(phases);
    }
    value
}

#[cfg(test)]
mod tests;
