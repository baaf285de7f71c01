//! What a scorer does before it looks at anything: it makes the schedules of its settings, and says what that changes.

use crate::backoff::Backoff;
use crate::error::{Result, ScorerError};
use crate::outages::What;
use crate::service::Shared;
use fleetscore_schemas::codes::Classify;
use fleetscore_store::{ScheduleRow, ScheduleSpec};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Makes or checks the schedules; false if shutdown came first.
pub(crate) async fn prepare(shared: &Arc<Shared>, shutdown: &CancellationToken) -> Result<bool> {
    let mut backoff = Backoff::new();
    loop {
        let asked = Instant::now();
        let done = async {
            // A schedule's view is made of panes: their length must be known first.
            if shared.store.pane_settings().await?.is_none() {
                return Ok(false);
            }
            shared.store.put_readiness(&shared.options.readiness).await?;
            let stored = shared.store.schedules().await?;
            for spec in &shared.options.schedules {
                shared.store.put_schedule(spec).await?;
            }
            for line in news(&stored, &shared.options.schedules) {
                tracing::warn!("{line}");
            }
            Ok::<_, ScorerError>(true)
        };
        match done.await {
            Ok(true) => {
                shared.answered(What::Sql, asked);
                return Ok(true);
            }
            Ok(false) => {
                shared.answered(What::Sql, asked);
                shared.wait_for("nothing has been aggregated yet");
                tokio::select! {
                    () = tokio::time::sleep(shared.tick().min(Duration::from_millis(200))) => {}
                    () = shutdown.cancelled() => return Ok(false),
                }
            }
            Err(e) if e.is_transient() => {
                shared.trouble("preparing schedules", &e);
                if !backoff.wait(shutdown).await {
                    return Ok(false);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// What an operator should know of these settings: the last one to start decides, and what is in the store goes on.
fn news(stored: &[ScheduleRow], wanted: &[ScheduleSpec]) -> Vec<String> {
    let changed = wanted.iter().filter_map(|new| {
        let old = &stored.iter().find(|row| row.spec.name == new.name)?.spec;
        let changes = changes(old, new);
        (!changes.is_empty()).then(|| format!("schedule {} is changed: {}", new.name, changes.join(", ")))
    });
    let others = stored.iter().filter(|row| !wanted.iter().any(|new| new.name == row.spec.name));
    let others = others.filter(|row| row.pause.is_none() && row.spec.enabled).map(|row| {
        let name = &row.spec.name;
        format!(
            "schedule {name} is in the store and not in these settings: it goes on; `fleetscore schedules pause {name}` stops it"
        )
    });
    changed.chain(others).collect()
}

/// Settings that differ, as `key: old → new`.
fn changes(old: &ScheduleSpec, new: &ScheduleSpec) -> Vec<String> {
    let fields = |spec: &ScheduleSpec| match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let before = fields(old);
    let differs = |(key, value): &(String, serde_json::Value)| before.get(key) != Some(value);
    let null = serde_json::Value::Null;
    let told = |(key, value): (String, serde_json::Value)| {
        format!("{key}: {} → {value}", before.get(&key).unwrap_or(&null))
    };
    fields(new).into_iter().filter(differs).map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::time::Timestamp;
    use fleetscore_store::Pause;
    use uuid::Uuid;

    fn row(name: &str) -> ScheduleRow {
        ScheduleRow::new(ScheduleSpec::new(name, 60_000_000), Timestamp(0))
    }

    #[test]
    fn what_a_start_changes_is_said() {
        let paused = Some(Pause { id: Uuid::nil(), at: Timestamp(0), by: "p".into() });
        let stored = [row("default"), row("old"), ScheduleRow { pause: paused, ..row("paused") }];
        let default = || row("default").spec;
        assert_eq!(news(&[], &[default()]), [""; 0], "a new one is no news");
        let said = news(&stored, &[default()]);
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("schedule old is in the store and not in these settings"), "{said:?}");
        let other = ScheduleSpec { series: Some("^a/".into()), max_retries: 5, ..default() };
        let said = news(&stored[..1], &[other]);
        assert_eq!(said, ["schedule default is changed: max_retries: 2 → 5, series: null → \"^a/\""]);
    }
}
