//! How long a task rests before it is tried again: decided here, kept in SQL, so that no worker waits for it.

use fleetscore_schemas::time::US_PER_S;

/// The first pause after a failure, and the longest.
const FIRST_US: i64 = US_PER_S;
const LONGEST_US: i64 = 60 * US_PER_S;

/// The first pause of a run that waits for a person to mend what it needs, and the longest.
const KEPT_US: i64 = US_PER_S / 10;
const KEPT_LONGEST_US: i64 = 60 * US_PER_S;

/// The first pause of a shard whose models cannot be fetched, and the longest: others may have them.
const FETCH_US: i64 = US_PER_S / 10;
const FETCH_LONGEST_US: i64 = 5 * US_PER_S;

/// After so many failures of a run at a shard.
pub(super) fn retry_after_us(failures: i64) -> i64 {
    doubled(FIRST_US, failures, LONGEST_US)
}

/// After so many attempts at a shard that a person must help. (They are counted over all runs of the interval: one that
/// was scored often begins with a longer pause.)
pub(super) fn kept_after_us(attempt: i64) -> i64 {
    doubled(KEPT_US, attempt, KEPT_LONGEST_US)
}

/// After so many attempts at a shard whose models could not be fetched.
pub(super) fn fetch_after_us(attempt: i64) -> i64 {
    doubled(FETCH_US, attempt, FETCH_LONGEST_US)
}

fn doubled(first_us: i64, times: i64, longest_us: i64) -> i64 {
    let doublings = u32::try_from(times.saturating_sub(1).clamp(0, 30)).unwrap_or(0);
    first_us.saturating_mul(1 << doublings).min(longest_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        // name, times, after a failure, while a person is waited for (both in milliseconds)
        let cases = [
            ("after the first", 1, 1_000, 100),
            ("after the second", 2, 2_000, 200),
            ("after the third", 3, 4_000, 400),
            ("after the sixth", 6, 32_000, 3_200),
            ("the longest", 7, 60_000, 6_400),
            ("never longer", 11, 60_000, 60_000),
            ("after very many", i64::MAX, 60_000, 60_000),
            ("a count that is none", 0, 1_000, 100),
            ("a count that cannot be", -5, 1_000, 100),
        ];
        for (name, times, failed, kept) in cases {
            assert_eq!(retry_after_us(times), failed * 1000, "{name}");
            assert_eq!(kept_after_us(times), kept * 1000, "{name}");
            assert_eq!(fetch_after_us(times), kept.min(5_000) * 1000, "{name}");
        }
    }
}
