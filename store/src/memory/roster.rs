//! Who is silent, and what may be thinned.

use super::{Event, Silence, State};
use crate::notices;
use crate::{Keep, RunRow};
use fleetscore_schemas::SeriesId;
use fleetscore_schemas::status::{PredictionStatus, RunScope, RunState};
use fleetscore_schemas::time::{Interval, Timestamp};

impl State {
    /// The next interval of the roster whose full run is over.
    fn next_of_roster(&self, schedule: &str) -> Option<Interval> {
        let row = self.schedules.get(schedule)?;
        let (from, until) = (row.roster_until.or(row.first_interval)?, row.covered_until?);
        let full = |r: &RunRow| {
            r.schedule == schedule
                && r.state != RunState::Skipped
                && r.scope == RunScope::All
                && !r.data_only
                && r.series == row.spec.series
                && (from..until).contains(&r.interval.start)
        };
        let next = self.runs.values().map(|r| &r.row).filter(|r| full(r)).min_by_key(|r| r.interval.start)?;
        let open =
            self.open.get(&(schedule.to_owned(), next.interval.start)).and_then(|id| self.runs.get(id));
        (!open.is_some_and(|run| full(&run.row))).then_some(next.interval)
    }

    pub(super) fn advance_roster(&mut self, schedule: &str, silence_us: Option<i64>, now: Timestamp) -> bool {
        let Some(interval) = self.next_of_roster(schedule) else { return false };
        let rows = self.predictions.get(&(schedule.to_owned(), interval.start));
        let statuses: Vec<(SeriesId, PredictionStatus)> =
            rows.into_iter().flatten().map(|(series, p)| (*series, p.row.status)).collect();
        let mut back = 0;
        for (series, status) in statuses {
            let silent = self
                .silences
                .iter_mut()
                .find(|s| s.schedule == schedule && s.series == series && s.ended_at.is_none());
            match (silent, status == PredictionStatus::NoData) {
                (None, true) => self.silences.push(Silence {
                    schedule: schedule.to_owned(),
                    series,
                    since: interval.start,
                    noticed_at: None,
                    ended_at: None,
                }),
                (Some(silence), false) => {
                    silence.ended_at = Some(interval.start);
                    back += i64::from(silence.noticed_at.is_some());
                }
                _ => {}
            }
        }
        let mut noticed = 0;
        if let Some(limit) = silence_us {
            for silence in self.silences.iter_mut().filter(|s| s.schedule == schedule) {
                let new = silence.ended_at.is_none() && silence.noticed_at.is_none();
                if new && silence.since.plus_us(limit) < interval.end {
                    silence.noticed_at = Some(now);
                    noticed += 1;
                }
            }
            if noticed > 0 {
                self.tell(
                    "series_silent",
                    schedule,
                    noticed,
                    notices::series_silent(noticed, limit, interval),
                    now,
                );
            }
        }
        if back > 0 {
            self.tell("series_back", schedule, back, notices::series_back(back, interval), now);
        }
        if let Some(row) = self.schedules.get_mut(schedule) {
            row.roster_until = Some(interval.start.plus_us(row.spec.hop_us.max(1)));
        }
        true
    }

    fn tell(&mut self, kind: &str, schedule: &str, series: i64, detail: String, at: Timestamp) {
        let schedule = Some(schedule.to_owned());
        self.events.push(Event {
            at,
            kind: kind.into(),
            schedule,
            run_id: None,
            series: Some(series),
            detail,
        });
    }

    pub(super) fn note_newest(
        &mut self,
        pane: Timestamp,
        silence_us: Option<i64>,
        now: Timestamp,
    ) -> Timestamp {
        let event = |kind: &str, detail| Event {
            at: now,
            kind: kind.to_owned(),
            schedule: None,
            run_id: None,
            series: None,
            detail,
        };
        match self.newest {
            Some((newest, at)) if pane <= newest => {
                let silent = silence_us.filter(|limit| at.plus_us(*limit) < now);
                if let Some(limit) = silent.filter(|_| !self.fleet_silent) {
                    self.fleet_silent = true;
                    self.events.push(event("fleet_silent", notices::fleet_silent(newest, at, limit)));
                }
                at
            }
            before => {
                self.newest = Some((pane, now));
                if let Some((_, at)) = before.filter(|_| self.fleet_silent) {
                    self.fleet_silent = false;
                    self.events.push(event("fleet_back", notices::fleet_back(pane, at)));
                }
                now
            }
        }
    }

    pub(super) fn thin(&mut self, schedule: &str, keep: Keep, limit: usize) -> u64 {
        let (Some(floor), false) = (self.floor(), keep == Keep::All) else { return 0 };
        let (from, to) = self.thinned.get(schedule).copied().unwrap_or((Timestamp(i64::MIN), keep));
        if to != keep {
            // What was thinned otherwise says nothing of the interval before.
            self.thin_states.remove(schedule);
        }
        let key = |start| (schedule.to_owned(), start);
        let starts: Vec<Timestamp> = self
            .predictions
            .range(key(from)..key(floor))
            .map(|((_, start), _)| *start)
            // The one behind must wait for the one before: each is passed once.
            .take_while(|start| self.is_published(schedule, *start) && !self.open.contains_key(&key(*start)))
            .take(limit)
            .collect();
        let mut removed = 0;
        for start in starts {
            removed += self.thin_interval(schedule, start, keep);
            self.thinned.insert(schedule.to_owned(), (start.plus_us(1), keep));
        }
        removed
    }

    fn thin_interval(&mut self, schedule: &str, start: Timestamp, keep: Keep) -> u64 {
        let Some(rows) = self.predictions.get_mut(&(schedule.to_owned(), start)) else { return 0 };
        let before = rows.len();
        let last = self.thin_states.entry(schedule.to_owned()).or_default();
        rows.retain(|series, p| match keep {
            Keep::All => true,
            Keep::Anomalies => p.row.prediction == Some(1),
            Keep::Changes => {
                let state = (p.row.status, p.row.prediction);
                last.insert(*series, state) != Some(state)
            }
        });
        (before - rows.len()) as u64
    }
}
