//! Records that a decoder must refuse, each with the code it must refuse it by.

use super::write::{self, Value};
use fastrand::Rng;

/// A good record's fields as JSON, to spoil.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    device: String,
    sensor: String,
    ts: String,
    value: String,
}

impl Fields {
    /// Those of a good record.
    pub(super) fn new(rng: &mut Rng, device: &str, sensor: &str, ts_ms: i64, value: Value) -> Self {
        let text = |write: &dyn Fn(&mut Vec<u8>, &mut Rng), rng: &mut Rng| {
            let mut out = Vec::new();
            write(&mut out, rng);
            String::from_utf8(out).expect("JSON is text")
        };
        Self {
            device: text(&|out, rng| write::name(out, rng, device), rng),
            sensor: text(&|out, rng| write::name(out, rng, sensor), rng),
            ts: text(&|out, rng| write::time(out, rng, ts_ms), rng),
            value: text(&|out, rng| write::value(out, rng, value), rng),
        }
    }

    fn narrow(&self) -> String {
        let Self { device, sensor, ts, value } = self;
        format!(r#"{{"device":{device},"sensor":{sensor},"ts":{ts},"value":{value}}}"#)
    }

    fn and(&self, more: &str) -> String {
        let narrow = self.narrow();
        format!("{},{more}}}", &narrow[..narrow.len() - 1])
    }

    fn wide(&self, values: &str) -> String {
        format!(r#"{{"device":{},"ts":{},"values":{values}}}"#, self.device, self.ts)
    }

    fn with(&self, set: impl FnOnce(&mut Self)) -> String {
        let mut fields = self.clone();
        set(&mut fields);
        fields.narrow()
    }
}

/// What stands as a value and is none.
const NO_VALUES: [&str; 16] = [
    "\"21.5\"",
    "\"\"",
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "[1]",
    "1e101",
    "-1e200",
    "1e999",
    "NaN",
    "-nan",
    "Infinity",
    "-Infinity",
    "inf",
];

fn any<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

/// What stands as a sensor's name in `values` and is none, with its quotes.
const NO_NAMES: [&str; 5] = ["\"\"", r#""a\u0007""#, r#""\u0085b""#, r#""a\n""#, "\"\u{7f}\""];

/// What is wrong with a sensor of a wide record whose others count.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// This stands in place of its name.
    Name(&'static str),
    /// This stands in place of its value.
    Value(&'static str),
}

impl Fault {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Name(_) => "bad_name",
            Self::Value(_) => "bad_value",
        }
    }
}

/// Faults for some of so many sensors, at least one.
pub(super) fn faults(rng: &mut Rng, sensors: usize) -> Vec<Option<Fault>> {
    let mut faults = vec![None; sensors];
    let surely = rng.usize(..sensors);
    // One at most has no name: two might have the same one, and that is another fault.
    let mut nameless = rng.u8(..4) == 0;
    for (k, fault) in faults.iter_mut().enumerate() {
        if k == surely || rng.u8(..4) == 0 {
            let name = std::mem::replace(&mut nameless, false);
            *fault = Some(if name {
                Fault::Name(any(rng, &NO_NAMES))
            } else {
                Fault::Value(any(rng, &NO_VALUES))
            });
        }
    }
    faults
}

/// A message that is refused as a whole and is no record: payload and code. A tombstone's payload is empty as well.
pub(super) fn whole_message(rng: &mut Rng) -> (&'static [u8], &'static str) {
    match rng.u8(..8) {
        0 | 1 => (b"", "tombstone"),
        2 => (b"", "empty"),
        3 => (b"  \r\n\t", "empty"),
        4 => (b"\xef\xbb\xbf", "empty"),
        5 => (b"[]", "missing_field"),
        6 => (b" [ ] \n", "missing_field"),
        _ => (b"\xff\xfe{\0}\0", "not_utf8"),
    }
}

/// A record that is complete, so that those around it count, and is refused; with its code. It has no line break and
/// begins with no bracket.
pub(super) fn refused(out: &mut Vec<u8>, rng: &mut Rng, fields: &Fields) -> &'static str {
    let Fields { device, sensor, ts, value } = fields;
    let (text, code) = match rng.u8(..11) {
        0 => (missing(rng, fields), "missing_field"),
        1 => (duplicate(rng, fields), "duplicate_key"),
        2 => (fields.with(|f| f.value = any(rng, &NO_VALUES).to_owned()), "bad_value"),
        3 => (fields.with(|f| f.ts = bad_time(rng, ts)), "bad_time"),
        4 => (fields.with(|f| f.ts = out_of_range(rng)), "ts_range"),
        5 => {
            let long = format!("\"{}\"", "ü".repeat(129));
            let bad = any(rng, &["null", "true", "1.5", "1e3", "{}", "[\"d\"]", &long]).to_owned();
            let bad = if rng.bool() { bad } else { any(rng, &NO_NAMES).to_owned() };
            let device = rng.bool();
            (fields.with(|f| if device { f.device = bad } else { f.sensor = bad }), "bad_name")
        }
        6 => {
            let text = match rng.u8(..3) {
                0 => fields.wide(any(rng, &["null", "[1,2]", "1", "\"x\"", "true"])),
                _ => any(rng, &["42", "-1.5e3", "\"text\"", "null", "true", "false"]).to_owned(),
            };
            (text, "wrong_type")
        }
        7 => {
            let (open, close) = if rng.bool() { ("[", "]") } else { ("{\"a\":", "}") };
            let depth = rng.usize(64..200);
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            (
                if rng.bool() {
                    fields.and(&format!("\"x\":{deep}"))
                } else {
                    fields.with(|f| f.value = deep)
                },
                "too_deep",
            )
        }
        8 => {
            out.extend_from_slice(b"{\"device\":\"");
            out.extend_from_slice(
                rng.choice([&b"\xff"[..], b"\xc3(", b"\xed\xa0\x80", b"\xc0\x80"]).unwrap_or(b"\xff"),
            );
            (format!("\",\"sensor\":{sensor},\"ts\":{ts},\"value\":{value}}}"), "not_utf8")
        }
        9 => {
            let half = any(
                rng,
                &[r#""x":"\ud800""#, r#""\udc00":1"#, r#""x":"\ud83dA""#, r#""x":["\uDBFF\u0041"]"#],
            );
            (fields.and(half), "syntax")
        }
        _ => {
            let double = format!("{{\"device\":{device},\"ts\":{ts}}}");
            (any(rng, &["{}", "{\"x\":1}", &double]).to_owned(), "missing_field")
        }
    };
    out.extend_from_slice(text.as_bytes());
    code
}

fn missing(rng: &mut Rng, fields: &Fields) -> String {
    let Fields { device, sensor, ts, value } = fields;
    match rng.u8(..7) {
        0 => format!(r#"{{"sensor":{sensor},"ts":{ts},"value":{value}}}"#),
        1 => format!(r#"{{"device":{device},"ts":{ts},"value":{value}}}"#),
        2 => format!(r#"{{"device":{device},"sensor":{sensor},"value":{value}}}"#),
        3 => format!(r#"{{"device":{device},"sensor":{sensor},"ts":{ts}}}"#),
        4 => format!(r#"{{"device":{device},"sensor":{sensor},"ts":{ts},"Value":{value}}}"#),
        5 => fields.wide("{}"),
        _ => format!(r#"{{"ts":{ts},"values":{{"a":{value}}}}}"#),
    }
}

fn duplicate(rng: &mut Rng, fields: &Fields) -> String {
    match rng.u8(..8) {
        0 => fields.and(&format!("\"value\":{}", fields.value)),
        1 => fields.and("\"device\":null"),
        2 => fields.and(r#""\u0064evice":"d""#),
        3 => fields.and(r#""x":1,"y":2,"\u0078":3"#),
        4 => fields.and(r#""values":{"a":1}"#),
        5 => fields.wide(r#"{"a":1,"b":2,"\u0061":3}"#),
        6 => fields.wide(r#"{"a":1}, "value": 1"#),
        _ => fields.and(&format!("\"ts\":{}", fields.ts)),
    }
}

fn bad_time(rng: &mut Rng, good: &str) -> String {
    // A time of ours without its zone, where it is written as text with `Z`.
    if let Some(bare) = good.strip_suffix("Z\"")
        && rng.bool()
    {
        return format!("{bare}\"");
    }
    let others = [
        "\"2026-01-01T00:00:00\"",
        "\"2026-01-01\"",
        "\"2026-02-29T00:00:00Z\"",
        "\"2026-01-01T24:00:00Z\"",
        "\"2026-01-01T00:00:60Z\"",
        "\"2026-01-01T00:00:00+0100\"",
        "\"2026-01-01T00:00:00+24:00\"",
        "\"1767225600000\"",
        "\"yesterday\"",
        "\"\"",
        "null",
        "false",
        "[]",
        "{}",
    ];
    any(rng, &others).to_owned()
}

fn out_of_range(rng: &mut Rng) -> String {
    let fixed = [
        "\"1999-12-31T23:59:59.999999Z\"",
        "\"2000-01-01T00:00:00+00:01\"",
        "\"2100-01-01T00:00:00Z\"",
        "\"9999-12-31T23:59:59Z\"",
        "0",
        "-1",
        "1767225600",
        "946684799999.999",
        "4102444800000",
        "1e300",
        "-1e300",
        "1e-300",
    ];
    if rng.bool() {
        return any(rng, &fixed).to_owned();
    }
    let mut text = vec![b'"'];
    write::plain_time(
        &mut text,
        if rng.bool() {
            rng.i64(-62_000_000_000_000..946_684_800_000)
        } else {
            rng.i64(4_102_444_800_000..200_000_000_000_000)
        },
    );
    text.extend_from_slice(b"Z\"");
    String::from_utf8(text).expect("digits")
}

/// A record that is no JSON. Where it may not go on behind its line, its fault shows before.
pub(super) fn broken(out: &mut Vec<u8>, rng: &mut Rng, fields: &Fields, may_go_on: bool) {
    let text = if may_go_on && rng.bool() { cut_off(rng, fields) } else { broken_on_its_line(rng, fields) };
    out.extend_from_slice(text.as_bytes());
}

/// A record that is no JSON and whose fault shows before its line ends, whatever stands on the next one.
fn broken_on_its_line(rng: &mut Rng, fields: &Fields) -> String {
    let narrow = fields.narrow();
    match rng.u8(..10) {
        0 => any(rng, &["not json", "tru", "<reading/>", "a,b,c", "+1", ".5", "//comment", "NaN"]).to_owned(),
        1 => format!("{{device:{}}}", fields.device),
        2 => narrow.replace(",\"ts\"", " \"ts\""),
        3 => format!("{}}}", fields.with(|f| f.value = "01".into())),
        4 => any(rng, &["{,}", "{1:2}", "{'device':'d'}", "{\"device\" \"d\"}"]).to_owned(),
        5 => {
            fields.with(|f| f.value = any(rng, &["1.", "0x10", "1_000", "--1", "'1'", "NaNs", ""]).to_owned())
        }
        6 => fields
            .with(|f| f.device = any(rng, &["NaN", "\"a\tb\"", "\"\\x\"", "\"\\u12g4\"", "'d'"]).to_owned()),
        7 => fields.and(any(rng, &["\"x\":[1,]", "\"x\":{\"a\"}", "\"x\":[1}", "\"x\":NaN", "x"])),
        8 => fields.wide(any(rng, &["{\"a\":1,}", "{\"a\"}", "{1:2}"])),
        _ => "{\"device\":\"d".into(),
    }
}

/// A record that breaks off somewhere; what stands on the next line may go on with it for a while.
fn cut_off(rng: &mut Rng, fields: &Fields) -> String {
    let narrow = fields.narrow();
    let mut at = rng.usize(1..narrow.len());
    while !narrow.is_char_boundary(at) {
        at -= 1;
    }
    narrow[..at].to_owned()
}
