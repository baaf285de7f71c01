//! Schedules, and the planner's transaction.

use super::{SeriesRange, Thresholds};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::{RunCause, RunScope};
use fleetscore_schemas::time::{Interval, Timestamp, US_PER_S};
use fleetscore_schemas::window::Feature;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What makes a schedule open runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Each interval, as soon as it is ready.
    Interval,
    /// What has become ready since the fire before, at certain times of the clock.
    Cron {
        /// Five or six fields (the first of six are seconds).
        expression: String,
        /// IANA name of the zone that the fields are told in: `UTC`, `Europe/Berlin`.
        time_zone: String,
    },
    /// Nothing but a person's `run`.
    Manual,
}

impl Trigger {
    /// The stored name of its kind.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Cron { .. } => "cron",
            Self::Manual => "manual",
        }
    }
}

/// What a schedule does with intervals that were ready before it looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Score all of them.
    All,
    /// Score the newest of a stretch.
    Latest,
    /// Score none.
    None,
}

impl CatchUp {
    /// The stored name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Latest => "latest",
            Self::None => "none",
        }
    }
}

/// Which predictions below the floor of retention stay in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// All of them.
    All,
    /// Those whose label or status differs from that of the series' interval before.
    Changes,
    /// Anomalies.
    Anomalies,
}

impl Keep {
    /// The stored name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Changes => "changes",
            Self::Anomalies => "anomalies",
        }
    }
}

/// A schedule as configured. Stored as JSON; what an older version did not know has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleSpec {
    /// Its name: `[a-z][a-z0-9_]*`, at most 40 characters.
    pub name: String,
    /// Length of its window in microseconds, a multiple of the pane.
    pub window_us: i64,
    /// Distance of window starts in microseconds, a multiple of the pane.
    pub hop_us: i64,
    /// Input columns of its models.
    pub features: Vec<Feature>,
    /// What makes it open runs.
    pub trigger: Trigger,
    /// False: it stands still, and what it does not do is recorded.
    pub enabled: bool,
    /// A regular expression over `device/sensor`: the series it scores; `None` = all.
    pub series: Option<String>,
    /// The model set it scores with; `None` = the active one.
    pub model_set: Option<i64>,
    /// What to do with the past.
    pub catch_up: CatchUp,
    /// The oldest readiness that is still scored, in microseconds; `None` = no bound.
    pub max_age_us: Option<i64>,
    /// Of what is caught up, at most so many intervals, the newest; `None` = no bound.
    pub max_runs: Option<u32>,
    /// How long after a change a stale interval is scored again; `None` = never by itself.
    pub rescore_delay_us: Option<i64>,
    /// At most so many re-scores are opened in a minute; `None` = no bound.
    pub rescores_per_minute: Option<u32>,
    /// What a run may fail of.
    pub thresholds: Thresholds,
    /// How often a failed shard is tried again within a run.
    pub max_retries: u32,
    /// An attempt at a shard that takes longer has failed, in microseconds.
    pub timeout_us: i64,
    /// A run of which nothing was heard for so long is stalled, in microseconds.
    pub stall_after_us: i64,
    /// Shards of a run; `None` = by the number of series.
    pub shards: Option<u32>,
    /// A series without data for longer is an event, in microseconds; `None` = never.
    pub silence_us: Option<i64>,
    /// Which predictions stay in SQL below the floor of retention.
    pub keep: Keep,
    /// An interval is published again at most once in this time, in microseconds.
    pub republish_gap_us: i64,
}

impl ScheduleSpec {
    /// A schedule of tumbling windows with every other setting at its default.
    pub fn new(name: impl Into<String>, window_us: i64) -> Self {
        Self { name: name.into(), window_us, hop_us: window_us, ..Self::default() }
    }
}

impl Default for ScheduleSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            window_us: 0,
            hop_us: 0,
            features: vec![Feature::Mean],
            trigger: Trigger::Interval,
            enabled: true,
            series: None,
            model_set: None,
            catch_up: CatchUp::All,
            max_age_us: None,
            max_runs: None,
            rescore_delay_us: Some(30 * US_PER_S),
            rescores_per_minute: Some(60),
            thresholds: Thresholds::default(),
            max_retries: 2,
            timeout_us: 600 * US_PER_S,
            stall_after_us: 600 * US_PER_S,
            shards: None,
            silence_us: None,
            keep: Keep::All,
            republish_gap_us: 600 * US_PER_S,
        }
    }
}

/// A schedule that a person has stopped for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Id of the row that says what it passes over.
    pub id: Uuid,
    /// Since when, by the store's clock.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
}

/// What was ready when a planner looked for the first time after a while in which none did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// Intervals that end by here were ready.
    pub until: Timestamp,
    /// Start of the newest pane.
    pub newest_pane: Timestamp,
}

/// A stored schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRow {
    /// What was configured last.
    pub spec: ScheduleSpec,
    /// Raised by every plan that touches it, every changed setting, and a pause.
    pub revision: i64,
    /// Start of the first interval it scores; `None` until that is decided.
    pub first_interval: Option<Timestamp>,
    /// Every interval that starts before this has a run or lies in a skipped range.
    pub covered_until: Option<Timestamp>,
    /// Set while it is paused.
    pub pause: Option<Pause>,
    /// When a planner of whichever process looked last, by the store's clock.
    pub looked_at: Option<Timestamp>,
    /// What was ready, and not dealt with, when a planner came back.
    pub missed: Option<Missed>,
    /// With cron: the last fire that was dealt with.
    pub fired_at: Option<Timestamp>,
    /// With cron: intervals that end by here may be opened.
    pub released_until: Option<Timestamp>,
    /// Intervals that start before this are in the roster ([`crate::Store::advance_roster`]).
    pub roster_until: Option<Timestamp>,
    /// When it was made, by the store's clock.
    pub created_at: Timestamp,
}

impl ScheduleRow {
    /// A schedule that was just made: nothing has looked at it yet.
    pub fn new(spec: ScheduleSpec, created_at: Timestamp) -> Self {
        Self {
            spec,
            revision: 0,
            first_interval: None,
            covered_until: None,
            pause: None,
            looked_at: None,
            missed: None,
            fired_at: None,
            released_until: None,
            roster_until: None,
            created_at,
        }
    }
}

/// One row of the log of changed panes.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedPane {
    /// Its id; ascending in the order of commits of one process.
    pub id: i64,
    /// Start of the pane.
    pub pane_start: Timestamp,
    /// When it was logged, by the store's clock.
    pub changed_at: Timestamp,
}

/// A run to be opened.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// Its id.
    pub run_id: Uuid,
    /// The schedule.
    pub schedule: String,
    /// The interval.
    pub interval: Interval,
    /// Why.
    pub cause: RunCause,
    /// The model set it is fixed to; `None` opens it as waiting.
    pub model_set: Option<i64>,
    /// Whether rows are written only for series with data (an interval before the first, or inside a gap).
    pub data_only: bool,
    /// Which of its series are scored.
    pub scope: RunScope,
    /// A regular expression over `device/sensor`: of these series alone; `None` = all.
    pub series: Option<String>,
    /// Where the series are cut into shards: the first series of each shard but the first, ascending.
    pub cuts: Vec<SeriesId>,
    /// Only the shards that this run left undone, as they were cut; `cuts` does not count then.
    pub retry_of: Option<Uuid>,
    /// What it waits for, or what an operator should know (an ignored silent partition).
    pub note: Option<String>,
}

impl NewRun {
    /// Its shards.
    pub fn ranges(&self) -> Vec<SeriesRange> {
        SeriesRange::cut(&self.cuts)
    }
}

/// A range of intervals that gets no run. One with the id of a stored range makes that one longer, and says why anew.
#[derive(Debug, Clone, PartialEq)]
pub struct SkippedRange {
    /// Its id.
    pub run_id: Uuid,
    /// The schedule.
    pub schedule: String,
    /// From the first interval's start to the last interval's end.
    pub range: Interval,
    /// `gap`, `paused`, or `catch_up` where a policy passed it over.
    pub cause: RunCause,
    /// Why.
    pub note: String,
}

/// Times of the clock at which a cron schedule was to open runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// The schedule.
    pub schedule: String,
    /// The first of them.
    pub at: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// How many.
    pub fires: i64,
    /// Why nothing was opened; `None` = it was.
    pub reason: Option<String>,
}

/// A move of a schedule's horizon. What is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScheduleMove {
    /// The schedule.
    pub name: String,
    /// Its revision when it was read: must still be this one.
    pub revision: i64,
    /// Set once.
    pub first_interval: Option<Timestamp>,
    /// Never lowered.
    pub covered_until: Option<Timestamp>,
    /// A planner has looked: `looked_at` becomes now.
    pub looked: bool,
    /// A planner came back.
    pub missed: Option<Missed>,
    /// Never lowered.
    pub fired_at: Option<Timestamp>,
    /// Never lowered.
    pub released_until: Option<Timestamp>,
}

/// One transaction of the planner: deletes the log rows it has dealt with and opens the runs they call for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Schedules that were looked at; each revision is checked and raised.
    pub schedules: Vec<ScheduleMove>,
    /// Rows of the log that are dealt with.
    pub seen: Vec<i64>,
    /// Runs to open, each with its tasks (one per shard).
    pub open: Vec<NewRun>,
    /// Ranges without runs.
    pub skipped: Vec<SkippedRange>,
    /// Fires, made or not.
    pub fires: Vec<Fire>,
    /// Waiting runs that may start now, with their model set.
    pub start: Vec<(Uuid, i64)>,
    /// Open runs that end as failed, with why, before others open: a run of the same interval in `open` takes over, also
    /// what the ended one changed: the interval is not due for publication before the new run has ended.
    pub end: Vec<(Uuid, String)>,
}
