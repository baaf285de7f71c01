//! Scripts of events, and what the core makes of them.

use super::*;
use fleetscore_schemas::time::Edges;

const S: i64 = 1_000_000;
/// Wall time at monotonic 0: long after the readings.
const WALL: i64 = 2_000_000_000 * S;
/// Event time of the first readings: the start of a pane of 60 s.
const T0: i64 = 1_500_000_000 * S - 1_500_000_000 * S % (60 * S);

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

struct Script {
    core: Core,
    mono: i64,
}

impl Script {
    fn new(policy: OnOffsetGap) -> Self {
        let core = Core::new(Config {
            grid: PaneGrid { len_us: 60 * S, edges: Edges::Start },
            max_disorder_us: 10 * S,
            idle_timeout_us: 30 * S,
            owner_ttl_us: 30 * S,
            checkpoint_interval_us: 10 * S,
            checkpoint_bytes: 1000,
            on_offset_gap: policy,
        });
        Self { core, mono: 0 }
    }

    /// Partitions 0 and 1 claimed at offset 5, and running.
    fn running() -> Self {
        let mut s = Self::new(OnOffsetGap::Stop);
        s.grant(1, &[0, 1]);
        s
    }

    fn now(&self) -> Moment {
        Moment { wall: Timestamp(WALL + self.mono), mono_us: self.mono }
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        self.core.step(event, self.now())
    }

    /// Time passes, and the broker says again where its log ends; what came of it.
    fn pass(&mut self, us: i64) -> Vec<Action> {
        self.mono += us;
        let ends: Vec<_> =
            self.core.ends.iter().filter_map(|(s, e)| Some((s.clone(), e.latest()?))).collect();
        let mut out = Vec::new();
        for (source, offset) in ends {
            out.extend(self.step(Event::EndOffset { source, offset, asked_us: self.mono }));
        }
        out.extend(self.step(Event::Tick));
        out
    }

    fn assign(&mut self, assignment: u64, partitions: &[i32]) -> Vec<Action> {
        let partitions: Vec<_> = partitions.iter().map(|p| tp(*p)).collect();
        let offsets = partitions
            .iter()
            .map(|source| PartitionOffsets { source: source.clone(), earliest: 0, latest: 5, initial: 0 })
            .collect();
        self.step(Event::Assigned { assignment, cluster: "c".into(), partitions, offsets })
    }

    /// Assigned, claimed and with its first heartbeat answered; the actions of the claim.
    fn grant(&mut self, assignment: u64, partitions: &[i32]) -> Vec<Action> {
        let out = self.assign(assignment, partitions);
        let ticket = claim_ticket(&out).expect("a claim");
        let out = self.claimed(ticket, partitions, 5);
        self.answer_beat(&out);
        out
    }

    fn claimed(&mut self, ticket: u64, partitions: &[i32], next_offset: i64) -> Vec<Action> {
        let claims = partitions
            .iter()
            .map(|p| Claim {
                partition: tp(*p),
                next_offset,
                epoch: 1,
                watermark: None,
                floor: None,
                last_broker_time: None,
            })
            .collect();
        self.step(Event::Claimed { ticket, claims })
    }

    fn answer_beat(&mut self, actions: &[Action]) -> Vec<Action> {
        let ticket = actions.iter().find_map(|a| match a {
            Action::Beat { ticket, .. } => Some(*ticket),
            _ => None,
        });
        self.step(Event::Beaten { ticket: ticket.expect("a heartbeat"), outcome: Some(Outcome::Done) })
    }

    /// One reading at event time T0 + `after_s`, moving the position by one.
    fn read(&mut self, partition: i32, after_s: i64) -> Vec<Action> {
        let part = self.core.part(&tp(partition)).expect("owned");
        let to = part.position + 1;
        let mut tide = part.tide;
        let ts = T0 + after_s * S;
        let raised = tide.greatest.is_none_or(|g| ts > g);
        tide.greatest = tide.greatest.max(Some(ts));
        tide.at(WALL + self.mono, 10 * S);
        let bytes = self.core.bytes + 24;
        self.step(Event::Applied(Applied {
            source: tp(partition),
            to,
            last_broker_time: Some(Timestamp(ts)),
            tide,
            raised,
            lowest_pane: Some(ts / (60 * S)),
            bytes,
        }))
    }

    fn commit(&mut self, cut: &CutRequest, outcome: Outcome) -> Vec<Action> {
        self.step(Event::Committed { ticket: cut.ticket, outcome })
    }
}

fn claim_ticket(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|a| match a {
        Action::Claim(request) => Some(request.ticket),
        _ => None,
    })
}

fn cut(actions: &[Action]) -> Option<&CutRequest> {
    actions.iter().find_map(|a| match a {
        Action::Cut(cut) => Some(cut),
        _ => None,
    })
}

fn moves(cut: &CutRequest) -> Vec<(i32, i64, i64)> {
    cut.advances.iter().map(|a| (a.partition.partition, a.from, a.to)).collect()
}

fn start(actions: &[Action]) -> Option<(u64, Vec<i64>)> {
    actions.iter().find_map(|a| match a {
        Action::Tell(Command::Start { start, positions, .. }) => {
            Some((*start, positions.iter().map(|p| p.next_offset).collect()))
        }
        _ => None,
    })
}

fn released(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|a| match a {
        Action::Tell(Command::Released { assignment }) => Some(*assignment),
        _ => None,
    })
}

fn forgets(actions: &[Action]) -> bool {
    actions.iter().any(|a| matches!(a, Action::Forget))
}

fn beat(actions: &[Action]) -> Option<Vec<bool>> {
    actions.iter().find_map(|a| match a {
        Action::Beat { beats, .. } => Some(beats.iter().map(|b| b.quiet_at.is_some()).collect()),
        _ => None,
    })
}

#[test]
fn nothing_is_read_before_the_claim() {
    let mut s = Script::new(OnOffsetGap::Stop);
    let out = s.assign(7, &[0]);
    assert!(start(&out).is_none());
    let ticket = claim_ticket(&out).unwrap();
    assert_eq!(s.core.offer(&tp(0), 0, 5), Offer::Void);
    // A second assignment overtakes the first: the answer to the first claim is nobody's.
    let out = s.assign(8, &[0]);
    assert!(s.claimed(ticket, &[0], 5).is_empty());
    let out = s.claimed(claim_ticket(&out).unwrap(), &[0], 6);
    assert_eq!(start(&out), Some((1, vec![6])));
}

#[test]
fn an_empty_grant_is_answered_too() {
    let mut s = Script::new(OnOffsetGap::Stop);
    let ticket = claim_ticket(&s.assign(1, &[])).unwrap();
    let out = s.claimed(ticket, &[], 0);
    assert_eq!(start(&out), Some((1, vec![])));
    assert!(beat(&out).is_none() && s.pass(60 * S).is_empty());
    assert!(s.core.waits_for().unwrap().contains("other members"));
}

#[test]
fn only_the_next_batch_of_the_present_start_counts() {
    let mut s = Script::running();
    assert_eq!(s.core.offer(&tp(0), 1, 5), Offer::Apply);
    assert_eq!(s.core.offer(&tp(0), 0, 5), Offer::Void, "an earlier start");
    assert_eq!(s.core.offer(&tp(2), 1, 5), Offer::Void, "not ours");
    s.read(0, 0);
    assert_eq!(s.core.offer(&tp(0), 1, 5), Offer::Restart, "a duplicate");
    assert_eq!(s.core.offer(&tp(0), 1, 7), Offer::Restart, "a hole");
    let out = s.core.restart("test");
    assert_eq!(start(&out), Some((2, vec![6, 5])), "from the positions in memory");
    assert_eq!(s.core.offer(&tp(0), 1, 6), Offer::Void, "fetched before the restart");
    assert_eq!(s.core.offer(&tp(0), 2, 6), Offer::Apply);
    // A source that never gets it right does not spin for ever.
    assert!((0..200).any(|_| s.core.restart("test").iter().any(|a| matches!(a, Action::Fail(_)))));
}

#[test]
fn a_closed_pane_is_committed_at_once_and_closes_together_share_it() {
    let mut s = Script::running();
    assert!(cut(&s.read(0, 0)).is_none());
    assert!(cut(&s.read(1, 0)).is_none());
    assert!(cut(&s.read(0, 75)).is_none(), "gathers for a moment");
    s.mono += CLOSE_GATHER_US / 2;
    assert!(cut(&s.read(1, 75)).is_none());
    let out = s.pass(CLOSE_GATHER_US / 2);
    let request = cut(&out).expect("the pane is closed");
    assert_eq!(moves(request), [(0, 5, 7), (1, 5, 7)]);
    assert_eq!(request.advances[0].watermark, Some(Timestamp(T0 + 65 * S)));
    s.commit(request, Outcome::Done);
    // The next closes within the same second wait for it to pass.
    s.read(0, 135);
    assert!(cut(&s.pass(CLOSE_GATHER_US)).is_none());
    s.read(1, 195);
    let out = s.pass(CLOSE_GAP_US - CLOSE_GATHER_US);
    assert_eq!(moves(cut(&out).expect("a second later")), [(0, 7, 8), (1, 7, 8)]);
}

#[test]
fn the_clock_closes_a_pane_whose_readings_are_ahead() {
    let mut s = Script::running();
    let ahead = (WALL - T0) / S + 70;
    s.read(0, ahead - 180);
    s.read(0, ahead);
    let first = s.pass(CLOSE_GATHER_US);
    s.commit(cut(&first).expect("a close by the readings"), Outcome::Done);
    let before = s.core.part(&tp(0)).unwrap().tide.watermark.unwrap();
    assert!(cut(&s.pass(2 * S)).is_none());
    let out = (0..70).map(|_| s.pass(S)).find(|out| cut(out).is_some()).expect("a close by the clock");
    let after = cut(&out).unwrap().advances[0].watermark.unwrap().us();
    assert!(after > before && after <= WALL + s.mono - 10 * S && after <= T0 + (ahead - 10) * S);
}

#[test]
fn checkpoints_come_by_time_and_by_bytes_and_one_at_a_time() {
    let mut s = Script::running();
    s.read(0, 0);
    assert!(cut(&s.pass(9 * S)).is_none());
    let out = s.pass(S);
    let first = moves(cut(&out).expect("checkpoint_interval"));
    assert_eq!(first, [(0, 5, 6)]);
    // While it is under way others gather, and the bound holds.
    let mut bytes = 0;
    while s.core.has_room() {
        assert!(cut(&s.read(0, 1)).is_none());
        bytes += 24;
        assert!(bytes < 2000);
    }
    let out = s.commit(cut(&out).unwrap(), Outcome::Done);
    let next = cut(&out).expect("full");
    assert!(s.core.has_room());
    assert_eq!(next.advances[0].from, 6);
    s.commit(next, Outcome::Done);
    assert!(cut(&s.pass(60 * S)).is_none(), "nothing to write");
}

#[test]
fn far_from_the_end_of_the_log_checkpoints_are_rare() {
    let mut s = Script::running();
    s.core.config.checkpoint_interval_us = S;
    s.core.config.checkpoint_bytes = 1 << 20;
    // The end of a log that is not read on changes nothing.
    s.step(Event::EndOffset { source: tp(1), offset: 1000, asked_us: s.mono });
    s.read(0, 0);
    s.read(0, 75);
    let out = s.pass(CLOSE_GATHER_US);
    s.commit(cut(&out).expect("the pane is closed"), Outcome::Done);
    // Of this one 100 are left.
    s.step(Event::EndOffset { source: tp(0), offset: 107, asked_us: s.mono });
    for (minute, _) in (2..).zip(0..49) {
        assert!(cut(&s.read(0, 15 + 60 * minute)).is_none());
        assert!(cut(&s.pass(CLOSE_GATHER_US)).is_none(), "minute {minute}: more is left than was read");
    }
    let (out, closed) = (s.read(0, 15 + 60 * 51), s.pass(CLOSE_GATHER_US));
    let request = cut(&out).or(cut(&closed)).expect("as much was read as is left");
    assert_eq!(moves(request), [(0, 7, 57)]);
    s.commit(request, Outcome::Done);
    // Nor are they put off for ever, by what is left of a partition that is not read any more either, …
    for interval_s in [1, 60] {
        s.core.config.checkpoint_interval_us = interval_s * S;
        s.step(Event::EndOffset { source: tp(0), offset: 1000, asked_us: s.mono });
        let minute = s.core.part(&tp(0)).unwrap().tide.greatest.unwrap() - T0 - 15 * S;
        let waits = (1..30).find(|i| {
            s.read(0, minute / S + 15 + 60 * i);
            cut(&s.pass(S)).is_some()
        });
        let seconds = BACKLOG_GAP_US / S;
        assert!(waits.is_some_and(|w| w == seconds || w == seconds + 1), "{waits:?} for {interval_s} s");
        s.step(Event::Committed { ticket: s.core.ticket, outcome: Outcome::Done });
    }
    // … and the bound on memory goes before.
    s.core.config.checkpoint_bytes = 100;
    let full = (0..10).find(|_| cut(&s.read(0, 60 * 10_000)).is_some());
    assert_eq!(full, Some(3), "three quarters of 100 bytes, of readings of 24");
}

#[test]
fn ends_without_end_are_only_far() {
    let mut s = Script::running();
    s.core.config.checkpoint_interval_us = S;
    for partition in [0, 1] {
        s.step(Event::EndOffset { source: tp(partition), offset: i64::MAX, asked_us: s.mono });
        s.read(partition, 0);
    }
    assert!(cut(&s.pass(BACKLOG_GAP_US - S)).is_none(), "more is left than was read");
    assert!(cut(&s.pass(S)).is_some());
}

#[test]
fn a_fence_drops_everything_and_claims_again_after_a_pause() {
    let mut s = Script::running();
    s.read(0, 0);
    let out = s.pass(10 * S);
    let first = cut(&out).unwrap().ticket;
    s.read(0, 1);
    let out = s.commit(cut(&out).unwrap(), Outcome::Fenced);
    assert!(forgets(&out) && claim_ticket(&out).is_none());
    assert_eq!(s.core.offer(&tp(0), 1, 7), Offer::Void);
    assert!(s.pass(RECLAIM_US - 1).is_empty());
    let out = s.pass(1);
    let out = s.claimed(claim_ticket(&out).unwrap(), &[0, 1], 9);
    assert_eq!(start(&out), Some((2, vec![9, 9])), "what SQL says now");
    assert!(
        s.step(Event::Committed { ticket: first, outcome: Outcome::Done })
            .iter()
            .all(|a| cut(std::slice::from_ref(a)).is_none())
    );
    assert_eq!(s.core.part(&tp(0)).unwrap().committed, 9, "a late answer moves nothing");
    // The second fence in a row waits longer; a checkpoint ends the row.
    s.answer_beat(&out);
    s.read(0, 5);
    let out = s.pass(10 * S);
    s.commit(cut(&out).unwrap(), Outcome::Fenced);
    assert!(claim_ticket(&s.pass(RECLAIM_US)).is_none());
    assert!(claim_ticket(&s.pass(RECLAIM_US)).is_some());
}

#[test]
fn a_fenced_heartbeat_drops_everything_too() {
    let mut s = Script::running();
    s.read(0, 0);
    let out = s.pass(10 * S);
    let Some(Action::Beat { ticket, .. }) = out.iter().find(|a| matches!(a, Action::Beat { .. })) else {
        panic!("{out:?}")
    };
    let out = s.step(Event::Beaten { ticket: *ticket, outcome: Some(Outcome::Fenced) });
    assert!(forgets(&out));
    assert!(s.core.cut.is_none() && s.core.owned().count() == 0);
}

#[test]
fn a_revoke_waits_for_the_checkpoint_in_flight_and_one_more() {
    let mut s = Script::running();
    s.read(0, 0);
    let first = s.pass(10 * S);
    s.read(1, 0);
    let out = s.step(Event::Revoked { assignment: 1, lost: false });
    assert!(released(&out).is_none() && cut(&out).is_none());
    assert_eq!(s.core.offer(&tp(0), 1, 6), Offer::Void, "nothing more is taken in");
    let out = s.commit(cut(&first).unwrap(), Outcome::Done);
    assert!(released(&out).is_none());
    assert_eq!(moves(cut(&out).expect("one more")), [(1, 5, 6)]);
    let out = s.commit(cut(&out).unwrap(), Outcome::Done);
    assert_eq!(released(&out), Some(1));
    assert!(matches!(&out[0], Action::Tell(Command::CommitGroup { .. })), "{out:?}");
    assert!(forgets(&out) && s.core.owned().count() == 0);
}

#[test]
fn a_revoke_without_anything_to_store_is_answered_at_once() {
    for lost in [false, true] {
        let mut s = Script::running();
        assert_eq!(released(&s.step(Event::Revoked { assignment: 1, lost })), Some(1));
    }
    let mut s = Script::new(OnOffsetGap::Stop);
    s.assign(3, &[0]);
    assert_eq!(released(&s.step(Event::Revoked { assignment: 3, lost: false })), Some(3), "claiming still");
    assert_eq!(released(&s.step(Event::Revoked { assignment: 2, lost: false })), Some(2), "nobody's");
}

#[test]
fn lost_partitions_and_late_checkpoints_leave_no_memory() {
    let mut s = Script::running();
    s.read(0, 0);
    let out = s.step(Event::Revoked { assignment: 1, lost: true });
    assert!(forgets(&out) && cut(&out).is_none());
    assert_eq!(released(&out), Some(1));
    // Too slow: the group has gone on before the last checkpoint was answered.
    let mut s = Script::running();
    s.read(0, 0);
    let last = s.step(Event::Revoked { assignment: 1, lost: false });
    let out = s.assign(2, &[0]);
    assert!(forgets(&out) && claim_ticket(&out).is_some());
    s.commit(cut(&last).unwrap(), Outcome::Done);
    assert_eq!(s.core.phase, Phase::Claiming { ticket: claim_ticket(&out).unwrap() });
    // Fenced while giving up: nothing left to do.
    let mut s = Script::running();
    s.read(0, 0);
    let last = s.step(Event::Revoked { assignment: 1, lost: false });
    let out = s.commit(cut(&last).unwrap(), Outcome::Fenced);
    assert_eq!(released(&out), Some(1));
}

#[test]
fn shutdown_stores_the_rest_and_stops() {
    let mut s = Script::running();
    s.read(0, 0);
    let out = s.step(Event::Shutdown);
    let out = s.commit(cut(&out).expect("the last one"), Outcome::Done);
    assert!(matches!(out.last(), Some(Action::Finish)));
    assert!(out.iter().any(|a| matches!(a, Action::Tell(Command::Stop))));
    assert!(s.pass(S).is_empty(), "it is over");
    // A reading ahead of the clock: its watermark moves with the clock, which is no reason to go on for ever.
    let mut s = Script::running();
    s.read(0, (WALL - T0) / S + 100);
    let out = s.step(Event::Shutdown);
    s.mono += 5 * S;
    let out = s.commit(cut(&out).expect("the last one"), Outcome::Done);
    assert!(matches!(out.last(), Some(Action::Finish)), "{out:?}");
    let mut s = Script::running();
    assert!(matches!(s.step(Event::Shutdown).last(), Some(Action::Finish)), "nothing to store");
}

#[test]
fn the_end_of_a_partition_moves_its_position_but_not_in_a_hurry() {
    let mut s = Script::running();
    let end = |start, offset| Event::EndOfPartition { start, source: tp(0), offset };
    s.step(end(0, 99));
    s.step(end(1, 4));
    assert_eq!(s.core.part(&tp(0)).unwrap().position, 5, "of an earlier start, or behind");
    s.step(end(1, 8));
    assert_eq!(s.core.offer(&tp(0), 1, 8), Offer::Apply);
    assert!(cut(&s.pass(9 * S)).is_none());
    let out = s.pass(S);
    assert_eq!(moves(cut(&out).unwrap()), [(0, 5, 8)]);
    assert_eq!(cut(&out).unwrap().advances[0].last_broker_time, None);
}

#[test]
fn quietness_is_said_as_soon_as_it_is_true_and_taken_back_at_once() {
    let mut s = Script::running();
    // Both stand at the end (5) that the broker gave with the assignment.
    let mut said = None;
    for second in 1..=31 {
        let out = s.pass(S);
        if let Some(quiet) = beat(&out) {
            s.answer_beat(&out);
            if quiet == [true, true] && said.is_none() {
                said = Some(second);
            }
        }
    }
    assert_eq!(said, Some(30), "at idle_timeout");
    // A reading that raises the watermark ends it, a late one does not.
    let out = s.read(0, 0);
    assert_eq!(beat(&out), Some(vec![false, true]), "at once");
    s.answer_beat(&out);
    assert!(beat(&s.pass(S)).is_none());
    for _ in 0..40 {
        let out = s.pass(S);
        if let Some(request) = cut(&out) {
            s.commit(request, Outcome::Done);
        }
        if beat(&out).is_some() {
            s.answer_beat(&out);
        }
    }
    assert!(s.core.part(&tp(0)).unwrap().said_quiet);
    let late = s.read(0, -1);
    assert!(beat(&late).is_none_or(|q| q[0]), "{late:?}");
}

#[test]
fn a_partition_that_lags_is_not_quiet() {
    let mut s = Script::running();
    s.step(Event::EndOffset { source: tp(0), offset: 100, asked_us: s.mono });
    let quiet: Vec<Vec<bool>> = (0..60)
        .filter_map(|_| {
            let out = s.pass(S);
            let quiet = beat(&out)?;
            s.answer_beat(&out);
            Some(quiet)
        })
        .collect();
    assert!(quiet.iter().all(|q| !q[0]) && quiet.last().unwrap()[1], "{quiet:?}");
}

/// Found by the simulation: a process was stopped with an end offset in its queue, and took it for the broker's word of now
/// when it was woken.
#[test]
fn an_end_offset_that_has_waited_says_nothing_of_now() {
    for waited in [false, true] {
        let mut s = Script::running();
        let asked_us = s.mono;
        s.mono += 3600 * S;
        let asked_us = if waited { asked_us } else { s.mono };
        let out = s.step(Event::EndOffset { source: tp(0), offset: 5, asked_us });
        let quiet = beat(&out).expect("one is due after an hour");
        assert_eq!(quiet[0], !waited);
    }
}

#[test]
fn a_position_that_alone_holds_back_quietness_is_committed() {
    let mut s = Script::running();
    s.core.config.checkpoint_interval_us = 3600 * S;
    s.step(Event::EndOffset { source: tp(0), offset: 7, asked_us: s.mono });
    s.step(Event::EndOfPartition { start: 1, source: tp(0), offset: 7 });
    let mut cuts = Vec::new();
    for second in 1..=40 {
        let out = s.pass(S);
        if beat(&out).is_some() {
            s.answer_beat(&out);
        }
        if let Some(request) = cut(&out) {
            cuts.push((second, request.advances[0].quiet_at.is_some()));
            s.commit(request, Outcome::Done);
        }
    }
    assert_eq!(cuts, [(30, true)], "one checkpoint, when it is needed, which says quiet itself");
}

#[test]
fn while_quiet_every_panes_end_is_news() {
    let mut s = Script::running();
    let mut at = Vec::new();
    for second in 1..=200i64 {
        let out = s.pass(S);
        if let Some(quiet) = beat(&out) {
            at.push((second, quiet[0]));
            s.answer_beat(&out);
        }
    }
    let pane = |second: i64| (WALL + second * S - 10 * S).div_euclid(60 * S);
    for second in 31..=200 {
        if pane(second) > pane(second - 1) {
            assert!(at.contains(&(second, true)), "{second}: {at:?}");
        }
    }
    assert!(at.len() < 30, "{at:?}");
}

#[test]
fn heartbeats_come_three_times_a_ttl_and_again_after_a_failure() {
    let mut s = Script::running();
    assert!(beat(&s.pass(9 * S)).is_none());
    let out = s.pass(S);
    let Some(Action::Beat { ticket, .. }) = out.iter().find(|a| matches!(a, Action::Beat { .. })) else {
        panic!("{out:?}")
    };
    assert!(beat(&s.pass(20 * S)).is_none(), "one at a time");
    s.step(Event::Beaten { ticket: *ticket, outcome: None });
    assert!(beat(&s.pass(BEAT_RETRY_US)).is_some());
}

#[test]
fn a_gap_stops_or_is_recorded_with_the_move() {
    let gap = |start| Event::OffsetGap {
        start,
        source: tp(0),
        wanted: 5,
        kind: GapKind::OutOfRange { earliest: 20, latest: 30 },
    };
    let mut s = Script::running();
    assert!(s.step(gap(0)).is_empty(), "of an earlier start");
    let out = s.step(gap(1));
    let Some(Action::Fail(e)) = out.first() else { panic!("{out:?}") };
    let text = e.to_string();
    assert!(text.contains("t[0]") && text.contains("on_offset_gap") && text.contains('5'), "{text}");

    let mut s = Script::new(OnOffsetGap::Continue);
    s.grant(1, &[0, 1]);
    s.read(1, 0);
    let out = s.step(gap(1));
    let request = cut(&out).expect("at once");
    assert_eq!(moves(request), [(0, 5, 20), (1, 5, 6)]);
    assert_eq!((request.losses[0].from, request.losses[0].to), (5, 20));
    assert_eq!(s.core.offer(&tp(0), 1, 20), Offer::Void, "not before it is stored");
    assert_eq!(s.core.offer(&tp(1), 1, 6), Offer::Apply, "the others go on");
    let out = s.commit(request, Outcome::Done);
    assert_eq!(start(&out), Some((2, vec![20, 6])));
    assert_eq!(s.core.offer(&tp(0), 2, 20), Offer::Apply);
}

/// Found by the simulation: the start that a displaced batch calls for began to read a partition whose gap was not stored
/// yet; its batches were void, and the end of the partition, which came after the gap was stored, passed them over.
#[test]
fn nothing_is_read_while_a_gap_is_not_stored() {
    let mut s = Script::new(OnOffsetGap::Continue);
    s.grant(1, &[0, 1]);
    let gap = |partition, earliest| Event::OffsetGap {
        start: 1,
        source: tp(partition),
        wanted: 5,
        kind: GapKind::OutOfRange { earliest, latest: 30 },
    };
    let one = s.step(gap(0, 20));
    s.step(gap(1, 25));
    assert_eq!(start(&s.core.restart("a displaced batch")), None, "both gaps are open");
    let two = s.commit(cut(&one).expect("the loss is stored at once"), Outcome::Done);
    assert_eq!(start(&two), None, "one of them still is");
    s.step(Event::EndOfPartition { start: 1, source: tp(0), offset: 30 });
    assert_eq!(s.core.part(&tp(0)).expect("owned").position, 20, "offsets 20 to 30 were never read");
    let three = s.commit(cut(&two).expect("the other loss"), Outcome::Done);
    assert_eq!(start(&three), Some((3, vec![20, 25])));
}

#[test]
fn a_topic_made_anew_is_read_from_its_beginning() {
    let mut s = Script::new(OnOffsetGap::Continue);
    s.grant(1, &[0]);
    let kind = GapKind::Replaced { found: Some(Timestamp(9)), earliest: 0, latest: 3 };
    let out = s.step(Event::OffsetGap { start: 1, source: tp(0), wanted: 5, kind });
    let request = cut(&out).unwrap();
    assert_eq!(moves(request), [(0, 5, 0)]);
    assert!(request.losses[0].detail.contains("made again"), "{:?}", request.losses);
    let out = s.commit(request, Outcome::Done);
    assert_eq!(start(&out), Some((2, vec![0])));
}

/// The topic is made anew just where SQL stands: what was read of the former one is stored, then the loss.
#[test]
fn what_was_read_before_a_gap_is_stored_first() {
    let mut s = Script::new(OnOffsetGap::Continue);
    s.grant(1, &[0]);
    s.read(0, 0);
    let kind = GapKind::Replaced { found: None, earliest: 5, latest: 9 };
    let first = s.step(Event::OffsetGap { start: 1, source: tp(0), wanted: 6, kind });
    let request = cut(&first).expect("at once");
    assert_eq!((moves(request), request.losses.len()), (vec![(0, 5, 6)], 0));
    let second = s.commit(request, Outcome::Done);
    assert_eq!(start(&second), None, "the loss is not stored");
    let request = cut(&second).expect("at once");
    assert_eq!(moves(request), [(0, 6, 5)]);
    assert_eq!((request.losses[0].from, request.losses[0].to), (6, 6), "it is not known how much");
    assert_eq!(start(&s.commit(request, Outcome::Done)), Some((2, vec![5])));
}

#[test]
fn what_is_only_told_is_fenced_too() {
    let mut s = Script::running();
    s.core.has_news(s.now());
    let out = s.pass(s.core.config.checkpoint_interval_us);
    let request = cut(&out).expect("it is due");
    assert_eq!(moves(request), [(0, 5, 5)], "one partition stands for all");
}

#[test]
fn group_offsets_follow_the_store_once_a_second() {
    let mut s = Script::running();
    let told = |out: &[Action]| {
        out.iter()
            .any(|a| matches!(a, Action::Tell(Command::CommitGroup { positions }) if !positions.is_empty()))
    };
    let round = |s: &mut Script| {
        s.read(0, 0);
        s.mono += 10 * S;
        let out = s.step(Event::Tick);
        let done = s.commit(cut(&out).unwrap(), Outcome::Done);
        told(&out) || told(&done)
    };
    assert!(round(&mut s));
    assert!(!told(&s.pass(S)), "nothing new");
    assert!(round(&mut s));
}

#[test]
fn the_floor_is_raised_only_where_memory_was_judged_by_it() {
    let mut s = Script::running();
    s.read(0, 0);
    assert!(!s.core.raise_floor(Timestamp(T0 + 60 * S)), "a reading in memory lies below");
    assert!(s.core.raise_floor(Timestamp(T0)));
    assert_eq!(s.core.part(&tp(1)).unwrap().floor, Some(Timestamp(T0)));
    assert!(s.core.raise_floor(Timestamp(T0 - 60 * S)));
    assert_eq!(s.core.part(&tp(1)).unwrap().floor, Some(Timestamp(T0)), "never lowered");
}
