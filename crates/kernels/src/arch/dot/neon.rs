//! `SDOT` of Armv8.2. It multiplies signed by signed bytes, so inputs travel as `x - 128` and `128 · Σ w` is added back:
//! one more product per weight vector, shared by the rows of a tile.
#![allow(unsafe_code, reason = "vector loads and stores take pointers; the intrinsic is not stable yet")]
#![allow(clippy::needless_range_loop, reason = "four parts of several vectors are stepped side by side")]

use super::{Dot, DotKernel};
use crate::tile::Heights;
use core::arch::aarch64::*;

/// Part of the target the crate is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sdot(());

/// Four weights for each of four sums, and `128 · Σ w` of each.
#[derive(Clone, Copy)]
pub(crate) struct Weights {
    bytes: [int8x16_t; 4],
    correction: [int32x4_t; 4],
}

impl Sdot {
    pub(super) fn detect() -> Option<Sdot> {
        cfg!(target_feature = "dotprod").then_some(Sdot(()))
    }
}

/// `sum + Σ a · b` of four neighbours, four times.
#[inline(always)]
fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: this module is compiled only for targets that have the instruction; it touches its operands alone.
    unsafe {
        core::arch::asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl Dot for Sdot {
    type Sums = [int32x4_t; 4];
    type Weights = Weights;
    // 16 accumulators, 8 registers of weights and corrections, 1 of input: 25 of 32.
    const HEIGHTS: Heights = Heights::new(&[1, 2, 3, 4]);
    const BLOCKS: usize = 1;

    #[inline(always)]
    fn start(self, values: &[i32; 16]) -> [int32x4_t; 4] {
        // SAFETY: NEON is part of the target; the loads lie within the sixteen values.
        core::array::from_fn(|i| unsafe { vld1q_s32(values.as_ptr().add(4 * i)) })
    }

    #[inline(always)]
    fn weights(self, bytes: &[u8; 64]) -> Weights {
        // SAFETY: NEON is part of the target; the loads lie within the 64 bytes.
        let bytes: [int8x16_t; 4] = core::array::from_fn(|i| unsafe { vld1q_s8(bytes.as_ptr().add(16 * i).cast()) });
        // SAFETY: NEON is part of the target.
        let correction = bytes.map(|w| unsafe { vnegq_s32(sdot(vdupq_n_s32(0), w, vdupq_n_s8(-128))) });
        Weights { bytes, correction }
    }

    #[inline(always)]
    fn dot(self, mut sums: [int32x4_t; 4], x: [u8; 4], w: Weights) -> [int32x4_t; 4] {
        // SAFETY: NEON is part of the target.
        let x = unsafe { vreinterpretq_s8_u32(vdupq_n_u32(u32::from_le_bytes(x) ^ 0x8080_8080)) };
        for i in 0..4 {
            // SAFETY: NEON is part of the target.
            sums[i] = sdot(unsafe { vaddq_s32(sums[i], w.correction[i]) }, x, w.bytes[i]);
        }
        sums
    }

    #[inline(always)]
    fn multiply(self, mut sums: [int32x4_t; 4], x: &[u8; 16], w: &[u8; 16]) -> [int32x4_t; 4] {
        // SAFETY: NEON is part of the target; the loads are the sixteen bytes.
        unsafe {
            let (x, w) = (vld1q_u8(x.as_ptr()), vld1q_s8(w.as_ptr().cast()));
            let x = [vmovl_u8(vget_low_u8(x)), vmovl_u8(vget_high_u8(x))].map(|x| vreinterpretq_s16_u16(x));
            let w = [vmovl_s8(vget_low_s8(w)), vmovl_s8(vget_high_s8(w))];
            for half in 0..2 {
                let low = vmlal_s16(sums[2 * half], vget_low_s16(x[half]), vget_low_s16(w[half]));
                let high = vmlal_s16(sums[2 * half + 1], vget_high_s16(x[half]), vget_high_s16(w[half]));
                (sums[2 * half], sums[2 * half + 1]) = (low, high);
            }
        }
        sums
    }

    #[inline(always)]
    fn finish(self, sums: [int32x4_t; 4]) -> [i32; 16] {
        let mut out = [0; 16];
        for (i, part) in sums.into_iter().enumerate() {
            // SAFETY: NEON is part of the target; the stores lie within the sixteen values.
            unsafe { vst1q_s32(out.as_mut_ptr().add(4 * i), part) };
        }
        out
    }

    #[inline(never)]
    fn call<K: DotKernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}
