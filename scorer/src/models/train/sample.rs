//! The rows of one series that a fit gets: all, or so many by a stated rule, in bounded memory.

use fleetscore_schemas::SeriesName;
use sha2::{Digest, Sha256};

/// Which rows are taken where a series has more than a fit may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Evenly spaced in the order in which they come, that of time: the first and about the last among them.
    Even,
    /// Any, with equal chance. The same seed takes the same rows of a series, whatever else is trained and wherever.
    Random {
        /// The seed; each series' own is made from it and the series' name.
        seed: u64,
    },
}

/// The room for rows grows by a part of 1 / this, so that little of it is empty…
const GROWTH: usize = 4;
/// …and by so many rows at least.
const LEAST: usize = 8;

/// Rows of one series, kept as they come.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Row after row.
    values: Vec<f64>,
    /// What rows are ordered by in the end, one for each: the window's start, or the place in the source.
    keys: Vec<i64>,
    rule: Rule,
    /// Rows that came.
    seen: u64,
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Each `1 << shift`-th row is kept, between `max` and twice as many.
    Even { shift: u32 },
    /// A reservoir of `max` rows, with the state of its random numbers.
    Random { state: u64 },
}

impl Sample {
    pub(crate) fn new(sampling: Sampling, name: &SeriesName) -> Self {
        let rule = match sampling {
            Sampling::Even => Rule::Even { shift: 0 },
            Sampling::Random { seed } => Rule::Random { state: series_seed(seed, name) },
        };
        Self { values: Vec::new(), keys: Vec::new(), rule, seen: 0 }
    }

    /// Bytes that the sample of a series with so many rows takes at most.
    pub(crate) fn bytes(sampling: Sampling, rows: u64, max: usize, width: usize) -> usize {
        let kept = match sampling {
            Sampling::Even => max.saturating_mul(2),
            Sampling::Random { .. } => max,
        };
        let rows = rows.min(kept as u64) as usize;
        (rows + rows / GROWTH + LEAST) * (width + 1) * size_of::<f64>() + size_of::<Self>()
    }

    /// Rows that came, kept or not.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Adds the next row.
    pub(crate) fn push(&mut self, key: i64, row: &[f64], max: usize) {
        let place = self.seen;
        self.seen += 1;
        match &mut self.rule {
            Rule::Even { shift } => {
                if !place.is_multiple_of(1 << *shift) {
                    return;
                }
                if self.keys.len() == max.saturating_mul(2) {
                    *shift += 1;
                    halve(&mut self.values, row.len());
                    halve(&mut self.keys, 1);
                    if !place.is_multiple_of(1 << *shift) {
                        return;
                    }
                }
            }
            // Vitter's algorithm R (1985): the i-th row replaces any of the kept ones with chance max / i.
            Rule::Random { state } if self.keys.len() == max => {
                let at = below(state, self.seen) as usize;
                if at < max {
                    self.keys[at] = key;
                    self.values[at * row.len()..(at + 1) * row.len()].copy_from_slice(row);
                }
                return;
            }
            Rule::Random { .. } => {}
        }
        if self.keys.len() == self.keys.capacity() {
            let more = self.keys.len() / GROWTH + LEAST;
            self.keys.reserve_exact(more);
            self.values.reserve_exact(more * row.len());
        }
        self.keys.push(key);
        self.values.extend_from_slice(row);
    }

    /// The rows for a fit to at most `max`, of `width` values each, in the order of their keys.
    pub(crate) fn finish(self, max: usize, width: usize) -> Rows {
        let count = self.keys.len();
        let mut order: Vec<usize> = (0..count).collect();
        if !self.keys.is_sorted() {
            order.sort_by_key(|i| self.keys[*i]);
        }
        if count > max {
            let last = (max - 1).max(1);
            order = (0..max).map(|i| order[i * (count - 1) / last]).collect();
        }
        Rows {
            values: order.iter().flat_map(|i| &self.values[i * width..(i + 1) * width]).copied().collect(),
            keys: order.iter().map(|i| self.keys[*i]).collect(),
        }
    }
}

/// A series' rows for one fit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    /// Row after row.
    pub(crate) values: Vec<f64>,
    /// One for each row, ascending.
    pub(crate) keys: Vec<i64>,
}

/// Every second row goes: those whose place is not a multiple of the doubled step.
fn halve<T: Copy>(values: &mut Vec<T>, width: usize) {
    let mut to = 0;
    for row in (0..values.len() / width).step_by(2) {
        values.copy_within(row * width..(row + 1) * width, to);
        to += width;
    }
    values.truncate(to);
}

/// A series' own seed: it depends on nothing else that is trained.
fn series_seed(seed: u64, name: &SeriesName) -> u64 {
    let mut sha = Sha256::new();
    sha.update(seed.to_le_bytes());
    // The length keeps `a/bc` and `ab/c` apart.
    sha.update((name.device.len() as u64).to_le_bytes());
    sha.update(&name.device);
    sha.update(&name.sensor);
    let digest = sha.finalize();
    digest[..8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// A random number below `n`, by splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014): five lines of our own, because a library may change its sequence, and with it which rows a seed means.
fn below(state: &mut u64, n: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    // The high half of the product is uniform but for n / 2^64.
    ((u128::from(z) * u128::from(n)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sampling: Sampling, device: &str, n: i64, max: usize) -> Sample {
        let mut sample = Sample::new(sampling, &SeriesName::new(device, "s"));
        for i in 0..n {
            sample.push(i, &[i as f64, -(i as f64)], max);
            assert!(
                sample.keys.len() <= max.saturating_mul(2) && sample.values.len() == 2 * sample.keys.len()
            );
            let allowed = Sample::bytes(sampling, i as u64 + 1, max, 2);
            let used = (sample.values.capacity() + sample.keys.capacity()) * 8;
            assert!(used <= allowed, "{used} bytes of {allowed} at {i} of at most {max}");
        }
        assert_eq!(sample.seen(), n as u64);
        sample
    }

    fn firsts(rows: &Rows) -> Vec<f64> {
        assert!(rows.values.chunks_exact(2).all(|r| r[0] == -r[1]));
        assert!(rows.values.chunks_exact(2).zip(&rows.keys).all(|(r, k)| r[0] == *k as f64));
        rows.values.chunks_exact(2).map(|r| r[0]).collect()
    }

    #[test]
    fn an_even_sample_is_evenly_spaced_and_bounded() {
        for (n, max) in
            [(0, 5), (1, 5), (5, 5), (9, 5), (10, 5), (11, 5), (1000, 7), (100_000, 100), (99, usize::MAX)]
        {
            let rows = sample(Sampling::Even, "d", n, max).finish(max, 2);
            assert_eq!(rows.keys.len(), (n as usize).min(max), "{n} of at most {max}");
            let firsts = firsts(&rows);
            if n > 0 {
                assert_eq!(firsts[0], 0.0);
                let steps: Vec<f64> = firsts.windows(2).map(|w| w[1] - w[0]).collect();
                let (low, high) = steps.iter().fold((f64::MAX, 0.0f64), |(l, h), s| (l.min(*s), h.max(*s)));
                assert!(steps.is_empty() || (low > 0.0 && high <= 2.0 * low), "{low} {high}");
                // The end of the range is there too, to within two steps.
                assert!(n as f64 - 1.0 - firsts[firsts.len() - 1] <= 2.0 * high.max(0.5), "{n} {max}");
            }
        }
    }

    #[test]
    fn a_random_sample_is_that_of_its_seed_and_series_and_takes_all_rows_alike() {
        let take = |seed, device: &str| sample(Sampling::Random { seed }, device, 5_000, 50).finish(50, 2);
        let one = take(1, "a");
        assert_eq!(one, take(1, "a"));
        assert_ne!(one, take(2, "a"));
        assert_ne!(one, take(1, "b"));
        let firsts_of = firsts(&one);
        assert!(firsts_of.is_sorted() && firsts_of.len() == 50);
        // Over many series, each fifth of the time gives a fifth of the rows: 2,000 ± 40 is one deviation.
        let mut fifths = [0; 5];
        for device in 0..200 {
            for value in firsts(&take(7, &device.to_string())) {
                fifths[value as usize / 1_000] += 1;
            }
        }
        assert!(fifths.iter().all(|n| (1_840..2_160).contains(n)), "{fifths:?}");
        // The sequence is part of what a seed means.
        assert_eq!(series_seed(42, &SeriesName::new("device", "sensor")), 10_456_984_599_145_659_079);
        let mut state = 0;
        // The published sequence of splitmix64 for 0 begins with these.
        let halves = [0xe220_a839, 0x6e78_9e6a];
        assert_eq!([below(&mut state, 1 << 32), below(&mut state, 1 << 32)], halves);
    }

    #[test]
    fn rows_that_come_out_of_order_are_put_in_order() {
        let name = SeriesName::new("d", "s");
        for sampling in [Sampling::Even, Sampling::Random { seed: 3 }] {
            let (mut there, mut back) = (Sample::new(sampling, &name), Sample::new(sampling, &name));
            for i in 0..40 {
                there.push(i, &[i as f64], 40);
                back.push(39 - i, &[39.0 - i as f64], 40);
            }
            assert_eq!(there.finish(40, 1), back.finish(40, 1));
        }
    }
}
