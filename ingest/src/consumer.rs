//! The consumer as the aggregator sees it.

use crate::batch_queue::BatchQueue;
use crate::budget::Budget;
use crate::context::Context;
use crate::decoding;
use crate::error::IngestError;
use crate::lookup::Lookup;
use crate::poll::{PollState, Poller};
use crate::profile::{Brokers, Role, config_for};
use crate::stats::{Shared, SourceSnapshot};
use fleetscore_decode::{DecodeOptions, Decoder};
use fleetscore_schemas::stream::{Command, ReadingSource, SourceEvent};
use fleetscore_schemas::time::Timestamp;
use rdkafka::consumer::BaseConsumer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// Where a topic without stored positions is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest message there is.
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first message whose broker time is at or after this one; without any, what comes from now on.
    Time(Timestamp),
}

/// How to read readings from Kafka.
#[derive(Clone)]
pub struct KafkaOptions {
    /// `host:port[,…]` or an Event Hubs connection string (the setting `kafka`).
    pub brokers: String,
    /// The topics; empty means the event hub that the connection string names.
    pub topics: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// Where topics without stored positions begin.
    pub start: StartAt,
    /// librdkafka properties, which win over the profile.
    pub properties: BTreeMap<String, String>,
    /// The cluster's id, where it is known better than the brokers tell it (an embedded broker).
    pub cluster: Option<String>,
    /// How messages are decoded.
    pub decode: DecodeOptions,
    /// How many bytes may be read and not yet let go of. Reached, fetching rests; one message always gets through.
    pub max_in_flight_bytes: usize,
    /// How many messages are read at a time, and how many a batch may hold.
    pub batch_messages: usize,
}

impl KafkaOptions {
    /// Options with everything else at its default.
    pub fn new(brokers: impl Into<String>, topics: Vec<String>, group: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topics,
            group: group.into(),
            start: StartAt::Earliest,
            properties: BTreeMap::new(),
            cluster: None,
            decode: DecodeOptions::default(),
            max_in_flight_bytes: 64 << 20,
            batch_messages: 4096,
        }
    }
}

impl std::fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // `brokers` and `properties` may hold secrets.
        f.debug_struct("KafkaOptions")
            .field("topics", &self.topics)
            .field("group", &self.group)
            .field("start", &self.start)
            .field("properties", &self.properties.keys())
            .finish_non_exhaustive()
    }
}

/// Readings from Kafka, as a member of a consumer group whose positions the aggregator keeps.
#[derive(Debug)]
pub struct KafkaSource {
    events: UnboundedReceiver<SourceEvent>,
    commands: mpsc::Sender<Command>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    /// Whether the end of events is expected: after [`SourceEvent::Failed`] was given.
    failed: bool,
}

/// Looks at a running source; cheap to clone, and outlives it.
#[derive(Debug, Clone)]
pub struct SourceHandle {
    shared: Arc<Shared>,
}

impl SourceHandle {
    /// The source's statistics at this moment.
    pub fn snapshot(&self) -> SourceSnapshot {
        self.shared.snapshot()
    }
}

/// Decoders are told apart by number: keys of one mean nothing to another.
static NEXT_DECODER: AtomicU32 = AtomicU32::new(1);

impl KafkaSource {
    /// Opens a source. Returns at once: an unreachable broker and a missing topic are waited for, and
    /// [`SourceHandle::snapshot`] says so; refused credentials come as [`SourceEvent::Failed`].
    ///
    /// # Errors
    /// A setting that cannot be used: [`IngestError::Brokers`], [`IngestError::Property`], [`IngestError::Topic`],
    /// [`IngestError::Group`].
    pub fn open(options: KafkaOptions) -> Result<(Self, SourceHandle), IngestError> {
        let brokers = Brokers::parse(&options.brokers)?;
        let topics = topics(&options.topics, &brokers)?;
        check_group(&options.group)?;
        let mut config = config_for(&brokers, &options.properties, Role::Consumer)?;
        config.set("group.id", &options.group);
        let session_ms = config.get("session.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(15_000);

        let shared = Shared::new(Budget::new(options.max_in_flight_bytes.max(1)));
        let batch_messages = options.batch_messages.max(1);
        let consumer: BaseConsumer<Context> = config
            .create_with_context(Context::new(Arc::clone(&shared)))
            .map_err(IngestError::from_creation)?;
        let consumer = Arc::new(consumer);
        let queue = BatchQueue::new(Arc::clone(&consumer), batch_messages)
            .ok_or_else(|| IngestError::Internal("librdkafka makes no queue".into()))?;
        let decoder = Decoder::new(NEXT_DECODER.fetch_add(1, Ordering::Relaxed), options.decode);

        let (commands, command_receiver) = mpsc::channel();
        let (requests, request_receiver) = mpsc::channel();
        let (answers, answer_receiver) = mpsc::channel();
        let (work, work_receiver) = mpsc::channel();
        let (out, events) = tokio::sync::mpsc::unbounded_channel();

        let decoding = spawn("fleetscore-decode", {
            let shared = Arc::clone(&shared);
            move || decoding::run(&work_receiver, decoder, &shared, &out)
        })?;
        let lookup = Lookup {
            consumer: Arc::clone(&consumer),
            topics: topics.clone(),
            start_at: options.start,
            cluster: options.cluster,
            bootstrap: brokers.bootstrap,
            shared: Arc::clone(&shared),
            requests: request_receiver,
            answers,
            missing: false.into(),
            refreshed: None.into(),
        };
        let lookup = spawn("fleetscore-lookup", move || lookup.run())?;
        let poller = Poller {
            consumer,
            queue,
            commands: command_receiver,
            requests,
            answers: answer_receiver,
            work,
            shared: Arc::clone(&shared),
            lookup,
            topics,
            release_timeout: Duration::from_millis(session_ms) / 3,
            batch_messages,
            state: PollState::new(Instant::now(), shared.budget.limit()),
        };
        let polling = spawn("fleetscore-poll", move || poller.run())?;
        let handle = SourceHandle { shared: Arc::clone(&shared) };
        Ok((Self { events, commands, threads: vec![polling, decoding], shared, failed: false }, handle))
    }

    /// Waits for threads that have let go of their channels, so for no more than an instant.
    fn join(&mut self) -> bool {
        let mut well = true;
        for thread in self.threads.drain(..) {
            well &= thread.join().is_ok();
        }
        well
    }
}

#[async_trait::async_trait]
impl ReadingSource for KafkaSource {
    async fn next(&mut self) -> Option<SourceEvent> {
        if let Some(event) = self.events.recv().await {
            self.failed |= matches!(event, SourceEvent::Failed { .. });
            return Some(event);
        }
        // The decoding thread is the last to go, and it has gone: where the polling one has not begun to, by a panic.
        let well = self.shared.stopping() && self.join();
        if self.failed || well {
            return None;
        }
        self.failed = true;
        // The polling thread ends of this, and nobody waits for it.
        self.shared.refuse("kafka client: the decoding thread has ended; this is a bug".into());
        Some(SourceEvent::Failed { message: "kafka client: a thread has panicked; this is a bug".into() })
    }

    fn command(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::debug!("a command to a source that has ended");
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        // The threads leave the group by themselves; waiting for them here would block an executor.
        self.command(Command::Stop);
    }
}

fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, IngestError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(f)
        .map_err(|e| IngestError::Internal(format!("no thread for {name}: {e}")))
}

fn topics(topics: &[String], brokers: &Brokers) -> Result<Vec<Arc<str>>, IngestError> {
    let mut names: Vec<Arc<str>> = topics.iter().map(|t| Arc::from(t.trim())).collect();
    if names.is_empty() {
        names.extend(brokers.entity_path.as_deref().map(Arc::from));
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(IngestError::Topic("name at least one".into()));
    }
    for name in &names {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 249 || !name.chars().all(legal) {
            return Err(IngestError::Topic(format!(
                "`{name}` is no topic's name: 1 to 249 letters, digits, `.`, `_` or `-`"
            )));
        }
    }
    Ok(names)
}

fn check_group(group: &str) -> Result<(), IngestError> {
    if group.is_empty() || group.len() > 255 {
        return Err(IngestError::Group("must have 1 to 255 bytes".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_hub_of_the_connection_string_is_the_topic() {
        let hub = Brokers::parse(
            "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=a;SharedAccessKey=b;EntityPath=hub",
        )
        .expect("a good string");
        let names = |t: &[&str]| {
            topics(&t.iter().map(|s| s.to_string()).collect::<Vec<_>>(), &hub)
                .map(|t| t.iter().map(|s| s.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("the hub"), ["hub"]);
        assert_eq!(names(&["b", "a", "b"]).expect("given ones win"), ["a", "b"]);
        for bad in ["", "a b", "ä", "^a.*", "a/b"] {
            assert!(matches!(names(&[bad]), Err(IngestError::Topic(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_panic_of_the_decoding_thread_ends_the_source() {
        let shared = Shared::new(Budget::new(1 << 20));
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let decoding = spawn("decoding", move || {
            let _held = sender;
            panic!("the test's own");
        })
        .expect("a thread");
        let polling = spawn("polling", {
            let shared = Arc::clone(&shared);
            move || {
                while shared.state().refused.is_none() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        })
        .expect("a thread");
        let (commands, _obeyed) = mpsc::channel();
        let handle = SourceHandle { shared: Arc::clone(&shared) };
        let mut source =
            KafkaSource { events, commands, threads: vec![polling, decoding], shared, failed: false };
        assert!(matches!(source.next().await, Some(SourceEvent::Failed { .. })));
        assert!(source.next().await.is_none());
        assert!(handle.snapshot().waits_for.is_some(), "readiness says so");
        assert!(source.join().eq(&false), "the polling thread ends too");
    }

    #[test]
    fn options_show_no_secret() {
        let mut options = KafkaOptions::new("Endpoint=sb://x/;SharedAccessKey=hush", vec![], "g");
        options.properties.insert("sasl.password".into(), "hush".into());
        assert!(!format!("{options:?}").contains("hush"));
        let error = KafkaSource::open(options).map(|_| ()).expect_err("no key name");
        assert!(!format!("{error} {error:?}").contains("hush"));
    }
}
