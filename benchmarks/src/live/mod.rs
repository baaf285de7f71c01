//! A pipeline that runs as in production: servers of its own, an `aggregate` and a `score` process, a producer that sends a
//! seeded fleet, and the oracle that knows what must come of it. See [`crate::outages`], [`crate::soak`]
//! and [`crate::latency`].

pub mod compare;
pub(crate) mod latency;
pub mod producer;
pub mod rate;
pub mod sql;
pub mod watch;

use crate::Result;
use fleetscore_harness::azurite::Azurite;
use fleetscore_harness::fleetscore::{Fleetscore, Service};
use fleetscore_harness::kafka::Kafka;
use fleetscore_harness::postgres::Postgres;
use fleetscore_harness::{PATIENCE, Servers, free_port};
use fleetscore_oracle::Edges;
use fleetscore_oracle::expect::Rules;
use fleetscore_oracle::fleet::{Fleet, Shapes};
use fleetscore_oracle::model_lines;
use sql::Sql;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Length of a pane, which is the default schedule's window, in seconds.
pub const PANE_S: u32 = 10;
/// How far readings of a partition are out of order, in seconds.
pub(crate) const DISORDER_S: i64 = 2;
/// Readings further behind than this are dead letters, in seconds.
const LATENESS_S: i64 = 60;
/// The setting `checkpoint_interval` where a measurement does not set it, in seconds.
pub const CHECKPOINT_S: u64 = 5;
/// Readings in a message.
pub(crate) const PACKED: u32 = 100;
/// Dead letters of each second, far below the bound of a minute beyond which they are counted only.
const LETTERS_A_SECOND: f64 = 12.0;

const MIB: u64 = 1 << 20;
/// The settings `checkpoint_bytes` and `in_flight_bytes`: small, so that what grows without a bound would show.
const CHECKPOINT_BYTES: u64 = 64 * MIB;
const IN_FLIGHT_BYTES: u64 = 64 * MIB;
/// What `aggregate` takes by itself once all of its code has run: the pages of the binary are mapped one by one.
const BASE_BYTES: u64 = 70 * MIB;
/// librdkafka's queue, and one answer of the only broker.
const CLIENT_BYTES: u64 = (32 + 16) * MIB;
/// A checkpoint under way and one that gathers.
const CHECKPOINTS: u64 = 2;
/// For each series, with its names.
const SERIES_BYTES: u64 = 400;
/// Two tasks with batches of 8,192 windows, a publication four batches ahead of its writers, one connection each.
const RUN_BYTES: u64 = 64 * MIB;

/// What is sent, at a rate.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Makes everything random.
    pub seed: u64,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Devices of the fleet.
    pub devices: u32,
    /// Sensors of each.
    pub sensors: u32,
}

impl Load {
    /// How many series there are.
    pub const fn series(&self) -> u32 {
        self.devices * self.sensors
    }

    /// The fleet that says so many readings a second of event time, from a time on.
    pub fn fleet(&self, readings_a_second: f64, start_us: i64) -> Fleet {
        let per_pane = readings_a_second * f64::from(PANE_S) / f64::from(self.series());
        let share = LETTERS_A_SECOND / 3.0 / readings_a_second.max(1000.0);
        let pane_us = i64::from(PANE_S) * 1_000_000;
        Fleet {
            seed: self.seed,
            partitions: self.partitions,
            devices: self.devices,
            sensors: self.sensors,
            pane_us,
            start_us: start_us.div_euclid(pane_us) * pane_us,
            panes: u32::MAX >> 8,
            readings_per_pane: (per_pane.round() as u32).max(1),
            max_disorder_us: DISORDER_S * 1_000_000,
            allowed_lateness_us: LATENESS_S * 1_000_000,
            late: 0.0005,
            too_late: share,
            fast_clock: share,
            slow_clock: 0.01,
            silent: 0.02,
            burst: 0.0001,
            bad: share,
            shapes: Shapes::Packed(PACKED),
            exact: true,
        }
    }
}

/// What readings of a fleet are judged by.
pub(crate) fn rules(fleet: &Fleet) -> Rules {
    Rules {
        pane_us: fleet.pane_us,
        edges: Edges::Start,
        max_disorder_us: fleet.max_disorder_us,
        allowed_lateness_us: fleet.allowed_lateness_us,
        future_us: now_us() + 86_400_000_000,
    }
}

/// Microseconds since the epoch.
pub(crate) fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// One of the servers around the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The broker.
    Kafka,
    /// The store.
    Postgres,
    /// Blob storage.
    Blobs,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kafka, Self::Postgres, Self::Blobs];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "Kafka",
            Self::Postgres => "PostgreSQL",
            Self::Blobs => "blob storage",
        }
    }

    /// The processes that cannot work without it.
    pub const fn needed_by(self) -> &'static [&'static str] {
        match self {
            Self::Kafka => &["aggregate"],
            Self::Postgres => &["aggregate", "score"],
            Self::Blobs => &["score"],
        }
    }
}

/// The servers around the product.
#[derive(Debug)]
pub struct Site {
    kafka: Arc<Kafka>,
    postgres: Option<Arc<Postgres>>,
    azurite: Option<Arc<Azurite>>,
    away: Option<Away>,
}

#[derive(Debug)]
enum Away {
    Kafka,
    Postgres(fleetscore_harness::postgres::Stopped),
    Blobs(fleetscore_harness::azurite::Stopped),
}

impl Site {
    /// Starts one of each, on disk.
    pub fn start(servers: &Servers) -> Self {
        let (kafka, postgres, azurite) =
            (servers.folder("own-kafka"), servers.folder("own-postgres"), servers.folder("own-azurite"));
        Self {
            kafka: Arc::new(Kafka::start(&kafka)),
            postgres: Some(Arc::new(Postgres::start(&postgres))),
            azurite: Some(Arc::new(Azurite::start_on_disk(&azurite))),
            away: None,
        }
    }

    /// Those that others use too; none of them may be taken away.
    pub fn shared(servers: &Servers) -> Self {
        let (postgres, azurite) = (Some(servers.postgres()), Some(servers.azurite()));
        Self { kafka: servers.kafka(), postgres, azurite, away: None }
    }

    /// Takes a server away: Kafka by `kill -9`, PostgreSQL by an immediate shutdown, Azurite by SIGTERM (it writes its list of
    /// blobs only now and then).
    ///
    /// # Errors
    /// It is away already, or others use it.
    pub fn take_away(&mut self, server: Server) -> Result<()> {
        let away = match server {
            Server::Kafka => Arc::get_mut(&mut self.kafka).map(|kafka| {
                kafka.kill();
                Away::Kafka
            }),
            Server::Postgres => {
                self.postgres.take().and_then(Arc::into_inner).map(|p| Away::Postgres(p.crash()))
            }
            Server::Blobs => self.azurite.take().and_then(Arc::into_inner).map(|a| Away::Blobs(a.stop())),
        };
        self.away =
            Some(away.ok_or_else(|| format!("{} is not this benchmark's to take away", server.name()))?);
        Ok(())
    }

    /// Starts it again, and returns when it answers.
    pub fn bring_back(&mut self) {
        match self.away.take() {
            Some(Away::Kafka) => self.kafka.start_again(),
            Some(Away::Postgres(stopped)) => self.postgres = Some(Arc::new(stopped.start())),
            Some(Away::Blobs(stopped)) => self.azurite = Some(Arc::new(stopped.start())),
            None => {}
        }
    }

    /// A new topic, database and container, with the models of the load in it, and its processes.
    ///
    /// # Errors
    /// The models are refused, a process does not become ready.
    pub fn pipeline(&self, servers: &Servers, name: &str, load: &Load) -> Result<Pipeline> {
        self.pipeline_with(servers, name, load, CHECKPOINT_S)
    }

    /// The same with a `checkpoint_interval` of its own, in seconds.
    ///
    /// # Errors
    /// The models are refused, a process does not become ready.
    pub fn pipeline_with(
        &self,
        servers: &Servers,
        name: &str,
        load: &Load,
        checkpoint_s: u64,
    ) -> Result<Pipeline> {
        let up = |what: &str| format!("{what} is away");
        let postgres = self.postgres.as_ref().ok_or_else(|| up("PostgreSQL"))?;
        let azurite = self.azurite.as_ref().ok_or_else(|| up("Azurite"))?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let topic = format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.kafka.create_topic(&topic, i32::try_from(load.partitions)?);
        let (url, folder) = (postgres.database(), servers.folder(name));
        let mut fleetscore = Fleetscore::bare(servers.binary(), &folder)
            .with("--store", &url)
            .with("--blobs", &format!("az://{}/fleet", azurite.container()))
            .with("--kafka", &self.kafka.bootstrap)
            .with("--topic", &topic)
            .with("--interval", &format!("{PANE_S}s"))
            .with("--max-disorder", &format!("{DISORDER_S}s"))
            .with("--allowed-lateness", &format!("{LATENESS_S}s"))
            .with("--idle-timeout", "4s")
            .with("--checkpoint-interval", &format!("{checkpoint_s}s"))
            .with("--checkpoint-bytes", &CHECKPOINT_BYTES.to_string())
            .config(
                "[schedules.default]\nrescore_delay = \"10s\"\nrescores_per_minute = \"off\"\nrepublish_gap = \"10s\"\n",
            );
        for (name, value) in azurite.environment() {
            fleetscore = fleetscore.env(&name, &value);
        }
        let models = load.fleet(1000.0, 0).models();
        let file = folder.join("models.jsonl");
        std::fs::write(&file, model_lines(&models))?;
        fleetscore.run(&["models", "import", &file.display().to_string()]);
        let mut processes = Vec::new();
        for role in ["aggregate", "score"] {
            let port = free_port();
            let service = fleetscore.clone().with("--http", &format!("127.0.0.1:{port}")).start(&[role]);
            processes.push(Process { role, port, service, base_bytes: 0, bound_bytes: 0 });
        }
        let mut pipeline = Pipeline {
            bootstrap: self.kafka.bootstrap.clone(),
            topic,
            sql: Sql::new(&url)?,
            models,
            processes,
            fleetscore,
        };
        pipeline.wait_until_ready(PATIENCE)?;
        pipeline.set_bounds(load);
        Ok(pipeline)
    }
}

/// A process of the product.
#[derive(Debug)]
pub struct Process {
    /// Its command.
    pub role: &'static str,
    /// Of `/readyz`.
    pub port: u16,
    /// It.
    pub service: Service,
    /// Resident bytes once it was ready.
    pub base_bytes: u64,
    /// What it takes at most, see docs/limits.md.
    pub bound_bytes: u64,
}

/// Topic, database and processes of one measurement.
#[derive(Debug)]
pub struct Pipeline {
    /// The broker's address.
    pub bootstrap: String,
    /// The topic.
    pub topic: String,
    /// The database.
    pub sql: Sql,
    /// The fleet's models.
    pub models: compare::Models,
    /// `aggregate` and `score`.
    pub processes: Vec<Process>,
    /// To run commands.
    pub fleetscore: Fleetscore,
}

impl Pipeline {
    /// Waits until every process says that it is ready.
    ///
    /// # Errors
    /// The time is over, or a process has ended: with what it said.
    pub fn wait_until_ready(&self, at_most: Duration) -> Result<()> {
        let began = Instant::now();
        for process in &self.processes {
            while !watch::readyz(process.port).is_some_and(|h| h.ready) {
                self.alive()?;
                if began.elapsed() > at_most {
                    let said = watch::readyz(process.port).map(|h| h.text());
                    return Err(format!("{} is not ready after {at_most:?}: {said:?}", process.role).into());
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }

    /// The bounds of docs/limits.md, with the settings of [`Site::pipeline`].
    fn set_bounds(&mut self, load: &Load) {
        let series = u64::from(load.series()) * SERIES_BYTES;
        for process in &mut self.processes {
            process.base_bytes = watch::look(process.service.process.id()).map_or(0, |l| l.rss_bytes);
            process.bound_bytes = process.base_bytes
                + series
                + match process.role {
                    "aggregate" => {
                        BASE_BYTES.saturating_sub(process.base_bytes)
                            + IN_FLIGHT_BYTES
                            + CLIENT_BYTES
                            + CHECKPOINTS * CHECKPOINT_BYTES
                    }
                    _ => RUN_BYTES,
                };
        }
    }

    /// Fails where a process has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn alive(&self) -> Result<()> {
        match self.processes.iter().find(|p| p.service.process.ended().is_some()) {
            None => Ok(()),
            Some(process) => {
                let output = process.service.process.output();
                let tail: Vec<&str> = output.lines().rev().take(20).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                Err(format!("{} has ended:\n{}", process.role, tail.join("\n")).into())
            }
        }
    }

    /// Next offsets in the store, by partition.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn positions(&mut self) -> Result<Vec<(u32, i64)>> {
        let rows = self.sql.rows("SELECT kafka_partition, next_offset FROM progress")?;
        Ok(rows.iter().map(|r| (r.get::<_, i32>(0).unsigned_abs(), r.get(1))).collect())
    }

    /// Waits until all that was sent is in windows, scored and published; what is missing after a while is for the
    /// comparison to tell.
    ///
    /// # Errors
    /// A process has ended.
    pub fn settle(&mut self, sent: &producer::Sent, at_most: Duration) -> Result<()> {
        let scored = compare::expected_scored(&sent.windows, &self.models);
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < at_most {
            self.alive()?;
            match self.missing(sent, scored) {
                Ok(None) => return Ok(()),
                Ok(Some(what)) => last = what,
                Err(e) => last = e.to_string(),
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        eprintln!("not all is done after {at_most:?}: {last}");
        Ok(())
    }

    fn missing(&mut self, sent: &producer::Sent, scored: u64) -> Result<Option<String>> {
        let read: i64 = self.positions()?.iter().map(|(_, next)| next).sum();
        let messages: i64 = sent.messages.iter().sum();
        if read < messages {
            return Ok(Some(format!("{read} of {messages} messages in SQL")));
        }
        let open = self.sql.number("SELECT count(*) FROM runs WHERE state IN ('waiting', 'running')")?;
        let due = self.sql.number("SELECT count(*) FROM publications WHERE due")?;
        if open > 0 || due > 0 {
            return Ok(Some(format!("{open} runs are open, {due} publications due")));
        }
        // Rows of series without a model, or without data, become stale as well: late readings are on their way to them.
        let stale = self.sql.number("SELECT count(*) FROM predictions WHERE stale")?;
        let there = self.sql.number("SELECT count(*) FROM predictions WHERE status = 'scored'")?;
        let wanted = i64::try_from(scored)?;
        let done = stale == 0 && there == wanted;
        Ok((!done).then(|| format!("{there} of {wanted} predictions, {stale} rows stale")))
    }

    /// Stops the processes, which must end well.
    pub fn stop(&self) {
        self.processes.iter().for_each(|p| p.service.stop());
    }
}
