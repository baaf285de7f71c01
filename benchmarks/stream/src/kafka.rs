//! Kafka to windows committed in PostgreSQL and in SQLite, beside the bare client that counts bytes, in the same run on the
//! same topic.

use crate::bare::{self, Consumed};
use crate::consume::{Begin, Run, Store, Topic, consume};
use crate::fill::{Filler, PARTITIONS};
use crate::messages::{Fleet, count};
use crate::peers::Peer;
use crate::tables::{self, JUDGED_FROM, Measured, Ours};
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::server::Postgres;
use fleetscore_harness::Servers;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE")]
    fleetscore: PathBuf,
    /// Numbers of series: what more of them take is a table of its own.
    #[arg(long, value_delimiter = ',', default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    series: Vec<u32>,
    /// Readings in the topic.
    #[arg(long, default_value_t = 10_000_000, value_parser = count())]
    readings: usize,
    /// Readings of one message.
    #[arg(long, value_delimiter = ',', default_value = "1,100", value_parser = count())]
    packed: Vec<usize>,
    /// Panes of a minute that the readings span.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=1440))]
    panes: i64,
    /// Others on the same topic, in each repetition: each takes about a minute.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Repetitions of each; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = count())]
    repeats: usize,
    /// Takes one more consumption into PostgreSQL under `perf` for each packing, and draws a flame graph of it here.
    #[arg(long, value_name = "DIR")]
    flame: Option<PathBuf>,
}

/// Measures and reports.
pub(crate) fn run(args: &Args, pg_bin: &Path, report: &mut Report) -> Result<()> {
    let servers = Servers::new(&args.fleetscore);
    let postgres = Postgres::start(pg_bin)?;
    report.binary(&args.fleetscore)?;
    report.setting("server", postgres.description()?);
    report.setting(
        "topic",
        format!(
            "{PARTITIONS} partitions, one broker, {} readings in {} panes of a minute",
            args.readings, args.panes
        ),
    );
    report.setting("seconds", "from the grant of partitions to the last commit, at most checkpoint_interval = 1s after the last message; processor time of all processes but the broker in these seconds");
    if args.readings < JUDGED_FROM {
        report.setting(
            "goals",
            format!(
                "not judged: with fewer than {JUDGED_FROM} readings the last checkpoint is what is measured"
            ),
        );
    }
    let mut numbers = args.series.clone();
    numbers.sort_unstable();
    numbers.dedup();
    for &packed in &args.packed {
        let mut all = Vec::new();
        for &series in &numbers {
            let fleet = Fleet {
                series,
                readings: args.readings,
                packed,
                partitions: PARTITIONS,
                panes: args.panes,
                seed: 1,
            };
            let measured = one_topic(args, &servers, &postgres, fleet)?;
            measured.report(report);
            all.push(measured);
        }
        tables::by_series(report, &all);
    }
    servers.stop();
    Ok(())
}

/// All consumptions of one topic.
fn one_topic(args: &Args, servers: &Servers, postgres: &Postgres, fleet: Fleet) -> Result<Measured> {
    let Fleet { packed, series, .. } = fleet;
    let kafka = servers.kafka();
    let name = format!("stream-{packed}-{series}");
    kafka.create_topic(&name, PARTITIONS as i32);
    let (batches, sums) = fleet.batches();
    let messages = Filler::new(&kafka, None)?.send(&name, &batches)?;
    drop(batches);
    let topic = Topic { kafka: &kafka, name: &name, sums, messages, begin: Begin::Granted };
    let into_postgres = |which: &str, flame: Option<&Path>| {
        let database = format!("stream_{packed}_{series}_{which}");
        consume(&args.fleetscore, topic, Store::Postgres(postgres, &database), flame)
    };
    let mut measured = Measured { fleet, ours: Vec::new(), peers: Vec::new() };
    for repeat in 0..args.repeats {
        eprintln!("{series} series, {packed} per message, repetition {repeat}");
        measured.ours.push(Ours {
            bare: bare(topic)?,
            postgres: into_postgres(&repeat.to_string(), None)?,
            sqlite: consume(&args.fleetscore, topic, Store::Sqlite, None)?,
        });
        let peers = args.peers.iter().filter(|peer| peer.takes(packed));
        let run = |peer: &Peer| peer.run(&kafka.bootstrap, &name, packed, postgres, sums);
        measured.peers.push(peers.map(run).collect::<Result<_>>()?);
    }
    if let Some(folder) = &args.flame {
        into_postgres("flame", Some(&folder.join(format!("{name}.svg"))))?;
    }
    kafka.delete_topic(&name);
    Ok(measured)
}

/// The bare client in a process of its own.
fn bare(topic: Topic<'_>) -> Result<Run> {
    let Consumed { seconds, cpu, peak_bytes } =
        bare::in_a_process(&topic.kafka.bootstrap, topic.name, PARTITIONS, topic.messages)?;
    Ok(Run {
        what: "bytes counted by librdkafka's batch call".into(),
        seconds,
        cpu,
        cpu_of_start: 0.0,
        peak_bytes,
        stages: BTreeMap::new(),
    })
}
