//! The Kafka and Event Hubs consumer.
