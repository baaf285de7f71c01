//! exp and tanh, eight at a time, the same bits on every path.
//!
//! exp: x = k·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts of which the first has 41 bits, so that k times it is
//! exact and so is the difference to x (Cody and Waite, "Software manual for the elementary functions", 1980); then
//! 2ᵏ·(1 + (r + r²·p(r))) with a polynomial p that is within 2⁻⁵⁷ of the best. No table: gathers cost more than terms.
//! Nothing is fused, though that would save a rounding or two: not every processor can, and then rows would differ.
//!
//! Errors (`exp_tests.rs`, four million arguments of exp): at most 0.914 ulp for exp, also where results are subnormal;
//! at most 2.53 ulp for tanh, which is 1.2e-16 absolute near 1 and relative to however small a value elsewhere. Half an
//! ulp of exp is the last sum's, a quarter that of the two parts of exp(r) − 1 where that is below −1/4, the rest the
//! polynomial's.
//!
//! Why our own (ns for one exp of a long column, AMD Zen 4, one core): 1.0 with AVX-512, 1.4 with AVX2 and 2.6 portably,
//! beside 4.6 of the standard library (the C library's: a table, and other bits where it has fused operations), 6.8 of
//! `libm` 0.2 and 4.6 of `wide` 1.7, whose results are wrong where they are subnormal and depend on what the program was
//! compiled for.

use crate::lanes::{LANES, Lanes};

/// 1 / ln 2
const LOG2_E: f64 = std::f64::consts::LOG2_E;
/// The first 41 bits of ln 2, and the rest.
const LN2_HIGH: f64 = 0.693147180559663;
const LN2_LOW: f64 = 2.8235290563031577e-13;
/// Adding this rounds to an integer and leaves it, plus 1023, in the lowest bits: an exponent in the making.
const ROUND: f64 = 6_755_399_441_055_744.0 + 1023.0;
/// Exponents are kept this far from their ends until the last multiplication, which then rounds once where the result
/// is subnormal, and overflows where it must.
const MARGIN: f64 = 60.0;
/// 2⁻⁶⁰
const DOWN: f64 = 1.0 / (1u64 << 60) as f64;
/// 2⁶⁰
const UP: f64 = (1u64 << 60) as f64;
/// exp of anything less rounds to 0.
const LEAST: f64 = -746.0;
/// exp of anything more is infinite.
const MOST: f64 = 710.0;

/// (exp(r) − 1 − r − r²/2) / r³ on |r| ≤ ln 2 / 2, minimax by Remez' exchange, relative to exp(r): 2⁻⁵⁷·³.
const P: [f64; 9] = [
    0.16666666666666433,
    0.04166666666660395,
    0.008333333333500045,
    0.0013888888926801004,
    0.00019841269466214004,
    2.480150867580265e-05,
    2.7557640857543404e-06,
    2.762518983312924e-07,
    2.4978387334747674e-08,
];

/// x = k·ln 2 + r, rounded so that `round` + k carries k in its lowest bits: that sum, and exp(r) − 1.
#[inline(always)]
fn reduced<V: Lanes>(x: V, round: V) -> (V, V) {
    let s = V::splat;
    let sum = x * s(LOG2_E) + round;
    let k = sum - round;
    let high = x - k * s(LN2_HIGH); // exact
    let low = k * s(LN2_LOW);
    let r = high - low;
    let r2 = r * r;
    // Even and odd powers apart: half as long a chain.
    let even = (((s(P[7]) * r2 + s(P[5])) * r2 + s(P[3])) * r2 + s(P[1])) * r2 + s(0.5);
    let odd = (((s(P[8]) * r2 + s(P[6])) * r2 + s(P[4])) * r2 + s(P[2])) * r2 + s(P[0]);
    let rest = (even + odd * r) * r2;
    // With both parts of r: its own rounding would cost a quarter of an ulp more.
    (sum, high + (rest - low))
}

/// exp(x) for x ≤ 0 or NaN: never above 1, and exactly 1 for x > −2⁻⁵⁴.
#[inline(always)]
pub(crate) fn exp_of_nonpositive<V: Lanes>(x: V) -> V {
    let (sum, less_one) = reduced(x.at_least(LEAST), V::splat(ROUND + MARGIN));
    (V::splat(1.0) + less_one) * sum.bits_to_exponent() * V::splat(DOWN)
}

/// exp(x) for any x.
#[inline(always)]
pub(crate) fn exp<V: Lanes>(x: V) -> V {
    let s = V::splat;
    let x = x.at_least(LEAST).at_most(MOST);
    let zero = s(0.0);
    let (sum, less_one) = reduced(x, x.if_less(zero, s(ROUND + MARGIN), s(ROUND - MARGIN)));
    (s(1.0) + less_one) * sum.bits_to_exponent() * x.if_less(zero, s(DOWN), s(UP))
}

/// tanh(x) for any x: m / (m + 2) with m = exp(2·|x|) − 1, which keeps its relative error however small x is.
#[inline(always)]
pub(crate) fn tanh<V: Lanes>(x: V) -> V {
    let s = V::splat;
    // From 22 on tanh rounds to 1.
    let doubled = (x.abs() * s(2.0)).at_most(44.0);
    let (sum, less_one) = reduced(doubled, s(ROUND));
    let power = sum.bits_to_exponent();
    let m = power * less_one + (power - s(1.0));
    (m / (m + s(2.0))).with_sign(x)
}

/// A function of eight lanes; a type, because a closure might not be compiled with the instructions of its caller.
pub(crate) trait Function {
    /// Its values.
    fn of<V: Lanes>(x: V) -> V;
}

/// See [`exp`].
pub(crate) struct Exp;

impl Function for Exp {
    #[inline(always)]
    fn of<V: Lanes>(x: V) -> V {
        exp(x)
    }
}

/// See [`tanh`].
pub(crate) struct Tanh;

impl Function for Tanh {
    #[inline(always)]
    fn of<V: Lanes>(x: V) -> V {
        tanh(x)
    }
}

/// A function over a slice of any length.
#[inline(always)]
pub(crate) fn over<V: Lanes, F: Function>(x: &[f64], out: &mut [f64]) {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let (to, rest_to) = out.as_chunks_mut::<LANES>();
    for (x, to) in blocks.iter().zip(to) {
        *to = F::of(V::load(x)).store();
    }
    if !rest.is_empty() {
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        rest_to.copy_from_slice(&F::of(V::load(&last)).store()[..rest.len()]);
    }
}
