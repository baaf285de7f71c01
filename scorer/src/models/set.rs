//! A model set in memory: its shards, over series of this store.

use super::Entry;
use fleetscore_pack::{PackError, Shard, ShardBuilder};
use fleetscore_schemas::window::Feature;
use fleetscore_schemas::{SeriesId, SeriesName};

/// Rows of a shard that is made in memory.
const SHARD_ROWS: usize = 65_536;

/// A model set in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ModelSet {
    /// Its version in the registry.
    pub version: i64,
    /// The window columns that its models take, in order.
    pub features: Vec<Feature>,
    shards: Vec<Shard>,
}

impl ModelSet {
    /// A set of these shards.
    ///
    /// # Errors
    /// Where the series do not ascend from shard to shard, or a shard's models take another number of features.
    pub fn new(version: i64, features: Vec<Feature>, shards: Vec<Shard>) -> Result<Self, PackError> {
        if let Some(shard) = shards.iter().find(|s| s.features() != features.len()) {
            let (found, wanted) = (shard.features(), features.len());
            return Err(PackError::Damaged(format!(
                "its models take {found} features, and it names {wanted}"
            )));
        }
        let shards: Vec<Shard> = shards.into_iter().filter(|s| !s.is_empty()).collect();
        for pair in shards.windows(2) {
            if let (Some(after), Some(series)) = (pair[0].series().last(), pair[1].series().first())
                && after >= series
            {
                return Err(PackError::Order { series: *series, after: *after });
            }
        }
        Ok(Self { version, features, shards })
    }

    /// A set of these entries, in any order, with at most one for each series.
    ///
    /// # Errors
    /// Where a series has two, a model is not valid, or takes another number of features.
    pub fn from_entries(
        version: i64,
        features: Vec<Feature>,
        mut entries: Vec<Entry>,
    ) -> Result<Self, PackError> {
        entries.sort_by_key(|e| e.series);
        let packed = entries.into_iter().map(|e| fleetscore_pack::Entry {
            series: e.series,
            device: e.name.device,
            sensor: e.name.sensor,
            model: e.model,
            outcome: e.outcome,
            normal: e.normal,
            rows: 0,
        });
        let shards = pack(features.len(), super::DEFAULT_PATTERN, packed)?;
        Self::new(version, features, shards)
    }

    /// Its shards: series strictly ascending, within each and from one to the next. None is empty.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Number of entries, refused ones included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// The shard that has a series' entry, and its row there.
    pub fn get(&self, series: SeriesId) -> Option<(&Shard, usize)> {
        let after = self.shards.partition_point(|s| s.series().first().is_some_and(|first| *first <= series));
        let shard = &self.shards[after.checked_sub(1)?];
        Some((shard, shard.find(series)?))
    }

    /// Bytes of memory that it holds, those mapped from files included.
    pub fn memory(&self) -> usize {
        self.shards.iter().map(Shard::memory).sum()
    }

    /// Copies of all entries, ascending by series.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.shards.iter().flat_map(|shard| (0..shard.len()).map(|row| entry(shard, row)))
    }
}

fn entry(shard: &Shard, row: usize) -> Entry {
    let e = shard.entry(row);
    Entry {
        series: e.series,
        name: SeriesName::new(e.device, e.sensor),
        model: e.model,
        outcome: e.outcome,
        normal: e.normal,
    }
}

/// Shards of entries that ascend by series.
pub(super) fn pack(
    features: usize,
    pattern: &str,
    entries: impl Iterator<Item = fleetscore_pack::Entry>,
) -> Result<Vec<Shard>, PackError> {
    let mut shards = Vec::new();
    let mut builder = ShardBuilder::new(features, pattern);
    for entry in entries {
        if builder.len() == SHARD_ROWS {
            let full = std::mem::replace(&mut builder, ShardBuilder::new(features, pattern));
            shards.push(Shard::open(full.finish()?)?);
        }
        builder.push(&entry)?;
    }
    if !builder.is_empty() {
        shards.push(Shard::open(builder.finish()?)?);
    }
    Ok(shards)
}
