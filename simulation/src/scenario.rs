//! What a seed decides: the fleet, the processes, how often what goes wrong.

use crate::world::Odds;
use fleetscore_aggregator_core::{OnOffsetGap, Options};
use fleetscore_oracle::Edges;
use fleetscore_oracle::expect::Rules;
use fleetscore_oracle::fleet::{Fleet, Shapes};
use fleetscore_store::PaneSettings;
use std::time::Duration;

const S: i64 = 1_000_000;
/// The hour at which all clocks start, long after the readings: 2026-07-20.
pub(crate) const CLOCK_US: i64 = 1_784_505_600 * S;

/// One course of events, but for the dice thrown on the way.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// The readings.
    pub(crate) fleet: Fleet,
    /// Which edge belongs to a pane.
    pub(crate) edges: Edges,
    /// Processes at a time.
    pub(crate) processes: usize,
    /// The last partition is made while all runs.
    pub(crate) grows: bool,
    /// Old records are deleted now and then.
    pub(crate) deletes: bool,
    /// One offset in so many has no record, 0 = all have.
    pub(crate) holes: u32,
    /// Sources hand on void batches too.
    pub(crate) misbehaves: bool,
    /// Sources are slower than the producer.
    pub(crate) lags: bool,
    /// How long the readings take to come in.
    pub(crate) production: Duration,
    /// Between two faults, on average.
    pub(crate) fault_every: Duration,
    /// What goes wrong on the way to the store.
    pub(crate) odds: Odds,
    checkpoint_interval_us: i64,
    pub(crate) idle_timeout_us: i64,
    pub(crate) bounds: Bounds,
}

/// What a process may hold and keep: far more than there is, or next to nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes between two checkpoints.
    pub(crate) checkpoint_bytes: usize,
    /// Dead letters that are kept one by one, in a minute.
    pub(crate) dead_letters_per_minute: u32,
}

impl Bounds {
    /// More than there ever is.
    pub(crate) const NONE: Self = Self { checkpoint_bytes: 256 << 20, dead_letters_per_minute: 10_000 };
}

impl Scenario {
    /// The scenario of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed_5eed);
        let shapes = [Shapes::Single, Shapes::Packed(5), Shapes::Lines(4), Shapes::Wide, Shapes::Mixed];
        let fleet = Fleet {
            seed,
            partitions: rng.u32(1..=4),
            devices: rng.u32(2..=5),
            sensors: rng.u32(1..=3),
            pane_us: 5 * S,
            panes: rng.u32(5..=20),
            readings_per_pane: rng.u32(1..=4),
            max_disorder_us: 3 * S,
            allowed_lateness_us: 20 * S,
            late: 0.06,
            too_late: 0.03,
            fast_clock: 0.01,
            slow_clock: 0.2,
            silent: 0.1,
            burst: 0.01,
            bad: 0.05,
            shapes: shapes[rng.usize(..shapes.len())],
            exact: true,
            ..Fleet::default()
        };
        let several = fleet.partitions > 1;
        let often = [0, 8, 20, 60];
        let none = Bounds::NONE;
        let letters = none.dead_letters_per_minute;
        let mut odd = || often[rng.usize(..often.len())];
        let odds = Odds { lost: odd(), kill: odd() * 4, slow: odd() * 2 };
        Self {
            fleet,
            edges: if rng.bool() { Edges::Start } else { Edges::End },
            processes: rng.usize(1..=3),
            grows: rng.u8(..4) == 0 && several,
            deletes: rng.u8(..5) == 0,
            holes: [0, 0, 12][rng.usize(..3)],
            misbehaves: rng.u8(..3) == 0,
            production: Duration::from_millis(rng.u64(4_000..25_000)),
            fault_every: Duration::from_millis([300, 800, 2_000, 60_000][rng.usize(..4)]),
            odds,
            checkpoint_interval_us: [100_000, 500_000, 2 * S, 60 * S][rng.usize(..4)],
            idle_timeout_us: [500_000, 2 * S][rng.usize(..2)],
            bounds: Bounds {
                checkpoint_bytes: [none.checkpoint_bytes, none.checkpoint_bytes, 1 << 10, 4 << 10]
                    [rng.usize(..4)],
                dead_letters_per_minute: [letters, letters, letters, 0, 3][rng.usize(..5)],
            },
            lags: rng.u8(..4) == 0,
        }
    }

    /// The settings of a process.
    pub(crate) fn options(&self, owner: &str) -> Options {
        let panes = PaneSettings {
            interval_us: self.fleet.pane_us,
            edges: match self.edges {
                Edges::Start => fleetscore_schemas::time::Edges::Start,
                Edges::End => fleetscore_schemas::time::Edges::End,
            },
            filter: String::new(),
            value: String::new(),
            ts_unit: "ms".into(),
        };
        Options {
            max_disorder_us: self.fleet.max_disorder_us,
            allowed_lateness_us: self.fleet.allowed_lateness_us,
            checkpoint_interval_us: self.checkpoint_interval_us,
            idle_timeout_us: self.idle_timeout_us,
            owner_ttl_us: 3 * S,
            checkpoint_bytes: self.bounds.checkpoint_bytes,
            dead_letters_per_minute: self.bounds.dead_letters_per_minute,
            on_offset_gap: OnOffsetGap::Continue,
            ..Options::new(owner, panes)
        }
    }

    /// Whether every dead letter is kept one by one.
    pub(crate) fn keeps_letters(&self) -> bool {
        self.bounds.dead_letters_per_minute == Bounds::NONE.dead_letters_per_minute
    }

    /// What the oracle judges by.
    pub(crate) fn rules(&self) -> Rules {
        Rules {
            pane_us: self.fleet.pane_us,
            edges: self.edges,
            max_disorder_us: self.fleet.max_disorder_us,
            allowed_lateness_us: self.fleet.allowed_lateness_us,
            // Between what any clock here ever shows and the year 2090 of the fast ones.
            future_us: CLOCK_US + 365 * 86_400 * S,
        }
    }
}
