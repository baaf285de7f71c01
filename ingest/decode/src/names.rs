//! Names of series to dense keys.

use crate::scan::word;
use fleetscore_schemas::SeriesName;
use hashbrown::DefaultHashBuilder;
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

/// Of a slot without a series. There are never so many.
const EMPTY: u32 = u32::MAX;

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
    const NONE: Self = Self { key: EMPTY, device_len: 0, sensor_len: 0, name: [0; INLINE_BYTES] };

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
///
/// A table of our own, with open addressing: a series is found with one miss of the cache, and several are fetched at a
/// time ([`Self::fetch`]), which no table of a library allows. At a million series that is twice as fast.
#[derive(Debug, Default)]
pub(crate) struct Names {
    hasher: DefaultHashBuilder,
    /// A power of two of them, of which at most three quarters are taken; a series lies in the first free one from where
    /// its hash points to.
    slots: Vec<Slot>,
    taken: usize,
    /// Long names.
    arena: Vec<u8>,
}

impl Names {
    /// Hash of one part of a name. Keyed at random per process: names come from outside.
    #[inline(always)]
    pub(crate) fn hash(&self, part: &[u8]) -> u64 {
        hash(&self.hasher, part)
    }

    /// Hash of a series; `device` is [`Self::hash`] of its device.
    #[inline(always)]
    pub(crate) fn hash_of(&self, device: u64, sensor: &[u8]) -> u64 {
        combine(device, self.hash(sensor))
    }

    /// Has the cache fetch what these hashes point to, all of it at a time: the loads do not wait for each other.
    #[inline]
    pub(crate) fn fetch(&self, hashes: impl Iterator<Item = u64>) {
        let mask = self.slots.len().wrapping_sub(1);
        let keys = hashes.map(|hash| self.slots.get(hash as usize & mask).map_or(0, |slot| slot.key));
        std::hint::black_box(keys.fold(0, |all, key| all ^ key));
    }

    /// The key of a series; a new one gets the next key and is appended to `new_series`.
    /// `hash` is [`Self::hash_of`] the series.
    #[inline]
    pub(crate) fn key(
        &mut self,
        hash: u64,
        device: &[u8],
        sensor: &[u8],
        max_series: u32,
        new_series: &mut Vec<(u32, SeriesName)>,
    ) -> Result<u32, NoKey> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        while let Some(slot) = self.slots.get(at) {
            if slot.key == EMPTY {
                break;
            }
            let (d, s) = slot.name(&self.arena);
            if equal(s, sensor) && equal(d, device) {
                return Ok(slot.key);
            }
            at = (at + 1) & mask;
        }
        self.insert(hash, device, sensor, max_series, new_series)
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
        let key = u32::try_from(self.taken).map_err(|_| NoKey::Limit)?;
        if key >= max_series || key == EMPTY {
            return Err(NoKey::Limit);
        }
        if self.taken >= self.slots.len() / 4 * 3 {
            self.grow();
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
        put(&mut self.slots, hash, slot);
        self.taken += 1;
        new_series.push((key, SeriesName::new(device_text, sensor_text)));
        Ok(key)
    }

    /// Twice as many slots.
    fn grow(&mut self) {
        let more = (self.slots.len() * 2).max(64);
        let old = std::mem::replace(&mut self.slots, vec![Slot::NONE; more]);
        for slot in old.into_iter().filter(|slot| slot.key != EMPTY) {
            let (device, sensor) = slot.name(&self.arena);
            let hash = combine(hash(&self.hasher, device), hash(&self.hasher, sensor));
            put(&mut self.slots, hash, slot);
        }
    }
}

/// Puts a series into the first free slot from where its hash points to; there is one.
fn put(slots: &mut [Slot], hash: u64, slot: Slot) {
    let mask = slots.len() - 1;
    let mut at = hash as usize & mask;
    while slots[at].key != EMPTY {
        at = (at + 1) & mask;
    }
    slots[at] = slot;
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
            let hash = names.hash_of(names.hash(d.as_bytes()), s.as_bytes());
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
