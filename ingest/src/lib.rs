//! The Kafka and Event Hubs consumer, and everything else that speaks to a broker.
//!
//! | module | does |
//! | --- | --- |
//! | [`profile`] | one setting `kafka` (a broker list or an Event Hubs connection string) to a librdkafka configuration |
//! | [`consumer`] | [`consumer::KafkaSource`]: group membership, decoding, back-pressure; the aggregator owns the positions |
//! | [`producer`] | a producer that waits when its queue is full and counts what was delivered |
//! | [`admin`] | makes a topic |
//! | [`embedded`] | librdkafka's mock cluster behind a fixed port, for the demo and for tests |
//!
//! # How the consumer works
//!
//! Three threads. The *polling* thread owns the group membership and the fetching, and never waits for anything but
//! the broker. The *look-up* thread asks for metadata and offsets, which block. The *decoding* thread turns raw
//! messages into columns. Events reach the aggregator in the order in which the polling thread gave them.
//!
//! A granted assignment is answered to librdkafka at once with an **empty** `assign()`: heartbeats would go on while
//! that call is outstanding, but librdkafka ignores "rebalance in progress" until it comes
//! (`rd_kafka_cgrp_handle_Heartbeat`), so a slow store would hold up the whole group until `max.poll.interval.ms`.
//! Fetching begins with [`fleetscore_schemas::stream::Command::Start`], by a second `assign()` with explicit offsets.
//! A revoke is answered by `unassign()` when the aggregator has released the assignment, at the latest after a third of
//! the session timeout; polling goes on meanwhile.

mod assignment;
mod batch_queue;
mod budget;
mod context;
mod decoding;
mod lookup;
mod poll;
mod reading;
mod stats;

pub mod admin;
pub mod consumer;
pub mod embedded;
pub mod error;
pub mod producer;
pub mod profile;

pub use consumer::{KafkaOptions, KafkaSource, SourceHandle, StartAt};
pub use embedded::EmbeddedBroker;
pub use error::IngestError;
pub use producer::Producer;
pub use profile::{Role, client_config};
pub use stats::{PartitionSnapshot, SourceSnapshot};
