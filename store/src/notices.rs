//! What events say, in the same words from every store.

use fleetscore_schemas::time::{Interval, Timestamp};
use std::collections::BTreeSet;

/// Why a model failed that was not refused when its set was made.
pub(crate) const NO_NUMBER: &str = "its decision was no number";

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// Of a run of which nothing was heard since a time.
pub(crate) fn stalled(heard: Timestamp, holders: BTreeSet<String>) -> String {
    let who = match holders.is_empty() {
        true => "nobody claims its tasks: is any `score` or `up` running?".to_owned(),
        false => {
            let names: Vec<_> = holders.into_iter().collect();
            format!("its tasks are held by {}", names.join(", "))
        }
    };
    format!("nothing was heard of it since {heard}; {who}")
}

/// Of a task whose holder was not heard of.
pub(crate) fn lease_lost(by: &str) -> String {
    format!("not heard of for as long as its lease; taken over by {by}")
}

/// Of series that have been silent for longer than a limit at the end of an interval.
pub(crate) fn series_silent(series: i64, limit_us: i64, interval: Interval) -> String {
    let (limit, end) = (seconds(limit_us), interval.end);
    format!(
        "{series} series with a model sent nothing for longer than {limit} s, up to {end}: see the view silences"
    )
}

/// Of series that were said to be silent and have data in an interval.
pub(crate) fn series_back(series: i64, interval: Interval) -> String {
    format!("{series} series that were silent sent something after {}", interval.start)
}

/// Of a fleet whose newest pane has been the same since a time.
pub(crate) fn fleet_silent(newest: Timestamp, since: Timestamp, limit_us: i64) -> String {
    let limit = seconds(limit_us);
    format!("nothing newer than the pane of {newest} came since {since}, longer than {limit} s")
}

/// Of a fleet from which something came again.
pub(crate) fn fleet_back(newest: Timestamp, since: Timestamp) -> String {
    format!("the pane of {newest} came, the first since {since}")
}
