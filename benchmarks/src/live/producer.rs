//! Sends a fleet at a pace, tells the oracle what it sent, and remembers when.

use super::rules;
use crate::{Failure, Result};
use fleetscore_harness::PATIENCE;
use fleetscore_oracle::expect::{Letter, Oracle};
use fleetscore_oracle::fleet::{Fleet, Message, Record};
use fleetscore_oracle::{Key, Window};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Event times from here on are those of clocks that run fast.
const FAST_US: i64 = 3_000_000_000_000_000;
/// One message of each partition is remembered in this time.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// Panes are given away by the oracle after so many messages.
const SETTLE_EVERY: u64 = 5_000;
const PAUSE: Duration = Duration::from_millis(2);

/// A message and when it was sent.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Where the pane of one of its readings, which was not late, begins.
    pub pane_us: i64,
    /// By the clock.
    pub sent_us: i64,
    acknowledged_us: Acknowledged,
}

impl Probe {
    /// When the broker's word for it came; `None` while it has not.
    pub fn acknowledged_us(&self) -> Option<i64> {
        Some(self.acknowledged_us.load(Relaxed)).filter(|us| *us > 0)
    }
}

/// When the broker acknowledged a message, by the clock; 0 until then. It travels with the message through the client, so
/// that no acknowledgement has to look for its message.
type Acknowledged = Arc<AtomicI64>;

/// Event time against the clock.
#[derive(Debug, Clone, Copy)]
struct Pace {
    since: Instant,
    event_us: i64,
    /// Seconds of event time in a second; none: as fast as it goes.
    speed: Option<f64>,
}

impl Pace {
    fn due_us(&self) -> i64 {
        match self.speed {
            None => i64::MAX,
            Some(speed) => self.event_us + (self.since.elapsed().as_secs_f64() * speed * 1e6) as i64,
        }
    }
}

/// What a producer and whoever watches it share.
#[derive(Debug)]
struct Shared {
    pace: Mutex<Pace>,
    probes: Mutex<Vec<Probe>>,
    stop: AtomicBool,
    /// So many messages may be sent beyond those that are in SQL.
    ahead: u64,
    in_sql: AtomicU64,
    messages: AtomicU64,
    readings: AtomicU64,
    event_us: AtomicI64,
    failed: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes when the broker acknowledged a message, and counts what it refused.
struct Deliveries(Arc<Shared>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Acknowledged;

    fn delivery(&self, result: &DeliveryResult<'_>, acknowledged_us: Acknowledged) {
        match result {
            Ok(_) => acknowledged_us.store(super::now_us(), Relaxed),
            Err(_) => {
                self.0.failed.fetch_add(1, Relaxed);
            }
        }
    }
}

/// All that was sent, and what must come of it.
#[derive(Debug)]
pub struct Sent {
    /// Windows of all readings that count.
    pub windows: BTreeMap<Key, Window>,
    /// Dead letters.
    pub letters: Vec<Letter>,
    /// Readings that count.
    pub readings: u64,
    /// Of these, behind the watermark when they came.
    pub late: u64,
    /// Messages of each partition.
    pub messages: Vec<i64>,
    /// Event time of the beginning.
    pub start_us: i64,
}

/// A thread that sends.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Sent>>,
}

impl Producer {
    /// Begins to send a fleet: at `speed` seconds of event time in a second, or as fast as it goes; at most `ahead` messages
    /// beyond what [`Producer::in_sql`] was told.
    ///
    /// # Errors
    /// No thread.
    pub fn start(
        bootstrap: &str,
        topic: &str,
        fleet: Fleet,
        speed: Option<f64>,
        ahead: Option<u64>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            pace: Mutex::new(Pace { since: Instant::now(), event_us: fleet.start_us, speed }),
            probes: Mutex::default(),
            stop: AtomicBool::new(false),
            ahead: ahead.unwrap_or(u64::MAX),
            in_sql: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            readings: AtomicU64::new(0),
            event_us: AtomicI64::new(fleet.start_us),
            failed: AtomicU64::new(0),
        });
        let (theirs, bootstrap, topic) = (shared.clone(), bootstrap.to_owned(), topic.to_owned());
        let thread = std::thread::Builder::new()
            .name("producer".into())
            .spawn(move || run(&theirs, &bootstrap, &topic, &fleet))?;
        Ok(Self { shared, thread })
    }

    /// Goes on at this speed.
    pub fn set_speed(&self, speed: f64) {
        let mut pace = lock(&self.shared.pace);
        *pace = Pace { since: Instant::now(), event_us: pace.due_us(), speed: Some(speed) };
    }

    /// The event time that is due to have been sent.
    pub fn due_us(&self) -> i64 {
        lock(&self.shared.pace).due_us()
    }

    /// The event time up to which all has been sent.
    pub fn event_us(&self) -> i64 {
        self.shared.event_us.load(Relaxed)
    }

    /// Messages and readings handed to the client so far.
    pub fn sent(&self) -> (u64, u64) {
        (self.shared.messages.load(Relaxed), self.shared.readings.load(Relaxed))
    }

    /// Tells how many messages are in SQL.
    pub fn in_sql(&self, messages: u64) {
        self.shared.in_sql.store(messages, Relaxed);
    }

    /// What was remembered since the last call.
    pub fn probes(&self) -> Vec<Probe> {
        std::mem::take(&mut *lock(&self.shared.probes))
    }

    /// Whether it has ended, which it does only where it fails.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Sends no more, and waits until the broker has all.
    ///
    /// # Errors
    /// The broker refused a message.
    pub fn stop(self) -> Result<Sent> {
        self.shared.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| Failure::from("the producer panicked"))?
    }
}

struct Sender<'a> {
    shared: &'a Shared,
    client: ThreadedProducer<Deliveries>,
    topic: &'a str,
    offsets: Vec<i64>,
    remembered: Vec<Instant>,
    fleet: &'a Fleet,
}

fn run(shared: &Arc<Shared>, bootstrap: &str, topic: &str, fleet: &Fleet) -> Result<Sent> {
    let client: ThreadedProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", "20")
        .set("compression.type", "lz4")
        // Whatever waits for a broker that is away is sent when it is back.
        .set("message.timeout.ms", "0")
        .set("queue.buffering.max.kbytes", "32768")
        .set("reconnect.backoff.max.ms", "1000")
        .create_with_context(Deliveries(shared.clone()))?;
    let partitions = fleet.partitions as usize;
    let mut sender = Sender {
        shared,
        client,
        topic,
        offsets: vec![0; partitions],
        remembered: vec![Instant::now(); partitions],
        fleet,
    };
    let mut oracle = Oracle::new(rules(fleet));
    let mut windows = BTreeMap::new();
    let mut greatest_us = fleet.start_us;
    for message in fleet.messages() {
        let newest = message.records.iter().filter_map(time_of).filter(|t| *t < FAST_US).max();
        greatest_us = greatest_us.max(newest.unwrap_or(greatest_us));
        let acknowledged_us = Acknowledged::default();
        if !sender.wait_until_due(greatest_us) || !sender.send(&message, &acknowledged_us)? {
            break;
        }
        let offset = sender.sent(&message, greatest_us, acknowledged_us);
        oracle.take(message.partition, offset, &message);
        shared.readings.store(oracle.readings(), Relaxed);
        if shared.messages.fetch_add(1, Relaxed).is_multiple_of(SETTLE_EVERY)
            && let Some(until) = settled_until(&oracle, fleet)
        {
            windows.append(&mut oracle.settle(until));
        }
    }
    // The broker may be on its way back.
    sender.client.flush(PATIENCE)?;
    let failed = shared.failed.load(Relaxed);
    if failed > 0 {
        return Err(format!("the broker refused {failed} messages").into());
    }
    windows.append(&mut oracle.windows());
    Ok(Sent {
        windows,
        letters: oracle.letters().to_vec(),
        readings: oracle.readings(),
        late: oracle.late(),
        messages: sender.offsets,
        start_us: fleet.start_us,
    })
}

fn time_of(record: &Record) -> Option<i64> {
    match record {
        Record::Reading { reading, .. } => Some(reading.ts_us),
        Record::Bad { .. } => None,
    }
}

/// Below this no reading counts any more, of whichever partition.
fn settled_until(oracle: &Oracle, fleet: &Fleet) -> Option<i64> {
    let watermarks: Option<Vec<i64>> = (0..fleet.partitions).map(|p| oracle.watermark(p)).collect();
    Some(watermarks?.into_iter().min()? - fleet.allowed_lateness_us)
}

impl Sender<'_> {
    /// Waits for the time of a message; false where no more is to be sent.
    fn wait_until_due(&self, event_us: i64) -> bool {
        let shared = self.shared;
        loop {
            if shared.stop.load(Relaxed) {
                return false;
            }
            let ahead = shared.messages.load(Relaxed).saturating_sub(shared.in_sql.load(Relaxed));
            if ahead < shared.ahead && event_us <= lock(&shared.pace).due_us() {
                return true;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Hands a message to the client; while its queue is full, as it is without a broker, it is held back. False where no more
    /// is to be sent.
    fn send(&self, message: &Message, acknowledged_us: &Acknowledged) -> Result<bool> {
        let mut record = BaseRecord::<str, [u8], _>::with_opaque_to(self.topic, acknowledged_us.clone())
            .key(&message.key)
            .partition(i32::try_from(message.partition)?);
        if let Some(payload) = message.value() {
            record = record.payload(payload);
        }
        loop {
            match self.client.send(record) {
                Ok(()) => return Ok(true),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    if self.shared.stop.load(Relaxed) {
                        return Ok(false);
                    }
                    record = back;
                    std::thread::sleep(PAUSE);
                }
                Err((e, _)) => return Err(format!("cannot send to {}: {e}", self.topic).into()),
            }
        }
    }

    /// Notes a message that was sent; its offset.
    fn sent(&mut self, message: &Message, greatest_us: i64, acknowledged_us: Acknowledged) -> i64 {
        let p = message.partition as usize;
        let offset = self.offsets[p];
        self.offsets[p] += 1;
        self.shared.event_us.store(greatest_us, Relaxed);
        if self.remembered[p].elapsed() >= PROBE_EVERY {
            let on_time = |t: &i64| *t < FAST_US && *t >= greatest_us - self.fleet.max_disorder_us;
            if let Some(ts_us) = message.records.iter().filter_map(time_of).find(on_time) {
                self.remembered[p] = Instant::now();
                let pane_us = ts_us.div_euclid(self.fleet.pane_us) * self.fleet.pane_us;
                let (partition, sent_us) = (message.partition, super::now_us());
                let probe = Probe { partition, offset, pane_us, sent_us, acknowledged_us };
                lock(&self.shared.probes).push(probe);
            }
        }
        offset
    }
}
