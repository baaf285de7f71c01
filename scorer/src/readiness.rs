//! When an interval is ready: a pure decision by committed progress rows, the settings and the store's clock.
//!
//! Readiness is monotone: if the interval that ends at `t` is ready, so is every one that ends earlier. So one pass over
//! the rows gives the [`Horizon`], and each interval is then a comparison.

use fleetscore_schemas::time::{Edges, Timestamp};
use fleetscore_store::{Progress, ProgressRow, ReadinessSettings};

/// Whether an interval is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready {
        /// Partitions that were not waited for, because nobody has owned them for longer than `max_wait`: the run
        /// names them.
        ignored: Vec<String>,
    },
    /// It is not.
    NotReady {
        /// Which partition holds it back, and what it waits for.
        why: String,
    },
}

/// Up to where intervals are ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// The latest end of an interval that is ready: `None` where there is no progress at all, `i64::MAX` where every
    /// partition is ignored.
    pub until: Option<Timestamp>,
    holds: Vec<Hold>,
}

/// What one partition says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hold {
    /// Ends at or before this are ready by the partition itself (by its watermark or its quietness).
    until: Timestamp,
    /// Nobody has owned it for longer than `max_wait`.
    silent: bool,
    name: String,
    why: String,
}

/// The far end of time: no partition holds anything back.
const FOREVER: Timestamp = Timestamp(i64::MAX);

impl Horizon {
    /// One pass over the rows.
    pub fn of(progress: &Progress, settings: &ReadinessSettings, edges: Edges) -> Self {
        let holds: Vec<Hold> =
            progress.rows.iter().map(|row| Hold::of(row, progress.now, settings, edges)).collect();
        let until = holds.iter().map(|h| if h.silent { FOREVER } else { h.until }).min();
        Self { until, holds }
    }

    /// Whether the interval with this end is ready.
    pub fn is_ready(&self, end: Timestamp) -> bool {
        self.until.is_some_and(|until| end <= until)
    }

    /// Names of partitions that are not waited for although they have not passed this end.
    pub fn ignored(&self, end: Timestamp) -> Vec<String> {
        self.holds.iter().filter(|h| h.silent && h.until < end).map(|h| h.name.clone()).collect()
    }

    /// What an interval with this end waits for; `None` if it is ready.
    pub fn why_not(&self, end: Timestamp) -> Option<String> {
        if self.is_ready(end) {
            return None;
        }
        let slowest = self.holds.iter().filter(|h| !h.silent && h.until < end).min_by_key(|h| h.until);
        let others = self.holds.iter().filter(|h| !h.silent && h.until < end).count().saturating_sub(1);
        Some(match slowest {
            None => "no partition of a topic is known yet: nothing has been aggregated".to_owned(),
            Some(h) if others == 0 => format!("{}: {}", h.name, h.why),
            Some(h) => format!("{}: {} (and {others} more)", h.name, h.why),
        })
    }
}

impl Hold {
    fn of(row: &ProgressRow, now: Timestamp, settings: &ReadinessSettings, edges: Edges) -> Self {
        let age = |t: Timestamp| now.0.saturating_sub(t.0);
        let alive = row.owner_seen_at.is_some_and(|seen| age(seen) <= settings.owner_ttl_us);
        // An owner that lives holds back without limit; one that does not, or never was, until `max_wait`.
        let silent = !alive && age(row.owner_seen_at.unwrap_or(row.created_at)) > settings.max_wait_us;

        // `PaneGrid::passed` solved for the end: with (start, end] the watermark must lie strictly behind it.
        let by_watermark = row.watermark.map(|w| match edges {
            Edges::Start => w,
            Edges::End => w.plus_us(-1),
        });
        let by_quiet = row.quiet_at.filter(|_| alive).map(|q| q.plus_us(-settings.max_disorder_us));
        let until = by_watermark.max(by_quiet).unwrap_or(Timestamp(i64::MIN));

        let why = match (row.owner_seen_at, row.watermark) {
            (Some(_), Some(w)) if alive => format!("its watermark is at {w} and it is not quiet"),
            (Some(_), None) if alive => "it has no reading yet and is not quiet".to_owned(),
            (Some(seen), _) => format!(
                "its owner was last seen at {seen}; it is waited for until {}",
                seen.plus_us(settings.max_wait_us)
            ),
            (None, _) => format!(
                "nobody has claimed it yet; it is waited for until {}",
                row.created_at.plus_us(settings.max_wait_us)
            ),
        };
        let p = &row.partition;
        Self { until, silent, name: format!("{}/{} of {}", p.topic, p.partition, row.source), why }
    }
}

/// Whether the interval that ends here is ready, and why.
///
/// An interval is ready when every partition's watermark has passed its end, or the partition is quiet (asserted by an
/// owner that lives, whose clock has passed the end by `max_disorder`), or the partition has been without a living owner
/// for longer than `max_wait`. Without any progress row nothing is ready.
pub fn readiness(
    progress: &Progress,
    settings: &ReadinessSettings,
    edges: Edges,
    end: Timestamp,
) -> Readiness {
    let horizon = Horizon::of(progress, settings, edges);
    match horizon.why_not(end) {
        Some(why) => Readiness::NotReady { why },
        None => Readiness::Ready { ignored: horizon.ignored(end) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::reading::TopicPartition;
    use fleetscore_schemas::time::US_PER_S;

    const SETTINGS: ReadinessSettings = ReadinessSettings {
        max_disorder_us: 10 * US_PER_S,
        owner_ttl_us: 30 * US_PER_S,
        max_wait_us: 600 * US_PER_S,
    };
    const NOW: i64 = 100_000;

    fn at(s: i64) -> Timestamp {
        Timestamp(s * US_PER_S)
    }

    /// Watermark, quiet_at, owner_seen_at (seconds), created_at.
    type Row = (Option<i64>, Option<i64>, Option<i64>, i64);

    fn progress(rows: &[Row]) -> Progress {
        Progress {
            now: at(NOW),
            rows: rows
                .iter()
                .enumerate()
                .map(|(i, (watermark, quiet, seen, created))| ProgressRow {
                    source: "c".into(),
                    partition: TopicPartition { topic: "t".into(), partition: i as i32 },
                    next_offset: 0,
                    end_offset: None,
                    watermark: watermark.map(at),
                    quiet_at: quiet.map(at),
                    floor: None,
                    epoch: 1,
                    owner: seen.map(|_| "o".into()),
                    owner_seen_at: seen.map(at),
                    created_at: at(*created),
                })
                .collect(),
        }
    }

    #[test]
    fn every_clause_has_its_case() {
        let alive = Some(NOW - 30);
        let dead = Some(NOW - 31);
        let gone = Some(NOW - 601);
        let wait = Some(NOW - 600);
        // name, rows, end, (start: ready, ignored), (end: ready)
        #[rustfmt::skip]
        let cases: &[(&str, &[Row], i64, bool, usize, bool)] = &[
            ("no rows at all", &[], 60, false, 0, false),
            ("passed", &[(Some(61), None, alive, 0)], 60, true, 0, true),
            ("exactly at the end: by the edges", &[(Some(60), None, alive, 0)], 60, true, 0, false),
            ("not yet", &[(Some(59), None, alive, 0)], 60, false, 0, false),
            ("no reading yet", &[(None, None, alive, 0)], 60, false, 0, false),
            ("one of two lags", &[(Some(99), None, alive, 0), (Some(10), None, alive, 0)], 60, false, 0, false),
            ("both passed", &[(Some(99), None, alive, 0), (Some(61), None, alive, 0)], 60, true, 0, true),
            ("a passed watermark needs no living owner", &[(Some(99), None, gone, 0)], 60, true, 0, true),
            ("quiet", &[(Some(10), Some(70), alive, 0)], 60, true, 0, true),
            ("quiet, never a reading", &[(None, Some(70), alive, 0)], 60, true, 0, true),
            ("quiet, but the clock has not passed end + disorder", &[(Some(10), Some(69), alive, 0)], 60, false, 0, false),
            ("quiet asserted by an owner that is dead", &[(Some(10), Some(70), dead, 0)], 60, false, 0, false),
            ("quiet beside passed", &[(Some(99), None, alive, 0), (None, Some(70), alive, 0)], 60, true, 0, true),
            ("quiet beside lagging", &[(Some(9), None, alive, 0), (None, Some(70), alive, 0)], 60, false, 0, false),
            ("alive and lagging holds back for ever", &[(Some(9), None, alive, -1_000_000)], 60, false, 0, false),
            ("silent owner within max_wait", &[(Some(9), None, wait, 0)], 60, false, 0, false),
            ("silent owner past max_wait", &[(Some(9), None, gone, 0)], 60, true, 1, true),
            ("never owned within max_wait", &[(None, None, None, NOW - 600)], 60, false, 0, false),
            ("never owned past max_wait", &[(None, None, None, NOW - 601)], 60, true, 1, true),
            ("an ignored one does not excuse another", &[(None, None, gone, 0), (Some(9), None, alive, 0)], 60, false, 0, false),
            ("an ignored one beside a passed one", &[(None, None, gone, 0), (Some(99), None, alive, 0)], 60, true, 1, true),
            ("silent, but passed: nothing to name", &[(Some(99), None, gone, 0), (Some(99), None, alive, 0)], 60, true, 0, true),
            ("claimed again: waited for again", &[(Some(9), None, Some(NOW), 0)], 60, false, 0, false),
        ];
        for (name, rows, end, by_start, ignored, by_end) in cases {
            let p = progress(rows);
            for (edges, expected) in [(Edges::Start, *by_start), (Edges::End, *by_end)] {
                match readiness(&p, &SETTINGS, edges, at(*end)) {
                    Readiness::Ready { ignored: names } => {
                        assert!(expected, "{name} ({edges:?}): must not be ready");
                        assert_eq!(names.len(), *ignored, "{name}: {names:?}");
                    }
                    Readiness::NotReady { why } => {
                        assert!(!expected, "{name} ({edges:?}): must be ready, but {why}");
                        assert!(!why.is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn the_reason_names_the_slowest_partition() {
        let p = progress(&[(Some(40), None, Some(NOW), 0), (Some(20), None, Some(NOW), 0)]);
        let Readiness::NotReady { why } = readiness(&p, &SETTINGS, Edges::Start, at(60)) else {
            panic!("not ready")
        };
        assert!(why.starts_with("t/1 of c: its watermark is at 1970-01-01T00:00:20"), "{why}");
        assert!(why.ends_with("(and 1 more)"), "{why}");
        let Readiness::NotReady { why } = readiness(&p, &SETTINGS, Edges::Start, at(30)) else {
            panic!("not ready")
        };
        assert!(!why.contains("more"), "{why}");
    }

    #[test]
    fn the_horizon_is_where_readiness_ends() {
        let p = progress(&[(Some(40), Some(75), Some(NOW), 0), (Some(80), None, Some(NOW), 0)]);
        let h = Horizon::of(&p, &SETTINGS, Edges::Start);
        assert_eq!(h.until, Some(at(65)), "quiet at 75 less 10 of disorder");
        assert!(h.is_ready(at(65)) && !h.is_ready(at(66)));
        assert_eq!(Horizon::of(&progress(&[]), &SETTINGS, Edges::Start).until, None);
        let gone = progress(&[(Some(40), None, None, 0)]);
        assert_eq!(Horizon::of(&gone, &SETTINGS, Edges::Start).until, Some(FOREVER));
    }
}
