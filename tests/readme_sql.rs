//! The queries the README shows work as shown, in `psql`, in the stock `sqlite3` and through `fleetscore sql`; the
//! documented views have the documented columns.

use crate::data::{Dataset, reference, seeded};
use crate::scenario::{pipeline, topic, wait_until_scored};
use fleetscore_harness::database::Database;
use fleetscore_harness::{Servers, Test};
use fleetscore_oracle::{self as oracle, Edges};
use libtest_mimic::Trial;
use std::sync::Arc;

/// The views and the columns that stay, first and in this order (more may follow).
const VIEWS: [(&str, &str); 6] = [
    (
        "windows",
        "window_start,window_end,device,sensor,readings,sum,mean,stddev,min,max,first,last,version,ready",
    ),
    (
        "predictions",
        "schedule,window_start,window_end,device,sensor,value,prediction,decision,status,model_set,model,\
         window_version,stale,run_id,scored_at",
    ),
    (
        "dead_letters",
        "id,topic,kafka_partition,kafka_offset,position,code,detail,payload,broker_time,recorded_at,replayed_at",
    ),
    (
        "progress",
        "source,topic,kafka_partition,next_offset,end_offset,watermark,owner,owner_seen_at,updated_at",
    ),
    (
        "runs",
        "run_id,schedule,interval_start,interval_end,state,cause,model_set,scored,anomalies,no_data,no_model,\
         model_error,input_invalid,attempt,started_at,finished_at,error",
    ),
    ("anomalies", "schedule,window_start,window_end,device,sensor,value,prediction,decision"),
];

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    [false, true]
        .into_iter()
        .map(|sqlite| {
            let servers = servers.clone();
            let name = if sqlite { "readme_sql::sqlite" } else { "readme_sql::postgres" };
            Trial::test(name, move || readme_sql(&servers, &reference().unwrap_or_else(seeded), sqlite))
        })
        .collect()
}

/// The statements in the README's `sql` blocks.
fn readme_statements() -> Vec<String> {
    let readme = include_str!("../README.md");
    let mut statements = Vec::new();
    for block in readme.split("```sql\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        statements.extend(block.split(';').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()));
    }
    statements
}

fn readme_sql(servers: &Servers, data: &Dataset, sqlite: bool) -> Test {
    let database = if sqlite { Database::sqlite(servers) } else { Database::postgres(servers) };
    let topic = topic("readme");
    let fleetscore = pipeline(servers, data, &database, &topic);
    fleetscore.run(&["send", "--csv", &data.csv.display().to_string(), "--create-topic", "2"]);
    let up = fleetscore.start(&["up"]);
    let windows = oracle::windows(&data.readings, 60_000_000, 60_000_000, Edges::Start);
    let predictions = oracle::predictions(&windows, &data.numbers);
    wait_until_scored(&up, &database, data.readings.len(), &[("default", predictions.len())]);

    for (view, columns) in VIEWS {
        let header = fleetscore.run(&["sql", &format!("SELECT * FROM {view} LIMIT 0"), "--format", "csv"]);
        let header = header.lines().next().unwrap_or_default();
        assert!(header.starts_with(columns), "{view}: {header}");
    }
    for view in ["run_tasks", "model_sets", "model_failures", "model_pins", "loss_events", "schedules"] {
        database.rows(&format!("SELECT * FROM {view}"))?;
    }
    assert_eq!(database.number("SELECT count(*) FROM windows WHERE NOT ready")?, 0, "all windows are ready");
    let statements = readme_statements();
    assert!(statements.len() >= 3, "the README shows queries");
    for statement in &statements {
        let stock = database.rows(statement)?;
        assert!(!stock.is_empty(), "no rows: {statement}");
        let ours = fleetscore.run(&["sql", statement, "--format", "csv"]);
        assert_eq!(ours.lines().count(), stock.len() + 1, "{statement}");
        let json: serde_json::Value =
            serde_json::from_str(&fleetscore.run(&["sql", statement, "--format", "json"]))?;
        assert_eq!(json.as_array().map(Vec::len), Some(stock.len()), "{statement}");
        fleetscore.run(&["sql", statement]);
    }
    let anomalies = predictions.values().filter(|p| p.label == 1).count() as i64;
    assert_eq!(database.number("SELECT count(*) FROM anomalies")?, anomalies);
    for forbidden in ["DELETE FROM runs", "SELECT 1; SELECT 2", "CREATE TABLE x (y int)"] {
        let out = fleetscore.output(&["sql", forbidden]);
        assert!(!out.status.success(), "`{forbidden}` must be refused");
    }
    assert!(database.number("SELECT count(*) FROM runs")? > 0);
    up.stop();
    Ok(())
}
