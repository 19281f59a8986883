//! IEEE 754 binary16 ("f16") as a form of storage: two bytes of a number that is computed with as `f32`.
//!
//! Every binary16 number is an `f32`, so widening is exact and gives the same bits under every kernel set. Narrowing is
//! the owner's, before sealing; no kernel does it.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::{Kernel, Simd};
use crate::parallel::{Compute, MOVE};

/// Bits of 2^112: what makes an exponent of bias 127 from one of bias 15.
pub(crate) const REBIAS: u32 = (127 + 112) << 23;

/// The exponent field of infinities and NaNs, at its place in an `f32` before the bias is changed.
const SPECIAL: u32 = 0x7c00 << 13;

/// The value of one number. A signalling NaN becomes the quiet one, as CPUs do it.
#[inline(always)]
pub fn to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let shifted = u32::from(half & 0x7fff) << 13;
    // Exact, subnormal numbers included: the product is a power of two times an integer below 2^11.
    let scaled = (f32::from_bits(shifted) * f32::from_bits(REBIAS)).to_bits();
    let quiet = if shifted > SPECIAL { 0x0040_0000 } else { 0 };
    let magnitude = if shifted >= SPECIAL { shifted | 0x7f80_0000 | quiet } else { scaled };
    f32::from_bits(sign | magnitude)
}

/// Widens little-endian numbers, two bytes each, as many as `out` has elements.
pub fn widen(compute: Compute, halves: &[u8], out: &mut [f32]) {
    let (halves, rest) = halves.as_chunks::<2>();
    assert!(rest.is_empty() && halves.len() == out.len(), "validated: two bytes for each element");
    compute.split(out, 16, out.len() as u64 * MOVE, |range, out| {
        let first = range.start * 16;
        compute.set.dispatch(Widen { halves: &halves[first..first + out.len()], out });
    });
}

struct Widen<'a> {
    halves: &'a [[u8; 2]],
    out: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (halves, last) = self.halves.as_chunks::<16>();
        let (out, end) = self.out.as_chunks_mut::<16>();
        for (halves, out) in halves.iter().zip(out) {
            simd.store(simd.load_f16(halves), out);
        }
        for (half, out) in last.iter().zip(end) {
            *out = to_f32(u16::from_le_bytes(*half));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::sets;
    use alloc::vec;
    use alloc::vec::Vec;

    /// By the standard's definition, in double precision; `None` for NaN.
    fn definition(half: u16) -> Option<f64> {
        let (exponent, fraction) = (i32::from(half >> 10 & 0x1f), f64::from(half & 0x3ff));
        let magnitude = match exponent {
            0 => fraction / 1024.0 * 2f64.powi(-14),
            31 if fraction == 0.0 => f64::INFINITY,
            31 => return None,
            _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
        };
        Some(if half & 0x8000 == 0 { magnitude } else { -magnitude })
    }

    #[test]
    fn every_number_has_the_value_of_the_standard() {
        for half in 0..=u16::MAX {
            let got = to_f32(half);
            match definition(half) {
                Some(value) => assert_eq!(f64::from(got).to_bits(), value.to_bits(), "{half:04x}"),
                None => {
                    // Sign and payload stay, the quiet bit is set.
                    let bits = u32::from(half & 0x8000) << 16 | 0x7fc0_0000 | u32::from(half & 0x3ff) << 13;
                    assert_eq!(got.to_bits(), bits, "{half:04x}");
                }
            }
        }
    }

    #[test]
    fn every_set_widens_every_number_alike() {
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let expected: Vec<u32> = (0..=u16::MAX).map(|half| to_f32(half).to_bits()).collect();
        for set in sets() {
            // An odd start and an odd length reach the unaligned and the partial path.
            for (start, end) in [(0, 65536), (1, 65536), (5, 22), (65519, 65536)] {
                let mut out = vec![7.0f32; end - start];
                widen(set.into(), &halves[2 * start..2 * end], &mut out);
                let got: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
                assert_eq!(got, expected[start..end], "{} from {start}", set.name());
            }
        }
    }
}
