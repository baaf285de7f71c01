//! From entries to the bytes of a shard.

use crate::columns::{self, Shape, number_item, struct_fields, struct_item};
use crate::error::PackError;
use crate::pattern::Pattern;
use crate::{Entry, FORMAT, MAX_NAME, MAX_REASON, ipc};
use arrow::array::{
    ArrayRef, DictionaryArray, FixedSizeListArray, Float64Array, Int32Array, ListArray, RecordBatch,
    RecordBatchOptions, StringBuilder, StructArray, UInt8Array, UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use fleetscore_kernel::{Invalid, MAX_FEATURES, ModelColumns, kind};
use std::collections::HashMap;
use std::sync::Arc;

/// Metadata of a file's schema.
pub(crate) const KEY_FORMAT: &str = "fleetscore.pack";
pub(crate) const KEY_FEATURES: &str = "fleetscore.features";
pub(crate) const KEY_PATTERN: &str = "fleetscore.pattern";

/// Collects entries, ascending by series, and makes a shard of them.
#[derive(Debug)]
pub struct ShardBuilder {
    features: usize,
    pattern: Result<Pattern, PackError>,
    series: Vec<u32>,
    devices: Words,
    sensors: Words,
    models: StringBuilder,
    refused: StringBuilder,
    rows: Vec<u32>,
    columns: ModelColumns,
    normal: Option<Normal>,
    named: bool,
    any_refused: bool,
}

/// Text by keys.
#[derive(Debug, Default)]
struct Words {
    keys: Vec<i32>,
    known: HashMap<String, i32>,
    words: StringBuilder,
}

impl Words {
    fn push(&mut self, word: &str) {
        let next = self.known.len() as i32; // at most one for each entry, whose number fits an i32
        let key = match self.known.get(word) {
            Some(key) => *key,
            None => {
                self.known.insert(word.to_owned(), next);
                self.words.append_value(word);
                next
            }
        };
        self.keys.push(key);
    }

    fn finish(mut self) -> Result<ArrayRef, PackError> {
        let words = Arc::new(self.words.finish());
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(self.keys), words)?))
    }
}

#[derive(Debug)]
struct Normal {
    offsets: Vec<i32>,
    known: Vec<bool>,
    from: Vec<f64>,
    to: Vec<f64>,
}

impl ShardBuilder {
    /// No entries yet; every model takes this many features, and `pattern` with `{device}` and `{sensor}` in it says
    /// which names of models go without saying.
    pub fn new(features: usize, pattern: &str) -> Self {
        let normal = Normal { offsets: vec![0], known: vec![], from: vec![], to: vec![] };
        Self {
            features,
            pattern: Pattern::new(pattern),
            series: vec![],
            devices: Words::default(),
            sensors: Words::default(),
            models: StringBuilder::new(),
            refused: StringBuilder::new(),
            rows: vec![],
            columns: ModelColumns::new(features),
            normal: (features == 1).then_some(normal),
            named: false,
            any_refused: false,
        }
    }

    /// Adds an entry.
    ///
    /// A model without mean or scale is stored with 0 and 1 there, which score to the same bits. A reason longer than
    /// [`MAX_REASON`] is cut. Normal intervals are kept for sets of one feature.
    ///
    /// # Errors
    /// Where the series do not ascend, the model is not valid or takes other features, or a name is longer than
    /// [`MAX_NAME`]; nothing is added then.
    pub fn push(&mut self, entry: &Entry) -> Result<(), PackError> {
        let series = entry.series;
        if let Some(after) = self.series.last().copied().filter(|last| *last >= series) {
            return Err(PackError::Order { series, after });
        }
        for (what, text) in [("device", &entry.device), ("sensor", &entry.sensor), ("model", &entry.model)] {
            if text.len() > MAX_NAME {
                let why = format!("it has {} bytes, and {MAX_NAME} are allowed", text.len());
                return Err(PackError::Text { what, text: text.chars().take(40).collect(), why });
            }
        }
        if let Some((from, to)) =
            entry.normal.iter().flatten().find(|(from, to)| from.partial_cmp(to).is_none_or(|o| o.is_gt()))
        {
            return Err(PackError::Damaged(format!("the normal interval {from} … {to} of series {series}")));
        }
        let bytes = self.models.values_slice().len().max(self.refused.values_slice().len());
        if bytes > i32::MAX as usize - MAX_REASON || self.series.len() >= i32::MAX as usize - 1 {
            return Err(PackError::TooLarge("more text and rows".into()));
        }
        self.columns
            .push(entry.outcome.as_ref().ok())
            .map_err(|why: Invalid| PackError::Model { series, why })?;
        self.series.push(series);
        self.devices.push(&entry.device);
        self.sensors.push(&entry.sensor);
        // A pattern that is not one is told of at the end.
        let by_pattern =
            self.pattern.as_ref().is_ok_and(|p| p.is(&entry.model, &entry.device, &entry.sensor));
        self.models.append_option((!by_pattern).then_some(&entry.model));
        self.named |= !by_pattern;
        let reason = entry.outcome.as_ref().err().map(|reason| cut(reason));
        self.any_refused |= reason.is_some();
        self.refused.append_option(reason);
        self.rows.push(entry.rows);
        if let Some(normal) = &mut self.normal {
            normal.known.push(entry.normal.is_some());
            normal.from.extend(entry.normal.iter().flatten().map(|n| n.0));
            normal.to.extend(entry.normal.iter().flatten().map(|n| n.1));
            normal.offsets.push(normal.from.len() as i32); // bounded by the kernel's samples: thousands a model
        }
        Ok(())
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The bytes of the shard.
    ///
    /// # Errors
    /// For a pattern with a placeholder twice, a number of features that no model may have, and more than Arrow's
    /// 32-bit offsets can hold.
    pub fn finish(mut self) -> Result<Bytes, PackError> {
        let f = self.features;
        let pattern = self.pattern?;
        if f == 0 || f > MAX_FEATURES {
            return Err(PackError::TooLarge(format!("models of {f} features")));
        }
        let of = self.columns.columns();
        let has = |kinds: &[u8]| of.kinds.iter().any(|k| kinds.contains(k));
        let (coef0, degree) = (has(&[kind::POLY, kind::SIGMOID]), has(&[kind::POLY]));
        let numbers = |values: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(values.to_vec())) };
        let rows_of = |values: &[f64]| -> Result<ArrayRef, PackError> {
            let list = FixedSizeListArray::try_new(number_item(), f as i32, numbers(values), None)?;
            Ok(Arc::new(list))
        };
        let mut all = columns::shard(f);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(all.len());
        let mut present = Vec::with_capacity(all.len());
        for column in all.drain(..) {
            let array: Option<ArrayRef> = match column.name {
                "series" => Some(Arc::new(UInt32Array::from(std::mem::take(&mut self.series)))),
                "device" => Some(std::mem::take(&mut self.devices).finish()?),
                "sensor" => Some(std::mem::take(&mut self.sensors).finish()?),
                "model" => self.named.then(|| Arc::new(self.models.finish()) as ArrayRef),
                "refused" => self.any_refused.then(|| Arc::new(self.refused.finish()) as ArrayRef),
                "rows" => Some(Arc::new(UInt32Array::from(std::mem::take(&mut self.rows)))),
                "kernel" => Some(Arc::new(UInt8Array::from(of.kinds.to_vec()))),
                "gamma" => Some(numbers(of.gamma)),
                "rho" => Some(numbers(of.rho)),
                "coef0" => coef0.then(|| numbers(of.coef0)),
                "degree" => degree.then(|| Arc::new(UInt32Array::from(of.degree.to_vec())) as ArrayRef),
                "mean" => Some(rows_of(of.mean)?),
                "scale" => Some(rows_of(of.scale)?),
                "vectors" => {
                    let fields = vec![numbers(of.dual_coef), rows_of(of.support_vectors)?];
                    Some(structs(&column.shape, of.offsets.to_vec(), fields, None)?)
                }
                "normal" => match self.normal.take() {
                    Some(n) => {
                        let known = n.known.contains(&false).then(|| NullBuffer::from(n.known));
                        let fields = vec![numbers(&n.from), numbers(&n.to)];
                        Some(structs(&column.shape, n.offsets, fields, known)?)
                    }
                    None => None,
                },
                other => unreachable!("the columns of a shard are those of `columns::shard`: {other}"),
            };
            if let Some(array) = array {
                arrays.push(array);
                present.push(column);
            }
        }
        let metadata = HashMap::from([
            (KEY_FORMAT.to_owned(), FORMAT.to_string()),
            (KEY_FEATURES.to_owned(), f.to_string()),
            (KEY_PATTERN.to_owned(), pattern.text().to_owned()),
        ]);
        let rows = of.len();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::new(columns::schema(&present, metadata));
        ipc::write(&RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }
}

/// A list of structs.
fn structs(
    shape: &Shape,
    offsets: Vec<i32>,
    fields: Vec<ArrayRef>,
    known: Option<NullBuffer>,
) -> Result<ArrayRef, PackError> {
    let Shape::Structs(names) = shape else { unreachable!("only lists of structs come here") };
    let of = struct_fields(names);
    let items = StructArray::try_new(of.clone(), fields, None)?;
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(ListArray::try_new(struct_item(of), offsets, Arc::new(items), known)?))
}

/// A reason, not longer than is allowed.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
