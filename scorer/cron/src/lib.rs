//! When a schedule acts next: times of cron expressions, and intervals by the clock. Pure.
//!
//! An expression has five fields (minute, hour, day of month, month, day of week) or six (seconds first), as in Vixie
//! cron; `@hourly` and its like are told too. Where day of month and day of week are both restricted, a day that matches
//! either one counts; a `+` before the day of week asks for both. A field is unrestricted if it is `*` alone: `*/2` is a
//! restriction.
//!
//! **Daylight saving.** Fields are told in the schedule's time zone. A *fixed time* (one second, one minute and one hour,
//! as in `30 2 * * *`) fires once a day: where its time does not exist, at the first moment behind the gap; where it comes
//! twice, the first time. Everything else (`*/15 * * * *`, `0 2,14 * * *`) goes by the clock on the wall: what falls into a
//! gap is left out, and what comes twice fires twice, so that steps go on in real time.

use chrono::{DateTime, TimeZone};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, CronDateTime};
use fleetscore_schemas::time::{Interval, Timestamp};
use fleetscore_store::{ReadinessSettings, ScheduleRow, Trigger};

/// What is wrong with a cron trigger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// A field does not say which of its values it means.
    #[error("the {field} `{text}` of the cron expression `{expression}` is wrong: {message} ({allowed})")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it says.
        text: String,
        /// All of the expression.
        expression: String,
        /// What is wrong with it.
        message: String,
        /// What it may hold.
        allowed: &'static str,
    },
    /// It has too few fields or too many.
    #[error(
        "the cron expression `{expression}` has {fields} fields: write minute, hour, day of month, month and day of \
         week, with seconds before them if you like"
    )]
    Fields {
        /// The expression.
        expression: String,
        /// How many.
        fields: usize,
    },
    /// Its days do not exist.
    #[error("the cron expression `{expression}` never fires: look at its day of month and month")]
    Never {
        /// The expression.
        expression: String,
    },
    /// There is no such time zone.
    #[error("`{zone}` is no time zone: write the name that the IANA gives it, as `UTC` or `Europe/Berlin`")]
    Zone {
        /// What was written.
        zone: String,
    },
}

/// The fields, with what each may hold and the words it knows.
const FIELDS: [(&str, &str, &[&str]); 6] = [
    ("seconds field", "0-59, * , - /", &[]),
    ("minute field", "0-59, * , - /", &[]),
    ("hour field", "0-23, * , - /", &[]),
    ("day-of-month field", "1-31, L, W, * , - /", &["L", "W", "LW"]),
    (
        "month field",
        "1-12 or JAN-DEC, * , - /",
        &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    ),
    (
        "day-of-week field",
        "0-7 or SUN-SAT, # L, * , - /",
        &[
            "SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUNL", "MONL", "TUEL", "WEDL", "THUL", "FRIL",
            "SATL", "L",
        ],
    ),
];

/// Expressions with a name.
const NICKNAMES: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];

/// Fires of a cron schedule that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// How many; at most [`COUNTED`].
    pub fires: i64,
}

/// So many fires are counted; what is beyond them is passed over in one step.
pub const COUNTED: i64 = 10_000;

/// A trigger's expression in its zone.
struct Told {
    cron: Cron,
    zone: Tz,
}

impl Told {
    fn new(expression: &str, zone: &str) -> Result<Self, CronError> {
        let zone = zone.parse::<Tz>().map_err(|_| CronError::Zone { zone: zone.to_owned() })?;
        Ok(Self { cron: parse(expression)?, zone })
    }

    fn at(&self, t: Timestamp) -> Option<DateTime<Tz>> {
        Some(self.zone.from_utc_datetime(&t.to_datetime()?.naive_utc()))
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = self.at(after)?;
        // An instant behind the asked one, whatever fraction of a second that has.
        for _ in 0..3 {
            let next = self.cron.find_next_occurrence(&from, false).ok()?;
            let t = Timestamp(next.timestamp_micros());
            if t > after {
                return Some(t);
            }
            from = next.checked_add_seconds(1)?;
        }
        None
    }

    fn last_until(&self, until: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_previous_occurrence(&self.at(until)?, true).ok()?;
        Some(Timestamp(found.timestamp_micros())).filter(|t| *t <= until)
    }
}

fn parse(expression: &str) -> Result<Cron, CronError> {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let given = expression.trim();
    let fields: Vec<&str> = given.split_whitespace().collect();
    if !NICKNAMES.iter().any(|n| n.eq_ignore_ascii_case(given)) {
        if !(5..=6).contains(&fields.len()) {
            return Err(CronError::Fields { expression: expression.to_owned(), fields: fields.len() });
        }
        for (i, field) in fields.iter().enumerate() {
            check_field(&parser, expression, field, i + 6 - fields.len())?;
        }
    }
    parser
        .parse(given)
        .map_err(|_| CronError::Fields { expression: expression.to_owned(), fields: fields.len() })
}

/// One field at a time, so that the message can name it.
fn check_field(parser: &CronParser, expression: &str, field: &str, place: usize) -> Result<(), CronError> {
    let (name, allowed, words) = FIELDS[place];
    let wrong = |message: &str| CronError::Field {
        field: name,
        text: field.to_owned(),
        expression: expression.to_owned(),
        message: message.to_owned(),
        allowed,
    };
    let upper = field.to_ascii_uppercase();
    let unknown =
        upper.split(|c: char| !c.is_alphabetic()).find(|word| !word.is_empty() && !words.contains(word));
    if let Some(word) = unknown {
        return Err(wrong(&format!("it does not know `{word}`")));
    }
    if field.split(',').any(str::is_empty) {
        return Err(wrong("a value is missing beside a comma"));
    }
    let mut alone = ["*"; 6];
    alone[place] = field;
    match parser.parse(&alone.join(" ")) {
        Ok(_) => Ok(()),
        Err(croner::errors::CronError::ComponentError(message)) => {
            Err(wrong(message.trim_end_matches('.').to_lowercase().as_str()))
        }
        Err(croner::errors::CronError::IllegalCharacters(_)) => {
            Err(wrong("it holds a character that has no meaning there"))
        }
        Err(e) => Err(wrong(&e.to_string())),
    }
}

/// Whether a schedule may have this trigger: for whoever reads settings.
///
/// # Errors
/// What is wrong, in words that name the field or the time zone.
pub fn check_cron(expression: &str, zone: &str) -> Result<(), String> {
    let told = Told::new(expression, zone).map_err(|e| e.to_string())?;
    // A leap year and the ones around it: whatever fires at all, fires once in them.
    let from = Timestamp(1_767_225_600_000_000);
    match told.next(from) {
        Some(_) => Ok(()),
        None => Err(CronError::Never { expression: expression.to_owned() }.to_string()),
    }
}

/// The next times after this one at which a trigger fires, ascending, at most `n`: none for one that is not `cron`, fewer
/// where the expression has no more.
///
/// # Errors
/// An expression or a zone that cannot be read.
pub fn next_fires(trigger: &Trigger, after: Timestamp, n: usize) -> Result<Vec<Timestamp>, CronError> {
    let Trigger::Cron { expression, time_zone } = trigger else { return Ok(Vec::new()) };
    let told = Told::new(expression, time_zone)?;
    let next = std::iter::successors(told.next(after), |t| told.next(*t));
    Ok(next.take(n).collect())
}

/// The fires in `(after, until]`; `None` where there are none.
pub fn due(
    expression: &str,
    zone: &str,
    after: Timestamp,
    until: Timestamp,
) -> Result<Option<Due>, CronError> {
    let told = Told::new(expression, zone)?;
    let Some(first) = told.next(after).filter(|t| *t <= until) else { return Ok(None) };
    let mut due = Due { first, last: first, fires: 1 };
    while let Some(next) = told.next(due.last).filter(|t| *t <= until) {
        due.last = next;
        due.fires += 1;
        if due.fires >= COUNTED {
            due.last = told.last_until(until).unwrap_or(next).max(next);
            break;
        }
    }
    Ok(Some(due))
}

/// The next intervals of a schedule by the clock, each with the time before which it cannot be ready: its end and the
/// disorder that is waited for. Where data come late, or a partition lags, it is later.
pub fn next_intervals(
    schedule: &ScheduleRow,
    readiness: &ReadinessSettings,
    now: Timestamp,
    n: usize,
) -> Vec<(Interval, Timestamp)> {
    let (w, h) = (schedule.spec.window_us, schedule.spec.hop_us);
    if w <= 0 || h <= 0 {
        return Vec::new();
    }
    // The first that ends, with the disorder, after now; but not what is dealt with.
    let behind = now.0.saturating_sub(readiness.max_disorder_us).saturating_sub(w);
    let by_clock = Timestamp((behind.div_euclid(h) + 1).saturating_mul(h));
    let first = schedule.covered_until.map_or(by_clock, |covered| covered.max(by_clock));
    let starts = std::iter::successors(Some(first), |s| Some(s.plus_us(h)));
    let intervals = starts.take(n).map(|s| Interval::starting(s, w));
    intervals.map(|i| (i, i.end.plus_us(readiness.max_disorder_us))).collect()
}

#[cfg(test)]
mod tests;
