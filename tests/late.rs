//! A tenth of the readings comes after their intervals were scored: they merge, the version moves, the stale
//! prediction is scored again, and the end equals the golden result.

use crate::data::{Dataset, reference, seeded};
use crate::golden::expected;
use crate::scenario::{
    PATIENCE, assert_predictions, assert_windows, pipeline, series_with_model, single_messages, topic,
    wait_until_scored,
};
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::Fleetscore;
use fleetscore_harness::kafka::Message;
use fleetscore_harness::{Servers, Test};
use fleetscore_oracle::{self as oracle, Edges, Reading};
use libtest_mimic::Trial;
use std::sync::Arc;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for sqlite in [false, true] {
        let store = if sqlite { "sqlite" } else { "postgres" };
        let s = servers.clone();
        trials.push(Trial::test(format!("late::held_back_{store}"), move || {
            held_back(&s, &reference().unwrap_or_else(seeded), sqlite)
        }));
        let s = servers.clone();
        trials.push(Trial::test(format!("late::replayed_once_{store}"), move || replayed_once(&s, sqlite)));
    }
    trials
}

/// Too late is one dead letter for all sensors of a wide record; a replay counts each once, however often it is run.
fn replayed_once(servers: &Servers, sqlite: bool) -> Test {
    let database = if sqlite { Database::sqlite(servers) } else { Database::postgres(servers) };
    let topic = topic("replay");
    servers.kafka().create_topic(&topic, 1);
    let fleetscore = Fleetscore::new(servers, &database, &topic).with("--allowed-lateness", "1m");
    let wide = |ts: &str| Message {
        key: "d".into(),
        payload: Some(
            format!(r#"{{"device": "d", "ts": "{ts}", "values": {{"a": 1, "b": 2}}}}"#).into_bytes(),
        ),
    };
    let broken = br#"{"device": "d", "ts": "2026-01-01T01:00:00Z", "values": {"a": 1, "b": 2, "c": null}}"#;
    let broken = Message { key: "d".into(), payload: Some(broken.to_vec()) };
    servers.kafka().send(&topic, &[wide("2026-01-01T01:00:00Z"), wide("2026-01-01T00:00:00Z"), broken]);
    let up = fleetscore.start(&["up"]);
    let readings = "SELECT coalesce(sum(readings), 0) FROM windows";
    database.wait_for(readings, 4, PATIENCE);
    database.wait_for("SELECT count(*) FROM dead_letters", 2, PATIENCE);
    for _ in 0..2 {
        // The two readings that were too late count now; the null never will.
        let replay = fleetscore.output(&["dead-letters", "replay", "--all"]);
        assert!(!replay.status.success(), "one cannot be counted");
        let said = [replay.stdout, replay.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
        assert_eq!(database.number(readings)?, 6, "{said}");
    }
    assert_eq!(database.number("SELECT count(*) FROM dead_letters WHERE replayed_at IS NOT NULL")?, 1);
    assert_eq!(
        database.number(
            "SELECT count(*) FROM windows WHERE window_start < '2026-01-01T00:30:00Z' AND readings = 1"
        )?,
        2
    );
    up.stop();
    Ok(())
}

fn held_back(servers: &Servers, data: &Dataset, sqlite: bool) -> Test {
    let database = if sqlite { Database::sqlite(servers) } else { Database::postgres(servers) };
    let topic = topic("late");
    servers.kafka().create_topic(&topic, 4);
    let fleetscore = pipeline(servers, data, &database, &topic)
        .config("[schedules.default]\nrescore_delay = \"1s\"\nrescores_per_minute = \"off\"\n");
    let mut random = fastrand::Rng::with_seed(11);
    let (early, late): (Vec<Reading>, Vec<Reading>) =
        data.readings.iter().cloned().partition(|_| random.u32(0..10) > 0);
    assert!(late.len() > data.readings.len() / 20);

    let up = fleetscore.start(&["up"]);
    servers.kafka().send(&topic, &single_messages(&early));
    let first = oracle::windows(&early, 60_000_000, 60_000_000, Edges::Start);
    let first_predictions = oracle::predictions(&first, &data.numbers);
    wait_until_scored(&up, &database, early.len(), &[("default", first_predictions.len())]);
    assert_windows(&database, "windows", &first);
    let versions = database.number("SELECT sum(version) FROM windows")?;

    servers.kafka().send(&topic, &single_messages(&late));
    let (windows, predictions) = expected(data, 60);
    wait_until_scored(&up, &database, data.readings.len(), &[("default", predictions.len())]);
    up.stop();
    assert_windows(&database, "windows", &windows);
    assert_predictions(&database, "default", &predictions, &series_with_model(data));
    assert!(database.number("SELECT sum(version) FROM windows")? > versions, "versions move");
    assert!(
        database.number("SELECT count(*) FROM runs WHERE cause = 'rescore' AND state = 'succeeded'")? > 0
    );
    assert_eq!(
        database.number(
            "SELECT count(*) FROM predictions p JOIN windows w ON w.window_start = p.window_start \
             AND w.device = p.device AND w.sensor = p.sensor WHERE p.window_version <> w.version"
        )?,
        0,
        "every prediction was made from the newest version"
    );
    Ok(())
}
