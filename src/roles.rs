//! Which services a process runs, how they are wired, and how it ends.

use crate::exit::{Fail, Outcome};
use crate::signals::Shutdown;
use crate::{connect, http, wire};
use fleetscore_aggregator::{self as aggregator, SystemClock};
use fleetscore_ingest::{KafkaSource, SourceHandle};
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::service as scorer;
use fleetscore_settings::{Config, mask};
use fleetscore_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod growth;

/// How often a service tells what it did.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Roles {
    /// Kafka → windows.
    Aggregate,
    /// Windows → predictions.
    Score,
    /// Both.
    All,
}

impl Roles {
    const fn aggregates(self) -> bool {
        matches!(self, Self::Aggregate | Self::All)
    }

    const fn scores(self) -> bool {
        matches!(self, Self::Score | Self::All)
    }
}

/// How far a process is, as its HTTP answers know it.
#[derive(Clone)]
pub(crate) enum Standing {
    /// It starts, and waits for this.
    Waits(String),
    /// Its services run.
    Runs(Handles),
}

/// What the running services can be asked.
#[derive(Clone)]
pub(crate) struct Handles {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) source: Option<SourceHandle>,
    pub(crate) aggregator: Option<aggregator::Handle>,
    pub(crate) scorer: Option<scorer::Handle>,
}

impl Handles {
    /// Whether the loops of each part turn. A part that ends takes the process with it, so whoever answers is alive;
    /// what it waits for is told, and no reason to restart it.
    pub(crate) fn health(&self) -> Vec<Said> {
        let mut said = self.readiness();
        said.iter_mut().for_each(|s| s.good = true);
        said
    }

    /// Whether each part does its work, and else what it waits for.
    pub(crate) fn readiness(&self) -> Vec<Said> {
        let mut said = Vec::new();
        if let Some(source) = self.source.as_ref().map(SourceHandle::snapshot) {
            let n = source.partitions.len();
            let waits = source
                .waits_for
                .or_else(|| (!source.assigned).then(|| "waits for its partitions".to_owned()));
            said.push(Said::new("kafka", waits, format!("reads {n} partitions")));
        }
        if let Some(a) = self.aggregator.as_ref().map(aggregator::Handle::snapshot) {
            let words = format!("{} readings, {} checkpoints", a.readings, a.checkpoints);
            // A flood is the senders' trouble: what can be read is read.
            let words = a.flood.map_or(words.clone(), |flood| format!("{words}; {flood}"));
            said.push(Said::new("aggregator", a.waits_for, words));
        }
        if let Some(s) = self.scorer.as_ref().map(scorer::Handle::snapshot) {
            let scored = format!("{} intervals scored", s.intervals_scored);
            // A schedule that waits for data or for a model set waits for people, not for a repair.
            let words = s.waiting.map_or(scored.clone(), |w| format!("{scored}; {w}"));
            said.push(Said::new("scorer", s.trouble, words));
        }
        said
    }
}

impl Said {
    fn new(name: &'static str, waits_for: Option<String>, otherwise: String) -> Self {
        Self { name, good: waits_for.is_none(), words: waits_for.unwrap_or(otherwise) }
    }
}

/// What a part says of itself.
pub(crate) struct Said {
    pub(crate) name: &'static str,
    pub(crate) good: bool,
    pub(crate) words: String,
}

/// Services that run.
pub(crate) struct Running {
    pub(crate) handles: Handles,
    pub(crate) blobs: Option<Blobs>,
    tasks: JoinSet<(&'static str, Result<(), Fail>)>,
    stop: CancellationToken,
    shutdown_timeout: Duration,
}

/// Runs services until a signal, or until one of them fails.
///
/// # Errors
/// What a service failed of; a shutdown that passed its timeout.
pub(crate) async fn run(config: &Config, roles: Roles, shutdown: &Shutdown) -> Outcome {
    let listener = match &config.http {
        Some(address) => Some(fleetscore_http::listen(address, false).await?),
        None => None,
    };
    let mut running = Running::start(config, roles, shutdown, listener).await?;
    running.warn_of_growth(config, shutdown).await;
    running.tell();
    let failed = tokio::select! {
        () = shutdown.token().cancelled() => None,
        failed = running.failed() => Some(failed),
    };
    let stopped = running.stop().await;
    match failed {
        Some(fail) => Err(fail),
        None => stopped.map(|()| shutdown.done()),
    }
}

fn tell_progress(handles: &Handles, a: &mut aggregator::Snapshot, s: &mut scorer::Snapshot) {
    if let Some(now) = handles.aggregator.as_ref().map(aggregator::Handle::snapshot) {
        aggregated(a, &now).inspect(|line| tracing::info!("{line}"));
        *a = now;
    }
    if let Some(now) = handles.scorer.as_ref().map(scorer::Handle::snapshot) {
        scored(s, &now).inspect(|line| tracing::info!("{line}"));
        *s = now;
    }
}

/// What an aggregator stored between two looks.
fn aggregated(before: &aggregator::Snapshot, now: &aggregator::Snapshot) -> Option<String> {
    let dead = |s: &aggregator::Snapshot| s.dead_letters.values().sum::<u64>();
    let (checkpoints, dead_letters) =
        (now.checkpoints.saturating_sub(before.checkpoints), dead(now).saturating_sub(dead(before)));
    (checkpoints > 0).then(|| {
        format!(
            "{} readings, {dead_letters} dead letters; stored {} panes in {checkpoints} checkpoints",
            now.readings.saturating_sub(before.readings),
            now.windows.saturating_sub(before.windows)
        )
    })
}

/// What a scorer stored between two looks.
fn scored(before: &scorer::Snapshot, now: &scorer::Snapshot) -> Option<String> {
    let intervals = now.intervals_scored.saturating_sub(before.intervals_scored);
    let newest = now.last_interval.as_ref().map_or(String::new(), |(s, i)| format!("; newest {s} {i}"));
    (intervals > 0).then(|| {
        format!(
            "scored {intervals} intervals, {} predictions, {} anomalies{newest}",
            now.predictions.saturating_sub(before.predictions),
            now.anomalies.saturating_sub(before.anomalies)
        )
    })
}

/// Says which model set is active, once for each.
async fn tell_model_set(handles: &Handles, told: &mut Option<i64>) {
    if handles.scorer.is_none() {
        return;
    }
    // A store that is away is spoken of elsewhere.
    let Ok(sets) = handles.store.model_sets().await else { return };
    if let Some(set) = sets.iter().find(|s| s.active).filter(|s| *told != Some(s.version)) {
        tracing::info!("model set {} is active: {} models, {}", set.version, set.models, set.origin);
        *told = Some(set.version);
    }
}

impl Running {
    /// Connects, migrates, checks that blobs are the store's, and starts the services. Where there is a listener it
    /// answers from the beginning: a server that is away is waited for, and whoever asks is to hear of it.
    ///
    /// # Errors
    /// A mistake in the settings; [`Fail::Stopped`] at a signal.
    pub(crate) async fn start(
        config: &Config,
        roles: Roles,
        shutdown: &Shutdown,
        listener: Option<TcpListener>,
    ) -> Result<Self, Fail> {
        let brokers = if roles.aggregates() { Some(config.require_kafka()?) } else { None };
        let waits = |what: &str, at: &str| Standing::Waits(format!("{what} at {}", mask::text(at)));
        let (standing, told) = watch::channel(waits("the store", &config.store));
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        if let Some(listener) = listener {
            let serving = http::serve(listener, told, stop.clone());
            tasks.spawn(async move {
                serving.await;
                ("http", Ok(()))
            });
        }
        let store = connect::store(config, shutdown).await?;
        standing.send_replace(waits("blob storage", &config.blobs));
        let blobs = match roles.scores() {
            true => Some(connect::blobs(config, &*store, shutdown).await?),
            false => None,
        };
        let name = wire::process_name();
        let handles = Handles { store: Arc::clone(&store), source: None, aggregator: None, scorer: None };
        let mut running = Self { handles, blobs, tasks, stop, shutdown_timeout: config.shutdown_timeout };
        if let Some(brokers) = brokers {
            standing.send_replace(Standing::Waits("the store's identity".to_owned()));
            running.start_aggregator(config, brokers, &name, shutdown).await?;
        }
        if roles.scores() {
            running.start_scorer(config, &name);
        }
        standing.send_replace(Standing::Runs(running.handles.clone()));
        tracing::info!("{name} runs as {roles:?}");
        Ok(running)
    }

    async fn start_aggregator(
        &mut self,
        config: &Config,
        brokers: &str,
        name: &str,
        shutdown: &Shutdown,
    ) -> Result<(), Fail> {
        let store = Arc::clone(&self.handles.store);
        let store_id = connect::patiently("the store", shutdown, || store.store_id()).await?;
        let (source, source_handle) = KafkaSource::open(wire::kafka(config, brokers, store_id))?;
        let options = wire::aggregator(config, name.to_owned());
        aggregator::memory::keep_freed(options.checkpoint_bytes);
        let clock = Arc::new(SystemClock::new());
        let (service, handle) = aggregator::service(options, store, Box::new(source), clock)?;
        let stop = self.stop.clone();
        self.tasks.spawn(async move { ("aggregator", service.run(stop).await.map_err(Fail::from)) });
        self.handles.source = Some(source_handle);
        self.handles.aggregator = Some(handle);
        Ok(())
    }

    fn start_scorer(&mut self, config: &Config, name: &str) {
        let Some(blobs) = self.blobs.clone() else { return };
        let committed = self.handles.aggregator.as_ref().map(aggregator::Handle::committed);
        let options = wire::scorer(config, name.to_owned(), committed);
        let (service, handle) = scorer::Service::new(options, Arc::clone(&self.handles.store), blobs);
        let stop = self.stop.clone();
        self.tasks.spawn(async move { ("scorer", service.run(stop).await.map_err(Fail::from)) });
        self.handles.scorer = Some(handle);
    }

    /// What is never dropped is much one day: said once, with numbers where there are series yet.
    async fn warn_of_growth(&self, config: &Config, shutdown: &Shutdown) {
        let (windows, predictions) = (self.handles.aggregator.is_some(), self.handles.scorer.is_some());
        let series = shutdown.unless(self.handles.store.last_series()).await.ok().and_then(Result::ok);
        let series = series.map(i64::from).filter(|n| *n > 0);
        for line in growth::lines(config, series, windows, predictions) {
            match line.bounded {
                true => tracing::info!("{}", line.text),
                false => tracing::warn!("{}", line.text),
            }
        }
    }

    /// Logs what is done, while anything is: a line for each part every few seconds at most.
    fn tell(&mut self) {
        let (handles, stop) = (self.handles.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let (mut a, mut s, mut set) = Default::default();
            while stop.run_until_cancelled(tokio::time::sleep(TELL_EVERY)).await.is_some() {
                tell_progress(&handles, &mut a, &mut s);
                let _ = stop.run_until_cancelled(tell_model_set(&handles, &mut set)).await;
            }
            tell_progress(&handles, &mut a, &mut s);
            ("log", Ok(()))
        });
    }

    /// Serves `/healthz` and `/readyz` of services that run.
    pub(crate) fn serve(&mut self, listener: TcpListener) {
        let (_, standing) = watch::channel(Standing::Runs(self.handles.clone()));
        let serving = http::serve(listener, standing, self.stop.clone());
        self.tasks.spawn(async move {
            serving.await;
            ("http", Ok(()))
        });
    }

    /// Waits until a service ends by itself, which it never should.
    pub(crate) async fn failed(&mut self) -> Fail {
        match self.tasks.join_next().await {
            Some(Ok((_, Err(fail)))) => fail,
            Some(Ok((name, Ok(())))) => Fail::work(format!("the {name} ended by itself")),
            Some(Err(e)) => Fail::work(format!("a service broke: {e}")),
            None => std::future::pending().await,
        }
    }

    /// Ends the services: a last checkpoint, out of the group, tasks given back; within the timeout.
    ///
    /// # Errors
    /// What failed meanwhile, or that the time was up.
    pub(crate) async fn stop(mut self) -> Result<(), Fail> {
        self.stop.cancel();
        let mut first: Option<Fail> = None;
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                let fail = match ended {
                    Ok((_, Ok(()))) => continue,
                    Ok((_, Err(fail))) => fail,
                    Err(e) => Fail::work(format!("a service broke: {e}")),
                };
                first.get_or_insert(fail);
            }
        };
        let in_time = tokio::time::timeout(self.shutdown_timeout, all).await;
        match (first, in_time) {
            (Some(fail), _) => Err(fail),
            (None, Ok(())) => Ok(()),
            (None, Err(_)) => Err(Fail::work(format!(
                "shutdown passed shutdown_timeout ({} s); nothing is lost, what was not stored is read again",
                self.shutdown_timeout.as_secs_f64()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_settings::Sources;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: &str, path: &str) -> std::io::Result<String> {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[test]
    fn what_was_done_since_the_last_look_is_told_once() {
        let before = scorer::Snapshot { intervals_scored: 3, predictions: 120, ..Default::default() };
        let interval = fleetscore_schemas::time::Interval {
            start: fleetscore_schemas::time::Timestamp(0),
            end: fleetscore_schemas::time::Timestamp(60_000_000),
        };
        let now = scorer::Snapshot {
            intervals_scored: 15,
            predictions: 600,
            anomalies: 3,
            last_interval: Some(("default".into(), interval)),
            ..Default::default()
        };
        let line = scored(&before, &now).unwrap();
        assert!(
            line.starts_with("scored 12 intervals, 480 predictions, 3 anomalies; newest default 1970-"),
            "{line}"
        );
        assert_eq!(scored(&now, &now), None);
        let stored = aggregator::Snapshot { readings: 90, windows: 30, checkpoints: 2, ..Default::default() };
        let line = aggregated(&Default::default(), &stored).unwrap();
        assert_eq!(line, "90 readings, 0 dead letters; stored 30 panes in 2 checkpoints");
        assert_eq!(aggregated(&stored, &stored), None);
    }

    #[tokio::test]
    async fn a_process_that_waits_for_its_store_answers() {
        // Ports that were free a moment ago.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (http, nobody) = (free().to_string(), free());
        let mut sources = Sources::default();
        let store = format!("postgres://me:s3cret@{nobody}/d");
        sources.flags.0 = vec![("store".into(), vec![store]), ("http".into(), vec![http.clone()])];
        let config = Config::load(&sources).ok().unwrap();
        let shutdown = Shutdown::deaf();
        let asking = async {
            let health = loop {
                match get(&http, "/healthz").await {
                    Ok(answer) => break answer,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            (health, get(&http, "/readyz").await.unwrap())
        };
        let answered = async { tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap() };
        let (health, ready) = tokio::select! {
            said = answered => said,
            ended = run(&config, Roles::Score, &shutdown) => panic!("ended: {ended:?}"),
        };
        assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"waiting\""), "{health}");
        assert!(
            ready.starts_with("HTTP/1.1 503") && ready.contains("the store at postgres://me:***@"),
            "{ready}"
        );
    }
}
