//! `schedules`: what is scored, and how far it is.

use super::Context;
use crate::config::units::show_duration;
use crate::exit::{Done, Outcome};
use crate::{connect, output};
use fleetscore_store::ScheduleRow;
use serde_json::json;

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
}

pub(super) async fn run(args: &Args, context: &Context) -> Outcome {
    let store = connect::store(&context.config, &context.shutdown).await?;
    let Command::List = args.command.as_ref().unwrap_or(&Command::List);
    let rows = store.schedules().await?;
    if args.json {
        output::print(&serde_json::Value::from_iter(rows.iter().map(as_json)).to_string());
        return Ok(Done::All);
    }
    let headings = ["name", "window", "hop", "features", "catch up", "first interval", "covered until"];
    output::print(&output::table(&headings, rows.iter().map(as_row)));
    if rows.is_empty() {
        eprintln!("no schedules yet: `fleetscore up` or `fleetscore score` creates those of the settings");
    }
    Ok(Done::All)
}

fn features(s: &ScheduleRow) -> String {
    s.spec.features.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(",")
}

fn as_row(s: &ScheduleRow) -> Vec<String> {
    vec![
        s.spec.name.clone(),
        show_duration(s.spec.window_us),
        show_duration(s.spec.hop_us),
        features(s),
        s.spec.catch_up.as_str().to_owned(),
        output::time_or_dash(s.first_interval),
        output::time_or_dash(s.covered_until),
    ]
}

fn as_json(s: &ScheduleRow) -> serde_json::Value {
    json!({
        "name": s.spec.name,
        "window": show_duration(s.spec.window_us),
        "hop": show_duration(s.spec.hop_us),
        "features": s.spec.features,
        "catch_up": s.spec.catch_up,
        "max_age": s.spec.max_age_us.map(show_duration),
        "rescore_delay": show_duration(s.spec.rescore_delay_us),
        "republish_gap": show_duration(s.spec.republish_gap_us),
        "first_interval": s.first_interval.map(|t| t.to_rfc3339()),
        "covered_until": s.covered_until.map(|t| t.to_rfc3339()),
        "created_at": s.created_at.to_rfc3339(),
    })
}
