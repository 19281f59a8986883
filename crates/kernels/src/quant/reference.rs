//! The documented rounding, written out in `f64`: what the tests compare with.

use super::{Sum, Target};
use crate::test_support::Rng;

/// Slow and obvious.
pub(super) trait Rounding {
    fn round(&self, v: f32) -> u8;
}

impl Rounding for Target {
    fn round(&self, v: f32) -> u8 {
        let rounded = f64::from(v).round_ties_even() + f64::from(self.zero);
        rounded.clamp(f64::from(self.lo), f64::from(self.hi)) as u8
    }
}

impl Sum {
    pub(super) fn of(&self, a: u8, b: u8) -> u8 {
        let real = |x: u8, zero: u8, scale: f32| (f32::from(x) - f32::from(zero)) * scale;
        self.to.round(real(a, self.a_zero, self.a_scale) + real(b, self.b_zero, self.b_scale))
    }
}

/// Any target, half of them with an activation's bounds.
pub(crate) fn target(rng: &mut Rng) -> Target {
    let zero = rng.next() as u8;
    if rng.below(2) == 0 { Target::new(zero) } else { Target { zero, lo: zero, hi: zero.max(240) } }
}

/// Any sum.
pub(crate) fn sum(rng: &mut Rng) -> Sum {
    Sum {
        a_scale: rng.range(0.3, 1.5),
        a_zero: rng.next() as u8,
        b_scale: rng.range(0.3, 1.5),
        b_zero: rng.next() as u8,
        to: target(rng),
    }
}
