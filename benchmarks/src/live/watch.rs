//! What a process holds, and what it says of its health.

use fleetscore_harness::process::Status;
use serde_json::Value;

/// What a process holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Resident bytes, mapped files included.
    pub rss_bytes: u64,
    /// Of these, memory of its own.
    pub anonymous_bytes: u64,
    /// The most resident bytes ever.
    pub peak_bytes: u64,
    /// Open file descriptors.
    pub handles: u64,
    /// Threads.
    pub threads: u64,
}

/// Looks at a process; `None` where it is gone.
pub fn look(pid: i32) -> Option<Look> {
    let status = Status::of(pid)?;
    Some(Look {
        rss_bytes: status.bytes("VmRSS")?,
        anonymous_bytes: status.bytes("RssAnon")?,
        peak_bytes: status.bytes("VmHWM")?,
        handles: std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
        threads: status.number("Threads")?,
    })
}

/// An answer of `/readyz`.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Whether it was 200.
    pub ready: bool,
    /// What the parts of the process say.
    pub says: Value,
}

impl Health {
    /// What the parts say, in one line.
    pub fn text(&self) -> String {
        let parts = self.says.as_object().into_iter().flatten().filter(|(key, _)| *key != "ready");
        parts
            .map(|(key, v)| format!("{key}: {}", v.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// Asks `/readyz` on a port of loopback; `None` where nobody answers in time.
pub fn readyz(port: u16) -> Option<Health> {
    let (status, body) = fleetscore_harness::http(&format!("127.0.0.1:{port}"), "/readyz").ok()?;
    Some(Health { ready: status == 200, says: serde_json::from_str(&body).ok()? })
}
