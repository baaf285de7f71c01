use super::super::Config;
use super::super::Sources;
use super::*;
use std::io::Write;

fn load(file: &str) -> Result<Config, String> {
    let mut f = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    f.write_all(file.as_bytes()).unwrap();
    let sources = Sources { file: Some(f.path().to_owned()), ..Sources::default() };
    Config::load(&sources).map_err(|e| e.to_string())
}

/// The schedule `s` with these lines in its table.
fn spec(lines: &str) -> ScheduleSpec {
    let config = load(&format!("retention = \"30d\"\n[schedules.s]\n{lines}\n"));
    config.unwrap_or_else(|e| panic!("{lines}: {e}")).schedules.into_iter().nth(1).unwrap()
}

fn cron(expression: &str, zone: &str) -> Trigger {
    Trigger::Cron { expression: expression.to_owned(), time_zone: zone.to_owned() }
}

const MINUTE: i64 = 60 * US_PER_S;

#[test]
fn a_schedule_without_settings_has_the_defaults_of_the_contract() {
    assert_eq!(spec(""), ScheduleSpec::new("s", MINUTE));
}

#[test]
fn every_setting_becomes_its_part_of_the_schedule() {
    type Set = fn(&mut ScheduleSpec);
    #[rustfmt::skip]
    let cases: [(&str, Set); 38] = [
        ("window = \"5m\"", |s| { s.window_us = 5 * MINUTE; s.hop_us = 5 * MINUTE }),
        ("window = \"5m\"\nhop = \"1m\"", |s| s.window_us = 5 * MINUTE),
        ("features = [\"mean\", \"max\"]", |s| s.features = vec![Feature::Mean, Feature::Max]),
        ("trigger = \"interval\"", |_| ()),
        ("trigger = \"manual\"", |s| s.trigger = Trigger::Manual),
        ("trigger = \"cron\"\ncron = \"0 * * * *\"", |s| s.trigger = cron("0 * * * *", "UTC")),
        ("cron = \"0 * * * *\"", |s| s.trigger = cron("0 * * * *", "UTC")),
        ("cron = \"30 0 6 * * MON\"\ntime_zone = \"Europe/Berlin\"", |s| s.trigger = cron("30 0 6 * * MON", "Europe/Berlin")),
        ("enabled = false", |s| s.enabled = false),
        ("series = \"^press-\"", |s| s.series = Some("^press-".into())),
        ("model_set = \"active\"", |_| ()),
        ("model_set = 7", |s| s.model_set = Some(7)),
        ("model_set = \"7\"", |s| s.model_set = Some(7)),
        ("catch_up = \"latest\"", |s| s.catch_up = CatchUp::Latest),
        ("catch_up = \"none\"", |s| s.catch_up = CatchUp::None),
        ("max_age = \"1d\"", |s| s.max_age_us = Some(24 * 60 * MINUTE)),
        ("catch_up = \"latest\"\nmax_age = \"1h\"", |s| { s.catch_up = CatchUp::Latest; s.max_age_us = Some(60 * MINUTE) }),
        ("max_runs = 100", |s| s.max_runs = Some(100)),
        ("max_runs = \"off\"", |_| ()),
        ("rescore_delay = \"5m\"", |s| s.rescore_delay_us = Some(5 * MINUTE)),
        ("rescore_delay = \"0s\"", |s| s.rescore_delay_us = Some(0)),
        ("rescore_delay = \"off\"", |s| s.rescore_delay_us = None),
        ("rescores_per_minute = 1_000", |s| s.rescores_per_minute = Some(1000)),
        ("rescores_per_minute = \"off\"", |s| s.rescores_per_minute = None),
        ("error_threshold = 10", |s| s.thresholds.error_threshold = 10),
        ("error_threshold = -1", |_| ()),
        ("mini_batch_error_threshold = 0", |s| s.thresholds.mini_batch_error_threshold = 0),
        ("allowed_failed_percent = 25", |s| s.thresholds.allowed_failed_percent = 25),
        ("max_retries = 0", |s| s.max_retries = 0),
        ("timeout = \"30s\"", |s| s.timeout_us = 30 * US_PER_S),
        ("stall_after = \"1h\"", |s| s.stall_after_us = 60 * MINUTE),
        ("shards = \"auto\"", |_| ()),
        ("shards = 8", |s| s.shards = Some(8)),
        ("silence = \"15m\"", |s| s.silence_us = Some(15 * MINUTE)),
        ("keep = \"changes\"", |s| s.keep = Keep::Changes),
        ("keep = \"anomalies\"", |s| s.keep = Keep::Anomalies),
        ("republish_gap = \"0s\"", |s| s.republish_gap_us = 0),
        ("trigger = \"manual\"\nrescore_delay = \"off\"", |s| { s.trigger = Trigger::Manual; s.rescore_delay_us = None }),
    ];
    for (lines, set) in cases {
        let mut expected = ScheduleSpec::new("s", MINUTE);
        set(&mut expected);
        assert_eq!(spec(lines), expected, "{lines}");
    }
}

#[test]
fn what_cannot_be_is_said_with_its_setting() {
    let long = "retention = \"30d\"\n";
    #[rustfmt::skip]
    let cases = [
        // before the table, in the table, what is said
        ("", "trigger = \"hourly\"", "schedules.s.trigger: `hourly` is none of `interval`, `cron`, `manual`"),
        ("", "trigger = \"cron\"", "schedules.s.trigger: `cron` needs an expression: cron = \"0 * * * *\""),
        ("", "trigger = \"manual\"\ncron = \"0 * * * *\"", "schedules.s.cron: contradicts trigger = \"manual\""),
        ("", "trigger = \"interval\"\ncron = \"0 * * * *\"", "schedules.s.cron: contradicts trigger = \"interval\""),
        ("", "cron = \"every hour\"", "schedules.s.cron: the cron expression `every hour` has 2 fields"),
        ("", "cron = \"61 * * * *\"", "schedules.s.cron: the minute field `61`"),
        ("", "cron = \"0 0 30 2 *\"", "schedules.s.cron: the cron expression `0 0 30 2 *` never fires"),
        ("", "cron = \"0 * * * *\"\ntime_zone = \"Mars/Olympus\"", "schedules.s.time_zone: `Mars/Olympus` is no time zone"),
        ("", "cron = \"x * * * *\"\ntime_zone = \"Asia/Tokyo\"", "schedules.s.cron: the minute field `x`"),
        ("", "time_zone = \"Europe/Berlin\"", "schedules.s.time_zone: is that of a cron expression, and there is none"),
        ("", "enabled = \"yes\"", "schedules.s.enabled: `yes` is neither `true` nor `false`"),
        ("", "series = \"press-(\"", "schedules.s.series: `press-(` is no regular expression: unclosed group"),
        ("", "model_set = \"newest\"", "schedules.s.model_set: `newest` is neither `active` nor the version"),
        ("", "model_set = 0", "schedules.s.model_set: `0` is neither `active` nor the version"),
        ("", "catch_up = \"some\"", "schedules.s.catch_up: `some` is none of `all`, `latest`, `none`"),
        ("", "max_runs = 0", "schedules.s.max_runs: `0` is neither a whole number from 1"),
        ("", "max_runs = \"many\"", "schedules.s.max_runs: `many` is neither a whole number from 1"),
        ("", "max_age = \"old\"", "schedules.s.max_age: `old` is not a duration"),
        ("", "catch_up = \"none\"\nmax_runs = 5", "schedules.s.max_runs: has no effect: with catch_up = \"none\""),
        ("", "catch_up = \"none\"\nmax_age = \"1h\"", "schedules.s.max_age: has no effect: with catch_up = \"none\""),
        ("", "catch_up = \"latest\"\nmax_runs = 5", "schedules.s.max_runs: has no effect: with catch_up = \"latest\""),
        ("", "trigger = \"manual\"\ncatch_up = \"latest\"", "schedules.s.catch_up: has no effect: with trigger = \"manual\""),
        ("", "rescore_delay = \"soon\"", "schedules.s.rescore_delay: `soon` is not a duration"),
        ("", "rescore_delay = \"off\"\nrescores_per_minute = 5", "schedules.s.rescores_per_minute: has no effect"),
        ("", "error_threshold = -2", "schedules.s.error_threshold: `-2` is not a whole number from 0 on, nor -1"),
        ("", "mini_batch_error_threshold = \"none\"", "schedules.s.mini_batch_error_threshold: `none` is not"),
        ("", "allowed_failed_percent = 101", "schedules.s.allowed_failed_percent: `101` is not a percentage"),
        ("", "max_retries = -1", "schedules.s.max_retries: `-1` is not a whole number from 0"),
        ("", "timeout = \"0s\"", "schedules.s.timeout: `0s` is too short: at least 1s"),
        ("", "timeout = \"off\"", "schedules.s.timeout: `off` is not a duration"),
        ("", "stall_after = \"10ms\"", "schedules.s.stall_after: `10ms` is too short: at least 1s"),
        ("", "shards = 0", "schedules.s.shards: `0` is neither a whole number from 1 to 4096 nor `auto`"),
        ("", "shards = 5000", "schedules.s.shards: `5000` is neither a whole number from 1 to 4096 nor `auto`"),
        ("", "silence = \"0s\"", "schedules.s.silence: `0s` is too short: at least 1s"),
        (long, "keep = \"some\"", "schedules.s.keep: `some` is none of `all`, `changes`, `anomalies`"),
        ("", "keep = \"changes\"", "schedules.s.keep: needs `retention`"),
        ("", "republish_gap = \"off\"", "schedules.s.republish_gap: `off` is not a duration"),
        ("", "max_retry = 3", "schedules.s.max_retry: no such setting; did you mean `schedules.s.max_retries`?"),
    ];
    for (before, lines, said) in cases {
        let text = load(&format!("{before}[schedules.s]\n{lines}\n")).err().unwrap_or_default();
        assert!(text.contains(said), "{lines}\nsays\n{text}\nnot\n{said}");
        assert_eq!(text.lines().count(), 2, "one mistake in one line: {text}");
    }
}

#[test]
fn all_mistakes_of_all_schedules_are_listed_at_once() {
    let file = "[schedules.a]\ntrigger = \"manual\"\ncron = \"0 * * * *\"\nkeep = \"changes\"\nshards = \"two\"\n\
                [schedules.b]\nmax_age = \"x\"\nerror_threshold = \"x\"\nseries = \"(\"\n";
    let text = load(file).err().unwrap();
    for key in ["a.cron", "a.keep", "a.shards", "b.max_age", "b.error_threshold", "b.series"] {
        assert!(text.contains(&format!("  schedules.{key}: ")), "{key} in\n{text}");
    }
    assert_eq!(text.lines().count(), 7, "{text}");
}

#[test]
fn what_config_prints_is_what_it_would_read_again() {
    let file = "retention = \"30d\"\n[schedules.s]\nwindow = \"5m\"\ncron = \"0 * * * *\"\ntime_zone = \"Asia/Tokyo\"\n\
                series = '^press-\\d+/'\nmodel_set = 3\nmax_runs = 20\nshards = 4\nkeep = \"changes\"\nsilence = \"1h\"\n\
                rescore_delay = \"off\"\n";
    let config = load(file).ok().unwrap();
    let printed = config.to_toml();
    let again = load(&printed).unwrap_or_else(|e| panic!("{e}\nin\n{printed}"));
    assert_eq!(again.schedules, config.schedules, "{printed}");
    for line in ["trigger = \"cron\"", "max_runs = 20", "max_retries = 2", "shards = 4"] {
        assert!(printed.contains(line), "{line} in\n{printed}");
    }
}

#[test]
fn a_schedule_is_described_as_its_table_says_it() {
    let file = "retention = \"30d\"\n[schedules.s]\ncron = \"0 * * * *\"\nseries = \"^a\"\nmodel_set = 3\nshards = 4\n";
    let config = load(file).ok().unwrap();
    let table: toml::Table = toml::from_str(&config.to_toml()).unwrap();
    for s in &config.schedules {
        let table = table["schedules"][&s.name].as_table().unwrap();
        let described = describe(s);
        assert_eq!(described.iter().map(|(k, _)| *k).collect::<Vec<_>>(), KEYS);
        for (key, value) in described {
            let shown = table.get(key).map(|v| match v {
                toml::Value::String(s) => s.clone(),
                toml::Value::Array(a) => a.iter().filter_map(|v| v.as_str()).collect::<Vec<_>>().join(", "),
                other => other.to_string(),
            });
            assert_eq!(value, shown, "{}.{key}", s.name);
        }
    }
}
