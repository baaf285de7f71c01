//! Check vectors: rows of features with the decisions that a shard's models gave when it was written.

use crate::builder::{KEY_FEATURES, KEY_FORMAT};
use crate::columns::{self, number_item};
use crate::error::{PackError, damaged};
use crate::ipc::{self, File};
use crate::{FORMAT, shard};
use arrow::array::{FixedSizeListArray, Float64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// Collects check vectors and makes a file of them.
#[derive(Debug)]
pub struct ChecksBuilder {
    features: usize,
    entries: Vec<u32>,
    inputs: Vec<f64>,
    decisions: Vec<f64>,
}

impl ChecksBuilder {
    /// None yet, each to come with this many features.
    pub fn new(features: usize) -> Self {
        Self { features, entries: vec![], inputs: vec![], decisions: vec![] }
    }

    /// Adds a row of features with the decision of a shard's entry, given by its row; `false` if it has another number
    /// of features, and is not added.
    pub fn push(&mut self, entry: u32, input: &[f64], decision: f64) -> bool {
        if input.len() != self.features {
            return false;
        }
        self.entries.push(entry);
        self.inputs.extend_from_slice(input);
        self.decisions.push(decision);
        true
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// Where Arrow refuses the columns: a bug.
    pub fn finish(self) -> Result<Bytes, PackError> {
        let metadata = HashMap::from([
            (KEY_FORMAT.to_owned(), FORMAT.to_string()),
            (KEY_FEATURES.to_owned(), self.features.to_string()),
        ]);
        let schema = columns::schema(&columns::checks(self.features), metadata);
        let inputs = Arc::new(Float64Array::from(self.inputs));
        let batch = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(UInt32Array::from(self.entries)),
                Arc::new(FixedSizeListArray::try_new(number_item(), self.features as i32, inputs, None)?),
                Arc::new(Float64Array::from(self.decisions)),
            ],
        )?;
        ipc::write(&batch)
    }
}

/// Check vectors, read without copying.
#[derive(Debug, Clone)]
pub struct Checks {
    features: usize,
    entries: ScalarBuffer<u32>,
    inputs: ScalarBuffer<f64>,
    decisions: ScalarBuffer<f64>,
}

impl Checks {
    /// Opens a file of check vectors; as safe as [`crate::Shard::open`] is.
    ///
    /// # Errors
    /// [`PackError::Damaged`] says what does not fit.
    pub fn open(bytes: Bytes) -> Result<Self, PackError> {
        let bytes = ipc::aligned(bytes);
        let file = File::open(&bytes)?;
        let features = shard::features(&file)?;
        if file.columns(&columns::checks(features))?.len() != 3 {
            return damaged("it has not the columns of check vectors");
        }
        let mut walk = file.batch()?;
        let entries = walk.numbers("entry", walk.rows)?;
        let inputs = walk.lists_of("input", walk.rows, features)?;
        let decisions = walk.numbers("decision", walk.rows)?;
        walk.end()?;
        Ok(Self { features, entries, inputs, decisions })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of features in each row.
    pub fn features(&self) -> usize {
        self.features
    }

    /// For each row the shard's entry that it is for; nothing says that the shard has it.
    pub fn entries(&self) -> &[u32] {
        &self.entries
    }

    /// The rows of features, one after the other.
    pub fn inputs(&self) -> &[f64] {
        &self.inputs
    }

    /// For each row the decision that was recorded.
    pub fn decisions(&self) -> &[f64] {
        &self.decisions
    }
}
