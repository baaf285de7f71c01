//! What is in SQL in the end, beside what the oracle says.

use super::producer::Sent;
use super::sql::Sql;
use crate::Result;
use fleetscore_oracle::expect::Letter;
use fleetscore_oracle::{Key, ModelNumbers, Window, predictions};
use std::collections::{BTreeMap, BTreeSet};

/// Models by device and sensor.
pub type Models = BTreeMap<(String, String), ModelNumbers>;

/// How many differences are told in words.
const TOLD: usize = 8;

/// How much was compared, and what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Windows that were expected.
    pub windows: u64,
    /// Scored predictions that were expected.
    pub predictions: u64,
    /// Dead letters that were expected.
    pub letters: u64,
    /// Rows that are missing, too many or others.
    pub differences: u64,
    /// The first of them.
    pub told: Vec<String>,
}

impl Compared {
    fn differs(&mut self, what: impl FnOnce() -> String) {
        self.differences += 1;
        if self.told.len() < TOLD {
            self.told.push(what());
        }
    }
}

/// How many windows have a model.
pub(crate) fn expected_scored(windows: &BTreeMap<Key, Window>, models: &Models) -> u64 {
    windows.keys().filter(|k| models.contains_key(&(k.1.clone(), k.2.clone()))).count() as u64
}

/// Compares windows, dead letters and predictions: counts, least, greatest, first and last values, sums (values are eighths) and
/// labels exactly; deviations to 1e-11, decisions to 1e-14.
///
/// # Errors
/// The store does not answer.
pub fn compare(sql: &mut Sql, sent: &Sent, models: &Models) -> Result<Compared> {
    let mut out = Compared::default();
    windows(sql, &sent.windows, &mut out)?;
    scored(sql, sent, models, &mut out)?;
    letters(sql, &sent.letters, &mut out)?;
    Ok(out)
}

const MICROS: &str = "(extract(epoch FROM window_start) * 1000000)::bigint";

fn windows(sql: &mut Sql, expected: &BTreeMap<Key, Window>, out: &mut Compared) -> Result<()> {
    let rows = sql.rows(&format!(
        "SELECT {MICROS}, device, sensor, readings, sum, mean, min, max, stddev, first, last FROM windows"
    ))?;
    let mut seen = BTreeSet::new();
    for row in &rows {
        let key: Key = (row.get(0), row.get(1), row.get(2));
        let stddev: Option<f64> = row.get(8);
        let f = |i: usize| row.get::<_, f64>(i);
        match expected.get(&key) {
            None => out.differs(|| format!("window {key:?} is not expected")),
            Some(w) => {
                let exact = row.get::<_, i64>(3) == w.count
                    && [f(4), f(5), f(6), f(7), f(9), f(10)]
                        == [w.sum, w.mean, w.min, w.max, w.first, w.last];
                let deviation = match (stddev, w.stddev) {
                    (Some(a), Some(b)) => {
                        (a - b).abs() <= 1e-11 * b.abs().max(a.abs()).max(w.max.abs() * 0.01)
                    }
                    (a, b) => a == b,
                };
                if !exact || !deviation {
                    out.differs(|| format!("window {key:?} is {row:?}, not {w:?}"));
                }
            }
        }
        if !seen.insert(key.clone()) {
            out.differs(|| format!("window {key:?} is there twice"));
        }
    }
    for key in expected.keys().filter(|k| !seen.contains(*k)) {
        out.differs(|| format!("window {key:?} is missing"));
    }
    out.windows = expected.len() as u64;
    Ok(())
}

fn scored(sql: &mut Sql, sent: &Sent, models: &Models, out: &mut Compared) -> Result<()> {
    let expected = predictions(&sent.windows, models);
    let rows = sql.rows(&format!(
        "SELECT {MICROS}, device, sensor, status, prediction::int, decision, stale FROM predictions"
    ))?;
    let mut seen = BTreeSet::new();
    for row in &rows {
        let key: Key = (row.get(0), row.get(1), row.get(2));
        let status: String = row.get(3);
        let has_model = models.contains_key(&(key.1.clone(), key.2.clone()));
        let right = match status.as_str() {
            "scored" => expected.get(&key).is_some_and(|p| {
                row.get::<_, Option<i32>>(4).map(i64::from) == Some(p.label)
                    && row.get::<_, Option<f64>>(5).is_some_and(|d| (d - p.decision).abs() <= 1e-14)
            }),
            "no_data" => has_model && !sent.windows.contains_key(&key),
            "no_model" => !has_model && sent.windows.contains_key(&key),
            _ => false,
        };
        if !right || row.get::<_, bool>(6) {
            let (label, decision) = (row.get::<_, Option<i32>>(4), row.get::<_, Option<f64>>(5));
            let stale: bool = row.get(6);
            out.differs(|| {
                let wanted = expected.get(&key);
                format!(
                    "prediction {key:?}: {status}, {label:?}, {decision:?}, stale {stale}; not {wanted:?}"
                )
            });
        }
        if !seen.insert(key.clone()) {
            out.differs(|| format!("prediction {key:?} is there twice"));
        }
    }
    // Every window has a row; a model without data has one in every interval that has data, from the first one on.
    let silent = sent.windows.keys().map(|k| k.0).filter(|t| *t >= sent.start_us).collect::<BTreeSet<_>>();
    let silent = silent.into_iter().flat_map(|t| models.keys().map(move |(d, s)| (t, d.clone(), s.clone())));
    for key in
        sent.windows.keys().cloned().chain(silent).filter(|k| !seen.contains(k)).collect::<BTreeSet<_>>()
    {
        out.differs(|| format!("prediction {key:?} is missing"));
    }
    out.predictions = expected.len() as u64;
    Ok(())
}

fn letters(sql: &mut Sql, expected: &[Letter], out: &mut Compared) -> Result<()> {
    let rows =
        sql.rows("SELECT kafka_partition, kafka_offset, position, code, payload, count FROM dead_letters")?;
    let mut there: BTreeMap<Letter, i64> = BTreeMap::new();
    for row in &rows {
        let letter = Letter {
            partition: row.get::<_, i32>(0).unsigned_abs(),
            offset: row.get(1),
            position: row.get(2),
            code: row.get(3),
            payload: row.get::<_, Option<Vec<u8>>>(4).unwrap_or_default(),
        };
        *there.entry(letter).or_default() += row.get::<_, i64>(5);
    }
    for letter in expected {
        *there.entry(letter.clone()).or_default() -= 1;
    }
    for (letter, n) in there.iter().filter(|(_, n)| **n != 0) {
        let Letter { partition, offset, position, code, .. } = letter;
        out.differs(|| format!("dead letter {partition}/{offset}/{position} {code}: {n} times too often"));
    }
    out.letters = expected.len() as u64;
    Ok(())
}
