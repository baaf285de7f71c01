//! Many models as columns, and the batch form of the decision function.

use crate::{Kernel, Model, NO_MODEL, standardise, weighted_sum};

/// Models laid out one after the other, so that scoring a fleet walks through memory instead of following pointers.
#[derive(Debug, Clone, Default)]
pub struct ModelTable {
    heads: Vec<Head>,
    /// Per model: mean, scale, support vectors, coefficients.
    numbers: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    kernel: Kernel,
    rho: f64,
    /// Where the model's numbers start.
    start: usize,
    features: u32,
    support_vectors: u32,
    centred: bool,
    scaled: bool,
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

    /// Adds a valid model and returns its index.
    pub fn push(&mut self, model: &Model) -> u32 {
        let index = self.heads.len();
        self.heads.push(Head {
            kernel: model.kernel,
            rho: model.rho,
            start: self.numbers.len(),
            features: model.features as u32,
            support_vectors: model.dual_coef.len() as u32,
            centred: !model.mean.is_empty(),
            scaled: !model.scale.is_empty(),
        });
        for column in [&model.mean, &model.scale, &model.support_vectors, &model.dual_coef] {
            self.numbers.extend_from_slice(column);
        }
        index as u32
    }

    /// Number of models.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Number of features of one model.
    ///
    /// # Panics
    /// If there is no such model.
    pub fn features(&self, model: u32) -> usize {
        self.heads[model as usize].features as usize
    }

    /// Scores rows: `out[i]` becomes the decision of model `models[i]` for the i-th value of each column, bit for bit
    /// that of [`Model::decision`]. NaN where `models[i]` is [`NO_MODEL`], or where the model takes another number of
    /// features than there are columns.
    ///
    /// # Panics
    /// If the lengths of `models`, `out` and the columns differ, or an index is neither a model's nor [`NO_MODEL`].
    pub fn decisions(&self, models: &[u32], columns: &[&[f64]], out: &mut [f64]) {
        assert_eq!(models.len(), out.len(), "one decision for each row");
        assert!(columns.iter().all(|c| c.len() == models.len()), "columns are as long as there are rows");
        let mut row = vec![0.0; columns.len()];
        for (i, (model, to)) in models.iter().zip(out).enumerate() {
            *to = f64::NAN;
            if *model == NO_MODEL {
                continue;
            }
            let head = &self.heads[*model as usize];
            if head.features as usize != columns.len() {
                continue;
            }
            *to = self.decision(head, i, columns, &mut row);
        }
    }

    #[inline]
    fn decision(&self, head: &Head, i: usize, columns: &[&[f64]], row: &mut [f64]) -> f64 {
        let (n, vectors) = (head.features as usize, head.support_vectors as usize);
        let (means, scales) = (n * usize::from(head.centred), n * usize::from(head.scaled));
        let numbers = &self.numbers[head.start..head.start + means + scales + vectors * (n + 1)];
        let (mean, numbers) = numbers.split_at(means);
        let (scale, numbers) = numbers.split_at(scales);
        let (support_vectors, dual_coef) = numbers.split_at(vectors * n);
        for (f, (to, column)) in row.iter_mut().zip(columns).enumerate() {
            *to = standardise(column[i], mean.get(f).copied(), scale.get(f).copied());
        }
        weighted_sum(head.kernel, support_vectors, dual_coef, row) - head.rho
    }
}
