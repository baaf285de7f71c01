//! A day of intervals scored again with another model set: what the dry run said is what the run does, and a reader who polls
//! the published files meanwhile sees every interval whole, by one set or the other.

use crate::Result;
use crate::child::{Ended, succeed};
use crate::fleet::Fleet;
use crate::model_file::write_parquet;
use crate::report::{Cell, Report, Table};
use crate::windows::Filler;
use crate::workers::{PANE_US, Site, interval};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int16Type, Int64Type};
use fleetscore_schemas::SeriesName;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// By how much the second set's ρ lie higher: a part of what was normal is an anomaly then.
const MOVED_RHO: f64 = 0.25;

/// What is done.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where.
    pub site: Site,
    /// Series.
    pub series: u32,
    /// Intervals.
    pub intervals: u32,
    /// Makes models and windows.
    pub seed: u64,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Seconds of the first run over all, of the dry run, and of the second run.
    pub seconds: [f64; 3],
    /// Labels that change, by the dry run, by the stored rows and by plain arithmetic: one number for all three.
    pub changes: u64,
    /// How often the reader went over the folder while the second run was under way.
    pub polls: u64,
    /// Files that it read.
    pub files: u64,
    /// Of these, how many were of the second set.
    pub new_files: u64,
}

/// A change of label: number of the interval and of the series, before, after.
type Change = (u32, u32, i8, i8);

/// Numbers of the series by their names.
type Numbers = HashMap<SeriesName, u32>;

/// Runs it all.
///
/// # Errors
/// A process failed; the dry run, the run and plain arithmetic do not agree; the reader saw an interval that is not whole.
pub async fn measure(scenario: &Scenario) -> Result<Measured> {
    let site = &scenario.site;
    let sets =
        [0.0, MOVED_RHO].map(|moved_rho| Fleet { moved_rho, ..Fleet::new(scenario.series, scenario.seed) });
    site.configure()?;
    let file = site.folder.join("models.parquet");
    write_parquet(&file, &sets[0])?;
    site.import(&file, scenario.series)?;
    let mut filler = Filler::open(&site.store, sets[0], scenario.series, PANE_US).await?;
    for pane in 0..scenario.intervals {
        filler.put(interval(pane).start, pane, interval(pane).end).await?;
    }
    let first = scenario.run(&[])?;
    write_parquet(&file, &sets[1])?;
    succeed(site.command(&["models", "import", "--no-activate"]).arg(&file))?;
    std::fs::remove_file(&file)?;

    let dry = scenario.run(&["--model-set", "2", "--dry-run"])?;
    let numbers: Numbers = (0..scenario.series).map(|i| (sets[0].name(i), i)).collect();
    let said = scenario.changes(&dry.stdout, &numbers)?;
    let expected = expected(&sets, scenario.intervals);
    agree("the dry run", &said, &expected)?;
    let before = scenario.labels(&filler, &numbers).await?;

    let done = AtomicBool::new(false);
    let (second, watched) = std::thread::scope(|scope| -> Result<_> {
        let reader = scope.spawn(|| watch(scenario, &sets, &done));
        let second = scenario.run(&["--model-set", "2"]);
        done.store(true, SeqCst);
        let watched = reader.join().map_err(|_| "the reader panicked")?;
        Ok((second?, watched?))
    })?;
    let after = scenario.labels(&filler, &numbers).await?;
    let stored = differences(&before, &after);
    agree("the run", &stored, &expected)?;
    Ok(Measured {
        seconds: [first.seconds, dry.seconds, second.seconds],
        changes: expected.len() as u64,
        polls: watched.polls,
        files: watched.files,
        new_files: watched.new_files,
    })
}

impl Scenario {
    /// `run` over all intervals.
    fn run(&self, flags: &[&str]) -> Result<Ended> {
        let (from, to) = (interval(0).start.to_rfc3339(), interval(self.intervals).start.to_rfc3339());
        let mut args = vec!["run", "--json", "--from", &from, "--to", &to];
        args.extend(flags);
        succeed(&mut self.site.command(&args))
    }

    /// What `run --dry-run --json` says would change.
    fn changes(&self, json: &str, numbers: &Numbers) -> Result<BTreeSet<Change>> {
        let report: serde_json::Value = serde_json::from_str(json)?;
        let mut changes = BTreeSet::new();
        for (pane, i) in report["intervals"].as_array().ok_or("no intervals")?.iter().enumerate() {
            let start = interval(u32::try_from(pane)?).start.to_rfc3339();
            if i["interval_start"] != *start {
                return Err(format!("{} where {start} was expected", i["interval_start"]).into());
            }
            for c in i["changes"].as_array().ok_or("no changes")? {
                let text = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
                let name = SeriesName::new(text("device"), text("sensor"));
                let number = *numbers.get(&name).ok_or_else(|| format!("{name} is nobody's series"))?;
                changes.insert((pane as u32, number, text("before").parse()?, text("after").parse()?));
            }
        }
        Ok(changes)
    }

    /// Labels as they are stored, by interval and series; −1 where there is none.
    async fn labels(&self, filler: &Filler, numbers: &Numbers) -> Result<Vec<Vec<i8>>> {
        use futures::TryStreamExt;
        let mut labels = Vec::new();
        for pane in 0..self.intervals {
            let mut of_pane = vec![-1; self.series as usize];
            let mut batches = filler.store().predictions("default", interval(pane)).await?;
            while let Some(rows) = batches.try_next().await? {
                let text = |name| column(&rows, name).as_string::<i32>().clone();
                let (device, sensor) = (text("device"), text("sensor"));
                let label = column(&rows, "prediction").as_primitive::<Int16Type>().clone();
                for i in 0..rows.num_rows() {
                    let name = SeriesName::new(device.value(i), sensor.value(i));
                    let number = *numbers.get(&name).ok_or_else(|| format!("{name} is nobody's series"))?;
                    of_pane[number as usize] = label.value(i) as i8;
                }
            }
            labels.push(of_pane);
        }
        Ok(labels)
    }

    fn published(&self, pane: u32) -> PathBuf {
        let start = interval(pane).start.to_datetime().map(|t| t.format("%Y%m%dT%H%M%SZ").to_string());
        let start = start.unwrap_or_default();
        self.site
            .folder
            .join(format!("blobs/predictions/schedule=default/interval={start}/predictions.parquet"))
    }
}

fn differences(before: &[Vec<i8>], after: &[Vec<i8>]) -> BTreeSet<Change> {
    let mut changes = BTreeSet::new();
    for (pane, (before, after)) in (0..).zip(before.iter().zip(after)) {
        for (number, (before, after)) in (0..).zip(before.iter().zip(after)) {
            if before != after {
                changes.insert((pane, number, *before, *after));
            }
        }
    }
    changes
}

fn expected(sets: &[Fleet; 2], intervals: u32) -> BTreeSet<Change> {
    let mut changes = BTreeSet::new();
    for pane in 0..intervals {
        for i in 0..sets[0].models {
            let [before, after] = sets.map(|set| i8::from(set.decision(i, pane) <= 0.0));
            if before != after {
                changes.insert((pane, i, before, after));
            }
        }
    }
    changes
}

fn agree(who: &str, said: &BTreeSet<Change>, expected: &BTreeSet<Change>) -> Result<()> {
    if expected.is_empty() {
        return Err("no label changes at all: nothing is proved".into());
    }
    if said == expected {
        return Ok(());
    }
    let first = said.symmetric_difference(expected).next();
    Err(format!(
        "{who} has {} changes, not {}; the first that differs: {first:?}",
        said.len(),
        expected.len()
    )
    .into())
}

/// What the reader saw.
struct Watched {
    polls: u64,
    files: u64,
    new_files: u64,
}

/// Reads every published interval again and again until all is done, and once more after it.
fn watch(scenario: &Scenario, sets: &[Fleet; 2], done: &AtomicBool) -> Result<Watched> {
    let anomalies: Vec<[usize; 2]> = (0..scenario.intervals)
        .map(|pane| sets.map(|set| (0..set.models).filter(|i| set.decision(*i, pane) <= 0.0).count()))
        .collect();
    let mut watched = Watched { polls: 0, files: 0, new_files: 0 };
    loop {
        let last = done.load(SeqCst);
        for (pane, anomalies) in (0..).zip(&anomalies) {
            let set = read(scenario, pane, anomalies)?;
            watched.files += 1;
            watched.new_files += u64::from(set == 2);
            if last && set != 2 {
                return Err(format!("{} is published by set {set} in the end", interval(pane)).into());
            }
        }
        watched.polls += 1;
        if last {
            return Ok(watched);
        }
    }
}

/// The set that an interval is published by: all of its rows, and as many anomalies as that set finds.
fn read(scenario: &Scenario, pane: u32, anomalies: &[usize; 2]) -> Result<i64> {
    let path = scenario.published(pane);
    let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path)?)?;
    let wanted = ProjectionMask::columns(builder.parquet_schema(), ["model_set", "prediction"]);
    let (mut rows, mut found, mut sets) = (0, 0, BTreeSet::new());
    for batch in builder.with_projection(wanted).build()? {
        let batch = batch?;
        rows += batch.num_rows();
        let label = column(&batch, "prediction").as_primitive::<Int16Type>();
        found += (0..label.len()).filter(|i| label.value(*i) == 1).count();
        sets.extend(column(&batch, "model_set").as_primitive::<Int64Type>().values().iter().copied());
    }
    let set = sets.first().copied().unwrap_or_default();
    let whole = sets.len() == 1
        && rows == scenario.series as usize
        && usize::try_from(set - 1).ok().and_then(|i| anomalies.get(i)) == Some(&found);
    match whole {
        true => Ok(set),
        false => {
            Err(format!("{} was seen with {rows} rows of sets {sets:?}, {found} anomalies", interval(pane))
                .into())
        }
    }
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> &'a arrow::array::ArrayRef {
    rows.column_by_name(name).expect("a column of the published schema")
}

/// Adds the table.
pub fn report(report: &mut Report, scenario: &Scenario, m: &Measured) {
    report.setting(
        "work",
        format!(
            "{} intervals of {} series in {} shards each",
            scenario.intervals, scenario.series, scenario.site.shards
        ),
    );
    report.setting(
        "proved",
        format!(
            "dry run, stored rows and plain arithmetic agree on all {} labels that change; a reader went over all files {} \
             times meanwhile ({} files, {} of them by the new set), and each had all rows and all anomalies of one set",
            m.changes, m.polls, m.files, m.new_files
        ),
    );
    let rows = f64::from(scenario.series) * f64::from(scenario.intervals);
    let mut table = Table::new("A day scored again", &["what", "s", "rows/s", "/ first run"]);
    for (what, seconds) in
        ["first run, published", "dry run with another set", "run with another set, published"]
            .into_iter()
            .zip(m.seconds)
    {
        table.row(vec![
            what.into(),
            Cell::number(seconds, 2),
            Cell::number(rows / seconds, 0),
            Cell::number(seconds / m.seconds[0], 2),
        ]);
    }
    report.table(table);
}
