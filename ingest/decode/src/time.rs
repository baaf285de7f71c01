//! RFC 3339 to microseconds.

use crate::scan::{chunk, digits, eight_digits, word};

const US_PER_DAY: i64 = 86_400_000_000;

/// Remembers the last date: successive readings mostly share it.
#[derive(Debug, Default)]
pub(crate) struct Dates {
    /// Its ten characters as two words; all zeros at first, which is no date.
    text: (u64, u16),
    /// Days since the epoch.
    days: i64,
}

impl Dates {
    /// Microseconds since the epoch of an RFC 3339 time with a zone, floored; or what is wrong with it.
    #[inline]
    pub(crate) fn parse(&mut self, b: &[u8]) -> Result<i64, &'static str> {
        if b.len() < 20 {
            return Err("not an RFC 3339 time with a zone");
        }
        let days = self.date(b)?;
        if !matches!(b[10], b'T' | b't' | b' ') {
            return Err("no `T` or space behind the date");
        }
        let clock = clock_us(b)?;
        let (fraction, i) = fraction_us(b, 19)?;
        let offset = offset_us(&b[i..])?;
        Ok(days * US_PER_DAY + clock + fraction - offset)
    }

    /// The same of a time that is the beginning of these bytes and is written the usual way: in UTC with a `Z`, or with
    /// `+00:00` behind a fraction, of up to seven digits; and the index behind it. `None` of any other, and near the end of the bytes.
    #[inline(always)]
    pub(crate) fn quick(&mut self, b: &[u8], i: usize) -> Option<(i64, usize)> {
        let text = chunk::<28>(b, i)?;
        if text[10] != b'T' {
            return None;
        }
        let us = self.date(text).ok()? * US_PER_DAY + clock_us(text).ok()?;
        if text[19] == b'Z' {
            return Some((us, i + 20));
        }
        if text[19] != b'.' {
            return None;
        }
        let (fraction, count) = digits(text, 20)?;
        let zone = 20 + count as usize;
        let end = match text[zone] {
            b'Z' => i + zone + 1,
            b'+' if chunk(b, i + zone) == Some(b"+00:00") => i + zone + 6,
            _ => return None,
        };
        // Zeros come behind the digits; there are eight of both.
        let digits_alone = fraction & ((1 << (8 * count)) - 1);
        Some((us + (eight_digits(digits_alone) / 100) as i64, end))
    }

    #[inline(always)]
    fn date(&mut self, b: &[u8]) -> Result<i64, &'static str> {
        let text = (word(b, 0).unwrap_or(0), u16::from_le_bytes([b[8], b[9]]));
        if text != self.text {
            self.days = date_days(b).ok_or("no such date")?;
            self.text = text;
        }
        Ok(self.days)
    }
}

/// Two digits at `i`; more than 99 if they are none.
fn two(b: &[u8], i: usize) -> i64 {
    let (tens, ones) = (b[i].wrapping_sub(b'0'), b[i + 1].wrapping_sub(b'0'));
    if tens > 9 || ones > 9 { i64::from(u8::MAX) } else { i64::from(tens) * 10 + i64::from(ones) }
}

/// Days since the epoch of `YYYY-MM-DD` in the proleptic Gregorian calendar.
#[cold]
fn date_days(b: &[u8]) -> Option<i64> {
    let (century, year, month, day) = (two(b, 0), two(b, 2), two(b, 5), two(b, 8));
    if century > 99 || year > 99 || b[4] != b'-' || b[7] != b'-' || !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    let year = century * 100 + year;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let in_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day > in_month {
        return None;
    }
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    let y = year - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// `HH:MM:SS` at 11, in microseconds.
#[inline(always)]
fn clock_us(b: &[u8]) -> Result<i64, &'static str> {
    const ZEROS: u64 = u64::from_le_bytes(*b"00:00:00");
    const COLONS: u64 = 0x0000_ff00_00ff_0000;
    let x = word(b, 11).ok_or("no time of day")? ^ ZEROS;
    // Digits have become 0..=9: none reaches 16 when 6 is added, and the colons have become 0.
    let wrong = (x | x.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0 | x & COLONS;
    let at = |i: u32| ((x >> (8 * i)) & 0xff) as i64;
    let (hour, minute, second) = (at(0) * 10 + at(1), at(3) * 10 + at(4), at(6) * 10 + at(7));
    if wrong != 0 || hour > 23 || minute > 59 || second > 59 {
        let leap = wrong == 0 && second == 60;
        return Err(if leap { "leap seconds are not supported" } else { "no such time of day" });
    }
    Ok(((hour * 60 + minute) * 60 + second) * 1_000_000)
}

/// A fraction of a second at `i`, floored to microseconds, and the index behind it.
#[inline(always)]
fn fraction_us(b: &[u8], mut i: usize) -> Result<(i64, usize), &'static str> {
    if b[i] != b'.' {
        return Ok((0, i));
    }
    i += 1;
    let first = i;
    let (mut us, mut scale) = (0, 100_000);
    while i < b.len() && b[i].is_ascii_digit() {
        us += i64::from(b[i] - b'0') * scale;
        scale /= 10; // 0 behind the sixth digit
        i += 1;
    }
    if i == first { Err("no digit behind the decimal point") } else { Ok((us, i)) }
}

/// The zone, as microseconds east of UTC.
#[inline(always)]
fn offset_us(zone: &[u8]) -> Result<i64, &'static str> {
    match zone {
        [b'Z' | b'z'] => Ok(0),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (two(zone, 1), two(zone, 4));
            if hours > 23 || minutes > 59 {
                return Err("no such zone");
            }
            let us = (hours * 60 + minutes) * 60_000_000;
            Ok(if *sign == b'-' { -us } else { us })
        }
        [] => Err("no zone: `Z` or an offset such as `+02:00` is needed"),
        _ => Err("no such zone: `Z` or an offset such as `+02:00` is needed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<i64, &'static str> {
        Dates::default().parse(text.as_bytes())
    }

    #[test]
    fn a_table_of_times() {
        for (text, us) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("2018-08-28T23:00:05Z", 1_535_497_205_000_000),
            ("2018-08-28t23:00:05z", 1_535_497_205_000_000),
            ("2018-08-28 23:00:05.000Z", 1_535_497_205_000_000),
            ("2018-08-29T01:00:05+02:00", 1_535_497_205_000_000),
            ("2018-08-28T17:30:05.5-05:30", 1_535_497_205_500_000),
            ("2018-08-28T23:00:05-00:00", 1_535_497_205_000_000),
            ("2018-08-28T23:00:05.0000009Z", 1_535_497_205_000_000),
            ("2018-08-28T23:00:05.1234569999999999999999Z", 1_535_497_205_123_456),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
        ] {
            assert_eq!(parse(text), Ok(us), "{text}");
        }
        for text in [
            "",
            "2018-08-28",
            "2018-08-28T23:00:05",
            "2018-08-28T23:00:05.000",
            "2018-08-28T23:00:05.000000000000",
            "2018-08-28T23:00Z",
            "2018-08-28T23:00:05.Z",
            "2018-08-28T23:00:05,5Z",
            "2018-08-28T24:00:00Z",
            "2018-08-28T23:60:00Z",
            "2016-12-31T23:59:60Z",
            "2018-08-28T23:00:05+0200",
            "2018-08-28T23:00:05+02",
            "2018-08-28T23:00:05+24:00",
            "2018-08-28T23:00:05+02:60",
            "2018-08-28T23:00:05 Z",
            "2018-08-28T23:00:05ZZ",
            "2018-08-28T23:00:05Zebra",
            "2018-08-28  23:00:05Z",
            "2018-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2018-13-01T00:00:00Z",
            "2018-00-01T00:00:00Z",
            "2018-01-00T00:00:00Z",
            "2018-04-31T00:00:00Z",
            "2018/08/28T23:00:05Z",
            "18-08-28T23:00:05.000Z",
            "+2018-08-28T23:00:05Z",
            "2018-08-28T23.00.05ZZ",
            "2018-08-28T2a:00:05Z",
            "2018-08-28T23:00:0:Z",
            "1535497205000000000000",
            "20é8-08-28T23:00:05Z",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_remembered_date_does_not_leak() {
        let mut dates = Dates::default();
        for (text, us) in [
            ("2018-08-28T00:00:00Z", Ok(1_535_414_400_000_000)),
            ("2018-08-28T00:00:01Z", Ok(1_535_414_401_000_000)),
            ("2018-08-38T00:00:00Z", Err("no such date")),
            ("2018-08-28T00:00:00Z", Ok(1_535_414_400_000_000)),
            ("2018-08-29T00:00:00Z", Ok(1_535_500_800_000_000)),
        ] {
            assert_eq!(dates.parse(text.as_bytes()), us, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_chrono(
            year in 0u32..=9999, month in 0u32..=13, day in 0u32..=32, hour in 0u32..=24, minute in 0u32..=60,
            second in 0u32..=59, fraction in "(\\.[0-9]{1,9})?", zone in "Z|z|[+-][0-2][0-9]:[0-5][0-9]",
        ) {
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}");
            let theirs = chrono::DateTime::parse_from_rfc3339(&text).ok().map(|t| t.timestamp_micros());
            prop_assert_eq!(parse(&text).ok(), theirs, "{}", text);
        }

        #[test]
        fn any_text_is_survived(text in ".{0,40}", digits in "[-0-9T:.Z+ ]{15,30}") {
            let _ = parse(&text);
            let _ = parse(&digits);
        }
    }
}
