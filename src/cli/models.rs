//! `models`: model sets, where they come from and which one is active.

use super::{Context, models_diff, models_import, models_pins, models_sets, models_show, train};
use crate::connect;
use crate::exit::{Fail, Outcome};
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models::{self, ModelSet};
use fleetscore_store::{ModelSetRow, Store};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Read models of files into a new set: scikit-learn pickles and joblib files (read, never executed), ONNX, JSON,
    /// Parquet.
    Import(models_import::Args),
    /// Fit one model for each series to stored windows, or to rows in Parquet.
    Train(Box<train::Train>),
    /// Write the rows that `train` fits to Parquet, for scikit-learn and others.
    ExportTraining(train::Export),
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

pub(super) async fn run(command: Command, context: &Context) -> Outcome {
    let (config, shutdown) = (&context.config, &context.shutdown);
    let store = connect::store(config, shutdown).await?;
    let blobs = || connect::blobs(config, &*store, shutdown);
    match command {
        Command::Import(args) => models_import::run(args, context, &*store, &blobs().await?).await,
        Command::Train(args) => Box::pin(train::train(*args, context, &store, &blobs().await?)).await,
        Command::ExportTraining(args) => train::export(args, context, &store).await,
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
