//! `models import`: a new set from files.

use super::Context;
use super::models::created_by;
use super::models_sets::fits;
use crate::exit::{Done, Fail, Outcome};
use crate::output;
use fleetscore_schemas::window::Feature;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models::{self, ImportOptions, ImportReport};
use fleetscore_store::Store;
use serde_json::json;

/// Refused and skipped files that a person is shown one by one.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files, folders or blob URLs.
    #[arg(required_unless_present = "list", value_name = "PATH")]
    paths: Vec<String>,
    /// A file that lists them: one path a line, or CSV with the columns path, device, sensor. Repeatable.
    #[arg(long, value_name = "FILE")]
    list: Vec<String>,
    /// How a file's name (without extension) tells its series; split at the last `_` where that is not clear.
    #[arg(long, default_value = "model_{device}_{sensor}")]
    pattern: String,
    /// Keep refused models as entries that yield `model_error`.
    #[arg(long)]
    allow_partial: bool,
    /// Leave the active set as it is.
    #[arg(long)]
    no_activate: bool,
    /// What the models take as input, in their order.
    #[arg(long, value_delimiter = ',', default_value = "mean")]
    features: Vec<Feature>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, context: &Context, store: &dyn Store, blobs: &Blobs) -> Outcome {
    let options = ImportOptions {
        sources: args.paths,
        lists: args.list,
        pattern: args.pattern,
        allow_partial: args.allow_partial,
        activate: !args.no_activate,
        features: args.features,
        max_series: context.config.max_series,
        created_by: created_by(),
        ..ImportOptions::default()
    };
    if options.activate {
        // Before the files are read.
        fits(store, &options.features.iter().map(ToString::to_string).collect::<Vec<_>>()).await?;
    }
    let spinner = output::Spinner::start("importing");
    let report = context.shutdown.unless(models::import(store, blobs, &options)).await;
    drop(spinner);
    let report = match report? {
        Err(models::ModelError::Refused { refused, skipped }) => {
            // The command was right; the work on these files failed.
            let n = refused.len();
            let nothing = ImportReport { refused, skipped, ..ImportReport::default() };
            if args.json {
                output::print(&as_json(&nothing, false).to_string());
            } else {
                passed_over(&nothing);
            }
            return Err(Fail::work(format!("{n} of the files cannot be imported, and nothing was changed")));
        }
        report => report?,
    };
    if args.json {
        output::print(&as_json(&report, options.activate).to_string());
    } else {
        words(&report, options.activate);
    }
    Ok(if report.refused.is_empty() { Done::All } else { Done::Partly })
}

fn passed_over(report: &ImportReport) {
    for (path, why) in report.refused.iter().take(SHOWN) {
        eprintln!("refused {path}: {why}");
    }
    more(report.refused.len(), "refused");
    for (path, why) in report.skipped.iter().take(SHOWN) {
        eprintln!("skipped {path}: it {why}");
    }
    more(report.skipped.len(), "skipped");
}

fn words(report: &ImportReport, active: bool) {
    passed_over(report);
    if report.single_precision > 0 {
        let n = report.single_precision;
        eprintln!(
            "note: the numbers of {n} models are float32, as ONNX has them: labels near a border may differ"
        );
    }
    let formats: Vec<String> = report.formats.iter().map(|(f, n)| format!("{n} {}", f.name())).collect();
    output::print(&format!(
        "model set {}: {} models imported ({}), {} refused; {}",
        report.version,
        report.imported,
        formats.join(", "),
        report.refused.len(),
        if active { "active" } else { "not active" }
    ));
}

fn more(all: usize, what: &str) {
    if all > SHOWN {
        eprintln!("… and {} more {what} (--json lists all)", all - SHOWN);
    }
}

fn as_json(report: &ImportReport, active: bool) -> serde_json::Value {
    let listed = |list: &[(String, String)]| {
        list.iter().map(|(path, why)| json!({"path": path, "why": why})).collect::<Vec<_>>()
    };
    let formats: serde_json::Map<String, serde_json::Value> =
        report.formats.iter().map(|(f, n)| (f.name().to_owned(), json!(n))).collect();
    json!({
        "version": (report.version > 0).then_some(report.version),
        "imported": report.imported,
        "refused": listed(&report.refused),
        "skipped": listed(&report.skipped),
        "single_precision": report.single_precision,
        "formats": formats,
        "active": active,
    })
}
