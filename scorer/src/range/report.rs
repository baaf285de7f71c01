//! What became of a range, and how far one under way has come.

use fleetscore_schemas::SeriesName;
use fleetscore_schemas::status::RunState;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::RunCounts;
use std::collections::BTreeMap;
use std::time::Instant;
use uuid::Uuid;

/// What became of a range. Intervals without any reading are not in it, nor, where only some series were asked for, those
/// without any of these.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RangeReport {
    /// Intervals that were (or would be) scored, ascending.
    pub intervals: Vec<RangeInterval>,
    /// Intervals with data that are not ready, with what they wait for.
    pub unready: Vec<(Interval, String)>,
    /// Ready intervals with data that have no model set to be scored with, with the reason.
    pub without_set: Vec<(Interval, String)>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

impl RangeReport {
    /// Whether the work as a whole failed: a run failed or was cancelled.
    pub fn failed(&self) -> bool {
        let bad = |s: &Option<RunState>| matches!(s, Some(RunState::Failed | RunState::Cancelled));
        self.intervals.iter().any(|i| bad(&i.state))
    }

    /// Whether something is missing within what is tolerated: models that failed, intervals that are not ready or have no
    /// model set.
    pub fn partly(&self) -> bool {
        !self.unready.is_empty()
            || !self.without_set.is_empty()
            || self.intervals.iter().any(|i| i.state == Some(RunState::Partial))
    }

    /// What to think of before the labels are believed, in words: models that had seen what they judge, or what came after
    /// it.
    pub fn warnings(&self) -> Vec<String> {
        let mut ahead: BTreeMap<(Option<i64>, Timestamp), (usize, Timestamp)> = BTreeMap::new();
        for i in &self.intervals {
            if let Some(until) = i.trained_until {
                let entry = ahead.entry((i.model_set, until)).or_insert((0, i.interval.start));
                entry.0 += 1;
                entry.1 = entry.1.min(i.interval.start);
            }
        }
        let text = |((set, until), (count, first)): (&(Option<i64>, Timestamp), &(usize, Timestamp))| {
            let intervals = if *count == 1 { "interval" } else { "intervals" };
            format!(
                "model set {} was trained on data up to {until}: it had seen what it judges, or what came after it, in \
                 {count} {intervals} from {first} on; score with the set of the time instead (`--model-set as-of-interval`), or \
                 do not read the labels as what would have been said then",
                set.unwrap_or_default(),
            )
        };
        ahead.iter().map(text).collect()
    }
}

/// One interval of a range.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeInterval {
    /// The interval.
    pub interval: Interval,
    /// Its run; `None` in a dry run.
    pub run_id: Option<Uuid>,
    /// How the run ended; `None` in a dry run.
    pub state: Option<RunState>,
    /// The model set.
    pub model_set: Option<i64>,
    /// The end of what the set was trained on, where that lies behind the interval's start.
    pub trained_until: Option<Timestamp>,
    /// What became of its models.
    pub counts: RunCounts,
    /// In a dry run: the rows that would change.
    pub changes: Vec<LabelChange>,
    /// What went wrong.
    pub error: Option<String>,
}

/// A row whose label or status would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelChange {
    /// The series.
    pub series: SeriesName,
    /// Status and prediction now; `None` = no row.
    pub before: Option<(String, Option<i16>)>,
    /// Status and prediction then; `None` = the row would go.
    pub after: Option<(String, Option<i16>)>,
}

/// How far a range under way has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeProgress {
    /// Intervals that are dealt with, those that are left out included.
    pub intervals_done: usize,
    /// Intervals with data; 0 while they are looked for.
    pub intervals_total: usize,
    /// Rows made so far.
    pub rows: u64,
    /// When it began.
    pub started: Instant,
}

impl RangeProgress {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { intervals_done: 0, intervals_total: 0, rows: 0, started: Instant::now() }
    }
}

impl Default for RangeProgress {
    fn default() -> Self {
        Self::new()
    }
}
