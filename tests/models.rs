//! Model sets as users handle them: predictions straight from files, import from every source, comparison, pins,
//! activation and rollback under running scorers, damage.

use crate::data::{Dataset, datasets, reference, reference_folder, seeded, write_csv};
use crate::golden::expected;
use crate::scenario::{
    assert_predictions, assert_windows, pipeline, rfc3339, series_with_model, single_messages, topic,
    wait_until_scored,
};
use fleetscore_harness::database::Database;
use fleetscore_harness::fleetscore::Fleetscore;
use fleetscore_harness::{Servers, Test};
use fleetscore_oracle::{self as oracle, Edges, ModelNumbers, Prediction, Reading};
use libtest_mimic::Trial;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::{ObjectStoreExt, PutPayload};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

const MINUTE: i64 = 60_000_000;

type Numbers = BTreeMap<(String, String), ModelNumbers>;

/// All trials of this file.
pub fn trials(servers: &Arc<Servers>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: String, test: Box<dyn FnOnce(&Servers) -> Test + Send>| {
        let servers = servers.clone();
        trials.push(Trial::test(format!("models::{name}"), move || test(&servers)));
    };
    for data in datasets() {
        let name = data.name;
        add(format!("{name}::predict"), Box::new(move |s| predict(s, &data)));
    }
    add("predict_names_bad_lines".into(), Box::new(|_| predict_names_bad_lines()));
    let data = reference().unwrap_or_else(seeded);
    for sqlite in [false, true] {
        let store = if sqlite { "sqlite" } else { "postgres" };
        let d = data.clone();
        add(format!("life_{store}"), Box::new(move |s| life(s, &d, sqlite)));
        let d = data.clone();
        add(format!("activation_{store}"), Box::new(move |s| activation(s, &d, sqlite)));
    }
    let d = data.clone();
    add("sources".into(), Box::new(move |s| sources(s, &d)));
    let d = data.clone();
    add("normal_ranges".into(), Box::new(move |s| normal_ranges(s, &d)));
    let d = data.clone();
    add("damage".into(), Box::new(move |s| damage(s, &d)));
    add(format!("{}::golden_on_the_portable_path", data.name), Box::new(move |s| portable(s, &data)));
    trials
}

fn database(servers: &Servers, sqlite: bool) -> Database {
    if sqlite { Database::sqlite(servers) } else { Database::postgres(servers) }
}

/// The binary as `predict` is used: without any setting.
fn run_predict(args: &[&str], input: &[u8], kernel: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fleetscore"))
        .arg("predict")
        .args(args)
        .env("FLEETSCORE_KERNEL", kernel)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut to = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        scope.spawn(move || to.write_all(input).ok());
        child.wait_with_output().expect("it ends")
    })
}

fn text(out: &[u8]) -> String {
    String::from_utf8_lossy(out).into_owned()
}

/// The reference's own job: every reading scored by its series' pickle, one row each, in the order of the file.
fn predict(servers: &Servers, data: &Dataset) -> Test {
    let out = servers.folder("predict").join("predictions.csv");
    let models = data.models.display().to_string();
    let (csv, file) = (data.csv.display().to_string(), out.display().to_string());
    let done = run_predict(&["--models", &models, "--csv", &csv, "--out", &file], b"", "");
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let bytes = std::fs::read(&out)?;
    let mut reader = csv::Reader::from_reader(&bytes[..]);
    let header = "TS,Device,Sensor,Val,Prediction,decision,status,normal_range";
    assert_eq!(reader.headers()?.iter().collect::<Vec<_>>().join(","), header);
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
    assert_eq!(rows.len(), data.readings.len());
    for (row, reading) in rows.iter().zip(&data.readings) {
        let numbers = &data.numbers[&(reading.device.clone(), reading.sensor.clone())];
        let decision = numbers.decision(reading.value);
        assert_eq!((&row[1], &row[2]), (reading.device.as_str(), reading.sensor.as_str()));
        assert_eq!(row[3].parse::<f64>()?, reading.value);
        assert_eq!(row[4], *if decision > 0.0 { "0" } else { "1" }, "{row:?}");
        assert!((row[5].parse::<f64>()? - decision).abs() <= 1e-14, "{row:?} for {decision}");
        assert_eq!((&row[6], row[7].is_empty()), ("scored", decision > 0.0), "{row:?}");
    }
    if let Some(folder) = reference_folder().filter(|_| data.name == "reference") {
        let mut golden = csv::Reader::from_path(folder.join("golden_predictions.csv"))?;
        let golden: Vec<csv::StringRecord> = golden.records().collect::<Result<_, _>>()?;
        assert_eq!(golden.len(), rows.len());
        for (row, golden) in rows.iter().zip(&golden) {
            assert!((0..5).all(|i| row[i] == golden[i]), "{row:?} for {golden:?}");
            let distance = (row[5].parse::<f64>()? - golden[5].parse::<f64>()?).abs();
            assert!(distance <= 1e-15, "{row:?} for {golden:?}");
        }
    }
    // From pipe to pipe, on the path without wide instructions: the same bytes.
    let args = ["--models", &models, "--csv", "-", "--out", "-"];
    let piped = run_predict(&args, &std::fs::read(&data.csv)?, "portable");
    assert_eq!(piped.status.code(), Some(0), "{}", text(&piped.stderr));
    assert!(piped.stdout == bytes, "the same rows from pipe to pipe");
    Ok(())
}

fn predict_names_bad_lines() -> Test {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models");
    let args = ["--models", models, "--csv", "-", "--out", "-"];
    let lines =
        "device,sensor,value,ts\npress-1,temp,20,a\npress-1,temp,warm,b\nx,temp,20,c\npress-1,temp,20,d\n";
    let done = run_predict(&args, lines.as_bytes(), "");
    let (rows, said) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(3), "{said}");
    assert!(said.contains("line 3: `warm` is not a finite number"), "{said}");
    let rows: Vec<&str> = rows.lines().collect();
    assert_eq!(rows.len(), 5, "a row for every line: {rows:?}");
    assert!(rows[2].starts_with("b,press-1,temp,warm,,,input_invalid,"), "{rows:?}");
    assert!(rows[3].starts_with("c,x,temp,20.0,,,no_model,"), "{rows:?}");
    assert_eq!(rows[1].strip_prefix('a'), rows[4].strip_prefix('d'), "its neighbours count");
    for (lines, args, what) in [
        ("device,sensor,ts\n", &args[..], "value or val"),
        (lines, &["--models", "/nowhere", "--csv", "-", "--out", "-"], "/nowhere"),
        (lines, &["--models", models, "--csv", "/nowhere.csv", "--out", "-"], "/nowhere.csv"),
    ] {
        let done = run_predict(args, lines.as_bytes(), "");
        assert_eq!((done.status.code(), done.stdout.len()), (Some(2), 0), "{}", text(&done.stderr));
        assert!(text(&done.stderr).contains(what), "{}", text(&done.stderr));
    }
    let wrong = run_predict(&args, lines.as_bytes(), "abacus");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("FLEETSCORE_KERNEL"), "{}", text(&wrong.stderr));
    Ok(())
}

/// Models as lines of JSON, each with a recorded decision.
fn write_lines(file: &Path, numbers: &Numbers) {
    let mut lines = String::new();
    for ((device, sensor), m) in numbers {
        let vectors: Vec<[f64; 1]> = m.vectors.iter().map(|v| [*v]).collect();
        let line = json!({
            "device": device, "sensor": sensor, "kernel": "rbf", "gamma": m.gamma, "mean": [m.mean], "scale": [m.scale],
            "support_vectors": vectors, "dual_coef": m.coefficients, "rho": m.rho,
            "check": {"x": [[m.mean]], "decision": [m.decision(m.mean)]},
        });
        lines.push_str(&format!("{line}\n"));
    }
    std::fs::write(file, lines).expect("a file in the test's folder");
}

/// The same models, made for values that lie higher by some of their scales.
fn moved(numbers: &Numbers, scales: f64) -> Numbers {
    let moved = |m: &ModelNumbers| ModelNumbers { mean: m.mean + scales * m.scale, ..m.clone() };
    numbers.iter().map(|(name, m)| (name.clone(), moved(m))).collect()
}

/// What `models … --json` prints.
fn json_of(fleetscore: &Fleetscore, args: &[&str]) -> Value {
    let out = fleetscore.run(&[args, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"))
}

/// The readings in three parts, cut between minutes.
fn thirds(readings: &[Reading]) -> [Vec<Reading>; 3] {
    let at = |i: usize| readings[i].ts_us.div_euclid(MINUTE) * MINUTE;
    let (first, second) = (at(readings.len() / 3), at(readings.len() * 2 / 3));
    let part = |from: i64, to: i64| {
        readings.iter().filter(|r| (from..to).contains(&r.ts_us)).cloned().collect::<Vec<_>>()
    };
    [part(i64::MIN, first), part(first, second), part(second, i64::MAX)]
}

/// Import, comparison, pin, activation and rollback while one `up` runs from beginning to end.
fn life(servers: &Servers, data: &Dataset, sqlite: bool) -> Test {
    let database = database(servers, sqlite);
    let topic = topic("life");
    servers.kafka().create_topic(&topic, 2);
    let fleetscore = Fleetscore::new(servers, &database, &topic);
    let folder = servers.folder("sets");
    let files: [PathBuf; 2] = ["first.jsonl", "second.jsonl"].map(|f| folder.join(f));
    let second = moved(&data.numbers, 0.7);
    write_lines(&files[0], &data.numbers);
    write_lines(&files[1], &second);
    let [one, two] = files.map(|f| f.display().to_string());
    let report = json_of(&fleetscore, &["models", "import", &one]);
    assert_eq!((&report["imported"], &report["active"]), (&json!(data.numbers.len()), &json!(true)));
    let parts = thirds(&data.readings);
    let up = fleetscore.start(&["up"]);
    let mut sent = 0;
    let mut expected = 0;
    let mut score = |part: &[Reading]| {
        servers.kafka().send(&topic, &single_messages(part));
        sent += part.len();
        expected += oracle::windows(part, MINUTE, MINUTE, Edges::Start).len();
        wait_until_scored(&up, &database, sent, &[("default", expected)]);
    };
    score(&parts[0]);

    // The second set beside the first, not active: which labels would change.
    json_of(&fleetscore, &["models", "import", &two, "--no-activate"]);
    compare(&fleetscore, &parts[0], &data.numbers, &second);
    assert_eq!(
        database.number("SELECT count(*) FROM predictions WHERE model_set = 2")?,
        0,
        "nothing is written"
    );

    // One series stays with the first, the others go on with the second.
    let pinned = data.numbers.keys().next().expect("a series").clone();
    pin(&fleetscore, &pinned);
    assert_eq!(database.number("SELECT count(*) FROM model_pins WHERE model_set = 1")?, 1);
    fleetscore.run(&["models", "activate", "2"]);
    score(&parts[1]);
    // Back to the first; the running scorer notices.
    fleetscore.run(&["models", "rollback"]);
    score(&parts[2]);
    up.stop();

    let starts: Vec<i64> = parts.iter().map(|p| p[0].ts_us.div_euclid(MINUTE) * MINUTE).collect();
    let sql = format!(
        "SELECT {}, device, sensor, prediction, model_set FROM predictions WHERE status = 'scored'",
        database.micros("window_start")
    );
    let rows = database.rows(&sql)?;
    assert_eq!(rows.len(), expected);
    let windows = oracle::windows(&data.readings, MINUTE, MINUTE, Edges::Start);
    for row in rows {
        let key = (row[0].parse::<i64>()?, row[1].clone(), row[2].clone());
        let name = (row[1].clone(), row[2].clone());
        let by_second = (starts[1]..starts[2]).contains(&key.0) && name != pinned;
        let (set, numbers) = if by_second { ("2", &second) } else { ("1", &data.numbers) };
        let decision = numbers[&name].decision(windows[&key].mean);
        let label = if decision > 0.0 { "0" } else { "1" };
        assert_eq!((row[3].as_str(), row[4].as_str()), (label, set), "{key:?}");
    }
    fleetscore.run(&["models", "unpin", "--series", "."]);
    assert_eq!(database.number("SELECT count(*) FROM model_pins")?, 0);
    show(&fleetscore, data);
    Ok(())
}

/// Pins a series to the first set.
fn pin(fleetscore: &Fleetscore, pinned: &(String, String)) {
    let series = format!("{}/{}", pinned.0, pinned.1);
    let wrong = fleetscore.fail(&["models", "pin", "no/such", "--set", "1"], 2);
    assert!(wrong.contains("no/such"), "{wrong}");
    let wrong = fleetscore.fail(&["models", "pin", &series, "--set", "7"], 2);
    assert!(wrong.contains("no model set 7"), "{wrong}");
    fleetscore.run(&["models", "pin", &series, "--set", "1"]);
    let pins = json_of(fleetscore, &["models", "pins"]);
    assert_eq!((&pins[0]["device"], &pins[0]["model_set"]), (&json!(pinned.0), &json!(1)), "{pins}");
}

/// `models diff` finds exactly the labels that an independent computation finds.
fn compare(fleetscore: &Fleetscore, readings: &[Reading], first: &Numbers, second: &Numbers) {
    let windows = oracle::windows(readings, MINUTE, MINUTE, Edges::Start);
    let label = |p: &BTreeMap<_, Prediction>, key| p[key].label;
    let (a, b) = (oracle::predictions(&windows, first), oracle::predictions(&windows, second));
    let changed: BTreeSet<_> = windows.keys().filter(|k| label(&a, *k) != label(&b, *k)).collect();
    assert!(!changed.is_empty() && changed.len() < windows.len(), "the sets differ in some labels");
    let starts: BTreeSet<i64> = windows.keys().map(|k| k.0).collect();
    let from = rfc3339(*starts.first().expect("a window"));
    let to = rfc3339(starts.last().expect("a window") + MINUTE);
    let range = ["models", "diff", "1", "2", "--from", &from, "--to", &to, "--limit", "1000000"];
    let diff = json_of(fleetscore, &range);
    assert_eq!((&diff["windows"], &diff["changed"]), (&json!(windows.len()), &json!(changed.len())));
    assert_eq!(diff["intervals"].as_array().map(Vec::len), Some(starts.len()));
    let mut found = BTreeSet::new();
    for change in diff["changes"].as_array().expect("a list") {
        let field = |name: &str| change[name].as_str().expect("a text").to_owned();
        let start = chrono::DateTime::parse_from_rfc3339(&field("interval_start")).expect("a time");
        let key = (start.timestamp_micros(), field("device"), field("sensor"));
        assert_eq!(change["value"], json!(windows[&key].mean));
        for (side, wanted) in [("a", a[&key]), ("b", b[&key])] {
            let shown = Prediction {
                label: change[side]["prediction"].as_i64().expect("a label"),
                decision: change[side]["decision"].as_f64().expect("a number"),
            };
            assert_eq!(wanted.differs(&shown), None, "{change}");
            assert!(change[side]["normal_range"].is_string(), "{change}");
        }
        found.insert(key);
    }
    assert!(found.iter().eq(changed.iter().copied()), "the changed labels");
    let series: BTreeSet<_> = changed.iter().map(|k| (&k.1, &k.2)).collect();
    assert_eq!(diff["series_changed"], json!(series.len()));
    let words = fleetscore.run(&["models", "diff", "1", "2", "--from", &from, "--to", &to]);
    let last = format!("{} of {} labels differ between set 1 and set 2", changed.len(), windows.len());
    assert!(words.contains(&last), "{words}");
    // By default the newest interval, alone.
    let newest = json_of(fleetscore, &["models", "diff", "1", "2"]);
    assert_eq!(newest["intervals"][0]["interval_start"], json!(rfc3339(*starts.last().expect("one"))));
    let same = json_of(fleetscore, &["models", "diff", "2", "2", "--from", &from, "--to", &to]);
    assert_eq!(same["changed"], json!(0));
    let wrong = fleetscore.fail(&["models", "diff", "1", "9"], 2);
    assert!(wrong.contains("no model set 9"), "{wrong}");
}

fn show(fleetscore: &Fleetscore, data: &Dataset) {
    let all = json_of(fleetscore, &["models", "show", "1"]);
    assert_eq!(all["entries"].as_array().map(Vec::len), Some(data.numbers.len()));
    assert!(all["bytes"].as_u64().is_some_and(|n| n > 0) && all["features"] == json!(["mean"]), "{all}");
    let (device, sensor) = data.numbers.keys().next().expect("a series");
    let regex = format!("^{device}/{sensor}$");
    let one = json_of(fleetscore, &["models", "show", "1", "--series", &regex]);
    assert_eq!(one["entries"].as_array().map(Vec::len), Some(1));
    let words = fleetscore.run(&["models", "show", "1", "--limit", "2"]);
    let more = format!("… and {} more (--json or --limit lists them)", data.numbers.len() - 2);
    assert!(words.contains("checksum") && words.contains(&more), "{words}");
    let list = json_of(fleetscore, &["models", "list"]);
    let versions: Vec<i64> =
        list.as_array().expect("a list").iter().filter_map(|s| s["version"].as_i64()).collect();
    assert_eq!(versions, [2, 1]);
    assert_eq!(json_of(fleetscore, &["models", "failures", "1"]), json!([]));
}

/// Sets change for as long as a worker scores: no interval has rows of two, none is skipped.
fn activation(servers: &Servers, data: &Dataset, sqlite: bool) -> Test {
    let database = database(servers, sqlite);
    let topic = topic("activation");
    servers.kafka().create_topic(&topic, 2);
    let fleetscore = Fleetscore::new(servers, &database, &topic).with("--interval", "5s");
    let folder = servers.folder("sets");
    for (file, scales, more) in [("a.jsonl", 0.0, &[][..]), ("b.jsonl", 0.7, &["--no-activate"][..])] {
        write_lines(&folder.join(file), &moved(&data.numbers, scales));
        let path = folder.join(file).display().to_string();
        fleetscore.run(&[&["models", "import", path.as_str()], more].concat());
    }
    let aggregate = fleetscore.start(&["aggregate"]);
    let windows_of = |readings| oracle::windows(readings, 5_000_000, 5_000_000, Edges::Start);
    let [first, second, last] = thirds(&data.readings);
    let sent = [first, second].concat();
    servers.kafka().send(&topic, &single_messages(&sent));
    let (windows, raced) = (windows_of(&data.readings), windows_of(&sent).len());
    let read = "SELECT coalesce(sum(readings), 0) FROM windows";
    database.wait_for(read, sent.len() as i64, crate::scenario::PATIENCE);
    let score = fleetscore.start(&["score"]);
    let scored = "SELECT count(*) FROM predictions WHERE status = 'scored'";
    let mut changes = 0;
    while database.number(scored)? < raced as i64 {
        score.assert_alive();
        assert!(changes < 2000, "{} of {raced} windows are scored", database.number(scored)?);
        match changes % 4 {
            0 => fleetscore.run(&["models", "activate", "2"]),
            1 => fleetscore.run(&["models", "rollback", "--no-verify"]),
            2 => fleetscore.run(&["models", "activate", "2", "--no-verify"]),
            _ => fleetscore.run(&["models", "activate", "1", "--no-verify"]),
        };
        changes += 1;
    }
    wait_until_scored(&score, &database, sent.len(), &[("default", raced)]);
    // A look opens many intervals with one set, so chance may have given all of them the same: the rest gets the other.
    let used = "SELECT max(model_set) FROM predictions WHERE status = 'scored'";
    let other = (3 - database.number(used)?).to_string();
    fleetscore.run(&["models", "activate", &other, "--no-verify"]);
    servers.kafka().send(&topic, &single_messages(&last));
    wait_until_scored(&score, &database, data.readings.len(), &[("default", windows.len())]);
    score.stop();
    aggregate.stop();
    let mixed = database.number(
        "SELECT count(*) FROM (SELECT window_start FROM predictions WHERE status <> 'no_model' \
         GROUP BY window_start HAVING count(DISTINCT model_set) > 1) AS mixed",
    )?;
    assert_eq!(mixed, 0, "intervals with rows of two sets");
    let sets = "SELECT count(DISTINCT model_set) FROM predictions WHERE status = 'scored'";
    assert_eq!(database.number(sets)?, 2, "both were active in {changes} changes");
    let intervals: BTreeSet<i64> = windows.keys().map(|k| k.0).collect();
    let found = database.number("SELECT count(DISTINCT window_start) FROM predictions")?;
    assert_eq!(found, intervals.len() as i64, "intervals that are scored");
    let bad = "SELECT count(*) FROM runs WHERE state NOT IN ('succeeded', 'skipped') OR (state = 'skipped' AND cause <> 'gap')";
    assert_eq!(database.number(bad)?, 0);
    Ok(())
}

/// The same models from every kind of source.
fn sources(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::sqlite(servers);
    let azurite = servers.azurite();
    let mut fleetscore = Fleetscore::new(servers, &database, &topic("sources"));
    for (name, value) in azurite.environment() {
        fleetscore = fleetscore.env(&name, &value);
    }
    let ranges = |fleetscore: &Fleetscore, version: i64| -> BTreeMap<(String, String), Value> {
        let set = json_of(fleetscore, &["models", "show", &version.to_string()]);
        let name = |e: &Value, field: &str| e[field].as_str().expect("a name").to_owned();
        let entries = set["entries"].as_array().expect("a list");
        entries.iter().map(|e| ((name(e, "device"), name(e, "sensor")), e["normal"].clone())).collect()
    };
    // Pickles of a folder …
    fleetscore.run(&["models", "import", &data.models.display().to_string()]);
    let wanted = ranges(&fleetscore, 1);
    assert_eq!(wanted.len(), data.numbers.len());
    // … the same in blob storage …
    let container = azurite.container();
    upload(&azurite.environment(), &container, &data.models);
    fleetscore.run(&["models", "import", &format!("az://{container}/models")]);
    assert_eq!(ranges(&fleetscore, 2), wanted, "from blob storage");
    // … by a list of files under other names …
    let folder = servers.folder("listed");
    let mut list = String::from("path,device,sensor\n");
    for (i, (device, sensor)) in data.numbers.keys().enumerate() {
        let copy = folder.join(format!("{i}.pkl"));
        std::fs::copy(data.models.join(format!("model_{device}_{sensor}")), &copy)?;
        list.push_str(&format!("{},{device},{sensor}\n", copy.display()));
    }
    std::fs::write(folder.join("list.csv"), list)?;
    fleetscore.run(&["models", "import", "--list", &folder.join("list.csv").display().to_string()]);
    assert_eq!(ranges(&fleetscore, 3), wanted, "by a list");
    // … and their plain numbers, as lines of JSON.
    let lines = folder.join("models.jsonl");
    write_lines(&lines, &data.numbers);
    let lines = lines.display().to_string();
    fleetscore.run(&["models", "import", &lines]);
    assert_eq!(ranges(&fleetscore, 4), wanted, "as lines of JSON");
    // Parquet, of the formats' own tests, beside the same models as JSON.
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/scorer/formats/tests/data");
    for file in ["models.jsonl", "models.parquet"] {
        let out = fleetscore.output(&["models", "import", &format!("{fixtures}/{file}"), "--allow-partial"]);
        assert!([Some(0), Some(3)].contains(&out.status.code()), "{}", text(&out.stderr));
    }
    assert_eq!(ranges(&fleetscore, 6), ranges(&fleetscore, 5), "Parquet and JSON");
    for version in 1..=6 {
        let verified = json_of(&fleetscore, &["models", "verify", &version.to_string()]);
        assert_eq!((&verified["whole"], &verified["problems"]), (&json!(true), &json!([])), "{verified}");
        assert!(verified["scored"].as_u64().is_some_and(|n| n > 0), "{verified}");
    }
    // A recorded decision that does not come out: refused with the numbers, and nothing changes.
    let wrong = std::fs::read_to_string(&lines)?.replacen("\"decision\":[", "\"decision\":[1", 1);
    std::fs::write(folder.join("wrong.jsonl"), wrong)?;
    fleetscore.fail(&["models", "import", &folder.join("wrong.jsonl").display().to_string()], 1);
    assert_eq!(database.number("SELECT count(*) FROM model_sets")?, 6);
    Ok(())
}

/// Puts a folder's files into a container, under `models/`.
fn upload(environment: &[(String, String)], container: &str, folder: &Path) {
    let url = environment.iter().find(|(k, _)| k == "AZURITE_BLOB_STORAGE_URL").expect("set by the harness");
    let store = MicrosoftAzureBuilder::new()
        .with_endpoint(format!("{}/{}", url.1, fleetscore_harness::azurite::ACCOUNT))
        .with_allow_http(true)
        .with_account(fleetscore_harness::azurite::ACCOUNT)
        .with_access_key(fleetscore_harness::azurite::KEY)
        .with_container_name(container)
        .build()
        .expect("a client of the emulator");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = format!("models/{}", path.file_name().expect("a name").to_string_lossy());
            let bytes = std::fs::read(&path).expect("a file");
            store.put(&name.as_str().into(), PutPayload::from(bytes)).await.expect("it is put");
        }
    });
}

/// What an anomaly lacks, for models of one feature and of two.
fn normal_ranges(servers: &Servers, data: &Dataset) -> Test {
    let readings = &data.readings[..data.readings.len() / 4];
    let csv = servers.folder("readings").join("readings.csv");
    write_csv(&csv, readings);
    let windows = oracle::windows(readings, MINUTE, MINUTE, Edges::Start);
    for two in [false, true] {
        let database = database(servers, two);
        let folder = servers.folder("features");
        let mut fleetscore = Fleetscore::new(servers, &database, &topic("features"));
        let (names, n): (Value, usize) = if two { (json!(["mean", "max"]), 2) } else { (json!(["mean"]), 1) };
        if two {
            fleetscore = fleetscore.config("[schedules.default]\nfeatures = [\"mean\", \"max\"]\n");
        }
        let mut lines = String::new();
        for ((device, sensor), m) in &data.numbers {
            // exp(−d²/2) > ½: normal within √(2·ln 2) = 1.177 scales of the mean.
            let line = json!({
                "device": device, "sensor": sensor, "features": names, "kernel": "rbf", "gamma": 0.5,
                "mean": vec![m.mean; n], "scale": vec![m.scale; n],
                "support_vectors": [vec![0.0; n]], "dual_coef": [1.0], "rho": 0.5,
            });
            lines.push_str(&format!("{line}\n"));
        }
        let file = folder.join("models.jsonl");
        std::fs::write(&file, lines)?;
        let features = if two { "mean,max" } else { "mean" };
        fleetscore.run(&["models", "import", &file.display().to_string(), "--features", features]);
        fleetscore.run(&["send", "--csv", &csv.display().to_string(), "--create-topic", "1"]);
        let up = fleetscore.start(&["up"]);
        wait_until_scored(&up, &database, readings.len(), &[("default", windows.len())]);
        up.stop();
        let sql = format!(
            "SELECT {}, device, sensor, {}, normal_range FROM anomalies",
            database.micros("window_start"),
            database.exact("value")
        );
        let rows = database.rows(&sql)?;
        assert!(rows.len() > 5, "{} anomalies", rows.len());
        for row in &rows {
            let m = &data.numbers[&(row[1].clone(), row[2].clone())];
            let (value, range) = (row[3].parse::<f64>()?, &row[4]);
            if two {
                let max = windows[&(row[0].parse()?, row[1].clone(), row[2].clone())].max;
                let distance = (value - m.mean).hypot(max - m.mean) / m.scale;
                assert!(distance > 1.17, "{row:?}");
                assert!(
                    range.starts_with("mean ") && range.contains(", max ") && range.contains('→'),
                    "{row:?}"
                );
            } else {
                let (low, high) = range.split_once(" … ").expect("one range");
                let (low, high) = (low.parse::<f64>()?, high.parse::<f64>()?);
                assert!(value < low || value > high, "{row:?}: outside");
                let reach = (2.0 * 2f64.ln()).sqrt() * m.scale;
                let near = |a: f64, b: f64| (a - b).abs() <= 2e-4 * b.abs();
                assert!(near(low, m.mean - reach) && near(high, m.mean + reach), "{row:?} for {reach}");
            }
        }
    }
    Ok(())
}

/// A flipped byte is found, and a set that has one does not become active.
fn damage(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::sqlite(servers);
    let fleetscore = Fleetscore::new(servers, &database, &topic("damage"));
    let models = data.models.display().to_string();
    fleetscore.run(&["models", "import", &models]);
    fleetscore.run(&["models", "import", &models]);
    let path = &database.rows("SELECT path FROM model_sets WHERE version = 1")?[0][0];
    let folder = fleetscore.folder.join("blobs").join(path);
    let mut tried = 0;
    for entry in std::fs::read_dir(&folder)? {
        let file = entry?.path();
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let good = std::fs::read(&file)?;
        if name.ends_with(".json") {
            continue; // the manifest says what the others are
        }
        tried += 1;
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        replace(&file, &bad)?;
        let out = fleetscore.output(&["models", "verify", "1"]);
        let said = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains(&name) && said.contains("damaged"), "{said}");
        let json: Value =
            serde_json::from_slice(&fleetscore.output(&["models", "verify", "1", "--json"]).stdout)?;
        assert_eq!(json["whole"], json!(false));
        fleetscore.fail(&["models", "activate", "1"], 1);
        fleetscore.fail(&["models", "rollback"], 1);
        let active = database.number("SELECT version FROM model_sets WHERE active")?;
        assert_eq!(active, 2, "the good set stays active");
        replace(&file, &good)?;
    }
    assert!(tried >= 2, "a part and its check vectors");
    assert!(fleetscore.run(&["models", "rollback"]).contains("model set 1 is active again"));
    Ok(())
}

/// As a new file: the old one may be mapped.
fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(&new, file)
}

/// The golden results without the instructions that this machine has beyond the target's least.
fn portable(servers: &Servers, data: &Dataset) -> Test {
    let database = Database::sqlite(servers);
    let topic = topic("portable");
    let fleetscore = pipeline(servers, data, &database, &topic).env("FLEETSCORE_KERNEL", "portable");
    fleetscore.run(&["send", "--csv", &data.csv.display().to_string(), "--create-topic", "2"]);
    let up = fleetscore.start(&["up"]);
    let (windows, predictions) = expected(data, 60);
    wait_until_scored(&up, &database, data.readings.len(), &[("default", predictions.len())]);
    up.stop();
    assert_windows(&database, "windows", &windows);
    assert_predictions(&database, "default", &predictions, &series_with_model(data));
    Ok(())
}
