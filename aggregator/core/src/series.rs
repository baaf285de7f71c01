//! From a decoder's keys to ids in the store.

use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_state::admit::{REFUSED_SERIES, UNKNOWN_SERIES, any_unknown};
use std::collections::HashMap;

/// What is known of series, per decoder.
#[derive(Debug, Default)]
pub(crate) struct SeriesCache {
    decoders: HashMap<u32, Keys>,
}

/// Names and ids behind one decoder's keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By key.
    pub(crate) names: Vec<Option<SeriesName>>,
    /// By key; [`UNKNOWN_SERIES`] before it was asked for, [`REFUSED_SERIES`] where it is one too many.
    pub(crate) ids: Vec<u32>,
}

impl SeriesCache {
    /// Notes names that a decoder uses for the first time.
    pub(crate) fn note(&mut self, decoder: u32, new: &mut Vec<(u32, SeriesName)>) {
        let keys = self.decoders.entry(decoder).or_default();
        for (key, name) in new.drain(..) {
            let key = key as usize;
            if keys.names.len() <= key {
                keys.names.resize(key + 1, None);
                keys.ids.resize(key + 1, UNKNOWN_SERIES);
            }
            keys.names[key] = Some(name);
        }
    }

    /// What is known of one decoder's keys.
    pub(crate) fn keys(&mut self, decoder: u32) -> &Keys {
        self.decoders.entry(decoder).or_default()
    }

    /// Notes what the store answered.
    pub(crate) fn learn(&mut self, decoder: u32, keys: &[u32], ids: &[Option<SeriesId>]) {
        let known = self.decoders.entry(decoder).or_default();
        for (key, id) in keys.iter().zip(ids) {
            known.ids[*key as usize] = id.unwrap_or(REFUSED_SERIES);
        }
    }

    /// Forgets ids, not names: after a fence they are asked for again.
    pub(crate) fn clear(&mut self) {
        for keys in self.decoders.values_mut() {
            keys.ids.fill(UNKNOWN_SERIES);
        }
    }
}

impl Keys {
    /// Keys without an id among those of readings that may count: ascending, each once, with their names.
    pub(crate) fn unknown(
        &self,
        keys: &[u32],
        may_count: impl Fn(usize) -> bool,
    ) -> Result<(Vec<u32>, Vec<SeriesName>), String> {
        if !any_unknown(keys, &self.ids) {
            return Ok((Vec::new(), Vec::new()));
        }
        let is_unknown = |key: u32| self.ids.get(key as usize).is_none_or(|id| *id == UNKNOWN_SERIES);
        let mut unknown: Vec<u32> = keys
            .iter()
            .enumerate()
            .filter(|(i, key)| is_unknown(**key) && may_count(*i))
            .map(|(_, k)| *k)
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        let names: Result<Vec<SeriesName>, String> = unknown
            .iter()
            .map(|key| {
                let name = self.names.get(*key as usize).and_then(Option::as_ref);
                name.cloned().ok_or_else(|| format!("the decoder never named its key {key}"))
            })
            .collect();
        Ok((unknown, names?))
    }
}
