//! Kafka to windows committed in PostgreSQL and in SQLite, beside the bare client that counts bytes, in the same run on the
//! same topic.

use crate::bare::{self, Consumed};
use crate::core::{cpu_of, cpu_of_family, cpu_of_threads, family};
use crate::flame::Sampling;
use crate::messages::{Fleet, Sums, count};
use crate::peers::Peer;
use crate::tables::{self, JUDGED_FROM, Measured, Ours};
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::child::{Memory, Service};
use fleetscore_benchmarks::report::Report;
use fleetscore_benchmarks::server::Postgres;
use fleetscore_harness::Servers;
use fleetscore_harness::database::Database;
use fleetscore_harness::kafka::{Kafka, enqueue};
use fleetscore_store::StoreOptions;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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

/// What is consumed.
#[derive(Clone, Copy)]
struct Topic<'a> {
    kafka: &'a Kafka,
    name: &'a str,
    sums: Sums,
    messages: u64,
}

const PARTITIONS: usize = 8;
/// Longer than any consumption takes.
const PATIENCE: Duration = Duration::from_secs(3600);

/// One consumption to its end.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) what: String,
    /// From the first message read to the last one done.
    pub(crate) seconds: f64,
    /// In these, of all processes but the broker.
    pub(crate) cpu: f64,
    /// Of the same processes, before.
    pub(crate) cpu_of_start: f64,
    pub(crate) peak_bytes: Option<u64>,
    /// Of `cpu`, what each kind of thread or server has had.
    pub(crate) stages: BTreeMap<String, f64>,
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
    let (sums, messages) = fill(&kafka, &name, fleet)?;
    let topic = Topic { kafka: &kafka, name: &name, sums, messages };
    let into_postgres = |which: &str, flame: Option<&Path>| {
        let database = format!("stream_{packed}_{series}_{which}");
        ours(args, topic, Store::Postgres(postgres, &database), flame)
    };
    let mut measured = Measured { fleet, ours: Vec::new(), peers: Vec::new() };
    for repeat in 0..args.repeats {
        eprintln!("{series} series, {packed} per message, repetition {repeat}");
        measured.ours.push(Ours {
            bare: bare(topic)?,
            postgres: into_postgres(&repeat.to_string(), None)?,
            sqlite: ours(args, topic, Store::Sqlite, None)?,
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

/// Fills the topic. Returns what is in it, and how many messages.
fn fill(kafka: &Kafka, topic: &str, fleet: Fleet) -> Result<(Sums, u64)> {
    let producer: ThreadedProducer<DefaultProducerContext> = kafka
        .config()
        .set("linger.ms", "50")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.kbytes", "500000")
        .set("queue.buffering.max.messages", "2000000")
        .create()?;
    let begun = Instant::now();
    let (batches, sums) = fleet.batches();
    let mut sent = 0;
    for batch in &batches {
        for m in 0..batch.messages.len() {
            let payload = batch.messages.message(m);
            // The device, as it stands in the message: some of the others need it as the key.
            let key = payload.split(|c| *c == b'"').nth(3).unwrap_or_default();
            let key = std::str::from_utf8(key)?;
            let record = BaseRecord::to(topic).partition(batch.partition as i32).key(key).payload(payload);
            enqueue(&producer, record)?;
            sent += 1;
        }
    }
    producer.flush(PATIENCE)?;
    eprintln!("{sent} messages sent in {:.1} s", begun.elapsed().as_secs_f64());
    Ok((sums, sent))
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

enum Store<'a> {
    Postgres(&'a Postgres, &'a str),
    Sqlite,
}

/// `fleetscore aggregate` until all of the topic is committed, and a flame graph of that.
fn ours(args: &Args, topic: Topic<'_>, store: Store<'_>, flame: Option<&Path>) -> Result<Run> {
    let Topic { kafka, name: topic, sums, messages } = topic;
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    let (what, url) = match &store {
        Store::Postgres(server, name) => ("windows in PostgreSQL", server.database(name)?),
        Store::Sqlite => {
            ("windows in SQLite", format!("sqlite:{}", folder.path().join("fleetscore.db").display()))
        }
    };
    let server = match &store {
        Store::Postgres(server, _) => Some(server.id()),
        Store::Sqlite => None,
    };
    let log = folder.path().join("aggregate.log");
    let mut command = Command::new(&args.fleetscore);
    command.args(["aggregate", "--store", &url, "--kafka", &kafka.bootstrap, "--topic", topic]);
    command
        .args(["--max-disorder", "10s", "--checkpoint-interval", "1s", "--data-dir"])
        .arg(folder.path().join("data"));
    let before = server.map(cpu_of_family).unwrap_or_default();
    let mut service = Service::start(command, &log, libc::SIGTERM)?;
    let (mut sampling, mut start) = (None, Spent::default());
    let id = service.id();
    // All of its threads are there by then.
    let granted = || -> Result<()> {
        start = Spent::until_now(id, server);
        if flame.is_some() {
            sampling = Some(Sampling::start([id].into_iter().chain(server.map_or(Vec::new(), family)))?);
        }
        Ok(())
    };
    let mut memory = Memory::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let looked = runtime.block_on(watch(&mut service, &mut memory, &url, messages, &log, granted));
    let spent = Spent::until_now(id, server);
    service.stop();
    let seconds = looked?;
    if let (Some(sampling), Some(file)) = (sampling, flame) {
        sampling.draw(file)?;
    }
    check(&url, sums)?;
    if let Store::Postgres(server, name) = &store {
        server.drop_database(name)?;
    }
    Ok(Run {
        what: what.into(),
        seconds,
        cpu: spent.cpu.saturating_sub(start.cpu).as_secs_f64(),
        cpu_of_start: start.cpu.saturating_sub(before).as_secs_f64(),
        peak_bytes: memory.peak_bytes,
        stages: spent.stages_since(&start),
    })
}

/// Time of the processor that a process and a server of databases have had.
#[derive(Debug, Default)]
struct Spent {
    cpu: Duration,
    /// By kind of thread; the server as one of them.
    stages: BTreeMap<String, Duration>,
}

impl Spent {
    fn until_now(pid: u32, server: Option<u32>) -> Self {
        let of_server = server.map(cpu_of_family);
        let mut stages = cpu_of_threads(pid);
        stages.extend(of_server.map(|cpu| ("postgres".into(), cpu)));
        Self { cpu: cpu_of(pid) + of_server.unwrap_or_default(), stages }
    }

    /// Seconds of each kind.
    fn stages_since(self, start: &Self) -> BTreeMap<String, f64> {
        let before = |name: &String| start.stages.get(name).copied().unwrap_or_default();
        self.stages
            .into_iter()
            .map(|(name, cpu)| (name.clone(), cpu.saturating_sub(before(&name)).as_secs_f64()))
            .collect()
    }
}

/// Between two looks at what is committed: each costs the server, whose time is ours. A consumption seems to take as much longer
/// at most.
const LOOK: Duration = Duration::from_millis(50);

/// Waits for the last commit. Returns the seconds from when partitions were granted.
async fn watch(
    service: &mut Service,
    memory: &mut Memory,
    url: &str,
    messages: u64,
    log: &Path,
    granted: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    let (begun, mut first, mut store, mut granted) = (Instant::now(), None, None, Some(granted));
    loop {
        tokio::time::sleep(if first.is_none() { Duration::from_millis(10) } else { LOOK }).await;
        memory.look(service.id());
        if let Some(status) = service.ended() {
            return Err(format!(
                "`fleetscore aggregate` ended with {status}:\n{}",
                std::fs::read_to_string(log)?
            )
            .into());
        }
        if begun.elapsed() > PATIENCE {
            return Err("it takes for ever".into());
        }
        if first.is_none() {
            if std::fs::read_to_string(log)?.contains("partitions granted") {
                first = Some(Instant::now());
                granted.take().map_or(Ok(()), |granted| granted())?;
            }
            continue;
        }
        let store = match &mut store {
            None => store.insert(fleetscore_store::open(url, &StoreOptions::default()).await?),
            Some(store) => store,
        };
        let read: i64 = store.progress().await?.rows.iter().map(|row| row.next_offset).sum();
        if let Some(first) = first.filter(|_| read.unsigned_abs() >= messages) {
            return Ok(first.elapsed().as_secs_f64());
        }
    }
}

/// Fails unless SQL holds what was sent.
fn check(url: &str, sums: Sums) -> Result<()> {
    let database = match url.strip_prefix("sqlite:") {
        Some(file) => Database::Sqlite { file: file.into() },
        None => Database::Postgres { url: url.to_owned() },
    };
    let rows =
        database.rows("SELECT coalesce(sum(readings), 0), coalesce(sum(sum), 0), count(*) FROM windows")?;
    let fields: Vec<f64> = rows.concat().iter().map(|f| f.parse()).collect::<std::result::Result<_, _>>()?;
    match fields[..] {
        [readings, sum, windows]
            if (readings, sum, windows) == (sums.readings as f64, sums.sum, sums.windows as f64) =>
        {
            Ok(())
        }
        _ => Err(format!("SQL holds {fields:?}, and there were {sums:?}").into()),
    }
}
