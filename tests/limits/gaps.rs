//! Records that the broker deleted before they were read.

use super::*;
use crate::scenario::topic;

fn losses(database: &Database) -> Result<Vec<Vec<String>>, String> {
    database.rows("SELECT topic, kafka_partition, from_offset, to_offset FROM loss_events ORDER BY id")
}

pub(super) fn at_start(servers: &Servers, database: Database) -> Test {
    let topic = topic("gap");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    let fleetscore = Fleetscore::new(servers, &database, &topic);
    let service = fleetscore.start(&["aggregate"]);
    let (all, other) = (readings("a", 0, 150), readings("b", 0, 90));
    kafka.send_to(&topic, 0, &payloads(&all[..50]));
    kafka.send_to(&topic, 1, &payloads(&other[..30]));
    wait_for_readings(&service, &database, 80);
    service.stop();
    kafka.send_to(&topic, 0, &payloads(&all[50..]));
    kafka.send_to(&topic, 1, &payloads(&other[30..]));
    kafka.delete_records(&topic, 0, 120);

    let refused = fleetscore.fail(&["aggregate"], 2);
    for what in ["on_offset_gap", &format!("{topic}[0]"), "50", "120"] {
        assert!(refused.contains(what), "no `{what}` in\n{refused}");
    }
    assert_eq!(losses(&database)?.len(), 0);
    assert_eq!(database.number("SELECT next_offset FROM progress WHERE kafka_partition = 0")?, 50);

    let service = fleetscore.with("--on-offset-gap", "continue").start(&["aggregate"]);
    wait_for_readings(&service, &database, 50 + 30 + 90);
    service.stop();
    assert_eq!(losses(&database)?, [[&*topic, "0", "50", "120"]]);
    let kept: Vec<Reading> = all[..50].iter().chain(&all[120..]).chain(&other).cloned().collect();
    assert_exact(&database, &kept);
    assert_eq!(database.number("SELECT count(*) FROM dead_letters")?, 0);
    Ok(())
}

pub(super) fn while_running(servers: &Servers, database: Database) -> Test {
    let topic = topic("gap");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    let fleetscore = Fleetscore::new(servers, &database, &topic);
    let go_on = fleetscore.clone().with("--on-offset-gap", "continue");
    let service = go_on.start(&["aggregate"]);
    let (all, other) = (readings("a", 0, 250), readings("b", 0, 90));
    kafka.send_to(&topic, 0, &payloads(&all[..50]));
    kafka.send_to(&topic, 1, &payloads(&other));
    wait_for_readings(&service, &database, 140);
    behind_its_back(&service, || {
        kafka.send_to(&topic, 0, &payloads(&all[50..150]));
        kafka.delete_records(&topic, 0, 120);
    });
    wait_for_readings(&service, &database, 140 + 30);
    assert_eq!(losses(&database)?, [[&*topic, "0", "50", "120"]]);
    service.stop();

    let service = fleetscore.start(&["aggregate"]);
    database.wait_for("SELECT count(DISTINCT owner) FROM progress", 1, PATIENCE);
    service.process.wait_for_output("partitions granted", PATIENCE);
    let one = readings("a", 100, 1);
    kafka.send_to(&topic, 0, &payloads(&one));
    wait_for_readings(&service, &database, 140 + 30 + 1);
    behind_its_back(&service, || {
        kafka.send_to(&topic, 0, &payloads(&all[150..]));
        kafka.delete_records(&topic, 0, 200);
    });
    let status = service.process.wait(PATIENCE).expect("a gap stops it");
    let output = service.process.output();
    assert_eq!(status.code(), Some(2), "{output}");
    for what in ["on_offset_gap", &format!("{topic}[0]"), "151", "200"] {
        assert!(output.contains(what), "no `{what}` in\n{output}");
    }
    assert_eq!(losses(&database)?.len(), 1);

    let service = go_on.start(&["aggregate"]);
    wait_for_readings(&service, &database, 140 + 30 + 1 + 51);
    service.stop();
    assert_eq!(losses(&database)?[1], [&*topic, "0", "151", "200"]);
    // Offset 150 is `one`; from 151 on they are `all[150..]`, of which those from 200 on are left.
    let kept: Vec<Reading> = all[..50]
        .iter()
        .chain(&all[120..150])
        .chain(&all[199..])
        .chain(&one)
        .chain(&other)
        .cloned()
        .collect();
    assert_exact(&database, &kept);
    Ok(())
}

/// Does something while the process is stopped, with no question of it open at the broker.
fn behind_its_back(service: &Service, act: impl FnOnce()) {
    service.process.signal(libc::SIGSTOP);
    // What it asked for last is answered after fetch.wait.max.ms, with nothing.
    std::thread::sleep(Duration::from_secs(1));
    act();
    service.process.signal(libc::SIGCONT);
}
