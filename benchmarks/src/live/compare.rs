//! What is in SQL in the end, beside what the oracle says.

use super::producer::Sent;
use super::sql::Sql;
use crate::Result;
use fleetscore_oracle::expect::Letter;
use fleetscore_oracle::{Key, ModelNumbers, Prediction, Sums, Window, predictions};
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
    /// Fails where the store holds anything else than the oracle says.
    ///
    /// # Errors
    /// With the first differences, or where nothing was compared.
    pub fn exact(&self) -> Result<()> {
        if self.differences > 0 {
            let told = self.told.join("\n");
            return Err(format!("{} differences from the oracle:\n{told}", self.differences).into());
        }
        if self.windows == 0 || self.predictions == 0 {
            return Err(format!("nothing was compared: {self:?}").into());
        }
        Ok(())
    }

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

/// Compares windows, dead letters and predictions within the oracle's tolerances; values are eighths, so sums are exact.
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
        let shown = Window {
            count: row.get(3),
            sum: row.get(4),
            mean: row.get(5),
            min: row.get(6),
            max: row.get(7),
            stddev: row.get(8),
            first: row.get(9),
            last: row.get(10),
        };
        let wrong = match expected.get(&key) {
            None => Some("it is not expected".to_owned()),
            Some(wanted) => wanted.differs(&shown, Sums::Exact),
        };
        if let Some(wrong) = wrong {
            out.differs(|| format!("window {key:?}: {wrong}"));
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
            "scored" => match (row.get::<_, Option<i32>>(4), row.get(5), expected.get(&key)) {
                (Some(label), Some(decision), Some(wanted)) => {
                    wanted.differs(&Prediction { label: label.into(), decision }).is_none()
                }
                _ => false,
            },
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
