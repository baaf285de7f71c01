//! Eight numbers at once: the one vocabulary in which the arithmetic is written.
//!
//! Every operation rounds as IEEE 754 says for each lane by itself, nothing is fused and nothing changes places, so
//! that all widths of registers give the same bits.

use std::ops::{Add, Div, Mul, Sub};

/// Lanes in a block, on every path.
pub(crate) const LANES: usize = 8;

/// Eight doubles.
///
/// Implementations for wide registers must only be used inside functions compiled for them (see `path.rs`); everything
/// generic over this trait is `inline(always)` for that reason.
pub(crate) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// The same number in every lane.
    fn splat(x: f64) -> Self;
    /// Lane after lane.
    fn load(from: &[f64; LANES]) -> Self;
    /// Lane after lane.
    fn store(self) -> [f64; LANES];
    /// The larger of each lane and `low`; NaN stays.
    fn at_least(self, low: f64) -> Self;
    /// The smaller of each lane and `high`; NaN stays.
    fn at_most(self, high: f64) -> Self;
    /// Without signs.
    fn abs(self) -> Self;
    /// With the signs of `of`.
    fn with_sign(self, of: Self) -> Self;
    /// The bits of each lane moved 52 to the left: an integer in the lowest 11 becomes an exponent.
    fn bits_to_exponent(self) -> Self;
    /// `yes` where `self < than`, else `no`.
    fn if_less(self, than: Self, yes: Self, no: Self) -> Self;
}

/// Eight doubles without any instruction set of their own: what runs everywhere.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f64; LANES]);

/// `$trait::$method` of [`Portable`], lane by lane.
macro_rules! lanewise {
    ($($trait:ident $method:ident $op:tt),*) => {$(
        impl $trait for Portable {
            type Output = Self;
            #[inline(always)]
            fn $method(mut self, other: Self) -> Self {
                for (a, b) in self.0.iter_mut().zip(other.0) {
                    *a = *a $op b;
                }
                self
            }
        }
    )*};
}

lanewise!(Add add +, Sub sub -, Mul mul *, Div div /);

impl Portable {
    #[inline(always)]
    fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        for a in &mut self.0 {
            *a = f(*a);
        }
        self
    }
}

impl Lanes for Portable {
    #[inline(always)]
    fn splat(x: f64) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(from: &[f64; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn store(self) -> [f64; LANES] {
        self.0
    }

    #[inline(always)]
    fn at_least(self, low: f64) -> Self {
        self.map(|x| if low > x { low } else { x })
    }

    #[inline(always)]
    fn at_most(self, high: f64) -> Self {
        self.map(|x| if high < x { high } else { x })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f64::abs)
    }

    #[inline(always)]
    fn with_sign(mut self, of: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(of.0) {
            *a = a.copysign(b);
        }
        self
    }

    #[inline(always)]
    fn bits_to_exponent(self) -> Self {
        self.map(|x| f64::from_bits(x.to_bits() << 52))
    }

    #[inline(always)]
    fn if_less(self, than: Self, yes: Self, no: Self) -> Self {
        let mut chosen = no.0;
        for (l, to) in chosen.iter_mut().enumerate() {
            *to = if self.0[l] < than.0[l] { yes.0[l] } else { *to };
        }
        Self(chosen)
    }
}
