//! Where each partition of an assignment stands: pure decisions about messages, ends and gaps.

use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::stream::{GapKind, StartPosition};
use fleetscore_schemas::time::Timestamp;

/// What the broker has of a partition: `earliest..latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) earliest: i64,
    pub(crate) latest: i64,
}

/// How to begin with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Not at all: the log is not what the position promises.
    Gap(GapKind),
    /// Fetch from here; `check` if the first message is the one before the position and its time is known.
    Fetch { from: i64, check: Option<Timestamp> },
}

/// Compares a position with what the broker has.
pub(crate) fn plan(next: i64, expect: Option<Timestamp>, range: Range) -> Plan {
    let Range { earliest, latest } = range;
    if next < earliest || next > latest {
        return Plan::Gap(GapKind::OutOfRange { earliest, latest });
    }
    match expect {
        Some(_) if next > earliest => Plan::Fetch { from: next - 1, check: expect },
        // The record before the position has expired, or there never was one: nothing to compare with.
        _ => Plan::Fetch { from: next, check: None },
    }
}

/// What is done with a partition at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its messages count.
    Fetching,
    /// Its messages are dropped until its position has been compared with the log once more.
    Suspect,
    /// A record at its position could not be read: its messages are dropped until it is asked for again. librdkafka
    /// goes on behind some such records, and what it goes on with must not count.
    Held,
    /// The aggregator was told of a gap: nothing until the next start.
    Gap,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It counts.
    Take,
    /// It does not: before the position, or nothing counts at the moment.
    Skip,
    /// It stands where another one was read: the topic was made anew.
    Replaced { found: Option<Timestamp> },
}

/// What the end of a partition means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The reader stands there now.
    Reached,
    /// The end lies before the position: the log has shrunk.
    Shrunk,
    /// Not to be told.
    Ignored,
}

/// One partition of the present start.
#[derive(Debug, Clone)]
pub(crate) struct Tracker {
    pub(crate) source: TopicPartition,
    /// The offset that counts next.
    pub(crate) next: i64,
    /// The broker's time of the record before `next`, where it is known.
    last: Option<Timestamp>,
    /// Whether the first message is to be compared with `last`.
    checking: bool,
    pub(crate) phase: Phase,
    /// What the broker had when the position was last compared with it.
    pub(crate) range: Range,
}

/// Where a tracker stood, to go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) next: i64,
    last: Option<Timestamp>,
}

impl Tracker {
    /// A partition whose position has not been compared with the log yet.
    pub(crate) fn new(position: &StartPosition) -> Self {
        Self {
            source: position.source.clone(),
            next: position.next_offset,
            last: position.expect_broker_time,
            checking: false,
            phase: Phase::Suspect,
            range: Range { earliest: 0, latest: 0 },
        }
    }

    /// Where it stands.
    pub(crate) fn mark(&self) -> Mark {
        Mark { next: self.next, last: self.last }
    }

    /// Goes back: what was read since does not count.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        (self.next, self.last) = (mark.next, mark.last);
    }

    /// Compares the position with the log. Returns where to fetch from, or the gap to tell of.
    pub(crate) fn compare(&mut self, range: Range) -> Plan {
        let plan = plan(self.next, self.last, range);
        self.range = range;
        match &plan {
            Plan::Gap(_) => self.phase = Phase::Gap,
            Plan::Fetch { check, .. } => {
                self.checking = check.is_some();
                self.phase = Phase::Fetching;
            }
        }
        plan
    }

    /// Where a new fetch of this partition begins, without looking at the log again.
    pub(crate) fn fetch_from(&self) -> i64 {
        if self.checking { self.next - 1 } else { self.next }
    }

    /// Judges a message, and moves the position if it counts.
    pub(crate) fn message(&mut self, offset: i64, time: Option<Timestamp>) -> Verdict {
        if self.phase != Phase::Fetching {
            return Verdict::Skip;
        }
        if offset < self.next {
            if self.checking && offset == self.next - 1 {
                self.checking = false;
                if time != self.last {
                    self.phase = Phase::Gap;
                    return Verdict::Replaced { found: time };
                }
            }
            return Verdict::Skip;
        }
        // The record before the position was compacted away, or is a transaction marker: it cannot be compared.
        self.checking = false;
        self.next = offset + 1;
        self.last = time;
        Verdict::Take
    }

    /// A record could not be read: nothing behind it counts before it does.
    pub(crate) fn hold(&mut self) {
        if self.phase == Phase::Fetching {
            self.phase = Phase::Held;
        }
    }

    /// The end of the partition was reached at `offset`.
    pub(crate) fn end(&mut self, offset: i64) -> End {
        if self.phase != Phase::Fetching {
            return End::Ignored;
        }
        if offset < self.next {
            self.phase = Phase::Suspect;
            return End::Shrunk;
        }
        self.checking = false;
        self.next = offset;
        End::Reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: Option<Timestamp> = Some(Timestamp(7_000));
    const OTHER: Option<Timestamp> = Some(Timestamp(9_000));

    fn tracker(next: i64, expect: Option<Timestamp>, earliest: i64, latest: i64) -> (Tracker, Plan) {
        let mut tracker = Tracker::new(&StartPosition {
            source: TopicPartition::new("t", 0),
            next_offset: next,
            expect_broker_time: expect,
        });
        let plan = tracker.compare(Range { earliest, latest });
        (tracker, plan)
    }

    #[test]
    fn a_position_is_compared_with_the_log_before_anything_is_fetched() {
        let gap = |earliest, latest| Plan::Gap(GapKind::OutOfRange { earliest, latest });
        let fetch = |from, check| Plan::Fetch { from, check };
        for (next, expect, earliest, latest, plan) in [
            (0, None, 0, 0, fetch(0, None)),
            (0, T, 0, 5, fetch(0, None)), // nothing lies before the first record
            (5, None, 0, 5, fetch(5, None)),
            (5, T, 0, 5, fetch(4, T)),
            (5, T, 4, 9, fetch(4, T)),
            (5, T, 5, 9, fetch(5, None)), // the record before has expired
            (5, None, 6, 9, gap(6, 9)),
            (5, T, 0, 4, gap(0, 4)),
            (1, T, 0, 0, gap(0, 0)), // made anew and empty
        ] {
            assert_eq!(
                super::plan(next, expect, Range { earliest, latest }),
                plan,
                "{next} in {earliest}..{latest}"
            );
        }
    }

    #[test]
    fn the_record_before_the_position_is_compared_and_dropped() {
        let (mut same, _) = tracker(5, T, 0, 9);
        assert_eq!(same.message(4, T), Verdict::Skip);
        assert_eq!(same.message(5, OTHER), Verdict::Take);
        assert_eq!(same.next, 6);

        for found in [OTHER, None] {
            let (mut other, _) = tracker(5, T, 0, 9);
            assert_eq!(other.message(4, found), Verdict::Replaced { found });
            assert_eq!(other.message(5, T), Verdict::Skip, "nothing counts after a gap");
            assert_eq!(other.end(9), End::Ignored);
            assert_eq!(other.next, 5);
        }

        let (mut marker, _) = tracker(5, T, 0, 9);
        assert_eq!(marker.message(6, OTHER), Verdict::Take, "a gap in the log cannot be compared");
        assert_eq!(marker.next, 7);
    }

    #[test]
    fn an_end_moves_the_position_forwards_only() {
        let (mut t, _) = tracker(5, None, 0, 9);
        assert_eq!(t.end(5), End::Reached);
        assert_eq!(t.message(5, T), Verdict::Take);
        assert_eq!(t.end(8), End::Reached);
        assert_eq!(t.next, 8, "past transaction markers");
        assert_eq!(t.message(7, T), Verdict::Skip);
        assert_eq!(t.end(3), End::Shrunk);
        assert_eq!((t.phase, t.next), (Phase::Suspect, 8));
        assert_eq!(t.message(8, T), Verdict::Skip, "suspect until compared again");
        // Compared again: the record that was read last is looked at, since its time is known.
        assert_eq!(t.compare(Range { earliest: 0, latest: 20 }), Plan::Fetch { from: 7, check: T });
        assert_eq!(t.message(7, OTHER), Verdict::Replaced { found: OTHER });
    }

    #[test]
    fn nothing_behind_an_unreadable_record_counts() {
        let (mut t, _) = tracker(5, None, 0, 9);
        assert_eq!(t.message(5, T), Verdict::Take);
        t.hold();
        assert_eq!(t.message(7, T), Verdict::Skip, "offset 6 was not read");
        assert_eq!(t.end(9), End::Ignored);
        assert_eq!((t.phase, t.next), (Phase::Held, 6));
        t.phase = Phase::Suspect; // it is asked for again
        assert_eq!(t.compare(Range { earliest: 0, latest: 9 }), Plan::Fetch { from: 5, check: T });
        assert_eq!(t.message(5, T), Verdict::Skip);
        assert_eq!(t.message(6, T), Verdict::Take);
        // Of a gap the aggregator was told: that stays.
        t.phase = Phase::Gap;
        t.hold();
        assert_eq!(t.phase, Phase::Gap);
    }

    proptest! {
        /// However messages and ends come in, what counts is strictly ascending from the position on.
        #[test]
        fn what_counts_ascends(next in 0i64..20, check in any::<bool>(), events in prop::collection::vec((0i64..40, any::<bool>()), 0..60)) {
            let (mut t, _) = tracker(next, if check { T } else { None }, 0, 40);
            let mut floor = next;
            for (offset, is_end) in events {
                if is_end {
                    if t.end(offset) == End::Reached {
                        prop_assert!(offset >= floor);
                        floor = offset;
                    }
                } else if t.message(offset, T) == Verdict::Take {
                    prop_assert!(offset >= floor);
                    floor = offset + 1;
                }
                prop_assert_eq!(t.next, floor);
            }
        }
    }
}
