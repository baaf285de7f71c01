//! What is due: the last checkpoint of an assignment, a checkpoint, a heartbeat, group offsets, another claim.

use super::*;

impl Core {
    pub(super) fn due(&mut self, at: Moment, out: &mut Vec<Action>) {
        // The watermark also moves with the clock, where a reading is ahead of it.
        for part in self.parts.values_mut() {
            part.tide.at(at.wall.us(), self.config.max_disorder_us);
        }
        if self.releasing.is_some() || self.stopping {
            self.due_last(at, out);
            return;
        }
        match self.phase {
            Phase::Fenced { until_us } if at.mono_us >= until_us => self.claim(out),
            Phase::Running => {
                if self.cut.is_none() && self.cut_is_due(at) {
                    self.take_cut(at, out);
                }
                self.due_beat(at, out);
                self.due_group(at, out);
            }
            _ => {}
        }
    }

    /// Everything in memory is stored (after the checkpoint in flight), then the partitions are given up.
    fn due_last(&mut self, at: Moment, out: &mut Vec<Action>) {
        if self.cut.is_some() {
            return;
        }
        if self.phase == Phase::Running && self.has_unstored() {
            self.take_cut(at, out);
            return;
        }
        self.tell_group(at, out);
        self.forget(out);
        self.grant = None;
        if let Some(assignment) = self.releasing.take() {
            out.push(Action::Tell(Command::Released { assignment }));
        }
        if self.stopping {
            self.over = true;
            out.push(Action::Tell(Command::Stop));
            out.push(Action::Finish);
        }
    }

    fn has_unstored(&self) -> bool {
        // Not the watermark: where a reading is ahead of the clock it moves all the time, and there would be no end.
        self.dirty_since_us.is_some() || self.parts.values().any(|p| p.position != p.committed || p.gapped)
    }

    fn cut_is_due(&mut self, at: Moment) -> bool {
        let mut closed = false;
        for part in self.parts.values_mut() {
            let now = part.tide.watermark.map(|w| closed_panes(self.config.grid, w));
            match (part.closed, now) {
                (Some(before), Some(now)) => closed |= now > before,
                // The first watermark closes panes that never had data.
                (None, Some(_)) => part.closed = now,
                (_, None) => {}
            }
        }
        let dirty_us = self.dirty_since_us.map_or(0, |t| at.mono_us - t);
        let waited = self.dirty_since_us.is_some() && dirty_us >= self.config.checkpoint_interval_us;
        let put_off = (closed || waited) && dirty_us < BACKLOG_GAP_US && self.is_behind();
        if closed && !put_off {
            let due = (at.mono_us + CLOSE_GATHER_US).max(self.last_close_cut_us + CLOSE_GAP_US);
            let due = *self.close_due_us.get_or_insert(due);
            if at.mono_us >= due {
                self.last_close_cut_us = at.mono_us;
                return true;
            }
        }
        (waited && !put_off)
            || self.is_full()
            || self.parts.iter().any(|(source, p)| p.gapped || self.only_position_is_missing(source, p, at))
    }

    /// Whether more is left of the log, as far as the broker has told, than has been read since the last checkpoint, while
    /// none is under way. Partitions of which nothing is read, whatever the reason, hold up nobody.
    fn is_behind(&self) -> bool {
        let (mut left, mut read) = (0_i64, 0);
        for (source, part) in self.parts.iter().filter(|(_, part)| part.position > part.committed) {
            read += part.position - part.committed;
            let end = self.ends.get(source).and_then(EndOffsets::latest);
            left = left.saturating_add(end.map_or(0, |end| end.saturating_sub(part.position).max(0)));
        }
        left > read
    }

    /// Whether a partition could be called quiet if only its position were committed.
    fn only_position_is_missing(&self, source: &TopicPartition, part: &Part, at: Moment) -> bool {
        !part.said_quiet
            && part.position != part.committed
            && self.quiet(source, part, part.position, at)
            && !self.quiet(source, part, part.committed, at)
    }

    fn quiet(&self, source: &TopicPartition, part: &Part, position: i64, at: Moment) -> bool {
        !part.gapped
            && self.ends.get(source).is_some_and(|ends| {
                is_quiet(at.mono_us, part.raised_at_us, position, ends, self.config.idle_timeout_us)
            })
    }

    /// Cuts a checkpoint: positions, watermarks and quietness as they stand, with everything in memory.
    fn take_cut(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(grant) = &self.grant else { return };
        let mut flight = InFlight { ticket: self.ticket + 1, parts: BTreeMap::new() };
        let judged: Vec<_> = self
            .parts
            .iter()
            .map(|(source, part)| {
                // The transaction that asserts it commits this very position.
                let quiet = self.quiet(source, part, part.position, at);
                let news = part.position != part.committed
                    || part.tide.watermark != part.committed_watermark
                    || part.gapped
                    || quiet != part.said_quiet;
                (source, part, quiet, news)
            })
            .collect();
        // Without any, there is something to tell all the same: one is compared with the fence for it.
        let only_one = !judged.iter().any(|(_, _, _, news)| *news);
        let mut advances = Vec::new();
        for (i, (source, part, quiet, news)) in judged.into_iter().enumerate() {
            if !(news || (only_one && i == 0)) {
                continue;
            }
            advances.push(Advance {
                partition: source.clone(),
                epoch: part.epoch,
                from: part.committed,
                to: part.position,
                watermark: part.tide.watermark.map(Timestamp),
                last_broker_time: part.last_broker_time,
                end_offset: self.ends.get(source).and_then(EndOffsets::latest),
                quiet_at: quiet.then_some(at.wall),
                floor: part.floor,
            });
            flight.parts.insert(source.clone(), (part.position, part.tide.watermark, quiet));
        }
        let losses = std::mem::take(&mut self.losses);
        self.ticket += 1;
        out.push(Action::Cut(CutRequest {
            ticket: self.ticket,
            source: grant.cluster.clone(),
            advances,
            losses,
        }));
        self.cut = Some(flight);
        self.bytes = 0;
        self.lowest_pane = None;
        self.dirty_since_us = None;
        self.close_due_us = None;
        for part in self.parts.values_mut() {
            part.closed = part.tide.watermark.map(|w| closed_panes(self.config.grid, w));
        }
    }

    fn due_beat(&mut self, at: Moment, out: &mut Vec<Action>) {
        let Some(grant) = self.grant.as_ref().filter(|_| self.beat.is_none() && !self.parts.is_empty())
        else {
            return;
        };
        let quiet: BTreeMap<TopicPartition, bool> =
            self.parts.iter().map(|(s, p)| (s.clone(), self.quiet(s, p, p.committed, at))).collect();
        let regular = at.mono_us >= self.next_beat_us;
        // Quietness is news in both directions, and while it lasts every pane's end is: an interval becomes ready by
        // a quiet partition only when its owner's clock, as last stored, has passed the end + max_disorder.
        let pane_at =
            |t: Timestamp| (t.us() - self.config.max_disorder_us).div_euclid(self.config.grid.len_us);
        let ended = pane_at(at.wall) > pane_at(self.last_beat_wall);
        let news = self.parts.iter().any(|(s, p)| quiet[s] != p.said_quiet || (quiet[s] && ended));
        // While a checkpoint is under way it carries the news; only signs of life go on.
        if !(regular || (news && !self.beat_failed && self.cut.is_none())) {
            return;
        }
        self.ticket += 1;
        let beats = self
            .parts
            .iter()
            .map(|(source, part)| Heartbeat {
                partition: source.clone(),
                epoch: part.epoch,
                quiet_at: quiet[source].then_some(at.wall),
                end_offset: self.ends.get(source).and_then(EndOffsets::latest),
            })
            .collect();
        out.push(Action::Beat { ticket: self.ticket, source: grant.cluster.clone(), beats });
        self.beat = Some(Beat { ticket: self.ticket, quiet, wall: at.wall });
    }

    fn due_group(&mut self, at: Moment, out: &mut Vec<Action>) {
        if at.mono_us - self.last_group_us >= GROUP_GAP_US {
            self.tell_group(at, out);
        }
    }

    fn tell_group(&mut self, at: Moment, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.group_behind) && !self.parts.is_empty() {
            self.last_group_us = at.mono_us;
            let positions = self.parts.iter().map(|(source, p)| (source.clone(), p.committed)).collect();
            out.push(Action::Tell(Command::CommitGroup { positions }));
        }
    }
}
