//! Models of any number of features under one numbering.

use crate::{Model, ModelColumns, NO_MODEL};

/// [`ModelColumns`] for each number of features that occurs.
#[derive(Debug, Clone, Default)]
pub struct ModelTable {
    groups: Vec<ModelColumns>,
    /// Number of features, group, index in it.
    entries: Vec<(usize, usize, u32)>,
}

impl ModelTable {
    /// A table of these models; their indices are 0, 1, 2, …
    ///
    /// The models must have passed [`Model::validate`].
    pub fn new<'a>(models: impl IntoIterator<Item = &'a Model>) -> Self {
        let mut table = Self::default();
        for model in models {
            table.push(model);
        }
        table
    }

    /// Adds a valid model and returns its index. One that is not valid gives no number to any row.
    pub fn push(&mut self, model: &Model) -> u32 {
        let found = self.groups.iter().position(|g| g.columns().features == model.features);
        let group = found.unwrap_or_else(|| {
            self.groups.push(ModelColumns::new(model.features));
            self.groups.len() - 1
        });
        let index = self.groups[group].push(Some(model)).unwrap_or(NO_MODEL);
        self.entries.push((model.features, group, index));
        (self.entries.len() - 1) as u32
    }

    /// Number of models.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of features of one model.
    ///
    /// # Panics
    /// If there is no such model.
    pub fn features(&self, model: u32) -> usize {
        self.entries[model as usize].0
    }

    /// Scores rows as [`crate::Columns::decisions`] does; NaN also where the model takes another number of features than
    /// there are columns.
    ///
    /// # Panics
    /// If the lengths of `models`, `out` and the columns differ, or an index is neither a model's nor [`NO_MODEL`].
    pub fn decisions(&self, models: &[u32], columns: &[&[f64]], out: &mut [f64]) {
        let Some(group) = self.groups.iter().position(|g| g.columns().features == columns.len()) else {
            out.fill(f64::NAN);
            return;
        };
        let index = |m: &u32| match (*m != NO_MODEL).then(|| self.entries[*m as usize]) {
            Some((_, of, index)) if of == group => index,
            _ => NO_MODEL,
        };
        let models: Vec<u32> = models.iter().map(index).collect();
        self.groups[group].columns().decisions(&models, columns, out);
    }
}
