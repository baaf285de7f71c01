//! Messages larger than any buffer, between good ones.

use super::*;
use crate::scenario::{assert_windows_and, rfc3339, topic};
use fleetscore_harness::free_port;
use fleetscore_harness::kafka::Kafka;
use fleetscore_oracle::{Key, Sums, Window};
use std::collections::BTreeMap;

const MIB: usize = 1 << 20;
/// Above librdkafka's default of 100 MB for an answer.
const LARGE: usize = 150 * MIB;
const MAX_MESSAGE: usize = 160 * MIB;
const IN_FLIGHT: usize = 4 * MIB;
/// Below the default of `max_message_bytes`.
const WIDE: usize = 60 * MIB;
const CHECKPOINT: usize = 16 * MIB;
/// What such a message takes beyond three times its size: of each value of six or seven bytes a reading of 20 with its place
/// of 16, and a row of 24 that waits to be aggregated (docs/limits.md).
const FAN_OUT: usize = 10;
/// Good readings before and behind each.
const GOOD: usize = 30;

/// A message of so many bytes with readings of one series, and the readings.
fn array(bytes: usize) -> (Vec<u8>, Vec<Reading>) {
    let (mut message, mut readings) = (vec![b'['], Vec::new());
    while message.len() < bytes {
        let i = readings.len() as i64;
        let (ts_us, value) = (START + i * 1_000, (i % 64) as f64 / 8.0);
        let ts = rfc3339(ts_us);
        write!(message, r#"{{"device":"large","sensor":"temp","ts":"{ts}","value":{value}}},"#)
            .expect("memory takes all");
        readings.push(Reading { ts_us, device: "large".into(), sensor: "temp".into(), value });
    }
    *message.last_mut().expect("a comma") = b']';
    (message, readings)
}

/// What is sent, and what must come of it.
struct Sent {
    kafka: Kafka,
    topic: String,
    offset: i64,
    readings: Vec<Reading>,
    /// Offset, code, and number of records.
    letters: Vec<(i64, &'static str, i64)>,
}

impl Sent {
    fn good(&mut self) {
        let some = readings(&format!("d{}", self.offset), 0, GOOD);
        self.kafka.send_to(&self.topic, 0, &payloads(&some));
        self.readings.extend(some);
        self.offset += GOOD as i64;
    }

    fn large(&mut self, payload: Vec<u8>, refused: Option<(&'static str, i64)>) {
        self.letters.extend(refused.map(|(code, n)| (self.offset, code, n)));
        self.kafka.send_to(&self.topic, 0, &[payload]);
        self.offset += 1;
        self.good();
    }
}

/// A broker that was told to take what others refuse.
fn kafka(servers: &Servers) -> Kafka {
    Kafka::start_with(
        &servers.folder("kafka"),
        "message.max.bytes=300000000\nsocket.request.max.bytes=400000000\n",
        "2g",
    )
}

pub(super) fn messages(servers: &Servers, database: Database) -> Test {
    let kafka = kafka(servers);
    let topic = topic("large");
    kafka.create_topic(&topic, 1);
    let service = Fleetscore::new(servers, &database, &topic)
        .with("--kafka", &kafka.bootstrap)
        .with("--in-flight-bytes", &IN_FLIGHT.to_string())
        .with("--max-message-bytes", &MAX_MESSAGE.to_string())
        .start(&["aggregate"]);
    let mut sent = Sent { kafka, topic, offset: 0, readings: Vec::new(), letters: Vec::new() };
    sent.good();
    wait_for_readings(&service, &database, GOOD);
    let base = memory(&service, "VmHWM") as usize;

    sent.large(vec![b'x'; LARGE], Some(("syntax", 1)));
    let (message, within) = array(LARGE);
    sent.readings.extend(within);
    sent.large(message, None);
    let string = [&b"\""[..], &vec![b'y'; LARGE], &b"\""[..]].concat();
    sent.large(string, Some(("wrong_type", 1)));
    sent.large(vec![b'z'; MAX_MESSAGE + MIB], Some(("too_large", 1)));
    let (message, within) = array(2 * MIB);
    let broken = message.len() - 1;
    sent.readings.extend(within);
    // What is left of a broken array is a record; this one is too large to be kept.
    sent.large([&message[..broken], &b", "[..], &vec![b'!'; LARGE]].concat(), Some(("syntax", 1)));

    // A flood: the last, as what is refused in the same minute is counted with it.
    sent.large(b"0\n".repeat(LARGE / 2), Some(("wrong_type", LARGE as i64 / 2)));

    wait_for_readings(&service, &database, sent.readings.len());
    let letters = "SELECT kafka_offset, code, sum(count) FROM dead_letters GROUP BY 1, 2 ORDER BY 1, 2";
    let expected: Vec<Vec<String>> =
        sent.letters.iter().map(|(o, c, n)| vec![o.to_string(), (*c).to_owned(), n.to_string()]).collect();
    wait_until("all dead letters", PATIENCE, || match database.rows(letters)? {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let most = memory(&service, "VmHWM") as usize;
    eprintln!("limits::large_messages: {} MiB before, {} MiB at most", base / MIB, most / MIB);
    service.stop();

    assert_exact(&database, &sent.readings);
    let kept = database.rows(
        "SELECT kafka_offset FROM dead_letters WHERE payload IS NOT NULL AND length(payload) > 1048576",
    )?;
    assert!(kept.is_empty(), "large payloads in SQL: {kept:?}");
    for offset in sent.letters.iter().filter(|l| l.2 == 1).map(|l| l.0) {
        let detail =
            &database.rows(&format!("SELECT detail FROM dead_letters WHERE kafka_offset = {offset}"))?[0][0];
        assert!(detail.contains(" bytes"), "no size in `{detail}`");
    }
    assert_eq!(database.number("SELECT count(*) FROM loss_events")?, 0);
    answers_refused_are_told(servers, &sent)?;
    // docs/limits.md: three times the largest message, the settings, and librdkafka's queue.
    let bound = base + 32 * MIB + IN_FLIGHT + 256 * MIB + 3 * (MAX_MESSAGE + MIB);
    assert!(most <= bound, "{} MiB, above the bound of {} MiB", most / MIB, bound / MIB);
    Ok(())
}

/// A message of about so many bytes, of which nearly all are short values: wide objects of one minute, each with all
/// sensors; and the windows that must come of it.
fn wide(bytes: usize) -> (Vec<u8>, BTreeMap<Key, Window>) {
    let letters = || (b'a'..=b'z').chain(b'A'..=b'Z').map(char::from);
    let short = letters().map(String::from);
    let sensors: Vec<String> =
        short.chain(letters().flat_map(|a| letters().map(move |b| format!("{a}{b}")))).collect();
    let (mut message, mut of_one) = (vec![b'['], Vec::new());
    while message.len() < bytes {
        let i = of_one.len() as i64;
        let (ts_us, digit) = (START + i * 1_000, i % 10);
        write!(message, r#"{{"device":"d","ts":{},"values":{{"#, ts_us / 1000).expect("memory takes all");
        for sensor in &sensors {
            write!(message, r#""{sensor}":{digit},"#).expect("memory takes all");
        }
        message.pop();
        message.extend_from_slice(b"}},");
        of_one.push(Reading { ts_us, device: "d".into(), sensor: String::new(), value: digit as f64 });
    }
    *message.last_mut().expect("a comma") = b']';
    let one = &oracle::windows(&of_one, MINUTE, MINUTE, Edges::Start);
    let keys = sensors.iter().flat_map(|s| one.keys().map(move |k| (k.0, k.1.clone(), s.clone())));
    (message, keys.map(|key| (key.clone(), one[&(key.0, key.1, String::new())].clone())).collect())
}

/// The message that decodes to most: seven bytes become a reading with its place in the message.
pub(super) fn wide_message(servers: &Servers, database: Database) -> Test {
    let kafka = kafka(servers);
    let topic = topic("wide");
    kafka.create_topic(&topic, 1);
    let service = Fleetscore::new(servers, &database, &topic)
        .with("--kafka", &kafka.bootstrap)
        .with("--in-flight-bytes", &IN_FLIGHT.to_string())
        .with("--checkpoint-bytes", &CHECKPOINT.to_string())
        .start(&["aggregate"]);
    let first = readings("first", 0, GOOD);
    kafka.send_to(&topic, 0, &payloads(&first));
    wait_for_readings(&service, &database, GOOD);
    let base = memory(&service, "VmHWM") as usize;
    let (message, mut windows) = wide(WIDE);
    let bytes = message.len();
    let within: i64 = windows.values().map(|w| w.count).sum();
    kafka.send_to(&topic, 0, &[message]);
    wait_for_readings(&service, &database, GOOD + within as usize);
    let most = memory(&service, "VmHWM") as usize;
    eprintln!(
        "limits::wide_message: {} MiB with {within} readings: {} MiB before, {} MiB at most, {:.1} times the message",
        bytes / MIB,
        base / MIB,
        most / MIB,
        (most - base) as f64 / bytes as f64
    );
    service.stop();
    windows.extend(oracle::windows(&first, MINUTE, MINUTE, Edges::Start));
    assert_windows_and(&database, "windows", &windows, Sums::Exact);
    assert_eq!(database.number("SELECT count(*) FROM dead_letters")?, 0);
    let bound = base + (32 + 16) * MIB + IN_FLIGHT + 2 * CHECKPOINT + (3 + FAN_OUT) * bytes;
    assert!(most <= bound, "{} MiB, above the bound of {} MiB", most / MIB, bound / MIB);
    Ok(())
}

/// A user's own bound on answers: whoever looks learns why the partition goes no further.
fn answers_refused_are_told(servers: &Servers, sent: &Sent) -> Test {
    let address = format!("127.0.0.1:{}", free_port());
    let fleetscore = Fleetscore::new(servers, &Database::sqlite(servers), &sent.topic)
        .with("--kafka", &sent.kafka.bootstrap)
        .with("--http", &address);
    let service = property(fleetscore, "receive.message.max.bytes", "20000000").start(&["aggregate"]);
    wait_until("/readyz to name the property", PATIENCE, || {
        service.assert_alive();
        match http(&address, "/readyz")? {
            (503, body) if body.contains("increase receive.message.max.bytes") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    std::thread::sleep(Duration::from_secs(5));
    let said = service.process.output();
    assert_eq!(said.matches("WARN waiting for kafka: an answer").count(), 1, "{said}");
    service.stop();
    Ok(())
}
