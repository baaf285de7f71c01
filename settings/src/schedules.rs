//! Tables `[schedules.NAME]`.

mod describe;
mod values;

pub use describe::describe;
pub(super) use values::off_or_from;

use super::read::{boolean, show_off, show_us};
use super::reader::{Reader, quoted};
use super::units::{duration_or_off, show_duration};
use fleetscore_schemas::time::US_PER_S;
use fleetscore_schemas::window::Feature;
use fleetscore_store::{CatchUp, Keep, ScheduleSpec, Thresholds, Trigger};
use values::{
    catch_up, count_or, duration_from, is_name, keep, known_cron, multiple_of_pane, pattern, threshold,
    version, whole,
};

/// All keys of a schedule's table.
pub(super) const KEYS: [&str; 24] = [
    "window",
    "hop",
    "features",
    "trigger",
    "cron",
    "time_zone",
    "enabled",
    "series",
    "model_set",
    "catch_up",
    "max_age",
    "max_runs",
    "rescore_delay",
    "rescores_per_minute",
    "error_threshold",
    "mini_batch_error_threshold",
    "allowed_failed_percent",
    "max_retries",
    "timeout",
    "stall_after",
    "shards",
    "silence",
    "keep",
    "republish_gap",
];

/// Shards a person may ask for.
const MAX_SHARDS: u32 = 4096;

/// All schedules, `default` first; it exists unless a table of that name says otherwise. Without retention nothing is
/// below its floor.
pub(super) fn read(r: &mut Reader, interval_us: i64, retention: bool) -> Vec<ScheduleSpec> {
    let mut names = r.tables("schedules");
    names.retain(|n| n != "default");
    names.insert(0, "default".to_owned());
    names.into_iter().map(|name| Table { r, name }.read(interval_us, retention)).collect()
}

/// The zone of a cron expression that names none.
const UTC: &str = "UTC";

/// One schedule's table as it is read.
struct Table<'a> {
    r: &'a mut Reader,
    name: String,
}

/// A value with where it came from.
type Setting<T> = (T, String);

impl Table<'_> {
    fn read(mut self, pane_us: i64, retention: bool) -> ScheduleSpec {
        if !is_name(&self.name) {
            let what = "is no name of a schedule: a-z first, then a-z, 0-9 and _, at most 40";
            self.r.mistake(&["schedules", &self.name], what, "its table");
        }
        let (window_us, hop_us) = self.window(pane_us);
        let features = self.features();
        let trigger = self.trigger();
        let (enabled, _) = self.text("enabled", "true", boolean, bool::to_string);
        let series = self.series();
        let (model_set, _) = self.text("model_set", "active", version, |v| number_or(*v, "active"));
        let (catch_up, max_age_us, max_runs) = self.catching_up(&trigger);
        let (rescore_delay_us, rescores_per_minute) = self.rescores();
        let thresholds = self.thresholds();
        let (max_retries, _) = self.text("max_retries", "2", whole(0), u32::to_string);
        let (timeout_us, _) = self.text("timeout", "10m", duration_from(US_PER_S), show_us);
        let (stall_after_us, _) = self.text("stall_after", "10m", duration_from(US_PER_S), show_us);
        let shards = count_or("auto", MAX_SHARDS);
        let (shards, _) = self.text("shards", "auto", shards, |n| number_or(*n, "auto"));
        let (silence_us, _) = self.text("silence", "off", off_or_from(US_PER_S), |d| quoted(&show_off(*d)));
        let keep = self.keep(retention);
        let (republish_gap_us, _) = self.text("republish_gap", "10m", duration_from(0), show_us);
        ScheduleSpec {
            name: self.name,
            window_us,
            hop_us,
            features,
            trigger,
            enabled,
            series,
            model_set,
            catch_up,
            max_age_us,
            max_runs,
            rescore_delay_us,
            rescores_per_minute,
            thresholds,
            max_retries,
            timeout_us,
            stall_after_us,
            shards,
            silence_us,
            keep,
            republish_gap_us,
        }
    }

    fn text<T>(
        &mut self,
        key: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Setting<T> {
        self.r.text(&["schedules", &self.name, key], default, parse, show)
    }

    fn mistake(&mut self, key: &str, what: &str, origin: &str) {
        self.r.mistake(&["schedules", &self.name, key], what, origin);
    }

    fn window(&mut self, pane_us: i64) -> (i64, i64) {
        let pane = show_duration(pane_us);
        let (window_us, _) = self.text("window", &pane, multiple_of_pane("window", pane_us), show_us);
        // A window that is not the pane tumbles unless a hop says otherwise.
        let window = show_duration(window_us);
        let (hop_us, origin) = self.text("hop", &window, multiple_of_pane("hop", pane_us), show_us);
        if hop_us > window_us {
            let what = "is longer than the window: readings between windows would be left out";
            self.mistake("hop", what, &origin);
        }
        (window_us, hop_us)
    }

    fn features(&mut self) -> Vec<Feature> {
        let (names, origin) = self.r.list(&["schedules", &self.name, "features"], &["mean"]);
        let mut features = Vec::new();
        for name in &names {
            match name.parse::<Feature>() {
                Ok(f) if features.contains(&f) => {
                    self.mistake("features", &format!("`{f}` is there twice"), &origin);
                }
                Ok(f) => features.push(f),
                Err(what) => self.mistake("features", &what, &origin),
            }
        }
        if names.is_empty() {
            self.mistake("features", "at least one feature is needed", &origin);
        }
        features
    }

    /// An expression makes the trigger `cron` by itself; what contradicts it is a mistake.
    fn trigger(&mut self) -> Trigger {
        let path = ["schedules", &self.name, "cron"].map(str::to_owned);
        let path = [path[0].as_str(), path[1].as_str(), path[2].as_str()];
        let cron = self.r.optional(&path, None);
        let cron_from = self.r.shown.last().map_or(String::new(), |s| s.origin.clone());
        let default = if cron.is_some() { "cron" } else { "interval" };
        let (kind, kind_from) = self.text("trigger", default, values::trigger, |t| quoted(t));
        let zone = self.text("time_zone", UTC, |t| Ok(t.trim().to_owned()), |t| quoted(t));
        match (kind, cron) {
            ("cron", Some(expression)) => {
                if let Err(what) = known_cron(&expression, &zone.0) {
                    // Which of the two is wrong, the other at its default tells.
                    let bad_zone = zone.0 != UTC && known_cron(&expression, UTC).is_ok();
                    let (key, origin) = if bad_zone { ("time_zone", &zone.1) } else { ("cron", &cron_from) };
                    self.mistake(key, &what, origin);
                }
                return Trigger::Cron { expression, time_zone: zone.0 };
            }
            ("cron", None) => {
                self.mistake("trigger", "`cron` needs an expression: cron = \"0 * * * *\"", &kind_from);
            }
            (kind, Some(_)) => {
                let what = format!("contradicts trigger = \"{kind}\": leave one of the two out");
                self.mistake("cron", &what, &cron_from);
            }
            (_, None) if zone.0 != UTC => {
                self.mistake("time_zone", "is that of a cron expression, and there is none", &zone.1);
            }
            (_, None) => {}
        }
        if kind == "manual" { Trigger::Manual } else { Trigger::Interval }
    }

    fn series(&mut self) -> Option<String> {
        let path = ["schedules".to_owned(), self.name.clone(), "series".to_owned()];
        let series = self.r.optional(&[&path[0], &path[1], &path[2]], None);
        let origin = self.r.shown.last().map_or(String::new(), |s| s.origin.clone());
        if let Some(Err(what)) = series.as_deref().map(pattern) {
            self.mistake("series", &what, &origin);
        }
        series
    }

    fn catching_up(&mut self, trigger: &Trigger) -> (CatchUp, Option<i64>, Option<u32>) {
        let policy = self.text("catch_up", "all", catch_up, |c| quoted(c.as_str()));
        let max_age = self.text("max_age", "off", duration_or_off, |d| quoted(&show_off(*d)));
        let max_runs = self.text("max_runs", "off", count_or("off", u32::MAX), |n| number_or(*n, "off"));
        let manual = *trigger == Trigger::Manual;
        let why = match (manual, policy.0) {
            (true, _) => "with trigger = \"manual\" nothing is caught up",
            (false, CatchUp::None) => "with catch_up = \"none\" nothing is caught up",
            (false, CatchUp::Latest) => "with catch_up = \"latest\" one interval of a stretch is caught up",
            (false, CatchUp::All) => return (policy.0, max_age.0, max_runs.0),
        };
        let latest = policy.0 == CatchUp::Latest && !manual;
        // What says the default changes nothing: `config` prints it.
        for (key, said, origin) in [
            ("catch_up", manual && policy.0 != CatchUp::All, &policy.1),
            ("max_age", max_age.0.is_some() && !latest, &max_age.1),
            ("max_runs", max_runs.0.is_some(), &max_runs.1),
        ] {
            if said {
                self.mistake(key, &format!("has no effect: {why}"), origin);
            }
        }
        (policy.0, max_age.0, max_runs.0)
    }

    fn rescores(&mut self) -> (Option<i64>, Option<u32>) {
        const BUDGET: &str = "60";
        let (delay, _) = self.text("rescore_delay", "30s", duration_or_off, |d| quoted(&show_off(*d)));
        let show = |n: &Option<u32>| number_or(*n, "off");
        let budget = self.text("rescores_per_minute", BUDGET, count_or("off", u32::MAX), show);
        if delay.is_none() && show(&budget.0) != BUDGET {
            let what = "has no effect: with rescore_delay = \"off\" nothing is scored again by itself";
            self.mistake("rescores_per_minute", what, &budget.1);
        }
        (delay, budget.0)
    }

    fn thresholds(&mut self) -> Thresholds {
        let (error_threshold, _) = self.text("error_threshold", "-1", threshold, i64::to_string);
        let (mini_batch_error_threshold, _) =
            self.text("mini_batch_error_threshold", "-1", threshold, i64::to_string);
        let (allowed_failed_percent, _) =
            self.text("allowed_failed_percent", "100", values::percent, i64::to_string);
        Thresholds { error_threshold, mini_batch_error_threshold, allowed_failed_percent }
    }

    fn keep(&mut self, retention: bool) -> Keep {
        let (kept, origin) = self.text("keep", "all", keep, |k| quoted(k.as_str()));
        if kept != Keep::All && !retention {
            let what = "needs `retention`: predictions are thinned below its floor, and it is off";
            self.mistake("keep", what, &origin);
        }
        kept
    }
}

/// A number, or the word for none.
fn number_or<T: ToString>(value: Option<T>, none: &str) -> String {
    value.map_or_else(|| quoted(none), |n| n.to_string())
}

#[cfg(test)]
mod tests;
