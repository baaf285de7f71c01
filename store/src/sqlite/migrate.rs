//! The schema, the settings kept in it, and the views of schedules.

use super::connect::transaction;
use crate::settings::{fits_panes, same_panes};
use crate::{PaneSettings, ReadinessSettings, Result, ScheduleSpec, StoreError};
use fleetscore_schemas::time::Edges;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use uuid::Uuid;

/// Statements that lead from each version to the next; the first makes version 1.
const MIGRATIONS: &[&str] = &[include_str!("../../../schemas/migrations/sqlite/0001_init.sql")];
const KNOWN: i64 = MIGRATIONS.len() as i64;

/// Creates what is missing, under the file's write lock.
pub(super) fn migrate(conn: &mut Connection) -> Result<()> {
    // In one snapshot: another process may be creating the very objects that would look foreign one by one.
    let found = version(&*conn.unchecked_transaction()?)?;
    if found == Some(KNOWN) {
        return Ok(());
    }
    // Readers go on while the writer writes. Kept by the file, so it is asked for once, of a file known to be ours.
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    transaction(conn, steps, |()| true)
}

fn steps(tx: &Transaction<'_>) -> Result<()> {
    // Another process may have been faster.
    let from = version(tx)?;
    for step in &MIGRATIONS[usize::try_from(from.unwrap_or(0)).unwrap_or(0)..] {
        tx.execute_batch(step)?;
    }
    if from.is_none() {
        put_meta(tx, "store_id", &Uuid::new_v4().to_string())?;
    }
    put_meta(tx, "schema_version", &KNOWN.to_string())
}

/// The version of the schema; `None` where there is none yet.
///
/// # Errors
/// [`StoreError::TooNew`]; [`StoreError::Foreign`] where one of our names is taken by somebody else.
fn version(conn: &Connection) -> Result<Option<i64>> {
    if let Some(object) = first_foreign(conn)? {
        return Err(StoreError::Foreign { object });
    }
    let Some(text) = meta(conn, "schema_version")? else { return Ok(None) };
    let found: i64 = text.parse().map_err(|_| StoreError::Foreign { object: "fleetscore_meta".into() })?;
    if found > KNOWN {
        return Err(StoreError::TooNew { found, known: KNOWN });
    }
    Ok(Some(found))
}

/// The first object with one of our names that was not made by us.
fn first_foreign(conn: &Connection) -> Result<Option<String>> {
    if has_object(conn, "fleetscore_meta")? {
        // Somebody else's table of that name need not even have these columns.
        let ours = meta(conn, "made_by").ok().flatten().is_some_and(|v| v == "fleetscore");
        return Ok((!ours).then(|| "fleetscore_meta".to_owned()));
    }
    let names = MIGRATIONS.iter().flat_map(|sql| sql.lines()).filter_map(|line| {
        let mut words = line.split_whitespace();
        let create = words.next() == Some("CREATE");
        let name = words.find(|w| !["TABLE", "VIEW", "INDEX", "UNIQUE"].contains(w));
        name.filter(|_| create)
    });
    for name in names {
        if has_object(conn, name)? {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

fn has_object(conn: &Connection, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE)";
    Ok(conn.query_row(sql, [name], |r| r.get(0))?)
}

/// A value of `fleetscore_meta`; `None` where the key or the table is missing.
fn meta(conn: &Connection, key: &str) -> Result<Option<String>> {
    if !has_object(conn, "fleetscore_meta")? {
        return Ok(None);
    }
    let sql = "SELECT value FROM fleetscore_meta WHERE key = ?1";
    Ok(conn.query_row(sql, [key], |r| r.get(0)).optional()?)
}

fn put_meta(conn: &Connection, key: &str, value: &str) -> Result<()> {
    let sql =
        "INSERT INTO fleetscore_meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    conn.execute(sql, [key, value])?;
    Ok(())
}

pub(super) fn store_id(conn: &Connection) -> Result<Uuid> {
    let text = meta(conn, "store_id")?;
    let text = text.ok_or_else(|| StoreError::NotFound { what: "store yet: migrate first".into() })?;
    text.parse().map_err(StoreError::internal)
}

pub(super) fn pane_settings(conn: &Connection) -> Result<Option<PaneSettings>> {
    let sql = "SELECT pane_us, edges, filter, value, ts_unit FROM setting_data WHERE pane_us IS NOT NULL";
    let row = conn.query_row(sql, [], |r| {
        let edges: String = r.get(1)?;
        let edges = if edges == Edges::End.as_str() { Edges::End } else { Edges::Start };
        Ok(PaneSettings {
            interval_us: r.get(0)?,
            edges,
            filter: r.get(2)?,
            value: r.get(3)?,
            ts_unit: r.get(4)?,
        })
    });
    Ok(row.optional()?)
}

pub(super) fn pin_panes(tx: &Transaction<'_>, settings: &PaneSettings) -> Result<()> {
    if let Some(stored) = pane_settings(tx)? {
        return same_panes(&stored, settings);
    }
    tx.execute(
        "UPDATE setting_data SET pane_us = ?1, edges = ?2, filter = ?3, value = ?4, ts_unit = ?5",
        params![
            settings.interval_us,
            settings.edges.as_str(),
            settings.filter,
            settings.value,
            settings.ts_unit
        ],
    )?;
    // Schedules of a scorer that started before the first aggregator.
    for schedule in super::schedules::schedules(tx)? {
        fits_panes(&schedule.spec, settings)?;
        create_view(tx, &schedule.spec, settings)?;
    }
    Ok(())
}

pub(super) fn put_readiness(tx: &Transaction<'_>, s: &ReadinessSettings) -> Result<()> {
    tx.execute(
        "UPDATE setting_data SET max_disorder_us = ?1, owner_ttl_us = ?2, max_wait_us = ?3",
        [s.max_disorder_us, s.owner_ttl_us, s.max_wait_us],
    )?;
    Ok(())
}

pub(super) fn readiness(conn: &Connection) -> Result<ReadinessSettings> {
    let sql = "SELECT max_disorder_us, owner_ttl_us, max_wait_us FROM setting_data";
    Ok(conn.query_row(sql, [], |r| {
        Ok(ReadinessSettings { max_disorder_us: r.get(0)?, owner_ttl_us: r.get(1)?, max_wait_us: r.get(2)? })
    })?)
}

/// Makes the view of a schedule whose windows are not the panes, and notes that it is ours.
///
/// # Errors
/// [`StoreError::Foreign`] where the view's name is taken.
pub(super) fn create_view(tx: &Transaction<'_>, spec: &ScheduleSpec, panes: &PaneSettings) -> Result<()> {
    if spec.window_us == panes.interval_us && spec.hop_us == panes.interval_us {
        return Ok(());
    }
    let name = format!("windows_{}", spec.name);
    if has_object(tx, &name)? {
        return Err(StoreError::Foreign { object: name });
    }
    tx.execute_batch(&view(&name, spec.window_us, spec.hop_us, panes.interval_us))?;
    tx.execute("UPDATE schedule_data SET has_view = 1 WHERE name = ?1", [&spec.name])?;
    Ok(())
}

/// Windows merged from panes. Each pane is read once and spread over the windows that contain it (as
/// `fleetscore_schemas::time::windows_covering` says); panes do not overlap in time, so that the first reading of a
/// window is the first of its first pane. The squared deviations are taken around the window's own mean, which no
/// single pass over running sums would do without losing digits. The square root is Newton's: a guess within a factor
/// of ten by the decimal exponent, of which ten steps leave nothing but the last bit.
fn view(name: &str, window_us: i64, hop_us: i64, pane_us: i64) -> String {
    format!(
        r"CREATE VIEW {name} AS
WITH RECURSIVE back(k) AS (
    SELECT 0 UNION ALL SELECT k + 1 FROM back WHERE (k + 1) * {hop_us} < {window_us}),
spread AS (
    SELECT p.pane_start / {hop_us} * {hop_us} - b.k * {hop_us} AS start, p.*
    FROM pane_data p CROSS JOIN back b
    WHERE p.pane_start / {hop_us} * {hop_us} - b.k * {hop_us} >= p.pane_start + {pane_us} - {window_us}),
framed AS (
    SELECT s.start, s.series_id, s.count, s.sum, s.m2, s.min, s.max, s.version,
        sum(s.sum) OVER w AS total, sum(s.count) OVER w AS readings,
        first_value(s.first_value) OVER w AS first, last_value(s.last_value) OVER w AS last
    FROM spread s
    WHERE s.start >= (SELECT coalesce(max(floor), 0) FROM progress_data)
    WINDOW w AS (PARTITION BY s.start, s.series_id ORDER BY s.pane_start
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)),
merged AS (
    SELECT f.start, f.series_id, max(f.readings) AS readings, max(f.total) AS sum,
        sum(f.m2 + f.count * (f.sum / f.count - f.total / f.readings) * (f.sum / f.count - f.total / f.readings))
            / (max(f.readings) - 1) AS variance,
        min(f.min) AS min, max(f.max) AS max, max(f.first) AS first, max(f.last) AS last, sum(f.version) AS version
    FROM framed f GROUP BY f.start, f.series_id)
SELECT strftime('%Y-%m-%dT%H:%M:%S.000000Z', m.start / 1000000, 'unixepoch') AS window_start,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', (m.start + {window_us}) / 1000000, 'unixepoch') AS window_end,
    n.device, n.sensor, m.readings, m.sum, m.sum / m.readings AS mean,
    CASE WHEN m.readings = 1 THEN NULL WHEN m.variance = 0 THEN 0.0 ELSE (
        WITH RECURSIVE newton(x, step) AS (
            SELECT CAST('3e' || (CAST(substr(printf('%.0e', m.variance), instr(printf('%.0e', m.variance), 'e') + 1)
                AS INTEGER) / 2) AS REAL), 0
            UNION ALL
            SELECT (x + m.variance / x) / 2, step + 1 FROM newton WHERE step < 10)
        SELECT x FROM newton WHERE step = 10) END AS stddev,
    m.min, m.max, m.first, m.last, m.version,
    coalesce(m.start + {window_us} <= (SELECT until FROM ready_until), 0) AS ready
FROM merged m JOIN series_data n ON n.id = m.series_id;"
    )
}
