//! Kafka to windows committed in PostgreSQL and in SQLite, beside the bare client that counts bytes, in the same run on the
//! same topic.

use crate::bare::{self, Consumed};
use crate::core::{cpu_of, cpu_of_family, cpu_of_threads};
use crate::flame::Sampling;
use crate::messages::{Fleet, Sums};
use crate::peers::Peer;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::child::{Memory, Service};
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};
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
    /// Numbers of series, ascending: what more of them take is a table of its own.
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    series: Vec<u32>,
    /// Readings in the topic.
    #[arg(long, default_value_t = 10_000_000)]
    readings: usize,
    /// Readings of one message.
    #[arg(long, value_delimiter = ',', default_value = "1,100")]
    packed: Vec<usize>,
    /// Panes of a minute that the readings span.
    #[arg(long, default_value_t = 20)]
    panes: i64,
    /// Others on the same topic, once each: each takes minutes.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Repetitions of each; medians are shown.
    #[arg(long, default_value_t = 3)]
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
    for &packed in &args.packed {
        let mut all = Vec::new();
        for &series in &args.series {
            let fleet = Fleet {
                series,
                readings: args.readings,
                packed,
                partitions: PARTITIONS,
                panes: args.panes,
                seed: 1,
            };
            all.push((series, one_topic(args, report, &servers, &postgres, fleet)?));
        }
        by_series(report, packed, args.readings, &all);
    }
    servers.stop();
    Ok(())
}

/// All consumptions of one topic, and their tables. Returns those of ours, by repetition and kind.
fn one_topic(
    args: &Args,
    report: &mut Report,
    servers: &Servers,
    postgres: &Postgres,
    fleet: Fleet,
) -> Result<Vec<Vec<Run>>> {
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
    let mut runs: Vec<Vec<Run>> = Vec::new();
    for repeat in 0..args.repeats {
        eprintln!("{series} series, {packed} per message, repetition {repeat}");
        runs.push(vec![
            bare(topic)?,
            into_postgres(&repeat.to_string(), None)?,
            ours(args, topic, Store::Sqlite, None)?,
        ]);
    }
    if let Some(folder) = &args.flame {
        into_postgres("flame", Some(&folder.join(format!("{name}.svg"))))?;
    }
    let mut peers = Vec::new();
    for peer in args.peers.iter().filter(|p| p.takes(packed)) {
        eprintln!("{series} series, {packed} per message, {peer:?}");
        peers.push(peer.run(&kafka.bootstrap, &name, packed, postgres, sums)?);
    }
    table(report, fleet, sums, &runs);
    stages(report, fleet, sums, &runs);
    beside_peers(report, packed, sums, &runs, &peers);
    kafka.delete_topic(&name);
    Ok(runs)
}

/// Windows of a series that are open at a time: a pane, and the one before for as long as readings may be out of order.
const OPEN_WINDOWS: f64 = 2.0;

/// What more series take, of time and of memory, for the same number of readings.
fn by_series(report: &mut Report, packed: usize, readings: usize, all: &[(u32, Vec<Vec<Run>>)]) {
    let of = |runs: &[Vec<Run>]| {
        let rates: Vec<f64> = runs.iter().map(|all| readings as f64 / all[1].seconds / 1e6).collect();
        let peak = runs.iter().filter_map(|all| all[1].peak_bytes).max();
        (median(&rates).unwrap_or(f64::NAN), peak.map_or(f64::NAN, |bytes| bytes as f64))
    };
    let [(few, first), rest @ ..] = all else { return };
    if rest.is_empty() {
        return;
    }
    let (first_rate, first_peak) = of(first);
    let mut table = Table::new(
        format!("Into PostgreSQL by number of series, {packed} readings per message"),
        &["series", "M readings/s", "first / this", "peak MB", "more bytes per series and open window"],
    );
    for (series, runs) in all {
        let (rate, peak) = of(runs);
        let bytes = (peak - first_peak) / (f64::from(series - few) * OPEN_WINDOWS);
        table.row(vec![
            u64::from(*series).into(),
            Cell::number(rate, 2),
            Cell::number(first_rate / rate, 2),
            Cell::number(peak / 1e6, 1),
            Cell::number(Some(bytes).filter(|_| series != few), 0),
        ]);
        if (*few, *series, packed) == (1_000, 1_000_000, 1) {
            report.goal(Goal::at_most("readings/s of 1 k series / of 1 M series", 2.0, first_rate / rate));
            report.goal(Goal::at_most("more bytes per series and open window, 1 M series", 300.0, bytes));
        }
    }
    report.table(table);
}

fn table(report: &mut Report, fleet: Fleet, sums: Sums, runs: &[Vec<Run>]) {
    let Fleet { packed, series, .. } = fleet;
    let mut table = Table::new(
        format!("Kafka, {series} series, {packed} readings per message"),
        &["to", "M readings/s", "least", "most", "/ bare", "processor s per million", "peak MB"],
    );
    let kinds = runs.first().map_or(0, Vec::len);
    let rates = |kind: usize| -> Vec<f64> {
        runs.iter().map(|all| sums.readings as f64 / all[kind].seconds / 1e6).collect()
    };
    let bare = median(&rates(0)).unwrap_or(f64::NAN);
    for kind in 0..kinds {
        let rates = rates(kind);
        let middle = median(&rates).unwrap_or(f64::NAN);
        let cpu: Vec<f64> = runs.iter().map(|all| all[kind].cpu / sums.readings as f64 * 1e6).collect();
        let [shown, least, most] = Cell::spread(&rates, 2);
        table.row(vec![
            runs[0][kind].what.clone().into(),
            shown,
            least,
            most,
            Cell::number(middle / bare, 2),
            Cell::number(median(&cpu), 2),
            Cell::megabytes(runs.iter().filter_map(|all| all[kind].peak_bytes).max()),
        ]);
        // The goals are those of 10,000 series.
        let judged = kind == 1 && series == 10_000;
        if judged && packed == 1 {
            report.goal(Goal::at_least("single readings into PostgreSQL / bare client", 0.8, middle / bare));
        } else if judged {
            report.goal(Goal::at_least(
                format!("{packed} per message into PostgreSQL, M readings/s"),
                4.0,
                middle,
            ));
        }
    }
    report.table(table);
}

/// What the threads of the product do, by their names.
const STAGES: [(&str, &str); 7] = [
    ("rdk:broker", "librdkafka: sockets, checksums, records"),
    ("rdk:main", "librdkafka: its own affairs"),
    ("fleetscore-poll", "polling: batches of one partition"),
    ("fleetscore-deco", "decoding: JSON to columns"),
    ("tokio-rt-worker", "judging, grouping, the store's client"),
    ("sqlite-writer", "SQLite"),
    ("postgres", "PostgreSQL, all of its processes"),
];

/// Where the time of a reading goes.
fn stages(report: &mut Report, fleet: Fleet, sums: Sums, runs: &[Vec<Run>]) {
    let Fleet { packed, series, .. } = fleet;
    let mut table = Table::new(
        format!("Processor time of one reading, {series} series, {packed} per message, ns"),
        &["stage", "thread", "into PostgreSQL", "into SQLite"],
    );
    let ns = |kind: usize, name: &str| {
        let all: Vec<f64> = runs.iter().filter_map(|all| all[kind].stages.get(name).copied()).collect();
        median(&all).map(|s| s * 1e9 / sums.readings as f64)
    };
    let mut names: Vec<String> = STAGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let others = runs.iter().flatten().flat_map(|run| run.stages.keys());
    for name in others {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    for name in names {
        let what = STAGES.iter().find(|(known, _)| *known == name).map_or("", |(_, what)| what);
        let (postgres, sqlite) = (ns(1, &name), ns(2, &name));
        if postgres.unwrap_or(0.0) + sqlite.unwrap_or(0.0) >= 0.05 {
            table.row(vec![what.into(), name.into(), Cell::number(postgres, 1), Cell::number(sqlite, 1)]);
        }
    }
    report.table(table);
}

/// Ours into PostgreSQL beside the peers, in readings for each second of the processor.
fn beside_peers(report: &mut Report, packed: usize, sums: Sums, runs: &[Vec<Run>], peers: &[Run]) {
    if peers.is_empty() {
        return;
    }
    let readings = sums.readings as f64;
    let cpu: Vec<f64> = runs.iter().map(|all| all[1].cpu).collect();
    let seconds: Vec<f64> = runs.iter().map(|all| all[1].seconds).collect();
    let starts: Vec<f64> = runs.iter().map(|all| all[1].cpu_of_start).collect();
    let (cpu, seconds) = (median(&cpu).unwrap_or(f64::NAN), median(&seconds).unwrap_or(f64::NAN));
    let mut table = Table::new(
        format!("Beside others, {packed} readings per message; without what it takes to start"),
        &[
            "what",
            "M readings/s",
            "readings per processor second",
            "ours / this",
            "processor s to start",
            "peak MB",
        ],
    );
    table.row(vec![
        "fleetscore, PostgreSQL".into(),
        Cell::number(readings / seconds / 1e6, 2),
        Cell::number(readings / cpu, 0),
        Cell::number(1.0, 1),
        Cell::number(median(&starts), 2),
        Cell::megabytes(runs.iter().filter_map(|all| all[1].peak_bytes).max()),
    ]);
    let goal = if packed == 1 { 5.0 } else { 20.0 };
    for peer in peers {
        table.row(vec![
            peer.what.clone().into(),
            Cell::number(readings / peer.seconds / 1e6, 2),
            Cell::number(readings / peer.cpu, 0),
            Cell::number(peer.cpu / cpu, 1),
            Cell::number(peer.cpu_of_start, 2),
            Cell::megabytes(peer.peak_bytes),
        ]);
        report.goal(Goal::at_least(
            format!("readings per processor second, {packed} per message, beside {}", peer.what),
            goal,
            peer.cpu / cpu,
        ));
    }
    report.table(table);
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
            sampling = Some(Sampling::start([id].into_iter().chain(server))?);
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
