//! From finished sums to bytes on x86-64: [`Bounds::byte`] and [`Added::byte`] of eight or sixteen lanes. The arithmetic is
//! the same, operation by operation; of NaN and of two zeros MAXPS and MINPS give the second operand, as the portable code
//! does.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(unsafe_code, reason = "vector instructions; the caller has found the CPU features")]
#![allow(clippy::needless_range_loop, reason = "parts of several vectors are stepped side by side")]

use crate::quant::requantise::{Added, Bounds, ROUND};
use core::arch::x86_64::*;

/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn pack_eight([low, high]: [__m256i; 2]) -> __m128i {
    // SAFETY: the caller's.
    unsafe {
        // Every value is a byte, so no saturation changes one.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
    }
}

/// # Safety
///
/// The CPU has AVX-512F.
#[inline(always)]
unsafe fn pack_sixteen([all]: [__m512i; 1]) -> __m128i {
    // SAFETY: the caller's.
    unsafe { _mm512_cvtepi32_epi8(all) }
}

macro_rules! bytes {
    ($name:ident, $what:literal, $count:literal, $int:ty, $float:ty, $splat:ident, $splat_int:ident, $load:ident,
     $max:ident, $min:ident, $add:ident, $mul:ident, $bits:ident, $add_int:ident, $sub_int:ident, $real:ident,
     $widen:ident, $load_bytes:ident, $pack:ident) => {
        #[doc = $what]
        pub(super) mod $name {
            use super::*;

            /// # Safety
            ///
            /// The CPU has the instructions.
            #[inline(always)]
            unsafe fn byte(v: $float, to: &Bounds) -> $int {
                // SAFETY: the caller's.
                unsafe {
                    let v = $min($max(v, $splat(to.lo)), $splat(to.hi));
                    $add_int($bits($add(v, $splat(ROUND))), $splat_int(to.offset))
                }
            }

            /// # Safety
            ///
            /// The CPU has the instructions.
            #[inline(always)]
            unsafe fn real(x: $int, zero: i32, scale: f32) -> $float {
                // SAFETY: the caller's.
                unsafe { $mul($real($sub_int(x, $splat_int(zero))), $splat(scale)) }
            }

            /// [`Bounds::byte`] of every sum times its scale, in 32 bits.
            ///
            /// # Safety
            ///
            /// The CPU has the instructions.
            #[inline(always)]
            unsafe fn quantised(mut sums: [$int; $count], scale: &[f32; 16], to: &Bounds) -> [$int; $count] {
                for i in 0..$count {
                    // SAFETY: the caller's; the loads lie within the sixteen scales.
                    unsafe {
                        let scale = $load(scale.as_ptr().add(i * 16 / $count));
                        sums[i] = byte($mul($real(sums[i]), scale), to);
                    }
                }
                sums
            }

            /// # Safety
            ///
            /// The CPU has the instructions.
            #[inline(always)]
            unsafe fn pack(bytes: [$int; $count]) -> [u8; 16] {
                let mut out = [0; 16];
                // SAFETY: the caller's; the store is the sixteen bytes.
                unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), $pack(bytes)) };
                out
            }

            /// [`super::super::Dot::bytes`].
            ///
            /// # Safety
            ///
            /// The CPU has the instructions.
            #[inline(always)]
            pub(in super::super) unsafe fn bytes(sums: [$int; $count], scale: &[f32; 16], to: &Bounds) -> [u8; 16] {
                // SAFETY: the caller's.
                unsafe { pack(quantised(sums, scale, to)) }
            }

            /// [`super::super::Dot::bytes_plus`].
            ///
            /// # Safety
            ///
            /// The CPU has the instructions.
            #[inline(always)]
            pub(in super::super) unsafe fn bytes_plus(
                sums: [$int; $count],
                scale: &[f32; 16],
                to: &Bounds,
                other: &[u8; 16],
                added: &Added,
            ) -> [u8; 16] {
                // SAFETY: the caller's; the loads lie within the sixteen bytes.
                unsafe {
                    let mut bytes = quantised(sums, scale, to);
                    for i in 0..$count {
                        let other = $widen($load_bytes(other.as_ptr().add(i * 16 / $count).cast()));
                        let a = real(bytes[i], added.a_zero, added.a_scale);
                        let b = real(other, added.b_zero, added.b_scale);
                        bytes[i] = byte($add(a, b), &added.to);
                    }
                    pack(bytes)
                }
            }
        }
    };
}

bytes! {
    eight, "Eight lanes: AVX2.", 2, __m256i, __m256, _mm256_set1_ps, _mm256_set1_epi32, _mm256_loadu_ps,
    _mm256_max_ps, _mm256_min_ps, _mm256_add_ps, _mm256_mul_ps, _mm256_castps_si256, _mm256_add_epi32, _mm256_sub_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm_loadl_epi64, pack_eight
}
bytes! {
    sixteen, "Sixteen lanes: AVX-512F.", 1, __m512i, __m512, _mm512_set1_ps, _mm512_set1_epi32, _mm512_loadu_ps,
    _mm512_max_ps, _mm512_min_ps, _mm512_add_ps, _mm512_mul_ps, _mm512_castps_si512, _mm512_add_epi32, _mm512_sub_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm_loadu_si128, pack_sixteen
}
