//! A PostgreSQL server for the time of a benchmark.

use crate::Result;
use crate::child::{Service, succeed};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// `nobody` on Debian: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;

/// What the server is started with, said in the report.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "512MB"),
    ("max_wal_size", "8GB"),
    ("max_connections", "100"),
];

/// A server that ends with this value.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    port: u16,
    // Before the folder: the server ends first.
    process: Service,
    _folder: tempfile::TempDir,
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

impl Postgres {
    /// Makes a cluster and starts a server from the programs in this folder.
    ///
    /// # Errors
    /// The programs are not there, or the server does not start: with what it said.
    pub fn start(bin: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-pg-").tempdir()?;
        // Passable for the user that the server runs as.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        // SAFETY: no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let data = folder.path().join("data");
        succeed(
            command(&bin.join("initdb"))
                .args(["--no-sync", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"])
                .arg(&data)
                .current_dir(folder.path()),
        )?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = command(&bin.join("postgres"));
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        server.arg("-c").arg(format!("unix_socket_directories={}", folder.path().display()));
        for (key, value) in SETTINGS {
            server.arg("-c").arg(format!("{key}={value}"));
        }
        server.current_dir(folder.path());
        let log = folder.path().join("server.log");
        // SIGINT is PostgreSQL's fast shutdown.
        let mut process = Service::start(server, &log, libc::SIGINT)?;
        let start = Instant::now();
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("ready to accept connections") {
                break;
            }
            if process.ended().is_some() || start.elapsed() > Duration::from_secs(60) {
                return Err(format!("PostgreSQL does not start:\n{said}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { bin: bin.to_owned(), port, process, _folder: folder })
    }

    /// The server's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A new, empty database; returns its URL.
    ///
    /// # Errors
    /// `psql` cannot make it.
    pub fn database(&self, name: &str) -> Result<String> {
        psql(&self.url("postgres"), &format!("CREATE DATABASE {name};"))?;
        Ok(self.url(name))
    }

    /// Removes a database.
    ///
    /// # Errors
    /// `psql` cannot remove it.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        psql(&self.url("postgres"), &format!("DROP DATABASE {name} WITH (FORCE);"))?;
        Ok(())
    }

    /// The server's version and what it was started with.
    ///
    /// # Errors
    /// The program does not answer.
    pub fn description(&self) -> Result<String> {
        let version = succeed(Command::new(self.bin.join("postgres")).arg("--version"))?.stdout;
        let settings: Vec<String> = SETTINGS.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Ok(format!("{}, {}", version.trim(), settings.join(" ")))
    }
}

/// Runs a script by the stock client, which must succeed; what it printed.
///
/// # Errors
/// `psql` is not there, or a statement failed.
pub fn psql(url: &str, script: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), script)?;
    let mut command = Command::new("psql");
    command.args(["-qXAt", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file.path()).arg(url).env("PGTZ", "UTC");
    Ok(succeed(&mut command)?.stdout)
}
