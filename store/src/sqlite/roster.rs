//! Who is silent: series with a model and without data, and the whole fleet.

use super::plan::interval;
use super::runs::{About, note_event};
use super::stream::time;
use crate::{Result, notices};
use fleetscore_schemas::time::{Interval, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// A full run scores the schedule's own series, all of them.
const FULL: &str = "r.schedule = s.name AND r.state <> 'skipped' AND r.scope = 'all' AND NOT r.data_only
    AND r.series IS json_extract(s.settings, '$.series')";

/// The interval that is next: its full run is over, and none is open.
pub(super) fn next(conn: &Connection, schedule: &str) -> Result<Option<Interval>> {
    let sql = format!(
        "SELECT n.interval_start, n.interval_end FROM schedule_data s CROSS JOIN run_data n ON n.run_id = (
             SELECT r.run_id FROM run_data r
             WHERE {FULL} AND r.interval_start >= coalesce(s.roster_until, s.first_interval)
                 AND r.interval_start < s.covered_until
             ORDER BY r.interval_start LIMIT 1)
         WHERE s.name = ?1 AND NOT EXISTS (SELECT 1 FROM run_data r WHERE {FULL}
             AND r.interval_start = n.interval_start AND r.state IN ('waiting', 'running'))"
    );
    Ok(conn.prepare_cached(&sql)?.query_row([schedule], |r| interval(r, 0)).optional()?)
}

pub(super) fn advance(
    tx: &Transaction<'_>,
    schedule: &str,
    silence_us: Option<i64>,
    now: Timestamp,
) -> Result<bool> {
    let Some(interval) = next(tx, schedule)? else { return Ok(false) };
    let start = interval.start.0;
    // One look-up by key for each open silence, and never a look at who has data: few are silent among a million.
    let ended: Vec<bool> = tx
        .prepare_cached(
            "UPDATE silence_data SET ended_at = ?2 WHERE schedule = ?1 AND ended_at IS NULL
                 AND (SELECT p.status FROM prediction_data p WHERE p.schedule = ?1 AND p.window_start = ?2
                     AND p.series_id = silence_data.series_id) <> 'no_data'
             RETURNING noticed_at IS NOT NULL",
        )?
        .query_map(params![schedule, start], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    tx.prepare_cached(
        "INSERT INTO silence_data (schedule, series_id, since)
         SELECT schedule, series_id, window_start FROM prediction_data
         WHERE schedule = ?1 AND window_start = ?2 AND status = 'no_data' AND status <> 'scored'
         ON CONFLICT (schedule, series_id) WHERE ended_at IS NULL DO NOTHING",
    )?
    .execute(params![schedule, start])?;
    let about = |series: i64| About { schedule: Some(schedule), run_id: None, series: Some(series) };
    if let Some(limit) = silence_us {
        let noticed = tx
            .prepare_cached(
                "UPDATE silence_data SET noticed_at = ?3
                 WHERE schedule = ?1 AND ended_at IS NULL AND noticed_at IS NULL AND since < ?2",
            )?
            .execute(params![schedule, interval.end.plus_us(-limit).0, now.0])?;
        if noticed > 0 {
            let noticed = i64::try_from(noticed).unwrap_or(i64::MAX);
            let detail = notices::series_silent(noticed, limit, interval);
            note_event(tx, "series_silent", &about(noticed), &detail, now)?;
        }
    }
    let back = ended.iter().filter(|noticed| **noticed).count() as i64;
    if back > 0 {
        note_event(tx, "series_back", &about(back), &notices::series_back(back, interval), now)?;
    }
    tx.execute(
        "UPDATE schedule_data SET roster_until = ?2 + max(hop_us, 1) WHERE name = ?1",
        params![schedule, start],
    )?;
    Ok(true)
}

// --- the fleet ------------------------------------------------------------------------------------------------------

/// What is known of the newest pane.
#[derive(Debug)]
pub(super) struct Newest {
    pane: Option<Timestamp>,
    since: Option<Timestamp>,
    silent: bool,
}

impl Newest {
    pub(super) fn read(conn: &Connection) -> Result<Self> {
        let sql = "SELECT newest_pane, newest_at, fleet_silent FROM setting_data";
        Ok(conn
            .prepare_cached(sql)?
            .query_row([], |r| Ok(Self { pane: time(r, 0)?, since: time(r, 1)?, silent: r.get(2)? }))?)
    }

    /// Since when this pane, or a newer one, is the newest, where there is nothing to note.
    pub(super) fn known(
        &self,
        pane: Timestamp,
        silence_us: Option<i64>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let since = self.since.filter(|_| self.pane.is_some_and(|newest| pane <= newest))?;
        let late = silence_us.is_some_and(|limit| since.plus_us(limit) < now);
        (self.silent || !late).then_some(since)
    }
}

pub(super) fn note_newest(
    tx: &Transaction<'_>,
    pane: Timestamp,
    silence_us: Option<i64>,
    now: Timestamp,
) -> Result<Timestamp> {
    let newest = Newest::read(tx)?;
    if let Some(since) = newest.known(pane, silence_us, now) {
        return Ok(since); // another process was here
    }
    let before = newest.pane.zip(newest.since);
    if let Some((stored, since)) = before.filter(|(stored, _)| pane <= *stored) {
        let detail = notices::fleet_silent(stored, since, silence_us.unwrap_or(0));
        note_event(tx, "fleet_silent", &About::default(), &detail, now)?;
        tx.execute("UPDATE setting_data SET fleet_silent = 1", [])?;
        return Ok(since);
    }
    let sql = "UPDATE setting_data SET newest_pane = ?1, newest_at = ?2, fleet_silent = 0";
    tx.execute(sql, [pane.0, now.0])?;
    if let Some((_, since)) = before.filter(|_| newest.silent) {
        note_event(tx, "fleet_back", &About::default(), &notices::fleet_back(pane, since), now)?;
    }
    Ok(now)
}
