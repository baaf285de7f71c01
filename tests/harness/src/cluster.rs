//! Several Kafka brokers (KRaft, each broker and controller), each behind proxies: one for each named client, so that one
//! client's link can fail alone. Brokers talk to each other directly.

use crate::kafka::{Kafka, base64_url_16, launch_broker, storage_format};
use crate::process::Process;
use crate::proxy::{Mode, Proxy};
use crate::{PATIENCE, free_port};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    brokers: Vec<Broker>,
    clients: Vec<String>,
}

#[derive(Debug)]
struct Broker {
    folder: PathBuf,
    process: Mutex<Option<Process>>,
    /// One for each client.
    proxies: Vec<Proxy>,
}

/// Replicas of each partition and how many of them must have a message.
const REPLICAS: (usize, usize) = (3, 2);

impl Cluster {
    /// Formats and starts `brokers` brokers (three at least, for three replicas), each with a listener of its own for each
    /// of these clients.
    pub fn start(folder: &Path, brokers: usize, clients: &[&str]) -> Self {
        assert!(brokers >= REPLICAS.0, "topics have {} replicas", REPLICAS.0);
        let controllers: Vec<u16> = (0..brokers).map(|_| free_port()).collect();
        let voters: Vec<String> =
            (1..).zip(&controllers).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let id = base64_url_16(&format!("{}-{}", voters.join(","), std::process::id()));
        let brokers: Vec<Broker> = (1..)
            .zip(&controllers)
            .map(|(number, controller)| {
                let folder = folder.join(format!("broker-{number}"));
                std::fs::create_dir(&folder).expect("a folder in the cluster's");
                let ports: Vec<u16> = clients.iter().map(|_| free_port()).collect();
                let proxies: Vec<Proxy> = ports.iter().map(|port| Proxy::start(*port)).collect();
                let text = properties(&folder, number, *controller, &voters.join(","), &ports, &proxies);
                std::fs::write(folder.join("server.properties"), text).expect("the broker's properties");
                Broker { folder, process: Mutex::new(None), proxies }
            })
            .collect();
        std::thread::scope(|scope| {
            for broker in &brokers {
                scope.spawn(|| storage_format(&broker.folder.join("server.properties"), &id));
            }
        });
        let this = Self { brokers, clients: clients.iter().map(|c| (*c).to_owned()).collect() };
        for broker in 0..this.brokers.len() {
            this.launch(broker);
        }
        this.wait_until_ready();
        this
    }

    /// How many brokers there are.
    pub fn brokers(&self) -> usize {
        self.brokers.len()
    }

    fn client(&self, name: &str) -> usize {
        self.clients.iter().position(|c| c == name).unwrap_or_else(|| panic!("no client {name} was named"))
    }

    /// `host:port,…` for one of the clients.
    pub fn bootstrap(&self, client: &str) -> String {
        let client = self.client(client);
        let all: Vec<String> =
            self.brokers.iter().map(|b| format!("127.0.0.1:{}", b.proxies[client].port())).collect();
        all.join(",")
    }

    /// The proxies between one client and each broker.
    pub fn proxies(&self, client: &str) -> Vec<&Proxy> {
        let client = self.client(client);
        self.brokers.iter().map(|b| &b.proxies[client]).collect()
    }

    /// Starts a broker that is down.
    pub fn launch(&self, broker: usize) {
        let broker = &self.brokers[broker];
        let mut process = broker.process.lock().expect("nothing panics with this lock");
        if process.as_ref().is_some_and(|p| p.ended().is_none()) {
            return;
        }
        *process = Some(launch_broker(&broker.folder, &["-Xmx256m", "-Xms64m", "-XX:+UseSerialGC"]));
    }

    /// Sends a signal to a broker.
    pub fn signal(&self, broker: usize, signal: i32) {
        let process = self.brokers[broker].process.lock().expect("nothing panics with this lock");
        if let Some(process) = &*process {
            process.signal(signal);
        }
    }

    /// Kills a broker.
    pub fn kill(&self, broker: usize) {
        self.signal(broker, libc::SIGKILL);
        self.wait(broker, PATIENCE);
    }

    /// Asks a broker to stop, and kills it if it does not: a broker without a quorum waits for one.
    pub fn stop(&self, broker: usize) {
        self.signal(broker, libc::SIGTERM);
        if !self.wait(broker, Duration::from_secs(20)) {
            self.kill(broker);
        }
    }

    fn wait(&self, broker: usize, at_most: Duration) -> bool {
        let process = self.brokers[broker].process.lock().expect("nothing panics with this lock");
        process.as_ref().is_none_or(|p| p.wait(at_most).is_some())
    }

    /// Waits until every broker is known to the others, starting those that are down and opening every proxy.
    pub fn heal(&self) {
        for (number, broker) in self.brokers.iter().enumerate() {
            self.signal(number, libc::SIGCONT);
            self.launch(number);
            broker.proxies.iter().for_each(|p| p.set(Mode::Pass));
        }
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let Some(first) = self.clients.first() else { return };
        self.plain(first).wait_for_brokers(self.brokers.len(), PATIENCE, || {
            for (number, broker) in self.brokers.iter().enumerate() {
                let process = broker.process.lock().expect("nothing panics with this lock");
                if let Some(process) = process.as_ref().filter(|p| p.ended().is_some()) {
                    panic!("broker {number} ended:\n{}", process.output());
                }
            }
        });
    }

    /// A plain client of the tests' own, by the listener of one of the clients.
    pub fn plain(&self, client: &str) -> Kafka {
        Kafka::at(&self.bootstrap(client), REPLICAS.0 as i32)
    }
}

/// One listener for brokers, one for controllers, one for each client: what it advertises is the client's proxy.
fn properties(
    folder: &Path,
    number: usize,
    controller: u16,
    voters: &str,
    ports: &[u16],
    proxies: &[Proxy],
) -> String {
    let between = free_port();
    let mut listeners = format!("BETWEEN://127.0.0.1:{between}");
    let mut advertised = listeners.clone();
    let mut protocols = "BETWEEN:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for (n, (port, proxy)) in ports.iter().zip(proxies).enumerate() {
        listeners += &format!(",CLIENT{n}://127.0.0.1:{port}");
        advertised += &format!(",CLIENT{n}://127.0.0.1:{}", proxy.port());
        protocols += &format!(",CLIENT{n}:PLAINTEXT");
    }
    let (replicas, least) = REPLICAS;
    format!(
        "process.roles=broker,controller\nnode.id={number}\ncontroller.quorum.voters={voters}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=BETWEEN\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={advertised}\n\
         listener.security.protocol.map={protocols}\nlog.dirs={}\n\
         default.replication.factor={replicas}\nmin.insync.replicas={least}\n\
         offsets.topic.replication.factor={replicas}\noffsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr={least}\n\
         transaction.state.log.num.partitions=2\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\nauto.create.topics.enable=false\nmessage.max.bytes=2000000\n\
         broker.session.timeout.ms=4000\nbroker.heartbeat.interval.ms=500\nreplica.lag.time.max.ms=5000\n\
         controller.quorum.election.timeout.ms=1000\ncontroller.quorum.fetch.timeout.ms=2000\n\
         initial.broker.registration.timeout.ms=600000\n\
         num.network.threads=2\nnum.io.threads=2\nbackground.threads=2\n\
         log.segment.bytes=67108864\nlog.cleaner.enable=false\ncontrolled.shutdown.max.retries=2\n",
        folder.join("log").display()
    )
}
