use super::*;
use fleetscore_schemas::time::US_PER_S;
use std::io::Write;

fn sources(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &[&str])],
) -> (Sources, Option<tempfile::NamedTempFile>) {
    let mut kept = None;
    let mut s = Sources::default();
    if !file.is_empty() {
        let mut f = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        f.write_all(file.as_bytes()).unwrap();
        s.file = Some(f.path().to_owned());
        kept = Some(f);
    }
    s.environment = environment.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    s.flags.0 = flags.iter().map(|(k, v)| ((*k).into(), v.iter().map(|v| (*v).into()).collect())).collect();
    (s, kept)
}

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &[&str])]) -> Result<Config, String> {
    let (s, _kept) = sources(file, environment, flags);
    Config::load(&s).map_err(|e| {
        assert_eq!(e.domain(), Domain::User, "a wrong setting is the user's");
        e.to_string()
    })
}

#[test]
fn defaults_are_those_of_the_contract() {
    let c = load("", &[], &[]).ok().unwrap();
    assert_eq!(c.kafka, None);
    assert_eq!(c.topic, ["readings"]);
    assert_eq!(c.start, Start::Earliest);
    assert_eq!(c.store, "sqlite:./fleetscore-data/fleetscore.db");
    assert!(c.blobs.starts_with("file:///") && c.blobs.ends_with("/fleetscore-data/blobs"), "{}", c.blobs);
    let seconds = |s: i64| s * US_PER_S;
    assert_eq!(
        [
            c.interval_us,
            c.max_disorder_us,
            c.max_future_skew_us,
            c.allowed_lateness_us,
            c.idle_timeout_us,
            c.owner_ttl_us,
            c.max_wait_us,
            c.checkpoint_interval_us
        ],
        [60, 10, 300, 604_800, 30, 30, 600, 10].map(seconds)
    );
    assert_eq!((c.checkpoint_bytes, c.max_series, c.continue_on_gap), (256 << 20, 2_000_000, false));
    assert_eq!((c.in_flight_bytes, c.max_message_bytes), (64 << 20, 64 << 20));
    assert_eq!((c.dead_letters_per_minute, c.dead_letter_bytes_per_minute), (10_000, 16 << 20));
    assert_eq!(c.dead_letter_retention_us, None);
    assert_eq!((c.retention_us, c.http.as_deref(), c.shutdown_timeout.as_secs()), (None, None, 25));
    assert_eq!(c.schedules.len(), 1);
    let s = &c.schedules[0];
    assert_eq!((s.name.as_str(), s.window_us, s.hop_us), ("default", seconds(60), seconds(60)));
    assert_eq!((s.max_age_us, s.rescore_delay_us), (None, Some(seconds(30))));
    assert_eq!(s.republish_gap_us, seconds(600));
    assert_eq!((c.lease_us, c.parallel_tasks), (seconds(60), 2));
    assert_eq!((c.run_retention_us, c.fleet_silence_us), (Some(seconds(90 * 86_400)), Some(seconds(600))));
}

#[test]
fn workers_leases_and_what_is_kept_of_runs() {
    let day = 86_400 * US_PER_S;
    let of = |flags: &[(&str, &[&str])]| load("", &[], flags);
    let c = of(&[("lease", &["1s"]), ("parallel_tasks", &["16"]), ("fleet_silence", &["off"])]).ok().unwrap();
    assert_eq!((c.lease_us, c.parallel_tasks, c.fleet_silence_us), (US_PER_S, 16, None));
    assert_eq!(of(&[("run_retention", &["off"])]).ok().unwrap().run_retention_us, None);
    assert_eq!(of(&[("run_retention", &["8d"])]).ok().unwrap().run_retention_us, Some(8 * day));
    let long = of(&[("allowed_lateness", &["120d"]), ("interval", &["1h"])]).ok().unwrap();
    assert_eq!(
        long.run_retention_us,
        Some(120 * day + day / 24),
        "the default reaches as far as readings do"
    );
    for (key, value, said) in [
        ("lease", "500ms", "lease: `500ms` is too short: at least 1s"),
        ("lease", "off", "lease: `off` is not a duration"),
        ("parallel_tasks", "0", "parallel_tasks: `0` is not a whole number from 1 to 1024"),
        (
            "run_retention",
            "1d",
            "run_retention: `1d` is shorter than allowed_lateness (7d) plus the longest window",
        ),
        (
            "run_retention",
            "7d",
            "run_retention: `7d` is shorter than allowed_lateness (7d) plus the longest window",
        ),
        ("fleet_silence", "0s", "fleet_silence: `0s` is too short: at least 1s"),
        ("fleet_silence", "never", "fleet_silence: `never` is not a duration"),
    ] {
        let text = of(&[(key, &[value])]).err().unwrap();
        assert!(text.contains(said), "{key} {value}: {text}");
    }
    let longer = load("run_retention = \"8d\"\n[schedules.s]\nwindow = \"2d\"\n", &[], &[]).err().unwrap();
    assert!(longer.contains("run_retention: `8d` is shorter"), "{longer}");
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let file = "kafka = \"file:1\"\ngroup = \"file\"\ninterval = \"5s\"\ntopic = [\"a\", \"b\"]\n";
    let env =
        [("FLEETSCORE_KAFKA", "env:1"), ("FLEETSCORE_GROUP", "env"), ("FLEETSCORE_TEST_X", "no setting")];
    let c = load(file, &env, &[("kafka", &["flag:1"])]).ok().unwrap();
    assert_eq!(c.kafka.as_deref(), Some("flag:1"));
    assert_eq!(c.group.as_deref(), Some("env"));
    assert_eq!(c.interval_us, 5 * US_PER_S);
    assert_eq!(c.topic, ["a", "b"]);
    let shown = c.to_toml();
    for line in ["# flag --kafka", "# environment FLEETSCORE_GROUP", "# default"] {
        assert!(shown.contains(line), "{line} in\n{shown}");
    }
    let c = load(file, &[("FLEETSCORE_TOPIC", "x, y")], &[]).ok().unwrap();
    assert_eq!(c.topic, ["x", "y"]);
    assert_eq!(load(file, &[], &[("topic", &["p", "q"])]).ok().unwrap().topic, ["p", "q"]);
}

#[test]
fn tables_come_from_file_and_environment() {
    let file = "[kafka_properties]\n\"sasl.username\" = \"me\"\nfetch.wait.max.ms = 50\n[readings]\nwhere = \"value > 0\"\n\
                fields.device = \"id\"\n[schedules.five]\nwindow = \"5m\"\nfeatures = [\"mean\", \"max\"]\n[schedules.slide]\n\
                window = \"5m\"\nhop = \"1m\"\ncatch_up = \"latest\"\nmax_age = \"1h\"\n";
    let env = [
        ("FLEETSCORE_KAFKA_PROPERTIES__SASL_PASSWORD", "007"),
        ("FLEETSCORE_READINGS__TS_UNIT", "s"),
        ("FLEETSCORE_SCHEDULES__FIVE__REPUBLISH_GAP", "1s"),
    ];
    let c = load(file, &env, &[]).ok().unwrap();
    let property = |k: &str| c.kafka_properties.get(k).map(String::as_str);
    assert_eq!(property("sasl.username"), Some("me"));
    assert_eq!(property("fetch.wait.max.ms"), Some("50"));
    assert_eq!(property("sasl.password"), Some("007"), "text of the environment stays text");
    assert_eq!((c.readings.filter.as_str(), c.readings.ts_unit.as_str()), ("value > 0", "s"));
    assert_eq!(c.readings.fields, ["id", "sensor", "ts", "value", "values"]);
    let names: Vec<_> = c.schedules.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["default", "five", "slide"]);
    let five = &c.schedules[1];
    assert_eq!((five.window_us, five.hop_us), (300 * US_PER_S, 300 * US_PER_S), "a longer window tumbles");
    assert_eq!(five.republish_gap_us, US_PER_S);
    let slide = &c.schedules[2];
    assert_eq!((slide.hop_us, slide.max_age_us), (60 * US_PER_S, Some(3600 * US_PER_S)));
}

#[test]
fn every_mistake_is_listed_with_its_setting_and_origin() {
    let file = "interval = \"1500ms\"\nmax_disordr = \"1s\"\n[schedules.Bad]\nhop = \"10m\"\n[schedules.default]\nfeatures = [\"median\"]\n\
                [readings]\nts_unit = \"min\"\nwher = \"x\"\n";
    let env = [("FLEETSCORE_IDLE_TIMEOUT", "soon"), ("FLEETSCORE_RETENTION", "1h")];
    let text =
        load(file, &env, &[("edges", &["left"]), ("http", &["8080"]), ("max_series", &["0"])]).err().unwrap();
    for part in [
        "interval: `1500ms`: a pane is a whole number of seconds",
        "max_disordr: no such setting; did you mean `max_disorder`?",
        "schedules.Bad: is no name of a schedule",
        "schedules.Bad.hop: is longer than the window",
        "schedules.default.features: `median` is no feature",
        "readings.ts_unit: `min`",
        "readings.wher: no such setting; did you mean `readings.where`?",
        "idle_timeout: `soon` is not a duration such as `30s`, `5m`, `1h` or `7d` (environment FLEETSCORE_IDLE_TIMEOUT)",
        "retention: `1h` is shorter than allowed_lateness (7d)",
        "edges: `left` is neither `start` nor `end` (flag --edges)",
        "http: `8080` is not an address",
        "max_series: `0`",
    ] {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
    assert_eq!(text.lines().count(), 13, "one line each, and a heading:\n{text}");
}

#[test]
fn wrong_kinds_and_files() {
    for (file, part) in [
        ("kafka = [\"a\"]\n", "kafka: must be one value, not a list"),
        ("max_message_bytes = \"4GiB\"\n", "max_message_bytes: `4GiB` is too large: at most 2147483647"),
        ("in_flight_bytes = \"1KiB\"\n", "in_flight_bytes: `1KiB` is too small: at least 1MiB"),
        ("dead_letters_per_minute = -1\n", "dead_letters_per_minute: `-1`"),
        ("topic = 5\n", "topic: must be text or a list of texts, not `5`"),
        ("topic = [\"a\", true]\n", "topic: must be text or a list of texts, not `true`"),
        ("store = \"mysql://me:s3cret@h/d\"\n", "store: is not of the form postgres://"),
        ("store = \"host=h password=s3cret\"\n", "store: is not of the form postgres://"),
        ("store = \"sqlite:\"\n", "store: is not of the form postgres://"),
        ("blobs = \"ftp://me:s3cret@x\"\n", "blobs: is not of the form file:///folder"),
        ("kafka_properties = 1\n", "kafka_properties: must be a table"),
        ("schedules = 1\n", "schedules: must be a table of tables"),
        ("topic = [\"a\", \"a\", \"b/c\"]\n", "`a` is there twice"),
        ("kafka = ", "is not TOML"),
    ] {
        let text = load(file, &[], &[]).err().unwrap();
        assert!(text.contains(part), "{part}\nin\n{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    let missing = Sources { file: Some("/no/such/file.toml".into()), ..Sources::default() };
    assert!(
        Config::load(&missing)
            .err()
            .unwrap()
            .to_string()
            .contains("config: `/no/such/file.toml` cannot be read")
    );
}

#[test]
fn durations_beyond_any_use_are_mistakes() {
    // What is longer than the longest is kept for ever.
    let century =
        load("", &[], &[("allowed_lateness", &["36525d"]), ("interval", &["36525d"])]).ok().unwrap();
    assert_eq!(century.run_retention_us, None);
    for text in ["9223372036854775us", "36526d"] {
        let said = load("", &[], &[("allowed_lateness", &[text])]).err().unwrap();
        assert!(
            said.contains("allowed_lateness: `") && said.contains("is too long: at most 36525d"),
            "{said}"
        );
    }
}

#[test]
fn a_property_that_is_named_in_two_ways_is_one() {
    let file = "[kafka_properties]\n\"sasl.password\" = \"file\"\n\"x.y\" = 1\nx.y = 2\n";
    let c = load(file, &[("FLEETSCORE_KAFKA_PROPERTIES__SASL_PASSWORD", "env")], &[]).ok().unwrap();
    assert_eq!(c.kafka_properties["sasl.password"], "env");
    let printed = toml::from_str::<toml::Table>(&c.to_toml()).expect("what `config` prints is TOML");
    assert_eq!(printed["kafka_properties"].as_table().unwrap().len(), 2);
}

#[test]
fn a_file_that_is_no_toml_is_not_quoted() {
    for file in [
        "interval = \"1m\"\nstore = \"postgres://me:s3cret@h/d\n",
        "a = 1\nstore = postgres://me:s3cret@h/d\n",
        "\n[kafka_properties]\nsasl.password = s3cret",
    ] {
        let said = load(file, &[], &[]).err().unwrap();
        let line = 1 + file[..file.find("s3cret").unwrap()].matches('\n').count();
        assert!(said.contains(&format!("is not TOML in line {line}: ")), "{said}");
        assert!(!said.contains("s3cret") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_mistake_is_one_line_whatever_was_given() {
    let env = [("FLEETSCORE_INTERVAL", "1m\n  kafka: all is well (default)"), ("FLEETSCORE_A\nB", "1")];
    let said = load("\"x\\ny\" = 1\n", &env, &[]).err().unwrap();
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(said.contains("`1m\\n  kafka: all is well (default)`"), "{said}");
}

#[test]
fn every_place_that_can_be_opened_is_taken() {
    for (key, values) in [
        ("store", &["postgres://me@h/d", "postgresql://h/d", "sqlite:a.db", "sqlite:///a.db", "memory:"][..]),
        (
            "blobs",
            &["folder", "./a", "/a", "file:///a", "file:a", "az://c/p", "abfss://c@a/p", "s3://b", "gs://b"],
        ),
    ] {
        for value in values {
            assert!(load("", &[], &[(key, &[value])]).is_ok(), "{key} {value}");
        }
    }
}

#[test]
fn no_secret_is_shown() {
    let env = [
        ("FLEETSCORE_STORE", "postgres://me:s3cret@h/d"),
        (
            "FLEETSCORE_KAFKA",
            "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=r;SharedAccessKey=s3cret=",
        ),
        ("FLEETSCORE_KAFKA_PROPERTIES__SASL_PASSWORD", "s3cret"),
    ];
    let file = "blobs = \"https://a.blob.core.windows.net/c?sig=s3cret\"\n[kafka_properties]\n\"ssl.key.pem\" = \"s3cret\"\n";
    let c = load(file, &env, &[]).ok().unwrap();
    assert!(c.store.contains("s3cret"), "but it is known");
    let shown = c.to_toml();
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("SharedAccessKeyName=r;SharedAccessKey=***"));
    let printed = toml::from_str::<toml::Table>(&shown).expect("what `config` prints is TOML");
    assert_eq!(printed["kafka_properties"]["sasl.password"].as_str(), Some("***"));
    // A mistake in a secret setting does not show it either.
    let text =
        load("", &[("FLEETSCORE_STORE", "postgres://me:s3cret@h/d"), ("FLEETSCORE_X__Y", "s3cret")], &[])
            .err()
            .unwrap();
    assert!(!text.contains("s3cret"), "{text}");
}
