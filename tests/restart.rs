//! What a second start sees: it continues; it notices a topic that was made anew and another cluster; data of 2018 and
//! of today live in one topic; late series, silent series and series without a model have their rows.

use crate::data::{Dataset, reference, seeded};
use crate::golden::expected;
use crate::scenario::{PATIENCE, assert_windows, pipeline, single_messages, topic, wait_until_scored};
use fleetscore_harness::database::Database;
use fleetscore_harness::{Servers, Test, wait_until};
use fleetscore_oracle::{self as oracle, Edges, Reading};
use libtest_mimic::Trial;
use std::sync::Arc;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, test) in [
        ("restart::continues", continues as fn(&Servers, &Dataset) -> Test),
        ("restart::topic_made_anew", topic_made_anew),
        ("restart::another_cluster", another_cluster),
        ("restart::years_between", years_between),
        ("restart::partial_models", partial_models),
        ("restart::user_errors_stop", user_errors_stop),
    ] {
        let servers = servers.clone();
        trials.push(Trial::test(name, move || test(&servers, &reference().unwrap_or_else(seeded))));
    }
    trials
}

fn continues(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::sqlite(servers);
    let topic = topic("continues");
    servers.kafka().create_topic(&topic, 3);
    let fleetscore = pipeline(servers, data, &database, &topic);
    let half = data.readings.len() / 2;
    let up = fleetscore.start(&["up"]);
    servers.kafka().send(&topic, &single_messages(&data.readings[..half]));
    wait_until("the first half", PATIENCE, || {
        match database.number("SELECT sum(readings) FROM windows")? {
            n if n == half as i64 => Ok(()),
            n => Err(format!("{n} of {half}")),
        }
    });
    up.stop();
    servers.kafka().send(&topic, &single_messages(&data.readings[half..]));
    let up = fleetscore.config("[schedules.default]\nrescore_delay = \"1s\"\n").start(&["up"]);
    let (windows, predictions) = expected(data, 60);
    wait_until_scored(&up, &database, data.readings.len(), &[("default", predictions.len())]);
    // Interrupted by a person: a clean checkpoint, and 130.
    up.process.signal(libc::SIGINT);
    let status = up.process.wait(std::time::Duration::from_secs(40)).expect("it ends");
    assert_eq!(status.code(), Some(130), "{}", up.process.output());
    assert_windows(&database, "windows", &windows);
    Ok(())
}

fn topic_made_anew(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::postgres(servers);
    let topic = topic("anew");
    let kafka = servers.kafka();
    kafka.create_topic(&topic, 2);
    let fleetscore = pipeline(servers, data, &database, &topic);
    let readings = &data.readings[..2000];
    kafka.send(&topic, &single_messages(readings));
    let up = fleetscore.start(&["up"]);
    wait_until("the readings", PATIENCE, || match database.number("SELECT sum(readings) FROM windows")? {
        2000 => Ok(()),
        n => Err(format!("{n}")),
    });
    up.stop();
    kafka.delete_topic(&topic);
    kafka.create_topic(&topic, 2);
    // More records than before: the old positions exist, only the records before them are others.
    kafka.send(&topic, &single_messages(&data.readings[2000..6000]));
    let up = fleetscore.start(&["up"]);
    let status = up.process.wait(PATIENCE).expect("a topic made anew stops the start");
    let output = up.process.output();
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(output.contains("on_offset_gap") && output.contains(&topic), "{output}");
    assert_eq!(database.number("SELECT sum(readings) FROM windows")?, 2000, "nothing was read");

    let up = fleetscore.with("--on-offset-gap", "continue").start(&["up"]);
    wait_until("all readings", PATIENCE, || match database.number("SELECT sum(readings) FROM windows")? {
        6000 => Ok(()),
        n => Err(format!("{n}")),
    });
    assert!(database.number("SELECT count(*) FROM loss_events")? > 0, "what was passed over has a row");
    up.stop();
    Ok(())
}

fn another_cluster(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::sqlite(servers);
    let topic = topic("cluster");
    servers.kafka().create_topic(&topic, 2);
    let fleetscore = pipeline(servers, data, &database, &topic);
    servers.kafka().send(&topic, &single_messages(&data.readings[..500]));
    let up = fleetscore.start(&["up"]);
    wait_until("the readings", PATIENCE, || match database.number("SELECT sum(readings) FROM windows")? {
        500 => Ok(()),
        n => Err(format!("{n}")),
    });
    up.stop();
    let other = servers.another_kafka();
    other.create_topic(&topic, 2);
    other.send(&topic, &single_messages(&data.readings[500..1500]));
    let fleetscore = fleetscore.with("--kafka", &other.bootstrap);
    let up = fleetscore.start(&["up"]);
    let status = up.process.wait(PATIENCE).expect("another cluster stops the start");
    let output = up.process.output();
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(output.contains("on_offset_gap"), "{output}");
    let up = fleetscore.with("--on-offset-gap", "continue").start(&["up"]);
    wait_until("all readings", PATIENCE, || match database.number("SELECT sum(readings) FROM windows")? {
        1500 => Ok(()),
        n => Err(format!("{n}")),
    });
    up.stop();
    Ok(())
}

fn years_between(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::postgres(servers);
    let topic = topic("years");
    servers.kafka().create_topic(&topic, 3);
    let fleetscore = pipeline(servers, data, &database, &topic);
    // Ten minutes of 2018-08-28 (where the reference's data are anyway), and the same of today.
    let first = data.readings[0].ts_us;
    let to_2018 = 1_535_497_200_000_000 - first.div_euclid(60_000_000) * 60_000_000;
    let old: Vec<Reading> = data
        .readings
        .iter()
        .filter(|r| r.ts_us < first + 600_000_000)
        .map(|r| Reading { ts_us: r.ts_us + to_2018, ..r.clone() })
        .collect();
    let first_today = chrono::Utc::now().timestamp_micros() - 1_200_000_000;
    let moved = first_today - old[0].ts_us;
    let today: Vec<Reading> = old.iter().map(|r| Reading { ts_us: r.ts_us + moved, ..r.clone() }).collect();
    let up = fleetscore.start(&["up"]);
    servers.kafka().send(&topic, &single_messages(&old));
    let all: Vec<Reading> = old.iter().chain(&today).cloned().collect();
    let windows = oracle::windows(&all, 60_000_000, 60_000_000, Edges::Start);
    let predictions = oracle::predictions(&windows, &data.numbers);
    let old_windows = oracle::windows(&old, 60_000_000, 60_000_000, Edges::Start);
    wait_until_scored(
        &up,
        &database,
        old.len(),
        &[("default", oracle::predictions(&old_windows, &data.numbers).len())],
    );
    servers.kafka().send(&topic, &single_messages(&today));
    wait_until_scored(&up, &database, all.len(), &[("default", predictions.len())]);
    up.stop();
    assert_windows(&database, "windows", &windows);
    let long = database.rows(
        "SELECT count(*) FROM runs WHERE state = 'skipped' AND cause = 'gap' \
         AND interval_start < '2019-01-01' AND interval_end > '2026-01-01'",
    )?;
    assert_eq!(long[0][0], "1", "one row for the years between");
    assert!(database.number("SELECT count(*) FROM runs WHERE state = 'skipped'")? < 20);
    Ok(())
}

/// A series without a model, a silent series, a model that cannot be read: a status row each.
fn partial_models(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::postgres(servers);
    let topic = topic("partial");
    servers.kafka().create_topic(&topic, 2);
    let fleetscore = fleetscore_harness::fleetscore::Fleetscore::new(servers, &database, &topic);
    let models = servers.folder("models");
    let names: Vec<(String, String)> = data.numbers.keys().cloned().collect();
    let (without, unreadable) = (&names[0], &names[1]);
    for (device, sensor) in &names[1..] {
        let file = format!("model_{device}_{sensor}");
        let mut bytes = std::fs::read(data.models.join(&file))?;
        if (device, sensor) == (&unreadable.0, &unreadable.1) {
            bytes.truncate(bytes.len() / 2);
        }
        std::fs::write(models.join(&file), bytes)?;
    }
    // A model of a series that never sends.
    std::fs::copy(
        data.models.join(format!("model_{}_{}", names[2].0, names[2].1)),
        models.join("model_silent_one"),
    )?;
    let path = models.display().to_string();
    let refused = fleetscore.fail(&["models", "import", &path], 1);
    assert!(refused.contains(&format!("model_{}_{}", unreadable.0, unreadable.1)), "{refused}");
    assert_eq!(database.number("SELECT count(*) FROM model_sets")?, 0, "a refused import changes nothing");
    fleetscore.output(&["models", "import", &path, "--allow-partial"]);
    assert_eq!(database.number("SELECT count(*) FROM model_sets")?, 1);

    let readings: Vec<Reading> = data.readings[..1500].to_vec();
    servers.kafka().send(&topic, &single_messages(&readings));
    let up = fleetscore.start(&["up"]);
    let windows = oracle::windows(&readings, 60_000_000, 60_000_000, Edges::Start);
    let mut numbers = data.numbers.clone();
    numbers.remove(without);
    numbers.remove(unreadable);
    wait_until_scored(
        &up,
        &database,
        readings.len(),
        &[("default", oracle::predictions(&windows, &numbers).len())],
    );
    up.stop();
    let count = |device: &str, sensor: &str, status: &str| {
        database.number(&format!(
            "SELECT count(*) FROM predictions WHERE device = '{device}' AND sensor = '{sensor}' AND status = '{status}'"
        ))
    };
    let intervals = windows.keys().map(|k| k.0).collect::<std::collections::BTreeSet<_>>().len() as i64;
    let with_data =
        |name: &(String, String)| windows.keys().filter(|k| k.1 == name.0 && k.2 == name.1).count() as i64;
    assert_eq!(count(&without.0, &without.1, "no_model")?, with_data(without));
    assert_eq!(count(&unreadable.0, &unreadable.1, "model_error")?, with_data(unreadable));
    assert_eq!(count("silent", "one", "no_data")?, intervals);
    let states = database.number("SELECT count(*) FROM runs WHERE state = 'partial'")?;
    assert!(states > 0, "failed models within the threshold make a run partial");
    Ok(())
}

fn user_errors_stop(servers: &Servers, _data: &Dataset) -> Test {
    let database = Database::sqlite(servers);
    let fleetscore = fleetscore_harness::fleetscore::Fleetscore::new(servers, &database, "nowhere");
    let wrong = fleetscore.fail(&["up", "--interval", "1500ms", "--max-disorder", "soon"], 2);
    assert!(wrong.contains("interval") && wrong.contains("max_disorder"), "all mistakes at once: {wrong}");
    let wrong = fleetscore.clone().env("FLEETSCORE_READINGS__WHERE", "value >").fail(&["up"], 2);
    assert!(wrong.contains("readings.where"), "{wrong}");
    let missing = servers.postgres().url("no_such_database");
    let wrong = fleetscore.with("--store", &missing).fail(&["up"], 2);
    assert!(wrong.contains("store") && wrong.contains("no_such_database"), "{wrong}");
    Ok(())
}
