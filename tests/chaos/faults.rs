//! What is done to the parts: each victim has a thread of its own with its own seeded sequence of faults, so that faults
//! of different victims overlap.

use super::report::Journal;
use super::settings::{LEASE_S, Settings};
use super::site::{Link, Member, Site, lock};
use crate::scenario::PATIENCE;
use fastrand::Rng;
use fleetscore_harness::fleetscore::Service;
use fleetscore_harness::proxy::{Direction, Mode};
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// How long a process stays paused beyond its session for another to take its partitions over: members that were killed
/// must be forgotten first, and SQL may be away.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// What all threads share.
pub struct Tormentor<'a> {
    site: &'a Site,
    settings: &'a Settings,
    journal: &'a Journal,
    until: Instant,
    /// Two of three brokers must run: whoever takes one down holds this.
    broker: Mutex<()>,
}

/// Random numbers of one victim.
struct Turns {
    random: Rng,
    mean_s: f64,
}

impl<'a> Tormentor<'a> {
    pub fn new(site: &'a Site, settings: &'a Settings, journal: &'a Journal) -> Self {
        let until = Instant::now() + Duration::from_secs(settings.seconds);
        Self { site, settings, journal, until, broker: Mutex::new(()) }
    }

    /// Starts all threads; they end by themselves when the time is over.
    pub fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut number = 0;
        let mut turns = |mean_s: f64| {
            number += 1;
            let random = Rng::with_seed(self.settings.seed.wrapping_mul(1009).wrapping_add(number));
            Turns { random, mean_s: mean_s * self.settings.pace() }
        };
        for member in &self.site.members {
            let turns = turns(if member.name == "up" { 2.8 } else { 11.0 });
            scope.spawn(move || self.torment(turns, |random| self.of_member(member, random), Some(member)));
        }
        for broker in 0..self.site.cluster.brokers() {
            let turns = turns(40.0);
            scope.spawn(move || self.torment(turns, |random| self.of_broker(broker, random), None));
        }
        if lock(&self.site.postgres).is_some() {
            let turns = turns(40.0);
            scope.spawn(move || self.torment(turns, |random| self.of_postgres(random), None));
        }
        let blobs = turns(40.0);
        scope.spawn(move || self.torment(blobs, |random| self.of_azurite(random), None));
        if let Some(disk) = &self.site.disk {
            let turns = turns(45.0);
            scope.spawn(move || {
                let fill = |random: &mut Rng| {
                    // The server is not restarted meanwhile by anybody else: it could not start.
                    let server = lock(&self.site.postgres);
                    self.journal.fault("disk full", "SQL's disk");
                    disk.fill();
                    self.hold(random.f64() * 3.0 + 1.0);
                    disk.fill(); // what was freed meanwhile
                    self.hold(random.f64() * 2.0);
                    disk.empty();
                    drop(server);
                    if self.site.revive_postgres() {
                        self.journal.note("PostgreSQL had ended on the full disk");
                    }
                };
                self.torment(turns, fill, None);
            });
        }
        for link in self.site.links() {
            let turns = turns(50.0);
            scope.spawn(move || self.torment(turns, |random| self.of_link(&link, random), None));
        }
    }

    /// Faults of one victim, with pauses around a mean, until the time is over.
    fn torment(&self, mut turns: Turns, mut fault: impl FnMut(&mut Rng), member: Option<&Member>) {
        // Not all at once in the beginning.
        let mut next = Instant::now() + Duration::from_secs_f64(turns.random.f64() * turns.mean_s + 1.0);
        while Instant::now() < self.until {
            if let Some(member) = member {
                self.look_after(member);
            }
            if Instant::now() < next {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            fault(&mut turns.random);
            // From a third of the mean to five thirds.
            let pause = turns.mean_s * (turns.random.f64() * 4.0 / 3.0 + 1.0 / 3.0);
            next = Instant::now() + Duration::from_secs_f64(pause);
        }
    }

    fn hold(&self, seconds: f64) {
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }

    /// A process that ended by itself is a finding; it is started again, so that the run goes on.
    pub fn look_after(&self, member: &Member) {
        let mut service = lock(&member.service);
        if let Some(status) = service.process.ended() {
            let log = service.process.log.display().to_string();
            let said = service.process.output();
            let tail: Vec<&str> = said.lines().rev().take(3).collect();
            self.journal.wrong(format!("{} ended by itself with {status}: {log}: {tail:?}", member.name));
            member.start_again(&mut service);
        }
    }

    fn of_member(&self, member: &Member, random: &mut Rng) {
        let mut service = lock(&member.service);
        if service.process.ended().is_some() {
            return; // `look_after` sees it next
        }
        let (kind, name) = (random.f64(), &member.name);
        // Where there is one process, fewer kills fall to others.
        let kills = if member.name == "up" { 0.78 } else { 0.7 };
        let (ended, paused) = (kills + (1.0 - kills) / 4.0, kills + (1.0 - kills) * 0.6);
        if kind < kills {
            service.kill();
            self.journal.fault(kill_of(member), name);
            self.hold(random.f64() * 0.5);
            member.start_again(&mut service);
        } else if kind < ended {
            self.journal.fault("process stopped by SIGTERM and started", name);
            let caught = service.process.catches(libc::SIGTERM);
            service.process.signal(libc::SIGTERM);
            // Past its `shutdown_timeout`, with servers away: status 1, and nothing is lost by it.
            match service.process.wait(Duration::from_secs(40)) {
                Some(status) if status.code().is_some_and(|c| c < 2) => {}
                // It had only just been started.
                Some(status) if !caught && status.signal() == Some(libc::SIGTERM) => {}
                other => self.journal.wrong(format!("{name} ended with {other:?} after SIGTERM")),
            }
            member.start_again(&mut service);
        } else if kind < paused {
            self.journal.fault("process paused for less than a session and a lease", name);
            self.pause(&service, random.f64() * 1.5 + 0.2);
        } else {
            let seconds = (self.settings.session_s().max(LEASE_S) + 2) as f64 + random.f64() * 4.0;
            if member.aggregates() {
                self.journal.fault("process paused past its session", name);
                self.zombie(member, &service, seconds);
            } else {
                self.journal.fault("worker paused past its lease", name);
                self.pause(&service, seconds);
            }
        }
    }

    fn pause(&self, service: &Service, seconds: f64) {
        service.process.signal(libc::SIGSTOP);
        self.hold(seconds);
        service.process.signal(libc::SIGCONT);
    }

    /// On a machine that is busy with other work, a group under faults may never be quiet for so long that anybody has
    /// partitions to lose: where there was no zombie, one is made when the faults are over.
    pub fn owe_a_zombie(&self) {
        let several = self.site.members.iter().filter(|m| m.aggregates()).count() > 1;
        let begun = Instant::now();
        while several && self.journal.zombies() == 0 && begun.elapsed() < PATIENCE {
            for member in self.site.members.iter().filter(|m| m.aggregates()) {
                self.look_after(member);
                let service = lock(&member.service);
                if self.held(&service, &service.process.output()).is_some() {
                    self.journal
                        .note(&format!("no zombie was made by the faults: {} is to be one", member.name));
                    self.zombie(member, &service, (self.settings.session_s() + 2) as f64);
                    break;
                }
            }
            self.hold(0.5);
        }
    }

    /// What partitions a process owns, and under which epochs; `None` if SQL does not answer now.
    fn owned(&self, service: &Service) -> Option<Vec<Vec<String>>> {
        let sql = format!(
            "SELECT kafka_partition, epoch FROM progress WHERE owner LIKE '%-{}-%' ORDER BY kafka_partition",
            service.process.id()
        );
        self.site.database.rows(&sql).ok()
    }

    /// What it owns, where it has partitions by what it has said too: SQL names the last owner, also where it has given them
    /// up in good order.
    fn held(&self, service: &Service, said: &str) -> Option<Vec<Vec<String>>> {
        // A process that was fenced has said so and holds nothing until it is granted something again.
        let news = ["partitions granted", "partitions revoked", "fenced by"];
        let granted = said.lines().rev().find(|l| news.iter().any(|news| l.contains(news)));
        let believed = granted.is_some_and(|l| l.contains("granted") && !l.contains("partitions=0"));
        self.owned(service).filter(|rows| believed && !rows.is_empty())
    }

    /// Waits until others own what this process owned, unless there are none.
    fn taken_over(&self, service: &Service, before: &[Vec<String>]) -> bool {
        let heirs = self.site.members.iter().filter(|m| m.aggregates()).count() > 1;
        let until = Instant::now() + TAKE_OVER;
        loop {
            if self.owned(service).is_some_and(|now| before.iter().any(|row| !now.contains(row))) {
                return true;
            }
            if !heirs || Instant::now() >= until {
                return false;
            }
            self.hold(0.5);
        }
    }

    /// Pauses an owner of partitions past its session, and for as long as the others may need to take over while they have
    /// faults of their own. Where they have, it must say when it wakes up that it was fenced.
    fn zombie(&self, member: &Member, service: &Service, seconds: f64) {
        service.process.signal(libc::SIGSTOP);
        let said = service.process.output();
        let before = self.held(service, &said);
        self.hold(seconds);
        let is_zombie = before.is_some_and(|before| self.taken_over(service, &before));
        service.process.signal(libc::SIGCONT);
        if !is_zombie {
            return;
        }
        self.journal.note(&format!("{} has a second owner of its partitions beside it", member.name));
        let said = said.len();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && service.process.ended().is_none() {
            let output = service.process.output();
            let new = &output[said.min(output.len())..];
            if new.contains("fenced by") {
                return self.journal.zombie();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = service.process.log.display();
        self.journal.wrong(format!("{}: a zombie said nothing of having been fenced: {log}", member.name));
    }

    fn of_broker(&self, broker: usize, random: &mut Rng) {
        let Ok(_alone) = self.broker.try_lock() else { return };
        let (cluster, name) = (&self.site.cluster, format!("broker {broker}"));
        match random.u8(0..4) {
            0 | 1 => {
                cluster.kill(broker);
                self.journal.fault("kill -9 of a broker", &name);
                self.hold(random.f64() * 4.0);
                cluster.launch(broker);
            }
            2 => {
                self.journal.fault("broker stopped by SIGTERM and started", &name);
                cluster.stop(broker);
                cluster.launch(broker);
            }
            _ => {
                self.journal.fault("broker paused", &name);
                cluster.signal(broker, libc::SIGSTOP);
                self.hold(random.f64() * 6.0 + 1.0);
                cluster.signal(broker, libc::SIGCONT);
            }
        }
        // Until it serves again, or nearly: two at once are an outage, not a fault of one.
        self.hold(5.0);
    }

    fn of_postgres(&self, random: &mut Rng) {
        let mut postgres = lock(&self.site.postgres);
        let Some(server) = postgres.take() else { return };
        self.journal.fault("PostgreSQL shut down in immediate mode", "postgres");
        let down = server.crash();
        self.hold(random.f64() * 3.0);
        *postgres = Some(down.start());
    }

    fn of_azurite(&self, random: &mut Rng) {
        let mut azurite = lock(&self.site.azurite);
        let Some(server) = azurite.take() else { return };
        self.journal.fault("Azurite stopped and started", "azurite");
        // It ends with its last connection, and one that is stalled does not end.
        let links: Vec<Link<'_>> =
            self.site.links().into_iter().filter(|l| l.name.ends_with("-blobs")).collect();
        let end = AtomicBool::new(false);
        let down = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    links.iter().for_each(|l| l.set(Mode::Cut));
                    self.hold(0.2);
                }
            });
            let down = server.stop();
            end.store(true, Ordering::Relaxed);
            down
        });
        self.hold(random.f64() * 3.0);
        *azurite = Some(down.start());
        links.iter().for_each(|l| l.set(Mode::Pass));
    }

    fn of_link(&self, link: &Link<'_>, random: &mut Rng) {
        let (kind, mode) = match random.u8(0..6) {
            0 => ("link cut", Mode::Cut),
            1 => ("link delayed", Mode::Delay(Duration::from_millis(random.u64(20..400)))),
            2 => ("link stalled", Mode::Stall),
            3 => ("link half open: no requests arrive", Mode::Half(Direction::Up)),
            4 => ("link half open: no answers arrive", Mode::Half(Direction::Down)),
            _ => {
                self.journal.fault("connections reset", &link.name);
                return link.proxies.iter().for_each(|p| p.reset());
            }
        };
        // To Kafka: the way to all brokers or to one of them.
        let one = (link.proxies.len() > 1 && random.bool()).then(|| random.usize(..link.proxies.len()));
        let seconds = random.f64() * 7.0 + 0.5;
        self.journal.fault(kind, &format!("{} for {seconds:.1} s", link.name));
        let proxies = link.proxies.iter().enumerate().filter(|(n, _)| one.is_none_or(|one| *n == one));
        let proxies: Vec<_> = proxies.map(|(_, p)| *p).collect();
        proxies.iter().for_each(|p| p.set(mode));
        self.hold(seconds);
        // What was under way arrives late, or never.
        let lost = random.bool();
        for proxy in proxies {
            if lost { proxy.reset() } else { proxy.set(Mode::Pass) }
        }
    }
}

fn kill_of(member: &Member) -> &'static str {
    if member.name.starts_with("aggregate") {
        "kill -9 of aggregate"
    } else if member.name.starts_with("score") {
        "kill -9 of score"
    } else {
        "kill -9 of up"
    }
}
