//! `models diff`: a shadow comparison of two sets.

use super::Context;
use crate::exit::{Done, Fail, Outcome};
use crate::{output, wire};
use fleetscore_schemas::time::Timestamp;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::diff::{DiffOptions, DiffReport, IntervalDiff, LabelDiff, Side, diff};
use fleetscore_settings::units;
use fleetscore_store::Store;
use serde_json::json;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Version of the set that is compared with, say the active one.
    a: i64,
    /// Version of the set in question.
    b: i64,
    /// Start of the first interval [default: the newest ready interval with data, alone].
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    from: Option<Timestamp>,
    /// Intervals start before this [default: to the newest].
    #[arg(long, value_name = "TIME", value_parser = units::time, requires = "from")]
    to: Option<Timestamp>,
    /// The schedule whose windows and features count.
    #[arg(long, default_value = "default")]
    schedule: String,
    /// List so many changes, and the so many series that change most.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, context: &Context, store: &Arc<dyn Store>, blobs: &Blobs) -> Outcome {
    let options = DiffOptions {
        schedule: args.schedule.clone(),
        from: args.from,
        to: args.to,
        sets: [args.a, args.b],
        limit: args.limit,
        readiness: wire::scorer(&context.config, wire::process_name(), None).readiness,
    };
    let spinner = output::Spinner::start("comparing");
    let tell = |i: &IntervalDiff| spinner.say(format!("compared {}", output::time(i.interval.start)));
    let report = context.shutdown.unless(diff(store, blobs, &options, &tell)).await;
    drop(spinner);
    let report = report?.map_err(Fail::from)?;
    if args.json {
        output::print(&as_json(args, &report).to_string());
    } else {
        words(args, &report);
    }
    Ok(if report.unready.is_empty() { Done::All } else { Done::Partly })
}

fn words(args: &Args, report: &DiffReport) {
    for (interval, why) in &report.unready {
        eprintln!("skipped {interval}: not ready: {why}");
    }
    if report.intervals.is_empty() {
        eprintln!("no ready interval has data");
        return;
    }
    let (a, b) = (args.a, args.b);
    let (to_anomaly, to_normal) = (format!("→ anomaly by {b}"), format!("→ normal by {b}"));
    let (by_a, by_b) = (format!("anomalies {a}"), format!("anomalies {b}"));
    let headings = ["interval", "windows", &by_a, &by_b, "changed", &to_anomaly, &to_normal, "status"];
    output::print_rows(&headings, || report.intervals.iter().map(interval_row));
    if !report.series.is_empty() {
        output::print("");
        let rows = || {
            report.series.iter().map(|s| {
                let n = [s.to_anomaly, s.to_normal, s.status].map(|n| n.to_string());
                [s.series.device.clone(), s.series.sensor.clone()].into_iter().chain(n).collect()
            })
        };
        output::print_rows(&["device", "sensor", &to_anomaly, &to_normal, "status"], rows);
        more(report.series_changed as u64, report.series.len(), "series with changes");
        output::print("");
    }
    for change in &report.changes {
        output::print(&change_text(change, args));
    }
    more(report.changed(), report.changes.len(), "changes");
    output::print(&format!(
        "{} of {} labels differ between set {a} and set {b}, in {} series",
        report.changed(),
        report.rows(),
        report.series_changed
    ));
}

fn more(all: u64, shown: usize, what: &str) {
    let more = all.saturating_sub(shown as u64);
    if more > 0 {
        output::print(&format!("… and {more} more {what} (--limit lists them)"));
    }
}

fn interval_row(i: &IntervalDiff) -> Vec<String> {
    let numbers = [i.rows, i.anomalies[0], i.anomalies[1], i.changed(), i.to_anomaly, i.to_normal, i.status];
    std::iter::once(output::time(i.interval.start)).chain(numbers.map(|n| n.to_string())).collect()
}

/// `2026-01-01T00:00:00Z  press-1/temp 15.3: set 1 normal (0.12; 10.01 … 16), set 2 anomaly (-0.03; 10.2 … 14.18)`
fn change_text(c: &LabelDiff, args: &Args) -> String {
    let side = |version: i64, s: &Side| {
        let label = match s.prediction {
            Some(0) => "normal",
            Some(_) => "anomaly",
            None => s.status.as_str(),
        };
        let decision = s.decision.map(|d| format!("{d:.3e}"));
        let facts: Vec<String> = decision.into_iter().chain(s.normal_range.clone()).collect();
        match facts.is_empty() {
            true => format!("set {version} {label}"),
            false => format!("set {version} {label} ({})", facts.join("; ")),
        }
    };
    let value = c.value.map_or("-".to_owned(), |v| format!("{v}"));
    let start = output::time(c.interval.start);
    let [a, b] = &c.sides;
    format!("{start}  {} {value}: {}, {}", c.series, side(args.a, a), side(args.b, b))
}

fn as_json(args: &Args, report: &DiffReport) -> serde_json::Value {
    let interval = |i: &IntervalDiff| {
        json!({
            "interval_start": i.interval.start.to_rfc3339(),
            "interval_end": i.interval.end.to_rfc3339(),
            "windows": i.rows,
            "anomalies": i.anomalies,
            "changed": i.changed(),
            "to_anomaly": i.to_anomaly,
            "to_normal": i.to_normal,
            "status": i.status,
        })
    };
    let side = |s: &Side| {
        json!({
            "status": s.status, "prediction": s.prediction, "decision": s.decision, "normal_range": s.normal_range,
        })
    };
    let change = |c: &LabelDiff| {
        json!({
            "interval_start": c.interval.start.to_rfc3339(),
            "device": c.series.device,
            "sensor": c.series.sensor,
            "value": c.value,
            "a": side(&c.sides[0]),
            "b": side(&c.sides[1]),
        })
    };
    json!({
        "a": args.a,
        "b": args.b,
        "schedule": args.schedule,
        "windows": report.rows(),
        "changed": report.changed(),
        "series_changed": report.series_changed,
        "intervals": report.intervals.iter().map(interval).collect::<Vec<_>>(),
        "series": report.series.iter().map(|s| json!({
            "device": s.series.device,
            "sensor": s.series.sensor,
            "to_anomaly": s.to_anomaly,
            "to_normal": s.to_normal,
            "status": s.status,
        })).collect::<Vec<_>>(),
        "changes": report.changes.iter().map(change).collect::<Vec<_>>(),
        "unready": report.unready.iter().map(|(i, why)| json!({
            "interval_start": i.start.to_rfc3339(), "interval_end": i.end.to_rfc3339(), "why": why,
        })).collect::<Vec<_>>(),
    })
}
