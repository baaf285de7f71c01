//! A real Apache Kafka (KRaft, one node) and a plain client for the tests' own messages.

use super::process::Process;
use super::{free_port, setup_variable};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// One broker that is also its controller.
#[derive(Debug)]
pub struct Kafka {
    /// The server.
    pub process: Process,
    /// `host:port`.
    pub bootstrap: String,
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
        let libs = format!("{}/*", setup_variable("FLEETSCORE_TEST_KAFKA_LIBS"));
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
                 group.min.session.timeout.ms=1000\nauto.create.topics.enable=false\nmessage.max.bytes=2000000\n",
                folder.join("log").display()
            ),
        )
        .expect("the broker's properties");
        let id = super::data::base64_url_16(&format!("{port}-{}", std::process::id()));
        let formatted = Command::new("java")
            .args(["-cp", &libs, "kafka.tools.StorageTool", "format"])
            // In one word: an id may begin with a dash.
            .arg(format!("--cluster-id={id}"))
            .arg("--config")
            .arg(&properties)
            .output()
            .expect("java starts");
        assert!(
            formatted.status.success(),
            "kafka's storage tool: {}",
            String::from_utf8_lossy(&formatted.stderr)
        );
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", &libs, "kafka.Kafka"]).arg(&properties);
        command.current_dir(folder);
        let process = Process::spawn(command, &folder.join("kafka.log"), libc::SIGTERM);
        let this = Self { process, bootstrap: format!("127.0.0.1:{port}") };
        this.wait_until_ready();
        this
    }

    /// Waits until the broker answers (without a log configuration it prints errors alone).
    fn wait_until_ready(&self) {
        let consumer: BaseConsumer = self.config().create().expect("a client");
        super::wait_until("the broker", Duration::from_secs(90), || {
            if let Some(status) = self.process.ended() {
                panic!("Kafka ended with {status}:\n{}", self.process.output());
            }
            match consumer.fetch_metadata(None, Duration::from_secs(1)) {
                Ok(metadata) if !metadata.brokers().is_empty() => Ok(()),
                Ok(_) => Err("no broker yet".to_owned()),
                Err(e) => Err(format!("{e}\n{}", self.process.output())),
            }
        });
    }

    fn config(&self) -> ClientConfig {
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
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
            for result in admin.create_topics([&new], &options).await.expect("the broker answers") {
                result.expect("the topic is new");
            }
        });
    }

    /// Deletes a topic and waits until it is gone.
    pub fn delete_topic(&self, topic: &str) {
        self.admin(async |admin| {
            let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
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
                producer.flush(Duration::from_secs(30)).expect("delivered");
                std::thread::sleep(pause);
            }
            loop {
                let mut record = BaseRecord::<str, [u8]>::to(topic).key(&message.key);
                if let Some(payload) = &message.payload {
                    record = record.payload(payload);
                }
                match producer.send(record) {
                    Ok(()) => break,
                    Err((
                        rdkafka::error::KafkaError::MessageProduction(
                            rdkafka::types::RDKafkaErrorCode::QueueFull,
                        ),
                        _,
                    )) => std::thread::sleep(Duration::from_millis(20)),
                    Err((e, _)) => panic!("cannot send to {topic}: {e}"),
                }
            }
        }
        producer.flush(Duration::from_secs(60)).expect("delivered");
        assert_eq!(producer.in_flight_count(), 0);
    }
}
