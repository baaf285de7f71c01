//! `schedules show`: one schedule, with what it waits for and what of it is under way.

use super::super::Context;
use super::super::runs;
use super::{as_json, find, next, state};
use crate::exit::{Done, Fail, Outcome};
use crate::output;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::Timestamp;
use fleetscore_settings::describe;
use fleetscore_store::{RunFilter, RunRow, ScheduleRow, Store};
use serde_json::{Value, json};

/// Open runs that a person is shown.
const OPEN: usize = 20;

pub(super) async fn run(name: &str, as_object: bool, context: &Context, store: &dyn Store) -> Outcome {
    let row = find(name, store).await?;
    let now = store.now().await?;
    let waits_for = next::waits_for(&row, context, store).await?;
    let open = open_runs(name, store).await?;
    if as_object {
        let mut value = as_json(&row, now);
        value["waits_for"] = json!(waits_for);
        value["open_runs"] = Value::from_iter(open.iter().map(runs::as_json));
        output::print(&value.to_string());
        return Ok(Done::All);
    }
    let settings =
        describe(&row.spec).into_iter().map(|(key, v)| vec![key.to_owned(), v.unwrap_or_default()]);
    output::print(&output::table(&["setting", "value"], settings));
    let standing = standing(&row, now, waits_for).into_iter().map(|(key, v)| vec![key.to_owned(), v]);
    output::print(&format!("\n{}", output::table(&["standing", ""], standing)));
    if open.is_empty() {
        output::print("\nno open runs");
    } else {
        output::print(&format!("\n{}", runs::listed(&open[..open.len().min(OPEN)])));
        if open.len() > OPEN {
            output::print(&format!(
                "and {} more open runs: `runs list --schedule {name}`",
                open.len() - OPEN
            ));
        }
    }
    Ok(Done::All)
}

async fn open_runs(name: &str, store: &dyn Store) -> Result<Vec<RunRow>, Fail> {
    let filter = RunFilter {
        schedule: Some(name.to_owned()),
        states: vec![RunState::Waiting, RunState::Running],
        ..RunFilter::default()
    };
    Ok(store.runs(&filter).await?)
}

/// Where it stands, what is not so left out.
fn standing(s: &ScheduleRow, now: Timestamp, waits_for: Option<String>) -> Vec<(&'static str, String)> {
    let time = |t: Option<Timestamp>| t.map(output::time);
    let until =
        |t: Timestamp| format!("up to {}: what was ready when a scheduler came back", output::time(t));
    [
        ("state", Some(state(s, now))),
        ("first interval", time(s.first_interval)),
        ("covered until", time(s.covered_until)),
        ("waits for", waits_for),
        ("catches up", s.missed.map(|m| until(m.until))),
        ("last fire", time(s.fired_at)),
        ("released until", time(s.released_until)),
        ("roster until", time(s.roster_until)),
        ("last look", time(s.looked_at)),
        ("created", time(Some(s.created_at))),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn only_what_is_so_is_said() {
        let mut s = row("default");
        let keys =
            |s: &ScheduleRow| standing(s, s.created_at, None).into_iter().map(|(k, _)| k).collect::<Vec<_>>();
        assert_eq!(keys(&s), ["state", "created"]);
        s.covered_until = Some(s.created_at);
        s.looked_at = Some(s.created_at);
        assert_eq!(keys(&s), ["state", "covered until", "last look", "created"]);
        let said = standing(&s, s.created_at, Some("readings/0: its watermark".into()));
        assert!(said.contains(&("waits for", "readings/0: its watermark".to_owned())), "{said:?}");
    }
}
