//! The configuration: flags over environment over file over defaults. Every mistake is listed, each with its setting
//! and where it came from; secrets are masked wherever they might be seen.

mod layers;
pub mod mask;
mod read;
mod reader;
mod schedules;
mod settings;
pub mod units;

pub use schedules::describe;
pub use settings::SettingFlags;

use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_schemas::time::{Edges, Timestamp};
use fleetscore_store::ScheduleSpec;
use reader::{Reader, Shown};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Where to begin in a topic without positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record there is.
    Earliest,
    /// Behind the newest.
    Latest,
    /// At the first record of that broker time or later.
    At(Timestamp),
}

/// Table `[readings]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readings {
    /// Row filter in SQL; empty for none.
    pub filter: String,
    /// Value expression in SQL; empty for the value itself.
    pub value: String,
    /// Names of the fields device, sensor, ts, value, values.
    pub fields: [String; 5],
    /// `s`, `ms`, `us` or `ns`.
    pub ts_unit: String,
    /// Whether the broker's time counts where a reading has none.
    pub ts_from_broker: bool,
}

/// What is wrong with the settings: every mistake, one a line, each naming its setting and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl Classify for SettingsError {
    fn domain(&self) -> Domain {
        Domain::User
    }

    fn is_transient(&self) -> bool {
        false
    }
}

/// The effective settings. Holds secrets, so it has no `Debug`.
#[derive(Clone)]
pub struct Config {
    /// The broker list or Event Hubs connection string.
    pub kafka: Option<String>,
    /// Topics of readings; at least one.
    pub topic: Vec<String>,
    /// The consumer group; `None` = `fleetscore-<store id>`.
    pub group: Option<String>,
    /// Where to begin in a topic without positions.
    pub start: Start,
    /// `postgres://…`, `sqlite:PATH` or `memory:`.
    pub store: String,
    /// A URL of object storage, or a folder.
    pub blobs: String,
    /// The folder of the default store and blobs.
    pub data_dir: PathBuf,
    /// The pane, in microseconds: a whole number of seconds.
    pub interval_us: i64,
    /// Which edge belongs to a window.
    pub edges: Edges,
    /// How far readings of one partition may be out of order.
    pub max_disorder_us: i64,
    /// How far ahead of the clock a reading may be.
    pub max_future_skew_us: i64,
    /// Readings later than this are dead letters.
    pub allowed_lateness_us: i64,
    /// A partition without readings for so long is quiet.
    pub idle_timeout_us: i64,
    /// An owner not seen for so long is silent.
    pub owner_ttl_us: i64,
    /// How long a silent owner holds intervals back.
    pub max_wait_us: i64,
    /// The longest time between checkpoints; while a backlog is worked off, 10 s if that is longer.
    pub checkpoint_interval_us: i64,
    /// Memory that forces a checkpoint.
    pub checkpoint_bytes: usize,
    /// Bytes read from Kafka and not aggregated yet.
    pub in_flight_bytes: usize,
    /// Larger messages are dead letters.
    pub max_message_bytes: usize,
    /// Readings of further series are dead letters.
    pub max_series: u32,
    /// Dead letters that a process stores one by one; what is beyond is counted.
    pub dead_letters_per_minute: u32,
    /// The same in bytes.
    pub dead_letter_bytes_per_minute: usize,
    /// How long dead letters are kept; `None` = for ever.
    pub dead_letter_retention_us: Option<i64>,
    /// Whether offsets that the broker no longer has are passed over.
    pub continue_on_gap: bool,
    /// How long panes are kept behind the newest interval; `None` = for ever.
    pub retention_us: Option<i64>,
    /// How long ended runs stay in the history; `None` = for ever.
    pub run_retention_us: Option<i64>,
    /// A fleet of which nothing comes for so long is an event; `None` = never.
    pub fleet_silence_us: Option<i64>,
    /// A worker not heard of for so long loses its shards.
    pub lease_us: i64,
    /// Shards that a process scores at once.
    pub parallel_tasks: usize,
    /// Address of the HTTP service; `None` = none.
    pub http: Option<String>,
    /// How long a shutdown may take.
    pub shutdown_timeout: Duration,
    /// Properties of librdkafka by name.
    pub kafka_properties: BTreeMap<String, String>,
    /// Table `[readings]`.
    pub readings: Readings,
    /// Tables `[schedules.NAME]`, `default` first.
    pub schedules: Vec<ScheduleSpec>,
    /// No setting: the id of the demo's own broker, which it cannot tell by itself.
    pub cluster: Option<String>,
    shown: Vec<Shown>,
}

/// What the layers are made of.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// Flags of settings.
    pub flags: SettingFlags,
}

impl Sources {
    /// The process's own environment, with these flags; `--config` may also be `FLEETSCORE_CONFIG`.
    pub fn of_process(file: Option<PathBuf>, flags: SettingFlags) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .filter(|(k, _)| k.starts_with("FLEETSCORE_"))
            .collect();
        Self { file, environment, flags }
    }
}

impl Config {
    /// Reads all layers.
    ///
    /// # Errors
    /// Every mistake, one a line, each naming its setting and origin.
    pub fn load(sources: &Sources) -> Result<Self, SettingsError> {
        let figment = layers::figment(sources.file.as_deref(), &sources.environment, &sources.flags.0)
            .map_err(SettingsError)?;
        let mut r = Reader::new(figment);
        let config = read::config(&mut r);
        r.finish(&read::known_names(&config.schedules));
        if r.mistakes.is_empty() {
            return Ok(Self { shown: r.shown, ..config });
        }
        let what = if r.mistakes.len() == 1 { "a setting is wrong" } else { "settings are wrong" };
        Err(SettingsError(format!("{what}:\n  {}", r.mistakes.join("\n  "))))
    }

    /// The broker list or connection string.
    ///
    /// # Errors
    /// A user error naming `kafka` where there is none.
    pub fn require_kafka(&self) -> Result<&str, SettingsError> {
        self.kafka.as_deref().ok_or_else(|| {
            SettingsError("kafka: this command needs a Kafka: set `--kafka host:port`, `FLEETSCORE_KAFKA` or `kafka = \"…\"` in the file".to_owned())
        })
    }

    /// The one topic that a producer writes to.
    ///
    /// # Errors
    /// A user error naming `topic` where there are several.
    pub fn one_topic(&self) -> Result<&str, SettingsError> {
        match self.topic.as_slice() {
            [one] => Ok(one),
            several => Err(SettingsError(format!("topic: name the one to send to, not {}", several.len()))),
        }
    }

    /// Where a top-level setting came from; `None` = its default.
    pub fn origin(&self, key: &str) -> Option<&str> {
        let shown = self.shown.iter().find(|s| s.table.is_empty() && s.key == key)?;
        Some(shown.origin.as_str()).filter(|o| *o != "default")
    }

    /// The effective settings as TOML, each with its origin as a comment.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for s in &self.shown {
            if s.table != table {
                table = &s.table;
                out.push_str(&format!("\n[{table}]\n"));
            }
            let line = match &s.value {
                Some(v) => format!("{} = {v}", s.key),
                None => format!("# {} is not set", s.key),
            };
            out.push_str(&format!("{line:<46} # {}\n", s.origin));
        }
        out
    }
}

#[cfg(test)]
mod tests;
