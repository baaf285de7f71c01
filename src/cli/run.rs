//! `run`: a range of intervals, scored now.

use super::Context;
use crate::config::units;
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, output, wire};
use fleetscore_schemas::time::Timestamp;
use fleetscore_scorer::range::{LabelChange, RangeInterval, RangeOptions, RangeReport, run_range};
use serde_json::json;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Start of the first interval.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    from: Timestamp,
    /// Intervals start before this.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    to: Timestamp,
    /// The schedule whose windows count.
    #[arg(long, default_value = "default")]
    schedule: String,
    /// Score with this model set [default: the active one].
    #[arg(long, value_name = "VERSION")]
    model_set: Option<i64>,
    /// Change nothing; print what would change.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Outcome {
    let (config, shutdown) = (&context.config, &context.shutdown);
    let store = connect::store(config, shutdown).await?;
    let blobs = connect::blobs(config, &*store, shutdown).await?;
    create_schedule(&args.schedule, context, &*store).await?;
    let options = RangeOptions {
        schedule: args.schedule.clone(),
        from: args.from,
        to: args.to,
        model_set: args.model_set,
        dry_run: args.dry_run,
        publish: true,
        scorer: wire::scorer(config, wire::process_name(), None),
    };
    let call = || run_range(Arc::clone(&store), blobs.clone(), options.clone(), shutdown.token().clone());
    let report = tokio::select! {
        report = connect::to_its_end("the store", shutdown, call) => report?,
        () = overdue(context) => return Err(Fail::Stopped),
    };
    print(&args, &report);
    if report.stopped {
        return Err(Fail::Stopped);
    }
    if report.failed() {
        return Err(Fail::work("some runs failed"));
    }
    Ok(if report.partly() { Done::Partly } else { Done::All })
}

/// The end of the time that cleaning up may take after a signal.
async fn overdue(context: &Context) {
    context.shutdown.token().cancelled().await;
    tokio::time::sleep(context.config.shutdown_timeout).await;
    tracing::warn!("shutdown passed shutdown_timeout; the next `run` over the range ends what is left open");
}

/// A configured schedule that no service has made yet is made here: the command may be the only scorer there is.
async fn create_schedule(
    name: &str,
    context: &Context,
    store: &dyn fleetscore_store::Store,
) -> Result<(), Fail> {
    let known = store.schedules().await?.iter().any(|s| s.spec.name == name);
    let configured = context.config.schedules.iter().find(|s| s.name == name);
    match configured.filter(|_| !known) {
        Some(spec) if store.pane_settings().await?.is_some() => Ok(store.put_schedule(spec).await?),
        _ => Ok(()),
    }
}

fn print(args: &Args, report: &RangeReport) {
    if args.json {
        let value = json!({
            "model_set": report.model_set,
            "dry_run": args.dry_run,
            "intervals": report.intervals.iter().map(interval_json).collect::<Vec<_>>(),
            "unready": report.unready.iter().map(|(i, why)| json!({
                "interval_start": i.start.to_rfc3339(), "interval_end": i.end.to_rfc3339(), "why": why,
            })).collect::<Vec<_>>(),
        });
        output::print(&value.to_string());
        return;
    }
    let headings = [
        "interval",
        "state",
        "scored",
        "anomalies",
        "no_data",
        "no_model",
        "model_error",
        "input_invalid",
        "note",
    ];
    output::print(&output::table(&headings, report.intervals.iter().map(interval_row)));
    for change in report.intervals.iter().flat_map(|i| i.changes.iter().map(move |c| change_text(i, c))) {
        output::print(&change);
    }
    for (interval, why) in &report.unready {
        eprintln!("skipped {interval}: not ready: {why}");
    }
    if report.intervals.is_empty() && report.unready.is_empty() {
        eprintln!("no interval in the range has data");
    }
}

fn interval_row(i: &RangeInterval) -> Vec<String> {
    let c = i.counts;
    vec![
        output::time(i.interval.start),
        i.state.map_or("dry run".to_owned(), |s| s.to_string()),
        c.scored.to_string(),
        c.anomalies.to_string(),
        c.no_data.to_string(),
        c.no_model.to_string(),
        c.model_error.to_string(),
        c.input_invalid.to_string(),
        i.error.clone().unwrap_or_default(),
    ]
}

fn label(row: &Option<(String, Option<i16>)>) -> String {
    match row {
        None => "nothing".to_owned(),
        Some((status, None)) => status.clone(),
        Some((_, Some(prediction))) => prediction.to_string(),
    }
}

fn change_text(i: &RangeInterval, c: &LabelChange) -> String {
    format!("{}  {}: {} → {}", output::time(i.interval.start), c.series, label(&c.before), label(&c.after))
}

fn interval_json(i: &RangeInterval) -> serde_json::Value {
    let changes = i.changes.iter().map(|c| {
        json!({
            "device": c.series.device, "sensor": c.series.sensor, "before": label(&c.before), "after": label(&c.after),
        })
    });
    json!({
        "interval_start": i.interval.start.to_rfc3339(),
        "interval_end": i.interval.end.to_rfc3339(),
        "run_id": i.run_id.map(|r| r.to_string()),
        "state": i.state,
        "counts": i.counts,
        "changes": changes.collect::<Vec<_>>(),
        "error": i.error,
    })
}
