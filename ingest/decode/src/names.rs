//! Names of series to dense keys.

use fleetscore_schemas::SeriesName;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::{BuildHasher, Hasher};

/// Longest device or sensor, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Why a series has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The device breaks a rule.
    Device(&'static str),
    /// The sensor breaks a rule.
    Sensor(&'static str),
    /// One series too many.
    Limit,
}

/// Where a name stands in the arena: device, then sensor.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    device_len: u16,
    sensor_len: u16,
}

/// A slot of the table carries part of the hash: a wrong candidate is dropped without touching its name.
#[derive(Debug, Clone, Copy)]
struct Slot {
    tag: u32,
    key: u32,
}

/// All series seen so far. Every name in here keeps the rules, so a series that is found needs no check.
#[derive(Debug, Default)]
pub(crate) struct Names {
    hasher: DefaultHashBuilder,
    table: HashTable<Slot>,
    entries: Vec<Entry>,
    arena: Vec<u8>,
}

impl Names {
    /// Hash of one part of a name. Keyed at random per process: names come from outside.
    #[inline(always)]
    pub(crate) fn hash(&self, part: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(part);
        hasher.finish()
    }

    /// The key of a series; a new one gets the next key and is appended to `new_series`.
    /// `device_hash` is [`Self::hash`] of the device.
    #[inline]
    pub(crate) fn key(
        &mut self,
        device_hash: u64,
        device: &[u8],
        sensor: &[u8],
        max_series: u32,
        new_series: &mut Vec<(u32, SeriesName)>,
    ) -> Result<u32, NoKey> {
        let hash = combine(device_hash, self.hash(sensor));
        let tag = (hash >> 16) as u32;
        let found = self.table.find(hash, |slot| {
            slot.tag == tag && {
                let entry = self.entries[slot.key as usize];
                let (d, s) = (usize::from(entry.device_len), usize::from(entry.sensor_len));
                let name = &self.arena[entry.start as usize..entry.start as usize + d + s];
                d == device.len() && s == sensor.len() && name[..d] == *device && name[d..] == *sensor
            }
        });
        match found {
            Some(slot) => Ok(slot.key),
            None => self.insert(hash, device, sensor, max_series, new_series),
        }
    }

    #[cold]
    fn insert(
        &mut self,
        hash: u64,
        device: &[u8],
        sensor: &[u8],
        max_series: u32,
        new_series: &mut Vec<(u32, SeriesName)>,
    ) -> Result<u32, NoKey> {
        let device_text = checked(device).map_err(NoKey::Device)?;
        let sensor_text = checked(sensor).map_err(NoKey::Sensor)?;
        let key = u32::try_from(self.entries.len()).map_err(|_| NoKey::Limit)?;
        // The arena is addressed by 32 bits: four gigabytes of names are a limit too.
        let start = u32::try_from(self.arena.len()).map_err(|_| NoKey::Limit)?;
        if key >= max_series {
            return Err(NoKey::Limit);
        }
        self.arena.extend_from_slice(device);
        self.arena.extend_from_slice(sensor);
        self.entries.push(Entry {
            start,
            device_len: device.len() as u16, // at most MAX_NAME_BYTES
            sensor_len: sensor.len() as u16,
        });
        let Self { hasher, table, entries, arena } = self;
        let rehash = |slot: &Slot| {
            let entry = entries[slot.key as usize];
            let device = &arena[entry.start as usize..][..usize::from(entry.device_len)];
            let sensor = &arena[entry.start as usize + device.len()..][..usize::from(entry.sensor_len)];
            let part = |part: &[u8]| {
                let mut h = hasher.build_hasher();
                h.write(part);
                h.finish()
            };
            combine(part(device), part(sensor))
        };
        table.insert_unique(hash, Slot { tag: (hash >> 16) as u32, key }, rehash);
        new_series.push((key, SeriesName::new(device_text, sensor_text)));
        Ok(key)
    }
}

/// One hash of two. The order counts: `a/b` and `b/a` are different series.
#[inline(always)]
fn combine(device: u64, sensor: u64) -> u64 {
    let product = u128::from(device.rotate_left(23) ^ sensor) * 0x9e37_79b9_7f4a_7c15;
    (product as u64) ^ ((product >> 64) as u64)
}

/// The name, if it keeps the rules; else which one it breaks.
pub(crate) fn checked(name: &[u8]) -> Result<&str, &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("is longer than 256 bytes");
    }
    let text = std::str::from_utf8(name).map_err(|_| "is not UTF-8")?;
    if text.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_dense_and_the_border_between_the_parts_counts() {
        let mut names = Names::default();
        let mut new = Vec::new();
        let mut key = |d: &str, s: &str| {
            let hash = names.hash(d.as_bytes());
            names.key(hash, d.as_bytes(), s.as_bytes(), 1000, &mut new)
        };
        assert_eq!(key("ab", "c"), Ok(0));
        assert_eq!(key("a", "bc"), Ok(1));
        assert_eq!(key("bc", "a"), Ok(2));
        assert_eq!(key("c", "ab"), Ok(3));
        assert_eq!(key("ab", "c"), Ok(0));
        for i in 4..1000u32 {
            assert_eq!(key(&format!("device {i}"), "s"), Ok(i));
        }
        for i in 4..1000u32 {
            assert_eq!(key(&format!("device {i}"), "s"), Ok(i), "found again after growth");
        }
        assert_eq!(key("one", "more"), Err(NoKey::Limit));
        assert_eq!(key("", "s"), Err(NoKey::Device("is empty")));
        assert_eq!(new.len(), 1000);
        assert_eq!(new[1], (1, SeriesName::new("a", "bc")));
    }

    #[test]
    fn the_rules_of_a_name() {
        for (name, ok) in [
            ("a", true),
            ("", false),
            ("a b/ü-☃", true),
            ("a\u{0}", false),
            ("a\u{1f}", false),
            ("a\u{7f}", false),
            ("a\u{85}", false),
            ("\u{a0}", true),
        ] {
            assert_eq!(checked(name.as_bytes()).is_ok(), ok, "{name:?}");
        }
        assert!(checked("x".repeat(256).as_bytes()).is_ok());
        assert!(checked("x".repeat(257).as_bytes()).is_err());
        assert!(checked("ü".repeat(129).as_bytes()).is_err(), "bytes count, not characters");
        assert!(checked(b"\xff").is_err());
    }
}
