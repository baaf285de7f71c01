//! A topic that is deleted, made anew, and gains partitions, while it is read and while nobody reads it.

use super::*;
use crate::scenario::topic;
use fleetscore_harness::free_port;
use fleetscore_harness::process::cpu_time;

/// A process whose topic is deleted under it: it waits, says so, and does nothing else.
fn deleted(servers: &Servers, database: &Database, policy: &str) -> (Service, String, String, Vec<Reading>) {
    let topic = topic("deleted");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    let http_address = format!("127.0.0.1:{}", free_port());
    let fleetscore = Fleetscore::new(servers, database, &topic)
        .with("--http", &http_address)
        .with("--on-offset-gap", policy);
    let fleetscore = property(fleetscore, "topic.metadata.refresh.interval.ms", "1000");
    let service = fleetscore.start(&["aggregate"]);
    let old = readings("old", 0, 60);
    kafka.send_to(&topic, 0, &payloads(&old[..40]));
    kafka.send_to(&topic, 1, &payloads(&old[40..]));
    wait_for_readings(&service, database, old.len());

    kafka.delete_topic(&topic);
    let missing = format!("the topic `{topic}` does not exist");
    service.process.wait_for_output(&missing, PATIENCE);
    wait_until("/readyz to say that the topic is missing", PATIENCE, || {
        service.assert_alive();
        match http(&http_address, "/readyz")? {
            (503, body) if body.contains(&missing) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(http(&http_address, "/healthz").map(|a| a.0), Ok(200), "nothing that a restart would cure");
    let log = service.process.output().len();
    assert_rests(&service);
    service.assert_alive();
    let said = service.process.output().split_off(log);
    let again = said.lines().filter(|l| l.contains(&missing)).count();
    assert!(again <= 1, "it says the same again and again:\n{said}");
    (service, http_address, topic, old)
}

/// Fails where a process does not come to rest: in none of thirty looks of four seconds it takes less than a fifth of a core.
fn assert_rests(service: &Service) {
    let mut looks = Vec::new();
    while looks.len() < 30 {
        let (used, begun) = (cpu_time(service.process.id()).expect("it runs"), std::time::Instant::now());
        std::thread::sleep(Duration::from_secs(4));
        let (used, passed) = (cpu_time(service.process.id()).expect("it runs") - used, begun.elapsed());
        if used < passed / 5 {
            return;
        }
        looks.push((used, passed));
    }
    panic!("it spins; time on a core in so much time: {looks:?}");
}

pub(super) fn deleted_and_stop(servers: &Servers, database: Database) -> Test {
    let (service, _, topic, old) = deleted(servers, &database, "stop");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    kafka.send_to(&topic, 0, &payloads(&readings("new", 30, 10)));
    let status = service.process.wait(PATIENCE).expect("a topic made anew stops it");
    let output = service.process.output();
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(output.contains("on_offset_gap") && output.contains(&topic), "{output}");
    assert_exact(&database, &old);
    assert_eq!(database.number("SELECT count(*) FROM loss_events")?, 0, "nothing was passed over");
    Ok(())
}

pub(super) fn deleted_and_go_on(servers: &Servers, database: Database) -> Test {
    let (service, http_address, topic, old) = deleted(servers, &database, "continue");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    // Partition 0 has fewer records than before, partition 1 more: the old position exists in it, before another record.
    let new = readings("new", 30, 110);
    kafka.send_to(&topic, 0, &payloads(&new[..10]));
    kafka.send_to(&topic, 1, &payloads(&new[10..]));
    wait_for_readings(&service, &database, old.len() + new.len());
    wait_until("/readyz to be well", PATIENCE, || match http(&http_address, "/readyz")? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    service.stop();
    let all: Vec<Reading> = old.into_iter().chain(new).collect();
    assert_exact(&database, &all);
    let losses = database
        .rows("SELECT kafka_partition, from_offset FROM loss_events ORDER BY kafka_partition, from_offset")?;
    assert_eq!(losses, [["0", "40"], ["1", "20"]], "where each partition broke off");
    Ok(())
}

pub(super) fn grows(servers: &Servers, database: Database) -> Test {
    let topic = topic("grows");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    // From now on alone: partitions that are added later are read from their beginning all the same.
    let fleetscore = Fleetscore::new(servers, &database, &topic)
        .with("--start", "latest")
        .with("--idle-timeout", "2h")
        .with("--allowed-lateness", "1h");
    let fleetscore = property(fleetscore, "topic.metadata.refresh.interval.ms", "1000");
    kafka.send_to(&topic, 0, &payloads(&readings("before", 0, 10)));
    let service = fleetscore.start(&["aggregate"]);
    database.wait_for("SELECT count(*) FROM progress WHERE owner IS NOT NULL", 2, PATIENCE);
    let mut all = Vec::new();
    for partition in 0..2 {
        let some = readings(&format!("d{partition}"), 0, 60);
        kafka.send_to(&topic, partition, &payloads(&some));
        all.extend(some);
    }
    wait_for_readings(&service, &database, all.len());
    let ready = "SELECT count(*) FROM windows WHERE ready";
    let ten_minutes = database.number(ready)?;
    assert_eq!(ten_minutes, 2 * 9, "all but the newest pane of both");

    kafka.grow_topic(&topic, 4);
    for partition in 2..4 {
        let some = readings(&format!("d{partition}"), 0, 60);
        kafka.send_to(&topic, partition, &payloads(&some)); // before it is known
        all.extend(some);
    }
    wait_for_readings(&service, &database, all.len());
    // They have read as far as the others, so as much is ready as before.
    database.wait_for(ready, 4 * 9, PATIENCE);
    let more = readings("d0", 10, 60);
    kafka.send_to(&topic, 0, &payloads(&more));
    all.extend(more);
    wait_for_readings(&service, &database, all.len());
    // Three partitions have not come so far, and are not quiet for two hours.
    assert_eq!(
        database.number(ready)?,
        4 * 9,
        "an interval is ready before the new partitions have passed it"
    );
    service.stop();

    kafka.grow_topic(&topic, 5);
    let late = readings("d4", 0, 30);
    kafka.send_to(&topic, 4, &payloads(&late));
    all.extend(late);
    let service = fleetscore.start(&["aggregate"]);
    wait_for_readings(&service, &database, all.len());
    service.stop();
    assert_exact(&database, &all);
    assert_eq!(database.number("SELECT count(*) FROM progress")?, 5);
    assert_eq!(database.number("SELECT count(*) FROM loss_events")?, 0);
    assert_eq!(database.number("SELECT count(*) FROM dead_letters")?, 0);
    Ok(())
}
