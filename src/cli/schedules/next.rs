//! `schedules next`: what a schedule will do, and what it waits for.

use super::super::Context;
use super::{find, state};
use crate::exit::{Done, Fail, Outcome};
use crate::{output, wire};
use fleetscore_cron::{next_fires, next_intervals};
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_scorer::readiness::Horizon;
use fleetscore_store::{ScheduleRow, Store, Trigger};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its name.
    name: String,
    /// How many.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    count: u16,
}

/// What comes next.
enum Next {
    /// Times of the clock.
    Fires(Vec<Timestamp>),
    /// Intervals, each with the time before which it cannot be ready.
    Intervals(Vec<(Interval, Timestamp)>),
    /// Nothing by itself.
    WhenAsked,
}

pub(super) async fn run(args: &Args, as_object: bool, context: &Context, store: &dyn Store) -> Outcome {
    let row = find(&args.name, store).await?;
    let now = store.now().await?;
    let readiness = wire::readiness(&context.config);
    let count = usize::from(args.count);
    let next = match &row.spec.trigger {
        Trigger::Manual => Next::WhenAsked,
        trigger @ Trigger::Cron { .. } => {
            Next::Fires(next_fires(trigger, now, count).map_err(|e| Fail::user(e.to_string()))?)
        }
        Trigger::Interval => Next::Intervals(next_intervals(&row, &readiness, now, count)),
    };
    // A schedule that stands still will do none of it.
    let stands = (row.pause.is_some() || !row.spec.enabled).then(|| state(&row, now));
    if as_object {
        output::print(&as_json(&row, &next, stands).to_string());
        return Ok(Done::All);
    }
    match &next {
        Next::WhenAsked => {
            output::print(&format!(
                "{} scores nothing by itself: `fleetscore run --schedule {0}`",
                args.name
            ));
        }
        Next::Fires(times) => {
            let rows = times.iter().map(|t| vec![output::time(*t)]);
            output::print(&output::table(&["fires at"], rows));
        }
        Next::Intervals(intervals) => {
            output::print(&output::table(
                &["interval", "end", "ready at the earliest"],
                intervals.iter().map(interval_row),
            ));
        }
    }
    if let Some(covered) = behind(&row, &next) {
        eprintln!("{} is behind: intervals from {} on come first", args.name, output::time(covered));
    }
    if let Some(stands) = stands {
        eprintln!("{} {stands}: none of it will happen while it is so", args.name);
    }
    Ok(Done::All)
}

/// Why the next interval is not scored yet; `None` where nothing keeps it, or nobody knows what comes next.
pub(super) async fn waits_for(
    row: &ScheduleRow,
    context: &Context,
    store: &dyn Store,
) -> Result<Option<String>, Fail> {
    let Some(settings) = store.pane_settings().await? else {
        return Ok(Some("nothing has been aggregated yet".to_owned()));
    };
    let Some(start) = row.covered_until.or(row.first_interval) else { return Ok(None) };
    let progress = store.progress().await?;
    let horizon = Horizon::of(&progress, &wire::readiness(&context.config), settings.edges);
    let next = Interval::starting(start, row.spec.window_us);
    Ok(horizon.why_not(next.end).map(|why| format!("{next}: {why}")))
}

/// Where a schedule stands that has not come to the present yet.
fn behind(row: &ScheduleRow, next: &Next) -> Option<Timestamp> {
    let Next::Intervals(intervals) = next else { return None };
    let first = intervals.first()?.0.start;
    row.covered_until.filter(|covered| *covered < first)
}

fn interval_row((interval, earliest): &(Interval, Timestamp)) -> Vec<String> {
    vec![output::time(interval.start), output::time(interval.end), output::time(*earliest)]
}

fn as_json(row: &ScheduleRow, next: &Next, stands: Option<String>) -> Value {
    let (fires, intervals) = match next {
        Next::WhenAsked => (None, None),
        Next::Fires(times) => (Some(times.iter().map(|t| t.to_rfc3339()).collect::<Vec<_>>()), None),
        Next::Intervals(intervals) => (None, Some(intervals)),
    };
    let intervals = intervals.map(|all| {
        Value::from_iter(all.iter().map(|(interval, earliest)| {
            json!({
                "interval_start": interval.start.to_rfc3339(),
                "interval_end": interval.end.to_rfc3339(),
                "earliest": earliest.to_rfc3339(),
            })
        }))
    });
    json!({
        "schedule": row.spec.name,
        "trigger": row.spec.trigger.as_str(),
        "fires": fires,
        "intervals": intervals,
        "behind_from": behind(row, next).map(Timestamp::to_rfc3339),
        "stands_still": stands,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn scripts_get_fires_or_intervals_or_neither() {
        let t = Timestamp(1_767_225_600_000_000);
        let interval = Interval::starting(t, 60_000_000);
        let intervals = Next::Intervals(vec![(interval, t.plus_us(70_000_000))]);
        let value = as_json(&row("s"), &intervals, None);
        assert_eq!(value["intervals"][0]["interval_end"], "2026-01-01T00:01:00.000000Z");
        assert_eq!(value["intervals"][0]["earliest"], "2026-01-01T00:01:10.000000Z");
        assert!(
            value["fires"].is_null() && value["stands_still"].is_null() && value["behind_from"].is_null()
        );
        for (covered, said) in [(t, None), (t.plus_us(-1), Some(t.plus_us(-1)))] {
            let row = ScheduleRow { covered_until: Some(covered), ..row("s") };
            assert_eq!(behind(&row, &intervals), said);
        }
        let value = as_json(&row("s"), &Next::Fires(vec![t]), Some("paused since …".into()));
        assert_eq!(
            (value["fires"][0].as_str(), value["intervals"].is_null()),
            (Some("2026-01-01T00:00:00.000000Z"), true)
        );
        assert_eq!(value["stands_still"], "paused since …");
        let value = as_json(&row("s"), &Next::WhenAsked, None);
        assert!(value["fires"].is_null() && value["intervals"].is_null());
    }
}
