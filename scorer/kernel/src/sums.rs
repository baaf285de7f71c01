//! Σᵢ coefᵢ · k(x, svᵢ) over eight lanes: of rows of one model where there are enough, else, where there are many, of
//! support vectors.

use std::ops::Add;

use crate::Kernel;
use crate::exp::{exp_of_nonpositive, tanh};
use crate::lanes::{Eight, LANES, Lanes};

/// Models of fewer support vectors are summed in their order; models of this many or more in eight interleaved sums,
/// whether lanes are rows or support vectors. What a row's decision is thus depends on its model alone.
pub(crate) const MANY: usize = 16;

/// A kernel function in steps: over the features in their order, then once more.
pub(crate) trait Form<V: Lanes>: Copy {
    /// The first feature.
    fn first(self, x: V, v: V) -> V;
    /// Each of the others.
    fn next(self, sum: V, x: V, v: V) -> V;
    /// k(x, v) from what the features came to.
    fn finish(self, sum: V) -> V;
}

/// exp(−γ·‖x − v‖²)
#[derive(Clone, Copy)]
pub(crate) struct Rbf<V> {
    pub(crate) minus_gamma: V,
}

impl<V: Lanes> Form<V> for Rbf<V> {
    #[inline(always)]
    fn first(self, x: V, v: V) -> V {
        let d = x - v;
        d * d
    }

    #[inline(always)]
    fn next(self, sum: V, x: V, v: V) -> V {
        let d = x - v;
        sum + d * d
    }

    #[inline(always)]
    fn finish(self, sum: V) -> V {
        exp_of_nonpositive(self.minus_gamma * sum)
    }
}

/// x·v
#[derive(Clone, Copy)]
pub(crate) struct Linear;

impl<V: Lanes> Form<V> for Linear {
    #[inline(always)]
    fn first(self, x: V, v: V) -> V {
        x * v
    }

    #[inline(always)]
    fn next(self, sum: V, x: V, v: V) -> V {
        sum + x * v
    }

    #[inline(always)]
    fn finish(self, sum: V) -> V {
        sum
    }
}

/// (γ·x·v + c)^degree, the power as libsvm takes it: by squaring, from the lowest bit.
#[derive(Clone, Copy)]
pub(crate) struct Poly<V> {
    pub(crate) gamma: V,
    pub(crate) coef0: V,
    pub(crate) degree: u32,
}

impl<V: Lanes> Form<V> for Poly<V> {
    #[inline(always)]
    fn first(self, x: V, v: V) -> V {
        Linear.first(x, v)
    }

    #[inline(always)]
    fn next(self, sum: V, x: V, v: V) -> V {
        Linear.next(sum, x, v)
    }

    #[inline(always)]
    fn finish(self, sum: V) -> V {
        let (mut square, mut product) = (self.gamma * sum + self.coef0, V::splat(1.0));
        let mut t = self.degree;
        while t > 0 {
            if t % 2 == 1 {
                product = product * square;
            }
            square = square * square;
            t /= 2;
        }
        product
    }
}

/// tanh(γ·x·v + c)
#[derive(Clone, Copy)]
pub(crate) struct Sigmoid<V> {
    pub(crate) gamma: V,
    pub(crate) coef0: V,
}

impl<V: Lanes> Form<V> for Sigmoid<V> {
    #[inline(always)]
    fn first(self, x: V, v: V) -> V {
        Linear.first(x, v)
    }

    #[inline(always)]
    fn next(self, sum: V, x: V, v: V) -> V {
        Linear.next(sum, x, v)
    }

    #[inline(always)]
    fn finish(self, sum: V) -> V {
        tanh(self.gamma * sum + self.coef0)
    }
}

/// Evaluates an expression with the form of one kernel in all lanes.
macro_rules! with_form {
    ($lanes:ty, $kernel:expr, $form:ident => $body:expr) => {
        match $kernel {
            Kernel::Rbf { gamma } => {
                let $form = $crate::sums::Rbf { minus_gamma: <$lanes>::splat(-gamma) };
                $body
            }
            Kernel::Linear => {
                let $form = $crate::sums::Linear;
                $body
            }
            Kernel::Poly { gamma, coef0, degree } => {
                let (gamma, coef0) = (<$lanes>::splat(gamma), <$lanes>::splat(coef0));
                let $form = $crate::sums::Poly { gamma, coef0, degree };
                $body
            }
            Kernel::Sigmoid { gamma, coef0 } => {
                let (gamma, coef0) = (<$lanes>::splat(gamma), <$lanes>::splat(coef0));
                let $form = $crate::sums::Sigmoid { gamma, coef0 };
                $body
            }
        }
    };
}
pub(crate) use with_form;

/// One model's numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct One<'a> {
    pub(crate) kernel: Kernel,
    /// One for each feature, or none.
    pub(crate) mean: &'a [f64],
    /// One for each feature, or none.
    pub(crate) scale: &'a [f64],
    pub(crate) rho: f64,
    /// Vectors × features.
    pub(crate) support_vectors: &'a [f64],
    pub(crate) dual_coef: &'a [f64],
}

impl One<'_> {
    /// What is subtracted from a feature, and what then divides it: subtracting 0 and dividing by 1 change nothing.
    #[inline(always)]
    pub(crate) fn scaling(&self, feature: usize) -> (f64, f64) {
        (self.mean.get(feature).copied().unwrap_or(0.0), self.scale.get(feature).copied().unwrap_or(1.0))
    }

    /// (x − mean) / scale, as scikit-learn's `StandardScaler` does it: two roundings, a true division.
    #[inline(always)]
    pub(crate) fn scaled(&self, feature: usize, x: f64) -> f64 {
        let (mean, scale) = self.scaling(feature);
        (x - mean) / scale
    }
}

/// Σᵢ coefᵢ · k(x, svᵢ) of eight rows of one model, in `SUMS` interleaved sums: vector i goes to the sum i mod `SUMS`. `x`
/// has a block of scaled values for each feature.
#[inline(always)]
pub(crate) fn eight_rows<V: Lanes, F: Form<V>, const SUMS: usize>(
    form: F,
    one: &One<'_>,
    x: &[Eight],
) -> [V; SUMS] {
    let mut sums = [V::splat(0.0); SUMS];
    if x.is_empty() {
        return sums;
    }
    let vectors = one.support_vectors.chunks_exact(SUMS * x.len());
    let (coefs, last_coefs) = one.dual_coef.as_chunks::<SUMS>();
    let last = vectors.remainder().chunks_exact(x.len());
    for (vectors, coefs) in vectors.zip(coefs) {
        // As many vectors as there are sums go through the features together: their steps do not wait for each other.
        let mut inner = [V::splat(0.0); SUMS];
        for (i, inner) in inner.iter_mut().enumerate() {
            *inner = form.first(V::load(&x[0].0), V::splat(vectors[i * x.len()]));
        }
        for (k, x_k) in x.iter().enumerate().skip(1) {
            let x_k = V::load(&x_k.0);
            for (i, inner) in inner.iter_mut().enumerate() {
                *inner = form.next(*inner, x_k, V::splat(vectors[i * x.len() + k]));
            }
        }
        for i in 0..SUMS {
            sums[i] = sums[i] + V::splat(coefs[i]) * form.finish(inner[i]);
        }
    }
    for ((sum, v), coef) in sums.iter_mut().zip(last).zip(last_coefs) {
        let mut inner = form.first(V::load(&x[0].0), V::splat(v[0]));
        for (x, v) in x.iter().zip(v).skip(1) {
            inner = form.next(inner, V::load(&x.0), V::splat(*v));
        }
        *sum = *sum + V::splat(*coef) * form.finish(inner);
    }
    sums
}

/// Support vectors of one model, eight at a time.
pub(crate) trait Vectors<V: Lanes>: Copy {
    /// A row's features met with those of the `block`-th eight, which are 0 past the last vector.
    fn meet<F: Form<V>>(self, form: F, x: &[f64], block: usize) -> V;
}

/// Support vectors as the model has them, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct InRows<'a> {
    pub(crate) numbers: &'a [f64],
    pub(crate) features: usize,
}

impl<V: Lanes> Vectors<V> for InRows<'_> {
    #[inline(always)]
    fn meet<F: Form<V>>(self, form: F, x: &[f64], block: usize) -> V {
        let from = (block * LANES * self.features).min(self.numbers.len());
        let rows = &self.numbers[from..];
        let n = |l: usize, k: usize| rows.get(l * self.features + k).copied().unwrap_or(0.0);
        let eight = |k| [n(0, k), n(1, k), n(2, k), n(3, k), n(4, k), n(5, k), n(6, k), n(7, k)];
        let mut inner = form.first(V::splat(x[0]), V::load(&eight(0)));
        for (k, x) in x.iter().enumerate().skip(1) {
            inner = form.next(inner, V::splat(*x), V::load(&eight(k)));
        }
        inner
    }
}

/// Numbers in eights, the last one filled up with 0: coefficients, and support vectors of one feature.
#[derive(Clone, Copy)]
pub(crate) struct Eights<'a> {
    full: &'a [[f64; LANES]],
    last: [f64; LANES],
    /// How many of the last are numbers.
    rest: usize,
}

impl<'a> Eights<'a> {
    #[inline(always)]
    pub(crate) fn new(numbers: &'a [f64]) -> Self {
        let (full, rest) = numbers.as_chunks::<LANES>();
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        Self { full, last, rest: rest.len() }
    }
}

impl<V: Lanes> Vectors<V> for &Eights<'_> {
    #[inline(always)]
    fn meet<F: Form<V>>(self, form: F, x: &[f64], block: usize) -> V {
        form.first(V::splat(x[0]), V::load(self.full.get(block).unwrap_or(&self.last)))
    }
}

/// coef · k(x, v) of eight support vectors.
#[inline(always)]
fn term<V: Lanes, F: Form<V>>(form: F, x: &[f64], vectors: impl Vectors<V>, block: usize, coef: V) -> V {
    coef * form.finish(vectors.meet(form, x, block))
}

/// Many support vectors: the sum for one row of scaled values. Vector i goes to the sum i mod 8, and the eight sums are
/// added as a tree of fixed shape.
#[inline(always)]
pub(crate) fn many<V: Lanes, F: Form<V>>(
    form: F,
    x: &[f64],
    vectors: impl Vectors<V>,
    dual_coef: &Eights<'_>,
) -> f64 {
    let mut sums = V::splat(0.0);
    for (block, coef) in dual_coef.full.iter().enumerate() {
        sums = sums + term(form, x, vectors, block, V::load(coef));
    }
    if dual_coef.rest > 0 {
        let terms = term(form, x, vectors, dual_coef.full.len(), V::load(&dual_coef.last));
        let lane = V::load(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        // Chosen, not multiplied by 0: a lane without a vector may be infinite or NaN.
        sums = lane.if_less(V::splat(dual_coef.rest as f64), sums + terms, sums);
    }
    tree(sums.store())
}

/// The eight interleaved sums as one.
#[inline(always)]
pub(crate) fn tree<T: Copy + Add<Output = T>>(s: [T; LANES]) -> T {
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}
