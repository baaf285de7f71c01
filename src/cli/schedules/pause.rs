//! `schedules pause` and `schedules resume`.

use super::super::Context;
use super::super::models::created_by;
use super::find;
use crate::connect::patiently;
use crate::exit::{Done, Outcome};
use crate::output;
use fleetscore_store::Store;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn pause(name: &str, as_json: bool, store: &dyn Store) -> Outcome {
    find(name, store).await?;
    let changed = store.pause_schedule(name, Some(&created_by())).await?;
    let row = find(name, store).await?;
    if as_json {
        output::print(&json!({"schedule": name, "paused": true, "changed": changed}).to_string());
        return Ok(Done::All);
    }
    match row.pause.filter(|_| !changed) {
        Some(p) => {
            output::print(&format!("{name} is paused already, since {} by {}", output::time(p.at), p.by));
        }
        None => output::print(&format!(
            "{name} is paused: what becomes ready from now on is passed over; `run` still scores what it is asked to"
        )),
    }
    Ok(Done::All)
}

/// What the pause passed over is written down first: also where no planner was running meanwhile.
pub(super) async fn resume(name: &str, as_json: bool, context: &Context, store: Arc<dyn Store>) -> Outcome {
    find(name, &*store).await?;
    let call = || fleetscore_scorer::resume(Arc::clone(&store), name);
    let changed = patiently("the store", &context.shutdown, call).await?;
    if as_json {
        output::print(&json!({"schedule": name, "paused": false, "changed": changed}).to_string());
        return Ok(Done::All);
    }
    output::print(&resumed(name, changed));
    Ok(Done::All)
}

fn resumed(name: &str, changed: bool) -> String {
    match changed {
        true => format!(
            "{name} goes on; what the pause passed over stays so (`schedules fires {name}` has the range, `run` scores it)"
        ),
        false => format!("{name} is not paused"),
    }
}
