//! What became of a range, for people and for scripts.

use crate::output;
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::Interval;
use fleetscore_scorer::range::{LabelChange, RangeInterval, RangeReport};
use serde_json::{Value, json};

/// What was asked for, as far as a report repeats it.
pub(in crate::cli) struct Asked<'a> {
    pub(in crate::cli) dry_run: bool,
    pub(in crate::cli) scope: RunScope,
    pub(in crate::cli) series: Option<&'a str>,
}

/// Results to standard output; warnings and what was left out to standard error, and to scripts in the JSON as well.
pub(super) fn print(report: &RangeReport, asked: &Asked<'_>, as_json: bool) {
    for warning in report.warnings() {
        eprintln!("warning: {warning}");
    }
    if as_json {
        output::print(&json(report, asked).to_string());
        return;
    }
    let headings = [
        "interval",
        "state",
        "set",
        "scored",
        "anomalies",
        "no_data",
        "no_model",
        "model_error",
        "input_invalid",
        "note",
    ];
    output::print(&output::table(&headings, report.intervals.iter().map(interval_row)));
    for change in report.intervals.iter().flat_map(|i| i.changes.iter().map(move |c| change_text(i, c))) {
        output::print(&change);
    }
    if asked.dry_run && !report.intervals.is_empty() && report.intervals.iter().all(|i| i.changes.is_empty())
    {
        output::print("no label would change");
    }
    for (interval, why) in &report.unready {
        eprintln!("skipped {interval}: not ready: {why}");
    }
    for (interval, why) in &report.without_set {
        eprintln!("skipped {interval}: {why}");
    }
    if report.intervals.is_empty() && report.unready.is_empty() && report.without_set.is_empty() {
        eprintln!("{}", nothing(asked));
    }
}

fn nothing(asked: &Asked<'_>) -> &'static str {
    match (asked.scope, asked.series) {
        (RunScope::Stale, _) => "nothing in the range is stale",
        (RunScope::Failed, _) => "no model failed in the range",
        (RunScope::All, Some(_)) => "no interval in the range has data of these series",
        (RunScope::All, None) => "no interval in the range has data",
    }
}

/// The set that all intervals were scored with; `None` where there are several, or none.
fn one_set(report: &RangeReport) -> Option<i64> {
    let first = report.intervals.first()?.model_set;
    first.filter(|_| report.intervals.iter().all(|i| i.model_set == first))
}

fn json(report: &RangeReport, asked: &Asked<'_>) -> Value {
    let left_out = |all: &[(Interval, String)]| {
        Value::from_iter(all.iter().map(|(i, why)| {
            json!({
                "interval_start": i.start.to_rfc3339(),
                "interval_end": i.end.to_rfc3339(),
                "why": why,
            })
        }))
    };
    json!({
        "model_set": one_set(report),
        "dry_run": asked.dry_run,
        "scope": asked.scope,
        "series": asked.series,
        "intervals": report.intervals.iter().map(interval_json).collect::<Vec<_>>(),
        "unready": left_out(&report.unready),
        "without_set": left_out(&report.without_set),
        "warnings": report.warnings(),
        "stopped": report.stopped,
    })
}

fn interval_row(i: &RangeInterval) -> Vec<String> {
    let c = i.counts;
    vec![
        output::time(i.interval.start),
        i.state.map_or("dry run".to_owned(), |s| s.to_string()),
        i.model_set.map_or("-".to_owned(), |v| v.to_string()),
        c.scored.to_string(),
        c.anomalies.to_string(),
        c.no_data.to_string(),
        c.no_model.to_string(),
        c.model_error.to_string(),
        c.input_invalid.to_string(),
        i.error.clone().unwrap_or_default(),
    ]
}

fn label(row: &Option<(String, Option<i16>)>) -> String {
    match row {
        None => "nothing".to_owned(),
        Some((status, None)) => status.clone(),
        Some((_, Some(prediction))) => prediction.to_string(),
    }
}

fn change_text(i: &RangeInterval, c: &LabelChange) -> String {
    format!("{}  {}: {} → {}", output::time(i.interval.start), c.series, label(&c.before), label(&c.after))
}

fn interval_json(i: &RangeInterval) -> Value {
    let changes = i.changes.iter().map(|c| {
        json!({
            "device": c.series.device, "sensor": c.series.sensor, "before": label(&c.before), "after": label(&c.after),
        })
    });
    json!({
        "interval_start": i.interval.start.to_rfc3339(),
        "interval_end": i.interval.end.to_rfc3339(),
        "run_id": i.run_id.map(|r| r.to_string()),
        "state": i.state,
        "model_set": i.model_set,
        "trained_until": i.trained_until.map(|t| t.to_rfc3339()),
        "counts": i.counts,
        // Only a dry run compares.
        "changes": i.run_id.is_none().then(|| changes.collect::<Vec<_>>()),
        "error": i.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::SeriesName;
    use fleetscore_schemas::status::RunState;
    use fleetscore_schemas::time::Timestamp;
    use fleetscore_store::RunCounts;

    const T: Timestamp = Timestamp(1_767_225_600_000_000);
    const ALL: Asked<'static> = Asked { dry_run: false, scope: RunScope::All, series: None };

    fn interval(set: i64) -> RangeInterval {
        RangeInterval {
            interval: Interval::starting(T, 60_000_000),
            run_id: None,
            state: None,
            model_set: Some(set),
            trained_until: None,
            counts: RunCounts { scored: 5, anomalies: 1, ..RunCounts::default() },
            changes: vec![LabelChange {
                series: SeriesName { device: "a".into(), sensor: "x".into() },
                before: Some(("scored".into(), Some(0))),
                after: Some(("no_model".into(), None)),
            }],
            error: None,
        }
    }

    #[test]
    fn a_change_is_told_by_its_labels() {
        let i = interval(3);
        assert_eq!(change_text(&i, &i.changes[0]), "2026-01-01T00:00:00Z  a/x: 0 → no_model");
        assert_eq!(label(&None), "nothing");
        assert_eq!(interval_row(&i)[..4], ["2026-01-01T00:00:00Z", "dry run", "3", "5"]);
        let done =
            RangeInterval { state: Some(RunState::Partial), error: Some("1 models failed".into()), ..i };
        assert_eq!(
            (interval_row(&done)[1].as_str(), interval_row(&done)[9].as_str()),
            ("partial", "1 models failed")
        );
    }

    #[test]
    fn scripts_get_one_set_where_it_is_one_and_each_where_they_are_several() {
        let report = |sets: &[i64]| RangeReport {
            intervals: sets.iter().map(|s| interval(*s)).collect(),
            ..RangeReport::default()
        };
        assert_eq!(one_set(&report(&[3, 3])), Some(3));
        assert_eq!(one_set(&report(&[3, 4])), None);
        assert_eq!(one_set(&report(&[])), None);
        let value = json(&report(&[3, 4]), &ALL);
        assert!(value["model_set"].is_null());
        assert_eq!(value["intervals"][1]["model_set"], 4);
        assert_eq!(value["intervals"][0]["changes"][0]["after"], "no_model");
    }

    #[test]
    fn models_that_knew_the_future_are_warned_of() {
        let late = RangeInterval { trained_until: Some(T.plus_us(1)), ..interval(3) };
        let report = RangeReport { intervals: vec![late], ..RangeReport::default() };
        let value = json(&report, &ALL);
        assert!(
            value["warnings"][0].as_str().is_some_and(|w| w.contains("model set 3 was trained")),
            "{value}"
        );
        assert_eq!(value["intervals"][0]["trained_until"], "2026-01-01T00:00:00.000001Z");
    }

    #[test]
    fn what_was_left_out_is_named_with_its_reason() {
        let i = Interval::starting(T, 60_000_000);
        let report = RangeReport {
            unready: vec![(i, "readings/0".into())],
            without_set: vec![(i, "no set was active".into())],
            ..RangeReport::default()
        };
        let asked = Asked { dry_run: true, scope: RunScope::Stale, series: Some("^a") };
        let value = json(&report, &asked);
        assert_eq!(value["unready"][0]["why"], "readings/0");
        assert_eq!(value["without_set"][0]["why"], "no set was active");
        assert_eq!((value["scope"].as_str(), value["series"].as_str()), (Some("stale"), Some("^a")));
        assert_eq!(value["dry_run"], true);
        assert_eq!(nothing(&asked), "nothing in the range is stale");
        assert_eq!(nothing(&ALL), "no interval in the range has data");
    }
}
