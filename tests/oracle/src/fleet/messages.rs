//! The messages of a fleet, made one after the other.

use super::bad::{self, Fault, Fields};
use super::pack::{Form, Open};
use super::series::{Signal, device_name, mix, sensor_name, share};
use super::write::{self, Value};
use super::{Fleet, Message, Record, Shapes};
use crate::windows::Reading;
use fastrand::Rng;
use std::collections::VecDeque;

/// 2000-01-01T00:00:00Z in milliseconds, the earliest event time that is accepted.
const EARLIEST_MS: i64 = 946_684_800_000;
/// 2090-01-01T00:00:00Z in milliseconds.
const FAST_CLOCK_MS: i64 = 3_786_912_000_000;

/// What has been sent to a partition.
#[derive(Debug, Clone, Default)]
struct Partition {
    /// The greatest event time that counts, in milliseconds.
    greatest_ms: Option<i64>,
    open: Option<Open>,
}

/// The messages of a fleet, see [`Fleet::messages`].
#[derive(Debug, Clone)]
pub struct Messages {
    fleet: Fleet,
    rng: Rng,
    devices: Vec<String>,
    sensors: Vec<String>,
    /// Of each device's sensors, device after device.
    signals: Vec<Signal>,
    partitions: Vec<Partition>,
    ready: VecDeque<Message>,
    /// All devices have their turn once in each round.
    round: u64,
    rounds: u64,
    /// How many have had it.
    at: u32,
    /// Who has it first.
    first: u32,
    pane_ms: i64,
    disorder_ms: i64,
    allowed_ms: i64,
    /// How far behind the watermark late readings come at most.
    reach_ms: i64,
}

impl Iterator for Messages {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            if self.round == self.rounds {
                let mut open =
                    (0u32..).zip(&mut self.partitions).filter_map(|(p, state)| Some((p, state.open.take()?)));
                return open.next().map(|(p, open)| open.close(p, &mut self.rng));
            }
            self.turn();
        }
    }
}

/// One reading or the readings of one wide record that are due.
struct Due {
    device: u32,
    partition: u32,
    /// Time of sending.
    now_ms: i64,
}

impl Messages {
    pub(super) fn of(fleet: &Fleet) -> Self {
        let rounds = u64::from(fleet.panes) * u64::from(fleet.readings_per_pane);
        let pane_ms = fleet.pane_us / 1000;
        Self {
            rng: Rng::with_seed(mix(fleet.seed, 0, 0, 0)),
            devices: (0..fleet.devices).map(device_name).collect(),
            sensors: (0..fleet.sensors).map(sensor_name).collect(),
            signals: (0..fleet.devices)
                .flat_map(|d| (0..fleet.sensors).map(move |s| Signal::of(fleet, d, s)))
                .collect(),
            partitions: vec![Partition::default(); fleet.partitions.max(1) as usize],
            ready: VecDeque::new(),
            round: 0,
            rounds: if fleet.devices == 0 { 0 } else { rounds },
            at: 0,
            first: 0,
            pane_ms: pane_ms.max(1),
            disorder_ms: fleet.max_disorder_us / 1000,
            allowed_ms: fleet.allowed_lateness_us / 1000,
            reach_ms: (fleet.allowed_lateness_us / 4000 * 3).min(pane_ms * 64).max(0),
            fleet: fleet.clone(),
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.f64() < share
    }

    /// The next device sends what its sensors say in this round.
    fn turn(&mut self) {
        let devices = self.fleet.devices;
        if self.at == 0 {
            self.first = self.rng.u32(..devices);
        }
        let device = (self.first + self.at) % devices;
        let round_us = self.fleet.pane_us / i64::from(self.fleet.readings_per_pane);
        let into_us = (i128::from(round_us) * i128::from(self.at) / i128::from(devices)) as i64;
        let now_us = self.fleet.start_us + self.round as i64 * round_us + into_us;
        let due = Due { device, partition: self.partition(device), now_ms: now_us.div_euclid(1000) };
        let wide = match self.fleet.shapes {
            Shapes::Wide => true,
            Shapes::Mixed => self.rng.u8(..3) == 0,
            _ => false,
        };
        if wide {
            self.wide_turn(&due)
        } else {
            self.narrow_turn(due)
        }
        self.at += 1;
        if self.at == devices {
            (self.at, self.round) = (0, self.round + 1);
        }
    }

    /// Where a device sends to: some have no partition of their own.
    fn partition(&mut self, device: u32) -> u32 {
        let partitions = self.partitions.len() as u32;
        if mix(self.fleet.seed, 8, u64::from(device), 0).is_multiple_of(8) {
            return self.rng.u32(..partitions);
        }
        device % partitions
    }

    fn is_silent(&self, device: u32, sensor: u32) -> bool {
        let stretch = self.round / (3 * u64::from(self.fleet.readings_per_pane));
        let series = (u64::from(device) << 32) | u64::from(sensor);
        self.fleet.silent > 0.0 && share(self.fleet.seed, 9, series, stretch) < self.fleet.silent
    }

    fn measure(&mut self, device: u32, sensor: u32) -> Value {
        let stretch = self.round / (4 * u64::from(self.fleet.readings_per_pane));
        let series = (u64::from(device) << 32) | u64::from(sensor);
        let off = share(self.fleet.seed, 10, series, stretch) < 0.1;
        let signal = self.signals[device as usize * self.fleet.sensors as usize + sensor as usize];
        signal.draw(self.fleet.exact, off, &mut self.rng)
    }

    fn narrow_turn(&mut self, mut due: Due) {
        for sensor in 0..self.fleet.sensors {
            if self.is_silent(due.device, sensor) {
                continue;
            }
            due.partition = self.partition(due.device);
            let often = match self.rng.u8(..16) {
                0 | 1 => 0,
                2 | 3 => 2,
                _ => 1,
            };
            let mut ts = self.event_time(&due);
            for k in 0..often {
                if k > 0 && self.rng.bool() {
                    ts = self.event_time(&due);
                }
                self.send_narrow(&due, sensor, ts);
            }
            if self.chance(self.fleet.burst) {
                let ts = self.event_time(&due);
                for _ in 0..self.rng.u8(16..=48) {
                    self.send_narrow(&due, sensor, ts);
                }
            }
        }
    }

    fn wide_turn(&mut self, due: &Due) {
        let mut sensors: Vec<u32> =
            (0..self.fleet.sensors).filter(|s| !self.is_silent(due.device, *s)).collect();
        sensors.retain(|_| self.rng.u8(..16) > 1);
        let times = if self.rng.u8(..8) == 0 { 2 } else { 1 };
        let mut ts = self.event_time(due);
        for k in 0..times {
            if k > 0 && self.rng.bool() {
                ts = self.event_time(due);
            }
            if !sensors.is_empty() {
                self.send_wide(due, &sensors, ts);
            }
        }
        for sensor in sensors {
            if self.chance(self.fleet.burst) {
                let ts = self.event_time(due);
                for _ in 0..self.rng.u8(16..=48) {
                    self.send_wide(due, &[sensor], ts);
                }
            }
        }
    }

    /// The event time of a reading that is sent now, in milliseconds.
    fn event_time(&mut self, due: &Due) -> i64 {
        if self.chance(self.fleet.fast_clock) {
            return FAST_CLOCK_MS + self.rng.i64(0..86_400_000);
        }
        if let Some(greatest) = self.partitions[due.partition as usize].greatest_ms {
            let watermark = greatest - self.disorder_ms;
            if self.chance(self.fleet.too_late) {
                let more = self.rng.i64(2 * self.pane_ms..=6 * self.pane_ms);
                let ts = watermark.saturating_sub(self.allowed_ms).saturating_sub(more);
                if ts >= EARLIEST_MS {
                    return ts;
                }
            }
            if self.reach_ms > 0 && self.chance(self.fleet.late) {
                return (watermark - 1 - self.rng.i64(0..self.reach_ms)).max(EARLIEST_MS);
            }
        }
        let ts = due.now_ms - if self.disorder_ms > 0 { self.rng.i64(0..self.disorder_ms) } else { 0 };
        let draw = |salt| share(self.fleet.seed, salt, u64::from(due.device), 0);
        if self.fleet.slow_clock > 0.0 && draw(11) < self.fleet.slow_clock {
            let behind = self.reach_ms / 4 + (draw(12) * self.reach_ms as f64 / 2.0) as i64;
            return (ts - behind).max(EARLIEST_MS);
        }
        // Now and then exactly on the edge of a pane, where that is no more disorder than usual.
        let edge = ts.div_euclid(self.pane_ms) * self.pane_ms;
        if self.rng.u8(..8) == 0 && due.now_ms - edge < self.disorder_ms { edge } else { ts }
    }

    /// Takes the message that is being made for a partition, or begins one.
    fn open(&mut self, due: &Due) -> Open {
        if let Some(open) = self.partitions[due.partition as usize].open.take() {
            return open;
        }
        let rng = &mut self.rng;
        let array = |rng: &mut Rng| Form::Array { pretty: rng.u8(..8) == 0 };
        let (form, capacity) = match self.fleet.shapes {
            Shapes::Single | Shapes::Wide => (Form::Single, 1),
            Shapes::Packed(n) => (array(rng), n),
            Shapes::Lines(n) => (Form::Lines { crlf: rng.u8(..4) == 0 }, n),
            Shapes::Mixed => match rng.u8(..4) {
                0 => (array(rng), rng.u32(1..=16)),
                1 => (Form::Lines { crlf: rng.bool() }, rng.u32(1..=16)),
                _ => (Form::Single, 1),
            },
        };
        Open::new(form, capacity, &self.devices[due.device as usize], rng)
    }

    /// Puts the message back, or, if it is full, sends it.
    fn put_back(&mut self, due: &Due, open: Open) {
        if open.is_full() {
            self.ready.push_back(open.close(due.partition, &mut self.rng));
        } else {
            self.partitions[due.partition as usize].open = Some(open);
        }
    }

    /// Notes what the record that was written last holds.
    fn counts(&mut self, due: &Due, open: &mut Open, ts_ms: i64, sensor: u32, value: Value) {
        let reading = Reading {
            ts_us: ts_ms * 1000,
            device: self.devices[due.device as usize].clone(),
            sensor: self.sensors[sensor as usize].clone(),
            value: value.number(),
        };
        if open.reading(reading) && ts_ms < FAST_CLOCK_MS {
            let greatest = &mut self.partitions[due.partition as usize].greatest_ms;
            *greatest = Some(greatest.map_or(ts_ms, |g| g.max(ts_ms)));
        }
    }

    fn send_narrow(&mut self, due: &Due, sensor: u32, ts_ms: i64) {
        let value = self.measure(due.device, sensor);
        if self.chance(self.fleet.bad) {
            return self.send_bad(due, sensor, ts_ms, value);
        }
        let mut open = self.open(due);
        self.write_narrow(&mut open, due, sensor, ts_ms, value);
        self.put_back(due, open);
    }

    fn write_narrow(&mut self, open: &mut Open, due: &Due, sensor: u32, ts_ms: i64, value: Value) {
        let (device, name) = (&self.devices[due.device as usize], &self.sensors[sensor as usize]);
        open.write(&mut self.rng, |out, rng| write::narrow(out, rng, device, name, ts_ms, value));
        self.counts(due, open, ts_ms, sensor, value);
    }

    fn send_wide(&mut self, due: &Due, sensors: &[u32], ts_ms: i64) {
        let values: Vec<(u32, Value)> = sensors.iter().map(|s| (*s, self.measure(due.device, *s))).collect();
        let mut spoil = self.chance(self.fleet.bad);
        if spoil && self.rng.u8(..3) > 0 {
            return self.send_bad(due, values[0].0, ts_ms, values[0].1);
        }
        let mut open = self.open(due);
        // In what is left of a broken array nothing is refused by itself.
        spoil &= open.broken.is_none();
        let faults = if spoil { bad::faults(&mut self.rng, values.len()) } else { vec![None; values.len()] };
        let (device, names) = (&self.devices[due.device as usize], &self.sensors);
        let entries: Vec<_> = values
            .iter()
            .zip(&faults)
            .map(|((sensor, value), fault)| (names[*sensor as usize].as_str(), *value, *fault))
            .collect();
        open.write(&mut self.rng, |out, rng| write_wide(out, rng, device, ts_ms, &entries));
        for ((sensor, value), fault) in values.iter().zip(&faults) {
            if fault.is_none() {
                self.counts(due, &mut open, ts_ms, *sensor, *value);
            }
        }
        if let Some(first) = faults.iter().flatten().next() {
            open.bad(first.code());
        }
        self.put_back(due, open);
    }

    /// Sends something that is refused where a reading was due.
    fn send_bad(&mut self, due: &Due, sensor: u32, ts_ms: i64, value: Value) {
        if self.rng.u8(..16) == 0 {
            let (payload, code) = bad::whole_message(&mut self.rng);
            let records = vec![Record::Bad { position: -1, code, span: 0..payload.len() }];
            let key = self.devices[due.device as usize].clone();
            self.ready.push_back(Message { key, partition: due.partition, payload: payload.into(), records });
            return;
        }
        let mut open = self.open(due);
        if open.broken.is_some() {
            self.write_narrow(&mut open, due, sensor, ts_ms, value);
            return self.put_back(due, open);
        }
        let rng = &mut self.rng;
        let fields = Fields::new(
            rng,
            &self.devices[due.device as usize],
            &self.sensors[sensor as usize],
            ts_ms,
            value,
        );
        let breaks = rng.u8(..4) == 0;
        match open.form {
            Form::Array { pretty: false } if breaks => match rng.u8(..3) {
                0 if open.count > 0 => {
                    self.ready.push_back(open.break_end(due.partition, rng));
                    return;
                }
                1 if open.count > 0 => open.stray(rng),
                _ => {
                    open.write(rng, |out, rng| bad::broken(out, rng, &fields, true));
                    open.breaks();
                }
            },
            Form::Single | Form::Lines { .. } if breaks => {
                // A first line that is left open might be a value over several lines.
                let may_go_on = open.form == Form::Single || open.count > 0;
                open.write(rng, |out, rng| bad::broken(out, rng, &fields, may_go_on));
                open.bad("syntax");
            }
            _ => {
                let mut code = "";
                open.write(rng, |out, rng| code = bad::refused(out, rng, &fields));
                open.bad(code);
            }
        }
        self.put_back(due, open);
    }
}

/// A wide record of these sensors, some with a fault.
fn write_wide(
    out: &mut Vec<u8>,
    rng: &mut Rng,
    device: &str,
    ts_ms: i64,
    entries: &[(&str, Value, Option<Fault>)],
) {
    let mut values = vec![b'{'];
    for (k, (sensor, value, fault)) in entries.iter().enumerate() {
        if k > 0 {
            values.push(b',');
        }
        match fault {
            Some(Fault::Name(text)) => values.extend_from_slice(text.as_bytes()),
            _ => write::string(&mut values, rng, sensor),
        }
        values.push(b':');
        match fault {
            Some(Fault::Value(text)) => values.extend_from_slice(text.as_bytes()),
            _ => write::value(&mut values, rng, *value),
        }
    }
    values.push(b'}');
    let (mut name, mut ts) = (Vec::new(), Vec::new());
    write::name(&mut name, rng, device);
    write::time(&mut ts, rng, ts_ms);
    write::object(out, rng, &mut [("device", &name), ("ts", &ts), ("values", &values)]);
}
