//! `schedules`: what is scored and when, how far it is, and why it did not.

mod fires;
mod next;
mod pause;
mod show;

use super::Context;
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, output};
use fleetscore_schemas::time::{Timestamp, US_PER_S};
use fleetscore_settings::units::show_duration;
use fleetscore_store::{ScheduleRow, Store, Trigger};
use serde_json::{Value, json};

/// A schedule that no planner has looked at for longer has no scheduler: as the planner itself judges it.
const ALONE_US: i64 = 60 * US_PER_S;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All schedules.
    List,
    /// One schedule: all its settings, where it stands, what it waits for, its open runs.
    Show {
        /// Its name.
        name: String,
    },
    /// Stop it for a while. What becomes ready meanwhile is passed over, and stays so.
    Pause {
        /// Its name.
        name: String,
    },
    /// Let it go on, with what becomes ready from now on.
    Resume {
        /// Its name.
        name: String,
    },
    /// What it will do next: times of the clock, or intervals and when they can be ready at the earliest.
    Next(next::Args),
    /// What was passed over and why, and fires that were made; newest first.
    Fires(fires::Args),
}

pub(super) async fn run(args: &Args, context: &Context) -> Outcome {
    let store = connect::store(&context.config, &context.shutdown).await?;
    match args.command.as_ref().unwrap_or(&Command::List) {
        Command::List => list(args.json, &*store).await,
        Command::Show { name } => show::run(name, args.json, context, &*store).await,
        Command::Pause { name } => pause::pause(name, args.json, &*store).await,
        Command::Resume { name } => pause::resume(name, args.json, context, store).await,
        Command::Next(next) => next::run(next, args.json, context, &*store).await,
        Command::Fires(fires) => fires::run(fires, args.json, context, &*store).await,
    }
}

async fn list(as_objects: bool, store: &dyn Store) -> Outcome {
    let (rows, now) = (store.schedules().await?, store.now().await?);
    if as_objects {
        output::print(&Value::from_iter(rows.iter().map(|s| as_json(s, now))).to_string());
        return Ok(Done::All);
    }
    let headings = [
        "name",
        "trigger",
        "window",
        "hop",
        "features",
        "catch up",
        "first interval",
        "covered until",
        "state",
    ];
    output::print(&output::table(&headings, rows.iter().map(|s| as_row(s, now))));
    if rows.is_empty() {
        eprintln!("no schedules yet: `fleetscore up` or `fleetscore score` creates those of the settings");
    }
    Ok(Done::All)
}

/// The stored schedule of this name.
///
/// # Errors
/// A user error that names those there are.
pub(super) async fn find(name: &str, store: &dyn Store) -> Result<ScheduleRow, Fail> {
    let rows = store.schedules().await?;
    let names: Vec<String> = rows.iter().map(|s| s.spec.name.clone()).collect();
    rows.into_iter().find(|s| s.spec.name == name).ok_or_else(|| Fail::user(of_names(name, &names)))
}

/// That there is no schedule of this name, and which there are.
pub(super) fn of_names(name: &str, names: &[String]) -> String {
    match names.is_empty() {
        true => format!("there is no schedule `{name}`: `up` or `score` creates those of the settings"),
        false => format!("there is no schedule `{name}`; there are: {}", names.join(", ")),
    }
}

fn features(s: &ScheduleRow) -> String {
    s.spec.features.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(",")
}

/// What makes it open runs, in a word or with its expression.
fn trigger(t: &Trigger) -> String {
    match t {
        Trigger::Interval | Trigger::Manual => t.as_str().to_owned(),
        Trigger::Cron { expression, time_zone } => format!("cron {expression} ({time_zone})"),
    }
}

/// Whether it does what it should, and who or what keeps it from it.
fn state(s: &ScheduleRow, now: Timestamp) -> String {
    if let Some(pause) = &s.pause {
        return format!("paused since {} by {}", output::time(pause.at), pause.by);
    }
    if !s.spec.enabled {
        return "disabled by its settings".to_owned();
    }
    if s.spec.trigger == Trigger::Manual {
        return "scores when asked".to_owned();
    }
    match s.looked_at {
        Some(at) if now.0 - at.0 <= ALONE_US => "runs".to_owned(),
        Some(at) => format!("nobody looks: no `up` or `score` since {}", output::time(at)),
        None => "nobody looks: no `up` or `score` has run yet".to_owned(),
    }
}

fn as_row(s: &ScheduleRow, now: Timestamp) -> Vec<String> {
    vec![
        s.spec.name.clone(),
        trigger(&s.spec.trigger),
        show_duration(s.spec.window_us),
        show_duration(s.spec.hop_us),
        features(s),
        s.spec.catch_up.as_str().to_owned(),
        output::time_or_dash(s.first_interval),
        output::time_or_dash(s.covered_until),
        state(s, now),
    ]
}

/// Settings under their names, `null` where one is off, unset or decided by itself; then where it stands.
fn as_json(s: &ScheduleRow, now: Timestamp) -> Value {
    let time = |t: Option<Timestamp>| t.map(Timestamp::to_rfc3339);
    let mut value = settings_json(s);
    let standing = json!({
        "state": state(s, now),
        "paused_at": time(s.pause.as_ref().map(|p| p.at)),
        "paused_by": s.pause.as_ref().map(|p| &p.by),
        "first_interval": time(s.first_interval),
        "covered_until": time(s.covered_until),
        "looked_at": time(s.looked_at),
        "missed_until": time(s.missed.map(|m| m.until)),
        "fired_at": time(s.fired_at),
        "released_until": time(s.released_until),
        "roster_until": time(s.roster_until),
        "created_at": s.created_at.to_rfc3339(),
    });
    if let (Some(all), Value::Object(more)) = (value.as_object_mut(), standing) {
        all.extend(more);
    }
    value
}

fn settings_json(s: &ScheduleRow) -> Value {
    let (s, t) = (&s.spec, &s.spec.thresholds);
    let (cron, zone) = match &s.trigger {
        Trigger::Cron { expression, time_zone } => (Some(expression), Some(time_zone)),
        Trigger::Interval | Trigger::Manual => (None, None),
    };
    json!({
        "name": s.name,
        "window": show_duration(s.window_us),
        "hop": show_duration(s.hop_us),
        "features": s.features,
        "trigger": s.trigger.as_str(),
        "cron": cron,
        "time_zone": zone,
        "enabled": s.enabled,
        "series": s.series,
        "model_set": s.model_set,
        "catch_up": s.catch_up,
        "max_age": s.max_age_us.map(show_duration),
        "max_runs": s.max_runs,
        "rescore_delay": s.rescore_delay_us.map(show_duration),
        "rescores_per_minute": s.rescores_per_minute,
        "error_threshold": t.error_threshold,
        "mini_batch_error_threshold": t.mini_batch_error_threshold,
        "allowed_failed_percent": t.allowed_failed_percent,
        "max_retries": s.max_retries,
        "timeout": show_duration(s.timeout_us),
        "stall_after": show_duration(s.stall_after_us),
        "shards": s.shards,
        "silence": s.silence_us.map(show_duration),
        "keep": s.keep,
        "republish_gap": show_duration(s.republish_gap_us),
    })
}

#[cfg(test)]
mod tests;
