//! What the values of a schedule's settings may be.

use super::super::units::{duration_or_off, duration_us, show_duration};
use fleetscore_store::{CatchUp, Keep};

pub(super) fn multiple_of_pane(what: &'static str, pane_us: i64) -> impl Fn(&str) -> Result<i64, String> {
    move |text| match duration_us(text)? {
        us if us <= 0 || us % pane_us != 0 => Err(format!(
            "`{text}`: a {what} is a multiple of the pane (interval = {})",
            show_duration(pane_us)
        )),
        us => Ok(us),
    }
}

/// A duration that is not shorter than this.
pub(super) fn duration_from(least_us: i64) -> impl Fn(&str) -> Result<i64, String> {
    move |text| at_least(duration_us(text)?, least_us, text)
}

/// The same, or `off`.
pub(crate) fn off_or_from(least_us: i64) -> impl Fn(&str) -> Result<Option<i64>, String> {
    move |text| match duration_or_off(text)? {
        Some(us) => at_least(us, least_us, text).map(Some),
        None => Ok(None),
    }
}

fn at_least(us: i64, least_us: i64, text: &str) -> Result<i64, String> {
    match us < least_us {
        true => Err(format!("`{text}` is too short: at least {}", show_duration(least_us))),
        false => Ok(us),
    }
}

/// A whole number from here on.
pub(super) fn whole(least: u32) -> impl Fn(&str) -> Result<u32, String> {
    move |text| match text.trim().replace('_', "").parse::<u32>() {
        Ok(n) if n >= least => Ok(n),
        _ => Err(format!("`{text}` is not a whole number from {least} to {}", u32::MAX)),
    }
}

/// A number from 1 on, or the word for none.
pub(super) fn count_or(none: &'static str, most: u32) -> impl Fn(&str) -> Result<Option<u32>, String> {
    move |text| match text.trim().replace('_', "").parse::<u32>() {
        _ if text.trim() == none => Ok(None),
        Ok(n) if (1..=most).contains(&n) => Ok(Some(n)),
        _ => Err(format!("`{text}` is neither a whole number from 1 to {most} nor `{none}`")),
    }
}

/// So many may fail; −1 = any number.
pub(super) fn threshold(text: &str) -> Result<i64, String> {
    match text.trim().replace('_', "").parse::<i64>() {
        Ok(n) if n >= -1 => Ok(n),
        _ => Err(format!("`{text}` is not a whole number from 0 on, nor -1 (all failures are ignored)")),
    }
}

pub(super) fn percent(text: &str) -> Result<i64, String> {
    match threshold(text) {
        Ok(n) if n <= 100 => Ok(n),
        _ => Err(format!("`{text}` is not a percentage from 0 to 100, nor -1 (all failures are ignored)")),
    }
}

/// The version of a model set, or the active one.
pub(super) fn version(text: &str) -> Result<Option<i64>, String> {
    match text.trim() {
        "active" => Ok(None),
        other => match other.parse::<i64>() {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => Err(format!("`{text}` is neither `active` nor the version of a model set")),
        },
    }
}

pub(super) fn trigger(text: &str) -> Result<&'static str, String> {
    match text {
        "interval" => Ok("interval"),
        "cron" => Ok("cron"),
        "manual" => Ok("manual"),
        other => Err(format!("`{other}` is none of `interval`, `cron`, `manual`")),
    }
}

pub(super) fn catch_up(text: &str) -> Result<CatchUp, String> {
    match text {
        "all" => Ok(CatchUp::All),
        "latest" => Ok(CatchUp::Latest),
        "none" => Ok(CatchUp::None),
        other => Err(format!("`{other}` is none of `all`, `latest`, `none`")),
    }
}

pub(super) fn keep(text: &str) -> Result<Keep, String> {
    match text {
        "all" => Ok(Keep::All),
        "changes" => Ok(Keep::Changes),
        "anomalies" => Ok(Keep::Anomalies),
        other => Err(format!("`{other}` is none of `all`, `changes`, `anomalies`")),
    }
}

/// Whether it is a regular expression; what is wrong with it in one line.
pub(super) fn pattern(text: &str) -> Result<(), String> {
    regex::Regex::new(text).map(|_| ()).map_err(|e| {
        let words = e.to_string();
        let last = words.lines().last().unwrap_or_default();
        format!("`{text}` is no regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
    })
}

/// Whether it is a cron expression that ever fires, in a zone that is known.
pub(super) fn known_cron(expression: &str, zone: &str) -> Result<(), String> {
    fleetscore_cron::check_cron(expression, zone)
}

pub(super) fn is_name(name: &str) -> bool {
    name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
