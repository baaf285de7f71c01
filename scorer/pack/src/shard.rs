//! A shard that can be scored: its columns borrowed from the bytes it came as.

use crate::builder::{KEY_FEATURES, KEY_FORMAT, KEY_PATTERN};
use crate::error::{PackError, damaged};
use crate::ipc::{self, File, Found, Lists, Walk, longest};
use crate::pattern::Pattern;
use crate::{Entry, FORMAT, MAX_NAME, MAX_REASON, columns};
use arrow::array::{Array, StringArray};
use arrow::buffer::ScalarBuffer;
use bytes::Bytes;
use fleetscore_kernel::{Columns, MAX_FEATURES, kind};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Some of a set's models, ascending by series. Cheap to clone.
#[derive(Clone)]
pub struct Shard {
    inner: Arc<Inner>,
}

struct Inner {
    features: usize,
    pattern: Pattern,
    bytes: usize,
    series: ScalarBuffer<u32>,
    devices: Words,
    sensors: Words,
    models: Option<StringArray>,
    refused: Option<StringArray>,
    rows: ScalarBuffer<u32>,
    kinds: ScalarBuffer<u8>,
    gamma: ScalarBuffer<f64>,
    rho: ScalarBuffer<f64>,
    coef0: ScalarBuffer<f64>,
    degree: ScalarBuffer<u32>,
    mean: ScalarBuffer<f64>,
    scale: ScalarBuffer<f64>,
    vectors: Lists,
    dual_coef: ScalarBuffer<f64>,
    support_vectors: ScalarBuffer<f64>,
    normal: Option<Normal>,
}

/// Text by keys, which are within the words.
#[derive(Default)]
struct Words {
    keys: ScalarBuffer<i32>,
    words: Option<StringArray>,
}

impl Words {
    fn read(walk: &mut Walk<'_>, file: &File<'_>, column: &Found) -> Result<Self, PackError> {
        let name = column.name;
        let keys: ScalarBuffer<i32> = walk.numbers(name, walk.rows)?;
        let words = file.words(column.dictionary.unwrap_or_default())?;
        if keys.iter().any(|k| usize::try_from(*k).map_or(true, |k| k >= words.len())) {
            return damaged(format!("a key of `{name}` is not in its dictionary"));
        }
        short(name, &words, MAX_NAME)?;
        Ok(Self { keys, words: Some(words) })
    }

    fn get(&self, row: usize) -> &str {
        let key = self.keys[row] as usize;
        self.words.as_ref().map_or("", |words| words.value(key))
    }
}

struct Normal {
    lists: Lists,
    from: ScalarBuffer<f64>,
    to: ScalarBuffer<f64>,
}

impl Shard {
    /// Opens a shard without copying it (unless the bytes lie at an address that is no multiple of 8).
    ///
    /// The bytes may be anybody's: whatever [`Shard::columns`] and the other methods rely on is checked here, once for
    /// all rows. At most twice their size and 16 KiB are allocated on the way: a copy of the bytes where they are not
    /// aligned, and one model at a time where the numbers are not all good.
    ///
    /// # Errors
    /// [`PackError::Damaged`] says what does not fit; [`PackError::Newer`] for another version's shard.
    pub fn open(bytes: Bytes) -> Result<Self, PackError> {
        let bytes = ipc::aligned(bytes);
        let file = File::open(&bytes)?;
        let (features, pattern) = header(&file)?;
        let pattern = Pattern::new(pattern).or_else(|e| damaged(e.to_string()))?;
        let found = file.columns(&columns::shard(features))?;
        let mut walk = file.batch()?;
        let mut inner = Inner::empty(features, pattern, bytes.len());
        for column in &found {
            inner.read(&mut walk, &file, column)?;
        }
        walk.end()?;
        inner.check()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.inner.series.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.inner.series.is_empty()
    }

    /// Number of features that every model takes.
    pub fn features(&self) -> usize {
        self.inner.features
    }

    /// How the names of models are made where they are not stored, with `{device}` and `{sensor}`.
    pub fn pattern(&self) -> &str {
        self.inner.pattern.text()
    }

    /// The series' ids, strictly ascending: those of the store when the shard was written.
    pub fn series(&self) -> &[u32] {
        &self.inner.series
    }

    /// The models, for scoring; they are valid, entry for entry those of [`Shard::series`].
    pub fn columns(&self) -> Columns<'_> {
        self.inner.columns()
    }

    /// The device of an entry.
    ///
    /// # Panics
    /// As all methods that take a row, if it is not below [`Shard::len`].
    pub fn device(&self, row: usize) -> &str {
        self.inner.devices.get(row)
    }

    /// The sensor of an entry.
    pub fn sensor(&self, row: usize) -> &str {
        self.inner.sensors.get(row)
    }

    /// The name of an entry's model.
    pub fn model_name(&self, row: usize) -> Cow<'_, str> {
        match self.stored_name(row) {
            Some(name) => name.into(),
            None => {
                let mut name = String::new();
                // A String takes whatever is written.
                let _ = self.inner.pattern.write(&mut name, self.device(row), self.sensor(row));
                name.into()
            }
        }
    }

    /// Writes the name of an entry's model, without making a `String` of it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_model_name(&self, row: usize, out: &mut impl fmt::Write) -> fmt::Result {
        match self.stored_name(row) {
            Some(name) => out.write_str(name),
            None => self.inner.pattern.write(out, self.device(row), self.sensor(row)),
        }
    }

    fn stored_name(&self, row: usize) -> Option<&str> {
        self.inner.models.as_ref().filter(|names| names.is_valid(row)).map(|names| names.value(row))
    }

    /// Why an entry has no model; `None` where it has one.
    pub fn refused(&self, row: usize) -> Option<&str> {
        self.inner.refused.as_ref().filter(|r| r.is_valid(row)).map(|r| r.value(row))
    }

    /// Starts and ends of the intervals of values that an entry's model calls normal, ascending; `None` where that is
    /// not known: it was refused, or takes more than one feature.
    pub fn normal(&self, row: usize) -> Option<(&[f64], &[f64])> {
        let normal = self.inner.normal.as_ref()?;
        if normal.lists.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            return None;
        }
        let range = normal.lists.offsets[row] as usize..normal.lists.offsets[row + 1] as usize;
        Some((&normal.from[range.clone()], &normal.to[range]))
    }

    /// Number of rows that an entry's model was trained on, where that is known.
    pub fn rows(&self, row: usize) -> Option<u32> {
        Some(self.inner.rows[row]).filter(|rows| *rows > 0)
    }

    /// A copy of an entry.
    pub fn entry(&self, row: usize) -> Entry {
        let pairs = |(from, to): (&[f64], &[f64])| from.iter().copied().zip(to.iter().copied()).collect();
        Entry {
            series: self.inner.series[row],
            device: self.device(row).to_owned(),
            sensor: self.sensor(row).to_owned(),
            model: self.model_name(row).into_owned(),
            outcome: match self.columns().model(row) {
                Some(model) => Ok(model),
                None => Err(self.refused(row).unwrap_or_default().to_owned()),
            },
            normal: self.normal(row).map(pairs),
            rows: self.inner.rows[row],
        }
    }

    /// The row of a series, if it has one.
    pub fn find(&self, series: u32) -> Option<usize> {
        self.inner.series.binary_search(&series).ok()
    }

    /// Bytes of memory that it holds: those it was opened from.
    pub fn memory(&self) -> usize {
        self.inner.bytes + size_of::<Inner>()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let series = self.series().first().zip(self.series().last());
        f.debug_struct("Shard").field("len", &self.len()).field("series", &series).finish_non_exhaustive()
    }
}

/// Number of features and pattern of names, from a file of the version we know.
fn header<'a>(file: &File<'a>) -> Result<(usize, &'a str), PackError> {
    let features = features(file)?;
    match file.metadata(KEY_PATTERN) {
        Some(pattern) => Ok((features, pattern)),
        None => damaged(format!("its schema has no `{KEY_PATTERN}`")),
    }
}

/// Number of features of a file of the version we know.
pub(crate) fn features(file: &File<'_>) -> Result<usize, PackError> {
    match file.metadata(KEY_FORMAT).map(str::parse) {
        Some(Ok(FORMAT)) => {}
        Some(Ok(found)) if found > FORMAT => return Err(PackError::Newer { found, known: FORMAT }),
        _ => return damaged(format!("its schema has no `{KEY_FORMAT}` that is known")),
    }
    match file.metadata(KEY_FEATURES).map(str::parse) {
        Some(Ok(features)) if (1..=MAX_FEATURES).contains(&features) => Ok(features),
        _ => damaged(format!("`{KEY_FEATURES}` of its schema is not between 1 and {MAX_FEATURES}")),
    }
}

fn short(name: &str, texts: &StringArray, most: usize) -> Result<(), PackError> {
    match longest(texts) {
        found if found > most => damaged(format!("a text of `{name}` has {found} bytes")),
        _ => Ok(()),
    }
}

impl Inner {
    fn empty(features: usize, pattern: Pattern, bytes: usize) -> Self {
        let none = || ScalarBuffer::from(Vec::<f64>::new());
        Self {
            features,
            pattern,
            bytes,
            series: ScalarBuffer::default(),
            devices: Words::default(),
            sensors: Words::default(),
            models: None,
            refused: None,
            rows: ScalarBuffer::default(),
            kinds: ScalarBuffer::default(),
            gamma: none(),
            rho: none(),
            coef0: none(),
            degree: ScalarBuffer::default(),
            mean: none(),
            scale: none(),
            vectors: Lists { offsets: vec![0].into(), nulls: None, items: 0 },
            dual_coef: none(),
            support_vectors: none(),
            normal: None,
        }
    }

    fn read(&mut self, walk: &mut Walk<'_>, file: &File<'_>, column: &Found) -> Result<(), PackError> {
        let (name, rows, f) = (column.name, walk.rows, self.features);
        match name {
            "series" => self.series = walk.numbers(name, rows)?,
            "device" => self.devices = Words::read(walk, file, column)?,
            "sensor" => self.sensors = Words::read(walk, file, column)?,
            "model" => {
                let texts = walk.texts(name, rows, true)?;
                short(name, &texts, MAX_NAME)?;
                self.models = Some(texts);
            }
            "refused" => {
                let texts = walk.texts(name, rows, true)?;
                short(name, &texts, MAX_REASON)?;
                self.refused = Some(texts);
            }
            "rows" => self.rows = walk.numbers(name, rows)?,
            "kernel" => self.kinds = walk.numbers(name, rows)?,
            "gamma" => self.gamma = walk.numbers(name, rows)?,
            "rho" => self.rho = walk.numbers(name, rows)?,
            "coef0" => self.coef0 = walk.numbers(name, rows)?,
            "degree" => self.degree = walk.numbers(name, rows)?,
            "mean" => self.mean = walk.lists_of(name, rows, f)?,
            "scale" => self.scale = walk.lists_of(name, rows, f)?,
            "vectors" => {
                self.vectors = walk.lists(name, rows, false)?;
                self.dual_coef = walk.numbers(name, self.vectors.items)?;
                self.support_vectors = walk.lists_of(name, self.vectors.items, f)?;
            }
            "normal" => {
                let lists = walk.lists(name, rows, true)?;
                let from = walk.numbers(name, lists.items)?;
                let to = walk.numbers(name, lists.items)?;
                self.normal = Some(Normal { lists, from, to });
            }
            other => unreachable!("the columns of a shard are those of `columns::shard`: {other}"),
        }
        Ok(())
    }

    fn columns(&self) -> Columns<'_> {
        Columns {
            features: self.features,
            kinds: &self.kinds,
            gamma: &self.gamma,
            coef0: &self.coef0,
            degree: &self.degree,
            mean: &self.mean,
            scale: &self.scale,
            rho: &self.rho,
            offsets: &self.vectors.offsets,
            dual_coef: &self.dual_coef,
            support_vectors: &self.support_vectors,
        }
    }

    /// What the types alone do not say.
    fn check(&self) -> Result<(), PackError> {
        if let Some(w) = self.series.windows(2).find(|w| w[0] >= w[1]) {
            return damaged(format!("series {} comes after series {}", w[1], w[0]));
        }
        for row in 0..self.kinds.len() {
            let refused = self.refused.as_ref().is_some_and(|r| r.is_valid(row));
            if (self.kinds[row] == kind::NONE) != refused {
                return damaged(format!("entry {row} has both a model and a refusal, or neither"));
            }
        }
        if let Some(normal) = &self.normal {
            if self.features != 1 {
                return damaged("it has normal intervals of models with several features");
            }
            if normal
                .from
                .iter()
                .zip(normal.to.iter())
                .any(|(a, b)| a.partial_cmp(b).is_none_or(|o| o.is_gt()))
            {
                return damaged("a normal interval ends before it starts");
            }
        }
        self.columns().validate().or_else(|e| damaged(e.to_string()))
    }
}
