//! A real PostgreSQL, run as another user where the tests run as root (it refuses root).

use crate::process::{Process, is_root};
use crate::{PATIENCE, free_port, setup_variable};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// `nobody` on Debian.
const NOBODY: u32 = 65534;

/// One server.
#[derive(Debug)]
pub struct Postgres {
    /// The server.
    pub process: Process,
    port: u16,
    folder: PathBuf,
    databases: AtomicU32,
}

/// Arguments of `initdb` for a small disk: WAL in pieces of a megabyte.
const SMALL: &[&str] = &["--wal-segsize=1"];

/// A server that is down; its data and its port are kept.
#[derive(Debug)]
pub struct Stopped {
    folder: PathBuf,
    port: u16,
    databases: u32,
}

impl Stopped {
    /// Starts it again.
    pub fn start(self) -> Postgres {
        Postgres::serve(&self.folder, self.port, self.databases)
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

impl Postgres {
    /// Makes a cluster and starts the server.
    pub fn start(folder: &Path) -> Self {
        Self::make(folder, &[])
    }

    /// Makes a cluster that suits a disk of some hundred megabytes, and starts the server.
    pub fn start_small(folder: &Path) -> Self {
        Self::make(folder, SMALL)
    }

    fn make(folder: &Path, arguments: &[&str]) -> Self {
        let bin = PathBuf::from(setup_variable("FLEETSCORE_TEST_PG_BIN"));
        if is_root() {
            std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may chown");
        }
        let data = folder.join("data");
        let made = command(&bin.join("initdb"))
            .args(["--no-sync", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .args(arguments)
            .current_dir(folder)
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        Self::serve(folder, free_port(), 0)
    }

    /// Stops it as a crash would, without a chance to finish anything; [`Stopped::start`] brings it back.
    pub fn crash(self) -> Stopped {
        // Immediate shutdown: sessions are cut off, recovery runs at the next start.
        self.process.signal(libc::SIGQUIT);
        self.process.wait(PATIENCE).expect("PostgreSQL ends");
        Stopped {
            folder: self.folder.clone(),
            port: self.port,
            databases: self.databases.load(Ordering::Relaxed),
        }
    }

    fn serve(folder: &Path, port: u16, databases: u32) -> Self {
        let process = Self::launch(folder, port);
        process.wait_for_output("ready to accept connections", PATIENCE);
        Self { process, port, folder: folder.to_owned(), databases: AtomicU32::new(databases) }
    }

    fn launch(folder: &Path, port: u16) -> Process {
        let bin = PathBuf::from(setup_variable("FLEETSCORE_TEST_PG_BIN"));
        let mut server = command(&bin.join("postgres"));
        server.arg("-D").arg(folder.join("data")).args([
            "-p",
            &port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        server.arg("-c").arg(format!("unix_socket_directories={}", folder.display()));
        server.args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200"]);
        server.current_dir(folder);
        // SIGINT is PostgreSQL's fast shutdown.
        let log = (0..).map(|n| folder.with_extension(format!("{n}.log"))).find(|p| !p.exists());
        Process::spawn(server, &log.expect("a free name"), libc::SIGINT)
    }

    /// Starts it again where it ended by itself, as it does when its disk is full; it may not be able to.
    pub fn revive(&mut self) -> Result<(), String> {
        if self.process.ended().is_none() {
            return Ok(());
        }
        self.process = Self::launch(&self.folder, self.port);
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            if self.process.output().contains("ready to accept connections") {
                return Ok(());
            }
            if self.process.ended().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(self.process.output())
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new folder in this one that the server may keep tables in.
    pub fn folder_for_tables(&self, folder: &Path) -> PathBuf {
        let tables = folder.join("tables");
        std::fs::create_dir(&tables).expect("a folder of our own");
        if is_root() {
            std::os::unix::fs::chown(&tables, Some(NOBODY), Some(NOBODY)).expect("root may chown");
        }
        tables
    }

    /// A URL of a database of the server.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A new, empty database; returns its URL.
    pub fn database(&self) -> String {
        let name = format!("fleet_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    fn psql(&self, database: &str, sql: &str) {
        let out = Command::new("psql")
            .args(["-qX", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url(database))
            .output();
        let out = out.expect("psql starts");
        assert!(out.status.success(), "psql: {}", String::from_utf8_lossy(&out.stderr));
    }
}
