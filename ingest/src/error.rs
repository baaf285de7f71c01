//! What can go wrong with a broker, and whose fault it is.

use fleetscore_schemas::codes::{Classify, Domain};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaConfRes;
use std::net::SocketAddr;

/// An error of this crate. Its text never holds a password, a key or a connection string.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The setting `kafka` cannot be read.
    #[error("kafka: {0}")]
    Brokers(String),
    /// A librdkafka property is unknown, has an unusable value, or would break what is promised.
    #[error("kafka_properties.{name}: {reason}")]
    Property {
        /// The property's name.
        name: String,
        /// Why it is refused.
        reason: String,
    },
    /// The setting `topic` cannot be used.
    #[error("topic: {0}")]
    Topic(String),
    /// The setting `group` cannot be used.
    #[error("group: {0}")]
    Group(String),
    /// The broker refuses this client for good: credentials, certificates, rights.
    #[error("kafka: {0}")]
    Refused(String),
    /// The broker does not answer, or not yet.
    #[error("kafka: {0}")]
    Unreachable(String),
    /// The embedded broker cannot listen on this address.
    #[error("the embedded broker cannot listen on {address}: {source}; choose another --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// librdkafka or this crate failed in a way that it should not.
    #[error("kafka client: {0}")]
    Internal(String),
}

impl Classify for IngestError {
    fn domain(&self) -> Domain {
        match self {
            Self::Unreachable(_) => Domain::External,
            Self::Internal(_) => Domain::Internal,
            _ => Domain::User,
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

impl IngestError {
    /// An error while a client is made: always a setting. Values are not repeated, they may be secrets.
    pub(crate) fn from_creation(error: KafkaError) -> Self {
        match error {
            KafkaError::ClientConfig(kind, _, name, _) => Self::Property {
                name,
                reason: match kind {
                    RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => "librdkafka knows no such property".into(),
                    _ => "librdkafka refuses this value".into(),
                },
            },
            KafkaError::ClientCreation(text) => {
                Self::Property { name: "*".into(), reason: format!("no client can be made: {text}") }
            }
            other => Self::Internal(other.to_string()),
        }
    }

    /// An error of a running client.
    pub(crate) fn from_client(what: &str, error: &KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(code) if is_refusal(code) => Self::Refused(format!("{what}: {}", explain(code))),
            Some(code) => Self::Unreachable(format!("{what}: {code}")),
            None => Self::Internal(format!("{what}: {error}")),
        }
    }
}

/// Whether a code says that the broker will not have this client, however often it asks.
pub(crate) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        C::Authentication
            | C::SaslAuthenticationFailed
            | C::UnsupportedSASLMechanism
            | C::IllegalSASLState
            | C::SSL
            | C::TopicAuthorizationFailed
            | C::GroupAuthorizationFailed
            | C::ClusterAuthorizationFailed
            | C::InvalidTopic
            | C::InvalidGroupId
            | C::InvalidSessionTimeout
    )
}

/// A refusal in words that name what to change.
pub(crate) fn explain(code: RDKafkaErrorCode) -> String {
    use RDKafkaErrorCode as C;
    match code {
        C::Authentication
        | C::SaslAuthenticationFailed
        | C::UnsupportedSASLMechanism
        | C::IllegalSASLState => {
            "the broker refuses the credentials; check the connection string or kafka_properties.sasl.*"
                .into()
        }
        C::SSL => {
            "the TLS handshake failed; check kafka_properties.ssl.ca.location and security.protocol".into()
        }
        C::TopicAuthorizationFailed => {
            "no right to read the topic (an Event Hubs namespace of the Basic tier has no Kafka at all)"
                .into()
        }
        C::GroupAuthorizationFailed => {
            "no right to use the consumer group; change `group` or grant it".into()
        }
        C::ClusterAuthorizationFailed => "no right on the cluster; grant it to this user".into(),
        C::InvalidSessionTimeout => {
            "the broker does not allow this session timeout; change kafka_properties.session.timeout.ms"
                .into()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_value_is_not_repeated() {
        let mut config = rdkafka::ClientConfig::new();
        config.set("ssl.key.password", "hush").set("socket.timeout.ms", "hush");
        let error = config.create_native_config().map(|_| ()).map_err(IngestError::from_creation);
        let text = error.expect_err("a word is no number").to_string();
        assert!(text.starts_with("kafka_properties.socket.timeout.ms: "), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }

    #[test]
    fn a_connection_that_is_down_is_waited_for_and_a_refusal_is_not() {
        use RDKafkaErrorCode as C;
        for (code, refused) in [
            (C::AllBrokersDown, false),
            (C::BrokerTransportFailure, false),
            (C::OperationTimedOut, false),
            (C::Resolve, false),
            (C::UnknownTopicOrPartition, false),
            (C::Authentication, true),
            (C::SSL, true),
            (C::GroupAuthorizationFailed, true),
        ] {
            assert_eq!(is_refusal(code), refused, "{code:?}");
        }
    }
}
