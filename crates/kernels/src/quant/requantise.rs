//! From sums to bytes.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use super::{Sum, Target};

/// [`Target`] as the arithmetic wants it: bounds relative to `zero`, so that clamping comes before rounding and nothing
/// can leave the range of an integer.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) lo: f32,
    pub(crate) hi: f32,
    /// `zero` less the integer that the bits of [`ROUND`] are.
    pub(crate) offset: i32,
}

/// 1.5 · 2^23: added to a number of at most 2^22, it leaves the nearest integer, ties to even, in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

impl Bounds {
    #[inline(always)]
    pub(crate) fn new(to: Target) -> Bounds {
        let zero = f32::from(to.zero);
        let offset = i32::from(to.zero).wrapping_sub(ROUND.to_bits() as i32);
        Bounds { lo: f32::from(to.lo) - zero, hi: f32::from(to.hi) - zero, offset }
    }

    /// The byte of a number in steps of the output's scale. NaN gives the lowest.
    #[inline(always)]
    pub(crate) fn byte(self, v: f32) -> u8 {
        let v = if v > self.lo { v } else { self.lo };
        let v = if v < self.hi { v } else { self.hi };
        ((v + ROUND).to_bits() as i32).wrapping_add(self.offset) as u8
    }

    /// Sixteen sums times their channels' scales.
    #[inline(always)]
    pub(crate) fn bytes(self, sums: &[i32; 16], scale: &[f32; 16]) -> [u8; 16] {
        let mut out = [0; 16];
        for i in 0..16 {
            out[i] = self.byte(sums[i] as f32 * scale[i]);
        }
        out
    }
}

/// [`Sum`] as the arithmetic wants it.
#[derive(Clone, Copy)]
pub(crate) struct Added {
    pub(crate) a_scale: f32,
    pub(crate) a_zero: i32,
    pub(crate) b_scale: f32,
    pub(crate) b_zero: i32,
    pub(crate) to: Bounds,
}

impl Added {
    #[inline(always)]
    pub(crate) fn new(Sum { a_scale, a_zero, b_scale, b_zero, to }: Sum) -> Added {
        Added { a_scale, a_zero: a_zero.into(), b_scale, b_zero: b_zero.into(), to: Bounds::new(to) }
    }

    /// The byte of a pair.
    #[inline(always)]
    pub(crate) fn byte(&self, a: u8, b: u8) -> u8 {
        self.to.byte(real(a, self.a_zero, self.a_scale) + real(b, self.b_zero, self.b_scale))
    }

    /// Sixteen pairs.
    #[inline(always)]
    pub(crate) fn bytes(&self, a: &[u8; 16], b: &[u8; 16]) -> [u8; 16] {
        let mut out = [0; 16];
        for i in 0..16 {
            out[i] = self.byte(a[i], b[i]);
        }
        out
    }
}

/// `(x - zero) * scale`. Exact before the product: both are small integers.
#[inline(always)]
pub(super) fn real(x: u8, zero: i32, scale: f32) -> f32 {
    (i32::from(x) - zero) as f32 * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_to_even_and_saturates() {
        let byte = |to, v| Bounds::new(to).byte(v);
        let all = Target::new(10);
        for (v, expected) in
            [(0.5, 10), (1.5, 12), (2.5, 12), (-0.5, 10), (-1.5, 8), (0.499_999_97, 10), (-10.4, 0), (-10.6, 0)]
        {
            assert_eq!(byte(all, v), expected, "{v}");
        }
        for (v, expected) in [(1e30, 255), (-1e30, 0), (f32::INFINITY, 255), (f32::NEG_INFINITY, 0), (f32::NAN, 0)] {
            assert_eq!(byte(all, v), expected, "{v}");
        }
        let narrow = Target { zero: 128, lo: 128, hi: 200 };
        assert_eq!([-3.0, 0.4, 71.6, 100.0].map(|v| byte(narrow, v)), [128, 128, 200, 200]);
    }

    #[test]
    fn every_quarter_step_of_every_zero_point() {
        for zero in 0..=255u8 {
            let bounds = Bounds::new(Target::new(zero));
            for quarter in -1100..=1100 {
                let v = f64::from(quarter) / 4.0;
                let expected = (v.round_ties_even() + f64::from(zero)).clamp(0.0, 255.0) as u8;
                assert_eq!(bounds.byte(v as f32), expected, "{v} + {zero}");
            }
        }
    }
}
