//! From readings to messages: the shapes of the wire format. Readings of one device keep their order, also packed.

use super::csv::Reading;
use chrono::SecondsFormat;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write;

/// Shape of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// One object.
    Single,
    /// An array of objects.
    Array,
    /// Lines of objects.
    Lines,
    /// Readings of one device and time in one object; an array of such objects where packed.
    Wide,
}

/// A message and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) key: String,
    pub(crate) payload: String,
    pub(crate) readings: usize,
}

/// Collects readings of each device until a message is full.
pub(crate) struct Packer {
    shape: Shape,
    /// Objects in a message.
    size: usize,
    /// Field names of device, sensor, ts, value, values as JSON strings.
    fields: [String; 5],
    devices: HashMap<String, Pending>,
    /// Devices in the order of their first reading, so that the end is written in a stable order.
    order: Vec<String>,
}

#[derive(Default)]
struct Pending {
    objects: Vec<String>,
    readings: usize,
    /// Readings of one time, for the wide shape.
    wide: Vec<Reading>,
}

impl Packer {
    pub(crate) fn new(shape: Shape, size: usize, fields: &[String; 5]) -> Self {
        Self { shape, size: size.max(1), fields: quoted(fields), devices: HashMap::new(), order: Vec::new() }
    }

    /// Adds a reading; a message that is full comes out.
    pub(crate) fn push(&mut self, reading: Reading) -> Option<Message> {
        let device = reading.device.clone();
        if !self.devices.contains_key(&device) {
            self.order.push(device.clone());
        }
        let pending = self.devices.entry(device.clone()).or_default();
        if self.shape == Shape::Wide {
            // A sensor that is there already begins another object: one object cannot hold a key twice.
            let fits = pending.wide.iter().all(|r| r.ts == reading.ts && r.sensor != reading.sensor);
            if !fits {
                close_wide(&self.fields, pending);
            }
            pending.wide.push(reading);
        } else {
            pending.objects.push(single(&self.fields, &reading));
            pending.readings += 1;
        }
        (pending.objects.len() >= self.size).then(|| message(self.shape, self.size, device, pending))
    }

    /// What is left, device by device.
    pub(crate) fn finish(mut self) -> Vec<Message> {
        let mut out = Vec::new();
        for device in std::mem::take(&mut self.order) {
            let Some(mut pending) = self.devices.remove(&device) else { continue };
            close_wide(&self.fields, &mut pending);
            if !pending.objects.is_empty() {
                out.push(message(self.shape, self.size, device, &mut pending));
            }
        }
        out
    }
}

fn message(shape: Shape, size: usize, key: String, pending: &mut Pending) -> Message {
    let objects = std::mem::take(&mut pending.objects);
    let payload = match shape {
        Shape::Single | Shape::Lines => objects.join("\n"),
        Shape::Wide if size == 1 => objects.join("\n"),
        Shape::Array | Shape::Wide => format!("[{}]", objects.join(",")),
    };
    Message { key, payload, readings: std::mem::take(&mut pending.readings) }
}

fn close_wide(fields: &[String; 5], pending: &mut Pending) {
    let Some(first) = pending.wide.first() else { return };
    let [device, _, ts, _, values] = fields;
    let mut out = format!("{{{device}:{},{ts}:\"{}\",{values}:{{", text(&first.device), time(first));
    for (i, r) in pending.wide.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{}:{}", text(&r.sensor), Value::from(r.value));
    }
    out.push_str("}}");
    pending.objects.push(out);
    pending.readings += pending.wide.len();
    pending.wide.clear();
}

/// Field names as JSON strings.
pub(crate) fn quoted(fields: &[String; 5]) -> [String; 5] {
    fields.clone().map(|f| Value::from(f).to_string())
}

/// One reading as an object; names by [`quoted`].
pub(crate) fn single(fields: &[String; 5], r: &Reading) -> String {
    let [device, sensor, ts, value, _] = fields;
    format!(
        "{{{device}:{},{sensor}:{},{ts}:\"{}\",{value}:{}}}",
        text(&r.device),
        text(&r.sensor),
        time(r),
        Value::from(r.value)
    )
}

fn text(s: &str) -> String {
    Value::from(s).to_string()
}

fn time(r: &Reading) -> String {
    // As short as it is exact: whole seconds, milliseconds or microseconds.
    r.ts.to_datetime().map_or_else(|| r.ts.to_rfc3339(), |t| t.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::time::Timestamp;
    use proptest::prelude::*;

    fn names() -> [String; 5] {
        ["device", "sensor", "ts", "value", "values"].map(str::to_owned)
    }

    fn reading(device: &str, sensor: &str, s: i64, value: f64) -> Reading {
        let ts = Timestamp(1_535_497_205_000_000 + s * 1_000_000);
        Reading { device: device.into(), sensor: sensor.into(), ts, value }
    }

    fn pack(shape: Shape, size: usize, readings: &[Reading]) -> Vec<Message> {
        let mut p = Packer::new(shape, size, &names());
        let mut out: Vec<Message> = readings.iter().filter_map(|r| p.push(r.clone())).collect();
        out.extend(p.finish());
        out
    }

    #[test]
    fn the_shapes() {
        let r = [reading("1", "a\"b", 0, 1.5), reading("1", "c", 0, -2.0), reading("1", "c", 0, 3.0)];
        let single = r#"{"device":"1","sensor":"a\"b","ts":"2018-08-28T23:00:05Z","value":1.5}"#;
        let payloads =
            |shape, size| -> Vec<String> { pack(shape, size, &r).into_iter().map(|m| m.payload).collect() };
        assert_eq!(payloads(Shape::Single, 1)[0], single);
        assert!(payloads(Shape::Array, 2)[0].starts_with(&format!("[{single},{{")));
        assert!(payloads(Shape::Lines, 2)[0].starts_with(&format!("{single}\n{{")));
        assert_eq!(
            payloads(Shape::Wide, 1),
            [
                r#"{"device":"1","ts":"2018-08-28T23:00:05Z","values":{"a\"b":1.5,"c":-2.0}}"#,
                r#"{"device":"1","ts":"2018-08-28T23:00:05Z","values":{"c":3.0}}"#,
            ]
        );
        let other =
            Packer::new(Shape::Single, 1, &["d", "s", "t", "v", "vs"].map(str::to_owned)).push(r[2].clone());
        assert_eq!(other.unwrap().payload, r#"{"d":"1","s":"c","t":"2018-08-28T23:00:05Z","v":3.0}"#);
    }

    fn objects(payload: &str) -> Vec<Value> {
        match serde_json::from_str::<Value>(payload) {
            Ok(Value::Array(a)) => a,
            Ok(one) => vec![one],
            Err(_) => payload.lines().map(|l| serde_json::from_str(l).unwrap()).collect(),
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_a_devices_order_is_kept(
            picks in proptest::collection::vec((0..3u8, 0..3u8, 0..4i64), 0..80),
            size in 1..7usize,
            shape in prop_oneof![Just(Shape::Single), Just(Shape::Array), Just(Shape::Lines), Just(Shape::Wide)],
        ) {
            let readings: Vec<Reading> = picks
                .iter()
                .enumerate()
                .map(|(i, (d, s, t))| reading(&d.to_string(), &s.to_string(), *t, i as f64))
                .collect();
            let messages = pack(shape, size, &readings);
            prop_assert_eq!(messages.iter().map(|m| m.readings).sum::<usize>(), readings.len());
            for device in ["0", "1", "2"] {
                let expected: Vec<f64> = readings.iter().filter(|r| r.device == device).map(|r| r.value).collect();
                let mut got = Vec::new();
                for m in messages.iter().filter(|m| m.key == device) {
                    for o in objects(&m.payload) {
                        match o.get("values").and_then(Value::as_object) {
                            // Inside one wide object there is no order to keep.
                            Some(v) => {
                                let mut v: Vec<f64> = v.values().filter_map(Value::as_f64).collect();
                                v.sort_by(f64::total_cmp);
                                got.extend(v);
                            }
                            None => got.extend(o["value"].as_f64()),
                        }
                    }
                }
                prop_assert_eq!(got, expected);
            }
        }
    }
}
