//! How many rows a day are stored, and what bounds them.

use fleetscore_schemas::time::US_PER_S;
use fleetscore_settings::Config;
use fleetscore_settings::units::show_duration;
use fleetscore_store::{Keep, ScheduleSpec, Trigger};

const DAY_US: i64 = 86_400 * US_PER_S;

/// What is said of one kind of row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Whether anything drops them one day.
    pub(super) bounded: bool,
    pub(super) text: String,
}

/// What a process that stores windows or predictions says at its start; `None` = no series yet.
pub(super) fn lines(config: &Config, series: Option<i64>, windows: bool, predictions: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    if windows && config.retention_us.is_none() {
        let rows = rows(DAY_US / config.interval_us, series);
        let each = show_duration(config.interval_us);
        let text =
            format!("retention is off: windows grow by up to {rows}, one row each {each}; set `retention`");
        lines.push(Line { bounded: false, text });
    }
    if predictions {
        lines
            .extend(config.schedules.iter().filter(|s| scores(s)).map(|s| of_predictions(config, s, series)));
    }
    lines
}

fn scores(s: &ScheduleSpec) -> bool {
    s.enabled && s.trigger != Trigger::Manual
}

fn of_predictions(config: &Config, s: &ScheduleSpec, series: Option<i64>) -> Line {
    let rows = rows(DAY_US / s.hop_us, series);
    let what = format!("schedule {}: predictions grow by up to {rows}", s.name);
    match (config.retention_us, s.keep) {
        (None, _) => {
            Line { bounded: false, text: format!("{what}; set `retention`, and `keep` of the schedule") }
        }
        (Some(_), Keep::All) => Line {
            bounded: false,
            text: format!(
                "{what}, and keep = \"all\" leaves them in SQL; `changes` or `anomalies` thin them"
            ),
        },
        (Some(us), keep) => Line {
            bounded: true,
            text: format!("{what}; of those older than {} SQL keeps {}", show_duration(us), keep.as_str()),
        },
    }
}

fn rows(a_day: i64, series: Option<i64>) -> String {
    match series {
        Some(n) => format!("{} rows a day ({n} series)", a_day.saturating_mul(n)),
        None => format!("{a_day} rows a day for each series"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_settings::Sources;

    /// The settings with these flags and this of the default schedule.
    fn config(retention: &str, keep: &str) -> Config {
        let mut sources = Sources::default();
        sources.flags.0 = vec![("retention".into(), vec![retention.into()])];
        sources.environment = vec![("FLEETSCORE_SCHEDULES__DEFAULT__KEEP".into(), keep.into())];
        Config::load(&sources).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn what_nothing_drops_is_warned_of_with_its_numbers() {
        let off = lines(&config("off", "all"), Some(100), true, true);
        assert_eq!(off.len(), 2);
        assert!(off.iter().all(|l| !l.bounded));
        assert!(
            off[0].text.contains("windows grow by up to 144000 rows a day (100 series), one row each 1m"),
            "{off:?}"
        );
        assert!(
            off[1].text.contains("schedule default: predictions grow by up to 144000 rows a day"),
            "{off:?}"
        );
        let unknown = lines(&config("off", "all"), None, true, false);
        assert!(unknown[0].text.contains("up to 1440 rows a day for each series"), "{unknown:?}");
        let kept = lines(&config("30d", "all"), Some(1), true, true);
        assert_eq!(kept.len(), 1, "windows are dropped: {kept:?}");
        assert!(!kept[0].bounded && kept[0].text.contains("keep = \"all\" leaves them in SQL"), "{kept:?}");
        let thinned = lines(&config("30d", "changes"), Some(1), true, true);
        assert!(
            thinned[0].bounded && thinned[0].text.ends_with("older than 30d SQL keeps changes"),
            "{thinned:?}"
        );
        assert!(lines(&config("30d", "all"), Some(1), true, false).is_empty());
    }

    #[test]
    fn schedules_that_score_nothing_by_themselves_store_nothing() {
        let mut config = config("off", "all");
        config.schedules[0].trigger = Trigger::Manual;
        assert!(lines(&config, Some(1), false, true).is_empty());
        config.schedules[0].trigger = Trigger::Interval;
        config.schedules[0].enabled = false;
        assert!(lines(&config, Some(1), false, true).is_empty());
    }
}
