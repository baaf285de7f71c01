//! `models activate`, `rollback` and `verify`: which set is active, and whether a set is whole.

use super::Context;
use super::models::{find, set_bytes};
use crate::exit::{Done, Fail, Outcome};
use crate::output;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models::{self, VerifyReport};
use fleetscore_store::{ModelSetRow, Store};
use serde_json::json;
use std::time::{Duration, Instant};

/// Problems that a person is shown one by one.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Activate {
    /// Its version.
    version: i64,
    /// Do not read the set before: checksums and check vectors are left for `models verify`.
    #[arg(long)]
    no_verify: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    /// Do not read the set before: checksums and check vectors are left for `models verify`.
    #[arg(long)]
    no_verify: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// Its version [default: the active one].
    version: Option<i64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn activate(
    args: &Activate,
    context: &Context,
    store: &dyn Store,
    blobs: &Blobs,
) -> Outcome {
    let row = find(Some(args.version), store).await?;
    fits(store, &row.features).await?;
    let checked = check(&row, args.no_verify, context, blobs).await?;
    store.activate_model_set(row.version).await?;
    say(args.json, row.version, "is active", checked.as_ref());
    Ok(Done::All)
}

pub(super) async fn rollback(
    args: &Rollback,
    context: &Context,
    store: &dyn Store,
    blobs: &Blobs,
) -> Outcome {
    let none = || Fail::user("no set was active before the present one");
    let rollback = store.model_set_before().await?.ok_or_else(none)?;
    let row = find(Some(rollback.to), store).await?;
    fits(store, &row.features).await?;
    let checked = check(&row, args.no_verify, context, blobs).await?;
    // What was verified becomes active, or nothing.
    if store.rollback_model_set(rollback).await? == fleetscore_store::Outcome::Fenced {
        return Err(Fail::work(format!(
            "nothing was changed: another set was activated, or a rollback made, while model set {} was verified; see \
             `fleetscore models list`",
            row.version
        )));
    }
    say(args.json, row.version, "is active again", checked.as_ref());
    Ok(Done::All)
}

pub(super) async fn verify(args: &Verify, context: &Context, store: &dyn Store, blobs: &Blobs) -> Outcome {
    let row = find(args.version, store).await?;
    let checked = Checked::of(&row, context, blobs).await?;
    if args.json {
        output::print(&checked.json(&row).to_string());
    } else {
        checked.problems(&row);
        if checked.report.problems.is_empty() {
            output::print(&format!("model set {} is whole: {}", row.version, checked.words()));
        }
    }
    if checked.report.problems.is_empty() { Ok(Done::All) } else { Err(checked.damaged(&row)) }
}

/// A set that fits no schedule would make all runs wait, so it does not become active; what it does not fit is said.
pub(super) async fn fits(store: &dyn Store, features: &[String]) -> Result<(), Fail> {
    for unfit in models::check_activation(store, features).await? {
        eprintln!("warning: {unfit}: its runs wait until a set is active that has them");
    }
    Ok(())
}

/// A damaged set would fail every run until somebody sees it, so it does not become active.
async fn check(
    row: &ModelSetRow,
    skip: bool,
    context: &Context,
    blobs: &Blobs,
) -> Result<Option<Checked>, Fail> {
    if skip {
        return Ok(None);
    }
    let checked = Checked::of(row, context, blobs).await?;
    if checked.report.problems.is_empty() {
        return Ok(Some(checked));
    }
    checked.problems(row);
    Err(checked.damaged(row))
}

fn say(as_json: bool, version: i64, what: &str, checked: Option<&Checked>) {
    if as_json {
        output::print(
            &json!({"version": version, "active": true, "verified": checked.is_some()}).to_string(),
        );
        return;
    }
    let how = checked.map_or("not verified".to_owned(), |c| c.words());
    output::print(&format!("model set {version} {what} ({how})"));
}

/// What reading a set again gave.
struct Checked {
    report: VerifyReport,
    took: Duration,
}

impl Checked {
    async fn of(row: &ModelSetRow, context: &Context, blobs: &Blobs) -> Result<Self, Fail> {
        let started = Instant::now();
        let _spinner = output::Spinner::start("verifying");
        let report = context.shutdown.unless(models::verify(blobs, row)).await??;
        Ok(Self { report, took: started.elapsed() })
    }

    /// What was checked.
    fn words(&self) -> String {
        let (m, report) = (&self.report.manifest, &self.report);
        format!(
            "{} models, {} refused, in {} parts of {} have their checksums; {} models gave their recorded decisions again; {:.2} s",
            m.models,
            m.refused,
            m.parts.len(),
            output::bytes(set_bytes(m)),
            report.scored,
            self.took.as_secs_f64()
        )
    }

    fn problems(&self, row: &ModelSetRow) {
        for problem in self.report.problems.iter().take(SHOWN) {
            output::print(&format!("model set {}: {problem}", row.version));
        }
        let more = self.report.problems.len().saturating_sub(SHOWN);
        if more > 0 {
            output::print(&format!("… and {more} more (--json lists them)"));
        }
    }

    fn damaged(&self, row: &ModelSetRow) -> Fail {
        Fail::work(format!("model set {} is damaged", row.version))
    }

    fn json(&self, row: &ModelSetRow) -> serde_json::Value {
        let m = &self.report.manifest;
        json!({
            "version": row.version,
            "whole": self.report.problems.is_empty(),
            "models": m.models,
            "refused": m.refused,
            "parts": m.parts.len(),
            "bytes": set_bytes(m),
            "scored": self.report.scored,
            "problems": self.report.problems,
            "seconds": self.took.as_secs_f64(),
        })
    }
}
