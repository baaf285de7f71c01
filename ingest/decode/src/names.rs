//! Names of series to dense keys.

use crate::scan::word;
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

/// Bytes of a name that a slot holds itself; nearly every name fits.
const INLINE_BYTES: usize = 56;

/// One cache line per series: among a hundred thousand of them it is the misses that cost.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Slot {
    key: u32,
    device_len: u16,
    sensor_len: u16,
    /// Device, then sensor; if they are longer, their place in the arena as eight bytes.
    name: [u8; INLINE_BYTES],
}

impl Slot {
    /// Device and sensor.
    #[inline(always)]
    fn name<'s>(&'s self, arena: &'s [u8]) -> (&'s [u8], &'s [u8]) {
        let (device, sensor) = (usize::from(self.device_len), usize::from(self.sensor_len));
        let name = if device + sensor <= INLINE_BYTES {
            &self.name[..device + sensor]
        } else {
            let start = u64::from_le_bytes(self.name[..8].try_into().expect("eight bytes were asked for"));
            &arena[start as usize..start as usize + device + sensor]
        };
        name.split_at(device)
    }
}

/// All series seen so far. Every name in here keeps the rules, so a series that is found needs no check.
#[derive(Debug, Default)]
pub(crate) struct Names {
    hasher: DefaultHashBuilder,
    table: HashTable<Slot>,
    /// Long names.
    arena: Vec<u8>,
}

impl Names {
    /// Hash of one part of a name. Keyed at random per process: names come from outside.
    #[inline(always)]
    pub(crate) fn hash(&self, part: &[u8]) -> u64 {
        hash(&self.hasher, part)
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
        let found = self.table.find(hash, |slot| {
            let (d, s) = slot.name(&self.arena);
            equal(s, sensor) && equal(d, device)
        });
        match found {
            Some(slot) => Ok(slot.key),
            None => self.insert(hash, device, sensor, max_series, new_series),
        }
    }

    #[cold]
    fn insert(
        &mut self,
        hash_of_both: u64,
        device: &[u8],
        sensor: &[u8],
        max_series: u32,
        new_series: &mut Vec<(u32, SeriesName)>,
    ) -> Result<u32, NoKey> {
        let device_text = checked(device).map_err(NoKey::Device)?;
        let sensor_text = checked(sensor).map_err(NoKey::Sensor)?;
        let key = u32::try_from(self.table.len()).map_err(|_| NoKey::Limit)?;
        if key >= max_series {
            return Err(NoKey::Limit);
        }
        // Both lengths are at most MAX_NAME_BYTES.
        let (device_len, sensor_len) = (device.len() as u16, sensor.len() as u16);
        let mut slot = Slot { key, device_len, sensor_len, name: [0; INLINE_BYTES] };
        let len = device.len() + sensor.len();
        if len <= INLINE_BYTES {
            slot.name[..device.len()].copy_from_slice(device);
            slot.name[device.len()..len].copy_from_slice(sensor);
        } else {
            slot.name[..8].copy_from_slice(&(self.arena.len() as u64).to_le_bytes());
            self.arena.extend_from_slice(device);
            self.arena.extend_from_slice(sensor);
        }
        let Self { hasher, table, arena } = self;
        table.insert_unique(hash_of_both, slot, |slot| {
            let (device, sensor) = slot.name(arena);
            combine(hash(hasher, device), hash(hasher, sensor))
        });
        new_series.push((key, SeriesName::new(device_text, sensor_text)));
        Ok(key)
    }
}

#[inline(always)]
fn hash(hasher: &DefaultHashBuilder, part: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(part);
    hasher.finish()
}

/// Whether two names are equal: names are short, a call for each costs more than the comparison.
#[inline(always)]
fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (word(a, a.len().wrapping_sub(8)), word(b, b.len().wrapping_sub(8))) {
        // The last eight bytes, then the whole words before them.
        (Some(x), Some(y)) => {
            x == y
                && (a.len() <= 16 && word(a, 0) == word(b, 0)
                    || a.len() > 16 && a[..a.len() - 8] == b[..b.len() - 8])
        }
        _ => a.iter().zip(b).all(|(x, y)| x == y),
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
            names.key(hash, d.as_bytes(), s.as_bytes(), 1300, &mut new)
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
        let long: Vec<_> = (0..300u32).map(|i| format!("{i:03}{}", "x".repeat(i as usize % 200))).collect();
        for round in 0..2 {
            for (i, name) in long.iter().enumerate() {
                assert_eq!(key(name, "a sensor"), Ok(1000 + i as u32), "round {round}");
            }
        }
        assert_eq!(key("one", "more"), Err(NoKey::Limit));
        assert_eq!(key("", "s"), Err(NoKey::Device("is empty")));
        assert_eq!(new.len(), 1300);
        assert_eq!(new[1], (1, SeriesName::new("a", "bc")));
    }

    #[test]
    fn equality_looks_at_every_byte() {
        for len in 0..40 {
            let a = vec![b'a'; len];
            assert!(equal(&a, &a.clone()));
            assert!(!equal(&a, &vec![b'a'; len + 1]));
            for at in 0..len {
                let mut b = a.clone();
                b[at] = b'b';
                assert!(!equal(&a, &b), "{at} of {len}");
            }
        }
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
