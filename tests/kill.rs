//! The same result, whatever happens to the processes: killed at random moments, joined and left by others, stopped
//! past their session and woken.

use crate::data::{Dataset, reference, seeded};
use crate::golden::expected;
use crate::scenario::{
    PATIENCE, assert_predictions, assert_windows, pipeline, series_with_model, single_messages, topic,
    wait_until_scored,
};
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::Service;
use fleetscore_harness::kafka::Message;
use fleetscore_harness::{Servers, Test, free_port, http, wait_until};
use libtest_mimic::Trial;
use std::sync::Arc;
use std::time::Duration;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for sqlite in [false, true] {
        let servers = servers.clone();
        let store = if sqlite { "sqlite" } else { "postgres" };
        trials.push(Trial::test(format!("kill::five_times_{store}"), move || {
            five_times(&servers, &reference().unwrap_or_else(seeded), sqlite)
        }));
    }
    for (name, test) in [
        ("kill::joined_and_left", joined_and_left as fn(&Servers, &Dataset) -> Test),
        ("kill::stopped_and_woken", stopped_and_woken),
        ("kill::zombie_writes_nothing", zombie_writes_nothing),
    ] {
        let servers = servers.clone();
        trials.push(Trial::test(name, move || test(&servers, &reference().unwrap_or_else(seeded))));
    }
    trials
}

/// Sends the readings over about `seconds`, beside what the test does.
fn send_slowly<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    servers: &'scope Servers,
    topic: &'scope str,
    data: &'scope Dataset,
    seconds: u64,
) -> std::thread::ScopedJoinHandle<'scope, ()> {
    scope.spawn(move || {
        let messages = single_messages(&data.readings);
        let chunk = messages.len().div_ceil((seconds * 10) as usize);
        servers.kafka().send_paced(topic, &messages, chunk, Duration::from_millis(100));
    })
}

fn assert_golden(service: &Service, database: &Database, data: &Dataset) -> Test {
    let (windows, predictions) = expected(data, 60);
    wait_until_scored(service, database, data.readings.len(), &[("default", predictions.len())]);
    assert_eq!(database.number("SELECT count(*) FROM dead_letters")?, 0);
    assert_windows(database, "windows", &windows);
    assert_predictions(database, "default", &predictions, &series_with_model(data));
    Ok(())
}

fn five_times(servers: &Servers, data: &Dataset, sqlite: bool) -> Test {
    let database = if sqlite { Database::sqlite(servers) } else { Database::postgres(servers) };
    let topic = topic("kill");
    servers.kafka().create_topic(&topic, 4);
    let fleetscore = pipeline(servers, data, &database, &topic)
        .with("--checkpoint-interval", "1s")
        .config("[schedules.default]\nrescore_delay = \"1s\"\nrescores_per_minute = \"off\"\n");
    let seed = std::process::id() as u64;
    eprintln!("kill::five_times: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    std::thread::scope(|scope| {
        let sender = send_slowly(scope, servers, &topic, data, 20);
        for _ in 0..5 {
            let up = fleetscore.start(&["up"]);
            std::thread::sleep(Duration::from_millis(random.u64(700..5000)));
            up.assert_alive();
            up.kill();
        }
        sender.join().expect("all readings are sent");
    });
    let up = fleetscore.start(&["up"]);
    assert_golden(&up, &database, data)?;
    up.stop();
    Ok(())
}

/// Partitions by owner, as `progress` shows them.
fn owners(database: &Database) -> Result<Vec<String>, String> {
    let rows = database.rows("SELECT DISTINCT owner FROM progress WHERE owner IS NOT NULL")?;
    Ok(rows.into_iter().map(|mut r| r.remove(0)).collect())
}

fn joined_and_left(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::postgres(servers);
    let topic = topic("join");
    servers.kafka().create_topic(&topic, 4);
    let fleetscore = pipeline(servers, data, &database, &topic)
        .config("[schedules.default]\nrescore_delay = \"1s\"\nrescores_per_minute = \"off\"\n");
    let (first, _scorer) = (fleetscore.start(&["aggregate"]), fleetscore.start(&["score"]));
    std::thread::scope(|scope| {
        let sender = send_slowly(scope, servers, &topic, data, 20);
        wait_until("the first owner", PATIENCE, || match owners(&database)?.len() {
            1 => Ok(()),
            n => Err(format!("{n} owners")),
        });
        let second = fleetscore.start(&["aggregate"]);
        wait_until("two owners", PATIENCE, || match owners(&database)?.len() {
            2 => Ok(()),
            n => Err(format!("{n} owners")),
        });
        std::thread::sleep(Duration::from_secs(2));
        second.stop();
        sender.join().expect("all readings are sent");
    });
    assert_golden(&first, &database, data)?;
    first.stop();
    Ok(())
}

fn stopped_and_woken(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::postgres(servers);
    let topic = topic("stopped");
    servers.kafka().create_topic(&topic, 4);
    let fleetscore = pipeline(servers, data, &database, &topic)
        .config("[schedules.default]\nrescore_delay = \"1s\"\nrescores_per_minute = \"off\"\n")
        .with("--checkpoint-interval", "30s");
    let (first, _scorer) = (fleetscore.start(&["aggregate"]), fleetscore.start(&["score"]));
    std::thread::scope(|scope| {
        let sender = send_slowly(scope, servers, &topic, data, 16);
        wait_until("the first owner", PATIENCE, || match owners(&database)?.len() {
            1 => Ok(()),
            n => Err(format!("{n} owners")),
        });
        let before = owners(&database)?;
        std::thread::sleep(Duration::from_secs(2));
        first.process.signal(libc::SIGSTOP);
        // Its session (6 s) ends while it sleeps; the second gets all partitions and goes on.
        let second = fleetscore.start(&["aggregate"]);
        wait_until("the second owns everything", PATIENCE, || {
            let now = owners(&database)?;
            if now.len() == 1 && now != before { Ok(()) } else { Err(format!("{now:?}")) }
        });
        std::thread::sleep(Duration::from_secs(2));
        // Woken with readings in its memory that the second has read again: it must drop them.
        first.process.signal(libc::SIGCONT);
        first.process.wait_for_output("fenced by", PATIENCE);
        std::thread::sleep(Duration::from_secs(3));
        first.assert_alive();
        sender.join().expect("all readings are sent");
        assert_golden(&second, &database, data)?;
        second.assert_alive();
        first.stop();
        second.stop();
        Ok::<(), libtest_mimic::Failed>(())
    })
}

/// Everything that an aggregator writes: the whole of `progress` with its signs of life, every pane and its version, and by
/// which transaction PostgreSQL says that each row was written.
fn written(database: &Database) -> Result<Vec<Vec<String>>, String> {
    let mut rows = database.rows(
        "SELECT kafka_partition, next_offset, end_offset, watermark, quiet_at, owner, owner_seen_at, epoch, updated_at, xmin \
         FROM progress_data ORDER BY 1",
    )?;
    rows.extend(database.rows(
        "SELECT count(*), sum(count), sum(version), max(xmin::text::bigint), sum(hashtext(d::text)::bigint) FROM pane_data d",
    )?);
    rows.extend(database.rows("SELECT count(*), max(id) FROM changed_pane_data")?);
    rows.extend(database.rows("SELECT count(*), max(id) FROM dead_letter_data")?);
    Ok(rows)
}

/// Readings in windows.
fn in_sql(database: &Database) -> Result<usize, String> {
    database.number("SELECT coalesce(sum(readings), 0) FROM windows").map(|n| n as usize)
}

fn wait_for_readings(database: &Database, wanted: usize) {
    wait_until("all readings in windows", PATIENCE, || match in_sql(database)? {
        n if n == wanted => Ok(()),
        n => Err(format!("{n} of {wanted}")),
    });
}

/// A transaction that was under way when its process was stopped would count as a change.
fn wait_for_silence(database: &Database) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
               AND state <> 'idle'";
    database.wait_for(sql, 0, PATIENCE);
}

/// Sends messages to a process that answers at this address, and pauses it with readings in its memory that are not in SQL.
/// How many messages were sent.
fn pause_with_readings(
    zombie: &Service,
    address: &str,
    database: &Database,
    messages: &[Message],
    send: impl Fn(&[Message]),
) -> Result<usize, String> {
    // A checkpoint may come between the look and the pause: then again, with more.
    for part in 1..=10 {
        let (before, stored) = (messages.len() * (part - 1) / 20, in_sql(database)?);
        let sent = messages.len() * part / 20;
        send(&messages[before..sent]);
        wait_until("readings in its memory", PATIENCE, || match http(address, "/readyz")? {
            (200, body) if !body.contains("\"0 readings") => Ok(()),
            (_, body) => Err(body),
        });
        zombie.process.signal(libc::SIGSTOP);
        wait_for_silence(database);
        if in_sql(database)? == stored {
            return Ok(sent);
        }
        zombie.process.signal(libc::SIGCONT);
    }
    Err("ten times it stored what it had read before it was paused".to_owned())
}

/// Paused with readings in its memory, woken when another owns its partitions: nothing of the store changes, and its log
/// says why. While the other sleeps and the broker is away nobody else could write, and nobody can give it the
/// partitions back.
fn zombie_writes_nothing(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::postgres(servers);
    let (topic, kafka) = (topic("zombie"), servers.another_kafka());
    kafka.create_topic(&topic, 4);
    let fleetscore = pipeline(servers, data, &database, &topic)
        .with("--kafka", &kafka.bootstrap)
        .config("[schedules.default]\nrescore_delay = \"1s\"\nrescores_per_minute = \"off\"\n")
        // No pane closes, nothing is quiet: what the zombie reads is in its memory until a checkpoint is due.
        .with("--max-disorder", "2h")
        .with("--idle-timeout", "2h")
        .with("--checkpoint-interval", "20s");
    let messages = single_messages(&data.readings);
    let address = format!("127.0.0.1:{}", free_port());
    let zombie = fleetscore.clone().with("--http", &address).start(&["aggregate"]);
    let owner = wait_until("its partitions", PATIENCE, || match &owners(&database)?[..] {
        [one] => Ok(one.clone()),
        other => Err(format!("{other:?}")),
    });
    let sent = pause_with_readings(&zombie, &address, &database, &messages, |some| kafka.send(&topic, some))?;
    let second = fleetscore.clone().with("--checkpoint-interval", "1s").start(&["aggregate"]);
    wait_until("the second owns everything", PATIENCE, || match &owners(&database)?[..] {
        [one] if *one != owner => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_for_readings(&database, sent);
    kafka.kill();
    second.process.signal(libc::SIGSTOP);
    wait_for_silence(&database);
    let before = written(&database)?;
    let said = zombie.process.output();
    assert!(!said.contains("fenced by"), "it cannot know yet:\n{said}");
    zombie.process.signal(libc::SIGCONT);
    zombie.process.wait_for_output("fenced by", PATIENCE);
    // Longer than it takes to try again, and than its checkpoints are apart.
    std::thread::sleep(Duration::from_secs(25));
    assert_eq!(written(&database)?, before, "the zombie wrote:\n{}", zombie.process.output());
    zombie.assert_alive();

    kafka.start_again();
    second.process.signal(libc::SIGCONT);
    kafka.send(&topic, &messages[sent..]);
    wait_for_readings(&database, data.readings.len());
    let (windows, _) = expected(data, 60);
    assert_windows(&database, "windows", &windows);
    zombie.stop();
    second.stop();
    kafka.stop();
    Ok(())
}
