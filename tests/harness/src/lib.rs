//! Starts real servers (Apache Kafka, PostgreSQL, Azurite) on free ports, drives the binary, asks the store through its
//! own stock client. Depends on nothing of ours, so that whoever tests or measures with it sees what a user sees.

pub mod azurite;
pub mod cluster;
pub mod database;
pub mod disk;
pub mod fleetscore;
pub mod kafka;
pub mod postgres;
pub mod process;
pub mod proxy;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Longer than anything here takes on the busiest machine: whoever waits so long has failed. Nothing is judged by time.
pub const PATIENCE: Duration = Duration::from_secs(1_800);

/// What a test returns.
pub type Test = Result<(), libtest_mimic::Failed>;

/// The servers of one run of the suite; each is started by the first test that needs it.
#[derive(Debug)]
pub struct Servers {
    binary: PathBuf,
    keep: AtomicBool,
    folder: Mutex<Option<tempfile::TempDir>>,
    kafka: OnceLock<Arc<kafka::Kafka>>,
    postgres: OnceLock<Arc<postgres::Postgres>>,
    azurite: OnceLock<Arc<azurite::Azurite>>,
}

impl Servers {
    /// None started yet; `binary` is the `fleetscore` under test.
    pub fn new(binary: &Path) -> Self {
        // Under a world-traversable folder: PostgreSQL runs as another user where the tests run as root.
        let folder =
            tempfile::Builder::new().prefix("fleetscore-e2e-").tempdir().expect("a temporary folder");
        process::open_to_all(folder.path());
        Self {
            binary: binary.to_owned(),
            keep: AtomicBool::new(false),
            folder: Mutex::new(Some(folder)),
            kafka: OnceLock::new(),
            postgres: OnceLock::new(),
            azurite: OnceLock::new(),
        }
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A new folder for one test or server.
    pub fn folder(&self, name: &str) -> PathBuf {
        let guard = self.folder.lock().expect("no test panics while it holds this lock");
        let root = guard.as_ref().expect("tests end before the servers stop").path();
        let path =
            (0..).map(|n| root.join(format!("{name}-{n}"))).find(|p| !p.exists()).expect("a free name");
        std::fs::create_dir(&path).expect("a folder in the temporary folder");
        path
    }

    /// The Kafka broker all tests share; topics are their own.
    pub fn kafka(&self) -> Arc<kafka::Kafka> {
        self.kafka.get_or_init(|| Arc::new(kafka::Kafka::start(&self.folder("kafka")))).clone()
    }

    /// Another cluster, for the test that needs one.
    pub fn another_kafka(&self) -> kafka::Kafka {
        kafka::Kafka::start(&self.folder("kafka"))
    }

    /// The PostgreSQL server all tests share; databases are their own.
    pub fn postgres(&self) -> Arc<postgres::Postgres> {
        self.postgres.get_or_init(|| Arc::new(postgres::Postgres::start(&self.folder("postgres")))).clone()
    }

    /// The Azurite server all tests share; containers are their own.
    pub fn azurite(&self) -> Arc<azurite::Azurite> {
        self.azurite.get_or_init(|| Arc::new(azurite::Azurite::start(&self.folder("azurite")))).clone()
    }

    /// Leaves what was written where it is, for somebody to look at.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Stops every server and removes what they wrote.
    pub fn stop(&self) {
        if let Some(kafka) = self.kafka.get() {
            kafka.stop();
        }
        for server in [self.postgres.get().map(|s| &s.process), self.azurite.get().map(|s| &s.process)]
            .into_iter()
            .flatten()
        {
            server.stop();
        }
        let keep = self.keep.load(Ordering::Relaxed) || std::env::var_os("FLEETSCORE_TEST_KEEP").is_some();
        if let Some(folder) = self.folder.lock().ok().and_then(|mut f| f.take())
            && keep
        {
            eprintln!("kept {}", folder.keep().display());
        }
    }
}

/// A variable that `tests/setup.sh` prints.
pub fn setup_variable(name: &str) -> String {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!("{name} is not set: run the tests by `make test` or `make e2e`, which fetch the servers"),
    }
}

/// Asks again until it is so; the last answer is shown when the time is over.
pub fn wait_until<T: std::fmt::Debug>(
    what: &str,
    at_most: Duration,
    mut ask: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if start.elapsed() > at_most => panic!("waited {at_most:?} for {what}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// A port that is free now, and that no connection is given by chance before a server listens on it: it lies below the
/// range from which the kernel takes ports of connections. None is handed out twice.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().and_then(|low| low.parse::<u32>().ok()).unwrap_or(32768);
    let start = if end > 20_000 { end - 14_000 } else { 2048.min(end / 2) };
    // Suites that run side by side begin at different places.
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(613)));
    for _ in start..end {
        let port = (start + next.fetch_add(1, Ordering::Relaxed) % (end - start)) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port between {start} and {end} is free");
}

/// What a path of a service answers over HTTP: the status, and the body.
pub fn http(address: &str, path: &str) -> Result<(u16, String), String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|e| e.to_string())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no status")?;
    Ok((status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())))
}
