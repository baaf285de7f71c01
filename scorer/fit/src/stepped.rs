//! A float that counts the solver's steps.
//!
//! linfa-svm's solver runs until it converges or 10,000,000 steps are done, which no setting changes, and the parts it
//! is made of are private. It is generic over the float, though, and each step begins by looking for the pair of
//! variables that violates the conditions most: three searches for a maximum or minimum, each starting at infinity.
//! So [`Stepped::infinity`] is called [`CALLS_A_STEP`] times a step and hardly elsewhere; there the steps are counted
//! and, past the limit, the solver is left by unwinding. Everything else is `f64`, operation by operation: the same
//! numbers to the bit. A test compares with the plain solver, and one that the limit is met exactly.

use num_traits::{AsPrimitive, FromPrimitive, Num, NumCast, One, Signed, ToPrimitive, Zero};
use rand::Rng;
use rand::distributions::uniform::{SampleBorrow, SampleUniform, UniformFloat, UniformSampler};
use std::cell::Cell;
use std::fmt;
use std::iter::Sum;
use std::num::FpCategory;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Rem, RemAssign, Sub, SubAssign};

/// Calls of `infinity` that one step of the solver makes.
const CALLS_A_STEP: u64 = 3;
/// Calls of a fit beside its steps: two searches that find nothing left to do, and two bounds of ρ.
const CALLS_AT_THE_END: u64 = 2 * CALLS_A_STEP + 2;

thread_local! {
    /// Calls of `infinity` since the fit on this thread began, and how many are allowed.
    static CALLS: Cell<(u64, u64)> = const { Cell::new((0, u64::MAX)) };
}

/// What the solver is left with once it has used up its steps.
pub(crate) struct OutOfSteps;

/// Runs a fit with at most so many steps of the solver on this thread; its result and the steps it took.
///
/// Past the limit, it unwinds with [`OutOfSteps`] (without a message from the panic hook).
pub(crate) fn limited<T>(steps: u64, fit: impl FnOnce() -> T) -> (T, u64) {
    /// Other code on this thread must not be counted, however the fit ends.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            CALLS.set((0, u64::MAX));
        }
    }
    let _reset = Reset;
    CALLS.set((0, steps.saturating_mul(CALLS_A_STEP).saturating_add(CALLS_AT_THE_END)));
    let value = fit();
    (value, CALLS.get().0.saturating_sub(CALLS_AT_THE_END) / CALLS_A_STEP)
}

/// An `f64` that counts, see the module.
#[derive(Clone, Copy, Default, PartialEq, PartialOrd)]
#[repr(transparent)]
pub(crate) struct Stepped(pub(crate) f64);

impl Stepped {
    fn count() {
        let (calls, most) = CALLS.get();
        if calls == most {
            std::panic::resume_unwind(Box::new(OutOfSteps));
        }
        CALLS.set((calls + 1, most));
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident, $assign:ident $assign_method:ident;)*) => {$(
        impl $trait for Stepped {
            type Output = Self;
            #[inline]
            fn $method(self, other: Self) -> Self { Self(self.0.$method(other.0)) }
        }
        impl $trait<&Stepped> for &Stepped {
            type Output = Stepped;
            #[inline]
            fn $method(self, other: &Stepped) -> Stepped { Stepped(self.0.$method(other.0)) }
        }
        impl $assign for Stepped {
            #[inline]
            fn $assign_method(&mut self, other: Self) { self.0.$assign_method(other.0) }
        }
        impl $assign<&Stepped> for Stepped {
            #[inline]
            fn $assign_method(&mut self, other: &Self) { self.0.$assign_method(other.0) }
        }
    )*};
}

operators! {
    Add add, AddAssign add_assign;
    Sub sub, SubAssign sub_assign;
    Mul mul, MulAssign mul_assign;
    Div div, DivAssign div_assign;
    Rem rem, RemAssign rem_assign;
}

impl Neg for Stepped {
    type Output = Self;
    #[inline]
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl Sum for Stepped {
    #[inline]
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        Self(terms.map(|t| t.0).sum())
    }
}

macro_rules! shown {
    ($($trait:ident)*) => {$(
        impl fmt::$trait for Stepped {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::$trait::fmt(&self.0, f) }
        }
    )*};
}

shown!(Debug Display LowerExp UpperExp);

impl Zero for Stepped {
    #[inline]
    fn zero() -> Self {
        Self(0.0)
    }
    #[inline]
    fn is_zero(&self) -> bool {
        self.0 == 0.0
    }
}

impl One for Stepped {
    #[inline]
    fn one() -> Self {
        Self(1.0)
    }
}

impl Num for Stepped {
    type FromStrRadixErr = <f64 as Num>::FromStrRadixErr;
    fn from_str_radix(text: &str, radix: u32) -> Result<Self, Self::FromStrRadixErr> {
        f64::from_str_radix(text, radix).map(Self)
    }
}

impl ToPrimitive for Stepped {
    fn to_i64(&self) -> Option<i64> {
        self.0.to_i64()
    }
    fn to_u64(&self) -> Option<u64> {
        self.0.to_u64()
    }
    fn to_f64(&self) -> Option<f64> {
        Some(self.0)
    }
}

impl FromPrimitive for Stepped {
    fn from_i64(n: i64) -> Option<Self> {
        f64::from_i64(n).map(Self)
    }
    fn from_u64(n: u64) -> Option<Self> {
        f64::from_u64(n).map(Self)
    }
    fn from_f64(n: f64) -> Option<Self> {
        Some(Self(n))
    }
}

impl NumCast for Stepped {
    #[inline]
    fn from<T: ToPrimitive>(n: T) -> Option<Self> {
        n.to_f64().map(Self)
    }
}

impl AsPrimitive<usize> for Stepped {
    fn as_(self) -> usize {
        self.0 as usize
    }
}

impl Signed for Stepped {
    fn abs(&self) -> Self {
        Self(self.0.abs())
    }
    fn abs_sub(&self, other: &Self) -> Self {
        Self(Signed::abs_sub(&self.0, &other.0))
    }
    fn signum(&self) -> Self {
        Self(Signed::signum(&self.0))
    }
    fn is_positive(&self) -> bool {
        Signed::is_positive(&self.0)
    }
    fn is_negative(&self) -> bool {
        Signed::is_negative(&self.0)
    }
}

impl num_traits::MulAdd for Stepped {
    type Output = Self;
    fn mul_add(self, a: Self, b: Self) -> Self {
        Self(f64::mul_add(self.0, a.0, b.0))
    }
}

macro_rules! constants {
    ($($name:ident)*) => {$( #[inline] fn $name() -> Self { Self(<f64 as num_traits::Float>::$name()) } )*};
}
macro_rules! questions {
    ($($name:ident)*) => {$( #[inline] fn $name(self) -> bool { f64::$name(self.0) } )*};
}
macro_rules! unary {
    ($($name:ident)*) => {$( #[inline] fn $name(self) -> Self { Self(f64::$name(self.0)) } )*};
}
macro_rules! binary {
    ($($name:ident)*) => {$( #[inline] fn $name(self, other: Self) -> Self { Self(f64::$name(self.0, other.0)) } )*};
}

impl num_traits::Float for Stepped {
    fn infinity() -> Self {
        Self::count();
        Self(f64::INFINITY)
    }
    constants! { nan neg_infinity neg_zero min_value min_positive_value max_value epsilon }
    questions! { is_nan is_infinite is_finite is_normal is_sign_positive is_sign_negative }
    unary! {
        floor ceil round trunc fract abs signum recip sqrt exp exp2 ln log2 log10 cbrt sin cos tan asin acos atan
        exp_m1 ln_1p sinh cosh tanh asinh acosh atanh
    }
    binary! { powf log max min hypot atan2 }
    fn classify(self) -> FpCategory {
        self.0.classify()
    }
    fn mul_add(self, a: Self, b: Self) -> Self {
        Self(self.0.mul_add(a.0, b.0))
    }
    fn powi(self, n: i32) -> Self {
        Self(self.0.powi(n))
    }
    fn abs_sub(self, other: Self) -> Self {
        Self(num_traits::Float::abs_sub(self.0, other.0))
    }
    fn sin_cos(self) -> (Self, Self) {
        let (sin, cos) = self.0.sin_cos();
        (Self(sin), Self(cos))
    }
    fn integer_decode(self) -> (u64, i16, i8) {
        num_traits::Float::integer_decode(self.0)
    }
}

impl approx::AbsDiffEq for Stepped {
    type Epsilon = Self;
    fn default_epsilon() -> Self {
        Self(f64::EPSILON)
    }
    fn abs_diff_eq(&self, other: &Self, epsilon: Self) -> bool {
        (self.0 - other.0).abs() <= epsilon.0
    }
}

/// Uniform samples, as those of `f64`.
#[derive(Clone, Copy)]
pub(crate) struct Sampler(UniformFloat<f64>);

impl UniformSampler for Sampler {
    type X = Stepped;
    fn new<A: SampleBorrow<Stepped> + Sized, B: SampleBorrow<Stepped> + Sized>(low: A, high: B) -> Self {
        Self(UniformFloat::<f64>::new(low.borrow().0, high.borrow().0))
    }
    fn new_inclusive<A: SampleBorrow<Stepped> + Sized, B: SampleBorrow<Stepped> + Sized>(
        low: A,
        high: B,
    ) -> Self {
        Self(UniformFloat::<f64>::new_inclusive(low.borrow().0, high.borrow().0))
    }
    fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> Stepped {
        Stepped(self.0.sample(rng))
    }
}

impl SampleUniform for Stepped {
    type Sampler = Sampler;
}

impl ndarray::ScalarOperand for Stepped {}
impl ndarray::NdFloat for Stepped {}
impl linfa::Float for Stepped {
    type Lapack = f64;
}
