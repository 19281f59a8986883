//! NEON, which every 64-bit Arm CPU has: the target's baseline, so nothing has to be detected.
#![allow(unsafe_code, reason = "vector loads and stores take pointers")]
#![allow(clippy::needless_range_loop, reason = "four parts of several vectors are stepped side by side")]

use super::{Kernel, Simd};
use crate::tile::Heights;
use core::arch::aarch64::*;

/// The baseline of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neon(());

impl Neon {
    /// Present unless the target was compiled without floating point.
    pub(crate) fn detect() -> Option<Neon> {
        cfg!(target_feature = "neon").then_some(Neon(()))
    }
}

impl Simd for Neon {
    type V = [float32x4_t; 4];
    // 24 accumulators, 4 registers of weights, 2 of input: 30 of 32.
    const HEIGHTS: Heights = Heights::new(&[1, 2, 3, 4, 5, 6]);
    const BLOCKS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> [float32x4_t; 4] {
        // SAFETY: `self` exists only where NEON is part of the target.
        let v = unsafe { vdupq_n_f32(x) };
        [v; 4]
    }

    #[inline(always)]
    fn load(self, lanes: &[f32; 16]) -> [float32x4_t; 4] {
        let mut v = self.splat(0.0);
        for (i, part) in v.iter_mut().enumerate() {
            // SAFETY: NEON as above; the four loads lie within the sixteen lanes.
            *part = unsafe { vld1q_f32(lanes.as_ptr().add(4 * i)) };
        }
        v
    }

    #[inline(always)]
    fn store(self, v: [float32x4_t; 4], lanes: &mut [f32; 16]) {
        for (i, &part) in v.iter().enumerate() {
            // SAFETY: NEON as above; the four stores lie within the sixteen lanes.
            unsafe { vst1q_f32(lanes.as_mut_ptr().add(4 * i), part) };
        }
    }

    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; 16]) -> [float32x4_t; 4] {
        let bytes = halves.as_flattened().as_ptr();
        let mut v = self.splat(0.0);
        for (i, part) in v.iter_mut().enumerate() {
            // The steps of [`crate::half::to_f32`]; the type that FCVTL takes is not in stable Rust.
            // SAFETY: NEON as above; the four loads lie within the 32 bytes.
            *part = unsafe {
                let half = vld1_u16(bytes.add(8 * i).cast());
                let sign = vshlq_n_u32::<16>(vmovl_u16(vand_u16(half, vdup_n_u16(0x8000))));
                let shifted = vshlq_n_u32::<13>(vmovl_u16(vand_u16(half, vdup_n_u16(0x7fff))));
                let scaled =
                    vmulq_f32(vreinterpretq_f32_u32(shifted), vdupq_n_f32(f32::from_bits(crate::half::REBIAS)));
                let quiet = vandq_u32(vcgtq_u32(shifted, vdupq_n_u32(0x0f80_0000)), vdupq_n_u32(0x0040_0000));
                let special = vorrq_u32(vorrq_u32(shifted, vdupq_n_u32(0x7f80_0000)), quiet);
                let is_special = vcgeq_u32(shifted, vdupq_n_u32(0x0f80_0000));
                let magnitude = vbslq_u32(is_special, special, vreinterpretq_u32_f32(scaled));
                vreinterpretq_f32_u32(vorrq_u32(magnitude, sign))
            };
        }
        v
    }

    #[inline(always)]
    fn add(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        let mut sum = a;
        for i in 0..4 {
            // SAFETY: NEON as above.
            sum[i] = unsafe { vaddq_f32(a[i], b[i]) };
        }
        sum
    }

    #[inline(always)]
    fn mul(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        let mut product = a;
        for i in 0..4 {
            // SAFETY: NEON as above.
            product[i] = unsafe { vmulq_f32(a[i], b[i]) };
        }
        product
    }

    #[inline(always)]
    fn div(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        let mut quotient = a;
        for i in 0..4 {
            // SAFETY: NEON as above.
            quotient[i] = unsafe { vdivq_f32(a[i], b[i]) };
        }
        quotient
    }

    #[inline(always)]
    fn power_of_low_bits(self, v: [float32x4_t; 4]) -> [float32x4_t; 4] {
        let mut power = v;
        for i in 0..4 {
            // SAFETY: NEON as above.
            power[i] = unsafe {
                let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(v[i]));
                vreinterpretq_f32_s32(vaddq_s32(exponent, vdupq_n_s32(127 << 23)))
            };
        }
        power
    }

    /// The intrinsic is not stable; these CPUs were never measured.
    #[inline(always)]
    fn clamp(self, v: [float32x4_t; 4], lo: [float32x4_t; 4], hi: [float32x4_t; 4]) -> [float32x4_t; 4] {
        let mut out = v;
        for i in 0..4 {
            // Comparisons with NaN are false: the value stays.
            // SAFETY: NEON as above.
            unsafe {
                let above = vbslq_f32(vcltq_f32(v[i], lo[i]), lo[i], v[i]);
                out[i] = vbslq_f32(vcgtq_f32(above, hi[i]), hi[i], above);
            }
        }
        out
    }

    #[inline(always)]
    fn mul_add(self, a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
        let mut sum = c;
        for i in 0..4 {
            // SAFETY: NEON as above.
            sum[i] = unsafe { vfmaq_f32(c[i], a[i], b[i]) };
        }
        sum
    }

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

/// See [`super::sqrt`].
#[inline(always)]
pub(super) fn sqrt(x: f32) -> f32 {
    // SAFETY: NEON is part of the target wherever this module is used.
    unsafe { vgetq_lane_f32::<0>(vsqrtq_f32(vdupq_n_f32(x))) }
}
