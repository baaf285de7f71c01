//! One consumption of a topic by the product, watched from outside.

use crate::core::{cpu_of, cpu_of_family, cpu_of_threads, family};
use crate::flame::Sampling;
use crate::messages::Sums;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::child::{Memory, Service};
use fleetscore_benchmarks::server::Postgres;
use fleetscore_harness::database::Database;
use fleetscore_harness::kafka::Kafka;
use fleetscore_store::StoreOptions;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longer than any consumption takes.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is consumed.
#[derive(Clone, Copy)]
pub(crate) struct Topic<'a> {
    pub(crate) kafka: &'a Kafka,
    pub(crate) name: &'a str,
    pub(crate) sums: Sums,
    pub(crate) messages: u64,
    pub(crate) begin: Begin<'a>,
}

/// When the clock begins.
#[derive(Clone, Copy)]
pub(crate) enum Begin<'a> {
    /// Once partitions are granted.
    Granted,
    /// Once so many messages are committed; then this lets the others be seen.
    Committed { messages: u64, then: &'a dyn Fn() -> Result<()> },
}

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

/// Where windows go.
pub(crate) enum Store<'a> {
    Postgres(&'a Postgres, &'a str),
    Sqlite,
}

/// `fleetscore aggregate` until all of the topic is committed, and a flame graph of that.
pub(crate) fn consume(
    fleetscore: &Path,
    topic: Topic<'_>,
    store: Store<'_>,
    flame: Option<&Path>,
) -> Result<Run> {
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
    let mut command = Command::new(fleetscore);
    command.args(["aggregate", "--store", &url, "--kafka", &topic.kafka.bootstrap, "--topic", topic.name]);
    command
        .args(["--max-disorder", "10s", "--checkpoint-interval", "1s", "--data-dir"])
        .arg(folder.path().join("data"));
    let before = server.map(cpu_of_family).unwrap_or_default();
    let mut service = Service::start(command, &log, libc::SIGTERM)?;
    let (mut sampling, mut start) = (None, Spent::default());
    let id = service.id();
    // All of its threads are there by then.
    let begins = || -> Result<()> {
        start = Spent::until_now(id, server);
        if flame.is_some() {
            sampling = Some(Sampling::start([id].into_iter().chain(server.map_or(Vec::new(), family)))?);
        }
        Ok(())
    };
    let mut memory = Memory::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let looked = runtime.block_on(watch(&mut service, &mut memory, &url, topic, &log, begins));
    let spent = Spent::until_now(id, server);
    service.stop();
    let seconds = looked?;
    if let (Some(sampling), Some(file)) = (sampling, flame) {
        sampling.draw(file)?;
    }
    check(&url, topic.sums)?;
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

/// Waits for the last commit. Returns the seconds from when the clock begins.
async fn watch(
    service: &mut Service,
    memory: &mut Memory,
    url: &str,
    topic: Topic<'_>,
    log: &Path,
    begins: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    let (begun, mut first, mut store, mut begins) = (Instant::now(), None, None, Some(begins));
    let mut is_granted = false;
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
        is_granted = is_granted || std::fs::read_to_string(log)?.contains("partitions granted");
        if !is_granted {
            continue;
        }
        if matches!(topic.begin, Begin::Granted)
            && let Some(begins) = begins.take()
        {
            begins()?;
            first = Some(Instant::now());
            continue;
        }
        let store = match &mut store {
            None => store.insert(fleetscore_store::open(url, &StoreOptions::default()).await?),
            Some(store) => store,
        };
        let read: i64 = store.progress().await?.rows.iter().map(|row| row.next_offset).sum();
        let read = read.unsigned_abs();
        if let Begin::Committed { messages, then } = topic.begin
            && read >= messages
            && let Some(begins) = begins.take()
        {
            begins()?;
            then()?;
            first = Some(Instant::now());
        }
        if let Some(first) = first.filter(|_| read >= topic.messages) {
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
