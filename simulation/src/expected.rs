//! What the store must hold when it stands at its positions: by the oracle, which shares no code with the product.

use crate::log::{Log, TOPIC};
use crate::world::World;
use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, UInt32Type};
use fleetscore_oracle::expect::{Letter, Oracle, Rules};
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{DeadLetterFilter, DeadLetterRow, Loss, ProgressRow, Selection, Store};
use futures::TryStreamExt;
use futures_executor::block_on;
use std::collections::{BTreeMap, BTreeSet};

/// What has come of one partition up to each offset.
#[derive(Debug)]
struct Prefix {
    oracle: Oracle,
    /// (accepted readings, dead letters, watermark) before the offset of this index.
    sums: Vec<(u64, usize, Option<i64>)>,
    /// Ranges that were passed over when this was computed.
    losses: usize,
}

/// Prefixes of all partitions, computed as far as they are asked for.
#[derive(Debug)]
pub(crate) struct Expected {
    rules: Rules,
    /// Whether every dead letter is kept one by one.
    keeps_letters: bool,
    prefixes: BTreeMap<usize, Prefix>,
}

fn is_lost(losses: &[&Loss], offset: i64) -> bool {
    losses.iter().any(|l| l.from <= offset && offset < l.to)
}

fn losses_of(all: &[Loss], p: usize) -> Vec<&Loss> {
    all.iter().filter(|l| l.partition.partition as usize == p).collect()
}

impl Expected {
    /// By these rules.
    pub(crate) fn new(rules: Rules, keeps_letters: bool) -> Self {
        Self { rules, keeps_letters, prefixes: BTreeMap::new() }
    }

    /// What has come of the records of a partition before an offset.
    fn before(&mut self, log: &Log, losses: &[Loss], p: usize, offset: i64) -> (u64, usize, Option<i64>) {
        let losses = losses_of(losses, p);
        let fresh =
            || Prefix { oracle: Oracle::new(self.rules), sums: vec![(0, 0, None)], losses: losses.len() };
        let prefix = self.prefixes.entry(p).or_insert_with(fresh);
        if prefix.losses != losses.len() {
            // What was passed over may have been the newest: all behind it is judged by another watermark.
            *prefix = fresh();
        }
        while prefix.sums.len() as i64 <= offset {
            let at = prefix.sums.len() as i64 - 1;
            if let Some(Some(message)) = log.partitions[p].records.get(at as usize)
                && !is_lost(&losses, at)
            {
                prefix.oracle.take(p as u32, at, message);
            }
            let oracle = &prefix.oracle;
            prefix.sums.push((oracle.readings(), oracle.letters().len(), oracle.watermark(p as u32)));
        }
        prefix.sums[offset as usize]
    }

    /// After a checkpoint: as many readings and dead letters as the positions say, and their watermarks.
    ///
    /// # Errors
    /// What is not so.
    pub(crate) fn sums(
        &mut self,
        world: &World,
        losses: &[Loss],
        committed: (i64, i64),
    ) -> Result<(), String> {
        let progress = block_on(world.store.progress()).map_err(|e| e.to_string())?;
        let topic = world.topic();
        let (mut readings, mut letters) = (0, 0);
        for row in &progress.rows {
            let p = row.partition.partition as usize;
            let (r, l, watermark) = self.before(&topic.log, losses, p, row.next_offset);
            (readings, letters) = (readings + r as i64, letters + l as i64);
            if row.watermark.map(Timestamp::us) != watermark {
                return Err(format!(
                    "{}: the watermark at {} is {:?}, and readings before it make it {:?}; passed over: {:?}",
                    row.partition,
                    row.next_offset,
                    row.watermark,
                    watermark.map(Timestamp),
                    losses_of(losses, p)
                ));
            }
        }
        if committed != (readings, letters) {
            return Err(format!(
                "{committed:?} readings and dead letters are committed, and up to the positions there are {:?}: {}",
                (readings, letters),
                positions(&progress.rows)
            ));
        }
        Ok(())
    }

    /// Every window and every dead letter, as the positions say.
    ///
    /// # Errors
    /// What is not so.
    pub(crate) fn everything(&self, world: &World, losses: &[Loss]) -> Result<(), String> {
        let progress = block_on(world.store.progress()).map_err(|e| e.to_string())?;
        let mut oracle = Oracle::new(self.rules);
        let topic = world.topic();
        for row in &progress.rows {
            let p = row.partition.partition as usize;
            let losses = losses_of(losses, p);
            for (offset, record) in (0..row.next_offset).zip(&topic.log.partitions[p].records) {
                if let Some(message) = record.as_ref().filter(|_| !is_lost(&losses, offset)) {
                    oracle.take(p as u32, offset, message);
                }
            }
        }
        drop(topic);
        let here = || format!("at {}", positions(&progress.rows));
        self.windows(&*world.store, &oracle).map_err(|e| format!("{e}; {}", here()))?;
        letters(&*world.store, &oracle, self.keeps_letters).map_err(|e| format!("{e}; {}", here()))
    }

    fn windows(&self, store: &dyn Store, oracle: &Oracle) -> Result<(), String> {
        let failed = |e: fleetscore_store::StoreError| e.to_string();
        let names: BTreeMap<u32, _> = block_on(store.series()).map_err(failed)?.into_iter().collect();
        let mut wanted = oracle.windows();
        let Some((oldest, newest)) = block_on(store.pane_range()).map_err(failed)? else {
            return if wanted.is_empty() { Ok(()) } else { Err("no panes at all".into()) };
        };
        let pane_us = self.rules.pane_us;
        for pane in (oldest.us()..=newest.us()).step_by(pane_us as usize) {
            let interval = Interval { start: Timestamp(pane), end: Timestamp(pane + pane_us) };
            let batches: Vec<_> =
                block_on(async { store.windows(interval, &Selection::ALL).await?.try_collect().await })
                    .map_err(failed)?;
            for batch in &batches {
                let series = batch.column(0).as_primitive::<UInt32Type>();
                let column = |name: &str| {
                    let found = batch.column_by_name(name).map(|c| c.as_primitive::<Float64Type>().clone());
                    found.ok_or_else(|| format!("windows have no column {name}"))
                };
                let columns: Vec<_> = ["readings", "sum", "min", "max", "first", "last", "mean"]
                    .into_iter()
                    .map(column)
                    .collect::<Result<_, _>>()?;
                let stddev = column("stddev")?;
                for i in 0..batch.num_rows() {
                    let name = names.get(&series.value(i)).ok_or("a series without a name")?;
                    let key = (pane, name.device.clone(), name.sensor.clone());
                    let w = wanted.remove(&key).ok_or_else(|| format!("{key:?} has no readings"))?;
                    let got: Vec<f64> = columns.iter().map(|c| c.value(i)).collect();
                    let want = [w.count as f64, w.sum, w.min, w.max, w.first, w.last, w.mean];
                    if got != want {
                        return Err(format!("{key:?} is {got:?}, and must be {want:?}"));
                    }
                    let got = (!arrow::array::Array::is_null(&stddev, i)).then(|| stddev.value(i));
                    let close = match (got, w.stddev) {
                        (None, None) => true,
                        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * (1.0 + b.abs()),
                        _ => false,
                    };
                    if !close {
                        return Err(format!("{key:?} has a stddev of {got:?}, and must have {:?}", w.stddev));
                    }
                }
            }
        }
        match wanted.keys().next() {
            Some(key) => Err(format!("{} windows are missing, {key:?} among them", wanted.len())),
            None => Ok(()),
        }
    }
}

fn letters(store: &dyn Store, oracle: &Oracle, all: bool) -> Result<(), String> {
    let filter = DeadLetterFilter { limit: 1_000_000, ..DeadLetterFilter::default() };
    let rows = block_on(store.dead_letters(&filter)).map_err(|e| e.to_string())?;
    let (ranges, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.last_offset.is_some());
    let mut got: Vec<Letter> = rows
        .into_iter()
        .map(|row| Letter {
            partition: row.partition.partition as u32,
            offset: row.offset,
            position: row.position,
            code: row.code,
            payload: row.payload.unwrap_or_default(),
        })
        .collect();
    let mut want = oracle.letters().to_vec();
    got.sort();
    want.sort();
    if !all {
        take_counted(&got, &ranges, &mut want)?;
    }
    if got == want {
        return Ok(());
    }
    let differs = got.iter().zip(&want).find(|(g, w)| g != w);
    Err(format!(
        "{} dead letters, and there must be {}; the first that differ: {differs:?}",
        got.len(),
        want.len()
    ))
}

/// Takes out of `want` what is not kept one by one but counted: each in a range of its partition and code, as many as are
/// counted, and no range further than what it counts.
fn take_counted(got: &[Letter], ranges: &[DeadLetterRow], want: &mut Vec<Letter>) -> Result<(), String> {
    let mut uncounted: BTreeMap<(u32, String), i64> = BTreeMap::new();
    let mut out_of_range = None;
    // Offsets of what is counted: a range must begin and end with one.
    let mut counted: BTreeSet<(u32, String, i64)> = BTreeSet::new();
    want.retain(|letter| {
        let kept = got.binary_search(letter).is_ok();
        if !kept {
            let covers = |row: &&DeadLetterRow| {
                (row.partition.partition as u32, &row.code) == (letter.partition, &letter.code)
                    && (row.offset..=row.last_offset.unwrap_or(row.offset)).contains(&letter.offset)
            };
            if ranges.iter().find(covers).is_none() {
                out_of_range
                    .get_or_insert_with(|| format!("{letter:?} is neither kept nor in a counted range"));
            }
            *uncounted.entry((letter.partition, letter.code.clone())).or_default() += 1;
            counted.insert((letter.partition, letter.code.clone(), letter.offset));
        }
        kept
    });
    for row in ranges {
        for end in [row.offset, row.last_offset.unwrap_or(row.offset)] {
            if !counted.contains(&(row.partition.partition as u32, row.code.clone(), end)) {
                out_of_range.get_or_insert_with(|| format!("nothing is counted at the end {end} of {row:?}"));
            }
        }
        *uncounted.entry((row.partition.partition as u32, row.code.clone())).or_default() -= row.count;
    }
    if let Some(what) = out_of_range {
        return Err(what);
    }
    match uncounted.into_iter().find(|(_, n)| *n != 0) {
        Some(((partition, code), n)) => {
            Err(format!("{n} dead letters {code} of partition {partition} are neither kept nor counted"))
        }
        None => Ok(()),
    }
}

fn positions(rows: &[ProgressRow]) -> String {
    let each: Vec<String> =
        rows.iter().map(|r| format!("{}@{}", r.partition.partition, r.next_offset)).collect();
    format!("{TOPIC} {}", each.join(" "))
}
