//! A schedule as its table in the file would say it.

use super::super::read::show_off;
use super::super::units::show_duration;
use fleetscore_store::{ScheduleSpec, Trigger};

/// Every setting with its value as text, in the order of the documentation; `None` = not set.
pub fn describe(s: &ScheduleSpec) -> Vec<(&'static str, Option<String>)> {
    let features: Vec<&str> = s.features.iter().map(|f| f.as_str()).collect();
    let (cron, zone) = match &s.trigger {
        Trigger::Cron { expression, time_zone } => (Some(expression.clone()), time_zone.clone()),
        Trigger::Interval | Trigger::Manual => (None, "UTC".to_owned()),
    };
    let number_or = |n: Option<String>, none: &str| Some(n.unwrap_or_else(|| none.to_owned()));
    let t = &s.thresholds;
    vec![
        ("window", Some(show_duration(s.window_us))),
        ("hop", Some(show_duration(s.hop_us))),
        ("features", Some(features.join(", "))),
        ("trigger", Some(s.trigger.as_str().to_owned())),
        ("cron", cron),
        ("time_zone", Some(zone)),
        ("enabled", Some(s.enabled.to_string())),
        ("series", s.series.clone()),
        ("model_set", number_or(s.model_set.map(|v| v.to_string()), "active")),
        ("catch_up", Some(s.catch_up.as_str().to_owned())),
        ("max_age", Some(show_off(s.max_age_us))),
        ("max_runs", number_or(s.max_runs.map(|n| n.to_string()), "off")),
        ("rescore_delay", Some(show_off(s.rescore_delay_us))),
        ("rescores_per_minute", number_or(s.rescores_per_minute.map(|n| n.to_string()), "off")),
        ("error_threshold", Some(t.error_threshold.to_string())),
        ("mini_batch_error_threshold", Some(t.mini_batch_error_threshold.to_string())),
        ("allowed_failed_percent", Some(t.allowed_failed_percent.to_string())),
        ("max_retries", Some(s.max_retries.to_string())),
        ("timeout", Some(show_duration(s.timeout_us))),
        ("stall_after", Some(show_duration(s.stall_after_us))),
        ("shards", number_or(s.shards.map(|n| n.to_string()), "auto")),
        ("silence", Some(show_off(s.silence_us))),
        ("keep", Some(s.keep.as_str().to_owned())),
        ("republish_gap", Some(show_duration(s.republish_gap_us))),
    ]
}
