use super::*;
use clap::Parser;
use fleetscore_store::RunCounts;

/// A run that went on for a while.
pub(super) fn run() -> RunRow {
    let at = Timestamp(1_767_225_600_000_000);
    RunRow {
        run_id: Uuid::nil(),
        schedule: "default".into(),
        interval: Interval::starting(at, 60_000_000),
        state: RunState::Running,
        cause: RunCause::Schedule,
        model_set: Some(3),
        counts: RunCounts { scored: 90, anomalies: 3, ..RunCounts::default() },
        attempt: 2,
        opened_at: at,
        started_at: Some(at),
        finished_at: None,
        error: None,
        data_only: false,
        scope: RunScope::All,
        series: None,
        shards: 4,
        shards_done: 3,
        shards_failed: 0,
        phases: Phases { read_us: 2_500_000, score_us: 12_345, ..Phases::default() },
        retry_of: None,
        stalled_at: None,
        log: None,
    }
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    list: List,
}

fn parse(line: &str) -> List {
    Line::try_parse_from(["runs"].into_iter().chain(line.split_whitespace())).unwrap().list
}

#[test]
fn flags_become_a_filter() {
    let f =
        filter(&parse("--schedule s --state failed --state partial --cause rescore --cause retry --limit 7"));
    assert_eq!((f.schedule.as_deref(), f.limit, f.overlapping), (Some("s"), 7, None));
    assert_eq!(f.states, [RunState::Failed, RunState::Partial]);
    assert_eq!(f.causes, [RunCause::Rescore, RunCause::Retry]);
    let f = filter(&parse("--from 2026-01-01 --opened-since 2026-01-02"));
    assert_eq!(f.overlapping.map(|i| i.end), Some(Timestamp::END_EVENT));
    assert_eq!(f.opened_since, Some(Timestamp(1_767_312_000_000_000)));
    assert_eq!(filter(&parse("")).limit, 20);
    assert!(Line::try_parse_from(["runs", "--cause", "weather"]).is_err());
}

#[test]
fn a_line_says_how_far_a_run_is_and_what_is_odd_about_it() {
    type Set = fn(&mut RunRow);
    let cases: [(&str, Set, &str, &str, &str); 8] = [
        ("under way", |_| (), "3/4", "-", ""),
        ("a skipped range", |r| r.shards = 0, "-", "-", ""),
        ("a shard failed", |r| r.shards_failed = 1, "3/4, 1 failed", "-", ""),
        (
            "models without data, and failed ones",
            |r| (r.counts.no_data, r.counts.model_error) = (2, 1),
            "3/4",
            "no_data 2 model_error 1",
            "",
        ),
        ("stale series alone", |r| r.scope = RunScope::Stale, "3/4", "-", "only stale series"),
        ("a filter", |r| r.series = Some("^a".into()), "3/4", "-", "only ^a"),
        (
            "failed series of a filter",
            |r| (r.scope, r.series) = (RunScope::Failed, Some("^a".into())),
            "3/4",
            "-",
            "only failed series of ^a",
        ),
        (
            "stalled",
            |r| (r.stalled_at, r.error) = (Some(r.opened_at), Some("no answer".into())),
            "3/4",
            "-",
            "stalled since 2026-01-01T00:00:00Z; no answer",
        ),
    ];
    for (name, set, shards, other, note) in cases {
        let mut r = run();
        set(&mut r);
        let row = as_row(&r);
        assert_eq!((row[7].as_str(), row[10].as_str(), row[11].as_str()), (shards, other, note), "{name}");
    }
}

#[test]
fn scripts_get_every_column_of_the_view() {
    let value = as_json(&run());
    for column in [
        "run_id",
        "schedule",
        "interval_start",
        "interval_end",
        "state",
        "cause",
        "model_set",
        "scored",
        "anomalies",
        "no_data",
        "no_model",
        "model_error",
        "input_invalid",
        "attempt",
        "started_at",
        "finished_at",
        "error",
        "data_only",
        "opened_at",
        "scope",
        "series",
        "shards",
        "shards_done",
        "shards_failed",
        "open_s",
        "read_s",
        "score_s",
        "write_s",
        "retry_of",
        "stalled_at",
        "log",
    ] {
        assert!(value.get(column).is_some(), "{column}");
    }
    assert_eq!((value["read_s"].as_f64(), value["shards_done"].as_i64()), (Some(2.5), Some(3)));
}
