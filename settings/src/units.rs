//! Durations, sizes and times as people write them.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use fleetscore_schemas::time::{Timestamp, US_PER_S};

/// The longest duration, a century: some of them added to a time, or to each other, stay far inside an `i64`.
pub const LONGEST_US: i64 = 36_525 * 86_400 * US_PER_S;

/// `30s`, `5m`, `1h`, `7d`, also put together (`1h 30m`); in microseconds, at most 36525 days.
pub fn duration_us(text: &str) -> Result<i64, String> {
    let d = humantime::parse_duration(text.trim())
        .map_err(|_| format!("`{text}` is not a duration such as `30s`, `5m`, `1h` or `7d`"))?;
    match i64::try_from(d.as_micros()) {
        Ok(us) if us <= LONGEST_US => Ok(us),
        _ => Err(format!("`{text}` is too long: at most {}", show_duration(LONGEST_US))),
    }
}

/// As [`duration_us`], or `off`.
pub fn duration_or_off(text: &str) -> Result<Option<i64>, String> {
    if text.trim() == "off" {
        return Ok(None);
    }
    duration_us(text).map(Some).map_err(|e| format!("{e}, or `off`"))
}

/// The shortest text that [`duration_us`] reads back as the same.
pub fn show_duration(us: i64) -> String {
    const UNITS: [(&str, i64); 6] = [
        ("d", 86_400 * US_PER_S),
        ("h", 3_600 * US_PER_S),
        ("m", 60 * US_PER_S),
        ("s", US_PER_S),
        ("ms", 1_000),
        ("us", 1),
    ];
    if us == 0 {
        return "0s".to_owned();
    }
    // The largest unit it is a whole number of; every length is a whole number of microseconds.
    let (unit, len) = UNITS.into_iter().find(|(_, len)| us % len == 0).unwrap_or(("us", 1));
    format!("{}{unit}", us / len)
}

/// `256MiB`, `64 MB`, `1048576`; in bytes.
pub fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is not a size such as `256MiB`, `64MB` or `1048576`");
    let t = text.trim();
    let digits = t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
    let n: usize = t[..digits].parse().map_err(|_| wrong())?;
    let unit: usize = match t[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        _ => return Err(wrong()),
    };
    n.checked_mul(unit).ok_or_else(wrong)
}

/// A size in the largest binary unit it is a whole number of.
pub fn show_bytes(n: usize) -> String {
    match n {
        0 => "0".to_owned(),
        n if n % (1 << 30) == 0 => format!("{}GiB", n >> 30),
        n if n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
        n if n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
        n => n.to_string(),
    }
}

/// RFC 3339 or a date (midnight UTC).
pub fn time(text: &str) -> Result<Timestamp, String> {
    let t = text.trim();
    if let Ok(t) = DateTime::parse_from_rfc3339(t) {
        return Ok(t.with_timezone(&Utc).into());
    }
    NaiveDate::parse_from_str(t, "%Y-%m-%d")
        .ok()
        .and_then(|d| d.and_hms_opt(0, 0, 0))
        .map(|d| d.and_utc().into())
        .ok_or_else(|| format!("`{text}` is not a time such as `2026-01-01T00:00:00Z` or `2026-01-01`"))
}

/// As [`time`]; a time of day without a zone is UTC (files of the world outside).
pub fn time_utc(text: &str) -> Result<Timestamp, String> {
    let t = text.trim();
    for format in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"] {
        if let Ok(t) = NaiveDateTime::parse_from_str(t, format) {
            return Ok(t.and_utc().into());
        }
    }
    time(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, us, shown) in [
            ("30s", 30 * US_PER_S, "30s"),
            ("5m", 300 * US_PER_S, "5m"),
            ("1h", 3600 * US_PER_S, "1h"),
            ("7d", 7 * 86_400 * US_PER_S, "7d"),
            ("90s", 90 * US_PER_S, "90s"),
            ("1h 30m", 5400 * US_PER_S, "90m"),
            ("1500ms", 1_500_000, "1500ms"),
            ("0s", 0, "0s"),
        ] {
            assert_eq!(duration_us(text), Ok(us), "{text}");
            assert_eq!(show_duration(us), shown);
            assert_eq!(duration_us(shown), Ok(us), "{shown} reads back");
        }
        for text in ["", "ten", "10", "-5s", "5 parsecs", "off"] {
            assert!(duration_us(text).is_err(), "{text}");
        }
        for text in ["36526d", "9223372036854775us", "300000y"] {
            assert!(duration_us(text).unwrap_err().ends_with("is too long: at most 36525d"), "{text}");
        }
        assert_eq!(duration_or_off("off"), Ok(None));
        assert_eq!(duration_or_off("1d"), Ok(Some(86_400 * US_PER_S)));
    }

    #[test]
    fn sizes() {
        for (text, n, shown) in [
            ("256MiB", 256 << 20, "256MiB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("64 MB", 64_000_000, "62500KiB"),
            ("512", 512, "512"),
            ("8k", 8192, "8KiB"),
        ] {
            assert_eq!(bytes(text), Ok(n), "{text}");
            assert_eq!(show_bytes(n), shown);
        }
        for text in ["", "MiB", "1.5GiB", "-1", "10 XB", "99999999999999999999"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        let t = Timestamp(1_535_497_205_000_000);
        assert_eq!(time("2018-08-28T23:00:05Z"), Ok(t));
        assert_eq!(time("2018-08-29T01:00:05+02:00"), Ok(t));
        assert_eq!(time("1970-01-02"), Ok(Timestamp(86_400 * US_PER_S)));
        assert!(time("2018-08-28 23:00:05").is_err(), "a time of day needs a zone");
        for text in
            ["2018-08-28 23:00:05", "2018-08-28 23:00:05.000", "2018-08-28T23:00:05", "2018-08-28T23:00:05Z"]
        {
            assert_eq!(time_utc(text), Ok(t), "{text}");
        }
        assert!(time_utc("yesterday").is_err());
    }
}
