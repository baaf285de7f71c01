//! What was done and what was verified, for people and as JSON.

use super::settings::Settings;
use super::site::lock;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Kinds of faults whose victim is killed: `kill -9`, or PostgreSQL's immediate shutdown.
const KILLS: &str = "kill -9";

/// Counts faults while a run goes on.
pub struct Journal {
    begun: Instant,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    zombies: AtomicU64,
    verified: Mutex<Vec<(String, u64)>>,
    /// What should not have happened; the run fails.
    wrong: Mutex<Vec<String>>,
    log: Mutex<std::fs::File>,
}

impl Journal {
    /// Writes each fault with its time to this file.
    pub fn new(log: &Path) -> Self {
        Self {
            begun: Instant::now(),
            faults: Mutex::default(),
            zombies: AtomicU64::new(0),
            verified: Mutex::default(),
            wrong: Mutex::default(),
            log: Mutex::new(std::fs::File::create(log).expect("a file of our own")),
        }
    }

    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Something that explains a failure later.
    pub fn note(&self, text: &str) {
        let now = chrono::Utc::now().format("%H:%M:%S%.3f");
        // Without it a failure is harder to explain, no more.
        let _ = writeln!(lock(&self.log), "{now} {:8.3} {text}", self.seconds());
    }

    /// A fault was made.
    pub fn fault(&self, kind: &'static str, of: &str) {
        *lock(&self.faults).entry(kind).or_default() += 1;
        self.note(&format!("{kind}: {of}"));
    }

    /// A process woke up beside the new owner of its partitions, and said that it was fenced.
    pub fn zombie(&self) {
        self.zombies.fetch_add(1, Ordering::Relaxed);
    }

    pub fn zombies(&self) -> u64 {
        self.zombies.load(Ordering::Relaxed)
    }

    /// Something came out as it must, so many times.
    pub fn verified(&self, what: &str, count: u64) {
        lock(&self.verified).push((what.to_owned(), count));
    }

    /// Something is wrong; the run goes on to its end, and fails.
    pub fn wrong(&self, what: String) {
        self.note(&format!("WRONG: {what}"));
        lock(&self.wrong).push(what);
    }

    /// All that is wrong.
    pub fn all_wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    /// Kills, and all other faults.
    pub fn counts(&self) -> (u64, u64) {
        let faults = lock(&self.faults);
        let is_kill = |kind: &str| kind.starts_with(KILLS) || kind.contains("immediate");
        faults.iter().fold((0, 0), |(k, o), (kind, n)| if is_kill(kind) { (k + n, o) } else { (k, o + n) })
    }

    /// Prints the table, and writes JSON where `FLEETSCORE_CHAOS_REPORT` names a file (the store's name is put in).
    pub fn publish(&self, settings: &Settings) {
        let (kills, others) = self.counts();
        let (faults, verified) = (lock(&self.faults), lock(&self.verified));
        let store = settings.store.name();
        let mut text = format!(
            "\nchaos on {store}, seed {}, {} s of faults ({:.0} s in all): {kills} kills and {others} other faults\n",
            settings.seed,
            settings.seconds,
            self.seconds()
        );
        for (kind, count) in faults.iter() {
            text += &format!("  {count:>7}  {kind}\n");
        }
        text += "verified\n";
        for (what, count) in verified.iter() {
            text += &format!("  {count:>7}  {what}\n");
        }
        eprintln!("{text}");
        if let Some(file) = std::env::var_os("FLEETSCORE_CHAOS_REPORT") {
            let verified: BTreeMap<&str, u64> = verified.iter().map(|(w, n)| (w.as_str(), *n)).collect();
            let json = serde_json::json!({
                "store": store, "seed": settings.seed, "seconds": settings.seconds, "wall_s": self.seconds().round(),
                "kills": kills, "other_faults": others, "faults": *faults, "verified": verified,
                "wrong": *lock(&self.wrong),
            });
            let file = std::path::PathBuf::from(file);
            let name = file.file_stem().map_or_else(|| "chaos".into(), |s| s.to_string_lossy().into_owned());
            let file = file.with_file_name(format!("{name}-{store}.json"));
            if let Err(e) = std::fs::write(&file, format!("{json:#}\n")) {
                eprintln!("{}: {e}", file.display());
            }
        }
    }
}
