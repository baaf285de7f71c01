//! From the fields of an object to readings, or to the one reason why it is none.

use crate::decoder::{AT_ONCE, Current, Decoder, Held};
use crate::names::{Found, NoKey, checked};
use crate::record::{Entry, Field, Slot};
use fleetscore_schemas::codes::DeadLetterCode as Code;
use fleetscore_schemas::reading::{BadRecord, Span};
use fleetscore_schemas::time::Timestamp;

/// A reason: the code and what exactly, for a person.
pub(crate) type Reason = (Code, String);

/// How many refused sensors of one wide object its dead letter names.
const NAMED_SENSORS: usize = 16;

/// How many characters of a number a detail shows.
const NUMBER_SHOWN: usize = 32;

/// How many dead letters of a batch carry a detail.
const DETAILED: usize = 10_000;

/// So many records of a batch are refused one by one; of those beyond, one stands for all of a message with the same code.
/// Two bytes can be a record, and its refusal takes forty times as much.
const ONE_BY_ONE: usize = 1 << 16;

const NARROW: u8 = Field::Device.bit() | Field::Sensor.bit() | Field::Ts.bit() | Field::Value.bit();

impl Decoder {
    /// Counts the object that was scanned last, or refuses it. `b` is what it was scanned in, `span` what it takes
    /// with it as a dead letter.
    #[inline]
    pub(crate) fn finish(&mut self, b: &[u8], message: &Current<'_>, span: Span) {
        // The usual case in one go; whatever does not fit is judged again, in order.
        let r = &self.record;
        let usual = r.seen & !Field::Unknown.bit() == NARROW
            && r.again.is_none()
            && message.record_is_utf8(span)
            && !self.scanner.too_deep
            && !self.scanner.lone_surrogate;
        if !usual || (r.seen & Field::Unknown.bit() != 0 && self.unknown_again(b)) {
            return self.finish_unusual(b, message, span);
        }
        let r = &self.record;
        if let Some(device) = r.name(b, r.device)
            && let Some(sensor) = r.name(b, r.sensor)
            && let Slot::Number(number) = r.value
            && let Some(value) = number.value(b)
            && let Ok(ts) =
                self.dates.time_of(r.ts, |text| r.bytes(b, text), b, self.options.ts_unit.exponent())
            && Timestamp(ts).is_event_time()
        {
            let hash = self.names.hash_of(self.names.hash(device), sensor);
            if let (Some(device), Some(sensor)) = (message.place(device), message.place(sensor)) {
                if self.layout.is_wanted() {
                    self.layout.learn(b, &self.record);
                }
                return self
                    .hold(message, Held { hash, found: Found::NONE, device, sensor, ts, value, span });
            }
        }
        self.finish_unusual(b, message, span);
    }

    /// Counts a reading once the key of its series is known.
    #[inline(always)]
    pub(crate) fn hold(&mut self, message: &Current<'_>, held: Held) {
        self.held.push(held);
        if self.held.len() == AT_ONCE {
            self.settle(message.payload);
        }
    }

    /// Counts the readings that wait for the keys of their series, in order: each finds its series in the cache, where the
    /// others' were fetched meanwhile. Whatever else is to be counted or refused comes behind them, so this is done first.
    pub(crate) fn settle(&mut self, payload: &[u8]) {
        let mut held = std::mem::take(&mut self.held);
        self.names.find(&mut held, |h| h.hash, |h| &mut h.found);
        let limit = self.options.max_series;
        for Held { hash, found, device, sensor, ts, value, span } in held.drain(..) {
            let (device, sensor) = (&payload[device.range()], &payload[sensor.range()]);
            match self.names.key_at(hash, found, device, sensor, limit, &mut self.out.new_series) {
                Ok(key) => self.out.push(key, ts, value, span),
                Err(NoKey::Limit) => self.push_bad(span, refused_key(NoKey::Limit, limit), Vec::new()),
                Err(NoKey::Device(why)) => {
                    let reason = self.named(Field::Device, Code::BadName, why.into());
                    self.push_bad(span, reason, Vec::new());
                }
                Err(NoKey::Sensor(why)) => {
                    let reason = self.named(Field::Sensor, Code::BadName, why.into());
                    self.push_bad(span, reason, Vec::new());
                }
            }
        }
        self.held = held;
    }

    /// Judges every rule in its order.
    #[cold]
    #[inline(never)]
    fn finish_unusual(&mut self, b: &[u8], message: &Current<'_>, span: Span) {
        self.settle(message.payload);
        if let Err(reason) = self.judge(b, message, span) {
            self.refuse(message, span, reason);
        }
    }

    fn judge(&mut self, b: &[u8], message: &Current<'_>, span: Span) -> Result<(), Reason> {
        self.whole(message, span)?;
        if let Some(field) = self.record.again {
            return Err((Code::DuplicateKey, format!("`{}` occurs twice", self.keys.name(field))));
        }
        if self.unknown_again(b) {
            return Err((Code::DuplicateKey, "an unused field occurs twice".into()));
        }
        let seen = self.record.seen;
        let seen = |field: Field| seen & field.bit() != 0;
        let wide = seen(Field::Values);
        if wide && seen(Field::Value) {
            let (value, values) = (self.keys.name(Field::Value), self.keys.name(Field::Values));
            return Err((Code::DuplicateKey, format!("both `{value}` and `{values}` are there")));
        }
        let names = &self.names;
        if wide && let Some(k) = self.record.sensor_again(b, |part| names.hash(part)) {
            return Err((Code::DuplicateKey, format!("{} occurs twice", self.entry_name(b, k))));
        }
        for field in [Field::Device, Field::Sensor, Field::Ts, Field::Value] {
            let needed = match field {
                Field::Ts => !(self.options.ts_from_broker && message.broker_time.is_some()),
                Field::Sensor | Field::Value => !wide,
                _ => true,
            };
            if needed && !seen(field) {
                let broker = field == Field::Ts && self.options.ts_from_broker;
                let more = if broker { ", and the message has no broker timestamp" } else { "" };
                return Err((Code::MissingField, format!("`{}` is absent{more}", self.keys.name(field))));
            }
        }
        if wide && self.record.values.is_none() && self.record.entries.is_empty() {
            return Err((Code::MissingField, format!("`{}` is empty", self.keys.name(Field::Values))));
        }
        let device = self.checked_name(b, Field::Device, self.record.device)?.len();
        if !wide {
            self.checked_name(b, Field::Sensor, self.record.sensor)?;
        }
        let ts = self.time(b, message)?;
        if wide {
            return self.judge_wide(b, span, ts);
        }
        debug_assert!(device > 0, "an empty name is refused");
        let value =
            checked_value(b, self.record.value).map_err(|(code, why)| self.named(Field::Value, code, why))?;
        let r = &self.record;
        let (Some(device), Some(sensor)) = (r.name(b, r.device), r.name(b, r.sensor)) else {
            return Err((Code::BadName, "not a name".into())); // refused above
        };
        let hash = self.names.hash_of(self.names.hash(device), sensor);
        let limit = self.options.max_series;
        match self.names.key(hash, device, sensor, limit, &mut self.out.new_series) {
            Ok(key) => {
                self.out.push(key, ts, value, span);
                Ok(())
            }
            Err(no_key) => Err(refused_key(no_key, limit)),
        }
    }

    /// What concerns the record as a whole: its encoding, its depth, its strings. Also for records that are no
    /// objects.
    pub(crate) fn whole(&self, message: &Current<'_>, span: Span) -> Result<(), Reason> {
        if !message.record_is_utf8(span) {
            return Err((Code::NotUtf8, "the bytes are not UTF-8".into()));
        }
        if self.scanner.too_deep {
            let max = self.options.max_depth;
            return Err((Code::TooDeep, format!("nested deeper than {max} levels")));
        }
        if self.scanner.lone_surrogate {
            return Err((Code::Syntax, "a \\u escape stands for half a character (lone surrogate)".into()));
        }
        Ok(())
    }

    /// Counts the good sensors of a wide object and refuses the others in one dead letter.
    fn judge_wide(&mut self, b: &[u8], span: Span, ts: i64) -> Result<(), Reason> {
        if let Some(kind) = self.record.values {
            return Err(self.named(Field::Values, Code::WrongType, format!("is {kind}, not an object")));
        }
        let mut first = None;
        let (mut refused, mut detail) = (Vec::new(), String::new());
        let r = &self.record;
        let limit = self.options.max_series;
        let device = r.name(b, r.device).unwrap_or_default(); // checked before
        let device_hash = self.names.hash(device);
        for (k, &Entry { sensor, value }) in r.entries.iter().enumerate() {
            let sensor = r.bytes(b, sensor);
            let counted = match checked_value(b, value) {
                Ok(value) => {
                    let hash = self.names.hash_of(device_hash, sensor);
                    self.names
                        .key(hash, device, sensor, limit, &mut self.out.new_series)
                        .map(|key| (key, value))
                        .map_err(|no_key| refused_key(no_key, limit))
                }
                // Of two faults the name's is the code.
                Err(reason) => Err(checked(sensor).err().map_or(reason, |why| (Code::BadName, why.into()))),
            };
            match counted {
                Ok((key, value)) => self.out.push(key, ts, value, span),
                Err((code, why)) => {
                    first.get_or_insert(code);
                    refused.push(String::from_utf8_lossy(sensor).into_owned());
                    if refused.len() <= NAMED_SENSORS {
                        let separator = if refused.len() == 1 { "" } else { "; " };
                        detail.push_str(&format!("{separator}{}: {code}, {why}", self.entry_name(b, k)));
                    }
                }
            }
        }
        let Some(code) = first else { return Ok(()) };
        if refused.len() > NAMED_SENSORS {
            detail.push_str(&format!("; and {} more", refused.len() - NAMED_SENSORS));
        }
        let of = r.entries.len();
        let others = if refused.len() < of { ", the others count" } else { "" };
        let detail = format!("{} of {of} sensors refused{others}: {detail}", refused.len());
        self.push_bad(span, (code, detail), refused);
        Ok(())
    }

    /// How a detail calls a sensor of a wide object.
    fn entry_name(&self, b: &[u8], k: usize) -> String {
        let name = String::from_utf8_lossy(self.record.bytes(b, self.record.entries[k].sensor));
        let short: String = name.chars().take(64).collect();
        format!("`{}`[{short:?}]", self.keys.name(Field::Values))
    }

    fn checked_name<'r>(&'r self, b: &'r [u8], field: Field, slot: Slot) -> Result<&'r str, Reason> {
        match self.record.name(b, slot) {
            Some(name) => checked(name).map_err(|why| self.named(field, Code::BadName, why.into())),
            None => {
                let why = match slot {
                    Slot::Number(_) => "is a number that is not written as an integer".to_owned(),
                    other => format!("is {}, not a string or an integer", other.kind()),
                };
                Err(self.named(field, Code::BadName, why))
            }
        }
    }

    /// The event time of the record that was scanned last.
    fn time(&mut self, b: &[u8], message: &Current<'_>) -> Result<i64, Reason> {
        let r = &self.record;
        let written = (r.seen & Field::Ts.bit() != 0).then_some(r.ts);
        let ts = match written {
            None => message.broker_time.map_or(Err("is absent"), |t| Ok(t.us())),
            Some(slot) => {
                let exponent = self.options.ts_unit.exponent();
                self.dates.time_of(slot, |text| r.bytes(b, text), b, exponent)
            }
        };
        let ts = ts.map_err(|why| self.named(Field::Ts, Code::BadTime, why.into()))?;
        if !Timestamp(ts).is_event_time() {
            let ts = match written {
                Some(Slot::Number(number)) => self.time_as_written(number.text(b), Timestamp(ts)),
                Some(_) => Timestamp(ts).to_string(),
                None => format!("absent, and the broker's time of the message {}", Timestamp(ts)),
            };
            return Err(self.named(Field::Ts, Code::TsRange, format!("is {ts}, outside 2000..2100")));
        }
        Ok(ts)
    }

    /// A number with its unit, and as a date where it can be one: `1767225600 (ms)` was meant as seconds.
    fn time_as_written(&self, number: &[u8], ts: Timestamp) -> String {
        let text = String::from_utf8_lossy(number);
        let short: String = text.chars().take(NUMBER_SHOWN).collect();
        let cut = if short.len() < text.len() { "…" } else { "" };
        let date = ts.to_datetime().map_or(String::new(), |_| format!(", {ts}"));
        format!("{short}{cut} ({}){date}", self.options.ts_unit.as_str())
    }

    fn named(&self, field: Field, code: Code, why: String) -> Reason {
        (code, format!("`{}` {why}", self.keys.name(field)))
    }

    fn unknown_again(&mut self, b: &[u8]) -> bool {
        let names = &self.names;
        self.record.unknown_again(b, |part| names.hash(part))
    }

    /// Makes a dead letter. In a flood the details are left out: a message of eight megabytes can hold four million
    /// records that are none.
    #[cold]
    pub(crate) fn refuse(&mut self, message: &Current<'_>, span: Span, reason: Reason) {
        self.settle(message.payload);
        self.push_bad(span, reason, Vec::new());
    }

    /// Adds a dead letter. Where it is for some sensors of a wide object they are named: a replay must know which ones have
    /// not counted.
    fn push_bad(&mut self, span: Span, (code, detail): Reason, sensors: Vec<String>) {
        let bad = &mut self.out.bad;
        if bad.len() < DETAILED {
            bad.push(BadRecord { span, code, detail, sensors, count: 1 });
            return;
        }
        let detail = String::new();
        if let Some(beyond) = bad.get_mut(ONE_BY_ONE..) {
            // No search: there is one for each code, and only those of this message are looked at.
            let of_message = beyond.iter_mut().rev().take_while(|b| b.span.message == span.message);
            if let Some(same) = of_message.into_iter().find(|b| b.code == code) {
                same.count += 1;
                same.span.end = same.span.end.max(span.end);
                same.sensors = Vec::new();
                return;
            }
        }
        bad.push(BadRecord { span, code, detail, sensors, count: 1 });
    }
}

/// The value in a slot, if it keeps the rules.
fn checked_value(b: &[u8], slot: Slot) -> Result<f64, Reason> {
    match slot {
        Slot::Number(number) => {
            number.value(b).ok_or_else(|| (Code::BadValue, "is greater than 1e100 in magnitude".into()))
        }
        Slot::NotFinite => Err((Code::BadValue, "is not finite".into())),
        other => Err((Code::BadValue, format!("is {}, not a number", other.kind()))),
    }
}

fn refused_key(no_key: NoKey, limit: u32) -> Reason {
    match no_key {
        NoKey::Device(why) => (Code::BadName, format!("device {why}")),
        NoKey::Sensor(why) => (Code::BadName, format!("sensor {why}")),
        NoKey::Limit => (Code::SeriesLimit, format!("one series more than max_series = {limit}")),
    }
}
