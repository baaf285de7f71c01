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
    /// Each lane's lowest bits hold an integer k: the table's 2^(k/16), and what that lacks.
    fn power_and_rest(self, table: &Table) -> (Self, Self);
    /// `yes` where `self < than`, else `no`.
    fn if_less(self, than: Self, yes: Self, no: Self) -> Self;
}

/// Parts of a binade in a [`Table`].
pub(crate) const PARTS: usize = 16;
/// How far a number of parts is moved to the left so that whole binades stand in the exponent.
pub(crate) const TO_EXPONENT: u32 = 48;

/// Two numbers for each part of a binade, side by side and apart: instruction sets differ in what they look up quickest.
pub(crate) struct Table {
    /// Powers, less their places at [`TO_EXPONENT`], so that those can be added along with the exponent; and the others.
    pub(crate) pairs: [[f64; 2]; PARTS],
    /// The first of each pair, in two halves.
    pub(crate) powers: [Eight; 2],
    /// The second of each.
    pub(crate) rests: [Eight; 2],
}

impl Table {
    /// Of 2^(i/16) and what goes with it.
    pub(crate) const fn new(numbers: [(f64, f64); PARTS]) -> Self {
        let mut table = Self { pairs: [[0.0; 2]; PARTS], powers: [Eight::ZERO; 2], rests: [Eight::ZERO; 2] };
        let mut i = 0;
        while i < PARTS {
            let power = f64::from_bits(numbers[i].0.to_bits() - ((i as u64) << TO_EXPONENT));
            table.pairs[i] = [power, numbers[i].1];
            table.powers[i / LANES].0[i % LANES] = power;
            table.rests[i / LANES].0[i % LANES] = numbers[i].1;
            i += 1;
        }
        table
    }
}

/// Eight doubles in memory, in one line of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Eight(pub(crate) [f64; LANES]);

impl Eight {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);
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
            #[allow(clippy::assign_op_pattern, reason = "the operator is a parameter")]
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
    fn power_and_rest(mut self, table: &Table) -> (Self, Self) {
        let mut rest = [0.0; LANES];
        for (a, rest) in self.0.iter_mut().zip(&mut rest) {
            let bits = a.to_bits();
            let [power, lacks] = table.pairs[bits as usize % PARTS];
            *a = f64::from_bits(power.to_bits().wrapping_add(bits << TO_EXPONENT));
            *rest = lacks;
        }
        (self, Self(rest))
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
