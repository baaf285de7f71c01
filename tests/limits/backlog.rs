//! A backlog read at full speed, of which every reading makes a pane of its own: the most that a checkpoint can take.

use super::*;
use crate::scenario::topic;

const MIB: usize = 1 << 20;
const CHECKPOINT: usize = 32 * MIB;
const IN_FLIGHT: usize = 4 * MIB;

pub(super) fn of_single_readings(servers: &Servers, database: Database) -> Test {
    backlog(servers, database, 500, 3_000)
}

/// Of which a checkpoint holds tens of thousands of panes.
pub(super) fn of_many_panes(servers: &Servers, database: Database) -> Test {
    backlog(servers, database, 5, 100_000)
}

fn backlog(servers: &Servers, database: Database, sensors: usize, panes: i64) -> Test {
    let topic = topic("backlog");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    let fleetscore = Fleetscore::new(servers, &database, &topic)
        .with("--interval", "1s")
        .with("--checkpoint-interval", "20s")
        .with("--idle-timeout", "10m")
        .with("--max-disorder", "48h") // closes no pane, so that bytes alone make a checkpoint due
        .with("--checkpoint-bytes", &CHECKPOINT.to_string())
        .with("--in-flight-bytes", &IN_FLIGHT.to_string());
    let service = fleetscore.start(&["aggregate"]);
    service.process.wait_for_output("partitions granted", PATIENCE);
    let base = memory(&service, "VmHWM") as usize;
    let values: Vec<String> = (0..sensors).map(|s| format!("\"s{s}\":1.5")).collect();
    let values = values.join(",");
    let messages = |panes: std::ops::Range<i64>| -> Vec<Vec<u8>> {
        let ts = |pane: i64| START / 1000 + pane * 1000;
        panes
            .map(|p| format!(r#"{{"device":"d","ts":{},"values":{{{values}}}}}"#, ts(p)).into_bytes())
            .collect()
    };
    kafka.send_to(&topic, 0, &messages(0..panes / 2));
    kafka.send_to(&topic, 1, &messages(panes / 2..panes));
    wait_until("all readings", PATIENCE, || {
        service.assert_alive();
        match database.number("SELECT count(*) FROM windows")? {
            n if n == sensors as i64 * panes => Ok(()),
            n => Err(n.to_string()),
        }
    });
    let most = memory(&service, "VmHWM") as usize;
    eprintln!("limits::backlog: {} MiB before, {} MiB at most", base / MIB, most / MIB);
    service.stop();
    // docs/limits.md: the settings, librdkafka's queue, and the worst factor of a checkpoint.
    let bound = base + 32 * MIB + 16 * MIB + IN_FLIGHT + 5 * CHECKPOINT;
    assert!(most <= bound, "{} MiB, above the bound of {} MiB", most / MIB, bound / MIB);
    Ok(())
}
