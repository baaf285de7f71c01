//! Several `score` processes on one PostgreSQL: what they do under faults ([`faults`]), and how their number tells
//! ([`scale`]).

pub mod faults;
mod proof;
pub mod scale;

use crate::child::{Service, succeed};
use crate::fleet::Fleet;
use crate::{Result, server};
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{RunFilter, Store};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Length of a pane in microseconds.
pub(crate) const PANE_US: i64 = 60_000_000;

/// Start of the first pane: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000);

pub(crate) fn interval(pane: u32) -> Interval {
    Interval::starting(START.plus_us(PANE_US * i64::from(pane)), PANE_US)
}

/// What both measurements run.
#[derive(Debug, Clone)]
pub struct Site {
    /// The binary.
    pub fleetscore: PathBuf,
    /// URL of an empty PostgreSQL database.
    pub store: String,
    /// An empty folder: data folders, blobs, files of models, logs.
    pub folder: PathBuf,
    /// Shards of each run.
    pub shards: u32,
    /// How long a task is leased.
    pub lease: String,
}

impl Site {
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.fleetscore);
        command.args(args).arg("--store").arg(&self.store).arg("--data-dir").arg(self.folder.join("data"));
        command.arg("--blobs").arg(format!("file://{}", self.folder.join("blobs").display()));
        command.arg("--lease").arg(&self.lease).current_dir(&self.folder);
        command.env("FLEETSCORE_CONFIG", self.folder.join("fleetscore.toml"));
        command
    }

    pub(crate) fn configure(&self) -> Result<()> {
        let text = format!("[schedules.default]\nshards = {}\nrepublish_gap = \"0s\"\n", self.shards);
        Ok(std::fs::write(self.folder.join("fleetscore.toml"), text)?)
    }

    pub(crate) fn import(&self, file: &Path, models: u32) -> Result<()> {
        let ended = succeed(self.command(&["models", "import", "--json"]).arg(file))?;
        std::fs::remove_file(file)?;
        let report: serde_json::Value = serde_json::from_str(&ended.stdout)?;
        match report["imported"].as_u64() == Some(models.into()) {
            true => Ok(()),
            false => Err(format!("{models} models were to be imported: {}", ended.stdout).into()),
        }
    }

    /// Starts a worker; its log is `worker-<number>.<start>.log`.
    fn worker(&self, number: usize, start: usize) -> Result<Service> {
        let log = self.folder.join(format!("worker-{number}.{start}.log"));
        Service::start(self.command(&["score"]), &log, libc::SIGTERM)
    }

    /// What the workers' logs say so often.
    fn said(&self, text: &str) -> Result<u64> {
        let mut n = 0;
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "log") {
                n += std::fs::read_to_string(&path)?.matches(text).count() as u64;
            }
        }
        Ok(n)
    }

    fn number(&self, sql: &str) -> Result<u64> {
        Ok(server::psql(&self.store, sql)?.trim().parse()?)
    }
}

/// Runs that are over, and open ones.
async fn progress(store: &dyn Store) -> Result<(usize, usize)> {
    let runs = store.runs(&RunFilter::default()).await?;
    let open = runs.iter().filter(|r| matches!(r.state, RunState::Waiting | RunState::Running)).count();
    Ok((runs.len() - open, open))
}

/// The fleet of a seed.
const fn fleet(series: u32, seed: u64) -> Fleet {
    Fleet::new(series, seed)
}
