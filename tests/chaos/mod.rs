//! Chaos on real parts: three brokers, SQL and blob storage behind proxies, the built binary in several processes, and
//! faults of all of them by a seed. In the end everything must be as an independent computation says, exactly.
//!
//! `make chaos SECONDS=600` is the long form; short ones are part of the end-to-end tests. `FLEETSCORE_CHAOS_SEED` fixes
//! the seed, `FLEETSCORE_CHAOS_REPORT` names a file for the figures as JSON. A run that fails prints its seed and keeps
//! its folder, where `faults.log` says what was done when.

mod enough;
mod faults;
mod producer;
mod report;
mod settings;
mod site;
mod verify;

use crate::scenario::PATIENCE;
use enough::Proved;
use faults::Tormentor;
use fleetscore_harness::{Servers, Test};
use fleetscore_oracle::model_lines;
use libtest_mimic::{Failed, Trial};
use producer::Sender;
use report::Journal;
use settings::Settings;
use site::Site;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Seconds of faults of the short form.
const SHORT_S: u64 = 25;
/// Its fixed seed.
const SEED: u64 = 6;

/// Which store is under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// PostgreSQL, with several processes.
    Postgres,
    /// SQLite, with one.
    Sqlite,
}

impl Store {
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|t| !t.is_empty())?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let (seconds, seed) = (variable("FLEETSCORE_CHAOS_SECONDS"), variable("FLEETSCORE_CHAOS_SEED"));
    let mut trials = vec![Trial::test("chaos::too_little_is_told", || {
        enough::told();
        Ok(())
    })];
    for store in [Store::Postgres, Store::Sqlite] {
        let mut add = |name: &str, seed: u64| {
            let servers = servers.clone();
            let settings = Settings::new(store, seed, seconds.unwrap_or(SHORT_S), seconds.is_none());
            trials.push(Trial::test(name.to_owned(), move || chaos(&servers, &settings)));
        };
        let random = || fastrand::u64(0..1_000_000_000);
        let name = store.name();
        if seconds.is_some() {
            add(&format!("chaos::{name}"), seed.unwrap_or_else(random));
        } else {
            add(&format!("chaos::{name}"), seed.unwrap_or(SEED));
            add(&format!("chaos::{name}_of_a_random_seed"), seed.unwrap_or_else(random));
        }
    }
    trials
}

/// One at a time: each has a cluster, servers and processes of its own.
static ALONE: Mutex<()> = Mutex::new(());

fn chaos(servers: &Servers, settings: &Settings) -> Test {
    let _alone = site::lock(&ALONE);
    eprintln!("chaos on {}: seed {}, {} s of faults", settings.store.name(), settings.seed, settings.seconds);
    let site = Site::start(servers, settings, &model_lines(&settings.fleet.models()));
    let journal = Journal::new(&site.folder.join("faults.log"));
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&site, settings, &journal)));
    if let Ok(Ok(proved)) = &outcome {
        enough::too_little(proved).into_iter().for_each(|what| journal.wrong(what));
    }
    journal.publish(settings);
    let mut wrong = journal.all_wrong();
    match outcome {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => wrong.push(e),
        Err(panic) => wrong.push(verify::text_of(panic)),
    }
    if wrong.is_empty() {
        return Ok(());
    }
    site.keep_evidence();
    servers.keep();
    Err(Failed::from(format!(
        "chaos on {} with FLEETSCORE_CHAOS_SEED={} failed; see {}:\n{}",
        settings.store.name(),
        settings.seed,
        site.folder.display(),
        wrong.join("\n")
    )))
}

fn run(site: &Site, settings: &Settings, journal: &Journal) -> Result<Proved, String> {
    let messages: Vec<_> = settings.fleet.messages().collect();
    let tormentor = Tormentor::new(site, settings, journal);
    let mut sender = Sender::new(site);
    std::thread::scope(|scope| {
        tormentor.start(scope);
        sender.send(&site.topic, &messages, Duration::from_secs(settings.seconds))
    })?;
    journal.note("the faults are over");
    let during = verify::so_far(site);
    site.heal();
    if settings.seconds >= enough::LONG_S {
        tormentor.owe_a_zombie();
    }
    let confirmed = sender.finish(PATIENCE)?;
    journal.note("everything is sent");
    verify::drained(site, settings, |member| tormentor.look_after(member))?;
    journal.note("everything is drained");
    for wrong in site.stop_members() {
        journal.wrong(wrong);
    }
    verify::verify(site, settings, journal, &messages, confirmed, during)
}
