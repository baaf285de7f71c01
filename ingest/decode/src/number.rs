//! Numbers of JSON: scanned once, then read as a value (correctly rounded) or as a time (exactly).

use crate::scan::{Broken, byte, digits, eight_digits};

/// The greatest magnitude of a value.
const MAX_VALUE: f64 = 1e100;

/// Powers of ten that an `f64` holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// A number as it stands in the message: `±mantissa · 10^exponent`, unless `long`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    /// First byte in the message.
    pub(crate) start: u32,
    /// One past the last byte in the message.
    pub(crate) end: u32,
    mantissa: u64,
    exponent: i32,
    negative: bool,
    /// More significant digits than `mantissa` holds.
    long: bool,
    /// Without fraction and exponent.
    pub(crate) integer: bool,
}

impl Number {
    /// Scans the number that begins at `i` with a digit or a minus.
    #[inline]
    pub(crate) fn scan(b: &[u8], start: usize) -> Result<Self, Broken> {
        let negative = byte(b, start) == b'-';
        let mut i = start + usize::from(negative);
        let mut mantissa: u64 = 0;
        let first = i;
        // A run of digits; wraps where it is longer than 19 digits, which `long` then says.
        let digits = |mantissa: &mut u64, mut i: usize| {
            loop {
                let digit = byte(b, i).wrapping_sub(b'0');
                if digit > 9 {
                    return i;
                }
                *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
                i += 1;
            }
        };
        if byte(b, i) == b'0' {
            i += 1; // nothing may follow a leading zero but a fraction or an exponent
        } else {
            i = digits(&mut mantissa, i);
            if i == first {
                return Err(Broken { at: i, expected: "a digit" });
            }
        }
        let mut significant = i - first;
        let mut exponent: i32 = 0;
        let mut integer = true;
        if byte(b, i) == b'.' {
            let fraction = i + 1;
            i = digits(&mut mantissa, fraction);
            if i == fraction {
                return Err(Broken { at: i, expected: "a digit" });
            }
            integer = false;
            significant += i - fraction;
            exponent = -i32::try_from(i - fraction).unwrap_or(i32::MAX);
        }
        if matches!(byte(b, i), b'e' | b'E') {
            integer = false;
            let (written, end) = scan_exponent(b, i + 1)?;
            exponent = exponent.saturating_add(written);
            i = end;
        }
        // 19 digits always fit; leading zeros counted as digits only send a number to the slower path.
        let long = significant > 19;
        Ok(Self { start: start as u32, end: i as u32, mantissa, exponent, negative, long, integer })
    }

    /// The value of a number of up to seven digits before and behind the point, and the index behind it; `None` for any
    /// other, and near the end of the bytes. What follows it is not looked at, unless it belongs to it.
    #[inline(always)]
    pub(crate) fn quick(b: &[u8], start: usize) -> Option<(f64, usize)> {
        // The digits moved to the high places: zeros come before them.
        let read = |(x, count): (u64, u32)| eight_digits(x << (64 - 8 * count)) as f64;
        let negative = byte(b, start) == b'-';
        let first = start + usize::from(negative);
        let whole = digits(b, first)?;
        if whole.1 > 1 && whole.0 & 0xff == 0 {
            return None;
        }
        let mut end = first + whole.1 as usize;
        let mut value = read(whole);
        if byte(b, end) == b'.' {
            let fraction = digits(b, end + 1)?;
            let power = EXACT_POWERS[fraction.1 as usize];
            // At most fourteen digits: all but the division is exact, see [`Self::value`].
            value = (value * power + read(fraction)) / power;
            end += 1 + fraction.1 as usize;
        }
        if matches!(byte(b, end), b'e' | b'E') {
            return None;
        }
        // Adding zero turns −0 into 0.
        Some(((if negative { -value } else { value }) + 0.0, end))
    }

    /// Its text.
    pub(crate) fn text<'b>(&self, b: &'b [u8]) -> &'b [u8] {
        &b[self.start as usize..self.end as usize]
    }

    /// The nearest `f64` (ties to even), with −0 as 0; `None` beyond the greatest magnitude of a value.
    #[inline]
    pub(crate) fn value(&self, b: &[u8]) -> Option<f64> {
        // Clinger 1990: mantissa and power of ten are exact, so one operation rounds once.
        let v = if !self.long && self.mantissa <= 1 << 53 && self.exponent.unsigned_abs() <= 22 {
            let (m, power) = (self.mantissa as f64, EXACT_POWERS[self.exponent.unsigned_abs() as usize]);
            let v = if self.exponent < 0 { m / power } else { m * power };
            if self.negative { -v } else { v }
        } else {
            std::str::from_utf8(self.text(b)).ok()?.parse::<f64>().ok()?
        };
        // Adding zero turns −0 into 0 and nothing else into anything else.
        (v.abs() <= MAX_VALUE).then_some(v + 0.0)
    }

    /// `floor(number · 10^scale)`, exactly; saturates at the ends of `i64`.
    #[inline]
    pub(crate) fn scaled_floor(&self, b: &[u8], scale: i32) -> i64 {
        let shift = self.exponent.saturating_add(scale);
        let (whole, rest) = if self.long {
            scaled_digits(self.text(b), shift)
        } else if shift >= 0 {
            (scale_up(self.mantissa, shift), false)
        } else {
            match 10u64.checked_pow(shift.unsigned_abs()) {
                Some(divisor) => (self.mantissa / divisor, !self.mantissa.is_multiple_of(divisor)),
                None => (0, self.mantissa != 0),
            }
        };
        let whole = i64::try_from(whole).unwrap_or(i64::MAX);
        if self.negative { -whole - i64::from(rest && whole < i64::MAX) } else { whole }
    }
}

/// The digits of an exponent and their sign; saturates far beyond what changes any result.
#[cold]
fn scan_exponent(b: &[u8], mut i: usize) -> Result<(i32, usize), Broken> {
    let negative = byte(b, i) == b'-';
    i += usize::from(matches!(byte(b, i), b'+' | b'-'));
    let first = i;
    let mut exponent: i32 = 0;
    while byte(b, i).is_ascii_digit() {
        exponent = exponent.saturating_mul(10).saturating_add(i32::from(b[i] - b'0'));
        i += 1;
    }
    if i == first {
        return Err(Broken { at: i, expected: "a digit" });
    }
    Ok((if negative { -exponent } else { exponent }, i))
}

/// `m · 10^shift`, saturating.
fn scale_up(m: u64, shift: i32) -> u64 {
    if m == 0 {
        return 0;
    }
    10u64.checked_pow(shift.unsigned_abs()).and_then(|power| m.checked_mul(power)).unwrap_or(u64::MAX)
}

/// Whole part of `0.ddd… · 10^(number of digits + shift)` for the digits of a number's text, and whether anything of it
/// was cut off.
#[cold]
fn scaled_digits(text: &[u8], shift: i32) -> (u64, bool) {
    let mantissa = text.split(|c| matches!(c, b'e' | b'E')).next().unwrap_or_default();
    let digits = || mantissa.iter().filter(|c| c.is_ascii_digit()).map(|c| u64::from(c - b'0'));
    let whole_digits = i64::try_from(digits().count()).unwrap_or(i64::MAX).saturating_add(i64::from(shift));
    let whole_digits = usize::try_from(whole_digits).unwrap_or(0);
    let whole = digits().take(whole_digits).fold(0u64, |whole, d| whole.saturating_mul(10).saturating_add(d));
    let rest = digits().skip(whole_digits).any(|d| d != 0);
    (scale_up(whole, i32::try_from(whole_digits.saturating_sub(digits().count())).unwrap_or(i32::MAX)), rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(text: &str) -> Number {
        let number = Number::scan(text.as_bytes(), 0).expect(text);
        assert_eq!(number.end as usize, text.len(), "{text}");
        number
    }

    fn value(text: &str) -> Option<f64> {
        scan(text).value(text.as_bytes())
    }

    #[test]
    fn values_are_bounded_and_zero_has_no_sign() {
        for (text, expected) in [
            ("0", Some(0.0)),
            ("-0", Some(0.0)),
            ("-0.000", Some(0.0)),
            ("-1e-999999999999", Some(0.0)),
            ("1e100", Some(1e100)),
            ("-1e100", Some(-1e100)),
            ("1.0000000000000001e100", Some(1e100)),
            ("1.000000000000001e100", None),
            ("1e101", None),
            ("1e999999999999", None),
            ("9007199254740993", Some(9007199254740992.0)),
            ("0.1", Some(0.1)),
            ("123456789012345678901234567890", Some(1.2345678901234568e29)),
            ("0.00000000000000000000001", Some(1e-23)),
            ("5e-324", Some(5e-324)),
            ("10.16", Some(10.16)),
        ] {
            let v = value(text);
            assert_eq!(v, expected, "{text}");
            assert!(v.is_none_or(|v| v != 0.0 || v.is_sign_positive()), "{text}");
        }
    }

    #[test]
    fn times_are_floored_exactly() {
        for (text, scale, expected) in [
            ("1535497205000", 3, 1_535_497_205_000_000),
            ("1535497205.0000005", 6, 1_535_497_205_000_000),
            ("1535497205.0000015", 6, 1_535_497_205_000_001),
            ("-1.0000001", 6, -1_000_001),
            ("-1.000000", 6, -1_000_000),
            ("-1", -3, -1),
            ("1", -3, 0),
            ("0", -3, 0),
            ("-0.0", -3, 0),
            ("1535497205123456789", -3, 1_535_497_205_123_456),
            ("1535497205123456999", -3, 1_535_497_205_123_456),
            ("15354972051234569990000000000000", -16, 1_535_497_205_123_456),
            ("1.535497205123456789012345678901e18", -3, 1_535_497_205_123_456),
            ("-1.535497205123456789012345678901e18", -3, -1_535_497_205_123_457),
            ("1e30", 6, i64::MAX),
            ("-1e30", 6, -i64::MAX),
            ("9223372036854775807", 0, i64::MAX),
            ("18446744073709551616", 0, i64::MAX),
            ("0.00000000000000000000000000001e40", 0, 100_000_000_000),
            ("1e-2000000000000", 6, 0),
            ("-1e-2000000000000", 6, -1),
            ("1e2000000000000", 6, i64::MAX),
        ] {
            assert_eq!(scan(text).scaled_floor(text.as_bytes(), scale), expected, "{text} · 10^{scale}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["-", "-a", "1.", "1.e3", "1e", "1e+", "-.5"] {
            assert!(Number::scan(text.as_bytes(), 0).is_err(), "{text}");
        }
        assert_eq!(Number::scan(b"01", 0).expect("the zero").end, 1, "what follows is left to the caller");
    }

    proptest! {
        #[test]
        fn any_number_is_rounded_as_the_standard_library_does(
            v in prop_oneof![any::<f64>(), -1e6..1e6, (-1e9..1e9).prop_map(|v: f64| v.round() / 1e3)],
            form in 0..3,
        ) {
            prop_assume!(v.is_finite());
            let text = match form { 0 => format!("{v}"), 1 => format!("{v:e}"), _ => format!("{v:.6}") };
            let parsed: f64 = text.parse().unwrap();
            prop_assert_eq!(value(&text), (parsed.abs() <= 1e100).then_some(parsed + 0.0));
        }

        #[test]
        fn decimal_text_is_rounded_as_the_standard_library_does(
            text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?",
        ) {
            let parsed: f64 = text.parse().unwrap();
            prop_assert_eq!(value(&text), (parsed.abs() <= 1e100).then_some(parsed + 0.0));
        }

        #[test]
        fn whole_units_are_exact(n in any::<i64>(), scale in prop_oneof![Just(6), Just(3), Just(0), Just(-3)]) {
            let text = n.to_string();
            let exact = if scale >= 0 {
                i128::from(n) * 10i128.pow(scale as u32)
            } else {
                i128::from(n).div_euclid(10i128.pow((-scale) as u32))
            };
            let expected = exact.clamp(-i128::from(i64::MAX), i128::from(i64::MAX)) as i64;
            prop_assert_eq!(scan(&text).scaled_floor(text.as_bytes(), scale), expected);
        }
    }
}
