//! `runs show`: everything that is known of one run.

use super::super::Context;
use super::{as_json, find, other, phases_json, seconds, shards};
use crate::exit::{Done, Fail, Outcome};
use crate::output;
use fleetscore_schemas::status::TaskState;
use fleetscore_schemas::time::Timestamp;
use fleetscore_settings::mask;
use fleetscore_store::{Phases, RunEvent, RunRow, SeriesRange, Store, TaskRow};
use serde_json::{Value, json};
use std::collections::HashMap;
use uuid::Uuid;

/// Reasons that are shown, most frequent first.
const REASONS: usize = 20;

/// A run with what belongs to it.
struct Whole {
    run: RunRow,
    events: Vec<RunEvent>,
    tasks: Vec<TaskRow>,
    /// Why models failed, with how many.
    failures: Vec<(String, i64)>,
    /// Why shards failed, with how many.
    shard_failures: Vec<(String, i64)>,
    /// Where the log is, for people.
    log: Option<String>,
}

pub(super) async fn run(run_id: Uuid, as_object: bool, context: &Context, store: &dyn Store) -> Outcome {
    let whole = Whole::find(run_id, &context.config.blobs, store).await?;
    if as_object {
        output::print(&whole.json().to_string());
        return Ok(Done::All);
    }
    let fields = whole.fields().into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    output::print(&output::table(&["field", "value"], fields));
    for (what, headings, rows) in whole.tables() {
        if !rows.is_empty() {
            output::print(&format!("\n{what}\n{}", output::table(headings, rows)));
        }
    }
    Ok(Done::All)
}

impl Whole {
    async fn find(run_id: Uuid, blobs: &str, store: &dyn Store) -> Result<Self, Fail> {
        let run = find(run_id, store).await?;
        let events = store.run_events(run_id).await?;
        let tasks = store.run_tasks(run_id).await?;
        let failures = match run.counts.model_error {
            0 => Vec::new(),
            _ => store.run_failures(run_id, REASONS).await?,
        };
        let log = run.log.as_deref().map(|path| place(blobs, path));
        let shard_failures = grouped(&tasks);
        Ok(Self { run, events, tasks, failures, shard_failures, log })
    }

    fn json(&self) -> Value {
        let mut value = as_json(&self.run);
        value["log_url"] = json!(self.log);
        value["events"] = Value::from_iter(self.events.iter().map(event_json));
        value["tasks"] = Value::from_iter(self.tasks.iter().map(task_json));
        value["model_failures"] = reasons_json(&self.failures, "models");
        value["shard_failures"] = reasons_json(&self.shard_failures, "shards");
        value
    }

    /// What a person is told first; what does not apply is left out.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let r = &self.run;
        let time = |t: Option<Timestamp>| t.map(output::time);
        let series = r.series.as_deref().map_or(String::new(), |s| format!(" of `{s}`"));
        let data_only = if r.data_only { ", with data alone" } else { "" };
        [
            ("run", Some(r.run_id.to_string())),
            ("schedule", Some(r.schedule.clone())),
            (
                "interval",
                Some(format!("{} .. {}", output::time(r.interval.start), output::time(r.interval.end))),
            ),
            ("state", Some(r.state.to_string())),
            ("cause", Some(r.cause.to_string())),
            ("error", r.error.clone()),
            ("stalled since", time(r.stalled_at)),
            ("model set", r.model_set.map(|v| v.to_string())),
            ("series", Some(format!("{}{series}{data_only}", r.scope))),
            ("retry of", r.retry_of.map(|id| id.to_string())),
            ("shards", Some(shards(r))),
            ("attempts", Some(r.attempt.to_string())),
            ("scored", Some(format!("{}, {} of them anomalies", r.counts.scored, r.counts.anomalies))),
            ("other", Some(other(r))),
            ("opened", time(Some(r.opened_at))),
            ("started", time(r.started_at)),
            ("finished", time(r.finished_at)),
            ("phases", Some(phases(&r.phases))),
            ("log", self.log.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    fn tables(&self) -> Vec<(&'static str, &'static [&'static str], Vec<Vec<String>>)> {
        let reasons = |of: &[(String, i64)]| of.iter().map(|(r, n)| vec![n.to_string(), r.clone()]).collect();
        vec![
            (
                "What happened",
                &["at", "event", "shard", "worker", "detail"],
                self.events.iter().map(event_row).collect(),
            ),
            ("Why shards failed", &["shards", "error"], reasons(&self.shard_failures)),
            ("Why models failed", &["models", "error"], reasons(&self.failures)),
            (
                "Shards",
                &["shard", "series", "state", "tries", "worker", "rows", "phases", "error"],
                self.tasks.iter().map(task_row).collect(),
            ),
        ]
    }
}

/// A path below the root of blob storage, with its secrets masked.
fn place(blobs: &str, path: &str) -> String {
    format!("{}/{path}", mask::text(blobs).trim_end_matches('/'))
}

/// Errors of the shards that failed, most frequent first.
fn grouped(tasks: &[TaskRow]) -> Vec<(String, i64)> {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    for task in tasks.iter().filter(|t| t.state == TaskState::Failed) {
        *counts.entry(task.error.as_deref().unwrap_or("no reason was recorded")).or_default() += 1;
    }
    let mut grouped: Vec<(String, i64)> = counts.into_iter().map(|(e, n)| (e.to_owned(), n)).collect();
    grouped.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    grouped
}

fn reasons_json(reasons: &[(String, i64)], what: &str) -> Value {
    Value::from_iter(reasons.iter().map(|(error, n)| json!({"error": error, (what): n})))
}

fn phases(p: &Phases) -> String {
    let parts = [("open", p.open_us), ("read", p.read_us), ("score", p.score_us), ("write", p.write_us)];
    parts.map(|(name, us)| format!("{name} {}", took(us))).join(", ")
}

/// A time with as many digits as tell something.
fn took(us: i64) -> String {
    match us {
        us if us < 1_000_000 => format!("{} ms", us / 1000),
        us => format!("{:.1} s", seconds(us)),
    }
}

fn range(r: SeriesRange) -> String {
    match r.until {
        None if r.from == 0 => "all".to_owned(),
        None => format!("{} ..", r.from),
        Some(until) => format!("{} .. {}", r.from, i64::from(until) - 1),
    }
}

fn event_row(e: &RunEvent) -> Vec<String> {
    vec![
        output::time(e.at),
        e.event.clone(),
        e.shard.map_or(String::new(), |s| s.to_string()),
        e.worker.clone().unwrap_or_default(),
        e.detail.clone().unwrap_or_default(),
    ]
}

fn event_json(e: &RunEvent) -> Value {
    json!({
        "at": e.at.to_rfc3339(),
        "event": e.event,
        "shard": e.shard,
        "worker": e.worker,
        "detail": e.detail,
    })
}

fn task_row(t: &TaskRow) -> Vec<String> {
    let lease = match (t.state, t.lease_until) {
        (TaskState::Open, Some(until)) => format!("open, leased until {}", output::time(until)),
        (state, _) => state.to_string(),
    };
    vec![
        t.shard.to_string(),
        range(t.range),
        lease,
        t.tries.to_string(),
        t.worker.clone().unwrap_or_else(|| "-".to_owned()),
        t.counts.rows().to_string(),
        if t.state == TaskState::Done { phases(&t.phases) } else { "-".to_owned() },
        t.error.clone().unwrap_or_default(),
    ]
}

fn task_json(t: &TaskRow) -> Value {
    let mut value = json!({
        "shard": t.shard,
        "series_from": t.range.from,
        "series_until": t.range.until,
        "state": t.state,
        "attempt": t.attempt,
        "tries": t.tries,
        "worker": t.worker,
        "lease_until": t.lease_until.map(|t| t.to_rfc3339()),
        "updated_at": t.updated_at.to_rfc3339(),
        "error": t.error,
    });
    let counts = serde_json::to_value(t.counts).unwrap_or_default();
    for more in [counts, phases_json(&t.phases)] {
        if let (Some(all), Value::Object(more)) = (value.as_object_mut(), more) {
            all.extend(more);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use fleetscore_store::RunCounts;

    fn task(shard: i32, state: TaskState, error: Option<&str>) -> TaskRow {
        let at = Timestamp(1_767_225_600_000_000);
        TaskRow {
            run_id: Uuid::nil(),
            shard,
            range: SeriesRange { from: 1, until: Some(50_001) },
            state,
            attempt: 4,
            tries: 3,
            worker: Some("w".into()),
            lease_until: Some(at),
            counts: RunCounts { scored: 7, ..RunCounts::default() },
            phases: Phases { read_us: 1_500_000, ..Phases::default() },
            error: error.map(str::to_owned),
            updated_at: at,
        }
    }

    fn whole() -> Whole {
        let tasks = vec![
            task(0, TaskState::Done, None),
            task(1, TaskState::Failed, Some("no answer")),
            task(2, TaskState::Failed, Some("damaged")),
            task(3, TaskState::Failed, Some("no answer")),
            task(4, TaskState::Open, Some("no answer")),
        ];
        let at = tasks[0].updated_at;
        let events = vec![
            RunEvent { at, event: "running".into(), shard: None, worker: None, detail: None },
            RunEvent {
                at,
                event: "retrying".into(),
                shard: Some(1),
                worker: Some("w".into()),
                detail: Some("no answer".into()),
            },
        ];
        let (failures, shard_failures) = (vec![("not a number".to_owned(), 9)], grouped(&tasks));
        Whole {
            run: run(),
            events,
            tasks,
            failures,
            shard_failures,
            log: Some("file:///b/logs/x.log".into()),
        }
    }

    #[test]
    fn shards_are_grouped_by_what_they_failed_of() {
        assert_eq!(whole().shard_failures, [("no answer".to_owned(), 2), ("damaged".to_owned(), 1)]);
        assert!(
            grouped(&[task(0, TaskState::Open, Some("an attempt that failed is tried again"))]).is_empty()
        );
    }

    #[test]
    fn shards_say_which_series_they_are() {
        for (from, until, said) in
            [(0, None, "all"), (0, Some(10), "0 .. 9"), (10, Some(20), "10 .. 19"), (20, None, "20 ..")]
        {
            assert_eq!(range(SeriesRange { from, until }), said);
        }
    }

    #[test]
    fn a_log_is_below_the_root_of_blob_storage_without_secrets() {
        assert_eq!(place("file:///b/", "logs/x.log"), "file:///b/logs/x.log");
        let azure = place("https://a.blob.core.windows.net/c?sig=s3cret", "logs/x.log");
        assert!(!azure.contains("s3cret"), "{azure}");
    }

    #[test]
    fn a_person_sees_what_happened_shard_by_shard() {
        let whole = whole();
        let fields = whole.fields();
        let field = |name: &str| fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        assert_eq!(field("interval"), Some("2026-01-01T00:00:00Z .. 2026-01-01T00:01:00Z"));
        assert_eq!(field("scored"), Some("90, 3 of them anomalies"));
        assert_eq!(field("phases"), Some("open 0 ms, read 2.5 s, score 12 ms, write 0 ms"));
        assert_eq!((field("stalled since"), field("retry of")), (None, None), "what is not so is left out");
        let tables = whole.tables();
        assert_eq!(tables[0].2[1][1..], ["retrying", "1", "w", "no answer"]);
        assert_eq!(tables[1].2[0], ["2", "no answer"]);
        assert_eq!(tables[2].2[0], ["9", "not a number"]);
        let shards = &tables[3].2;
        assert_eq!(shards[0][..6], ["0", "1 .. 50000", "done", "3", "w", "7"]);
        assert_eq!(shards[4][2], "open, leased until 2026-01-01T00:00:00Z");
        assert!(tables.iter().all(|(_, headings, rows)| rows.iter().all(|r| r.len() == headings.len())));
    }

    #[test]
    fn a_script_sees_all_of_it() {
        let value = whole().json();
        assert_eq!(value["events"][1]["shard"], 1);
        assert_eq!(value["tasks"][1]["error"], "no answer");
        assert_eq!(
            (value["tasks"][0]["scored"].as_i64(), value["tasks"][0]["read_s"].as_f64()),
            (Some(7), Some(1.5))
        );
        assert_eq!(value["shard_failures"][0]["shards"], 2);
        assert_eq!(value["model_failures"][0]["models"], 9);
        assert_eq!(value["log_url"], "file:///b/logs/x.log");
    }
}
