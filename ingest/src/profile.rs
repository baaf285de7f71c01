//! From the setting `kafka` to a librdkafka configuration: plain Kafka and Azure Event Hubs.
//!
//! One profile serves both, because what Event Hubs needs hurts no Kafka: Azure drops idle TCP connections after 240 s
//! without a word, so idle connections are closed by us before that, kept alive, and metadata is asked for again in
//! time. librdkafka has such a default of its own, but only where `bootstrap.servers` contains "azure", which Event
//! Hubs' host names do not.

use crate::error::IngestError;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use std::collections::BTreeMap;

/// What a client is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A member of a consumer group whose positions are kept in SQL.
    Consumer,
    /// A producer.
    Producer,
    /// Makes topics.
    Admin,
}

/// Where the brokers are and how one gets in.
#[derive(Clone, PartialEq, Eq)]
pub struct Brokers {
    /// `host:port`, comma separated.
    pub bootstrap: String,
    /// The event hub named by a connection string: serves as the topic where none is set.
    pub entity_path: Option<String>,
    /// Whether this is an Event Hubs connection string (the emulator's included).
    pub event_hubs: bool,
    /// The whole connection string where the namespace wants it as a password.
    password: Option<String>,
    /// Whether the connection is encrypted.
    tls: bool,
}

impl std::fmt::Debug for Brokers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Brokers")
            .field("bootstrap", &self.bootstrap)
            .field("entity_path", &self.entity_path)
            .field("event_hubs", &self.event_hubs)
            .finish_non_exhaustive()
    }
}

impl Brokers {
    /// Reads the setting `kafka`: `host:port[,host:port…]` or
    /// `Endpoint=sb://namespace.servicebus.windows.net/;SharedAccessKeyName=…;SharedAccessKey=…[;EntityPath=hub]`,
    /// where `UseDevelopmentEmulator=true` means the emulator without TLS.
    ///
    /// # Errors
    /// [`IngestError::Brokers`], which never repeats the setting.
    pub fn parse(setting: &str) -> Result<Self, IngestError> {
        let setting = setting.trim();
        if setting.to_ascii_lowercase().starts_with("endpoint=") {
            return Self::parse_connection_string(setting);
        }
        if setting.is_empty() {
            return Err(IngestError::Brokers("is empty; name at least one broker as host:port".into()));
        }
        if setting.contains(['=', ';', '@']) || setting.contains("://") {
            return Err(IngestError::Brokers(
                "is neither a list of host:port nor a connection string that starts with Endpoint=sb://"
                    .into(),
            ));
        }
        let mut hosts = Vec::new();
        for host in setting.split(',').map(str::trim).filter(|h| !h.is_empty()) {
            let port = host.rsplit_once(':').map(|(name, port)| (name, port.parse::<u16>()));
            match port {
                Some((name, Ok(port)))
                    if !name.is_empty() && !name.contains(char::is_whitespace) && port > 0 =>
                {
                    hosts.push(host)
                }
                _ => return Err(IngestError::Brokers(format!("`{host}` is no host:port"))),
            }
        }
        if hosts.is_empty() {
            return Err(IngestError::Brokers("is empty; name at least one broker as host:port".into()));
        }
        Ok(Self {
            bootstrap: hosts.join(","),
            entity_path: None,
            event_hubs: false,
            password: None,
            tls: false,
        })
    }

    fn parse_connection_string(setting: &str) -> Result<Self, IngestError> {
        let wrong = |what: &str| IngestError::Brokers(format!("the Event Hubs connection string {what}"));
        let mut fields = BTreeMap::new();
        for part in setting.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            // Keys are base64 and may end in `=`: only the first one separates.
            let (name, value) = part.split_once('=').ok_or_else(|| wrong("holds a part without `=`"))?;
            fields.insert(name.trim().to_ascii_lowercase(), value.trim());
        }
        let endpoint = fields.get("endpoint").copied().unwrap_or_default();
        let host = endpoint
            .strip_prefix("sb://")
            .ok_or_else(|| wrong("must begin with Endpoint=sb://"))?
            .trim_end_matches('/');
        if host.is_empty() || host.contains('/') {
            return Err(wrong("has no host in Endpoint=sb://host/"));
        }
        for (name, label) in
            [("sharedaccesskeyname", "SharedAccessKeyName"), ("sharedaccesskey", "SharedAccessKey")]
        {
            if fields.get(name).is_none_or(|v| v.is_empty()) {
                let hint = if fields.contains_key("sharedaccesssignature") {
                    " (Kafka clients cannot use a SharedAccessSignature)"
                } else {
                    ""
                };
                return Err(wrong(&format!("has no {label}{hint}")));
            }
        }
        let emulator = fields.get("usedevelopmentemulator").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) => {
                (host, Some(port.parse::<u16>().map_err(|_| wrong("has no number for a port"))?))
            }
            None => (host, None),
        };
        // The emulator's endpoint names its AMQP port; Kafka always listens on 9092.
        let port = if emulator { 9092 } else { port.unwrap_or(9093) };
        Ok(Self {
            bootstrap: format!("{host}:{port}"),
            entity_path: fields.get("entitypath").filter(|v| !v.is_empty()).map(|v| v.to_string()),
            event_hubs: true,
            password: Some(setting.to_string()),
            tls: !emulator,
        })
    }
}

/// What nobody may set, and why.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "is the setting `kafka`"),
    ("metadata.broker.list", "is the setting `kafka`"),
    ("test.mock.num.brokers", "would replace the brokers of `kafka`; use the demo for an embedded one"),
];

/// What a consumer's user may not set, and why.
const REFUSED_CONSUMER: &[(&str, &str)] = &[
    ("group.id", "is the setting `group`"),
    ("enable.auto.commit", "positions are kept in SQL; the group's offsets follow them"),
    ("enable.auto.offset.store", "positions are kept in SQL; the group's offsets follow them"),
    ("auto.offset.reset", "an offset out of range follows `on_offset_gap`; where to begin is `start`"),
    ("enable.partition.eof", "end-of-partition events are needed to move positions past transaction markers"),
    ("group.protocol", "the positions of an assignment are claimed as a whole: only `classic` is supported"),
    ("group.protocol.type", "only consumers may be members of the group"),
];

/// The configuration of a client: profile, then the user's `properties`, then what must hold.
///
/// # Errors
/// [`IngestError::Brokers`] for an unreadable `brokers`; [`IngestError::Property`] for a property that would break a
/// guarantee. Unknown names and bad values are found when the client is made.
pub fn client_config(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    role: Role,
) -> Result<ClientConfig, IngestError> {
    config_for(&Brokers::parse(brokers)?, properties, role)
}

pub(crate) fn config_for(
    brokers: &Brokers,
    properties: &BTreeMap<String, String>,
    role: Role,
) -> Result<ClientConfig, IngestError> {
    check_properties(properties, role)?;
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    config.set("bootstrap.servers", &brokers.bootstrap).set("client.id", "fleetscore");
    if let Some(password) = &brokers.password {
        config
            .set("security.protocol", if brokers.tls { "SASL_SSL" } else { "SASL_PLAINTEXT" })
            .set("sasl.mechanisms", "PLAIN")
            .set("sasl.username", "$ConnectionString")
            .set("sasl.password", password);
    }
    for (name, value) in COMMON {
        config.set(*name, *value);
    }
    match role {
        Role::Consumer => {
            for (name, value) in CONSUMER {
                config.set(*name, *value);
            }
            if brokers.event_hubs {
                config.set("session.timeout.ms", "30000");
            }
        }
        Role::Producer => {
            for (name, value) in PRODUCER {
                config.set(*name, *value);
            }
        }
        Role::Admin => {}
    }
    for (name, value) in properties {
        if applies(name, role) {
            config.set(name, value);
        }
    }
    if role == Role::Consumer {
        for (name, value) in CONSUMER_FIXED {
            config.set(*name, *value);
        }
    }
    Ok(config)
}

/// For every client.
const COMMON: &[(&str, &str)] = &[
    ("socket.keepalive.enable", "true"),
    ("connections.max.idle.ms", "180000"),
    ("metadata.max.age.ms", "180000"),
    ("socket.timeout.ms", "60000"),
    // librdkafka otherwise tries up to 20 times a second and logs each.
    ("reconnect.backoff.ms", "250"),
    ("reconnect.backoff.max.ms", "5000"),
];

const CONSUMER: &[(&str, &str)] = &[
    // How long a killed member's partitions stay orphaned.
    ("session.timeout.ms", "15000"),
    ("heartbeat.interval.ms", "3000"),
    ("max.poll.interval.ms", "300000"),
    // Only "range" and "roundrobin" are eager; see REFUSED_STRATEGY.
    ("partition.assignment.strategy", "range"),
    // New partitions, and topics that are made again, are noticed within this time.
    ("topic.metadata.refresh.interval.ms", "30000"),
    // What librdkafka may hold besides our own budget. One limit for all partitions, as they share a queue.
    ("queued.max.messages.kbytes", "32768"),
    ("queued.min.messages", "100000"),
    ("fetch.max.bytes", "16777216"),
    ("fetch.message.max.bytes", "1048576"),
    // The limits above are soft: a broker answers with at least one batch, however large (KIP-74). What it holds must be
    // receivable, for librdkafka would refuse a larger answer and ask for the same again for ever; its default is 100 MB.
    // The protocol's own bound on an answer, and so nothing that a broker can hold, is refused.
    ("receive.message.max.bytes", "2147483647"),
    // What a disk or a link has changed must not count; off by default in librdkafka, on in Java's client.
    ("check.crcs", "true"),
    ("fetch.wait.max.ms", "250"),
    // How long a partition rests after the queue was full: the default of 1 s makes a fast reader starve.
    ("fetch.queue.backoff.ms", "20"),
    ("fetch.error.backoff.ms", "500"),
    ("statistics.interval.ms", "5000"),
];

const CONSUMER_FIXED: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    ("group.protocol", "classic"),
];

const PRODUCER: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    // Event Hubs below Premium refuses compressed batches.
    ("compression.codec", "none"),
    ("linger.ms", "20"),
    // A broker that is away is waited for; a topic that does not exist is reported after 30 s all the same.
    ("message.timeout.ms", "0"),
    ("request.timeout.ms", "60000"),
    // Java's partitioner, so that a key lands where every other client puts it.
    ("partitioner", "murmur2_random"),
    ("queue.buffering.max.kbytes", "65536"),
];

/// Properties of librdkafka that only consumers, or only producers, understand: the same `kafka_properties` serve all
/// clients of a process, and librdkafka warns about each that does not fit. A name that ends in `*` is a prefix.
fn applies(name: &str, role: Role) -> bool {
    const CONSUMER_ONLY: &[&str] = &[
        "group.*",
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
        "queued.*",
        "fetch.*",
        "max.partition.fetch.bytes",
        "isolation.level",
        "check.crcs",
        "coordinator.query.interval.ms",
    ];
    const PRODUCER_ONLY: &[&str] = &[
        "enable.idempotence",
        "enable.gapless.guarantee",
        "transaction*",
        "queue.buffering.*",
        "linger.ms",
        "batch.*",
        "compression.*",
        "acks",
        "request.required.acks",
        "request.timeout.ms",
        "message.timeout.ms",
        "delivery.*",
        "partitioner",
        "sticky.partitioning.linger.ms",
        "message.send.max.retries",
        "retries",
    ];
    let listed = |names: &[&str]| {
        names.iter().any(|n| n.strip_suffix('*').map_or(name == *n, |prefix| name.starts_with(prefix)))
    };
    match role {
        Role::Consumer => !listed(PRODUCER_ONLY),
        Role::Producer => !listed(CONSUMER_ONLY),
        Role::Admin => !listed(CONSUMER_ONLY) && !listed(PRODUCER_ONLY),
    }
}

fn check_properties(properties: &BTreeMap<String, String>, role: Role) -> Result<(), IngestError> {
    let refuse =
        |name: &str, reason: &str| IngestError::Property { name: name.into(), reason: reason.into() };
    for (name, reason) in REFUSED {
        if properties.contains_key(*name) {
            return Err(refuse(name, reason));
        }
    }
    if role != Role::Consumer {
        return Ok(());
    }
    for (name, reason) in REFUSED_CONSUMER {
        if let Some(value) = properties.get(*name) {
            if *name == "group.protocol" && value.eq_ignore_ascii_case("classic") {
                continue;
            }
            return Err(refuse(name, reason));
        }
    }
    if let Some(value) = properties.get("partition.assignment.strategy")
        && !value.split(',').all(|s| matches!(s.trim(), "range" | "roundrobin"))
    {
        return Err(refuse(
            "partition.assignment.strategy",
            "an assignment is claimed and given up as a whole: only range and roundrobin are supported",
        ));
    }
    Ok(())
}

/// Whether a property's value must not be shown.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", ".pem", "sasl.oauthbearer.config", "sasl.jaas"]
        .iter()
        .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = "Endpoint=sb://plant.servicebus.windows.net/;SharedAccessKeyName=Root;\
                       SharedAccessKey=c2VjcmV0a2V5PT0=;EntityPath=readings";

    fn properties(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn broker_lists_and_connection_strings_are_read() {
        for (setting, bootstrap, path, hubs) in [
            ("localhost:9092", "localhost:9092", None, false),
            (" a:1 , b:2,", "a:1,b:2", None, false),
            ("[::1]:9092", "[::1]:9092", None, false),
            (HUB, "plant.servicebus.windows.net:9093", Some("readings"), true),
            (
                "endpoint=sb://x.servicebus.windows.net;sharedaccesskeyname=a;sharedaccesskey=b",
                "x.servicebus.windows.net:9093",
                None,
                true,
            ),
            (
                "Endpoint=sb://localhost:5672;SharedAccessKeyName=a;SharedAccessKey=b;UseDevelopmentEmulator=true;",
                "localhost:9092",
                None,
                true,
            ),
        ] {
            let brokers = Brokers::parse(setting).expect(setting);
            assert_eq!(brokers.bootstrap, bootstrap, "{setting}");
            assert_eq!(brokers.entity_path.as_deref(), path, "{setting}");
            assert_eq!(brokers.event_hubs, hubs, "{setting}");
        }
    }

    #[test]
    fn nonsense_is_refused_without_repeating_a_secret() {
        for setting in [
            "",
            ",",
            "localhost",
            "localhost:x",
            "localhost:0",
            ":9092",
            "http://localhost:9092",
            "a b:9092",
            "user:hush@localhost:9092",
            "Endpoint=https://x/;SharedAccessKeyName=a;SharedAccessKey=hush",
            "Endpoint=sb://;SharedAccessKeyName=a;SharedAccessKey=hush",
            "Endpoint=sb://x/;SharedAccessKey=hush",
            "Endpoint=sb://x/;SharedAccessKeyName=a",
            "Endpoint=sb://x/;SharedAccessSignature=hush",
            "Endpoint=sb://x/;SharedAccessKeyName=a;SharedAccessKey=hush;hush",
        ] {
            let error = Brokers::parse(setting).expect_err(setting);
            assert!(matches!(error, IngestError::Brokers(_)), "{setting}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn an_event_hub_gets_its_profile() {
        let config = client_config(HUB, &BTreeMap::new(), Role::Consumer).expect("a good string");
        for (name, value) in [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanisms", "PLAIN"),
            ("sasl.username", "$ConnectionString"),
            ("sasl.password", HUB),
            ("socket.keepalive.enable", "true"),
            ("metadata.max.age.ms", "180000"),
            ("connections.max.idle.ms", "180000"),
            ("session.timeout.ms", "30000"),
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
        ] {
            assert_eq!(config.get(name), Some(value), "{name}");
        }
        let shown = format!("{config:?} {:?}", Brokers::parse(HUB));
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
        config.create_native_config().expect("librdkafka knows every name and value");
    }

    #[test]
    fn every_profile_is_understood_by_librdkafka() {
        for role in [Role::Consumer, Role::Producer, Role::Admin] {
            let config = client_config("localhost:9092", &BTreeMap::new(), role).expect("a good list");
            config.create_native_config().unwrap_or_else(|e| panic!("{role:?}: {e}"));
        }
    }

    #[test]
    fn the_users_properties_win_except_where_they_would_break_a_guarantee() {
        let good = properties(&[
            ("session.timeout.ms", "6000"),
            ("partition.assignment.strategy", "roundrobin"),
            ("isolation.level", "read_uncommitted"),
            ("group.protocol", "classic"),
            ("linger.ms", "5"),
        ]);
        let config = client_config("a:1", &good, Role::Consumer).expect("allowed");
        assert_eq!(config.get("session.timeout.ms"), Some("6000"));
        assert_eq!(config.get("partition.assignment.strategy"), Some("roundrobin"));
        assert_eq!(config.get("linger.ms"), None, "a producer's property is left to the producer");
        let config = client_config("a:1", &good, Role::Producer).expect("allowed");
        assert_eq!(config.get("linger.ms"), Some("5"));
        assert_eq!(config.get("session.timeout.ms"), None);

        for (name, value) in [
            ("bootstrap.servers", "b:1"),
            ("group.id", "g"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "true"),
            ("auto.offset.reset", "earliest"),
            ("enable.partition.eof", "true"),
            ("group.protocol", "consumer"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("partition.assignment.strategy", "range,cooperative-sticky"),
        ] {
            let error = client_config("a:1", &properties(&[(name, value)]), Role::Consumer).expect_err(name);
            assert!(error.to_string().starts_with(&format!("kafka_properties.{name}: ")), "{error}");
        }
    }

    #[test]
    fn secrets_are_known_by_name() {
        for (name, secret) in [
            ("sasl.password", true),
            ("ssl.key.password", true),
            ("ssl.key.pem", true),
            ("sasl.oauthbearer.client.secret", true),
            ("sasl.username", false),
            ("session.timeout.ms", false),
        ] {
            assert_eq!(is_secret(name), secret, "{name}");
        }
    }
}
