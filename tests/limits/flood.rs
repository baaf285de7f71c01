//! Every message is bad: nothing stalls, nothing is lost count of, and what is stored stays bounded.
//!
//! `FLEETSCORE_TEST_FLOOD=5000000` makes it so many messages.

use super::*;
use crate::scenario::topic;
use fleetscore_harness::free_port;

fn length() -> usize {
    std::env::var("FLEETSCORE_TEST_FLOOD").ok().and_then(|n| n.parse().ok()).unwrap_or(300_000)
}

const PER_MINUTE: i64 = 500;

pub(super) fn every_message_bad(servers: &Servers, database: Database) -> Test {
    let topic = topic("flood");
    let bad = length() / 2 * 2;
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    let address = format!("127.0.0.1:{}", free_port());
    let fleetscore = Fleetscore::new(servers, &database, &topic)
        .with("--http", &address)
        .with("--dead-letters-per-minute", &PER_MINUTE.to_string());
    let service = fleetscore.start(&["aggregate"]);
    let good = readings("good", 0, 60);
    kafka.send_to(&topic, 0, &payloads(&good[..30]));
    wait_for_readings(&service, &database, 30);
    let log = service.process.output().lines().count();
    for partition in 0..2 {
        let messages: Vec<Vec<u8>> = (0..bad / 2).map(|i| format!("bad {i}").into_bytes()).collect();
        kafka.send_to(&topic, partition, &messages);
    }
    kafka.send_to(&topic, 0, &payloads(&good[30..]));
    let begun = std::time::Instant::now();
    wait_for_readings(&service, &database, good.len());
    database.wait_for("SELECT coalesce(sum(count), 0) FROM dead_letters", bad as i64, PATIENCE);
    let minutes = begun.elapsed().as_secs() as i64 / 60 + 2;

    // Each once: one by one, or within the range of a row that counts.
    assert_exact(&database, &good);
    let one_by_one = database.number("SELECT count(*) FROM dead_letters WHERE payload IS NOT NULL")?;
    assert!((PER_MINUTE..=PER_MINUTE * minutes).contains(&one_by_one), "{one_by_one} in {minutes} minutes");
    let rows = database.number("SELECT count(*) FROM dead_letters")?;
    let checkpoints = minutes * 60;
    assert!(rows <= one_by_one + 2 * checkpoints, "{rows} rows");
    for partition in 0..2 {
        let ranges = database.rows(&format!(
            "SELECT kafka_offset, last_offset, count FROM dead_letters \
             WHERE last_offset IS NOT NULL AND kafka_partition = {partition} ORDER BY kafka_offset"
        ))?;
        let mut behind = -1;
        for range in ranges {
            let [from, to, count] = [0, 1, 2].map(|i| range[i].parse::<i64>().expect("a number"));
            assert!(behind < from && from <= to && count <= to - from + 1, "{range:?} behind {behind}");
            behind = to;
        }
    }
    // An operator hears of it: once in the log, in the events, and where health is asked for.
    let said = service.process.output();
    let warnings = said.lines().filter(|l| l.contains("WARN") && l.contains("flood of dead letters")).count();
    assert_eq!(warnings, 1, "{said}");
    assert!(said.lines().count() - log < 60, "a flood of log lines:\n{said}");
    database.wait_for("SELECT count(*) FROM events WHERE kind = 'dead_letter_flood'", 1, PATIENCE);
    let (status, body) = http(&address, "/readyz")?;
    assert!(status == 200 && body.contains("flood of dead letters"), "{status} {body}");
    let told = fleetscore.run(&["events"]);
    assert!(told.contains("dead_letter_flood"), "{told}");
    wait_until("the end of the flood", PATIENCE, || {
        service.assert_alive();
        let over = "SELECT count(*) FROM events WHERE kind = 'dead_letter_flood_over'";
        if database.number(over)? == 1 { Ok(()) } else { Err("it goes on".to_owned()) }
    });
    assert!(http(&address, "/readyz").is_ok_and(|(status, body)| status == 200 && !body.contains("flood")));
    service.stop();
    Ok(())
}
