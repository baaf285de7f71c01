//! How an aggregator is set up.

use crate::error::AggregatorError;
use fleetscore_state::admit::UNKNOWN_SERIES;
use fleetscore_store::{PaneSettings, ReadinessSettings};

/// What to do when the log of a partition is not what the stored position promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOffsetGap {
    /// Stop, and tell the user.
    Stop,
    /// Go on from the oldest record there is, and record the loss.
    Continue,
}

/// How an aggregator is set up. Lengths of time are microseconds.
#[derive(Debug, Clone)]
pub struct Options {
    /// How panes are made.
    pub panes: PaneSettings,
    /// How far readings of one partition may be out of order.
    pub max_disorder_us: i64,
    /// Readings further ahead of the clock are dead letters.
    pub max_future_skew_us: i64,
    /// Readings further behind the watermark are dead letters.
    pub allowed_lateness_us: i64,
    /// A caught-up partition without progress for so long is quiet.
    pub idle_timeout_us: i64,
    /// An owner that was not seen for so long is silent; signs of life come three times as often.
    pub owner_ttl_us: i64,
    /// How long a silent owner holds intervals back.
    pub max_wait_us: i64,
    /// Longest time between checkpoints while there is something to store; while more is left of the log than was read
    /// since the last one, the longer of this and 10 s.
    pub checkpoint_interval_us: i64,
    /// Memory that readings, partial aggregates and dead letters may take between checkpoints.
    pub checkpoint_bytes: usize,
    /// More series than this are refused.
    pub max_series: u32,
    /// What to do about missing offsets.
    pub on_offset_gap: OnOffsetGap,
    /// Name of this process among the owners of partitions.
    pub owner: String,
    /// How long panes are kept, counted back from the newest ready interval; `None` = for ever.
    pub retention_us: Option<i64>,
    /// More dead letters than this in a minute become one row per partition, code and checkpoint.
    pub dead_letters_per_minute: u32,
    /// The same, for dead letters of so many bytes.
    pub dead_letter_bytes_per_minute: usize,
    /// How long dead letters are kept; `None` = for ever.
    pub dead_letter_retention_us: Option<i64>,
    /// How long the last checkpoint may take.
    pub shutdown_timeout_us: i64,
}

impl Options {
    /// Settings with the documented defaults, for this owner and these panes.
    pub fn new(owner: impl Into<String>, panes: PaneSettings) -> Self {
        const S: i64 = 1_000_000;
        Self {
            panes,
            max_disorder_us: 10 * S,
            max_future_skew_us: 300 * S,
            allowed_lateness_us: 7 * 86_400 * S,
            idle_timeout_us: 30 * S,
            owner_ttl_us: 30 * S,
            max_wait_us: 600 * S,
            checkpoint_interval_us: 10 * S,
            checkpoint_bytes: 256 << 20,
            max_series: 2_000_000,
            on_offset_gap: OnOffsetGap::Stop,
            owner: owner.into(),
            retention_us: None,
            dead_letters_per_minute: 10_000,
            dead_letter_bytes_per_minute: 16 << 20,
            dead_letter_retention_us: None,
            shutdown_timeout_us: 25 * S,
        }
    }

    /// What readiness is judged by.
    pub fn readiness(&self) -> ReadinessSettings {
        ReadinessSettings {
            max_disorder_us: self.max_disorder_us,
            owner_ttl_us: self.owner_ttl_us,
            max_wait_us: self.max_wait_us,
        }
    }

    pub(crate) fn check(&self) -> Result<(), AggregatorError> {
        let wrong =
            |setting, message: &str| Err(AggregatorError::Setting { setting, message: message.into() });
        if self.panes.interval_us < 1_000_000 || self.panes.interval_us % 1_000_000 != 0 {
            return wrong("interval", "must be whole seconds, at least one");
        }
        for (setting, us) in [
            ("max_disorder", self.max_disorder_us),
            ("max_future_skew", self.max_future_skew_us),
            ("allowed_lateness", self.allowed_lateness_us),
        ] {
            if us < 0 {
                return wrong(setting, "must not be negative");
            }
        }
        for (setting, us) in [
            ("idle_timeout", self.idle_timeout_us),
            ("owner_ttl", self.owner_ttl_us),
            ("max_wait", self.max_wait_us),
            ("checkpoint_interval", self.checkpoint_interval_us),
            ("shutdown_timeout", self.shutdown_timeout_us),
            ("retention", self.retention_us.unwrap_or(1)),
            ("dead_letter_retention", self.dead_letter_retention_us.unwrap_or(1)),
        ] {
            if us <= 0 {
                return wrong(setting, "must be longer than nothing");
            }
        }
        // Far below what the settings allow: a simulation reaches the bound with few readings.
        if self.checkpoint_bytes < 1 << 10 {
            return wrong("checkpoint_bytes", "must be at least 1KiB");
        }
        if self.max_series >= UNKNOWN_SERIES {
            return wrong("max_series", "must be below 4294967294");
        }
        Ok(())
    }
}
