//! Positions, series, panes and dead letters.

use super::{Pane, State};
use crate::batch::{WindowBuilder, for_each_delta};
use crate::{
    ChangedPane, Checkpoint, Claim, DeadLetterFilter, DeadLetterRow, Event, Heartbeat, Notice, Outcome,
    PaneSettings, ProgressRow, Result, Selection, StoreError,
};
use arrow::array::RecordBatch;
use fleetscore_schemas::delta::{PaneKey, Partial};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_schemas::{SeriesId, SeriesName};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    pub(super) fn pin_panes(&mut self, settings: &PaneSettings) -> Result<()> {
        match &self.settings {
            Some(stored) => crate::settings::same_panes(stored, settings),
            None => {
                for schedule in self.schedules.values() {
                    crate::settings::fits_panes(&schedule.spec, settings)?;
                }
                self.settings = Some(settings.clone());
                Ok(())
            }
        }
    }

    /// The floor of retention: the highest of all rows, where any has one.
    pub(super) fn floor(&self) -> Option<Timestamp> {
        self.progress.values().filter_map(|r| r.floor).max()
    }

    pub(super) fn add_partitions(
        &mut self,
        source: &str,
        partitions: &[(TopicPartition, i64)],
        now: Timestamp,
    ) {
        let floor = self.floor();
        for (partition, offset) in partitions {
            self.progress.entry((source.to_owned(), partition.clone())).or_insert_with(|| ProgressRow {
                source: source.to_owned(),
                partition: partition.clone(),
                next_offset: *offset,
                end_offset: None,
                watermark: None,
                quiet_at: None,
                floor,
                epoch: 0,
                owner: None,
                owner_seen_at: None,
                created_at: now,
            });
        }
    }

    pub(super) fn claim(
        &mut self,
        source: &str,
        owner: &str,
        partitions: &[TopicPartition],
        now: Timestamp,
    ) -> Result<Vec<Claim>> {
        let key = |p: &TopicPartition| (source.to_owned(), p.clone());
        if let Some(missing) = partitions.iter().find(|p| !self.progress.contains_key(&key(p))) {
            return Err(StoreError::NotFound {
                what: format!("position of {missing} in cluster `{source}`"),
            });
        }
        let mut claims = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let Some(row) = self.progress.get_mut(&key(partition)) else { continue };
            row.epoch += 1;
            row.owner = Some(owner.to_owned());
            row.owner_seen_at = Some(now);
            // What the former owner asserted is not the new owner's word.
            row.quiet_at = None;
            claims.push(Claim {
                partition: partition.clone(),
                next_offset: row.next_offset,
                epoch: row.epoch,
                watermark: row.watermark,
                floor: row.floor,
                last_broker_time: self.broker_times.get(&key(partition)).copied(),
            });
        }
        Ok(claims)
    }

    pub(super) fn heartbeat(
        &mut self,
        source: &str,
        owner: &str,
        beats: &[Heartbeat],
        now: Timestamp,
    ) -> Outcome {
        let key = |p: &TopicPartition| (source.to_owned(), p.clone());
        let held =
            |b: &Heartbeat| self.progress.get(&key(&b.partition)).is_some_and(|row| row.epoch == b.epoch);
        if !beats.iter().all(held) {
            return Outcome::Fenced;
        }
        for beat in beats {
            let Some(row) = self.progress.get_mut(&key(&beat.partition)) else { continue };
            row.owner = Some(owner.to_owned());
            row.owner_seen_at = Some(now);
            row.quiet_at = beat.quiet_at;
            row.end_offset = beat.end_offset.or(row.end_offset);
        }
        Outcome::Done
    }

    pub(super) fn intern(&mut self, names: &[SeriesName], max_series: u32) -> Vec<Option<SeriesId>> {
        let new: BTreeSet<&SeriesName> = names.iter().filter(|n| !self.ids.contains_key(*n)).collect();
        let room = (max_series as usize).saturating_sub(self.names.len());
        for name in new.into_iter().take(room) {
            self.names.push(name.clone());
            // No more than max_series, which is an u32.
            self.ids.insert(name.clone(), self.names.len() as SeriesId);
        }
        names.iter().map(|n| self.ids.get(n).copied()).collect()
    }

    pub(super) fn checkpoint(&mut self, checkpoint: &Checkpoint, now: Timestamp) -> Result<Outcome> {
        let key = |p: &TopicPartition| (checkpoint.source.clone(), p.clone());
        let fenced = checkpoint.advances.iter().any(|a| {
            self.progress
                .get(&key(&a.partition))
                .is_none_or(|row| row.epoch != a.epoch || row.next_offset != a.from || row.floor > a.floor)
        });
        let replayable = |id: &i64| self.dead_letters.get(id).is_some_and(|d| d.replayed_at.is_none());
        if fenced || !checkpoint.replayed.iter().all(replayable) {
            return Ok(Outcome::Fenced);
        }
        // Everything that can fail comes before the first write.
        let mut deltas: Vec<(PaneKey, Partial)> = Vec::with_capacity(checkpoint.deltas.num_rows());
        for_each_delta(&checkpoint.deltas, |key, partial| {
            if key.1 == 0 || key.1 as usize > self.names.len() {
                return Err(StoreError::internal(format!("there is no series {}", key.1)));
            }
            deltas.push((key, *partial));
            Ok(())
        })?;

        for advance in &checkpoint.advances {
            let Some(row) = self.progress.get_mut(&key(&advance.partition)) else { continue };
            row.next_offset = advance.to;
            row.watermark = row.watermark.max(advance.watermark);
            row.end_offset = advance.end_offset.or(row.end_offset);
            row.quiet_at = advance.quiet_at;
            row.owner = Some(checkpoint.owner.clone());
            row.owner_seen_at = Some(now);
            match advance.last_broker_time {
                Some(time) => {
                    self.broker_times.insert(key(&advance.partition), time);
                }
                None if advance.to != advance.from => {
                    self.broker_times.remove(&key(&advance.partition));
                }
                None => {}
            }
        }
        self.merge(&deltas, now);
        for letter in &checkpoint.dead_letters {
            self.last_dead_letter += 1;
            let id = self.last_dead_letter;
            self.dead_letters.insert(
                id,
                DeadLetterRow {
                    id,
                    partition: letter.partition.clone(),
                    offset: letter.offset,
                    position: letter.position,
                    code: letter.code.as_str().to_owned(),
                    detail: letter.detail.clone(),
                    payload: letter.payload.clone(),
                    broker_time: letter.broker_time,
                    count: letter.count,
                    last_offset: letter.last_offset,
                    sensors: letter.sensors.clone(),
                    recorded_at: now,
                    replayed_at: None,
                },
            );
        }
        self.losses.extend(checkpoint.losses.iter().cloned());
        for Notice { kind, detail } in &checkpoint.notices {
            if self.events.iter().any(|e| e.kind == *kind && e.detail == *detail) {
                continue; // one that moves no position may come again after an unknown outcome
            }
            self.events.push(Event {
                at: now,
                kind: (*kind).to_owned(),
                schedule: None,
                run_id: None,
                series: None,
                detail: detail.clone(),
            });
        }
        for id in &checkpoint.replayed {
            if let Some(row) = self.dead_letters.get_mut(id) {
                row.replayed_at = Some(now);
            }
        }
        Ok(Outcome::Done)
    }

    fn merge(&mut self, deltas: &[(PaneKey, Partial)], now: Timestamp) {
        let mut logged = None;
        for (key, delta) in deltas {
            self.panes
                .entry(*key)
                .and_modify(|pane| {
                    pane.partial = pane.partial.merge(delta);
                    pane.version += 1;
                })
                .or_insert(Pane { partial: *delta, version: 1 });
            if logged != Some(key.0) {
                logged = Some(key.0);
                self.last_changed += 1;
                let row = ChangedPane { id: self.last_changed, pane_start: key.0, changed_at: now };
                self.changed.insert(row.id, row);
            }
        }
    }

    pub(super) fn retain_from(&mut self, floor: Timestamp) -> u64 {
        for row in self.progress.values_mut() {
            row.floor = row.floor.max(Some(floor));
        }
        let Some(pane_us) = self.settings.as_ref().map(|s| s.interval_us) else { return 0 };
        // Panes that end at or before the floor.
        let keep = (floor.plus_us(1 - pane_us), 0);
        let kept = self.panes.split_off(&keep);
        let removed = std::mem::replace(&mut self.panes, kept).len();
        self.changed.retain(|_, row| row.pane_start >= keep.0);
        removed as u64
    }

    pub(super) fn forget_dead_letters(&mut self, before: Timestamp, limit: usize) -> u64 {
        let oldest = self.dead_letters.iter().take(limit);
        let gone: Vec<i64> = oldest.filter(|(_, d)| d.recorded_at < before).map(|(id, _)| *id).collect();
        gone.iter().for_each(|id| {
            self.dead_letters.remove(id);
        });
        gone.len() as u64
    }

    pub(super) fn dead_letters(&self, filter: &DeadLetterFilter) -> Vec<DeadLetterRow> {
        let limit = if filter.limit == 0 { usize::MAX } else { filter.limit };
        self.dead_letters
            .values()
            .filter(|d| filter.ids.as_ref().is_none_or(|ids| ids.contains(&d.id)))
            .filter(|d| filter.code.as_ref().is_none_or(|code| *code == d.code))
            .filter(|d| !filter.unreplayed || d.replayed_at.is_none())
            .filter(|d| filter.after_id.is_none_or(|id| d.id > id))
            .take(limit)
            .cloned()
            .collect()
    }

    /// Windows of an interval: merged panes with the sum of their versions; none where it crosses the floor.
    pub(super) fn merged(&self, interval: Interval) -> BTreeMap<SeriesId, (Partial, i64)> {
        let mut windows: BTreeMap<SeriesId, (Partial, i64)> = BTreeMap::new();
        if self.floor().is_some_and(|floor| interval.start < floor) {
            return windows;
        }
        for (key, pane) in self.panes.range((interval.start, 0)..(interval.end, 0)) {
            windows
                .entry(key.1)
                .and_modify(|(partial, version)| {
                    *partial = partial.merge(&pane.partial);
                    *version += pane.version;
                })
                .or_insert((pane.partial, pane.version));
        }
        windows
    }

    pub(super) fn windows(&self, interval: Interval, selection: &Selection) -> Result<Vec<RecordBatch>> {
        let mut builder = WindowBuilder::default();
        for (series, (partial, version)) in self.merged(interval) {
            if selection.contains(series) {
                builder.push(series, version, &partial);
            }
        }
        if builder.len() == 0 { Ok(Vec::new()) } else { Ok(vec![builder.finish()?]) }
    }
}
