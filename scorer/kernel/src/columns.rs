//! Many models as columns: what a pack holds, and what the batch form of the decision function walks through.

use crate::sums::One;
use crate::{Invalid, Kernel, MAX_FEATURES, Model, Path, batch};

/// The model index of a row that has none.
pub const NO_MODEL: u32 = u32::MAX;

/// Codes of kernels in [`Columns::kinds`].
pub mod kind {
    /// An entry without a model.
    pub const NONE: u8 = 0;
    /// exp(−γ·‖x − v‖²)
    pub const RBF: u8 = 1;
    /// x·v
    pub const LINEAR: u8 = 2;
    /// (γ·x·v + c)^degree
    pub const POLY: u8 = 3;
    /// tanh(γ·x·v + c)
    pub const SIGMOID: u8 = 4;
}

/// Models as borrowed columns, all with the same number of features.
///
/// With m models, f features and v support vectors in all.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// f, at least 1.
    pub features: usize,
    /// m codes, see [`kind`].
    pub kinds: &'a [u8],
    /// m; 0 where the kernel has none.
    pub gamma: &'a [f64],
    /// m, or empty where no model is `poly` or `sigmoid`.
    pub coef0: &'a [f64],
    /// m, or empty where no model is `poly`.
    pub degree: &'a [u32],
    /// m × f; 0 where nothing is subtracted.
    pub mean: &'a [f64],
    /// m × f; 1 where nothing is divided by.
    pub scale: &'a [f64],
    /// m.
    pub rho: &'a [f64],
    /// m + 1: the support vectors of model i are `offsets[i]..offsets[i + 1]`; they need not start at 0.
    pub offsets: &'a [i32],
    /// Coefficients, one for each support vector.
    pub dual_coef: &'a [f64],
    /// Support vectors, each with its f numbers.
    pub support_vectors: &'a [f64],
}

/// Owned columns, filled model by model.
#[derive(Debug, Clone, Default)]
pub struct ModelColumns {
    features: usize,
    kinds: Vec<u8>,
    gamma: Vec<f64>,
    coef0: Vec<f64>,
    degree: Vec<u32>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    rho: Vec<f64>,
    offsets: Vec<i32>,
    dual_coef: Vec<f64>,
    support_vectors: Vec<f64>,
}

impl ModelColumns {
    /// No models yet, each to come with this many features.
    pub fn new(features: usize) -> Self {
        Self { features, offsets: vec![0], ..Self::default() }
    }

    /// Adds a model, or an entry without one, and returns its index.
    ///
    /// # Errors
    /// [`Invalid`] where the model breaks [`Model::validate`] or takes another number of features; nothing is added.
    pub fn push(&mut self, model: Option<&Model>) -> Result<u32, Invalid> {
        let f = self.features;
        let index = self.kinds.len() as u32;
        if let Some(m) = model {
            m.validate()?;
            if m.features != f {
                return Err(Invalid(format!("takes {} features, and {f} are given", m.features)));
            }
            if i32::try_from(self.dual_coef.len() + m.dual_coef.len()).is_err() {
                return Err(Invalid("there are too many support vectors for one table".into()));
            }
        }
        let (code, gamma, coef0, degree) = match model.map(|m| m.kernel) {
            None => (kind::NONE, 0.0, 0.0, 0),
            Some(Kernel::Rbf { gamma }) => (kind::RBF, gamma, 0.0, 0),
            Some(Kernel::Linear) => (kind::LINEAR, 0.0, 0.0, 0),
            Some(Kernel::Poly { gamma, coef0, degree }) => (kind::POLY, gamma, coef0, degree),
            Some(Kernel::Sigmoid { gamma, coef0 }) => (kind::SIGMOID, gamma, coef0, 0),
        };
        self.kinds.push(code);
        self.gamma.push(gamma);
        self.coef0.push(coef0);
        self.degree.push(degree);
        self.rho.push(model.map_or(0.0, |m| m.rho));
        let filled = |column: Option<&Vec<f64>>, empty: f64| match column {
            Some(c) if !c.is_empty() => c.clone(),
            _ => vec![empty; f],
        };
        self.mean.extend(filled(model.map(|m| &m.mean), 0.0));
        self.scale.extend(filled(model.map(|m| &m.scale), 1.0));
        if let Some(m) = model {
            self.dual_coef.extend_from_slice(&m.dual_coef);
            self.support_vectors.extend_from_slice(&m.support_vectors);
        }
        self.offsets.push(self.dual_coef.len() as i32); // checked above
        Ok(index)
    }

    /// The columns.
    pub fn columns(&self) -> Columns<'_> {
        Columns {
            features: self.features,
            kinds: &self.kinds,
            gamma: &self.gamma,
            coef0: &self.coef0,
            degree: &self.degree,
            mean: &self.mean,
            scale: &self.scale,
            rho: &self.rho,
            offsets: &self.offsets,
            dual_coef: &self.dual_coef,
            support_vectors: &self.support_vectors,
        }
    }
}

/// Whether all pass, without leaving early: so it takes registers full at a time.
fn all<T>(values: &[T], passes: impl Fn(&T) -> bool) -> bool {
    values.chunks(4096).all(|c| c.iter().fold(true, |all, v| all & passes(v)))
}

fn all_finite(numbers: &[f64]) -> bool {
    all(numbers, |v| v.is_finite())
}

impl Columns<'_> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Checks everything the decision function relies on, for all models: lengths, offsets, codes, finite numbers.
    ///
    /// # Errors
    /// [`Invalid`] names the column and the entry.
    pub fn validate(&self) -> Result<(), Invalid> {
        let (m, f) = (self.len(), self.features);
        let bad = |what: String| Err(Invalid(what));
        if f == 0 || f > MAX_FEATURES {
            return bad(format!("features is {f}: between 1 and {MAX_FEATURES} are supported"));
        }
        let vectors = self.dual_coef.len();
        let lengths = [
            ("gamma", self.gamma.len(), m),
            ("mean", self.mean.len(), m * f),
            ("scale", self.scale.len(), m * f),
            ("rho", self.rho.len(), m),
            ("offsets", self.offsets.len(), m + 1),
            ("support_vectors", self.support_vectors.len(), vectors * f),
        ];
        for (name, found, wanted) in lengths {
            if found != wanted {
                return bad(format!("{name} has {found} values, and {wanted} are wanted"));
            }
        }
        for (name, found) in [("coef0", self.coef0.len()), ("degree", self.degree.len())] {
            if found != 0 && found != m {
                return bad(format!("{name} has {found} values, and {m} are wanted"));
            }
        }
        let inside = |o: &i32| usize::try_from(*o).is_ok_and(|o| o <= vectors);
        if !self.offsets.iter().all(inside) || self.offsets.windows(2).any(|w| w[0] > w[1]) {
            return bad("the offsets of support vectors do not ascend within them".into());
        }
        if self.surely_valid() {
            return Ok(());
        }
        for i in 0..m {
            if let Some(model) = self.model(i) {
                model.validate().map_err(|e| Invalid(format!("entry {i}: {e}")))?;
            } else if self.kinds[i] != kind::NONE {
                return bad(format!("entry {i}: the kernel {} is not known", self.kinds[i]));
            }
        }
        Ok(())
    }

    /// Whether every number passes, seen column by column without a look at which entry it belongs to. Where this is
    /// false, entries may still be valid: what belongs to an entry without a model, or to none, may be anything.
    fn surely_valid(&self) -> bool {
        let numbers = [self.mean, self.scale, self.rho, self.dual_coef, self.support_vectors, self.coef0];
        let known = kind::NONE..=kind::SIGMOID;
        let without_gamma = |code: u8| code == kind::NONE || code == kind::LINEAR;
        numbers.into_iter().all(all_finite)
            && all(self.scale, |s| *s != 0.0)
            && all(self.kinds, |code| known.contains(code))
            && self
                .kinds
                .iter()
                .zip(self.gamma)
                .all(|(code, gamma)| without_gamma(*code) || (gamma.is_finite() && *gamma > 0.0))
            && self
                .kinds
                .iter()
                .zip(self.offsets.windows(2))
                .all(|(code, w)| *code == kind::NONE || w[0] < w[1])
    }

    /// A copy of one model; `None` for an entry without one.
    pub fn model(&self, i: usize) -> Option<Model> {
        let f = self.features;
        let vectors = self.offsets[i] as usize..self.offsets[i + 1] as usize;
        Some(Model {
            features: f,
            mean: self.mean[i * f..(i + 1) * f].to_vec(),
            scale: self.scale[i * f..(i + 1) * f].to_vec(),
            kernel: self.kernel(i)?,
            support_vectors: self.support_vectors[vectors.start * f..vectors.end * f].to_vec(),
            dual_coef: self.dual_coef[vectors].to_vec(),
            rho: self.rho[i],
        })
    }

    fn kernel(&self, i: usize) -> Option<Kernel> {
        let coef0 = || self.coef0.get(i).copied().unwrap_or(0.0);
        match self.kinds[i] {
            kind::RBF => Some(Kernel::Rbf { gamma: self.gamma[i] }),
            kind::LINEAR => Some(Kernel::Linear),
            kind::POLY => Some(Kernel::Poly {
                gamma: self.gamma[i],
                coef0: coef0(),
                degree: self.degree.get(i).copied().unwrap_or(0),
            }),
            kind::SIGMOID => Some(Kernel::Sigmoid { gamma: self.gamma[i], coef0: coef0() }),
            _ => None,
        }
    }

    /// One entry's numbers, if it has a model.
    #[inline(always)]
    pub(crate) fn one(&self, i: usize) -> Option<One<'_>> {
        let f = self.features;
        let vectors = self.offsets[i] as usize..self.offsets[i + 1] as usize;
        Some(One {
            kernel: self.kernel(i)?,
            mean: &self.mean[i * f..(i + 1) * f],
            scale: &self.scale[i * f..(i + 1) * f],
            rho: self.rho[i],
            support_vectors: &self.support_vectors[vectors.start * f..vectors.end * f],
            dual_coef: &self.dual_coef[vectors],
        })
    }

    /// Scores rows: `out[i]` becomes the decision of model `models[i]` for the i-th value of each column of inputs, bit
    /// for bit that of [`Model::decision`]. NaN where `models[i]` is [`NO_MODEL`] or an entry without a model.
    ///
    /// Quickest where rows of one model are neighbours and models come in ascending order. The columns must have passed
    /// [`Columns::validate`]; what has not may panic or give any number, but is never read out of bounds.
    ///
    /// # Panics
    /// If the lengths of `models`, `out` and the inputs differ, there are not as many inputs as features, or an index is
    /// neither an entry's nor [`NO_MODEL`].
    pub fn decisions(&self, models: &[u32], inputs: &[&[f64]], out: &mut [f64]) {
        self.decisions_on(Path::detected(), models, inputs, out);
    }

    /// [`Columns::decisions`] on a path of one's choice; the results are the same bits.
    ///
    /// # Panics
    /// As there, and if the machine lacks the path.
    pub fn decisions_on(&self, path: Path, models: &[u32], inputs: &[&[f64]], out: &mut [f64]) {
        assert_eq!(models.len(), out.len(), "one decision for each row");
        self.check_inputs(inputs, models.len());
        batch::decisions(path, self, models, inputs, out);
    }

    /// Scores many rows of one model: `out[i]` becomes its decision for the i-th value of each column of inputs, bit for
    /// bit that of [`Columns::decisions`]; NaN for an entry without a model.
    ///
    /// # Panics
    /// If the lengths of `out` and the inputs differ, there are not as many inputs as features, or there is no such
    /// entry.
    pub fn decisions_of(&self, model: u32, inputs: &[&[f64]], out: &mut [f64]) {
        self.decisions_of_on(Path::detected(), model, inputs, out);
    }

    /// [`Columns::decisions_of`] on a path of one's choice; the results are the same bits.
    ///
    /// # Panics
    /// As there, and if the machine lacks the path.
    pub fn decisions_of_on(&self, path: Path, model: u32, inputs: &[&[f64]], out: &mut [f64]) {
        self.check_inputs(inputs, out.len());
        match self.one(model as usize) {
            Some(one) => batch::decisions_of(path, &one, inputs, out),
            None => out.fill(f64::NAN),
        }
    }

    fn check_inputs(&self, inputs: &[&[f64]], rows: usize) {
        assert_eq!(inputs.len(), self.features, "one column for each feature");
        assert!(inputs.iter().all(|c| c.len() == rows), "columns are as long as there are rows");
    }
}
