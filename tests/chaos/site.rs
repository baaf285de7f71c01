//! The parts of a chaos run: brokers, SQL and blob storage, each behind proxies, and the processes under test.

use super::Store;
use super::settings::{LEASE_S, Settings};
use fleetscore_harness::azurite::{self, Azurite};
use fleetscore_harness::cluster::Cluster;
use fleetscore_harness::database::Database;
use fleetscore_harness::disk::SmallDisk;
use fleetscore_harness::fleetscore::{Fleetscore, Service};
use fleetscore_harness::postgres::Postgres;
use fleetscore_harness::proxy::{Mode, Proxy, Traffic};
use fleetscore_harness::{Servers, process};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The client's name of whoever sends.
pub const PRODUCER: &str = "producer";
const BROKERS: usize = 3;

/// Locks a mutex whatever a thread did that had it: what is in it is replaced whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All parts. Fields are dropped in this order: processes, servers, the disk that one of them is on.
pub struct Site {
    pub members: Vec<Member>,
    pub cluster: Cluster,
    pub postgres: Mutex<Option<Postgres>>,
    pub azurite: Mutex<Option<Azurite>>,
    pub database: Database,
    pub container: String,
    pub topic: String,
    pub folder: PathBuf,
    /// None where this machine does not allow it.
    pub disk: Option<SmallDisk>,
}

/// A process under test, which is started again whenever it is killed.
pub struct Member {
    pub name: String,
    role: &'static str,
    fleetscore: Fleetscore,
    pub service: Mutex<Service>,
    /// Logs of all its lives.
    logs: Mutex<Vec<PathBuf>>,
    /// Its own ways to SQL and to blobs.
    sql: Option<Proxy>,
    blobs: Proxy,
}

impl Member {
    fn start(
        name: &str,
        role: &'static str,
        fleetscore: Fleetscore,
        sql: Option<Proxy>,
        blobs: Proxy,
    ) -> Self {
        let service = fleetscore.start(&[role]);
        let logs = Mutex::new(vec![service.process.log.clone()]);
        Self { name: name.to_owned(), role, fleetscore, service: Mutex::new(service), logs, sql, blobs }
    }

    /// Whether it reads Kafka.
    pub fn aggregates(&self) -> bool {
        self.role != "score"
    }

    /// Starts it again in place of its former life.
    pub fn start_again(&self, service: &mut Service) {
        *service = self.fleetscore.start(&[self.role]);
        lock(&self.logs).push(service.process.log.clone());
    }

    /// What it has said in all its lives.
    pub fn said(&self) -> Vec<(PathBuf, String)> {
        let read =
            |log: &PathBuf| String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
        lock(&self.logs).iter().map(|log| (log.clone(), read(log))).collect()
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        lock(&self.logs).len()
    }
}

/// A way from a process to a server.
pub struct Link<'a> {
    pub name: String,
    pub proxies: Vec<&'a Proxy>,
}

impl Link<'_> {
    pub fn set(&self, mode: Mode) {
        self.proxies.iter().for_each(|p| p.set(mode));
    }
}

impl Site {
    /// Starts everything, with the models imported and the topic made.
    pub fn start(servers: &Servers, settings: &Settings, models: &str) -> Self {
        let folder = servers.folder(&format!("chaos-{}", settings.store.name()));
        process::open_to_all(&folder);
        let names = names(settings.store);
        let mut clients: Vec<&str> =
            names.iter().filter(|(_, role)| *role != "score").map(|(n, _)| n.as_str()).collect();
        clients.push(PRODUCER);
        let topic = "readings".to_owned();
        let small = folder.join("small-disk");
        let disk = SmallDisk::mount(&small, settings.disk_megabytes());
        if let Err(why) = &disk {
            eprintln!(
                "NOTE: chaos: no tmpfs can be mounted here ({why}): THE FULL DISK IS LEFT OUT of this run"
            );
        }
        let sql = || match settings.store {
            Store::Postgres => {
                let postgres = Postgres::start_small(&made(&small));
                let url = postgres.database();
                (Some(postgres), Database::Postgres { url })
            }
            Store::Sqlite => (None, Database::Sqlite { file: made(&small).join("fleetscore.db") }),
        };
        // Brokers take longest to start.
        let (cluster, (postgres, database), blobs) = std::thread::scope(|scope| {
            let cluster = scope.spawn(|| {
                let cluster = Cluster::start(&made(&folder.join("kafka")), BROKERS, &clients);
                cluster.plain(PRODUCER).create_topic(&topic, settings.fleet.partitions as i32);
                cluster
            });
            let (sql, blobs) = (sql(), Azurite::start_on_disk(&made(&folder.join("azurite"))));
            (cluster.join().expect("the brokers start"), sql, blobs)
        });
        let container = blobs.container();
        let mut this = Self {
            members: Vec::new(),
            cluster,
            postgres: Mutex::new(postgres),
            azurite: Mutex::new(Some(blobs)),
            database,
            container,
            topic,
            folder,
            disk: disk.ok(),
        };
        for (n, (name, role)) in names.iter().enumerate() {
            let (fleetscore, sql, blobs) = this.fleetscore(servers, settings, name, *role != "score");
            if n == 0 {
                let file = fleetscore.folder.join("models.jsonl");
                std::fs::write(&file, models).expect("a file of our own");
                fleetscore.run(&["models", "import", &file.display().to_string()]);
            }
            this.members.push(Member::start(name, role, fleetscore, sql, blobs));
        }
        this
    }

    fn fleetscore(
        &self,
        servers: &Servers,
        settings: &Settings,
        name: &str,
        kafka: bool,
    ) -> (Fleetscore, Option<Proxy>, Proxy) {
        let (store, sql) = match (&self.database, &*lock(&self.postgres)) {
            (Database::Postgres { url }, Some(postgres)) => {
                let proxy = Proxy::start(postgres.port());
                let port = |p: u16| format!(":{p}/");
                (url.replace(&port(postgres.port()), &port(proxy.port())), Some(proxy))
            }
            (database, _) => (database.setting(), None),
        };
        let blobs = Proxy::start(lock(&self.azurite).as_ref().map_or(0, Azurite::port));
        let bootstrap = self.cluster.bootstrap(if kafka { name } else { PRODUCER });
        let mut fleetscore = Fleetscore::bare(servers.binary(), &made(&self.folder.join(name)))
            .with("--store", &store)
            .with("--blobs", &format!("az://{}/fleet", self.container))
            .with("--kafka", &bootstrap)
            .with("--topic", &self.topic)
            .with("--lease", &format!("{LEASE_S}s"))
            .config(
                "[schedules.default]\nrescore_delay = \"1s\"\nrescores_per_minute = \"off\"\nrepublish_gap = \"0s\"\nshards = 3\n",
            );
        for (flag, value) in settings.flags() {
            fleetscore = fleetscore.with(flag, &value);
        }
        for (variable, value) in settings.environment().into_iter().chain(azurite::environment(blobs.port()))
        {
            fleetscore = fleetscore.env(&variable, &value);
        }
        (fleetscore, sql, blobs)
    }

    /// All links, those of the producer too.
    pub fn links(&self) -> Vec<Link<'_>> {
        let mut links =
            vec![Link { name: format!("{PRODUCER}-kafka"), proxies: self.cluster.proxies(PRODUCER) }];
        for member in &self.members {
            let mut add =
                |to: &str, proxies| links.push(Link { name: format!("{}-{to}", member.name), proxies });
            if member.aggregates() {
                add("kafka", self.cluster.proxies(&member.name));
            }
            if let Some(sql) = &member.sql {
                add("sql", vec![sql]);
            }
            if member.role != "aggregate" {
                add("blobs", vec![&member.blobs]);
            }
        }
        links
    }

    /// What has passed all proxies.
    pub fn traffic(&self) -> Traffic {
        self.links().iter().flat_map(|l| l.proxies.iter().map(|p| p.traffic())).fold(
            Traffic::default(),
            |a, b| Traffic {
                up: a.up + b.up,
                down: a.down + b.down,
                connections: a.connections + b.connections,
                resets: a.resets + b.resets,
            },
        )
    }

    /// Ends every fault that may still be there.
    pub fn heal(&self) {
        for link in self.links() {
            link.set(Mode::Pass);
        }
        if let Some(disk) = &self.disk {
            disk.empty();
        }
        self.revive_postgres();
        self.cluster.heal();
        for member in &self.members {
            lock(&member.service).process.signal(libc::SIGCONT);
        }
    }

    /// Starts PostgreSQL again if it ended by itself, as it does on a full disk.
    pub fn revive_postgres(&self) -> bool {
        let mut postgres = lock(&self.postgres);
        let Some(server) = postgres.as_mut() else { return false };
        if server.process.ended().is_none() {
            return false;
        }
        for _ in 0..3 {
            if server.revive().is_ok() {
                return true;
            }
        }
        panic!("PostgreSQL does not start any more:\n{}", server.process.output());
    }

    /// Copies what is on the small disk to where it stays.
    pub fn keep_evidence(&self) {
        let from = self.folder.join("small-disk");
        let _ = std::process::Command::new("cp").arg("-r").arg(from).arg(self.folder.join("kept")).status();
    }

    /// Stops every process by SIGTERM, all at once; each must end with status 0. What is wrong otherwise.
    pub fn stop_members(&self) -> Vec<String> {
        for member in &self.members {
            lock(&member.service).process.signal(libc::SIGTERM);
        }
        let ends = |m: &Member| {
            let service = lock(&m.service);
            match service.process.wait(Duration::from_secs(40)) {
                Some(status) if status.code() == Some(0) => None,
                other => Some(format!(
                    "{} ended with {other:?} after SIGTERM: {}",
                    m.name,
                    service.process.log.display()
                )),
            }
        };
        self.members.iter().filter_map(ends).collect()
    }
}

/// Names and roles of the processes.
fn names(store: Store) -> Vec<(String, &'static str)> {
    let several = |role: &'static str, count| (0..count).map(move |n| (format!("{role}-{n}"), role));
    match store {
        Store::Postgres => several("aggregate", 3).chain(several("score", 2)).collect(),
        Store::Sqlite => vec![("up".to_owned(), "up")],
    }
}

fn made(folder: &Path) -> PathBuf {
    std::fs::create_dir_all(folder).expect("a folder of our own");
    folder.to_owned()
}
