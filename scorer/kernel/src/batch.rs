//! The walk over rows: which rows are summed together, and where their numbers come from.

use crate::lanes::{LANES, Lanes};
use crate::path::Task;
use crate::sums::{
    Eights, Form, InBlocks, InRows, Linear, MANY, One, Poly, Rbf, Sigmoid, few, many, with_form,
};
use crate::{Columns, Kernel, NO_MODEL, Path, kind};

/// So many neighbouring rows of one model are scored as its batch.
const RUN: usize = 4;

/// Memory that is used again from one model to the next.
#[derive(Default)]
struct Scratch {
    /// Support vectors, turned.
    vectors: Vec<[f64; LANES]>,
    /// Eight rows' scaled values, feature by feature.
    x: Vec<[f64; LANES]>,
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
        let run = models[i..].iter().take_while(|o| **o == m).count();
        let rows = i..i + run;
        i = rows.end;
        let Some(one) = (m != NO_MODEL).then(|| columns.one(m as usize)).flatten() else {
            out[rows].fill(f64::NAN);
            continue;
        };
        if run >= RUN || one.dual_coef.is_empty() {
            let (from, out) = (rows.start, &mut out[rows]);
            path.run(RowsOfOne { one: &one, inputs, from, out, scratch: &mut scratch });
        } else if one.dual_coef.len() >= MANY {
            for row in rows {
                out[row] = lone_row(path, &one, inputs, row, &mut scratch);
            }
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

/// Rows of one model, from the first to as many as there is room for.
pub(crate) fn decisions_of(path: Path, one: &One<'_>, inputs: &[&[f64]], out: &mut [f64]) {
    path.run(RowsOfOne { one, inputs, from: 0, out, scratch: &mut Scratch::default() });
}

/// A row that has its model to itself.
pub(crate) fn decision(path: Path, one: &One<'_>, inputs: &[&[f64]]) -> f64 {
    lone_row(path, one, inputs, 0, &mut Scratch::default())
}

fn lone_row(path: Path, one: &One<'_>, inputs: &[&[f64]], row: usize, scratch: &mut Scratch) -> f64 {
    if inputs.len() == 1 || one.dual_coef.len() < MANY {
        let mut out = [0.0];
        path.run(RowsOfOne { one, inputs, from: row, out: &mut out, scratch });
        return out[0];
    }
    // Turning the vectors pays from a few rows on.
    let mut small = [0.0; 16];
    let x = match small.get_mut(..inputs.len()) {
        Some(small) => small,
        None => {
            scratch.row.resize(inputs.len(), 0.0);
            &mut scratch.row
        }
    };
    for (k, (x, input)) in x.iter_mut().zip(inputs).enumerate() {
        *x = one.scaled(k, input[row]);
    }
    path.run(LoneRow { one, x })
}

/// One row of several features, scaled, of a model of many support vectors.
struct LoneRow<'a> {
    one: &'a One<'a>,
    x: &'a [f64],
}

impl Task for LoneRow<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Lanes>(self) -> f64 {
        let Self { one, x } = self;
        let vectors = InRows { numbers: one.support_vectors, features: x.len() };
        let coef = Eights::new(one.dual_coef);
        with_form!(V, one.kernel, form => many::<V, _>(form, x, vectors, &coef)) - one.rho
    }
}

/// Rows `from..from + out.len()`, all of one model.
struct RowsOfOne<'a> {
    one: &'a One<'a>,
    inputs: &'a [&'a [f64]],
    from: usize,
    out: &'a mut [f64],
    scratch: &'a mut Scratch,
}

impl Task for RowsOfOne<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Self { one, inputs, from, out, scratch } = self;
        let features = inputs.len();
        if one.dual_coef.len() < MANY {
            let mut small = [[0.0; LANES]; 8];
            let x = match small.get_mut(..features) {
                Some(small) => small,
                None => {
                    scratch.x.resize(features, [0.0; LANES]);
                    &mut scratch.x
                }
            };
            with_form!(V, one.kernel, form => few_rows::<V, _>(form, one, inputs, from, out, x));
        } else if features == 1 {
            let (vectors, coef) = (Eights::new(one.support_vectors), Eights::new(one.dual_coef));
            with_form!(V, one.kernel, form => {
                for (to, x) in out.iter_mut().zip(&inputs[0][from..]) {
                    let x = [one.scaled(0, *x)];
                    *to = many::<V, _>(form, &x, &vectors, &coef) - one.rho;
                }
            });
        } else {
            turn(one.support_vectors, features, &mut scratch.vectors);
            let turned = InBlocks { blocks: &scratch.vectors, features };
            let coef = Eights::new(one.dual_coef);
            let row = &mut scratch.row;
            row.resize(features, 0.0);
            with_form!(V, one.kernel, form => {
                for (i, to) in out.iter_mut().enumerate() {
                    for (k, (x, input)) in row.iter_mut().zip(inputs).enumerate() {
                        *x = one.scaled(k, input[from + i]);
                    }
                    *to = many::<V, _>(form, row, turned, &coef) - one.rho;
                }
            });
        }
    }
}

/// Support vectors from rows into blocks, the last one filled up with 0.
fn turn(numbers: &[f64], features: usize, blocks: &mut Vec<[f64; LANES]>) {
    blocks.clear();
    blocks.resize((numbers.len() / features).div_ceil(LANES) * features, [0.0; LANES]);
    for (i, vector) in numbers.chunks_exact(features).enumerate() {
        let block = &mut blocks[i / LANES * features..][..features];
        for (to, x) in block.iter_mut().zip(vector) {
            to[i % LANES] = *x;
        }
    }
}

/// Rows of one model of few support vectors, eight at a time.
#[inline(always)]
fn few_rows<V: Lanes, F: Form<V>>(
    form: F,
    one: &One<'_>,
    inputs: &[&[f64]],
    from: usize,
    out: &mut [f64],
    x: &mut [[f64; LANES]],
) {
    let rho = V::splat(one.rho);
    for (block, to) in out.chunks_mut(LANES).enumerate() {
        let at = from + block * LANES;
        for (k, (x, input)) in x.iter_mut().zip(inputs).enumerate() {
            let mut raw = [0.0; LANES];
            match input[at..].first_chunk::<LANES>() {
                Some(eight) if to.len() == LANES => raw = *eight,
                _ => raw[..to.len()].copy_from_slice(&input[at..at + to.len()]),
            }
            let (mean, scale) = one.scaling(k);
            *x = ((V::load(&raw) - V::splat(mean)) / V::splat(scale)).store();
        }
        let decided = (few::<V, F>(form, one, x) - rho).store();
        to.copy_from_slice(&decided[..to.len()]);
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
