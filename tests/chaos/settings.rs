//! What a chaos run is made of: how long, which seed, which store, how often what.

use super::Store;
use fleetscore_oracle::Edges;
use fleetscore_oracle::expect::Rules;
use fleetscore_oracle::fleet::{Fleet, Shapes};

/// A worker that is silent for so long loses its shards.
pub const LEASE_S: u64 = 3;
/// Real seconds for each pane.
const PANE_S: u64 = 2;

/// One run.
#[derive(Debug, Clone)]
pub struct Settings {
    pub store: Store,
    pub seed: u64,
    /// How long faults are made and readings are sent.
    pub seconds: u64,
    /// Whether there is time for few faults only, which then come faster.
    pub short: bool,
    pub fleet: Fleet,
}

impl Settings {
    pub fn new(store: Store, seed: u64, seconds: u64, short: bool) -> Self {
        let fleet = Fleet {
            seed,
            partitions: 4,
            devices: 16,
            sensors: 3,
            panes: (seconds / PANE_S).max(4) as u32,
            readings_per_pane: 8,
            allowed_lateness_us: 240_000_000,
            shapes: Shapes::Mixed,
            exact: true,
            ..Fleet::default()
        };
        Self { store, seed, seconds, short, fleet }
    }

    /// What readings are judged by.
    pub fn rules(&self) -> Rules {
        Rules {
            pane_us: self.fleet.pane_us,
            edges: Edges::Start,
            max_disorder_us: self.fleet.max_disorder_us,
            allowed_lateness_us: self.fleet.allowed_lateness_us,
            // Readings are of a past day, or of the year 2090.
            future_us: chrono::Utc::now().timestamp_micros() + 365 * 86_400_000_000,
        }
    }

    /// Flags of every process.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let seconds = |us: i64| format!("{}s", us / 1_000_000);
        vec![
            ("--interval", seconds(self.fleet.pane_us)),
            ("--max-disorder", seconds(self.fleet.max_disorder_us)),
            ("--allowed-lateness", seconds(self.fleet.allowed_lateness_us)),
            ("--idle-timeout", "2s".to_owned()),
            ("--owner-ttl", "5s".to_owned()),
            // Nobody is given up: a partition without an owner is waited for.
            ("--max-wait", "1h".to_owned()),
            ("--checkpoint-interval", "2s".to_owned()),
            ("--shutdown-timeout", "15s".to_owned()),
        ]
    }

    /// A member of the consumer group that is silent for so long loses its partitions. A single process that is killed
    /// every few seconds must be forgotten soon, or it never gets any.
    pub fn session_s(&self) -> u64 {
        match self.store {
            Store::Postgres => 4,
            Store::Sqlite => 2,
        }
    }

    /// Their environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let property =
            |name: &str, value: u64| (format!("FLEETSCORE_KAFKA_PROPERTIES__{name}"), value.to_string());
        vec![
            property("session.timeout.ms", self.session_s() * 1000),
            property("heartbeat.interval.ms", self.session_s() * 200),
        ]
    }

    pub fn disk_megabytes(&self) -> u32 {
        match self.store {
            Store::Postgres => 256,
            Store::Sqlite => 64,
        }
    }

    /// How the mean pause between two faults of one kind of victim is scaled.
    pub fn pace(&self) -> f64 {
        if self.short { 0.45 } else { 1.0 }
    }
}
