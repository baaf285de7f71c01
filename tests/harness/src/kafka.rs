//! A real Apache Kafka (KRaft, one node; [`crate::cluster`] has several) and a plain client for the tests' own messages.

use crate::process::Process;
use crate::{PATIENCE, free_port, setup_variable};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// How long a broker may take over a topic.
const OPERATION: Duration = Duration::from_secs(600);

/// Sixteen bytes made from a text, as Kafka wants its cluster ids.
pub(crate) fn base64_url_16(text: &str) -> String {
    use base64::Engine;
    use sha2::Digest;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&sha2::Sha256::digest(text)[..16])
}

/// Formats a broker's log folder for a cluster of this id.
pub(crate) fn storage_format(properties: &Path, id: &str) {
    let libs = format!("{}/*", setup_variable("FLEETSCORE_TEST_KAFKA_LIBS"));
    let formatted = Command::new("java")
        .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", &libs, "kafka.tools.StorageTool", "format"])
        // In one word: an id may begin with a dash.
        .arg(format!("--cluster-id={id}"))
        .arg("--config")
        .arg(properties)
        .output()
        .expect("java starts");
    assert!(
        formatted.status.success(),
        "kafka's storage tool: {}",
        String::from_utf8_lossy(&formatted.stderr)
    );
}

/// Starts a broker on its folder, by the `server.properties` in it.
pub(crate) fn launch_broker(folder: &Path, memory: &[&str]) -> Process {
    let libs = format!("{}/*", setup_variable("FLEETSCORE_TEST_KAFKA_LIBS"));
    let mut command = Command::new("java");
    command.args(memory).args(["-XX:TieredStopAtLevel=1", "-cp", &libs, "kafka.Kafka"]);
    command.arg(folder.join("server.properties")).current_dir(folder);
    let log = (0..).map(|n| folder.join(format!("kafka-{n}.log"))).find(|p| !p.exists());
    Process::spawn(command, &log.expect("a free name"), libc::SIGTERM)
}

/// Hands a record to a producer; waits while its queue is full.
///
/// # Errors
/// The client refuses the record.
pub fn enqueue<C>(
    producer: &ThreadedProducer<C>,
    mut record: BaseRecord<'_, str, [u8]>,
) -> Result<(), KafkaError>
where
    C: ProducerContext<DeliveryOpaque = ()> + 'static,
{
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err((e, _)) => return Err(e),
        }
    }
}

/// One broker that is also its controller, or a client of a cluster that is another's.
#[derive(Debug)]
pub struct Kafka {
    /// The server and its folder, where it is this one's.
    server: Option<Server>,
    /// `host:port`.
    pub bootstrap: String,
    replicas: i32,
}

#[derive(Debug)]
struct Server {
    folder: PathBuf,
    heap: String,
    process: Mutex<Process>,
}

impl Server {
    fn launch(folder: &Path, heap: &str) -> Process {
        launch_broker(folder, &[&format!("-Xmx{heap}")])
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("no test panics while it holds this lock")
    }
}

/// A message of a test.
#[derive(Debug, Clone)]
pub struct Message {
    /// Decides the partition.
    pub key: String,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

impl Kafka {
    /// Formats a new log folder and starts the broker.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, "message.max.bytes=2000000\n", "512m")
    }

    /// The same with further lines of its properties, and with so much memory.
    pub fn start_with(folder: &Path, more: &str, heap: &str) -> Self {
        let (port, controller) = (free_port(), free_port());
        let properties = folder.join("server.properties");
        std::fs::write(
            &properties,
            format!(
                "process.roles=broker,controller\nnode.id=1\n\
                 controller.quorum.voters=1@localhost:{controller}\ncontroller.listener.names=CONTROLLER\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                 log.dirs={}\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
                 transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
                 transaction.state.log.num.partitions=2\nshare.coordinator.state.topic.replication.factor=1\n\
                 share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
                 group.min.session.timeout.ms=1000\nauto.create.topics.enable=false\n{more}",
                folder.join("log").display()
            ),
        )
        .expect("the broker's properties");
        let id = base64_url_16(&format!("{port}-{}", std::process::id()));
        storage_format(&properties, &id);
        let server = Server {
            folder: folder.to_owned(),
            heap: heap.to_owned(),
            process: Mutex::new(Server::launch(folder, heap)),
        };
        let this = Self { server: Some(server), bootstrap: format!("127.0.0.1:{port}"), replicas: 1 };
        this.wait_until_up();
        this
    }

    fn wait_until_up(&self) {
        self.wait_for_brokers(1, PATIENCE, || {
            let process = self.server.as_ref().map(Server::process);
            if let Some(process) = process.filter(|p| p.ended().is_some()) {
                panic!("Kafka ended:\n{}", process.output());
            }
        });
    }

    /// A client of servers that are another's.
    pub fn at(bootstrap: &str, replicas: i32) -> Self {
        Self { server: None, bootstrap: bootstrap.to_owned(), replicas }
    }

    /// Stops the server, where it is this one's.
    pub fn stop(&self) {
        self.server.iter().for_each(|s| s.process().stop());
    }

    /// Kills the server, where it is this one's; [`Kafka::start_again`] brings it back.
    pub fn kill(&self) {
        if let Some(server) = &self.server {
            server.process().signal(libc::SIGKILL);
            server.process().wait(PATIENCE).expect("a killed process ends");
        }
    }

    /// Starts the server again on its folder and port after [`Kafka::kill`].
    pub fn start_again(&self) {
        if let Some(server) = &self.server {
            *server.process() = Server::launch(&server.folder, &server.heap);
        }
        self.wait_until_up();
    }

    /// Waits until so many brokers are there (without a log configuration they print errors alone).
    pub fn wait_for_brokers(&self, brokers: usize, at_most: Duration, look: impl Fn()) {
        let consumer: BaseConsumer = self.config().create().expect("a client");
        crate::wait_until(&format!("{brokers} brokers"), at_most, || {
            look();
            match consumer.fetch_metadata(None, Duration::from_secs(1)) {
                Ok(metadata) if metadata.brokers().len() >= brokers => Ok(()),
                Ok(metadata) => Err(format!("{} brokers", metadata.brokers().len())),
                Err(e) => Err(e.to_string()),
            }
        });
    }

    /// The settings of a client.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("message.max.bytes", "2000000");
        config
    }

    fn admin<T>(&self, act: impl AsyncFnOnce(AdminClient<DefaultClientContext>) -> T) -> T {
        let admin = self.config().create().expect("an admin client");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(act(admin))
    }

    /// Makes a topic.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.admin(async |admin| {
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(self.replicas));
            let options =
                AdminOptions::new().operation_timeout(Some(OPERATION)).request_timeout(Some(OPERATION));
            for result in admin.create_topics([&new], &options).await.expect("the broker answers") {
                result.expect("the topic is new");
            }
        });
    }

    /// Raises the number of a topic's partitions to this.
    pub fn grow_topic(&self, topic: &str, partitions: usize) {
        self.admin(async |admin| {
            let options =
                AdminOptions::new().operation_timeout(Some(OPERATION)).request_timeout(Some(OPERATION));
            let new = NewPartitions::new(topic, partitions);
            for result in admin.create_partitions([&new], &options).await.expect("the broker answers") {
                result.expect("the topic grows");
            }
        });
    }

    /// Deletes the records of a partition before an offset, as retention does.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        self.admin(async |admin| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(before)).expect("an offset");
            let options =
                AdminOptions::new().operation_timeout(Some(OPERATION)).request_timeout(Some(OPERATION));
            let done = admin.delete_records(&list, &options).await.expect("the broker answers");
            done.elements().iter().for_each(|e| e.error().expect("the records go"));
        });
    }

    /// Sends payloads to one partition in order, one at a time where they are large, and waits until all are stored.
    pub fn send_to(&self, topic: &str, partition: i32, payloads: &[Vec<u8>]) {
        let producer: ThreadedProducer<DefaultProducerContext> = self
            .config()
            .set("message.max.bytes", "1000000000")
            .set("queue.buffering.max.kbytes", "2000000")
            .set("linger.ms", "5")
            .set("enable.idempotence", "true")
            .create()
            .expect("a producer");
        for payload in payloads {
            let record = BaseRecord::to(topic).partition(partition).payload(payload.as_slice());
            enqueue(&producer, record).unwrap_or_else(|e| panic!("cannot send to {topic}[{partition}]: {e}"));
            if payload.len() > 1_000_000 {
                producer.flush(PATIENCE).expect("delivered");
            }
        }
        producer.flush(PATIENCE).expect("delivered");
        assert_eq!(producer.in_flight_count(), 0);
    }

    /// The first file of a partition's log, where the server is this one's.
    pub fn log_of(&self, topic: &str, partition: i32) -> PathBuf {
        let server = self.server.as_ref().expect("a server of its own");
        server.folder.join(format!("log/{topic}-{partition}/00000000000000000000.log"))
    }

    /// Deletes a topic and waits until it is gone.
    pub fn delete_topic(&self, topic: &str) {
        self.admin(async |admin| {
            let options =
                AdminOptions::new().operation_timeout(Some(OPERATION)).request_timeout(Some(OPERATION));
            for result in admin.delete_topics(&[topic], &options).await.expect("the broker answers") {
                result.expect("the topic is there");
            }
        });
        std::thread::sleep(Duration::from_secs(1));
    }

    /// Sends messages in order and waits until all are stored.
    pub fn send(&self, topic: &str, messages: &[Message]) {
        self.send_paced(topic, messages, usize::MAX, Duration::ZERO);
    }

    /// Sends messages in order, pausing after each `chunk`.
    pub fn send_paced(&self, topic: &str, messages: &[Message], chunk: usize, pause: Duration) {
        let producer: ThreadedProducer<DefaultProducerContext> = self
            .config()
            .set("linger.ms", "5")
            .set("enable.idempotence", "true")
            .create()
            .expect("a producer");
        for (i, message) in messages.iter().enumerate() {
            if i > 0 && i.is_multiple_of(chunk) {
                producer.flush(PATIENCE).expect("delivered");
                std::thread::sleep(pause);
            }
            let mut record = BaseRecord::to(topic).key(message.key.as_str());
            if let Some(payload) = &message.payload {
                record = record.payload(payload.as_slice());
            }
            enqueue(&producer, record).unwrap_or_else(|e| panic!("cannot send to {topic}: {e}"));
        }
        producer.flush(PATIENCE).expect("delivered");
        assert_eq!(producer.in_flight_count(), 0);
    }
}
