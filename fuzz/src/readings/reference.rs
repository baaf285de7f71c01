//! A second opinion on a message that is one JSON value: the input rules once more, over what serde_json reads.

use super::{BYTE_ORDER_MARK, Decoded, Row, Setting};
use fleetscore_decode::TsUnit;
use fleetscore_schemas::codes::DeadLetterCode as Code;
use fleetscore_schemas::time::Timestamp;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// JSON with the order and the repetitions of its keys.
enum Json {
    Null,
    Bool,
    Integer(i128),
    /// Also integers that serde_json does not keep as such.
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// What a record is by the rules; `Unsure` where serde_json has lost what decides.
#[derive(Debug)]
enum Verdict {
    Counts(Vec<Row>),
    Refused(Code),
    Unsure,
}

use Verdict::{Counts, Refused, Unsure};

/// Compares what a decoder made of a message with what follows from serde_json's reading of it.
pub(super) fn compare(setting: &Setting, payload: &[u8], decoded: &Decoded, message: u32) {
    let options = &setting.options;
    let Ok(text) = std::str::from_utf8(payload.strip_prefix(BYTE_ORDER_MARK).unwrap_or(payload)) else { return };
    if payload.len() > options.max_message_bytes || text.len() > 8192 {
        return;
    }
    let refused = || decoded.batch.bad.iter().filter(|bad| bad.span.message == message);
    if !text.contains('\n') && serde_json::from_str::<IgnoredAny>(text).is_err() {
        assert!(refused().next().is_some(), "serde_json refuses {text:?}");
    }
    let Ok(json) = serde_json::from_str::<Json>(text) else { return };
    assert!(refused().all(|bad| bad.code != Code::Syntax), "serde_json accepts {text:?}");
    let whole = !matches!(json, Json::List(_));
    let records = match json {
        Json::List(records) if !records.is_empty() => records,
        Json::List(_) => return assert!(refused().map(|bad| bad.code).eq([Code::MissingField])),
        one => vec![one],
    };
    for (position, record) in (0..).zip(&records) {
        let position = if whole { -1 } else { position };
        let mut rows: Vec<&Row> = decoded
            .rows
            .iter()
            .filter(|(span, _)| span.message == message && span.position == position)
            .map(|(_, row)| row)
            .collect();
        let codes: Vec<Code> = refused().filter(|bad| bad.span.position == position).map(|bad| bad.code).collect();
        match judge(setting, record) {
            Counts(mut expected) => {
                // The order of sensors in a wide record is its own.
                let order = |a: &Row, b: &Row| a.1.cmp(&b.1);
                rows.sort_by(|a, b| order(a, b));
                expected.sort_by(order);
                assert!(rows.into_iter().eq(&expected) && codes.is_empty(), "{expected:?} of record {position} in {text:?}");
            }
            Refused(code) => {
                assert!(rows.is_empty() && codes == [code], "{code} and not {codes:?} for record {position} in {text:?}");
            }
            Unsure => assert!(!rows.is_empty() || !codes.is_empty(), "record {position} is lost in {text:?}"),
        }
    }
}

/// The rules in their order.
fn judge(setting: &Setting, record: &Json) -> Verdict {
    let fields = &setting.options.fields;
    if depth(record) > setting.options.max_depth {
        return Refused(Code::TooDeep);
    }
    let Json::Object(members) = record else { return Refused(Code::WrongType) };
    let names = [&fields.device, &fields.sensor, &fields.ts, &fields.value, &fields.values];
    if names.iter().collect::<HashSet<_>>().len() < names.len() {
        return Unsure; // fields that share a name, which settings refuse, are another matter
    }
    let mut keys = HashSet::new();
    if !members.iter().all(|(key, _)| keys.insert(key)) {
        return Refused(Code::DuplicateKey);
    }
    let [device, sensor, ts, value, values] =
        names.map(|name| members.iter().find(|(key, _)| key == name).map(|(_, found)| found));
    if values.is_some() && value.is_some() {
        return Refused(Code::DuplicateKey);
    }
    let sensors = match values {
        Some(Json::Object(sensors)) => Some(sensors),
        _ => None,
    };
    let mut keys = HashSet::new();
    if !sensors.into_iter().flatten().all(|(sensor, _)| keys.insert(sensor)) {
        return Refused(Code::DuplicateKey);
    }
    let no_time = ts.is_none() && !(setting.options.ts_from_broker && setting.broker_time.is_some());
    let Some(device) = device else { return Refused(Code::MissingField) };
    if values.is_none() && (sensor.is_none() || value.is_none()) || no_time {
        return Refused(Code::MissingField);
    }
    if sensors.is_some_and(Vec::is_empty) {
        return Refused(Code::MissingField);
    }
    let device = match name(device) {
        Ok(name) => name,
        Err(verdict) => return verdict,
    };
    let sensor = match sensor.filter(|_| values.is_none()).map(name).transpose() {
        Ok(name) => name,
        Err(verdict) => return verdict,
    };
    let of_broker = setting.broker_time.map_or(i64::MIN, Timestamp::us);
    let ts = match ts.map_or(Ok(of_broker), |ts| time(setting, ts)) {
        Ok(ts) if Timestamp(ts).is_event_time() => ts,
        Ok(_) => return Refused(Code::TsRange),
        Err(verdict) => return verdict,
    };
    match (sensor, value, values) {
        (Some(sensor), Some(value), None) => match number(value) {
            Ok(value) => Counts(vec![(device, sensor, ts, value)]),
            Err(verdict) => verdict,
        },
        (_, _, Some(values)) => wide(&device, ts, values),
        _ => Refused(Code::MissingField),
    }
}

/// Objects and lists inside each other; serde_json refuses more than 128.
fn depth(json: &Json) -> usize {
    match json {
        Json::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Json::Object(members) => 1 + members.iter().map(|(_, value)| depth(value)).max().unwrap_or(0),
        _ => 0,
    }
}

/// A wide record of which all sensors count, or that is refused as a whole; parts of one are unsure.
fn wide(device: &str, ts: i64, values: &Json) -> Verdict {
    let Json::Object(values) = values else { return Refused(Code::WrongType) };
    let row = |(sensor, value): &(String, Json)| {
        let good = is_name(sensor);
        number(value).ok().filter(|_| good).map(|value| (device.to_owned(), sensor.clone(), ts, value))
    };
    values.iter().map(row).collect::<Option<_>>().map_or(Unsure, Counts)
}

fn is_name(name: &str) -> bool {
    (1..=256).contains(&name.len()) && !name.contains(char::is_control)
}

fn name(json: &Json) -> Result<String, Verdict> {
    match json {
        Json::Text(name) if is_name(name) => Ok(name.clone()),
        Json::Integer(n) => Ok(n.to_string()),
        Json::Float(_) => Err(Unsure), // `1e3`, `-0`, or more digits than serde_json keeps
        _ => Err(Refused(Code::BadName)),
    }
}

fn number(json: &Json) -> Result<f64, Verdict> {
    match json {
        Json::Integer(n) => Ok(*n as f64 + 0.0),
        Json::Float(v) if v.abs() <= 1e100 => Ok(v + 0.0),
        _ => Err(Refused(Code::BadValue)),
    }
}

fn time(setting: &Setting, json: &Json) -> Result<i64, Verdict> {
    match json {
        Json::Integer(n) => {
            let us = match setting.options.ts_unit {
                TsUnit::S => n * 1_000_000,
                TsUnit::Ms => n * 1_000,
                TsUnit::Us => *n,
                TsUnit::Ns => n.div_euclid(1_000),
            };
            Ok(us.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
        }
        Json::Float(_) => Err(Unsure),
        // chrono takes a leap second and the typographical minus sign, which we do not.
        Json::Text(text) if !text.is_ascii() || text.contains(":60") => Err(Unsure),
        Json::Text(text) => {
            let time = chrono::DateTime::parse_from_rfc3339(text);
            time.map(|t| t.timestamp_micros()).map_err(|_| Refused(Code::BadTime))
        }
        _ => Err(Refused(Code::BadTime)),
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_i64<E>(self, n: i64) -> Result<Json, E> {
        Ok(Json::Integer(n.into()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Json, E> {
        Ok(Json::Integer(n.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Json, E> {
        Ok(Json::Float(v))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}
