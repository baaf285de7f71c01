//! exp and tanh against values of more than a hundred bits, and those against arbitrary precision.

use astro_float::{BigFloat, Consts, RoundingMode};

use crate::Path;

/// Numbers without a pattern, the same on every machine (Steele, Lea and Flood's SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [from, to).
    fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * ((self.bits() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// A number as the sum of two doubles, the second at most half an ulp of the first (Dekker, 1971): 106 bits.
#[derive(Clone, Copy)]
struct Double(f64, f64);

fn exact_sum(a: f64, b: f64) -> Double {
    let s = a + b;
    let t = s - a;
    Double(s, (a - (s - t)) + (b - t))
}

fn exact_product(a: f64, b: f64) -> Double {
    let halves = |x: f64| {
        let t = 134_217_729.0 * x;
        let high = t - (t - x);
        (high, x - high)
    };
    let ((ah, al), (bh, bl)) = (halves(a), halves(b));
    let p = a * b;
    Double(p, ((ah * bh - p) + ah * bl + al * bh) + al * bl)
}

impl Double {
    fn plus(self, o: Self) -> Self {
        let (s, t) = (exact_sum(self.0, o.0), exact_sum(self.1, o.1));
        let s = exact_sum(s.0, s.1 + t.0);
        exact_sum(s.0, s.1 + t.1)
    }

    fn times(self, o: Self) -> Self {
        let p = exact_product(self.0, o.0);
        exact_sum(p.0, p.1 + (self.0 * o.1 + self.1 * o.0))
    }

    fn over(self, o: Self) -> Self {
        let minus = |q: f64| o.times(Self(-q, 0.0));
        let q1 = self.0 / o.0;
        let rest = self.plus(minus(q1));
        let q2 = rest.0 / o.0;
        let rest = rest.plus(minus(q2));
        exact_sum(q1, q2).plus(Self(rest.0 / o.0, 0.0))
    }

    fn scaled(self, power: f64) -> Self {
        Self(self.0 * power, self.1 * power)
    }
}

/// exp(x) = (1 + m)·2ᵏ: the first is m.
struct Truth {
    /// 1/n! for n = 1, 2, …
    inverse_factorials: Vec<Double>,
}

/// ln 2 in pieces of which the first two have 32 bits, so that their multiples are exact.
const LN2: [f64; 4] = [
    f64::from_bits(0x3fe6_2e42_fee0_0000),
    f64::from_bits(0x3dea_39ef_3560_0000),
    f64::from_bits(0x3be9_3c76_7300_7e5f),
    f64::from_bits(0xb875_0bf0_cbcd_98d6),
];

impl Truth {
    fn new() -> Self {
        let mut inverse_factorials = vec![Double(1.0, 0.0)];
        for n in 2..31 {
            let last = inverse_factorials[n - 2];
            inverse_factorials.push(last.over(Double(n as f64, 0.0)));
        }
        Self { inverse_factorials }
    }

    fn exp_less_one(&self, x: f64) -> (Double, i32) {
        let k = (x / std::f64::consts::LN_2).round_ties_even();
        let r = Double(x - k * LN2[0], 0.0)
            .plus(Double(-k * LN2[1], 0.0))
            .plus(Double(LN2[2], LN2[3]).times(Double(-k, 0.0)));
        let sum = |sum: Double, c: &Double| sum.times(r).plus(*c);
        (self.inverse_factorials.iter().rev().fold(Double(0.0, 0.0), sum).times(r), k as i32)
    }

    /// |found − exp(x)| in ulps of exp(x); infinity counts as the double that would follow the largest.
    fn error_of_exp(&self, x: f64, found: f64) -> f64 {
        let (m, k) = self.exp_less_one(x);
        let y = m.plus(Double(1.0, 0.0));
        let exponent = if y.0 < 1.0 || (y.0 == 1.0 && y.1 < 0.0) { k - 1 } else { k };
        let ulp = two_to((exponent - 52).clamp(-1074, 971) - k);
        let infinity = two_to(1024 - k);
        if found.is_infinite() && y.0 >= infinity {
            return 0.0;
        }
        let found = if found.is_infinite() { infinity } else { times_two_to(found, -k) };
        ((found - y.0) - y.1).abs() / ulp
    }

    /// |found − tanh(x)| in ulps of tanh(x).
    fn error_of_tanh(&self, x: f64, found: f64) -> f64 {
        let (m, k) = self.exp_less_one(2.0 * x.abs());
        let m = m.scaled(two_to(k)).plus(exact_sum(two_to(k), -1.0));
        let y = m.over(m.plus(Double(2.0, 0.0)));
        let ulp = y.0.next_up() - y.0;
        ((found.abs() - y.0) - y.1).abs() / ulp
    }
}

/// 2ⁿ where that is a double, also a subnormal one.
fn two_to(n: i32) -> f64 {
    times_two_to(1.0, n)
}

fn times_two_to(x: f64, n: i32) -> f64 {
    let (half, rest) = (n / 2, n - n / 2);
    x * 2f64.powi(half) * 2f64.powi(rest)
}

#[test]
fn the_yardstick_agrees_with_arbitrary_precision() {
    let (bits, nearest) = (256, RoundingMode::ToEven);
    let mut constants = Consts::new().expect("memory for a few constants");
    let truth = Truth::new();
    let mut random = Random(5);
    for i in 0..300 {
        let x = if i % 3 == 0 { random.between(-1.0, 1.0) } else { random.between(-700.0, 700.0) };
        let (m, k) = truth.exp_less_one(x);
        let big = |x: f64| BigFloat::from_f64(x, bits);
        let mut ours = big(1.0).add(&big(m.0), bits, nearest).add(&big(m.1), bits, nearest);
        ours.set_exponent(ours.exponent().expect("it is not 0") + k);
        let exact = big(x).exp(bits, nearest, &mut constants);
        let off = ours.sub(&exact, bits, nearest).div(&exact, bits, nearest);
        let off = off.exponent().filter(|_| !off.is_zero()).unwrap_or(-1000);
        assert!(off < -97, "exp({x}) is 2^{off} off");
    }
}

/// Arguments of exp that reach every result that is neither 0 nor infinite, where errors are likeliest above all.
fn arguments() -> Vec<f64> {
    let mut random = Random(1);
    let mut x = Vec::new();
    // Every binade down to where the result is 1, both signs.
    for exponent in -60..10 {
        for _ in 0..10_000 {
            let magnitude = random.between(1.0, 2.0) * 2f64.powi(exponent);
            x.extend([magnitude, -magnitude]);
        }
    }
    // Near odd multiples of ln 2 / 32, where the argument's reduction is at its worst, and multiples of ln 2 / 16.
    for k in -34_400..32_800 {
        let at = f64::from(k) * std::f64::consts::LN_2 / 32.0;
        x.extend([at, at.next_up(), at.next_down()]);
        x.extend((0..if k % 2 == 0 { 2 } else { 10 }).map(|_| at * random.between(1.0 - 1e-6, 1.0 + 1e-6)));
    }
    // The borders: overflow, subnormal results, 0.
    for border in [709.782712893384, -708.3964185322641, -744.4400719213812, -745.1332191019411] {
        x.extend((0..20_000).map(|_| border + random.between(-1e-3, 1e-3)));
        x.extend((-500..500).map(|i| f64::from_bits((border.to_bits() as i64 + i) as u64)));
    }
    for (from, to) in [(-745.2, -708.0), (-745.2, 709.8), (-1.0, 1.0)] {
        x.extend((0..600_000).map(|_| random.between(from, to)));
    }
    x.extend((0..400_000).map(|_| f64::from_bits(random.bits())));
    x.retain(|x| (-745.5..=710.0).contains(x));
    x
}

/// The largest error, and where.
fn most(x: &[f64], errors: impl Iterator<Item = f64>) -> (f64, f64) {
    x.iter().zip(errors).fold((0.0, 0.0), |most, (x, e)| if e <= most.0 { most } else { (e, *x) })
}

#[test]
fn exp_is_within_an_ulp_everywhere() {
    let (x, truth) = (arguments(), Truth::new());
    let mut found = vec![0.0; x.len()];
    Path::Portable.exp(&x, &mut found);
    let (error, at) = most(&x, x.iter().zip(&found).map(|(x, y)| truth.error_of_exp(*x, *y)));
    println!("exp: {error:.4} ulp at {at:e}, the most of {} arguments", x.len());
    assert!(error < 0.8, "exp({at:e}) is {error} ulp off");
    let normal = |(x, y): (&f64, &f64)| if *y < f64::MIN_POSITIVE { 0.0 } else { truth.error_of_exp(*x, *y) };
    let (error, at) = most(&x, x.iter().zip(&found).map(normal));
    println!("exp: {error:.4} ulp at {at:e} where results are not subnormal");
    assert!(error < 0.7, "exp({at:e}) is {error} ulp off");
    assert!(x.iter().zip(&found).all(|(x, y)| *x > 0.0 || (0.0..=1.0).contains(y)));
    same_on_all_paths(&x, &found, Path::exp);
}

#[test]
fn tanh_is_within_three_ulps_everywhere() {
    let truth = Truth::new();
    let mut random = Random(2);
    let mut x: Vec<f64> = (0..1_000_000).map(|_| random.between(-20.0, 20.0)).collect();
    x.extend((0..500_000).map(|_| random.between(-1.0, 1.0)));
    for exponent in -900..5 {
        x.extend((0..300).map(|_| random.between(1.0, 2.0) * 2f64.powi(exponent)));
    }
    let mut found = vec![0.0; x.len()];
    Path::Portable.tanh(&x, &mut found);
    let (error, at) = most(&x, x.iter().zip(&found).map(|(x, y)| truth.error_of_tanh(*x, *y)));
    println!("tanh: {error:.4} ulp at {at:e}, the most of {} arguments", x.len());
    assert!(error < 3.0, "tanh({at:e}) is {error} ulp off");
    assert!(
        x.iter().zip(&found).all(|(x, y)| y.abs() <= 1.0 && x.is_sign_negative() == y.is_sign_negative())
    );
    same_on_all_paths(&x, &found, Path::tanh);
}

fn same_on_all_paths(x: &[f64], wanted: &[f64], function: fn(Path, &[f64], &mut [f64])) {
    for path in Path::available() {
        let mut found = vec![0.0; x.len()];
        function(path, x, &mut found);
        let same =
            found.iter().zip(wanted).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
        assert!(same, "{}", path.name());
    }
}

#[test]
fn special_values() {
    const TINY: f64 = 5.551115123125783e-17; // 2⁻⁵⁴
    let cases = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (f64::NEG_INFINITY, 0.0),
        (f64::INFINITY, f64::INFINITY),
        (f64::MIN, 0.0),
        (f64::MAX, f64::INFINITY),
        (-746.0, 0.0),
        (-745.13, 5e-324),
        (710.0, f64::INFINITY),
        (709.782712893384, 1.797693134862273e308),
        (5e-324, 1.0),
        (-5e-324, 1.0),
        (TINY.next_down(), 1.0),
        (-TINY.next_down(), 1.0),
    ];
    let odd_nan = f64::from_bits(0xfff0_0000_0000_0001);
    for path in Path::available() {
        for (x, wanted) in cases {
            let mut found = [7.0; 3];
            path.exp(&[x; 3], &mut found);
            let near = (found[0] - wanted).abs() <= wanted * 1e-12;
            assert!(
                found[0] == wanted || (wanted > 1.0 && wanted.is_finite() && near),
                "exp({x:e}) = {found:?}"
            );
        }
        let mut found = [0.0; 11];
        let x = [
            f64::NAN,
            odd_nan,
            0.0,
            -0.0,
            5e-324,
            -5e-324,
            1e-310,
            1e300,
            f64::INFINITY,
            f64::NEG_INFINITY,
            22.0,
        ];
        path.exp(&x, &mut found);
        assert!(found[0].is_nan() && found[1].is_nan());
        path.tanh(&x, &mut found);
        assert!(found[0].is_nan() && found[1].is_nan());
        let wanted = [0.0f64, -0.0, 5e-324, -5e-324, 1e-310, 1.0, 1.0, -1.0, 1.0];
        assert_eq!(found[2..].iter().map(|y| y.to_bits()).collect::<Vec<_>>(), wanted.map(f64::to_bits));
        path.exp(&[], &mut []);
    }
}
