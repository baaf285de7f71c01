//! Cron by zone and daylight saving, and intervals by the clock.

use super::*;
use fleetscore_schemas::time::US_PER_S;
use fleetscore_store::ScheduleSpec;

fn time(text: &str) -> Timestamp {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
}

fn cron(expression: &str, zone: &str) -> Trigger {
    Trigger::Cron { expression: expression.into(), time_zone: zone.into() }
}

/// The next fires after a local time, as local times with their offset.
fn fires(expression: &str, zone: &str, after: &str, n: usize) -> Vec<String> {
    let zone_of: Tz = zone.parse().unwrap();
    let found = next_fires(&cron(expression, zone), time(after), n).unwrap();
    assert!(found.windows(2).all(|f| f[0] < f[1]), "{expression}: they ascend");
    found
        .iter()
        .map(|t| {
            let local = t.to_datetime().unwrap().with_timezone(&zone_of);
            local.format("%a %Y-%m-%d %H:%M:%S %:z").to_string()
        })
        .collect()
}

#[test]
fn fires_by_zone_and_daylight_saving() {
    const BERLIN: &str = "Europe/Berlin";
    const NEW_YORK: &str = "America/New_York";
    const LORD_HOWE: &str = "Australia/Lord_Howe";
    // name, expression, zone, after, the next fires
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str, &[&str])] = &[
        ("every quarter of an hour", "*/15 * * * *", "UTC", "2026-01-01T00:00:00Z",
            &["Thu 2026-01-01 00:15:00 +00:00", "Thu 2026-01-01 00:30:00 +00:00"]),
        ("a fire is not its own next one", "0 2 * * *", "UTC", "2026-01-01T02:00:00Z",
            &["Fri 2026-01-02 02:00:00 +00:00"]),
        ("a microsecond before it", "0 2 * * *", "UTC", "2026-01-01T01:59:59.999999Z",
            &["Thu 2026-01-01 02:00:00 +00:00"]),
        ("a microsecond after it", "0 2 * * *", "UTC", "2026-01-01T02:00:00.000001Z",
            &["Fri 2026-01-02 02:00:00 +00:00"]),
        ("seconds come first", "30 * * * * *", "UTC", "2026-01-01T00:00:00Z",
            &["Thu 2026-01-01 00:00:30 +00:00", "Thu 2026-01-01 00:01:30 +00:00"]),
        ("every second", "* * * * * *", "UTC", "2026-01-01T00:00:00.5Z",
            &["Thu 2026-01-01 00:00:01 +00:00", "Thu 2026-01-01 00:00:02 +00:00"]),
        ("a name", "@daily", BERLIN, "2026-01-01T12:00:00Z", &["Fri 2026-01-02 00:00:00 +01:00"]),
        ("names of days and months", "0 6 * jan,jul Mon-Fri", "UTC", "2026-01-30T06:00:00Z",
            &["Wed 2026-07-01 06:00:00 +00:00", "Thu 2026-07-02 06:00:00 +00:00"]),
        ("seven is Sunday too", "0 0 * * 7", "UTC", "2026-01-01T00:00:00Z", &["Sun 2026-01-04 00:00:00 +00:00"]),
        // Berlin: 2026-03-29, 02:00 → 03:00; 2026-10-25, 03:00 → 02:00.
        ("Berlin, the hour that does not exist: right behind the gap", "30 2 * * *", BERLIN, "2026-03-28T12:00:00+01:00",
            &["Sun 2026-03-29 03:00:00 +02:00", "Mon 2026-03-30 02:30:00 +02:00"]),
        ("Berlin, the hour that does not exist, in seconds", "15 30 2 * * *", BERLIN, "2026-03-28T12:00:00+01:00",
            &["Sun 2026-03-29 03:00:00 +02:00", "Mon 2026-03-30 02:30:15 +02:00"]),
        ("Berlin, the hour before the gap", "30 1 * * *", BERLIN, "2026-03-28T12:00:00+01:00",
            &["Sun 2026-03-29 01:30:00 +01:00", "Mon 2026-03-30 01:30:00 +02:00"]),
        ("Berlin, every half hour over the gap goes on in real time", "*/30 * * * *", BERLIN, "2026-03-29T01:00:00+01:00",
            &["Sun 2026-03-29 01:30:00 +01:00", "Sun 2026-03-29 03:00:00 +02:00", "Sun 2026-03-29 03:30:00 +02:00"]),
        ("Berlin, two hours of which one does not exist: that one is left out", "30 2,4 * * *", BERLIN, "2026-03-28T12:00:00+01:00",
            &["Sun 2026-03-29 04:30:00 +02:00", "Mon 2026-03-30 02:30:00 +02:00"]),
        ("Berlin, the hour that comes twice: once, the first time", "30 2 * * *", BERLIN, "2026-10-24T12:00:00+02:00",
            &["Sun 2026-10-25 02:30:00 +02:00", "Mon 2026-10-26 02:30:00 +01:00"]),
        ("Berlin, looked at between the two", "30 2 * * *", BERLIN, "2026-10-25T02:45:00+02:00",
            &["Mon 2026-10-26 02:30:00 +01:00"]),
        ("Berlin, every half hour over the hour that comes twice", "*/30 * * * *", BERLIN, "2026-10-25T01:30:00+02:00",
            &["Sun 2026-10-25 02:00:00 +02:00", "Sun 2026-10-25 02:30:00 +02:00", "Sun 2026-10-25 02:00:00 +01:00",
              "Sun 2026-10-25 02:30:00 +01:00", "Sun 2026-10-25 03:00:00 +01:00"]),
        ("Berlin, two hours of which one comes twice: both times", "30 2,4 * * *", BERLIN, "2026-10-24T12:00:00+02:00",
            &["Sun 2026-10-25 02:30:00 +02:00", "Sun 2026-10-25 02:30:00 +01:00", "Sun 2026-10-25 04:30:00 +01:00"]),
        // New York: 2026-03-08, 02:00 → 03:00; 2026-11-01, 02:00 → 01:00.
        ("New York, the hour that does not exist", "15 2 * * *", NEW_YORK, "2026-03-07T12:00:00-05:00",
            &["Sun 2026-03-08 03:00:00 -04:00", "Mon 2026-03-09 02:15:00 -04:00"]),
        ("New York, the hour that comes twice", "15 1 * * *", NEW_YORK, "2026-10-31T12:00:00-04:00",
            &["Sun 2026-11-01 01:15:00 -04:00", "Mon 2026-11-02 01:15:00 -05:00"]),
        ("New York, hourly over it", "0 * * * *", NEW_YORK, "2026-11-01T00:00:00-04:00",
            &["Sun 2026-11-01 01:00:00 -04:00", "Sun 2026-11-01 01:00:00 -05:00", "Sun 2026-11-01 02:00:00 -05:00"]),
        // Lord Howe moves by half an hour: 2026-10-04, 02:00 → 02:30; 2026-04-05, 02:00 → 01:30.
        ("Lord Howe, the half hour that does not exist", "15 2 * * *", LORD_HOWE, "2026-10-03T12:00:00+10:30",
            &["Sun 2026-10-04 02:30:00 +11:00", "Mon 2026-10-05 02:15:00 +11:00"]),
        ("Lord Howe, the half hour that comes twice", "45 1 * * *", LORD_HOWE, "2026-04-04T12:00:00+11:00",
            &["Sun 2026-04-05 01:45:00 +11:00", "Mon 2026-04-06 01:45:00 +10:30"]),
        ("Lord Howe, every quarter over it", "*/15 * * * *", LORD_HOWE, "2026-04-05T01:15:00+11:00",
            &["Sun 2026-04-05 01:30:00 +11:00", "Sun 2026-04-05 01:45:00 +11:00", "Sun 2026-04-05 01:30:00 +10:30",
              "Sun 2026-04-05 01:45:00 +10:30", "Sun 2026-04-05 02:00:00 +10:30"]),
        // Days.
        ("29 February: in leap years", "0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z",
            &["Tue 2028-02-29 00:00:00 +00:00", "Sun 2032-02-29 00:00:00 +00:00"]),
        ("29 February, over a century that has none", "0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z",
            &["Fri 2104-02-29 00:00:00 +00:00"]),
        ("the 31st: short months are left out", "0 0 31 * *", "UTC", "2026-01-31T00:00:00Z",
            &["Tue 2026-03-31 00:00:00 +00:00", "Sun 2026-05-31 00:00:00 +00:00", "Fri 2026-07-31 00:00:00 +00:00"]),
        ("the last day of each month", "0 0 L * *", "UTC", "2026-01-31T00:00:00Z",
            &["Sat 2026-02-28 00:00:00 +00:00", "Tue 2026-03-31 00:00:00 +00:00"]),
        ("the 13th or a Friday: both are restricted, either counts", "0 0 13 * FRI", "UTC", "2026-01-09T00:00:00Z",
            &["Tue 2026-01-13 00:00:00 +00:00", "Fri 2026-01-16 00:00:00 +00:00"]),
        ("the 13th, whatever day", "0 0 13 * *", "UTC", "2026-01-09T00:00:00Z",
            &["Tue 2026-01-13 00:00:00 +00:00", "Fri 2026-02-13 00:00:00 +00:00"]),
        ("Fridays", "0 0 * * FRI", "UTC", "2026-01-09T00:00:00Z", &["Fri 2026-01-16 00:00:00 +00:00"]),
        ("Friday the 13th, asked for with a plus", "0 0 13 * +FRI", "UTC", "2026-01-01T00:00:00Z",
            &["Fri 2026-02-13 00:00:00 +00:00", "Fri 2026-03-13 00:00:00 +00:00"]),
        ("the last fire of a year", "59 23 31 12 *", "UTC", "2026-12-31T23:58:59Z",
            &["Thu 2026-12-31 23:59:00 +00:00", "Fri 2027-12-31 23:59:00 +00:00"]),
        ("the last second of a year and the first of the next", "59,0 59,0 23,0 31,1 12,1 *", "UTC", "2026-12-31T23:59:30Z",
            &["Thu 2026-12-31 23:59:59 +00:00", "Fri 2027-01-01 00:00:00 +00:00"]),
    ];
    for (name, expression, zone, after, expected) in cases {
        assert_eq!(fires(expression, zone, after, expected.len()), *expected, "{name}");
        assert_eq!(check_cron(expression, zone), Ok(()), "{name}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str)] = &[
        ("a minute too high", "60 * * * *", "UTC", "the minute field `60`"),
        ("an hour too high", "0 24 * * *", "UTC", "the hour field `24`"),
        ("a day too high", "0 0 32 * *", "UTC", "the day-of-month field `32`"),
        ("a day of nothing", "0 0 0 * *", "UTC", "the day-of-month field `0`"),
        ("a month too high", "0 0 1 13 *", "UTC", "the month field `13`"),
        ("a weekday too high", "0 0 * * 8", "UTC", "the day-of-week field `8`"),
        ("a second too high", "60 0 0 * * *", "UTC", "the seconds field `60`"),
        ("a month's name as a weekday", "0 0 * * JAN", "UTC", "the day-of-week field `JAN`"),
        ("a weekday's name as a month", "0 0 * MON *", "UTC", "the month field `MON`"),
        ("a whole word", "0 0 * * Monday", "UTC", "it does not know `MONDAY`"),
        ("a range that goes backwards", "0 9-7 * * *", "UTC", "the hour field `9-7`"),
        ("a step of nothing", "*/0 * * * *", "UTC", "the minute field `*/0`"),
        ("a step from one number", "5/10 * * * *", "UTC", "the minute field `5/10`"),
        ("a comma too much", "0 1,,2 * * *", "UTC", "the hour field `1,,2`"),
        ("nothing but a comma", ", * * * *", "UTC", "the minute field `,`"),
        ("a sign of nothing", "0 0 ! * *", "UTC", "the day-of-month field `!`"),
        ("four fields", "* * * *", "UTC", "has 4 fields"),
        ("seven fields: no years", "0 0 0 1 1 * 2026", "UTC", "has 7 fields"),
        ("nothing", "  ", "UTC", "has 0 fields"),
        ("an unknown name", "@midnight", "UTC", "has 1 fields"),
        ("a day that never comes", "0 0 31 2 *", "UTC", "never fires"),
        ("another", "0 0 31 4,6,9,11 *", "UTC", "never fires"),
        ("no zone", "0 0 * * *", "", "`` is no time zone"),
        ("an unknown zone", "0 0 * * *", "Europe/Bärlin", "`Europe/Bärlin` is no time zone"),
        ("an offset", "0 0 * * *", "+01:00", "is no time zone: write the name that the IANA gives it"),
    ];
    for (name, expression, zone, said) in cases {
        let error = check_cron(expression, zone).unwrap_err();
        assert!(error.contains(said), "{name}: {error}");
        if !said.contains("never") {
            assert!(next_fires(&cron(expression, zone), time("2026-01-01T00:00:00Z"), 5).is_err(), "{name}");
        }
    }
    let never = next_fires(&cron("0 0 31 2 *", "UTC"), time("2026-01-01T00:00:00Z"), 5).unwrap();
    assert_eq!(never, []);
    for trigger in [Trigger::Interval, Trigger::Manual] {
        assert_eq!(next_fires(&trigger, time("2026-01-01T00:00:00Z"), 5).unwrap(), []);
    }
}

#[test]
fn fires_that_are_due_are_counted() {
    let (from, until) = (time("2026-01-01T00:00:00Z"), time("2026-01-01T03:00:00Z"));
    let of = |expression, until| due(expression, "UTC", from, until).unwrap();
    let hourly = Due { first: time("2026-01-01T01:00:00Z"), last: until, fires: 3 };
    assert_eq!(of("0 * * * *", until), Some(hourly), "the end counts");
    assert_eq!(of("0 * * * *", until.plus_us(1)), Some(hourly));
    assert_eq!(of("0 * * * *", until.plus_us(-1)).unwrap().fires, 2);
    assert_eq!(of("0 0 * * *", until), None, "the start does not");
    assert_eq!(of("0 * * * *", from), None);
    assert_eq!(of("0 * * * *", from.plus_us(-US_PER_S)), None, "a clock that went back");
    // An outage of years: the rest is one step.
    let years = time("2036-01-01T00:00:00Z");
    let began = std::time::Instant::now();
    let many = of("* * * * * *", years).unwrap();
    assert_eq!((many.fires, many.last), (COUNTED, years));
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

#[test]
fn intervals_by_the_clock() {
    let minute = 60 * US_PER_S;
    let readiness = ReadinessSettings { max_disorder_us: 10 * US_PER_S, owner_ttl_us: 0, max_wait_us: 0 };
    let at = |s: i64| Timestamp(1_767_225_600_000_000 + s * US_PER_S);
    let row = |w: i64, h: i64, covered: Option<i64>| ScheduleRow {
        spec: ScheduleSpec { hop_us: h * minute, ..ScheduleSpec::new("s", w * minute) },
        revision: 0,
        first_interval: covered.map(at),
        covered_until: covered.map(at),
        pause: None,
        looked_at: None,
        missed: None,
        fired_at: None,
        released_until: None,
        roster_until: None,
        created_at: at(0),
    };
    // name, window, hop (minutes), covered until, now (seconds), starts and times (seconds)
    type Next<'a> = &'a [(i64, i64)];
    #[rustfmt::skip]
    let cases: &[(&str, i64, i64, Option<i64>, i64, Next<'_>)] = &[
        ("a new schedule: the interval that ends next", 1, 1, None, 600, &[(540, 610), (600, 670), (660, 730)]),
        ("its disorder has passed: the one behind it", 1, 1, None, 610, &[(600, 670), (660, 730)]),
        ("what is dealt with is not shown", 1, 1, Some(660), 610, &[(660, 730), (720, 790)]),
        ("far behind: the past waits for data, not for the clock", 1, 1, Some(0), 610, &[(600, 670)]),
        ("windows that overlap", 4, 2, None, 600, &[(360, 610), (480, 730), (600, 850)]),
        ("windows with room between them", 1, 5, None, 600, &[(600, 670), (900, 970)]),
    ];
    for (name, w, h, covered, now, expected) in cases {
        let found = next_intervals(&row(*w, *h, *covered), &readiness, at(*now), expected.len());
        let found: Vec<_> = found
            .iter()
            .map(|(i, t)| {
                assert_eq!(i.len_us(), w * minute, "{name}");
                ((i.start.0 - at(0).0) / US_PER_S, (t.0 - at(0).0) / US_PER_S)
            })
            .collect();
        assert_eq!(found, *expected, "{name}");
    }
}
