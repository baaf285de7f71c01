//! The same result, whatever happens to the processes: killed at random moments, joined and left by others, stopped
//! past their session and woken.

use crate::golden::expected;
use crate::harness::data::{Dataset, reference, seeded};
use crate::harness::database::Database;
use crate::harness::fleetscore::Service;
use crate::harness::scenario::{
    PATIENCE, assert_predictions, assert_windows, pipeline, series_with_model, single_messages, topic,
    wait_until_scored,
};
use crate::harness::{Servers, Test, wait_until};
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
