//! One batch: its readings through the expressions and the rules, into memory.

use crate::engine::{Engine, Evaluated};
use crate::error::AggregatorError;
use crate::letters::{Letters, Refused};
use crate::pending::Pending;
use crate::series::Keys;
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::{BadRecord, ReadingBatch, Span};
use fleetscore_schemas::time::Timestamp;
use fleetscore_state::{Admitted, Fate, Refusal, Rows, Rules, Tide, admit};
use std::collections::BTreeMap;

/// A batch whose expressions are evaluated: done once, however long the batch then waits for its series' ids.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) batch: Box<ReadingBatch>,
    /// `None` where there are no expressions.
    evaluated: Option<Evaluated>,
    /// The clock its readings are judged by.
    pub(crate) clock: Timestamp,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) readings: u64,
    pub(crate) late: u64,
    pub(crate) filtered: u64,
    pub(crate) raised: bool,
    pub(crate) lowest_pane: Option<i64>,
    pub(crate) dead: BTreeMap<DeadLetterCode, u64>,
}

/// The refused readings of one record that have one code in common.
struct Folded {
    span: Span,
    code: DeadLetterCode,
    /// Why the first of them was refused.
    detail: String,
    sensors: Vec<String>,
    readings: usize,
}

fn code_of(refusal: Refusal) -> DeadLetterCode {
    match refusal {
        Refusal::FutureSkew => DeadLetterCode::FutureSkew,
        Refusal::TooLate(_) | Refusal::BelowFloor => DeadLetterCode::TooLate,
        Refusal::Expression => DeadLetterCode::Expression,
        Refusal::SeriesLimit => DeadLetterCode::SeriesLimit,
    }
}

impl Prepared {
    pub(crate) fn new(
        batch: Box<ReadingBatch>,
        engine: &dyn Engine,
        keys: &Keys,
        clock: Timestamp,
    ) -> Result<Self, AggregatorError> {
        let evaluated = engine.evaluate(&batch.readings, &keys.names)?;
        Ok(Self { batch, evaluated, clock })
    }

    /// Whether reading `i` may come to count, so that its series needs an id: what is refused in any case must not use
    /// up `max_series`. `tide` is that before the batch; readings of the batch itself may raise it further.
    pub(crate) fn may_count(&self, i: usize, rules: &Rules, mut tide: Tide) -> bool {
        let ts = self.batch.readings.ts.value(i);
        let too_late = tide
            .at(rules.clock, rules.max_disorder_us)
            .zip(rules.allowed_lateness_us)
            .is_some_and(|(watermark, lateness)| ts < watermark.saturating_sub(lateness));
        let below_floor =
            rules.floor.is_some_and(|f| rules.grid.index_of(ts) < f.div_euclid(rules.grid.len_us));
        let too_early = ts > rules.clock.saturating_add(rules.max_future_skew_us);
        !(too_early || too_late || below_floor)
            && self.evaluated.as_ref().is_none_or(|e| e.fates[i] == Fate::Keep)
    }

    fn reason(&self, i: u32) -> String {
        let reasons = self.evaluated.as_ref().map_or(&[][..], |e| &e.reasons);
        reasons
            .binary_search_by_key(&i, |(at, _)| *at)
            .map_or_else(|_| String::new(), |at| reasons[at].1.clone())
    }

    /// Judges the readings; the columns of accepted ones are left in `admitted`.
    pub(crate) fn admit(&self, ids: &[u32], rules: &Rules, tide: &mut Tide) -> Admitted {
        let readings = &self.batch.readings;
        let mut admitted = Admitted::with_capacity(readings.len());
        let rows = Rows {
            keys: readings.series.values(),
            ids,
            ts: readings.ts.values(),
            values: self.evaluated.as_ref().map_or(readings.value.values(), |e| &e.values),
            fates: self.evaluated.as_ref().map(|e| e.fates.as_slice()),
        };
        admit(rows, rules, tide, &mut admitted);
        admitted
    }

    /// Why a reading was refused: the code of its dead letter, and the words for a person.
    pub(crate) fn explain(&self, i: u32, refusal: Refusal, rules: &Rules) -> (DeadLetterCode, String) {
        let ts = Timestamp(self.batch.readings.ts.value(i as usize));
        let words = match refusal {
            Refusal::FutureSkew => {
                format!("event time {ts} is ahead of the clock ({}) by more than max_future_skew", self.clock)
            }
            Refusal::TooLate(watermark) => format!(
                "event time {ts} is behind the watermark ({}) by more than allowed_lateness",
                Timestamp(watermark)
            ),
            Refusal::BelowFloor => format!(
                "event time {ts} is below the floor of retention{}",
                rules.floor.map_or_else(String::new, |f| format!(" ({})", Timestamp(f)))
            ),
            Refusal::Expression => self.reason(i),
            Refusal::SeriesLimit => "its series would be one more than max_series".to_owned(),
        };
        (code_of(refusal), words)
    }

    /// One dead letter for each code among the refused readings of a record, not one for each reading: each letter has
    /// a copy of the record, and a wide object may hold thousands of readings.
    fn fold(&self, refused: &[(u32, Refusal)], keys: &Keys, rules: &Rules) -> Vec<Folded> {
        let readings = &self.batch.readings;
        let mut letters: Vec<Folded> = Vec::new();
        let mut of_record = 0; // where the letters of the present record begin
        for (i, refusal) in refused {
            let span = readings.spans[*i as usize];
            if letters.last().is_some_and(|l| l.span != span) {
                of_record = letters.len();
            }
            let code = code_of(*refusal);
            let at = letters[of_record..].iter().position(|l| l.code == code).map(|at| at + of_record);
            let at = at.unwrap_or_else(|| {
                let (code, detail) = self.explain(*i, *refusal, rules);
                letters.push(Folded { span, code, detail, sensors: Vec::new(), readings: 0 });
                letters.len() - 1
            });
            let letter = &mut letters[at];
            letter.readings += 1;
            // Other sensors of the same record may have counted.
            if let Some((_, sensor)) = keys.names.get(readings.series.value(*i as usize))
                && letter.sensors.last().is_none_or(|last| last != sensor)
            {
                letter.sensors.push(sensor.to_owned());
            }
        }
        letters
    }

    /// Puts accepted readings into `pending`, and everything that was refused into `letters`.
    pub(crate) fn judge(
        &self,
        keys: &Keys,
        rules: &Rules,
        tide: &mut Tide,
        pending: &mut Pending,
        letters: &mut Letters,
    ) -> Judged {
        let mut admitted = self.admit(&keys.ids, rules, tide);
        let mut judged = Judged {
            readings: admitted.keys.len() as u64,
            late: admitted.late,
            filtered: admitted.filtered,
            raised: admitted.raised,
            lowest_pane: admitted.lowest_pane,
            dead: BTreeMap::new(),
        };
        for bad in &self.batch.bad {
            *judged.dead.entry(bad.code).or_default() += bad.count;
            let BadRecord { span, code, detail, sensors, count } = bad;
            let refused = Refused { span: *span, code: *code, detail, sensors, count: *count };
            letters.push(&self.batch, &refused);
        }
        for letter in self.fold(&admitted.refused, keys, rules) {
            *judged.dead.entry(letter.code).or_default() += 1;
            let detail = match letter.readings {
                1 => letter.detail.clone(),
                n => format!("{}, and {} more", letter.detail, n - 1),
            };
            let Folded { span, code, sensors, .. } = &letter;
            letters
                .push(&self.batch, &Refused { span: *span, code: *code, detail: &detail, sensors, count: 1 });
        }
        pending.push(&mut admitted);
        judged
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
