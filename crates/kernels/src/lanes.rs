//! The activations that networks apply to most of their values, of sixteen at once.
//!
//! Unlike [`crate::math`], they use the kernel set's fused multiply-add, so bits depend on the set, as those of the
//! convolutions do that they follow. Largest error of either under any set: 4 ULP.

use crate::arch::Simd;
use crate::math::{LN2_HI, LN2_LO, SHIFT};

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    // Beside a large exponential the 1 vanishes, so small results keep their relative accuracy.
    s.div(s.splat(1.0), s.add(s.splat(1.0), exp_negative(s, x)))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(x, s.add(s.splat(1.0), exp_negative(s, x)))
}

/// `e^-x`; results that are no normal numbers become 0, and those above `e^88.37` infinity.
#[inline(always)]
fn exp_negative<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.clamp(x, s.splat(-89.0), s.splat(88.0));
    let shifted = s.mul_add(x, s.splat(-core::f32::consts::LOG2_E), s.splat(SHIFT));
    let n = s.add(shifted, s.splat(-SHIFT));
    // Minus x, less n times the logarithm of 2; here and below all signs are those of `r = -x - n ln 2`.
    let less = s.mul_add(n, s.splat(LN2_HI), x);
    let less = s.mul_add(n, s.splat(LN2_LO), less);
    // e^-less for |less| <= ln(2) / 2: the least relative error of degree 6 with both 1 exact, 3e-9.
    let p = s.mul_add(less, s.splat(1.381_459_6e-3), s.splat(-8.368_718e-3));
    let p = s.mul_add(p, less, s.splat(4.166_839e-2));
    let p = s.mul_add(p, less, s.splat(-1.666_652_1e-1));
    let p = s.mul_add(p, less, s.splat(4.999_999_4e-1));
    let p = s.mul_add(p, less, s.splat(-1.0));
    let p = s.mul_add(p, less, s.splat(1.0));
    s.mul(p, s.power_of_low_bits(shifted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSet;
    use crate::arch::Kernel;
    use crate::math::tests::worst;
    use crate::test_support::sets;

    struct One {
        silu: bool,
        x: f32,
    }

    impl Kernel for One {
        type Output = f32;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            let mut lanes = [0.0; 16];
            let x = s.splat(self.x);
            s.store(if self.silu { silu(s, x) } else { sigmoid(s, x) }, &mut lanes);
            assert!(lanes.iter().all(|lane| lane.to_bits() == lanes[0].to_bits() || lane.is_nan()));
            lanes[0]
        }
    }

    fn one(set: KernelSet, silu: bool, x: f32) -> f32 {
        set.dispatch(One { silu, x })
    }

    #[test]
    fn errors_stay_within_the_stated_bound_in_every_set() {
        for set in sets() {
            let sigmoid = worst(|x| one(set, false, x), |x| 1.0 / (1.0 + (-x).exp()), -87.0..87.0);
            let silu = worst(|x| one(set, true, x), |x| x / (1.0 + (-x).exp()), -87.0..87.0);
            std::println!("{}: sigmoid {sigmoid:.2}, silu {silu:.2} ULP", set.name());
            assert!(sigmoid <= 4.0 && silu <= 4.0, "{}: sigmoid {sigmoid}, silu {silu}", set.name());
        }
    }

    #[test]
    fn special_values() {
        let inf = f32::INFINITY;
        for set in sets() {
            for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
                assert!(one(set, false, nan).is_nan() && one(set, true, nan).is_nan(), "{}", set.name());
            }
            assert_eq!((one(set, false, inf), one(set, false, -inf), one(set, false, 0.0)), (1.0, 0.0, 0.5));
            assert_eq!((one(set, true, inf), one(set, true, -200.0), one(set, true, 0.0)), (inf, 0.0, 0.0));
        }
    }
}
