//! exp and tanh, eight at a time, the same bits on every path.
//!
//! exp: x = k·ln 2 / 16 + r with |r| ≤ ln 2 / 32, ln 2 / 16 in two parts of which the first has 38 bits, so that k times
//! it is exact and so is the difference to x (Cody and Waite, "Software manual for the elementary functions", 1980);
//! then 2^(k/16)·(1 + (r + r²·p(r))) with the sixteen powers in two registers of AVX-512 (Tang, "Table-driven
//! implementation of the exponential function in IEEE floating-point arithmetic", 1989), each with what its rounding
//! left out, and a polynomial p that is within 2⁻⁵⁶ of the best. Nothing is fused, though that would save a rounding or
//! two: not every processor can, and then rows would differ.
//!
//! Errors (`exp_tests.rs`, four million arguments of exp): at most 0.65 ulp for exp, 0.79 where results are subnormal; at
//! most 2.8 ulp for tanh, which is 1.2e-16 absolute near 1 and relative to however small a value elsewhere. Half an ulp
//! of exp is the last sum's.
//!
//! Why our own (ns for one exp of a long column, Intel Emerald Rapids, one core): 0.8 with AVX-512, 1.7 with AVX2 and
//! 2.6 portably; without the table 1.1, 1.7 and 3.0. On an AMD Zen 4, where it took 1.0, 1.4 and 2.6 without the table,
//! the standard library took 4.6 (the C library's: a table, and other bits where it has fused operations), `libm` 0.2 6.8
//! and `wide` 1.7 4.6; the last one's results are wrong where they are subnormal and depend on what the program was
//! compiled for.

use crate::lanes::{LANES, Lanes, Table};

/// 16 / ln 2
const PARTS: f64 = 16.0 * std::f64::consts::LOG2_E;
/// The first 38 bits of ln 2 / 16, and the rest.
const LN2_HIGH: f64 = 0.04332169878489367;
const LN2_LOW: f64 = 1.0291218489310676e-13;
/// Adding this rounds to an integer and leaves it in the lowest bits.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// Exponents are kept this far from their ends until the last multiplication, which then rounds once where the result
/// is subnormal, and overflows where it must.
const MARGIN: f64 = 60.0 * 16.0;
/// 2⁻⁶⁰
const DOWN: f64 = 1.0 / (1u64 << 60) as f64;
/// 2⁶⁰
const UP: f64 = (1u64 << 60) as f64;
/// exp of anything less rounds to 0.
const LEAST: f64 = -746.0;
/// exp of anything more is infinite.
const MOST: f64 = 710.0;

/// (exp(r) − 1 − r) / r² on |r| ≤ ln 2 / 32, minimax by Remez' exchange, relative to exp(r): 2⁻⁵⁶·².
const P: [f64; 5] =
    [0.5000000000000006, 0.1666666666441696, 0.04166666665965247, 0.008333471951206959, 0.001388912907105027];

/// 1/2!, 1/3!, …: what is left out is 2⁻⁶² of exp(r) − 1.
const T: [f64; 7] = [1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0, 1.0 / 40320.0];

/// 2^(i/16): the nearest double, and what it lacks as a part of it.
#[allow(clippy::approx_constant, reason = "√2 is split in two, as its neighbours are")]
static POWERS: Table = Table::new([
    (1.0, 0.0),
    (1.0442737824274138, 8.189317638195515e-17),
    (1.0905077326652577, -2.7939114859515733e-17),
    (1.1387886347566916, 7.826573258636076e-17),
    (1.189207115002721, 3.3484623336251524e-17),
    (1.241857812073484, 3.750854201303127e-17),
    (1.2968395546510096, 1.9572585293112036e-17),
    (1.3542555469368927, 5.68648095791174e-17),
    (1.4142135623730951, -6.835808657661922e-17),
    (1.4768261459394993, -2.3591094770850053e-17),
    (1.5422108254079407, 5.1548301170786783e-17),
    (1.6104903319492543, 1.5341410053603723e-17),
    (1.681792830507429, 4.875160526227062e-17),
    (1.7562521603732995, 1.685487290628973e-17),
    (1.8340080864093424, 1.790126907604513e-17),
    (1.9152065613971474, -5.545065618639427e-17),
]);

/// x = k·ln 2 / 16 + r, with `round` + k rounded to carry k in its lowest bits: that sum, and r.
#[inline(always)]
fn reduced<V: Lanes>(x: V, round: V) -> (V, V) {
    let sum = x * V::splat(PARTS) + round;
    let k = sum - round;
    (sum, (x - k * V::splat(LN2_HIGH)) - k * V::splat(LN2_LOW)) // the first difference is exact
}

/// 2^(k/16) as the nearest double, and how much more exp(x) is, as a part of that.
#[inline(always)]
fn power_and_more<V: Lanes>(x: V, round: V) -> (V, V) {
    let s = V::splat;
    let (sum, r) = reduced(x, round);
    let r2 = r * r;
    // By pairs: a shorter chain.
    let high = (s(P[3]) * r + s(P[2])) + s(P[4]) * r2;
    let rest = high * r2 + (s(P[1]) * r + s(P[0]));
    let (power, lacks) = sum.power_and_rest(&POWERS);
    (power, r + (rest * r2 + lacks))
}

/// exp(x) for x ≤ 0 or NaN: never above 1, and exactly 1 for x > −2⁻⁵⁴.
#[inline(always)]
pub(crate) fn exp_of_nonpositive<V: Lanes>(x: V) -> V {
    let (power, more) = power_and_more(x.at_least(LEAST), V::splat(ROUND + MARGIN));
    (power + power * more) * V::splat(DOWN)
}

/// exp(x) for any x.
#[inline(always)]
pub(crate) fn exp<V: Lanes>(x: V) -> V {
    let s = V::splat;
    let x = x.at_least(LEAST).at_most(MOST);
    let zero = s(0.0);
    let (power, more) = power_and_more(x, x.if_less(zero, s(ROUND + MARGIN), s(ROUND - MARGIN)));
    (power + power * more) * x.if_less(zero, s(DOWN), s(UP))
}

/// tanh(x) for any x: m / (m + 2) with m = exp(2·|x|) − 1, which keeps its relative error however small x is.
#[inline(always)]
pub(crate) fn tanh<V: Lanes>(x: V) -> V {
    let s = V::splat;
    // From 22 on tanh rounds to 1.
    let doubled = (x.abs() * s(2.0)).at_most(44.0);
    let (sum, r) = reduced(doubled, s(ROUND));
    // Taylor's: small results, too, need an error that is small beside them.
    let mut rest = s(T[6]);
    for t in T[..6].iter().rev() {
        rest = rest * r + s(*t);
    }
    let (power, lacks) = sum.power_and_rest(&POWERS);
    let m = power * (r + (rest * r * r + lacks)) + (power - s(1.0));
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
