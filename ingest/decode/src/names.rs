//! Names of series to dense keys.

use crate::scan::{chunk, word};
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

/// What a series has before its name: its key, and the lengths of its device and its sensor.
const HEAD_BYTES: usize = 8;

/// Records begin at multiples of so many bytes, and their places are counted in these.
const UNIT_BYTES: usize = 8;

/// The place of a series' record, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found(u32);

impl Found {
    /// No series. There are never so many.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// An entry of the table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The upper half of the hash; its first bits say where the entry belongs. So a table grows without a look at names.
    hash: u32,
    found: Found,
}

/// All series seen so far. Every name in here keeps the rules, so a series that is found needs no check.
///
/// A table of our own, with open addressing, of eight bytes an entry, and the names behind it in one piece of memory: a
/// million series of some 16 bytes take 16 and 24 MB. A series is found with one miss of the cache in each, mostly, and
/// those of several are under way at a time ([`Self::find`]), which no table of a library allows.
#[derive(Debug, Default)]
pub(crate) struct Names {
    hasher: DefaultHashBuilder,
    /// A power of two of them, of which at most half are taken; a series lies in the first free one from where its hash
    /// points to.
    index: Vec<Entry>,
    taken: usize,
    /// Of each series, in the order of keys: key, lengths of device and sensor, device, sensor, and bytes up to a whole unit.
    records: Vec<u8>,
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

    /// Where series of these hashes probably are, for [`Self::key_at`]. The cache fetches what belongs to all of them at a time:
    /// no load waits for that of another one.
    #[inline]
    pub(crate) fn find<T>(
        &self,
        all: &mut [T],
        hash: impl Fn(&T) -> u64,
        found: impl Fn(&mut T) -> &mut Found,
    ) {
        let first = |one: &T| self.index.get(self.home(upper(hash(one)))).map_or(0, |entry| entry.hash);
        std::hint::black_box(all.iter().fold(0, |seen, one| seen ^ first(one)));
        for one in all.iter_mut() {
            *found(one) = self.probably(upper(hash(one)));
        }
        // Nowhere of what was not found.
        let head = |one: &mut T| self.records.get(start(*found(one))).copied().unwrap_or(0);
        std::hint::black_box(all.iter_mut().fold(0, |seen, one| seen ^ head(one)));
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
        self.key_at(hash, self.probably(upper(hash)), device, sensor, max_series, new_series)
    }

    /// The same, where [`Self::find`] has found it probably.
    #[inline]
    pub(crate) fn key_at(
        &mut self,
        hash: u64,
        probably: Found,
        device: &[u8],
        sensor: &[u8],
        max_series: u32,
        new_series: &mut Vec<(u32, SeriesName)>,
    ) -> Result<u32, NoKey> {
        match self.is(probably, device, sensor) {
            Some(key) => Ok(key),
            None => self.search(upper(hash), device, sensor, max_series, new_series),
        }
    }

    /// Where entries of this hash begin.
    #[inline(always)]
    fn home(&self, hash: u32) -> usize {
        home(hash, self.index.len())
    }

    /// The first series of this hash.
    #[inline(always)]
    fn probably(&self, hash: u32) -> Found {
        self.candidate(hash, self.home(hash)).1
    }

    /// The first entry from `at` on that has this hash, and what it stands for; else the free one.
    #[inline(always)]
    fn candidate(&self, hash: u32, mut at: usize) -> (usize, Found) {
        while let Some(entry) = self.index.get(at) {
            if entry.hash == hash || entry.found == Found::NONE {
                return (at, entry.found);
            }
            at = (at + 1) & (self.index.len() - 1);
        }
        (at, Found::NONE)
    }

    /// The key of the series there, if it is this one.
    #[inline(always)]
    fn is(&self, found: Found, device: &[u8], sensor: &[u8]) -> Option<u32> {
        if found == Found::NONE {
            return None;
        }
        let record = self.records.get(start(found)..)?;
        let (head, name) = record.split_at_checked(HEAD_BYTES)?;
        let head = word(head, 0)?;
        if (head >> 32 & 0xffff, head >> 48) != (device.len() as u64, sensor.len() as u64) {
            return None;
        }
        let (there, name) = name.split_at_checked(device.len())?;
        let same = equal(name.get(..sensor.len())?, sensor) && equal(there, device);
        same.then_some(head as u32)
    }

    /// As [`Self::key_at`], from the beginning: of a series that is new, or has the same hash as another one.
    #[cold]
    #[inline(never)]
    fn search(
        &mut self,
        hash: u32,
        device: &[u8],
        sensor: &[u8],
        max_series: u32,
        new_series: &mut Vec<(u32, SeriesName)>,
    ) -> Result<u32, NoKey> {
        let (mut at, mut found) = self.candidate(hash, self.home(hash));
        while found != Found::NONE {
            if let Some(key) = self.is(found, device, sensor) {
                return Ok(key);
            }
            (at, found) = self.candidate(hash, (at + 1) & (self.index.len() - 1));
        }
        let device = checked(device).map_err(NoKey::Device)?;
        let sensor = checked(sensor).map_err(NoKey::Sensor)?;
        let key = u32::try_from(self.taken).map_err(|_| NoKey::Limit)?;
        let place = u32::try_from(self.records.len() / UNIT_BYTES).map_err(|_| NoKey::Limit)?;
        // Half of the greatest table there can be.
        if key >= max_series || key >= 1 << 31 || Found(place) == Found::NONE {
            return Err(NoKey::Limit);
        }
        if self.taken >= self.index.len() / 2 {
            self.grow();
        }
        put(&mut self.index, Entry { hash, found: Found(place) });
        self.taken += 1;
        // Both lengths are at most MAX_NAME_BYTES.
        self.records.extend_from_slice(&key.to_le_bytes());
        self.records.extend_from_slice(&(device.len() as u16).to_le_bytes());
        self.records.extend_from_slice(&(sensor.len() as u16).to_le_bytes());
        self.records.extend_from_slice(device.as_bytes());
        self.records.extend_from_slice(sensor.as_bytes());
        self.records.resize(self.records.len().next_multiple_of(UNIT_BYTES), 0);
        new_series.push((key, SeriesName::new(device, sensor)));
        Ok(key)
    }

    /// Twice as many entries.
    fn grow(&mut self) {
        let more = (self.index.len() * 2).max(64);
        let old = std::mem::replace(&mut self.index, vec![Entry { hash: 0, found: Found::NONE }; more]);
        old.into_iter()
            .filter(|entry| entry.found != Found::NONE)
            .for_each(|entry| put(&mut self.index, entry));
    }
}

/// The half of a hash that is kept.
#[inline(always)]
fn upper(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Where a record begins.
#[inline(always)]
fn start(found: Found) -> usize {
    (found.0 as usize).saturating_mul(UNIT_BYTES)
}

/// Where entries of this hash begin in a table of so many: a power of two.
#[inline(always)]
fn home(hash: u32, entries: usize) -> usize {
    ((u64::from(hash) * entries as u64) >> 32) as usize
}

/// Puts an entry into the first free place from where its hash points to; there is one.
fn put(index: &mut [Entry], entry: Entry) {
    let mut at = home(entry.hash, index.len());
    while index[at].found != Found::NONE {
        at = (at + 1) & (index.len() - 1);
    }
    index[at] = entry;
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
        _ => match (chunk::<4>(a, 0), chunk::<4>(b, 0), a.last_chunk::<4>(), b.last_chunk::<4>()) {
            (Some(first), Some(there), Some(last), Some(at_end)) => first == there && last == at_end,
            _ => a.iter().zip(b).all(|(x, y)| x == y),
        },
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
    fn series_of_one_hash_are_told_apart_at_any_place() {
        for hash in [0, 7 << 32, u64::MAX] {
            let mut names = Names::default();
            let mut new = Vec::new();
            for round in 0..2 {
                for i in 0..100u32 {
                    let (device, sensor) = (format!("d{}", i / 10), format!("s{}", i % 10));
                    let key = names.key(hash, device.as_bytes(), sensor.as_bytes(), 100, &mut new);
                    assert_eq!(key, Ok(i), "round {round}");
                }
            }
            assert_eq!(names.key(hash, b"d1", b"s", 100, &mut new), Err(NoKey::Limit));
            assert_eq!(names.key(hash, b"d", b"1s1", 100, &mut new), Err(NoKey::Limit));
        }
    }

    #[test]
    fn what_is_found_ahead_is_a_guess_alone() {
        let mut names = Names::default();
        let mut new = Vec::new();
        let mut all: Vec<(u64, Found)> = [1 << 32, 1 << 32, 2 << 32].map(|hash| (hash, Found::NONE)).into();
        names.find(&mut all, |a| a.0, |a| &mut a.1);
        let mut keys = |names: &mut Names, all: &[(u64, Found)]| {
            all.iter()
                .zip(["a", "b", "a"])
                .map(|((hash, found), name)| names.key_at(*hash, *found, name.as_bytes(), b"s", 9, &mut new))
                .collect::<Vec<_>>()
        };
        // `b` has the hash of `a`, which was not there when both were looked for.
        assert_eq!(keys(&mut names, &all), [Ok(0), Ok(1), Ok(2)]);
        // Nor does it matter how the table has grown since.
        names.find(&mut all, |a| a.0, |a| &mut a.1);
        for i in 3..300u32 {
            let name = i.to_string();
            assert_eq!(names.key(u64::from(i) << 32, name.as_bytes(), b"s", 300, &mut Vec::new()), Ok(i));
        }
        assert_eq!(all[0].1, all[1].1);
        assert_eq!(keys(&mut names, &all), [Ok(0), Ok(1), Ok(2)]);
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
