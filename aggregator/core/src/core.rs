//! The aggregator's decisions: who owns what, which batch counts, when a checkpoint is due. No I/O, no async, no clock.
//!
//! ```text
//!            Assigned            Claimed                  Revoked
//! Unassigned ───────► Claiming ───────────► Running ───────────────► (last checkpoint) ──► Released
//!                        ▲                     │ Fenced
//!                        └────── Fenced ◄──────┘ everything in memory is dropped; after a pause, what is still
//!                                                granted is claimed again
//! ```
//!
//! What the core keeps is one [`Part`] per claimed partition; readings themselves are the service's, who is told to
//! [`Action::Cut`] them into a checkpoint or to [`Action::Forget`] them.

use crate::clock::Moment;
use crate::error::AggregatorError;
pub(crate) use crate::events::{Action, Applied, ClaimRequest, CutRequest, Event, Offer};
use crate::options::OnOffsetGap;
use crate::time::{EndOffsets, closed_panes, is_quiet};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::stream::{Command, GapKind, PartitionOffsets, StartPosition};
use fleetscore_schemas::time::{PaneGrid, Timestamp};
use fleetscore_state::Tide;
use fleetscore_store::{Advance, Claim, Heartbeat, Loss, Outcome};
use std::collections::BTreeMap;

/// Pane closes so close together share a checkpoint: partitions of one fetch close the same pane within milliseconds.
const CLOSE_GATHER_US: i64 = 100_000;
/// Checkpoints for closed panes come at most this often.
const CLOSE_GAP_US: i64 = 1_000_000;
/// While more is left of the log than has been read since the last checkpoint, checkpoints are this far apart, but for
/// the bound on memory: each cuts the panes that are open in two, and what is written of them again costs three times what
/// new windows do. Closed panes wait too: nobody waits for one of them while there are many more to read.
const BACKLOG_GAP_US: i64 = 10_000_000;
/// Group offsets are told at most this often.
const GROUP_GAP_US: i64 = 1_000_000;
/// A failed heartbeat is tried again after this.
const BEAT_RETRY_US: i64 = 1_000_000;
/// After a fence, what is still granted is claimed after this, twice as long after every further one without a
/// checkpoint between: two processes that both believe to own a partition must not fence each other at full speed.
const RECLAIM_US: i64 = 500_000;
const MAX_RECLAIM_US: i64 = 10_000_000;
/// So many restarts without one accepted batch mean that the source does not keep its contract.
const MAX_RESTARTS: u32 = 100;

/// What the core needs to know of the settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) grid: PaneGrid,
    pub(crate) max_disorder_us: i64,
    pub(crate) idle_timeout_us: i64,
    pub(crate) owner_ttl_us: i64,
    pub(crate) checkpoint_interval_us: i64,
    pub(crate) checkpoint_bytes: usize,
    pub(crate) on_offset_gap: OnOffsetGap,
}

/// One claimed partition.
#[derive(Debug)]
pub(crate) struct Part {
    epoch: i64,
    /// The position in SQL.
    committed: i64,
    /// The position after everything in memory.
    pub(crate) position: i64,
    pub(crate) floor: Option<Timestamp>,
    pub(crate) tide: Tide,
    committed_watermark: Option<i64>,
    last_broker_time: Option<Timestamp>,
    /// Whether SQL says that it is quiet.
    said_quiet: bool,
    raised_at_us: i64,
    /// Closed panes at the last cut.
    closed: Option<i64>,
    /// The log was not what the position promised; nothing is read until that is stored.
    gapped: bool,
    /// Where reading goes on and what is lost by it, once what was read before is stored.
    next_gap: Option<(i64, Loss)>,
}

#[derive(Debug, Clone)]
struct Grant {
    assignment: u64,
    cluster: String,
    partitions: Vec<TopicPartition>,
    offsets: Vec<PartitionOffsets>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unassigned,
    Claiming {
        ticket: u64,
    },
    /// Claims again at this time.
    Fenced {
        until_us: i64,
    },
    Running,
}

#[derive(Debug)]
struct InFlight {
    ticket: u64,
    /// What each partition will have in SQL: position, watermark, quiet.
    parts: BTreeMap<TopicPartition, (i64, Option<i64>, bool)>,
}

#[derive(Debug)]
struct Beat {
    ticket: u64,
    quiet: BTreeMap<TopicPartition, bool>,
    wall: Timestamp,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Core {
    config: Config,
    phase: Phase,
    grant: Option<Grant>,
    parts: BTreeMap<TopicPartition, Part>,
    ends: BTreeMap<TopicPartition, EndOffsets>,
    start: u64,
    ticket: u64,
    /// The assignment that waits for its last checkpoint.
    releasing: Option<u64>,
    stopping: bool,
    over: bool,
    // memory of the service
    bytes: usize,
    lowest_pane: Option<i64>,
    losses: Vec<Loss>,
    dirty_since_us: Option<i64>,
    // checkpoints
    cut: Option<InFlight>,
    close_due_us: Option<i64>,
    last_close_cut_us: i64,
    fences: u32,
    restarts: u32,
    // heartbeats and group offsets
    beat: Option<Beat>,
    next_beat_us: i64,
    beat_failed: bool,
    last_beat_wall: Timestamp,
    group_behind: bool,
    last_group_us: i64,
}

impl Core {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            phase: Phase::Unassigned,
            grant: None,
            parts: BTreeMap::new(),
            ends: BTreeMap::new(),
            start: 0,
            ticket: 0,
            releasing: None,
            stopping: false,
            over: false,
            bytes: 0,
            lowest_pane: None,
            losses: Vec::new(),
            dirty_since_us: None,
            cut: None,
            close_due_us: None,
            last_close_cut_us: i64::MIN / 2,
            fences: 0,
            restarts: 0,
            beat: None,
            next_beat_us: 0,
            beat_failed: false,
            last_beat_wall: Timestamp(0),
            group_behind: false,
            last_group_us: i64::MIN / 2,
        }
    }

    /// Takes in one event and says what to do, in this order.
    pub(crate) fn step(&mut self, event: Event, at: Moment) -> Vec<Action> {
        let mut out = Vec::new();
        if self.over {
            return out;
        }
        match event {
            Event::Assigned { assignment, cluster, partitions, offsets } => {
                self.assigned(Grant { assignment, cluster, partitions, offsets }, at, &mut out);
            }
            Event::Revoked { assignment, lost } => self.revoked(assignment, lost, &mut out),
            Event::Applied(applied) => self.applied(applied, at),
            Event::EndOfPartition { start, source, offset } => {
                self.end_of_partition(start, &source, offset, at)
            }
            Event::EndOffset { source, offset, asked_us } => {
                self.end_offset(source, offset, asked_us.min(at.mono_us));
            }
            Event::OffsetGap { start, source, wanted, kind } => {
                self.offset_gap(start, source, wanted, &kind, at, &mut out);
            }
            Event::Claimed { ticket, claims } => self.claimed(ticket, claims, at, &mut out),
            Event::Committed { ticket, outcome } => self.committed(ticket, outcome, at, &mut out),
            Event::Beaten { ticket, outcome } => self.beaten(ticket, outcome, at, &mut out),
            Event::Tick => {}
            Event::Shutdown => {
                self.stopping = true;
                out.push(Action::DropQueue);
            }
        }
        if !self.over {
            self.due(at, &mut out);
        }
        out
    }

    // --- what the service asks --------------------------------------------------------------------------------------

    /// Whether a batch is the next one of its partition.
    pub(crate) fn offer(&self, source: &TopicPartition, start: u64, from: i64) -> Offer {
        if !self.accepting() || start != self.start {
            return Offer::Void;
        }
        match self.parts.get(source) {
            Some(part) if part.gapped => Offer::Void,
            Some(part) if part.position == from => Offer::Apply,
            Some(_) => Offer::Restart,
            None => Offer::Void,
        }
    }

    /// Starts everything from its position again: what was fetched so far is void.
    pub(crate) fn restart(&mut self, why: &str) -> Vec<Action> {
        let mut out = Vec::new();
        self.restarts += 1;
        if self.restarts > MAX_RESTARTS {
            self.fail(
                AggregatorError::internal(format!(
                    "the source was restarted {MAX_RESTARTS} times in vain: {why}"
                )),
                &mut out,
            );
        } else {
            out.push(Action::DropQueue);
            if self.parts.values().any(|p| p.gapped) {
                // Told once the losses are stored. Read before that, batches of a partition with a gap would be void, and
                // the end of that partition, under the same start, would pass them over.
                self.start += 1;
            } else {
                self.tell_start(&mut out);
            }
        }
        out
    }

    /// Whether another batch fits into memory: while a checkpoint is under way the next one gathers, but not without
    /// bound.
    pub(crate) fn has_room(&self) -> bool {
        self.cut.is_none() || !self.is_full()
    }

    /// Whether the bound on memory calls for a checkpoint: at three quarters, the rest is room for a batch.
    fn is_full(&self) -> bool {
        self.bytes >= self.config.checkpoint_bytes / 4 * 3
    }

    pub(crate) fn part(&self, source: &TopicPartition) -> Option<&Part> {
        self.parts.get(source)
    }

    /// (partition, position, committed position, watermark, newest end offset) of what is owned.
    pub(crate) fn owned(
        &self,
    ) -> impl Iterator<Item = (&TopicPartition, i64, i64, Option<Timestamp>, Option<i64>)> {
        self.parts.iter().map(|(source, p)| {
            let end = self.ends.get(source).and_then(EndOffsets::latest);
            (source, p.position, p.committed, p.tide.watermark.map(Timestamp), end)
        })
    }

    /// What is going on, for a person.
    pub(crate) fn waits_for(&self) -> Option<&'static str> {
        match self.phase {
            _ if self.stopping => Some("the last checkpoint"),
            _ if self.releasing.is_some() => Some("a checkpoint before partitions are given up"),
            Phase::Unassigned => Some("the consumer group to grant partitions"),
            Phase::Claiming { .. } => Some("partitions to be claimed in the store"),
            Phase::Fenced { .. } => Some("another claim: somebody else has taken over partitions meanwhile"),
            Phase::Running if self.parts.is_empty() => {
                Some("partitions: other members of the group have them all")
            }
            Phase::Running => None,
        }
    }

    /// Judges by a higher floor from now on, if everything in memory has been judged as by it; then raising the stored
    /// floor to it does not fence us.
    pub(crate) fn raise_floor(&mut self, floor: Timestamp) -> bool {
        let lowest = floor.us().div_euclid(self.config.grid.len_us);
        if self.cut.is_some() || self.phase != Phase::Running || self.lowest_pane.is_some_and(|p| p < lowest)
        {
            return false;
        }
        for part in self.parts.values_mut() {
            part.floor = part.floor.max(Some(floor));
        }
        true
    }

    /// There is something to store besides readings.
    pub(crate) fn has_news(&mut self, at: Moment) {
        if self.phase == Phase::Running && !self.parts.is_empty() {
            self.dirty_since_us.get_or_insert(at.mono_us);
        }
    }

    /// Memory was compacted.
    pub(crate) fn set_bytes(&mut self, bytes: usize) {
        self.bytes = bytes;
    }

    fn accepting(&self) -> bool {
        self.phase == Phase::Running && self.releasing.is_none() && !self.stopping && !self.over
    }

    // --- assignments ------------------------------------------------------------------------------------------------

    fn assigned(&mut self, grant: Grant, at: Moment, out: &mut Vec<Action>) {
        if self.stopping {
            return;
        }
        // Nothing of an earlier assignment counts any more: it was released, or was too slow to be.
        self.forget(out);
        self.releasing = None;
        self.fences = 0;
        self.ends.retain(|source, _| grant.partitions.contains(source));
        for known in grant.offsets.iter().filter(|o| grant.partitions.contains(&o.source)) {
            // Those that are known already are not renewed: these may be older.
            self.ends.entry(known.source.clone()).or_insert_with(|| {
                let mut ends = EndOffsets::default();
                ends.observe(at.mono_us, known.latest, self.config.idle_timeout_us);
                ends
            });
        }
        self.grant = Some(grant);
        self.claim(out);
    }

    fn claim(&mut self, out: &mut Vec<Action>) {
        let Some(grant) = &self.grant else { return };
        self.ticket += 1;
        self.phase = Phase::Claiming { ticket: self.ticket };
        out.push(Action::Claim(ClaimRequest {
            ticket: self.ticket,
            cluster: grant.cluster.clone(),
            partitions: grant.partitions.clone(),
            offsets: grant.offsets.clone(),
        }));
    }

    fn claimed(&mut self, ticket: u64, claims: Vec<Claim>, at: Moment, out: &mut Vec<Action>) {
        if self.phase != (Phase::Claiming { ticket }) {
            return;
        }
        self.phase = Phase::Running;
        self.parts = claims
            .into_iter()
            .map(|c| {
                let watermark = c.watermark.map(Timestamp::us);
                let part = Part {
                    epoch: c.epoch,
                    committed: c.next_offset,
                    position: c.next_offset,
                    floor: c.floor,
                    tide: Tide::resumed(watermark, self.config.max_disorder_us),
                    committed_watermark: watermark,
                    last_broker_time: c.last_broker_time,
                    // A claim clears what the former owner said; the first heartbeat, due at once, makes sure.
                    said_quiet: false,
                    raised_at_us: at.mono_us,
                    closed: watermark.map(|w| closed_panes(self.config.grid, w)),
                    gapped: false,
                    next_gap: None,
                };
                (c.partition, part)
            })
            .collect();
        self.next_beat_us = at.mono_us;
        self.tell_start(out);
    }

    fn tell_start(&mut self, out: &mut Vec<Action>) {
        let Some(grant) = &self.grant else { return };
        self.start += 1;
        let positions = self
            .parts
            .iter()
            .map(|(source, part)| StartPosition {
                source: source.clone(),
                next_offset: part.position,
                expect_broker_time: part.last_broker_time,
            })
            .collect();
        out.push(Action::Tell(Command::Start { assignment: grant.assignment, start: self.start, positions }));
    }

    fn revoked(&mut self, assignment: u64, lost: bool, out: &mut Vec<Action>) {
        let ours = self.grant.as_ref().is_some_and(|g| g.assignment == assignment);
        if !ours {
            out.push(Action::Tell(Command::Released { assignment }));
            return;
        }
        if lost || self.phase != Phase::Running {
            // A checkpoint would be fenced, or there is nothing to store.
            self.forget(out);
            self.grant = None;
            out.push(Action::Tell(Command::Released { assignment }));
            return;
        }
        self.releasing = Some(assignment);
        out.push(Action::DropQueue);
    }

    /// Drops everything that belongs to the present claims.
    fn forget(&mut self, out: &mut Vec<Action>) {
        self.parts.clear();
        self.bytes = 0;
        self.lowest_pane = None;
        self.losses.clear();
        self.dirty_since_us = None;
        self.cut = None;
        self.beat = None;
        self.close_due_us = None;
        self.restarts = 0;
        self.group_behind = false;
        self.phase = Phase::Unassigned;
        out.push(Action::Forget);
    }

    fn fenced(&mut self, at: Moment, out: &mut Vec<Action>) {
        self.forget(out);
        if self.releasing.is_some() || self.stopping {
            return; // `due` goes on without memory
        }
        let pause = RECLAIM_US.saturating_mul(1 << self.fences.min(10)).min(MAX_RECLAIM_US);
        self.fences += 1;
        self.phase = Phase::Fenced { until_us: at.mono_us + pause };
    }

    // --- the stream -------------------------------------------------------------------------------------------------

    fn applied(&mut self, applied: Applied, at: Moment) {
        self.restarts = 0;
        self.bytes = applied.bytes;
        self.lowest_pane = match (self.lowest_pane, applied.lowest_pane) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let Some(part) = self.parts.get_mut(&applied.source) else { return };
        part.position = applied.to;
        part.last_broker_time = applied.last_broker_time;
        part.tide = applied.tide;
        if applied.raised {
            part.raised_at_us = at.mono_us;
        }
        self.dirty_since_us.get_or_insert(at.mono_us);
    }

    fn end_of_partition(&mut self, start: u64, source: &TopicPartition, offset: i64, at: Moment) {
        if !self.accepting() || start != self.start {
            return;
        }
        let Some(part) = self.parts.get_mut(source).filter(|p| !p.gapped && offset > p.position) else {
            return;
        };
        // Behind the last record stand transaction markers or compacted records: nothing whose time could be checked.
        part.position = offset;
        part.last_broker_time = None;
        self.dirty_since_us.get_or_insert(at.mono_us);
    }

    fn end_offset(&mut self, source: TopicPartition, offset: i64, asked_us: i64) {
        if self.grant.as_ref().is_some_and(|g| g.partitions.contains(&source)) {
            self.ends.entry(source).or_default().observe(asked_us, offset, self.config.idle_timeout_us);
        }
    }

    // --- answers of the store ---------------------------------------------------------------------------------------

    fn committed(&mut self, ticket: u64, outcome: Outcome, at: Moment, out: &mut Vec<Action>) {
        let Some(cut) = self.cut.take_if(|c| c.ticket == ticket) else { return };
        if outcome == Outcome::Fenced {
            self.fenced(at, out);
            return;
        }
        self.fences = 0;
        self.group_behind = true;
        let mut gaps_stored = false;
        for (source, (position, watermark, quiet)) in cut.parts {
            let Some(part) = self.parts.get_mut(&source) else { continue };
            part.committed = position;
            part.committed_watermark = watermark;
            part.said_quiet = quiet;
            if !part.gapped || part.position != position {
                continue;
            }
            match part.pass_over() {
                Some(loss) => self.losses.push(loss),
                None => {
                    part.gapped = false;
                    gaps_stored = true;
                }
            }
        }
        // The losses are in SQL with the positions that pass them over: read on, once that holds for all of them.
        if gaps_stored && self.accepting() && !self.parts.values().any(|p| p.gapped) {
            out.push(Action::DropQueue);
            self.tell_start(out);
        }
    }

    fn beaten(&mut self, ticket: u64, outcome: Option<Outcome>, at: Moment, out: &mut Vec<Action>) {
        let Some(beat) = self.beat.take_if(|b| b.ticket == ticket) else { return };
        match outcome {
            Some(Outcome::Done) => {
                for (source, quiet) in beat.quiet {
                    if let Some(part) = self.parts.get_mut(&source) {
                        part.said_quiet = quiet;
                    }
                }
                self.last_beat_wall = beat.wall;
                self.next_beat_us = at.mono_us + self.config.owner_ttl_us / 3;
            }
            Some(Outcome::Fenced) => self.fenced(at, out),
            None => self.next_beat_us = at.mono_us + BEAT_RETRY_US,
        }
        self.beat_failed = outcome.is_none();
    }

    fn fail(&mut self, error: AggregatorError, out: &mut Vec<Action>) {
        self.over = true;
        out.push(Action::Fail(error));
    }
}

#[path = "core_due.rs"]
mod due;

#[path = "core_gaps.rs"]
mod gaps;

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
