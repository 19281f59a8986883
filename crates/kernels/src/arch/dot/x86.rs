//! Products of bytes on x86-64: exact in 16-bit pairs (AVX2), or four at a time (VNNI). The types below exist only after
//! detection, which is what every `unsafe` here rests on.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(unsafe_code, reason = "calls into code compiled for CPU features found at run time")]
#![allow(clippy::needless_range_loop, reason = "parts of several vectors are stepped side by side")]

use super::x86_bytes::{eight, sixteen};
use super::{Dot, DotKernel};
use crate::arch::x86::{Avx2, Avx512};
use crate::quant::{Added, Bounds};
use crate::tile::Heights;
use core::arch::x86_64::*;

/// Proof of AVX2. `VPMADDUBSW` would saturate, so bytes are widened and `VPMADDWD` multiplies: exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Madd(());

/// Proof of AVX2 and AVX-VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AvxVnni(());

/// Proof of AVX-512F, AVX-512 VNNI, and AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512Vnni(());

impl Madd {
    pub(super) fn detect() -> Option<Madd> {
        Avx2::detect().map(|_| Madd(()))
    }
}

impl AvxVnni {
    pub(super) fn detect() -> Option<AvxVnni> {
        Avx2::detect()?;
        let vnni = __cpuid_count(7, 0).eax >= 1 && __cpuid_count(7, 1).eax & (1 << 4) != 0;
        vnni.then_some(AvxVnni(()))
    }
}

impl Avx512Vnni {
    pub(super) fn detect() -> Option<Avx512Vnni> {
        Avx512::detect()?;
        let vnni = __cpuid_count(7, 0).ecx & (1 << 11) != 0;
        vnni.then_some(Avx512Vnni(()))
    }
}

#[inline(never)]
#[target_feature(enable = "avx2")]
fn run_madd<K: DotKernel>(set: Madd, kernel: K) -> K::Output {
    kernel.run(set)
}

#[inline(never)]
#[target_feature(enable = "avx2,avxvnni")]
fn run_avx_vnni<K: DotKernel>(set: AvxVnni, kernel: K) -> K::Output {
    kernel.run(set)
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512vnni,avx2")]
fn run_avx512_vnni<K: DotKernel>(set: Avx512Vnni, kernel: K) -> K::Output {
    kernel.run(set)
}

/// [`Dot::bytes`] and [`Dot::bytes_plus`] by vectors of the set's width.
macro_rules! finishing {
    ($width:ident) => {
        #[inline(always)]
        fn bytes(self, sums: Self::Sums, scale: &[f32; 16], to: &Bounds) -> [u8; 16] {
            // SAFETY: `self` proves the set.
            unsafe { $width::bytes(self.ordered(sums), scale, to) }
        }

        #[inline(always)]
        fn bytes_plus(
            self,
            sums: Self::Sums,
            scale: &[f32; 16],
            to: &Bounds,
            other: &[u8; 16],
            added: &Added,
        ) -> [u8; 16] {
            // SAFETY: `self` proves the set.
            unsafe { $width::bytes_plus(self.ordered(sums), scale, to, other, added) }
        }
    };
}

impl Madd {
    #[inline(always)]
    fn ordered(self, sums: [__m256i; 4]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2.
        core::array::from_fn(|half| unsafe {
            let both = _mm256_hadd_epi32(sums[2 * half], sums[2 * half + 1]);
            _mm256_permute4x64_epi64::<0b11_01_10_00>(both)
        })
    }
}

impl Dot for Madd {
    /// Quarter `q` holds sums `4 q .. 4 q + 4`, each as two halves side by side.
    type Sums = [__m256i; 4];
    type Weights = [__m256i; 4];
    // 8 accumulators, 4 registers of weights, 1 of input: 13 of 16.
    const HEIGHTS: Heights = Heights::new(&[1, 2]);
    const BLOCKS: usize = 1;

    #[inline(always)]
    fn start(self, values: &[i32; 16]) -> [__m256i; 4] {
        // SAFETY: `self` proves AVX2; the loads lie within the sixteen values.
        unsafe {
            let quarter = |q: usize| _mm256_cvtepu32_epi64(_mm_loadu_si128(values.as_ptr().add(4 * q).cast()));
            [quarter(0), quarter(1), quarter(2), quarter(3)]
        }
    }

    #[inline(always)]
    fn weights(self, bytes: &[u8; 64]) -> [__m256i; 4] {
        // SAFETY: `self` proves AVX2; the loads lie within the 64 bytes.
        unsafe {
            let quarter = |q: usize| _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.as_ptr().add(16 * q).cast()));
            [quarter(0), quarter(1), quarter(2), quarter(3)]
        }
    }

    #[inline(always)]
    fn dot(self, mut sums: [__m256i; 4], x: [u8; 4], w: [__m256i; 4]) -> [__m256i; 4] {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let x = _mm256_cvtepu8_epi16(_mm_set1_epi32(i32::from_le_bytes(x)));
            for q in 0..4 {
                sums[q] = _mm256_add_epi32(sums[q], _mm256_madd_epi16(x, w[q]));
            }
        }
        sums
    }

    #[inline(always)]
    fn multiply(self, sums: [__m256i; 4], x: &[u8; 16], w: &[u8; 16]) -> [__m256i; 4] {
        // SAFETY: `self` proves AVX2; the loads are the sixteen bytes.
        unsafe {
            let x = _mm256_cvtepu8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
            let w = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.as_ptr().cast()));
            // Each 16-bit product in the low half of 64 bits: the high halves multiply by zero.
            let part = |v: __m256i, q: usize| {
                let half = if q < 2 { _mm256_castsi256_si128(v) } else { _mm256_extracti128_si256::<1>(v) };
                _mm256_cvtepu16_epi64(if q.is_multiple_of(2) { half } else { _mm_srli_si128::<8>(half) })
            };
            let mut sums = sums;
            for q in 0..4 {
                sums[q] = _mm256_add_epi32(sums[q], _mm256_madd_epi16(part(x, q), part(w, q)));
            }
            sums
        }
    }

    #[inline(always)]
    fn finish(self, sums: [__m256i; 4]) -> [i32; 16] {
        let mut out = [0; 16];
        for (half, sums) in self.ordered(sums).into_iter().enumerate() {
            // SAFETY: `self` proves AVX2; the stores lie within the sixteen values.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(8 * half).cast(), sums) };
        }
        out
    }

    finishing!(eight);

    #[inline(always)]
    fn call<K: DotKernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` exists only where the CPU has AVX2.
        unsafe { run_madd(self, kernel) }
    }
}

impl AvxVnni {
    #[inline(always)]
    fn ordered(self, sums: [__m256i; 2]) -> [__m256i; 2] {
        sums
    }
}

impl Avx512Vnni {
    #[inline(always)]
    fn ordered(self, sums: [__m512i; 1]) -> [__m512i; 1] {
        sums
    }
}

/// What both VNNI sets share but for the width.
macro_rules! vnni {
    ($set:ty, $v:ty, $count:literal, $heights:expr, $blocks:literal, $run:ident, $width:ident,
     $load:ident, $store:ident, $splat:ident, $pairs:ident, $from_u8:ident, $from_i8:ident, $dot:ident) => {
        impl Dot for $set {
            type Sums = [$v; $count];
            type Weights = [$v; $count];
            const HEIGHTS: Heights = Heights::new(&$heights);
            const BLOCKS: usize = $blocks;

            #[inline(always)]
            fn start(self, values: &[i32; 16]) -> Self::Sums {
                // SAFETY: `self` proves the set; the loads lie within the sixteen values.
                core::array::from_fn(|i| unsafe { $load(values.as_ptr().add(i * 16 / $count).cast()) })
            }

            #[inline(always)]
            fn weights(self, bytes: &[u8; 64]) -> Self::Weights {
                // SAFETY: `self` proves the set; the loads lie within the 64 bytes.
                core::array::from_fn(|i| unsafe { $load(bytes.as_ptr().add(i * 64 / $count).cast()) })
            }

            #[inline(always)]
            fn dot(self, mut sums: Self::Sums, x: [u8; 4], w: Self::Weights) -> Self::Sums {
                for i in 0..$count {
                    // SAFETY: `self` proves the set.
                    sums[i] = unsafe { $dot(sums[i], $splat(i32::from_le_bytes(x)), w[i]) };
                }
                sums
            }

            #[inline(always)]
            fn multiply(self, mut sums: Self::Sums, x: &[u8; 16], w: &[u8; 16]) -> Self::Sums {
                for i in 0..$count {
                    // SAFETY: `self` proves the set; the loads read 16 bytes, or the 8 of one half.
                    unsafe {
                        let load = |bytes: &[u8; 16]| match $count {
                            1 => _mm_loadu_si128(bytes.as_ptr().cast()),
                            _ => _mm_loadl_epi64(bytes.as_ptr().add(8 * i).cast()),
                        };
                        // Both fit 16 bits, so the pair of 16-bit products is the product, and zero times the sign.
                        sums[i] = $pairs(sums[i], $from_u8(load(x)), $from_i8(load(w)));
                    }
                }
                sums
            }

            #[inline(always)]
            fn finish(self, sums: Self::Sums) -> [i32; 16] {
                let mut out = [0i32; 16];
                for i in 0..$count {
                    // SAFETY: `self` proves the set; the stores lie within the sixteen values.
                    unsafe { $store(out.as_mut_ptr().add(i * 16 / $count).cast(), sums[i]) };
                }
                out
            }

            finishing!($width);

            #[inline(always)]
            fn call<K: DotKernel>(self, kernel: K) -> K::Output {
                // SAFETY: `self` exists only where the CPU has the features of the function.
                unsafe { $run(self, kernel) }
            }
        }
    };
}

vnni! {
    AvxVnni, __m256i, 2, [1, 2, 3, 4, 5, 6], 1, run_avx_vnni, eight,
    _mm256_loadu_si256, _mm256_storeu_si256, _mm256_set1_epi32, _mm256_dpwssd_avx_epi32,
    _mm256_cvtepu8_epi32, _mm256_cvtepi8_epi32, _mm256_dpbusd_avx_epi32
}
vnni! {
    Avx512Vnni, __m512i, 1, [1, 2, 4, 6, 7, 8, 10, 13, 14], 2, run_avx512_vnni, sixteen,
    _mm512_loadu_si512, _mm512_storeu_si512, _mm512_set1_epi32, _mm512_dpwssd_epi32,
    _mm512_cvtepu8_epi32, _mm512_cvtepi8_epi32, _mm512_dpbusd_epi32
}
