//! Starts the servers, drives the binary, asks the store through its own stock client.

pub mod azurite;
pub mod data;
pub mod database;
pub mod fleetscore;
pub mod kafka;
pub mod postgres;
pub mod process;
pub mod scenario;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// What a test returns.
pub type Test = Result<(), libtest_mimic::Failed>;

/// The servers of one run of the suite; each is started by the first test that needs it.
pub struct Servers {
    folder: Mutex<Option<tempfile::TempDir>>,
    kafka: OnceLock<Arc<kafka::Kafka>>,
    postgres: OnceLock<Arc<postgres::Postgres>>,
    azurite: OnceLock<Arc<azurite::Azurite>>,
}

impl Servers {
    /// None started yet.
    pub fn new() -> Self {
        // Under a world-traversable folder: PostgreSQL runs as another user where the tests run as root.
        let folder =
            tempfile::Builder::new().prefix("fleetscore-e2e-").tempdir().expect("a temporary folder");
        process::open_to_all(folder.path());
        Self {
            folder: Mutex::new(Some(folder)),
            kafka: OnceLock::new(),
            postgres: OnceLock::new(),
            azurite: OnceLock::new(),
        }
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

    /// Stops every server and removes what they wrote.
    pub fn stop(&self) {
        for server in [
            self.kafka.get().map(|s| &s.process),
            self.postgres.get().map(|s| &s.process),
            self.azurite.get().map(|s| &s.process),
        ]
        .into_iter()
        .flatten()
        {
            server.stop();
        }
        if let Some(folder) = self.folder.lock().ok().and_then(|mut f| f.take()) {
            if std::env::var_os("FLEETSCORE_TEST_KEEP").is_some() {
                eprintln!("kept {}", folder.keep().display());
            }
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

/// A port that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}
