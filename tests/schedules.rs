//! Schedules under an operator's hands: a scheduler that is down for fifty intervals, pauses, cron.

use crate::scenario::{PATIENCE, topic};
use fleetscore_benchmarks::fleet::Fleet;
use fleetscore_benchmarks::model_file::write_parquet;
use fleetscore_benchmarks::windows::Filler;
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::Fleetscore;
use fleetscore_harness::{Servers, Test, wait_until};
use fleetscore_schemas::time::Timestamp;
use libtest_mimic::Trial;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const SERIES: u32 = 20;
const MINUTE: i64 = 60_000_000;
/// 2026-01-01T00:00:00Z
const START: Timestamp = Timestamp(1_767_225_600_000_000);
/// Longer ago than this, and nobody was looking.
const LOOK_GAP: Duration = Duration::from_secs(60);

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, test) in [
        ("down_for_fifty_intervals", down_for_fifty_intervals as fn(&Servers, &Database) -> Test),
        ("paused_and_resumed", paused_and_resumed),
        ("cron_fires", cron_fires),
    ] {
        for sqlite in [false, true] {
            let servers = servers.clone();
            let store = if sqlite { "sqlite" } else { "postgres" };
            trials.push(Trial::test(format!("schedules::{name}_{store}"), move || {
                let database = if sqlite { Database::sqlite(&servers) } else { Database::postgres(&servers) };
                test(&servers, &database)
            }));
        }
    }
    trials
}

/// A store with models, and somebody who puts windows in.
struct Site {
    database: Database,
    fleetscore: Fleetscore,
    filler: Filler,
    runtime: Runtime,
}

impl Site {
    fn new(servers: &Servers, database: &Database, config: &str) -> Result<Self, libtest_mimic::Failed> {
        let fleetscore = Fleetscore::new(servers, database, &topic("schedules")).config(config);
        let (fleet, models) = (Fleet::new(SERIES, 1), fleetscore.folder.join("models.parquet"));
        write_parquet(&models, &fleet)?;
        fleetscore.run(&["models", "import", &models.display().to_string()]);
        let runtime = Runtime::new()?;
        let filler = runtime.block_on(Filler::open(&database.setting(), fleet, SERIES, MINUTE))?;
        Ok(Self { database: database.clone(), fleetscore, filler, runtime })
    }

    /// Windows of these minutes; each is ready with its own end.
    fn put(&mut self, panes: std::ops::Range<u32>) -> Test {
        for pane in panes {
            let start = START.plus_us(i64::from(pane) * MINUTE);
            self.runtime.block_on(self.filler.put(start, pane, start.plus_us(MINUTE)))?;
        }
        Ok(())
    }

    fn wait_for_runs(&self, schedule: &str, wanted: i64) {
        let sql = format!("SELECT count(*) FROM runs WHERE schedule = '{schedule}' AND state = 'succeeded'");
        self.database.wait_for(&sql, wanted, PATIENCE);
    }

    /// Runs and skipped ranges of a schedule, oldest first: from and to in minutes, state, cause.
    fn runs(&self, schedule: &str) -> Result<Vec<(i64, i64, String, String)>, String> {
        let (start, end) = (self.database.micros("interval_start"), self.database.micros("interval_end"));
        let rows = self.database.rows(&format!(
            "SELECT {start}, {end}, state, cause FROM runs WHERE schedule = '{schedule}' ORDER BY interval_start, opened_at"
        ))?;
        let minute = |s: &str| s.parse::<i64>().map_or(-1, |us| (us - START.0) / MINUTE);
        Ok(rows.iter().map(|r| (minute(&r[0]), minute(&r[1]), r[2].clone(), r[3].clone())).collect())
    }
}

fn rows(of: &[(i64, i64, &str, &str)]) -> Vec<(i64, i64, String, String)> {
    of.iter().map(|(a, b, s, c)| (*a, *b, (*s).to_owned(), (*c).to_owned())).collect()
}

/// One run for each minute of a range.
fn each(range: std::ops::Range<i64>, cause: &str) -> Vec<(i64, i64, String, String)> {
    range.map(|m| (m, m + 1, "succeeded".to_owned(), cause.to_owned())).collect()
}

fn down_for_fifty_intervals(servers: &Servers, database: &Database) -> Test {
    let config = "[schedules.default]\ncatch_up = \"all\"\n[schedules.latest]\ncatch_up = \"latest\"\n\
                  [schedules.none]\ncatch_up = \"none\"\n[schedules.ten]\nmax_runs = 10\n";
    let mut site = Site::new(servers, database, config)?;
    let all = ["default", "latest", "none", "ten"];
    let score = site.fleetscore.start(&["score"]);
    database.wait_for("SELECT count(*) FROM schedules WHERE looked_at IS NOT NULL", 4, PATIENCE);
    site.put(0..3)?;
    all.iter().for_each(|s| site.wait_for_runs(s, 3));
    score.stop();
    let stopped = Instant::now();
    std::thread::sleep(LOOK_GAP + Duration::from_secs(2) - stopped.elapsed());
    site.put(3..53)?;
    let score = site.fleetscore.start(&["score"]);
    site.wait_for_runs("default", 53);
    site.wait_for_runs("ten", 13);
    // The seam: what comes after is scored by all of them.
    site.put(53..54)?;
    for (schedule, runs) in [("default", 54), ("latest", 5), ("none", 4), ("ten", 14)] {
        site.wait_for_runs(schedule, runs);
    }
    score.stop();
    let before = each(0..3, "schedule");
    let after = each(53..54, "schedule");
    for (schedule, between) in [
        ("default", each(3..53, "catch_up")),
        ("latest", [rows(&[(3, 52, "skipped", "catch_up")]), each(52..53, "catch_up")].concat()),
        ("none", rows(&[(3, 53, "skipped", "catch_up")])),
        ("ten", [rows(&[(3, 43, "skipped", "catch_up")]), each(43..53, "catch_up")].concat()),
    ] {
        assert_eq!(site.runs(schedule)?, [before.clone(), between, after.clone()].concat(), "{schedule}");
    }
    for (schedule, reason) in [("latest", "latest"), ("none", "none"), ("ten", "max_runs")] {
        let said =
            database.rows(&format!("SELECT reason FROM fires WHERE schedule = '{schedule}' AND NOT made"))?;
        assert!(said.len() == 1 && said[0][0].contains(reason), "{schedule}: {said:?}");
    }
    Ok(())
}

fn paused_and_resumed(servers: &Servers, database: &Database) -> Test {
    let mut site = Site::new(servers, database, "")?;
    let score = site.fleetscore.start(&["score"]);
    database.wait_for("SELECT count(*) FROM schedules WHERE looked_at IS NOT NULL", 1, PATIENCE);
    site.put(0..2)?;
    site.wait_for_runs("default", 2);
    site.fleetscore.run(&["schedules", "pause", "default"]);
    site.put(2..5)?;
    wait_until("the row of the pause", PATIENCE, || match &site.runs("default")?[..] {
        [_, _, (2, 5, state, cause)] if state == "skipped" && cause == "paused" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    score.stop();
    // Also what becomes ready while nobody looks.
    site.put(5..7)?;
    site.fleetscore.run(&["schedules", "resume", "default"]);
    site.put(7..8)?;
    let score = site.fleetscore.start(&["score"]);
    site.wait_for_runs("default", 3);
    score.stop();
    let wanted =
        [each(0..2, "schedule"), rows(&[(2, 7, "skipped", "paused")]), each(7..8, "schedule")].concat();
    assert_eq!(site.runs("default")?, wanted);
    let unknown = site.fleetscore.fail(&["schedules", "pause", "nobody"], 2);
    assert!(unknown.contains("nobody"), "{unknown}");
    Ok(())
}

/// Every two seconds; what is ready then is scored, and a fire without anything new says so.
fn cron_fires(servers: &Servers, database: &Database) -> Test {
    let mut site = Site::new(servers, database, "[schedules.default]\ncron = \"*/2 * * * * *\"\n")?;
    site.put(0..3)?;
    let score = site.fleetscore.start(&["score"]);
    site.wait_for_runs("default", 3);
    site.put(3..5)?;
    site.wait_for_runs("default", 5);
    database.wait_for(
        "SELECT CASE WHEN count(*) > 0 THEN 1 ELSE 0 END FROM fires WHERE reason LIKE 'not ready%'",
        1,
        PATIENCE,
    );
    score.stop();
    let made = database.number("SELECT count(*) FROM fires WHERE made")?;
    assert!((2..=4).contains(&made), "{made} fires for what was ready at two times");
    let next: serde_json::Value =
        serde_json::from_str(&site.fleetscore.run(&["schedules", "next", "default", "--json"]))?;
    assert_eq!(next["fires"].as_array().map(Vec::len), Some(5), "{next}");
    Ok(())
}
