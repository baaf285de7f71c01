//! The end of a run: waits until everything is worked off, then compares what users can see, through stock clients, with
//! the oracle's computation over what a plain consumer reads back from the topic.

use super::enough::Proved;
use super::producer::{end_offsets, read_back};
use super::report::Journal;
use super::settings::Settings;
use super::site::{Member, Site, lock};
use crate::blobs::{download, in_sql, normalised, read_by};
use crate::scenario::{PATIENCE, assert_windows_and};
use fleetscore_harness::azurite;
use fleetscore_harness::database::Database;
use fleetscore_harness::wait_until;
use fleetscore_oracle::expect::{Letter, Oracle};
use fleetscore_oracle::fleet::Message;
use fleetscore_oracle::{Key, Prediction, Sums, Window, predictions};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;

type Series = (String, String);

/// How much had been done when the faults ended.
#[derive(Debug, Clone, Copy)]
pub struct SoFar {
    readings: u64,
    runs: u64,
}

/// What SQL shows now.
pub fn so_far(site: &Site) -> SoFar {
    let ask = |sql: &str| {
        wait_until("SQL to answer, with no fault left", PATIENCE, || site.database.number(sql)) as u64
    };
    SoFar {
        readings: ask("SELECT coalesce(sum(readings), 0) FROM windows"),
        runs: ask("SELECT count(*) FROM runs WHERE state = 'succeeded'"),
    }
}

/// Waits until every message is stored, every interval scored, nothing stale, and everything published.
pub fn drained(site: &Site, settings: &Settings, look_after: impl Fn(&Member)) -> Result<(), String> {
    let ends = end_offsets(site, settings.fleet.partitions)?;
    let sql = &site.database;
    wait_until("everything to be worked off", PATIENCE, || {
        site.members.iter().for_each(&look_after);
        let rows = sql.rows("SELECT next_offset FROM progress ORDER BY kafka_partition")?;
        let positions: Vec<i64> = rows.iter().filter_map(|r| r[0].parse().ok()).collect();
        if positions != ends {
            return Err(format!("positions {positions:?} of {ends:?}"));
        }
        for (what, question) in [
            (
                "intervals without predictions",
                "SELECT (SELECT count(DISTINCT window_start) FROM windows) - (SELECT count(DISTINCT window_start) FROM predictions)",
            ),
            ("open runs", "SELECT count(*) FROM runs WHERE state IN ('waiting', 'running')"),
            ("changed panes to look at", "SELECT count(*) FROM changed_pane_data"),
            ("stale predictions", "SELECT count(*) FROM predictions WHERE stale"),
            ("intervals to be published", "SELECT count(*) FROM publications WHERE due"),
        ] {
            match sql.number(question)? {
                0 => {}
                n => return Err(format!("{n} {what}")),
            }
        }
        Ok(())
    });
    Ok(())
}

/// Compares everything.
pub fn verify(
    site: &Site,
    settings: &Settings,
    journal: &Journal,
    sent: &[Message],
    confirmed: u64,
    during: SoFar,
) -> Result<Proved, String> {
    let ends = end_offsets(site, settings.fleet.partitions)?;
    let oracle = topic(site, settings, journal, sent, &ends)?;
    journal.verified("messages confirmed to the producer", confirmed);
    journal.verified("readings in windows before the faults ended (of all)", during.readings);
    journal.verified("runs that had succeeded before the faults ended", during.runs);

    let windows = oracle.windows();
    let database = &site.database;
    let mut predictions = 0;
    // All of it, whatever is found: one failure explains another.
    for outcome in [
        // Values are multiples of 1/8.
        catch_unwind(|| assert_windows_and(database, "windows", &windows, Sums::Exact)).map_err(text_of),
        letters(database, oracle.letters()).map(|n| journal.verified("dead letters equal", n)),
        scored(database, journal, &windows, settings).map(|n| predictions = n),
        positions(database, journal, &ends),
        published(site, journal),
        quiet_end(site, journal),
    ] {
        if let Err(wrong) = outcome {
            journal.wrong(wrong);
        }
    }
    journal.verified("windows equal (all but stddev to the bit)", windows.len() as u64);
    journal.verified("readings counted", oracle.readings());
    journal.verified("of them late", oracle.late());
    let (kills, other_faults) = journal.counts();
    Ok(Proved {
        store: settings.store,
        seconds: settings.seconds,
        kills,
        other_faults,
        zombies: journal.zombies(),
        readings_under_faults: during.readings,
        runs_under_faults: during.runs,
        readings: oracle.readings(),
        windows: windows.len() as u64,
        predictions,
    })
}

fn positions(database: &Database, journal: &Journal, ends: &[i64]) -> Result<(), String> {
    let positions = database.rows("SELECT kafka_partition, next_offset FROM progress ORDER BY 1")?;
    let wanted: Vec<Vec<String>> =
        ends.iter().enumerate().map(|(p, end)| vec![p.to_string(), end.to_string()]).collect();
    if positions != wanted {
        return Err(format!("positions are {positions:?}, the topic's ends {wanted:?}"));
    }
    journal.verified("positions are the topic's ends", positions.len() as u64);
    Ok(())
}

/// What a panic said.
pub fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// Reads the topic back: it alone says what was sent, and in which order.
fn topic(
    site: &Site,
    settings: &Settings,
    journal: &Journal,
    sent: &[Message],
    ends: &[i64],
) -> Result<Oracle, String> {
    let stored = read_back(site, ends, sent)?;
    let mut oracle = Oracle::new(settings.rules());
    let mut seen = vec![0u32; sent.len()];
    let mut out_of_order = 0;
    let mut last: BTreeMap<u32, usize> = BTreeMap::new();
    for s in &stored {
        let message = &sent[s.number];
        if message.partition != s.partition {
            return Err(format!(
                "message {} came into partition {}, not {}",
                s.number, s.partition, message.partition
            ));
        }
        out_of_order += u64::from(last.insert(s.partition, s.number).is_some_and(|before| before > s.number));
        seen[s.number] += 1;
        oracle.take(s.partition, s.offset, message);
    }
    let lost = seen.iter().filter(|n| **n == 0).count();
    if lost > 0 {
        return Err(format!("Kafka has lost {lost} messages that it had confirmed"));
    }
    journal.verified("messages read back from the topic", stored.len() as u64);
    journal.verified("of them twice: the producer's doing", seen.iter().filter(|n| **n > 1).count() as u64);
    journal.verified("of them out of order: the producer's doing", out_of_order);
    Ok(oracle)
}

/// The first few of what one side has and the other has not.
fn differences<T: Ord + std::fmt::Debug>(
    what: &str,
    mut got: Vec<T>,
    mut wanted: Vec<T>,
) -> Result<u64, String> {
    got.sort_unstable();
    wanted.sort_unstable();
    if got == wanted {
        return Ok(got.len() as u64);
    }
    let counted = |all: &[T]| -> BTreeMap<String, i64> {
        let mut counts = BTreeMap::new();
        all.iter().for_each(|x| *counts.entry(format!("{x:?}")).or_default() += 1);
        counts
    };
    let (got, wanted) = (counted(&got), counted(&wanted));
    let more = |a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>| -> Vec<String> {
        let of = |(x, n): (&String, &i64)| (*n > b.get(x).copied().unwrap_or(0)).then(|| x.clone());
        a.iter().filter_map(of).collect()
    };
    let (extra, missing) = (more(&got, &wanted), more(&wanted, &got));
    let some = |v: &[String]| v.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    Err(format!(
        "{what}: {} too many ({}), {} missing ({})",
        extra.len(),
        some(&extra),
        missing.len(),
        some(&missing)
    ))
}

/// Dead letters as a multiset, their payloads to the byte.
fn letters(database: &Database, wanted: &[Letter]) -> Result<u64, String> {
    let payload = match database {
        Database::Postgres { .. } => "encode(payload, 'hex')",
        Database::Sqlite { .. } => "lower(hex(payload))",
    };
    let rows = database.rows(&format!(
        "SELECT kafka_partition, kafka_offset, position, code, coalesce({payload}, '') FROM dead_letters"
    ))?;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let wanted = wanted
        .iter()
        .map(|l| {
            vec![
                l.partition.to_string(),
                l.offset.to_string(),
                l.position.to_string(),
                l.code.clone(),
                hex(&l.payload),
            ]
        })
        .collect();
    differences("dead letters", rows, wanted)
}

/// Every prediction: labels, decisions, and rows for what is missing; how many have a decision.
fn scored(
    database: &Database,
    journal: &Journal,
    windows: &BTreeMap<Key, Window>,
    settings: &Settings,
) -> Result<u64, String> {
    let models = settings.fleet.models();
    let expected = predictions(windows, &models);
    let rows = database.rows(&format!(
        "SELECT {}, device, sensor, status, prediction, {}, stale FROM predictions WHERE schedule = 'default'",
        database.micros("window_start"),
        database.exact("decision")
    ))?;
    let mut by_status: BTreeMap<String, Vec<Key>> = BTreeMap::new();
    for row in rows {
        let key: Key = (row[0].parse().map_err(|e| format!("{e}"))?, row[1].clone(), row[2].clone());
        if !["f", "0"].contains(&row[6].as_str()) {
            return Err(format!("the prediction of {key:?} is stale"));
        }
        if row[3] == "scored" {
            one(&key, &row[4], &row[5], expected.get(&key))?;
        } else if !row[4].is_empty() || !row[5].is_empty() {
            return Err(format!("{key:?} is {} and has a prediction", row[3]));
        }
        by_status.entry(row[3].clone()).or_default().push(key);
    }
    let mut take = |status: &str| by_status.remove(status).unwrap_or_default();
    let keys = expected.keys().cloned().collect();
    let equal = differences("predictions", take("scored"), keys)?;
    journal.verified("predictions equal", equal);
    let unmodelled: Vec<Key> =
        windows.keys().filter(|k| !models.contains_key(&(k.1.clone(), k.2.clone()))).cloned().collect();
    let count = differences("series without a model", take("no_model"), unmodelled)?;
    journal.verified("rows `no_model` equal", count);
    let (silent, sparse) = silent(database, windows, models.keys().cloned().collect())?;
    journal.verified("rows `no_data` equal", differences("silent series", take("no_data"), silent)?);
    journal.verified("intervals that late readings brought to life, without rows for silent series", sparse);
    match by_status.first_key_value() {
        Some((status, keys)) => Err(format!("{} predictions are `{status}`: {:?}", keys.len(), keys.first())),
        None => Ok(equal),
    }
}

fn one(key: &Key, label: &str, decision: &str, wanted: Option<&Prediction>) -> Result<(), String> {
    let wanted = wanted.ok_or_else(|| format!("a prediction of {key:?}, of which none is expected"))?;
    let shown = Prediction {
        label: label.parse().map_err(|e| format!("the label of {key:?}: {e}"))?,
        decision: decision.parse().map_err(|e| format!("the decision of {key:?}: {e}"))?,
    };
    wanted.differs(&shown).map_or(Ok(()), |what| Err(format!("the prediction of {key:?}: {what}")))
}

/// Which rows silent series must have: one for each model without data in each interval that has data, but for intervals
/// before the schedule's first one or inside a gap that was noted before late readings filled it.
fn silent(
    database: &Database,
    windows: &BTreeMap<Key, Window>,
    modelled: BTreeSet<Series>,
) -> Result<(Vec<Key>, u64), String> {
    let number = |text: &str| text.parse::<i64>().map_err(|e| format!("`{text}`: {e}"));
    let first = database.number(&format!("SELECT {} FROM schedules", database.micros("first_interval")))?;
    let gaps = database.rows(&format!(
        "SELECT {}, {} FROM runs WHERE state = 'skipped' AND cause = 'gap'",
        database.micros("interval_start"),
        database.micros("interval_end")
    ))?;
    let gaps: Vec<(i64, i64)> =
        gaps.iter().map(|r| Ok((number(&r[0])?, number(&r[1])?))).collect::<Result<_, String>>()?;
    let sparse: BTreeSet<i64> = database
        .rows(&format!(
            "SELECT DISTINCT {} FROM run_data WHERE data_only",
            database.micros("interval_start")
        ))?
        .iter()
        .map(|r| number(&r[0]))
        .collect::<Result<_, _>>()?;
    let intervals: BTreeSet<i64> = windows.keys().map(|k| k.0).collect();
    for start in sparse.intersection(&intervals) {
        if *start >= first && !gaps.iter().any(|(from, to)| from <= start && start < to) {
            return Err(format!(
                "the interval at {start} has rows for series with data alone, and is in no gap"
            ));
        }
    }
    let wanted = intervals
        .difference(&sparse)
        .flat_map(|start| modelled.iter().map(|(d, s)| (*start, d.clone(), s.clone())))
        .filter(|key| !windows.contains_key(key))
        .collect();
    Ok((wanted, sparse.intersection(&intervals).count() as u64))
}

/// What is published equals SQL, to other programs too.
fn published(site: &Site, journal: &Journal) -> Result<(), String> {
    let port = lock(&site.azurite).as_ref().map_or(0, azurite::Azurite::port);
    let objects = download(&azurite::environment(port), &site.container);
    let folder = site.folder.join("published");
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let (mut parquet, mut plain, mut done) = (Vec::new(), Vec::new(), 0);
    for (path, (_, bytes)) in objects.iter().filter(|(path, _)| path.contains("/predictions/")) {
        let file = path.replace('/', "_");
        if path.ends_with("predictions.parquet") {
            parquet.push(file.clone());
        } else if path.ends_with("predictions.csv") {
            plain.push(file.clone());
        } else if path.ends_with("_SUCCESS.json") {
            done += 1;
            checksums(path, bytes, &objects)?;
        }
        std::fs::write(folder.join(file), bytes).map_err(|e| e.to_string())?;
    }
    let intervals = site.database.number("SELECT count(DISTINCT window_start) FROM predictions")? as usize;
    if (parquet.len(), plain.len(), done) != (intervals, intervals, intervals) {
        return Err(format!(
            "{intervals} intervals are scored; published: {} Parquet, {} CSV, {done} _SUCCESS.json",
            parquet.len(),
            plain.len()
        ));
    }
    let sql: Vec<String> = in_sql(&site.database).into_iter().collect();
    for (how, files) in [("pyarrow", &parquet), ("csv", &plain)] {
        let read: Vec<String> = normalised(read_by(how, &folder, files)).into_iter().collect();
        differences(&format!("published, read by {how}"), read, sql.clone())?;
    }
    journal.verified("rows published as Parquet and as CSV equal SQL", sql.len() as u64);
    journal.verified("intervals published with _SUCCESS.json and its checksums", done as u64);
    Ok(())
}

/// `_SUCCESS.json` names the files beside it with their SHA-256.
fn checksums(path: &str, json: &[u8], objects: &BTreeMap<String, (String, Vec<u8>)>) -> Result<(), String> {
    use sha2::Digest;
    let json: serde_json::Value = serde_json::from_slice(json).map_err(|e| format!("{path}: {e}"))?;
    let folder = path.trim_end_matches("_SUCCESS.json");
    for name in ["predictions.parquet", "predictions.csv"] {
        let (_, bytes) =
            objects.get(&format!("{folder}{name}")).ok_or_else(|| format!("{folder}{name} is not there"))?;
        let sum: String = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        if !json.to_string().contains(&sum) {
            return Err(format!("{path} does not have the checksum of {name}"));
        }
    }
    Ok(())
}

/// Nothing is open; how often ownership and leases have changed hands, by SQL and by what the processes said.
fn quiet_end(site: &Site, journal: &Journal) -> Result<(), String> {
    let ask = |sql: &str| site.database.number(sql);
    for (what, sql) in [
        ("open runs", "SELECT count(*) FROM runs WHERE state IN ('waiting', 'running')"),
        (
            "runs that did not succeed",
            "SELECT count(*) FROM runs WHERE state NOT IN ('succeeded', 'skipped')",
        ),
        ("recorded losses", "SELECT count(*) FROM loss_events"),
    ] {
        match ask(sql)? {
            0 => journal.verified(&format!("{what} (none)"), 0),
            n => return Err(format!("{n} {what}")),
        }
    }
    for (what, sql) in [
        ("runs succeeded", "SELECT count(*) FROM runs WHERE state = 'succeeded'"),
        ("claims of partitions (epochs)", "SELECT sum(epoch) FROM progress"),
        ("leases lost to another worker", "SELECT count(*) FROM run_events WHERE event = 'lease_lost'"),
    ] {
        journal.verified(what, ask(sql)? as u64);
    }
    journal.verified(
        "zombies beside the new owner of their partitions, all of which said that they were fenced",
        journal.zombies(),
    );
    let (mut fences, mut refused, mut panics) = (0, 0, Vec::new());
    for (log, said) in site.members.iter().flat_map(Member::said) {
        fences += said.matches("fenced by").count() as u64;
        refused += said.matches("another worker has this task now").count() as u64;
        if said.contains("panicked at") {
            panics.push(log.display().to_string());
        }
    }
    journal.verified("times that an aggregator said that it was fenced", fences);
    journal.verified("times that a worker said that its task was another's", refused);
    journal.verified("starts of processes", site.members.iter().map(|m| m.starts() as u64).sum());
    let traffic = site.traffic();
    journal.verified("bytes through the proxies", traffic.up + traffic.down);
    journal.verified("connections reset by them", traffic.resets);
    if panics.is_empty() { Ok(()) } else { Err(format!("panics in {panics:?}")) }
}
