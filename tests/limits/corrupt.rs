//! A record that was damaged on the broker's disk: nothing behind it counts before it does.

use super::*;
use crate::scenario::topic;
use fleetscore_harness::free_port;
use std::os::unix::fs::FileExt;

/// Flips a bit of the one place in a partition's log that holds these bytes. The broker sends what the file holds.
fn flip(log: &std::path::Path, of: &[u8]) {
    let bytes = std::fs::read(log).expect("the broker's log");
    let at: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i..].starts_with(of)).collect();
    let [at] = at[..] else { panic!("{} places hold the record", at.len()) };
    let file = std::fs::File::options().write(true).open(log).expect("the broker's log");
    file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("written");
}

pub(super) fn on_disk(servers: &Servers, database: Database) -> Test {
    let topic = topic("corrupt");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    let (all, other) = (readings("a", 0, 90), readings("b", 0, 30));
    let sent = payloads(&all);
    // Three batches, of which the second one is damaged before anybody reads it.
    for batch in sent.chunks(30) {
        kafka.send_to(&topic, 0, batch);
    }
    kafka.send_to(&topic, 1, &payloads(&other));
    let log = kafka.log_of(&topic, 0);
    flip(&log, &sent[40]);

    let http_address = format!("127.0.0.1:{}", free_port());
    let service =
        Fleetscore::new(servers, &database, &topic).with("--http", &http_address).start(&["aggregate"]);
    wait_for_readings(&service, &database, 30 + 30);
    let stuck = format!("{topic}[0] cannot be read on from offset 30");
    wait_until("/readyz to name the partition and the offset", PATIENCE, || {
        service.assert_alive();
        match http(&http_address, "/readyz")? {
            (503, body) if body.contains(&stuck) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // It is asked for again every few seconds.
    std::thread::sleep(Duration::from_secs(12));
    let said = service.process.output().matches(&stuck).count();
    assert_eq!(said, 1, "said once:\n{}", service.process.output());
    assert_eq!(database.number("SELECT next_offset FROM progress WHERE kafka_partition = 0")?, 30);
    assert_eq!(database.number("SELECT sum(readings) FROM windows")?, 60);

    let damaged: Vec<u8> = [&[sent[40][0] ^ 1], &sent[40][1..]].concat();
    flip(&log, &damaged);
    wait_for_readings(&service, &database, 90 + 30);
    service.stop();
    assert_exact(&database, &[all, other].concat());
    assert_eq!(database.number("SELECT count(*) FROM loss_events")?, 0);
    assert_eq!(database.number("SELECT count(*) FROM dead_letters")?, 0);
    Ok(())
}
