//! librdkafka's mock cluster behind a fixed port: a broker in this process that any Kafka client can talk to.
//!
//! It speaks produce, fetch, consumer groups, idempotence and compression, and keeps everything in memory. Its limits,
//! which users meet too:
//!
//! * **each partition keeps its newest 5 MiB or 100,000 batches**, and drops the rest without a word: make many
//!   partitions and do not let the producer run ahead of the consumer;
//! * no admin requests (topics come from [`EmbeddedBroker::create_topic`], or by a producer's asking for one), no
//!   offsets by time, no TLS, no SASL; aborted transactions are visible;
//! * a second member of a group is admitted only after nearly a session timeout.

use crate::error::IngestError;
use rdkafka_sys as sys;
use std::ffi::{CStr, CString, c_char};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ptr::NonNull;
use std::thread::JoinHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// How long the first member of a group waits for others, in ms. A real broker's default is 3 s.
const GROUP_DELAY_MS: i32 = 50;

/// The mock cluster and the client that carries it.
struct Cluster {
    client: NonNull<sys::rd_kafka_t>,
    cluster: NonNull<sys::rd_kafka_mock_cluster_t>,
}

// SAFETY: librdkafka's handles may be used from any thread; the mock cluster locks itself.
unsafe impl Send for Cluster {}
// SAFETY: as above; the only calls through a shared reference are thread-safe ones.
unsafe impl Sync for Cluster {}

impl Cluster {
    fn new() -> Result<Self, IngestError> {
        let mut text = [0u8; 512];
        // SAFETY: rd_kafka_new takes the configuration over if it succeeds, and we destroy it if it does not; the
        // buffer is as long as we say.
        unsafe {
            let config = sys::rd_kafka_conf_new();
            // Its log lines are those of a broker's client that nobody uses.
            sys::rd_kafka_conf_set_log_cb(config, None);
            let client = sys::rd_kafka_new(
                sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
                config,
                text.as_mut_ptr().cast::<c_char>(),
                text.len(),
            );
            let Some(client) = NonNull::new(client) else {
                sys::rd_kafka_conf_destroy(config);
                let text = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy();
                return Err(IngestError::Internal(format!("no embedded broker: {text}")));
            };
            let Some(cluster) = NonNull::new(sys::rd_kafka_mock_cluster_new(client.as_ptr(), 1)) else {
                sys::rd_kafka_destroy(client.as_ptr());
                return Err(IngestError::Internal("no embedded broker".into()));
            };
            sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster.as_ptr(), GROUP_DELAY_MS);
            Ok(Self { client, cluster })
        }
    }

    /// Where it really listens: always a port of its own choice.
    fn address(&self) -> Result<SocketAddr, IngestError> {
        // SAFETY: the cluster keeps the string as long as it lives.
        let text = unsafe { CStr::from_ptr(sys::rd_kafka_mock_cluster_bootstraps(self.cluster.as_ptr())) };
        text.to_str()
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| IngestError::Internal(format!("the embedded broker's address is {text:?}")))
    }

    fn advertise(&self, host: &CString, port: u16) {
        // SAFETY: the name is copied; broker 1 is the only one.
        unsafe {
            sys::rd_kafka_mock_broker_set_host_port(self.cluster.as_ptr(), 1, host.as_ptr(), i32::from(port));
        }
    }

    fn create_topic(&self, name: &CString, partitions: i32) -> sys::rd_kafka_resp_err_t {
        // SAFETY: the name is copied.
        unsafe { sys::rd_kafka_mock_topic_create(self.cluster.as_ptr(), name.as_ptr(), partitions, 1) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: both are ours; the cluster lives inside the client and goes first.
        unsafe {
            sys::rd_kafka_mock_cluster_destroy(self.cluster.as_ptr());
            sys::rd_kafka_destroy(self.client.as_ptr());
        }
    }
}

/// A broker in this process. It stops, and forgets everything, when it is dropped.
pub struct EmbeddedBroker {
    cluster: Cluster,
    address: SocketAddr,
    bootstrap: String,
    id: String,
    stop: Option<oneshot::Sender<()>>,
    forwarder: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedBroker")
            .field("address", &self.address)
            .field("cluster", &self.id)
            .finish_non_exhaustive()
    }
}

impl EmbeddedBroker {
    /// Starts a broker that listens here; port 0 takes a free one.
    ///
    /// # Errors
    /// [`IngestError::Listen`] if the address cannot be had.
    pub fn start(listen: SocketAddr) -> Result<Self, IngestError> {
        let cannot = |source| IngestError::Listen { address: listen, source };
        let listener = std::net::TcpListener::bind(listen).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let cluster = Cluster::new()?;
        let target = cluster.address()?;
        // Clients come back to the address that metadata gives them. "Any" is no address to come back to.
        let host = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
        let text = CString::new(host.to_string())
            .map_err(|_| IngestError::Internal("an address holds a zero byte".into()))?;
        cluster.advertise(&text, address.port());

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|e| IngestError::Internal(format!("no runtime for the embedded broker: {e}")))?;
        let (stop, stopped) = oneshot::channel();
        let forwarder = std::thread::Builder::new()
            .name("fleetscore-broker".into())
            .spawn(move || runtime.block_on(forward(listener, target, stopped)))
            .map_err(|e| IngestError::Internal(format!("no thread for the embedded broker: {e}")))?;
        Ok(Self {
            cluster,
            address,
            bootstrap: SocketAddr::new(host, address.port()).to_string(),
            id: uuid::Uuid::new_v4().to_string(),
            stop: Some(stop),
            forwarder: Some(forwarder),
        })
    }

    /// `host:port` for clients on this machine.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A fresh id: positions of another broker, embedded or not, mean nothing here. (What the mock itself tells is an
    /// address in memory, which may come again.)
    pub fn cluster_id(&self) -> &str {
        &self.id
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// [`IngestError::Topic`] if it exists, or cannot.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), IngestError> {
        let native = CString::new(name)
            .map_err(|_| IngestError::Topic(format!("`{}` holds a zero byte", name.escape_debug())))?;
        match self.cluster.create_topic(&native, partitions) {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            code => Err(IngestError::Topic(format!(
                "`{name}` with {partitions} partitions: {}",
                rdkafka::types::RDKafkaErrorCode::from(code)
            ))),
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // it may have ended by itself
        }
        if let Some(forwarder) = self.forwarder.take()
            && forwarder.join().is_err()
        {
            tracing::error!("the embedded broker's forwarder panicked");
        }
    }
}

/// Copies bytes between clients and the mock cluster until it is stopped. The runtime ends every connection then.
async fn forward(listener: std::net::TcpListener, target: SocketAddr, stopped: oneshot::Receiver<()>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => {
            tracing::error!("the embedded broker does not listen: {e}");
            return;
        }
    };
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    tokio::spawn(connect(client, target));
                }
                Err(e) => {
                    tracing::warn!("the embedded broker accepts no connection: {e}");
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stopped => {}
    }
}

async fn connect(mut client: TcpStream, target: SocketAddr) {
    let copied = async {
        let mut broker = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut broker, 1 << 16, 1 << 16).await
    };
    if let Err(e) = copied.await {
        tracing::debug!("a connection to the embedded broker ended: {e}");
    }
}
