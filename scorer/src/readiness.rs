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
            (Some(_), Some(w)) if alive => format!("its watermark is at {w} and it is not quiet{}", lag(row)),
            (Some(_), None) if alive => format!("it has no reading yet and is not quiet{}", lag(row)),
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

/// How many messages are still to be read, where that is known.
fn lag(row: &ProgressRow) -> String {
    match row.end_offset.map(|end| end.saturating_sub(row.next_offset)) {
        Some(lag) if lag > 0 => format!(", with {lag} messages still to be read"),
        _ => String::new(),
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

    /// One partition; times in seconds.
    #[derive(Debug, Clone, Copy)]
    struct Row {
        watermark: Option<i64>,
        quiet: Option<i64>,
        seen: Option<i64>,
        created: i64,
        /// Messages still to be read.
        lag: i64,
    }

    /// Its owner has just been seen, and there is no reading yet.
    const LIVE: Row = Row { watermark: None, quiet: None, seen: Some(NOW - 30), created: 0, lag: 0 };
    /// Its owner has been silent for a second too long.
    const DEAD: Row = Row { seen: Some(NOW - 31), ..LIVE };
    /// And for longer than anybody waits.
    const GONE: Row = Row { seen: Some(NOW - 601), ..LIVE };
    const NEVER_OWNED: Row = Row { seen: None, ..LIVE };

    const fn passed(row: Row, watermark: i64) -> Row {
        Row { watermark: Some(watermark), ..row }
    }

    const fn quiet(row: Row, at: i64) -> Row {
        Row { quiet: Some(at), ..row }
    }

    fn progress(rows: &[Row]) -> Progress {
        Progress {
            now: at(NOW),
            rows: rows
                .iter()
                .enumerate()
                .map(|(i, row)| ProgressRow {
                    source: "c".into(),
                    partition: TopicPartition { topic: "t".into(), partition: i as i32 },
                    next_offset: 5,
                    end_offset: Some(5 + row.lag),
                    watermark: row.watermark.map(at),
                    quiet_at: row.quiet.map(at),
                    floor: None,
                    epoch: 1,
                    owner: row.seen.map(|_| "o".into()),
                    owner_seen_at: row.seen.map(at),
                    created_at: at(row.created),
                })
                .collect(),
        }
    }

    /// What becomes of an interval, and what its run's note names or what it waits for.
    enum Then {
        Ready,
        Without(&'static str),
        Waits(&'static str),
    }

    #[test]
    fn every_clause_has_its_case() {
        use Then::*;
        let late = |row: Row, created| Row { created, ..row };
        let behind = |row: Row, lag| Row { lag, ..row };
        // name, rows, with [start, end), with (start, end]; the interval ends at 60
        #[rustfmt::skip]
        let cases: Vec<(&str, Vec<Row>, Then, Then)> = vec![
            ("nothing was ever aggregated", vec![], Waits("no partition of a topic is known yet"), Waits("nothing has been aggregated")),
            ("busy: its readings have passed the end", vec![passed(LIVE, 61)], Ready, Ready),
            ("busy: exactly at the end, by the edges", vec![passed(LIVE, 60)], Ready, Waits("its watermark is at 1970-01-01T00:01:00")),
            ("busy: not there yet", vec![passed(LIVE, 59)], Waits("and it is not quiet"), Waits("and it is not quiet")),
            ("busy: all partitions have passed", vec![passed(LIVE, 99), passed(LIVE, 61)], Ready, Ready),
            ("just begun: no reading yet", vec![LIVE], Waits("t/0 of c: it has no reading yet"), Waits("no reading yet")),
            ("quiet: nothing came, and nothing is left to read", vec![quiet(passed(LIVE, 10), 70)], Ready, Ready),
            ("quiet: never a reading", vec![quiet(LIVE, 70)], Ready, Ready),
            ("quiet: but a disordered reading may still come", vec![quiet(passed(LIVE, 10), 69)], Waits("its watermark is at"), Waits("its watermark is at")),
            ("quiet beside busy", vec![passed(LIVE, 99), quiet(LIVE, 70)], Ready, Ready),
            ("quiet beside lagging", vec![passed(LIVE, 9), quiet(LIVE, 70)], Waits("t/0 of c: its watermark"), Waits("t/0 of c")),
            ("quiet, and then its owner died: its word counts no more", vec![quiet(passed(DEAD, 10), 70)], Waits("its owner was last seen at"), Waits("its owner was last seen at")),
            ("throttled: nothing comes, but there is something to read", vec![behind(passed(LIVE, 10), 7)],
                Waits("with 7 messages still to be read"), Waits("with 7 messages still to be read")),
            ("throttled from the start", vec![behind(LIVE, 7)], Waits("it has no reading yet and is not quiet, with 7"), Waits("with 7 messages")),
            ("lagging beside busy: the slowest counts", vec![passed(LIVE, 99), behind(passed(LIVE, 10), 900)],
                Waits("t/1 of c: its watermark"), Waits("with 900 messages")),
            ("lagging for days, and alive: waited for without limit", vec![late(behind(passed(LIVE, 9), 900), -1_000_000)],
                Waits("its watermark is at"), Waits("its watermark is at")),
            ("dead, but it had passed the end", vec![passed(DEAD, 99)], Ready, Ready),
            ("dead for less than max_wait", vec![passed(Row { seen: Some(NOW - 600), ..DEAD }, 9)],
                Waits("it is waited for until 1970-01-02T03:46:40"), Waits("it is waited for until")),
            ("dead for longer than max_wait: scored without it", vec![passed(GONE, 9)], Without("t/0 of c"), Without("t/0 of c")),
            ("dead for longer, but it had passed the end: nobody is missing", vec![passed(GONE, 99), passed(LIVE, 99)], Ready, Ready),
            ("dead beside busy", vec![GONE, passed(LIVE, 99)], Without("t/0 of c"), Without("t/0 of c")),
            ("dead beside lagging: one does not excuse the other", vec![GONE, passed(LIVE, 9)], Waits("t/1 of c: its watermark"), Waits("t/1 of c")),
            ("dead and taken over: waited for again", vec![passed(Row { seen: Some(NOW), ..GONE }, 9)], Waits("its watermark"), Waits("its watermark")),
            ("never owned: a topic that was just added", vec![late(NEVER_OWNED, NOW - 600)],
                Waits("nobody has claimed it yet; it is waited for until 1970-01-02T03:46:40"), Waits("nobody has claimed it yet")),
            ("never owned for longer than max_wait", vec![late(NEVER_OWNED, NOW - 601)], Without("t/0 of c"), Without("t/0 of c")),
            ("two that nobody owns: both are named", vec![late(NEVER_OWNED, 0), passed(LIVE, 99), GONE],
                Without("t/0 of c, t/2 of c"), Without("t/0 of c, t/2 of c")),
        ];
        for (name, rows, by_start, by_end) in cases {
            let p = progress(&rows);
            for (edges, expected) in [(Edges::Start, by_start), (Edges::End, by_end)] {
                match (readiness(&p, &SETTINGS, edges, at(60)), expected) {
                    (Readiness::Ready { ignored }, Ready) => {
                        assert_eq!(ignored, Vec::<String>::new(), "{name}")
                    }
                    (Readiness::Ready { ignored }, Without(names)) => {
                        assert_eq!(ignored.join(", "), names, "{name}")
                    }
                    (Readiness::NotReady { why }, Waits(text)) => {
                        assert!(why.contains(text), "{name}: {why}")
                    }
                    (found, _) => panic!("{name} ({edges:?}): {found:?}"),
                }
            }
        }
    }

    #[test]
    fn the_reason_names_the_slowest_partition() {
        let p = progress(&[passed(LIVE, 40), passed(LIVE, 20)]);
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
        let p = progress(&[quiet(passed(LIVE, 40), 75), passed(LIVE, 80)]);
        let h = Horizon::of(&p, &SETTINGS, Edges::Start);
        assert_eq!(h.until, Some(at(65)), "quiet at 75 less 10 of disorder");
        assert!(h.is_ready(at(65)) && !h.is_ready(at(66)));
        assert_eq!(Horizon::of(&progress(&[]), &SETTINGS, Edges::Start).until, None);
        let gone = progress(&[passed(NEVER_OWNED, 40)]);
        assert_eq!(Horizon::of(&gone, &SETTINGS, Edges::Start).until, Some(FOREVER));
    }
}
