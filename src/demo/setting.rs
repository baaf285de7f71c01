//! The demo's stage: its folder, its broker, its settings and its stretches of event time.

use super::{Wish, folder};
use crate::exit::Fail;
use fleetscore_ingest::EmbeddedBroker;
use fleetscore_schemas::time::{Timestamp, US_PER_S};
use fleetscore_settings::Config;
use fleetscore_simulator::FleetOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Intervals of the training stretch: so many means of a healthy series show nearly all of its range.
pub(super) const TRAINING: i64 = 300;
/// Intervals of a healthy machine's slow swing: training sees it several times over.
const SWING: i64 = 60;
/// Intervals after it that are scored faster than the clock, at least.
const FAST: i64 = 180;
/// Readings of a series in an interval.
const READINGS: i64 = 6;
/// Partitions of the topic: each holds 5 MiB in the embedded broker.
const PARTITIONS: i32 = 8;
const PORT: u16 = 19092;
const HTTP: &str = "127.0.0.1:8080";
const DATA_DIR: &str = "./fleetscore-demo";
/// No reading for so long makes a partition quiet: one without devices must not hold the demo up.
const IDLE_US: i64 = 2 * US_PER_S;

/// Everything that stands before the curtain rises.
pub(crate) struct Stage {
    pub(crate) config: Config,
    pub(crate) bootstrap: String,
    pub(crate) topic: String,
    pub(crate) http: String,
    /// Whether the port may be another where it is taken.
    pub(crate) http_may_move: bool,
    pub(crate) blobs_dir: PathBuf,
    /// First event time.
    pub(crate) start: Timestamp,
    /// Where training ends and faults may begin.
    pub(crate) live_from: Timestamp,
    /// Up to here readings are sent as fast as they are consumed: training ends when every partition is past
    /// `live_from`.
    pub(crate) fast_until: Timestamp,
    pub(crate) speed: f64,
    period_us: i64,
    /// Lives as long as the demo.
    _broker: EmbeddedBroker,
    /// Keeps the folder from another demo.
    _folder: std::fs::File,
}

impl Stage {
    /// Makes the folder anew, starts the broker, and decides the settings: a store and blobs that a person configured
    /// are never touched.
    pub(crate) async fn set(given: &Config, wish: &Wish) -> Result<Self, Fail> {
        for key in ["kafka", "store", "blobs"] {
            if given.origin(key).is_some_and(|o| o.starts_with("flag")) {
                return Err(Fail::user(format!(
                    "--{key}: the demo brings its own; `fleetscore up` uses yours"
                )));
            }
        }
        let mut config = given.clone();
        if given.origin("data_dir").is_none() {
            config.data_dir = PathBuf::from(DATA_DIR);
        }
        let folder = folder::prepare(&config.data_dir)?;
        config.data_dir = std::path::absolute(&config.data_dir).unwrap_or(config.data_dir);
        let config_dir = config.data_dir.components().collect::<PathBuf>();
        let blobs_dir = config_dir.join("blobs");
        config.store = format!("sqlite:{}", config_dir.join("fleetscore.db").display());
        config.blobs = format!("file://{}", blobs_dir.display());
        if given.origin("idle_timeout").is_none() {
            config.idle_timeout_us = IDLE_US;
        }
        let topic = config.topic.first().cloned().unwrap_or_else(|| "readings".to_owned());
        config.topic.truncate(1);
        config.kafka_properties.clear();
        let broker = broker(wish.port)?;
        broker.create_topic(&topic, PARTITIONS)?;
        let bootstrap = broker.bootstrap().to_string();
        config.kafka = Some(bootstrap.clone());
        config.cluster = Some(broker.cluster_id().to_owned());

        let interval = config.interval_us;
        let now = Timestamp::from(chrono::Utc::now());
        let fast = FAST.max(i64::from(wish.intervals.unwrap_or(0)) + 5);
        let live_from = Timestamp((now.0.div_euclid(interval) - fast) * interval);
        let period_us = (interval / READINGS).max(US_PER_S / 10);
        Ok(Self {
            bootstrap,
            topic,
            http: config.http.clone().unwrap_or_else(|| HTTP.to_owned()),
            http_may_move: config.http.is_none(),
            blobs_dir,
            start: live_from.plus_us(-TRAINING * interval),
            live_from,
            fast_until: live_from.plus_us(config.max_disorder_us + 2 * period_us),
            speed: wish.speed.unwrap_or(interval as f64 / US_PER_S as f64),
            period_us,
            config,
            _broker: broker,
            _folder: folder,
        })
    }

    /// The fleet: one fault in about 25 healthy intervals of a series, of two to four intervals: the first few
    /// intervals of a demo already have some to find.
    pub(crate) fn fleet(&self, wish: &Wish) -> FleetOptions {
        let interval = self.config.interval_us;
        FleetOptions {
            devices: wish.devices,
            sensors: wish.sensors,
            seed: wish.seed,
            period_us: self.period_us,
            swing_us: SWING * interval,
            start_us: self.start.0,
            faults_from_us: self.live_from.0,
            fault_rate: 0.04 * (60 * US_PER_S) as f64 / interval as f64,
            fault_len_us: (2 * interval, 4 * interval),
        }
    }

    /// What is told at the beginning.
    pub(crate) fn greeting(&self, http: &str) -> String {
        let (broker, topic) = (&self.bootstrap, &self.topic);
        format!(
            "broker    {broker}, topic {topic}: any Kafka client may join in, for example\n          \
             echo '{{\"device\":\"mine\",\"sensor\":\"temp\",\"ts\":\"'$(date -u +%FT%TZ)'\",\"value\":21.5}}' | kcat -P -b {broker} -t {topic}\n\
             data      {}\nhealth    http://{http}/readyz",
            self.config.data_dir.components().collect::<PathBuf>().display()
        )
    }
}

/// The default port gives way to a free one; a port that was asked for does not.
fn broker(port: Option<u16>) -> Result<EmbeddedBroker, Fail> {
    let listen = |port| EmbeddedBroker::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    match (listen(port.unwrap_or(PORT)), port) {
        (Ok(broker), _) => Ok(broker),
        (Err(_), None) => Ok(listen(0)?),
        (Err(e), Some(_)) => Err(e.into()),
    }
}
