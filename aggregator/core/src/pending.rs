//! Readings and groups since the last checkpoint.

use crate::error::AggregatorError;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use fleetscore_schemas::delta::timestamp_type;
use fleetscore_state::admit::Admitted;
use std::any::Any;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

/// Rows are frozen into a batch when there are so many: small enough for the cache, large enough to amortise a call.
const BATCH_ROWS: usize = 8192;
const ROW_BYTES: usize = 24;
/// Of a group at most: the aggregate (72), its key (8 to 16), and its entry in the table of keys (19 to 36).
pub(crate) const GROUP_BYTES: usize = 124;
/// Readings that are grouped in one go, at least, unless memory is short: more than some of these would not stay in the
/// processor's cache.
const GROUP_AT_ONCE: usize = 1 << 17;

/// What an engine has grouped and not given out yet. Readings that it was given are in it.
pub trait Groups: Any + Send + Debug {
    /// What they take.
    fn bytes(&self) -> usize;
}

/// Readings and groups since the last checkpoint.
#[derive(Debug, Default)]
pub struct Pending {
    keys: Vec<u64>,
    ts: Vec<i64>,
    values: Vec<f64>,
    rows: Vec<RecordBatch>,
    row_count: usize,
    groups: Option<Box<dyn Groups>>,
    group_bytes: usize,
}

impl Pending {
    /// What has taken the place of readings.
    pub fn of_groups(groups: Box<dyn Groups>) -> Self {
        Self { group_bytes: groups.bytes(), groups: Some(groups), ..Self::default() }
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

    /// Batches of readings, with the columns of [`Self::schema`], and the groups of those before them.
    ///
    /// # Errors
    /// If the groups are another engine's.
    pub fn into_parts<G: Groups>(mut self) -> Result<(Vec<RecordBatch>, Option<G>), AggregatorError> {
        self.freeze();
        let mine = |groups: Box<dyn Groups>| (groups as Box<dyn Any>).downcast().map(|groups| *groups);
        let groups = self.groups.map(mine).transpose();
        Ok((self.rows, groups.map_err(|_| AggregatorError::internal("these groups are another engine's"))?))
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

    /// Bytes held: readings, and groups that have taken the place of readings.
    pub fn bytes(&self) -> usize {
        self.row_bytes() + self.group_bytes
    }

    /// Bytes of readings alone: what grouping can replace.
    pub fn row_bytes(&self) -> usize {
        self.row_count * ROW_BYTES
    }

    /// Whether groups should take the place of readings, where `bound` bytes may be taken between two checkpoints and
    /// `others` of them are taken by something else.
    ///
    /// When there are as many bytes of readings as of groups, all of which may have to come into the processor's cache for
    /// them; or sooner, should each of the readings make a new group, and all of them come to the bound, but not for less
    /// than `fixed` bytes.
    pub fn is_due(&self, others: usize, bound: usize, fixed: usize) -> bool {
        let at_most = self.group_bytes + self.row_count * GROUP_BYTES;
        let short = at_most + others >= bound;
        (self.row_count >= GROUP_AT_ONCE && self.row_bytes() >= self.group_bytes)
            || (short && self.row_bytes() >= (bound / 16).max(fixed))
    }

    /// Whether there is neither a reading nor a group.
    pub fn is_empty(&self) -> bool {
        self.row_count == 0 && self.groups.is_none()
    }

    fn freeze(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let (keys, ts, values) = (&mut self.keys, &mut self.ts, &mut self.values);
        let columns = Self::batches(std::mem::take(keys), std::mem::take(ts), std::mem::take(values));
        self.rows.extend(columns.expect("a reading puts one value into each of the three"));
    }

    /// Batches of at most 8,192 rows with the columns of [`Self::schema`], which share these vectors.
    ///
    /// # Errors
    /// If the columns are not of one length.
    pub fn batches(
        keys: Vec<u64>,
        ts: Vec<i64>,
        values: Vec<f64>,
    ) -> Result<impl Iterator<Item = RecordBatch>, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(keys)),
            Arc::new(TimestampMicrosecondArray::from(ts).with_timezone("UTC")),
            Arc::new(Float64Array::from(values)),
        ];
        let batch = RecordBatch::try_new(Self::schema(), columns)?;
        let all = batch.num_rows();
        Ok((0..all).step_by(BATCH_ROWS).map(move |from| batch.slice(from, BATCH_ROWS.min(all - from))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grouping_is_due_where_it_pays_or_memory_is_short() {
        let (bound, at_once) = (1 << 40, GROUP_AT_ONCE);
        let cases = [
            ("nothing", 0, 0, 0, bound, false),
            ("too few", at_once - 1, 0, 0, bound, false),
            ("enough", at_once, 0, 0, bound, true),
            ("as many bytes of groups", 31 * at_once, 6 * at_once, 0, bound, true),
            ("more", 31 * at_once, 6 * at_once + 1, 0, bound, false),
            ("new groups might come to the bound", 1000, 0, 0, 1000 * GROUP_BYTES, true),
            ("not with these", 999, 0, 0, 1000 * GROUP_BYTES, false),
            ("with earlier ones they might", 600, 400, 0, 1000 * GROUP_BYTES, true),
            ("with dead letters they might", 600, 0, 400 * GROUP_BYTES, 1000 * GROUP_BYTES, true),
            ("hardly a reading among dead letters", 100, 0, 1000 * GROUP_BYTES, 1000 * GROUP_BYTES, false),
            ("hardly a reading among groups", 100, 900, 0, 1000 * GROUP_BYTES, false),
        ];
        for (name, row_count, groups, others, bound, due) in cases {
            let pending = Pending { row_count, group_bytes: groups * GROUP_BYTES, ..Pending::default() };
            assert_eq!(pending.is_due(others, bound, 0), due, "{name}");
        }
        let pending = Pending { row_count: 1000, ..Pending::default() };
        assert!(pending.is_due(0, 1000 * GROUP_BYTES, 1000 * ROW_BYTES));
        assert!(!pending.is_due(0, 1000 * GROUP_BYTES, 1000 * ROW_BYTES + 1), "not worth a query");
    }
}
