//! Flink SQL and Kafka Streams on the same topic (`benchmarks/peers`), with their windows compared to ours.

use crate::consume::Run;
use crate::core::cpu_of_family;
use crate::messages::Sums;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::child::succeed;
use fleetscore_benchmarks::server::Postgres;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// Flink SQL into a sink that counts.
    Flink,
    /// Flink SQL into PostgreSQL.
    FlinkPostgres,
    /// Kafka Streams, exactly once.
    Streams,
    /// Kafka Streams, at least once.
    StreamsAlo,
}

/// The line that a peer prints.
#[derive(Debug, Deserialize)]
struct Line {
    checksum_count: u64,
    windows: u64,
    sum: f64,
    wall_s: f64,
    startup_s: f64,
    cpu_s: f64,
    cpu_startup_s: f64,
    peak_rss_mb: f64,
}

impl Peer {
    /// Whether it reads messages of more than one reading.
    pub(crate) fn takes(self, packed: usize) -> bool {
        packed == 1 || matches!(self, Self::Flink | Self::FlinkPostgres)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Flink => "Flink SQL, a sink that counts",
            Self::FlinkPostgres => "Flink SQL, PostgreSQL",
            Self::Streams => "Kafka Streams, exactly once, a topic",
            Self::StreamsAlo => "Kafka Streams, at least once, a topic",
        }
    }

    /// Runs it over the topic. Its start is left out, of the time and of the processor's.
    pub(crate) fn run(
        self,
        bootstrap: &str,
        topic: &str,
        packed: usize,
        postgres: &Postgres,
        sums: Sums,
    ) -> Result<Run> {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../peers/run.sh");
        let cores = std::thread::available_parallelism().map_or(1, usize::from).to_string();
        let database = format!("peer_{packed}_{}", topic.replace('-', "_"));
        let mut command = Command::new(script);
        command.arg(match self {
            Self::Flink | Self::FlinkPostgres => "flink",
            Self::Streams | Self::StreamsAlo => "streams",
        });
        command.args(["--bootstrap", bootstrap, "--topic", topic]);
        let flink = ["--packed", &packed.to_string(), "--parallelism", &cores];
        match self {
            Self::Flink => command.args(["--sink", "blackhole"]).args(flink),
            Self::FlinkPostgres => {
                let url = postgres.database(&database)?;
                command.args(["--sink", "postgres", "--pg-url", &url]).args(flink)
            }
            Self::Streams => command.args(["--guarantee", "eos", "--threads", &cores]),
            Self::StreamsAlo => command.args(["--guarantee", "alo", "--threads", &cores]),
        };
        let before = cpu_of_family(postgres.id());
        let said = succeed(&mut command)?.stdout;
        let of_server = match self {
            Self::FlinkPostgres => cpu_of_family(postgres.id()).saturating_sub(before),
            _ => Duration::ZERO,
        };
        if self == Self::FlinkPostgres {
            postgres.drop_database(&database)?;
        }
        let line: Line = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        let found = Sums { readings: line.checksum_count, sum: line.sum, windows: line.windows };
        if found != sums {
            return Err(format!("{}: {found:?}, and there are {sums:?}", self.name()).into());
        }
        Ok(Run {
            what: self.name().into(),
            seconds: line.wall_s - line.startup_s,
            cpu: line.cpu_s - line.cpu_startup_s + of_server.as_secs_f64(),
            cpu_of_start: line.cpu_startup_s,
            peak_bytes: Some((line.peak_rss_mb * 1e6) as u64),
            stages: std::collections::BTreeMap::new(),
        })
    }
}
