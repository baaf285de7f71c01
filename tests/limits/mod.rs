//! Bounds, and what lies beyond them: messages larger than any buffer, topics that go and grow, records that the broker
//! has deleted or that its disk has damaged, a store from a backup, a full disk, and a flood of bad records.

mod backlog;
mod backup;
mod corrupt;
mod disk;
mod flood;
mod gaps;
mod large;
mod topics;

use crate::scenario::{PATIENCE, assert_windows, reading_json};
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::{Fleetscore, Service};
use fleetscore_harness::process::Status;
use fleetscore_harness::{Servers, Test, http, wait_until};
use fleetscore_oracle::{self as oracle, Edges, Reading};
use libtest_mimic::Trial;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: i64 = 60_000_000;
/// 2026-01-01T00:00:00Z
const START: i64 = 1_767_225_600_000_000;

/// All trials of this folder.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    type On = fn(&Servers, Database) -> Test;
    let mut trials = Vec::new();
    for (name, test) in [
        ("topic_deleted_and_stop", topics::deleted_and_stop as On),
        ("topic_deleted_and_go_on", topics::deleted_and_go_on),
        ("topic_grows", topics::grows),
        ("gap_at_start", gaps::at_start),
        ("gap_while_running", gaps::while_running),
        ("backup", backup::restored),
        ("corrupt_record", corrupt::on_disk),
        ("full_disk", disk::full),
        ("large_messages", large::messages),
        ("wide_message", large::wide_message),
        ("flood", flood::every_message_bad),
        ("backlog", backlog::of_single_readings),
        ("backlog_of_panes", backlog::of_many_panes),
    ] {
        for sqlite in [false, true] {
            let servers = servers.clone();
            let store = if sqlite { "sqlite" } else { "postgres" };
            trials.push(Trial::test(format!("limits::{name}_{store}"), move || {
                let database = if sqlite { Database::sqlite(&servers) } else { Database::postgres(&servers) };
                test(&servers, database)
            }));
        }
    }
    trials
}

/// `n` readings of one device, six a minute from this minute on, with exact sums.
fn readings(device: &str, minute: i64, n: usize) -> Vec<Reading> {
    (0..n as i64)
        .map(|i| Reading {
            ts_us: START + minute * MINUTE + i * 10_000_000,
            device: device.to_owned(),
            sensor: "temp".to_owned(),
            value: (i % 97) as f64 / 8.0,
        })
        .collect()
}

/// One message each.
fn payloads(readings: &[Reading]) -> Vec<Vec<u8>> {
    readings.iter().map(|r| reading_json(r).into_bytes()).collect()
}

/// Waits until this many readings are in windows.
fn wait_for_readings(service: &Service, database: &Database, n: usize) {
    wait_until("all readings in windows", PATIENCE, || {
        service.assert_alive();
        match database.number("SELECT coalesce(sum(readings), 0) FROM windows")? {
            found if found == n as i64 => Ok(()),
            found => Err(format!("{found} of {n} readings")),
        }
    });
}

/// Fails unless the windows are exactly those of these readings.
fn assert_exact(database: &Database, readings: &[Reading]) {
    assert_windows(database, "windows", &oracle::windows(readings, MINUTE, MINUTE, Edges::Start));
}

/// A Kafka property of the process.
fn property(fleetscore: Fleetscore, name: &str, value: &str) -> Fleetscore {
    fleetscore.env(&format!("FLEETSCORE_KAFKA_PROPERTIES__{name}"), value)
}

/// Memory of a process in bytes: now (`VmRSS`), or the most there was (`VmHWM`).
fn memory(service: &Service, line: &str) -> u64 {
    Status::of(service.process.id()).expect("it runs").bytes(line).expect("the kernel says")
}
