//! Functions of one `f32`, which `core` lacks, written branch-free so that loops over them vectorise.
//!
//! No fused multiply-add is used: every kernel set gives the same bits. The polynomials are those of the Cephes library
//! (S. Moshier, public domain), `erf` follows the two-interval form of N. Juffa. Largest errors in units in the last
//! place (ULP) of the result, measured against `f64` references by the tests below:
//!
//! | function | error | | function | error |
//! | --- | --- | --- | --- | --- |
//! | `exp` | 2 ULP | | `exp_normal` | 2 ULP |
//! | `exp_m1` | 4 ULP | | `erf` | 3 ULP |
//! | `ln` | 2 ULP | | `softplus` | 4 ULP |
//! | `tanh` | 3 ULP | | `round`, `floor`, `ceil`, `sqrt` | exact |
//!
//! `pow` and `fmod` are cold and come from the crate `libm` (the Rust project's own port of musl's, no dependencies),
//! which thereby belongs to the trusted computing base; `pow` is within 1 ULP, `fmod` exact.

pub(crate) const LN2_HI: f32 = 0.693_359_4; // 355 / 512: nine bits, so its product with an exponent is exact.
pub(crate) const LN2_LO: f32 = -2.121_944_4e-4;
/// 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits.
pub(crate) const SHIFT: f32 = 12_582_912.0;
const TWO_23: f32 = 8_388_608.0;

/// `e^x`; overflows to infinity above 88.73, underflows gradually to 0 below -87.3.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Beyond the bounds the result is infinity or zero anyway; NaN passes both comparisons.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x * core::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i32;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let y = exp_tail(r) * (r * r) + r + 1.0;
    // Two factors: 2^n itself need not be a normal number.
    let half = exponent >> 1;
    y * power_of_two(half) * power_of_two(exponent.wrapping_sub(half))
}

/// [`exp`] for a third fewer operations: results that are no normal numbers become 0, and those above `e^88.37` infinity.
#[inline(always)]
pub fn exp_normal(x: f32) -> f32 {
    let x = if x > 89.0 { 89.0 } else { x };
    exp_within(if x < -88.0 { -88.0 } else { x })
}

/// [`exp_normal`] for `-88 <= x <= 89`; NaN stays.
#[inline(always)]
fn exp_within(x: f32) -> f32 {
    let shifted = x * core::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let y = exp_tail(r) * (r * r) + r + 1.0;
    y * power_of_low_bits(shifted)
}

/// `2^n` for a sum `n + SHIFT`, whose low bits are those of `n`; `n = -127` gives zero and 128 infinity.
#[inline(always)]
pub(crate) fn power_of_low_bits(shifted: f32) -> f32 {
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `(e^r - 1 - r) / r^2` for `|r| <= ln(2) / 2`.
#[inline(always)]
fn exp_tail(r: f32) -> f32 {
    let p = 1.987_569_1e-4 * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    p * r + 0.5
}

/// `2^n` for `-126 <= n <= 127`; anything for other `n`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `e^x - 1`, accurate near 0.
#[inline(always)]
pub fn exp_m1(x: f32) -> f32 {
    let near = exp_tail(x) * (x * x) + x;
    let far = exp(x) - 1.0;
    if x.abs() < 0.34 { near } else { far }
}

/// Natural logarithm; 0 gives -infinity, negative numbers NaN.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // Subnormals are scaled into range first.
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * TWO_23 } else { x };
    let bits = scaled.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32 - if tiny { 126 + 23 } else { 126 };
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    // Mantissa in [sqrt(1/2), sqrt(2)), minus 1.
    let low = mantissa < core::f32::consts::FRAC_1_SQRT_2;
    let e = (exponent - i32::from(low)) as f32;
    let m = if low { mantissa + mantissa } else { mantissa } - 1.0;
    let z = m * m;
    let p = 7.037_683_6e-2 * m - 1.151_461e-1;
    let p = p * m + 1.167_699_9e-1;
    let p = p * m - 1.242_014_1e-1;
    let p = p * m + 1.424_932_3e-1;
    let p = p * m - 1.666_805_8e-1;
    let p = p * m + 2.000_071_5e-1;
    let p = p * m - 2.499_999_4e-1;
    let p = p * m + 3.333_333e-1;
    let y = m * z * p + e * LN2_LO - 0.5 * z;
    let result = m + y + e * LN2_HI;
    let result = if x == f32::INFINITY { x } else { result };
    let result = if x == 0.0 { f32::NEG_INFINITY } else { result };
    // Written so that NaN, too, gives NaN.
    if x >= 0.0 { result } else { f32::NAN }
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let p = -5.704_988_7e-3 * z + 2.063_909e-2;
    let p = p * z - 5.373_971_6e-2;
    let p = p * z + 1.333_144_2e-1;
    let p = p * z - 3.333_328e-1;
    let near = p * z * x + x;
    let far = 1.0 - 2.0 / (exp(a + a) + 1.0);
    (if a < 0.625 { near } else { far }).copysign(x)
}

/// Gauss error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    let p = -5.967_617e-4 * s + 4.991_194_2e-3;
    let p = p * s - 2.676_813_5e-2;
    let p = p * s + 1.128_199_3e-1;
    let p = p * s - 3.761_253_4e-1;
    let p = p * s + 1.283_791_7e-1;
    let near = p * x + x;
    // Beyond 4 the result is 1; clamping keeps the polynomial from overflowing. NaN passes.
    let t = if a > 4.0 { 4.0 } else { a };
    let q = -1.728_534_7e-5 * t + 3.831_972e-4;
    let q = q * t - 3.883_964_4e-3;
    let q = q * t + 2.425_462_2e-2;
    let q = q * t - 1.067_778_8e-1;
    let q = q * t - 6.348_468_7e-1;
    let q = q * t - 1.287_175_1e-1;
    let far = (1.0 - exp_within(q * t - t)).copysign(x);
    if a < 0.927_734_4 { near } else { far }
}

/// `ln(1 + e^x)` without overflow or cancellation.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let positive = if x < 0.0 { 0.0 } else { x };
    positive + ln_1p_unit(exp(-x.abs()))
}

/// `ln(1 + e)` for `0 <= e <= 1`.
#[inline(always)]
fn ln_1p_unit(e: f32) -> f32 {
    let u = 1.0 + e;
    // `u - 1` is what rounding left of `e`; the quotient corrects for it.
    let corrected = ln(u) * (e / (u - 1.0));
    if u == 1.0 { e } else { corrected }
}

/// `x * tanh(softplus(x))`.
#[inline(always)]
pub fn mish(x: f32) -> f32 {
    // tanh(ln(u)) = (u^2 - 1) / (u^2 + 1) with u = 1 + e^x; beyond 20 the quotient is 1.
    let e = exp(if x > 20.0 { 20.0 } else { x });
    let n = e * (e + 2.0);
    x * (n / (n + 2.0))
}

/// `0.5 * x * (1 + erf(x / sqrt(2)))`.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))
}

/// `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// Nearest integer, ties to even.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    let a = x.abs();
    let rounded = ((a + TWO_23) - TWO_23).copysign(x);
    if a < TWO_23 { rounded } else { x }
}

/// Largest integer not above `x`.
#[inline(always)]
pub fn floor(x: f32) -> f32 {
    let r = round(x);
    (if r > x { r - 1.0 } else { r }).copysign(x)
}

/// Smallest integer not below `x`.
#[inline(always)]
pub fn ceil(x: f32) -> f32 {
    let r = round(x);
    (if r < x { r + 1.0 } else { r }).copysign(x)
}

/// Larger of two; NaN if either is.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    let larger = if b > a { b } else { a };
    if b.is_nan() { b } else { larger }
}

/// Smaller of two; NaN if either is.
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    let smaller = if b < a { b } else { a };
    if b.is_nan() { b } else { smaller }
}

/// `x` within `lo..=hi`; NaN stays.
#[inline(always)]
pub fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// `x` to the power `y`, with the special cases of C's `powf`.
#[inline]
pub fn pow(x: f32, y: f32) -> f32 {
    // What exported networks use most: variance and RMS norms.
    if y == 2.0 { x * x } else { libm::powf(x, y) }
}

/// Remainder of `x / y` truncated toward zero: the sign of `x`.
#[inline]
pub fn fmod(x: f32, y: f32) -> f32 {
    libm::fmodf(x, y)
}

/// Remainder of `x / y` rounded down: the sign of `y`.
#[inline]
pub fn modulo(x: f32, y: f32) -> f32 {
    let r = libm::fmodf(x, y);
    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::test_support::Rng;

    /// Distance in units in the last place of `reference`, infinite where one is NaN or infinite and the other is not.
    fn ulps(got: f32, reference: f64) -> f64 {
        let nearest = reference as f32;
        if got == nearest || (got.is_nan() && nearest.is_nan()) {
            return 0.0;
        }
        // A subnormal's unit is the smallest subnormal.
        let unit = f64::from(f32::from_bits(nearest.abs().to_bits().max(0x0080_0000)));
        let unit = 2f64.powi(unit.log2().floor() as i32 - 23);
        (f64::from(got) - reference).abs() / unit
    }

    /// The largest error of `f` over `range`.
    pub(crate) fn worst(f: impl Fn(f32) -> f32, reference: impl Fn(f64) -> f64, range: core::ops::Range<f32>) -> f64 {
        let steps = 400_000;
        let mut rng = Rng(7);
        let mut worst = 0f64;
        for i in 0..steps {
            let t = (f64::from(i) + f64::from(rng.unit())) / f64::from(steps);
            let x = range.start + (f64::from(range.end - range.start) * t) as f32;
            worst = worst.max(ulps(f(x), reference(f64::from(x))));
        }
        // Tiny arguments, too, which even steps never reach.
        for exponent in -149..0 {
            for sign in [1.0, -1.0] {
                let x = sign * 2f32.powi(exponent) * (1.0 + rng.unit());
                if range.contains(&x) {
                    worst = worst.max(ulps(f(x), reference(f64::from(x))));
                }
            }
        }
        worst
    }

    #[test]
    fn errors_stay_within_the_stated_bounds() {
        let all = [
            ("exp", worst(exp, f64::exp, -87.3..88.7), 2.0),
            ("exp_normal", worst(exp_normal, f64::exp, -87.3..88.3), 2.0),
            ("exp, subnormal results", worst(exp, f64::exp, -110.0..-87.3), 2.0),
            ("exp_m1", worst(exp_m1, f64::exp_m1, -20.0..20.0), 4.0),
            ("ln", worst(ln, f64::ln, 1e-45..4.0), 2.0),
            ("ln, large", worst(ln, f64::ln, 4.0..3e38), 2.0),
            ("tanh", worst(tanh, f64::tanh, -12.0..12.0), 3.0),
            ("erf", worst(erf, libm::erf, -6.0..6.0), 3.0),
            ("softplus", worst(softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), -80.0..80.0), 4.0),
            ("mish", worst(mish, |x| x * (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh(), -80.0..80.0), 6.0),
            ("round", worst(round, f64::round_ties_even, -1e3..1e3), 0.0),
            ("floor", worst(floor, f64::floor, -1e3..1e3), 0.0),
            ("ceil", worst(ceil, f64::ceil, -1e3..1e3), 0.0),
            ("pow", worst(|x| pow(x, 1.7), |x| x.powf(f64::from(1.7f32)), 1e-3..1e3), 1.0),
        ];
        let failed: alloc::vec::Vec<_> = all.iter().filter(|(_, worst, bound)| worst > bound).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }

    #[test]
    fn gelu_errors_are_absolute() {
        // Far below zero the formula itself cancels, in every engine; what counts is the error beside |x|.
        let mut rng = Rng(3);
        for _ in 0..200_000 {
            let x = rng.range(-10.0, 10.0);
            let exact = 0.5 * f64::from(x) * libm::erfc(-f64::from(x) / core::f64::consts::SQRT_2);
            assert!((f64::from(gelu(x)) - exact).abs() <= 1.5e-7 * f64::from(x.abs()), "gelu({x})");
            let inner = (2.0 / core::f64::consts::PI).sqrt() * (f64::from(x) + 0.044_715 * f64::from(x).powi(3));
            let exact = 0.5 * f64::from(x) * (1.0 + inner.tanh());
            assert!((f64::from(gelu_tanh(x)) - exact).abs() <= 3e-7 * f64::from(x.abs()), "gelu_tanh({x})");
        }
    }

    #[test]
    fn special_values() {
        let inf = f32::INFINITY;
        type Named = (&'static str, fn(f32) -> f32);
        let functions: [Named; 13] = [
            ("exp", exp),
            ("exp_normal", exp_normal),
            ("exp_m1", exp_m1),
            ("ln", ln),
            ("tanh", tanh),
            ("erf", erf),
            ("softplus", softplus),
            ("mish", mish),
            ("gelu", gelu),
            ("gelu_tanh", gelu_tanh),
            ("round", round),
            ("floor", floor),
            ("ceil", ceil),
        ];
        for (name, f) in functions {
            assert!(f(f32::NAN).is_nan(), "{name}");
        }
        assert_eq!((exp(inf), exp(-inf), exp(0.0), exp(200.0), exp(-200.0)), (inf, 0.0, 1.0, inf, 0.0));
        assert_eq!((exp_normal(inf), exp_normal(-inf), exp_normal(0.0), exp_normal(-90.0)), (inf, 0.0, 1.0, 0.0));
        assert_eq!((ln(inf), ln(0.0), ln(-0.0), ln(1.0)), (inf, -inf, -inf, 0.0));
        assert!(ln(-1.0).is_nan() && ln(-inf).is_nan());
        assert_eq!((tanh(inf), tanh(-inf), erf(inf), erf(-inf)), (1.0, -1.0, 1.0, -1.0));
        assert_eq!((softplus(inf), softplus(-inf)), (inf, 0.0));
        assert_eq!((mish(inf), gelu(inf), round(2.5), round(3.5), round(-0.5)), (inf, inf, 2.0, 4.0, -0.0));
        assert_eq!((floor(-inf), ceil(inf), floor(1e30), round(8_388_607.5)), (-inf, inf, 1e30, 8_388_608.0));
        for (name, f) in
            [("tanh", tanh as fn(f32) -> f32), ("erf", erf), ("round", round), ("floor", floor), ("ceil", ceil)]
        {
            assert_eq!(f(-0.0).to_bits(), (-0.0f32).to_bits(), "{name}(-0)");
        }
    }

    #[test]
    fn extrema_and_remainders_follow_numpy() {
        let nan = f32::NAN;
        assert!(max(nan, 1.0).is_nan() && max(1.0, nan).is_nan() && min(nan, 1.0).is_nan() && min(1.0, nan).is_nan());
        assert!(clamp(nan, 0.0, 1.0).is_nan());
        assert_eq!((max(1.0, 2.0), min(1.0, 2.0), clamp(3.0, 0.0, 2.0), clamp(-3.0, 0.0, 2.0)), (2.0, 1.0, 2.0, 0.0));
        assert_eq!((modulo(-3.0, 2.0), modulo(3.0, -2.0), fmod(-3.0, 2.0), fmod(3.0, -2.0)), (1.0, -1.0, -1.0, 1.0));
    }
}
