//! Making a topic. The consumer and the producer never need this right.

use crate::context;
use crate::error::IngestError;
use crate::producer::Producer;
use crate::profile::{Role, client_config};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the brokers have to make a topic known.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What [`create_topic`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The topic was made.
    Created,
    /// It was there already, with this many partitions.
    Existed {
        /// Its partitions.
        partitions: usize,
    },
}

/// An admin client's errors never surface (the wrapper does not serve its queue): a producer asks first.
struct AdminEvents;

impl ClientContext for AdminEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }
}

/// Makes a topic with the brokers' default replication, and waits until their metadata shows all its partitions.
///
/// # Errors
/// [`IngestError::Refused`] without the right to do so (Event Hubs: make it in the portal);
/// [`IngestError::Unreachable`] where no broker answers within half a minute; [`IngestError::Topic`] for a name or a
/// number that the brokers do not take.
pub async fn create_topic(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topic: &str,
    partitions: i32,
) -> Result<Created, IngestError> {
    let config = client_config(brokers, properties, Role::Admin)?;
    let producer = Producer::open(brokers, properties, topic)?;
    blocking(move || producer.connected(TIMEOUT)).await?;
    let client: AdminClient<AdminEvents> =
        config.create_with_context(AdminEvents).map_err(IngestError::from_creation)?;
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
    // Replication −1 is the brokers' default.
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    let results = client
        .create_topics([&new], &options)
        .await
        .map_err(|e| IngestError::from_client(&format!("creating topic `{topic}`"), &e))?;
    let existed = match results.into_iter().next() {
        Some(Ok(_)) => false,
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => true,
        Some(Err((_, code))) => {
            return Err(match code {
                RDKafkaErrorCode::InvalidTopic
                | RDKafkaErrorCode::InvalidPartitions
                | RDKafkaErrorCode::PolicyViolation
                | RDKafkaErrorCode::InvalidReplicationFactor => {
                    IngestError::Topic(format!("`{topic}` with {partitions} partitions: {code}"))
                }
                code if crate::error::is_refusal(code) => {
                    IngestError::Refused(format!("creating topic `{topic}`: {}", crate::error::explain(code)))
                }
                code => IngestError::Unreachable(format!("creating topic `{topic}`: {code}")),
            });
        }
        None => return Err(IngestError::Internal("no answer about a new topic".into())),
    };
    let wanted = if existed { 1 } else { usize::try_from(partitions).unwrap_or(1) };
    let topic = topic.to_string();
    let shown = blocking(move || wait_for(&client, &topic, wanted)).await?;
    Ok(if existed { Created::Existed { partitions: shown } } else { Created::Created })
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, IngestError> + Send + 'static,
) -> Result<T, IngestError> {
    tokio::task::spawn_blocking(f).await.map_err(|e| IngestError::Internal(e.to_string()))?
}

fn wait_for(client: &AdminClient<AdminEvents>, topic: &str, wanted: usize) -> Result<usize, IngestError> {
    let until = Instant::now() + TIMEOUT;
    loop {
        if let Ok(metadata) = client.inner().fetch_metadata(Some(topic), Duration::from_secs(5))
            && let Some(found) = metadata.topics().first()
            && found.error().is_none()
        {
            let led = found.partitions().iter().filter(|p| p.error().is_none() && p.leader() >= 0).count();
            if led >= wanted {
                return Ok(led);
            }
        }
        if Instant::now() >= until {
            return Err(IngestError::Unreachable(format!("topic `{topic}` was made, but is not shown yet")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
