//! Child processes, and what they cost.

use crate::Result;
use fleetscore_harness::process::Status;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a process is asked for its memory.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A process that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
    /// Seconds from its start to its end.
    pub seconds: f64,
    /// What memory it held at most.
    pub memory: Memory,
}

/// Memory of a process as the kernel counts it; `None` where `/proc` does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The most it ever held, mapped files included (`VmHWM`).
    pub peak_bytes: Option<u64>,
    /// The most that was seen without mapped files (`RssAnon`, looked at every few milliseconds).
    pub anonymous_bytes: Option<u64>,
}

impl Memory {
    /// Looks at a process and keeps the higher figures. `VmHWM` belongs to the program, unlike `ru_maxrss`, which
    /// begins with what the parent held.
    pub fn look(&mut self, pid: u32) {
        let Some(status) = Status::of(pid) else { return };
        self.peak_bytes = self.peak_bytes.max(status.bytes("VmHWM"));
        self.anonymous_bytes = self.anonymous_bytes.max(status.bytes("RssAnon"));
    }
}

/// Runs a command to its end and watches its memory.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command) -> Result<Ended> {
    let (out, err) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    command.stdin(Stdio::null()).stdout(out.reopen()?).stderr(err.reopen()?);
    let start = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
    let mut memory = Memory::default();
    let status = loop {
        memory.look(child.id());
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(LOOK_EVERY),
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let read = |path: &Path| std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned());
    Ok(Ended { status, stdout: read(out.path())?, stderr: read(err.path())?, seconds, memory })
}

/// Runs a command that must end with status 0.
///
/// # Errors
/// It cannot be started, or ended otherwise: with what it said.
pub fn succeed(command: &mut Command) -> Result<Ended> {
    let ended = run(command)?;
    if ended.status.success() {
        return Ok(ended);
    }
    Err(format!("{command:?} ended with {}:\n{}\n{}", ended.status, ended.stdout, ended.stderr).into())
}

/// A service in the background, ended when dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    stop_signal: i32,
}

impl Service {
    /// Starts it with its output in a file.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, log: &Path, stop_signal: i32) -> Result<Self> {
        let out = std::fs::File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        Ok(Self { child, stop_signal })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end, and kills it where it does not within a while.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        self.signal(self.stop_signal);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.signal(libc::SIGKILL);
        self.child.wait().ok()
    }

    /// Ends it at once, without a chance to clean up.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        // Only an error where it has been waited for already.
        let _ = self.child.wait();
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: i32) {
        if self.ended().is_none() {
            // SAFETY: the child has not been waited for, so the id is still its own.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}
