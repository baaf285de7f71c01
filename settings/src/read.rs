//! All settings, read area by area in the order in which they are shown, and what is checked of each.

use crate::reader::{Reader, quoted};
use crate::units::{self, duration_or_off, duration_us, show_bytes, show_duration};
use crate::{Config, Readings, Start, mask, schedules, settings};
use fleetscore_schemas::time::{Edges, US_PER_S};
use fleetscore_store::ScheduleSpec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every setting, or what stands for it where it is a mistake.
pub(crate) fn config(r: &mut Reader) -> Config {
    let places = places(r);
    let time = event_time(r);
    let bounds = bounds(r);
    let (continue_on_gap, _) = r.text(&["on_offset_gap"], default_of("on_offset_gap"), gap, |c| {
        quoted(if *c { "continue" } else { "stop" })
    });
    let work = work(r, time.interval_us, time.allowed_lateness_us);
    Config {
        kafka: places.kafka,
        topic: places.topic,
        group: places.group,
        start: places.start,
        store: places.store,
        blobs: places.blobs,
        data_dir: places.data_dir,
        interval_us: time.interval_us,
        edges: time.edges,
        max_disorder_us: time.max_disorder_us,
        max_future_skew_us: time.max_future_skew_us,
        allowed_lateness_us: time.allowed_lateness_us,
        idle_timeout_us: time.idle_timeout_us,
        owner_ttl_us: time.owner_ttl_us,
        max_wait_us: time.max_wait_us,
        checkpoint_interval_us: bounds.checkpoint_interval_us,
        checkpoint_bytes: bounds.checkpoint_bytes,
        in_flight_bytes: bounds.in_flight_bytes,
        max_message_bytes: bounds.max_message_bytes,
        max_series: bounds.max_series,
        dead_letters_per_minute: bounds.dead_letters_per_minute,
        dead_letter_bytes_per_minute: bounds.dead_letter_bytes_per_minute,
        dead_letter_retention_us: bounds.dead_letter_retention_us,
        continue_on_gap,
        retention_us: work.retention_us,
        run_retention_us: work.run_retention_us,
        fleet_silence_us: work.fleet_silence_us,
        lease_us: work.lease_us,
        parallel_tasks: work.parallel_tasks,
        http: work.http,
        shutdown_timeout: work.shutdown_timeout,
        kafka_properties: work.kafka_properties,
        readings: work.readings,
        schedules: work.schedules,
        cluster: None,
        shown: Vec::new(),
    }
}

/// Where everything is.
struct Places {
    kafka: Option<String>,
    topic: Vec<String>,
    group: Option<String>,
    start: Start,
    store: String,
    blobs: String,
    data_dir: PathBuf,
}

fn places(r: &mut Reader) -> Places {
    let kafka = r.optional(&["kafka"], None);
    let (topic, from) = r.list(&["topic"], &["readings"]);
    check_topics(r, &topic, &from);
    let group = r.optional(&["group"], Some("fleetscore-<store id>"));
    let (start, _) = r.text(&["start"], default_of("start"), start, |s| quoted(&show_start(*s)));

    // The default store and blobs lie in the data folder; they are shown in the order of the design.
    let at = r.shown.len();
    let (data_dir, _) =
        r.text(&["data_dir"], default_of("data_dir"), folder, |p| quoted(&p.display().to_string()));
    let shown_dir = r.shown.split_off(at);
    let store_default = format!("sqlite:{}", data_dir.join("fleetscore.db").display());
    let store = r.optional(&["store"], Some(&store_default)).unwrap_or(store_default);
    let blobs_default = format!("file://{}", absolute(&data_dir.join("blobs")).display());
    let blobs = r.optional(&["blobs"], Some(&blobs_default)).unwrap_or(blobs_default);
    check_places(r, &store, &blobs);
    r.shown.extend(shown_dir);
    Places { kafka, topic, group, start, store, blobs, data_dir }
}

/// Panes, and when they are complete.
struct EventTime {
    interval_us: i64,
    edges: Edges,
    max_disorder_us: i64,
    max_future_skew_us: i64,
    allowed_lateness_us: i64,
    idle_timeout_us: i64,
    owner_ttl_us: i64,
    max_wait_us: i64,
}

fn event_time(r: &mut Reader) -> EventTime {
    // Fields of a literal are evaluated, and so shown, in the order in which they are written.
    EventTime {
        interval_us: r.text(&["interval"], default_of("interval"), whole_seconds, show_us).0,
        edges: r.text(&["edges"], default_of("edges"), edges, |e| quoted(e.as_str())).0,
        max_disorder_us: duration(r, "max_disorder", 0).0,
        max_future_skew_us: duration(r, "max_future_skew", 0).0,
        allowed_lateness_us: duration(r, "allowed_lateness", 0).0,
        idle_timeout_us: duration(r, "idle_timeout", US_PER_S / 10).0,
        owner_ttl_us: duration(r, "owner_ttl", US_PER_S).0,
        max_wait_us: duration(r, "max_wait", 0).0,
    }
}

/// What bounds memory, messages, series and dead letters.
struct Bounds {
    checkpoint_interval_us: i64,
    checkpoint_bytes: usize,
    in_flight_bytes: usize,
    max_message_bytes: usize,
    max_series: u32,
    dead_letters_per_minute: u32,
    dead_letter_bytes_per_minute: usize,
    dead_letter_retention_us: Option<i64>,
}

fn bounds(r: &mut Reader) -> Bounds {
    let letters = "dead_letters_per_minute";
    let kept = "dead_letter_retention";
    // In the order in which they are shown, as above.
    Bounds {
        checkpoint_interval_us: duration(r, "checkpoint_interval", US_PER_S / 10).0,
        checkpoint_bytes: size(r, "checkpoint_bytes", MIB, usize::MAX).0,
        in_flight_bytes: size(r, "in_flight_bytes", MIB, usize::MAX).0,
        // The protocol counts the bytes of a message in 31 bits.
        max_message_bytes: size(r, "max_message_bytes", 1024, (1 << 31) - 1).0,
        max_series: r.text(&["max_series"], default_of("max_series"), series_count, u32::to_string).0,
        dead_letters_per_minute: r.text(&[letters], default_of(letters), letter_count, u32::to_string).0,
        dead_letter_bytes_per_minute: size(r, "dead_letter_bytes_per_minute", 0, usize::MAX).0,
        dead_letter_retention_us: r
            .text(&[kept], default_of(kept), schedules::off_or_from(US_PER_S), |d| quoted(&show_off(*d)))
            .0,
    }
}

/// What is kept, how work is shared, and the tables.
struct Work {
    retention_us: Option<i64>,
    run_retention_us: Option<i64>,
    fleet_silence_us: Option<i64>,
    lease_us: i64,
    parallel_tasks: usize,
    http: Option<String>,
    shutdown_timeout: Duration,
    kafka_properties: BTreeMap<String, String>,
    readings: Readings,
    schedules: Vec<ScheduleSpec>,
}

fn work(r: &mut Reader, interval_us: i64, lateness_us: i64) -> Work {
    let (retention_us, retention_from) =
        r.text(&["retention"], default_of("retention"), duration_or_off, |d| quoted(&show_off(*d)));
    let at = r.shown.len();
    let (fleet_silence_us, _) =
        r.text(&["fleet_silence"], default_of("fleet_silence"), schedules::off_or_from(US_PER_S), |d| {
            quoted(&show_off(*d))
        });
    let (lease_us, _) = duration(r, "lease", US_PER_S);
    let (parallel_tasks, _) =
        r.text(&["parallel_tasks"], default_of("parallel_tasks"), task_count, usize::to_string);
    let http = r.optional(&["http"], Some(""));
    check_http(r, http.as_deref());
    let (shutdown_us, _) = duration(r, "shutdown_timeout", 1);
    let kafka_properties = properties(r);
    let readings = readings(r);
    // One that is there and cannot be read is a mistake of its own.
    let thins = retention_us.is_some() || r.mistakes.iter().any(|m| m.starts_with("retention: "));
    let schedules = schedules::read(r, interval_us, thins);
    let window = schedules.iter().map(|s| s.window_us).max().unwrap_or(0);
    let reach = Reach { lateness_us, window_us: window };
    check_retention(r, retention_us, &retention_from, reach);
    // Shown beside `retention`, though it is read when the schedules are known.
    let after = r.shown.split_off(at);
    let run_retention_us = run_retention(r, reach);
    r.shown.extend(after);
    Work {
        retention_us,
        run_retention_us,
        fleet_silence_us,
        lease_us,
        parallel_tasks,
        http,
        shutdown_timeout: Duration::from_micros(shutdown_us.unsigned_abs()),
        kafka_properties,
        readings,
        schedules,
    }
}

/// Names of all settings that there are, with these schedules.
pub(crate) fn known_names(schedules: &[ScheduleSpec]) -> Vec<String> {
    let mut names: Vec<String> = settings::SETTINGS.iter().map(|s| s.key.to_owned()).collect();
    names.extend(READINGS.map(|k| format!("readings.{k}")));
    names.extend(FIELDS.map(|k| format!("readings.fields.{k}")));
    for schedule in schedules {
        names.extend(schedules::KEYS.map(|k| format!("schedules.{}.{k}", schedule.name)));
    }
    names
}

const READINGS: [&str; 4] = ["where", "value", "ts_unit", "ts_from_broker"];
const FIELDS: [&str; 5] = ["device", "sensor", "ts", "value", "values"];

fn default_of(key: &str) -> &'static str {
    settings::SETTINGS.iter().find(|s| s.key == key).map_or("", |s| s.default)
}

fn duration(r: &mut Reader, key: &'static str, least_us: i64) -> (i64, String) {
    let parse = |t: &str| match duration_us(t)? {
        d if d < least_us => Err(format!("`{t}` is too short: at least {}", show_duration(least_us))),
        d => Ok(d),
    };
    r.text(&[key], default_of(key), parse, show_us)
}

pub(crate) fn show_us(us: &i64) -> String {
    quoted(&show_duration(*us))
}

pub(crate) fn show_off(us: Option<i64>) -> String {
    us.map_or("off".to_owned(), show_duration)
}

fn whole_seconds(text: &str) -> Result<i64, String> {
    match duration_us(text)? {
        us if us < US_PER_S || us % US_PER_S != 0 => {
            Err(format!("`{text}`: a pane is a whole number of seconds, at least one"))
        }
        us => Ok(us),
    }
}

fn start(text: &str) -> Result<Start, String> {
    match text.trim() {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        other => {
            units::time(other).map(Start::At).map_err(|e| format!("{e}, and neither `earliest` nor `latest`"))
        }
    }
}

fn show_start(start: Start) -> String {
    match start {
        Start::Earliest => "earliest".to_owned(),
        Start::Latest => "latest".to_owned(),
        Start::At(t) => t.to_rfc3339(),
    }
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.trim().is_empty() { Err("is empty: name a folder".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.components().filter(|c| !matches!(c, std::path::Component::CurDir)).collect()
}

fn edges(text: &str) -> Result<Edges, String> {
    match text {
        "start" => Ok(Edges::Start),
        "end" => Ok(Edges::End),
        other => Err(format!("`{other}` is neither `start` nor `end`")),
    }
}

fn gap(text: &str) -> Result<bool, String> {
    match text {
        "stop" => Ok(false),
        "continue" => Ok(true),
        other => Err(format!("`{other}` is neither `stop` nor `continue`")),
    }
}

const MIB: usize = 1 << 20;

fn size(r: &mut Reader, key: &'static str, least: usize, most: usize) -> (usize, String) {
    let parse = |t: &str| match units::bytes(t)? {
        n if n < least => Err(format!("`{t}` is too small: at least {}", show_bytes(least))),
        n if n > most => Err(format!("`{t}` is too large: at most {}", show_bytes(most))),
        n => Ok(n),
    };
    r.text(&[key], default_of(key), parse, |n| quoted(&show_bytes(*n)))
}

fn letter_count(text: &str) -> Result<u32, String> {
    let what = |_| format!("`{text}` is not a whole number from 0 to 4294967295");
    text.trim().replace('_', "").parse().map_err(what)
}

fn series_count(text: &str) -> Result<u32, String> {
    match text.trim().replace('_', "").parse::<u32>() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("`{text}` is not a whole number from 1 to 4294967295")),
    }
}

fn task_count(text: &str) -> Result<usize, String> {
    match text.trim().parse::<usize>() {
        Ok(n) if (1..=1024).contains(&n) => Ok(n),
        _ => Err(format!("`{text}` is not a whole number from 1 to 1024")),
    }
}

pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is neither `true` nor `false`"))
}

fn check_topics(r: &mut Reader, topics: &[String], origin: &str) {
    if topics.is_empty() {
        r.mistake(&["topic"], "at least one topic is needed", origin);
    }
    for (i, t) in topics.iter().enumerate() {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if t.is_empty() || t.len() > 249 || !t.chars().all(legal) || t == "." || t == ".." {
            r.mistake(
                &["topic"],
                &format!("`{t}` is no name of a topic: 1 to 249 of a-z A-Z 0-9 . _ -"),
                origin,
            );
        }
        if topics[..i].contains(t) {
            r.mistake(&["topic"], &format!("`{t}` is there twice"), origin);
        }
    }
}

/// Whether anything could be at those places; what they hold is not repeated, for it may be a password.
fn check_places(r: &mut Reader, store: &str, blobs: &str) {
    let known = match store.split_once(':') {
        Some(("postgres" | "postgresql", rest)) => rest.starts_with("//"),
        Some(("sqlite", path)) => !path.strip_prefix("//").unwrap_or(path).is_empty(),
        Some(("memory", rest)) => rest.is_empty(),
        _ => false,
    };
    if !known {
        let origin = r.origin("store");
        let what = "is not of the form postgres://user@host/database, sqlite:PATH or memory:";
        r.mistake(&["store"], what, &origin);
    }
    const SCHEMES: [&str; 10] = ["file", "az", "adl", "azure", "abfs", "abfss", "s3", "s3a", "gs", "https"];
    // Without `://` it is a folder.
    let known =
        blobs.split_once("://").is_none_or(|(scheme, rest)| SCHEMES.contains(&scheme) && !rest.is_empty());
    if !known {
        let origin = r.origin("blobs");
        let what = "is not of the form file:///folder, az://container/prefix, s3://bucket/prefix or gs://bucket/prefix";
        r.mistake(&["blobs"], what, &origin);
    }
}

fn check_http(r: &mut Reader, http: Option<&str>) {
    let Some(address) = http else { return };
    let good =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !good {
        let origin = r.origin("http");
        r.mistake(&["http"], &format!("`{address}` is not an address such as 127.0.0.1:8080"), &origin);
    }
}

/// How far back a reading may change something: what is kept must be kept at least so long.
#[derive(Clone, Copy)]
struct Reach {
    lateness_us: i64,
    window_us: i64,
}

impl Reach {
    /// What is wrong with keeping something no longer than this.
    fn check(self, us: i64, missing: &str) -> Result<(), String> {
        let Self { lateness_us, window_us } = self;
        if us >= lateness_us + window_us {
            return Ok(());
        }
        Err(format!(
            "`{}` is shorter than allowed_lateness ({}) plus the longest window ({}): late readings would find no {missing}",
            show_duration(us),
            show_duration(lateness_us),
            show_duration(window_us)
        ))
    }
}

fn check_retention(r: &mut Reader, retention_us: Option<i64>, origin: &str, reach: Reach) {
    if let Some(Err(what)) = retention_us.map(|us| reach.check(us, "pane")) {
        r.mistake(&["retention"], &what, origin);
    }
}

/// The default gives way to a longer reach, and where no duration is so long to `off`; what is asked for does not.
fn run_retention(r: &mut Reader, reach: Reach) -> Option<i64> {
    let usual = duration_us(default_of("run_retention")).unwrap_or(0);
    let default = Some(usual.max(reach.lateness_us + reach.window_us)).filter(|us| *us <= units::LONGEST_US);
    let default = show_off(default);
    let parse = |t: &str| match duration_or_off(t)? {
        Some(us) => reach.check(us, "run").map(|()| Some(us)),
        None => Ok(None),
    };
    r.text(&["run_retention"], &default, parse, |d| quoted(&show_off(*d))).0
}

/// librdkafka's names have dots; the environment cannot hold them, so `_` stands for a dot there. Where that or the
/// spelling of a nested table makes two names the same, the environment's counts.
fn properties(r: &mut Reader) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (name, value, origin) in r.properties("kafka_properties") {
        let environment = origin.starts_with("environment");
        let name = if environment { name.replace('_', ".") } else { name };
        if environment || !found.get(&name).is_some_and(|(_, other)| other.starts_with("environment")) {
            found.insert(name, (value, origin));
        }
    }
    for (name, (value, origin)) in &found {
        r.show(&["kafka_properties", &quoted(name)], Some(quoted(&mask::property(name, value))), origin);
    }
    found.into_iter().map(|(name, (value, _))| (name, value)).collect()
}

fn readings(r: &mut Reader) -> Readings {
    let sql = |t: &str| Ok(t.trim().to_owned());
    let show = |s: &String| quoted(s);
    let (filter, _) = r.text(&["readings", "where"], "", sql, show);
    let (value, _) = r.text(&["readings", "value"], "", sql, show);
    let (ts_unit, _) = r.text(&["readings", "ts_unit"], "ms", ts_unit, show);
    let (ts_from_broker, _) = r.text(&["readings", "ts_from_broker"], "false", boolean, bool::to_string);
    let fields = FIELDS.map(|f| {
        let name =
            |t: &str| if t.is_empty() { Err("a field needs a name".to_owned()) } else { Ok(t.to_owned()) };
        r.text(&["readings", "fields", f], f, name, show)
    });
    for (i, (name, origin)) in fields.iter().enumerate() {
        if let Some(j) = fields[..i].iter().position(|(other, _)| other == name) {
            let what = format!("`{name}` is the name of `{}` already", FIELDS[j]);
            r.mistake(&["readings", "fields", FIELDS[i]], &what, origin);
        }
    }
    Readings { filter, value, fields: fields.map(|(name, _)| name), ts_unit, ts_from_broker }
}

fn ts_unit(text: &str) -> Result<String, String> {
    match text {
        "s" | "ms" | "us" | "ns" => Ok(text.to_owned()),
        other => Err(format!("`{other}` is none of `s`, `ms`, `us`, `ns`")),
    }
}
