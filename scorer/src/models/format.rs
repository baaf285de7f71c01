//! Models on their way into a set: collected as columns, sorted by series, cut into shards.

use fleetscore_kernel::{Model, ModelColumns, normal_intervals};
use fleetscore_pack::{ChecksBuilder, Entry, PackError, ShardBuilder};
use fleetscore_schemas::SeriesName;
use std::collections::HashMap;
use std::ops::Range;

pub use fleetscore_pack::SET_FORMAT as FORMAT;

/// Name of the manifest in a set's folder.
pub(crate) const MANIFEST: &str = "manifest.json";

/// A shard holds at most so many models…
const SHARD_ROWS: usize = 65_536;
/// …and about so many numbers.
const SHARD_NUMBERS: usize = 4 << 20;
/// Fewer models than this are not worth a thread.
const ROWS_A_THREAD: usize = 256;

/// One model for a set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub name: SeriesName,
    pub model: String,
    pub outcome: Result<Model, String>,
    /// Rows of features to check the model with, as its exporter gave them, with the exporter's decisions; where there
    /// are none, rows near what it was trained on are made. The decisions that a set records are always our own.
    pub checks: Vec<(Vec<f64>, f64)>,
    /// Number of rows it was trained on; 0 where that is not known.
    pub rows: u32,
}

impl Stored {
    /// Without check rows of its own. What is derived from a model, its normal intervals and check rows, is computed
    /// on all cores when the set is written.
    pub(crate) fn new(name: SeriesName, model: String, outcome: Result<Model, String>) -> Self {
        Self { name, model, outcome, checks: vec![], rows: 0 }
    }
}

/// Models of a set, in any order: as columns, about 200 bytes for a small one, so that a million of them fit.
#[derive(Debug, Default)]
pub(crate) struct Models {
    devices: Texts,
    sensors: Texts,
    names: Texts,
    rows: Vec<u32>,
    refused: HashMap<u32, String>,
    /// None before the first usable model.
    columns: Option<ModelColumns>,
    /// Check rows of those that came with some.
    checks: HashMap<u32, Vec<f64>>,
    /// The first model that no set can hold.
    wrong: Option<String>,
}

/// Text after text.
#[derive(Debug, Default)]
struct Texts {
    bytes: String,
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }
}

impl Models {
    /// Adds a model.
    pub(crate) fn push(&mut self, entry: Stored) {
        let at = self.rows.len();
        if let Ok(model) = &entry.outcome {
            let columns = self.columns.get_or_insert_with(|| columns_of(model.features, at));
            if let Err(e) = columns.push(Some(model)) {
                self.wrong.get_or_insert_with(|| format!("the model of {}: {e}", entry.name));
                let _ = columns.push(None); // an entry without a model is never refused
            }
            if !entry.checks.is_empty() {
                let rows = entry.checks.iter().filter(|(x, _)| x.len() == model.features);
                self.checks.insert(at as u32, rows.flat_map(|(x, _)| x).copied().collect());
            }
        } else if let Some(columns) = &mut self.columns {
            let _ = columns.push(None); // as above
        }
        if let Err(reason) = entry.outcome {
            self.refused.insert(at as u32, reason);
        }
        self.devices.push(&entry.name.device);
        self.sensors.push(&entry.name.sensor);
        self.names.push(&entry.model);
        self.rows.push(entry.rows);
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Number of entries without a usable model.
    pub(crate) fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Number of rows that the models were trained on, if it is known of all of them.
    pub(crate) fn training_rows(&self) -> Option<u64> {
        let known = |(i, rows): (usize, &u32)| *rows > 0 || self.refused.contains_key(&(i as u32));
        let all = self.refused.len() < self.len() && self.rows.iter().enumerate().all(known);
        all.then(|| self.rows.iter().map(|r| u64::from(*r)).sum())
    }

    /// The names of some entries.
    pub(crate) fn names(&self, range: Range<usize>) -> Vec<SeriesName> {
        range.map(|i| self.name(i)).collect()
    }

    /// The name of an entry.
    pub(crate) fn name(&self, i: usize) -> SeriesName {
        SeriesName::new(self.devices.get(i), self.sensors.get(i))
    }

    /// Device and sensor of an entry.
    pub(crate) fn key(&self, i: usize) -> (&str, &str) {
        (self.devices.get(i), self.sensors.get(i))
    }

    /// Why an entry has no usable model.
    pub(crate) fn refusal(&self, i: usize) -> Option<&str> {
        self.refused.get(&(i as u32)).map(String::as_str)
    }

    /// An entry as it was pushed, but for the decisions of its check rows.
    pub(crate) fn stored(&self, i: usize) -> Stored {
        let refusal = || self.refusal(i).or(self.wrong.as_deref()).unwrap_or_default().to_owned();
        let model = self.model(i);
        let features = model.as_ref().map_or(1, |m| m.features);
        let rows = self.checks.get(&(i as u32)).map(|rows| rows.chunks_exact(features));
        Stored {
            name: self.name(i),
            model: self.names.get(i).to_owned(),
            checks: rows.into_iter().flatten().map(|x| (x.to_vec(), 0.0)).collect(),
            outcome: model.ok_or_else(refusal),
            rows: self.rows[i],
        }
    }

    /// What keeps these models from being a set of this many features.
    pub(crate) fn problem(&self, features: usize) -> Option<String> {
        let other = |c: &ModelColumns| {
            let found = c.columns().features;
            (found != features).then(|| format!("the models take {found} features, and {features} are named"))
        };
        self.wrong.clone().or_else(|| self.columns.as_ref().and_then(other))
    }

    fn numbers(&self, i: usize) -> usize {
        let of = |c: &ModelColumns| {
            let c = c.columns();
            (c.offsets[i + 1] - c.offsets[i]) as usize * (c.features + 1) + 2 * c.features
        };
        self.columns.as_ref().map_or(0, of)
    }

    fn model(&self, i: usize) -> Option<Model> {
        self.columns.as_ref()?.columns().model(i)
    }
}

fn columns_of(features: usize, refused: usize) -> ModelColumns {
    let mut columns = ModelColumns::new(features);
    for _ in 0..refused {
        let _ = columns.push(None); // an entry without a model is never refused
    }
    columns
}

impl Extend<Stored> for Models {
    fn extend<T: IntoIterator<Item = Stored>>(&mut self, entries: T) {
        entries.into_iter().for_each(|e| self.push(e));
    }
}

impl FromIterator<Stored> for Models {
    fn from_iter<T: IntoIterator<Item = Stored>>(entries: T) -> Self {
        let mut models = Self::default();
        models.extend(entries);
        models
    }
}

impl From<Vec<Stored>> for Models {
    fn from(entries: Vec<Stored>) -> Self {
        entries.into_iter().collect()
    }
}

/// Models with their series, ascending: ready to be written.
pub(crate) struct Sorted {
    pub models: Models,
    /// (series, index of the model), ascending by series, each once.
    pub order: Vec<(u32, u32)>,
    pub features: usize,
    pub pattern: String,
}

/// A shard, with its check vectors if it has any.
pub(crate) struct Built {
    pub shard: bytes::Bytes,
    pub checks: Option<(usize, bytes::Bytes)>,
}

/// What is computed of a model when it is stored.
struct Derived {
    entry: Entry,
    checks: Vec<(Vec<f64>, f64)>,
}

impl Sorted {
    /// Where to cut into shards.
    pub(crate) fn cuts(&self) -> Vec<Range<usize>> {
        let (mut cuts, mut start, mut numbers) = (Vec::new(), 0, 0);
        for (at, (_, model)) in self.order.iter().enumerate() {
            let size = self.models.numbers(*model as usize);
            if at - start == SHARD_ROWS || (at > start && numbers + size > SHARD_NUMBERS) {
                cuts.push(start..at);
                (start, numbers) = (at, 0);
            }
            numbers += size;
        }
        if start < self.order.len() {
            cuts.push(start..self.order.len());
        }
        cuts
    }

    /// The shard of some of the models; what is derived from them is computed on so many threads.
    pub(crate) fn build(&self, range: Range<usize>, threads: usize) -> Result<Built, PackError> {
        let rows = &self.order[range];
        let share = rows.len().div_ceil(threads.max(1)).max(ROWS_A_THREAD);
        let mut shard = ShardBuilder::new(self.features, &self.pattern);
        let mut checks = ChecksBuilder::new(self.features);
        // Round by round, so that not all of a shard's entries are in memory beside it.
        for round in rows.chunks(share.min(8 * ROWS_A_THREAD) * threads.max(1)) {
            let derived: Vec<Derived> = std::thread::scope(|scope| {
                let derive = |rows: &[(u32, u32)]| rows.iter().map(|r| self.derive(*r)).collect::<Vec<_>>();
                let share = round.len().div_ceil(threads.max(1)).max(ROWS_A_THREAD);
                let mut chunks = round.chunks(share);
                let first = chunks.next().unwrap_or_default();
                let others: Vec<_> = chunks.map(|rows| scope.spawn(move || derive(rows))).collect();
                let mut all = derive(first);
                for other in others {
                    match other.join() {
                        Ok(derived) => all.extend(derived),
                        Err(panic) => std::panic::resume_unwind(panic),
                    }
                }
                all
            });
            for Derived { entry, checks: rows } in derived {
                let at = shard.len() as u32;
                shard.push(&entry)?;
                for (x, decision) in rows {
                    checks.push(at, &x, decision);
                }
            }
        }
        let checks = match checks.len() {
            0 => None,
            rows => Some((rows, checks.finish()?)),
        };
        Ok(Built { shard: shard.finish()?, checks })
    }

    fn derive(&self, (series, at): (u32, u32)) -> Derived {
        let i = at as usize;
        let model = self.models.model(i);
        let normal = model.as_ref().and_then(normal_intervals);
        let checks = model.as_ref().map(|m| checks(m, self.models.checks.get(&at))).unwrap_or_default();
        let refused = || self.models.refused.get(&at).cloned().unwrap_or_default();
        let entry = Entry {
            series,
            device: self.models.devices.get(i).to_owned(),
            sensor: self.models.sensors.get(i).to_owned(),
            model: self.models.names.get(i).to_owned(),
            outcome: model.ok_or_else(refused),
            normal,
            rows: self.models.rows[i],
        };
        Derived { entry, checks }
    }
}

/// Rows of features with the model's decisions: those given, or two near what it was trained on.
fn checks(model: &Model, given: Option<&Vec<f64>>) -> Vec<(Vec<f64>, f64)> {
    let row = |vector: &[f64]| -> Vec<f64> {
        let back = |i: usize| {
            let scale = model.scale.get(i).copied().unwrap_or(1.0);
            vector[i] * scale + model.mean.get(i).copied().unwrap_or(0.0)
        };
        (0..model.features).map(back).collect()
    };
    let rows: Vec<Vec<f64>> = match given {
        Some(given) => given.chunks_exact(model.features).map(<[f64]>::to_vec).collect(),
        None => {
            let first = &model.support_vectors[..model.features];
            let half: Vec<f64> = first.iter().map(|v| v * 0.5).collect();
            vec![row(&half), row(first)]
        }
    };
    rows.into_iter()
        .map(|x| {
            let decision = model.decision(&x);
            (x, decision)
        })
        .filter(|(_, d)| d.is_finite())
        .collect()
}
