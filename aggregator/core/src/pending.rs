//! Readings and partial states since the last checkpoint.

use arrow::array::{ArrayRef, Float64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use fleetscore_schemas::delta::timestamp_type;
use fleetscore_state::admit::Admitted;
use std::sync::{Arc, LazyLock};

/// Rows are frozen into a batch when there are so many: small enough for the cache, large enough to amortise a call.
const BATCH_ROWS: usize = 8192;
const ROW_BYTES: usize = 24;
/// Key, count, sum, m2, min, max, and time and value of the first and of the last.
const STATE_BYTES: usize = 80;

/// Readings and partial states since the last checkpoint.
#[derive(Debug, Default)]
pub struct Pending {
    keys: Vec<u64>,
    ts: Vec<i64>,
    values: Vec<f64>,
    rows: Vec<RecordBatch>,
    row_count: usize,
    states: States,
    state_bytes: usize,
}

/// Partial states: batches of columns (key, state), see [`fleetscore_state::state_type`].
#[derive(Debug, Default)]
pub struct States {
    /// Parts without a key in common, as the engine has made them.
    pub parts: Vec<Vec<RecordBatch>>,
    /// By what it has done so.
    pub shift: u32,
}

impl Pending {
    /// What has taken the place of readings.
    pub fn of_states(states: States) -> Self {
        // Not by the arrays' sizes: these may be slices of shared columns, each of which would count as the whole.
        let state_bytes = states.parts.iter().flatten().map(|b| b.num_rows() * STATE_BYTES).sum();
        Self { states, state_bytes, ..Self::default() }
    }

    /// Adds accepted readings, and leaves the columns empty.
    pub fn push(&mut self, admitted: &mut Admitted) {
        self.row_count += admitted.keys.len();
        let (len, room) = (admitted.keys.len(), admitted.keys.capacity());
        if self.keys.is_empty() && len >= BATCH_ROWS / 2 && len >= room / 4 * 3 {
            // Nearly a batch of their own, and nearly full: nothing is copied.
            self.keys = std::mem::take(&mut admitted.keys);
            self.ts = std::mem::take(&mut admitted.ts);
            self.values = std::mem::take(&mut admitted.values);
            return self.freeze();
        }
        self.keys.append(&mut admitted.keys);
        self.ts.append(&mut admitted.ts);
        self.values.append(&mut admitted.values);
        if self.keys.len() >= BATCH_ROWS {
            self.freeze();
        }
    }

    /// Batches of readings, with the columns of [`Self::schema`], and of states.
    pub fn into_batches(mut self) -> (Vec<RecordBatch>, States) {
        self.freeze();
        (self.rows, self.states)
    }

    /// The columns of readings: `key` (see [`fleetscore_state::admit::group_key`]), `ts`, `value`.
    pub fn schema() -> SchemaRef {
        static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
            Arc::new(Schema::new(vec![
                Field::new("key", DataType::UInt64, false),
                Field::new("ts", timestamp_type(), false),
                Field::new("value", DataType::Float64, false),
            ]))
        });
        SCHEMA.clone()
    }

    /// Bytes held: readings, and states that have taken the place of readings.
    pub fn bytes(&self) -> usize {
        self.row_count * ROW_BYTES + self.state_bytes
    }

    /// Bytes of readings alone: what compaction can replace.
    pub fn row_bytes(&self) -> usize {
        self.row_count * ROW_BYTES
    }

    /// Whether partial states should take the place of readings, where `bound` bytes may be taken between two checkpoints
    /// and `others` of them are taken by something else.
    ///
    /// From a quarter of the bound on, and not later: a state takes three times as much as a reading, and ten times as much
    /// while it is made. Then again when there are as many bytes of readings as of states, all of which are gone through
    /// each time; or sooner, should each of the readings make a new state, and all of them come to the bound.
    pub fn is_due(&self, others: usize, bound: usize) -> bool {
        let enough = self.row_bytes() >= bound / 8 && self.bytes() + others >= bound / 4;
        let at_most = self.state_bytes + self.row_count * STATE_BYTES;
        enough && (self.row_bytes() >= self.state_bytes || at_most + others >= bound)
    }

    /// Whether there is neither a reading nor a state.
    pub fn is_empty(&self) -> bool {
        self.row_count == 0 && self.states.parts.iter().all(Vec::is_empty)
    }

    fn freeze(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(std::mem::take(&mut self.keys))),
            Arc::new(TimestampMicrosecondArray::from(std::mem::take(&mut self.ts)).with_timezone("UTC")),
            Arc::new(Float64Array::from(std::mem::take(&mut self.values))),
        ];
        let batch = RecordBatch::try_new(Self::schema(), columns)
            .expect("three columns of one length and these types");
        // Slices share the columns: no copy.
        for from in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            self.rows.push(batch.slice(from, BATCH_ROWS.min(batch.num_rows() - from)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_is_due_where_it_pays() {
        let bound = 8 * ROW_BYTES * STATE_BYTES; // an eighth is `STATE_BYTES` readings, or `ROW_BYTES` states
        let cases = [
            ("nothing", 0, 0, 0, false),
            ("less than a quarter", 2 * STATE_BYTES - 1, 0, 0, false),
            ("a quarter", 2 * STATE_BYTES, 0, 0, true),
            ("a quarter with dead letters", STATE_BYTES, 0, bound / 8, true),
            ("hardly a reading among dead letters", STATE_BYTES - 1, 0, bound, false),
            ("as many states", 2 * STATE_BYTES, 2 * ROW_BYTES, 0, true),
            ("more states", STATE_BYTES, ROW_BYTES + 1, 0, false),
            ("new states might be too many", STATE_BYTES, 5 * ROW_BYTES, 0, true),
            ("not with these", STATE_BYTES, 4 * ROW_BYTES, 0, false),
            ("with dead letters they might", STATE_BYTES, 4 * ROW_BYTES, bound / 4, true),
            ("hardly a reading among states", STATE_BYTES - 1, 6 * ROW_BYTES, 0, false),
        ];
        for (name, rows, states, others, due) in cases {
            let pending =
                Pending { row_count: rows, state_bytes: states * STATE_BYTES, ..Pending::default() };
            assert_eq!(pending.is_due(others, bound), due, "{name}");
        }
    }
}
