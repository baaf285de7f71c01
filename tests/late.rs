//! A tenth of the readings comes after their intervals were scored: they merge, the version moves, the stale
//! prediction is scored again, and the end equals the golden result.

use crate::golden::expected;
use crate::harness::data::{Dataset, reference, seeded};
use crate::harness::database::Database;
use crate::harness::scenario::{
    assert_predictions, assert_windows, pipeline, series_with_model, single_messages, topic,
    wait_until_scored,
};
use crate::harness::{Servers, Test};
use crate::oracle::{self, Edges, Reading};
use libtest_mimic::Trial;
use std::sync::Arc;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    [false, true]
        .into_iter()
        .map(|sqlite| {
            let servers = servers.clone();
            let name = if sqlite { "late::held_back_sqlite" } else { "late::held_back_postgres" };
            Trial::test(name, move || held_back(&servers, &reference().unwrap_or_else(seeded), sqlite))
        })
        .collect()
}

fn held_back(servers: &Servers, data: &Dataset, sqlite: bool) -> Test {
    let database = if sqlite { Database::sqlite(servers) } else { Database::postgres(servers) };
    let topic = topic("late");
    servers.kafka().create_topic(&topic, 4);
    let fleetscore =
        pipeline(servers, data, &database, &topic).config("[schedules.default]\nrescore_delay = \"1s\"\n");
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
