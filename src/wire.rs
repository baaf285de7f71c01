//! From settings to the options of the parts.

use fleetscore_aggregator::{OnOffsetGap, Options};
use fleetscore_decode::{DecodeOptions, FieldNames, TsUnit};
use fleetscore_ingest::{KafkaOptions, StartAt};
use fleetscore_settings::{Config, Start};
use fleetscore_store::{PaneSettings, ReadinessSettings};
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// Messages of one batch at most.
const BATCH_MESSAGES: usize = 4096;

/// How long handing tasks back may take at the end.
const HAND_BACK: Duration = Duration::from_secs(5);
/// What is under way may always go on for so long after a signal.
const LEAST_FINISH: Duration = Duration::from_secs(1);

/// How messages are read.
pub(crate) fn decode_options(config: &Config) -> DecodeOptions {
    let [device, sensor, ts, value, values] = config.readings.fields.clone();
    DecodeOptions {
        fields: FieldNames { device, sensor, ts, value, values },
        ts_unit: match config.readings.ts_unit.as_str() {
            "s" => TsUnit::S,
            "us" => TsUnit::Us,
            "ns" => TsUnit::Ns,
            _ => TsUnit::Ms,
        },
        ts_from_broker: config.readings.ts_from_broker,
        max_series: config.max_series,
        max_message_bytes: config.max_message_bytes,
        ..DecodeOptions::default()
    }
}

/// How panes are made.
pub(crate) fn pane_settings(config: &Config) -> PaneSettings {
    PaneSettings {
        interval_us: config.interval_us,
        edges: config.edges,
        filter: config.readings.filter.clone(),
        value: config.readings.value.clone(),
        ts_unit: config.readings.ts_unit.clone(),
    }
}

/// What readiness is judged by.
pub(crate) fn readiness(config: &Config) -> ReadinessSettings {
    ReadinessSettings {
        max_disorder_us: config.max_disorder_us,
        owner_ttl_us: config.owner_ttl_us,
        max_wait_us: config.max_wait_us,
    }
}

/// How the aggregator works.
pub(crate) fn aggregator(config: &Config, owner: String) -> Options {
    Options {
        max_disorder_us: config.max_disorder_us,
        max_future_skew_us: config.max_future_skew_us,
        allowed_lateness_us: config.allowed_lateness_us,
        idle_timeout_us: config.idle_timeout_us,
        owner_ttl_us: config.owner_ttl_us,
        max_wait_us: config.max_wait_us,
        checkpoint_interval_us: config.checkpoint_interval_us,
        checkpoint_bytes: config.checkpoint_bytes,
        max_series: config.max_series,
        on_offset_gap: if config.continue_on_gap { OnOffsetGap::Continue } else { OnOffsetGap::Stop },
        retention_us: config.retention_us,
        dead_letters_per_minute: config.dead_letters_per_minute,
        dead_letter_bytes_per_minute: config.dead_letter_bytes_per_minute,
        dead_letter_retention_us: config.dead_letter_retention_us,
        shutdown_timeout_us: i64::try_from(config.shutdown_timeout.as_micros()).unwrap_or(i64::MAX),
        ..Options::new(owner, pane_settings(config))
    }
}

/// How Kafka is read.
pub(crate) fn kafka(config: &Config, brokers: &str, store_id: Uuid) -> KafkaOptions {
    KafkaOptions {
        brokers: brokers.to_owned(),
        topics: config.topic.clone(),
        group: config.group.clone().unwrap_or_else(|| format!("fleetscore-{store_id}")),
        start: match config.start {
            Start::Earliest => StartAt::Earliest,
            Start::Latest => StartAt::Latest,
            Start::At(t) => StartAt::Time(t),
        },
        properties: config.kafka_properties.clone(),
        cluster: config.cluster.clone(),
        decode: decode_options(config),
        max_in_flight_bytes: config.in_flight_bytes,
        batch_messages: BATCH_MESSAGES,
    }
}

/// Name of this machine.
pub(crate) fn host() -> String {
    let name = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"));
    match name.as_deref().map(str::trim) {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

/// Name of this process among owners and workers: where it runs, and not any process before it.
pub(crate) fn process_name() -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{}-{}-{}", host(), std::process::id(), &random[..8])
}

/// What of `shutdown_timeout` tasks may go on for: the rest is for handing them back.
fn finish_us(shutdown_timeout: Duration) -> i64 {
    let finish = shutdown_timeout.saturating_sub(HAND_BACK).max(LEAST_FINISH);
    i64::try_from(finish.as_micros()).unwrap_or(i64::MAX)
}

/// How the scorer works.
pub(crate) fn scorer(
    config: &Config,
    worker: String,
    committed: Option<watch::Receiver<u64>>,
) -> fleetscore_scorer::service::Options {
    fleetscore_scorer::service::Options {
        committed,
        lease_us: config.lease_us,
        finish_us: finish_us(config.shutdown_timeout),
        parallel_tasks: config.parallel_tasks,
        lateness_us: config.allowed_lateness_us,
        run_retention_us: config.run_retention_us,
        fleet_silence_us: config.fleet_silence_us,
        ..fleetscore_scorer::service::Options::new(config.schedules.clone(), readiness(config), worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_has_most_of_the_time_after_a_signal() {
        // shutdown_timeout, and what a task has of it, in seconds
        for (timeout, task) in [(60, 55), (30, 25), (10, 5), (6, 1), (5, 1), (0, 1)] {
            assert_eq!(finish_us(Duration::from_secs(timeout)), task * 1_000_000, "{timeout} s");
        }
        assert_eq!(finish_us(Duration::MAX), i64::MAX);
    }
}
