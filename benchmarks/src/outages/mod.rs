//! Each server in turn is away while readings go on coming at full rate: what the processes hold and say meanwhile, how
//! soon the backlog is worked off, and whether the result is exact.

mod tables;
mod verdict;

use crate::Result;
use crate::live::compare::{Compared, compare};
use crate::live::producer::Producer;
use crate::live::watch::{Health, look, readyz};
use crate::live::{CHECKPOINT_S, Load, Pipeline, Server, Site, now_us};
use fleetscore_harness::{PATIENCE, Servers};
use std::time::{Duration, Instant};
pub use tables::report;

/// How often processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Readings go on at this share of the full rate once the server is back.
const AFTERWARDS: f64 = 0.5;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The fleet.
    pub load: Load,
    /// Full rate in readings a second.
    pub rate: f64,
    /// How long the server is away.
    pub seconds: u64,
    /// How long readings come before that.
    pub lead_seconds: u64,
    /// `/readyz` of each process that needs the server says so within this time. An outage lasts until it does, or until
    /// the time is over.
    pub notice_seconds: f64,
}

/// The greatest [`Scenario::notice_seconds`] of a measurement: an orchestrator that asks every ten seconds and believes the
/// third answer is no later.
pub const NOTICE_SECONDS: f64 = 60.0;

/// What a process did.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its command.
    pub role: &'static str,
    /// Whether it needs the server.
    pub concerned: bool,
    /// Resident bytes once it was ready.
    pub base_bytes: u64,
    /// The most it ever held.
    pub peak_bytes: u64,
    /// What it may hold.
    pub bound_bytes: u64,
    /// Seconds from the outage until it said that it is not ready.
    pub noticed_s: Option<f64>,
    /// What it said then, the longest-lived of its answers.
    pub said: Option<String>,
    /// Its last answer that was not ready, which `ready_again_s` is counted to.
    pub said_last: Option<String>,
    /// Share of the answers while the server was away that were not ready: of a process that needs it, of those from the
    /// first such on.
    pub unready: f64,
    /// Seconds from the server's return until it was ready again for good.
    pub ready_again_s: Option<f64>,
    /// What its log says of the beginning and of the end.
    pub log: Vec<String>,
}

/// One outage.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The server.
    pub server: Server,
    /// How long it was away, its start included.
    pub away_s: f64,
    /// Readings that came meanwhile.
    pub readings: u64,
    /// `aggregate` and `score`.
    pub processes: Vec<Watched>,
    /// Seconds from the server's return until all was read, scored and published but for what had just come.
    pub catch_up_s: f64,
    /// Readings in all, and how many of them were late.
    pub all: (u64, u64),
    /// The result.
    pub compared: Compared,
}

/// Answers of `/readyz` of one process: seconds since the start, and what it said.
type Answers = Vec<(f64, Health)>;

struct Watch<'a> {
    pipeline: &'a mut Pipeline,
    producer: &'a Producer,
    began: Instant,
    answers: Vec<Answers>,
}

impl Watch<'_> {
    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn tick(&mut self) -> Result<()> {
        std::thread::sleep(LOOK_EVERY);
        self.pipeline.alive()?;
        if self.producer.ended() {
            return Err("the producer has ended".into());
        }
        let now = self.began.elapsed().as_secs_f64();
        for (process, answers) in self.pipeline.processes.iter().zip(&mut self.answers) {
            answers.extend(readyz(process.port).map(|health| (now, health)));
        }
        Ok(())
    }

    fn until(&mut self, seconds: f64) -> Result<()> {
        while self.now() < seconds {
            self.tick()?;
        }
        Ok(())
    }

    /// Whether every process that needs a server has said since this time that it is not ready.
    fn noticed(&self, server: Server, since_s: f64) -> bool {
        let said = |answers: &Answers| answers.iter().any(|(t, h)| *t >= since_s && !h.ready);
        let mut processes = self.pipeline.processes.iter().zip(&self.answers);
        processes.all(|(process, answers)| !server.needed_by().contains(&process.role) || said(answers))
    }

    /// Whether every process said last that it is ready.
    fn ready(&self) -> bool {
        self.answers.iter().all(|answers| answers.last().is_some_and(|(_, h)| h.ready))
    }

    /// Whether all is done but for what came within two checkpoints.
    fn caught_up(&mut self) -> Result<bool> {
        let behind_us = self.producer.due_us() - self.producer.event_us();
        let (sent, _) = self.producer.sent();
        let rate = sent as f64 / self.now();
        let in_sql: i64 = self.pipeline.positions()?.iter().map(|(_, next)| next).sum();
        let lag_s = (sent as f64 - in_sql as f64) / rate.max(1.0);
        let open = self.pipeline.sql.number(
            "SELECT (SELECT count(*) FROM runs WHERE state IN ('waiting', 'running')) \
             + (SELECT count(*) FROM publications WHERE due)",
        )?;
        Ok(behind_us < 1_000_000 && lag_s < 2.0 * CHECKPOINT_S as f64 && open <= 2)
    }
}

/// Takes one server away and brings it back.
///
/// # Errors
/// A process ended or did not say what it waits for, memory passed its bound, the result is not the oracle's.
pub fn measure(site: &mut Site, servers: &Servers, scenario: &Scenario, server: Server) -> Result<Measured> {
    let mut pipeline = site.pipeline(servers, "outage", &scenario.load)?;
    let fleet = scenario.load.fleet(scenario.rate, now_us());
    let producer = Producer::start(&pipeline.bootstrap, &pipeline.topic, fleet, Some(1.0), None)?;
    let answers = vec![Answers::new(); pipeline.processes.len()];
    let mut watch = Watch { pipeline: &mut pipeline, producer: &producer, began: Instant::now(), answers };
    watch.until(scenario.lead_seconds as f64)?;

    let (gone_s, (_, sent_before)) = (watch.now(), producer.sent());
    site.take_away(server)?;
    watch.until(gone_s + scenario.seconds as f64)?;
    while !watch.noticed(server, gone_s) && watch.now() < gone_s + scenario.notice_seconds {
        watch.tick()?;
    }
    site.bring_back();
    let back_s = watch.now();
    let due_us = producer.due_us();
    producer.set_speed(AFTERWARDS);

    let mut came = None;
    loop {
        watch.tick()?;
        if producer.event_us() >= due_us - 1_000_000 {
            came.get_or_insert(producer.sent().1 - sent_before);
        }
        // A store that has just come back may still refuse.
        if came.is_some() && watch.caught_up().unwrap_or(false) {
            break;
        }
        if watch.now() > back_s + PATIENCE.as_secs_f64() {
            return Err(format!(
                "the backlog is not worked off {:.0} s after the return",
                watch.now() - back_s
            )
            .into());
        }
    }
    let caught_s = watch.now();
    // Health is to stay as it is now; what is caught up may say so only in a while.
    watch.until(caught_s + 3.0)?;
    while !watch.ready() && watch.now() < caught_s + PATIENCE.as_secs_f64() {
        watch.tick()?;
    }
    let answers = watch.answers;
    let sent = producer.stop()?;
    pipeline.settle(&sent, PATIENCE)?;
    let processes = watched(&pipeline, &answers, server, gone_s, back_s);
    pipeline.stop();
    let measured = Measured {
        server,
        away_s: back_s - gone_s,
        readings: came.unwrap_or(0),
        processes,
        catch_up_s: caught_s - back_s,
        all: (sent.readings, sent.late),
        compared: compare(&mut pipeline.sql, &sent, &pipeline.models)?,
    };
    verdict::judge(&measured, sent.late, scenario.notice_seconds)?;
    Ok(measured)
}

fn watched(
    pipeline: &Pipeline,
    answers: &[Answers],
    server: Server,
    gone_s: f64,
    back_s: f64,
) -> Vec<Watched> {
    let of = |(process, answers): (&crate::live::Process, &Answers)| {
        let away: Vec<&(f64, Health)> =
            answers.iter().filter(|(t, _)| (gone_s..back_s).contains(t)).collect();
        let concerned = server.needed_by().contains(&process.role);
        let first = away.iter().position(|(_, h)| !h.ready);
        let after = if concerned { first.map_or(&[][..], |i| &away[i..]) } else { &away[..] };
        let unready = after.iter().filter(|(_, h)| !h.ready).count();
        let last_unready = answers.iter().rposition(|(_, h)| !h.ready);
        let ready_again = last_unready.map_or(answers.first(), |i| answers.get(i + 1));
        let memory = look(process.service.process.id()).unwrap_or_default();
        Watched {
            role: process.role,
            concerned,
            base_bytes: process.base_bytes,
            peak_bytes: memory.peak_bytes,
            bound_bytes: process.bound_bytes,
            noticed_s: first.map(|i| away[i].0 - gone_s),
            said: most_said(after),
            said_last: last_unready.map(|i| answers[i].1.text()),
            unready: if after.is_empty() { 0.0 } else { unready as f64 / after.len() as f64 },
            ready_again_s: ready_again.map(|(t, _)| (t - back_s).max(0.0)),
            log: log_of(&process.service.process.output()),
        }
    };
    pipeline.processes.iter().zip(answers).map(of).collect()
}

/// The answer that was given most often of those that are not ready, without what differs from one to the next.
fn most_said(answers: &[&(f64, Health)]) -> Option<String> {
    let unready = answers.iter().filter(|(_, h)| !h.ready).map(|(_, h)| h.text());
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    unready.for_each(|text| *counts.entry(text).or_default() += 1);
    counts.into_iter().max_by_key(|(_, n)| *n).map(|(text, _)| text)
}

/// What a log says of outages, each line once.
fn log_of(output: &str) -> Vec<String> {
    let says =
        |line: &str| ["waiting for", "is back after", "answers again"].iter().any(|w| line.contains(w));
    output.lines().filter(|l| says(l)).map(str::to_owned).collect()
}
