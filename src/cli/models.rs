//! `models`: model sets, where they come from and which one is active.

use super::{Context, models_diff, models_import, models_pins, models_sets, models_show};
use crate::config::units;
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, output};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::time::Timestamp;
use fleetscore_schemas::window::Feature;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models::{self, Gamma, ModelSet, TrainOptions, TrainReport};
use fleetscore_store::{ModelSetRow, Store};
use serde_json::json;
use std::sync::Arc;

/// Warnings of a training that a person is shown one by one.
const WARNINGS: usize = 5;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Read models of files into a new set: scikit-learn pickles and joblib files (read, never executed), ONNX, JSON,
    /// Parquet.
    Import(models_import::Args),
    /// Fit one model for each series to stored windows.
    Train(Train),
    /// All sets, newest first.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// A set and its models.
    Show(models_show::Show),
    /// What was refused when a set was made, and why.
    Failures(models_show::Failures),
    /// Score a range of intervals with two sets and show which labels change; nothing is written.
    Diff(models_diff::Args),
    /// Make a set the active one; running scorers notice.
    Activate(models_sets::Activate),
    /// Make the set active that was before the present one.
    Rollback(models_sets::Rollback),
    /// Read a set again: its checksums, and its models' recorded decisions.
    Verify(models_sets::Verify),
    /// Score these series by one set, whichever is active.
    Pin(models_pins::Pin),
    /// Score these series by the active set again.
    Unpin(models_pins::Unpin),
    /// The pinned series.
    Pins {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
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
        Command::Import(args) => models_import::run(args, context, &*store, &blobs().await?).await,
        Command::Train(args) => train(args, context, &store, &blobs().await?).await,
        Command::List { json } => models_show::list(json, &*store).await,
        Command::Show(args) => models_show::show(&args, &*store, &blobs().await?).await,
        Command::Failures(args) => models_show::failures(&args, &*store).await,
        Command::Diff(args) => models_diff::run(&args, context, &store, &blobs().await?).await,
        Command::Activate(args) => models_sets::activate(&args, context, &*store, &blobs().await?).await,
        Command::Rollback(args) => models_sets::rollback(&args, context, &*store, &blobs().await?).await,
        Command::Verify(args) => models_sets::verify(&args, context, &*store, &blobs().await?).await,
        Command::Pin(args) => models_pins::pin(&args, &*store, &blobs().await?).await,
        Command::Unpin(args) => models_pins::unpin(&args, &*store).await,
        Command::Pins { json } => models_pins::list(json, &*store).await,
    }
}

/// A set by its version, or the active one.
pub(super) async fn find(version: Option<i64>, store: &dyn Store) -> Result<ModelSetRow, Fail> {
    match version {
        Some(v) => {
            let none = || Fail::user(format!("there is no model set {v}: see `fleetscore models list`"));
            store.model_set(v).await?.ok_or_else(none)
        }
        None => store.active_model_set().await?.ok_or_else(|| {
            Fail::user("no model set is active: `fleetscore models import` or `train` makes one")
        }),
    }
}

/// A set in memory.
pub(super) async fn load(row: &ModelSetRow, store: &dyn Store, blobs: &Blobs) -> Result<ModelSet, Fail> {
    Ok(models::load(blobs, store, row).await?)
}

/// What a set's files weigh.
pub(super) fn set_bytes(manifest: &models::Manifest) -> u64 {
    let checks = |p: &models::Part| p.checks.as_ref().map_or(0, |c| c.bytes);
    manifest.parts.iter().map(|p| p.file.bytes + checks(p)).sum()
}

pub(super) fn created_by() -> String {
    let user =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned());
    format!("{user} on {}", crate::wire::host())
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
