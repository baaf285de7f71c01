//! The walk over rows: which rows are summed together, and where their numbers come from.

use crate::lanes::{Eight, LANES, Lanes};
use crate::path::Task;
use crate::sums::{
    Eights, Form, InRows, Linear, MANY, One, Poly, Rbf, Sigmoid, eight_rows, many, tree, with_form,
};
use crate::{Columns, Kernel, NO_MODEL, Path, kind};

/// So many neighbouring rows of one model are scored as its batch, and so many of several features fill eight lanes well
/// enough.
const RUN: usize = 4;

/// Memory that is used again from one model to the next.
#[derive(Default)]
struct Scratch {
    /// Eight rows' scaled values, feature by feature.
    x: Vec<Eight>,
    /// One row's scaled values.
    row: Vec<f64>,
}

/// See [`Columns::decisions_on`], which has checked the lengths.
pub(crate) fn decisions(
    path: Path,
    columns: &Columns<'_>,
    models: &[u32],
    inputs: &[&[f64]],
    out: &mut [f64],
) {
    let mut scratch = Scratch::default();
    let mut waiting = [const { Waiting::EMPTY }; 4];
    let mut i = 0;
    while i < models.len() {
        let m = models[i];
        let run = run_of(&models[i..]);
        let rows = i..i + run;
        i = rows.end;
        let Some(one) = (m != NO_MODEL).then(|| columns.one(m as usize)).flatten() else {
            out[rows].fill(f64::NAN);
            continue;
        };
        if run >= RUN || one.dual_coef.is_empty() || one.dual_coef.len() >= MANY {
            let of_one = Rows { one: &one, inputs, from: rows.start };
            path.run(RowsOfOne { rows: of_one, out: &mut out[rows], scratch: &mut scratch });
        } else {
            let degree = if let Kernel::Poly { degree, .. } = one.kernel { degree } else { 0 };
            let queue = &mut waiting[usize::from(columns.kinds[m as usize] - kind::RBF)];
            for row in rows {
                if degree != queue.degree || queue.len == LANES {
                    queue.flush(path, columns, inputs, out);
                    queue.degree = degree;
                }
                queue.rows[queue.len] = (row, m);
                queue.len += 1;
            }
        }
    }
    for queue in &mut waiting {
        queue.flush(path, columns, inputs, out);
    }
}

/// How many neighbours the first model has, itself included.
fn run_of(models: &[u32]) -> usize {
    const STRIDE: usize = 16;
    let count = |from: usize, to: usize| models[from..to].iter().take_while(|m| **m == models[0]).count();
    let first = count(0, models.len().min(STRIDE));
    if first < STRIDE {
        return first;
    }
    // Long ones in strides, which take a step instead of one for each row.
    let same = |stride: &&[u32]| stride.iter().fold(true, |all, m| all & (*m == models[0]));
    let strides = models.chunks_exact(STRIDE).take_while(same).count() * STRIDE;
    strides + count(strides, models.len())
}

/// Rows of one model, from the first to as many as there is room for.
pub(crate) fn decisions_of(path: Path, one: &One<'_>, inputs: &[&[f64]], out: &mut [f64]) {
    let rows = Rows { one, inputs, from: 0 };
    path.run(RowsOfOne { rows, out, scratch: &mut Scratch::default() });
}

/// A row that has its model to itself.
pub(crate) fn decision(path: Path, one: &One<'_>, inputs: &[&[f64]]) -> f64 {
    let mut out = [0.0];
    decisions_of(path, one, inputs, &mut out);
    out[0]
}

/// Rows of one model, from one on.
#[derive(Clone, Copy)]
struct Rows<'a> {
    one: &'a One<'a>,
    inputs: &'a [&'a [f64]],
    from: usize,
}

/// As many rows of one model as there is room for.
struct RowsOfOne<'a> {
    rows: Rows<'a>,
    out: &'a mut [f64],
    scratch: &'a mut Scratch,
}

impl Task for RowsOfOne<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Self { rows, out, scratch } = self;
        let (one, features) = (rows.one, rows.inputs.len());
        // Of many support vectors eight can be taken at once instead: quicker for rows that fill few lanes, and with one
        // feature, where the vectors lie in memory as lanes want them, for all that do not fill them.
        let alone = match one.dual_coef.len() {
            0..MANY => 0,
            _ if features == 1 => LANES - 1,
            _ => RUN - 1,
        };
        let rest = out.len() % LANES;
        let (in_lanes, rest) = out.split_at_mut(if rest <= alone { out.len() - rest } else { out.len() });
        if !in_lanes.is_empty() {
            let mut small = [Eight::ZERO; 8];
            let x = taken(&mut small, &mut scratch.x, Eight::ZERO, features);
            with_form!(V, one.kernel, form => rows.in_lanes::<V, _>(form, in_lanes, x));
        }
        if !rest.is_empty() {
            let mut small = [0.0; 8];
            let x = taken(&mut small, &mut scratch.row, 0.0, features);
            let rows = Rows { from: rows.from + in_lanes.len(), ..rows };
            with_form!(V, one.kernel, form => rows.alone::<V, _>(form, rest, x));
        }
    }
}

/// So many of an array that is at hand, or of memory that can grow.
#[inline(always)]
fn taken<'a, T: Copy>(small: &'a mut [T], large: &'a mut Vec<T>, empty: T, n: usize) -> &'a mut [T] {
    match small.get_mut(..n) {
        Some(small) => small,
        None => {
            large.resize(n, empty);
            large
        }
    }
}

impl Rows<'_> {
    /// Eight at a time.
    #[inline(always)]
    fn in_lanes<V: Lanes, F: Form<V>>(self, form: F, out: &mut [f64], x: &mut [Eight]) {
        let rho = V::splat(self.one.rho);
        for (block, to) in out.chunks_mut(LANES).enumerate() {
            self.scaled::<V>(block * LANES, to.len(), x);
            let sum = if self.one.dual_coef.len() < MANY {
                let [sum] = eight_rows::<V, F, 1>(form, self.one, x);
                sum
            } else {
                tree(eight_rows::<V, F, LANES>(form, self.one, x))
            };
            to.copy_from_slice(&(sum - rho).store()[..to.len()]);
        }
    }

    /// The values of up to eight rows, scaled, feature by feature; fewer leave lanes at what 0 becomes.
    #[inline(always)]
    fn scaled<V: Lanes>(self, first: usize, rows: usize, x: &mut [Eight]) {
        let at = self.from + first;
        for (k, (x, input)) in x.iter_mut().zip(self.inputs).enumerate() {
            let mut raw = [0.0; LANES];
            match input[at..].first_chunk::<LANES>() {
                Some(eight) if rows == LANES => raw = *eight,
                _ => raw[..rows].copy_from_slice(&input[at..at + rows]),
            }
            let (mean, scale) = self.one.scaling(k);
            *x = Eight(((V::load(&raw) - V::splat(mean)) / V::splat(scale)).store());
        }
    }

    /// One at a time, with many support vectors.
    #[inline(always)]
    fn alone<V: Lanes, F: Form<V>>(self, form: F, out: &mut [f64], x: &mut [f64]) {
        let Self { one, inputs, from } = self;
        let coef = Eights::new(one.dual_coef);
        for (i, to) in out.iter_mut().enumerate() {
            for (k, (x, input)) in x.iter_mut().zip(inputs).enumerate() {
                *x = one.scaled(k, input[from + i]);
            }
            let sum = if x.len() == 1 {
                many::<V, _>(form, x, &Eights::new(one.support_vectors), &coef)
            } else {
                many::<V, _>(form, x, InRows { numbers: one.support_vectors, features: x.len() }, &coef)
            };
            *to = sum - one.rho;
        }
    }
}

/// Rows of different models of few support vectors and one kind of kernel, until there are eight.
struct Waiting {
    /// Row and model.
    rows: [(usize, u32); LANES],
    len: usize,
    /// The exponent of all of them, where the kernel has one.
    degree: u32,
}

impl Waiting {
    const EMPTY: Self = Self { rows: [(0, 0); LANES], len: 0, degree: 0 };

    /// Scores those that wait.
    fn flush(&mut self, path: Path, columns: &Columns<'_>, inputs: &[&[f64]], out: &mut [f64]) {
        if self.len == 0 {
            return;
        }
        // Lanes without a row repeat the first.
        let first = self.rows[0];
        self.rows[self.len..].fill(first);
        let decided = path.run(Block::new(columns, self, inputs));
        for ((row, _), decision) in self.rows[..self.len].iter().zip(decided) {
            out[*row] = decision;
        }
        self.len = 0;
    }
}

/// Eight rows, each with its model.
struct Block<'a> {
    columns: &'a Columns<'a>,
    inputs: &'a [&'a [f64]],
    rows: [(usize, u32); LANES],
    /// Each model's first support vector, and how many there are.
    vectors: [(usize, usize); LANES],
    degree: u32,
}

impl Task for Block<'_> {
    type Output = [f64; LANES];

    #[inline(always)]
    fn run<V: Lanes>(self) -> [f64; LANES] {
        let gamma = self.each::<V>(|c, m| c.gamma[m]);
        let coef0 = |c: &Columns<'_>, m: usize| c.coef0.get(m).copied().unwrap_or(0.0);
        let sums: V = match self.columns.kinds[self.rows[0].1 as usize] {
            kind::RBF => self.sums(Rbf { minus_gamma: V::splat(-1.0) * gamma }),
            kind::LINEAR => self.sums(Linear),
            kind::POLY => self.sums(Poly { gamma, coef0: self.each::<V>(coef0), degree: self.degree }),
            _ => self.sums(Sigmoid { gamma, coef0: self.each::<V>(coef0) }),
        };
        (sums - self.each::<V>(|c, m| c.rho[m])).store()
    }
}

impl<'a> Block<'a> {
    fn new(columns: &'a Columns<'a>, waiting: &Waiting, inputs: &'a [&'a [f64]]) -> Self {
        let vectors = waiting.rows.map(|(_, m)| {
            let (from, to) = (columns.offsets[m as usize] as usize, columns.offsets[m as usize + 1] as usize);
            (from, to - from)
        });
        Self { columns, inputs, rows: waiting.rows, vectors, degree: waiting.degree }
    }

    /// One number of each model.
    #[inline(always)]
    fn each<V: Lanes>(&self, number: impl Fn(&Columns<'_>, usize) -> f64) -> V {
        let n = |l: usize| number(self.columns, self.rows[l].1 as usize);
        V::load(&[n(0), n(1), n(2), n(3), n(4), n(5), n(6), n(7)])
    }

    /// One number of the `j`-th support vector of each model, or of its last.
    #[inline(always)]
    fn each_vector<V: Lanes>(&self, j: usize, number: impl Fn(&Columns<'_>, usize) -> f64) -> V {
        let n = |l: usize| {
            let (from, count) = self.vectors[l];
            number(self.columns, from + j.min(count - 1))
        };
        V::load(&[n(0), n(1), n(2), n(3), n(4), n(5), n(6), n(7)])
    }

    /// A feature of each row, scaled.
    #[inline(always)]
    fn scaled<V: Lanes>(&self, k: usize) -> V {
        let (f, input) = (self.inputs.len(), self.inputs[k]);
        let n = |l: usize| input[self.rows[l].0];
        let x = V::load(&[n(0), n(1), n(2), n(3), n(4), n(5), n(6), n(7)]);
        let mean = self.each::<V>(|c, m| c.mean[m * f + k]);
        let scale = self.each::<V>(|c, m| c.scale[m * f + k]);
        (x - mean) / scale
    }

    /// Each row's sum, in the order of its model's support vectors.
    #[inline(always)]
    fn sums<V: Lanes, F: Form<V>>(&self, form: F) -> V {
        let f = self.inputs.len();
        let counts = self.vectors.map(|(_, count)| count as f64);
        let most = self.vectors.iter().fold(0, |most, (_, count)| most.max(*count));
        let x0 = self.scaled::<V>(0);
        let mut sums = V::splat(0.0);
        for j in 0..most {
            let mut inner = form.first(x0, self.each_vector(j, |c, at| c.support_vectors[at * f]));
            for k in 1..f {
                let v = self.each_vector(j, |c, at| c.support_vectors[at * f + k]);
                inner = form.next(inner, self.scaled(k), v);
            }
            let coef = self.each_vector::<V>(j, |c, at| c.dual_coef[at]);
            let more = sums + coef * form.finish(inner);
            sums = V::splat(j as f64).if_less(V::load(&counts), more, sums);
        }
        sums
    }
}
