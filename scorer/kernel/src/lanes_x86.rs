//! Eight doubles in the wide registers of x86-64: one of AVX-512, or two of AVX2.
//!
//! LLVM keeps blocks of eight doubles in 128-bit registers wherever it meets them (measured), hence the intrinsics.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use crate::lanes::{LANES, Lanes, PARTS, TO_EXPONENT, Table};

/// One 512-bit register. Only for functions compiled with `avx512f` and `avx512dq`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512d);

/// Two 256-bit registers. Only for functions compiled with `avx2`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256d, __m256d);

macro_rules! operators {
    ($($trait:ident $method:ident $wide:ident $half:ident),*) => {$(
        impl $trait for Avx512 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: only used where the processor has AVX-512 (see the type).
                Self(unsafe { $wide(self.0, other.0) })
            }
        }
        impl $trait for Avx2 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: only used where the processor has AVX2 (see the type).
                unsafe { Self($half(self.0, other.0), $half(self.1, other.1)) }
            }
        }
    )*};
}

operators!(
    Add add _mm512_add_pd _mm256_add_pd,
    Sub sub _mm512_sub_pd _mm256_sub_pd,
    Mul mul _mm512_mul_pd _mm256_mul_pd,
    Div div _mm512_div_pd _mm256_div_pd
);

// The maximum and minimum instructions return their second operand where one is NaN: the lane itself.

impl Lanes for Avx512 {
    #[inline(always)]
    fn splat(x: f64) -> Self {
        // SAFETY: as above, here and below.
        Self(unsafe { _mm512_set1_pd(x) })
    }

    #[inline(always)]
    fn load(from: &[f64; LANES]) -> Self {
        // SAFETY: the array holds the eight doubles that are read; the load needs no alignment.
        Self(unsafe { _mm512_loadu_pd(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self) -> [f64; LANES] {
        let mut to = [0.0; LANES];
        // SAFETY: the array has room for the eight doubles; the store needs no alignment.
        unsafe { _mm512_storeu_pd(to.as_mut_ptr(), self.0) };
        to
    }

    #[inline(always)]
    fn at_least(self, low: f64) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_max_pd(_mm512_set1_pd(low), self.0) })
    }

    #[inline(always)]
    fn at_most(self, high: f64) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_min_pd(_mm512_set1_pd(high), self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_andnot_pd(_mm512_set1_pd(-0.0), self.0) })
    }

    #[inline(always)]
    fn with_sign(self, of: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let sign = _mm512_set1_pd(-0.0);
            Self(_mm512_or_pd(_mm512_andnot_pd(sign, self.0), _mm512_and_pd(sign, of.0)))
        }
    }

    #[inline(always)]
    fn power_and_rest(self, table: &Table) -> (Self, Self) {
        let powers = [Self::load(&table.powers[0].0), Self::load(&table.powers[1].0)];
        let rests = [Self::load(&table.rests[0].0), Self::load(&table.rests[1].0)];
        // SAFETY: as above. The lookups heed the lowest four bits of each lane alone.
        unsafe {
            let bits = _mm512_castpd_si512(self.0);
            let power = _mm512_permutex2var_pd(powers[0].0, bits, powers[1].0);
            let exponent = _mm512_slli_epi64::<TO_EXPONENT>(bits);
            (
                Self(_mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(power), exponent))),
                Self(_mm512_permutex2var_pd(rests[0].0, bits, rests[1].0)),
            )
        }
    }

    #[inline(always)]
    fn if_less(self, than: Self, yes: Self, no: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let less = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(self.0, than.0);
            Self(_mm512_mask_blend_pd(less, no.0, yes.0))
        }
    }
}

impl Lanes for Avx2 {
    #[inline(always)]
    fn splat(x: f64) -> Self {
        // SAFETY: only used where the processor has AVX2 (see the type), here and below.
        unsafe { Self(_mm256_set1_pd(x), _mm256_set1_pd(x)) }
    }

    #[inline(always)]
    fn load(from: &[f64; LANES]) -> Self {
        // SAFETY: the array holds the eight doubles that are read; the loads need no alignment.
        unsafe { Self(_mm256_loadu_pd(from.as_ptr()), _mm256_loadu_pd(from.as_ptr().add(4))) }
    }

    #[inline(always)]
    fn store(self) -> [f64; LANES] {
        let mut to = [0.0; LANES];
        // SAFETY: the array has room for the eight doubles; the stores need no alignment.
        unsafe {
            _mm256_storeu_pd(to.as_mut_ptr(), self.0);
            _mm256_storeu_pd(to.as_mut_ptr().add(4), self.1);
        }
        to
    }

    #[inline(always)]
    fn at_least(self, low: f64) -> Self {
        // SAFETY: as above.
        unsafe {
            let low = _mm256_set1_pd(low);
            Self(_mm256_max_pd(low, self.0), _mm256_max_pd(low, self.1))
        }
    }

    #[inline(always)]
    fn at_most(self, high: f64) -> Self {
        // SAFETY: as above.
        unsafe {
            let high = _mm256_set1_pd(high);
            Self(_mm256_min_pd(high, self.0), _mm256_min_pd(high, self.1))
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let sign = _mm256_set1_pd(-0.0);
            Self(_mm256_andnot_pd(sign, self.0), _mm256_andnot_pd(sign, self.1))
        }
    }

    #[inline(always)]
    fn with_sign(self, of: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let sign = _mm256_set1_pd(-0.0);
            Self(
                _mm256_or_pd(_mm256_andnot_pd(sign, self.0), _mm256_and_pd(sign, of.0)),
                _mm256_or_pd(_mm256_andnot_pd(sign, self.1), _mm256_and_pd(sign, of.1)),
            )
        }
    }

    #[inline(always)]
    fn power_and_rest(self, table: &Table) -> (Self, Self) {
        let (low, low_rest) = power_and_rest_of_four(self.0, table);
        let (high, high_rest) = power_and_rest_of_four(self.1, table);
        (Self(low, high), Self(low_rest, high_rest))
    }

    #[inline(always)]
    fn if_less(self, than: Self, yes: Self, no: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let (a, b) =
                (_mm256_cmp_pd::<_CMP_LT_OQ>(self.0, than.0), _mm256_cmp_pd::<_CMP_LT_OQ>(self.1, than.1));
            Self(_mm256_blendv_pd(no.0, yes.0, a), _mm256_blendv_pd(no.1, yes.1, b))
        }
    }
}

/// See [`Lanes::power_and_rest`]. Gathers are slower than loads of pairs.
#[inline(always)]
fn power_and_rest_of_four(bits: __m256d, table: &Table) -> (__m256d, __m256d) {
    let mut at = [0i64; 4];
    // SAFETY: only used where the processor has AVX2 (see `Avx2`). The array has room for the four integers; loads are of
    // the two doubles of a pair; none needs alignment.
    unsafe {
        let bits = _mm256_castpd_si256(bits);
        _mm256_storeu_si256((&raw mut at).cast(), bits);
        let a = _mm_loadu_pd(table.pairs[at[0] as usize % PARTS].as_ptr());
        let b = _mm_loadu_pd(table.pairs[at[1] as usize % PARTS].as_ptr());
        let c = _mm_loadu_pd(table.pairs[at[2] as usize % PARTS].as_ptr());
        let d = _mm_loadu_pd(table.pairs[at[3] as usize % PARTS].as_ptr());
        let even = _mm256_insertf128_pd::<1>(_mm256_castpd128_pd256(a), c);
        let odd = _mm256_insertf128_pd::<1>(_mm256_castpd128_pd256(b), d);
        let power = _mm256_castpd_si256(_mm256_unpacklo_pd(even, odd));
        let power = _mm256_add_epi64(power, _mm256_slli_epi64::<{ TO_EXPONENT as i32 }>(bits));
        (_mm256_castsi256_pd(power), _mm256_unpackhi_pd(even, odd))
    }
}
