//! `models`: model sets, where they come from and which one is active.

use super::Context;
use crate::config::units;
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, output};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::time::Timestamp;
use fleetscore_schemas::window::Feature;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models::{
    self, Gamma, ImportOptions, ImportReport, ModelSet, TrainOptions, TrainReport,
};
use fleetscore_store::{ModelSetRow, Store};
use serde_json::json;
use std::sync::Arc;

/// Warnings of a training that a person is shown one by one.
const WARNINGS: usize = 5;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Read scikit-learn models (pickles are read, never executed) into a new set.
    Import(Import),
    /// Fit one model for each series to stored windows.
    Train(Train),
    /// All sets, newest first.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The models of a set.
    Show {
        /// Its version [default: the active one].
        version: Option<i64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a set the active one.
    Activate {
        /// Its version.
        version: i64,
    },
    /// Make the set active that was before the present one.
    Rollback,
    /// Read a set's parts and compare their checksums.
    Verify {
        /// Its version [default: the active one].
        version: Option<i64>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// Files, folders or blob URLs.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
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

#[derive(Debug, clap::Args)]
pub(super) struct Train {
    /// Windows that start at this time or later.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    from: Option<Timestamp>,
    /// Windows that end at this time or earlier.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    to: Option<Timestamp>,
    /// Length of the windows [default: the pane].
    #[arg(long, value_name = "DURATION", value_parser = units::duration_us)]
    window: Option<i64>,
    /// Share of the training rows that may lie outside, above 0 and at most 1.
    #[arg(long, default_value_t = 0.01, value_parser = nu)]
    nu: f64,
    /// `scale`, `auto` or a number, as in scikit-learn.
    #[arg(long, default_value = "scale")]
    gamma: Gamma,
    /// What the models take as input.
    #[arg(long, value_delimiter = ',', default_value = "mean")]
    features: Vec<Feature>,
    /// Series with fewer windows get no model.
    #[arg(long, default_value_t = 20)]
    min_rows: usize,
    /// Of more windows, so many are taken, evenly spaced.
    #[arg(long, default_value_t = 1000)]
    max_rows: usize,
    /// Leave the active set as it is.
    #[arg(long)]
    no_activate: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn nu(text: &str) -> Result<f64, String> {
    let good = |x: &f64| *x > 0.0 && *x <= 1.0;
    text.parse::<f64>()
        .ok()
        .filter(good)
        .ok_or_else(|| format!("`{text}` is not a number above 0 and at most 1"))
}

pub(super) async fn run(command: Command, context: &Context) -> Outcome {
    let (config, shutdown) = (&context.config, &context.shutdown);
    let store = connect::store(config, shutdown).await?;
    let blobs = || connect::blobs(config, &*store, shutdown);
    match command {
        Command::Import(args) => import(args, context, &store, &blobs().await?).await,
        Command::Train(args) => train(args, context, &store, &blobs().await?).await,
        Command::List { json } => list(json, &*store).await,
        Command::Show { version, json } => {
            let row = find(version, &*store).await?;
            show(&row, json, &*store, &blobs().await?).await
        }
        Command::Activate { version } => {
            let row = find(Some(version), &*store).await?;
            verify(&row, &blobs().await?).await?; // a damaged set would fail every run until somebody sees it
            store.activate_model_set(version).await?;
            output::print(&format!("model set {version} is active"));
            Ok(Done::All)
        }
        Command::Rollback => {
            let none = || Fail::user("no set was active before the present one");
            let row = find(Some(store.model_set_before().await?.ok_or_else(none)?), &*store).await?;
            verify(&row, &blobs().await?).await?; // as for `activate`
            let version = store.rollback_model_set().await?.ok_or_else(none)?;
            output::print(&format!("model set {version} is active again"));
            Ok(Done::All)
        }
        Command::Verify { version } => {
            let row = find(version, &*store).await?;
            verify(&row, &blobs().await?).await
        }
    }
}

/// A set by its version, or the active one.
async fn find(version: Option<i64>, store: &dyn Store) -> Result<ModelSetRow, Fail> {
    let found = store.model_sets().await?.into_iter().find(|s| version.map_or(s.active, |v| s.version == v));
    found.ok_or_else(|| match version {
        Some(v) => Fail::user(format!("there is no model set {v}: see `fleetscore models list`")),
        None => Fail::user("no model set is active: `fleetscore models import` or `train` makes one"),
    })
}

fn created_by() -> String {
    let user =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned());
    format!("{user} on {}", crate::wire::host())
}

async fn import(args: Import, context: &Context, store: &Arc<dyn Store>, blobs: &Blobs) -> Outcome {
    let options = ImportOptions {
        sources: args.paths,
        pattern: args.pattern,
        allow_partial: args.allow_partial,
        activate: !args.no_activate,
        features: args.features,
        max_series: context.config.max_series,
        created_by: created_by(),
        ..ImportOptions::default()
    };
    let report = context.shutdown.unless(models::import(store.as_ref(), blobs, &options)).await?;
    let report = report.map_err(|e| match e {
        // The command was right; the work on these files failed.
        models::ModelError::Refused { .. } => Fail::work(e.to_string()),
        other => other.into(),
    })?;
    let ImportReport { version, imported, refused, skipped, single_precision, formats } = report;
    if args.json {
        let refused: Vec<_> = refused.iter().map(|(path, why)| json!({"path": path, "why": why})).collect();
        let value = json!({"version": version, "imported": imported, "refused": refused, "skipped": skipped.iter().map(|(path, _)| path).collect::<Vec<_>>(), "active": options.activate,
            "single_precision": single_precision, "formats": formats.iter().map(|(f, n)| (f.name(), *n)).collect::<std::collections::BTreeMap<_, _>>()});
        output::print(&value.to_string());
    } else {
        for (path, why) in &refused {
            eprintln!("refused {path}: {why}");
        }
        for (path, why) in &skipped {
            eprintln!("skipped {path}: it {why}");
        }
        if single_precision > 0 {
            eprintln!("note: the numbers of {single_precision} models are float32, as ONNX has them");
        }
        let active = if options.activate { "active" } else { "not active" };
        output::print(&format!(
            "model set {version}: {imported} models imported, {} refused; {active}",
            refused.len()
        ));
    }
    Ok(if refused.is_empty() { Done::All } else { Done::Partly })
}

async fn train(args: Train, context: &Context, store: &Arc<dyn Store>, blobs: &Blobs) -> Outcome {
    let pane_us = store.pane_settings().await?.map_or(context.config.interval_us, |p| p.interval_us);
    let window_us = args.window.unwrap_or(pane_us);
    let options = TrainOptions {
        from: args.from,
        to: args.to,
        nu: args.nu,
        gamma: args.gamma,
        features: args.features,
        min_rows: args.min_rows,
        max_rows: args.max_rows,
        activate: !args.no_activate,
        created_by: created_by(),
        ..TrainOptions::new(window_us)
    };
    let report = context.shutdown.unless(models::train(store.as_ref(), blobs, &options)).await??;
    let TrainReport { version, trained, windows, range, failed, warnings } = report;
    if args.json {
        let listed = |list: &[(SeriesName, String)]| {
            let one =
                |(s, why): &(SeriesName, String)| json!({"device": s.device, "sensor": s.sensor, "why": why});
            list.iter().map(one).collect::<Vec<_>>()
        };
        let value = json!({
            "version": version,
            "trained": trained,
            "windows": windows,
            "from": range.start.to_rfc3339(),
            "to": range.end.to_rfc3339(),
            "failed": listed(&failed),
            "warnings": listed(&warnings),
            "active": options.activate,
        });
        output::print(&value.to_string());
    } else {
        for (series, why) in &failed {
            eprintln!("no model for {series}: {why}");
        }
        for (series, why) in warnings.iter().take(WARNINGS) {
            eprintln!("warning: {series}: {why}");
        }
        if warnings.len() > WARNINGS {
            eprintln!("warning: and {} more (--json lists all)", warnings.len() - WARNINGS);
        }
        let active = if options.activate { "active" } else { "not active" };
        output::print(&format!(
            "model set {version}: {trained} models trained, {} series without; {active}",
            failed.len()
        ));
    }
    Ok(if failed.is_empty() { Done::All } else { Done::Partly })
}

async fn list(as_json: bool, store: &dyn Store) -> Outcome {
    let sets = store.model_sets().await?;
    if as_json {
        output::print(&serde_json::Value::from_iter(sets.iter().map(set_json)).to_string());
        return Ok(Done::All);
    }
    let row = |s: &ModelSetRow| {
        vec![
            s.version.to_string(),
            if s.active { "active".to_owned() } else { String::new() },
            s.models.to_string(),
            s.refused.to_string(),
            s.origin.clone(),
            s.trained_on
                .map_or("-".to_owned(), |i| format!("{} .. {}", output::time(i.start), output::time(i.end))),
            s.created_by.clone(),
            output::time(s.created_at),
            s.path.clone(),
        ]
    };
    let headings =
        ["version", "", "models", "refused", "origin", "trained on", "created by", "created at", "path"];
    output::print(&output::table(&headings, sets.iter().map(row)));
    Ok(Done::All)
}

fn set_json(s: &ModelSetRow) -> serde_json::Value {
    json!({
        "version": s.version,
        "active": s.active,
        "models": s.models,
        "refused": s.refused,
        "origin": s.origin,
        "checksum": s.checksum,
        "trained_from": s.trained_on.map(|i| i.start.to_rfc3339()),
        "trained_to": s.trained_on.map(|i| i.end.to_rfc3339()),
        "created_by": s.created_by,
        "created_at": s.created_at.to_rfc3339(),
        "path": s.path,
    })
}

async fn load(row: &ModelSetRow, store: &dyn Store, blobs: &Blobs) -> Result<ModelSet, Fail> {
    Ok(models::load(blobs, store, row).await?)
}

async fn show(row: &ModelSetRow, as_json: bool, store: &dyn Store, blobs: &Blobs) -> Outcome {
    let set = load(row, store, blobs).await?;
    if as_json {
        let models: Vec<_> = set
            .entries()
            .map(|e| {
                json!({
                    "device": e.name.device,
                    "sensor": e.name.sensor,
                    "model": e.model,
                    "support_vectors": e.outcome.as_ref().ok().map(|m| m.dual_coef.len()),
                    "features": e.outcome.as_ref().ok().map(|m| m.features),
                    "normal": e.normal,
                    "refused": e.outcome.as_ref().err(),
                })
            })
            .collect();
        let mut value = set_json(row);
        value["entries"] = json!(models);
        output::print(&value.to_string());
        return Ok(Done::All);
    }
    let rows = set.entries().map(|e| {
        let (vectors, note) = match &e.outcome {
            Ok(m) => (
                m.dual_coef.len().to_string(),
                e.normal.as_deref().map_or(String::new(), models::ranges_text),
            ),
            Err(why) => ("-".to_owned(), format!("refused: {why}")),
        };
        vec![e.name.device.clone(), e.name.sensor.clone(), e.model.clone(), vectors, note]
    });
    output::print(&output::table(&["device", "sensor", "model", "support vectors", "normal range"], rows));
    Ok(Done::All)
}

async fn verify(row: &ModelSetRow, blobs: &Blobs) -> Outcome {
    let report = models::verify(blobs, row).await?;
    for problem in &report.problems {
        output::print(&format!("model set {}: {problem}", row.version));
    }
    if report.problems.is_empty() {
        let n = report.scored;
        output::print(&format!(
            "model set {} is whole; {n} models gave their recorded decisions again",
            row.version
        ));
        return Ok(Done::All);
    }
    Err(Fail::work(format!("model set {} is damaged", row.version)))
}
