//! From a decoder's keys to ids in the store.

use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_state::admit::{REFUSED_SERIES, UNKNOWN_SERIES, any_unknown};
use std::collections::HashMap;

/// Names of series by a decoder's key, one behind the other: as two strings each, a million of them took a hundred megabytes.
#[derive(Debug, Default)]
pub struct SeriesNames {
    text: String,
    places: Vec<Place>,
}

/// Where the name of a key stands; a device of no bytes is that of a key without one.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    from: usize,
    device: u16,
    sensor: u16,
}

impl SeriesNames {
    /// Device and sensor, where the key has been named.
    #[inline]
    pub fn get(&self, key: u32) -> Option<(&str, &str)> {
        let place = self.places.get(key as usize).filter(|place| place.device > 0)?;
        let (device, sensor) = (usize::from(place.device), usize::from(place.sensor));
        Some(self.text[place.from..place.from + device + sensor].split_at(device))
    }

    /// As [`Self::get`].
    ///
    /// # Errors
    /// If it has not been named, which no input can bring about.
    pub fn named(&self, key: u32) -> Result<(&str, &str), String> {
        self.get(key).ok_or_else(|| format!("the decoder never named its key {key}"))
    }

    /// Names a key. What is named again takes its memory twice; decoders name each once.
    ///
    /// # Panics
    /// If a part is longer than a decoder lets it be (256 bytes).
    pub fn set(&mut self, key: u32, name: &SeriesName) {
        let len = |part: &str| u16::try_from(part.len()).expect("decoders refuse long names");
        let place = Place { from: self.text.len(), device: len(&name.device), sensor: len(&name.sensor) };
        self.text += &name.device;
        self.text += &name.sensor;
        if self.places.len() <= key as usize {
            self.places.resize(key as usize + 1, Place::default());
        }
        self.places[key as usize] = place;
    }
}

impl FromIterator<(u32, SeriesName)> for SeriesNames {
    fn from_iter<T: IntoIterator<Item = (u32, SeriesName)>>(named: T) -> Self {
        let mut names = Self::default();
        named.into_iter().for_each(|(key, name)| names.set(key, &name));
        names
    }
}

/// What is known of series, per decoder.
#[derive(Debug, Default)]
pub(crate) struct SeriesCache {
    decoders: HashMap<u32, Keys>,
}

/// Names and ids behind one decoder's keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By key.
    pub(crate) names: SeriesNames,
    /// By key; [`UNKNOWN_SERIES`] before it was asked for, [`REFUSED_SERIES`] where it is one too many.
    pub(crate) ids: Vec<u32>,
}

impl SeriesCache {
    /// Notes names that a decoder uses for the first time.
    pub(crate) fn note(&mut self, decoder: u32, new: &mut Vec<(u32, SeriesName)>) {
        let keys = self.decoders.entry(decoder).or_default();
        for (key, name) in new.drain(..) {
            keys.names.set(key, &name);
            if keys.ids.len() <= key as usize {
                keys.ids.resize(key as usize + 1, UNKNOWN_SERIES);
            }
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
                let (device, sensor) = self.names.named(*key)?;
                Ok(SeriesName::new(device, sensor))
            })
            .collect();
        Ok((unknown, names?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_any_order_and_the_last_one_counts() {
        let named = [(2, ("dü", "s")), (0, ("a", "bc")), (2, ("ab", "c"))];
        let names: SeriesNames =
            named.into_iter().map(|(key, (d, s))| (key, SeriesName::new(d, s))).collect();
        let all: Vec<_> = (0..4).map(|key| names.get(key)).collect();
        assert_eq!(all, [Some(("a", "bc")), None, Some(("ab", "c")), None]);
    }
}
