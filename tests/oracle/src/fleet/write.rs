//! Fields as JSON text, in the many ways that senders write them.

use fastrand::Rng;
use std::io::Write;

/// A value, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    /// So many eighths.
    Eighths(i64),
    /// Any number.
    Float(f64),
}

impl Value {
    /// The number; a zero has no sign.
    pub(super) fn number(self) -> f64 {
        match self {
            Self::Eighths(n) => n as f64 / 8.0,
            Self::Float(v) => v + 0.0,
        }
    }
}

/// A whole number.
pub(super) fn integer(out: &mut Vec<u8>, n: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Two digits of a number below a hundred.
fn two(n: i64) -> [u8; 2] {
    let n = n as u8;
    [b'0' + n / 10, b'0' + n % 10]
}

/// Formatting into memory cannot fail.
fn formatted(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes every byte");
}

/// A value.
pub(super) fn value(out: &mut Vec<u8>, rng: &mut Rng, value: Value) {
    let number = value.number();
    if number == 0.0 {
        out.extend_from_slice(rng.choice(["0", "-0", "0.0", "-0.0", "0e5"]).unwrap_or("0").as_bytes());
        return;
    }
    if rng.u8(..32) == 0 {
        return formatted(out, format_args!("{number:e}"));
    }
    match value {
        Value::Eighths(n) => {
            const FRACTIONS: [&str; 8] = ["", ".125", ".25", ".375", ".5", ".625", ".75", ".875"];
            if n < 0 {
                out.push(b'-');
            }
            integer(out, n.abs() / 8);
            out.extend_from_slice(FRACTIONS[(n.abs() % 8) as usize].as_bytes());
        }
        Value::Float(v) => formatted(out, format_args!("{v}")),
    }
}

/// A string, at times with escapes that need not be.
pub(super) fn string(out: &mut Vec<u8>, rng: &mut Rng, text: &str) {
    out.push(b'"');
    let escapes = rng.u8(..64);
    if escapes >= 8 && text.bytes().all(|c| c != b'"' && c != b'\\') {
        out.extend_from_slice(text.as_bytes());
    } else {
        for c in text.chars() {
            match c {
                '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                '/' if escapes < 4 => out.extend_from_slice(b"\\/"),
                _ if escapes == 0 || (escapes < 8 && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        if escapes & 1 == 0 {
                            formatted(out, format_args!("\\u{unit:04x}"));
                        } else {
                            formatted(out, format_args!("\\u{unit:04X}"));
                        }
                    }
                }
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    out.push(b'"');
}

/// A device or a sensor: a name that is an integer may be written as one.
pub(super) fn name(out: &mut Vec<u8>, rng: &mut Rng, name: &str) {
    let digits = name.strip_prefix('-').unwrap_or(name);
    if digits.bytes().all(|c| c.is_ascii_digit()) && !digits.starts_with('0') && rng.bool() {
        out.extend_from_slice(name.as_bytes());
    } else {
        string(out, rng, name);
    }
}

/// Year, month and day of so many days since the epoch.
fn date(days: i64) -> (i64, i64, i64) {
    // Years are counted from March, so that the leap day is the last one of its year. 719468 days lie between
    // 0000-03-01 and the epoch; a day later than 2000-02-29 belongs to a year of its own.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// `YYYY-MM-DDTHH:MM:SS` of a UTC time, with this between date and time of day.
fn clock(out: &mut Vec<u8>, ms: i64, between: u8) {
    let (year, month, day) = date(ms.div_euclid(86_400_000));
    let second = ms.rem_euclid(86_400_000) / 1000;
    let mut text = *b"yyyy-mm-ddThh:mm:ss";
    let parts = [year / 100, year % 100, month, day, second / 3600, second / 60 % 60, second % 60];
    for (n, at) in parts.into_iter().zip([0, 2, 5, 8, 11, 14, 17]) {
        text[at..at + 2].copy_from_slice(&two(n));
    }
    text[10] = between;
    out.extend_from_slice(&text);
}

/// `.mmm`
fn fraction(out: &mut Vec<u8>, ms: i64) {
    let [tens, ones] = two(ms % 100);
    out.extend_from_slice(&[b'.', b'0' + (ms / 100) as u8, tens, ones]);
}

/// `YYYY-MM-DDTHH:MM:SS.mmm`, without quotes and zone.
pub(super) fn plain_time(out: &mut Vec<u8>, ms: i64) {
    clock(out, ms, b'T');
    fraction(out, ms.rem_euclid(1000));
}

/// A time in whole milliseconds since the epoch.
pub(super) fn time(out: &mut Vec<u8>, rng: &mut Rng, ms: i64) {
    let style = rng.u8(..16);
    if style < 2 {
        integer(out, ms);
        if style == 1 && rng.bool() {
            out.extend_from_slice(rng.choice([".0", ".000", "e0", "E+00"]).unwrap_or_default().as_bytes());
        }
        return;
    }
    out.push(b'"');
    let offset =
        if style == 2 { *rng.choice(&[0, 60, 120, -300, 330, -570, 845, -1439]).unwrap_or(&0) } else { 0 };
    let between = match style {
        3 => b' ',
        4 => b't',
        _ => b'T',
    };
    clock(out, ms + offset * 60_000, between);
    let below = ms.rem_euclid(1000);
    if below != 0 || style < 8 {
        fraction(out, below);
        // What is below a microsecond is cut off.
        let more = match style {
            5 => "000",
            6 => "0009",
            7 => "000000999999999999",
            _ => "",
        };
        out.extend_from_slice(more.as_bytes());
    }
    if style == 2 {
        out.push(if offset < 0 || (offset == 0 && rng.bool()) { b'-' } else { b'+' });
        out.extend_from_slice(&two(i64::abs(offset) / 60));
        out.push(b':');
        out.extend_from_slice(&two(i64::abs(offset) % 60));
    } else {
        out.push(if style == 4 { b'z' } else { b'Z' });
    }
    out.push(b'"');
}

/// The key of a field, at times with an escape.
fn key(out: &mut Vec<u8>, rng: &mut Rng, name: &str) {
    if rng.u8(..128) == 0 {
        return formatted(out, format_args!("\"\\u{:04x}{}\"", name.as_bytes()[0], &name[1..]));
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
}

/// An object of these members, in this order or another, at times with fields that mean nothing and white space.
pub(super) fn object(out: &mut Vec<u8>, rng: &mut Rng, members: &mut [(&str, &[u8])]) {
    let odd = rng.u8(..8) == 0;
    if odd {
        let by = rng.usize(..members.len());
        members.rotate_left(by);
    }
    let white: &[u8] = if odd && rng.bool() { b" " } else { b"" };
    out.push(b'{');
    for (k, (name, text)) in members.iter().enumerate() {
        if k > 0 {
            out.push(b',');
            out.extend_from_slice(white);
        }
        key(out, rng, name);
        out.push(b':');
        out.extend_from_slice(white);
        out.extend_from_slice(text);
    }
    // White space is of one line: records are elements and lines, too.
    if odd {
        const UNKNOWN: [&str; 4] =
            [r#","unit":"K""#, r#", "x":{"value":[null,1e-7],"ts":{}}"#, r#","":true"#, r#","Device":0"#];
        for more in UNKNOWN {
            if rng.u8(..3) == 0 {
                out.extend_from_slice(more.as_bytes());
            }
        }
    }
    out.extend_from_slice(white);
    out.push(b'}');
}

/// A narrow record.
pub(super) fn narrow(out: &mut Vec<u8>, rng: &mut Rng, device: &str, sensor: &str, ts_ms: i64, v: Value) {
    if rng.u8(..8) > 0 {
        // As most senders write it, at once.
        out.extend_from_slice(b"{\"device\":");
        name(out, rng, device);
        out.extend_from_slice(b",\"sensor\":");
        name(out, rng, sensor);
        out.extend_from_slice(b",\"ts\":");
        time(out, rng, ts_ms);
        out.extend_from_slice(b",\"value\":");
        value(out, rng, v);
        return out.push(b'}');
    }
    let mut texts = [const { Vec::new() }; 4];
    name(&mut texts[0], rng, device);
    name(&mut texts[1], rng, sensor);
    time(&mut texts[2], rng, ts_ms);
    value(&mut texts[3], rng, v);
    let [device, sensor, ts, v] = &texts;
    object(out, rng, &mut [("device", device), ("sensor", sensor), ("ts", ts), ("value", v)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_chrono_in_every_style() {
        let mut rng = Rng::with_seed(1);
        for k in 0..20_000i64 {
            let ms = rng.i64(946_684_800_000..4_102_444_800_000) / if k % 2 == 0 { 1 } else { 1000 }
                * if k % 2 == 0 { 1 } else { 1000 };
            let mut out = Vec::new();
            time(&mut out, &mut rng, ms);
            let text = String::from_utf8(out).unwrap();
            let read = match text.strip_prefix('"') {
                None => text.parse::<f64>().unwrap() as i64,
                Some(rest) => {
                    let rest = rest.trim_end_matches('"');
                    let (seconds, fraction) = rest.split_at(19);
                    let zone = fraction.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
                    let kept: String =
                        fraction.chars().take(4).take_while(|c| *c == '.' || c.is_ascii_digit()).collect();
                    let text = format!("{}{kept}{zone}", seconds.replace(' ', "T"));
                    chrono::DateTime::parse_from_rfc3339(&text).unwrap().timestamp_millis()
                }
            };
            assert_eq!(read, ms, "{text}");
        }
    }

    #[test]
    fn numbers_and_strings_are_those_of_serde_json() {
        let mut rng = Rng::with_seed(2);
        for _ in 0..20_000 {
            let v = match rng.u8(..3) {
                0 => Value::Eighths(rng.i64(-100_000..100_000)),
                1 => Value::Eighths(rng.i64(-2..3)),
                _ => Value::Float((rng.f64() - 0.5) * 10f64.powi(rng.i32(-30..30))),
            };
            let mut out = Vec::new();
            value(&mut out, &mut rng, v);
            let read: f64 = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, v.number(), "{}", String::from_utf8_lossy(&out));
            for text in ["d-1", "gerät/ü", "a \"b\" \\c", "😀 泵"] {
                out.clear();
                string(&mut out, &mut rng, text);
                assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            }
        }
    }
}
