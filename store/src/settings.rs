//! Comparisons of settings that every store makes in the same words.

use crate::{PaneSettings, Result, ScheduleSpec, StoreError};

const MIGRATE_PANES: &str = "stored panes cannot be made over; use the stored value, or a new store (another `store`) and read the topic again";

/// Whether the store's panes were made as it is wanted now.
///
/// # Errors
/// [`StoreError::SettingsDiffer`] with the first setting that differs.
pub(crate) fn same_panes(stored: &PaneSettings, wanted: &PaneSettings) -> Result<()> {
    let seconds = |s: &PaneSettings| format!("{}s", s.interval_us as f64 / 1e6);
    let pairs = [
        ("interval", seconds(stored), seconds(wanted)),
        ("edges", stored.edges.as_str().to_owned(), wanted.edges.as_str().to_owned()),
        ("readings.where", stored.filter.clone(), wanted.filter.clone()),
        ("readings.value", stored.value.clone(), wanted.value.clone()),
        ("readings.ts_unit", stored.ts_unit.clone(), wanted.ts_unit.clone()),
    ];
    match pairs.into_iter().find(|(_, stored, wanted)| stored != wanted) {
        None => Ok(()),
        Some((what, stored, wanted)) => Err(StoreError::SettingsDiffer {
            what: what.to_owned(),
            stored,
            wanted,
            hint: MIGRATE_PANES.to_owned(),
        }),
    }
}

/// Whether a schedule's window and hop are multiples of the pane.
///
/// # Errors
/// [`StoreError::Setting`] naming the schedule's setting.
pub(crate) fn fits_panes(spec: &ScheduleSpec, panes: &PaneSettings) -> Result<()> {
    for (key, us) in [("window", spec.window_us), ("hop", spec.hop_us)] {
        if us <= 0 || panes.interval_us <= 0 || us % panes.interval_us != 0 {
            return Err(StoreError::Setting {
                setting: format!("schedules.{}.{key}", spec.name),
                message: format!(
                    "{} s is not a multiple of the store's pane of {} s",
                    us as f64 / 1e6,
                    panes.interval_us as f64 / 1e6
                ),
            });
        }
    }
    Ok(())
}

/// Whether a name may be a schedule's: it becomes part of a view's name.
///
/// # Errors
/// [`StoreError::Setting`] naming the schedule.
pub(crate) fn schedule_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.len() <= 40;
    if good {
        return Ok(());
    }
    Err(StoreError::Setting {
        setting: format!("schedules.{name}"),
        message: "a schedule's name is a small letter, then small letters, digits and `_`, 40 at most".into(),
    })
}

/// Whether the stored schedule makes the same intervals as the configured one.
///
/// # Errors
/// [`StoreError::SettingsDiffer`] naming window or hop.
pub(crate) fn same_schedule(stored: &ScheduleSpec, wanted: &ScheduleSpec) -> Result<()> {
    for (key, was, is) in
        [("window", stored.window_us, wanted.window_us), ("hop", stored.hop_us, wanted.hop_us)]
    {
        if was != is {
            return Err(StoreError::SettingsDiffer {
                what: format!("schedules.{}.{key}", wanted.name),
                stored: format!("{}s", was as f64 / 1e6),
                wanted: format!("{}s", is as f64 / 1e6),
                hint: "give the new window a schedule with a name of its own".to_owned(),
            });
        }
    }
    Ok(())
}
